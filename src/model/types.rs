//! The typed objects. `serde` reads them after their JSON Schema has accepted the value, so shapes are
//! simple here: what APISIX allows in two forms (map or list of nodes, `uri` or `uris`) is one form. What few
//! objects have is boxed: there may be 100,000 routes (`parse` has the arithmetic).

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::id::Id;

/// Plugin configurations by plugin name, in the order written.
pub type Plugins = Map<String, Value>;

/// One object with its place in the store. `create_revision` and `modify_revision` are etcd's
/// (`createdIndex`, `modifiedIndex` in the Admin API).
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// The id below its directory.
    pub id: Id,
    /// Revision of its creation.
    pub create_revision: i64,
    /// Revision of its last change: APISIX's "conf version".
    pub modify_revision: i64,
    /// The object.
    pub value: T,
}

/// HTTP methods as a bit set; an empty set allows all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Methods(pub u16);

impl Methods {
    /// The methods that a route may name (apisix/schema_def.lua, `method_schema`), in bit order.
    pub const NAMES: [&str; 10] =
        ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"];

    /// The set of one method; `None` for a name that no route can have. Names are case-sensitive.
    pub fn of(name: &[u8]) -> Option<Methods> {
        let bit = Methods::NAMES.iter().position(|known| known.as_bytes() == name)?;
        Some(Methods(1 << bit))
    }

    /// Adds the methods of another set.
    pub fn insert(&mut self, other: Methods) {
        self.0 |= other.0;
    }

    /// Whether a request of this method matches.
    pub fn allows(self, name: &[u8]) -> bool {
        self.0 == 0 || Methods::of(name).is_some_and(|method| self.0 & method.0 != 0)
    }
}

/// An IPv4 or IPv6 network, `address/prefix`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpNet {
    /// Network address (host bits cleared).
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl IpNet {
    /// Reads `1.2.3.4`, `1.2.3.0/24`, `::1` or `fe80::/10`; a single address is a network of itself.
    pub fn parse(text: &str) -> Option<IpNet> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        (prefix <= width).then(|| IpNet { address: masked(address, prefix), prefix })
    }

    /// Whether an address lies in this network. IPv4 and IPv6 never match each other.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

/// The address with its host bits cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// Timeouts; all three are written together, in seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timeout {
    /// Connect timeout, ms.
    pub connect_ms: u32,
    /// Between two writes to the upstream, ms.
    pub send_ms: u32,
    /// Between two reads from the upstream, ms.
    pub read_ms: u32,
}

/// A route.
#[derive(Debug, Default)]
pub struct Route {
    /// Display name.
    pub name: Option<Box<str>>,
    /// Paths (from `uri` or `uris`).
    pub uris: Vec<Box<str>>,
    /// Hosts, lower case (from `host` or `hosts`).
    pub hosts: Vec<Box<str>>,
    /// Allowed methods.
    pub methods: Methods,
    /// Allowed client networks.
    pub remote_addrs: Vec<IpNet>,
    /// lua-resty-expr conditions.
    pub vars: Option<Box<Value>>,
    /// Higher wins among routes of one path.
    pub priority: i64,
    /// `status: 0` takes the route out.
    pub disabled: bool,
    /// `Some` if written: a route's `false` beats a service's `true`.
    pub enable_websocket: Option<bool>,
    /// Beats the upstream's.
    pub timeout: Option<Timeout>,
    /// Plugin configurations.
    pub plugins: Plugins,
    /// Reference to a plugin config.
    pub plugin_config_id: Option<Id>,
    /// Upstream written inline.
    pub upstream: Option<Arc<Upstream>>,
    /// Reference to an upstream.
    pub upstream_id: Option<Id>,
    /// Reference to a service.
    pub service_id: Option<Id>,
    /// Labels.
    pub labels: Option<Box<Map<String, Value>>>,
    /// `filter_func` or `script` is set: Lua, which this gateway does not run yet; requests get 503.
    pub needs_lua: bool,
}

/// A service: shared plugins and upstream of routes.
#[derive(Debug, Default)]
pub struct Service {
    /// Display name.
    pub name: Option<Box<str>>,
    /// Hosts for routes that have none.
    pub hosts: Vec<Box<str>>,
    /// See [`Route::enable_websocket`].
    pub enable_websocket: Option<bool>,
    /// Plugin configurations.
    pub plugins: Plugins,
    /// Upstream written inline.
    pub upstream: Option<Arc<Upstream>>,
    /// Reference to an upstream.
    pub upstream_id: Option<Id>,
    /// Labels.
    pub labels: Option<Box<Map<String, Value>>>,
    /// `script` is set.
    pub needs_lua: bool,
}

