//! Hosts by name: a table with open addressing, so that a match waits for one line of memory and, at the same
//! time, for the name and for the tree that its entry leads to.

use super::forest::Root;

/// At most this share of the places is taken, in percent: beyond it runs of taken places get long.
const FULL: usize = 70;

/// Trees of paths by host.
#[derive(Debug, Default)]
pub struct Hosts {
    /// A power of two of them, or none.
    places: Box<[Option<Place>]>,
    taken: usize,
    /// Seeded by process: hosts come from the network.
    hasher: ahash::RandomState,
}

#[derive(Debug)]
struct Place {
    name: Box<[u8]>,
    hash: u32,
    root: Root,
}

impl Hosts {
    /// The tree of a host.
    #[inline]
    pub fn get(&self, name: &[u8]) -> Option<Root> {
        let at = self.find(name, self.hash(name))?;
        self.places[at].as_ref().map(|place| place.root)
    }

    /// Sets the tree of a host. One without keys is forgotten.
    pub fn set(&mut self, name: Box<[u8]>, root: Root) {
        let hash = self.hash(&name);
        match (self.find(&name, hash), root.is_empty()) {
            (Some(at), true) => self.remove(at),
            (Some(at), false) => self.places[at] = Some(Place { name, hash, root }),
            (None, true) => {}
            (None, false) => {
                if (self.taken + 1) * 100 > self.places.len() * FULL {
                    self.grow();
                }
                self.taken += 1;
                self.put(Place { name, hash, root });
            }
        }
    }

    /// Whether no host has a tree.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.taken == 0 && self.places.iter().all(Option::is_none)
    }

    fn hash(&self, name: &[u8]) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    /// Where the search for a hash begins.
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    #[inline]
    fn find(&self, name: &[u8], hash: u32) -> Option<usize> {
        if self.taken == 0 {
            return None;
        }
        let mut at = self.home(hash);
        // There is always a free place, where the search ends.
        loop {
            let place = self.places[at].as_ref()?;
            if place.hash == hash && *place.name == *name {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    fn put(&mut self, place: Place) {
        let mut at = self.home(place.hash);
        while self.places[at].is_some() {
            at = self.next(at);
        }
        self.places[at] = Some(place);
    }

    fn grow(&mut self) {
        let twice = (self.places.len() * 2).max(8);
        let before = std::mem::replace(&mut self.places, (0..twice).map(|_| None).collect());
        before.into_iter().flatten().for_each(|place| self.put(place));
    }

    /// Takes a place out. Those that follow without a gap are put anew: a search must not end before them.
    fn remove(&mut self, at: usize) {
        self.places[at] = None;
        self.taken -= 1;
        let mut next = self.next(at);
        while let Some(place) = self.places[next].take() {
            self.put(place);
            next = self.next(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::forest::{Forest, Slot};
    use super::*;

    /// Against a map, with few names so that places are taken, freed and searched past often.
    #[test]
    fn agrees_with_a_map() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut hosts, mut map, mut forest) = (Hosts::default(), HashMap::new(), Forest::default());
        for value in 0..20_000 {
            let name: Box<[u8]> = random.u16(0..500).to_string().into_bytes().into();
            let mut root = Root::EMPTY;
            if random.bool() {
                forest.set(&mut root, b"/", Slot::Exact, value);
                map.insert(name.clone(), root);
            } else {
                map.remove(&name);
            }
            hosts.set(name, root);
            let asked: Box<[u8]> = random.u16(0..500).to_string().into_bytes().into();
            assert_eq!(hosts.get(&asked), map.get(&asked).copied());
        }
        assert_eq!(hosts.taken, map.len());
        map.into_keys().for_each(|name| hosts.set(name, Root::EMPTY));
        assert!(hosts.is_empty());
    }
}
