//! The unidirectional streams of a client (RFC 9114 section 6.2, RFC 9204 section 4.2): what they begin with, what
//! comes on them, and what of it ends the connection.

use bytes::{Buf, Bytes};

use super::Code;
use super::frame::{self, FrameReader, Item};
use crate::limits;
use crate::wire::varint;

/// QPACK_MAX_TABLE_CAPACITY … ENABLE_CONNECT_PROTOCOL: what settings are called on the wire.
const MAX_FIELD_SECTION_SIZE: u64 = 6;
const ENABLE_CONNECT_PROTOCOL: u64 = 8;

/// What we say at the beginning of our control stream: its type and our settings.
pub fn preamble(max_field_section_bytes: usize) -> Vec<u8> {
    let mut settings = Vec::new();
    varint::write(MAX_FIELD_SECTION_SIZE, &mut settings);
    varint::write(max_field_section_bytes as u64, &mut settings);
    // WebSockets (RFC 9220)
    varint::write(ENABLE_CONNECT_PROTOCOL, &mut settings);
    varint::write(1, &mut settings);
    let mut out = vec![0];
    frame::begin(frame::SETTINGS, settings.len(), &mut out);
    out.extend_from_slice(&settings);
    out
}

/// A GOAWAY frame: requests from stream `id` on are not looked at.
pub fn goaway(id: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    varint::write(id, &mut payload);
    let mut out = Vec::new();
    frame::begin(frame::GOAWAY, payload.len(), &mut out);
    out.extend_from_slice(&payload);
    out
}

/// What is known of a client's unidirectional streams together.
#[derive(Default, Debug)]
pub struct Peer {
    control: bool,
    encoder: bool,
    decoder: bool,
    settings: bool,
    goaway: Option<u64>,
    max_push_id: Option<u64>,
}

/// One of them.
#[derive(Debug)]
pub struct UniStream {
    kind: Kind,
    head: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    /// Its type has not come.
    Unknown,
    Control(FrameReader),
    Encoder,
    /// True: within an integer of more bytes.
    Decoder(bool),
}

/// What is to be done with a stream after some of its bytes were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Read on.
    Read,
    /// It means nothing to us: its peer is told to stop.
    Stop,
}

impl UniStream {
    /// Nothing of it has come.
    pub fn new() -> UniStream {
        UniStream { kind: Kind::Unknown, head: Vec::new() }
    }

    /// Takes bytes of it.
    ///
    /// # Errors
    /// The connection ends with this code.
    pub fn take(&mut self, mut input: Bytes, peer: &mut Peer) -> Result<Next, Code> {
        while let Kind::Unknown = self.kind {
            let Some(byte) = input.first().copied() else { return Ok(Next::Read) };
            self.head.push(byte);
            input.advance(1);
            let Some((kind, _)) = varint::read(&self.head) else { continue };
            self.kind = match kind {
                0 if !std::mem::replace(&mut peer.control, true) => Kind::Control(FrameReader::default()),
                2 if !std::mem::replace(&mut peer.encoder, true) => Kind::Encoder,
                3 if !std::mem::replace(&mut peer.decoder, true) => Kind::Decoder(false),
                // there may be one of each; and it is servers that push
                0..=3 => return Err(Code::StreamCreationError),
                _ => return Ok(Next::Stop),
            };
        }
        match &mut self.kind {
            Kind::Unknown => {}
            Kind::Control(frames) => {
                while let Some(item) = frames.next(&mut input, limits::H3_CONTROL_FRAME)? {
                    peer.heard(item)?;
                }
            }
            // our table has no room: there is nothing to say but that (RFC 9204 section 4.3.1)
            Kind::Encoder if input.iter().all(|byte| *byte == 0x20) => {}
            Kind::Encoder => return Err(Code::EncoderStreamError),
            Kind::Decoder(within) => {
                for byte in input {
                    *within = match (*within, byte) {
                        (true, byte) => byte & 128 != 0,
                        // a stream is cancelled
                        (false, 0x40..=0x7f) => byte & 63 == 63,
                        // an acknowledgement: of what?
                        _ => return Err(Code::DecoderStreamError),
                    };
                }
            }
        }
        Ok(Next::Read)
    }

