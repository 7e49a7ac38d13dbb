//! The thread of Kafka: it takes what cores want out of its mail and gives each cluster its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout_at};

use super::cluster::Cluster;
use super::counts::Counts;
use super::failed;
use crate::limits;
use crate::mail::messaging::{self, Ask, FeedNews, Outcome, Place, ToKafka};
use crate::reactor::nice;
use crate::telemetry::metrics::Metrics;

/// It outlives the cores of a reload, and is not there before a route needs it.
static MAIL: OnceLock<Option<mpsc::Sender<ToKafka>>> = OnceLock::new();

/// A route needs it; it counts in `metrics`.
pub fn start(metrics: &Arc<Metrics>) {
    MAIL.get_or_init(|| begin(metrics.clone()));
}

/// Mails it something.
///
/// # Errors
/// Its mail is full, or the host gave no thread.
pub fn mail(message: ToKafka) -> Outcome<()> {
    post(MAIL.get().and_then(Option::as_ref).ok_or("no thread for Kafka")?, message)
}

fn post(sender: &mpsc::Sender<ToKafka>, message: ToKafka) -> Outcome<()> {
    sender.try_send(message).map_err(|_| "too many requests to Kafka are under way".into())
}

fn begin(metrics: Arc<Metrics>) -> Option<mpsc::Sender<ToKafka>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let (sender, inbox) = mpsc::channel(limits::KAFKA_MAIL);
    let run = move || {
        nice::stand_back(10);
        LocalSet::new().block_on(&runtime, run(inbox, Counts::new(metrics)));
    };
    std::thread::Builder::new().name("kafka".into()).spawn(run).ok()?;
    Some(sender)
}

async fn run(mut inbox: mpsc::Receiver<ToKafka>, counts: Counts) {
    let clusters = Clusters { all: RefCell::default(), counts: Rc::new(counts) };
    let pause = Duration::from_millis(limits::KAFKA_IDLE_MS / 5);
    let mut sweep_at = Instant::now() + pause;
    loop {
        match timeout_at(sweep_at, inbox.recv()).await {
            Ok(Some(message)) => clusters.take(message),
            Ok(None) => return,
            Err(_) => {
                clusters.forget_idle(limits::KAFKA_IDLE_MS);
                sweep_at = Instant::now() + pause;
            }
        }
    }
}

struct Clusters {
    all: RefCell<HashMap<Arc<messaging::Cluster>, Rc<Cluster>>>,
    counts: Rc<Counts>,
}

impl Clusters {
    fn take(&self, ToKafka { cluster, place, ask }: ToKafka) {
        let Some(cluster) = self.known(cluster) else { return refuse(&place, ask) };
        match ask {
            Ask::Feed(core) => cluster.feed(place, core),
            Ask::Offset { timestamp, answer } => {
                tokio::task::spawn_local(async move {
                    // who does not wait any more needs no answer
                    let _ = answer.send(cluster.offset(&place, timestamp).await);
                });
            }
            Ask::Messages { offset, shared: false, answer } => {
                tokio::task::spawn_local(async move {
                    let _ = answer.send(cluster.messages(&place, offset).await);
                });
            }
            Ask::Messages { offset, shared: true, answer } => cluster.share(place, offset, answer),
        }
    }

    /// The cluster that `conf` describes. `None`: as many as may be known have something under way.
    fn known(&self, conf: Arc<messaging::Cluster>) -> Option<Rc<Cluster>> {
        if let Some(known) = self.all.borrow().get(&conf) {
            return Some(known.clone());
        }
        if self.all.borrow().len() >= limits::KAFKA_CLUSTERS {
            self.forget_idle(0);
        }
        let mut all = self.all.borrow_mut();
        if all.len() >= limits::KAFKA_CLUSTERS {
            return None;
        }
        let cluster = Rc::new(Cluster::new(conf.clone(), self.counts.clone()));
        all.insert(conf, cluster.clone());
        Some(cluster)
    }

    /// Forgets clusters that nothing was wanted of for `idle_ms`; a call that has yet to begin holds its cluster.
    fn forget_idle(&self, idle_ms: u64) {
        self.all
            .borrow_mut()
            .retain(|_, cluster| Rc::strong_count(cluster) > 1 || cluster.is_in_use(idle_ms));
    }
}

