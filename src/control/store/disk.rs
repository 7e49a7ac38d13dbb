//! A file of keys and values that survives a kill at any moment: one redb database with the entries, their
//! leases and the revision. [`super::Embedded`] keeps its truth here, [`super::Etcd`] its last snapshot.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    WriteTransaction,
};

use super::{Change, Entry, Error, prefix_end};
use crate::limits;

/// key → create_revision (8 bytes, little endian), mod_revision (8), value.
const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");
/// key → the wall-clock millisecond at which it goes away.
const LEASES: TableDefinition<&str, u64> = TableDefinition::new("leases");
/// `revision`, `format`.
const META: TableDefinition<&str, i64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// The layout above. A file that says another number is from a newer ringway.
const FORMAT_NUMBER: i64 = 1;
/// Bytes of revisions before the value.
const HEAD: usize = 16;

/// An open database.
pub struct Disk {
    database: Database,
    path: PathBuf,
}

/// One transaction of writes: durable after [`Batch::commit`], or never happened.
pub struct Batch {
    transaction: WriteTransaction,
}

/// The tables of a batch, open for writing.
pub struct Tables<'t> {
    entries: Table<'t, &'static str, &'static [u8]>,
    leases: Table<'t, &'static str, u64>,
    meta: Table<'t, &'static str, i64>,
}

impl Disk {
    /// Opens or creates the file, with its directory, readable by the owner only: it holds secrets. Every
    /// page's checksum is verified, so a damaged file is an error here and no surprise later.
    pub fn open(path: &Path) -> Result<Disk, Error> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| open_error(path, &e))?;
        }
        let database = Builder::new()
            .set_cache_size(limits::STORE_CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|e| match e {
                DatabaseError::DatabaseAlreadyOpen => {
                    Error::InUse(format!("the store {} is in use by another process", path.display()))
                }
                other => open_error(path, &other),
            })?;
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path, owner_only).map_err(|e| open_error(path, &e))?;
        let disk = Disk { database, path: path.to_path_buf() };
        disk.check_format().map_err(|e| open_error(path, &e))?;
        Ok(disk)
    }

    fn check_format(&self) -> Result<(), Box<dyn std::error::Error>> {
        let batch = Batch { transaction: self.database.begin_write()? };
        {
            let mut tables = batch.tables()?;
            let format = tables.meta.get(FORMAT)?.map(|number| number.value());
            match format {
                None => drop(tables.meta.insert(FORMAT, FORMAT_NUMBER)?),
                Some(FORMAT_NUMBER) => {}
                Some(other) => return Err(format!("its format {other} is newer than this ringway").into()),
            }
        }
        batch.commit()?;
        Ok(())
    }

    /// Begins a transaction.
    pub fn begin(&self) -> Result<Batch, Error> {
        let transaction = self.database.begin_write().map_err(|e| self.failed(&e))?;
        Ok(Batch { transaction })
    }

    /// One key.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let read = self.database.begin_read().map_err(|e| self.failed(&e))?;
        let entries = read.open_table(ENTRIES).map_err(|e| self.failed(&e))?;
        let bytes = entries.get(key).map_err(|e| self.failed(&e))?;
        Ok(bytes.and_then(|bytes| decode(key, bytes.value())))
    }

    /// All keys that begin with `prefix`, in order, and the revision they belong to.
    pub fn list(&self, prefix: &str) -> Result<(Vec<Entry>, i64), Error> {
        let read = self.database.begin_read().map_err(|e| self.failed(&e))?;
        let entries = read.open_table(ENTRIES).map_err(|e| self.failed(&e))?;
        let meta = read.open_table(META).map_err(|e| self.failed(&e))?;
        let revision = meta.get(REVISION).map_err(|e| self.failed(&e))?.map_or(0, |number| number.value());
        let found = collect(&entries, prefix).map_err(|e| self.failed(&e))?;
        Ok((found, revision))
    }

    /// All leases: when, and which key.
    pub fn leases(&self) -> Result<Vec<(u64, Box<str>)>, Error> {
        let read = self.database.begin_read().map_err(|e| self.failed(&e))?;
        let leases = read.open_table(LEASES).map_err(|e| self.failed(&e))?;
        let mut found = Vec::new();
        for lease in leases.iter().map_err(|e| self.failed(&e))? {
            let (key, at_ms) = lease.map_err(|e| self.failed(&e))?;
            found.push((at_ms.value(), key.value().into()));
        }
        Ok(found)
    }

    fn failed(&self, error: &dyn std::error::Error) -> Error {
        Error::Unavailable(format!("the store {} failed: {error}", self.path.display()))
    }
}

