//! `referer-restriction`: lets requests in by the host in their `Referer` (apisix/plugins/referer-restriction.lua).
//!
//! ```json
//! {
//!   "uri": "/images/*",
//!   "plugins": {
//!     "referer-restriction": {
//!       "whitelist": ["example.com", "*.example.com"],
//!       "bypass_missing": true,
//!       "message": "Your referer host is not allowed"
//!     }
//!   }
//! }
//! ```
//!
//! A host with `*` in front matches every host that ends in the rest. A `Referer` that is no http or https
//! URL counts as missing.
//!
//! Phases: access.
//!
//! Known differences: none.

use std::rc::Rc;

use serde_json::Value;

use super::kit::restriction::Restriction;
use crate::exchange::Exchange;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "referer-restriction",
    priority: 2990,
    schema: r#"{
        "type": "object",
        "properties": {
            "bypass_missing": {"type": "boolean", "default": false},
            "whitelist": {
                "type": "array",
                "items": {"type": "string", "pattern": "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$"},
                "minItems": 1
            },
            "blacklist": {
                "type": "array",
                "items": {"type": "string", "pattern": "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$"},
                "minItems": 1
            },
            "message": {
                "type": "string",
                "minLength": 1,
                "maxLength": 1024,
                "default": "Your referer host is not allowed"
            }
        },
        "oneOf": [{"required": ["whitelist"]}, {"required": ["blacklist"]}]
    }"#,
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, _: &Build) -> Built {
    let restriction = Restriction::new(conf, "whitelist");
    let list = if restriction.only_these { "whitelist" } else { "blacklist" };
    let hosts = conf[list].as_array().into_iter().flatten().filter_map(Value::as_str);
    let (suffixes, whole): (Vec<&str>, Vec<&str>) = hosts.partition(|host| host.starts_with('*'));
    Ok(Rc::new(RefererRestriction {
        whole: whole.into_iter().map(|host| host.as_bytes().into()).collect(),
        suffixes: suffixes.into_iter().map(|host| host.as_bytes()[1..].into()).collect(),
        restriction,
    }))
}

struct RefererRestriction {
    whole: Box<[Box<[u8]>]>,
    /// What stood behind `*`.
    suffixes: Box<[Box<[u8]>]>,
    restriction: Restriction,
}

impl RefererRestriction {
    /// Is the host of the request's `Referer` in the list? `None`: it names none.
    fn listed(&self, ex: &Exchange) -> Option<bool> {
        let referer = ex.header(b"referer");
        let host = referer.as_deref().and_then(host_of)?;
        let listed = self.whole.iter().any(|whole| **whole == *host)
            || self.suffixes.iter().any(|suffix| host.ends_with(suffix));
        Some(listed)
    }
}

/// The host of an http or https URL, or of one without scheme (`//host/`), as lua-resty-http takes it.
fn host_of(url: &[u8]) -> Option<&[u8]> {
    let rest = [&b"http://"[..], b"https://", b"//"].iter().find_map(|scheme| url.strip_prefix(*scheme))?;
    if rest.first() == Some(&b'[') {
        let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
        let end = memchr::memrchr(b']', line).filter(|end| *end > 1)?;
        return Some(&rest[..=end]);
    }
    let length = rest.iter().take_while(|b| !matches!(b, b'[' | b']' | b':' | b'/' | b'?')).count();
    (length > 0).then(|| &rest[..length])
}

impl Plugin for RefererRestriction {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        self.restriction.decide(self.listed(ex))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Reply;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "whitelist": ["*.xx.com", "yy.com", "*"] }), "accepted"),
            (json!({}), "value should match only one schema, but matches none"),
            (
                json!({ "whitelist": ["a"], "blacklist": ["b"] }),
                "value should match only one schema, but matches both schemas 1 and 2",
            ),
            (
                json!({ "blacklist": ["a b"] }),
                r#"property "blacklist" validation failed: failed to validate item 1: failed to match pattern "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$" with "a b""#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn restricts() {
        let host = test::host();
        let hosts = json!(["*.xx.com", "yy.com"]);
        let white = test::build(&SPEC, &host, json!({ "whitelist": hosts }));
        let black = test::build(&SPEC, &host, json!({ "blacklist": hosts, "message": "gone" }));
        for (referer, listed) in [
            ("http://www.xx.com", Some(true)),
            ("https://a.b.xx.com:8080/x", Some(true)),
            ("http://yy.com?a=b", Some(true)),
            ("//yy.com/a", Some(true)),
            ("http://xx.com", Some(false)),
            ("http://www.yy.com", Some(false)),
            ("http://[::1]:80/", Some(false)),
            ("www.yy.com", None),
            ("ftp://yy.com", None),
            ("http://", None),
        ] {
            let mut ex = test::exchange(&format!("GET / HTTP/1.1\nHost: a\nReferer: {referer}"));
            let mut passes = |plugin| test::run(plugin, Phase::Access, &mut ex, &host).is_none();
            assert_eq!(passes(&white), listed == Some(true), "{referer}");
            assert_eq!(passes(&black), listed == Some(false), "{referer}");
        }
        let bypass = test::build(&SPEC, &host, json!({ "whitelist": hosts, "bypass_missing": true }));
        let mut none = test::exchange("GET / HTTP/1.1\nHost: a");
        assert_eq!(test::run(&bypass, Phase::Access, &mut none, &host), None);
        let refused = Some(Reply::message(403, "Your referer host is not allowed"));
        assert_eq!(test::run(&white, Phase::Access, &mut none, &host), refused);
    }
}
