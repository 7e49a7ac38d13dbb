//! The store that needs no other server. All writes go through one thread, which commits whatever has
//! queued up meanwhile with a single fsync, tells the watchers, and only then acknowledges: what the Admin
//! API has answered for is on disk. Reads look at the last committed state from wherever they are.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::disk::{Disk, Tables};
use super::{Change, Entry, Error, Event, Listing, Written};
use crate::limits;

/// The file's name below `deployment.embedded.path`.
pub const FILE: &str = "ringway.redb";

/// A handle to the store's thread. The thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Embedded {
    disk: Arc<Disk>,
    commands: mpsc::Sender<Command>,
    prefix: Arc<str>,
}

enum Command {
    Put { key: Box<str>, value: Bytes, expect: Option<i64>, ttl_s: Option<i64>, done: Done },
    Delete { key: Box<str>, below: bool, done: Done },
    Watch { events: mpsc::Sender<Event>, done: Done },
}

impl Command {
    fn done(self) -> Done {
        match self {
            Command::Put { done, .. } | Command::Delete { done, .. } | Command::Watch { done, .. } => done,
        }
    }
}

type Done = oneshot::Sender<Result<Written, Error>>;

impl Embedded {
    /// Opens the store in `directory`, which is made if need be, and starts its thread.
    pub fn open(directory: &Path, prefix: &str) -> Result<Embedded, Error> {
        let disk = Arc::new(Disk::open(&directory.join(FILE))?);
        let leases = disk.leases()?.into_iter().collect();
        let (commands, queue) = mpsc::channel(limits::STORE_QUEUE);
        let writer = Writer { disk: disk.clone(), leases, watchers: Vec::new(), failure: None };
        thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(queue))
            .map_err(|e| Error::Open(format!("cannot start the store's thread: {e}")))?;
        Ok(Embedded { disk, commands, prefix: prefix.into() })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.disk.get(key)
    }

    pub(super) fn list(&self, dir: &str) -> Result<Listing, Error> {
        let (entries, revision) = self.disk.list(&format!("{dir}/"))?;
        Ok(Listing { entries, revision })
    }

    pub(super) async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Option<i64>,
        ttl_s: Option<i64>,
    ) -> Result<Written, Error> {
        self.ask(|done| Command::Put { key: key.into(), value, expect, ttl_s, done }).await
    }

    pub(super) async fn delete(&self, key: &str, below: bool) -> Result<Written, Error> {
        self.ask(|done| Command::Delete { key: key.into(), below, done }).await
    }

    pub(super) async fn watch(&self) -> Result<mpsc::Receiver<Event>, Error> {
        let (events, receiver) = mpsc::channel(limits::WATCH_QUEUE);
        self.ask(|done| Command::Watch { events, done }).await?;
        Ok(receiver)
    }

    async fn ask(&self, command: impl FnOnce(Done) -> Command) -> Result<Written, Error> {
        let gone = || Error::Unavailable("the store's thread has ended".into());
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// A batch: `first`, and what has queued up behind it.
fn gathered(first: Option<Command>, queue: &mut mpsc::Receiver<Command>) -> Vec<Command> {
    let queued = std::iter::from_fn(|| queue.try_recv().ok());
    first.into_iter().chain(queued).take(limits::STORE_BATCH).collect()
}

/// The store's thread.
struct Writer {
    disk: Arc<Disk>,
    /// When keys go away, soonest first.
    leases: BTreeSet<(u64, Box<str>)>,
    watchers: Vec<mpsc::Sender<Event>>,
    /// The last one that was logged, if the last commit failed.
    failure: Option<Failure>,
}

/// A commit that failed.
struct Failure {
    logged_at: Instant,
    text: String,
}

/// How long leases that have run out wait after a commit that failed.
const RETRY: Duration = Duration::from_millis(limits::STORE_RETRY_MS);

/// What a batch did, before anybody has been told.
#[derive(Default)]
struct Outcome {
    changes: Vec<Change>,
    leases: Vec<(Box<str>, Option<u64>)>,
    answers: Vec<(Done, Result<Written, Error>)>,
    watchers: Vec<(mpsc::Sender<Event>, Done)>,
    revision: i64,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        // The thread has a runtime of its own only to wait for the first of a command and a lease's end.
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
            log::error!("the store's thread cannot start its clock");
            return;
        };
        loop {
            let wait = self.until_next_lease();
            let first = match runtime.block_on(async { tokio::time::timeout(wait, queue.recv()).await }) {
                Ok(None) => return,
                Ok(Some(command)) => Some(command),
                Err(_) => None,
            };
            self.commit(gathered(first, &mut queue));
        }
    }

    fn until_next_lease(&self) -> Duration {
        // An hour is as good as never, and survives a clock that was set.
        let next_ms = self.leases.first().map_or(u64::MAX, |(at_ms, _)| *at_ms);
        let next = Duration::from_millis(next_ms.saturating_sub(now_ms()).min(3_600_000));
        // A disk that fails fails again at once: what has run out is not worth a thread that does nothing else.
        let again = self
            .failure
            .as_ref()
            .map_or(Duration::ZERO, |failure| RETRY.saturating_sub(failure.logged_at.elapsed()));
        next.max(again)
    }

    /// One transaction: the batch, and the leases that have run out. Either all of it is on disk when the
    /// answers go out, or every command is told of the failure and nothing has changed.
    fn commit(&mut self, mut batch: Vec<Command>) {
        let mut outcome = Outcome::default();
        match self.write(&mut batch, &mut outcome) {
            Ok(()) => {
                self.failure = None;
                self.announce(outcome);
            }
            Err(error) => {
                if self.is_worth_a_line(&error, Instant::now()) {
                    log::error!("{error}");
                }
                let failed = Error::Unavailable(error);
                for (done, _) in outcome.answers {
                    let _ = done.send(Err(failed.clone()));
                }
                for (_, done) in outcome.watchers {
                    let _ = done.send(Err(failed.clone()));
                }
                for command in batch {
                    let _ = command.done().send(Err(failed.clone())); // there was not even a transaction
                }
            }
        }
    }

    /// The same text counts once a [`RETRY`], however many writes it meets.
    fn is_worth_a_line(&mut self, error: &str, now: Instant) -> bool {
        let last = self.failure.as_ref();
        if last.is_some_and(|last| last.text == error && now.duration_since(last.logged_at) < RETRY) {
            return false;
        }
        self.failure = Some(Failure { logged_at: now, text: error.to_owned() });
        true
    }

    /// The commands that it leaves in `batch` have not been looked at.
    fn write(&self, batch: &mut Vec<Command>, outcome: &mut Outcome) -> Result<(), String> {
        let now_ms = now_ms();
        let expired: Vec<Box<str>> = self
            .leases
            .iter()
            .take_while(|(at_ms, _)| *at_ms <= now_ms)
            .map(|(_, key)| key.clone())
            .collect();
        let failed = |e: &dyn std::fmt::Display| format!("the embedded store failed to write: {e}");
        let transaction = self.disk.begin().map_err(|e| failed(&e))?;
        let mut tables = transaction.tables().map_err(|e| failed(&e))?;
        outcome.revision = tables.revision().map_err(|e| failed(&e))?;
        let before = outcome.revision;
        let mut result = Ok(());
        // First of all: who writes such a key now writes a new one, and is not answered for what is gone at once.
        for key in expired {
            let step = outcome.remove(&mut tables, &key, false);
            result = result.and(step.map_err(|e| failed(&e)).map(drop));
        }
        // A failed write fails the whole batch, but every command must still reach `outcome` to be told.
        for command in batch.drain(..) {
            let step = outcome.take(&mut tables, command, now_ms);
            result = result.and(step.map_err(|e| failed(&e)));
        }
        result?;
        if outcome.revision == before {
            return Ok(()); // nothing to make durable; the transaction is dropped
        }
        tables.set_revision(outcome.revision).map_err(|e| failed(&e))?;
        drop(tables);
        transaction.commit().map_err(|e| failed(&e))
    }

    fn announce(&mut self, outcome: Outcome) {
        for (key, until_ms) in outcome.leases {
            self.leases.retain(|(_, leased)| *leased != key);
            self.leases.extend(until_ms.map(|at_ms| (at_ms, key)));
        }
        if !outcome.changes.is_empty() {
            let event = Event::Changes { changes: outcome.changes, revision: outcome.revision };
            self.watchers.retain(|watcher| watcher.blocking_send(event.clone()).is_ok());
        }
        for (done, answer) in outcome.answers {
            let _ = done.send(answer); // the asker may have gone; the write stands
        }
        for (events, done) in outcome.watchers {
            let answer = self.disk.list("/").map(|(entries, revision)| {
                if events.blocking_send(Event::Snapshot { entries, revision }).is_ok() {
                    self.watchers.push(events);
                }
                Written { revision, existed: true }
            });
            let _ = done.send(answer);
        }
    }
}

