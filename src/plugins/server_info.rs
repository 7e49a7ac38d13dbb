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
//! With objects from etcd, a node that may write there keeps the same in `/data_plane/server_info/ID`, under a lease of
//! `plugin_attr.server-info.report_ttl` seconds (60), so that the key goes soon after the node. Without etcd
//! `etcd_version` stays `unknown`.
//!
//! Phases: none.
//!
//! Known differences: `etcd_version` is the version of the server that answers, not the lowest one that its cluster
//! agreed on.

use std::sync::{LazyLock, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::kit::off_route;
use crate::model::schema::Schema;
use crate::plugin::Spec;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "server-info",
    priority: 990,
    schema: r#"{"type": "object"}"#,
    build: off_route::build,
    ..Spec::PLAIN
};

/// `report_ttl` where the operator does not say.
const DEFAULT_TTL_S: u64 = 60;

/// `plugin_attr.server-info`
static ATTR: LazyLock<Schema> = LazyLock::new(|| {
    let schema = json!({
        "type": "object",
        "properties": { "report_ttl": { "type": "integer", "minimum": 3, "maximum": 86400 } }
    });
    Schema::compile(schema).unwrap_or_else(|error| panic!("plugin_attr of server-info: {error}"))
});

/// Seconds since 1970 when this was first asked for: control asks for it at the start.
static BOOT_TIME_S: LazyLock<u64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));

static ETCD_VERSION: OnceLock<String> = OnceLock::new();

/// The version of the etcd that the objects come from, once it is known.
pub fn etcd_version() -> Option<&'static str> {
    ETCD_VERSION.get().map(String::as_str)
}

/// An etcd of this version has answered; the first one counts.
pub fn found_etcd(version: String) {
    let _ = ETCD_VERSION.set(version);
}

/// How long the key in etcd lives, seconds; the error is that of the JSON Schema.
pub fn report_ttl_s(attr: Option<&Value>) -> Result<u64, String> {
    let mut attr = attr.cloned().unwrap_or_else(|| json!({}));
    ATTR.validate(&mut attr)?;
    Ok(attr["report_ttl"].as_u64().unwrap_or(DEFAULT_TTL_S))
}

/// What the Control API says, and etcd gets.
pub fn info() -> Value {
    json!({
        "etcd_version": etcd_version().unwrap_or("unknown"),
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
        assert_eq!(first["etcd_version"], "unknown");
    }

    #[test]
    fn the_time_to_live_is_checked() {
        assert_eq!(report_ttl_s(None), Ok(60));
        assert_eq!(report_ttl_s(Some(&json!({ "report_ttl": 3 }))), Ok(3));
        let error = "property \"report_ttl\" validation failed: expected 2 to be at least 3";
        assert_eq!(report_ttl_s(Some(&json!({ "report_ttl": 2 }))), Err(error.into()));
    }
}
