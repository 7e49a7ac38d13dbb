//! The road of an exchange, phase by phase. [`handle`] is the first page to read.

pub mod finish;
pub mod handle;
pub mod head;
pub mod mtls;
pub mod over_h2;
pub mod passive;
pub mod prepare;
pub mod proxy;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Config, RealIpSource};
use crate::conn::h2::{self, link::Links};
use crate::conn::h3;
use crate::conn::{Gate, Settings, Switched, tunnel};
use crate::exchange::{Body, BodyPiece, Client, Exchange, Facts, Reply};
use crate::expr::{IpNets, Template};
use crate::limits;
use crate::live::{Live, LiveUpstream, Plan};
use crate::mail::ToControl;
use crate::plugin::{Chain, Host, Phase, Phases};
use crate::pubsub::meter::Meter;
use crate::pubsub::{self, System, session};
use crate::reactor;
use crate::telemetry::format::LogFormat;
use crate::telemetry::lines::LogLines;
use crate::telemetry::tallies::Tallies;
use crate::wire::Name;

/// One core's gateway: its configuration as it runs, and what its exchanges share.
pub struct Core {
    /// The configuration as this core runs it.
    pub live: RefCell<Live>,
    /// Connections to upstreams that speak HTTP/2.
    pub links: Links,
    /// What sessions of publish and subscribe share.
    pub pubsub: Rc<pubsub::Hub>,
    /// What plugins share.
    pub host: Rc<Host>,
    /// config.yaml.
    pub config: Arc<Config>,
    /// The access log, if it is on.
    pub access: Option<RefCell<Access>>,
    /// The access log of layer 4, if it is on.
    pub stream_access: Option<RefCell<Access>>,
    /// The basic debug mode: answers name the plugins that ran (`conf/debug.yaml`).
    pub debug: Cell<bool>,
    /// Randomness of this core.
    pub rng: RefCell<fastrand::Rng>,
    settings: Settings,
    server_header: &'static [u8],
    /// `; charset=…` as it is put behind text types.
    charset: Option<Box<[u8]>>,
    real_ip_from: IpNets,
    /// The header that says the client's address, where it is a known one.
    real_ip_name: Name,
    trusted: Option<IpNets>,
    add_headers: Vec<(Box<[u8]>, Template, bool)>,
    #[allow(clippy::vec_box)] // they are handed out as boxes: a pointer moves, not a kilobyte
    spare: RefCell<Vec<Box<Exchange>>>,
    draining: Cell<Draining>,
}

/// Is the core about to end?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    /// Idle connections may send one more request.
    Gently,
    Now,
}

/// The access log of a core: its lines, and their format by variable name.
pub struct Access {
    /// Where lines gather.
    pub log: LogLines,
    /// What a line is made of.
    pub format: LogFormat<Box<str>>,
}

impl Core {
    /// A core's gateway over an empty configuration.
    pub fn new(
        live: Live,
        host: Rc<Host>,
        config: Arc<Config>,
        access: Option<Access>,
        stream_access: Option<Access>,
    ) -> Self {
        let add_headers = config.http.add_headers.iter();
        let add_headers =
            add_headers.map(|h| (h.name.as_bytes().into(), Template::compile(&h.value), h.always)).collect();
        Core {
            live: RefCell::new(live),
            links: Links::default(),
            pubsub: Rc::default(),
            host,
            settings: settings(&config),
            server_header: config.server_name().as_bytes(),
            charset: config.http.charset.as_ref().map(|name| format!("; charset={name}").into_bytes().into()),
            real_ip_from: IpNets::new(&config.http.real_ip.from),
            real_ip_name: match &config.http.real_ip.source {
                RealIpSource::Header(name) => Name::of(name.as_bytes()),
                RealIpSource::ProxyProtocol => Name::Other,
            },
            trusted: config.trusted_addresses.as_deref().map(IpNets::new),
            add_headers,
            config,
            access: access.map(RefCell::new),
            stream_access: stream_access.map(RefCell::new),
            debug: Cell::new(false),
            rng: RefCell::new(fastrand::Rng::new()),
            spare: RefCell::new(Vec::new()),
            draining: Cell::new(Draining::No),
        }
    }

    /// No connection is kept alive from now on. Those that wait for a next request are closed, unless `gently`:
    /// then they may send it.
    pub fn drain(&self, gently: bool) {
        self.draining.set(if gently { Draining::Gently } else { Draining::Now });
    }

    /// See [`Host::tell_control`].
    pub fn tell_control(&self, message: ToControl) -> bool {
        self.host.tell_control(message)
    }
}

/// The plan that the exchange has held since its match.
pub fn plan_of(ex: &Exchange) -> Option<&Plan> {
    ex.plan.as_ref()?.downcast_ref()
}

/// The global rules and the plan of the exchange, those of them that take part in `phase`.
pub fn taking_part(ex: &Exchange, phase: Phase) -> (Option<Rc<Chain>>, Option<Rc<Plan>>) {
    if !Phases(ex.phases).has(phase) {
        return (None, None);
    }
    let has_global =
        ex.global.as_ref().and_then(|chain| chain.downcast_ref::<Chain>()).is_some_and(|c| c.has(phase));
    let has_plan = plan_of(ex).is_some_and(|plan| plan.chain.has(phase));
    let global = ex.global.as_ref().filter(|_| has_global);
    let plan = ex.plan.as_ref().filter(|_| has_plan);
    (
        global.and_then(|chain| chain.clone().downcast().ok()),
        plan.and_then(|plan| plan.clone().downcast().ok()),
    )
}

