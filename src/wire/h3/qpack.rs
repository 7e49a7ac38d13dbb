//! Field sections (RFC 9204) without the dynamic table: the peer is given none, and uses none of ours. So a section
//! stands for itself, waits for nothing, and its memory is bounded by its own bytes.

use std::ops::Range;

use super::huffman;
use super::static_table::{self, FIELDS, Found};

/// What a field counts beside its bytes (RFC 9114 section 4.2.2).
const FIELD_OVERHEAD: usize = 32;

/// Why a section cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// It is no section, or one that refers to a dynamic table.
    Malformed,
    /// Its fields are more than we have said that we take.
    TooLarge,
}

/// The fields of a section in their order.
#[derive(Default, Debug)]
pub struct FieldSection {
    text: Vec<u8>,
    fields: Vec<(Range<usize>, Range<usize>)>,
}

impl FieldSection {
    /// Reads a section whose fields count no more than `most` (RFC 9114 section 4.2.2).
    ///
    /// # Errors
    /// See [`Broken`].
    pub fn decode(section: &[u8], most: usize) -> Result<FieldSection, Broken> {
        let mut rest = section;
        let inserted = integer(&mut rest, 8)?;
        integer(&mut rest, 7)?; // the base, which nothing refers to
        if inserted != 0 {
            return Err(Broken::Malformed);
        }
        let mut read = FieldSection::default();
        let mut left = most;
        while let Some(first) = rest.first().copied() {
            let from = read.text.len();
            let name = match first {
                // an indexed field: the whole of it
                0xc0.. => {
                    let (name, value) = fixed(&mut rest, 6)?;
                    read.text.extend_from_slice(name.as_bytes());
                    read.text.extend_from_slice(value.as_bytes());
                    read.push(from, from + name.len(), &mut left)?;
                    continue;
                }
                // a literal with an indexed name
                0x50..=0x5f | 0x70..=0x7f => {
                    let (name, _) = fixed(&mut rest, 4)?;
                    read.text.extend_from_slice(name.as_bytes());
                    from + name.len()
                }
                // a literal with a literal name
                0x20..=0x3f => {
                    string(&mut rest, 3, left, &mut read.text)?;
                    read.text.len()
                }
                // the dynamic table
                _ => return Err(Broken::Malformed),
            };
            string(&mut rest, 7, left, &mut read.text)?;
            read.push(from, name, &mut left)?;
        }
        Ok(read)
    }

    /// The text from `from` on is a field, its name ends at `name`.
    fn push(&mut self, from: usize, name: usize, left: &mut usize) -> Result<(), Broken> {
        let to = self.text.len();
        *left = left.checked_sub(to - from + FIELD_OVERHEAD).ok_or(Broken::TooLarge)?;
        self.fields.push((from..name, name..to));
        Ok(())
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (&self.text[name.clone()], &self.text[value.clone()]))
    }
}

/// A field of the static table by its index.
fn fixed(rest: &mut &[u8], prefix: u32) -> Result<(&'static str, &'static str), Broken> {
    let index = integer(rest, prefix)?;
    usize::try_from(index).ok().and_then(|index| FIELDS.get(index)).copied().ok_or(Broken::Malformed)
}

/// An integer whose first byte has it in its `prefix` low bits (RFC 7541 section 5.1). No more than 32 bits.
pub(super) fn integer(rest: &mut &[u8], prefix: u32) -> Result<u64, Broken> {
    let (first, mut more) = rest.split_first().ok_or(Broken::Malformed)?;
    let mask = (1u64 << prefix) - 1;
    let mut value = u64::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, after) = more.split_first().ok_or(Broken::Malformed)?;
            more = after;
            value += u64::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                break;
            }
            if shift > 28 {
                return Err(Broken::Malformed);
            }
        }
    }
    *rest = more;
    Ok(value)
}

/// A string: the bit above its length says whether it is Huffman coded.
fn string(rest: &mut &[u8], prefix: u32, most: usize, out: &mut Vec<u8>) -> Result<(), Broken> {
    let coded = rest.first().is_some_and(|first| first >> prefix & 1 == 1);
    let length = usize::try_from(integer(rest, prefix)?).map_err(|_| Broken::Malformed)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Broken::Malformed)?;
    *rest = after;
    if !coded {
        if length > most {
            return Err(Broken::TooLarge);
        }
        out.extend_from_slice(bytes);
        return Ok(());
    }
    // no code is longer than 30 bits
    if length * 8 / 30 > most {
        return Err(Broken::TooLarge);
    }
    let from = out.len();
    match huffman::decode(bytes, most + 1, out) {
        Ok(()) if out.len() - from <= most => Ok(()),
        _ if out.len() - from > most => Err(Broken::TooLarge),
        _ => Err(Broken::Malformed),
    }
}

