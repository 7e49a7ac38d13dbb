//! The Control API: what this process runs with (apisix/control/v1.lua), and the status API of probes
//! (apisix/init.lua `status`, `status_ready`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::Method;
use hyper::header::ACCEPT;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use super::admin::message::{self, AdminRequest, AdminResponse};
use super::admin::{page, plugin_api};
use super::applied::{Applied, NOTHING};
use super::certificates::Certificates;
use super::encryption::hide_fields;
use super::feed::Feed;
use super::plugin_lists::PluginLists;
use super::plugins::{Plugins, Unknown};
use super::probe::{Checker, Order};
use super::store::{Entry, Store};
use crate::model::address::split_address;
use crate::model::delta::Object;
use crate::model::schemas::{HASH_HEADER, HASH_VARS, object_schema};
use crate::model::{Kind, Upstream};
use crate::plugin::SchemaType;

/// What the Control API works with.
pub struct ControlState {
    /// Where objects are kept.
    pub store: Store,
    /// What the gateway runs with.
    pub feed: Arc<Feed>,
    /// The plugins of this node.
    pub plugins: Arc<Plugins>,
    /// The lists of plugins in config.yaml.
    pub plugin_lists: Arc<PluginLists>,
    /// How far the cores are.
    pub applied: Arc<Applied>,
    /// When they expire, and what is stapled to them.
    pub certificates: Arc<Certificates>,
    /// The prober; `None` where health checks are switched off.
    pub probes: Option<mpsc::Sender<Order>>,
}

/// Answers one request to the Control API.
pub async fn handle(state: &ControlState, request: AdminRequest) -> AdminResponse {
    let path = message::decode(request.path(), false);
    let steps: Vec<&str> = path.split('/').skip(1).collect();
    let ["v1", steps @ ..] = &*steps else { return page(404) };
    let mut response = match (&request.method, steps) {
        (&Method::POST, ["gc"]) => return AdminResponse::empty(200),
        (&Method::PUT, ["plugins", "reload"]) => {
            state.feed.enable_plugins(&state.plugin_lists.read_again());
            return AdminResponse::text(200, "done");
        }
        (&Method::GET, steps) => match get(state, &request, steps).await {
            Some(response) => response,
            None => return page(404),
        },
        _ => return page(404),
    };
    if response.header("Content-Type").is_none() {
        response.set("Content-Type", "application/json");
    }
    response
}

async fn get(state: &ControlState, request: &AdminRequest, steps: &[&str]) -> Option<AdminResponse> {
    let html =
        request.headers.get(ACCEPT).is_some_and(|v| v.as_bytes().windows(9).any(|w| w == b"text/html"));
    Some(match steps {
        ["schema"] => AdminResponse::json(200, &schema(state)),
        ["healthcheck"] => shown(checks(state).await, html),
        ["healthcheck", rest @ ..] => check(state, rest, html).await,
        ["routes"] => dump(state, Kind::Route).await,
        ["route", id] => dump_one(state, Kind::Route, id).await,
        ["services"] => dump(state, Kind::Service).await,
        ["service", id] => dump_one(state, Kind::Service, id).await,
        ["upstreams"] => dump(state, Kind::Upstream).await,
        ["upstream", id] => dump_one(state, Kind::Upstream, id).await,
        ["server_info"] if state.plugins.enabled("server-info") => {
            AdminResponse::json(200, &crate::plugins::server_info::info())
        }
        ["plugin", "example-plugin", "hello"] if state.plugins.enabled("example-plugin") => {
            match request.args().get("json") {
                Some(_) => AdminResponse::json(200, &json!({"msg": "world"})),
                None => AdminResponse::text(200, "world\n"),
            }
        }
        ["plugin_metadatas"] => metadata(state).await,
        ["plugin_metadata", name] => metadata_of(state, name).await,
        ["ringway", "revision"] => {
            let health = state.store.health();
            let rejected: Vec<String> = state.feed.model().rejected().map(str::to_owned).collect();
            AdminResponse::json(
                200,
                &json!({
                    "revision": state.feed.revision(),
                    "cores": state.applied.all(),
                    "store_reachable": health.reachable,
                    "from_snapshot": health.from_snapshot,
                    "rejected": rejected,
                }),
            )
        }
        ["ringway", "certificates"] => AdminResponse::json(200, &state.certificates.document()),
        _ => return None,
    })
}

