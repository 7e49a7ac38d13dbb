//! Consumers as auth plugins find them: by the key of their credential.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use serde_json::Value;

use super::Registry;
use crate::exchange::Known;
use crate::model::{Consumer, Id, Stored};

/// A consumer found by its credential.
#[derive(Clone)]
pub struct Found {
    /// Who it is.
    pub known: Known,
    /// The auth plugin's part of its configuration.
    pub auth: Rc<Value>,
}

/// The consumers of one core, by auth plugin and key. A change of one consumer costs its own keys.
pub struct Consumers {
    registry: Arc<Registry>,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    by_key: AHashMap<&'static str, AHashMap<Box<str>, Found>>,
    by_name: AHashMap<Box<str>, Known>,
    keys_of: AHashMap<Id, Vec<(&'static str, Box<str>)>>,
}

impl Consumers {
    /// None yet.
    pub fn new(registry: Arc<Registry>) -> Self {
        Consumers { registry, inner: RefCell::default() }
    }

    /// The consumer whose `plugin` credential has this key.
    pub fn find(&self, plugin: &'static str, key: &str) -> Option<Found> {
        self.inner.borrow().by_key.get(plugin)?.get(key).cloned()
    }

    /// The consumer of this name (`anonymous_consumer`).
    pub fn by_name(&self, name: &str) -> Option<Known> {
        self.inner.borrow().by_name.get(name).cloned()
    }

    /// A consumer, or one of its credentials, is new or changed.
    pub fn put(&self, consumer: &Arc<Stored<Consumer>>) {
        self.remove(&consumer.id);
        let known = Known { consumer: consumer.clone(), credential: consumer.value.credential_id.clone() };
        let mut inner = self.inner.borrow_mut();
        for (name, conf) in &consumer.value.plugins {
            let Some(spec) = self.registry.get(name).map(|entry| entry.spec) else { continue };
            let Some(key) = spec.consumer_key.and_then(|field| conf.get(field)).and_then(Value::as_str)
            else {
                continue;
            };
            let found = Found { known: known.clone(), auth: Rc::new(conf.clone()) };
            inner.keys_of.entry(consumer.id.clone()).or_default().push((spec.name, key.into()));
            inner.by_key.entry(spec.name).or_default().insert(key.into(), found);
        }
        if consumer.value.credential_id.is_none() {
            inner.by_name.insert(consumer.value.username.clone(), known);
        }
    }

    /// A consumer or credential is gone.
    pub fn remove(&self, id: &Id) {
        let mut inner = self.inner.borrow_mut();
        for (plugin, key) in inner.keys_of.remove(id).unwrap_or_default() {
            if let Some(keys) = inner.by_key.get_mut(plugin) {
                keys.remove(&key);
            }
        }
        inner.by_name.remove(&**id);
    }
}
