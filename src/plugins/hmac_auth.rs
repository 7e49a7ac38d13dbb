//! `hmac-auth`: the consumer signs its requests with a key that it shares with the gateway
//! (draft-cavage-http-signatures, apisix/plugins/hmac-auth.lua).
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "hmac-auth": {
//!       "allowed_algorithms": ["hmac-sha256", "hmac-sha512"],
//!       "signed_headers": ["date", "@request-target"],
//!       "clock_skew": 60,
//!       "validate_request_body": true
//!     }
//!   }
//! }
//! ```
//!
//! A consumer, or one of its credentials, brings the key: `key_id`, by which the client names it, and `secret_key`,
//! which is stored encrypted.
//!
//! ```json
//! { "username": "jack", "plugins": { "hmac-auth": { "key_id": "jack-key", "secret_key": "a secret" } } }
//! ```
//!
//! The client sends the date, its signature, and the digest of the body where that is asked for:
//!
//! ```text
//! Date: Tue, 19 Jan 2021 11:33:20 GMT
//! Authorization: Signature keyId="jack-key",algorithm="hmac-sha256",headers="@request-target date",signature="…"
//! Digest: SHA-256=…
//! ```
//!
//! What it signs are lines, each with a newline at its end: the key id, then for each name in `headers`
//! either `METHOD /path?args` (`@request-target`) or `name: value`. A name that the request has not is
//! left out.
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `allowed_algorithms` | all | of `hmac-sha1`, `hmac-sha256`, `hmac-sha512` |
//! | `clock_skew` | 300 | seconds that `Date` may be off |
//! | `signed_headers` | `["date"]` | names that must be among those signed |
//! | `validate_request_body` | `false` | `Digest` must be that of the body |
//! | `max_req_body_size` | 67108864 | bytes; a longer body gets 413 where it is validated |
//! | `hide_credentials` | `false` | `Authorization` does not go upstream |
//! | `realm` | `hmac` | in `WWW-Authenticate` of a refusal |
//! | `anonymous_consumer` | | the consumer of requests that fail to authenticate |
//!
//! Phases: rewrite. The consumer's plugins join the route's after it; the upstream is told who it is in
//! `X-Consumer-Username`, `X-Credential-Identifier` and `X-Consumer-Custom-ID`.
//!
//! Known differences:
//! - A body that is too long and has no `Content-Length` is refused before its end, so the 413 does not say
//!   how long it was.

use std::cell::OnceCell;
use std::rc::Rc;

use aws_lc_rs::{digest, hmac};
use serde_json::Value;

use super::kit::auth::{Admission, Outcome};
use super::kit::{base64, place};
use crate::exchange::{Exchange, Reply};
use crate::gate::prepare::client_body_error;
use crate::plugin::consumers::Found;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::wire::Name;
use crate::wire::http::date::parse_http_date;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "hmac-auth",
    priority: 2530,
    auth: true,
    schema: include_str!("hmac_auth.schema.json"),
    consumer_schema: Some(
        r#"{
        "type": "object",
        "title": "work with consumer object",
        "properties": {
            "key_id": {"type": "string", "minLength": 1, "maxLength": 256},
            "secret_key": {"type": "string", "minLength": 1, "maxLength": 256}
        },
        "encrypt_fields": ["secret_key"],
        "required": ["key_id", "secret_key"]
    }"#,
    ),
    consumer_encrypt_fields: &["secret_key"],
    consumer_key: Some("key_id"),
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, _: &Build) -> Built {
    let texts = |name: &str| -> Vec<Box<str>> {
        conf[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(Box::from).collect()
    };
    Ok(Rc::new(HmacAuth {
        allowed_algorithms: texts("allowed_algorithms"),
        clock_skew_s: conf["clock_skew"].as_u64().unwrap_or(0),
        signed_headers: texts("signed_headers"),
        validates_body: conf["validate_request_body"] == true,
        body_bytes: conf["max_req_body_size"].as_u64().map_or(usize::MAX, |most| most as usize),
        hide: conf["hide_credentials"] == true,
        admission: Admission::new(SPEC.name, "hmac", conf),
    }))
}

struct HmacAuth {
    allowed_algorithms: Vec<Box<str>>,
    clock_skew_s: u64,
    signed_headers: Vec<Box<str>>,
    validates_body: bool,
    /// Longest body that is read.
    body_bytes: usize,
    hide: bool,
    admission: Admission,
}

/// What the client is told, whatever was wrong with its signature.
const INVALID: &str = "client request can't be validated";

impl Plugin for HmacAuth {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let outcome = self.find(ex, host);
        if outcome.is_err() || !self.validates_body {
            return self.finish(ex, host, outcome).map_or(Step::Next, Step::Reply);
        }
        Step::Wait(Box::pin(async move {
            match self.is_body_signed(ex).await {
                Ok(true) => self.finish(ex, host, outcome),
                Ok(false) => self.finish(ex, host, Err(invalid("Invalid digest"))),
                Err(reply) => Some(reply),
            }
        }))
    }
}

