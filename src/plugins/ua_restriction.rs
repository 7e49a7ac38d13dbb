//! `ua-restriction`: lets requests in by their `User-Agent` (apisix/plugins/ua-restriction.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "ua-restriction": {
//!       "denylist": ["my-bot2", "(Twitterspider)/(\\d+)\\.(\\d+)"],
//!       "bypass_missing": true,
//!       "message": "Do you want to do something bad?"
//!     }
//!   }
//! }
//! ```
//!
//! Each entry of `allowlist` or `denylist` is a pattern that looks for a match anywhere in the header.
//!
//! Phases: access.
//!
//! Known differences: of several `User-Agent` headers one that is denied is enough to refuse the request
//! (APISIX lets it through once all of them are denied, and refuses it while one is not); a pattern that takes
//! too many steps refuses the request.

use std::rc::Rc;

use serde_json::Value;

use super::kit::restriction::Restriction;
use crate::exchange::Exchange;
use crate::expr::regex::Pattern;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::wire::Name;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "ua-restriction",
    priority: 2999,
    schema: r#"{
        "type": "object",
        "properties": {
            "bypass_missing": {"type": "boolean", "default": false},
            "allowlist": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
            "denylist": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
            "message": {"type": "string", "minLength": 1, "maxLength": 1024, "default": "Not allowed"}
        },
        "oneOf": [{"required": ["allowlist"]}, {"required": ["denylist"]}]
    }"#,
    check,
    build,
    ..Spec::PLAIN
};

/// The two lists; the schema lets only one of them be there.
const LISTS: [&str; 2] = ["allowlist", "denylist"];

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    patterns(conf).map(drop)
}

fn patterns(conf: &Value) -> Result<Box<[Pattern]>, String> {
    let lists = LISTS.iter().flat_map(|list| conf[list].as_array().into_iter().flatten());
    lists.filter_map(Value::as_str).map(|rule| Pattern::compile(rule, "jo")).collect()
}

fn build(conf: &Value, _: &Build) -> Built {
    let restriction = Restriction::new(conf, LISTS[0]);
    Ok(Rc::new(UaRestriction { patterns: patterns(conf)?, restriction }))
}

struct UaRestriction {
    patterns: Box<[Pattern]>,
    restriction: Restriction,
}

impl UaRestriction {
    /// Is one of the request's agents in the list? `None`: it names none.
    fn listed(&self, ex: &Exchange) -> Option<bool> {
        let headers = ex.req_headers();
        // what cannot be decided is refused
        let undecided = !self.restriction.only_these;
        let listed = |agent: &[u8]| {
            let mut found = self.patterns.iter().map(|pattern| pattern.is_match(agent.trim_ascii()));
            found.any(|found| found.unwrap_or(undecided))
        };
        headers.has(Name::UserAgent).then(|| headers.all(Name::UserAgent).any(listed))
    }
}

impl Plugin for UaRestriction {
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
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "allowlist": ["a"], "message": "no" }), "accepted"),
            (json!({}), "value should match only one schema, but matches none"),
            (
                json!({ "allowlist": ["a"], "denylist": ["b"] }),
                "value should match only one schema, but matches both schemas 1 and 2",
            ),
            (
                json!({ "denylist": [] }),
                r#"property "denylist" validation failed: expect array to have at least 1 items"#,
            ),
            (
                json!({ "denylist": [""] }),
                r#"property "denylist" validation failed: failed to validate item 1: string too short, expected at least 1, got 0"#,
            ),
            (
                json!({ "allowlist": ["(Baiduspider/(\\d+)"] }),
                "pcre2_compile() failed: missing closing parenthesis in \"(Baiduspider/(\\d+)\"",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn restricts() {
        let host = test::host();
        let agents = json!(["my-bot1", "^(Baiduspider)/(\\d+)\\.(\\d+)$"]);
        let allow = test::build(&SPEC, &host, json!({ "allowlist": agents }));
        let deny = test::build(&SPEC, &host, json!({ "denylist": agents, "message": "gone" }));
        let pass = test::build(&SPEC, &host, json!({ "denylist": agents, "bypass_missing": true }));
        for (headers, allowed, denied, missing_passes) in [
            ("User-Agent: the my-bot1", true, true, false),
            ("User-Agent: Baiduspider/2.0  ", true, true, false),
            ("User-Agent: Baiduspider/2.0 (x)", false, false, true),
            ("User-Agent: other\nUser-Agent: my-bot1", true, true, false),
            ("X-A: b", false, true, true),
        ] {
            let mut ex = test::exchange(&format!("GET / HTTP/1.1\nHost: a\n{headers}"));
            let mut reply = |plugin| test::run(plugin, Phase::Access, &mut ex, &host);
            assert_eq!(reply(&allow), (!allowed).then(|| Reply::message(403, "Not allowed")), "{headers}");
            assert_eq!(reply(&deny), denied.then(|| Reply::message(403, "gone")), "{headers}");
            assert_eq!(reply(&pass).is_none(), missing_passes, "{headers}");
        }
    }
}
