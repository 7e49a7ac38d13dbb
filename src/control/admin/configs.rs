//! A whole configuration in one request: `POST /configs/validate`, and in the API-driven standalone mode
//! `GET`, `PUT` and `HEAD /configs` (apisix/admin/config_validate.lua, standalone.lua).

use std::collections::HashSet;

use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Map, Value, json};

use super::known::Known;
use super::message::{AdminRequest, AdminResponse};
use super::{AdminState, now_s, yaml};
use crate::config;
use crate::control::store::Standalone;
use crate::control::store::document::nothing_is_a_table;
use crate::limits;
use crate::model::check::{self, check_object};
use crate::model::cjson;
use crate::model::{Id, Kind, id_text};

const MODIFIED: &str = "X-Last-Modified";
const DIGEST: &str = "X-Digest";

/// `GET`, `PUT` and `HEAD` of the document in force.
pub fn answer(state: &AdminState, store: &Standalone, request: &AdminRequest) -> AdminResponse {
    let answer = match request.method {
        Method::PUT => put(state, store, request),
        Method::HEAD => Ok(stamped(AdminResponse::empty(200), store)),
        _ => Ok(stamped(get(store, request), store)),
    };
    answer.unwrap_or_else(|why| AdminResponse::error(400, why))
}

/// `POST /configs/validate`: says all that is wrong, changes nothing.
pub fn validate(state: &AdminState, request: &AdminRequest) -> AdminResponse {
    let size = request.body.len();
    if size > limits::ADMIN_BODY_BYTES {
        let most = limits::ADMIN_BODY_BYTES;
        let why = format!("request size {size} is greater than the maximum size {most} allowed");
        return AdminResponse::error(400, format!("invalid request body: {why}"));
    }
    let faults = match document(request) {
        Ok(document) => faults(state, &document),
        Err(why) => return AdminResponse::error(400, why),
    };
    if faults.is_empty() {
        return AdminResponse::json(200, &json!({}));
    }
    let errors: Vec<Value> = faults.into_iter().map(Fault::into_json).collect();
    AdminResponse::json(400, &json!({"error_msg": "Configuration validation failed", "errors": errors}))
}

fn put(state: &AdminState, store: &Standalone, request: &AdminRequest) -> Result<AdminResponse, String> {
    let digest = request.headers.get(DIGEST).and_then(|digest| digest.to_str().ok());
    let digest = digest.ok_or("missing digest header")?;
    let new = document(request)?;
    loop {
        let old = store.document();
        if old.as_ref().is_some_and(|old| old.get(DIGEST).is_some_and(|last| last == digest)) {
            return Ok(AdminResponse::empty(204));
        }
        if let Some(fault) = faults(state, &new).into_iter().next() {
            return Err(fault.error);
        }
        let mut next = merged(old.as_deref(), &new)?;
        next.insert(MODIFIED.into(), now_s().into());
        next.insert(DIGEST.into(), digest.into());
        if store.replace(old.as_ref(), next) {
            return Ok(stamped(AdminResponse::empty(202), store));
        }
    }
}

fn get(store: &Standalone, request: &AdminRequest) -> AdminResponse {
    let document = store.document().map_or_else(nothing_yet, |document| (*document).clone());
    let document = Value::Object(document);
    let wants_yaml =
        request.headers.get(ACCEPT).is_some_and(|a| a.as_bytes().starts_with(b"application/yaml"));
    if wants_yaml {
        let mut answer = AdminResponse::text(200, yaml::text(&document));
        answer.set("Content-Type", "application/yaml");
        return answer;
    }
    AdminResponse::text(200, document.to_string())
}

fn nothing_yet() -> Map<String, Value> {
    kinds().map(|kind| (version_key(kind), 0.into())).collect()
}

fn stamped(mut answer: AdminResponse, store: &Standalone) -> AdminResponse {
    if let Some(document) = store.document() {
        for (name, value) in [(MODIFIED, &document[MODIFIED]), (DIGEST, &document[DIGEST])] {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            answer.set(name, text);
        }
    }
    answer
}

/// The kinds that a document has lists of.
fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| !kind.is_nested())
}

fn version_key(kind: Kind) -> String {
    format!("{}_conf_version", kind.directory())
}

/// The body, JSON or YAML.
fn document(request: &AdminRequest) -> Result<Map<String, Value>, String> {
    if request.body.is_empty() {
        return Err("invalid request body: empty request body".into());
    }
    let is_yaml =
        request.headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/yaml"));
    let document = if is_yaml {
        let text = std::str::from_utf8(&request.body).map_err(|error| error.to_string());
        let tree = text.and_then(|text| config::yaml::parse(text).map_err(|bad| bad.text));
        tree.map_err(|_| "invalid yaml request body".to_owned()).map(|tree| {
            let mut tree = tree.to_json();
            nothing_is_a_table(&mut tree);
            tree
        })
    } else {
        cjson::read(&request.body)
    };
    match document {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) if is_yaml => Err("invalid request body: invalid yaml request body".into()),
        Ok(_) => Err("invalid request body: it should be an object".into()),
        Err(why) => Err(format!("invalid request body: {why}")),
    }
}

