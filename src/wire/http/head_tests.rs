//! Heads: what is accepted and refused, and that splitting and mutation change neither.

use super::*;
use crate::wire::http::{BadUpstream, Framing, Host, Method, Progress, Reject, request_framing};
use crate::wire::{Headers, Name};

fn parse(head: &[u8]) -> Result<(Progress, RequestHead), Reject> {
    parse_with(head, &RequestLimits::default())
}

fn parse_with(bytes: &[u8], limits: &RequestLimits) -> Result<(Progress, RequestHead), Reject> {
    let mut head = RequestHead::default();
    parse_request(bytes, limits, &mut head).map(|progress| (progress, head))
}

fn accepted(head: &str) -> RequestHead {
    match parse(head.as_bytes()) {
        Ok((Progress::Done(len), parsed)) if len == head.len() => parsed,
        other => panic!("{head:?}: {other:?}"),
    }
}

fn fields(headers: &Headers) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    headers.iter().map(|(name, value, _)| (text(name), text(value))).collect()
}

/// What a user of the head can see of it.
fn seen(head: &RequestHead) -> String {
    let (line, target, path) = (head.line(), head.target(), head.path());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{:?} {} {} {} {} {:?}",
        head.method,
        head.version,
        text(line),
        text(target),
        text(path),
        fields(&head.headers)
    )
}

/// Requests that are in order, in many shapes.
const VALID: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "\r\n\r\nPOST /x?y=1 HTTP/1.1\r\nhost:a:80\r\nContent-Length: 3\r\nX-Empty:\r\nX-Blanks: \t \r\n\r\n",
    "PURGE /a HTTP/1.1\r\nHost: a\r\nX_Under: 1\r\nAccept: */*  \r\n\r\n",
    "FOO_BAR-X / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    "GET http://b.c:81/x?y HTTP/1.1\r\nAccept: a\r\nHost: a\r\n\r\n",
    "GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.7\r\nHost: a\r\n\r\n",
    "GET /\u{e4} HTTP/1.1\r\nHost: a\r\nX.Dropped: 1\r\nX-Kept: \u{e4}\r\n\r\n",
];

