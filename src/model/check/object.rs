//! The rules of each kind of object.

use serde_json::Value;

use super::certificate::check_pair;
use super::plugins::{check_duplicate_keys, check_global_conflicts, check_plugins};
use super::proto::check_proto;
use super::upstream::check_upstream;
use super::{Lookups, PluginFault, PluginSchema, Target};
use crate::model::id::{Kind, id_text};
use crate::model::json_path::body_path;
use crate::model::schema::is_secret_ref;
use crate::model::schemas::{object_schema, secret_schema};
use crate::model::types::IpNet;

type Outcome = Result<(), String>;

/// Checks an object as the Admin API stores it, without its id and times being looked at: schema, upstream,
/// references, plugins, expressions.
pub fn check_object(target: Target, value: &Value, lookups: &dyn Lookups) -> Outcome {
    match target.kind {
        Kind::Route => route(value, lookups),
        Kind::Service => service(value, lookups),
        Kind::Upstream => check_upstream(value, lookups),
        Kind::Consumer => consumer(target, value, lookups),
        Kind::Credential => credential(target, value, lookups),
        Kind::ConsumerGroup | Kind::PluginConfig => {
            let value = with_defaults(target.kind, value)?;
            check_plugins(&value["plugins"], PluginSchema::Route, lookups)
        }
        Kind::GlobalRule => {
            let value = with_defaults(target.kind, value)?;
            check_plugins(&value["plugins"], PluginSchema::Route, lookups)?;
            check_global_conflicts(&value, lookups)
        }
        Kind::PluginMetadata => metadata(target, value, lookups),
        Kind::Ssl => ssl(value, lookups),
        Kind::StreamRoute => stream_route(value, lookups),
        Kind::Secret => secret(target, value),
        Kind::Proto => {
            let value = with_defaults(Kind::Proto, value)?;
            check_proto(value["content"].as_str().unwrap_or_default())
                .map_err(|error| format!("invalid content: {error}"))
        }
        Kind::PluginList | Kind::CostDecoration => with_defaults(target.kind, value).map(drop),
    }
}

/// A copy that its schema accepts, defaults filled: later rules see these.
pub(super) fn with_defaults(kind: Kind, value: &Value) -> Result<Value, String> {
    let mut copy = value.clone();
    if let Some(schema) = object_schema(kind) {
        schema.validate(&mut copy).map_err(|error| format!("invalid configuration: {error}"))?;
    }
    Ok(copy)
}

/// What `Some` member a reference names must exist.
pub(super) fn check_reference(holder: &Value, member: &str, kind: Kind, lookups: &dyn Lookups) -> Outcome {
    let Some(id) = holder.get(member).and_then(id_text) else { return Ok(()) };
    if !lookups.checks_references() || lookups.get(kind, &id).is_some() {
        return Ok(());
    }
    let title = kind.title();
    Err(format!("failed to fetch {title} info by {title} id [{id}], response code: 404"))
}

fn inline_upstream(value: &Value, lookups: &dyn Lookups) -> Outcome {
    value.get("upstream").map_or(Ok(()), |upstream| check_upstream(upstream, lookups))
}

fn inline_plugins(value: &Value, schema: PluginSchema, lookups: &dyn Lookups) -> Outcome {
    value.get("plugins").map_or(Ok(()), |plugins| check_plugins(plugins, schema, lookups))
}

/// `filter_func` and `script` are Lua, which is not loaded here: they are stored as they are.
fn route(value: &Value, lookups: &dyn Lookups) -> Outcome {
    for (one, several) in [("host", "hosts"), ("remote_addr", "remote_addrs")] {
        if value.get(one).is_some() && value.get(several).is_some() {
            return Err(format!("only one of {one} or {several} is allowed"));
        }
    }
    let value = with_defaults(Kind::Route, value)?;
    inline_upstream(&value, lookups)?;
    check_reference(&value, "upstream_id", Kind::Upstream, lookups)?;
    check_reference(&value, "service_id", Kind::Service, lookups)?;
    check_reference(&value, "plugin_config_id", Kind::PluginConfig, lookups)?;
    inline_plugins(&value, PluginSchema::Route, lookups)?;
    let Some(vars) = value.get("vars") else { return Ok(()) };
    lookups
        .check_vars(vars)
        .and_then(|()| body_paths(vars))
        .map_err(|error| format!("failed to validate the 'vars' expression: {error}"))
}

/// `post_arg.PATH` in a condition is a JSONPath, unless it is plain names with dots between them.
fn body_paths(vars: &Value) -> Outcome {
    let Value::Array(items) = vars else { return Ok(()) };
    match items.first().and_then(Value::as_str).and_then(|name| name.strip_prefix("post_arg.")) {
        Some(path) if items.len() >= 3 => {
            let is_plain = !path.contains(['[', '*']) && !path.contains("..");
            match body_path(path) {
                Err(error) if !is_plain => Err(format!("invalid expression: {error}")),
                _ => Ok(()),
            }
        }
        _ => items.iter().try_for_each(body_paths),
    }
}

fn service(value: &Value, lookups: &dyn Lookups) -> Outcome {
    let value = with_defaults(Kind::Service, value)?;
    inline_upstream(&value, lookups)?;
    check_reference(&value, "upstream_id", Kind::Upstream, lookups)?;
    inline_plugins(&value, PluginSchema::Route, lookups)
}

