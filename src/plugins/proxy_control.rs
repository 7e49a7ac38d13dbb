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
//! With `true`, the default of the option, the body is collected before the upstream gets any of it: a slow client
//! keeps no upstream waiting, and another node can be tried with it. With `false` each piece goes upstream as it
//! comes, and a try that fails after the first of them is the last. Requests without the plugin are sent when their
//! body has ended, or 64 KiB of it are there.
//!
//! Phase: rewrite (apisix/plugins/proxy-control.lua).
//!
//! Known differences: a body is never spooled to a file. Of one above 1 MiB that much is collected, the rest streams.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::Exchange;
use crate::limits;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "proxy-control",
    priority: 21990,
    schema: r#"{
        "type": "object",
        "properties": {
            "request_buffering": { "type": "boolean", "default": true }
        }
    }"#,
    build,
    ..Spec::PLAIN
};

struct ProxyControl {
    held_bytes: usize,
}

fn build(conf: &Value, _: &Build) -> Built {
    let held_bytes = if conf["request_buffering"] == false { 0 } else { limits::BUFFERED_BODY };
    Ok(Rc::new(ProxyControl { held_bytes }))
}

impl Plugin for ProxyControl {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        ex.out.held_bytes = Some(self.held_bytes);
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
    fn accepts_a_flag_alone() {
        assert_eq!(test::check(&SPEC, SchemaType::Plain, json!({"request_buffering": false})), "accepted");
        let error =
            "property \"request_buffering\" validation failed: wrong type: expected boolean, got string";
        assert_eq!(test::check(&SPEC, SchemaType::Plain, json!({"request_buffering": "no"})), error);
    }

    #[test]
    fn says_how_much_is_collected() {
        let host = test::host();
        for (conf, held_bytes) in [(json!({}), 1 << 20), (json!({"request_buffering": false}), 0)] {
            let plugin = test::build(&SPEC, &host, conf);
            let mut ex = test::exchange("POST / HTTP/1.1\nHost: a");
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
            assert_eq!(ex.out.held_bytes, Some(held_bytes));
        }
    }
}
