//! From the store's changes to what the cores are told: every object is decrypted, checked and made into its
//! typed form here, once a process. What is wrong with one is logged and leaves the others working; what it was before
//! stays in use.

mod model;
mod versions;

use std::collections::{BTreeSet, HashSet};
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ScopedJoinHandle};

pub use model::Model;
use model::Read;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};

use super::plugin_lists::Lists;
use super::plugins::{Plugins, Unknown};
use super::secrets::Resolver;
use super::secrets::managers::Managers;
use super::store::{Change, Event};
use crate::limits;
use crate::model::check::PluginFault;
use crate::model::delta::{Batch, Delta, Object};
use crate::model::schemas::secret_schema;
use crate::model::{Id, Kind, Stored, parse};
use crate::plugin::SchemaType;

/// Tells the cores. It must not fail and not wait: what a core cannot take yet is kept for it.
pub type Publish = Box<dyn Fn(Batch) + Send>;

/// The process's configuration, and the way it takes in changes.
pub struct Feed {
    plugins: Arc<Plugins>,
    /// What happens to plugins outside the operator's list.
    unknown: Unknown,
    /// `/plugins` of the store replaces the operator's list: nodes without an Admin API (apisix/plugin.lua,
    /// `init_plugins_syncer`).
    follow_plugin_list: bool,
    /// See [`Feed::of_files`].
    drops_wrong: bool,
    model: Mutex<Model>,
    revision: watch::Sender<i64>,
    /// A list of plugins that the cores have not been told yet.
    new_list: Mutex<Vec<Delta>>,
    list_is_new: Notify,
    secrets: Managers,
    /// Keys of objects whose secrets are others now.
    outdated: Mutex<BTreeSet<Box<str>>>,
    some_are_outdated: Notify,
}

/// The key of the operator's list of plugins.
const PLUGIN_LIST: &str = "/plugins";

/// One plugin of the operator's list in the store.
#[derive(serde::Deserialize)]
struct Listed {
    name: Box<str>,
    #[serde(default)]
    stream: bool,
}

impl Feed {
    /// An empty configuration.
    pub fn new(plugins: Arc<Plugins>, unknown: Unknown, follow_plugin_list: bool) -> Feed {
        let (revision, _) = watch::channel(0);
        Feed {
            plugins,
            unknown,
            follow_plugin_list,
            drops_wrong: false,
            model: Mutex::default(),
            revision,
            new_list: Mutex::default(),
            list_is_new: Notify::new(),
            secrets: Managers::default(),
            outdated: Mutex::default(),
            some_are_outdated: Notify::new(),
        }
    }

    /// The configuration of a file, which counts as a whole: an object that is wrong in it is not in use, whatever it was in
    /// the file before (apisix/core/config_yaml.lua). In a store that others write to, the last one that was right stays
    /// (apisix/core/config_etcd.lua, `sync_data`).
    #[must_use]
    pub fn of_files(self) -> Feed {
        Feed { drops_wrong: true, ..self }
    }

    /// All there is, for cores that know nothing yet. `model` is this feed's own, held: what is published later comes
    /// on top.
    pub fn everything(&self, model: &Model) -> Batch {
        let lists = [Delta::Plugins(self.plugins.list()), Delta::StreamPlugins(self.plugins.stream_list())];
        let objects = Kind::ALL.into_iter().flat_map(|kind| model.of_kind(kind)).cloned().map(Delta::Put);
        Batch { revision: self.revision(), deltas: lists.into_iter().chain(objects).collect() }
    }

