//! Radix trees, many in one arena: one per host, and one of hosts themselves.
//!
//! What a match waits for is memory: each step to a node that is not in the cache costs as much as hundreds of
//! instructions. So there are few steps. Up to [`LEAVES_MAX`] keys lie side by side in one record and are found
//! by comparing words, which the processor reads all at once; only where more keys begin alike does a branch
//! stand above them:
//!
//! ```text
//! branch  label length u8 | slots present u8 | children u16 | label | a byte per child | slots u32… | children u32…
//! leaves  label length u8 | LEAVES        u8 | keys u16     | label | leaves… | tails
//! leaf    first 8 bytes u64 | value u32 | end of its tail u16 | length and slot u8 | 0
//! ```
//!
//! A label is what all keys below begin with. The byte that leads to a child is kept by the parent and is in no
//! label. Leaves are in the order of their lengths. Records are made of 16-byte granules and never move by themselves: growing costs one
//! chunk, never a copy of the table, and a change writes one record and the pointer to it. A chunk has records of
//! one size; when all of them are free it serves any size, so that what grew leaves no holes behind.

use smallvec::SmallVec;

/// The root of a tree; [`Root::EMPTY`] has no node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root(u32);

impl Root {
    /// A tree without keys.
    pub const EMPTY: Root = Root(NONE);

    /// Whether it has no keys.
    pub fn is_empty(self) -> bool {
        self == Root::EMPTY
    }
}

/// The two values that a key may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Slot {
    /// For requests that equal the key.
    Exact,
    /// For requests that begin with the key.
    Prefix,
}

const NONE: u32 = u32::MAX;
const GRANULE: usize = 16;
const CHUNK: usize = 16 * 1024;
const CHUNK_GRANULES: usize = CHUNK / GRANULE;
/// A longer label is a chain of branches with one child each.
const LABEL_MAX: usize = 255;
/// Keys of one record: comparing so many words costs less than one step to another record.
const LEAVES_MAX: usize = 24;
/// Bytes of a key after the label of its record; longer ones go below a branch.
const SUFFIX_MAX: usize = 127;
/// In a record's second byte: it is one of leaves.
const LEAVES: u8 = 0x80;
/// In the byte of a leaf's length: its slot.
const IS_PREFIX: u8 = 0x80;
/// The first bytes of a suffix, which are compared as one number.
const WORD: usize = 8;
/// What a leaf takes besides its tail.
const LEAF: usize = 16;
const HEAD: usize = 4;
const BRANCH_BYTES: usize = HEAD + LABEL_MAX + 256 + 2 * 4 + 256 * 4;
const LEAVES_BYTES: usize = HEAD + LABEL_MAX + LEAVES_MAX * (LEAF + SUFFIX_MAX - WORD);
const RECORD_MAX: usize = if BRANCH_BYTES > LEAVES_BYTES { BRANCH_BYTES } else { LEAVES_BYTES };
const SIZES: usize = RECORD_MAX.div_ceil(GRANULE) + 1;

/// The bits of a word that a suffix of this length has.
const MASKS: [u64; WORD + 1] = {
    let mut masks = [u64::MAX; WORD + 1];
    let mut length = 0;
    while length < WORD {
        masks[length] = (1 << (8 * length)) - 1;
        length += 1;
    }
    masks
};

/// The arena.
#[derive(Debug)]
pub struct Forest {
    chunks: Vec<Chunk>,
    /// Chunks with room, by the size of their records in granules. One that has been emptied meanwhile, and
    /// perhaps serves another size, is passed over.
    open: Vec<Vec<u32>>,
    /// Chunks without records.
    empty: Vec<u32>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    /// Granules of each of its records; 0 while it has none.
    size: usize,
    records: usize,
    /// Granules from here on were never used.
    fresh: usize,
    /// First freed record; its first 4 bytes lead to the next.
    free: u32,
}

impl Chunk {
    fn has_room(&self) -> bool {
        self.free != NONE || self.fresh + self.size <= CHUNK_GRANULES
    }
}

