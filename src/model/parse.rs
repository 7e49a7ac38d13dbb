//! From the JSON of an object to its typed form. The JSON is taken apart, not copied, and has been accepted by
//! its schema before: what has the wrong shape all the same counts as not written. Only what a pattern lets
//! through and could open a route to everyone (an address that is none) is an error.
//!
//! Memory of a plain route (one uri, one inline node), once per process: `Stored<Route>` behind an `Arc` about
//! 400 bytes, its inline upstream about 350, a node 48, the texts under 100 with their allocations: the test
//! below holds the sum under 1,200 bytes. What few objects have (labels, vars, checks, tls) is boxed for that.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::address::{split_address, without_brackets};
use super::check::check_upstream_in_data_plane;
use super::delta::Object;
use super::id::{Id, Kind, id_text};
use super::schemas::object_schema;
use super::types::{
    Balance, Consumer, HashOn, IpNet, KeepalivePool, Methods, Node, PassHost, PluginBundle, Plugins,
    Protocol, Route, Scheme, Service, Stored, StreamRoute, Timeout, Upstream,
};

type Members = Map<String, Value>;

/// Validates `value` against the schema of its kind, which writes the defaults, and makes the object that goes
/// to the cores. Kinds that no core knows (protos, secrets, …) give `None` once they are valid. Encrypted
/// fields of plugins should be decrypted before.
pub fn object(kind: Kind, place: Stored<()>, mut value: Value) -> Result<Option<Object>, String> {
    let needs_id = matches!(kind, Kind::ConsumerGroup | Kind::GlobalRule | Kind::PluginConfig);
    if let (Value::Object(members), true) = (&mut value, needs_id) {
        // Their schemas require an id in the value; the one that counts is the key's.
        members.entry("id").or_insert_with(|| Value::String(place.id.to_string()));
    }
    if let Some(schema) = object_schema(kind) {
        schema.validate(&mut value)?;
    }
    if kind == Kind::Upstream {
        check_upstream_in_data_plane(&value)?;
    }
    Ok(Some(match kind {
        Kind::Route => Object::Route(place.with(route(value)?)),
        Kind::StreamRoute => Object::StreamRoute(place.with(stream_route(value)?)),
        Kind::Service => Object::Service(place.with(service(value))),
        Kind::Upstream => Object::Upstream(place.with(Arc::new(upstream(value)))),
        Kind::Consumer => Object::Consumer(place.with(consumer(value))),
        Kind::Credential => {
            let credential = credential(&place.id, value);
            Object::Consumer(place.with(credential))
        }
        Kind::ConsumerGroup => Object::ConsumerGroup(place.with(bundle(value))),
        Kind::GlobalRule => Object::GlobalRule(place.with(bundle(value))),
        Kind::PluginConfig => Object::PluginConfig(place.with(bundle(value))),
        Kind::PluginMetadata => Object::PluginMetadata(place.with(value)),
        Kind::Ssl => Object::Ssl(place.with(value)),
        Kind::Proto | Kind::Secret | Kind::CostDecoration | Kind::PluginList => {
            return Ok(None);
        }
    }))
}

impl Stored<()> {
    /// The place filled with its object, ready to be shared.
    fn with<T>(self, value: T) -> Arc<Stored<T>> {
        let Stored { id, create_revision, modify_revision, .. } = self;
        Arc::new(Stored { id, create_revision, modify_revision, value })
    }
}

/// A route; an error where an address in `remote_addr(s)` is none.
pub fn route(value: Value) -> Result<Route, String> {
    let mut from = members(value);
    let mut methods = Methods::default();
    for name in from.get("methods").and_then(Value::as_array).into_iter().flatten() {
        if let Some(method) = name.as_str().and_then(|name| Methods::of(name.as_bytes())) {
            methods.insert(method);
        }
    }
    Ok(Route {
        name: text(&mut from, "name"),
        uris: texts(&mut from, "uri", "uris"),
        hosts: lower_case(texts(&mut from, "host", "hosts")),
        methods,
        remote_addrs: networks(texts(&mut from, "remote_addr", "remote_addrs"))?,
        vars: from.remove("vars").filter(Value::is_array).map(Box::new),
        priority: whole(&from, "priority").unwrap_or(0),
        disabled: whole(&from, "status") == Some(0),
        enable_websocket: from.get("enable_websocket").and_then(Value::as_bool),
        timeout: timeout(&from),
        plugins: plugins(&mut from),
        plugin_config_id: id(&from, "plugin_config_id"),
        upstream: inline_upstream(&mut from),
        upstream_id: id(&from, "upstream_id"),
        service_id: id(&from, "service_id"),
        labels: labels(&mut from),
        needs_lua: from.contains_key("filter_func") || from.contains_key("script"),
    })
}

