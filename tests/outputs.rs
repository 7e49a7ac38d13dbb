//! Plugins that speak to others, in a running gateway: an auth server, log collectors, files, the gateway itself.

mod common;

use std::io::Read;
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

/// The auth server is found by its name, which control resolves, and asked on kept connections.
#[test]
fn forward_auth_asks_another_server() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let auth = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                conn.remember(&request);
                let answer = match request.header("authorization") {
                    Some("good") => "HTTP/1.1 200 OK\r\nX-User: anna\r\nContent-Length: 0\r\n\r\n",
                    _ => "HTTP/1.1 401 No\r\nX-Why: who\r\nContent-Length: 2\r\n\r\nno",
                };
                if conn.send(answer).is_err() {
                    return;
                }
            }
        });
        let plugins = json!({ "forward-auth": { "uri": format!("http://localhost:{}/auth", auth.port),
            "request_headers": ["Authorization"], "upstream_headers": ["X-User"], "client_headers": ["X-Why"] } });
        let gateway =
            Gateway::with_yaml(driver, &format!("routes:\n{}", route("/*", upstream.port, plugins)));
        for _ in 0..2 {
            let answer = request(
                gateway.port(),
                "GET",
                "/a?b",
                "Host: x\r\nAuthorization: good\r\nX-User: forged\r\n",
            );
            assert_eq!(answer.status, 200, "{answer}");
            assert_eq!(upstream.last().all("x-user"), ["anna"]);
            let asked = auth.last();
            assert_eq!((asked.target.as_str(), asked.header("x-forwarded-uri")), ("/auth", Some("/a?b")));
        }
        let answer = request(gateway.port(), "GET", "/a", "Host: x\r\nAuthorization: bad\r\n");
        assert_eq!((answer.status, answer.header("x-why"), &*answer.text()), (401, Some("who"), "no"));
    });
}

#[test]
fn gzip_compresses_what_the_upstream_streams() {
    on_both_drivers(|driver| {
        let text = "a line that comes again\n".repeat(10_000);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        let upstream = Upstream::answering(answer);
        let plugins = json!({ "gzip": { "vary": true } });
        let gateway =
            Gateway::with_yaml(driver, &format!("routes:\n{}", route("/*", upstream.port, plugins)));
        let answer = request(gateway.port(), "GET", "/", "Host: x\r\nAccept-Encoding: gzip\r\n");
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        assert_eq!(
            (answer.header("etag"), answer.header("vary")),
            (Some("W/\"1\""), Some("Accept-Encoding"))
        );
        assert!(answer.body.len() < text.len() / 20, "{} bytes", answer.body.len());
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&*answer.body).read_to_string(&mut plain).unwrap();
        assert!(plain == text);
        let plain = gateway.get("/");
        assert_eq!((plain.header("content-encoding"), plain.body.len()), (None, text.len()));
    });
}

