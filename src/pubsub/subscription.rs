//! One subscription: which offset is next, how many messages may go, and where they come from.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

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
    /// A fetch that began when the feed had so many news has found nothing: before the next there is none.
    at_end: Option<u64>,
    /// A broker has said that there is such an offset.
    proven: bool,
    /// Being sent.
    batch: Option<Arc<Batch>>,
    /// Fetches what the feed has no more.
    fetch: Box<dyn Fn(i64) -> Fetching>,
    /// Under way, and how many news the feed had before.
    fetching: Option<(Fetching, u64)>,
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
            at_end: None,
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
            } else if let Some((fetching, news)) = &mut self.fetching {
                let fetched = ready!(fetching.as_mut().poll(cx));
                let news = *news;
                self.fetching = None;
                let batch = fetched?;
                self.at_end = (batch.next == self.next).then_some(news);
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
            Found::Elsewhere => self.at_end == Some(self.feed.news()),
            Found::Ended(reason) => return Poll::Ready(Err((**reason).into())),
        };
        match found {
            Found::Batch(batch) => self.batch = Some(batch),
            _ if is_known => {
                self.feed.wake(&self.asked, cx.waker());
                return Poll::Pending;
            }
            _ => self.fetching = Some(((self.fetch)(self.next), self.feed.news())),
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;
    use crate::mail::messaging::FeedNews;

    /// What fetches bring, one after the other, and from where they were asked.
    #[derive(Default)]
    struct Broker {
        says: RefCell<VecDeque<Outcome<Arc<Batch>>>>,
        asked: RefCell<Vec<i64>>,
    }

    fn batch(from: i64, messages: i64) -> Arc<Batch> {
        let ends = (0..messages).map(|n| (from + n, n as u32 + 1)).collect();
        Arc::new(Batch::new(from, ends, vec![0; messages as usize].into()))
    }

    fn subscription(next: i64, credit: i64) -> (Subscription, Rc<Feed>, Rc<Broker>) {
        let feed = Rc::new(Feed::new(tokio::sync::oneshot::channel().0));
        let broker = Rc::new(Broker::default());
        let asked = broker.clone();
        let fetch = move |offset| -> Fetching {
            asked.asked.borrow_mut().push(offset);
            Box::pin(std::future::ready(asked.says.borrow_mut().pop_front().expect("a fetch too many")))
        };
        (Subscription::new(next, credit, feed.clone(), Box::new(fetch)), feed, broker)
    }

    /// How many messages come now, and the next offset; `None`: it waits.
    fn poll(subscription: &mut Subscription) -> Option<Outcome<(usize, i64)>> {
        match subscription.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome.map(|cut| (cut.count, cut.next))),
            Poll::Pending => None,
        }
    }

    #[test]
    fn it_catches_up_and_then_follows() {
        let (mut one, feed, broker) = subscription(0, 1000);
        broker.says.borrow_mut().extend([Ok(batch(0, 5)), Ok(batch(5, 0))]);
        assert_eq!(poll(&mut one), Some(Ok((5, 5))));
        for _ in 0..3 {
            assert_eq!(poll(&mut one), None, "it asks once, whatever wakes it");
        }
        feed.take(FeedNews::Begun(5));
        assert_eq!(poll(&mut one), None);
        feed.take(FeedNews::Messages(batch(5, 2)));
        assert_eq!(poll(&mut one), Some(Ok((2, 7))));
        assert_eq!(poll(&mut one), None);
        // the mail was full for a moment: 7 to 8 are missing
        feed.take(FeedNews::Messages(batch(9, 1)));
        broker.says.borrow_mut().push_back(Ok(batch(7, 2)));
        assert_eq!([poll(&mut one), poll(&mut one)], [Some(Ok((2, 9))), Some(Ok((1, 10)))]);
        assert_eq!(*broker.asked.borrow(), [0, 5, 7]);
        feed.take(FeedNews::Ended("gone".into()));
        assert_eq!(poll(&mut one), Some(Err("gone".into())));
    }

    #[test]
    fn nothing_goes_beyond_the_credit() {
        let (mut one, feed, broker) = subscription(0, 0);
        feed.take(FeedNews::Begun(0));
        feed.take(FeedNews::Messages(batch(0, 10)));
        assert_eq!(poll(&mut one), None);
        one.give_credit(3);
        assert_eq!([poll(&mut one), poll(&mut one)], [Some(Ok((3, 3))), None]);
        one.give_credit(u64::MAX);
        one.give_credit(u64::MAX);
        assert_eq!(poll(&mut one), Some(Ok((7, 10))));
        assert!(broker.asked.borrow().is_empty());
    }

    #[test]
    fn an_offset_behind_the_end_is_asked_for_once() {
        let (mut one, feed, broker) = subscription(9, 10);
        feed.take(FeedNews::Begun(5));
        broker.says.borrow_mut().push_back(Err("OFFSET_OUT_OF_RANGE".into()));
        assert_eq!(poll(&mut one), Some(Err("OFFSET_OUT_OF_RANGE".into())));

        // the feed is late: there is such an offset
        let (mut one, feed, broker) = subscription(9, 10);
        feed.take(FeedNews::Begun(5));
        broker.says.borrow_mut().push_back(Ok(batch(9, 0)));
        assert_eq!([poll(&mut one), poll(&mut one)], [None, None]);
        feed.take(FeedNews::Messages(batch(5, 6)));
        assert_eq!(poll(&mut one), Some(Ok((2, 11))));
    }

    #[test]
    fn an_end_that_is_none_any_more_is_looked_at_again() {
        let (mut one, feed, broker) = subscription(5, 100);
        // while the fetch is under way, more comes than the window holds
        one.fetching = Some((Box::pin(std::future::ready(Ok(batch(5, 0)))), feed.news()));
        feed.take(FeedNews::Begun(5));
        feed.take(FeedNews::Messages(batch(8, 1)));
        broker.says.borrow_mut().push_back(Ok(batch(5, 3)));
        assert_eq!([poll(&mut one), poll(&mut one)], [Some(Ok((3, 8))), Some(Ok((1, 9)))]);
    }

    #[test]
    fn a_push_has_a_largest_size_unless_one_message_is_larger() {
        let (mut one, feed, _) = subscription(0, 1000);
        let message = limits::PUBSUB_PUSH_BYTES / 10;
        let ends: Vec<(i64, u32)> =
            (0..25).map(|n| (n, (n as usize + 1) * message)).map(|(n, end)| (n, end as u32)).collect();
        let large = 2 * limits::PUBSUB_PUSH_BYTES;
        let last = 25 * message + large;
        let ends = ends.into_iter().chain([(25, last as u32)]).collect();
        feed.take(FeedNews::Begun(0));
        feed.take(FeedNews::Messages(Arc::new(Batch::new(0, ends, vec![0; last].into()))));
        let pushed: Vec<_> = std::iter::from_fn(|| poll(&mut one)).map(|cut| cut.unwrap().0).collect();
        assert_eq!(pushed, [10, 10, 5, 1]);
    }
}
