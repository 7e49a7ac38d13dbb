//! Node-wide counters: limits are a node's, so they are exact over all cores. The one deliberate exception
//! to shared-nothing.
//!
//! A table of atomics for each plugin, eight places to a bucket. A key that is there is found and changed without a lock;
//! only a new key takes its bucket's lock, and only an expired counter gives its place up. So a flood of
//! fresh keys never resets another's limit: when a bucket is full of live counters, the new key is refused
//! (and counted), and the plugin does what its `allow_degradation` says. Other plugins do not feel it.
//!
//! Why atomics and not an owner core by key hash: one exchange through another core's mailbox costs two
//! wake-ups, some microseconds; a contended compare-and-swap costs about a tenth of one.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use crate::limits;

/// Hundredths of a second: the resolution of `X-RateLimit-Reset`.
const TICK_MS: u64 = 10;
/// The same in nanoseconds.
const TICK_NS: u64 = TICK_MS * 1_000_000;
/// Ticks that a counter can last, 248 days: half of what is told apart when ticks overflow, less one for rounding.
const LONGEST_WINDOW: u32 = u32::MAX / 2 - 1;
/// A place whose key is being replaced.
const TAKEN: u64 = u64::MAX;
const WAYS: usize = 8;

/// A counter with its end: both change in one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// What was counted.
    pub value: u32,
    /// When it ends, in ticks of the table's clock.
    ends: u32,
}

#[derive(Default)]
struct Place {
    key: [AtomicU64; 2],
    /// `ends` above, `value` below; 0 has never been used.
    state: AtomicU64,
}

#[derive(Default)]
struct Bucket {
    places: [Place; WAYS],
    new_key: Mutex<()>,
}

/// The counters of each plugin, apart from each other as in APISIX (the shared dictionaries `plugin-limit-count` and so
/// on): no flood of keys in one of them leaves another without room.
#[derive(Clone, Default)]
pub struct Tables {
    /// Those of `api-breaker`.
    pub api_breaker: Arc<Counters>,
    /// Those of `limit-conn`.
    pub limit_conn: Arc<Counters>,
    /// Those of `limit-count`, also where a `workflow` runs it.
    pub limit_count: Arc<Counters>,
    /// Those of `limit-req`.
    pub limit_req: Arc<Counters>,
}

impl Tables {
    /// As [`Counters::new`], each of them.
    pub fn new(buckets: usize, began: Instant) -> Tables {
        let table = || Arc::new(Counters::new(buckets, began));
        Tables { api_breaker: table(), limit_conn: table(), limit_count: table(), limit_req: table() }
    }
}

/// One table. It takes no memory before its first key.
pub struct Counters {
    buckets: OnceLock<Box<[Bucket]>>,
    /// How many, a power of two.
    size: usize,
    hashers: [ahash::RandomState; 2],
    began: Instant,
    refused: AtomicU64,
}

/// No place for a new key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl Default for Counters {
    fn default() -> Self {
        Counters::new(limits::COUNTER_BUCKETS, Instant::now())
    }
}

impl Counters {
    /// A table of `buckets` × 8 counters (a power of two) whose clock begins at `began`.
    pub fn new(buckets: usize, began: Instant) -> Self {
        Counters {
            buckets: OnceLock::new(),
            size: buckets.next_power_of_two(),
            hashers: [ahash::RandomState::new(), ahash::RandomState::new()],
            began,
            refused: AtomicU64::new(0),
        }
    }

    /// Adds `cost` to the counter of `key`, which starts at 0 and ends `window_ms` after its first use.
    /// Returns what it is now, and how long it lasts, in ms.
    pub fn add(&self, key: &[u8], cost: u32, window_ms: u64, now: Instant) -> Result<(u32, u64), Full> {
        let (_, value, left_ms) = self.add_if(key, cost, window_ms, now, |_| true)?;
        Ok((value, left_ms))
    }

