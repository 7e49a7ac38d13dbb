//! The header fields of one message: a list of offsets into the head's text. Order, case and duplicates
//! survive; an edit appends to the text and changes the list.

use super::header_name::Name;
use super::http::bytes::{CONTROL, VALUE, past_text};
use super::http::write;

/// A place in a [`Headers`] text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Empty, at the beginning.
    pub const EMPTY: Span = Span { start: 0, len: 0 };

    /// `len` bytes from `start`. Texts are far below 4 GiB (heads are bounded), so the casts lose nothing.
    pub fn new(start: usize, len: usize) -> Span {
        Span { start: start as u32, len: len as u32 }
    }

    /// The bytes of `text` that this span names; empty if they are not all there.
    #[inline]
    pub fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start as usize..self.start as usize + self.len as usize).unwrap_or_default()
    }

    /// Offset of its first byte.
    pub fn start(self) -> usize {
        self.start as usize
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether it names no byte.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// One field: 20 bytes. An empty `name` stands for the usual spelling of `id`.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: Span,
    value: Span,
    id: Name,
}

impl Field {
    fn name<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        if self.name.is_empty() { self.id.text() } else { self.name.of(text) }
    }
}

/// An ordered list of header fields. [`clear`](Headers::clear) keeps the capacity, so that a connection uses one for all its messages
/// without allocating.
#[derive(Clone, Default, Debug)]
pub struct Headers {
    /// The head as received, then the names and values of later edits.
    text: Vec<u8>,
    list: Vec<Field>,
    /// The known names of the fields in the list: most lookups ask for what is not there.
    seen: NameSet,
    /// Names that were taken out, whether or not they were there. In most messages none.
    removed: Option<Box<Names>>,
}

impl Headers {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.list.clear();
        self.seen = NameSet::default();
        if let Some(removed) = &mut self.removed {
            removed.clear();
        }
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes of memory held, for the accounting of idle connections.
    pub fn capacity_bytes(&self) -> usize {
        let removed =
            self.removed.as_ref().map_or(0, |removed| size_of::<Names>() + removed.others.capacity());
        self.text.capacity() + self.list.capacity() * size_of::<Field>() + removed
    }

    /// The text that spans point into.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Appends bytes that belong to no field (a head, a target) and says where they are.
    pub fn append_text(&mut self, bytes: &[u8]) -> Span {
        let span = Span::new(self.text.len(), bytes.len());
        self.text.extend_from_slice(bytes);
        span
    }

    /// Appends `/` and the text of `path`, a query: the origin-form of `http://host?query`.
    pub(super) fn append_path(&mut self, path: Span) -> Span {
        let start = self.text.len();
        self.text.push(b'/');
        self.text.extend_from_within(path.start()..path.start() + path.len());
        Span::new(start, 1 + path.len())
    }

    /// Adds a field whose name and value stand in `text`, with which this text begins, or will.
    #[inline]
    pub fn push_span(&mut self, text: &[u8], name: Span, value: Span) {
        let id = Name::of(name.of(text));
        self.seen.insert(id);
        self.list.push(Field { name, value, id });
    }

    /// Gives the first field of a known name a value that is already in the text.
    pub(super) fn set_span(&mut self, name: Name, value: Span) {
        if let Some(field) = self.list.iter_mut().find(|field| field.id == name) {
            field.value = value;
        }
    }

