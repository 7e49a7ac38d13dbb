//! The store that APISIX uses. One client, one host at a time: when it fails the next one is tried. One
//! watch over the prefix; whenever its chain of changes is broken (connection lost, revisions compacted,
//! etcd wiped) everything is read again and the reader is left to find what differs, so no change can be
//! missed and none is repeated. What was read last is kept on disk for a start without etcd.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Channel, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions, GetResponse,
    KeyValue, PutOptions, ResponseHeader, Txn, TxnOp, WatchOptions, WatchResponse,
};
use tokio::sync::mpsc;

use super::etcd_tls::{self, Tls};
use super::snapshot::Snapshot;
use super::{Change, Entry, Error, Event, Health, Listing, Written};
use crate::limits;

/// `deployment.etcd` of config.yaml, and where the last snapshot goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://host:port` or `https://host:port`, in the order of preference.
    pub hosts: Vec<String>,
    /// Before every key.
    pub prefix: String,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// For https hosts.
    pub tls: Tls,
    /// One request, ms.
    pub timeout_ms: u64,
    /// How long the watch may be silent before etcd is asked whether it is still there, ms.
    pub watch_timeout_ms: u64,
    /// The pause before etcd is tried again, ms; up to half of it is added by chance, so that a fleet of
    /// gateways does not come back all at once.
    pub resync_delay_ms: u64,
    /// How often each host is tried at the start; the first try counts.
    pub startup_retry: u32,
    /// The file of the last snapshot; `None` keeps none.
    pub snapshot: Option<PathBuf>,
}

/// A handle to an etcd cluster.
#[derive(Clone)]
pub struct Etcd {
    cluster: Arc<Cluster>,
}

struct Cluster {
    options: Options,
    /// The host in use, or to be tried next: an index that only grows.
    host: AtomicUsize,
    client: tokio::sync::Mutex<Option<(usize, Client)>>,
    reachable: AtomicBool,
    from_snapshot: AtomicBool,
    snapshot: Option<Snapshot>,
    /// Read at the start, for the first watcher.
    first: Mutex<Option<(Vec<Entry>, i64)>>,
}

impl Etcd {
    /// Connects and reads everything once, trying each host `startup_retry` times (apisix/cli/etcd.lua
    /// `init`). If no etcd answers, the last snapshot stands in; without one this is an error.
    pub async fn connect(options: Options) -> Result<Etcd, Error> {
        if options.hosts.is_empty() {
            return Err(Error::Open("deployment.etcd.host is empty".into()));
        }
        let snapshot = options.snapshot.as_deref().map(Snapshot::open).transpose()?;
        let cluster = Arc::new(Cluster {
            host: AtomicUsize::new(0),
            client: tokio::sync::Mutex::new(None),
            reachable: AtomicBool::new(false),
            from_snapshot: AtomicBool::new(false),
            snapshot,
            first: Mutex::new(None),
            options,
        });
        let mut failure = Error::Unavailable("it was not asked".into());
        for _ in 0..cluster.options.startup_retry {
            match cluster.load().await {
                Ok(first) => {
                    cluster.keep(&Event::Snapshot { entries: first.0.clone(), revision: first.1 });
                    *cluster.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(first);
                    return Ok(Etcd { cluster });
                }
                Err(error) => {
                    log::warn!("etcd {}: {error}", cluster.host_name());
                    failure = error;
                    cluster.next_host();
                }
            }
        }
        let kept = cluster.snapshot.as_ref().map(Snapshot::read).transpose()?.flatten();
        let Some(first) = kept else {
            return Err(Error::Open(format!("no etcd of {:?} answers: {failure}", cluster.options.hosts)));
        };
        log::warn!("no etcd answers: starting with the last snapshot, revision {}", first.1);
        cluster.from_snapshot.store(true, Ordering::Relaxed);
        *cluster.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(first);
        Ok(Etcd { cluster })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.cluster.options.prefix
    }

    pub(super) fn health(&self) -> Health {
        Health {
            reachable: self.cluster.reachable.load(Ordering::Relaxed),
            from_snapshot: self.cluster.from_snapshot.load(Ordering::Relaxed),
        }
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let key = self.cluster.full(key);
        let response = self
            .cluster
            .read(|mut client| {
                let key = key.clone();
                async move { client.get(key, None).await }
            })
            .await?;
        Ok(response.kvs().first().and_then(|kv| self.cluster.entry(kv)))
    }

