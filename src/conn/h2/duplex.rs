//! Our stream as the `h2` crate wants it: tokio's two traits. Chunks go in; what is written gathers until the flush
//! and leaves with everything else of the turn in one call.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits;
use crate::reactor::{self, Chunk, Out};
use crate::transport::Stream;
use crate::wire::frames::{Fault, FrameWatch};

/// What the owner of a connection sees of its bytes.
pub struct Wire {
    watch: RefCell<FrameWatch>,
    fault: Cell<Option<Fault>>,
}

impl Wire {
    /// Watched so.
    pub fn new(watch: FrameWatch) -> Rc<Wire> {
        Rc::new(Wire { watch: RefCell::new(watch), fault: Cell::new(None) })
    }

    /// The peer floods, or breaks its frames: nothing more is read from it.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// When the header block began that has not ended, if one is open.
    pub fn block_since_ms(&self) -> Option<u64> {
        self.watch.borrow().block_since_ms()
    }
}

/// One connection for the `h2` crate.
pub struct Duplex {
    stream: Rc<Stream>,
    wire: Rc<Wire>,
    /// Received, not read yet.
    received: Chunk,
    /// Written, not flushed yet.
    written: Vec<u8>,
    /// Between two writes that the kernel takes, ms.
    send_ms: u32,
    /// The kernel has not taken everything: so much was left when the deadline was set.
    stuck_bytes: Option<usize>,
}

impl Duplex {
    /// Over `stream`, which is read and written by nobody else.
    pub fn new(stream: Rc<Stream>, wire: Rc<Wire>, send_ms: u32) -> Self {
        stream.set_recv_deadline(None);
        Duplex { stream, wire, received: Chunk::empty(), written: Vec::new(), send_ms, stuck_bytes: None }
    }

    fn hand_over(&mut self) {
        if !self.written.is_empty() {
            self.wire.watch.borrow_mut().sent(self.written.len());
            self.stream.send(Out::from(std::mem::take(&mut self.written)));
        }
    }

    /// Ready when the kernel has taken so much that more may be queued: the back-pressure of a connection.
    fn poll_room(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        if self.stream.queued_bytes() + self.written.len() <= most {
            self.stuck_bytes = None;
            return Poll::Ready(Ok(()));
        }
        self.hand_over();
        loop {
            let queued = self.stream.queued_bytes();
            if self.stuck_bytes.is_none() {
                self.stuck_bytes = Some(queued);
                self.stream.set_send_deadline(Some(reactor::now_ms() + u64::from(self.send_ms)));
            }
            let flushed = ready!(self.stream.poll_flushed(cx));
            let before = self.stuck_bytes.take();
            match flushed {
                // a slow peer is not one that takes nothing
                Err(error) if error.kind() == io::ErrorKind::TimedOut && Some(queued) < before => {}
                flushed => return Poll::Ready(flushed),
            }
        }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            if self.wire.fault().is_some() {
                return Poll::Pending; // the owner looks after each poll
            }
            let mut chunk = ready!(self.stream.poll_recv(cx))?;
            let watched = self.wire.watch.borrow_mut().observe(&chunk, reactor::now_ms());
            if let Err(fault) = watched {
                self.wire.fault.set(Some(fault)); // these bytes are the last: the goodbye needs a begun connection
                if let Fault::Size { good } = fault {
                    chunk.truncate(good);
                    if good == 0 {
                        return Poll::Pending;
                    }
                }
            }
            self.received = chunk;
        }
        let read = self.received.len().min(buf.remaining());
        buf.put_slice(&self.received[..read]);
        self.received.advance(read);
        if self.received.is_empty() {
            self.received = Chunk::empty(); // an idle connection holds no buffer
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx, limits::QUEUED_BYTES))?;
        if self.written.capacity() == 0 {
            self.written = reactor::take_buffer();
        }
        bufs.iter().for_each(|buf| self.written.extend_from_slice(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hand_over();
        self.poll_room(cx, limits::QUEUED_BYTES)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hand_over();
        ready!(self.poll_room(cx, 0))?;
        self.stream.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