/// t/cli/test_proxy_buffering.sh: each event is sent when the client has the one before.
#[test]
fn events_reach_the_client_as_they_are_sent() {
    on_both_drivers(|driver| {
        let read = Gate::default();
        let has_read = read.clone();
        let upstream = Upstream::start(move |conn| {
            conn.request();
            let _ =
                conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
            for event in 0..3 {
                let _ = conn.send(format!("data: {event}\n\n"));
                has_read.pass();
            }
        });
        let nginx = Nginx::start(&format!(
            "location /events {{ proxy_pass http://127.0.0.1:{}; proxy_buffering off; }}",
            upstream.port
        ));
        for (scheme, port, plugins) in [
            ("http", upstream.port, json!({})),
            ("http", upstream.port, json!({"proxy-buffering": {"disable_proxy_buffering": true}})),
            ("https", nginx.tls_port, json!({"proxy-buffering": {"disable_proxy_buffering": true}})),
        ] {
            let nodes = json!({format!("127.0.0.1:{port}"): 1});
            let route =
                json!({"uri": "/*", "plugins": plugins, "upstream": {"scheme": scheme, "nodes": nodes}});
            let gateway = Gateway::with_yaml(driver, &format!("routes:\n- {route}"));
            let mut client = gateway.connect();
            client.send("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
            let mut answer = Vec::new();
            for event in 0..3 {
                let wanted = format!("data: {event}\n\n");
                while !String::from_utf8_lossy(&answer).contains(&wanted) {
                    let piece = &mut [0; 1024];
                    let length = client.stream().read(piece).unwrap();
                    assert_ne!(length, 0, "{}", String::from_utf8_lossy(&answer));
                    answer.extend_from_slice(&piece[..length]);
                }
                read.let_one_pass();
            }
        }
    });
}

#[test]
fn public_endpoints() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let routes = [
            route("/batch", 1, json!({ "public-api": { "uri": "/apisix/batch-requests" } })),
            route("/metrics", 1, json!({ "public-api": { "uri": "/apisix/prometheus/metrics" } })),
            route("/apisix/status", 1, json!({ "public-api": {} })),
            route("/to/*", upstream.port, json!({})),
        ];
        let gateway = Setup::new(driver, Source::Yaml(format!("routes:\n{}", routes.concat())))
            .rest("plugins: [public-api, batch-requests, prometheus, node-status]")
            .start();
        let batch = r#"{"headers":{"X-All":"1"},"pipeline":[{"path":"/to/a"},{"path":"/none"},{"path":"/to/b","method":"POST","body":"x"}]}"#;
        let mut client = gateway.connect();
        let length = batch.len();
        let answer = client
            .send(format!("POST /batch HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{batch}"))
            .response();
        assert_eq!(answer.status, 200, "{answer}");
        let answers = answer.json();
        let statuses: Vec<_> = answers.as_array().unwrap().iter().map(|one| one["status"].as_u64()).collect();
        assert_eq!(statuses, [Some(200), Some(404), Some(200)]);
        assert!(answers[0]["body"].as_str().unwrap().to_ascii_lowercase().contains("x-all: 1"), "{answers}");
        let metrics = gateway.get("/metrics");
        assert!(metrics.text().contains("apisix_node_info"), "{metrics}");
        let status = gateway.get("/apisix/status").json();
        assert!(
            status["status"]["total"].is_string() && status["id"].as_str().unwrap().len() > 30,
            "{status}"
        );
    });
}

/// The file of `file-logger`, in the gateway's folder.
const TOLD: &str = "logs/told.log";

/// What was asked and answered stands in the file, and a rotated file is left alone.
#[test]
fn file_logger_writes_and_reopens() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("answer"));
        let plugins =
            json!({ "file-logger": { "path": TOLD, "include_req_body": true, "include_resp_body": true } });
        let gateway =
            Gateway::with_yaml(driver, &format!("routes:\n{}", route("/*", upstream.port, plugins)));
        let lines = || gateway.read(TOLD);
        let mut client = gateway.connect();
        client.send("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nasked").response();
        assert_eq!(upstream.requests().len(), 1);
        eventually("a line", || lines().ends_with('\n'));
        let entry: Value = serde_json::from_str(&lines()).unwrap();
        assert_eq!(
            (&entry["request"]["body"], &entry["response"]["body"]),
            (&json!("asked"), &json!("answer"))
        );
        assert_eq!(entry["upstream"], format!("127.0.0.1:{}", upstream.port));
        std::fs::remove_file(gateway.path(TOLD)).unwrap();
        gateway.signal("USR1");
        eventually("the file anew", || {
            gateway.get("/b");
            lines().contains("\"/b\"")
        });
    });
}