/// A record, split into its parts.
enum Node<'a> {
    Branch(Branch<'a>),
    Leaves(Leaves<'a>),
}

struct Branch<'a> {
    slots: u8,
    label: &'a [u8],
    edges: &'a [u8],
    /// Slots present, then children.
    words: &'a [u8],
}

impl Branch<'_> {
    #[inline]
    fn slot(&self, slot: Slot) -> Option<u32> {
        match slot {
            Slot::Exact => (self.slots & 1 != 0).then(|| word(self.words, 0)),
            Slot::Prefix => (self.slots & 2 != 0).then(|| word(self.words, (self.slots & 1) as usize)),
        }
    }

    #[inline]
    fn child(&self, at: usize) -> u32 {
        word(self.words, self.slots.count_ones() as usize + at)
    }

    #[inline]
    fn edge(&self, byte: u8) -> Option<usize> {
        match self.edges.len() {
            0..=8 => self.edges.iter().position(|&edge| edge == byte),
            _ => memchr::memchr(byte, self.edges),
        }
    }
}

struct Leaves<'a> {
    label: &'a [u8],
    leaves: &'a [[u8; LEAF]],
    tails: &'a [u8],
}

/// A leaf, read.
struct Leaf {
    first: u64,
    value: u32,
    /// Where its tail ends; it begins where the one before ends.
    end: usize,
    slot: Slot,
    length: usize,
}

impl Leaf {
    #[inline]
    fn read(bytes: &[u8; LEAF]) -> Leaf {
        let [a, b, c, d, e, f, g, h, v0, v1, v2, v3, e0, e1, length, _] = *bytes;
        Leaf {
            first: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            value: u32::from_le_bytes([v0, v1, v2, v3]),
            end: u16::from_le_bytes([e0, e1]).into(),
            slot: if length & IS_PREFIX != 0 { Slot::Prefix } else { Slot::Exact },
            length: (length & !IS_PREFIX).into(),
        }
    }

    fn bytes(&self) -> [u8; LEAF] {
        let [a, b, c, d, e, f, g, h] = self.first.to_le_bytes();
        let [v0, v1, v2, v3] = self.value.to_le_bytes();
        let [e0, e1] = (self.end as u16).to_le_bytes();
        let length = self.length as u8 | if self.slot == Slot::Prefix { IS_PREFIX } else { 0 };
        [a, b, c, d, e, f, g, h, v0, v1, v2, v3, e0, e1, length, 0]
    }
}

impl<'a> Leaves<'a> {
    /// What of a suffix is not in its first word.
    #[inline]
    fn tail(&self, leaf: &Leaf) -> &'a [u8] {
        &self.tails[leaf.end - leaf.length.saturating_sub(WORD)..leaf.end]
    }

    /// Gives `found` each key that `rest` begins with, the shortest first: its slot, value and length.
    #[inline]
    fn scan(&self, rest: &[u8], mut found: impl FnMut(Slot, u32, usize)) {
        let first = first_word(rest);
        // All are compared before the first is looked at: which of them fits is nothing a processor can foresee.
        let mut fits = 0u32;
        for (at, leaf) in self.leaves.iter().enumerate() {
            let Leaf { first: word, length, .. } = Leaf::read(leaf);
            fits |= u32::from((word ^ first) & MASKS[length.min(WORD)] == 0) << at;
        }
        while fits != 0 {
            let leaf = Leaf::read(&self.leaves[fits.trailing_zeros() as usize]);
            fits &= fits - 1;
            let begins = || leaf.length <= WORD || starts_with(&rest[WORD..], self.tail(&leaf));
            if leaf.length <= rest.len() && begins() {
                found(leaf.slot, leaf.value, leaf.length);
            }
        }
    }
}

