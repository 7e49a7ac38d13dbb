//! WebSockets, by HTTP/1.1's upgrade and by HTTP/2's extended CONNECT (RFC 8441): the same tunnel.

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Request as Head, StatusCode};

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                         Sec-WebSocket-Accept: x\r\nX-Own: 1\r\n\r\n";

/// `/ws` has WebSockets, `/plain` has not.
fn routes(upstream: u16, more: &str) -> String {
    format!(
        "routes:\n- {{id: 1, uri: /ws, enable_websocket: true{more}, upstream: {{nodes: {{\"127.0.0.1:{upstream}\": 1}}}}}}\n\
         - {{id: 2, uri: /plain, upstream: {{nodes: {{\"127.0.0.1:{upstream}\": 1}}}}}}"
    )
}

/// Runs `work` with a connection whose server has said that it takes extended CONNECT.
fn with_client<T>(port: u16, work: impl AsyncFnOnce(SendRequest<Bytes>) -> T) -> T {
    with_h2(port, async |client| {
        let began = Instant::now();
        while !client.is_extended_connect_protocol_enabled() {
            assert!(began.elapsed() < PATIENCE, "SETTINGS_ENABLE_CONNECT_PROTOCOL");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        work(client).await
    })
}

type Opened = (http::response::Parts, RecvStream, SendStream<Bytes>);

async fn open(client: &SendRequest<Bytes>, path: &str, protocol: &'static str) -> Result<Opened, h2::Error> {
    let head = Head::builder()
        .method("CONNECT")
        .uri(format!("http://gate.test{path}"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap();
    let (answer, to) = client.clone().ready().await?.send_request(head, false)?;
    let (parts, from) = answer.await?.into_parts();
    Ok((parts, from, to))
}

async fn bytes(from: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        let piece = from.data().await.expect("more bytes").unwrap();
        from.flow_control().release_capacity(piece.len()).unwrap();
        got.extend_from_slice(&piece);
    }
    got
}

/// The peer's side ends as it should; its last frame may bring no bytes.
#[track_caller]
fn is_end(ended: Option<Result<Bytes, h2::Error>>) {
    assert!(matches!(&ended, None | Some(Ok(_))) && ended.and_then(Result::ok).is_none_or(|b| b.is_empty()));
}

/// Switches, says `first`, and then gives all back.
fn echo() -> Upstream {
    Upstream::start(|conn| {
        let Some(request) = conn.head() else { return };
        conn.remember(&request);
        let _ = conn.send(format!("{SWITCHING}first"));
        let mut piece = [0; 64 << 10];
        while let Ok(n @ 1..) = conn.stream.read(&mut piece) {
            if conn.stream.write_all(&piece[..n]).is_err() {
                return;
            }
        }
    })
}

#[test]
fn real_clients_and_a_real_server() {
    on_both_drivers(|driver| {
        let server = free_port();
        let objects = routes(server, "").replace("/ws", "/chat");
        let gateway = Gateway::with_yaml(driver, &objects);
        python("websocket.py", &[&gateway.port(), &server]);
        let log = gateway.read_until("logs/access.log", " 403 ");
        assert!(log.contains(" 101 ") && log.contains(" 200 ") && log.contains(" 403 "), "{log}");
    });
}

#[test]
fn an_extended_connect_is_an_upgrade_for_its_upstream() {
    on_both_drivers(|driver| {
        let upstream = echo();
        let gateway = Gateway::with_yaml(driver, &routes(upstream.port, ""));
        with_client(gateway.port(), async |client| {
            let (head, mut from, mut to) = open(&client, "/ws", "websocket").await.unwrap();
            assert_eq!(head.status, StatusCode::OK);
            assert_eq!(head.headers.get("x-own").unwrap(), "1");
            assert!(head.headers.get("sec-websocket-accept").is_none());
            assert_eq!(bytes(&mut from, 5).await, b"first");
            to.send_data(Bytes::from_static(b"up"), false).unwrap();
            assert_eq!(bytes(&mut from, 2).await, b"up");
            // beside it the connection serves others
            let (other, _, _) = open(&client, "/plain", "websocket").await.unwrap();
            assert_eq!(other.status, StatusCode::FORBIDDEN);
            let (unknown, _, _) = open(&client, "/ws", "connect-udp").await.unwrap();
            assert_eq!(unknown.status, StatusCode::NOT_IMPLEMENTED);
            to.send_data(Bytes::new(), true).unwrap();
            is_end(from.data().await);
        });
        let seen = upstream.last();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/ws"));
        assert_eq!((seen.header("upgrade"), seen.header("host")), (Some("websocket"), Some("gate.test")));
        assert_eq!(seen.header("connection"), Some("Upgrade"));
        assert_eq!(seen.header("sec-websocket-key").map(str::len), Some(24));
        assert_eq!(upstream.requests().len(), 1, "what is refused reaches no upstream");
    });
}

/// Each tunnel counts for its node while it is open, and no longer.
#[test]
fn a_tunnel_that_has_ended_is_no_load() {
    on_both_drivers(|driver| {
        let (strong, weak) = (echo(), echo());
        let nodes = format!("{{\"127.0.0.1:{}\": 3, \"127.0.0.1:{}\": 1}}", strong.port, weak.port);
        let objects = format!(
            "routes:\n- {{id: 1, uri: /ws, enable_websocket: true, upstream: {{type: least_conn, nodes: {nodes}}}}}"
        );
        let gateway = Setup::new(driver, Source::Yaml(objects)).workers(1).start();
        for _ in 0..4 {
            let mut client = gateway.connect();
            client.send("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
            assert_eq!(client.response().status, 101);
            assert_eq!(client.bytes(5), b"first");
            client.shut();
            client.closed();
        }
        with_client(gateway.port(), async |client| {
            for _ in 0..4 {
                let (_, mut from, mut to) = open(&client, "/ws", "websocket").await.unwrap();
                assert_eq!(bytes(&mut from, 5).await, b"first");
                to.send_data(Bytes::new(), true).unwrap();
                is_end(from.data().await);
            }
        });
        assert_eq!((strong.requests().len(), weak.requests().len()), (8, 0));
        let log = gateway.read_until("logs/access.log", "HTTP/2.0");
        let line = log.lines().find(|line| line.contains(" 101 ")).unwrap();
        let (_, times) = line.split_once(&format!("127.0.0.1:{} 101 ", strong.port)).unwrap();
        assert!(times.starts_with("0."), "how long the upstream served: {line}");
    });
}

/// All that comes from it counts, the head that switches and what follows at once with it.
#[test]
fn what_a_tunnel_brings_its_upstream_has_sent() {
    on_both_drivers(|driver| {
        let upstream = echo();
        let gateway = Setup::new(driver, Source::Yaml(routes(upstream.port, "")))
            .http("access_log_format: \"$status from $upstream_bytes_received in $upstream_response_time.\"")
            .start();
        let mut client = gateway.connect();
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!(client.response().status, 101);
        assert_eq!(client.bytes(5), b"first");
        assert_eq!(client.send("and more").bytes(8), b"and more");
        client.shut();
        client.closed();
        let bytes = SWITCHING.len() + "firstand more".len();
        gateway.read_until("logs/access.log", &format!("101 from {bytes} in 0."));
    });
}

#[test]
fn a_success_without_a_switch_is_none() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let status = request.header("x-status").unwrap_or("200 OK").to_owned();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
                if conn.send(answer).is_err() {
                    return;
                }
            }
        });
        let gateway = Gateway::with_yaml(driver, &routes(upstream.port, ""));
        with_client(gateway.port(), async |client| {
            let (head, _, _) = open(&client, "/ws", "websocket").await.unwrap();
            assert_eq!(head.status, StatusCode::BAD_GATEWAY);
        });
        // over HTTP/1.1 it is what it says
        let mut client = gateway.connect();
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!(client.response().status, 200);
    });
}

