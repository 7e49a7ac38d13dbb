//! A partition with subscribers: one fetch at a time for the whole node, each batch to all cores. On the Kafka thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rskafka::client::partition::{OffsetAt, PartitionClient};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::encode::{Trouble, batch};
use super::past;
use crate::limits;
use crate::mail::messaging::{Batch, FeedNews, Place};

/// A core with subscribers.
struct Listener {
    mail: mpsc::Sender<FeedNews>,
    /// Its mail was full, and it has not heard since where the partition ends.
    lags: Cell<bool>,
}

/// Where a partition is followed to.
#[derive(Default)]
pub struct Tail {
    cores: RefCell<Vec<Listener>>,
    /// The offset to be fetched next, once that is known.
    next: Cell<Option<i64>>,
    /// The offset behind what the cores were told of; between the two there is no message.
    told: Cell<i64>,
}

impl Tail {
    /// A core more.
    pub fn join(&self, mail: mpsc::Sender<FeedNews>) {
        if self.next.get().is_some() {
            // its mailbox is empty yet
            let _ = mail.try_send(FeedNews::Begun(self.told.get()));
        }
        self.cores.borrow_mut().push(Listener { mail, lags: Cell::new(false) });
    }

    /// Follows the partition while a core wants it. Brokers that die and return, and leaders that change, are waited
    /// for; a partition that is gone ends it.
    pub async fn run(self: Rc<Self>, cluster: Rc<Cluster>, place: Place) {
        let mut leader = None;
        let mut since = None;
        loop {
            self.cores.borrow_mut().retain(|core| !core.mail.is_closed());
            self.remind();
            if self.cores.borrow().is_empty() {
                cluster.tails.borrow_mut().remove(&place);
                return;
            }
            let Err(trouble) = self.step(&cluster, &place, &mut leader).await else {
                since = None;
                continue;
            };
            let lost = since.get_or_insert_with(Instant::now).elapsed();
            match trouble {
                Trouble::Unreachable | Trouble::Broken(_) if self.may_return(lost) => {
                    log::info!(
                        "partition {} of {} is tried again: {trouble:?}",
                        place.partition,
                        place.topic
                    );
                    leader = None;
                    cluster.forget(&place).await;
                    sleep(Duration::from_millis(limits::KAFKA_TAIL_PAUSE_MS)).await;
                }
                trouble => {
                    cluster.tails.borrow_mut().remove(&place);
                    let reason = format!(
                        "failed to subscribe, topic: {}, partition: {}, err: {}",
                        place.topic,
                        place.partition,
                        trouble.text()
                    );
                    return self.tell(&FeedNews::Ended(reason.into()));
                }
            }
        }
    }

    /// Brokers that cannot be reached since `lost` are waited for: where nothing was followed yet, and after too long, the
    /// subscribers are told instead.
    fn may_return(&self, lost: Duration) -> bool {
        self.next.get().is_some() && lost < Duration::from_millis(limits::KAFKA_GONE_MS)
    }

    /// One fetch, and what must be before it.
    async fn step(
        &self,
        cluster: &Cluster,
        place: &Place,
        leader: &mut Option<PartitionClient>,
    ) -> Result<(), Trouble> {
        let leader = match leader {
            Some(leader) => leader,
            None => leader.insert(cluster.open(place).await?),
        };
        let patience = Duration::from_millis(limits::KAFKA_CALL_MS);
        let late = |_| Trouble::Broken("timeout".into());
        let Some(next) = self.next.get() else {
            let end = timeout(patience, leader.get_offset(OffsetAt::Latest)).await.map_err(late)??;
            self.next.set(Some(end));
            self.told.set(end);
            self.tell(&FeedNews::Begun(end));
            return Ok(());
        };
        let fetch = past::records(leader, next, 1, limits::KAFKA_TAIL_WAIT_MS);
        let (next, records) = timeout(patience, fetch).await.map_err(late)??;
        cluster.counts.fetched(&place.topic);
        self.next.set(Some(next));
        if !records.is_empty() {
            self.publish(batch(self.told.get(), next, records));
        }
        Ok(())
    }

    /// What came is for all cores.
    fn publish(&self, batch: Batch) {
        self.next.set(Some(batch.next));
        self.told.set(batch.next);
        self.tell(&FeedNews::Messages(Arc::new(batch)));
    }

    /// Tells all cores. One whose mail is full misses it, and its subscribers fetch what they lack.
    fn tell(&self, news: &FeedNews) {
        for core in &*self.cores.borrow() {
            if let Err(TrySendError::Full(_)) = core.mail.try_send(news.clone()) {
                core.lags.set(true);
            }
        }
    }

    /// Tells those that have missed something where the partition ends: their subscribers must not wait for the next
    /// message to see that they lack some.
    fn remind(&self) {
        for core in self.cores.borrow().iter().filter(|core| core.lags.get()) {
            core.lags.set(core.mail.try_send(FeedNews::Begun(self.told.get())).is_err());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::feed::{Feed, Found};

    fn one_message(offset: i64) -> Batch {
        Batch::new(offset, vec![(offset, 1)], vec![0].into())
    }

    #[test]
    fn who_missed_the_end_of_a_burst_is_told_without_another_message() {
        let tail = Tail::default();
        tail.next.set(Some(0));
        let (core, mut mail) = mpsc::channel(limits::FEED_MAIL);
        tail.join(core);
        let burst = limits::FEED_MAIL as i64 + 3;
        (0..burst).for_each(|offset| tail.publish(one_message(offset)));
        tail.remind();
        let feed = Feed::new(tokio::sync::oneshot::channel().0);
        let mut take_in = || {
            let news = std::iter::from_fn(|| mail.try_recv().ok()).map(|news| feed.take(news));
            news.count()
        };
        assert_eq!(take_in(), limits::FEED_MAIL);
        // where the core has got to there is more, which nobody will send again
        let next = limits::FEED_MAIL as i64 - 1;
        assert!(matches!(feed.at(next - 1), Found::Batch(_)) && matches!(feed.at(next), Found::Next));
        tail.remind();
        assert_eq!(take_in(), 1);
        assert!(matches!(feed.at(next), Found::Elsewhere), "a subscriber fetches it");
        assert!(matches!(feed.at(burst), Found::Next));
        tail.remind();
        assert_eq!(take_in(), 0, "once is enough");
        // and what comes then goes on behind it
        tail.publish(one_message(burst));
        assert_eq!(take_in(), 1);
        assert!(matches!(feed.at(burst), Found::Batch(_)) && matches!(feed.at(burst - 1), Found::Elsewhere));
    }

    #[test]
    fn brokers_are_waited_for_but_not_for_ever() {
        let tail = Tail::default();
        assert!(!tail.may_return(Duration::ZERO), "nobody has seen it yet");
        tail.next.set(Some(7));
        assert!(tail.may_return(Duration::from_millis(limits::KAFKA_GONE_MS - 1)));
        assert!(!tail.may_return(Duration::from_millis(limits::KAFKA_GONE_MS)));
    }
}
