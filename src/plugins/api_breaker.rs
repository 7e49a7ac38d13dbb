//! `api-breaker`: gives an upstream that fails a rest, and answers in its place meanwhile.
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "api-breaker": {
//!       "break_response_code": 502,
//!       "break_response_body": "{\"message\":\"come back later\"}",
//!       "break_response_headers": [{ "key": "Content-Type", "value": "application/json" }],
//!       "max_breaker_sec": 60,
//!       "unhealthy": { "http_statuses": [500, 503], "failures": 3 },
//!       "healthy": { "http_statuses": [200], "successes": 2 }
//!     }
//!   }
//! }
//! ```
//!
//! Phases: access, log (apisix/plugins/api-breaker.lua). Failures are counted by host and path, over all cores of the
//! node. After `failures` of them requests are answered here for 2 seconds, after twice as many for 4, then 8, and so on
//! up to `max_breaker_sec`; `successes` good answers end it. Headers are sent with a `break_response_body` alone.
//!
//! Known differences: what was counted is forgotten after a day without failures, and a flood of fresh paths that
//! fail does not push out others.

use std::rc::Rc;

use serde_json::Value;
use smallvec::SmallVec;

use crate::exchange::{Exchange, Reply, ReplyBody};
use crate::expr::Template;
use crate::limits;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "api-breaker",
    priority: 1005,
    schema: include_str!("api_breaker.schema.json"),
    build,
    ..Spec::PLAIN
};

struct ApiBreaker {
    code: u16,
    body: Option<Box<[u8]>>,
    headers: Vec<(Box<[u8]>, Template)>,
    /// Seconds.
    longest: u32,
    unhealthy: Statuses,
    healthy: Statuses,
}

/// Statuses, and how many of them make a change.
struct Statuses {
    statuses: Vec<u16>,
    times: u32,
}

fn build(conf: &Value, _: &Build) -> Built {
    let header = |entry: &Value| {
        Some((entry["key"].as_str()?.as_bytes().into(), Template::compile(entry["value"].as_str()?)))
    };
    let headers = conf["break_response_headers"].as_array().into_iter().flatten().filter_map(header);
    Ok(Rc::new(ApiBreaker {
        code: conf["break_response_code"].as_u64().map_or(502, |code| code as u16),
        body: conf["break_response_body"].as_str().map(|body| body.as_bytes().into()),
        headers: headers.collect(),
        longest: conf["max_breaker_sec"].as_u64().map_or(300, clamped),
        unhealthy: Statuses::of(&conf["unhealthy"], "failures"),
        healthy: Statuses::of(&conf["healthy"], "successes"),
    }))
}

fn clamped(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Statuses {
    fn of(conf: &Value, times: &str) -> Statuses {
        let statuses = conf["http_statuses"].as_array().into_iter().flatten();
        Statuses {
            statuses: statuses.filter_map(|status| Some(status.as_f64()? as u16)).collect(),
            times: conf[times].as_u64().map_or(3, clamped).max(1),
        }
    }
}

/// What is counted for a host and path.
#[derive(Clone, Copy)]
enum Counter {
    Unhealthy = b'u' as isize,
    Healthy = b'h' as isize,
    /// When it was last broken, in seconds.
    LastTime = b't' as isize,
}

fn key(counter: Counter, ex: &Exchange) -> SmallVec<[u8; 128]> {
    let mut key = SmallVec::from_slice(b"\0api-breaker");
    key.push(counter as u8);
    key.extend_from_slice(&ex.req.host);
    key.extend_from_slice(&ex.req.path);
    key
}

impl Plugin for ApiBreaker {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access, Phase::Log])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let now = (host.now)();
        let failures = host.counters.api_breaker.get(&key(Counter::Unhealthy, ex), now);
        let broken_at = host.counters.api_breaker.get(&key(Counter::LastTime, ex), now);
        if failures == 0 || broken_at == 0 {
            return Step::Next;
        }
        let times = (failures / self.unhealthy.times).max(1);
        let rest = 1u32.checked_shl(times).unwrap_or(u32::MAX).min(self.longest);
        if broken_at.saturating_add(rest) < second(host) {
            return Step::Next;
        }
        let Some(body) = &self.body else { return Step::Reply(Reply::page(self.code)) };
        for (name, value) in &self.headers {
            let mut text = Vec::new();
            value.render(ex, &mut text);
            ex.add_resp_header(name, &text);
        }
        Step::Reply(Reply { status: self.code, body: ReplyBody::Text(body.to_vec()) })
    }

    fn log(&self, ex: &mut Exchange, host: &Host) {
        let Some(status) = ex.upstream.attempts.last().map(|last| last.status).filter(|s| *s != 0) else {
            return;
        };
        if self.unhealthy.statuses.contains(&status) {
            self.failed(ex, host);
        } else if self.healthy.statuses.contains(&status) {
            self.succeeded(ex, host);
        }
    }
}

