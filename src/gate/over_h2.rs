//! One try on a node that speaks HTTP/2 (`grpc`, `grpcs`, `https` with `http2`): a stream on a connection that many exchanges share. The body
//! goes up while the answer comes down, so nothing of it is awaited before the head is sent.

use super::Core;
use super::proxy::{Held, Missed, Times, answered_with, failure_of, no_answer, not_sent, server_name};
use crate::conn::h2::call::{self, Begun, Kind};
use crate::conn::h2::upload;
use crate::exchange::h2::Call;
use crate::exchange::{Body, Exchange};
use crate::limits;
use crate::live::{LiveUpstream, Picked};
use crate::model::Scheme;
use crate::reactor;
use crate::transport::{Secure, Target};
use crate::upstream::retry::Try;

/// One try on one node, from the connection to the head of the answer.
pub(super) async fn attempt(
    core: &Core,
    ex: &mut Exchange,
    upstream: &LiveUpstream,
    picked: &Picked,
    times: Times,
    held: &mut Held,
    fresh: bool,
) -> Result<(), Missed> {
    let mut state = not_sent(ex, held);
    let tls = upstream.tls.h2.as_ref();
    let secure = tls.map(|client| Secure { client: client.clone(), name: server_name(core, ex) });
    let target = Target { address: picked.addr, tls: secure };
    let linked = core.links.take(&target, upstream.keep, times.connect_ms, times.send_ms).await;
    let linked = linked.map_err(|error| {
        log::error!("connect() to {} failed: {error}", picked.addr);
        Missed::Try(Try { failure: failure_of(&error), ..state })
    })?;
    // two in a row that end before an answer tell of the node
    state.reused = linked.reused && !fresh;
    if let Some(attempt) = ex.upstream.current() {
        attempt.connect_ms = Some((reactor::now_ms() - attempt.began_ms) as u32);
    }
    let Some(sender) = linked.link.sender() else { return Err(Missed::Try(Try { unseen: true, ..state })) };

    hold_what_has_come(ex, held).await?;
    state.replayable = held.whole && held.ended;
    state.sent = true;
    ex.proxied = true;
    let begun = Begun {
        bytes: &held.bytes,
        ended: held.ended,
        again: held.whole && held.bytes.len() < limits::REPLAY_BODY,
    };
    let kind = match upstream.conf.scheme {
        Scheme::Grpc => Kind::Grpc,
        Scheme::Grpcs => Kind::Grpcs,
        _ => Kind::Https,
    };
    let asked = call::ask(sender, ex, kind, begun, times.send_ms).await;
    let answered = match asked {
        Ok(asked) => call::answer(asked, ex, times.read_ms).await,
        Err(missed) => Err(missed),
    };
    match answered {
        Ok(()) => answered_with(core, ex, state),
        Err(call::Missed::Body(error)) => Err(Missed::Body(error)),
        Err(call::Missed::Upstream(error, unseen)) => {
            take_back(ex, held);
            state.replayable = held.whole;
            if unseen {
                // the connection takes no more, or not now: another one, and nothing was lost
                linked.link.retire();
                state = Try { sent: !held.whole, unseen: true, ..state };
            }
            Err(no_answer(error, picked, state))
        }
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
