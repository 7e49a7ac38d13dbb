//! Trailer fields on their way on: which of them stay behind. Those that change the message were dropped when they were
//! read ([`may_be_trailer`]).
//!
//! [`may_be_trailer`]: crate::wire::http::chunked::may_be_trailer

use crate::exchange::{Body, Exchange};
use crate::wire::Name;
use crate::wire::headers::{Names, trim_blanks};

/// Names under which trailers of the request do not go upstream. A server may take trailers for fields of the head (RFC
/// 9110 section 6.5.1): so these are names that the head has, that plugins have taken out of it, that the gateway sets, and
/// that are meant for one connection only.
pub fn kept_from_upstream(ex: &Exchange) -> Names {
    let head = &ex.req.head.headers;
    let mut names = Names::of(head);
    for name in [
        Name::XRealIp,
        Name::XForwardedFor,
        Name::XForwardedHost,
        Name::XForwardedPort,
        Name::XForwardedProto,
        Name::Forwarded,
        Name::ProxyConnection,
    ] {
        names.add(name.text());
    }
    let tokens = head.all(Name::Connection).flat_map(|value| value.split(|b| *b == b','));
    tokens.for_each(|token| names.add(trim_blanks(token)));
    names
}

/// The trailer fields of a body, without those of these names.
pub fn without<'a>(names: &'a Names, body: &'a Body) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let fields = body.trailers().into_iter().flat_map(|fields| fields.iter());
    fields.filter(|(name, _, _)| !names.has(name)).map(|(name, value, _)| (name, value))
}

/// Those of the answer: none that plugins have taken out of its head.
pub fn of_answer(ex: &Exchange) -> impl Iterator<Item = (&[u8], &[u8])> {
    without(ex.resp.head.headers.removed(), &ex.resp.body)
}
