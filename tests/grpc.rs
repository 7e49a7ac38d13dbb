//! gRPC, by the client and server of grpcio: all kinds of call, to upstreams with and without TLS. And what a server may do to the
//! connection that the calls of many clients share.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use bytes::Bytes;
use common::frames::{DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame};
use common::*;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, StatusCode};

/// The calls of `grpc_calls.py` over an upstream of `scheme`; `tls` is the upstream's option, `server` what the server is
/// given of certificates.
fn calls(driver: &'static str, scheme: &str, tls: &str, server: &[&dyn ToString]) {
    let port = free_port();
    let objects = format!(
        "routes:\n- id: 1\n  uri: /test.Calls/*\n  \
         upstream: {{type: roundrobin, scheme: {scheme}{tls}, nodes: {{\"127.0.0.1:{port}\": 1}}}}\n\
         - {{id: 2, uri: /test.Refused/*, plugins: {{ip-restriction: {{blacklist: [127.0.0.1]}}}}, upstream_id: 1}}\n\
         upstreams:\n- {{id: 1, scheme: {scheme}, nodes: {{\"127.0.0.1:{port}\": 1}}}}"
    );
    let gateway = Gateway::with_yaml(driver, &objects);
    let mut arguments: Vec<&dyn ToString> = vec![&gateway.ports.port, &port];
    arguments.extend(server);
    python("grpc_calls.py", &arguments);
}

#[test]
fn calls_of_all_kinds() {
    on_both_drivers(|driver| calls(driver, "grpc", "", &[]));
}

#[test]
fn calls_of_all_kinds_over_tls() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("grpcs-{driver}"));
        pki.make("server", "ec", "DNS:localhost", None);
        calls(driver, "grpcs", "", &[&pki.path("server.pem"), &pki.path("server.key")]);
    });
}

#[test]
fn an_upstream_may_want_to_know_who_calls() {
    on_both_drivers(|driver| {
        let pki = Pki::new(&format!("grpcs-client-{driver}"));
        pki.make("server", "ec", "DNS:localhost", None);
        pki.make("ca", "ec", "DNS:ca", None).make("client", "ec", "DNS:client", Some("ca"));
        let (cert, key) = (pki.read("client.pem"), pki.read("client.key"));
        let tls = format!(", tls: {{client_cert: {cert:?}, client_key: {key:?}}}");
        let server: [&dyn ToString; 3] =
            [&pki.path("server.pem"), &pki.path("server.key"), &pki.path("ca.pem")];
        calls(driver, "grpcs", &tls, &server);
    });
}

#[test]
fn grpcurl_learns_services_by_reflection() {
    let grpcurl = concat!(env!("CARGO_TARGET_TMPDIR"), "/bin/grpcurl");
    if !std::path::Path::new(grpcurl).exists() {
        println!("not run: tests/run builds grpcurl where there is a Go compiler");
        return;
    }
    on_both_drivers(|driver| {
        let port = free_port();
        let upstream = format!("{{type: roundrobin, scheme: grpc, nodes: {{\"127.0.0.1:{port}\": 1}}}}");
        let gateway = Gateway::with_yaml(driver, &format!("routes:\n- uri: /*\n  upstream: {upstream}"));
        python("grpcurl_calls.py", &[&grpcurl, &gateway.ports.port, &port]);
    });
}

/// One core, so that all calls share its connections; everything goes to one server.
fn one_core(driver: &'static str, upstream: u16) -> Gateway {
    let objects = format!(
        "routes:\n- uri: /*\n  \
         upstream: {{type: roundrobin, scheme: grpc, nodes: {{\"127.0.0.1:{upstream}\": 1}}}}"
    );
    Setup::new(driver, Source::Yaml(objects)).workers(1).start()
}

/// Runs `work` with a connection of its own, which ends with it.
fn with_client<T>(port: u16, window: u32, work: impl AsyncFnOnce(SendRequest<Bytes>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut builder = h2::client::Builder::new();
        let (client, connection) =
            builder.initial_window_size(window).handshake::<_, Bytes>(tcp).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        tokio::time::timeout(PATIENCE, work(client)).await.expect("an end within patience")
    })
}

const WINDOW: u32 = 65_535;

