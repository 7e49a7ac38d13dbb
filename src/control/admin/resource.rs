//! What all kinds of object have in common: GET, PUT, POST, PATCH, DELETE (apisix/admin/resource.lua,
//! apisix/core/etcd.lua), and the shapes of their answers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::known::Known;
use super::list::{self, Item};
use super::message::{AdminResponse, Args};
use super::{AdminState, decoration, kind_of, patch};
use crate::control::store::{Entry, Error, Written};
use crate::limits;
use crate::model::check::{self, Verb, check_delete, check_write};
use crate::model::{Kind, id_text};
use crate::plugin::SchemaType;

type Members = Map<String, Value>;

/// What a path names.
#[derive(Debug, PartialEq)]
pub struct Target {
    /// The kind of object.
    pub kind: Kind,
    /// Its directory in the store.
    pub directory: String,
    /// The object; `None` for the whole directory, or where the body tells.
    pub id: Option<String>,
    /// A part of the object, for PATCH.
    pub part: String,
    /// The consumer that a credential belongs to, the service of a decoration.
    pub parent: Option<String>,
}

impl Target {
    /// Reads what follows `/apisix/admin/`. `None` if there is no such resource.
    pub fn of(resource: &str, rest: &[&str]) -> Option<Target> {
        let kind = kind_of(resource)?;
        let some = |step: Option<&&str>| step.filter(|step| !step.is_empty()).map(|step| step.to_string());
        let directory = format!("/{}", kind.directory());
        let target = |kind, directory, id, part: &[&str]| {
            Some(Target { kind, directory, id, part: part.join("/"), parent: None })
        };
        match (kind, rest) {
            (Kind::Consumer, [parent, below @ "credentials", rest @ ..])
            | (Kind::Service, [parent, below @ "graphql_cost_decorations", rest @ ..]) => Some(Target {
                kind: if kind == Kind::Consumer { Kind::Credential } else { Kind::CostDecoration },
                directory: format!("{directory}/{parent}/{below}"),
                id: some(rest.first()),
                part: String::new(),
                parent: Some(parent.to_string()),
            }),
            (Kind::Secret, [manager, id, part @ ..]) if !id.is_empty() => {
                target(kind, directory, Some(format!("{manager}/{id}")), part)
            }
            (Kind::Secret, _) => target(kind, directory, None, &[]),
            (_, [id, part @ ..]) => target(kind, directory, some(Some(id)), part),
            (_, []) => target(kind, directory, None, &[]),
        }
    }

    fn key(&self, id: &str) -> String {
        format!("{}/{id}", self.directory)
    }
}

/// One call of a resource.
pub struct Call<'a> {
    /// The API's world.
    pub state: &'a AdminState,
    /// What it is about.
    pub target: Target,
    /// The query.
    pub args: &'a Args,
    /// `?ttl=`, seconds.
    pub ttl_s: Option<i64>,
    /// Seconds since 1970.
    pub now_s: i64,
}

/// An answer that is an error.
type Refused = AdminResponse;

impl From<Error> for AdminResponse {
    fn from(error: Error) -> AdminResponse {
        AdminResponse::error(503, error.to_string())
    }
}