impl Outcome {
    fn take(
        &mut self,
        tables: &mut Tables<'_>,
        command: Command,
        now_ms: u64,
    ) -> Result<(), redb::StorageError> {
        match command {
            Command::Put { key, value, expect, ttl_s, done } => {
                let until_ms = ttl_s.map(|s| now_ms + s.clamp(0, limits::TTL_S) as u64 * 1000);
                let (answer, result) = split(self.put(tables, key, value, expect, until_ms));
                self.answers.push((done, answer));
                result
            }
            Command::Delete { key, below, done } => {
                let (answer, result) = split(self.remove(tables, &key, below).map(Ok));
                self.answers.push((done, answer));
                result
            }
            Command::Watch { events, done } => {
                self.watchers.push((events, done));
                Ok(())
            }
        }
    }

    fn put(
        &mut self,
        tables: &mut Tables<'_>,
        key: Box<str>,
        value: Bytes,
        expect: Option<i64>,
        until_ms: Option<u64>,
    ) -> Result<Result<Written, Error>, redb::StorageError> {
        let old = tables.get(&key)?;
        let old_revision = old.as_ref().map_or(0, |old| old.mod_revision);
        if expect.is_some_and(|expected| expected != old_revision) {
            return Ok(Err(Error::Conflict));
        }
        self.revision += 1;
        let create_revision = old.as_ref().map_or(self.revision, |old| old.create_revision);
        let change =
            Change { key: key.clone(), value: Some(value), create_revision, mod_revision: self.revision };
        tables.apply(&change, until_ms)?;
        self.leases.push((key, until_ms));
        self.changes.push(change);
        Ok(Ok(Written { revision: self.revision, existed: old.is_some() }))
    }