async fn begin(client: &SendRequest<Bytes>) -> (ResponseFuture, SendStream<Bytes>) {
    let head =
        http::Request::post("http://gate.test/test.Calls/any").header("content-type", "application/grpc");
    let mut client = client.clone().ready().await.unwrap();
    client.send_request(head.body(()).unwrap(), false).unwrap()
}

/// An answer to its end: its status, body and the status of the call.
async fn read(answer: ResponseFuture) -> (StatusCode, Vec<u8>, String) {
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.unwrap();
    let status = |fields: &HeaderMap| Some(fields.get("grpc-status")?.to_str().unwrap().to_string());
    let status = trailers.as_ref().and_then(status).or_else(|| status(&head.headers));
    (head.status, bytes, status.unwrap_or_default())
}

async fn call(client: &SendRequest<Bytes>, body: &'static [u8]) -> (StatusCode, Vec<u8>, String) {
    let (answer, mut stream) = begin(client).await;
    stream.send_data(Bytes::from_static(body), true).unwrap();
    read(answer).await
}

fn good(body: &[u8]) -> (StatusCode, Vec<u8>, String) {
    (StatusCode::OK, body.to_vec(), "0".into())
}

/// So many small messages of an answer, whatever becomes of them.
fn small_messages(stream: u32, messages: usize) -> Vec<u8> {
    frame(DATA, 0, stream, &[7; 105]).repeat(messages)
}

#[test]
fn clients_that_leave_harm_no_other_call() {
    on_both_drivers(|driver| {
        const LEAVE: usize = 300;
        let opened = Arc::new(AtomicUsize::new(0));
        let counted = opened.clone();
        let upstream = Upstream::start(move |conn| {
            let Some(mut server) = Frames::accept(conn) else { return };
            let (mut stays, mut resets) = (None, 0);
            while let Some(frame) = server.next() {
                match frame.kind {
                    HEADERS if conn.number > 0 => drop(server.answer(frame.stream, b"fresh")),
                    HEADERS => {
                        opened.fetch_add(1, Ordering::AcqRel);
                        let first = *stays.get_or_insert(frame.stream);
                        let _ = first == frame.stream || server.head(frame.stream);
                    }
                    RST_STREAM => {
                        // what was on its way when the client left
                        server.send(&small_messages(frame.stream, 25));
                        resets += 1;
                        if resets == LEAVE {
                            server.answer(stays.unwrap(), b"stayed");
                        }
                    }
                    _ => {}
                }
            }
        });
        let gateway = one_core(driver, upstream.port);
        let port = gateway.port();
        let stays =
            thread::spawn(move || with_client(port, WINDOW, async |client| call(&client, b"x").await));
        eventually("the first call", || counted.load(Ordering::Acquire) == 1);
        for _ in 0..LEAVE / 100 {
            with_client(port, WINDOW, async |client| {
                let mut calls = Vec::new();
                for _ in 0..100 {
                    calls.push(begin(&client).await);
                }
                for (answer, _) in &mut calls {
                    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
                }
            });
        }
        assert_eq!(stays.join().unwrap(), good(b"stayed"));
        // a connection on which so many calls were broken off gets no more
        assert_eq!(with_client(port, WINDOW, async |client| call(&client, b"x").await), good(b"fresh"));
        assert_eq!(upstream.connections(), 2);
    });
}

#[test]
fn small_messages_that_wait_for_a_slow_client_harm_no_other_call() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            let Some(mut server) = Frames::accept(conn) else { return };
            while let Some(frame) = server.next() {
                match (frame.kind, frame.stream) {
                    (HEADERS, 1..=5) => {
                        server.head(frame.stream);
                        server.send(&small_messages(frame.stream, 2_400));
                    }
                    (HEADERS, stream) => drop(server.answer(stream, b"quick")),
                    _ => {}
                }
            }
        });
        let gateway = one_core(driver, upstream.port);
        with_client(gateway.port(), 1, async |slow| {
            let mut calls = Vec::new();
            for _ in 0..3 {
                let (mut answer, stream) = begin(&slow).await;
                let head = (&mut answer).await.unwrap();
                assert_eq!(head.status(), StatusCode::OK);
                calls.push((head, stream));
            }
            let quick = || with_client(gateway.port(), WINDOW, async |client| call(&client, b"x").await);
            let quick = thread::scope(|scope| scope.spawn(quick).join().unwrap());
            assert_eq!(quick, good(b"quick"));
        });
        assert_eq!(upstream.connections(), 1);
    });
}

