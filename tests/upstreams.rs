//! Which node gets a request, what happens when it does not answer, and what it is sent.

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use serde_json::{Value, json};

/// Two or more servers that answer with their number.
fn numbered(count: usize) -> Vec<Upstream> {
    (0..count).map(|n| Upstream::answering(ok(&n.to_string()))).collect()
}

/// A gateway whose one route has this upstream; `$0`, `$1` … are the ports of `servers`.
fn with(driver: &'static str, servers: &[Upstream], upstream: &str) -> Gateway {
    with_route(driver, servers, &format!("uri: /*, upstream: {upstream}"))
}

fn with_route(driver: &'static str, servers: &[Upstream], route: &str) -> Gateway {
    let mut route = route.to_string();
    for (n, server) in servers.iter().enumerate() {
        route = route.replace(&format!("${n}"), &server.port.to_string());
    }
    Gateway::with_yaml(driver, &format!("routes:\n- {{id: 1, {route}}}"))
}

#[test]
fn roundrobin_follows_the_weights() {
    on_both_drivers(|driver| {
        let servers = numbered(3);
        let nodes = "{nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 3, \"127.0.0.1:$2\": 0}}";
        let gateway = with(driver, &servers, nodes);
        let mut client = gateway.connect();
        // one connection, so one core and one wheel: each turn of four is exact
        for _ in 0..5 {
            let mut counts: HashMap<String, u32> = HashMap::new();
            for _ in 0..4 {
                let node = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().text();
                *counts.entry(node).or_default() += 1;
            }
            assert_eq!(counts, HashMap::from([("0".into(), 1), ("1".into(), 3)]));
        }
        assert!(servers[2].requests().is_empty(), "weight 0 gets nothing");
    });
}

#[test]
fn chash_is_sticky_on_every_core() {
    on_both_drivers(|driver| {
        let servers = numbered(4);
        let nodes = "{type: chash, hash_on: header, key: X-User, nodes: {\"127.0.0.1:$0\": 1, \
                     \"127.0.0.1:$1\": 1, \"127.0.0.1:$2\": 1, \"127.0.0.1:$3\": 1}}";
        let gateway = with(driver, &servers, nodes);
        let mut places = HashMap::new();
        let mut used = HashSet::new();
        for turn in 0..4 {
            for user in 0..20 {
                // a connection each: they land on all cores
                let fields = format!("Host: a\r\nX-User: user-{user}\r\n");
                let node = request(gateway.port(), "GET", "/", &fields).text();
                used.insert(node.clone());
                if turn == 0 {
                    places.insert(user, node);
                } else {
                    assert_eq!(places[&user], node, "user {user}");
                }
            }
        }
        assert!(used.len() > 1, "20 users on one of 4 nodes");
    });
}

#[test]
fn a_node_that_refuses_costs_a_try_only() {
    on_both_drivers(|driver| {
        let servers = numbered(1);
        let refusing = free_port();
        let nodes = format!("{{nodes: {{\"127.0.0.1:$0\": 1, \"127.0.0.1:{refusing}\": 1}}}}");
        let gateway = with(driver, &servers, &nodes);
        for n in 0..6 {
            let body = "x".repeat(1000);
            let post = format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{body}");
            let answer = ask(gateway.port(), post.as_bytes());
            assert_eq!(answer.status, 200, "a refused connection never loses a request: {answer}");
            assert_eq!(servers[0].last().body.len(), 1000);
        }
        gateway.read_until(
            "logs/access.log",
            &format!("127.0.0.1:{refusing}, 127.0.0.1:{} 502, 200 ", servers[0].port),
        );
    });
}

#[test]
fn without_retries_a_refused_connection_is_a_502() {
    on_both_drivers(|driver| {
        let refusing = [free_port(), free_port()];
        let [a, b] = refusing;
        let none = format!("{{retries: 0, nodes: {{\"127.0.0.1:{a}\": 1, \"127.0.0.1:{b}\": 1}}}}");
        let answer = with(driver, &[], &none).get("/");
        assert_eq!((answer.status, answer.header("x-apisix-upstream-status")), (502, Some("502")));
        assert!(answer.text().contains("<center>openresty</center>"), "{answer}");
        let some = format!("{{nodes: {{\"127.0.0.1:{a}\": 1, \"127.0.0.1:{b}\": 1}}}}");
        let answer = with(driver, &[], &some).get("/");
        assert_eq!((answer.status, answer.header("x-apisix-upstream-status")), (502, Some("502, 502")));
    });
}

/// A server that reads a request and closes without an answer.
fn mute() -> Upstream {
    Upstream::start(|conn| {
        conn.request();
    })
}

