//! `limit-conn`: so many requests at a time.
//!
//! ```json
//! {
//!   "uri": "/reports/*",
//!   "plugins": {
//!     "limit-conn": {
//!       "conn": 4,
//!       "burst": 2,
//!       "default_conn_delay": 0.1,
//!       "key": "remote_addr",
//!       "rejected_code": 429
//!     }
//!   }
//! }
//! ```
//!
//! Several limits at once, each for the requests that have its key:
//!
//! ```json
//! {
//!   "uri": "/reports/*",
//!   "plugins": {
//!     "limit-conn": {
//!       "default_conn_delay": 0.1,
//!       "rules": [
//!         { "key": "${http_user}", "conn": "${http_user_places ?? 2}", "burst": 0 },
//!         { "key": "${http_team}", "conn": 10, "burst": 5 }
//!       ]
//!     }
//!   }
//! }
//! ```
//!
//! Phases: access, and log, where a request gives its place back (apisix/plugins/limit-conn). Requests beyond `conn` wait
//! `default_conn_delay` seconds for each full `conn` before them, those beyond `conn` and `burst` are refused. The
//! counts are the node's: exact over all its cores. With `policy` `redis` or `redis-cluster` they are those of all who
//! use that Redis, at one round trip a request and rule; a place that nobody gives back is free again after `key_ttl`
//! seconds.
//!
//! Known differences:
//! - With several `rules` a request that one of them refuses does not wait for the others first.
//! - `only_use_default_delay` says nothing: the delay of one request does not learn from others (in APISIX 3.18
//!   neither).

use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};

use serde_json::Value;
use smallvec::SmallVec;

use crate::client::redis::{Client, Script};
use crate::exchange::{Exchange, Reply};
use crate::plugin::counters::Counters;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::plugins::kit::limit::{Key, Number, Refusal, Scope, redis_of, step};
use crate::plugins::kit::random;
use crate::reactor;
use crate::wire::resp;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "limit-conn",
    priority: 1003,
    schema: include_str!("limit_conn.schema.json"),
    encrypt_fields: &["redis_password"],
    build,
    ..Spec::PLAIN
};

/// The same on stream routes, where connections are counted.
pub const STREAM: Spec = Spec {
    schema: r#"{
        "type": "object",
        "properties": {
            "conn": {"type": "integer", "exclusiveMinimum": 0},
            "burst": {"type": "integer", "minimum": 0},
            "default_conn_delay": {"type": "number", "exclusiveMinimum": 0},
            "only_use_default_delay": {"type": "boolean", "default": false},
            "key": {"type": "string"},
            "key_type": {"type": "string", "enum": ["var", "var_combination"], "default": "var"}
        },
        "required": ["conn", "burst", "default_conn_delay", "key"]
    }"#,
    name: SPEC.name,
    priority: SPEC.priority,
    build,
    ..Spec::PLAIN
};

/// Keeps these counters apart from other plugins', behind the key that users see.
const NAMESPACE: &[u8] = b"\0limit-conn";

struct LimitConn {
    scope: Scope,
    rules: Vec<Rule>,
    /// `rules` were written: one with a wrong number is left out.
    several: bool,
    default_conn_delay_ms: f64,
    refusal: Refusal,
    redis: Option<Rc<Client>>,
    key_ttl_s: u64,
}

struct Rule {
    conn: Number,
    burst: Number,
    key: Key,
}

/// A rule that applies to a request, with its numbers.
struct Applied<'a> {
    rule: &'a Rule,
    conn: u64,
    burst: u64,
}

/// A place that a request holds.
struct Place {
    counters: Arc<Counters>,
    key: Vec<u8>,
    now: fn() -> Instant,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counters.leave(&self.key, (self.now)());
    }
}

/// Takes a place in a set of them, which are scored by when they are given up: in ARGV the most places, how long
/// one is kept in s, the time in s, and the request. Gives whether there was one, and how many are taken.
static ENTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, ARGV[3])
local taken = redis.call('ZCARD', KEYS[1])
if taken >= tonumber(ARGV[1]) then
  return {0, taken}
end
redis.call('ZADD', KEYS[1], ARGV[3] + ARGV[2], ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return {1, taken + 1}",
    )
});

/// A place on Redis that a request holds.
struct PlaceOnRedis {
    redis: Rc<Client>,
    key: Vec<u8>,
    request: String,
}

impl Drop for PlaceOnRedis {
    fn drop(&mut self) {
        let (redis, key) = (self.redis.clone(), std::mem::take(&mut self.key));
        let request = std::mem::take(&mut self.request);
        reactor::spawn(async move {
            if let Err(error) = redis.command(&key, &[b"ZREM", &key, request.as_bytes()]).await {
                log::error!("failed to record the connection leaving request: {error}");
            }
        });
    }
}