    /// It has ended, or was reset.
    ///
    /// # Errors
    /// The connection ends with this code.
    pub fn end(&self) -> Result<(), Code> {
        match self.kind {
            Kind::Unknown => Ok(()),
            Kind::Control(_) | Kind::Encoder | Kind::Decoder(_) => Err(Code::ClosedCriticalStream),
        }
    }
}

impl Default for UniStream {
    fn default() -> Self {
        UniStream::new()
    }
}

impl Peer {
    fn heard(&mut self, item: Item) -> Result<(), Code> {
        let Item::Frame(kind, payload) = item else { return Err(self.unexpected()) };
        match kind {
            frame::SETTINGS if !self.settings => {
                self.settings = true;
                check_settings(&payload)
            }
            _ if !self.settings => Err(Code::MissingSettings),
            frame::GOAWAY => {
                let id = only(&payload)?;
                match self.goaway.replace(id) {
                    Some(before) if id > before => Err(Code::IdError),
                    _ => Ok(()),
                }
            }
            frame::MAX_PUSH_ID => {
                let id = only(&payload)?;
                match self.max_push_id.replace(id) {
                    Some(before) if id < before => Err(Code::IdError),
                    _ => Ok(()),
                }
            }
            // nothing was ever promised
            frame::CANCEL_PUSH => only(&payload).and(Err(Code::IdError)),
            _ => Err(Code::FrameUnexpected),
        }
    }

    fn unexpected(&self) -> Code {
        if self.settings { Code::FrameUnexpected } else { Code::MissingSettings }
    }
}

/// The one integer that a frame consists of.
fn only(payload: &[u8]) -> Result<u64, Code> {
    match varint::read(payload) {
        Some((value, used)) if used == payload.len() => Ok(value),
        _ => Err(Code::FrameError),
    }
}

