//! Plugins and schemas as data: `/plugins/list`, `/plugins/{name}`, `/schema/{name}`, `/schema/validate/…`
//! (apisix/admin/plugins.lua, schema.lua).

use serde_json::{Map, Value};

use super::message::{AdminRequest, AdminResponse, Args};
use super::{AdminState, body, kind_of};
use crate::control::plugins::Plugins;
use crate::model::Kind;
use crate::model::schemas::{object_schema, schema_by_name};
use crate::plugin::SchemaType;

/// Plugins that work for the whole node once they are enabled, not for routes (`scope` of apisix/plugins/*.lua).
const GLOBAL: [&str; 4] = ["batch-requests", "error-log-logger", "node-status", "server-info"];

/// `GET /plugins/list`: names by falling priority.
pub fn list(state: &AdminState, args: &Args) -> AdminResponse {
    let subsystem = args.get("subsystem").unwrap_or("http");
    if !matches!(subsystem, "http" | "stream") {
        return AdminResponse::text(400, "invalid subsystem passed");
    }
    let usable = state.plugins.usable(subsystem == "stream");
    AdminResponse::json(200, &usable.into_iter().map(|entry| entry.spec.name).collect())
}

/// `GET /plugins/{name}`, `GET /schema/plugins/{name}`: a plugin's schema; `?all=true`: all there is.
pub fn get(state: &AdminState, name: Option<&str>, args: &Args) -> AdminResponse {
    let subsystem = args.get("subsystem").unwrap_or("http");
    if !matches!(subsystem, "http" | "stream") {
        return AdminResponse::error(400, format!("unsupported subsystem: {subsystem}"));
    }
    if args.get("all") == Some("true") {
        return AdminResponse::json(200, &all(&state.plugins, subsystem == "stream"));
    }
    let usable = state.plugins.usable(subsystem == "stream");
    let Some(entry) = usable.into_iter().find(|entry| Some(entry.spec.name) == name) else {
        return AdminResponse::error(404, format!("plugin not found in subsystem {subsystem}"));
    };
    let schema = match args.get("schema_type") {
        Some("consumer") if entry.spec.consumer_schema.is_none() => None,
        Some("consumer") => entry.schema(SchemaType::Consumer),
        _ => entry.schema(SchemaType::Plain),
    };
    match schema {
        Some(schema) => AdminResponse::json(200, schema.raw()),
        None => AdminResponse::error(400, "not found schema"),
    }
}

/// Every usable plugin with its schemas, by name: those of stream routes, or the others.
pub fn all(plugins: &Plugins, of_streams: bool) -> Value {
    let described = plugins.usable(of_streams).into_iter().map(|entry| {
        let spec = entry.spec;
        let mut about = Map::new();
        about.insert("priority".into(), spec.priority.into());
        about.insert("version".into(), spec.version.into());
        if spec.auth {
            about.insert("type".into(), "auth".into());
        }
        if GLOBAL.contains(&spec.name) {
            about.insert("scope".into(), "global".into());
        }
        let consumer = spec.consumer_schema.and_then(|_| entry.schema(SchemaType::Consumer));
        let schemas = [
            ("schema", entry.schema(SchemaType::Plain)),
            ("consumer_schema", consumer),
            ("metadata_schema", entry.schema(SchemaType::Metadata)),
        ];
        about.extend(
            schemas.into_iter().filter_map(|(key, schema)| Some((key.into(), schema?.raw().clone()))),
        );
        (spec.name.to_owned(), Value::Object(about))
    });
    Value::Object(described.collect())
}

/// `GET /schema/{name}`
pub fn schema(name: &str) -> AdminResponse {
    match schema_by_name(name) {
        Some(schema) => AdminResponse::json(200, schema),
        None => AdminResponse::error(400, format!("not found schema: {name}")),
    }
}

/// `POST /schema/validate/{resource}`: the object's own schema, nothing else.
pub fn validate(request: &AdminRequest, resource: &str) -> AdminResponse {
    let kind = if resource == "credentials" { Some(Kind::Credential) } else { kind_of(resource) };
    let Some(kind) = kind else {
        return AdminResponse::error(404, format!("Unsupported resource type: {resource}"));
    };
    let conf = match body(request) {
        Ok(conf) => conf.unwrap_or(Value::Null),
        Err(response) => return response,
    };
    match object_schema(kind).map(|schema| schema.check(&conf)) {
        Some(Err(why)) => AdminResponse::error(400, why),
        _ => AdminResponse::empty(200),
    }
}