impl Batch {
    /// Opens the tables; drop them before [`Batch::commit`].
    pub fn tables(&self) -> Result<Tables<'_>, redb::TableError> {
        Ok(Tables {
            entries: self.transaction.open_table(ENTRIES)?,
            leases: self.transaction.open_table(LEASES)?,
            meta: self.transaction.open_table(META)?,
        })
    }

    /// Makes the batch durable: returns after fsync.
    pub fn commit(self) -> Result<(), redb::CommitError> {
        self.transaction.commit()
    }
}

impl Tables<'_> {
    /// One key as this batch sees it.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        Ok(self.entries.get(key)?.and_then(|bytes| decode(key, bytes.value())))
    }

    /// All keys that begin with `prefix`, as this batch sees them.
    pub fn list(&self, prefix: &str) -> Result<Vec<Entry>, StorageError> {
        collect(&self.entries, prefix)
    }

    /// Writes or removes one key, its lease with it.
    pub fn apply(&mut self, change: &Change, lease_until_ms: Option<u64>) -> Result<(), StorageError> {
        let key = &*change.key;
        match &change.value {
            Some(value) => drop(self.entries.insert(key, encode(change, value).as_slice())?),
            None => drop(self.entries.remove(key)?),
        }
        match lease_until_ms {
            Some(at_ms) => drop(self.leases.insert(key, at_ms)?),
            None => drop(self.leases.remove(key)?),
        }
        Ok(())
    }

    /// The revision as this batch sees it.
    pub fn revision(&self) -> Result<i64, StorageError> {
        Ok(self.meta.get(REVISION)?.map_or(0, |number| number.value()))
    }

    /// Sets the revision.
    pub fn set_revision(&mut self, revision: i64) -> Result<(), StorageError> {
        self.meta.insert(REVISION, revision).map(drop)
    }

    /// Removes every entry and lease.
    pub fn clear(&mut self) -> Result<(), StorageError> {
        self.entries.retain(|_, _| false)?;
        self.leases.retain(|_, _| false)
    }
}

fn open_error(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Open(format!(
        "cannot open the store {}: {error}. Restore the file from a backup, or move it away to start empty",
        path.display()
    ))
}

fn collect(
    entries: &impl ReadableTable<&'static str, &'static [u8]>,
    prefix: &str,
) -> Result<Vec<Entry>, StorageError> {
    let end = prefix_end(prefix);
    let mut found = Vec::new();
    for entry in entries.range::<&str>(prefix..)? {
        let (key, bytes) = entry?;
        if key.value().as_bytes() >= end.as_slice() {
            break;
        }
        found.extend(decode(key.value(), bytes.value()));
    }
    Ok(found)
}

fn encode(change: &Change, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + value.len());
    bytes.extend_from_slice(&change.create_revision.to_le_bytes());
    bytes.extend_from_slice(&change.mod_revision.to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

fn decode(key: &str, bytes: &[u8]) -> Option<Entry> {
    let (create, rest) = bytes.split_first_chunk::<8>()?;
    let (modified, value) = rest.split_first_chunk::<8>()?;
    Some(Entry {
        key: key.into(),
        value: Bytes::copy_from_slice(value),
        create_revision: i64::from_le_bytes(*create),
        mod_revision: i64::from_le_bytes(*modified),
    })
}

#[cfg(test)]
mod failing {
    //! A database in memory whose writes fail on demand.

    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::{Builder, Disk};

    #[derive(Debug)]
    struct Failing {
        memory: InMemoryBackend,
        now: Arc<AtomicBool>,
    }

    impl Failing {
        fn works(&self) -> io::Result<()> {
            match self.now.load(Ordering::SeqCst) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }
    }

    impl StorageBackend for Failing {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.works().and_then(|()| self.memory.set_len(len))
        }

        fn sync_data(&self) -> io::Result<()> {
            self.works().and_then(|()| self.memory.sync_data())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.works().and_then(|()| self.memory.write(offset, data))
        }
    }

    impl Disk {
        /// Cannot be written while `now` is set.
        pub fn that_fails_when(now: Arc<AtomicBool>) -> Disk {
            let backend = Failing { memory: InMemoryBackend::new(), now };
            let database = Builder::new().create_with_backend(backend).unwrap();
            let disk = Disk { database, path: "memory".into() };
            disk.check_format().unwrap();
            disk
        }
    }
}
