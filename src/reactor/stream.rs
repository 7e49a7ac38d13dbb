//! A connected TCP (or Unix) stream.

use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::chunk::Chunk;
use super::core::{self, Backend, Core};
use super::out::Out;
use super::pipe::Arrived;
use super::slot::{Mode, RecvOp, SendOp, Slot};

/// A connected socket of this core. All methods take `&self`; one task may receive while another sends.
///
/// Receiving is parked in the kernel between calls and never loses bytes when a future is dropped. Dropping the
/// stream cancels what is in flight, throws away what is queued for sending (await [`TcpStream::flush`] first), and
/// closes the descriptor when the kernel has let go of it.
pub struct TcpStream {
    slot: NonNull<Slot>,
    _owned: PhantomData<Rc<Slot>>,
}

impl TcpStream {
    /// Takes over a connected socket, for instance one accepted on another core.
    ///
    /// # Errors
    /// What `epoll_ctl` says; none with io_uring.
    pub fn from_fd(fd: OwnedFd) -> io::Result<TcpStream> {
        core::with(|core| {
            let stream = TcpStream::unregistered(core, fd);
            stream.register()?;
            Ok(stream)
        })
    }

    fn unregistered(core: &Rc<Core>, fd: OwnedFd) -> TcpStream {
        let slot = Box::new(Slot::new(core.clone(), fd.into_raw_fd()));
        TcpStream { slot: NonNull::from(Box::leak(slot)), _owned: PhantomData }
    }

    fn register(&self) -> io::Result<()> {
        match &self.slot().core.backend {
            Backend::Epoll(epoll) => epoll.add_stream(self.slot),
            Backend::Uring(_) => Ok(()),
        }
    }

    fn slot(&self) -> &Slot {
        // SAFETY: the slot is freed only after it was detached, which our drop does.
        unsafe { self.slot.as_ref() }
    }

    /// Bytes that were taken from the kernel and not yet by [`TcpStream::recv`].
    #[cfg(test)]
    pub(super) fn unread_bytes(&self) -> usize {
        self.slot().unread_bytes()
    }

