//! The control thread from its start to its end: sources in, deltas out, services up, signals.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, RwLock};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use super::admin::access::AccessLines;
use super::admin::server::{self, Service};
use super::admin::tls::{self, AdminAcceptor};
use super::admin::{AdminState, plugin_list};
use super::applied::Applied;
use super::certificates::Certificates;
use super::control_api::{self, ControlState};
use super::debug::DebugFile;
use super::encryption::Keyring;
use super::feed::Feed;
use super::outbox::Outbox;
use super::plugin_lists::PluginLists;
use super::plugins::{Plugins, Unknown};
use super::reload::{Reload, StartCores};
use super::rotation::{self, Logs};
use super::scrape::Scrape;
use super::secrets::managers::{Lifetimes, Tls};
use super::server_info;
use super::store::{Embedded, Etcd, File, Standalone, Store, etcd, etcd_tls};
use super::switchboard::{Heard, Switchboard};
use crate::config::{Config, Provider};
use crate::limits;
use crate::mail::{Cores, ToControl, ToCore};
use crate::model::delta::Batch;
use crate::plugin::Registry;
use crate::plugins::stream;
use crate::reactor::nice;
use crate::telemetry::files::{self, Log};
use crate::telemetry::metrics::Metrics;
use crate::transport::ocsp::Staples;
use crate::transport::trust::{Trust, client_config};

/// What control is made of.
pub struct Parts {
    /// config.yaml.
    pub config: Arc<Config>,
    /// The plugins of this build.
    pub registry: Arc<Registry>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The cores.
    pub cores: Arc<Cores>,
    /// The revision that each core runs.
    pub applied: Arc<Applied>,
    /// Mail from the cores.
    pub from_cores: mpsc::Receiver<ToControl>,
    /// Whom TLS believes.
    pub trust: Trust,
    /// What authorities say of certificates, for the cores.
    pub staples: Arc<Staples>,
    /// Where the other services listen.
    pub ports: Ports,
    /// What is printed when everything listens.
    pub banner: String,
    /// Starts cores anew, for a reload.
    pub start_cores: StartCores,
}

/// Runs until the gateway has ended. The error says why it could not start.
pub fn run(parts: Parts) -> Result<(), String> {
    nice::stand_back(10);
    let cores = parts.cores.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(serve(parts)),
        Err(error) => Err(error.to_string()),
    };
    if result.is_err() {
        cores.end();
    }
    result
}

