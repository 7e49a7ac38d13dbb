//! Bytes both ways, until both ends are done: between a client that has switched protocols and its upstream, and on
//! layer 4.

use std::io;
use std::task::{Context, Poll, ready};

use super::Switched;
use crate::exchange::Exchange;
use crate::reactor::{self, TcpStream};
use crate::transport::pieces::Pieces;

/// One direction of a tunnel.
struct Way<'a> {
    from: &'a Switched,
    to: &'a Switched,
    /// How long a piece may be on its way out, ms.
    send_ms: u64,
    /// A piece is on its way out: the next one is asked for when it has left.
    sending: bool,
    /// The next piece is awaited since its deadline was set.
    waiting: bool,
    done: bool,
    bytes: u64,
    pieces: Pieces,
    /// Where large pieces may stay in the kernel on their way.
    plain: Option<(&'a TcpStream, &'a TcpStream)>,
}

/// Both directions.
pub struct Pump<'a> {
    up: Way<'a>,
    down: Way<'a>,
    idle_ms: u64,
    /// When the first byte came from the upstream, ms of the core's clock.
    pub first_down_ms: Option<u64>,
}

/// How a tunnel ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides have said that they are done.
    Closed,
    /// The client's connection failed.
    Client(io::Error),
    /// The upstream's connection failed, or nothing came either way for too long.
    Upstream(io::Error),
}

/// Which end of a [`Way`] failed.
enum End {
    From(io::Error),
    To(io::Error),
}

/// Pumps between the client and the upstream connection of `ex`: see [`Pump::run`]. The client has `send_ms` to take a
/// piece.
pub async fn run(client: &Switched, ex: &mut Exchange, send_ms: u32) {
    let Some(lease) = &ex.lease else { return }; // it stays: with it the end of the exchange gives all back
    let upstream = Switched::H1(lease.connection.stream.clone());
    let mut pump = Pump::new(client, &upstream, u64::from(lease.read_timeout_ms), u64::from(send_ms));
    if let Ended::Client(error) | Ended::Upstream(error) = pump.run().await {
        log::info!("a tunnel ended: {error}");
        client.reset();
    }
    let bytes = pump.down_bytes();
    ex.resp.bytes += bytes;
    ex.resp.body_bytes += bytes;
    if let Some(attempt) = ex.upstream.current() {
        attempt.bytes += bytes;
    }
}

impl<'a> Pump<'a> {
    /// Between a client, who has `send_ms` to take a piece, and an upstream, who has `idle_ms` for that.
    pub fn new(client: &'a Switched, upstream: &'a Switched, idle_ms: u64, send_ms: u64) -> Self {
        client.set_recv_deadline(None);
        Pump {
            up: Way::new(client, upstream, idle_ms),
            down: Way::new(upstream, client, send_ms),
            idle_ms,
            first_down_ms: None,
        }
    }

    /// Until both have closed, one fails, or nothing has come either way for `idle_ms` (nginx's timer is on the
    /// upstream's socket, and what the client sends winds it up again). An end that comes from one side is passed on to
    /// the other, which may go on; once the upstream has closed, the client has that time for each piece, too.
    pub async fn run(&mut self) -> Ended {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// See [`Pump::run`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let (up_bytes, down_done) = (self.up.bytes, self.down.done);
        let polled = self.down.poll(cx, Some(self.idle_ms));
        if self.down.bytes > 0 {
            self.first_down_ms.get_or_insert_with(reactor::now_ms);
        }
        match polled {
            Poll::Ready(Err(End::From(error))) => return Poll::Ready(Ended::Upstream(error)),
            Poll::Ready(Err(End::To(error))) => return Poll::Ready(Ended::Client(error)),
            _ => {}
        }
        self.up.waiting &= self.down.done == down_done;
        match self.up.poll(cx, self.down.done.then_some(self.idle_ms)) {
            Poll::Ready(Err(End::From(error))) => return Poll::Ready(Ended::Client(error)),
            Poll::Ready(Err(End::To(error))) => return Poll::Ready(Ended::Upstream(error)),
            _ => {}
        }
        // what rings meanwhile finds a new deadline
        self.down.waiting &= self.up.bytes == up_bytes;
        if self.up.done && self.down.done { Poll::Ready(Ended::Closed) } else { Poll::Pending }
    }

    /// Bytes that came from the client.
    pub fn up_bytes(&self) -> u64 {
        self.up.bytes
    }

    /// Bytes that came from the upstream.
    pub fn down_bytes(&self) -> u64 {
        self.down.bytes
    }
}

impl<'a> Way<'a> {
    fn new(from: &'a Switched, to: &'a Switched, send_ms: u64) -> Self {
        Way {
            from,
            to,
            send_ms,
            sending: false,
            waiting: false,
            done: false,
            bytes: 0,
            pieces: Pieces::default(),
            plain: from.plain().zip(to.plain()),
        }
    }

    /// Receives a piece and queues it; a run of large ones stays in the kernel. Returns how many bytes: none at the end.
    fn poll_pass(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let (true, Some((from, to))) = (self.pieces.are_bulk(), self.plain) {
            let arrived = ready!(from.poll_piped(cx, u64::MAX))?;
            let bytes = arrived.len();
            if bytes > 0 {
                to.send(arrived);
            }
            return Poll::Ready(Ok(bytes));
        }
        let chunk = ready!(self.from.poll_recv(cx))?;
        let bytes = chunk.len();
        if bytes > 0 {
            self.to.send(chunk);
        }
        Poll::Ready(Ok(bytes))
    }

    fn poll(&mut self, cx: &mut Context<'_>, idle_ms: Option<u64>) -> Poll<Result<(), End>> {
        while !self.done {
            if self.sending {
                ready!(self.to.poll_flushed(cx)).map_err(End::To)?;
                self.sending = false;
            }
            // once for each wait: a deadline that every poll moves never comes
            if let Some(idle_ms) = idle_ms.filter(|_| !self.waiting) {
                self.from.set_recv_deadline(Some(reactor::now_ms() + idle_ms));
            }
            self.waiting = true;
            let bytes = ready!(self.poll_pass(cx)).map_err(End::From)?;
            self.waiting = false;
            if bytes == 0 {
                self.done = true;
                self.to.shutdown_write();
                break;
            }
            self.bytes += bytes as u64;
            if let Some(bulk) = self.pieces.came(bytes) {
                self.from.expect_bulk(bulk);
            }
            self.to.set_send_deadline(Some(reactor::now_ms() + self.send_ms));
            self.sending = true;
        }
        Poll::Ready(Ok(()))
    }
}
