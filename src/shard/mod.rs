//! The world of one core: it owns its gateway, answers mail, accepts and drains.

pub mod accept;
mod banner;
pub mod boot;
pub mod quic;
mod sockets;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::client::{Names, Outbound};
use crate::config::Config;
use crate::conn::Gate;
use crate::control::applied::Applied;
use crate::gate::{Access, Core};
use crate::limits;
use crate::live::{Live, Tools};
use crate::mail::{Cores, Elder, ToControl, ToCore};
use crate::model::KeepalivePool;
use crate::plugin::consumers::Consumers;
use crate::plugin::counters::Tables;
use crate::plugin::shared::Shared;
use crate::plugin::{Host, Registry};
use crate::reactor::{self, Accepted, Listener, Receiver};
use crate::telemetry::clock;
use crate::telemetry::metrics::CoreMetrics;
use crate::transport::pool::Pools;
use crate::transport::quic::{Endpoint, QuicKeys};
use crate::transport::trust::Trust;
use crate::transport::{Sites, TlsClients};
use crate::upstream::health::Status;
use crate::wire::h3::Code;

/// What a core is made of before its thread runs.
pub struct Parts {
    /// Its index, 0 … N−1.
    pub index: usize,
    /// What its gateway is made of.
    pub gateway: GatewayParts,
    /// Its listening sockets, in the order of the configuration.
    pub listeners: Vec<accept::Listening>,
    /// Its UDP sockets.
    pub udp: Vec<std::net::UdpSocket>,
    /// What QUIC connections of all cores have in common, if HTTP/3 is served.
    pub quic: Option<Arc<QuicKeys>>,
    /// Its mailbox.
    pub mail: Receiver<ToCore>,
    /// All cores.
    pub cores: Arc<Cores>,
    /// Which start of the cores this is.
    pub generation: u32,
    /// The cores of those before, the newest last: their QUIC connections go on until they end.
    pub elders: Arc<[Elder]>,
    /// The revision that each core runs.
    pub applied: Arc<Applied>,
    /// TLS towards clients.
    pub sites: Arc<Sites>,
}

/// What a core's gateway is made of.
pub struct GatewayParts {
    /// config.yaml.
    pub config: Arc<Config>,
    /// The plugins of this build.
    pub registry: Arc<Registry>,
    /// The plugins of stream routes.
    pub stream_registry: Arc<Registry>,
    /// Node-wide counters.
    pub counters: Tables,
    /// Its metrics page.
    pub metrics: CoreMetrics,
    /// Its access log.
    pub access: Option<Access>,
    /// The access log of layer 4.
    pub stream_access: Option<Access>,
    /// Whom TLS towards upstreams believes.
    pub trust: Trust,
    /// To control.
    pub control: tokio::sync::mpsc::Sender<ToControl>,
}

/// Runs a core until it has drained.
pub async fn run(parts: Parts) {
    let Parts { index, gateway, listeners, udp, quic, mail, cores, generation, elders, applied, sites } =
        parts;
    let core = Rc::new(gateway.start());
    let counts = Rc::downgrade(&core);
    reactor::on_panic(move |_| counts.upgrade().iter().for_each(|core| core.panicked()));
    let shard = Rc::new(accept::Shard::new(index, core, cores, applied, sites));
    let taps = taps(index, listeners);
    let (of_streams, of_quic) = udp.into_iter().partition(|socket| {
        socket.local_addr().is_ok_and(|address| shard.core.config.streams.udp.contains(&address))
    });
    let endpoints = quic::endpoints(&shard, of_quic, quic.as_deref(), (generation, elders));
    reactor::spawn(housekeeping(shard.clone()));
    answer_mail(&shard, mail, &taps, &endpoints, of_streams).await;
}

impl GatewayParts {
    /// The gateway, without an object yet.
    fn start(self) -> Core {
        let GatewayParts { config, registry, metrics, control, .. } = self;
        let (pools, tls) = (Rc::new(Pools::new()), Rc::new(TlsClients::new(self.trust)));
        let asks = control.clone();
        let names = Names::new(move |name| asks.try_send(ToControl::Name(name.into())).is_ok());
        let host = Rc::new(Host {
            consumers: Consumers::new(registry.clone()),
            counters: self.counters,
            metrics: RefCell::new(metrics),
            pools: pools.clone(),
            tls: tls.clone(),
            metadata: RefCell::default(),
            control,
            config: config.clone(),
            outbound: Rc::new(Outbound::new(names, pools.clone(), tls.clone())),
            enabled: RefCell::default(),
            attr: RefCell::new(config.plugin_attr.clone().into()),
            upstreams: RefCell::default(),
            now: reactor::now,
            unix_s: clock::unix_s,
            shared: Shared::default(),
        });
        let keep = keepalive(&config);
        let tools =
            Tools { registry, stream_registry: self.stream_registry, host: host.clone(), pools, keep, tls };
        let listed = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        let enabled = config.plugins.as_deref().map(listed);
        let stream_enabled = listed(config.stream_plugins.as_deref().unwrap_or_default());
        let live = Live::new(tools, config.router, enabled, stream_enabled);
        Core::new(live, host, config, self.access, self.stream_access)
    }
}

/// How connections of upstreams that say nothing of it are kept.
fn keepalive(config: &Config) -> KeepalivePool {
    let upstream = &config.http.upstream;
    KeepalivePool {
        size: upstream.connections,
        idle_timeout_ms: u32::try_from(upstream.timeout_ms).unwrap_or(u32::MAX),
        requests: upstream.requests,
    }
}

