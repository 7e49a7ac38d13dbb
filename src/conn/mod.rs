//! Where wire meets sockets: the server and client roles of HTTP/1.1 and HTTP/2, the server of HTTP/3, and what comes
//! when a client has switched protocols.

mod deadline;
pub mod h1;
pub mod h2;
pub mod h3;
mod outgoing;
pub mod proxy_header;
mod road;
mod streams;
pub mod switched;
mod trailers;
pub mod tunnel;

pub use switched::Switched;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use crate::exchange::{BodyPiece, Client, Exchange, Facts};
use crate::transport::{Linger, Stream};
use crate::wire::http::head::RequestLimits;

/// What the connection code asks of the gateway: the road of an exchange lies behind it.
pub trait Gate: 'static {
    /// An exchange for a head that is about to be read.
    fn take(&self, facts: &Rc<Facts>, client: Client) -> Box<Exchange>;

    /// An exchange that has been logged.
    fn give_back(&self, ex: Box<Exchange>);

    /// The head of an exchange that was taken is waited for, or not any longer.
    fn reads(&self, waits: bool);

    /// Timeouts and limits of client connections.
    fn settings(&self) -> &Settings;

    /// From the head of the request to the head of the answer: `ex.resp` is set when it returns.
    fn handle(&self, ex: &mut Exchange) -> impl Future<Output = ()>;

    /// Makes `ex.resp` the built-in answer of `status`: a head that cannot be accepted, a panic.
    fn refuse(&self, ex: &mut Exchange, status: u16);

    /// Lets body filters change a piece of the answer's body; see [`Gate::filters_body`].
    fn filter_body(&self, ex: &mut Exchange, piece: &mut BodyPiece);

    /// Does any body filter run for this exchange?
    fn filters_body(&self, ex: &Exchange) -> bool;

    /// The head of an answer that switches protocols (`ex.resp.upgrade`) has left: from now on `client` carries bytes
    /// both ways, until this is done with them.
    fn switched(&self, ex: &mut Exchange, client: Switched) -> impl Future<Output = ()>;

    /// The answer has left, or nobody waits for it: statistics, log phase, upstream connection.
    fn finish(&self, ex: &mut Exchange);

    /// An exchange, or another task of the core, panicked: it is counted.
    fn panicked(&self);

    /// Something happened on an HTTP/2 connection: it is counted.
    fn saw(&self, event: h2::Event);

    /// Something happened on an HTTP/3 connection: it is counted.
    fn saw_h3(&self, event: h3::Event);

    /// The core is draining: no connection is kept alive.
    fn is_draining(&self) -> bool;

    /// Connections between two requests are to be closed.
    fn closes_idle(&self) -> bool;
}

/// Timeouts and limits of client connections, from `nginx_config.http`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `keepalive_timeout`: between two requests, ms; 0 turns keep-alive off.
    pub keepalive_ms: u32,
    /// `keepalive_requests`: on one connection.
    pub keepalive_requests: u32,
    /// `client_header_timeout`: for a whole head, ms.
    pub header_ms: u32,
    /// `client_body_timeout`: between two reads of a body, ms.
    pub body_ms: u32,
    /// `send_timeout`: between two writes, ms.
    pub send_ms: u32,
    /// `client_max_body_size`, bytes; 0 allows any.
    pub max_body_bytes: u64,
    /// Limits and switches of heads.
    pub head: RequestLimits,
    /// `apisix.enable_http2`
    pub http2: bool,
}

/// Runs a part of an exchange in a box of its own, which is gone with it. `None`: it panicked, which harms no other
/// connection or stream.
fn caught<T, F: Future<Output = T>>(part: impl FnOnce() -> F) -> impl Future<Output = Option<T>> {
    let mut part = boxed(part);
    std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| part.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
}

/// The box is there before the future, which is made in it: moved there it would be copied whole, also the greater part that
/// holds nothing yet.
fn boxed<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    #[inline(never)]
    fn made<F>(make: impl FnOnce() -> F) -> F {
        make()
    }
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, made(make)))
}

/// Closes behind an answer that the client may not have read: see [`Stream::linger`].
pub(in crate::conn) async fn linger<G: Gate>(gate: &G, stream: &Stream, begun: Option<Linger>) {
    if h1::answer::flush(gate, stream).await.is_ok() {
        stream.linger(begun).await;
    }
}