#[test]
fn small_messages_that_wait_for_a_slow_server_harm_no_other_call() {
    on_both_drivers(|driver| {
        // it gives no window: what it has taken of one call is all that it takes
        let upstream = Upstream::start(|conn| {
            let Some(mut server) = Frames::accept(conn) else { return };
            while let Some(frame) = server.next() {
                if frame.kind == HEADERS && frame.ends() {
                    server.answer(frame.stream, b"quick");
                }
            }
        });
        let gateway = one_core(driver, upstream.port);
        let mut client = gateway.connect();
        client.send(frames::PREFACE);
        client.send(frame(SETTINGS, 0, 0, &[]));
        // windows are as large as its settings say from when they are acknowledged
        let settings = client.bytes(9);
        assert_eq!(settings[3], SETTINGS);
        client.bytes(usize::from(settings[2]));
        client.send(frame(SETTINGS, 1, 0, &[]));
        // POST, http, /, and `a` as the authority
        let head = &[0x83, 0x86, 0x84, 0x41, 0x01, b'a'];
        for stream in [1, 3, 5, 7] {
            client.send(frame(HEADERS, END_HEADERS, stream, head));
            client.send(small_messages(stream, 2_450));
        }
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 9, head));
        loop {
            let head = client.bytes(9);
            client.bytes(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize);
            assert_ne!(head[3], GOAWAY, "the connection goes on");
            if head[3] == DATA && head[8] == 9 {
                break;
            }
        }
    });
}

/// Answers each call with its own body.
fn serve(server: &mut Frames, bodies: &mut HashMap<u32, Vec<u8>>, frame: &frames::Frame) {
    let body = bodies.entry(frame.stream).or_default();
    if frame.kind == DATA {
        body.extend_from_slice(&frame.payload);
    }
    if frame.ends() {
        server.answer(frame.stream, body);
    }
}

#[test]
fn a_server_that_goes_away_with_calls_under_way_loses_none() {
    on_both_drivers(|driver| {
        const CALLS: usize = 8;
        let gone = Arc::new(AtomicBool::new(false));
        let said = gone.clone();
        let upstream = Upstream::start(move |conn| {
            let Some(mut server) = Frames::accept(conn) else { return };
            let (mut begun, mut bodies) = (0, HashMap::new());
            while let Some(frame) = server.next() {
                begun += usize::from(frame.kind == HEADERS);
                match conn.number {
                    // all of them have begun, half of them with half a body
                    0 if begun == CALLS && !gone.load(Ordering::Acquire) => {
                        server.go_away(0, 0);
                        gone.store(true, Ordering::Release);
                    }
                    0 => {}
                    // three are refused
                    1 if begun <= 3 => {
                        if frame.kind == HEADERS {
                            let refused = u32::from(Reason::REFUSED_STREAM).to_be_bytes();
                            server.send(&frames::frame(RST_STREAM, 0, frame.stream, &refused));
                        }
                    }
                    // the next connection is given up at once, and closed
                    2 => {
                        server.go_away(0, Reason::ENHANCE_YOUR_CALM.into());
                        return;
                    }
                    _ => serve(&mut server, &mut bodies, &frame),
                }
            }
        });
        let gateway = one_core(driver, upstream.port);
        with_client(gateway.port(), WINDOW, async |client| {
            let mut calls = Vec::new();
            for n in 0..CALLS {
                let (answer, mut stream) = begin(&client).await;
                let half = vec![n as u8; 500];
                stream.send_data(half.into(), n % 2 == 0).unwrap();
                calls.push((answer, stream));
            }
            while !said.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
            for (n, (_, stream)) in calls.iter_mut().enumerate().filter(|(n, _)| n % 2 == 1) {
                stream.send_data(vec![n as u8; 500].into(), true).unwrap();
            }
            for (n, (answer, _)) in calls.into_iter().enumerate() {
                let size = if n % 2 == 0 { 500 } else { 1000 };
                assert_eq!(read(answer).await, good(&vec![n as u8; size]), "call {n}");
            }
        });
        assert!(upstream.connections() > 3, "each way to go away was met");
    });
}

