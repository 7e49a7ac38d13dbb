//! Bytes that pass from one socket to another without coming up to us: they wait in a pipe of the kernel's.
//!
//! `splice(2)` moves pages of received packets, not the bytes in them, so a large body is copied neither out of the
//! kernel nor back. The calls are made at once: the ring would hand each to a thread of the kernel's own.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::rc::Rc;

use super::chunk::Chunk;
use super::core::Core;
use crate::limits;

/// A pipe with nothing in it.
struct Pipe {
    out: PipeReader,
    into: PipeWriter,
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (out, into) = io::pipe()?;
        // It has a place for each run of bytes in a packet, one for 4 KiB of its size. Where the host allows no more than it
        // has by itself, less goes by at a time.
        // SAFETY: takes integers.
        unsafe { libc::fcntl(into.as_raw_fd(), libc::F_SETPIPE_SZ, limits::PIPE_BYTES as libc::c_int) };
        Ok(Pipe { out, into })
    }
}

/// The pipes of a core.
#[derive(Default)]
pub(super) struct Pipes {
    idle: RefCell<Vec<Pipe>>,
    /// With those that are in use.
    open: Cell<usize>,
}

impl Pipes {
    fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.open.get() >= limits::PIPES {
            return None;
        }
        let pipe = Pipe::new().ok()?;
        self.open.set(self.open.get() + 1);
        Some(pipe)
    }

    /// How many there are, with those in use.
    #[cfg(test)]
    pub fn open(&self) -> usize {
        self.open.get()
    }

    fn close(&self, pipe: Pipe) {
        drop(pipe);
        self.open.set(self.open.get() - 1);
    }
}

/// What [`TcpStream::poll_piped`](super::TcpStream::poll_piped) has received.
#[derive(Debug)]
pub enum Arrived {
    /// As from [`TcpStream::poll_recv`].
    Chunk(Chunk),
    /// Bytes that stay in the kernel.
    Piped(Piped),
}

impl Arrived {
    /// No bytes: the end of the stream.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        match self {
            Arrived::Chunk(chunk) => chunk.len(),
            Arrived::Piped(piped) => piped.len(),
        }
    }
}

/// Received bytes in a pipe. They can be sent, once; dropped, they are thrown away.
pub struct Piped {
    pipe: Option<Pipe>, // None when it is dropped
    len: usize,
    /// How many of them are in the pipe still.
    left: Cell<usize>,
    core: Rc<Core>,
}

/// What a receive into a pipe has brought.
#[derive(Debug)]
pub(super) enum Filled {
    Some(Piped),
    /// Would have to wait.
    Nothing,
    /// The peer has closed its side.
    End,
    /// All pipes that the core may have are in use, or the host has none.
    NoPipe,
    /// An `errno`.
    Failed(i32),
}

impl Piped {
    /// Takes at most `most` bytes that wait in a socket.
    pub(super) fn fill(core: &Rc<Core>, socket: RawFd, most: usize) -> Filled {
        let Some(pipe) = core.pipes.take() else { return Filled::NoPipe };
        let mut piped = Piped { pipe: Some(pipe), len: 0, left: Cell::new(0), core: core.clone() };
        let Some(pipe) = &piped.pipe else { return Filled::NoPipe };
        match splice(core, socket, socket, pipe.into.as_raw_fd(), most) {
            Ok(0) => Filled::End,
            Ok(n) => {
                (piped.len, piped.left) = (n, Cell::new(n));
                Filled::Some(piped)
            }
            Err(libc::EAGAIN) => Filled::Nothing,
            // a sandbox that forbids the call, or a kind of socket that has none
            Err(libc::EINVAL | libc::ENOSYS | libc::EPERM) => Filled::NoPipe,
            Err(errno) => Filled::Failed(errno),
        }
    }

    /// Hands what is left to a socket. Returns how many bytes that took, or an `errno`.
    pub(super) fn drain(&self, socket: RawFd) -> Result<usize, i32> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let n = splice(&self.core, socket, pipe.out.as_raw_fd(), socket, self.left.get())?;
        self.left.set(self.left.get().saturating_sub(n));
        Ok(n)
    }

    /// Takes what is left out of the pipe.
    ///
    /// # Panics
    /// Never: they are there, and neither end is closed.
    pub(super) fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.left.replace(0)];
        if let Some(pipe) = &self.pipe {
            (&pipe.out).read_exact(&mut bytes).expect("what was put into a pipe can be taken out");
        }
        bytes
    }

    /// How many bytes were received. Never 0.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        match self.left.get() {
            0 => self.core.pipes.idle.borrow_mut().push(pipe),
            _ => self.core.pipes.close(pipe),
        }
    }
}

impl fmt::Debug for Piped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in a pipe", self.len)
    }
}

/// `splice(2)` between a pipe and `socket`, which never waits. `SPLICE_F_NONBLOCK` speaks of the pipe alone; for the socket
/// its own flag counts. It is set for this one call: an operation of the ring looks at it when it is submitted, which
/// this thread does elsewhere, and would fail instead of waiting.
fn splice(core: &Core, socket: RawFd, from: RawFd, to: RawFd, most: usize) -> Result<usize, i32> {
    loop {
        core.counters.syscalls.add(3);
        set_nonblocking(socket, true);
        // SAFETY: takes integers; no offsets.
        let n = unsafe {
            libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), most, libc::SPLICE_F_NONBLOCK)
        };
        let errno = if n < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { 0 };
        set_nonblocking(socket, false);
        match errno {
            0 => return Ok(n as usize),
            libc::EINTR => {}
            errno => return Err(errno),
        }
    }
}

fn set_nonblocking(socket: RawFd, yes: bool) {
    let yes = libc::c_int::from(yes);
    // SAFETY: the call reads one integer. It cannot fail for an open socket, and callers own one.
    unsafe { libc::ioctl(socket, libc::FIONBIO, &raw const yes) };
}
