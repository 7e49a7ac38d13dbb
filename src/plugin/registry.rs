//! The plugins that this build has, and which of them the operator enabled.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::{SchemaType, Spec};
use crate::model::schema::Schema;
use crate::model::schemas::{insert_parts, plugin_meta};

/// What APISIX marks a schema with that it put `_meta` into (apisix/schema_def.lua); clients look for it.
const META_MARK: &str = "this is a mark for our injected plugin schema";

/// A plugin with its schemas compiled.
pub struct Entry {
    /// The plugin.
    pub spec: &'static Spec,
    schema: LazyLock<Schema, Box<dyn FnOnce() -> Schema + Send>>,
    consumer_schema: Option<LazyLock<Schema, Box<dyn FnOnce() -> Schema + Send>>>,
    metadata_schema: Option<LazyLock<Schema, Box<dyn FnOnce() -> Schema + Send>>>,
}

/// All plugins of this build, by name. One a process.
pub struct Registry {
    entries: HashMap<&'static str, Entry>,
    by_priority: Vec<&'static Spec>,
}

impl Registry {
    /// `specs` in any order.
    pub fn new(specs: &[&'static Spec]) -> Self {
        let mut by_priority = specs.to_vec();
        by_priority.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.name.cmp(b.name)));
        let entries = specs.iter().map(|spec| (spec.name, Entry::new(spec))).collect();
        Registry { entries, by_priority }
    }

    /// The plugin of this name, if this build has it.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All plugins, highest priority first.
    pub fn by_priority(&self) -> &[&'static Spec] {
        &self.by_priority
    }
}

type Lazy = LazyLock<Schema, Box<dyn FnOnce() -> Schema + Send>>;

/// What stands in a plugin's own schema beside what it wrote itself.
struct Injected {
    /// `_meta`, and the mark that says so.
    meta: bool,
    /// The fields that are stored encrypted, for clients that read schemas.
    encrypt_fields: &'static [&'static str],
}

fn lazy(text: &'static str, name: &'static str, injected: Injected) -> Lazy {
    LazyLock::new(Box::new(move || {
        let mut value: Value =
            serde_json::from_str(text).unwrap_or_else(|e| panic!("schema of plugin {name}: {e}"));
        insert_parts(&mut value);
        if let Some(schema) = value.as_object_mut() {
            if injected.meta {
                schema.insert("$comment".into(), META_MARK.into());
                let properties =
                    schema.entry("properties").or_insert_with(|| Value::Object(Default::default()));
                if let Some(properties) = properties.as_object_mut() {
                    properties.insert("_meta".into(), plugin_meta());
                }
            }
            if !injected.encrypt_fields.is_empty() {
                schema.insert("encrypt_fields".into(), injected.encrypt_fields.into());
            }
        }
        Schema::compile(value).unwrap_or_else(|e| panic!("schema of plugin {name}: {e}"))
    }))
}

impl Entry {
    fn new(spec: &'static Spec) -> Self {
        Entry {
            spec,
            schema: lazy(
                spec.schema,
                spec.name,
                Injected { meta: true, encrypt_fields: spec.encrypt_fields },
            ),
            consumer_schema: spec.consumer_schema.map(|text| {
                let encrypt_fields = spec.consumer_encrypt_fields;
                lazy(text, spec.name, Injected { meta: false, encrypt_fields })
            }),
            metadata_schema: spec
                .metadata_schema
                .map(|text| lazy(text, spec.name, Injected { meta: false, encrypt_fields: &[] })),
        }
    }

    /// The schema for `kind`: an auth plugin's consumer part has its own, others take the plain one.
    pub fn schema(&self, kind: SchemaType) -> Option<&Schema> {
        match kind {
            SchemaType::Plain => Some(&self.schema),
            SchemaType::Consumer => Some(self.consumer_schema.as_deref().unwrap_or(&self.schema)),
            SchemaType::Metadata => self.metadata_schema.as_deref(),
        }
    }

    /// Checks a configuration and fills its defaults. The error is the text of the JSON Schema or of
    /// the plugin, without APISIX's `failed to check the configuration of plugin` prefix.
    pub fn check(&self, conf: &mut Value, kind: SchemaType) -> Result<(), String> {
        if let Some(schema) = self.schema(kind) {
            schema.validate(conf).map_err(|why| (self.spec.refusal)(conf, why))?;
        }
        (self.spec.check)(conf, kind)
    }
}