    pub(super) async fn list(&self, dir: &str) -> Result<Listing, Error> {
        let (entries, revision) = self.cluster.range(&format!("{dir}/")).await?;
        Ok(Listing { entries, revision })
    }

    pub(super) async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Option<i64>,
        ttl_s: Option<i64>,
    ) -> Result<Written, Error> {
        let key = self.cluster.full(key);
        self.cluster
            .write(|mut client| async move {
                let mut put = PutOptions::new();
                if let Some(ttl_s) = ttl_s {
                    let lease = client.lease_grant(ttl_s.clamp(1, limits::TTL_S), None).await?;
                    put = put.with_lease(lease.id());
                }
                let Some(expected) = expect else {
                    let response = client.put(key, value.to_vec(), Some(put.with_prev_key())).await?;
                    let existed = response.prev_key().is_some();
                    return Ok(Ok(Written { revision: revision(response.header()), existed }));
                };
                let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, expected);
                let write = TxnOp::put(key, value.to_vec(), Some(put));
                let response = client.txn(Txn::new().when([unchanged]).and_then([write])).await?;
                if !response.succeeded() {
                    return Ok(Err(Error::Conflict));
                }
                Ok(Ok(Written { revision: revision(response.header()), existed: expected != 0 }))
            })
            .await?
    }

    /// The version of the server that answers.
    pub(crate) async fn version(&self) -> Result<String, Error> {
        let status = self.cluster.read(|mut client| async move { client.status().await }).await?;
        Ok(status.version().to_owned())
    }

    /// Has a key live `ttl_s` from now on: its lease is renewed, or it is written with a new one where it is gone,
    /// differs, or was never written. `lease` is what the call before left there.
    pub(crate) async fn announce(
        &self,
        key: &str,
        value: Bytes,
        ttl_s: i64,
        lease: &mut Option<i64>,
    ) -> Result<(), Error> {
        let there = self.get(key).await?.is_some_and(|entry| entry.value == value);
        if let (true, Some(id)) = (there, *lease)
            && self.renew(id).await?
        {
            return Ok(());
        }
        let key = self.cluster.full(key);
        let id = self.cluster.write(|mut client| async move {
            let id = client.lease_grant(ttl_s, None).await?.id();
            client.put(key, value.to_vec(), Some(PutOptions::new().with_lease(id))).await?;
            Ok(id)
        });
        *lease = Some(id.await?);
        Ok(())
    }

    /// Renews a lease; `false` where it has ended.
    async fn renew(&self, id: i64) -> Result<bool, Error> {
        let renewed = self.cluster.attempt(|mut client| async move {
            let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
            keeper.keep_alive().await?;
            answers.message().await
        });
        Ok(renewed.await?.is_some_and(|answer| answer.ttl() > 0))
    }

    pub(super) async fn delete(&self, key: &str, below: bool) -> Result<Written, Error> {
        let key = self.cluster.full(key);
        self.cluster
            .write(|mut client| async move {
                let options = if below { DeleteOptions::new().with_prefix() } else { DeleteOptions::new() };
                let response = client.delete(key, Some(options)).await?;
                Ok(Written { revision: revision(response.header()), existed: response.deleted() > 0 })
            })
            .await
    }

    /// Starts the watch. To be called once, inside the control runtime; it ends when the reader is gone.
    pub(super) fn watch(&self) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(limits::WATCH_QUEUE);
        tokio::spawn(follow(self.cluster.clone(), events));
        receiver
    }
}

/// Why a watch ended. Either way everything is read again.
enum Broken {
    /// etcd is there but the chain of changes is not: read again at once.
    Chain(String),
    /// etcd failed: wait before the next try.
    Etcd(Error),
    /// Nobody reads any more.
    Reader,
}

/// Why the chain is broken although etcd has told everything.
const MISSED: &str = "the snapshot has missed a change";

