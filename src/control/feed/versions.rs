//! Objects that refer to secret managers, as the store gave them: they are taken in again when a secret changes. Where
//! the newest version of one is wrong, the last right one stays in use and goes on following its secrets; and the newest
//! is tried again, for another secret may make it right.

use std::collections::HashMap;

use crate::control::store::Change;

/// The versions that count of all objects with references.
#[derive(Default)]
pub(super) struct Versions {
    objects: HashMap<Box<str>, Pair>,
}

#[derive(Default)]
struct Pair {
    /// The last that was right, if it has references.
    in_use: Option<Version>,
    /// A newer one, which is wrong.
    wrong: Option<Version>,
}

struct Version {
    change: Change,
    references: Vec<Box<str>>,
}

impl Versions {
    /// The newest version is right, or is a deletion: older ones are forgotten.
    pub fn right(&mut self, change: &Change, references: Vec<Box<str>>) {
        match references.is_empty() {
            true => drop(self.objects.remove(&change.key)),
            false => {
                let in_use = Some(Version { change: change.clone(), references });
                drop(self.objects.insert(change.key.clone(), Pair { in_use, wrong: None }));
            }
        }
    }

    /// The newest version is wrong. Without `keeps_last`, the one before it is not in use any more.
    pub fn wrong(&mut self, change: &Change, references: Vec<Box<str>>, keeps_last: bool) {
        let in_use = self.objects.remove(&change.key).and_then(|pair| pair.in_use).filter(|_| keeps_last);
        // The version in use itself, which another secret has made wrong, stays as it is.
        let is_newer = in_use.as_ref().is_none_or(|version| version.change != *change);
        let wrong = is_newer.then(|| Version { change: change.clone(), references });
        let pair = Pair { in_use, wrong };
        if pair.in_use.is_some() || pair.wrong.as_ref().is_some_and(|wrong| !wrong.references.is_empty()) {
            self.objects.insert(change.key.clone(), pair);
        }
    }

    /// The references of all versions of an object that count.
    pub fn references(&self, key: &str) -> Vec<Box<str>> {
        let pair = self.objects.get(key);
        let versions = pair.into_iter().flat_map(|pair| [&pair.in_use, &pair.wrong]).flatten();
        let mut references: Vec<_> =
            versions.flat_map(|version| version.references.iter().cloned()).collect();
        references.sort_unstable();
        references.dedup();
        references
    }

    /// The newest version of an object, if another secret can make it something else.
    pub fn newest(&self, key: &str) -> Option<&Change> {
        let Pair { in_use, wrong } = self.objects.get(key)?;
        let newest = wrong.as_ref().or(in_use.as_ref())?;
        (!newest.references.is_empty()).then_some(&newest.change)
    }

    /// The version in use where the newest is another.
    pub fn behind_a_wrong_one(&self, key: &str) -> Option<&Change> {
        let pair = self.objects.get(key)?;
        pair.wrong.as_ref().and(pair.in_use.as_ref()).map(|version| &version.change)
    }
}
