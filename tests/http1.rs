//! HTTP/1.1 as clients and upstreams see it (RFC 9110, RFC 9112; APISIX's nginx template).

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;

use common::*;

#[test]
fn a_connection_serves_many_requests() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        for n in 0..20 {
            let answer = client.send(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).response();
            assert_eq!(answer.status, 200);
            assert!(answer.text().starts_with(&format!("GET /{n} HTTP/1.1\r\n")), "{answer}");
        }
        assert_eq!(upstream.connections(), 1, "the upstream's connection is kept, too");
    });
}

#[test]
fn connection_close_is_answered_and_obeyed() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").response();
        assert_eq!(answer.header("connection"), Some("close"));
        client.closed();
    });
}

#[test]
fn http_1_0_clients_are_served() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        let answer = client.send("GET /old HTTP/1.0\r\n\r\n").response();
        assert_eq!(answer.status, 200);
        assert!(answer.text().starts_with("GET /old HTTP/1.1\r\n"), "towards upstreams it is 1.1: {answer}");
        assert_eq!(upstream.last().header("host"), None, "none was sent");
        client.closed();

        let mut client = gateway.connect();
        for _ in 0..2 {
            let answer = client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response();
            assert_eq!(answer.header("connection"), Some("keep-alive"));
        }
    });
}

#[test]
fn an_http_1_0_client_never_gets_chunks() {
    on_both_drivers(|driver| {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let upstream = Upstream::answering(chunked);
        let gateway = Gateway::to(driver, upstream.port);
        let answer = ask(gateway.port(), b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(answer.header("transfer-encoding"), None);
        assert_eq!(answer.text(), "abcde");
    });
}

/// What a request was given (a consumer, headers, variables, another upstream) is gone with it: exchanges are reused.
#[test]
fn a_request_leaves_nothing_for_the_next() {
    on_both_drivers(|driver| {
        let (upstream, other) = (Upstream::mirror(), Upstream::mirror());
        let silent = Upstream::silent();
        let to = |upstream: &Upstream| format!("{{nodes: {{\"127.0.0.1:{}\": 1}}}}", upstream.port);
        let limit = "limit-count: {count: 9, time_window: 60, key: remote_addr}";
        let rich = format!(
            "{{key-auth: {{}}, request-id: {{}}, {limit}, response-rewrite: {{headers: {{set: {{X-Got: b}}}}}}, \
             proxy-rewrite: {{uri: /rewritten, host: other.test, method: PUT, headers: {{add: {{X-Sent: a}}}}}}, \
             real-ip: {{source: arg_ip}}, gzip: {{min_length: 1, types: \"*\"}}, \
             traffic-split: {{rules: [{{weighted_upstreams: [{{upstream: {}}}]}}]}}}}",
            to(&other)
        );
        let objects = format!(
            "routes:\n- {{id: plain, uri: /plain, upstream: {0}}}\n\
             - {{id: rich, uri: \"/rich/:id\", plugins: {rich}, upstream: {0}}}\n\
             - {{id: echo, uri: /echo, plugins: {{echo: {{before_body: \"echo: \"}}}}, upstream: {0}}}\n\
             - {{id: silent, uri: /silent, plugins: {{{limit}}}, upstream: {1}}}\n\
             consumers:\n- {{username: jack, plugins: {{key-auth: {{key: k}}}}}}",
            to(&upstream),
            to(&silent)
        );
        let setup = Setup::new(driver, Source::Yaml(objects)).workers(1);
        let setup = setup.apisix("router: {http: radixtree_uri_with_parameter}").http(
            "access_log_format: \"$uri $consumer_name $route_id $uri_param_id $upstream_addr $upstream_uri \
             $remote_addr $upstream_host $rate_limiting_info $status,$request_id,$apisix_request_id\"",
        );
        let gateway = setup.start();
        let mut client = gateway.connect();
        let plain = |client: &mut Client| {
            let answer = client.send("GET /plain HTTP/1.1\r\nHost: a\r\n\r\n").response();
            (answer.head.clone(), answer.text())
        };
        let before = plain(&mut client);
        let rich =
            "GET /rich/7?ip=10.1.1.1 HTTP/1.1\r\nHost: a\r\napikey: k\r\nAccept-Encoding: gzip\r\n\r\n";
        for _ in 0..3 {
            let answer = client.send(rich).response();
            assert_eq!((answer.status, answer.header("x-got")), (200, Some("b")), "{answer}");
            assert_eq!(answer.header("content-encoding"), Some("gzip"));
            assert_eq!(other.last().header("x-sent"), Some("a"));
            assert_eq!(plain(&mut client), before);
            let echo = client.send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").response().text();
            assert!(echo.starts_with("echo: GET /echo"), "{echo}");
        }
        // one whose connection had to be closed
        let broken = "POST /plain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert_eq!(ask(gateway.port(), broken.as_bytes()).status, 400);
        assert_eq!(plain(&mut client), before);
        // one that was never answered
        let mut leaving = gateway.connect();
        leaving.send("GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
        silent.wait_for(1);
        drop(leaving);
        gateway.read_until("logs/access.log", " 499,");
        assert_eq!(plain(&mut client), before);

        let log = gateway.read_until("logs/access.log", "/rich/7 jack rich 7 ");
        let lines = log.lines().filter(|line| line.starts_with("/plain ") && line.contains(" 200,"));
        let lines: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
        assert!(lines.len() > 3 && lines.iter().all(|line| line[0] == lines[0][0]), "{log}");
        let mut ids: Vec<&str> = lines.iter().map(|line| line[1]).collect();
        assert!(lines.iter().all(|line| line[1] == line[2]), "{log}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), lines.len(), "{log}");
    });
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        let mut bytes = String::new();
        for n in 0..50 {
            match n % 3 {
                0 => bytes += &format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
                1 => bytes += &format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
                _ => {
                    bytes += &format!(
                        "PUT /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                    );
                }
            }
        }
        client.send(bytes);
        for n in 0..50 {
            let text = client.response().text();
            assert!(text.contains(&format!(" /{n} HTTP/1.1\r\n")), "{n}: {text}");
        }
        for request in upstream.requests() {
            let body: &[u8] = match request.method.as_str() {
                "GET" => b"",
                "POST" => b"hello",
                _ => b"abc",
            };
            assert_eq!(request.body, body);
        }
    });
}

#[test]
fn a_request_may_come_byte_by_byte() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        let request =
            "POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n";
        for byte in request.as_bytes() {
            client.send([*byte]);
        }
        assert_eq!(client.response().status, 200);
        assert_eq!(upstream.last().body, b"wxyz");
        let answer = client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert!(answer.text().starts_with("GET /next "));
    });
}

