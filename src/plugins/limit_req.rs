//! `limit-req`: so many requests a second, evenly: a leaky bucket.
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "limit-req": {
//!       "rate": 20,
//!       "burst": 10,
//!       "key_type": "var_combination",
//!       "key": "$consumer_name $remote_addr",
//!       "rejected_code": 429,
//!       "rejected_msg": "slow down"
//!     }
//!   }
//! }
//! ```
//!
//! Phase: access (apisix/plugins/limit-req.lua). Requests above `rate` wait until their turn, up to `burst` of them; the
//! others are refused. With `nodelay` those up to `burst` do not wait. The buckets are the node's: exact over all its
//! cores, to a fraction of a microsecond. With `policy` `redis` or `redis-cluster` they are those of all who use that
//! Redis, at one round trip a request.
//!
//! Known differences:
//! - A new key that finds no room among live buckets is an error, which `allow_degradation` forgives; APISIX forgets the
//!   bucket that was used least recently.

use std::rc::Rc;
use std::sync::LazyLock;
use std::time::SystemTime;

use serde_json::Value;
use smallvec::SmallVec;

use crate::client::redis::{Client, Error, Script};
use crate::exchange::{self, Exchange};
use crate::model::schema::number_text;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::plugins::kit::limit::{Key, Refusal, Scope, redis_of, step};
use crate::reactor;
use crate::wire::resp::Reply;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "limit-req",
    priority: 1001,
    schema: include_str!("limit_req.schema.json"),
    encrypt_fields: &["redis_password"],
    build,
    ..Spec::PLAIN
};

/// Keeps these buckets apart from other plugins' counters, behind the key that users see.
const NAMESPACE: &[u8] = b"\0limit-req";

const SECOND_NS: f64 = 1_000_000_000.0;

/// A shorter wait is none, as in APISIX.
const SHORTEST_WAIT_NS: u64 = 1_000_000;

struct LimitReq {
    scope: Scope,
    key: Key,
    /// Between two requests at `rate`.
    interval_ns: u64,
    /// How long the last of `burst` waits.
    longest_wait_ns: u64,
    nodelay: bool,
    refusal: Refusal,
    redis: Option<Redis>,
}

/// A bucket on Redis (limit-req/util.lua): APISIX's keys and fields, so that both may share it.
struct Redis {
    client: Rc<Client>,
    rate: f64,
    /// Arguments of [`POUR`] that are the same for every request.
    rate_text: String,
    burst_text: String,
    keep_text: String,
}

/// In ARGV rate, burst, the time in ms and how long to keep the bucket in s; a request is 1000. Gives whether the request
/// may go on, and what is in the bucket.
static POUR: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local rate, burst, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local bucket = redis.call('HMGET', KEYS[1], 'excess', 'last')
local excess = 0
if bucket[1] and bucket[2] then
  local leaked = rate * math.abs(now - tonumber(bucket[2])) / 1000
  excess = math.max(tonumber(bucket[1]) - leaked + 1000, 0)
  if excess > burst then
    return {0, tostring(excess)}
  end
end
redis.call('HSET', KEYS[1], 'excess', excess, 'last', now)
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {1, tostring(excess)}",
    )
});

impl Redis {
    /// As [`crate::plugin::counters::Counters::pour`].
    async fn pour(&self, key: &[u8], now: SystemTime) -> Result<Option<u64>, Error> {
        let key = [b"limit_req:", key].concat();
        let now_ms = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut now_text = itoa::Buffer::new();
        let args = [&*self.rate_text, &self.burst_text, now_text.format(now_ms), &self.keep_text];
        let reply = self.client.eval(&POUR, &[&key], &args.map(str::as_bytes)).await?;
        let numbers: SmallVec<[f64; 2]> = reply.items().iter().filter_map(Reply::number).collect();
        let [accepted, excess] = *numbers else {
            return Err(Error::Server("the script's answer is none".into()));
        };
        Ok((accepted == 1.0).then(|| (excess / 1000.0 / self.rate * SECOND_NS) as u64))
    }
}

fn build(conf: &Value, build: &Build) -> Built {
    let number = |field: &str| conf[field].as_f64().unwrap_or_default();
    // `as` saturates: a rate of next to nothing lets one request through in a lifetime
    let interval_ns = (SECOND_NS / number("rate")) as u64;
    Ok(Rc::new(LimitReq {
        scope: Scope::of(conf, build),
        key: Key::of(conf),
        interval_ns,
        longest_wait_ns: (number("burst") * SECOND_NS / number("rate")) as u64,
        nodelay: conf["nodelay"] == true,
        refusal: Refusal::of(conf),
        redis: redis_of(conf, build)?.map(|client| Redis {
            client,
            rate: number("rate"),
            rate_text: number_text(number("rate") * 1000.0),
            burst_text: number_text(number("burst") * 1000.0),
            keep_text: number_text((number("burst") / number("rate")).ceil() + 1.0),
        }),
    }))
}

