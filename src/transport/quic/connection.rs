//! A connection: its streams, as tasks of this core read and write them, and what drives it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ahash::AHashMap;
use bytes::Bytes;
use quinn_proto::{
    ConnectionError, ConnectionEvent, ConnectionHandle, Dir, Event, ReadError, StreamEvent, StreamId, VarInt,
    WriteError,
};

use super::endpoint::Endpoint;
use super::session::Handshake;
use crate::reactor::{self, Sleep};

/// Why a stream gives no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// Its peer has reset it.
    Reset,
    /// The connection is gone, or the stream was ended here.
    Lost,
}

/// Why a stream takes no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwritten {
    /// Its peer wants no more of it.
    Stopped,
    /// The connection is gone, or the stream was ended here.
    Lost,
}

/// How a connection has ended.
#[derive(Clone, Debug)]
pub struct Lost(pub ConnectionError);

/// Who waits for a stream.
#[derive(Default)]
struct Waiting {
    read: Option<Waker>,
    write: Option<Waker>,
}

/// Who waits for the connection.
#[derive(Default)]
struct Wakers {
    /// Its driver.
    driver: Option<Waker>,
    bidi: Option<Waker>,
    uni: Option<Waker>,
    known: Option<Waker>,
}

/// A connection of this core.
pub struct Connection {
    proto: RefCell<quinn_proto::Connection>,
    handle: ConnectionHandle,
    endpoint: Rc<Endpoint>,
    streams: RefCell<AHashMap<StreamId, Waiting>>,
    wakers: RefCell<Wakers>,
    /// The handshake's data is there; the handshake is done.
    known: Cell<bool>,
    connected: Cell<bool>,
    /// The client is who its address says.
    proven: Cell<bool>,
    lost: RefCell<Option<Lost>>,
}

impl Connection {
    pub(super) fn new(
        proto: quinn_proto::Connection,
        handle: ConnectionHandle,
        endpoint: Rc<Endpoint>,
        proven: bool,
    ) -> Rc<Connection> {
        Rc::new(Connection {
            proto: RefCell::new(proto),
            handle,
            endpoint,
            streams: RefCell::default(),
            wakers: RefCell::default(),
            known: Cell::new(false),
            connected: Cell::new(false),
            proven: Cell::new(proven),
            lost: RefCell::default(),
        })
    }

    /// There may be something to send, or room to send it.
    pub(super) fn touched(&self) {
        if let Some(driver) = self.wakers.borrow_mut().driver.take() {
            driver.wake();
        }
    }

    // --- the connection ---

