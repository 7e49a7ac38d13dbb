//! The life of a client's connection: its requests begin here, each as a task of its own, and its end is decided here:
//! idle too long, served enough, the gateway drains, or the client misbehaves.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::control::Control;
use super::{Event, stream};
use crate::conn::{Gate, Settings};
use crate::exchange::Facts;
use crate::limits;
use crate::reactor::{self, Sleep};
use crate::transport::quic::{Connection, Dir, StreamId};
use crate::wire::h3::Code;

/// Serves a connection whose handshake is done until its client leaves, misbehaves, or the gateway drains. `facts` gives
/// what is true of it for a request that begins now: a client may move.
pub async fn serve<G: Gate>(gate: Rc<G>, connection: Rc<Connection>, mut facts: impl FnMut() -> Rc<Facts>) {
    gate.saw_h3(Event::Connection);
    let streams = Rc::new(Streams::default());
    streams.idle_since_ms.set(reactor::now_ms());
    let mut serving = Serving {
        control: Control::new(connection.clone(), field_bytes(gate.settings())),
        connection: connection.clone(),
        served: 0,
        next: None,
        goodbye: None,
        timer: None,
        streams: streams.clone(),
        gate,
    };
    let code = std::future::poll_fn(|cx| serving.poll(cx, &mut facts)).await;
    connection.close(code as u64, "");
    std::future::poll_fn(|cx| streams.poll_none(cx)).await;
}

/// What the fields of a request may count: what is above our own limit, but not above this, gets nginx's page.
pub(super) fn field_bytes(settings: &Settings) -> usize {
    settings.head.head_bytes.saturating_mul(2)
}

/// The streams of a connection that are under way, counted.
#[derive(Default)]
pub(super) struct Streams {
    open: Cell<u32>,
    /// When the last of them ended, while there is none.
    idle_since_ms: Cell<u64>,
    /// Reset by their client before the answer's end.
    resets: Cell<u32>,
    /// Who waits for the last to end.
    waits: RefCell<Option<Waker>>,
}

impl Streams {
    fn poll_none(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.open.get() == 0 {
            return Poll::Ready(());
        }
        *self.waits.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// One stream under way: counted from its beginning to its end, however it ends.
pub(super) struct Open(Rc<Streams>);

impl Open {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Open(streams.clone())
    }

    /// Its client has reset it.
    pub(super) fn reset(&self) {
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

struct Serving<G> {
    connection: Rc<Connection>,
    control: Control,
    /// Streams that have begun.
    served: u32,
    /// The one behind the last that has begun.
    next: Option<StreamId>,
    /// No more streams will begin: since when.
    goodbye: Option<u64>,
    /// Wakes the connection at this time, or earlier than needed: then it is set anew.
    timer: Option<(u64, Sleep)>,
    streams: Rc<Streams>,
    gate: Rc<G>,
}

impl<G: Gate> Serving<G> {
    /// Ready with the reason when the connection is to be closed.
    fn poll(&mut self, cx: &mut Context<'_>, facts: &mut impl FnMut() -> Rc<Facts>) -> Poll<Code> {
        loop {
            if let Some(lost) = self.connection.lost() {
                log::info!("HTTP/3 connection of {} ended: {}", self.connection.peer(), lost.0);
                return Poll::Ready(Code::NoError);
            }
            if self.gate.is_draining() || self.served >= self.gate.settings().keepalive_requests {
                self.say_goodbye();
            }
            if let Err(code) = self.control.poll(cx) {
                return self.violated(code);
            }
            if let Poll::Ready(id) = self.connection.poll_accept(Dir::Bi, cx) {
                id.into_iter().for_each(|id| self.begin(id, facts));
                continue;
            }
            let resets = self.streams.resets.get();
            if resets > limits::H2_CLIENT_RESETS && resets > self.served / 2 {
                return self.violated(Code::ExcessiveLoad);
            }
            ready!(self.poll_overdue(cx));
            return Poll::Ready(Code::NoError);
        }
    }

    fn violated(&self, code: Code) -> Poll<Code> {
        log::warn!("HTTP/3 connection of {} closed: {code:?}", self.connection.peer());
        self.gate.saw_h3(Event::Violation);
        Poll::Ready(code)
    }

    /// A request begins, unless the client has been told that no more do.
    fn begin(&mut self, id: StreamId, facts: &mut impl FnMut() -> Rc<Facts>) {
        if self.goodbye.is_some() {
            self.connection.reset(id, Code::RequestRejected as u64);
            self.connection.stop(id, Code::RequestRejected as u64);
            return;
        }
        self.gate.saw_h3(Event::Stream);
        self.served += 1;
        self.next = Some(StreamId::new(id.initiator(), id.dir(), id.index() + 1));
        let open = Open::new(&self.streams);
        let stream = crate::exchange::h3::Stream::new(self.connection.clone(), id);
        // until the handshake is done, what comes may be a replay (RFC 8470)
        let early = !self.connection.is_connected();
        reactor::spawn(stream::serve(self.gate.clone(), facts(), stream, open, early));
    }

    /// GOAWAY: the requests under way go on, those that come from now on are rejected, and may be sent elsewhere.
    fn say_goodbye(&mut self) {
        if self.goodbye.is_none() {
            self.goodbye = Some(reactor::now_ms());
            let first = || StreamId::new(quinn_proto::Side::Client, Dir::Bi, 0);
            self.control.say_goodbye(self.next.unwrap_or_else(first));
        }
    }

    /// Looks at the times; ready when the connection is to be closed.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let _ = self.streams.poll_none(cx);
            let Some(at_ms) = self.deadline_ms() else { return Poll::Pending };
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

    /// When the connection ends if nothing happens; `None` while a stream is open.
    fn deadline_ms(&self) -> Option<u64> {
        let Settings { keepalive_ms, header_ms, .. } = self.gate.settings();
        if self.streams.open.get() > 0 {
            return None;
        }
        let idle_since_ms = self.streams.idle_since_ms.get();
        Some(match self.goodbye {
            Some(since_ms) => since_ms.max(idle_since_ms) + limits::H2_GOODBYE_MS,
            None if self.served == 0 => idle_since_ms + u64::from(*header_ms),
            None => idle_since_ms + u64::from(*keepalive_ms),
        })
    }
}