    /// The first value of a known name.
    #[inline]
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        if !self.has(name) {
            return None;
        }
        let field = self.list.iter().find(|field| field.id == name)?;
        Some(field.value.of(&self.text))
    }

    /// The first value of the name spelled `name`, in any case.
    pub fn get_named(&self, name: &[u8]) -> Option<&[u8]> {
        self.get_wanted(Wanted::new(name))
    }

    /// [`get_named`](Headers::get_named) for a name that was looked at before.
    pub fn get_known(&self, name: &FieldName) -> Option<&[u8]> {
        self.get_wanted(name.wanted())
    }

    fn get_wanted(&self, wanted: Wanted) -> Option<&[u8]> {
        let first = self.first(wanted)?;
        Some(self.list[first].value.of(&self.text))
    }

    /// Where the first field of a name stands.
    fn first(&self, wanted: Wanted) -> Option<usize> {
        if wanted.id != Name::Other && !self.has(wanted.id) {
            return None;
        }
        self.list.iter().position(|field| wanted.is(field, &self.text))
    }

    /// Whether a field of this known name is there.
    #[inline]
    pub fn has(&self, name: Name) -> bool {
        self.seen.has(name)
    }

    /// Every value of a known name, in order.
    pub fn all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let list = if self.has(name) { &self.list[..] } else { &[] };
        list.iter().filter(move |field| field.id == name).map(|field| field.value.of(&self.text))
    }

    /// Where the values of a known name stand, in order.
    pub(super) fn spans(&self, name: Name) -> impl Iterator<Item = Span> {
        self.list.iter().filter(move |field| field.id == name).map(|field| field.value)
    }

    /// Every value of the name spelled `name`, in any case, in order.
    pub fn all_named<'a>(&'a self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        let wanted = Wanted::new(name);
        self.list
            .iter()
            .filter(move |field| wanted.is(field, &self.text))
            .map(|field| field.value.of(&self.text))
    }

    /// Every field in order: its name as written, its value, and its id.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8], Name)> {
        self.list.iter().map(|field| (field.name(&self.text), field.value.of(&self.text), field.id))
    }

    /// Appends every field whose name is not in `left_out` to `out`, as lines. Fields that stand behind each other in
    /// the text as they came, which is most of a message, are copied together, line ends and all.
    pub fn write(&self, left_out: NameSet, out: &mut Vec<u8>) {
        let text = &self.text[..];
        let mut run = 0..0;
        for field in &self.list {
            if left_out.has(field.id) {
                continue;
            }
            let (start, value) = (field.name.start(), field.value.start());
            let as_it_came = text.get(start + field.name.len()..value) == Some(b": ");
            if as_it_came && !run.is_empty() && text.get(run.end..start) == Some(b"\r\n") {
                run.end = value + field.value.len();
                continue;
            }
            write_run(text, std::mem::replace(&mut run, 0..0), out);
            match as_it_came {
                true => run = start..value + field.value.len(),
                false => write::header(out, field.name(text), field.value.of(text)),
            }
        }
        write_run(text, run, out);
    }

    /// Whether a comma-separated list of this name has the token, in any case (RFC 9110 section 5.6.1).
    pub fn contains_token(&self, name: Name, token: &[u8]) -> bool {
        self.all(name).any(|value| has_token(value, token))
    }

    /// Appends a field. A name above 65,535 bytes or with bytes that no name may have, and a value with CR, LF or NUL,
    /// would change what follows on the wire: such a field is not added, and the answer is false.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> bool {
        let id = Name::of(name);
        if !is_name(name, id) || !is_value(value) {
            return false;
        }
        self.push(name, value, id);
        true
    }

    /// [`add`](Headers::add) for a whole field that was looked at before.
    pub fn add_line(&mut self, line: &FieldLine) {
        let field = self.append_known(line);
        self.push_field(field);
    }

    /// Appends a field that is known to be one.
    fn push(&mut self, name: &[u8], value: &[u8], id: Name) {
        let field = self.append_line(name, value, id);
        self.push_field(field);
    }

    fn push_field(&mut self, field: Field) {
        self.seen.insert(field.id);
        self.list.push(field);
    }

    /// Appends the text of a field as it goes on the wire, so that [`write`](Headers::write) copies it in one piece.
    fn append_line(&mut self, name: &[u8], value: &[u8], id: Name) -> Field {
        let start = self.text.len();
        write::header(&mut self.text, name, value);
        let value = Span::new(start + name.len() + b": ".len(), value.len());
        Field { name: Span::new(start, name.len()), value, id }
    }

    /// The same for a whole field.
    fn append_known(&mut self, line: &FieldLine) -> Field {
        let start = self.text.len();
        self.text.extend_from_slice(&line.text);
        let value = Span::new(start + line.value_at, line.text.len() - b"\r\n".len() - line.value_at);
        Field { name: Span::new(start, line.name().len()), value, id: line.id }
    }

    /// Moves all fields of `other` behind these. What is in a list was checked when it came there.
    pub fn append(&mut self, other: &mut Headers) {
        let moved = |span: Span, by: usize| Span::new(span.start() + by, span.len());
        let by = self.text.len();
        self.text.append(&mut other.text);
        self.list.extend(other.list.drain(..).map(|field| Field {
            name: if field.name.is_empty() { Span::EMPTY } else { moved(field.name, by) },
            value: moved(field.value, by),
            id: field.id,
        }));
        self.seen.insert_all(std::mem::take(&mut other.seen));
        if let Some(theirs) = other.removed.take() {
            self.removed.get_or_insert_default().join(*theirs);
        }
    }

    /// Makes the first value of a known name longer by `suffix`, if that may stand in a value.
    pub fn lengthen(&mut self, name: Name, suffix: &[u8]) {
        if !is_value(suffix) {
            return;
        }
        let Some(field) = self.list.iter_mut().find(|field| field.id == name) else { return };
        let start = self.text.len();
        self.text.extend_from_within(field.value.start()..field.value.start() + field.value.len());
        self.text.extend_from_slice(suffix);
        field.value = Span::new(start, self.text.len() - start);
    }

    /// [`set`](Headers::set) for a known name in its usual spelling, and a value that is known to be one: what the gateway writes into
    /// every message. A field that is new costs little more than the copy of its value.
    #[inline]
    pub fn put(&mut self, name: Name, value: &[u8]) {
        debug_assert!(name != Name::Other && is_value(value));
        let value = self.append_text(value);
        let new = Field { name: Span::EMPTY, value, id: name };
        if !self.has(name) {
            return self.push_field(new);
        }
        let mut same = (0..self.list.len()).filter(|&at| self.list[at].id == name);
        let (first, second) = (same.next(), same.next());
        drop(same);
        if let Some(first) = first {
            self.list[first] = new;
        }
        if let Some(second) = second {
            let mut at = 0;
            self.list.retain(|field| {
                at += 1;
                at <= second || field.id != name
            });
        }
    }

    /// Gives the name exactly one value, at the place of its first field if it had one. False, and
    /// nothing is changed, where [`add`](Headers::add) would refuse.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        let wanted = Wanted::new(name);
        is_name(name, wanted.id) && self.set_wanted(wanted, value)
    }

    /// [`set`](Headers::set) for a name that was looked at before.
    pub fn set_known(&mut self, name: &FieldName, value: &[u8]) -> bool {
        name.valid && self.set_wanted(name.wanted(), value)
    }

    /// [`set`](Headers::set) for a known name in its usual spelling.
    pub fn set_name(&mut self, name: Name, value: &[u8]) -> bool {
        self.set_wanted(Wanted { id: name, text: name.text() }, value)
    }

    /// [`set_known`](Headers::set_known) of a value that is known to be one.
    pub fn put_known(&mut self, name: &FieldName, value: &[u8]) {
        debug_assert!(is_value(value));
        if name.valid {
            let field = self.append_line(&name.text, value, name.id);
            self.place(name.wanted(), field);
        }
    }

    /// [`set`](Headers::set) for a whole field that was looked at before.
    pub fn set_line(&mut self, line: &FieldLine) {
        let field = self.append_known(line);
        self.place(Wanted { id: line.id, text: line.name() }, field);
    }

    fn set_wanted(&mut self, wanted: Wanted, value: &[u8]) -> bool {
        if !is_value(value) {
            return false;
        }
        let field = self.append_line(wanted.text, value, wanted.id);
        self.place(wanted, field);
        true
    }

    /// Makes `field` the only one of its name.
    fn place(&mut self, wanted: Wanted, field: Field) {
        let Some(first) = self.first(wanted) else { return self.push_field(field) };
        self.list[first] = field;
        let mut at = 0;
        self.list.retain(|field| {
            at += 1;
            at - 1 <= first || !wanted.is(field, &self.text)
        });
    }

    /// Removes every field of a known name.
    pub fn remove(&mut self, name: Name) {
        self.removed.get_or_insert_default().known.insert(name);
        if self.has(name) {
            self.list.retain(|field| field.id != name);
            self.seen.remove(name);
        }
    }

    /// Removes every field of the name spelled `name`, in any case.
    pub fn remove_named(&mut self, name: &[u8]) {
        let wanted = Wanted::new(name);
        if wanted.id != Name::Other {
            return self.remove(wanted.id);
        }
        self.removed.get_or_insert_default().add(name);
        self.list.retain(|field| !wanted.is(field, &self.text));
    }

    /// Names that were taken out: what comes later under one of them is not wanted either.
    pub fn removed(&self) -> &Names {
        static NONE: Names = Names { known: NameSet::of(&[]), others: Vec::new() };
        self.removed.as_deref().unwrap_or(&NONE)
    }

    /// Keeps the fields for which `keep` (name as written, value, id) is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8], Name) -> bool) {
        let mut seen = NameSet::default();
        self.list.retain(|field| {
            let kept = keep(field.name(&self.text), field.value.of(&self.text), field.id);
            if kept {
                seen.insert(field.id);
            }
            kept
        });
        self.seen = seen;
    }
}

