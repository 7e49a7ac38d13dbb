//! The state of one connected socket, shared by its `TcpStream` and the driver.
//!
//! An operation in flight belongs to the slot, not to the future that waits for it: a dropped future loses its
//! waker only. The kernel knows the slot by its address, so a slot is freed (and its descriptor closed) only when
//! its stream is gone *and* the last completion was taken (`release_if_idle`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::Waker;

use super::chunk::{self, Chunk, Header};
use super::core::{Backend, Core, Timer};
use super::out::{Gathered, Outgoing};
use super::pipe::{Filled, Piped};
use super::wheel::Key;
use crate::limits;

/// What the kernel does for the receive side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecvOp {
    None,
    /// Multishot, into buffers of the ring.
    Multi,
    /// One receive into a large buffer (`Slot::landing`).
    Single,
    /// Waits for bytes, which are then taken by system call.
    Readable,
    /// Waits for the peer's FIN or reset only.
    Hangup,
}

/// What the kernel does for the send side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendOp {
    None,
    Send,
    Connect,
    /// Waits until there is room for what is in a pipe.
    Writable,
}

/// How bytes are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Parked, into small buffers.
    Small,
    /// One large chunk at a time.
    Bulk,
    /// The kernel only says that there are some: the first few are taken by system call, all others stay in the kernel
    /// (`pipe`).
    Piped,
}

/// A place for one waker.
#[derive(Default)]
pub(super) struct WakerCell(Cell<Option<Waker>>);

impl WakerCell {
    pub fn park(&self, waker: &Waker) {
        let old = self.0.take();
        self.0.set(match old {
            Some(old) if old.will_wake(waker) => Some(old),
            _ => Some(waker.clone()),
        });
    }

    pub fn take(&self) -> Option<Waker> {
        self.0.take()
    }

    pub fn is_set(&self) -> bool {
        let waker = self.0.take();
        let set = waker.is_some();
        self.0.set(waker);
        set
    }
}

/// Received and unread. Most often there is at most one chunk, which needs no allocation.
#[derive(Default)]
struct Received {
    front: Option<Chunk>,
    rest: VecDeque<Chunk>,
}

#[repr(align(16))] // the driver keeps four bits of its own in the address
pub(super) struct Slot {
    pub core: Rc<Core>,
    pub fd: Cell<RawFd>,
    pub recv_op: Cell<RecvOp>,
    /// A cancel of `recv_op` is under way.
    pub recv_cancelled: Cell<bool>,
    pub send_op: Cell<SendOp>,
    pub mode: Cell<Mode>,
    /// Pipes were asked for since the connection was last put to rest.
    pub was_piped: Cell<bool>,
    /// The ring had no buffer: wait for bytes first, then take them by system call.
    pub starved: Cell<bool>,
    pub eof: Cell<bool>,
    /// The peer's FIN or reset was seen; unread bytes may lie before it.
    pub hung_up: Cell<bool>,
    /// The stream is gone.
    pub detached: Cell<bool>,
    /// In the core's list of streams with something to send.
    pub dirty: Cell<bool>,
    pub shutdown_when_sent: Cell<bool>,
    /// epoll, and the mode `Piped`: a receive may be tried; cleared by EAGAIN, set by an edge.
    pub readable: Cell<bool>,
    /// epoll: the same for a send.
    pub writable: Cell<bool>,
    pub recv_errno: Cell<i32>,
    pub send_errno: Cell<i32>,
    pub landing: Cell<Option<NonNull<Header>>>,
    received: RefCell<Received>,
    pub recv_waker: WakerCell,
    pub closed_waker: WakerCell,
    pub send_waker: WakerCell,
    /// Milliseconds on the core's clock; u64::MAX: none.
    pub recv_deadline: Cell<u64>,
    pub send_deadline: Cell<u64>,
    timer: Cell<Option<(Key, u64)>>,
    /// Some while there is something to send or a connect runs.
    pub outgoing: RefCell<Option<Box<Outgoing>>>,
}