impl HmacAuth {
    fn finish(&self, ex: &mut Exchange, host: &Host, outcome: Outcome) -> Option<Reply> {
        let refused = self.admission.decide(ex, host, outcome);
        if refused.is_none() && self.hide {
            place::remove_header(ex, b"Authorization");
        }
        refused
    }

    /// The consumer that signed the request; its body is not looked at.
    fn find(&self, ex: &Exchange, host: &Host) -> Outcome {
        let header = (ex.req_headers().get(Name::Authorization))
            .ok_or("client request can't be validated: missing Authorization header")?;
        let fields = header.strip_prefix(b"Signature").ok_or(
            "client request can't be validated: Authorization header does not start with 'Signature'",
        )?;
        self.verify(ex, host, &Fields::parse(fields)).map(|found| found.known).map_err(invalid)
    }

    fn verify(&self, ex: &Exchange, host: &Host, fields: &Fields) -> Result<Found, &'static str> {
        let (Some(key_id), Some(signature)) = (fields.key_id, fields.signature) else {
            return Err("keyId or signature missing");
        };
        let name = fields.algorithm.ok_or("algorithm missing")?;
        let found = host.consumers.find(SPEC.name, key_id).ok_or("Invalid key_id")?;
        if !self.allowed_algorithms.iter().any(|allowed| allowed.as_bytes() == name) {
            return Err("Invalid algorithm");
        }
        let algorithm = algorithm(name).ok_or("Invalid algorithm")?;
        self.check_date(ex, (host.unix_s)())?;
        let signs = |wanted: &str| fields.headers().any(|name| name == wanted.as_bytes());
        if !self.signed_headers.iter().all(|wanted| signs(wanted)) {
            return Err("an expected header is missing in signing");
        }
        let signature = base64::decode(signature).ok_or("Invalid signature")?;
        let key = found.auth.compiled(Keys::of).of_algorithm(algorithm);
        // compares in constant time
        hmac::verify(key, &signing_string(ex, key_id, fields), &signature)
            .map_err(|_| "Invalid signature")?;
        Ok(found)
    }

    fn check_date(&self, ex: &Exchange, now_s: u64) -> Result<(), &'static str> {
        let date =
            ex.req_headers().get(Name::Date).ok_or("Date header missing. failed to validate clock skew")?;
        let date_s = parse_http_date(date).ok_or("Invalid GMT format time")?;
        if now_s.abs_diff(date_s) > self.clock_skew_s {
            return Err("Clock skew exceeded");
        }
        Ok(())
    }

    /// Does `Digest` say what the body is? `Err` is the answer where the body cannot be read.
    async fn is_body_signed(&self, ex: &mut Exchange) -> Result<bool, Reply> {
        let Some(expected) = place::header(ex, b"Digest").map(<[u8]>::to_vec) else { return Ok(false) };
        let length = ex.req.body.known_length();
        let body = ex.req.body.read_ahead(self.body_bytes).await;
        let Some(body) = body.map_err(|error| client_body_error(ex, error))? else {
            let size = length.map(|length| format!(" {length}")).unwrap_or_default();
            let most = self.body_bytes;
            let text = format!("request size{size} is greater than the maximum size {most} allowed");
            log::error!("failed to read request body: {text}");
            return Err(Reply::message(413, &text));
        };
        let digest = base64::encode(digest::digest(&digest::SHA256, &body).as_ref());
        Ok(expected == format!("SHA-256={digest}").as_bytes())
    }
}

