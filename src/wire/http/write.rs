//! Writes messages: lines appended to a buffer that leaves in one send.

/// Appends `GET /path HTTP/1.1` and the line's end.
pub fn request_line(out: &mut Vec<u8>, method: &[u8], target: &[u8]) {
    out.reserve(method.len() + target.len() + 12);
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Appends `HTTP/1.1 404 Not Found` and the line's end, with the phrase that nginx has for the status, or none.
pub fn status_line(out: &mut Vec<u8>, status: u16) {
    status_line_with(out, status, reason(status));
}

/// The same with a phrase of an upstream's own.
pub fn status_line_with(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends `name: value` and the line's end.
#[inline]
pub fn header(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a header whose value is a number.
pub fn header_number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    header(out, name, itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a decimal number.
pub fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The reason phrase of a status as nginx prints it; empty where nginx has none.
pub fn reason(status: u16) -> &'static [u8] {
    match status {
        100 => b"Continue",
        101 => b"Switching Protocols",
        200 => b"OK",
        201 => b"Created",
        202 => b"Accepted",
        204 => b"No Content",
        206 => b"Partial Content",
        301 => b"Moved Permanently",
        302 => b"Moved Temporarily",
        303 => b"See Other",
        304 => b"Not Modified",
        307 => b"Temporary Redirect",
        308 => b"Permanent Redirect",
        400 => b"Bad Request",
        401 => b"Unauthorized",
        402 => b"Payment Required",
        403 => b"Forbidden",
        404 => b"Not Found",
        405 => b"Not Allowed",
        406 => b"Not Acceptable",
        408 => b"Request Time-out",
        409 => b"Conflict",
        410 => b"Gone",
        411 => b"Length Required",
        412 => b"Precondition Failed",
        413 => b"Request Entity Too Large",
        414 => b"Request-URI Too Large",
        415 => b"Unsupported Media Type",
        416 => b"Requested Range Not Satisfiable",
        421 => b"Misdirected Request",
        429 => b"Too Many Requests",
        500 => b"Internal Server Error",
        501 => b"Not Implemented",
        502 => b"Bad Gateway",
        503 => b"Service Temporarily Unavailable",
        504 => b"Gateway Time-out",
        505 => b"HTTP Version Not Supported",
        507 => b"Insufficient Storage",
        _ => b"",
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7) of seconds since 1970. Text of one second is the same for all, so callers keep it.
pub fn http_date(unix_s: u64) -> [u8; 29] {
    const WEEKDAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    // The last second of the year 9999: later ones have no such text.
    let unix_s = unix_s.min(253_402_300_799);
    let days = unix_s / 86_400;
    let (year, month, day) = civil(days);
    let three = |names: &[u8], index: u64| [0, 1, 2].map(|i| names[index as usize * 3 + i]);
    let two = |number: u64| [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(&three(WEEKDAYS, days % 7));
    text[5..7].copy_from_slice(&two(day));
    text[8..11].copy_from_slice(&three(MONTHS, month - 1));
    text[12..14].copy_from_slice(&two(year / 100));
    text[14..16].copy_from_slice(&two(year % 100));
    text[17..19].copy_from_slice(&two(unix_s % 86_400 / 3_600));
    text[20..22].copy_from_slice(&two(unix_s % 3_600 / 60));
    text[23..25].copy_from_slice(&two(unix_s % 60));
    text
}

/// Year, month and day of a number of days since 1970. Counted in eras of 400 years (146,097 days) that begin on 1 March,
/// so that a leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 1 March of the year 0 and 1970.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 153 days in each five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut out = Vec::new();
        request_line(&mut out, b"GET", b"/a?b");
        status_line(&mut out, 302);
        status_line(&mut out, 299);
        status_line_with(&mut out, 200, b"Fine");
        header(&mut out, b"A", b"b");
        header_number(&mut out, b"Content-Length", 1_234_567);
        let expected = "GET /a?b HTTP/1.1\r\nHTTP/1.1 302 Moved Temporarily\r\nHTTP/1.1 299 \r\nHTTP/1.1 200 Fine\r\n\
                        A: b\r\nContent-Length: 1234567\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn dates() {
        for (unix_s, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_709_164_799, "Wed, 28 Feb 2024 23:59:59 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(String::from_utf8_lossy(&http_date(unix_s)), text);
        }
    }
}