/// Tells who asks that there are too many clusters.
fn refuse(place: &Place, ask: Ask) {
    let reason = || "too many Kafka clusters are in use".into();
    // who does not wait any more needs no answer
    match ask {
        Ask::Offset { answer, .. } => drop(answer.send(Err(reason()))),
        Ask::Messages { answer, .. } => drop(answer.send(Err(reason()))),
        Ask::Feed(core) => drop(core.try_send(FeedNews::Ended(failed("subscribe", place, &reason()).into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(n: usize) -> Arc<messaging::Cluster> {
        Arc::new(messaging::Cluster::new([format!("b{n}").into()].into(), None, None, ""))
    }

    #[test]
    fn clusters_in_use_have_a_bound() {
        let clusters = Clusters { all: RefCell::default(), counts: Rc::default() };
        let used: Vec<_> = (0..limits::KAFKA_CLUSTERS).map(|n| clusters.known(conf(n)).unwrap()).collect();
        let place = Place { topic: "t".into(), partition: 0 };
        let (answer, mut answered) = tokio::sync::oneshot::channel();
        let ask = Ask::Offset { timestamp: -1, answer };
        clusters.take(ToKafka { cluster: conf(limits::KAFKA_CLUSTERS), place: place.clone(), ask });
        assert_eq!(answered.try_recv().unwrap(), Err("too many Kafka clusters are in use".into()));
        let (core, mut news) = mpsc::channel(1);
        clusters.take(ToKafka { cluster: conf(limits::KAFKA_CLUSTERS), place, ask: Ask::Feed(core) });
        let FeedNews::Ended(why) = news.try_recv().unwrap() else { panic!("it has not begun") };
        assert_eq!(
            &*why,
            "failed to subscribe, topic: t, partition: 0, err: too many Kafka clusters are in use"
        );
        assert!(Rc::ptr_eq(&used[0], &clusters.known(conf(0)).unwrap()), "those that are known go on");
        drop(used);
        assert!(clusters.known(conf(limits::KAFKA_CLUSTERS)).is_some());
        assert_eq!(clusters.all.borrow().len(), 1, "those without use were forgotten");
    }

    #[test]
    fn a_thread_that_stands_still_is_asked_no_more() {
        let (sender, mut inbox) = mpsc::channel(1);
        let ask = |n| {
            let (answer, _) = tokio::sync::oneshot::channel();
            let place = Place { topic: "t".into(), partition: n };
            post(&sender, ToKafka { cluster: conf(0), place, ask: Ask::Offset { timestamp: -1, answer } })
        };
        assert_eq!(ask(1), Ok(()));
        assert_eq!(ask(2), Err("too many requests to Kafka are under way".into()));
        assert_eq!(inbox.try_recv().map(|message| message.place.partition), Ok(1));
        assert_eq!(ask(3), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_nobody_asks_any_more_is_forgotten() {
        let (mail, inbox) = mpsc::channel(1);
        let cluster = Arc::new(messaging::Cluster::new(["127.0.0.1:1".into()].into(), None, None, ""));
        let asked = async {
            tokio::task::spawn_local(run(inbox, Counts::default()));
            let ask = async |cluster: &Arc<messaging::Cluster>| {
                let (answer, answered) = tokio::sync::oneshot::channel();
                let ask = Ask::Offset { timestamp: -1, answer };
                let place = Place { topic: "t".into(), partition: 0 };
                mail.send(ToKafka { cluster: cluster.clone(), place, ask }).await.ok().unwrap();
                assert!(answered.await.unwrap().is_err());
            };
            ask(&cluster).await;
            // another one is always in use
            let other = Arc::new(messaging::Cluster::new(["127.0.0.1:2".into()].into(), None, None, ""));
            let until = Instant::now() + Duration::from_millis(limits::KAFKA_IDLE_MS - 30_000);
            while Instant::now() < until {
                tokio::time::sleep(Duration::from_secs(10)).await;
                ask(&other).await;
            }
            assert!(Arc::strong_count(&cluster) > 1, "it is kept for a while");
            let until = until + Duration::from_millis(limits::KAFKA_IDLE_MS / 5 + 60_000);
            while Instant::now() < until {
                tokio::time::sleep(Duration::from_secs(10)).await;
                ask(&other).await;
            }
            assert_eq!(Arc::strong_count(&cluster), 1);
            assert!(Arc::strong_count(&other) > 1);
        };
        LocalSet::new().run_until(asked).await;
    }
}