    /// All keys of one delete share one revision, as in etcd.
    fn remove(
        &mut self,
        tables: &mut Tables<'_>,
        key: &str,
        below: bool,
    ) -> Result<Written, redb::StorageError> {
        let found = if below { tables.list(key)? } else { tables.get(key)?.into_iter().collect() };
        if found.is_empty() {
            // A lease without its key would wake the thread for ever.
            self.leases.push((key.into(), None));
            return Ok(Written { revision: self.revision, existed: false });
        }
        self.revision += 1;
        for entry in found {
            let change =
                Change { key: entry.key, value: None, create_revision: 0, mod_revision: self.revision };
            tables.apply(&change, None)?;
            self.leases.push((change.key.clone(), None));
            self.changes.push(change);
        }
        Ok(Written { revision: self.revision, existed: true })
    }
}

/// A command's own answer, and whether the batch can go on.
fn split<E: std::fmt::Display>(
    result: Result<Result<Written, Error>, E>,
) -> (Result<Written, Error>, Result<(), E>) {
    match result {
        Ok(answer) => (answer, Ok(())),
        Err(error) => (Err(Error::Unavailable(error.to_string())), Err(error)),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::control::store::tests::TempDir;

    fn writer(disk: Disk) -> Writer {
        Writer { disk: Arc::new(disk), leases: BTreeSet::new(), watchers: Vec::new(), failure: None }
    }

    fn put(value: &'static str) -> (Command, oneshot::Receiver<Result<Written, Error>>) {
        let (done, answer) = oneshot::channel();
        let value = Bytes::from_static(value.as_bytes());
        let command = Command::Put { key: "/routes/1".into(), value, expect: None, ttl_s: Some(60), done };
        (command, answer)
    }

    #[test]
    fn a_renewal_at_the_end_of_its_lease_stays() {
        let directory = TempDir::new();
        let mut writer = writer(Disk::open(&directory.0.join(FILE)).unwrap());
        writer.commit(vec![put("old").0]);
        let (events, mut told) = mpsc::channel(4);
        writer.watchers.push(events);
        // Its time is over, and nobody has looked yet.
        writer.leases = BTreeSet::from([(now_ms() - 1, "/routes/1".into())]);
        let (renewal, mut answer) = put("new");
        writer.commit(vec![renewal]);
        assert!(answer.try_recv().unwrap().is_ok());
        assert_eq!(writer.disk.get("/routes/1").unwrap().unwrap().value, "new");
        assert!(writer.leases.first().is_some_and(|(at_ms, _)| *at_ms > now_ms() + 50_000));
        let Ok(Event::Changes { changes, .. }) = told.try_recv() else { panic!() };
        assert_eq!(changes.last().unwrap().value, Some("new".into()));
    }

    #[test]
    fn a_disk_that_fails_is_not_asked_without_pause() {
        let fails = Arc::new(AtomicBool::new(false));
        let mut writer = writer(Disk::that_fails_when(fails.clone()));
        writer.commit(vec![put("old").0]);
        writer.leases = BTreeSet::from([(now_ms() - 1, "/routes/1".into())]);
        assert_eq!(writer.until_next_lease(), Duration::ZERO);
        fails.store(true, Ordering::SeqCst);
        writer.commit(Vec::new());
        let wait = writer.until_next_lease();
        assert!(wait > RETRY / 2 && wait <= RETRY, "{wait:?}");
        // Who writes meanwhile is told at once, and why.
        let (command, mut answer) = put("new");
        writer.commit(vec![command]);
        let told = answer.try_recv().unwrap();
        assert!(matches!(&told, Err(Error::Unavailable(why)) if why.contains("failed to write")), "{told:?}");
        assert!(writer.until_next_lease() <= RETRY);
    }

    #[test]
    fn a_failure_of_the_disk_is_logged_once_a_wait() {
        let directory = TempDir::new();
        let mut writer = writer(Disk::open(&directory.0.join(FILE)).unwrap());
        let begin = Instant::now();
        let mut is_logged = |error: &str, after: Duration| writer.is_worth_a_line(error, begin + after);
        assert!(is_logged("full", Duration::ZERO));
        assert!(!is_logged("full", RETRY / 2));
        assert!(is_logged("read-only", RETRY / 2));
        assert!(!is_logged("read-only", RETRY));
        assert!(is_logged("read-only", RETRY * 2));
    }

    #[test]
    fn a_batch_has_a_most_and_loses_nothing_of_the_next() {
        let (commands, mut queue) = mpsc::channel(2 * limits::STORE_BATCH);
        let delete = || Command::Delete { key: "/routes/1".into(), below: false, done: oneshot::channel().0 };
        for _ in 0..limits::STORE_BATCH + 2 {
            assert!(commands.try_send(delete()).is_ok());
        }
        assert_eq!(gathered(Some(delete()), &mut queue).len(), limits::STORE_BATCH);
        assert_eq!(gathered(None, &mut queue).len(), 3);
        assert_eq!(gathered(None, &mut queue).len(), 0);
    }
}
