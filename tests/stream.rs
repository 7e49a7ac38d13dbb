//! Layer 4: which stream route a connection meets, bytes both ways, the end of either side, TLS and PROXY headers.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;

use common::streams::{Echo, connect, listening, listening_tls, listening_udp, mirror, said, said_by_tls};
use common::*;
use serde_json::{Value, json};

/// A gateway with the Admin API and one plain listener on `ports.proxied`; `more` is more of `apisix`.
fn gateway(driver: &'static str, more: &str) -> Gateway {
    listening(driver).apisix(more).start()
}

#[test]
fn bytes_go_both_ways_and_a_half_close_is_kept() {
    on_both_drivers(|driver| {
        let (gateway, echo) = (gateway(driver, ""), Echo::start("A"));
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        assert_eq!(said(gateway.ports.proxied, "hello"), "Ahellobye");
        let mut large = vec![0; 9 << 20];
        fastrand::Rng::with_seed(7).fill(&mut large);
        let mut stream = connect(gateway.ports.proxied);
        let mut sender = stream.try_clone().unwrap();
        let sent = large.clone();
        let writer = std::thread::spawn(move || {
            sender.write_all(&sent).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        writer.join().unwrap();
        assert!(got[0] == b'A' && got[1..got.len() - 3] == large[..], "{} bytes", got.len());
        assert!(gateway.peak_kib() < 200 << 10, "{} KiB", gateway.peak_kib());
    });
}

#[test]
fn a_route_is_chosen_by_addresses_and_port() {
    on_both_drivers(|driver| {
        let second = free_port();
        let streams = format!(
            "proxy_mode: http&stream\nstream_proxy: {{tcp: [\"127.0.0.1:$PROXIED\", {{addr: \"127.0.0.1:{second}\"}}]}}\n"
        );
        let gateway = Setup::new(driver, Source::Embedded).apisix(&streams).start();
        let (a, b) = (Echo::start("A"), Echo::start("B"));
        assert_eq!(said(second, "x"), "", "no route: closed without a word");
        gateway.put("/stream_routes/1", &json!({"remote_addr": "10.0.0.0/8", "upstream": a.upstream()}));
        gateway.put("/stream_routes/2", &json!({"server_port": second, "upstream": b.upstream()}));
        assert_eq!((said(second, "x").as_str(), said(gateway.ports.proxied, "x").as_str()), ("Bxbye", ""));
        gateway.put("/stream_routes/3", &json!({"server_addr": "127.0.0.1", "upstream": a.upstream()}));
        assert_eq!(said(gateway.ports.proxied, "x"), "Axbye");
        gateway.delete("/stream_routes/2");
        assert_eq!(said(second, "x"), "Axbye");
        assert_eq!(gateway.get("/").status, 404, "HTTP is served beside");
    });
}

/// As in nginx, whose stub_status knows HTTP alone: a session is no request, and none of those who wait for one.
#[test]
fn a_session_is_no_request_and_does_not_wait_for_one() {
    on_both_drivers(|driver| {
        let streams = "proxy_mode: http&stream\nstream_proxy: {tcp: [\"127.0.0.1:$PROXIED\"]}\n";
        let gateway = Setup::new(driver, Source::Embedded).apisix(streams).start();
        let echo = Echo::start("A");
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        let counted = |name: &str| {
            let page = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
            let value =
                page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
            value.unwrap_or_else(|| panic!("{name} in {page}"))
        };
        let states = || {
            ["active", "reading", "writing", "waiting"].map(|state| -> u64 {
                counted(&format!("apisix_nginx_http_current_connections{{state=\"{state}\"}}"))
            })
        };
        let mut session = connect(gateway.ports.proxied);
        session.read_exact(&mut [0]).unwrap();
        assert_eq!((states(), counted("apisix_http_requests_total")), ([1, 0, 0, 0], 0));
        drop(session);
        eventually("it is gone", || states() == [0; 4]);
    });
}

/// t/stream-plugin/mqtt-proxy.t, TEST 5; t/stream-node/upstream-domain.t, TEST 6: what an end without a word would not say.
#[test]
fn a_session_without_an_upstream_is_reset() {
    on_both_drivers(|driver| {
        let gateway = gateway(driver, "");
        let is_reset = |why: &str| {
            let mut stream = connect(gateway.ports.proxied);
            stream.write_all(b"hello").unwrap();
            let ended = stream.read(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset), "{why}");
            let mut silent = connect(gateway.ports.proxied);
            assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0, "{why}: who says nothing sees an end");
        };
        is_reset("no route");
        let nobody = json!({"type": "roundrobin", "nodes": {format!("127.0.0.1:{}", free_port()): 1}});
        gateway.put("/stream_routes/1", &json!({"upstream": nobody}));
        is_reset("no upstream");
        let echo = Echo::start("A");
        let refused = json!({"ip-restriction": {"blacklist": ["127.0.0.1"]}});
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream(), "plugins": refused}));
        is_reset("a plugin refuses");
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        assert_eq!(said(gateway.ports.proxied, "x"), "Axbye");
    });
}