/// Begins a section that is to be sent.
pub fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]); // no dynamic table
}

/// Appends a field; its name is sent in lower case, as it must be.
pub fn encode(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let mut lower = [0; 64];
    let long;
    let name = match lower.get_mut(..name.len()) {
        Some(lower) => {
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            &*lower
        }
        None => {
            long = name.to_ascii_lowercase();
            &long
        }
    };
    match static_table::find(name, value) {
        Some(Found::Field(index)) => return put_integer(0xc0, 6, index, out),
        Some(Found::Name(index)) => put_integer(0x50, 4, index, out),
        None => {
            put_integer(0x20, 3, name.len(), out);
            out.extend_from_slice(name);
        }
    }
    put_integer(0, 7, value.len(), out);
    out.extend_from_slice(value);
}

fn put_integer(mark: u8, prefix: u32, value: usize, out: &mut Vec<u8>) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        return out.push(mark | value as u8);
    }
    out.push(mark | mask as u8);
    let mut rest = value - mask;
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(section: &[u8]) -> Result<Vec<(String, String)>, Broken> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(FieldSection::decode(section, 1000)?.iter().map(|(n, v)| (text(n), text(v))).collect())
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let long = "v".repeat(300);
        let fields = [
            (":status", "200"),
            (":status", "418"),
            ("content-type", "text/html; charset=utf-8"),
            ("content-length", "12345"),
            ("x-own", "1"),
            ("x-frame-options", "sameorigin"),
            ("x-frame-options", ""),
            ("x-long", &long),
        ];
        let mut section = Vec::new();
        begin(&mut section);
        fields.iter().for_each(|(name, value)| {
            encode(name.to_uppercase().as_bytes(), value.as_bytes(), &mut section);
        });
        let expected: Vec<_> = fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(decoded(&section), Ok(expected));
        assert_eq!(&section[..3], [0, 0, 0xc0 | 25], "`:status: 200` is one byte");
    }

    #[test]
    fn indexed_names_and_huffman() {
        // RFC 9204 appendix B.1: `:path: /index.html`
        let section = [0, 0, 0x51, 0x0b, 0x2f, 0x69, 0x6e, 0x64, 0x65, 0x78, 0x2e, 0x68, 0x74, 0x6d, 0x6c];
        assert_eq!(decoded(&section), Ok(vec![(":path".into(), "/index.html".into())]));
        // `302` in Huffman code as the value of a literal name `a`
        assert_eq!(decoded(&[0, 0, 0x21, b'a', 0x82, 0x64, 0x02]), Ok(vec![("a".into(), "302".into())]));
        // and the name too
        assert_eq!(decoded(&[0, 0, 0x2a, 0x64, 0x02, 1, b'x']), Ok(vec![("302".into(), "x".into())]));
    }

    #[test]
    fn broken_sections() {
        for section in [
            &[][..],
            &[0],
            &[1, 0],                   // waits for an insertion
            &[0, 0, 0x80],             // dynamic index
            &[0, 0, 0x40, 0],          // dynamic name
            &[0, 0, 0x10],             // post-base index
            &[0, 0, 0x00, 0],          // post-base name
            &[0, 0, 0xff, 0x25],       // beyond the static table
            &[0, 0, 0x51],             // no value
            &[0, 0, 0x51, 5, b'a'],    // shorter than it says
            &[0, 0, 0x2a, 0xff, 0xff], // no Huffman code
            &[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(decoded(section), Err(Broken::Malformed), "{section:?}");
        }
    }

    #[test]
    fn sections_are_bounded_by_what_they_become() {
        let many = [&[0, 0][..], &[0xc0 | 25; 30]].concat(); // each of 1 byte counts 42
        assert_eq!(decoded(&many), Err(Broken::TooLarge));
        let mut long = vec![0, 0, 0x21, b'a'];
        put_integer(0, 7, 2000, &mut long);
        long.resize(long.len() + 2000, b'v');
        assert_eq!(decoded(&long), Err(Broken::TooLarge));
        let coded = [&[0, 0, 0x21, b'a', 0xff, 0x81, 0x04][..], &[0; 640]].concat(); // 1,024 letters of five bits
        assert_eq!(decoded(&coded), Err(Broken::TooLarge));
    }
}
