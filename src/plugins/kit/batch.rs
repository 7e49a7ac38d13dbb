//! Log entries on their way to a collector: gathered, sent by a thread of its own, tried again, and dropped
//! with a counter when the collector does not keep up (apisix/utils/batch-processor.lua and its manager).
//!
//! A core only queues an entry. Each configuration has one queue for all cores and one task on the thread,
//! which ends when the last core has let go of it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::exchange::{Exchange, Vars};
use crate::limits;
use crate::plugin::Build;
use crate::reactor::nice;

/// What came of one try. The error is for the log.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Where batches go.
pub trait Sink: Send + Sync + 'static {
    /// Sends the entries. `single`: the configuration sends each entry by itself (`batch_max_size` 1).
    fn send<'a>(&'a self, entries: &'a [Vec<u8>], single: bool) -> Sending<'a>;
}

/// The options that every logger of this kind has.
#[derive(Clone, Debug)]
struct Rules {
    name: Box<str>,
    batch_max_size: usize,
    max_retry_count: u64,
    retry_delay: Duration,
    buffer_duration: Duration,
    inactive_timeout: Duration,
}

impl Rules {
    fn of(conf: &Value) -> Rules {
        let number = |name: &str, default: u64| conf[name].as_u64().unwrap_or(default);
        // 136 years are for ever: more would lead past the end of the clock
        let seconds = |name, default| Duration::from_secs(number(name, default).min(u64::from(u32::MAX)));
        Rules {
            name: conf["name"].as_str().unwrap_or("log buffer").into(),
            batch_max_size: usize::try_from(number("batch_max_size", 1000)).unwrap_or(usize::MAX),
            max_retry_count: number("max_retry_count", 0),
            retry_delay: seconds("retry_delay", 1),
            buffer_duration: seconds("buffer_duration", 60),
            inactive_timeout: seconds("inactive_timeout", 5),
        }
    }
}

/// The queue of one configuration.
pub struct Batches {
    entries: mpsc::UnboundedSender<Vec<u8>>, // bounded by the backlog of its kind
    state: Arc<State>,
}

/// What cores, the thread and the metrics see of one queue.
struct State {
    rules: Rules,
    kind: Arc<Kind>,
    /// Entries gathered and not on their way yet.
    gathered: AtomicUsize,
    /// The route and server address of the first entry, for the metric.
    labels: OnceLock<(String, String)>,
}

/// What the loggers of one plugin share.
#[derive(Default)]
struct Kind {
    /// Entries gathered or under way, of all configurations.
    pending: AtomicU64,
    /// Entries ever taken.
    pushed: AtomicU64,
    dropped: AtomicU64,
    /// Those of them that no line has told of yet.
    untold: AtomicU64,
    /// When the last line did, ms of the process; 0: never.
    told_ms: AtomicU64,
}

impl Kind {
    /// An entry finds `most` others before it. One line a second says so.
    fn discard(&self, most: u64) {
        static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.untold.fetch_add(1, Ordering::Relaxed);
        let now_ms = START.elapsed().as_millis() as u64 + limits::DISCARD_LINE_MS;
        let told_ms = self.told_ms.load(Ordering::Relaxed);
        let tells = now_ms >= told_ms + limits::DISCARD_LINE_MS
            && self.told_ms.compare_exchange(told_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !tells {
            return; // too early, or another core does
        }
        let pushed = self.pushed.load(Ordering::Relaxed);
        log::error!(
            "max pending entries limit exceeded. discarding entry. total_pushed_entries: {pushed} \
             total_processed_entries: {} max_pending_entries: {most} discarded_entries: {}",
            pushed.saturating_sub(self.pending.load(Ordering::Relaxed)),
            self.untold.swap(0, Ordering::Relaxed),
        );
    }
}

/// One sample of `batch_process_entries`.
pub struct Gathered {
    /// `name` of the configuration.
    pub name: String,
    /// The route of its first entry.
    pub route_id: String,
    /// Where that came in.
    pub server_addr: String,
    /// Entries that wait.
    pub entries: usize,
}

#[derive(Default)]
struct Queues {
    kinds: HashMap<&'static str, Arc<Kind>>,
    batches: HashMap<String, Weak<Batches>>,
}

static QUEUES: LazyLock<Mutex<Queues>> = LazyLock::new(Mutex::default);
/// Tasks of the thread that have not ended.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

fn queues() -> std::sync::MutexGuard<'static, Queues> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread, started with the first logger. `None`: the host gives no thread.
fn thread() -> Option<&'static tokio::runtime::Handle> {
    static THREAD: OnceLock<Option<tokio::runtime::Handle>> = OnceLock::new();
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let handle = runtime.handle().clone();
        let run = move || {
            nice::stand_back(10);
            runtime.block_on(std::future::pending::<()>());
        };
        std::thread::Builder::new().name("log-batches".into()).spawn(run).ok()?;
        Some(handle)
    };
    THREAD.get_or_init(start).as_ref()
}

