//! `client-control`: how long a request's body may be, route by route.
//!
//! ```json
//! {
//!   "uri": "/upload/*",
//!   "plugins": {
//!     "client-control": { "max_body_size": 1048576 }
//!   }
//! }
//! ```
//!
//! Phase: rewrite (apisix/plugins/client-control.lua). A longer body is answered with 413: at once where
//! `Content-Length` says so, else when it is read. 0 is no limit. `nginx_config.http.client_max_body_size` is looked
//! at before, when the head has arrived.
//!
//! Known differences: none.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, Reply};
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "client-control",
    priority: 22000,
    schema: r#"{
        "type": "object",
        "properties": {
            "max_body_size": {
                "type": "integer",
                "minimum": 0,
                "description": "Maximum message body size in bytes. No restriction when set to 0."
            }
        }
    }"#,
    build,
    ..Spec::PLAIN
};

struct ClientControl {
    /// Bytes; 0 is any number.
    max_body_size: Option<u64>,
}

fn build(conf: &Value, _: &Build) -> Built {
    let max_body_size = conf["max_body_size"].as_f64().map(|bytes| bytes as u64);
    Ok(Rc::new(ClientControl { max_body_size }))
}

impl Plugin for ClientControl {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        let Some(most) = self.max_body_size else { return Step::Next };
        if most != 0 && ex.req.body.known_length().is_some_and(|length| length > most) {
            return Step::Reply(Reply::page(413));
        }
        ex.req.body.limit(most);
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Body;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn refuses_what_is_no_size() {
        let error = "property \"max_body_size\" validation failed: expected -1 to be at least 0";
        assert_eq!(test::check(&SPEC, SchemaType::Plain, json!({"max_body_size": -1})), error);
    }

    #[test]
    fn a_long_body_is_refused() {
        let host = test::host();
        let asked = |conf: Value, body: &[u8]| {
            let plugin = test::build(&SPEC, &host, conf);
            let mut ex = test::exchange("POST / HTTP/1.1\nHost: a");
            ex.req.body = Body::from_vec(body.to_vec());
            test::run(&plugin, Phase::Rewrite, &mut ex, &host).map(|reply| reply.status)
        };
        assert_eq!(asked(json!({"max_body_size": 5}), b"12345"), None);
        assert_eq!(asked(json!({"max_body_size": 5}), b"123456"), Some(413));
        assert_eq!(asked(json!({"max_body_size": 0}), b"123456"), None);
        assert_eq!(asked(json!({}), b"123456"), None);
    }
}