impl Slot {
    pub fn new(core: Rc<Core>, fd: RawFd) -> Slot {
        Slot {
            core,
            fd: Cell::new(fd),
            recv_op: Cell::new(RecvOp::None),
            recv_cancelled: Cell::new(false),
            send_op: Cell::new(SendOp::None),
            mode: Cell::new(Mode::Small),
            was_piped: Cell::new(false),
            starved: Cell::new(false),
            eof: Cell::new(false),
            hung_up: Cell::new(false),
            detached: Cell::new(false),
            dirty: Cell::new(false),
            shutdown_when_sent: Cell::new(false),
            readable: Cell::new(true),
            writable: Cell::new(true),
            recv_errno: Cell::new(0),
            send_errno: Cell::new(0),
            landing: Cell::new(None),
            received: RefCell::default(),
            recv_waker: WakerCell::default(),
            closed_waker: WakerCell::default(),
            send_waker: WakerCell::default(),
            recv_deadline: Cell::new(u64::MAX),
            send_deadline: Cell::new(u64::MAX),
            timer: Cell::new(None),
            outgoing: RefCell::default(),
        }
    }

    // --- receiving ---

    pub fn pop_received(&self) -> Option<Chunk> {
        let mut received = self.received.borrow_mut();
        let chunk = received.front.take()?;
        received.front = received.rest.pop_front();
        if received.rest.is_empty() && received.rest.capacity() > 0 {
            received.rest = VecDeque::new(); // an idle connection keeps no memory
        }
        Some(chunk)
    }

    pub fn push_received(&self, chunk: Chunk) {
        let mut received = self.received.borrow_mut();
        if received.front.is_none() {
            received.front = Some(chunk);
        } else {
            received.rest.push_back(chunk);
        }
    }

    pub fn unreceive(&self, chunk: Chunk) {
        let mut received = self.received.borrow_mut();
        if let Some(front) = received.front.replace(chunk) {
            received.rest.push_front(front);
        }
    }

    pub fn has_received(&self) -> bool {
        self.received.borrow().front.is_some()
    }

    #[cfg(test)]
    pub fn unread_bytes(&self) -> usize {
        let received = self.received.borrow();
        received.front.iter().chain(&received.rest).map(|chunk| chunk.len()).sum()
    }

    pub fn queue_full(&self) -> bool {
        self.received.borrow().rest.len() + 1 >= limits::RECV_QUEUE
    }

    /// Nothing more will be received.
    pub fn recv_ended(&self) -> bool {
        self.eof.get() || self.recv_errno.get() != 0
    }

    /// Bytes, the end or an error have come: whoever waits learns of it.
    pub fn received_something(&self) {
        self.recv_waker.take().into_iter().for_each(|waker| self.core.wake_later(waker));
        if self.recv_ended() || self.hung_up.get() {
            self.closed_waker.take().into_iter().for_each(|waker| self.core.wake_later(waker));
        }
    }

    /// Receives by system call; None: nothing there yet. Sets `eof` and `recv_errno`.
    pub fn recv_now(&self) -> Option<Chunk> {
        let buffers = &self.core.buffers;
        let (header, size) = match self.mode.get() {
            Mode::Small => (buffers.small(&self.core), buffers.small_bytes() as usize),
            Mode::Bulk => (Some(buffers.large(&self.core)), limits::BULK_BUFFER),
            Mode::Piped => (Some(buffers.large(&self.core)), limits::PIPED_HEAD),
        };
        let Some(header) = header else { return self.recv_to_heap() };
        match self.recv_into(chunk::memory(header), size) {
            // SAFETY: lent just now, and the kernel wrote its first n bytes; nobody else has it.
            Some(n) if n > 0 => Some(unsafe { Chunk::from_header(header, n as u32) }),
            _ => {
                // SAFETY: lent just now and used by nobody.
                unsafe { chunk::release(header) };
                None
            }
        }
    }

