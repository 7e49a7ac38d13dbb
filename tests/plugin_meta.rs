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

/// A plugin that changes what its filter looks at stays in to the end of the answer: its body goes with its status.
/// Once the consumer is known the filters of the route are asked anew.
#[test]
fn a_filter_is_asked_once_and_again_when_the_consumer_is_known() {
    on_both_drivers(|driver| {
        let failing = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 7\r\n\r\ntrouble";
        let upstream = Upstream::answering_unseen(failing);
        let nodes = json!({ "type": "roundrobin", "nodes": { format!("127.0.0.1:{}", upstream.port): 1 } });
        let sorry =
            json!({ "status_code": 200, "body": "sorry", "_meta": { "filter": [["status", "==", 500]] } });
        let plugins = json!({
            "key-auth": {},
            "cors": { "_meta": { "filter": [["consumer_name", "==", "ann"]] } },
            "response-rewrite": sorry
        });
        let route = json!({ "uri": "/*", "plugins": plugins, "upstream": nodes });
        let consumer = |name: &str| json!({ "username": name, "plugins": { "key-auth": { "key": name } } });
        let gateway = Gateway::with_yaml(
            driver,
            &format!("routes:\n- {route}\nconsumers:\n- {}\n- {}\n", consumer("ann"), consumer("bob")),
        );
        for (key, origin) in [("ann", Some("*")), ("bob", None)] {
            let answer =
                request(gateway.port(), "GET", "/", &format!("Host: gateway.test\r\napikey: {key}\r\n"));
            assert_eq!((answer.status, answer.text()), (200, "sorry".into()), "{key}");
            assert_eq!(answer.header("Access-Control-Allow-Origin"), origin, "{key}");
        }
    });
}

/// A priority counts among all plugins of a request that come together, whichever object they stand in: those of the
/// service, the plugin config and the consumer beside the route's, and those of a global rule among themselves.
/// In the rewrite phase a consumer's plugins run behind the route's, whatever their priority says.
#[test]
fn priority_counts_across_objects() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        // ua-restriction stands before referer-restriction, and fault-injection before uri-blocker
        let agent = json!({ "allowlist": ["none"], "message": "agent" });
        let referer = json!({ "referer-restriction": { "whitelist": ["none"], "message": "referer", "_meta": { "priority": 20_000 } } });
        let nodes = json!({ "type": "roundrobin", "nodes": { format!("127.0.0.1:{}", upstream.port): 1 } });
        let blocker = json!({ "block_rules": ["^/"], "rejected_msg": "route" });
        let objects = [
            ("services", json!({ "id": "s", "plugins": referer, "upstream": nodes })),
            ("plugin_configs", json!({ "id": "p", "plugins": referer })),
            (
                "consumers",
                json!({ "username": "ann", "plugins": { "key-auth": { "key": "ann" },
                    "referer-restriction": referer["referer-restriction"] } }),
            ),
            (
                "consumers",
                json!({ "username": "bob", "plugins": { "key-auth": { "key": "bob" },
                    "fault-injection": { "abort": { "http_status": 403, "body": "consumer" } } } }),
            ),
            (
                "routes",
                json!({ "id": "s", "uri": "/service", "service_id": "s", "plugins": { "ua-restriction": agent } }),
            ),
            (
                "routes",
                json!({ "id": "p", "uri": "/config", "plugin_config_id": "p", "upstream": nodes,
                    "plugins": { "ua-restriction": agent } }),
            ),
            (
                "routes",
                json!({ "id": "c", "uri": "/access", "upstream": nodes,
                    "plugins": { "key-auth": {}, "ua-restriction": agent } }),
            ),
            (
                "routes",
                json!({ "id": "r", "uri": "/rewrite", "upstream": nodes,
                    "plugins": { "key-auth": {}, "uri-blocker": blocker } }),
            ),
            (
                "global_rules",
                json!({ "id": "g", "plugins": {
                    "ua-restriction": { "denylist": ["global"], "bypass_missing": true, "message": "agent of all" },
                    "referer-restriction": { "blacklist": ["global.com"], "bypass_missing": true, "message": "referer of all",
                        "_meta": { "priority": 20_000 } } } }),
            ),
        ];
        let mut lists: std::collections::BTreeMap<&str, String> = Default::default();
        for (list, object) in objects {
            *lists.entry(list).or_default() += &format!("- {object}\n");
        }
        let yaml: String = lists.iter().map(|(list, objects)| format!("{list}:\n{objects}")).collect();
        let gateway = Gateway::with_yaml(driver, &yaml);
        for (target, fields, said) in [
            ("/service", "Host: gateway.test\r\n", "referer"),
            ("/config", "Host: gateway.test\r\n", "referer"),
            ("/access", "Host: gateway.test\r\napikey: ann\r\n", "referer"),
            ("/rewrite", "Host: gateway.test\r\napikey: bob\r\n", "route"),
            (
                "/service",
                "Host: gateway.test\r\nUser-Agent: global\r\nReferer: http://global.com/\r\n",
                "referer of all",
            ),
        ] {
            let answer = request(gateway.port(), "GET", target, fields);
            assert_eq!(answer.status, 403, "{target}");
            assert!(answer.text().contains(&format!("\"{said}\"")), "{target}: {}", answer.text());
        }
    });
}