/// The life of the watch: load, follow, and again.
async fn follow(cluster: Arc<Cluster>, events: mpsc::Sender<Event>) {
    let first = cluster.first.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut loaded = match first {
        Some((entries, revision)) if cluster.from_snapshot.load(Ordering::Relaxed) => {
            if events.send(Event::Snapshot { entries, revision }).await.is_err() {
                return;
            }
            None
        }
        first => first,
    };
    loop {
        let result = match loaded.take() {
            Some(loaded) => Ok(loaded),
            None => cluster.load().await,
        };
        let broken = match result {
            Err(error) => Broken::Etcd(error),
            Ok((entries, revision)) => {
                cluster.from_snapshot.store(false, Ordering::Relaxed);
                let event = Event::Snapshot { entries, revision };
                cluster.keep(&event);
                if events.send(event).await.is_err() {
                    return;
                }
                cluster.follow_from(revision, &events).await
            }
        };
        match broken {
            Broken::Reader => return,
            Broken::Chain(why) => log::warn!("etcd: {why}: reading everything again"),
            Broken::Etcd(error) => {
                log::warn!("etcd {}: {error}", cluster.host_name());
                cluster.next_host();
                let delay_ms = cluster.options.resync_delay_ms;
                let jitter_ms = fastrand::u64(0..=delay_ms / 2);
                tokio::time::sleep(Duration::from_millis(delay_ms + jitter_ms)).await;
            }
        }
    }
}

