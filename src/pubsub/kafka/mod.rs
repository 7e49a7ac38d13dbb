//! Kafka: the commands list-offset, fetch and subscribe (apisix/pubsub/kafka.lua).
//!
//! rskafka needs tokio, so its clients live on a [thread] of their own; cores mail it what they want and get batches
//! that are encoded already. What is here runs on a core.

mod cluster;
mod counts;
mod encode;
mod past;
mod tail;
mod thread;

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use tokio::sync::{mpsc, oneshot};

use super::feed::Feed;
use super::subscription::Subscription;
use super::{Pending, Reply};
use crate::exchange::Exchange;
use crate::limits;
use crate::live::LiveUpstream;
use crate::mail::messaging::{Ask, Cluster, Outcome, Place, ToKafka};
use crate::telemetry::metrics::Metrics;
use crate::wire::pubsub::{Answer, Command, Offset};

/// Kafka's port, for nodes that name none.
const PORT: u16 = 9092;

/// Times of list-offset that mean places.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Feeds by cluster and partition.
type Feeds = AHashMap<(Arc<Cluster>, Place), Weak<Feed>>;

/// What sessions of one core share.
#[derive(Default)]
pub struct Hub {
    /// Clusters by what they are, so that sessions of one route hold one.
    clusters: RefCell<AHashSet<Arc<Cluster>>>,
    /// Partitions with subscribers on this core.
    feeds: RefCell<Feeds>,
}

/// Kafka behind one session.
pub struct Kafka {
    hub: Rc<super::Hub>,
    cluster: Arc<Cluster>,
}

impl Kafka {
    /// The brokers are the upstream's nodes, the login is what a plugin has put into the exchange.
    pub fn new(
        hub: &Rc<super::Hub>,
        upstream: &LiveUpstream,
        ex: &Exchange,
        metrics: &Arc<Metrics>,
    ) -> Kafka {
        thread::start(metrics);
        let conf = &upstream.conf;
        let brokers = conf.nodes.iter().map(|node| {
            let port = node.port.unwrap_or(PORT);
            match node.host.contains(':') && !node.host.starts_with('[') {
                true => format!("[{}]:{port}", node.host).into(),
                false => format!("{}:{port}", node.host).into(),
            }
        });
        let tls = upstream.tls.bare.as_ref().map(|client| client.config());
        let tls_as_written = conf.tls.as_ref().map(|tls| tls.to_string()).unwrap_or_default();
        let login = ex.out.login.as_deref().cloned();
        let cluster = Cluster::new(brokers.collect(), login, tls, &tls_as_written);
        Kafka { hub: hub.clone(), cluster: hub.kafka.known(cluster) }
    }

    /// Begins a command; `None` if it is not Kafka's.
    pub fn begin(&self, command: Command) -> Option<Pending> {
        Some(match command {
            Command::KafkaListOffset(list) => {
                let answered = self.offset(Place::of(&list.topic, list.partition), list.timestamp);
                Box::pin(async move {
                    let outcome = answered.await.map(|offset| Answer::KafkaListOffset(Offset { offset }));
                    outcome.map(Reply::Answer).map_err(|reason| {
                        failed("list offset", &Place::of(&list.topic, list.partition), &reason)
                    })
                })
            }
            Command::KafkaFetch(fetch) => {
                let place = Place::of(&fetch.topic, fetch.partition);
                let answered = ask(&self.cluster, &place, move |answer| Ask::Messages {
                    offset: fetch.offset,
                    shared: false,
                    answer,
                });
                Box::pin(async move {
                    let outcome = answered.await.map(Reply::Batch);
                    outcome.map_err(|reason| failed("fetch message", &place, &reason))
                })
            }
            Command::KafkaSubscribe(wish) => {
                let place = Place::of(&wish.topic, wish.partition);
                // it is asked for before the place to begin at: nothing can come between the two
                let feed = self.hub.kafka.feed(&self.cluster, &place);
                let first = match wish.offset {
                    LATEST | EARLIEST => Some(self.offset(place.clone(), wish.offset)),
                    _ => None,
                };
                let cluster = self.cluster.clone();
                Box::pin(async move {
                    let next = match first {
                        Some(first) => first.await,
                        None if wish.offset < 0 => Err("OFFSET_OUT_OF_RANGE".into()),
                        None => Ok(wish.offset),
                    };
                    let opened = feed.and_then(|feed| Ok((feed, next?)));
                    let (feed, next) = opened.map_err(|reason| failed("subscribe", &place, &reason))?;
                    let fetch = move |offset| -> super::subscription::Fetching {
                        let place = place.clone();
                        let answered = ask(&cluster, &place, move |answer| Ask::Messages {
                            offset,
                            shared: true,
                            answer,
                        });
                        Box::pin(async move {
                            answered.await.map_err(|reason| failed("fetch message", &place, &reason))
                        })
                    };
                    let subscription = Subscription::new(next, wish.credit, feed, Box::new(fetch));
                    Ok(Reply::Subscribed(Box::new(subscription)))
                })
            }
            _ => return None,
        })
    }

