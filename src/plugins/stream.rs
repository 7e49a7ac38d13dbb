//! What the Admin API knows of the plugins of stream routes (apisix/stream/plugins/*.lua): names, priorities and
//! schemas.

use super::{ip_restriction, traffic_split};
use crate::plugin::{Registry, Spec};

const LIMIT_CONN: Spec = Spec {
    schema: r#"{
        "type": "object",
        "properties": {
            "conn": {"type": "integer", "exclusiveMinimum": 0},
            "burst": {"type": "integer", "minimum": 0},
            "default_conn_delay": {"type": "number", "exclusiveMinimum": 0},
            "only_use_default_delay": {"type": "boolean", "default": false},
            "key": {"type": "string"},
            "key_type": {"type": "string", "enum": ["var", "var_combination"], "default": "var"}
        },
        "required": ["conn", "burst", "default_conn_delay", "key"]
    }"#,
    ..spec("limit-conn", 1003)
};

const MQTT_PROXY: Spec = Spec {
    schema: r#"{
        "type": "object",
        "properties": {
            "protocol_name": {"type": "string", "default": "MQTT"},
            "protocol_level": {"type": "integer"}
        },
        "required": ["protocol_level"]
    }"#,
    ..spec("mqtt-proxy", 1000)
};

const PROMETHEUS: Spec = Spec {
    schema: r#"{"type": "object", "properties": {"prefer_name": {"type": "boolean", "default": false}}}"#,
    ..spec("prometheus", 500)
};

const SYSLOG: Spec = Spec {
    schema: r#"{
        "type": "object",
        "properties": {
            "host": {"type": "string"},
            "port": {"type": "integer"},
            "flush_limit": {"type": "integer", "minimum": 1, "default": 4096},
            "drop_limit": {"type": "integer", "default": 1048576},
            "timeout": {"type": "integer", "minimum": 1, "default": 3000},
            "log_format": {"type": "object"},
            "sock_type": {"type": "string", "default": "tcp", "enum": ["tcp", "udp"]},
            "pool_size": {"type": "integer", "minimum": 5, "default": 5},
            "tls": {"type": "boolean", "default": false},
            "name": {"type": "string", "default": "stream sys logger"},
            "max_retry_count": {"type": "integer", "minimum": 0, "default": 0},
            "retry_delay": {"type": "integer", "minimum": 0, "default": 1},
            "buffer_duration": {"type": "integer", "minimum": 1, "default": 60},
            "inactive_timeout": {"type": "integer", "minimum": 1, "default": 5},
            "batch_max_size": {"type": "integer", "minimum": 1, "default": 1000}
        },
        "required": ["host", "port"]
    }"#,
    metadata_schema: Some(
        r#"{
        "type": "object",
        "properties": {
            "log_format": {"type": "object"},
            "max_pending_entries": {"type": "integer", "minimum": 1, "default": 8192}
        }
    }"#,
    ),
    ..spec("syslog", 401)
};

/// The plugins that stream routes may have.
const ALL: &[&Spec] =
    &[&ip_restriction::SPEC, &LIMIT_CONN, &MQTT_PROXY, &traffic_split::SPEC, &PROMETHEUS, &SYSLOG];

const fn spec(name: &'static str, priority: i32) -> Spec {
    Spec { name, priority, schema: "{}", ..Spec::PLAIN }
}

/// Their registry.
pub fn registry() -> Registry {
    Registry::new(ALL)
}
