//! What makes an object acceptable, kind by kind: its schema, what a schema cannot say, its plugins, what it
//! refers to, and conflicts with its neighbours. An accepted object comes out with its secrets encrypted,
//! but without defaults: APISIX stores what the user wrote.

use serde_json::{Map, Value};

use super::message::AdminResponse;
use super::references;
use super::resource::Call;
use crate::control::plugins::{SchemaType, Unknown};
use crate::expr::Expr;
use crate::model::delta::Object;
use crate::model::schema::is_secret_ref;
use crate::model::schemas::{HASH_HEADER, HASH_VARS, HASH_VARS_COMBINATIONS, object_schema, secret_schema};
use crate::model::{Id, Kind, Plugins, id_text};

type Members = Map<String, Value>;

/// Which of a plugin's schemas counts inside this kind of object.
pub fn schema_type(kind: Kind) -> SchemaType {
    match kind {
        Kind::Consumer | Kind::Credential => SchemaType::Consumer,
        Kind::PluginMetadata => SchemaType::Metadata,
        _ => SchemaType::Plain,
    }
}

/// Checks `conf` and encrypts its secrets. Consumers and plugin metadata find their id here.
pub async fn object(
    call: &Call<'_>,
    id: Option<&str>,
    conf: &mut Members,
) -> Result<Option<String>, AdminResponse> {
    let kind = call.target.kind;
    // The check fills defaults, so it works on a copy.
    let mut copy = Value::Object(conf.clone());
    let found = accept(call, id, &mut copy).await.map_err(|why| AdminResponse::error(400, why))?;
    encrypt(call, found.as_deref().or(id), conf);
    Ok(match kind {
        Kind::Consumer | Kind::PluginMetadata => found,
        _ => None,
    })
}

async fn accept(call: &Call<'_>, id: Option<&str>, conf: &mut Value) -> Result<Option<String>, String> {
    let kind = call.target.kind;
    match kind {
        Kind::PluginMetadata => return metadata(call, id, conf).map(Some),
        Kind::Secret => return secret(id, conf).map(|()| None),
        Kind::Route => only_one_of_two(conf)?,
        _ => {}
    }
    if let Some(schema) = object_schema(kind) {
        schema.validate(conf).map_err(|why| format!("invalid configuration: {why}"))?;
    }
    if kind == Kind::Consumer && id.is_some_and(|id| conf["username"] != *id) {
        return Err("wrong username".into());
    }
    match kind {
        Kind::Upstream => upstream(conf)?,
        _ => conf.get("upstream").map_or(Ok(()), upstream)?,
    }
    if kind == Kind::Ssl {
        certificate(conf)?;
    }
    if kind != Kind::Consumer {
        references::exist(call.state, conf).await?;
    }
    plugins(call, conf)?;
    match kind {
        Kind::Route => conditions(conf)?,
        Kind::GlobalRule => no_plugin_twice(call, id, conf).await?,
        Kind::Credential => {
            let consumer = call.target.consumer.as_deref().unwrap_or("");
            unique_keys(call, conf, consumer, id)?;
        }
        Kind::Consumer => {
            unique_keys(call, conf, conf["username"].as_str().unwrap_or(""), None)?;
            references::exist(call.state, conf).await?;
            return Ok(conf["username"].as_str().map(str::to_owned));
        }
        _ => {}
    }
    Ok(None)
}

fn encrypt(call: &Call<'_>, id: Option<&str>, conf: &mut Members) {
    let (plugins, kind) = (&call.state.plugins, call.target.kind);
    if kind == Kind::PluginMetadata {
        let mut value = Value::Object(std::mem::take(conf));
        plugins.encrypt_one(id.unwrap_or(""), &mut value, SchemaType::Metadata);
        if let Value::Object(encrypted) = value {
            *conf = encrypted;
        }
        return;
    }
    if let Some(Value::Object(confs)) = conf.get_mut("plugins") {
        plugins.encrypt(confs, schema_type(kind));
    }
    let keyring = plugins.keyring();
    let upstream = if kind == Kind::Upstream {
        Some(&mut *conf)
    } else {
        conf.get_mut("upstream").and_then(Value::as_object_mut)
    };
    if let Some(key) = upstream.and_then(|u| u.get_mut("tls")).and_then(|tls| tls.get_mut("client_key")) {
        keyring.encrypt_private_key(key);
    }
    if kind == Kind::Ssl {
        conf.get_mut("key").into_iter().for_each(|key| keyring.encrypt_private_key(key));
        let more = conf.get_mut("keys").and_then(Value::as_array_mut);
        more.into_iter().flatten().for_each(|key| keyring.encrypt_private_key(key));
    }
}

fn only_one_of_two(conf: &Value) -> Result<(), String> {
    for (one, many) in [("host", "hosts"), ("remote_addr", "remote_addrs")] {
        if conf.get(one).is_some() && conf.get(many).is_some() {
            return Err(format!("only one of {one} or {many} is allowed"));
        }
    }
    Ok(())
}

/// apisix/upstream.lua, `check_upstream_conf`
fn upstream(conf: &Value) -> Result<(), String> {
    let text = |name: &str| conf.get(name).and_then(Value::as_str);
    for address in conf.get("nodes").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u32>().ok());
        if port.is_some_and(|port| !(1..=65535).contains(&port)) {
            return Err(format!("invalid port {}", port.unwrap_or(0)));
        }
    }
    if text("pass_host") == Some("rewrite") && text("upstream_host").is_none_or(str::is_empty) {
        return Err("`upstream_host` can't be empty when `pass_host` is `rewrite`".into());
    }
    if text("type") != Some("chash") {
        return Ok(());
    }
    let hash_on = text("hash_on").unwrap_or("vars");
    let schema = match hash_on {
        "consumer" => return Ok(()),
        "vars" => &HASH_VARS,
        "header" | "cookie" => &HASH_HEADER,
        "vars_combinations" => &HASH_VARS_COMBINATIONS,
        other => return Err(format!("type is chash, err: invalid hash_on type {other}")),
    };
    let key = conf.get("key").ok_or("missing key")?;
    schema.check(key).map_err(|why| format!("invalid configuration: {why}"))
}

