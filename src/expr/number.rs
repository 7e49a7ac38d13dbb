//! Text to number as LuaJIT's `tonumber` reads it, which is how APISIX compares variables with numbers.

/// The number that `text` spells, or `None`: surrounding white space, a sign, decimal with exponent,
/// `0x` hexadecimal (with fraction and `p` exponent), `0b` binary, `inf`, `infinity` and `nan`.
pub fn parse(text: &[u8]) -> Option<f64> {
    let text = trim(text);
    let (negative, digits) = match text.first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = match digits {
        [b'0', b'x' | b'X', rest @ ..] => hexadecimal(rest)?,
        [b'0', b'b' | b'B', rest @ ..] => binary(rest)?,
        [b'0'..=b'9' | b'.', ..] => decimal(digits)?,
        _ if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") => f64::INFINITY,
        _ if digits.eq_ignore_ascii_case(b"nan") => f64::NAN,
        _ => return None,
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// Without white space of C's `isspace` at both ends (which, unlike Rust's, has the vertical tab).
fn trim(text: &[u8]) -> &[u8] {
    let space = |b: &u8| matches!(b, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|b| !space(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !space(b)).map_or(start, |at| at + 1);
    &text[start..end]
}

/// Rust's own parser agrees with Lua's on what begins with a digit or a dot (`5.`, `.5`, `1e3`), and
/// refuses a lone dot and an exponent without digits as Lua does.
fn decimal(digits: &[u8]) -> Option<f64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn binary(digits: &[u8]) -> Option<f64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0.0, |sum, b| match b {
        b'0' | b'1' => Some(sum * 2.0 + f64::from(b - b'0')),
        _ => None,
    })
}

fn hexadecimal(text: &[u8]) -> Option<f64> {
    let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'p' | b'P')) {
        Some(at) => (&text[..at], std::str::from_utf8(&text[at + 1..]).ok()?.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (mut value, mut scale, mut digits, mut fraction) = (0.0, 1.0, 0, false);
    for &b in mantissa {
        if b == b'.' && !fraction {
            fraction = true;
            continue;
        }
        value = value * 16.0 + f64::from((b as char).to_digit(16)?);
        digits += 1;
        if fraction {
            scale /= 16.0;
        }
    }
    (digits > 0).then(|| value * scale * 2f64.powi(exponent))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_what_lua_reads() {
        for (text, number) in [
            ("18", 18.0),
            (" 18\t\n", 18.0),
            ("-1.5e3", -1500.0),
            ("+7", 7.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("0x10", 16.0),
            ("-0Xff", -255.0),
            ("0x1.8p1", 3.0),
            ("0b101", 5.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(number), "{text}");
        }
        assert!(parse(b"NaN").unwrap().is_nan());
    }

    #[test]
    fn refuses_what_lua_refuses() {
        for text in
            ["", " ", "a", "1a", "1 2", ".", "1e", "0x", "0b", "0b2", "--1", "- 1", "infinit", "1\0", "0x1p"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
