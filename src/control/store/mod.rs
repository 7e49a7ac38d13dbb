//! Where configuration objects live: in a file of our own ([`embedded`]), in etcd ([`etcd`]) or in
//! `conf/apisix.yaml` ([`file`]). All three look like a small etcd: keys with JSON values, one counter of
//! revisions, and one stream of changes.
//!
//! Keys are written without the prefix (`/routes/1`, not `/apisix/routes/1`); [`Store::prefix`] gives it
//! to those who show keys to users.

mod disk;
pub mod document;
mod snapshot;
pub mod embedded;
pub mod etcd;
pub mod etcd_tls;
pub mod file;
pub mod standalone;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::control::applied::NOTHING;

pub use embedded::Embedded;
pub use etcd::Etcd;
pub use file::{File, has_end};
pub use standalone::Standalone;

/// The value of a directory's placeholder: `apisix init_etcd` writes it to `/routes/` and its like
/// (apisix/cli/etcd.lua). It is never an object.
pub const INIT_DIR: &[u8] = b"init_dir";

/// The directories APISIX creates placeholders for (apisix/constants.lua).
pub const DIRECTORIES: [&str; 13] = [
    "/consumer_groups",
    "/consumers",
    "/global_rules",
    "/plugin_configs",
    "/plugin_metadata",
    "/plugins",
    "/protos",
    "/routes",
    "/secrets",
    "/services",
    "/ssls",
    "/stream_routes",
    "/upstreams",
];

/// One key with its value and its place in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key below the prefix, with its leading slash.
    pub key: Box<str>,
    /// The value: JSON, unless somebody else wrote nonsense.
    pub value: Bytes,
    /// Revision at which the key was created.
    pub create_revision: i64,
    /// Revision of its last change.
    pub mod_revision: i64,
}

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key below the prefix.
    pub key: Box<str>,
    /// The new value; `None` when the key is gone.
    pub value: Option<Bytes>,
    /// Revision of its creation; 0 when it is gone.
    pub create_revision: i64,
    /// Revision of this change.
    pub mod_revision: i64,
}

/// What a watcher receives. The first event is always a snapshot; later ones follow when the stream of
/// changes was broken (a lost etcd, a compaction).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All there is at a revision. What is not in it does not exist any more.
    Snapshot {
        /// Every key, in key order.
        entries: Vec<Entry>,
        /// The store's revision.
        revision: i64,
    },
    /// Changes since, in order.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// The store's revision after them.
        revision: i64,
    },
}

impl Event {
    /// Before the first document of who has none yet: cores serve that there is nothing, and are not ready.
    fn nothing() -> Event {
        Event::Snapshot { entries: Vec::new(), revision: NOTHING }
    }
}

/// Keys below a directory.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In key order, without placeholders.
    pub entries: Vec<Entry>,
    /// The store's revision when they were read.
    pub revision: i64,
}

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The revision that the write made (the current one, if it changed nothing).
    pub revision: i64,
    /// Whether the key existed before.
    pub existed: bool,
}

/// Why a store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The key's `mod_revision` is not the expected one: somebody else was faster.
    Conflict,
    /// This source cannot be written (`conf/apisix.yaml`).
    ReadOnly,
    /// The store's file is open elsewhere.
    InUse(String),
    /// The store could not be opened: unreadable, corrupt, or nobody answers.
    Open(String),
    /// The store did not answer, or answered with an error.
    Unavailable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // apisix/core/etcd.lua, atomic_set
            Error::Conflict => f.write_str("value changed before overwritten"),
            Error::ReadOnly => f.write_str("the configuration source is read-only"),
            Error::InUse(why) | Error::Open(why) | Error::Unavailable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

/// How a store is doing, for the status page and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Health {
    /// The last conversation with the store went well.
    pub reachable: bool,
    /// What runs is the last snapshot on this machine's disk: the store has not answered since the start.
    pub from_snapshot: bool,
}

/// A source of configuration. Cheap to clone.
#[derive(Clone)]
pub enum Store {
    /// A file of our own.
    Embedded(Embedded),
    /// An etcd cluster.
    Etcd(Etcd),
    /// A file that somebody else writes.
    File(File),
    /// A document in memory, written as a whole.
    Standalone(Standalone),
}

