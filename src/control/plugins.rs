//! What control asks about plugins: is one enabled, is its configuration right, which of its fields are
//! secret. Three kinds of name (issue of failing closed): enabled and built in; enabled by the operator but
//! missing in this build, which the Admin API refuses and a core answers with 503; and names outside the
//! operator's list, which are skipped as in APISIX.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Map, Value};

use super::encryption::{self, Keyring};
use crate::expr::Expr;
use crate::model::check::PluginFault;
use crate::plugin::meta::is_disabled;
use crate::plugin::{Entry, Registry, SchemaType};

/// The plugins of this node. One a process.
pub struct Plugins {
    registry: Arc<Registry>,
    /// The operator's list.
    enabled: RwLock<HashSet<Box<str>>>,
    /// The plugins of stream routes, and the operator's list of those.
    stream: (Registry, RwLock<HashSet<Box<str>>>),
    keyring: Keyring,
    /// Secret fields are stored encrypted; private keys of certificates always are.
    encrypts_fields: bool,
}

/// What to do with a plugin outside the operator's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// Refuse its object: apisix.yaml.
    RefuseDisabled,
    /// Let it pass: etcd, where another node may have it.
    Skip,
}

impl Plugins {
    /// `enabled` is `plugins` of config.yaml, the rest its `data_encryption`.
    pub fn new(
        registry: Arc<Registry>,
        enabled: impl IntoIterator<Item = impl Into<Box<str>>>,
        keyring: Keyring,
        encrypts_fields: bool,
    ) -> Plugins {
        let enabled = RwLock::new(enabled.into_iter().map(Into::into).collect());
        let stream = (Registry::new(&[]), RwLock::default());
        Plugins { registry, enabled, stream, keyring, encrypts_fields }
    }

    /// With these plugins of stream routes, all disabled at first.
    pub fn with_stream(self, registry: Registry) -> Plugins {
        Plugins { stream: (registry, RwLock::default()), ..self }
    }

