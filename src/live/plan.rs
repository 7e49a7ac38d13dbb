//! What to do with the requests of one route: its chain and its upstream, merged from all the objects
//! that take part (APISIX plugin.lua `merge_service_route`, `merge_consumer_route`, plugin_config.lua).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use serde_json::Value;

use super::router::{Params, matched_host};
use super::{Live, LiveUpstream, Unusable};
use crate::exchange::{Known, Matched, body_vars};
use crate::limits;
use crate::model::{Id, PluginBundle, Plugins, Route, Service, Stored, Timeout, Upstream};
use crate::plugin::chain::Item;
use crate::plugin::meta::{self, Meta};
use crate::plugin::{Chain, Registry, SchemaType};

/// The effective plugins of a request: each name once, with the object that its configuration is of.
pub(super) type Effective<'a> = AHashMap<&'a str, Bound<'a>>;

/// One plugin's configuration and where it was written.
#[derive(Clone, Copy)]
pub(super) struct Bound<'a> {
    conf: &'a Value,
    /// `/apisix/routes/1` and such.
    parent: &'a str,
    from_consumer: bool,
}

/// Where requests of a route go.
#[derive(Clone)]
pub enum Destination {
    /// To this upstream.
    Upstream(Rc<LiveUpstream>),
    /// Nowhere: this status is the answer (a missing upstream object 502, no upstream at all 503).
    None(u16),
}

/// What a route's requests meet. An exchange holds the plan that it began with to its end.
pub struct Plan {
    /// Names for variables, logs and plugins, by which of its URIs and hosts matched: as few as these.
    matched: RefCell<Vec<Rc<Matched>>>,
    /// Plugins of the route, its plugin config, its service, and its consumer.
    pub chain: Chain,
    /// Where they go.
    pub destination: Destination,
    /// Every request is answered with this at once: what the route refers to is missing, or it needs
    /// what this build does not have.
    pub refusal: Option<u16>,
    /// `enable_websocket`: upgrades are passed on.
    pub websocket: bool,
    /// The route's timeouts, which beat the upstream's.
    pub timeout: Option<Timeout>,
    route: Arc<Stored<Route>>,
    service: Option<Arc<Stored<Service>>>,
    plugin_config: Option<Arc<Stored<PluginBundle>>>,
    upstream_id: Option<Id>,
    upstream_object: Option<Arc<Stored<Arc<Upstream>>>>,
    seen_epoch: Cell<u64>,
    /// See [`Live::built_with`].
    built_with: u64,
    /// The same route with a consumer's plugins over it.
    joined: RefCell<AHashMap<usize, (Known, Rc<Plan>)>>,
}

impl Plan {
    /// Merges the route with all that it refers to. Missing references become refusals.
    pub fn build(live: &Live, route: &Arc<Stored<Route>>) -> Plan {
        let value = &route.value;
        let service = value.service_id.as_ref().map(|id| live.services.get(id).cloned());
        let plugin_config = value.plugin_config_id.as_ref().map(|id| live.plugin_configs.get(id).cloned());
        let mut refusal = None;
        if let Some(None) = &plugin_config {
            log::error!(
                "failed to fetch plugin config by id: {:?} of route {}",
                value.plugin_config_id,
                route.id
            );
            refusal = Some(503);
        } else if let Some(None) = &service {
            log::error!(
                "failed to fetch service configuration by id: {:?} of route {}",
                value.service_id,
                route.id
            );
            refusal = Some(404);
        } else if value.needs_lua || service.iter().flatten().any(|s| s.value.needs_lua) {
            log::error!("route {} needs Lua (script or filter_func), which is not served yet", route.id);
            refusal = Some(503);
        }
        let mut plan = Plan {
            matched: RefCell::default(),
            chain: Chain::default(),
            destination: Destination::None(503),
            refusal,
            websocket: value.enable_websocket.unwrap_or(false),
            timeout: value.timeout,
            route: route.clone(),
            service: service.flatten(),
            plugin_config: plugin_config.flatten(),
            upstream_id: None,
            upstream_object: None,
            seen_epoch: Cell::new(live.epoch.get()),
            built_with: live.built_with,
            joined: RefCell::default(),
        };
        if plan.refusal.is_none() {
            if let (None, Some(service)) = (value.enable_websocket, &plan.service) {
                plan.websocket = service.value.enable_websocket.unwrap_or(false);
            }
            plan.build_chain(live, None);
            plan.build_destination(live);
        }
        plan
    }

