//! What an exchange knows of HTTP/2: the body of a message on a stream, and the way to answer on one.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Buf;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Response, StatusCode};

use super::arriving::Arriving;
use super::{Body, BodyError, Side};
use crate::limits;
use crate::reactor::Chunk;

/// A piece of a body on its way into DATA frames.
pub struct Data(pub Chunk);

impl Buf for Data {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.0
    }

    fn advance(&mut self, n: usize) {
        self.0.advance(n);
    }
}

/// The way to answer on a client's stream, until the head of the answer has been sent.
pub struct Responder(RefCell<SendResponse<Data>>);

impl Responder {
    /// Of a stream that a client has opened.
    pub fn new(respond: SendResponse<Data>) -> Self {
        Responder(RefCell::new(respond))
    }

    /// The stream itself.
    pub fn stream(&self) -> RefMut<'_, SendResponse<Data>> {
        self.0.borrow_mut()
    }

    /// Ready when the client has reset the stream or its connection has ended. Not to be asked any more once the head
    /// of the answer has left.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow_mut().poll_reset(cx).map(drop)
    }

    /// The client waits for this before it sends its body.
    fn send_continue(&self) {
        let mut interim = Response::new(());
        *interim.status_mut() = StatusCode::CONTINUE;
        // a stream that was reset meanwhile tells when it is read
        let _ = self.0.borrow_mut().send_informational(interim);
    }
}

/// A body that arrives on a stream. What was handed out gives the sender new credit when the next piece is asked for:
/// by then the receiver has taken it.
pub struct H2Body {
    stream: RecvStream,
    /// Bytes handed out whose credit was not returned.
    taken: usize,
    /// All data has come; trailers may follow.
    data_ended: bool,
    side: Side,
    /// The client waits for `100 Continue` before it sends.
    expects_continue: Option<Rc<Responder>>,
    /// How much has come; the h2 crate holds the sender to the length that was announced.
    pub arriving: Arriving,
}

impl H2Body {
    /// The body behind a head that has announced `length`, if it did. `timeout_ms` is between two reads; 0 is none.
    pub fn new(stream: RecvStream, length: Option<u64>, side: Side, timeout_ms: u32) -> Self {
        let arriving = Arriving::new(length, timeout_ms);
        H2Body { stream, taken: 0, data_ended: false, side, expects_continue: None, arriving }
    }

    /// The client asked for `100 Continue`: sent when the body is first wanted.
    pub fn expects_continue(mut self, responder: Option<Rc<Responder>>) -> Self {
        self.expects_continue = responder;
        self
    }

    /// Whose body this is.
    pub fn side(&self) -> Side {
        self.side
    }

    pub(super) fn is_done(&self) -> bool {
        self.arriving.again.is_none() && (self.arriving.done || self.stream.is_end_stream())
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, BodyError>> {
        if let Some(piece) = self.arriving.again.take() {
            return Poll::Ready(Ok(Some(piece)));
        }
        if self.taken > 0 {
            // it fails for a stream that is over, whose credit is nobody's
            let _ = self.stream.flow_control().release_capacity(std::mem::take(&mut self.taken));
        }
        while !self.data_ended {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                Poll::Ready(Some(Ok(data))) => {
                    self.taken = data.len();
                    let counted = self.arriving.count(data.len());
                    return Poll::Ready(counted.map(|()| Some(Chunk::from_bytes(data))));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(BodyError::Closed)),
                Poll::Ready(None) => self.data_ended = true,
                Poll::Pending => return self.poll_late(cx),
            }
        }
        if self.arriving.done {
            return Poll::Ready(Ok(None));
        }
        match self.stream.poll_trailers(cx) {
            Poll::Ready(Ok(trailers)) => {
                self.arriving.done = true;
                if let Some(map) = trailers {
                    let fields = map.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
                    self.arriving.take_trailers(fields)?;
                }
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(BodyError::Closed)),
            Poll::Pending => self.poll_late(cx),
        }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, BodyError>> {
        if let Some(responder) = self.expects_continue.take() {
            responder.send_continue();
        }
        self.arriving.poll_late(cx).map(Err)
    }
}

/// A request's body while it is sent on a stream of an upstream. It ends with the exchange, which takes the body back:
/// an HTTP/1.1 connection goes on behind it.
pub struct Upload {
    body: RefCell<Body>,
    state: Cell<UploadState>,
    waker: RefCell<Option<Waker>>,
    /// What was taken of the body, while it may have to be sent again.
    taken: RefCell<Option<Vec<u8>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UploadState {
    Runs,
    Finished,
    Failed(BodyError),
    /// The upstream has taken nothing of it for too long.
    Late,
    Stopped,
}

impl Upload {
    /// Of this body. What is taken of it is kept behind `taken`, up to [`limits::REPLAY_BODY`] bytes.
    pub fn new(body: Body, taken: Option<Vec<u8>>) -> Self {
        Upload {
            body: RefCell::new(body),
            state: Cell::new(UploadState::Runs),
            waker: RefCell::default(),
            taken: RefCell::new(taken),
        }
    }