#[test]
fn a_short_chunked_request_is_sent_with_its_length() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let answer = ask(
            gateway.port(),
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=\"y\"\r\n world\r\n0\r\n\r\n",
        );
        assert_eq!(answer.status, 200);
        let request = upstream.last();
        assert_eq!(request.body, b"hello world");
        assert_eq!(request.header("content-length"), Some("11"));
        assert_eq!(request.header("transfer-encoding"), None);
    });
}

/// `add_header` of a snippet: without `always` it is for the statuses that nginx names; an empty value is none.
#[test]
fn a_snippet_adds_fields_to_answers() {
    on_both_drivers(|driver| {
        let upstream = Upstream::with_statuses();
        let snippet = "http_configuration_snippet: \"add_header X-Some 'some $status'; add_header X-All all always; \
                       add_header X-Arg $arg_a always;\"\n";
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port))).nginx(snippet).start();
        for (status, is_some) in
            [(200, true), (201, true), (301, true), (308, true), (203, false), (404, false), (500, false)]
        {
            let answer = gateway.get(&format!("/{status}"));
            let some = format!("some {status}");
            assert_eq!(answer.header("x-some"), is_some.then_some(&*some), "{answer}");
            assert_eq!((answer.header("x-all"), answer.header("x-arg")), (Some("all"), None), "{answer}");
        }
        assert_eq!(gateway.get("/200?a=b").header("x-arg"), Some("b"));
    });
}

/// As nginx: servers refuse a POST without a length (411).
#[test]
fn an_empty_chunked_request_is_sent_with_its_length() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let head = "POST / HTTP/1.1\r\nHost: a\r\n";
        for (framing, length) in [
            ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some("0")),
            ("Content-Length: 0\r\n\r\n", Some("0")),
            ("\r\n", None),
        ] {
            assert_eq!(ask(gateway.port(), format!("{head}{framing}").as_bytes()).status, 200);
            let request = upstream.last();
            assert_eq!(
                (request.header("content-length"), request.header("transfer-encoding")),
                (length, None)
            );
        }
    });
}

#[test]
fn a_long_chunked_request_streams() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = vec![b'x'; 50_000];
        for _ in 0..10 {
            client.send(format!("{:x}\r\n", piece.len())).send(&piece).send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.response().status, 200);
        let request = upstream.last();
        assert_eq!(request.header("transfer-encoding"), Some("chunked"));
        assert_eq!(request.header("content-length"), None);
        assert_eq!(request.body.len(), 500_000);
    });
}

#[test]
fn trailers_of_a_request_reach_the_upstream() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        let long = "x".repeat(100_000);
        for body in ["", "hello", &long] {
            client.send(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nX-Seen: head\r\n\r\n",
            );
            if !body.is_empty() {
                client.send(format!("{:x}\r\n{body}\r\n", body.len()));
            }
            client.send(
                "0\r\nX-Sum: 7\r\nX-Sum: 8\r\nHost: b\r\nContent-Length: 1\r\nX-Forwarded-For: 1.2.3.4\r\n\
                 X-Real-IP: 1.2.3.4\r\nx-seen: trailer\r\n\r\n",
            );
            assert_eq!(client.response().status, 200);
            let request = upstream.last();
            assert_eq!(request.body, body.as_bytes());
            assert_eq!(request.all("transfer-encoding"), ["chunked"]);
            assert_eq!(request.header("content-length"), None);
            assert_eq!(request.header("trailer"), Some("X-Sum"));
            let sums = ["7", "8"].map(|value| ("X-Sum".to_string(), value.to_string()));
            assert_eq!(request.trailers, sums, "those that a server could mistake for the head's stay here");
        }
        let plain =
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\n\r\n";
        assert_eq!(client.send(plain).response().status, 200);
        assert_eq!(upstream.last().header("trailer"), None, "none came");

        let many = format!("0\r\nA: {}\r\n\r\n", "a".repeat(10_000));
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").send(many);
        assert_eq!(client.response().status, 400);
        client.closed();
    });
}

/// They are sent again with a retry, as the body is.
#[test]
fn trailers_of_names_that_plugins_removed_stay_behind() {
    on_both_drivers(|driver| {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\
                       X-Leak: 1\r\nX-Sum: 7\r\n\r\n";
        let upstream = Upstream::answering(chunked);
        let objects = format!(
            "routes:\n- uri: /*\n  plugins:\n    \
             proxy-rewrite: {{headers: {{remove: [X-Secret], set: {{X-User: me}}}}}}\n    \
             response-rewrite: {{headers: {{remove: [x-leak]}}}}\n  \
             upstream: {{type: roundrobin, nodes: {{\"127.0.0.1:{}\": 1}}}}",
            upstream.port
        );
        let gateway = Gateway::with_yaml(driver, &objects);
        let mut client = gateway.connect();
        for _ in 0..2 {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n");
            client.send("x-secret: 1\r\nX-User: you\r\nX-Up: 2\r\n\r\n");
            assert_eq!(client.response().trailers, [("X-Sum".to_string(), "7".to_string())]);
            assert_eq!(upstream.last().trailers, [("X-Up".to_string(), "2".to_string())]);
        }
    });
}

