//! `proxy-mirror`: sends a copy of requests to another server, whose answers nobody waits for.
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "proxy-mirror": {
//!       "host": "http://shadow.example.com:8080",
//!       "path": "/shadow",
//!       "path_concat_mode": "prefix",
//!       "sample_ratio": 0.1
//!     }
//!   }
//! }
//! ```
//!
//! Phases: rewrite, where the copy's address is decided, and before_proxy, where it leaves
//! (apisix/plugins/proxy-mirror.lua). The copy has the request's method, headers and body as they go upstream, the
//! `Host` of the original, and the path that the request has when the plugin runs. Its connections are kept, and their
//! number is bounded: what goes beyond is not copied, and said in the log. Timeouts are
//! `plugin_attr.proxy-mirror.timeout` (`connect`, `send`, `read`), else 60 s.
//!
//! Known differences:
//! - a body of more than 1 MiB, or one that has no end yet when so much of it has come, is not copied;
//! - the copy has `X-Forwarded-For` and `X-Real-IP` as the original has them;
//! - `grpc://` and `grpcs://` are accepted and not served yet: nothing is copied to them.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use rustls::pki_types::ServerName;
use serde_json::Value;

use crate::client::Outbound;
use crate::config::units;
use crate::conn::h1::client::{self, AnswerHead, NoAnswer, SendBody};
use crate::exchange::{Client, Exchange, Facts, Vars};
use crate::gate::prepare::client_body_error;
use crate::limits;
use crate::model::KeepalivePool;
use crate::model::address::split_address;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::reactor::{self, Out};
use crate::transport::pool::{Lease, Pool};
use crate::transport::{Secure, Target, trust};
use crate::wire::uri;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "proxy-mirror",
    priority: 1010,
    schema: r#"{
        "type": "object",
        "properties": {
            "host": {
                "type": "string",
                "pattern": "^(http(s)?|grpc(s)?):\\/\\/([\\da-zA-Z.-]+|\\[[\\da-fA-F:]+\\])(:\\d+)?$"
            },
            "path": { "type": "string", "pattern": "^/[^?&]+$" },
            "path_concat_mode": {
                "type": "string",
                "default": "replace",
                "enum": ["replace", "prefix"],
                "description": "the concatenation mode for custom path"
            },
            "sample_ratio": { "type": "number", "minimum": 0.00001, "maximum": 1, "default": 1 }
        },
        "required": ["host"]
    }"#,
    build,
    ..Spec::PLAIN
};

/// The variable that holds the copy's address between the phases, as in APISIX.
const MIRROR_URI: &str = "upstream_mirror_uri";

struct ProxyMirror {
    to: Rc<Mirror>,
    path: Option<Box<str>>,
    prefix: bool,
    sample_ratio: f64,
    rng: RefCell<fastrand::Rng>,
}

/// Where copies go.
struct Mirror {
    /// As written: `http://shadow:8080`.
    base: Box<str>,
    /// Name or address.
    host: Box<str>,
    port: u16,
    tls: bool,
    /// gRPC is not served.
    served: bool,
    connect_ms: u32,
    send_ms: u32,
    read_ms: u32,
}

