//! A client connection, its upstream connection, and the bytes between them.

use std::collections::VecDeque;
use std::os::fd::RawFd;

/// Which end of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Client = 0,
    Upstream = 1,
}

impl End {
    /// The end on the other side of the copy.
    pub fn other(self) -> End {
        match self {
            End::Client => End::Upstream,
            End::Upstream => End::Client,
        }
    }
}

/// Received bytes that wait to be sent: a provided buffer and the length in it.
#[derive(Clone, Copy)]
pub struct Chunk {
    pub buffer: u16,
    pub length: u32,
}

/// Chunks that one send takes at most.
pub const GATHERED: usize = 8;

/// The arguments of a gathering send; at a fixed address while one is in flight.
pub struct Gather {
    pub message: libc::msghdr,
    pub pieces: [libc::iovec; GATHERED],
}

impl Default for Gather {
    fn default() -> Gather {
        // SAFETY: both are plain C structs for which all zeroes mean "nothing".
        unsafe { std::mem::zeroed() }
    }
}

/// One socket of a pair.
pub struct Side {
    pub fd: RawFd,
    /// Chunks for this socket; the first `sending` of them are in flight.
    pub out: VecDeque<Chunk>,
    pub sending: usize,
    /// What the kernel reads while several chunks leave in one send.
    pub gather: Box<Gather>,
    /// A multishot receive is armed.
    pub receiving: bool,
    /// Its cancellation is under way (the other side is slow).
    pub cancelling: bool,
    /// The peer sent its FIN, or the socket failed.
    pub ended: bool,
    /// We sent our FIN.
    pub shut: bool,
}

impl Side {
    fn new(fd: RawFd) -> Side {
        Side {
            fd,
            out: VecDeque::new(),
            sending: 0,
            gather: Box::default(),
            receiving: false,
            cancelling: false,
            ended: false,
            shut: false,
        }
    }
}

/// Both sockets, and how many operations the kernel still holds on them: a pair is freed at zero, so a completion
/// never meets a reused slot.
pub struct Pair {
    pub sides: [Side; 2],
    pub in_flight: u32,
    /// The upstream accepted; before this nothing is received.
    pub connected: bool,
    /// An error was seen: nothing more is sent, both sockets close as soon as the kernel has let go.
    pub failed: bool,
}

impl Pair {
    /// A pair that is about to connect.
    pub fn new(client: RawFd, upstream: RawFd) -> Pair {
        Pair {
            sides: [Side::new(client), Side::new(upstream)],
            in_flight: 0,
            connected: false,
            failed: false,
        }
    }

    /// The socket at `end`.
    pub fn side(&mut self, end: End) -> &mut Side {
        &mut self.sides[end as usize]
    }

    /// Both directions have ended and everything was passed on, or an error was seen.
    pub fn finished(&self) -> bool {
        self.failed || self.sides.iter().all(|side| side.ended && side.out.is_empty())
    }
}
