//! One try on a node that speaks HTTP/2 (`grpc`, `grpcs`, `https` with `http2`): a stream on a connection that many exchanges share. The body
//! goes up while the answer comes down, so nothing of it is awaited before the head is sent.

use std::io;

use super::proxy::{Ask, Missed, not_sent, note_connected, server_name};
use crate::conn::h2::call::{self, Begun, Kind};
use crate::conn::h2::link::Linked;
use crate::conn::h2::upload;
use crate::exchange::h2::Call;
use crate::exchange::{Body, Exchange, Held};
use crate::limits;
use crate::model::Scheme;
use crate::transport::{Secure, Target};
use crate::upstream::retry::Try;

impl Ask<'_> {
    /// From the connection to the head of the answer.
    pub(super) async fn over_h2(&self, ex: &mut Exchange, held: &mut Held) -> Result<(), Missed> {
        let mut state = not_sent(ex, held);
        let linked = self.link(ex).await.map_err(|error| self.unconnected(&error, state))?;
        // two in a row that end before an answer tell of the node
        state.reused = linked.reused && !self.fresh;
        note_connected(ex);
        let Some(sender) = linked.link.sender() else {
            return Err(Missed::Try(Try { unseen: true, ..state }));
        };

        hold_what_has_come(ex, held).await?;
        state.replayable = held.whole && held.ended;
        state.sent = true;
        ex.proxied = true;
        let begun = Begun {
            bytes: &held.bytes,
            ended: held.ended,
            again: held.whole && held.bytes.len() < limits::REPLAY_BODY,
        };
        let kind = match self.upstream.conf.scheme {
            Scheme::Grpc => Kind::Grpc,
            Scheme::Grpcs => Kind::Grpcs,
            _ => Kind::Https,
        };
        let answered = match call::ask(sender, ex, kind, begun, self.times.send_ms).await {
            Ok(asked) => call::answer(asked, ex, self.times.read_ms).await,
            Err(missed) => Err(missed),
        };
        match answered {
            Ok(()) => self.answered(ex, state),
            Err(call::Missed::Body(error)) => Err(Missed::Body(error)),
            Err(call::Missed::Upstream(error, unseen)) => {
                take_back(ex, held);
                state.replayable = held.whole;
                if unseen {
                    // the connection takes no more, or not now: another one, and nothing was lost
                    linked.link.retire();
                    state = Try { sent: !held.whole, unseen: true, ..state };
                }
                Err(self.no_answer(error, state))
            }
        }
    }

    /// A connection that other exchanges share, or a new one.
    async fn link(&self, ex: &Exchange) -> io::Result<Linked> {
        let tls = self.upstream.tls.h2.as_ref();
        let secure = tls.map(|client| Secure { client: client.clone(), name: server_name(self.core, ex) });
        let target = Target { address: self.picked.addr, tls: secure };
        self.core.links.take(&target, self.upstream.keep, self.times.connect_ms, self.times.send_ms).await
    }
}

/// There is no answer: the body is again where it was, with all that was taken of it if that was kept.
fn take_back(ex: &mut Exchange, held: &mut Held) {
    let Some((body, taken)) = ex.call.take().and_then(Call::take_back) else { return };
    ex.req.body = body;
    match taken {
        Some(bytes) => held.bytes.extend_from_slice(&bytes),
        None => held.whole = false,
    }
}

/// A body that is there goes with the head, and can be sent again.
async fn hold_what_has_come(ex: &mut Exchange, held: &mut Held) -> Result<(), Missed> {
    if held.ended || matches!(ex.req.body, Body::Empty) {
        held.ended = true;
        return Ok(());
    }
    let taken = upload::take_ready(&mut ex.req.body, &mut held.bytes, limits::REPLAY_BODY).await;
    held.ended = taken.map_err(Missed::Body)?;
    Ok(())
}
