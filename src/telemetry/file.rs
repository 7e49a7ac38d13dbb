//! A log file and the thread that writes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::reactor::nice;

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard error.
    Stderr,
    /// A file, appended to; its directory is made if need be.
    File(PathBuf),
}

/// A handle to a log file. Clones share the file, its queue and its thread, which ends with the last of
/// them.
#[derive(Debug, Clone)]
pub struct LogFile {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    reopen: AtomicBool,
}

#[derive(Debug)]
enum Job {
    Bytes(Vec<u8>),
    /// Look at the flags.
    Wake,
    /// Everything before this is written: say so.
    Flush(SyncSender<()>),
}

impl LogFile {
    /// Opens the target and starts its thread, named `name`, with a queue of `queue` pieces.
    pub fn open(name: &str, target: Target, queue: usize) -> io::Result<LogFile> {
        let file = open(&target)?;
        let (jobs, inbox) = sync_channel(queue);
        let shared = Arc::new(Shared::default());
        let writer = Writer { target, file, inbox, shared: shared.clone(), complained: false };
        std::thread::Builder::new().name(name.to_owned()).spawn(move || writer.run())?;
        Ok(LogFile { jobs, shared })
    }

    /// Queues whole lines. When the queue is full they are dropped and counted; the answer is false.
    pub fn write(&self, lines: Vec<u8>) -> bool {
        let count = memchr::memchr_iter(b'\n', &lines).count();
        let sent = self.jobs.try_send(Job::Bytes(lines)).is_ok();
        if !sent {
            self.shared.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
        sent
    }

    /// Opens the path anew before the next line (signal USR1, after a rotation).
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // a full queue means that the thread is awake and sees the flag anyway
        let _ = self.jobs.try_send(Job::Wake);
    }

    /// Waits until what was queued before is written, `patience` at most.
    pub fn flush(&self, patience: Duration) {
        let (done, told) = sync_channel(1);
        if self.jobs.try_send(Job::Flush(done)).is_ok() {
            let _ = told.recv_timeout(patience);
        } else {
            std::thread::sleep(patience.min(Duration::from_millis(100)));
        }
    }

    /// Lines lost to a full queue or a failed write.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

struct Writer {
    target: Target,
    file: File,
    inbox: Receiver<Job>,
    shared: Arc<Shared>,
    /// A failed write was told on standard error; not again until one succeeds.
    complained: bool,
}

impl Writer {
    fn run(mut self) {
        nice::stand_back(10);
        while let Ok(job) = self.inbox.recv() {
            if self.shared.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            match job {
                Job::Bytes(bytes) => self.write(&bytes),
                Job::Wake => {}
                Job::Flush(done) => drop(done.try_send(())),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match self.file.write_all(bytes) {
            Ok(()) => self.complained = false,
            Err(e) => {
                let lines = memchr::memchr_iter(b'\n', bytes).count();
                self.shared.dropped.fetch_add(lines as u64, Ordering::Relaxed);
                self.complain(&e);
            }
        }
    }

    /// Keeps the old file if the new one cannot be opened.
    fn reopen(&mut self) {
        match open(&self.target) {
            Ok(file) => self.file = file,
            Err(e) => self.complain(&e),
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if let (false, Target::File(path)) = (self.complained, &self.target) {
            eprintln!("ringway: log {}: {error}", path.display());
        }
        self.complained = true;
    }
}

fn open(target: &Target) -> io::Result<File> {
    match target {
        Target::Stderr => {
            use std::os::fd::AsFd;
            Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
        }
        Target::File(path) => {
            make_directory(path)?;
            OpenOptions::new().append(true).create(true).open(path)
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => fs::create_dir_all(dir),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A path that no other test uses.
    pub(in crate::telemetry) fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ringway-log-{}", std::process::id())).join(name)
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn lines_arrive_and_a_rotated_file_is_opened_anew() {
        let path = scratch("rotate/error.log");
        let _ = fs::remove_file(&path);
        let log = LogFile::open("test", Target::File(path.clone()), 8).unwrap();
        assert!(log.write(b"one\n".to_vec()));
        log.flush(PATIENCE);
        let old = path.with_extension("1");
        fs::rename(&path, &old).unwrap();
        log.write(b"two\n".to_vec());
        log.flush(PATIENCE);
        log.reopen();
        log.write(b"three\n".to_vec());
        log.flush(PATIENCE);
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (jobs, inbox) = sync_channel(1);
        let log = LogFile { jobs, shared: Arc::default() };
        assert!(log.write(b"a\n".to_vec()));
        assert!(!log.write(b"b\nc\n".to_vec()));
        assert_eq!(log.dropped(), 2);
        drop(inbox);
    }

    #[test]
    fn what_cannot_be_opened_is_an_error_at_the_start() {
        assert!(LogFile::open("test", Target::File("/proc/no/such.log".into()), 1).is_err());
    }
}
