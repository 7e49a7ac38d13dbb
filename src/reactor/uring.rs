//! The io_uring driver.
//!
//! One ring per core with `SINGLE_ISSUER` and `DEFER_TASKRUN` (kernel 6.1): completions are made only when the
//! core asks for them, in the one `io_uring_enter` of a turn that also submits everything queued. A parked stream has a
//! multishot receive in flight that takes a buffer from the shared ring only when bytes are there.
//!
//! What the kernel may still touch is owned by slots, and slots are freed after their last completion (`slot`).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::Config;
use super::chunk::{self, Buffers, Chunk};
use super::core::Core;
use super::listener::AcceptSlot;
use super::out::Gathered;
use super::slot::{Mode, RecvOp, SendOp, Slot};
use super::task::Remote;
use super::udp::{Direction, UdpSlot};
use crate::limits;

/// What the low bits of a completion's user data say about its address.
const IGNORE: u64 = 0;
const RECV: u64 = 1;
const SEND: u64 = 2;
const ACCEPT: u64 = 3;
const WAKE: u64 = 4;
const UDP_READ: u64 = 5;
const UDP_WRITE: u64 = 6;
const TAGS: u64 = 15;

const GROUP: u16 = 0;
const ENTER_GETEVENTS: u32 = 1;
const GONE: i32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as i32;

pub(super) struct Uring {
    ring: RefCell<IoUring>,
    /// Completions of this turn, copied out so that the ring is free while they are handled.
    reaped: RefCell<Vec<cqueue::Entry>>,
    /// Operations that own a completion to come.
    in_flight: Cell<usize>,
    wake_fd: RawFd,
}

