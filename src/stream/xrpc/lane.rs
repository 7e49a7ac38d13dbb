//! A connection to an upstream that many sessions share. What they send goes out in the order in which it comes, and in one
//! write a turn; answers come in that order, and each is put into the [`Inbox`] of its session. A session that has left
//! takes its answers with it: they are read and dropped. When the connection dies, each call that is not answered gets
//! the protocol's own words for that; nothing is sent again.
//!
//! An inbox is bounded. A client that takes its answers too slowly holds up those behind it, for a bounded time: then it is
//! cut off. Sessions that have nothing under way avoid a lane that is held up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::link::size_buffers;
use super::{Answers, Broken};
use crate::limits;
use crate::reactor::{self, Chunk};
use crate::transport::Stream;
use crate::transport::pieces::Pieces;

/// The connection.
pub struct Lane {
    stream: Rc<Stream>,
    /// It dies when an answer is awaited and nothing has come for so long, ms.
    idle_ms: u64,
    /// Whose answers come next.
    owed: RefCell<VecDeque<Owed>>,
    sessions: Cell<usize>,
    over: Cell<bool>,
    held_up: Cell<bool>,
    /// A part of the next answer was given to its session.
    midst: Cell<bool>,
    /// Those that come.
    pieces: Cell<Pieces>,
    reader: RefCell<Option<Waker>>,
    /// Sessions that wait until the upstream has taken what is queued.
    senders: RefCell<Vec<Waker>>,
}

/// Answers in a row for one session.
struct Owed {
    inbox: Rc<Inbox>,
    answers: usize,
}

/// The first of some bytes that came: one session's.
struct Share {
    inbox: Rc<Inbox>,
    bytes: usize,
    /// What is behind them.
    broken: Option<Broken>,
}

/// Answers on their way to one session.
#[derive(Default)]
struct Inbox {
    /// As it came; what comes behind it is copied, so that a slow client holds one receive buffer at most.
    piece: RefCell<Option<Chunk>>,
    more: RefCell<Vec<u8>>,
    session: RefCell<Option<Waker>>,
    /// The session has left, or was cut off.
    gone: Cell<bool>,
    /// Half an answer was put here, and the rest never comes.
    broken: Cell<bool>,
    /// It has held up others.
    slow: Cell<bool>,
}

impl Inbox {
    fn bytes(&self) -> usize {
        self.piece.borrow().as_ref().map_or(0, |piece| piece.len()) + self.more.borrow().len()
    }

    fn has_room(&self, bytes: usize) -> bool {
        let here = self.bytes();
        here == 0 || here + bytes <= limits::LANE_INBOX_BYTES
    }

    fn put(&self, chunk: Chunk) {
        if self.bytes() == 0 {
            self.piece.replace(Some(chunk));
        } else {
            self.more.borrow_mut().extend_from_slice(&chunk);
        }
        self.wake();
    }

    fn take(&self) -> Option<Chunk> {
        let piece = self.piece.borrow_mut().take();
        piece.or_else(|| {
            let more = std::mem::take(&mut *self.more.borrow_mut());
            (!more.is_empty()).then(|| Chunk::from_vec(more))
        })
    }

    fn wake(&self) {
        self.session.borrow_mut().take().into_iter().for_each(Waker::wake);
    }
}

impl Lane {
    /// Shares `stream`, whose answers `answers` tells apart.
    pub fn open(stream: Rc<Stream>, idle_ms: u64, answers: Box<dyn Answers>) -> Rc<Lane> {
        stream.set_recv_deadline(Some(reactor::now_ms() + limits::LANE_IDLE_MS));
        let lane = Rc::new(Lane {
            stream,
            idle_ms,
            owed: RefCell::default(),
            sessions: Cell::new(0),
            over: Cell::new(false),
            held_up: Cell::new(false),
            midst: Cell::new(false),
            pieces: Cell::default(),
            reader: RefCell::default(),
            senders: RefCell::default(),
        });
        reactor::spawn(lane.clone().read(answers));
        lane
    }

    /// A session comes.
    pub fn sit(self: &Rc<Lane>) -> Seat {
        self.sessions.set(self.sessions.get() + 1);
        Seat { lane: self.clone(), inbox: Rc::default() }
    }

