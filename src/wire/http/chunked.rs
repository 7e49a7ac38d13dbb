//! Bodies: the chunked coding (RFC 9112 section 7.1), and one decoder over all framings. Data is never copied: the decoder says
//! where in the input it stands.

use std::ops::Range;

use super::fields::{self, Rules};
use super::{Framing, Reject};
use crate::limits;
use crate::wire::header_name::Name;
use crate::wire::headers::Headers;

/// Who sends the body: an upstream's answer is read with one liberty more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// A request's body: no blank beside the chunk size, for the next in line might read it differently.
    Client,
    /// A response's body: old servers pad the chunk size with blanks.
    Upstream,
}

/// What one call of a decoder found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decoded {
    /// Where in the input the next piece of the body is; may be empty.
    pub data: Range<usize>,
    /// Bytes of the input that are done with once `data` is; call again with the rest.
    pub consumed: usize,
    /// The body is whole. What follows in the input belongs to the next message.
    pub end: bool,
}

/// Takes the framing off a body.
#[derive(Debug)]
pub enum BodyDecoder {
    /// This many bytes are to come.
    Length(u64),
    /// Chunked coding.
    Chunked(ChunkDecoder),
    /// All that comes.
    UntilClose,
}

impl BodyDecoder {
    /// For a body with this framing.
    pub fn new(framing: Framing, sender: Sender) -> BodyDecoder {
        match framing {
            Framing::None => BodyDecoder::Length(0),
            Framing::Length(length) => BodyDecoder::Length(length),
            Framing::Chunked => BodyDecoder::Chunked(ChunkDecoder::new(sender)),
            Framing::UntilClose => BodyDecoder::UntilClose,
        }
    }

