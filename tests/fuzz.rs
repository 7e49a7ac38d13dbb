//! Seeded nonsense towards the proxy's port: it may be refused, it must not harm anybody else.
//!
//! `RINGWAY_FUZZ_SEED` repeats a run, `RINGWAY_FUZZ_ROUNDS` makes it longer.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::*;
use fastrand::Rng;
use prost::Message;
use quinn_proto::crypto::rustls::QuicClientConfig;
use ringway::transport::trust::{Trust, client_config};
use ringway::wire::pubsub::{
    Command, Credit, Empty, KafkaFetch, KafkaListOffset, KafkaSubscribe, Ping, Request as Asked, Unsubscribe,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Neither an exchange nor a connection, nor what lies below them.
#[track_caller]
fn nothing_panicked(gateway: &Gateway) {
    let log = gateway.read("logs/error.log");
    let line = log.lines().find(|line| line.contains("panic"));
    assert_eq!(line, None);
    let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
    assert!(metrics.contains("\napisix_panics_total 0\n"), "{metrics}");
}

/// What heads and bodies are made of, good and bad.
const PIECES: &[&[u8]] = &[
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"OPTIONS ",
    b"CONNECT ",
    b"/",
    b"/a%2e%2e/../b",
    b"/%zz",
    b"?a=b&",
    b"*",
    b"http://h/",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b" HTTP/2.0\r\n",
    b"Host: a\r\n",
    b"Host:\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 99999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"X: y\r\n",
    b": \r\n",
    b" folded\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"hello",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
];

/// A good request with something done to it, or a heap of pieces, or plain noise.
fn nonsense(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    match rng.u8(..4) {
        0 => {
            bytes.resize(rng.usize(1..2000), 0);
            rng.fill(&mut bytes);
        }
        1 => {
            for _ in 0..rng.usize(1..40) {
                bytes.extend_from_slice(PIECES[rng.usize(..PIECES.len())]);
            }
        }
        _ => {
            for _ in 0..rng.usize(1..4) {
                bytes.extend_from_slice(
                    b"POST /x HTTP/1.1\r\nHost: a\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                );
            }
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..bytes.len());
                match rng.u8(..4) {
                    0 => bytes[at] = rng.u8(..),
                    1 if bytes.len() > 1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, rng.u8(..)),
                    _ => {
                        let piece = PIECES[rng.usize(..PIECES.len())];
                        bytes.splice(at..at, piece.iter().copied());
                    }
                }
            }
        }
    }
    bytes
}

/// Each answer that comes must at least begin like one.
#[track_caller]
fn throw(port: u16, bytes: &[u8], rng: &mut Rng) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let cut = rng.usize(..=bytes.len());
    let sent = stream.write_all(&bytes[..cut]).and_then(|()| stream.write_all(&bytes[cut..]));
    if rng.u8(..4) == 0 {
        return; // it leaves without a word
    }
    if sent.is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(n @ 1..) => answer.extend_from_slice(&piece[..n]),
            Ok(0) => break,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no end after {:?}", String::from_utf8_lossy(bytes))
            }
            Err(_) => break,
        }
    }
    // who begins with HTTP/2's preface is answered with its frames, a SETTINGS first
    let http2 = bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") && answer.get(3) == Some(&4);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 ") || http2,
        "{:?} got {:?}",
        String::from_utf8_lossy(bytes),
        String::from_utf8_lossy(&answer)
    );
}

#[test]
fn nonsense_from_clients() {
    let seed = number("RINGWAY_FUZZ_SEED", 0x52_49_4e_47);
    let rounds = number("RINGWAY_FUZZ_ROUNDS", 1500);
    println!("RINGWAY_FUZZ_SEED={seed}");
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port)));
        let mut gateway = setup.http("client_body_timeout: 2s\nclient_header_timeout: 2s").start();
        let mut rng = Rng::with_seed(seed);
        let mut good = gateway.connect();
        for round in 0..rounds {
            throw(gateway.port(), &nonsense(&mut rng), &mut rng);
            if round % 20 == 0 {
                let answer = good.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").response();
                assert_eq!(answer.status, 200, "round {round} of seed {seed}");
                if answer.header("connection") == Some("close") {
                    good = gateway.connect();
                }
            }
        }
        assert!(gateway.is_running());
        nothing_panicked(&gateway);
        for request in upstream.requests() {
            assert_eq!(request.all("host").len(), 1, "one Host goes upstream: {:?}", request.head);
        }
    });
}

