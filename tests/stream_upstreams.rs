//! Upstreams of layer 4: health checks of both kinds, certificates of clients on both sides, nodes of UDP that are not there,
//! and reloads while sessions are open.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::streams::{Echo, connect, listening, listening_tls, listening_udp, mirror, said, said_by_tls};
use common::*;
use serde_json::{Value, json};

fn gateway(driver: &'static str) -> Gateway {
    listening(driver).rest("stream_plugins: [prometheus]\n").start()
}

/// An upstream of two nodes, one try for each session, with these checks.
fn checked(nodes: [u16; 2], checks: Value) -> Value {
    let nodes: serde_json::Map<_, _> =
        nodes.iter().map(|port| (format!("127.0.0.1:{port}"), json!(1))).collect();
    json!({"upstream": {"type": "roundrobin", "nodes": nodes, "retries": 0, "checks": checks}})
}

/// Who is met by a few sessions; "" is nobody.
fn met(port: u16) -> BTreeSet<String> {
    (0..8).map(|_| said(port, "").chars().take(1).collect()).collect()
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn active_checks_take_a_node_out_and_in_again() {
    on_both_drivers(|driver| {
        let (gateway, a, dead) = (gateway(driver), Echo::start("A"), free_port());
        let active = json!({"type": "tcp", "healthy": {"interval": 1, "successes": 1}, "unhealthy": {"interval": 1, "tcp_failures": 1}});
        gateway.put("/stream_routes/1", &checked([a.port, dead], json!({"active": active})));
        let port = gateway.ports.proxied;
        assert_eq!(met(port), names(&["", "A"]), "nobody knows yet");
        eventually("the dead node is met no more", || met(port) == names(&["A"]));
        let _b = Echo::on("B", dead);
        eventually("it is met again", || met(port) == names(&["A", "B"]));
    });
}

#[test]
fn passive_checks_take_a_node_out() {
    on_both_drivers(|driver| {
        let (gateway, a, dead) = (gateway(driver), Echo::start("A"), free_port());
        let rarely = json!({"type": "tcp", "healthy": {"interval": 3600}, "unhealthy": {"interval": 3600, "tcp_failures": 3}});
        let passive = json!({"type": "tcp", "unhealthy": {"tcp_failures": 2}});
        let checks = json!({"active": rarely, "passive": passive});
        gateway.put("/stream_routes/1", &checked([a.port, dead], checks));
        let port = gateway.ports.proxied;
        assert_eq!(met(port), names(&["", "A"]), "that is how it is learnt");
        eventually("the dead node is met no more", || met(port) == names(&["A"]));
        let _b = Echo::on("B", dead);
        assert_eq!(met(port), names(&["A"]), "only a probe brings it back");
    });
}

#[test]
fn certificates_of_clients_on_both_sides() {
    on_both_drivers(|driver| {
        let (secured, echo) = (free_port(), Echo::start("A"));
        let gateway = listening_tls(driver, secured).start();
        let read = |file: &str| std::fs::read_to_string(format!("src/transport/tests/{file}")).unwrap();
        let (cert, key) = (read("client.pem"), read("client.key.pem"));
        let site = json!({"cert": read("server.pem"), "key": read("server.key.pem"), "snis": ["localhost"], "client": {"ca": read("ca.pem")}});
        gateway.put("/ssls/1", &site);
        gateway.put("/stream_routes/1", &json!({"server_port": secured, "upstream": echo.upstream()}));
        assert_eq!(said_by_tls(secured, "localhost", "x", Some((&cert, &key))), "Axbye");
        assert_eq!(said_by_tls(secured, "localhost", "x", None), "", "he shows none");
        let pki = Pki::new(driver);
        let other = pki.make("stranger", "ec", "DNS:stranger", None);
        let (strange, its_key) = (other.read("stranger.pem"), other.read("stranger.key"));
        assert_eq!(
            said_by_tls(secured, "localhost", "x", Some((&strange, &its_key))),
            "",
            "of nobody we know"
        );

        // and as a client: through a plain listener to the one above
        let towards = |tls: Value| {
            let mut upstream =
                json!({"scheme": "tls", "type": "roundrobin", "nodes": {format!("localhost:{secured}"): 1}});
            if !tls.is_null() {
                upstream["tls"] = tls;
            }
            let route = json!({"server_port": gateway.ports.proxied, "upstream": upstream});
            gateway.put("/stream_routes/2", &route);
            said(gateway.ports.proxied, "x")
        };
        assert_eq!(towards(Value::Null), "");
        assert_eq!(towards(json!({"client_cert": cert, "client_key": key})), "Axbye");
        assert_eq!(towards(json!({"client_cert": strange, "client_key": its_key})), "");
        gateway.put("/ssls/2", &json!({"type": "client", "cert": cert, "key": key}));
        assert_eq!(towards(json!({"client_cert_id": "2"})), "Axbye");
    });
}

#[test]
fn a_datagram_that_nobody_takes_sends_the_client_elsewhere() {
    on_both_drivers(|driver| {
        let udp = free_port();
        let gateway = listening_udp(driver, udp).start();
        let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let nodes = json!({format!("127.0.0.1:{dead}"): 1000, format!("127.0.0.1:{}", mirror("A")): 1000});
        gateway.put(
            "/stream_routes/1",
            &json!({"server_port": udp, "upstream": {"type": "roundrobin", "nodes": nodes}}),
        );
        for _ in 0..4 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
            client.connect(("127.0.0.1", udp)).unwrap();
            eventually("an answer", || {
                client.send(b"x").unwrap();
                let mut answer = [0; 16];
                client.recv(&mut answer).is_ok_and(|length| answer[..length] == *b"Ax")
            });
        }
        gateway.read_until("logs/error.log", "ended with its upstream: Connection refused");
    });
}

