//! An upstream as one core uses it: its balancer, its nodes' addresses and their connection pools.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::exchange::{Vars, body_vars};
use crate::model::{Balance, KeepalivePool, Node, PassHost, Scheme, Upstream};
use crate::transport::pool::{Pool, Pools};
use crate::transport::{Target, TlsClient};
use crate::upstream::health::{Checks, Status};
use crate::upstream::{Balancer, HashKey, NodeSet, Peer, Pick};

/// A node and where it is reached.
pub struct LiveNode {
    /// As written: a name or an address.
    pub host: Box<str>,
    /// The same, for exchanges to hold: `$upstream_unresolved_host`.
    pub name: Rc<str>,
    /// As written, or the scheme's.
    pub port: u16,
    /// What `pass_host: node` sends.
    pub host_header: Box<[u8]>,
    /// One address, or those that its name resolved to: one is taken at random for each request.
    places: SmallVec<[(SocketAddr, Rc<Pool>); 1]>,
}

/// One upstream on one core.
pub struct LiveUpstream {
    /// As the operator wrote it.
    pub conf: Arc<Upstream>,
    /// `/apisix/upstreams/1`, or the route's or service's key of an inline one.
    pub key: Box<str>,
    /// Nodes that have an address.
    pub nodes: Vec<LiveNode>,
    /// The scheme that requests use, unless a plugin says otherwise.
    pub scheme: &'static str,
    /// How connections to its nodes are kept.
    pub keep: KeepalivePool,
    /// TLS towards the nodes.
    pub tls: NodeTls,
    hash_key: HashKey,
    /// The hash key looks into the request's body.
    pub reads_body: bool,
    balancer: RefCell<Balancer>,
    health: RefCell<Health>,
    /// Its health checks, read once.
    pub checks: Option<Box<Checks>>,
    /// It has no node yet, but names that control is still resolving.
    pub awaited: bool,
    /// A name of its nodes was resolved anew: the next use builds it again.
    pub stale: Cell<bool>,
    /// `pass_host: node` sends the node's host without its port: upstreams of traffic-split with plain HTTP
    /// (traffic-split.lua leaves the scheme unset, without which balancer.lua adds no port).
    pub bare_host: bool,
    /// Control was told that this upstream is in use: its health checks run.
    pub announced: Cell<bool>,
}

/// TLS towards the nodes of an upstream, by what is spoken over it.
#[derive(Default)]
pub struct NodeTls {
    /// Without ALPN: HTTP/1.1 (scheme `https`), bytes (`tls`), `kafka`.
    pub bare: Option<Rc<TlsClient>>,
    /// HTTP/2: scheme `grpcs`, and `https` with `http2`.
    pub h2: Option<Rc<TlsClient>>,
}

/// The health of its nodes as far as this core was told. A node that is in neither set is healthy.
#[derive(Default)]
struct Health {
    /// Nodes that are out.
    unhealthy: NodeSet,
    /// Nodes between the states: the next reports may decide.
    unsettled: NodeSet,
    /// Nodes of which a report is under way that will change what control says of them.
    reported: NodeSet,
}

/// Why an upstream cannot be used.
pub struct Unusable {
    /// What its requests get: 502 where an object that it refers to is missing, 503 where its client certificate
    /// cannot be read (apisix/upstream.lua).
    pub status: u16,
    /// For the error log.
    pub reason: String,
}

/// A place to send a request to.
pub struct Picked {
    /// Index of the node.
    pub node: usize,
    /// Its address.
    pub addr: SocketAddr,
    /// Connections to it.
    pub pool: Rc<Pool>,
}