    /// The configuration as it is now. Not to be held over an await.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision that has been published.
    pub fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Returns once `revision` has been published.
    pub async fn reached(&self, revision: i64) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.revision.subscribe().wait_for(|published| *published >= revision).await;
    }

    /// Whether the list of plugins in force is the store's, which one in config.yaml does not replace.
    pub fn list_is_of_store(&self) -> bool {
        self.follow_plugin_list && self.model().knows(PLUGIN_LIST)
    }

    /// Replaces the operator's lists of plugins, here and on the cores, and what he says to them.
    pub fn enable_plugins(&self, lists: &Lists) {
        self.plugins.enable_stream(&lists.stream);
        let names: Arc<[Box<str>]> = lists.http.iter().map(|name| name.as_str().into()).collect();
        self.plugins.enable(names.iter().cloned());
        let stream = Delta::StreamPlugins(self.plugins.stream_list());
        let deltas = vec![Delta::PluginAttr(lists.attr.clone()), Delta::Plugins(names), stream];
        *self.new_list.lock().unwrap_or_else(PoisonError::into_inner) = deltas;
        self.list_is_new.notify_one();
    }

    /// Takes events in until the store ends. A whole load of 100,000 objects must not keep the control thread from
    /// its other work: it is taken in by slices.
    pub async fn run(&self, mut events: mpsc::Receiver<Event>, publish: Publish) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = self.list_is_new.notified() => {
                    let (changes, mut deltas) = self.new_list();
                    self.apply_in_slices(changes, &mut deltas).await;
                    publish(Batch { revision: self.revision(), deltas: deltas.into() });
                    continue;
                }
                () = self.some_are_outdated.notified() => {
                    let mut deltas = Vec::new();
                    self.apply_outdated(&mut deltas);
                    publish(Batch { revision: self.revision(), deltas: deltas.into() });
                    continue;
                }
            };
            let Some(event) = event else { return };
            let (changes, mut deltas, revision) = self.news(event);
            self.apply_in_slices(changes, &mut deltas).await;
            publish(Batch { revision, deltas: deltas.into() });
            // A wiped etcd counts from the beginning again, so this may go down.
            self.revision.send_replace(revision);
        }
    }

    async fn apply_in_slices(&self, changes: Vec<Change>, deltas: &mut Vec<Delta>) {
        let mut changes = changes.into_iter();
        while changes.len() > 0 {
            self.apply(changes.by_ref().take(limits::FEED_SLICE).collect(), deltas);
            tokio::task::yield_now().await;
        }
    }

    /// The list that was enabled last, for the cores, and the objects that have to be judged by it.
    fn new_list(&self) -> (Vec<Change>, Vec<Delta>) {
        let deltas = std::mem::take(&mut *self.new_list.lock().unwrap_or_else(PoisonError::into_inner));
        (self.model().document(), deltas)
    }

    /// Takes in at once what [`Feed::enable_plugins`] has changed.
    #[cfg(test)]
    pub fn take_list(&self) -> Batch {
        let (changes, mut deltas) = self.new_list();
        self.apply(changes, &mut deltas);
        Batch { revision: self.revision(), deltas: deltas.into() }
    }

    /// Takes one event in at once.
    #[cfg(test)]
    pub fn take(&self, event: Event) -> Batch {
        let (changes, mut deltas, revision) = self.news(event);
        self.apply(changes, &mut deltas);
        Batch { revision, deltas: deltas.into() }
    }

    /// What an event says that is new, and the store's revision after it. A list of plugins decides how the other
    /// objects are judged: it counts from now on. Those of a file that were judged by another one are judged again, for
    /// an object whose plugin is not in the list must not be served without it (apisix/core/config_yaml.lua checks all
    /// at each change of the file).
    fn news(&self, event: Event) -> (Vec<Change>, Vec<Delta>, i64) {
        let mut model = self.model();
        let (mut changes, revision) = match event {
            Event::Changes { changes, revision } => (changes, revision),
            Event::Snapshot { entries, revision } => (model.changes_to(entries, revision), revision),
        };
        changes.retain(|change| model.is_news(change));
        let (lists, changes): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| &*change.key == PLUGIN_LIST);
        let lists = lists.iter().filter_map(|change| self.plugin_list(change.value.as_deref()));
        let lists: Vec<Delta> = lists.flatten().collect();
        let mut all = if lists.is_empty() { Vec::new() } else { model.document() };
        let changed: HashSet<&str> = changes.iter().map(|change| &*change.key).collect();
        all.retain(|change| !changed.contains(&*change.key));
        all.extend(changes);
        (all, lists, revision)
    }

    /// Takes changes in.
    fn apply(&self, changes: Vec<Change>, deltas: &mut Vec<Delta>) {
        let read = self.read_all(&changes);
        let mut model = self.model();
        for (change, read) in changes.into_iter().zip(read) {
            let Some(mut read) = read else { continue };
            if read.kind == Kind::Secret {
                self.configure_manager(&change, &mut read);
            }
            let key = change.key.clone();
            deltas.extend(model.place(change, read, self.drops_wrong));
            self.secrets.hold(&key, model.versions.references(&key));
        }
    }

    /// An object of `/secrets` counts here and on no core. One that is wrong leaves the last right one in use, as all do.
    fn configure_manager(&self, change: &Change, read: &mut Read) {
        let described = read.object.is_some().then(|| described(change)).transpose();
        if described.is_ok() || self.drops_wrong {
            self.secrets.configure(&read.id, described.as_ref().ok().cloned().flatten());
        }
        read.object = Some(described.map(|_| None));
    }

    /// What secret managers say, and when they are asked: [`Managers::follow`].
    pub fn secrets(&self) -> &Managers {
        &self.secrets
    }

    /// Takes these objects in again: their secrets are others.
    pub fn take_again(&self, keys: BTreeSet<Box<str>>) {
        self.outdated.lock().unwrap_or_else(PoisonError::into_inner).extend(keys);
        self.some_are_outdated.notify_one();
    }

    /// Takes objects in again whose secrets are others: the newest version of each and, where that is wrong, the one
    /// that is in use.
    fn apply_outdated(&self, deltas: &mut Vec<Delta>) {
        let keys = std::mem::take(&mut *self.outdated.lock().unwrap_or_else(PoisonError::into_inner));
        let newest = keys.iter().filter_map(|key| self.model().versions.newest(key).cloned()).collect();
        self.apply(newest, deltas);
        let behind = |key| self.model().versions.behind_a_wrong_one(key).cloned();
        let behind: Vec<Change> = keys.iter().map(|key| &**key).filter_map(behind).collect();
        let read = self.read_all(&behind);
        let mut model = self.model();
        for (change, read) in behind.iter().zip(read) {
            deltas.extend(read.and_then(|read| model.renew(&change.key, read)));
        }
    }

    /// Takes in at once what [`Feed::take_again`] was told.
    #[cfg(test)]
    pub fn take_outdated(&self) -> Batch {
        let mut deltas = Vec::new();
        self.apply_outdated(&mut deltas);
        Batch { revision: self.revision(), deltas: deltas.into() }
    }

    /// Reads the objects of all changes. Many, as at the start, are shared out among threads; what these start
    /// with is the priority of this one, which stands back behind the cores.
    fn read_all(&self, changes: &[Change]) -> Vec<Option<Read>> {
        let read = |part: &[Change]| part.iter().map(|change| self.read(change)).collect::<Vec<_>>();
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = share_of(threads, changes.len());
        if changes.len() <= share {
            return read(changes);
        }
        thread::scope(|scope| {
            let parts: Vec<_> = changes.chunks(share).map(|part| scope.spawn(move || read(part))).collect();
            let join = |part: ScopedJoinHandle<'_, Vec<Option<Read>>>| {
                part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            parts.into_iter().flat_map(join).collect()
        })
    }

    fn read(&self, change: &Change) -> Option<Read> {
        let (kind, id) = Kind::of_key(change.key.trim_start_matches('/'))?;
        let id: Id = id.into();
        let mut resolver = Resolver {
            owner: &change.key,
            env: &|name| std::env::var(name).ok(),
            managers: &self.secrets,
            met: Vec::new(),
        };
        let object = change.value.as_deref();
        let object = object.map(|value| self.object(kind, &id, value, change, &mut resolver));
        let references = resolver.met;
        Some(Read {
            kind: if kind == Kind::Credential { Kind::Consumer } else { kind },
            id,
            object,
            references,
        })
    }

    fn object(
        &self,
        kind: Kind,
        id: &Id,
        value: &[u8],
        change: &Change,
        secrets: &mut Resolver<'_>,
    ) -> Result<Option<Object>, String> {
        let mut value: Value = serde_json::from_slice(value).map_err(|e| format!("it is no JSON: {e}"))?;
        if !value.is_object() {
            return Err(format!("it should be an object, val: {value}"));
        }
        match kind {
            Kind::PluginMetadata => {
                // It may be enabled later, without its metadata being written again.
                if self.plugins.registry().get(id).is_none() {
                    return Ok(None);
                }
                self.plugins.decrypt_one(id, &mut value, SchemaType::Metadata);
                if let Err(PluginFault::Refused(why)) =
                    self.plugins.accepts(id, &mut value, SchemaType::Metadata)
                {
                    return Err(why);
                }
            }
            _ => {
                if let Some(Value::Object(plugins)) = value.get_mut("plugins") {
                    let schema = match kind {
                        Kind::Consumer | Kind::Credential => SchemaType::Consumer,
                        _ => SchemaType::Plain,
                    };
                    self.plugins.decrypt(plugins, schema);
                    match kind {
                        Kind::StreamRoute => self.plugins.check_stream(plugins, self.unknown)?,
                        _ => self.plugins.check(plugins, schema, self.unknown)?,
                    }
                }
            }
        }
        self.reveal(kind, &mut value, secrets);
        let place = Stored {
            id: id.clone(),
            create_revision: change.create_revision,
            modify_revision: change.mod_revision,
            value: (),
        };
        parse::object(kind, place, value)
    }

    /// Private keys are decrypted, and secrets put in the place of their references.
    fn reveal(&self, kind: Kind, value: &mut Value, secrets: &mut Resolver<'_>) {
        let decrypt = |key: &mut Value| self.plugins.keyring().decrypt_private_key(key);
        let mut resolve = |conf: &mut Value| secrets.resolve(conf);
        if kind == Kind::Ssl {
            value.get_mut("key").into_iter().for_each(decrypt);
            value.get_mut("keys").and_then(Value::as_array_mut).into_iter().flatten().for_each(decrypt);
            resolve(value);
        } else {
            client_key(value).into_iter().for_each(decrypt);
            value.get_mut("upstream").and_then(client_key).into_iter().for_each(decrypt);
            value.get_mut("plugins").into_iter().for_each(&mut resolve);
            value.get_mut("tls").into_iter().for_each(&mut resolve);
            value.pointer_mut("/upstream/tls").into_iter().for_each(&mut resolve);
        }
    }

    /// `/plugins`: `[{"name": "key-auth"}, {"name": "mqtt-proxy", "stream": true}]`
    fn plugin_list(&self, value: Option<&[u8]>) -> Option<[Delta; 2]> {
        if !self.follow_plugin_list {
            return None;
        }
        let list = serde_json::from_slice::<Vec<Listed>>(value?);
        let list =
            list.map_err(|why| log::error!("failed to check item data of [/plugins] err: {why}")).ok()?;
        let (stream, http): (Vec<Listed>, Vec<Listed>) = list.into_iter().partition(|item| item.stream);
        self.plugins.enable_stream(&stream.into_iter().map(|item| item.name.into()).collect::<Vec<_>>());
        let names: Vec<Box<str>> = http.into_iter().map(|item| item.name).collect();
        self.plugins.enable(names.iter().cloned());
        Some([Delta::Plugins(names.into()), Delta::StreamPlugins(self.plugins.stream_list())])
    }
}

/// How many of so many changes one of `threads` reads.
fn share_of(threads: usize, changes: usize) -> usize {
    changes.div_ceil(threads).max(limits::READ_BY_ONE_THREAD)
}

/// The private key with which an upstream, or what looks like one, is spoken to.
fn client_key(upstream: &mut Value) -> Option<&mut Value> {
    upstream.get_mut("tls")?.get_mut("client_key")
}

/// The object of a secret manager (apisix/secret.lua, `check_secret`).
fn described(change: &Change) -> Result<Value, String> {
    let mut conf: Value = serde_json::from_slice(change.value.as_deref().unwrap_or_default())
        .map_err(|error| format!("it is no JSON: {error}"))?;
    let manager = change.key.trim_start_matches("/secrets/").split('/').next().unwrap_or_default();
    let schema =
        secret_schema(manager).ok_or_else(|| format!("secret manager not exits, manager: {manager}"))?;
    schema.validate(&mut conf).map(|()| conf)
}

#[cfg(test)]
mod tests;
