//! `uri-blocker`: refuses requests whose URI matches a pattern (apisix/plugins/uri-blocker.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "uri-blocker": {
//!       "block_rules": ["root.exe", "root.m+"],
//!       "rejected_code": 403,
//!       "rejected_msg": "not here",
//!       "case_insensitive": true
//!     }
//!   }
//! }
//! ```
//!
//! The patterns look for a match anywhere in path and arguments (`$request_uri`). Without `rejected_msg` the
//! answer is the built-in page of its status.
//!
//! Phases: rewrite.
//!
//! Known differences: a pattern that takes too many steps matches (it fails, and lets the request through, in
//! APISIX); a `rejected_code` above 999 is 403.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, Reply, Vars};
use crate::expr::regex::Pattern;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "uri-blocker",
    priority: 2900,
    schema: r#"{
        "type": "object",
        "properties": {
            "block_rules": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 4096},
                "uniqueItems": true
            },
            "rejected_code": {"type": "integer", "minimum": 200, "default": 403},
            "rejected_msg": {"type": "string", "minLength": 1},
            "case_insensitive": {"type": "boolean", "default": false}
        },
        "required": ["block_rules"]
    }"#,
    check,
    build,
    ..Spec::PLAIN
};

fn rules(conf: &Value) -> impl Iterator<Item = &str> {
    conf["block_rules"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    rules(conf).try_for_each(|rule| Pattern::compile(rule, "j").map(drop))
}

fn build(conf: &Value, _: &Build) -> Built {
    let flag = if conf["case_insensitive"] == true { "(?i)" } else { "" };
    let all = rules(conf).collect::<Vec<_>>().join("|");
    let status = conf["rejected_code"].as_u64().unwrap_or(403);
    Ok(Rc::new(UriBlocker {
        rules: Pattern::compile(&format!("{flag}{all}"), "jo")?,
        status: u16::try_from(status).ok().filter(|status| *status < 1000).unwrap_or(403),
        message: conf["rejected_msg"].as_str().map(Box::from),
    }))
}

struct UriBlocker {
    rules: Pattern,
    status: u16,
    message: Option<Box<str>>,
}

impl Plugin for UriBlocker {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        let uri = ex.var("request_uri").unwrap_or_default();
        let blocked = self.rules.is_match(&uri).unwrap_or(true);
        match &self.message {
            _ if !blocked => Step::Next,
            Some(message) => Step::Reply(Reply::error_msg(self.status, message)),
            None => Step::Reply(Reply::page(self.status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "block_rules": ["^a", "b+"] }), "accepted"),
            (json!({}), r#"property "block_rules" is required"#),
            (
                json!({ "block_rules": ["a", "a"] }),
                r#"property "block_rules" validation failed: expected unique items but items 1 and 2 are equal"#,
            ),
            (
                json!({ "block_rules": [""] }),
                r#"property "block_rules" validation failed: failed to validate item 1: string too short, expected at least 1, got 0"#,
            ),
            (
                json!({ "block_rules": [".+("] }),
                "pcre2_compile() failed: missing closing parenthesis in \".+(\"",
            ),
            (
                json!({ "block_rules": ["a"], "rejected_code": 199 }),
                r#"property "rejected_code" validation failed: expected 199 to be at least 200"#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn blocks() {
        let host = test::host();
        let reply = |conf: Value, target: &str| {
            let plugin = test::build(&SPEC, &host, conf);
            let mut ex = test::exchange(&format!("GET {target} HTTP/1.1\nHost: a"));
            test::run(&plugin, Phase::Rewrite, &mut ex, &host)
        };
        let rules = json!({ "block_rules": ["aa", "^/b", "x=1$"], "rejected_code": 401 });
        for (target, blocked) in
            [("/caac", true), ("/b?c", true), ("/c?y=2&x=1", true), ("/c?x=12", false), ("/cAAc", false)]
        {
            assert_eq!(reply(rules.clone(), target), blocked.then_some(Reply::page(401)), "{target}");
        }
        let message = json!({ "block_rules": ["SELECT"], "case_insensitive": true, "rejected_msg": "no" });
        assert_eq!(reply(message, "/?q=select"), Some(Reply::error_msg(403, "no")));
        // what would be tried for ever is not let through
        let slow = json!({ "block_rules": ["^/(a+)+$"] });
        assert_eq!(reply(slow, &format!("/{}!", "a".repeat(60))), Some(Reply::page(403)));
    }
}
