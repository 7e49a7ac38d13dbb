//! HTTP/2 as clients see it (RFC 9113): real clients, what a server can break, and floods.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use h2::client::SendRequest;
use http::{HeaderMap, Request as Head, Response as Answer, StatusCode};

fn request(method: &str, path: &str) -> http::request::Builder {
    Head::builder().method(method).uri(format!("http://gate.test{path}"))
}

/// Sends a request whose body is in pieces, and reads the answer to its end.
async fn ask(
    client: &SendRequest<Bytes>,
    head: Head<()>,
    pieces: &[&[u8]],
    trailers: Option<HeaderMap>,
) -> Result<(Answer<()>, Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut client = client.clone().ready().await?;
    let (answer, mut stream) = client.send_request(head, pieces.is_empty() && trailers.is_none())?;
    for (n, piece) in pieces.iter().enumerate() {
        let last = n + 1 == pieces.len() && trailers.is_none();
        stream.send_data(Bytes::copy_from_slice(piece), last)?;
    }
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers)?;
    }
    let (head, mut body) = answer.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?;
    Ok((Answer::from_parts(head, ()), bytes, trailers))
}

#[test]
fn curl_by_prior_knowledge() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let url = format!("http://127.0.0.1:{}/p?q=1", gateway.port());
        let body = "z".repeat(300_000);
        let send = |more: &[&str]| {
            let out = Command::new("curl")
                .args([
                    "-sS",
                    "--http2-prior-knowledge",
                    "-m",
                    "10",
                    "-w",
                    "\n%{http_version} %{http_code}",
                    &url,
                ])
                .args(more)
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        let got = send(&["-H", "Cookie: a=1"]);
        assert!(got.starts_with("GET /p?q=1 HTTP/1.1\r\n") && got.ends_with("\n2 200"), "{got}");
        let file = gateway.path("body");
        std::fs::write(&file, &body).unwrap();
        let data = format!("@{}", file.display());
        send(&["--data-binary", &data, "-H", "Expect: 100-continue"]);
        assert_eq!(upstream.last().body, body.as_bytes());
        assert_eq!(upstream.last().header("content-length"), Some("300000"));
        let head = send(&["-I"]);
        assert!(head.starts_with("HTTP/2 200") && head.ends_with("2 200"), "{head}");
        // beside it HTTP/1.1 is what it was
        assert_eq!(gateway.get("/").status, 200);
    });
}

#[test]
fn nghttp_and_h2load() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering(ok("served"));
        let gateway = Gateway::to(driver, upstream.port);
        let url = format!("http://127.0.0.1:{}/", gateway.port());
        let out = Command::new("nghttp").args(["-v", "-m", "20", &url]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert_eq!(text.matches(":status: 200").count(), 20, "{text}");
        let out = Command::new("h2load").args(["-n", "1500", "-c", "3", "-m", "50", &url]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("1500 succeeded, 0 failed"), "{text}");
        let metrics = get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
        assert!(metrics.contains("http2_connections_total 4\n"), "{metrics}");
        assert!(metrics.contains("http2_streams_total 1520\n"), "{metrics}");
        assert!(upstream.connections() < 200, "upstream connections are kept");
    });
}

#[test]
fn a_request_becomes_one_of_http_1() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        with_h2(gateway.port(), async |client| {
            let head = request("PUT", "/a/b?c=d")
                .header("cookie", "a=1")
                .header("x-order", "1")
                .header("cookie", "b=2")
                .header("te", "trailers")
                .body(())
                .unwrap();
            let (answer, _, _) = ask(&client, head, &[b"hel", b"lo"], None).await.unwrap();
            assert_eq!((answer.status(), answer.version()), (StatusCode::OK, http::Version::HTTP_2));
            assert!(answer.headers().get("connection").is_none());
            assert!(answer.headers().get("transfer-encoding").is_none());
        });
        let seen = upstream.last();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("PUT", "/a/b?c=d"));
        assert_eq!(seen.header("host"), Some("gate.test"));
        assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
        assert_eq!(seen.header("te"), None);
        assert_eq!(seen.body, b"hello");
    });
}

