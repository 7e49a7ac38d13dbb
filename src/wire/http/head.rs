//! Heads of requests and responses. A head that is whole at the first look, which is nearly every one, is read in one pass
//! (the first line by [`scan`](super::scan), then [`fields`](super::fields)). Otherwise its end is searched first, as often as
//! bytes come, and what does not keep to the limits is refused there; only then are its lines read, and decide on errors.

use super::scan::{self, Search};
use super::{BadUpstream, Host, Method, Progress, Reject};
use crate::wire::header_name::Name;
use crate::wire::headers::{Headers, Span};

/// What `nginx_config` allows of a request head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestLimits {
    /// Longest line, its CRLF included, bytes: the size of `large_client_header_buffers`.
    pub line_bytes: usize,
    /// Longest head, bytes: number times size of `large_client_header_buffers`.
    pub head_bytes: usize,
    /// A field whose name has other bytes than letters, digits, `-` (and `_`) is dropped; else it is a 400.
    pub ignore_invalid_headers: bool,
    /// Whether `_` is a valid byte of a name.
    pub underscores_in_headers: bool,
}

impl Default for RequestLimits {
    /// nginx's `large_client_header_buffers 4 8k` and `ignore_invalid_headers on`, APISIX's `underscores_in_headers on`.
    fn default() -> Self {
        RequestLimits {
            line_bytes: 8 << 10,
            head_bytes: 4 * (8 << 10),
            ignore_invalid_headers: true,
            underscores_in_headers: true,
        }
    }
}

/// The head of a request. One is used for all requests of a connection.
#[derive(Clone, Default, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// 10 or 11; a higher 1.x counts as 11 (RFC 9110 section 2.5).
    pub version: u8,
    /// The fields. Of an absolute-form target the authority has replaced the value of `Host` (RFC 9112 section 3.2.2).
    pub headers: Headers,
    pub(super) method_text: Span,
    pub(super) target: Span,
    pub(super) line: Span,
    path: Span,
    host: Span,
    port: Option<u16>,
    search: Search,
}

impl RequestHead {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        let headers = std::mem::take(&mut self.headers);
        *self = RequestHead { headers, ..RequestHead::default() };
        self.headers.clear();
    }

    /// The method as written.
    pub fn method_text(&self) -> &[u8] {
        self.method_text.of(self.headers.text())
    }

    /// The request target as written: `/path?query`, or an absolute URI.
    pub fn target(&self) -> &[u8] {
        self.target.of(self.headers.text())
    }

    /// The target in origin-form, `/path?query`, else as written: what an upstream gets when nothing rewrites it.
    pub fn path(&self) -> &[u8] {
        self.path.of(self.headers.text())
    }

    /// `GET /path HTTP/1.1` as written: nginx's `$request`.
    pub fn line(&self) -> &[u8] {
        self.line.of(self.headers.text())
    }

    /// The host asked for: the authority of an absolute-form target, else the `Host` field, which HTTP/1.0 may lack.
    pub fn host(&self) -> Option<Host<'_>> {
        let name = self.host.of(self.headers.text());
        (!name.is_empty()).then_some(Host { name, port: self.port })
    }

    /// What was sent in place of a request line is kept for the access log, as nginx keeps it.
    #[cold]
    fn keep_line(&mut self, buf: &[u8], line_bytes: usize) {
        let bytes = &buf[scan::empty_lines(buf)..];
        let bytes = &bytes[..bytes.len().min(line_bytes)];
        let end = memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
        self.clear();
        self.line = self.headers.append_text(&bytes[..end]);
    }

    /// The checks that need the whole head, in nginx's order: target, host, method.
    pub(super) fn settle(&mut self) -> Result<(), Reject> {
        let authority = self.settle_target()?;
        let mut hosts = self.headers.spans(Name::Host);
        let (sent, second) = (hosts.next(), hosts.next());
        drop(hosts);
        if second.is_some() {
            return Err(Reject::bad("several Host headers"));
        }
        if sent.is_none() && self.version > 10 {
            return Err(Reject::bad("HTTP/1.1 request without Host header"));
        }
        if let Some(sent) = sent
            && !self.settle_host(sent)
        {
            return Err(Reject::bad("invalid Host header"));
        }
        if let Some(authority) = authority {
            self.headers.set_span(Name::Host, authority);
            self.settle_host(authority);
        }
        match self.method {
            Method::Trace | Method::Connect => Err(Reject::new(405, "method not allowed")),
            _ => Ok(()),
        }
    }

    /// Takes the host and port out of `text`; false if it is none.
    fn settle_host(&mut self, text: Span) -> bool {
        let Some(host) = Host::parse(text.of(self.headers.text())) else { return false };
        // a name begins where the text does
        (self.host, self.port) = (Span::new(text.start(), host.name.len()), host.port);
        true
    }

    /// Finds path and authority in the target (RFC 9112 section 3.2). `OPTIONS *` is a 400, as in nginx.
    fn settle_target(&mut self) -> Result<Option<Span>, Reject> {
        const INVALID: Reject = Reject::bad("invalid request target");
        let target = self.target();
        if target.first() == Some(&b'/') {
            self.path = self.target;
            return Ok(None);
        }
        if self.method == Method::Connect {
            return Err(Reject::new(405, "method not allowed"));
        }
        let colon = memchr::memchr(b':', target).ok_or(INVALID)?;
        let (scheme, rest) = target.split_at(colon);
        let rest = rest.strip_prefix(b"://").ok_or(INVALID)?;
        let is_scheme = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !scheme.first().is_some_and(u8::is_ascii_alphabetic) || !scheme.iter().all(is_scheme) {
            return Err(INVALID);
        }
        let authority_len = memchr::memchr3(b'/', b'?', b'#', rest).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_len);
        if Host::parse(authority).is_none() || path.first() == Some(&b'#') {
            return Err(INVALID);
        }
        let authority = Span::new(self.target.start() + colon + 3, authority_len);
        let path = Span::new(authority.start() + authority_len, path.len());
        self.path = match path.of(self.headers.text()).first() {
            Some(b'/') => path,
            _ => self.headers.append_path(path),
        };
        Ok(Some(authority))
    }
}