    /// Connects, with `TCP_NODELAY` set.
    ///
    /// # Errors
    /// `TimedOut` after `timeout_ms`; else what `connect(2)` says.
    pub async fn connect(address: SocketAddr, timeout_ms: u32) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        TcpStream::connect_socket(socket, address.into(), timeout_ms).await
    }

    /// Connects a stream socket that the caller made and set up (bound, Unix domain, options).
    ///
    /// # Errors
    /// As [`TcpStream::connect`].
    pub async fn connect_socket(socket: Socket, address: SockAddr, timeout_ms: u32) -> io::Result<TcpStream> {
        let stream = core::with(|core| TcpStream::start_connect(core, socket, address))?;
        let slot = stream.slot();
        stream.set_send_deadline(Some(slot.core.now_ms() + u64::from(timeout_ms)));
        poll_fn(|cx| {
            if slot.send_op.get() != SendOp::Connect {
                return Poll::Ready(stream.sent());
            }
            stream.park_send(cx)
        })
        .await?;
        stream.set_send_deadline(None);
        Ok(stream)
    }

    fn start_connect(core: &Rc<Core>, socket: Socket, address: SockAddr) -> io::Result<TcpStream> {
        if let Backend::Epoll(_) = core.backend {
            socket.set_nonblocking(true)?;
            let started = socket.connect(&address);
            let stream = TcpStream::unregistered(core, socket.into());
            match started {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                    stream.slot().send_op.set(SendOp::Connect);
                }
                Err(error) => return Err(error),
            }
            // Only now: a socket that does not connect yet counts as hung up.
            stream.register().inspect_err(|_| stream.slot().send_op.set(SendOp::None))?;
            return Ok(stream);
        }
        let stream = TcpStream::unregistered(core, socket.into());
        if let Backend::Uring(uring) = &core.backend {
            let mut outgoing = core.take_outgoing();
            outgoing.address = Some(Box::new(address));
            *stream.slot().outgoing.borrow_mut() = Some(outgoing);
            uring.connect(stream.slot);
        }
        Ok(stream)
    }

    /// Bytes in the order in which they came; an empty chunk is the end of the stream. Never loses any: what
    /// arrives while nobody asks waits in the stream (boundedly, then in the kernel).
    ///
    /// One task at a time: a second one takes over the wake-up of the first.
    ///
    /// # Errors
    /// `TimedOut` when the receive deadline has passed (the stream can still be used), else what `recv(2)` says.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let slot = self.slot();
        if let Some(chunk) = slot.pop_received() {
            return Poll::Ready(Ok(chunk));
        }
        if slot.receives_by_call()
            && slot.readable.get()
            && !slot.recv_ended()
            && let Some(chunk) = slot.recv_now()
        {
            return Poll::Ready(Ok(chunk));
        }
        if slot.recv_errno.get() != 0 {
            return Poll::Ready(Err(io::Error::from_raw_os_error(slot.recv_errno.get())));
        }
        if slot.eof.get() {
            return Poll::Ready(Ok(Chunk::empty()));
        }
        if slot.recv_deadline.get() <= slot.core.now_ms() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !slot.core.alive.get() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        slot.recv_waker.park(cx.waker());
        self.arm();
        Poll::Pending
    }

    fn arm(&self) {
        if let Backend::Uring(uring) = &self.slot().core.backend {
            uring.arm_recv(self.slot);
        }
    }

    /// See [`TcpStream::poll_recv`]; may be dropped at any time without loss.
    ///
    /// # Errors
    /// As `poll_recv`.
    pub async fn recv(&self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Puts bytes that were not for this reader back in front.
    pub fn unrecv(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.slot().unreceive(chunk);
        }
    }

    /// True when bytes wait unread. Sure only for a stream that was polled before (`poll_recv` or `poll_closed`):
    /// else, with io_uring, they still lie in the kernel.
    pub fn has_buffered(&self) -> bool {
        let slot = self.slot();
        if slot.receives_by_call() && slot.readable.get() && !slot.has_received() && !slot.recv_ended() {
            slot.recv_now().into_iter().for_each(|chunk| slot.push_received(chunk));
        }
        slot.has_received()
    }

    /// True when a receive is parked and nothing has come: no bytes, no end, no error. False also means that only a
    /// [`TcpStream::poll_recv`] can tell.
    pub fn is_silent(&self) -> bool {
        let slot = self.slot();
        let parked = match slot.core.backend {
            Backend::Uring(_) => {
                let parked = match slot.mode.get() {
                    Mode::Piped => RecvOp::Readable,
                    Mode::Small | Mode::Bulk => RecvOp::Multi,
                };
                slot.recv_op.get() == parked && !slot.recv_cancelled.get()
            }
            Backend::Epoll(_) => !slot.readable.get(),
        };
        parked && !slot.has_received() && !slot.recv_ended() && !slot.hung_up.get()
    }

    /// True: from now on receive into 64 KiB buffers, one at a time, and only while somebody asks: that is the
    /// back-pressure of a streaming body. False: back to the parked receive into small buffers.
    pub fn expect_bulk(&self, bulk: bool) {
        self.set_mode(if bulk { Mode::Bulk } else { Mode::Small });
    }

    /// The next message will be received like the last one was: if that one came in pipes, the parked receive takes no
    /// more than its head.
    pub fn expect_alike(&self) {
        let slot = self.slot();
        if !slot.was_piped.replace(false) {
            self.set_mode(Mode::Small);
        }
    }

    fn set_mode(&self, mode: Mode) {
        let slot = self.slot();
        if slot.mode.replace(mode) != mode
            && mode != Mode::Small
            && let Backend::Uring(uring) = &slot.core.backend
        {
            slot.readable.set(false);
            if slot.recv_op.get() == RecvOp::Multi {
                uring.cancel_recv(slot);
            }
        }
    }

    /// As [`TcpStream::poll_recv`], for at most `most` bytes that nobody looks at: where they can, they stay in the kernel.
    /// What was under way already comes as chunks before.
    ///
    /// # Errors
    /// As `poll_recv`.
    pub fn poll_piped(&self, cx: &mut Context<'_>, most: u64) -> Poll<io::Result<Arrived>> {
        let slot = self.slot();
        self.set_mode(Mode::Piped);
        slot.was_piped.set(true);
        if slot.receives_by_call()
            && slot.readable.get()
            && !slot.has_received()
            && !slot.recv_ended()
            && let Some(piped) = slot.recv_piped(usize::try_from(most).unwrap_or(usize::MAX))
        {
            return Poll::Ready(Ok(Arrived::Piped(piped)));
        }
        self.poll_recv(cx).map_ok(Arrived::Chunk)
    }

    /// Ready when the peer has closed its side or reset the connection, for a time when nobody receives. Bytes that
    /// come first stay queued. A peer that only shuts down its write side (a half-close) counts as closed.
    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let slot = self.slot();
        if slot.recv_ended() || slot.hung_up.get() || !slot.core.alive.get() {
            return Poll::Ready(());
        }
        slot.closed_waker.park(cx.waker());
        self.arm();
        Poll::Pending
    }

    /// Queues bytes. They are handed to the kernel at the end of this turn, in one call with everything else that
    /// was queued on this stream by then. After an error they are dropped, and `sent` and
    /// `poll_flushed` tell.
    pub fn send(&self, out: impl Into<Out>) {
        let slot = self.slot();
        if slot.send_errno.get() != 0 || !slot.core.alive.get() {
            return;
        }
        let mut place = slot.outgoing.borrow_mut();
        let outgoing = place.get_or_insert_with(|| slot.core.take_outgoing());
        outgoing.push(out.into(), &slot.core.buffers);
        if !slot.dirty.get() && slot.send_op.get() == SendOp::None {
            slot.dirty.set(true);
            slot.core.mark_dirty(self.slot);
        }
    }

    /// Ready when the kernel has taken everything queued: the back-pressure of the send side.
    ///
    /// # Errors
    /// What a send before said, now and for ever; `TimedOut` when the send deadline has passed.
    pub fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sent()?;
        if self.queued_bytes() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.park_send(cx)
    }

    /// See [`TcpStream::poll_flushed`].
    ///
    /// # Errors
    /// As `poll_flushed`.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flushed(cx)).await
    }

    fn park_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let slot = self.slot();
        if slot.send_deadline.get() <= slot.core.now_ms() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !slot.core.alive.get() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        slot.send_waker.park(cx.waker());
        Poll::Pending
    }

    /// Whether all that was sent so far has left or may still leave.
    ///
    /// # Errors
    /// Of the first send that failed, now and for ever: what came behind it was dropped.
    pub fn sent(&self) -> io::Result<()> {
        match self.slot().send_errno.get() {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Bytes queued that the kernel has not taken.
    pub fn queued_bytes(&self) -> usize {
        self.slot().queued()
    }

    /// From `at_ms` on the core's clock ([`super::now_ms`]) a receive that has nothing gives `TimedOut`. Cheap:
    /// a store, most often.
    pub fn set_recv_deadline(&self, at_ms: Option<u64>) {
        let at_ms = at_ms.unwrap_or(u64::MAX);
        self.slot().recv_deadline.set(at_ms);
        self.slot().arm_timer(at_ms);
    }

    /// From `at_ms` on, a flush that is not done gives `TimedOut`.
    pub fn set_send_deadline(&self, at_ms: Option<u64>) {
        let at_ms = at_ms.unwrap_or(u64::MAX);
        self.slot().send_deadline.set(at_ms);
        self.slot().arm_timer(at_ms);
    }

    /// Sends a FIN after everything queued.
    pub fn shutdown_write(&self) {
        let slot = self.slot();
        slot.shutdown_when_sent.set(true);
        if slot.queued() == 0 {
            slot.shutdown_write();
        }
    }

    /// The connection will be reset when the stream is dropped.
    ///
    /// # Errors
    /// What `setsockopt` says.
    pub fn set_linger_zero(&self) -> io::Result<()> {
        SockRef::from(&self.fd()).set_linger(Some(Duration::ZERO))
    }

    /// The other end.
    ///
    /// # Errors
    /// `NotConnected`, or the address is not an IP address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.fd()).peer_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// This end.
    ///
    /// # Errors
    /// As [`TcpStream::peer_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.fd()).local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the slot keeps the descriptor open as long as self lives.
        unsafe { BorrowedFd::borrow_raw(self.slot().fd.get()) }
    }

    /// Gives the descriptor away, for another core or another kind of socket. Only when nothing is in flight or
    /// queued: before the first receive, or after the end of the stream.
    ///
    /// # Errors
    /// The stream itself, when it is not idle.
    pub fn into_fd(self) -> Result<OwnedFd, TcpStream> {
        let slot = self.slot();
        let idle = slot.recv_op.get() == RecvOp::None && slot.send_op.get() == SendOp::None;
        if !idle || slot.queued() > 0 || slot.has_received() {
            return Err(self);
        }
        if let Backend::Epoll(epoll) = &slot.core.backend {
            epoll.remove(self.fd().as_raw_fd());
        }
        // SAFETY: the slot owns the descriptor and forgets it here, so it is owned once.
        Ok(unsafe { OwnedFd::from_raw_fd(slot.fd.replace(-1)) })
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let slot = self.slot();
        slot.detached.set(true);
        slot.disarm_timer();
        let wakers = [slot.recv_waker.take(), slot.closed_waker.take(), slot.send_waker.take()];
        while slot.pop_received().is_some() {}
        match &slot.core.backend {
            Backend::Uring(uring) => {
                uring.cancel_recv(slot);
                uring.cancel_send(slot);
            }
            Backend::Epoll(_) => slot.send_op.set(SendOp::None), // a connect, known to the kernel by the descriptor only
        }
        if slot.send_op.get() == SendOp::None {
            let outgoing = slot.outgoing.borrow_mut().take();
            outgoing.into_iter().for_each(|outgoing| slot.core.give_outgoing(outgoing));
        }
        // SAFETY: alive, made by Box::leak, and this stream, the last to know it, does not use it any more.
        unsafe { Slot::release_if_idle(self.slot) };
        drop(wakers); // may run foreign code
    }
}
