//! `request-id`: gives each request an identifier that upstream, client and logs see (apisix/plugins/request-id.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "request-id": { "header_name": "X-Request-Id", "include_in_response": true, "algorithm": "uuidv7" }
//!   }
//! }
//! ```
//!
//! `algorithm` is `uuid` (version 4), `uuidv7`, `nanoid` (21 letters), `ksuid`, or `range_id` with its own
//! `length` and `char_set`. An identifier that the client sends is kept.
//!
//! Phases: rewrite (the request's header and `$apisix_request_id`), header_filter (the answer's, unless the
//! upstream has set one).
//!
//! Known differences: of several headers of the name in one request the first alone comes back in the answer.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use smallvec::{SmallVec, smallvec};

use crate::exchange::{Exchange, Vars};
use crate::limits;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::plugins::kit::random;
use crate::wire::headers::FieldName;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "request-id",
    priority: 12015,
    schema: r#"{
        "type": "object",
        "properties": {
            "header_name": {"type": "string", "default": "X-Request-Id"},
            "include_in_response": {"type": "boolean", "default": true},
            "algorithm": {
                "type": "string",
                "enum": ["uuid", "nanoid", "range_id", "ksuid", "uuidv7"],
                "default": "uuid"
            },
            "range_id": {
                "type": "object",
                "properties": {
                    "length": {"type": "integer", "minimum": 6, "default": 16},
                    "char_set": {
                        "type": "string",
                        "minLength": 6,
                        "default": "abcdefghijklmnopqrstuvwxyzABCDEFGHIGKLMNOPQRSTUVWXYZ0123456789"
                    }
                },
                "default": {
                    "length": 16,
                    "char_set": "abcdefghijklmnopqrstuvwxyzABCDEFGHIGKLMNOPQRSTUVWXYZ0123456789"
                }
            }
        }
    }"#,
    build,
    ..Spec::PLAIN
};

/// nanoid's alphabet: 64 letters, so that six random bits are one of them.
const NANOID: &[u8; 64] = b"-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const NANOID_LETTERS: usize = 21;

/// The digits of ksuid's base 62, in the order of ASCII, so that texts sort as the numbers do.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// A ksuid counts seconds from here (2014-05-13T16:53:20Z).
const KSUID_EPOCH_S: u64 = 1_400_000_000;
const KSUID_LETTERS: usize = 27;

/// How an identifier is made.
enum Algorithm {
    Uuid,
    UuidV7,
    Nanoid,
    Ksuid,
    Range { length: usize, letters: Box<[u8]> },
}

fn build(conf: &Value, _: &Build) -> Built {
    let header = conf["header_name"].as_str().unwrap_or_default();
    let algorithm = match conf["algorithm"].as_str() {
        Some("uuidv7") => Algorithm::UuidV7,
        Some("nanoid") => Algorithm::Nanoid,
        Some("ksuid") => Algorithm::Ksuid,
        Some("range_id") => Algorithm::Range {
            length: conf["range_id"]["length"].as_u64().unwrap_or(16).min(limits::REQUEST_ID as u64) as usize,
            letters: conf["range_id"]["char_set"].as_str().unwrap_or("abcdef").as_bytes().into(),
        },
        _ => Algorithm::Uuid,
    };
    Ok(Rc::new(RequestId {
        header: FieldName::new(header.as_bytes()),
        answered: (conf["include_in_response"] != false).then(|| format!("request-id-{header}").into()),
        algorithm,
    }))
}

struct RequestId {
    header: FieldName,
    /// The variable that keeps the identifier for the answer; `None` where the answer has none.
    answered: Option<Box<str>>,
    algorithm: Algorithm,
}

impl Plugin for RequestId {
    fn phases(&self) -> Phases {
        match self.answered {
            Some(_) => Phases::of(&[Phase::Rewrite, Phase::HeaderFilter]),
            None => Phases::of(&[Phase::Rewrite]),
        }
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        let sent = ex.req_headers().get_known(&self.header).filter(|sent| !sent.is_empty());
        let id = match sent {
            Some(sent) => sent.to_vec(),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let id = self.algorithm.make(since, random::fill);
                ex.req.head.headers.set_known(&self.header, &id);
                id
            }
        };
        if let Some(name) = &self.answered {
            ex.set_var(name.to_string(), id.clone());
        }
        ex.set_var("apisix_request_id", id);
        Step::Next
    }

    fn header_filter(&self, ex: &mut Exchange, _: &Host, _: u16) {
        let Some(name) = &self.answered else { return };
        if ex.resp_headers().get_known(&self.header).is_some_and(|value| !value.is_empty()) {
            return;
        }
        let id: Option<SmallVec<[u8; 40]>> = ex.var(name).map(|id| SmallVec::from_slice(&id));
        if let Some(id) = id {
            ex.resp_headers().set_known(&self.header, &id);
        }
    }
}

