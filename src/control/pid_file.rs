//! The pid file, `logs/ringway.pid`. The process that it names holds a lock on it: a file that a killed process
//! left behind is never mistaken for a running gateway, nor is another process that got its number since.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The pid file of this process, removed when dropped.
pub struct PidFile {
    path: PathBuf,
    /// Keeps the lock.
    _file: File,
}

impl PidFile {
    /// Writes the file and holds it. Another gateway that holds it is an error.
    pub fn hold(path: &Path) -> io::Result<PidFile> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another ringway holds it")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(PidFile { path: path.to_owned(), _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The process that holds a pid file, if there is one.
pub fn running(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        _ => return None,
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::store::tests::TempDir;

    #[test]
    fn only_a_living_process_counts() {
        let directory = TempDir::new();
        let path = directory.0.join("logs/ringway.pid");
        assert_eq!(running(&path), None);
        let held = PidFile::hold(&path).unwrap();
        assert_eq!(running(&path), Some(std::process::id()));
        assert!(PidFile::hold(&path).is_err(), "one gateway a pid file");
        drop(held);
        assert!(!path.exists());
        fs::write(&path, "1\n").unwrap();
        assert_eq!(running(&path), None, "left behind by a process that was killed");
        assert!(PidFile::hold(&path).is_ok());
    }
}
