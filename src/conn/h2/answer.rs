//! Writing an answer to a stream of a client: its head, the body as fast as the client's window opens, trailers.

use std::rc::Rc;

use h2::{Reason, SendStream};
use http::{Response, StatusCode};

use super::fields::{Fields, trailer_map};
use super::pipe::{self, Unsent};
use crate::conn::outgoing::{self, Cut, Ended, Outgoing};
use crate::conn::{Gate, trailers};
use crate::exchange::Exchange;
use crate::exchange::h2::{Data, Responder};

impl From<Unsent> for Cut {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Gone => Cut::Gone,
            Unsent::Timeout => Cut::Timeout,
        }
    }
}

/// Writes `ex.resp`.
pub(super) async fn write<G: Gate>(gate: &G, responder: &Rc<Responder>, ex: &mut Exchange) -> Ended {
    let body = Outgoing::new(gate, ex);
    let ends = body.is_empty(ex);
    let head = head(ex, body.length.as_deref());
    let sent = responder.stream().send_response(head, ends);
    let Ok(mut stream) = sent else { return Ended::Reset };
    if ends {
        return Ended::Answered;
    }
    match write_body(gate, &mut stream, ex, body).await {
        Ok(()) => Ended::Answered,
        Err(cut) => {
            stream.send_reset(if cut == Cut::Body { Reason::INTERNAL_ERROR } else { Reason::CANCEL });
            cut.ended(ex)
        }
    }
}

/// Writes the head that opens the stream for bytes both ways. `None`: the client is gone.
pub(super) fn open(responder: &Rc<Responder>, ex: &mut Exchange) -> Option<SendStream<Data>> {
    let head = head(ex, None);
    responder.stream().send_response(head, false).ok()
}

/// The body piece by piece, and what follows it.
async fn write_body<G: Gate>(
    gate: &G,
    stream: &mut SendStream<Data>,
    ex: &mut Exchange,
    mut body: Outgoing,
) -> Result<(), Cut> {
    loop {
        let piece = body.next(gate, ex, |cx| stream.poll_reset(cx).map(drop)).await?;
        let trailers = piece.last.then(|| trailer_map(trailers::of_answer(ex)));
        let trailers = trailers.filter(|trailers| !trailers.is_empty());
        let ends = piece.last && trailers.is_none();
        pipe::send(stream, piece.data, ends, gate.settings().send_ms).await?;
        if let Some(trailers) = trailers {
            return stream.send_trailers(trailers).map_err(|_| Cut::Gone);
        }
        if ends {
            return Ok(());
        }
    }
}

/// The head as the h2 crate takes it. All values lie in one buffer.
fn head(ex: &mut Exchange, length: Option<&[u8]>) -> Response<()> {
    let headers = &ex.resp.head.headers;
    let mut fields = Fields::with_room(headers.len(), headers.text().len() + 64);
    outgoing::fields(ex, length, |id, name, value| fields.add(id, name, value));
    ex.resp.bytes += fields.bytes() as u64;
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(ex.resp.head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = fields.map();
    response
}