impl Call<'_> {
    /// Does it.
    pub async fn answer(&self, method: &Method, conf: Option<Value>) -> AdminResponse {
        if unsupported(self.target.kind, method) {
            let title = self.target.kind.title();
            return AdminResponse::error(405, format!("not supported `{method}` method for {title}"));
        }
        let mut conf = conf;
        if self.target.kind == Kind::CostDecoration
            && let Err(refused) = decoration::check(self, method, &mut conf).await
        {
            return refused;
        }
        let result = match *method {
            Method::GET => self.get().await,
            Method::PUT => self.put(conf).await,
            Method::POST => self.post(conf).await,
            Method::PATCH => self.patch(conf).await,
            Method::DELETE => self.delete().await,
            _ => Err(AdminResponse::error(404, "not found")),
        };
        result.unwrap_or_else(|refused| refused)
    }

    fn kind(&self) -> Kind {
        self.target.kind
    }

    /// A 400 that says what is missing.
    fn missing_id(&self) -> Refused {
        AdminResponse::error(400, format!("missing {} id", self.kind().title()))
    }

    async fn get(&self) -> Result<AdminResponse, Refused> {
        match &self.target.id {
            Some(id) => {
                let key = self.target.key(id);
                let Some(entry) = self.state.store.get(&key).await? else { return Ok(not_found()) };
                Ok(self.one("get", self.item(entry), true, 200))
            }
            None => self.list().await,
        }
    }

    async fn list(&self) -> Result<AdminResponse, Refused> {
        let entries = self.state.store.list(&self.target.directory).await?.entries;
        let own = |entry: &Entry| {
            Kind::of_key(entry.key.trim_start_matches('/')).is_some_and(|(k, _)| k == self.kind())
        };
        let items: Vec<Item> = entries.into_iter().filter(own).map(|entry| self.item(entry)).collect();
        if items.is_empty() && self.kind().is_nested() {
            return Ok(not_found()); // no placeholder, so etcd knows no such directory
        }
        let args = if self.state.options().version_2 { &Args::default() } else { self.args };
        let page = match list::select(items, args, self.kind()) {
            Ok(page) => page,
            Err(why) if why.starts_with("page_size") => return Ok(AdminResponse::text(400, why)),
            Err(why) => return Err(AdminResponse::error(400, why)),
        };
        let nodes: Vec<Value> = page.items.into_iter().map(|item| node(item, true)).collect();
        Ok(AdminResponse::json(
            200,
            &if self.state.options().version_2 {
                let key = format!("{}{}", self.state.store.prefix(), self.target.directory);
                json!({"action": "get", "node": {"dir": true, "key": key, "nodes": nodes}})
            } else {
                json!({"list": nodes, "total": page.total})
            },
        ))
    }

    async fn put(&self, conf: Option<Value>) -> Result<AdminResponse, Refused> {
        let (id, mut conf) = self.check(Verb::Put, conf).await?;
        let id = id.ok_or_else(|| self.missing_id())?;
        let key = self.target.key(&id);
        if let (Kind::Credential, Some(consumer)) = (self.kind(), &self.target.parent)
            && self.state.store.get(&format!("/consumers/{consumer}")).await?.is_none()
        {
            return Err(AdminResponse::error(404, "consumer not found"));
        }
        if self.kind() == Kind::PluginMetadata {
            conf.insert("id".into(), Value::String(id));
        } else {
            let old = self.state.store.get(&key).await?;
            let old = old.and_then(|old| serde_json::from_slice::<Members>(&old.value).ok());
            let created = old.and_then(|old| old.get("create_time").cloned());
            conf.insert("create_time".into(), created.unwrap_or_else(|| self.now_s.into()));
            conf.insert("update_time".into(), self.now_s.into());
        }
        let written = self.write("set", key, conf, None).await?;
        if self.kind() == Kind::Service && written.status == 201 {
            // What an earlier service of this id left behind does not count for the new one.
            decoration::forget(self.state, self.target.id.as_deref()).await;
        }
        Ok(written)
    }

    async fn post(&self, conf: Option<Value>) -> Result<AdminResponse, Refused> {
        let (_, mut conf) = self.check(Verb::Post, conf).await?;
        conf.insert("create_time".into(), self.now_s.into());
        conf.insert("update_time".into(), self.now_s.into());
        // The revision of this write is an id that no other object ever gets.
        let made = self.state.store.put("/gen_id", Bytes::from_static(b"1"), None, None).await?;
        let id = format!("{:020}", made.revision);
        let key = self.target.key(&id);
        conf.insert("id".into(), Value::String(id));
        self.write("create", key, conf, None).await
    }

    async fn patch(&self, conf: Option<Value>) -> Result<AdminResponse, Refused> {
        let id = self.target.id.as_deref().ok_or_else(|| match self.kind() {
            Kind::Secret => AdminResponse::error(400, "no secret id"),
            _ => self.missing_id(),
        })?;
        let change = conf.ok_or_else(|| AdminResponse::error(400, "missing new configuration"))?;
        let key = self.target.key(id);
        let whole = self.target.part.is_empty();
        if whole && !change.is_object() {
            return Err(AdminResponse::error(400, "invalid configuration"));
        }
        let Some(old) = self.state.store.get(&key).await? else { return Ok(not_found()) };
        let mut value: Members = serde_json::from_slice(&old.value)
            .map_err(|e| AdminResponse::error(503, format!("the stored object is broken: {e}")))?;
        self.decrypt(&mut value);
        let says_when = change.get("update_time").is_some();
        match change {
            Value::Object(change) if whole => patch::merge(&mut value, change),
            part => patch::replace(&mut value, &self.target.part, part)
                .map_err(|why| AdminResponse::error(400, why))?,
        }
        value.entry("create_time").or_insert_with(|| self.now_s.into());
        if !(whole && says_when) {
            value.insert("update_time".into(), self.now_s.into());
        }
        let (_, value) = self.check(Verb::Patch, Some(Value::Object(value))).await?;
        self.write("compareAndSwap", key, value, Some(old.mod_revision)).await
    }

    async fn delete(&self) -> Result<AdminResponse, Refused> {
        let id = self.target.id.as_deref().ok_or_else(|| self.missing_id())?;
        let store = &self.state.store;
        if self.args.get("force") != Some("true") {
            let known = Known::for_delete(self.state, self.kind()).await?;
            check_delete(self.kind(), id, &known).map_err(|why| AdminResponse::error(400, why))?;
        }
        let key = self.target.key(id);
        if self.kind() == Kind::Consumer {
            store.delete_dir(&format!("{key}/credentials")).await?;
        }
        let written = store.delete(&key).await?;
        if !written.existed {
            return Ok(not_found());
        }
        if self.kind() == Kind::Service {
            decoration::forget(self.state, Some(id)).await;
        }
        let mut body = json!({"key": format!("{}{key}", store.prefix()), "deleted": "1"});
        if self.state.options().version_2 {
            body["action"] = "delete".into();
            body["node"] = json!({});
        }
        Ok(self.applied(AdminResponse::json(200, &body), &written).await)
    }

    /// Checks a configuration that is to be written. It comes out with its id and with its secrets encrypted,
    /// but without defaults: APISIX stores what the user wrote.
    async fn check(&self, verb: Verb, conf: Option<Value>) -> Result<(Option<String>, Members), Refused> {
        let mut conf = match conf {
            Some(Value::Bool(false)) | None => Value::Null,
            Some(conf) => conf,
        };
        let (parent, own_id) = match (&self.target.id, self.kind()) {
            (Some(id), Kind::Secret) => {
                id.split_once('/').map_or((None, None), |(m, id)| (Some(m), Some(id)))
            }
            (id, _) => (self.target.parent.as_deref(), id.as_deref()),
        };
        let target = check::Target { kind: self.kind(), id: own_id, parent };
        let known = Known::for_write(self.state, self.kind(), &conf).await?;
        check_write(target, verb, &mut conf, &known).map_err(|why| AdminResponse::error(400, why))?;
        let Value::Object(mut conf) = conf else {
            return Err(AdminResponse::error(400, "invalid configuration"));
        };
        let written = match self.kind() {
            Kind::Consumer => conf.get("username"),
            Kind::PluginMetadata => None,
            _ => conf.get("id"),
        };
        // What a schema accepts as an id has no slash; kinds without a schema get theirs from the path.
        let id = written.and_then(id_text).map(|id| id.to_string()).or_else(|| self.target.id.clone());
        self.encrypt(id.as_deref(), &mut conf);
        Ok((id, conf))
    }

    fn encrypt(&self, id: Option<&str>, conf: &mut Members) {
        let plugins = &self.state.plugins;
        if self.kind() == Kind::PluginMetadata {
            return with_value(conf, |value| {
                plugins.encrypt_one(id.unwrap_or(""), value, SchemaType::Metadata)
            });
        }
        if let Some(Value::Object(confs)) = conf.get_mut("plugins") {
            plugins.encrypt(confs, schema_type(self.kind()));
        }
        let keyring = plugins.keyring();
        with_value(conf, |conf| {
            let pointers: &[&str] = match self.kind() {
                Kind::Ssl => &["/key"],
                _ => &["/tls/client_key", "/upstream/tls/client_key"],
            };
            for pointer in pointers {
                conf.pointer_mut(pointer).into_iter().for_each(|key| keyring.encrypt_private_key(key));
            }
            let more =
                conf.get_mut("keys").filter(|_| self.kind() == Kind::Ssl).and_then(Value::as_array_mut);
            more.into_iter().flatten().for_each(|key| keyring.encrypt_private_key(key));
        });
    }

    async fn write(
        &self,
        action: &str,
        key: String,
        conf: Members,
        expect: Option<i64>,
    ) -> Result<AdminResponse, Refused> {
        let value = Value::Object(conf);
        let stored = Bytes::from(value.to_string());
        let written = self.state.store.put(&key, stored, expect, self.ttl_s).await?;
        let status = if written.existed { 200 } else { 201 };
        let item =
            Item { key: format!("{}{key}", self.state.store.prefix()), value, created: 0, modified: 0 };
        Ok(self.applied(self.one(action, item, false, status), &written).await)
    }

    /// Beyond APISIX: every write tells its revision, and with `?wait=ms` the answer is held back until every
    /// core has applied it, but not longer.
    async fn applied(&self, mut response: AdminResponse, written: &Written) -> AdminResponse {
        self.state.written.fetch_max(written.revision, Ordering::Relaxed);
        response.set("X-Ringway-Revision", written.revision.to_string());
        if let Some(wait_ms) = self.args.get("wait").and_then(|ms| ms.parse::<u64>().ok()) {
            let reached = async {
                self.state.feed.reached(written.revision).await;
                self.state.applied.reached(written.revision).await;
            };
            let patience = Duration::from_millis(wait_ms.min(limits::ADMIN_WAIT_MS));
            let in_time = tokio::time::timeout(patience, reached).await.is_ok();
            response.set("X-Ringway-Applied", if in_time { "true" } else { "false" });
        }
        response
    }

    /// An object as users see it: secrets in the clear, private keys of certificates not at all.
    fn item(&self, entry: Entry) -> Item {
        let mut value = serde_json::from_slice(&entry.value)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&entry.value).into_owned()));
        if let Value::Object(members) = &mut value {
            self.decrypt(members);
            if self.kind() == Kind::Ssl {
                members.shift_remove("key");
                members.shift_remove("keys");
            }
        }
        Item {
            key: format!("{}{}", self.state.store.prefix(), entry.key),
            value,
            created: entry.create_revision,
            modified: entry.mod_revision,
        }
    }

    fn decrypt(&self, conf: &mut Members) {
        let plugins = &self.state.plugins;
        if self.kind() == Kind::PluginMetadata {
            if let Some(name) = conf.get("id").and_then(Value::as_str).map(str::to_owned) {
                with_value(conf, |value| plugins.decrypt_one(&name, value, SchemaType::Metadata));
            }
        } else if let Some(Value::Object(confs)) = conf.get_mut("plugins") {
            plugins.decrypt(confs, schema_type(self.kind()));
        }
    }

    fn one(&self, action: &str, item: Item, indexes: bool, status: u16) -> AdminResponse {
        if self.state.options().version_2 {
            // The older shape has no indexes around a single object (`strip_etcd_resp`).
            return AdminResponse::json(status, &json!({"action": action, "node": node(item, false)}));
        }
        AdminResponse::json(status, &node(item, indexes))
    }
}

