//! All valid objects of the process, and what is known of the store beside them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::versions::Versions;
use crate::control::store::{Change, Entry, is_placeholder};
use crate::model::check::unique_keys;
use crate::model::delta::{Delta, Object};
use crate::model::{Id, Kind};

/// All valid objects.
#[derive(Default)]
pub struct Model {
    objects: HashMap<Kind, BTreeMap<Id, Object>>,
    /// Every key of the store with a fingerprint of its value: equal bytes are no change, wherever their
    /// revisions come from. 64 bits under a random key: nobody can aim at a collision.
    known: HashMap<Box<str>, u64>,
    hasher: RandomState,
    /// Who has which unique key of an auth plugin: a write of one of 100,000 consumers looks here.
    key_holders: HashMap<&'static str, HashMap<Box<str>, BTreeSet<Id>>>,
    /// Keys whose newest values are wrong, and so not in use.
    rejected: HashSet<Box<str>>,
    /// Objects with references to secret managers.
    pub(super) versions: Versions,
    /// All objects of a file as they stand there, right or wrong. Their bytes are shared with the store.
    document: BTreeMap<Box<str>, Change>,
}

impl Model {
    /// The objects of a kind, by id. Credentials are among the consumers.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// One object.
    pub fn get(&self, kind: Kind, id: &str) -> Option<&Object> {
        self.objects.get(&kind)?.get(id)
    }

    /// The consumers and credentials that have this unique key of an auth plugin.
    pub fn key_holders(&self, plugin: &str, key: &str) -> impl Iterator<Item = &str> {
        let holders = self.key_holders.get(plugin).and_then(|keys| keys.get(key));
        holders.into_iter().flatten().map(|id| &**id)
    }

    fn insert(&mut self, kind: Kind, id: Id, object: Object) {
        if let Object::Consumer(consumer) = &object {
            self.forget_keys(kind, &id);
            for (plugin, _, key) in unique_keys(&consumer.value.plugins) {
                let keys = self.key_holders.entry(plugin).or_default();
                keys.entry(key.into()).or_default().insert(id.clone());
            }
        }
        self.objects.entry(kind).or_default().insert(id, object);
    }

    fn remove(&mut self, kind: Kind, id: &Id) -> Option<Object> {
        self.forget_keys(kind, id);
        self.objects.get_mut(&kind)?.remove(id)
    }

    fn forget_keys(&mut self, kind: Kind, id: &Id) {
        let Some(Object::Consumer(old)) = self.objects.get(&kind).and_then(|objects| objects.get(id)) else {
            return;
        };
        for (plugin, _, key) in unique_keys(&old.value.plugins) {
            let Some(keys) = self.key_holders.get_mut(plugin) else { continue };
            if keys.get_mut(key).is_some_and(|holders| holders.remove(id) && holders.is_empty()) {
                keys.remove(key);
            }
        }
    }

    /// Keys whose newest values are wrong, and so not in use.
    pub fn rejected(&self) -> impl Iterator<Item = &str> {
        self.rejected.iter().map(|key| &**key)
    }

    /// What is to change so that there are these entries and no others.
    pub(super) fn changes_to(&self, entries: Vec<Entry>, revision: i64) -> Vec<Change> {
        let mut gone: HashSet<Box<str>> = self.known.keys().cloned().collect();
        let mut changes = Vec::with_capacity(entries.len());
        for entry in entries {
            gone.remove(&entry.key);
            changes.push(Change {
                key: entry.key,
                value: Some(entry.value),
                create_revision: entry.create_revision,
                mod_revision: entry.mod_revision,
            });
        }
        let deleted = |key| Change { key, value: None, create_revision: 0, mod_revision: revision };
        changes.extend(gone.into_iter().map(deleted));
        changes
    }

    /// Whether a change says anything new; its value is known from now on.
    pub(super) fn is_news(&mut self, change: &Change) -> bool {
        match &change.value {
            Some(value) if is_placeholder(&change.key, value) => return false,
            Some(value) => {
                let fingerprint = self.hasher.hash_one(value);
                if self.known.insert(change.key.clone(), fingerprint) == Some(fingerprint) {
                    return false;
                }
            }
            None => drop(self.known.remove(&change.key)),
        }
        true
    }

    /// Takes in what a change said; gives what the cores must know of it. With `drops_wrong`, what was right and now is
    /// wrong is gone; else it stays what it was.
    pub(super) fn place(&mut self, change: Change, read: Read, drops_wrong: bool) -> Option<Delta> {
        self.rejected.remove(&change.key);
        match change.value.is_some() && drops_wrong {
            true => drop(self.document.insert(change.key.clone(), change.clone())),
            false => drop(self.document.remove(&change.key)),
        }
        let Read { kind, id, object, references } = read;
        match &object {
            Some(Err(_)) => self.versions.wrong(&change, references, !drops_wrong),
            _ => self.versions.right(&change, references),
        }
        match object {
            Some(Ok(Some(object))) => {
                self.insert(kind, id, object.clone());
                Some(Delta::Put(object))
            }
            Some(Ok(None)) => None,
            Some(Err(why)) => {
                log::error!("failed to check item data of [{}] err: {why}", change.key);
                self.rejected.insert(change.key);
                if !drops_wrong {
                    return None;
                }
                self.remove(kind, &id).map(|_| Delta::Delete(kind, id))
            }
            None => self.remove(kind, &id).map(|_| Delta::Delete(kind, id)),
        }
    }

    /// All objects of a file as they stand there; none of a store that others write to.
    pub(super) fn document(&self) -> Vec<Change> {
        self.document.values().cloned().collect()
    }

    /// Whether the store has this key.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.known.contains_key(key)
    }

    /// The version in use of an object, read again behind a newer one that is wrong. If it is wrong now as well, the object
    /// stays what it was.
    pub(super) fn renew(&mut self, key: &str, read: Read) -> Option<Delta> {
        match read.object {
            Some(Ok(Some(object))) => {
                self.insert(read.kind, read.id, object.clone());
                Some(Delta::Put(object))
            }
            Some(Err(why)) => {
                log::error!("failed to check item data of [{key}] err: {why}");
                None
            }
            _ => None,
        }
    }
}

/// A change, read: no object where it is a deletion, none inside where no core needs it, or what is wrong with it.
pub(super) struct Read {
    /// As the cores know it: a credential is a consumer of its own.
    pub kind: Kind,
    pub id: Id,
    /// What it is from now on.
    pub object: Option<Result<Option<Object>, String>>,
    /// Its `$secret://` references.
    pub references: Vec<Box<str>>,
}