#[test]
fn a_server_that_refuses_all_is_given_up() {
    on_both_drivers(|driver| {
        let refused = Arc::new(AtomicUsize::new(0));
        let counted = refused.clone();
        let upstream = Upstream::start(move |conn| {
            let Some(mut server) = Frames::accept(conn) else { return };
            while let Some(frame) = server.next() {
                if frame.kind == HEADERS {
                    refused.fetch_add(1, Ordering::AcqRel);
                    let reason = u32::from(Reason::REFUSED_STREAM).to_be_bytes();
                    server.send(&frames::frame(RST_STREAM, 0, frame.stream, &reason));
                }
            }
        });
        let gateway = one_core(driver, upstream.port);
        let (_, _, status) = with_client(gateway.port(), WINDOW, async |client| call(&client, b"x").await);
        assert_eq!(status, "14", "UNAVAILABLE");
        assert_eq!(counted.load(Ordering::Acquire), 6, "once, and five more");
    });
}

#[test]
fn interim_answers_are_passed_over() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            let Some(mut server) = Frames::accept(conn) else { return };
            let interim = |status: &str, flags, stream| {
                let status = [b"\x08\x03", status.as_bytes()].concat();
                frame(HEADERS, END_HEADERS | flags, stream, &status)
            };
            while let Some(frame) = server.next() {
                match (frame.kind, frame.stream) {
                    // one that is the end of its stream is no answer
                    (HEADERS, 5) => drop(server.send(&interim("103", END_STREAM, 5))),
                    // while the request is still on its way, in one piece and in many
                    (HEADERS, stream) => {
                        let many = [interim("100", 0, stream), interim("103", 0, stream)].concat();
                        server.send(&many.repeat(50));
                    }
                    (DATA, stream) if frame.ends() => {
                        server.send(&interim("103", 0, stream));
                        server.answer(stream, b"final");
                    }
                    _ => {}
                }
            }
        });
        let gateway = one_core(driver, upstream.port);
        with_client(gateway.port(), WINDOW, async |client| {
            for _ in 0..2 {
                assert_eq!(call(&client, b"x").await, good(b"final"));
            }
            let (_, _, status) = call(&client, b"x").await;
            assert_eq!(status, "14", "UNAVAILABLE");
            assert_eq!(call(&client, b"x").await, good(b"final"));
        });
        assert_eq!(upstream.connections(), 1);
    });
}

/// A server that tells which trailer fields a request had, and answers with some.
fn with_trailers() -> (u16, Receiver<HeaderMap>) {
    let (told, heard) = channel();
    let port = h2_server(move |request, mut respond| {
        let told = told.clone();
        async move {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            let mut body = request.into_body();
            while body.data().await.is_some() {}
            told.send(body.trailers().await.unwrap().unwrap_or_default()).unwrap();
            stream.send_data(Bytes::from_static(b"y"), false).unwrap();
            stream.send_trailers(all(&["x-leak", "x-sum"])).unwrap();
        }
    });
    (port, heard)
}

/// A server of one connection, for as long as the test runs; its port.
fn h2_server<F: Future<Output = ()> + Send + 'static>(
    answer: impl Fn(http::Request<h2::RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async move |tcp| {
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(answer(request, respond));
        }
    };
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            serve(listener.accept().await.unwrap().0).await;
        });
    });
    port
}

/// APISIX has an empty `grpc_set_header` then, which sends nothing (ngx_tpl.lua).
#[test]
fn a_request_without_a_host_has_no_authority() {
    on_both_drivers(|driver| {
        let upstream = h2_server(|request, mut respond| async move {
            let uri = Bytes::from(request.uri().to_string());
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(uri, true).unwrap();
        });
        let gateway = one_core(driver, upstream);
        let seen = |request: &str| {
            let answer = ask(gateway.port(), request.as_bytes());
            (answer.status, answer.text().to_string())
        };
        let good = |uri: &str| (200, uri.to_string());
        assert_eq!(seen("GET /a HTTP/1.0\r\nHost: a.test\r\n\r\n"), good("http://a.test/a"));
        assert_eq!(seen("GET /a HTTP/1.0\r\n\r\n"), good("/a"));
        assert_eq!(seen("POST /a HTTP/1.0\r\nContent-Length: 1\r\n\r\nx"), good("/a"));
    });
}

