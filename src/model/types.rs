//! The typed objects. `serde` reads them after their JSON Schema has accepted the value, so shapes are
//! simple here: what APISIX allows in two forms (map or list of nodes, `uri` or `uris`) is one form.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

/// An object's id: always text (`1` and `"1"` are the same id, APISIX core/etcd.lua).
pub type Id = Arc<str>;

/// Plugin configurations by plugin name, in the order written.
pub type Plugins = Map<String, Value>;

/// The kinds of object, named as their etcd directory and Admin API resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// `/routes`
    Route,
    /// `/services`
    Service,
    /// `/upstreams`
    Upstream,
    /// `/consumers`
    Consumer,
    /// `/consumer_groups`
    ConsumerGroup,
    /// `/global_rules`
    GlobalRule,
    /// `/plugin_configs`
    PluginConfig,
    /// `/plugin_metadata`
    PluginMetadata,
    /// `/ssls`
    Ssl,
    /// `/protos`
    Proto,
    /// `/stream_routes`
    StreamRoute,
    /// `/secrets`
    Secret,
    /// `/plugins`: one key, the list of enabled plugins
    PluginList,
}

/// One object with its place in the store. `create_revision` and `modify_revision` are etcd's
/// (`createdIndex`, `modifiedIndex` in the Admin API).
#[derive(Debug)]
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

/// An IPv4 or IPv6 network, `address/prefix`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpNet {
    /// Network address (host bits cleared).
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

/// Timeouts in seconds as written; all three are required together.
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
    pub vars: Option<Value>,
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
    pub labels: Option<Map<String, Value>>,
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
    pub labels: Option<Map<String, Value>>,
    /// `script` is set.
    pub needs_lua: bool,
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
    pub metadata: Option<Value>,
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
    /// Host header.
    pub pass_host: PassHost,
    /// For [`PassHost::Rewrite`].
    pub upstream_host: Option<Box<str>>,
    /// `tls` as written.
    pub tls: Option<Value>,
    /// `checks` as written (defaults filled).
    pub checks: Option<Value>,
    /// Labels.
    pub labels: Option<Map<String, Value>>,
}

/// A consumer, or a consumer's credential merged into it.
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
    pub labels: Option<Map<String, Value>>,
}

/// A named bundle of plugins: consumer group, plugin config or global rule.
#[derive(Debug, Default)]
pub struct PluginBundle {
    /// Plugin configurations, decrypted.
    pub plugins: Plugins,
}
