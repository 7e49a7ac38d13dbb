//! Mail to the cores. Configuration must reach every core: what a full mailbox refuses is kept here, in
//! order, and tried again; control never waits for a core, and no core for control.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::mail::{Cores, ToCore};
use crate::reactor::SendError;

/// The way to the cores.
pub struct Outbox {
    generations: Mutex<Generations>,
    /// The basic debug mode is on: a state that new cores must know, too.
    debug: AtomicBool,
    wake: Notify,
}

struct Generations {
    /// The last ones are the cores of now; those before them end and hear nothing but that they must hurry.
    lines: Vec<Lines>,
    /// All are to end within so many ms: those, too, that were on their way when this was ordered.
    drain_ms: Option<u64>,
}

/// The cores of one generation, with what each could not take yet.
struct Lines {
    generation: u32,
    cores: Arc<Cores>,
    kept: Vec<VecDeque<ToCore>>,
}

impl Outbox {
    /// To the first cores of the process, generation 0.
    pub fn new(cores: Arc<Cores>) -> Self {
        let generations = Generations { lines: vec![Lines::new(0, cores)], drain_ms: None };
        Outbox { generations: Mutex::new(generations), debug: AtomicBool::new(false), wake: Notify::new() }
    }

    /// Sends a message to all cores.
    pub fn send(&self, message: &ToCore) {
        if let ToCore::Debug { basic } = message {
            self.debug.store(*basic, Ordering::Relaxed);
        }
        if self.generations().lines.last_mut().is_some_and(|lines| lines.send(message)) {
            self.wake.notify_one();
        }
    }

    /// New cores take over: they are told `first`, then what is sent from now on. The old ones end within
    /// `within_ms`, gently.
    pub fn replace(
        &self,
        generation: u32,
        cores: Arc<Cores>,
        first: impl IntoIterator<Item = ToCore>,
        within_ms: u64,
    ) {
        let mut new = Lines::new(generation, cores);
        new.send(&ToCore::Debug { basic: self.debug.load(Ordering::Relaxed) });
        for message in first {
            new.send(&message);
        }
        let mut generations = self.generations();
        match (generations.drain_ms, generations.lines.last_mut()) {
            (Some(within_ms), _) => drop(new.send(&ToCore::Drain { within_ms, gently: false })),
            (None, Some(old)) => drop(old.send(&ToCore::Drain { within_ms, gently: true })),
            (None, None) => {}
        }
        generations.lines.push(new);
        drop(generations);
        self.wake.notify_one();
    }

    /// All cores end within `within_ms`, those of earlier generations, too, and those that have not taken over yet.
    pub fn drain(&self, within_ms: u64) {
        let mut generations = self.generations();
        generations.drain_ms = Some(within_ms);
        for lines in &mut generations.lines {
            lines.send(&ToCore::Drain { within_ms, gently: false });
        }
        drop(generations);
        self.wake.notify_one();
    }

    /// The cores of a generation have ended.
    pub fn forget(&self, generation: u32) {
        self.generations().lines.retain(|lines| lines.generation != generation);
    }

    /// Tries again what was kept, for ever.
    pub async fn retry(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            while self.flush_all() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    fn flush_all(&self) -> bool {
        let mut generations = self.generations();
        generations.lines.iter_mut().map(|lines| lines.flush_all()).fold(false, |left, more| left | more)
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn new(generation: u32, cores: Arc<Cores>) -> Self {
        let kept = (0..cores.count()).map(|_| VecDeque::new()).collect();
        Lines { generation, cores, kept }
    }

    /// Is anything left to be tried again?
    fn send(&mut self, message: &ToCore) -> bool {
        for queue in &mut self.kept {
            queue.extend(message.copy());
        }
        self.flush_all()
    }

    fn flush_all(&mut self) -> bool {
        for (core, queue) in self.kept.iter_mut().enumerate() {
            flush(&self.cores, core, queue);
        }
        self.kept.iter().any(|queue| !queue.is_empty())
    }
}

fn flush(cores: &Cores, core: usize, queue: &mut VecDeque<ToCore>) {
    while let Some(message) = queue.pop_front() {
        match cores.mail(core).try_send(message) {
            Ok(()) => {}
            Err(SendError::Full(message)) => return queue.push_front(message),
            Err(SendError::Closed(_)) => return queue.clear(), // the core has ended
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::mailbox;

    #[test]
    fn a_full_core_misses_nothing_and_holds_up_no_other() {
        let (slow, slow_mail) = mailbox(1);
        let (quick, quick_mail) = mailbox(16);
        let outbox = Outbox::new(Arc::new(Cores::new(vec![slow, quick])));
        for within_ms in 0..3 {
            outbox.send(&ToCore::Drain { within_ms, gently: false });
        }
        let next = |mail: &crate::reactor::Receiver<ToCore>| match mail.try_recv() {
            Some(ToCore::Drain { within_ms, .. }) => Some(within_ms),
            _ => None,
        };
        assert_eq!([next(&quick_mail), next(&quick_mail), next(&quick_mail)], [Some(0), Some(1), Some(2)]);
        assert_eq!([next(&slow_mail), next(&slow_mail)], [Some(0), None]);
        assert!(outbox.flush_all());
        assert_eq!(next(&slow_mail), Some(1));
        assert!(!outbox.flush_all());
        assert_eq!(next(&slow_mail), Some(2));
    }

    #[test]
    fn new_cores_take_over_and_the_old_ones_end() {
        let (first, old_mail) = mailbox(1);
        let outbox = Outbox::new(Arc::new(Cores::new(vec![first])));
        let name = || ToCore::Name { name: "a".into(), addresses: [].into() };
        outbox.send(&name());
        let (second, new_mail) = mailbox(16);
        outbox.replace(1, Arc::new(Cores::new(vec![second])), [name()], 7);
        outbox.send(&name());
        assert!(matches!(new_mail.try_recv(), Some(ToCore::Debug { basic: false })));
        assert!(matches!(new_mail.try_recv(), Some(ToCore::Name { .. })));
        assert!(matches!(new_mail.try_recv(), Some(ToCore::Name { .. })));
        // The old core's mailbox was full: it hears later that it is to end, and nothing else.
        assert!(matches!(old_mail.try_recv(), Some(ToCore::Name { .. })));
        assert!(!outbox.flush_all());
        assert!(matches!(old_mail.try_recv(), Some(ToCore::Drain { within_ms: 7, gently: true })));
        outbox.drain(3);
        for mail in [&old_mail, &new_mail] {
            assert!(matches!(mail.try_recv(), Some(ToCore::Drain { within_ms: 3, gently: false })));
        }
        outbox.forget(0);
        outbox.send(&name());
        assert!(old_mail.try_recv().is_none() && new_mail.try_recv().is_some());
    }

    #[test]
    fn cores_that_take_over_after_the_end_was_ordered_end_too() {
        let (first, old_mail) = mailbox(16);
        let outbox = Outbox::new(Arc::new(Cores::new(vec![first])));
        outbox.drain(3);
        let (second, new_mail) = mailbox(16);
        outbox.replace(1, Arc::new(Cores::new(vec![second])), [], 7);
        assert!(matches!(new_mail.try_recv(), Some(ToCore::Debug { .. })));
        for mail in [&old_mail, &new_mail] {
            assert!(matches!(mail.try_recv(), Some(ToCore::Drain { within_ms: 3, gently: false })));
            assert!(mail.try_recv().is_none());
        }
    }
}
