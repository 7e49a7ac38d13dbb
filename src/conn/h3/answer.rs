//! Writing an answer to a stream of a client: its head, the body as fast as the client's window opens, trailers.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use crate::conn::outgoing::{self, Cut, Ended, Outgoing};
use crate::conn::{Gate, trailers};
use crate::exchange::Exchange;
use crate::exchange::h3::Stream;
use crate::reactor::{self, Chunk};
use crate::wire::h3::{Code, frame, qpack};

/// Writes `ex.resp`.
pub(super) async fn write<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange) -> Ended {
    match write_all(gate, stream, ex).await {
        Ok(()) => {
            stream.finish();
            Ended::Answered
        }
        Err(cut) => {
            stream.reset(if cut == Cut::Body { Code::InternalError } else { Code::RequestCancelled });
            cut.ended(ex)
        }
    }
}

/// Writes the head that opens the stream for bytes both ways. False: the client is gone.
pub(super) async fn open<G: Gate>(gate: &G, stream: &Stream, ex: &mut Exchange) -> bool {
    let head = head(ex, None);
    ex.resp.bytes += head.len() as u64;
    send(stream, Chunk::from_vec(head), gate.settings().send_ms).await.is_ok()
}

async fn write_all<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange) -> Result<(), Cut> {
    let mut body = Outgoing::new(gate, ex);
    let send_ms = gate.settings().send_ms;
    let head = head(ex, body.length.as_deref());
    ex.resp.bytes += head.len() as u64;
    send(stream, Chunk::from_vec(head), send_ms).await?;
    if body.forbidden {
        return Ok(());
    }
    loop {
        let piece = body.next(gate, ex, |cx| stream.poll_gone(cx)).await?;
        if !piece.data.is_empty() {
            let mut frame = Vec::with_capacity(16);
            frame::begin(frame::DATA, piece.data.len(), &mut frame);
            send(stream, Chunk::from_vec(frame), send_ms).await?;
            send(stream, piece.data, send_ms).await?;
        }
        if piece.last {
            if let Some(trailers) = trailer_frame(ex) {
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
            if late.is_none() {
                bytes = Chunk::from_vec(bytes.to_vec()); // a receive buffer is not held for as long as a client likes
            }
            late = Some(reactor::sleep_until(reactor::now_ms() + u64::from(send_ms)));
        }
        let Some(late) = &mut late else { return Poll::Pending };
        Pin::new(late).poll(cx).map(|()| Err(Cut::Timeout))
    })
    .await
}

/// The head as a frame.
fn head(ex: &Exchange, length: Option<&[u8]>) -> Vec<u8> {
    let mut section = Vec::with_capacity(256);
    qpack::begin(&mut section);
    qpack::encode(b":status", itoa::Buffer::new().format(ex.resp.head.status).as_bytes(), &mut section);
    outgoing::fields(ex, length, |_, name, value| qpack::encode(name, value, &mut section));
    framed(&section)
}

fn trailer_frame(ex: &Exchange) -> Option<Vec<u8>> {
    let mut trailers = trailers::of_answer(ex).peekable();
    trailers.peek()?;
    let mut section = Vec::new();
    qpack::begin(&mut section);
    trailers.for_each(|(name, value)| qpack::encode(name, value, &mut section));
    Some(framed(&section))
}

fn framed(section: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(section.len() + 8);
    frame::begin(frame::HEADERS, section.len(), &mut out);
    out.extend_from_slice(section);
    out
}
