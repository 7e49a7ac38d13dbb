//! A logger whose entries go to a collector in batches: what http-logger, syslog, tcp-logger and udp-logger
//! have in common. They differ in their sink, and in how an entry is written.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::batch::{self, Batches, Sink};
use super::log_entry::LogEntry;
use crate::exchange::{BodyPiece, Exchange};
use crate::plugin::{Build, Built, Host, Phases, Plugin, Step};

/// Writes an entry as it is sent.
pub type Write = fn(Map<String, Value>, &Exchange) -> Vec<u8>;

/// The plugin of such a logger.
pub struct BatchLogger {
    entry: LogEntry,
    batches: Arc<Batches>,
    /// Entries that may wait.
    most: u64,
    write: Write,
}

impl BatchLogger {
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
        let entry = LogEntry::compile(conf, build.metadata)?;
        Ok(Rc::new(BatchLogger { entry, batches, most: batch::max_pending(build.metadata), write }))
    }
}

/// An entry as JSON, the usual way.
pub fn json(entry: Map<String, Value>, _: &Exchange) -> Vec<u8> {
    Value::Object(entry).to_string().into_bytes()
}

impl Plugin for BatchLogger {
    fn phases(&self) -> Phases {
        self.entry.phases()
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        self.entry.access(ex)
    }

    fn body_filter(&self, ex: &mut Exchange, piece: &mut BodyPiece, slot: u16) {
        self.entry.body_filter(ex, piece, slot);
    }

    fn log(&self, ex: &mut Exchange, _: &Host) {
        let entry = (self.write)(self.entry.entry(ex), ex);
        self.batches.push(entry, self.most, ex);
    }
}
