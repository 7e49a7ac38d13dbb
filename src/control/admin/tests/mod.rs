//! The Admin API as its users meet it: one table a resource, on the embedded store and on etcd.

mod documents;
mod nested;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use hyper::{HeaderMap, Method};
use serde_json::{Value, json};

use super::message::{AdminRequest, AdminResponse};
use super::*;
use crate::config::AdminKey;
use crate::control::encryption::Keyring;
use crate::control::plugin_lists::Lists;
use crate::control::plugins::Unknown;
use crate::control::store::tests::{RealEtcd, TempDir, block_on};
use crate::control::store::{Embedded, Etcd};
use crate::plugin::{Registry, Spec};

/// Plugins to test with: their configuration is right if it has no member `bad`.
const fn spec(name: &'static str, priority: i32) -> Spec {
    Spec {
        name,
        priority,
        schema: r#"{"type":"object"}"#,
        metadata_schema: Some(r#"{"type":"object"}"#),
        check: |conf, _| if conf.get("bad").is_some() { Err("it is bad".into()) } else { Ok(()) },
        ..Spec::PLAIN
    }
}

static KEY_AUTH: Spec = Spec {
    auth: true,
    consumer_schema: Some(r#"{"type":"object"}"#),
    consumer_encrypt_fields: &["key"],
    consumer_key: Some("key"),
    ..spec("key-auth", 2500)
};
static LIMIT_COUNT: Spec = Spec { encrypt_fields: &["secret"], ..spec("limit-count", 1002) };
static PROMETHEUS: Spec = spec("prometheus", 500);

const ADMIN: &str = "edd1c9f034335f136f87ad84b625c8f1";

async fn world(store: Store) -> Arc<AdminState> {
    let names = ["key-auth", "limit-count", "prometheus", "proxy-cache"];
    let registry = Arc::new(Registry::new(&[&PROMETHEUS, &KEY_AUTH, &LIMIT_COUNT]));
    let keyring = Keyring::new(["qeddd145sfvddff3"]);
    let plugins =
        Plugins::new(registry, names, keyring, true).with_stream(crate::plugins::stream::registry());
    plugins.enable_stream(&["limit-conn".into(), "mqtt-proxy".into()]);
    let plugins = Arc::new(plugins);
    let feed = Arc::new(Feed::new(plugins.clone(), Unknown::Skip, false));
    let applied = Arc::new(Applied::new(2));
    let events = store.watch().await.unwrap();
    let (cores, reader) = (applied.clone(), feed.clone());
    tokio::spawn(async move {
        let publish = move |batch: crate::model::delta::Batch| {
            cores.set(0, batch.revision);
            cores.set(1, batch.revision);
        };
        reader.run(events, Box::new(publish)).await;
    });
    let key = |key: &str, viewer| AdminKey { name: "x".into(), key: key.into(), viewer };
    Arc::new(AdminState {
        store,
        feed,
        plugins,
        applied,
        options: RwLock::new(Arc::new(Admin {
            listen: "127.0.0.1:9180".parse().unwrap(),
            on_node_port: false,
            required: true,
            keys: Some(vec![key(ADMIN, false), key("viewer", true), key("", false)]),
            allow: vec![crate::model::IpNet::parse("127.0.0.0/24").unwrap()],
            cors: true,
            version_2: false,
            tls: None,
        })),
        stream: false,
        protocols: Vec::new(),
        plugin_lists: Arc::new(
            Lists {
                http: vec!["key-auth".into(), "proxy-cache".into()],
                stream: vec!["mqtt-proxy".into()],
                ..Lists::default()
            }
            .into(),
        ),
        written: AtomicI64::new(0),
        access: RwLock::default(),
    })
}

fn request(method: &str, target: &str, body: &str) -> AdminRequest {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", ADMIN.parse().unwrap());
    AdminRequest {
        method: method.parse::<Method>().unwrap(),
        target: target.into(),
        headers,
        body: body.to_owned().into(),
        peer: "127.0.0.1".parse().unwrap(),
        server_name: None,
    }
}

fn body_of(response: &AdminResponse) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&response.body).into_owned()))
}

