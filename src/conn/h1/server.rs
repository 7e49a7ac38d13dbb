//! The server role: one connection, one exchange after the other.
//!
//! While a connection is idle its task holds only [`serve`]'s few words; everything an exchange needs
//! lives in a box that is made when the first byte of a head has come. A future is as large as the largest
//! wait in it, and is moved whole into its box: waits that are rare on this road have boxes of their own.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::answer;
use crate::conn::{Gate, Switched, caught, h2, linger, road};
use crate::exchange::body::H1Body;
use crate::exchange::{Body, Client, Exchange, Facts, Side};
use crate::limits;
use crate::reactor::{self, Chunk};
use crate::transport::{Linger, Stream};
use crate::wire::http::{self, Framing, Progress, Reject};

/// What becomes of the connection after an exchange.
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
enum Next {
    /// The next request may come.
    KeepAlive,
    /// The client has said all: nothing that it sends can be lost.
    Close,
    /// Say goodbye properly: the client may still be sending. The time for it may have begun already.
    Linger(Option<Linger>),
    /// It has switched protocols: what it carries from now on may take days.
    Switch,
    /// It is over: the client is gone, or a tunnel has ended.
    Drop,
}

/// Serves `stream` until its client leaves, misbehaves, or the gateway drains.
pub async fn serve<G: Gate>(gate: Rc<G>, stream: Rc<Stream>, facts: Rc<Facts>) {
    let mut served = 0;
    loop {
        let Some(mut first) = first_bytes(&*gate, &stream, served).await else {
            return leave(&*gate, &stream, Next::Close).await; // the last answer may still be queued
        };
        if served == 0 && h2::preface::may_begin(&first) && gate.settings().http2 {
            match Box::pin(h2::preface::look(&stream, first)).await {
                h2::preface::Found::Http1(bytes) => first = bytes,
                h2::preface::Found::Http2 => return Box::pin(h2::serve(gate, stream, facts)).await,
                h2::preface::Found::Nothing => return,
            }
        }
        let mut ex = gate.take(&facts, Client::H1(stream.clone()));
        let mut next = caught(|| exchange(&*gate, &stream, &mut ex, first, served)).await;
        if next == Some(Next::Switch) {
            next = caught(|| switched(&*gate, &stream, &mut ex)).await;
        }
        let next = match next {
            Some(next) => next,
            None => Box::pin(panicked(&*gate, &stream, &mut ex)).await,
        };
        gate.give_back(ex);
        match next {
            Next::KeepAlive => served += 1,
            end => return leave(&*gate, &stream, end).await,
        }
    }
}

/// Waits for the first bytes of the next head. `None`: the client left, or was idle too long, or the
/// gateway drains.
async fn first_bytes<G: Gate>(gate: &G, stream: &Stream, served: u32) -> Option<Chunk> {
    let settings = gate.settings();
    let wait_ms = if served == 0 { settings.header_ms } else { settings.keepalive_ms };
    stream.set_recv_deadline(Some(reactor::now_ms() + u64::from(wait_ms)));
    stream.expect_bulk(false);
    // a draining core polls every task once: who is idle between two requests then goes
    let received = std::future::poll_fn(|cx| match stream.poll_recv(cx) {
        Poll::Pending if served > 0 && gate.closes_idle() => Poll::Ready(None),
        received => received.map(Result::ok),
    });
    received.await.filter(|chunk| !chunk.is_empty())
}

/// Behind a panic: 500, if nothing was answered.
async fn panicked<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange) -> Next {
    gate.panicked();
    log::error!("a panic ended the exchange of connection {}", ex.facts.serial);
    match ex.resp.bytes {
        0 => refuse(gate, stream, ex, 500).await,
        _ => Next::Drop,
    }
}

/// Behind the head of an answer that switches protocols.
async fn switched<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange) -> Next {
    gate.switched(ex, Switched::H1(stream.clone())).await;
    gate.finish(ex);
    Next::Drop
}

