//! What is sent: owned pieces, gathered into one system call or one ring entry.

use std::collections::VecDeque;
use std::ptr;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use socket2::SockAddr;

use super::chunk::{Buffers, Chunk};
use super::pipe::{Arrived, Piped};
use crate::limits;

/// One owned run of bytes.
#[derive(Debug)]
enum Piece {
    Vec(Vec<u8>),
    Chunk(Chunk),
    Bytes(Bytes),
    Piped(Piped),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Piped(piped) => piped.len(),
            _ => self.as_slice().len(),
        }
    }

    fn is_piped(&self) -> bool {
        matches!(self, Piece::Piped(_))
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Vec(vec) => vec,
            Piece::Chunk(chunk) => chunk,
            Piece::Bytes(bytes) => bytes,
            Piece::Piped(_) => &[],
        }
    }
}

/// Bytes to send, in order: most often a head (a `Vec` from [`take_buffer`](super::take_buffer), which returns
/// to its pool when sent) and perhaps some body.
#[derive(Debug, Default)]
pub struct Out(SmallVec<[Piece; 2]>);

impl Out {
    /// Appends a chunk.
    pub fn chunk(mut self, chunk: Chunk) -> Out {
        self.0.push(Piece::Chunk(chunk));
        self
    }

    /// Appends bytes.
    pub fn bytes(mut self, bytes: Bytes) -> Out {
        self.0.push(Piece::Bytes(bytes));
        self
    }

    /// Appends what has arrived.
    pub fn arrived(mut self, arrived: Arrived) -> Out {
        self.0.push(match arrived {
            Arrived::Chunk(chunk) => Piece::Chunk(chunk),
            Arrived::Piped(piped) => Piece::Piped(piped),
        });
        self
    }

    /// All of it in memory: what waits in a pipe is read out.
    pub fn in_memory(mut self) -> Out {
        for piece in &mut self.0 {
            if let Piece::Piped(piped) = piece {
                *piece = Piece::Vec(piped.read());
            }
        }
        self
    }

    /// The bytes in memory, piece by piece: what TLS encrypts.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Piece::as_slice)
    }

    /// Appends a vector.
    pub fn vec(mut self, vec: Vec<u8>) -> Out {
        self.0.push(Piece::Vec(vec));
        self
    }
}

impl From<Arrived> for Out {
    fn from(arrived: Arrived) -> Out {
        Out::default().arrived(arrived)
    }
}

impl From<Vec<u8>> for Out {
    fn from(vec: Vec<u8>) -> Out {
        Out(smallvec![Piece::Vec(vec)])
    }
}

impl From<Chunk> for Out {
    fn from(chunk: Chunk) -> Out {
        Out(smallvec![Piece::Chunk(chunk)])
    }
}

impl From<Bytes> for Out {
    fn from(bytes: Bytes) -> Out {
        Out(smallvec![Piece::Bytes(bytes)])
    }
}

impl From<&'static [u8]> for Out {
    fn from(bytes: &'static [u8]) -> Out {
        Out::from(Chunk::from_static(bytes))
    }
}

/// The send side of a stream while it has something to send; boxed, so that the kernel may read its address while
/// a connect runs, and pooled per core. One cache line: with hundreds of connections each is cold when its turn comes.
#[derive(Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are sent already.
    sent: usize,
    /// Bytes of all pieces not yet sent.
    pub queued: usize,
    vectors: Option<Box<Vectors>>,
    /// Where a connect in flight goes.
    pub address: Option<Box<SockAddr>>,
}

/// What the kernel reads of a send of several pieces: made for the first one, and kept.
struct Vectors {
    pieces: [libc::iovec; limits::SEND_PIECES],
    message: libc::msghdr,
}

/// The next system call of a stream.
pub(super) enum Gathered<'a> {
    One(*const u8, usize),
    Many(*const libc::msghdr),
    Piped(&'a Piped),
}

impl Vectors {
    fn new() -> Box<Vectors> {
        Box::new(Vectors {
            pieces: [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; limits::SEND_PIECES],
            // SAFETY: msghdr is plain C data, for which all zeroes is the empty message.
            message: unsafe { std::mem::zeroed() },
        })
    }
}

impl Outgoing {
    /// Queues behind what is there. Pieces already handed to the kernel do not move: what it reads is their
    /// heap memory, not their place in the queue.
    pub fn push(&mut self, out: Out, buffers: &Buffers) {
        for piece in out.0 {
            match (piece.len(), piece) {
                (0, Piece::Vec(vec)) => buffers.give_vec(vec),
                (0, _) => {}
                (len, piece) => {
                    self.queued += len;
                    self.pieces.push_back(piece);
                }
            }
        }
    }

