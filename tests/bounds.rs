//! Bounds of src/limits that a peer can reach from outside.

mod common;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::*;
use serde_json::json;

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

/// nginx's `lingering_timeout`, not the minute that a body has on its way to an upstream.
#[test]
fn the_rest_of_a_body_is_not_waited_for_long_behind_the_answer() {
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, "routes: []");
        let mut client = gateway.connect();
        client.send("POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf of it");
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

/// Resident memory that each of a thousand more connections of `open` adds, bytes, while all of them are held. It is that of
/// an unoptimized build, the allocator's pages with it, and would show a buffer that stays with its connection. It grows in
/// steps of 2 MiB, which are 2 KiB each here. The goals are for a release build and 10,000 connections (`bench/run idle`).
fn held_by_each(gateway: &Gateway, open: impl Fn() -> Client) -> u64 {
    const CONNECTIONS: u64 = 1000;
    let resident_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
    };
    let open = |connections: u64| (0..connections).map(|_| open()).collect::<Vec<_>>();
    let first = open(100);
    let before_kib = resident_kib();
    let rest = open(CONNECTIONS);
    let each = (resident_kib().saturating_sub(before_kib)) * 1024 / CONNECTIONS;
    println!("{each} bytes for each idle connection");
    drop((first, rest));
    each
}

#[test]
fn idle_connections_are_small() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let gateway = Gateway::to(driver, upstream.port);
        let each = held_by_each(&gateway, || {
            let mut client = gateway.connect();
            assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().status, 200);
            client
        });
        assert!(each <= 8 << 10, "{each} bytes for each idle connection");
    });
}

/// The h2 crate alone keeps 28 KiB of buffers for frames and fields, and begins tables of streams with 4 KiB.
#[test]
fn idle_connections_of_http_2_have_a_bound() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok("served"));
        let gateway = Gateway::to(driver, upstream.port);
        // GET, http, /, and the host as a new entry of the table (RFC 7541 appendix A)
        let fields = b"\x82\x86\x84\x41\x09gate.test";
        let flags = frames::END_STREAM | frames::END_HEADERS;
        let settings = frames::frame(frames::SETTINGS, 0, 0, &[]);
        let asked = [frames::PREFACE, &settings, &frames::frame(frames::HEADERS, flags, 1, fields)].concat();
        let each = held_by_each(&gateway, || {
            let mut client = gateway.connect();
            client.send(&asked);
            loop {
                let head = client.bytes(9);
                client.bytes(usize::from(head[1]) << 8 | usize::from(head[2]));
                if matches!(head[3], frames::DATA | frames::HEADERS) && head[4] & frames::END_STREAM != 0 {
                    break;
                }
            }
            client.send(frames::frame(frames::SETTINGS, 1, 0, &[]));
            client
        });
        assert!(each <= 44 << 10, "{each} bytes for each idle connection");
    });
}

#[test]
fn a_long_body_is_not_copied_to_a_mirror() {
    on_both_drivers(|driver| {
        let (upstream, mirror) = (Upstream::answering(ok("x")), Upstream::answering(ok("x")));
        let plugins = json!({"proxy-mirror": {"host": format!("http://127.0.0.1:{}", mirror.port)}});
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        let route = json!({"id": 1, "uri": "/*", "plugins": plugins, "upstream": {"nodes": nodes}});
        let gateway = Gateway::with_yaml(driver, &format!("routes:\n- {route}"));
        for (bytes, copies) in [(1 << 20, 1), ((1 << 20) + 1, 1)] {
            let body = "x".repeat(bytes);
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n");
            assert_eq!(ask(gateway.port(), (head + &body).as_bytes()).status, 200);
            assert_eq!(upstream.last().body.len(), bytes);
            eventually("the copy", || mirror.requests().len() == copies);
        }
        gateway.read_until("logs/error.log", "a body of more than 1048576 bytes is not copied to a mirror");
        assert_eq!(mirror.last().body.len(), 1 << 20);
    });
}

#[test]
fn of_many_expired_certificates_some_have_a_line() {
    let pki = Pki::new("bounds-expired");
    pki.make("old", "ec", "DNS:old.test", None);
    let (pem, key) = (pki.path("old.pem"), pki.path("old.key"));
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["x509", "-in", &pem, "-signkey", &key, "-out", &pem, "-days", "-1"]);
    assert!(openssl.output().unwrap().status.success());
    let (cert, key) = (pki.read("old.pem"), pki.read("old.key"));
    let ssls: String = (0..25)
        .map(|n| format!("- {}\n", json!({"id": n, "snis": [format!("{n}.test")], "cert": cert, "key": key})))
        .collect();
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, &format!("routes: []\nssls:\n{ssls}"));
        let log = gateway.read_until("logs/error.log", "25 certificates have expired");
        assert_eq!(log.matches("has expired").count(), 20, "{log}");
    });
}