#[test]
fn trailers_of_a_request_survive_a_retry() {
    on_both_drivers(|driver| {
        let (first, second) = (Upstream::start(|conn| drop(conn.request())), Upstream::mirror());
        let nodes = format!(
            "[{{host: 127.0.0.1, port: {}, weight: 1, priority: 1}}, {{host: 127.0.0.1, port: {}, weight: 1}}]",
            first.port, second.port
        );
        let routes = format!("routes:\n- {{id: 1, uri: /*, upstream: {{nodes: {nodes}}}}}");
        let gateway = Gateway::with_yaml(driver, &routes);
        let put =
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n";
        assert_eq!(ask(gateway.port(), put.as_bytes()).status, 200);
        for upstream in [first, second] {
            assert_eq!(upstream.last().body, b"hi");
            assert_eq!(upstream.last().trailers, [("X-Sum".to_string(), "7".to_string())]);
        }
    });
}

#[test]
fn trailers_of_an_answer_reach_the_client() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
        );
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        for _ in 0..2 {
            let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").response();
            assert_eq!(answer.text(), "abc");
            assert_eq!(answer.trailers, [("X-Sum".to_string(), "7".to_string())]);
        }
        assert_eq!(upstream.connections(), 1, "behind trailers the connection can be kept");
    });
}

#[test]
fn expect_100_continue_is_answered_when_the_body_is_wanted() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        let go_on = client.response();
        assert_eq!(go_on.head, "HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(client.send("body").response().status, 200);
        let request = upstream.last();
        assert_eq!(request.body, b"body");
        assert_eq!(request.header("expect"), None, "it was answered here");

        let routes = "routes:\n- {id: 1, uri: /only, upstream: {nodes: {\"127.0.0.1:1\": 1}}}";
        let gateway = Gateway::with_yaml(driver, routes);
        let mut client = gateway.connect();
        client.send("POST /none HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(client.response().status, 404, "nobody wants this body");
        client.send("bodyGET /none HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().status, 404, "what comes of it is dropped, and not asked for");
    });
}

/// RFC 9110 section 10.1.1: behind its final answer a request is not told to go on.
#[test]
fn a_body_that_nobody_wants_is_not_asked_for() {
    on_both_drivers(|driver| {
        let routes = "routes:\n- {id: 1, uri: /only, upstream: {nodes: {\"127.0.0.1:1\": 1}}}";
        let gateway = Gateway::with_yaml(driver, routes);
        let mut client = gateway.connect();
        client.send("POST /none HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(client.response().status, 404);
        client.closed(); // the gateway does not wait for long
    });
}

/// As nginx does: nobody reads the rest, which may never end.
#[test]
fn an_upstream_whose_client_has_left_is_left_too() {
    on_both_drivers(|driver| {
        let (closed, was_closed) = channel();
        let upstream = Upstream::start(move |conn| {
            conn.request();
            let _ = conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
            conn.drain();
            let _ = closed.send(());
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect().stream();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"data: 1\n\n\r\n") {
            let mut piece = [0; 1024];
            let n = client.read(&mut piece).unwrap();
            assert_ne!(n, 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&piece[..n]);
        }
        assert!(was_closed.try_recv().is_err(), "while its client is there it is waited for");
        drop(client);
        was_closed.recv_timeout(PATIENCE).expect("the upstream's connection is closed");
        assert!(gateway.read_until("logs/access.log", " 200 ").contains("\"GET / HTTP/1.1\" 200 "));
    });
}

#[test]
fn a_request_that_waits_behind_a_stream_is_no_reason_to_end_it() {
    on_both_drivers(|driver| {
        let gate = Gate::default();
        let slow = gate.clone();
        let upstream = Upstream::start(move |conn| {
            while let Some(request) = conn.request() {
                if request.target == "/next" {
                    let _ = conn.send(ok("next"));
                    continue;
                }
                let _ = conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
                slow.pass();
                let _ = conn.send("3\r\ntwo\r\n0\r\n\r\n");
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut first = [0; 1024];
        let n = client.stream().peek(&mut first).unwrap();
        assert!(n > 0, "the answer has begun");
        gate.open();
        assert_eq!(client.response().text(), "onetwo");
        assert_eq!(client.response().text(), "next");
    });
}

/// nginx's order: date, type, framing, connection, and then what was set, `Server` at last.
#[test]
fn heads_look_as_those_of_apisix() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(
            "HTTP/1.1 200 OK\r\nX-First: 1\r\nContent-Type: a/b\r\nContent-Length: 2\r\nX-Last: 2\r\n\r\nok",
        );
        let nodes = format!("upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}", upstream.port);
        let text = format!(
            "routes:\n- {{id: 1, uri: /up, {nodes}}}\n- {{id: 2, uri: /refused, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
            free_port()
        );
        let gateway = Setup::new(driver, Source::Yaml(text)).start();
        let head = |target: &str| {
            let answer =
                gateway.connect().send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).response();
            let fields = answer.headers.iter().map(|(name, value)| match name.as_str() {
                "Date" => "Date".to_string(),
                name => format!("{name}: {value}"),
            });
            fields.collect::<Vec<_>>().join(", ")
        };
        let server = "Server: APISIX/3.18.0";
        assert_eq!(
            head("/up"),
            format!(
                "Content-Type: a/b, Content-Length: 2, Connection: keep-alive, X-First: 1, X-Last: 2, {server}"
            ),
            "the upstream has sent no date"
        );
        assert_eq!(
            head("/none"),
            format!(
                "Date, Content-Type: text/plain; charset=utf-8, Transfer-Encoding: chunked, Connection: keep-alive, {server}"
            )
        );
        let page = head("/refused");
        let (before, rest) = page.split_once("Content-Length: ").unwrap();
        assert_eq!(before, "Date, Content-Type: text/html; charset=utf-8, ");
        assert!(
            rest.ends_with(&format!(", Connection: keep-alive, {server}, X-APISIX-Upstream-Status: 502")),
            "{rest}"
        );
    });
}

#[test]
fn enable_server_tokens_off_hides_the_version_everywhere() {
    let upstream = Upstream::mirror();
    let setup = Setup::new(drivers()[0], Source::Embedded).workers(1);
    let gateway = setup.apisix("enable_server_tokens: false").start();
    let route = serde_json::json!({"uri": "/up", "upstream": {"nodes": {(format!("127.0.0.1:{}", upstream.port)): 1}}});
    let put = gateway.put("/routes/1", &route);
    let others = [gateway.get("/up"), gateway.get("/none"), get(gateway.ports.control, "/v1/healthcheck")];
    for answer in others.into_iter().chain([put]) {
        assert_eq!(answer.all("server"), ["APISIX"], "{answer}");
    }
}

#[test]
fn answers_without_a_body() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let answer = match (request.method.as_str(), request.target.as_str()) {
                    ("HEAD", _) => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Head: yes\r\n\r\n",
                    (_, "/204") => "HTTP/1.1 204 No Content\r\nX-Kind: none\r\n\r\n",
                    (_, "/304") => "HTTP/1.1 304 Not Modified\r\nETag: \"v\"\r\nContent-Length: 77\r\n\r\n",
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                };
                if conn.send(answer).is_err() {
                    return;
                }
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        let head = client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").response_to_head();
        assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
        let none = client.send("GET /204 HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!(none.status, 204);
        assert_eq!(none.header("transfer-encoding"), None);
        assert_eq!(none.header("content-length"), None);
        let same = client.send("GET /304 HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!((same.status, same.header("etag")), (304, Some("\"v\"")));
        let empty = client.send("GET /0 HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!((empty.status, empty.header("content-length")), (200, Some("0")));
        assert_eq!(upstream.connections(), 1);
    });
}

