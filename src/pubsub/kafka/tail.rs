//! A partition with subscribers: one fetch at a time for the whole node, each batch to all cores. On the Kafka thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rskafka::client::partition::{OffsetAt, PartitionClient};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::encode::{Trouble, batch};
use crate::limits;
use crate::mail::messaging::{FeedNews, Place};

/// Where a partition is followed to.
#[derive(Default)]
pub struct Tail {
    /// Cores with subscribers.
    cores: RefCell<Vec<mpsc::Sender<FeedNews>>>,
    /// The offset to be fetched next, once that is known.
    next: Cell<Option<i64>>,
}

impl Tail {
    /// A core more.
    pub fn join(&self, core: mpsc::Sender<FeedNews>) {
        if let Some(next) = self.next.get() {
            // its mailbox is empty yet
            let _ = core.try_send(FeedNews::Begun(next));
        }
        self.cores.borrow_mut().push(core);
    }

    /// Follows the partition while a core wants it. Brokers that die and return, and leaders that change, are waited
    /// for; a partition that is gone ends it.
    pub async fn run(self: Rc<Self>, cluster: Rc<Cluster>, place: Place) {
        let mut leader = None;
        let mut since = None;
        loop {
            self.cores.borrow_mut().retain(|core| !core.is_closed());
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
            self.tell(&FeedNews::Begun(end));
            return Ok(());
        };
        let fetch = leader.fetch_records(next, 1..limits::KAFKA_FETCH_BYTES, limits::KAFKA_TAIL_WAIT_MS);
        let (records, _) = timeout(patience, fetch).await.map_err(late)??;
        cluster.counts.fetched(&place.topic);
        if !records.is_empty() {
            let batch = Arc::new(batch(next, records));
            self.next.set(Some(batch.next));
            self.tell(&FeedNews::Messages(batch));
        }
        Ok(())
    }

    /// Tells all cores. One whose mail is full misses it, and its subscribers fetch what they lack.
    fn tell(&self, news: &FeedNews) {
        for core in &*self.cores.borrow() {
            let _ = core.try_send(news.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_waited_for_but_not_for_ever() {
        let tail = Tail::default();
        assert!(!tail.may_return(Duration::ZERO), "nobody has seen it yet");
        tail.next.set(Some(7));
        assert!(tail.may_return(Duration::from_millis(limits::KAFKA_GONE_MS - 1)));
        assert!(!tail.may_return(Duration::from_millis(limits::KAFKA_GONE_MS)));
    }
}