/// Appends lines that stand in `text` as they came, and the end of the last.
fn write_run(text: &[u8], run: std::ops::Range<usize>, out: &mut Vec<u8>) {
    if !run.is_empty() {
        out.extend_from_slice(text.get(run).unwrap_or_default());
        out.extend_from_slice(b"\r\n");
    }
}

/// A set of known names, a bit for each; [`Name::Other`] is in no set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameSet([u64; 2]);

const _: () = assert!(Name::COUNT < 128, "a set has a bit for each name");

impl NameSet {
    /// These names.
    pub const fn of(names: &[Name]) -> NameSet {
        let (mut set, mut at) = (NameSet([0; 2]), 0);
        while at < names.len() {
            set.insert(names[at]);
            at += 1;
        }
        set
    }

    /// The set with one name more.
    pub const fn with(mut self, name: Name) -> NameSet {
        self.insert(name);
        self
    }

    const fn insert(&mut self, name: Name) {
        if !matches!(name, Name::Other) {
            self.0[name as usize / 64] |= 1 << (name as usize % 64);
        }
    }

    fn insert_all(&mut self, other: NameSet) {
        self.0[0] |= other.0[0];
        self.0[1] |= other.0[1];
    }

    fn remove(&mut self, name: Name) {
        self.0[name as usize / 64] &= !(1 << (name as usize % 64));
    }

