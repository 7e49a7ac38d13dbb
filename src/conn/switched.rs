//! A client that has switched protocols: the bytes of a WebSocket both ways, whatever HTTP version carries them. Who
//! passes them on ([`super::tunnel`]) or speaks the protocol here sees no difference.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{Gate, h2, h3};
use crate::exchange::Exchange;
use crate::reactor::{self, Chunk, Out, TcpStream};
use crate::transport::Stream;

/// The client's bytes behind the head of an answer that switched protocols. All methods take `&self`: one task may
/// receive while it sends.
pub enum Switched {
    /// The connection itself, behind a 101 (RFC 9110 section 7.8). An upstream's connection is one, too.
    H1(Rc<Stream>),
    /// A stream that an extended CONNECT has opened (RFC 8441).
    H2(Box<h2::channel::Channel>),
    /// The same over HTTP/3 (RFC 9220).
    H3(Box<h3::channel::Channel>),
}

impl Switched {
    /// Bytes in the order in which they came; an empty chunk is the end of what the peer sends. What is not asked for
    /// is not read: the peer waits.
    ///
    /// # Errors
    /// `TimedOut` when the receive deadline has passed, `ConnectionReset` and the like when the peer is gone.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Switched::H1(stream) => stream.poll_recv(cx),
            Switched::H2(channel) => channel.poll_recv(cx),
            Switched::H3(channel) => channel.poll_recv(cx),
        }
    }

    /// See [`Switched::poll_recv`]; may be dropped at any time without loss.
    ///
    /// # Errors
    /// As `poll_recv`.
    pub async fn recv(&self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Queues bytes. Whoever sends much awaits [`Switched::flush`] between: the queue has no bound of its own.
    pub fn send(&self, chunk: Chunk) {
        match self {
            Switched::H1(stream) => stream.send(Out::from(chunk)),
            Switched::H2(channel) => channel.send(chunk),
            Switched::H3(channel) => channel.send(chunk),
        }
    }

    /// The same of a buffer ([`reactor::take_buffer`]) with a shared body behind it, which is not copied where the
    /// transport can do without.
    pub fn send_with(&self, head: Vec<u8>, body: Bytes) {
        match self {
            Switched::H1(stream) if body.is_empty() => stream.send(head),
            Switched::H1(stream) => stream.send(Out::from(head).bytes(body)),
            Switched::H2(channel) => {
                channel.send(Chunk::from_vec(head));
                channel.send(Chunk::from_bytes(body));
            }
            Switched::H3(channel) => {
                channel.send(Chunk::from_vec(head));
                channel.send(Chunk::from_bytes(body));
            }
        }
    }

    /// Bytes queued that have not left.
    pub fn queued_bytes(&self) -> usize {
        match self {
            Switched::H1(stream) => stream.queued_bytes(),
            Switched::H2(channel) => channel.queued_bytes(),
            Switched::H3(channel) => channel.queued_bytes(),
        }
    }

    /// Ready when the peer has made room for everything queued.
    ///
    /// # Errors
    /// `TimedOut` when the send deadline has passed; else the peer is gone.
    pub fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Switched::H1(stream) => stream.poll_flushed(cx),
            Switched::H2(channel) => channel.poll_flushed(cx),
            Switched::H3(channel) => channel.poll_flushed(cx),
        }
    }

    /// See [`Switched::poll_flushed`].
    ///
    /// # Errors
    /// As `poll_flushed`.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flushed(cx)).await
    }

    /// The same for a peer that may be slow but not still: it has `send_ms` for each piece that it takes.
    ///
    /// # Errors
    /// As `poll_flushed`; `TimedOut` when the peer took nothing for so long.
    pub async fn flush_moving(&self, send_ms: u32) -> io::Result<()> {
        loop {
            let queued = self.queued_bytes();
            self.set_send_deadline(Some(reactor::now_ms() + u64::from(send_ms)));
            match self.flush().await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && self.queued_bytes() < queued => {}
                flushed => return flushed,
            }
        }
    }

    /// Ends our side behind everything queued: the peer sees the end of the bytes.
    pub fn shutdown_write(&self) {
        match self {
            Switched::H1(stream) => stream.shutdown_write(),
            Switched::H2(channel) => channel.shutdown_write(),
            Switched::H3(channel) => channel.shutdown_write(),
        }
    }

    /// Breaks off: the peer must not take what it got for whole. A connection of HTTP/1.1 just ends when it is
    /// dropped (RFC 8441 section 5: a stream is reset with CANCEL).
    pub fn reset(&self) {
        match self {
            Switched::H1(_) => {}
            Switched::H2(channel) => channel.reset(),
            Switched::H3(channel) => channel.reset(),
        }
    }

    /// The socket, where its bytes are those that are switched.
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Switched::H1(stream) => stream.plain(),
            Switched::H2(_) | Switched::H3(_) => None,
        }
    }

    /// Whether large pieces come: see [`Stream::expect_bulk`].
    pub fn expect_bulk(&self, bulk: bool) {
        if let Switched::H1(stream) = self {
            stream.expect_bulk(bulk);
        }
    }

    /// From `at_ms` on the core's clock a receive that has nothing gives `TimedOut`.
    pub fn set_recv_deadline(&self, at_ms: Option<u64>) {
        match self {
            Switched::H1(stream) => stream.set_recv_deadline(at_ms),
            Switched::H2(channel) => channel.set_recv_deadline(at_ms),
            Switched::H3(channel) => channel.set_recv_deadline(at_ms),
        }
    }

    /// From `at_ms` on, a flush that is not done gives `TimedOut`.
    pub fn set_send_deadline(&self, at_ms: Option<u64>) {
        match self {
            Switched::H1(stream) => stream.set_send_deadline(at_ms),
            Switched::H2(channel) => channel.set_send_deadline(at_ms),
            Switched::H3(channel) => channel.set_send_deadline(at_ms),
        }
    }
}

/// The answer of an extended CONNECT before it leaves. A 2xx means that the stream is open (RFC 8441 section 5): that
/// is said for an upstream's 101 alone, and any other success is a handshake that failed.
pub fn settle_connect<G: Gate>(gate: &G, ex: &mut Exchange) {
    if ex.resp.upgrade {
        ex.resp.head.status = 200;
    } else if (200..300).contains(&ex.resp.head.status) {
        log::warn!("no switch of protocols, but an answer of status {}", ex.resp.head.status);
        gate.refuse(ex, 502);
    }
}
