//! Where mail from the cores, findings of the resolver and the prober, and changes of the configuration meet.

use std::collections::HashMap;
use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::{mpsc, oneshot};

use super::admin::message::{AdminRequest, AdminResponse};
use super::admin::{self, AdminState};
use super::dns::{self, DnsConfig, DnsDelta, Family, Lookup};
use super::feed::Feed;
use super::nodes::{Nodes, Order};
use super::outbox::Outbox;
use super::probe::{self, HealthDelta, ProbeTls};
use super::reload::NewCores;
use super::scrape::Scrape;
use crate::config::Config;
use crate::limits;
use crate::mail::{AdminAnswer, AdminCall, Resolved, ToControl, ToCore};
use crate::model::delta::Batch;
use crate::transport::trust::{self, Trust};

/// Everything that this loop hears of.
pub struct Switchboard {
    nodes: Nodes,
    outbox: Arc<Outbox>,
    admin: Option<Arc<AdminState>>,
    names: mpsc::Sender<dns::Order>,
    lookup: Arc<Lookup>,
    scrape: Option<Scrape>,
    probes: mpsc::Sender<probe::Order>,
    /// The prober as others reach it: see [`Switchboard::probes`].
    asks: mpsc::Sender<probe::Order>,
    asked: mpsc::Receiver<probe::Order>,
    resolved: mpsc::UnboundedReceiver<DnsDelta>,
    verdicts: mpsc::UnboundedReceiver<HealthDelta>,
}

/// Where it hears from.
pub struct Heard {
    /// Mail from the cores.
    pub mail: mpsc::Receiver<ToControl>,
    /// What the cores were told of the configuration.
    pub batches: mpsc::UnboundedReceiver<Batch>,
    /// New cores that take over.
    pub reloads: mpsc::Receiver<NewCores>,
}

impl Switchboard {
    /// Starts the resolver and the prober.
    pub fn start(config: &Config, outbox: Arc<Outbox>, trust: &Trust) -> Result<Self, String> {
        let (names, orders) = mpsc::channel(limits::CONTROL_MAIL);
        let lookup = Lookup::new(DnsConfig::from(config))
            .map_err(|error| format!("the resolver cannot start: {error}"))?;
        let lookup = Arc::new(lookup);
        // bounded by what the resolver and the prober have in flight
        let (found, resolved) = mpsc::unbounded_channel();
        tokio::spawn(dns::run(orders, lookup.clone(), move |delta| drop(found.send(delta))));
        let (probes, orders) = mpsc::channel(limits::CONTROL_MAIL);
        let tls = |trust: &Trust| trust::client_config(trust, None, &[]).map_err(|error| error.to_string());
        let tls = ProbeTls { verified: tls(trust)?, unverified: tls(&Trust::Anyone)? };
        let (judged, verdicts) = mpsc::unbounded_channel();
        tokio::spawn(probe::run(orders, tls, move |delta| drop(judged.send(delta))));
        let (asks, asked) = mpsc::channel(limits::CONTROL_MAIL);
        let nodes = Nodes::new(config.disable_upstream_healthcheck);
        let (admin, scrape) = (None, None);
        Ok(Switchboard {
            nodes,
            outbox,
            admin,
            names,
            lookup,
            scrape,
            probes,
            asks,
            asked,
            resolved,
            verdicts,
        })
    }

    /// To the prober, for the Control API and the metrics. What they ask goes behind the mail that has come before
    /// it: an answer tells of every request whose client could ask for it.
    pub fn probes(&self) -> mpsc::Sender<probe::Order> {
        self.asks.clone()
    }

    /// Runs until all cores have ended: the `cores` of the start, and those of each reload.
    pub async fn run(
        mut self,
        admin: Option<Arc<AdminState>>,
        feed: Arc<Feed>,
        scrape: Scrape,
        heard: Heard,
        cores: usize,
    ) {
        self.admin = admin;
        self.scrape = Some(scrape);
        let Heard { mut mail, mut batches, mut reloads } = heard;
        let mut running = HashMap::from([(0, cores)]);
        while !running.is_empty() {
            tokio::select! {
                // A core speaks of upstreams that it was told of: what it was told must be known here first.
                biased;
                Some(batch) = batches.recv() => {
                    for delta in batch.deltas.iter() {
                        let orders = self.nodes.changed(delta);
                        self.place(orders).await;
                    }
                }
                // Before mail: the end of the old cores is not the end of all.
                Some(new) = reloads.recv() => {
                    running.insert(new.generation, new.cores.count());
                    self.take_over(&feed, new).await;
                }
                // Before mail: what they say ends the cores' reports.
                Some(delta) = self.verdicts.recv() => {
                    self.nodes.verdict(&delta).iter().for_each(|message| self.outbox.send(message));
                }
                Some(message) = mail.recv() => match message {
                    ToControl::CoreEnded { generation, .. } => {
                        if running.get_mut(&generation).is_none_or(|left| { *left -= 1; *left == 0 }) {
                            running.remove(&generation);
                            self.outbox.forget(generation);
                        }
                    }
                    message => self.hear(message).await,
                },
                Some(order) = self.asked.recv() => self.place(vec![Order::Probe(order)]).await,
                Some(delta) = self.resolved.recv() => {
                    let (message, orders) = self.nodes.resolved(delta);
                    self.outbox.send(&message);
                    self.place(orders).await;
                }
                else => return,
            }
        }
    }

