//! The driver for hosts that refuse io_uring: edge-triggered epoll, with receives and sends by system call.
//!
//! It only notes readiness; the calls themselves are in `slot` (`recv_now`, `send_now`) and `listener`. Handling
//! an event runs no foreign code and frees nothing, so the addresses in one batch of events stay good.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use socket2::SockRef;

use super::core::Core;
use super::listener::AcceptSlot;
use super::slot::{SendOp, Slot};
use super::task::Remote;
use super::udp::UdpSlot;

/// What the low bits of an event's data say about its address.
const STREAM: u64 = 0;
const LISTENER: u64 = 1;
const WAKE: u64 = 2;
const UDP: u64 = 3;
const TAGS: u64 = 15;

const GONE: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

pub(super) struct Epoll {
    epoll: OwnedFd,
    events: RefCell<Vec<libc::epoll_event>>,
}

impl Epoll {
    pub fn new(remote: &Remote) -> io::Result<Epoll> {
        // SAFETY: takes an integer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let driver =
            Epoll { epoll, events: RefCell::new(vec![libc::epoll_event { events: 0, u64: 0 }; 512]) };
        driver.add(remote.event().as_raw_fd(), libc::EPOLLIN, WAKE)?;
        Ok(driver)
    }

    fn add(&self, fd: RawFd, events: i32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: (events | libc::EPOLLET) as u32, u64: data };
        // SAFETY: the event is ours and only read.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub fn add_stream(&self, slot: NonNull<Slot>) -> io::Result<()> {
        // SAFETY: the stream that registers it is alive.
        let fd = unsafe { slot.as_ref() }.fd.get();
        self.add(fd, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP, slot.as_ptr() as u64 | STREAM)
    }

    pub fn add_listener(&self, slot: NonNull<AcceptSlot>) -> io::Result<()> {
        // SAFETY: the listener that registers it is alive.
        let fd = unsafe { slot.as_ref() }.socket.as_raw_fd();
        self.add(fd, libc::EPOLLIN, slot.as_ptr() as u64 | LISTENER)
    }

    pub fn add_udp(&self, slot: NonNull<UdpSlot>) -> io::Result<()> {
        // SAFETY: the socket that registers it is alive.
        let fd = unsafe { slot.as_ref() }.socket.as_raw_fd();
        self.add(fd, libc::EPOLLIN | libc::EPOLLOUT, slot.as_ptr() as u64 | UDP)
    }

    /// A descriptor that is given away while open.
    pub fn remove(&self, fd: RawFd) {
        // SAFETY: takes integers; the event may be null for a removal.
        unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits for at most `wait_ms` (None: for ever) and notes what has become possible.
    pub fn turn(&self, core: &Core, wait_ms: Option<u64>) {
        let timeout_ms = wait_ms.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
        let mut events = self.events.borrow_mut();
        core.counters.syscalls.add(1);
        // SAFETY: the pointer and length describe the vector, which is borrowed until after the call.
        let n = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, timeout_ms)
        };
        // An interrupted wait is an empty one.
        for event in &events[..usize::try_from(n).unwrap_or(0)] {
            core.counters.events.add(1);
            let address = (event.u64 & !TAGS) as usize;
            match event.u64 & TAGS {
                STREAM => {
                    if let Some(slot) = NonNull::new(std::ptr::with_exposed_provenance_mut::<Slot>(address)) {
                        // SAFETY: a slot is freed together with its descriptor, which takes it out of the epoll
                        // set, and nothing is freed while a batch is handled.
                        stream_event(slot, unsafe { slot.as_ref() }, event.events);
                    }
                }
                LISTENER => {
                    if let Some(slot) =
                        NonNull::new(std::ptr::with_exposed_provenance_mut::<AcceptSlot>(address))
                    {
                        // SAFETY: a listener takes itself out of the epoll set before its slot is freed.
                        let slot = unsafe { slot.as_ref() };
                        slot.ready.set(true);
                        slot.waker.take().into_iter().for_each(|waker| core.wake_later(waker));
                    }
                }
                UDP => {
                    if let Some(slot) =
                        NonNull::new(std::ptr::with_exposed_provenance_mut::<UdpSlot>(address))
                    {
                        // SAFETY: a socket takes itself out of the epoll set before its slot is freed.
                        let slot = unsafe { slot.as_ref() };
                        let failed = event.events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
                        if failed || event.events & libc::EPOLLIN as u32 != 0 {
                            slot.became_ready(&slot.read);
                        }
                        if failed || event.events & libc::EPOLLOUT as u32 != 0 {
                            slot.became_ready(&slot.write);
                        }
                    }
                }
                _ => {} // woken from another thread: that was all
            }
        }
    }
}

fn stream_event(this: NonNull<Slot>, slot: &Slot, events: u32) {
    if events & (libc::EPOLLIN as u32 | GONE) != 0 {
        slot.readable.set(true);
        if events & GONE != 0 {
            slot.hung_up.set(true);
        }
        slot.received_something();
    }
    if events & (libc::EPOLLOUT as u32 | libc::EPOLLHUP as u32 | libc::EPOLLERR as u32) != 0 {
        slot.writable.set(true);
        if slot.send_op.get() == SendOp::Connect {
            slot.send_op.set(SendOp::None);
            // SAFETY: open as long as the slot lives.
            let socket = unsafe { BorrowedFd::borrow_raw(slot.fd.get()) };
            let error = SockRef::from(&socket).take_error().unwrap_or_else(Some);
            slot.send_errno.set(error.map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO)));
            slot.send_finished();
        } else if slot.queued() > 0 && !slot.dirty.get() {
            slot.dirty.set(true);
            slot.core.mark_dirty(this);
        }
    }
}
