//! `key-auth`: the consumer is found by a key in a header or an argument (apisix/plugins/key-auth.lua).
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "key-auth": { "header": "apikey", "query": "apikey", "hide_credentials": true, "realm": "orders" }
//!   }
//! }
//! ```
//!
//! A consumer, or one of its credentials, brings the key:
//!
//! ```json
//! { "username": "jack", "plugins": { "key-auth": { "key": "auth-one" } } }
//! ```
//!
//! Phases: rewrite. The consumer's plugins join the route's after it; the upstream is told who it is in
//! `X-Consumer-Username`, `X-Credential-Identifier` and `X-Consumer-Custom-ID`.
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `header`, `query` | `apikey` | where the key is looked for, in this order |
//! | `hide_credentials` | `false` | the key does not go upstream |
//! | `realm` | `key` | in `WWW-Authenticate` of a refusal |
//! | `anonymous_consumer` | | the consumer of requests that fail to authenticate |
//!
//! Known differences:
//! - Arguments that stay when `hide_credentials` takes the key out keep their order and coding; APISIX
//!   shuffles them.

use std::rc::Rc;

use serde_json::Value;

use super::kit::auth::Admission;
use super::kit::place::{self, Arg, Header};
use crate::exchange::{Exchange, Known};
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "key-auth",
    priority: 2500,
    auth: true,
    schema: r#"{
        "type": "object",
        "properties": {
            "header": {"type": "string", "default": "apikey"},
            "query": {"type": "string", "default": "apikey"},
            "realm": {
                "type": "string",
                "pattern": "^[\u0020-\u0021\u0023-\u005B\\]-\u007E]+$",
                "default": "key",
                "minLength": 1,
                "maxLength": 128
            },
            "hide_credentials": {"type": "boolean", "default": false},
            "anonymous_consumer": {"type": "string", "minLength": 1}
        }
    }"#,
    consumer_schema: Some(
        r#"{
        "type": "object",
        "properties": {"key": {"type": "string"}},
        "encrypt_fields": ["key"],
        "required": ["key"]
    }"#,
    ),
    consumer_encrypt_fields: &["key"],
    consumer_key: Some("key"),
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, _: &Build) -> Built {
    let text = |name: &str| Box::<[u8]>::from(conf[name].as_str().unwrap_or_default().as_bytes());
    Ok(Rc::new(KeyAuth {
        header: Header::new(&text("header")),
        query: text("query"),
        hide: conf["hide_credentials"] == true,
        admission: Admission::new(SPEC.name, "apikey", conf),
    }))
}

struct KeyAuth {
    header: Header,
    query: Box<[u8]>,
    hide: bool,
    admission: Admission,
}

/// Where the key stood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Query,
}

impl Plugin for KeyAuth {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let found = self.find(ex, host);
        if self.hide {
            match &found {
                Ok((_, Place::Header)) => self.header.remove(ex),
                Ok((_, Place::Query)) => place::remove_arg(ex, &self.query),
                // a wrong key must not reach the upstream either, wherever it stands
                Err(_) if self.admission.has_anonymous() => {
                    self.header.remove(ex);
                    place::remove_arg(ex, &self.query);
                }
                Err(_) => {}
            }
        }
        let outcome = found.map(|(known, _)| known);
        self.admission.decide(ex, host, outcome).map_or(Step::Next, Step::Reply)
    }
}

impl KeyAuth {
    /// The consumer of the key that the request brings; the header is asked first.
    fn find(&self, ex: &Exchange, host: &Host) -> Result<(Rc<Known>, Place), &'static str> {
        let (found, place) = match self.header.of(ex) {
            Some(key) => (find_key(host, key), Place::Header),
            None => match place::arg(ex, &self.query) {
                Arg::Text(key) => (find_key(host, &key), Place::Query),
                Arg::NoText => (None, Place::Query),
                Arg::Missing => return Err("Missing API key in request"),
            },
        };
        found.map(|known| (known, place)).ok_or_else(|| {
            log::warn!("failed to find consumer: invalid api key");
            "Invalid API key in request"
        })
    }
}