    /// A piece was taken of the body.
    pub fn remember(&self, piece: &[u8]) {
        let mut taken = self.taken.borrow_mut();
        if let Some(bytes) = &mut *taken {
            match bytes.len() + piece.len() <= limits::REPLAY_BODY {
                true => bytes.extend_from_slice(piece),
                false => *taken = None,
            }
        }
    }

    /// The request is answered, and never sent again.
    pub fn forget(&self) {
        self.taken.take();
    }

    /// The body, for one look or one poll.
    pub fn body(&self) -> RefMut<'_, Body> {
        self.body.borrow_mut()
    }

    /// Asked by its task at each poll.
    pub fn is_stopped(&self, cx: &Context<'_>) -> bool {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        self.state.get() == UploadState::Stopped
    }

    /// The body was sent to its end.
    pub fn finish(&self) {
        self.state.set(UploadState::Finished);
    }

    /// The client's body broke off.
    pub fn fail(&self, error: BodyError) {
        self.state.set(UploadState::Failed(error));
    }

    /// The upstream takes nothing more of it.
    pub fn give_up(&self) {
        self.state.set(UploadState::Late);
    }

    /// Was it given up?
    pub fn is_late(&self) -> bool {
        self.state.get() == UploadState::Late
    }

    /// Why it broke off, if it did.
    pub fn failure(&self) -> Option<BodyError> {
        match self.state.get() {
            UploadState::Failed(error) => Some(error),
            _ => None,
        }
    }

    fn stop(&self) -> Body {
        if self.state.get() == UploadState::Runs {
            self.state.set(UploadState::Stopped);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        self.body.take()
    }
}

/// A request on a stream of an upstream, until the exchange ends.
pub struct Call {
    /// Its body, where that did not go with the head.
    pub upload: Option<Rc<Upload>>,
    /// Its stream counts on its connection.
    pub open: Open,
}

/// The calls of a connection.
#[derive(Default)]
pub struct Calls {
    open: Cell<u32>,
    broken_off: Cell<u32>,
}

impl Calls {
    /// Those under way.
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    /// Those that have ended before their answer did.
    pub fn broken_off(&self) -> u32 {
        self.broken_off.get()
    }
}

/// Counts a call of a connection from its beginning to its end, however it ends.
pub struct Open {
    calls: Rc<Calls>,
    whole: bool,
}

impl Open {
    /// One more.
    pub fn new(calls: &Rc<Calls>) -> Self {
        calls.open.set(calls.open.get() + 1);
        Open { calls: calls.clone(), whole: false }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.calls.open.set(self.calls.open.get() - 1);
        self.calls.broken_off.set(self.calls.broken_off.get() + u32::from(!self.whole));
    }
}

impl Call {
    /// Nothing more is sent. What is left of the body is given back. `whole`: the answer was received to its end.
    pub fn end(mut self, whole: bool) -> Option<Body> {
        self.open.whole = whole;
        self.upload.take().map(|upload| upload.stop())
    }

    /// There is no answer. What is left of the body, and all that was taken of it if that was kept.
    pub fn take_back(mut self) -> Option<(Body, Option<Vec<u8>>)> {
        self.upload.take().map(|upload| (upload.stop(), upload.taken.take()))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            drop(upload.stop());
        }
    }
}
