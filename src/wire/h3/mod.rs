//! HTTP/3 without sockets (RFC 9114): frames, settings, requests and their fields. The fields' coding is [`qpack`].

pub mod control;
pub mod frame;
mod huffman;
pub mod qpack;
pub mod request;
mod static_table;

/// Why a stream or a connection ends (RFC 9114 section 8.1, RFC 9204 section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Code {
    /// All is well.
    NoError = 0x100,
    /// A fault of ours.
    InternalError = 0x102,
    /// A stream that may not be.
    StreamCreationError = 0x103,
    /// A control or QPACK stream has ended.
    ClosedCriticalStream = 0x104,
    /// A frame that may not come here, or now.
    FrameUnexpected = 0x105,
    /// A frame that is not as long as it must be.
    FrameError = 0x106,
    /// More than we bear.
    ExcessiveLoad = 0x107,
    /// An identifier that may not be.
    IdError = 0x108,
    /// Settings that may not be.
    SettingsError = 0x109,
    /// The control stream does not begin with settings.
    MissingSettings = 0x10a,
    /// The request was not looked at.
    RequestRejected = 0x10b,
    /// The answer is wanted no more, or cannot be given to its end.
    RequestCancelled = 0x10c,
    /// The stream ended within the request.
    RequestIncomplete = 0x10d,
    /// The request is malformed.
    MessageError = 0x10e,
    /// A field section cannot be read.
    DecompressionFailed = 0x200,
    /// An instruction of the peer's encoder that may not be.
    EncoderStreamError = 0x201,
    /// An instruction of the peer's decoder that may not be.
    DecoderStreamError = 0x202,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::client_hello;

    /// Whatever comes, in whatever pieces: an answer, never a panic, and no more memory than the bounds allow.
    #[test]
    fn noise() {
        let mut rng = fastrand::Rng::with_seed(0x4833);
        for _ in 0..20_000 {
            let mut bytes = vec![0; rng.usize(..200)];
            rng.fill(&mut bytes);
            // small types and lengths lead further in
            bytes.iter_mut().for_each(|byte| *byte >>= rng.u8(..8));
            if let Ok(section) = qpack::FieldSection::decode(&bytes, 1000) {
                let counted: usize = section.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
                assert!(counted <= 1000);
                let _ = request::pseudo(&section);
            }
            let _ = client_hello::read(&[&[1, 0, 0, bytes.len() as u8], &bytes[..]].concat(), 1000);
            let (mut frames, mut streams) = (frame::FrameReader::default(), control::UniStream::new());
            let mut peer = control::Peer::default();
            for piece in bytes.chunks(rng.usize(1..50)) {
                let mut input = Bytes::copy_from_slice(piece);
                while let Ok(Some(item)) = frames.next(&mut input, 100) {
                    assert!(!matches!(item, frame::Item::Frame(_, payload) if payload.len() > 100));
                }
                if streams.take(Bytes::copy_from_slice(piece), &mut peer).is_err() {
                    break;
                }
            }
        }
    }
}