    /// Looks at `input`, which follows what earlier calls consumed. Every call consumes something, unless `input` is empty or the end is reached.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, Reject> {
        match self {
            BodyDecoder::Length(left) => {
                let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= taken as u64;
                Ok(Decoded { data: 0..taken, consumed: taken, end: *left == 0 })
            }
            BodyDecoder::Chunked(chunks) => chunks.decode(input),
            BodyDecoder::UntilClose => {
                Ok(Decoded { data: 0..input.len(), consumed: input.len(), end: false })
            }
        }
    }

    /// Whether the body is whole if the connection is closed now.
    pub fn is_whole_at_close(&self) -> bool {
        match self {
            BodyDecoder::Length(left) => *left == 0,
            BodyDecoder::Chunked(chunks) => chunks.state == State::Done,
            BodyDecoder::UntilClose => true,
        }
    }

    /// The trailer fields, once the end is reached and if there were any.
    pub fn trailers(&self) -> Option<&Headers> {
        match self {
            BodyDecoder::Chunked(chunks) => chunks.trailers(),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// In the size: its value and number of digits so far.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the size: blanks or an extension, of which `seen` bytes were dropped.
    Extension {
        size: u64,
        seen: usize,
        text: bool,
    },
    /// Behind the CR of the size line.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the line behind the last chunk.
    LastLine,
    /// Behind the CR of an empty last line.
    LastLf,
    /// In trailer fields, which are collected.
    Trailers,
    Done,
}

/// Takes chunked coding off.
#[derive(Debug)]
pub struct ChunkDecoder {
    state: State,
    sender: Sender,
    trailers: Option<Box<Trailers>>,
}

/// Trailer fields, of which few messages have any.
#[derive(Debug, Default)]
struct Trailers {
    received: Vec<u8>,
    fields: Headers,
}

const BAD_SIZE: Reject = Reject::bad("invalid chunk size");
const BAD_LINE_END: Reject = Reject::bad("chunk line does not end with CRLF");

impl ChunkDecoder {
    /// At the beginning of a body.
    pub fn new(sender: Sender) -> ChunkDecoder {
        ChunkDecoder { state: State::Size { size: 0, digits: 0 }, sender, trailers: None }
    }

    /// See [`BodyDecoder::decode`]. One call gives at most one piece of data and reads on behind it as far as the
    /// framing goes, so that a body in one read takes one call.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, Reject> {
        let mut found = Decoded::default();
        while let Some(&byte) = input.get(found.consumed) {
            match self.state {
                State::Data { left } => {
                    if !found.data.is_empty() {
                        break;
                    }
                    let rest = input.len() - found.consumed;
                    let taken = usize::try_from(left).map_or(rest, |left| left.min(rest));
                    found.data = found.consumed..found.consumed + taken;
                    found.consumed += taken;
                    self.state = match left - taken as u64 {
                        0 => State::DataCr,
                        left => State::Data { left },
                    };
                    continue;
                }
                State::Trailers => {
                    found.consumed += self.collect_trailers(&input[found.consumed..])?;
                    continue;
                }
                State::Done => break,
                state => self.state = self.step(state, byte)?,
            }
            found.consumed += usize::from(self.state != State::Trailers);
        }
        found.end = self.state == State::Done;
        Ok(found)
    }

    /// One byte of framing.
    fn step(&self, state: State, byte: u8) -> Result<State, Reject> {
        match (state, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(BAD_SIZE)?;
                let size = size << 4 | u64::from(digit);
                if digits == 16 || size > i64::MAX as u64 {
                    return Err(BAD_SIZE);
                }
                Ok(State::Size { size, digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => Err(BAD_SIZE),
            (State::Size { size, .. }, b'\r') => Ok(State::SizeLf { size }),
            (State::Size { size, .. }, b';') => Ok(State::Extension { size, seen: 1, text: true }),
            (State::Size { size, .. }, b' ' | b'\t') if self.sender == Sender::Upstream => {
                Ok(State::Extension { size, seen: 1, text: false })
            }
            (State::Size { .. }, _) => Err(BAD_SIZE),
            (State::Extension { size, .. }, b'\r') => Ok(State::SizeLf { size }),
            (State::Extension { size, seen, text }, _) => {
                let allowed = match byte {
                    b'\t' | b' ' => true,
                    b';' => true,
                    0..=0x1f | 0x7f => false,
                    _ => text,
                };
                if !allowed || seen >= limits::CHUNK_EXTENSION {
                    return Err(Reject::bad("invalid or too long chunk extension"));
                }
                Ok(State::Extension { size, seen: seen + 1, text: text || byte == b';' })
            }
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::LastLine),
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataCr, _) => Err(Reject::bad("chunk longer than its size")),
            (State::DataLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::LastLine, b'\r') => Ok(State::LastLf),
            (State::LastLine, _) => Ok(State::Trailers),
            (State::LastLf, b'\n') => Ok(State::Done),
            _ => Err(BAD_LINE_END),
        }
    }

    /// Takes bytes up to the empty line behind the trailer fields and says how many it took.
    fn collect_trailers(&mut self, input: &[u8]) -> Result<usize, Reject> {
        let trailers = self.trailers.get_or_insert_default();
        let received = &mut trailers.received;
        for (at, &byte) in input.iter().enumerate() {
            if received.len() >= limits::TRAILERS {
                return Err(Reject::HEAD_TOO_LARGE);
            }
            if byte == b'\n' && received.last() != Some(&b'\r') {
                return Err(BAD_LINE_END);
            }
            received.push(byte);
            if received.ends_with(b"\r\n\r\n") {
                read_trailers(trailers)?;
                self.state = State::Done;
                return Ok(at + 1);
            }
        }
        Ok(input.len())
    }

    /// See [`BodyDecoder::trailers`].
    pub fn trailers(&self) -> Option<&Headers> {
        self.trailers.as_ref().map(|trailers| &trailers.fields)
    }
}

/// Whether a field may come as late as in a trailer section: framing, routing and authentication must not (RFC 9110 section
/// 6.5.1), nor what tells the upstream who a consumer is.
pub fn may_be_trailer(name: Name) -> bool {
    !matches!(
        name,
        Name::ContentLength
            | Name::TransferEncoding
            | Name::Trailer
            | Name::Host
            | Name::Connection
            | Name::KeepAlive
            | Name::Upgrade
            | Name::Te
            | Name::Expect
            | Name::ContentEncoding
            | Name::ContentType
            | Name::ContentRange
            | Name::Authorization
            | Name::ProxyAuthorization
            | Name::Cookie
            | Name::SetCookie
            | Name::XConsumerUsername
            | Name::XConsumerCustomId
            | Name::XCredentialIdentifier
    )
}

