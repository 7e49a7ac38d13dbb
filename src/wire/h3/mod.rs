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
