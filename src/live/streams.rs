//! The stream routes of one core: which one a connection of layer 4 meets, and what it finds there
//! (apisix/stream/router/ip_port.lua, apisix/init.lua `stream_preread_phase`).

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use serde_json::Value;

use super::Live;
use super::plan::{Destination, Effective, chain_of, overlay, same};
use crate::exchange::Matched;
use crate::expr::Expr;
use crate::model::{Id, Protocol, Service, Stored, StreamRoute, Upstream};
use crate::plugin::{Chain, Plugin, SchemaType};

/// What a connection of a stream route meets. It holds the plan that it began with to its end.
pub struct StreamPlan {
    /// The route, and its service's names.
    pub matched: Rc<Matched>,
    /// Plugins of the route over those of its service.
    pub chain: Chain,
    /// Where its connections go.
    pub destination: Destination,
    /// Connections are closed at once: what the route refers to is missing, or a plugin cannot be built.
    pub refusal: Option<u16>,
    /// The route as written.
    pub route: Arc<Stored<StreamRoute>>,
    /// Where calls are logged that its protocol sees.
    pub loggers: Vec<Logger>,
    /// What the room of streams makes of `protocol`, once a session asks for it.
    pub compiled: OnceCell<Rc<dyn Any>>,
    service: Option<Arc<Stored<Service>>>,
    upstream_id: Option<Id>,
    upstream_object: Option<Arc<Stored<Arc<Upstream>>>>,
    seen_epoch: Cell<u64>,
    built_with: u64,
}

/// One entry of `protocol.logger`.
pub struct Logger {
    /// Its plugin, of which the log phase alone is used.
    pub plugin: Rc<dyn Plugin>,
    /// Which calls it logs; all without one.
    pub filter: Option<Expr>,
}

/// A route that calls of another one may be sent to (`protocol.superior_id`).
pub struct Subordinate {
    /// `protocol.conf`, by which the protocol knows which calls are meant.
    pub conf: Value,
    /// Where they go.
    pub plan: Rc<StreamPlan>,
}

struct LiveStream {
    route: Arc<Stored<StreamRoute>>,
    plan: RefCell<Option<Rc<StreamPlan>>>,
}

/// All stream routes.
#[derive(Default)]
pub struct Streams {
    /// The operator's list of stream plugins.
    pub(super) enabled: Arc<[Box<str>]>,
    by_id: AHashMap<Id, Rc<LiveStream>>,
    /// By `sni` as written, those of one name in the order of their creation.
    by_sni: AHashMap<Box<str>, Vec<Rc<LiveStream>>>,
    /// Those without a name, in the order of their creation.
    others: Vec<Rc<LiveStream>>,
    /// Counts changes: a session that has subordinate routes looks again.
    version: u64,
}

impl Streams {
    /// None yet; these plugins are enabled.
    pub(super) fn new(enabled: Arc<[Box<str>]>) -> Streams {
        Streams { enabled, ..Streams::default() }
    }

    /// Takes a route in, in place of its old self.
    pub(super) fn put(&mut self, route: &Arc<Stored<StreamRoute>>) {
        self.remove(&route.id);
        let live = Rc::new(LiveStream { route: route.clone(), plan: RefCell::new(None) });
        self.by_id.insert(route.id.clone(), live.clone());
        if is_subordinate(route) {
            return;
        }
        let place = match &route.value.sni {
            Some(sni) => self.by_sni.entry(sni.clone()).or_default(),
            None => &mut self.others,
        };
        let key = |live: &Rc<LiveStream>| (live.route.create_revision, live.route.id.clone());
        let at = place.partition_point(|other| key(other) < key(&live));
        place.insert(at, live);
    }