/// One exchange: head, gate, answer, log.
async fn exchange<G: Gate>(
    gate: &G,
    stream: &Rc<Stream>,
    ex: &mut Exchange,
    first: Chunk,
    served: u32,
) -> Next {
    let rest = match read_head(gate, stream, ex, first).await {
        Ok(rest) => rest,
        Err(HeadError::Gone) => return Next::Drop,
        Err(HeadError::Reject(reject)) => {
            log::info!("client sent a bad request: {} from {}", reject.reason, ex.facts.peer);
            return Box::pin(refuse(gate, stream, ex, reject.page)).await;
        }
    };
    if let Err(reject) = attach_body(gate, stream, ex, rest) {
        log::info!("client sent a bad request: {} from {}", reject.reason, ex.facts.peer);
        return Box::pin(refuse(gate, stream, ex, reject.page)).await;
    }
    let settings = gate.settings();
    let keep_alive = http::request_keep_alive(&ex.req.head)
        && settings.keepalive_ms != 0
        && served + 1 < settings.keepalive_requests;

    gate.handle(ex).await;

    if ex.resp.client_gone {
        gate.finish(ex);
        return Next::Drop;
    }
    let keep_alive = keep_alive && !ex.close_client && !gate.is_draining();
    let sent = answer::write(gate, stream, ex, keep_alive).await;
    if ex.resp.upgrade && sent.is_ok() {
        put_back_rest(stream, &mut ex.req.body);
        return Next::Switch;
    }
    ex.resp.left = answer::client_left(&sent);
    gate.finish(ex);
    match sent {
        Err(_) => Next::Drop,
        // as nginx: who has sent nothing behind its request needs no lingering
        Ok(answer::After::Close) if ex.req.body.is_done() && !stream.has_buffered() => Next::Close,
        Ok(answer::After::Close) => Next::Linger(None),
        Ok(answer::After::Keep) => drain_body(stream, &mut ex.req.body).await,
    }
}

enum HeadError {
    /// The client left, or took too long (nginx closes such a connection without a word).
    Gone,
    /// The head is not acceptable.
    Reject(Reject),
}

/// While more of a head is waited for.
struct Reading<'a, G: Gate>(&'a G);

impl<'a, G: Gate> Reading<'a, G> {
    fn of(gate: &'a G) -> Self {
        gate.reads(true);
        Reading(gate)
    }
}

impl<G: Gate> Drop for Reading<'_, G> {
    fn drop(&mut self) {
        self.0.reads(false);
    }
}

/// Reads until the head is whole; what follows it is returned.
async fn read_head<G: Gate>(
    gate: &G,
    stream: &Stream,
    ex: &mut Exchange,
    mut first: Chunk,
) -> Result<Option<Chunk>, HeadError> {
    let limits = &gate.settings().head;
    match http::parse_request(&first, limits, &mut ex.req.head).map_err(HeadError::Reject)? {
        Progress::Done(consumed) => {
            ex.req.head_bytes = consumed;
            first.advance(consumed);
            return Ok(Some(first).filter(|rest| !rest.is_empty()));
        }
        Progress::Partial => {}
    }
    let mut gathered = first.to_vec();
    drop(first);
    let _reading = Reading::of(gate);
    stream.set_recv_deadline(Some(reactor::now_ms() + u64::from(gate.settings().header_ms)));
    loop {
        let more = stream.recv().await.ok().filter(|chunk| !chunk.is_empty()).ok_or(HeadError::Gone)?;
        gathered.extend_from_slice(&more);
        if let Progress::Done(consumed) =
            http::parse_request(&gathered, limits, &mut ex.req.head).map_err(HeadError::Reject)?
        {
            ex.req.head_bytes = consumed;
            let rest = gathered.split_off(consumed);
            return Ok((!rest.is_empty()).then(|| Chunk::from_vec(rest)));
        }
    }
}

/// Decides the framing of the request's body and gives it what came with the head.
fn attach_body<G: Gate>(
    gate: &G,
    stream: &Rc<Stream>,
    ex: &mut Exchange,
    rest: Option<Chunk>,
) -> Result<(), Reject> {
    let settings = gate.settings();
    let framing = road::body_framing(&ex.req.head, settings)?;
    if matches!(framing, Framing::None | Framing::Length(0)) {
        if let Some(rest) = rest {
            stream.unrecv(rest);
        }
        return Ok(());
    }
    let expects = ex.req.head.version == 11 && road::expects_continue(&ex.req.head);
    let body = H1Body::new(stream.clone(), framing, rest, Side::Client, settings.body_ms)
        .expects_continue(expects)
        .at_most(settings.max_body_bytes);
    ex.req.body = Body::H1(body);
    Ok(())
}

