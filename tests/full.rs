//! What is noticed of a bound when it is reached: a wait, a clear error or a line in a log, and everybody else is
//! served as before. Those that a peer reaches by malformed bytes are in `bounds.rs`.

mod common;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use common::*;
use serde_json::{Value, json};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A route in YAML whose plugins are JSON.
fn route(id: &str, uri: &str, upstream: &Upstream, plugins: &Value) -> String {
    let port = upstream.port;
    format!(
        "- {{id: {id}, uri: {uri}, plugins: {plugins}, upstream: {{nodes: {{\"127.0.0.1:{port}\": 1}}}}}}\n"
    )
}

/// A client that connects anew before the gateway closes, which it does after 1,000 requests.
struct Patient<'a> {
    gateway: &'a Gateway,
    client: Client,
    requests: usize,
}

impl Patient<'_> {
    fn new(gateway: &Gateway) -> Patient<'_> {
        Patient { gateway, client: gateway.connect(), requests: 0 }
    }

    #[track_caller]
    fn ask(&mut self, target: &str, fields: &str) -> Response {
        self.requests += 1;
        if self.requests.is_multiple_of(1000) {
            self.client = self.gateway.connect();
        }
        self.client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).response()
    }
}

fn with(driver: &'static str, upstream: &Upstream, plugins: &Value) -> Gateway {
    let objects = format!("routes:\n{}", route("1", "/*", upstream, plugins));
    Setup::new(driver, Source::Yaml(objects)).workers(1).start()
}

/// Has the gateway answered this client?
fn is_answered(client: &Client) -> bool {
    let stream = client.stream();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let answered = stream.peek(&mut [0]).is_ok();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    answered
}

#[test]
fn without_descriptors_connections_wait_in_the_backlog() {
    on_both_drivers(|driver| {
        let mut gateway = Setup::new(driver, Source::Yaml("routes: []".into())).workers(1).start();
        let most = limit_for(gateway.pid(), 60);
        let limited = Command::new("prlimit")
            .args([format!("--pid={}", gateway.pid()), format!("--nofile={most}:{most}")])
            .status();
        assert!(limited.unwrap().success());
        // the kernel remembers the limit that was there when an accept began: new cores begin anew
        gateway.signal("HUP");
        gateway.read_until("logs/error.log", "the configuration is reloaded");
        let mut clients: Vec<Client> = Vec::new();
        eventually("only the new cores accept, and cannot", || {
            clients = (0..300).map(|_| gateway.connect()).collect();
            for client in &mut clients {
                client.send(GET);
            }
            gateway.read("logs/error.log").contains("accept() on ")
        });
        let (began, mut rounds) = (Instant::now(), 0);
        while !clients.is_empty() {
            let waiting = clients.iter().position(|client| !is_answered(client)).unwrap_or(clients.len());
            rounds += usize::from(waiting > 0);
            for mut client in clients.drain(..waiting) {
                assert_eq!(client.response().status, 404, "its turn came");
            }
            assert!(began.elapsed() < 3 * PATIENCE, "{} still wait", clients.len());
        }
        assert!(rounds > 1, "some had to wait");
        assert!(gateway.is_running());
    });
}

#[test]
fn connections_beyond_worker_connections_are_closed() {
    on_both_drivers(|driver| {
        let setup = Setup::new(driver, Source::Yaml("routes: []".into())).workers(1);
        let gateway = setup.nginx("event: {worker_connections: 3}").start();
        let mut clients: Vec<Client> = (0..3).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.send(GET).response().status, 404);
        }
        gateway.connect().closed();
        gateway.read_until("logs/error.log", "3 worker_connections are not enough");
        drop(clients.pop());
        eventually("the place is free again", || {
            let mut client = gateway.connect();
            client.try_send(GET).is_ok() && client.try_response(false).is_some()
        });
        assert_eq!(clients[0].send(GET).response().status, 404, "those that were there are served on");
    });
}

#[test]
fn a_connection_too_many_of_the_control_api_waits() {
    const CONNECTIONS: usize = 256;
    let gateway = Gateway::with_yaml(drivers()[0], "routes: []");
    let mut held: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(gateway.ports.control)).collect();
    let mut late = Client::connect(gateway.ports.control);
    late.send("GET /v1/healthcheck HTTP/1.1\r\nHost: a\r\n\r\n");
    late.stream().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let waits = std::io::Read::read(&mut late.stream(), &mut [0]);
    assert!(waits.is_err(), "nothing came: {waits:?}");
    late.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    held.truncate(CONNECTIONS - 10);
    assert_eq!(late.response().status, 200);
}