/// The first bytes of a text, zeros after its end.
#[inline]
fn first_word(text: &[u8]) -> u64 {
    if let Some(first) = text.first_chunk::<WORD>() {
        return u64::from_le_bytes(*first);
    }
    text.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fn word(words: &[u8], at: usize) -> u32 {
    let bytes = &words[4 * at..4 * at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A branch being changed.
#[derive(Default)]
struct Draft {
    label: Vec<u8>,
    exact: Option<u32>,
    prefix: Option<u32>,
    edges: Vec<u8>,
    children: Vec<u32>,
}

impl Draft {
    fn of(branch: &Branch) -> Draft {
        Draft {
            label: branch.label.to_vec(),
            exact: branch.slot(Slot::Exact),
            prefix: branch.slot(Slot::Prefix),
            edges: branch.edges.to_vec(),
            children: (0..branch.edges.len()).map(|at| branch.child(at)).collect(),
        }
    }

    fn slot(&mut self, slot: Slot) -> &mut Option<u32> {
        match slot {
            Slot::Exact => &mut self.exact,
            Slot::Prefix => &mut self.prefix,
        }
    }

    fn is_bare(&self) -> bool {
        self.exact.is_none() && self.prefix.is_none()
    }

    fn bytes(&self) -> Vec<u8> {
        let slots = u8::from(self.exact.is_some()) | u8::from(self.prefix.is_some()) << 1;
        let mut record = vec![self.label.len() as u8, slots];
        record.extend_from_slice(&(self.edges.len() as u16).to_le_bytes());
        record.extend_from_slice(&self.label);
        record.extend_from_slice(&self.edges);
        let slots = [self.exact, self.prefix].into_iter().flatten();
        record.extend(slots.chain(self.children.iter().copied()).flat_map(u32::to_le_bytes));
        record
    }
}

/// A key of leaves being changed: what follows the way to their record, and its value.
struct Key {
    /// Most are short: a change of one key takes up to [`LEAVES_MAX`] of them apart.
    text: SmallVec<[u8; 40]>,
    slot: Slot,
    value: u32,
}

/// Leaves of these keys without their first `from` bytes; the next `label` bytes are the same in all.
fn leaves_bytes(keys: &[&Key], from: usize, label: usize) -> Vec<u8> {
    let mut record = vec![label as u8, LEAVES];
    record.extend_from_slice(&(keys.len() as u16).to_le_bytes());
    record.extend_from_slice(&keys[0].text[from..from + label]);
    let mut sorted: Vec<(&[u8], Slot, u32)> =
        keys.iter().map(|key| (&key.text[from + label..], key.slot, key.value)).collect();
    sorted.sort_unstable_by_key(|(suffix, slot, _)| (suffix.len(), *suffix, *slot));
    let tail = |suffix: &'_ [u8]| suffix.len().saturating_sub(WORD);
    let mut end = 0;
    for &(suffix, slot, value) in &sorted {
        end += tail(suffix);
        let leaf = Leaf { first: first_word(suffix), value, end, slot, length: suffix.len() };
        record.extend_from_slice(&leaf.bytes());
    }
    sorted.iter().for_each(|(suffix, ..)| record.extend_from_slice(&suffix[suffix.len() - tail(suffix)..]));
    record
}

impl Default for Forest {
    fn default() -> Forest {
        Forest { chunks: Vec::new(), open: vec![Vec::new(); SIZES], empty: Vec::new() }
    }
}

impl Forest {
    /// The value of `key` itself.
    pub fn get(&self, root: Root, key: &[u8], slot: Slot) -> Option<u32> {
        let mut at_end = None;
        let exact = self.walk(root, key, |value, length| at_end = (length == key.len()).then_some(value));
        match slot {
            Slot::Exact => exact,
            Slot::Prefix => at_end,
        }
    }

    /// Walks down along `path`: `prefix(value, length)` gets each [`Slot::Prefix`] value on the way, the
    /// shortest key first; the answer is the [`Slot::Exact`] value of `path`.
    #[inline]
    pub fn walk(&self, root: Root, path: &[u8], mut prefix: impl FnMut(u32, usize)) -> Option<u32> {
        let (mut id, mut rest) = (root.0, path);
        if id == NONE {
            return None;
        }
        loop {
            match self.node(id) {
                Node::Leaves(leaves) => {
                    rest = strip_prefix(rest, leaves.label)?;
                    let (above, mut exact) = (path.len() - rest.len(), None);
                    leaves.scan(rest, |slot, value, length| match slot {
                        Slot::Prefix => prefix(value, above + length),
                        Slot::Exact if length == rest.len() => exact = Some(value),
                        Slot::Exact => {}
                    });
                    return exact;
                }
                Node::Branch(branch) => {
                    rest = strip_prefix(rest, branch.label)?;
                    if let Some(value) = branch.slot(Slot::Prefix) {
                        prefix(value, path.len() - rest.len());
                    }
                    let Some((&byte, below)) = rest.split_first() else { return branch.slot(Slot::Exact) };
                    id = branch.child(branch.edge(byte)?);
                    rest = below;
                }
            }
        }
    }

    /// Sets a value of `key`, and gives the one that it had.
    pub fn set(&mut self, root: &mut Root, key: &[u8], slot: Slot, value: u32) -> Option<u32> {
        let (mut link, mut id, mut rest) = (None, root.0, key);
        loop {
            let new_key = || Key { text: rest.into(), slot, value };
            if id == NONE {
                let leaves = self.build(&[&new_key()], 0);
                self.relink(root, link, leaves);
                return None;
            }
            let branch = match self.node(id) {
                Node::Branch(branch) => branch,
                Node::Leaves(leaves) => {
                    let mut keys = self.keys(&leaves);
                    let before = set_in(&mut keys, new_key());
                    self.release(id);
                    let new = self.build(&keys.iter().collect::<Vec<_>>(), 0);
                    self.relink(root, link, new);
                    return before;
                }
            };
            let common = common_length(branch.label, rest);
            let whole = common == branch.label.len();
            if let (true, Some(byte)) = (whole, rest.get(common))
                && let Some(at) = branch.edge(*byte)
            {
                (link, id, rest) = (Some((id, at)), branch.child(at), &rest[common + 1..]);
                continue;
            }
            let mut draft = Draft::of(&branch);
            self.release(id);
            if !whole {
                draft = self.split(draft, common);
            }
            let mut before = None;
            match rest.get(common) {
                None => before = draft.slot(slot).replace(value),
                Some(&byte) => {
                    draft.edges.push(byte);
                    draft.children.push(self.build(&[&new_key()], common + 1));
                }
            }
            let new = self.store(&draft.bytes());
            self.relink(root, link, new);
            return before;
        }
    }

    /// Removes a value of `key`, with the nodes that nothing needs any more, and gives it.
    pub fn clear(&mut self, root: &mut Root, key: &[u8], slot: Slot) -> Option<u32> {
        let (mut links, mut id, mut rest) = (Vec::new(), root.0, key);
        let (value, mut draft) = loop {
            if id == NONE {
                return None;
            }
            match self.node(id) {
                Node::Branch(branch) => {
                    rest = rest.strip_prefix(branch.label)?;
                    let Some((byte, below)) = rest.split_first() else {
                        let mut draft = Draft::of(&branch);
                        break (draft.slot(slot).take()?, draft);
                    };
                    let at = branch.edge(*byte)?;
                    links.push((id, at));
                    (id, rest) = (branch.child(at), below);
                }
                Node::Leaves(leaves) => {
                    let mut keys = self.keys(&leaves);
                    let at = keys.iter().position(|known| *known.text == *rest && known.slot == slot)?;
                    let value = keys.swap_remove(at).value;
                    if keys.is_empty() {
                        break (value, Draft::default());
                    }
                    self.release(id);
                    let new = self.build(&keys.iter().collect::<Vec<_>>(), 0);
                    self.relink(root, links.last().copied(), new);
                    return Some(value);
                }
            }
        };
        self.release(id);
        while draft.is_bare() && draft.children.is_empty() {
            let Some((parent, at)) = links.pop() else {
                *root = Root::EMPTY;
                return Some(value);
            };
            let Node::Branch(branch) = self.node(parent) else { return Some(value) };
            draft = Draft::of(&branch);
            self.release(parent);
            draft.edges.remove(at);
            draft.children.remove(at);
        }
        let new = self.joined(&draft).unwrap_or_else(|| self.store(&draft.bytes()));
        self.relink(root, links.last().copied(), new);
        Some(value)
    }

    /// A subtree of these keys without their first `from` bytes, in which they are all alike.
    fn build(&mut self, keys: &[&Key], from: usize) -> u32 {
        let first = &keys[0].text[from..];
        let shared = keys.iter().map(|key| common_length(first, &key.text[from..])).min().unwrap_or(0);
        let shared = shared.min(LABEL_MAX);
        if keys.len() <= LEAVES_MAX && keys.iter().all(|key| key.text.len() - from - shared <= SUFFIX_MAX) {
            return self.store(&leaves_bytes(keys, from, shared));
        }
        let mut draft = Draft { label: first[..shared].to_vec(), ..Draft::default() };
        let mut below: Vec<&Key> = Vec::with_capacity(keys.len());
        for key in keys {
            match key.text.len() == from + shared {
                true => *draft.slot(key.slot) = Some(key.value),
                false => below.push(key),
            }
        }
        let byte = |key: &Key| key.text[from + shared];
        below.sort_by_key(|key| byte(key));
        for alike in below.chunk_by(|a, b| byte(a) == byte(b)) {
            draft.edges.push(byte(alike[0]));
            draft.children.push(self.build(alike, from + shared + 1));
        }
        self.store(&draft.bytes())
    }

    /// The keys of a record of leaves, whole.
    fn keys(&self, leaves: &Leaves) -> Vec<Key> {
        let key = |bytes| {
            let leaf = Leaf::read(bytes);
            let mut text = SmallVec::from_slice(leaves.label);
            text.extend_from_slice(&leaf.first.to_le_bytes()[..leaf.length.min(WORD)]);
            text.extend_from_slice(leaves.tail(&leaf));
            Key { text, slot: leaf.slot, value: leaf.value }
        };
        leaves.leaves.iter().map(key).collect()
    }

    /// A branch with the first `common` bytes of the label, above one with what follows.
    fn split(&mut self, mut draft: Draft, common: usize) -> Draft {
        let below = draft.label.split_off(common);
        let top = std::mem::take(&mut draft.label);
        draft.label = below[1..].to_vec();
        let child = self.store(&draft.bytes());
        Draft { label: top, edges: vec![below[0]], children: vec![child], ..Draft::default() }
    }

    /// A branch without values and with one child becomes that child, with a longer label.
    fn joined(&mut self, draft: &Draft) -> Option<u32> {
        let ([edge], [child], true) = (&*draft.edges, &*draft.children, draft.is_bare()) else { return None };
        let mut label = draft.label.clone();
        label.push(*edge);
        let mut record = match self.node(*child) {
            Node::Branch(Branch { label: below, .. }) | Node::Leaves(Leaves { label: below, .. }) => {
                label.extend_from_slice(below);
                self.bytes(*child).to_vec()
            }
        };
        let below = usize::from(std::mem::replace(&mut record[0], u8::try_from(label.len()).ok()?));
        record.splice(HEAD..HEAD + below, label);
        self.release(*child);
        Some(self.store(&record))
    }

    /// Lets what led to a node lead to `id`.
    fn relink(&mut self, root: &mut Root, link: Option<(u32, usize)>, id: u32) {
        let Some((parent, at)) = link else {
            *root = Root(id);
            return;
        };
        let Node::Branch(branch) = self.node(parent) else { return };
        let word = branch.slots.count_ones() as usize + at;
        let from = HEAD + branch.label.len() + branch.edges.len() + 4 * word;
        self.record_mut(parent)[from..from + 4].copy_from_slice(&id.to_le_bytes());
    }

    #[inline]
    fn node(&self, id: u32) -> Node<'_> {
        let (head, record) = self.record(id).split_at(HEAD);
        let (label, record) = record.split_at(head[0] as usize);
        let count = u16::from_le_bytes([head[2], head[3]]) as usize;
        if head[1] == LEAVES {
            let (leaves, tails) = record.split_at(LEAF * count);
            return Node::Leaves(Leaves { label, leaves: leaves.as_chunks().0, tails });
        }
        let (edges, words) = record.split_at(count);
        Node::Branch(Branch { slots: head[1], label, edges, words })
    }

    /// The record and what follows it in its chunk.
    #[inline]
    fn record(&self, id: u32) -> &[u8] {
        let id = id as usize;
        &self.chunks[id / CHUNK_GRANULES].bytes[id % CHUNK_GRANULES * GRANULE..]
    }

    fn record_mut(&mut self, id: u32) -> &mut [u8] {
        let id = id as usize;
        &mut self.chunks[id / CHUNK_GRANULES].bytes[id % CHUNK_GRANULES * GRANULE..]
    }

    /// The record alone.
    fn bytes(&self, id: u32) -> &[u8] {
        let length = match self.node(id) {
            Node::Branch(Branch { slots, label, edges, .. }) => {
                HEAD + label.len() + edges.len() + 4 * (slots.count_ones() as usize + edges.len())
            }
            Node::Leaves(leaves) => {
                let tails = leaves.leaves.last().map_or(0, |last| Leaf::read(last).end);
                HEAD + leaves.label.len() + LEAF * leaves.leaves.len() + tails
            }
        };
        &self.record(id)[..length]
    }

    fn store(&mut self, record: &[u8]) -> u32 {
        let id = self.reserve(record.len().div_ceil(GRANULE));
        self.record_mut(id)[..record.len()].copy_from_slice(record);
        id
    }

    /// A free record of this size.
    fn reserve(&mut self, size: usize) -> u32 {
        let at = self.with_room(size);
        let chunk = &mut self.chunks[at as usize];
        let mut id = chunk.free;
        if id == NONE {
            id = at * CHUNK_GRANULES as u32 + chunk.fresh as u32;
            chunk.fresh += size;
        } else {
            chunk.free = word(&chunk.bytes[id as usize % CHUNK_GRANULES * GRANULE..], 0);
        }
        chunk.records += 1;
        if !chunk.has_room() {
            self.open[size].pop();
        }
        id
    }

    /// A chunk with room for a record of this size, which is the last of its open ones.
    fn with_room(&mut self, size: usize) -> u32 {
        while let Some(&at) = self.open[size].last() {
            let chunk = &self.chunks[at as usize];
            if chunk.size == size && chunk.has_room() {
                return at;
            }
            self.open[size].pop();
        }
        let at = self.empty.pop().unwrap_or_else(|| {
            let bytes = vec![0; CHUNK].into_boxed_slice();
            self.chunks.push(Chunk { bytes, size: 0, records: 0, fresh: 0, free: NONE });
            self.chunks.len() as u32 - 1
        });
        self.chunks[at as usize].size = size;
        self.open[size].push(at);
        at
    }

    fn release(&mut self, id: u32) {
        let at = id / CHUNK_GRANULES as u32;
        let chunk = &mut self.chunks[at as usize];
        chunk.records -= 1;
        if chunk.records == 0 {
            (chunk.size, chunk.fresh, chunk.free) = (0, 0, NONE);
            self.empty.push(at);
            return;
        }
        if !chunk.has_room() {
            self.open[chunk.size].push(at);
        }
        let next = std::mem::replace(&mut chunk.free, id);
        self.record_mut(id)[..4].copy_from_slice(&next.to_le_bytes());
    }
}

/// Puts a key in the place of its equal, or beside the others; gives the value that it had.
fn set_in(keys: &mut Vec<Key>, new: Key) -> Option<u32> {
    match keys.iter_mut().find(|known| known.slot == new.slot && known.text == new.text) {
        Some(known) => Some(std::mem::replace(&mut known.value, new.value)),
        None => {
            keys.push(new);
            None
        }
    }
}

#[inline]
fn strip_prefix<'t>(text: &'t [u8], label: &[u8]) -> Option<&'t [u8]> {
    starts_with(text, label).then(|| &text[label.len()..])
}

