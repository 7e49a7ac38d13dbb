//! The error log: the `log` crate's macros, written in nginx's form by a thread of its own.
//!
//! `2026/11/21 11:53:53 [warn] 1234#1250: text`, process and thread after the level, local time.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::file::{LogFile, Target};
use crate::limits;
use crate::reactor::nice;

/// The one error log of the process, once it is open.
static LOG: OnceLock<ErrorLog> = OnceLock::new();

struct ErrorLog {
    file: LogFile,
}

/// Opens the error log and makes it that of the `log` macros. `level` is nginx's name of the lowest level
/// written; the levels that the macros lack fall to the next one they have ([`filter`]).
pub fn start(target: Target, level: &str) -> io::Result<()> {
    let file = LogFile::open("error-log", target, limits::ERROR_LOG_QUEUE)?;
    LOG.set(ErrorLog { file }).map_err(|_| io::Error::other("the error log is already open"))?;
    if let Some(log) = LOG.get() {
        log::set_logger(log).map_err(io::Error::other)?;
    }
    log::set_max_level(filter(level));
    tell_panics();
    Ok(())
}

/// A panic ends a task, and the process goes on: it has a line beside what it prints.
fn tell_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log::error!("{}", panic.to_string().replace('\n', " "));
        before(panic);
    }));
}

/// Another lowest level from now on.
pub fn set_level(level: &str) {
    log::set_max_level(filter(level));
}

/// Which macros write at an nginx level: `notice` is between `info!` and `warn!`, what is above `error` still
/// shows `error!`, so that no level hides a failure.
pub fn filter(level: &str) -> LevelFilter {
    match level {
        "debug" => LevelFilter::Debug,
        "info" => LevelFilter::Info,
        "notice" | "warn" => LevelFilter::Warn,
        _ => LevelFilter::Error,
    }
}

/// Opens the file anew (USR1).
pub fn reopen() {
    if let Some(log) = LOG.get() {
        log.file.reopen();
    }
}

/// Waits until all lines are written, a second at most. For the end of the process.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.file.flush(Duration::from_secs(1));
    }
}

/// Lines lost to a full queue.
pub fn dropped() -> u64 {
    LOG.get().map_or(0, |log| log.file.dropped())
}

impl Log for ErrorLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = jiff::Zoned::now();
            self.file.write(line(&now, record.level(), *record.args()));
        }
    }

    fn flush(&self) {
        flush();
    }
}

fn line(now: &jiff::Zoned, level: Level, text: fmt::Arguments<'_>) -> Vec<u8> {
    let name = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    let mut line = String::with_capacity(256);
    let date = now.strftime("%Y/%m/%d %H:%M:%S");
    // writing to a String cannot fail
    let _ = write!(line, "{date} [{name}] {}#{}: ", std::process::id(), thread_id());
    // what is cut off of a line that is too long ends its writing
    let _ = Text(&mut line).write_fmt(text);
    line.push('\n');
    line.into_bytes()
}

/// The text of a line. One record is one line: a line end inside, which may come from a client, is made visible.
struct Text<'a>(&'a mut String);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.len() >= limits::ERROR_LOG_LINE {
                return Err(fmt::Error);
            }
            match c {
                c if c.is_control() && c != '\t' => write!(self.0, "\\x{:02X}", u32::from(c))?,
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// [`nice::thread_id`] without a system call a line.
fn thread_id() -> i32 {
    thread_local!(static ID: Cell<i32> = const { Cell::new(0) });
    ID.with(|id| {
        if id.get() == 0 {
            id.set(nice::thread_id());
        }
        id.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_nginx_and_stay_one_line() {
        let now: jiff::Zoned = "2026-11-21T11:53:53+00:00[UTC]".parse().unwrap();
        let text = "bad\n2026 [error] fake\tx";
        let text = String::from_utf8(line(&now, Level::Warn, format_args!("{text}"))).unwrap();
        let want = format!(
            "2026/11/21 11:53:53 [warn] {}#{}: bad\\x0A2026 [error] fake\tx\n",
            std::process::id(),
            thread_id()
        );
        assert_eq!(text, want);
    }

    #[test]
    fn a_line_has_a_longest_length() {
        for text in ["x", "é", "\n"].map(|text| text.repeat(1 << 20)) {
            let line = line(&jiff::Zoned::now(), Level::Error, format_args!("{text}"));
            assert!(
                (limits::ERROR_LOG_LINE..limits::ERROR_LOG_LINE + 5).contains(&line.len()),
                "{}",
                line.len()
            );
            assert!(String::from_utf8(line).is_ok_and(|line| line.ends_with('\n')));
        }
    }

    #[test]
    fn levels() {
        for (name, want) in [
            ("debug", LevelFilter::Debug),
            ("info", LevelFilter::Info),
            ("notice", LevelFilter::Warn),
            ("warn", LevelFilter::Warn),
            ("error", LevelFilter::Error),
            ("crit", LevelFilter::Error),
            ("emerg", LevelFilter::Error),
        ] {
            assert_eq!(filter(name), want, "{name}");
        }
    }
}
