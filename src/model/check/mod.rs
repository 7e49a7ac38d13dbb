//! Whether an object may be written: APISIX's checks beyond the schema (apisix/admin/*.lua), in its order and
//! with its texts, which become the `error_msg` of a 400.

mod certificate;
mod delete;
mod object;
mod plugins;
mod proto;
mod upstream;

use serde_json::Value;

pub use delete::check_delete;
pub use object::check_object;
pub use plugins::unique_keys;
pub use upstream::check_upstream_in_data_plane;

use super::id::{Kind, id_text};

/// What the checks ask of the rest of the gateway.
pub trait Lookups {
    /// A stored object as it was written, its secrets decrypted. `id` is the whole id
    /// (`jack/credentials/a`, `vault/1`).
    fn get(&self, kind: Kind, id: &str) -> Option<Value>;

    /// Whether what an object refers to must exist: not in a document that is checked as a whole.
    fn checks_references(&self) -> bool {
        true
    }

    /// Every stored object of a kind, with its id, secrets decrypted.
    fn each(&self, kind: Kind, visit: &mut dyn FnMut(&str, &Value));

    /// The ids of the consumers and credentials (`jack`, `jack/credentials/a`) that have this unique key of an
    /// auth plugin.
    fn key_holders(&self, plugin: &str, key: &str) -> Vec<String>;

    /// Whether a plugin accepts a configuration (or metadata) of itself.
    fn check_plugin(&self, name: &str, conf: &Value, schema: PluginSchema) -> Result<(), PluginFault>;

    /// Whether a protocol of xRPC is there, and accepts the configuration of itself if there is one.
    fn check_protocol(&self, name: &str, conf: Option<&Value>) -> Result<(), String>;

    /// Whether a plugin authenticates consumers.
    fn is_auth_plugin(&self, name: &str) -> bool;

    /// Whether a list of conditions is well-formed (`vars` of a route, `_meta.filter` of a plugin).
    fn check_vars(&self, vars: &Value) -> Result<(), String>;

    /// The plain text of a private key that was stored encrypted; `None` if no key of the ring opens it.
    fn decrypt_key(&self, text: &str) -> Option<String>;
}

/// Which of a plugin's schemas a configuration follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PluginSchema {
    /// On a route, service, plugin config, consumer group or global rule.
    Route,
    /// On a consumer or credential: an auth plugin's consumer schema, another plugin's usual one.
    Consumer,
    /// Plugin metadata.
    Metadata,
    /// On a stream route.
    Stream,
}

/// Why a plugin's configuration is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PluginFault {
    /// No such plugin, or it is not enabled.
    Unknown,
    /// The plugin's own text.
    Refused(String),
}

/// How an object is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// With an id, from the path or the object.
    Put,
    /// Without one.
    Post,
    /// The merged object; it may carry create_time and update_time.
    Patch,
}

/// Where an object is written to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its kind.
    pub kind: Kind,
    /// The last step of the path: a credential's own id, a secret's without its manager.
    pub id: Option<&'a str>,
    /// The consumer of a credential, the manager of a secret.
    pub parent: Option<&'a str>,
}

/// Checks a write as `check_conf` of apisix/admin/resource.lua does: the id first (which it also writes into
/// the object), then forbidden properties, then the object itself. Defaults are not written.
pub fn check_write(
    target: Target,
    verb: Verb,
    value: &mut Value,
    lookups: &dyn Lookups,
) -> Result<(), String> {
    if value.is_null() {
        return Err("missing configurations".to_owned());
    }
    settle_id(target, verb, value)?;
    if verb != Verb::Patch {
        forbid_times(value)?;
    }
    check_object(target, value, lookups)
}

/// Consumers are known by their username and metadata by the plugin's name; all others get an id.
fn settle_id(target: Target, verb: Verb, value: &mut Value) -> Result<(), String> {
    if matches!(target.kind, Kind::Consumer | Kind::PluginMetadata) {
        return Ok(());
    }
    let title = target.kind.title();
    let in_path = match (target.kind, target.parent, target.id) {
        (Kind::Secret, Some(manager), Some(id)) => Some(format!("{manager}/{id}")),
        (_, _, id) => id.map(str::to_owned),
    };
    let written = value.get("id").filter(|id| !id.is_null());
    match (verb, &in_path, written) {
        (Verb::Post, None, None) => return Ok(()),
        (Verb::Post, ..) => return Err(format!("wrong {title} id, do not need it")),
        (_, None, None) => return Err(format!("missing {title} id")),
        (_, Some(path), Some(written)) if id_text(written).as_deref() != Some(path) => {
            return Err(format!("wrong {title} id"));
        }
        _ => {}
    }
    if let (Some(id), Value::Object(members)) = (in_path, value) {
        members.insert("id".to_owned(), Value::String(id));
    }
    Ok(())
}

/// The times are the gateway's to write.
fn forbid_times(value: &Value) -> Result<(), String> {
    const TIMES: [&str; 2] = ["create_time", "update_time"];
    let set = |holder: &Value, time: &str| holder.get(time).is_some_and(|value| value != &Value::Bool(false));
    for (holder, prefix) in
        [(Some(value), ""), (value.get("upstream"), "upstream."), (value.get("plugins"), "plugins.")]
    {
        let Some(holder) = holder else { continue };
        if let Some(time) = TIMES.into_iter().find(|time| set(holder, time)) {
            return Err(format!("the property is forbidden:  {prefix}{time}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