#[test]
fn a_get_is_tried_elsewhere_and_a_post_is_not() {
    on_both_drivers(|driver| {
        let servers = [mute(), Upstream::answering(ok("second"))];
        let nodes = "{nodes: [{host: 127.0.0.1, port: $0, weight: 1, priority: 1}, \
                     {host: 127.0.0.1, port: $1, weight: 1, priority: 0}]}";
        let gateway = with(driver, &servers, nodes);
        assert_eq!(gateway.get("/").text(), "second");
        let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(ask(gateway.port(), put.as_bytes()).text(), "second");
        assert_eq!(servers[1].last().body, b"body", "what was sent once is sent again");
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(ask(gateway.port(), post.as_bytes()).status, 502);
        assert_eq!(servers[1].requests().len(), 2, "a POST may have had its effect");
    });
}

#[test]
fn half_a_head_leaves_nothing_behind() {
    on_both_drivers(|driver| {
        let half =
            "HTTP/1.1 200 OK\r\nX-Long: 0123456789012345678901234567890123456789\r\nSet-Cookie: a=b\r\nX-";
        let servers = [
            Upstream::start(move |conn| {
                conn.request();
                let _ = conn.send(half);
            }),
            Upstream::answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
        ];
        let nodes = "{nodes: [{host: 127.0.0.1, port: $0, weight: 1, priority: 1}, \
                     {host: 127.0.0.1, port: $1, weight: 1, priority: 0}]}";
        let answer = with(driver, &servers, nodes).get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "x"));
        assert_eq!(answer.header("set-cookie"), None, "{answer}");
        let answer = with(driver, &servers, "{nodes: {\"127.0.0.1:$0\": 1}}").get("/");
        assert_eq!(answer.status, 502);
        assert_eq!(answer.header("x-long"), None, "{answer}");
    });
}

#[test]
fn statuses_are_not_retried() {
    on_both_drivers(|driver| {
        let servers = [
            Upstream::answering("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n"),
            Upstream::answering(ok("second")),
        ];
        let nodes = "{nodes: [{host: 127.0.0.1, port: $0, weight: 1, priority: 1}, \
                     {host: 127.0.0.1, port: $1, weight: 1, priority: 0}]}";
        assert_eq!(with(driver, &servers, nodes).get("/").status, 500);
        assert!(servers[1].requests().is_empty());
    });
}

