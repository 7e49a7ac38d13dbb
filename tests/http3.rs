//! HTTP/3 as clients see it (RFC 9114, RFC 9000): aioquic, in tests/clients/http3.py, ngtcp2's gtlsclient, a browser.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use common::*;
use serde_json::json;

/// A gateway with HTTP/3 on `ports.proxied`, a certificate for a.test, and a route for that host to `upstream`.
fn gateway(driver: &'static str, upstream: u16, workers: usize) -> (Gateway, Pki) {
    with_nginx(driver, upstream, workers, "")
}

/// The same with more lines of `nginx_config`.
fn with_nginx(driver: &'static str, upstream: u16, workers: usize, nginx: &str) -> (Gateway, Pki) {
    let pki = Pki::new(&format!("h3-{driver}-{upstream}"));
    pki.make("a", "ec", "DNS:a.test", None);
    let listen = "ssl: {enable: true, listen: [{ip: 127.0.0.1, port: $PROXIED, enable_http3: true}]}\n";
    let gateway = Setup::new(driver, Source::Embedded).apisix(listen).nginx(nginx).workers(workers).start();
    let nodes = json!({format!("127.0.0.1:{upstream}"): 1});
    let route = json!({"uri": "/*", "host": "a.test", "upstream": {"type": "roundrobin", "nodes": nodes}});
    gateway.put("/routes/1", &route);
    // gtlsclient asks for "localhost" where it is given an address
    gateway.put("/ssls/1", &pki.ssl("a", &["a.test", "localhost"]));
    (gateway, pki)
}

/// The same on both drivers, with one core and an upstream that says "served".
fn on_a_gateway(test: impl Fn(&Gateway, &Upstream)) {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("served"));
        let (gateway, _pki) = gateway(driver, upstream.port, 1);
        test(&gateway, &upstream);
    });
}

fn aioquic(gateway: &Gateway, scenario: &str, words: &[&str]) -> Child {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/http3.py");
    Command::new(PYTHON)
        .args([script, &gateway.ports.proxied.to_string(), scenario])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a scenario to its end, which must be a good one, and returns what it has printed.
#[track_caller]
fn play(gateway: &Gateway, scenario: &str, words: &[&str]) -> String {
    finished(aioquic(gateway, scenario, words))
}

#[track_caller]
fn finished(client: Child) -> String {
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn requests_of_all_kinds() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let (gateway, _pki) = gateway(driver, upstream.port, 1);
        let missing = play(&gateway, "requests", &[]);
        assert_eq!(missing.trim(), "404", "a host without a route");
        let seen = upstream.requests();
        let body = seen.iter().find(|request| request.target == "/body").unwrap();
        assert_eq!(body.body, (0..1 << 20).map(|n| n as u8).collect::<Vec<_>>());
        let counted = seen.iter().find(|request| request.target == "/counted").unwrap();
        assert_eq!(counted.header("content-length"), Some("5"));
        let log = gateway.read_until("logs/access.log", "/waits");
        assert!(log.contains("\"GET /p?q=1 HTTP/3.0\" 200"), "{log}");
        let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
        assert!(metrics.contains("http3_connections_total 1\n"), "{metrics}");
        assert!(metrics.contains("http3_streams_total 5\n"), "{metrics}");
    });
}

/// Switches, says `first`, and then gives all back.
fn echo() -> Upstream {
    Upstream::start(|conn| {
        let Some(request) = conn.head() else { return };
        assert_eq!((request.method.as_str(), request.header("upgrade")), ("GET", Some("websocket")));
        let _ = conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: x\r\nX-Own: 1\r\n\r\nfirst",
        );
        let mut piece = [0; 64 << 10];
        while let Ok(n @ 1..) = conn.stream.read(&mut piece) {
            if conn.stream.write_all(&piece[..n]).is_err() {
                return;
            }
        }
        conn.remember(&request); // it has ended
    })
}

/// `/ws` has WebSockets.
fn with_websocket(gateway: &Gateway, upstream: u16) {
    let nodes = json!({format!("127.0.0.1:{upstream}"): 1});
    let upstream = json!({"type": "roundrobin", "nodes": nodes});
    let route = json!({"uri": "/ws", "host": "a.test", "enable_websocket": true, "upstream": upstream});
    gateway.put("/routes/ws", &route);
}

