//! `server-info`: says which node this is, at `/v1/server_info` of the Control API (apisix/plugins/server-info.lua,
//! deprecated there).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": { "server-info": {} }
//! }
//! ```
//!
//! The plugin does nothing on a route; it is enabled in `plugins` of config.yaml. The answer is
//! `{"id", "hostname", "version", "boot_time", "etcd_version"}`, `boot_time` in seconds since 1970.
//!
//! Phases: none.
//!
//! Known differences: nothing is reported to `/data_plane/server_info` in etcd, so `etcd_version` stays
//! `unknown`, as it does in APISIX without etcd; `plugin_attr.server-info.report_ttl` has no effect.

use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::plugin::{Build, Built, Phases, Plugin, Spec, no_check};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "server-info",
    priority: 990,
    version: 0.1,
    auth: false,
    prefer_route: false,
    schema: r#"{"type": "object"}"#,
    consumer_schema: None,
    metadata_schema: None,
    encrypt_fields: &[],
    consumer_encrypt_fields: &[],
    consumer_key: None,
    check: no_check,
    build,
};

/// Seconds since 1970 when this was first asked for: at the start, if [`info`] is.
static BOOT_TIME_S: LazyLock<u64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));

fn build(_: &Value, _: &Build) -> Built {
    Ok(Rc::new(ServerInfo))
}

struct ServerInfo;

impl Plugin for ServerInfo {
    fn phases(&self) -> Phases {
        Phases::default()
    }
}

/// What the Control API says.
pub fn info() -> Value {
    json!({
        "etcd_version": "unknown",
        "hostname": crate::telemetry::hostname(),
        "id": crate::telemetry::node_id(),
        "version": "3.18.0",
        "boot_time": *BOOT_TIME_S,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_node_this_is() {
        let first = info();
        assert_eq!(first["version"], "3.18.0");
        assert_eq!(first["boot_time"], info()["boot_time"], "it does not move");
    }
}