fn node(item: Item, indexes: bool) -> Value {
    let mut node = json!({"key": item.key, "value": item.value});
    if indexes {
        node["createdIndex"] = item.created.into();
        node["modifiedIndex"] = item.modified.into();
    }
    node
}

fn not_found() -> AdminResponse {
    AdminResponse::json(404, &json!({"message": "Key not found"}))
}

/// `unsupported_methods` of apisix/admin/*.lua.
fn unsupported(kind: Kind, method: &Method) -> bool {
    match *method {
        Method::POST => matches!(
            kind,
            Kind::Consumer
                | Kind::Credential
                | Kind::GlobalRule
                | Kind::PluginConfig
                | Kind::ConsumerGroup
                | Kind::PluginMetadata
                | Kind::Secret
        ),
        Method::PATCH => matches!(
            kind,
            Kind::Consumer | Kind::Credential | Kind::PluginMetadata | Kind::Proto | Kind::StreamRoute
        ),
        _ => false,
    }
}

/// Which of a plugin's schemas counts inside this kind of object.
fn schema_type(kind: Kind) -> SchemaType {
    match kind {
        Kind::Consumer | Kind::Credential => SchemaType::Consumer,
        _ => SchemaType::Plain,
    }
}

/// Lends an object's members as the value that they are.
fn with_value(conf: &mut Members, change: impl FnOnce(&mut Value)) {
    let mut value = Value::Object(std::mem::take(conf));
    change(&mut value);
    if let Value::Object(changed) = value {
        *conf = changed;
    }
}
