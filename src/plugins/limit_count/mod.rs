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
//! Phases: access. The counters are the node's: exact over all its cores. A configuration has counters of its
//! own while it stays as it is where it is; a `group` shares them between routes.
//!
//! Known differences:
//! - `policy` `redis`, `redis-cluster` and `redis-sentinel` are accepted and not served yet: requests that
//!   meet such a configuration get 503, whatever `allow_degradation` says.
//! - A new key that finds no room among live counters is an error ("failed to limit count"), which
//!   `allow_degradation` forgives; APISIX forgets the counter that was used least recently.
//! - A sliding window is exact over all cores, too (best effort in APISIX), and begins at no round time.
//! - `group` works with a `count` or `time_window` of variables (a Lua error in APISIX).
//! - A limit above 4,294,967,293 is no limit.

mod check;
#[cfg(test)]
mod tests;
mod window;

use std::io::Write;
use std::rc::Rc;

use serde_json::Value;
use smallvec::SmallVec;

use crate::exchange::{Exchange, RateLimit, Reply, Vars};
use crate::expr::{Template, number};
use crate::model::schema::number_text;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::plugins::kit::version::conf_version;
use window::Verdict;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "limit-count",
    priority: 1002,
    version: 0.5,
    auth: false,
    prefer_route: false,
    // `not` in its second `oneOf` lets count/time_window beside rules through to the check that names them
    schema: include_str!("schema.json"),
    consumer_schema: None,
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
    consumer_encrypt_fields: &[],
    consumer_key: None,
    check: check::check,
    build,
};

/// Keeps these counters apart from other plugins', behind the key that users see.
const NAMESPACE: &[u8] = b"\0limit-count";

fn build(conf: &Value, build: &Build) -> Built {
    let policy = conf["policy"].as_str().unwrap_or("local");
    if policy != "local" {
        return Err(format!("policy {policy} is not served yet"));
    }
    let scope = match conf["group"].as_str() {
        Some(group) => format!("{group}:"),
        None => format!("{}:{}:", build.parent, conf_version(conf)),
    };
    let rules = match conf["rules"].as_array() {
        Some(rules) => {
            let prefix = |at: usize, rule: &Value| {
                rule["header_prefix"].as_str().map_or(format!("{at}"), str::to_owned)
            };
            let numbered = (1..).zip(rules);
            numbered
                .map(|(at, rule)| Rule {
                    key: Key::OfRule(Template::compile(rule["key"].as_str().unwrap_or_default())),
                    ..Rule::of(rule, HeaderNames::of(conf, build.metadata, Some(&prefix(at, rule))))
                })
                .collect()
        }
        None => Box::new([Rule::of(conf, HeaderNames::of(conf, build.metadata, None))]) as Box<[Rule]>,
    };
    Ok(Rc::new(LimitCount {
        scope: scope.into_bytes().into(),
        rules,
        sliding: conf["window_type"] == "sliding",
        rejected_code: conf["rejected_code"].as_u64().map_or(503, |code| code as u16),
        rejected_msg: conf["rejected_msg"].as_str().map(Box::from),
        allow_degradation: conf["allow_degradation"] == true,
        show_headers: conf["show_limit_quota_header"] != false,
    }))
}

struct LimitCount {
    /// What all its keys begin with.
    scope: Box<[u8]>,
    rules: Box<[Rule]>,
    sliding: bool,
    rejected_code: u16,
    rejected_msg: Option<Box<str>>,
    allow_degradation: bool,
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

/// A positive whole number, or text that becomes one for each request.
enum Number {
    Fixed(u64),
    Text(Template),
}

/// Whose requests are counted together.
enum Key {
    RemoteAddr,
    Var(Box<str>),
    Combination(Template),
    Constant(Box<str>),
    /// Of `rules`: where it has no variable with a value, the rule does not apply.
    OfRule(Template),
}

struct HeaderNames {
    limit: Box<[u8]>,
    remaining: Box<[u8]>,
    reset: Box<[u8]>,
}

/// A rule that applies to a request, with its numbers.
struct Applied<'a> {
    rule: &'a Rule,
    count: u64,
    window_ms: u64,
}

impl Rule {
    fn of(conf: &Value, headers: HeaderNames) -> Rule {
        let key = conf["key"].as_str().unwrap_or("remote_addr");
        Rule {
            count: Number::of(&conf["count"]),
            time_window: Number::of(&conf["time_window"]),
            key: match conf["key_type"].as_str() {
                Some("var_combination") => Key::Combination(Template::compile(key)),
                Some("constant") => Key::Constant(key.into()),
                _ if key == "remote_addr" => Key::RemoteAddr,
                _ => Key::Var(key.into()),
            },
            headers,
        }
    }
}

impl Number {
    fn of(value: &Value) -> Number {
        match value.as_str() {
            Some(text) => Number::Text(Template::compile(text)),
            None => Number::Fixed(value.as_f64().unwrap_or(1.0) as u64),
        }
    }