/// The first datagram of a client of QUIC.
fn initial(to: SocketAddr) -> Vec<u8> {
    let tls = client_config(&Trust::Anyone, None, &[b"h3"]).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, true, None);
    let config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    let (_, mut connection) = endpoint.connect(Instant::now(), config, to, "a.test").unwrap();
    let mut datagram = Vec::new();
    let _ = connection.poll_transmit(Instant::now(), 1, &mut datagram);
    datagram
}

#[test]
fn nonsense_by_datagrams() {
    let seed = number("RINGWAY_FUZZ_SEED", 0x52_49_4e_47);
    let rounds = number("RINGWAY_FUZZ_ROUNDS", 3000);
    println!("RINGWAY_FUZZ_SEED={seed}");
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("fuzz-{driver}"));
        pki.make("a", "ec", "DNS:a.test", None);
        let upstream = Upstream::mirror();
        let listen = "ssl: {enable: true, listen: [{ip: 127.0.0.1, port: $PROXIED, enable_http3: true}]}\n";
        let mut gateway = Setup::new(driver, Source::Embedded).apisix(listen).start();
        let nodes = serde_json::json!({format!("127.0.0.1:{}", upstream.port): 1});
        gateway.put(
            "/routes/1",
            &serde_json::json!({"uri": "/*", "upstream": {"type": "roundrobin", "nodes": nodes}}),
        );
        gateway.put("/ssls/1", &pki.ssl("a", &["a.test", "localhost"]));
        let mut rng = Rng::with_seed(seed);
        let to = SocketAddr::from(([127, 0, 0, 1], gateway.ports.proxied));
        let mut socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..rounds {
            let mut bytes = match rng.u8(..4) {
                0 => {
                    let mut noise = vec![0; rng.usize(1..1500)];
                    rng.fill(&mut noise);
                    noise
                }
                _ => initial(to),
            };
            for _ in 0..rng.usize(..4) {
                let first = rng.usize(1..1500); // most of what is looked at is at the beginning
                let at = rng.usize(..bytes.len().min(first));
                match rng.u8(..4) {
                    0 => bytes[at] = rng.u8(..),
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, rng.u8(..)),
                    _ => bytes[at] ^= 1 << rng.u8(..8),
                }
            }
            if rng.u8(..20) == 0 {
                socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            }
            let _ = socket.send_to(&bytes, to);
        }
        let port = to.port().to_string();
        let served = std::process::Command::new("gtlsclient")
            .args([
                "-q",
                "--exit-on-all-streams-close",
                "127.0.0.1",
                &port,
                &format!("https://a.test:{port}/good"),
            ])
            .output()
            .unwrap();
        assert!(served.status.success(), "{}", String::from_utf8_lossy(&served.stderr));
        upstream.wait_for(1);
        assert_eq!(upstream.last().target, "/good");
        assert!(gateway.is_running());
        nothing_panicked(&gateway);
    });
}

#[test]
fn nonsense_from_upstreams() {
    let seed = number("RINGWAY_FUZZ_SEED", 0x52_49_4e_47);
    let rounds = number("RINGWAY_FUZZ_ROUNDS", 500);
    println!("RINGWAY_FUZZ_SEED={seed}");
    on_both_drivers(|driver| {
        let rng = std::sync::Mutex::new(Rng::with_seed(seed));
        let upstream = Upstream::start(move |conn| {
            let _ = conn.stream.set_read_timeout(Some(Duration::from_secs(5)));
            while let Some(request) = conn.request() {
                if request.target == "/good" {
                    let _ = conn.send(ok("good"));
                    continue;
                }
                let mut bytes =
                    b"HTTP/1.1 200 OK\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                        .to_vec();
                {
                    let mut rng = rng.lock().unwrap();
                    if rng.bool() {
                        bytes = b"HTTP/1.1 200 OK\r\nX-Y: z\r\nContent-Length: 5\r\n\r\nhello".to_vec();
                    }
                    for _ in 0..rng.usize(1..5) {
                        let at = rng.usize(..bytes.len());
                        match rng.u8(..4) {
                            0 => bytes[at] = rng.u8(..),
                            1 if bytes.len() > 1 => drop(bytes.remove(at)),
                            2 => bytes.truncate(at.max(1)),
                            _ => bytes.insert(at, rng.u8(..)),
                        }
                    }
                }
                let _ = conn.send(bytes);
                return;
            }
        });
        let mut gateway = Gateway::to(driver, upstream.port);
        for round in 0..rounds {
            let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /bad HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert_ne!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock,
                    "round {round} of seed {seed}: no end"
                );
            }
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "round {round} of seed {seed}");
            if round % 10 == 0 {
                assert_eq!(gateway.get("/good").text(), "good", "round {round} of seed {seed}");
            }
        }
        assert!(gateway.is_running());
        nothing_panicked(&gateway);
    });
}

