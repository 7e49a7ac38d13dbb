//! The time after which a stream or a connection is not waited for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::reactor::{self, Sleep};

/// A time after which nobody waits. It moves with each piece, the timer below only when it must.
#[derive(Default)]
pub(in crate::conn) struct Deadline {
    /// On the core's clock; `None` waits for ever.
    pub at_ms: Option<u64>,
    /// Rings at this time, or earlier than needed: then it is set anew.
    timer: Option<(u64, Sleep)>,
}

impl Deadline {
    /// Ready when the time has come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(at_ms) = self.at_ms else { return Poll::Pending };
            if at_ms <= reactor::now_ms() {
                return Poll::Ready(());
            }
            if self.timer.as_ref().is_none_or(|(set_ms, _)| *set_ms > at_ms) {
                self.timer = Some((at_ms, reactor::sleep_until(at_ms)));
            }
            let Some((_, timer)) = &mut self.timer else { return Poll::Pending };
            ready!(Pin::new(timer).poll(cx));
            self.timer = None;
        }
    }
}