/// A gateway with layer 4, whose one stream route leads to `upstream`. The port is that of datagrams.
fn streams(driver: &'static str, upstream: u16, plugins: serde_json::Value) -> (Gateway, u16) {
    let udp = free_port();
    let listen = format!("tcp: [\"127.0.0.1:$PROXIED\"], udp: [\"127.0.0.1:{udp}\"]");
    let gateway = Setup::new(driver, Source::Embedded)
        .apisix(&format!("proxy_mode: http&stream\nstream_proxy: {{{listen}}}\n"))
        .workers(1)
        .start();
    let nodes = json!({format!("127.0.0.1:{upstream}"): 1});
    let upstream = json!({"type": "roundrobin", "nodes": nodes});
    gateway.put("/stream_routes/1", &json!({"upstream": upstream, "plugins": plugins}));
    (gateway, udp)
}

#[test]
fn a_first_packet_of_mqtt_has_a_longest_length() {
    on_both_drivers(|driver| {
        let (gateway, _) = streams(driver, 1, json!({"mqtt-proxy": {"protocol_level": 4}}));
        let began = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.ports.proxied)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"\x10\xf0\xa2\x04").unwrap(); // CONNECT, 70,000 bytes to come
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        assert!(began.elapsed() < PATIENCE / 2, "nothing more is waited for: {:?}", began.elapsed());
        gateway.read_until("logs/error.log", "failed to read the Connect Command: 70004 bytes");
    });
}

/// An upstream of datagrams.
fn receiver() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// The next datagram: its bytes, and who sent it.
#[track_caller]
fn next(upstream: &UdpSocket, datagram: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match upstream.recv_from(datagram) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            outcome => return outcome.unwrap(),
        }
    }
}

/// How many datagrams come before the one that says `last`.
fn received(upstream: &UdpSocket, last: &[u8]) -> usize {
    let mut datagram = [0; 2048];
    (0..)
        .take_while(|_| {
            let (length, _) = next(upstream, &mut datagram);
            &datagram[..length] != last
        })
        .count()
}

#[test]
fn datagrams_wait_for_their_upstream_but_not_many() {
    on_both_drivers(|driver| {
        let (upstream, port) = receiver();
        let (gateway, udp) = streams(driver, port, json!({}));
        // all are there before the first is looked at; 150 are more than one turn of the core takes
        for (sent, last, expected) in [(40, &b"last"[..], 16..17), (150, b"the last", 90..150)] {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(("127.0.0.1", udp)).unwrap();
            let began = Instant::now();
            gateway.at_once(|| (0..sent).for_each(|_| assert_eq!(client.send(b"x").unwrap(), 1)));
            let (mut passed, mut datagram) = (0, [0; 16]);
            upstream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            // one that comes later passes, behind those that waited
            loop {
                client.send(last).unwrap();
                match upstream.recv(&mut datagram) {
                    Ok(length) if length == last.len() => break,
                    Ok(length) => passed += usize::from(length == 1),
                    Err(_) => assert!(began.elapsed() < PATIENCE, "nothing passes any more"),
                }
            }
            assert!(expected.contains(&passed), "{passed} of {sent} at once");
        }
    });
}

#[test]
fn datagrams_of_so_many_clients_have_a_session() {
    const SESSIONS: usize = 4096;
    on_both_drivers(|driver| {
        let (upstream, port) = receiver();
        let (_gateway, udp) = streams(driver, port, json!({}));
        // clients are told apart by their addresses
        let client = |n: usize| {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 1, (n >> 8) as u8, n as u8), 40_000)).unwrap();
            socket.connect(("127.0.0.1", udp)).unwrap();
            socket
        };
        let mut sessions: HashSet<SocketAddr> = HashSet::new();
        for n in 0..SESSIONS {
            client(n).send(b"hello").unwrap();
            sessions.insert(next(&upstream, &mut [0; 16]).1);
        }
        assert_eq!(sessions.len(), SESSIONS);
        for n in SESSIONS..SESSIONS + 5 {
            client(n).send(b"one too many").unwrap();
        }
        client(0).send(b"known").unwrap();
        assert_eq!(received(&upstream, b"known"), 0, "who is known is served on, and nobody else");
    });
}

#[test]
fn the_largest_datagrams_pass() {
    on_both_drivers(|driver| {
        let (upstream, port) = receiver();
        let (_gateway, udp) = streams(driver, port, json!({}));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect(("127.0.0.1", udp)).unwrap();
        let largest: Vec<u8> = (0..65_507).map(|n| n as u8).collect();
        let mut datagram = vec![0; 70_000];
        client.send(&largest).unwrap();
        let (length, session) = next(&upstream, &mut datagram);
        assert!(datagram[..length] == largest, "{length} bytes");
        upstream.send_to(&largest, session).unwrap();
        let length = client.recv(&mut datagram).unwrap();
        assert!(datagram[..length] == largest, "{length} bytes");
    });
}