async fn serve(parts: Parts) -> Result<(), String> {
    let Parts {
        config,
        registry,
        metrics,
        cores,
        applied,
        from_cores,
        trust,
        staples,
        ports,
        banner,
        start_cores,
    } = parts;
    let outbox = Arc::new(Outbox::new(cores.clone()));
    let plugins = Arc::new(plugins(&config, registry));
    let of_a_store = matches!(config.deployment.provider, Provider::Etcd | Provider::Embedded { .. });
    let follow = !of_a_store || config.admin.is_none();
    let feed = Arc::new(match of_a_store {
        true => Feed::new(plugins.clone(), Unknown::Skip, follow),
        false => Feed::new(plugins.clone(), Unknown::RefuseDisabled, follow).of_files(),
    });
    let store = open_store(&config).await?;
    // what has no objects yet cannot say when every core has them
    let waits = store.brings_objects();
    let events = store.watch().await.map_err(|error| error.to_string())?;
    let switchboard = Switchboard::start(&config, outbox.clone(), &trust)?;
    let plugin_lists = Arc::new(PluginLists::new(&config));
    let admin = admin_state(&config, &store, &feed, &plugins, &plugin_lists, &applied);
    let logs = Logs::new(&config);
    server_info::start(&config, &store, plugins.clone(), plugin_lists.clone());
    rotation::start(logs.clone(), plugins.clone(), plugin_lists.clone());
    if let Some(admin) = admin.clone() {
        tokio::spawn(async move { prepare(&admin).await });
    }
    let certificates = Arc::new(Certificates::new(staples));
    let scrape =
        Scrape::new(&plugin_lists, &store, &feed, switchboard.probes(), metrics, certificates.clone());
    let control = Arc::new(ControlState {
        store,
        feed: feed.clone(),
        plugins: plugins.clone(),
        plugin_lists: plugin_lists.clone(),
        applied: applied.clone(),
        certificates: certificates.clone(),
        probes: (!config.disable_upstream_healthcheck).then(|| switchboard.probes()),
    });
    Services { admin: admin.clone(), control, scrape: scrape.clone() }.start(ports, &config)?;
    tokio::spawn(outbox.clone().retry());
    tokio::spawn(DebugFile::new(config.deployment.debug.clone()).follow(plugins, outbox.clone()));
    let to_certificates = ask_others(&config, &trust, certificates, &feed)?;
    let (to_switchboard, batches) = mpsc::unbounded_channel();
    let to_cores = outbox.clone();
    let publish = Box::new(move |batch: Batch| {
        to_cores.send(&ToCore::Config(batch.clone()));
        let _ = to_certificates.send(batch.clone());
        let _ = to_switchboard.send(batch);
    });
    let (reloads, new_cores) = mpsc::channel(1);
    let reload = Reload {
        config: config.clone(),
        generation: 0,
        start_cores,
        reloads,
        admin: admin.clone(),
        plugin_lists,
        feed: feed.clone(),
    };
    let heard = Heard { mail: from_cores, batches, reloads: new_cores };
    let ended = tokio::spawn(switchboard.run(admin, feed.clone(), scrape, heard, cores.count()));
    tokio::spawn(async move { feed.run(events, publish).await });
    tokio::spawn(announce(banner, waits.then_some(applied)));
    obey_signals(reload, &outbox, &logs, ended).await
}

/// From now on others are asked for what objects refer to: authorities about certificates, of the batches that are
/// sent here, and secret managers about references.
fn ask_others(
    config: &Config,
    trust: &Trust,
    certificates: Arc<Certificates>,
    feed: &Arc<Feed>,
) -> Result<mpsc::UnboundedSender<Batch>, String> {
    let tls = client_config(trust, None, &[]).map_err(|error| error.to_string())?;
    let (to_certificates, news) = mpsc::unbounded_channel();
    let responders = tls.clone();
    tokio::spawn(async move { certificates.follow(news, responders).await });
    let lifetimes = Lifetimes { value_ms: config.secret_ttl_ms, failure_ms: config.secret_failure_ttl_ms };
    let feed = feed.clone();
    let unverified = client_config(&Trust::Anyone, None, &[]).map_err(|error| error.to_string())?;
    let tls = Tls { verified: tls, unverified };
    tokio::spawn(async move { feed.secrets().follow(lifetimes, tls, |keys| feed.take_again(keys)).await });
    Ok(to_certificates)
}

/// What an admin node does for the others on its etcd. The list of plugins comes first: other nodes judge by it what is
/// written here, and the folders take a while. A store that is down now is no reason not to start.
async fn prepare(admin: &AdminState) {
    let prepared = match plugin_list::refresh(admin).await {
        Ok(()) => admin.store.init_directories().await,
        failed => failed,
    };
    if let Err(error) = prepared {
        log::warn!("the store was not prepared: {error}");
    }
}

fn plugins(config: &Config, registry: Arc<Registry>) -> Plugins {
    let keyring = Keyring::new(config.data_encryption.keyring.iter().map(String::as_str));
    let enabled = config.plugins.clone().unwrap_or_default();
    // A file is written by hand, in the clear (apisix/plugin.lua, `enable_gde`).
    let encrypts = config.data_encryption.enable_encrypt_fields
        && matches!(config.deployment.provider, Provider::Etcd | Provider::Embedded { .. });
    let plugins = Plugins::new(registry, enabled, keyring, encrypts).with_stream(stream::registry());
    plugins.enable_stream(config.stream_plugins.as_deref().unwrap_or_default());
    let missing = plugins.missing();
    if !missing.is_empty() {
        log::warn!(
            "enabled plugins that ringway has not yet: {}; what uses one gets 503",
            missing.join(", ")
        );
    }
    plugins
}

