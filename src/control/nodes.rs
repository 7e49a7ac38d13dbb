//! What the configuration's nodes ask of the resolver and the prober, and what their findings mean to cores.
//!
//! Cores speak of a node as its upstream writes it; the prober speaks of addresses. [`Nodes`] knows both. It
//! is pure: changes and findings go in, orders and messages come out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::dns::{self, DnsDelta};
use super::probe::{self, HealthDelta};
use crate::mail::{Seen, ToCore};
use crate::model::delta::{Delta, Object};
use crate::model::{Kind, Scheme, Upstream};
use crate::upstream::health::{Checks, Report, targets};

/// An order that follows from a change.
#[derive(Debug)]
pub enum Order {
    /// For the resolver.
    Dns(dns::Order),
    /// For the prober.
    Probe(probe::Order),
}

/// Upstreams that have names or health checks.
#[derive(Default)]
pub struct Nodes {
    upstreams: HashMap<Arc<str>, Known>,
    /// Answers of the resolver.
    names: HashMap<Arc<str>, Arc<[IpAddr]>>,
    /// `apisix.disable_upstream_healthcheck`
    checks_off: bool,
}

struct Known {
    conf: Arc<Upstream>,
    checks: Option<Arc<Checks>>,
    /// A core has used it: its checks run.
    in_use: bool,
}

impl Nodes {
    /// No upstreams yet. `checks_off` is `apisix.disable_upstream_healthcheck`.
    pub fn new(checks_off: bool) -> Self {
        Nodes { checks_off, ..Nodes::default() }
    }

    /// Takes in one change of the configuration.
    pub fn changed(&mut self, delta: &Delta) -> Vec<Order> {
        match delta {
            Delta::Put(Object::Upstream(o)) => self.replace(Kind::Upstream, &o.id, Some(&o.value)),
            Delta::Put(Object::Service(o)) => self.replace(Kind::Service, &o.id, o.value.upstream.as_ref()),
            Delta::Put(Object::StreamRoute(o)) => {
                self.replace(Kind::StreamRoute, &o.id, o.value.upstream.as_ref())
            }
            Delta::Put(Object::Route(o)) => self.replace(Kind::Route, &o.id, o.value.upstream.as_ref()),
            Delta::Delete(kind, id) => self.replace(*kind, id, None),
            _ => Vec::new(),
        }
    }

    fn replace(&mut self, kind: Kind, id: &str, conf: Option<&Arc<Upstream>>) -> Vec<Order> {
        let directory = match kind {
            Kind::Upstream => "upstreams",
            Kind::Service => "services",
            Kind::Route => "routes",
            Kind::StreamRoute => "stream_routes",
            _ => return Vec::new(),
        };
        let key: Arc<str> = format!("/apisix/{directory}/{id}").into();
        let old = self.upstreams.remove(&key);
        let mut orders = Vec::new();
        let in_use = old.as_ref().is_some_and(|old| old.in_use);
        if let Some(conf) = conf {
            let checks = self.checks(&key, conf);
            let names: Vec<Arc<str>> = names(conf).map(Arc::from).collect();
            if checks.is_some() || !names.is_empty() {
                // The new users come before the old ones go: names that stay are not asked for again.
                orders.extend(names.into_iter().map(|name| Order::Dns(dns::Order::Use(name))));
                let known = Known { conf: Arc::clone(conf), checks, in_use };
                self.upstreams.insert(Arc::clone(&key), known);
            }
        }
        if let Some(old) = old {
            for name in names(&old.conf) {
                orders.push(Order::Dns(dns::Order::Release(name.into())));
            }
        }
        if in_use {
            let watch = self.watch(&key);
            let forget = || Order::Probe(probe::Order::Forget { upstream: Arc::clone(&key) });
            orders.push(watch.unwrap_or_else(forget));
        }
        orders
    }

    fn checks(&self, key: &str, conf: &Upstream) -> Option<Arc<Checks>> {
        let written = conf.checks.as_deref().filter(|_| !self.checks_off)?;
        match Checks::parse(written) {
            Ok(checks) => Some(Arc::new(checks)),
            Err(error) => {
                log::error!("failed to create healthcheck of {key}: {error}");
                None
            }
        }
    }

    /// A core uses this upstream for the first time.
    pub fn in_use(&mut self, key: &str) -> Option<Order> {
        let (key, _) = self.upstreams.get_key_value(key)?;
        let key = Arc::clone(key);
        self.upstreams.get_mut(&key)?.in_use = true;
        self.watch(&key)
    }

    fn watch(&self, key: &Arc<str>) -> Option<Order> {
        let known = self.upstreams.get(key)?;
        let checks = known.checks.clone()?;
        let targets = targets(&known.conf, &checks, |node| self.place(&known.conf, node));
        Some(Order::Probe(probe::Order::Watch { upstream: Arc::clone(key), checks, targets }))
    }