/// As nginx, which passes on what an upstream says of its own 204.
#[test]
fn a_204_of_a_plugin_describes_no_body() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let status =
                    if request.target == "/204" { "204 Nothing" } else { "200 OK\r\nContent-Length: 0" };
                let _ = conn
                    .send(format!("HTTP/1.1 {status}\r\nContent-Type: a/b\r\nLast-Modified: then\r\n\r\n"));
            }
        });
        let nodes = format!("upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}", upstream.port);
        let gateway = Gateway::with_yaml(
            driver,
            &format!(
                "routes:\n- {{id: 1, uri: /204, {nodes}}}\n\
                 - {{id: 2, uri: /rewritten, plugins: {{response-rewrite: {{status_code: 204}}}}, {nodes}}}\n\
                 - {{id: 3, uri: /mocked, plugins: {{mocking: {{response_status: 204, response_example: x}}}}}}"
            ),
        );
        let mut client = gateway.connect();
        for (target, kind, modified) in
            [("/204", Some("a/b"), Some("then")), ("/rewritten", None, None), ("/mocked", None, None)]
        {
            let answer = client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).response();
            assert_eq!((answer.status, answer.header("content-length")), (204, None), "{answer}");
            assert_eq!(
                (answer.header("content-type"), answer.header("last-modified")),
                (kind, modified),
                "{answer}"
            );
        }
    });
}

/// What is wrong with it can be seen, and nobody takes it for whole.
#[test]
fn an_answer_longer_than_a_plugin_says_is_cut_off_behind_its_head() {
    on_both_drivers(|driver| {
        let mocking = "{response_example: hello, response_headers: {Content-Length: \"3\"}}";
        let gateway = Gateway::with_yaml(
            driver,
            &format!("routes:\n- {{id: 1, uri: /, plugins: {{mocking: {mocking}}}}}"),
        );
        let answer = gateway.connect().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(answer.contains("\r\nContent-Length: 3\r\n"), "{answer}");
        gateway.read_until("logs/error.log", "an answer is longer than its content-length");
    });
}

#[test]
fn head_of_our_own_pages_has_no_body() {
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, "routes: []");
        let mut client = gateway.connect();
        let answer = client.send("HEAD /none HTTP/1.1\r\nHost: a\r\n\r\n").response_to_head();
        assert_eq!(answer.status, 404);
        let answer = client.send("GET /none HTTP/1.1\r\nHost: a\r\n\r\n").response();
        assert_eq!(answer.status, 404, "the connection is still in step");
    });
}

#[test]
fn an_answer_may_end_with_its_connection() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
            let _ = conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end");
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        for _ in 0..2 {
            let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
            assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
            assert_eq!(answer.text(), "until the end");
        }
    });
}

#[test]
fn an_http_1_0_answer_ends_with_its_connection() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
            let _ = conn.send("HTTP/1.0 200 OK\r\nX-Old: yes\r\n\r\nold");
        });
        let gateway = Gateway::to(driver, upstream.port);
        let answer = gateway.get("/");
        assert!(answer.head.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(answer.text(), "old");
        assert!(answer.whole);
    });
}

#[test]
fn interim_answers_without_end_are_given_up() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "a".repeat(1000));
            while conn.request().is_some() {
                while conn.send(&hint).is_ok() {}
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        assert_eq!(gateway.get("/").status, 502);
    });
}

#[test]
fn informational_answers_do_not_confuse() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while conn.request().is_some() {
                let _ =
                    conn.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
                let _ = conn.send(ok("final"));
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        for _ in 0..2 {
            let mut answer = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response();
            while answer.status == 103 {
                answer = client.response();
            }
            assert_eq!((answer.status, answer.text().as_str()), (200, "final"));
        }
    });
}

/// Its head and what comes of its body with it, too, and all framing.
#[test]
fn what_an_upstream_has_sent_counts_once() {
    on_both_drivers(|driver| {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let upstream = Upstream::start(move |conn| {
            while let Some(request) = conn.request() {
                let _ = match request.target.as_str() {
                    "/whole" => conn.send(ok("final")),
                    "/too-much" => conn.send(ok("final") + "junk"),
                    "/chunked" => conn.send(format!("{chunked}5\r\nfinal\r\n0\r\n\r\n")),
                    _ => conn.send("HTTP/1.1 103 Early Hints\r\n\r\n".to_owned() + &ok("final")),
                };
            }
        });
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .http("access_log_format: \"$uri $upstream_bytes_received.\"")
            .start();
        let whole = ok("final").len();
        for (target, bytes) in [
            ("/whole", whole),
            ("/chunked", chunked.len() + "5\r\nfinal\r\n0\r\n\r\n".len()),
            ("/too-much", whole + "junk".len()),
            ("/interim", "HTTP/1.1 103 Early Hints\r\n\r\n".len() + whole),
        ] {
            assert_eq!(gateway.get(target).text(), "final");
            gateway.read_until("logs/access.log", &format!("{target} {bytes}."));
        }
    });
}