    /// Forgets a route.
    pub(super) fn remove(&mut self, id: &Id) {
        self.version += 1;
        let Some(old) = self.by_id.remove(id) else { return };
        match &old.route.value.sni {
            None => self.others.retain(|other| !Rc::ptr_eq(other, &old)),
            Some(sni) => {
                if let Some(same) = self.by_sni.get_mut(sni) {
                    same.retain(|other| !Rc::ptr_eq(other, &old));
                    if same.is_empty() {
                        self.by_sni.remove(sni);
                    }
                }
            }
        }
    }

    /// The route of a connection. A name goes before everything else: the whole one, then the longest part behind a
    /// `*` that a route has, whatever its depth.
    fn find(&self, remote: IpAddr, local: SocketAddr, sni: Option<&str>) -> Option<&Rc<LiveStream>> {
        let among = |list: &'_ [Rc<LiveStream>]| {
            list.iter().position(|live| accepts(&live.route.value, remote, local))
        };
        if let Some(sni) = sni.filter(|_| !self.by_sni.is_empty()) {
            let mut name = String::with_capacity(sni.len() + 1);
            let starts = sni.char_indices().map(|(at, _)| at).chain([sni.len()]);
            let wildcards = starts.map(Some);
            for from in std::iter::once(None).chain(wildcards) {
                name.clear();
                name.push_str(if from.is_some() { "*" } else { "" });
                name.push_str(&sni[from.unwrap_or(0)..]);
                if let Some(list) = self.by_sni.get(&*name)
                    && let Some(at) = among(list)
                {
                    return list.get(at);
                }
            }
        }
        among(&self.others).and_then(|at| self.others.get(at))
    }
}

fn is_subordinate(route: &Stored<StreamRoute>) -> bool {
    route.value.protocol.as_ref().is_some_and(|protocol| protocol.superior_id.is_some())
}

fn accepts(route: &StreamRoute, remote: IpAddr, local: SocketAddr) -> bool {
    route.remote_addr.is_none_or(|net| net.contains(remote))
        && route.server_addr.is_none_or(|net| net.contains(local.ip()))
        && route.server_port.is_none_or(|port| port == local.port())
}

impl Live {
    /// The stream route of a connection from `remote` to `local`, where TLS has asked for `sni` (lower case).
    pub fn find_stream(
        &self,
        remote: IpAddr,
        local: SocketAddr,
        sni: Option<&str>,
    ) -> Option<Rc<StreamPlan>> {
        self.streams.find(remote, local, sni).map(|live| self.stream_plan(live))
    }

    /// Is a plugin in the operator's list of stream plugins?
    pub fn enables_stream_plugin(&self, name: &str) -> bool {
        self.streams.enabled.iter().any(|known| **known == *name)
    }

    /// Counts changes of stream routes.
    pub fn streams_version(&self) -> u64 {
        self.streams.version + self.epoch.get()
    }

    /// The routes that calls of the route `superior` may be sent to, those of its own protocol.
    pub fn subordinates(&self, superior: &StreamPlan) -> Vec<Subordinate> {
        let Some(protocol) = &superior.route.value.protocol else { return Vec::new() };
        let is_one = |own: &&Protocol| {
            own.name == protocol.name && own.superior_id.as_ref() == Some(&superior.route.id)
        };
        let routes = self.streams.by_id.values().filter_map(|live| {
            let own = live.route.value.protocol.as_deref().filter(is_one)?;
            Some(Subordinate { conf: own.conf.clone(), plan: self.stream_plan(live) })
        });
        routes.collect()
    }

    fn stream_plan(&self, live: &LiveStream) -> Rc<StreamPlan> {
        let mut slot = live.plan.borrow_mut();
        if let Some(plan) = &*slot
            && plan.is_current(self)
        {
            return plan.clone();
        }
        let plan = Rc::new(StreamPlan::build(self, &live.route));
        *slot = Some(plan.clone());
        plan
    }
}

