//! What control asks about plugins: is one enabled, is its configuration right, which of its fields are
//! secret. Three kinds of name (issue of failing closed): enabled and built in; enabled by the operator but
//! missing in this build, which the Admin API refuses and a core answers with 503; and names outside the
//! operator's list, which are skipped as in APISIX.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Map, Value};

use super::encryption::Keyring;
use crate::expr::Expr;

/// Which schema a configuration is checked against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SchemaType {
    /// A route's, service's, plugin config's, consumer group's or global rule's plugin.
    Plain,
    /// Inside a consumer or credential.
    Consumer,
    /// Plugin metadata.
    Metadata,
}

/// What a plugin is, as far as control needs to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traits {
    /// Higher runs first.
    pub priority: i32,
    /// It authenticates: the only kind that a credential may have.
    pub auth: bool,
    /// It has a schema of its own inside a consumer.
    pub consumer_schema: bool,
    /// Secret fields, dotted.
    pub encrypt_fields: &'static [&'static str],
    /// Secret fields inside a consumer.
    pub consumer_encrypt_fields: &'static [&'static str],
    /// The field of a consumer's part that must be unique.
    pub consumer_key: Option<&'static str>,
}

/// The plugins of this build.
pub trait Catalogue: Send + Sync {
    /// The plugin of this name, if this build has it.
    fn find(&self, name: &str) -> Option<Traits>;
    /// All names, highest priority first.
    fn names(&self) -> Vec<&'static str>;
    /// The JSON Schema of a plugin.
    fn schema(&self, name: &str, kind: SchemaType) -> Option<Value>;
    /// Checks a configuration and fills its defaults; the error is the reason alone.
    fn check(&self, name: &str, conf: &mut Value, kind: SchemaType) -> Result<(), String>;
}

/// The plugins of this node. One a process.
pub struct Plugins {
    registry: Arc<dyn Catalogue>,
    /// The operator's list.
    enabled: RwLock<HashSet<Box<str>>>,
    keyring: Keyring,
    /// Secret fields are stored encrypted; private keys of certificates always are.
    encrypts_fields: bool,
}

/// What to do with a plugin that is not enabled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// Refuse it, and refuse as well what is enabled but not built in: the Admin API.
    Refuse,
    /// Refuse what is not enabled; a core will answer for what is missing: apisix.yaml.
    RefuseDisabled,
    /// Let it pass: etcd, where another node may have it.
    Skip,
}

impl Plugins {
    /// `enabled` is `plugins` of config.yaml, the rest its `data_encryption`.
    pub fn new(
        registry: Arc<dyn Catalogue>,
        enabled: impl IntoIterator<Item = impl Into<Box<str>>>,
        keyring: Keyring,
        encrypts_fields: bool,
    ) -> Plugins {
        let enabled = RwLock::new(enabled.into_iter().map(Into::into).collect());
        Plugins { registry, enabled, keyring, encrypts_fields }
    }

    /// The plugins of this build.
    pub fn registry(&self) -> &dyn Catalogue {
        &*self.registry
    }

    /// The key ring.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Replaces the operator's list (a data plane takes it from etcd).
    pub fn enable(&self, names: impl IntoIterator<Item = impl Into<Box<str>>>) {
        let names = names.into_iter().map(Into::into).collect();
        *self.enabled.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Is it in the operator's list?
    pub fn enabled(&self, name: &str) -> bool {
        self.enabled.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// Is it in the operator's list and in this build?
    pub fn usable(&self, name: &str) -> bool {
        self.enabled(name) && self.registry.find(name).is_some()
    }

    /// Checks the plugins of an object and fills their defaults. Texts: apisix/plugin.lua,
    /// `check_single_plugin_schema`.
    pub fn check(
        &self,
        plugins: &mut Map<String, Value>,
        kind: SchemaType,
        unknown: Unknown,
    ) -> Result<(), String> {
        plugins.iter_mut().try_for_each(|(name, conf)| self.check_one(name, conf, kind, unknown))
    }

    /// Checks one plugin's configuration.
    pub fn check_one(
        &self,
        name: &str,
        conf: &mut Value,
        kind: SchemaType,
        unknown: Unknown,
    ) -> Result<(), String> {
        // Lua knows one kind of table, so `[]` passes for an object there.
        if !conf.is_object() && !conf.as_array().is_some_and(Vec::is_empty) {
            return Err(format!("invalid plugin conf {conf} for plugin [{name}]"));
        }
        if !self.usable(name) {
            let pass = match unknown {
                Unknown::Refuse => false,
                Unknown::RefuseDisabled => self.enabled(name),
                Unknown::Skip => true,
            };
            return if pass { Ok(()) } else { Err(format!("unknown plugin [{name}]")) };
        }
        if let Err(why) = self.registry.check(name, conf, kind) {
            if !is_disabled(conf) {
                return Err(format!("failed to check the configuration of plugin {name} err: {why}"));
            }
            log::warn!("failed to check the configuration of disabled plugin {name}, accepting it anyway");
        }
        let filter = conf.pointer("/_meta/filter");
        match filter.map(Expr::compile) {
            Some(Err(why)) => Err(format!("failed to validate the 'vars' expression: {why}")),
            _ => Ok(()),
        }
    }

    /// Encrypts the secret fields of an object's plugins.
    pub fn encrypt(&self, plugins: &mut Map<String, Value>, kind: SchemaType) {
        for (name, conf) in plugins {
            self.encrypt_one(name, conf, kind);
        }
    }

    /// Encrypts the secret fields of one plugin's configuration.
    pub fn encrypt_one(&self, name: &str, conf: &mut Value, kind: SchemaType) {
        if self.encrypts_fields {
            self.keyring.encrypt_fields(conf, self.secret_fields(name, kind));
        }
    }

    /// Decrypts the secret fields of an object's plugins.
    pub fn decrypt(&self, plugins: &mut Map<String, Value>, kind: SchemaType) {
        for (name, conf) in plugins {
            self.decrypt_one(name, conf, kind);
        }
    }

    /// Decrypts the secret fields of one plugin's configuration.
    pub fn decrypt_one(&self, name: &str, conf: &mut Value, kind: SchemaType) {
        if self.encrypts_fields {
            self.keyring.decrypt_fields(conf, self.secret_fields(name, kind));
        }
    }

    fn secret_fields(&self, name: &str, kind: SchemaType) -> &'static [&'static str] {
        let Some(spec) = self.registry.find(name) else { return &[] };
        match kind {
            SchemaType::Plain => spec.encrypt_fields,
            // A plugin without a consumer's part of its own has its plain one there.
            SchemaType::Consumer if !spec.consumer_schema => spec.encrypt_fields,
            SchemaType::Consumer => spec.consumer_encrypt_fields,
            SchemaType::Metadata => &[],
        }
    }
}

/// `_meta.disable: true`, or `disable: true` as APISIX 2.x wrote it.
fn is_disabled(conf: &Value) -> bool {
    let flag = conf.pointer("/_meta/disable").or_else(|| conf.get("disable"));
    flag.and_then(Value::as_bool).unwrap_or(false)
}