fn settings(config: &Config) -> Settings {
    let http = &config.http;
    let ms = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Settings {
        keepalive_ms: ms(http.keepalive_timeout_ms),
        keepalive_requests: u32::try_from(http.keepalive_requests).unwrap_or(u32::MAX),
        header_ms: ms(http.client_header_timeout_ms),
        body_ms: ms(http.client_body_timeout_ms),
        send_ms: ms(http.send_timeout_ms),
        max_body_bytes: http.client_max_body_bytes,
        http2: config.enable_http2,
        head: crate::wire::http::RequestLimits {
            line_bytes: http.large_client_header_buffer_bytes as usize,
            head_bytes: http.large_client_header_buffer_bytes as usize
                * http.large_client_header_buffers as usize,
            ignore_invalid_headers: http.ignore_invalid_headers,
            underscores_in_headers: http.underscores_in_headers,
        },
    }
}

impl Core {
    /// An exchange of `client` begins or ends.
    fn count(&self, client: &Client, begins: bool) {
        let metrics = self.host.metrics.borrow();
        let tallies = metrics.tallies();
        let under_way = match client {
            Client::None => return,
            Client::Raw(_) => &tallies.sessions,
            _ => &tallies.writing,
        };
        match begins {
            true => under_way.add(1),
            false => under_way.sub(1),
        }
        if begins && !matches!(client, Client::Raw(_)) {
            tallies.requests.add(1);
        }
    }
}

impl Gate for Core {
    fn take(&self, facts: &Rc<Facts>, client: Client) -> Box<Exchange> {
        self.count(&client, true);
        let now_ms = reactor::now_ms();
        let mut ex = match self.spare.borrow_mut().pop() {
            Some(mut ex) => {
                ex.reset(facts.clone(), client, now_ms);
                ex
            }
            None => Box::new(Exchange::new(facts.clone(), client, now_ms)),
        };
        ex.nth = facts.requests.get().saturating_add(1);
        facts.requests.set(ex.nth);
        ex
    }

    fn give_back(&self, mut ex: Box<Exchange>) {
        // a spare exchange holds nothing open: its bodies refer to the connections. Most have been finished; one that
        // panicked behind its head has not
        finish::release_upstream(&mut ex);
        self.count(&ex.client, false);
        ex.held.clear();
        ex.client = Client::None;
        ex.req.body = Body::Empty;
        ex.resp.body = Body::Empty;
        ex.plan = None;
        ex.global = None;
        let mut spare = self.spare.borrow_mut();
        if spare.len() < limits::SPARE_EXCHANGES {
            spare.push(ex);
        }
    }

    fn reads(&self, waits: bool) {
        let metrics = self.host.metrics.borrow();
        let Tallies { reading, writing, .. } = metrics.tallies();
        let (from, to) = if waits { (writing, reading) } else { (reading, writing) };
        from.sub(1);
        to.add(1);
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn handle(&self, ex: &mut Exchange) {
        handle::handle(self, ex).await;
    }

    fn refuse(&self, ex: &mut Exchange, status: u16) {
        Reply::page(status).apply(ex);
        head::filter(self, ex);
    }

    fn filter_body(&self, ex: &mut Exchange, piece: &mut BodyPiece) {
        let (global, plan) = taking_part(ex, Phase::BodyFilter);
        if let Some(global) = global {
            global.body_filter(ex, piece);
        }
        if let Some(plan) = plan {
            plan.chain.body_filter(ex, piece);
        }
        if let Some(encoder) = &mut ex.encoder {
            encoder.encode(piece);
        }
    }

    fn filters_body(&self, ex: &Exchange) -> bool {
        let (global, plan) = taking_part(ex, Phase::BodyFilter);
        global.is_some() || plan.is_some() || ex.encoder.is_some()
    }

    async fn switched(&self, ex: &mut Exchange, client: Switched) {
        let send_ms = self.settings.send_ms;
        if ex.lease.is_some() {
            return tunnel::run(&client, ex, send_ms).await;
        }
        let upstream = ex.live_upstream.as_ref().and_then(|up| up.downcast_ref::<LiveUpstream>());
        let metrics = self.host.metrics.borrow().metrics().clone();
        let system = upstream.and_then(|upstream| System::of(&self.pubsub, upstream, ex, &metrics));
        let Some(system) = system else { return };
        let meter = Meter::new(&self.host, ex);
        let sent = session::run(&system, &client, send_ms, &meter, &|| self.closes_idle()).await;
        ex.resp.bytes += sent;
        ex.resp.body_bytes += sent;
    }

    fn finish(&self, ex: &mut Exchange) {
        finish::finish(self, ex);
    }

    fn panicked(&self) {
        self.host.metrics.borrow().tallies().panics.add(1);
    }

    fn saw(&self, event: h2::Event) {
        let metrics = self.host.metrics.borrow();
        let tallies = metrics.tallies();
        match event {
            h2::Event::Connection => tallies.h2_connections.add(1),
            h2::Event::Stream => tallies.h2_streams.add(1),
            h2::Event::Reset => tallies.h2_resets.add(1),
            h2::Event::Flood => tallies.h2_floods.add(1),
        }
    }

    fn saw_h3(&self, event: h3::Event) {
        let metrics = self.host.metrics.borrow();
        let tallies = metrics.tallies();
        match event {
            h3::Event::Connection => tallies.h3_connections.add(1),
            h3::Event::Stream => tallies.h3_streams.add(1),
            h3::Event::Reset => tallies.h3_resets.add(1),
            h3::Event::Violation => tallies.h3_violations.add(1),
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.get() != Draining::No
    }

    fn closes_idle(&self) -> bool {
        self.draining.get() == Draining::Now
    }
}
