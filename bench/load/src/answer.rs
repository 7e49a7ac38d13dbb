//! Where an answer ends: status line, `content-length` or chunked, no more than a load generator needs.

use std::io;

/// An answer as far as it has come.
#[derive(Default)]
pub struct Answer {
    head: Vec<u8>,
    body: Option<Body>,
}

enum Body {
    Length(u64),
    /// The last bytes seen: a chunked body ends with `0\r\n\r\n`.
    Chunked(Vec<u8>),
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Answer {
    /// Takes the next bytes; true when the answer is whole. Anything but a 2xx is an error.
    pub fn feed(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if let Some(body) = &mut self.body {
            return Ok(body.feed(bytes));
        }
        self.head.extend_from_slice(bytes);
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
        let mut body = parse(&self.head[..end])?;
        let whole = body.feed(&self.head[end + 4..]);
        self.body = Some(body);
        Ok(whole)
    }
}

fn parse(head: &[u8]) -> io::Result<Body> {
    let head = std::str::from_utf8(head).map_err(|_| malformed("head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1).is_none_or(|code| !code.starts_with('2')) {
        return Err(malformed(status));
    }
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok(Body::Length(value.trim().parse().map_err(|_| malformed(line))?));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
            return Ok(Body::Chunked(Vec::new()));
        }
    }
    Err(malformed("an answer without length keeps no connection"))
}

impl Body {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        match self {
            Body::Length(rest) => {
                *rest = rest.saturating_sub(bytes.len() as u64);
                *rest == 0
            }
            Body::Chunked(tail) => {
                tail.extend_from_slice(&bytes[bytes.len().saturating_sub(7)..]);
                tail.drain(..tail.len().saturating_sub(7));
                *tail == b"0\r\n\r\n" || tail.ends_with(b"\r\n0\r\n\r\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says_however_it_is_cut() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 1..whole.len() {
            let mut answer = Answer::default();
            assert!(!answer.feed(&whole[..cut]).unwrap(), "whole after {cut} bytes");
            assert!(answer.feed(&whole[cut..]).unwrap(), "not whole, cut at {cut}");
        }
    }

    #[test]
    fn a_chunked_answer_ends_with_its_last_chunk_however_it_is_cut() {
        let whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        for cut in 1..whole.len() {
            let mut answer = Answer::default();
            assert!(!answer.feed(&whole[..cut]).unwrap(), "whole after {cut} bytes");
            assert!(answer.feed(&whole[cut..]).unwrap(), "not whole, cut at {cut}");
        }
    }

    #[test]
    fn an_error_answer_fails_the_run() {
        assert!(Answer::default().feed(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