#[test]
fn a_websocket_lives_while_the_drain_lasts() {
    on_both_drivers(|driver| {
        for (end, patience) in [("closes", ""), ("stays", "worker_shutdown_timeout: 2s\n")] {
            let upstream = echo();
            let (mut gateway, _pki) = with_nginx(driver, upstream.port, 1, patience);
            with_websocket(&gateway, upstream.port);
            let mut client = aioquic(&gateway, "websocket_drained", &[end]);
            let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "open");
            gateway.signal("QUIT");
            let late = lines.next().transpose().unwrap();
            finished(client);
            assert_eq!(late.as_deref(), Some("late"), "{end}");
            assert!(gateway.wait(PATIENCE).success());
            upstream.wait_for(1);
        }
    });
}

#[test]
fn a_websocket_is_a_stream() {
    on_both_drivers(|driver| {
        let upstream = echo();
        let (gateway, _pki) = gateway(driver, upstream.port, 1);
        with_websocket(&gateway, upstream.port);
        play(&gateway, "websocket", &[]);
        upstream.wait_for(2); // the end and the reset have reached it
    });
}

#[test]
fn trailers_pass_both_ways() {
    on_both_drivers(|driver| {
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n";
        let upstream = Upstream::answering(chunked);
        let (gateway, _pki) = gateway(driver, upstream.port, 1);
        play(&gateway, "trailers", &[]);
        let trailers = upstream.last().trailers;
        assert!(trailers.iter().any(|(n, v)| n.eq_ignore_ascii_case("x-sum") && v == "6"), "{trailers:?}");
    });
}

#[test]
fn trailers_of_names_that_plugins_removed_stay_behind() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Leak: 1\r\nX-Sum: 9\r\n\r\n",
        );
        let (gateway, _pki) = gateway(driver, upstream.port, 1);
        let plugins = json!({
            "proxy-rewrite": {"headers": {"remove": ["X-Secret"], "set": {"X-User": "me"}}},
            "response-rewrite": {"headers": {"remove": ["X-Leak"]}},
        });
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        gateway.put("/routes/1", &json!({"uri": "/*", "plugins": plugins, "upstream": {"nodes": nodes}}));
        play(&gateway, "removed_trailers", &[]);
        let trailers = upstream.last().trailers;
        assert!(trailers.len() == 1 && trailers[0].0.eq_ignore_ascii_case("x-up"), "{trailers:?}");
    });
}

#[test]
fn many_requests_at_once() {
    on_a_gateway(|gateway, _| {
        play(gateway, "many", &[]);
    });
}

#[test]
fn an_answer_larger_than_any_window() {
    on_both_drivers(|driver| {
        let body: Vec<u8> = (0..8_000_000).map(|n| (n % 250) as u8).collect();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let upstream = Upstream::answering([head.as_bytes(), &body].concat());
        let (gateway, _pki) = gateway(driver, upstream.port, 1);
        play(&gateway, "large", &[]);
    });
}

/// A client with a request under way hears that the gateway drains by `signal`; after `meanwhile` it asks once more in vain,
/// and gets its answer.
fn drained_by(driver: &'static str, signal: &str, meanwhile: impl FnOnce(&Gateway)) -> (Gateway, Upstream) {
    let gate = Gate::default();
    let slow = gate.clone();
    let upstream = Upstream::start(move |conn| {
        while let Some(request) = conn.request() {
            if request.target == "/slow" {
                slow.pass();
                let _ = conn.send(ok("at last"));
            } else if conn.send(ok("fast")).is_err() {
                return;
            }
        }
    });
    let (gateway, _pki) = gateway(driver, upstream.port, 1);
    let mut client = aioquic(&gateway, "drain", &[]);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "asked");
    upstream.wait_for(2);
    gateway.signal(signal);
    assert_eq!(lines.next().unwrap().unwrap(), "goodbye");
    meanwhile(&gateway);
    client.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert_eq!(lines.next().transpose().unwrap().as_deref(), Some("refused"));
    gate.open();
    finished(client);
    (gateway, upstream)
}

