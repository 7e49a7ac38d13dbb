//! One stream: how its request is read and answered. Its road is [`road`].

use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use super::channel::Channel;
use super::server::field_bytes;
use super::{Event, answer};
use crate::conn::outgoing::Ended;
use crate::conn::road::{self, Asked, Refused};
use crate::conn::streams::Open;
use crate::conn::{Gate, Switched};
use crate::exchange::h3::{Broke, RequestReader, Stream};
use crate::exchange::{Body, BodyError, Client, Exchange, Facts};
use crate::reactor;
use crate::wire::Name;
use crate::wire::h3::qpack::FieldSection;
use crate::wire::h3::{Code, request};
use crate::wire::http::{Framing, Method, Reject};

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
            let ended = road::serve(&*gate, &stream, &mut ex, Request { section, reader, early }).await;
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
pub(in crate::conn) struct Request {
    section: FieldSection,
    reader: RequestReader,
    early: bool,
}

impl Asked for Rc<Stream> {
    type Request = Request;
    type Pipe = Body;

    fn read<G: Gate>(
        &self,
        gate: &G,
        ex: &mut Exchange,
        Request { section, reader, early }: Request,
    ) -> Result<Option<Body>, Refused> {
        let Some(pseudo) = request::pseudo(&section) else {
            self.reset(Code::MessageError);
            return Err(Refused::Stream);
        };
        ex.req.connects = pseudo.protocol.is_some();
        ex.req.head_bytes = ex.req.head.assemble(pseudo, request::fields(&section), &gate.settings().head)?;
        if early {
            admit_early(ex)?;
        }
        if ex.req.connects {
            return Ok(Some(Body::H3(Box::new(reader.into_body(None, 0)))));
        }
        attach_body(gate, ex, reader)?;
        Ok(None)
    }

    async fn answer<G: Gate>(&self, gate: &G, ex: &mut Exchange) -> Ended {
        answer::write(gate, self, ex).await
    }

    async fn switch<G: Gate>(&self, gate: &G, ex: &mut Exchange, from: Body) -> Option<Switched> {
        let opened = answer::open(gate, self, ex).await;
        opened.then(|| Switched::H3(Box::new(Channel::new(self.clone(), from))))
    }

    fn fail(&self) {
        self.reset(Code::InternalError);
    }
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

/// Gives the exchange its body.
fn attach_body<G: Gate>(gate: &G, ex: &mut Exchange, reader: RequestReader) -> Result<(), Reject> {
    let settings = gate.settings();
    let length = match road::body_framing(&ex.req.head, settings)? {
        Framing::Length(length) => Some(length),
        _ => ex.req.head.headers.has(Name::ContentLength).then_some(0),
    };
    let expects = road::expects_continue(&ex.req.head);
    let mut body = reader.into_body(length, settings.body_ms).expects_continue(expects);
    body.arriving.max_bytes = settings.max_body_bytes;
    ex.req.body = body.settle().map_err(|error| match error {
        BodyError::TooLarge => road::too_large(),
        _ => Reject::bad("a body that broke off"),
    })?;
    Ok(())
}