    /// As [`Counters::add`], but only where `accepts` what the counter is before: in one step with it.
    /// Says whether it did.
    pub fn add_if(
        &self,
        key: &[u8],
        cost: u32,
        window_ms: u64,
        now: Instant,
        accepts: impl Fn(u32) -> bool,
    ) -> Result<(bool, u32, u64), Full> {
        let now_tick = self.tick(now);
        let window = window_ticks(window_ms);
        let accepted = Cell::new(false);
        let count = self.update(key, now_tick, |count| {
            let count = count.unwrap_or(Count { value: 0, ends: now_tick.wrapping_add(window) });
            accepted.set(accepts(count.value));
            let cost = if accepted.get() { cost } else { 0 };
            Count { value: count.value.saturating_add(cost), ..count }
        })?;
        Ok((accepted.get(), count.value, u64::from(count.ends.wrapping_sub(now_tick)) * TICK_MS))
    }

    /// Adds to the counter of `key`, which ends `window_ms` after its last use. Returns what it is now.
    pub fn prolong(&self, key: &[u8], cost: u32, window_ms: u64, now: Instant) -> Result<u32, Full> {
        let now_tick = self.tick(now);
        let ends = now_tick.wrapping_add(window_ticks(window_ms));
        let count = self.update(key, now_tick, |count| {
            let value = count.map_or(0, |count| count.value);
            Count { value: value.saturating_add(cost), ends }
        })?;
        Ok(count.value)
    }

    /// Makes the counter of `key` be `value` for `window_ms` from now.
    pub fn set(&self, key: &[u8], value: u32, window_ms: u64, now: Instant) -> Result<(), Full> {
        let now_tick = self.tick(now);
        let ends = now_tick.wrapping_add(window_ticks(window_ms));
        self.update(key, now_tick, |_| Count { value, ends }).map(|_| ())
    }

    /// Ends the counter of `key`, if there is one.
    pub fn forget(&self, key: &[u8], now: Instant) {
        let (print, ends) = (self.print(key), self.tick(now));
        if let Some(bucket) = self.bucket(print) {
            bucket.change(print, ends, &|_| Count { value: 0, ends });
        }
    }

    /// Takes a place among at most `most`, until [`Counters::leave`]. Returns how many are taken now;
    /// `Ok(None)`: all are. Taken places are kept for 248 days.
    pub fn enter(&self, key: &[u8], most: u32, now: Instant) -> Result<Option<u32>, Full> {
        if most == 0 {
            return Ok(None); // a counter begins with somebody
        }
        let now_tick = self.tick(now);
        let ends = now_tick.wrapping_add(LONGEST_WINDOW);
        let accepted = Cell::new(false);
        let count = self.update(key, now_tick, |count| {
            let taken = count.map_or(0, |count| count.value);
            accepted.set(taken < most);
            Count { value: if accepted.get() { taken + 1 } else { taken }, ends }
        })?;
        Ok(accepted.get().then_some(count.value))
    }

    /// Gives a place back. The last one ends the counter, so that a new key may have its room.
    pub fn leave(&self, key: &[u8], now: Instant) {
        let now_tick = self.tick(now);
        let print = self.print(key);
        let Some(bucket) = self.bucket(print) else { return };
        bucket.change(print, now_tick, &|count| {
            let value = count.map_or(0, |count| count.value.saturating_sub(1));
            let window = if value == 0 { 0 } else { LONGEST_WINDOW };
            Count { value, ends: now_tick.wrapping_add(window) }
        });
    }

    /// A leaky bucket: each request pours `interval_ns` of time into it, and it empties as time goes by. Returns how
    /// much was in it before, which is how long the request should wait; `Ok(None)`: more than `most_ns`, and
    /// nothing was poured.
    ///
    /// What is in the bucket is the time until it is empty. That moment is its state: `ends`, rounded up to a tick,
    /// and in `value` the nanoseconds by which it was rounded.
    pub fn pour(
        &self,
        key: &[u8],
        interval_ns: u64,
        most_ns: u64,
        now: Instant,
    ) -> Result<Option<u64>, Full> {
        let now_ns = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        let now_tick = self.tick(now);
        let longest_ns = u64::from(LONGEST_WINDOW) * TICK_NS;
        let before = Cell::new(0);
        self.update(key, now_tick, |count| {
            let into_tick_ns = now_ns % TICK_NS;
            let level_ns = count.map_or(0, |count| {
                let until_tick_ns = u64::from(count.ends.wrapping_sub(now_tick)) * TICK_NS;
                until_tick_ns.saturating_sub(u64::from(count.value) + into_tick_ns)
            });
            before.set(level_ns);
            if let Some(count) = count.filter(|_| level_ns > most_ns) {
                return count;
            }
            let empty_in_ns = level_ns.saturating_add(interval_ns).min(longest_ns) + into_tick_ns;
            let ticks = empty_in_ns.div_ceil(TICK_NS);
            let value = (ticks * TICK_NS - empty_in_ns) as u32;
            Count { value, ends: now_tick.wrapping_add(ticks as u32) }
        })?;
        Ok(Some(before.get()).filter(|level_ns| *level_ns <= most_ns))
    }