#[test]
fn a_drained_gateway_says_goodbye_and_finishes_what_it_has_begun() {
    on_both_drivers(|driver| {
        let (mut gateway, _upstream) = drained_by(driver, "QUIT", |_| {});
        assert!(gateway.wait(PATIENCE).success());
    });
}

/// The cores that go on read the socket, and pass on what belongs to those that drain.
#[test]
fn a_reload_keeps_connections_until_they_end() {
    on_both_drivers(|driver| {
        let (gateway, _upstream) = drained_by(driver, "HUP", |_| {});
        assert!(counter(&gateway, "quic_passed_total") > 0);
        assert_eq!(counter(&gateway, "quic_dropped_total"), 0);
        play(&gateway, "key_update", &[]);
    });
}

/// Those that made place in between, and had nothing to wait for, are gone.
#[test]
fn connections_outlive_a_second_reload() {
    on_both_drivers(|driver| {
        let (gateway, _upstream) = drained_by(driver, "HUP", |gateway| {
            gateway.signal("HUP");
            eventually("the second reload", || {
                gateway.read("logs/error.log").matches("the configuration is reloaded").count() == 2
            });
            eventually("the end of the second generation", || cores_of_all_generations(gateway) == 2);
        });
        assert!(counter(&gateway, "quic_passed_total") > 0);
        play(&gateway, "key_update", &[]);
    });
}

/// Threads of cores, one a generation on a gateway with one worker.
fn cores_of_all_generations(gateway: &Gateway) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let name = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default()
    };
    threads.map(name).filter(|name| name.starts_with("core-")).count()
}

fn counter(gateway: &Gateway, name: &str) -> u64 {
    let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
    let line = metrics.lines().find(|line| !line.starts_with('#') && line.contains(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
}

#[test]
fn a_connection_has_so_many_requests_and_says_goodbye_with_the_last() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("served"));
        let snippet = "http_configuration_snippet: 'keepalive_requests 3;'\n";
        let (gateway, _pki) = with_nginx(driver, upstream.port, 1, snippet);
        play(&gateway, "last", &["3"]);
    });
}

/// Rapid reset (CVE-2023-44487), of requests that are there and of those that are not yet.
#[test]
fn a_client_that_resets_most_of_its_requests_is_left() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.head() {
                if request.target != "/ok" {
                    conn.drain();
                } else if conn.send(ok("served")).is_err() {
                    return;
                }
            }
        });
        let (gateway, _pki) = gateway(driver, upstream.port, 1);
        play(&gateway, "resets", &[]);
        assert!(counter(&gateway, "http3_resets_total") > 400);
    });
}

#[test]
fn connections_that_rest_end_and_those_with_a_request_do_not() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while conn.request().is_some() {
                std::thread::sleep(std::time::Duration::from_millis(1500));
                if conn.send(ok("at last")).is_err() {
                    return;
                }
            }
        });
        let times = "http_configuration_snippet: 'keepalive_timeout 1s; client_header_timeout 1s;'\n";
        let (gateway, _pki) = with_nginx(driver, upstream.port, 1, times);
        play(&gateway, "idle", &[]);
    });
}

#[test]
fn connections_survive_a_change_of_address_on_two_cores() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("served"));
        let (gateway, _pki) = gateway(driver, upstream.port, 2);
        play(&gateway, "migrate", &["40"]);
        assert_eq!(counter(&gateway, "http3_connections_total"), 40);
        assert_eq!(counter(&gateway, "http3_streams_total"), 120);
        // and another client, which changes its address before it asks
        for rebinding in [&["--nat-rebinding"][..], &[]] {
            for _ in 0..4 {
                let said = gtlsclient(
                    &gateway,
                    &[&["--change-local-addr=50ms", "--delay-stream=200ms"], rebinding].concat(),
                );
                assert_eq!(said.matches("[:status: 200]").count(), 1, "{said}");
            }
        }
        let page = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
        println!("{}", page.lines().filter(|line| line.contains("quic_")).collect::<Vec<_>>().join("\n"));
    });
}

#[test]
fn keys_are_updated() {
    on_a_gateway(|gateway, _| {
        play(gateway, "key_update", &[]);
    });
}