#[test]
fn a_reload_drops_no_session() {
    on_both_drivers(|driver| {
        let gateway = listening(driver)
            .nginx("stream: {enable_access_log: true, access_log_buffer: 1, access_log_format: \"before $protocol\"}\n")
            .start();
        let (echo, port) = (Echo::start("A"), gateway.ports.proxied);
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        let mut old = connect(port);
        let mut byte = [0];
        old.read_exact(&mut byte).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        assert_eq!(said(port, "x"), "Axbye", "none is refused, none is cut");
                    }
                });
            }
            let text = gateway.read("conf/config.yaml").replace("before $protocol", "after $protocol");
            std::fs::write(gateway.path("conf/config.yaml"), text).unwrap();
            gateway.signal("HUP");
            gateway.read_until("logs/access_stream.log", "after TCP");
            for _ in 0..20 {
                old.write_all(b"y").unwrap();
                old.read_exact(&mut byte).unwrap();
                assert_eq!(&byte, b"y");
            }
            stop.store(true, Ordering::Relaxed);
        });
        gateway.put("/stream_routes/1", &json!({"upstream": Echo::start("B").upstream()}));
        assert_eq!(said(port, "x"), "Bxbye");
        old.write_all(b"z").unwrap();
        old.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"z", "a session keeps what it began with");
    });
}

#[test]
fn a_session_that_lasts_is_counted_meanwhile() {
    on_both_drivers(|driver| {
        let (gateway, echo) = (gateway(driver), Echo::start("A"));
        gateway.put("/stream_routes/1", &json!({"upstream": echo.upstream()}));
        let mut stream = connect(gateway.ports.proxied);
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        let counted = |kind: &str, side: &str| {
            let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
            let listener = format!("127.0.0.1:{}", gateway.ports.proxied);
            let series = format!(
                "apisix_stream_bandwidth{{listen_addr=\"{listener}\",type=\"{kind}\",side=\"{side}\"}} "
            );
            let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
            line.map_or(0, |number| number.parse::<u64>().unwrap())
        };
        let mut sent = 0;
        for (kind, side) in [("ingress", "downstream"), ("egress", "upstream"), ("egress", "downstream")] {
            eventually("it is counted", || {
                stream.write_all(b"x").unwrap();
                stream.read_exact(&mut byte).unwrap();
                sent += 1;
                counted(kind, side) > 0
            });
        }
        drop(stream);
        eventually("all of it, once", || counted("ingress", "downstream") == sent);
        eventually("all of it, once", || counted("ingress", "upstream") > sent);
    });
}

/// t/cli/test_dns.sh
#[test]
fn names_are_asked_of_the_resolver_that_is_configured() {
    on_both_drivers(|driver| {
        let address = Arc::new(Mutex::new([127, 0, 0, 1]));
        let dns = name_server(address.clone());
        let gateway = listening(driver).apisix(&format!("dns_resolver: [\"127.0.0.1:{dns}\"]\n")).start();
        let echo = Echo::start("A");
        let nodes = json!([{"host": "sd.test.local", "port": echo.port, "weight": 1}]);
        gateway.put("/stream_routes/1", &json!({"upstream": {"type": "roundrobin", "nodes": nodes}}));
        assert_eq!(said(gateway.ports.proxied, "x"), "Axbye");
        *address.lock().unwrap() = [127, 0, 0, 99];
        eventually("nobody listens at the new address", || said(gateway.ports.proxied, "x").is_empty());
    });
}