#[test]
fn a_request_in_its_parts() {
    let head =
        accepted("GET /a?b=c HTTP/1.1\r\nHost: Foo.com:8080\r\nx-real-ip:  1.2.3.4 \r\nOther: x\r\n\r\n");
    assert_eq!((head.method, head.version), (Method::Get, 11));
    assert_eq!(head.method_text(), b"GET");
    assert_eq!((head.target(), head.path()), (&b"/a?b=c"[..], &b"/a?b=c"[..]));
    assert_eq!(head.line(), b"GET /a?b=c HTTP/1.1");
    assert_eq!(head.host(), Some(Host { name: b"Foo.com", port: Some(8080) }));
    assert_eq!(head.headers.get(Name::XRealIp), Some(&b"1.2.3.4"[..]));
    let expected = [("Host", "Foo.com:8080"), ("x-real-ip", "1.2.3.4"), ("Other", "x")];
    assert_eq!(fields(&head.headers), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn absolute_form_overrides_host() {
    for (target, path, host) in [
        ("http://B.c/x?y", "/x?y", "B.c"),
        ("http://b", "/", "b"),
        ("http://b?x=1", "/?x=1", "b"),
        ("https://b:81/", "/", "b:81"),
        ("http://[::1]/x", "/x", "[::1]"),
    ] {
        let head = accepted(&format!("GET {target} HTTP/1.1\r\nA: 1\r\nHost: a\r\n\r\n"));
        assert_eq!(head.target(), target.as_bytes());
        assert_eq!(head.path(), path.as_bytes());
        assert_eq!(head.headers.get(Name::Host), Some(host.as_bytes()));
        assert_eq!(head.headers.len(), 2);
    }
}

#[test]
fn names_that_nginx_drops() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX.Y: 1\r\nX@Y: 2\r\nX\u{e4}: 3\r\nX_Y: 4\r\nX-Y: 5\r\n\r\n";
    let names = |limits: &RequestLimits| {
        parse_with(request.as_bytes(), limits).map(|(_, head)| {
            fields(&head.headers).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
        })
    };
    let default = RequestLimits::default();
    assert_eq!(names(&default), Ok("Host X_Y X-Y".to_owned()));
    assert_eq!(names(&RequestLimits { underscores_in_headers: false, ..default }), Ok("Host X-Y".to_owned()));
    let refused = names(&RequestLimits { ignore_invalid_headers: false, ..default });
    assert_eq!(refused.map_err(|reject| reject.status), Err(400));
}

#[test]
fn refuses() {
    let host = "Host: a\r\n\r\n";
    for (status, head) in [
        (400, format!("get / HTTP/1.1\r\n{host}")),
        (400, format!("G!T / HTTP/1.1\r\n{host}")),
        (400, format!(" GET / HTTP/1.1\r\n{host}")),
        (400, format!("GET  / HTTP/1.1\r\n{host}")),
        (400, format!("GET / HTTP/1.1 \r\n{host}")),
        (400, format!("GET /a b HTTP/1.1\r\n{host}")),
        (400, format!("GET /\t HTTP/1.1\r\n{host}")),
        (400, format!("GET /\u{1} HTTP/1.1\r\n{host}")),
        (400, format!("GET /\u{7f} HTTP/1.1\r\n{host}")),
        (400, format!("GET ?x HTTP/1.1\r\n{host}")),
        (400, format!("OPTIONS * HTTP/1.1\r\n{host}")),
        (400, "GET /\r\n".to_owned()),
        (400, format!("GET / http/1.1\r\n{host}")),
        (400, format!("GET / HTTP/0.9\r\n{host}")),
        (400, format!("GET / HTTP/1\r\n{host}")),
        (400, format!("GET / HTTP/+1.1\r\n{host}")),
        (400, format!("GET / HTTP/1.1234\r\n{host}")),
        (505, format!("GET / HTTP/2.0\r\n{host}")),
        (505, format!("GET / HTTP/3.1\r\n{host}")),
        // One line feed too few or a carriage return too many
        (400, "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nA: b\nHost: a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nA: b\rHost: c\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n".to_owned()),
        (400, "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        // Fields that recipients read in different ways
        (400, format!("GET / HTTP/1.1\r\nA : b\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nA\t: b\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\n A: b\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nA: b\r\n c\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nA: b\r\n\tc: d\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nA b: c\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nAb\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\n: b\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nA\0: b\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nA: b\0\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nA: b\u{1}c\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nA: b\u{7f}\r\n{host}")),
        // A dropped name does not hide a bad line behind it
        (400, format!("GET / HTTP/1.1\r\nX.Y: b\nA: b\r\n{host}")),
        (400, format!("GET / HTTP/1.1\r\nX.Y : b\r\n{host}")),
        // Hosts
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.0\r\nHost: a/b\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned()),
        (400, "GET http://b/ HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        (400, format!("GET http:///x HTTP/1.1\r\n{host}")),
        (400, format!("GET http://u@b/ HTTP/1.1\r\n{host}")),
        (400, format!("GET http://b#f HTTP/1.1\r\n{host}")),
        (400, format!("GET http:b HTTP/1.1\r\n{host}")),
        (400, format!("GET 1http://b/ HTTP/1.1\r\n{host}")),
        (400, format!("GET b:80 HTTP/1.1\r\n{host}")),
        // Methods that a gateway does not serve
        (405, format!("CONNECT a:80 HTTP/1.1\r\n{host}")),
        (405, format!("CONNECT / HTTP/1.1\r\n{host}")),
        (405, format!("TRACE / HTTP/1.1\r\n{host}")),
    ] {
        let got = parse(head.as_bytes()).map_err(|reject| reject.status);
        assert_eq!(got.as_ref().err(), Some(&status), "{head:?} {got:?}");
    }
}

#[test]
fn what_is_no_request_is_refused_before_it_ends() {
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"SSH-2.0-x y", b"{\"a\":1}", b"GET / HTTP/1.1\nHost"]
    {
        assert_eq!(parse(bytes).map_err(|reject| reject.status).err(), Some(400), "{bytes:?}");
    }
}

#[test]
fn of_what_is_refused_the_line_is_kept_for_the_logs() {
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(9_000));
    for (sent, line) in [
        ("\x16\x03\x01\x02\0\x01", "\x16\x03\x01\x02\0\x01"),
        ("\r\nget / HTTP/1.1\r\nHost: a\r\n\r\n", "get / HTTP/1.1"),
        ("GET / HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n", "GET / HTTP/1.1"),
        ("GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "TRACE / HTTP/1.1"),
        (&long, &long[..8 << 10]),
    ] {
        // whole, and byte by byte
        for step in [sent.len(), 1] {
            let mut head = RequestHead::default();
            let mut known = step..=sent.len();
            let refused = known.any(|len| {
                parse_request(&sent.as_bytes()[..len], &RequestLimits::default(), &mut head).is_err()
            });
            assert!(refused, "{sent}");
            let kept = head.line();
            assert!(
                !kept.is_empty() && line.as_bytes().starts_with(kept),
                "{sent:?}: {:?}",
                String::from_utf8_lossy(kept)
            );
            assert!(step == 1 || kept == line.as_bytes(), "{sent:?}: {:?}", String::from_utf8_lossy(kept));
            assert!(line.starts_with("TRACE") || head.headers.is_empty());
        }
    }
}

#[test]
fn limits_of_lines_and_head() {
    let limits = RequestLimits { line_bytes: 64, head_bytes: 256, ..RequestLimits::default() };
    let fits = |head: &str| {
        parse_with(head.as_bytes(), &limits).map(drop).map_err(|reject| (reject.status, reject.page))
    };
    let line = |len: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(len - 16));
    let field = |len: usize| format!("A: {}\r\n", "b".repeat(len - 5));
    assert_eq!(fits(&(line(64) + "Host: a\r\n\r\n")), Ok(()));
    assert_eq!(fits(&(line(65) + "Host: a\r\n\r\n")), Err((414, 414)));
    assert_eq!(fits(&line(66)[..65]), Err((414, 414)));
    assert_eq!(fits(&(line(20) + "Host: a\r\n" + &field(64) + "\r\n")), Ok(()));
    assert_eq!(fits(&(line(20) + "Host: a\r\n" + &field(65) + "\r\n")), Err((400, 494)));
    assert_eq!(fits(&(line(20) + "Host: a\r\n" + &field(70)[..65])), Err((400, 494)));
    assert_eq!(fits(&(line(25) + "Host: a\r\n" + &field(55).repeat(4) + "\r\n")), Ok(()));
    assert_eq!(fits(&(line(26) + "Host: a\r\n" + &field(55).repeat(4) + "\r\n")), Err((400, 494)));
    assert_eq!(fits(&"\r\n".repeat(129)), Err((400, 494)));
}

