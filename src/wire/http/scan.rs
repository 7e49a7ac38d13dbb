//! Heads line by line: finds where a head ends, and reads those that httparse refuses: either nginx accepts them
//! (raw bytes in a target, names to be dropped), or here is decided what the client is told.

use super::head::{RequestHead, RequestLimits, ResponseHead};
use super::{BadUpstream, Method, Reject};
use crate::wire::headers::{Headers, Span};

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
    !method.is_empty() && method.iter().all(|b| matches!(b, b'A'..=b'Z' | b'-' | b'_'))
}

const BAD_METHOD: Reject = Reject::bad("invalid method");
const BAD_LINE: Reject = Reject::bad("invalid request line");
const BAD_VERSION: Reject = Reject::bad("invalid HTTP version");

/// Refuses early what can't become a request line (a TLS hello on a plain port): `bytes` is a head that is not whole.
pub(super) fn check_request_line_start(bytes: &[u8]) -> Result<(), Reject> {
    let line = match memchr::memchr(b'\n', bytes) {
        Some(lf) => return request_line(bytes[..lf].strip_suffix(b"\r").ok_or(BAD_LINE)?).map(drop),
        None => bytes,
    };
    match memchr::memchr(b' ', line) {
        None if is_method(line) => Ok(()),
        Some(space) if is_method(&line[..space]) => Ok(()),
        _ => Err(BAD_METHOD),
    }
}

/// A request line in parts: method, target, minor version.
fn request_line(line: &[u8]) -> Result<(&[u8], &[u8], u8), Reject> {
    let space = memchr::memchr(b' ', line).ok_or(BAD_LINE)?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    if !is_method(method) {
        return Err(BAD_METHOD);
    }
    let target_len = memchr::memchr(b' ', rest).ok_or(BAD_LINE)?;
    let (target, version) = (&rest[..target_len], &rest[target_len + 1..]);
    if target.is_empty() || target.iter().any(|&b| b <= b' ' || b == 0x7f) {
        return Err(BAD_LINE);
    }
    Ok((method, target, minor_version(version)?))
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

/// Reads a whole request head into `head`, which is clear.
pub(super) fn request(bytes: &[u8], limits: &RequestLimits, head: &mut RequestHead) -> Result<(), Reject> {
    let line_len = memchr::memchr(b'\n', bytes).ok_or(BAD_LINE)?;
    let line = bytes[..line_len].strip_suffix(b"\r").ok_or(BAD_LINE)?;
    let (method, target, minor) = request_line(line)?;
    head.headers.append_text(bytes);
    head.method = Method::of(method);
    head.method_text = Span::new(0, method.len());
    head.target = Span::new(method.len() + 1, target.len());
    head.line = Span::new(0, line.len());
    head.version = 10 + minor;
    let rules = Rules {
        ignore_invalid: limits.ignore_invalid_headers,
        underscores: limits.underscores_in_headers,
        controls: false,
        any_token: false,
    };
    fields(bytes, line_len + 1, rules, &mut head.headers).map_err(Reject::bad)
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

/// Reads a whole response head into `head`, which is clear.
pub(super) fn response(bytes: &[u8], head: &mut ResponseHead) -> Result<(), BadUpstream> {
    let line_len = memchr::memchr(b'\n', bytes).ok_or(BAD_STATUS_LINE)?;
    let line = &bytes[..line_len];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (version, rest) = line.split_at_checked(b"HTTP/1.1 ".len()).ok_or(BAD_STATUS_LINE)?;
    let version = version.strip_suffix(b" ").ok_or(BAD_STATUS_LINE)?;
    let minor = minor_version(version).map_err(|_| BAD_STATUS_LINE)?;
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
    head.headers.append_text(bytes);
    head.status = digits.iter().fold(0, |status, b| status * 10 + u16::from(b - b'0'));
    head.version = 10 + minor;
    head.reason = Span::new(line.len() - reason.len(), reason.len());
    let rules = Rules { ignore_invalid: true, underscores: true, controls: true, any_token: true };
    fields(bytes, line_len + 1, rules, &mut head.headers).map_err(|reason| BadUpstream { reason })
}

/// What may stand in a field line.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// A name with other than valid bytes drops its line instead of refusing the head.
    pub(super) ignore_invalid: bool,
    /// `_` is valid in a name.
    pub(super) underscores: bool,
    /// Control characters other than NUL, CR and LF may stand in a value.
    pub(super) controls: bool,
    /// Every token of RFC 9110 section 5.6.2 is a valid name; else only letters, digits, `-` (and `_`), as in nginx.
    pub(super) any_token: bool,
}

impl Rules {
    fn is_valid_in_name(self, b: u8) -> bool {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => true,
            b'_' => self.underscores,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.' | b'^' | b'`' | b'|' | b'~' => {
                self.any_token
            }
            _ => false,
        }
    }
}

/// Reads the field lines of `bytes` from `at` to the empty line into `headers`, whose text begins with `bytes`.
/// Folded lines, blanks before the colon, and lines without colon are refused: recipients disagree on them (RFC 9112 section 5).
pub(super) fn fields(
    bytes: &[u8],
    mut at: usize,
    rules: Rules,
    headers: &mut Headers,
) -> Result<(), &'static str> {
    loop {
        let lf = at + memchr::memchr(b'\n', &bytes[at..]).ok_or("header without end")?;
        let line = &bytes[at..lf];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(());
        }
        let colon = memchr::memchr(b':', line).ok_or("header line without colon")?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || name.iter().any(|&b| b <= b' ' || b == 0x7f) {
            return Err("invalid header name, folded line, or blank before the colon");
        }
        let is_bad = |&b: &u8| match b {
            0 | b'\r' => true,
            b'\t' => false,
            _ => !rules.controls && (b < b' ' || b == 0x7f),
        };
        if value.iter().any(is_bad) {
            return Err("control character in a header value");
        }
        if name.iter().all(|&b| rules.is_valid_in_name(b)) {
            let value = crate::wire::headers::trim_blanks(value);
            let leading = line[colon + 1..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
            let start = if value.is_empty() { at + colon + 1 } else { at + colon + 1 + leading };
            headers.push_span(Span::new(at, name.len()), Span::new(start, value.len()));
        } else if !rules.ignore_invalid {
            return Err("invalid header name");
        }
        at = lf + 1;
    }
}