/// What the gateway itself refuses has a status of gRPC beside that of HTTP, and no body: clients of gRPC look at no
/// other. What an upstream says is its own word.
#[test]
fn a_refusal_has_a_status_of_grpc() {
    on_both_drivers(|driver| {
        let own = Upstream::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nown");
        let codes = [(400, "13"), (401, "16"), (403, "7"), (404, "12"), (418, "2"), (429, "14")];
        let codes = [&codes[..], &[(500, "2"), (502, "14"), (503, "14"), (504, "14")]].concat();
        let mut objects =
            format!("routes:\n- {{uri: /own, upstream: {{nodes: {{\"127.0.0.1:{}\": 1}}}}}}\n", own.port);
        for (status, _) in &codes {
            objects += &format!(
                "- {{uri: /{status}, plugins: {{fault-injection: {{abort: {{http_status: {status}, body: told}}}}}}}}\n"
            );
        }
        let gateway = Gateway::with_yaml(driver, &objects);
        let head = |version: &str, kind: &str, target: &str| {
            let url = format!("http://127.0.0.1:{}{target}", gateway.port());
            let kind = format!("Content-Type: {kind}");
            // without a body: curl 7.88 forgets an answer when what it still sends is declined
            let args = ["-s", "-m", "10", version, "-H", &kind, "-X", "POST", "-D", "-", &url];
            let output = std::process::Command::new("curl").args(args).output().unwrap();
            String::from_utf8_lossy(&output.stdout).to_lowercase()
        };
        let h2 = "--http2-prior-knowledge";
        for (status, code) in &codes {
            let told = head(h2, "application/grpc+proto", &format!("/{status}"));
            assert!(told.starts_with(&format!("http/2 {status}")), "{told}");
            for field in [
                format!("\r\ngrpc-status: {code}\r\n"),
                format!("\r\ngrpc-message: http status {status}\r\n"),
                "\r\ncontent-type: application/grpc\r\n".to_string(),
            ] {
                assert!(told.contains(&field), "{field:?} in {told}");
            }
            assert!(told.ends_with("\r\n\r\n") && !told.contains("content-length"), "no body: {told}");
        }
        for (version, kind, target) in [
            ("--http1.1", "application/grpc", "/403"),
            (h2, "application/json", "/403"),
            (h2, "application/grpc", "/own"),
        ] {
            let told = head(version, kind, target);
            assert!(!told.contains("grpc-status"), "{version} {kind} {target}: {told}");
        }
        assert!(head(h2, "application/grpc", "/own").ends_with("own"));
    });
}

/// These fields.
fn all(names: &[&'static str]) -> HeaderMap {
    names.iter().map(|name| (http::HeaderName::from_static(name), "1".parse().unwrap())).collect()
}

#[test]
fn trailers_of_names_that_plugins_removed_stay_behind() {
    on_both_drivers(|driver| {
        let (upstream, heard) = with_trailers();
        let objects = format!(
            "routes:\n- uri: /*\n  plugins:\n    \
             proxy-rewrite: {{headers: {{remove: [X-Secret], set: {{X-User: me}}}}}}\n    \
             response-rewrite: {{headers: {{remove: [X-Leak]}}}}\n  \
             upstream: {{type: roundrobin, scheme: grpc, nodes: {{\"127.0.0.1:{upstream}\": 1}}}}"
        );
        let gateway = Setup::new(driver, Source::Yaml(objects)).workers(1).start();
        with_client(gateway.port(), WINDOW, async |client| {
            for streams in [false, true] {
                let (mut answer, mut stream) = begin(&client).await;
                stream.send_data(Bytes::from_static(b"x"), false).unwrap();
                let mut head = None;
                if streams {
                    head = Some((&mut answer).await.unwrap());
                }
                stream.send_trailers(all(&["x-secret", "x-user", "x-real-ip", "x-up"])).unwrap();
                let mut body = match head {
                    Some(head) => head,
                    None => answer.await.unwrap(),
                }
                .into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), b"y"[..]);
                assert!(body.data().await.is_none());
                assert_eq!(body.trailers().await.unwrap().unwrap(), all(&["x-sum"]));
                assert_eq!(heard.recv().unwrap(), all(&["x-up"]), "streams: {streams}");
            }
        });
    });
}
