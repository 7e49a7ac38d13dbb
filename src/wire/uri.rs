//! Request targets: the path that routes, variables and plugins see, arguments, and percent-coding, as nginx and its Lua module do it.

use std::borrow::Cow;
use std::ops::Range;

use super::http::Reject;

const INVALID: Reject = Reject::bad("invalid request target");

/// A request target in parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    /// Where the path is: in the target if it was clean, else in the buffer it was normalised into.
    path: Range<usize>,
    clean: bool,
    /// Where in the target the arguments are, without `?` and fragment.
    args: Option<Range<usize>>,
}

impl Uri {
    /// Reads a target in origin-form, as `ngx_http_parse_complex_uri` with `merge_slashes on`: percent-decodes, merges slashes, resolves
    /// dot segments (decoded ones too), cuts the fragment. A path that leaves the root, has a NUL or a
    /// broken percent-coding is a 400. A clean target is only looked at; any other path is appended to `out`.
    pub fn parse(target: &[u8], out: &mut Vec<u8>) -> Result<Uri, Reject> {
        if target.first() != Some(&b'/') {
            return Err(INVALID);
        }
        let fragment = memchr::memchr(b'#', target);
        let target = &target[..fragment.unwrap_or(target.len())];
        let question = memchr::memchr(b'?', target);
        let args = question.map(|at| at + 1..target.len());
        let path = &target[..question.unwrap_or(target.len())];
        if is_clean(path) {
            return Ok(Uri { path: 0..path.len(), clean: true, args });
        }
        let start = out.len();
        normalize(path, out)?;
        Ok(Uri { path: start..out.len(), clean: false, args })
    }

    /// The path: nginx's `$uri`. `target` and `out` are those of [`parse`](Uri::parse).
    pub fn path<'a>(&self, target: &'a [u8], out: &'a [u8]) -> &'a [u8] {
        let text = if self.clean { target } else { out };
        text.get(self.path.clone()).unwrap_or_default()
    }

    /// Whether the path is a slice of the target.
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// What is behind the `?`: nginx's `$args`. `None` without a `?`.
    pub fn args<'a>(&self, target: &'a [u8]) -> Option<&'a [u8]> {
        target.get(self.args.clone()?)
    }
}

/// Whether normalising would change nothing: no `%`, no `//`, no segment that begins with a dot.
fn is_clean(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &b in path {
        if b == b'%' || (after_slash && (b == b'/' || b == b'.')) {
            return false;
        }
        after_slash = b == b'/';
    }
    true
}

/// Appends the normalised form of an absolute path.
fn normalize(path: &[u8], out: &mut Vec<u8>) -> Result<(), Reject> {
    let start = out.len();
    let mut rest = path;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let byte = match byte {
            b'%' => {
                let (&[high, low], behind) = rest.split_first_chunk::<2>().ok_or(INVALID)?;
                rest = behind;
                hex(high)
                    .zip(hex(low))
                    .map(|(high, low)| high << 4 | low)
                    .filter(|&b| b != 0)
                    .ok_or(INVALID)?
            }
            byte => byte,
        };
        match byte {
            // A slash, written or decoded, ends the segment before it; of several one is kept.
            b'/' if out.len() > start => end_segment(out, start, true)?,
            byte => out.push(byte),
        }
    }
    end_segment(out, start, false)
}

/// Resolves the last segment if it is `.` or `..`, and appends the slash behind it.
fn end_segment(out: &mut Vec<u8>, start: usize, slash: bool) -> Result<(), Reject> {
    let segment_len = out[start..].iter().rev().take_while(|&&b| b != b'/').count();
    match &out[out.len() - segment_len..] {
        b"" => return Ok(()),
        b"." => out.truncate(out.len() - 1),
        b".." => {
            let parent = out.len() - b"/..".len();
            let slash_before = out[start..parent].iter().rposition(|&b| b == b'/').ok_or(INVALID)?;
            out.truncate(start + slash_before + 1);
        }
        _ if slash => out.push(b'/'),
        _ => {}
    }
    Ok(())
}

/// The path of `target` decoded but for its encoded slashes, which become `%2F`: what routes are matched with
/// under `match_uri_encoded_slash` (APISIX init.lua `build_match_uri_keep_encoded_slash`). `None` where there
/// is none, or where normalising to `path` did more than decode: then `path` alone may decide.
pub fn keep_encoded_slashes(target: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let raw = target.split(|&b| b == b'?').next().unwrap_or_default();
    let decode = |slash: &[u8]| {
        let mut out = Vec::with_capacity(raw.len());
        let mut rest = raw;
        while let Some((&byte, behind)) = rest.split_first() {
            let code = behind
                .split_first_chunk::<2>()
                .and_then(|(&[high, low], _)| Some(hex(high)? << 4 | hex(low)?));
            match (byte, code) {
                (b'%', Some(code)) => {
                    if code == b'/' {
                        out.extend_from_slice(slash)
                    } else {
                        out.push(code)
                    }
                    rest = &behind[2..];
                }
                _ => {
                    out.push(byte);
                    rest = behind;
                }
            }
        }
        out
    };
    (decode(b"/") == path).then(|| decode(b"%2F")).filter(|kept| kept != path)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Percent-encodes a path as APISIX's `core.utils.uri_safe_encode` (`ngx_escape_uri` type 0): controls, blank, `" # % < > ? \ ^ { | }`,
/// the backquote, and all bytes from 0x7f. What needs nothing is borrowed.
pub fn encode(path: &[u8]) -> Cow<'_, [u8]> {
    const fn must(b: u8) -> bool {
        matches!(b, 0..=b' ' | 0x7f.. | b'"' | b'#' | b'%' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    }
    escape(path, must)
}

/// Percent-encodes control characters alone: what must not reach a request line or a header.
pub fn encode_controls(text: &[u8]) -> Cow<'_, [u8]> {
    const fn must(b: u8) -> bool {
        b.is_ascii_control()
    }
    escape(text, must)
}