/// Seconds of the clock that all cores share; never 0.
fn second(host: &Host) -> u32 {
    clamped(host.counters.api_breaker.age_ms((host.now)()) / 1000 + 1)
}

impl ApiBreaker {
    fn failed(&self, ex: &Exchange, host: &Host) {
        let now = (host.now)();
        let failures = host
            .counters
            .api_breaker
            .prolong(&key(Counter::Unhealthy, ex), 1, limits::BREAKER_MEMORY_MS, now)
            .unwrap_or(0);
        forget(host, Counter::Healthy, ex);
        if failures > 0 && failures.is_multiple_of(self.unhealthy.times) {
            let memory_ms = u64::from(self.longest) * 1000;
            // no room for it: the upstream is not given a rest
            let _ = host.counters.api_breaker.set(&key(Counter::LastTime, ex), second(host), memory_ms, now);
        }
    }

    fn succeeded(&self, ex: &Exchange, host: &Host) {
        let now = (host.now)();
        if host.counters.api_breaker.get(&key(Counter::Unhealthy, ex), now) == 0 {
            return;
        }
        let successes = host
            .counters
            .api_breaker
            .prolong(&key(Counter::Healthy, ex), 1, limits::BREAKER_MEMORY_MS, now)
            .unwrap_or(0);
        if successes >= self.healthy.times {
            for counter in [Counter::LastTime, Counter::Unhealthy, Counter::Healthy] {
                forget(host, counter, ex);
            }
        }
    }
}