#[test]
fn the_length_of_a_request_is_that_on_the_wire() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("x"));
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .http("access_log_format: \"$uri $request_length.\"")
            .start();
        let mut client = gateway.connect();
        let chunked = "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";
        let next = "POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        client.send([chunked, next].concat());
        for (target, request) in [("/chunked", chunked), ("/next", next)] {
            assert_eq!(client.response().status, 200);
            gateway.read_until("logs/access.log", &format!("{target} {}.", request.len()));
        }
    });
}

#[test]
fn an_interim_answer_does_not_end_an_upload() {
    const LENGTH: usize = 2 << 20;
    on_both_drivers(|driver| {
        let told = Arc::new(AtomicUsize::new(0));
        let telling = told.clone();
        let upstream = Upstream::start(move |conn| {
            while let Some(head) = conn.head() {
                conn.remember(&head);
                let _ = conn
                    .send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
                let _ = conn.send("HTTP/1.1 100 Con");
                telling.fetch_add(1, Relaxed);
                if !conn.skip(LENGTH) {
                    return;
                }
                let _ = conn.send("tinue\r\n\r\n");
                let _ = conn.send(ok("got it"));
            }
        });
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port))).workers(1);
        let gateway = setup.start();
        let mut client = gateway.connect();
        for asked in 1..=2 {
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
            client.send(vec![b'x'; LENGTH / 2]);
            eventually("the interim answers are sent", || told.load(Relaxed) == asked);
            client.send(vec![b'x'; LENGTH / 2]);
            assert_eq!(client.response().text(), "got it");
        }
        let connections: Vec<usize> = upstream.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 0], "the whole request was sent: its connection is kept");
    });
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX-Stays: 1\r\nContent-Length: 2\r\n\r\nok",
        );
        let gateway = Gateway::to(driver, upstream.port);
        let answer = ask(
            gateway.port(),
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
              Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Stays: 1\r\n\r\n",
        );
        let request = upstream.last();
        for name in ["keep-alive", "te", "upgrade"] {
            assert_eq!(request.header(name), None, "{name} went upstream");
        }
        assert_eq!(request.header("x-stays"), Some("1"));
        assert_eq!(answer.header("keep-alive"), None, "{answer}");
        assert_eq!(answer.header("x-stays"), Some("1"));
    });
}

#[test]
fn fields_keep_order_case_and_duplicates() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(
            "HTTP/1.1 200 OK\r\nsEt-CooKie: a=1\r\nX-B: 2\r\nSet-Cookie: c=3\r\nx-EMPTY:\r\nContent-Length: 0\r\n\r\n",
        );
        let gateway = Gateway::to(driver, upstream.port);
        let answer = ask(
            gateway.port(),
            b"GET / HTTP/1.1\r\nhOsT: a\r\nX-zz: 1\r\nx_under: 2\r\nX-AA: 3\r\nx-ZZ: 4\r\nX-Empty:\r\nx-Utf: \xc3\xa9\r\n\r\n",
        );
        let request = upstream.last();
        let own = ["x-zz", "x_under", "x-aa", "x-empty", "x-utf"];
        let got: Vec<(String, String)> =
            request.headers.into_iter().filter(|(n, _)| own.contains(&n.to_lowercase().as_str())).collect();
        let pairs =
            [("X-zz", "1"), ("x_under", "2"), ("X-AA", "3"), ("x-ZZ", "4"), ("X-Empty", ""), ("x-Utf", "é")];
        assert_eq!(got, pairs.map(|(n, v)| (n.to_string(), v.to_string())));
        let cookies = answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"));
        let cookies: Vec<_> = cookies.map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(cookies, [("sEt-CooKie", "a=1"), ("Set-Cookie", "c=3")]);
        assert!(answer.head.find("X-B: 2").unwrap() < answer.head.find("Set-Cookie: c=3").unwrap());
        assert_eq!(answer.header("x-empty"), Some(""));
    });
}

#[test]
fn absolute_form_is_taken_apart() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let routes = format!(
            "routes:\n- id: 1\n  uri: /a/*\n  host: www.example.com\n  upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}",
            upstream.port
        );
        let gateway = Gateway::with_yaml(driver, &routes);
        let answer = ask(
            gateway.port(),
            b"GET http://www.example.com/a/b?c=d HTTP/1.1\r\nHost: www.example.com\r\n\r\n",
        );
        assert_eq!(answer.status, 200, "{answer}");
        let request = upstream.last();
        assert_eq!(request.target, "/a/b?c=d");
        assert_eq!(request.header("host"), Some("www.example.com"));
    });
}

#[test]
fn the_target_goes_upstream_byte_for_byte() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        for target in ["/a//b/../c/%2e/d?x=%20&y", "/%41?", "/;p=1", "/a%2Fb", "/?a=b?c=/../d"] {
            assert_eq!(gateway.get(target).status, 200, "{target}");
            assert_eq!(upstream.last().target, target);
        }
    });
}