#[test]
fn trailers_pass_both_ways() {
    on_both_drivers(|driver| {
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n";
        let upstream = Upstream::start(move |conn| {
            while let Some(request) = conn.request() {
                conn.remember(&request);
                if conn.send(chunked).is_err() {
                    return;
                }
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        with_h2(gateway.port(), async |client| {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-up", "1".parse().unwrap());
            let head = request("POST", "/").body(()).unwrap();
            let (_, body, trailers) = ask(&client, head, &[b"x"], Some(trailers)).await.unwrap();
            assert_eq!(body, b"abc");
            assert_eq!(trailers.unwrap().get("x-sum").unwrap(), "9");
        });
        assert_eq!(upstream.last().body, b"x");
    });
}

#[test]
fn an_answer_that_breaks_off_is_never_whole() {
    on_both_drivers(|driver| {
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
        let upstream = Upstream::start(move |conn| {
            conn.request();
            let _ = conn.send(short);
            conn.close();
        });
        let gateway = Gateway::to(driver, upstream.port);
        with_h2(gateway.port(), async |client| {
            let head = request("GET", "/").body(()).unwrap();
            let error = ask(&client, head, &[], None).await.unwrap_err();
            assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
        });
    });
}

#[test]
fn a_slow_reader_slows_the_upstream_and_costs_little_memory() {
    on_both_drivers(|driver| {
        const BYTES: usize = 16 << 20;
        let upstream = Upstream::start(|conn| {
            conn.request();
            let _ = conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
            let piece = vec![b'x'; 64 << 10];
            for _ in 0..BYTES / piece.len() {
                if conn.send(&piece).is_err() {
                    return;
                }
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let before = gateway.peak_kib();
        with_h2(gateway.port(), async |client| {
            let mut client = client.ready().await.unwrap();
            let (answer, _) = client.send_request(request("GET", "/").body(()).unwrap(), true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut bytes = 0;
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                bytes += piece.len();
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
            assert_eq!(bytes, BYTES);
        });
        let grown = gateway.peak_kib() - before;
        assert!(grown < 8 << 10, "{grown} KiB for one answer of 16 MiB");
    });
}

#[test]
fn a_client_that_resets_its_stream_is_logged_and_its_upstream_released() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            let Some(request) = conn.request() else { return };
            conn.drain(); // until the gateway closes
            conn.remember(&request);
        });
        let gateway = Gateway::to(driver, upstream.port);
        with_h2(gateway.port(), async |client| {
            let mut client = client.ready().await.unwrap();
            let (answer, mut stream) =
                client.send_request(request("GET", "/gone").body(()).unwrap(), true).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.send_reset(h2::Reason::CANCEL);
            assert!(answer.await.is_err());
            tokio::time::sleep(Duration::from_millis(100)).await;
        });
        gateway.read_until("logs/access.log", " 499 ");
        upstream.wait_for(1);
    });
}

/// `$request_completion`
#[test]
fn a_request_whose_stream_is_reset_within_its_answer_is_not_complete() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
            let _ = conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            conn.drain();
        });
        let format = "access_log_format: '$status <$request_completion>'";
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port))).http(format).start();
        let mut raw = Raw::connect(gateway.port());
        raw.send(&frame(HEADERS, 5, 1, GET));
        while raw.next().expect("a frame before the end").0 != DATA {}
        raw.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
        gateway.read_until("logs/access.log", "200 <>\n");
    });
}

#[test]
fn a_drained_gateway_says_goodbye_and_finishes_what_it_has_begun() {
    on_both_drivers(|driver| {
        let (upstream, gate) = Upstream::held("late");
        let mut gateway = Gateway::to(driver, upstream.port);
        let port = gateway.port();
        let asked = thread::spawn(move || {
            with_h2(port, async |client| {
                let head = request("GET", "/").body(()).unwrap();
                ask(&client, head, &[], None).await.map(|(answer, body, _)| (answer.status(), body))
            })
        });
        let mut raw = Raw::connect(port);
        raw.send(&frame(HEADERS, 5, 1, GET));
        upstream.wait_for(2);
        gateway.signal("QUIT");
        let mut next = |kind| {
            let frame =
                std::iter::from_fn(|| raw.next()).find(|(k, ..)| matches!(*k, DATA | HEADERS | GOAWAY));
            let (is, _, payload) = frame.expect("a frame before the end");
            assert_eq!(is, kind, "{payload:?}");
            payload
        };
        next(GOAWAY);
        gate.open();
        next(HEADERS);
        assert_eq!(next(DATA), b"late");
        let (status, body) = asked.join().unwrap().unwrap();
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"late"[..]));
        assert!(gateway.wait(Duration::from_secs(8)).success());
    });
}