    /// Is this plan still what the configuration says? One comparison while nothing has changed, a few
    /// pointers when something has.
    pub fn is_current(&self, live: &Live) -> bool {
        if self.seen_epoch.get() == live.epoch.get() {
            return true;
        }
        let same_service = (self.route.value.service_id.as_ref())
            .is_none_or(|id| same(live.services.get(id), self.service.as_ref()));
        let same_config = (self.route.value.plugin_config_id.as_ref())
            .is_none_or(|id| same(live.plugin_configs.get(id), self.plugin_config.as_ref()));
        let (id, object) = (self.upstream_id.as_ref(), self.upstream_object.as_ref());
        let same_upstream = self.destination.is_current(live, id, object);
        let current = same_service && same_config && same_upstream && self.built_with == live.built_with;
        if current {
            self.seen_epoch.set(live.epoch.get());
            self.joined.borrow_mut().clear();
        }
        current
    }

    /// The plan for a request of `known`: the consumer's plugins, and its group's below them, over the
    /// route's. `Err`: the group is missing.
    pub fn join_consumer(self: &Rc<Self>, live: &Live, known: &Known) -> Result<Rc<Plan>, u16> {
        let consumer = &known.consumer.value;
        let group = match &consumer.group_id {
            None => None,
            Some(id) => Some(live.consumer_group(id).ok_or_else(|| {
                log::error!("failed to fetch consumer group config by id: {id}");
                503u16
            })?),
        };
        if consumer.plugins.is_empty() && group.is_none_or(|group| group.value.plugins.is_empty()) {
            return Ok(self.clone());
        }
        let key = Arc::as_ptr(&known.consumer) as usize;
        if let Some((_, plan)) = self.joined.borrow().get(&key) {
            return Ok(plan.clone());
        }
        let mut plan = Plan {
            matched: RefCell::default(),
            chain: Chain::default(),
            destination: self.destination.clone(),
            refusal: None,
            websocket: self.websocket,
            timeout: self.timeout,
            route: self.route.clone(),
            service: self.service.clone(),
            plugin_config: self.plugin_config.clone(),
            upstream_id: self.upstream_id.clone(),
            upstream_object: self.upstream_object.clone(),
            seen_epoch: self.seen_epoch.clone(),
            built_with: self.built_with,
            joined: RefCell::default(),
        };
        plan.build_chain(live, Some((known, group.map(|group| &**group))));
        let plan = Rc::new(plan);
        let mut joined = self.joined.borrow_mut();
        if joined.len() >= limits::JOINED_PLANS {
            joined.clear();
        }
        joined.insert(key, (known.clone(), plan.clone()));
        Ok(plan)
    }

    /// The names of a match. Equal matches get the same object, so that its address can stand for it.
    pub fn matched(&self, params: &Params, path: &[u8], host: &[u8]) -> Rc<Matched> {
        let route = &self.route.value;
        let hosts = match (&*route.hosts, self.service.as_deref()) {
            ([], Some(service)) => &service.value.hosts,
            _ => &route.hosts,
        };
        let uri = params.matched_uri(&route.uris, path);
        let host = matched_host(hosts, host);
        let mut known = self.matched.borrow_mut();
        let same = |known: &&Rc<Matched>| {
            known.matched_uri.as_deref() == uri && known.matched_host.as_deref() == host
        };
        if let Some(known) = known.iter().find(same) {
            return known.clone();
        }
        let service = self.service.as_deref();
        let new = Rc::new(Matched {
            route_id: Some(self.route.id.clone()),
            route_name: route.name.clone(),
            service_id: service.map(|service| service.id.clone()),
            service_name: service.and_then(|service| service.value.name.clone()),
            matched_uri: uri.map(Box::from),
            matched_host: host.map(Box::from),
        });
        known.push(new.clone());
        new
    }