fn forget(host: &Host, counter: Counter, ex: &Exchange) {
    host.counters.api_breaker.forget(&key(counter, ex), (host.now)());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;
    use crate::plugins::{limit_conn, limit_count, limit_req};

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        for (conf, error) in [
            (json!({}), "property \"break_response_code\" is required"),
            (
                json!({"break_response_code": 199}),
                "property \"break_response_code\" validation failed: expected 199 to be at least 200",
            ),
            (
                json!({"break_response_code": 502, "max_breaker_sec": 2}),
                "property \"max_breaker_sec\" validation failed: expected 2 to be at least 3",
            ),
            (
                json!({"break_response_code": 502, "unhealthy": {"http_statuses": [500, 500]}}),
                "property \"unhealthy\" validation failed: property \"http_statuses\" validation failed: \
                 expected unique items but items 1 and 2 are equal",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    /// One request to `path`, whose upstream would answer with `status`. Gives the status that the client sees.
    fn ask(plugin: &Rc<dyn Plugin>, host: &Host, path: &str, status: u16) -> u16 {
        let mut ex = test::exchange(&format!("GET {path} HTTP/1.1\nHost: a.com"));
        let seen = match test::run(plugin, Phase::Access, &mut ex, host) {
            Some(reply) => reply.status,
            None => {
                ex.upstream.begin(ex.facts.peer, 0, 0);
                ex.upstream.attempts[0].status = status;
                status
            }
        };
        plugin.log(&mut ex, host);
        seen
    }

    #[test]
    fn rests_twice_as_long_each_time() {
        let host = test::host();
        let conf = json!({"break_response_code": 599, "max_breaker_sec": 5,
            "unhealthy": {"http_statuses": [500], "failures": 2}});
        let plugin = test::build(&SPEC, &host, conf);
        let ask = |status| ask(&plugin, &host, "/x", status);
        assert_eq!([ask(500), ask(500), ask(500)], [500, 500, 599]);
        assert_eq!(self::ask(&plugin, &host, "/y", 200), 200, "another path");
        test::pass(Duration::from_secs(2));
        assert_eq!(ask(200), 599);
        test::pass(Duration::from_secs(1));
        assert_eq!([ask(500), ask(500), ask(500)], [500, 500, 599]);
        test::pass(Duration::from_secs(4));
        assert_eq!(ask(200), 599, "four seconds now");
        test::pass(Duration::from_secs(1));
        assert_eq!([ask(500), ask(500), ask(500)], [500, 500, 599]);
        test::pass(Duration::from_secs(6));
        assert_eq!(ask(404), 404, "eight seconds would be more than max_breaker_sec");
    }

    #[test]
    fn good_answers_end_it() {
        let host = test::host();
        let conf = json!({"break_response_code": 599, "break_response_body": "no $x",
            "break_response_headers": [{"key": "X-Host", "value": "$host"}],
            "unhealthy": {"failures": 1}, "healthy": {"http_statuses": [200, 206], "successes": 2}});
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange("GET /x HTTP/1.1\nHost: a.com");
        assert_eq!(ask(&plugin, &host, "/x", 500), 500);
        let reply = test::run(&plugin, Phase::Access, &mut ex, &host);
        assert_eq!(reply, Some(Reply { status: 599, body: ReplyBody::Text(b"no $x".to_vec()) }));
        assert_eq!(test::values(ex.resp_headers(), "X-Host"), "a.com");
        test::pass(Duration::from_secs(3));
        assert_eq!([200, 404, 206].map(|status| ask(&plugin, &host, "/x", status)), [200, 404, 206]);
        assert_eq!(ask(&plugin, &host, "/x", 500), 500);
        assert_eq!(ask(&plugin, &host, "/x", 500), 599, "the count began at one again");
        test::pass(Duration::from_secs(3));
        assert_eq!(ask(&plugin, &host, "/x", 500), 500, "two seconds, not four");
    }

    #[test]
    fn a_flood_of_failing_paths_leaves_other_plugins_their_room() {
        let host = test::host();
        let breaker = test::build(&SPEC, &host, json!({"break_response_code": 599}));
        for n in 0..5000 {
            ask(&breaker, &host, &format!("/{n}"), 500);
        }
        let count = json!({"count": 5, "time_window": 60});
        let count = test::build(&limit_count::SPEC, &host, count);
        let req = json!({"rate": 5, "burst": 5, "key": "remote_addr"});
        let req = test::build(&limit_req::SPEC, &host, req);
        let conn = json!({"conn": 5, "burst": 5, "default_conn_delay": 0.1, "key": "remote_addr"});
        let conn = test::build(&limit_conn::SPEC, &host, conn);
        for plugin in [count, req, conn] {
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a.com");
            assert_eq!(test::run(&plugin, Phase::Access, &mut ex, &host), None);
        }
    }

    #[test]
    fn a_failure_of_long_ago_does_not_count() {
        let host = test::host();
        let conf = json!({"break_response_code": 599, "unhealthy": {"http_statuses": [500], "failures": 2}});
        let plugin = test::build(&SPEC, &host, conf);
        let ask = |status| ask(&plugin, &host, "/x", status);
        assert_eq!(ask(500), 500);
        test::pass(Duration::from_millis(limits::BREAKER_MEMORY_MS + 1000));
        assert_eq!([ask(500), ask(500), ask(500)], [500, 500, 599]);
    }
}