#[test]
fn fields_are_counted_in_bytes_alone() {
    let head = accepted(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(1000)));
    assert_eq!(head.headers.len(), 1001);
}

#[test]
fn the_body_stays() {
    let (progress, head) = parse(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    assert_eq!(progress, Progress::Done(47));
    assert_eq!(request_framing(&head), Ok(Framing::Length(3)));
}

#[test]
fn a_head_is_used_again() {
    let mut head = RequestHead::default();
    for request in VALID {
        let mut fresh = RequestHead::default();
        let limits = RequestLimits::default();
        assert_eq!(parse_request(request.as_bytes(), &limits, &mut head), Ok(Progress::Done(request.len())));
        parse_request(request.as_bytes(), &limits, &mut fresh).unwrap();
        assert_eq!(seen(&head), seen(&fresh));
    }
}

#[test]
fn split_anywhere_is_the_same() {
    let limits = RequestLimits::default();
    for request in VALID {
        let whole = seen(&accepted(request));
        for at in 0..request.len() {
            let mut head = RequestHead::default();
            assert_eq!(
                parse_request(&request.as_bytes()[..at], &limits, &mut head),
                Ok(Progress::Partial),
                "{request:?} {at}"
            );
            assert_eq!(
                parse_request(request.as_bytes(), &limits, &mut head),
                Ok(Progress::Done(request.len()))
            );
            assert_eq!(seen(&head), whole, "{request:?} {at}");
        }
        let mut head = RequestHead::default();
        for at in 0..request.len() {
            assert_eq!(parse_request(&request.as_bytes()[..at], &limits, &mut head), Ok(Progress::Partial));
        }
        assert_eq!(parse_request(request.as_bytes(), &limits, &mut head), Ok(Progress::Done(request.len())));
        assert_eq!(seen(&head), whole);
    }
}

/// Bytes that mean something in a head, so that mutations hit.
fn mutate(random: &mut fastrand::Rng, text: &mut Vec<u8>) {
    const SPECIAL: &[u8] = b"\r\n\0 \t:/?#%@.;,_-\x01\x7f\x80\xff019azAZ[]";
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..=text.len());
        let byte = *random.choice(SPECIAL).unwrap_or(&0);
        match random.u8(..4) {
            0 if at < text.len() => text[at] = byte,
            1 if at < text.len() => drop(text.remove(at)),
            2 => text.truncate(at),
            _ => text.insert(at, byte),
        }
    }
}