#[test]
fn an_upstream_that_does_not_answer_is_a_504() {
    on_both_drivers(|driver| {
        let servers = [Upstream::start(|conn| {
            conn.request();
            conn.drain();
        })];
        let nodes = "{nodes: {\"127.0.0.1:$0\": 1}, timeout: {connect: 1, send: 1, read: 0.3}}";
        let gateway = with(driver, &servers, nodes);
        let began = Instant::now();
        let answer = gateway.get("/");
        assert_eq!(answer.status, 504);
        assert!(answer.text().contains("<title>504 Gateway Time-out</title>"), "{answer}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(3), "{took:?}");

        let longer = "uri: /*, timeout: {connect: 1, send: 1, read: 0.2}, upstream: {nodes: \
                      {\"127.0.0.1:$0\": 1}, timeout: {connect: 60, send: 60, read: 60}}";
        assert_eq!(with_route(driver, &servers, longer).get("/").status, 504, "the route's timeout wins");
    });
}

#[test]
fn a_node_that_cannot_be_reached_in_time_is_a_504() {
    on_both_drivers(|driver| {
        let (_socket, port, _waiting) = deaf();
        let well = Upstream::answering(ok("well"));
        let nodes = |retries| {
            format!(
                "{{retries: {retries}, nodes: [{{host: 127.0.0.1, port: {port}, weight: 1, priority: 1}}, \
                 {{host: 127.0.0.1, port: {}, weight: 1}}], timeout: {{connect: 0.3, send: 5, read: 5}}}}",
                well.port
            )
        };
        let answer = with(driver, &[], &nodes(0)).get("/");
        assert_eq!((answer.status, answer.header("x-apisix-upstream-status")), (504, Some("504")));
        let began = Instant::now();
        assert_eq!(
            with(driver, &[], &nodes(1)).get("/").text(),
            "well",
            "nothing was sent: it is tried elsewhere"
        );
        assert!(began.elapsed() > Duration::from_millis(290));
    });
}

/// nginx's `proxy_send_timeout`, and APISIX's `timeout.send`.
#[test]
fn an_upstream_that_takes_no_body_is_a_504() {
    on_both_drivers(|driver| {
        let servers = [Upstream::start(|conn| {
            conn.head();
            std::thread::sleep(PATIENCE);
        })];
        let nodes = "{nodes: {\"127.0.0.1:$0\": 1}, timeout: {connect: 1, send: 0.3, read: 60}}";
        let gateway = with(driver, &servers, nodes);
        let mut client = gateway.connect();
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
        let mut writer = client.stream();
        let writing = std::thread::spawn(move || {
            use std::io::Write;
            while writer.write_all(&[b'x'; 64 << 10]).is_ok() {}
        });
        assert_eq!(client.response().status, 504);
        client.rest();
        writing.join().unwrap();
    });
}

#[test]
fn a_name_that_moves_is_followed() {
    on_both_drivers(|driver| {
        let server = Upstream::answering(ok("here"));
        let address = Arc::new(Mutex::new([127, 0, 0, 1]));
        let dns = name_server(address.clone());
        let routes = format!(
            "routes:\n- {{id: 1, uri: /*, upstream: {{nodes: {{\"moving.test:{}\": 1}}}}}}",
            server.port
        );
        let setup = Setup::new(driver, Source::Yaml(routes)).workers(1);
        let gateway = setup.apisix(&format!("dns_resolver: [\"127.0.0.1:{dns}\"]")).start();
        assert_eq!(gateway.get("/").text(), "here");
        *address.lock().unwrap() = [127, 0, 0, 99];
        eventually("nobody listens at the new address", || gateway.get("/").status == 502);
        *address.lock().unwrap() = [127, 0, 0, 1];
        eventually("it has come back", || gateway.get("/").status == 200);
    });
}

#[test]
fn an_answer_that_stalls_is_cut() {
    on_both_drivers(|driver| {
        let servers = [Upstream::start(|conn| {
            conn.request();
            let _ = conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            conn.drain();
        })];
        let nodes = "{nodes: {\"127.0.0.1:$0\": 1}, timeout: {connect: 1, send: 1, read: 0.3}}";
        let answer = with(driver, &servers, nodes).get("/");
        assert_eq!((answer.status, answer.text().as_str(), answer.whole), (200, "half", false));
    });
}

#[test]
fn what_is_missing_has_its_status() {
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(
            driver,
            "routes:\n\
             - {id: 1, uri: /empty, upstream: {nodes: []}}\n\
             - {id: 2, uri: /upstream, upstream_id: none}\n\
             - {id: 3, uri: /service, service_id: none}\n\
             - {id: 4, uri: /plugin_config, plugin_config_id: none, upstream: {nodes: {\"127.0.0.1:1\": 1}}}\n\
             - {id: 5, uri: /kafka, upstream: {scheme: kafka, nodes: {\"127.0.0.1:1\": 1}}}",
        );
        for (target, status) in
            [("/empty", 503), ("/upstream", 502), ("/service", 404), ("/plugin_config", 503), ("/kafka", 400)]
        {
            let answer = gateway.get(target);
            assert_eq!(answer.status, status, "{target}: {answer}");
        }
    });
}

#[test]
fn pass_host_decides_the_host_field() {
    on_both_drivers(|driver| {
        let servers = [Upstream::mirror()];
        for (rest, host) in [
            ("", "client.test:81".to_string()),
            (", pass_host: pass", "client.test:81".to_string()),
            (", pass_host: node", format!("127.0.0.1:{}", servers[0].port)),
            (", pass_host: rewrite, upstream_host: other.test", "other.test".to_string()),
        ] {
            let gateway = with(driver, &servers, &format!("{{nodes: {{\"127.0.0.1:$0\": 1}}{rest}}}"));
            request(gateway.port(), "GET", "/", "Host: client.test:81\r\n");
            assert_eq!(servers[0].last().all("host"), [host.as_str()], "{rest}");
        }
        let (nobody, node) = (free_port(), format!("127.0.0.1:{}", servers[0].port));
        let nodes = format!("{{\"127.0.0.1:{nobody}\": 100, \"{node}\": 1}}");
        let gateway = with(driver, &servers, &format!("{{nodes: {nodes}, pass_host: node}}"));
        request(gateway.port(), "GET", "/", "Host: client.test:81\r\n");
        assert_eq!(servers[0].last().all("host"), [node.as_str()], "of the node that was tried last");
    });
}

#[test]
fn connections_are_kept_as_long_as_the_pool_says() {
    on_both_drivers(|driver| {
        let servers = [Upstream::answering(ok("x"))];
        let pool = "{nodes: {\"127.0.0.1:$0\": 1}, keepalive_pool: {size: 4, idle_timeout: 60, requests: 5}}";
        let gateway = with(driver, &servers, pool);
        let mut client = gateway.connect();
        for _ in 0..20 {
            assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().status, 200);
        }
        assert_eq!(servers[0].connections(), 4, "5 requests each");
    });
}