    /// The plugins of this build.
    pub fn registry(&self) -> &Registry {
        &self.registry
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

    /// Replaces the operator's list of stream plugins.
    pub fn enable_stream(&self, names: &[String]) {
        let names = names.iter().map(|name| name.as_str().into()).collect();
        *self.stream.1.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The plugins that are enabled and built in, highest priority first: those of stream routes, or the others.
    pub fn usable(&self, of_streams: bool) -> Vec<&Entry> {
        let (registry, enabled) = match of_streams {
            true => (&self.stream.0, &self.stream.1),
            false => (&*self.registry, &self.enabled),
        };
        let enabled = enabled.read().unwrap_or_else(PoisonError::into_inner);
        let specs = registry.by_priority().iter().filter(|spec| enabled.contains(spec.name));
        specs.filter_map(|spec| registry.get(spec.name)).collect()
    }

    /// Whether a plugin of stream routes accepts a configuration; its defaults are filled.
    pub fn stream_accepts(&self, name: &str, conf: &mut Value) -> Result<(), PluginFault> {
        let usable = self.usable(true);
        let entry = usable.into_iter().find(|entry| entry.spec.name == name).ok_or(PluginFault::Unknown)?;
        entry.check(conf, SchemaType::Plain).map_err(PluginFault::Refused)
    }

    /// Checks the plugins of a stream route that comes from a store, and fills their defaults. What passes without being
    /// known is left to the cores: they skip what is not enabled, and open no route for what this build lacks.
    pub fn check_stream(&self, plugins: &mut Map<String, Value>, unknown: Unknown) -> Result<(), String> {
        for (name, conf) in plugins {
            match self.stream_accepts(name, conf) {
                Ok(()) => {}
                Err(PluginFault::Unknown) if unknown == Unknown::Skip || self.stream_enabled(name) => {}
                Err(PluginFault::Unknown) => return Err(format!("unknown plugin [{name}]")),
                Err(PluginFault::Refused(why)) => {
                    return Err(format!(
                        "failed to check the configuration of stream plugin [{name}]: {why}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn stream_enabled(&self, name: &str) -> bool {
        self.stream.1.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// The operator's list of stream plugins.
    pub fn stream_list(&self) -> Arc<[Box<str>]> {
        self.stream.1.read().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Is it in the operator's list?
    pub fn enabled(&self, name: &str) -> bool {
        self.enabled.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// The operator's list.
    pub fn list(&self) -> Arc<[Box<str>]> {
        self.enabled.read().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// What the operator has enabled and this build has not, by name.
    pub fn missing(&self) -> Vec<Box<str>> {
        let enabled = self.enabled.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<_> =
            enabled.iter().filter(|name| self.registry.get(name).is_none()).cloned().collect();
        names.sort_unstable();
        names
    }

    /// One line for each plugin in use, in the order in which they run: what the basic debug mode shows.
    pub fn log_order(&self) {
        for spec in self.registry.by_priority().iter().filter(|spec| self.enabled(spec.name)) {
            log::warn!("loaded plugin and sort by priority: {} name: {}", spec.priority, spec.name);
        }
    }

    /// Whether a plugin accepts a configuration; its defaults are filled. Only what is enabled and built in
    /// is known, but for metadata, which may be there before its plugin is enabled.
    pub fn accepts(&self, name: &str, conf: &mut Value, kind: SchemaType) -> Result<(), PluginFault> {
        let entry = self.registry.get(name);
        let entry = entry.filter(|_| kind == SchemaType::Metadata || self.enabled(name));
        entry.ok_or(PluginFault::Unknown)?.check(conf, kind).map_err(PluginFault::Refused)
    }

    /// Checks the plugins of an object that comes from a store, and fills their defaults. A plugin that is
    /// enabled but missing in this build passes: a core answers for it. Texts: apisix/plugin.lua,
    /// `check_single_plugin_schema`.
    pub fn check(
        &self,
        plugins: &mut Map<String, Value>,
        kind: SchemaType,
        unknown: Unknown,
    ) -> Result<(), String> {
        for (name, conf) in plugins {
            // Lua knows one kind of table, so `[]` passes for an object there.
            if !conf.is_object() && !conf.is_array() {
                return Err(format!("invalid plugin conf {conf} for plugin [{name}]"));
            }
            match self.accepts(name, conf, kind) {
                Ok(()) => {}
                Err(PluginFault::Unknown) if unknown == Unknown::Skip || self.enabled(name) => {}
                Err(PluginFault::Unknown) => return Err(format!("unknown plugin [{name}]")),
                Err(PluginFault::Refused(why)) if is_disabled(conf) => {
                    log::warn!(
                        "the configuration of disabled plugin {name} is wrong, accepted anyway: {why}"
                    );
                }
                Err(PluginFault::Refused(why)) => {
                    return Err(format!("failed to check the configuration of plugin {name} err: {why}"));
                }
            }
            if let Some(filter) = conf.pointer("/_meta/filter") {
                Expr::compile(filter)
                    .map_err(|why| format!("failed to validate the 'vars' expression: {why}"))?;
            }
        }
        Ok(())
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

    /// Puts asterisks in the place of the secret fields of an object's plugins, for who may look but not know.
    pub fn hide_secrets(&self, plugins: &mut Map<String, Value>, kind: SchemaType) {
        for (name, conf) in plugins {
            encryption::hide_fields(conf, self.secret_fields(name, kind));
        }
    }

    fn secret_fields(&self, name: &str, kind: SchemaType) -> &'static [&'static str] {
        let Some(spec) = self.registry.get(name).map(|entry| entry.spec) else { return &[] };
        match kind {
            SchemaType::Plain => spec.encrypt_fields,
            // A plugin without a consumer's part of its own has its plain one there.
            SchemaType::Consumer if spec.consumer_schema.is_none() => spec.encrypt_fields,
            SchemaType::Consumer => spec.consumer_encrypt_fields,
            SchemaType::Metadata => &[],
        }
    }
}
