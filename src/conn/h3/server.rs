//! The life of a client's connection: its requests begin here, each as a task of its own, and its end is decided here:
//! idle too long, served enough, the gateway drains, or the client misbehaves.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::control::Control;
use super::{Event, stream};
use crate::conn::deadline::Deadline;
use crate::conn::streams::Streams;
use crate::conn::{Gate, Settings};
use crate::exchange::Facts;
use crate::limits;
use crate::reactor;
use crate::transport::quic::{Connection, Dir, StreamId};
use crate::wire::h3::Code;

/// Serves a connection whose handshake is done until its client leaves, misbehaves, or the gateway drains. `facts` gives
/// what is true of it for a request that begins now: a client may move.
pub async fn serve<G: Gate>(gate: Rc<G>, connection: Rc<Connection>, mut facts: impl FnMut() -> Rc<Facts>) {
    gate.saw_h3(Event::Connection);
    let streams = Streams::new(reactor::now_ms());
    let mut serving = Serving {
        control: Control::new(connection.clone(), field_bytes(gate.settings())),
        connection: connection.clone(),
        next: None,
        goodbye_ms: None,
        deadline: Deadline::default(),
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

struct Serving<G> {
    connection: Rc<Connection>,
    control: Control,
    /// The one behind the last that has begun.
    next: Option<StreamId>,
    /// No more streams will begin: since when.
    goodbye_ms: Option<u64>,
    deadline: Deadline,
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
            if self.gate.is_draining() || self.streams.begun() >= self.gate.settings().keepalive_requests {
                self.say_goodbye();
            }
            if let Err(code) = self.control.poll(cx) {
                return self.violated(code);
            }
            if let Poll::Ready(id) = self.connection.poll_accept(Dir::Bi, cx) {
                id.into_iter().for_each(|id| self.begin(id, facts));
                continue;
            }
            if self.streams.are_reset_too_often() {
                return self.violated(Code::ExcessiveLoad);
            }
            let _ = self.streams.poll_none(cx);
            self.deadline.at_ms = self.streams.deadline_ms(self.goodbye_ms, self.gate.settings());
            return self.deadline.poll(cx).map(|()| Code::NoError);
        }
    }

    fn violated(&self, code: Code) -> Poll<Code> {
        log::warn!("HTTP/3 connection of {} closed: {code:?}", self.connection.peer());
        self.gate.saw_h3(Event::Violation);
        Poll::Ready(code)
    }

    /// A request begins, unless the client has been told that no more do.
    fn begin(&mut self, id: StreamId, facts: &mut impl FnMut() -> Rc<Facts>) {
        if self.goodbye_ms.is_some() {
            self.connection.reset(id, Code::RequestRejected as u64);
            self.connection.stop(id, Code::RequestRejected as u64);
            return;
        }
        self.gate.saw_h3(Event::Stream);
        self.next = Some(StreamId::new(id.initiator(), id.dir(), id.index() + 1));
        let open = self.streams.begin();
        if self.streams.under_way() == limits::H3_STREAMS_AT_FIRST / 2 {
            self.connection.allow(Dir::Bi, limits::H3_STREAMS);
        }
        let stream = crate::exchange::h3::Stream::new(self.connection.clone(), id);
        // until the handshake is done, what comes may be a replay (RFC 8470)
        let early = !self.connection.is_connected();
        reactor::spawn(stream::serve(self.gate.clone(), facts(), stream, open, early));
    }

    /// GOAWAY: the requests under way go on, those that come from now on are rejected, and may be sent elsewhere.
    fn say_goodbye(&mut self) {
        if self.goodbye_ms.is_none() {
            self.goodbye_ms = Some(reactor::now_ms());
            let first = || StreamId::new(quinn_proto::Side::Client, Dir::Bi, 0);
            self.control.say_goodbye(self.next.unwrap_or_else(first));
        }
    }
}
