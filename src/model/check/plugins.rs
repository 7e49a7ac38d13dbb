//! Plugin configurations in objects: each by its plugin, and against what other objects have.

use serde_json::{Map, Value};

use super::{Lookups, PluginFault, PluginSchema};
use crate::model::id::{Kind, id_text};
use crate::model::schema::is_secret_ref;

type Outcome = Result<(), String>;

/// Checks each plugin's configuration (apisix/plugin.lua, `check_single_plugin_schema`). A configuration that
/// its `_meta` disables may be wrong, but its plugin must be known.
pub(super) fn check_plugins(plugins: &Value, schema: PluginSchema, lookups: &dyn Lookups) -> Outcome {
    for (name, conf) in plugins.as_object().into_iter().flatten() {
        if !conf.is_object() && !conf.is_array() {
            return Err(format!("invalid plugin conf {conf} for plugin [{name}]"));
        }
        match lookups.check_plugin(name, conf, schema) {
            Ok(()) => {}
            Err(PluginFault::Unknown) => return Err(format!("unknown plugin [{name}]")),
            Err(PluginFault::Refused(_)) if is_disabled(conf) => {}
            Err(PluginFault::Refused(error)) if schema == PluginSchema::Stream => {
                return Err(format!("failed to check the configuration of stream plugin [{name}]: {error}"));
            }
            Err(PluginFault::Refused(error)) => {
                return Err(format!("failed to check the configuration of plugin {name} err: {error}"));
            }
        }
        if let Some(filter) = conf.pointer("/_meta/filter") {
            lookups
                .check_vars(filter)
                .map_err(|error| format!("failed to validate the 'vars' expression: {error}"))?;
        }
    }
    Ok(())
}

fn is_disabled(conf: &Value) -> bool {
    conf.pointer("/_meta/disable") == Some(&Value::Bool(true))
}

/// A plugin may be in one global rule only (apisix/admin/global_rules.lua).
pub(super) fn check_global_conflicts(rule: &Value, lookups: &dyn Lookups) -> Outcome {
    let own_id = rule.get("id").and_then(id_text);
    let mut outcome = Ok(());
    lookups.each(Kind::GlobalRule, &mut |id, other| {
        if own_id.as_deref() == Some(id) || outcome.is_err() {
            return;
        }
        let mut names = rule["plugins"].as_object().into_iter().flat_map(|plugins| plugins.keys());
        if let Some(name) = names.find(|name| other["plugins"].get(name.as_str()).is_some()) {
            outcome = Err(format!("plugin '{name}' already exists in global rule with id '{id}'"));
        }
    });
    outcome
}

/// What consumers are told apart by, per auth plugin (apisix/consumer.lua, `plugin_unique_key_attrs`).
const UNIQUE_KEYS: [(&str, &str); 6] = [
    ("key-auth", "key"),
    ("basic-auth", "username"),
    ("jwt-auth", "key"),
    ("hmac-auth", "key_id"),
    ("ldap-auth", "user_dn"),
    ("ldap-auth-advanced", "user_dn"),
];

/// The keys by which an object's auth plugins know its consumer: `(plugin, attribute, key)`. References to
/// secrets are left out: they cannot be compared.
pub fn unique_keys(plugins: &Map<String, Value>) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
    UNIQUE_KEYS.into_iter().filter_map(|(plugin, attribute)| {
        let key = plugins.get(plugin)?.get(attribute)?.as_str().filter(|key| !is_secret_ref(key))?;
        Some((plugin, attribute, key))
    })
}

/// No two consumers may have the same key of an auth plugin. A consumer does not conflict with its own
/// credentials, a credential only not with itself.
pub(super) fn check_duplicate_keys(
    value: &Value,
    consumer: &str,
    credential: Option<&str>,
    lookups: &dyn Lookups,
) -> Outcome {
    let Some(plugins) = value.get("plugins").and_then(Value::as_object) else { return Ok(()) };
    for (plugin, attribute, key) in unique_keys(plugins) {
        for holder in lookups.key_holders(plugin, key) {
            let (name, own) = match holder.split_once("/credentials/") {
                Some((name, own)) => (name, Some(own)),
                None => (&*holder, None),
            };
            if name == consumer && (credential.is_none() || credential == own) {
                continue;
            }
            let owner = match own {
                Some(own) => format!("credential: {own} of consumer: {name}"),
                None => format!("consumer: {name}"),
            };
            return Err(format!("duplicate {attribute} of plugin {plugin} found with {owner}"));
        }
    }
    Ok(())
}