fn schema(state: &ControlState) -> Value {
    let kinds = [
        Kind::Consumer,
        Kind::ConsumerGroup,
        Kind::CostDecoration,
        Kind::GlobalRule,
        Kind::PluginConfig,
        Kind::PluginList,
        Kind::Proto,
        Kind::Route,
        Kind::Service,
        Kind::Ssl,
        Kind::StreamRoute,
        Kind::Upstream,
    ];
    let schemas = kinds.into_iter().filter_map(|kind| {
        let schema = object_schema(kind)?;
        Some((kind.schema_name().to_owned(), schema.raw().clone()))
    });
    let mut main: Map<String, Value> = schemas.collect();
    main.insert("upstream_hash_header_schema".into(), HASH_HEADER.raw().clone());
    main.insert("upstream_hash_vars_schema".into(), HASH_VARS.raw().clone());
    json!({
        "main": main,
        "plugins": plugin_api::all(&state.plugins, false),
        "stream_plugins": plugin_api::all(&state.plugins, true),
    })
}

/// An object as the gateway runs with it: defaults filled, secrets hidden. `None` if it is not in use.
fn shown_object(state: &ControlState, kind: Kind, entry: Entry) -> Option<Value> {
    let (found, id) = Kind::of_key(entry.key.trim_start_matches('/'))?;
    if found != kind || state.feed.model().get(kind, id).is_none() {
        return None;
    }
    let mut value: Value = serde_json::from_slice(&entry.value).ok()?;
    if let Some(schema) = object_schema(kind) {
        schema.validate(&mut value).ok()?;
    }
    if let Some(Value::Object(plugins)) = value.get_mut("plugins") {
        state.plugins.decrypt(plugins, SchemaType::Plain);
        let _ = state.plugins.check(plugins, SchemaType::Plain, Unknown::Skip); // it runs, so it was right
        state.plugins.hide_secrets(plugins, SchemaType::Plain);
        for conf in plugins.values_mut().filter_map(Value::as_object_mut) {
            conf.entry("_meta").or_insert_with(|| json!({}));
        }
    }
    hide_fields(&mut value, &["tls.client_key", "upstream.tls.client_key"]);
    for pointer in ["/nodes", "/upstream/nodes"] {
        value.pointer_mut(pointer).into_iter().for_each(list_nodes);
    }
    let has_domain =
        ["/nodes", "/upstream/nodes"].into_iter().filter_map(|at| value.pointer(at)).any(has_name);
    Some(json!({
        "key": format!("{}{}", state.store.prefix(), entry.key),
        "value": value,
        "createdIndex": entry.create_revision,
        "modifiedIndex": entry.mod_revision,
        "orig_modifiedIndex": entry.mod_revision,
        "has_domain": has_domain,
        "clean_handlers": {},
    }))
}

/// Nodes written as a map, as the list that they mean.
fn list_nodes(nodes: &mut Value) {
    let Value::Object(map) = nodes else { return };
    let list = map.iter().map(|(address, weight)| {
        let (host, port) = split_address(address);
        let mut node = json!({"host": host, "weight": weight});
        if let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) {
            node["port"] = port.into();
        }
        node
    });
    *nodes = list.collect();
}

/// Does any of the nodes go by a name?
fn has_name(nodes: &Value) -> bool {
    let mut hosts = nodes.as_array().into_iter().flatten().filter_map(|node| node["host"].as_str());
    hosts.any(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().is_err())
}

async fn dump(state: &ControlState, kind: Kind) -> AdminResponse {
    match state.store.list(&format!("/{}", kind.directory())).await {
        Ok(listing) => {
            let entries = listing.entries.into_iter();
            let objects: Vec<Value> = entries.filter_map(|entry| shown_object(state, kind, entry)).collect();
            AdminResponse::json(200, &objects.into())
        }
        Err(error) => error.into(),
    }
}

