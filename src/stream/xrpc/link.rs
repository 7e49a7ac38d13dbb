//! What a session has towards an upstream: a connection of its own, or a seat on a shared one.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::lane::Seat;
use crate::live::LiveUpstream;
use crate::live::streams::StreamPlan;
use crate::reactor::{self, Chunk};
use crate::transport::Stream;

/// Which calls it is for.
#[derive(Clone)]
pub(super) enum Of {
    /// Those that need a connection of the session's own.
    Own,
    /// Those that share one.
    Shared,
    /// Those of a subordinate route.
    Route(Rc<StreamPlan>),
}

impl Of {
    pub fn is(&self, other: &Of) -> bool {
        match (self, other) {
            (Of::Own, Of::Own) | (Of::Shared, Of::Shared) => true,
            (Of::Route(a), Of::Route(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// The bytes' road.
pub(super) enum Wire {
    Own(Rc<Stream>),
    Lane(Seat),
}

/// One of a session's.
pub(super) struct Link {
    pub of: Of,
    pub wire: Wire,
    pub idle_ms: u64,
    pub upstream: Option<Rc<LiveUpstream>>,
    pub node: usize,
    /// It has ended, and nobody needs it.
    pub over: Cell<bool>,
}

/// Its node has one session less.
impl Drop for Link {
    fn drop(&mut self) {
        if let Some(upstream) = &self.upstream {
            upstream.finished(self.node, None, reactor::now_ms());
        }
    }
}

/// Why bytes were not sent.
pub(super) enum Unsent {
    /// The shared connection has ended before; here they are.
    Over(Chunk),
    Failed(io::Error),
}

impl Link {
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match &self.wire {
            Wire::Own(stream) => stream.poll_recv(cx),
            Wire::Lane(seat) => seat.poll_recv(cx),
        }
    }

    /// Sends a piece, on a shared connection with so many calls in it, and waits until it has left, there until there is
    /// room for more.
    pub async fn send(&self, piece: Chunk, calls: usize) -> Result<(), Unsent> {
        match &self.wire {
            Wire::Own(stream) => send(stream, piece, self.idle_ms).await.map_err(Unsent::Failed),
            Wire::Lane(seat) => seat.send(piece, calls).await.map_err(Unsent::Over),
        }
    }

    /// Calls may be sent here.
    pub fn takes_calls(&self) -> bool {
        let is_open = match &self.wire {
            Wire::Own(_) => true,
            Wire::Lane(seat) => seat.is_open(),
        };
        is_open && !self.over.get()
    }

    /// The client will send nothing more.
    pub fn shutdown_write(&self) {
        if let Wire::Own(stream) = &self.wire {
            stream.shutdown_write();
        }
    }

    /// Nothing more goes or comes here.
    pub fn is_over(&self) -> bool {
        self.over.get() || matches!(&self.wire, Wire::Lane(seat) if seat.is_over())
    }
}

/// Sends a piece, and waits until it has left.
pub(super) async fn send(to: &Stream, piece: Chunk, within_ms: u64) -> io::Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    to.set_send_deadline(Some(reactor::now_ms() + within_ms));
    to.send(piece);
    to.flush().await
}
