//! One cluster: its client, connections to leaders, and the calls on them. On the Kafka thread.
//!
//! rskafka finds leaders and follows them. It waits without end on a broker that accepts and says nothing, and knows
//! brokers that are gone for ever: each wait here has an end, and after a failure the client is made anew.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rskafka::BackoffConfig;
use rskafka::chrono::DateTime;
use rskafka::client::error::Error;
use rskafka::client::partition::{OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder, Credentials, SaslConfig};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::counts::Counts;
use super::encode::{Trouble, batch};
use super::past;
use super::tail::Tail;
use super::{EARLIEST, LATEST};
use crate::limits;
use crate::mail::messaging::{self, Batch, FeedNews, Login, Mechanism, Outcome, Place};

/// Who waits for the answer to a question that several have asked.
type Waiting = Vec<oneshot::Sender<Outcome<Arc<Batch>>>>;

/// One cluster.
pub struct Cluster {
    conf: Arc<messaging::Cluster>,
    /// The client, and what went wrong when there was last to be one.
    client: Mutex<Known>,
    /// Connections to leaders.
    partitions: RefCell<HashMap<Place, Rc<Leader>>>,
    /// Partitions with subscribers.
    pub(super) tails: RefCell<HashMap<Place, Rc<Tail>>>,
    /// Fetches under way whose answer is for several.
    shared: RefCell<HashMap<(Place, i64), Waiting>>,
    /// Whose turn it is.
    turns: Semaphore,
    /// Calls under way or in line.
    calls: Cell<usize>,
    used: Cell<Instant>,
    pub(super) counts: Rc<Counts>,
}

#[derive(Default)]
struct Known {
    client: Option<Arc<Client>>,
    failed: Option<Instant>,
    /// Topics and their partitions, and when they were read.
    topics: HashMap<String, Vec<i32>>,
    read: Option<Instant>,
}

