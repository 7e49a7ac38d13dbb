//! A message body as a stream of owned pieces, whatever it comes from. Asking for the next piece is
//! what arms the next read: a slow receiver slows its sender.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::h2::H2Body;
use super::h3::H3Body;
use crate::limits;
use crate::reactor::{Arrived, Chunk, Piped};
use crate::transport::Stream;
use crate::wire::headers::Headers;
use crate::wire::http::{BodyDecoder, Framing, Sender};

/// Whose fault a broken body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The client's: it gets the status.
    Client,
    /// The upstream's: the answer is cut off.
    Upstream,
}

/// Why a body ended before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyError {
    /// No data in time: 408 for a client.
    Timeout,
    /// The connection ended within the body.
    Closed,
    /// Not what the framing allows: 400 for a client.
    Malformed,
    /// Longer than `client_max_body_size`: 413.
    TooLarge,
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => BodyError::Timeout,
            _ => BodyError::Closed,
        }
    }
}

/// A piece of a body on its way through body filters.
pub struct BodyPiece {
    /// The bytes; a filter may replace them.
    pub data: Chunk,
    /// No more follow.
    pub last: bool,
}

/// A message body.
#[derive(Default)]
pub enum Body {
    /// None, or read to its end.
    #[default]
    Empty,
    /// In memory.
    Buffered(VecDeque<Chunk>),
    /// Arriving on an HTTP/1.1 connection.
    H1(H1Body),
    /// Arriving on a stream of an HTTP/2 connection.
    H2(Box<H2Body>),
    /// Arriving on a stream of an HTTP/3 connection.
    H3(Box<H3Body>),
}

/// A body that arrives on an HTTP/1.1 connection.
pub struct H1Body {
    stream: Rc<Stream>,
    decoder: BodyDecoder,
    /// The decoder has seen the end.
    done: bool,
    /// Bytes that arrived and are not decoded yet.
    ready: Option<Chunk>,
    side: Side,
    /// Time between two reads, ms; 0 is none.
    timeout_ms: u32,
    /// A read is under way since the deadline was set.
    waiting: bool,
    /// The rest comes unseen.
    unseen: bool,
    /// The client waits for `100 Continue` before it sends.
    expects_continue: bool,
    /// Longest body accepted; 0 is any.
    max_bytes: u64,
    /// What was read ahead, to be read again.
    again: Option<Chunk>,
    /// Bytes of body so far.
    bytes: u64,
    /// Bytes around them: sizes of chunks, ends of lines, trailers.
    framing_bytes: u64,
}

impl H1Body {
    /// A body framed so on `stream`; `ready` is what came with the head.
    pub fn new(
        stream: Rc<Stream>,
        framing: Framing,
        ready: Option<Chunk>,
        side: Side,
        timeout_ms: u32,
    ) -> Self {
        let sender = if side == Side::Client { Sender::Client } else { Sender::Upstream };
        H1Body {
            stream,
            decoder: BodyDecoder::new(framing, sender),
            done: false,
            ready,
            side,
            timeout_ms,
            waiting: false,
            unseen: false,
            expects_continue: false,
            max_bytes: 0,
            again: None,
            bytes: 0,
            framing_bytes: 0,
        }
    }

    /// The client asked for `100 Continue`: sent when the body is first wanted and none has come.
    pub fn expects_continue(mut self, yes: bool) -> Self {
        self.expects_continue = yes && self.ready.is_none();
        self
    }

    /// The final answer has left: behind it the client is not told to go on (RFC 9110 section 10.1.1).
    pub fn answered(&mut self) {
        self.expects_continue = false;
    }

    /// Refuse bodies longer than `bytes`; 0 allows any.
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Bytes that belong to what follows the body, once it has ended.
    pub fn rest(&mut self) -> Option<Chunk> {
        self.ready.take().filter(|chunk| !chunk.is_empty())
    }

