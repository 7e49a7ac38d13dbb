//! The schemas of the objects themselves, as apisix/schema_def.lua has them; plugins bring their own.

mod parts;
mod redis;
mod route;
mod ssl;
mod upstream;

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::id::Kind;
use super::schema::Schema;
pub use parts::ip_or_net;
use parts::{id, metadata, properties};
pub use upstream::{HASH_HEADER, HASH_VARS, HASH_VARS_COMBINATIONS};

/// The schema of a kind of object. Plugin metadata and secrets have none of their own (see
/// [`secret_schema`]; metadata is the plugin's business).
pub fn object_schema(kind: Kind) -> Option<&'static Schema> {
    Some(match kind {
        Kind::Route => &ROUTE,
        Kind::Service => &SERVICE,
        Kind::Upstream => &UPSTREAM,
        Kind::Consumer => &CONSUMER,
        Kind::Credential => &CREDENTIAL,
        Kind::ConsumerGroup => &CONSUMER_GROUP,
        Kind::GlobalRule => &GLOBAL_RULE,
        Kind::PluginConfig => &PLUGIN_CONFIG,
        Kind::Ssl => &SSL,
        Kind::Proto => &PROTO,
        Kind::StreamRoute => &STREAM_ROUTE,
        Kind::PluginList => &PLUGIN_LIST,
        Kind::CostDecoration => &COST_DECORATION,
        Kind::PluginMetadata | Kind::Secret => return None,
    })
}

/// The schema that `GET /apisix/admin/schema/{name}` gives.
pub fn schema_by_name(name: &str) -> Option<&'static Value> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.schema_name() == name)?;
    object_schema(kind).map(Schema::raw)
}

/// The schema of a secret manager's settings (apisix/secret/*.lua).
pub fn secret_schema(manager: &str) -> Option<&'static Schema> {
    match manager {
        "vault" => Some(&VAULT),
        "aws" => Some(&AWS),
        "gcp" => Some(&GCP),
        _ => None,
    }
}

static ROUTE: LazyLock<Schema> = LazyLock::new(|| compiled(route::route()));
static STREAM_ROUTE: LazyLock<Schema> = LazyLock::new(|| compiled(route::stream_route()));
static SERVICE: LazyLock<Schema> = LazyLock::new(|| compiled(route::service()));
static UPSTREAM: LazyLock<Schema> = LazyLock::new(|| compiled(upstream::upstream()));
static SSL: LazyLock<Schema> = LazyLock::new(|| compiled(ssl::ssl()));

static CONSUMER: LazyLock<Schema> = LazyLock::new(|| {
    let own = json!({
        "id": id(),
        "username": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[a-zA-Z0-9_\\-]+$"},
        "group_id": id(),
        "plugins": {"type": "object"},
    });
    compiled(object(properties(&["desc", "labels"], own), Some(json!(["username"]))))
});

static CREDENTIAL: LazyLock<Schema> = LazyLock::new(|| {
    let full_id = json!({
        "type": "string",
        "minLength": 15,
        "maxLength": 128,
        "pattern": "^[a-zA-Z0-9-_]+/credentials/[a-zA-Z0-9-_.]+$",
    });
    let own = json!({
        "id": {"oneOf": [id(), full_id]},
        "plugins": {"type": "object", "maxProperties": 1},
    });
    compiled(object(properties(&["name", "desc", "labels"], own), None))
});

static CONSUMER_GROUP: LazyLock<Schema> = LazyLock::new(|| {
    compiled(object(metadata(json!({"plugins": {"type": "object"}})), Some(json!(["id", "plugins"]))))
});

static GLOBAL_RULE: LazyLock<Schema> = LazyLock::new(|| {
    let own = json!({"id": id(), "plugins": {"type": "object"}});
    compiled(object(properties(&[], own), Some(json!(["id", "plugins"]))))
});

static PLUGIN_CONFIG: LazyLock<Schema> = LazyLock::new(|| {
    let own = json!({"id": id(), "name": {"type": "string"}, "plugins": {"type": "object"}});
    compiled(object(properties(&["desc", "labels"], own), Some(json!(["id", "plugins"]))))
});

static PROTO: LazyLock<Schema> = LazyLock::new(|| {
    let content = json!({"content": {"type": "string", "minLength": 1, "maxLength": 1024 * 1024}});
    compiled(object(metadata(content), Some(json!(["content"]))))
});

/// APISIX wrote `additionalProperties` inside `properties`, so other names are allowed here; kept.
static PLUGIN_LIST: LazyLock<Schema> = LazyLock::new(|| {
    compiled(json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "stream": {"type": "boolean"},
                "additionalProperties": false,
            },
            "required": ["name"],
        },
    }))
});

