//! Bytes both ways after `101 Switching Protocols`, until both ends are done.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::exchange::Exchange;
use crate::reactor::{self, Out};
use crate::transport::Stream;

/// One direction of a tunnel.
struct Way<'a> {
    from: &'a Stream,
    to: &'a Stream,
    /// A piece is on its way out: the next one is asked for when it has left.
    sending: bool,
    done: bool,
    bytes: u64,
}

/// Pumps between the client and the upstream connection of `ex` until both have closed, one fails, or
/// the upstream has been silent for its read timeout (nginx observes it towards the upstream alone).
pub async fn run(client: &Rc<Stream>, ex: &mut Exchange) {
    let Some(lease) = ex.lease.take() else { return };
    let upstream = lease.connection.stream.clone();
    let idle_ms = u64::from(lease.read_timeout_ms);
    let mut down = Way { from: &upstream, to: client, sending: false, done: false, bytes: 0 };
    let mut up = Way { from: client, to: &upstream, sending: false, done: false, bytes: 0 };
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = up.poll(cx, None) {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(Err(error)) = down.poll(cx, Some(idle_ms)) {
            return Poll::Ready(Err(error));
        }
        if up.done && down.done { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
    })
    .await;
    if let Err(error) = ended {
        log::info!("a tunnel ended: {error}");
    }
    ex.resp.bytes += down.bytes;
    ex.resp.body_bytes += down.bytes;
}

impl Way<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, idle_ms: Option<u64>) -> Poll<io::Result<()>> {
        while !self.done {
            if self.sending {
                std::task::ready!(self.to.poll_flushed(cx))?;
                self.sending = false;
            }
            self.from.set_recv_deadline(idle_ms.map(|idle_ms| reactor::now_ms() + idle_ms));
            let chunk = std::task::ready!(self.from.poll_recv(cx))?;
            if chunk.is_empty() {
                self.done = true;
                self.to.shutdown_write();
                break;
            }
            self.bytes += chunk.len() as u64;
            self.to.send(Out::from(chunk));
            self.sending = true;
        }
        Poll::Ready(Ok(()))
    }
}