    /// What the handshake has come to, once the client is known: when it is done, or when an earlier session goes on.
    pub async fn handshake(&self) -> Result<Handshake, Lost> {
        std::future::poll_fn(|cx| {
            if let Some(lost) = self.lost() {
                return Poll::Ready(Err(lost));
            }
            if self.known.get() {
                let data = self.proto.borrow().crypto_session().handshake_data();
                if let Some(handshake) = data.and_then(|data| data.downcast::<Handshake>().ok())
                    && (self.connected.get() || handshake.agreed.resumed)
                {
                    return Poll::Ready(Ok(*handshake));
                }
            }
            self.wakers.borrow_mut().known = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The handshake is done: what comes now is no replay.
    pub fn is_connected(&self) -> bool {
        self.connected.get()
    }

    /// Who is there now: a client may move.
    pub fn peer(&self) -> SocketAddr {
        self.proto.borrow().remote_address()
    }

    /// Our end of it.
    pub fn local(&self) -> SocketAddr {
        let local = self.endpoint.local();
        let ip = self.proto.borrow().local_ip().filter(|_| local.ip().is_unspecified());
        SocketAddr::new(ip.unwrap_or(local.ip()), local.port())
    }

    /// How it has ended, if it has.
    pub fn lost(&self) -> Option<Lost> {
        self.lost.borrow().clone()
    }

    /// Ends it with this code of the application.
    pub fn close(&self, code: u64, reason: &'static str) {
        let now = reactor::now();
        self.proto.borrow_mut().close(now, varint(code), Bytes::from_static(reason.as_bytes()));
        self.touched();
    }

    // --- streams ---

    /// The next stream that the client has opened.
    pub fn poll_accept(&self, dir: Dir, cx: &mut Context<'_>) -> Poll<Option<StreamId>> {
        if let Some(id) = self.proto.borrow_mut().streams().accept(dir) {
            self.touched(); // it may open another one
            return Poll::Ready(Some(id));
        }
        if self.lost.borrow().is_some() {
            return Poll::Ready(None);
        }
        let mut wakers = self.wakers.borrow_mut();
        let place = if dir == Dir::Bi { &mut wakers.bidi } else { &mut wakers.uni };
        *place = Some(cx.waker().clone());
        Poll::Pending
    }

    /// From now on the client may have `count` streams open.
    pub fn allow(&self, dir: Dir, count: u32) {
        self.proto.borrow_mut().set_max_concurrent_streams(dir, VarInt::from_u32(count));
        self.touched();
    }

    /// A stream of our own to the client; `None`: it allows no more.
    pub fn open_uni(&self) -> Option<StreamId> {
        self.proto.borrow_mut().streams().open(Dir::Uni)
    }

    /// The next bytes of a stream, at most `most`; `None` at its end. What is read opens its window again.
    pub fn poll_read(
        &self,
        id: StreamId,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Unread>> {
        let mut proto = self.proto.borrow_mut();
        let mut stream = proto.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Poll::Ready(Err(Unread::Lost)) };
        let next = chunks.next(most);
        let send = chunks.finalize().should_transmit();
        drop(proto);
        if send {
            self.touched();
        }
        match next {
            Ok(chunk) => Poll::Ready(Ok(chunk.map(|chunk| chunk.bytes))),
            Err(ReadError::Reset(_)) => Poll::Ready(Err(Unread::Reset)),
            Err(ReadError::Blocked) if self.lost.borrow().is_none() => {
                self.streams.borrow_mut().entry(id).or_default().read = Some(cx.waker().clone());
                Poll::Pending
            }
            Err(_) => Poll::Ready(Err(Unread::Lost)),
        }
    }

    /// Writes as much as there is room for, and says how much that was.
    pub fn poll_write(
        &self,
        id: StreamId,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Unwritten>> {
        if self.lost.borrow().is_some() {
            return Poll::Ready(Err(Unwritten::Lost));
        }
        let written = self.proto.borrow_mut().send_stream(id).write(bytes);
        match written {
            Ok(written) => {
                self.touched();
                Poll::Ready(Ok(written))
            }
            Err(WriteError::Blocked) => {
                self.streams.borrow_mut().entry(id).or_default().write = Some(cx.waker().clone());
                Poll::Pending
            }
            Err(WriteError::Stopped(_)) => Poll::Ready(Err(Unwritten::Stopped)),
            Err(WriteError::ClosedStream) => Poll::Ready(Err(Unwritten::Lost)),
        }
    }

    /// Ready when the client wants no more of a stream, or is gone.
    pub fn poll_stopped(&self, id: StreamId, cx: &mut Context<'_>) -> Poll<()> {
        let going_on = matches!(self.proto.borrow_mut().send_stream(id).stopped(), Ok(None));
        if !going_on || self.lost.borrow().is_some() {
            return Poll::Ready(());
        }
        self.streams.borrow_mut().entry(id).or_default().write = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nothing more will be written to a stream.
    pub fn finish(&self, id: StreamId) {
        // a stream that its peer has stopped has ended already
        let _ = self.proto.borrow_mut().send_stream(id).finish();
        self.touched();
    }

    /// A stream of ours ends here, whatever was written.
    pub fn reset(&self, id: StreamId, code: u64) {
        // a stream that has ended needs no end
        let _ = self.proto.borrow_mut().send_stream(id).reset(varint(code));
        self.touched();
    }

    /// Nothing more is wanted of a stream.
    pub fn stop(&self, id: StreamId, code: u64) {
        // a stream that has ended gives nothing more
        let _ = self.proto.borrow_mut().recv_stream(id).stop(varint(code));
        self.touched();
    }

    /// Nobody waits for a stream any more.
    pub fn forget(&self, id: StreamId) {
        self.streams.borrow_mut().remove(&id);
    }

    // --- what drives it ---

    /// A datagram of its, or something else from its endpoint.
    pub(super) fn handle(&self, event: ConnectionEvent) {
        self.proto.borrow_mut().handle_event(event);
        self.touched();
    }

    /// The task of a connection: timers, events, datagrams to be sent. It ends when the connection is forgotten.
    pub(super) async fn drive(self: Rc<Self>) {
        let mut timer = None;
        std::future::poll_fn(|cx| self.poll_drive(cx, &mut timer)).await;
    }

    fn poll_drive(&self, cx: &mut Context<'_>, timer: &mut Option<(Instant, Sleep)>) -> Poll<()> {
        self.wakers.borrow_mut().driver = Some(cx.waker().clone());
        let now = reactor::now();
        let mut proto = self.proto.borrow_mut();
        loop {
            if proto.poll_timeout().is_some_and(|at| at <= now) {
                proto.handle_timeout(now);
            }
            while let Some(event) = proto.poll_endpoint_events() {
                if let Some(back) = self.endpoint.answer(self.handle, event) {
                    proto.handle_event(back);
                }
            }
            while let Some(event) = proto.poll() {
                self.happened(event);
            }
            if !self.endpoint.transmit(&mut proto, self.handle, now) {
                break;
            }
        }
        if proto.is_drained() {
            drop(proto);
            self.end(Lost(ConnectionError::LocallyClosed));
            return Poll::Ready(());
        }
        let Some(at) = proto.poll_timeout() else {
            *timer = None;
            return Poll::Pending;
        };
        if timer.as_ref().is_none_or(|(set, _)| *set != at) {
            // never early: a millisecond late is nothing to a retransmission
            let wait = at.saturating_duration_since(now);
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
            *timer = Some((at, reactor::sleep_until(reactor::now_ms().saturating_add(wait_ms))));
        }
        if let Some((_, sleep)) = timer
            && Pin::new(sleep).poll(cx).is_ready()
        {
            *timer = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn happened(&self, event: Event) {
        match event {
            Event::HandshakeDataReady => {
                self.known.set(true);
                wake(&mut self.wakers.borrow_mut().known);
            }
            Event::Connected => {
                self.connected.set(true);
                self.prove();
                wake(&mut self.wakers.borrow_mut().known);
            }
            Event::ConnectionLost { reason } => self.end(Lost(reason)),
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => wake(&mut self.wakers.borrow_mut().bidi),
            Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => wake(&mut self.wakers.borrow_mut().uni),
            Event::Stream(StreamEvent::Readable { id }) => {
                if let Some(waiting) = self.streams.borrow_mut().get_mut(&id) {
                    wake(&mut waiting.read);
                }
            }
            Event::Stream(StreamEvent::Writable { id } | StreamEvent::Stopped { id, .. }) => {
                if let Some(waiting) = self.streams.borrow_mut().get_mut(&id) {
                    wake(&mut waiting.write);
                }
            }
            Event::Stream(StreamEvent::Finished { .. } | StreamEvent::Available { .. }) => {}
            Event::DatagramReceived | Event::DatagramsUnblocked => {}
        }
    }

    fn prove(&self) {
        if !self.proven.replace(true) {
            self.endpoint.proved();
        }
    }

    /// It is over: whoever waits learns of it.
    pub(super) fn end(&self, lost: Lost) {
        self.lost.borrow_mut().get_or_insert(lost);
        self.prove();
        for (_, mut waiting) in self.streams.borrow_mut().drain() {
            wake(&mut waiting.read);
            wake(&mut waiting.write);
        }
        let mut wakers = self.wakers.borrow_mut();
        wake(&mut wakers.bidi);
        wake(&mut wakers.uni);
        wake(&mut wakers.known);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}