#[test]
fn upstreams_and_services_are_referred_to() {
    on_both_drivers(|driver| {
        let (gateway, a, b) = (gateway(driver, ""), Echo::start("A"), Echo::start("B"));
        let port = gateway.ports.proxied;
        gateway.put("/upstreams/1", &a.upstream());
        gateway.put("/stream_routes/1", &json!({"upstream_id": "1"}));
        assert_eq!(said(port, ""), "Abye");
        gateway.put("/upstreams/1", &b.upstream());
        assert_eq!(said(port, ""), "Bbye");
        gateway.put("/services/1", &json!({"upstream": a.upstream()}));
        gateway.put("/stream_routes/1", &json!({"service_id": "1"}));
        assert_eq!(said(port, ""), "Abye");
        gateway.put("/services/1", &json!({"upstream_id": "1"}));
        assert_eq!(said(port, ""), "Bbye");
        gateway.put(
            "/services/1",
            &json!({"plugins": {"ip-restriction": {"blacklist": ["127.0.0.1"]}}, "upstream_id": "1"}),
        );
        assert_eq!(said(port, ""), "", "a service's plugins count");
    });
}

#[test]
fn of_a_service_its_own_upstream_goes_before_the_one_that_it_names() {
    on_both_drivers(|driver| {
        let (gateway, own, named) = (gateway(driver, ""), Echo::start("O"), Echo::start("N"));
        let port = gateway.ports.proxied;
        gateway.put("/upstreams/1", &named.upstream());
        gateway.put("/services/1", &json!({"upstream": own.upstream(), "upstream_id": "1"}));
        gateway.put("/stream_routes/1", &json!({"service_id": "1"}));
        assert_eq!(said(port, ""), "Obye");
        // a route that names one itself has no use for its service
        gateway.put("/stream_routes/1", &json!({"service_id": "1", "upstream_id": "1"}));
        assert_eq!(said(port, ""), "Nbye");
    });
}

#[test]
fn a_node_that_is_gone_is_passed_over() {
    on_both_drivers(|driver| {
        let (gateway, echo) = (gateway(driver, ""), Echo::start("A"));
        let nodes =
            json!({format!("127.0.0.1:{}", free_port()): 1000, format!("127.0.0.1:{}", echo.port): 1});
        gateway.put("/stream_routes/1", &json!({"upstream": {"type": "roundrobin", "nodes": nodes}}));
        for _ in 0..5 {
            assert_eq!(said(gateway.ports.proxied, "x"), "Axbye");
        }
        let nodes = json!({format!("127.0.0.1:{}", free_port()): 1});
        gateway.put("/stream_routes/1", &json!({"upstream": {"type": "roundrobin", "nodes": nodes}}));
        assert_eq!(said(gateway.ports.proxied, "x"), "");
        gateway.put("/stream_routes/1", &json!({"upstream": {"type": "chash", "key": "remote_addr", "nodes": {format!("localhost:{}", echo.port): 1}}}));
        assert_eq!(said(gateway.ports.proxied, "x"), "Axbye", "a name");
    });
}