    /// Receives into a pipe, as [`Slot::recv_now`] into memory.
    pub fn recv_piped(&self, most: usize) -> Option<Piped> {
        let most = most.min(limits::PIPE_BYTES);
        match Piped::fill(&self.core, self.fd.get(), most) {
            Filled::Some(piped) => {
                // with epoll only EAGAIN says that the socket is drained: a pipe may be full of small packets
                let told_once = matches!(self.core.backend, Backend::Epoll(_)) || self.hung_up.get();
                self.readable.set(told_once);
                return Some(piped);
            }
            // Nothing, though there should be something: before an urgent byte (RFC 9293 section 3.8.5) a pipe gets nothing
            // for ever, while a receive goes on behind it.
            Filled::Nothing | Filled::NoPipe => self.mode.set(Mode::Bulk),
            Filled::End => self.eof.set(true),
            Filled::Failed(errno) => self.recv_errno.set(errno),
        }
        None
    }

    /// Bytes are received when they are asked for, and not by an operation in flight.
    pub fn receives_by_call(&self) -> bool {
        match self.core.backend {
            Backend::Epoll(_) => true,
            Backend::Uring(_) => {
                self.mode.get() == Mode::Piped
                    && !matches!(self.recv_op.get(), RecvOp::Multi | RecvOp::Single)
            }
        }
    }

    /// The core's receive buffers are all in use: take memory of the moment, only now that bytes may be there.
    fn recv_to_heap(&self) -> Option<Chunk> {
        self.core.counters.ring_exhausted.add(1);
        let mut vec = Vec::with_capacity(self.core.buffers.small_bytes() as usize);
        let n = self.recv_into(vec.as_mut_ptr(), vec.capacity())?;
        // SAFETY: the kernel wrote the first n bytes, n <= capacity.
        unsafe { vec.set_len(n) };
        (n > 0).then(|| Chunk::from_vec(vec))
    }

    /// None: would block, or an error, which is noted. Some(0): the end, which is noted too.
    fn recv_into(&self, memory: *mut u8, size: usize) -> Option<usize> {
        loop {
            self.core.counters.syscalls.add(1);
            // SAFETY: the callers own `size` bytes at `memory`.
            let n = unsafe { libc::recv(self.fd.get(), memory.cast(), size, libc::MSG_DONTWAIT) };
            if n > 0 {
                // Less than asked for: the socket is drained, and the next bytes bring an edge of their own. Unless
                // the end has been announced already: then no further edge will come.
                self.readable.set(n as usize == size || self.hung_up.get());
                return Some(n as usize);
            }
            if n == 0 {
                self.eof.set(true);
                return Some(0);
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => {
                    self.readable.set(false);
                    return None;
                }
                error => {
                    self.recv_errno.set(error.unwrap_or(libc::EIO));
                    return None;
                }
            }
        }
    }

    // --- sending ---

    /// Bytes queued and not yet taken by the kernel.
    pub fn queued(&self) -> usize {
        self.outgoing.borrow().as_ref().map_or(0, |outgoing| outgoing.queued)
    }

    /// Hands the queue to the kernel, unless an operation is in flight (its completion goes on with the rest).
    ///
    /// # Safety
    /// `this` is alive; it may be freed when it returns, if its stream is gone.
    pub unsafe fn flush(this: NonNull<Slot>, lone: bool) {
        // SAFETY: alive by the caller's word.
        let slot = unsafe { this.as_ref() };
        if slot.detached.get() {
            // SAFETY: alive, and not used after this.
            return unsafe { Slot::release_if_idle(this) };
        }
        if slot.send_op.get() != SendOp::None || slot.queued() == 0 {
            return;
        }
        match &slot.core.backend {
            Backend::Epoll(_) => slot.send_now(),
            Backend::Uring(uring) => {
                if lone {
                    slot.core.counters.sends_direct.add(1);
                }
                if lone || slot.outgoing.borrow().as_ref().is_some_and(|outgoing| outgoing.ends_piped()) {
                    slot.send_now();
                }
                if slot.queued() > 0 {
                    uring.send(this);
                }
            }
        }
    }