    /// The next thing to send is in a pipe.
    pub fn begins_piped(&self) -> bool {
        self.pieces.front().is_some_and(Piece::is_piped)
    }

    /// The last thing to send is in a pipe.
    pub fn ends_piped(&self) -> bool {
        self.pieces.back().is_some_and(Piece::is_piped)
    }

    /// How to send what is gathered: a packet waits for what comes from a pipe right behind it.
    pub fn flags(&self, flags: i32) -> i32 {
        if self.ends_piped() && !self.begins_piped() { flags | libc::MSG_MORE } else { flags }
    }

    /// Describes as much of the queue as fits one call. The pointers are good until `advance` or `clear`, and
    /// nothing else may be gathered before.
    pub fn gather(&mut self) -> Gathered<'_> {
        if let Some(Piece::Piped(piped)) = self.pieces.front() {
            return Gathered::Piped(piped);
        }
        if let (1, Some(piece)) = (self.pieces.len(), self.pieces.front()) {
            let bytes = &piece.as_slice()[self.sent..];
            return Gathered::One(bytes.as_ptr(), bytes.len());
        }
        let vectors = self.vectors.get_or_insert_with(Vectors::new);
        let mut skip = self.sent;
        let mut count = 0;
        let unpiped = self.pieces.iter().take_while(|piece| !piece.is_piped());
        for (vector, piece) in vectors.pieces.iter_mut().zip(unpiped) {
            let bytes = &piece.as_slice()[skip..];
            *vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            skip = 0;
            count += 1;
        }
        vectors.message.msg_iov = vectors.pieces.as_mut_ptr();
        vectors.message.msg_iovlen = count;
        Gathered::Many(&vectors.message)
    }

    /// The kernel took `n` bytes.
    pub fn advance(&mut self, n: usize, buffers: &Buffers) {
        self.queued = self.queued.saturating_sub(n);
        self.sent += n;
        while let Some(piece) = self.pieces.front() {
            let len = piece.len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            if let Some(Piece::Vec(vec)) = self.pieces.pop_front() {
                buffers.give_vec(vec);
            }
        }
        self.sent = 0;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.sent = 0;
        self.queued = 0;
        self.address = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(outgoing: &mut Outgoing) -> Vec<u8> {
        match outgoing.gather() {
            // SAFETY: the pieces are alive and unchanged.
            Gathered::One(data, len) => unsafe { std::slice::from_raw_parts(data, len) }.to_vec(),
            Gathered::Piped(_) => panic!("nothing was piped"),
            Gathered::Many(_) => {
                let vectors = outgoing.vectors.as_ref().unwrap();
                (vectors.pieces[..vectors.message.msg_iovlen].iter())
                    // SAFETY: as above; gather has just filled that many.
                    .flat_map(|v| {
                        unsafe { std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len) }.to_vec()
                    })
                    .collect()
            }
        }
    }

    #[test]
    fn a_send_queue_is_a_cache_line() {
        assert_eq!(size_of::<Outgoing>(), 64);
    }

    #[test]
    fn pieces_go_out_in_order_from_where_the_kernel_stopped() {
        let buffers = Buffers::new(1, 64, false).unwrap();
        let mut outgoing = Outgoing::default();
        outgoing.push(Out::from(b"head".to_vec()).chunk(Chunk::from_static(b"body")), &buffers);
        outgoing.push(Out::from(Bytes::from_static(b"tail")).vec(Vec::new()), &buffers);
        assert_eq!((outgoing.queued, taken(&mut outgoing)), (12, b"headbodytail".to_vec()));
        outgoing.advance(6, &buffers);
        assert_eq!((outgoing.queued, taken(&mut outgoing)), (6, b"dytail".to_vec()));
        outgoing.advance(3, &buffers);
        assert_eq!((outgoing.queued, taken(&mut outgoing)), (3, b"ail".to_vec()));
        outgoing.advance(3, &buffers);
        assert_eq!(outgoing.queued, 0);
    }

    #[test]
    fn more_pieces_than_one_call_takes_go_in_several() {
        let buffers = Buffers::new(1, 64, false).unwrap();
        let mut outgoing = Outgoing::default();
        for n in 0..limits::SEND_PIECES + 1 {
            outgoing.push(Out::from(vec![n as u8]), &buffers);
        }
        assert_eq!(taken(&mut outgoing).len(), limits::SEND_PIECES);
        outgoing.advance(limits::SEND_PIECES, &buffers);
        assert_eq!(taken(&mut outgoing), [limits::SEND_PIECES as u8]);
    }
}
