//! Writing an answer to a stream of a client: its head, the body as fast as the client's window opens, trailers.

use std::rc::Rc;
use std::task::Poll;

use h2::{Reason, SendStream};
use http::{Response, StatusCode};
use smallvec::SmallVec;

use super::fields::{Fields, trailer_map};
use super::pipe::{self, Unsent};
use super::stream::Ended;
use crate::conn::Gate;
use crate::exchange::h2::{Data, Responder};
use crate::exchange::{BodyPiece, Exchange, Source};
use crate::reactor::Chunk;
use crate::wire::Name;
use crate::wire::http::Method;

/// Why an answer was not written to its end.
enum Cut {
    /// The client has reset the stream, is gone, or does not read.
    Send(Unsent),
    /// The body broke off, or is not as long as was announced: the client must not take it for whole.
    Body,
}

impl From<Unsent> for Cut {
    fn from(unsent: Unsent) -> Self {
        Cut::Send(unsent)
    }
}

/// Writes `ex.resp`.
pub(super) async fn write<G: Gate>(gate: &G, responder: &Rc<Responder>, ex: &mut Exchange) -> Ended {
    let filtered = gate.filters_body(ex);
    let no_body = ex.req.head.method == Method::Head || matches!(ex.resp.head.status, 100..=199 | 204 | 304);
    let length = announced_length(ex, no_body, filtered);
    let head = head(ex, length.as_deref());
    let ends = no_body || (!filtered && ex.resp.body.is_done() && ex.resp.body.trailers().is_none());
    let sent = responder.stream().send_response(head, ends);
    let Ok(mut stream) = sent else { return Ended::Reset };
    if ends {
        return Ended::Answered;
    }
    let left = length.and_then(|length| std::str::from_utf8(&length).ok()?.parse().ok());
    match write_body(gate, &mut stream, ex, filtered, left).await {
        Ok(()) => Ended::Answered,
        Err(Cut::Send(Unsent::Gone)) => Ended::Reset,
        Err(Cut::Body) => {
            log::error!("an answer was cut off, connection {}", ex.facts.serial);
            stream.send_reset(Reason::INTERNAL_ERROR);
            Ended::Answered
        }
        Err(Cut::Send(Unsent::Timeout)) => {
            log::info!("client timed out, connection {}", ex.facts.serial);
            stream.send_reset(Reason::CANCEL);
            Ended::Reset
        }
    }
}

/// Writes the head that opens the stream for bytes both ways. `None`: the client is gone.
pub(super) fn switch(responder: &Rc<Responder>, ex: &mut Exchange) -> Option<SendStream<Data>> {
    ex.resp.head.headers.remove(Name::ContentLength);
    ex.resp.head.headers.remove(Name::SecWebsocketAccept);
    let head = head(ex, None);
    responder.stream().send_response(head, false).ok()
}

/// The body piece by piece, and what follows it. `left` is what was announced and not yet sent.
async fn write_body<G: Gate>(
    gate: &G,
    stream: &mut SendStream<Data>,
    ex: &mut Exchange,
    filtered: bool,
    mut left: Option<u64>,
) -> Result<(), Cut> {
    loop {
        let data = next_piece(stream, ex).await?;
        let mut piece = BodyPiece { last: ex.resp.body.is_done(), data: data.unwrap_or_else(Chunk::empty) };
        if filtered {
            gate.filter_body(ex, &mut piece);
        }
        let length = piece.data.len() as u64;
        if let Some(left) = &mut left {
            *left = left.checked_sub(length).ok_or(Cut::Body)?;
        }
        if piece.last && left.is_some_and(|left| left > 0) {
            return Err(Cut::Body);
        }
        let trailers = ex.resp.body.trailers().filter(|_| piece.last);
        let trailers =
            trailers.map(|fields| trailer_map(fields.iter().map(|(name, value, _)| (name, value))));
        ex.resp.body_bytes += length;
        ex.resp.bytes += length;
        let ends = piece.last && trailers.is_none();
        pipe::send(stream, piece.data, ends, gate.settings().send_ms).await?;
        if let Some(trailers) = trailers {
            return stream.send_trailers(trailers).map_err(|_| Unsent::Gone.into());
        }
        if ends {
            return Ok(());
        }
    }
}

/// The next piece of the body, unless the client goes first.
async fn next_piece(stream: &mut SendStream<Data>, ex: &mut Exchange) -> Result<Option<Chunk>, Cut> {
    std::future::poll_fn(|cx| match ex.resp.body.poll_piece(cx) {
        Poll::Ready(Err(_)) => Poll::Ready(Err(Cut::Body)),
        Poll::Ready(Ok(piece)) => Poll::Ready(Ok(piece)),
        Poll::Pending => stream.poll_reset(cx).map(|_| Err(Unsent::Gone.into())),
    })
    .await
}

/// `Content-Length` as it will be sent: what a plugin says has no length in APISIX, a built-in page has.
pub(in crate::conn) fn announced_length(
    ex: &Exchange,
    no_body: bool,
    filtered: bool,
) -> Option<SmallVec<[u8; 20]>> {
    let said = ex.resp.source == Source::Gateway;
    if !no_body
        && !filtered
        && !said
        && let Some(length) = ex.resp.body.known_length()
    {
        return Some(itoa::Buffer::new().format(length).as_bytes().into());
    }
    ex.resp.head.headers.get(Name::ContentLength).map(SmallVec::from_slice)
}

/// The head as the h2 crate takes it. All values lie in one buffer. Fields of one connection are ours (RFC 9113
/// section 8.2.2).
fn head(ex: &mut Exchange, length: Option<&[u8]>) -> Response<()> {
    let mut values = Fields::default();
    let headers = &ex.resp.head.headers;
    // as over HTTP/1.1: an upstream's answer has the upstream's date, or none
    if ex.resp.source == Source::Gateway && !headers.has(Name::Date) {
        values.add(b"date", &crate::telemetry::clock::date());
    }
    if let Some(value) = headers.get(Name::ContentType) {
        values.add(b"content-type", value);
    }
    if let Some(length) = length {
        values.add(b"content-length", length);
    }
    for (name, value, id) in headers.iter() {
        match id {
            Name::ContentType | Name::ContentLength | Name::Connection | Name::KeepAlive => {}
            Name::TransferEncoding | Name::ProxyConnection | Name::Upgrade => {}
            _ => values.add(name, value),
        }
    }
    ex.resp.bytes += values.bytes() as u64;
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(ex.resp.head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = values.map();
    response
}
