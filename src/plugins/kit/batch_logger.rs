//! A logger whose entries go to a collector in batches: what http-logger, syslog, tcp-logger and udp-logger
//! have in common. They differ in their sink, and in how an entry is written.

use serde_json::{Map, Value};

use super::batch::{self, Batches, Sink};
use super::log_entry::LogEntry;
use super::logger;
use crate::exchange::Exchange;
use crate::plugin::{Build, Built};

/// Writes an entry as it is sent.
pub type Write = fn(Map<String, Value>, &Exchange) -> Vec<u8>;

/// The logger of a configuration of `plugin`; `sink` is made once for all cores.
///
/// # Errors
/// A condition or format of the configuration that cannot be read, and those of `sink`.
pub fn build(
    plugin: &'static str,
    conf: &Value,
    build: &Build,
    write: Write,
    sink: impl FnOnce() -> Result<Box<dyn Sink>, String>,
) -> Built {
    let batches = Batches::open(plugin, conf, build, sink)?;
    let most = batch::max_pending(build.metadata);
    let entry = LogEntry::compile(conf, build.metadata)?;
    logger::plugin(entry, move |entry, ex| batches.push(write(entry.entry(ex), ex), most, ex))
}

/// An entry as JSON, the usual way.
pub fn json(entry: Map<String, Value>, _: &Exchange) -> Vec<u8> {
    Value::Object(entry).to_string().into_bytes()
}
