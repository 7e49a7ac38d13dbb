//! Of two nodes drawn at random the one with the lower moving average of its latency, as
//! apisix/balancer/ewma.lua (after Finagle's PeakEwma): averages decay with a time constant of 10 s, so a
//! node that nobody asked for a while becomes attractive again. Weights count only as zero or not.

use std::cell::Cell;
use std::rc::Rc;

use super::{Member, Tracked, track, weighted};

/// Time constant of the decay (`DECAY_TIME` in ewma.lua).
const DECAY_MS: f64 = 10_000.0;

/// A moving average of latencies.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    average_ms: f64,
    touched_ms: u64,
}

impl Latency {
    /// The average after one more sample.
    pub fn with(self, sample_ms: u32, now_ms: u64) -> Latency {
        // A first sample must count in full: the process' clock may have begun just now.
        let old = if self.touched_ms == 0 { 0.0 } else { self.remaining(now_ms) };
        let average_ms = self.average_ms * old + f64::from(sample_ms) * (1.0 - old);
        Latency { average_ms, touched_ms: now_ms.max(1) }
    }

    /// The average as it stands now, decayed towards 0.
    fn score(self, now_ms: u64) -> f64 {
        self.average_ms * self.remaining(now_ms)
    }

    fn remaining(self, now_ms: u64) -> f64 {
        (-(now_ms.saturating_sub(self.touched_ms) as f64) / DECAY_MS).exp()
    }
}

/// One priority level of an ewma upstream.
pub struct Ewma {
    members: Box<[Tracked<Latency>]>,
}

impl Ewma {
    /// `latencies` are those of the whole upstream, by node index.
    pub fn new(members: Box<[Member]>, latencies: &[Rc<Cell<Latency>>]) -> Self {
        Ewma { members: track(weighted(members), latencies) }
    }

    /// The better of two open nodes.
    pub fn pick(&self, open: impl Fn(usize) -> bool, now_ms: u64, rng: &mut fastrand::Rng) -> Option<usize> {
        let open_members = || self.members.iter().filter(|t| open(t.member.node));
        let count = open_members().count();
        if count < 2 {
            return open_members().next().map(|t| t.member.node);
        }
        let first = rng.usize(..count);
        let second = (first + rng.usize(1..count)) % count;
        let (first, second) = (open_members().nth(first)?, open_members().nth(second)?);
        let better = first.state.get().score(now_ms) <= second.state.get().score(now_ms);
        Some(if better { first.member.node } else { second.member.node })
    }
}
