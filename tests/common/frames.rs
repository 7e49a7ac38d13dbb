//! A server of HTTP/2 whose every frame is in the test's hands.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::Conn;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `:status: 200`.
const HEAD: &[u8] = &[0x88];
/// `grpc-status: 0`.
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// A frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A frame that a client has sent.
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// It is the last of its stream.
    pub fn ends(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// The server's side of a connection.
pub struct Frames(TcpStream);

impl Frames {
    /// Takes the preface and sends its settings. `None`: the client has left.
    pub fn accept(conn: &Conn) -> Option<Frames> {
        let mut frames = Frames(conn.stream.try_clone().ok()?);
        frames.0.read_exact(&mut [0; 24]).ok()?;
        frames.send(&frame(SETTINGS, 0, 0, &[])).then_some(frames)
    }

    /// The next frame of a stream; the others are answered. `None`: the connection has ended.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).ok()?;
            let (kind, flags) = (head[3], head[4]);
            match kind {
                DATA | HEADERS | RST_STREAM => {
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    return Some(Frame { kind, flags, stream, payload });
                }
                SETTINGS | PING if flags & 1 == 0 => {
                    let echo: &[u8] = if kind == PING { &payload } else { &[] };
                    self.send(&frame(kind, 1, 0, echo)).then_some(())?;
                }
                _ => {}
            }
        }
    }

    /// False: the client has left.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// The head of an answer.
    pub fn head(&mut self, stream: u32) -> bool {
        self.send(&frame(HEADERS, END_HEADERS, stream, HEAD))
    }

    /// A whole answer of gRPC.
    pub fn answer(&mut self, stream: u32, body: &[u8]) -> bool {
        let end = frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS);
        self.head(stream) && self.send(&[frame(DATA, 0, stream, body), end].concat())
    }

    /// No more streams behind the one with this number, for this reason.
    pub fn go_away(&mut self, last: u32, reason: u32) -> bool {
        self.send(&frame(GOAWAY, 0, 0, &[last.to_be_bytes(), reason.to_be_bytes()].concat()))
    }
}
