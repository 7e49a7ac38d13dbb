//! The two ways to count (limit-count-local.lua, sliding-window.lua). Both are exact over all cores.

use std::time::Instant;

use crate::plugin::counters::{Counters, Full};

/// What a window says to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// It may pass.
    pub accepted: bool,
    /// How many more may; 0 for a refused one.
    pub remaining: i64,
    /// Until the window ends (a sliding one: until a request may pass again), in hundredths of a second.
    pub reset_cs: u64,
}

/// A window begins with its first request, and refused requests count in it.
pub fn fixed(
    counters: &Counters,
    key: &[u8],
    limit: u64,
    window_ms: u64,
    cost: u32,
    now: Instant,
) -> Result<Verdict, Full> {
    let (count, left_ms) = counters.add(key, cost, window_ms, now)?;
    let remaining = limit as i64 - i64::from(count);
    Ok(Verdict { accepted: remaining >= 0, remaining: remaining.max(0), reset_cs: left_ms / 10 })
}

/// Windows follow each other, and the last one counts in this one as far as it still overlaps with the time
/// just past. Refused requests do not count. `key` is given back as it was.
pub fn sliding(
    counters: &Counters,
    key: &mut Vec<u8>,
    limit: u64,
    window_ms: u64,
    now: Instant,
) -> Result<Verdict, Full> {
    let (number, into_ms) = (counters.age_ms(now) / window_ms, counters.age_ms(now) % window_ms);
    let left_ms = (window_ms - into_ms) as f64;
    let end = key.len();
    key.extend_from_slice(&number.wrapping_sub(1).to_le_bytes());
    let last = u64::from(counters.get(key, now)).min(limit);
    key.truncate(end);

    let carried = last as f64 / window_ms as f64 * left_ms;
    let below = |count: u32| u64::from(count) < limit && carried + f64::from(count) < limit as f64;
    key.extend_from_slice(&number.to_le_bytes());
    let added = counters.add_if(key, 1, window_ms.saturating_mul(2), now, below);
    key.truncate(end);
    let (accepted, count, _) = added?;
    Ok(slid(accepted, f64::from(count), last as f64, limit as f64, window_ms as f64, left_ms))
}

/// What a sliding window says: `count` in this window, of which `left_ms` are left, and `last` in the one before.
pub fn slid(accepted: bool, count: f64, last: f64, limit: f64, window_ms: f64, left_ms: f64) -> Verdict {
    let (free, rate) = (limit - count, last / window_ms);
    let reset_ms = match accepted || free <= 0.0 || rate == 0.0 {
        true => left_ms,
        false => (left_ms - free / rate).max(0.0),
    };
    let remaining = if accepted { (free - rate * left_ms).floor() as i64 } else { 0 };
    Verdict { accepted, remaining, reset_cs: (reset_ms / 10.0).ceil() as u64 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_fixed_window_ends_as_a_whole() {
        let began = Instant::now();
        let counters = Counters::new(16, began);
        let at = |ms| {
            let verdict = fixed(&counters, b"k", 2, 1000, 1, began + Duration::from_millis(ms)).unwrap();
            (verdict.accepted, verdict.remaining, verdict.reset_cs)
        };
        assert_eq!(at(100), (true, 1, 100));
        assert_eq!(at(350), (true, 0, 75));
        assert_eq!(at(600), (false, 0, 50));
        assert_eq!(at(1100), (true, 1, 100));
    }

    #[test]
    fn a_sliding_window_remembers_the_last_one() {
        let began = Instant::now();
        let counters = Counters::new(16, began);
        let mut key = b"k".to_vec();
        let mut at = |ms| {
            let now = began + Duration::from_millis(ms);
            let verdict = sliding(&counters, &mut key, 4, 1000, now).unwrap();
            (verdict.accepted, verdict.remaining, verdict.reset_cs)
        };
        assert_eq!(at(500), (true, 3, 50));
        assert_eq!(at(500), (true, 2, 50));
        assert_eq!(at(500), (true, 1, 50));
        assert_eq!(at(501), (true, 0, 50));
        assert_eq!(at(501), (false, 0, 50));
        // 4 of the last window, 80 % of which still overlap: one fits
        assert_eq!(at(1200), (true, -1, 80));
        // refused: three are free at a rate of four a second, so 0.75 s before the window ends
        assert_eq!(at(1200), (false, 0, 5));
        assert_eq!(at(1500), (true, 0, 50));
        assert_eq!(at(4000), (true, 3, 100));
        assert_eq!(key, b"k");
    }
}