/// Reads the collected fields and drops those that must not come so late.
fn read_trailers(trailers: &mut Trailers) -> Result<(), Reject> {
    let Trailers { received, fields: kept } = trailers;
    kept.append_text(received);
    fields::read(received, 0, Rules::TRAILERS, kept).map_err(Reject::bad)?;
    kept.retain(|_, _, name| may_be_trailer(name));
    *received = Vec::new();
    Ok(())
}

/// Writes the line before a chunk of `size` bytes, which must not be zero; behind the chunk goes [`CHUNK_END`].
pub fn chunk_head(out: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let highest = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..highest).rev().map(|digit| DIGITS[size >> (digit * 4) & 15]));
    out.extend_from_slice(b"\r\n");
}

/// What goes behind the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Writes the end of a chunked body, with these trailer fields.
pub fn last_chunk<'a>(out: &mut Vec<u8>, trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    out.extend_from_slice(b"0\r\n");
    trailers.for_each(|(name, value)| super::write::header(out, name, value));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, what is behind the body, and the trailers, for pieces of the input as they come.
    type Read = (Vec<u8>, usize, Vec<(String, String)>);

    fn read(sender: Sender, pieces: &[&[u8]]) -> Result<Option<Read>, Reject> {
        let mut decoder = BodyDecoder::new(Framing::Chunked, sender);
        let (mut data, mut consumed) = (Vec::new(), 0);
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() {
                let found = decoder.decode(&piece[at..])?;
                assert!(found.consumed > 0);
                data.extend_from_slice(&piece[at..][found.data]);
                at += found.consumed;
                consumed += found.consumed;
                if found.end {
                    assert!(decoder.is_whole_at_close());
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let trailers = decoder.trailers().into_iter().flat_map(|fields| fields.iter());
                    let trailers = trailers.map(|(name, value, _)| (text(name), text(value))).collect();
                    return Ok(Some((data, consumed, trailers)));
                }
            }
        }
        assert!(!decoder.is_whole_at_close());
        Ok(None)
    }

    const VALID: &[(&str, &str)] = &[
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n00A\r\n, world...\r\n0\r\n\r\nGET /", "hello, world..."),
        ("2;a=\"b\" ; c\r\n\r\n\r\n000\r\n\r\n", "\r\n"),
        ("1\r\nx\r\n0;e\r\nA: 1\r\nb:2 \r\n\r\nrest", "x"),
        ("0000000000000001\r\nx\r\n0\r\n\r\n", "x"),
    ];

    #[test]
    fn decodes_however_it_is_cut() {
        for (text, data) in VALID {
            let text = text.as_bytes();
            let whole = read(Sender::Client, &[text]).unwrap().unwrap();
            assert_eq!(whole.0, data.as_bytes(), "{whole:?}");
            for at in 0..text.len() {
                let split = read(Sender::Client, &[&text[..at], &text[at..]]).unwrap().unwrap();
                assert_eq!(split, whole);
            }
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            assert_eq!(read(Sender::Client, &bytes).unwrap().unwrap(), whole);
        }
    }

    #[test]
    fn one_read_takes_one_call_and_leaves_the_next_message() {
        let mut decoder = ChunkDecoder::new(Sender::Client);
        let found = decoder.decode(b"5\r\nhello\r\n0\r\n\r\nGET").unwrap();
        assert_eq!(found, Decoded { data: 3..8, consumed: 15, end: true });
    }

    #[test]
    fn trailers_but_none_that_change_the_message() {
        let text =
            b"0\r\nX-Sum: 1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: b\r\nx: \r\n\r\n";
        let (_, consumed, trailers) = read(Sender::Client, &[text]).unwrap().unwrap();
        assert_eq!(consumed, text.len());
        assert_eq!(trailers, [("X-Sum".to_owned(), "1".to_owned()), ("x".to_owned(), String::new())]);
    }

    /// They are what the gateway says of a consumer: an upstream may take a trailer field for one of the head.
    #[test]
    fn no_trailer_says_who_a_consumer_is() {
        let text =
            b"0\r\nX-Consumer-Username: a\r\nx-consumer-custom-id: b\r\nX-CREDENTIAL-IDENTIFIER: c\r\n\
                     X-Consumer: d\r\n\r\n";
        for sender in [Sender::Client, Sender::Upstream] {
            let (_, consumed, trailers) = read(sender, &[text]).unwrap().unwrap();
            assert_eq!(consumed, text.len());
            assert_eq!(trailers, [("X-Consumer".to_owned(), "d".to_owned())]);
        }
    }

    #[test]
    fn refuses() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(limits::CHUNK_EXTENSION));
        let trailers = format!("0\r\nA: {}\r\n\r\n", "a".repeat(limits::TRAILERS));
        for text in [
            "\r\n",
            "g\r\n",
            "+5\r\n",
            "-5\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 \r\n",
            "5\t;a\r\n",
            ";a\r\n",
            "5\n",
            "5\r5",
            "5;a\n",
            "5;a\rb",
            "5;a\0b\r\n",
            "5_0\r\n",
            "fffffffffffffffff\r\n",
            "8000000000000000\r\n",
            "00000000000000001\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5\r\nhello\rX",
            "5\r\nhello0\r\n",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\nA : b\r\n\r\n",
            "0\r\n A: b\r\n\r\n",
            "0\r\nAb\r\n\r\n",
            "0\r\nA: b\rc\r\n\r\n",
            "0\r\nA: \0\r\n\r\n",
            "0\r\n\rX",
            &long,
            &trailers,
        ] {
            assert_eq!(
                read(Sender::Client, &[text.as_bytes()]).map_err(|reject| reject.status),
                Err(400),
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_upstream_may_pad_its_sizes() {
        let padded = b"5  \r\nhello\r\n0 ;a\r\n\r\n";
        assert_eq!(read(Sender::Upstream, &[padded]).unwrap().unwrap().0, b"hello");
        assert!(read(Sender::Upstream, &[b"5 5\r\nhello\r\n"]).is_err());
    }

    #[test]
    fn lengths_and_until_close() {
        let mut decoder = BodyDecoder::new(Framing::Length(5), Sender::Client);
        assert_eq!(decoder.decode(b"abc").unwrap(), Decoded { data: 0..3, consumed: 3, end: false });
        assert!(!decoder.is_whole_at_close());
        assert_eq!(decoder.decode(b"deGET").unwrap(), Decoded { data: 0..2, consumed: 2, end: true });
        assert!(decoder.is_whole_at_close());
        let mut decoder = BodyDecoder::new(Framing::None, Sender::Client);
        assert_eq!(decoder.decode(b"GET").unwrap(), Decoded { data: 0..0, consumed: 0, end: true });
        let mut decoder = BodyDecoder::new(Framing::UntilClose, Sender::Upstream);
        assert_eq!(decoder.decode(b"abc").unwrap(), Decoded { data: 0..3, consumed: 3, end: false });
        assert!(decoder.is_whole_at_close());
    }

    #[test]
    fn mutations_never_panic_and_split_alike() {
        let mut random = fastrand::Rng::with_seed(71);
        for _ in 0..40_000 {
            let mut text = random.choice(VALID).unwrap().0.as_bytes().to_vec();
            for _ in 0..random.usize(..3) {
                let at = random.usize(..text.len());
                match random.bool() {
                    true => text[at] = *random.choice(b"\r\n 0;1aF:x\0\xff").unwrap(),
                    false => drop(text.remove(at)),
                }
            }
            let at = random.usize(..=text.len());
            let whole = read(Sender::Client, &[&text]);
            assert_eq!(read(Sender::Client, &[&text[..at], &text[at..]]), whole, "{text:?} {at}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut random = fastrand::Rng::with_seed(72);
        let (mut text, mut sent) = (Vec::new(), Vec::new());
        for size in [1, 9, 15, 16, 17, 255, 256, 4096, 65_537] {
            let data: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
            chunk_head(&mut text, data.len());
            text.extend_from_slice(&data);
            text.extend_from_slice(CHUNK_END);
            sent.extend_from_slice(&data);
        }
        let mut trailers = Headers::default();
        trailers.add(b"grpc-status", b"0");
        last_chunk(&mut text, trailers.iter().map(|(name, value, _)| (name, value)));
        let (data, consumed, trailers) = read(Sender::Client, &[&text]).unwrap().unwrap();
        assert!(data == sent && consumed == text.len());
        assert_eq!(trailers, [("grpc-status".to_owned(), "0".to_owned())]);
    }
}
