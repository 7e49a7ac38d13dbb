//! The time after which a stream is not waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::reactor::{self, Sleep};

/// A time after which nobody waits. It moves with each piece, the timer below only when it has rung.
#[derive(Default)]
pub(in crate::conn) struct Deadline {
    /// On the core's clock; `None` waits for ever.
    pub at_ms: Option<u64>,
    timer: Option<Sleep>,
}

impl Deadline {
    /// Ready when the time has come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(at_ms) = self.at_ms else { return Poll::Pending };
            if at_ms <= reactor::now_ms() {
                return Poll::Ready(());
            }
            let timer = self.timer.get_or_insert_with(|| reactor::sleep_until(at_ms));
            ready!(Pin::new(timer).poll(cx));
            self.timer = None;
        }
    }
}
