//! TLS certificates.

use serde_json::{Value, json};

use super::parts::{HOST_PATTERN, id, properties};

/// A certificate chain in PEM, or what stands for it.
pub(super) fn certificate() -> Value {
    json!({"type": "string", "minLength": 128, "maxLength": 64 * 1024})
}

/// A private key in PEM, plain or encrypted, or what stands for it.
pub(super) fn private_key() -> Value {
    json!({"type": "string", "minLength": 64, "maxLength": 64 * 1024})
}

pub(super) fn ssl() -> Value {
    let name = json!({"type": "string", "pattern": HOST_PATTERN});
    let client = json!({
        "type": "object",
        "properties": {
            "ca": certificate(),
            "depth": {"type": "integer", "minimum": 0, "default": 1},
            "skip_mtls_uri_regex": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": true,
                "items": {"description": "uri regular expression to skip mtls", "type": "string"},
            },
        },
        "required": ["ca"],
    });
    let own = json!({
        "id": id(),
        "type": {
            "description": "server certificate, or client certificate towards an upstream",
            "type": "string",
            "default": "server",
            "enum": ["server", "client"],
        },
        "cert": certificate(),
        "key": private_key(),
        "sni": name,
        "snis": {"type": "array", "items": name, "minItems": 1},
        "certs": {"type": "array", "items": certificate()},
        "keys": {"type": "array", "items": private_key()},
        "client": client,
        "status": {
            "description": "ssl status, 1 to enable, 0 to disable",
            "type": "integer",
            "enum": [1, 0],
            "default": 1,
        },
        // in APISIX with the plugin of this name alone (apisix/plugins/ocsp-stapling.lua)
        "ocsp_stapling": {
            "type": "object",
            "properties": {
                "enabled": {"type": "boolean", "default": false},
                "skip_verify": {"type": "boolean", "default": false},
                "cache_ttl": {"type": "integer", "minimum": 60, "default": 3600},
            },
        },
        "ssl_protocols": {
            "description": "set ssl protocols",
            "type": "array",
            "maxItems": 3,
            "uniqueItems": true,
            "items": {"enum": ["TLSv1.1", "TLSv1.2", "TLSv1.3"]},
        },
    });
    json!({
        "type": "object",
        "properties": properties(&["desc", "labels"], own),
        "if": {"properties": {"type": {"enum": ["server"]}}},
        "then": {"oneOf": [{"required": ["sni", "key", "cert"]}, {"required": ["snis", "key", "cert"]}]},
        "else": {"required": ["key", "cert"]},
        "additionalProperties": false,
    })
}