/// `ngx.resp.get_headers` has `connection` and `transfer-encoding`, which were never headers of the upstream's.
#[test]
fn a_log_says_how_an_answer_was_framed_and_whether_its_connection_ends() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            if conn.head().is_some() {
                let _ = conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nX-A: 1\r\n\r\nto the end");
            }
        });
        let plugins = json!({ "file-logger": { "path": TOLD } });
        let gateway =
            Gateway::with_yaml(driver, &format!("routes:\n{}", route("/*", upstream.port, plugins)));
        let mut client = gateway.connect();
        for fields in ["", "Connection: close\r\n"] {
            assert_eq!(
                client.send(format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).response().status,
                200
            );
        }
        let lines = || gateway.read(TOLD);
        eventually("two lines", || lines().matches('\n').count() == 2);
        let said = |line: &str| {
            let headers = serde_json::from_str::<Value>(line).unwrap()["response"]["headers"].take();
            ["connection", "transfer-encoding"].map(|name| headers[name].clone())
        };
        let framing: Vec<_> = lines().lines().map(said).collect();
        assert_eq!(framing, [["keep-alive", "chunked"], ["close", "chunked"]]);
    });
}

/// Variables of nginx that operators' formats name.
#[test]
fn a_log_format_may_count_requests_of_a_connection_and_bytes_of_the_upstreams_body() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("answer"));
        let names = ["connection_requests", "request_completion", "upstream_response_length", "http2"];
        let names = names.into_iter().chain(["http3", "proxy_add_x_forwarded_for"]);
        let format: Value = names
            .map(|name| (name.to_owned(), format!("${name}").into()))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let plugins = json!({ "file-logger": { "path": TOLD, "log_format": format } });
        let gateway =
            Gateway::with_yaml(driver, &format!("routes:\n{}", route("/*", upstream.port, plugins)));
        let mut client = gateway.connect();
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").response();
        }
        let lines = || gateway.read(TOLD);
        eventually("two lines", || lines().matches('\n').count() == 2);
        for (line, nth) in lines().lines().zip(["1", "2"]) {
            let entry: Value = serde_json::from_str(line).unwrap();
            let expected = json!({ "connection_requests": nth, "request_completion": "OK", "route_id": "arr_1",
                "upstream_response_length": "6", "http2": "", "http3": "", "proxy_add_x_forwarded_for": "127.0.0.1" });
            assert_eq!(entry, expected);
        }
    });
}

/// `$request_completion` is empty where the client has left. nginx does not look whether the upstream has ended.
#[test]
fn a_log_format_may_say_whether_an_answer_is_whole() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                match request.target.as_str() {
                    "/broken" => {
                        let _ = conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                        return;
                    }
                    "/left" => {
                        let _ = conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                        conn.drain();
                    }
                    "/waits" => drop(conn.drain()),
                    _ => drop(conn.send(ok("whole"))),
                }
            }
        });
        let format = "access_log_format: '$uri $status <$request_completion>'";
        let gateway =
            Setup::new(driver, Source::Yaml(everything_to(upstream.port))).http(format).workers(1).start();
        let logged = |line: &str| gateway.read_until("logs/access.log", line);
        gateway.get("/whole");
        logged("/whole 200 <OK>\n");
        let ask = |target: &str| {
            let mut client = gateway.connect();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client
        };
        let mut cut = ask("/broken");
        cut.response_to_head();
        assert_eq!(cut.rest(), b"half");
        logged("/broken 200 <OK>\n");
        let mut leaves = ask("/left");
        leaves.response_to_head();
        drop(leaves);
        logged("/left 200 <>\n");
        let leaves = ask("/waits");
        upstream.wait_for(4);
        drop(leaves);
        logged("/waits 499 <>\n");
    });
}

/// A condition on a request's body is asked when the answer is known: bodies of what failed are what such logs are for.
#[test]
fn the_body_of_a_request_is_logged_on_condition_of_its_answer() {
    on_both_drivers(|driver| {
        let upstream = Upstream::with_statuses();
        let condition = json!([["status", ">=", 500]]);
        let plugins = json!({ "file-logger": { "path": TOLD, "include_req_body": true, "include_req_body_expr": condition } });
        let gateway =
            Gateway::with_yaml(driver, &format!("routes:\n{}", route("/*", upstream.port, plugins)));
        let mut client = gateway.connect();
        for status in [200, 503] {
            let head = format!("POST /{status} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nasked");
            assert_eq!(client.send(head).response().status, status);
        }
        let lines = || gateway.read(TOLD);
        eventually("two lines", || lines().matches('\n').count() == 2);
        let entry = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let bodies: Vec<Value> = lines().lines().map(|line| entry(line)["request"]["body"].take()).collect();
        assert_eq!(bodies, [Value::Null, json!("asked")]);
    });
}