#[test]
fn early_data_is_taken_once_and_only_where_it_changes_nothing() {
    on_a_gateway(|gateway, upstream| {
        play(gateway, "early", &[]);
        let seen = upstream.requests();
        let told: Vec<_> =
            seen.iter().map(|request| (request.target.as_str(), request.header("early-data"))).collect();
        let expected = [
            ("/first", None),
            ("/early", Some("1")),
            ("/late", None),
            ("/replayed", None),
            ("/resumed", None),
        ];
        assert_eq!(told, expected, "a POST in early data goes nowhere, a replay is asked anew");
    });
}

#[test]
fn the_name_in_the_handshake_decides() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("served"));
        let (gateway, pki) = gateway(driver, upstream.port, 1);
        pki.make("ca", "ec", "DNS:ca.test", None).make("m", "ec", "DNS:m.test", None);
        pki.make("client", "ec", "DNS:client", Some("ca"));
        let mut asking = pki.ssl("m", &["m.test"]);
        asking["client"] = json!({"ca": pki.read("ca.pem")});
        gateway.put("/ssls/2", &asking);
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        let route =
            json!({"uri": "/*", "host": "m.test", "upstream": {"type": "roundrobin", "nodes": nodes}});
        gateway.put("/routes/2", &route);
        play(&gateway, "names", &[&pki.path("client.pem"), &pki.path("client.key")]);
        assert!(counter(&gateway, "tls_handshake_failures_total") >= 2);
    });
}

#[test]
fn in_a_crowd_clients_prove_their_address_first() {
    on_a_gateway(|gateway, _| {
        play(gateway, "crowd", &["300"]);
        let retries = counter(gateway, "quic_retries_total");
        assert!(retries >= 1);
        // those that began stay for a while: another client is asked, too
        let said = gtlsclient(gateway, &[]);
        assert_eq!(said.matches("[:status: 200]").count(), 1, "{said}");
        assert!(counter(gateway, "quic_retries_total") > retries, "{said}");
    });
}

/// A datagram of a connection that is gone is answered so that its client believes it, and nobody else gains by it.
#[test]
fn what_belongs_to_no_connection_is_reset_without_state() {
    on_a_gateway(|gateway, _| {
        play(gateway, "forgotten", &[]);
    });
}

/// A reload ends the cores; those in place of them share their keys.
#[test]
fn what_belongs_to_a_core_that_is_gone_is_reset_without_state() {
    on_a_gateway(|gateway, _| {
        let mut client = aioquic(gateway, "orphaned", &[]);
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "answered");
        gateway.signal("HUP");
        finished(client);
    });
}

/// Killed, it says no goodbye; the one that follows knows by the secret in `data/quic.key` what to say.
#[test]
fn clients_of_a_killed_gateway_hear_so_from_the_next() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("served"));
        let (mut gateway, _pki) = gateway(driver, upstream.port, 2);
        // one that looks at the bytes; one that asks in a while, and would wait for a minute if it did not believe them
        let mut looking = aioquic(&gateway, "restarted", &[]);
        let mut lines = BufReader::new(looking.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "answered");
        let mut waiting = gtls_command(&gateway, &["--delay-stream=2s", "--timeout=60s"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(waiting.stderr.take().unwrap());
        read_until(&mut said, "handshake has been confirmed"); // what is sent before is not answered by a reset
        gateway.kill();
        gateway.start_again();
        looking.stdin.take().unwrap().write_all(b"go on\n").unwrap();
        finished(looking);
        read_until(&mut said, " SR token=0x");
        read_until(&mut said, "ERR_DRAINING");
        waiting.wait().unwrap();
        // what is no secret stays, is complained of once, and harms nobody
        gateway.kill();
        std::fs::write(gateway.path("data/quic.key"), "short").unwrap();
        gateway.start_again();
        assert_eq!(gtlsclient(&gateway, &[]).matches("[:status: 200]").count(), 1);
        assert_eq!(gateway.logs().matches("the secret of HTTP/3 is not kept").count(), 1);
        assert_eq!(gateway.read("data/quic.key"), "short");
    });
}

