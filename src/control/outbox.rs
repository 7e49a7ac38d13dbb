//! Mail to the cores. Configuration must reach every core: what a full mailbox refuses is kept here, in
//! order, and tried again; control never waits for a core, and no core for control.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::mail::{Cores, ToCore};
use crate::reactor::SendError;

/// The way to the cores.
pub struct Outbox {
    cores: Arc<Cores>,
    kept: Mutex<Vec<VecDeque<ToCore>>>,
    wake: Notify,
}

impl Outbox {
    /// Nothing kept yet.
    pub fn new(cores: Arc<Cores>) -> Self {
        let kept = (0..cores.count()).map(|_| VecDeque::new()).collect();
        Outbox { cores, kept: Mutex::new(kept), wake: Notify::new() }
    }

    /// Sends a message to all cores.
    pub fn send(&self, message: &ToCore) {
        let mut kept = self.kept();
        for (core, queue) in kept.iter_mut().enumerate() {
            queue.extend(message.copy());
            self.flush(core, queue);
        }
        if kept.iter().any(|queue| !queue.is_empty()) {
            self.wake.notify_one();
        }
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
        let mut kept = self.kept();
        for (core, queue) in kept.iter_mut().enumerate() {
            self.flush(core, queue);
        }
        kept.iter().any(|queue| !queue.is_empty())
    }

    fn flush(&self, core: usize, queue: &mut VecDeque<ToCore>) {
        while let Some(message) = queue.pop_front() {
            match self.cores.mail(core).try_send(message) {
                Ok(()) => {}
                Err(SendError::Full(message)) => return queue.push_front(message),
                Err(SendError::Closed(_)) => return queue.clear(), // the core has ended
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<VecDeque<ToCore>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
            outbox.send(&ToCore::Drain { within_ms });
        }
        let next = |mail: &crate::reactor::Receiver<ToCore>| match mail.try_recv() {
            Some(ToCore::Drain { within_ms }) => Some(within_ms),
            _ => None,
        };
        assert_eq!([next(&quick_mail), next(&quick_mail), next(&quick_mail)], [Some(0), Some(1), Some(2)]);
        assert_eq!([next(&slow_mail), next(&slow_mail)], [Some(0), None]);
        assert!(outbox.flush_all());
        assert_eq!(next(&slow_mail), Some(1));
        assert!(!outbox.flush_all());
        assert_eq!(next(&slow_mail), Some(2));
    }
}
