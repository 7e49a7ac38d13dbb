//! Objects from `conf/apisix.yaml` or `conf/apisix.json`, read again whenever the file changes
//! (apisix/core/config_yaml.lua). The file is the only writer; what differs from the last reading becomes
//! changes under one revision per reading.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::mpsc;

use super::document::{Keys, nothing_is_a_table, objects};
use super::{Entry, Event, Listing};
use crate::config::{substitute, yaml};
use crate::limits;

/// A handle to the file's last reading. Cheap to clone.
#[derive(Clone)]
pub struct File {
    path: Arc<Path>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    keys: Keys,
    modified: Option<SystemTime>,
}

impl File {
    /// Reads the file. One that cannot be read is reported and tried again every second, as in APISIX:
    /// until it can be, there is no object.
    pub fn open(path: PathBuf) -> File {
        let file = File { path: path.into(), state: Arc::default() };
        if let Err(failure) = file.read(&|name| std::env::var(name).ok()) {
            log::error!("{failure}");
        }
        file
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.state().keys.get(key)
    }

    pub(super) fn list(&self, dir: &str) -> Listing {
        self.state().keys.list(dir)
    }

    /// Starts looking at the file once a second. To be called once, inside the control runtime.
    pub(super) fn watch(&self) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(limits::WATCH_QUEUE);
        tokio::spawn(follow(self.clone(), events));
        receiver
    }

    /// Has it been read once?
    pub(super) fn is_read(&self) -> bool {
        self.snapshot().is_some()
    }

    /// All there is, once the file has been read.
    fn snapshot(&self) -> Option<Event> {
        self.state().keys.snapshot()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file if it has changed since: `None` when it has not.
    fn read(&self, env: substitute::Environment<'_>) -> Result<Option<Event>, String> {
        let path = self.path.display();
        let metadata =
            fs::metadata(&self.path).map_err(|e| format!("failed to fetch {path} attributes: {e}"))?;
        let modified = metadata.modified().ok();
        if self.state().modified == modified && modified.is_some() {
            return Ok(None);
        }
        let text = fs::read_to_string(&self.path).map_err(|e| format!("failed to open file {path} : {e}"))?;
        let tree = if self.path.extension().is_some_and(|ext| ext == "json") {
            json(&text, env)
        } else {
            yaml(&text, &self.path, env)
        }
        .map_err(|e| format!("failed to parse the content of file {path}: {e}"))?;
        let new = objects(&tree);
        let mut state = self.state();
        state.modified = modified;
        Ok(Some(state.keys.take(new)))
    }
}

async fn follow(file: File, events: mpsc::Sender<Event>) {
    let first = file.snapshot();
    let mut told = first.is_some();
    let _ = events.send(first.unwrap_or_else(Event::nothing)).await; // who does not listen any more is seen below
    let mut last_failure = String::new();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if events.is_closed() {
            return;
        }
        match file.read(&|name| std::env::var(name).ok()) {
            Ok(None) => {}
            Ok(Some(event)) => {
                log::warn!("config file {} reloaded.", file.path.display());
                last_failure.clear();
                let event = if told { event } else { file.snapshot().unwrap_or(event) };
                told = events.send(event).await.is_ok();
            }
            Err(failure) if failure == last_failure => {}
            Err(failure) => {
                log::error!("{failure}");
                last_failure = failure;
            }
        }
    }
}

/// A file that is still being written has no end flag yet: `#END` within the last ten bytes.
pub fn has_end(text: &str) -> bool {
    let tail = &text.as_bytes()[text.len().saturating_sub(10)..];
    tail.trim_ascii_end().ends_with(b"#END")
}

fn yaml(text: &str, path: &Path, env: substitute::Environment<'_>) -> Result<Value, String> {
    if !has_end(text) {
        return Err(format!("missing valid end flag in file {}", path.display()));
    }
    // Variables are replaced before parsing, so that quotes in the file decide types.
    let (text, _) = substitute::text(text, env)?;
    let tree = yaml::parse(&text).map_err(|bad| format!("line {}: {}", bad.line, bad.text))?;
    let mut tree = tree.to_json();
    nothing_is_a_table(&mut tree);
    Ok(tree)
}

