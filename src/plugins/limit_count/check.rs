//! What a JSON Schema cannot say about a configuration (limit-count/init.lua `check_schema`).

use std::sync::{LazyLock, Mutex, PoisonError};

use indexmap::IndexMap;
use serde_json::Value;

use crate::limits;
use crate::model::schema::deep_equal;
use crate::model::schemas::insert_parts;
use crate::plugin::SchemaType;
use crate::plugins::kit::limit::VID;

const CONFLICT: &str = "count/time_window and rules cannot be specified at the same time";

/// Its properties are what a group has in common.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = serde_json::from_str(include_str!("schema.json")).unwrap_or_default();
    insert_parts(&mut schema);
    schema
});

/// The first configuration seen of each group holds for the process, as it does for an APISIX worker: a
/// group is not edited, it gets a new name.
static GROUPS: LazyLock<Mutex<Groups>> = LazyLock::new(Mutex::default);

/// What was seen of each group, the oldest first; beyond [`limits::LIMIT_COUNT_GROUPS`] the oldest makes room.
#[derive(Default)]
struct Groups(IndexMap<String, Value>);

impl Groups {
    /// Are these the options that `group` had before, if it had any?
    fn agree(&mut self, group: &str, options: Value) -> bool {
        if let Some(first) = self.0.get(group) {
            return deep_equal(first, &options);
        }
        if self.0.len() >= limits::LIMIT_COUNT_GROUPS {
            self.0.shift_remove_index(0);
        }
        self.0.insert(group.to_owned(), options);
        true
    }
}

/// In Lua `false` is as good as nothing.
fn has(conf: &Value, name: &str) -> bool {
    conf.get(name).is_some_and(|value| *value != Value::Bool(false))
}

fn has_both(conf: &Value) -> bool {
    has(conf, "rules") && (has(conf, "count") || has(conf, "time_window"))
}

/// Whatever `oneOf` of the schema did not like, beside rules a count is what is wrong.
pub fn refusal(conf: &Value, why: String) -> String {
    match why.contains("value should match only one schema") && has_both(conf) {
        true => CONFLICT.to_owned(),
        false => why,
    }
}

/// After the schema.
pub fn check(conf: &Value, kind: SchemaType) -> Result<(), String> {
    if kind == SchemaType::Metadata {
        return Ok(());
    }
    if has_both(conf) {
        return Err(CONFLICT.to_owned());
    }
    if has(conf, "rules") && has(conf, "group") {
        return Err("group and rules cannot be specified at the same time".to_owned());
    }
    check_group(conf)?;
    check_sync_interval(conf)?;
    check_rule_keys(conf)
}

fn check_group(conf: &Value) -> Result<(), String> {
    let (Some(group), Some(fields)) = (conf["group"].as_str(), conf.as_object()) else { return Ok(()) };
    if conf.get(VID).is_some() {
        return Err("group is not supported".to_owned());
    }
    let of_policy = properties_of(&conf["policy"]);
    let shared = |name: &str| SCHEMA["properties"].get(name).or_else(|| of_policy.get(name)).is_some();
    let options: Value =
        fields.iter().filter(|(name, _)| shared(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    if GROUPS.lock().unwrap_or_else(PoisonError::into_inner).agree(group, options) {
        return Ok(());
    }
    log::error!("limit-count group {group} was configured differently before");
    Err("group conf mismatched".to_owned())
}

/// The options that a policy brings along; what others have is of no account then.
fn properties_of(policy: &Value) -> &'static Value {
    let mut place = &*SCHEMA;
    while let Some(branch) = place.get("if") {
        if branch["properties"]["policy"]["enum"][0] == *policy {
            return &place["then"]["properties"];
        }
        place = &place["else"];
    }
    &Value::Null
}

/// Only Redis is synchronized with; -1 is "at every request".
fn check_sync_interval(conf: &Value) -> Result<(), String> {
    let Some(interval) = conf["sync_interval"].as_f64() else { return Ok(()) };
    if conf["policy"] == "local" || interval == -1.0 {
        return Ok(());
    }
    if interval < 0.1 {
        return Err("sync_interval should not be smaller than 0.1".to_owned());
    }
    if conf["time_window"].as_f64().is_some_and(|window| interval >= window) {
        return Err("sync_interval should be smaller than time_window".to_owned());
    }
    Ok(())
}

/// A counter is its rule's key: two rules of one key would count in each other's window.
fn check_rule_keys(conf: &Value) -> Result<(), String> {
    let keys = || conf["rules"].as_array().into_iter().flatten().filter_map(|rule| rule["key"].as_str());
    match keys().enumerate().find(|(at, key)| keys().take(*at).any(|before| before == *key)) {
        Some((_, key)) => Err(format!("duplicate key '{key}' in rules")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_too_many_groups_the_oldest_is_forgotten() {
        let mut groups = Groups::default();
        let of = |count: u32| json!({ "count": count });
        // the oldest is not the first by name
        for number in (0..limits::LIMIT_COUNT_GROUPS).rev() {
            assert!(groups.agree(&format!("{number:05}"), of(1)));
        }
        let oldest = format!("{:05}", limits::LIMIT_COUNT_GROUPS - 1);
        assert!(!groups.agree(&oldest, of(2)));
        assert!(groups.agree("one more", of(1)));
        assert!(!groups.agree("00000", of(2)), "a later one is remembered");
        assert!(groups.agree(&oldest, of(2)), "the oldest is forgotten");
    }
}
