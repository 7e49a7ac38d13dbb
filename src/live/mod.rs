//! The configuration as one core runs it: built from the model's deltas, object by object.
//!
//! `model` crosses cores, `live` never does. A change of one object costs a core O(that object): plans
//! (chain and upstream of a route) are built on first use and looked at again only when something that
//! any plan depends on has changed.

pub mod certificates;
pub mod plan;
pub mod router;
pub mod streams;
pub mod upstream;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use serde_json::Value;
use slab::Slab;

use self::certificates::Certificates;
use crate::config::RouterMode;
use crate::exchange::{Exchange, OwnUpstream};
use crate::model::delta::{Batch, Delta, Object};
use crate::model::{
    Id, KeepalivePool, Kind, Methods, PluginBundle, Route, Scheme, Service, Stored, Upstream, id_text,
};
use crate::plugin::{Build, Chain, Host, Registry};
use crate::transport::TlsClients;
use crate::transport::pool::Pools;
use crate::upstream::health::Status;

pub use plan::Plan;
pub use upstream::{LiveUpstream, NodeTls, Picked, Unusable};

use streams::Streams;

use router::{Entry, Matcher, Mode, Params, Router};

/// The health of nodes by host and port, of those that are not healthy.
type Verdicts = AHashMap<(Box<str>, u16), Status>;

/// A route on one core: ≤ 250 bytes with its place in the router and the index.
struct LiveRoute {
    model: Arc<Stored<Route>>,
    matcher: Matcher,
    /// The hosts it stands under in the router: its own, or its service's.
    hosts: Hosts,
    plan: RefCell<Option<Rc<Plan>>>,
}

/// Whose hosts a route stands under.
enum Hosts {
    /// Its own, which may be none.
    Own,
    /// Its service's, as they were when it was put there.
    Service(Arc<Stored<Service>>),
}

impl Hosts {
    fn of<'a>(&'a self, route: &'a Stored<Route>) -> &'a [Box<str>] {
        match self {
            Hosts::Own => &route.value.hosts,
            Hosts::Service(service) => &service.value.hosts,
        }
    }
}

/// What a core needs to build plugins and upstreams.
pub struct Tools {
    /// The plugins of this build.
    pub registry: Arc<Registry>,
    /// Its plugins of stream routes.
    pub stream_registry: Arc<Registry>,
    /// What plugins share on this core.
    pub host: Rc<Host>,
    /// Upstream connections of this core.
    pub pools: Rc<Pools>,
    /// How they are kept where an upstream does not say.
    pub keep: KeepalivePool,
    /// TLS towards upstreams.
    pub tls: Rc<TlsClients>,
}

/// The configuration of one core.
pub struct Live {
    tools: Tools,
    mode: Mode,
    router: Router,
    routes: Slab<LiveRoute>,
    route_at: AHashMap<Id, u32>,
    services: AHashMap<Id, Arc<Stored<Service>>>,
    upstreams: AHashMap<Id, Arc<Stored<Arc<Upstream>>>>,
    plugin_configs: AHashMap<Id, Arc<Stored<PluginBundle>>>,
    consumer_groups: AHashMap<Id, Arc<Stored<PluginBundle>>>,
    global_rules: BTreeMap<Id, Arc<Stored<PluginBundle>>>,
    metadata: AHashMap<Id, Arc<Stored<Value>>>,
    /// What we show to clients.
    certificates: Certificates,
    /// What we show to upstreams (`tls.client_cert_id`).
    client_certs: AHashMap<Id, Arc<Stored<Value>>>,
    /// Routes without hosts of their own, by the service that may have some for them.
    service_routes: AHashMap<Id, AHashSet<Id>>,
    /// Upstreams in use, by resource key.
    in_use: RefCell<AHashMap<Box<str>, Rc<LiveUpstream>>>,
    /// Upstreams that plugins brought, and hold.
    of_plugins: RefCell<Vec<Weak<LiveUpstream>>>,
    /// By upstream key, kept for upstreams that are built later.
    verdicts: AHashMap<Box<str>, Verdicts>,
    global: RefCell<Option<Result<Rc<Chain>, u16>>>,
    streams: Streams,
    /// Counts changes of what plans depend on beside their route.
    epoch: Cell<u64>,
    /// Counts changes of what every plugin is built with: the list of plugins and their metadata.
    built_with: u64,
    /// The store's revision of the last batch.
    revision: i64,
}

