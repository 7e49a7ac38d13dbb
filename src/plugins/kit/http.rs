//! HTTP calls of plugins to other servers, from the core itself: connections come from the core's pools, and
//! nothing waits but the request that asks.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::exchange::body::H1Body;
use crate::exchange::{Body, BodyError, Side};
use crate::limits;
use crate::mail::{Resolved, ToControl};
use crate::model::KeepalivePool;
use crate::plugin::Host;
use crate::reactor::{self, Chunk, Out};
use crate::transport::pool::{Lease, Pool};
use crate::transport::{Secure, Stream, Target, TlsClient, trust};
use crate::wire::headers::Headers;
use crate::wire::http::{
    self, Framing, Method, Progress, ResponseHead, response_framing, response_keep_alive, write,
};

/// An http or https URL, as lua-resty-http takes it apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `https`
    pub secure: bool,
    /// A name or an address; IPv6 without its brackets.
    pub host: Box<str>,
    /// Its own, or the scheme's.
    pub port: u16,
    /// Path and arguments, beginning with `/`.
    pub path: Box<str>,
}

impl Url {
    /// The parts of `text`; the error is lua-resty-http's.
    pub fn parse(text: &str) -> Result<Url, String> {
        let bad = || format!("bad uri: {text}");
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(bad()),
        };
        let authority_len = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_len);
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (host, behind) = inner.split_once(']').ok_or_else(bad)?;
                (host, behind.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| bad())?,
            None if secure => 443,
            None => 80,
        };
        let unfit = |b: u8| b.is_ascii_control() || b == b' ';
        if host.is_empty() || host.contains(['[', ']']) || text.bytes().any(unfit) {
            return Err(bad());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url { secure, host: host.into(), port, path: format!("{slash}{path}").into() })
    }

    /// The `Host` header: the port only where it is not the scheme's.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// One request of a plugin. `Host`, `Content-Length` and `Connection` are written for it.
pub struct Call<'a> {
    /// The method.
    pub method: &'a str,
    /// The other headers.
    pub headers: &'a Headers,
    /// The body; none at all for `None`.
    pub body: Option<&'a [u8]>,
}

/// What came back.
pub struct Answer {
    /// Status and headers.
    pub head: ResponseHead,
    /// The whole body.
    pub body: Vec<u8>,
}

/// The way to one server, with its kept connections.
pub struct HttpClient {
    url: Url,
    tls: Option<Rc<TlsClient>>,
    keep: KeepalivePool,
    /// For each: connecting, sending, and every read.
    timeout_ms: u32,
    /// Where the name led, and until when that holds.
    known: RefCell<Option<(SocketAddr, u64)>>,
}

impl HttpClient {
    /// Calls to `url`. `verify`: its certificate is looked at. The error says why TLS cannot be had.
    pub fn new(
        url: Url,
        verify: bool,
        keep: KeepalivePool,
        timeout_ms: u32,
        host: &Host,
    ) -> Result<Self, String> {
        let tls = url.secure.then(|| host.tls.get(verify, None, &[])).transpose();
        let tls = tls.map_err(|error| error.to_string())?;
        Ok(HttpClient { url, tls, keep, timeout_ms, known: RefCell::default() })
    }

    /// Asks and waits for the whole answer. A kept connection that turns out to be dead is replaced once, unless an answer
    /// has begun: then the server has seen the request.
    pub async fn call(&self, host: &Host, call: &Call<'_>) -> io::Result<Answer> {
        let pool = self.pool(host).await?;
        let lease = self.lease(&pool, false).await?;
        let reused = lease.connection.reused;
        match self.ask(lease, call).await {
            Err(error) if reused && !has_begun(&error) => {
                self.ask(self.lease(&pool, true).await?, call).await
            }
            outcome => outcome,
        }
    }

    async fn lease(&self, pool: &Rc<Pool>, fresh: bool) -> io::Result<Lease> {
        Lease::take(pool, self.keep, fresh, reactor::now_ms(), self.timeout_ms).await
    }

    async fn ask(&self, lease: Lease, call: &Call<'_>) -> io::Result<Answer> {
        let mut out = reactor::take_buffer();
        let keep = self.keep.size > 0;
        write_call(call, &self.url.path, &self.url.authority(), keep, &mut out);
        let stream = &lease.connection.stream;
        stream.set_send_deadline(Some(reactor::now_ms() + u64::from(self.timeout_ms)));
        stream.send(Out::from(out));
        let (answer, reusable) =
            read_answer(stream, Method::of(call.method.as_bytes()), self.timeout_ms).await?;
        if keep && reusable {
            lease.keep(reactor::now_ms());
        }
        Ok(answer)
    }

