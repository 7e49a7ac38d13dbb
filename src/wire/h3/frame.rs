//! Frames (RFC 9114 section 7): a type, a length, a payload. Payload of DATA passes as it comes, that of the other known
//! frames is gathered up to a bound, and unknown frames are skipped.

use bytes::{Buf, Bytes};

use super::Code;
use crate::wire::varint;

/// Payload of a message.
pub const DATA: u64 = 0;
/// A field section.
pub const HEADERS: u64 = 1;
/// A push is not wanted.
pub const CANCEL_PUSH: u64 = 3;
/// What the peer takes.
pub const SETTINGS: u64 = 4;
/// A push is promised.
pub const PUSH_PROMISE: u64 = 5;
/// No more requests, or pushes, from this one on.
pub const GOAWAY: u64 = 7;
/// How many pushes the client takes.
pub const MAX_PUSH_ID: u64 = 13;

/// The longest type and length.
const HEAD: usize = 16;

/// What comes next on a stream of frames.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A DATA frame begins; its bytes follow as [`Item::Data`].
    DataBegins,
    /// Some of its bytes.
    Data(Bytes),
    /// Another known frame, whole.
    Frame(u64, Vec<u8>),
}

/// Reads the frames of one stream.
#[derive(Default, Debug)]
pub struct FrameReader {
    head: [u8; HEAD],
    have: usize,
    payload: Option<Payload>,
}

#[derive(Debug)]
struct Payload {
    kind: u64,
    left: u64,
    gathered: Vec<u8>,
}

impl FrameReader {
    /// The next item of `input`, which is consumed as far as it is read; `None`: all of it, and more is needed. Frames
    /// that are gathered may have `most` bytes.
    ///
    /// # Errors
    /// The connection ends with this code: a frame type that HTTP/2 alone has, or a frame that is too large.
    pub fn next(&mut self, input: &mut Bytes, most: usize) -> Result<Option<Item>, Code> {
        loop {
            let Some(payload) = &mut self.payload else {
                if input.is_empty() {
                    return Ok(None);
                }
                if self.begin(input, most)? {
                    return Ok(Some(Item::DataBegins));
                }
                continue;
            };
            if payload.left == 0 {
                let Some(payload) = self.payload.take() else { continue };
                if is_gathered(payload.kind) {
                    return Ok(Some(Item::Frame(payload.kind, payload.gathered)));
                }
                continue;
            }
            if input.is_empty() {
                return Ok(None);
            }
            let take = usize::try_from(payload.left).unwrap_or(usize::MAX).min(input.len());
            payload.left -= take as u64;
            match payload.kind {
                DATA => return Ok(Some(Item::Data(input.split_to(take)))),
                kind if is_gathered(kind) => payload.gathered.extend_from_slice(&input.split_to(take)),
                _ => input.advance(take),
            }
        }
    }

    /// Reads type and length, as far as they have come. True: a DATA frame begins.
    fn begin(&mut self, input: &mut Bytes, most: usize) -> Result<bool, Code> {
        while let Some(byte) = input.first().copied() {
            self.head[self.have] = byte;
            self.have += 1;
            input.advance(1);
            let Some((kind, length)) = two(&self.head[..self.have]) else { continue };
            self.have = 0;
            // what HTTP/2 has and HTTP/3 has not (section 7.2.8)
            if matches!(kind, 2 | 6 | 8 | 9) {
                return Err(Code::FrameUnexpected);
            }
            if is_gathered(kind) && length > most as u64 {
                return Err(Code::ExcessiveLoad);
            }
            self.payload = Some(Payload { kind, left: length, gathered: Vec::new() });
            return Ok(kind == DATA);
        }
        Ok(false)
    }

    /// No frame is open: the stream may end here (section 7.1).
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.payload.as_ref().is_none_or(|payload| payload.left == 0)
    }
}

fn is_gathered(kind: u64) -> bool {
    matches!(kind, HEADERS | CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID)
}

fn two(bytes: &[u8]) -> Option<(u64, u64)> {
    let (first, used) = varint::read(bytes)?;
    let (second, _) = varint::read(&bytes[used..])?;
    Some((first, second))
}

/// Appends type and length of a frame.
pub fn begin(kind: u64, length: usize, out: &mut Vec<u8>) {
    varint::write(kind, out);
    varint::write(length as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The items of a stream that comes in pieces of `step` bytes.
    fn read(stream: &[u8], step: usize) -> Result<Vec<Item>, Code> {
        let mut reader = FrameReader::default();
        let mut items = Vec::new();
        for piece in stream.chunks(step) {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(item) = reader.next(&mut input, 100)? {
                items.push(item);
            }
        }
        assert!(reader.is_between());
        Ok(items)
    }

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        begin(kind, payload.len(), &mut out);
        [&out, payload].concat()
    }

    #[test]
    fn frames_in_pieces_of_any_size() {
        let stream = [
            frame(HEADERS, b"section"),
            frame(0x21, &[7; 300]), // reserved to be ignored
            frame(DATA, b"some data"),
            frame(DATA, b""),
            frame(SETTINGS, b""),
        ]
        .concat();
        for step in [1, 2, 3, 7, stream.len()] {
            let mut data = Vec::new();
            let mut others = Vec::new();
            for item in read(&stream, step).unwrap() {
                match item {
                    Item::Data(bytes) => data.extend_from_slice(&bytes),
                    other => others.push(other),
                }
            }
            assert_eq!(data, b"some data");
            let frames = [
                Item::Frame(HEADERS, b"section".to_vec()),
                Item::DataBegins,
                Item::DataBegins,
                Item::Frame(SETTINGS, Vec::new()),
            ];
            assert_eq!(others, frames, "{step}");
        }
    }

    #[test]
    fn what_may_not_come() {
        for kind in [2, 6, 8, 9] {
            assert_eq!(read(&frame(kind, b""), 9), Err(Code::FrameUnexpected));
        }
        assert_eq!(read(&frame(HEADERS, &[0; 101]), 9), Err(Code::ExcessiveLoad));
        assert!(read(&frame(HEADERS, &[0; 100]), 9).is_ok());
    }

    #[test]
    fn a_stream_may_not_end_within_a_frame() {
        let mut reader = FrameReader::default();
        assert!(reader.is_between());
        for end in 1..9 {
            let whole = frame(DATA, b"1234567");
            let mut input = Bytes::copy_from_slice(&whole[..end]);
            let mut reader = FrameReader::default();
            while reader.next(&mut input, 9).unwrap().is_some() {}
            assert_eq!(reader.is_between(), end == whole.len(), "{end}");
        }
        let _ = reader.next(&mut Bytes::from_static(&[0x40]), 9);
        assert!(!reader.is_between(), "half a type");
    }
}