/// nginx's lingering close: the client can read its answer, and is not waited for without end.
#[test]
fn a_client_that_sends_on_behind_its_answer_is_left_once_it_is_silent() {
    on_both_drivers(|driver| {
        let setup = Setup::new(driver, Source::Yaml("routes: []".into()));
        let setup = setup.workers(1).nginx("event: {worker_connections: 1}");
        let gateway = setup.http("client_max_body_size: 1000").start();
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
        assert_eq!(client.response().status, 413);
        let began = Instant::now();
        let mut stream = client.stream();
        while began.elapsed() < Duration::from_secs(7) {
            stream.write_all(&[b'x'; 100]).unwrap_or_else(|_| panic!("left after {:?}", began.elapsed()));
            std::thread::sleep(Duration::from_millis(50));
        }
        let silent = Instant::now();
        eventually("its place is free", || {
            let mut next = gateway.connect();
            next.try_send(GET).is_ok() && next.try_response(false).is_some()
        });
        assert!(silent.elapsed() > Duration::from_secs(4), "left after {:?}", silent.elapsed());
    });
}

/// A route keeps so many chains for its consumers; each gets its own all the same.
#[test]
fn more_consumers_than_a_route_remembers() {
    const CONSUMERS: usize = 1030;
    let upstream = Upstream::answering_unseen(ok("x"));
    let mut objects =
        format!("routes:\n{}consumers:\n", route("1", "/*", &upstream, &json!({"key-auth": {}})));
    for n in 0..CONSUMERS {
        let plugins = json!({"key-auth": {"key": format!("key-{n}")}, "response-rewrite": {"headers": {"set": {"X-Me": n}}}});
        let _ = writeln!(objects, "- {{username: c{n}, plugins: {plugins}}}");
    }
    let gateway = Setup::new(drivers()[0], Source::Yaml(objects)).workers(1).start();
    let mut client = Patient::new(&gateway);
    for n in (0..CONSUMERS).chain(0..20) {
        let answer = client.ask("/", &format!("apikey: key-{n}\r\n"));
        assert_eq!((answer.status, answer.header("x-me")), (200, Some(n.to_string().as_str())));
    }
}

#[test]
fn a_silent_mirror_holds_a_bounded_number_of_copies() {
    const MIRRORS: usize = 256;
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("x"));
        let mirror = Upstream::start(|conn| {
            conn.drain();
        });
        let plugins = json!({"proxy-mirror": {"host": format!("http://127.0.0.1:{}", mirror.port)}});
        let gateway = with(driver, &upstream, &plugins);
        let mut client = gateway.connect();
        for _ in 0..MIRRORS + 50 {
            assert_eq!(client.send(GET).response().status, 200, "the client notices nothing");
        }
        gateway.read_until("logs/error.log", "256 copies to mirrors are under way: a request is not copied");
        eventually("the copies", || mirror.connections() == MIRRORS);
    });
}

