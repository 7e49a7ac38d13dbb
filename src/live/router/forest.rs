//! Radix trees, many in one arena: one per host, and one of hosts themselves.
//!
//! What a match waits for is memory: each step to a node that is not in the cache costs as much as hundreds of
//! instructions. So there are few steps. Up to [`LEAVES_MAX`] keys lie side by side in one record and are found
//! by comparing words, which the processor reads all at once; only where more keys begin alike does a branch
//! stand above them.
//!
//! A change writes one record ([`record`]) and the number that leads to it, in an [`Arena`].

mod arena;
mod record;

use arena::{Arena, NONE};
use record::{
    Draft, Key, LABEL_MAX, LEAVES_MAX, Node, RECORD_MAX, SUFFIX_MAX, leaves_bytes, strip_prefix,
    with_longer_label,
};

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

/// The trees.
#[derive(Debug)]
pub struct Forest {
    arena: Arena,
}

impl Default for Forest {
    fn default() -> Forest {
        Forest { arena: Arena::new(RECORD_MAX) }
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
                    let mut keys = leaves.keys();
                    let before = set_in(&mut keys, new_key());
                    self.arena.release(id);
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
            self.arena.release(id);
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
            let new = self.arena.store(&draft.bytes());
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
                    let mut keys = leaves.keys();
                    let at = keys.iter().position(|known| *known.text == *rest && known.slot == slot)?;
                    let value = keys.swap_remove(at).value;
                    if keys.is_empty() {
                        break (value, Draft::default());
                    }
                    self.arena.release(id);
                    let new = self.build(&keys.iter().collect::<Vec<_>>(), 0);
                    self.relink(root, links.last().copied(), new);
                    return Some(value);
                }
            }
        };
        self.arena.release(id);
        while draft.is_bare() && draft.children.is_empty() {
            let Some((parent, at)) = links.pop() else {
                *root = Root::EMPTY;
                return Some(value);
            };
            let Node::Branch(branch) = self.node(parent) else { return Some(value) };
            draft = Draft::of(&branch);
            self.arena.release(parent);
            draft.edges.remove(at);
            draft.children.remove(at);
        }
        let new = self.joined(&draft).unwrap_or_else(|| self.arena.store(&draft.bytes()));
        self.relink(root, links.last().copied(), new);
        Some(value)
    }

    /// A subtree of these keys without their first `from` bytes, in which they are all alike.
    fn build(&mut self, keys: &[&Key], from: usize) -> u32 {
        let first = &keys[0].text[from..];
        let shared = keys.iter().map(|key| common_length(first, &key.text[from..])).min().unwrap_or(0);
        let shared = shared.min(LABEL_MAX);
        if keys.len() <= LEAVES_MAX && keys.iter().all(|key| key.text.len() - from - shared <= SUFFIX_MAX) {
            return self.arena.store(&leaves_bytes(keys, from, shared));
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
        self.arena.store(&draft.bytes())
    }

    /// A branch with the first `common` bytes of the label, above one with what follows.
    fn split(&mut self, mut draft: Draft, common: usize) -> Draft {
        let below = draft.label.split_off(common);
        let top = std::mem::take(&mut draft.label);
        draft.label = below[1..].to_vec();
        let child = self.arena.store(&draft.bytes());
        Draft { label: top, edges: vec![below[0]], children: vec![child], ..Draft::default() }
    }

    /// A branch without values and with one child becomes that child, with a longer label.
    fn joined(&mut self, draft: &Draft) -> Option<u32> {
        let ([edge], [child], true) = (&*draft.edges, &*draft.children, draft.is_bare()) else { return None };
        let before = [&draft.label[..], &[*edge]].concat();
        let record = with_longer_label(self.arena.record(*child), &before)?;
        self.arena.release(*child);
        Some(self.arena.store(&record))
    }

    /// Lets what led to a node lead to `id`.
    fn relink(&mut self, root: &mut Root, link: Option<(u32, usize)>, id: u32) {
        let Some((parent, at)) = link else {
            *root = Root(id);
            return;
        };
        let Node::Branch(branch) = self.node(parent) else { return };
        let from = branch.place_of_child(at);
        self.arena.record_mut(parent)[from..from + 4].copy_from_slice(&id.to_le_bytes());
    }

    #[inline]
    fn node(&self, id: u32) -> Node<'_> {
        Node::read(self.arena.record(id))
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
        let (chunks, _) = forest.arena.chunks();
        for ((key, slot), value) in &map {
            assert_eq!(forest.clear(&mut root, key, slots[*slot]), Some(*value));
        }
        assert!(root.is_empty());
        let (all, empty) = forest.arena.chunks();
        assert_eq!(empty, all);
        for ((key, slot), value) in &map {
            forest.set(&mut root, key, slots[*slot], *value);
        }
        assert!(forest.arena.chunks().0 <= chunks + 1, "freed records are used again");
    }
}