/// Frames of a WebSocket, good and bad, and commands in them.
fn websocket_nonsense(rng: &mut Rng) -> Vec<u8> {
    let commands = [
        Command::Empty(Empty {}),
        Command::Ping(Ping { state: vec![b'x'; rng.usize(..300)].into() }),
        Command::KafkaFetch(KafkaFetch { topic: "a b".into(), partition: rng.i32(..), offset: rng.i64(..) }),
        Command::KafkaListOffset(KafkaListOffset { topic: "t".into(), partition: 0, timestamp: rng.i64(..) }),
        Command::KafkaSubscribe(KafkaSubscribe {
            topic: "t".repeat(rng.usize(..400)),
            partition: 0,
            offset: rng.i64(..),
            credit: rng.i64(..),
        }),
        Command::Credit(Credit { subscription: rng.i64(..9), messages: rng.i64(..) }),
        Command::Unsubscribe(Unsubscribe { subscription: rng.i64(..9) }),
    ];
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..6) {
        let command = Some(commands[rng.usize(..commands.len())].clone());
        let mut message = Message::encode_to_vec(&Asked { sequence: rng.i64(..9), command });
        if rng.u8(..3) == 0 && !message.is_empty() {
            let at = rng.usize(..message.len());
            message[at] = rng.u8(..);
        }
        let first = if rng.u8(..4) == 0 { rng.u8(..) } else { 0x82 };
        bytes.extend(pubsub::masked(first, &message));
    }
    match rng.u8(..4) {
        0 => {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        1 => bytes.truncate(rng.usize(..=bytes.len())),
        _ => {}
    }
    bytes
}

#[test]
fn nonsense_on_websockets() {
    let seed = number("RINGWAY_FUZZ_SEED", 0x52_49_4e_47);
    let rounds = number("RINGWAY_FUZZ_ROUNDS", 500);
    println!("RINGWAY_FUZZ_SEED={seed}");
    on_both_drivers(|driver| {
        let nodes = format!("{{\"127.0.0.1:{}\": 1}}", free_port());
        let route = format!(
            "routes:\n- {{id: 1, uri: /kafka, upstream: {{scheme: kafka, type: none, nodes: {nodes}}}}}\n"
        );
        let mut gateway = Gateway::with_yaml(driver, &route);
        let mut rng = Rng::with_seed(seed);
        let mut good = pubsub::PubSub::open(gateway.port(), "/kafka");
        for round in 0..rounds {
            let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let bytes = websocket_nonsense(&mut rng);
            let all = [pubsub::upgrade("/kafka", "").into_bytes(), bytes].concat();
            let cut = rng.usize(..=all.len());
            let sent = stream.write_all(&all[..cut]).and_then(|()| stream.write_all(&all[cut..]));
            if sent.is_ok() && rng.bool() {
                let _ = stream.shutdown(Shutdown::Write);
                let mut answer = Vec::new();
                match stream.read_to_end(&mut answer) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        panic!("no end after {:?}", &all[all.len() - 100..])
                    }
                    _ => assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}"),
                }
            }
            if round % 20 == 0 {
                good.is_quiet();
            }
        }
        good.is_quiet();
        assert!(gateway.is_running());
        nothing_panicked(&gateway);
    });
}

