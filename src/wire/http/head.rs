//! Heads of requests and responses. httparse reads what is in order, which is nearly everything; what it refuses, or what has a
//! peculiarity that nginx knows, is read again line by line by [`scan`](super::scan), which alone decides on errors.

use std::mem::MaybeUninit;

use super::scan::{self, Search};
use super::{BadUpstream, Host, Method, Progress, Reject};
use crate::limits;
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
/// request line are skipped (RFC 9112 section 2.2).
pub fn parse_request(buf: &[u8], limits: &RequestLimits, head: &mut RequestHead) -> Result<Progress, Reject> {
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
        if straight_request(bytes, limits, head) {
            return done_request(skipped, head);
        }
    }
    let Some(end) = head.search.request_end(bytes, limits)? else {
        scan::check_request_line_start(bytes)?;
        return Ok(Progress::Partial);
    };
    let whole = &bytes[..end];
    if first_try || !straight_request(whole, limits, head) {
        scan::request(whole, limits, head)?;
    }
    done_request(skipped, head)
}

fn done_request(skipped: usize, head: &mut RequestHead) -> Result<Progress, Reject> {
    head.search = Search::default();
    let end = head.headers.text().len();
    head.settle()?;
    Ok(Progress::Done(skipped + end))
}

/// The straight road: false, with the head cleared, if there is anything to look at twice.
fn straight_request(bytes: &[u8], limits: &RequestLimits, head: &mut RequestHead) -> bool {
    let mut fields = [const { MaybeUninit::uninit() }; limits::HEADER_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(end)) = request.parse_with_uninit_headers(bytes, &mut fields) else {
        return false;
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return false;
    };
    // httparse skips any empty line, CR or not. A head within one buffer has no line above it.
    if span_in(bytes, method.as_bytes()).start() > 0 || end > limits.line_bytes.min(limits.head_bytes) {
        return false;
    }
    let head_bytes = &bytes[..end];
    head.headers.append_text(head_bytes);
    head.method = Method::of(method.as_bytes());
    head.method_text = span_in(bytes, method.as_bytes());
    head.target = span_in(bytes, target.as_bytes());
    head.line = Span::new(0, head.target.start() + target.len() + b" HTTP/1.1".len());
    head.version = 10 + minor;
    let in_order = push_fields(head_bytes, request.headers, &mut head.headers, |name| {
        name.iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'-' || (*b == b'_' && limits.underscores_in_headers))
    });
    if !in_order || (head.method == Method::Other && !scan::is_method(method.as_bytes())) {
        head.clear();
        return false;
    }
    true
}

/// Adds what httparse found. False if a name is not `valid`, or a line does not end with CRLF: httparse takes a bare LF,
/// and between a field and the next name there is nothing but blanks and the line's end.
fn push_fields(
    head: &[u8],
    fields: &[httparse::Header<'_>],
    headers: &mut Headers,
    valid: impl Fn(&[u8]) -> bool,
) -> bool {
    for field in fields {
        let name = span_in(head, field.name.as_bytes());
        let id = headers.push_span(name, span_in(head, field.value));
        if !head[..name.start()].ends_with(b"\r\n") || (id == Name::Other && !valid(field.name.as_bytes())) {
            return false;
        }
    }
    head.ends_with(b"\r\n\r\n")
}

/// Where `part`, a slice of `whole`, begins in it.
fn span_in(whole: &[u8], part: &[u8]) -> Span {
    // httparse's empty value is a slice of the input too, so that the subtraction holds for it.
    Span::new((part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize), part.len())
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
        if straight_response(buf, head_bytes, head) {
            return Ok(done_response(head));
        }
    }
    let Some(end) = head.search.response_end(buf, head_bytes)? else {
        scan::check_status_line_start(buf)?;
        return Ok(Progress::Partial);
    };
    let whole = &buf[..end];
    if first_try || !straight_response(whole, head_bytes, head) {
        scan::response(whole, head)?;
    }
    Ok(done_response(head))
}

fn done_response(head: &mut ResponseHead) -> Progress {
    head.search = Search::default();
    Progress::Done(head.headers.text().len())
}

/// The straight road: false, with the head cleared, if there is anything to look at twice.
fn straight_response(bytes: &[u8], head_bytes: usize, head: &mut ResponseHead) -> bool {
    let mut fields = [const { MaybeUninit::uninit() }; limits::HEADER_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut fields,
    );
    let Ok(httparse::Status::Complete(end)) = parsed else { return false };
    let (Some(status @ 100..), Some(reason), Some(minor)) =
        (response.code, response.reason, response.version)
    else {
        return false;
    };
    // httparse skips empty lines, which we do not, and gives no reason where that has bytes above 0x7f.
    if end > head_bytes || reason.is_empty() || !bytes.starts_with(b"HTTP") {
        return false;
    }
    head.headers.append_text(&bytes[..end]);
    head.status = status;
    head.version = 10 + minor;
    head.reason = span_in(bytes, reason.as_bytes());
    if !push_fields(&bytes[..end], response.headers, &mut head.headers, |_| true) {
        head.clear();
        return false;
    }
    true
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