/// A connection to the leader of a partition, opened by the first who wants it while the others wait.
struct Leader {
    partition: Mutex<Option<Arc<PartitionClient>>>,
    used: Cell<Instant>,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Cluster {
    /// Nothing is connected before something is wanted.
    pub fn new(conf: Arc<messaging::Cluster>, counts: Rc<Counts>) -> Cluster {
        Cluster {
            conf,
            client: Mutex::default(),
            partitions: RefCell::default(),
            tails: RefCell::default(),
            shared: RefCell::default(),
            turns: Semaphore::new(limits::KAFKA_IN_FLIGHT),
            calls: Cell::new(0),
            used: Cell::new(Instant::now()),
            counts,
        }
    }

    /// Was anything wanted within the last `idle_ms`, or is it under way?
    pub fn is_in_use(&self, idle_ms: u64) -> bool {
        self.calls.get() > 0 || !self.tails.borrow().is_empty() || self.used.get().elapsed() < ms(idle_ms)
    }

    /// The offset of a time; see [`messaging::Ask::Offset`].
    pub async fn offset(&self, place: &Place, timestamp: i64) -> Outcome<i64> {
        let at = match timestamp {
            LATEST => OffsetAt::Latest,
            EARLIEST => OffsetAt::Earliest,
            ms => OffsetAt::Timestamp(DateTime::from_timestamp_millis(ms).ok_or("no such time")?),
        };
        self.call(place, async |partition| partition.get_offset(at).await).await
    }

    /// The messages from an offset on that are there now, as many as one fetch brings.
    pub async fn messages(&self, place: &Place, offset: i64) -> Outcome<Arc<Batch>> {
        let fetch = async |partition: &PartitionClient| past::records(partition, offset, 0, 0).await;
        let (next, records) = self.call(place, fetch).await?;
        self.counts.fetched(&place.topic);
        Ok(Arc::new(batch(offset, next, records)))
    }

    /// The same for subscribers: those who want the same get one answer.
    pub fn share(self: Rc<Self>, place: Place, offset: i64, answer: oneshot::Sender<Outcome<Arc<Batch>>>) {
        let key = (place, offset);
        if let Some(waiting) = self.shared.borrow_mut().get_mut(&key) {
            return waiting.push(answer);
        }
        self.shared.borrow_mut().insert(key.clone(), vec![answer]);
        tokio::task::spawn_local(async move {
            let outcome = self.messages(&key.0, offset).await;
            for answer in self.shared.borrow_mut().remove(&key).unwrap_or_default() {
                let _ = answer.send(outcome.clone());
            }
        });
    }

    /// From now on `core` gets what is new in a partition.
    pub fn feed(self: Rc<Self>, place: Place, core: mpsc::Sender<FeedNews>) {
        self.used.set(Instant::now());
        let mut tails = self.tails.borrow_mut();
        if let Some(tail) = tails.get(&place) {
            return tail.join(core);
        }
        let tail = Rc::new(Tail::default());
        tail.join(core);
        tails.insert(place.clone(), tail.clone());
        drop(tails);
        tokio::task::spawn_local(tail.run(self, place));
    }

    /// One call on the leader of a partition. A connection that broke, or a leader that is none any more, is tried
    /// again until the time is over.
    async fn call<T>(
        &self,
        place: &Place,
        ask: impl AsyncFn(&PartitionClient) -> Result<T, Error>,
    ) -> Outcome<T> {
        let Some(_under_way) = UnderWay::of(&self.calls) else {
            return Err("too many requests to Kafka are under way".into());
        };
        self.used.set(Instant::now());
        let until = Instant::now() + ms(limits::KAFKA_CALL_MS);
        let Ok(turn) = timeout_at(until, self.turns.acquire()).await else { return Err("timeout".into()) };
        let _turn = turn.map_err(|_| "closed")?;
        loop {
            let trouble = match timeout_at(until, self.try_call(place, &ask)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::Broken("timeout".into()),
            };
            match trouble {
                Trouble::Broken(_) if Instant::now() < until => self.forget(place).await,
                Trouble::Broken(_) => {
                    self.forget(place).await;
                    return Err(trouble.text());
                }
                Trouble::Said(reason) => {
                    if reason == "UNKNOWN_TOPIC_OR_PARTITION" {
                        self.forget_topic(place).await;
                    }
                    return Err(reason.into());
                }
                Trouble::Unreachable => return Err(trouble.text()),
            }
            sleep(ms(100)).await;
        }
    }

    async fn try_call<T>(
        &self,
        place: &Place,
        ask: &impl AsyncFn(&PartitionClient) -> Result<T, Error>,
    ) -> Result<T, Trouble> {
        let partition = self.partition(place).await?;
        Ok(ask(&partition).await?)
    }

    /// A connection to the leader of a partition, for calls that are answered at once.
    async fn partition(&self, place: &Place) -> Result<Arc<PartitionClient>, Trouble> {
        let leader = self.leader(place);
        leader.used.set(Instant::now());
        let mut partition = leader.partition.lock().await;
        if let Some(partition) = &*partition {
            return Ok(partition.clone());
        }
        match self.open(place).await {
            Ok(opened) => Ok(partition.insert(Arc::new(opened)).clone()),
            Err(trouble) => {
                self.partitions.borrow_mut().remove(place);
                Err(trouble)
            }
        }
    }

    fn leader(&self, place: &Place) -> Rc<Leader> {
        let mut partitions = self.partitions.borrow_mut();
        if let Some(leader) = partitions.get(place) {
            return leader.clone();
        }
        if partitions.len() >= limits::KAFKA_PARTITIONS {
            let oldest = partitions.iter().min_by_key(|(_, leader)| leader.used.get());
            let oldest = oldest.map(|(place, _)| place.clone());
            oldest.map(|oldest| partitions.remove(&oldest));
        }
        let leader = Leader { partition: Mutex::default(), used: Cell::new(Instant::now()) };
        partitions.entry(place.clone()).or_insert(Rc::new(leader)).clone()
    }

    /// A connection of its own to the leader of a partition. Brokers answer the calls of a connection in their order,
    /// so that one that waits needs one.
    pub(super) async fn open(&self, place: &Place) -> Result<PartitionClient, Trouble> {
        let mut known = self.client.lock().await;
        let client = self.client(&mut known).await?;
        find(&mut known, &client, place).await?;
        drop(known);
        let opening = client.partition_client(&*place.topic, place.partition, UnknownTopicHandling::Error);
        match timeout(ms(limits::KAFKA_CONNECT_MS), opening).await {
            Ok(opened) => Ok(opened?),
            Err(_) => Err(Trouble::Broken("timeout".into())),
        }
    }

    /// After a failure: connections and what is known of the cluster are made anew.
    pub(super) async fn forget(&self, place: &Place) {
        self.partitions.borrow_mut().remove(place);
        let mut known = self.client.lock().await;
        known.client = None;
        known.read = None;
    }

    /// It was deleted; perhaps there is a new one of this name.
    async fn forget_topic(&self, place: &Place) {
        self.partitions.borrow_mut().remove(place);
        self.client.lock().await.topics.remove(&*place.topic);
    }

    /// The client. Those who wait for it get what the first of them got.
    async fn client(&self, known: &mut Known) -> Result<Arc<Client>, Trouble> {
        if let Some(client) = &known.client {
            return Ok(client.clone());
        }
        if known.failed.is_some_and(|at| at.elapsed() < ms(limits::KAFKA_REST_MS)) {
            return Err(Trouble::Unreachable);
        }
        match self.connect().await {
            Ok(client) => {
                known.failed = None;
                Ok(known.client.insert(Arc::new(client)).clone())
            }
            Err(reasons) => {
                log::error!(
                    "all brokers failed in fetch topic metadata, brokers: {:?}, {reasons}",
                    self.conf
                );
                known.failed = Some(Instant::now());
                Err(Trouble::Unreachable)
            }
        }
    }

    /// Asks all brokers at once and takes the first that can be used, so that those that are dead cost no time.
    async fn connect(&self) -> Result<Client, String> {
        let mut asked = JoinSet::new();
        for broker in self.conf.brokers.iter().cloned() {
            asked.spawn_local(async move {
                match timeout(ms(limits::KAFKA_CONNECT_MS), TcpStream::connect(&*broker)).await {
                    Ok(Ok(_)) => Ok(broker),
                    Ok(Err(error)) => Err(format!("{broker}: {error}")),
                    Err(_) => Err(format!("{broker}: timeout")),
                }
            });
        }
        let mut reasons = Vec::new();
        while let Some(broker) = asked.join_next().await {
            let tried = match broker {
                Ok(Ok(broker)) => {
                    let building = self.builder(&broker).build();
                    match timeout(ms(limits::KAFKA_CONNECT_MS), building).await {
                        Ok(Ok(client)) => return Ok(client),
                        Ok(Err(error)) => format!("{broker}: {error}"),
                        Err(_) => format!("{broker}: timeout"),
                    }
                }
                Ok(Err(reason)) => reason,
                Err(error) => error.to_string(),
            };
            reasons.push(tried);
        }
        Err(reasons.join("; "))
    }

    fn builder(&self, broker: &str) -> ClientBuilder {
        let backoff =
            BackoffConfig { init_backoff: ms(50), max_backoff: ms(500), base: 2.0, deadline: Some(ms(500)) };
        let builder = ClientBuilder::new(vec![broker.to_owned()])
            .client_id("ringway")
            .max_message_size(limits::KAFKA_ANSWER_BYTES)
            .backoff_config(backoff);
        let builder = match &self.conf.login {
            Some(login) => builder.sasl_config(sasl(login)),
            None => builder,
        };
        match &self.conf.tls {
            Some(tls) => builder.tls_config(tls.clone()),
            None => builder,
        }
    }
}

/// Is there such a partition? The list of all topics is asked for: a question for one alone would create it, where
/// brokers do so.
async fn find(known: &mut Known, client: &Client, place: &Place) -> Result<(), Trouble> {
    let here = |known: &Known| known.topics.get(&*place.topic).map(|all| all.contains(&place.partition));
    let is_fresh = known.read.is_some_and(|at| at.elapsed() < ms(limits::KAFKA_TOPICS_MS));
    if !is_fresh && here(known) != Some(true) {
        let listed = timeout(ms(limits::KAFKA_CONNECT_MS), client.list_topics()).await;
        let topics = listed.map_err(|_| Trouble::Broken("timeout".into()))??;
        known.topics =
            topics.into_iter().map(|topic| (topic.name, topic.partitions.into_iter().collect())).collect();
        known.read = Some(Instant::now());
    }
    match here(known) {
        None => Err(Trouble::Said("not found topic".into())),
        Some(false) => Err(Trouble::Said("not found partition".into())),
        Some(true) => Ok(()),
    }
}

fn sasl(login: &Login) -> SaslConfig {
    let credentials = Credentials::new(login.username.to_string(), login.password.to_string());
    match login.mechanism {
        Mechanism::Plain => SaslConfig::Plain(credentials),
        Mechanism::ScramSha256 => SaslConfig::ScramSha256(credentials),
        Mechanism::ScramSha512 => SaslConfig::ScramSha512(credentials),
    }
}

/// Counts a call while it is under way.
struct UnderWay<'a>(&'a Cell<usize>);