#[test]
fn what_a_client_must_not_do_ends_with_the_code_for_it() {
    on_a_gateway(|gateway, _| {
        play(gateway, "conformance", &[]);
        assert!(counter(gateway, "http3_violations_total") > 30);
    });
}

/// Reads lines up to one with this text.
#[track_caller]
fn read_until(lines: &mut impl BufRead, text: &str) {
    let mut said = String::new();
    while !said.lines().next_back().is_some_and(|line| line.contains(text)) {
        assert!(lines.read_line(&mut said).unwrap() > 0, "it never says {text:?}: {said}");
    }
}

/// One request by ngtcp2's client, with these options.
fn gtls_command(gateway: &Gateway, more: &[&str]) -> Command {
    let port = gateway.ports.proxied.to_string();
    let url = format!("https://a.test:{port}/x");
    let mut command = Command::new("gtlsclient");
    command.args(["--exit-on-all-streams-close", "--no-quic-dump"]).args(more);
    command.args(["127.0.0.1", &port, &url]);
    command
}

/// The same to its end; what it says.
#[track_caller]
fn gtlsclient(gateway: &Gateway, more: &[&str]) -> String {
    let output = gtls_command(gateway, more).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn another_client_and_what_it_is_told_over_tcp() {
    on_a_gateway(|gateway, _| {
        let port = gateway.ports.proxied;
        let said = gtlsclient(gateway, &["-n", "3"]);
        assert_eq!(said.matches("[:status: 200]").count(), 3, "{said}");
        // who comes by TCP learns of it
        let instead = format!("::127.0.0.1:{port}");
        let told = Command::new("curl")
            .args(["-s", "-k", "-m", "10", "-D", "-", "--connect-to", &instead, "https://a.test/"])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&told.stdout).to_lowercase();
        assert!(told.contains(&format!("alt-svc: h3=\":{port}\"; ma=86400")), "{told}");
        assert!(!gateway.get("/").head.to_lowercase().contains("alt-svc"), "nothing to upgrade to");
    });
}

/// Who comes by TCP is told of HTTP/3 at the address that he came to, if it is served there, whatever he speaks. What an
/// upstream says of that is left as it is.
#[test]
fn http_3_is_offered_where_it_is_served() {
    let driver = drivers()[0];
    let pki = Pki::new("h3-offered");
    pki.make("a", "ec", "DNS:a.test", None);
    let (some, any, none) = (free_port(), free_port(), free_port());
    let listen = format!(
        "ssl: {{enable: true, listen: [{{ip: 127.0.0.1, port: {some}, enable_http3: true}}, \
         {{ip: 127.0.0.2, port: {some}}}, {{port: {any}, enable_http3: true}}, {{ip: 127.0.0.1, port: {none}}}]}}\n"
    );
    let gateway = Setup::new(driver, Source::Embedded).apisix(&listen).start();
    gateway.put("/ssls/1", &pki.ssl("a", &["a.test"]));
    let own = Upstream::answering("HTTP/1.1 200 OK\r\nAlt-Svc: own\r\nContent-Length: 0\r\n\r\n");
    let plain = Upstream::answering(ok("served"));
    for (id, upstream) in [("none", &plain), ("own", &own)] {
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        let upstream = json!({"type": "roundrobin", "nodes": nodes});
        gateway.put(&format!("/routes/{id}"), &json!({"uri": format!("/{id}"), "upstream": upstream}));
    }
    let told = |address: &str, port: u16, version: &str, path: &str| {
        let (instead, url) = (format!("::{address}:{port}"), format!("https://a.test{path}"));
        let args =
            ["-s", "-k", "-m", "10", version, "-D", "-", "-o", "/dev/null", "--connect-to", &instead, &url];
        let output = Command::new("curl").args(args).output().unwrap();
        let head = String::from_utf8_lossy(&output.stdout).to_lowercase();
        assert!(head.starts_with(if version == "--http2" { "http/2 200" } else { "http/1.1 200" }), "{head}");
        let values = head.lines().filter_map(|line| line.strip_prefix("alt-svc: "));
        values.map(str::to_owned).collect::<Vec<_>>().join(" and ")
    };
    for version in ["--http1.1", "--http2"] {
        let offered = |address, port| told(address, port, version, "/none");
        assert_eq!(offered("127.0.0.1", some), format!("h3=\":{some}\"; ma=86400"), "{version}");
        assert_eq!(offered("127.0.0.1", any), format!("h3=\":{any}\"; ma=86400"), "{version}");
        assert_eq!(offered("127.0.0.2", some), "", "{version}: another address of that port");
        assert_eq!(offered("127.0.0.1", none), "", "{version}: another port");
        assert_eq!(told("127.0.0.1", some, version, "/own"), "own", "{version}");
    }
}