#[test]
fn what_does_not_move_ends_and_what_moves_does_not() {
    on_both_drivers(|driver| {
        let (gateway, echo) = (gateway(driver, ""), Echo::start("A"));
        let mut upstream = echo.upstream();
        upstream["timeout"] = json!({"connect": 1, "send": 1, "read": 1});
        gateway.put("/stream_routes/1", &json!({"upstream": upstream}));
        let mut stream = connect(gateway.ports.proxied);
        let mut byte = [0];
        for _ in 0..8 {
            stream.write_all(b"x").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(200));
            stream.read_exact(&mut byte).unwrap();
        }
        let began = std::time::Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(began.elapsed().as_millis() > 300, "{:?}", began.elapsed());
        assert_eq!(rest, b"x");

        // what moves one way only moves
        let listens = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        upstream["nodes"] = json!({listens.local_addr().unwrap().to_string(): 1});
        gateway.put("/stream_routes/1", &json!({"upstream": upstream}));
        let mut stream = connect(gateway.ports.proxied);
        let (mut taken, _) = listens.accept().unwrap();
        for _ in 0..8 {
            stream.write_all(b"x").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        taken.write_all(b"y").unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"y");
    });
}

#[test]
fn a_session_outlives_the_beginning_of_a_shutdown() {
    on_both_drivers(|driver| {
        let (mut gateway, echo) = (gateway(driver, ""), Echo::start("A"));
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        let mut stream = connect(gateway.ports.proxied);
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        gateway.signal("QUIT");
        let refused = || TcpStream::connect(("127.0.0.1", gateway.ports.proxied)).is_err();
        eventually("the listener is closed", refused);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(stream);
        assert!(gateway.wait(PATIENCE).success());
    });
}

#[test]
fn proxy_headers_in_and_out() {
    on_both_drivers(|driver| {
        let (second, third) = (free_port(), free_port());
        let streams = format!(
            "proxy_mode: http&stream\nproxy_protocol: {{enable_tcp_pp: true}}\nstream_proxy:\n  tcp:\n  - \
             {{addr: \"127.0.0.1:$PROXIED\"}}\n  - {{addr: \"127.0.0.1:{second}\", proxy_protocol: false, \
             proxy_protocol_to_upstream: true}}\n  - {{addr: \"127.0.0.1:{third}\", proxy_protocol_to_upstream: true}}\n"
        );
        let gateway = Setup::new(driver, Source::Embedded)
            .apisix(&streams)
            .nginx("stream: {real_ip_from: [127.0.0.1]}\n")
            .start();
        let echo = Echo::start("A");
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        let header = "PROXY TCP4 192.0.2.7 192.0.2.8 4000 5000\r\n";
        assert_eq!(said(gateway.ports.proxied, &format!("{header}x")), "Axbye");
        assert_eq!(said(gateway.ports.proxied, "no header at all, and enough of it"), "");
        let answer = said(second, "x");
        assert!(answer.starts_with("APROXY TCP4 127.0.0.1 127.0.0.1 "), "{answer}");
        assert!(answer.ends_with(&format!(" {second}\r\nxbye")), "{answer}");
        let answer = said(third, &format!("{header}x"));
        assert_eq!(answer, format!("APROXY TCP4 192.0.2.7 127.0.0.1 4000 {third}\r\nxbye"));
        gateway.put("/stream_routes/1", &json!({"remote_addr": "192.0.2.7", "upstream": echo.upstream()}));
        assert_eq!(said(gateway.ports.proxied, &format!("{header}x")), "Axbye", "the balancer is believed");
    });
}

