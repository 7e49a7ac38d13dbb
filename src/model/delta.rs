//! What changed in the configuration, on its way from control to the cores.

use std::sync::Arc;

use serde_json::Value;

use super::{Consumer, Id, Kind, PluginBundle, Route, Service, Stored, StreamRoute, Upstream};

/// An object behind the one `Arc` that the whole process shares.
#[derive(Clone, Debug)]
pub enum Object {
    /// A route.
    Route(Arc<Stored<Route>>),
    /// A stream route.
    StreamRoute(Arc<Stored<StreamRoute>>),
    /// A service.
    Service(Arc<Stored<Service>>),
    /// An upstream.
    Upstream(Arc<Stored<Arc<Upstream>>>),
    /// A consumer. Each credential of a consumer is one more, with the credential's id and plugins
    /// ([`Consumer::credential_id`]).
    Consumer(Arc<Stored<Consumer>>),
    /// A consumer group.
    ConsumerGroup(Arc<Stored<PluginBundle>>),
    /// A global rule.
    GlobalRule(Arc<Stored<PluginBundle>>),
    /// A plugin config.
    PluginConfig(Arc<Stored<PluginBundle>>),
    /// A certificate as written, its private keys decrypted.
    Ssl(Arc<Stored<Value>>),
    /// Metadata of the plugin whose name is the id.
    PluginMetadata(Arc<Stored<Value>>),
}

impl Object {
    /// Its kind and id.
    pub fn place(&self) -> (Kind, &Id) {
        match self {
            Object::Route(o) => (Kind::Route, &o.id),
            Object::StreamRoute(o) => (Kind::StreamRoute, &o.id),
            Object::Service(o) => (Kind::Service, &o.id),
            Object::Upstream(o) => (Kind::Upstream, &o.id),
            Object::Consumer(o) => (Kind::Consumer, &o.id),
            Object::ConsumerGroup(o) => (Kind::ConsumerGroup, &o.id),
            Object::GlobalRule(o) => (Kind::GlobalRule, &o.id),
            Object::PluginConfig(o) => (Kind::PluginConfig, &o.id),
            Object::Ssl(o) => (Kind::Ssl, &o.id),
            Object::PluginMetadata(o) => (Kind::PluginMetadata, &o.id),
        }
    }

    /// The store's revision of its last change.
    pub fn modify_revision(&self) -> i64 {
        match self {
            Object::Route(o) => o.modify_revision,
            Object::StreamRoute(o) => o.modify_revision,
            Object::Service(o) => o.modify_revision,
            Object::Upstream(o) => o.modify_revision,
            Object::Consumer(o) => o.modify_revision,
            Object::ConsumerGroup(o) | Object::GlobalRule(o) | Object::PluginConfig(o) => o.modify_revision,
            Object::Ssl(o) => o.modify_revision,
            Object::PluginMetadata(o) => o.modify_revision,
        }
    }
}

/// One change.
#[derive(Clone, Debug)]
pub enum Delta {
    /// The object is new, or replaces the one of its kind and id.
    Put(Object),
    /// The object is gone. A consumer's credential has the id `<consumer>/credentials/<id>`.
    Delete(Kind, Id),
    /// The operator's list of enabled plugins.
    Plugins(Arc<[Box<str>]>),
    /// The operator's list of enabled plugins of stream routes.
    StreamPlugins(Arc<[Box<str>]>),
    /// `plugin_attr` of config.yaml, read again.
    PluginAttr(Arc<Value>),
}

/// Changes that become visible together, and the store's revision that they bring a core to.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The store's revision after them.
    pub revision: i64,
    /// In order.
    pub deltas: Arc<[Delta]>,
}