impl<'a> UnderWay<'a> {
    /// `None`: there are too many.
    fn of(calls: &'a Cell<usize>) -> Option<UnderWay<'a>> {
        if calls.get() >= limits::KAFKA_WAITING {
            return None;
        }
        calls.set(calls.get() + 1);
        Some(UnderWay(calls))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    fn cluster(port: u16) -> Cluster {
        let broker = format!("127.0.0.1:{port}").into();
        let conf = messaging::Cluster::new([broker].into(), None, None, "");
        Cluster::new(Arc::new(conf), Rc::default())
    }

    fn place(partition: i32) -> Place {
        Place { topic: "t".into(), partition }
    }

    /// A broker that accepts, and that is all; and its connections, counted.
    async fn silent_broker() -> (u16, Rc<Cell<usize>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = Rc::new(Cell::new(0));
        let counted = count.clone();
        tokio::task::spawn_local(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
                counted.set(open.len());
            }
        });
        (port, count)
    }

    fn took_ms(since: Instant) -> u64 {
        since.elapsed().as_millis() as u64
    }

    #[test]
    fn calls_under_way_have_a_bound() {
        let calls = Cell::new(0);
        let mut under_way: Vec<_> =
            (0..limits::KAFKA_WAITING).map(|_| UnderWay::of(&calls).unwrap()).collect();
        assert!(UnderWay::of(&calls).is_none());
        under_way.pop();
        assert!(UnderWay::of(&calls).is_some());
    }