fn consumer(target: Target, value: &Value, lookups: &dyn Lookups) -> Outcome {
    let value = with_defaults(Kind::Consumer, value)?;
    let username = value["username"].as_str().unwrap_or_default();
    if target.id.is_some_and(|id| id != username) {
        return Err("wrong username".to_owned());
    }
    inline_plugins(&value, PluginSchema::Consumer, lookups).map_err(invalid_plugins)?;
    check_duplicate_keys(&value, username, None, lookups)?;
    check_reference(&value, "group_id", Kind::ConsumerGroup, lookups)
}

fn invalid_plugins(error: String) -> String {
    format!("invalid plugins configuration: {error}")
}

fn credential(target: Target, value: &Value, lookups: &dyn Lookups) -> Outcome {
    let value = with_defaults(Kind::Credential, value)?;
    inline_plugins(&value, PluginSchema::Consumer, lookups).map_err(invalid_plugins)?;
    let mut names = value.get("plugins").and_then(Value::as_object).into_iter().flat_map(|p| p.keys());
    if names.any(|name| !lookups.is_auth_plugin(name)) {
        return Err("only supports auth type plugins in consumer credential".to_owned());
    }
    match target.parent {
        Some(consumer) => check_duplicate_keys(&value, consumer, target.id, lookups),
        None => Ok(()),
    }
}

fn metadata(target: Target, value: &Value, lookups: &dyn Lookups) -> Outcome {
    let name = target.id.ok_or("missing plugin name")?;
    lookups.check_plugin(name, value, PluginSchema::Metadata).map_err(|fault| match fault {
        PluginFault::Unknown => "invalid plugin name".to_owned(),
        PluginFault::Refused(error) => format!("invalid configuration: {error}"),
    })
}

fn secret(target: Target, value: &Value) -> Outcome {
    let manager = target.parent.ok_or("missing secret type")?;
    let schema = secret_schema(manager).ok_or_else(|| format!("invalid secret manager: {manager}"))?;
    schema.check(value).map_err(|error| format!("invalid configuration: {error}"))
}

/// apisix/ssl.lua, `check_ssl_conf`.
fn ssl(value: &Value, lookups: &dyn Lookups) -> Outcome {
    let value = with_defaults(Kind::Ssl, value)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pair = |cert: &Value, key: &Value| match (text(cert), text(key)) {
        (cert, key) if is_secret_ref(&cert) || is_secret_ref(&key) => Ok(()),
        (cert, key) => check_pair(&cert, Some(&key), lookups),
    };
    pair(&value["cert"], &value["key"])?;
    if value["type"] == "client" {
        return Ok(());
    }
    let list = |name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let (certs, keys) = (list("certs"), list("keys"));
    if certs.len() != keys.len() {
        return Err("mismatched number of certs and keys".to_owned());
    }
    for (at, (cert, key)) in certs.iter().zip(&keys).enumerate() {
        pair(cert, key).map_err(|error| format!("failed to handle cert-key pair[{}]: {error}", at + 1))?;
    }
    match value.get("client").map(|client| text(&client["ca"])) {
        Some(ca) if !is_secret_ref(&ca) => {
            check_pair(&ca, None, lookups).map_err(|error| format!("failed to validate client_cert: {error}"))
        }
        _ => Ok(()),
    }
}

fn stream_route(value: &Value, lookups: &dyn Lookups) -> Outcome {
    let value = with_defaults(Kind::StreamRoute, value)?;
    check_reference(&value, "upstream_id", Kind::Upstream, lookups)?;
    check_reference(&value, "service_id", Kind::Service, lookups)?;
    superior(&value, lookups)?;
    inline_plugins(&value, PluginSchema::Stream, lookups)?;
    for name in ["remote_addr", "server_addr"] {
        match value.get(name).and_then(Value::as_str) {
            Some(text) if IpNet::parse(text).is_none() => return Err(format!("invalid {name}: {text}")),
            _ => {}
        }
    }
    match value.get("protocol") {
        Some(protocol) => {
            lookups.check_protocol(protocol["name"].as_str().unwrap_or_default(), protocol.get("conf"))
        }
        None => Ok(()),
    }
}

/// The route that a subordinate one hangs on must exist and speak the same protocol.
fn superior(value: &Value, lookups: &dyn Lookups) -> Outcome {
    let Some(protocol) = value.get("protocol") else { return Ok(()) };
    let Some(superior_id) = protocol.get("superior_id").and_then(id_text) else { return Ok(()) };
    if !lookups.checks_references() {
        return Ok(());
    }
    if value.get("id").and_then(id_text).as_ref() == Some(&superior_id) {
        return Err("stream route can not set itself as superior_id".to_owned());
    }
    let superior = lookups.get(Kind::StreamRoute, &superior_id);
    let superior = superior
        .ok_or_else(|| format!("failed to fetch stream routes[{superior_id}], response code: 404"))?;
    let name_of = |protocol: &Value| protocol["name"].as_str().unwrap_or_default().to_owned();
    match superior.get("protocol").map(name_of) {
        Some(theirs) if theirs != name_of(protocol) => Err(format!(
            "protocol mismatch: subordinate protocol [{}] does not match superior protocol [{theirs}]",
            name_of(protocol)
        )),
        _ => Ok(()),
    }
}