/// As `slice::starts_with`, without its call: labels are a few bytes.
#[inline]
fn starts_with(text: &[u8], label: &[u8]) -> bool {
    let Some((text, _)) = text.split_at_checked(label.len()) else { return false };
    let (text_words, text_rest) = text.as_chunks::<8>();
    let (label_words, label_rest) = label.as_chunks::<8>();
    text_words == label_words && text_rest.iter().zip(label_rest).all(|(a, b)| a == b)
}

fn common_length(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn walks_the_prefixes_of_a_path() {
        let (mut forest, mut root) = (Forest::default(), Root::EMPTY);
        for (value, key) in ["/", "/api/", "/api/v1/", "/apix", "/b"].into_iter().enumerate() {
            assert_eq!(forest.set(&mut root, key.as_bytes(), Slot::Prefix, value as u32), None);
        }
        forest.set(&mut root, b"/api/v1/users", Slot::Exact, 9);
        let walk = |path: &[u8]| {
            let mut seen = Vec::new();
            let exact = forest.walk(root, path, |value, length| seen.push((value, length)));
            (seen, exact)
        };
        assert_eq!(walk(b"/api/v1/users"), (vec![(0, 1), (1, 5), (2, 8)], Some(9)));
        assert_eq!(walk(b"/api/v1/usersx"), (vec![(0, 1), (1, 5), (2, 8)], None));
        assert_eq!(walk(b"/api"), (vec![(0, 1)], None));
        assert_eq!(walk(b""), (vec![], None));
        assert_eq!(walk(b"x"), (vec![], None));
    }

    /// Against a map: random keys of few letters and of great lengths come and go; what remains is found,
    /// and when all have gone so have all nodes.
    #[test]
    fn agrees_with_a_map() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut forest, mut root, mut map) = (Forest::default(), Root::EMPTY, BTreeMap::new());
        let slots = [Slot::Exact, Slot::Prefix];
        for round in 0..30_000u32 {
            let letters = if random.u32(0..10) == 0 { 256 } else { 3 };
            let length = if random.u32(0..10) == 0 { random.usize(0..1500) } else { random.usize(0..8) };
            let key: Vec<u8> = (0..length).map(|_| b'a'.wrapping_add(random.u32(0..letters) as u8)).collect();
            let slot = random.usize(0..2);
            if random.u32(0..5) < 3 {
                let before = forest.set(&mut root, &key, slots[slot], round);
                assert_eq!(before, map.insert((key, slot), round));
            } else {
                let known = map.range((key, slot)..).next().map(|(known, _)| known.clone());
                let Some((key, slot)) = known else { continue };
                assert_eq!(forest.clear(&mut root, &key, slots[slot]), map.remove(&(key.clone(), slot)));
                assert_eq!(forest.clear(&mut root, &key, slots[slot]), None);
            }
        }
        assert!(map.len() > 1000);
        for ((key, slot), value) in &map {
            assert_eq!(forest.get(root, key, slots[*slot]), Some(*value));
        }
        let chunks = forest.chunks.len();
        for ((key, slot), value) in &map {
            assert_eq!(forest.clear(&mut root, key, slots[*slot]), Some(*value));
        }
        assert!(root.is_empty());
        assert_eq!(forest.empty.len(), forest.chunks.len());
        for ((key, slot), value) in &map {
            forest.set(&mut root, key, slots[*slot], *value);
        }
        assert!(forest.chunks.len() <= chunks + 1, "freed records are used again");
    }
}