/// APISIX's template: what an upstream learns about the client.
#[test]
fn forwarding_fields_tell_what_was_seen_here() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let port = gateway.port().to_string();
        gateway.get("/");
        let request = upstream.last();
        assert_eq!(request.header("host"), Some("gateway.test"));
        assert_eq!(request.header("x-real-ip"), Some("127.0.0.1"));
        assert_eq!(request.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(request.all("x-forwarded-proto"), ["http"]);
        assert_eq!(request.all("x-forwarded-host"), ["gateway.test"]);
        assert_eq!(request.all("x-forwarded-port"), [port.as_str()]);
        assert_eq!(request.header("via"), None);

        let claims = "Host: gateway.test:8443\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n\
                      X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nForwarded: for=9.9.9.9\r\n";
        request_to(&gateway, claims);
        let request = upstream.last();
        assert_eq!(request.header("host"), Some("gateway.test:8443"), "with the port that the client sent");
        assert_eq!(request.all("x-forwarded-for"), ["1.1.1.1, 127.0.0.1"]);
        assert_eq!(request.all("x-forwarded-proto"), ["http"]);
        assert_eq!(request.all("x-forwarded-host"), ["gateway.test:8443"]);
        assert_eq!(request.all("x-forwarded-port"), ["8443"]);
        assert_eq!(request.header("forwarded"), None);

        // a request without Host has the server's name, which is `_` (nginx's $host)
        ask(gateway.port(), b"GET / HTTP/1.0\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n\r\n");
        let request = upstream.last();
        assert_eq!(request.all("x-forwarded-host"), ["_"]);
        assert_eq!(request.all("x-forwarded-port"), [port.as_str()]);

        // from 127.0.0.1 the address in X-Real-IP is believed (real_ip_from)
        request_to(&gateway, "Host: a\r\nX-Real-IP: 10.1.2.3\r\n");
        let request = upstream.last();
        assert_eq!(request.all("x-real-ip"), ["10.1.2.3"]);
        assert_eq!(request.all("x-forwarded-for"), ["10.1.2.3"]);
    });
}

fn request_to(gateway: &Gateway, fields: &str) -> Response {
    request(gateway.port(), "GET", "/", fields)
}

#[test]
fn a_trusted_peer_is_believed() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let claims = "Host: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n\
                      X-Forwarded-Host: public\r\nX-Forwarded-Port: 443\r\n";
        let source = Source::Yaml(everything_to(upstream.port));
        let trusted = Setup::new(driver, source.clone()).apisix("trusted_addresses: [127.0.0.1]").start();
        request_to(&trusted, claims);
        let request = upstream.last();
        assert_eq!(request.all("x-forwarded-for"), ["1.1.1.1, 127.0.0.1"]);
        assert_eq!(request.all("x-forwarded-proto"), ["https"]);
        assert_eq!(request.all("x-forwarded-host"), ["public"]);
        assert_eq!(request.all("x-forwarded-port"), ["443"]);

        request_to(
            &trusted,
            "Host: a\r\nX-Real-IP: 10.1.2.3\r\nX-Forwarded-Proto: https\r\nForwarded: for=9.9.9.9\r\n",
        );
        let request = upstream.last();
        assert_eq!(request.all("x-forwarded-proto"), ["https"], "it is the peer that is trusted");
        assert_eq!(request.all("forwarded"), ["for=9.9.9.9"]);
        request_to(&trusted, "Host: a\r\nX-Forwarded-Proto:\r\nX-Forwarded-Host:\r\n");
        let request = upstream.last();
        assert_eq!(request.all("x-forwarded-proto"), ["http"], "it has said nothing");
        assert_eq!(request.all("x-forwarded-host"), ["a"]);

        let far = Setup::new(driver, source.clone()).http("real_ip_from: [10.0.0.0/8]").start();
        request_to(&far, "Host: a\r\nX-Real-IP: 10.1.2.3\r\n");
        assert_eq!(upstream.last().all("x-real-ip"), ["127.0.0.1"], "it says who it is, and is not believed");

        // t/cli/test_main.sh
        for (recursive, client) in [("off", "127.0.0.2"), ("on", "10.1.2.3")] {
            let chain = format!(
                "real_ip_from: [127.0.0.0/8]\nreal_ip_header: X-Forwarded-For\nreal_ip_recursive: \"{recursive}\""
            );
            let gateway = Setup::new(driver, source.clone()).http(&chain).start();
            request_to(&gateway, "Host: a\r\nX-Forwarded-For: 1.2.3.4, 10.1.2.3, 127.0.0.2\r\n");
            assert_eq!(upstream.last().all("x-real-ip"), [client], "{recursive}");
            // what is behind the last that is no address is not believed
            request_to(&gateway, "Host: a\r\nX-Forwarded-For: 10.1.2.3, unknown, 127.0.0.2\r\n");
            assert_eq!(upstream.last().all("x-real-ip"), ["127.0.0.2"], "{recursive}");
            request_to(&gateway, "Host: a\r\nX-Forwarded-For: 10.1.2.3, unknown\r\n");
            assert_eq!(upstream.last().all("x-real-ip"), ["127.0.0.1"], "{recursive}");
        }

        let other = Setup::new(driver, source).apisix("trusted_addresses: [10.0.0.0/8]").start();
        request_to(&other, claims);
        let request = upstream.last();
        assert_eq!(request.all("x-forwarded-for"), ["127.0.0.1"], "who is not trusted is not heard");
        assert_eq!(request.all("x-forwarded-proto"), ["http"]);
        assert_eq!(request.all("x-forwarded-host"), ["a"]);
    });
}

/// ngx_http_realip_module.c
#[test]
fn an_address_that_is_believed_comes_with_its_port() {
    on_both_drivers(|driver| {
        let objects = "routes:\n- {id: 1, uri: /*, plugins: {mocking: {response_example: \"$remote_addr $remote_port,\"}}}";
        let gateway = Gateway::with_yaml(driver, objects);
        for (said, seen) in [("10.1.2.3:4567", "10.1.2.3 4567,"), ("10.1.2.3", "10.1.2.3 ,")] {
            assert_eq!(request_to(&gateway, &format!("Host: a\r\nX-Real-IP: {said}\r\n")).text(), seen);
        }
        let gateway = Setup::new(driver, Source::Yaml(objects.into()))
            .apisix("proxy_protocol: {listen_http_port: $PROXIED}")
            .http("real_ip_header: proxy_protocol")
            .start();
        let mut client = Client::connect(gateway.ports.proxied);
        client.send("PROXY TCP4 10.1.2.3 10.9.9.9 4567 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().text(), "10.1.2.3 4567,");
    });
}

#[test]
fn the_server_field_is_ours() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(
            "HTTP/1.1 200 OK\r\nServer: theirs\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
        );
        let source = Source::Yaml(everything_to(upstream.port));
        let gateway = Setup::new(driver, source.clone()).start();
        let answer = gateway.get("/");
        assert_eq!(answer.all("server"), ["APISIX/3.18.0"]);
        assert_eq!(answer.all("date"), ["Thu, 01 Jan 1970 00:00:00 GMT"], "Date is passed through");
        let gateway = Setup::new(driver, source).apisix("enable_server_tokens: false").start();
        assert_eq!(gateway.get("/").all("server"), ["APISIX"]);
    });
}