/// The listening sockets at work; nothing is accepted yet.
fn taps(core: usize, listeners: Vec<accept::Listening>) -> Vec<Rc<accept::Tap>> {
    let mut taps = Vec::new();
    for (at, accept::Listening { socket, local, begins }) in listeners.into_iter().enumerate() {
        match Listener::from_std(socket) {
            Ok(listener) => {
                let listener = RefCell::new(Some(Rc::new(listener)));
                taps.push(Rc::new(accept::Tap { at, listener, local, begins }));
            }
            Err(error) => log::error!("core {core} cannot listen on {local}: {error}"),
        }
    }
    taps
}

/// Mail, until the core is told to drain and has.
async fn answer_mail(
    shard: &Rc<accept::Shard>,
    mail: Receiver<ToCore>,
    taps: &[Rc<accept::Tap>],
    endpoints: &[Rc<Endpoint>],
    mut datagrams: Vec<std::net::UdpSocket>,
) {
    let core = &shard.core;
    let mut accepting = false;
    loop {
        let Some(message) = mail.recv().await else { return };
        match message {
            ToCore::Config(batch) => {
                core.live.borrow_mut().apply(&batch);
                shard.applied.set(shard.index, batch.revision);
                // The first batch is all that the store has. Who connects before it waits in the backlog: a
                // gateway without its routes would answer 404.
                if !std::mem::replace(&mut accepting, true) {
                    for tap in taps {
                        reactor::spawn(accept::accept(shard.clone(), tap.clone()));
                    }
                    quic::serve(endpoints);
                    crate::stream::udp::serve(core, std::mem::take(&mut datagrams));
                }
            }
            ToCore::Name { name, addresses } => {
                core.live.borrow_mut().set_name(&name, &addresses);
            }
            ToCore::Health { upstream, host, port, healthy, settled } => {
                let status = Status::of(healthy, settled);
                core.live.borrow_mut().set_health(&upstream, &host, port, status);
            }
            ToCore::Debug { basic } => core.debug.set(basic),
            ToCore::Adopt { accepted, listener } => adopt(shard, taps, accepted, listener),
            ToCore::Datagram(datagram) => quic::passed(endpoints, &datagram),
            ToCore::Drain { within_ms, gently } => {
                if !accepting {
                    taps.iter().for_each(|tap| drop(tap.listener.take()));
                }
                endpoints.iter().for_each(|endpoint| endpoint.close(gently));
                return drain(shard, &mail, taps, endpoints, within_ms, gently).await;
            }
        }
    }
}

/// Stops accepting, lets what is under way end, and gives up on the rest when the time is over.
async fn drain(
    shard: &Rc<accept::Shard>,
    mail: &Receiver<ToCore>,
    taps: &[Rc<accept::Tap>],
    endpoints: &[Rc<Endpoint>],
    within_ms: u64,
    gently: bool,
) {
    let mut until_ms = reactor::now_ms().saturating_add(within_ms);
    shard.core.drain(gently);
    for tap in taps {
        if let Some(listener) = &*tap.listener.borrow() {
            listener.stop();
        }
    }
    reactor::wake_all();
    let mut closed = false;
    loop {
        while let Some(message) = mail.try_recv() {
            match message {
                ToCore::Drain { within_ms, gently } => {
                    until_ms = until_ms.min(reactor::now_ms().saturating_add(within_ms));
                    shard.core.drain(gently);
                    reactor::wake_all();
                }
                // it was on its way when the other core had not heard yet
                ToCore::Adopt { accepted, listener } => adopt(shard, taps, accepted, listener),
                ToCore::Datagram(datagram) => quic::passed(endpoints, &datagram),
                _ => {}
            }
        }
        let idle = shard.connections() == 0 && taps.iter().all(|tap| tap.listener.borrow().is_none());
        if reactor::now_ms() >= until_ms || (idle && closed) {
            break;
        }
        match idle {
            // who was sent here until this moment is served first
            true => mail.close(),
            false => reactor::sleep(limits::DRAIN_TICK_MS).await,
        }
        closed |= idle;
    }
    endpoints.iter().for_each(|endpoint| endpoint.end(Code::NoError as u64));
    // their goodbyes leave
    reactor::yield_now().await;
    for access in [&shard.core.access, &shard.core.stream_access].into_iter().flatten() {
        access.borrow_mut().log.send();
    }
}

/// Serves a connection that another core has accepted.
fn adopt(shard: &Rc<accept::Shard>, taps: &[Rc<accept::Tap>], accepted: Accepted, listener: usize) {
    if let Some(tap) = taps.iter().find(|tap| tap.at == listener) {
        accept::adopt(shard, tap, accepted);
    }
}

/// Once a second: upstream connections that are too old or have ended, log lines that wait.
async fn housekeeping(shard: Rc<accept::Shard>) {
    loop {
        reactor::sleep(1000).await;
        let now_ms = reactor::now_ms();
        shard.core.live.borrow().sweep(now_ms);
        shard.core.links.sweep();
        let metrics = &mut *shard.core.host.metrics.borrow_mut();
        metrics.tick(metrics.metrics().now_ms());
        for access in [&shard.core.access, &shard.core.stream_access].into_iter().flatten() {
            access.borrow_mut().log.tick(now_ms);
        }
    }
}