    /// Takes so much from the counter of `key` as was there before; it lasts as long as it did.
    pub fn take(&self, key: &[u8], amount: u32, now: Instant) {
        let print = self.print(key);
        let now_tick = self.tick(now);
        let Some(bucket) = self.bucket(print) else { return };
        bucket.change(print, now_tick, &|count| match count {
            Some(count) => Count { value: count.value.saturating_sub(amount), ..count },
            None => Count { value: 0, ends: now_tick },
        });
    }

    /// The counter of `key` and how long it lasts, ms; `None` if there is none.
    pub fn lasting(&self, key: &[u8], now: Instant) -> Option<(u32, u64)> {
        let (print, now_tick) = (self.print(key), self.tick(now));
        let count = self.bucket(print)?.get(print, now_tick).filter(|count| count.value > 0)?;
        Some((count.value, u64::from(count.ends.wrapping_sub(now_tick)) * TICK_MS))
    }

    /// What the counter of `key` is; 0 if there is none.
    pub fn get(&self, key: &[u8], now: Instant) -> u32 {
        let print = self.print(key);
        let count = self.bucket(print).and_then(|bucket| bucket.get(print, self.tick(now)));
        count.map_or(0, |count| count.value)
    }

    /// The clock that all cores share: ms since the table was made.
    pub fn age_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    /// New keys that found no place.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn tick(&self, now: Instant) -> u32 {
        (self.age_ms(now) / TICK_MS) as u32
    }

    fn print(&self, key: &[u8]) -> [u64; 2] {
        self.hashers.each_ref().map(|hasher| {
            let mut state = hasher.build_hasher();
            state.write(key);
            state.finish()
        })
    }

    /// Where a key would be. `None`: there has never been any.
    fn bucket(&self, print: [u64; 2]) -> Option<&Bucket> {
        self.buckets.get().map(|buckets| &buckets[print[0] as usize & (self.size - 1)])
    }

    /// Where a key is put.
    fn bucket_made(&self, print: [u64; 2]) -> &Bucket {
        let made = || (0..self.size).map(|_| Bucket::default()).collect();
        &self.buckets.get_or_init(made)[print[0] as usize & (self.size - 1)]
    }

    /// Changes one counter in one step; `change` may be called more than once.
    fn update(&self, key: &[u8], now: u32, change: impl Fn(Option<Count>) -> Count) -> Result<Count, Full> {
        let print = self.print(key);
        let bucket = self.bucket_made(print);
        if let Some(count) = bucket.change(print, now, &change) {
            return Ok(count);
        }
        let _guard = bucket.new_key.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(count) = bucket.change(print, now, &change) {
            return Ok(count); // another core was faster
        }
        let count = bucket.insert(print, now, &change);
        if count.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        count.ok_or(Full)
    }
}

impl Place {
    /// Its state, if it is this key's. The key is read after the state: while the state stays what it was, so does the
    /// key, because a place changes its key only by way of [`TAKEN`] and to a state that ends later. So whoever finds
    /// the state unchanged afterwards knows that the key was its own.
    fn state_of(&self, print: [u64; 2]) -> Option<u64> {
        loop {
            let state = self.state.load(Ordering::Acquire);
            let same = self.key[0].load(Ordering::Acquire) == print[0]
                && self.key[1].load(Ordering::Acquire) == print[1];
            if state != TAKEN {
                return Some(state).filter(|state| same && *state != 0);
            }
            std::hint::spin_loop();
        }
    }
}

