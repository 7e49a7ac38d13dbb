//! The last state read from etcd, kept in a file so that a gateway can start while etcd is down. Changes
//! are written one by one as they come, on a thread of their own; the database's checksums guard the rest. A change
//! that is lost on the way makes all later ones useless: what the file says stays what etcd had at its revision.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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
    behind: Behind,
}

/// Since when the file has missed a change; none is kept any more until everything comes.
#[derive(Clone, Default)]
struct Behind(Arc<Mutex<Option<Instant>>>);

impl Behind {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let (writer, behind) = (disk.clone(), Behind::default());
        let missed = behind.clone();
        let thread = thread::Builder::new()
            .name("snapshot".into())
            .spawn(move || write(&writer, queue, &missed))
            .map_err(|e| Error::Open(format!("cannot start the snapshot's thread: {e}")))?;
        Ok(Snapshot { disk, events: Some(events), thread: Some(thread), behind })
    }

    /// What was kept, if anything ever was.
    pub fn read(&self) -> Result<Option<(Vec<Entry>, i64)>, Error> {
        let (entries, revision) = self.disk.list("/")?;
        Ok((revision > 0).then_some((entries, revision)))
    }

    /// Keeps an event. The disk is never waited for: if it cannot follow, the snapshot stays behind until it is given
    /// everything, which it asks for by [`Snapshot::wants_everything`].
    pub fn keep(&self, event: &Event) {
        let Some(events) = &self.events else { return };
        let mut behind = self.behind.since();
        let is_whole = matches!(event, Event::Snapshot { .. });
        if behind.is_some() && !is_whole {
            return;
        }
        match events.try_send(event.clone()) {
            Ok(()) => *behind = None,
            Err(_) => {
                *behind = Some(Instant::now());
                log::warn!(
                    "the disk is too slow for the snapshot of etcd: it is kept again as soon as it can be"
                );
            }
        }
    }

    /// It has missed a change, some time ago, and has written what it had to.
    pub fn wants_everything(&self) -> bool {
        let since = *self.behind.since();
        let is_time = since.is_some_and(|since| since.elapsed() >= RETRY);
        is_time && self.events.as_ref().is_some_and(|events| events.capacity() == events.max_capacity())
    }
}

/// How long a snapshot that has missed a change waits before everything is read for it.
const RETRY: Duration = Duration::from_secs(limits::SNAPSHOT_RETRY_S);

fn write(disk: &Disk, mut queue: mpsc::Receiver<Event>, behind: &Behind) {
    let mut batch = Vec::new();
    let mut is_whole = true;
    while queue.blocking_recv_many(&mut batch, limits::WATCH_QUEUE) > 0 {
        // What comes before the last full state is not worth writing, and wrong after a change that was lost.
        let full = batch.iter().rposition(|event| matches!(event, Event::Snapshot { .. }));
        if is_whole || full.is_some() {
            let stored = store(disk, &batch[full.unwrap_or(0)..]);
            is_whole = stored.is_ok();
            if let Err(error) = stored {
                log::error!("the snapshot of etcd was not kept: {error}");
                *behind.since() = Some(Instant::now());
            }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::control::store::tests::TempDir;

    fn entry(key: &str, revision: i64) -> Entry {
        let value = Bytes::from_static(b"{}");
        Entry { key: key.into(), value, create_revision: revision, mod_revision: revision }
    }

    fn put(key: &str, revision: i64) -> Event {
        Event::Changes { changes: vec![change(&entry(key, revision))], revision }
    }

    /// The keys that are kept, and of which revision, once it is what is awaited.
    fn kept_at(snapshot: &Snapshot, wanted: i64) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (entries, revision) = snapshot.read().unwrap().unwrap_or_default();
            if revision == wanted {
                return entries.into_iter().map(|entry| entry.key.into()).collect();
            }
            assert!(Instant::now() < deadline, "revision {revision}, not {wanted}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_snapshot_that_missed_a_change_keeps_none_until_it_gets_all() {
        let directory = TempDir::new();
        let snapshot = Snapshot::open(&directory.0.join("snapshot.redb")).unwrap();
        snapshot.keep(&Event::Snapshot { entries: vec![entry("/routes/1", 1)], revision: 1 });
        assert_eq!(kept_at(&snapshot, 1), ["/routes/1"]);
        {
            // While a transaction is open the thread waits for the disk.
            let _busy = snapshot.disk.begin().unwrap();
            let mut revision = 2;
            while snapshot.behind.since().is_none() {
                snapshot.keep(&put("/routes/2", revision));
                revision += 1;
            }
            assert!(revision > limits::WATCH_QUEUE as i64);
            assert!(!snapshot.wants_everything(), "there is no room for it yet");
        }
        while snapshot.events.as_ref().is_some_and(|events| events.capacity() < events.max_capacity()) {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!snapshot.wants_everything(), "not at once");
        snapshot.keep(&put("/routes/3", 10_000));
        assert!(snapshot.behind.since().is_some(), "a later change is not kept");
        *snapshot.behind.since() = Instant::now().checked_sub(RETRY);
        assert!(snapshot.wants_everything());
        snapshot.keep(&Event::Snapshot { entries: vec![entry("/routes/4", 10_001)], revision: 10_001 });
        assert_eq!(kept_at(&snapshot, 10_001), ["/routes/4"]);
        snapshot.keep(&put("/routes/5", 10_002));
        assert_eq!(kept_at(&snapshot, 10_002), ["/routes/4", "/routes/5"]);
        assert!(!snapshot.wants_everything());
    }

    #[test]
    fn a_change_that_cannot_be_written_is_missed() {
        let fails = Arc::new(AtomicBool::new(false));
        let disk = Disk::that_fails_when(fails.clone());
        let (events, queue) = mpsc::channel(limits::WATCH_QUEUE);
        events.try_send(put("/routes/1", 1)).unwrap();
        drop(events);
        fails.store(true, Ordering::SeqCst);
        let behind = Behind::default();
        write(&disk, queue, &behind);
        assert!(behind.since().is_some());
    }
}
