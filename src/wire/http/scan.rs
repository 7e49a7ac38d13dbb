//! The first line of a head, and where a head ends that did not come in one piece.

use super::bytes::{METHOD, TARGET, is, past};
use super::fields::{self, Rules};
use super::head::{RequestHead, RequestLimits, ResponseHead};
use super::{BadUpstream, Method, Reject};
use crate::wire::headers::Span;

/// The search for the empty line, continued over several reads.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Search {
    /// Bytes looked at.
    scanned: usize,
    /// Where the line that is not yet whole begins.
    line: usize,
}

/// Why a search ends without the end of a head.
enum Stop {
    BareLf,
    LongLine { first: bool },
    LongHead,
}

impl Search {
    /// Whether nothing was searched yet.
    pub(super) fn is_new(&self) -> bool {
        self.scanned == 0
    }

    /// The length of the request head, once it is all there.
    pub(super) fn request_end(
        &mut self,
        bytes: &[u8],
        limits: &RequestLimits,
    ) -> Result<Option<usize>, Reject> {
        self.end(bytes, limits.line_bytes, limits.head_bytes, false).map_err(|stop| match stop {
            Stop::BareLf => Reject::bad("line ends with a bare LF"),
            Stop::LongLine { first: true } => Reject::new(414, "request line too long"),
            Stop::LongLine { first: false } | Stop::LongHead => Reject::HEAD_TOO_LARGE,
        })
    }

    /// The length of the response head, once it is all there.
    pub(super) fn response_end(
        &mut self,
        bytes: &[u8],
        head_bytes: usize,
    ) -> Result<Option<usize>, BadUpstream> {
        let too_big = |_| BadUpstream { reason: "upstream sent too big header" };
        self.end(bytes, head_bytes, head_bytes, true).map_err(too_big)
    }

    fn end(
        &mut self,
        bytes: &[u8],
        line_bytes: usize,
        head_bytes: usize,
        bare_lf: bool,
    ) -> Result<Option<usize>, Stop> {
        let from = self.scanned;
        for lf in memchr::memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()) {
            let end = from + lf + 1;
            let line = &bytes[self.line..end];
            if line.len() > line_bytes {
                return Err(Stop::LongLine { first: self.line == 0 });
            }
            if !bare_lf && !line.ends_with(b"\r\n") {
                return Err(Stop::BareLf);
            }
            if end > head_bytes {
                return Err(Stop::LongHead);
            }
            if self.line > 0 && (line == b"\r\n" || line == b"\n") {
                return Ok(Some(end));
            }
            self.line = end;
        }
        self.scanned = bytes.len();
        if bytes.len() - self.line > line_bytes {
            return Err(Stop::LongLine { first: self.line == 0 });
        }
        if bytes.len() > head_bytes {
            return Err(Stop::LongHead);
        }
        Ok(None)
    }
}

/// The number of bytes of empty lines at the beginning.
pub(super) fn empty_lines(buf: &[u8]) -> usize {
    buf.chunks_exact(2).take_while(|two| two == b"\r\n").count() * 2
}

/// Whether nginx would take this as a method: capital letters, `-` and `_`.
pub(super) fn is_method(method: &[u8]) -> bool {
    !method.is_empty() && method.iter().all(|&b| is(b, METHOD))
}

const BAD_METHOD: Reject = Reject::bad("invalid method");
const BAD_LINE: Reject = Reject::bad("invalid request line");
const BAD_VERSION: Reject = Reject::bad("invalid HTTP version");

/// Refuses early what can't become a request line (a TLS hello on a plain port): `bytes` is a head that is not whole.
pub(super) fn check_request_line_start(bytes: &[u8]) -> Result<(), Reject> {
    if memchr::memchr(b'\n', bytes).is_some() {
        return RequestLine::read(bytes).map(drop);
    }
    let method = past(bytes, 0, METHOD);
    match bytes.get(method) {
        None => Ok(()),
        Some(b' ') if method > 0 => Ok(()),
        Some(_) => Err(BAD_METHOD),
    }
}

/// A request line: where its parts end.
struct RequestLine {
    method: usize,
    target: usize,
    version: usize,
    /// The minor version: 0 or 1.
    minor: u8,
}