fn json(text: &str, env: substitute::Environment<'_>) -> Result<Value, String> {
    // JSON is YAML, and the tree knows how to replace variables after parsing, which is APISIX's order here.
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| format!("failed to decode json: {e}"))?;
    let mut tree = yaml::parse(text).map_err(|bad| format!("line {}: {}", bad.line, bad.text))?;
    substitute::tree(&mut tree, env).map_err(|(line, why)| format!("line {line}: {why}"))?;
    Ok(tree.to_json())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::tests::{TempDir, block_on};
    use super::*;

    fn write(path: &Path, text: &str, second: u64) {
        fs::write(path, text).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).unwrap();
    }

    fn keys(file: &File, dir: &str) -> Vec<String> {
        file.list(dir).entries.into_iter().map(|entry| entry.key.into()).collect()
    }

    #[test]
    fn nothing_stands_for_an_empty_table() {
        let tree = yaml(
            "routes:\nplugins:\nconsumers:\n- username: jack\n  plugins:\n    key-auth:\n#END",
            Path::new("x"),
            &|_| None,
        );
        let found = objects(&tree.unwrap());
        let text = |key: &str| String::from_utf8(found[key].to_vec()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(text("/plugins"), "[]");
        assert_eq!(text("/consumers/jack"), r#"{"username":"jack","plugins":{"key-auth":{}},"id":"jack"}"#);
    }

    #[test]
    fn items_become_keys() {
        let directory = TempDir::new();
        let path = directory.0.join("apisix.yaml");
        let text = "
routes:
  - uri: /a
  - {id: 7, uri: /b}
  - not an object
consumers:
  - {username: jack}
  - {id: jack/credentials/k, plugins: {}}
plugins:
  - {name: key-auth}
#END
";
        write(&path, text, 1);
        let file = File::open(path);
        assert_eq!(keys(&file, "/routes"), ["/routes/7", "/routes/arr_1"]);
        assert_eq!(keys(&file, "/consumers"), ["/consumers/jack", "/consumers/jack/credentials/k"]);
        assert_eq!(file.get("/routes/7").unwrap().value, Bytes::from(r#"{"id":"7","uri":"/b"}"#));
        assert_eq!(file.get("/plugins").unwrap().value, Bytes::from(r#"[{"name":"key-auth"}]"#));
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let directory = TempDir::new();
        let path = directory.0.join("apisix.yaml");
        write(&path, "routes:\n  - {id: 1, uri: /a}\n  - {id: 2, uri: /b}\n#END\n", 1);
        let file = File::open(path.clone());
        let env = |_: &str| None;
        assert_eq!(file.read(&env), Ok(None));
        write(&path, "routes:\n  - {uri: /a, id: 1}\n  - {id: 3, uri: /c}\n#END", 2);
        let Ok(Some(Event::Changes { changes, revision: 2 })) = file.read(&env) else { panic!() };
        let changed: Vec<_> = changes.iter().map(|c| (&*c.key, c.value.is_some())).collect();
        assert_eq!(changed, [("/routes/2", false), ("/routes/1", true), ("/routes/3", true)]);
    }

    #[test]
    fn a_file_without_its_end_is_left_alone() {
        let directory = TempDir::new();
        let path = directory.0.join("apisix.yaml");
        write(&path, "routes:\n  - {id: 1, uri: /a}\n#END   \n", 1);
        let file = File::open(path.clone());
        write(&path, "routes:\n  - {id: 2, uri: /a}\n", 2);
        let error = file.read(&|_| None).unwrap_err();
        assert!(error.contains("missing valid end flag in file"), "{error}");
        assert_eq!(keys(&file, "/routes"), ["/routes/1"]);
        assert!(File::open(path).snapshot().is_none(), "nothing is known of a file that cannot be read");
    }

    #[test]
    fn variables_are_replaced() {
        let directory = TempDir::new();
        let path = directory.0.join("apisix.yaml");
        write(&path, "routes:\n  - {id: 1, uri: '${{WHERE}}', priority: ${{N:=3}}}\n#END\n", 1);
        let file = File { path: path.into(), state: Arc::default() };
        file.read(&|name| (name == "WHERE").then(|| "/there".into())).unwrap();
        let value = file.get("/routes/1").unwrap().value;
        assert_eq!(value, Bytes::from(r#"{"id":"1","uri":"/there","priority":3}"#));
    }

    #[test]
    fn json_needs_no_end() {
        let directory = TempDir::new();
        let path = directory.0.join("apisix.json");
        write(&path, r#"{"routes": [{"id": "1", "uri": "/a"}]}"#, 1);
        let file = File::open(path.clone());
        assert_eq!(keys(&file, "/routes"), ["/routes/1"]);
        write(&path, "{routes: []}", 2);
        assert!(file.read(&|_| None).unwrap_err().contains("failed to decode json"));
    }

    #[test]
    fn the_watch_sees_a_new_file() {
        let directory = TempDir::new();
        let path = directory.0.join("apisix.yaml");
        write(&path, "routes: []\n#END\n", 1);
        block_on(async {
            let file = File::open(path.clone());
            let mut events = file.watch();
            assert!(
                matches!(events.recv().await, Some(Event::Snapshot { entries, .. }) if entries.is_empty())
            );
            write(&path, "routes:\n  - {id: 1, uri: /a}\n#END\n", 2);
            let event = events.recv().await;
            assert!(matches!(event, Some(Event::Changes { changes, .. }) if &*changes[0].key == "/routes/1"));
        });
    }
}