/// `$http2` and `$http3`, as nginx has them.
#[test]
fn a_log_format_may_say_by_which_version_a_request_came() {
    let (pki, upstream) = (Pki::new("h3-versions"), Upstream::answering(ok("served")));
    pki.make("a", "ec", "DNS:a.test", None);
    let listen = "ssl: {enable: true, listen: [{ip: 127.0.0.1, port: $PROXIED, enable_http3: true}]}\n";
    let format = "access_log_format: '$server_protocol <$http2> <$http3>'";
    let gateway = Setup::new(drivers()[0], Source::Embedded).apisix(listen).http(format).start();
    gateway.put("/ssls/1", &pki.ssl("a", &["a.test", "localhost"]));
    let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
    gateway.put("/routes/1", &json!({"uri": "/*", "upstream": {"type": "roundrobin", "nodes": nodes}}));
    let (secured, plain) = (format!("::127.0.0.1:{}", gateway.ports.proxied), gateway.port());
    let curl = |more: &[&str]| {
        let output = Command::new("curl").args(["-s", "-k", "-m", "10"]).args(more).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "served", "{more:?}");
    };
    let plain = format!("http://127.0.0.1:{plain}/");
    curl(&["--http1.1", "--connect-to", &secured, "https://a.test/"]);
    gateway.read_until("logs/access.log", "HTTP/1.1 <> <>\n");
    curl(&["--http2", "--connect-to", &secured, "https://a.test/"]);
    gateway.read_until("logs/access.log", "HTTP/2.0 <h2> <>\n");
    curl(&["--http2-prior-knowledge", &plain]);
    gateway.read_until("logs/access.log", "HTTP/2.0 <h2c> <>\n");
    gtlsclient(&gateway, &[]);
    gateway.read_until("logs/access.log", "HTTP/3.0 <> <h3>\n");
}

#[test]
fn another_client_brings_early_data_once() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("served"));
        let (gateway, pki) = gateway(driver, upstream.port, 1);
        let session = format!("--session-file={}", pki.path("session"));
        let parameters = format!("--tp-file={}", pki.path("parameters"));
        for early in [None, Some("1")] {
            let said = gtlsclient(&gateway, &[&session, &parameters]);
            assert_eq!(said.matches("[:status: 200]").count(), 1, "{said}");
            assert_eq!(upstream.last().header("early-data"), early, "{said}");
        }
    });
}

const IMAGES: usize = 12;

/// A page whose images count themselves, each of 100 KB; it says how it and they have come.
fn page(target: &str) -> String {
    let (kind, body) = if target == "/" {
        let images: String = (0..IMAGES).map(|n| format!("<img src='/{n}.svg'>")).collect();
        let script = "addEventListener('load', () => {
            const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
            const shown = [...document.images].filter(image => image.naturalWidth == 7).length;
            const came = all.map(one => new URL(one.name).pathname + ' by ' + one.nextHopProtocol);
            document.body.textContent = `${shown} shown, ${came.sort().join(', ')}.`;
        })";
        ("text/html", format!("<!doctype html><body>{images}<script>{script}</script></body>"))
    } else {
        let filler = "x".repeat(100_000);
        let image = "<svg xmlns='http://www.w3.org/2000/svg' width='7' height='7'>";
        ("image/svg+xml", format!("{image}<!--{filler}--></svg>"))
    };
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_browser_shows_a_page_with_its_images() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                if conn.send(page(&request.target)).is_err() {
                    return;
                }
            }
        });
        let (gateway, pki) = gateway(driver, upstream.port, 1);
        let shown = chromium(&gateway, &pki);
        let mut expected: Vec<_> = (0..IMAGES).map(|n| format!("/{n}.svg by h3")).collect();
        expected.push("/ by h3".into());
        expected.sort();
        assert!(shown.contains(&format!("{IMAGES} shown, {}.", expected.join(", "))), "{shown}");
    });
}