/// The reason is for the log; it holds nothing that the client sent.
fn invalid(reason: &'static str) -> &'static str {
    log::warn!("client request can't be validated: {reason}");
    INVALID
}

/// The place of an algorithm in [`ALGORITHMS`] and [`Keys`].
fn algorithm(name: &[u8]) -> Option<usize> {
    ALGORITHMS.iter().position(|(known, _)| known.as_bytes() == name)
}

const ALGORITHMS: [(&str, hmac::Algorithm); 3] = [
    ("hmac-sha1", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
    ("hmac-sha256", hmac::HMAC_SHA256),
    ("hmac-sha512", hmac::HMAC_SHA512),
];

/// A consumer's secret, ready for each algorithm that a request has named: half of the work of a short message.
struct Keys {
    secret: Box<str>,
    ready: [OnceCell<hmac::Key>; ALGORITHMS.len()],
}

impl Keys {
    fn of(conf: &Value) -> Keys {
        Keys { secret: conf["secret_key"].as_str().unwrap_or_default().into(), ready: Default::default() }
    }

    fn of_algorithm(&self, at: usize) -> &hmac::Key {
        self.ready[at].get_or_init(|| hmac::Key::new(ALGORITHMS[at].1, self.secret.as_bytes()))
    }
}

/// What stands in `Authorization` behind `Signature`.
#[derive(Default, Debug, PartialEq)]
struct Fields<'a> {
    key_id: Option<&'a [u8]>,
    algorithm: Option<&'a [u8]>,
    signature: Option<&'a [u8]>,
    headers: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Reads `name="value"` pieces with commas between them; the last of a name counts.
    fn parse(text: &'a [u8]) -> Self {
        let mut fields = Fields::default();
        let mut rest = Some(text);
        let pieces = std::iter::from_fn(|| {
            let text = rest?;
            let comma = memchr::memchr(b',', text);
            rest = comma.map(|comma| &text[comma + 1..]);
            Some(&text[..comma.unwrap_or(text.len())])
        });
        for (name, value) in pieces.filter_map(name_and_value) {
            match name {
                b"keyId" => fields.key_id = Some(value),
                b"algorithm" => fields.algorithm = Some(value),
                b"signature" => fields.signature = Some(value),
                b"headers" => fields.headers = Some(value),
                _ => {}
            }
        }
        fields
    }

    /// The names that were signed, as written.
    fn headers(&self) -> impl Iterator<Item = &'a [u8]> {
        self.headers.into_iter().flat_map(|list| list.split(|b| *b == b' '))
    }
}

/// `(%w+)="(.-)"` wherever it stands in the piece.
fn name_and_value(piece: &[u8]) -> Option<(&[u8], &[u8])> {
    memchr::memchr_iter(b'"', piece).find_map(|quote| {
        let before = piece[..quote].strip_suffix(b"=")?;
        let name = before.rsplit(|b| !b.is_ascii_alphanumeric()).next().filter(|name| !name.is_empty())?;
        let value = &piece[quote + 1..];
        Some((name, &value[..memchr::memchr(b'"', value)?]))
    })
}

/// As long as a text that is signed usually is, bytes: its memory is asked for at once.
const SIGNED_BYTES: usize = 256;