    /// Where a node is probed: of several addresses of its name the first stands for it.
    fn place(&self, conf: &Upstream, node: usize) -> Option<(Arc<str>, u16)> {
        let node = conf.nodes.get(node)?;
        let ip = match node.host.parse::<IpAddr>() {
            Ok(_) => Arc::from(&*node.host),
            Err(_) => self.names.get(&*node.host)?.first()?.to_string().into(),
        };
        Some((ip, node.port.unwrap_or_else(|| default_port(conf.scheme))))
    }

    /// The resolver has found something out: the message for every core, and new targets for the prober.
    pub fn resolved(&mut self, delta: DnsDelta) -> (ToCore, Vec<Order>) {
        let DnsDelta { name, addresses, .. } = delta;
        self.names.insert(Arc::clone(&name), Arc::clone(&addresses));
        let users = self.upstreams.iter().filter(|(_, known)| {
            known.in_use && known.checks.is_some() && names(&known.conf).any(|used| *used == *name)
        });
        let orders = users.filter_map(|(key, _)| self.watch(key)).collect();
        (ToCore::Name { name, addresses }, orders)
    }

    /// What a core that has just started must hear of names.
    pub fn known_names(&self) -> impl Iterator<Item = ToCore> {
        self.names
            .iter()
            .map(|(name, addresses)| ToCore::Name { name: name.clone(), addresses: addresses.clone() })
    }

    /// A request has met a node.
    pub fn passive(&self, key: &Arc<str>, host: &str, port: u16, seen: Seen) -> Option<Order> {
        let known = self.upstreams.get(key)?;
        let checks = known.checks.as_ref()?;
        let node = (0..known.conf.nodes.len()).find(|&node| {
            let written = &known.conf.nodes[node];
            *written.host == *host && self.place(&known.conf, node).is_some_and(|(_, p)| p == port)
        })?;
        let (ip, port) = self.place(&known.conf, node)?;
        let port = checks.active.port.unwrap_or(port);
        let report = match seen {
            Seen::Status(status) => Report::Http(status),
            Seen::TcpFailure => Report::TcpFailure,
            Seen::Timeout => Report::Timeout,
        };
        Some(Order::Probe(probe::Order::Observed { upstream: Arc::clone(key), ip, port, report }))
    }

    /// A verdict of the prober, for every core: one message a node that it speaks of.
    pub fn verdict(&self, delta: &HealthDelta) -> Vec<ToCore> {
        let Some(known) = self.upstreams.get(&delta.upstream) else { return Vec::new() };
        // one that was under way when the checks went: nothing would take it back
        let Some(checks) = &known.checks else { return Vec::new() };
        let probed_port = checks.active.port;
        (known.conf.nodes.iter().enumerate())
            .filter_map(|(index, node)| {
                let (ip, port) = self.place(&known.conf, index)?;
                let meant = *ip == *delta.ip && probed_port.unwrap_or(port) == delta.port;
                meant.then(|| ToCore::Health {
                    upstream: Arc::clone(&delta.upstream),
                    host: (*node.host).into(),
                    port,
                    healthy: delta.status.usable(),
                    settled: delta.status.settled(),
                })
            })
            .collect()
    }
}

/// The nodes that are written as names.
fn names(conf: &Upstream) -> impl Iterator<Item = &str> {
    conf.nodes.iter().map(|node| &*node.host).filter(|host| host.parse::<IpAddr>().is_err())
}

