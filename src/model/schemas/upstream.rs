//! Upstreams, with their nodes, health checks and hash keys.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::parts::{self, METHODS, host, id, metadata};
use super::ssl::{certificate, private_key};
use crate::model::schema::Schema;

/// Key of a consistent hash over variables.
pub static HASH_VARS: LazyLock<Schema> = LazyLock::new(|| {
    super::compiled(json!({
        "type": "string",
        "pattern": "^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|query_string|host\
                    |hostname|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$",
    }))
});

/// Key of a consistent hash over a header or a cookie.
pub static HASH_HEADER: LazyLock<Schema> =
    LazyLock::new(|| super::compiled(json!({"type": "string", "pattern": "^[a-zA-Z0-9-_]+$"})));

/// Key of a consistent hash over a template of variables.
pub static HASH_VARS_COMBINATIONS: LazyLock<Schema> =
    LazyLock::new(|| super::compiled(json!({"type": "string"})));

pub(super) fn upstream() -> Value {
    let own = json!({
        "nodes": nodes(),
        "retries": {"type": "integer", "minimum": 0},
        "retry_timeout": {"type": "number", "minimum": 0},
        "timeout": parts::timeout(),
        "tls": tls(),
        "keepalive_pool": {
            "type": "object",
            "properties": {
                "size": {"type": "integer", "default": 320, "minimum": 1},
                "idle_timeout": {"type": "number", "default": 60, "minimum": 0},
                "requests": {"type": "integer", "default": 1000, "minimum": 1},
            },
        },
        "type": {"description": "algorithms of load balancing", "type": "string", "default": "roundrobin"},
        "checks": {
            "type": "object",
            "properties": {"active": active_checks(), "passive": passive_checks()},
            "anyOf": [{"required": ["active"]}, {"required": ["active", "passive"]}],
        },
        "hash_on": {
            "type": "string",
            "default": "vars",
            "enum": ["vars", "header", "cookie", "consumer", "vars_combinations"],
        },
        "key": {"description": "the key of chash for dynamic load balancing", "type": "string"},
        "scheme": {
            "default": "http",
            "enum": ["grpc", "grpcs", "http", "https", "tcp", "tls", "udp", "kafka"],
            "description": "protocol of the upstream: http, https, grpc, grpcs; tcp, tls, udp for streams; kafka",
        },
        // ours, not APISIX's
        "http2": {"description": "with scheme https: requests go by HTTP/2", "type": "boolean"},
        "discovery_type": {"description": "discovery type", "type": "string"},
        "discovery_args": {
            "type": "object",
            "properties": {
                "namespace_id": {"description": "namespace id", "type": "string"},
                "group_name": {"description": "group name", "type": "string"},
            },
        },
        "pass_host": {
            "description": "mod of host passing",
            "type": "string",
            "enum": ["pass", "node", "rewrite"],
            "default": "pass",
        },
        "upstream_host": host(),
        "service_name": {"type": "string", "maxLength": 256, "minLength": 1},
    });
    json!({
        "type": "object",
        "properties": metadata(own),
        "oneOf": [{"required": ["nodes"]}, {"required": ["service_name", "discovery_type"]}],
        "additionalProperties": false,
    })
}

/// A map of address to weight, or a list.
fn nodes() -> Value {
    let weight = json!({"description": "weight of node", "type": "integer", "minimum": 0});
    json!({"anyOf": [
        {"type": "object", "patternProperties": {".*": weight}},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "host": host(),
                    "port": {"description": "port of node", "type": "integer", "minimum": 1, "maximum": 65535},
                    "weight": weight,
                    "priority": {"description": "priority of node", "type": "integer", "default": 0},
                    "metadata": {"description": "metadata of node", "type": "object"},
                },
                "required": ["host", "weight"],
            },
        },
    ]})
}

fn tls() -> Value {
    json!({
        "type": "object",
        "properties": {
            "client_cert_id": id(),
            "client_cert": certificate(),
            "client_key": private_key(),
            "verify": {
                "type": "boolean",
                "description": "Turn on server certificate verification",
                "default": false,
            },
        },
        "dependencies": {
            "client_cert": {"required": ["client_key"]},
            "client_key": {"required": ["client_cert"]},
            "client_cert_id": {"not": {"required": ["client_cert", "client_key"]}},
        },
    })
}

fn check_type() -> Value {
    json!({"type": "string", "enum": ["http", "https", "tcp"], "default": "http"})
}

fn statuses(default: Value) -> Value {
    json!({
        "type": "array",
        "minItems": 1,
        "items": {"type": "integer", "minimum": 200, "maximum": 599},
        "uniqueItems": true,
        "default": default,
    })
}

/// How many probes or requests turn the verdict; passive checks may switch a counter off with 0.
fn count(least: u32, default: u32) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": 254, "default": default})
}

fn interval() -> Value {
    json!({"type": "integer", "minimum": 1, "default": 1})
}

fn active_checks() -> Value {
    let unhealthy = json!({
        "interval": interval(),
        "http_statuses": statuses(json!([429, 404, 500, 501, 502, 503, 504, 505])),
        "http_failures": count(1, 5),
        "tcp_failures": count(1, 2),
        "timeouts": count(1, 3),
    });
    let healthy = json!({
        "interval": interval(),
        "http_statuses": statuses(json!([200, 302])),
        "successes": count(1, 2),
    });
    json!({
        "type": "object",
        "properties": {
            "type": check_type(),
            "timeout": {"type": "number", "default": 1},
            "concurrency": {"type": "integer", "default": 10},
            "host": host(),
            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            "http_method": {"type": "string", "enum": METHODS, "default": "GET"},
            "http_path": {"type": "string", "default": "/"},
            "http_req_body": {"type": "string", "default": ""},
            "https_verify_certificate": {"type": "boolean", "default": true},
            "healthy": {"type": "object", "properties": healthy},
            "unhealthy": {"type": "object", "properties": unhealthy},
            "req_headers": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "uniqueItems": true},
            },
        },
    })
}

fn passive_checks() -> Value {
    let well = json!([
        200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308
    ]);
    let healthy = json!({"http_statuses": statuses(well), "successes": count(0, 5)});
    let unhealthy = json!({
        "http_statuses": statuses(json!([429, 500, 503])),
        "tcp_failures": count(0, 2),
        "timeouts": count(0, 7),
        "http_failures": count(0, 5),
    });
    json!({
        "type": "object",
        "properties": {
            "type": check_type(),
            "healthy": {"type": "object", "properties": healthy},
            "unhealthy": {"type": "object", "properties": unhealthy},
        },
    })
}
