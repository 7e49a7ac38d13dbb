//! The last state read from etcd, kept in a file so that a gateway can start while etcd is down. Changes
//! are written one by one as they come, on a thread of their own; the database's checksums guard the rest.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc;

use super::disk::Disk;
use super::{Change, Entry, Error, Event};
use crate::limits;

/// A handle to the snapshot's file and thread.
pub struct Snapshot {
    disk: Arc<Disk>,
    /// Both are taken when the snapshot is dropped.
    events: Option<mpsc::Sender<Event>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The process ends only when what is queued is on disk: a change that was served is there at the next start.
impl Drop for Snapshot {
    fn drop(&mut self) {
        self.events = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Snapshot {
    /// Opens the file and starts its thread. A damaged snapshot is only a copy: it is made anew.
    pub fn open(path: &Path) -> Result<Snapshot, Error> {
        let disk = match Disk::open(path) {
            Ok(disk) => disk,
            Err(error @ Error::InUse(_)) => return Err(error),
            Err(error) => {
                log::warn!("{error}; the snapshot is made anew");
                std::fs::remove_file(path).map_err(|e| Error::Open(format!("{}: {e}", path.display())))?;
                Disk::open(path)?
            }
        };
        let disk = Arc::new(disk);
        let (events, queue) = mpsc::channel(limits::WATCH_QUEUE);
        let writer = disk.clone();
        let thread = thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || write(&writer, queue))
            .map_err(|e| Error::Open(format!("cannot start the snapshot's thread: {e}")))?;
        Ok(Snapshot { disk, events: Some(events), thread: Some(thread) })
    }

    /// What was kept, if anything ever was.
    pub fn read(&self) -> Result<Option<(Vec<Entry>, i64)>, Error> {
        let (entries, revision) = self.disk.list("/")?;
        Ok((revision > 0).then_some((entries, revision)))
    }

    /// Keeps an event. The disk is never waited for: if it cannot follow, changes are dropped and the
    /// snapshot falls behind until the next full load.
    pub fn keep(&self, event: &Event) {
        if self.events.as_ref().is_some_and(|events| events.try_send(event.clone()).is_err()) {
            log::warn!("the disk is too slow for the snapshot of etcd: a change was not kept");
        }
    }
}

fn write(disk: &Disk, mut queue: mpsc::Receiver<Event>) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, limits::WATCH_QUEUE) > 0 {
        if let Err(error) = store(disk, &batch) {
            log::error!("the snapshot of etcd was not kept: {error}");
        }
        batch.clear();
    }
}

fn store(disk: &Disk, events: &[Event]) -> Result<(), Box<dyn std::error::Error>> {
    let batch = disk.begin()?;
    let mut tables = batch.tables()?;
    for event in events {
        match event {
            Event::Snapshot { entries, revision } => {
                tables.clear()?;
                for entry in entries {
                    tables.apply(&change(entry), None)?;
                }
                tables.set_revision(*revision)?;
            }
            Event::Changes { changes, revision } => {
                for change in changes {
                    tables.apply(change, None)?;
                }
                tables.set_revision(*revision)?;
            }
        }
    }
    drop(tables);
    Ok(batch.commit()?)
}

fn change(entry: &Entry) -> Change {
    Change {
        key: entry.key.clone(),
        value: Some(entry.value.clone()),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
    }
}