    /// Sends by system call until all is sent or the socket is full.
    pub fn send_now(&self) {
        if !self.writable.get() {
            return;
        }
        while let Some(outgoing) = self.outgoing.borrow_mut().as_mut() {
            const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            self.core.counters.syscalls.add(1);
            let flags = outgoing.flags(FLAGS);
            let sent = match outgoing.gather() {
                // SAFETY: gather describes memory that its pieces own; they stay until `advance`.
                Gathered::One(data, len) => {
                    counted(unsafe { libc::send(self.fd.get(), data.cast(), len, flags) })
                }
                // SAFETY: as above.
                Gathered::Many(message) => counted(unsafe { libc::sendmsg(self.fd.get(), message, flags) }),
                Gathered::Piped(piped) => piped.drain(self.fd.get()),
            };
            match sent {
                Ok(n) => {
                    outgoing.advance(n, &self.core.buffers);
                    if outgoing.queued == 0 {
                        break;
                    }
                }
                Err(libc::EINTR) => {}
                Err(libc::EAGAIN) => {
                    // With io_uring the ring takes over from here.
                    self.writable.set(matches!(self.core.backend, Backend::Uring(_)));
                    return;
                }
                Err(errno) => {
                    self.send_errno.set(errno);
                    break;
                }
            }
        }
        self.send_finished();
    }

    /// All is sent, or an error ended it, or a connect is decided.
    pub fn send_finished(&self) {
        let outgoing = self.outgoing.borrow_mut().take();
        outgoing.into_iter().for_each(|outgoing| self.core.give_outgoing(outgoing));
        if self.shutdown_when_sent.get() {
            self.shutdown_write();
        }
        self.send_waker.take().into_iter().for_each(|waker| self.core.wake_later(waker));
    }

    pub fn shutdown_write(&self) {
        // SAFETY: takes integers. It fails only when the connection is gone already, which a receive reports.
        unsafe { libc::shutdown(self.fd.get(), libc::SHUT_WR) };
    }

    // --- deadlines ---

    /// A deadline was set: make sure that the timer fires by then. Most often an earlier one is pending, and
    /// looks again when it fires.
    pub fn arm_timer(&self, at_ms: u64) {
        let pending = self.timer.get();
        if at_ms == u64::MAX || pending.is_some_and(|(_, timer_ms)| timer_ms <= at_ms) {
            return;
        }
        self.disarm_timer();
        let key = self.core.add_timer(at_ms, Timer::Slot(NonNull::from(self)));
        self.timer.set(Some((key, at_ms)));
    }

    pub fn disarm_timer(&self) {
        if let Some((key, _)) = self.timer.take() {
            self.core.remove_timer(key);
        }
    }

    pub fn timer_fired(&self) {
        self.timer.set(None);
        let now_ms = self.core.now_ms();
        let mut next_ms = u64::MAX;
        for (deadline, waker) in
            [(&self.recv_deadline, &self.recv_waker), (&self.send_deadline, &self.send_waker)]
        {
            if deadline.get() <= now_ms {
                waker.take().into_iter().for_each(|waker| self.core.wake_later(waker));
            } else {
                next_ms = next_ms.min(deadline.get());
            }
        }
        self.arm_timer(next_ms);
    }

    // --- the end ---

    /// Frees the slot and closes its descriptor if its stream is gone and nothing in flight refers to it.
    ///
    /// # Safety
    /// `this` is alive, made by `Box::leak`, and not used afterwards by a caller that has no operation in flight
    /// and no stream.
    pub unsafe fn release_if_idle(this: NonNull<Slot>) {
        // SAFETY: alive by the caller's word.
        let slot = unsafe { this.as_ref() };
        let busy =
            slot.recv_op.get() != RecvOp::None || slot.send_op.get() != SendOp::None || slot.dirty.get();
        if !slot.detached.get() || busy {
            return;
        }
        // SAFETY: no stream, no operation, no list and no timer (the stream's drop removed it) refers to it.
        let slot = unsafe { Box::from_raw(this.as_ptr()) };
        let fd = slot.fd.replace(-1);
        if fd >= 0 {
            match &slot.core.backend {
                Backend::Uring(uring) if slot.core.alive.get() => uring.close(fd),
                // SAFETY: the slot owned the descriptor, and has forgotten it.
                _ => drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) }),
            }
        }
    }
}

/// The result of a system call: a number of bytes, or `errno`.
fn counted(n: isize) -> Result<usize, i32> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_idle_stream_costs_less_than_300_bytes() {
        assert!(size_of::<super::Slot>() <= 300, "{}", size_of::<super::Slot>());
    }
}