    /// The pool of the server's address. A name is asked for again when its answer has grown old.
    async fn pool(&self, host: &Host) -> io::Result<Rc<Pool>> {
        let now_ms = reactor::now_ms();
        let known = *self.known.borrow();
        let address = match (self.url.host.parse(), known) {
            (Ok(ip), _) => SocketAddr::new(ip, self.url.port),
            (Err(_), Some((address, until_ms))) if now_ms < until_ms => address,
            (Err(_), _) => {
                let resolved = resolve(host, &self.url.host).await?;
                let at = fastrand::usize(..resolved.addresses.len());
                let address = SocketAddr::new(resolved.addresses[at], self.url.port);
                *self.known.borrow_mut() = Some((address, now_ms + resolved.valid_ms));
                address
            }
        };
        let name = trust::server_name(&self.url.host);
        let tls = self.tls.as_ref().map(|client| Secure { client: client.clone(), name });
        Ok(host.pools.lasting(&Target { address, tls }))
    }
}

/// Asks control for the addresses of a name: at least one.
async fn resolve(host: &Host, name: &str) -> io::Result<Resolved> {
    let failed = || io::Error::new(io::ErrorKind::NotFound, format!("failed to resolve {name}"));
    let (answer, resolved) = oneshot::channel();
    if !host.tell_control(ToControl::Resolve { name: Arc::from(name), answer }) {
        return Err(failed());
    }
    let resolved = resolved.await.map_err(|_| failed())?;
    if resolved.addresses.is_empty() { Err(failed()) } else { Ok(resolved) }
}

/// Writes a whole request.
pub fn write_call(call: &Call<'_>, path: &str, authority: &str, keep: bool, out: &mut Vec<u8>) {
    write::request_line(out, call.method.as_bytes(), path.as_bytes());
    if call.headers.get_named(b"host").is_none() {
        write::header(out, b"Host", authority.as_bytes());
    }
    for (name, value, _) in call.headers.iter() {
        write::header(out, name, value);
    }
    if let Some(body) = call.body {
        write::header_number(out, b"Content-Length", body.len() as u64);
    }
    if !keep {
        write::header(out, b"Connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(call.body.unwrap_or_default());
}

/// Reads one answer, up to [`limits::CALL_ANSWER_BYTES`] of body. Bytes behind it stay in the stream. The flag
/// says whether the connection can be used again.
pub async fn read_answer(stream: &Rc<Stream>, method: Method, timeout_ms: u32) -> io::Result<(Answer, bool)> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut head = ResponseHead::default();
    let mut gathered: Vec<u8> = Vec::new();
    let mut interim = 0;
    let rest = loop {
        if !gathered.is_empty() {
            let parsed = http::parse_response(&gathered, limits::RESPONSE_HEAD, &mut head);
            match parsed.map_err(|bad| invalid(bad.reason))? {
                Progress::Partial => {}
                Progress::Done(_) if head.status == 101 => {
                    return Err(invalid("it switched protocols without being asked"));
                }
                Progress::Done(consumed) if (100..200).contains(&head.status) => {
                    drop(gathered.drain(..consumed));
                    interim += consumed;
                    if interim > limits::INTERIM_ANSWERS {
                        return Err(invalid("interim answers without end"));
                    }
                    continue;
                }
                Progress::Done(consumed) => {
                    let mut rest = Chunk::from_vec(gathered);
                    rest.advance(consumed);
                    break rest;
                }
            }
        }
        stream.set_recv_deadline(Some(reactor::now_ms() + u64::from(timeout_ms)));
        let begun = interim > 0 || !gathered.is_empty();
        match stream.recv().await {
            Ok(chunk) if !chunk.is_empty() => gathered.extend_from_slice(&chunk),
            Err(error) if error.kind() == io::ErrorKind::TimedOut || !begun => return Err(error),
            Ok(_) if !begun => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => return Err(invalid(BROKEN_OFF)),
        }
    };
    let framing = response_framing(&head, method).map_err(|bad| invalid(bad.reason))?;
    let mut reusable = response_keep_alive(&head) && framing != Framing::UntilClose;
    if framing == Framing::None {
        if !rest.is_empty() {
            reusable = false;
            stream.unrecv(rest);
        }
        return Ok((Answer { head, body: Vec::new() }, reusable));
    }
    let rest = (!rest.is_empty()).then_some(rest);
    let mut body = Body::H1(H1Body::new(stream.clone(), framing, rest, Side::Upstream, timeout_ms));
    let mut bytes = Vec::new();
    while let Some(piece) = body.piece().await.map_err(broken)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > limits::CALL_ANSWER_BYTES {
            return Err(invalid("the answer is too long"));
        }
    }
    if let Body::H1(body) = &mut body
        && let Some(behind) = body.rest()
    {
        reusable = false;
        stream.unrecv(behind);
    }
    Ok((Answer { head, body: bytes }, reusable))
}

