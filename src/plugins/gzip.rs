//! `gzip`: compresses answers piece by piece as they pass (apisix/plugins/gzip.lua, nginx's gzip filter).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "gzip": { "types": ["text/html", "application/json"], "min_length": 200, "comp_level": 4, "vary": true }
//!   }
//! }
//! ```
//!
//! `types` is a list, or `"*"`. Answers with 200, 403 or 404 are compressed whose client accepts gzip, which
//! have a `Content-Type` and no `Content-Encoding`, and which are not known to be shorter than `min_length`.
//!
//! Phases: header_filter decides; the coding itself comes behind the body filters of all plugins.
//!
//! Known differences:
//! - `buffers` is accepted and has no effect: a piece is compressed as it comes, and sent at once.
//! - `http_version: 1.0` compresses answers to HTTP/1.0 clients (nginx's own limit of 1.1 stands before it in
//!   APISIX).

use std::io::Write;
use std::rc::Rc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::exchange::{BodyPiece, Encoder, Exchange};
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec};
use crate::reactor::Chunk;
use crate::wire::Name;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "gzip",
    priority: 995,
    schema: r#"{
        "type": "object",
        "properties": {
            "types": {
                "anyOf": [
                    {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                    {"enum": ["*"]}
                ],
                "default": ["text/html"]
            },
            "min_length": {"type": "integer", "minimum": 1, "default": 20},
            "comp_level": {"type": "integer", "minimum": 1, "maximum": 9, "default": 1},
            "http_version": {"enum": [1.1, 1.0], "default": 1.1},
            "buffers": {
                "type": "object",
                "properties": {
                    "number": {"type": "integer", "minimum": 1, "default": 32},
                    "size": {"type": "integer", "minimum": 1, "default": 4096}
                },
                "default": {"number": 32, "size": 4096}
            },
            "vary": {"type": "boolean"}
        }
    }"#,
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, _: &Build) -> Built {
    let types = conf["types"].as_array().map(|types| {
        let texts = types.iter().filter_map(Value::as_str);
        texts.map(|text| text.as_bytes().into()).collect()
    });
    Ok(Rc::new(Gzip {
        types,
        min_bytes: conf["min_length"].as_u64().unwrap_or(20),
        level: conf["comp_level"].as_u64().unwrap_or(1) as u32,
        version: if conf["http_version"].as_f64() == Some(1.0) { 10 } else { 11 },
        vary: conf["vary"] == true,
    }))
}

struct Gzip {
    /// `None`: all.
    types: Option<Box<[Box<[u8]>]>>,
    min_bytes: u64,
    level: u32,
    /// Of the client: 10 or 11.
    version: u8,
    vary: bool,
}

impl Plugin for Gzip {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::HeaderFilter])
    }

    fn header_filter(&self, ex: &mut Exchange, _: &Host, _: u16) {
        if ex.req.head.version < self.version || !self.takes(ex) {
            return;
        }
        ex.encoder = Some(Box::new(GzEncoder::new(Vec::new(), Compression::new(self.level))));
        if self.vary {
            ex.resp_headers().add(b"Vary", b"Accept-Encoding");
        }
    }
}

impl Gzip {
    /// By type and length.
    fn takes(&self, ex: &mut Exchange) -> bool {
        let headers = ex.resp_headers();
        let Some(kind) = headers.get(Name::ContentType) else { return false };
        let kind = kind.split(|b| *b == b';').next().unwrap_or_default();
        let length = headers.get(Name::ContentLength).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
        self.types.as_ref().is_none_or(|types| types.iter().any(|known| **known == *kind))
            && length.is_none_or(|length: u64| length >= self.min_bytes)
    }
}

