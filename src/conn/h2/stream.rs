//! One stream: how its request is read and answered. Its road is [`road`].

use std::rc::Rc;

use h2::ext::Protocol;
use h2::{Reason, RecvStream};
use http::request::Parts;

use super::channel::Channel;
use super::{Event, answer};
use crate::conn::outgoing::Ended;
use crate::conn::road::{self, Asked, Refused};
use crate::conn::streams::Open;
use crate::conn::{Gate, Switched};
use crate::exchange::h2::{Data, H2Body, Responder};
use crate::exchange::{Body, Client, Exchange, Facts, Side};
use crate::wire::http::assemble::Pseudo;
use crate::wire::http::{Framing, Reject};

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
    if road::serve(&*gate, &responder, &mut ex, request).await == Ended::Reset {
        gate.saw(Event::Reset);
        open.reset();
    }
    gate.give_back(ex);
}

impl Asked for Rc<Responder> {
    type Request = http::Request<RecvStream>;
    type Pipe = RecvStream;

    fn read<G: Gate>(
        &self,
        gate: &G,
        ex: &mut Exchange,
        request: Self::Request,
    ) -> Result<Option<RecvStream>, Refused> {
        let (parts, body) = request.into_parts();
        read_head(gate, ex, &parts)?;
        if ex.req.connects {
            return Ok(Some(body));
        }
        attach_body(gate, self, ex, body)?;
        Ok(None)
    }

    async fn answer<G: Gate>(&self, gate: &G, ex: &mut Exchange) -> Ended {
        answer::write(gate, self, ex).await
    }

    async fn switch<G: Gate>(&self, _gate: &G, ex: &mut Exchange, from: RecvStream) -> Option<Switched> {
        let to = answer::open(self, ex)?;
        Some(Switched::H2(Box::new(Channel::new(from, to))))
    }

    fn fail(&self) {
        self.stream().send_reset(Reason::INTERNAL_ERROR);
    }
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
    let length = match road::body_framing(&ex.req.head, settings)? {
        Framing::Length(length) => Some(length),
        _ => None,
    };
    if body.is_end_stream() {
        return Ok(());
    }
    let expects = road::expects_continue(&ex.req.head);
    let mut body = H2Body::new(body, length, Side::Client, settings.body_ms)
        .expects_continue(expects.then(|| responder.clone()));
    body.arriving.max_bytes = settings.max_body_bytes;
    ex.req.body = Body::H2(Box::new(body));
    Ok(())
}