/// The document that a browser has made of `https://a.test/`, asked for by HTTP/3 from the start.
#[track_caller]
fn chromium(gateway: &Gateway, pki: &Pki) -> String {
    let hash = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der \
                | openssl dgst -sha256 -binary | openssl base64";
    let hash = Command::new("sh").args(["-c", hash, &pki.path("a.pem")]).output().unwrap();
    let port = gateway.ports.proxied;
    let output = Command::new("timeout")
        .args(["60", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--enable-quic", "--host-resolver-rules=MAP a.test 127.0.0.1"])
        .arg(format!("--user-data-dir={}", pki.path("browser")))
        .arg(format!("--origin-to-force-quic-on=a.test:{port}"))
        .arg(format!(
            "--ignore-certificate-errors-spki-list={}",
            String::from_utf8_lossy(&hash.stdout).trim()
        ))
        .args(["--dump-dom", &format!("https://a.test:{port}/")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_client_has_what_the_handshake_gives_it_and_no_more() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("h3-bounds-{driver}"));
        pki.make("a", "ec", "DNS:a.test", None);
        let listen = "ssl: {enable: true, listen: [{ip: 127.0.0.1, port: $PROXIED, enable_http3: true}]}\n";
        // a short keepalive_timeout does not make a connection forget its client between two datagrams
        let setup = Setup::new(driver, Source::Embedded).apisix(listen).workers(1);
        let gateway = setup.http("keepalive_timeout: 1s").start();
        // nothing of a body is read
        let plugins = json!({"fault-injection": {"delay": {"duration": 30}}});
        let upstream = json!({"type": "roundrobin", "nodes": {"127.0.0.1:1": 1}});
        gateway.put("/routes/1", &json!({"uri": "/*", "plugins": plugins, "upstream": upstream}));
        gateway.put("/ssls/1", &pki.ssl("a", &["a.test"]));
        play(&gateway, "bounds", &[]);
    });
}

/// The upstream is held back where a client allows everything and acknowledges nothing.
#[test]
fn what_is_not_acknowledged_has_a_bound() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    const BYTES: usize = 64 << 20;
    on_both_drivers(|driver| {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        let upstream = Upstream::start(move |conn| {
            conn.request();
            let _ = conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
            let piece = vec![b'x'; 64 << 10];
            while counted.load(Ordering::SeqCst) < BYTES && conn.send(&piece).is_ok() {
                counted.fetch_add(piece.len(), Ordering::SeqCst);
            }
        });
        let (gateway, _pki) = gateway(driver, upstream.port, 1);
        let before = gateway.peak_kib();
        let mut client = aioquic(&gateway, "stall", &[]);
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "stalled");
        let (mut last, mut since) = (0, std::time::Instant::now());
        while since.elapsed() < std::time::Duration::from_secs(1) {
            let now = sent.load(Ordering::SeqCst);
            if now != last {
                (last, since) = (now, std::time::Instant::now());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(last < BYTES, "the upstream is held back");
        let grown = (gateway.peak_kib() - before) >> 10;
        assert!(grown < 8, "{grown} MiB for one answer of 64 MiB");
        client.kill().unwrap();
        client.wait().unwrap();
    });
}

/// Both drivers at once: it takes fifteen seconds.
#[test]
fn a_handshake_that_does_not_go_on_is_given_up() {
    let upstream = Upstream::answering(ok("served"));
    let gateways: Vec<_> = drivers().iter().map(|driver| gateway(driver, upstream.port, 1)).collect();
    let began = std::time::Instant::now();
    for (gateway, _) in &gateways {
        play(gateway, "half", &[]);
    }
    for (gateway, _) in &gateways {
        while counter(gateway, "tls_handshake_failures_total") == 0 {
            assert!(began.elapsed().as_secs() < 25, "it is waited for without end");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(began.elapsed().as_secs() >= 14, "after {:?}", began.elapsed());
    }
}