/// t/cli/test_stream_port_range.sh
#[test]
fn each_port_of_a_range_serves() {
    on_both_drivers(|driver| {
        let first =
            std::iter::repeat_with(|| (free_port(), free_port())).find(|(a, b)| a + 1 == *b).unwrap().0;
        let range = format!(
            "proxy_mode: http&stream\nstream_proxy: {{tcp: [\"127.0.0.1:{first}-{}\"]}}\n",
            first + 1
        );
        let gateway = Setup::new(driver, Source::Embedded).apisix(&range).start();
        let echo = Echo::start("A");
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        for port in [first, first + 1] {
            assert_eq!(said(port, "x"), "Axbye", "{port}");
        }
    });
}

/// t/cli/test_prometheus_stream.sh
#[test]
fn without_http_there_are_metrics_all_the_same() {
    on_both_drivers(|driver| {
        let echo = Echo::start("A");
        let objects = format!(
            "stream_routes:\n- {{id: 1, plugins: {{prometheus: {{}}}}, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}",
            echo.port
        );
        let gateway = Setup::new(driver, Source::Yaml(objects))
            .apisix("proxy_mode: stream\nstream_proxy: {tcp: [\"127.0.0.1:$PROXIED\"]}\n")
            .rest("plugins: []\nstream_plugins: [prometheus]\n")
            .start();
        assert!(TcpStream::connect(("127.0.0.1", gateway.port())).is_err(), "HTTP is served");
        assert_eq!(said(gateway.ports.proxied, "x"), "Axbye");
        let metrics = || get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
        for line in ["apisix_stream_connection_total{route=\"1\"} 1\n", "apisix_node_info{hostname="] {
            eventually(line, || metrics().contains(line));
        }
    });
}

#[test]
fn sessions_are_logged() {
    on_both_drivers(|driver| {
        let format = "$remote_addr $protocol $status $bytes_sent $bytes_received $upstream_addr $upstream_bytes_received \
                      $upstream_response_time";
        let gateway = listening(driver)
            .nginx(&format!(
                "stream: {{enable_access_log: true, access_log_buffer: 1, access_log_format: \"{format}\"}}\n"
            ))
            .start();
        assert_eq!(said(gateway.ports.proxied, "x"), "");
        gateway.read_until("logs/access_stream.log", "127.0.0.1 TCP 500 0 0 - - -\n");
        let echo = Echo::start("A");
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        assert_eq!(said(gateway.ports.proxied, "hello"), "Ahellobye");
        let line = format!("127.0.0.1 TCP 200 9 5 127.0.0.1:{} 9 ", echo.port);
        let log = gateway.read_until("logs/access_stream.log", &line);
        let (_, took) = log.split_once(&line).unwrap();
        assert!(took.trim_end().parse().is_ok_and(|took: f64| took < PATIENCE.as_secs_f64()), "{log}");
        assert_eq!(echo.connections.load(Ordering::SeqCst), 1);
        let (path, rotated) = (gateway.path("logs/access_stream.log"), gateway.path("logs/rotated.log"));
        std::fs::rename(&path, &rotated).unwrap();
        gateway.signal("USR1");
        eventually("a new log", || path.exists());
        assert_eq!(said(gateway.ports.proxied, "again"), "Aagainbye");
        gateway.read_until("logs/access_stream.log", "127.0.0.1 TCP 200 9 5 ");
    });
}

/// With all stream plugins; two cores, one listener, one more with TLS on the port that is returned.
fn with_plugins(driver: &'static str) -> (Gateway, u16) {
    let secured = free_port();
    let list =
        "stream_plugins: [ip-restriction, limit-conn, mqtt-proxy, syslog, traffic-split, prometheus]\n";
    (listening_tls(driver, secured).rest(list).start(), secured)
}

