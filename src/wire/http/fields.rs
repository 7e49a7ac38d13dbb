//! The field lines of a head or of trailers, read in one pass.

use super::bytes::{CONTROL, NAME, TOKEN, UNDERSCORE, VALUE, VISIBLE, past, past_text};
use super::head::RequestLimits;
use crate::wire::headers::{Headers, Span};

/// What may stand in a field line.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// The classes of bytes that a name may have.
    name: u8,
    /// The classes of bytes that a value may have.
    value: u8,
    /// A name with other bytes drops its line instead of refusing the head.
    ignore_invalid: bool,
    /// A line may end with LF alone.
    bare_lf: bool,
}

impl Rules {
    /// Responses: every token is a name, and controls are let through, as nginx does.
    pub(super) const RESPONSE: Rules = Rules {
        name: NAME | UNDERSCORE | TOKEN,
        value: VALUE | CONTROL,
        ignore_invalid: true,
        bare_lf: true,
    };
    /// Trailers, of either side.
    pub(super) const TRAILERS: Rules = Rules { value: VALUE, ..Rules::RESPONSE };

    /// Requests.
    pub(super) fn request(limits: &RequestLimits) -> Rules {
        Rules {
            name: if limits.underscores_in_headers { NAME | UNDERSCORE } else { NAME },
            value: VALUE,
            ignore_invalid: limits.ignore_invalid_headers,
            bare_lf: false,
        }
    }
}

/// Reads the field lines of `bytes` from `at` to the empty line, and gives the place behind that. The text of `headers`
/// is to begin with `bytes` when this has ended well. Folded lines, blanks before the colon, and lines without colon are
/// refused: recipients disagree on them (RFC 9112 section 5).
pub(super) fn read(
    bytes: &[u8],
    mut at: usize,
    rules: Rules,
    headers: &mut Headers,
) -> Result<usize, &'static str> {
    loop {
        if let Some(end) = line_end(bytes, at, rules) {
            return Ok(end);
        }
        let colon = past(bytes, at, rules.name);
        let is_valid = colon > at && bytes.get(colon) == Some(&b':');
        let colon = if is_valid { colon } else { strange_name(bytes, at, rules)? };
        let start = past_blanks(bytes, colon + 1);
        let end = past_text(bytes, start, rules.value);
        let next = line_end(bytes, end, rules).ok_or("control character in a header value, or a bare LF")?;
        if is_valid {
            headers.push_span(bytes, Span::new(at, colon - at), value(bytes, colon + 1, start, end));
        }
        at = next;
    }
}

/// The place behind the line's end at `at`, if there is one.
#[inline]
fn line_end(bytes: &[u8], at: usize, rules: Rules) -> Option<usize> {
    match bytes.get(at..)? {
        [b'\r', b'\n', ..] => Some(at + 2),
        [b'\n', ..] if rules.bare_lf => Some(at + 1),
        _ => None,
    }
}

/// The colon behind a name that is not valid, if that only drops its line.
#[cold]
fn strange_name(bytes: &[u8], at: usize, rules: Rules) -> Result<usize, &'static str> {
    let colon = past(bytes, at, VISIBLE);
    match bytes.get(colon) {
        Some(b':') if colon > at && rules.ignore_invalid => Ok(colon),
        Some(b':') if colon > at => Err("invalid header name"),
        Some(b'\r' | b'\n') => Err("header line without colon"),
        Some(_) => Err("invalid header name, folded line, or blank before the colon"),
        None => Err("header without end"),
    }
}

fn past_blanks(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The value without the blanks behind it; an empty one begins behind the colon.
fn value(bytes: &[u8], colon_end: usize, start: usize, mut end: usize) -> Span {
    while end > start && matches!(bytes[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    if end == start { Span::new(colon_end, 0) } else { Span::new(start, end - start) }
}
