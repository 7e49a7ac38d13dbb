//! Counting on Redis (limit-count/util.lua, sliding-window/store/redis.lua): the same keys and meaning as APISIX's, so
//! that both may count together.

use std::rc::Rc;
use std::sync::LazyLock;
use std::time::SystemTime;

use smallvec::SmallVec;

use super::window::{Verdict, slid};
use crate::client::redis::{Client, Error, Script};
use crate::wire::resp::Reply;

/// Adds ARGV[1] to a counter that begins with it and lasts ARGV[2] ms. Gives what it is, and how long it lasts.
static FIXED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return {tonumber(ARGV[1]), tonumber(ARGV[2])}
end
return {redis.call('INCRBY', KEYS[1], ARGV[1]), left}",
    )
});

/// Adds one to this window's counter if it and its share of the last window's (KEYS[2], or ARGV[5] on a cluster)
/// are below the limit. Gives whether it did, what it is, and what the last one is.
static SLIDING: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local limit, window, left = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local last = KEYS[2] and redis.call('GET', KEYS[2]) or ARGV[5]
last = math.min(tonumber(last) or 0, limit)
local count = tonumber(redis.call('GET', KEYS[1]) or 0)
if count >= limit or last / window * left + count >= limit then
  return {0, count, last}
end
count = redis.call('INCR', KEYS[1])
if count == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return {1, count, last}",
    )
});

/// Adds ARGV[1] to this window's counter, which lasts ARGV[2] ms. Gives what it is.
static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local count = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return count",
    )
});

/// What APISIX's keys begin with.
const PREFIX: &[u8] = b"plugin-limit-count:";

/// A window that begins with its first request.
pub async fn fixed(
    redis: &Rc<Client>,
    key: &[u8],
    limit: u64,
    window_ms: u64,
    cost: u64,
) -> Result<Verdict, Error> {
    let key = [PREFIX, b"v1:", key].concat();
    let (mut cost_text, mut window_text) = (itoa::Buffer::new(), itoa::Buffer::new());
    let args = [cost_text.format(cost).as_bytes(), window_text.format(window_ms).as_bytes()];
    let reply = redis.eval(&FIXED, &[&key], &args).await?;
    let [count, left_ms] = reply.items() else { return Err(malformed()) };
    let (count, left_ms) = count.number().zip(left_ms.number()).ok_or_else(malformed)?;
    let remaining = limit as i64 - count as i64;
    let reset_cs = (left_ms / 10.0) as u64;
    Ok(Verdict { accepted: remaining >= 0, remaining: remaining.max(0), reset_cs })
}

/// Windows that follow each other on the clock of the day, which all who use this Redis share.
pub async fn sliding(
    redis: &Rc<Client>,
    key: &[u8],
    limit: u64,
    window_ms: u64,
    now: SystemTime,
) -> Result<Verdict, Error> {
    let Windows { this, last, left_ms } = Windows::of(key, window_ms, now);
    let mut texts = [itoa::Buffer::new(); 4];
    let [most, whole, left, lasts] = &mut texts;
    let args = [
        most.format(limit),
        whole.format(window_ms),
        left.format(left_ms),
        lasts.format(window_ms.saturating_mul(2)),
    ];
    let [most, whole, left, lasts] = args.map(str::as_bytes);
    let reply = if redis.is_cluster() {
        // the two may lie on different nodes, and the last window's counter changes no more
        let last = redis.command(&last, &[b"GET", &last]).await?.number().unwrap_or(0.0).to_string();
        redis.eval(&SLIDING, &[&this], &[most, whole, left, lasts, last.as_bytes()]).await?
    } else {
        redis.eval(&SLIDING, &[&this, &last], &[most, whole, left, lasts]).await?
    };
    let numbers: SmallVec<[f64; 3]> = reply.items().iter().filter_map(Reply::number).collect();
    let [accepted, count, last] = *numbers else { return Err(malformed()) };
    Ok(slid(accepted == 1.0, count, last, limit as f64, window_ms as f64, left_ms as f64))
}

/// Adds requests that were let through already to a sliding window's counter. Gives what is left.
pub async fn commit_sliding(
    redis: &Rc<Client>,
    key: &[u8],
    limit: u64,
    window_ms: u64,
    cost: u32,
    now: SystemTime,
) -> Result<Verdict, Error> {
    let Windows { this, last, left_ms } = Windows::of(key, window_ms, now);
    let (cost, lasts) = (cost.to_string(), window_ms.saturating_mul(2).to_string());
    let count = redis.eval(&COMMIT, &[&this], &[cost.as_bytes(), lasts.as_bytes()]).await?;
    let count = count.number().ok_or_else(malformed)?;
    // the requests are recorded: what cannot be read of the last window must not make them count again
    let last = match redis.command(&last, &[b"GET", &last]).await {
        Ok(reply) => reply.number().unwrap_or(0.0).min(limit as f64),
        Err(error) => {
            log::error!("failed to get the last window count: {error}");
            0.0
        }
    };
    Ok(slid(true, count, last, limit as f64, window_ms as f64, left_ms as f64))
}

/// The counters of the window that a time is in, and of the one before.
struct Windows {
    this: Vec<u8>,
    last: Vec<u8>,
    left_ms: u64,
}

impl Windows {
    fn of(key: &[u8], window_ms: u64, now: SystemTime) -> Windows {
        let now_ms = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let number = now_ms / window_ms;
        let counter = |number: u64| {
            [PREFIX, key, b".", itoa::Buffer::new().format(number).as_bytes(), b".counter"].concat()
        };
        let (this, last) = (counter(number), counter(number.wrapping_sub(1)));
        Windows { this, last, left_ms: window_ms - now_ms % window_ms }
    }
}

fn malformed() -> Error {
    Error::Server("the script's answer is none".into())
}