#[test]
fn plugins_let_in_split_and_count() {
    on_both_drivers(|driver| {
        let (gateway, _) = with_plugins(driver);
        let (port, a, b) = (gateway.ports.proxied, Echo::start("A"), Echo::start("B"));
        let with = |plugins: Value| {
            gateway.put("/stream_routes/1", &json!({"upstream": a.upstream(), "plugins": plugins}))
        };
        with(json!({"ip-restriction": {"whitelist": ["10.0.0.0/8"]}}));
        assert_eq!(said(port, "x"), "");
        with(json!({"ip-restriction": {"whitelist": ["127.0.0.0/8"]}}));
        assert_eq!(said(port, "x"), "Axbye");
        let split = json!([{"upstream": b.upstream(), "weight": 1}, {"weight": 1}]);
        with(json!({"traffic-split": {"rules": [{"weighted_upstreams": split}]}}));
        let mut met: Vec<String> = (0..8).map(|_| said(port, "")).collect();
        met.sort();
        assert!(met.contains(&"Abye".to_owned()) && met.contains(&"Bbye".to_owned()), "{met:?}");
        with(
            json!({"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}, "prometheus": {}}),
        );
        let mut first = connect(port);
        let mut byte = [0];
        first.read_exact(&mut byte).unwrap();
        assert_eq!(said(port, "x"), "", "one at a time");
        first.shutdown(Shutdown::Write).unwrap();
        first.read_to_end(&mut Vec::new()).unwrap();
        eventually("the place is free", || said(port, "x") == "Axbye");
        let node = format!("127.0.0.1:{}", a.port);
        for line in [
            "apisix_stream_connection_total{route=\"1\"}".to_owned(),
            format!(
                "apisix_stream_status{{code=\"200\",listen_addr=\"127.0.0.1:{port}\",node=\"{node}\"}} 2"
            ),
            format!("apisix_stream_status{{code=\"503\",listen_addr=\"127.0.0.1:{port}\",node=\"\"}}"),
            format!("apisix_stream_active_connections{{listen_addr=\"127.0.0.1:{port}\"}} 0"),
            format!(
                "apisix_stream_bandwidth{{listen_addr=\"127.0.0.1:{port}\",type=\"egress\",side=\"downstream\"}}"
            ),
        ] {
            let metrics = || get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
            eventually(&line, || metrics().contains(&line));
        }
    });
}

#[test]
fn sessions_go_to_syslog() {
    on_both_drivers(|driver| {
        let (gateway, _) = with_plugins(driver);
        let (log, echo) = (std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), Echo::start("A"));
        log.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut syslog = json!({"host": "127.0.0.1", "port": log.local_addr().unwrap().port(), "sock_type": "udp", "batch_max_size": 1});
        let mut line = || {
            gateway.put(
                "/stream_routes/1",
                &json!({"upstream": echo.upstream(), "plugins": {"syslog": syslog}}),
            );
            assert_eq!(said(gateway.ports.proxied, "hello"), "Ahellobye");
            let mut message = [0; 4096];
            let length = log.recv(&mut message).unwrap();
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            syslog["log_format"] = json!({"who": "$remote_addr", "bytes": "$bytes_sent", "code": "$status"});
            serde_json::from_str::<Value>(&text[text.find('{').unwrap()..]).unwrap()
        };
        let full = line();
        assert_eq!(
            (&full["protocol"], &full["bytes_sent"], &full["status"]),
            (&json!("TCP"), &json!(9), &json!(200))
        );
        assert_eq!(line(), json!({"who": "127.0.0.1", "bytes": "9", "code": 200, "route_id": "1"}));
    });
}

#[test]
fn mqtt_clients_are_told_by_their_ids() {
    on_both_drivers(|driver| {
        let (gateway, _) = with_plugins(driver);
        let (a, b) = (Echo::start("A"), Echo::start("B"));
        let nodes = json!({format!("127.0.0.1:{}", a.port): 1, format!("127.0.0.1:{}", b.port): 1});
        let upstream = json!({"type": "chash", "key": "mqtt_client_id", "nodes": nodes});
        let plugins = json!({"mqtt-proxy": {"protocol_level": 4}});
        gateway.put("/stream_routes/1", &json!({"upstream": upstream, "plugins": plugins}));
        let broker = |id: &str| {
            let packet = format!(
                "\x10{}\0\x04MQTT\x04\x02\0\x3c\0{}{id}",
                (12 + id.len()) as u8 as char,
                id.len() as u8 as char
            );
            let mut stream = connect(gateway.ports.proxied);
            for piece in packet.as_bytes().chunks(5) {
                stream.write_all(piece).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer[1..], format!("{packet}bye"), "nothing is taken");
            answer.remove(0)
        };
        let first: Vec<char> = (0..10).map(|n| broker(&format!("client-{n}"))).collect();
        let again: Vec<char> = (0..10).map(|n| broker(&format!("client-{n}"))).collect();
        assert_eq!(first, again);
        assert!(first.contains(&'A') && first.contains(&'B'), "{first:?}");
        assert_eq!(said(gateway.ports.proxied, "GET / HTTP/1.1\r\n\r\n"), "");
    });
}

#[test]
fn tls_ends_here_and_its_name_chooses() {
    on_both_drivers(|driver| {
        let (gateway, secured) = with_plugins(driver);
        let (a, b, nginx) = (Echo::start("A"), Echo::start("B"), Nginx::start(""));
        let read = |file: &str| std::fs::read_to_string(format!("src/transport/tests/{file}")).unwrap();
        let pair = json!({"cert": read("server.pem"), "key": read("server.key.pem"), "snis": ["a.test", "*.b.test"]});
        gateway.put("/ssls/1", &pair);
        gateway.put("/stream_routes/1", &json!({"sni": "a.test", "upstream": a.upstream()}));
        gateway.put("/stream_routes/2", &json!({"sni": "*.test", "upstream": b.upstream()}));
        assert_eq!(said_by_tls(secured, "a.test", "x", None), "Axbye");
        assert_eq!(said_by_tls(secured, "c.b.test", "x", None), "Bxbye");
        assert_eq!(said_by_tls(secured, "other.example", "x", None), "", "no certificate");
        let upstream = json!({"scheme": "tls", "type": "roundrobin", "nodes": {format!("127.0.0.1:{}", nginx.tls_port): 1}});
        gateway.put("/stream_routes/2", &json!({"sni": "*.test", "upstream": upstream}));
        let answer = said_by_tls(secured, "c.b.test", "GET / HTTP/1.0\r\n\r\n", None);
        assert!(answer.contains("hello from nginx") && answer.contains("Got-Sni: c.b.test"), "{answer}");
        let asked = json!({"cert": read("server.pem"), "key": read("server.key.pem"), "snis": ["a.test", "*.b.test"], "client": {"ca": read("ca.pem")}});
        gateway.put("/ssls/1", &asked);
        assert_eq!(said_by_tls(secured, "a.test", "x", None), "", "a client certificate is asked for");
    });
}

#[test]
fn datagrams_have_sessions_by_client() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let gateway = listening_udp(driver, udp).start();
        let (a, b) = (mirror("A"), mirror("B"));
        let nodes = json!({format!("127.0.0.1:{a}"): 1, format!("127.0.0.1:{b}"): 1});
        let timeout = json!({"connect": 1, "send": 0.3, "read": 0.3});
        let upstream = json!({"type": "roundrobin", "nodes": nodes, "timeout": timeout});
        gateway.put("/stream_routes/1", &json!({"server_port": udp, "upstream": upstream}));
        let mut met = std::collections::BTreeSet::new();
        for _ in 0..6 {
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.connect(("127.0.0.1", udp)).unwrap();
            let ask = |text: &str| {
                client.send(text.as_bytes()).unwrap();
                let mut answer = [0; 2048];
                let length = client.recv(&mut answer).unwrap();
                String::from_utf8_lossy(&answer[..length]).into_owned()
            };
            let first = ask("one");
            assert_eq!(first[1..], *"one");
            assert_eq!(
                ask(&"x".repeat(1400)),
                format!("{}{}", &first[..1], "x".repeat(1400)),
                "the same upstream"
            );
            met.insert(first[..1].to_owned());
        }
        assert_eq!(met.len(), 2, "clients are shared out");
        gateway.read_until("logs/access_stream.log", " UDP 200 1405 1403 ");
    });
}

