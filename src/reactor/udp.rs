//! UDP sockets: the driver tells when there is something to do, and batches of datagrams go by system call (quinn-udp:
//! runs that the kernel joins and splits, the congestion marks, the address that a datagram came to).

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll};

use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

pub use quinn_udp::{EcnCodepoint, Transmit};

use super::core::{self, Backend, Core};
use super::slot::WakerCell;
use crate::limits;

/// Opens a UDP socket on any thread, for [`UdpSocket::from_std`] on a core. An IPv6 socket takes no IPv4 datagrams.
///
/// # Errors
/// What `bind(2)` says.
pub fn bind_udp(address: SocketAddr, reuseport: bool) -> io::Result<StdUdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if reuseport {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // the host may allow less
    let _ = socket.set_recv_buffer_size(limits::UDP_SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(limits::UDP_SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Has the kernel choose the socket of a reuseport group by one byte of a datagram, modulo `count`, in the order in which
/// the sockets were bound: the byte at `long_at` where the first one has its highest bit set, else that at `short_at`. A
/// datagram that is too short goes to the first socket.
///
/// # Errors
/// The host does not allow it: then each socket gets what the kernel's hash gives it.
pub fn steer(socket: &StdUdpSocket, short_at: usize, long_at: usize, count: usize) -> io::Result<()> {
    /// asm-generic/socket.h
    const SO_ATTACH_REUSEPORT_CBPF: libc::c_int = 51;
    /// What a program returns: its accumulator (linux/filter.h).
    const BPF_A: u32 = 0x10;
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let at = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(LOAD_BYTE, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, 0x80),
        step(LOAD_BYTE, 0, 0, at(long_at)),
        step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        step(LOAD_BYTE, 0, 0, at(short_at)),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, at(count.max(1))),
        step(libc::BPF_RET | BPF_A, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
    // SAFETY: the pointer and size describe `filter`, which points to `program`; both outlive the call, which copies
    // them.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, (&raw const filter).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_option(
    socket: &StdUdpSocket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
    // SAFETY: the pointer and size describe `value`, which the call reads.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the drivers see of one direction of a socket.
#[derive(Default)]
pub(super) struct Direction {
    /// A poll is in flight (io_uring).
    pub armed: Cell<bool>,
    /// A call may succeed.
    pub ready: Cell<bool>,
    waker: WakerCell,
}

/// What the drivers see of a UDP socket; as with a stream's slot, the kernel knows it by its address.
#[repr(align(16))]
pub(super) struct UdpSlot {
    pub core: Rc<Core>,
    pub socket: StdUdpSocket,
    state: UdpSocketState,
    detached: Cell<bool>,
    pub read: Direction,
    pub write: Direction,
}

impl UdpSlot {
    /// The driver has seen that something is possible.
    pub fn became_ready(&self, direction: &Direction) {
        direction.ready.set(true);
        direction.waker.take().into_iter().for_each(|waker| self.core.wake_later(waker));
    }

    /// Frees the slot if its socket is gone and the kernel does not know it any more.
    ///
    /// # Safety
    /// `this` is alive, made by `Box::leak`, and not used afterwards.
    pub unsafe fn release_if_idle(this: NonNull<UdpSlot>) {
        // SAFETY: alive by the caller's word.
        let slot = unsafe { this.as_ref() };
        if slot.detached.get() && !slot.read.armed.get() && !slot.write.armed.get() {
            // SAFETY: neither a socket nor an operation refers to it.
            drop(unsafe { Box::from_raw(this.as_ptr()) });
        }
    }
}

/// A UDP socket of this core.
pub struct UdpSocket {
    slot: NonNull<UdpSlot>,
    _owned: PhantomData<Rc<UdpSlot>>,
}

impl UdpSocket {
    /// Takes over a bound socket.
    ///
    /// # Errors
    /// What `setsockopt` and `epoll_ctl` say.
    pub fn from_std(socket: StdUdpSocket) -> io::Result<UdpSocket> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        core::with(|core| {
            let slot = Box::new(UdpSlot {
                core: core.clone(),
                socket,
                state,
                detached: Cell::new(false),
                read: Direction::default(),
                write: Direction::default(),
            });
            slot.read.ready.set(true);
            slot.write.ready.set(true);
            let socket = UdpSocket { slot: NonNull::from(Box::leak(slot)), _owned: PhantomData };
            if let Backend::Epoll(epoll) = &core.backend {
                epoll.add_udp(socket.slot)?;
            }
            Ok(socket)
        })
    }

    fn slot(&self) -> &UdpSlot {
        // SAFETY: freed only after it was detached, which our drop does.
        unsafe { self.slot.as_ref() }
    }

    /// Fills `batch` with what has come.
    ///
    /// # Errors
    /// What `recvmmsg(2)` says; an error that an earlier send has caused may be among them.
    pub fn poll_recv(&self, cx: &mut Context<'_>, batch: &mut UdpBatch) -> Poll<io::Result<()>> {
        let slot = self.slot();
        batch.filled = 0;
        while slot.read.ready.get() {
            slot.core.counters.syscalls.add(1);
            match batch.receive(slot) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => slot.read.ready.set(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(()) => {
                    // with room to spare the queue is empty: the driver, and no further call, says when it is not
                    slot.read.ready.set(batch.filled == limits::UDP_BATCH);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        self.wait(&slot.read, cx);
        Poll::Pending
    }

    /// Sends datagrams of one size (the last may be shorter) to one address. What the network refuses is lost, as any
    /// datagram may be.
    ///
    /// # Errors
    /// `WouldBlock`: nothing was sent; see [`UdpSocket::poll_writable`].
    pub fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let slot = self.slot();
        slot.core.counters.syscalls.add(1);
        let sent = slot.state.send(UdpSockRef::from(&slot.socket), transmit);
        if sent.is_err() {
            slot.write.ready.set(false);
        }
        sent
    }

    /// As [`UdpSocket::send`], and says what is wrong. On a connected socket that may be what became of an earlier
    /// datagram: the kernel tells of it once, by failing whatever call comes next. This one has not left then.
    ///
    /// # Errors
    /// What `sendmsg(2)` says.
    pub fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let slot = self.slot();
        slot.core.counters.syscalls.add(1);
        slot.state.try_send(UdpSockRef::from(&slot.socket), transmit)
    }

    /// Lets the kernel cut datagrams that are longer than their way takes. Else they are refused, which QUIC needs: it
    /// looks for the longest that pass.
    ///
    /// # Errors
    /// What `setsockopt(2)` says.
    pub fn cut_long(&self) -> io::Result<()> {
        let socket = &self.slot().socket;
        if socket.local_addr()?.is_ipv4() {
            return set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT);
        }
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)?;
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)
    }

    /// Ready when a send may succeed.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let direction = &self.slot().write;
        if direction.ready.get() {
            return Poll::Ready(());
        }
        self.wait(direction, cx);
        Poll::Pending
    }

    /// See [`UdpSocket::poll_writable`].
    pub async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    fn wait(&self, direction: &Direction, cx: &mut Context<'_>) {
        let slot = self.slot();
        direction.waker.park(cx.waker());
        if let Backend::Uring(uring) = &slot.core.backend
            && slot.core.alive.get()
        {
            uring.arm_udp(self.slot, direction);
        }
    }

    /// Datagrams that one call of [`UdpSocket::send`] may hold.
    pub fn max_segments(&self) -> usize {
        self.slot().state.max_gso_segments().min(limits::UDP_SEGMENTS)
    }

    /// Datagrams may be cut on their way: the path's size cannot be probed.
    pub fn may_fragment(&self) -> bool {
        self.slot().state.may_fragment()
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What `getsockname` says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.slot().socket.local_addr()
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        let slot = self.slot();
        slot.detached.set(true);
        let wakers = (slot.read.waker.take(), slot.write.waker.take());
        match &slot.core.backend {
            Backend::Uring(uring) => uring.cancel_udp(slot),
            // Closing a copy of a socket does not end its events while another copy is open elsewhere.
            Backend::Epoll(epoll) => epoll.remove(std::os::fd::AsRawFd::as_raw_fd(&slot.socket)),
        }
        // SAFETY: alive, made by Box::leak, and not used by this socket any more.
        unsafe { UdpSlot::release_if_idle(self.slot) };
        drop(wakers);
    }
}