/// A route that matched, with what the path gave.
pub struct Hit {
    /// What to do with the request.
    pub plan: Rc<Plan>,
    /// Parameters of the path.
    pub params: Params,
}

impl Live {
    /// An empty configuration, with the operator's lists of plugins of routes and of stream routes.
    pub fn new(
        tools: Tools,
        mode: RouterMode,
        enabled: Option<Arc<[Box<str>]>>,
        stream_enabled: Arc<[Box<str>]>,
    ) -> Self {
        let mode = match mode {
            RouterMode::HostUri => Mode::HostUri,
            RouterMode::Uri => Mode::Uri,
            RouterMode::UriWithParameter => Mode::UriWithParameter,
        };
        *tools.host.enabled.borrow_mut() = enabled;
        Live {
            tools,
            mode,
            router: Router::new(mode),
            routes: Slab::new(),
            route_at: AHashMap::new(),
            services: AHashMap::new(),
            upstreams: AHashMap::new(),
            plugin_configs: AHashMap::new(),
            consumer_groups: AHashMap::new(),
            global_rules: BTreeMap::new(),
            metadata: AHashMap::new(),
            certificates: Certificates::default(),
            client_certs: AHashMap::new(),
            service_routes: AHashMap::new(),
            in_use: RefCell::new(AHashMap::new()),
            of_plugins: RefCell::default(),
            verdicts: AHashMap::new(),
            global: RefCell::new(None),
            streams: Streams::new(stream_enabled),
            epoch: Cell::new(0),
            built_with: 0,
            revision: 0,
        }
    }

    /// Applies a batch; exchanges under way keep the plan that they began with.
    pub fn apply(&mut self, batch: &Batch) {
        for delta in batch.deltas.iter() {
            match delta {
                Delta::Put(object) => self.put(object),
                Delta::Delete(kind, id) => self.delete(*kind, id),
                Delta::Plugins(list) => {
                    *self.tools.host.enabled.borrow_mut() = Some(list.clone());
                    self.built_with += 1;
                    self.touch();
                }
                Delta::StreamPlugins(list) => {
                    self.streams.enabled = list.clone();
                    self.built_with += 1;
                    self.touch();
                }
                Delta::PluginAttr(attr) => {
                    *self.tools.host.attr.borrow_mut() = attr.clone();
                    self.built_with += 1;
                    self.touch();
                }
            }
        }
        self.revision = batch.revision;
    }