async fn open_store(config: &Config) -> Result<Store, String> {
    let text = |error: super::store::Error| error.to_string();
    Ok(match &config.deployment.provider {
        Provider::Embedded { path } => {
            Store::Embedded(Embedded::open(path, &config.deployment.etcd.prefix).map_err(text)?)
        }
        Provider::Yaml { path } | Provider::Json { path } => Store::File(File::open(path.clone())),
        Provider::Etcd => Store::Etcd(Etcd::connect(etcd_options(config)).await.map_err(text)?),
        Provider::StandaloneApi => Store::Standalone(Standalone::default()),
    })
}

fn etcd_options(config: &Config) -> etcd::Options {
    let etcd = &config.deployment.etcd;
    etcd::Options {
        hosts: etcd.hosts.clone(),
        prefix: etcd.prefix.clone(),
        user: etcd.user.clone().zip(etcd.password.clone()),
        tls: etcd_tls::Tls {
            identity: etcd.tls_cert.clone().zip(etcd.tls_key.clone()),
            verify: etcd.tls_verify,
            sni: etcd.tls_sni.clone(),
            trusted: config.listen.trusted_certificate.clone(),
        },
        timeout_ms: etcd.timeout_ms,
        watch_timeout_ms: etcd.watch_timeout_ms,
        resync_delay_ms: etcd.resync_delay_ms,
        startup_retry: etcd.startup_retry,
        snapshot: Some(config.deployment.data.join("etcd.snapshot")),
    }
}

fn admin_state(
    config: &Config,
    store: &Store,
    feed: &Arc<Feed>,
    plugins: &Arc<Plugins>,
    plugin_lists: &Arc<PluginLists>,
    applied: &Arc<Applied>,
) -> Option<Arc<AdminState>> {
    let options = config.admin.clone()?;
    Some(Arc::new(AdminState {
        store: store.clone(),
        feed: feed.clone(),
        plugins: plugins.clone(),
        applied: applied.clone(),
        options: RwLock::new(options.into()),
        stream: config.stream,
        protocols: config.streams.protocols.clone(),
        plugin_lists: plugin_lists.clone(),
        written: AtomicI64::new(0),
        access: RwLock::new(access_lines(config)),
    }))
}

/// The Admin API's part of the access log.
pub(super) fn access_lines(config: &Config) -> Option<AccessLines> {
    let log = config.http.access_log.as_ref()?;
    let file = files::open(Log::Access, &log.path); // the cores have it open
    file.ok().map(|file| AccessLines::new(file, log))
}

/// Everything that listens on the control thread.
struct Services {
    admin: Option<Arc<AdminState>>,
    control: Arc<ControlState>,
    scrape: Scrape,
}

/// The sockets of those services that the configuration asks for. They are bound before the proxy's: who
/// finds a proxy port open finds the others open, too, and waits in a backlog until the store is read.
pub struct Ports {
    admin: Option<TcpListener>,
    admin_tls: Option<AdminAcceptor>,
    status: Option<TcpListener>,
    control: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Ports {
    /// Binds them. The error names the address that cannot be had.
    pub fn bind(config: &Config) -> Result<Self, String> {
        let own_port = config.admin.as_ref().filter(|options| !options.on_node_port);
        let tls = own_port.and_then(|options| options.tls.as_ref());
        Ok(Ports {
            admin_tls: tls.map(tls::acceptor).transpose()?,
            admin: bind(own_port.map(|options| options.listen))?,
            status: bind(config.status)?,
            control: bind(config.control)?,
            metrics: bind(config.prometheus.listen)?,
        })
    }
}

fn bind(address: Option<SocketAddr>) -> Result<Option<TcpListener>, String> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok(Some(bound))
}