thread_local! {
    /// Copies that this core has under way.
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// Kept connections to one mirror: nginx's defaults of an upstream.
const KEEP: KeepalivePool = KeepalivePool { size: 32, idle_timeout_ms: 60_000, requests: 1000 };

/// A time of `plugin_attr.proxy-mirror.timeout`, as nginx reads it: a number alone is seconds.
fn timeout_ms(attr: &Value, which: &str) -> u32 {
    let written = match &attr["proxy-mirror"]["timeout"][which] {
        Value::String(text) => units::time_ms(text),
        Value::Number(seconds) => units::time_ms(&seconds.to_string()),
        _ => None,
    };
    written.map_or(60_000, |ms| u32::try_from(ms).unwrap_or(u32::MAX))
}

fn build(conf: &Value, build: &Build) -> Built {
    let base = conf["host"].as_str().unwrap_or_default();
    let (scheme, authority) = base.split_once("://").unwrap_or(("http", base));
    let tls = matches!(scheme, "https" | "grpcs");
    let (host, port) = split_address(authority);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let default_port = if tls { 443 } else { 80 };
    let attr = build.host.attr.borrow();
    let ms = |which: &str| timeout_ms(&attr, which);
    Ok(Rc::new(ProxyMirror {
        to: Rc::new(Mirror {
            base: base.into(),
            host: host.into(),
            port: port
                .map_or(Some(default_port), |port| port.parse().ok())
                .ok_or("the port of host is none")?,
            tls,
            served: matches!(scheme, "http" | "https"),
            connect_ms: ms("connect"),
            send_ms: ms("send"),
            read_ms: ms("read"),
        }),
        path: conf["path"].as_str().map(Box::from),
        prefix: conf["path_concat_mode"] == "prefix",
        sample_ratio: conf["sample_ratio"].as_f64().unwrap_or(1.0),
        rng: RefCell::new(fastrand::Rng::new()),
    }))
}

impl Plugin for ProxyMirror {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite, Phase::BeforeProxy])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        if self.sample_ratio < 1.0 && self.rng.borrow_mut().f64() >= self.sample_ratio {
            return Step::Next;
        }
        let mut address = self.to.base.as_bytes().to_vec();
        address.extend_from_slice(&self.uri(ex));
        ex.set_var(MIRROR_URI, address);
        Step::Next
    }

    fn before_proxy<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let base = self.to.base.as_bytes();
        let address = ex.var(MIRROR_URI);
        let Some(uri) = address.as_deref().and_then(|address| address.strip_prefix(base)) else {
            return Step::Next; // not this time, or to the mirror of another object
        };
        let uri = uri.to_vec();
        if !self.to.served {
            log::error!("proxy-mirror to {} is not served", self.to.base);
            return Step::Next;
        }
        if UNDER_WAY.get() >= limits::MIRRORS {
            log::warn!("{} copies to mirrors are under way: a request is not copied", limits::MIRRORS);
            return Step::Next;
        }
        if ex.req.body.is_done() {
            self.to.clone().spawn(Copied::of(ex, uri, &[]), host);
            return Step::Next;
        }
        Step::Wait(Box::pin(async move {
            match ex.req.body.read_ahead(limits::MIRROR_BODY).await {
                Ok(Some(body)) => {
                    self.to.clone().spawn(Copied::of(ex, uri, &body), host);
                    None
                }
                Ok(None) => {
                    log::warn!("a body of more than {} bytes is not copied to a mirror", limits::MIRROR_BODY);
                    None
                }
                Err(error) => Some(client_body_error(ex, error)),
            }
        }))
    }
}

impl ProxyMirror {
    /// Path and arguments of the copy.
    fn uri(&self, ex: &Exchange) -> Vec<u8> {
        let mut out = Vec::new();
        let args = |out: &mut Vec<u8>| {
            if let Some(args) = ex.req.args.as_deref().filter(|args| !args.is_empty()) {
                out.push(b'?');
                out.extend_from_slice(args);
            }
        };
        if let Some(path) = &self.path {
            out.extend_from_slice(path.as_bytes());
            if !self.prefix {
                args(&mut out);
                return out;
            }
        }
        match &ex.out.uri {
            Some(uri) => out.extend_from_slice(uri),
            None => {
                out.extend_from_slice(&uri::encode(&ex.req.path));
                args(&mut out);
            }
        }
        out
    }
}

/// A copy of a request, ready to be sent.
struct Copied {
    bytes: Vec<u8>,
    facts: Rc<Facts>,
    method: Box<[u8]>,
}

impl Copied {
    fn of(ex: &mut Exchange, uri: Vec<u8>, body: &[u8]) -> Copied {
        let own = ex.out.uri.replace(uri);
        let framing = if body.is_empty() { SendBody::Nothing } else { SendBody::Length(body.len() as u64) };
        let mut bytes = reactor::take_buffer();
        client::write_request(ex, false, framing, &mut bytes);
        ex.out.uri = own;
        bytes.extend_from_slice(body);
        let method = ex.out.method.clone().unwrap_or_else(|| ex.req.head.method_text().into());
        Copied { bytes, facts: ex.facts.clone(), method }
    }
}