impl Plugin for LimitReq {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let mut key = Vec::new();
        self.scope.write(&self.key, ex, &mut key);
        if let Some(redis) = &self.redis {
            return Step::Wait(Box::pin(async move {
                let poured = redis.pour(&key, SystemTime::now()).await;
                match self.decide(poured.map_err(|error| error.to_string())) {
                    Ok(0) => None,
                    Ok(wait_ns) => {
                        wait(wait_ns).await;
                        None
                    }
                    Err(reply) => reply,
                }
            }));
        }
        key.extend_from_slice(NAMESPACE);
        let poured = host.counters.limit_req.pour(&key, self.interval_ns, self.longest_wait_ns, (host.now)());
        let wait_ns = match self.decide(poured.map_err(|_| "no room for a new bucket".to_owned())) {
            Ok(wait_ns) => wait_ns,
            Err(reply) => return step(reply),
        };
        if wait_ns == 0 {
            return Step::Next;
        }
        Step::Wait(Box::pin(async move {
            wait(wait_ns).await;
            None
        }))
    }
}

async fn wait(wait_ns: u64) {
    reactor::sleep(u32::try_from(wait_ns.div_ceil(1_000_000)).unwrap_or(u32::MAX)).await;
}

impl LimitReq {
    /// What the bucket's word means: how long to wait, or what to answer.
    fn decide(&self, poured: Result<Option<u64>, String>) -> Result<u64, Option<exchange::Reply>> {
        match poured {
            Ok(Some(wait_ns)) if self.nodelay || wait_ns < SHORTEST_WAIT_NS => Ok(0),
            Ok(Some(wait_ns)) => Ok(wait_ns),
            Ok(None) => Err(Some(self.refusal.reply())),
            Err(error) => {
                log::error!("failed to limit req: {error}");
                Err(self.refusal.failed(exchange::Reply::page(500)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugin::counters::Counters;
    use crate::plugins::kit::test;

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        for (conf, error) in [
            (json!({"burst": 0, "key": "remote_addr"}), "property \"rate\" is required"),
            (
                json!({"rate": 0, "burst": 0, "key": "remote_addr"}),
                "property \"rate\" validation failed: expected 0 to be greater than 0",
            ),
            (
                json!({"rate": 1, "burst": 0, "key": "a", "rejected_msg": true}),
                "property \"rejected_msg\" validation failed: wrong type: expected string, got boolean",
            ),
            (json!({"rate": 1, "burst": 0, "key": "a", "policy": "redis"}), "then clause did not match"),
            (
                json!({"rate": 1, "burst": 0, "key": "a", "policy": "redis-cluster"}),
                "else clause did not match",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    /// What becomes of a request: `on`, `waits`, or a status.
    fn ask(plugin: &Rc<dyn Plugin>, host: &Host, headers: &str) -> String {
        let mut ex = test::exchange(&format!("GET / HTTP/1.1\nHost: a\n{headers}"));
        match plugin.access(&mut ex, host) {
            Step::Next => "on".into(),
            Step::Wait(_) => "waits".into(),
            Step::Reply(reply) => reply.status.to_string(),
        }
    }

    #[test]
    fn requests_above_the_rate_wait_or_are_refused() {
        let host = test::host();
        let conf = json!({"rate": 2, "burst": 2, "key": "remote_addr", "rejected_code": 429});
        let plugin = test::build(&SPEC, &host, conf);
        let asked = [(); 4].map(|()| ask(&plugin, &host, ""));
        assert_eq!(asked, ["on", "waits", "waits", "429"]);
        test::pass(Duration::from_millis(500));
        assert_eq!([(); 2].map(|()| ask(&plugin, &host, "")), ["waits", "429"]);
        test::pass(Duration::from_secs(2));
        assert_eq!(ask(&plugin, &host, ""), "on");
    }

    #[test]
    fn without_a_burst_or_a_delay_nobody_waits() {
        let host = test::host();
        let conf = |burst: u32| json!({"rate": 0.5, "burst": burst, "key": "http_a", "nodelay": true});
        let strict = test::build(&SPEC, &host, conf(0));
        let asked = ["a: 1", "a: 1", "a: 2", ""].map(|headers| ask(&strict, &host, headers));
        assert_eq!(asked, ["on", "503", "on", "on"], "counted by key");
        let lenient = test::build(&SPEC, &host, conf(1));
        assert_eq!([(); 3].map(|()| ask(&lenient, &host, "a: 1")), ["on", "on", "503"]);
        test::pass(Duration::from_millis(1999));
        assert_eq!(ask(&strict, &host, "a: 1"), "503");
        test::pass(Duration::from_millis(1));
        assert_eq!(ask(&strict, &host, "a: 1"), "on");
    }

    #[test]
    fn fails_as_allow_degradation_says() {
        let mut host = test::host();
        Rc::get_mut(&mut host).unwrap().counters.limit_req = Arc::new(Counters::new(1, Instant::now()));
        let conf =
            |lenient: bool| json!({"rate": 0.01, "burst": 0, "key": "http_a", "allow_degradation": lenient});
        let plugin = test::build(&SPEC, &host, conf(false));
        let asked: Vec<_> = (0..9).map(|i| ask(&plugin, &host, &format!("a: {i}"))).collect();
        assert_eq!((&*asked[7], &*asked[8]), ("on", "500"));
        assert_eq!(ask(&test::build(&SPEC, &host, conf(true)), &host, "a: 10"), "on");
    }
}