    /// Merge order: consumer > consumer group > route > plugin config > service.
    fn build_chain(&mut self, live: &Live, consumer: Option<(&Known, Option<&Stored<PluginBundle>>)>) {
        let (route, service, config) = (self.route.clone(), self.service.clone(), self.plugin_config.clone());
        let route_key = format!("/apisix/routes/{}", route.id);
        let service_key = service.as_ref().map(|s| format!("/apisix/services/{}", s.id)).unwrap_or_default();
        let config_key =
            config.as_ref().map(|c| format!("/apisix/plugin_configs/{}", c.id)).unwrap_or_default();
        let mut effective = Effective::new();
        if let Some(service) = &service {
            overlay(&mut effective, &service.value.plugins, &service_key, false);
        }
        if let Some(config) = &config {
            overlay(&mut effective, &config.value.plugins, &config_key, false);
        }
        overlay(&mut effective, &route.value.plugins, &route_key, false);
        let (group_key, consumer_key);
        if let Some((known, group)) = consumer {
            if let Some(group) = group {
                group_key = format!("/apisix/consumer_groups/{}", group.id);
                overlay(&mut effective, &group.value.plugins, &group_key, true);
            }
            consumer_key = format!("/apisix/consumers/{}", known.consumer.id);
            overlay(&mut effective, &known.consumer.value.plugins, &consumer_key, true);
        }
        match chain(live, &effective, &route_key, 0) {
            Ok(chain) => self.chain = chain,
            Err(status) => self.refusal = Some(status),
        }
    }

    fn build_destination(&mut self, live: &Live) {
        let route = &self.route.value;
        let service = self.service.as_deref();
        let route_key = format!("/apisix/routes/{}", self.route.id);
        // a route's own upstream takes the place of both of its service's (plugin.lua)
        let (inline, id, key) = match (&route.upstream, &route.upstream_id, service) {
            (up, Some(id), _) => (up.clone(), Some(id.clone()), route_key),
            (Some(up), None, _) => (Some(up.clone()), None, route_key),
            (None, None, Some(service)) => (
                service.value.upstream.clone(),
                service.value.upstream_id.clone(),
                format!("/apisix/services/{}", service.id),
            ),
            (None, None, None) => (None, None, route_key),
        };
        self.upstream_object = id.as_ref().and_then(|id| live.upstreams.get(id).cloned());
        self.upstream_id.clone_from(&id);
        self.destination = Destination::of(live, &key, id.as_ref(), inline.as_ref());
    }
}

impl Destination {
    /// The upstream object of `id`, else the `inline` one of the object `key`; 503 where there is neither.
    pub(super) fn of(live: &Live, key: &str, id: Option<&Id>, inline: Option<&Arc<Upstream>>) -> Destination {
        let built = match (id, inline) {
            (Some(id), _) => live.upstream_by_id(id).unwrap_or_else(|| {
                Err(Unusable { status: 502, reason: format!("failed to find upstream by id: {id}") })
            }),
            (None, Some(up)) => live.live_upstream(key, up),
            (None, None) => return Destination::None(503),
        };
        match built {
            Ok(up) => Destination::Upstream(up),
            Err(Unusable { status, reason }) => {
                log::error!("the upstream of {key} cannot be used: {reason}");
                Destination::None(status)
            }
        }
    }

    /// Is it still what the configuration says? `id` and `object` are those of its upstream, if it has an id.
    pub(super) fn is_current(
        &self,
        live: &Live,
        id: Option<&Id>,
        object: Option<&Arc<Stored<Arc<Upstream>>>>,
    ) -> bool {
        match self {
            Destination::Upstream(up) => {
                let in_use = live.in_use.borrow();
                !up.stale.get()
                    && in_use.get(&up.key).is_some_and(|now| Rc::ptr_eq(now, up))
                    && id.is_none_or(|id| same(live.upstreams.get(id), object))
            }
            Destination::None(_) => id.is_none_or(|id| live.upstreams.get(id).is_none()),
        }
    }
}

