//! `conf/debug.yaml`, looked at once a second (apisix/debug.lua). Of its sections only `basic` has a meaning
//! here: the hooks name functions of Lua modules.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::Outbox;
use super::plugins::Plugins;
use super::store::has_end;
use crate::config::yaml;
use crate::mail::ToCore;

/// The file, and what it said when it was read last.
pub struct DebugFile {
    path: PathBuf,
    seen: Option<Seen>,
}

/// What tells one writing of the file from another: the time alone does not, for a file system's clock ticks every
/// few milliseconds.
#[derive(PartialEq, Eq)]
struct Seen {
    changed: (i64, i64),
    inode: u64,
    bytes: u64,
}

impl DebugFile {
    /// Nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        DebugFile { path, seen: None }
    }

    /// `basic.enable`, if the file has changed since it was read last. Without a file the mode stays as it is.
    fn read(&mut self) -> Option<bool> {
        let metadata = fs::metadata(&self.path).ok()?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let seen = Some(Seen { changed, inode: metadata.ino(), bytes: metadata.len() });
        if seen == self.seen {
            return None;
        }
        self.seen = seen;
        let path = self.path.display();
        let text = fs::read_to_string(&self.path)
            .inspect_err(|error| log::error!("failed to open file {path} : {error}"))
            .ok()?;
        if !has_end(&text) {
            log::warn!("missing valid end flag in file {path}");
            return None;
        }
        let tree = yaml::parse(&text)
            .inspect_err(|bad| {
                log::error!("failed to parse the content of file {path}: line {}: {}", bad.line, bad.text)
            })
            .ok()?
            .to_json();
        for section in ["basic", "http_filter", "hook_conf"] {
            if !tree.get(section).is_some_and(serde_json::Value::is_object) {
                log::error!("failed to validate debug config property \"{section}\" is required");
            }
        }
        tree.pointer("/basic/enable")?.as_bool()
    }

    /// Tells the cores whenever the mode is switched.
    pub async fn follow(mut self, plugins: Arc<Plugins>, outbox: Arc<Outbox>) {
        let mut on = false;
        loop {
            if let Some(basic) = self.read()
                && basic != on
            {
                on = basic;
                outbox.send(&ToCore::Debug { basic });
                if basic {
                    plugins.log_order();
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::TempDir;
    use super::*;

    #[test]
    fn the_switch_is_read_when_the_file_has_changed_and_is_whole() {
        let directory = TempDir::new();
        let path = directory.0.join("debug.yaml");
        let mut file = DebugFile::new(path.clone());
        assert_eq!(file.read(), None, "there is no file");
        let write = |basic: &str, end: &str| {
            let text = format!("basic:\n  enable: {basic}\nhttp_filter: {{}}\nhook_conf: {{}}\n{end}");
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
        };
        write("true", "#END\n");
        assert_eq!((file.read(), file.read()), (Some(true), None));
        write("false", "");
        assert_eq!(file.read(), None, "it is still being written");
        write("false", "#END");
        assert_eq!(file.read(), Some(false));
        write("[", "#END");
        assert_eq!(file.read(), None);
    }
}
