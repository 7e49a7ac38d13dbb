//! `kafka-proxy`: how the gateway logs in to Kafka for clients of a route whose upstream has the scheme `kafka`.
//!
//! ```json
//! {
//!   "uri": "/kafka",
//!   "plugins": {
//!     "kafka-proxy": {
//!       "sasl": { "username": "user", "password": "secret", "mechanism": "SCRAM-SHA-256" }
//!     }
//!   },
//!   "upstream": { "scheme": "kafka", "type": "none", "nodes": { "127.0.0.1:9092": 1 } }
//! }
//! ```
//!
//! Clients themselves show who they are to an auth plugin, as on any other route; the broker sees this login.
//! `password` is stored encrypted. Without the plugin the gateway does not log in. What clients say and get is in
//! [Kafka over WebSocket](../how-to/kafka-over-websocket.md).
//!
//! Phase: access (apisix/plugins/kafka-proxy.lua).
//!
//! Known differences: `mechanism` is ours. Without it the mechanism is PLAIN, the only one of APISIX.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::Exchange;
use crate::mail::messaging::{Login, Mechanism};
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "kafka-proxy",
    priority: 508,
    schema: r#"{
        "type": "object",
        "properties": {
            "sasl": {
                "type": "object",
                "properties": {
                    "username": { "type": "string" },
                    "password": { "type": "string" },
                    "mechanism": {
                        "type": "string",
                        "enum": ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
                        "default": "PLAIN",
                        "description": "how the broker is told the password"
                    }
                },
                "required": ["username", "password"]
            }
        }
    }"#,
    encrypt_fields: &["sasl.password"],
    build,
    ..Spec::PLAIN
};

struct KafkaProxy {
    login: Option<Rc<Login>>,
}

fn build(conf: &Value, _: &Build) -> Built {
    let login = |sasl: &Value| {
        Rc::new(Login {
            mechanism: match sasl["mechanism"].as_str() {
                Some("SCRAM-SHA-256") => Mechanism::ScramSha256,
                Some("SCRAM-SHA-512") => Mechanism::ScramSha512,
                _ => Mechanism::Plain,
            },
            username: sasl["username"].as_str().unwrap_or_default().into(),
            password: sasl["password"].as_str().unwrap_or_default().into(),
        })
    };
    Ok(Rc::new(KafkaProxy { login: conf.get("sasl").map(login) }))
}

impl Plugin for KafkaProxy {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        if let Some(login) = &self.login {
            ex.out.login = Some(login.clone());
        }
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_a_login_or_none() {
        for (conf, said) in [
            (json!({}), "accepted"),
            (json!({"sasl": {"username": "user", "password": "pwd"}}), "accepted"),
            (
                json!({"sasl": {"username": "user", "password": "pwd", "mechanism": "SCRAM-SHA-512"}}),
                "accepted",
            ),
            (
                json!({"sasl": {"username": "user"}}),
                "property \"sasl\" validation failed: property \"password\" is required",
            ),
            (
                json!({"sasl": {"username": "user", "password": "pwd", "mechanism": "GSSAPI"}}),
                "property \"sasl\" validation failed: property \"mechanism\" validation failed: matches none of the enum values",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf), said);
        }
    }

    #[test]
    fn the_login_is_the_exchange_s() {
        let host = test::host();
        for (conf, expected) in [
            (json!({}), None),
            (json!({"sasl": {"username": "u", "password": "p"}}), Some(Mechanism::Plain)),
            (
                json!({"sasl": {"username": "u", "password": "p", "mechanism": "SCRAM-SHA-256"}}),
                Some(Mechanism::ScramSha256),
            ),
        ] {
            let plugin = test::build(&SPEC, &host, conf);
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
            assert_eq!(test::run(&plugin, Phase::Access, &mut ex, &host), None);
            let login = ex.out.login.as_deref();
            assert_eq!(login.map(|login| login.mechanism), expected);
            assert!(login.is_none_or(|login| (&*login.username, &*login.password) == ("u", "p")));
        }
    }
}
