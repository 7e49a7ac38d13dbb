//! A client that sends the bytes it is given and shows the answer as it came.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// An answer, taken apart as far as a test wants to see it.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// The status line and all fields, as they came.
    pub head: String,
    /// Names and values in their order.
    pub headers: Vec<(String, String)>,
    /// Without its chunk framing.
    pub body: Vec<u8>,
    /// The fields behind a chunked body.
    pub trailers: Vec<(String, String)>,
    /// It ended where it said it would (false: the connection was closed before).
    pub whole: bool,
}

impl Response {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// All fields of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(2000)];
        write!(f, "{}{}", self.head, String::from_utf8_lossy(body))
    }
}

/// One connection to the gateway.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    #[track_caller]
    pub fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, buffer: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// Sends what a peer that has closed may refuse.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// No more will be sent; the answer can still be read.
    pub fn shut(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The stream itself, for tests that write while they read.
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 64 << 10];
        let n = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// Up to and with the empty line; `None` if the connection ends before.
    #[track_caller]
    fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            match self.fill() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => {
                    panic!("no answer: {error}; so far {:?}", String::from_utf8_lossy(&self.buffer))
                }
            }
        }
    }

    /// The next answer to anything but HEAD and CONNECT.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response(false).expect("an answer before the connection ends")
    }

    /// The next answer to HEAD: its length speaks of a body that does not come.
    #[track_caller]
    pub fn response_to_head(&mut self) -> Response {
        self.try_response(true).expect("an answer before the connection ends")
    }

    /// `None`: the connection was closed without an answer.
    #[track_caller]
    pub fn try_response(&mut self, to_head: bool) -> Option<Response> {
        let head = self.head()?;
        let status = head.split(' ').nth(1).and_then(|s| s.trim().parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {head}"));
        let headers = fields(head.lines().skip(1));
        let mut response =
            Response { status, head, headers, body: Vec::new(), trailers: Vec::new(), whole: true };
        if to_head || status < 200 || status == 204 || status == 304 {
            return Some(response);
        }
        if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            response.whole = self.chunks(&mut response).is_some();
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                if !matches!(self.fill(), Ok(1..)) {
                    response.whole = false;
                    break;
                }
            }
            response.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        } else {
            while matches!(self.fill(), Ok(1..)) {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Some(response)
    }

    /// Reads a large answer without keeping it: the length of its body.
    #[track_caller]
    pub fn count_body(&mut self) -> usize {
        let head = self.head().expect("an answer");
        let headers = fields(head.lines().skip(1));
        let field =
            |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        if let Some(length) = field("content-length") {
            return self.skip(length.parse().unwrap());
        }
        assert_eq!(field("transfer-encoding").as_deref(), Some("chunked"), "{head}");
        let mut total = 0;
        loop {
            let line = self.line().expect("the next chunk");
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("bad chunk size {line:?}"));
            total += self.skip(size);
            assert_eq!(self.line().as_deref(), Some(""), "a chunk ends with CRLF");
            if size == 0 {
                return total;
            }
        }
    }

    #[track_caller]
    fn skip(&mut self, n: usize) -> usize {
        let mut left = n;
        loop {
            let now = left.min(self.buffer.len());
            self.buffer.drain(..now);
            left -= now;
            if left == 0 {
                return n;
            }
            assert_ne!(self.fill().unwrap(), 0, "closed with {left} of {n} bytes to come");
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !matches!(self.fill(), Ok(1..)) {
                return None;
            }
        }
    }

    fn chunks(&mut self, response: &mut Response) -> Option<()> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("bad chunk size {line:?}"));
            if size == 0 {
                let mut lines = Vec::new();
                loop {
                    match self.line()? {
                        line if line.is_empty() => break,
                        line => lines.push(line),
                    }
                }
                response.trailers = fields(lines.iter().map(String::as_str));
                return Some(());
            }
            while self.buffer.len() < size + 2 {
                if !matches!(self.fill(), Ok(1..)) {
                    let left = self.buffer.len().min(size);
                    response.body.extend(self.buffer.drain(..left));
                    return None;
                }
            }
            response.body.extend(self.buffer.drain(..size));
            assert_eq!(self.buffer.drain(..2).as_slice(), b"\r\n", "a chunk ends with CRLF");
        }
    }

    /// Exactly this many bytes, whatever they are: behind a 101.
    #[track_caller]
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert_ne!(self.fill().unwrap(), 0, "closed after {} of {n} bytes", self.buffer.len());
        }
        self.buffer.drain(..n).collect()
    }

    /// Waits for the other side's close; what comes before it is returned.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => return std::mem::take(&mut self.buffer),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return std::mem::take(&mut self.buffer);
                }
                Err(error) => panic!("the connection was not closed: {error}"),
            }
        }
    }

    /// Waits for the close, before which nothing more may come.
    #[track_caller]
    pub fn closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "before the close came {:?}", String::from_utf8_lossy(&rest));
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let split = lines.filter_map(|line| line.split_once(':'));
    split.map(|(name, value)| (name.to_string(), value.trim().to_string())).collect()
}

/// Sends these bytes on a new connection and reads one answer.
#[track_caller]
pub fn ask(port: u16, bytes: &[u8]) -> Response {
    let mut client = Client::connect(port);
    client.send(bytes);
    client.response()
}

/// A GET on a connection of its own.
#[track_caller]
pub fn get(port: u16, target: &str) -> Response {
    request(port, "GET", target, "Host: gateway.test\r\n")
}

/// A request without a body on a connection of its own; each field ends with CRLF.
#[track_caller]
pub fn request(port: u16, method: &str, target: &str, fields: &str) -> Response {
    let mut client = Client::connect(port);
    client.send(format!("{method} {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n"));
    client.try_response(method == "HEAD").expect("an answer before the connection ends")
}