impl LiveUpstream {
    /// Builds it from `conf`. `resolve` gives the addresses of a name; `previous` is the same upstream
    /// before a change, whose in-flight counts go on.
    pub fn new(
        conf: Arc<Upstream>,
        key: &str,
        pools: &Pools,
        keep: KeepalivePool,
        tls: NodeTls,
        previous: Option<&LiveUpstream>,
        resolve: impl Fn(&str) -> Option<SmallVec<[IpAddr; 2]>>,
    ) -> Self {
        let scheme = scheme_name(conf.scheme);
        let default_port = if tls.bare.is_some() || tls.h2.is_some() { 443 } else { 80 };
        let nodes: Vec<LiveNode> = (conf.nodes.iter())
            .filter_map(|node| LiveNode::new(node, default_port, pools, &resolve))
            .collect();
        let peers: Vec<Peer> = (nodes.iter())
            .map(|live| {
                let written = conf
                    .nodes
                    .iter()
                    .find(|n| n.host == live.host && n.port.unwrap_or(default_port) == live.port);
                Peer {
                    host: match live.host.parse::<IpAddr>() {
                        Ok(_) => live.host.clone(),
                        Err(_) => live.places[0].0.ip().to_string().into(),
                    },
                    port: live.port,
                    weight: written.map_or(1, |n| n.weight),
                    priority: written.map_or(0, |n| n.priority),
                }
            })
            .collect();
        let old = previous.map(|previous| previous.balancer.borrow());
        let balancer = Balancer::new(conf.balance, &peers, old.as_deref(), &mut fastrand::Rng::new());
        drop(old);
        let is_name = |node: &&Node| node.host.parse::<IpAddr>().is_err();
        let awaited = conf.nodes.iter().filter(is_name).any(|node| resolve(&node.host).is_none());
        LiveUpstream {
            awaited: awaited && nodes.is_empty(),
            stale: Cell::new(false),
            hash_key: HashKey::new(&conf),
            reads_body: conf.balance == Balance::Chash
                && conf.key.as_deref().is_some_and(body_vars::named_in_text),
            key: key.into(),
            nodes,
            scheme,
            keep: conf.keepalive_pool.unwrap_or(keep),
            tls,
            balancer: RefCell::new(balancer),
            health: RefCell::default(),
            // what control says of a bad configuration need not be said by every core
            checks: conf.checks.as_deref().and_then(|written| Checks::parse(written).ok()).map(Box::new),
            bare_host: false,
            announced: Cell::new(conf.checks.is_none()),
            conf,
        }
    }

    /// Picks a node for an exchange, or `None` when all were tried.
    pub fn pick(
        &self,
        vars: &dyn Vars,
        tried: &NodeSet,
        now_ms: u64,
        rng: &mut fastrand::Rng,
    ) -> Option<Picked> {
        let mut balancer = self.balancer.borrow_mut();
        let key = if balancer.wants_key() { self.hash_key.resolve(vars) } else { Default::default() };
        let unhealthy = &self.health.borrow().unhealthy;
        let node = balancer.pick(&Pick { key: &key, tried, unhealthy, now_ms }, rng)?;
        let places = &self.nodes.get(node)?.places;
        let (addr, pool) = &places[if places.len() == 1 { 0 } else { rng.usize(..places.len()) }];
        Some(Picked { node, addr: *addr, pool: pool.clone() })
    }

    /// Do requests go by HTTP/2? One that may switch protocols cannot (RFC 9113 section 8.6).
    pub fn speaks_h2(&self, may_switch: bool) -> bool {
        match self.conf.scheme {
            Scheme::Grpc | Scheme::Grpcs => true,
            _ => self.tls.h2.is_some() && !may_switch,
        }
    }

    /// The same where the upstream has no algorithm (`type: none`), as the protocols of layer 4 do it: any node.
    pub fn pick_any(&self, tried: &NodeSet, rng: &mut fastrand::Rng) -> Option<Picked> {
        let open: SmallVec<[usize; 8]> =
            (0..self.nodes.len()).filter(|node| !tried.contains(*node)).collect();
        let node = *open.get(rng.usize(..open.len().max(1)))?;
        let places = &self.nodes.get(node)?.places;
        let (addr, pool) = places.get(rng.usize(..places.len()))?;
        Some(Picked { node, addr: *addr, pool: pool.clone() })
    }

    /// A request begins to use `node`.
    pub fn started(&self, node: usize) {
        self.balancer.borrow().started(node);
    }

