//! Writing an answer to an HTTP/1.1 client: its head, the framing, the body piece by piece.

use std::io;
use std::task::{Context, Poll};

use crate::conn::Gate;
use crate::conn::outgoing::Cut;
use crate::conn::trailers;
use crate::exchange::{Body, BodyPiece, Exchange, Source};
use crate::limits;
use crate::reactor::{self, Arrived, Chunk, Out};
use crate::transport::Stream;
use crate::wire::Name;
use crate::wire::headers::NameSet;
use crate::wire::http::chunked;
use crate::wire::http::{Method, write};

/// May the connection be used again?
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
pub enum After {
    /// Both messages ended where their framing said.
    Keep,
    /// The answer's end is the connection's, or something went wrong behind the head.
    Close,
}

/// How the body is framed. Only this file decides it (RFC 9112 section 6).
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
enum Frame {
    /// No body may follow: HEAD, 204, 304.
    NoBody,
    /// `Content-Length`, and what is left of it.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Until the connection closes.
    Close,
}

/// Has the client left? An answer that is cut off here is an error, too.
pub fn client_left(sent: &io::Result<After>) -> bool {
    sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof)
}

/// Writes `ex.resp`. An error means that nothing can follow on this connection.
pub async fn write<G: Gate>(
    gate: &G,
    stream: &Stream,
    ex: &mut Exchange,
    keep_alive: bool,
) -> io::Result<After> {
    let filtered = gate.filters_body(ex);
    let mut frame = choose_frame(ex, filtered);
    let keep_alive = keep_alive && frame != Frame::Close;
    (ex.resp.closes, ex.resp.chunked) = (!keep_alive, frame == Frame::Chunked);
    let mut out = reactor::take_buffer();
    write_head(ex, frame, &mut out);
    ex.resp.bytes += out.len() as u64;
    if stream.queued_bytes() > limits::QUEUED_BYTES {
        flush(gate, stream).await?;
    }
    if frame == Frame::NoBody || ex.resp.upgrade {
        stream.send(Out::from(out));
        return Ok(if keep_alive { After::Keep } else { After::Close });
    }
    let mut pending = Some(out);
    let unseen = !filtered && stream.plain().is_some() && matches!(frame, Frame::Length(_));
    loop {
        let mut piece = match next_piece(stream, &mut ex.resp.body, &mut pending, unseen).await {
            Ok(piece) => piece.unwrap_or(Arrived::Chunk(Chunk::empty())),
            Err(Cut::Body) => return cut_off(gate, stream, &mut pending).await,
            Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        let mut last = ex.resp.body.is_done();
        if filtered && let Arrived::Chunk(data) = piece {
            let mut filtered = BodyPiece { last, data };
            gate.filter_body(ex, &mut filtered);
            (piece, last) = (Arrived::Chunk(filtered.data), filtered.last);
        }
        let fits = send_piece(stream, ex, &mut frame, &mut pending, piece, last);
        if !fits {
            log::error!("an answer is longer than its content-length, connection {}", ex.facts.serial);
            return cut_off(gate, stream, &mut pending).await;
        }
        if last {
            break;
        }
        stream.sent()?; // nothing is queued behind an error: no flush would tell
        if stream.queued_bytes() >= limits::QUEUED_BYTES {
            flush(gate, stream).await?;
        }
    }
    let whole = !matches!(frame, Frame::Length(left) if left > 0);
    Ok(if keep_alive && whole { After::Keep } else { After::Close })
}

/// Waits until all that is queued has left. `send_timeout` is for a client that takes nothing, not for a slow one.
pub async fn flush<G: Gate>(gate: &G, stream: &Stream) -> io::Result<()> {
    loop {
        let queued = stream.queued_bytes();
        stream.set_send_deadline(Some(reactor::now_ms() + u64::from(gate.settings().send_ms)));
        match stream.flush().await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && stream.queued_bytes() < queued => {}
            flushed => return flushed,
        }
    }
}

/// The next piece of the body. If it is not there yet, what is pending leaves first, and the client may leave meanwhile:
/// then nobody wants the rest (nginx's `proxy_ignore_client_abort off`).
async fn next_piece(
    stream: &Stream,
    body: &mut Body,
    pending: &mut Option<Vec<u8>>,
    unseen: bool,
) -> Result<Option<Arrived>, Cut> {
    let mut poll = |cx: &mut Context<'_>| match unseen {
        true => body.poll_unseen(cx),
        false => body.poll_piece(cx).map_ok(|piece| piece.map(Arrived::Chunk)),
    };
    std::future::poll_fn(|cx| match poll(cx) {
        Poll::Pending => {
            if let Some(out) = pending.take() {
                stream.send(Out::from(out));
            }
            stream.poll_closed(cx).map(|()| Err(Cut::Gone))
        }
        Poll::Ready(piece) => Poll::Ready(piece.map_err(|_| Cut::Body)),
    })
    .await
}