impl Batches {
    /// The queue of this configuration of `plugin`, the same for all cores. `sink` is made for a new one.
    pub fn open(
        plugin: &'static str,
        conf: &Value,
        build: &Build,
        sink: impl FnOnce() -> Result<Box<dyn Sink>, String>,
    ) -> Result<Arc<Batches>, String> {
        let key = format!("{plugin} {} {conf}", build.parent);
        let mut queues = queues();
        if let Some(batches) = queues.batches.get(&key).and_then(Weak::upgrade) {
            return Ok(batches);
        }
        let sink: Arc<dyn Sink> = Arc::from(sink()?);
        let kind = queues.kinds.entry(plugin).or_default().clone();
        let (entries, inbox) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            rules: Rules::of(conf),
            kind,
            gathered: AtomicUsize::new(0),
            labels: OnceLock::new(),
        });
        let thread = thread().ok_or("no thread for log batches")?;
        under_way(thread, gather(inbox, sink, state.clone()));
        let batches = Arc::new(Batches { entries, state });
        queues.batches.retain(|_, batches| batches.strong_count() > 0);
        queues.batches.insert(key, Arc::downgrade(&batches));
        Ok(batches)
    }

    /// Queues one entry of this exchange. Where `most` entries of the plugin wait already it is dropped and
    /// counted.
    pub fn push(&self, entry: Vec<u8>, most: u64, ex: &Exchange) {
        let State { kind, gathered, labels, .. } = &*self.state;
        if kind.pending.fetch_add(1, Ordering::Relaxed) >= most {
            kind.pending.fetch_sub(1, Ordering::Relaxed);
            return kind.discard(most);
        }
        kind.pushed.fetch_add(1, Ordering::Relaxed);
        labels.get_or_init(|| {
            let text = |name| ex.var(name).map(|value| String::from_utf8_lossy(&value).into_owned());
            (text("route_id").unwrap_or_default(), text("server_addr").unwrap_or_default())
        });
        gathered.fetch_add(1, Ordering::Relaxed);
        if self.entries.send(entry).is_err() {
            self.state.done(1);
        }
    }
}

/// `max_pending_entries` of a plugin's metadata.
pub fn max_pending(metadata: Option<&Value>) -> u64 {
    metadata
        .and_then(|metadata| metadata["max_pending_entries"].as_u64())
        .unwrap_or(limits::PENDING_LOG_ENTRIES)
}

impl State {
    fn done(&self, entries: usize) {
        self.kind.pending.fetch_sub(entries as u64, Ordering::Relaxed);
    }
}

fn under_way(thread: &tokio::runtime::Handle, task: impl Future<Output = ()> + Send + 'static) {
    UNDER_WAY.fetch_add(1, Ordering::AcqRel);
    thread.spawn(async move {
        task.await;
        UNDER_WAY.fetch_sub(1, Ordering::AcqRel);
    });
}

