//! A whole configuration in one document, `conf/apisix.yaml` or the body of `PUT /apisix/admin/configs`, as the
//! keys of a store: what differs from the last document becomes changes under one revision
//! (apisix/core/config_yaml.lua).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Change, Entry, Event, Listing, prefix_end};
use crate::model::{Kind, id_text};

/// The keys of the last document.
#[derive(Default)]
pub struct Keys {
    entries: BTreeMap<Box<str>, Entry>,
    revision: i64,
}

impl Keys {
    /// One key.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).cloned()
    }

    /// Everything below a directory.
    pub fn list(&self, dir: &str) -> Listing {
        let below = format!("{dir}/");
        let end = prefix_end(&below);
        let from = (Bound::Included(&*below), Bound::Unbounded);
        let entries = self.entries.range::<str, _>(from).map(|(_, entry)| entry);
        let entries = entries.take_while(|entry| entry.key.as_bytes() < end.as_slice()).cloned().collect();
        Listing { entries, revision: self.revision }
    }

    /// All there is, once there was a document.
    pub fn snapshot(&self) -> Option<Event> {
        let entries = self.entries.values().cloned().collect();
        (self.revision > 0).then_some(Event::Snapshot { entries, revision: self.revision })
    }

    /// Takes a document over and tells what differs, compared by value.
    pub fn take(&mut self, new: BTreeMap<Box<str>, Bytes>) -> Event {
        self.revision += 1;
        let revision = self.revision;
        let mut changes = Vec::new();
        self.entries.retain(|key, _| {
            let stays = new.contains_key(key);
            if !stays {
                let key = key.clone();
                changes.push(Change { key, value: None, create_revision: 0, mod_revision: revision });
            }
            stays
        });
        for (key, value) in new {
            let old = self.entries.get(&key);
            if old.is_some_and(|old| old.value == value) {
                continue;
            }
            let create_revision = old.map_or(revision, |old| old.create_revision);
            let entry =
                Entry { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision };
            self.entries.insert(key.clone(), entry);
            changes.push(Change { key, value: Some(value), create_revision, mod_revision: revision });
        }
        Event::Changes { changes, revision }
    }
}

/// lyaml reads nothing (`key-auth:` without a value) as a table, an empty one.
pub fn nothing_is_a_table(value: &mut Value) {
    match value {
        Value::Null => *value = Value::Object(Map::new()),
        Value::Array(items) => items.iter_mut().for_each(nothing_is_a_table),
        Value::Object(members) => members.values_mut().for_each(nothing_is_a_table),
        _ => {}
    }
}

/// The keys and values that a document stands for. Items that are no objects are reported and left out; of
/// equal ids the last one counts.
pub fn objects(tree: &Value) -> BTreeMap<Box<str>, Bytes> {
    let mut found = BTreeMap::new();
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_nested()) {
        let directory = kind.directory();
        match tree.get(directory) {
            None | Some(Value::Null) => {}
            Some(Value::Object(nothing)) if nothing.is_empty() && kind != Kind::PluginList => {}
            Some(list) if kind == Kind::PluginList => {
                let list = if list.is_object() { "[]".into() } else { list.to_string() };
                found.insert(format!("/{directory}").into(), list.into());
            }
            Some(Value::Array(items)) => {
                for (index, item) in (1..).zip(items) {
                    found.extend(object(directory, index, item));
                }
            }
            Some(_) => log::error!("invalid {directory}: it should be a list"),
        }
    }
    found
}

/// One item: its id is `id`, or `username`, or its place in the list.
fn object(directory: &str, index: usize, item: &Value) -> Option<(Box<str>, Bytes)> {
    let Value::Object(members) = item else {
        log::error!("invalid item data of [{directory}/{index}], val: {item}, it should be an object");
        return None;
    };
    let id = members.get("id").or_else(|| members.get("username")).and_then(id_text);
    let id = id.unwrap_or_else(|| format!("arr_{index}").into());
    let mut members = members.clone();
    members.shift_remove("modifiedIndex");
    members.insert("id".into(), Value::String(id.to_string()));
    Some((format!("/{directory}/{id}").into(), Value::Object(members).to_string().into()))
}
