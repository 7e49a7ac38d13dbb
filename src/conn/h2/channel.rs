//! A stream that has become a pipe of bytes (RFC 8441): what HTTP/2's two halves are as one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use h2::{Reason, RecvStream, SendStream};

use crate::conn::deadline::Deadline;
use crate::exchange::h2::Data;
use crate::reactor::Chunk;

/// Both directions of a stream whose head has been answered with success.
pub struct Channel {
    from: RefCell<From>,
    to: RefCell<To>,
}

struct From {
    stream: RecvStream,
    /// Bytes handed out whose credit was not returned: by the next call the receiver has taken them.
    taken: usize,
    deadline: Deadline,
}

struct To {
    stream: SendStream<Data>,
    /// What the peer's window has no room for.
    queue: VecDeque<Chunk>,
    /// The end follows the queue.
    shut: bool,
    /// The end was sent.
    ended: bool,
    deadline: Deadline,
}

impl Channel {
    /// Of the two halves of a stream.
    pub fn new(from: RecvStream, to: SendStream<Data>) -> Self {
        let from = From { stream: from, taken: 0, deadline: Deadline::default() };
        let to = To {
            stream: to,
            queue: VecDeque::new(),
            shut: false,
            ended: false,
            deadline: Deadline::default(),
        };
        Channel { from: RefCell::new(from), to: RefCell::new(to) }
    }

    pub(in crate::conn) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let From { stream, taken, deadline } = &mut *self.from.borrow_mut();
        if *taken > 0 {
            // it fails for a stream that is over, whose credit is nobody's
            let _ = stream.flow_control().release_capacity(std::mem::take(taken));
        }
        loop {
            match stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                Poll::Ready(Some(Ok(data))) => {
                    *taken = data.len();
                    return Poll::Ready(Ok(Chunk::from_bytes(data)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(gone(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(Chunk::empty())),
                Poll::Pending => return deadline.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            }
        }
    }

    pub(in crate::conn) fn send(&self, chunk: Chunk) {
        let mut to = self.to.borrow_mut();
        if !chunk.is_empty() {
            to.queue.push_back(chunk);
        }
        // what cannot leave, or fails, is seen by the flush
        let _ = to.push();
        // a receive buffer is not held for as long as a peer likes; what waits before it was copied when it came
        if let Some(last) = to.queue.back_mut() {
            *last = Chunk::from_vec(last.to_vec());
        }
    }

    pub(in crate::conn) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut to = self.to.borrow_mut();
        loop {
            to.push()?;
            if to.queue.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(reset) = to.stream.poll_reset(cx) {
                return Poll::Ready(Err(reset.map_or_else(gone, |_| io::ErrorKind::ConnectionReset.into())));
            }
            match to.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => continue,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(gone(error))),
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Poll::Pending => {}
            }
            ready!(to.deadline.poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
    }

    pub(in crate::conn) fn queued_bytes(&self) -> usize {
        self.to.borrow().queue.iter().map(|chunk| chunk.len()).sum()
    }

    pub(in crate::conn) fn shutdown_write(&self) {
        let mut to = self.to.borrow_mut();
        to.shut = true;
        let _ = to.push();
    }

    pub(in crate::conn) fn reset(&self) {
        self.to.borrow_mut().stream.send_reset(Reason::CANCEL);
    }

    pub(in crate::conn) fn set_recv_deadline(&self, at_ms: Option<u64>) {
        self.from.borrow_mut().deadline.at_ms = at_ms;
    }

    pub(in crate::conn) fn set_send_deadline(&self, at_ms: Option<u64>) {
        self.to.borrow_mut().deadline.at_ms = at_ms;
    }
}

impl To {
    /// Hands over what the peer's window has room for.
    fn push(&mut self) -> io::Result<()> {
        while let Some(chunk) = self.queue.front_mut() {
            self.stream.reserve_capacity(chunk.len());
            let room = self.stream.capacity();
            if room == 0 {
                return Ok(());
            }
            let piece = chunk.split_to(room.min(chunk.len()));
            if chunk.is_empty() {
                self.queue.pop_front();
            }
            self.stream.send_data(Data(piece), false).map_err(gone)?;
        }
        if self.shut && !self.ended {
            self.ended = true;
            self.stream.send_data(Data(Chunk::empty()), true).map_err(gone)?;
        }
        Ok(())
    }
}

fn gone(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
