//! Empty admin keys are made once and kept: in the configuration file, of which only that value changes,
//! or, where that cannot be, in a file of ringway's own.

use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Config, Level, Loaded, Note};
use crate::limits;

/// An admin key that is written as an empty text, or not written at all.
#[derive(Debug, Clone, PartialEq)]
pub struct Empty {
    /// Its place in `admin_key`.
    pub index: usize,
    /// Its `name`.
    pub name: String,
    /// The byte of the file where its value begins; 0 if it does not stand there.
    pub at: usize,
}

/// Gives each empty admin key a value: the one of an earlier start, else 32 letters from `random`, which
/// gives any number. Tells in notes where a new one was written; where it could be written nowhere it holds
/// until the end of the process.
pub fn fill(loaded: &mut Loaded, random: &mut dyn FnMut() -> u32) {
    // the last first: earlier places in the file stay where they are
    for empty in std::mem::take(&mut loaded.empty_keys).into_iter().rev() {
        let config = &mut loaded.config;
        let store = store_path(config, empty.index);
        let (key, note) = match read_store(&store) {
            Some(key) => (key, None),
            None => {
                let key = generate(random);
                let note = keep(config, &empty, &store, &key);
                (key, Some(note))
            }
        };
        if let Some(slot) =
            config.admin.as_mut().and_then(|a| a.keys.as_mut()).and_then(|k| k.get_mut(empty.index))
        {
            slot.key = key;
        }
        loaded.notes.extend(note);
    }
}

/// 32 letters of both cases, as APISIX makes them (apisix/core/id.lua).
fn generate(random: &mut dyn FnMut() -> u32) -> String {
    (0..limits::ADMIN_KEY_LETTERS)
        .map(|_| {
            let n = random() % 52;
            char::from(if n < 26 { b'A' + n as u8 } else { b'a' + (n - 26) as u8 })
        })
        .collect()
}

fn store_path(config: &Config, index: usize) -> PathBuf {
    let name = if index == 0 { "admin.key".to_owned() } else { format!("admin-{index}.key") };
    config.deployment.data.join(name)
}

fn read_store(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let key = text.trim();
    (!key.is_empty()).then(|| key.to_owned())
}

/// Writes a new key where the next start finds it.
fn keep(config: &Config, empty: &Empty, store: &Path, key: &str) -> Note {
    let in_file = match &config.file {
        Some(file) => write_back(file, empty.at, key),
        None => Err(io::Error::other("there is no configuration file")),
    };
    let note = |level, text| Note { level, file: None, line: None, text };
    if let (Ok(()), Some(file)) = (&in_file, &config.file) {
        return note(
            Level::Info,
            format!("admin_key \"{}\" was empty: a new one is in {}", empty.name, file.display()),
        );
    }
    match write_store(store, key) {
        Ok(()) => note(
            Level::Info,
            format!("admin_key \"{}\" was empty: a new one is in {}", empty.name, store.display()),
        ),
        Err(e) => note(
            Level::Warn,
            format!(
                "admin_key \"{}\" was empty: the new one holds for this start only, {} cannot be written: {e}",
                empty.name,
                store.display()
            ),
        ),
    }
}

/// Replaces the empty quotes at byte `at` by the quoted key. The file keeps its inode, owner and mode (it may
/// be a mounted single file); every other byte stays.
fn write_back(path: &Path, at: usize, key: &str) -> io::Result<()> {
    let text = fs::read(path)?;
    let quotes = text.get(at..at + 2).unwrap_or_default();
    if quotes != b"''" && quotes != b"\"\"" {
        return Err(io::Error::other("the key is no empty text in the file"));
    }
    let mut tail = format!("{0}{key}{0}", char::from(quotes[0])).into_bytes();
    tail.extend_from_slice(&text[at + 2..]);
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&tail, at as u64)?;
    file.sync_all()
}

/// Only the owner may read it.
fn write_store(path: &Path, key: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{key}")?;
    file.sync_all()
}
