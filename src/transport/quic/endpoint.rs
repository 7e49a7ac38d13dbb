//! A UDP socket of this core and the connections on it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use bytes::BytesMut;
use quinn_proto::{
    ConnectionError, ConnectionEvent, ConnectionHandle, DatagramEvent, EndpointConfig, EndpointEvent,
    IdleTimeout, Incoming, ServerConfig, TransportConfig, VarInt,
};

use super::connection::{Connection, Lost};
use super::id::{ConnectionIds, Owner};
use super::session::Sessions;
use crate::limits;
use crate::mail::Datagram;
use crate::reactor::{self, EcnCodepoint, Received, Transmit, UdpBatch, UdpSocket};

/// Whom an endpoint serves, and what it tells.
pub trait Served {
    /// A client begins: may it?
    fn admits(&self) -> bool;

    /// A connection begins; its handshake is not done.
    fn begins(&self, connection: Rc<Connection>);

    /// A datagram is another core's. False: that core is gone, and its connections with it.
    fn pass_on(&self, owner: Owner, datagram: Datagram) -> bool;

    /// Something is counted.
    fn saw(&self, event: Seen);
}

/// What is counted of datagrams and connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// A client was turned away: there are too many, or the gateway drains.
    Refused,
    /// What a client began with is no handshake, or one for a name that nobody serves.
    Failed,
    /// A client must prove its address before its handshake goes on.
    Retry,
    /// A datagram was passed on to another core.
    Passed,
    /// Datagrams were not sent or passed on for want of room.
    Dropped,
    /// A panic ended a connection.
    Panic,
}

/// A socket with its connections.
pub struct Endpoint {
    socket: UdpSocket,
    local: SocketAddr,
    proto: RefCell<quinn_proto::Endpoint>,
    connections: RefCell<Vec<Option<Rc<Connection>>>>,
    served: Box<dyn Served>,
    ids: ConnectionIds,
    /// Connections whose client has neither shaken hands nor proved its address.
    unproven: Cell<usize>,
    /// What waits for room in the socket.
    unsent: RefCell<Option<(quinn_proto::Transmit, Vec<u8>)>>,
    /// The connections, by their handles, that wait for that room.
    waiting: RefCell<BTreeSet<usize>>,
    /// The endpoint's task.
    task: RefCell<Option<Waker>>,
    /// What is being sent.
    buffer: RefCell<Vec<u8>>,
    /// No more connections begin; with the last one it ends.
    closing: Cell<bool>,
    /// Datagrams come by other cores only: the socket is read by those that go on in place of this one.
    deaf: Cell<bool>,
}

/// The limits of a connection, each of them set. `idle_ms` is how long it may say nothing; a client that waits for an
/// answer is asked before whether it is still there.
fn transport(idle_ms: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle_ms = idle_ms.max(limits::QUIC_IDLE_MS);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::H3_STREAMS_AT_FIRST))
        .max_concurrent_uni_streams(VarInt::from_u32(limits::H3_UNI_STREAMS))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .stream_receive_window(VarInt::from_u32(limits::H3_STREAM_WINDOW))
        .receive_window(VarInt::from_u32(limits::H3_CONNECTION_WINDOW))
        .send_window(limits::H3_SEND_WINDOW)
        .crypto_buffer_size(limits::QUIC_CRYPTO_BUFFER)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(Duration::from_millis(u64::from(idle_ms / 2))));
    transport
}

/// How connections begin. `None`: this build's cryptography lacks what QUIC begins with.
pub fn server_config(idle_ms: u32, token_key: aws_lc_rs::hkdf::Prk) -> Option<ServerConfig> {
    let mut config = ServerConfig::new(Arc::new(Sessions::new()?), Arc::new(token_key));
    config.transport_config(Arc::new(transport(idle_ms)));
    Some(config)
}

impl Endpoint {
    /// On this socket.
    ///
    /// # Errors
    /// The socket's address cannot be asked for.
    pub fn new(
        socket: UdpSocket,
        reset: hmac::Key,
        ids: ConnectionIds,
        server: Arc<ServerConfig>,
        served: Box<dyn Served>,
    ) -> io::Result<Rc<Endpoint>> {
        let local = socket.local_addr()?;
        let mut config = EndpointConfig::new(Arc::new(reset));
        let own = ids.clone();
        config.cid_generator(move || Box::new(own.clone())).supported_versions(vec![1]);
        let config = Arc::new(config);
        let proto = quinn_proto::Endpoint::new(config, Some(server), !socket.may_fragment(), None);
        Ok(Rc::new(Endpoint {
            socket,
            local,
            proto: RefCell::new(proto),
            connections: RefCell::default(),
            served,
            ids,
            unproven: Cell::new(0),
            unsent: RefCell::default(),
            waiting: RefCell::default(),
            task: RefCell::default(),
            buffer: RefCell::default(),
            closing: Cell::new(false),
            deaf: Cell::new(false),
        }))
    }

