//! Listening sockets and what they accept.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::core::{self, Backend, Core};
use super::slot::WakerCell;
use crate::limits;

/// How to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that the kernel holds for us.
    pub backlog: i32,
    /// Several sockets share the port, one per core.
    pub reuseport: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions { backlog: 4096, reuseport: true }
    }
}

/// Opens a listening socket on any thread, for [`Listener::from_std`] on a core.
///
/// # Errors
/// What `bind(2)` and `listen(2)` say.
pub fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = bound(address, options)?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// Takes an address that no other socket may have, and lets it go when it is dropped. Nobody can connect to it meanwhile.
///
/// # Errors
/// What `bind(2)` says.
pub fn take_alone(address: SocketAddr) -> io::Result<Socket> {
    bound(address, ListenOptions { reuseport: false, ..ListenOptions::default() })
}

fn bound(address: SocketAddr, options: ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if options.reuseport {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?; // accepted sockets inherit it
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A connection that no core has taken up yet: it may be sent to another one, where
/// [`TcpStream::from_fd`](super::TcpStream::from_fd) makes it a stream.
#[derive(Debug)]
pub struct Accepted(OwnedFd);

impl Accepted {
    /// The client's address.
    ///
    /// # Errors
    /// `NotConnected`: it has gone again.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        SockRef::from(&self.0).peer_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

impl From<Accepted> for OwnedFd {
    fn from(accepted: Accepted) -> OwnedFd {
        accepted.0
    }
}

/// What the drivers see of a listener; as with a stream's slot, the kernel knows it by its address.
#[repr(align(16))]
pub(super) struct AcceptSlot {
    pub core: Rc<Core>,
    pub socket: TcpListener,
    /// The multishot accept is in flight (io_uring).
    pub armed: Cell<bool>,
    pub cancelled: Cell<bool>,
    pub stopped: Cell<bool>,
    detached: Cell<bool>,
    /// epoll: an accept may succeed.
    pub ready: Cell<bool>,
    pub errno: Cell<i32>,
    accepted: RefCell<VecDeque<OwnedFd>>,
    pub waker: WakerCell,
}

impl AcceptSlot {
    /// A connection, or an error number, from the ring.
    pub fn completed(&self, result: Result<RawFd, i32>) {
        match result {
            Ok(fd) => {
                // SAFETY: the completion hands the new descriptor to us alone.
                self.accepted.borrow_mut().push_back(unsafe { OwnedFd::from_raw_fd(fd) });
            }
            Err(libc::ECANCELED) => {}
            Err(errno) => self.errno.set(errno),
        }
        self.waker.take().into_iter().for_each(|waker| self.core.wake_later(waker));
    }

    pub fn queue_full(&self) -> bool {
        self.accepted.borrow().len() >= limits::ACCEPT_QUEUE
    }

    /// Frees the slot if its listener is gone and the kernel does not know it any more.
    ///
    /// # Safety
    /// `this` is alive, made by `Box::leak`, and not used afterwards.
    pub unsafe fn release_if_idle(this: NonNull<AcceptSlot>) {
        // SAFETY: alive by the caller's word.
        let slot = unsafe { this.as_ref() };
        if slot.detached.get() && !slot.armed.get() {
            // SAFETY: neither a listener nor an operation refers to it.
            drop(unsafe { Box::from_raw(this.as_ptr()) });
        }
    }
}

/// A listening socket of this core.
pub struct Listener {
    slot: NonNull<AcceptSlot>,
    _owned: PhantomData<Rc<AcceptSlot>>,
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// What [`listen`] says.
    pub fn bind(address: SocketAddr, options: ListenOptions) -> io::Result<Listener> {
        Listener::from_std(listen(address, options)?)
    }

    /// Takes over a listening socket.
    ///
    /// # Errors
    /// What `fcntl` and `epoll_ctl` say.
    pub fn from_std(socket: TcpListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        core::with(|core| {
            let slot = Box::new(AcceptSlot {
                core: core.clone(),
                socket,
                armed: Cell::new(false),
                cancelled: Cell::new(false),
                stopped: Cell::new(false),
                detached: Cell::new(false),
                ready: Cell::new(true),
                errno: Cell::new(0),
                accepted: RefCell::default(),
                waker: WakerCell::default(),
            });
            let listener = Listener { slot: NonNull::from(Box::leak(slot)), _owned: PhantomData };
            if let Backend::Epoll(epoll) = &core.backend {
                epoll.add_listener(listener.slot)?;
            }
            Ok(listener)
        })
    }

    fn slot(&self) -> &AcceptSlot {
        // SAFETY: freed only after it was detached, which our drop does.
        unsafe { self.slot.as_ref() }
    }

    /// The next connection.
    ///
    /// # Errors
    /// `Interrupted` after [`Listener::stop`]. What `accept(2)` says otherwise: at EMFILE and the like, wait a
    /// little and go on.
    pub async fn accept(&self) -> io::Result<Accepted> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// See [`Listener::accept`].
    ///
    /// # Errors
    /// As `accept`.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let slot = self.slot();
        if let Some(fd) = slot.accepted.borrow_mut().pop_front() {
            return Poll::Ready(Ok(Accepted(fd)));
        }
        if slot.errno.get() != 0 {
            return Poll::Ready(Err(io::Error::from_raw_os_error(slot.errno.replace(0))));
        }
        if slot.stopped.get() && !slot.armed.get() {
            return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
        }
        if !slot.core.alive.get() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        match &slot.core.backend {
            Backend::Epoll(_) if slot.ready.get() => match self.accept_now() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => slot.ready.set(false),
                result => return Poll::Ready(result),
            },
            Backend::Epoll(_) => {}
            Backend::Uring(uring) => uring.arm_accept(self.slot),
        }
        slot.waker.park(cx.waker());
        Poll::Pending
    }

    fn accept_now(&self) -> io::Result<Accepted> {
        loop {
            match self.slot().socket.accept() {
                Ok((stream, _)) => return Ok(Accepted(stream.into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Accepts no more by itself; `accept` gives what was taken from the kernel before, then `Interrupted`.
    /// What waits in the backlog is fetched with [`Listener::drain_backlog`].
    pub fn stop(&self) {
        let slot = self.slot();
        slot.stopped.set(true);
        match &slot.core.backend {
            Backend::Uring(uring) if slot.armed.get() => uring.cancel_accept(slot),
            _ => slot.waker.take().into_iter().for_each(Waker::wake),
        }
    }

    /// The next connection that has come already, without waiting. After `stop`, call it until None before the
    /// listener is dropped: the kernel resets what is left in the backlog.
    pub fn drain_backlog(&self) -> Option<Accepted> {
        let queued = self.slot().accepted.borrow_mut().pop_front();
        queued.map(Accepted).or_else(|| self.accept_now().ok())
    }

    /// Listens no more: who connects from now on is refused, or served by another socket of the port. What is left
    /// in the backlog is reset, so [`Listener::drain_backlog`] goes first.
    pub fn close(&self) {
        // a socket that listens no longer fails with ENOTCONN, which is what is wanted
        let _ = SockRef::from(&self.slot().socket).shutdown(std::net::Shutdown::Read);
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What `getsockname` says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.slot().socket.local_addr()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let slot = self.slot();
        slot.detached.set(true);
        let waker = slot.waker.take();
        match &slot.core.backend {
            Backend::Uring(uring) => uring.cancel_accept(slot),
            // Closing a copy of a socket does not end its events while another copy is open elsewhere.
            Backend::Epoll(epoll) => epoll.remove(slot.socket.as_raw_fd()),
        }
        // SAFETY: alive, made by Box::leak, and not used by this listener any more.
        unsafe { AcceptSlot::release_if_idle(self.slot) };
        drop(waker);
    }
}
