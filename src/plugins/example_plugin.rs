//! `example-plugin`: the plugin that APISIX brings as an example, for those who write their own
//! (apisix/plugins/example-plugin.lua). Clients and tests use it to look at schemas and metadata.
//!
//! ```json
//! {
//!   "uri": "/hello",
//!   "plugins": { "example-plugin": { "i": 1, "s": "s", "t": [1] } }
//! }
//! ```
//!
//! `i` is required and not negative. The Control API answers `GET /v1/plugin/example-plugin/hello` with `world`, with
//! `?json` as JSON.
//!
//! Phases: none.
//!
//! Known differences: `ip` and `port`, which send requests of the route to that node, are not served: 503.

use std::rc::Rc;

use serde_json::Value;

use crate::plugin::{Build, Built, Phases, Plugin, Spec, no_check};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "example-plugin",
    priority: 0,
    version: 0.1,
    auth: false,
    prefer_route: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "i": {"type": "number", "minimum": 0},
            "s": {"type": "string"},
            "t": {"type": "array", "minItems": 1},
            "ip": {"type": "string"},
            "port": {"type": "integer"}
        },
        "required": ["i"]
    }"#,
    consumer_schema: None,
    metadata_schema: Some(
        r#"{
        "type": "object",
        "properties": {"ikey": {"type": "number", "minimum": 0}, "skey": {"type": "string"}},
        "required": ["ikey", "skey"]
    }"#,
    ),
    encrypt_fields: &[],
    consumer_encrypt_fields: &[],
    consumer_key: None,
    check: no_check,
    build,
};

fn build(conf: &Value, _: &Build) -> Built {
    match conf.get("ip") {
        Some(_) => Err("a node of its own is not served yet".into()),
        None => Ok(Rc::new(Example)),
    }
}

struct Example;

impl Plugin for Example {
    fn phases(&self) -> Phases {
        Phases::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::plugin::SchemaType;

    #[test]
    fn configurations_and_metadata() {
        let registry = crate::plugins::registry();
        let entry = registry.get("example-plugin").unwrap();
        let check = |mut conf: Value, kind| entry.check(&mut conf, kind);
        assert_eq!(check(json!({"i": 1, "t": [1]}), SchemaType::Plain), Ok(()));
        assert_eq!(check(json!({}), SchemaType::Plain), Err("property \"i\" is required".into()));
        assert_eq!(
            check(json!({"skey": "v"}), SchemaType::Metadata),
            Err("property \"ikey\" is required".into())
        );
    }
}