    /// Where it is.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// No more connections begin. `deaf`: others read the socket from now on, and pass on what is ours.
    pub fn close(&self, deaf: bool) {
        self.closing.set(true);
        self.deaf.set(self.deaf.get() || deaf);
        self.wake();
    }

    /// Ends what connections there still are with this code of the application: their clients need not wait for nothing.
    pub fn end(&self, code: u64) {
        let connections: Vec<_> = self.connections.borrow().iter().flatten().cloned().collect();
        connections.iter().for_each(|connection| connection.close(code, "the time to drain is over"));
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    /// The task of the endpoint: it takes what comes, until it is closed and the last connection is gone.
    pub async fn serve(self: Rc<Self>, batch: Rc<RefCell<UdpBatch>>) {
        std::future::poll_fn(|cx| self.poll_serve(cx, &mut batch.borrow_mut())).await;
    }

    fn poll_serve(self: &Rc<Self>, cx: &mut Context<'_>, batch: &mut UdpBatch) -> Poll<()> {
        *self.task.borrow_mut() = Some(cx.waker().clone());
        self.send_waiting(cx);
        for _ in 0..limits::UDP_ROUNDS {
            if self.deaf.get() {
                return if self.is_over() { Poll::Ready(()) } else { Poll::Pending };
            }
            match self.socket.poll_recv(cx, batch) {
                Poll::Ready(Ok(())) => batch.received().for_each(|received| self.take(received)),
                Poll::Ready(Err(error)) => log::info!("recvmsg() on {} failed: {error}", self.local),
                Poll::Pending if self.is_over() => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref(); // there may be more; first what has come is answered
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        self.closing.get() && self.connections.borrow().iter().all(Option::is_none)
    }

    /// Takes a datagram that another core has got.
    pub fn passed(self: &Rc<Self>, passed: &Datagram) {
        let Datagram { bytes, from, to, ecn, .. } = passed;
        self.take(Received { bytes, each: bytes.len(), from: *from, to: *to, ecn: *ecn });
    }

    fn take(self: &Rc<Self>, received: Received<'_>) {
        let mut bytes = BytesMut::from(received.bytes);
        while !bytes.is_empty() {
            let datagram = bytes.split_to(received.each.min(bytes.len()));
            // of a connection whose core is gone, the client is told so: any core can, with a stateless reset
            if let Some(owner) = self.ids.stranger(&datagram) {
                let Received { from, to, ecn, .. } = received;
                let bytes = datagram.to_vec();
                if self.served.pass_on(owner, Datagram { endpoint: self.local, bytes, from, to, ecn }) {
                    continue;
                }
            }
            // Bytes of the network have made a panic: they, and not the others, have lost.
            if catch_unwind(AssertUnwindSafe(|| self.datagram(datagram, &received))).is_err() {
                self.served.saw(Seen::Panic);
            }
        }
    }

    fn datagram(self: &Rc<Self>, datagram: BytesMut, received: &Received<'_>) {
        let ecn = received.ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        let mut answer = self.buffer.take();
        answer.clear();
        let event = self.proto.borrow_mut().handle(
            reactor::now(),
            received.from,
            received.to,
            ecn,
            datagram,
            &mut answer,
        );
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let connection = self.connections.borrow().get(handle.0).cloned().flatten();
                if let Some(connection) = connection {
                    connection.handle(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.begin(incoming, &mut answer),
            Some(DatagramEvent::Response(transmit)) => self.reply(&transmit, &answer),
            None => {}
        }
        self.buffer.replace(answer);
    }

    fn begin(self: &Rc<Self>, incoming: Incoming, answer: &mut Vec<u8>) {
        answer.clear();
        if self.closing.get() || !self.served.admits() {
            let transmit = self.proto.borrow_mut().refuse(incoming, answer);
            self.served.saw(Seen::Refused);
            return self.reply(&transmit, answer);
        }
        let proven = incoming.remote_address_validated();
        if !proven && self.unproven.get() >= limits::QUIC_UNPROVEN {
            let Ok(transmit) = self.proto.borrow_mut().retry(incoming, answer) else { return };
            self.served.saw(Seen::Retry);
            return self.reply(&transmit, answer);
        }
        let accepted = self.proto.borrow_mut().accept(incoming, reactor::now(), answer, None);
        let (handle, proto) = match accepted {
            Ok(begun) => begun,
            Err(error) => {
                log::info!("a QUIC connection was not begun: {}", error.cause);
                self.served.saw(Seen::Failed);
                return error.response.into_iter().for_each(|transmit| self.reply(&transmit, answer));
            }
        };
        if !proven {
            self.unproven.set(self.unproven.get() + 1);
        }
        let connection = Connection::new(proto, handle, self.clone(), proven);
        {
            let mut connections = self.connections.borrow_mut();
            if connections.len() <= handle.0 {
                connections.resize_with(handle.0 + 1, || None);
            }
            connections[handle.0] = Some(connection.clone());
        }
        self.served.begins(connection.clone());
        let endpoint = self.clone();
        reactor::spawn(async move { endpoint.drive(connection, handle).await });
    }

    /// Drives a connection to its end; a panic is its end.
    async fn drive(self: Rc<Self>, connection: Rc<Connection>, handle: ConnectionHandle) {
        let mut road = Box::pin(connection.clone().drive());
        let ended =
            std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| road.as_mut().poll(cx))) {
                Ok(poll) => poll.map(Ok),
                Err(_) => Poll::Ready(Err(())),
            })
            .await;
        if ended.is_err() {
            self.served.saw(Seen::Panic);
            connection.end(Lost(ConnectionError::Reset));
        }
        if let Some(place) = self.connections.borrow_mut().get_mut(handle.0) {
            *place = None;
        }
        if self.closing.get() {
            self.wake();
        }
    }

    /// A connection's client has proved its address, or is gone.
    pub(super) fn proved(&self) {
        self.unproven.set(self.unproven.get().saturating_sub(1));
    }

    /// What a connection asks its endpoint.
    pub(super) fn answer(&self, handle: ConnectionHandle, event: EndpointEvent) -> Option<ConnectionEvent> {
        self.proto.borrow_mut().handle_event(handle, event)
    }

    /// Sends what a connection has to send. True: something was sent, there may be news.
    pub(super) fn transmit(
        &self,
        proto: &mut quinn_proto::Connection,
        handle: ConnectionHandle,
        now: Instant,
    ) -> bool {
        let mut buffer = self.buffer.take();
        let mut sent = false;
        loop {
            if self.unsent.borrow().is_some() {
                self.waiting.borrow_mut().insert(handle.0);
                break;
            }
            buffer.clear();
            let Some(transmit) = proto.poll_transmit(now, self.socket.max_segments(), &mut buffer) else {
                break;
            };
            sent = true;
            if !self.try_send(&transmit, &buffer) {
                self.unsent.replace(Some((transmit, std::mem::take(&mut buffer))));
                self.wake();
            }
        }
        self.buffer.replace(buffer);
        sent
    }

    /// Sends an answer that belongs to no connection; without room for it it is lost.
    fn reply(&self, transmit: &quinn_proto::Transmit, bytes: &[u8]) {
        if self.unsent.borrow().is_some() || !self.try_send(transmit, bytes) {
            self.served.saw(Seen::Dropped);
        }
    }

    fn try_send(&self, transmit: &quinn_proto::Transmit, bytes: &[u8]) -> bool {
        let ecn = transmit.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let sent = self.socket.send(&Transmit {
            destination: transmit.destination,
            ecn,
            contents: &bytes[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        });
        sent.is_ok()
    }

    /// There may be room in the socket again.
    fn send_waiting(&self, cx: &mut Context<'_>) {
        let Some((transmit, bytes)) = self.unsent.take() else { return };
        while self.socket.poll_writable(cx).is_ready() {
            if self.try_send(&transmit, &bytes) {
                return self.wake_waiting();
            }
        }
        self.unsent.replace(Some((transmit, bytes)));
    }

    fn wake_waiting(&self) {
        let connections = self.connections.borrow();
        for handle in self.waiting.take() {
            connections.get(handle).into_iter().flatten().for_each(|connection| connection.touched());
        }
    }
}
