//! Routes, services and stream routes.

use serde_json::{Value, json};

use super::parts::{self, HOST_PATTERN, METHODS, enable_websocket, host, hosts, id, metadata, script};
use super::upstream::upstream;

/// Either of two names, not both; or neither, where `optional`.
fn one_of_two(first: &str, second: &str, optional: bool) -> Value {
    let first = json!({"required": [first]});
    let second = json!({"required": [second]});
    if optional {
        json!({"oneOf": [{"not": {"anyOf": [first, second]}}, first, second]})
    } else {
        json!({"oneOf": [first, second]})
    }
}

pub(super) fn route() -> Value {
    let own = json!({
        "uri": {"type": "string", "minLength": 1, "maxLength": 4096},
        "uris": {
            "type": "array",
            "items": {"description": "HTTP uri", "type": "string"},
            "minItems": 1,
            "uniqueItems": true,
        },
        "priority": {"type": "integer", "default": 0},
        "methods": {
            "type": "array",
            "items": {"description": "HTTP method", "type": "string", "enum": METHODS},
            "uniqueItems": true,
        },
        "host": host(),
        "hosts": hosts(),
        "remote_addr": parts::ip("client IP"),
        "remote_addrs": {
            "type": "array",
            "items": parts::ip("client IP"),
            "minItems": 1,
            "uniqueItems": true,
        },
        "timeout": parts::timeout(),
        "vars": {"type": "array"},
        "filter_func": {"type": "string", "minLength": 10, "pattern": "^function"},
        "script": script(),
        "script_id": id(),
        "plugins": {"type": "object"},
        "plugin_config_id": id(),
        "upstream": upstream(),
        "service_id": id(),
        "upstream_id": id(),
        "enable_websocket": enable_websocket(),
        "status": {
            "description": "route status, 1 to enable, 0 to disable",
            "type": "integer",
            "enum": [1, 0],
            "default": 1,
        },
    });
    json!({
        "type": "object",
        "properties": metadata(own),
        "allOf": [
            one_of_two("uri", "uris", false),
            one_of_two("host", "hosts", true),
            one_of_two("remote_addr", "remote_addrs", true),
        ],
        "anyOf": [
            {"required": ["plugins", "uri"]},
            {"required": ["upstream", "uri"]},
            {"required": ["upstream_id", "uri"]},
            {"required": ["service_id", "uri"]},
            {"required": ["plugins", "uris"]},
            {"required": ["upstream", "uris"]},
            {"required": ["upstream_id", "uris"]},
            {"required": ["service_id", "uris"]},
            {"required": ["script", "uri"]},
            {"required": ["script", "uris"]},
        ],
        "not": {"anyOf": [
            {"required": ["script", "plugins"]},
            {"required": ["script", "plugin_config_id"]},
        ]},
        "additionalProperties": false,
    })
}

pub(super) fn service() -> Value {
    let own = json!({
        "plugins": {"type": "object"},
        "upstream": upstream(),
        "upstream_id": id(),
        "script": script(),
        "enable_websocket": enable_websocket(),
        "hosts": hosts(),
    });
    super::object(metadata(own), None)
}

pub(super) fn stream_route() -> Value {
    let logger = json!({
        "properties": {
            "name": {"type": "string"},
            "filter": {"description": "logger filter rules", "type": "array"},
            "conf": {"description": "logger plugin configuration", "type": "object"},
        },
        "dependencies": {"name": ["conf"]},
        "additionalProperties": false,
    });
    let own = json!({
        "remote_addr": parts::ip("client IP"),
        "server_addr": parts::ip("server IP"),
        "server_port": {"description": "server port", "type": "integer", "minimum": 1, "maximum": 65535},
        "sni": {"description": "server name indication", "type": "string", "pattern": HOST_PATTERN},
        "upstream": upstream(),
        "upstream_id": id(),
        "service_id": id(),
        "plugins": {"type": "object"},
        "protocol": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "superior_id": id(),
                "conf": {"description": "protocol-specific configuration", "type": "object"},
                "logger": {"type": "array", "items": logger},
            },
            "required": ["name"],
        },
    });
    super::object(metadata(own), None)
}
