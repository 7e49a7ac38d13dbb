//! How long a body is, and whether the connection lives on after it (RFC 9112 sections 6.3 and 9.3).

use super::{BadUpstream, Method, Reject, RequestHead, ResponseHead};
use crate::wire::header_name::Name;
use crate::wire::headers::Headers;

/// How the end of a body is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Until the connection is closed; answers only.
    UntilClose,
}

/// The body of a request. A request whose length could be read in two ways is refused (RFC 9112 section 6.1), with nginx's statuses.
pub fn request_framing(head: &RequestHead) -> Result<Framing, Reject> {
    let headers = &head.headers;
    if !headers.has(Name::TransferEncoding) {
        return match content_length(headers) {
            Ok(None | Some(0)) => Ok(Framing::None),
            Ok(Some(length)) => Ok(Framing::Length(length)),
            Err(reason) => Err(Reject::bad(reason)),
        };
    }
    if head.version < 11 {
        return Err(Reject::bad("Transfer-Encoding in an HTTP/1.0 request"));
    }
    if headers.has(Name::ContentLength) {
        return Err(Reject::bad("Content-Length and Transfer-Encoding at the same time"));
    }
    match only(headers, Name::TransferEncoding) {
        Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        Some(_) => Err(Reject::new(501, "unknown Transfer-Encoding")),
        None => Err(Reject::bad("several Transfer-Encoding headers")),
    }
}

/// The body of the answer to a request with `method`. nginx passes no answer on whose length is in doubt (502), nor do we.
pub fn response_framing(head: &ResponseHead, method: Method) -> Result<Framing, BadUpstream> {
    let headers = &head.headers;
    let bad = |reason| BadUpstream { reason };
    let length = content_length(headers).map_err(bad)?;
    let coding = headers.has(Name::TransferEncoding).then(|| only(headers, Name::TransferEncoding));
    if coding.is_some() && length.is_some() {
        return Err(bad("upstream sent Content-Length and Transfer-Encoding at the same time"));
    }
    if method == Method::Head || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(Framing::None);
    }
    match (coding, length) {
        (Some(Some(coding)), _) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), _) => Err(bad("upstream sent an unknown Transfer-Encoding")),
        (None, Some(0)) => Ok(Framing::None),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (None, None) => Ok(Framing::UntilClose),
    }
}

/// Whether the client wants the connection to stay open after this request.
pub fn request_keep_alive(head: &RequestHead) -> bool {
    keep_alive(&head.headers, head.version)
}

/// Whether the upstream keeps the connection open after this answer. A body that [ends with the connection](Framing::UntilClose) says no
/// by itself.
pub fn response_keep_alive(head: &ResponseHead) -> bool {
    keep_alive(&head.headers, head.version)
}

fn keep_alive(headers: &Headers, version: u8) -> bool {
    if !headers.has(Name::Connection) {
        return version > 10;
    }
    !headers.contains_token(Name::Connection, b"close")
        && (version > 10 || headers.contains_token(Name::Connection, b"keep-alive"))
}

/// The value of a field that must not be repeated; `None` if it is.
fn only(headers: &Headers, name: Name) -> Option<&[u8]> {
    let mut values = headers.all(name);
    let first = values.next();
    if values.next().is_some() { None } else { first }
}

