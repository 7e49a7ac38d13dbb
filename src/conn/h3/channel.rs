//! A stream that has become a pipe of bytes (RFC 9220): they are what its DATA frames carry.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use crate::conn::deadline::Deadline;
use crate::exchange::Body;
use crate::exchange::h3::Stream;
use crate::reactor::Chunk;
use crate::wire::h3::{Code, frame};

/// Both directions of a stream whose head has been answered with success.
pub struct Channel {
    stream: Rc<Stream>,
    from: RefCell<(Body, Deadline)>,
    to: RefCell<To>,
}

#[derive(Default)]
struct To {
    /// Frames that the client's window has no room for.
    queue: VecDeque<Chunk>,
    /// The end follows the queue.
    shut: bool,
    deadline: Deadline,
}

impl Channel {
    /// Of a stream, whose data come as a body.
    pub fn new(stream: Rc<Stream>, from: Body) -> Self {
        Channel { stream, from: RefCell::new((from, Deadline::default())), to: RefCell::default() }
    }

    pub(in crate::conn) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let (body, deadline) = &mut *self.from.borrow_mut();
        match body.poll_piece(cx) {
            Poll::Ready(Ok(piece)) => Poll::Ready(Ok(piece.unwrap_or_else(Chunk::empty))),
            Poll::Ready(Err(_)) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => deadline.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }

    pub(in crate::conn) fn send(&self, chunk: Chunk) {
        let mut to = self.to.borrow_mut();
        if !chunk.is_empty() {
            let mut head = Vec::with_capacity(16);
            frame::begin(frame::DATA, chunk.len(), &mut head);
            to.queue.extend([Chunk::from_vec(head), chunk]);
        }
        // what cannot leave, or fails, is seen by the flush
        let _ = to.poll_push(&self.stream, &mut Context::from_waker(Waker::noop()));
        // a receive buffer is not held for as long as a peer likes; what waits before it was copied when it came
        if let Some(last) = to.queue.back_mut() {
            *last = Chunk::from_vec(last.to_vec());
        }
    }

    pub(in crate::conn) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut to = self.to.borrow_mut();
        if let Poll::Ready(pushed) = to.poll_push(&self.stream, cx) {
            return Poll::Ready(pushed);
        }
        ready!(to.deadline.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    pub(in crate::conn) fn queued_bytes(&self) -> usize {
        self.to.borrow().queue.iter().map(|chunk| chunk.len()).sum()
    }

    pub(in crate::conn) fn shutdown_write(&self) {
        let mut to = self.to.borrow_mut();
        to.shut = true;
        let _ = to.poll_push(&self.stream, &mut Context::from_waker(Waker::noop()));
    }

    pub(in crate::conn) fn reset(&self) {
        self.stream.reset(Code::RequestCancelled);
    }

    pub(in crate::conn) fn set_recv_deadline(&self, at_ms: Option<u64>) {
        self.from.borrow_mut().1.at_ms = at_ms;
    }

    pub(in crate::conn) fn set_send_deadline(&self, at_ms: Option<u64>) {
        self.to.borrow_mut().deadline.at_ms = at_ms;
    }
}

impl To {
    /// Writes what the client's window has room for; ready when that was everything.
    fn poll_push(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(chunk) = self.queue.front_mut() {
            if ready!(stream.poll_write(chunk, cx)).is_err() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            self.queue.pop_front();
        }
        if self.shut {
            stream.finish();
        }
        Poll::Ready(Ok(()))
    }
}
