//! `echo`: an answer's body with text before it, behind it, or in its place. Made for trying things out.
//!
//! ```json
//! {
//!   "uri": "/hello",
//!   "plugins": {
//!     "echo": {
//!       "before_body": "begin ",
//!       "body": "hello world",
//!       "after_body": " end",
//!       "headers": { "X-Echo": "yes", "X-Number": 5 }
//!     }
//!   }
//! }
//! ```
//!
//! Phases: header_filter, body_filter (apisix/plugins/echo.lua). Where the body changes, `Content-Length`,
//! `Content-Encoding`, `Last-Modified` and `ETag` go. `headers` are set as they are; if one of them is neither text nor
//! number, none is.
//!
//! Known differences: none.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{BodyPiece, Exchange};
use crate::model::schema::number_text;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec};
use crate::reactor::Chunk;
use crate::wire::Name;

/// The plugin.
pub const SPEC: Spec =
    Spec { name: "echo", priority: 412, schema: include_str!("echo.schema.json"), build, ..Spec::PLAIN };

type Bytes = Box<[u8]>;

struct Echo {
    before: Option<Bytes>,
    body: Option<Bytes>,
    after: Option<Bytes>,
    /// Names and values.
    headers: Vec<(Bytes, Bytes)>,
}

fn build(conf: &Value, _: &Build) -> Built {
    let text = |field: &str| conf[field].as_str().map(|text| text.as_bytes().into());
    let headers = conf["headers"].as_object().into_iter().flatten().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number_text(number.as_f64()?),
            _ => return None,
        };
        Some((name.as_bytes().into(), value.into_bytes().into()))
    });
    let headers = headers.collect::<Option<Vec<_>>>().unwrap_or_default();
    Ok(Rc::new(Echo { before: text("before_body"), body: text("body"), after: text("after_body"), headers }))
}

impl Plugin for Echo {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::HeaderFilter, Phase::BodyFilter])
    }

    fn header_filter(&self, ex: &mut Exchange, _: &Host, _: u16) {
        let headers = ex.resp_headers();
        for name in [Name::ContentLength, Name::ContentEncoding, Name::LastModified, Name::Etag] {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            headers.set(name, value);
        }
    }

    fn body_filter(&self, ex: &mut Exchange, piece: &mut BodyPiece, slot: u16) {
        let begun = std::mem::replace(ex.slot(slot, || false), true);
        let before = self.before.as_deref().filter(|_| !begun).unwrap_or_default();
        piece.last |= self.body.is_some();
        let after = self.after.as_deref().filter(|_| piece.last).unwrap_or_default();
        if before.is_empty() && after.is_empty() && self.body.is_none() {
            return;
        }
        let body = self.body.as_deref().unwrap_or(&piece.data);
        piece.data = Chunk::from_vec([before, body, after].concat());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        let matches_none =
            "object matches none of the required: [\"before_body\"] or [\"body\"] or [\"after_body\"]";
        for (conf, error) in [
            (json!({"headers": {"a": "b"}}), matches_none),
            (
                json!({"body": "x", "headers": {}}),
                "property \"headers\" validation failed: expect object to have at least 1 properties",
            ),
            (
                json!({"before_body": 1}),
                "property \"before_body\" validation failed: wrong type: expected string, got number",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    #[test]
    fn bodies() {
        let host = test::host();
        for (conf, body) in [
            (json!({"body": "new"}), "new"),
            (json!({"before_body": "<"}), "<one two"),
            (json!({"after_body": ">"}), "one two>"),
            (json!({"before_body": "<", "after_body": ">"}), "<one two>"),
            (json!({"before_body": "<", "body": "new", "after_body": ">"}), "<new>"),
            (json!({"body": ""}), ""),
        ] {
            let plugin = test::build(&SPEC, &host, conf.clone());
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
            assert_eq!(test::filtered(&plugin, &mut ex, &[b"one ", b"two"]), body, "{conf}");
        }
    }

    #[test]
    fn headers() {
        let host = test::host();
        let filtered = |headers: Value| {
            let plugin = test::build(&SPEC, &host, json!({"body": "x", "headers": headers}));
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
            test::answer(&mut ex, 200, &[("Content-Length", "3"), ("ETag", "1"), ("X-A", "1"), ("x-a", "2")]);
            plugin.header_filter(&mut ex, &host, 0);
            ["Content-Length", "ETag", "X-A", "X-N"].map(|name| test::values(ex.resp_headers(), name))
        };
        assert_eq!(filtered(json!({"X-A": "$host", "X-N": 2})), ["-", "-", "$host", "2"]);
        assert_eq!(filtered(json!({"X-A": true, "X-N": 2})), ["-", "-", "1|2", "-"]);
    }
}
