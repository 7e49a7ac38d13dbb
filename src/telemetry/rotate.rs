//! Rotation of log files: renamed by the clock or by their size, compressed, and the oldest removed
//! (apisix/plugins/log-rotate.lua).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// `plugin_attr.log-rotate`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Between two rotations, seconds; they begin at multiples of it.
    pub interval_s: u64,
    /// Rotated files that stay, of each log.
    pub max_kept: usize,
    /// A log is rotated when it has so many bytes, too.
    pub max_size: Option<u64>,
    /// Rotated files become `.tar.gz`.
    pub compress: bool,
}

/// The logs of a node, and when they are due.
#[derive(Debug)]
pub struct Rotator {
    rules: Rules,
    logs: Vec<PathBuf>,
    /// `None` until the first look at the clock.
    due_s: Option<u64>,
}

/// What a look at the clock brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Their new names. The logs must be opened anew before they are compressed.
    pub files: Vec<PathBuf>,
    /// The logs, whose oldest files are to be removed.
    pub logs: Vec<PathBuf>,
}

impl Rotator {
    /// For these files.
    pub fn new(rules: Rules, logs: Vec<PathBuf>) -> Self {
        Rotator { rules, logs, due_s: None }
    }

    /// Renames what is due at `now_s` (since 1970); `stamp` is the time as it stands in the names.
    pub fn look(&mut self, now_s: u64, stamp: &str) -> Rotated {
        let interval_s = self.rules.interval_s.max(1);
        let next_s = now_s + interval_s - now_s % interval_s;
        let due_s = *self.due_s.get_or_insert(next_s);
        let by_time = now_s >= due_s;
        // a clock that was set back must not put the next rotation off until it is there again
        if by_time || due_s > next_s {
            self.due_s = Some(next_s);
        }
        let large = |log: &Path| {
            self.rules.max_size.is_some_and(|most| fs::metadata(log).is_ok_and(|data| data.len() >= most))
        };
        let mut rotated = Rotated::default();
        for log in self.logs.iter().filter(|log| by_time || large(log)) {
            let name = log.file_name().unwrap_or_default().to_string_lossy();
            let to = log.with_file_name(format!("{stamp}__{name}"));
            // an hour that comes twice, when clocks are set back, has an archive already: this log goes on
            if archive_of(&to).exists() {
                continue;
            }
            match if to.exists() { Ok(()) } else { fs::rename(log, &to) } {
                Ok(()) => {
                    rotated.files.push(to);
                    rotated.logs.push(log.clone());
                }
                Err(error) => {
                    log::error!("move file from {} to {}: {error}", log.display(), to.display());
                }
            }
        }
        rotated
    }

    /// Compresses what was rotated, if the rules say so, and removes what is too old.
    pub fn tidy(&self, rotated: &Rotated) {
        for file in rotated.files.iter().filter(|_| self.rules.compress) {
            if let Err(error) = compress(file) {
                log::error!("compress log file {}: {error}", file.display());
            }
        }
        for log in &rotated.logs {
            for old in kept(log).into_iter().skip(self.rules.max_kept) {
                if let Err(error) = fs::remove_file(&old) {
                    log::error!("remove old log file: {} err: {error}", old.display());
                }
            }
        }
    }
}

/// The rotated files of a log, the newest first.
fn kept(log: &Path) -> Vec<PathBuf> {
    let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let packed = format!("{name}.tar.gz");
    let Some(Ok(entries)) = log.parent().map(fs::read_dir) else { return Vec::new() };
    let is_one = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.split_once("__").is_some_and(|(stamp, of)| is_stamp(stamp) && (of == name || of == packed))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_one).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    files
}

/// A log's own name may have `__` in it: what stands before the first is the time.
fn is_stamp(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'_'))
}

fn archive_of(file: &Path) -> PathBuf {
    file.with_file_name(format!("{}.tar.gz", file.file_name().unwrap_or_default().to_string_lossy()))
}

/// Makes `FILE.tar.gz` of `FILE`, or leaves everything as it was.
fn compress(path: &Path) -> io::Result<()> {
    let packed = archive_of(path);
    pack(path, &packed).inspect_err(|_| drop(fs::remove_file(&packed)))?;
    fs::remove_file(path)
}

fn pack(path: &Path, packed: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut from = File::open(path)?;
    let length = from.metadata()?.len();
    let mut to = GzEncoder::new(File::create(packed)?, Compression::default());
    to.write_all(&tar_header(&name, length))?;
    let copied = io::copy(&mut Read::by_ref(&mut from).take(length), &mut to)?;
    // blocks of 512 bytes, and two empty ones at the end
    let padding = (512 - copied % 512) % 512 + 1024;
    to.write_all(&vec![0; padding as usize])?;
    to.finish().map(drop)
}

