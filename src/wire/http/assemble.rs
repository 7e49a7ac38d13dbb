//! Heads that come apart, as HTTP/2 and HTTP/3 carry them: pseudo-header fields and a list. They become the same
//! heads that a parser of lines gives (RFC 9113 section 8.3).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::bytes::{TARGET, past};
use super::head::{RequestHead, RequestLimits, ResponseHead};
use super::{Method, Reject, scan};
use crate::wire::header_name::Name;
use crate::wire::headers::{Span, trim_blanks};

/// The pseudo-header fields of a request.
#[derive(Clone, Copy, Debug)]
pub struct Pseudo<'a> {
    /// 20 or 30.
    pub version: u8,
    /// `:method`
    pub method: &'a [u8],
    /// `:path`, empty where there is none (CONNECT).
    pub path: &'a [u8],
    /// `:authority`
    pub authority: Option<&'a [u8]>,
    /// `:protocol` of an extended CONNECT (RFC 8441 section 4).
    pub protocol: Option<&'a [u8]>,
}

impl RequestHead {
    /// Makes this the head of a request with these fields, whose values are known to hold no controls but tabs
    /// and whose connection-specific fields were refused. `:authority` becomes `Host`, and crumbs of `Cookie` are joined
    /// (RFC 9113 section 8.2.3). The extended CONNECT of a WebSocket becomes the upgrade that it would be over HTTP/1.1:
    /// what routes, plugins and upstreams know. Returns its bytes.
    pub fn assemble<'a>(
        &mut self,
        pseudo: Pseudo<'_>,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        limits: &RequestLimits,
    ) -> Result<usize, Reject> {
        self.clear();
        let pseudo = as_upgrade(pseudo)?;
        if pseudo.path.len() > limits.line_bytes {
            return Err(Reject::new(414, "request line too long"));
        }
        self.put_line(pseudo);
        if !scan::is_method(pseudo.method) {
            return Err(Reject::bad("invalid method"));
        }
        if !is_path(pseudo.path) {
            return Err(Reject::bad("invalid :path"));
        }
        let mut bytes = pseudo.method.len() + pseudo.path.len();
        if let Some(authority) = pseudo.authority {
            bytes += authority.len();
            self.headers.put(Name::Host, authority);
        }
        if pseudo.protocol.is_some() {
            self.put_handshake();
        }
        let mut crumbs: Vec<u8> = Vec::new();
        for (name, value) in fields {
            bytes += name.len() + value.len();
            if name.len() + value.len() > limits.line_bytes || bytes > limits.head_bytes {
                return Err(Reject::HEAD_TOO_LARGE);
            }
            if trim_blanks(value).len() != value.len() {
                return Err(Reject::bad("a field value begins or ends with a blank"));
            }
            match Name::of(name) {
                // no part of this handshake (RFC 8441 section 5); ours is there
                Name::SecWebsocketKey if pseudo.protocol.is_some() => continue,
                // both may stand there if they say the same (RFC 9113 section 8.3.1)
                Name::Host if pseudo.authority.is_some_and(|authority| authority == value) => continue,
                Name::Cookie => {
                    if !crumbs.is_empty() {
                        crumbs.extend_from_slice(b"; ");
                    }
                    crumbs.extend_from_slice(value);
                    continue;
                }
                Name::Other if !is_plain(name, limits) => match limits.ignore_invalid_headers {
                    true => continue,
                    false => return Err(Reject::bad("invalid header name")),
                },
                _ => {}
            }
            if !self.headers.add(name, value) {
                return Err(Reject::bad("invalid header"));
            }
        }
        if !crumbs.is_empty() {
            self.headers.put(Name::Cookie, &crumbs);
        }
        self.settle()?;
        Ok(bytes)
    }

    /// The fields of an upgrade that an extended CONNECT has not (RFC 6455 section 4.1).
    fn put_handshake(&mut self) {
        let mut nonce = [0; 16];
        fastrand::fill(&mut nonce);
        self.headers.put(Name::Upgrade, b"websocket");
        self.headers.put(Name::Connection, b"Upgrade");
        self.headers.put(Name::SecWebsocketKey, STANDARD.encode(nonce).as_bytes());
    }

    /// The request line as nginx shows it in `$request`.
    fn put_line(&mut self, pseudo: Pseudo<'_>) {
        self.version = pseudo.version;
        self.method = Method::of(pseudo.method);
        self.method_text = self.headers.append_text(pseudo.method);
        self.headers.append_text(b" ");
        self.target = self.headers.append_text(pseudo.path);
        self.headers.append_text(if pseudo.version == 20 { b" HTTP/2.0" } else { b" HTTP/3.0" });
        self.line = Span::new(0, self.headers.text().len());
    }
}

