//! What is malformed, slow or broken gets the answer that nginx gives, and a closed connection; never a guess.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::*;

/// Sends the bytes and expects this status, then the close. Nothing may reach the upstream.
#[track_caller]
fn refused(gateway: &Gateway, bytes: &[u8], status: u16) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
    let mut client = gateway.connect();
    let _ = client.try_send(bytes);
    client.shut();
    let answer = client.try_response(false).unwrap_or_else(|| panic!("{shown:?} got no answer"));
    assert_eq!(answer.status, status, "{shown:?} got {answer}");
    assert_eq!(answer.header("connection"), Some("close"), "{shown:?} got {answer}");
    client.closed();
}

/// A pair for each way to make two parsers disagree about where a request ends, and what nginx says to it.
#[test]
fn smuggling_is_refused() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let body = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let table: &[(&str, u16)] = &[
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", 400),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
            ("Content-Length: 5, 5\r\n", 400),
            ("Content-Length: +5\r\n", 400),
            ("Content-Length: -5\r\n", 400),
            ("Content-Length: 0x5\r\n", 400),
            ("Content-Length: 5 5\r\n", 400),
            ("Content-Length: five\r\n", 400),
            ("Content-Length: 99999999999999999999\r\n", 400),
            ("Transfer-Encoding: identity\r\n", 501),
            ("Transfer-Encoding: gzip, chunked\r\n", 501),
            ("Transfer-Encoding: chunked, identity\r\n", 501),
            ("Transfer-Encoding: xchunked\r\n", 501),
            ("Transfer-Encoding: \"chunked\"\r\n", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding : chunked\r\n", 400),
            ("Content-Length : 5\r\n", 400),
            ("X: a\r\n b\r\n", 400),
            (" Content-Length: 5\r\n", 400),
            ("X: a\0b\r\n", 400),
            ("X\0: a\r\n", 400),
            ("Host: b\r\n", 400),
        ];
        for (fields, status) in table {
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
            refused(&gateway, request.as_bytes(), *status);
        }
        // a 1.0 request has no chunks
        refused(&gateway, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
        assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
    });
}

#[test]
fn malformed_heads_are_refused() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let table: &[(&[u8], u16)] = &[
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
            (b"GET / HTTX/1.1\r\nHost: a\r\n\r\n", 400),
            (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET /a/%2e%2e/%2e./x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ];
        for (bytes, status) in table {
            let mut client = gateway.connect();
            client.send(bytes);
            let answer = client.try_response(false);
            let answer = answer.unwrap_or_else(|| panic!("{:?}: no answer", String::from_utf8_lossy(bytes)));
            assert_eq!(answer.status, *status, "{:?} got {answer}", String::from_utf8_lossy(bytes));
        }
        assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
        // what looked malformed harmed nobody
        assert_eq!(gateway.get("/").status, 200);
    });
}

#[test]
fn bad_chunks_are_refused() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        for chunks in [
            "zz\r\nabc\r\n0\r\n\r\n",
            "-1\r\na\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "ffffffffffffffff1\r\nabc\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "\r\n0\r\n\r\n",
        ] {
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            refused(&gateway, request.as_bytes(), 400);
        }
        assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
    });
}

/// Bare LF ends a line for nginx, in heads; both ends must then see the same request.
#[test]
fn bare_line_feeds_cannot_smuggle() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send("GET /a HTTP/1.1\nHost: a\nX: 1\n\n");
        let answer = client.try_response(false).expect("an answer");
        assert!(matches!(answer.status, 200 | 400), "{answer}");
        for request in upstream.requests() {
            assert!(!request.head.replace("\r\n", "").contains('\n'), "{:?}", request.head);
            assert_eq!(request.target, "/a");
        }
        let before = upstream.requests().len();
        refused(
            &gateway,
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\nGET /smuggled HTTP/1.1\r\n\r\n",
            400,
        );
        assert_eq!(upstream.requests().len(), before);
    });
}

