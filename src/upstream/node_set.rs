//! A set of nodes of one upstream, by index: those a request has tried, those that are unhealthy.

use smallvec::SmallVec;

/// A set of node indexes. Up to 64 nodes it allocates nothing, and an empty set is one comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet {
    words: SmallVec<[u64; 1]>,
    len: usize,
}

impl NodeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no node is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many nodes are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether `node` is in it.
    pub fn contains(&self, node: usize) -> bool {
        self.words.get(node / 64).is_some_and(|word| word & (1 << (node % 64)) != 0)
    }

    /// Adds `node`; false if it was there already.
    pub fn insert(&mut self, node: usize) -> bool {
        if self.words.len() <= node / 64 {
            self.words.resize(node / 64 + 1, 0);
        }
        let (word, bit) = (&mut self.words[node / 64], 1 << (node % 64));
        let new = *word & bit == 0;
        *word |= bit;
        self.len += usize::from(new);
        new
    }

    /// Takes `node` out; false if it was not there.
    pub fn remove(&mut self, node: usize) -> bool {
        let there = self.contains(node);
        if there {
            self.words[node / 64] &= !(1 << (node % 64));
            self.len -= 1;
        }
        there
    }

    /// Whether `other` has every node of this set.
    pub fn is_within(&self, other: &NodeSet) -> bool {
        let theirs = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(theirs).all(|(ours, theirs)| ours & !theirs == 0)
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.words.clear();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in_beyond_one_word() {
        let mut set = NodeSet::new();
        assert!(set.is_empty() && !set.contains(300));
        assert!(set.insert(0) && set.insert(63) && set.insert(64) && set.insert(300));
        assert!(!set.insert(64), "second insert of one node");
        assert_eq!(set.len(), 4);
        assert!(set.contains(63) && set.contains(64) && set.contains(300) && !set.contains(65));
        assert!(set.remove(64) && !set.remove(64) && !set.remove(9999));
        assert_eq!(set.len(), 3);
        let mut more = set.clone();
        more.insert(500);
        assert!(set.is_within(&more) && set.is_within(&set) && !more.is_within(&set));
        assert!(NodeSet::new().is_within(&set) && !set.is_within(&NodeSet::new()));
        set.clear();
        assert!(set.is_empty() && !set.contains(0));
    }
}