#[test]
fn the_status_of_the_upstream_is_told_for_server_errors() {
    on_both_drivers(|driver| {
        let upstream = Upstream::with_statuses();
        let gateway = Gateway::to(driver, upstream.port);
        assert_eq!(gateway.get("/200").header("x-apisix-upstream-status"), None);
        assert_eq!(gateway.get("/404").header("x-apisix-upstream-status"), None);
        let answer = gateway.get("/503");
        assert_eq!((answer.status, answer.header("x-apisix-upstream-status")), (503, Some("503")));
    });
}

#[test]
fn text_gets_its_charset() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let kind = request.header("x-kind").unwrap_or_default();
                let _ = conn
                    .send(format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 0\r\n\r\n"));
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        for (sent, seen) in [
            ("text/html", "text/html; charset=utf-8"),
            ("text/plain", "text/plain; charset=utf-8"),
            ("text/plain; charset=latin1", "text/plain; charset=latin1"),
            ("application/json", "application/json"),
        ] {
            let answer = request_to(&gateway, &format!("Host: a\r\nX-Kind: {sent}\r\n"));
            assert_eq!(answer.header("content-type"), Some(seen));
        }
    });
}

#[test]
fn a_body_over_the_limit_is_refused() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port)));
        let gateway = setup.http("client_max_body_size: 1000").start();
        let fits = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
        assert_eq!(ask(gateway.port(), fits.as_bytes()).status, 200);

        let mut client = gateway.connect();
        let answer = client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").response();
        assert_eq!(answer.status, 413);
        client.shut();
        client.closed();

        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001)));
        assert_eq!(client.response().status, 413);
        assert_eq!(upstream.requests().len(), 1, "neither reached the upstream");
    });
}

const LARGE: usize = 200 << 20;
/// What a body may add to the memory of the process: a few buffers. A body that gathers would add ten times that.
const MOST_KIB: u64 = 24 << 10;

#[test]
fn a_large_upload_streams() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            let head = conn.head().unwrap();
            conn.remember(&head);
            let length: usize = head.header("content-length").unwrap().parse().unwrap();
            if !conn.skip(length) {
                return;
            }
            let _ = conn.send(ok("got it"));
        });
        let gateway = Gateway::to(driver, upstream.port);
        let before_kib = gateway.peak_kib();
        let mut client = gateway.connect();
        client.send(format!("PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
        let piece = vec![b'u'; 1 << 20];
        for _ in 0..LARGE / piece.len() {
            client.send(&piece);
        }
        assert_eq!(client.response().text(), "got it");
        let grown_kib = gateway.peak_kib() - before_kib;
        assert!(grown_kib < MOST_KIB, "{grown_kib} KiB");
    });
}

#[test]
fn a_large_download_streams() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let chunked = request.target == "/chunked";
                let framing = match chunked {
                    true => "Transfer-Encoding: chunked".to_string(),
                    false => format!("Content-Length: {LARGE}"),
                };
                let mut sent = conn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
                let piece = vec![b'd'; 1 << 20];
                for _ in 0..LARGE / piece.len() {
                    if chunked {
                        sent = sent.and_then(|()| conn.send("100000\r\n"));
                    }
                    sent = sent.and_then(|()| conn.send(&piece));
                    if chunked {
                        sent = sent.and_then(|()| conn.send("\r\n"));
                    }
                }
                if chunked {
                    sent = sent.and_then(|()| conn.send("0\r\n\r\n"));
                }
                if sent.is_err() {
                    return;
                }
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let before_kib = gateway.peak_kib();
        let mut client = gateway.connect();
        for target in ["/length", "/chunked"] {
            client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(client.count_body(), LARGE, "{target}");
        }
        let grown_kib = gateway.peak_kib() - before_kib;
        assert!(grown_kib < MOST_KIB, "{grown_kib} KiB");
    });
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 ^ (n >> 12) as u8).collect()
}

#[test]
fn bodies_of_all_sizes_pass_as_they_are_and_connections_are_kept() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let length = request.body.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                if conn.send([head.as_bytes(), &request.body].concat()).is_err() {
                    return;
                }
            }
        });
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .http("access_log_format: \"$uri $request_length $body_bytes_sent $upstream_response_length.\"")
            .workers(1)
            .start();
        let mut client = gateway.connect();
        for len in [0, 100, 40_000, 65_536, 65_537, 1_000_000, 100, 4_096, 3_000_000, 65_536, 33_000, 100_000]
        {
            let head = format!("PUT /{len} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
            client.send(&head).send(pattern(len));
            assert!(client.response().body == pattern(len), "{len}");
            gateway.read_until("logs/access.log", &format!("/{len} {} {len} {len}.", head.len() + len));
        }
        assert_eq!(upstream.connections(), 1);
    });
}

#[test]
fn what_comes_behind_a_large_body_is_nobodys() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while conn.request().is_some() {
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
                if conn.send([head.as_bytes(), &pattern(100_000), b"junk"].concat()).is_err() {
                    return;
                }
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        for _ in 0..4 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(client.response().body == pattern(100_000));
        }
        assert_eq!(upstream.connections(), 4, "none is used again");
    });
}

