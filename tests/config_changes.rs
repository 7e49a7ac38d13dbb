//! Configuration that changes while requests run.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use serde_json::{Value, json};

fn embedded(driver: &'static str) -> Gateway {
    Setup::new(driver, Source::Embedded).start()
}

fn route(uri: &str, upstream: &Upstream) -> Value {
    json!({"uri": uri, "upstream": {"type": "roundrobin", "nodes": {format!("127.0.0.1:{}", upstream.port): 1}}})
}

#[test]
fn what_the_admin_api_writes_is_live_when_it_returns() {
    on_both_drivers(|driver| {
        let (first, second) = (Upstream::answering(ok("first")), Upstream::answering(ok("second")));
        let gateway = embedded(driver);
        // as many connections as it takes to meet every core
        let all = |status: u16, text: &str| {
            for _ in 0..8 {
                let answer = gateway.get("/a");
                assert_eq!(answer.status, status, "{answer}");
                assert!(answer.text().starts_with(text), "{answer}");
            }
        };
        all(404, "{\"error_msg\"");
        assert_eq!(gateway.put("/routes/1", &route("/a", &first)).status, 201);
        all(200, "first");
        assert_eq!(gateway.put("/routes/1", &route("/a", &second)).status, 200);
        all(200, "second");
        gateway.delete("/routes/1");
        all(404, "{\"error_msg\"");
    });
}

#[test]
fn a_change_of_an_upstream_reaches_its_routes() {
    on_both_drivers(|driver| {
        let (first, second) = (Upstream::answering(ok("first")), Upstream::answering(ok("second")));
        let gateway = embedded(driver);
        let nodes = |upstream: &Upstream| json!({"nodes": {format!("127.0.0.1:{}", upstream.port): 1}});
        gateway.put("/upstreams/u", &nodes(&first));
        gateway.put("/services/s", &json!({"upstream_id": "u"}));
        gateway.put("/routes/direct", &json!({"uri": "/direct", "upstream_id": "u"}));
        gateway.put("/routes/service", &json!({"uri": "/service", "service_id": "s"}));
        for target in ["/direct", "/service"] {
            assert_eq!(gateway.get(target).text(), "first", "{target}");
        }
        gateway.put("/upstreams/u", &nodes(&second));
        for target in ["/direct", "/service"] {
            assert_eq!(gateway.get(target).text(), "second", "{target}");
        }
        let refused = gateway.admin("DELETE", "/upstreams/u", "");
        assert_eq!(refused.status, 400, "{refused}");
        gateway.admin("DELETE", "/upstreams/u?force=true&wait=5000", "");
        assert_eq!(gateway.get("/direct").status, 502);
    });
}

#[test]
fn the_embedded_store_keeps_what_was_acknowledged() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("kept"));
        let mut gateway = embedded(driver);
        for n in 0..30 {
            gateway.put(&format!("/routes/{n}"), &route(&format!("/{n}"), &upstream));
        }
        gateway.delete("/routes/7");
        // a write without waiting, and at once the end
        let path = "/routes/last";
        assert_eq!(gateway.admin("PUT", path, &route("/last", &upstream).to_string()).status, 201);
        gateway.kill();
        gateway.start_again();
        for target in ["/0", "/29", "/last"] {
            assert_eq!(gateway.get(target).text(), "kept", "{target}");
        }
        assert_eq!(gateway.get("/7").status, 404);
        assert_eq!(gateway.admin("GET", "/routes", "").json()["total"], json!(30));
    });
}

#[test]
fn a_bad_object_is_left_out_and_named() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("good"));
        let port = upstream.port;
        let gateway = Gateway::with_yaml(
            driver,
            &format!(
                "routes:\n\
                 - {{id: good, uri: /good, upstream: {{nodes: {{\"127.0.0.1:{port}\": 1}}}}}}\n\
                 - {{id: bad-priority, uri: /bad, priority: high, upstream: {{nodes: {{\"127.0.0.1:{port}\": 1}}}}}}\n\
                 - {{id: bad-uri, uri: 5}}\n\
                 - {{id: also-good, uri: /also, upstream: {{nodes: {{\"127.0.0.1:{port}\": 1}}}}}}"
            ),
        );
        assert_eq!(gateway.get("/good").text(), "good");
        assert_eq!(gateway.get("/also").text(), "good");
        assert_eq!(gateway.get("/bad").status, 404);
        let log = gateway.read_until("logs/error.log", "bad-uri");
        assert!(log.contains("bad-priority"), "{log}");
    });
}

