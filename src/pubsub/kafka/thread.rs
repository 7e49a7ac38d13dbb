//! The thread of Kafka: it takes what cores want out of its mail and gives each cluster its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::cluster::Cluster;
use super::counts::Counts;
use crate::limits;
use crate::mail::messaging::{self, Ask, Outcome, ToKafka};
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
    let sender = MAIL.get().and_then(Option::as_ref).ok_or("no thread for Kafka")?;
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
    loop {
        match tokio::time::timeout(pause, inbox.recv()).await {
            Ok(Some(message)) => clusters.take(message),
            Ok(None) => return,
            Err(_) => clusters.forget_idle(limits::KAFKA_IDLE_MS),
        }
    }
}

struct Clusters {
    all: RefCell<HashMap<Arc<messaging::Cluster>, Rc<Cluster>>>,
    counts: Rc<Counts>,
}

impl Clusters {
    fn take(&self, ToKafka { cluster, place, ask }: ToKafka) {
        if self.all.borrow().len() >= limits::KAFKA_CLUSTERS {
            self.forget_idle(0);
        }
        let cluster = {
            let mut clusters = self.all.borrow_mut();
            clusters
                .entry(cluster.clone())
                .or_insert_with(|| Rc::new(Cluster::new(cluster, self.counts.clone())))
                .clone()
        };
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

    /// Forgets clusters that nothing was wanted of for `idle_ms`.
    fn forget_idle(&self, idle_ms: u64) {
        self.all.borrow_mut().retain(|_, cluster| cluster.is_in_use(idle_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::messaging::Place;

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_nobody_asks_any_more_is_forgotten() {
        let (mail, inbox) = mpsc::channel(1);
        let cluster = Arc::new(messaging::Cluster::new(["127.0.0.1:1".into()].into(), None, None, ""));
        let asked = async {
            tokio::task::spawn_local(run(inbox, Counts::default()));
            let (answer, answered) = tokio::sync::oneshot::channel();
            let ask = Ask::Offset { timestamp: -1, answer };
            let place = Place { topic: "t".into(), partition: 0 };
            mail.send(ToKafka { cluster: cluster.clone(), place, ask }).await.ok().unwrap();
            assert!(answered.await.unwrap().is_err());
            tokio::time::sleep(Duration::from_millis(limits::KAFKA_IDLE_MS - 1_000)).await;
            assert!(Arc::strong_count(&cluster) > 1, "it is kept for a while");
            tokio::time::sleep(Duration::from_millis(limits::KAFKA_IDLE_MS / 5 + 2_000)).await;
            assert_eq!(Arc::strong_count(&cluster), 1);
        };
        LocalSet::new().run_until(asked).await;
    }
}
