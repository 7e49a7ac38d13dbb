//! Starting the process: logs, the threads of the cores and of control; and waiting for its end.

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{Sender as Ready, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::banner::banner;
use super::sockets::{Bound, UdpBound, bind_all, listen_all};
use super::{GatewayParts, Parts, run};
use crate::config::{AccessLog as AccessLogConfig, Config, Level, Loaded, PID_FILE};
use crate::control::applied::Applied;
use crate::control::pid_file::PidFile;
use crate::control::run as control;
use crate::gate::Access;
use crate::limits;
use crate::mail::{Cores, Elder, ToControl};
use crate::plugin::Registry;
use crate::plugin::counters::Tables;
use crate::reactor::{self, Driver, DriverKind, mailbox};
use crate::telemetry::file::{LogFile, Target};
use crate::telemetry::files::{self, Log};
use crate::telemetry::format::{Escape, LogFormat};
use crate::telemetry::lines::LogLines;
use crate::telemetry::metrics::{Metrics, Shape};
use crate::transport::quic::QuicKeys;
use crate::transport::site::{Shared as TlsShared, Sites};
use crate::transport::trust::{self, Trust};

/// The secret of HTTP/3, in the directory of what a gateway keeps.
const QUIC_KEY: &str = "quic.key";

/// Runs the gateway until a signal ends it.
pub fn boot(loaded: Loaded) -> ExitCode {
    let config = Arc::new(loaded.config.clone());
    if let Err(error) = start_logs(&loaded) {
        eprintln!("ringway: the error log cannot be opened: {error}");
        return ExitCode::FAILURE;
    }
    crate::telemetry::identify(config.id.as_deref(), &config.path("conf/apisix.uid"));
    match try_boot(&config) {
        Ok(code) => {
            crate::telemetry::log::flush();
            code
        }
        Err(error) => {
            log::error!("{error}");
            crate::telemetry::log::flush();
            eprintln!("ringway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_boot(config: &Arc<Config>) -> Result<ExitCode, String> {
    raise_descriptor_limit(config.worker_rlimit_nofile);
    let count = config.worker_processes.unwrap_or_else(reactor::core_count).clamp(1, limits::CORES);
    let _pid_file = hold_pid_file(config);
    let ports = control::Ports::bind(config)?;
    let registry = Arc::new(crate::plugins::registry());
    let (to_control, from_cores) = tokio::sync::mpsc::channel(limits::CONTROL_MAIL);
    let mut starter = Starter {
        count,
        sockets: Vec::new(),
        stream_registry: Arc::new(crate::plugins::stream::registry()),
        registry: registry.clone(),
        metrics: Metrics::new(shape(config)),
        counters: Tables::default(),
        trust: trusted(config)?,
        applied: Arc::new(Applied::new(count)),
        tls: Arc::new(TlsShared::new()?),
        quic: None,
        udp: Vec::new(),
        started: Vec::new(),
        to_control,
        threads: Arc::default(),
    };
    let (cores, drivers) = starter.start(0, config)?;
    let threads = starter.threads.clone();
    let parts = control::Parts {
        config: config.clone(),
        registry,
        metrics: starter.metrics.clone(),
        cores,
        applied: starter.applied.clone(),
        from_cores,
        trust: starter.trust.clone(),
        staples: starter.tls.staples.clone(),
        ports,
        banner: banner(config, count, &drivers),
        start_cores: Box::new(move |generation, config| {
            starter.start(generation, config).map(|(cores, _)| cores)
        }),
    };
    let control = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || control::run(parts))
        .map_err(|error| error.to_string())?;
    let outcome = control.join().map_err(|_| "the control thread panicked".to_string())?;
    for thread in std::mem::take(&mut *threads.lock().unwrap_or_else(PoisonError::into_inner)) {
        let _ = thread.join();
    }
    crate::plugins::kit::batch::finish();
    files::flush();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// What the cores of all generations share. It starts those of the process, and new ones at each reload.
struct Starter {
    count: usize,
    /// The listening sockets, one an address and core. The cores have copies of them: what waits in a backlog is
    /// not lost when one generation follows the other.
    sockets: Vec<Bound>,
    /// The same for UDP.
    udp: Vec<UdpBound>,
    /// The cores that were started, those of now last, as long as they have not ended.
    started: Vec<Elder>,
    stream_registry: Arc<Registry>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    counters: Tables,
    trust: Trust,
    applied: Arc<Applied>,
    /// TLS sessions outlive a reload.
    tls: Arc<TlsShared>,
    /// So do QUIC's keys, once HTTP/3 is served.
    quic: Option<Arc<QuicKeys>>,
    to_control: tokio::sync::mpsc::Sender<ToControl>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// What is counted.
fn shape(config: &Config) -> Shape {
    let prometheus = &config.prometheus;
    Shape::new(&prometheus.prefix, prometheus.buckets.as_deref(), Some(&prometheus.metrics))
}

type Drivers = Vec<(DriverKind, Option<String>)>;

impl Starter {
    /// Starts cores, and says how to reach them and what drives them. After an error
    /// everything is as it was.
    fn start(&mut self, generation: u32, config: &Arc<Config>) -> Result<(Arc<Cores>, Drivers), String> {
        let sockets = listen_all(config, self.count, &self.sockets)?;
        let udp = bind_all(config, self.count, &self.udp)?;
        if self.quic.is_none() && !config.listen.http3.is_empty() {
            self.quic = Some(Arc::new(QuicKeys::kept(&config.deployment.data.join(QUIC_KEY))?));
        }
        let access = open_access_log(config.http.access_log.as_ref())?;
        let stream_access = open_access_log(config.streams.access_log.as_ref())?;
        // A descriptor that cannot be had is found out before the first thread is there.
        let copies: io::Result<Vec<_>> = (0..self.count)
            .map(|index| {
                let listeners: io::Result<Vec<_>> =
                    sockets.iter().map(|bound| bound.listening(index)).collect();
                let datagrams: io::Result<Vec<_>> = udp.iter().map(|bound| bound.socket(index)).collect();
                Ok((listeners?, datagrams?))
            })
            .collect();
        let copies = copies.map_err(|error| format!("a socket cannot be shared: {error}"))?;
        self.metrics.reshape(shape(config));
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..self.count).map(|_| mailbox(limits::CORE_MAIL)).unzip();
        let cores = Arc::new(Cores::new(senders));
        self.started.retain(|elder| !elder.cores.are_gone());
        let elders: Arc<[Elder]> = self.started.as_slice().into();
        let alpn: &[&[u8]] = if config.enable_http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        let sites =
            Arc::new(Sites::new(config.ssl.clone(), alpn, !config.listen.http3.is_empty(), self.tls.clone()));
        let (ready, readiness) = channel();
        for ((index, mail), (listeners, udp)) in receivers.into_iter().enumerate().zip(copies) {
            let gateway = GatewayParts {
                config: config.clone(),
                registry: self.registry.clone(),
                stream_registry: self.stream_registry.clone(),
                counters: self.counters.clone(),
                metrics: self.metrics.core(),
                access: access.as_ref().map(|(file, log)| access_log(file, log)),
                stream_access: stream_access.as_ref().map(|(file, log)| access_log(file, log)),
                trust: self.trust.clone(),
                control: self.to_control.clone(),
            };
            let parts = Parts {
                index,
                gateway,
                listeners,
                udp,
                quic: self.quic.clone(),
                mail,
                cores: cores.clone(),
                generation,
                elders: elders.clone(),
                applied: self.applied.clone(),
                sites: sites.clone(),
            };
            match start_core(parts, ready.clone(), self.to_control.clone()) {
                Ok(thread) => self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread),
                Err(error) => drop(ready.send(Err(error.to_string()))),
            }
        }
        drop(ready);
        let drivers = readiness.iter().take(self.count).collect::<Result<Vec<_>, String>>();
        // Those that did start wait for a configuration that never comes.
        let drivers = drivers.inspect_err(|_| cores.end())?;
        self.started.push(Elder { generation, cores: cores.clone() });
        self.sockets = sockets;
        self.udp = udp;
        Ok((cores, drivers))
    }
}

fn start_logs(loaded: &Loaded) -> io::Result<()> {
    let error_log = &loaded.config.error_log;
    let target = error_log.path.clone().map_or(Target::Stderr, Target::File);
    crate::telemetry::log::start(target, &error_log.level)?;
    for note in &loaded.notes {
        match note.level {
            Level::Info => log::info!("{note}"),
            Level::Warn | Level::Error => log::warn!("{note}"),
        }
    }
    Ok(())
}

/// The pid file serves `ringway stop` and the like; a gateway that cannot have it runs without.
fn hold_pid_file(config: &Config) -> Option<PidFile> {
    let path = config.path(PID_FILE);
    PidFile::hold(&path)
        .map_err(|error| log::warn!("the pid file {} is not written: {error}", path.display()))
        .ok()
}

/// `worker_rlimit_nofile`, as far as the host allows it.
fn raise_descriptor_limit(wanted: u64) {
    match reactor::raise_descriptor_limit(wanted) {
        Ok(limit) if limit < wanted => {
            log::warn!("worker_rlimit_nofile is {wanted}, the host allows {limit} descriptors");
        }
        Ok(_) => {}
        Err(error) => log::warn!("worker_rlimit_nofile cannot be set: {error}"),
    }
}

fn open_access_log(log: Option<&AccessLogConfig>) -> Result<Option<(LogFile, AccessLogConfig)>, String> {
    let Some(log) = log else { return Ok(None) };
    let file = files::open(Log::Access, &log.path)
        .map_err(|error| format!("the access log {} cannot be opened: {error}", log.path.display()))?;
    Ok(Some((file, log.clone())))
}

fn access_log(file: &LogFile, conf: &AccessLogConfig) -> Access {
    let escape = Escape::named(&conf.escape).unwrap_or(Escape::Default);
    Access {
        log: LogLines::new(file.clone(), conf.buffer_bytes),
        format: LogFormat::compile(&conf.format, escape, |name| Box::from(name)),
    }
}

/// Whom TLS towards upstreams believes, read once a process.
fn trusted(config: &Config) -> Result<Trust, String> {
    let path =
        config.listen.trusted_certificate.as_ref().map_or("system".into(), |path| path.to_string_lossy());
    trust::roots(&path).map(Trust::Roots).map_err(|error| format!("ssl_trusted_certificate: {error}"))
}

/// The thread of one core. It says which driver it has before it serves.
fn start_core(
    parts: Parts,
    ready: Ready<Result<(DriverKind, Option<String>), String>>,
    control: tokio::sync::mpsc::Sender<ToControl>,
) -> io::Result<JoinHandle<()>> {
    let Parts { index, generation, .. } = parts;
    std::thread::Builder::new().name(format!("core-{index}")).spawn(move || {
        if !reactor::pin(index) {
            log::warn!("core {index} is not pinned to a processor");
        }
        reactor::nice::go_first();
        let conf = reactor::Config { driver: driver(), ..reactor::Config::default() };
        let started = ready.clone();
        let ended = reactor::block_on(conf, |info| {
            let _ = started.send(Ok((info.driver, info.refused)));
            run(parts)
        });
        if let Err(error) = ended {
            let _ = ready.send(Err(format!("core {index} cannot start: {error}")));
        }
        let _ = control.blocking_send(ToControl::CoreEnded { generation, core: index });
    })
}

/// RINGWAY_REACTOR: `io_uring` or `epoll` insists on one, for tests and for hosts with doubts.
fn driver() -> Driver {
    match std::env::var("RINGWAY_REACTOR").as_deref() {
        Ok("io_uring") => Driver::Uring,
        Ok("epoll") => Driver::Epoll,
        _ => Driver::Auto,
    }
}