/// The text that the client signs.
fn signing_string(ex: &Exchange, key_id: &[u8], fields: &Fields) -> Vec<u8> {
    let mut text = Vec::with_capacity(SIGNED_BYTES);
    text.extend_from_slice(key_id);
    for name in fields.headers() {
        match place::header(ex, name) {
            Some(value) => [b"\n", name, b": ", value].iter().for_each(|part| text.extend_from_slice(part)),
            None if name == b"@request-target" => {
                [b"\n", ex.req.head.method_text(), b" "].iter().for_each(|part| text.extend_from_slice(part));
                ex.write_request_uri(&mut text);
            }
            None => {}
        }
    }
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Body;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;
    use crate::wire::http::write::http_date;

    const SECRET: &str = "my-secret-key";

    fn host() -> Rc<Host> {
        let host = test::host();
        let key = json!({"hmac-auth": {"key_id": "my-key", "secret_key": SECRET}});
        host.consumers.put(&test::consumer("jack", key, json!({})));
        host.consumers.put(&test::consumer("anna", json!({}), json!({})));
        host
    }

    /// A request signed over `headers` at `offset_s` from now; `more` are its other headers.
    fn signed(algorithm_name: &str, headers: &str, offset_s: i64, more: &str) -> Exchange {
        let date = http_date(test::unix_s().saturating_add_signed(offset_s));
        let date = String::from_utf8_lossy(&date);
        let head = format!("POST /hello?a=%31 HTTP/1.1\nHost: a\nDate: {date}\n{more}");
        let head = head.trim_end();
        let fields = Fields { headers: Some(headers.as_bytes()), ..Fields::default() };
        let text = signing_string(&test::exchange(head), b"my-key", &fields);
        let key =
            hmac::Key::new(ALGORITHMS[algorithm(algorithm_name.as_bytes()).unwrap()].1, SECRET.as_bytes());
        let signature = base64::encode(hmac::sign(&key, &text).as_ref());
        test::exchange(&format!(
            "{head}\nAuthorization: Signature keyId=\"my-key\",algorithm=\"{algorithm_name}\", \
             headers=\"{headers}\",signature=\"{signature}\""
        ))
    }

    #[test]
    fn checks_configurations_as_apisix() {
        let consumer = SchemaType::Consumer;
        for (kind, conf, outcome) in [
            (SchemaType::Plain, json!({}), "accepted".to_owned()),
            (
                SchemaType::Plain,
                json!({"allowed_algorithms": ["hmac-md5"]}),
                "property \"allowed_algorithms\" validation failed: failed to validate item 1: matches none \
                 of the enum values"
                    .into(),
            ),
            (
                SchemaType::Plain,
                json!({"clock_skew": 0}),
                "property \"clock_skew\" validation failed: expected 0 to be at least 1".into(),
            ),
            (
                SchemaType::Plain,
                json!({"signed_headers": [""]}),
                "property \"signed_headers\" validation failed: failed to validate item 1: string too short, \
                 expected at least 1, got 0"
                    .into(),
            ),
            (consumer, json!({"key_id": "k", "secret_key": "s"}), "accepted".into()),
            (consumer, json!({"key_id": "k"}), "property \"secret_key\" is required".into()),
            (
                consumer,
                json!({"key_id": "x".repeat(257), "secret_key": "s"}),
                "property \"key_id\" validation failed: string too long, expected at most 256, got 257".into(),
            ),
        ] {
            assert_eq!(test::check(&SPEC, kind, conf.clone()), outcome, "{conf}");
        }
    }

    /// The string that APISIX's page signs, written out.
    #[test]
    fn the_signing_string() {
        let ex = test::exchange("GET /get?x=%20 HTTP/1.1\nHost: a\nDate: now\nX-A: 1");
        let fields = Fields::parse(br#" keyId="k",headers="@request-target date X-A x-none  ""#);
        let text = signing_string(&ex, b"k", &fields);
        assert_eq!(String::from_utf8_lossy(&text), "k\nGET /get?x=%20\ndate: now\nX-A: 1\n");
    }

    #[test]
    fn reads_the_fields_of_the_header() {
        let fields = Fields::parse(br#" keyId="a b",  x algorithm="c",signature=d,="e",headers="f g",odd="#);
        let expected =
            Fields { key_id: Some(b"a b"), algorithm: Some(b"c"), signature: None, headers: Some(b"f g") };
        assert_eq!(fields, expected);
        assert_eq!(Fields::parse(b"").headers().count(), 0);
    }

    #[test]
    fn finds_the_consumer_by_each_algorithm() {
        let host = host();
        let plugin = test::build(&SPEC, &host, json!({}));
        for algorithm in ["hmac-sha1", "hmac-sha256", "hmac-sha512"] {
            for headers in ["date", "@request-target date x-a", "X-A  date absent"] {
                let mut ex = signed(algorithm, headers, -300, "X-A: 1");
                assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None, "{algorithm} {headers}");
                assert_eq!(test::values(ex.req_headers(), "X-Consumer-Username"), "jack");
                assert_ne!(test::values(ex.req_headers(), "Authorization"), "-");
            }
        }
    }

    #[test]
    fn refuses_with_a_challenge() {
        let host = host();
        let conf = json!({"allowed_algorithms": ["hmac-sha256"], "signed_headers": ["date", "X-A"]});
        let plugin = test::build(&SPEC, &host, conf);
        let refused = |mut ex: Exchange, message: &str| {
            let reply = test::run(&plugin, Phase::Rewrite, &mut ex, &host);
            assert_eq!(reply, Some(Reply::message(401, message)));
            assert_eq!(test::values(ex.resp_headers(), "WWW-Authenticate"), "hmac realm=\"hmac\"");
        };
        let request = |headers: &str| test::exchange(&format!("GET /hello HTTP/1.1\nHost: a\n{headers}"));
        refused(request(""), "client request can't be validated: missing Authorization header");
        refused(
            request("Authorization: Basic x"),
            "client request can't be validated: Authorization header does not start with 'Signature'",
        );
        refused(request("Authorization: Signature"), INVALID);
        refused(request(r#"Authorization: Signature keyId="my-key",signature="s""#), INVALID);
        refused(
            request(r#"Authorization: Signature keyId="nobody",algorithm="hmac-sha256",signature="s""#),
            INVALID,
        );
        for (algorithm, headers, offset_s, forge) in [
            ("hmac-sha512", "date X-A", 0, None),
            ("hmac-sha256", "date", 0, None),
            ("hmac-sha256", "date x-a", 0, None),
            ("hmac-sha256", "date X-A", 301, None),
            ("hmac-sha256", "date X-A", -301, None),
            ("hmac-sha256", "date X-A", 0, Some(("X-A", "2"))),
            ("hmac-sha256", "date X-A", 0, Some(("Date", "yesterday"))),
        ] {
            let mut ex = signed(algorithm, headers, offset_s, "X-A: 1");
            if let Some((name, value)) = forge {
                ex.req.head.headers.set(name.as_bytes(), value.as_bytes());
            }
            refused(ex, INVALID);
        }
        let mut dateless = signed("hmac-sha256", "X-A", 0, "X-A: 1");
        dateless.req.head.headers.remove_named(b"date");
        refused(dateless, INVALID);
        let right = &mut signed("hmac-sha256", "date X-A", 0, "X-A: 1");
        assert_eq!(test::run(&plugin, Phase::Rewrite, right, &host), None);
    }

    #[test]
    fn validates_the_body() {
        let host = host();
        let conf = json!({"validate_request_body": true, "max_req_body_size": 5});
        let plugin = test::build(&SPEC, &host, conf);
        let digest = base64::encode(digest::digest(&digest::SHA256, b"hello").as_ref());
        let digest = format!("Digest: SHA-256={digest}");
        let too_long = "request size 6 is greater than the maximum size 5 allowed";
        for (body, more, refusal) in [
            ("hello", &*digest, None),
            ("hallo", &*digest, Some(Reply::message(401, INVALID))),
            ("hello", "", Some(Reply::message(401, INVALID))),
            ("hello!", &*digest, Some(Reply::message(413, too_long))),
        ] {
            let mut ex = signed("hmac-sha256", "date", 0, more);
            ex.req.body = Body::from_vec(body.into());
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), refusal, "{body} {more}");
            assert_eq!(ex.req.body.known_length(), Some(body.len() as u64), "still to be sent upstream");
        }
    }

    #[test]
    fn hides_the_header_and_lets_the_anonymous_in() {
        let host = host();
        let conf = json!({"hide_credentials": true, "anonymous_consumer": "anna"});
        let plugin = test::build(&SPEC, &host, conf);
        for (offset_s, consumer) in [(0, "jack"), (400, "anna")] {
            let mut ex = signed("hmac-sha256", "date", offset_s, "");
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
            assert_eq!(test::values(ex.req_headers(), "Authorization"), "-");
            assert_eq!(test::values(ex.req_headers(), "X-Consumer-Username"), consumer);
        }
    }
}
