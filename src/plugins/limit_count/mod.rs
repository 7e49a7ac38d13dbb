//! `limit-count`: so many requests per key and time window (apisix/plugins/limit-count).
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "limit-count": {
//!       "count": 100,
//!       "time_window": 60,
//!       "key_type": "var_combination",
//!       "key": "$consumer_name $remote_addr",
//!       "rejected_code": 429,
//!       "rejected_msg": "slow down"
//!     }
//!   }
//! }
//! ```
//!
//! Several limits at once, each for the requests that have its key:
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "limit-count": {
//!       "rules": [
//!         { "key": "${http_user}", "count": "${http_user_quota ?? 10}", "time_window": 60 },
//!         { "key": "${http_team}", "count": 500, "time_window": 60, "header_prefix": "team" }
//!       ]
//!     }
//!   }
//! }
//! ```
//!
//! `count` requests may pass in `time_window` seconds; both may be text with variables. `key` is the name of a variable, with
//! `key_type: var_combination` text with variables, with `constant` the same for all; the client's address stands in for
//! a key that is empty. A `fixed` window begins with its first request, a `sliding` one moves with the clock. Answers
//! tell `X-RateLimit-Limit`, `-Remaining` and `-Reset` (`show_limit_quota_header`); the plugin's metadata renames them.
//! Refused requests get `rejected_code`, with `rejected_msg` in JSON. `allow_degradation` lets requests pass when the limiter
//! itself fails. `group` shares one limit between routes, whose configurations must be the same then.
//!
//! Phases: access. The counters are the node's: exact over all its cores. A configuration has counters of its
//! own while it stays as it is where it is; a `group` shares them between routes. With `policy` `redis`,
//! `redis-cluster` or `redis-sentinel` they are those of all who use that Redis, at one round trip a request and
//! rule (two for a sliding window on a cluster), pipelined with those of other requests. With `sync_interval` the node
//! counts for itself and tells Redis every so many seconds.
//!
//! Known differences:
//! - A new key that finds no room among live counters is an error ("failed to limit count"), which
//!   `allow_degradation` forgives; APISIX forgets the counter that was used least recently.
//! - A sliding window is exact over all cores, too (best effort in APISIX), and begins at no round time.
//! - `group` works with a `count` or `time_window` of variables (a Lua error in APISIX).
//! - A limit above 4,294,967,293 is no limit.

mod check;
mod delayed;
mod redis;
#[cfg(test)]
mod tests;
mod window;

use std::rc::Rc;
use std::time::SystemTime;

use serde_json::Value;
use smallvec::SmallVec;

use crate::client::redis::Client;
use crate::exchange::{Exchange, RateLimit, Reply};
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::plugins::kit::limit::{Key, Number, Refusal, Scope, redis_of, step};
use crate::wire::headers::{FieldLine, FieldName, Headers};
use delayed::{Delayed, Limit};
use window::Verdict;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "limit-count",
    priority: 1002,
    version: 0.5,
    schema: include_str!("schema.json"),
    metadata_schema: Some(
        r#"{
        "type": "object",
        "properties": {
            "limit_header": {"type": "string", "default": "X-RateLimit-Limit"},
            "remaining_header": {"type": "string", "default": "X-RateLimit-Remaining"},
            "reset_header": {"type": "string", "default": "X-RateLimit-Reset"}
        }
    }"#,
    ),
    encrypt_fields: &["redis_password", "sentinel_password"],
    refusal: check::refusal,
    check: check::check,
    build,
    ..Spec::PLAIN
};

/// Keeps these counters apart from other plugins', behind the key that users see.
const NAMESPACE: &[u8] = b"\0limit-count";