impl Encoder for GzEncoder<Vec<u8>> {
    fn coding(&self) -> &'static str {
        "gzip"
    }

    /// Each piece leaves whole, so that streams (server-sent events) go on flowing.
    fn encode(&mut self, piece: &mut BodyPiece) {
        let data = std::mem::replace(&mut piece.data, Chunk::empty());
        // a Vec takes all that is written to it
        let written = self.write_all(&data);
        let ended = match piece.last {
            true => self.try_finish(),
            false if data.is_empty() => Ok(()),
            false => self.flush(),
        };
        debug_assert!(written.is_ok() && ended.is_ok());
        piece.data = Chunk::from_vec(std::mem::take(self.get_mut()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        let range = |name: &str, text: &str| format!("property \"{name}\" validation failed: {text}");
        for (conf, said) in [
            (json!({}), "accepted".to_owned()),
            (json!({ "types": "*", "http_version": 1.0 }), "accepted".to_owned()),
            (json!({ "types": [] }), range("types", "object matches none of the required")),
            (json!({ "min_length": 0 }), range("min_length", "expected 0 to be at least 1")),
            (json!({ "comp_level": 10 }), range("comp_level", "expected 10 to be at most 9")),
            (json!({ "http_version": 2 }), range("http_version", "matches none of the enum values")),
            (
                json!({ "buffers": { "size": 0 } }),
                range("buffers", &range("size", "expected 0 to be at least 1")),
            ),
            (json!({ "vary": 0 }), range("vary", "wrong type: expected boolean, got number")),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    /// The exchange once its head has left.
    fn answered(conf: Value, request: &str, status: u16, headers: &[(&str, &str)]) -> Exchange {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange(request);
        test::answer(&mut ex, status, headers);
        plugin.header_filter(&mut ex, &host, 0);
        ex.settle_encoding();
        ex
    }

    const ASKS: &str = "GET / HTTP/1.1\nHost: a\nAccept-Encoding: gzip";
    const HTML: (&str, &str) = ("Content-Type", "text/html; charset=utf-8");

    #[test]
    fn which_answers() {
        for (conf, request, status, headers, encoded) in [
            (json!({}), ASKS, 200, vec![HTML], true),
            (json!({}), ASKS, 404, vec![HTML, ("Content-Length", "20")], true),
            (json!({}), ASKS, 200, vec![HTML, ("Content-Length", "19")], false),
            (json!({}), ASKS, 201, vec![HTML], false),
            (json!({}), ASKS, 200, vec![], false),
            (json!({}), ASKS, 200, vec![("Content-Type", "text/plain")], false),
            (json!({ "types": "*" }), ASKS, 200, vec![("Content-Type", "video/3gpp")], true),
            (json!({}), ASKS, 200, vec![HTML, ("Content-Encoding", "br")], false),
            (json!({}), "GET / HTTP/1.1\nHost: a", 200, vec![HTML], false),
            (json!({}), "HEAD / HTTP/1.1\nHost: a\nAccept-Encoding: gzip", 200, vec![HTML], false),
            (json!({}), "GET / HTTP/1.0\nHost: a\nAccept-Encoding: gzip", 200, vec![HTML], false),
        ] {
            let ex = answered(conf.clone(), request, status, &headers);
            assert_eq!(ex.encoder.is_some(), encoded, "{conf} {request} {status} {headers:?}");
        }
    }

    #[test]
    fn the_head_says_so() {
        let mut ex = answered(
            json!({ "vary": true }),
            ASKS,
            200,
            &[HTML, ("Content-Length", "100"), ("ETag", "\"1\""), ("Accept-Ranges", "bytes"), ("Vary", "A")],
        );
        let mut header = |name| test::values(ex.resp_headers(), name);
        assert_eq!(header("Content-Encoding"), "gzip");
        assert_eq!(header("Vary"), "A|Accept-Encoding");
        assert_eq!(header("ETag"), "W/\"1\"");
        assert_eq!((header("Content-Length"), header("Accept-Ranges")), ("-".into(), "-".into()));
    }

    #[test]
    fn pieces_flow_and_make_one_stream() {
        let mut ex = answered(json!({ "comp_level": 9 }), ASKS, 200, &[HTML]);
        let encoder = ex.encoder.as_mut().unwrap();
        let mut stream = Vec::new();
        for (data, last) in [(&b"hello "[..], false), (b"", false), (b"world", false), (b"", true)] {
            let mut piece = BodyPiece { data: Chunk::from_vec(data.to_vec()), last };
            encoder.encode(&mut piece);
            stream.extend_from_slice(&piece.data);
            if data == b"hello " {
                let mut begun = [0; 6];
                GzDecoder::new(&stream[..]).read_exact(&mut begun).unwrap();
                assert_eq!(&begun, b"hello ", "a piece can be read before the next comes");
            }
        }
        let mut whole = String::new();
        GzDecoder::new(&stream[..]).read_to_string(&mut whole).unwrap();
        assert_eq!(whole, "hello world");
    }
}