/// The head of a response.
#[derive(Clone, Default, Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// 10 or 11.
    pub version: u8,
    /// The fields.
    pub headers: Headers,
    pub(super) reason: Span,
    search: Search,
}

impl ResponseHead {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        let headers = std::mem::take(&mut self.headers);
        *self = ResponseHead { headers, ..ResponseHead::default() };
        self.headers.clear();
    }

    /// Another status, with its standard reason phrase.
    pub fn set_status(&mut self, status: u16) {
        self.status = status;
        self.reason = Span::default();
    }

    /// The reason phrase as written; often empty.
    pub fn reason(&self) -> &[u8] {
        self.reason.of(self.headers.text())
    }
}

/// Reads a request head from the beginning of `buf`. While it answers [`Progress::Partial`] call it again with the same bytes and more behind
/// them (and the same `head`, which remembers how far the end was searched: the cost is linear in the bytes). Empty lines before the
/// request line are skipped (RFC 9112 section 2.2). Of a head that is refused there is at least the line.
pub fn parse_request(buf: &[u8], limits: &RequestLimits, head: &mut RequestHead) -> Result<Progress, Reject> {
    let outcome = read_request(buf, limits, head);
    if outcome.is_err() && head.line.is_empty() {
        head.keep_line(buf, limits.line_bytes);
    }
    outcome
}

fn read_request(buf: &[u8], limits: &RequestLimits, head: &mut RequestHead) -> Result<Progress, Reject> {
    let skipped = scan::empty_lines(buf);
    let bytes = &buf[skipped..];
    if skipped > limits.head_bytes {
        return Err(Reject::HEAD_TOO_LARGE);
    }
    // A single CR may be half of one more empty line.
    if bytes.len() < 2 {
        return Ok(Progress::Partial);
    }
    let first_try = head.search.is_new();
    if first_try {
        head.clear();
        // one that fits within a line's limit has no line above it
        if scan::request(bytes, limits, head).is_ok_and(|end| end <= limits.line_bytes.min(limits.head_bytes))
        {
            return done_request(skipped, head);
        }
        head.clear();
    }
    let Some(end) = head.search.request_end(bytes, limits)? else {
        scan::check_request_line_start(bytes)?;
        return Ok(Progress::Partial);
    };
    scan::request(&bytes[..end], limits, head)?;
    done_request(skipped, head)
}

fn done_request(skipped: usize, head: &mut RequestHead) -> Result<Progress, Reject> {
    head.search = Search::default();
    let end = head.headers.text().len();
    head.settle()?;
    Ok(Progress::Done(skipped + end))
}

/// Reads a response head from the beginning of `buf`, as [`parse_request`] does; above `head_bytes` it gives up.
/// Lines may end with a bare LF, as nginx lets upstreams do: the answer is written anew, so that no one reads it differently.
pub fn parse_response(
    buf: &[u8],
    head_bytes: usize,
    head: &mut ResponseHead,
) -> Result<Progress, BadUpstream> {
    let first_try = head.search.is_new();
    if first_try {
        head.clear();
        if scan::response(buf, head).is_ok_and(|end| end <= head_bytes) {
            return Ok(done_response(head));
        }
        head.clear();
    }
    let Some(end) = head.search.response_end(buf, head_bytes)? else {
        scan::check_status_line_start(buf)?;
        return Ok(Progress::Partial);
    };
    scan::response(&buf[..end], head)?;
    Ok(done_response(head))
}

fn done_response(head: &mut ResponseHead) -> Progress {
    head.search = Search::default();
    Progress::Done(head.headers.text().len())
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