/// The port of a node that has none (apisix/upstream.lua, `scheme_to_port`).
fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Https | Scheme::Grpcs | Scheme::Tls => 443,
        _ => 80,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Node, Stored};
    use crate::upstream::health::Status;

    fn put(id: &str, hosts: &[&str], checks: Option<serde_json::Value>) -> Delta {
        let node =
            |host: &&str| Node { host: (*host).into(), port: None, weight: 1, priority: 0, metadata: None };
        let conf = Upstream {
            nodes: hosts.iter().map(node).collect(),
            checks: checks.map(Box::new),
            ..Upstream::default()
        };
        let stored = Stored { id: id.into(), create_revision: 1, modify_revision: 1, value: Arc::new(conf) };
        Delta::Put(Object::Upstream(Arc::new(stored)))
    }

    fn resolved(nodes: &mut Nodes, name: &str, address: &str) -> Vec<Order> {
        let addresses = Arc::new([address.parse().unwrap()]);
        nodes.resolved(DnsDelta { name: name.into(), addresses, version: 1 }).1
    }

    /// Orders, short: `use a`, `release a`, `watch ip:port …`, `forget`.
    fn short(orders: &[Order]) -> Vec<String> {
        let one = |order: &Order| match order {
            Order::Dns(dns::Order::Use(name)) => format!("use {name}"),
            Order::Dns(dns::Order::Release(name)) => format!("release {name}"),
            Order::Probe(probe::Order::Watch { targets, .. }) => {
                let targets: Vec<String> = targets.iter().map(|t| format!("{}:{}", t.ip, t.port)).collect();
                format!("watch {}", targets.join(" "))
            }
            Order::Probe(probe::Order::Forget { .. }) => "forget".to_owned(),
            Order::Probe(probe::Order::Observed { ip, port, report, .. }) => {
                format!("observed {ip}:{port} {report:?}")
            }
            Order::Probe(probe::Order::List(_)) => "list".to_owned(),
        };
        orders.iter().map(one).collect()
    }

    #[test]
    fn names_are_used_while_an_upstream_has_them() {
        let mut nodes = Nodes::new(false);
        assert!(nodes.changed(&put("1", &["10.0.0.1"], None)).is_empty());
        assert_eq!(short(&nodes.changed(&put("1", &["a.example", "::1"], None))), ["use a.example"]);
        assert_eq!(
            short(&nodes.changed(&put("1", &["a.example", "b.example"], None))),
            ["use a.example", "use b.example", "release a.example"]
        );
        let gone = Delta::Delete(Kind::Upstream, "1".into());
        assert_eq!(short(&nodes.changed(&gone)), ["release a.example", "release b.example"]);
        assert!(nodes.changed(&gone).is_empty());
    }

    #[test]
    fn checks_run_from_the_first_use_and_follow_changes() {
        let mut nodes = Nodes::new(false);
        let checks = || Some(json!({"active": {}}));
        nodes.changed(&put("1", &["10.0.0.1", "a.example"], checks()));
        assert!(nodes.in_use("/apisix/upstreams/2").is_none());
        assert!(resolved(&mut nodes, "a.example", "10.0.0.3").is_empty(), "nobody uses it");
        nodes = Nodes::new(false);
        nodes.changed(&put("1", &["10.0.0.1", "a.example"], checks()));
        assert_eq!(short(&[nodes.in_use("/apisix/upstreams/1").unwrap()]), ["watch 10.0.0.1:80"]);
        assert_eq!(short(&resolved(&mut nodes, "a.example", "10.0.0.2")), ["watch 10.0.0.1:80 10.0.0.2:80"]);
        assert!(resolved(&mut nodes, "other.example", "10.0.0.3").is_empty());
        let orders = nodes.changed(&put("1", &["10.0.0.9"], checks()));
        assert_eq!(short(&orders), ["release a.example", "watch 10.0.0.9:80"]);
        assert_eq!(short(&nodes.changed(&put("1", &["10.0.0.9"], None))), ["forget"]);
        let mut off = Nodes::new(true);
        off.changed(&put("1", &["10.0.0.1"], checks()));
        assert!(off.in_use("/apisix/upstreams/1").is_none());
    }

    #[test]
    fn addresses_of_the_prober_are_nodes_of_the_cores() {
        let mut nodes = Nodes::new(false);
        let checks = json!({"active": {"port": 9000}});
        nodes.changed(&put("1", &["a.example", "10.0.0.1"], Some(checks)));
        resolved(&mut nodes, "a.example", "10.0.0.2");
        let key: Arc<str> = "/apisix/upstreams/1".into();
        let order = nodes.passive(&key, "a.example", 80, Seen::Status(500)).unwrap();
        assert_eq!(short(&[order]), ["observed 10.0.0.2:9000 Http(500)"]);
        assert!(nodes.passive(&key, "a.example", 81, Seen::Timeout).is_none());
        let told = |nodes: &Nodes, ip: &str, port, status| {
            let (upstream, ip) = (Arc::clone(&key), ip.into());
            let told = nodes.verdict(&HealthDelta { upstream, ip, port, status, version: 1 });
            let one = |message| match message {
                ToCore::Health { host, port, healthy, settled, .. } => {
                    (host.to_string(), port, healthy, settled)
                }
                _ => panic!("no verdict"),
            };
            told.into_iter().map(one).collect::<Vec<_>>()
        };
        let of_a = |healthy, settled| [("a.example".to_owned(), 80, healthy, settled)];
        assert_eq!(told(&nodes, "10.0.0.2", 9000, Status::Unhealthy), of_a(false, true));
        assert_eq!(told(&nodes, "10.0.0.2", 9000, Status::MostlyHealthy), of_a(true, false));
        assert!(told(&nodes, "10.0.0.7", 9000, Status::Unhealthy).is_empty());
        assert!(told(&nodes, "10.0.0.2", 9001, Status::Unhealthy).is_empty());
        let changed = |checks| put("1", &["a.example", "10.0.0.1"], checks);
        nodes.changed(&changed(Some(json!({"active": {}}))));
        assert_eq!(told(&nodes, "10.0.0.2", 80, Status::Unhealthy), of_a(false, true));
        nodes.changed(&changed(None));
        assert!(told(&nodes, "10.0.0.2", 80, Status::Unhealthy).is_empty(), "it has no checks now");
    }
}