/// A client that does not read stops its upstream: what is under way is what sockets and a few buffers hold.
#[test]
fn a_slow_reader_holds_its_upstream_back() {
    on_both_drivers(|driver| {
        let (sent, progress) = channel::<usize>();
        let sent = std::sync::Mutex::new(sent);
        let upstream = Upstream::start(move |conn| {
            conn.request();
            let _ = conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
            let piece = vec![b'd'; 256 << 10];
            let sent = sent.lock().unwrap();
            while conn.send(&piece).is_ok() {
                if sent.send(piece.len()).is_err() {
                    return;
                }
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let before_kib = gateway.peak_kib();
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut total = 0;
        // no more news for a while: the upstream is held
        while let Ok(n) = progress.recv_timeout(std::time::Duration::from_millis(700)) {
            total += n;
            assert!(total < 64 << 20, "{total} bytes were taken for a client that reads nothing");
        }
        let grown_kib = gateway.peak_kib() - before_kib;
        assert!(grown_kib < MOST_KIB, "{grown_kib} KiB");
        // it goes on when the client reads
        client.bytes(total + (8 << 20));
    });
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            let Some(request) = conn.request() else { return };
            assert_eq!(request.header("upgrade"), Some("websocket"));
            let _ = conn.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                 Sec-WebSocket-Accept: x\r\n\r\nfirst",
            );
            let mut piece = [0; 64 << 10];
            while let Ok(n @ 1..) = conn.stream.read(&mut piece) {
                if conn.stream.write_all(&piece[..n]).is_err() {
                    return;
                }
            }
        });
        let route = |ws| {
            format!(
                "routes:\n- id: 1\n  uri: /*\n  enable_websocket: {ws}\n  upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}",
                upstream.port
            )
        };
        let gateway = Gateway::with_yaml(driver, &route(true));
        let mut client = gateway.connect();
        client.send(
            "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        let answer = client.response();
        assert_eq!(answer.status, 101, "{answer}");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert!(answer.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
        assert_eq!(client.bytes(5), b"first", "what came right behind the 101 is not lost");
        for size in [1, 100, 300_000] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut writer = client.stream();
            let sent = bytes.clone();
            let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
            assert_eq!(client.bytes(size), bytes);
            writing.join().unwrap();
        }
        client.shut();
        client.closed();
        let seen = upstream.last();
        assert_eq!(seen.header("sec-websocket-version"), Some("13"));
        gateway.read_until("logs/access.log", " 101 ");
    });
}

/// A request that asks to switch may have a body; its frames may come right behind that, before anybody has answered.
#[test]
fn what_comes_behind_the_body_of_an_upgrade_is_the_tunnels() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
            let _ =
                conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
            let mut frames = [0; 6];
            if conn.stream.read_exact(&mut frames).is_ok() {
                let _ = conn.send(frames);
            }
        });
        let routes = format!(
            "routes:\n- {{id: 1, uri: /*, enable_websocket: true, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
            upstream.port
        );
        let gateway = Gateway::with_yaml(driver, &routes);
        for body in
            ["Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]
        {
            let mut client = gateway.connect();
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\n{body}frames"
            ));
            assert_eq!(client.response().status, 101);
            assert_eq!(client.bytes(6), b"frames", "{body}");
            assert_eq!(upstream.last().body, b"body");
        }
    });
}

/// The rest of the body would come to it as the first bytes of the tunnel.
#[test]
fn an_upstream_that_switches_within_the_requests_body_is_a_502() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.head();
            let _ =
                conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
            conn.drain();
        });
        let routes = format!(
            "routes:\n- {{id: 1, uri: /*, enable_websocket: true, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
            upstream.port
        );
        let gateway = Gateway::with_yaml(driver, &routes);
        let mut client = gateway.connect();
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 200000\r\n\r\n",
        );
        client.send(vec![b'x'; 100_000]);
        assert_eq!(client.response().status, 502);
    });
}

#[test]
fn a_silent_tunnel_ends_with_the_read_timeout() {
    on_both_drivers(|driver| {
        let upstream = Upstream::switching();
        let routes = format!(
            "routes:\n- {{id: 1, uri: /*, enable_websocket: true, timeout: {{connect: 5, send: 5, read: 0.5}}, \
             upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
            upstream.port
        );
        let gateway = Gateway::with_yaml(driver, &routes);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!(client.response().status, 101);
        let began = std::time::Instant::now();
        client.closed();
        assert!(began.elapsed() >= std::time::Duration::from_millis(450), "{:?}", began.elapsed());
        gateway.read_until("logs/access.log", " 101 ");
    });
}

#[test]
fn no_upgrade_without_enable_websocket() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let answer = request_to(&gateway, "Host: a\r\nUpgrade: websocket\r\n");
        assert_eq!(answer.status, 200);
        assert_eq!(upstream.last().header("upgrade"), None);
    });
}

#[test]
fn the_proxy_protocol_tells_the_client() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .apisix("proxy_protocol: {listen_http_port: $PROXIED}")
            .http("real_ip_header: proxy_protocol");
        let gateway = setup.start();
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut v1 = Client::connect(gateway.ports.proxied);
        v1.send(format!("PROXY TCP4 10.9.8.7 10.0.0.1 5678 80\r\n{request}"));
        assert_eq!(v1.response().status, 200);
        assert_eq!(upstream.last().header("x-real-ip"), Some("10.9.8.7"));

        let mut v2 = Client::connect(gateway.ports.proxied);
        v2.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x01\x02\x03\x0a\0\0\x01\x10\x92\0\x50");
        v2.send(request);
        assert_eq!(v2.response().status, 200);
        assert_eq!(upstream.last().header("x-real-ip"), Some("10.1.2.3"));
        assert_eq!(v2.send(request).response().status, 200, "the header stands once a connection");

        let mut without = Client::connect(gateway.ports.proxied);
        without.send(request);
        without.closed();
    });
}

#[test]
fn a_real_nginx_is_a_good_upstream() {
    on_both_drivers(|driver| {
        let nginx = Nginx::start("location /files/ {}");
        let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 253) as u8).collect();
        nginx.file("files/big", &body);
        let gateway = Gateway::to(driver, nginx.port);
        let mut client = gateway.connect();
        for _ in 0..3 {
            let answer = client.send("GET /x?y HTTP/1.1\r\nHost: n\r\n\r\n").response();
            assert_eq!((answer.status, answer.header("got-uri")), (200, Some("/x?y")));
            let answer = client.send("GET /files/big HTTP/1.1\r\nHost: n\r\n\r\n").response();
            assert_eq!(answer.status, 200);
            assert!(answer.body == body, "the file came whole");
        }
        let answer = client.send("GET /%66iles/none HTTP/1.1\r\nHost: n\r\n\r\n").response();
        assert_eq!(answer.status, 404);
    });
}
