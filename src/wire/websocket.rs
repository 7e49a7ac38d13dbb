//! WebSocket (RFC 6455) without a socket: the key of the handshake, frames of clients in, frames of a server out.
//!
//! Frame heads are tungstenite's work. A session of its own would hold 128 KiB for each client; here an idle one holds
//! no buffer at all.

use std::io::Cursor;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tungstenite::protocol::frame::FrameHeader;
pub use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// What the handshake appends to the client's key (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// `Sec-WebSocket-Accept` for the client's `Sec-WebSocket-Key` (section 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// What a client has sent.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// A whole text message, however many fragments it came in.
    Text(Vec<u8>),
    /// The same of bytes.
    Binary(Vec<u8>),
    /// Wants a pong with these bytes.
    Ping(Vec<u8>),
    /// An answer to a ping.
    Pong,
    /// The client says goodbye, with this code if it gave one. Nothing may follow.
    Close(Option<CloseCode>),
}

/// A client that breaks the protocol: the code that it is told, and why.
#[derive(Debug, PartialEq)]
pub struct Fault {
    /// For the close frame.
    pub code: CloseCode,
    /// For the log.
    pub reason: &'static str,
}

impl Fault {
    fn protocol(reason: &'static str) -> Fault {
        Fault { code: CloseCode::Protocol, reason }
    }
}

/// Takes frames of a client apart, whatever pieces they come in.
pub struct Reader {
    /// The longest message, bytes, all of its fragments together.
    most: usize,
    /// Received, not read yet: at most a frame and what came behind it in one receive.
    received: Vec<u8>,
    /// How much of it is read.
    at: usize,
    /// The fragments so far of a message that is not whole.
    message: Vec<u8>,
    /// What kind it is.
    open: Option<Data>,
}

impl Reader {
    /// For messages of at most so many bytes.
    pub fn new(most: usize) -> Reader {
        Reader { most, received: Vec::new(), at: 0, message: Vec::new(), open: None }
    }

    /// Takes what was received. Read all frames before there is more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next frame, or the end of a message in fragments; `None` until more is received.
    ///
    /// # Errors
    /// The client broke the protocol, or the limit; nothing is to be read behind it.
    pub fn read(&mut self) -> Result<Option<Frame>, Fault> {
        loop {
            let Some((head, payload)) = self.frame()? else {
                self.forget_read();
                return Ok(None);
            };
            match head.opcode {
                OpCode::Data(kind) => {
                    if let Some(message) = self.data(head.is_final, kind, payload)? {
                        return Ok(Some(message));
                    }
                }
                OpCode::Control(kind) => return control(kind, payload).map(Some),
            }
        }
    }

    /// Head and unmasked payload of the next frame, if all of it is there.
    fn frame(&mut self) -> Result<Option<(FrameHeader, Vec<u8>)>, Fault> {
        let rest = self.received.get(self.at..).unwrap_or_default();
        let mut cursor = Cursor::new(rest);
        let parsed =
            FrameHeader::parse(&mut cursor).map_err(|_| Fault::protocol("a frame of an unknown kind"))?;
        let Some((head, length)) = parsed else { return Ok(None) };
        if head.rsv1 || head.rsv2 || head.rsv3 {
            return Err(Fault::protocol("a reserved bit is set"));
        }
        let Some(mask) = head.mask else { return Err(Fault::protocol("frame unmasked")) };
        if matches!(head.opcode, OpCode::Control(_)) && (!head.is_final || length > 125) {
            return Err(Fault::protocol("a control frame in fragments, or too long"));
        }
        let begins = cursor.position() as usize;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if matches!(head.opcode, OpCode::Data(_)) && length > self.most - self.message.len() {
            return Err(Fault { code: CloseCode::Size, reason: "exceeding max payload len" });
        }
        let Some(masked) = rest.get(begins..begins + length) else { return Ok(None) };
        let payload = masked.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        self.at += begins + length;
        Ok(Some((head, payload)))
    }