/// Received datagrams. One serves all sockets of a core.
pub struct UdpBatch {
    memory: Vec<u8>,
    meta: [RecvMeta; limits::UDP_BATCH],
    filled: usize,
}

/// Datagrams of one sender that came together.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Their bytes, one behind the other.
    pub bytes: &'a [u8],
    /// Bytes of each, but for the last.
    pub each: usize,
    /// Who sent them.
    pub from: SocketAddr,
    /// The address that they came to.
    pub to: Option<IpAddr>,
    /// The congestion marks.
    pub ecn: Option<EcnCodepoint>,
}

impl<'a> Received<'a> {
    /// One after the other. One may be empty: it is a message, too.
    pub fn datagrams(self) -> impl Iterator<Item = &'a [u8]> {
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.each))
    }
}

impl UdpBatch {
    /// Room for [`limits::UDP_BATCH`] of them.
    pub fn new() -> UdpBatch {
        UdpBatch {
            memory: vec![0; limits::UDP_BATCH * limits::UDP_DATAGRAMS],
            meta: [RecvMeta::default(); limits::UDP_BATCH],
            filled: 0,
        }
    }

    fn receive(&mut self, slot: &UdpSlot) -> io::Result<()> {
        let mut pieces = self.memory.chunks_mut(limits::UDP_DATAGRAMS).map(IoSliceMut::new);
        let mut buffers: [IoSliceMut<'_>; limits::UDP_BATCH] =
            std::array::from_fn(|_| pieces.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        self.filled = slot.state.recv(UdpSockRef::from(&slot.socket), &mut buffers, &mut self.meta)?;
        Ok(())
    }

    /// What the last receive has brought.
    pub fn received(&self) -> impl Iterator<Item = Received<'_>> {
        let pieces = self.memory.chunks(limits::UDP_DATAGRAMS);
        self.meta[..self.filled].iter().zip(pieces).map(|(meta, memory)| Received {
            bytes: &memory[..meta.len],
            each: meta.stride.max(1),
            from: meta.addr,
            to: meta.dst_ip,
            ecn: meta.ecn,
        })
    }
}

impl Default for UdpBatch {
    fn default() -> Self {
        UdpBatch::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Config, Driver, block_on};

