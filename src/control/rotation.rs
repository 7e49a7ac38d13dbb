//! The thread that rotates logs, while the operator's list has `log-rotate`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::plugin_lists::PluginLists;
use super::plugins::Plugins;
use crate::config::Config;
use crate::plugins::log_rotate;
use crate::reactor::nice;
use crate::telemetry::files;
use crate::telemetry::rotate::{Rotator, Rules};

/// How long the writers have to open their files anew before the old ones are compressed.
const REOPENED: Duration = Duration::from_millis(500);

/// The logs of the node. The cores of a reload may write another access log.
pub struct Logs {
    error: Option<PathBuf>,
    access: Mutex<Option<PathBuf>>,
}

impl Logs {
    /// Those of the configuration that was started.
    pub fn new(config: &Config) -> Arc<Logs> {
        let logs = Logs { error: config.error_log.path.clone(), access: Mutex::default() };
        logs.take(config);
        Arc::new(logs)
    }

    /// Takes the access log of a configuration that has been read again.
    pub fn take(&self, config: &Config) {
        let path = config.http.access_log.as_ref().map(|log| log.path.clone());
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// Opens all logs anew before their next line, as signal USR1 asks for.
    pub fn reopen(&self) {
        crate::telemetry::log::reopen();
        files::reopen();
    }

    fn paths(&self) -> Vec<PathBuf> {
        let access = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        self.error.iter().chain(&*access).cloned().collect()
    }
}

/// What is rotated, and how.
#[derive(PartialEq)]
struct Wanted {
    rules: Rules,
    logs: Vec<PathBuf>,
}

impl Wanted {
    /// `None` while the plugin is not in the list.
    fn now(logs: &Logs, plugins: &Plugins, lists: &PluginLists) -> Option<Wanted> {
        let name = log_rotate::SPEC.name;
        let rules = || log_rotate::rules(lists.last().attr.get(name));
        plugins.enabled(name).then(|| Wanted { rules: rules(), logs: logs.paths() })
    }
}

/// Starts it. It looks once a second, also at what a reload has changed, and ends with the process.
pub fn start(logs: Arc<Logs>, plugins: Arc<Plugins>, lists: Arc<PluginLists>) {
    let run = move || {
        nice::stand_back(10);
        let mut rotates = None;
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let Some(wanted) = Wanted::now(&logs, &plugins, &lists) else {
                rotates = None;
                continue;
            };
            let (_, rotator) = match rotates.take() {
                Some((same, rotator)) if same == wanted => rotates.insert((wanted, rotator)),
                _ => {
                    let rotator = Rotator::new(wanted.rules, wanted.logs.clone());
                    rotates.insert((wanted, rotator))
                }
            };
            let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let stamp = jiff::Zoned::now().strftime("%Y-%m-%d_%H-%M-%S").to_string();
            let rotated = rotator.look(now_s, &stamp);
            if rotated.files.is_empty() {
                continue;
            }
            logs.reopen();
            std::thread::sleep(REOPENED);
            rotator.tidy(&rotated);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("log-rotate".into()).spawn(run) {
        log::error!("logs are not rotated: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::encryption::Keyring;

    #[test]
    fn a_reload_changes_what_is_rotated() {
        let config = |interval_s: u32, access: &str| {
            let text = format!(
                "plugin_attr: {{log-rotate: {{interval: {interval_s}}}}}\n\
                 nginx_config: {{http: {{access_log: {access}}}}}\n"
            );
            crate::config::load_text(&text, &|_| None).unwrap().config
        };
        let old = config(60, "logs/one.log");
        let logs = Logs::new(&old);
        let lists = PluginLists::new(&old);
        let registry = Arc::new(crate::plugins::registry());
        let plugins = Plugins::new(registry, ["log-rotate"], Keyring::new([]), false);
        let now = || {
            let wanted = Wanted::now(&logs, &plugins, &lists)?;
            let name = wanted.logs.last()?.file_name()?.to_string_lossy().into_owned();
            Some((wanted.rules.interval_s, name))
        };
        assert_eq!(now(), Some((60, "one.log".to_owned())));
        let new = config(5, "logs/two.log");
        lists.take(&new);
        logs.take(&new);
        assert_eq!(now(), Some((5, "two.log".to_owned())));
        plugins.enable(["cors"]);
        assert_eq!(now(), None, "the plugin left the list");
    }
}
