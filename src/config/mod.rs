//! config.yaml, read as APISIX reads it.
//!
//! The road: file → [`yaml`] tree with lines → [`substitute`] `${{VAR}}` → [`merge`] check against the known
//! [`options`] and overlay on the compiled-in defaults → [`read`] into the typed [`Config`], where the
//! nginx [`snippet`]s and the port conflicts are looked at. Everything noticed on the way is a [`Note`]
//! with its line; what stops the start is collected, not only the first.

use std::fmt;
use std::path::{Path, PathBuf};

pub mod admin_key;
pub mod args;
mod discovery;
mod listen;
pub mod merge;
pub mod options;
mod read;
mod read_http;
mod read_stream;
mod schema;
pub mod snippet;
pub mod substitute;
mod types;
pub mod units;
pub mod yaml;

pub use substitute::Environment;
pub use types::*;

use yaml::{Data, Node};

/// The pid file, from [`Config::home`].
pub const PID_FILE: &str = "logs/ringway.pid";

/// The defaults, laid under every user's file.
pub const DEFAULTS: &str = include_str!("defaults.yaml");

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the start log.
    Info,
    /// The operator should look at it.
    Warn,
    /// It stops the start.
    Error,
}

/// Something noticed in the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// How much it matters.
    pub level: Level,
    /// The file it is about.
    pub file: Option<PathBuf>,
    /// The line in it, if there is one to name.
    pub line: Option<u32>,
    /// The text.
    pub text: String,
}

/// `file:line: text`, as editors know it.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{}:{line}: {}", file.display(), self.text),
            (Some(file), None) => write!(f, "{}: {}", file.display(), self.text),
            (None, Some(line)) => write!(f, "line {line}: {}", self.text),
            (None, None) => f.write_str(&self.text),
        }
    }
}

/// A configuration that can be started.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What the start log should say about it.
    pub notes: Vec<Note>,
    /// Empty admin keys, which [`admin_key::fill`] makes.
    pub empty_keys: Vec<admin_key::Empty>,
}

/// A configuration that cannot.
#[derive(Debug)]
pub struct Failure {
    /// Why; never empty.
    pub errors: Vec<Note>,
}

/// All errors, a line each.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Reads the configuration: the file at `path`, else `conf/config.yaml` (`conf/config-<profile>.yaml` if
/// APISIX_PROFILE is set), else, where no file is, the defaults with the embedded store in `data/`.
pub fn load(path: Option<&Path>, env: Environment<'_>) -> Result<Loaded, Failure> {
    let (path, named) = file_in_use(path, env);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let place = Place::of(&path).map_err(|e| unreadable(&path, &e))?;
            assemble(Some(&text), place, env)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => {
            let home = std::env::current_dir().map_err(|e| unreadable(&path, &e))?;
            assemble(None, Place { file: None, conf: home.join("conf"), home }, env)
        }
        Err(e) => Err(unreadable(&path, &e)),
    }
}

/// Where the pid file of a gateway with this configuration is, whatever the file says.
pub fn pid_file(path: Option<&Path>, env: Environment<'_>) -> std::io::Result<PathBuf> {
    let (path, _) = file_in_use(path, env);
    Ok(Place::of(&path)?.home.join(PID_FILE))
}

/// The configuration file, and whether the user named it.
fn file_in_use(path: Option<&Path>, env: Environment<'_>) -> (PathBuf, bool) {
    let profile = env("APISIX_PROFILE").filter(|profile| !profile.is_empty());
    match (path, &profile) {
        (Some(path), _) => (path.to_owned(), true),
        (None, Some(profile)) => (format!("conf/config-{profile}.yaml").into(), true),
        (None, None) => ("conf/config.yaml".into(), false),
    }
}

/// As [`load`], of a text that stands in no file; relative paths are relative to `/`. For tests.
pub fn load_text(text: &str, env: Environment<'_>) -> Result<Loaded, Failure> {
    assemble(Some(text), Place { file: None, conf: "/conf".into(), home: "/".into() }, env)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let text = format!("failed to read the configuration: {error}");
    Failure { errors: vec![Note { level: Level::Error, file: Some(path.to_owned()), line: None, text }] }
}

/// Where a configuration stands.
#[derive(Debug)]
struct Place {
    file: Option<PathBuf>,
    /// The directory that holds the file.
    conf: PathBuf,
    /// That directory's parent.
    home: PathBuf,
}

impl Place {
    fn of(path: &Path) -> std::io::Result<Place> {
        let absolute = std::path::absolute(path)?;
        let conf = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        let home = conf.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Place { file: Some(path.to_owned()), conf, home })
    }
}

/// Collects what is noticed on the way.
#[derive(Debug, Default)]
struct Notes {
    file: Option<PathBuf>,
    notes: Vec<Note>,
    errors: Vec<Note>,
}

impl Notes {
    /// Line 0 (a default, or no place at all) is not named.
    fn add(&mut self, level: Level, line: u32, text: impl Into<String>) {
        let line = if line == 0 { None } else { Some(line) };
        let note = Note { level, file: self.file.clone(), line, text: text.into() };
        if level == Level::Error { self.errors.push(note) } else { self.notes.push(note) }
    }

    fn error(&mut self, line: u32, text: impl Into<String>) {
        self.add(Level::Error, line, text);
    }

    fn warn(&mut self, line: u32, text: impl Into<String>) {
        self.add(Level::Warn, line, text);
    }
}

