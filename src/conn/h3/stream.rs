//! The road of one request: the same exchange and the same gate as a request of HTTP/1.1.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use super::channel::Channel;
use super::server::{Open, field_bytes};
use super::{Event, answer};
use crate::conn::switched::settle_connect;
use crate::conn::{Gate, Switched};
use crate::exchange::h3::{Broke, RequestReader, Stream};
use crate::exchange::{Body, BodyError, Client, Exchange, Facts};
use crate::reactor;
use crate::wire::Name;
use crate::wire::h3::qpack::FieldSection;
use crate::wire::h3::{Code, request};
use crate::wire::http::{self as h1, Framing, Method, Reject};

/// How a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// The answer was given to its end, or broken off by us.
    Answered,
    /// The client wanted it no more.
    Reset,
}

/// The task of one stream.
/// `early`: the request has come with data that a replay may bring again.
pub(super) async fn serve<G: Gate>(
    gate: Rc<G>,
    facts: Rc<Facts>,
    stream: Rc<Stream>,
    open: Open,
    early: bool,
) {
    let mut reader = RequestReader::new(stream.clone(), field_bytes(gate.settings()));
    let ended = match read(&*gate, &mut reader).await {
        Ok(section) => {
            let mut ex = gate.take(&facts, Client::H3(stream.clone()));
            let ended = guarded(&*gate, &stream, &mut ex, Request { section, reader, early }).await;
            gate.give_back(ex);
            ended
        }
        Err(broke) => cut(&stream, broke),
    };
    stream.close();
    if stream.is_violated() {
        log::warn!("HTTP/3 connection of {} closed for a request that it may not send", facts.peer);
        gate.saw_h3(Event::Violation);
    } else if ended == Ended::Reset {
        gate.saw_h3(Event::Reset);
        open.reset();
    }
}

/// The fields that a request begins with, unless its client takes too long.
async fn read<G: Gate>(gate: &G, reader: &mut RequestReader) -> Result<FieldSection, Broke> {
    let mut late = reactor::sleep_until(reactor::now_ms() + u64::from(gate.settings().header_ms));
    let mut head = std::pin::pin!(reader.head());
    std::future::poll_fn(|cx| {
        if let Poll::Ready(read) = head.as_mut().poll(cx) {
            return Poll::Ready(read);
        }
        Pin::new(&mut late).poll(cx).map(|()| Err(Broke::Incomplete))
    })
    .await
}

/// Ends the stream of a request that never became one (RFC 9114 section 4.1.2).
fn cut(stream: &Stream, broke: Broke) -> Ended {
    match broke {
        Broke::Gone => return Ended::Reset,
        Broke::Incomplete => stream.reset(Code::RequestIncomplete),
        Broke::Message => stream.reset(Code::MessageError),
        Broke::TooLarge => stream.reset(Code::ExcessiveLoad),
        Broke::Connection => {}
    }
    Ended::Answered
}

/// A request whose fields are there.
struct Request {
    section: FieldSection,
    reader: RequestReader,
    early: bool,
}

/// Runs the exchange; a panic in it answers 500 and harms no other stream.
async fn guarded<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange, request: Request) -> Ended {
    let ended = {
        let mut road: Pin<Box<_>> = Box::pin(exchange(gate, stream, ex, request));
        std::future::poll_fn(move |cx| {
            match std::panic::catch_unwind(AssertUnwindSafe(|| road.as_mut().poll(cx))) {
                Ok(poll) => poll.map(Ok),
                Err(_) => Poll::Ready(Err(())),
            }
        })
        .await
    };
    match ended {
        Ok(ended) => ended,
        Err(()) => {
            gate.panicked();
            log::error!("a panic ended an exchange of connection {}", ex.facts.serial);
            match ex.resp.bytes {
                0 => Box::pin(refuse(gate, stream, ex, 500)).await,
                _ => {
                    stream.reset(Code::InternalError);
                    Ended::Answered
                }
            }
        }
    }
}

/// One exchange: head, gate, answer, log.
async fn exchange<G: Gate>(
    gate: &G,
    stream: &Rc<Stream>,
    ex: &mut Exchange,
    Request { section, reader, early }: Request,
) -> Ended {
    let Some(pseudo) = request::pseudo(&section) else { return cut(stream, Broke::Message) };
    ex.req.connects = pseudo.protocol.is_some();
    let assembled = ex.req.head.assemble(pseudo, request::fields(&section), &gate.settings().head);
    drop(section);
    let mut pipe = Body::Empty;
    let read = assembled.and_then(|bytes| {
        ex.req.head_bytes = bytes;
        if early {
            admit_early(ex)?;
        }
        match ex.req.connects {
            true => pipe = Body::H3(Box::new(reader.into_body(None, 0))),
            false => attach_body(gate, ex, reader)?,
        }
        Ok(())
    });
    if let Err(reject) = read {
        log::info!("client sent a bad request: {} from {}", reject.reason, ex.facts.peer);
        return Box::pin(refuse(gate, stream, ex, reject.page)).await;
    }
    gate.handle(ex).await;
    if ex.req.connects {
        settle_connect(gate, ex);
    }
    let ended = match ex.resp.client_gone {
        true => Ended::Reset,
        false if ex.req.connects && ex.resp.upgrade => switch(gate, stream, ex, pipe).await,
        false => answer::write(gate, stream, ex).await,
    };
    gate.finish(ex);
    ended
}

/// A request that may be a replay: one that changes nothing goes on, and its upstream is told; of the others the client is
/// told to ask again (RFC 8470 sections 5.1 and 5.2).
fn admit_early(ex: &mut Exchange) -> Result<(), Reject> {
    if ex.req.connects || !matches!(ex.req.head.method, Method::Get | Method::Head | Method::Options) {
        return Err(Reject::new(425, "too early for its method"));
    }
    ex.req.head.headers.set(b"Early-Data", b"1");
    Ok(())
}

/// The stream becomes a pipe of bytes, whose one half is `from`.
async fn switch<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange, from: Body) -> Ended {
    if !answer::switch(gate, stream, ex).await {
        return Ended::Reset;
    }
    let client = Switched::H3(Box::new(Channel::new(stream.clone(), from)));
    Box::pin(gate.switched(ex, client)).await;
    Ended::Answered
}

/// Gives the exchange its body.
fn attach_body<G: Gate>(gate: &G, ex: &mut Exchange, reader: RequestReader) -> Result<(), Reject> {
    let settings = gate.settings();
    let length = match h1::request_framing(&ex.req.head)? {
        Framing::Length(length) => Some(length),
        _ => ex.req.head.headers.has(Name::ContentLength).then_some(0),
    };
    if settings.max_body_bytes != 0 && length.is_some_and(|length| length > settings.max_body_bytes) {
        return Err(Reject::new(413, "client intended to send too large body"));
    }
    let expects =
        ex.req.head.headers.get(Name::Expect).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    let mut body = reader.into_body(length, settings.body_ms).expects_continue(expects);
    body.max_bytes = settings.max_body_bytes;
    ex.req.body = body.settle().map_err(|error| match error {
        BodyError::TooLarge => Reject::new(413, "client intended to send too large body"),
        _ => Reject::bad("a body that broke off"),
    })?;
    Ok(())
}

/// Answers `status` with its built-in page.
async fn refuse<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange, status: u16) -> Ended {
    gate.refuse(ex, status);
    let ended = answer::write(gate, stream, ex).await;
    gate.finish(ex);
    ended
}
