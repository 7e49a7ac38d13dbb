//! Plain IPv4 sockets as descriptors, and pinning: the setup calls that are not on the measured path (except
//! [`dial`], one socket and one option per upstream connection).

use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddrV4;
use std::os::fd::RawFd;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `address` in the kernel's form.
pub fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn set(fd: RawFd, level: i32, name: i32) -> io::Result<()> {
    let on: i32 = 1;
    // SAFETY: `on` outlives the call and the length is its size.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const on).cast(), size_of::<i32>() as u32) })?;
    Ok(())
}

/// A listening socket with TCP_NODELAY, which accepted sockets inherit.
pub fn listen(address: SocketAddrV4) -> io::Result<RawFd> {
    let to = sockaddr(address);
    // SAFETY: plain socket calls; `to` outlives them and the length is its size.
    unsafe {
        let fd = check(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
        set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
        set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
        check(libc::bind(fd, (&raw const to).cast(), size_of::<libc::sockaddr_in>() as u32))?;
        check(libc::listen(fd, 4096))?;
        Ok(fd)
    }
}

/// A fresh client socket with TCP_NODELAY, not yet connected.
pub fn dial() -> io::Result<RawFd> {
    // SAFETY: no pointers are involved.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
    Ok(fd)
}

/// Pins the calling thread to `core`.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: the set is zeroed, then filled by CPU_SET, and outlives the call.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(core, &mut set);
        check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set))?;
    }
    Ok(())
}

/// Raises the limit of open files to what the operator allows.
pub fn raise_open_files() -> io::Result<()> {
    // SAFETY: `limit` outlives both calls.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(())
}