    /// A request is done with `node`; see [`Balancer::finished`].
    pub fn finished(&self, node: usize, latency_ms: Option<u32>, now_ms: u64) {
        self.balancer.borrow().finished(node, latency_ms, now_ms);
    }

    /// The `Host` header that goes upstream, or `None` for the client's.
    pub fn host_header(&self, node: usize) -> Option<&[u8]> {
        match self.conf.pass_host {
            PassHost::Pass => None,
            PassHost::Node => {
                let node = self.nodes.get(node)?;
                // `host:port`, or the host alone where the port is the scheme's
                let bare =
                    memchr::memrchr(b':', &node.host_header).filter(|_| !node.host_header.ends_with(b"]"));
                Some(&node.host_header[..bare.filter(|_| self.bare_host).unwrap_or(node.host_header.len())])
            }
            PassHost::Rewrite => self.conf.upstream_host.as_deref().map(str::as_bytes),
        }
    }

    /// What this core knows of a node's health.
    pub fn health_of(&self, node: usize) -> Status {
        let Health { unhealthy, unsettled, reported } = &*self.health.borrow();
        Status::of(!unhealthy.contains(node), !unsettled.contains(node) && !reported.contains(node))
    }

    /// A report on `node` is under way that counts: until control has said what it makes of it, all count.
    pub fn unsettle(&self, node: usize) {
        self.health.borrow_mut().reported.insert(node);
    }

    /// Control's verdicts, of all nodes that are not healthy. They may be older than a report that is under way: of its node
    /// all reports go on to count until something else is said of it.
    pub fn set_health<'a>(&self, verdicts: impl Iterator<Item = (&'a str, u16, Status)>) {
        let mut health = Health::default();
        for (host, port, status) in verdicts {
            let Some(node) = self.node_at(host, port) else { continue };
            if !status.usable() {
                health.unhealthy.insert(node);
            }
            if !status.settled() {
                health.unsettled.insert(node);
            }
        }
        let mut known = self.health.borrow_mut();
        let same = |node: usize| {
            health.unhealthy.contains(node) == known.unhealthy.contains(node)
                && health.unsettled.contains(node) == known.unsettled.contains(node)
        };
        for node in (0..self.nodes.len()).filter(|node| known.reported.contains(*node) && same(*node)) {
            health.reported.insert(node);
        }
        *known = health;
    }

    /// The node with this address, for health verdicts.
    fn node_at(&self, host: &str, port: u16) -> Option<usize> {
        self.nodes.iter().position(|node| {
            node.port == port
                && (*node.host == *host || node.places.iter().any(|(addr, _)| addr.ip().to_string() == host))
        })
    }
}

impl LiveNode {
    fn new(
        node: &Node,
        default_port: u16,
        pools: &Pools,
        resolve: &impl Fn(&str) -> Option<SmallVec<[IpAddr; 2]>>,
    ) -> Option<Self> {
        let port = node.port.unwrap_or(default_port);
        let ips = match node.host.parse::<IpAddr>() {
            Ok(ip) => SmallVec::from_elem(ip, 1),
            Err(_) => resolve(&node.host)?,
        };
        let places: SmallVec<_> = (ips.into_iter())
            .map(|ip| SocketAddr::new(ip, port))
            .map(|address| (address, pools.get(&Target { address, tls: None })))
            .collect();
        let shown = if node.host.contains(':') { format!("[{}]", node.host) } else { node.host.to_string() };
        let host_header = if port == default_port { shown } else { format!("{shown}:{port}") };
        (!places.is_empty()).then(|| LiveNode {
            host: node.host.clone(),
            name: Rc::from(&*node.host),
            port,
            host_header: host_header.into_bytes().into(),
            places,
        })
    }
}