fn build(conf: &Value, build: &Build) -> Built {
    let rules = match conf["rules"].as_array() {
        Some(rules) => {
            let prefix = |at: usize, rule: &Value| {
                rule["header_prefix"].as_str().map_or(format!("{at}"), str::to_owned)
            };
            let numbered = (1..).zip(rules);
            numbered
                .map(|(at, rule)| Rule {
                    key: Key::of_rule(rule),
                    ..Rule::of(rule, |count| {
                        HeaderNames::of(conf, build.metadata, Some(&prefix(at, rule)), count)
                    })
                })
                .collect()
        }
        None => {
            let headers = |count: &Number| HeaderNames::of(conf, build.metadata, None, count);
            Box::new([Rule::of(conf, headers)]) as Box<[Rule]>
        }
    };
    let redis = redis_of(conf, build)?;
    let interval = conf["sync_interval"].as_f64().filter(|interval| *interval > 0.0);
    Ok(Rc::new(LimitCount {
        scope: Scope::of(conf, build),
        rules,
        sliding: conf["window_type"] == "sliding",
        refusal: Refusal::of(conf),
        delayed: redis
            .clone()
            .zip(interval)
            .map(|(redis, interval)| Delayed::new(interval, redis, build.host)),
        redis,
        show_headers: conf["show_limit_quota_header"] != false,
    }))
}

struct LimitCount {
    scope: Scope,
    rules: Box<[Rule]>,
    sliding: bool,
    refusal: Refusal,
    /// `policy`: on Redis, or on this node.
    redis: Option<Rc<Client>>,
    /// `sync_interval`: on this node, and on Redis later.
    delayed: Option<Rc<Delayed>>,
    show_headers: bool,
}

/// One limit.
struct Rule {
    count: Number,
    /// Seconds.
    time_window: Number,
    key: Key,
    headers: HeaderNames,
}

struct HeaderNames {
    limit: FieldName,
    /// The whole field of a limit that is the same for all requests.
    fixed_limit: Option<FieldLine>,
    remaining: FieldName,
    reset: FieldName,
}

/// A rule that applies to a request, with its numbers.
struct Applied<'a> {
    rule: &'a Rule,
    count: u64,
    window_ms: u64,
}

impl Rule {
    fn of(conf: &Value, headers: impl Fn(&Number) -> HeaderNames) -> Rule {
        let count = Number::of(&conf["count"]);
        Rule {
            headers: headers(&count),
            count,
            time_window: Number::of(&conf["time_window"]),
            key: Key::of(conf),
        }
    }
}

impl HeaderNames {
    /// A field of the configuration beats one of the metadata; a rule's prefix goes before `RateLimit-`.
    fn of(conf: &Value, metadata: Option<&Value>, prefix: Option<&str>, count: &Number) -> HeaderNames {
        let name = |field: &str, default: &str| {
            let set = [Some(conf), metadata].into_iter().flatten().find_map(|object| object[field].as_str());
            let name = set.unwrap_or(default);
            match prefix {
                Some(prefix) => {
                    let name = name.replacen("RateLimit-", &format!("{prefix}-RateLimit-"), 1);
                    FieldName::new(name.as_bytes())
                }
                None => FieldName::new(name.as_bytes()),
            }
        };
        let limit = name("limit_header", "X-RateLimit-Limit");
        HeaderNames {
            fixed_limit: match count {
                Number::Fixed(count) => FieldLine::new(limit.text(), count.to_string().as_bytes()),
                Number::Text(_) => None,
            },
            limit,
            remaining: name("remaining_header", "X-RateLimit-Remaining"),
            reset: name("reset_header", "X-RateLimit-Reset"),
        }
    }

    fn write(&self, headers: &mut Headers, limit: u64, verdict: &Verdict) {
        let mut digits = itoa::Buffer::new();
        match &self.fixed_limit {
            Some(line) => headers.set_line(line),
            None => headers.put_known(&self.limit, digits.format(limit).as_bytes()),
        }
        headers.put_known(&self.remaining, digits.format(verdict.remaining).as_bytes());
        headers.put_known(&self.reset, &seconds(verdict.reset_cs));
    }
}

/// Hundredths of a second as Lua prints seconds: `60`, `59.9`, `0.05`.
fn seconds(hundredths: u64) -> SmallVec<[u8; 24]> {
    let mut text = SmallVec::from_slice(itoa::Buffer::new().format(hundredths / 100).as_bytes());
    let (tenth, hundredth) = ((hundredths / 10 % 10) as u8, (hundredths % 10) as u8);
    if tenth != 0 || hundredth != 0 {
        text.extend_from_slice(&[b'.', b'0' + tenth]);
    }
    if hundredth != 0 {
        text.push(b'0' + hundredth);
    }
    text
}