impl Store {
    /// What stands before every key in the eyes of users: `/apisix`.
    pub fn prefix(&self) -> &str {
        match self {
            Store::Embedded(store) => store.prefix(),
            Store::Etcd(store) => store.prefix(),
            Store::File(_) | Store::Standalone(_) => "",
        }
    }

    /// Does it bring objects by itself? Not before somebody has written them.
    pub fn brings_objects(&self) -> bool {
        match self {
            Store::Embedded(_) | Store::Etcd(_) => true,
            Store::File(file) => file.is_read(),
            Store::Standalone(_) => false,
        }
    }

    /// The document in memory, in the API-driven standalone mode.
    pub fn standalone(&self) -> Option<&Standalone> {
        match self {
            Store::Standalone(store) => Some(store),
            _ => None,
        }
    }

    /// One key.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        match self {
            Store::Embedded(store) => store.get(key),
            Store::Etcd(store) => store.get(key).await,
            Store::File(store) => Ok(store.get(key)),
            Store::Standalone(store) => Ok(store.get(key)),
        }
    }

    /// Everything below a directory (`/routes`), placeholders left out.
    pub async fn list(&self, dir: &str) -> Result<Listing, Error> {
        let mut listing = match self {
            Store::Embedded(store) => store.list(dir)?,
            Store::Etcd(store) => store.list(dir).await?,
            Store::File(store) => store.list(dir),
            Store::Standalone(store) => store.list(dir),
        };
        listing.entries.retain(|entry| !is_placeholder(&entry.key, &entry.value));
        Ok(listing)
    }

    /// Writes a key. With `expect`, only if its `mod_revision` is that (0: the key must not exist). With
    /// `ttl_s` the key goes away by itself after so many seconds.
    pub async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Option<i64>,
        ttl_s: Option<i64>,
    ) -> Result<Written, Error> {
        match self {
            Store::Embedded(store) => store.put(key, value, expect, ttl_s).await,
            Store::Etcd(store) => store.put(key, value, expect, ttl_s).await,
            Store::File(_) | Store::Standalone(_) => Err(Error::ReadOnly),
        }
    }

    /// Deletes a key; [`Written::existed`] tells whether it was there.
    pub async fn delete(&self, key: &str) -> Result<Written, Error> {
        match self {
            Store::Embedded(store) => store.delete(key, false).await,
            Store::Etcd(store) => store.delete(key, false).await,
            Store::File(_) | Store::Standalone(_) => Err(Error::ReadOnly),
        }
    }

    /// Deletes everything below a directory.
    pub async fn delete_dir(&self, dir: &str) -> Result<Written, Error> {
        let below = format!("{dir}/");
        match self {
            Store::Embedded(store) => store.delete(&below, true).await,
            Store::Etcd(store) => store.delete(&below, true).await,
            Store::File(_) | Store::Standalone(_) => Err(Error::ReadOnly),
        }
    }

    /// Everything from now on: a snapshot first, then changes. One watch per process is the rule. The
    /// channel is bounded: a watcher that does not read holds the store's changes back.
    pub async fn watch(&self) -> Result<mpsc::Receiver<Event>, Error> {
        match self {
            Store::Embedded(store) => store.watch().await,
            Store::Etcd(store) => Ok(store.watch()),
            Store::File(store) => Ok(store.watch()),
            Store::Standalone(store) => Ok(store.watch()),
        }
    }

    /// Writes the placeholders that APISIX nodes on the same etcd expect, where they are missing.
    pub async fn init_directories(&self) -> Result<(), Error> {
        let Store::Etcd(store) = self else { return Ok(()) };
        for dir in DIRECTORIES {
            match store.put(&format!("{dir}/"), Bytes::from_static(INIT_DIR), Some(0), None).await {
                Ok(_) | Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How the store is doing.
    pub fn health(&self) -> Health {
        match self {
            Store::Embedded(_) | Store::File(_) | Store::Standalone(_) => {
                Health { reachable: true, from_snapshot: false }
            }
            Store::Etcd(store) => store.health(),
        }
    }
}

/// A directory's placeholder is no object. Only the exact pair is skipped, so that a broken object with
/// the same text as its value is still reported.
pub fn is_placeholder(key: &str, value: &[u8]) -> bool {
    key.ends_with('/') && value == INIT_DIR
}

/// The first key that does not begin with `prefix` any more: etcd's `range_end` for a prefix. Keys are
/// text, so the last byte is below 0xff and incrementing it never overflows.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