/// Section 7.2.4: pairs of integers, each name once. We need none of them: what we send fits any of them.
fn check_settings(mut payload: &[u8]) -> Result<(), Code> {
    let mut seen: Vec<u64> = Vec::new();
    while !payload.is_empty() {
        let (name, used) = varint::read(payload).ok_or(Code::FrameError)?;
        let (value, more) = varint::read(&payload[used..]).ok_or(Code::FrameError)?;
        payload = &payload[used + more..];
        let reserved = matches!(name, 0 | 2..=5); // of HTTP/2
        let wrong = name == ENABLE_CONNECT_PROTOCOL && value > 1;
        if reserved || wrong || seen.contains(&name) {
            return Err(Code::SettingsError);
        }
        seen.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::begin(kind, payload.len(), &mut out);
        [&out, payload].concat()
    }

    /// What becomes of a stream of these bytes, after a control stream with settings if it is none itself.
    fn taken(bytes: &[u8]) -> Result<Next, Code> {
        let mut peer = Peer::default();
        UniStream::new().take(Bytes::copy_from_slice(bytes), &mut peer)
    }

    fn control(frames: &[Vec<u8>]) -> Result<Next, Code> {
        taken(&[vec![0], frames.concat()].concat())
    }

    #[test]
    fn settings_come_first_and_once() {
        let settings = frame(frame::SETTINGS, &[6, 0x44, 0, 0x21, 7]);
        assert_eq!(control(std::slice::from_ref(&settings)), Ok(Next::Read));
        assert_eq!(control(&[settings.clone(), settings.clone()]), Err(Code::FrameUnexpected));
        assert_eq!(control(&[frame(frame::GOAWAY, &[0]), settings.clone()]), Err(Code::MissingSettings));
        assert_eq!(control(&[frame(frame::DATA, &[0])]), Err(Code::MissingSettings));
        for payload in [&[2, 0][..], &[3, 1], &[4, 1], &[5, 1], &[6, 1, 6, 2], &[8, 2]] {
            assert_eq!(control(&[frame(frame::SETTINGS, payload)]), Err(Code::SettingsError), "{payload:?}");
        }
        for payload in [&[6][..], &[6, 0x40], &[0x40]] {
            assert_eq!(control(&[frame(frame::SETTINGS, payload)]), Err(Code::FrameError), "{payload:?}");
        }
    }

    #[test]
    fn frames_of_a_control_stream() {
        let settings = || frame(frame::SETTINGS, &[]);
        for (frames, outcome) in [
            (vec![frame(frame::GOAWAY, &[4]), frame(frame::GOAWAY, &[0])], Ok(Next::Read)),
            (vec![frame(frame::GOAWAY, &[0]), frame(frame::GOAWAY, &[4])], Err(Code::IdError)),
            (vec![frame(frame::MAX_PUSH_ID, &[1]), frame(frame::MAX_PUSH_ID, &[2])], Ok(Next::Read)),
            (vec![frame(frame::MAX_PUSH_ID, &[2]), frame(frame::MAX_PUSH_ID, &[1])], Err(Code::IdError)),
            (vec![frame(frame::CANCEL_PUSH, &[0])], Err(Code::IdError)),
            (vec![frame(frame::GOAWAY, &[0, 0])], Err(Code::FrameError)),
            (vec![frame(frame::GOAWAY, &[])], Err(Code::FrameError)),
            (vec![frame(frame::DATA, &[0])], Err(Code::FrameUnexpected)),
            (vec![frame(frame::HEADERS, &[0])], Err(Code::FrameUnexpected)),
            (vec![frame(frame::PUSH_PROMISE, &[0])], Err(Code::FrameUnexpected)),
            (vec![frame(6, &[0])], Err(Code::FrameUnexpected)),
            (vec![frame(0x21, &[0; 90])], Ok(Next::Read)),
        ] {
            assert_eq!(control(&[vec![settings()], frames.clone()].concat()), outcome, "{frames:?}");
        }
    }

    #[test]
    fn one_stream_of_each_kind() {
        for kind in [0, 2, 3] {
            let mut peer = Peer::default();
            let mut first = UniStream::new();
            assert_eq!(first.take(Bytes::copy_from_slice(&[kind]), &mut peer), Ok(Next::Read));
            let second = UniStream::new().take(Bytes::copy_from_slice(&[kind]), &mut peer);
            assert_eq!(second, Err(Code::StreamCreationError));
            assert_eq!(first.end(), Err(Code::ClosedCriticalStream));
        }
        assert_eq!(taken(&[1, 0]), Err(Code::StreamCreationError), "clients do not push");
        assert_eq!(taken(&[0x21, 1, 2, 3]), Ok(Next::Stop));
        assert_eq!(taken(&[0x40]), Ok(Next::Read), "half a type");
        assert_eq!(UniStream::new().end(), Ok(()));
    }

    #[test]
    fn qpack_streams_have_nothing_to_say() {
        assert_eq!(taken(&[2, 0x20]), Ok(Next::Read));
        assert_eq!(taken(&[2, 0x3f, 0xe1, 0x1f]), Err(Code::EncoderStreamError), "a table was not offered");
        assert_eq!(taken(&[2, 0xc0, 0]), Err(Code::EncoderStreamError));
        assert_eq!(taken(&[3, 0x44]), Ok(Next::Read), "stream 4 is cancelled");
        assert_eq!(taken(&[3, 0x7f, 0x80, 0x01, 0x40]), Ok(Next::Read), "one with a longer number");
        assert_eq!(taken(&[3, 0x84]), Err(Code::DecoderStreamError), "it has read what never was");
        assert_eq!(taken(&[3, 0x01]), Err(Code::DecoderStreamError));
    }

    #[test]
    fn what_we_say() {
        assert_eq!(preamble(16_384), [0, 4, 7, 6, 0x80, 0, 0x40, 0, 8, 1]);
        assert_eq!(goaway(8), [7, 1, 8]);
    }
}