    /// A frame of a message; the message, once it is whole.
    fn data(&mut self, is_final: bool, kind: Data, payload: Vec<u8>) -> Result<Option<Frame>, Fault> {
        let kind = match (kind, self.open) {
            (Data::Continue, Some(open)) => open,
            (Data::Continue, None) => return Err(Fault::protocol("a fragment of no message")),
            (_, Some(_)) => return Err(Fault::protocol("a message within a message")),
            (kind, None) => kind,
        };
        self.open = (!is_final).then_some(kind);
        if !is_final || !self.message.is_empty() {
            self.message.extend(&payload);
        }
        if !is_final {
            return Ok(None);
        }
        let message = if self.message.is_empty() { payload } else { std::mem::take(&mut self.message) };
        Ok(Some(if kind == Data::Text { Frame::Text(message) } else { Frame::Binary(message) }))
    }

    /// Nothing is kept of what was read, and no memory while nothing is left.
    fn forget_read(&mut self) {
        if self.at == self.received.len() {
            self.received = Vec::new();
        } else if self.at > 0 {
            self.received.drain(..self.at);
        }
        self.at = 0;
    }
}

fn control(kind: Control, payload: Vec<u8>) -> Result<Frame, Fault> {
    Ok(match kind {
        Control::Ping => Frame::Ping(payload),
        Control::Pong => Frame::Pong,
        Control::Close => match payload[..] {
            [] => Frame::Close(None),
            [high, low, ..] if CloseCode::from(u16::from_be_bytes([high, low])).is_allowed() => {
                Frame::Close(Some(u16::from_be_bytes([high, low]).into()))
            }
            _ => return Err(Fault::protocol("a close frame without a valid code")),
        },
        Control::Reserved(_) => return Err(Fault::protocol("a frame of an unknown kind")),
    })
}

/// The longest head of a frame that a server sends, bytes.
pub const FRAME_HEAD: usize = 10;

/// Appends the head of a whole frame of `length` bytes, which follow. A server does not mask (section 5.1).
pub fn frame_head(kind: OpCode, length: usize, out: &mut Vec<u8>) {
    let head = FrameHeader { opcode: kind, ..FrameHeader::default() };
    // a vector takes all
    let _ = head.format(length as u64, out);
}

/// A whole frame.
pub fn frame(kind: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEAD + payload.len());
    frame_head(kind, payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
}