#[test]
fn what_would_need_lua_never_opens_a_route() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let echo = json!({ "echo": { "body": "x", "_meta": { "pre_function": "return function() end" } } });
        let gateway = gateway(driver, &upstream, &[("/lua", echo)]);
        assert_eq!(gateway.get("/lua").status, 503);
        gateway.read_until("logs/error.log", "_meta.pre_function");
    });
}

/// A body that is read for a variable is read behind authentication, and bounded by client-control whatever its framing.
#[test]
fn a_body_is_read_for_a_variable_behind_authentication_and_within_its_bound() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let limited =
            json!({ "count": 100, "time_window": 60, "key": "$post_arg.a", "key_type": "var_combination" });
        let gateway = gateway(
            driver,
            &upstream,
            &[
                ("/auth", json!({ "key-auth": {}, "limit-count": limited })),
                ("/bound", json!({ "client-control": { "max_body_size": 4 }, "limit-count": limited })),
                (
                    "/count",
                    json!({ "limit-count": { "count": 1, "time_window": 60, "key": "$post_arg.a", "key_type": "var_combination" } }),
                ),
            ],
        );
        let asked = |path: &str, body: &str| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            let mut client = gateway.connect();
            client.send(format!("{head}{body}")).response().status
        };
        // its body has not come, and nobody waits for it
        assert_eq!(asked("/auth", ""), 401);
        assert_eq!(asked("/bound", "6\r\n123456\r\n"), 413, "its end is not waited for");
        assert_eq!(asked("/bound", "4\r\n1234\r\n0\r\n\r\n"), 200);
        for (value, status) in [(1, 200), (2, 200), (1, 503)] {
            assert_eq!(asked("/count", &format!("7\r\n{{\"a\":{value}}}\r\n0\r\n\r\n")), status, "{value}");
        }
    });
}

/// workflow.lua: what it has run of a plugin stands in the place of the route's own.
#[test]
fn a_plugin_that_a_workflow_has_run_does_not_run_again() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let limit =
            |count| json!({ "count": count, "time_window": 60, "key": "remote_addr", "rejected_code": 429 });
        let rule = json!({ "case": [["uri", "==", "/"]], "actions": [["limit-count", limit(3)]] });
        let plugins = json!({ "workflow": { "rules": [rule] }, "limit-count": limit(1) });
        let gateway = gateway(driver, &upstream, &[("/*", plugins)]);
        let statuses = |target: &str| [(); 4].map(|()| gateway.get(target).status);
        assert_eq!(statuses("/"), [200, 200, 200, 429]);
        assert_eq!(statuses("/own"), [200, 429, 429, 429], "nothing was taken of it before");
    });
}
