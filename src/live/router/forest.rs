//! Radix trees, many in one arena: one per host, and one of hosts themselves.
//!
//! A node is one record of bytes, 16 for a typical leaf, so that a step down the tree is one cache line:
//!
//! ```text
//! label length u8 | slots present u8 | children u16 | label | a byte per child | slots u32… | children u32…
//! ```
//!
//! The byte that leads to a child is kept by the parent and is not in the child's label. Records are made of
//! 16-byte granules of 64 KiB chunks and never move by themselves: growing costs one chunk, never a copy of
//! the table, and a change writes one node and the pointer to it. Freed records wait in a list per size.

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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// For requests that equal the key.
    Exact,
    /// For requests that begin with the key.
    Prefix,
}

const NONE: u32 = u32::MAX;
const GRANULE: usize = 16;
const CHUNK: usize = 64 * 1024;
const CHUNK_GRANULES: usize = CHUNK / GRANULE;
/// A longer label is a chain of nodes with one child each.
const LABEL_MAX: usize = 255;
/// The largest record: the longest label, 256 children, both slots.
const RECORD_MAX: usize = 4 + LABEL_MAX + 256 + 2 * 4 + 256 * 4;
const SIZES: usize = RECORD_MAX.div_ceil(GRANULE) + 1;

/// The arena.
#[derive(Debug)]
pub struct Forest {
    chunks: Vec<Box<[u8]>>,
    /// Granules used of the last chunk.
    used: usize,
    /// First freed record of each size in granules; its first 4 bytes lead to the next.
    free: [u32; SIZES],
}

/// A record, split into its parts.
struct Node<'a> {
    slots: u8,
    label: &'a [u8],
    edges: &'a [u8],
    /// Slots present, then children.
    words: &'a [u8],
}

impl Node<'_> {
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