impl Algorithm {
    /// A new identifier at this time (since 1970) of this randomness.
    fn make(&self, since: Duration, random: impl Fn(&mut [u8])) -> Vec<u8> {
        match self {
            Algorithm::Uuid => {
                let mut bytes = [0; 16];
                random(&mut bytes);
                text_of(uuid::Builder::from_random_bytes(bytes))
            }
            Algorithm::UuidV7 => {
                let mut bytes = [0; 10];
                random(&mut bytes);
                text_of(uuid::Builder::from_unix_timestamp_millis(since.as_millis() as u64, &bytes))
            }
            Algorithm::Nanoid => {
                let mut bytes = [0; NANOID_LETTERS];
                random(&mut bytes);
                bytes.iter().map(|byte| NANOID[usize::from(byte & 63)]).collect()
            }
            Algorithm::Ksuid => {
                let mut bytes = [0; 20];
                random(&mut bytes[4..]);
                let stamp = since.as_secs().saturating_sub(KSUID_EPOCH_S) as u32;
                bytes[..4].copy_from_slice(&stamp.to_be_bytes());
                base62(bytes)
            }
            Algorithm::Range { length, letters } => {
                // four bytes a letter: the bias of the remainder is below 2^-24 for any set of letters
                let mut bytes: SmallVec<[u8; 128]> = smallvec![0; length * 4];
                random(&mut bytes);
                let (fours, _) = bytes.as_chunks();
                let letter = |four: &[u8; 4]| letters[u32::from_be_bytes(*four) as usize % letters.len()];
                fours.iter().map(letter).collect()
            }
        }
    }
}

fn text_of(uuid: uuid::Builder) -> Vec<u8> {
    let mut text = uuid::Uuid::encode_buffer();
    uuid.into_uuid().hyphenated().encode_lower(&mut text).as_bytes().to_vec()
}

/// A number of 160 bits with the digits of [`BASE62`], filled with zeros to 27.
fn base62(mut number: [u8; 20]) -> Vec<u8> {
    let mut text = vec![b'0'; KSUID_LETTERS];
    for letter in text.iter_mut().rev() {
        let mut rest = 0;
        for byte in &mut number {
            let part = rest << 8 | usize::from(*byte);
            *byte = (part / 62) as u8; // rest < 62, so the quotient is below 256
            rest = part % 62;
        }
        *letter = BASE62[rest];
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses() {
        for (conf, said) in [
            (json!({}), "accepted"),
            (json!({ "algorithm": "range_id", "range_id": {} }), "accepted"),
            (
                json!({ "algorithm": "bad" }),
                r#"property "algorithm" validation failed: matches none of the enum values"#,
            ),
            (
                json!({ "include_in_response": "yes" }),
                r#"property "include_in_response" validation failed: wrong type: expected boolean, got string"#,
            ),
            (
                json!({ "range_id": { "length": 5 } }),
                r#"property "range_id" validation failed: property "length" validation failed: expected 5 to be at least 6"#,
            ),
            (
                json!({ "range_id": { "char_set": "abc" } }),
                r#"property "range_id" validation failed: property "char_set" validation failed: string too short, expected at least 6, got 3"#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn every_algorithm_makes_its_own_shape() {
        let ones = |bytes: &mut [u8]| bytes.fill(0xff);
        let zeros = |bytes: &mut [u8]| bytes.fill(0);
        let at = Duration::from_millis(1_645_557_742_000); // RFC 9562, appendix A.6
        let text = |algorithm: &Algorithm, random: &dyn Fn(&mut [u8])| {
            String::from_utf8(algorithm.make(at, random)).unwrap()
        };
        assert_eq!(text(&Algorithm::Uuid, &ones), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(text(&Algorithm::UuidV7, &zeros), "017f22e2-79b0-7000-8000-000000000000");
        assert_eq!(text(&Algorithm::Nanoid, &ones), "Z".repeat(21));
        let range = Algorithm::Range { length: 8, letters: b"abcdef"[..].into() };
        assert_eq!(text(&range, &zeros), "aaaaaaaa");
        assert_eq!(base62([0xff; 20]), b"aWgEPTl1tmebfsQzFP4bxwgy80V", "the highest ksuid");
        assert_eq!(text(&Algorithm::Ksuid, &zeros).len(), 27);
    }

    #[test]
    fn request_and_answer_carry_it() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({ "header_name": "X-Id" }));
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
        test::run(&plugin, Phase::Rewrite, &mut ex, &host);
        let sent = test::values(ex.req_headers(), "X-Id");
        assert_eq!(sent.len(), 36);
        assert_eq!(ex.var("apisix_request_id").unwrap(), sent.as_bytes());
        test::answer(&mut ex, 200, &[]);
        plugin.header_filter(&mut ex, &host, 0);
        assert_eq!(test::values(ex.resp_headers(), "X-Id"), sent);
    }

    #[test]
    fn an_empty_one_is_none() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({}));
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a\nX-Request-Id:");
        test::run(&plugin, Phase::Rewrite, &mut ex, &host);
        let made = test::values(ex.req_headers(), "X-Request-Id");
        assert_eq!(made.len(), 36);
        test::answer(&mut ex, 200, &[("X-Request-Id", "")]);
        plugin.header_filter(&mut ex, &host, 0);
        assert_eq!(test::values(ex.resp_headers(), "X-Request-Id"), made);
    }

    #[test]
    fn what_client_and_upstream_say_stays() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({}));
        for (upstream, answered) in [(None, "mine"), (Some("theirs"), "theirs")] {
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a\nx-request-id: mine");
            test::run(&plugin, Phase::Rewrite, &mut ex, &host);
            assert_eq!(test::values(ex.req_headers(), "X-Request-Id"), "mine");
            let headers: Vec<_> = upstream.map(|id| ("X-Request-Id", id)).into_iter().collect();
            test::answer(&mut ex, 200, &headers);
            plugin.header_filter(&mut ex, &host, 0);
            assert_eq!(test::values(ex.resp_headers(), "X-Request-Id"), answered);
        }
        let silent = test::build(&SPEC, &host, json!({ "include_in_response": false }));
        assert!(!silent.phases().has(Phase::HeaderFilter));
    }
}