/// One step: method, path below the base, body, status, and what the answer must contain.
type Step = (&'static str, &'static str, &'static str, u16, Value);

async fn run(state: &AdminState, steps: &[Step]) {
    for (method, path, body, status, expected) in steps {
        let response = handle(state, request(method, &format!("/apisix/admin{path}"), body)).await;
        let got = body_of(&response);
        assert_eq!(response.status, *status, "{method} {path} {body} gave {got}");
        assert!(contains(&got, expected), "{method} {path} {body} gave {got}, expected {expected}");
    }
}

/// Is everything of `expected` in `got`? Objects may have more members; arrays may not.
fn contains(got: &Value, expected: &Value) -> bool {
    match (got, expected) {
        (_, Value::Null) => true,
        (Value::Object(got), Value::Object(expected)) => {
            expected.iter().all(|(key, value)| got.get(key).is_some_and(|got| contains(got, value)))
        }
        (Value::Array(got), Value::Array(expected)) => {
            got.len() == expected.len() && got.iter().zip(expected).all(|(g, e)| contains(g, e))
        }
        (got, expected) => got == expected,
    }
}

fn error(text: &str) -> Value {
    json!({"error_msg": text})
}

/// Runs steps on both stores.
fn on_both_stores(steps: &[Step]) {
    let directory = TempDir::new();
    block_on(async {
        let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
        run(&*world(store).await, steps).await;
    });
    let etcd = RealEtcd::start();
    block_on(async {
        let store = Store::Etcd(Etcd::connect(etcd.options()).await.unwrap());
        run(&*world(store).await, steps).await;
    });
}

fn on_embedded<F: Future<Output = ()>>(test: impl FnOnce(Arc<AdminState>) -> F) {
    let directory = TempDir::new();
    block_on(async {
        let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
        test(world(store).await).await;
    });
}

const ROUTE: &str = r#"{"uri":"/index.html","methods":["GET"],"upstream":{"nodes":{"127.0.0.1:8080":1},"type":"roundrobin"}}"#;

#[test]
fn routes() {
    let uri = json!({"value": {"uri": "/index.html", "id": "1"}, "key": "/apisix/routes/1"});
    on_both_stores(&[
        ("GET", "/routes", "", 200, json!({"list": [], "total": 0})),
        ("PUT", "/routes/1", ROUTE, 201, uri.clone()),
        ("PUT", "/routes/1", ROUTE, 200, uri.clone()),
        ("GET", "/routes/1", "", 200, uri.clone()),
        ("GET", "/routes", "", 200, json!({"list": [uri], "total": 1})),
        ("GET", "/routes/9", "", 404, json!({"message": "Key not found"})),
        (
            "PATCH",
            "/routes/1",
            r#"{"desc":"new"}"#,
            200,
            json!({"value": {"desc": "new", "uri": "/index.html"}}),
        ),
        (
            "PATCH",
            "/routes/1/upstream/nodes",
            r#"{"127.0.0.1:8081":3}"#,
            200,
            json!({"value": {"upstream": {"nodes": {"127.0.0.1:8081": 3}}}}),
        ),
        ("PATCH", "/routes/9", r#"{"desc":"new"}"#, 404, json!({"message": "Key not found"})),
        ("PATCH", "/routes/1", "[1]", 400, error("invalid configuration")),
        ("POST", "/routes", ROUTE, 201, json!({"value": {"uri": "/index.html"}})),
        ("POST", "/routes/7", ROUTE, 400, error("wrong route id, do not need it")),
        ("PUT", "/routes", ROUTE, 400, error("missing route id")),
        ("PUT", "/routes/1", "", 400, error("missing configurations")),
        ("PUT", "/routes/1", r#"{"id":"2","uri":"/a"}"#, 400, error("wrong route id")),
        ("PUT", "/routes", r#"{"id":3,"uri":"/a","plugins":{}}"#, 201, json!({"key": "/apisix/routes/3"})),
        (
            "PUT",
            "/routes/1",
            r#"{"uri":"/a","create_time":1,"plugins":{}}"#,
            400,
            error("the property is forbidden:  create_time"),
        ),
        (
            "PUT",
            "/routes/1",
            r#"{"uri":"/a","upstream_id":"none"}"#,
            400,
            error("failed to fetch upstream info by upstream id [none], response code: 404"),
        ),
        (
            "PUT",
            "/routes/1",
            r#"{"uri":"/a","service_id":"none"}"#,
            400,
            error("failed to fetch service info by service id [none], response code: 404"),
        ),
        (
            "PUT",
            "/routes/1",
            r#"{"uri":"/a","plugins":{"no-such":{}}}"#,
            400,
            error("unknown plugin [no-such]"),
        ),
        (
            "PUT",
            "/routes/1",
            r#"{"uri":"/a","plugins":{"proxy-cache":{}}}"#,
            400,
            error("unknown plugin [proxy-cache]"),
        ),
        (
            "PUT",
            "/routes/1",
            r#"{"uri":"/a","plugins":{"limit-count":{"bad":1}}}"#,
            400,
            error("failed to check the configuration of plugin limit-count err: it is bad"),
        ),
        (
            "PUT",
            "/routes/1",
            r#"{"uri":"/a","host":"a","hosts":["b"]}"#,
            400,
            error("only one of host or hosts is allowed"),
        ),
        ("DELETE", "/routes/1", "", 200, json!({"key": "/apisix/routes/1", "deleted": "1"})),
        ("DELETE", "/routes/1", "", 404, json!({"message": "Key not found"})),
        ("DELETE", "/routes", "", 400, error("missing route id")),
        ("GET", "/routes?page=1&page_size=5", "", 400, json!("page_size must be between 10 and 500")),
    ]);
}

#[test]
fn upstreams_and_services_hold_on_to_their_users() {
    on_both_stores(&[
        ("PUT", "/upstreams/u", r#"{"nodes":{"127.0.0.1:80":1},"type":"roundrobin"}"#, 201, Value::Null),
        ("PUT", "/upstreams/c", r#"{"nodes":{"127.0.0.1:80":1},"type":"chash"}"#, 400, error("missing key")),
        (
            "PUT",
            "/upstreams/c",
            r#"{"nodes":{"127.0.0.1:80":1},"pass_host":"rewrite"}"#,
            400,
            error("`upstream_host` can't be empty when `pass_host` is `rewrite`"),
        ),
        ("PUT", "/services/s", r#"{"upstream_id":"u"}"#, 201, Value::Null),
        ("PUT", "/routes/r", r#"{"uri":"/a","service_id":"s"}"#, 201, Value::Null),
        (
            "DELETE",
            "/upstreams/u",
            "",
            400,
            error("can not delete this upstream, service [s] is still using it now"),
        ),
        (
            "DELETE",
            "/services/s",
            "",
            400,
            error("can not delete this service directly, route [r] is still using it now"),
        ),
        ("DELETE", "/routes/r", "", 200, Value::Null),
        ("DELETE", "/services/s", "", 200, Value::Null),
        ("DELETE", "/upstreams/u?force=true", "", 200, Value::Null),
    ]);
}

#[test]
fn consumers_and_credentials() {
    on_both_stores(&[
        (
            "PUT",
            "/consumers",
            r#"{"username":"jack","plugins":{"key-auth":{"key":"one"}}}"#,
            201,
            json!({"key": "/apisix/consumers/jack"}),
        ),
        (
            "PUT",
            "/consumers/jack",
            r#"{"username":"jack","plugins":{"key-auth":{"key":"one"}}}"#,
            200,
            Value::Null,
        ),
        ("PUT", "/consumers/jill", r#"{"username":"jack"}"#, 400, error("wrong username")),
        // The key is stored encrypted and shown in the clear.
        ("GET", "/consumers/jack", "", 200, json!({"value": {"plugins": {"key-auth": {"key": "one"}}}})),
        ("POST", "/consumers", r#"{"username":"x"}"#, 405, error("not supported `POST` method for consumer")),
        (
            "PATCH",
            "/consumers/jack",
            r#"{"desc":"x"}"#,
            405,
            error("not supported `PATCH` method for consumer"),
        ),
        ("PUT", "/consumers?wait=2000", r#"{"username":"rose"}"#, 201, Value::Null),
        (
            "PUT",
            "/consumers",
            r#"{"username":"rose","plugins":{"key-auth":{"key":"one"}}}"#,
            400,
            error("duplicate key of plugin key-auth found with consumer: jack"),
        ),
        (
            "PUT",
            "/consumers/none/credentials/c",
            r#"{"plugins":{"key-auth":{"key":"two"}}}"#,
            404,
            error("consumer not found"),
        ),
        (
            "PUT",
            "/consumers/jack/credentials/c?wait=2000",
            r#"{"plugins":{"key-auth":{"key":"two"}}}"#,
            201,
            json!({"key": "/apisix/consumers/jack/credentials/c"}),
        ),
        (
            "PUT",
            "/consumers",
            r#"{"username":"rose","plugins":{"key-auth":{"key":"two"}}}"#,
            400,
            error("duplicate key of plugin key-auth found with credential: c of consumer: jack"),
        ),
        (
            "PUT",
            "/consumers/jack/credentials/d",
            r#"{"plugins":{"limit-count":{}}}"#,
            400,
            error("only supports auth type plugins in consumer credential"),
        ),
        ("GET", "/consumers", "", 200, json!({"total": 2})),
        ("GET", "/consumers/jack/credentials", "", 200, json!({"total": 1})),
        ("DELETE", "/consumers/jack", "", 200, Value::Null),
        ("GET", "/consumers/jack/credentials/c", "", 404, json!({"message": "Key not found"})),
        ("PUT", "/consumer_groups/g", r#"{"plugins":{"limit-count":{}}}"#, 201, Value::Null),
        ("PUT", "/consumers?wait=2000", r#"{"username":"rose","group_id":"g"}"#, 200, Value::Null),
        (
            "DELETE",
            "/consumer_groups/g",
            "",
            400,
            error("can not delete this consumer group, consumer [rose] is still using it now"),
        ),
    ]);
}

#[test]
fn global_rules_plugin_configs_and_metadata() {
    on_both_stores(&[
        ("PUT", "/global_rules/1", r#"{"plugins":{"limit-count":{}}}"#, 201, json!({"value": {"id": "1"}})),
        ("PUT", "/global_rules/1", r#"{"plugins":{"limit-count":{}}}"#, 200, Value::Null),
        (
            "PUT",
            "/global_rules/2",
            r#"{"plugins":{"limit-count":{}}}"#,
            400,
            error("plugin 'limit-count' already exists in global rule with id '1'"),
        ),
        (
            "POST",
            "/global_rules",
            r#"{"plugins":{}}"#,
            405,
            error("not supported `POST` method for global rule"),
        ),
        ("PUT", "/plugin_configs/1", r#"{"plugins":{"limit-count":{}}}"#, 201, Value::Null),
        ("PUT", "/routes/1", r#"{"uri":"/a","plugin_config_id":"1","plugins":{}}"#, 201, Value::Null),
        (
            "DELETE",
            "/plugin_configs/1",
            "",
            400,
            error("can not delete this plugin config, route [1] is still using it now"),
        ),
        (
            "PUT",
            "/plugin_metadata/prometheus",
            r#"{"a":1}"#,
            201,
            json!({"value": {"id": "prometheus", "a": 1}}),
        ),
        (
            "PUT",
            "/plugin_metadata/prometheus",
            r#"{"bad":1}"#,
            400,
            error("invalid configuration: it is bad"),
        ),
        ("PUT", "/plugin_metadata/none", r#"{}"#, 400, error("invalid plugin name")),
        ("GET", "/plugins/list", "", 200, json!(["key-auth", "limit-count", "prometheus"])),
        ("GET", "/plugins/list?subsystem=stream", "", 200, json!(["limit-conn", "mqtt-proxy"])),
        ("GET", "/plugins/mqtt-proxy?subsystem=stream", "", 200, json!({"required": ["protocol_level"]})),
        ("GET", "/plugins?all=true&subsystem=stream", "", 200, json!({"limit-conn": {"version": 0.1}})),
        ("GET", "/plugins/none", "", 404, error("plugin not found in subsystem http")),
        ("GET", "/schema/route", "", 200, json!({"type": "object"})),
        ("GET", "/schema/none", "", 400, error("not found schema: none")),
        ("GET", "/schema/plugins/key-auth", "", 200, json!({"type": "object"})),
        ("PUT", "/plugins/reload", "", 200, json!("done")),
        ("POST", "/schema/validate/routes", r#"{"uri":"/a","plugins":{}}"#, 200, Value::Null),
        ("POST", "/schema/validate/routes", r#"{"uri":1}"#, 400, Value::Null),
        (
            "PUT",
            "/stream_routes/1",
            r#"{}"#,
            400,
            error("stream mode is disabled, can not add stream routes"),
        ),
        ("GET", "/nonsense", "", 404, error("Unsupported resource type: nonsense")),
        ("PUT", "/schema/route", "{}", 404, error("not found")),
        ("GET", "/routes?ttl=x", "", 400, error("invalid argument ttl: should be a number")),
        (
            "PUT",
            "/routes/1",
            r#"{"uri":"/a" "b":1}"#,
            400,
            error("invalid request body: Expected comma or object end but found T_STRING at character 13"),
        ),
    ]);
}

#[test]
fn who_may_ask() {
    on_embedded(|state| async move {
        let ask = async |change: &dyn Fn(&mut AdminRequest)| {
            let mut request = request("GET", "/apisix/admin/routes", "");
            change(&mut request);
            let response = handle(&state, request).await;
            (response.status, body_of(&response))
        };
        let refused = |why: &str| json!({"error_msg": "failed to check token", "description": why});
        assert_eq!(ask(&|_| ()).await.0, 200);
        assert_eq!(ask(&|r| r.headers.clear()).await, (401, refused("missing apikey")));
        assert_eq!(
            ask(&|r| drop(r.headers.insert("x-api-key", "nope".parse().unwrap()))).await,
            (401, refused("wrong apikey"))
        );
        assert_eq!(
            ask(&|r| drop(r.headers.insert("x-api-key", "".parse().unwrap()))).await,
            (401, refused("wrong apikey"))
        );
        let by_argument = |r: &mut AdminRequest| {
            r.headers.clear();
            r.target = format!("/apisix/admin/routes?api_key={ADMIN}");
        };
        assert_eq!(ask(&by_argument).await.0, 200);
        let by_underscores = |r: &mut AdminRequest| {
            r.headers.clear();
            r.headers.insert("x_api_key", ADMIN.parse().unwrap());
        };
        assert_eq!(ask(&by_underscores).await.0, 200);
        let by_cookie = |r: &mut AdminRequest| {
            r.headers.clear();
            r.headers.insert("cookie", format!("a=b; x_api_key={ADMIN}").parse().unwrap());
        };
        assert_eq!(ask(&by_cookie).await.0, 200);
        let viewer = |r: &mut AdminRequest| drop(r.headers.insert("x-api-key", "viewer".parse().unwrap()));
        assert_eq!(ask(&viewer).await.0, 200);
        let writes = |r: &mut AdminRequest| {
            viewer(r);
            r.method = Method::PUT;
        };
        assert_eq!(ask(&writes).await, (401, refused("invalid method for role viewer")));
        let (status, body) = ask(&|r| r.peer = "10.0.0.1".parse().unwrap()).await;
        assert_eq!(status, 403);
        assert!(body.as_str().unwrap().contains("<h1>403 Forbidden</h1>"));
        let options = state.options();
        state.set_options(Admin { allow: Vec::new(), ..(*options).clone() });
        assert_eq!(ask(&|r| r.peer = "10.0.0.1".parse().unwrap()).await.0, 200, "null lets all in");
        for open in
            [Admin { required: false, ..(*options).clone() }, Admin { keys: None, ..(*options).clone() }]
        {
            state.set_options(open);
            assert_eq!(ask(&|r| r.headers.clear()).await.0, 200, "no key is asked for");
        }
    });
}

#[test]
fn heads_preflights_and_unknown_paths() {
    on_embedded(|state| async move {
        let ask = async |method: &str, target: &str| {
            let mut request = request(method, target, "");
            request.headers.clear();
            handle(&state, request).await
        };
        assert_eq!(ask("HEAD", "/apisix/admin").await.status, 200);
        let preflight = ask("OPTIONS", "/apisix/admin/routes").await;
        assert_eq!((preflight.status, preflight.header("Access-Control-Max-Age")), (200, Some("3600")));
        for (method, target) in
            [("GET", "/apisix/admin"), ("GET", "/other"), ("TRACE", "/apisix/admin/routes")]
        {
            let response = ask(method, target).await;
            assert_eq!(response.status, 404, "{method} {target}");
            assert!(String::from_utf8_lossy(&response.body).contains("404 Not Found"));
        }
    });
}

/// apisix/core/request.lua, `get_body`
#[test]
fn a_body_has_a_longest_length() {
    on_embedded(|state| async move {
        let most = limits::ADMIN_BODY_BYTES;
        let say = async |method: &str, target: &str, object: &str, length: usize| {
            let body = format!("{object}{}", " ".repeat(length - object.len()));
            let answer = handle(&state, request(method, target, &body)).await;
            (answer.status, body_of(&answer)["error_msg"].clone())
        };
        let why = |length: usize| {
            let why = format!("request size {length} is greater than the maximum size {most} allowed");
            (400, json!(format!("invalid request body: {why}")))
        };
        for (method, target, object, status) in [
            ("PUT", "/apisix/admin/routes/1", ROUTE, 201),
            ("POST", "/apisix/admin/configs/validate", "{}", 200),
            ("POST", "/apisix/admin/schema/validate/routes", ROUTE, 200),
        ] {
            assert_eq!(say(method, target, object, most).await, (status, Value::Null), "{target}");
            assert_eq!(say(method, target, object, most + 1).await, why(most + 1), "{target}");
        }
        // a server keeps no more than tells that it was too long; the client says how long
        let mut long = request("PUT", "/apisix/admin/routes/1", &" ".repeat(most + 1));
        long.headers.insert("content-length", (2 * most).into());
        let answer = handle(&state, long).await;
        assert_eq!((answer.status, body_of(&answer)["error_msg"].clone()), why(2 * most));
    });
}

#[test]
fn a_write_tells_its_revision_and_can_wait_for_the_cores() {
    on_embedded(|state| async move {
        let response = handle(&state, request("PUT", "/apisix/admin/routes/1?wait=5000", ROUTE)).await;
        assert_eq!(response.header("X-Ringway-Applied"), Some("true"));
        assert_eq!(response.header("X-Ringway-Revision"), Some("1"));
        assert_eq!(response.header("X-API-VERSION"), Some("v3"));
        assert_eq!(state.applied.all(), [1, 1]);
    });
}

/// The same with cores that never apply anything, at a revision that was written and is not read yet.
async fn stuck(directory: &TempDir, written: i64) -> AdminState {
    let store = Store::Embedded(Embedded::open(&directory.0, "/apisix").unwrap());
    let state = Arc::into_inner(world(store).await).unwrap();
    AdminState { applied: Arc::new(Applied::new(1)), written: AtomicI64::new(written), ..state }
}

#[tokio::test(start_paused = true)]
async fn a_core_that_is_stuck_is_not_waited_for_without_end() {
    let directory = TempDir::new();
    let state = stuck(&directory, 0).await;
    let began = tokio::time::Instant::now();
    let response = handle(&state, request("PUT", "/apisix/admin/routes/1?wait=99999999999", ROUTE)).await;
    let took_ms = began.elapsed().as_millis() as u64;
    assert_eq!((response.status, response.header("X-Ringway-Applied")), (201, Some("false")));
    assert!(took_ms.abs_diff(limits::ADMIN_WAIT_MS) < 100, "{took_ms} ms");
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_is_stuck_holds_a_check_of_references_up_for_a_moment() {
    let directory = TempDir::new();
    let state = stuck(&directory, 1_000).await;
    let began = tokio::time::Instant::now();
    let response = handle(&state, request("DELETE", "/apisix/admin/upstreams/1", "")).await;
    let took_ms = began.elapsed().as_millis() as u64;
    assert_eq!(response.status, 404);
    assert!(took_ms.abs_diff(limits::ADMIN_CATCH_UP_MS) < 100, "{took_ms} ms");
}

#[test]
fn secrets_are_encrypted_in_the_store() {
    on_embedded(|state| async move {
        let body = r#"{"username":"jack","plugins":{"key-auth":{"key":"bar"}}}"#;
        handle(&state, request("PUT", "/apisix/admin/consumers", body)).await;
        let stored = state.store.get("/consumers/jack").await.unwrap().unwrap();
        let stored: Value = serde_json::from_slice(&stored.value).unwrap();
        assert_eq!(stored["plugins"]["key-auth"]["key"], "+kOEVUuRc5rC5ZwvvAMLwg==");
    });
}

/// PEM, as JSON has it.
fn pem(text: &str) -> Value {
    Value::from(text)
}

#[test]
fn private_keys_are_encrypted_in_the_store_and_never_shown() {
    let (cert, key) = (
        pem(include_str!("../../../transport/tests/server.pem")),
        pem(include_str!("../../../transport/tests/server.key.pem")),
    );
    let (other_cert, other_key) = (
        pem(include_str!("../../../transport/tests/client.pem")),
        pem(include_str!("../../../transport/tests/client.key.pem")),
    );
    let tls = json!({"client_cert": cert, "client_key": key});
    let upstream = json!({"type": "roundrobin", "nodes": {"127.0.0.1:80": 1}, "scheme": "https", "tls": tls});
    let ssl =
        json!({"snis": ["a.test"], "cert": cert, "key": key, "certs": [other_cert], "keys": [other_key]});
    on_embedded(|state| async move {
        let secret = |value: &Value| value.as_str().is_some_and(|text| !text.contains("PRIVATE KEY"));
        for (path, object, keys) in [
            ("/ssls/1", ssl, &["/key", "/keys/0"][..]),
            ("/upstreams/1", upstream.clone(), &["/tls/client_key"]),
            ("/routes/1", json!({"uri": "/", "upstream": upstream}), &["/upstream/tls/client_key"]),
        ] {
            let put =
                handle(&state, request("PUT", &format!("/apisix/admin{path}"), &object.to_string())).await;
            assert_eq!(put.status, 201, "{path}: {}", body_of(&put));
            let stored = state.store.get(path).await.unwrap().unwrap();
            let stored: Value = serde_json::from_slice(&stored.value).unwrap();
            for key in keys {
                assert!(stored.pointer(key).is_some_and(secret), "{path}{key}: {stored}");
            }
        }
        for path in ["/ssls/1", "/ssls"] {
            let shown = body_of(&handle(&state, request("GET", &format!("/apisix/admin{path}"), "")).await);
            let value = shown.get("value").unwrap_or(&shown["list"][0]["value"]);
            assert_eq!(value["snis"], json!(["a.test"]), "{shown}");
            assert!(value.get("key").is_none() && value.get("keys").is_none(), "{shown}");
        }
    });
}

#[test]
fn times_survive_and_move_on() {
    on_embedded(|state| async move {
        let first = body_of(&handle(&state, request("PUT", "/apisix/admin/routes/1", ROUTE)).await);
        let created = first["value"]["create_time"].as_i64().unwrap();
        let second = body_of(&handle(&state, request("PUT", "/apisix/admin/routes/1", ROUTE)).await);
        assert_eq!(second["value"]["create_time"], created);
        assert!(second["value"]["update_time"].as_i64().unwrap() >= created);
        let old = json!({"uri": "/", "upstream": {"nodes": {"127.0.0.1:80": 1}}, "create_time": 1, "update_time": 2});
        state.store.put("/routes/2", old.to_string().into(), None, None).await.unwrap();
        let times = async |method: &str, body: &str| {
            let value = body_of(&handle(&state, request(method, "/apisix/admin/routes/2", body)).await);
            let time = |name: &str| value["value"][name].as_i64().unwrap();
            (time("create_time"), time("update_time"))
        };
        assert_eq!(times("PATCH", r#"{"update_time": 5}"#).await, (1, 5), "as the operator says");
        let (created, updated) = times("PATCH", r#"{"desc": "new"}"#).await;
        assert!(created == 1 && updated > 5);
        let (created, updated) = times("PUT", ROUTE).await;
        assert!(created == 1 && updated > 5);
    });
}

/// What a PATCH does not touch stays as it is, secrets too.
#[test]
fn a_patch_leaves_secrets_alone() {
    on_embedded(|state| async move {
        let route = json!({"uri": "/", "upstream": {"nodes": {"127.0.0.1:80": 1}},
            "plugins": {"limit-count": {"secret": "bar"}}});
        handle(&state, request("PUT", "/apisix/admin/routes/1", &route.to_string())).await;
        let secret = async || {
            let stored = state.store.get("/routes/1").await.unwrap().unwrap();
            serde_json::from_slice::<Value>(&stored.value).unwrap()["plugins"]["limit-count"]["secret"]
                .clone()
        };
        assert_eq!(secret().await, "+kOEVUuRc5rC5ZwvvAMLwg==");
        let patched = handle(&state, request("PATCH", "/apisix/admin/routes/1", r#"{"desc":"x"}"#)).await;
        assert_eq!((patched.status, secret().await), (200, json!("+kOEVUuRc5rC5ZwvvAMLwg==")));
    });
}

#[test]
fn a_write_is_answered_without_revisions_and_a_page_has_at_most_500() {
    on_embedded(|state| async move {
        let put = body_of(&handle(&state, request("PUT", "/apisix/admin/routes/1", ROUTE)).await);
        assert!(put.get("createdIndex").is_none() && put.get("modifiedIndex").is_none(), "{put}");
        let page = async |size: u32| {
            let target = format!("/apisix/admin/routes?page=1&page_size={size}");
            handle(&state, request("GET", &target, "")).await.status
        };
        assert_eq!((page(9).await, page(10).await, page(500).await, page(501).await), (400, 200, 200, 400));
        let version_2 = Admin { version_2: true, ..(*state.options()).clone() };
        state.set_options(version_2);
        assert_eq!(page(501).await, 200, "the older shape has no pages");
    });
}

#[test]
fn other_origins_are_let_in_where_the_operator_says_so() {
    on_embedded(|state| async move {
        let origin = async |method: &str| {
            let answer = handle(&state, request(method, "/apisix/admin/routes", "")).await;
            assert!(method != "GET" || answer.header("Content-Type") == Some("application/json"));
            (answer.status, answer.header("Access-Control-Allow-Origin").map(str::to_owned))
        };
        let any = Some("*".to_owned());
        assert_eq!((origin("GET").await, origin("OPTIONS").await), ((200, any.clone()), (200, any)));
        let own = Admin { cors: false, ..(*state.options()).clone() };
        state.set_options(own);
        assert_eq!((origin("GET").await, origin("OPTIONS").await), ((200, None), (404, None)));
    });
}

#[test]
fn the_older_shape() {
    on_embedded(|state| async move {
        let version_2 = Admin { version_2: true, ..(*state.options()).clone() };
        state.set_options(version_2);
        let put = handle(&state, request("PUT", "/apisix/admin/routes/1", ROUTE)).await;
        assert_eq!(put.header("X-API-VERSION"), Some("v2"));
        let put = body_of(&put);
        assert_eq!((&put["action"], &put["node"]["key"]), (&json!("set"), &json!("/apisix/routes/1")));
        let list = body_of(&handle(&state, request("GET", "/apisix/admin/routes", "")).await);
        assert_eq!(list["node"]["nodes"][0]["value"]["uri"], "/index.html");
        let deleted = body_of(&handle(&state, request("DELETE", "/apisix/admin/routes/1", "")).await);
        assert_eq!((&deleted["action"], &deleted["deleted"]), (&json!("delete"), &json!("1")));
    });
}

#[test]
fn the_plugin_list_is_the_operators() {
    on_embedded(|state| async move {
        plugin_list::refresh(&state).await.unwrap();
        assert_eq!(state.store.get("/plugins").await.unwrap(), None);
        handle(&state, request("PUT", "/apisix/admin/plugins/reload", "")).await;
        let list = async || {
            let stored = state.store.get("/plugins").await.unwrap().unwrap();
            (serde_json::from_slice::<Value>(&stored.value).unwrap(), stored.mod_revision)
        };
        let ours =
            json!([{"name": "key-auth"}, {"name": "proxy-cache"}, {"name": "mqtt-proxy", "stream": true}]);
        let (written, revision) = list().await;
        assert_eq!(written, ours);
        plugin_list::refresh(&state).await.unwrap();
        assert_eq!(list().await.1, revision);
        state.store.put("/plugins", "[{\"name\":\"key-auth\"}]".into(), None, None).await.unwrap();
        plugin_list::refresh(&state).await.unwrap();
        assert_eq!(list().await.0, ours);
    });
}