    /// Its value for this request. The errors are those of the log of APISIX.
    fn value(&self, ex: &Exchange) -> Result<u64, String> {
        let template = match self {
            Number::Fixed(value) => return Ok(*value),
            Number::Text(template) => template,
        };
        let mut text = Vec::new();
        template.render(ex, &mut text);
        let value = number::parse(&text).ok_or("resolved value is not a number")?;
        let refused = |why| Err(format!("resolved value {why}, got: {}", number_text(value)));
        if value <= 0.0 {
            return refused("must be a positive number");
        }
        if value != value.floor() {
            return refused("must be an integer");
        }
        if value > 9_007_199_254_740_991.0 {
            return refused("exceeds safe integer range (2^53-1)");
        }
        Ok(value as u64)
    }
}

impl Key {
    /// Appends the key of this request; the client's address where it has none.
    fn append(&self, ex: &Exchange, out: &mut Vec<u8>) {
        let begin = out.len();
        let found = match self {
            Key::RemoteAddr => false,
            Key::Var(name) => ex.var(name).map(|value| out.extend_from_slice(&value)).is_some(),
            Key::Combination(template) | Key::OfRule(template) => template.render(ex, out) > 0,
            Key::Constant(text) => {
                out.extend_from_slice(text.as_bytes());
                true
            }
        };
        if !found {
            out.truncate(begin);
            let _ = write!(out, "{}", ex.remote_addr); // a Vec takes all
        }
    }
}

impl HeaderNames {
    /// A field of the configuration beats one of the metadata; a rule's prefix goes before `RateLimit-`.
    fn of(conf: &Value, metadata: Option<&Value>, prefix: Option<&str>) -> HeaderNames {
        let name = |field: &str, default: &str| {
            let set = [Some(conf), metadata].into_iter().flatten().find_map(|object| object[field].as_str());
            let name = set.unwrap_or(default);
            let name = match prefix {
                Some(prefix) => name.replacen("RateLimit-", &format!("{prefix}-RateLimit-"), 1),
                None => name.to_owned(),
            };
            name.into_bytes().into_boxed_slice()
        };
        HeaderNames {
            limit: name("limit_header", "X-RateLimit-Limit"),
            remaining: name("remaining_header", "X-RateLimit-Remaining"),
            reset: name("reset_header", "X-RateLimit-Reset"),
        }
    }

    fn write(&self, ex: &mut Exchange, limit: u64, verdict: &Verdict) {
        let headers = ex.resp_headers();
        let mut digits = itoa::Buffer::new();
        headers.set(&self.limit, digits.format(limit).as_bytes());
        headers.set(&self.remaining, digits.format(verdict.remaining).as_bytes());
        headers.set(&self.reset, &seconds(verdict.reset_cs));
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
                return self.failed(Reply::page(500));
            }
        };
        for applied in &applied {
            match self.limit(applied, ex, host) {
                Step::Next => {}
                answer => return answer,
            }
        }
        Step::Next
    }
}

impl LimitCount {
    /// The rules for this request. A wrong number is an error even where another rule would do: else a
    /// client that controls the variable could switch its limit off.
    fn applied(&self, ex: &mut Exchange) -> Result<SmallVec<[Applied<'_>; 2]>, String> {
        let mut list = SmallVec::new();
        for rule in &self.rules {
            if let Key::OfRule(template) = &rule.key {
                let mut key = std::mem::take(&mut ex.rate_limit.key);
                key.clear();
                let resolved = template.render(ex, &mut key);
                ex.rate_limit.key = key;
                if resolved == 0 {
                    continue;
                }
            }
            let count = rule.count.value(ex)?;
            let window_ms = rule.time_window.value(ex)?.saturating_mul(1000);
            list.push(Applied { rule, count, window_ms });
        }
        Ok(list)
    }

    /// Counts the request under one rule.
    fn limit(&self, applied: &Applied, ex: &mut Exchange, host: &Host) -> Step<'static> {
        let &Applied { rule, count, window_ms } = applied;
        let mut key = std::mem::take(&mut ex.rate_limit.key);
        key.clear();
        key.extend_from_slice(&self.scope);
        rule.key.append(ex, &mut key);
        let shown = key.len();
        key.extend_from_slice(NAMESPACE);
        let now = (host.now)();
        let verdict = match self.sliding {
            true => window::sliding(&host.counters, &mut key, count, window_ms, now),
            false => window::fixed(&host.counters, &key, count, window_ms, now),
        };
        let (remaining, reset_s) = verdict.map_or((0, 0), |v| (v.remaining, v.reset_cs / 100));
        ex.rate_limit = RateLimit { key, shown, limit: count, remaining, reset_s };
        let Ok(verdict) = verdict else {
            log::error!("failed to limit count: no room for a new counter");
            return self.failed(Reply::error_msg(500, "failed to limit count"));
        };
        if self.show_headers {
            rule.headers.write(ex, count, &verdict);
        }
        match (verdict.accepted, &self.rejected_msg) {
            (true, _) => Step::Next,
            (false, Some(text)) => Step::Reply(Reply::error_msg(self.rejected_code, text)),
            (false, None) => Step::Reply(Reply::page(self.rejected_code)),
        }
    }

    /// The limiter itself does not work.
    fn failed(&self, reply: Reply) -> Step<'static> {
        if self.allow_degradation { Step::Next } else { Step::Reply(reply) }
    }
}
