//! Writing an answer to a stream of a client: its head, the body as fast as the client's window opens, trailers.

use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use smallvec::SmallVec;

use super::stream::Ended;
use crate::conn::Gate;
use crate::exchange::h2::{Data, Responder};
use crate::exchange::{BodyError, BodyPiece, Exchange, Source};
use crate::reactor::{self, Chunk};
use crate::wire::Name;
use crate::wire::headers::Headers;
use crate::wire::http::Method;

/// Why an answer was not written to its end.
enum Cut {
    /// The client has reset the stream, or is gone.
    Client,
    /// The body broke off, or is not as long as was announced: the client must not take it for whole.
    Body,
    /// The client's window stayed closed for too long.
    Window,
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
        Err(Cut::Client) => Ended::Reset,
        Err(Cut::Body) => {
            log::error!("an answer was cut off, connection {}", ex.facts.serial);
            stream.send_reset(Reason::INTERNAL_ERROR);
            Ended::Answered
        }
        Err(Cut::Window) => {
            log::info!("client timed out, connection {}", ex.facts.serial);
            stream.send_reset(Reason::CANCEL);
            Ended::Reset
        }
    }
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
        let trailers = ex.resp.body.trailers().filter(|_| piece.last).map(trailer_map);
        ex.resp.body_bytes += length;
        ex.resp.bytes += length;
        let ends = piece.last && trailers.is_none();
        send_piece(stream, piece.data, ends, gate.settings().send_ms).await?;
        if let Some(trailers) = trailers {
            return stream.send_trailers(trailers).map_err(|_| Cut::Client);
        }
        if ends {
            return Ok(());
        }
    }
}

/// The next piece of the body, unless the client goes first.
async fn next_piece(stream: &mut SendStream<Data>, ex: &mut Exchange) -> Result<Option<Chunk>, Cut> {
    std::future::poll_fn(|cx| match ex.resp.body.poll_piece(cx) {
        Poll::Ready(Err(BodyError::Closed | BodyError::Timeout)) => Poll::Ready(Err(Cut::Body)),
        Poll::Ready(Err(BodyError::Malformed | BodyError::TooLarge)) => Poll::Ready(Err(Cut::Body)),
        Poll::Ready(Ok(piece)) => Poll::Ready(Ok(piece)),
        Poll::Pending => stream.poll_reset(cx).map(|_| Err(Cut::Client)),
    })
    .await
}

/// Sends one piece as the client's window allows. Nothing more of the body is asked for meanwhile.
async fn send_piece(
    stream: &mut SendStream<Data>,
    mut data: Chunk,
    ends: bool,
    send_ms: u32,
) -> Result<(), Cut> {
    if data.is_empty() {
        return if ends { send(stream, data, true) } else { Ok(()) };
    }
    let mut waited = false;
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = stream.capacity();
        if room > 0 {
            let piece = data.split_to(room.min(data.len()));
            let last = ends && data.is_empty();
            send(stream, piece, last)?;
            continue;
        }
        if !std::mem::replace(&mut waited, true) {
            data = Chunk::from_vec(data.to_vec()); // a receive buffer is not held for as long as a client likes
        }
        let mut timer = reactor::sleep_until(reactor::now_ms() + u64::from(send_ms));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(room) = stream.poll_capacity(cx) {
                return Poll::Ready(room.and_then(Result::ok).map(drop).ok_or(Cut::Client));
            }
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Cut::Client));
            }
            std::pin::Pin::new(&mut timer).poll(cx).map(|()| Err(Cut::Window))
        })
        .await?;
    }
    Ok(())
}

fn send(stream: &mut SendStream<Data>, data: Chunk, ends: bool) -> Result<(), Cut> {
    stream.send_data(Data(data), ends).map_err(|_| Cut::Client)
}

/// `Content-Length` as it will be sent: what a plugin says has no length in APISIX, a built-in page has.
fn announced_length(ex: &Exchange, no_body: bool, filtered: bool) -> Option<SmallVec<[u8; 20]>> {
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
    let mut values = Values::default();
    let headers = &ex.resp.head.headers;
    if !headers.has(Name::Date) {
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
    ex.resp.bytes += values.text.len() as u64;
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(ex.resp.head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = values.map();
    response
}

/// Trailer fields as the h2 crate takes them.
fn trailer_map(trailers: &Headers) -> HeaderMap {
    let mut values = Values::default();
    trailers.iter().for_each(|(name, value, _)| values.add(name, value));
    values.map()
}

/// The fields of a head on their way into a map: one buffer for all values.
#[derive(Default)]
struct Values {
    text: Vec<u8>,
    fields: SmallVec<[(HeaderName, usize); 16]>,
}

impl Values {
    /// A name that is no token is left out: HTTP/2 could not carry it.
    fn add(&mut self, name: &[u8], value: &[u8]) {
        if let Ok(name) = HeaderName::from_bytes(name) {
            self.text.extend_from_slice(value);
            self.fields.push((name, value.len()));
        }
    }

    fn map(self) -> HeaderMap {
        let mut text = Bytes::from(self.text);
        let mut map = HeaderMap::with_capacity(self.fields.len());
        for (name, length) in self.fields {
            if let Ok(value) = HeaderValue::from_maybe_shared(text.split_to(length)) {
                map.append(name, value);
            }
        }
        map
    }
}