/// Answers `status` with its built-in page and closes: nothing that follows can be trusted.
async fn refuse<G: Gate>(gate: &G, stream: &Rc<Stream>, ex: &mut Exchange, status: u16) -> Next {
    gate.refuse(ex, status);
    let sent = answer::write(gate, stream, ex, false).await;
    gate.finish(ex);
    if sent.is_ok() { Next::Linger(None) } else { Next::Drop }
}

/// Reads what is left of the request's body, so that the next head can be found behind it.
async fn drain_body(stream: &Stream, body: &mut Body) -> Next {
    if let Body::H1(body) = body {
        body.answered();
    }
    // boxed: most bodies have been read
    if !body.is_done()
        && let Some(next) = Box::pin(drop_rest(body)).await
    {
        return next;
    }
    put_back_rest(stream, body);
    *body = Body::Empty;
    Next::KeepAlive
}

/// What came behind a body, in the same read as its end, belongs to the next reader of the connection.
fn put_back_rest(stream: &Stream, body: &mut Body) {
    if let Body::H1(body) = body
        && let Some(rest) = body.rest()
    {
        stream.unrecv(rest);
    }
}

/// Reads and drops a body up to its end, for as long as a lingering close would take. Else it says how the connection ends.
async fn drop_rest(body: &mut Body) -> Option<Next> {
    let linger = Linger::new(reactor::now_ms());
    let mut dropped = 0;
    while let Some(late_ms) = linger.next(reactor::now_ms()) {
        let mut late = pin!(reactor::sleep_until(late_ms));
        let piece = std::future::poll_fn(|cx| match body.poll_piece(cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        });
        match piece.await {
            Some(Ok(Some(piece))) if dropped < limits::DRAIN_BODY_BYTES => dropped += piece.len(),
            Some(Ok(Some(_)) | Err(_)) => return Some(Next::Linger(Some(linger))),
            Some(Ok(None)) => return None,
            None => break,
        }
    }
    Some(Next::Close)
}

/// Closes in this way, what is queued is sent before.
async fn leave<G: Gate>(gate: &G, stream: &Stream, end: Next) {
    match end {
        Next::Close => drop(answer::flush(gate, stream).await),
        Next::Linger(begun) => linger(gate, stream, begun).await,
        Next::KeepAlive | Next::Drop | Next::Switch => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::conn::h1::tests::{Plain, pair};
    use crate::transport::tests::on_both;

    /// nginx's `r->lingering_time` is set once, by whichever comes first.
    #[test]
    fn dropping_a_body_and_lingering_behind_it_are_one_wait() {
        on_both(|| async {
            let (stream, mut client) = pair().await;
            let length = limits::DRAIN_BODY_BYTES as u64 + 10;
            let mut body =
                Body::H1(H1Body::new(stream.clone(), Framing::Length(length), None, Side::Client, 60_000));
            let began = Linger::new(reactor::now_ms());
            reactor::spawn(async move {
                reactor::sleep(20).await; // the clock goes on meanwhile
                client.write_all(&vec![b'x'; limits::DRAIN_BODY_BYTES]).unwrap();
                reactor::sleep(20).await;
                client.write_all(b"too much").unwrap();
                std::mem::forget(client); // it neither speaks nor leaves
            });
            assert_eq!(drop_rest(&mut body).await, Some(Next::Linger(Some(began))));
            let now_ms = reactor::now_ms();
            for left_ms in [0, 50] {
                let linger = Linger::until(reactor::now_ms() + left_ms);
                leave(&Plain::new(), &stream, Next::Linger(Some(linger))).await;
            }
            let waited_ms = reactor::now_ms() - now_ms;
            assert!((50..limits::LINGER_IDLE_MS).contains(&waited_ms), "{waited_ms} ms");
        });
    }
}