    fn has(&self, name: Name) -> bool {
        self.0[name as usize / 64] >> (name as usize % 64) & 1 != 0
    }
}

/// Names of fields, of any spelling.
#[derive(Clone, Default, Debug)]
pub struct Names {
    known: NameSet,
    /// The others, each with a line end, which no name has.
    others: Vec<u8>,
}

impl Names {
    /// Those of the fields that are in a list, and of those that were taken out of it.
    pub fn of(headers: &Headers) -> Names {
        let mut names = headers.removed().clone();
        names.known.insert_all(headers.seen);
        let others = headers.iter().filter(|(_, _, id)| *id == Name::Other);
        others.for_each(|(name, _, _)| names.add(name));
        names
    }

    /// One more.
    pub fn add(&mut self, name: &[u8]) {
        match Name::of(name) {
            Name::Other => {
                self.others.extend_from_slice(name);
                self.others.push(b'\n');
            }
            known => self.known.insert(known),
        }
    }

    /// Whether a name, in any case, is one of them.
    pub fn has(&self, name: &[u8]) -> bool {
        match Name::of(name) {
            Name::Other => self.others.split(|b| *b == b'\n').any(|other| other.eq_ignore_ascii_case(name)),
            known => self.known.has(known),
        }
    }

    fn join(&mut self, mut other: Names) {
        self.known.insert_all(other.known);
        self.others.append(&mut other.others);
    }