/// Queues one piece behind what is pending. `false`: it is not, for it is longer than the length that was announced.
fn send_piece(
    stream: &Stream,
    ex: &mut Exchange,
    frame: &mut Frame,
    pending: &mut Option<Vec<u8>>,
    data: Arrived,
    last: bool,
) -> bool {
    let length = data.len() as u64;
    if let Frame::Length(left) = frame {
        if length > *left {
            return false;
        }
        *left -= length;
    }
    ex.resp.body_bytes += length;
    let mut out = pending.take().unwrap_or_else(reactor::take_buffer);
    let before = out.len();
    let in_chunks = *frame == Frame::Chunked;
    if in_chunks && !data.is_empty() {
        chunked::chunk_head(&mut out, data.len());
    }
    let mut behind = before;
    let mut sent = Out::default();
    match data {
        Arrived::Chunk(data) if data.len() <= limits::COPY_BODY => out.extend_from_slice(&data),
        data => {
            ex.resp.bytes += (out.len() - before) as u64 + length;
            sent = sent.vec(std::mem::replace(&mut out, reactor::take_buffer())).arrived(data);
            behind = 0;
        }
    }
    if in_chunks && length > 0 {
        out.extend_from_slice(chunked::CHUNK_END);
    }
    if in_chunks && last {
        chunked::last_chunk(&mut out, trailers::of_answer(ex));
    }
    ex.resp.bytes += (out.len() - behind) as u64;
    stream.send(sent.vec(out));
    true
}

/// The body broke off behind its head, or is none that the head speaks of: the client sees an incomplete message, never a
/// wrong one.
async fn cut_off<G: Gate>(gate: &G, stream: &Stream, pending: &mut Option<Vec<u8>>) -> io::Result<After> {
    if let Some(out) = pending.take() {
        stream.send(Out::from(out));
    }
    flush(gate, stream).await?;
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn choose_frame(ex: &Exchange, filtered: bool) -> Frame {
    let head = &ex.resp.head;
    let no_body = (ex.req.head.method == Method::Head) || matches!(head.status, 100..=199 | 204 | 304);
    if no_body {
        return Frame::NoBody;
    }
    // what a plugin says has no length in APISIX, a built-in page has
    let said = ex.resp.source == Source::Gateway;
    if !filtered
        && !said
        && let Some(length) = ex.resp.body.known_length()
    {
        return Frame::Length(length);
    }
    let announced =
        head.headers.get(Name::ContentLength).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
    match announced {
        Some(length) => Frame::Length(length),
        None if ex.req.head.version == 11 => Frame::Chunked,
        None => Frame::Close,
    }
}

/// What [`write_head`] says itself, or must not pass on.
const WRITTEN: NameSet = NameSet::of(&[
    Name::Connection,
    Name::KeepAlive,
    Name::TransferEncoding,
    Name::ProxyConnection,
    Name::ContentType,
    Name::ContentLength,
]);

/// The head in nginx's order: date, type, framing, connection, then all others as they were given. Hop-by-hop
/// fields are ours (RFC 9110 section 7.6.1).
fn write_head(ex: &Exchange, frame: Frame, out: &mut Vec<u8>) {
    let head = &ex.resp.head;
    match head.reason() {
        b"" => write::status_line(out, head.status),
        reason => write::status_line_with(out, head.status, reason),
    }
    // of an upstream's answer the date is its own, or none, as `proxy_pass_header Date` has it (ngx_tpl.lua)
    if ex.resp.source == Source::Gateway && !head.headers.has(Name::Date) {
        write::header(out, b"Date", &crate::telemetry::clock::date());
    }
    if let Some(value) = head.headers.get(Name::ContentType) {
        write::header(out, b"Content-Type", value);
    }
    match (frame, head.headers.get(Name::ContentLength)) {
        (Frame::Length(length), _) => write::header_number(out, b"Content-Length", length),
        (Frame::NoBody, Some(length)) => write::header(out, b"Content-Length", length),
        (Frame::Chunked, _) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        (Frame::NoBody | Frame::Close, _) => {}
    }
    out.extend_from_slice(match (ex.resp.upgrade, ex.resp.closes) {
        (true, _) => b"Connection: upgrade\r\n",
        (false, true) => b"Connection: close\r\n".as_slice(),
        (false, false) => b"Connection: keep-alive\r\n",
    });
    let mut written = WRITTEN;
    if !ex.resp.upgrade {
        written = written.with(Name::Upgrade);
    }
    if matches!(frame, Frame::Length(_) | Frame::Close) {
        written = written.with(Name::Trailer);
    }
    head.headers.write(written, out);
    out.extend_from_slice(b"\r\n");
}
