//! The least of HTTP/1.1 that costs what a gateway's heads cost: parsed with httparse, written anew without the
//! hop-by-hop `connection` header, framed by `content-length` alone.

use httparse::{EMPTY_HEADER, Header, Request, Response, Status};

const HEADERS: usize = 64;

/// A parsed head.
pub struct Head {
    /// Bytes of the head, blank line included.
    pub length: usize,
    /// Bytes of the body.
    pub body: u64,
}

/// A head that cannot be understood; the connection closes.
#[derive(Debug)]
pub struct Malformed;

impl From<Malformed> for std::io::Error {
    fn from(_: Malformed) -> Self {
        std::io::ErrorKind::InvalidData.into()
    }
}

/// A function that parses one kind of head from `input` and writes it anew to `out`; `None` when it is incomplete.
pub type Parse = fn(&[u8], &mut Vec<u8>) -> Result<Option<Head>, Malformed>;

/// [`Parse`] for requests.
pub fn request(input: &[u8], out: &mut Vec<u8>) -> Result<Option<Head>, Malformed> {
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut head = Request::new(&mut headers);
    let Status::Complete(length) = head.parse(input).map_err(|_| Malformed)? else { return Ok(None) };
    out.extend_from_slice(head.method.unwrap_or_default().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.path.unwrap_or_default().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let body = write_headers(head.headers, out)?;
    Ok(Some(Head { length, body }))
}

/// [`Parse`] for responses.
pub fn response(input: &[u8], out: &mut Vec<u8>) -> Result<Option<Head>, Malformed> {
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut head = Response::new(&mut headers);
    let Status::Complete(length) = head.parse(input).map_err(|_| Malformed)? else { return Ok(None) };
    let code = head.code.unwrap_or_default();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend([code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8));
    out.push(b' ');
    out.extend_from_slice(head.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let body = write_headers(head.headers, out)?;
    Ok(Some(Head { length, body }))
}

fn write_headers(headers: &[Header], out: &mut Vec<u8>) -> Result<u64, Malformed> {
    let mut body = 0;
    for header in headers {
        if header.name.eq_ignore_ascii_case("connection") {
            continue;
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(header.value).map_err(|_| Malformed)?;
            body = digits.parse().map_err(|_| Malformed)?;
        }
        out.extend_from_slice(header.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(header.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(body)
}