impl ResponseHead {
    /// Makes this the head of an answer with these fields. A field that HTTP/1.1 could not carry is left out.
    pub fn assemble<'a>(&mut self, status: u16, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        self.clear();
        self.status = status;
        self.version = 20;
        for (name, value) in fields {
            self.headers.add(name, value);
        }
    }
}

/// An extended CONNECT is a GET that asks for an upgrade; only WebSockets are served (RFC 9220 section 3: 501).
fn as_upgrade(pseudo: Pseudo<'_>) -> Result<Pseudo<'_>, Reject> {
    match pseudo.protocol {
        None => Ok(pseudo),
        Some(b"websocket") => Ok(Pseudo { method: b"GET", ..pseudo }),
        Some(_) => Err(Reject::new(501, "extended CONNECT for another protocol than websocket")),
    }
}

/// Path and query, of what may stand in a line of HTTP/1.1, where a blank ends them (RFC 9114 section 4.3.1). A CONNECT has
/// none.
fn is_path(path: &[u8]) -> bool {
    path.is_empty() || (path.starts_with(b"/") && past(path, 0, TARGET) == path.len())
}

/// nginx's valid names: letters, digits, `-`, and `_` where it is allowed.
fn is_plain(name: &[u8], limits: &RequestLimits) -> bool {
    name.iter()
        .all(|b| b.is_ascii_alphanumeric() || *b == b'-' || (*b == b'_' && limits.underscores_in_headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudo<'a>(method: &'a str, path: &'a str, authority: Option<&'a str>) -> Pseudo<'a> {
        let authority = authority.map(str::as_bytes);
        Pseudo { version: 20, method: method.as_bytes(), path: path.as_bytes(), authority, protocol: None }
    }

    fn assembled(pseudo: Pseudo<'_>, fields: &[(&str, &str)]) -> Result<RequestHead, u16> {
        let mut head = RequestHead::default();
        let fields = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        head.assemble(pseudo, fields, &RequestLimits::default()).map_err(|reject| reject.page)?;
        Ok(head)
    }

    #[test]
    fn a_head_is_what_the_same_request_of_http_1_would_be() {
        let fields = [("accept", "*/*"), ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")];
        let head = assembled(pseudo("GET", "/p?q", Some("Foo.example:81")), &fields).unwrap();
        assert_eq!(head.line(), b"GET /p?q HTTP/2.0");
        assert_eq!((head.method, head.version), (Method::Get, 20));
        assert_eq!((head.method_text(), head.path()), (&b"GET"[..], &b"/p?q"[..]));
        let host = head.host().unwrap();
        assert_eq!((host.name, host.port), (&b"Foo.example"[..], Some(81)));
        assert_eq!(head.headers.get(Name::Host), Some(&b"Foo.example:81"[..]));
        assert_eq!(head.headers.all(Name::Cookie).collect::<Vec<_>>(), [b"a=1; b=2"]);
        assert_eq!(head.headers.get_named(b"X"), Some(&b"y"[..]));
    }

    #[test]
    fn a_websocket_is_asked_for_as_by_http_1() {
        let connect = Pseudo { protocol: Some(b"websocket"), ..pseudo("CONNECT", "/chat?q", Some("a")) };
        let fields = [("sec-websocket-version", "13"), ("sec-websocket-key", "mine"), ("origin", "b")];
        let head = assembled(connect, &fields).unwrap();
        assert_eq!((head.method, head.line()), (Method::Get, &b"GET /chat?q HTTP/2.0"[..]));
        assert_eq!(head.headers.get(Name::Upgrade), Some(&b"websocket"[..]));
        assert_eq!(head.headers.get(Name::Connection), Some(&b"Upgrade"[..]));
        assert_eq!(head.headers.get_named(b"sec-websocket-version"), Some(&b"13"[..]));
        let keys: Vec<&[u8]> = head.headers.all_named(b"sec-websocket-key").collect();
        let [key] = keys[..] else { panic!("one key: {keys:?}") };
        assert_eq!(STANDARD.decode(key).unwrap().len(), 16);
        let again = assembled(connect, &fields).unwrap();
        assert_ne!(again.headers.get_named(b"sec-websocket-key"), Some(key), "a nonce");
        let other = Pseudo { protocol: Some(b"connect-udp"), ..connect };
        assert_eq!(assembled(other, &[]).err(), Some(501));
    }

    #[test]
    fn host_and_authority() {
        let host = |authority, fields: &[(&str, &str)]| {
            let head = assembled(pseudo("GET", "/", authority), fields)?;
            Ok(String::from_utf8(head.headers.get(Name::Host).unwrap().to_vec()).unwrap())
        };
        assert_eq!(host(Some("a"), &[]), Ok("a".to_owned()));
        assert_eq!(host(None, &[("host", "b")]), Ok("b".to_owned()));
        assert_eq!(host(Some("a"), &[("host", "a")]), Ok("a".to_owned()));
        assert_eq!(host(Some("a"), &[("host", "b")]), Err(400), "they contradict each other");
        assert_eq!(host(None, &[]), Err(400));
        assert_eq!(host(Some("a/b"), &[]), Err(400));
        assert_eq!(host(None, &[("host", "a"), ("host", "a")]), Err(400));
    }

    #[test]
    fn what_http_1_refuses_is_refused() {
        let long = "x".repeat(9000);
        let many: Vec<(&str, &str)> = (0..5).map(|_| ("a", &long[..8000])).collect();
        for (pseudo, fields, status) in [
            (pseudo("GET", &long, Some("a")), vec![], 414),
            (pseudo("GET", "/", Some("a")), vec![("a", &*long)], 494),
            (pseudo("GET", "/", Some("a")), many, 494),
            (pseudo("get", "/", Some("a")), vec![], 400),
            (pseudo("GET", "*", Some("a")), vec![], 400),
            (pseudo("GET", "x", Some("a")), vec![], 400),
            (pseudo("CONNECT", "", Some("a:1")), vec![], 405),
            (pseudo("TRACE", "/", Some("a")), vec![], 405),
            (pseudo("GET", "/", Some("a")), vec![("a", " b")], 400),
            (pseudo("GET", "/", Some("a")), vec![("a", "b\t")], 400),
            (pseudo("GET", "/admin HTTP/1.1", Some("a")), vec![], 400),
            (pseudo("GET", "/a\tb", Some("a")), vec![], 400),
            (pseudo("GET", "/a\u{1}", Some("a")), vec![], 400),
            (pseudo("GET", "/a?\u{7f}", Some("a")), vec![], 400),
            (pseudo("GET", "http://b/", Some("a")), vec![], 400),
        ] {
            assert_eq!(assembled(pseudo, &fields).err(), Some(status), "{pseudo:?}");
        }
        let odd = assembled(pseudo("GET", "/", Some("a")), &[("a.b", "1"), ("c_d", "2")]).unwrap();
        assert_eq!(odd.headers.get_named(b"a.b"), None, "an invalid name is dropped, as nginx does");
        assert_eq!(odd.headers.get_named(b"c_d"), Some(&b"2"[..]));
        let text = assembled(pseudo("GET", "/ä?ö", Some("a")), &[("a", "b\tü c")]).unwrap();
        assert_eq!(
            (text.path(), text.headers.get_named(b"a")),
            ("/ä?ö".as_bytes(), Some("b\tü c".as_bytes()))
        );
    }
}
