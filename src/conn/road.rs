//! The road of a request that came on a stream of its own, over HTTP/2 or HTTP/3: the same exchange and the same gate as
//! a request of HTTP/1.1.

use super::outgoing::Ended;
use super::switched::settle_connect;
use super::{Gate, Settings, Switched, caught};
use crate::exchange::Exchange;
use crate::wire::Name;
use crate::wire::http::{self, Framing, Reject, RequestHead};

/// A stream that a client has opened for a request.
pub(in crate::conn) trait Asked {
    /// The request as the protocol gives it.
    type Request;
    /// What the client sends, where its stream becomes a pipe of bytes.
    type Pipe;

    /// Reads the request into `ex`, body and all, but for what an extended CONNECT sends: that is returned.
    fn read<G: Gate>(
        &self,
        gate: &G,
        ex: &mut Exchange,
        request: Self::Request,
    ) -> Result<Option<Self::Pipe>, Refused>;

    /// Writes `ex.resp`.
    async fn answer<G: Gate>(&self, gate: &G, ex: &mut Exchange) -> Ended;

    /// Writes the head that opens the stream for bytes both ways. `None`: the client is gone.
    async fn switch<G: Gate>(&self, gate: &G, ex: &mut Exchange, from: Self::Pipe) -> Option<Switched>;

    /// Resets the stream: the fault is ours.
    fn fail(&self);
}

/// Why a request gets no further.
pub(in crate::conn) enum Refused {
    /// It is answered so.
    Page(Reject),
    /// Its stream has been reset.
    Stream,
}

impl From<Reject> for Refused {
    fn from(reject: Reject) -> Self {
        Refused::Page(reject)
    }
}

/// Runs the exchange; a panic in it answers 500 and harms no other stream.
pub(in crate::conn) async fn serve<G: Gate, S: Asked>(
    gate: &G,
    stream: &S,
    ex: &mut Exchange,
    request: S::Request,
) -> Ended {
    if let Some(ended) = caught(|| exchange(gate, stream, ex, request)).await {
        return ended;
    }
    gate.panicked();
    log::error!("a panic ended an exchange of connection {}", ex.facts.serial);
    match ex.resp.bytes {
        0 => Box::pin(refuse(gate, stream, ex, 500)).await,
        _ => {
            stream.fail();
            Ended::Answered
        }
    }
}

/// One exchange: request, gate, answer, log.
async fn exchange<G: Gate, S: Asked>(gate: &G, stream: &S, ex: &mut Exchange, request: S::Request) -> Ended {
    let pipe = match stream.read(gate, ex, request) {
        Ok(pipe) => pipe,
        Err(Refused::Page(reject)) => {
            log::info!("client sent a bad request: {} from {}", reject.reason, ex.facts.peer);
            return Box::pin(refuse(gate, stream, ex, reject.page)).await;
        }
        Err(Refused::Stream) => return Ended::Answered,
    };
    gate.handle(ex).await;
    if ex.req.connects {
        settle_connect(gate, ex);
    }
    let ended = match pipe.filter(|_| ex.resp.upgrade) {
        _ if ex.resp.client_gone => Ended::Reset,
        Some(from) => switch(gate, stream, ex, from).await,
        None => stream.answer(gate, ex).await,
    };
    ex.resp.left = ended == Ended::Reset;
    gate.finish(ex);
    ended
}

/// The stream becomes a pipe of bytes, whose one half is `from`.
async fn switch<G: Gate, S: Asked>(gate: &G, stream: &S, ex: &mut Exchange, from: S::Pipe) -> Ended {
    ex.resp.head.headers.remove(Name::ContentLength);
    ex.resp.head.headers.remove(Name::SecWebsocketAccept);
    let Some(client) = stream.switch(gate, ex, from).await else { return Ended::Reset };
    Box::pin(gate.switched(ex, client)).await;
    Ended::Answered
}

/// Answers `status` with its built-in page.
async fn refuse<G: Gate, S: Asked>(gate: &G, stream: &S, ex: &mut Exchange, status: u16) -> Ended {
    gate.refuse(ex, status);
    let ended = stream.answer(gate, ex).await;
    gate.finish(ex);
    ended
}

/// How the request's body is framed, unless it is longer than a client may send.
pub(in crate::conn) fn body_framing(head: &RequestHead, settings: &Settings) -> Result<Framing, Reject> {
    let framing = http::request_framing(head)?;
    match framing {
        Framing::Length(length) if settings.max_body_bytes != 0 && length > settings.max_body_bytes => {
            Err(too_large())
        }
        _ => Ok(framing),
    }
}

/// A body is longer than a client may send.
pub(in crate::conn) fn too_large() -> Reject {
    Reject::new(413, "client intended to send too large body")
}

/// The client waits for `100 Continue` before it sends the body.
pub(in crate::conn) fn expects_continue(head: &RequestHead) -> bool {
    head.headers.get(Name::Expect).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
}
