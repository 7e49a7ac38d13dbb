//! Writing an answer to a stream of a client: its head, the body as fast as the client's window opens, trailers.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use super::stream::Ended;
use crate::conn::Gate;
use crate::conn::h2::answer::announced_length;
use crate::exchange::h3::Stream;
use crate::exchange::{BodyPiece, Exchange, Source};
use crate::reactor::{self, Chunk};
use crate::wire::h3::{Code, frame, qpack};
use crate::wire::http::Method;
use crate::wire::{Headers, Name};

/// Why an answer was not written to its end.
enum Cut {
    /// The client wants no more of it, or is gone.
    Gone,
    /// It does not read.
    Timeout,
    /// The body broke off, or is not as long as was announced: the client must not take it for whole.
    Body,
}

/// Writes `ex.resp`.
pub(super) async fn write<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange) -> Ended {
    let written = write_all(gate, stream, ex).await;
    match written {
        Ok(()) => {
            stream.finish();
            Ended::Answered
        }
        Err(Cut::Gone) => {
            stream.reset(Code::RequestCancelled);
            Ended::Reset
        }
        Err(Cut::Body) => {
            log::error!("an answer was cut off, connection {}", ex.facts.serial);
            stream.reset(Code::InternalError);
            Ended::Answered
        }
        Err(Cut::Timeout) => {
            log::info!("client timed out, connection {}", ex.facts.serial);
            stream.reset(Code::RequestCancelled);
            Ended::Reset
        }
    }
}

/// Writes the head that opens the stream for bytes both ways. False: the client is gone.
pub(super) async fn switch<G: Gate>(gate: &G, stream: &Stream, ex: &mut Exchange) -> bool {
    ex.resp.head.headers.remove(Name::ContentLength);
    ex.resp.head.headers.remove(Name::SecWebsocketAccept);
    let head = head(ex, None);
    ex.resp.bytes += head.len() as u64;
    send(stream, Chunk::from_vec(head), gate.settings().send_ms).await.is_ok()
}

async fn write_all<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange) -> Result<(), Cut> {
    let filtered = gate.filters_body(ex);
    let no_body = ex.req.head.method == Method::Head || matches!(ex.resp.head.status, 100..=199 | 204 | 304);
    let length = announced_length(ex, no_body, filtered);
    let mut left = length.as_deref().and_then(|length| std::str::from_utf8(length).ok()?.parse::<u64>().ok());
    let send_ms = gate.settings().send_ms;
    let head = head(ex, length.as_deref());
    ex.resp.bytes += head.len() as u64;
    send(stream, Chunk::from_vec(head), send_ms).await?;
    if no_body {
        return Ok(());
    }
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
        ex.resp.body_bytes += length;
        ex.resp.bytes += length;
        if length > 0 {
            let mut frame = Vec::with_capacity(16);
            frame::begin(frame::DATA, piece.data.len(), &mut frame);
            send(stream, Chunk::from_vec(frame), send_ms).await?;
            send(stream, piece.data, send_ms).await?;
        }
        if piece.last {
            let trailers = ex.resp.body.trailers().filter(|fields| !fields.is_empty()).map(trailer_frame);
            if let Some(trailers) = trailers {
                send(stream, Chunk::from_vec(trailers), send_ms).await?;
            }
            return Ok(());
        }
    }
}

/// Sends one piece as the client's window allows. Nothing more of the body is to be asked for meanwhile.
async fn send(stream: &Stream, mut bytes: Chunk, send_ms: u32) -> Result<(), Cut> {
    let mut late = None;
    let mut before = bytes.len();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(written) = stream.poll_write(&mut bytes, cx) {
            return Poll::Ready(written.map_err(|_| Cut::Gone));
        }
        // a slow client is not one that takes nothing
        if bytes.len() < before || late.is_none() {
            before = bytes.len();
            bytes = Chunk::from_vec(bytes.to_vec()); // a receive buffer is not held for as long as a client likes
            late = Some(reactor::sleep_until(reactor::now_ms() + u64::from(send_ms)));
        }
        let Some(late) = &mut late else { return Poll::Pending };
        Pin::new(late).poll(cx).map(|()| Err(Cut::Timeout))
    })
    .await
}

/// The next piece of the body, unless the client goes first.
async fn next_piece(stream: &Stream, ex: &mut Exchange) -> Result<Option<Chunk>, Cut> {
    std::future::poll_fn(|cx| match ex.resp.body.poll_piece(cx) {
        Poll::Ready(Err(_)) => Poll::Ready(Err(Cut::Body)),
        Poll::Ready(Ok(piece)) => Poll::Ready(Ok(piece)),
        Poll::Pending => stream.poll_gone(cx).map(|()| Err(Cut::Gone)),
    })
    .await
}

/// The head as a frame. Fields of one connection are ours (RFC 9114 section 4.2).
fn head(ex: &Exchange, length: Option<&[u8]>) -> Vec<u8> {
    let mut section = Vec::with_capacity(256);
    qpack::begin(&mut section);
    qpack::encode(b":status", itoa::Buffer::new().format(ex.resp.head.status).as_bytes(), &mut section);
    let headers = &ex.resp.head.headers;
    // as over HTTP/1.1: an upstream's answer has the upstream's date, or none
    if ex.resp.source == Source::Gateway && !headers.has(Name::Date) {
        qpack::encode(b"date", &crate::telemetry::clock::date(), &mut section);
    }
    if let Some(value) = headers.get(Name::ContentType) {
        qpack::encode(b"content-type", value, &mut section);
    }
    if let Some(length) = length {
        qpack::encode(b"content-length", length, &mut section);
    }
    for (name, value, id) in headers.iter() {
        match id {
            Name::ContentType | Name::ContentLength | Name::Connection | Name::KeepAlive => {}
            Name::TransferEncoding | Name::ProxyConnection | Name::Upgrade => {}
            _ => qpack::encode(name, value, &mut section),
        }
    }
    framed(&section)
}

fn trailer_frame(trailers: &Headers) -> Vec<u8> {
    let mut section = Vec::new();
    qpack::begin(&mut section);
    trailers.iter().for_each(|(name, value, _)| qpack::encode(name, value, &mut section));
    framed(&section)
}

fn framed(section: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(section.len() + 8);
    frame::begin(frame::HEADERS, section.len(), &mut out);
    out.extend_from_slice(section);
    out
}