    fn clear(&mut self) {
        self.known = NameSet::default();
        self.others.clear();
    }
}

/// A name that is written into many messages, checked and recognised once.
#[derive(Clone, Debug)]
pub struct FieldName {
    text: Box<[u8]>,
    id: Name,
    valid: bool,
}

impl FieldName {
    /// Of any text. Where it is no name, fields of it are not set.
    pub fn new(text: &[u8]) -> FieldName {
        let id = Name::of(text);
        FieldName { text: text.into(), id, valid: is_name(text, id) }
    }

    /// As it was given.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { id: self.id, text: &self.text }
    }
}

/// A whole field that is written into many messages, checked once: its line as it goes on the wire.
#[derive(Clone, Debug)]
pub struct FieldLine {
    text: Box<[u8]>,
    value_at: usize,
    id: Name,
}

impl FieldLine {
    /// `None` where [`Headers::add`] would refuse.
    pub fn new(name: &[u8], value: &[u8]) -> Option<FieldLine> {
        let id = Name::of(name);
        let mut text = Vec::new();
        write::header(&mut text, name, value);
        let line = FieldLine { text: text.into(), value_at: name.len() + b": ".len(), id };
        (is_name(name, id) && is_value(value)).then_some(line)
    }

    fn name(&self) -> &[u8] {
        &self.text[..self.value_at - b": ".len()]
    }
}

/// A name that is looked for: its id settles known names, its text the others.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    id: Name,
    text: &'a [u8],
}

impl<'a> Wanted<'a> {
    fn new(text: &'a [u8]) -> Self {
        Wanted { id: Name::of(text), text }
    }

    #[inline]
    fn is(&self, field: &Field, text: &[u8]) -> bool {
        let same_text =
            || field.name.len() == self.text.len() && field.name.of(text).eq_ignore_ascii_case(self.text);
        field.id == self.id && (self.id != Name::Other || same_text())
    }
}

/// Whether a comma-separated list has the token, in any case.
pub fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&b| b == b',').any(|part| trim_blanks(part).eq_ignore_ascii_case(token))
}

/// Without the spaces and tabs at both ends (OWS, RFC 9110 section 5.6.3).
pub fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether these bytes may stand as a field name that we write: visible ASCII without a colon. Known names are.
fn is_name(name: &[u8], id: Name) -> bool {
    id != Name::Other
        || (!name.is_empty()
            && name.len() <= u16::MAX as usize
            && name.iter().fold(true, |good, &b| good & NAME_BYTES[usize::from(b)]))
}

const NAME_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut b = 0x21;
    while b < 0x7f {
        bytes[b] = b != b':' as usize;
        b += 1;
    }
    bytes
};

/// Whether these bytes may stand as a field value that we write: all but CR, LF and NUL.
fn is_value(value: &[u8]) -> bool {
    match value.len() < LONG_VALUE {
        true => past_text(value, 0, VALUE | CONTROL) == value.len(),
        false => memchr::memchr3(b'\r', b'\n', 0, value).is_none(),
    }
}

