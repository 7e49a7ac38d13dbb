//! Weighted random choice. APISIX has no such balancer; its older documentation names one.

use super::{Member, weighted};

/// One priority level of a random upstream.
pub struct Random {
    members: Box<[Member]>,
}

impl Random {
    /// Takes the members of the level.
    pub fn new(members: Box<[Member]>) -> Self {
        Random { members: weighted(members) }
    }

    /// An open node, with a chance in proportion to its weight.
    pub fn pick(&self, open: impl Fn(usize) -> bool, rng: &mut fastrand::Rng) -> Option<usize> {
        // Equal shares where every weight is 0.
        let share = |m: &Member| u64::from(m.weight).max(u64::from(self.members[0].weight == 0));
        let open_members = || self.members.iter().filter(|m| open(m.node));
        let total: u64 = open_members().map(share).sum();
        if total == 0 {
            return None;
        }
        let mut ticket = rng.u64(..total);
        for member in open_members() {
            match ticket.checked_sub(share(member)) {
                Some(left) => ticket = left,
                None => return Some(member.node),
            }
        }
        None
    }
}