    #[test]
    fn of_too_many_leaders_the_one_that_was_not_used_longest_goes() {
        let cluster = cluster(1);
        for partition in 0..=limits::KAFKA_PARTITIONS as i32 {
            cluster.leader(&place(partition));
        }
        let partitions = cluster.partitions.borrow();
        assert_eq!(partitions.len(), limits::KAFKA_PARTITIONS);
        assert!(!partitions.contains_key(&place(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_turn_but_not_without_end() {
        let cluster = cluster(1);
        let others = cluster.turns.acquire_many(limits::KAFKA_IN_FLIGHT as u32).await.unwrap();
        let began = Instant::now();
        assert_eq!(cluster.offset(&place(0), LATEST).await, Err("timeout".into()));
        let waited_ms = took_ms(began);
        assert!(waited_ms.abs_diff(limits::KAFKA_CALL_MS) < 100, "{waited_ms} ms");
        drop(others);
        let waits = LocalSet::new().run_until(cluster.offset(&place(0), LATEST)).await;
        assert_eq!(waits, Err(Trouble::Unreachable.text()), "now it is tried");
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_the_same_gets_one_answer() {
        let asked = async {
            let (port, _) = silent_broker().await;
            let cluster = Rc::new(cluster(port));
            let answered = [5, 5, 6].map(|offset| {
                let (answer, answered) = oneshot::channel();
                cluster.clone().share(place(0), offset, answer);
                answered
            });
            tokio::task::yield_now().await;
            assert_eq!(cluster.calls.get(), 2, "one for the first two");
            for answered in answered {
                assert!(answered.await.unwrap().is_err());
            }
            assert!(cluster.shared.borrow().is_empty());
        };
        LocalSet::new().run_until(asked).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_broker_is_given_up_and_then_left_in_peace_for_a_moment() {
        let asked = async {
            let (port, connections) = silent_broker().await;
            let cluster = cluster(port);
            let began = Instant::now();
            assert_eq!(cluster.offset(&place(0), LATEST).await, Err(Trouble::Unreachable.text()));
            let waited_ms = took_ms(began);
            assert!(waited_ms.abs_diff(limits::KAFKA_CONNECT_MS) < 1_000, "{waited_ms} ms");
            let before = connections.get();
            tokio::time::advance(ms(limits::KAFKA_REST_MS - 100)).await;
            assert_eq!(cluster.offset(&place(0), LATEST).await, Err(Trouble::Unreachable.text()));
            assert_eq!(connections.get(), before, "it is not asked again yet");
            tokio::time::advance(ms(200)).await;
            assert_eq!(cluster.offset(&place(0), LATEST).await, Err(Trouble::Unreachable.text()));
            assert!(connections.get() > before);
        };
        LocalSet::new().run_until(asked).await;
    }
}