/// A reset would take the last frames of the gateway from a client that has not read them.
#[test]
fn a_client_that_says_goodbye_may_still_send() {
    on_both_drivers(|driver| {
        let gateway = idle(driver);
        let mut raw = Raw::connect(gateway.port());
        raw.is_well();
        raw.send(&frame(GOAWAY, 0, 0, &[0; 8]));
        while raw.next().is_some() {}
        for _ in 0..2 {
            raw.0.write_all(&frame(6, 0, 0, b"are you?")).expect("the gateway takes what comes late");
        }
        assert_eq!(raw.0.read(&mut [0; 1]).expect("no reset"), 0);
    });
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET http://a/`, as indexed fields and one literal.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A connection whose frames are in the test's hands.
struct Raw(TcpStream);

impl Raw {
    fn connect(port: u16) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Raw(stream);
        raw.send(&[PREFACE, &frame(4, 0, 0, &[])].concat());
        raw
    }

    /// A peer that has closed may refuse it.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Kind, stream and payload of the next frame; `None` at the end.
    fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// The error code of the GOAWAY that ends the connection.
    #[track_caller]
    fn goaway(&mut self) -> u32 {
        loop {
            let (kind, _, payload) = self.next().expect("GOAWAY before the end");
            if kind == GOAWAY && payload[..4] != [0x7f, 0xff, 0xff, 0xff] {
                return u32::from_be_bytes(payload[4..8].try_into().unwrap());
            }
        }
    }

    /// The error code of the RST_STREAM of a stream.
    #[track_caller]
    fn reset_of(&mut self, stream: u32) -> u32 {
        loop {
            let (kind, of, payload) = self.next().expect("RST_STREAM before the end");
            assert!(kind != GOAWAY, "the connection ends: {payload:?}");
            if kind == RST_STREAM && of == stream {
                return u32::from_be_bytes(payload[..4].try_into().unwrap());
            }
        }
    }

    /// The error code of what ends a stream or the connection.
    #[track_caller]
    fn refused(&mut self, stream: u32) -> u32 {
        loop {
            let (kind, of, payload) = self.next().expect("a reason before the end");
            if kind == GOAWAY || (kind == RST_STREAM && of == stream) {
                return u32::from_be_bytes(payload[payload.len().min(8) - 4..][..4].try_into().unwrap());
            }
        }
    }

    /// The next head of an answer is there.
    #[track_caller]
    fn answered(&mut self, stream: u32) {
        while self.next().is_some_and(|(kind, of, _)| kind != HEADERS || of != stream) {}
    }
}

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// So many connections were closed for a flood: the goodbye may leave a moment before it is counted.
#[track_caller]
fn flooded(gateway: &Gateway, times: usize) {
    let counted = format!("apisix_http2_floods_total {times}\n");
    eventually(&counted, || {
        get(gateway.ports.metrics, "/apisix/prometheus/metrics").text().contains(&counted)
    });
}

#[test]
fn floods_end_their_connection_and_are_counted() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let floods: [(&str, Vec<u8>); 5] = [
            ("PING", frame(PING, 0, 0, &[0; 8]).repeat(1500)),
            ("SETTINGS", frame(4, 0, 0, &[]).repeat(1500)),
            ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 0, 1]).repeat(1500)),
            ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1]).repeat(1500)),
            ("unknown", frame(0xbb, 0, 0, &[]).repeat(1500)),
        ];
        for (n, (name, bytes)) in floods.iter().enumerate() {
            let mut raw = Raw::connect(gateway.port());
            raw.send(bytes);
            assert_eq!(raw.goaway(), ENHANCE_YOUR_CALM, "{name}");
            gateway.read_until("logs/error.log", &format!("a flood of {name}"));
            flooded(&gateway, n + 1);
        }
        assert_eq!(gateway.get("/").status, 200, "others are served");
    });
}

#[test]
fn header_floods_end_their_connection() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        // a block that never ends (CVE-2024-27316)
        let mut raw = Raw::connect(gateway.port());
        raw.send(&frame(HEADERS, 0, 1, GET));
        let piece = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x01][..], &[b'y'; 256]].concat();
        raw.send(&frame(9, 0, 1, &piece).repeat(2000));
        assert_eq!(raw.goaway(), ENHANCE_YOUR_CALM);
        // a bomb: one large field in the dynamic table, named again and again
        let mut raw = Raw::connect(gateway.port());
        let big = [&[0x40, 0x01, b'b', 0x7f, 0xe1, 0x1d][..], &[b'z'; 3936]].concat();
        let block = [GET, &big, &[0xbe; 12_000]].concat();
        raw.send(&frame(HEADERS, 5, 1, &block));
        assert_eq!(raw.goaway(), ENHANCE_YOUR_CALM);
        assert!(gateway.peak_kib() < 200 << 10, "{} KiB", gateway.peak_kib());
        flooded(&gateway, 2);
        assert_eq!(gateway.get("/").status, 200);
    });
}

