//! The Admin API. [`handle`] answers one request in the order of checks that APISIX has: address, route,
//! key, stream mode, resource, method, body (apisix/admin/init.lua). One file for each concern: [`resource`]
//! does what all kinds of object have in common; what they have not is in [`crate::model::check`].

pub mod access;
mod configs;
mod known;
mod decoration;
pub mod list;
pub mod message;
pub mod patch;
pub mod plugin_api;
pub mod plugin_list;
pub mod resource;
pub mod server;
pub mod tls;
mod yaml;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::Method;
use hyper::header::{CONTENT_LENGTH, COOKIE};
use serde_json::{Value, json};

use super::applied::Applied;
use super::feed::Feed;
use super::plugin_lists::PluginLists;
use super::plugins::Plugins;
use super::store::Store;
use crate::config::Admin;
use crate::limits;
use crate::model::Kind;
use crate::wire::http::error_page;
use access::{AccessLines, Asked};
use message::{AdminRequest, AdminResponse};
use resource::Target;

const BASE: &str = "/apisix/admin";

/// What the Admin API works with.
pub struct AdminState {
    /// Where objects are kept.
    pub store: Store,
    /// What the gateway runs with.
    pub feed: Arc<Feed>,
    /// The plugins of this node.
    pub plugins: Arc<Plugins>,
    /// How far the cores are.
    pub applied: Arc<Applied>,
    /// `deployment.admin`; see [`AdminState::options`].
    pub options: RwLock<Arc<Admin>>,
    /// `apisix.proxy_mode` includes `stream`.
    pub stream: bool,
    /// `xrpc.protocols`, by name.
    pub protocols: Vec<String>,
    /// The lists of plugins in config.yaml.
    pub plugin_lists: Arc<PluginLists>,
    /// The last revision written here.
    pub written: AtomicI64,
    /// The access log, where there is one.
    pub access: RwLock<Option<AccessLines>>,
}

impl AdminState {
    /// `deployment.admin` as it counts now: a reload may change it.
    pub fn options(&self) -> Arc<Admin> {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other options from now on.
    pub fn set_options(&self, options: Admin) {
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = options.into();
    }

    /// Another access log from now on.
    pub fn set_access(&self, lines: Option<AccessLines>) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = lines;
    }
}

/// Answers one request on the Admin API's own port, and writes its line in the access log.
pub async fn serve(state: &AdminState, request: AdminRequest) -> AdminResponse {
    let asked = Asked::of(&request);
    let answer = handle(state, request).await;
    if let Some(lines) = &*state.access.read().unwrap_or_else(PoisonError::into_inner) {
        lines.write(&asked, &answer);
    }
    answer
}

/// Answers one request.
pub async fn handle(state: &AdminState, request: AdminRequest) -> AdminResponse {
    let options = state.options();
    let allow = &options.allow;
    if !allow.is_empty() && !allow.iter().any(|net| net.contains(request.peer)) {
        return page(403);
    }
    let path = message::decode(request.path(), false);
    let mut response = if path == BASE || path.strip_prefix(BASE).is_some_and(|rest| rest.starts_with('/')) {
        answer(state, &request, &path).await
    } else {
        page(404)
    };
    // what lies outside is nginx's own
    if options.cors && path.starts_with(BASE) && response.header("Access-Control-Allow-Origin").is_none() {
        for (name, value) in [
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Expose-Headers", "*"),
            ("Access-Control-Max-Age", "3600"),
        ] {
            response.set(name, value);
        }
    }
    if response.header("Content-Type").is_none() {
        response.set("Content-Type", "application/json");
    }
    response
}

/// nginx's own page for a status.
pub(super) fn page(status: u16) -> AdminResponse {
    let mut response = AdminResponse::text(status, error_page::page(status).unwrap_or_default());
    response.set("Content-Type", "text/html; charset=utf-8");
    response
}

async fn answer(state: &AdminState, request: &AdminRequest, path: &str) -> AdminResponse {
    let steps: Vec<&str> = path[BASE.len()..].split('/').skip(1).collect();
    match (&request.method, &*steps) {
        (&Method::OPTIONS, _) if state.options().cors => return preflight(),
        (&Method::HEAD, []) => return AdminResponse::empty(200),
        (&Method::GET | &Method::PUT | &Method::HEAD, ["configs"]) if state.store.standalone().is_some() => {}
        (&Method::POST, ["configs", "validate"]) => {}
        _ if state.store.standalone().is_some() => return page(404),
        (&Method::GET | &Method::PUT | &Method::POST | &Method::DELETE | &Method::PATCH, [_, ..]) => {}
        _ => return page(404),
    }
    if let Err(why) = check_key(state, request) {
        log::warn!("failed to check token: {why}");
        let body = json!({"error_msg": "failed to check token", "description": why});
        return AdminResponse::json(401, &body);
    }
    match (&request.method, &*steps) {
        (&Method::POST, ["configs", "validate"]) => configs::validate(state, request),
        (_, ["configs"]) if let Some(store) = state.store.standalone() => {
            configs::answer(state, store, request)
        }
        (&Method::GET, ["plugins", "list"]) => plugin_api::list(state, &request.args()),
        (&Method::PUT, ["plugins", "reload"]) => match plugin_list::reload(state).await {
            Ok(()) => AdminResponse::text(200, "done"),
            Err(error) => AdminResponse::error(503, error.to_string()),
        },
        (method, ["plugins", "reload"]) => AdminResponse::error(
            405,
            format!("please use PUT method to reload the plugins, {method} method is not allowed."),
        ),
        (&Method::POST, ["schema", "validate", resource]) => plugin_api::validate(request, resource),
        _ => object_api(state, request, &steps).await,
    }
}

