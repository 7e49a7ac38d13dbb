//! Writes and deletes against a small stock of objects, with the texts that APISIX's own tests expect.

use serde_json::{Value, json};

use super::*;

/// A stock of objects and two plugins: `limit` wants a number `count`, `key-auth` authenticates.
struct Stock(Vec<(Kind, &'static str, Value)>);

impl Lookups for Stock {
    fn get(&self, kind: Kind, id: &str) -> Option<Value> {
        self.0.iter().find(|(of, name, _)| *of == kind && *name == id).map(|(_, _, value)| value.clone())
    }

    fn each(&self, kind: Kind, visit: &mut dyn FnMut(&str, &Value)) {
        self.0.iter().filter(|(of, ..)| *of == kind).for_each(|(_, id, value)| visit(id, value));
    }

    fn key_holders(&self, plugin: &str, key: &str) -> Vec<String> {
        let holds = |value: &Value| {
            let plugins = value.get("plugins").and_then(Value::as_object);
            plugins.is_some_and(|plugins| unique_keys(plugins).any(|(of, _, own)| (of, own) == (plugin, key)))
        };
        let people = self.0.iter().filter(|(of, ..)| matches!(of, Kind::Consumer | Kind::Credential));
        people.filter(|(.., value)| holds(value)).map(|(_, id, _)| id.to_string()).collect()
    }

    fn check_plugin(&self, name: &str, conf: &Value, _: PluginSchema) -> Result<(), PluginFault> {
        match name {
            "key-auth" | "basic-auth" | "traffic-split" => Ok(()),
            "limit" if conf["count"].is_number() => Ok(()),
            "limit" => Err(PluginFault::Refused("property \"count\" is required".to_owned())),
            _ => Err(PluginFault::Unknown),
        }
    }

    fn check_protocol(&self, name: &str, _: Option<&Value>) -> Result<(), String> {
        if name == "redis" { Ok(()) } else { Err(format!("unknown protocol [{name}]")) }
    }

    fn is_auth_plugin(&self, name: &str) -> bool {
        name.ends_with("-auth")
    }

    fn check_vars(&self, vars: &Value) -> Result<(), String> {
        if vars.to_string().contains("\"=\"") { Err("invalid operator '='".to_owned()) } else { Ok(()) }
    }

    fn decrypt_key(&self, _: &str) -> Option<String> {
        None
    }
}

fn stock() -> Stock {
    Stock(vec![
        (Kind::Upstream, "1", json!({"nodes": {}})),
        (Kind::Upstream, "2", json!({"nodes": {}})),
        (Kind::Service, "1", json!({"upstream_id": 2})),
        (Kind::Route, "1", json!({"uri": "/", "service_id": 1, "upstream_id": 1, "plugin_config_id": "1"})),
        (
            Kind::PluginConfig,
            "1",
            json!({"plugins": {"traffic-split": {"rules": [{"weighted_upstreams": [{"upstream_id": "3"}]}]}}}),
        ),
        (Kind::ConsumerGroup, "g", json!({"plugins": {}})),
        (
            Kind::Consumer,
            "bob",
            json!({"username": "bob", "group_id": "g", "plugins": {"key-auth": {"key": "k1"}}}),
        ),
        (Kind::Credential, "alex/credentials/a", json!({"plugins": {"key-auth": {"key": "k2"}}})),
        (Kind::GlobalRule, "1", json!({"id": "1", "plugins": {"limit": {"count": 1}}})),
        (Kind::Ssl, "1", json!({"type": "server"})),
        (Kind::StreamRoute, "5", json!({"protocol": {"name": "pingpong"}})),
    ])
}

fn put(kind: Kind, id: Option<&str>, mut value: Value) -> String {
    let target = Target { kind, id, parent: None };
    error_of(check_write(target, Verb::Put, &mut value, &stock()))
}

fn error_of(outcome: Result<(), String>) -> String {
    outcome.err().unwrap_or_else(|| "accepted".to_owned())
}

#[test]
fn ids() {
    let bare = || json!({"uri": "/", "service_id": 1});
    let with_id = || json!({"uri": "/", "service_id": 1, "id": 3});
    let route = |id| Target { kind: Kind::Route, id, parent: None };
    let write = |id, verb, mut value| error_of(check_write(route(id), verb, &mut value, &stock()));
    assert_eq!(write(None, Verb::Put, bare()), "missing route id");
    assert_eq!(write(Some("4"), Verb::Put, with_id()), "wrong route id");
    assert_eq!(write(Some("3"), Verb::Put, with_id()), "accepted");
    assert_eq!(write(None, Verb::Put, with_id()), "accepted");
    assert_eq!(write(None, Verb::Post, with_id()), "wrong route id, do not need it");
    assert_eq!(write(Some("3"), Verb::Post, bare()), "wrong route id, do not need it");
    assert_eq!(write(None, Verb::Post, bare()), "accepted");
    assert_eq!(write(Some("1"), Verb::Put, Value::Null), "missing configurations");
    assert_eq!(put(Kind::PluginConfig, None, json!({})), "missing plugin config id");

    let mut value = bare();
    check_write(route(Some("9")), Verb::Put, &mut value, &stock()).unwrap();
    assert_eq!(value, json!({"uri": "/", "service_id": 1, "id": "9"}), "the id is written, defaults are not");
}

#[test]
fn times_are_forbidden_but_not_in_a_patch() {
    let mut value = json!({"uri": "/", "service_id": 1, "create_time": 1});
    let target = Target { kind: Kind::Route, id: Some("1"), parent: None };
    let put = error_of(check_write(target, Verb::Put, &mut value, &stock()));
    assert_eq!(put, "the property is forbidden:  create_time");
    assert_eq!(error_of(check_write(target, Verb::Patch, &mut value, &stock())), "accepted");
    let mut inline = json!({"uri": "/", "upstream": {"update_time": 1}});
    let inline = error_of(check_write(target, Verb::Put, &mut inline, &stock()));
    assert_eq!(inline, "the property is forbidden:  upstream.update_time");
}

#[test]
fn routes() {
    let table = [
        (json!({"host": "a", "hosts": ["b"]}), "only one of host or hosts is allowed"),
        (
            json!({"remote_addr": "1.1.1.1", "remote_addrs": []}),
            "only one of remote_addr or remote_addrs is allowed",
        ),
        (
            json!({"methods": ["X"]}),
            "invalid configuration: property \"methods\" validation failed: failed to validate item 1: matches none of the enum values",
        ),
        (json!({"upstream_id": 99}), "failed to fetch upstream info by upstream id [99], response code: 404"),
        (json!({"service_id": "x"}), "failed to fetch service info by service id [x], response code: 404"),
        (
            json!({"plugin_config_id": "not_found"}),
            "failed to fetch plugin config info by plugin config id [not_found], response code: 404",
        ),
        (json!({"plugins": {"nope": {}}}), "unknown plugin [nope]"),
        (json!({"plugins": {"limit": 1}}), "invalid plugin conf 1 for plugin [limit]"),
        (
            json!({"plugins": {"limit": {}}}),
            "failed to check the configuration of plugin limit err: property \"count\" is required",
        ),
        (json!({"plugins": {"limit": {"_meta": {"disable": true}}}}), "accepted"),
        (
            json!({"plugins": {"limit": {"count": 1, "_meta": {"filter": [["a", "=", 1]]}}}}),
            "failed to validate the 'vars' expression: invalid operator '='",
        ),
        (json!({"vars": [["a", "=", 1]]}), "failed to validate the 'vars' expression: invalid operator '='"),
        (json!({"upstream": {"nodes": {}, "type": "chash"}}), "missing key"),
        (json!({"filter_func": "function(vars) return true end"}), "accepted"),
    ];
    for (members, expected) in table {
        let mut route = json!({"uri": "/", "service_id": 1});
        for (name, value) in members.as_object().unwrap() {
            route[name] = value.clone();
        }
        assert_eq!(put(Kind::Route, Some("7"), route), expected, "{members}");
    }
}

#[test]
fn a_json_path_that_nests_without_end_is_refused() {
    let nested = |open: &str, close: &str, depth: usize| {
        let path = format!("post_arg.a{}{}", open.repeat(depth), close.repeat(depth));
        put(Kind::Route, Some("7"), json!({"uri": "/", "service_id": 1, "vars": [[path, "==", "b"]]}))
    };
    assert_eq!(nested("[?@.a", "]", 3), "accepted");
    assert_eq!(nested("[0", "]", 1), "accepted");
    for (open, close) in [("[?@.a", "]"), ("[?(", ")]"), ("[?length(", ")]")] {
        let refused = "failed to validate the 'vars' expression: invalid expression: it nests too deeply";
        assert_eq!(nested(open, close, 100_000), refused, "{open}");
    }
}

#[test]
fn upstreams() {
    let pattern = "^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|query_string|host|\
                   hostname|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$";
    let vars = format!("invalid configuration: failed to match pattern \"{pattern}\" with \"not_support\"");
    let table = [
        (json!({}), "invalid configuration: value should match only one schema, but matches none"),
        (
            json!({"nodes": [{"host": "::1", "port": 80, "weight": 1}]}),
            "invalid configuration: IPv6 address must be enclosed with '[' and ']'",
        ),
        (json!({"nodes": {"a.com:0": 1}}), "invalid port 0"),
        (json!({"nodes": {"a.com:65536": 1}}), "invalid port 65536"),
        (json!({"nodes": {"a.com:-1": 1}}), "invalid port -1"),
        (json!({"nodes": {"a.com:100000000000000000000": 1}}), "invalid port 1e+20"),
        (
            json!({"nodes": {}, "pass_host": "rewrite"}),
            "`upstream_host` can't be empty when `pass_host` is `rewrite`",
        ),
        (
            json!({"nodes": {}, "tls": {"client_cert_id": 9}}),
            "failed to fetch ssl info by ssl id [9], response code: 404",
        ),
        (
            json!({"nodes": {}, "tls": {"client_cert_id": 1}}),
            "failed to fetch ssl info by ssl id [1], wrong ssl type",
        ),
        (json!({"nodes": {}, "type": "chash", "key": "not_support"}), &vars),
        (
            json!({"nodes": {}, "type": "chash", "hash_on": "cookie", "key": "$#^@abc"}),
            "invalid configuration: failed to match pattern \"^[a-zA-Z0-9-_]+$\" with \"$#^@abc\"",
        ),
        (json!({"nodes": {}, "type": "chash", "hash_on": "consumer"}), "accepted"),
        (json!({"nodes": {}, "type": "chash", "key": "arg_user"}), "accepted"),
    ];
    for (upstream, expected) in table {
        assert_eq!(put(Kind::Upstream, Some("1"), upstream.clone()), expected, "{upstream}");
    }
}

#[test]
fn consumers_and_credentials() {
    let key = |key: &str| json!({"username": "jack", "plugins": {"key-auth": {"key": key}}});
    let table = [
        (Some("joe"), key("k"), "wrong username"),
        (None, key("k"), "accepted"),
        (None, key("k1"), "duplicate key of plugin key-auth found with consumer: bob"),
        (None, key("k2"), "duplicate key of plugin key-auth found with credential: a of consumer: alex"),
        (None, json!({"username": "alex", "plugins": {"key-auth": {"key": "k2"}}}), "accepted"),
        (None, key("$env://KEY"), "accepted"),
        (
            None,
            json!({"username": "a", "plugins": {"nope": {}}}),
            "invalid plugins configuration: unknown plugin [nope]",
        ),
        (
            None,
            json!({"username": "a", "group_id": "h"}),
            "failed to fetch consumer group info by consumer group id [h], response code: 404",
        ),
        (None, json!({"username": "a", "group_id": "g"}), "accepted"),
    ];
    for (id, value, expected) in table {
        assert_eq!(put(Kind::Consumer, id, value.clone()), expected, "{value}");
    }
    let credential = |id, plugins: Value| {
        let target = Target { kind: Kind::Credential, id: Some(id), parent: Some("alex") };
        error_of(check_write(target, Verb::Put, &mut json!({"plugins": plugins}), &stock()))
    };
    assert_eq!(credential("a", json!({"key-auth": {"key": "k2"}})), "accepted");
    let duplicate = "duplicate key of plugin key-auth found with credential: a of consumer: alex";
    assert_eq!(credential("b", json!({"key-auth": {"key": "k2"}})), duplicate);
    let only_auth = "only supports auth type plugins in consumer credential";
    assert_eq!(credential("b", json!({"limit": {"count": 1}})), only_auth);
}

#[test]
fn other_objects() {
    let global = json!({"plugins": {"limit": {"count": 2}}});
    assert_eq!(put(Kind::GlobalRule, Some("1"), global.clone()), "accepted");
    let conflict = "plugin 'limit' already exists in global rule with id '1'";
    assert_eq!(put(Kind::GlobalRule, Some("2"), global), conflict);
    assert_eq!(put(Kind::PluginMetadata, None, json!({})), "missing plugin name");
    assert_eq!(put(Kind::PluginMetadata, Some("nope"), json!({})), "invalid plugin name");
    let metadata = "invalid configuration: property \"count\" is required";
    assert_eq!(put(Kind::PluginMetadata, Some("limit"), json!({})), metadata);

    let secret = |parent, mut value| {
        let target = Target { kind: Kind::Secret, id: Some("1"), parent: Some(parent) };
        error_of(check_write(target, Verb::Put, &mut value, &stock()))
    };
    assert_eq!(
        secret("vault", json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "t"})),
        "accepted"
    );
    let required = "invalid configuration: property \"uri\" is required";
    assert_eq!(secret("vault", json!({"prefix": "kv", "token": "t"})), required);
    assert_eq!(secret("magic", json!({})), "invalid secret manager: magic");

    let superior = json!({"protocol": {"name": "redis", "superior_id": 7}});
    assert_eq!(
        put(Kind::StreamRoute, Some("7"), superior.clone()),
        "stream route can not set itself as superior_id"
    );
    assert_eq!(
        put(Kind::StreamRoute, Some("8"), superior),
        "failed to fetch stream routes[7], response code: 404"
    );
    assert_eq!(
        put(Kind::StreamRoute, Some("8"), json!({"protocol": {"name": "redis", "superior_id": "5"}})),
        "protocol mismatch: subordinate protocol [redis] does not match superior protocol [pingpong]"
    );
    assert_eq!(put(Kind::StreamRoute, Some("8"), json!({"remote_addr": ":/8"})), "invalid remote_addr: :/8");
}