impl StreamPlan {
    fn build(live: &Live, route: &Arc<Stored<StreamRoute>>) -> StreamPlan {
        let value = &route.value;
        // a route with an upstream's id has nothing of its service's
        let service_id = value.service_id.as_ref().filter(|_| value.upstream_id.is_none());
        let service = service_id.and_then(|id| live.services.get(id).cloned());
        let mut plan = StreamPlan {
            matched: Rc::new(Matched {
                route_id: Some(route.id.clone()),
                route_name: value.name.clone(),
                service_id: service.as_ref().map(|service| service.id.clone()),
                service_name: service.as_ref().and_then(|service| service.value.name.clone()),
                ..Matched::default()
            }),
            chain: Chain::default(),
            destination: Destination::None(503),
            refusal: None,
            route: route.clone(),
            loggers: loggers(live, route),
            compiled: OnceCell::new(),
            service,
            upstream_id: None,
            upstream_object: None,
            seen_epoch: Cell::new(live.epoch.get()),
            built_with: live.built_with,
        };
        if let (Some(id), None) = (service_id, &plan.service) {
            log::error!("failed to fetch service configuration by id: {id}");
            plan.refusal = Some(404);
            return plan;
        }
        plan.build_chain(live);
        plan.build_destination(live);
        plan
    }

    fn build_chain(&mut self, live: &Live) {
        let key = format!("/apisix/stream_routes/{}", self.route.id);
        let service_key =
            self.service.as_ref().map(|s| format!("/apisix/services/{}", s.id)).unwrap_or_default();
        let mut effective = Effective::new();
        if let Some(service) = &self.service {
            overlay(&mut effective, &service.value.plugins, &service_key, false);
        }
        overlay(&mut effective, &self.route.value.plugins, &key, false);
        let enabled = |name: &str| live.enables_stream_plugin(name);
        match chain_of(live, &live.tools.stream_registry, enabled, &effective, &key, 0) {
            Ok(chain) => self.chain = chain,
            Err(status) => self.refusal = Some(status),
        }
    }

    fn build_destination(&mut self, live: &Live) {
        let (own, key) = (&self.route.value, format!("/apisix/stream_routes/{}", self.route.id));
        let service = self.service.as_ref().filter(|_| own.upstream.is_none());
        let (id, inline, key) = match service {
            _ if own.upstream_id.is_some() => (own.upstream_id.clone(), None, key),
            Some(service) => {
                // other than for requests, its own upstream goes before the one that it names
                let (named, inline) = (&service.value.upstream_id, service.value.upstream.clone());
                (
                    named.clone().filter(|_| inline.is_none()),
                    inline,
                    format!("/apisix/services/{}", service.id),
                )
            }
            None => (None, own.upstream.clone(), key),
        };
        self.upstream_object = id.as_ref().and_then(|id| live.upstreams.get(id).cloned());
        self.upstream_id.clone_from(&id);
        self.destination = Destination::of(live, &key, id.as_ref(), inline.as_ref());
    }

    fn is_current(&self, live: &Live) -> bool {
        if self.seen_epoch.get() == live.epoch.get() {
            return true;
        }
        let service_id =
            self.route.value.service_id.as_ref().filter(|_| self.route.value.upstream_id.is_none());
        let same_service = service_id.is_none_or(|id| same(live.services.get(id), self.service.as_ref()));
        let (id, object) = (self.upstream_id.as_ref(), self.upstream_object.as_ref());
        let current = same_service
            && self.destination.is_current(live, id, object)
            && self.built_with == live.built_with;
        if current {
            self.seen_epoch.set(live.epoch.get());
        }
        current
    }
}

