//! Plugins and schemas as data: `/plugins/list`, `/plugins/{name}`, `/schema/{name}`, `/schema/validate/…`
//! (apisix/admin/plugins.lua, schema.lua).

use serde_json::{Map, Value, json};

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
    match args.get("subsystem").unwrap_or("http") {
        "http" => {
            let specs = state.plugins.registry().by_priority().iter();
            let names = specs.map(|spec| spec.name).filter(|name| state.plugins.enabled(name));
            AdminResponse::json(200, &names.collect())
        }
        // There are no stream plugins in this build yet.
        "stream" => AdminResponse::json(200, &json!([])),
        _ => AdminResponse::text(400, "invalid subsystem passed"),
    }
}

/// `GET /plugins/{name}`, `GET /schema/plugins/{name}`: a plugin's schema; `?all=true`: all there is.
pub fn get(state: &AdminState, name: Option<&str>, args: &Args) -> AdminResponse {
    let subsystem = args.get("subsystem").unwrap_or("http");
    if !matches!(subsystem, "http" | "stream") {
        return AdminResponse::error(400, format!("unsupported subsystem: {subsystem}"));
    }
    if args.get("all") == Some("true") {
        let http = subsystem == "http";
        return AdminResponse::json(200, &if http { all(&state.plugins) } else { json!({}) });
    }
    let name = name.filter(|name| subsystem == "http" && state.plugins.enabled(name));
    let Some(entry) = name.and_then(|name| state.plugins.registry().get(name)) else {
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

/// Every usable plugin with its schemas, by name.
pub fn all(plugins: &Plugins) -> Value {
    let usable = plugins.registry().by_priority().iter().filter(|spec| plugins.enabled(spec.name));
    let described = usable.filter_map(|spec| {
        let entry = plugins.registry().get(spec.name)?;
        let mut about = Map::new();
        about.insert("priority".into(), spec.priority.into());
        about.insert("version".into(), f64::from(spec.version).into());
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
        Some((spec.name.to_owned(), Value::Object(about)))
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