    fn offset(&self, place: Place, timestamp: i64) -> Answered<i64> {
        ask(&self.cluster, &place, move |answer| Ask::Offset { timestamp, answer })
    }
}

impl Place {
    fn of(topic: &str, partition: i32) -> Place {
        Place { topic: topic.into(), partition }
    }

    /// Could there be such a topic (Kafka's `Topic.validate`)?
    fn is_valid(&self) -> bool {
        let topic = self.topic.as_bytes();
        matches!(topic.len(), 1..=249)
            && topic.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && self.partition >= 0
    }
}

impl Hub {
    /// The same cluster for all that say the same. One too many is its session's own here; the Kafka thread refuses what
    /// it asks for.
    fn known(&self, cluster: Cluster) -> Arc<Cluster> {
        let mut clusters = self.clusters.borrow_mut();
        if let Some(known) = clusters.get(&cluster) {
            return known.clone();
        }
        if clusters.len() >= limits::KAFKA_CLUSTERS {
            clusters.retain(|known| Arc::strong_count(known) > 1);
        }
        let cluster = Arc::new(cluster);
        if clusters.len() < limits::KAFKA_CLUSTERS {
            clusters.insert(cluster.clone());
        }
        cluster
    }

    /// What is new in a partition.
    fn feed(&self, cluster: &Arc<Cluster>, place: &Place) -> Outcome<Rc<Feed>> {
        let mut feeds = self.feeds.borrow_mut();
        let key = (cluster.clone(), place.clone());
        if let Some(feed) = feeds.get(&key).and_then(Weak::upgrade).filter(|feed| !feed.is_over()) {
            return Ok(feed);
        }
        let (sender, news) = mpsc::channel(limits::FEED_MAIL);
        send(cluster, place, Ask::Feed(sender))?;
        let feed = Feed::follow(news);
        feeds.retain(|_, feed| feed.strong_count() > 0);
        feeds.insert(key, Rc::downgrade(&feed));
        Ok(feed)
    }
}

/// The answer to a question, on its way.
type Answered<T> = Pin<Box<dyn Future<Output = Outcome<T>>>>;

/// Mails a question and awaits the answer.
fn ask<T: 'static>(
    cluster: &Arc<Cluster>,
    place: &Place,
    question: impl FnOnce(oneshot::Sender<Outcome<T>>) -> Ask,
) -> Answered<T> {
    let (answer, answered) = oneshot::channel();
    let sent = send(cluster, place, question(answer));
    Box::pin(async move {
        sent?;
        answered.await.unwrap_or_else(|_| Err("the Kafka thread has ended".into()))
    })
}

fn send(cluster: &Arc<Cluster>, place: &Place, ask: Ask) -> Outcome<()> {
    if !place.is_valid() {
        return Err("not found topic".into());
    }
    thread::mail(ToKafka { cluster: cluster.clone(), place: place.clone(), ask })
}

/// APISIX's words for a command that failed.
fn failed(what: &str, place: &Place, reason: &str) -> Box<str> {
    format!("failed to {what}, topic: {}, partition: {}, err: {reason}", place.topic, place.partition).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_that_cannot_be_are_not_asked_for() {
        for (topic, partition, valid) in [
            ("a.b-c_D9", 0, true),
            ("", 0, false),
            ("a b", 0, false),
            ("ü", 0, false),
            ("a", -1, false),
            (&"x".repeat(249), 7, true),
            (&"x".repeat(250), 7, false),
        ] {
            assert_eq!(Place::of(topic, partition).is_valid(), valid, "{topic} {partition}");
        }
    }

    #[test]
    fn a_failure_in_apisix_s_words() {
        let place = Place::of("not-exist", 3);
        assert_eq!(
            &*failed("list offset", &place, "not found topic"),
            "failed to list offset, topic: not-exist, partition: 3, err: not found topic"
        );
    }

    #[test]
    fn of_too_many_clusters_those_without_a_session_are_forgotten() {
        let hub = Hub::default();
        let cluster = |n: usize| Cluster::new([format!("b{n}").into()].into(), None, None, "");
        let held = hub.known(cluster(0));
        for n in 1..limits::KAFKA_CLUSTERS {
            hub.known(cluster(n));
        }
        assert_eq!(hub.clusters.borrow().len(), limits::KAFKA_CLUSTERS);
        hub.known(cluster(limits::KAFKA_CLUSTERS));
        assert_eq!(hub.clusters.borrow().len(), 2);
        assert!(Arc::ptr_eq(&held, &hub.known(cluster(0))), "who has a session keeps it");
        let all: Vec<_> = (0..2 * limits::KAFKA_CLUSTERS).map(|n| hub.known(cluster(n))).collect();
        assert_eq!(hub.clusters.borrow().len(), limits::KAFKA_CLUSTERS, "all with a session");
        drop(all);
    }
}