    /// New cores take the place of those of now. They are told all that the old ones know.
    async fn take_over(&self, feed: &Feed, new: NewCores) {
        let mut first: Vec<ToCore> = self.nodes.known_names().collect();
        let (answer, checkers) = oneshot::channel();
        if self.probes.send(probe::Order::List(answer)).await.is_ok() {
            for checker in checkers.await.unwrap_or_default() {
                for (address, target) in checker.nodes.iter().filter(|(_, target)| !target.status.usable()) {
                    let (upstream, ip) = (checker.upstream.clone(), address.ip.clone());
                    let verdict =
                        HealthDelta { upstream, ip, port: address.port, status: target.status, version: 0 };
                    first.extend(self.nodes.verdict(&verdict));
                }
            }
        }
        // While the model is held nothing is published: no change can come between.
        let model = feed.model();
        first.push(ToCore::Config(feed.everything(&model)));
        self.outbox.replace(new.generation, new.cores, first, new.drain_ms);
    }

    async fn hear(&mut self, message: ToControl) {
        match message {
            ToControl::Admin(call) => drop(tokio::spawn(admin_call(self.admin.clone(), *call))),
            ToControl::Passive { upstream, host, port, seen } => {
                let order = self.nodes.passive(&upstream, &host, port, seen);
                self.place(order.into_iter().collect()).await;
            }
            ToControl::InUse(upstream) => {
                let order = self.nodes.in_use(&upstream);
                self.place(order.into_iter().collect()).await;
            }
            ToControl::Resolve { name, answer } => {
                drop(tokio::spawn(resolve(self.lookup.clone(), name, answer)));
            }
            ToControl::Scrape(answer) => {
                if let Some(scrape) = self.scrape.clone() {
                    tokio::spawn(async move { drop(answer.send(scrape.text().await)) });
                }
            }
            ToControl::Name(name) => self.place(vec![Order::Dns(dns::Order::Use(name))]).await,
            ToControl::CoreEnded { .. } => {}
        }
    }

    async fn place(&self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Dns(order) => drop(self.names.send(order).await),
                Order::Probe(order) => drop(self.probes.send(order).await),
            }
        }
    }
}

/// A name that a plugin calls.
async fn resolve(lookup: Arc<Lookup>, name: Arc<str>, answer: oneshot::Sender<Resolved>) {
    let resolved = match lookup.resolve(&name, Family::V4).await {
        dns::Answer::Addresses { addresses, ttl, .. } => {
            Resolved { addresses, valid_ms: ttl.as_millis() as u64 }
        }
        failed => {
            log::error!("failed to parse domain: {name}, error: {failed:?}");
            Resolved { addresses: Arc::new([]), valid_ms: 0 }
        }
    };
    let _ = answer.send(resolved);
}