/// A PEM with something done to its text, or to what it encodes.
fn damaged(pem: &str, rng: &mut Rng) -> String {
    let on_der = rng.bool();
    let mut damage = |bytes: &mut Vec<u8>| {
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len().max(1));
            match rng.u8(..4) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
                _ => bytes.insert(at.min(bytes.len()), rng.u8(b' '..=b'~')),
            }
        }
    };
    let lines: Vec<&str> = pem.lines().collect();
    let inside = BASE64_STANDARD.decode(lines[1..lines.len() - 1].concat());
    match inside {
        Ok(mut der) if on_der => {
            damage(&mut der);
            format!("{}\n{}\n{}\n", lines[0], BASE64_STANDARD.encode(der), lines[lines.len() - 1])
        }
        _ => {
            let mut text = pem.as_bytes().to_vec();
            damage(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
    }
}

/// Shakes hands, as far as it goes.
fn shake_hands(port: u16, name: &str) {
    let config = client_config(&Trust::Anyone, None, &[]).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), tcp);
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Ssl objects with damaged certificates and keys: refused with a reason, or served as well as they can be.
#[test]
fn nonsense_in_ssl_objects() {
    let seed = number("RINGWAY_FUZZ_SEED", 0x52_49_4e_47);
    let rounds = number("RINGWAY_FUZZ_ROUNDS", 300);
    println!("RINGWAY_FUZZ_SEED={seed}");
    let pki = Pki::new("fuzz");
    let responder = ["-addext", "authorityInfoAccess=OCSP;URI:http://127.0.0.1:1/"];
    pki.make_with("ec", "ec", "DNS:a.test", None, &responder).make("rsa", "rsa", "DNS:a.test", None);
    let pems = ["ec.pem", "ec.key", "rsa.pem", "rsa.key"].map(|file| pki.read(file));
    let listen = "ssl: {enable: true, listen: [{ip: 127.0.0.1, port: $PROXIED}]}\n";
    let mut gateway = Setup::new("auto", Source::Embedded).apisix(listen).start();
    gateway.put("/ssls/good", &pki.ssl("ec", &["good.test"]));
    let mut rng = Rng::with_seed(seed);
    for round in 0..rounds {
        let kind = 2 * rng.usize(..2);
        let mut ssl = json!({"snis": ["bad.test"], "cert": pems[kind], "key": pems[kind + 1]});
        ssl["ocsp_stapling"] = json!({"enabled": rng.bool()});
        let pick = |rng: &mut Rng| pems[rng.usize(..4)].clone();
        match rng.u8(..8) {
            0..3 => ssl["cert"] = json!(damaged(&pems[kind], &mut rng)),
            3 => ssl["key"] = json!(damaged(&pems[kind + 1], &mut rng)),
            4 => ssl["cert"] = json!(pems[kind].clone() + &damaged(&pick(&mut rng), &mut rng)),
            5 => ssl["client"] = json!({"ca": damaged(&pems[kind], &mut rng), "depth": rng.u8(..4)}),
            6 => {
                ssl["certs"] = json!([damaged(&pick(&mut rng), &mut rng)]);
                ssl["keys"] = json!([damaged(&pick(&mut rng), &mut rng)]);
            }
            _ => {
                let names = ["cert", "key", "snis", "client", "certs", "ocsp_stapling", "status"];
                let values =
                    [json!(pick(&mut rng)), json!([]), json!({}), Value::Null, json!(-1), json!(["*", ""])];
                ssl[names[rng.usize(..names.len())]] = values[rng.usize(..values.len())].clone();
            }
        }
        let answer = gateway.admin("PUT", "/ssls/bad", &ssl.to_string());
        match answer.status {
            200 | 201 => shake_hands(gateway.ports.proxied, "bad.test"),
            400 => assert!(answer.json()["error_msg"].is_string(), "round {round} of seed {seed}: {answer}"),
            other => panic!("round {round} of seed {seed}: {other} for {ssl}"),
        }
    }
    shake_hands(gateway.ports.proxied, "good.test");
    assert!(gateway.is_running());
    nothing_panicked(&gateway);
    let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
    assert!(metrics.contains("ssl_certificate_days_left{ssl_id=\"good\""), "{metrics}");
}
