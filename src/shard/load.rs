//! What cores tell each other about themselves: live connections, and the revision they run.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use crate::limits;
use crate::mail::ToCore;
use crate::reactor::Sender;

/// One core as the others see it. Written by that core alone.
#[repr(align(128))] // a cache line pair each: neighbours do not disturb each other
struct Seen {
    connections: AtomicU32,
    revision: AtomicI64,
}

/// All cores.
pub struct Loads {
    seen: Box<[Seen]>,
    mail: Box<[Sender<ToCore>]>,
}

impl Loads {
    /// One mailbox a core.
    pub fn new(mail: Vec<Sender<ToCore>>) -> Self {
        let seen = mail.iter().map(|_| Seen { connections: AtomicU32::new(0), revision: AtomicI64::new(0) });
        Loads { seen: seen.collect(), mail: mail.into() }
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.seen.len()
    }

    /// A core's mailbox.
    pub fn mail(&self, core: usize) -> &Sender<ToCore> {
        &self.mail[core]
    }

    /// A core says how many connections it has.
    pub fn set_connections(&self, core: usize, connections: u32) {
        self.seen[core].connections.store(connections, Ordering::Relaxed);
    }

    /// Live connections of a core.
    pub fn connections(&self, core: usize) -> u32 {
        self.seen[core].connections.load(Ordering::Relaxed)
    }

    /// A core has applied the configuration up to `revision`.
    pub fn applied(&self, core: usize, revision: i64) {
        self.seen[core].revision.store(revision, Ordering::Release);
    }

    /// What a core runs.
    pub fn revision(&self, core: usize) -> i64 {
        self.seen[core].revision.load(Ordering::Acquire)
    }

    /// The revision that every core has reached.
    pub fn slowest_revision(&self) -> i64 {
        (0..self.cores()).map(|core| self.revision(core)).min().unwrap_or(0)
    }

    /// Where a fresh connection of `core` goes, if not to itself: to the least loaded core, once `core` has
    /// clearly more live connections than the mean.
    pub fn better_core(&self, core: usize) -> Option<usize> {
        if self.cores() < 2 {
            return None;
        }
        let own = self.connections(core);
        let mut total = 0;
        let mut least = (core, own);
        for other in 0..self.cores() {
            let connections = self.connections(other);
            total += connections;
            if connections < least.1 {
                least = (other, connections);
            }
        }
        let mean = total / self.cores() as u32;
        let clearly_more = own > mean + mean / 8 + limits::LOAD_SLACK;
        (clearly_more && least.0 != core).then_some(least.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(connections: &[u32]) -> Loads {
        let loads = Loads::new(connections.iter().map(|_| crate::reactor::mailbox(1).0).collect());
        for (core, n) in connections.iter().enumerate() {
            loads.set_connections(core, *n);
        }
        loads
    }

    #[test]
    fn a_clearly_fuller_core_hands_over_to_the_emptiest() {
        for (connections, core, expected) in [
            (&[500, 100][..], 0, Some(1)),
            (&[500, 100], 1, None),
            (&[110, 100], 0, None),
            (&[4, 0], 0, None),
            (&[400, 100, 50, 90], 0, Some(2)),
            (&[400], 0, None),
        ] {
            assert_eq!(loads(connections).better_core(core), expected, "{connections:?} {core}");
        }
    }

    #[test]
    fn all_cores_have_a_revision_when_the_slowest_has() {
        let loads = loads(&[0, 0]);
        loads.applied(0, 7);
        assert_eq!(loads.slowest_revision(), 0);
        loads.applied(1, 5);
        assert_eq!(loads.slowest_revision(), 5);
    }
}
