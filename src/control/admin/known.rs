//! What the checks of [`crate::model::check`] ask of the rest of the gateway. They are pure and ask at once, so
//! what they will want from the store is fetched first.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value};

use super::AdminState;
use crate::control::store::{Error, Store};
use crate::expr::Expr;
use crate::limits;
use crate::model::check::{Lookups, PluginFault, PluginSchema};
use crate::model::delta::Object;
use crate::model::{Id, Kind, Plugins, id_text};
use crate::plugin::SchemaType;
use crate::stream::protocols;

/// Members of an object that refer to others.
const REFERENCES: [(&str, Kind); 7] = [
    ("/upstream_id", Kind::Upstream),
    ("/service_id", Kind::Service),
    ("/plugin_config_id", Kind::PluginConfig),
    ("/group_id", Kind::ConsumerGroup),
    ("/tls/client_cert_id", Kind::Ssl),
    ("/upstream/tls/client_cert_id", Kind::Ssl),
    ("/protocol/superior_id", Kind::StreamRoute),
];

/// The world as one check sees it. References and global rules are the store's. Consumers and whoever refers
/// to an object that is to be deleted are looked for among what the gateway runs with, as in APISIX.
pub struct Known<'a> {
    state: &'a AdminState,
    fetched: HashMap<(Kind, Id), Value>,
    listed: HashMap<Kind, Vec<(String, Value)>>,
    /// What is checked stands alone: in a document that replaces everything, or that nobody writes.
    alone: bool,
}