/// Takes requests and answers none.
fn silent() -> Upstream {
    Upstream::start(|conn| {
        conn.request();
        conn.drain();
    })
}

/// More at one time than may be reset before their turn has come (CVE-2023-44487), fewer than may be reset at all.
#[test]
fn resets_that_come_with_their_requests_end_their_connection() {
    on_both_drivers(|driver| {
        let upstream = silent();
        let gateway = Gateway::to(driver, upstream.port);
        let mut raw = Raw::connect(gateway.port());
        let mut bytes = Vec::new();
        for n in 0..150 {
            bytes.extend(frame(HEADERS, 5, 2 * n + 1, GET));
            bytes.extend(frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]));
        }
        raw.send(&bytes);
        assert_eq!(raw.goaway(), ENHANCE_YOUR_CALM);
        flooded(&gateway, 1);
    });
}

/// Each is reset when its turn has come: the answer to a ping says so.
#[test]
fn resets_one_after_the_other_end_their_connection() {
    on_both_drivers(|driver| {
        let upstream = silent();
        let gateway = Gateway::to(driver, upstream.port);
        let mut raw = Raw::connect(gateway.port());
        for n in 0..201 {
            raw.send(&frame(HEADERS, 5, 2 * n + 1, GET));
            raw.send(&frame(PING, 0, 0, &[0; 8]));
            while raw.next().expect("it goes on so far").0 != PING {}
            raw.send(&frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]));
        }
        assert_eq!(raw.goaway(), ENHANCE_YOUR_CALM);
        flooded(&gateway, 1);
    });
}

#[test]
fn what_is_malformed_harms_its_stream_alone() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let field = |name: &str, value: &str| {
            let mut bytes = GET.to_vec();
            bytes.extend([0x00, name.len() as u8]);
            bytes.extend(name.as_bytes());
            bytes.push(value.len() as u8);
            bytes.extend(value.as_bytes());
            bytes
        };
        let malformed = [
            field("connection", "close"),
            field("transfer-encoding", "chunked"),
            field("keep-alive", "1"),
            field("upgrade", "h2c"),
            field("te", "gzip"),
            vec![0x82, 0x86, 0x41, 0x01, b'a'],
            vec![0x82, 0x84, 0x41, 0x01, b'a'],
            vec![0x86, 0x84, 0x41, 0x01, b'a'],
            vec![0x82, 0x82, 0x86, 0x84, 0x41, 0x01, b'a'],
        ];
        let mut raw = Raw::connect(gateway.port());
        let mut stream = 1;
        for block in malformed {
            raw.send(&frame(HEADERS, 5, stream, &block));
            assert_eq!(raw.reset_of(stream), PROTOCOL_ERROR, "{block:?}");
            stream += 2;
        }
        for block in [field("Upper", "x"), field(":late", "x")] {
            let mut other = Raw::connect(gateway.port());
            other.send(&frame(HEADERS, 5, 1, &block));
            assert_eq!(other.refused(1), PROTOCOL_ERROR, "its stream or its connection ends");
        }
        // a body that is not as long as it was said to be
        raw.send(&frame(HEADERS, 4, stream, &field("content-length", "5")));
        raw.send(&frame(0, 1, stream, b"abc"));
        assert_eq!(raw.reset_of(stream), PROTOCOL_ERROR);
        raw.send(&frame(HEADERS, 5, stream + 2, GET));
        raw.answered(stream + 2);
        assert!(upstream.requests().iter().all(|request| request.body.is_empty()));
    });
}