#[test]
fn nobody_switches_unasked() {
    on_both_drivers(|driver| {
        let upstream = Upstream::switching();
        let gateway = Gateway::with_yaml(driver, &routes(upstream.port, ""));
        assert_eq!(gateway.get("/ws").status, 502);
        with_client(gateway.port(), async |client| {
            let head = Head::builder().uri("http://gate.test/ws").body(()).unwrap();
            let (answer, _) = client.clone().ready().await.unwrap().send_request(head, true).unwrap();
            assert_eq!(answer.await.unwrap().status(), StatusCode::BAD_GATEWAY);
        });
    });
}

#[test]
fn who_reads_slowly_slows_the_other_end() {
    const BYTES: usize = 24 << 20;
    on_both_drivers(|driver| {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let upstream = Upstream::start(move |conn| {
            conn.head();
            let _ = conn.send(SWITCHING);
            let piece = vec![b'x'; 64 << 10];
            for _ in 0..BYTES / piece.len() {
                if conn.send(&piece).is_err() {
                    return;
                }
                counter.fetch_add(piece.len(), Ordering::AcqRel);
            }
        });
        let gateway = Gateway::with_yaml(driver, &routes(upstream.port, ""));
        let before = gateway.peak_kib();
        with_client(gateway.port(), async |client| {
            let (_, mut from, _to) = open(&client, "/ws", "websocket").await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let far = sent.load(Ordering::Acquire);
            assert!(far < BYTES, "the upstream waits, it has sent {far} bytes");
            assert_eq!(bytes(&mut from, BYTES).await.len(), BYTES);
        });
        let grown = gateway.peak_kib() - before;
        assert!(grown < 8 << 10, "{grown} KiB");
    });
}

