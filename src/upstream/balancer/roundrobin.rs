//! Weighted round robin with the sequence of lua-resty-balancer's roundrobin.lua.
//!
//! The nodes are walked in a circle; a node is taken while its weight reaches the current threshold, which
//! begins at the largest weight and falls by the weights' greatest common divisor each time round. So one
//! cycle of Σ weight ÷ gcd picks takes each node weight ÷ gcd times, and equal weights are a plain circle.
//! The start is random, so that cores do not all begin at the first node.

use super::{Member, weighted};

/// One priority level of a round-robin upstream.
pub struct RoundRobin {
    members: Box<[Member]>,
    gcd: u32,
    max_weight: u32,
    threshold: u32,
    /// Where the walk goes on.
    next: usize,
}

impl RoundRobin {
    /// `members` must not be empty.
    pub fn new(members: Box<[Member]>, rng: &mut fastrand::Rng) -> Self {
        let members = weighted(members);
        let gcd = members.iter().fold(0, |gcd, m| greatest_common_divisor(gcd, m.weight));
        let max_weight = members.iter().map(|m| m.weight).max().unwrap_or(0);
        let next = rng.usize(..=members.len());
        RoundRobin { members, gcd, max_weight, threshold: max_weight, next }
    }

    /// The next node for which `open` holds.
    pub fn pick(&mut self, open: impl Fn(usize) -> bool) -> Option<usize> {
        // No threshold above the heaviest open member can pick one: they are stepped over at once.
        let top = self.members.iter().filter(|m| open(m.node)).map(|m| m.weight).max()?;
        loop {
            let rest = &self.members[self.next..];
            if let Some(step) = rest.iter().position(|m| m.weight >= self.threshold && open(m.node)) {
                let node = rest[step].node;
                self.next += step + 1;
                return Some(node);
            }
            let lower = self.threshold.saturating_sub(self.gcd);
            self.threshold = if lower == 0 { self.max_weight } else { lower }.min(top);
            self.next = 0;
        }
    }
}

/// Euclid's algorithm; gcd(0, x) is x.
pub fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
