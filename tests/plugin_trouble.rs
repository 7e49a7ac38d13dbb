//! Plugins in trouble: full disks, absent collectors, a silent Redis, secrets in the hands of strangers, reloads.

mod common;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::*;
use serde_json::{Value, json};

/// A route in apisix.yaml, as a line of JSON.
fn route(uri: &str, upstream: u16, plugins: Value) -> String {
    let nodes = json!({ format!("127.0.0.1:{upstream}"): 1 });
    let route =
        json!({ "uri": uri, "plugins": plugins, "upstream": { "type": "roundrobin", "nodes": nodes } });
    format!("- {route}\n")
}

fn metrics(gateway: &Gateway) -> String {
    get(gateway.ports.metrics, "/apisix/prometheus/metrics").text()
}

/// The value of the series that begins so; 0 if there is none.
fn value(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|rest| rest.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_full_disk_costs_lines_and_no_request() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("hi"));
        let plugins = json!({ "file-logger": { "path": "/dev/full" } });
        let gateway =
            Setup::new(driver, Source::Yaml(format!("routes:\n{}", route("/*", upstream.port, plugins))))
                .http("access_log: /dev/full")
                .nginx("error_log: /dev/full")
                .start();
        let mut client = gateway.connect();
        for _ in 0..200 {
            assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().status, 200);
        }
        for log in ["file-logger", "access"] {
            let lost = format!("apisix_dropped_log_lines_total{{log=\"{log}\"}}");
            eventually("lost lines are counted", || value(&metrics(&gateway), &lost) >= 200);
        }
    });
}

#[test]
fn absent_collectors_cost_entries_and_no_request() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("hi"));
        let nobody = free_port();
        let plugins = json!({
            "http-logger": { "uri": format!("http://127.0.0.1:{nobody}/"), "batch_max_size": 1 },
            "tcp-logger": { "host": "127.0.0.1", "port": nobody, "batch_max_size": 1 },
            "udp-logger": { "host": "127.0.0.1", "port": nobody, "batch_max_size": 1 },
            "syslog": { "host": "127.0.0.1", "port": nobody, "sock_type": "tcp" }
        });
        let gateway =
            Gateway::with_yaml(driver, &format!("routes:\n{}", route("/*", upstream.port, plugins)));
        let mut client = gateway.connect();
        let began = Instant::now();
        for _ in 0..200 {
            assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().status, 200);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "nobody waits for a collector");
        for log in ["http-logger", "tcp-logger", "syslog"] {
            let series = format!("apisix_dropped_log_lines_total{{log=\"{log}\"}}");
            eventually(&series, || value(&metrics(&gateway), &series) > 0);
        }
    });
}

/// A Redis that takes connections and says nothing: requests wait for `redis_timeout`, then go on or not.
#[test]
fn a_silent_redis_holds_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let redis = silent.local_addr().unwrap().port();
    let upstream = Upstream::answering_unseen(ok("hi"));
    for (name, limit) in [
        ("limit-count", json!({ "count": 1, "time_window": 60 })),
        ("limit-req", json!({ "rate": 1, "burst": 0, "key": "remote_addr" })),
        ("limit-conn", json!({ "conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr" })),
    ] {
        let conf = |degrades: bool| {
            let mut conf = limit.clone();
            for (field, value) in [
                ("policy", json!("redis")),
                ("redis_host", json!("127.0.0.1")),
                ("redis_port", json!(redis)),
                ("redis_timeout", json!(100)),
                ("redis_password", json!("s3cret-of-redis")),
                ("allow_degradation", json!(degrades)),
            ] {
                conf[field] = value;
            }
            json!({ name: conf })
        };
        let routes = [route("/open", upstream.port, conf(true)), route("/shut", upstream.port, conf(false))];
        let gateway = Gateway::with_yaml("epoll", &format!("routes:\n{}", routes.concat()));
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(gateway.get("/open").status, 200, "{name}");
            assert_eq!(gateway.get("/shut").status, 500, "{name}");
            assert!(began.elapsed() < Duration::from_secs(2), "{name}");
        }
        assert!(!gateway.read("logs/error.log").contains("s3cret-of-redis"), "{name}");
    }
}

