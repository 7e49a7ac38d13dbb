//! What an exchange knows of HTTP/3: the request on a stream, head and body, and the way to answer on it.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::arriving::Arriving;
use super::{Body, BodyError};
use crate::limits;
use crate::reactor::Chunk;
use crate::transport::quic::{Connection, StreamId, Unwritten};
use crate::wire::h3::Code;
use crate::wire::h3::frame::{self, FrameReader, Item};
use crate::wire::h3::qpack::{self, Broken, FieldSection};
use crate::wire::h3::request::{are_trailers, fields};

/// One stream of a client: what both halves of it need.
pub struct Stream {
    /// Its connection.
    pub connection: Rc<Connection>,
    /// Which it is.
    pub id: StreamId,
    /// The answer was ended, or broken off.
    ended: Cell<bool>,
    /// The client has done on it what ends a connection.
    violated: Cell<bool>,
}

impl Stream {
    /// A stream that the client has opened.
    pub fn new(connection: Rc<Connection>, id: StreamId) -> Rc<Stream> {
        Rc::new(Stream { connection, id, ended: Cell::new(false), violated: Cell::new(false) })
    }

    /// Ready when the client wants no answer any more, or is gone.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.connection.poll_stopped(self.id, cx)
    }

    /// Writes what there is room for of `bytes`, which are advanced.
    pub fn poll_write(&self, bytes: &mut Chunk, cx: &mut Context<'_>) -> Poll<Result<(), Unwritten>> {
        while !bytes.is_empty() {
            let written = ready!(self.connection.poll_write(self.id, bytes, cx))?;
            bytes.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// The connection ends for what the client has done on this stream.
    pub fn is_violated(&self) -> bool {
        self.violated.get()
    }

    /// The answer is whole.
    pub fn finish(&self) {
        if !self.ended.replace(true) {
            self.connection.finish(self.id);
        }
    }

    /// The answer ends here, and is not whole.
    pub fn reset(&self, code: Code) {
        if !self.ended.replace(true) {
            self.connection.reset(self.id, code as u64);
        }
    }

    /// The exchange is over. Whoever forgets to end an answer must not make it look whole; what is left of the request
    /// is not wanted.
    pub fn close(&self) {
        self.reset(Code::InternalError);
        self.connection.stop(self.id, Code::NoError as u64);
        self.connection.forget(self.id);
    }

    /// The client waits for this before it sends its body.
    fn send_continue(&self) {
        let mut section = Vec::new();
        qpack::begin(&mut section);
        qpack::encode(b":status", b"100", &mut section);
        let mut out = Vec::new();
        frame::begin(frame::HEADERS, section.len(), &mut out);
        out.extend_from_slice(&section);
        // Nothing was written before it: if there is no room for some ten bytes, the client has given none at all.
        let mut out = Chunk::from_vec(out);
        let _ = self.poll_write(&mut out, &mut Context::from_waker(std::task::Waker::noop()));
    }

    /// What the client has done may not be: the connection ends.
    fn break_off(&self, code: Code) -> Broke {
        self.violated.set(true);
        self.connection.close(code as u64, "");
        Broke::Connection
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}

/// Why a request cannot be read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broke {
    /// The client has reset the stream, or is gone.
    Gone,
    /// The stream ended before its request.
    Incomplete,
    /// The request is malformed: its stream ends (RFC 9114 section 4.1.2).
    Message,
    /// Its fields are more than we take.
    TooLarge,
    /// The connection ends, and the client has been told why.
    Connection,
}

/// Reads the frames of a request.
pub struct RequestReader {
    stream: Rc<Stream>,
    frames: FrameReader,
    input: Bytes,
    stage: Stage,
    /// Fields may count so much.
    field_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Head,
    Body,
    Trailers,
    End,
}

/// What a request goes on with.
enum Part {
    Section(FieldSection),
    Data(Bytes),
    End,
}

impl RequestReader {
    /// Nothing of it has been read. Its fields, and those of its trailers, may count `field_bytes`.
    pub fn new(stream: Rc<Stream>, field_bytes: usize) -> RequestReader {
        RequestReader {
            stream,
            frames: FrameReader::default(),
            input: Bytes::new(),
            stage: Stage::Head,
            field_bytes,
        }
    }

    /// The fields that a request begins with.
    ///
    /// # Errors
    /// See [`Broke`].
    pub async fn head(&mut self) -> Result<FieldSection, Broke> {
        match std::future::poll_fn(|cx| self.poll_part(cx)).await? {
            Part::Section(section) => Ok(section),
            Part::Data(_) | Part::End => Err(Broke::Incomplete),
        }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Broke>> {
        loop {
            // the compressed form of fields is no longer than they count
            let item = self.frames.next(&mut self.input, self.field_bytes);
            match item.map_err(|code| self.stream.break_off(code))? {
                Some(item) => match self.part(item)? {
                    Some(part) => return Poll::Ready(Ok(part)),
                    None => continue,
                },
                None if self.stage == Stage::End => return Poll::Ready(Ok(Part::End)),
                None => {}
            }
            let Stream { connection, id, .. } = &*self.stream;
            match ready!(connection.poll_read(*id, limits::H3_READ, cx)) {
                Ok(Some(bytes)) => self.input = bytes,
                Ok(None) if !self.frames.is_between() => {
                    return Poll::Ready(Err(self.stream.break_off(Code::FrameError)));
                }
                Ok(None) if self.stage == Stage::Head => return Poll::Ready(Err(Broke::Incomplete)),
                Ok(None) => self.stage = Stage::End,
                Err(_) => return Poll::Ready(Err(Broke::Gone)),
            }
        }
    }

    /// Section 4.1: fields, data, perhaps fields.
    fn part(&mut self, item: Item) -> Result<Option<Part>, Broke> {
        let section = match item {
            Item::DataBegins if self.stage == Stage::Body => return Ok(None),
            Item::Data(bytes) => return Ok(Some(Part::Data(bytes))),
            Item::Frame(frame::HEADERS, section) => section,
            Item::DataBegins | Item::Frame(..) => return Err(self.stream.break_off(Code::FrameUnexpected)),
        };
        self.stage = match self.stage {
            Stage::Head => Stage::Body,
            Stage::Body => Stage::Trailers,
            Stage::Trailers | Stage::End => return Err(self.stream.break_off(Code::FrameUnexpected)),
        };
        match FieldSection::decode(&section, self.field_bytes) {
            Ok(section) => Ok(Some(Part::Section(section))),
            Err(Broken::TooLarge) => Err(Broke::TooLarge),
            Err(Broken::Malformed) => Err(self.stream.break_off(Code::DecompressionFailed)),
        }
    }

    /// The body behind the head, which has announced `length`, if it did. `timeout_ms` is between two reads; 0 is none.
    pub fn into_body(self, length: Option<u64>, timeout_ms: u32) -> H3Body {
        H3Body { reader: self, expects_continue: false, arriving: Arriving::new(length, timeout_ms) }
    }
}

/// A body that arrives on a stream. The client may send more as it is read.
pub struct H3Body {
    reader: RequestReader,
    /// The client waits for `100 Continue` before it sends.
    expects_continue: bool,
    /// How much has come.
    pub arriving: Arriving,
}

impl H3Body {
    /// The client asked for `100 Continue`: sent when the body is first wanted and none has come.
    pub fn expects_continue(mut self, yes: bool) -> Self {
        self.expects_continue = yes;
        self
    }

    /// Reads on as long as that needs no waiting: a request whose stream has ended already has no body.
    ///
    /// # Errors
    /// As reading it.
    pub fn settle(mut self) -> Result<Body, BodyError> {
        match self.poll_piece(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Ok(None)) if self.arriving.trailers().is_none() => return Ok(Body::Empty),
            Poll::Ready(Ok(piece)) => {
                self.arriving.bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
                self.arriving.again = piece;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => {}
        }
        Ok(Body::H3(Box::new(self)))
    }

    pub(super) fn is_done(&self) -> bool {
        self.arriving.again.is_none() && self.arriving.done
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, BodyError>> {
        if let Some(piece) = self.arriving.again.take() {
            return Poll::Ready(Ok(Some(piece)));
        }
        while !self.arriving.done {
            let part = match self.reader.poll_part(cx) {
                Poll::Ready(part) => part.map_err(|broke| self.broke(broke))?,
                Poll::Pending => return self.poll_late(cx),
            };
            match part {
                Part::Data(data) if data.is_empty() => {}
                Part::Data(data) => return Poll::Ready(self.counted(data).map(Some)),
                Part::Section(section) if !are_trailers(&section) => {
                    return Poll::Ready(Err(self.broke(Broke::Message)));
                }
                Part::Section(section) => self.arriving.take_trailers(fields(&section))?,
                // a body is as long as was said (section 4.1.2)
                Part::End if self.arriving.is_short() => {
                    return Poll::Ready(Err(self.broke(Broke::Message)));
                }
                Part::End => self.arriving.done = true,
            }
        }
        Poll::Ready(Ok(None))
    }

    fn counted(&mut self, data: Bytes) -> Result<Chunk, BodyError> {
        match self.arriving.count(data.len()) {
            Ok(()) => Ok(Chunk::from_bytes(data)),
            Err(BodyError::Malformed) => Err(self.broke(Broke::Message)),
            Err(error) => Err(error),
        }
    }

    fn broke(&mut self, broke: Broke) -> BodyError {
        if broke != Broke::Message {
            return BodyError::Closed;
        }
        self.reader.stream.reset(Code::MessageError);
        BodyError::Malformed
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, BodyError>> {
        if std::mem::take(&mut self.expects_continue) {
            self.reader.stream.send_continue();
        }
        self.arriving.poll_late(cx).map(Err)
    }
}