#[test]
fn mutated_requests_never_panic_and_httparse_agrees() {
    let mut random = fastrand::Rng::with_seed(9112);
    let mut judgements = 0;
    let limits = RequestLimits { line_bytes: 96, head_bytes: 160, ..RequestLimits::default() };
    for _ in 0..60_000 {
        let mut request = random.choice(VALID).unwrap().as_bytes().to_vec();
        mutate(&mut random, &mut request);
        let at = random.usize(..=request.len());
        let mut whole = RequestHead::default();
        let at_once = parse_request(&request, &limits, &mut whole);
        // In two pieces: refused in the first, or the same as at once.
        let mut split = RequestHead::default();
        match parse_request(&request[..at], &limits, &mut split) {
            Ok(Progress::Partial) => {
                let then = parse_request(&request, &limits, &mut split);
                assert_eq!(
                    then.map_err(|reject| reject.status),
                    at_once.map_err(|reject| reject.status),
                    "{request:?} {at}"
                );
            }
            Ok(done) => assert_eq!(Ok(done), at_once),
            Err(_) => assert!(at_once.is_err(), "{request:?} {at}"),
        }
        if let Ok(Progress::Done(len)) = at_once {
            assert!(len <= request.len());
            if let Some(judged) = read_by_httparse(&request[..len]) {
                judgements += 1;
                assert_eq!(first_line_and_fields(&whole), judged, "{request:?}");
            }
            let text = String::from_utf8_lossy(whole.headers.text()).into_owned();
            assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']), "{text:?}");
        }
    }
    assert!(judgements > 1_000, "httparse took {judgements} only");
}

/// Method, target, version and fields, as a request's reader sees them; the host of an absolute-form target stands for `Host`.
type Seen = (Vec<u8>, Vec<u8>, u8, Vec<(String, String)>);

fn first_line_and_fields(head: &RequestHead) -> Seen {
    let mut fields = fields(&head.headers);
    if head.target() != head.path() {
        fields.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
    }
    (head.method_text().to_vec(), head.target().to_vec(), head.version, fields)
}