    /// The store's revision that this core has reached.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    fn put(&mut self, object: &Object) {
        match object {
            Object::Route(route) => {
                self.judge_again("routes", &route.id, route.value.upstream.as_deref());
                return self.put_route(route);
            }
            Object::StreamRoute(route) => {
                self.judge_again("stream_routes", &route.id, route.value.upstream.as_deref());
                return self.streams.put(route);
            }
            Object::Consumer(consumer) => return self.tools.host.consumers.put(consumer),
            Object::Service(o) => {
                self.judge_again("services", &o.id, o.value.upstream.as_deref());
                let old = self.services.insert(o.id.clone(), o.clone());
                self.rehost(&o.id, old.as_ref().map_or(&[], |old| &old.value.hosts), &o.value.hosts);
            }
            Object::Upstream(o) => {
                self.judge_again("upstreams", &o.id, Some(&o.value));
                self.tools.host.upstreams.borrow_mut().insert(o.id.clone());
                self.upstreams.insert(o.id.clone(), o.clone());
            }
            Object::PluginConfig(o) => drop(self.plugin_configs.insert(o.id.clone(), o.clone())),
            Object::ConsumerGroup(o) => drop(self.consumer_groups.insert(o.id.clone(), o.clone())),
            Object::GlobalRule(o) => drop(self.global_rules.insert(o.id.clone(), o.clone())),
            Object::Ssl(o) => {
                self.certificates.put(o);
                // Routes depend on those that we show to upstreams.
                let is_client = o.value.get("type").is_some_and(|of| of == "client");
                let old = self.client_certs.remove(&o.id);
                if is_client {
                    self.client_certs.insert(o.id.clone(), o.clone());
                } else if old.is_none() {
                    return;
                }
                self.client_cert_changed(&o.id);
            }
            Object::PluginMetadata(o) => {
                self.metadata.insert(o.id.clone(), o.clone());
                self.tools.host.metadata.borrow_mut().insert(o.id.clone(), o.clone());
                self.built_with += 1;
            }
        }
        self.touch();
    }

    fn delete(&mut self, kind: Kind, id: &Id) {
        match kind {
            Kind::Route => {
                self.remove_route(id);
                self.forget_upstream("routes", id);
                return;
            }
            Kind::Consumer => return self.tools.host.consumers.remove(id),
            Kind::Service => {
                let old = self.services.remove(id);
                self.forget_upstream("services", id);
                self.rehost(id, old.as_ref().map_or(&[], |old| &old.value.hosts), &[]);
            }
            Kind::Upstream => drop(self.upstreams.remove(id)),
            Kind::PluginConfig => drop(self.plugin_configs.remove(id)),
            Kind::ConsumerGroup => drop(self.consumer_groups.remove(id)),
            Kind::GlobalRule => drop(self.global_rules.remove(id)),
            Kind::PluginMetadata => {
                self.metadata.remove(id);
                self.tools.host.metadata.borrow_mut().remove(id);
                self.built_with += 1;
            }
            Kind::Credential => {
                return self.tools.host.consumers.remove(id);
            }
            Kind::Ssl => {
                self.certificates.remove(id);
                if self.client_certs.remove(id).is_none() {
                    return;
                }
                self.client_cert_changed(id);
            }
            Kind::StreamRoute => {
                self.streams.remove(id);
                self.forget_upstream("stream_routes", id);
                return;
            }
            Kind::Proto | Kind::Secret | Kind::CostDecoration | Kind::PluginList => return,
        }
        if kind == Kind::Upstream {
            self.tools.host.upstreams.borrow_mut().remove(id);
            self.forget_upstream("upstreams", id);
        }
        self.touch();
    }

    /// Upstreams that show this certificate are built again, and routes whose upstream waited for it.
    fn client_cert_changed(&mut self, id: &Id) {
        for up in self.in_use.get_mut().values().filter(|up| client_cert_id(&up.conf).as_ref() == Some(id)) {
            up.stale.set(true);
        }
        self.built_with += 1;
    }

    /// Something that plans share has changed: each plan is looked at again on its next use.
    fn touch(&mut self) {
        self.epoch.set(self.epoch.get() + 1);
        self.global.replace(None);
    }

    /// Its upstream, if it has one of its own, stays in use: what is in flight and how fast its nodes are counts on.
    fn put_route(&mut self, route: &Arc<Stored<Route>>) {
        self.remove_route(&route.id);
        if route.value.disabled {
            return;
        }
        let service = route.value.service_id.as_ref().filter(|_| route.value.hosts.is_empty());
        let hosts = match service.and_then(|id| self.services.get(id)) {
            Some(service) if !service.value.hosts.is_empty() => Hosts::Service(service.clone()),
            _ => Hosts::Own,
        };
        let matcher = match Matcher::compile(&route.value, hosts.of(route), self.mode) {
            Ok(matcher) => matcher,
            Err(error) => return log::error!("route {} is left out: {error}", route.id),
        };
        if let Some(service) = service {
            self.service_routes.entry(service.clone()).or_default().insert(route.id.clone());
        }
        let at = self.routes.vacant_key() as u32;
        let order = route.create_revision as u64;
        let (priority, uris) = (route.value.priority, &route.value.uris);
        self.router.insert(at, Entry { hosts: hosts.of(route), uris, priority, order });
        self.routes.insert(LiveRoute { model: route.clone(), matcher, hosts, plan: RefCell::new(None) });
        self.route_at.insert(route.id.clone(), at);
    }

    fn remove_route(&mut self, id: &Id) {
        let Some(at) = self.route_at.remove(id) else { return };
        let old = self.routes.remove(at as usize);
        self.router.remove(at, old.hosts.of(&old.model), &old.model.value.uris);
        if let Some(service) = &old.model.value.service_id
            && let Some(routes) = self.service_routes.get_mut(service)
        {
            routes.remove(&old.model.id);
        }
    }

    /// A service's hosts have changed: its routes that have none of their own move in the router.
    fn rehost(&mut self, service: &Id, old: &[Box<str>], new: &[Box<str>]) {
        if old == new {
            return;
        }
        for id in self.service_routes.get(service).cloned().unwrap_or_default() {
            let Some(at) = self.route_at.get(&id) else { continue };
            let route = self.routes[*at as usize].model.clone();
            self.put_route(&route);
        }
    }

    /// Finds the route of a request.
    pub fn find(&self, ex: &Exchange) -> Option<Hit> {
        let (host, path) = (&ex.req.host, &ex.req.path);
        let method = Methods::of(ex.req.head.method_text()).unwrap_or_default();
        let mut params = Params::default();
        let at = self.router.find(host, path, &mut params, |at| {
            let route = self.routes.get(at as usize);
            route.is_some_and(|route| route.matcher.accepts(method, host, ex.remote_addr, ex))
        })?;
        let route = self.routes.get(at as usize)?;
        Some(Hit { plan: self.plan_of(route), params })
    }

    /// The route's plan, built now if it is new or if what it depends on has changed.
    fn plan_of(&self, route: &LiveRoute) -> Rc<Plan> {
        let mut slot = route.plan.borrow_mut();
        if let Some(plan) = &*slot
            && plan.is_current(self)
        {
            return plan.clone();
        }
        let plan = Rc::new(Plan::build(self, &route.model));
        *slot = Some(plan.clone());
        plan
    }

    /// The global rules' plugins. `Err`: a rule needs what this build does not have; the status answers
    /// every request.
    pub fn global_chain(&self) -> Result<Rc<Chain>, u16> {
        let mut slot = self.global.borrow_mut();
        slot.get_or_insert_with(|| plan::global_chain(self).map(Rc::new)).clone()
    }

    /// Control resolved a name anew; upstreams that use it are built again.
    pub fn set_name(&mut self, name: &str, addresses: &[IpAddr]) {
        self.tools.host.outbound.names.put(name, addresses);
        let own = self.of_plugins.get_mut().iter().filter_map(Weak::upgrade);
        for up in self.in_use.get_mut().values().cloned().chain(own) {
            if up.conf.nodes.iter().any(|node| *node.host == *name) {
                up.stale.set(true);
            }
        }
        self.touch();
    }

    /// A health verdict of control for one node of an upstream.
    pub fn set_health(&mut self, key: &str, host: &str, port: u16, status: Status) {
        let verdicts = self.verdicts.entry(key.into()).or_default();
        match status {
            Status::Healthy => verdicts.remove(&(Box::from(host), port)),
            status => verdicts.insert((host.into(), port), status),
        };
        if let Some(up) = self.in_use.get_mut().get(key) {
            judge(up, verdicts);
        }
        if verdicts.is_empty() {
            self.verdicts.remove(key);
        }
    }

    /// The upstream of an object is another one now: what was said of nodes that it no longer checks counts no more.
    /// The prober forgets them, too, and has no news of them that could take it back.
    fn judge_again(&mut self, directory: &str, id: &Id, conf: Option<&Upstream>) {
        if self.verdicts.is_empty() {
            return; // as at the start, when 100,000 come
        }
        let key = format!("/apisix/{directory}/{id}");
        let Some(verdicts) = self.verdicts.get_mut(&*key) else { return };
        let checked = conf.filter(|conf| conf.checks.is_some());
        let nodes = checked.map_or(&[][..], |conf| &conf.nodes);
        verdicts.retain(|(host, _), _| nodes.iter().any(|node| node.host == *host));
        if verdicts.is_empty() {
            self.verdicts.remove(&*key);
        }
    }

    /// An object has gone, and with it its upstream.
    fn forget_upstream(&mut self, directory: &str, id: &Id) {
        let key = format!("/apisix/{directory}/{id}");
        self.in_use.get_mut().remove(&*key);
        self.verdicts.remove(&*key);
    }

    /// The same upstream as it is now.
    pub fn again(&self, up: &Rc<LiveUpstream>) -> Rc<LiveUpstream> {
        self.live_upstream(&up.key, &up.conf).unwrap_or_else(|_| up.clone())
    }

    /// The upstream of this resource key, built now if nobody used it yet or if it has changed.
    fn live_upstream(&self, key: &str, conf: &Arc<Upstream>) -> Result<Rc<LiveUpstream>, Unusable> {
        let mut in_use = self.in_use.borrow_mut();
        if let Some(up) = in_use.get(key)
            && Arc::ptr_eq(&up.conf, conf)
            && !up.stale.get()
        {
            return Ok(up.clone());
        }
        let tls = self.tls_for(conf)?;
        let previous = in_use.get(key).cloned();
        let up = self.build_upstream(key, conf, tls, previous.as_deref());
        if let Some(verdicts) = self.verdicts.get(key) {
            judge(&up, verdicts);
        }
        let up = Rc::new(up);
        in_use.insert(key.into(), up.clone());
        Ok(up)
    }

    fn build_upstream(
        &self,
        key: &str,
        conf: &Arc<Upstream>,
        tls: NodeTls,
        previous: Option<&LiveUpstream>,
    ) -> LiveUpstream {
        let resolve = |name: &str| self.tools.host.outbound.names.get(name);
        LiveUpstream::new(conf.clone(), key, &self.tools.pools, self.tools.keep, tls, previous, resolve)
    }

    /// An upstream that a plugin brought: built at its first use, kept with the plugin.
    pub fn own_upstream(&self, own: &OwnUpstream) -> Result<Rc<LiveUpstream>, Unusable> {
        let previous = own.live.borrow().clone().and_then(|live| live.downcast::<LiveUpstream>().ok());
        if let Some(up) = previous.as_ref().filter(|up| !up.stale.get()) {
            return Ok(up.clone());
        }
        own.conf.nodes.iter().for_each(|node| self.tools.host.outbound.names.want(&node.host));
        let tls = self.tls_for(&own.conf)?;
        let mut up = self.build_upstream(&own.key, &own.conf, tls, previous.as_deref());
        up.bare_host = own.conf.scheme != Scheme::Https;
        let up = Rc::new(up);
        let mut of_plugins = self.of_plugins.borrow_mut();
        of_plugins.retain(|up| up.strong_count() > 0);
        of_plugins.push(Rc::downgrade(&up));
        *own.live.borrow_mut() = Some(up.clone());
        Ok(up)
    }

    /// The upstream object of this id.
    pub fn upstream_by_id(&self, id: &str) -> Option<Result<Rc<LiveUpstream>, Unusable>> {
        let stored = self.upstreams.get(id)?;
        Some(self.live_upstream(&format!("/apisix/upstreams/{id}"), &stored.value))
    }

    /// Certificates of upstreams are believed unless `tls.verify` says to look at them, or `proxy_ssl_verify` in a
    /// snippet, which nginx obeys for `https` alone.
    fn tls_for(&self, conf: &Upstream) -> Result<NodeTls, Unusable> {
        match conf.scheme {
            Scheme::Https | Scheme::Grpcs | Scheme::Tls => {}
            // a broker has TLS where the upstream has `tls` (apisix/pubsub/kafka.lua)
            Scheme::Kafka if conf.tls.is_some() => {}
            _ => return Ok(NodeTls::default()),
        }
        let field = |name: &str| conf.tls.as_deref().and_then(|tls| tls.get(name));
        let all = conf.scheme == Scheme::Https && self.tools.host.config.http.proxy_ssl_verify;
        let verify = all || field("verify").and_then(Value::as_bool).unwrap_or(false);
        let mut identity =
            field("client_cert").and_then(Value::as_str).zip(field("client_key").and_then(Value::as_str));
        if let Some(id) = client_cert_id(conf) {
            let missing = || Unusable { status: 502, reason: format!("failed to get ssl cert {id}") };
            let ssl = self.client_certs.get(&id).ok_or_else(missing)?;
            let text = |name: &str| ssl.value.get(name).and_then(Value::as_str);
            identity = text("cert").zip(text("key"));
        }
        let client = |wanted: bool, alpn: &[&'static [u8]]| {
            let client = wanted.then(|| self.tools.tls.get(verify, identity, alpn)).transpose();
            client.map_err(|error| Unusable { status: 503, reason: error.to_string() })
        };
        let grpc = conf.scheme == Scheme::Grpcs;
        Ok(NodeTls {
            bare: client(!grpc, &[])?,
            h2: client(grpc || (conf.http2 && conf.scheme == Scheme::Https), &[b"h2"])?,
        })
    }

    /// Closes idle upstream connections that are too old.
    pub fn sweep(&self, now_ms: u64) {
        self.tools.pools.sweep(now_ms);
    }

    /// What we show to clients.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// A consumer group.
    pub fn consumer_group(&self, id: &str) -> Option<&Arc<Stored<PluginBundle>>> {
        self.consumer_groups.get(id)
    }

    fn build_context<'a>(&'a self, parent: &'a str, plugin: &str) -> Build<'a> {
        Build { host: &self.tools.host, parent, metadata: self.metadata.get(plugin).map(|m| &m.value) }
    }
}

fn judge(up: &LiveUpstream, verdicts: &Verdicts) {
    up.set_health(verdicts.iter().map(|((host, port), status)| (&**host, *port, *status)));
}

/// `tls.client_cert_id` of an upstream.
fn client_cert_id(conf: &Upstream) -> Option<Id> {
    conf.tls.as_deref()?.get("client_cert_id").and_then(id_text)
}