/// The next document: a list whose version has not changed stays as it was.
fn merged(old: Option<&Map<String, Value>>, new: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut next = Map::new();
    for kind in kinds() {
        let (key, list) = (version_key(kind), kind.directory());
        let last = old.and_then(|old| old.get(&key)?.as_f64()).unwrap_or(0.0);
        let version = new.get(&key).and_then(Value::as_f64).unwrap_or(last + 1.0);
        if version < last {
            return Err(format!("{key} must be greater than or equal to ({last})"));
        }
        next.insert(key, json!(version as i64));
        let items = if version == last { old.and_then(|old| old.get(list)) } else { new.get(list) };
        if let Some(items) = items.filter(|items| !is_empty(items)) {
            next.insert(list.into(), items.clone());
        }
    }
    Ok(next)
}

fn is_empty(items: &Value) -> bool {
    items.as_array().is_none_or(Vec::is_empty)
}

/// What is wrong with a document.
struct Fault {
    kind: Kind,
    /// The item's id and place, where it is about one.
    item: Option<(String, usize)>,
    error: String,
}

impl Fault {
    fn into_json(self) -> Value {
        let mut fault = json!({"resource_type": self.kind.directory(), "error": self.error});
        if let Some((id, index)) = self.item {
            fault["resource_id"] = id.into();
            fault["index"] = index.into();
        }
        fault
    }
}

fn faults(state: &AdminState, document: &Map<String, Value>) -> Vec<Fault> {
    let known = Known::of_document(state);
    let mut faults = Vec::new();
    for kind in kinds() {
        let key = version_key(kind);
        if document.get(&key).is_some_and(|version| !version.is_number()) {
            faults.push(Fault { kind, item: None, error: format!("{key} must be a number") });
        }
        let mut seen = HashSet::new();
        let items = document.get(kind.directory()).and_then(Value::as_array).into_iter().flatten();
        for (index, item) in items.enumerate() {
            let name = item.get("id").or_else(|| item.get("username")).and_then(id_text).unwrap_or_default();
            let mut fault = |error| faults.push(Fault { kind, item: Some((name.to_string(), index)), error });
            if let Err(error) = check_item(kind, item, &known) {
                fault(error);
            }
            if let Some(error) = twice(kind, item, &mut seen) {
                fault(error);
            }
        }
    }
    faults
}

fn check_item(kind: Kind, item: &Value, known: &Known) -> Result<(), String> {
    let mut item = item.clone();
    let Some(members) = item.as_object_mut() else { return Err("it should be an object".into()) };
    // Its version: the standalone mode allows one in each object.
    if members.shift_remove("modifiedIndex").is_some_and(|index| index.as_i64().is_none()) {
        return Err("property \"modifiedIndex\" validation failed: wrong type: expected integer".into());
    }
    let id = members.get("id").and_then(id_text);
    let id = id.as_deref();
    let below = id.and_then(|id| id.split_once('/'));
    let target = match (kind, below) {
        (Kind::PluginList, _) => return Ok(()),
        (Kind::Consumer, Some((_, rest))) if rest.starts_with("credentials/") => {
            check::Target { kind: Kind::Credential, id, parent: None }
        }
        (Kind::Service, Some((_, rest))) if rest.starts_with("graphql_cost_decorations/") => {
            check::Target { kind: Kind::CostDecoration, id, parent: None }
        }
        (Kind::Secret, Some((manager, id))) => check::Target { kind, id: Some(id), parent: Some(manager) },
        (Kind::Secret, None) => return Err(format!("invalid secret id: {}", id.unwrap_or("nil"))),
        _ => check::Target { kind, id, parent: None },
    };
    check_object(target, &item, known)
}

/// No two items of a list may have the same id; consumers without one go by their name.
fn twice(kind: Kind, item: &Value, seen: &mut HashSet<Id>) -> Option<String> {
    let id = item.get("id").and_then(id_text);
    let what = match (kind, &id) {
        (Kind::Consumer, Some(_)) => "credential id",
        (Kind::Consumer, None) => "username",
        _ => "id",
    };
    let name = id.or_else(|| item.get("username").filter(|_| kind == Kind::Consumer).and_then(id_text))?;
    let is_new = seen.insert(name.clone());
    (!is_new).then(|| format!("found duplicate {what} {name} in {}", kind.directory()))
}