/// nginx's large_client_header_buffers, 4 of 8k.
#[test]
fn oversized_heads_are_refused() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Gateway::to(driver, upstream.port);
        let long = "x".repeat(9 << 10);
        refused(&gateway, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), 414);
        refused(&gateway, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n").as_bytes(), 400);
        let many: String = (0..500).map(|n| format!("X-{n}: {}\r\n", "y".repeat(80))).collect();
        refused(&gateway, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes(), 400);
        // without an end: refused all the same, not gathered
        let mut client = gateway.connect();
        let _ =
            client.try_send("GET / HTTP/1.1\r\nHost: a\r\n".to_string() + &"A: bcdefgh\r\n".repeat(20_000));
        assert_eq!(client.try_response(false).map(|answer| answer.status), Some(400));
        assert!(upstream.requests().is_empty());

        let fits =
            format!("GET /{} HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(7 << 10), "y".repeat(7 << 10));
        assert_eq!(ask(gateway.port(), fits.as_bytes()).status, 200);
    });
}

#[test]
fn a_refused_request_has_its_line_in_the_access_log() {
    on_both_drivers(|driver| {
        let gateway = Gateway::with_yaml(driver, "routes: []");
        refused(&gateway, b"POST /tricky HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400);
        gateway.read_until("logs/access.log", "\"POST /tricky HTTP/1.1\" 400 ");
    });
}

#[test]
fn a_slow_head_is_closed_and_a_slow_body_answered() {
    on_both_drivers(|driver| {
        let upstream = Upstream::mirror();
        let gateway = Setup::new(driver, Source::Yaml(everything_to(upstream.port)))
            .http("client_header_timeout: 300ms\nclient_body_timeout: 300ms\nkeepalive_timeout: 500ms")
            .start();
        // a byte now and then does not prolong a head
        let began = Instant::now();
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
        while began.elapsed() < Duration::from_secs(3) && client.try_send("y").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(began.elapsed() < Duration::from_millis(1500), "a head took {:?}", began.elapsed());

        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
        assert_eq!(client.response().status, 408);
        client.shut();
        client.closed();

        let mut silent = gateway.connect();
        silent.closed();
        let mut idle = gateway.connect();
        assert_eq!(idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response().status, 200);
        idle.closed();
        gateway.read_until("logs/access.log", "\"POST / HTTP/1.1\" 408 ");
    });
}

#[test]
fn a_client_that_leaves_is_a_499_and_its_request_cancelled() {
    on_both_drivers(|driver| {
        let (tell, told) = channel();
        let upstream = Upstream::start(move |conn| {
            conn.request();
            tell.send("asked").unwrap();
            // nothing is answered: the next thing to see is the close
            conn.drain();
            let _ = tell.send("closed");
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send("GET /left HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(told.recv_timeout(PATIENCE), Ok("asked"));
        drop(client);
        assert_eq!(told.recv_timeout(PATIENCE), Ok("closed"), "the upstream's connection is closed");
        gateway.read_until("logs/access.log", "\"GET /left HTTP/1.1\" 499 ");
    });
}

/// What a client did not wait for is in its line: which upstream was asked, and for how long. nginx writes that, too.
#[test]
fn the_time_that_a_client_did_not_wait_longer_is_logged() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
            conn.drain();
        });
        let routes = everything_to(upstream.port);
        let format =
            "access_log_format: '$status $upstream_addr $upstream_status $upstream_response_time.'\n";
        let gateway = Setup::new(driver, Source::Yaml(routes)).http(format).start();
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.wait_for(1);
        drop(client);
        gateway.read_until("logs/access.log", "499 ");
        // another leaves in the middle of its body
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
        eventually("its upstream is found", || upstream.connections() == 2);
        drop(client);
        eventually("its line", || gateway.read("logs/access.log").lines().count() == 2);
        let log = gateway.read("logs/access.log");
        for line in log.lines() {
            let time = line.split_once(&format!(" 127.0.0.1:{} - ", upstream.port));
            let time = time.and_then(|(_, rest)| rest.trim().strip_suffix('.')?.parse::<f64>().ok());
            assert!(time.is_some(), "{log}");
        }
    });
}

