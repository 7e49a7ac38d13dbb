//! The files that loggers write, each open once for all cores.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::limits;
use crate::telemetry::file::{LogFile, Target};

static FILES: LazyLock<Mutex<HashMap<PathBuf, LogFile>>> = LazyLock::new(Mutex::default);

fn files() -> MutexGuard<'static, HashMap<PathBuf, LogFile>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file at this path, opened now if it is not. It stays open while the gateway runs: there are as many as
/// paths in configurations.
pub fn open(path: &Path) -> io::Result<LogFile> {
    let mut files = files();
    if let Some(file) = files.get(path) {
        return Ok(file.clone());
    }
    let file = LogFile::open("file-logger", Target::File(path.to_owned()), limits::FILE_LOGGER_QUEUE)?;
    files.insert(path.to_owned(), file.clone());
    Ok(file)
}

/// Opens all of them anew before their next line (signal USR1, after a rotation).
pub fn reopen() {
    files().values().for_each(LogFile::reopen);
}

/// Lines that found a queue full.
pub fn dropped() -> u64 {
    files().values().map(LogFile::dropped).sum()
}

/// Waits until what was written is in the files.
pub fn flush() {
    let open: Vec<LogFile> = files().values().cloned().collect();
    open.iter().for_each(|file| file.flush(std::time::Duration::from_millis(limits::LOG_BATCHES_MS)));
}
