//! `proxy-control`: whether a request's body is buffered on its way upstream.
//!
//! ```json
//! {
//!   "uri": "/upload/*",
//!   "plugins": {
//!     "proxy-control": { "request_buffering": false }
//!   }
//! }
//! ```
//!
//! Phase: none (in APISIX rewrite, apisix/plugins/proxy-control.lua).
//!
//! Known differences: a body is never spooled to a file here. It streams upstream as it comes, whatever
//! `request_buffering` says; the first 64 KiB are kept so that the request can be sent again to another node.

use std::rc::Rc;

use serde_json::Value;

use crate::plugin::{Build, Built, Phases, Plugin, Spec, no_check};

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "proxy-control",
    priority: 21990,
    version: 0.1,
    auth: false,
    prefer_route: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "request_buffering": { "type": "boolean", "default": true }
        }
    }"#,
    consumer_schema: None,
    metadata_schema: None,
    encrypt_fields: &[],
    consumer_encrypt_fields: &[],
    consumer_key: None,
    check: no_check,
    build,
};

struct ProxyControl;

fn build(_: &Value, _: &Build) -> Built {
    Ok(Rc::new(ProxyControl))
}

impl Plugin for ProxyControl {
    fn phases(&self) -> Phases {
        Phases::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_a_flag_alone() {
        assert_eq!(test::check(&SPEC, SchemaType::Plain, json!({"request_buffering": false})), "accepted");
        let error =
            "property \"request_buffering\" validation failed: wrong type: expected boolean, got string";
        assert_eq!(test::check(&SPEC, SchemaType::Plain, json!({"request_buffering": "no"})), error);
    }
}