/// As many keys as certificates; whether they fit is seen when TLS is served.
fn certificate(conf: &Value) -> Result<(), String> {
    let count = |name: &str| conf.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    if conf.get("type").and_then(Value::as_str) != Some("client") && count("certs") != count("keys") {
        return Err("mismatched number of certs and keys".into());
    }
    Ok(())
}

fn plugins(call: &Call<'_>, conf: &mut Value) -> Result<(), String> {
    let kind = call.target.kind;
    let all = &call.state.plugins;
    let Some(Value::Object(confs)) = conf.get_mut("plugins") else { return Ok(()) };
    if kind == Kind::StreamRoute {
        return confs.keys().next().map_or(Ok(()), |name| Err(format!("unknown plugin [{name}]")));
    }
    let checked = all.check(confs, schema_type(kind), Unknown::Refuse);
    if !matches!(kind, Kind::Consumer | Kind::Credential) {
        return checked;
    }
    checked.map_err(|why| format!("invalid plugins configuration: {why}"))?;
    let auth = |name: &String| all.registry().find(name).is_some_and(|traits| traits.auth);
    if kind == Kind::Credential && !confs.keys().all(auth) {
        return Err("only supports auth type plugins in consumer credential".into());
    }
    Ok(())
}

fn conditions(conf: &Value) -> Result<(), String> {
    if let Some(vars) = conf.get("vars") {
        Expr::compile(vars).map_err(|why| format!("failed to validate the 'vars' expression: {why}"))?;
    }
    Ok(())
}

/// Two global rules with one plugin would run it twice for each request.
async fn no_plugin_twice(call: &Call<'_>, id: Option<&str>, conf: &Value) -> Result<(), String> {
    let Some(plugins) = conf.get("plugins").and_then(Value::as_object) else { return Ok(()) };
    let rules = call.state.store.list("/global_rules").await.map_err(|e| e.to_string())?;
    for entry in rules.entries {
        let Ok(rule) = serde_json::from_slice::<Value>(&entry.value) else { continue };
        let Some(rule_id) = rule.get("id").and_then(id_text).filter(|rule_id| Some(&**rule_id) != id) else {
            continue;
        };
        let twice = plugins.keys().find(|name| rule.get("plugins").is_some_and(|p| p.get(name).is_some()));
        if let Some(name) = twice {
            return Err(format!("plugin '{name}' already exists in global rule with id '{rule_id}'"));
        }
    }
    Ok(())
}

/// A key by which a consumer is found must be its alone (apisix/consumer.lua, `check_duplicate_key`). Looks
/// at what the gateway runs with; references to secrets cannot be compared.
fn unique_keys(
    call: &Call<'_>,
    conf: &Value,
    consumer: &str,
    credential: Option<&str>,
) -> Result<(), String> {
    let Some(confs) = conf.get("plugins").and_then(Value::as_object) else { return Ok(()) };
    let registry = call.state.plugins.registry();
    for (plugin, conf) in confs {
        let Some(field) = registry.find(plugin).and_then(|traits| traits.consumer_key) else { continue };
        let Some(key) = conf.get(field).and_then(Value::as_str).filter(|key| !is_secret_ref(key)) else {
            continue;
        };
        let model = call.state.feed.model();
        for object in model.of_kind(Kind::Consumer) {
            let Object::Consumer(other) = object else { continue };
            if key_of(&other.value.plugins, plugin, field) != Some(key) {
                continue;
            }
            let owner_credential = other.value.credential_id.as_deref();
            let own = *other.value.username == *consumer
                && (credential.is_none() || owner_credential == credential);
            if !own {
                let owner = owner(&other.value.username, other.value.credential_id.as_ref());
                return Err(format!("duplicate {field} of plugin {plugin} found with {owner}"));
            }
        }
    }
    Ok(())
}

fn key_of<'p>(plugins: &'p Plugins, plugin: &str, field: &str) -> Option<&'p str> {
    plugins.get(plugin)?.get(field)?.as_str()
}

fn owner(consumer: &str, credential: Option<&Id>) -> String {
    match credential {
        Some(credential) => format!("credential: {credential} of consumer: {consumer}"),
        None => format!("consumer: {consumer}"),
    }
}

/// apisix/admin/plugin_metadata.lua: any plugin that exists, enabled or not.
fn metadata(call: &Call<'_>, name: Option<&str>, conf: &mut Value) -> Result<String, String> {
    let name = name.ok_or("missing plugin name")?;
    let registry = call.state.plugins.registry();
    registry.find(name).ok_or("invalid plugin name")?;
    registry
        .check(name, conf, SchemaType::Metadata)
        .map_err(|why| format!("invalid configuration: {why}"))?;
    Ok(name.to_owned())
}

fn secret(id: Option<&str>, conf: &mut Value) -> Result<(), String> {
    let manager =
        id.and_then(|id| id.split_once('/')).map(|(manager, _)| manager).ok_or("missing secret type")?;
    let schema = secret_schema(manager).ok_or_else(|| format!("invalid secret manager: {manager}"))?;
    schema.validate(conf).map_err(|why| format!("invalid configuration: {why}"))
}
