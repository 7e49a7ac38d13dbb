//! `fault-injection`: lets a share of the requests wait, or fail, to see what clients make of it.
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "fault-injection": {
//!       "delay": { "duration": 0.5, "percentage": 20 },
//!       "abort": {
//!         "http_status": 503,
//!         "body": "no service for $remote_addr",
//!         "headers": { "Retry-After": 10 },
//!         "percentage": 5,
//!         "vars": [[["arg_user", "==", "tester"]], [["http_x-test", "==", "1"]]]
//!       }
//!     }
//!   }
//! }
//! ```
//!
//! Phase: rewrite (apisix/plugins/fault-injection.lua). A request waits first and fails then. `vars` is a list of
//! conditions of which one must hold; `percentage` is a chance for each request, all of them without it.
//!
//! Known differences: a delay longer than 49 days ends then.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, Reply, ReplyBody};
use crate::expr::{Expr, Template};
use crate::model::schema::number_text;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::reactor;
use crate::wire::uri;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "fault-injection",
    priority: 11000,
    schema: include_str!("fault_injection.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

struct FaultInjection {
    delay: Option<(Chance, u32)>,
    abort: Option<(Chance, Abort)>,
    rng: RefCell<fastrand::Rng>,
}

/// Which requests a fault meets.
struct Chance {
    /// Of 100; `None` is all.
    percentage: Option<u64>,
    /// One of these must hold.
    conditions: Option<Vec<Expr>>,
}

struct Abort {
    status: u16,
    body: Option<Template>,
    headers: Vec<(Box<[u8]>, Template)>,
}

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    ["abort", "delay"].iter().try_for_each(|fault| Chance::of(&conf[*fault]).map(|_| ()))
}

fn build(conf: &Value, _: &Build) -> Built {
    let with_chance = |fault: &str| match &conf[fault] {
        Value::Null => Ok(None),
        fault => Chance::of(fault).map(|chance| Some((chance, fault))),
    };
    let ms = |delay: &Value| (delay["duration"].as_f64().unwrap_or(0.0) * 1000.0).round() as u32;
    Ok(Rc::new(FaultInjection {
        delay: with_chance("delay")?.map(|(chance, delay)| (chance, ms(delay))),
        abort: with_chance("abort")?.map(|(chance, abort)| (chance, Abort::of(abort))),
        rng: RefCell::new(fastrand::Rng::new()),
    }))
}

impl Chance {
    fn of(fault: &Value) -> Result<Chance, String> {
        let conditions = fault["vars"].as_array().map(|vars| vars.iter().map(Expr::compile).collect());
        Ok(Chance { percentage: fault["percentage"].as_u64(), conditions: conditions.transpose()? })
    }

    fn meets(&self, ex: &Exchange, rng: &mut fastrand::Rng) -> bool {
        self.conditions.as_ref().is_none_or(|list| list.iter().any(|condition| condition.eval(ex)))
            && self.percentage.is_none_or(|percentage| rng.u64(1..=100) <= percentage)
    }
}

impl Abort {
    fn of(abort: &Value) -> Abort {
        let headers = abort["headers"].as_object().into_iter().flatten().map(|(name, value)| {
            let template = match value.as_str() {
                Some(text) => Template::compile(text),
                None => Template::compile(&number_text(value.as_f64().unwrap_or_default())),
            };
            (name.as_bytes().into(), template)
        });
        Abort {
            status: abort["http_status"].as_u64().map_or(500, |status| status.min(999) as u16),
            body: abort["body"].as_str().map(Template::compile),
            headers: headers.collect(),
        }
    }

    fn reply(&self, ex: &mut Exchange) -> Reply {
        for (name, value) in &self.headers {
            let mut text = Vec::new();
            value.render(ex, &mut text);
            ex.resp_headers().set(name, &uri::header_value(text));
        }
        let body = self.body.as_ref().map(|body| {
            let mut text = Vec::new();
            body.render(ex, &mut text);
            ReplyBody::Text(text)
        });
        Reply { status: self.status, body: body.unwrap_or_default() }
    }
}

impl Plugin for FaultInjection {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        let rng = &mut *self.rng.borrow_mut();
        let abort = self.abort.as_ref().filter(|(chance, _)| chance.meets(ex, rng)).map(|(_, abort)| abort);
        let delay = self.delay.as_ref().filter(|(chance, _)| chance.meets(ex, rng)).map_or(0, |(_, ms)| *ms);
        if delay > 0 {
            return Step::Wait(Box::pin(async move {
                reactor::sleep(delay).await;
                abort.map(|abort| abort.reply(ex))
            }));
        }
        abort.map_or(Step::Next, |abort| Step::Reply(abort.reply(ex)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        for (conf, error) in [
            (json!({}), "expect object to have at least 1 properties"),
            (
                json!({"abort": {}}),
                "property \"abort\" validation failed: property \"http_status\" is required",
            ),
            (
                json!({"abort": {"http_status": 100}}),
                "property \"abort\" validation failed: property \"http_status\" validation failed: expected \
                 100 to be at least 200",
            ),
            (json!({"delay": {"duration": 0.1, "vars": [[["arg_a", "=", "b"]]]}}), "invalid operator '='"),
            (
                json!({"abort": {"http_status": 403, "vars": ["x"]}}),
                "property \"abort\" validation failed: property \"vars\" validation failed: failed to \
                 validate item 1: wrong type: expected array, got string",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    #[test]
    fn answers_with_status_body_and_headers() {
        let host = test::host();
        let conf = json!({"abort": {"http_status": 418, "body": "no $arg_name",
            "headers": {"X-Number": 1.5, "X-Name": "$arg_name"}}});
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange("GET /?name=jack HTTP/1.1\nHost: a");
        let reply = test::run(&plugin, Phase::Rewrite, &mut ex, &host);
        assert_eq!(reply, Some(Reply { status: 418, body: ReplyBody::Text(b"no jack".to_vec()) }));
        assert_eq!(test::values(ex.resp_headers(), "X-Number"), "1.5");
        assert_eq!(test::values(ex.resp_headers(), "X-Name"), "jack");
        let mut split = test::exchange("GET /?name=jack%0d%0aa:%20b HTTP/1.1\nHost: a");
        test::run(&plugin, Phase::Rewrite, &mut split, &host);
        assert_eq!(test::values(split.resp_headers(), "X-Name"), "jack%0D%0Aa: b");
        let bare = test::build(&SPEC, &host, json!({"abort": {"http_status": 503}}));
        assert_eq!(test::run(&bare, Phase::Rewrite, &mut ex, &host), Some(Reply::page(503)));
    }

    /// How many of 1000 requests fail.
    fn failing(abort: Value, target: &str) -> usize {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({"abort": abort}));
        let mut ex = test::exchange(&format!("GET {target} HTTP/1.1\nHost: a"));
        (0..1000).filter(|_| test::run(&plugin, Phase::Rewrite, &mut ex, &host).is_some()).count()
    }

    #[test]
    fn meets_a_share_and_those_for_whom_a_condition_holds() {
        let share = failing(json!({"http_status": 500, "percentage": 30}), "/");
        assert!((200..400).contains(&share), "{share}");
        assert_eq!(failing(json!({"http_status": 500, "percentage": 0}), "/"), 0);
        assert_eq!(failing(json!({"http_status": 500, "percentage": 100}), "/"), 1000);
        let vars = json!([[["arg_name", "==", "jack"], ["arg_age", ">", "18"]], [["arg_vip", "==", "1"]]]);
        let abort = json!({"http_status": 500, "vars": vars});
        for (target, failed) in [("/?name=jack", 0), ("/?name=jack&age=20", 1000), ("/?vip=1", 1000)] {
            assert_eq!(failing(abort.clone(), target), failed, "{target}");
        }
        assert_eq!(failing(json!({"http_status": 500, "vars": []}), "/"), 0);
    }

    #[test]
    fn a_delay_waits_and_none_does_not() {
        let host = test::host();
        let waits = |delay: Value| {
            let plugin = test::build(&SPEC, &host, json!({"delay": delay}));
            let mut ex = test::exchange("GET /?a=1 HTTP/1.1\nHost: a");
            matches!(plugin.rewrite(&mut ex, &host), Step::Wait(_))
        };
        assert!(waits(json!({"duration": 0.01})));
        assert!(!waits(json!({"duration": 0})));
        assert!(!waits(json!({"duration": 1, "percentage": 0})));
        assert!(!waits(json!({"duration": 1, "vars": [[["arg_a", "==", "2"]]]})));
    }
}