/// A text as the value of a header, control characters but tabs percent-encoded: OpenResty does so with each value that
/// Lua sets (`ngx.req.set_header`, `ngx.header`). A value that is refused would leave what was there before it.
pub fn header_value(text: Vec<u8>) -> Vec<u8> {
    const fn must(b: u8) -> bool {
        b.is_ascii_control() && b != b'\t'
    }
    if let Cow::Owned(encoded) = escape(&text, must) {
        return encoded;
    }
    text
}

/// Percent-encodes one argument or path component as `ngx.escape_uri` does: all but letters, digits and `- . _ ~`.
pub fn encode_component(text: &[u8]) -> Cow<'_, [u8]> {
    const fn must(b: u8) -> bool {
        !matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~')
    }
    escape(text, must)
}

fn escape(text: &[u8], must: impl Fn(u8) -> bool) -> Cow<'_, [u8]> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let count = text.iter().filter(|&&b| must(b)).count();
    if count == 0 {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 2 * count);
    for &b in text {
        match must(b) {
            true => out.extend_from_slice(&[b'%', DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]),
            false => out.push(b),
        }
    }
    Cow::Owned(out)
}

/// Undoes the coding of an argument as `ngx.unescape_uri` and `ngx.decode_args` do: `+` is a blank, a percent sign without two digits
/// behind it stays. What needs nothing is borrowed.
pub fn decode_component(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'+', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let code =
            rest.split_first_chunk::<2>().and_then(|(&[high, low], _)| Some(hex(high)? << 4 | hex(low)?));
        match (byte, code) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                rest = &rest[2..];
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

/// The pairs of `a=b&c`, not decoded: a name without `=` has no value. Pairs with an empty name are left out, as in `ngx.decode_args`.
pub fn args(text: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    text.split(|&b| b == b'&').filter_map(|pair| {
        let (name, value) = match memchr::memchr(b'=', pair) {
            Some(equals) => (&pair[..equals], Some(&pair[equals + 1..])),
            None => (pair, None),
        };
        (!name.is_empty()).then_some((name, value))
    })
}

/// nginx's `$arg_name`: the value, not decoded, of the first pair of that name, in any case, that has a `=`.
pub fn arg<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    args(text).filter(|(found, _)| found.eq_ignore_ascii_case(name)).find_map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(target: &str) -> Result<(String, Option<String>), u16> {
        let mut out = b"kept".to_vec();
        let uri = Uri::parse(target.as_bytes(), &mut out).map_err(|reject| reject.status)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(uri.path(target.as_bytes(), &out)), uri.args(target.as_bytes()).map(text)))
    }

    /// Compared with an OpenResty.
    #[test]
    fn control_characters_do_not_reach_a_header() {
        assert_eq!(header_value(b"a\r\nb\tc\x7f \xff".to_vec()), b"a%0D%0Ab\tc%7F \xff");
    }

    /// Each line was compared with an nginx.
    #[test]
    fn paths_as_nginx_sees_them() {
        for (target, path) in [
            ("/", "/"),
            ("//", "/"),
            ("/a//b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/..b", "/a/..b"),
            ("/.../x", "/.../x"),
            ("/a/...", "/a/..."),
            ("/.a/.b", "/.a/.b"),
            ("/a/%2e", "/a/"),
            ("/a/b/%2E./c", "/a/c"),
            ("/a%2fb", "/a/b"),
            ("/a%2f%2Fb", "/a/b"),
            ("/a%2f..%2fb", "/b"),
            ("/a%23b", "/a#b"),
            ("/a%25b", "/a%b"),
            ("/a%252e", "/a%2e"),
            ("/a%3fb", "/a?b"),
            ("/a+b%2b", "/a+b+"),
            ("/a%0ab", "/a\nb"),
            ("/a\\..\\b", "/a\\..\\b"),
            ("/a/b/..#", "/a/"),
            ("/a#b?c", "/a"),
        ] {
            assert_eq!(parsed(target), Ok((path.to_owned(), None)), "{target}");
        }
    }

    #[test]
    fn arguments_are_cut_off_raw() {
        for (target, path, args) in [
            ("/a?", "/a", ""),
            ("/a?b/../%zz//", "/a", "b/../%zz//"),
            ("/a/..?x", "/", "x"),
            ("/a/.?x?y", "/a/", "x?y"),
            ("/a?b#c", "/a", "b"),
            ("/a%3fb?c", "/a?b", "c"),
        ] {
            assert_eq!(parsed(target), Ok((path.to_owned(), Some(args.to_owned()))), "{target}");
        }
    }

    #[test]
    fn refuses() {
        for target in [
            "",
            "a",
            "*",
            "?a",
            "/..",
            "/../",
            "/a/../..",
            "/a/../../b",
            "/%2e%2e/",
            "/.%2e/x",
            "/..#",
            "/..?x",
            "/%2f..",
            "/%00",
            "/a%",
            "/a%4",
            "/a%4?1",
            "/a%zz",
            "/a%+1",
            "/%c",
        ] {
            assert_eq!(parsed(target), Err(400), "{target}");
        }
    }

    #[test]
    fn a_clean_target_is_not_copied() {
        for (target, clean) in [("/a/b.c?d//e%20", true), ("/a#b", true), ("/a/.b", false), ("/a%20", false)]
        {
            let mut out = Vec::new();
            let uri = Uri::parse(target.as_bytes(), &mut out).unwrap();
            assert_eq!(
                (uri.is_clean(), out.is_empty(), out.capacity() == 0),
                (clean, clean, clean),
                "{target}"
            );
        }
    }

    #[test]
    fn random_paths_never_leave_the_root_and_are_stable() {
        let mut random = fastrand::Rng::with_seed(36);
        for _ in 0..50_000 {
            let mut target = b"/".to_vec();
            for _ in 0..random.usize(..12) {
                let parts: &[&[u8]] =
                    &[b"/", b".", b"..", b"a", b"%2e", b"%2F", b"%", b"%25", b"?", b"#", b"\xff", b"%00"];
                target.extend_from_slice(random.choice(parts).unwrap());
            }
            let mut out = Vec::new();
            let Ok(uri) = Uri::parse(&target, &mut out) else { continue };
            let path = uri.path(&target, &out);
            assert_eq!(path.first(), Some(&b'/'));
            assert!(!path.windows(2).any(|two| two == b"//"), "{target:?}");
            assert!(
                path.split(|&b| b == b'/').all(|segment| segment != b"." && segment != b".."),
                "{target:?}"
            );
            // What a rewriting plugin encodes is read by the upstream as the same path.
            let (encoded, mut again) = (encode(path), Vec::new());
            let second = Uri::parse(&encoded, &mut again).unwrap();
            assert_eq!(second.path(&encoded, &again), path, "{target:?}");
        }
    }

    #[test]
    fn encoded_slashes_are_kept_where_nothing_else_happened() {
        for (target, kept) in [
            ("/a%2fb%41?c%2f", Some("/a%2FbA")),
            ("/a%2Fb/", Some("/a%2Fb/")),
            ("/a/b", None),
            ("/%41", None),
            ("/x%2Fy/../..", None),
            ("/x%2F%2e%2e", None),
            ("/x%2F/y", None),
        ] {
            let mut out = Vec::new();
            let uri = Uri::parse(target.as_bytes(), &mut out).unwrap();
            let found = keep_encoded_slashes(target.as_bytes(), uri.path(target.as_bytes(), &out));
            assert_eq!(found.as_deref(), kept.map(str::as_bytes), "{target}");
        }
    }

    #[test]
    fn encodes() {
        assert!(matches!(encode(b"/a/b-c_d~e!$&'()*+,;=:@[]"), Cow::Borrowed(_)));
        assert_eq!(
            &*encode(b"/ \"#%<>?\\^`{|}\x7f\xe4\x01"),
            b"/%20%22%23%25%3C%3E%3F%5C%5E%60%7B%7C%7D%7F%E4%01"
        );
        assert_eq!(&*encode_component(b"a b/c?d=e&f~"), b"a%20b%2Fc%3Fd%3De%26f~");
    }

    #[test]
    fn decodes() {
        for (text, decoded) in [
            ("a", "a"),
            ("a+b%20c", "a b c"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%2B%", "+%"),
            ("%%41", "%A"),
        ] {
            assert_eq!(&*decode_component(text.as_bytes()), decoded.as_bytes(), "{text}");
        }
    }

    #[test]
    fn arguments_one_by_one() {
        let pairs: Vec<_> = args(b"a=1&b&=x&&c==2&a=3&d=").collect();
        let expected: [(&[u8], Option<&[u8]>); 5] =
            [(b"a", Some(b"1")), (b"b", None), (b"c", Some(b"=2")), (b"a", Some(b"3")), (b"d", Some(b""))];
        assert_eq!(pairs, expected);
        for (text, name, value) in [
            ("a=1&A=2", "A", Some("1")),
            ("ab=1&b=2", "b", Some("2")),
            ("a&a=%20", "a", Some("%20")),
            ("a", "a", None),
            ("", "a", None),
        ] {
            assert_eq!(arg(text.as_bytes(), name.as_bytes()), value.map(str::as_bytes), "{text}");
        }
    }
}