/// What a position in a GraphQL schema costs, for graphql-limit-count: (sum of the children) * mul + add.
static COST_DECORATION: LazyLock<Schema> = LazyLock::new(|| {
    let number = json!({"type": "number", "minimum": 0, "default": 1});
    let arguments = json!({"type": "array", "items": {"type": "string", "minLength": 1}});
    let own = json!({
        "id": id(),
        "service_id": id(),
        "field_path": {
            "type": "string",
            "pattern": r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$",
            "description": "a type, a field of a type (Type.field), or one chain of selections",
        },
        "add_value": number,
        "add_arguments": arguments,
        "mul_value": number,
        "mul_arguments": arguments,
    });
    compiled(object(properties(&["name", "desc", "labels"], own), Some(json!(["field_path"]))))
});

static VAULT: LazyLock<Schema> = LazyLock::new(|| {
    compiled(json!({
        "type": "object",
        "properties": {
            "uri": parts::uri(),
            "prefix": {"type": "string"},
            "token": {"type": "string"},
            "namespace": {"type": "string"},
        },
        "required": ["uri", "prefix", "token"],
    }))
});

static AWS: LazyLock<Schema> = LazyLock::new(|| {
    compiled(json!({
        "type": "object",
        "properties": {
            "access_key_id": {"type": "string"},
            "secret_access_key": {"type": "string"},
            "session_token": {"type": "string"},
            "region": {"type": "string", "default": "us-east-1"},
            "endpoint_url": parts::uri(),
        },
        "required": ["access_key_id", "secret_access_key"],
    }))
});

static GCP: LazyLock<Schema> = LazyLock::new(|| {
    let auth_config = json!({
        "type": "object",
        "properties": {
            "client_email": {"type": "string"},
            "private_key": {"type": "string"},
            "project_id": {"type": "string"},
            "token_uri": {"type": "string", "default": "https://oauth2.googleapis.com/token"},
            "scope": {
                "type": "array",
                "items": {"type": "string"},
                "default": ["https://www.googleapis.com/auth/cloud-platform"],
            },
            "entries_uri": {"type": "string", "default": "https://secretmanager.googleapis.com/v1"},
        },
        "required": ["client_email", "private_key", "project_id"],
    });
    compiled(json!({
        "type": "object",
        "properties": {
            "auth_config": auth_config,
            "ssl_verify": {"type": "boolean", "default": true},
            "auth_file": {"type": "string"},
        },
        "oneOf": [{"required": ["auth_config"]}, {"required": ["auth_file"]}],
    }))
});

/// What `_meta` of any plugin's configuration may hold; a plugin's schema gets it as one more property
/// (apisix/schema_def.lua, `plugin_injected_schema`).
pub fn plugin_meta() -> Value {
    json!({
        "type": "object",
        "properties": {
            "disable": {"type": "boolean"},
            "error_response": {"oneOf": [{"type": "string"}, {"type": "object"}]},
            "priority": {"description": "priority of plugins by customized order", "type": "integer"},
            "filter": {
                "description": "filter determines whether the plugin needs to be executed at runtime",
                "type": "array",
            },
            "pre_function": {
                "description": "function to be executed in each phase before execution of plugins. The \
                                pre_function will have access to two arguments: `conf` and `ctx`.",
                "type": "string",
            },
        },
        "additionalProperties": false,
    })
}

/// Puts what several schemas share in the place of its name in a plugin's schema: `{"$apisix": "upstream"}`.
pub fn insert_parts(schema: &mut Value) {
    match schema {
        Value::Object(fields) => match fields.get("$apisix").and_then(Value::as_str) {
            Some("id") => *schema = id(),
            Some("redis") => *schema = redis::redis(),
            Some("redis-cluster") => *schema = redis::redis_cluster(),
            Some("limit-conn-redis") => *schema = redis::with_key_ttl(redis::redis()),
            Some("limit-conn-redis-cluster") => *schema = redis::with_key_ttl(redis::redis_cluster()),
            Some(object) => *schema = schema_by_name(object).cloned().unwrap_or_default(),
            None => fields.values_mut().for_each(insert_parts),
        },
        Value::Array(items) => items.iter_mut().for_each(insert_parts),
        _ => {}
    }
}

/// An object that allows only what it lists.
fn object(properties: Value, required: Option<Value>) -> Value {
    let mut schema = json!({"type": "object", "properties": properties});
    if let Some(required) = required {
        schema["required"] = required;
    }
    schema["additionalProperties"] = json!(false);
    schema
}

/// Our own schemas are constants of the program: a test compiles each of them, so a fault never leaves the
/// build; should it, the schema that refuses everything is the safe one.
fn compiled(raw: Value) -> Schema {
    Schema::compile(raw).unwrap_or_else(|error| {
        log::error!("a schema of this program is faulty: {error}");
        Schema::refuse_all()
    })
}

#[cfg(test)]
mod tests;
