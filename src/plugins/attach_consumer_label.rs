//! `attach-consumer-label`: tells the upstream labels of the consumer, each in a header
//! (apisix/plugins/attach-consumer-label.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "key-auth": {},
//!     "attach-consumer-label": { "headers": { "X-Consumer-Department": "$department" } }
//!   }
//! }
//! ```
//!
//! Behind the `$` stands the name of a label. A header whose label the consumer has not, or that comes with a request
//! without a consumer, is taken out: no client can claim a label.
//!
//! Phases: before_proxy.
//!
//! Known differences: none.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::Exchange;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "attach-consumer-label",
    priority: 2399,
    schema: r#"{
        "type": "object",
        "properties": {
            "headers": {
                "type": "object",
                "additionalProperties": {"type": "string", "pattern": "^\\$.*"},
                "minProperties": 1
            }
        },
        "required": ["headers"]
    }"#,
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, _: &Build) -> Built {
    let headers = conf["headers"].as_object().into_iter().flatten();
    let pair = |(header, label): (&String, &Value)| {
        let label = label.as_str()?.trim_start_matches('$');
        Some((header.as_bytes().into(), label.into()))
    };
    Ok(Rc::new(AttachConsumerLabel { headers: headers.filter_map(pair).collect() }))
}

/// A header, and the name of the label that it shows.
type Labelled = (Box<[u8]>, Box<str>);

struct AttachConsumerLabel {
    headers: Vec<Labelled>,
}

impl Plugin for AttachConsumerLabel {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::BeforeProxy])
    }

    fn before_proxy<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        let known = ex.consumer.clone();
        let labels = known.as_ref().and_then(|known| known.consumer.value.labels.as_ref());
        for (header, label) in &self.headers {
            let value = labels.and_then(|labels| labels.get(&**label)?.as_str());
            match value.filter(|value| !value.is_empty()) {
                Some(value) => drop(ex.req.head.headers.set(header, value.as_bytes())),
                None => ex.req.head.headers.remove_named(header),
            }
        }
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Known;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "headers": { "X-A": "$a" } }), "accepted"),
            (json!({}), r#"property "headers" is required"#),
            (
                json!({ "headers": {} }),
                r#"property "headers" validation failed: expect object to have at least 1 properties"#,
            ),
            (
                json!({ "headers": { "X-A": "a" } }),
                r#"property "headers" validation failed: failed to validate additional property X-A: failed to match pattern "^\\$.*" with "a""#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf), said);
        }
    }

    #[test]
    fn labels_become_headers_and_claims_do_not() {
        let host = test::host();
        let conf = json!({ "headers": { "X-Department": "$department", "X-Role": "$role" } });
        let plugin = test::build(&SPEC, &host, conf);
        let seen = |labels: Option<Value>| {
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a\nX-Role: boss\nX-Department: any");
            ex.consumer =
                labels.map(|labels| Rc::new(Known::new(test::consumer("anna", json!({}), labels), None)));
            assert_eq!(test::run(&plugin, Phase::BeforeProxy, &mut ex, &host), None);
            ["X-Department", "X-Role"].map(|name| test::values(ex.req_headers(), name))
        };
        assert_eq!(seen(Some(json!({ "department": "devops" }))), ["devops", "-"]);
        assert_eq!(seen(Some(json!({}))), ["-", "-"]);
        assert_eq!(seen(None), ["-", "-"]);
    }
}
