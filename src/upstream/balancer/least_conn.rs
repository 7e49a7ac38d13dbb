//! The node with the fewest requests in flight for its weight: smallest (1 + in flight) ÷ weight, as
//! apisix/balancer/least_conn.lua. Equal nodes take turns. A node of weight 0 scores worst of all, so it
//! is the last resort.

use std::cell::Cell;
use std::rc::Rc;

use super::{Member, Tracked, track};

/// One priority level of a least-connections upstream.
pub struct LeastConn {
    members: Box<[Tracked<u32>]>,
    /// Where the next search starts.
    turn: usize,
}

impl LeastConn {
    /// `connections` are the counts of the whole upstream, by node index.
    pub fn new(members: Box<[Member]>, connections: &[Rc<Cell<u32>>]) -> Self {
        LeastConn { members: track(members, connections), turn: 0 }
    }

    /// The open node of the smallest score.
    pub fn pick(&mut self, open: impl Fn(usize) -> bool) -> Option<usize> {
        let (before, after) = self.members.split_at(self.turn);
        let mut best: Option<&Tracked<u32>> = None;
        for candidate in after.iter().chain(before).filter(|t| open(t.member.node)) {
            if best.is_none_or(|best| below(candidate, best)) {
                best = Some(candidate);
            }
        }
        self.turn = (self.turn + 1) % self.members.len();
        best.map(|t| t.member.node)
    }
}

/// Whether `a` scores below `b`, cross-multiplied so that weight 0 needs no division.
fn below(a: &Tracked<u32>, b: &Tracked<u32>) -> bool {
    let (a_load, b_load) = (1 + u64::from(a.state.get()), 1 + u64::from(b.state.get()));
    match (a.member.weight, b.member.weight) {
        (0, 0) => a_load < b_load,
        (a_weight, b_weight) => a_load * u64::from(b_weight) < b_load * u64::from(a_weight),
    }
}
