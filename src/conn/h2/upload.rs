//! A request's body on its way upstream while the answer comes: both directions of a gRPC stream are open at once.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use h2::{Reason, SendStream};

use super::fields::trailer_map;
use super::pipe;
use crate::conn::trailers;
use crate::exchange::h2::{Data, Upload};
use crate::exchange::{Body, BodyError};
use crate::reactor::{self, Chunk};
use crate::wire::headers::Names;

/// Sends the body until its end, or until the upload is stopped. Trailer fields of the names `kept` stay behind.
pub(super) fn begin(upload: &Rc<Upload>, stream: SendStream<Data>, kept: Names, send_ms: u32) {
    let upload = upload.clone();
    reactor::spawn(async move {
        let mut work = pin!(run(&upload, stream, &kept, send_ms));
        std::future::poll_fn(|cx| match upload.is_stopped(cx) {
            true => Poll::Ready(()),
            false => work.as_mut().poll(cx),
        })
        .await;
    });
}

async fn run(upload: &Upload, mut stream: SendStream<Data>, kept: &Names, send_ms: u32) {
    loop {
        let piece = std::future::poll_fn(|cx| {
            if let Poll::Ready(piece) = upload.body().poll_piece(cx) {
                return Poll::Ready(Some(piece));
            }
            // an upstream may say that it wants no more (RFC 9113 section 8.1)
            stream.poll_reset(cx).map(|_| None)
        })
        .await;
        let sent = match piece {
            None => return,
            Some(Ok(Some(data))) => {
                upload.remember(&data);
                let ends = ends_here(&upload.body());
                pipe::send(&mut stream, data, ends, send_ms).await.map(|()| ends)
            }
            Some(Ok(None)) => {
                end(&mut stream, &upload.body(), kept);
                Ok(true)
            }
            Some(Err(error)) => {
                upload.fail(error);
                return stream.send_reset(Reason::CANCEL);
            }
        };
        match sent {
            Ok(true) => return upload.finish(),
            Ok(false) => {}
            Err(unsent) => {
                if matches!(unsent, pipe::Unsent::Timeout) {
                    upload.give_up();
                }
                return stream.send_reset(Reason::CANCEL);
            }
        }
    }
}

/// The piece that was read last is the end.
fn ends_here(body: &Body) -> bool {
    body.is_done() && body.trailers().is_none()
}

/// The end of a body, with its trailer fields but for those of the names `kept`.
pub(super) fn end(stream: &mut SendStream<Data>, body: &Body, kept: &Names) {
    let trailers = trailer_map(trailers::without(kept, body));
    // a stream that is over meanwhile tells by its answer
    let _ = match trailers.is_empty() {
        true => stream.send_data(Data(Chunk::empty()), true),
        false => stream.send_trailers(trailers),
    };
}

/// Takes what has come of a body, without waiting, up to `most` bytes. True: it has ended.
pub async fn take_ready(body: &mut Body, bytes: &mut Vec<u8>, most: usize) -> Result<bool, BodyError> {
    std::future::poll_fn(|cx| {
        while bytes.len() < most {
            if ends_here(body) {
                return Poll::Ready(Ok(true));
            }
            match body.poll_piece(cx) {
                Poll::Ready(Ok(Some(piece))) => bytes.extend_from_slice(&piece),
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(true)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(false))
    })
    .await
}
