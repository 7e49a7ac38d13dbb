//! What a session has towards an upstream: a connection of its own, or a seat on a shared one.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::lane::Seat;
use crate::live::LiveUpstream;
use crate::live::streams::StreamPlan;
use crate::reactor::{self, Chunk};
use crate::transport::Stream;
use crate::transport::pieces::Pieces;

/// Which calls it is for.
#[derive(Clone)]
pub(super) enum Of {
    /// Those that need a connection of the session's own.
    Own,
    /// Those that share one.
    Shared,
    /// Those of a subordinate route.
    Route(Rc<StreamPlan>),
}

impl Of {
    pub fn is(&self, other: &Of) -> bool {
        match (self, other) {
            (Of::Own, Of::Own) | (Of::Shared, Of::Shared) => true,
            (Of::Route(a), Of::Route(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// The bytes' road.
pub(super) enum Wire {
    Own(Rc<Stream>),
    Lane(Seat),
}

/// One of a session's.
pub(super) struct Link {
    pub of: Of,
    pub wire: Wire,
    pub idle_ms: u64,
    pub upstream: Option<Rc<LiveUpstream>>,
    pub node: usize,
    /// Those that come on a connection of its own.
    pub pieces: Cell<Pieces>,
    /// It has ended, and nobody needs it.
    pub over: Cell<bool>,
}

/// Its node has one session less.
impl Drop for Link {
    fn drop(&mut self) {
        if let Some(upstream) = &self.upstream {
            upstream.finished(self.node, None, reactor::now_ms());
        }
    }
}

/// Why bytes were not sent.
pub(super) enum Unsent {
    /// The shared connection has ended before; here they are.
    Over(Chunk),
    Failed(io::Error),
}

impl Link {
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match &self.wire {
            Wire::Own(stream) => {
                let received = stream.poll_recv(cx);
                if let Poll::Ready(Ok(chunk)) = &received {
                    size_buffers(stream, &self.pieces, chunk.len());
                }
                received
            }
            Wire::Lane(seat) => seat.poll_recv(cx),
        }
    }

    /// Sends a piece, on a shared connection with so many calls in it, and waits until it has left, there until there is
    /// room for more.
    pub async fn send(&self, piece: Chunk, calls: usize) -> Result<(), Unsent> {
        match &self.wire {
            Wire::Own(stream) => send(stream, piece, self.idle_ms).await.map_err(Unsent::Failed),
            Wire::Lane(seat) => seat.send(piece, calls).await.map_err(Unsent::Over),
        }
    }

    /// Calls may be sent here.
    pub fn takes_calls(&self) -> bool {
        let is_open = match &self.wire {
            Wire::Own(_) => true,
            Wire::Lane(seat) => seat.is_open(),
        };
        is_open && !self.over.get()
    }

    /// The client will send nothing more.
    pub fn shutdown_write(&self) {
        if let Wire::Own(stream) = &self.wire {
            stream.shutdown_write();
        }
    }

    /// Nothing more goes or comes here.
    pub fn is_over(&self) -> bool {
        self.over.get() || matches!(&self.wire, Wire::Lane(seat) if seat.is_over())
    }
}

/// A piece of so many bytes has come from a stream: the buffers for the next ones are to fit.
pub(super) fn size_buffers(from: &Stream, pieces: &Cell<Pieces>, bytes: usize) {
    let mut seen = pieces.get();
    if let Some(bulk) = seen.came(bytes) {
        from.expect_bulk(bulk);
    }
    pieces.set(seen);
}

/// Sends a piece, and waits until it has left.
pub(super) async fn send(to: &Stream, piece: Chunk, within_ms: u64) -> io::Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    to.set_send_deadline(Some(reactor::now_ms() + within_ms));
    to.send(piece);
    to.flush().await
}

/// A new one comes among those of a session, in the place of one that is over: behind its own kind, for what these still have
/// to say comes first.
pub(super) fn put(links: &mut Vec<Rc<Link>>, link: Rc<Link>) {
    let behind = links.iter().rposition(|old| !old.is_over() && old.of.is(&link.of)).map_or(0, |at| at + 1);
    match links.iter_mut().skip(behind).find(|old| old.is_over()) {
        Some(old) => *old = link,
        None => links.push(link),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::super::lane::Lane;
    use super::super::{Answers, Broken};
    use super::*;
    use crate::transport::tests::on_both;
    use crate::transport::{Target, connect};

    async fn connection() -> (Rc<Stream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target { address: listener.local_addr().unwrap(), tls: None };
        let stream = Rc::new(connect(&target, 5000).await.unwrap());
        (stream, listener.accept().unwrap().0)
    }

    fn link(of: Of, wire: Wire, over: bool) -> Rc<Link> {
        let (pieces, over) = (Cell::default(), Cell::new(over));
        Rc::new(Link { of, wire, idle_ms: 10_000, upstream: None, node: 0, pieces, over })
    }

    #[test]
    fn a_long_message_comes_in_large_buffers() {
        const LENGTH: usize = 4 << 20;
        on_both(async || {
            let (stream, mut server) = connection().await;
            let sends = std::thread::spawn(move || server.write_all(&vec![b'v'; LENGTH]));
            let link = link(Of::Own, Wire::Own(stream), false);
            let (mut read, mut longest) = (0, 0);
            while read < LENGTH {
                let piece = poll_fn(|cx| link.poll_recv(cx)).await.unwrap().len();
                assert_ne!(piece, 0);
                read += piece;
                longest = longest.max(piece);
            }
            assert!(longest > 32 << 10, "{longest}");
            sends.join().unwrap().unwrap();
        });
    }
    /// No answer ever comes.
    struct Nothing;

    impl Answers for Nothing {
        fn read(&mut self, _: &[u8], _: &mut usize) -> Result<bool, Broken> {
            Ok(false)
        }

        fn is_between(&self) -> bool {
            true
        }

        fn lost(&self) -> &'static [u8] {
            b"lost"
        }
    }

    #[test]
    fn calls_that_were_lost_are_told_of_before_the_answers_to_later_ones() {
        on_both(async || {
            let (own, _own_end) = connection().await;
            let (shared, far_end) = connection().await;
            let lane = Lane::open(shared, 5000, Box::new(Nothing));
            let seat = lane.sit();
            assert!(seat.send(Chunk::from_static(b"call"), 1).await.is_ok());
            drop(far_end);
            while seat.is_open() {
                reactor::sleep(1).await;
            }
            let spare = link(Of::Own, Wire::Own(own.clone()), true);
            let lost = link(Of::Shared, Wire::Lane(seat), false);
            let mut links = vec![spare, lost.clone()];
            let later = link(Of::Shared, Wire::Own(own.clone()), false);
            put(&mut links, later.clone());
            assert!(
                links.len() == 3 && Rc::ptr_eq(&links[2], &later),
                "the free place is before the lost call"
            );
            assert_eq!(poll_fn(|cx| lost.poll_recv(cx)).await.unwrap()[..], *b"lost");
            let other = link(Of::Own, Wire::Own(own.clone()), false);
            put(&mut links, other.clone());
            assert!(links.len() == 3 && Rc::ptr_eq(&links[0], &other));
        });
    }
}