/// A stream route; an error where an address in it is none.
fn stream_route(value: Value) -> Result<StreamRoute, String> {
    let mut from = members(value);
    let mut network = |name: &str| match text(&mut from, name) {
        Some(text) => IpNet::parse(&text).map(Some).ok_or_else(|| format!("invalid {name}: {text}")),
        None => Ok(None),
    };
    let (remote_addr, server_addr) = (network("remote_addr")?, network("server_addr")?);
    Ok(StreamRoute {
        name: text(&mut from, "name"),
        remote_addr,
        server_addr,
        server_port: whole(&from, "server_port").and_then(|port| u16::try_from(port).ok()),
        sni: text(&mut from, "sni").map(|sni| sni.to_lowercase().into()),
        plugins: plugins(&mut from),
        upstream: inline_upstream(&mut from),
        upstream_id: id(&from, "upstream_id"),
        service_id: id(&from, "service_id"),
        protocol: from.remove("protocol").filter(Value::is_object).map(|value| Box::new(protocol(value))),
    })
}

fn protocol(value: Value) -> Protocol {
    let mut from = members(value);
    Protocol {
        name: text(&mut from, "name").unwrap_or_default(),
        superior_id: id(&from, "superior_id"),
        conf: from.remove("conf").unwrap_or_default(),
        loggers: match from.remove("logger") {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        },
        metrics: from.get("metric").is_some_and(|metric| metric["enable"] == true),
    }
}

/// A service.
pub fn service(value: Value) -> Service {
    let mut from = members(value);
    Service {
        name: text(&mut from, "name"),
        hosts: lower_case(texts(&mut from, "host", "hosts")),
        enable_websocket: from.get("enable_websocket").and_then(Value::as_bool),
        plugins: plugins(&mut from),
        upstream: inline_upstream(&mut from),
        upstream_id: id(&from, "upstream_id"),
        labels: labels(&mut from),
        needs_lua: from.contains_key("script"),
    }
}

/// A consumer.
pub fn consumer(value: Value) -> Consumer {
    let mut from = members(value);
    Consumer {
        username: text(&mut from, "username").unwrap_or_default(),
        credential_id: None,
        group_id: id(&from, "group_id"),
        plugins: plugins(&mut from),
        labels: labels(&mut from),
    }
}

/// A credential, whose id is `{consumer}/credentials/{credential}`.
fn credential(full_id: &str, value: Value) -> Consumer {
    let mut from = members(value);
    let (username, credential) = full_id.split_once("/credentials/").unwrap_or((full_id, ""));
    Consumer {
        username: username.into(),
        credential_id: Some(credential.into()),
        group_id: None,
        plugins: plugins(&mut from),
        labels: labels(&mut from),
    }
}

/// A consumer group, plugin config or global rule.
pub fn bundle(value: Value) -> PluginBundle {
    PluginBundle { plugins: plugins(&mut members(value)) }
}

/// An upstream, stored or inline.
pub fn upstream(value: Value) -> Upstream {
    let mut from = members(value);
    let discovery = match (text(&mut from, "discovery_type"), text(&mut from, "service_name")) {
        (Some(kind), Some(name)) => Some((kind, name)),
        _ => None,
    };
    Upstream {
        name: text(&mut from, "name"),
        nodes: from.remove("nodes").map(nodes).unwrap_or_default(),
        discovery,
        retries: whole(&from, "retries").map(clamp_u32),
        retry_timeout_ms: from.get("retry_timeout").and_then(Value::as_f64).map_or(0, milliseconds),
        timeout: timeout(&from),
        keepalive_pool: keepalive_pool(&from),
        balance: balance(&from),
        hash_on: match word(&from, "hash_on") {
            "header" => HashOn::Header,
            "cookie" => HashOn::Cookie,
            "consumer" => HashOn::Consumer,
            "vars_combinations" => HashOn::VarsCombinations,
            _ => HashOn::Vars,
        },
        key: text(&mut from, "key"),
        scheme: match word(&from, "scheme") {
            "https" => Scheme::Https,
            "grpc" => Scheme::Grpc,
            "grpcs" => Scheme::Grpcs,
            "tcp" => Scheme::Tcp,
            "tls" => Scheme::Tls,
            "udp" => Scheme::Udp,
            "kafka" => Scheme::Kafka,
            _ => Scheme::Http,
        },
        http2: from.get("http2").and_then(Value::as_bool).unwrap_or(false),
        pass_host: match word(&from, "pass_host") {
            "node" => PassHost::Node,
            "rewrite" => PassHost::Rewrite,
            _ => PassHost::Pass,
        },
        upstream_host: text(&mut from, "upstream_host"),
        tls: from.remove("tls").filter(Value::is_object).map(Box::new),
        checks: from.remove("checks").filter(Value::is_object).map(Box::new),
        labels: labels(&mut from),
    }
}