/// The Content-Length: digits only, once, below 2^63 (what nginx can hold).
fn content_length(headers: &Headers) -> Result<Option<u64>, &'static str> {
    if !headers.has(Name::ContentLength) {
        return Ok(None);
    }
    let digits = only(headers, Name::ContentLength).ok_or("several Content-Length headers")?;
    let length = digits.iter().try_fold(0u64, |length, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    });
    match length {
        Some(length) if !digits.is_empty() && length <= i64::MAX as u64 => Ok(Some(length)),
        _ => Err("invalid Content-Length header"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RequestLimits, parse_request, parse_response};
    use super::*;

    fn request(version: &str, fields: &str) -> RequestHead {
        let text = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        parse_request(text.as_bytes(), &RequestLimits::default(), &mut head).unwrap();
        head
    }

    fn response(line: &str, fields: &str) -> ResponseHead {
        let mut head = ResponseHead::default();
        parse_response(format!("HTTP/{line}\r\n{fields}\r\n").as_bytes(), 4096, &mut head).unwrap();
        head
    }

    #[test]
    fn requests() {
        for (version, fields, expected) in [
            ("1.1", "", Ok(Framing::None)),
            ("1.1", "Content-Length: 0\r\n", Ok(Framing::None)),
            ("1.1", "Content-Length: 007\r\n", Ok(Framing::Length(7))),
            ("1.1", "Content-Length: 9223372036854775807\r\n", Ok(Framing::Length(i64::MAX as u64))),
            ("1.1", "Content-Length: 9223372036854775808\r\n", Err(400)),
            ("1.1", "Content-Length: 99999999999999999999\r\n", Err(400)),
            ("1.1", "Content-Length:\r\n", Err(400)),
            ("1.1", "Content-Length: +1\r\n", Err(400)),
            ("1.1", "Content-Length: -1\r\n", Err(400)),
            ("1.1", "Content-Length: 0x1\r\n", Err(400)),
            ("1.1", "Content-Length: 1 1\r\n", Err(400)),
            ("1.1", "Content-Length: 1, 1\r\n", Err(400)),
            ("1.1", "Content-Length: 1\r\nContent-Length: 1\r\n", Err(400)),
            ("1.1", "Content-Length: 1\r\ncontent-length: 2\r\n", Err(400)),
            ("1.1", "Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked)),
            ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", Err(400)),
            ("1.1", "Content-Length: 1\r\nTransfer-Encoding: identity\r\n", Err(400)),
            ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(400)),
            ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Err(400)),
            ("1.1", "Transfer-Encoding: gzip, chunked\r\n", Err(501)),
            ("1.1", "Transfer-Encoding: chunked, chunked\r\n", Err(501)),
            ("1.1", "Transfer-Encoding: chunked, gzip\r\n", Err(501)),
            ("1.1", "Transfer-Encoding: identity\r\n", Err(501)),
            ("1.1", "Transfer-Encoding: xchunked\r\n", Err(501)),
            ("1.1", "Transfer-Encoding: \"chunked\"\r\n", Err(501)),
            ("1.1", "Transfer-Encoding:\r\n", Err(501)),
            ("1.0", "Transfer-Encoding: chunked\r\n", Err(400)),
            ("1.0", "Content-Length: 2\r\n", Ok(Framing::Length(2))),
        ] {
            let framing = request_framing(&request(version, fields)).map_err(|reject| reject.status);
            assert_eq!(framing, expected, "{version} {fields:?}");
        }
    }

    #[test]
    fn responses() {
        let length = "Content-Length: 5\r\n";
        let chunked = "Transfer-Encoding: chunked\r\n";
        for (line, fields, method, expected) in [
            ("1.1 200 OK", length, Method::Get, Some(Framing::Length(5))),
            ("1.1 200 OK", length, Method::Head, Some(Framing::None)),
            ("1.1 304 x", length, Method::Get, Some(Framing::None)),
            ("1.1 204 x", "", Method::Get, Some(Framing::None)),
            ("1.1 100 x", "", Method::Post, Some(Framing::None)),
            ("1.1 200 OK", chunked, Method::Get, Some(Framing::Chunked)),
            ("1.1 200 OK", chunked, Method::Head, Some(Framing::None)),
            ("1.0 200 OK", chunked, Method::Get, Some(Framing::Chunked)),
            ("1.1 200 OK", "", Method::Get, Some(Framing::UntilClose)),
            ("1.1 200 OK", "Content-Length: 0\r\n", Method::Get, Some(Framing::None)),
            ("1.1 200 OK", "Content-Length: x\r\n", Method::Get, None),
            ("1.1 200 OK", "Content-Length: 5\r\nContent-Length: 5\r\n", Method::Get, None),
            ("1.1 200 OK", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Method::Get, None),
            ("1.1 200 OK", "Transfer-Encoding: gzip, chunked\r\n", Method::Get, None),
            ("1.1 200 OK", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Method::Get, None),
        ] {
            assert_eq!(
                response_framing(&response(line, fields), method).ok(),
                expected,
                "{line} {fields:?} {method:?}"
            );
        }
    }

    #[test]
    fn keep_alive_by_version_and_connection() {
        for (version, fields, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: Close\r\n", false),
            ("1.1", "Connection: upgrade, close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.1", "Connection: closed\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            assert_eq!(request_keep_alive(&request(version, fields)), expected, "{version} {fields:?}");
            let answer = response(&format!("{version} 200 OK"), fields);
            assert_eq!(response_keep_alive(&answer), expected, "{version} {fields:?}");
        }
    }
}
