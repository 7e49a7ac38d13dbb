//! `basic-auth`: the consumer is found by the name and password of `Authorization: Basic` (RFC 7617,
//! apisix/plugins/basic-auth.lua).
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "basic-auth": { "hide_credentials": true, "realm": "orders" }
//!   }
//! }
//! ```
//!
//! A consumer, or one of its credentials, brings `username` and `password`; the password is stored encrypted:
//!
//! ```json
//! { "username": "jack", "plugins": { "basic-auth": { "username": "foo", "password": "bar" } } }
//! ```
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `hide_credentials` | `false` | `Authorization` does not go upstream |
//! | `realm` | `basic` | in `WWW-Authenticate` of a refusal |
//! | `anonymous_consumer` | | the consumer of requests that fail to authenticate |
//!
//! Phases: rewrite. The consumer's plugins join the route's after it; the upstream is told who it is in
//! `X-Consumer-Username`, `X-Credential-Identifier` and `X-Consumer-Custom-ID`.
//!
//! Known differences:
//! - A password may hold `:`. APISIX compares only what stands before the second one.

use std::rc::Rc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde_json::Value;

use super::kit::auth::{Admission, Outcome};
use super::kit::{base64, place};
use crate::exchange::Exchange;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::wire::Name;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "basic-auth",
    priority: 2520,
    auth: true,
    schema: include_str!("basic_auth.schema.json"),
    consumer_schema: Some(
        r#"{
        "type": "object",
        "title": "work with consumer object",
        "properties": {"username": {"type": "string"}, "password": {"type": "string"}},
        "encrypt_fields": ["password"],
        "required": ["username", "password"]
    }"#,
    ),
    consumer_encrypt_fields: &["password"],
    consumer_key: Some("username"),
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, _: &Build) -> Built {
    Ok(Rc::new(BasicAuth {
        hide: conf["hide_credentials"] == true,
        admission: Admission::new(SPEC.name, "Basic", conf),
    }))
}

struct BasicAuth {
    hide: bool,
    admission: Admission,
}

impl Plugin for BasicAuth {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let outcome = find(ex, host);
        if let Some(reply) = self.admission.decide(ex, host, outcome) {
            return Step::Reply(reply);
        }
        if self.hide {
            place::remove_header(ex, b"Authorization");
        }
        Step::Next
    }
}

fn find(ex: &Exchange, host: &Host) -> Outcome {
    let header = ex.req_headers().get(Name::Authorization).ok_or("Missing authorization in request")?;
    let (text, colon) = credentials(header).ok_or_else(|| {
        log::warn!("Invalid authorization header format");
        "Invalid authorization in request"
    })?;
    let (name, password) = (&text[..colon], &text[colon + 1..]);
    let Some(found) = host.consumers.find(SPEC.name, name) else {
        log::warn!("failed to find user: invalid user");
        return Err("Invalid user authorization");
    };
    let expected = found.auth.compiled(Password::of);
    match verify_slices_are_equal(expected.0.as_bytes(), password) {
        Ok(()) => Ok(found.known),
        Err(_) => Err("Invalid user authorization"),
    }
}

/// A consumer's, out of its configuration once.
struct Password(Box<str>);

impl Password {
    fn of(conf: &Value) -> Password {
        Password(conf["password"].as_str().unwrap_or_default().into())
    }
}

/// `name:password` of the header's value, and where its colon stands. White space is left out, wherever it
/// stands: clients that encode a line with its end are let in.
fn credentials(header: &[u8]) -> Option<(Vec<u8>, usize)> {
    // `(?i:basic)\s(.+)`, wherever it begins
    let at = header.windows(7).position(|w| w[..5].eq_ignore_ascii_case(b"basic") && is_space(w[5]))?;
    let mut text = base64::decode(&header[at + 6..])?;
    text.retain(|b| !is_space(*b));
    let colon = memchr::memchr(b':', &text)?;
    Some((text, colon))
}

