//! The road of one stream: the same exchange and the same gate as a request of HTTP/1.1.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;

use h2::ext::Protocol;
use h2::{Reason, RecvStream};
use http::request::Parts;

use super::channel::Channel;
use super::server::Open;
use super::{Event, answer};
use crate::conn::switched::settle_connect;
use crate::conn::{Gate, Switched};
use crate::exchange::h2::{Data, H2Body, Responder};
use crate::exchange::{Body, Client, Exchange, Facts, Side};
use crate::wire::Name;
use crate::wire::http::assemble::Pseudo;
use crate::wire::http::{self as h1, Framing, Reject};

/// How a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// The answer was given to its end, or broken off by us.
    Answered,
    /// The client wanted it no more.
    Reset,
}

/// The task of one stream.
pub(super) async fn serve<G: Gate>(
    gate: Rc<G>,
    facts: Rc<Facts>,
    request: http::Request<RecvStream>,
    respond: h2::server::SendResponse<Data>,
    open: Open,
) {
    let responder = Rc::new(Responder::new(respond));
    let mut ex = gate.take(&facts, Client::H2(responder.clone()));
    if guarded(&*gate, &responder, &mut ex, request).await == Ended::Reset {
        gate.saw(Event::Reset);
        open.reset();
    }
    gate.give_back(ex);
}

/// Runs the exchange; a panic in it answers 500 and harms no other stream.
async fn guarded<G: Gate>(
    gate: &G,
    responder: &Rc<Responder>,
    ex: &mut Exchange,
    request: http::Request<RecvStream>,
) -> Ended {
    let ended = {
        let mut road: Pin<Box<_>> = Box::pin(exchange(gate, responder, ex, request));
        std::future::poll_fn(move |cx| {
            match std::panic::catch_unwind(AssertUnwindSafe(|| road.as_mut().poll(cx))) {
                Ok(poll) => poll.map(Ok),
                Err(_) => std::task::Poll::Ready(Err(())),
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
                0 => Box::pin(refuse(gate, responder, ex, 500)).await,
                _ => {
                    responder.stream().send_reset(Reason::INTERNAL_ERROR);
                    Ended::Answered
                }
            }
        }
    }
}

/// One exchange: head, gate, answer, log.
async fn exchange<G: Gate>(
    gate: &G,
    responder: &Rc<Responder>,
    ex: &mut Exchange,
    request: http::Request<RecvStream>,
) -> Ended {
    let (parts, body) = request.into_parts();
    let mut bytes = None;
    let read = read_head(gate, ex, &parts).and_then(|()| match ex.req.connects {
        true => {
            bytes = Some(body);
            Ok(())
        }
        false => attach_body(gate, responder, ex, body),
    });
    if let Err(reject) = read {
        log::info!("client sent a bad request: {} from {}", reject.reason, ex.facts.peer);
        return Box::pin(refuse(gate, responder, ex, reject.page)).await;
    }
    gate.handle(ex).await;
    if ex.req.connects {
        settle_connect(gate, ex);
    }
    let ended = match (ex.resp.client_gone, bytes.filter(|_| ex.resp.upgrade)) {
        (true, _) => Ended::Reset,
        (false, Some(from)) => switch(gate, responder, ex, from).await,
        (false, None) => answer::write(gate, responder, ex).await,
    };
    gate.finish(ex);
    ended
}

/// The stream becomes a pipe of bytes.
async fn switch<G: Gate>(gate: &G, responder: &Rc<Responder>, ex: &mut Exchange, from: RecvStream) -> Ended {
    let Some(to) = answer::switch(responder, ex) else { return Ended::Reset };
    let client = Switched::H2(Box::new(Channel::new(from, to)));
    Box::pin(gate.switched(ex, client)).await;
    Ended::Answered
}

fn read_head<G: Gate>(gate: &G, ex: &mut Exchange, parts: &Parts) -> Result<(), Reject> {
    let pseudo = Pseudo {
        version: 20,
        method: parts.method.as_str().as_bytes(),
        protocol: parts.extensions.get::<Protocol>().map(|protocol| protocol.as_str().as_bytes()),
        path: parts.uri.path_and_query().map_or(b"".as_slice(), |path| path.as_str().as_bytes()),
        authority: parts.uri.authority().map(|authority| authority.as_str().as_bytes()),
    };
    let fields = parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    ex.req.head_bytes = ex.req.head.assemble(pseudo, fields, &gate.settings().head)?;
    ex.req.connects = pseudo.protocol.is_some();
    Ok(())
}

/// Gives the exchange its body. That data and `Content-Length` agree is checked by the h2 crate as they come
/// (RFC 9113 section 8.1.1).
fn attach_body<G: Gate>(
    gate: &G,
    responder: &Rc<Responder>,
    ex: &mut Exchange,
    body: RecvStream,
) -> Result<(), Reject> {
    let settings = gate.settings();
    let length = match h1::request_framing(&ex.req.head)? {
        Framing::Length(length) => Some(length),
        _ => None,
    };
    if settings.max_body_bytes != 0 && length.is_some_and(|length| length > settings.max_body_bytes) {
        return Err(Reject::new(413, "client intended to send too large body"));
    }
    if body.is_end_stream() {
        return Ok(());
    }
    let expects =
        ex.req.head.headers.get(Name::Expect).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    let mut body = H2Body::new(body, length, Side::Client, settings.body_ms)
        .expects_continue(expects.then(|| responder.clone()));
    body.max_bytes = settings.max_body_bytes;
    ex.req.body = Body::H2(Box::new(body));
    Ok(())
}

/// Answers `status` with its built-in page.
async fn refuse<G: Gate>(gate: &G, responder: &Rc<Responder>, ex: &mut Exchange, status: u16) -> Ended {
    gate.refuse(ex, status);
    let ended = answer::write(gate, responder, ex).await;
    gate.finish(ex);
    ended
}