/// Lays one object's plugins over what is there: per plugin name, not deep.
pub(super) fn overlay<'a>(
    effective: &mut Effective<'a>,
    plugins: &'a Plugins,
    parent: &'a str,
    consumer: bool,
) {
    for (name, conf) in plugins {
        // what replaces a route's plugin is not new with the consumer (plugin.lua `_from_consumer`)
        let from_consumer = consumer && effective.get(&**name).is_none_or(|bound| bound.from_consumer);
        effective.insert(name, Bound { conf, parent, from_consumer });
    }
}

/// Compiles the plugins of one object. A plugin that this build lacks, or a configuration that cannot be
/// compiled, never opens the route: 503.
fn chain(live: &Live, effective: &Effective<'_>, owner: &str, slots_from: u16) -> Result<Chain, u16> {
    let enabled = |name: &str| live.tools.host.enables(name);
    chain_of(live, &live.tools.registry, enabled, effective, owner, slots_from)
}

/// The same with the plugins of `registry`.
pub(super) fn chain_of(
    live: &Live,
    registry: &Registry,
    enabled: impl Fn(&str) -> bool,
    effective: &Effective<'_>,
    owner: &str,
    slots_from: u16,
) -> Result<Chain, u16> {
    let mut items = Vec::with_capacity(effective.len());
    for (name, bound) in effective {
        if !bound.conf.is_object() || meta::is_disabled(bound.conf) {
            continue;
        }
        if !enabled(name) {
            log::warn!("plugin {name} of {owner} is not in the list of plugins: skipped");
            continue;
        }
        let Some(entry) = registry.get(name) else {
            log::error!("{owner} uses plugin [{name}], which is not served yet: its requests get 503");
            return Err(503);
        };
        if bound.conf["_meta"].get("pre_function").is_some() {
            log::error!("plugin {name} of {owner} needs Lua (_meta.pre_function), which is not served yet");
            return Err(503);
        }
        let mut conf = (*bound.conf).clone();
        let kind =
            if bound.from_consumer && entry.spec.auth { SchemaType::Consumer } else { SchemaType::Plain };
        if kind == SchemaType::Consumer {
            continue; // a credential, not something to run
        }
        let built = entry
            .check(&mut conf, kind)
            .and_then(|()| (entry.spec.build)(&conf, &live.build_context(bound.parent, name)));
        match built {
            Ok(plugin) => items.push(Item {
                spec: entry.spec,
                plugin,
                meta: Rc::new(Meta::of(&conf, name)),
                reads_body: body_vars::named_in(&conf),
                from_consumer: bound.from_consumer,
            }),
            Err(error) => {
                log::error!("failed to check the configuration of plugin {name} of {owner} err: {error}");
                return Err(503);
            }
        }
    }
    Ok(Chain::new(items, slots_from))
}

/// The plugins of all global rules. A plugin that stands in two of them runs in neither (global_rules.lua).
pub fn global_chain(live: &Live) -> Result<Chain, u16> {
    let keys: Vec<String> = live.global_rules.keys().map(|id| format!("/apisix/global_rules/{id}")).collect();
    let mut effective = Effective::new();
    let mut twice = Vec::new();
    for (rule, key) in live.global_rules.values().zip(&keys) {
        for (name, conf) in &rule.value.plugins {
            if effective.insert(name, Bound { conf, parent: key, from_consumer: false }).is_some() {
                log::error!("plugin {name} stands in more than one global rule: none of them runs");
                twice.push(&**name);
            }
        }
    }
    effective.retain(|name, _| !twice.contains(name));
    chain(live, &effective, "a global rule", limits::GLOBAL_SLOTS)
}

pub(super) fn same<T>(now: Option<&Arc<T>>, then: Option<&Arc<T>>) -> bool {
    match (now, then) {
        (Some(now), Some(then)) => Arc::ptr_eq(now, then),
        (None, None) => true,
        _ => false,
    }
}