fn word(words: &[u8], at: usize) -> u32 {
    let bytes = &words[4 * at..4 * at + 4];
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A node being changed.
#[derive(Default)]
struct Draft {
    label: Vec<u8>,
    exact: Option<u32>,
    prefix: Option<u32>,
    edges: Vec<u8>,
    children: Vec<u32>,
}

impl Draft {
    fn slot(&mut self, slot: Slot) -> &mut Option<u32> {
        match slot {
            Slot::Exact => &mut self.exact,
            Slot::Prefix => &mut self.prefix,
        }
    }

    fn is_bare(&self) -> bool {
        self.exact.is_none() && self.prefix.is_none()
    }

    fn granules(&self) -> usize {
        let words =
            self.children.len() + usize::from(self.exact.is_some()) + usize::from(self.prefix.is_some());
        (4 + self.label.len() + self.edges.len() + 4 * words).div_ceil(GRANULE)
    }

    fn write(&self, record: &mut [u8]) {
        let slots = u8::from(self.exact.is_some()) | u8::from(self.prefix.is_some()) << 1;
        record[0] = self.label.len() as u8;
        record[1] = slots;
        record[2..4].copy_from_slice(&(self.edges.len() as u16).to_le_bytes());
        let words = [self.exact, self.prefix].into_iter().flatten().chain(self.children.iter().copied());
        let bytes = self.label.iter().chain(&self.edges).copied().chain(words.flat_map(u32::to_le_bytes));
        record[4..].iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }
}

impl Default for Forest {
    fn default() -> Forest {
        Forest { chunks: Vec::new(), used: CHUNK_GRANULES, free: [NONE; SIZES] }
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
            let node = self.node(id);
            if !starts_with(rest, node.label) {
                return None;
            }
            rest = &rest[node.label.len()..];
            if let Some(value) = node.slot(Slot::Prefix) {
                prefix(value, path.len() - rest.len());
            }
            let Some((&byte, below)) = rest.split_first() else { return node.slot(Slot::Exact) };
            id = node.child(node.edge(byte)?);
            rest = below;
        }
    }

    /// Sets a value of `key`, and gives the one that it had.
    pub fn set(&mut self, root: &mut Root, key: &[u8], slot: Slot, value: u32) -> Option<u32> {
        let (mut link, mut id, mut rest) = (None, root.0, key);
        loop {
            if id == NONE {
                let leaf = self.leaf(rest, slot, value);
                self.relink(root, link, leaf);
                return None;
            }
            let node = self.node(id);
            let common = common_length(node.label, rest);
            let whole = common == node.label.len();
            if let (true, Some(byte)) = (whole, rest.get(common))
                && let Some(at) = node.edge(*byte)
            {
                (link, id, rest) = (Some((id, at)), node.child(at), &rest[common + 1..]);
                continue;
            }
            let mut draft = self.draft(id);
            if !whole {
                draft = self.split(draft, common);
            }
            let mut before = None;
            match rest[common..].split_first() {
                None => before = draft.slot(slot).replace(value),
                Some((&byte, rest)) => {
                    draft.edges.push(byte);
                    draft.children.push(self.leaf(rest, slot, value));
                }
            }
            let new = self.rewrite(id, &draft);
            self.relink(root, link, new);
            return before;
        }
    }

    /// Removes a value of `key`, with the nodes that nothing needs any more, and gives it.
    pub fn clear(&mut self, root: &mut Root, key: &[u8], slot: Slot) -> Option<u32> {
        let (mut links, mut id, mut rest) = (Vec::new(), root.0, key);
        loop {
            if id == NONE {
                return None;
            }
            let node = self.node(id);
            rest = rest.strip_prefix(node.label)?;
            let Some((byte, below)) = rest.split_first() else { break };
            let at = node.edge(*byte)?;
            links.push((id, at));
            (id, rest) = (node.child(at), below);
        }
        let mut draft = self.draft(id);
        let value = draft.slot(slot).take()?;
        while draft.is_bare() && draft.children.is_empty() {
            self.release(id);
            let Some((parent, at)) = links.pop() else {
                *root = Root::EMPTY;
                return Some(value);
            };
            (id, draft) = (parent, self.draft(parent));
            draft.edges.remove(at);
            draft.children.remove(at);
        }
        self.join_only_child(&mut draft);
        let new = self.rewrite(id, &draft);
        self.relink(root, links.last().copied(), new);
        Some(value)
    }

    /// A node with the first `common` bytes of the label, above one with what follows.
    fn split(&mut self, mut draft: Draft, common: usize) -> Draft {
        let below = draft.label.split_off(common);
        let top = std::mem::take(&mut draft.label);
        draft.label = below[1..].to_vec();
        let child = self.store(&draft);
        Draft { label: top, edges: vec![below[0]], children: vec![child], ..Draft::default() }
    }

    /// A node without values and with one child becomes that child.
    fn join_only_child(&mut self, draft: &mut Draft) {
        let ([edge], [child], true) = (&*draft.edges, &*draft.children, draft.is_bare()) else { return };
        let (edge, child) = (*edge, *child);
        if draft.label.len() + 1 + self.node(child).label.len() > LABEL_MAX {
            return;
        }
        let mut joined = self.draft(child);
        let mut label = std::mem::take(&mut draft.label);
        label.push(edge);
        label.append(&mut joined.label);
        *draft = Draft { label, ..joined };
        self.release(child);
    }

    /// A leaf for `rest`, below as many nodes as its length needs.
    fn leaf(&mut self, rest: &[u8], slot: Slot, value: u32) -> u32 {
        let links = rest.chunks_exact(LABEL_MAX + 1);
        let mut draft = Draft { label: links.remainder().to_vec(), ..Draft::default() };
        *draft.slot(slot) = Some(value);
        let mut id = self.store(&draft);
        for link in links.rev() {
            let label = link[..LABEL_MAX].to_vec();
            id = self.store(&Draft {
                label,
                edges: vec![link[LABEL_MAX]],
                children: vec![id],
                ..Draft::default()
            });
        }
        id
    }

    /// Lets what led to a node lead to `id`.
    fn relink(&mut self, root: &mut Root, link: Option<(u32, usize)>, id: u32) {
        let Some((parent, at)) = link else {
            *root = Root(id);
            return;
        };
        let node = self.node(parent);
        let word = node.slots.count_ones() as usize + at;
        let from = 4 + node.label.len() + node.edges.len() + 4 * word;
        self.record(parent)[from..from + 4].copy_from_slice(&id.to_le_bytes());
    }

    #[inline]
    fn node(&self, id: u32) -> Node<'_> {
        let id = id as usize;
        let record = &self.chunks[id / CHUNK_GRANULES][id % CHUNK_GRANULES * GRANULE..];
        let (head, record) = record.split_at(4);
        let (label, record) = record.split_at(head[0] as usize);
        let (edges, words) = record.split_at(u16::from_le_bytes([head[2], head[3]]) as usize);
        Node { slots: head[1], label, edges, words }
    }

    fn draft(&self, id: u32) -> Draft {
        let node = self.node(id);
        Draft {
            label: node.label.to_vec(),
            exact: node.slot(Slot::Exact),
            prefix: node.slot(Slot::Prefix),
            edges: node.edges.to_vec(),
            children: (0..node.edges.len()).map(|at| node.child(at)).collect(),
        }
    }

    fn record(&mut self, id: u32) -> &mut [u8] {
        let id = id as usize;
        &mut self.chunks[id / CHUNK_GRANULES][id % CHUNK_GRANULES * GRANULE..]
    }

    fn granules(&self, id: u32) -> usize {
        let node = self.node(id);
        let words = node.slots.count_ones() as usize + node.edges.len();
        (4 + node.label.len() + node.edges.len() + 4 * words).div_ceil(GRANULE)
    }

    /// Writes `draft` over the node `id` if it fits exactly, else elsewhere.
    fn rewrite(&mut self, id: u32, draft: &Draft) -> u32 {
        if self.granules(id) == draft.granules() {
            draft.write(self.record(id));
            return id;
        }
        self.release(id);
        self.store(draft)
    }

    fn store(&mut self, draft: &Draft) -> u32 {
        let id = self.reserve(draft.granules());
        draft.write(self.record(id));
        id
    }

    fn reserve(&mut self, granules: usize) -> u32 {
        let freed = self.free[granules];
        if freed != NONE {
            self.free[granules] = word(self.record(freed), 0);
            return freed;
        }
        if self.used + granules > CHUNK_GRANULES {
            let left = CHUNK_GRANULES - self.used;
            if left > 0 {
                let id = self.next_id();
                self.list_as_free(id, left);
            }
            self.chunks.push(vec![0; CHUNK].into_boxed_slice());
            self.used = 0;
        }
        let id = self.next_id();
        self.used += granules;
        id
    }

    fn next_id(&self) -> u32 {
        ((self.chunks.len() - 1) * CHUNK_GRANULES + self.used) as u32
    }

    fn release(&mut self, id: u32) {
        self.list_as_free(id, self.granules(id));
    }

    fn list_as_free(&mut self, id: u32, granules: usize) {
        let next = std::mem::replace(&mut self.free[granules], id);
        self.record(id)[..4].copy_from_slice(&next.to_le_bytes());
    }
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
        for ((key, slot), value) in &map {
            forest.set(&mut root, key, slots[*slot], *value);
        }
        assert!(forest.chunks.len() <= chunks + 1, "freed records are used again");
    }
}
