//! Plain or encrypted: the methods of the reactor's socket, whatever lies between.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use crate::reactor::{self, Chunk, Out, TcpStream};

use super::{Linger, TlsStream};

/// A byte stream of this core. All methods take `&self`; one task may receive while another sends.
pub enum Stream {
    /// TCP as it is.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Bytes in the order in which they came; an empty chunk is the end of the stream. See
    /// [`TcpStream::poll_recv`].
    ///
    /// # Errors
    /// `TimedOut` when the receive deadline has passed (the stream can still be used), what `recv(2)` says,
    /// and `InvalidData` for bytes that are no TLS.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Stream::Plain(tcp) => tcp.poll_recv(cx),
            Stream::Tls(tls) => tls.poll_recv(cx),
        }
    }

    /// See [`Stream::poll_recv`]; may be dropped at any time without loss.
    ///
    /// # Errors
    /// As `poll_recv`.
    pub async fn recv(&self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Puts bytes that were not for this reader back in front.
    pub fn unrecv(&self, chunk: Chunk) {
        match self {
            Stream::Plain(tcp) => tcp.unrecv(chunk),
            Stream::Tls(tls) => tls.unrecv(chunk),
        }
    }

    /// True when received bytes wait in the stream; those that wait in the kernel are not seen.
    pub fn has_buffered(&self) -> bool {
        match self {
            Stream::Plain(tcp) => tcp.has_buffered(),
            Stream::Tls(tls) => tls.has_buffered(),
        }
    }

    /// True when the socket watches and has heard nothing: see [`TcpStream::is_silent`]. With TLS it takes a
    /// receive to know.
    pub fn is_silent(&self) -> bool {
        match self {
            Stream::Plain(tcp) => tcp.is_silent(),
            Stream::Tls(_) => false,
        }
    }

    /// Whether the body of a message streams in: see [`TcpStream::expect_bulk`].
    pub fn expect_bulk(&self, bulk: bool) {
        self.tcp().expect_bulk(bulk);
    }

    /// What comes next will be received like the message before: see [`TcpStream::expect_alike`].
    pub fn expect_alike(&self) {
        self.tcp().expect_alike();
    }

    /// The socket, where its bytes are those of the stream.
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Stream::Plain(tcp) => Some(tcp),
            Stream::Tls(_) => None,
        }
    }

    /// Ready when the peer has closed its side or reset the connection. See [`TcpStream::poll_closed`].
    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.tcp().poll_closed(cx)
    }

    /// Queues bytes; they leave at the end of this turn.
    pub fn send(&self, out: impl Into<Out>) {
        match self {
            Stream::Plain(tcp) => tcp.send(out),
            Stream::Tls(tls) => tls.send(&out.into().in_memory()),
        }
    }

    /// What became of the bytes that were sent so far. See [`TcpStream::sent`].
    ///
    /// # Errors
    /// As [`TcpStream::sent`].
    pub fn sent(&self) -> io::Result<()> {
        self.tcp().sent()
    }

    /// Ready when the kernel has taken everything queued.
    ///
    /// # Errors
    /// What a send before said; `TimedOut` when the send deadline has passed.
    pub fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_flushed(cx)
    }

    /// See [`Stream::poll_flushed`].
    ///
    /// # Errors
    /// As `poll_flushed`.
    pub async fn flush(&self) -> io::Result<()> {
        self.tcp().flush().await
    }

    /// Bytes queued that the kernel has not taken (encrypted ones, with TLS).
    pub fn queued_bytes(&self) -> usize {
        self.tcp().queued_bytes()
    }

    /// From `at_ms` on the core's clock a receive that has nothing gives `TimedOut`.
    pub fn set_recv_deadline(&self, at_ms: Option<u64>) {
        self.tcp().set_recv_deadline(at_ms);
    }

    /// From `at_ms` on, a flush that is not done gives `TimedOut`.
    pub fn set_send_deadline(&self, at_ms: Option<u64>) {
        self.tcp().set_send_deadline(at_ms);
    }

    /// Ends the sending side after everything queued; with TLS behind a close_notify.
    pub fn shutdown_write(&self) {
        match self {
            Stream::Plain(tcp) => tcp.shutdown_write(),
            Stream::Tls(tls) => tls.shutdown_write(),
        }
    }

    /// nginx's lingering close, behind the last byte: our side is shut, and what the peer still sends is read and dropped
    /// for a while ([`Linger`]), so that no reset destroys our answer on its way (RFC 9112 section 9.6).
    /// Its time may have begun before.
    pub async fn linger(&self, begun: Option<Linger>) {
        self.shutdown_write();
        let linger = begun.unwrap_or_else(|| Linger::new(reactor::now_ms()));
        while let Some(late_ms) = linger.next(reactor::now_ms()) {
            self.set_recv_deadline(Some(late_ms));
            match self.recv().await {
                Ok(chunk) if !chunk.is_empty() => {}
                _ => return,
            }
        }
    }

    /// The other end.
    ///
    /// # Errors
    /// `NotConnected`, or the address is not an IP address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// This end.
    ///
    /// # Errors
    /// As [`Stream::peer_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.tcp(),
        }
    }
}