async fn dump_one(state: &ControlState, kind: Kind, id: &str) -> AdminResponse {
    match state.store.get(&format!("/{}/{id}", kind.directory())).await {
        Ok(entry) => match entry.and_then(|entry| shown_object(state, kind, entry)) {
            Some(object) => AdminResponse::json(200, &object),
            None => AdminResponse::error(404, format!("{}[{id}] not found", kind.schema_name())),
        },
        Err(error) => error.into(),
    }
}

async fn metadata(state: &ControlState) -> AdminResponse {
    match state.store.list("/plugin_metadata").await {
        Ok(listing) => {
            let mut by_name: HashMap<String, Value> = HashMap::new();
            for entry in listing.entries {
                let name = entry.key.trim_start_matches("/plugin_metadata/");
                by_name
                    .extend(serde_json::from_slice(&entry.value).ok().map(|value| (name.to_owned(), value)));
            }
            // In the order of the operator's list, and only what is in it.
            let lists = state.plugin_lists.last();
            AdminResponse::json(200, &lists.http.iter().filter_map(|name| by_name.remove(name)).collect())
        }
        Err(error) => error.into(),
    }
}

async fn metadata_of(state: &ControlState, name: &str) -> AdminResponse {
    match state.store.get(&format!("/plugin_metadata/{name}")).await {
        Ok(Some(entry)) => {
            AdminResponse::json(200, &serde_json::from_slice(&entry.value).unwrap_or(Value::Null))
        }
        Ok(None) => AdminResponse::error(404, format!("plugin metadata[{name}] not found")),
        Err(error) => error.into(),
    }
}

/// One item for each object that has `checks`, probed already or not: its key, its type, its nodes.
async fn checks(state: &ControlState) -> Vec<Value> {
    let checkers = match &state.probes {
        Some(probes) => {
            let (answer, list) = oneshot::channel();
            let asked = probes.send(Order::List(answer)).await;
            if asked.is_ok() { list.await.unwrap_or_default() } else { Vec::new() }
        }
        None => Vec::new(),
    };
    let nodes = |key: &str| {
        let checker = checkers.iter().find(|checker: &&Checker| *checker.upstream == *key);
        checker.map_or_else(|| json!([]), Checker::nodes_json)
    };
    let mut items = Vec::new();
    let model = state.feed.model();
    for kind in [Kind::Route, Kind::Service, Kind::Upstream, Kind::StreamRoute] {
        for object in model.of_kind(kind) {
            let Some(checks) = upstream_of(object).and_then(|upstream| upstream.checks.as_deref()) else {
                continue;
            };
            let key = format!("/{}/{}", kind.directory(), object.place().1);
            let checked = checks.pointer("/active/type").or_else(|| checks.pointer("/passive/type"));
            items.push(json!({
                "name": format!("{}{key}", state.store.prefix()),
                "type": checked,
                "nodes": nodes(&format!("/apisix{key}")),
            }));
        }
    }
    items
}

/// The upstream of an object: itself, or written inline.
fn upstream_of(object: &Object) -> Option<&Upstream> {
    match object {
        Object::Upstream(o) => Some(&o.value),
        Object::Route(o) => o.value.upstream.as_deref(),
        Object::StreamRoute(o) => o.value.upstream.as_deref(),
        Object::Service(o) => o.value.upstream.as_deref(),
        _ => None,
    }
}

async fn check(state: &ControlState, steps: &[&str], html: bool) -> AdminResponse {
    let kind = steps.first().copied().unwrap_or("");
    let Some(id) = steps.get(1) else {
        return AdminResponse::error(404, format!("missing src id for src type {kind}"));
    };
    if !matches!(kind, "routes" | "services" | "upstreams" | "stream_routes") {
        return AdminResponse::error(400, format!("invalid src type {kind}"));
    }
    let name = format!("{}/{kind}/{id}", state.store.prefix());
    if let Some(item) = checks(state).await.into_iter().find(|item| item["name"] == *name) {
        return if html { table(&[item]) } else { AdminResponse::json(200, &item) };
    }
    let known = Kind::of_directory(kind).is_some_and(|kind| state.feed.model().get(kind, id).is_some());
    let why = if known { format!("no checker for {kind}[{id}]") } else { format!("{kind}[{id}] not found") };
    AdminResponse::error(404, why)
}