/// The algorithm; a name that is none of ours (APISIX loads a Lua module of that name) takes turns.
fn balance(from: &Members) -> Balance {
    match word(from, "type") {
        "" | "roundrobin" => Balance::RoundRobin,
        "chash" => Balance::Chash,
        "least_conn" => Balance::LeastConn,
        "ewma" => Balance::Ewma,
        "random" => Balance::Random,
        "none" => Balance::None,
        other => {
            log::warn!("unknown upstream type {other:?}: roundrobin is used");
            Balance::RoundRobin
        }
    }
}

/// A list of nodes, or a map of `host:port` to weight in the order written (in Lua it has none).
fn nodes(value: Value) -> Vec<Node> {
    let mut nodes: Vec<Node> = match value {
        Value::Array(list) => list.into_iter().filter_map(listed_node).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(address, weight)| mapped_node(&address, &weight)).collect()
        }
        _ => Vec::new(),
    };
    nodes.shrink_to_fit();
    nodes
}

fn listed_node(value: Value) -> Option<Node> {
    let mut from = members(value);
    let host = text(&mut from, "host")?;
    // The port may stand behind the host.
    let (host, port) = match whole(&from, "port") {
        Some(port) => (&*host, u16::try_from(port).ok()),
        None => {
            let (host, port) = split_address(&host);
            (host, port.and_then(|port| port.parse().ok()))
        }
    };
    Some(Node {
        host: without_brackets(host).into(),
        port,
        weight: whole(&from, "weight").map_or(0, clamp_u32),
        priority: whole(&from, "priority").map_or(0, clamp_i32),
        metadata: from.remove("metadata").filter(Value::is_object).map(Box::new),
    })
}

fn mapped_node(address: &str, weight: &Value) -> Node {
    let (host, port) = split_address(address);
    Node {
        host: without_brackets(host).into(),
        port: port.and_then(|port| port.parse().ok()),
        weight: weight.as_f64().map_or(0, |weight| clamp_u32(weight as i64)),
        priority: 0,
        metadata: None,
    }
}

fn members(value: Value) -> Members {
    match value {
        Value::Object(members) => members,
        _ => Members::new(),
    }
}

fn inline_upstream(from: &mut Members) -> Option<Arc<Upstream>> {
    from.remove("upstream").filter(Value::is_object).map(|value| Arc::new(upstream(value)))
}

fn plugins(from: &mut Members) -> Plugins {
    match from.remove("plugins") {
        Some(Value::Object(plugins)) => plugins,
        _ => Plugins::new(),
    }
}

fn labels(from: &mut Members) -> Option<Box<Members>> {
    match from.remove("labels") {
        Some(Value::Object(labels)) => Some(Box::new(labels)),
        _ => None,
    }
}

fn word<'a>(from: &'a Members, name: &str) -> &'a str {
    from.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn text(from: &mut Members, name: &str) -> Option<Box<str>> {
    match from.remove(name) {
        Some(Value::String(text)) => Some(text.into_boxed_str()),
        _ => None,
    }
}

/// The texts under the name for one, or under the name for several.
fn texts(from: &mut Members, one: &str, several: &str) -> Vec<Box<str>> {
    if let Some(text) = text(from, one) {
        return vec![text];
    }
    let list = match from.remove(several) {
        Some(Value::Array(list)) => list,
        _ => return Vec::new(),
    };
    let texts = list.into_iter().filter_map(|item| match item {
        Value::String(text) => Some(text.into_boxed_str()),
        _ => None,
    });
    texts.collect()
}

