//! The streams of a client's connection, of HTTP/2 or HTTP/3, counted: the connection ends when it was idle for too long,
//! and when its client resets what it has asked for too often.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Settings;
use crate::limits;
use crate::reactor;

/// How many have begun, are under way, and were reset.
pub(in crate::conn) struct Streams {
    begun: Cell<u32>,
    open: Cell<u32>,
    /// When the last of them ended, while there is none.
    idle_since_ms: Cell<u64>,
    /// Reset by their client before the answer's end.
    resets: Cell<u32>,
    /// Who waits for the last to end.
    waits: RefCell<Option<Waker>>,
}

impl Streams {
    /// Of a connection that begins at `now_ms`.
    pub fn new(now_ms: u64) -> Rc<Streams> {
        Rc::new(Streams {
            begun: Cell::new(0),
            open: Cell::new(0),
            idle_since_ms: Cell::new(now_ms),
            resets: Cell::new(0),
            waits: RefCell::default(),
        })
    }

    /// One more.
    pub fn begin(self: &Rc<Self>) -> Open {
        self.begun.set(self.begun.get() + 1);
        self.open.set(self.open.get() + 1);
        Open(self.clone())
    }

    /// How many have begun.
    pub fn begun(&self) -> u32 {
        self.begun.get()
    }

    /// How many are under way.
    pub fn under_way(&self) -> u32 {
        self.open.get()
    }

    /// Ready while none is under way.
    pub fn poll_none(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.open.get() == 0 {
            return Poll::Ready(());
        }
        *self.waits.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Most of what the client asks for it does not want: rapid reset.
    pub fn are_reset_too_often(&self) -> bool {
        let resets = self.resets.get();
        resets > limits::H2_CLIENT_RESETS && resets > self.begun.get() / 2
    }

    /// When their connection ends if nothing happens; `None` while one is under way. `goodbye_ms`: since when no more of
    /// them begin.
    pub fn deadline_ms(&self, goodbye_ms: Option<u64>, settings: &Settings) -> Option<u64> {
        if self.open.get() > 0 {
            return None;
        }
        let idle_since_ms = self.idle_since_ms.get();
        Some(match goodbye_ms {
            Some(goodbye_ms) => goodbye_ms.max(idle_since_ms) + limits::H2_GOODBYE_MS,
            None if self.begun.get() == 0 => idle_since_ms + u64::from(settings.header_ms),
            None => idle_since_ms + u64::from(settings.keepalive_ms),
        })
    }
}

/// One stream under way: counted from its beginning to its end, however it ends.
pub(in crate::conn) struct Open(Rc<Streams>);

impl Open {
    /// Its client has reset it.
    pub fn reset(&self) {
        self.0.resets.set(self.0.resets.get() + 1);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() > 0 {
            return;
        }
        self.0.idle_since_ms.set(reactor::now_ms());
        if let Some(waker) = self.0.waits.take() {
            waker.wake();
        }
    }
}