impl Uring {
    /// The ring and its buffers; any error means that the host does not allow what this driver needs.
    pub fn new(config: &Config, remote: &Remote) -> io::Result<(Uring, Buffers)> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(config.ring_entries.saturating_mul(4))
            .build(config.ring_entries)?;
        let buffers = Buffers::new(config.recv_buffers, config.recv_buffer_bytes, true)?;
        if let Some((address, count)) = buffers.ring() {
            // SAFETY: `address` begins `count` page-aligned entries that live as long as `buffers`, which the
            // core drops after the ring.
            unsafe { ring.submitter().register_buf_ring_with_flags(address, count, GROUP, 0) }?;
        }
        // 6.1 has all the operations used here; the flags above are refused before it.
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let uring = Uring {
            ring: RefCell::new(ring),
            reaped: RefCell::default(),
            in_flight: Cell::new(0),
            wake_fd: remote.event().as_raw_fd(),
        };
        uring.watch_wakes();
        Ok((uring, buffers))
    }

    fn push(&self, entry: &Entry) {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: every caller's entry points only to memory that its slot keeps until the completion.
        while unsafe { ring.submission().push(entry) }.is_err() {
            // The queue is full: hand it over early. When the kernel is short of memory, it takes some at last.
            let _ = ring.submit();
        }
    }

    /// Pushes an operation whose completion will find `address` again.
    fn start<T>(&self, entry: Entry, slot: NonNull<T>, tag: u64) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.push(&entry.user_data(slot.as_ptr().expose_provenance() as u64 | tag));
    }

    fn ended(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }

    fn watch_wakes(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        let entry = opcode::PollAdd::new(Fd(self.wake_fd), libc::POLLIN as u32).multi(true).build();
        self.push(&entry.user_data(WAKE));
    }

    fn cancel<T>(&self, slot: *const T, tag: u64) {
        let entry = opcode::AsyncCancel::new(slot.expose_provenance() as u64 | tag).build();
        self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(IGNORE));
    }

    /// Closes a descriptor that no operation uses any more.
    pub fn close(&self, fd: RawFd) {
        let entry = opcode::Close::new(Fd(fd)).build();
        self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(IGNORE));
    }

    // --- receiving ---

    /// Sees to it that what the stream waits for is in flight.
    pub fn arm_recv(&self, this: NonNull<Slot>) {
        // SAFETY: callers hold the stream or an operation of it.
        let slot = unsafe { this.as_ref() };
        if slot.detached.get() || slot.recv_ended() || !slot.core.alive.get() {
            return;
        }
        let wanted = if slot.recv_waker.is_set() {
            match (slot.mode.get(), slot.starved.get()) {
                (Mode::Bulk, _) => RecvOp::Single,
                (Mode::Piped, _) | (Mode::Small, true) => RecvOp::Readable,
                (Mode::Small, false) => RecvOp::Multi,
            }
        } else if slot.closed_waker.is_set() && !slot.hung_up.get() {
            let parked = slot.mode.get() == Mode::Small && !slot.starved.get() && !slot.queue_full();
            if parked { RecvOp::Multi } else { RecvOp::Hangup }
        } else {
            return;
        };
        match slot.recv_op.get() {
            RecvOp::None => self.start_recv(this, slot, wanted),
            RecvOp::Hangup if wanted != RecvOp::Hangup => self.cancel_recv(slot), // its end arms what is wanted
            _ => {} // it tells of bytes and of the end, or is being cancelled
        }
    }

    fn start_recv(&self, this: NonNull<Slot>, slot: &Slot, op: RecvOp) {
        slot.core.counters.recv_armed.add(1);
        let fd = Fd(slot.fd.get());
        let entry = match op {
            RecvOp::None => return,
            RecvOp::Multi => opcode::RecvMulti::new(fd, GROUP).build(),
            RecvOp::Single => {
                let header = slot.core.buffers.large(&slot.core);
                slot.landing.set(Some(header));
                opcode::Recv::new(fd, chunk::memory(header), limits::BULK_BUFFER as u32).build()
            }
            RecvOp::Readable => opcode::PollAdd::new(fd, (libc::POLLIN | libc::POLLRDHUP) as u32).build(),
            RecvOp::Hangup => opcode::PollAdd::new(fd, libc::POLLRDHUP as u32).build(),
        };
        slot.recv_op.set(op);
        self.start(entry, this, RECV);
    }

    pub fn cancel_recv(&self, slot: &Slot) {
        if slot.recv_op.get() != RecvOp::None && !slot.recv_cancelled.replace(true) {
            self.cancel(slot, RECV);
        }
    }

    fn received(&self, this: NonNull<Slot>, result: i32, flags: u32) {
        // SAFETY: a slot is not freed before the last completion of its operations, of which this is one.
        let slot = unsafe { this.as_ref() };
        let op = slot.recv_op.get();
        if !cqueue::more(flags) {
            self.ended();
            slot.recv_op.set(RecvOp::None);
            slot.recv_cancelled.set(false);
        }
        let header = match op {
            RecvOp::Single => slot.landing.take(),
            _ => cqueue::buffer_select(flags).and_then(|number| slot.core.buffers.picked(&slot.core, number)),
        };
        if let Some(header) = header {
            if result > 0 && !slot.detached.get() {
                // SAFETY: the kernel filled the first `result` bytes of this buffer and gave it up with this
                // completion; `picked` or `large` lent it to us.
                slot.push_received(unsafe { Chunk::from_header(header, result as u32) });
            } else {
                // SAFETY: lent to us, and in use by nobody.
                unsafe { chunk::release(header) };
            }
        }
        match (op, -result) {
            (_, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            (_, libc::ENOBUFS) => {
                slot.core.counters.ring_exhausted.add(1);
                slot.starved.set(true);
            }
            (_, errno) if errno > 0 => slot.recv_errno.set(errno),
            (RecvOp::Readable, _) => {
                slot.hung_up.set(slot.hung_up.get() || result & GONE != 0);
                slot.readable.set(true);
                let starved = slot.starved.replace(false) && slot.mode.get() != Mode::Piped;
                if starved && slot.recv_waker.is_set() && !slot.detached.get() {
                    slot.recv_now().into_iter().for_each(|chunk| slot.push_received(chunk));
                }
            }
            (RecvOp::Hangup, _) => slot.hung_up.set(true),
            (_, 0) => slot.eof.set(true),
            _ => {}
        }
        if slot.detached.get() {
            // SAFETY: alive, and not used after this.
            return unsafe { Slot::release_if_idle(this) };
        }
        let is_told = slot.mode.get() == Mode::Piped && slot.readable.get();
        if is_told || slot.has_received() || slot.recv_ended() || slot.hung_up.get() {
            slot.received_something();
        }
        if slot.queue_full() && slot.recv_op.get() == RecvOp::Multi {
            self.cancel_recv(slot);
        }
        if slot.recv_op.get() == RecvOp::None {
            self.arm_recv(this);
        }
    }

    // --- sending ---

    /// Submits what is queued, as one operation.
    pub fn send(&self, this: NonNull<Slot>) {
        // SAFETY: the caller holds the stream, its entry in the dirty list, or its last send.
        let slot = unsafe { this.as_ref() };
        let mut outgoing = slot.outgoing.borrow_mut();
        let Some(outgoing) = outgoing.as_mut() else { return };
        let fd = Fd(slot.fd.get());
        let flags = outgoing.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        let mut op = SendOp::Send;
        let entry = match outgoing.gather() {
            Gathered::One(data, len) => {
                opcode::Send::new(fd, data, u32::try_from(len).unwrap_or(u32::MAX)).flags(flags).build()
            }
            Gathered::Many(message) => opcode::SendMsg::new(fd, message).flags(flags as u32).build(),
            Gathered::Piped(_) => {
                op = SendOp::Writable;
                opcode::PollAdd::new(fd, libc::POLLOUT as u32).build()
            }
        };
        slot.send_op.set(op);
        self.start(entry, this, SEND);
    }

    /// Starts the connect to `Outgoing::address`.
    pub fn connect(&self, this: NonNull<Slot>) {
        // SAFETY: the caller holds the stream.
        let slot = unsafe { this.as_ref() };
        let outgoing = slot.outgoing.borrow();
        let Some(address) = outgoing.as_ref().and_then(|outgoing| outgoing.address.as_ref()) else { return };
        let entry = opcode::Connect::new(Fd(slot.fd.get()), address.as_ptr().cast(), address.len()).build();
        slot.send_op.set(SendOp::Connect);
        self.start(entry, this, SEND);
    }

    /// For a stream that goes away: its queue is freed when the cancelled operation has ended.
    pub fn cancel_send(&self, slot: &Slot) {
        if slot.send_op.get() != SendOp::None {
            self.cancel(slot, SEND);
        }
    }

    fn sent(&self, this: NonNull<Slot>, result: i32) {
        self.ended();
        // SAFETY: as in `received`.
        let slot = unsafe { this.as_ref() };
        let op = slot.send_op.replace(SendOp::None);
        let mut queued = 0;
        match (op, -result) {
            (SendOp::Connect, errno) => slot.send_errno.set(errno.max(0)),
            (_, libc::EINTR | libc::EAGAIN) => queued = slot.queued(),
            (_, errno) if errno > 0 => slot.send_errno.set(errno),
            (SendOp::Writable, _) => queued = slot.queued(),
            _ => {
                if let Some(outgoing) = slot.outgoing.borrow_mut().as_mut() {
                    outgoing.advance(result as usize, &slot.core.buffers);
                    queued = outgoing.queued;
                }
            }
        }
        if slot.detached.get() {
            drop(slot.outgoing.take());
            // SAFETY: alive, and not used after this.
            unsafe { Slot::release_if_idle(this) };
        } else if queued > 0 && slot.core.alive.get() {
            if slot.outgoing.borrow().as_ref().is_some_and(|outgoing| outgoing.begins_piped()) {
                slot.send_now();
            }
            if slot.queued() > 0 {
                self.send(this);
            }
        } else {
            slot.send_finished();
        }
    }

    // --- accepting ---

    /// Sees to it that the multishot accept is in flight.
    pub fn arm_accept(&self, this: NonNull<AcceptSlot>) {
        // SAFETY: the caller holds the listener.
        let slot = unsafe { this.as_ref() };
        if !slot.armed.get() && !slot.stopped.get() {
            slot.armed.set(true);
            let entry =
                opcode::AcceptMulti::new(Fd(slot.socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
            self.start(entry, this, ACCEPT);
        }
    }

    pub fn cancel_accept(&self, slot: &AcceptSlot) {
        if slot.armed.get() && !slot.cancelled.replace(true) {
            self.cancel(slot, ACCEPT);
        }
    }

    fn accepted(&self, this: NonNull<AcceptSlot>, result: i32, flags: u32) {
        // SAFETY: as in `received`.
        let slot = unsafe { this.as_ref() };
        if !cqueue::more(flags) {
            self.ended();
            slot.armed.set(false);
            slot.cancelled.set(false);
        }
        slot.completed(if result >= 0 { Ok(result) } else { Err(-result) });
        if slot.queue_full() {
            self.cancel_accept(slot);
        }
        // SAFETY: alive, and not used after this.
        unsafe { AcceptSlot::release_if_idle(this) };
    }

    // --- UDP ---

    /// Sees to it that the socket is watched in this direction, which is one of `this`.
    pub fn arm_udp(&self, this: NonNull<UdpSlot>, direction: &Direction) {
        if direction.armed.replace(true) {
            return;
        }
        // SAFETY: the caller holds the socket.
        let slot = unsafe { this.as_ref() };
        let (events, tag) = match std::ptr::eq(direction, &raw const slot.read) {
            true => (libc::POLLIN, UDP_READ),
            false => (libc::POLLOUT, UDP_WRITE),
        };
        let entry = opcode::PollAdd::new(Fd(slot.socket.as_raw_fd()), events as u32).build();
        self.start(entry, this, tag);
    }

    pub fn cancel_udp(&self, slot: &UdpSlot) {
        for (direction, tag) in [(&slot.read, UDP_READ), (&slot.write, UDP_WRITE)] {
            if direction.armed.get() {
                self.cancel(slot, tag);
            }
        }
    }

    fn udp_ready(&self, this: NonNull<UdpSlot>, tag: u64) {
        self.ended();
        // SAFETY: as in `received`.
        let slot = unsafe { this.as_ref() };
        let direction = if tag == UDP_READ { &slot.read } else { &slot.write };
        direction.armed.set(false);
        slot.became_ready(direction);
        // SAFETY: alive, and not used after this.
        unsafe { UdpSlot::release_if_idle(this) };
    }

    // --- the turn ---

    /// Submits, waits for at most `wait_ms` (None: for ever) and handles what has completed.
    pub fn turn(&self, core: &Core, wait_ms: Option<u64>) {
        self.enter(core, wait_ms);
        self.handle(core);
    }

    fn enter(&self, core: &Core, wait_ms: Option<u64>) {
        let mut ring = self.ring.borrow_mut();
        core.counters.syscalls.add(1);
        let queued = ring.submission().len() as u32;
        let submitter = ring.submitter();
        let result = match wait_ms {
            None => submitter.submit_and_wait(1),
            // GETEVENTS also where there is nothing to wait for: deferred work runs only then, and completions
            // that did not fit the queue come only then.
            // SAFETY: no argument is passed, and the rest are integers.
            Some(0) => unsafe { submitter.enter::<()>(queued, 0, ENTER_GETEVENTS, None) },
            Some(ms) => {
                let timeout = Timespec::new().sec(ms / 1000).nsec((ms % 1000) as u32 * 1_000_000);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        // ETIME and EINTR: the wait is over. EBUSY and EAGAIN: take completions first; what was not submitted
        // stays queued for the next turn. Nothing else is possible with a ring that is ours.
        drop(result);
        let mut reaped = self.reaped.borrow_mut();
        reaped.extend(ring.completion().take(limits::TURN_COMPLETIONS));
    }

    fn handle(&self, core: &Core) {
        let mut reaped = self.reaped.take();
        core.counters.events.add(reaped.len() as u64);
        for entry in reaped.drain(..) {
            let (data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            let address = (data & !TAGS) as usize;
            match (data & TAGS, NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(address))) {
                (RECV, Some(slot)) => self.received(slot.cast(), result, flags),
                (SEND, Some(slot)) => self.sent(slot.cast(), result),
                (ACCEPT, Some(slot)) => self.accepted(slot.cast(), result, flags),
                (tag @ (UDP_READ | UDP_WRITE), Some(slot)) => self.udp_ready(slot.cast(), tag),
                (WAKE, _) if !cqueue::more(flags) => {
                    self.ended();
                    if core.alive.get() {
                        self.watch_wakes();
                    }
                }
                _ => {} // a wake that goes on, or a cancel or close that failed: it was too late, that is all
            }
        }
        *self.reaped.borrow_mut() = reaped;
    }

    /// Cancels everything and waits until the kernel holds no memory of ours; false when it does not let go.
    pub fn wind_down(&self, core: &Rc<Core>) -> bool {
        const ROUNDS: usize = 500; // of at most 10 ms
        for _ in 0..ROUNDS {
            let idle = self.in_flight.get() == 0;
            if !idle {
                let all = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
                self.push(&all.flags(Flags::SKIP_SUCCESS).user_data(IGNORE));
            }
            self.turn(core, Some(if idle { 0 } else { 10 }));
            if idle {
                return true;
            }
        }
        false
    }
}
