//! Bytes both ways between a client that has switched protocols and its upstream, until both ends are done.

use std::io;
use std::task::{Context, Poll};

use super::Switched;
use crate::exchange::Exchange;
use crate::reactor;

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
}

/// Pumps between the client and the upstream connection of `ex` until both have closed, one fails, or nothing
/// has come either way for the upstream's read timeout (nginx's timer is on the upstream's socket, and what
/// the client sends winds it up again). Once the upstream has closed, the client has that time for each piece, too.
/// A side that takes nothing has the same time, the client `send_ms`.
pub async fn run(client: &Switched, ex: &mut Exchange, send_ms: u32) {
    let Some(lease) = ex.lease.take() else { return };
    let upstream = Switched::H1(lease.connection.stream.clone());
    let idle_ms = u64::from(lease.read_timeout_ms);
    let mut down = Way::new(&upstream, client, u64::from(send_ms));
    let mut up = Way::new(client, &upstream, idle_ms);
    client.set_recv_deadline(None);
    let ended = std::future::poll_fn(|cx| {
        let (up_bytes, down_done) = (up.bytes, down.done);
        if let Poll::Ready(Err(error)) = down.poll(cx, Some(idle_ms)) {
            return Poll::Ready(Err(error));
        }
        up.waiting &= down.done == down_done;
        if let Poll::Ready(Err(error)) = up.poll(cx, down.done.then_some(idle_ms)) {
            return Poll::Ready(Err(error));
        }
        // what rings meanwhile finds a new deadline
        down.waiting &= up.bytes == up_bytes;
        if up.done && down.done { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
    })
    .await;
    if let Err(error) = ended {
        log::info!("a tunnel ended: {error}");
        client.reset();
    }
    ex.resp.bytes += down.bytes;
    ex.resp.body_bytes += down.bytes;
}

impl<'a> Way<'a> {
    fn new(from: &'a Switched, to: &'a Switched, send_ms: u64) -> Self {
        Way { from, to, send_ms, sending: false, waiting: false, done: false, bytes: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>, idle_ms: Option<u64>) -> Poll<io::Result<()>> {
        while !self.done {
            if self.sending {
                std::task::ready!(self.to.poll_flushed(cx))?;
                self.sending = false;
            }
            // once for each wait: a deadline that every poll moves never comes
            if let Some(idle_ms) = idle_ms.filter(|_| !self.waiting) {
                self.from.set_recv_deadline(Some(reactor::now_ms() + idle_ms));
            }
            self.waiting = true;
            let chunk = std::task::ready!(self.from.poll_recv(cx))?;
            self.waiting = false;
            if chunk.is_empty() {
                self.done = true;
                self.to.shutdown_write();
                break;
            }
            self.bytes += chunk.len() as u64;
            self.to.set_send_deadline(Some(reactor::now_ms() + self.send_ms));
            self.to.send(chunk);
            self.sending = true;
        }
        Poll::Ready(Ok(()))
    }
}