/// The header of one plain file (POSIX ustar).
fn tar_header(name: &str, length: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name.get(..100).unwrap_or(name.get(..name.len().min(99)).unwrap_or("log")));
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    let octal = format!("{length:011o}\0");
    put(124, octal.get(..12).unwrap_or_default());
    put(136, "00000000000\0");
    put(148, "        "); // counts as blanks in its own sum
    put(156, "0");
    put(257, "ustar\x0000");
    if octal.len() > 12 {
        // as GNU and POSIX 2001 write what has more than eleven octal digits: a mark, and the number itself
        header[124..136].fill(0);
        header[124] = 0x80;
        header[128..136].copy_from_slice(&length.to_be_bytes());
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ringway-rotate-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir.join("error.log")
    }

    fn names(log: &Path) -> Vec<String> {
        let names = fs::read_dir(log.parent().unwrap()).unwrap().flatten();
        let mut names: Vec<String> = names.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    const RULES: Rules = Rules { interval_s: 60, max_kept: 2, max_size: None, compress: false };

    #[test]
    fn by_the_clock_and_only_some_are_kept() {
        let log = scratch("clock");
        let mut rotator = Rotator::new(RULES, vec![log.clone()]);
        fs::write(&log, "zero").unwrap();
        assert_eq!(rotator.look(100, "a"), Rotated::default());
        assert_eq!(rotator.look(119, "a"), Rotated::default());
        for (now_s, stamp) in [(120, "1"), (180, "2"), (245, "3")] {
            fs::write(&log, stamp).unwrap();
            let rotated = rotator.look(now_s, stamp);
            assert_eq!(rotated.files, [log.with_file_name(format!("{stamp}__error.log"))]);
            rotator.tidy(&rotated);
            assert_eq!(rotator.look(now_s + 1, "never"), Rotated::default());
        }
        assert_eq!(names(&log), ["2__error.log", "3__error.log"]);
        assert_eq!(rotator.look(600, "4"), Rotated::default(), "a log that is not there");
    }

    #[test]
    fn a_clock_that_is_set_back_puts_nothing_off() {
        let log = scratch("back");
        let mut rotator = Rotator::new(RULES, vec![log.clone()]);
        fs::write(&log, "zero").unwrap();
        assert_eq!(rotator.look(1_000_000, "a"), Rotated::default());
        assert_eq!(rotator.look(100, "b"), Rotated::default());
        assert_eq!(rotator.look(120, "c").files, [log.with_file_name("c__error.log")]);
    }

    #[test]
    fn a_log_whose_name_has_underscores_keeps_no_more_and_no_less() {
        let error = scratch("underscores");
        let log = error.with_file_name("my__error.log");
        let rotator = Rotator::new(RULES, vec![]);
        let others = ["1__error.log", "my__error.log"];
        let own = ["1__my__error.log", "2__my__error.log", "3__my__error.log.tar.gz"];
        others.iter().chain(&own).for_each(|name| fs::write(log.with_file_name(name), "").unwrap());
        rotator.tidy(&Rotated { files: vec![], logs: vec![log.clone(), error] });
        assert_eq!(names(&log), [others[0], own[1], own[2], others[1]]);
    }

    #[test]
    fn an_archive_is_not_overwritten_when_its_hour_comes_twice() {
        let log = scratch("twice");
        let rules = Rules { compress: true, ..RULES };
        let mut rotator = Rotator::new(rules, vec![log.clone()]);
        rotator.look(100, "");
        let packed = log.with_file_name("02-00__error.log.tar.gz");
        for now_s in [120, 180] {
            fs::write(&log, "new").unwrap();
            let rotated = rotator.look(now_s, "02-00");
            rotator.tidy(&rotated);
            if now_s == 120 {
                fs::write(&packed, "first").unwrap();
            }
        }
        assert_eq!(fs::read_to_string(&packed).unwrap(), "first");
        assert_eq!(fs::read_to_string(&log).unwrap(), "new", "it goes on until the next time");
        assert_eq!(rotator.look(240, "03-00").files, [log.with_file_name("03-00__error.log")]);
    }

    #[test]
    fn of_an_archive_that_cannot_be_finished_nothing_stays() {
        let log = scratch("half");
        let folder = log.with_file_name("1__error.log");
        fs::create_dir(&folder).unwrap(); // it can be opened, but not read
        assert!(compress(&folder).is_err());
        assert_eq!(names(&log), ["1__error.log"]);
    }

    #[test]
    fn a_very_large_log_has_its_length_in_the_archive() {
        let length = |of: u64| tar_header("a", of)[124..136].to_vec();
        assert_eq!(length(8), b"00000000010\0");
        assert_eq!(length((8 << 30) - 1), b"77777777777\0");
        // the form of GNU and of POSIX 2001 where octal digits do not suffice
        assert_eq!(length(1 << 40), [0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn by_size_and_compressed() {
        let log = scratch("size");
        let rules = Rules { interval_s: 1 << 40, max_size: Some(5), compress: true, ..RULES };
        let mut rotator = Rotator::new(rules, vec![log.clone()]);
        fs::write(&log, "four").unwrap();
        assert_eq!(rotator.look(1, "1"), Rotated::default());
        fs::write(&log, "fiver").unwrap();
        let rotated = rotator.look(2, "2");
        rotator.tidy(&rotated);
        assert_eq!(names(&log), ["2__error.log.tar.gz"]);
        let packed = File::open(log.with_file_name("2__error.log.tar.gz")).unwrap();
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut tar).unwrap();
        assert_eq!(tar.len(), 512 + 512 + 1024);
        assert!(tar.starts_with(b"2__error.log\0") && tar[512..].starts_with(b"fiver\0"));
    }
}
