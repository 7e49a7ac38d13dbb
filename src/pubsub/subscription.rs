//! One subscription: which offset is next, how many messages may go, and where they come from.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use std::future::Future;
use std::pin::Pin;

use super::feed::{Feed, Found};
use crate::limits;
use crate::mail::messaging::{Batch, Cut, Outcome};

/// A fetch under way.
pub type Fetching = Pin<Box<dyn Future<Output = Outcome<Arc<Batch>>>>>;

/// The state of one.
pub struct Subscription {
    /// The next offset.
    pub next: i64,
    /// Messages that may be sent before the client gives more.
    credit: u64,
    /// The newest messages.
    feed: Rc<Feed>,
    /// See [`Feed::wake`].
    asked: Cell<u64>,
    /// The last fetch has found nothing behind: only the feed can have more.
    at_end: bool,
    /// A broker has said that there is such an offset.
    proven: bool,
    /// Being sent.
    batch: Option<Arc<Batch>>,
    /// Fetches what the feed has no more.
    fetch: Box<dyn Fn(i64) -> Fetching>,
    fetching: Option<Fetching>,
}

impl Subscription {
    /// From the offset `next` on.
    pub fn new(next: i64, credit: i64, feed: Rc<Feed>, fetch: Box<dyn Fn(i64) -> Fetching>) -> Self {
        let credit = u64::try_from(credit).unwrap_or(0);
        Subscription {
            next,
            credit,
            feed,
            asked: Cell::new(0),
            at_end: false,
            proven: false,
            batch: None,
            fetch,
            fetching: None,
        }
    }

    /// The client takes so many messages more.
    pub fn give_credit(&mut self, messages: u64) {
        self.credit = self.credit.saturating_add(messages);
    }

    /// The next messages to be sent, as many as one frame takes. `Err`: the subscription is over.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<Cut>> {
        loop {
            if self.credit == 0 {
                return Poll::Pending; // the client's next command wakes the session
            }
            if let Some(batch) = &self.batch {
                let most = usize::try_from(self.credit).unwrap_or(usize::MAX);
                let cut = batch.cut(self.next, most, limits::PUBSUB_PUSH_BYTES);
                self.next = cut.next;
                if cut.next >= batch.next {
                    self.batch = None;
                }
                if cut.count > 0 {
                    self.credit -= cut.count as u64;
                    return Poll::Ready(Ok(cut));
                }
            } else if let Some(fetching) = &mut self.fetching {
                let fetched = ready!(fetching.as_mut().poll(cx));
                self.fetching = None;
                let batch = fetched?;
                self.at_end = batch.next == self.next;
                self.proven = true;
                self.batch = Some(batch);
            } else {
                ready!(self.poll_feed(cx))?;
            }
        }
    }

    /// Looks for the next offset in the feed; where it is not, begins a fetch.
    fn poll_feed(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<()>> {
        let found = self.feed.at(self.next);
        let is_known = match &found {
            Found::Batch(_) | Found::Next => true,
            Found::Later => self.proven,
            Found::Elsewhere => self.at_end,
            Found::Ended(reason) => return Poll::Ready(Err((**reason).into())),
        };
        self.at_end = false; // that holds until there are news
        match found {
            Found::Batch(batch) => self.batch = Some(batch),
            _ if is_known => {
                self.feed.wake(&self.asked, cx.waker());
                return Poll::Pending;
            }
            _ => self.fetching = Some((self.fetch)(self.next)),
        }
        Poll::Ready(Ok(()))
    }
}