/// Entries that wait for a full batch leave when the gateway ends.
#[test]
fn the_last_batch_leaves_with_the_gateway() {
    on_both_drivers(|driver| {
        let (upstream, collector) = (
            Upstream::mirror(),
            Upstream::start(|conn| {
                while let Some(request) = conn.request() {
                    conn.remember(&request);
                    let _ = conn.send(ok(""));
                }
            }),
        );
        let uri = format!("http://127.0.0.1:{}/logs", collector.port);
        let plugins = json!({ "http-logger": { "uri": uri, "log_format": { "path": "$uri" } } });
        let mut gateway =
            Gateway::with_yaml(driver, &format!("routes:\n{}", route("/*", upstream.port, plugins)));
        gateway.get("/a");
        gateway.get("/b");
        gateway.signal("TERM");
        gateway.wait(Duration::from_secs(10));
        let batch: Value = serde_json::from_slice(&collector.last().body).unwrap();
        let paths: Vec<_> = batch.as_array().unwrap().iter().map(|entry| &entry["path"]).collect();
        assert_eq!(paths, ["/a", "/b"]);
    });
}

#[test]
fn a_format_may_have_nginx_s_chain_of_addresses() {
    let upstream = Upstream::mirror();
    let format = json!({"chain": "$proxy_add_x_forwarded_for", "pipe": "$pipe"});
    let plugins = json!({"file-logger": {"path": TOLD, "log_format": format}});
    let gateway = Gateway::with_yaml("epoll", &format!("routes:\n{}", route("/*", upstream.port, plugins)));
    gateway.get("/a");
    let entries = || -> Vec<Value> {
        let text = gateway.read(TOLD);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    eventually("the first entry", || entries().len() == 1);
    common::request(gateway.port(), "GET", "/b", "Host: a\r\nX-Forwarded-For: 192.0.2.7\r\n");
    eventually("the second entry", || entries().len() == 2);
    let found = entries();
    for (entry, chain) in found.iter().zip(["127.0.0.1", "192.0.2.7, 127.0.0.1"]) {
        assert_eq!((&entry["chain"], &entry["pipe"]), (&json!(chain), &json!(".")));
    }
}

/// docs/en/latest/batch-processor.md
#[test]
fn entries_that_find_no_room_are_told_of_with_numbers() {
    let upstream = Upstream::mirror();
    let uri = format!("http://127.0.0.1:{}/nobody", free_port());
    let stuck = json!({"uri": uri, "batch_max_size": 1, "max_retry_count": 1000, "retry_delay": 60});
    let routes = route("/*", upstream.port, json!({ "http-logger": stuck }));
    let metadata = "plugin_metadata:\n  - {id: http-logger, max_pending_entries: 1}";
    let gateway = Gateway::with_yaml("epoll", &format!("routes:\n{routes}\n{metadata}"));
    let line = "max pending entries limit exceeded. discarding entry. total_pushed_entries: 1 \
                total_processed_entries: 0 max_pending_entries: 1 discarded_entries: 1";
    const DISCARDED: usize = 20;
    let began = Instant::now();
    (0..DISCARDED).for_each(|_| drop(gateway.get("/a")));
    gateway.read_until("logs/error.log", line);
    std::thread::sleep(Duration::from_millis(1100)); // a line a second
    gateway.get("/a");
    let told = || -> Vec<usize> {
        let log = gateway.read("logs/error.log");
        log.split("discarded_entries: ")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect()
    };
    eventually("each is told of, and once", || told().iter().sum::<usize>() == DISCARDED);
    assert!(told().len() as u64 <= began.elapsed().as_secs() + 1, "{:?}", told());
}
