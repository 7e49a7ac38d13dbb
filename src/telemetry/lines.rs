//! One core's part of a log file: lines gather in a buffer and leave for the writer's thread in pieces.

use super::file::LogFile;
use crate::limits;

/// One core's part of a log file.
#[derive(Debug)]
pub struct LogLines {
    file: LogFile,
    lines: Vec<u8>,
    /// A buffer this long leaves, bytes.
    full: usize,
    /// When the oldest line in the buffer was written.
    since_ms: u64,
}

impl LogLines {
    /// A buffer of `buffer_bytes` in front of `file`, bounded.
    pub fn new(file: LogFile, buffer_bytes: usize) -> LogLines {
        let full = buffer_bytes.clamp(1, limits::ACCESS_LOG_BUFFER_BYTES);
        LogLines { file, lines: Vec::with_capacity(full), full, since_ms: 0 }
    }

    /// Appends one line, which `write` forms without its end.
    pub fn line(&mut self, now_ms: u64, write: impl FnOnce(&mut Vec<u8>)) {
        if self.lines.is_empty() {
            self.since_ms = now_ms;
        }
        write(&mut self.lines);
        self.lines.push(b'\n');
        if self.lines.len() >= self.full {
            self.send();
        }
    }

    /// No line waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Lets lines go that are [`limits::ACCESS_LOG_AGE_MS`] old: call it about once a second.
    pub fn tick(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.since_ms) >= limits::ACCESS_LOG_AGE_MS {
            self.send();
        }
    }

    /// Hands all lines to the writer, whose full queue drops and counts them.
    pub fn send(&mut self) {
        if !self.lines.is_empty() {
            let fresh = Vec::with_capacity(self.full);
            self.file.write(std::mem::replace(&mut self.lines, fresh));
        }
    }
}

/// The last lines of a core leave with it.
impl Drop for LogLines {
    fn drop(&mut self) {
        self.send();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::telemetry::file::{Target, tests::scratch};

    #[test]
    fn lines_leave_when_the_buffer_is_full_or_old_or_the_core_ends() {
        let path = scratch("lines/access.log");
        let _ = fs::remove_file(&path);
        let file = LogFile::open("test", Target::File(path.clone()), 8).unwrap();
        let written = || {
            file.flush(Duration::from_secs(5));
            fs::read_to_string(&path).unwrap()
        };
        let mut log = LogLines::new(file.clone(), 10);
        log.line(1000, |out| out.extend(b"four"));
        log.tick(3999);
        assert_eq!(written(), "");
        log.tick(4000);
        assert_eq!(written(), "four\n");
        log.line(5000, |out| out.extend(b"more than ten"));
        assert_eq!(written(), "four\nmore than ten\n");
        log.line(5000, |out| out.extend(b"end"));
        drop(log);
        assert_eq!(written(), "four\nmore than ten\nend\n");
    }

    #[test]
    fn a_buffer_has_a_largest_size() {
        let path = scratch("lines/large.log");
        let _ = fs::remove_file(&path);
        let file = LogFile::open("test", Target::File(path.clone()), 8).unwrap();
        let mut log = LogLines::new(file.clone(), usize::MAX);
        log.line(0, |out| out.resize(limits::ACCESS_LOG_BUFFER_BYTES, b'x'));
        file.flush(Duration::from_secs(5));
        assert_eq!(fs::metadata(&path).unwrap().len() as usize, limits::ACCESS_LOG_BUFFER_BYTES + 1);
    }
}