/// Gathers entries until a batch is full, old, or nothing more comes.
async fn gather(mut inbox: mpsc::UnboundedReceiver<Vec<u8>>, sink: Arc<dyn Sink>, state: Arc<State>) {
    let rules = &state.rules;
    let mut open = true;
    while open {
        let mut entries = Vec::new();
        if inbox.recv_many(&mut entries, rules.batch_max_size).await == 0 {
            return;
        }
        let old = Instant::now() + rules.buffer_duration;
        while open && entries.len() < rules.batch_max_size {
            let quiet = Instant::now() + rules.inactive_timeout;
            // who is not waited for wakes nobody: so many entries at a time cost one wake-up
            sleep(Duration::from_millis(limits::LOG_GATHER_MS)).await;
            let room = rules.batch_max_size - entries.len();
            match timeout_at(quiet.min(old), inbox.recv_many(&mut entries, room)).await {
                Ok(count) => open = count > 0,
                Err(_) => break,
            }
        }
        state.gathered.fetch_sub(entries.len(), Ordering::Relaxed);
        let (sink, state) = (sink.clone(), state.clone());
        under_way(&tokio::runtime::Handle::current(), async move {
            deliver(&*sink, &entries, &state).await;
            state.done(entries.len());
        });
    }
}

/// Sends a batch, as often as its rules say.
async fn deliver(sink: &dyn Sink, entries: &[Vec<u8>], state: &State) {
    let rules = &state.rules;
    let mut tries = 0;
    while let Err(error) = sink.send(entries, rules.batch_max_size == 1).await {
        log::error!("Batch Processor[{}] failed to process entries: {error}", rules.name);
        tries += 1;
        if tries > rules.max_retry_count {
            state.kind.dropped.fetch_add(entries.len() as u64, Ordering::Relaxed);
            log::error!(
                "Batch Processor[{}] exceeded the max_retry_count[{tries}] dropping the entries",
                rules.name
            );
            return;
        }
        sleep(rules.retry_delay).await;
    }
}

/// What waits, by configuration.
pub fn gathered() -> Vec<Gathered> {
    let batches: Vec<_> = queues().batches.values().filter_map(Weak::upgrade).collect();
    let sample = |batches: Arc<Batches>| {
        let state = &batches.state;
        let (route_id, server_addr) = state.labels.get()?.clone();
        let entries = state.gathered.load(Ordering::Relaxed);
        Some(Gathered { name: state.rules.name.to_string(), route_id, server_addr, entries })
    };
    batches.into_iter().filter_map(sample).collect()
}

/// Entries dropped, by plugin.
pub fn dropped() -> Vec<(&'static str, u64)> {
    let queues = queues();
    queues.kinds.iter().map(|(plugin, kind)| (*plugin, kind.dropped.load(Ordering::Relaxed))).collect()
}