/// An Admin API call that came by a proxy port.
async fn admin_call(admin: Option<Arc<AdminState>>, call: AdminCall) {
    let AdminCall { method, target, headers, body, peer, answer } = call;
    let response = match (&admin, method.parse()) {
        (Some(admin), Ok(method)) => {
            let headers = headers.into_iter();
            let headers = headers
                .filter_map(|(n, v)| Some((n.parse::<HeaderName>().ok()?, v.parse::<HeaderValue>().ok()?)))
                .collect();
            let body = bytes::Bytes::copy_from_slice(&body);
            let request = AdminRequest { method, target, headers, body, peer, server_name: None };
            admin::handle(admin, request).await
        }
        _ => AdminResponse::empty(400),
    };
    let headers = response.headers.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
    let _ = answer.send(AdminAnswer { status: response.status, headers, body: response.body.to_vec() });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config;
    use crate::control::certificates::Certificates;
    use crate::control::encryption::Keyring;
    use crate::control::plugin_lists::Lists;
    use crate::control::plugins::{Plugins, Unknown};
    use crate::control::store::tests::block_on;
    use crate::control::store::{Standalone, Store};
    use crate::mail::{Cores, Seen};
    use crate::model::delta::{Delta, Object};
    use crate::model::{Node, Stored, Upstream};
    use crate::plugin::Registry;
    use crate::reactor::{Receiver, mailbox};
    use crate::telemetry::metrics::{Metrics, Shape};
    use crate::upstream::health::Status;

    /// The upstream `1` with a node and passive checks.
    fn upstream() -> Batch {
        let node = Node { host: "192.0.2.1".into(), port: Some(80), weight: 1, priority: 0, metadata: None };
        let checks = json!({"active": {}, "passive": {"unhealthy": {"http_failures": 9}}});
        let value = Upstream { nodes: vec![node], checks: Some(checks.into()), ..Upstream::default() };
        let stored =
            Stored { id: "1".into(), create_revision: 1, modify_revision: 1, value: Arc::new(value) };
        Batch { revision: 1, deltas: [Delta::Put(Object::Upstream(Arc::new(stored)))].into() }
    }

    fn scrape(switchboard: &Switchboard, feed: &Arc<Feed>) -> Scrape {
        let lists = Arc::new(Lists::default().into());
        let store = Store::Standalone(Standalone::default());
        let metrics = Metrics::new(Shape::new("apisix_", None, None));
        let certificates = Arc::new(Certificates::new(Arc::default()));
        Scrape::new(&lists, &store, feed, switchboard.probes(), metrics, certificates)
    }

    /// A switchboard that does not run yet: what was sent before it does waits everywhere.
    struct Bench {
        switchboard: Switchboard,
        feed: Arc<Feed>,
        heard: Heard,
        mails: mpsc::Sender<ToControl>,
        changes: mpsc::UnboundedSender<Batch>,
        reloads: mpsc::Sender<NewCores>,
        /// What the core of now is told.
        core: Receiver<ToCore>,
    }

    fn one_core() -> (Arc<Cores>, Receiver<ToCore>) {
        let (sender, receiver) = mailbox(16);
        (Arc::new(Cores::new(vec![sender])), receiver)
    }

    impl Bench {
        fn new() -> Self {
            let config = config::load_text("", &|_| None).unwrap().config;
            let (cores, core) = one_core();
            let outbox = Arc::new(Outbox::new(cores));
            let switchboard = Switchboard::start(&config, outbox, &Trust::Anyone).unwrap();
            let registry = Arc::new(Registry::new(&[]));
            let plugins = Plugins::new(registry, Vec::<Box<str>>::new(), Keyring::default(), false);
            let feed = Arc::new(Feed::new(plugins.into(), Unknown::Skip, false));
            let (mails, mail) = mpsc::channel(16);
            let (changes, batches) = mpsc::unbounded_channel();
            let (reloads, new) = mpsc::channel(1);
            changes.send(upstream()).unwrap();
            let heard = Heard { mail, batches, reloads: new };
            Bench { switchboard, feed, heard, mails, changes, reloads, core }
        }

        /// Runs it with one core.
        fn run(switchboard: Switchboard, feed: Arc<Feed>, heard: Heard) -> impl Future<Output = ()> {
            let scrape = scrape(&switchboard, &feed);
            switchboard.run(None, feed, scrape, heard, 1)
        }
    }

    fn ended(generation: u32) -> ToControl {
        ToControl::CoreEnded { generation, core: 0 }
    }

    #[test]
    fn new_cores_are_heard_of_before_the_end_of_the_old_ones() {
        block_on(async {
            let Bench { switchboard, feed, heard, mails, changes: _changes, reloads, core: _core } =
                Bench::new();
            let (cores, told) = one_core();
            mails.send(ended(0)).await.unwrap();
            mails.send(ended(1)).await.unwrap();
            assert!(reloads.send(NewCores { generation: 1, cores, drain_ms: 1000 }).await.is_ok());
            Bench::run(switchboard, feed, heard).await;
            let told: Vec<ToCore> = std::iter::from_fn(|| told.try_recv()).collect();
            assert!(told.iter().any(|message| matches!(message, ToCore::Config(_))), "it ended without them");
        });
    }

    #[test]
    fn what_the_prober_says_is_heard_before_mail() {
        block_on(async {
            let Bench { mut switchboard, feed, heard, mails, changes: _changes, reloads: _reloads, core } =
                Bench::new();
            let (judged, verdicts) = mpsc::unbounded_channel();
            switchboard.verdicts = verdicts;
            mails.send(ended(0)).await.unwrap();
            let (upstream, ip) = ("/apisix/upstreams/1".into(), "192.0.2.1".into());
            let verdict = HealthDelta { upstream, ip, port: 80, status: Status::Unhealthy, version: 1 };
            judged.send(verdict).unwrap();
            Bench::run(switchboard, feed, heard).await;
            assert!(matches!(core.try_recv(), Some(ToCore::Health { healthy: false, .. })));
        });
    }

    #[test]
    fn who_asks_for_states_hears_of_all_mail_before_it() {
        block_on(async {
            let Bench { switchboard, feed, heard, mails, changes: _changes, reloads: _reloads, core: _core } =
                Bench::new();
            let probes = switchboard.probes();
            mails.send(ToControl::InUse("/apisix/upstreams/1".into())).await.unwrap();
            for _ in 0..7 {
                let (upstream, host) = ("/apisix/upstreams/1".into(), "192.0.2.1".into());
                let met = ToControl::Passive { upstream, host, port: 80, seen: Seen::Status(500) };
                mails.send(met).await.unwrap();
            }
            let (answer, checkers) = oneshot::channel();
            probes.send(probe::Order::List(answer)).await.unwrap();
            tokio::spawn(Bench::run(switchboard, feed, heard));
            let checkers = checkers.await.unwrap();
            assert_eq!(checkers[0].nodes[0].1.counters.http_failure, 7);
        });
    }
}
