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
//! `ip` and `port` name a node that the route's requests go to in place of its own upstream.
//!
//! Phases: access.
//!
//! Known differences: nothing is logged in each phase; a node that cannot be gets 502, not 500.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::exchange::{Exchange, OwnUpstream, UpstreamChoice};
use crate::model::parse;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "example-plugin",
    priority: 0,
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
    metadata_schema: Some(
        r#"{
        "type": "object",
        "properties": {"ikey": {"type": "number", "minimum": 0}, "skey": {"type": "string"}},
        "required": ["ikey", "skey"]
    }"#,
    ),
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, build: &Build) -> Built {
    Ok(Rc::new(Example { node: conf.get("ip").map(|ip| upstream(ip, conf.get("port"), build.parent)) }))
}

/// An upstream of one node.
fn upstream(ip: &Value, port: Option<&Value>, key: &str) -> UpstreamChoice {
    let mut node = json!({ "host": ip, "weight": 1 });
    if let Some(port) = port {
        node["port"] = port.clone();
    }
    let conf = json!({ "type": "roundrobin", "nodes": [node] });
    UpstreamChoice::Own(Rc::new(OwnUpstream::new(key, parse::upstream(conf))))
}

struct Example {
    /// Where requests go, if not where the route says.
    node: Option<UpstreamChoice>,
}

impl Plugin for Example {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        if let Some(upstream) = &self.node {
            ex.out.upstream = Some(upstream.clone());
        }
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn a_node_of_its_own_takes_the_requests() {
        let host = test::host();
        let run = |conf| {
            let plugin = test::build(&SPEC, &host, conf);
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
            assert_eq!(test::run(&plugin, Phase::Access, &mut ex, &host), None);
            ex.out.upstream.is_some()
        };
        assert!(!run(json!({ "i": 0 })));
        assert!(run(json!({ "i": 0, "ip": "127.0.0.2", "port": 1981 })));
    }

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
