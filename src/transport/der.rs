//! As much of DER (X.690) as a question about a certificate and its answer need.

/// INTEGER
pub const INTEGER: u8 = 0x02;
/// BIT STRING
pub const BITS: u8 = 0x03;
/// OCTET STRING
pub const OCTETS: u8 = 0x04;
/// OBJECT IDENTIFIER
pub const OID: u8 = 0x06;
/// ENUMERATED
pub const ENUMERATED: u8 = 0x0a;
/// GeneralizedTime
pub const GENERALIZED_TIME: u8 = 0x18;
/// SEQUENCE
pub const SEQUENCE: u8 = 0x30;

/// An explicit tag of a context.
pub const fn explicit(number: u8) -> u8 {
    0xa0 | number
}

/// Tag, length and content, of up to 65,535 bytes.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    out.extend_from_slice(content);
    out
}

/// Reads one element after the other.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Tag and content of the next element.
    pub fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The content of the next element if it has this tag; else it stays.
    pub fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = Reader(self.0);
        let (found, content) = ahead.any()?;
        (found == tag).then(|| {
            self.0 = ahead.0;
            content
        })
    }
}

/// Seconds since 1970 of a GeneralizedTime as certificates have them: `YYYYMMDDHHMMSSZ` (RFC 5280 section 4.1.2.5.2).
pub fn unix_s(text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.len() == 14)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number =
        |from: usize, to: usize| digits[from..to].iter().fold(0i16, |sum, d| sum * 10 + i16::from(d - b'0'));
    let small = |from: usize| i8::try_from(number(from, from + 2)).ok();
    let (month, day, hour, minute, second) = (small(4)?, small(6)?, small(8)?, small(10)?, small(12)?);
    let at = jiff::civil::DateTime::new(number(0, 4), month, day, hour, minute, second, 0).ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_as_they_were_written() {
        for length in [0, 1, 127, 128, 255, 256, 65_535] {
            let content = vec![7; length];
            let bytes = [tlv(OCTETS, &content), tlv(INTEGER, &[1])].concat();
            let mut reader = Reader(&bytes);
            assert_eq!(reader.take(INTEGER), None, "another tag is left where it is");
            assert_eq!(reader.take(OCTETS), Some(&content[..]));
            assert_eq!(reader.any(), Some((INTEGER, &[1][..])));
            assert_eq!(reader.any(), None);
            assert_eq!(Reader(&bytes[..length]).any(), None, "cut off");
        }
        assert_eq!(Reader(&[0x30, 0x80, 0, 0]).any(), None, "no length is BER's, not DER's");
    }

    #[test]
    fn times() {
        assert_eq!(unix_s(b"19700101000001Z"), Some(1));
        assert_eq!(unix_s(b"20260102030405Z"), Some(1_767_323_045));
        for wrong in [&b"20260102030405"[..], b"2026010203040Z", b"20261302030405Z", b"2026 102030405Z"] {
            assert_eq!(unix_s(wrong), None);
        }
    }
}
