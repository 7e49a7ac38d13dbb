//! Consumers as auth plugins find them: by the key of their credential.

use std::any::Any;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use serde_json::Value;
use smallvec::SmallVec;

use super::Registry;
use crate::exchange::{Exchange, Known};
use crate::model::schema::is_secret_ref;
use crate::model::{Consumer, Id, Stored};

/// A consumer found by its credential.
#[derive(Clone)]
pub struct Found {
    /// Who it is: this core's own copy, so that a request touches no count that cores share.
    pub known: Rc<Known>,
    /// The auth plugin's part of its configuration.
    pub auth: Rc<Credential>,
}

/// An auth plugin's part of a consumer, or of one of its credential objects. Another one when that changes.
pub struct Credential {
    conf: Value,
    compiled: OnceCell<Box<dyn Any>>,
}

impl Credential {
    /// A configuration that was checked.
    pub fn new(conf: Value) -> Self {
        Credential { conf, compiled: OnceCell::new() }
    }

    /// What was written.
    pub fn conf(&self) -> &Value {
        &self.conf
    }

    /// What the plugin makes of it, made when it is first asked for: parsed keys and such. One type a plugin.
    pub fn compiled<T: Any>(&self, compile: fn(&Value) -> T) -> &T {
        let compiled = self.compiled.get_or_init(|| Box::new(compile(&self.conf)));
        compiled.downcast_ref().unwrap_or_else(|| unreachable!("one type a plugin"))
    }
}

/// The consumers of one core, by auth plugin and key. A change of one consumer costs its own keys.
pub struct Consumers {
    registry: Arc<Registry>,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    /// More than one holder of a key is a mistake that only etcd lets through: the last one counts.
    by_key: Vec<(&'static str, Keys)>,
    by_name: AHashMap<Box<str>, Rc<Known>>,
    keys_of: AHashMap<Id, Vec<OwnKey>>,
}

/// A plugin, and a key there.
type OwnKey = (&'static str, Box<[u8]>);

/// Who holds each key of one plugin.
type Keys = AHashMap<Box<[u8]>, SmallVec<[Holder; 1]>>;

fn keys<'a>(by_key: &'a mut [(&'static str, Keys)], plugin: &str) -> Option<&'a mut Keys> {
    by_key.iter_mut().find(|(name, _)| *name == plugin).map(|(_, keys)| keys)
}

/// Who brought a key: a consumer, or a credential.
struct Holder {
    id: Id,
    found: Found,
}

impl Consumers {
    /// None yet.
    pub fn new(registry: Arc<Registry>) -> Self {
        Consumers { registry, inner: RefCell::default() }
    }

    /// The consumer whose `plugin` credential has this key. Where that is a credential object, it is the
    /// consumer that it belongs to; a credential without its consumer finds nobody.
    pub fn find(&self, plugin: &'static str, key: impl AsRef<[u8]>) -> Option<Found> {
        let inner = &mut *self.inner.borrow_mut();
        let found = &mut keys(&mut inner.by_key, plugin)?.get_mut(key.as_ref())?.last_mut()?.found;
        if let Some(credential) = &found.known.credential {
            let owner = inner.by_name.get(&found.known.consumer.value.username)?;
            if !Arc::ptr_eq(&owner.consumer, &found.known.consumer) {
                let credential = Some(credential.clone());
                found.known = Rc::new(Known::new(owner.consumer.clone(), credential));
            }
        }
        Some(found.clone())
    }

    /// The consumer of this name (`anonymous_consumer`).
    pub fn by_name(&self, name: &str) -> Option<Rc<Known>> {
        self.inner.borrow().by_name.get(name).cloned()
    }

    /// A consumer, or one of its credentials, is new or changed.
    pub fn put(&self, consumer: &Arc<Stored<Consumer>>) {
        self.remove(&consumer.id);
        let known = Rc::new(Known::new(consumer.clone(), consumer.value.credential_id.clone()));
        let mut inner = self.inner.borrow_mut();
        for (name, conf) in &consumer.value.plugins {
            let Some(spec) = self.registry.get(name).map(|entry| entry.spec) else { continue };
            let Some(key) = spec.consumer_key.and_then(|field| conf.get(field)).and_then(Value::as_str)
            else {
                continue;
            };
            if holds_secret_ref(conf) {
                // else a client could authenticate with the text of the reference
                log::error!(
                    "failed to resolve secret reference in consumer auth credential, skipping consumer: {}",
                    consumer.value.username
                );
                continue;
            }
            let found = Found { known: known.clone(), auth: Rc::new(Credential::new(conf.clone())) };
            inner.keys_of.entry(consumer.id.clone()).or_default().push((spec.name, key.as_bytes().into()));
            let holder = Holder { id: consumer.id.clone(), found };
            if keys(&mut inner.by_key, spec.name).is_none() {
                inner.by_key.push((spec.name, Keys::default()));
            }
            if let Some(keys) = keys(&mut inner.by_key, spec.name) {
                keys.entry(key.as_bytes().into()).or_default().push(holder);
            }
        }
        if consumer.value.credential_id.is_none() {
            inner.by_name.insert(consumer.value.username.clone(), known);
        }
    }

    /// A consumer or credential is gone.
    pub fn remove(&self, id: &Id) {
        let mut inner = self.inner.borrow_mut();
        for (plugin, key) in inner.keys_of.remove(id).unwrap_or_default() {
            let Some(keys) = keys(&mut inner.by_key, plugin) else { continue };
            let Some(holders) = keys.get_mut(&key) else { continue };
            holders.retain(|holder| holder.id != *id);
            if holders.is_empty() {
                keys.remove(&key);
            }
        }
        inner.by_name.remove(&**id);
    }
}

/// Makes `known` the exchange's consumer and tells the upstream.
pub fn attach(ex: &mut Exchange, known: Rc<Known>) {
    known.tell(&mut ex.req.head.headers, false);
    ex.consumer = Some(known);
}

/// As [`attach`], for an `anonymous_consumer`, whose custom id APISIX does not send.
pub fn attach_anonymous(ex: &mut Exchange, known: Rc<Known>) {
    known.tell(&mut ex.req.head.headers, true);
    ex.consumer = Some(known);
}

/// Is any value in it, at any depth, a reference to a secret?
fn holds_secret_ref(conf: &Value) -> bool {
    match conf {
        Value::String(text) => is_secret_ref(text),
        Value::Array(items) => items.iter().any(holds_secret_ref),
        Value::Object(fields) => fields.values().any(holds_secret_ref),
        _ => false,
    }
}
