//! What is new in one partition, for all its subscribers on this core: a window on the newest batches.
//!
//! A messaging system's thread fetches a partition once for the whole node and mails each batch to the cores that have
//! subscribers; the batch itself is shared. A subscriber that falls behind the window, or that finds a gap in it
//! because this core's mail was full, fetches for itself until it has caught up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};

use tokio::sync::{mpsc, oneshot};

use crate::limits;
use crate::mail::messaging::{Batch, FeedNews};
use crate::reactor;

/// The newest batches of one partition on this core, and who waits for the next.
pub struct Feed {
    window: RefCell<Window>,
    waiting: RefCell<Vec<Waker>>,
    /// Counts news: who has asked to be woken since the last need not ask again.
    news: Cell<u64>,
    /// When the last subscriber has gone, this ends the task that takes in the news.
    _ends: oneshot::Sender<()>,
}

/// Batches without gaps between them.
#[derive(Default)]
struct Window {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// The offset behind the last of them, once the feed has begun.
    end: Option<i64>,
    ended: Option<Arc<str>>,
}

/// What a feed has for an offset.
#[derive(Debug)]
pub enum Found {
    /// A batch with it.
    Batch(Arc<Batch>),
    /// It is the next to come.
    Next,
    /// It comes later, if it lies not behind the end of the partition.
    Later,
    /// It lies before the window, or the feed has not begun: fetch it.
    Elsewhere,
    /// Nothing will come any more, for this reason.
    Ended(Arc<str>),
}

impl Window {
    fn take(&mut self, news: FeedNews) {
        match news {
            FeedNews::Begun(at) => self.end = Some(at),
            FeedNews::Ended(reason) => self.ended = Some(reason),
            FeedNews::Messages(batch) => {
                if self.end != Some(batch.from) {
                    // some were left out: those before the gap are of no use to who comes to it
                    self.batches.clear();
                    self.bytes = 0;
                }
                self.end = Some(batch.next);
                self.bytes += batch.bytes();
                self.batches.push_back(batch);
                while self.bytes > limits::FEED_WINDOW_BYTES
                    || self.batches.len() > limits::FEED_WINDOW_BATCHES
                {
                    let Some(oldest) = self.batches.pop_front() else { break };
                    self.bytes -= oldest.bytes();
                }
            }
        }
    }

    fn at(&self, offset: i64) -> Found {
        if let Some(reason) = &self.ended {
            return Found::Ended(reason.clone());
        }
        let Some(end) = self.end else { return Found::Elsewhere };
        if offset >= end {
            return if offset == end { Found::Next } else { Found::Later };
        }
        let at = self.batches.partition_point(|batch| batch.next <= offset);
        match self.batches.get(at) {
            Some(batch) if batch.from <= offset => Found::Batch(batch.clone()),
            _ => Found::Elsewhere,
        }
    }
}

impl Feed {
    /// Takes in `news` until it is dropped.
    pub fn follow(news: mpsc::Receiver<FeedNews>) -> Rc<Feed> {
        let (ends, ended) = oneshot::channel();
        let feed = Rc::new(Feed::new(ends));
        reactor::spawn(take_in(news, ended, Rc::downgrade(&feed)));
        feed
    }

    /// Told nothing yet.
    pub(super) fn new(ends: oneshot::Sender<()>) -> Feed {
        Feed { window: RefCell::default(), waiting: RefCell::default(), news: Cell::new(1), _ends: ends }
    }

    /// What there is for `offset`.
    pub fn at(&self, offset: i64) -> Found {
        self.window.borrow().at(offset)
    }

    /// Nothing will come any more.
    pub fn is_over(&self) -> bool {
        self.window.borrow().ended.is_some()
    }

    /// How often there were news.
    pub fn news(&self) -> u64 {
        self.news.get()
    }

    /// Wakes `waker` at the next news. `asked` is of the caller alone.
    pub fn wake(&self, asked: &Cell<u64>, waker: &Waker) {
        if asked.replace(self.news.get()) != self.news.get() {
            self.waiting.borrow_mut().push(waker.clone());
        }
    }

    pub(super) fn take(&self, news: FeedNews) {
        self.window.borrow_mut().take(news);
        self.news.set(self.news.get() + 1);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// The task of a feed.
async fn take_in(mut news: mpsc::Receiver<FeedNews>, ended: oneshot::Receiver<()>, feed: Weak<Feed>) {
    let mut ended = pin!(ended);
    loop {
        let next = poll_fn(|cx| match ended.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => news.poll_recv(cx),
        });
        let Some(next) = next.await else { break };
        let Some(feed) = feed.upgrade() else { return };
        feed.take(next);
    }
    // the thread on the other side is gone, which subscribers must not wait for
    if let Some(feed) = feed.upgrade() {
        feed.take(FeedNews::Ended("the messaging system's thread has ended".into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(from: i64, messages: i64, bytes: usize) -> FeedNews {
        let ends = (0..messages).map(|n| (from + n, (n as u32 + 1) * bytes as u32)).collect();
        FeedNews::Messages(Arc::new(Batch::new(from, ends, vec![0; messages as usize * bytes].into())))
    }

    fn found(window: &Window, offset: i64) -> &'static str {
        match window.at(offset) {
            Found::Batch(batch) => {
                assert!(batch.from <= offset && offset < batch.next);
                "batch"
            }
            Found::Next => "next",
            Found::Later => "later",
            Found::Elsewhere => "elsewhere",
            Found::Ended(_) => "ended",
        }
    }

    #[test]
    fn a_window_knows_what_it_has() {
        let mut window = Window::default();
        assert_eq!(found(&window, 10), "elsewhere", "it has not begun");
        window.take(FeedNews::Begun(10));
        assert_eq!([9, 10, 11].map(|at| found(&window, at)), ["elsewhere", "next", "later"]);
        window.take(batch(10, 3, 5));
        window.take(batch(13, 2, 5));
        for (offset, expected) in [
            (9, "elsewhere"),
            (10, "batch"),
            (12, "batch"),
            (13, "batch"),
            (14, "batch"),
            (15, "next"),
            (16, "later"),
        ] {
            assert_eq!(found(&window, offset), expected, "{offset}");
        }
        window.take(FeedNews::Ended("over".into()));
        assert_eq!(found(&window, 12), "ended");
    }

    #[test]
    fn a_gap_is_to_be_fetched() {
        let mut window = Window::default();
        window.take(FeedNews::Begun(0));
        window.take(batch(0, 5, 5));
        window.take(batch(8, 2, 5)); // 5 to 7 were left out
        for (offset, expected) in [(2, "elsewhere"), (5, "elsewhere"), (8, "batch"), (10, "next")] {
            assert_eq!(found(&window, offset), expected, "{offset}");
        }
    }

    #[test]
    fn a_window_is_bounded() {
        let mut window = Window::default();
        window.take(FeedNews::Begun(0));
        for n in 0..3000 {
            window.take(batch(n, 1, 1));
        }
        assert_eq!(window.batches.len(), limits::FEED_WINDOW_BATCHES);
        for n in 3000..3100 {
            window.take(batch(n, 1, 1 << 20));
            assert!(window.bytes <= limits::FEED_WINDOW_BYTES);
        }
        assert_eq!(found(&window, 3099), "batch");
        assert_eq!(found(&window, 3000), "elsewhere");
        window.take(batch(3100, 1, limits::FEED_WINDOW_BYTES));
        assert_eq!((window.bytes, window.batches.len()), (0, 0), "one that is too large is fetched");
        assert_eq!(found(&window, 3100), "elsewhere");
    }
}
