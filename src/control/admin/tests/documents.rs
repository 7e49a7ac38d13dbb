//! Whole configurations: `/configs/validate`, and the API-driven standalone mode.

use super::*;
use crate::control::store::Standalone;

fn on_standalone<F: Future<Output = ()>>(test: impl FnOnce(Arc<AdminState>) -> F) {
    block_on(async { test(world(Store::Standalone(Standalone::default())).await).await });
}

async fn put(state: &AdminState, digest: &str, body: &str) -> (u16, Value) {
    let mut request = request("PUT", "/apisix/admin/configs", body);
    if !digest.is_empty() {
        request.headers.insert("x-digest", digest.parse().unwrap());
    }
    let response = handle(state, request).await;
    (response.status, body_of(&response))
}

const ONE: &str = r#"{"routes":[{"id":"r","uri":"/r","upstream_id":"nowhere"}]}"#;

#[test]
fn a_document_is_checked_and_nothing_is_written() {
    on_embedded(|state| async move {
        let wrong = r#"{"routes":[{"id":"a","uri":1,"upstream_id":1},{"id":"b","uri":"/","upstream_id":1},{"id":"b","uri":"/","upstream_id":1}],
            "consumers":[{"username":"j"},{"username":"j"}],"upstreams_conf_version":"1"}"#;
        let failed =
            |errors: Value| json!({"error_msg": "Configuration validation failed", "errors": errors});
        let uri = "property \"uri\" validation failed: wrong type: expected string, got number";
        let errors = failed(json!([
            {"resource_type": "upstreams", "error": "upstreams_conf_version must be a number"},
            {"resource_type": "consumers", "resource_id": "j", "index": 1,
             "error": "found duplicate username j in consumers"},
            {"resource_type": "routes", "resource_id": "a", "index": 0,
             "error": format!("invalid configuration: {uri}")},
            {"resource_type": "routes", "resource_id": "b", "index": 2, "error": "found duplicate id b in routes"},
        ]));
        run(
            &state,
            &[
                ("POST", "/configs/validate", ONE, 200, json!({})),
                ("POST", "/configs/validate", wrong, 400, errors),
                ("POST", "/configs/validate", "", 400, error("invalid request body: empty request body")),
                ("GET", "/routes", "", 200, json!({"total": 0})),
                ("GET", "/configs", "", 404, error("Unsupported resource type: configs")),
            ],
        )
        .await;
    });
}

#[test]
fn a_document_replaces_the_configuration() {
    on_standalone(|state| async move {
        assert_eq!(put(&state, "", ONE).await, (400, error("missing digest header")));
        assert_eq!(put(&state, "1", ONE).await.0, 202);
        assert_eq!(put(&state, "1", "{}").await.0, 204, "the same digest");
        state.feed.reached(1).await;
        assert!(state.feed.model().get(Kind::Route, "r").is_some());
        let got = handle(&state, request("GET", "/apisix/admin/configs", "")).await;
        assert_eq!(got.header("X-Digest"), Some("1"));
        assert_eq!(body_of(&got)["routes"][0]["uri"], "/r");
        assert_eq!(body_of(&got)["routes_conf_version"], 1);
        assert_eq!(put(&state, "2", "{}").await.0, 202);
        state.feed.reached(2).await;
        assert!(state.feed.model().get(Kind::Route, "r").is_none());
        assert_eq!(handle(&state, request("GET", "/apisix/admin/routes", "")).await.status, 404);
    });
}

#[test]
fn a_list_whose_version_stays_is_kept() {
    on_standalone(|state| async move {
        let versioned = |version: i64, uri: &str| {
            format!(
                r#"{{"routes_conf_version":{version},"routes":[{{"id":"r","uri":"{uri}","upstream_id":1}}]}}"#
            )
        };
        assert_eq!(put(&state, "1", &versioned(1000, "/a")).await.0, 202);
        assert_eq!(put(&state, "2", &versioned(1000, "/b")).await.0, 202);
        let uri = |state: &AdminState| {
            let Store::Standalone(store) = &state.store else { panic!() };
            store.document().unwrap()["routes"][0]["uri"].clone()
        };
        assert_eq!(uri(&state), "/a");
        let lower = error("routes_conf_version must be greater than or equal to (1000)");
        assert_eq!(put(&state, "3", &versioned(999, "/b")).await, (400, lower));
        assert_eq!(put(&state, "4", &versioned(1001, "/b")).await.0, 202);
        assert_eq!(uri(&state), "/b");
    });
}

#[test]
fn yaml_is_read_and_written() {
    on_standalone(|state| async move {
        let mut yaml =
            request("PUT", "/apisix/admin/configs", "routes:\n- id: 1\n  uri: /y\n  upstream_id: u\n");
        yaml.headers.insert("content-type", "application/yaml".parse().unwrap());
        yaml.headers.insert("x-digest", "y".parse().unwrap());
        assert_eq!(handle(&state, yaml).await.status, 202);
        let mut get = request("GET", "/apisix/admin/configs", "");
        get.headers.insert("accept", "application/yaml".parse().unwrap());
        let got = handle(&state, get).await;
        assert_eq!(got.header("Content-Type"), Some("application/yaml"));
        assert!(String::from_utf8_lossy(&got.body).contains("\"uri\": \"/y\""));
    });
}