/// `\s` of PCRE.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Reply;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    fn host() -> Rc<Host> {
        let host = test::host();
        let foo = json!({"basic-auth": {"username": "foo", "password": "bar"}});
        host.consumers.put(&test::consumer("jack", foo, json!({"custom_id": "c-7"})));
        let second = json!({"basic-auth": {"username": "foo2", "password": "a:b"}});
        host.consumers.put(&test::credential("jack", "cred", second));
        host.consumers.put(&test::consumer("anna", json!({}), json!({})));
        host
    }

    fn request(name: &str, authorization: &str) -> Exchange {
        test::exchange(&format!("GET /hello HTTP/1.1\nHost: a\n{name}: {authorization}"))
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", base64::encode(text.as_bytes()))
    }

    #[test]
    fn checks_configurations_as_apisix() {
        for (kind, conf, outcome) in [
            (SchemaType::Plain, json!({}), "accepted"),
            (
                SchemaType::Plain,
                json!({"hide_credentials": "true"}),
                "property \"hide_credentials\" validation failed: wrong type: expected boolean, got string",
            ),
            (SchemaType::Consumer, json!({"username": "foo", "password": "bar"}), "accepted"),
            (SchemaType::Consumer, json!({"username": "foo"}), "property \"password\" is required"),
            (
                SchemaType::Consumer,
                json!({"username": 123, "password": "bar"}),
                "property \"username\" validation failed: wrong type: expected string, got number",
            ),
        ] {
            assert_eq!(test::check(&SPEC, kind, conf.clone()), outcome, "{conf}");
        }
    }

    #[test]
    fn finds_the_consumer() {
        let host = host();
        let plugin = test::build(&SPEC, &host, json!({}));
        for (authorization, credential) in [
            (basic("foo:bar"), "-"),
            (basic("foo:bar").replace("Basic", "BASIC"), "-"),
            (basic("foo:bar\n"), "-"),
            (basic("foo2:a:b"), "cred"),
        ] {
            let mut ex = request("authorization", &authorization);
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None, "{authorization}");
            let sent = |name| test::values(ex.req_headers(), name);
            assert_eq!(sent("X-Consumer-Username"), "jack");
            assert_eq!(sent("X-Credential-Identifier"), credential);
            assert_eq!(sent("X-Consumer-Custom-ID"), "c-7");
            assert_eq!(sent("Authorization"), authorization);
        }
    }

    #[test]
    fn refuses_with_a_challenge() {
        let host = host();
        let plugin = test::build(&SPEC, &host, json!({"realm": "orders"}));
        for (name, value, message) in [
            ("X-Other", "1".to_owned(), "Missing authorization in request"),
            ("Authorization", "good auth header".into(), "Invalid authorization in request"),
            ("Authorization", "Basic".into(), "Invalid authorization in request"),
            ("Authorization", "Basic aca_a".into(), "Invalid authorization in request"),
            ("Authorization", basic("foo"), "Invalid authorization in request"),
            ("Authorization", basic("bar:bar"), "Invalid user authorization"),
            ("Authorization", basic("foo:foo"), "Invalid user authorization"),
            ("Authorization", basic("foo:"), "Invalid user authorization"),
            ("Authorization", basic("foo:bar:"), "Invalid user authorization"),
            ("Authorization", "Basic //8=".into(), "Invalid authorization in request"),
            ("Authorization", "Basic /zph".into(), "Invalid user authorization"),
        ] {
            let mut ex = request(name, &value);
            let reply = test::run(&plugin, Phase::Rewrite, &mut ex, &host);
            assert_eq!(reply, Some(Reply::message(401, message)), "{value}");
            assert_eq!(test::values(ex.resp_headers(), "WWW-Authenticate"), "Basic realm=\"orders\"");
            assert!(ex.consumer.is_none());
        }
    }

    #[test]
    fn hides_the_header_and_lets_the_anonymous_in() {
        let host = host();
        let conf = json!({"hide_credentials": true, "anonymous_consumer": "anna"});
        let plugin = test::build(&SPEC, &host, conf);
        for (text, consumer) in [("foo:bar", "jack"), ("foo:wrong", "anna")] {
            let mut ex = request("Authorization", &basic(text));
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
            assert_eq!(test::values(ex.req_headers(), "Authorization"), "-");
            assert_eq!(test::values(ex.req_headers(), "X-Consumer-Username"), consumer);
        }
        let nobody = test::build(&SPEC, &host, json!({"anonymous_consumer": "nobody"}));
        let mut ex = request("X-Other", "1");
        let reply = test::run(&nobody, Phase::Rewrite, &mut ex, &host);
        assert_eq!(reply, Some(Reply::message(401, "Invalid user authorization")));
        assert_eq!(test::values(ex.resp_headers(), "WWW-Authenticate"), "Basic realm=\"basic\"");
    }
}
