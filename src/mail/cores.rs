//! The cores as the rest of the process sees them: their mailboxes, and how many connections each has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::limits;
use crate::mail::ToCore;
use crate::reactor::Sender;

/// One core as the others see it. Written by that core alone.
#[repr(align(128))] // a cache line pair each: neighbours do not disturb each other
struct Seen {
    connections: AtomicU32,
}

/// All cores of the process.
pub struct Cores {
    seen: Box<[Seen]>,
    mail: Box<[Sender<ToCore>]>,
}

/// Cores that were started before those of now, and drain.
#[derive(Clone)]
pub struct Elder {
    /// Which start of the cores they are of.
    pub generation: u32,
    /// They themselves.
    pub cores: Arc<Cores>,
}

impl Cores {
    /// One mailbox a core.
    pub fn new(mail: Vec<Sender<ToCore>>) -> Self {
        let seen = mail.iter().map(|_| Seen { connections: AtomicU32::new(0) });
        Cores { seen: seen.collect(), mail: mail.into() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.seen.len()
    }

    /// A core's mailbox.
    pub fn mail(&self, core: usize) -> &Sender<ToCore> {
        &self.mail[core]
    }

    /// All are to end at once.
    pub fn end(&self) {
        for mail in &*self.mail {
            let _ = mail.try_send(ToCore::Drain { within_ms: 0, gently: false }); // one that is gone has ended
        }
    }

    /// Has each of them ended?
    pub fn are_gone(&self) -> bool {
        self.mail.iter().all(Sender::is_closed)
    }

    /// A core says how many connections it has.
    pub fn set_connections(&self, core: usize, connections: u32) {
        self.seen[core].connections.store(connections, Ordering::Relaxed);
    }

    /// Live connections of a core.
    pub fn connections(&self, core: usize) -> u32 {
        self.seen[core].connections.load(Ordering::Relaxed)
    }

    /// Where a fresh connection of `core` goes, if not to itself: to the least loaded core, once `core` has
    /// clearly more live connections than the mean.
    pub fn better_core(&self, core: usize) -> Option<usize> {
        if self.count() < 2 {
            return None;
        }
        let own = self.connections(core);
        let mut total = 0;
        let mut least = (core, own);
        for other in 0..self.count() {
            let connections = self.connections(other);
            total += connections;
            if connections < least.1 {
                least = (other, connections);
            }
        }
        let mean = total / self.count() as u32;
        let clearly_more = own > mean + mean / 8 + limits::LOAD_SLACK;
        (clearly_more && least.0 != core).then_some(least.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(connections: &[u32]) -> Cores {
        let cores = Cores::new(connections.iter().map(|_| crate::reactor::mailbox(1).0).collect());
        for (core, n) in connections.iter().enumerate() {
            cores.set_connections(core, *n);
        }
        cores
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
            assert_eq!(cores(connections).better_core(core), expected, "{connections:?} {core}");
        }
    }
}