    fn option(socket: &UdpSocket, level: libc::c_int, name: libc::c_int) -> libc::c_int {
        let (mut value, mut size) = (-1, size_of::<libc::c_int>() as libc::socklen_t);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket.slot().socket);
        // SAFETY: the pointers and the size describe `value`, which the call writes, and `size`.
        let result = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut size) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        value
    }

    /// On loopback all fit, so only the options tell.
    #[test]
    fn long_datagrams_are_cut_where_they_may_be() {
        let config = Config { driver: Driver::Epoll, ..Config::default() };
        block_on(config, async |_| {
            for (address, level, name, cut, whole) in [
                (
                    "127.0.0.1:0",
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    libc::IP_PMTUDISC_WANT,
                    libc::IP_PMTUDISC_PROBE,
                ),
                (
                    "[::1]:0",
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_WANT,
                    libc::IPV6_PMTUDISC_PROBE,
                ),
                ("[::1]:0", libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0, 1),
            ] {
                let Ok(socket) = bind_udp(address.parse().unwrap(), false) else {
                    eprintln!("no {address} here");
                    continue;
                };
                let socket = UdpSocket::from_std(socket).unwrap();
                assert_eq!(option(&socket, level, name), whole, "{address}");
                socket.cut_long().unwrap();
                assert_eq!(option(&socket, level, name), cut, "{address}");
            }
        })
        .unwrap();
    }
}