impl RequestLine {
    /// Reads the line at the beginning of `bytes`, its CRLF included.
    fn read(bytes: &[u8]) -> Result<RequestLine, Reject> {
        let method = past(bytes, 0, METHOD);
        if method == 0 || bytes.get(method) != Some(&b' ') {
            return Err(BAD_METHOD);
        }
        let target = past(bytes, method + 1, TARGET);
        if target == method + 1 || bytes.get(target) != Some(&b' ') {
            return Err(BAD_LINE);
        }
        let rest = &bytes[target + 1..];
        let (len, minor) = match rest.first_chunk() {
            Some(b"HTTP/1.1\r\n") => (8, 1),
            _ => {
                let line = &rest[..memchr::memchr(b'\n', rest).ok_or(BAD_LINE)?];
                let version = line.strip_suffix(b"\r").ok_or(BAD_LINE)?;
                (version.len(), minor_version(version)?)
            }
        };
        Ok(RequestLine { method, target, version: target + 1 + len, minor })
    }
}

/// 0 or 1: of `HTTP/1.x` the minor version, where a higher one counts as 1 (RFC 9110 section 2.5). A higher
/// major version is a 505.
fn minor_version(version: &[u8]) -> Result<u8, Reject> {
    let number = version.strip_prefix(b"HTTP/").ok_or(BAD_VERSION)?;
    let dot = memchr::memchr(b'.', number).ok_or(BAD_VERSION)?;
    let (major, minor) = (&number[..dot], &number[dot + 1..]);
    let is_number = |digits: &[u8]| (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !is_number(major) || !is_number(minor) || major[0] == b'0' {
        return Err(BAD_VERSION);
    }
    match (major, minor) {
        (b"1", b"0") => Ok(0),
        (b"1", _) => Ok(1),
        _ => Err(Reject::new(505, "HTTP version not supported")),
    }
}

/// Reads a request head, which begins with `bytes`, into `head`, which is clear, and gives its length. After an error the
/// head is to be cleared; where the head is not whole there is an error, too.
pub(super) fn request(bytes: &[u8], limits: &RequestLimits, head: &mut RequestHead) -> Result<usize, Reject> {
    let line = RequestLine::read(bytes)?;
    let rules = Rules::request(limits);
    let end = fields::read(bytes, line.version + 2, rules, &mut head.headers).map_err(Reject::bad)?;
    head.headers.append_text(&bytes[..end]);
    head.method = Method::of(&bytes[..line.method]);
    head.method_text = Span::new(0, line.method);
    head.target = Span::new(line.method + 1, line.target - line.method - 1);
    head.line = Span::new(0, line.version);
    head.version = 10 + line.minor;
    Ok(end)
}

/// Refuses early what can't become a status line.
pub(super) fn check_status_line_start(bytes: &[u8]) -> Result<(), BadUpstream> {
    let known = bytes.len().min(b"HTTP/1.".len());
    match bytes[..known] == b"HTTP/1."[..known] {
        true => Ok(()),
        false => Err(BAD_STATUS_LINE),
    }
}

const BAD_STATUS_LINE: BadUpstream = BadUpstream { reason: "upstream sent no valid HTTP/1 status line" };

/// Reads a response head, as [`request`] does.
pub(super) fn response(bytes: &[u8], head: &mut ResponseHead) -> Result<usize, BadUpstream> {
    let line_len = memchr::memchr(b'\n', bytes).ok_or(BAD_STATUS_LINE)?;
    let line = &bytes[..line_len];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (version, rest) = line.split_at_checked(b"HTTP/1.1 ".len()).ok_or(BAD_STATUS_LINE)?;
    let version = version.strip_suffix(b" ").ok_or(BAD_STATUS_LINE)?;
    let minor =
        if version == b"HTTP/1.1" { 1 } else { minor_version(version).map_err(|_| BAD_STATUS_LINE)? };
    let (digits, reason) = rest.split_at_checked(3).ok_or(BAD_STATUS_LINE)?;
    let reason = match reason {
        [] => reason,
        [b' ', reason @ ..] => reason,
        _ => return Err(BAD_STATUS_LINE),
    };
    if !digits.iter().all(u8::is_ascii_digit)
        || digits[0] == b'0'
        || reason.iter().any(|&b| matches!(b, 0 | b'\r'))
    {
        return Err(BAD_STATUS_LINE);
    }
    let end = fields::read(bytes, line_len + 1, Rules::RESPONSE, &mut head.headers)
        .map_err(|reason| BadUpstream { reason })?;
    head.headers.append_text(&bytes[..end]);
    head.status = digits.iter().fold(0, |status, b| status * 10 + u16::from(b - b'0'));
    head.version = 10 + minor;
    head.reason = Span::new(line.len() - reason.len(), reason.len());
    Ok(end)
}
