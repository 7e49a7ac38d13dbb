//! `proxy-buffering`: whether an answer is buffered on its way to the client.
//!
//! ```json
//! {
//!   "uri": "/events",
//!   "plugins": {
//!     "proxy-buffering": { "disable_proxy_buffering": true }
//!   }
//! }
//! ```
//!
//! Phases: none (in APISIX rewrite, apisix/plugins/proxy-buffering.lua).
//!
//! Known differences: an answer is never held back or spooled to a file here. Each piece leaves as it comes, as fast as
//! the client reads, whatever `disable_proxy_buffering` says.

use super::kit::off_route;
use crate::plugin::Spec;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "proxy-buffering",
    priority: 21991,
    schema: r#"{
        "type": "object",
        "properties": {
            "disable_proxy_buffering": { "type": "boolean", "default": false }
        }
    }"#,
    build: off_route::build,
    ..Spec::PLAIN
};

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_a_flag_alone() {
        assert_eq!(
            test::check(&SPEC, SchemaType::Plain, json!({"disable_proxy_buffering": true})),
            "accepted"
        );
        let error = "property \"disable_proxy_buffering\" validation failed: wrong type: expected boolean, got number";
        assert_eq!(test::check(&SPEC, SchemaType::Plain, json!({"disable_proxy_buffering": 1})), error);
    }
}