#[test]
fn an_empty_datagram_is_a_message_too() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let gateway = listening_udp(driver, udp).start();
        let nodes = json!({format!("127.0.0.1:{}", mirror("")): 1});
        let upstream = json!({"type": "roundrobin", "nodes": nodes});
        gateway.put("/stream_routes/1", &json!({"server_port": udp, "upstream": upstream}));
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(("127.0.0.1", udp)).unwrap();
        // one begins the session, one comes in it, and both are answered alike
        for said in ["", "", "x", ""] {
            client.send(said.as_bytes()).unwrap();
            let mut answer = [0; 16];
            let length = client.recv(&mut answer).unwrap();
            assert_eq!(answer[..length], *said.as_bytes());
        }
    });
}

#[test]
fn a_session_of_datagrams_has_the_times_of_its_upstream() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let format = "$protocol $upstream_connect_time $upstream_first_byte_time";
        let gateway = Setup::new(driver, Source::Embedded)
            .apisix(&format!("proxy_mode: http&stream\nstream_proxy: {{udp: [\"127.0.0.1:{udp}\"]}}\n"))
            .nginx(&format!(
                "stream: {{enable_access_log: true, access_log_buffer: 1, access_log_format: \"{format}\"}}\n"
            ))
            .start();
        let upstream = json!({"nodes": {format!("127.0.0.1:{}", mirror("")): 1}, "timeout": {"connect": 1, "send": 0.3, "read": 0.3}});
        gateway.put("/stream_routes/1", &json!({"upstream": upstream}));
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(("127.0.0.1", udp)).unwrap();
        client.send(b"x").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 1);
        let log = gateway.read_until("logs/access_stream.log", "UDP ");
        let times: Vec<Option<f64>> = log.split_whitespace().skip(1).map(|time| time.parse().ok()).collect();
        assert!(matches!(*times, [Some(connect), Some(first)] if connect <= first), "{log}");
    });
}