#[test]
fn an_upstream_that_reads_slowly_slows_its_client() {
    const BYTES: usize = 24 << 20;
    on_both_drivers(|driver| {
        let gate = Gate::default();
        let reads = gate.clone();
        let upstream = Upstream::start(move |conn| {
            conn.head();
            let _ = conn.send(SWITCHING);
            reads.pass();
            if !conn.skip(BYTES) {
                return;
            }
            let _ = conn.send("all");
        });
        let gateway = Gateway::with_yaml(driver, &routes(upstream.port, ""));
        let before = gateway.peak_kib();
        with_client(gateway.port(), async |client| {
            let (_, mut from, mut to) = open(&client, "/ws", "websocket").await.unwrap();
            let piece = Bytes::from(vec![b'x'; 64 << 10]);
            let mut sent = 0;
            let mut stuck = false;
            while sent < BYTES {
                to.reserve_capacity(piece.len());
                let room = std::future::poll_fn(|cx| to.poll_capacity(cx));
                match tokio::time::timeout(Duration::from_millis(500), room).await {
                    Err(_) => {
                        assert!(!stuck, "it goes on when the upstream reads");
                        stuck = true;
                        gate.open();
                    }
                    Ok(room) => {
                        let take = room.unwrap().unwrap().min(piece.len()).min(BYTES - sent);
                        to.send_data(piece.slice(..take), false).unwrap();
                        sent += take;
                    }
                }
            }
            assert!(stuck, "{BYTES} bytes went to an upstream that reads none");
            assert_eq!(bytes(&mut from, 3).await, b"all");
        });
        let grown = gateway.peak_kib() - before;
        assert!(grown < 8 << 10, "{grown} KiB");
    });
}

#[test]
fn the_end_of_either_side_reaches_the_other() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            let Some(request) = conn.head() else { return };
            let _ = conn.send(SWITCHING);
            let mut piece = [0; 100];
            match conn.stream.read(&mut piece) {
                Ok(0) | Err(_) => conn.remember(&request), // the client is gone
                Ok(_) => {}
            }
        });
        let gateway =
            Gateway::with_yaml(driver, &routes(upstream.port, ", timeout: {connect: 5, send: 5, read: 1}"));
        with_client(gateway.port(), async |client| {
            let (_, _, mut to) = open(&client, "/ws", "websocket").await.unwrap();
            to.send_reset(Reason::CANCEL);
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(upstream.requests().len(), 1, "a reset closes the upstream's connection");
            let (_, mut from, mut to) = open(&client, "/ws", "websocket").await.unwrap();
            to.send_data(Bytes::from_static(b"end"), false).unwrap();
            is_end(from.data().await); // the upstream has closed
            let ended = std::future::poll_fn(|cx| to.poll_reset(cx)).await.unwrap();
            assert_eq!(ended, Reason::CANCEL, "a client that does not close has its time");
            let (_, mut from, _to) = open(&client, "/ws", "websocket").await.unwrap();
            let silent = from.data().await.unwrap().unwrap_err();
            assert_eq!(silent.reason(), Some(Reason::CANCEL), "nothing came either way for the read timeout");
        });
    });
}

#[test]
fn a_drained_gateway_lets_its_tunnels_end() {
    on_both_drivers(|driver| {
        let upstream = echo();
        let source = Source::Yaml(routes(upstream.port, ""));
        let mut gateway = Setup::new(driver, source).start();
        let port = gateway.port();
        let (opened, wait) = mpsc::channel();
        let (go, drained) = mpsc::channel::<()>();
        let talk = thread::spawn(move || {
            with_client(port, async |client| {
                let (_, mut from, mut to) = open(&client, "/ws", "websocket").await.unwrap();
                bytes(&mut from, 5).await;
                opened.send(()).unwrap();
                drained.recv().unwrap(); // nothing else runs on this runtime
                to.send_data(Bytes::from_static(b"late"), false).unwrap();
                assert_eq!(bytes(&mut from, 4).await, b"late");
                to.send_data(Bytes::new(), true).unwrap();
                is_end(from.data().await);
            })
        });
        let mut client = gateway.connect();
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!(client.response().status, 101);
        assert_eq!(client.bytes(5), b"first");
        wait.recv().unwrap();
        gateway.signal("QUIT");
        eventually("no new connections", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        client.send("late");
        assert_eq!(client.bytes(4), b"late");
        go.send(()).unwrap();
        talk.join().unwrap();
        assert!(gateway.is_running(), "one tunnel is left");
        client.shut();
        assert!(gateway.wait(PATIENCE).success());
    });
}

#[test]
fn a_tunnel_that_stays_is_cut_when_the_drain_is_over() {
    on_both_drivers(|driver| {
        let upstream = echo();
        let source = Source::Yaml(routes(upstream.port, ""));
        let mut gateway = Setup::new(driver, source).nginx("worker_shutdown_timeout: 1s").start();
        let port = gateway.port();
        let (opened, wait) = mpsc::channel();
        let stays = thread::spawn(move || {
            with_client(port, async |client| {
                let (_, mut from, _to) = open(&client, "/ws", "websocket").await.unwrap();
                bytes(&mut from, 5).await;
                opened.send(()).unwrap();
                // nobody may take what it got for all there was
                assert!(from.data().await.is_some_and(|piece| piece.is_err()));
            })
        });
        let mut client = gateway.connect();
        client.send("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!(client.response().status, 101);
        wait.recv().unwrap();
        gateway.signal("QUIT");
        assert!(gateway.wait(PATIENCE).success());
        stays.join().unwrap();
    });
}