impl Cluster {
    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.options.prefix)
    }

    fn host_index(&self) -> usize {
        self.host.load(Ordering::Relaxed) % self.options.hosts.len()
    }

    fn host_name(&self) -> &str {
        &self.options.hosts[self.host_index()]
    }

    fn next_host(&self) {
        self.reachable.store(false, Ordering::Relaxed);
        self.host.fetch_add(1, Ordering::Relaxed);
    }

    /// The client of the host in use, connecting if there is none yet.
    async fn client(&self) -> Result<Client, etcd_client::Error> {
        let mut slot = self.client.lock().await;
        let wanted = self.host_index();
        if let Some((host, client)) = &*slot
            && *host == wanted
        {
            return Ok(client.clone());
        }
        let channel = etcd_tls::endpoint(&self.options.hosts[wanted], &self.options.tls)
            .map_err(|e| etcd_client::Error::InvalidArgs(e.to_string()))?
            .connect_timeout(self.timeout())
            .http2_keep_alive_interval(Duration::from_secs(limits::ETCD_PING_S))
            .keep_alive_timeout(Duration::from_secs(limits::ETCD_PING_S))
            .keep_alive_while_idle(true)
            .connect_lazy();
        let mut connect = ConnectOptions::new().with_auto_token_refresh(true);
        if let Some((user, password)) = &self.options.user {
            connect = connect.with_user(user, password);
        }
        let client = Client::from_channel(Channel::Tonic(channel), Some(connect)).await?;
        *slot = Some((wanted, client.clone()));
        Ok(client)
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.options.timeout_ms)
    }

    /// One try of a request on the host in use.
    async fn attempt<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let asked = async { request(self.client().await?).await };
        let result = match tokio::time::timeout(self.timeout(), asked).await {
            Ok(result) => result.map_err(|e| Error::Unavailable(reason(&e))),
            Err(_) => Err(Error::Unavailable("timeout".into())),
        };
        self.reachable.store(result.is_ok(), Ordering::Relaxed);
        result
    }

    /// A request that can be asked again elsewhere: every host once.
    async fn read<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut result = self.attempt(&request).await;
        for _ in 1..self.options.hosts.len() {
            let Err(error) = &result else { break };
            log::warn!("etcd {}: {error}", self.host_name());
            self.next_host();
            result = self.attempt(&request).await;
        }
        result
    }

    /// A request that must not be done twice. The host is asked for a sign of life first, so that a dead
    /// one costs a round trip and not the write.
    async fn write<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        if self.options.hosts.len() > 1 || !self.reachable.load(Ordering::Relaxed) {
            self.probe().await?;
        }
        self.attempt(request).await
    }

    /// The current revision, at the price of one small request.
    async fn probe(&self) -> Result<i64, Error> {
        let key = self.full("/");
        let response = self
            .read(|mut client| {
                let key = key.clone();
                let options = GetOptions::new().with_keys_only().with_limit(1);
                async move { client.get(key, Some(options)).await }
            })
            .await?;
        Ok(revision(response.header()))
    }

    async fn range(&self, below: &str) -> Result<(Vec<Entry>, i64), Error> {
        let key = self.full(below);
        let response: GetResponse = self
            .read(|client| {
                let key = key.clone();
                let mut kv = client.kv_client().max_decoding_message_size(limits::ETCD_ANSWER_BYTES);
                async move { kv.get(key, Some(GetOptions::new().with_prefix())).await }
            })
            .await?;
        let entries = response.kvs().iter().filter_map(|kv| self.entry(kv)).collect();
        Ok((entries, revision(response.header())))
    }

    /// Everything below the prefix.
    async fn load(&self) -> Result<(Vec<Entry>, i64), Error> {
        self.range("/").await
    }

    fn entry(&self, kv: &KeyValue) -> Option<Entry> {
        Some(Entry {
            key: self.key(kv)?,
            value: Bytes::copy_from_slice(kv.value()),
            create_revision: kv.create_revision(),
            mod_revision: kv.mod_revision(),
        })
    }

    fn key(&self, kv: &KeyValue) -> Option<Box<str>> {
        let Ok(key) = std::str::from_utf8(kv.key()) else {
            log::error!("etcd holds a key that is no text: {:?}", String::from_utf8_lossy(kv.key()));
            return None;
        };
        key.strip_prefix(&*self.options.prefix).map(Box::from)
    }

    /// Passes changes on until something breaks.
    async fn follow_from(&self, mut seen: i64, events: &mpsc::Sender<Event>) -> Broken {
        let key = self.full("/");
        let watch = self
            .attempt(|client| async move {
                let options = WatchOptions::new().with_prefix().with_start_revision(seen + 1);
                let mut watch = client.watch_client().max_decoding_message_size(limits::ETCD_ANSWER_BYTES);
                watch.watch(key, Some(options)).await
            })
            .await;
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(error) => return Broken::Etcd(error),
        };
        let patience = Duration::from_millis(self.options.watch_timeout_ms);
        loop {
            let response = match tokio::time::timeout(patience, watch.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => return Broken::Etcd(Error::Unavailable("the watch was closed".into())),
                Ok(Err(error)) => return Broken::Etcd(Error::Unavailable(reason(&error))),
                Err(_) => match self.probe().await {
                    Ok(now) if now < seen => return Broken::Chain(format!("revision {now} after {seen}")),
                    Ok(_) if self.snapshot_wants_everything() => return Broken::Chain(MISSED.into()),
                    Ok(_) => continue,
                    Err(error) => return Broken::Etcd(error),
                },
            };
            if response.compact_revision() > 0 {
                return Broken::Chain(format!("compacted up to revision {}", response.compact_revision()));
            }
            if response.canceled() {
                return Broken::Etcd(Error::Unavailable(format!(
                    "watch cancelled: {}",
                    response.cancel_reason()
                )));
            }
            let now = revision(response.header());
            if now < seen {
                return Broken::Chain(format!("revision {now} after {seen}"));
            }
            seen = now;
            let changes = self.changes(&response);
            if changes.is_empty() {
                continue;
            }
            if self.snapshot_wants_everything() {
                return Broken::Chain(MISSED.into());
            }
            let event = Event::Changes { changes, revision: now };
            self.keep(&event);
            if events.send(event).await.is_err() {
                return Broken::Reader;
            }
        }
    }

    fn changes(&self, response: &WatchResponse) -> Vec<Change> {
        let change = |event: &etcd_client::Event| {
            let kv = event.kv()?;
            let value = (event.event_type() == EventType::Put).then(|| Bytes::copy_from_slice(kv.value()));
            Some(Change {
                key: self.key(kv)?,
                value,
                create_revision: kv.create_revision(),
                mod_revision: kv.mod_revision(),
            })
        };
        response.events().iter().filter_map(change).collect()
    }

    fn snapshot_wants_everything(&self) -> bool {
        self.snapshot.as_ref().is_some_and(Snapshot::wants_everything)
    }

    fn keep(&self, event: &Event) {
        if let Some(snapshot) = &self.snapshot {
            snapshot.keep(event);
        }
    }
}

/// What etcd has said, or what keeps it from saying anything: the cause alone, without the layers above it.
fn reason(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else { return error.to_string() };
    let said = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    let causes = std::iter::successors(status.source(), |&cause| cause.source());
    match causes.last().map(ToString::to_string) {
        Some(cause) if cause != said => format!("{said}: {cause}"),
        _ => said.to_owned(),
    }
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}
