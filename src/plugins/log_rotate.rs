//! `log-rotate`: renames the access log and the error log by the clock or by their size
//! (apisix/plugins/log-rotate.lua).
//!
//! The plugin does nothing on a route; it is enabled in `plugins` of config.yaml:
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": { "log-rotate": {} }
//! }
//! ```
//!
//! `plugin_attr.log-rotate` has `interval` (3600 s), `max_kept` (168 files of each log), `max_size` (bytes, −1
//! for none) and `enable_compression` (false). A rotated file is `2026-01-31_10-00-00__access.log`, packed
//! `….tar.gz`. The logs are opened anew then, those of `file-logger` too.
//!
//! Phases: none.
//!
//! Known differences: `timeout` has no effect, for no program is run to compress; a stop of the node loses no
//! rotation, but one that fell into it is not made up for.

use serde_json::Value;

use super::kit::off_route;
use crate::plugin::Spec;
use crate::telemetry::rotate::Rules;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "log-rotate",
    priority: 100,
    schema: r#"{"type": "object", "properties": {}}"#,
    build: off_route::build,
    ..Spec::PLAIN
};

/// What `plugin_attr.log-rotate` says.
pub fn rules(attr: Option<&Value>) -> Rules {
    let number = |name: &str| attr.and_then(|attr| attr[name].as_i64());
    let positive = |name: &str| number(name).and_then(|n| u64::try_from(n).ok());
    Rules {
        interval_s: positive("interval").unwrap_or(60 * 60),
        max_kept: positive("max_kept").map_or(24 * 7, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        max_size: positive("max_size").filter(|bytes| *bytes > 0),
        compress: attr.is_some_and(|attr| attr["enable_compression"] == true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_and_their_defaults() {
        let defaults = Rules { interval_s: 3600, max_kept: 168, max_size: None, compress: false };
        assert_eq!(rules(None), defaults);
        assert_eq!(rules(Some(&json!({ "max_size": -1 }))), defaults);
        let all = json!({ "interval": 1, "max_kept": 3, "max_size": 1024, "enable_compression": true });
        assert_eq!(
            rules(Some(&all)),
            Rules { interval_s: 1, max_kept: 3, max_size: Some(1024), compress: true }
        );
    }
}