/// nginx, too, takes a client that has shut its side for one that left.
#[test]
fn the_connection_of_a_client_that_left_is_closed() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
            conn.drain();
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send(
            "POST /half HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        );
        upstream.wait_for(1);
        client.shut();
        client.closed();
        gateway.read_until("logs/access.log", "\"POST /half HTTP/1.1\" 499 ");
    });
}

#[test]
fn a_client_that_leaves_within_its_body_is_a_499() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            conn.request();
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send("POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
        drop(client);
        // nginx writes 400 for a body that broke off before it was passed on, 499 later
        eventually("a line of the broken request", || {
            let log = gateway.read("logs/access.log");
            log.contains("\"POST /half HTTP/1.1\" 499 ") || log.contains("\"POST /half HTTP/1.1\" 400 ")
        });
        assert!(upstream.requests().is_empty(), "half a request is none");
    });
}

#[test]
fn an_upstream_that_dies_within_its_answer_harms_that_answer_only() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let broken = match request.target.as_str() {
                    "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
                    "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this",
                    "/between" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
                    _ => {
                        let _ = conn.send(ok("fine"));
                        continue;
                    }
                };
                let _ = conn.send(broken);
                return;
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut other = gateway.connect();
        assert_eq!(other.send("GET /fine HTTP/1.1\r\nHost: a\r\n\r\n").response().text(), "fine");
        for target in ["/length", "/chunked", "/between"] {
            let mut client = gateway.connect();
            let answer = client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).response();
            assert_eq!((answer.status, answer.text().as_str()), (200, "only this"), "{target}");
            assert!(!answer.whole, "{target}: a client must see that this is not all");
            client.closed();
            assert_eq!(other.send("GET /fine HTTP/1.1\r\nHost: a\r\n\r\n").response().text(), "fine");
        }
    });
}

#[test]
fn nonsense_from_an_upstream_is_a_502() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            let Some(request) = conn.request() else { return };
            let _ = conn.send(match request.target.as_str() {
                "/garbage" => b"\x00\x01\x02 this is no HTTP\r\n\r\n".as_slice(),
                "/status" => b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
                "/length" => b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
                "/lengths" => b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                "/both" => {
                    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                }
                "/half" => b"HTTP/1.1 200 OK\r\nX-Half: ",
                _ => b"",
            });
        });
        let gateway = Gateway::to(driver, upstream.port);
        for target in ["/garbage", "/status", "/length", "/lengths", "/both", "/half", "/nothing"] {
            let answer = gateway.get(target);
            assert_eq!(answer.status, 502, "{target}: {answer}");
            assert!(answer.text().contains("<center>openresty</center>"), "{target}: {answer}");
        }
        // a head without end is not gathered without end
        let endless = Upstream::start(|conn| {
            conn.request();
            let _ = conn.send("HTTP/1.1 200 OK\r\n");
            while conn.send("X-More: 0123456789012345678901234567890123456789\r\n").is_ok() {}
        });
        let gateway = Gateway::to(driver, endless.port);
        assert_eq!(gateway.get("/").status, 502);
    });
}

/// What an upstream sends behind its answer belongs to nobody: the connection is not used again.
#[test]
fn bytes_behind_an_answer_reach_no_other_client() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".to_owned();
                let (first, behind) = match request.target.as_str() {
                    "/answer" => (ok("mine"), ok("poison")),
                    "/interim" => (ok("mine"), interim),
                    _ => ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), interim),
                };
                let _ = conn.send(first + &behind);
            }
        });
        let gateway = Gateway::to(driver, upstream.port);
        for n in 0..12 {
            let (target, status, text) =
                [("/answer", 200, "mine"), ("/interim", 200, "mine"), ("/empty", 204, "")][n % 3];
            let answer = gateway.get(target);
            assert_eq!((answer.status, answer.text().as_str()), (status, text));
        }
        assert_eq!(upstream.connections(), 12, "not even where all of it had come with the answer");
    });
}