fn assemble(text: Option<&str>, place: Place, env: Environment<'_>) -> Result<Loaded, Failure> {
    let mut notes = Notes { file: place.file.clone(), ..Notes::default() };
    let tree = match text {
        Some(text) => user_tree(text, env, &mut notes),
        None => Node::new(Data::Map(Vec::new())),
    };
    if !notes.errors.is_empty() {
        return Err(Failure { errors: notes.errors });
    }
    let mut merged = defaults(text.is_some());
    merge::overlay(&mut merged, tree);
    etcd_host_from_env(&mut merged, env, &mut notes);
    schema::check(&merged, &mut notes);
    discovery::check(&merged, &mut notes);
    if !notes.errors.is_empty() {
        return Err(Failure { errors: notes.errors });
    }
    let (config, empty_keys) = read::config(&merged, text.unwrap_or(""), place, env, &mut notes);
    if let Provider::Yaml { path } = &config.deployment.provider {
        check_objects(path, env, &mut notes);
    }
    match notes.errors.is_empty() {
        true => Ok(Loaded { config, notes: notes.notes, empty_keys }),
        false => Err(Failure { errors: notes.errors }),
    }
}

/// The variables in apisix.yaml have to be there from the start, and it has to be YAML (apisix/cli/file.lua). Later a
/// file that cannot be read is an error line, and the last one that could counts.
fn check_objects(path: &Path, env: Environment<'_>, notes: &mut Notes) {
    let Ok(text) = std::fs::read_to_string(path) else { return }; // it may come later
    let outcome = substitute::text(&text, env).map_err(|why| (0, why));
    let outcome = outcome.and_then(|(text, _)| {
        yaml::parse(&text).map_err(|bad| (bad.line, format!("invalid apisix.yaml file: {}", bad.text)))
    });
    if let Err((line, text)) = outcome {
        let line = (line != 0).then_some(line);
        notes.errors.push(Note { level: Level::Error, file: Some(path.to_owned()), line, text });
    }
}

/// The compiled-in defaults; without any file the provider is the embedded store.
fn defaults(with_file: bool) -> Node {
    let mut tree = yaml::parse(DEFAULTS).unwrap_or_else(|_| Node::new(Data::Map(Vec::new())));
    clear_lines(&mut tree);
    if !with_file && let Some(role) = tree.get_mut("deployment").and_then(|d| d.get_mut("role_traditional")) {
        role.set("config_provider", Node::new(Data::Str("embedded".to_owned())));
    }
    tree
}

/// Places in the defaults would be read as those of the user's file.
fn clear_lines(node: &mut Node) {
    node.line = 0;
    node.at = 0;
    match &mut node.data {
        Data::Map(entries) => entries.iter_mut().for_each(|(_, v)| clear_lines(v)),
        Data::List(items) => items.iter_mut().for_each(clear_lines),
        _ => {}
    }
}

/// The user's text as a checked tree.
fn user_tree(text: &str, env: Environment<'_>, notes: &mut Notes) -> Node {
    let empty = Node::new(Data::Map(Vec::new()));
    let mut tree = match yaml::parse(text) {
        Ok(tree) => tree,
        Err(bad) => {
            notes.error(bad.line, format!("invalid config.yaml file: {}", bad.text));
            return empty;
        }
    };
    match tree.data {
        Data::Null => return empty,
        Data::Map(_) => {}
        _ => {
            notes.error(tree.line, "invalid config.yaml file: it is no mapping");
            return empty;
        }
    }
    if let Err((line, text)) = substitute::tree(&mut tree, env) {
        notes.error(line, text);
        return empty;
    }
    legacy_etcd(&mut tree, notes);
    let found = merge::check(&tree);
    for (line, text) in found.errors {
        notes.error(line, text);
    }
    for (line, path) in found.unknown {
        notes.warn(line, format!("unknown option {path}"));
    }
    listed(notes, Level::Info, "options accepted without effect in ringway", found.inert);
    listed(notes, Level::Warn, "options of parts that ringway does not have yet", found.later);
    tree
}

/// One note for many options.
fn listed(notes: &mut Notes, level: Level, what: &str, options: Vec<(u32, String)>) {
    if !options.is_empty() {
        let paths: Vec<String> = options.iter().map(|(line, path)| format!("{path} (line {line})")).collect();
        notes.add(level, 0, format!("{what}: {}", paths.join(", ")));
    }
}

/// APISIX 2.x had `etcd` at the top; it stands in for a `deployment.etcd` that is not written.
fn legacy_etcd(tree: &mut Node, notes: &mut Notes) {
    let Some(etcd) = tree.remove("etcd") else { return };
    let line = etcd.line;
    if tree.get("deployment").is_none_or(|d| d.data == Data::Null) {
        tree.set("deployment", Node::new(Data::Map(Vec::new())));
    }
    let Some(deployment) = tree.get_mut("deployment") else { return };
    if deployment.get("etcd").is_some() {
        notes.warn(line, "etcd is ignored: deployment.etcd is set");
    } else {
        notes.add(Level::Info, line, "etcd is read as deployment.etcd");
        deployment.set("etcd", etcd);
    }
}

/// APISIX_DEPLOYMENT_ETCD_HOST, a JSON list, replaces `deployment.etcd.host`.
fn etcd_host_from_env(tree: &mut Node, env: Environment<'_>, notes: &mut Notes) {
    let Some(text) = env("APISIX_DEPLOYMENT_ETCD_HOST") else { return };
    let Some(etcd) = tree.get_mut("deployment").and_then(|d| d.get_mut("etcd")) else { return };
    match serde_json::from_str::<Vec<String>>(&text) {
        Ok(hosts) => {
            let hosts = hosts.into_iter().map(|h| Node::new(Data::Str(h))).collect();
            etcd.set("host", Node::new(Data::List(hosts)));
        }
        Err(e) => notes.warn(0, format!("parse ${{APISIX_DEPLOYMENT_ETCD_HOST}} failed, error:{e}")),
    }
}

#[cfg(test)]
mod tests;
