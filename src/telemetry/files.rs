//! The log files that are open, each once for all cores and for all that follow them at a reload. They stay open while the
//! gateway runs: there are as many as paths in configurations.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::file::{LogFile, Target};
use crate::limits;

/// What is written there; the metrics call it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Log {
    /// Requests, and sessions of layer 4.
    Access,
    /// What the plugin `file-logger` writes.
    FileLogger,
}

impl Log {
    /// All of them.
    pub const ALL: [Log; 2] = [Log::Access, Log::FileLogger];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Log::Access => "access",
            Log::FileLogger => "file-logger",
        }
    }

    fn thread(self) -> (&'static str, usize) {
        match self {
            Log::Access => ("access-log", limits::ACCESS_LOG_QUEUE),
            Log::FileLogger => ("file-logger", limits::FILE_LOGGER_QUEUE),
        }
    }
}

static FILES: Mutex<BTreeMap<(Log, PathBuf), LogFile>> = Mutex::new(BTreeMap::new());

fn files() -> MutexGuard<'static, BTreeMap<(Log, PathBuf), LogFile>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file at this path, opened now if it is not.
///
/// # Errors
/// As the host says.
pub fn open(log: Log, path: &Path) -> io::Result<LogFile> {
    let mut files = files();
    let key = (log, path.to_owned());
    if let Some(file) = files.get(&key) {
        return Ok(file.clone());
    }
    let (thread, queue) = log.thread();
    let file = LogFile::open(thread, Target::File(path.to_owned()), queue)?;
    files.insert(key, file.clone());
    Ok(file)
}

/// Opens all of them anew before their next line (signal USR1, after a rotation).
pub fn reopen() {
    files().values().for_each(LogFile::reopen);
}

/// Lines that found a queue full.
pub fn dropped(log: Log) -> u64 {
    files().iter().filter(|((of, _), _)| *of == log).map(|(_, file)| file.dropped()).sum()
}

/// Waits until what was written is in the files.
pub fn flush() {
    let open: Vec<LogFile> = files().values().cloned().collect();
    open.iter().for_each(|file| file.flush(Duration::from_millis(limits::LOG_BATCHES_MS)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_open_once_and_its_lost_lines_are_those_of_its_log() {
        let full = Path::new("/dev/full");
        let before = Log::ALL.map(dropped);
        let handles = [open(Log::Access, full).unwrap(), open(Log::Access, full).unwrap()];
        for handle in &handles {
            handle.write(b"one\ntwo\n".to_vec());
            handle.flush(Duration::from_secs(5));
        }
        assert_eq!(Log::ALL.map(dropped), [before[0] + 4, before[1]]);
    }
}