impl Plugin for LimitCount {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let applied = match self.applied(ex) {
            Ok(applied) if !applied.is_empty() => applied,
            outcome => {
                let error = outcome.err().unwrap_or_else(|| "none applies".to_owned());
                log::error!("failed to get rate limit rules: {error}");
                return step(self.refusal.failed(Reply::page(500)));
            }
        };
        if let Some(redis) = &self.redis {
            return Step::Wait(Box::pin(self.count_on_redis(redis, applied, ex)));
        }
        step(applied.iter().find_map(|applied| {
            let mut key = self.key(applied, ex);
            let (counters, now) = (&host.counters.limit_count, (host.now)());
            let shown = key.len();
            key.extend_from_slice(NAMESPACE);
            let verdict = match self.sliding {
                true => window::sliding(counters, &mut key, applied.count, applied.window_ms, now),
                false => window::fixed(counters, &key, applied.count, applied.window_ms, 1, now),
            };
            let verdict = verdict.map_err(|_| "no room for a new counter".to_owned());
            self.decide(applied, verdict, key, shown, ex)
        }))
    }
}

impl LimitCount {
    /// The rules for this request. A wrong number is an error even where another rule would do: else a
    /// client that controls the variable could switch its limit off.
    fn applied(&self, ex: &Exchange) -> Result<SmallVec<[Applied<'_>; 2]>, String> {
        let mut list = SmallVec::new();
        for rule in &self.rules {
            if rule.key.applies(ex) {
                let count = rule.count.value(ex, 1)?;
                let window_ms = rule.time_window.value(ex, 1)?.saturating_mul(1000);
                list.push(Applied { rule, count, window_ms });
            }
        }
        Ok(list)
    }

    /// The key of this request under a rule, in the exchange's buffer.
    fn key(&self, applied: &Applied, ex: &mut Exchange) -> Vec<u8> {
        let mut key = std::mem::take(&mut ex.rate_limit.key);
        self.scope.write(&applied.rule.key, ex, &mut key);
        key
    }

    /// One rule after the other: what one refuses, the next does not count.
    async fn count_on_redis(
        &self,
        redis: &Rc<Client>,
        applied: SmallVec<[Applied<'_>; 2]>,
        ex: &mut Exchange,
    ) -> Option<Reply> {
        for applied in &applied {
            let key = self.key(applied, ex);
            let shown = key.len();
            let &Applied { count, window_ms, .. } = applied;
            let delayed = self.delayed.as_ref().filter(|delayed| delayed.fits(window_ms));
            let verdict = match (delayed, self.sliding) {
                (Some(delayed), sliding) => {
                    let verdict = delayed.count(&key, Limit { count, window_ms, sliding }).await;
                    verdict.map_err(|_| "no room for a new counter".to_owned())
                }
                (None, true) => redis::sliding(redis, &key, count, window_ms, SystemTime::now())
                    .await
                    .map_err(|error| error.to_string()),
                (None, false) => {
                    redis::fixed(redis, &key, count, window_ms, 1).await.map_err(|error| error.to_string())
                }
            };
            let reply = self.decide(applied, verdict, key, shown, ex);
            if reply.is_some() {
                return reply;
            }
        }
        None
    }

    /// What the counter's word means for the request: headers, variables, and an answer if it may not go on. The
    /// first `shown` bytes of `key` are what users see.
    fn decide(
        &self,
        applied: &Applied,
        verdict: Result<Verdict, String>,
        key: Vec<u8>,
        shown: usize,
        ex: &mut Exchange,
    ) -> Option<Reply> {
        let (remaining, reset_s) = verdict.as_ref().map_or((0, 0), |v| (v.remaining, v.reset_cs / 100));
        ex.rate_limit = RateLimit { key, shown, limit: applied.count, remaining, reset_s };
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) => {
                log::error!("failed to limit count: {error}");
                return self.refusal.failed(Reply::error_msg(500, "failed to limit count"));
            }
        };
        if self.show_headers {
            applied.rule.headers.write(ex.resp_headers(), applied.count, &verdict);
        }
        (!verdict.accepted).then(|| self.refusal.reply())
    }
}
