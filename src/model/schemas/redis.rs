//! Options of Redis, which several limiters share (apisix/utils/redis-schema.lua).

use serde_json::{Value, json};

/// What `policy: redis` brings.
pub(super) fn redis() -> Value {
    json!({
        "properties": {
            "redis_host": {"type": "string", "minLength": 2},
            "redis_port": {"type": "integer", "minimum": 1, "default": 6379},
            "redis_username": {"type": "string", "minLength": 1},
            "redis_password": {"type": "string", "minLength": 0},
            "redis_database": {"type": "integer", "minimum": 0, "default": 0},
            "redis_timeout": {"type": "integer", "minimum": 1, "default": 1000},
            "redis_ssl": {"type": "boolean", "default": false},
            "redis_ssl_verify": {"type": "boolean", "default": false},
            "redis_keepalive_timeout": {"type": "integer", "minimum": 1000, "default": 10000},
            "redis_keepalive_pool": {"type": "integer", "minimum": 1, "default": 100},
        },
        "required": ["redis_host"],
    })
}

/// What `policy: redis-cluster` brings.
pub(super) fn redis_cluster() -> Value {
    json!({
        "properties": {
            "redis_cluster_nodes": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 2, "maxLength": 100}},
            "redis_password": {"type": "string", "minLength": 0},
            "redis_timeout": {"type": "integer", "minimum": 1, "default": 1000},
            "redis_cluster_name": {"type": "string"},
            "redis_cluster_ssl": {"type": "boolean", "default": false},
            "redis_cluster_ssl_verify": {"type": "boolean", "default": false},
            "redis_keepalive_timeout": {"type": "integer", "minimum": 1000, "default": 10000},
            "redis_keepalive_pool": {"type": "integer", "minimum": 1, "default": 100},
        },
        "required": ["redis_cluster_nodes", "redis_cluster_name"],
    })
}

/// The same with the time after which a place of limit-conn is given up, in seconds.
pub(super) fn with_key_ttl(mut options: Value) -> Value {
    options["properties"]["key_ttl"] = json!({"type": "integer", "default": 3600});
    options
}