    /// How many sessions it has.
    pub fn sessions(&self) -> usize {
        self.sessions.get()
    }

    /// It takes nothing more.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// A slow client holds it up.
    pub fn is_held_up(&self) -> bool {
        self.held_up.get()
    }

    /// Ready when the upstream has taken enough of what is queued.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.over.get() || self.stream.queued_bytes() < limits::LANE_QUEUE_BYTES {
            return Poll::Ready(());
        }
        self.senders.borrow_mut().push(cx.waker().clone());
        self.wake_reader();
        Poll::Pending
    }

    fn wake_reader(&self) {
        self.reader.borrow_mut().take().into_iter().for_each(Waker::wake);
    }

    fn push(&self, inbox: &Rc<Inbox>, piece: Chunk, answers: usize) {
        let mut owed = self.owed.borrow_mut();
        if owed.is_empty() {
            self.stream.set_recv_deadline(Some(reactor::now_ms() + self.idle_ms));
        }
        match owed.back_mut() {
            Some(last) if Rc::ptr_eq(&last.inbox, inbox) => last.answers += answers,
            _ if answers == 0 => {}
            _ => owed.push_back(Owed { inbox: inbox.clone(), answers }),
        }
        self.stream.send(piece);
    }

    /// Its task: reads to the end, and tells everybody of it.
    async fn read(self: Rc<Lane>, mut answers: Box<dyn Answers>) {
        loop {
            let chunk = match poll_fn(|cx| self.poll_recv(cx)).await {
                Ok(chunk) if chunk.is_empty() => {
                    log::info!("a shared connection was closed by its upstream");
                    break;
                }
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::TimedOut && self.owed.borrow().is_empty() => {
                    if self.sessions.get() == 0 {
                        break;
                    }
                    self.stream.set_recv_deadline(Some(reactor::now_ms() + limits::LANE_IDLE_MS));
                    continue;
                }
                Err(error) => {
                    log::error!("a shared connection to an upstream failed: {error}");
                    break;
                }
            };
            size_buffers(&self.stream, &self.pieces, chunk.len());
            if let Err(Broken(why)) = self.deliver(chunk, &mut *answers).await {
                log::error!("failed to handle upstream: {why}");
                break;
            }
            let idle_ms = if self.owed.borrow().is_empty() { limits::LANE_IDLE_MS } else { self.idle_ms };
            self.stream.set_recv_deadline(Some(reactor::now_ms() + idle_ms));
        }
        self.end(&*answers);
    }

    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        self.poll_senders(cx);
        self.stream.poll_recv(cx)
    }

    /// Lets those go on who wait until the upstream has taken what is queued.
    fn poll_senders(&self, cx: &mut Context<'_>) {
        self.reader.replace(Some(cx.waker().clone()));
        if !self.senders.borrow().is_empty() && self.stream.poll_flushed(cx).is_ready() {
            self.senders.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Gives each session its answers: those, too, that stand before bytes which are none.
    async fn deliver(&self, mut chunk: Chunk, answers: &mut dyn Answers) -> Result<(), Broken> {
        while !chunk.is_empty() {
            let Share { inbox, bytes, broken } = self.next_share(&chunk, answers)?;
            if bytes > 0 {
                self.put(&inbox, chunk.split_to(bytes)).await;
            }
            if let Some(broken) = broken {
                return Err(broken);
            }
        }
        Ok(())
    }

    /// Whose the first of these bytes are.
    fn next_share(&self, bytes: &[u8], answers: &mut dyn Answers) -> Result<Share, Broken> {
        let mut owed = self.owed.borrow_mut();
        let Some(next) = owed.front_mut() else {
            return Broken::because("an answer that nobody waits for");
        };
        let (mut at, mut whole, mut broken) = (0, 0, None);
        while next.answers > 0 {
            match answers.read(bytes, &mut at) {
                Ok(true) => {
                    next.answers -= 1;
                    whole = at;
                    self.midst.set(false);
                }
                Ok(false) => {
                    self.midst.set(!answers.is_between());
                    break;
                }
                Err(why) => {
                    (at, broken) = (whole, Some(why));
                    break;
                }
            }
        }
        let inbox = next.inbox.clone();
        if next.answers == 0 {
            owed.pop_front();
        }
        Ok(Share { inbox, bytes: at, broken })
    }

    async fn put(&self, inbox: &Inbox, piece: Chunk) {
        if !inbox.gone.get() && !inbox.has_room(piece.len()) {
            self.wait_for(inbox, piece.len()).await;
        }
        if !inbox.gone.get() {
            // a slow client with a small answer is not to hold a large buffer
            let copies = self.pieces.get().are_bulk() && piece.len() < limits::BULK_PIECE;
            inbox.put(if copies { Chunk::from_vec(piece.to_vec()) } else { piece });
        }
    }

    /// Waits until a slow client has taken some of its answers, or cuts it off.
    async fn wait_for(&self, inbox: &Inbox, bytes: usize) {
        inbox.slow.set(true);
        self.held_up.set(true);
        let mut patience = pin!(reactor::sleep_until(reactor::now_ms() + limits::LANE_HELD_UP_MS));
        let in_time = poll_fn(|cx| {
            self.poll_senders(cx);
            if inbox.gone.get() || inbox.has_room(bytes) {
                return Poll::Ready(true);
            }
            patience.as_mut().poll(cx).map(|()| false)
        })
        .await;
        self.held_up.set(false);
        if !in_time {
            log::warn!("a client takes its answers too slowly for a connection that it shares");
            inbox.gone.set(true);
            inbox.wake();
        }
    }

    fn end(&self, answers: &dyn Answers) {
        self.over.set(true);
        self.stream.shutdown_write();
        let mut midst = self.midst.get();
        for Owed { inbox, answers: unanswered } in self.owed.take() {
            if std::mem::take(&mut midst) {
                inbox.broken.set(true);
            } else if !inbox.gone.get() {
                inbox.more.borrow_mut().extend_from_slice(&answers.lost().repeat(unanswered));
            }
            inbox.wake();
        }
        self.senders.take().into_iter().for_each(Waker::wake);
    }
}

/// A session's place on a lane.
pub struct Seat {
    lane: Rc<Lane>,
    inbox: Rc<Inbox>,
}

impl Seat {
    /// Sends whole calls, which will have so many answers.
    ///
    /// # Errors
    /// The lane is over: nothing was sent, here is the piece.
    pub async fn send(&self, piece: Chunk, answers: usize) -> Result<(), Chunk> {
        poll_fn(|cx| self.lane.poll_room(cx)).await;
        if self.lane.over.get() {
            return Err(piece);
        }
        self.lane.push(&self.inbox, piece, answers);
        Ok(())
    }

    /// Answers.
    ///
    /// # Errors
    /// `ConnectionReset`: the rest of an answer never comes.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        // also for a session that goes on to send: it must hear that it is cut off
        self.inbox.session.replace(Some(cx.waker().clone()));
        if let Some(chunk) = self.inbox.take() {
            if self.lane.held_up.get() {
                self.lane.wake_reader();
            }
            return Poll::Ready(Ok(chunk));
        }
        if self.inbox.broken.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Pending
    }

    /// The session was too slow, and gets nothing more.
    pub fn is_cut_off(&self) -> bool {
        self.inbox.gone.get()
    }

    /// Nothing comes from here any more.
    pub fn is_over(&self) -> bool {
        self.lane.over.get() && self.inbox.bytes() == 0 && !self.inbox.broken.get()
    }

    /// The lane takes calls, without waiting for another client.
    pub fn is_free(&self) -> bool {
        !self.lane.over.get() && !self.lane.held_up.get()
    }

    /// The lane takes calls.
    pub fn is_open(&self) -> bool {
        !self.lane.over.get()
    }

    /// This session has held up others: it is better off alone.
    pub fn is_slow(&self) -> bool {
        self.inbox.slow.get()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.inbox.gone.set(true);
        self.inbox.take();
        self.lane.sessions.set(self.lane.sessions.get() - 1);
        if self.lane.held_up.get() {
            self.lane.wake_reader();
        }
    }
}