/// The name that TLS asks for may be the client's, so that the node alone does not tell which connections will do.
#[test]
fn connections_to_https_upstreams_are_kept() {
    on_both_drivers(|driver| {
        let nginx = Nginx::start("");
        let route = |keep: &str| {
            let nodes = format!("nodes: {{\"127.0.0.1:{}\": 1}}", nginx.tls_port);
            format!("routes:\n- {{id: 1, uri: /*, upstream: {{scheme: https, {nodes}{keep}}}}}")
        };
        let of_five = ", keepalive_pool: {size: 4, idle_timeout: 60, requests: 5}";
        for (keep, connections) in [("", 1), (of_five, 4)] {
            let gateway = Setup::new(driver, Source::Yaml(route(keep))).workers(1).start();
            let mut client = gateway.connect();
            let mut used = |host: &str| {
                let answer = client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).response();
                assert_eq!((answer.status, answer.header("got-sni")), (200, Some(host)));
                answer.header("got-connection").unwrap().to_string()
            };
            let mut of_name = |host| (0..20).map(|_| used(host)).collect::<HashSet<String>>();
            let (one, other) = (of_name("one.test"), of_name("other.test"));
            assert_eq!((one.len(), other.len()), (connections, connections), "{keep}");
            assert!(one.is_disjoint(&other), "a connection is of one name");
        }
    });
}

/// t/cli/test_main.sh
#[test]
fn connections_are_kept_as_config_yaml_says() {
    on_both_drivers(|driver| {
        let server = Upstream::answering(ok("x"));
        let setup = |keep: &str| {
            let setup = Setup::new(driver, Source::Yaml(everything_to(server.port))).workers(1);
            setup.http(&format!("upstream: {{{keep}}}")).start()
        };
        let mut before = 0;
        for (keep, connections) in
            [("keepalive: 32, keepalive_requests: 5, keepalive_timeout: 60s", 4), ("keepalive: 0", 20)]
        {
            let gateway = setup(keep);
            let mut client = gateway.connect();
            for _ in 0..20 {
                assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().status, 200);
            }
            assert_eq!(server.connections() - before, connections, "{keep}");
            before = server.connections();
        }
    });
}

#[test]
fn connections_that_rest_are_closed_when_the_pool_says() {
    on_both_drivers(|driver| {
        let closed = Arc::new(AtomicBool::new(false));
        let seen = closed.clone();
        let servers = [Upstream::start(move |conn| {
            while conn.request().is_some() && conn.send(ok("x")).is_ok() {}
            seen.store(true, Ordering::SeqCst);
        })];
        let pool =
            "{nodes: {\"127.0.0.1:$0\": 1}, keepalive_pool: {size: 4, idle_timeout: 0.3, requests: 5}}";
        let gateway = with(driver, &servers, pool);
        assert_eq!(gateway.get("/").status, 200);
        eventually("the connection is closed", || closed.load(Ordering::SeqCst));
    });
}

/// The upstream closes what lies idle, often just as it is taken: nobody may notice.
#[test]
fn a_kept_connection_that_died_is_replaced() {
    on_both_drivers(|driver| {
        let servers = [Upstream::start(|conn| {
            conn.request();
            let _ = conn.send(ok("once"));
        })];
        let gateway = with(driver, &servers, "{nodes: {\"127.0.0.1:$0\": 1}}");
        let mut client = gateway.connect();
        for _ in 0..200 {
            let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
            assert_eq!(answer.status, 200, "{answer}");
        }
    });
}

/// Not by another kept one, and the log tells of one try.
#[test]
fn a_kept_connection_that_ends_under_a_request_is_replaced_by_a_fresh_one() {
    on_both_drivers(|driver| {
        let arrived = AtomicUsize::new(0);
        let upstream = Upstream::start(move |conn| {
            conn.request();
            arrived.fetch_add(1, Ordering::AcqRel);
            eventually("two at once", || arrived.load(Ordering::Acquire) >= 2);
            let _ = conn.send(ok("once"));
            conn.request();
        });
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .http("access_log_format: \"$uri $upstream_addr.\"")
            .workers(1)
            .start();
        let mut clients = [gateway.connect(), gateway.connect()];
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
        assert_eq!(gateway.get("/third").status, 200);
        assert_eq!(upstream.requests().len(), 4, "the third was sent twice");
        gateway.read_until("logs/access.log", &format!("/third 127.0.0.1:{}.", upstream.port));
    });
}

