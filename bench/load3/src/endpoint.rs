//! The loop: sockets that are readable, timers that are due, connections that have something to do.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, ConnectionHandle, DatagramEvent, EndpointConfig, TransportConfig, VarInt};
use quinn_udp::RecvMeta;

use crate::connection::Connection;
use crate::trusting::{self, Trusting};

/// The name asked for, in SNI and `:authority`.
pub const NAME: &str = "bench.test";
/// One datagram of the kernel's, or as many as it has put together.
const RECEIVE_BYTES: usize = 65536;
/// So that a bulk transfer is limited by CPU, not by our windows.
const WINDOW: u32 = 16 << 20;

/// What has been answered so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counted {
    /// 200 and whole.
    pub good: u64,
    /// Whole, with another status.
    pub other: u64,
    /// Reset, cut short, or lost with its connection.
    pub failed: u64,
    /// Connections.
    pub lost: u64,
    pub body_bytes: u64,
}

pub struct Endpoint {
    quic: quinn_proto::Endpoint,
    config: ClientConfig,
    connections: Vec<Connection>,
    pub counted: Counted,
    poll: Poll,
    server: SocketAddr,
    request: Bytes,
    received: Vec<u8>,
    sending: Vec<u8>,
}

impl Endpoint {
    /// Without a connection yet.
    pub fn new(server: SocketAddr, request: Vec<u8>) -> io::Result<Endpoint> {
        let quic = quinn_proto::Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (received, sending) = (vec![0; RECEIVE_BYTES], Vec::with_capacity(RECEIVE_BYTES));
        Ok(Endpoint {
            quic,
            config: client_config()?,
            connections: Vec::new(),
            counted: Counted::default(),
            poll: Poll::new()?,
            server,
            request: Bytes::from(request),
            received,
            sending,
        })
    }

    /// Begins `count` more handshakes.
    pub fn open(&mut self, count: usize) -> io::Result<()> {
        let first = self.connections.len();
        for number in first..first + count {
            let (handle, connection) = self
                .quic
                .connect(Instant::now(), self.config.clone(), self.server, NAME)
                .map_err(io::Error::other)?;
            assert_eq!(handle, ConnectionHandle(number), "none has ended yet");
            self.connections.push(Connection::new(connection, self.server)?);
        }
        for number in first..first + count {
            self.watch(number)?;
            self.advance(number, Instant::now());
        }
        Ok(())
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    pub fn keep_under_way(&mut self, streams: usize) {
        for number in 0..self.connections.len() {
            self.connections[number].under_way = streams;
            self.advance(number, Instant::now());
        }
    }

    /// One request more on each connection but the first `others`.
    pub fn ask_once(&mut self, others: usize) {
        for number in others..self.connections.len() {
            self.connections[number].once = 1;
            self.advance(number, Instant::now());
        }
    }

    /// Each connection goes on from another port, as behind a NAT that forgot it.
    pub fn rebind(&mut self) -> io::Result<()> {
        for number in 0..self.connections.len() {
            self.connections[number].rebind(self.server)?;
            self.watch(number)?;
        }
        Ok(())
    }

    /// Goes on until `end`, or until `enough` says so.
    pub fn run_until(&mut self, end: Instant, enough: impl Fn(&Counted) -> bool) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !enough(&self.counted) {
            let now = Instant::now();
            if now >= end {
                break;
            }
            let due = self.connections.iter_mut().filter_map(|c| c.quic.poll_timeout()).min();
            let until = due.map_or(end, |due| due.min(end));
            match self.poll.poll(&mut events, Some(until.saturating_duration_since(now))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                self.receive(event.token().0);
            }
            self.time_out(Instant::now());
        }
        Ok(())
    }

    fn watch(&mut self, number: usize) -> io::Result<()> {
        let fd = self.connections[number].socket.as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), Token(number), Interest::READABLE)
    }

    /// Reads a socket empty (mio reports it once), then answers.
    fn receive(&mut self, number: usize) {
        let now = Instant::now();
        loop {
            let mut meta = [RecvMeta::default()];
            let connection = &self.connections[number];
            let mut buffers = [IoSliceMut::new(&mut self.received)];
            match connection.state.recv((&connection.socket).into(), &mut buffers, &mut meta) {
                Ok(1..) => self.taken(now, meta[0]),
                _ => break,
            }
        }
        self.advance(number, now);
    }

    fn taken(&mut self, now: Instant, meta: RecvMeta) {
        for start in (0..meta.len).step_by(meta.stride.max(1)) {
            let datagram = &self.received[start..meta.len.min(start + meta.stride)];
            let ecn = meta.ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
            self.sending.clear();
            let event =
                self.quic.handle(now, meta.addr, None, ecn, BytesMut::from(datagram), &mut self.sending);
            if let Some(DatagramEvent::ConnectionEvent(handle, event)) = event {
                self.connections[handle.0].quic.handle_event(event);
            }
        }
    }

    fn time_out(&mut self, now: Instant) {
        for number in 0..self.connections.len() {
            let quic = &mut self.connections[number].quic;
            if quic.poll_timeout().is_some_and(|due| due <= now) {
                quic.handle_timeout(now);
                self.advance(number, now);
            }
        }
    }

    fn advance(&mut self, number: usize, now: Instant) {
        let connection = &mut self.connections[number];
        while let Some(event) = connection.quic.poll_endpoint_events() {
            // a handle may not be taken again while the numbers of connections are their places
            if event.is_drained() {
                continue;
            }
            if let Some(event) = self.quic.handle_event(ConnectionHandle(number), event) {
                connection.quic.handle_event(event);
            }
        }
        connection.advance(&self.request, &mut self.counted);
        connection.transmit(now, &mut self.sending);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        for connection in &mut self.connections {
            connection.close(Instant::now());
            connection.transmit(Instant::now(), &mut self.sending);
        }
    }
}

fn client_config() -> io::Result<ClientConfig> {
    let provider = trusting::provider();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .max_idle_timeout(Some(VarInt::from_u32(Duration::from_secs(300).as_millis() as u32).into()));
    let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