#[test]
fn an_early_answer_to_a_large_body_arrives() {
    on_both_drivers(|driver| {
        let passed = Arc::new(AtomicUsize::new(0));
        let counted = passed.clone();
        let upstream = Upstream::start(move |conn| {
            conn.head();
            let _ = conn.send("HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
            counted.store(conn.drain(), Relaxed);
        });
        let gateway = Gateway::to(driver, upstream.port);
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
        let mut writer = client.stream();
        let writing = std::thread::spawn(move || {
            use std::io::Write;
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..95 {
                if writer.write_all(&piece).is_err() {
                    return;
                }
            }
        });
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
        client.rest();
        writing.join().unwrap();
        eventually("the upstream is left", || passed.load(Relaxed) > 0);
        let passed = passed.load(Relaxed);
        assert!(passed < 50_000_000, "{passed} bytes went up behind the answer");
    });
}

/// The rest of a body that nobody sends any more would be taken for the next request.
#[test]
fn a_connection_with_half_a_request_on_it_is_not_used_again() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.head() {
                conn.remember(&request);
                let _ = conn.send("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
            }
        });
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port))).workers(1);
        let gateway = setup.start();
        let mut client = gateway.connect();
        // more than the gateway keeps, and never all of it
        client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        client.send(vec![b'x'; 200_000]);
        assert_eq!(client.response().status, 403);
        for _ in 0..3 {
            assert_eq!(gateway.get("/next").status, 403);
        }
        let connections: Vec<usize> = upstream.requests().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 1, 1, 1]);
    });
}

/// A server that ends a kept connection while a request is on its way may have done what was asked.
#[test]
fn a_post_on_a_connection_that_died_is_not_sent_twice() {
    on_both_drivers(|driver| {
        let upstream = Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                if request.connection == 0 && request.target == "/dies" {
                    return;
                }
                let _ = conn.send(ok("served"));
            }
        });
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port))).workers(1);
        let gateway = setup.start();
        let mut client = gateway.connect();
        let ask = |client: &mut Client, method: &str, target: &str| {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
            client.send(head).response().status
        };
        assert_eq!(ask(&mut client, "POST", "/first"), 200);
        assert_eq!(ask(&mut client, "POST", "/dies"), 502);
        let posts = upstream.requests().iter().filter(|request| request.target == "/dies").count();
        assert_eq!(posts, 1, "it may have had its effect");
    });
}

/// nginx's `send_timeout`: between two writes, not for the whole answer.
#[test]
fn a_client_that_reads_nothing_is_left() {
    on_both_drivers(|driver| {
        let (tell, told) = channel();
        let upstream = Upstream::start(move |conn| {
            conn.request();
            let _ = conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            while conn.send(vec![b'd'; 1 << 20]).is_ok() {}
            let _ = tell.send(());
        });
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port)));
        let gateway = setup.http("send_timeout: 500ms").start();
        let mut client = gateway.connect();
        client.send("GET /unread HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(told.recv_timeout(PATIENCE), Ok(()), "the upstream is let go, too");
        gateway.read_until("logs/access.log", "\"GET /unread HTTP/1.1\" 200 ");
    });
}

/// Answers that pile up have the same time: one that is short never waits, many do.
#[test]
fn a_client_that_pipelines_and_reads_nothing_is_left() {
    on_both_drivers(|driver| {
        let upstream = Upstream::answering_unseen(ok(&"x".repeat(60_000)));
        let setup = Setup::new(driver, Source::Yaml(everything_to(upstream.port)));
        let gateway = setup.http("send_timeout: 500ms").start();
        let mut client = gateway.connect();
        let began = Instant::now();
        let some = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10);
        let mut writer = client.stream();
        writer.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        loop {
            use std::io::Write;
            match writer.write(some.as_bytes()) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
                Ok(_) => {}
            }
            assert!(began.elapsed() < PATIENCE, "it is still there");
            std::thread::sleep(Duration::from_millis(1));
        }
        client.rest();
    });
}

/// Nobody has asked to switch: what follows would be neither HTTP nor a tunnel.
#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    on_both_drivers(|driver| {
        let upstream = Upstream::switching();
        let gateway = Gateway::to(driver, upstream.port);
        let fields = "Host: a\r\nUpgrade: x\r\nConnection: upgrade\r\n";
        assert_eq!(request(gateway.port(), "GET", "/", fields).status, 502);
    });
}