/// Where a search by vectors begins to cost less than eight bytes at a time, bytes.
const LONG_VALUE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in fields {
            assert!(headers.add(name.as_bytes(), value.as_bytes()));
        }
        headers
    }

    fn written(headers: &Headers) -> String {
        let line = |(name, value, _): (&[u8], &[u8], Name)| [name, b": ", value, b"\n"].concat();
        String::from_utf8(headers.iter().flat_map(line).collect()).unwrap()
    }

    #[test]
    fn a_put_field_has_one_value_at_the_place_of_the_first() {
        let mut fields =
            headers(&[("server", "a"), ("X", "1"), ("Server", "b"), ("Y", "2"), ("SERVER", "c")]);
        fields.put(Name::Server, b"ours");
        assert_eq!(written(&fields), "Server: ours\nX: 1\nY: 2\n");
        fields.put(Name::Date, b"now");
        fields.put(Name::Date, b"later");
        assert_eq!(written(&fields), "Server: ours\nX: 1\nY: 2\nDate: later\n");
        assert_eq!(fields.get(Name::Date), Some(b"later".as_slice()));
    }

    #[test]
    fn order_case_and_duplicates_survive() {
        let headers =
            headers(&[("hOST", "a"), ("X-B", "1"), ("Cookie", "c=1"), ("x-b", "2"), ("cookie", "d=2")]);
        assert_eq!(written(&headers), "hOST: a\nX-B: 1\nCookie: c=1\nx-b: 2\ncookie: d=2\n");
        assert_eq!(headers.get(Name::Host), Some(&b"a"[..]));
        assert_eq!(headers.get(Name::Te), None);
        assert_eq!(headers.get_named(b"x-B"), Some(&b"1"[..]));
        assert_eq!(headers.all_named(b"X-B").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(headers.all(Name::Cookie).collect::<Vec<_>>(), [b"c=1", b"d=2"]);
    }

    #[test]
    fn set_replaces_all_at_the_first_place() {
        let mut headers = headers(&[("a", "1"), ("Via", "x"), ("A", "2"), ("via", "y"), ("b", "3")]);
        assert!(headers.set(b"via", b"z"));
        assert!(headers.set(b"A", b"9"));
        assert!(headers.set_known(&FieldName::new(b"new"), b"n"));
        assert_eq!(written(&headers), "A: 9\nvia: z\nb: 3\nnew: n\n");
        headers.add(b"B", b"4");
        headers.set_line(&FieldLine::new(b"B", b"5").unwrap());
        headers.put_known(&FieldName::new(b"new"), b"");
        headers.add_line(&FieldLine::new(b"via", b"y").unwrap());
        headers.set_line(&FieldLine::new(b"Via", b"z").unwrap());
        assert_eq!(written(&headers), "A: 9\nVia: z\nB: 5\nnew: \n");
        headers.set_line(&FieldLine::new(b"b", b"3").unwrap());
        headers.set(b"new", b"n");
        headers.remove(Name::Via);
        headers.remove_named(b"NEW");
        assert_eq!(written(&headers), "A: 9\nb: 3\n");
        assert!(!headers.has(Name::Via));
        headers.retain(|name, _, _| name != b"A");
        assert_eq!(written(&headers), "b: 3\n");
    }

    #[test]
    fn what_would_split_a_message_is_not_written() {
        let mut headers = headers(&[("a", "1")]);
        for (name, value) in
            [("", "v"), ("a b", "v"), ("a:", "v"), ("a\r\nb", "v"), ("a", "v\r\nx: y"), ("a", "\0")]
        {
            assert!(!headers.add(name.as_bytes(), value.as_bytes()), "{name:?} {value:?}");
            assert!(!headers.set(name.as_bytes(), value.as_bytes()), "{name:?} {value:?}");
            let known = FieldName::new(name.as_bytes());
            assert!(!headers.set_known(&known, value.as_bytes()), "{name:?} {value:?}");
            assert!(FieldLine::new(name.as_bytes(), value.as_bytes()).is_none(), "{name:?} {value:?}");
            if value == "v" {
                headers.put_known(&known, b"v");
            }
        }
        for bad in ["\r", "\n", "\0"] {
            let long = format!("{}{bad}{}", "a".repeat(LONG_VALUE), "b".repeat(9));
            assert!(!headers.add(b"a", long.as_bytes()), "{bad:?}");
        }
        assert_eq!(written(&headers), "a: 1\n");
    }

    #[test]
    fn tokens_are_found_in_lists_of_several_fields() {
        let headers = headers(&[
            ("Connection", "foo ,\tKeep-Alive"),
            ("connection", "Upgrade"),
            ("TE", "trailers;q=1"),
        ]);
        for (name, token, there) in [
            (Name::Connection, "keep-alive", true),
            (Name::Connection, "upgrade", true),
            (Name::Connection, "keep", false),
            (Name::Te, "trailers", false),
        ] {
            assert_eq!(headers.contains_token(name, token.as_bytes()), there, "{token}");
        }
    }

    #[test]
    fn what_is_written_is_every_field_but_those_left_out_edited_or_not() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nTE: x\r\nB:2\r\nC: 3  \r\nD: \r\nE: 5\r\n\r\n";
        let mut headers = Headers::default();
        headers.append_text(head);
        for line in [(16, 4, 22, 1), (25, 1, 28, 1), (31, 2, 35, 1), (38, 1, 40, 1), (43, 1, 46, 1)] {
            headers.push_span(head, Span::new(line.0, line.1), Span::new(line.2, line.3));
        }
        headers.push_span(head, Span::new(51, 1), Span::new(54, 0));
        headers.push_span(head, Span::new(56, 1), Span::new(59, 1));
        assert!(headers.add(b"X", b"ab"));
        headers.put(Name::Server, b"s");
        let written = |headers: &Headers, left_out: &[Name]| {
            let mut out = Vec::new();
            headers.write(NameSet::of(left_out), &mut out);
            String::from_utf8(out).unwrap()
        };
        let tail = "B: 2\r\nC: 3\r\nD: \r\nE: 5\r\nX: ab\r\nServer: s\r\n";
        assert_eq!(written(&headers, &[]), format!("Host: h\r\nA: 1\r\nTE: x\r\n{tail}"));
        assert_eq!(written(&headers, &[Name::Te, Name::Host]), format!("A: 1\r\n{tail}"));
        assert!(headers.set(b"A", b"9"));
        headers.lengthen(Name::Te, b"; q");
        assert_eq!(written(&headers, &[]), format!("Host: h\r\nA: 9\r\nTE: x; q\r\n{tail}"));
    }

    #[test]
    fn appended_fields_are_the_same_as_before() {
        let mut fields = headers(&[("a", "1")]);
        let mut early = headers(&[("X-Y", "2"), ("via", "3")]);
        early.put(Name::Date, b"now");
        fields.append(&mut early);
        assert_eq!(written(&fields), "a: 1\nX-Y: 2\nvia: 3\nDate: now\n");
        assert!(fields.has(Name::Via) && fields.has(Name::Date) && fields.get_named(b"x-y") == Some(b"2"));
        assert!(early.is_empty() && !early.has(Name::Via));
    }

    #[test]
    fn known_names_are_found_as_long_as_a_field_of_theirs_is_there() {
        let mut fields = headers(&[("via", "1"), ("a", "1"), ("via", "2"), ("Date", "now")]);
        fields.add_line(&FieldLine::new(b"server", b"s").unwrap());
        assert_eq!(fields.get(Name::Server), Some(&b"s"[..]));
        assert!(fields.set_name(Name::Via, b"3") && !fields.set_name(Name::Via, b"4\n"));
        assert_eq!(written(&fields), "Via: 3\na: 1\nDate: now\nserver: s\n");
        fields.retain(|_, _, id| id != Name::Date);
        assert!(fields.has(Name::Via) && !fields.has(Name::Date));
        for name in Name::known() {
            let mut set = NameSet::of(&[name]);
            assert!(Name::known().all(|other| set.has(other) == (other == name)), "{name:?}");
            set.remove(name);
            assert_eq!(set, NameSet::default(), "{name:?}");
        }
        assert_eq!(NameSet::of(&[Name::Other]), NameSet::default());
    }

    #[test]
    fn clear_keeps_memory() {
        let mut headers = headers(&[("a", "1"), ("Host", "h")]);
        let held = headers.capacity_bytes();
        headers.clear();
        assert!(headers.is_empty() && !headers.has(Name::Host) && headers.get_named(b"a").is_none());
        assert_eq!(headers.capacity_bytes(), held);
        assert_eq!(size_of::<Field>(), 20);
    }
}