/// What ends a connection, with the error code that RFC 9113 names.
#[test]
fn what_breaks_a_connection_ends_it_with_its_reason() {
    const FLOW_CONTROL: u32 = 3;
    const STREAM_CLOSED: u32 = 5;
    const FRAME_SIZE: u32 = 6;
    const COMPRESSION: u32 = 9;
    // the h2 crate has no reason of their own for these
    let otherwise = [
        "5.1 DATA behind the end of a stream",
        "4.3 a block that cannot be read",
        "6.5.2 a window too large",
    ];
    let get = |stream| frame(HEADERS, 5, stream, GET);
    let setting = |id: u8, value: u32| frame(4, 0, 0, &[&[0, id][..], &value.to_be_bytes()].concat());
    let cases = [
        ("5.1 DATA on an idle stream", frame(0, 1, 1, b"x"), PROTOCOL_ERROR),
        ("5.1 RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL_ERROR),
        ("5.1 WINDOW_UPDATE on an idle stream", frame(8, 0, 1, &[0, 0, 0, 1]), PROTOCOL_ERROR),
        ("5.1 DATA behind the end of a stream", [get(1), frame(0, 1, 1, b"x")].concat(), STREAM_CLOSED),
        ("5.1.1 an even stream", get(2), PROTOCOL_ERROR),
        ("5.1.1 a stream below one before", [get(3), get(1)].concat(), PROTOCOL_ERROR),
        (
            "4.2 a frame too large",
            [frame(HEADERS, 4, 1, GET), frame(0, 0, 1, &[0; 16_385])].concat(),
            FRAME_SIZE,
        ),
        ("4.3 a block that cannot be read", frame(HEADERS, 5, 1, &[0xff, 0xff, 0xff, 0x0f]), COMPRESSION),
        ("6.1 DATA on the connection", frame(0, 0, 0, b"x"), PROTOCOL_ERROR),
        ("6.2 HEADERS on the connection", get(0), PROTOCOL_ERROR),
        (
            "6.2 padding as long as the frame",
            frame(HEADERS, 0xd, 1, &[&[200][..], GET].concat()),
            PROTOCOL_ERROR,
        ),
        (
            "6.2 another frame within a block",
            [frame(HEADERS, 1, 1, GET), frame(6, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        ("6.4 RST_STREAM on the connection", frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        ("6.5 SETTINGS on a stream", frame(4, 0, 1, &[]), PROTOCOL_ERROR),
        ("6.5 SETTINGS that agree to something", frame(4, 1, 0, &[0; 6]), FRAME_SIZE),
        ("6.5 half a setting", frame(4, 0, 0, &[0; 5]), FRAME_SIZE),
        ("6.5.2 ENABLE_PUSH of 2", setting(2, 2), PROTOCOL_ERROR),
        ("6.5.2 a window too large", setting(4, 1 << 31), FLOW_CONTROL),
        ("6.5.2 frames too small", setting(5, 16_383), PROTOCOL_ERROR),
        ("6.6 a client that pushes", frame(5, 4, 1, &[&[0, 0, 0, 2][..], GET].concat()), PROTOCOL_ERROR),
        ("6.7 PING of seven bytes", frame(6, 0, 0, &[0; 7]), FRAME_SIZE),
        ("6.7 PING on a stream", frame(6, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("6.9 WINDOW_UPDATE of nothing", frame(8, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        ("6.9 WINDOW_UPDATE of three bytes", frame(8, 0, 0, &[0; 3]), FRAME_SIZE),
        ("6.9.1 a window beyond its end", frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), FLOW_CONTROL),
        ("6.10 CONTINUATION of nothing", frame(9, 4, 1, GET), PROTOCOL_ERROR),
    ];
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
            conn.drain();
        });
        let gateway = Gateway::to(driver, upstream.port);
        let other = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
        let mut wrong = Vec::new();
        for (name, bytes, reason) in &cases {
            let mut raw = Raw::connect(gateway.port());
            raw.send(bytes);
            let got = raw.goaway();
            let expected = if otherwise.contains(name) { PROTOCOL_ERROR } else { *reason };
            if got != expected {
                wrong.push((name, got));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        let mut other = Raw(other);
        other.send(&[PREFACE, &frame(4, 0, 0, &[]), &frame(6, 0, 0, b"8 bytes.")].concat());
        while other.next().expect("others are served").0 != 6 {}
    });
}

#[test]
fn idle_connections_and_open_header_blocks_end_in_time() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .http("keepalive_timeout: 1s\nclient_header_timeout: 1s")
            .nginx("http_configuration_snippet: \"keepalive_requests 3;\"")
            .start();
        let mut raw = Raw::connect(gateway.port());
        raw.send(&frame(HEADERS, 5, 1, GET));
        raw.answered(1);
        assert_eq!(raw.goaway(), 0, "idle");
        let mut raw = Raw::connect(gateway.port());
        assert_eq!(raw.goaway(), 0, "no request at all");
        let mut raw = Raw::connect(gateway.port());
        raw.send(&frame(HEADERS, 1, 1, GET));
        assert_eq!(raw.goaway(), 0, "a block that does not end");
        with_h2(gateway.port(), async |client| {
            for n in 1.. {
                let asked = ask(&client, request("GET", "/").body(()).unwrap(), &[], None).await;
                if asked.is_err() {
                    assert!(n > 3, "keepalive_requests are served, {n}");
                    break;
                }
                assert!(n < 50, "it ends");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    });
}

/// A stream under way keeps its connection for as long as it takes, and the time for the next begins with its end.
#[test]
fn a_connection_with_a_stream_under_way_is_not_idle() {
    on_both_drivers(|driver| {
        let (upstream, gate) = Upstream::held("late");
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .http("keepalive_timeout: 1s\nclient_header_timeout: 1s")
            .start();
        let mut raw = Raw::connect(gateway.port());
        raw.send(&frame(HEADERS, 5, 1, GET));
        upstream.wait_for(1);
        std::thread::sleep(Duration::from_millis(1500)); // longer than an idle one may stay
        gate.open();
        let answered = |raw: &mut Raw, stream| {
            while let (kind, of, _) = raw.next().expect("it is answered")
                && (kind, of) != (HEADERS, stream)
            {
                assert_ne!(kind, GOAWAY);
            }
        };
        answered(&mut raw, 1);
        std::thread::sleep(Duration::from_millis(300));
        raw.send(&frame(HEADERS, 5, 3, GET));
        answered(&mut raw, 3);
    });
}

/// The conformance suite of others. Its one case that fails sends no preface on a port where HTTP/1.1 is spoken, too:
/// there that is a bad request of HTTP/1.1, and answered so before the connection ends (RFC 9113 section 3.4 allows to
/// leave out GOAWAY).
#[test]
fn h2spec_finds_nothing_else() {
    let h2spec = concat!(env!("CARGO_TARGET_TMPDIR"), "/bin/h2spec");
    if !std::path::Path::new(h2spec).exists() {
        println!("not run: tests/run builds h2spec where there is a Go compiler");
        return;
    }
    let pki = Pki::new("h2spec");
    pki.make("own", "ec", "DNS:h2.test", None);
    let (cert, key) = (pki.read("own.pem"), pki.read("own.key"));
    let upstream = Upstream::mirror();
    let objects = format!(
        "{}\nssls:\n- {{id: 1, snis: [h2.test], cert: {cert:?}, key: {key:?}}}",
        everything_to(upstream.port)
    );
    let listen = "ssl: {enable: true, fallback_sni: h2.test, listen: [{ip: 127.0.0.1, port: $PROXIED}]}\n";
    let gateway = Setup::new("auto", Source::Yaml(objects)).apisix(listen).start();
    let (port, tls_port) = (gateway.port().to_string(), gateway.ports.proxied.to_string());
    for (port, tls) in [(port, &[][..]), (tls_port, &["-t", "-k"])] {
        let report = gateway.path("h2spec.xml");
        let mut h2spec = Command::new(h2spec);
        h2spec.args(["-h", "127.0.0.1", "-p", &port, "-o", "3", "-j"]).arg(&report).args(tls);
        let out = h2spec.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let report = std::fs::read_to_string(report).unwrap();
        let cases: Vec<&str> = report.split("<testcase ").skip(1).collect();
        assert!(cases.len() > 140, "{text}");
        let attribute = |case: &str, name: &str| {
            let value = case.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
            value.unwrap_or_default().to_owned()
        };
        let failed = cases.iter().filter(|case| case.contains("<failure") || case.contains("<error"));
        let failed: Vec<String> =
            failed.map(|case| attribute(case, "package") + ": " + &attribute(case, "classname")).collect();
        assert_eq!(failed, ["http2/3.5: Sends invalid connection preface"], "{text}");
    }
}

#[test]
fn http_2_can_be_turned_off() {
    let upstream = Upstream::mirror();
    let source = Source::Yaml(everything_to(upstream.port));
    let gateway = Setup::new("auto", source).apisix("enable_http2: false").start();
    let mut client = gateway.connect();
    assert_eq!(client.send(PREFACE).response().status, 505);
}

/// Frames that were damaged in a way that a seed gives: the gateway may refuse them, and lives.
#[test]
fn damaged_frames_harm_no_other_connection() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        for seed in 0..150 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut bytes = [PREFACE, &frame(4, 0, 0, &[])].concat();
            for n in 0..20 {
                let payload: Vec<u8> = match rng.u8(..4) {
                    0 => GET.to_vec(),
                    _ => (0..rng.usize(..40)).map(|_| rng.u8(..)).collect(),
                };
                let stream = [0, 2 * n + 1, rng.u32(..9)][rng.usize(..3)];
                bytes.extend(frame(rng.u8(..11), rng.u8(..), stream, &payload));
            }
            for _ in 0..rng.usize(..3) {
                let at = rng.usize(PREFACE.len()..bytes.len());
                bytes[at] ^= 1 << rng.u8(..8);
            }
            bytes.truncate(rng.usize(PREFACE.len()..=bytes.len()));
            let mut stream = TcpStream::connect(("127.0.0.1", gateway.port())).unwrap();
            let _ = stream.write_all(&bytes);
        }
        assert_eq!(gateway.get("/").status, 200);
        let panics = gateway.logs().matches("panic").count();
        assert_eq!(panics, 0);
    });
}

/// A gateway that leaves each request alone for half a minute: it reads nothing of its body meanwhile.
fn idle(driver: &'static str) -> Gateway {
    let delay = "fault-injection: {delay: {duration: 30}}";
    Gateway::with_yaml(
        driver,
        &format!(
            "routes:\n- {{id: 1, uri: /*, plugins: {{{delay}}}, upstream: {{nodes: {{\"127.0.0.1:1\": 1}}}}}}"
        ),
    )
}

impl Raw {
    /// Everything sent before has been read, and nothing is wrong with it.
    #[track_caller]
    fn is_well(&mut self) {
        self.send(&frame(6, 0, 0, b"are you?"));
        loop {
            let (kind, _, payload) = self.next().expect("an answer to the ping");
            assert!(kind != GOAWAY && kind != RST_STREAM, "{kind} {payload:?}");
            if kind == 6 {
                return;
            }
        }
    }
}

#[test]
fn a_client_may_have_so_many_streams() {
    const REFUSED_STREAM: u32 = 7;
    on_both_drivers(|driver| {
        let gateway = idle(driver);
        let mut raw = Raw::connect(gateway.port());
        for n in 0..128 {
            raw.send(&frame(HEADERS, 5, 2 * n + 1, GET));
        }
        raw.is_well();
        raw.send(&frame(HEADERS, 5, 257, GET));
        assert_eq!(raw.reset_of(257), REFUSED_STREAM);
    });
}

#[test]
fn a_client_may_send_so_much_ahead() {
    const FLOW_CONTROL: u32 = 3;
    on_both_drivers(|driver| {
        let gateway = idle(driver);
        let piece = [0; 16 << 10];
        let full = |stream| [frame(HEADERS, 4, stream, GET), frame(0, 0, stream, &piece).repeat(16)].concat();
        // what is announced counts from when it is agreed to
        let agreed = || {
            let mut raw = Raw::connect(gateway.port());
            raw.is_well();
            raw.send(&frame(4, 1, 0, &[]));
            raw
        };
        let mut raw = agreed();
        raw.send(&full(1));
        raw.is_well();
        raw.send(&frame(0, 0, 1, b"x"));
        assert_eq!(raw.refused(1), FLOW_CONTROL, "more than 256 KiB of a stream");
        let mut raw = agreed();
        for stream in [1, 3, 5, 7] {
            raw.send(&full(stream));
        }
        raw.send(&frame(HEADERS, 4, 9, GET));
        raw.is_well();
        raw.send(&frame(0, 0, 9, b"x"));
        assert_eq!(raw.goaway(), FLOW_CONTROL, "more than 1 MiB of the connection");
    });
}

#[test]
fn a_table_of_fields_has_a_largest_size() {
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, "routes: []");
        let resized = |size: &[u8]| frame(HEADERS, 5, 1, &[size, GET].concat());
        let mut raw = Raw::connect(gateway.port());
        raw.send(&resized(&[0x3f, 0xe1, 0x1f])); // 4,096 (RFC 7541 section 6.3)
        raw.answered(1);
        let mut raw = Raw::connect(gateway.port());
        raw.is_well();
        raw.send(&frame(4, 1, 0, &[])); // what is announced counts from now on
        raw.send(&resized(&[0x3f, 0xe2, 0x1f]));
        assert_eq!(raw.goaway(), PROTOCOL_ERROR); // so the h2 crate calls an error of compression
    });
}

