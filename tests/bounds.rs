//! Bounds of src/limits.rs that a peer can reach from outside.

mod common;

use common::*;

#[test]
fn an_upstreams_head_has_a_bound() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let bytes: usize = request.target[1..].parse().unwrap();
                let long = "x".repeat(bytes);
                if conn
                    .send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: {long}\r\n\r\n"))
                    .is_err()
                {
                    return;
                }
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let answer = gateway.get("/60000");
        assert_eq!((answer.status, answer.header("x-long").map(str::len)), (200, Some(60_000)));
        let answer = gateway.get("/70000");
        assert_eq!((answer.status, answer.header("x-long")), (502, None));
    });
}

#[test]
fn fields_are_counted_in_bytes() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let fields: String = (0..1000).map(|n| format!("X-{n}: {n}\r\n")).collect();
        let answer = request(gateway.port(), "GET", "/", &format!("Host: a\r\n{fields}"));
        assert_eq!(answer.status, 200);
        let got = upstream.last();
        assert!((0..1000).all(|n| got.header(&format!("X-{n}")) == Some(n.to_string().as_str())));
    });
}

#[test]
fn a_body_that_nobody_wants_is_read_up_to_a_bound() {
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, "routes: []");
        let post = |bytes: usize| {
            let body = "x".repeat(bytes);
            format!("POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{body}")
        };
        let mut client = gateway.connect();
        for _ in 0..2 {
            assert_eq!(client.send(post(10_000)).response().status, 404, "the connection stays");
        }
        client.send(post(1_000_000));
        assert_eq!(client.response().status, 404);
        client.closed();
    });
}

#[test]
fn a_proxy_header_has_a_bound() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port)));
        let gateway = setup.apisix("proxy_protocol: {listen_http_port: $PROXIED}").start();
        let mut client = Client::connect(gateway.ports.proxied);
        // version 2 says its length: 20,000 bytes of extensions
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        header.extend(20_000_u16.to_be_bytes());
        header.resize(header.len() + 20_000, 0);
        let _ = client.try_send(header);
        client.closed();
        assert!(upstream.requests().is_empty());
    });
}

/// Resident memory of an unoptimized build, the allocator's pages with it: it would show a buffer that stays
/// with its connection. It grows in steps of 2 MiB, which are 2 KiB each here. The goal of 2 KiB is for a release
/// build and 10,000 connections (`bench/run idle`).
#[test]
fn idle_connections_are_small() {
    const CONNECTIONS: u64 = 1000;
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let gateway = Gateway::to(driver, upstream.port);
        let resident_kib = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
        };
        let open = |connections: u64| -> Vec<Client> {
            let clients = (0..connections).map(|_| {
                let mut client = gateway.connect();
                assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().status, 200);
                client
            });
            clients.collect()
        };
        let first = open(100);
        let before_kib = resident_kib();
        let rest = open(CONNECTIONS);
        let each = (resident_kib().saturating_sub(before_kib)) * 1024 / CONNECTIONS;
        println!("{each} bytes for each idle connection");
        assert!(each <= 8 << 10, "{each} bytes for each idle connection");
        drop((first, rest));
    });
}