fn preflight() -> AdminResponse {
    let mut response = AdminResponse::empty(200);
    for (name, value) in [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "POST, GET, PUT, OPTIONS, DELETE, PATCH"),
        ("Access-Control-Max-Age", "3600"),
        ("Access-Control-Allow-Headers", "*"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Content-Type", "text/plain"),
    ] {
        response.set(name, value);
    }
    response
}

/// The key of a request: argument `api_key`, header X-API-KEY, cookie `x_api_key`. The error is APISIX's
/// `description`.
fn check_key(state: &AdminState, request: &AdminRequest) -> Result<(), &'static str> {
    let options = state.options();
    let Some(keys) = options.keys.as_ref().filter(|_| options.required) else { return Ok(()) };
    let args = request.args();
    // nginx's `$http_x_api_key` is either spelling.
    let header = request.headers.get("x-api-key").or_else(|| request.headers.get("x_api_key"));
    let header = header.and_then(|value| value.to_str().ok());
    let cookies = request.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookie = cookies
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().split_once('=').filter(|(name, _)| *name == "x_api_key"))
        .map(|(_, value)| value);
    let given = args.get("api_key").or(header).or(cookie).ok_or("missing apikey")?;
    // Every key is compared in full, so that the time taken tells nothing about any of them.
    let mut found = None;
    for key in keys {
        if same_bytes(key.key.as_bytes(), given.as_bytes()) {
            found = found.or(Some(key));
        }
    }
    match found.filter(|key| !key.key.is_empty()) {
        None => Err("wrong apikey"),
        Some(key) if key.viewer && request.method != Method::GET => Err("invalid method for role viewer"),
        Some(_) => Ok(()),
    }
}

fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Everything below `/apisix/admin/{resource}`.
async fn object_api(state: &AdminState, request: &AdminRequest, steps: &[&str]) -> AdminResponse {
    let (resource, rest) = match steps {
        // /schema/plugins/limit-count is the schema of a plugin
        ["schema", "plugins", rest @ ..] => ("plugins", rest),
        [resource, rest @ ..] => (*resource, rest),
        [] => ("", steps),
    };
    if resource == "stream_routes" && !state.stream {
        return AdminResponse::error(400, "stream mode is disabled, can not add stream routes");
    }
    let target = match resource {
        "schema" | "plugins" => None,
        _ => match Target::of(resource, rest) {
            Some(target) => Some(target),
            None => return AdminResponse::error(404, format!("Unsupported resource type: {resource}")),
        },
    };
    if target.is_none() && request.method != Method::GET {
        return AdminResponse::error(404, "not found");
    }
    let conf = match body(request) {
        Ok(conf) => conf,
        Err(response) => return response,
    };
    let args = request.args();
    let ttl_s = match args.get("ttl").map(|ttl| ttl.trim().parse::<f64>()) {
        None => None,
        Some(Ok(ttl)) => Some(ttl as i64),
        Some(Err(_)) => return AdminResponse::error(400, "invalid argument ttl: should be a number"),
    };
    let mut response = match target {
        None if resource == "schema" => plugin_api::schema(rest.first().copied().unwrap_or("")),
        None => plugin_api::get(state, rest.first().copied(), &args),
        Some(target) => {
            let call = resource::Call { state, target, args: &args, ttl_s, now_s: now_s() };
            call.answer(&request.method, conf).await
        }
    };
    response.set("X-API-VERSION", if state.options().version_2 { "v2" } else { "v3" });
    response
}

/// The request's JSON, if it has a body.
fn body(request: &AdminRequest) -> Result<Option<Value>, AdminResponse> {
    let declared = request.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let size = request.body.len().max(declared.unwrap_or(0));
    if size > limits::ADMIN_BODY_BYTES {
        let most = limits::ADMIN_BODY_BYTES;
        let why = format!("request size {size} is greater than the maximum size {most} allowed");
        return Err(AdminResponse::error(400, format!("invalid request body: {why}")));
    }
    if request.body.is_empty() {
        return Ok(None);
    }
    crate::model::cjson::read(&request.body).map(Some).map_err(|why| {
        let body = String::from_utf8_lossy(&request.body);
        log::error!("invalid request body: {body} err: {why}");
        let body = json!({"error_msg": format!("invalid request body: {why}"), "req_body": body});
        AdminResponse::json(400, &body)
    })
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64)
}

/// The kinds that `/apisix/admin/{resource}` names.
fn kind_of(resource: &str) -> Option<Kind> {
    Kind::of_directory(resource).filter(|kind| *kind != Kind::PluginList)
}
