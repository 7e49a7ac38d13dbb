//! `consumer-restriction`: lets requests in, or not, by who asks or by what was matched
//! (apisix/plugins/consumer-restriction.lua).
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "key-auth": {},
//!     "consumer-restriction": {
//!       "whitelist": ["jack"],
//!       "allowed_by_methods": [{ "user": "anna", "methods": ["GET"] }],
//!       "rejected_code": 403,
//!       "rejected_msg": "not yours"
//!     }
//!   }
//! }
//! ```
//!
//! On a consumer it restricts where that consumer may go:
//!
//! ```json
//! {
//!   "username": "jack",
//!   "plugins": { "consumer-restriction": { "type": "route_id", "blacklist": ["1"] } }
//! }
//! ```
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `type` | `consumer_name` | what is looked at: `consumer_name`, `consumer_group_id`, `service_id`, `route_id` |
//! | `blacklist` | | who is in it is refused |
//! | `whitelist` | | who is not in it is refused |
//! | `allowed_by_methods` | | whose name is in it may use those methods alone; the whitelist beats it |
//! | `rejected_code` | 403 | status of a refusal, 200 or more |
//! | `rejected_msg` | | its text, in place of `The TYPE is forbidden.` |
//!
//! A request that has no consumer, group or service, where that is looked at, gets 401.
//!
//! Phases: access.
//!
//! Known differences: none.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, Reply};
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "consumer-restriction",
    priority: 2400,
    schema: include_str!("consumer_restriction.schema.json"),
    build,
    ..Spec::PLAIN
};

/// What is looked at.
#[derive(Clone, Copy)]
enum Kind {
    ConsumerName,
    ConsumerGroup,
    Service,
    Route,
}

fn build(conf: &Value, _: &Build) -> Built {
    let kind_text = conf["type"].as_str().unwrap_or("consumer_name");
    let kind = match kind_text {
        "consumer_group_id" => Kind::ConsumerGroup,
        "service_id" => Kind::Service,
        "route_id" => Kind::Route,
        _ => Kind::ConsumerName,
    };
    let by_methods = conf["allowed_by_methods"].as_array().into_iter().flatten();
    Ok(Rc::new(ConsumerRestriction {
        kind,
        blacklist: texts(&conf["blacklist"]),
        whitelist: texts(&conf["whitelist"]),
        by_methods: by_methods
            .filter_map(|item| Some((item["user"].as_str()?.into(), texts(&item["methods"]))))
            .collect(),
        status: conf["rejected_code"].as_u64().map_or(403, |code| code as u16),
        message: match conf["rejected_msg"].as_str() {
            Some(text) => text.into(),
            None => format!("The {kind_text} is forbidden.").into(),
        },
        unknown: format!("The request is rejected, please check the {kind_text} for this request").into(),
    }))
}

fn texts(list: &Value) -> Vec<Box<str>> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(Box::from).collect()
}

struct ConsumerRestriction {
    kind: Kind,
    blacklist: Vec<Box<str>>,
    whitelist: Vec<Box<str>>,
    /// Users and the methods that they may use.
    by_methods: Vec<(Box<str>, Vec<Box<str>>)>,
    status: u16,
    message: Box<str>,
    /// What a request is told that has nothing to look at.
    unknown: Box<str>,
}

impl Plugin for ConsumerRestriction {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        let Some(value) = self.kind.of(ex) else {
            return Step::Reply(Reply::message(401, &self.unknown));
        };
        let method = ex.out.method.as_deref().unwrap_or(ex.req.head.method_text());
        match self.lets_in(value, method) {
            true => Step::Next,
            false => Step::Reply(Reply::message(self.status, &self.message)),
        }
    }
}

impl Kind {
    fn of(self, ex: &Exchange) -> Option<&str> {
        let consumer = ex.consumer.as_ref().map(|known| &known.consumer.value);
        match self {
            Kind::ConsumerName => consumer.map(|consumer| &*consumer.username),
            Kind::ConsumerGroup => consumer.and_then(|consumer| consumer.group_id.as_deref()),
            Kind::Service => ex.matched.as_ref().and_then(|matched| matched.service_id.as_deref()),
            Kind::Route => ex.matched.as_ref().and_then(|matched| matched.route_id.as_deref()),
        }
    }
}

