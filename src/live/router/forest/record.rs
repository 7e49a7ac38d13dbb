//! What a record says: a branch, or leaves.
//!
//! ```text
//! branch  label length u8 | slots present u8 | children u16 | label | a byte per child | slots u32… | children u32…
//! leaves  label length u8 | LEAVES        u8 | keys u16     | label | leaves… | tails
//! leaf    first 8 bytes u64 | value u32 | end of its tail u16 | length and slot u8 | 0
//! ```
//!
//! A label is what all keys below begin with. The byte that leads to a child is kept by the parent and is in no
//! label. Leaves are in the order of their lengths.

use smallvec::SmallVec;

use super::Slot;

/// A longer label is a chain of branches with one child each.
pub const LABEL_MAX: usize = 255;
/// Keys of one record: comparing so many words costs less than one step to another record.
pub const LEAVES_MAX: usize = 24;
/// Bytes of a key after the label of its record; longer ones go below a branch.
pub const SUFFIX_MAX: usize = 127;
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
/// The largest record, bytes.
pub const RECORD_MAX: usize = if BRANCH_BYTES > LEAVES_BYTES { BRANCH_BYTES } else { LEAVES_BYTES };

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

/// A record, split into its parts.
pub enum Node<'a> {
    /// A branch.
    Branch(Branch<'a>),
    /// Leaves.
    Leaves(Leaves<'a>),
}

/// A record with others below it.
pub struct Branch<'a> {
    slots: u8,
    /// What all keys below begin with.
    pub label: &'a [u8],
    edges: &'a [u8],
    /// Slots present, then children.
    words: &'a [u8],
}

impl<'a> Node<'a> {
    /// Of a record, behind which other bytes may follow.
    #[inline]
    pub fn read(record: &'a [u8]) -> Node<'a> {
        let (head, record) = record.split_at(HEAD);
        let (label, record) = record.split_at(head[0] as usize);
        let count = u16::from_le_bytes([head[2], head[3]]) as usize;
        if head[1] == LEAVES {
            let (leaves, tails) = record.split_at(LEAF * count);
            return Node::Leaves(Leaves { label, leaves: leaves.as_chunks().0, tails });
        }
        let (edges, words) = record.split_at(count);
        Node::Branch(Branch { slots: head[1], label, edges, words })
    }

    fn label(&self) -> &'a [u8] {
        match self {
            Node::Branch(Branch { label, .. }) | Node::Leaves(Leaves { label, .. }) => label,
        }
    }

    /// Bytes of its record.
    fn length(&self) -> usize {
        match self {
            Node::Branch(branch) => branch.place_of_child(branch.edges.len()),
            Node::Leaves(Leaves { label, leaves, .. }) => {
                let tails = leaves.last().map_or(0, |last| Leaf::read(last).end);
                HEAD + label.len() + LEAF * leaves.len() + tails
            }
        }
    }
}

/// `record`, and what follows it, alone and with `before` in front of its label. `None`: that is too long for a label.
pub fn with_longer_label(record: &[u8], before: &[u8]) -> Option<Vec<u8>> {
    let node = Node::read(record);
    let label = [before, node.label()].concat();
    let length = u8::try_from(label.len()).ok()?;
    let rest = &record[HEAD + node.label().len()..node.length()];
    Some([&[length][..], &record[1..HEAD], &label, rest].concat())
}

impl Branch<'_> {
    /// The value of its own key.
    #[inline]
    pub fn slot(&self, slot: Slot) -> Option<u32> {
        match slot {
            Slot::Exact => (self.slots & 1 != 0).then(|| word(self.words, 0)),
            Slot::Prefix => (self.slots & 2 != 0).then(|| word(self.words, (self.slots & 1) as usize)),
        }
    }

    /// The record of a child.
    #[inline]
    pub fn child(&self, at: usize) -> u32 {
        word(self.words, self.slots.count_ones() as usize + at)
    }

    /// Where in the record a child's number is.
    pub fn place_of_child(&self, at: usize) -> usize {
        HEAD + self.label.len() + self.edges.len() + 4 * (self.slots.count_ones() as usize + at)
    }

    /// The child to which this byte leads.
    #[inline]
    pub fn edge(&self, byte: u8) -> Option<usize> {
        match self.edges.len() {
            0..=8 => self.edges.iter().position(|&edge| edge == byte),
            _ => memchr::memchr(byte, self.edges),
        }
    }
}

/// A record of keys side by side.
pub struct Leaves<'a> {
    /// What all of them begin with.
    pub label: &'a [u8],
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
    pub fn scan(&self, rest: &[u8], mut found: impl FnMut(Slot, u32, usize)) {
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

    /// Its keys, whole.
    pub fn keys(&self) -> Vec<Key> {
        let key = |bytes| {
            let leaf = Leaf::read(bytes);
            let mut text = SmallVec::from_slice(self.label);
            text.extend_from_slice(&leaf.first.to_le_bytes()[..leaf.length.min(WORD)]);
            text.extend_from_slice(self.tail(&leaf));
            Key { text, slot: leaf.slot, value: leaf.value }
        };
        self.leaves.iter().map(key).collect()
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

#[inline]
fn word(words: &[u8], at: usize) -> u32 {
    let bytes = &words[4 * at..4 * at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A branch being changed.
#[derive(Default)]
pub struct Draft {
    /// What all keys below begin with.
    pub label: Vec<u8>,
    /// The value of its own key for requests that equal it.
    pub exact: Option<u32>,
    /// The same for those that begin with it.
    pub prefix: Option<u32>,
    /// The bytes that lead to the children.
    pub edges: Vec<u8>,
    /// The children's records.
    pub children: Vec<u32>,
}

impl Draft {
    /// As it is now.
    pub fn of(branch: &Branch) -> Draft {
        Draft {
            label: branch.label.to_vec(),
            exact: branch.slot(Slot::Exact),
            prefix: branch.slot(Slot::Prefix),
            edges: branch.edges.to_vec(),
            children: (0..branch.edges.len()).map(|at| branch.child(at)).collect(),
        }
    }

    /// The value of its own key.
    pub fn slot(&mut self, slot: Slot) -> &mut Option<u32> {
        match slot {
            Slot::Exact => &mut self.exact,
            Slot::Prefix => &mut self.prefix,
        }
    }

    /// Its own key has no value.
    pub fn is_bare(&self) -> bool {
        self.exact.is_none() && self.prefix.is_none()
    }

    /// Its record.
    pub fn bytes(&self) -> Vec<u8> {
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
pub struct Key {
    /// Most are short: a change of one key takes up to [`LEAVES_MAX`] of them apart.
    pub text: SmallVec<[u8; 40]>,
    /// Which of its two values.
    pub slot: Slot,
    /// The value.
    pub value: u32,
}

/// Leaves of these keys without their first `from` bytes; the next `label` bytes are the same in all.
pub fn leaves_bytes(keys: &[&Key], from: usize, label: usize) -> Vec<u8> {
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

/// What of `text` follows the label.
#[inline]
pub fn strip_prefix<'t>(text: &'t [u8], label: &[u8]) -> Option<&'t [u8]> {
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