/// Whatever a stranger sends, and whatever the operator gets wrong: no log line, no error text and nothing that the
/// Control API or the metrics show has a secret in it.
#[test]
fn secrets_stay_secret() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("hi"));
        let gateway = Setup::new(driver, Source::Embedded).start();
        let secret = |of: &str| format!("s3cret-of-{of}-that-nobody-may-see");
        let mut said = String::new();
        let consumer = json!({ "username": "anna", "plugins": {
            "key-auth": { "key": secret("key") },
            "basic-auth": { "username": "anna", "password": secret("basic") },
            "jwt-auth": { "key": "anna", "secret": secret("jwt") },
            "hmac-auth": { "key_id": "anna", "secret_key": secret("hmac") }
        } });
        gateway.put("/consumers/anna", &consumer);
        for (name, conf) in [
            ("key-auth", json!({})),
            ("basic-auth", json!({})),
            ("jwt-auth", json!({})),
            ("hmac-auth", json!({})),
            ("csrf", json!({ "key": secret("csrf") })),
        ] {
            let nodes = json!({ format!("127.0.0.1:{}", upstream.port): 1 });
            gateway.put(
                &format!("/routes/{name}"),
                &json!({ "uri": format!("/{name}"), "plugins": { name: conf, "prometheus": {} },
                    "upstream": { "type": "roundrobin", "nodes": nodes } }),
            );
            // what a client mistypes is nearly a secret
            for fields in [
                "",
                "apikey: s3cret-of-a-typo\r\n",
                "Authorization: Basic YW5uYTpzM2NyZXQtb2YtYS10eXBv\r\n", // anna:s3cret-of-a-typo
                "Authorization: Basic %%%\r\n",
                "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJrZXkiOiJhbm5hIn0.d3Jvbmc\r\n",
                "Authorization: Signature keyId=\"anna\",algorithm=\"hmac-sha256\",headers=\"date\",signature=\"x\"\r\n",
                "Cookie: apisix-csrf-token=x\r\napisix-csrf-token: x\r\n",
            ] {
                let head = format!("Host: a\r\nContent-Length: 0\r\n{fields}");
                let answer = request(gateway.port(), "POST", &format!("/{name}"), &head);
                assert_eq!(answer.status, 401, "{name} {fields}: {answer}");
                said.push_str(&answer.to_string());
            }
        }
        // configurations that are refused
        for plugins in [
            json!({ "key-auth": { "key": [secret("list")] } }),
            json!({ "jwt-auth": { "key": "anna", "secret": secret("bad"), "algorithm": "HS1" } }),
            json!({ "basic-auth": { "username": 1, "password": secret("bad") } }),
            json!({ "hmac-auth": { "key_id": "", "secret_key": secret("bad") } }),
        ] {
            let body = json!({ "username": "bad", "plugins": plugins }).to_string();
            let answer = gateway.admin("PUT", "/consumers/bad", &body);
            assert_eq!(answer.status, 400, "{answer}");
            said.push_str(&answer.to_string());
        }
        for path in ["/v1/routes", "/v1/schema", "/v1/plugin_metadatas"] {
            said.push_str(&get(gateway.ports.control, path).text());
        }
        said.push_str(&metrics(&gateway));
        said.push_str(&gateway.read("logs/error.log"));
        said.push_str(&gateway.read("logs/access.log"));
        let found =
            said.find("s3cret-of-").map(|at| &said[at.saturating_sub(300)..(at + 60).min(said.len())]);
        assert_eq!(found, None);
    });
}

/// New cores go on with the numbers of the old ones: nothing is lost, nothing grows with the reloads.
#[test]
fn metrics_survive_reloads() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("hi"));
        let gateway = Gateway::with_yaml(
            driver,
            &format!("routes:\n{}", route("/*", upstream.port, json!({ "prometheus": {} }))),
        );
        for round in 1..=4 {
            assert_eq!(gateway.get("/").status, 200);
            eventually("the request is counted", || {
                value(&metrics(&gateway), "apisix_http_status{code=\"200\"") == round
            });
            gateway.signal("HUP");
            let reloads = || gateway.read("logs/error.log").matches("the configuration is reloaded").count();
            eventually("the reload", || reloads() as u64 == round);
        }
        eventually("the old cores are gone", || {
            value(&metrics(&gateway), "apisix_nginx_http_current_connections{state=\"active\"}") == 0
        });
    });
}

/// As nginx's stub_status does: one client is silent, one has sent half a head, one is waiting for its answer.
#[test]
fn connections_are_reading_writing_or_waiting() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.head();
            conn.drain();
        });
        let gateway = Gateway::to(driver, upstream.port);
        let counted = || {
            let page = metrics(&gateway);
            let states = ["active", "reading", "writing", "waiting"];
            let name = |state| format!("apisix_nginx_http_current_connections{{state=\"{state}\"}}");
            (states.map(|state| value(&page, &name(state))), value(&page, "apisix_http_requests_total"))
        };
        let (_silent, mut half, mut whole) = (gateway.connect(), gateway.connect(), gateway.connect());
        half.send("GET / HTTP/1.1\r\nHo");
        whole.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("each of the three is counted for what it does", || counted() == ([3, 1, 1, 1], 2));
        half.send("st: a\r\n\r\n");
        eventually("the half head is whole", || counted() == ([3, 0, 2, 1], 2));
        drop((half, whole));
        eventually("both are gone", || counted() == ([1, 0, 0, 1], 2));
    });
}

/// Without buffering the upstream has the request while the client still writes its body; with it, when that has ended.
#[test]
fn proxy_control_sends_at_once_or_collects() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            if let Some(head) = conn.head() {
                conn.remember(&head);
                let _ = conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly");
                conn.drain();
            }
        });
        let conf = |buffers: bool| json!({ "proxy-control": { "request_buffering": buffers } });
        let routes =
            [route("/collected", upstream.port, conf(true)), route("/at-once", upstream.port, conf(false))];
        let gateway = Gateway::with_yaml(driver, &format!("routes:\n{}", routes.concat()));
        let begin = |path: &str| {
            let mut client = gateway.connect();
            client.send(format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
            ));
            client
        };
        let mut client = begin("/collected");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(upstream.requests().len(), 0, "the body has not ended");
        client.send("3\r\ntwo\r\n0\r\n\r\n");
        assert_eq!(client.response().status, 200);
        assert_eq!(upstream.last().header("content-length"), Some("6"));
        let mut client = begin("/at-once");
        assert_eq!(client.response().status, 200, "answered within the body");
        assert_eq!(upstream.last().header("transfer-encoding"), Some("chunked"));
    });
}