fn shown(items: Vec<Value>, html: bool) -> AdminResponse {
    match html {
        true => table(&items),
        // Lua knows one kind of empty table, and prints it so.
        false if items.is_empty() => AdminResponse::json(200, &json!({})),
        false => AdminResponse::json(200, &items.into()),
    }
}

/// For browsers.
fn table(items: &[Value]) -> AdminResponse {
    let mut rows = String::new();
    let nodes = items
        .iter()
        .flat_map(|item| item["nodes"].as_array().into_iter().flatten().map(move |node| (item, node)));
    for (index, (item, node)) in (1..).zip(nodes) {
        let status = node["status"].as_str().unwrap_or("");
        let colour = if status.ends_with("unhealthy") { " bgcolor=\"#FF0000\"" } else { "" };
        let counter = &node["counter"];
        let cells = [
            Value::from(index),
            item["name"].clone(),
            item["type"].clone(),
            format!("{}:{}", text(&node["ip"]), text(&node["port"])).into(),
            status.into(),
            counter["success"].clone(),
            counter["tcp_failure"].clone(),
            counter["http_failure"].clone(),
            counter["timeout_failure"].clone(),
        ];
        let cells: String =
            cells.iter().map(|cell| format!("    <td>{}</td>\n", escaped(&text(cell)))).collect();
        rows.push_str(&format!("  <tr{colour}>\n{cells}  </tr>\n"));
    }
    let columns = ["Index", "Upstream", "Check type", "Host", "Status", "Success counts", "TCP Failures"];
    let columns = columns.into_iter().chain(["HTTP Failures", "TIMEOUT Failures"]);
    let head: String = columns.map(|column| format!("    <th>{column}</th>\n")).collect();
    let title = "APISIX upstream check status";
    let body = format!(
        "<html xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n  <title>{title}</title>\n</head>\n<body>\n\
         <h1>{title}</h1>\n<table style=\"background-color:white\" cellspacing=\"0\" cellpadding=\"3\" \
         border=\"1\">\n  <tr bgcolor=\"#C0C0C0\">\n{head}  </tr>\n{rows}</table>\n</body>\n</html>\n"
    );
    let mut response = AdminResponse::text(200, body);
    response.set("Content-Type", "text/html");
    response
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Names come from the configuration, and may hold anything.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Answers one request to the status API: `/status` says that the process lives, `/status/ready` that every
/// core has its configuration.
pub fn status(applied: &Applied, request: &AdminRequest) -> AdminResponse {
    match request.path() {
        "/status" => AdminResponse::text(200, r#"{"status":"ok"}"#),
        "/status/ready" => match applied.all().iter().position(|revision| *revision == NOTHING) {
            None => AdminResponse::text(200, r#"{"status":"ok"}"#),
            Some(core) => {
                let why = format!("worker id: {core} has not received configuration");
                AdminResponse::text(503, json!({"status": "error", "error": why}).to_string())
            }
        },
        _ => page(404),
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;
    use crate::control::encryption::Keyring;
    use crate::control::plugin_lists::Lists;
    use crate::control::store::Embedded;
    use crate::control::store::tests::{TempDir, block_on};
    use crate::plugin::Registry;

    fn request(method: Method, target: &str) -> AdminRequest {
        let peer = "127.0.0.1".parse().unwrap();
        AdminRequest {
            method,
            target: target.into(),
            headers: HeaderMap::new(),
            body: Default::default(),
            peer,
            server_name: None,
        }
    }

    fn json_of(response: &AdminResponse) -> Value {
        serde_json::from_slice(&response.body).unwrap()
    }

    #[test]
    fn what_runs_is_shown() {
        let directory = TempDir::new();
        block_on(async {
            let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
            let plugins = Arc::new(Plugins::new(
                Arc::new(Registry::new(&[])),
                Vec::<Box<str>>::new(),
                Keyring::default(),
                true,
            ));
            let feed = Arc::new(Feed::new(plugins.clone(), Unknown::Skip, false));
            let route =
                r#"{"id":"1","uri":"/a","upstream":{"nodes":{"127.0.0.1:80":1},"checks":{"active":{}}}}"#;
            store.put("/routes/1", route.into(), None, None).await.unwrap();
            store.put("/routes/2", r#"{"uri":1}"#.into(), None, None).await.unwrap();
            let named = r#"{"nodes":{"a.test:80":1}}"#;
            store.put("/upstreams/1", named.into(), None, None).await.unwrap();
            store.put("/services/1", format!(r#"{{"upstream":{named}}}"#).into(), None, None).await.unwrap();
            let mut events = store.watch().await.unwrap();
            feed.take(events.recv().await.unwrap());
            let applied = Arc::new(Applied::new(2));
            applied.set(0, 2);
            let plugin_lists = Arc::new(Lists::default().into());
            let certificates = Arc::new(Certificates::new(Arc::default()));
            let state =
                ControlState { store, feed, plugins, plugin_lists, applied, certificates, probes: None };
            let get = async |target: &str| {
                let response = handle(&state, request(Method::GET, target)).await;
                (response.status, response)
            };
            let (status, routes) = get("/v1/routes").await;
            let routes = json_of(&routes);
            assert_eq!((status, routes.as_array().unwrap().len()), (200, 1));
            assert_eq!(routes[0]["key"], "/apisix/routes/1");
            assert_eq!(routes[0]["has_domain"], false);
            for with_name in ["upstreams", "services"] {
                let shown = json_of(&get(&format!("/v1/{with_name}")).await.1);
                assert_eq!(shown[0]["has_domain"], true, "{shown}");
            }
            let nodes = &routes[0]["value"]["upstream"]["nodes"];
            assert_eq!(*nodes, json!([{"host": "127.0.0.1", "port": 80, "weight": 1}]));
            assert_eq!(routes[0]["value"]["upstream"]["scheme"], "http");
            assert_eq!(json_of(&get("/v1/route/1").await.1)["value"]["id"], "1");
            let (status, missing) = get("/v1/route/2").await;
            assert_eq!((status, json_of(&missing)), (404, json!({"error_msg": "route[2] not found"})));
            assert!(json_of(&get("/v1/schema").await.1)["main"]["route"].is_object());
            assert_eq!(json_of(&get("/v1/healthcheck").await.1)[0]["name"], "/apisix/routes/1");
            assert_eq!(json_of(&get("/v1/healthcheck/routes/1").await.1)["nodes"], json!([]));
            let unknown = [("routes/9", 404, "routes[9] not found"), ("x/1", 400, "invalid src type x")];
            for (path, status, why) in unknown {
                let (got, response) = get(&format!("/v1/healthcheck/{path}")).await;
                assert_eq!((got, json_of(&response)), (status, json!({"error_msg": why})));
            }
            let revision = json_of(&get("/v1/ringway/revision").await.1);
            assert_eq!(revision["cores"], json!([2, -1]));
            assert_eq!(revision["rejected"], json!(["/routes/2"]));
            assert_eq!(get("/v1/nothing").await.0, 404);
            assert_eq!(handle(&state, request(Method::POST, "/v1/gc")).await.status, 200);
        });
    }

    #[test]
    fn names_among_nodes_are_found() {
        let named = |hosts: &[&str]| has_name(&hosts.iter().map(|host| json!({"host": host})).collect());
        assert!(named(&["127.0.0.1", "foo.com"]));
        assert!(!named(&["127.0.0.1", "::1", "[::1]"]) && !named(&[]));
    }

    #[test]
    fn ready_when_every_core_is() {
        let applied = Applied::new(2);
        let ask = |target| status(&applied, &request(Method::GET, target));
        assert_eq!(ask("/status").status, 200);
        applied.set(0, 0);
        let waiting = ask("/status/ready");
        assert_eq!(waiting.status, 503);
        assert_eq!(json_of(&waiting)["error"], "worker id: 1 has not received configuration");
        applied.set(1, 0);
        assert_eq!(ask("/status/ready").status, 200);
    }
}