impl<'a> Known<'a> {
    fn new(state: &'a AdminState) -> Known<'a> {
        Known { state, fetched: HashMap::new(), listed: HashMap::new(), alone: false }
    }

    /// For checking a whole document: its objects are not compared with those that the gateway runs with.
    pub fn of_document(state: &'a AdminState) -> Known<'a> {
        let listed = HashMap::from([(Kind::GlobalRule, Vec::new())]);
        Known { listed, alone: true, ..Known::new(state) }
    }

    /// For writing an object of a kind.
    pub async fn for_write(state: &'a AdminState, kind: Kind, conf: &Value) -> Result<Known<'a>, Error> {
        if matches!(kind, Kind::Consumer | Kind::Credential) {
            catch_up(state).await;
        }
        let mut known = Known::new(state);
        for (pointer, of) in REFERENCES {
            let Some(id) = conf.pointer(pointer).and_then(id_text) else { continue };
            if let Some(entry) = state.store.get(&format!("/{}/{id}", of.directory())).await? {
                known.fetched.insert((of, id), serde_json::from_slice(&entry.value).unwrap_or_default());
            }
        }
        if kind == Kind::GlobalRule {
            known.listed.insert(kind, list(&state.store, kind).await?);
        }
        Ok(known)
    }

    /// For deleting an object of a kind.
    pub async fn for_delete(state: &'a AdminState, kind: Kind) -> Result<Known<'a>, Error> {
        catch_up(state).await;
        let mut known = Known::new(state);
        if matches!(kind, Kind::Service | Kind::StreamRoute) {
            known.listed.insert(Kind::StreamRoute, list(&state.store, Kind::StreamRoute).await?);
        }
        Ok(known)
    }
}

/// Lets what runs catch up with the last write made here, so that a reference or a key just written counts; if
/// it does not in time, the check is as weak as APISIX's.
async fn catch_up(state: &AdminState) {
    let written = state.written.load(Ordering::Relaxed);
    let patience = Duration::from_millis(limits::ADMIN_CATCH_UP_MS);
    let _ = tokio::time::timeout(patience, state.feed.reached(written)).await;
}

async fn list(store: &Store, kind: Kind) -> Result<Vec<(String, Value)>, Error> {
    let directory = format!("/{}/", kind.directory());
    let entries = store.list(directory.trim_end_matches('/')).await?.entries;
    let parsed = entries.into_iter().filter_map(|entry| {
        let id = entry.key.strip_prefix(&*directory)?.to_owned();
        Some((id, serde_json::from_slice(&entry.value).ok()?))
    });
    Ok(parsed.collect())
}

impl Lookups for Known<'_> {
    fn get(&self, kind: Kind, id: &str) -> Option<Value> {
        self.fetched.get(&(kind, id.into())).cloned()
    }

    fn checks_references(&self) -> bool {
        !self.alone
    }

    fn each(&self, kind: Kind, visit: &mut dyn FnMut(&str, &Value)) {
        for (id, value) in self.listed.get(&kind).into_iter().flatten() {
            visit(id, value);
        }
        if self.listed.contains_key(&kind) {
            return;
        }
        let model = self.state.feed.model();
        let place = if kind == Kind::Credential { Kind::Consumer } else { kind };
        for object in model.of_kind(place) {
            let is_credential = matches!(object, Object::Consumer(o) if o.value.credential_id.is_some());
            if is_credential == (kind == Kind::Credential) {
                visit(object.place().1, &outline(object));
            }
        }
    }

    fn key_holders(&self, plugin: &str, key: &str) -> Vec<String> {
        if self.alone {
            return Vec::new();
        }
        self.state.feed.model().key_holders(plugin, key).map(str::to_owned).collect()
    }

    fn check_plugin(&self, name: &str, conf: &Value, schema: PluginSchema) -> Result<(), PluginFault> {
        let kind = match schema {
            PluginSchema::Route => SchemaType::Plain,
            PluginSchema::Consumer => SchemaType::Consumer,
            PluginSchema::Metadata => SchemaType::Metadata,
            PluginSchema::Stream => return self.state.plugins.stream_accepts(name, &mut conf.clone()),
        };
        self.state.plugins.accepts(name, &mut conf.clone(), kind)
    }

    fn check_protocol(&self, name: &str, conf: Option<&Value>) -> Result<(), String> {
        protocols::check(&self.state.protocols, name, conf.cloned().as_mut())
    }

    fn is_auth_plugin(&self, name: &str) -> bool {
        self.state.plugins.registry().get(name).is_some_and(|entry| entry.spec.auth)
    }

    fn check_vars(&self, vars: &Value) -> Result<(), String> {
        Expr::compile(vars).map(drop)
    }

    fn decrypt_key(&self, text: &str) -> Option<String> {
        self.state.plugins.keyring().decrypt(text)
    }
}

/// Of an object that runs, what the checks look at: what it refers to, and the plugins by which objects refer
/// to others. Copying all of 100,000 routes would take seconds.
fn outline(object: &Object) -> Value {
    let mut outline = Map::new();
    let mut refer = |name: &str, id: &Option<Id>| {
        if let Some(id) = id {
            outline.insert(name.into(), Value::String(id.to_string()));
        }
    };
    let plugins: Option<&Plugins> = match object {
        Object::Route(o) => {
            refer("upstream_id", &o.value.upstream_id);
            refer("service_id", &o.value.service_id);
            refer("plugin_config_id", &o.value.plugin_config_id);
            Some(&o.value.plugins)
        }
        Object::Service(o) => {
            refer("upstream_id", &o.value.upstream_id);
            Some(&o.value.plugins)
        }
        Object::Consumer(o) => {
            refer("group_id", &o.value.group_id);
            Some(&o.value.plugins)
        }
        Object::ConsumerGroup(o) | Object::GlobalRule(o) | Object::PluginConfig(o) => Some(&o.value.plugins),
        Object::Upstream(_) | Object::StreamRoute(_) | Object::Ssl(_) | Object::PluginMetadata(_) => None,
    };
    let telling = |name: &str| matches!(name, "traffic-split" | "grpc-transcode");
    let plugins = plugins.into_iter().flatten().filter(|(name, _)| telling(name));
    let plugins: Map<String, Value> = plugins.map(|(name, conf)| (name.clone(), conf.clone())).collect();
    if !plugins.is_empty() {
        outline.insert("plugins".into(), Value::Object(plugins));
    }
    Value::Object(outline)
}