/// A head without a path.
const MALFORMED: &[u8] = &[0x82, 0x86, 0x41, 0x01, b'a'];

/// CVE-2025-8671
#[test]
fn a_client_that_has_its_streams_reset_again_and_again_is_left() {
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, "routes: []");
        let mut raw = Raw::connect(gateway.port());
        for n in 0..128 {
            raw.send(&frame(HEADERS, 5, 2 * n + 1, MALFORMED));
            assert_eq!(raw.reset_of(2 * n + 1), PROTOCOL_ERROR);
        }
        raw.is_well();
        raw.send(&frame(HEADERS, 5, 257, MALFORMED));
        assert_eq!(raw.goaway(), ENHANCE_YOUR_CALM);
    });
}

#[test]
fn late_frames_of_a_stream_that_was_reset_are_passed_over_for_a_while() {
    const STREAM_CLOSED: u32 = 5;
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, "routes: []");
        let mut raw = Raw::connect(gateway.port());
        for n in 0..33 {
            raw.send(&frame(HEADERS, 4, 2 * n + 1, MALFORMED));
            assert_eq!(raw.reset_of(2 * n + 1), PROTOCOL_ERROR);
        }
        let began = Instant::now();
        raw.send(&frame(0, 0, 1, b"late"));
        raw.is_well();
        raw.send(&frame(0, 0, 65, b"late"));
        assert_eq!(raw.reset_of(65), STREAM_CLOSED, "no more than 32 are remembered");
        raw.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let passed_over = loop {
            raw.send(&frame(0, 0, 1, b"late"));
            match raw.next() {
                None => assert!(began.elapsed() < PATIENCE, "it is remembered without end"),
                Some((RST_STREAM, 1, reason)) => break reason,
                Some(_) => {}
            }
        };
        assert_eq!(passed_over, STREAM_CLOSED.to_be_bytes());
        assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
    });
}