/// The frame that ends a connection; `None` gives no code.
pub fn close_frame(code: Option<CloseCode>) -> Vec<u8> {
    let code = code.map(|code| u16::from(code).to_be_bytes());
    frame(OpCode::Control(Control::Close), code.as_ref().map_or(&[], |code| &code[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A client's frame: first byte as given, masked.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            short @ ..126 => out.push(0x80 | short as u8),
            middle @ ..65536 => {
                out.push(0x80 | 126);
                out.extend((middle as u16).to_be_bytes());
            }
            long => {
                out.push(0x80 | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        out.extend(MASK);
        out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }

    /// All that is read of these bytes, in pieces of `size`.
    fn read(bytes: &[u8], size: usize) -> Result<Vec<Frame>, Fault> {
        let mut reader = Reader::new(70_000);
        let mut frames = Vec::new();
        for piece in bytes.chunks(size) {
            reader.push(piece);
            while let Some(frame) = reader.read()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn the_key_of_the_rfc() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_and_fragments_in_any_pieces() {
        let long = vec![b'x'; 300];
        let longer = vec![b'y'; 66_000];
        let bytes = [
            masked(0x81, b"Hello"),
            masked(0x02, b"one "),
            masked(0x89, b"between"),
            masked(0x00, b""),
            masked(0x00, b"two "),
            masked(0x80, b"three"),
            masked(0x82, &long),
            masked(0x82, b""),
            masked(0x01, b""),
            masked(0x80, b"late"),
            masked(0x82, &longer),
            masked(0x8a, b""),
            masked(0x88, &[0x03, 0xe8, b'b', b'y', b'e']),
        ]
        .concat();
        let expected = [
            Frame::Text(b"Hello".to_vec()),
            Frame::Ping(b"between".to_vec()),
            Frame::Binary(b"one two three".to_vec()),
            Frame::Binary(long),
            Frame::Binary(Vec::new()),
            Frame::Text(b"late".to_vec()),
            Frame::Binary(longer),
            Frame::Pong,
            Frame::Close(Some(CloseCode::Normal)),
        ];
        for size in [1, 2, 3, 7, 100, 100_000] {
            assert_eq!(read(&bytes, size).unwrap(), expected, "pieces of {size}");
        }
    }

    #[test]
    fn nothing_is_held_between_messages() {
        let mut reader = Reader::new(1000);
        reader.push(&masked(0x82, &[1; 500]));
        assert!(reader.read().unwrap().is_some());
        assert!(reader.read().unwrap().is_none());
        assert_eq!((reader.received.capacity(), reader.message.capacity()), (0, 0));
    }

    #[test]
    fn who_breaks_the_protocol_is_told() {
        let unmasked = |first| vec![first, 0x01, b'x'];
        let huge = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &MASK].concat();
        let close = |payload: &[u8]| masked(0x88, payload);
        for (name, bytes, code) in [
            ("unmasked", unmasked(0x82), CloseCode::Protocol),
            ("a reserved bit", masked(0xc2, b"x"), CloseCode::Protocol),
            ("an unknown kind", masked(0x83, b"x"), CloseCode::Protocol),
            ("an unknown control", masked(0x8b, b"x"), CloseCode::Protocol),
            ("a ping in fragments", masked(0x09, b"x"), CloseCode::Protocol),
            ("a long ping", masked(0x89, &[0; 126]), CloseCode::Protocol),
            ("a fragment of nothing", masked(0x80, b"x"), CloseCode::Protocol),
            ("two messages", [masked(0x02, b"x"), masked(0x82, b"y")].concat(), CloseCode::Protocol),
            ("half a code", close(&[3]), CloseCode::Protocol),
            ("a code of nobody", close(&[0, 1]), CloseCode::Protocol),
            ("a code that is never sent", close(&1005u16.to_be_bytes()), CloseCode::Protocol),
            ("too long", masked(0x82, &[0; 70_001]), CloseCode::Size),
            ("far too long", huge, CloseCode::Size),
            (
                "too long in all",
                [masked(0x02, &[0; 69_999]), masked(0x80, &[0; 2])].concat(),
                CloseCode::Size,
            ),
        ] {
            for size in [1, 100_000] {
                assert_eq!(read(&bytes, size).unwrap_err().code, code, "{name}");
            }
        }
    }

    #[test]
    fn noise_is_read_alike_in_any_pieces() {
        let mut rng = fastrand::Rng::with_seed(0x52_49_4e_47);
        for round in 0..2000 {
            let mut bytes = Vec::new();
            for _ in 0..rng.usize(1..8) {
                let first = if rng.bool() { 0x82 } else { rng.u8(..) };
                let payload: Vec<u8> = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
                bytes.extend(masked(first, &payload));
            }
            if rng.bool() {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            let whole = read(&bytes, bytes.len());
            assert_eq!(read(&bytes, rng.usize(1..50)), whole, "round {round}");
        }
    }

    #[test]
    fn frames_of_a_server() {
        assert_eq!(frame(OpCode::Data(Data::Binary), b"abc"), b"\x82\x03abc");
        assert_eq!(close_frame(Some(CloseCode::Away)), b"\x88\x02\x03\xe9");
        assert_eq!(close_frame(None), b"\x88\x00");
        let mut out = Vec::new();
        frame_head(OpCode::Data(Data::Binary), 126, &mut out);
        frame_head(OpCode::Data(Data::Binary), 70_000, &mut out);
        assert_eq!(out, b"\x82\x7e\x00\x7e\x82\x7f\x00\x00\x00\x00\x00\x01\x11\x70");
    }
}