impl Mirror {
    /// Sends a copy in a task of its own.
    fn spawn(self: Rc<Self>, copied: Copied, host: &Host) {
        let outbound = host.outbound.clone();
        UNDER_WAY.set(UNDER_WAY.get() + 1);
        reactor::spawn(async move {
            let _one = UnderWay;
            if let Err(error) = self.send(copied, &outbound).await {
                log::error!("a copy of a request could not be sent to {}: {error}", self.base);
            }
        });
    }

    /// Sends a copy and reads the answer to its end, for the sake of the connection.
    async fn send(&self, copied: Copied, outbound: &Outbound) -> io::Result<()> {
        let pool = self.pool(outbound).await?;
        let lease = Lease::take(&pool, KEEP, false, reactor::now_ms(), self.connect_ms).await?;
        let stream = lease.connection.stream.clone();
        stream.set_send_deadline(Some(reactor::now_ms() + u64::from(self.send_ms)));
        stream.send(Out::from(copied.bytes));
        // an exchange of its own, of which only the answer is read
        let mut ex = Exchange::new(copied.facts, Client::None, reactor::now_ms());
        ex.out.method = Some(copied.method);
        let keep =
            match client::read_answer(&stream, &mut ex, AnswerHead::default(), self.read_ms, false).await {
                Ok(keep) => keep,
                Err(NoAnswer::Broken(error)) => return Err(error),
                Err(NoAnswer::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Err(NoAnswer::Invalid(_) | NoAnswer::ClientGone) => return Ok(()),
            };
        let mut read = 0;
        while let Ok(Some(piece)) = ex.resp.body.piece().await {
            read += piece.len();
            if read > limits::MIRROR_BODY {
                return Ok(());
            }
        }
        if keep && ex.resp.body.ended_clean() {
            lease.keep(reactor::now_ms());
        }
        Ok(())
    }

    async fn pool(&self, outbound: &Outbound) -> io::Result<Rc<Pool>> {
        let until_ms = reactor::now_ms() + u64::from(self.connect_ms);
        let addresses = outbound.names.resolve(&self.host, until_ms).await;
        let Some(ip) = fastrand::choice(addresses) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its name has no address"));
        };
        let tls = match self.tls {
            true => Some(Secure {
                client: outbound.tls.get(false, None, &[])?,
                name: trust::server_name(&self.host).filter(|name| matches!(name, ServerName::DnsName(_))),
            }),
            false => None,
        };
        Ok(outbound.pools.lasting(&Target { address: (ip, self.port).into(), tls }))
    }
}