/// A socket for the control runtime.
fn adopt(listener: TcpListener) -> Result<tokio::net::TcpListener, String> {
    tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())
}

impl Services {
    fn start(self, ports: Ports, config: &Config) -> Result<(), String> {
        let slots = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS));
        let service = Service::new(config.server_name());
        if let (Some(state), Some(listener)) = (self.admin, ports.admin) {
            let body_bytes = match state.store.standalone() {
                Some(_) => limits::STANDALONE_BODY_BYTES,
                None => limits::ADMIN_BODY_BYTES,
            };
            let service = Service { body_bytes, tls: ports.admin_tls, ..service.clone() };
            tokio::spawn(server::serve(adopt(listener)?, slots.clone(), service, move |request| {
                let state = state.clone();
                async move { super::admin::serve(&state, request).await }
            }));
        }
        if let Some(listener) = ports.status {
            let applied = self.control.applied.clone();
            tokio::spawn(server::serve(adopt(listener)?, slots.clone(), service.clone(), move |request| {
                let applied = applied.clone();
                async move { control_api::status(&applied, &request) }
            }));
        }
        if let Some(listener) = ports.control {
            let state = self.control;
            tokio::spawn(server::serve(adopt(listener)?, slots.clone(), service.clone(), move |request| {
                let state = state.clone();
                async move { control_api::handle(&state, request).await }
            }));
        }
        if let Some(listener) = ports.metrics {
            let scrape = self.scrape;
            tokio::spawn(server::serve(adopt(listener)?, slots, service, move |request| {
                let scrape = scrape.clone();
                async move { scrape.answer(&request).await }
            }));
        }
        Ok(())
    }
}

/// The banner is printed when every core runs the first configuration.
async fn announce(banner: String, applied: Option<Arc<Applied>>) {
    if let Some(applied) = applied {
        applied.reached(0).await;
    }
    println!("{banner}");
}

/// QUIT drains for as long as `worker_shutdown_timeout`, TERM and INT for 10 s, HUP reads config.yaml again, USR1
/// reopens the logs.
async fn obey_signals(
    reload: Reload,
    outbox: &Outbox,
    logs: &Logs,
    mut ended: tokio::task::JoinHandle<()>,
) -> Result<(), String> {
    let stream = |kind| signal(kind).map_err(|error| format!("signals cannot be received: {error}"));
    let (mut quit, mut term) = (stream(SignalKind::quit())?, stream(SignalKind::terminate())?);
    let (mut int, mut usr1) = (stream(SignalKind::interrupt())?, stream(SignalKind::user_defined1())?);
    let mut hup = stream(SignalKind::hangup())?;
    // Gone once the process is to end, and with it the gateway's own copies of the listening sockets.
    let mut reload = Some(reload);
    let drain = |reload: &mut Option<Reload>, most_ms: Option<u64>| {
        let patience_ms = reload.take().map(|reload| reload.config.worker_shutdown_timeout_ms);
        let within_ms = patience_ms.into_iter().chain(most_ms).min();
        outbox.drain(within_ms.unwrap_or(limits::TERM_MS));
    };
    loop {
        tokio::select! {
            _ = quit.recv() => if reload.is_some() { drain(&mut reload, None) },
            _ = term.recv() => drain(&mut reload, Some(limits::TERM_MS)),
            _ = int.recv() => drain(&mut reload, Some(limits::TERM_MS)),
            _ = hup.recv() => if let Some(reload) = &mut reload
                && reload.run().await
            {
                logs.take(&reload.config);
            },
            _ = usr1.recv() => logs.reopen(),
            _ = &mut ended => return Ok(()),
        }
    }
}
