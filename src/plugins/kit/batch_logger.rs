//! A logger whose entries go to a collector in batches: what http-logger, syslog, tcp-logger and udp-logger
//! have in common. They differ in their sink, and in how an entry is written.

use serde_json::Value;

use super::batch::{self, Batches, Sink};
use super::log_entry::LogEntry;
use super::logger;
use crate::exchange::Exchange;
use crate::limits;
use crate::plugin::{Build, Built};

/// The metadata of all of them.
pub const METADATA_SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "log_format_extra": {"type": "object"},
        "log_format": {"type": "object"},
        "max_pending_entries": {"type": "integer", "minimum": 1, "default": 8192}
    }
}"#;

/// Writes an entry as it is sent.
pub type Write = fn(&LogEntry, &Exchange) -> Vec<u8>;

/// The logger of a configuration of `plugin`; `sink` is made once for all cores.
///
/// # Errors
/// A condition or format of the configuration that cannot be read, and those of `sink`.
pub fn build(
    plugin: &'static str,
    conf: &Value,
    build: &Build,
    entry: LogEntry,
    write: Write,
    sink: impl FnOnce() -> Result<Box<dyn Sink>, String>,
) -> Built {
    let batches = Batches::open(plugin, conf, build, sink)?;
    let most = batch::max_pending(build.metadata);
    logger::plugin(entry, move |entry, ex| batches.push(write(entry, ex), most, ex))
}

/// An entry as JSON, the usual way.
pub fn json(entry: &LogEntry, ex: &Exchange) -> Vec<u8> {
    let mut out = Vec::with_capacity(limits::LOG_ENTRY_BYTES);
    entry.write(ex, &mut out);
    out
}
