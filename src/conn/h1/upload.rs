//! A request on its way upstream: its head, and its body piece by piece, while an early answer is watched for.

use std::future::poll_fn;
use std::task::{Poll, ready};

use super::client::{self, AnswerHead, NoAnswer, SendBody};
use crate::exchange::{BodyError, Exchange, Held};
use crate::reactor::{self, Arrived, Chunk, Out};
use crate::transport::Stream;
use crate::wire::http::chunked::{CHUNK_END, chunk_head};

/// Why the request could not be sent to its end.
pub enum Unsent {
    /// The client's body broke off.
    Body(BodyError),
    /// The upstream broke off.
    Upstream(NoAnswer),
}

impl From<NoAnswer> for Unsent {
    fn from(error: NoAnswer) -> Self {
        Unsent::Upstream(error)
    }
}

/// Sends head and body; a piece of the body may take `send_ms` to leave. What comes of an answer meanwhile goes to
/// `answer`. `Ok(false)`: the upstream answered before it had the whole body.
///
/// # Errors
/// See [`Unsent`].
pub async fn send(
    ex: &mut Exchange,
    stream: &Stream,
    held: &mut Held,
    answer: &mut AnswerHead,
    websocket: bool,
    send_ms: u32,
) -> Result<bool, Unsent> {
    let framing = framing(ex, held);
    let mut out = reactor::take_buffer();
    client::write_request(ex, websocket, framing, &mut out);
    let chunked = framing == SendBody::Chunked;
    if !held.bytes.is_empty() {
        if chunked {
            chunk_head(&mut out, held.bytes.len());
        }
        out.extend_from_slice(&held.bytes);
        if chunked {
            out.extend_from_slice(CHUNK_END);
        }
    }
    if held.ended && chunked {
        client::write_last_chunk(ex, &mut out);
    }
    stream.send(Out::from(out));
    if held.ended {
        return Ok(true);
    }
    held.whole = false;
    held.bytes = Vec::new();
    // boxed: most requests have no body that streams, and their road is smaller for it
    Box::pin(stream_body(ex, stream, answer, chunked, send_ms)).await
}

/// How a body goes of which `held` is here and the rest in the exchange.
fn framing(ex: &Exchange, held: &Held) -> SendBody {
    let here = held.bytes.len() as u64;
    match ex.req.body.known_length() {
        _ if held.ended && client::has_trailers(ex) => SendBody::Chunked,
        _ if held.ended && here == 0 => SendBody::Nothing,
        _ if held.ended => SendBody::Length(here),
        Some(left) => SendBody::Length(here + left),
        None => SendBody::Chunked,
    }
}

/// Passes the rest of the body on, one piece in flight, while watching for an early answer. An interim one is none:
/// the upstream waits for the rest.
async fn stream_body(
    ex: &mut Exchange,
    stream: &Stream,
    answer: &mut AnswerHead,
    chunked: bool,
    send_ms: u32,
) -> Result<bool, Unsent> {
    let unseen = !chunked && stream.plain().is_some();
    loop {
        stream.set_send_deadline(Some(reactor::now_ms() + u64::from(send_ms)));
        let body = &mut ex.req.body;
        // the answer first: a client and an upstream that never pause would keep it unseen to the body's end
        let piece = poll_fn(|cx| {
            if let Poll::Ready(received) = stream.poll_recv(cx) {
                return Poll::Ready(received.map(Err).map_err(|error| Unsent::Upstream(error.into())));
            }
            match ready!(stream.poll_flushed(cx)) {
                Ok(()) if unseen => body.poll_unseen(cx).map(|piece| piece.map(Ok).map_err(Unsent::Body)),
                Ok(()) => body
                    .poll_piece(cx)
                    .map(|piece| piece.map(|data| Ok(data.map(Arrived::Chunk))).map_err(Unsent::Body)),
                Err(error) => Poll::Ready(Err(Unsent::Upstream(error.into()))),
            }
        })
        .await?;
        match piece {
            Ok(Some(data)) => stream.send(framed(data, chunked)),
            Ok(None) => {
                if chunked {
                    let mut out = reactor::take_buffer();
                    client::write_last_chunk(ex, &mut out);
                    stream.send(Out::from(out));
                }
                return Ok(true);
            }
            Err(received) => {
                if answer.take(ex, received)? {
                    // the last piece may have gone before anybody has looked whether it was
                    return Ok(!chunked && ex.req.body.is_done() && stream.queued_bytes() == 0);
                }
            }
        }
    }
}

/// A piece of the body as it goes on the wire.
fn framed(data: Arrived, chunked: bool) -> Out {
    let mut out = reactor::take_buffer();
    if !chunked {
        return Out::from(out).arrived(data);
    }
    chunk_head(&mut out, data.len());
    Out::from(out).arrived(data).chunk(Chunk::from_static(CHUNK_END))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::conn::h1::tests::{exchange, pair};
    use crate::exchange::Body;
    use crate::transport::tests::on_both;

    /// The answer is there when the last piece has left, before anybody has looked whether it was the last.
    #[test]
    fn an_answer_right_behind_the_last_piece_is_no_early_one() {
        on_both(async || {
            for (left, chunked, queued, whole) in [
                (Body::Empty, false, "", true),
                (Body::Empty, true, "", false), // the last chunk has not been sent
                (Body::from_static(b"x"), false, "", false),
                (Body::Empty, false, "the last piece", false),
            ] {
                let (stream, mut far) = pair().await;
                far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                let answer = stream.recv().await.unwrap();
                stream.unrecv(answer);
                if !queued.is_empty() {
                    stream.send(queued.as_bytes());
                }
                let mut ex = exchange();
                ex.req.body = left;
                let mut head = AnswerHead::default();
                let sent = stream_body(&mut ex, &stream, &mut head, chunked, 1000).await;
                let case = format!("chunked: {chunked}, queued: {queued}");
                assert_eq!(sent.map_err(drop), Ok(whole), "{case}");
                assert_eq!(ex.resp.head.status, 200, "{case}");
            }
        });
    }
}
