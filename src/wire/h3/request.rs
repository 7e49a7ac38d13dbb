//! What makes a request of a field section (RFC 9114 section 4.3.1), and what makes it malformed.

use super::qpack::FieldSection;
use crate::wire::http::assemble::Pseudo;
use crate::wire::http::bytes::{VALUE, past_text};

/// Sorts the pseudo-header fields out; the others are [`fields`]. `None`: the request is malformed.
pub fn pseudo(section: &FieldSection) -> Option<Pseudo<'_>> {
    let (mut method, mut scheme, mut authority, mut path) = (None, None, None, None);
    let mut protocol = None;
    let mut regular = false;
    for (name, value) in section.iter() {
        if !is_value(value) {
            return None;
        }
        if name.first() != Some(&b':') {
            regular = true;
            if !is_field(name, value) {
                return None;
            }
            continue;
        }
        let place = match name {
            b":method" => &mut method,
            b":scheme" => &mut scheme,
            b":authority" => &mut authority,
            b":path" => &mut path,
            b":protocol" => &mut protocol,
            _ => return None,
        };
        // before all others, and once
        if regular || place.replace(value).is_some() {
            return None;
        }
    }
    let method = method?;
    // a tunnel has a target and nothing else (section 4.4), unless it is for a protocol (RFC 9220 section 3)
    let whole = match method {
        b"CONNECT" if protocol.is_none() => scheme.is_none() && path.is_none() && authority.is_some(),
        b"CONNECT" => scheme.is_some() && authority.is_some() && path.is_some_and(|path| !path.is_empty()),
        _ => protocol.is_none() && scheme.is_some() && path.is_some_and(|path| !path.is_empty()),
    };
    // an authority that is there is not empty (section 4.3.1)
    let named = authority.is_none_or(|authority| !authority.is_empty());
    let path = path.unwrap_or_default();
    (whole && named).then_some(Pseudo { version: 30, method, path, authority, protocol })
}

/// The fields that are no pseudo-header fields.
pub fn fields(section: &FieldSection) -> impl Iterator<Item = (&[u8], &[u8])> {
    section.iter().filter(|(name, _)| name.first() != Some(&b':'))
}

/// Are these trailer fields? They have no pseudo-header fields (section 4.3).
pub fn are_trailers(section: &FieldSection) -> bool {
    section.iter().all(|(name, value)| is_value(value) && is_field(name, value))
}

/// A field that HTTP/3 may carry: its name is a token without upper case, and it is not about a connection (section
/// 4.2).
fn is_field(name: &[u8], value: &[u8]) -> bool {
    let is_token =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(is_token) {
        return false;
    }
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => false,
        b"te" => value == b"trailers",
        _ => true,
    }
}

/// No controls but tabs: what HTTP/1.1 could not carry, or would take for the end of a line (section 10.3).
fn is_value(value: &[u8]) -> bool {
    past_text(value, 0, VALUE) == value.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::h3::qpack;

    fn section(fields: &[(&str, &str)]) -> FieldSection {
        let mut out = Vec::new();
        qpack::begin(&mut out);
        // not by `encode`, which makes names lower case
        for (name, value) in fields {
            assert!(name.len() < 127 && value.len() < 127);
            match name.len() {
                short @ 0..7 => out.push(0x20 | short as u8),
                long => out.extend_from_slice(&[0x27, long as u8 - 7]),
            }
            out.extend_from_slice(name.as_bytes());
            out.push(value.len() as u8);
            out.extend_from_slice(value.as_bytes());
        }
        FieldSection::decode(&out, 10_000).unwrap()
    }

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/p")];

    #[test]
    fn a_request() {
        let section = section(&[GET.as_slice(), &[("te", "trailers"), ("x", "1\tü")]].concat());
        let pseudo = pseudo(&section).unwrap();
        assert_eq!((pseudo.version, pseudo.method, pseudo.path), (30, &b"GET"[..], &b"/p"[..]));
        assert_eq!(pseudo.authority, Some(&b"a"[..]));
        assert_eq!(fields(&section).count(), 2);
    }

    #[test]
    fn extended_connect() {
        let method = |method: &'static str| [(":method", method), (":protocol", "websocket")];
        let asked = section(&[&method("CONNECT")[..], &GET[1..]].concat());
        let found = pseudo(&asked).unwrap();
        assert_eq!((found.protocol, found.path), (Some(&b"websocket"[..]), &b"/p"[..]));
        assert!(pseudo(&section(&[&method("GET")[..], &GET[1..]].concat())).is_none());
        for (at, (name, _)) in GET.iter().enumerate().skip(1) {
            let mut fields = [&method("CONNECT")[..], &GET[1..]].concat();
            fields.remove(1 + at);
            assert!(pseudo(&section(&fields)).is_none(), "without {name}");
        }
        let no_path = section(&[&method("CONNECT")[..], &GET[1..3], &[(":path", "")]].concat());
        assert!(pseudo(&no_path).is_none());
    }

    #[test]
    fn malformed_requests() {
        let with = |more: &[(&'static str, &'static str)]| [GET.as_slice(), more].concat();
        let without = |at: usize| [&GET[..at], &GET[at + 1..]].concat();
        for fields in [
            with(&[("X", "1")]),
            with(&[("a b", "1")]),
            with(&[("", "1")]),
            with(&[("x", "1\r\ny: 2")]),
            with(&[("x", "\0")]),
            with(&[("x", "a\u{1}b")]),
            with(&[("x", "\u{7f}")]),
            vec![(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/\u{1}")],
            with(&[("connection", "close")]),
            with(&[("transfer-encoding", "chunked")]),
            with(&[("upgrade", "h2c")]),
            with(&[("keep-alive", "1")]),
            with(&[("proxy-connection", "close")]),
            with(&[("te", "gzip")]),
            with(&[(":path", "/q")]),
            with(&[(":status", "200")]),
            with(&[(":protocol", "websocket")]),
            [&[("x", "1")], GET.as_slice()].concat(),
            without(0),
            without(1),
            without(3),
            vec![(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "")],
            vec![(":method", "GET"), (":scheme", "https"), (":authority", ""), (":path", "/")],
            vec![(":method", "CONNECT")],
            vec![(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")],
            vec![(":method", "CONNECT"), (":authority", "a:1"), (":scheme", "https")],
        ] {
            assert!(pseudo(&section(&fields)).is_none(), "{fields:?}");
        }
        assert!(pseudo(&section(&[(":method", "CONNECT"), (":authority", "a:1")])).is_some());
    }

    #[test]
    fn trailers_have_no_pseudo_header_fields() {
        assert!(are_trailers(&section(&[("x-sum", "1")])));
        assert!(!are_trailers(&section(&[("x-sum", "1"), (":path", "/")])));
        assert!(!are_trailers(&section(&[("X-Sum", "1")])));
        assert!(!are_trailers(&section(&[("x-sum", "1\u{1}")])));
    }
}