/// A key is found by its hash, so the time that this takes says nothing of other keys.
fn find_key(host: &Host, key: &[u8]) -> Option<Rc<Known>> {
    Some(host.consumers.find(SPEC.name, key)?.known)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Reply;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    /// jack with a key of his own and one of a credential, and anna, who is let in without one.
    fn host() -> Rc<Host> {
        let host = test::host();
        let jack = json!({"key-auth": {"key": "auth-one"}});
        host.consumers.put(&test::consumer("jack", jack, json!({"custom_id": "c-7"})));
        host.consumers.put(&test::credential("jack", "cred", json!({"key-auth": {"key": "auth two"}})));
        host.consumers.put(&test::credential("ghost", "x", json!({"key-auth": {"key": "ownerless"}})));
        host.consumers.put(&test::consumer("anna", json!({}), json!({"custom_id": "c-9"})));
        host.consumers.put(&test::consumer("ref", json!({"key-auth": {"key": "$ENV://KEY"}}), json!({})));
        host
    }

    fn request(target: &str, headers: &str) -> Exchange {
        test::exchange(&format!("GET {target} HTTP/1.1\nHost: a\n{headers}"))
    }

    fn header(ex: &Exchange, name: &str) -> Option<String> {
        ex.header(name.as_bytes()).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    #[test]
    fn checks_configurations_as_apisix() {
        let realm = "property \"realm\" validation failed: ";
        for (kind, conf, outcome) in [
            (SchemaType::Plain, json!({}), "accepted".to_owned()),
            (SchemaType::Plain, json!({"header": "Authorization", "realm": "a realm]"}), "accepted".into()),
            (
                SchemaType::Plain,
                json!({"realm": "say \"x\""}),
                format!("{realm}failed to match pattern \"^[ -!#-[\\\\]-~]+$\" with \"say \\\"x\\\"\""),
            ),
            (
                SchemaType::Plain,
                json!({"realm": ""}),
                format!("{realm}string too short, expected at least 1, got 0"),
            ),
            (
                SchemaType::Plain,
                json!({"hide_credentials": "yes"}),
                "property \"hide_credentials\" validation failed: wrong type: expected boolean, got string"
                    .into(),
            ),
            (SchemaType::Consumer, json!({"key": "k"}), "accepted".into()),
            (SchemaType::Consumer, json!({}), "property \"key\" is required".into()),
            (
                SchemaType::Consumer,
                json!({"key": 123}),
                "property \"key\" validation failed: wrong type: expected string, got number".into(),
            ),
        ] {
            assert_eq!(test::check(&SPEC, kind, conf.clone()), outcome, "{conf}");
        }
    }

    #[test]
    fn finds_the_consumer_and_tells_the_upstream() {
        let host = host();
        let plugin = test::build(&SPEC, &host, json!({}));
        for (target, headers, credential) in [
            ("/hello", "ApiKey: auth-one\nX-Credential-Identifier: forged", None),
            ("/hello?a=b&apikey=auth-one", "", None),
            ("/hello?apikey=auth%20two", "", Some("cred")),
            ("/hello?apikey=wrong", "apikey: auth two", Some("cred")),
        ] {
            let mut ex = request(target, headers);
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None, "{target} {headers}");
            let known = ex.consumer.as_ref().unwrap();
            assert_eq!(&*known.consumer.id, "jack");
            assert_eq!(header(&ex, "X-Consumer-Username").as_deref(), Some("jack"));
            assert_eq!(header(&ex, "X-Credential-Identifier").as_deref(), credential);
            assert_eq!(header(&ex, "X-Consumer-Custom-ID").as_deref(), Some("c-7"));
            assert!(ex.out.uri.is_none(), "the target goes upstream as it came");
        }
    }

    #[test]
    fn refuses_with_a_challenge() {
        let host = host();
        let plugin = test::build(&SPEC, &host, json!({"realm": "orders"}));
        for (target, headers, message) in [
            ("/hello", "", "Missing API key in request"),
            ("/hello", "apikey: wrong", "Invalid API key in request"),
            ("/hello", "apikey:", "Invalid API key in request"),
            ("/hello?apikey", "", "Invalid API key in request"),
            ("/hello?apikey=auth-one&apikey=auth-one", "", "Invalid API key in request"),
            ("/hello?apikey=auth-one", "apikey: wrong", "Invalid API key in request"),
            ("/hello", "apikey: ownerless", "Invalid API key in request"),
            ("/hello", "apikey: $ENV://KEY", "Invalid API key in request"),
            ("/hello", "apikey: \u{fffd}", "Invalid API key in request"),
        ] {
            let mut ex = request(target, headers);
            let reply = test::run(&plugin, Phase::Rewrite, &mut ex, &host);
            assert_eq!(reply, Some(Reply::message(401, message)), "{target} {headers}");
            let challenge = ex.resp_headers().get_named(b"www-authenticate");
            assert_eq!(challenge, Some(&b"apikey realm=\"orders\""[..]));
            assert!(ex.consumer.is_none());
        }
    }

    #[test]
    fn hides_the_key_where_it_stood() {
        let host = host();
        let conf = json!({"hide_credentials": true, "query": "auth", "header": "x-key"});
        let plugin = test::build(&SPEC, &host, conf);
        for (target, headers, args, upstream) in [
            ("/a%20b?x=1&auth=auth-one&y=%31", "", Some("x=1&y=%31"), Some("/a%20b?x=1&y=%31")),
            ("/a?auth=auth-one", "", None, Some("/a")),
            ("/a?auth=auth-one", "X-Key: auth-one", Some("auth=auth-one"), None),
        ] {
            let mut ex = request(target, headers);
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None, "{target}");
            assert_eq!(ex.req.args.as_deref(), args.map(str::as_bytes), "{target}");
            assert_eq!(ex.out.uri.as_deref(), upstream.map(str::as_bytes), "{target}");
            assert_eq!(header(&ex, "x-key"), None);
        }
    }

    #[test]
    fn lets_the_anonymous_in() {
        let host = host();
        let conf = json!({"anonymous_consumer": "anna", "hide_credentials": true});
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = request("/?apikey=wrong&a=1", "apikey: wrong\nX-Consumer-Custom-ID: forged");
        assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
        assert_eq!(header(&ex, "X-Consumer-Username").as_deref(), Some("anna"));
        assert_eq!(header(&ex, "X-Consumer-Custom-ID"), None);
        assert_eq!((header(&ex, "apikey"), ex.out.uri.as_deref()), (None, Some(&b"/?a=1"[..])));

        let nobody = test::build(&SPEC, &host, json!({"anonymous_consumer": "nobody"}));
        let mut ex = request("/", "");
        let reply = test::run(&nobody, Phase::Rewrite, &mut ex, &host);
        assert_eq!(reply, Some(Reply::message(401, "Invalid user authorization")));
        assert!(ex.resp_headers().get_named(b"www-authenticate").is_some());
    }

    #[test]
    fn a_key_that_moved_on_survives_its_old_owner() {
        let host = test::host();
        let key = |key: &str| json!({"key-auth": {"key": key}});
        host.consumers.put(&test::consumer("a", key("k"), json!({})));
        host.consumers.put(&test::consumer("b", key("k"), json!({})));
        host.consumers.put(&test::consumer("a", key("other"), json!({})));
        let holder = || Some(host.consumers.find("key-auth", "k")?.known.consumer.id.clone());
        assert_eq!(holder().as_deref(), Some("b"));

        host.consumers.put(&test::consumer("a", key("k"), json!({})));
        assert_eq!(holder().as_deref(), Some("a"), "the last one counts");
        host.consumers.remove(&"a".into());
        assert_eq!(holder().as_deref(), Some("b"), "and who held it before is there again");
        host.consumers.remove(&"b".into());
        assert_eq!(holder(), None);
    }

    #[test]
    fn a_credential_follows_its_consumer() {
        let host = host();
        let custom_id = || {
            let plugin = test::build(&SPEC, &host, json!({}));
            let mut ex = request("/", "apikey: auth two");
            test::run(&plugin, Phase::Rewrite, &mut ex, &host);
            header(&ex, "X-Consumer-Custom-ID")
        };
        assert_eq!(custom_id().as_deref(), Some("c-7"));
        host.consumers.put(&test::consumer("jack", json!({}), json!({"custom_id": "c-8"})));
        assert_eq!(custom_id().as_deref(), Some("c-8"));
        host.consumers.remove(&"jack".into());
        assert_eq!(custom_id(), None);
        host.consumers.put(&test::consumer("jack", json!({}), json!({})));
        host.consumers.remove(&"jack/credentials/cred".into());
        assert!(host.consumers.find("key-auth", "auth two").is_none());
    }
}
