//! Bodies into streams, as fast as the peer's window opens and no faster: what waits for it is one piece.

use std::pin::Pin;
use std::task::Poll;

use h2::SendStream;

use crate::exchange::h2::Data;
use crate::reactor::{self, Chunk};

/// Why a piece could not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsent {
    /// The peer has reset the stream, or is gone.
    Gone,
    /// Its window stayed closed for too long.
    Timeout,
}

/// Sends one piece as the peer's window allows. Nothing more of the body is to be asked for meanwhile.
pub async fn send(
    stream: &mut SendStream<Data>,
    mut data: Chunk,
    ends: bool,
    send_ms: u32,
) -> Result<(), Unsent> {
    if data.is_empty() {
        return if ends { hand_over(stream, data, true) } else { Ok(()) };
    }
    let mut waited = false;
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = stream.capacity();
        if room > 0 {
            let piece = data.split_to(room.min(data.len()));
            let last = ends && data.is_empty();
            hand_over(stream, piece, last)?;
            continue;
        }
        if !std::mem::replace(&mut waited, true) {
            data = Chunk::from_vec(data.to_vec()); // a receive buffer is not held for as long as a peer likes
        }
        let mut timer = reactor::sleep_until(reactor::now_ms() + u64::from(send_ms));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(room) = stream.poll_capacity(cx) {
                return Poll::Ready(room.and_then(Result::ok).map(drop).ok_or(Unsent::Gone));
            }
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Unsent::Gone));
            }
            Pin::new(&mut timer).poll(cx).map(|()| Err(Unsent::Timeout))
        })
        .await?;
    }
    Ok(())
}

fn hand_over(stream: &mut SendStream<Data>, data: Chunk, ends: bool) -> Result<(), Unsent> {
    stream.send_data(Data(data), ends).map_err(|_| Unsent::Gone)
}
