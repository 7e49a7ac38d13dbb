//! What the gateway tells about itself: error log, access log, metrics.
//!
//! Nothing here makes a core wait: logs go to threads of their own over bounded queues and are dropped with
//! a counter when these are full, metrics are numbers that only their core writes and anybody may read.

pub mod access;
pub mod clock;
pub mod exporter;
pub mod file;
pub mod format;
pub mod log;
pub mod metrics;

use std::sync::OnceLock;

/// The host's name, as `$hostname` and the metrics show it.
pub fn hostname() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    })
}