#[test]
fn a_file_that_is_rewritten_is_applied() {
    on_both_drivers(|driver| {
        let (first, second) = (Upstream::answering(ok("first")), Upstream::answering(ok("second")));
        let gateway = Gateway::to(driver, first.port);
        assert_eq!(gateway.get("/").text(), "first");
        gateway.rewrite_yaml(&everything_to(second.port));
        eventually("the new file", || gateway.get("/").text() == "second");
        // without its end it does not count
        std::fs::write(gateway.path("conf/apisix.yaml"), everything_to(first.port)).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(gateway.get("/").text(), "second");
        gateway.rewrite_yaml("routes: []");
        eventually("no route", || gateway.get("/").status == 404);
    });
}

/// A route that needs a plugin is not there without it, and there as soon as the plugin is.
#[test]
fn a_new_list_of_plugins_in_a_file_counts_for_all_its_routes() {
    let upstream = Upstream::answering_unseen(ok("hi"));
    let objects = |plugins: &str| {
        format!(
            "plugins: [{plugins}]\n\
             routes:\n\
             - {{uri: /guarded, plugins: {{key-auth: {{}}}}, upstream: {{nodes: {{\"127.0.0.1:{0}\": 1}}}}}}\n\
             - {{uri: /open, upstream: {{nodes: {{\"127.0.0.1:{0}\": 1}}}}}}",
            upstream.port
        )
    };
    let gateway = Gateway::with_yaml("epoll", &objects("{name: cors}"));
    let statuses = || ["/guarded", "/open"].map(|target| gateway.get(target).status);
    assert_eq!(statuses(), [404, 200]);
    gateway.rewrite_yaml(&objects("{name: key-auth}"));
    eventually("the guard", || statuses() == [401, 200]);
    gateway.rewrite_yaml(&objects("{name: cors}"));
    eventually("no route without its guard", || {
        let now = statuses();
        assert_ne!(now[0], 200);
        now == [404, 200]
    });
}

/// Requests on several connections, until they are told to stop: with pauses, for the changes need the host, too.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(gateway: &Gateway, target: &'static str) -> Load {
        let (stop, done): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let threads = (0..4).map(|n| {
            let (stop, done, port) = (stop.clone(), done.clone(), gateway.port());
            std::thread::spawn(move || {
                let mut client = Client::connect(port);
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).response();
                    assert_eq!(answer.status, 200, "connection {n}: {answer}");
                    assert!(answer.whole);
                    done.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(500));
                    if answer.header("connection") == Some("close") {
                        client = Client::connect(port); // keepalive_requests
                    }
                }
            })
        });
        Load { threads: threads.collect(), stop, done }
    }

    /// Fails if any request has.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no request failed");
        }
        self.done.load(Ordering::Relaxed)
    }
}

#[test]
fn a_thousand_changes_under_load_fail_no_request() {
    on_both_drivers(|driver| {
        let upstreams = ["a", "b"].map(|body| Upstream::answering_unseen(ok(body)));
        let gateway = embedded(driver);
        gateway.put("/routes/busy", &route("/busy", &upstreams[0]));
        let load = Load::start(&gateway, "/busy");
        let call = |method: &str, path: &str, body: &Value| {
            let answer = gateway.admin(method, path, &body.to_string());
            assert!(matches!(answer.status, 200 | 201), "{method} {path}: {answer}");
        };
        for n in 0..250 {
            call("PUT", "/routes/busy", &route("/busy", &upstreams[n % 2]));
            call("PUT", "/routes/other", &route(&format!("/other/{n}"), &upstreams[0]));
            call(
                "PUT",
                "/upstreams/u",
                &json!({"nodes": {format!("127.0.0.1:{}", upstreams[n % 2].port): 1}}),
            );
            call("DELETE", "/routes/other", &json!(null));
        }
        let served = load.stop();
        assert!(served > 100, "{served} requests");
    });
}

/// A request in flight keeps the configuration that it began with.
#[test]
fn a_request_under_way_is_not_disturbed() {
    on_both_drivers(|driver| {
        let (upstream, gate) = Upstream::held("late");
        let gateway = embedded(driver);
        gateway.put("/routes/1", &route("/slow", &upstream));
        let mut client = gateway.connect();
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.wait_for(1);
        gateway.delete("/routes/1");
        assert_eq!(gateway.get("/slow").status, 404);
        gate.open();
        assert_eq!(client.response().text(), "late");
    });
}