    /// Trailers, once the body has ended.
    pub fn trailers(&self) -> Option<&Headers> {
        self.decoder.trailers()
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, BodyError>> {
        if let Some(piece) = self.again.take() {
            return Poll::Ready(Ok(Some(piece)));
        }
        loop {
            if let Some(piece) = self.decode()? {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.done {
                return Poll::Ready(Ok(None));
            }
            let chunk = std::task::ready!(self.poll_recv(cx))?;
            if chunk.is_empty() {
                if !self.decoder.is_whole_at_close() {
                    return Poll::Ready(Err(BodyError::Closed));
                }
                self.done = true;
                return Poll::Ready(Ok(None));
            }
            self.ready = Some(chunk);
        }
    }

    /// The next data among the bytes that are there.
    fn decode(&mut self) -> Result<Option<Chunk>, BodyError> {
        while !self.done {
            let Some(mut chunk) = self.ready.take() else { return Ok(None) };
            let step = self.decoder.decode(&chunk).map_err(|_| BodyError::Malformed)?;
            self.done = step.end;
            self.framing_bytes += (step.consumed - step.data.len()) as u64;
            let mut piece = chunk.split_to(step.consumed);
            self.ready = Some(chunk).filter(|chunk| !chunk.is_empty());
            if step.data.is_empty() {
                continue;
            }
            self.bytes += step.data.len() as u64;
            if self.max_bytes != 0 && self.bytes > self.max_bytes {
                return Err(BodyError::TooLarge);
            }
            piece.truncate(step.data.end);
            piece.advance(step.data.start);
            return Ok(Some(piece));
        }
        Ok(None)
    }

    /// As `poll_piece`, for somebody who passes the body on as it is: where many bytes are to come, they stay in the kernel.
    fn poll_unseen(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Arrived>, BodyError>> {
        if self.again.is_none()
            && self.ready.is_none()
            && let BodyDecoder::Length(left @ 1..) = self.decoder
            && (left >= limits::PIPED_BODY || self.unseen)
            && self.stream.plain().is_some()
        {
            self.unseen = true;
            match std::task::ready!(self.poll_piped(cx, left))? {
                Arrived::Piped(piped) => return Poll::Ready(self.pass(piped).map(Some)),
                Arrived::Chunk(chunk) if chunk.is_empty() => return Poll::Ready(Err(BodyError::Closed)),
                Arrived::Chunk(chunk) => self.ready = Some(chunk),
            }
        }
        self.poll_piece(cx).map_ok(|piece| piece.map(Arrived::Chunk))
    }

    fn poll_piped(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<Result<Arrived, BodyError>> {
        self.begin_wait();
        let Some(tcp) = self.stream.plain() else { return Poll::Ready(Err(BodyError::Closed)) };
        let arrived = std::task::ready!(tcp.poll_piped(cx, most));
        self.waiting = false;
        Poll::Ready(arrived.map_err(BodyError::from))
    }

    /// Counts what comes by unseen.
    fn pass(&mut self, piped: Piped) -> Result<Arrived, BodyError> {
        let bytes = piped.len() as u64;
        if let BodyDecoder::Length(left) = &mut self.decoder {
            *left = left.saturating_sub(bytes);
            self.done = *left == 0;
        }
        self.bytes += bytes;
        match self.max_bytes != 0 && self.bytes > self.max_bytes {
            true => Err(BodyError::TooLarge),
            false => Ok(Arrived::Piped(piped)),
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, BodyError>> {
        if self.begin_wait() {
            self.stream.expect_bulk(self.is_large());
        }
        let result = std::task::ready!(self.stream.poll_recv(cx));
        self.waiting = false;
        Poll::Ready(result.map_err(BodyError::from))
    }

    /// Something is to be received now. `true`: it was not before.
    fn begin_wait(&mut self) -> bool {
        if !self.waiting {
            self.waiting = true;
            if std::mem::take(&mut self.expects_continue) {
                self.stream.send(b"HTTP/1.1 100 Continue\r\n\r\n".as_slice());
            }
            let deadline =
                (self.timeout_ms != 0).then(|| crate::reactor::now_ms() + u64::from(self.timeout_ms));
            self.stream.set_recv_deadline(deadline);
            return true;
        }
        false
    }

    /// Is much more to come? Where the length is not known, what has come tells.
    fn is_large(&self) -> bool {
        match &self.decoder {
            BodyDecoder::Length(left) => *left > limits::BULK_BODY,
            _ => self.bytes > limits::BULK_BODY,
        }
    }

    /// Whose body this is.
    pub fn side(&self) -> Side {
        self.side
    }
}

impl Body {
    /// These bytes.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Body::Empty } else { Body::Buffered(VecDeque::from([Chunk::from_vec(bytes)])) }
    }

    /// These bytes, not copied.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        if bytes.is_empty() {
            Body::Empty
        } else {
            Body::Buffered(VecDeque::from([Chunk::from_static(bytes)]))
        }
    }

    /// What is left of it, where that is known before it is read.
    pub fn known_length(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Buffered(chunks) => Some(chunks.iter().map(|chunk| chunk.len() as u64).sum()),
            Body::H1(body) => {
                let again = body.again.as_ref().map_or(0, |again| again.len() as u64);
                match &body.decoder {
                    _ if body.done => Some(again),
                    BodyDecoder::Length(left) => Some(again + left),
                    _ => None,
                }
            }
            Body::H2(body) => body.arriving.known_length(),
            Body::H3(body) => body.arriving.known_length(),
        }
    }

    /// The next piece is the end, and is there.
    pub fn is_done(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Buffered(chunks) => chunks.is_empty(),
            Body::H1(body) => body.done && body.again.is_none(),
            Body::H2(body) => body.is_done(),
            Body::H3(body) => body.is_done(),
        }
    }

    /// It ended where its framing said, and nothing came behind it.
    pub fn ended_clean(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Buffered(_) => false,
            Body::H1(body) => body.done && body.ready.is_none(),
            Body::H2(body) => body.is_done(),
            Body::H3(body) => body.is_done(),
        }
    }