fn build(conf: &Value, build: &Build) -> Built {
    let rule =
        |conf: &Value, key| Rule { conn: Number::of(&conf["conn"]), burst: Number::of(&conf["burst"]), key };
    let several = conf["rules"].as_array();
    Ok(Rc::new(LimitConn {
        scope: Scope::of(conf, build),
        rules: match several {
            Some(rules) => rules.iter().map(|written| rule(written, Key::of_rule(written))).collect(),
            None => vec![rule(conf, Key::of(conf))],
        },
        several: several.is_some(),
        default_conn_delay_ms: conf["default_conn_delay"].as_f64().unwrap_or_default() * 1000.0,
        refusal: Refusal::of(conf),
        redis: redis_of(conf, build)?,
        key_ttl_s: conf["key_ttl"].as_f64().map_or(3600, |seconds| seconds as u64),
    }))
}

impl Plugin for LimitConn {
    /// Log is named for the basic debug mode: a place is given back when the exchange drops what it holds.
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access, Phase::Log])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let applied = match self.applied(ex) {
            Ok(applied) if !applied.is_empty() => applied,
            outcome => {
                let error = outcome.err().unwrap_or_else(|| "none applies".to_owned());
                log::error!("failed to get limit conn rules: {error}");
                return step(self.refusal.failed(Reply::page(500)));
            }
        };
        if let Some(redis) = &self.redis {
            return Step::Wait(Box::pin(self.enter_on_redis(redis, applied, ex)));
        }
        let mut delay_ms = 0;
        for applied in &applied {
            match self.enter(applied, ex, host) {
                Ok(ms) => delay_ms += ms,
                Err(reply) => return Step::Reply(reply),
            }
        }
        if delay_ms == 0 {
            return Step::Next;
        }
        Step::Wait(Box::pin(async move {
            wait(delay_ms).await;
            None
        }))
    }
}

async fn wait(ms: u64) {
    reactor::sleep(u32::try_from(ms).unwrap_or(u32::MAX)).await;
}

impl LimitConn {
    /// The rules for this request.
    fn applied(&self, ex: &Exchange) -> Result<SmallVec<[Applied<'_>; 2]>, String> {
        let mut list = SmallVec::new();
        for rule in &self.rules {
            match (rule.conn.value(ex, 1), rule.burst.value(ex, 0)) {
                (Ok(conn), Ok(burst)) if rule.key.applies(ex) => {
                    list.push(Applied { rule, conn, burst });
                }
                (Err(error), _) | (_, Err(error)) if !self.several => return Err(error),
                _ => {}
            }
        }
        Ok(list)
    }

    /// Takes a place under one rule. `Ok`: how long to wait, ms.
    fn enter(&self, applied: &Applied, ex: &mut Exchange, host: &Host) -> Result<u64, Reply> {
        let mut key = Vec::new();
        self.scope.write(&applied.rule.key, ex, &mut key);
        key.extend_from_slice(NAMESPACE);
        let most = u32::try_from(applied.conn.saturating_add(applied.burst)).unwrap_or(u32::MAX);
        match host.counters.limit_conn.enter(&key, most, (host.now)()) {
            Ok(Some(taken)) => {
                ex.held.push(Box::new(Place {
                    counters: host.counters.limit_conn.clone(),
                    key,
                    now: host.now,
                }));
                Ok(self.delay_ms(u64::from(taken), applied.conn))
            }
            Ok(None) => Err(self.refusal.reply()),
            Err(_) => {
                log::error!("failed to limit conn: no room for a new counter");
                self.refusal.failed(Reply::page(500)).map_or(Ok(0), Err)
            }
        }
    }

