//! `sync_interval`: requests are counted on this node, over all its cores, and Redis is told every so often
//! (limit-count/delayed-syncer.lua).
//!
//! What Redis said last is kept with the time at which its window ends; what was let through since then is the
//! difference that it does not know of yet. Both are node-wide counters, so that the cores let no more through
//! together than one would.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::SystemTime;

use ahash::AHashMap;

use super::redis;
use super::window::{self, Verdict};
use crate::client::redis::Client;
use crate::plugin::counters::{Counters, Full};
use crate::{limits, reactor};

/// What the counters' keys end in.
const REMOTE: &[u8] = b"\0limit-count remote";
const DELTA: &[u8] = b"\0limit-count delta";
const LOCK: &[u8] = b"\0limit-count lock";
const FALLBACK: &[u8] = b"\0limit-count fallback";

/// How long one core may take to tell Redis before another does, ms.
const LOCK_MS: u64 = 2_000;

/// One limit as a request meets it.
#[derive(Clone, Copy)]
pub struct Limit {
    /// So many requests…
    pub count: u64,
    /// … in this time.
    pub window_ms: u64,
    /// `window_type: sliding`
    pub sliding: bool,
}

/// The keys of one plugin on one core that Redis is to be told of.
pub struct Delayed {
    interval_ms: u32,
    redis: Rc<Client>,
    counters: std::sync::Arc<Counters>,
    now: fn() -> std::time::Instant,
    pending: RefCell<AHashMap<Vec<u8>, Limit>>,
    /// The next time to tell is set.
    waiting: Cell<bool>,
}

impl Delayed {
    /// `interval_s` is `sync_interval`.
    pub fn new(interval_s: f64, redis: Rc<Client>, host: &crate::plugin::Host) -> Rc<Delayed> {
        Rc::new(Delayed {
            interval_ms: (interval_s * 1000.0) as u32,
            redis,
            counters: host.counters.limit_count.clone(),
            now: host.now,
            pending: RefCell::default(),
            waiting: Cell::new(false),
        })
    }

    /// Is a window long enough for it? One that is not is counted on Redis at once.
    pub fn fits(&self, window_ms: u64) -> bool {
        window_ms > u64::from(self.interval_ms)
    }

    /// Counts one request.
    pub async fn count(self: &Rc<Self>, key: &[u8], limit: Limit) -> Result<Verdict, Full> {
        let (remaining, left_ms) = loop {
            if let Some(known) = self.remote(key) {
                break known;
            }
            if !self.tell(key, limit).await? {
                reactor::sleep(limits::NAME_TICK_MS).await; // another core is asking
            }
        };
        let now = (self.now)();
        let below = |delta: u32| u64::from(delta) < remaining;
        let delta_key = [key, DELTA].concat();
        let (accepted, delta, _) = self.counters.add_if(&delta_key, 1, 2 * limit.window_ms, now, below)?;
        self.remember(key, limit);
        let remaining = if accepted { remaining as i64 - i64::from(delta) } else { 0 };
        Ok(Verdict { accepted, remaining: remaining.max(0), reset_cs: left_ms / 10 })
    }

    /// What Redis said was left, and for how long that holds, ms.
    fn remote(&self, key: &[u8]) -> Option<(u64, u64)> {
        let (value, left_ms) = self.counters.lasting(&[key, REMOTE].concat(), (self.now)())?;
        Some((u64::from(value) - 1, left_ms)) // 0 left is 1: a counter of 0 is none
    }

    /// Redis is told of `key` when the interval is over.
    fn remember(self: &Rc<Self>, key: &[u8], limit: Limit) {
        let mut pending = self.pending.borrow_mut();
        if pending.len() >= limits::DELAYED_KEYS && !pending.contains_key(key) {
            return; // its difference stays, and goes with the next request that finds a place
        }
        pending.insert(key.to_vec(), limit);
        if !self.waiting.replace(true) {
            let own = self.clone();
            reactor::spawn(async move {
                reactor::sleep(own.interval_ms).await;
                own.waiting.set(false);
                for (key, limit) in own.pending.take() {
                    let _ = own.tell(&key, limit).await; // no room: told with the next request
                }
            });
        }
    }

    /// Tells Redis the difference and learns what is left; without Redis the node counts for itself. `Ok(false)`: another
    /// core is doing it.
    async fn tell(&self, key: &[u8], limit: Limit) -> Result<bool, Full> {
        let suffixed = |suffix: &[u8]| [key, suffix].concat();
        let lock = suffixed(LOCK);
        if !self.counters.add_if(&lock, 1, LOCK_MS, (self.now)(), |taken| taken == 0)?.0 {
            return Ok(false);
        }
        let delta = self.counters.get(&suffixed(DELTA), (self.now)());
        let said = match limit.sliding {
            true => {
                redis::commit_sliding(
                    &self.redis,
                    key,
                    limit.count,
                    limit.window_ms,
                    delta,
                    SystemTime::now(),
                )
                .await
            }
            false => redis::fixed(&self.redis, key, limit.count, limit.window_ms, u64::from(delta)).await,
        };
        let now = (self.now)();
        let said = match said {
            Ok(verdict) => verdict,
            Err(error) => {
                log::error!("sync to redis failed: {error}");
                window::fixed(&self.counters, &suffixed(FALLBACK), limit.count, limit.window_ms, delta, now)?
            }
        };
        let remaining = if said.accepted { said.remaining.max(0) } else { 0 };
        let remaining = u32::try_from(remaining).unwrap_or(u32::MAX - 2) + 1;
        self.counters.set(&suffixed(REMOTE), remaining, (said.reset_cs * 10).max(1), now)?;
        self.counters.take(&suffixed(DELTA), delta, now);
        self.counters.forget(&lock, now);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::redis::Conf;
    use crate::plugins::kit::test;

    #[test]
    fn so_many_keys_wait_to_be_told_and_no_more() {
        crate::reactor::block_on(Default::default(), |_| async {
            let host = test::host();
            let conf = json!({"policy": "redis", "redis_host": "127.0.0.1", "redis_port": 1});
            let redis = host.outbound.redis.get(Conf::of(&conf).unwrap().unwrap(), &host.outbound);
            let delayed = Delayed::new(3600.0, redis, &host);
            let limit = Limit { count: 1, window_ms: 60_000, sliding: false };
            for number in 0..limits::DELAYED_KEYS + 5 {
                delayed.remember(&number.to_be_bytes(), limit);
            }
            assert_eq!(delayed.pending.borrow().len(), limits::DELAYED_KEYS);
            // one that waits already is told of what came last
            delayed.remember(&0_usize.to_be_bytes(), Limit { count: 2, ..limit });
            assert_eq!(delayed.pending.borrow()[&0_usize.to_be_bytes()[..]].count, 2);
        })
        .unwrap();
    }
}