    /// Bytes of it that have arrived so far, with their framing in HTTP/1; 0 of one in memory. What an upstream has sent
    /// behind it counts, too; what a client has is its next request.
    pub fn arrived_bytes(&self) -> u64 {
        match self {
            Body::H1(body) => {
                let behind = body.ready.as_ref().filter(|_| body.side == Side::Upstream);
                body.bytes + body.framing_bytes + behind.map_or(0, |chunk| chunk.len() as u64)
            }
            Body::H2(body) => body.arriving.bytes,
            Body::H3(body) => body.arriving.bytes,
            Body::Empty | Body::Buffered(_) => 0,
        }
    }

    /// Trailer fields, once the end is reached.
    pub fn trailers(&self) -> Option<&Headers> {
        match self {
            Body::H1(body) => body.trailers(),
            Body::H2(body) => body.arriving.trailers(),
            Body::H3(body) => body.arriving.trailers(),
            Body::Empty | Body::Buffered(_) => None,
        }
    }

    /// The next piece; `None` at the end. The body is [`Body::Empty`] no earlier than its owner says.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, BodyError>> {
        match self {
            Body::Empty => Poll::Ready(Ok(None)),
            Body::Buffered(chunks) => Poll::Ready(Ok(chunks.pop_front())),
            Body::H1(body) => body.poll_piece(cx),
            Body::H2(body) => body.poll_piece(cx),
            Body::H3(body) => body.poll_piece(cx),
        }
    }

    /// As [`Body::poll_piece`], for somebody who passes all of it on as it is, to a plain connection.
    pub fn poll_unseen(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Arrived>, BodyError>> {
        match self {
            Body::H1(body) => body.poll_unseen(cx),
            _ => self.poll_piece(cx).map_ok(|piece| piece.map(Arrived::Chunk)),
        }
    }

    /// Reads the first `most` bytes, or fewer where the body ends before, and leaves all of it to be read again.
    pub async fn peek(&mut self, most: usize) -> Result<Vec<u8>, BodyError> {
        let mut bytes = Vec::new();
        let mut failed = None;
        while bytes.len() < most {
            match self.piece().await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.unread(&bytes);
        bytes.truncate(most);
        failed.map_or(Ok(bytes), Err)
    }

    /// Puts bytes that were read back in front.
    fn unread(&mut self, bytes: &[u8]) {
        let again = (!bytes.is_empty()).then(|| Chunk::from_vec(bytes.to_vec()));
        match self {
            Body::Empty => {}
            Body::Buffered(chunks) => again.into_iter().for_each(|again| chunks.push_front(again)),
            Body::H1(body) => body.again = again,
            Body::H2(body) => body.arriving.again = again,
            Body::H3(body) => body.arriving.again = again,
        }
    }

    /// Reads the whole body, and leaves it to be read again. `None`: it is longer than `most` bytes, or its
    /// client would not send more than that at all; what was read of it stays to be read, too.
    pub async fn read_ahead(&mut self, most: usize) -> Result<Option<Vec<u8>>, BodyError> {
        if self.known_length().is_some_and(|length| length > most as u64) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > most {
                break;
            }
        }
        self.unread(&bytes);
        Ok((bytes.len() <= most).then_some(bytes))
    }

    /// Other bytes in place of what [`Body::read_ahead`] has read to the end.
    pub fn replace(&mut self, bytes: Vec<u8>) {
        match self {
            Body::H1(body) => body.again = Some(Chunk::from_vec(bytes)),
            Body::H2(body) => body.arriving.again = Some(Chunk::from_vec(bytes)),
            Body::H3(body) => body.arriving.again = Some(Chunk::from_vec(bytes)),
            Body::Empty | Body::Buffered(_) => *self = Body::from_vec(bytes),
        }
    }

    /// From now on no more than `max_bytes` of it are accepted; 0 is any number.
    pub fn limit(&mut self, max_bytes: u64) {
        match self {
            Body::H1(body) => body.max_bytes = max_bytes,
            Body::H2(body) => body.arriving.max_bytes = max_bytes,
            Body::H3(body) => body.arriving.max_bytes = max_bytes,
            Body::Empty | Body::Buffered(_) => {}
        }
    }

    /// Waits for the next piece.
    pub async fn piece(&mut self) -> Result<Option<Chunk>, BodyError> {
        std::future::poll_fn(|cx| self.poll_piece(cx)).await
    }
}