/// One socket of a client may speak to several addresses of ours; each answers for itself.
#[test]
fn a_datagram_is_answered_from_the_address_that_it_came_to() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let streams = format!("proxy_mode: http&stream\nstream_proxy: {{udp: [{udp}]}}\n");
        let gateway = Setup::new(driver, Source::Embedded).apisix(&streams).start();
        let nodes = json!({format!("127.0.0.1:{}", mirror("")): 1});
        gateway.put("/stream_routes/1", &json!({"upstream": {"type": "roundrobin", "nodes": nodes}}));
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for address in ["127.0.0.1", "127.0.0.2", "127.0.0.1"] {
            let address = std::net::SocketAddr::new(address.parse().unwrap(), udp);
            client.send_to(b"x", address).unwrap();
            assert_eq!(client.recv_from(&mut [0; 16]).unwrap(), (1, address));
        }
    });
}

/// The kernel tells of a node where nobody listens by failing the next call on the socket, be it the send of another
/// datagram.
#[test]
fn a_node_where_nobody_listens_is_heard_of_behind_two_datagrams_at_once() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let gateway = listening_udp(driver, udp).start();
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let nodes = json!({nobody.local_addr().unwrap().to_string(): 1});
        drop(nobody);
        gateway.put("/stream_routes/1", &json!({"upstream": {"type": "roundrobin", "nodes": nodes}}));
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.1", udp)).unwrap();
        gateway.at_once(|| (0..2).for_each(|_| assert_eq!(client.send(b"x").unwrap(), 1)));
        gateway.read_until("logs/access_stream.log", " UDP 200 0 2 ");
    });
}
