//! The client role: a request to an upstream, and the head of its answer.

use std::io;
use std::rc::Rc;
use std::task::Poll;

use crate::conn::trailers;
use crate::exchange::body::H1Body;
use crate::exchange::{Body, Exchange, Side, Source};
use crate::limits;
use crate::reactor::{self, Chunk};
use crate::transport::Stream;
use crate::wire::Name;
use crate::wire::headers::NameSet;
use crate::wire::http::{self, Framing, Progress, chunked, write};

/// How the request's body goes upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendBody {
    /// None.
    Nothing,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The connection failed or ended.
    Broken(io::Error),
    /// Too slow.
    Timeout,
    /// Not HTTP, or an answer whose length is in doubt.
    Invalid(&'static str),
    /// The client left meanwhile.
    ClientGone,
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => NoAnswer::Timeout,
            _ => NoAnswer::Broken(error),
        }
    }
}

/// What [`write_request`] says itself, or must not pass on.
const WRITTEN: NameSet = NameSet::of(&[
    Name::Host,
    Name::Connection,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::ContentLength,
    Name::TransferEncoding,
    Name::Te,
    Name::Upgrade,
    Name::Expect,
    Name::XRealIp,
    Name::XForwardedFor,
]);

/// Writes the head of the request as it goes upstream: what nginx's `proxy_set_header` lines of APISIX's
/// template make of it, then the client's own headers in their order (ngx_tpl.lua).
pub fn write_request(ex: &Exchange, websocket: bool, body: SendBody, out: &mut Vec<u8>) {
    let head = &ex.req.head;
    let method = ex.out.method.as_deref().unwrap_or(head.method_text());
    write::request_line(out, method, ex.out.uri.as_deref().unwrap_or(head.path()));
    let host = ex.out.host.as_deref().unwrap_or(&ex.req.http_host);
    // as nginx leaves out what `proxy_set_header` gives no value: a client of HTTP/1.0 may have named no host
    if !host.is_empty() {
        write::header(out, b"Host", host);
    }
    if websocket {
        // `enable_websocket` passes both on as they are, upgrade or not.
        for (name, text) in [(Name::Upgrade, b"Upgrade".as_slice()), (Name::Connection, b"Connection")] {
            if let Some(value) = head.headers.get(name) {
                write::header(out, text, value);
            }
        }
    }
    out.extend_from_slice(b"X-Real-IP: ");
    ex.write_remote_addr(out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(b"X-Forwarded-For: ");
    write_forwarded_for(ex, out);
    out.extend_from_slice(b"\r\n");
    match body {
        // as nginx: an empty body is one, where the client announced it
        SendBody::Nothing if !matches!(ex.req.body, Body::Empty) || head.headers.has(Name::ContentLength) => {
            out.extend_from_slice(b"Content-Length: 0\r\n")
        }
        SendBody::Nothing => {}
        SendBody::Length(length) => write::header_number(out, b"Content-Length", length),
        SendBody::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    let announced = body == SendBody::Chunked;
    head.headers.write(if announced { WRITTEN } else { WRITTEN.with(Name::Trailer) }, out);
    out.extend_from_slice(b"\r\n");
}

/// Does the request, read to its end, have trailer fields that go upstream?
pub fn has_trailers(ex: &Exchange) -> bool {
    let any = ex.req.body.trailers().is_some_and(|fields| !fields.is_empty());
    any && trailers::without(&trailers::kept_from_upstream(ex), &ex.req.body).next().is_some()
}

/// Writes the end of a chunked request, with its trailer fields.
pub fn write_last_chunk(ex: &Exchange, out: &mut Vec<u8>) {
    let kept = trailers::kept_from_upstream(ex);
    chunked::last_chunk(out, trailers::without(&kept, &ex.req.body));
}

/// `X-Forwarded-For` as it goes upstream.
pub fn forwarded_for(ex: &Exchange) -> Vec<u8> {
    let mut value = Vec::new();
    write_forwarded_for(ex, &mut value);
    value
}

/// The client's address behind those that were there.
fn write_forwarded_for(ex: &Exchange, out: &mut Vec<u8>) {
    if ex.req.head.headers.has(Name::XForwardedFor)
        && let Some(before) = ex.header(b"x-forwarded-for")
    {
        out.extend_from_slice(&before);
        out.extend_from_slice(b", ");
    }
    ex.write_remote_addr(out);
}

/// The head of an answer while it comes in: interim answers (RFC 9110 section 15.2) are left out.
#[derive(Default)]
pub struct AnswerHead {
    /// What is here of a head that is not whole.
    partial: Vec<u8>,
    /// Bytes of interim answers so far.
    interim: usize,
    /// What follows the final head, once that is whole.
    rest: Option<Chunk>,
}

impl AnswerHead {
    /// Takes the next bytes of the upstream. True: `ex.resp.head` is the head of the final answer; 101 is one.
    ///
    /// # Errors
    /// When they are not HTTP, or the upstream has closed.
    pub fn take(&mut self, ex: &mut Exchange, mut chunk: Chunk) -> Result<bool, NoAnswer> {
        if chunk.is_empty() {
            return Err(NoAnswer::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(attempt) = ex.upstream.current() {
            attempt.bytes += chunk.len() as u64;
        }
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(&chunk);
            chunk = Chunk::from_vec(std::mem::take(&mut self.partial));
        }
        while !chunk.is_empty() {
            let progress = http::parse_response(&chunk, limits::RESPONSE_HEAD, &mut ex.resp.head)
                .map_err(|bad| NoAnswer::Invalid(bad.reason))?;
            let Progress::Done(consumed) = progress else {
                self.partial = chunk.to_vec();
                break;
            };
            chunk.advance(consumed);
            let status = ex.resp.head.status;
            if !(100..200).contains(&status) || status == 101 {
                self.rest = Some(chunk);
                return Ok(true);
            }
            self.interim += consumed;
            if self.interim > limits::INTERIM_ANSWERS {
                return Err(NoAnswer::Invalid("interim answers without end"));
            }
        }
        Ok(false)
    }
}

/// Reads on until the head of the answer is whole, of which `head` has what came before, and makes it
/// `ex.resp`; 101 is one only where it `may_switch`. Returns whether the connection may be kept once the body
/// has been read.
pub async fn read_answer(
    stream: &Rc<Stream>,
    ex: &mut Exchange,
    mut head: AnswerHead,
    timeout_ms: u32,
    may_switch: bool,
) -> Result<bool, NoAnswer> {
    loop {
        if let Some(rest) = head.rest.take() {
            if ex.resp.head.status == 101 && !may_switch {
                return Err(NoAnswer::Invalid("upstream switched protocols without being asked"));
            }
            return settle(stream, ex, rest, timeout_ms);
        }
        let chunk = next(stream, ex, timeout_ms).await?;
        head.take(ex, chunk)?;
    }
}

/// The head is whole: what follows it is body.
fn settle(stream: &Rc<Stream>, ex: &mut Exchange, rest: Chunk, timeout_ms: u32) -> Result<bool, NoAnswer> {
    let upgrade = ex.resp.head.status == 101;
    let framing = match upgrade {
        true => Framing::None,
        false => http::response_framing(&ex.resp.head, ex.out_method())
            .map_err(|bad| NoAnswer::Invalid(bad.reason))?,
    };
    ex.resp.source = Source::Upstream;
    ex.resp.answered = true;
    let keep = http::response_keep_alive(&ex.resp.head) && framing != Framing::UntilClose;
    if framing == Framing::None && !upgrade {
        return Ok(keep && rest.is_empty());
    }
    if let Some(attempt) = ex.upstream.current() {
        attempt.bytes = attempt.bytes.saturating_sub(rest.len() as u64); // the body counts them, or the tunnel
    }
    if upgrade {
        ex.resp.upgrade = true;
        stream.unrecv(rest);
        return Ok(false);
    }
    let rest = Some(rest).filter(|rest| !rest.is_empty());
    let body = H1Body::new(stream.clone(), framing, rest, Side::Upstream, timeout_ms);
    ex.resp.body = Body::H1(body);
    Ok(keep)
}

/// The next bytes of the upstream, unless the client leaves first.
async fn next(stream: &Stream, ex: &Exchange, timeout_ms: u32) -> Result<Chunk, NoAnswer> {
    stream.set_recv_deadline(Some(reactor::now_ms() + u64::from(timeout_ms)));
    std::future::poll_fn(|cx| match stream.poll_recv(cx) {
        Poll::Ready(Ok(chunk)) => Poll::Ready(Ok(chunk)),
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Poll::Ready(Err(NoAnswer::Timeout))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(NoAnswer::Broken(error))),
        Poll::Pending => ex.client.poll_gone(cx).map(|()| Err(NoAnswer::ClientGone)),
    })
    .await
}