/// A stream route: what becomes of a connection of layer 4.
#[derive(Debug, Default)]
pub struct StreamRoute {
    /// Display name.
    pub name: Option<Box<str>>,
    /// The client's network.
    pub remote_addr: Option<IpNet>,
    /// The network of our end.
    pub server_addr: Option<IpNet>,
    /// The port of our end.
    pub server_port: Option<u16>,
    /// The name asked for by TLS, lower case; `*.x` stands for every name below x, at any depth.
    pub sni: Option<Box<str>>,
    /// Plugin configurations.
    pub plugins: Plugins,
    /// Upstream written inline.
    pub upstream: Option<Arc<Upstream>>,
    /// Reference to an upstream.
    pub upstream_id: Option<Id>,
    /// Reference to a service.
    pub service_id: Option<Id>,
    /// What is spoken, where more than bytes are seen (xRPC).
    pub protocol: Option<Box<Protocol>>,
}

/// `protocol` of a stream route.
#[derive(Debug, Default)]
pub struct Protocol {
    /// Its name, as in `xrpc.protocols`.
    pub name: Box<str>,
    /// The stream route that this one is subordinate to: it is never met by a connection, only by calls on one.
    pub superior_id: Option<Id>,
    /// What the protocol itself understands.
    pub conf: Value,
    /// `logger` as written: `name`, `filter`, `conf`.
    pub loggers: Vec<Value>,
    /// `metric.enable`
    pub metrics: bool,
}

/// How the `Host` header is sent upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PassHost {
    /// The client's.
    #[default]
    Pass,
    /// The node's.
    Node,
    /// `upstream_host`.
    Rewrite,
}

/// Upstream protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scheme {
    /// http
    #[default]
    Http,
    /// https
    Https,
    /// grpc
    Grpc,
    /// grpcs
    Grpcs,
    /// tcp
    Tcp,
    /// tls
    Tls,
    /// udp
    Udp,
    /// kafka
    Kafka,
}

/// Balancing algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Balance {
    /// Weighted round robin.
    #[default]
    RoundRobin,
    /// Consistent hashing.
    Chash,
    /// Least connections.
    LeastConn,
    /// Peak EWMA of latency.
    Ewma,
    /// Weighted random.
    Random,
    /// `none`: a scheme that picks its own peer (kafka).
    None,
}

/// What a consistent hash is taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HashOn {
    /// `$key`
    #[default]
    Vars,
    /// Header `key`
    Header,
    /// Cookie `key`
    Cookie,
    /// The consumer's name
    Consumer,
    /// `key` is a template of variables
    VarsCombinations,
}

/// One node of an upstream.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Address or DNS name (an IPv6 address without brackets).
    pub host: Box<str>,
    /// Port; `None` takes the scheme's.
    pub port: Option<u16>,
    /// Weight; 0 is never picked while others are.
    pub weight: u32,
    /// Higher first.
    pub priority: i32,
    /// Free key-values.
    pub metadata: Option<Box<Value>>,
}

/// Upstream keep-alive pool.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct KeepalivePool {
    /// Idle connections kept per core.
    pub size: u32,
    /// Idle time, ms.
    pub idle_timeout_ms: u32,
    /// Requests per connection.
    pub requests: u32,
}

/// An upstream.
#[derive(Debug, Default)]
pub struct Upstream {
    /// Display name.
    pub name: Option<Box<str>>,
    /// Nodes, in the order that APISIX gives them.
    pub nodes: Vec<Node>,
    /// Discovery instead of nodes (`discovery_type`, `service_name`): not served yet, 503.
    pub discovery: Option<(Box<str>, Box<str>)>,
    /// Tries after the first; `None` is nodes − 1.
    pub retries: Option<u32>,
    /// Deadline for retries, ms; 0 is none.
    pub retry_timeout_ms: u32,
    /// Timeouts.
    pub timeout: Option<Timeout>,
    /// Keep-alive pool.
    pub keepalive_pool: Option<KeepalivePool>,
    /// Algorithm.
    pub balance: Balance,
    /// For `chash`.
    pub hash_on: HashOn,
    /// For `chash`: variable, header, cookie or template.
    pub key: Option<Box<str>>,
    /// Protocol.
    pub scheme: Scheme,
    /// `http2`, an option of ours: with [`Scheme::Https`], requests go by HTTP/2.
    pub http2: bool,
    /// Host header.
    pub pass_host: PassHost,
    /// For [`PassHost::Rewrite`].
    pub upstream_host: Option<Box<str>>,
    /// `tls` as written.
    pub tls: Option<Box<Value>>,
    /// `checks` as written (defaults filled).
    pub checks: Option<Box<Value>>,
    /// Labels.
    pub labels: Option<Box<Map<String, Value>>>,
}

/// A consumer; each of its credentials is one more, with the credential's plugins in place of its own.
#[derive(Debug, Default)]
pub struct Consumer {
    /// Its name.
    pub username: Box<str>,
    /// Set where these plugins are a credential's.
    pub credential_id: Option<Id>,
    /// Reference to a consumer group.
    pub group_id: Option<Id>,
    /// Plugin configurations (auth plugins hold the credentials), decrypted.
    pub plugins: Plugins,
    /// Labels; `custom_id` becomes X-Consumer-Custom-ID.
    pub labels: Option<Box<Map<String, Value>>>,
}

/// A named bundle of plugins: consumer group, plugin config or global rule.
#[derive(Debug, Default)]
pub struct PluginBundle {
    /// Plugin configurations, decrypted.
    pub plugins: Plugins,
}
