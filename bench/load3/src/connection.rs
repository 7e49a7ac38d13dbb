//! One connection: its socket, its requests, what it has to send.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Dir, Event, StreamEvent, StreamId, VarInt};
use quinn_udp::{EcnCodepoint, Transmit, UdpSocketState};

use crate::endpoint::Counted;
use crate::http3::{self, Answer};

pub struct Connection {
    pub quic: quinn_proto::Connection,
    pub socket: UdpSocket,
    pub state: UdpSocketState,
    /// Requests to keep under way.
    pub under_way: usize,
    /// Requests still to be made beyond those.
    pub once: usize,
    ready: bool,
    answers: HashMap<StreamId, Answer>,
}

impl Connection {
    pub fn new(quic: quinn_proto::Connection, server: SocketAddr) -> io::Result<Connection> {
        let (socket, state) = socket(server)?;
        Ok(Connection { quic, socket, state, under_way: 0, once: 0, ready: false, answers: HashMap::new() })
    }

    /// Goes on from another port.
    pub fn rebind(&mut self, server: SocketAddr) -> io::Result<()> {
        (self.socket, self.state) = socket(server)?;
        Ok(())
    }

    /// Deals with everything that has happened, and asks again where there is room.
    pub fn advance(&mut self, request: &Bytes, counted: &mut Counted) {
        while let Some(event) = self.quic.poll() {
            match event {
                Event::Connected => self.begin(),
                Event::ConnectionLost { reason } => {
                    if counted.lost == 0 {
                        eprintln!("a connection was lost: {reason}");
                    }
                    counted.lost += 1;
                    counted.failed += self.answers.drain().count() as u64;
                    self.ready = false;
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id, counted),
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = self.quic.streams().accept(Dir::Uni) {
                        self.read(id, counted);
                    }
                }
                _ => {}
            }
        }
        while self.ready && (self.once > 0 || self.answers.len() < self.under_way) && self.ask(request) {
            self.once = self.once.saturating_sub(1);
        }
    }

    fn begin(&mut self) {
        self.ready = true;
        if let Some(control) = self.quic.streams().open(Dir::Uni) {
            let _ = self.quic.send_stream(control).write(&http3::CONTROL);
        }
    }

    /// Sends a request; false while the server allows no more streams.
    fn ask(&mut self, request: &Bytes) -> bool {
        let Some(id) = self.quic.streams().open(Dir::Bi) else { return false };
        let mut stream = self.quic.send_stream(id);
        // a request is far smaller than the windows that a server opens
        let _ = stream.write_chunks(&mut [request.clone()]);
        let _ = stream.finish();
        self.answers.insert(id, Answer::default());
        true
    }

    fn read(&mut self, id: StreamId, counted: &mut Counted) {
        let mut stream = self.quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        let ended = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    let Some(answer) = self.answers.get_mut(&id) else { continue };
                    let before = answer.body_bytes;
                    answer.feed(&chunk.bytes);
                    counted.body_bytes += answer.body_bytes - before;
                }
                Ok(None) => break Some(true),
                Err(quinn_proto::ReadError::Blocked) => break None,
                Err(quinn_proto::ReadError::Reset(_)) => break Some(false),
            }
        };
        let _ = chunks.finalize();
        if let Some(whole) = ended
            && let Some(answer) = self.answers.remove(&id)
        {
            match whole && answer.is_whole() {
                true if answer.good => counted.good += 1,
                true => counted.other += 1,
                false => counted.failed += 1,
            }
        }
    }

    /// Sends what there is to send. What the kernel has no room for is lost, and QUIC sends it again.
    pub fn transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) {
        loop {
            buffer.clear();
            let Some(out) = self.quic.poll_transmit(now, self.state.max_gso_segments(), buffer) else {
                return;
            };
            let transmit = Transmit {
                destination: out.destination,
                ecn: out.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8)),
                contents: &buffer[..out.size],
                segment_size: out.segment_size,
                src_ip: None,
            };
            let _ = self.state.try_send((&self.socket).into(), &transmit);
        }
    }

    pub fn close(&mut self, now: Instant) {
        self.quic.close(now, VarInt::from_u32(0x100), Bytes::new());
    }
}

fn socket(server: SocketAddr) -> io::Result<(UdpSocket, UdpSocketState)> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" })?;
    socket.set_nonblocking(true)?;
    let state = UdpSocketState::new((&socket).into())?;
    // bursts of many streams; the system may allow less
    let _ = state.set_recv_buffer_size((&socket).into(), 4 << 20);
    let _ = state.set_send_buffer_size((&socket).into(), 4 << 20);
    Ok((socket, state))
}