#[test]
fn https_upstreams() {
    on_both_drivers(|driver| {
        let nginx = Nginx::start("");
        let text = format!(
            "routes:\n- {{id: 1, uri: /*, upstream: {{scheme: https, pass_host: rewrite, upstream_host: \
             server.example, nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
            nginx.tls_port
        );
        let gateway = Gateway::with_yaml(driver, &text);
        let mut client = gateway.connect();
        for _ in 0..5 {
            let answer = client.send("GET /s HTTP/1.1\r\nHost: a\r\n\r\n").response();
            assert_eq!(answer.status, 200, "the certificate of an upstream is not verified: {answer}");
            assert_eq!(answer.header("got-sni"), Some("server.example"));
            assert!(answer.header("got-protocol").unwrap().starts_with("TLSv1."));
        }
        // no TLS there
        let text = text.replace(&nginx.tls_port.to_string(), &nginx.port.to_string());
        assert_eq!(Gateway::with_yaml(driver, &text).get("/").status, 502);
    });
}

/// t/cli/test_upstream_mtls.sh
#[test]
fn a_snippet_has_every_https_upstream_verified() {
    const PEMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests");
    let pem = |name: &str| std::fs::read_to_string(format!("{PEMS}/{name}")).unwrap();
    on_both_drivers(|driver| {
        let nginx = Nginx::start(&format!("ssl_client_certificate {PEMS}/ca.pem; ssl_verify_client on;"));
        let answer = |trusted: &str, host: &str| {
            let route = json!({"id": 1, "uri": "/*", "upstream": {
                "scheme": "https", "pass_host": "rewrite", "upstream_host": host, "type": "roundrobin",
                "nodes": {format!("127.0.0.1:{}", nginx.tls_port): 1},
                "tls": {"client_cert": pem("client.pem"), "client_key": pem("client.key.pem")}}});
            let gateway = Setup::new(driver, Source::Yaml(format!("routes:\n- {route}")))
                .apisix(&format!("ssl: {{enable: false, ssl_trusted_certificate: {trusted}}}\n"))
                .nginx("http_server_configuration_snippet: |\n  proxy_ssl_verify on;\n")
                .start();
            (gateway.get("/").status, gateway)
        };
        let trusted = format!("{PEMS}/ca.pem");
        assert_eq!(answer(&trusted, "server.example").0, 200);
        for (trusted, host, why) in [
            ("system", "server.example", "invalid peer certificate: UnknownIssuer"),
            (
                &*trusted,
                "other.example",
                "invalid peer certificate: certificate not valid for name \"other.example\"",
            ),
        ] {
            let (status, gateway) = answer(trusted, host);
            assert_eq!(status, 502, "{trusted} {host}");
            gateway.read_until("logs/error.log", why);
        }
    });
}