/// Counts one copy under way, until it is dropped.
struct UnderWay;

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.set(UNDER_WAY.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, TcpListener};
    use std::sync::atomic::Ordering;

    use serde_json::json;

    use super::*;
    use crate::exchange::Body;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        for (conf, error) in [
            (json!({}), "property \"host\" is required"),
            (
                json!({"host": "http://a.com", "sample_ratio": 10}),
                "property \"sample_ratio\" validation failed: expected 10 to be at most 1",
            ),
            (
                json!({"host": "http://a.com", "path": "a"}),
                "property \"path\" validation failed: failed to match pattern \"^/[^?&]+$\" with \"a\"",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
        for host in ["a.com", "http://a.com/x", "ftp://a.com", "http://a.com:x"] {
            assert_ne!(test::check(&SPEC, SchemaType::Plain, json!({"host": host})), "accepted", "{host}");
        }
        for host in ["http://a.com", "https://1.2.3.4:81", "grpcs://[::1]:5"] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, json!({"host": host})), "accepted", "{host}");
        }
    }

    #[test]
    fn addresses_of_copies() {
        let host = test::host();
        for (conf, rewritten, expected) in [
            (json!({}), None, "http://a.com:81/x%20y?b=1"),
            (json!({"path": "/p"}), None, "http://a.com:81/p?b=1"),
            (json!({"path": "/p", "path_concat_mode": "prefix"}), None, "http://a.com:81/p/x%20y?b=1"),
            (json!({}), Some("/new?c=2"), "http://a.com:81/new?c=2"),
            (json!({"path": "/p"}), Some("/new?c=2"), "http://a.com:81/p?b=1"),
        ] {
            let mut whole = conf.clone();
            whole["host"] = json!("http://a.com:81");
            let plugin = test::build(&SPEC, &host, whole);
            let mut ex = test::exchange("GET /x%20y?b=1 HTTP/1.1\nHost: a");
            ex.out.uri = rewritten.map(|uri: &str| uri.as_bytes().to_vec());
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
            let address = ex.var(MIRROR_URI).unwrap().into_owned();
            assert_eq!(String::from_utf8(address).unwrap(), expected, "{conf}");
        }
    }

    /// t/cli/test_proxy_mirror_timeout.sh
    #[test]
    fn timeouts_are_those_of_plugin_attr() {
        let attr = json!({"proxy-mirror": {"timeout": {"connect": "2000ms", "read": "2s", "send": 3}}});
        assert_eq!(["connect", "read", "send"].map(|which| timeout_ms(&attr, which)), [2000, 2000, 3000]);
        assert_eq!(timeout_ms(&json!({}), "read"), 60_000);
    }

    #[test]
    fn a_sample_is_copied() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({"host": "http://a.com", "sample_ratio": 0.3}));
        let copied = (0..1000).filter(|_| {
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
            test::run(&plugin, Phase::Rewrite, &mut ex, &host);
            ex.var(MIRROR_URI).is_some()
        });
        let share = copied.count();
        assert!((200..400).contains(&share), "{share}");
    }

    /// A server that answers `answers` requests on one connection, and gives what it was sent.
    fn server(answers: usize) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut seen = String::new();
            for _ in 0..answers {
                let mut buffer = [0; 4096];
                let read = peer.read(&mut buffer).unwrap();
                seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
                peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
            seen
        });
        (port, thread)
    }

    #[test]
    fn copies_to_a_name_with_two_addresses_keep_connections_to_both() {
        let (port, connections) = test::serve_two_addresses();
        reactor::block_on(reactor::Config::default(), |_| async move {
            let host = test::host();
            let addresses = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
            host.outbound.names.put("mirror.test", &addresses);
            let plugin = test::build(&SPEC, &host, json!({"host": format!("http://mirror.test:{port}")}));
            for _ in 0..30 {
                let mut ex = test::exchange("GET /x HTTP/1.1\nHost: a.com");
                let _ = plugin.rewrite(&mut ex, &host);
                let _ = plugin.before_proxy(&mut ex, &host);
                while UNDER_WAY.get() > 0 {
                    reactor::sleep(1).await;
                }
            }
        })
        .unwrap();
        assert!(connections.load(Ordering::Acquire) <= 2);
    }

    #[test]
    fn copies_leave_with_headers_and_body_on_one_connection() {
        let (port, thread) = server(2);
        reactor::block_on(reactor::Config::default(), |_| async move {
            let host = test::host();
            let plugin = test::build(&SPEC, &host, json!({"host": format!("http://127.0.0.1:{port}")}));
            for round in 0..2 {
                let mut ex = test::exchange("POST /x?a=1 HTTP/1.1\nHost: a.com\nX-Tag: 7");
                ex.out.host = Some(b"up.com".to_vec());
                ex.req.body = Body::from_vec(format!("body{round}").into_bytes());
                let _ = plugin.rewrite(&mut ex, &host);
                if let Step::Wait(future) = plugin.before_proxy(&mut ex, &host) {
                    assert_eq!(future.await, None);
                }
                assert_eq!(ex.req.body.known_length(), Some(5), "the upstream gets it, too");
                while UNDER_WAY.get() > 0 {
                    reactor::sleep(1).await;
                }
            }
        })
        .unwrap();
        let seen = thread.join().unwrap();
        let first = "POST /x?a=1 HTTP/1.1\r\nHost: up.com\r\n";
        assert!(seen.starts_with(first), "{seen}");
        assert!(seen.contains("X-Tag: 7\r\n") && seen.contains("Content-Length: 5\r\n"), "{seen}");
        assert!(seen.contains("\r\n\r\nbody0POST") && seen.ends_with("body1"), "{seen}");
    }
}