#[test]
fn certificates() {
    let pem = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    // A SEQUENCE of 100 bytes, as far as this check reads.
    let body = format!("MGQ{}", "A".repeat(133));
    let cert = pem("CERTIFICATE", &body);
    let key = pem("PRIVATE KEY", &body);
    let ssl =
        |cert: &str, key: &str| put(Kind::Ssl, Some("1"), json!({"sni": "a.com", "cert": cert, "key": key}));
    assert_eq!(ssl(&cert, &key), "accepted");
    let broken = "x".repeat(200);
    assert_eq!(ssl(&broken, &key), "failed to parse cert: PEM_read_bio_X509_AUX() failed");
    assert_eq!(ssl(&cert, &broken), "failed to decrypt previous encrypted key");
    let no_key = pem("PRIVATE KEY", &"A".repeat(64));
    assert_eq!(ssl(&cert, &no_key), "failed to parse key: PEM_read_bio_PrivateKey() failed");
    assert_eq!(ssl("$secret://vault/1/cert", "$secret://vault/1/key"), "accepted");
    let uneven = json!({"sni": "a", "cert": cert, "key": key, "certs": [cert]});
    assert_eq!(put(Kind::Ssl, Some("1"), uneven), "mismatched number of certs and keys");
    let second = json!({"sni": "a", "cert": cert, "key": key, "certs": [cert], "keys": [no_key]});
    let expected = "failed to handle cert-key pair[1]: failed to parse key: PEM_read_bio_PrivateKey() failed";
    assert_eq!(put(Kind::Ssl, Some("1"), second), expected);
}

#[test]
fn what_is_referred_to_is_not_deleted() {
    let table = [
        (Kind::Upstream, "1", "can not delete this upstream, route [1] is still using it now"),
        (Kind::Upstream, "2", "can not delete this upstream, service [1] is still using it now"),
        (
            Kind::Upstream,
            "3",
            "can not delete this upstream, plugin in plugin_config [1] is still using it now",
        ),
        (Kind::Upstream, "4", "accepted"),
        (Kind::Service, "1", "can not delete this service directly, route [1] is still using it now"),
        (Kind::PluginConfig, "1", "can not delete this plugin config, route [1] is still using it now"),
        (
            Kind::ConsumerGroup,
            "g",
            "can not delete this consumer group, consumer [bob] is still using it now",
        ),
        (Kind::Route, "1", "accepted"),
    ];
    for (kind, id, expected) in table {
        assert_eq!(error_of(check_delete(kind, id, &stock())), expected);
    }
}
