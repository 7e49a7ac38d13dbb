//! What the gateway tells about itself: error log, access log, metrics.
//!
//! Nothing here makes a core wait: logs go to threads of their own over bounded queues and are dropped with
//! a counter when these are full, metrics are numbers that only their core writes and anybody may read.

pub mod clock;
pub mod exporter;
pub mod families;
pub mod file;
pub mod files;
pub mod format;
pub mod lines;
pub mod log;
pub mod metrics;
pub mod rotate;
pub mod tallies;

use std::sync::OnceLock;

/// The host's name, as `$hostname` and the metrics show it.
pub fn hostname() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    })
}

static NODE_ID: OnceLock<String> = OnceLock::new();

/// What this node is called: `apisix.id` of config.yaml, else what `conf/apisix.uid` holds (APISIX core/id.lua).
/// Empty until [`identify`] was called.
pub fn node_id() -> &'static str {
    NODE_ID.get().map_or("", String::as_str)
}

/// Settles [`node_id`]: `given`, or what the file at `path` says, which is made if need be. A file that cannot
/// be written costs the node its name at the next start.
pub fn identify(given: Option<&str>, path: &std::path::Path) {
    let id = given.map(str::to_owned).unwrap_or_else(|| {
        let kept = std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        if !kept.is_empty() {
            return kept;
        }
        let id = uuid::Uuid::new_v4().to_string();
        if let Err(error) = std::fs::write(path, &id) {
            ::log::warn!("the node's id cannot be kept in {}: {error}", path.display());
        }
        id
    });
    let _ = NODE_ID.set(id); // a second start in one process keeps the first name
}
