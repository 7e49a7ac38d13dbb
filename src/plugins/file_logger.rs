//! `file-logger`: writes an entry for each request to a file, a line of JSON each (apisix/plugins/file-logger.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "file-logger": {
//!       "path": "logs/file.log",
//!       "match": [[["arg_name", "==", "jack"]]],
//!       "include_req_body": true
//!     }
//!   }
//! }
//! ```
//!
//! A relative `path` begins where the gateway was started; the metadata's `path` holds where the plugin has none. `match` is a list of conditions, of which one must hold. Signal USR1 opens the files anew.
//!
//! An entry is APISIX's full one (request, response, server, latencies, …), or what `log_format` says: a table
//! whose values are constants or `$variable`s, of the plugin or of its metadata; `log_format_extra` adds fields
//! to the full one. `include_req_body` and `include_resp_body` add the bodies, up to `max_req_body_bytes` and
//! `max_resp_body_bytes`, where `include_*_body_expr` holds.
//!
//! Phases: access (the request's body), body_filter (the answer's), log. A thread of its own writes each file: a
//! slow disk delays no request, and lines that find its queue full are dropped and counted.
//!
//! Known differences:
//! - A `path` that stands neither in the plugin nor in its metadata is an error when requests come, not when the
//!   plugin is configured.
//! - The directory of a file is made if need be.
//! - Bytes that are no UTF-8 are replaced in the JSON.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

use serde_json::Value;

use crate::expr::Expr;
use crate::limits;
use crate::plugin::{Build, Built, SchemaType, Spec};
use crate::plugins::kit::log_entry::LogEntry;
use crate::plugins::kit::logger;
use crate::reactor;
use crate::telemetry::files::{self, Log};
use crate::telemetry::lines::LogLines;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "file-logger",
    priority: 399,
    schema: include_str!("file_logger.schema.json"),
    metadata_schema: Some(
        r#"{
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "log_format": {"type": "object"},
            "log_format_extra": {"type": "object"}
        }
    }"#,
    ),
    check,
    build,
    ..Spec::PLAIN
};

fn check(conf: &Value, kind: SchemaType) -> Result<(), String> {
    if kind == SchemaType::Metadata {
        return Ok(());
    }
    conditions(conf).map(drop).map_err(|error| format!("failed to validate the 'match' expression: {error}"))
}

/// The list of `match`.
fn conditions(conf: &Value) -> Result<Option<Box<[Expr]>>, String> {
    let Some(list) = conf["match"].as_array() else { return Ok(None) };
    list.iter().map(Expr::compile).collect::<Result<_, _>>().map(Some)
}

fn build(conf: &Value, build: &Build) -> Built {
    let path = conf["path"].as_str().or(build.metadata.and_then(|metadata| metadata["path"].as_str()));
    let conditions = conditions(conf)?;
    let file = File { path: path.map(PathBuf::from), lines: Rc::default(), retry_ms: Cell::new(0) };
    logger::plugin(LogEntry::compile(conf, build.metadata)?, move |entry, ex| {
        // one of them must hold
        let fits = |conditions: &[Expr]| conditions.iter().any(|condition| condition.eval(ex));
        if conditions.as_deref().is_none_or(fits) {
            file.write(|out| entry.write(ex, out));
        }
    })
}

/// Where the lines go.
struct File {
    path: Option<PathBuf>,
    /// Opened with the first line.
    lines: Rc<RefCell<Option<LogLines>>>,
    /// After a failure the file is not tried before this.
    retry_ms: Cell<u64>,
}

impl File {
    /// The lines of one turn of the reactor leave together: their writer is woken once.
    fn write(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut open = self.lines.borrow_mut();
        if open.is_none() {
            *open = self.open();
        }
        let Some(lines) = &mut *open else { return };
        if lines.is_empty() {
            reactor::spawn(leave(Rc::downgrade(&self.lines)));
        }
        lines.line(reactor::now_ms(), write);
    }

    fn open(&self) -> Option<LogLines> {
        let now_ms = reactor::now_ms();
        if now_ms < self.retry_ms.get() {
            return None;
        }
        let Some(path) = &self.path else {
            self.retry_ms.set(now_ms + RETRY_MS);
            log::error!("property \"path\" is not set in either the plugin conf or the metadata");
            return None;
        };
        match files::open(Log::FileLogger, path) {
            Ok(file) => Some(LogLines::new(file, limits::FILE_LOGGER_BUFFER_BYTES)),
            Err(error) => {
                self.retry_ms.set(now_ms + RETRY_MS);
                log::error!("failed to open file: {}, error info: {error}", path.display());
                None
            }
        }
    }
}

/// Sends what this turn has gathered.
async fn leave(lines: Weak<RefCell<Option<LogLines>>>) {
    reactor::yield_now().await;
    if let Some(lines) = lines.upgrade()
        && let Some(lines) = &mut *lines.borrow_mut()
    {
        lines.send();
    }
}

/// Between two tries to open a file, ms.
const RETRY_MS: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;
    use crate::transport::tests::on_both;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "path": "log.txt", "match": [[["arg_a", "==", "b"]]] }), "accepted"),
            (
                json!({ "path": 3 }),
                r#"property "path" validation failed: wrong type: expected string, got number"#,
            ),
            (
                json!({ "path": "a", "match": [[["a", "<>", "b"]]] }),
                "failed to validate the 'match' expression: invalid operator '<>'",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn lines_of_those_that_match() {
        on_both(async || {
            let path = std::env::temp_dir().join(format!("ringway-file-logger-{:x}.log", fastrand::u64(..)));
            let host = test::host();
            let metadata = json!({ "path": path, "log_format": { "n": "$arg_n" } });
            let build = Build { host: &host, parent: "/apisix/routes/1", metadata: Some(&metadata) };
            let conf = json!({ "match": [[["arg_n", "==", "1"]], [["arg_n", "==", "3"]]] });
            let plugin = test::build_in(&SPEC, &build, conf).unwrap();
            for n in 1..=3 {
                plugin.log(&mut test::exchange(&format!("GET /?n={n} HTTP/1.1\nHost: a")), &host);
            }
            drop(plugin); // with it leaves what this turn has gathered
            files::open(Log::FileLogger, &path).unwrap().flush(Duration::from_secs(5));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"n\":\"1\"}\n{\"n\":\"3\"}\n");
            let _ = std::fs::remove_file(&path);
        });
    }

    #[test]
    fn what_cannot_be_opened_costs_only_the_lines() {
        on_both(async || {
            let host = test::host();
            let plugin = test::build(&SPEC, &host, json!({ "path": "/proc/no/such/file" }));
            plugin.log(&mut test::exchange("GET / HTTP/1.1\nHost: a"), &host);
            plugin.log(&mut test::exchange("GET / HTTP/1.1\nHost: a"), &host);
        });
    }
}
