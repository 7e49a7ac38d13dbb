//! The thread that rotates logs, while the operator's list has `log-rotate`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::plugins::Plugins;
use crate::config::Config;
use crate::plugins::kit::log_files;
use crate::plugins::log_rotate;
use crate::reactor::nice;
use crate::telemetry::file::LogFile;
use crate::telemetry::rotate::Rotator;

/// How long the writers have to open their files anew before the old ones are compressed.
const REOPENED: Duration = Duration::from_millis(500);

/// Starts it. It looks once a second, and ends with the process.
pub fn start(config: &Config, plugins: Arc<Plugins>, access: Option<LogFile>) {
    let paths = [config.error_log.path.clone(), config.http.access_log.as_ref().map(|log| log.path.clone())];
    let logs: Vec<PathBuf> = paths.into_iter().flatten().collect();
    let rules = log_rotate::rules(config.attr(log_rotate::SPEC.name));
    let run = move || {
        nice::stand_back(10);
        let mut rotator = None;
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if !plugins.enabled(log_rotate::SPEC.name) {
                rotator = None;
                continue;
            }
            let rotator = rotator.get_or_insert_with(|| Rotator::new(rules, logs.clone()));
            let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let stamp = jiff::Zoned::now().strftime("%Y-%m-%d_%H-%M-%S").to_string();
            let rotated = rotator.look(now_s, &stamp);
            if rotated.files.is_empty() {
                continue;
            }
            reopen(access.as_ref());
            std::thread::sleep(REOPENED);
            rotator.tidy(&rotated);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("log-rotate".into()).spawn(run) {
        log::error!("logs are not rotated: {error}");
    }
}

/// Opens all logs anew before their next line, as signal USR1 asks for.
pub fn reopen(access: Option<&LogFile>) {
    crate::telemetry::log::reopen();
    log_files::reopen();
    if let Some(file) = access {
        file.reopen();
    }
}
