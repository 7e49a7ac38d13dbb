//! Where a credential stands in a request: a header, or an argument. Reading it and taking it out.

use std::borrow::Cow;

use crate::exchange::Exchange;
use crate::wire::headers::FieldName;
use crate::wire::uri;

/// The name of a header that a configuration holds, looked at once: for [`header`] and [`remove_header`].
pub struct Header {
    name: FieldName,
    dashed: Option<FieldName>,
}

impl Header {
    /// Of this name.
    pub fn new(name: &[u8]) -> Header {
        Header { name: FieldName::new(name), dashed: dashed(name).as_deref().map(FieldName::new) }
    }

    /// What [`header`] gives.
    pub fn of<'a>(&self, ex: &'a Exchange) -> Option<&'a [u8]> {
        let headers = ex.req_headers();
        headers.get_known(&self.name).or_else(|| headers.get_known(self.dashed.as_ref()?))
    }

    /// What [`remove_header`] does.
    pub fn remove(&self, ex: &mut Exchange) {
        remove_header(ex, self.name.text());
    }
}

/// The first value of a header. A name with `_` finds one with `-`, too (lua-nginx-module
/// `ngx.req.get_headers`).
pub fn header<'a>(ex: &'a Exchange, name: &[u8]) -> Option<&'a [u8]> {
    let headers = ex.req_headers();
    headers.get_named(name).or_else(|| headers.get_named(&dashed(name)?))
}

/// Takes every value of the header out of the request.
pub fn remove_header(ex: &mut Exchange, name: &[u8]) {
    let headers = &mut ex.req.head.headers;
    headers.remove_named(name);
    if let Some(name) = dashed(name) {
        headers.remove_named(&name);
    }
}

fn dashed(name: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'_', name)?;
    Some(name.iter().map(|b| if *b == b'_' { b'-' } else { *b }).collect())
}

/// An argument of the request as Lua gets it.
#[derive(Debug, PartialEq, Eq)]
pub enum Arg<'a> {
    /// Not there.
    Missing,
    /// There, but no text: without `=`, or more than once.
    NoText,
    /// Its value, decoded.
    Text(Cow<'a, [u8]>),
}

/// The argument `name`.
pub fn arg<'a>(ex: &'a Exchange, name: &[u8]) -> Arg<'a> {
    let args = ex.req.args.as_deref().unwrap_or_default();
    let mut values = uri::args(args).filter(|(found, _)| *uri::decode_component(found) == *name);
    match (values.next(), values.next()) {
        (None, _) => Arg::Missing,
        (Some((_, Some(value))), None) => Arg::Text(uri::decode_component(value)),
        _ => Arg::NoText,
    }
}

/// Takes every value of the argument out of the request; the others keep their order and coding.
pub fn remove_arg(ex: &mut Exchange, name: &[u8]) {
    if arg(ex, name) == Arg::Missing {
        return;
    }
    let is_other = |pair: &&[u8]| {
        let found = pair.split(|b| *b == b'=').next().unwrap_or_default();
        *uri::decode_component(found) != *name
    };
    let args = ex.req.args.as_deref().unwrap_or_default();
    let rest: Vec<&[u8]> = args.split(|b| *b == b'&').filter(is_other).collect();
    let rest = rest.join(&b'&');
    ex.set_args((!rest.is_empty()).then_some(rest));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Vars;
    use crate::plugins::kit::test;

    #[test]
    fn a_headers_variable_has_all_values_of_the_name_that_is_found_first() {
        let ex = test::exchange(
            "GET / HTTP/1.1\nHost: a\nX_A-B: 1\nX-A-B: 2\nx_a-b: 3\nX_A-B: 4\nCookie: c=1\ncookie: d=2\nX-One: 5",
        );
        for (name, value) in [
            ("http_x_a_b", Some(&b"1, 3, 4"[..])),
            ("http_cookie", Some(b"c=1; d=2")),
            ("http_x_one", Some(b"5")),
            ("http_host", Some(b"a")),
            ("http_x_on", None),
        ] {
            assert_eq!(ex.var(name).as_deref(), value, "{name}");
        }
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: field");
        ex.req.http_host = b"authority".to_vec();
        assert_eq!(ex.var("http_host").as_deref(), Some(&b"authority"[..]), "as that of HTTP/2");
    }

    #[test]
    fn headers_by_either_name() {
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a\nX-Key: 1\nX-Key: 2\nx_other: 3");
        assert_eq!(header(&ex, b"x_key"), Some(&b"1"[..]));
        assert_eq!(header(&ex, b"X_Other"), Some(&b"3"[..]));
        assert_eq!(header(&ex, b"x-other"), None);
        for name in ["x_key", "X_Other", "x-other", "Host"] {
            assert_eq!(Header::new(name.as_bytes()).of(&ex), header(&ex, name.as_bytes()), "{name}");
        }
        Header::new(b"x_key").remove(&mut ex);
        assert_eq!(header(&ex, b"x-key"), None);
    }

    #[test]
    fn arguments_as_lua_gets_them() {
        let mut ex = test::exchange("GET /?a=1&b&c=2&c=3&%64=x%20y&e= HTTP/1.1\nHost: a");
        assert_eq!(arg(&ex, b"a"), Arg::Text(b"1".into()));
        assert_eq!(arg(&ex, b"b"), Arg::NoText);
        assert_eq!(arg(&ex, b"c"), Arg::NoText);
        assert_eq!(arg(&ex, b"d"), Arg::Text(b"x y".into()));
        assert_eq!(arg(&ex, b"e"), Arg::Text(b"".into()));
        assert_eq!(arg(&ex, b"f"), Arg::Missing);
        remove_arg(&mut ex, b"f");
        assert!(ex.out.uri.is_none(), "the target goes upstream as it came");
        remove_arg(&mut ex, b"c");
        remove_arg(&mut ex, b"d");
        assert_eq!(ex.req.args.as_deref(), Some(&b"a=1&b&e="[..]));
    }
}