/// One that cannot be built is left out: calls go on without it.
fn loggers(live: &Live, route: &Stored<StreamRoute>) -> Vec<Logger> {
    let parent = format!("/apisix/stream_routes/{}", route.id);
    let written = route.value.protocol.iter().flat_map(|protocol| &protocol.loggers);
    let built = written.map(|logger| {
        let name = logger["name"].as_str().unwrap_or_default();
        let entry = live.tools.stream_registry.get(name);
        let entry = entry.ok_or_else(|| format!("failed to load plugin [{name}]"))?;
        let mut conf = logger["conf"].clone();
        entry.check(&mut conf, SchemaType::Plain)?;
        let filter = logger["filter"].as_array().filter(|filter| !filter.is_empty());
        let filter = filter.map(|_| Expr::compile(&logger["filter"])).transpose();
        let filter =
            filter.map_err(|error| format!("failed to validate the 'filter' expression: {error}"))?;
        let plugin = (entry.spec.build)(&conf, &live.build_context(&parent, name))?;
        Ok(Logger { plugin, filter })
    });
    let keep = |logger: Result<Logger, String>| {
        logger.map_err(|error| log::error!("a logger of {parent} is left out: {error}")).ok()
    };
    built.filter_map(keep).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::delta::Object;
    use crate::model::{Kind, parse};

    fn put(streams: &mut Streams, id: &str, revision: i64, value: Value) {
        let place = Stored { id: id.into(), create_revision: revision, modify_revision: revision, value: () };
        match parse::object(Kind::StreamRoute, place, value) {
            Ok(Some(Object::StreamRoute(route))) => streams.put(&route),
            other => panic!("{other:?}"),
        }
    }

    fn met(streams: &Streams, remote: &str, local: &str, sni: Option<&str>) -> Option<String> {
        let found = streams.find(remote.parse().unwrap(), local.parse().unwrap(), sni);
        found.map(|live| live.route.id.to_string())
    }

    #[test]
    fn addresses_and_ports_in_the_order_of_creation() {
        let mut streams = Streams::default();
        put(&mut streams, "any", 9, json!({}));
        put(&mut streams, "net", 1, json!({"remote_addr": "10.0.0.0/8"}));
        put(&mut streams, "port", 2, json!({"server_port": 9100}));
        put(&mut streams, "end", 3, json!({"server_addr": "192.0.2.1", "server_port": 9101}));
        for (remote, local, id) in [
            ("10.1.1.1", "127.0.0.1:9100", "net"),
            ("11.1.1.1", "127.0.0.1:9100", "port"),
            ("11.1.1.1", "192.0.2.1:9101", "end"),
            ("11.1.1.1", "192.0.2.2:9101", "any"),
        ] {
            assert_eq!(met(&streams, remote, local, None).as_deref(), Some(id), "{remote} {local}");
        }
        streams.remove(&"any".into());
        assert_eq!(met(&streams, "11.1.1.1", "192.0.2.2:9101", None), None);
    }

    #[test]
    fn names_go_first_and_wildcards_at_any_depth() {
        let mut streams = Streams::default();
        put(&mut streams, "plain", 1, json!({}));
        put(&mut streams, "a", 2, json!({"sni": "a.Test.com"}));
        put(&mut streams, "wild", 3, json!({"sni": "*.test.com"}));
        put(&mut streams, "elsewhere", 4, json!({"sni": "*.b.test.com", "server_port": 1}));
        for (sni, id) in [
            (Some("a.test.com"), "a"),
            (Some("x.test.com"), "wild"),
            (Some("x.y.test.com"), "wild"),
            (Some("x.b.test.com"), "wild"),
            (Some("test.com"), "plain"),
            (Some("other"), "plain"),
            (None, "plain"),
        ] {
            assert_eq!(met(&streams, "::1", "[::1]:9100", sni).as_deref(), Some(id), "{sni:?}");
        }
        assert_eq!(met(&streams, "::1", "[::1]:1", Some("x.b.test.com")).as_deref(), Some("elsewhere"));
        streams.remove(&"a".into());
        assert_eq!(met(&streams, "::1", "[::1]:9100", Some("a.test.com")).as_deref(), Some("wild"));
    }

    #[test]
    fn a_subordinate_route_is_never_met() {
        let mut streams = Streams::default();
        put(&mut streams, "sub", 1, json!({"protocol": {"name": "redis", "superior_id": "1"}}));
        assert_eq!(met(&streams, "::1", "[::1]:9100", None), None);
        assert!(streams.by_id.contains_key("sub"));
    }
}