/// The same as httparse reads it, without the fields that nginx drops; None for what httparse refuses.
fn read_by_httparse(request: &[u8]) -> Option<Seen> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(_)) = parsed.parse(request) else { return None };
    let is_valid = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let is_path = parsed.path?.starts_with('/');
    let kept = parsed
        .headers
        .iter()
        .filter(|field| is_valid(field.name) && (is_path || !field.name.eq_ignore_ascii_case("host")))
        .map(|field| (field.name.to_owned(), text(field.value)))
        .collect();
    Some((parsed.method?.into(), parsed.path?.into(), 10 + parsed.version?, kept))
}

fn response(text: &str) -> Result<(Progress, ResponseHead), BadUpstream> {
    let mut head = ResponseHead::default();
    parse_response(text.as_bytes(), 4096, &mut head).map(|progress| (progress, head))
}

#[test]
fn responses() {
    for (text, status, reason, field) in [
        ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", 200, "OK", "b"),
        ("HTTP/1.0 404 Not Found\r\nA:b \r\n\r\n", 404, "Not Found", "b"),
        ("HTTP/1.1 200\r\nA: b\r\n\r\n", 200, "", "b"),
        ("HTTP/1.1 200 \r\nA: b\r\n\r\n", 200, "", "b"),
        ("HTTP/1.1 299 \u{e4}\r\nA: b\r\n\r\n", 299, "\u{e4}", "b"),
        ("HTTP/1.1 200 OK\nA: b\n\n", 200, "OK", "b"),
        ("HTTP/1.1 200 OK\r\nA: b\u{1}\r\n\r\n", 200, "OK", "b\u{1}"),
        ("HTTP/1.1 200 OK\r\n(x): y\r\nA: b\r\n\r\n", 200, "OK", "b"),
        ("HTTP/1.1 999 x\r\nA.b: 1\r\nA: b\r\n\r\n", 999, "x", "b"),
    ] {
        let (progress, head) = response(text).unwrap();
        assert_eq!(progress, Progress::Done(text.len()), "{text:?}");
        assert_eq!((head.status, head.reason()), (status, reason.as_bytes()), "{text:?}");
        assert_eq!(head.headers.get_named(b"a"), Some(field.as_bytes()), "{text:?}");
        for at in 0..text.len() {
            let mut split = ResponseHead::default();
            assert_eq!(
                parse_response(&text.as_bytes()[..at], 4096, &mut split),
                Ok(Progress::Partial),
                "{text:?} {at}"
            );
            assert_eq!(parse_response(text.as_bytes(), 4096, &mut split), Ok(progress));
            assert_eq!(fields(&split.headers), fields(&head.headers));
        }
    }
}

#[test]
fn bad_responses() {
    for text in [
        "<html>",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
    ] {
        assert!(response(text).is_err(), "{text:?}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(4096));
    assert!(response(&long).is_err());
    assert!(response(&long[..4097]).is_err());
}

#[test]
fn mutated_responses_never_panic_and_split_alike() {
    let mut random = fastrand::Rng::with_seed(9110);
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nA: \t b\r\nX.y: 1\r\n\r\nabc";
    for _ in 0..30_000 {
        let mut text = text.to_vec();
        mutate(&mut random, &mut text);
        let mut whole = ResponseHead::default();
        let at_once = parse_response(&text, 4096, &mut whole);
        let mut split = ResponseHead::default();
        let at = random.usize(..=text.len());
        match parse_response(&text[..at], 4096, &mut split) {
            Ok(Progress::Partial) => {
                let then = parse_response(&text, 4096, &mut split);
                assert_eq!(then.is_ok(), at_once.is_ok(), "{text:?} {at}");
                assert!(at_once.is_err() || fields(&split.headers) == fields(&whole.headers));
            }
            Ok(done) => assert_eq!(Ok(done), at_once),
            Err(_) => assert!(at_once.is_err(), "{text:?} {at}"),
        }
    }
}