#[test]
fn an_endless_answer_to_a_plugin_is_an_error() {
    let upstream = Upstream::answering(ok("x"));
    let auth = Upstream::start(|conn| {
        conn.request();
        let mut sent = conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let piece = vec![b'a'; 1 << 20];
        while sent.is_ok() {
            sent = conn.send(&piece);
        }
    });
    let plugins =
        json!({"forward-auth": {"uri": format!("http://127.0.0.1:{}/", auth.port), "timeout": 60000}});
    let gateway = with(drivers()[0], &upstream, &plugins);
    assert_eq!(gateway.get("/").status, 403);
    gateway.read_until("logs/error.log", "the answer is too long");
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_logged_body_has_a_bound() {
    let upstream = Upstream::answering(ok(&"b".repeat(600_000)));
    let file = std::env::temp_dir().join(format!("ringway-full-{}.log", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let gateway =
        with(drivers()[0], &upstream, &json!({"file-logger": {"path": file, "include_resp_body": true}}));
    assert_eq!(gateway.get("/").body.len(), 600_000, "the client gets all of it");
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("a line", || text().ends_with('\n'));
    let entry: Value = serde_json::from_str(&text()).unwrap();
    assert_eq!(entry["response"]["body"].as_str().map(str::len), Some(512 << 10));
    let _ = std::fs::remove_file(&file);
}

#[test]
fn an_identifier_has_a_longest_length() {
    let upstream = Upstream::mirror();
    let plugins = json!({"request-id": {"algorithm": "range_id", "range_id": {"length": 100_000}}});
    let gateway = with(drivers()[0], &upstream, &plugins);
    assert_eq!(gateway.get("/").header("x-request-id").map(str::len), Some(1024));
}

/// More combinations of route and status than the plugin remembers: it counts right all the same.
#[test]
fn more_series_than_prometheus_remembers() {
    const ROUTES: usize = 11;
    let upstream = Upstream::start(|conn| {
        while let Some(request) = conn.head() {
            let status = request.target.rsplit('/').next().unwrap_or_default().to_string();
            if conn.send(format!("HTTP/1.1 {status} Some\r\nContent-Length: 0\r\n\r\n")).is_err() {
                return;
            }
        }
    });
    let mut objects = "global_rules:\n- {id: 1, plugins: {prometheus: {}}}\nroutes:\n".to_string();
    for n in 0..ROUTES {
        objects += &route(&format!("r{n}"), &format!("/{n}/*"), &upstream, &json!({}));
    }
    let gateway = Setup::new(drivers()[0], Source::Yaml(objects)).workers(1).start();
    let mut client = Patient::new(&gateway);
    for _ in 0..2 {
        for (n, status) in (0..ROUTES).flat_map(|n| (200..600).map(move |status| (n, status))) {
            assert_eq!(client.ask(&format!("/{n}/{status}"), "").status, status);
        }
    }
    let counts = || -> HashMap<String, u32> {
        let text = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
        let lines = text.lines().filter(|line| line.starts_with("apisix_http_status{"));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(k, n)| (k.into(), n.parse().unwrap())).collect()
    };
    eventually("all are counted", || counts().values().sum::<u32>() == 2 * ROUTES as u32 * 400);
    assert_eq!(counts().len(), ROUTES * 400);
    assert!(counts().values().all(|n| *n == 2));
}

/// Conditions look into a GraphQL document of 1 MiB at most.
#[test]
fn a_longer_graphql_document_is_not_looked_into() {
    let upstream = Upstream::answering_unseen(ok("x"));
    let condition = r#"["graphql_operation", "==", "query"]"#;
    let objects = format!(
        "routes:\n- {{id: 1, uri: /*, vars: [{condition}], upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
        upstream.port
    );
    let gateway = Setup::new(drivers()[0], Source::Yaml(objects)).workers(1).start();
    for (padding, status) in [(1_000_000, 200), (1 << 20, 404)] {
        let body = format!("query {{ owner }}{}", " ".repeat(padding));
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = ask(gateway.port(), (head + &body).as_bytes());
        assert_eq!(answer.status, status, "{padding}: {answer}");
    }
}

/// A collector that does not answer does not keep the gateway from ending.
#[test]
fn log_batches_are_not_waited_for_without_end() {
    let (upstream, collector) = (
        Upstream::answering(ok("x")),
        Upstream::start(|conn| {
            conn.drain();
        }),
    );
    let uri = format!("http://127.0.0.1:{}/", collector.port);
    let plugins = json!({"http-logger": {"uri": uri, "timeout": 60, "batch_max_size": 1}});
    let mut gateway = with(drivers()[0], &upstream, &plugins);
    gateway.get("/");
    eventually("the batch is under way", || collector.connections() > 0);
    gateway.signal("TERM");
    let began = Instant::now();
    gateway.wait(PATIENCE);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
}

/// gRPC's usual bound for one message is 4 MiB; a whole configuration is one message.
#[test]
fn a_large_configuration_comes_from_etcd_whole() {
    let (etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
    for n in 0..6 {
        let route = json!({
            "id": n.to_string(), "uri": format!("/{n}"), "desc": "d".repeat(256), "labels": {},
            "vars": [["arg_x", "~=", "v".repeat(1_000_000)]],
            "upstream": {"type": "roundrobin", "nodes": {format!("127.0.0.1:{}", upstream.port): 1}},
        });
        etcd.put(&format!("/apisix/routes/{n}"), &route.to_string());
    }
    let gateway = Setup::new(drivers()[0], Source::Etcd(etcd.port)).start();
    for n in 0..6 {
        assert_eq!(gateway.get(&format!("/{n}")).text(), "served");
    }
}
