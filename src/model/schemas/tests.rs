//! What the objects' schemas refuse, with the texts that APISIX's own tests expect.

use serde_json::{Value, json};

use super::*;

#[test]
fn every_schema_of_ours_compiles() {
    for kind in Kind::ALL {
        if let Some(schema) = object_schema(kind) {
            assert_ne!(schema.raw(), &json!(false), "{kind:?}");
        }
    }
    for schema in ["vault", "aws", "gcp"].map(|manager| secret_schema(manager).unwrap()) {
        assert_ne!(schema.raw(), &json!(false));
    }
    for schema in [&*HASH_VARS, &*HASH_HEADER, &*HASH_VARS_COMBINATIONS] {
        assert_ne!(schema.raw(), &json!(false));
    }
    assert!(Schema::compile(plugin_meta()).is_ok());
    assert!(schema_by_name("route").is_some() && schema_by_name("routes").is_none());
}

fn error_of(kind: Kind, value: Value) -> String {
    let outcome = object_schema(kind).unwrap().check(&value);
    outcome.err().unwrap_or_else(|| "accepted".to_owned())
}

fn route_with(member: Value) -> Value {
    let mut route = json!({"uri": "/a", "upstream": {"nodes": {"127.0.0.1:80": 1}, "type": "roundrobin"}});
    for (name, value) in member.as_object().unwrap() {
        route[name] = value.clone();
    }
    route
}

#[test]
fn routes() {
    let required = "[\"plugins\",\"uri\"] or [\"upstream\",\"uri\"] or [\"upstream_id\",\"uri\"] or \
                    [\"service_id\",\"uri\"] or [\"plugins\",\"uris\"] or [\"upstream\",\"uris\"] or \
                    [\"upstream_id\",\"uris\"] or [\"service_id\",\"uris\"] or [\"script\",\"uri\"] or \
                    [\"script\",\"uris\"]";
    let table = [
        (json!({"uri": "/a"}), format!("object matches none of the required: {required}")),
        (json!({}), "allOf 1 failed: value should match only one schema, but matches none".to_owned()),
        (
            route_with(json!({"id": "invalid_id$"})),
            "property \"id\" validation failed: object matches none of the required".to_owned(),
        ),
        (
            route_with(json!({"methods": ["METHOD"]})),
            "property \"methods\" validation failed: failed to validate item 1: \
             matches none of the enum values"
                .to_owned(),
        ),
        (
            route_with(json!({"remote_addr": "127.0.0."})),
            "property \"remote_addr\" validation failed: object matches none of the required".to_owned(),
        ),
        (
            route_with(json!({"host": "a b"})),
            "property \"host\" validation failed: failed to match pattern \
             \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \"a b\""
                .to_owned(),
        ),
        (
            route_with(json!({"labels": {"env": ["production"]}})),
            "property \"labels\" validation failed: failed to validate env (matching \".*\"): \
             wrong type: expected string, got table"
                .to_owned(),
        ),
        (
            route_with(json!({"status": 2})),
            "property \"status\" validation failed: matches none of the enum values".to_owned(),
        ),
        (
            route_with(json!({"script": "return { }", "plugins": {}})),
            "value wasn't supposed to match schema".to_owned(),
        ),
        (
            route_with(json!({"timeout": {"connect": 1, "send": 0, "read": 1}})),
            "property \"timeout\" validation failed: property \"send\" validation failed: \
             expected 0 to be greater than 0"
                .to_owned(),
        ),
        (route_with(json!({"uri2": 1})), "additional properties forbidden, found uri2".to_owned()),
        (
            route_with(json!({"name": "a".repeat(257)})),
            "property \"name\" validation failed: string too long, expected at most 256, got 257".to_owned(),
        ),
        (route_with(json!({"hosts": ["a.com", "*.b.com"], "vars": []})), "accepted".to_owned()),
        (
            route_with(json!({"remote_addrs": ["1.2.3.4", "10.0.0.0/8", "::1", "fe80::/10"]})),
            "accepted".to_owned(),
        ),
        (json!({"uri": "/*", "service_id": 1, "enable_websocket": true}), "accepted".to_owned()),
    ];
    for (route, expected) in table {
        assert_eq!(error_of(Kind::Route, route.clone()), expected, "{route}");
    }
}