#[test]
fn https_upstreams_by_http_2() {
    on_both_drivers(|driver| {
        let behind = Upstream::mirror();
        let nginx =
            Nginx::start(&format!("location /behind {{ proxy_pass http://127.0.0.1:{}; }}", behind.port));
        let text = format!(
            "routes:\n- {{id: 1, uri: /*, enable_websocket: true, upstream: {{scheme: https, http2: true, nodes: \
             {{\"127.0.0.1:{}\": 1}}}}}}",
            nginx.tls_port
        );
        let gateway = Setup::new(driver, Source::Yaml(text.clone())).workers(1).start();
        let mut connections = HashSet::new();
        for _ in 0..10 {
            let answer = gateway.get("/s?x=1");
            assert_eq!((answer.status, answer.header("got-version")), (200, Some("HTTP/2.0")), "{answer}");
            assert_eq!(answer.header("got-uri"), Some("/s?x=1"));
            connections.insert(answer.header("got-connection").unwrap().to_owned());
        }
        assert_eq!(connections.len(), 1, "the streams of all clients share it");
        let body = "z".repeat(300_000);
        let fields =
            format!("X-Forwarded-For: 1.2.3.4\r\nTE: trailers\r\nContent-Length: {}\r\n", body.len());
        let mut client = gateway.connect();
        client.send(format!("POST /behind HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}"));
        assert_eq!(client.response().status, 200);
        let seen = behind.last();
        assert_eq!(seen.body, body.as_bytes());
        assert_eq!(seen.all("x-real-ip"), ["127.0.0.1"]);
        assert_eq!(seen.all("x-forwarded-for"), ["1.2.3.4, 127.0.0.1"]);
        assert_eq!(seen.header("te"), None);
        client.send("PUT /behind HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        client.send("3\r\ndef\r\n0\r\n\r\n");
        assert_eq!(client.response().status, 200);
        assert_eq!((behind.last().method.as_str(), &behind.last().body[..]), ("PUT", &b"abcdef"[..]));
        client.send("HEAD /behind HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response_to_head().status, 200);
        // what may switch protocols goes by HTTP/1.1
        let upgrade = "GET /s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        assert_eq!(client.send(upgrade).response().header("got-version"), Some("HTTP/1.1"));
    });
}

#[test]
fn the_times_of_an_upstream_hold_over_http_2() {
    on_both_drivers(|driver| {
        let (_socket, deaf, _waiting) = deaf();
        // takes connections and bytes, and never says anything: its windows stay as they are at first
        let mute = Upstream::start(|conn| {
            conn.drain();
        });
        for (port, timeout, body) in [
            (deaf, "connect: 0.3, send: 60, read: 60", 0),
            (mute.port, "connect: 60, send: 60, read: 0.3", 0),
            (mute.port, "connect: 60, send: 0.3, read: 60", 200_000),
        ] {
            let upstream = format!(
                "{{scheme: grpc, retries: 0, nodes: {{\"127.0.0.1:{port}\": 1}}, timeout: {{{timeout}}}}}"
            );
            let gateway = with(driver, &[], &upstream);
            let mut client = gateway.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n"));
            let _ = client.try_send("x".repeat(body));
            let began = Instant::now();
            let answer = client.response();
            assert_eq!(answer.status, 504, "{timeout}: {answer}");
            assert!(began.elapsed() < PATIENCE / 2, "{timeout}: {:?}", began.elapsed());
        }
    });
}

#[test]
fn a_client_certificate_that_cannot_be_read_is_a_503() {
    on_both_drivers(|driver| {
        let tls = format!("{{client_cert: \"{}\", client_key: \"{}\"}}", "c".repeat(200), "k".repeat(200));
        let upstream = format!("{{scheme: https, tls: {tls}, nodes: {{\"127.0.0.1:{}\": 1}}}}", free_port());
        let gateway = with(driver, &[], &upstream);
        assert_eq!(gateway.get("/").status, 503);
        gateway.read_until("logs/error.log", "the upstream of /apisix/routes/1 cannot be used: client_cert");
        let missing = upstream.replace(&tls, "{client_cert_id: none}");
        assert_eq!(with(driver, &[], &missing).get("/").status, 502, "an ssl object that is not there");
    });
}

#[test]
fn a_name_is_resolved() {
    on_both_drivers(|driver| {
        let servers = [Upstream::mirror()];
        let gateway = with(driver, &servers, "{nodes: {\"localhost:$0\": 1}, pass_host: node}");
        assert_eq!(gateway.get("/").status, 200);
        assert_eq!(servers[0].last().header("host"), Some(format!("localhost:{}", servers[0].port).as_str()));

        let gateway = with(driver, &[], "{nodes: {\"no-such-name.invalid:80\": 1}}");
        assert_eq!(gateway.get("/").status, 503, "a name that is none leaves no node");
    });
}

#[test]
fn active_checks_take_a_node_out_and_back() {
    on_both_drivers(|driver| {
        let broken = Arc::new(AtomicU16::new(0));
        let probes = Arc::new(Mutex::new(Vec::new()));
        let make = |number: u16| {
            let (broken, probes) = (broken.clone(), probes.clone());
            Upstream::start(move |conn| {
                while let Some(request) = conn.head() {
                    let is_broken = broken.load(Ordering::SeqCst) == number;
                    if request.target == "/status" {
                        probes.lock().unwrap().push(number);
                    }
                    let answer = match is_broken {
                        true => "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n".to_string(),
                        false => ok(&number.to_string()),
                    };
                    if conn.send(answer).is_err() {
                        return;
                    }
                }
            })
        };
        let servers = [make(1), make(2)];
        let nodes = "{nodes: {\"127.0.0.1:$0\": 1, \"127.0.0.1:$1\": 1}, checks: {active: {type: http, \
                     http_path: /status, healthy: {interval: 1, successes: 1}, \
                     unhealthy: {interval: 1, http_failures: 1}}}}";
        let gateway = with(driver, &servers, nodes);
        let ten = || (0..10).map(|_| gateway.get("/").text()).collect::<Vec<_>>();
        assert!(ten().iter().any(|node| node == "2"));
        broken.store(2, Ordering::SeqCst);
        eventually("node 2 is out", || ten().iter().all(|node| node == "1"));
        broken.store(0, Ordering::SeqCst);
        eventually("node 2 is back", || ten().iter().any(|node| node == "2"));
        let probed = probes.lock().unwrap().len();
        assert!(probed < 60, "probed once a process, not once a core: {probed}");
    });
}

/// Two nodes, the first of which is out: its checks get this status.
fn with_one_node_out() -> (Gateway, [Upstream; 2], Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(500));
    let answered = status.clone();
    let first = Upstream::start(move |conn| {
        while let Some(request) = conn.head() {
            let answer = match (&*request.target, answered.load(Ordering::SeqCst)) {
                ("/status", 500) => "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n".to_string(),
                _ => ok("first"),
            };
            if conn.send(answer).is_err() {
                return;
            }
        }
    });
    let servers = [first, Upstream::answering_unseen(ok("second"))];
    let gateway = Setup::new("epoll", Source::Embedded).start();
    gateway.put("/upstreams/1", &checked(&servers, 0));
    gateway.put("/routes/1", &json!({"uri": "/*", "upstream_id": "1"}));
    eventually("the first node is out", || twenty(&gateway).iter().all(|node| node == "second"));
    (gateway, servers, status)
}

/// The upstream of [`with_one_node_out`], without so many of its first nodes.
fn checked(servers: &[Upstream], without: usize) -> Value {
    let node = |server: &Upstream| json!({"host": "127.0.0.1", "port": server.port, "weight": 1});
    json!({
        "nodes": servers.iter().skip(without).map(node).collect::<Vec<_>>(),
        "checks": {"active": {
            "http_path": "/status",
            "healthy": {"interval": 1, "successes": 1},
            "unhealthy": {"interval": 1, "http_failures": 1},
        }},
    })
}

fn twenty(gateway: &Gateway) -> Vec<String> {
    (0..20).map(|_| gateway.get("/").text()).collect()
}

fn first_serves(gateway: &Gateway) {
    eventually("the first node serves", || twenty(gateway).iter().any(|node| node == "first"));
}

#[test]
fn a_node_that_was_out_serves_when_it_is_put_there_again() {
    let (gateway, servers, status) = with_one_node_out();
    gateway.put("/upstreams/1", &checked(&servers, 1));
    assert!(twenty(&gateway).iter().all(|node| node == "second"));
    status.store(200, Ordering::SeqCst);
    gateway.put("/upstreams/1", &checked(&servers, 0));
    first_serves(&gateway);
}

#[test]
fn a_node_that_was_out_serves_where_nothing_checks_it() {
    let (gateway, servers, _broken) = with_one_node_out();
    let mut unchecked = checked(&servers, 0);
    unchecked.as_object_mut().unwrap().remove("checks");
    gateway.put("/upstreams/1", &unchecked);
    first_serves(&gateway);
}

#[test]
fn a_node_that_was_out_serves_after_its_upstream_was_deleted() {
    let (gateway, servers, status) = with_one_node_out();
    gateway.delete("/routes/1");
    gateway.delete("/upstreams/1");
    status.store(200, Ordering::SeqCst);
    // longer than the prober keeps the states of upstreams that have gone
    std::thread::sleep(Duration::from_secs(11));
    gateway.put("/upstreams/1", &checked(&servers, 0));
    gateway.put("/routes/1", &json!({"uri": "/*", "upstream_id": "1"}));
    first_serves(&gateway);
}

#[test]
fn the_chosen_node_is_in_the_access_log() {
    on_both_drivers(|driver| {
        let servers = [Upstream::mirror()];
        let gateway = with(driver, &servers, "{nodes: {\"127.0.0.1:$0\": 1}}");
        gateway.get("/logged?a=b");
        let log = gateway.read_until("logs/access.log", "/logged");
        assert!(log.contains("127.0.0.1 - - ["), "{log}");
        assert!(log.contains(" gateway.test \"GET /logged?a=b HTTP/1.1\" 200 "), "{log}");
        assert!(log.contains(&format!("127.0.0.1:{} 200 ", servers[0].port)), "{log}");
        assert!(log.contains("\"http://gateway.test\""), "{log}");
    });
}

/// Many at once: all are answered, each with its own answer.
/// Try by try: where, with what outcome, and how long it took until connected, until the head of an answer, until its end.
#[test]
fn every_try_is_in_the_access_log() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
            std::thread::sleep(Duration::from_millis(30));
            let _ = conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh");
            std::thread::sleep(Duration::from_millis(30));
            let _ = conn.send("i");
        });
        let nobody = free_port();
        let nodes = [(nobody, 1), (upstream.port, 0)].map(
            |(port, priority)| json!({"host": "127.0.0.1", "port": port, "weight": 1, "priority": priority}),
        );
        let route = json!({"uri": "/*", "upstream": {"type": "roundrobin", "nodes": nodes}});
        let format = "access_log_format: '$upstream_addr|$upstream_status|$upstream_connect_time|\
                      $upstream_header_time|$upstream_response_time|$upstream_bytes_received'\n";
        let setup = Setup::new(driver, Source::Yaml(format!("routes:\n- {route}"))).http(format);
        let gateway = setup.start();
        assert_eq!(gateway.get("/").text(), "hi");
        let log = gateway.read_until("logs/access.log", "\n");
        let tries: Vec<Vec<&str>> = log.trim().split('|').map(|field| field.split(", ").collect()).collect();
        let [addresses, statuses, connect, header, response, bytes] = &tries[..] else { panic!("{log}") };
        assert_eq!(addresses[..], [format!("127.0.0.1:{nobody}"), format!("127.0.0.1:{}", upstream.port)]);
        assert_eq!(statuses[..], ["502", "200"]);
        assert_eq!((connect[0], header[0], bytes[0]), ("-", "-", "0"), "{log}");
        let seconds = |text: &str| text.parse::<f64>().unwrap_or_else(|_| panic!("{log}"));
        assert!(seconds(response[0]) < 0.03, "{log}");
        assert!(seconds(connect[1]) < 0.03, "{log}");
        assert!((0.03..0.06).contains(&seconds(header[1])) && seconds(response[1]) >= 0.06, "{log}");
        assert!(seconds(bytes[1]) >= 40.0, "{log}");
    });
}

