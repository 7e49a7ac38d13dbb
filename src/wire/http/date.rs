//! Reading the dates of HTTP (RFC 9110 section 5.6.7), as leniently as nginx (ngx_parse_http_time).

/// Seconds since 1970 of a date in any of the three forms: `Sun, 06 Nov 1994 08:49:37 GMT`,
/// `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`. The day of the week and what follows are
/// not looked at. Dates before 1970 have none.
pub fn parse_http_date(text: &[u8]) -> Option<u64> {
    preferred(text).or_else(|| any_form(text))
}

/// A date as nearly all senders write it: each part has its place.
fn preferred(text: &[u8]) -> Option<u64> {
    let text: &[u8; 29] = text.try_into().ok()?;
    let is_form = text[3..5] == *b", " && [7, 11, 16, 25].iter().all(|at| text[*at] == b' ');
    if !is_form || text[19] != b':' || text[22] != b':' || !text[..3].iter().all(u8::is_ascii_alphabetic) {
        return None;
    }
    let days =
        days_since_1970(digits(&text[12..16], 4)?, month_number(&text[8..11])?, digits(&text[5..7], 2)?)?;
    seconds(days, digits(&text[17..19], 2)?, digits(&text[20..22], 2)?, digits(&text[23..25], 2)?)
}

fn any_form(text: &[u8]) -> Option<u64> {
    let (year, month, day, time) = match halves(text, b',') {
        Some((_, rest)) => {
            let mut words = words(rest);
            let first = words.next()?;
            match halves(first, b'-') {
                Some((day, month_year)) => {
                    let (month, year) = halves(month_year, b'-')?;
                    let year = digits(year, 2)?;
                    // as nginx: 70 to 99 are of the last century
                    let year = if year < 70 { 2000 + year } else { 1900 + year };
                    (year, month, digits(day, 2)?, words.next()?)
                }
                None => {
                    let month = words.next()?;
                    (digits(words.next()?, 4)?, month, digits(first, 2)?, words.next()?)
                }
            }
        }
        None => {
            let mut words = words(text).skip(1);
            let (month, day, time) = (words.next()?, words.next()?, words.next()?);
            (digits(words.next()?, 4)?, month, digits(day, day.len().clamp(1, 2))?, time)
        }
    };
    let (hour, minute_second) = halves(time, b':')?;
    let (minute, second) = halves(minute_second, b':')?;
    let (hour, minute, second) = (digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
    seconds(days_since_1970(year, month_number(month)?, day)?, hour, minute, second)
}

fn seconds(days: u64, hour: u64, minute: u64, second: u64) -> Option<u64> {
    (hour <= 23 && minute <= 59 && second <= 59).then(|| days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// What stands before and behind the first `separator`.
fn halves(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|b| *b == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A number of exactly `count` digits.
fn digits(text: &[u8], count: usize) -> Option<u64> {
    let is_number = text.len() == count && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn month_number(name: &[u8]) -> Option<u64> {
    let names =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    names.iter().position(|known| *known == name).map(|at| at as u64 + 1)
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day == 0 || day > length || year < 1970 {
        return None;
    }
    // years begin in March, so that a leap day is the last of its year
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some(days - 719_468) // from 1 March of the year 0 to 1970
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::write::http_date;

    #[test]
    fn the_three_forms() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37",
        ] {
            assert_eq!(parse_http_date(text.as_bytes()), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn reads_what_is_written() {
        for unix_s in [0, 951_782_399, 951_868_799, 1_078_012_800, 4_107_542_399, 253_402_300_799] {
            assert_eq!(parse_http_date(&http_date(unix_s)), Some(unix_s));
        }
    }

    #[test]
    fn other_texts_are_no_dates() {
        for text in [
            "",
            "now",
            "2024-01-01T00:00:00Z",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:60 GMT",
            ",,,, 06 Nov 1994 08:49:37 GMT",
            "Sun; 06 Nov 1994 08:49:37 GMT",
            "Sun, 06_Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov_1994 08:49:37 GMT",
            "Sun, 06 Nov 1994_08:49:37 GMT",
            "Sun, 06 Nov 1994 08_49:37 GMT",
            "Sun, 06 Nov 1994 08:49_37 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 08:49:37_GMT",
            "Sun, 06 Nov",
            "Sunday, 06-Nov",
        ] {
            assert_eq!(parse_http_date(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_http_date(b"Sun, \xff\xff Nov 1994 08:49:37 GMT"), None);
    }
}