#[test]
fn a_client_that_stays_after_the_goodbye_is_left() {
    on_both_drivers(|driver| {
        let gateway = Setup::new(driver, Source::Yaml("routes: []".into()))
            .nginx("http_configuration_snippet: \"keepalive_requests 1;\"")
            .start();
        let mut raw = Raw::connect(gateway.port());
        raw.send(&frame(HEADERS, 5, 1, GET));
        raw.answered(1);
        let began = Instant::now();
        while raw.next().is_some() {}
        assert!((500..4000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    });
}

/// RFC 9113 section 6.5.2: until its settings are there, nobody knows how many streams it takes.
#[test]
fn an_upstream_that_has_not_said_how_many_streams_it_takes_gets_100() {
    on_both_drivers(|driver| {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let seen = begun.clone();
        let upstream = Upstream::start(move |conn| {
            let at = seen.lock().unwrap().len();
            seen.lock().unwrap().push(0);
            let mut head = [0; 9];
            let _ = conn.stream.read_exact(&mut [0; PREFACE.len()]);
            while conn.stream.read_exact(&mut head).is_ok() {
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                let _ = conn.stream.read_exact(&mut payload);
                seen.lock().unwrap()[at] += usize::from(head[3] == HEADERS);
            }
        });
        let node = format!("nodes: {{\"127.0.0.1:{}\": 1}}", upstream.port);
        let objects = format!("routes:\n- {{id: 1, uri: /*, upstream: {{scheme: grpc, {node}}}}}");
        let gateway = Setup::new(driver, Source::Yaml(objects)).workers(1).start();
        let mut clients = Vec::new();
        for n in 1..=101 {
            clients.push(gateway.connect());
            clients[n - 1].send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            eventually("the call is there", || begun.lock().unwrap().iter().sum::<usize>() == n);
        }
        assert_eq!(*begun.lock().unwrap(), [100, 1]);
    });
}

/// An upstream that takes one call at a time on each connection, and answers none before it may.
#[test]
fn an_upstream_gets_so_many_connections() {
    const CALLS: usize = 70;
    on_both_drivers(|driver| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, called) = (connections.clone(), calls.clone());
        let (answer, may_answer) = tokio::sync::watch::channel(false);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let (called, mut may_answer) = (called.clone(), may_answer.clone());
                    tokio::spawn(async move {
                        let mut builder = h2::server::Builder::new();
                        let mut connection =
                            builder.max_concurrent_streams(1).handshake::<_, Bytes>(stream).await.unwrap();
                        while let Some(Ok((_, mut respond))) = connection.accept().await {
                            called.fetch_add(1, Ordering::SeqCst);
                            if may_answer.wait_for(|may| *may).await.is_ok() {
                                let _ = respond.send_response(Answer::new(()), true);
                            }
                        }
                    });
                }
            });
        });
        let node = format!("nodes: {{\"127.0.0.1:{port}\": 1}}");
        let objects = format!("routes:\n- {{id: 1, uri: /*, upstream: {{scheme: grpc, {node}}}}}");
        let gateway = Setup::new(driver, Source::Yaml(objects)).workers(1).start();
        let mut clients: Vec<Client> = (0..CALLS).map(|_| gateway.connect()).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            eventually("the call is there", || calls.load(Ordering::SeqCst) == (n + 1).min(64));
        }
        answer.send(true).unwrap();
        for client in &mut clients {
            assert_eq!(client.response().status, 200, "each has its turn");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 64);
    });
}