    /// Takes places on Redis, one rule after the other, and waits.
    async fn enter_on_redis(
        &self,
        redis: &Rc<Client>,
        applied: SmallVec<[Applied<'_>; 2]>,
        ex: &mut Exchange,
    ) -> Option<Reply> {
        let mut delay_ms = 0;
        for Applied { rule, conn, burst } in applied {
            let mut own = Vec::new();
            self.scope.write(&rule.key, ex, &mut own);
            let key = [b"limit_conn:", &*own].concat();
            let now =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let mut request = [0; 16];
            random::fill(&mut request);
            let request = uuid::Builder::from_random_bytes(request).into_uuid().to_string();
            let mut texts = [itoa::Buffer::new(); 3];
            let [most, ttl, since] = &mut texts;
            let args =
                [most.format(conn.saturating_add(burst)), ttl.format(self.key_ttl_s), since.format(now)];
            let [most, ttl, now] = args.map(str::as_bytes);
            let outcome = redis.eval(&ENTER, &[&key], &[most, ttl, now, request.as_bytes()]).await;
            let numbers: Result<SmallVec<[f64; 2]>, _> =
                outcome.map(|reply| reply.items().iter().filter_map(resp::Reply::number).collect());
            match numbers.as_deref() {
                Ok([1.0, taken]) => {
                    ex.held.push(Box::new(PlaceOnRedis { redis: redis.clone(), key, request }));
                    delay_ms += self.delay_ms(*taken as u64, conn);
                }
                Ok([0.0, _]) => return Some(self.refusal.reply()),
                outcome => {
                    let error = outcome.err().map_or("the script's answer is none".into(), |e| e.to_string());
                    log::error!("failed to limit conn: {error}");
                    if let Some(reply) = self.refusal.failed(Reply::page(500)) {
                        return Some(reply);
                    }
                }
            }
        }
        if delay_ms > 0 {
            wait(delay_ms).await;
        }
        None
    }

    /// How long the request waits that took a place as the `taken`th.
    fn delay_ms(&self, taken: u64, conn: u64) -> u64 {
        if taken <= conn {
            return 0;
        }
        (self.default_conn_delay_ms * ((taken - 1) / conn) as f64) as u64
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        let one_of = "value should match only one schema, but matches none";
        for (conf, error) in [
            (json!({"conn": 1, "burst": 0, "default_conn_delay": 0.1}), one_of.to_owned()),
            (
                json!({"conn": 0, "burst": 0, "default_conn_delay": 0.1, "key": "a"}),
                format!("property \"conn\" validation failed: {one_of}"),
            ),
            (
                json!({"conn": 1, "burst": 0, "default_conn_delay": 0, "key": "a"}),
                "property \"default_conn_delay\" validation failed: expected 0 to be greater than 0".into(),
            ),
            (
                json!({"conn": 1, "burst": 0, "default_conn_delay": 1, "key": "a", "policy": "redis"}),
                "then clause did not match".into(),
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    /// A request that stays, and what becomes of it: `on`, `waits`, or a status.
    fn ask(plugin: &Rc<dyn Plugin>, host: &Host, headers: &str) -> (Exchange, String) {
        let mut ex = test::exchange(&format!("GET / HTTP/1.1\nHost: a\n{headers}"));
        let outcome = match plugin.access(&mut ex, host) {
            Step::Next => "on".into(),
            Step::Wait(_) => "waits".into(),
            Step::Reply(reply) => reply.status.to_string(),
        };
        (ex, outcome)
    }

    #[test]
    fn requests_beyond_the_limit_wait_or_are_refused_until_others_end() {
        let host = test::host();
        let conf = json!({"conn": 2, "burst": 1, "default_conn_delay": 0.1, "key": "remote_addr"});
        let plugin = test::build(&SPEC, &host, conf);
        let mut asked: Vec<_> = (0..4).map(|_| ask(&plugin, &host, "")).collect();
        let outcomes: Vec<_> = asked.iter().map(|(_, outcome)| outcome.as_str()).collect();
        assert_eq!(outcomes, ["on", "on", "waits", "503"]);
        asked.remove(3);
        assert_eq!(ask(&plugin, &host, "").1, "503", "a refused request gives nothing back");
        asked.truncate(1);
        let second = ask(&plugin, &host, "");
        assert_eq!(second.1, "on");
        drop((second, asked));
        assert_eq!(ask(&plugin, &host, "").1, "on");
    }

    #[test]
    fn waits_once_for_each_full_limit() {
        let host = test::host();
        let limit = LimitConn {
            scope: Scope::of(&json!({}), &Build { host: &host, parent: "", metadata: None }),
            rules: Vec::new(),
            several: false,
            default_conn_delay_ms: 250.0,
            refusal: Refusal::of(&json!({})),
            redis: None,
            key_ttl_s: 0,
        };
        let delays = [1, 2, 3, 4, 5].map(|taken| limit.delay_ms(taken, 2));
        assert_eq!(delays, [0, 0, 250, 250, 500]);
    }

    #[test]
    fn numbers_of_variables() {
        let host = test::host();
        let conf = json!({"conn": "${http_conn}", "burst": "${http_burst ?? 0}", "default_conn_delay": 0.1,
            "key": "http_a", "rejected_msg": "full"});
        let plugin = test::build(&SPEC, &host, conf);
        let one = ask(&plugin, &host, "conn: 1\na: 1");
        assert_eq!((&*one.1, &*ask(&plugin, &host, "conn: 1\na: 1").1), ("on", "503"));
        assert_eq!(ask(&plugin, &host, "conn: 1\nburst: 1\na: 1").1, "waits");
        for wrong in ["conn: 0", "conn: x", "conn: 1.5", "conn: 1\nburst: -1"] {
            assert_eq!(ask(&plugin, &host, wrong).1, "500", "{wrong}");
        }
    }

    #[test]
    fn rules_apply_to_those_that_have_their_key() {
        let host = test::host();
        let conf = json!({"default_conn_delay": 0.1, "rejected_code": 429, "rules": [
            {"conn": 1, "burst": 0, "key": "${http_user}"},
            {"conn": "${http_places}", "burst": 0, "key": "${http_team}"},
        ]});
        let plugin = test::build(&SPEC, &host, conf);
        let _user = ask(&plugin, &host, "user: jack");
        assert_eq!(ask(&plugin, &host, "user: jack").1, "429");
        assert_eq!(ask(&plugin, &host, "user: rose").1, "on");
        assert_eq!(
            ask(&plugin, &host, "user: x\nteam: t\nplaces: zero").1,
            "on",
            "a wrong number leaves a rule out"
        );
        let _team = ask(&plugin, &host, "team: t\nplaces: 1");
        assert_eq!(ask(&plugin, &host, "team: t\nplaces: 1").1, "429");
        assert_eq!(ask(&plugin, &host, "").1, "500");
    }
}
