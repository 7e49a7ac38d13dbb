//! The host of a request: `name[:port]` as in the `Host` header and in an absolute-form target
//! (RFC 9110 section 7.2, RFC 3986 section 3.2.2).

/// A valid host, in parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host<'a> {
    /// As written, without port and without one trailing dot; IPv6 addresses keep their brackets.
    /// Routing compares it in lower case.
    pub name: &'a [u8],
    /// The port if one was written.
    pub port: Option<u16>,
}

impl<'a> Host<'a> {
    /// Splits and checks; `None` is answered with 400. As nginx (empty labels, control characters, blanks, `/` are refused),
    /// and stricter where nginx looks away: the port is a number, brackets match,
    /// and no delimiter of a URI (`@ ? # \ " < > ^ { | }` and the backquote) stands in a name. Bytes above 0x7f pass, as in nginx.
    pub fn parse(text: &'a [u8]) -> Option<Host<'a>> {
        let name_len = match text {
            [b'[', ..] => memchr::memchr(b']', text)? + 1,
            _ => memchr::memchr(b':', text).unwrap_or(text.len()),
        };
        let (name, rest) = text.split_at_checked(name_len)?;
        let port = match rest {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        if let [b'[', address @ .., b']'] = name {
            let is_address = !address.is_empty()
                && address.iter().all(|&b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
            return is_address.then_some(Host { name, port });
        }
        let name = name.strip_suffix(b".").unwrap_or(name);
        (!name.is_empty() && is_reg_name(name)).then_some(Host { name, port })
    }
}

/// No empty label inside, and only bytes that may stand in a name.
fn is_reg_name(name: &[u8]) -> bool {
    let (mut allowed, mut after_dot) = (true, false);
    for &b in name {
        let dot = b == b'.';
        allowed &= IN_NAME[b as usize] && !(dot && after_dot);
        after_dot = dot;
    }
    allowed && !after_dot
}

/// The bytes that may stand in a name.
const IN_NAME: [bool; 256] = {
    let mut set = [false; 256];
    let mut b = 0;
    while b < 256 {
        set[b] = (b as u8).is_ascii_alphanumeric() || b >= 0x80;
        b += 1;
    }
    let others = b"-_~%!$&'()*+,;=.";
    let mut at = 0;
    while at < others.len() {
        set[others[at] as usize] = true;
        at += 1;
    }
    set
};

/// A port number in digits.
fn port(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0u16, |port, &b| {
        let digit = b.is_ascii_digit().then(|| u16::from(b - b'0'))?;
        port.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts() {
        for (text, name, port) in [
            ("a", "a", None),
            ("Foo.Example.com:8080", "Foo.Example.com", Some(8080)),
            ("a.b.", "a.b", None),
            ("a.b.:80", "a.b", Some(80)),
            ("a:", "a", None),
            ("[::1]:9", "[::1]", Some(9)),
            ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", None),
            (".a", ".a", None),
            ("a_b-c", "a_b-c", None),
            ("b\u{fc}cher.example", "b\u{fc}cher.example", None),
        ] {
            assert_eq!(Host::parse(text.as_bytes()), Some(Host { name: text_of(name), port }), "{text}");
        }
    }

    fn text_of(text: &str) -> &[u8] {
        text.as_bytes()
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "a..",
            ":80",
            "a/b",
            "a b",
            "a\tb",
            "a\0",
            "a:x",
            "a:80x",
            "a:65536",
            "a:8:8",
            "a@b",
            "a?b",
            "a#b",
            "a\\b",
            "[",
            "[]",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[g]",
            "a]",
            "a,b:80,c:80",
            "\"a\"",
            "a\x7f",
        ] {
            assert_eq!(Host::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