fn lower_case(mut texts: Vec<Box<str>>) -> Vec<Box<str>> {
    texts.iter_mut().for_each(|text| text.make_ascii_lowercase());
    texts
}

fn networks(texts: Vec<Box<str>>) -> Result<Vec<IpNet>, String> {
    let parsed = |text: Box<str>| IpNet::parse(&text).ok_or_else(|| format!("invalid ip address: {text}"));
    texts.into_iter().map(parsed).collect()
}

fn id(from: &Members, name: &str) -> Option<Id> {
    from.get(name).and_then(id_text)
}

/// A whole number, also one written as `1.0`.
fn whole(from: &Members, name: &str) -> Option<i64> {
    let value = from.get(name)?;
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

fn clamp_u32(number: i64) -> u32 {
    number.clamp(0, i64::from(u32::MAX)) as u32
}

fn clamp_i32(number: i64) -> i32 {
    number.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// Seconds to milliseconds, upwards, so that nothing above 0 becomes 0.
fn milliseconds(seconds: f64) -> u32 {
    // `as` saturates and turns NaN into 0.
    (seconds * 1000.0).ceil() as u32
}

fn timeout(from: &Members) -> Option<Timeout> {
    let written = from.get("timeout")?;
    let part = |name: &str| written.get(name).and_then(Value::as_f64).map(milliseconds);
    Some(Timeout { connect_ms: part("connect")?, send_ms: part("send")?, read_ms: part("read")? })
}

/// The pool with the schema's defaults for what is not written.
fn keepalive_pool(from: &Members) -> Option<KeepalivePool> {
    let Some(Value::Object(written)) = from.get("keepalive_pool") else { return None };
    let idle_timeout = written.get("idle_timeout").and_then(Value::as_f64).unwrap_or(60.0);
    Some(KeepalivePool {
        size: whole(written, "size").map_or(320, clamp_u32),
        idle_timeout_ms: milliseconds(idle_timeout),
        requests: whole(written, "requests").map_or(1000, clamp_u32),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(id: &str) -> Stored<()> {
        Stored { id: id.into(), create_revision: 3, modify_revision: 7, value: () }
    }

    #[test]
    fn a_route_in_its_forms() {
        let route = route(json!({
            "uris": ["/a", "/b*"], "host": "*.Example.COM", "methods": ["GET", "PURGE"], "priority": 3.0,
            "remote_addrs": ["10.1.2.3/8", "::1"], "status": 0, "enable_websocket": false,
            "timeout": {"connect": 0.0001, "send": 1.5, "read": 6}, "service_id": 12, "upstream_id": "u",
            "plugins": {"b": {}, "a": {}}, "vars": [["arg_a", "==", "1"]], "labels": {"env": "prod"},
        }))
        .unwrap();
        assert_eq!(route.uris.iter().map(|u| &**u).collect::<Vec<_>>(), ["/a", "/b*"]);
        assert_eq!(&*route.hosts[0], "*.example.com");
        assert!(
            route.methods.allows(b"GET") && route.methods.allows(b"PURGE") && !route.methods.allows(b"get")
        );
        assert!(route.remote_addrs[0].contains("10.255.0.1".parse().unwrap()));
        assert!(!route.remote_addrs[1].contains("::2".parse().unwrap()));
        assert_eq!((route.priority, route.disabled, route.enable_websocket), (3, true, Some(false)));
        assert_eq!(route.timeout, Some(Timeout { connect_ms: 1, send_ms: 1500, read_ms: 6000 }));
        assert_eq!((route.service_id.as_deref(), route.upstream_id.as_deref()), (Some("12"), Some("u")));
        assert_eq!(route.plugins.keys().collect::<Vec<_>>(), ["b", "a"]);
        assert!(!route.needs_lua);
    }

    #[test]
    fn a_route_whose_networks_are_none_does_not_open_to_everyone() {
        let error = route(json!({"uri": "/", "remote_addr": ":/8"})).unwrap_err();
        assert_eq!(error, "invalid ip address: :/8");
    }

    #[test]
    fn nodes_in_both_forms() {
        let node =
            |host: &str, port, weight| Node { host: host.into(), port, weight, priority: 0, metadata: None };
        let map = json!({"127.0.0.1:80": 1, "a.com": 2, "[::1]:81": 0, "[::2]": 3, "::3": 4, "b:99999": 1});
        let expected = [
            node("127.0.0.1", Some(80), 1),
            node("a.com", None, 2),
            node("::1", Some(81), 0),
            node("::2", None, 3),
            node("::3", None, 4),
            node("b", None, 1),
        ];
        assert_eq!(nodes(map), expected);
        let joined = json!([{"host": "127.0.0.1:80", "weight": 1}]);
        assert_eq!(nodes(joined), [node("127.0.0.1", Some(80), 1)]);
        let list = json!([{"host": "[::1]", "port": 80, "weight": 1, "priority": -1, "metadata": {"a": 1}}]);
        let listed = nodes(list);
        assert_eq!((&*listed[0].host, listed[0].priority, listed[0].metadata.is_some()), ("::1", -1, true));
    }

    #[test]
    fn an_upstream_and_its_defaults() {
        let plain = upstream(json!({"nodes": {}, "keepalive_pool": {}, "retry_timeout": 0.5}));
        assert_eq!((plain.balance, plain.scheme, plain.retries), (Balance::RoundRobin, Scheme::Http, None));
        assert_eq!(plain.retry_timeout_ms, 500);
        let pool = KeepalivePool { size: 320, idle_timeout_ms: 60_000, requests: 1000 };
        assert_eq!(plain.keepalive_pool, Some(pool));
        let hashed =
            upstream(json!({"type": "chash", "hash_on": "header", "key": "x", "pass_host": "rewrite"}));
        assert_eq!(
            (hashed.balance, hashed.hash_on, hashed.pass_host),
            (Balance::Chash, HashOn::Header, PassHost::Rewrite)
        );
    }

    #[test]
    fn objects_are_validated_and_their_defaults_filled() {
        let value =
            json!({"uri": "/", "upstream": {"nodes": {"a:1": 1}, "checks": {"active": {"healthy": {}}}}});
        let Some(Object::Route(stored)) = object(Kind::Route, place("1"), value).unwrap() else { panic!() };
        assert_eq!((&*stored.id, stored.modify_revision), ("1", 7));
        let checks = stored.value.upstream.as_ref().unwrap().checks.as_ref().unwrap();
        assert_eq!(checks["active"]["healthy"]["http_statuses"], json!([200, 302]));
        let error = object(Kind::Route, place("1"), json!({"plugins": {}})).unwrap_err();
        assert_eq!(error, "allOf 1 failed: value should match only one schema, but matches none");
        let credential = json!({"plugins": {"key-auth": {"key": "k"}}});
        let id = "jack/credentials/c1-of-jack";
        let Some(Object::Consumer(stored)) = object(Kind::Credential, place(id), credential).unwrap() else {
            panic!()
        };
        assert_eq!(&*stored.value.username, "jack");
        assert_eq!(stored.value.credential_id.as_deref(), Some("c1-of-jack"));
        assert!(object(Kind::Proto, place("1"), json!({"content": "x"})).unwrap().is_none());
    }

    #[test]
    fn a_plain_route_costs_less_than_1200_bytes() {
        let value = json!({
            "id": "01234567890123456789", "uri": "/a/path/of/some/length/*",
            "upstream": {"type": "roundrobin", "nodes": {"192.168.100.100:8080": 1}},
        });
        let Some(Object::Route(stored)) = object(Kind::Route, place("01234567890123456789"), value).unwrap()
        else {
            panic!()
        };
        // An allocation rounds up to 16 and an `Arc` adds two counters.
        let allocation = |bytes: usize| bytes.next_multiple_of(16) + 16;
        let route = &stored.value;
        let upstream = route.upstream.as_ref().unwrap();
        let texts = route.uris.iter().map(|uri| allocation(uri.len()) + allocation(size_of::<Box<str>>()));
        let nodes = upstream.nodes.iter().map(|node| allocation(node.host.len() + size_of::<Node>()));
        let bytes = allocation(size_of::<Stored<Route>>())
            + allocation(stored.id.len() + 16)
            + allocation(size_of::<Upstream>())
            + texts.sum::<usize>()
            + nodes.sum::<usize>();
        assert!(bytes < 1_200, "{bytes} bytes");
    }
}