#[test]
fn a_routes_timeout_counts_before_that_of_its_upstream() {
    on_both_drivers(|driver| {
        let mute = Upstream::silent();
        let timeout = |read: f64| json!({"connect": 1, "send": 1, "read": read});
        let nodes = json!({format!("127.0.0.1:{}", mute.port): 1});
        let upstream = json!({"type": "roundrobin", "nodes": nodes, "timeout": timeout(60.0)});
        let route = json!({"uri": "/*", "timeout": timeout(0.3), "upstream": upstream});
        let gateway = Gateway::with_yaml(driver, &format!("routes:\n- {route}"));
        assert_eq!(gateway.get("/").status, 504);
    });
}

/// With `disable_upstream_healthcheck` nothing is probed, and no node is out for what requests have met there.
#[test]
fn checks_can_be_turned_off_for_the_whole_gateway() {
    on_both_drivers(|driver| {
        let broken = Upstream::answering("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n");
        let fit = Upstream::answering(ok("fit"));
        let nodes = [&broken, &fit].map(|upstream| (format!("127.0.0.1:{}", upstream.port), json!(1)));
        let checks = json!({
            "active": {"http_path": "/probe", "healthy": {"interval": 1}, "unhealthy": {"interval": 1, "http_failures": 1}},
            "passive": {"unhealthy": {"http_failures": 1, "http_statuses": [500]}}
        });
        let nodes: serde_json::Map<_, _> = nodes.into_iter().collect();
        let route =
            json!({"uri": "/*", "upstream": {"type": "roundrobin", "nodes": nodes, "checks": checks}});
        let setup = Setup::new(driver, Source::Yaml(format!("routes:\n- {route}"))).workers(1);
        let gateway = setup.apisix("disable_upstream_healthcheck: true").start();
        let began = std::time::Instant::now();
        let mut statuses = Vec::new();
        while began.elapsed() < Duration::from_millis(1500) {
            statuses.push(gateway.get("/").status);
        }
        let broken = statuses.iter().filter(|status| **status == 500).count();
        assert!(broken.abs_diff(statuses.len() / 2) <= 1, "{broken} of {}", statuses.len());
        assert!(fit.requests().iter().all(|request| request.target == "/"), "nothing is probed");
    });
}

#[test]
fn answers_are_not_mixed_up() {
    on_both_drivers(|driver| {
        let servers = [Upstream::mirror()];
        let gateway = with(driver, &servers, "{nodes: {\"127.0.0.1:$0\": 1}}");
        let (done, all) = channel();
        for thread in 0..16 {
            let (done, mut client) = (done.clone(), gateway.connect());
            std::thread::spawn(move || {
                for n in 0..100 {
                    let target = format!("/{thread}/{n}");
                    let answer = client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).response();
                    assert!(answer.text().starts_with(&format!("GET {target} ")), "{answer}");
                }
                done.send(()).unwrap();
            });
        }
        for _ in 0..16 {
            all.recv_timeout(PATIENCE).expect("every client is done");
        }
    });
}