#[test]
fn upstreams() {
    let with_checks = |checks: Value| json!({"nodes": {"127.0.0.1:80": 1}, "checks": checks});
    let table = [
        (json!({"type": "chash"}), "value should match only one schema, but matches none"),
        (
            json!({"nodes": {"127.0.0.1:80": -1}}),
            "property \"nodes\" validation failed: object matches none of the required",
        ),
        (
            json!({"nodes": [{"host": "a b", "weight": 1}]}),
            "property \"nodes\" validation failed: object matches none of the required",
        ),
        (
            json!({"nodes": {}, "hash_on": "x"}),
            "property \"hash_on\" validation failed: matches none of the enum values",
        ),
        (
            json!({"nodes": {}, "retries": -1}),
            "property \"retries\" validation failed: expected -1 to be at least 0",
        ),
        (
            with_checks(json!({"passive": {}})),
            "property \"checks\" validation failed: object matches none of the required: \
             [\"active\"] or [\"active\",\"passive\"]",
        ),
        (
            with_checks(json!({"active": {"unhealthy": {"http_failures": 3.1}}})),
            "property \"checks\" validation failed: property \"active\" validation failed: \
             property \"unhealthy\" validation failed: property \"http_failures\" validation failed: \
             wrong type: expected integer, got number",
        ),
        (
            with_checks(json!({"active": {"healthy": {"http_statuses": [200, 200]}}})),
            "property \"checks\" validation failed: property \"active\" validation failed: \
             property \"healthy\" validation failed: property \"http_statuses\" validation failed: \
             expected unique items but items 1 and 2 are equal",
        ),
        (
            json!({"nodes": {}, "tls": {"client_cert": "c".repeat(128)}}),
            "property \"tls\" validation failed: failed to validate dependent schema for \"client_cert\": \
             property \"client_key\" is required",
        ),
        (json!({"nodes": {}, "scheme": "kafka", "type": "none"}), "accepted"),
        (json!({"service_name": "s", "discovery_type": "dns"}), "accepted"),
        (json!({"nodes": [{"host": "[::1]", "port": 80, "weight": 0, "metadata": {}}]}), "accepted"),
    ];
    for (upstream, expected) in table {
        assert_eq!(error_of(Kind::Upstream, upstream.clone()), expected, "{upstream}");
    }
}

#[test]
fn other_objects() {
    let cert = "c".repeat(128);
    let table = [
        (Kind::Consumer, json!({}), "property \"username\" is required"),
        (Kind::Consumer, json!({"username": "jack", "group_id": 1}), "accepted"),
        (
            Kind::Credential,
            json!({"plugins": {"a": {}, "b": {}}}),
            "property \"plugins\" validation failed: expect object to have at most 1 properties",
        ),
        (Kind::Credential, json!({"id": "jack/credentials/a"}), "accepted"),
        (Kind::PluginConfig, json!({"id": 1}), "property \"plugins\" is required"),
        (Kind::ConsumerGroup, json!({"plugins": {}}), "property \"id\" is required"),
        (
            Kind::GlobalRule,
            json!({"id": 1, "plugins": {}, "desc": ""}),
            "additional properties forbidden, found desc",
        ),
        (Kind::Ssl, json!({"cert": cert, "key": cert}), "then clause did not match"),
        (Kind::Ssl, json!({"type": "client", "cert": cert}), "else clause did not match"),
        (Kind::Ssl, json!({"cert": "$secret://vault/1/c", "key": "$env://K", "sni": "*.a.com"}), "accepted"),
        (
            Kind::Proto,
            json!({"content": ""}),
            "property \"content\" validation failed: string too short, expected at least 1, got 0",
        ),
        (
            Kind::StreamRoute,
            json!({"protocol": {"name": "redis", "logger": [{"name": "x"}]}}),
            "property \"protocol\" validation failed: property \"logger\" validation failed: \
             failed to validate item 1: property \"conf\" is required when \"name\" is set",
        ),
        (Kind::StreamRoute, json!({"server_port": 9100, "upstream": {"nodes": {"a:1": 1}}}), "accepted"),
        (Kind::PluginList, json!([{"name": "a", "stream": true}]), "accepted"),
    ];
    for (kind, value, expected) in table {
        assert_eq!(error_of(kind, value.clone()), expected, "{value}");
    }
}