/// The scheme by its name in configurations.
pub fn scheme_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
        Scheme::Grpc => "grpc",
        Scheme::Grpcs => "grpcs",
        Scheme::Tcp => "tcp",
        Scheme::Tls => "tls",
        Scheme::Udp => "udp",
        Scheme::Kafka => "kafka",
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    /// A hash key.
    struct Key(String);

    impl Vars for Key {
        fn var(&self, _: &str) -> Option<Cow<'_, [u8]>> {
            Some(Cow::Borrowed(self.0.as_bytes()))
        }
    }

    const HOSTS: [&str; 3] = ["2001:DB8::1", "2001:db8:0:0::2", "192.0.2.3"];

    /// An upstream with these nodes on port 80.
    fn live(balance: Balance) -> LiveUpstream {
        let node =
            |host: &str| Node { host: host.into(), port: None, weight: 1, priority: 0, metadata: None };
        let nodes = HOSTS.map(node).into();
        let conf = Upstream { balance, key: Some("remote_addr".into()), nodes, ..Upstream::default() };
        let keep = KeepalivePool { size: 1, idle_timeout_ms: 1, requests: 1 };
        LiveUpstream::new(Arc::new(conf), "/u", &Pools::new(), keep, NodeTls::default(), None, |_| None)
    }

    /// The node of each of 50 keys in a balancer over these hosts.
    fn places(hosts: [&str; 3]) -> Vec<Option<usize>> {
        let peers = hosts.map(|host| Peer { host: host.into(), port: 80, weight: 1, priority: 0 });
        let mut rng = fastrand::Rng::with_seed(1);
        let mut balancer = Balancer::new(Balance::Chash, &peers, None, &mut rng);
        let (tried, unhealthy) = (NodeSet::new(), NodeSet::new());
        let mut place = |n: u32| {
            let key = n.to_string();
            let pick = Pick { key: key.as_bytes(), tried: &tried, unhealthy: &unhealthy, now_ms: 0 };
            balancer.pick(&pick, &mut rng)
        };
        (0..50).map(&mut place).collect()
    }

    /// APISIX hashes the text, which may be an uncommon spelling of an address.
    #[test]
    fn chash_places_addresses_as_they_are_written() {
        let up = live(Balance::Chash);
        let mut rng = fastrand::Rng::with_seed(1);
        let tried = NodeSet::new();
        let picked = (0..50).map(|n| up.pick(&Key(n.to_string()), &tried, 0, &mut rng).map(|p| p.node));
        let picked: Vec<_> = picked.collect();
        assert_eq!(picked, places(HOSTS));
        assert_ne!(picked, places(["2001:db8::1", "2001:db8::2", "192.0.2.3"]), "the spelling matters");
    }

    #[test]
    fn health_is_what_control_says_and_what_is_under_way() {
        let up = live(Balance::RoundRobin);
        let known = || [0, 1, 2].map(|node| up.health_of(node));
        assert_eq!(known(), [Status::Healthy; 3]);
        up.unsettle(1);
        assert_eq!(known(), [Status::Healthy, Status::MostlyHealthy, Status::Healthy]);
        let verdicts = [Status::Unhealthy, Status::Unhealthy, Status::MostlyUnhealthy];
        up.set_health(std::iter::zip(HOSTS, verdicts).map(|(host, status)| (host, 80, status)));
        assert_eq!(known(), verdicts);
        up.unsettle(0);
        assert_eq!(up.health_of(0), Status::MostlyUnhealthy);
        up.set_health([].into_iter());
        assert_eq!(known(), [Status::Healthy; 3]);
    }

    /// As when health checks have just begun, or another node has changed: a success right behind a failure has to count.
    #[test]
    fn a_verdict_from_before_a_report_does_not_settle_its_node() {
        let up = live(Balance::RoundRobin);
        up.unsettle(1);
        up.set_health([].into_iter());
        assert_eq!(up.health_of(1), Status::MostlyHealthy, "the first word on an upstream");
        up.set_health([(HOSTS[0], 80, Status::Unhealthy)].into_iter());
        assert_eq!(up.health_of(1), Status::MostlyHealthy, "a word on another node");
        for own in [Status::MostlyHealthy, Status::Healthy] {
            up.set_health([(HOSTS[1], 80, own)].into_iter());
            assert_eq!(up.health_of(1), own, "what the report has led to");
        }
    }
}