impl Bucket {
    /// The counter of a key that is there and has not ended.
    fn get(&self, print: [u64; 2], now: u32) -> Option<Count> {
        let read = |place: &Place| loop {
            let state = place.state_of(print)?;
            if place.state.load(Ordering::Acquire) == state {
                return Some(live(state, now));
            }
        };
        self.places.iter().find_map(read).flatten()
    }

    /// Changes the counter of a key that is there.
    fn change(&self, print: [u64; 2], now: u32, change: &impl Fn(Option<Count>) -> Count) -> Option<Count> {
        self.places.iter().find_map(|place| {
            loop {
                let state = place.state_of(print)?;
                let new = change(live(state, now));
                if place.state.compare_exchange(state, pack(new), Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    return Some(new);
                }
            }
        })
    }

    /// Gives a new key the place of an expired one. The caller holds the bucket's lock.
    fn insert(&self, print: [u64; 2], now: u32, change: &impl Fn(Option<Count>) -> Count) -> Option<Count> {
        for place in &self.places {
            let state = place.state.load(Ordering::Acquire);
            if live(state, now).is_some()
                || place.state.compare_exchange(state, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_err()
            {
                continue;
            }
            place.key[0].store(print[0], Ordering::Release);
            place.key[1].store(print[1], Ordering::Release);
            let new = change(None);
            place.state.store(pack(new), Ordering::Release);
            return Some(new);
        }
        None
    }
}

fn window_ticks(window_ms: u64) -> u32 {
    u32::try_from(window_ms.div_ceil(TICK_MS)).unwrap_or(LONGEST_WINDOW).clamp(1, LONGEST_WINDOW)
}

fn pack(count: Count) -> u64 {
    // value u32::MAX with ends u32::MAX would be TAKEN: the value stays below
    u64::from(count.ends) << 32 | u64::from(count.value.min(u32::MAX - 1))
}

/// The counter, if it has not ended: ticks are compared around their overflow (497 days).
fn live(state: u64, now: u32) -> Option<Count> {
    let count = Count { value: state as u32, ends: (state >> 32) as u32 };
    (state != 0 && (count.ends.wrapping_sub(now) as i32) > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_window_begins_with_its_first_use_and_ends() {
        let began = Instant::now();
        let counters = Counters::new(16, began);
        let at = |ms| began + Duration::from_millis(ms);
        assert_eq!(counters.add(b"a", 1, 1000, at(500)), Ok((1, 1000)));
        assert_eq!(counters.add(b"a", 2, 1000, at(700)), Ok((3, 800)));
        assert_eq!(counters.add(b"b", 1, 1000, at(700)), Ok((1, 1000)));
        assert_eq!(counters.add(b"a", 1, 1000, at(1499)), Ok((4, 10)));
        assert_eq!(counters.add(b"a", 1, 1000, at(1500)), Ok((1, 1000)));
    }

    #[test]
    fn a_table_takes_memory_with_its_first_key_only() {
        let began = Instant::now();
        let counters = Counters::new(16, began);
        counters.forget(b"a", began);
        counters.leave(b"a", began);
        counters.take(b"a", 1, began);
        assert_eq!((counters.get(b"a", began), counters.lasting(b"a", began)), (0, None));
        assert!(counters.buckets.get().is_none());
        assert_eq!(counters.add(b"a", 1, 1000, began), Ok((1, 1000)));
        assert_eq!((counters.get(b"a", began), counters.lasting(b"a", began)), (1, Some((1, 1000))));
    }

    #[test]
    fn adds_only_what_is_accepted() {
        let began = Instant::now();
        let counters = Counters::new(16, began);
        let below_two = |value| value < 2;
        let accepted: Vec<_> =
            (0..3).map(|_| counters.add_if(b"a", 1, 1000, began, below_two).unwrap().0).collect();
        assert_eq!(accepted, [true, true, false]);
        assert_eq!((counters.get(b"a", began), counters.get(b"b", began)), (2, 0));
        let later = began + Duration::from_millis(1000);
        assert_eq!((counters.get(b"a", later), counters.get(b"a", later)), (0, 0));
        assert_eq!(counters.add(b"a", 1, 1000, later), Ok((1, 1000)));
    }

    #[test]
    fn a_bucket_leaks() {
        let began = Instant::now();
        let counters = Counters::new(16, began);
        let at = |us| {
            let now = began + Duration::from_micros(us);
            counters.pour(b"k", 500_000_000, 1_000_000_000, now).unwrap().map(|level_ns| level_ns / 1000)
        };
        // two a second, and two more may wait
        assert_eq!(at(3), Some(0), "the first never waits");
        assert_eq!(at(3), Some(500_000));
        assert_eq!(at(3), Some(1_000_000));
        assert_eq!(at(3), None);
        assert_eq!(at(250_003), None);
        assert_eq!(at(500_003), Some(1_000_000));
        assert_eq!(at(1_999_999), Some(4));
        assert_eq!(at(3_000_000), Some(0));
        assert_eq!(at(3_000_000), Some(500_000));
    }

    #[test]
    fn a_fast_bucket_is_exact_below_a_tick() {
        let began = Instant::now();
        let counters = Counters::new(16, began);
        let passed = (0..100_000u64).filter(|us| {
            let now = began + Duration::from_micros(*us);
            counters.pour(b"k", 10_000, 0, now).unwrap().is_some()
        });
        assert_eq!(passed.count(), 10_000, "one every 10 us");
    }

    #[test]
    fn places_are_taken_and_given_back() {
        let began = Instant::now();
        let counters = Counters::new(1, began);
        let later = began + Duration::from_secs(3600);
        let enter = |now| counters.enter(b"k", 2, now).unwrap();
        assert_eq!([enter(began), enter(later), enter(later)], [Some(1), Some(2), None]);
        counters.leave(b"k", later);
        assert_eq!([enter(later), enter(later)], [Some(2), None]);
        counters.leave(b"k", later);
        counters.leave(b"k", later);
        counters.leave(b"k", later);
        assert_eq!(counters.get(b"k", later), 0);
        assert_eq!(counters.enter(b"other", 0, later), Ok(None));
        for key in 0..8u8 {
            assert_eq!(counters.enter(&[key], 1, later), Ok(Some(1)), "a counter of nobody gives way");
        }
    }

    #[test]
    fn prolonged_set_and_ended() {
        let began = Instant::now();
        let counters = Counters::new(16, began);
        let at = |ms| began + Duration::from_millis(ms);
        assert_eq!(counters.prolong(b"k", 1, 1000, at(0)), Ok(1));
        assert_eq!(counters.prolong(b"k", 1, 1000, at(900)), Ok(2));
        assert_eq!(counters.get(b"k", at(1800)), 2);
        assert_eq!(counters.get(b"k", at(1900)), 0);
        counters.set(b"k", 7, 1000, at(2000)).unwrap();
        assert_eq!(counters.get(b"k", at(2500)), 7);
        counters.forget(b"k", at(2500));
        assert_eq!(counters.get(b"k", at(2500)), 0);
    }

    #[test]
    fn a_flood_of_fresh_keys_resets_nobody() {
        let began = Instant::now();
        let counters = Counters::new(4, began);
        counters.add(b"mine", 7, 60_000, began).unwrap();
        let refused =
            (0..1000).filter(|i: &u32| counters.add(&i.to_le_bytes(), 1, 60_000, began).is_err()).count();
        assert!(refused >= 1000 - 31, "{refused}");
        assert_eq!(counters.refused(), refused as u64);
        assert_eq!(counters.add(b"mine", 1, 60_000, began).unwrap().0, 8);
        let later = began + Duration::from_secs(61);
        assert_eq!(counters.add(b"fresh", 1, 60_000, later).unwrap().0, 1);
    }

    #[test]
    fn all_cores_together_count_exactly() {
        let began = Instant::now();
        let counters = Counters::new(2, began);
        let keys: Vec<[u8; 1]> = (0..6).map(|i| [i]).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..10_000 {
                        counters.add(&keys[round % keys.len()], 1, 600_000, began).unwrap();
                    }
                });
            }
        });
        let total: u32 = keys.iter().map(|key| counters.add(key, 0, 600_000, began).unwrap().0).sum();
        assert_eq!(total, 40_000);
    }
}