/// At the end of the gateway, once no core is left: waits until all batches are sent,
/// [`limits::LOG_BATCHES_MS`] at most.
pub fn finish() {
    let until = std::time::Instant::now() + Duration::from_millis(limits::LOG_BATCHES_MS);
    while UNDER_WAY.load(Ordering::Acquire) > 0 && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// JSON of a batch: the entry itself where each goes alone, else a list.
pub fn json(entries: &[Vec<u8>], single: bool) -> Vec<u8> {
    match entries {
        [entry] if single => entry.clone(),
        entries => [&b"["[..], &entries.join(&b','), b"]"].concat(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant as Clock;

    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn times_that_never_come_are_none_that_the_clock_cannot_have() {
        let conf =
            json!({"buffer_duration": u64::MAX, "inactive_timeout": i64::MAX, "retry_delay": u64::MAX});
        let Rules { retry_delay, buffer_duration, inactive_timeout, .. } = Rules::of(&conf);
        for duration in [retry_delay, buffer_duration, inactive_timeout] {
            assert!(Instant::now().checked_add(duration).is_some());
        }
    }

    /// Fails as often as told, then keeps what it gets.
    struct Keeper {
        failures: AtomicUsize,
        got: Arc<Mutex<Vec<String>>>,
    }

    impl Sink for Keeper {
        fn send<'a>(&'a self, entries: &'a [Vec<u8>], single: bool) -> Sending<'a> {
            Box::pin(async move {
                let fails =
                    self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                if fails.is_ok() {
                    return Err("no collector".into());
                }
                self.got.lock().unwrap().push(String::from_utf8(json(entries, single)).unwrap());
                Ok(())
            })
        }
    }

    /// What arrives of `count` entries, pushed at once.
    fn arrived(plugin: &'static str, conf: Value, failures: usize, count: usize, most: u64) -> Vec<String> {
        let got = Arc::new(Mutex::new(Vec::new()));
        let host = test::host();
        let build = Build { host: &host, parent: "/apisix/routes/1", metadata: None };
        let keeper = Keeper { failures: AtomicUsize::new(failures), got: got.clone() };
        let batches = Batches::open(plugin, &conf, &build, || Ok(Box::new(keeper))).unwrap();
        let ex = test::exchange("GET / HTTP/1.1\nHost: a");
        for entry in 0..count {
            batches.push(entry.to_string().into_bytes(), most, &ex);
        }
        let kind = batches.state.kind.clone();
        drop(batches);
        let until = Clock::now() + Duration::from_secs(10);
        while kind.pending.load(Ordering::Relaxed) > 0 && Clock::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::mem::take(&mut *got.lock().unwrap())
    }

    #[test]
    fn batches_are_full_or_all_that_is_left() {
        let conf = json!({ "batch_max_size": 2 });
        assert_eq!(arrived("test-full", conf, 0, 3, 100), ["[0,1]", "[2]"]);
        let mut alone = arrived("test-single", json!({ "batch_max_size": 1 }), 0, 2, 100);
        alone.sort();
        assert_eq!(alone, ["0", "1"]);
    }

    #[test]
    fn a_failed_batch_is_tried_again_or_dropped_and_counted() {
        let conf = json!({ "max_retry_count": 2, "retry_delay": 0 });
        assert_eq!(arrived("test-again", conf.clone(), 2, 2, 100), ["[0,1]"]);
        assert!(arrived("test-lost", conf, 3, 2, 100).is_empty());
        assert!(dropped().contains(&("test-lost", 2)));
    }

    #[test]
    fn a_backlog_is_bounded() {
        assert_eq!(arrived("test-bound", json!({}), 0, 5, 3), ["[0,1,2]"]);
        assert!(dropped().contains(&("test-bound", 2)));
    }

    #[test]
    fn a_backlog_is_bounded_where_nobody_says_how() {
        let count = limits::PENDING_LOG_ENTRIES as usize + 5;
        let conf = json!({ "batch_max_size": count });
        let batches = arrived("test-default", conf, 0, count, max_pending(None));
        let entries: usize = batches.iter().map(|batch| batch.split(',').count()).sum();
        assert_eq!(entries, count - 5);
        assert!(dropped().contains(&("test-default", 5)));
    }

    #[test]
    fn cores_share_a_queue_and_the_metric_shows_it() {
        let host = test::host();
        let build = Build { host: &host, parent: "/apisix/routes/7", metadata: None };
        let conf = json!({ "name": "shared", "inactive_timeout": 60 });
        let keeper = || Keeper { failures: AtomicUsize::new(0), got: Arc::default() };
        let open = || Batches::open("test-shared", &conf, &build, || Ok(Box::new(keeper()))).unwrap();
        let (one, two) = (open(), open());
        assert!(Arc::ptr_eq(&one, &two));
        let ex = test::exchange("GET / HTTP/1.1\nHost: a");
        one.push(b"1".to_vec(), 100, &ex);
        let sample = gathered().into_iter().find(|sample| sample.name == "shared").unwrap();
        assert_eq!((&*sample.route_id, &*sample.server_addr, sample.entries), ("", "127.0.0.1", 1));
    }
}
