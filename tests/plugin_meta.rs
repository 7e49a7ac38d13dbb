//! `_meta` of a plugin, and the objects it may stand in: order, conditions, answers in its place.

mod common;

use common::*;
use serde_json::{Value, json};

fn gateway(driver: &'static str, upstream: &Upstream, routes: &[(&str, Value)]) -> Gateway {
    let nodes = json!({ format!("127.0.0.1:{}", upstream.port): 1 });
    let route = |(uri, plugins): &(&str, Value)| {
        let route =
            json!({ "uri": uri, "plugins": plugins, "upstream": { "type": "roundrobin", "nodes": nodes } });
        format!("- {route}\n")
    };
    let routes: String = routes.iter().map(route).collect();
    Gateway::with_yaml(driver, &format!("routes:\n{routes}"))
}

/// ua-restriction stands before referer-restriction, unless `_meta.priority` says otherwise: who comes first refuses.
#[test]
fn priority_changes_the_order_of_one_route() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let both = |agent_meta: Value, referer_meta: Value| {
            json!({
                "ua-restriction": { "allowlist": ["none"], "message": "agent", "_meta": agent_meta },
                "referer-restriction": { "whitelist": ["none"], "message": "referer", "_meta": referer_meta }
            })
        };
        let gateway = gateway(
            driver,
            &upstream,
            &[
                ("/default", both(json!({}), json!({}))),
                ("/raised", both(json!({}), json!({ "priority": 20_000 }))),
                ("/lowered", both(json!({ "priority": -5 }), json!({}))),
            ],
        );
        for (path, first) in [("/default", "agent"), ("/raised", "referer"), ("/lowered", "referer")] {
            let answer = gateway.get(path);
            assert_eq!((answer.status, answer.json()), (403, json!({ "message": first })), "{path}");
        }
    });
}

#[test]
fn filters_disabled_plugins_and_answers_in_place_of_theirs() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let abort = |meta: Value| json!({ "fault-injection": { "abort": { "http_status": 403, "body": "own" }, "_meta": meta } });
        let gateway = gateway(
            driver,
            &upstream,
            &[
                ("/filtered", abort(json!({ "filter": [["arg_a", "==", "1"]] }))),
                ("/disabled", abort(json!({ "disable": true }))),
                ("/text", abort(json!({ "error_response": "in its place" }))),
                ("/table", abort(json!({ "error_response": { "why": "not you" } }))),
            ],
        );
        let said = |target: &str| {
            let answer = gateway.get(target);
            (answer.status, answer.text().trim_end().to_owned())
        };
        for (target, status, text) in [
            ("/filtered?a=1", 403, "own"),
            ("/filtered?a=2", 200, "served"),
            ("/filtered", 200, "served"),
            ("/disabled", 200, "served"),
            ("/text", 403, "in its place"),
            ("/table", 403, r#"{"why":"not you"}"#),
        ] {
            assert_eq!(said(target), (status, text.to_owned()), "{target}");
        }
    });
}