const BROKEN_OFF: &str = "the answer broke off";

/// Was there something of an answer, or a server that takes its time?
fn has_begun(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::InvalidData)
}

fn broken(error: BodyError) -> io::Error {
    match error {
        BodyError::Timeout => io::ErrorKind::TimedOut.into(),
        BodyError::Closed => io::Error::new(io::ErrorKind::InvalidData, BROKEN_OFF),
        BodyError::Malformed | BodyError::TooLarge => io::ErrorKind::InvalidData.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::plugins::kit::test;
    use crate::transport::tests::on_both;

    #[test]
    fn urls() {
        let url =
            |text: &str| Url::parse(text).map(|u| (u.secure, u.authority(), u.port, u.path.to_string()));
        for (text, secure, authority, port, path) in [
            ("http://a.com", false, "a.com", 80, "/"),
            ("https://a.com/x?y=z", true, "a.com", 443, "/x?y=z"),
            ("http://a.com:8080?y", false, "a.com:8080", 8080, "/?y"),
            ("http://[::1]:81/", false, "[::1]:81", 81, "/"),
        ] {
            assert_eq!(url(text), Ok((secure, authority.to_owned(), port, path.to_owned())), "{text}");
        }
        for bad in
            ["a.com", "ftp://a.com", "http://", "http://a.com:x", "http://[::1", "http://a b/", "http:///x"]
        {
            assert_eq!(url(bad), Err(format!("bad uri: {bad}")));
        }
    }

    /// Answers one connection's requests with `answers`, and gives what it read.
    fn server(answers: &'static [&'static str]) -> (Url, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut read = String::new();
            for answer in answers {
                let mut buffer = [0; 4096];
                let length = peer.read(&mut buffer).unwrap();
                read.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
                peer.write_all(answer.as_bytes()).unwrap();
            }
            read
        });
        (Url::parse(&format!("http://127.0.0.1:{port}/auth?x=1")).unwrap(), thread)
    }

    const KEEP: KeepalivePool = KeepalivePool { size: 5, idle_timeout_ms: 1000, requests: 1000 };

    #[test]
    fn two_calls_share_a_connection() {
        on_both(async || {
            let host = test::host();
            let (url, server) = server(&[
                "HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
            ]);
            let port = url.port;
            let client = HttpClient::new(url, true, KEEP, 2000, &host).unwrap();
            let mut headers = Headers::default();
            headers.add(b"X-B", b"2");
            let get = Call { method: "GET", headers: &headers, body: None };
            let answer = client.call(&host, &get).await.unwrap();
            assert_eq!((answer.head.status, &*answer.body), (200, &b"ok"[..]));
            assert_eq!(answer.head.headers.get_named(b"x-a"), Some(&b"1"[..]));
            let post = Call { method: "POST", headers: &Headers::default(), body: Some(b"body") };
            let answer = client.call(&host, &post).await.unwrap();
            assert_eq!((answer.head.status, &*answer.body), (403, &b"bad"[..]));
            // no body: nothing is waited for
            let get = Call { method: "GET", headers: &Headers::default(), body: None };
            assert_eq!(client.call(&host, &get).await.unwrap().head.status, 204);
            assert_eq!(
                server.join().unwrap(),
                format!(
                    "GET /auth?x=1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-B: 2\r\n\r\n\
                     POST /auth?x=1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 4\r\n\r\nbody\
                     GET /auth?x=1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
                )
            );
        });
    }

    #[test]
    fn interim_answers_are_passed_over_and_no_others() {
        const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let final_one =
            format!("HTTP/1.1 102 Processing\r\n\r\n{HINT}HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno");
        let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n".to_owned();
        let endless = HINT.repeat(limits::INTERIM_ANSWERS / HINT.len() + 1);
        for (answer, status) in [(final_one, Some(401)), (switched, None), (endless, None)] {
            let answer: &'static str = answer.leak();
            on_both(async || {
                let host = test::host();
                let (url, server) = server(&*vec![answer].leak());
                let client = HttpClient::new(url, true, KEEP, 10_000, &host).unwrap();
                let get = Call { method: "GET", headers: &Headers::default(), body: None };
                let answered = client.call(&host, &get).await;
                match status {
                    Some(status) => assert_eq!(answered.unwrap().head.status, status),
                    None => assert_eq!(answered.err().unwrap().kind(), io::ErrorKind::InvalidData),
                }
                drop((client, host));
                server.join().unwrap();
            });
        }
    }

    #[test]
    fn a_name_with_two_addresses_keeps_connections_to_both() {
        on_both(async || {
            let (port, connections) = test::serve_two_addresses();
            let host = test::host();
            let url = Url::parse(&format!("http://auth.test:{port}/")).unwrap();
            let client = HttpClient::new(url, true, KEEP, 10_000, &host).unwrap();
            let get = Call { method: "GET", headers: &Headers::default(), body: None };
            for round in 0..6 {
                let address = SocketAddr::from(([127, 0, 0, 1 + round % 2], port));
                client.known.replace(Some((address, u64::MAX)));
                assert_eq!(client.call(&host, &get).await.unwrap().head.status, 200);
            }
            assert_eq!(connections.load(Ordering::Acquire), 2);
        });
    }

    #[test]
    fn who_has_begun_to_answer_is_not_asked_again() {
        for half in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nConte",
            "HTTP/1.1 100 Continue\r\n\r\n",
        ] {
            on_both(async || {
                let host = test::host();
                let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                let (url, server) = server(&*vec![whole, half].leak());
                let client = HttpClient::new(url, true, KEEP, 10_000, &host).unwrap();
                let post = Call { method: "POST", headers: &Headers::default(), body: Some(b"body") };
                assert_eq!(client.call(&host, &post).await.unwrap().head.status, 200);
                let error = client.call(&host, &post).await.err().unwrap();
                assert_eq!(error.to_string(), "the answer broke off");
                assert_eq!(server.join().unwrap().matches("POST").count(), 2);
            });
        }
    }

    /// It may have taken the request.
    #[test]
    fn who_falls_silent_is_not_asked_again() {
        for half in ["", "HTTP/1.1 200 OK\r\nConte", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"] {
            on_both(async || {
                let host = test::host();
                let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
                let server = std::thread::spawn(move || {
                    let (mut peer, _) = listener.accept().unwrap();
                    for answer in [whole, half] {
                        let _ = peer.read(&mut [0; 4096]).unwrap();
                        peer.write_all(answer.as_bytes()).unwrap();
                    }
                    (listener, peer)
                });
                let mut client = HttpClient::new(url, true, KEEP, 10_000, &host).unwrap();
                let post = Call { method: "POST", headers: &Headers::default(), body: Some(b"body") };
                assert_eq!(client.call(&host, &post).await.unwrap().head.status, 200);
                client.timeout_ms = 30;
                assert_eq!(client.call(&host, &post).await.err().unwrap().kind(), io::ErrorKind::TimedOut);
                let (listener, _silent) = server.join().unwrap();
                listener.set_nonblocking(true).unwrap();
                assert!(listener.accept().is_err(), "it was asked again");
            });
        }
    }

    #[test]
    fn a_silent_or_absent_server_is_an_error() {
        on_both(async || {
            let host = test::host();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
            let client = HttpClient::new(url, true, KEEP, 30, &host).unwrap();
            let headers = Headers::default();
            let call = Call { method: "GET", headers: &headers, body: None };
            let error = client.call(&host, &call).await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(listener);
            assert!(client.call(&host, &call).await.is_err());
            let nowhere = Url::parse("http://no.such.name/").unwrap();
            let client = HttpClient::new(nowhere, true, KEEP, 30, &host).unwrap();
            assert!(client.call(&host, &call).await.is_err(), "control does not answer");
        });
    }
}
