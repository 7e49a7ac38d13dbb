//! Pieces that several schemas share.

use serde_json::{Map, Value, json};

/// An id: text or a whole number from 1.
pub(super) fn id() -> Value {
    json!({"anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-zA-Z0-9-_.]+$"},
        {"type": "integer", "minimum": 1},
    ]})
}

/// The pattern of hosts: `*`, or a name or address that may begin with a `*`.
pub(super) const HOST_PATTERN: &str = "^\\*$|^\\*?[0-9a-zA-Z-._\\[\\]:]+$";

pub(super) fn host() -> Value {
    json!({"type": "string", "pattern": HOST_PATTERN})
}

pub(super) fn hosts() -> Value {
    json!({"type": "array", "items": host(), "minItems": 1, "uniqueItems": true})
}

pub(super) fn uri() -> Value {
    json!({"type": "string", "pattern": "^[^\\/]+:\\/\\/([\\da-zA-Z.-]+|\\[[\\da-fA-F:]+\\])(:\\d+)?"})
}

/// An IPv4 or IPv6 address or network. The IPv6 network's pattern takes more than is valid (`:/8`): reading
/// it later finds that.
pub(super) fn ip(description: &str) -> Value {
    json!({"description": description, "type": "string", "anyOf": ip_or_net()})
}

/// Its forms, of which one must fit.
pub fn ip_or_net() -> Value {
    const SEGMENT: &str = "([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])";
    const IPV6: &str = "([a-fA-F0-9]{0,4}:){1,8}(:[a-fA-F0-9]{0,4}){0,8}([a-fA-F0-9]{0,4})?";
    let ipv4 = [SEGMENT; 4].join("\\.");
    json!([
        {"title": "IPv4", "type": "string", "format": "ipv4"},
        {"title": "IPv4/CIDR", "type": "string", "pattern": format!("^{ipv4}/([12]?[0-9]|3[0-2])$")},
        {"title": "IPv6", "type": "string", "format": "ipv6"},
        {"title": "IPv6/CIDR", "type": "string", "pattern": format!("^{IPV6}/[0-9]{{1,3}}$")},
    ])
}

pub(super) fn labels() -> Value {
    json!({
        "description": "key/value pairs to specify attributes",
        "type": "object",
        "patternProperties": {".*": {
            "description": "value of label",
            "type": "string",
            "pattern": "^\\S+$",
            "maxLength": 256,
            "minLength": 1,
        }},
    })
}

/// Seconds to wait, all three or none.
pub(super) fn timeout() -> Value {
    let seconds = json!({"type": "number", "exclusiveMinimum": 0});
    json!({
        "type": "object",
        "properties": {"connect": seconds, "send": seconds, "read": seconds},
        "required": ["connect", "send", "read"],
    })
}

pub(super) fn enable_websocket() -> Value {
    json!({"description": "enable websocket for request", "type": "boolean"})
}

/// Lua of a dashboard's plugin orchestration.
pub(super) fn script() -> Value {
    json!({"type": "string", "minLength": 10, "maxLength": 102_400})
}

pub(super) const METHODS: [&str; 10] = crate::model::Methods::NAMES;

/// `own` behind the metadata properties that most objects share: id, name, desc, labels.
pub(super) fn metadata(own: Value) -> Value {
    let mut all = Map::new();
    all.insert("id".to_owned(), id());
    if let Value::Object(own) = properties(&["name", "desc", "labels"], own) {
        all.extend(own);
    }
    Value::Object(all)
}

/// `own` behind the metadata properties named, and behind create_time and update_time, which all have.
pub(super) fn properties(named: &[&str], own: Value) -> Value {
    let mut all = Map::new();
    for name in named {
        let schema = match *name {
            "name" => json!({"type": "string", "maxLength": 256, "minLength": 1}),
            "desc" => json!({"type": "string", "maxLength": 256}),
            _ => labels(),
        };
        all.insert((*name).to_owned(), schema);
    }
    for name in ["create_time", "update_time"] {
        all.insert(name.to_owned(), json!({"type": "integer"}));
    }
    if let Value::Object(own) = own {
        all.extend(own);
    }
    Value::Object(all)
}