impl ConsumerRestriction {
    fn lets_in(&self, value: &str, method: &[u8]) -> bool {
        let is_in = |list: &[Box<str>]| list.iter().any(|item| **item == *value);
        if is_in(&self.blacklist) {
            return false;
        }
        if !self.whitelist.is_empty() {
            return is_in(&self.whitelist);
        }
        // the first entry of a user counts; who has none may use any method
        let mut entries = self.by_methods.iter();
        let entry = entries.find(|(user, _)| **user == *value);
        entry.is_none_or(|(_, methods)| methods.iter().any(|allowed| allowed.as_bytes() == method))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::{Known, Matched};
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn checks_configurations_as_apisix() {
        for (conf, outcome) in [
            (json!({"whitelist": ["jack1"], "rejected_code": 201, "rejected_msg": "no"}), "accepted"),
            (json!({"type": "route_id", "blacklist": ["1"]}), "accepted"),
            (
                json!({}),
                "object matches none of the required: [\"blacklist\"] or [\"whitelist\"] or \
                 [\"allowed_by_methods\"]",
            ),
            (
                json!({"blacklist": []}),
                "property \"blacklist\" validation failed: expect array to have at least 1 items",
            ),
            (
                json!({"type": "host", "blacklist": ["1"]}),
                "property \"type\" validation failed: matches none of the enum values",
            ),
            (
                json!({"whitelist": ["a"], "rejected_code": 199}),
                "property \"rejected_code\" validation failed: expected 199 to be at least 200",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), outcome, "{conf}");
        }
    }

    fn ask(conf: Value, method: &str, consumer: Option<&str>) -> Option<Reply> {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange(&format!("{method} / HTTP/1.1\nHost: a"));
        ex.consumer = consumer.map(|name| {
            let consumer = test::consumer(name, json!({}), json!({}));
            Rc::new(Known::new(consumer, None))
        });
        ex.matched = Some(Rc::new(Matched { route_id: Some("r1".into()), ..Matched::default() }));
        test::run(&plugin, Phase::Access, &mut ex, &host)
    }

    #[test]
    fn lists_by_consumer() {
        let no = || Some(Reply::message(403, "The consumer_name is forbidden."));
        let white = || json!({"whitelist": ["jack"]});
        assert_eq!(ask(white(), "GET", Some("jack")), None);
        assert_eq!(ask(white(), "GET", Some("anna")), no());
        let black = json!({"blacklist": ["jack"], "rejected_code": 401, "rejected_msg": "go"});
        assert_eq!(ask(black.clone(), "GET", Some("jack")), Some(Reply::message(401, "go")));
        assert_eq!(ask(black, "GET", Some("anna")), None);
        let unknown = "The request is rejected, please check the consumer_name for this request";
        assert_eq!(ask(white(), "GET", None), Some(Reply::message(401, unknown)));
        let both = json!({"blacklist": ["jack"], "whitelist": ["jack"]});
        assert_eq!(ask(both, "GET", Some("jack")), no());
    }

    #[test]
    fn lists_by_method() {
        let conf = || {
            json!({"allowed_by_methods": [
                {"user": "jack", "methods": ["POST"]},
                {"user": "jack", "methods": ["GET"]},
            ]})
        };
        let no = Some(Reply::message(403, "The consumer_name is forbidden."));
        assert_eq!(ask(conf(), "POST", Some("jack")), None);
        assert_eq!(ask(conf(), "GET", Some("jack")), no);
        assert_eq!(ask(conf(), "GET", Some("anna")), None);
        let mut white = conf();
        white["whitelist"] = json!(["jack"]);
        assert_eq!(ask(white.clone(), "GET", Some("jack")), None);
        assert_eq!(ask(white, "GET", Some("anna")), no);
    }

    #[test]
    fn looks_at_what_was_matched() {
        let by = |kind: &str, id: &str| json!({"type": kind, "whitelist": [id]});
        assert_eq!(ask(by("route_id", "r1"), "GET", None), None);
        let no = Some(Reply::message(403, "The route_id is forbidden."));
        assert_eq!(ask(by("route_id", "r2"), "GET", None), no);
        for kind in ["service_id", "consumer_group_id"] {
            let unknown = format!("The request is rejected, please check the {kind} for this request");
            assert_eq!(ask(by(kind, "1"), "GET", Some("jack")), Some(Reply::message(401, &unknown)));
        }
    }
}
