//! Fields on their way into the h2 crate, which takes them in a map.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::Name;

/// The known names as the crate has them: to make one of its text costs a memory block for most.
static KNOWN: LazyLock<Vec<HeaderName>> =
    LazyLock::new(|| Name::known().map(|name| HeaderName::from_static(name.lower_case())).collect());

/// As many as most messages have at the end, and the bytes of their values.
const TRAILERS: usize = 3;
const TRAILER_BYTES: usize = 64;

/// Trailer fields as the h2 crate takes them.
pub fn trailer_map<'a>(trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
    let mut trailers = trailers.peekable();
    if trailers.peek().is_none() {
        return HeaderMap::new();
    }
    let mut fields = Fields::with_room(TRAILERS, TRAILER_BYTES);
    trailers.for_each(|(name, value)| fields.add(Name::of(name), name, value));
    fields.map
}

/// The fields of a head as a map, whose values lie in one buffer.
pub struct Fields {
    text: BytesMut,
    map: HeaderMap,
    bytes: usize,
}

impl Fields {
    /// With room for so many fields, and so many bytes of values.
    pub fn with_room(fields: usize, bytes: usize) -> Self {
        Fields { text: BytesMut::with_capacity(bytes), map: HeaderMap::with_capacity(fields), bytes: 0 }
    }

    /// Bytes of the values so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `name` is read where `id` is none that is known. A name that is no token is left out: HTTP/2 could not carry it.
    pub fn add(&mut self, id: Name, name: &[u8], value: &[u8]) {
        let name = match KNOWN.get(id as usize) {
            Some(known) => known.clone(),
            None => match HeaderName::from_bytes(name) {
                Ok(other) => other,
                Err(_) => return,
            },
        };
        if let Ok(value) = HeaderValue::from_maybe_shared(self.text(value)) {
            self.bytes += value.len();
            self.map.append(name, value);
        }
    }

    /// A copy in the buffer.
    pub fn text(&mut self, text: &[u8]) -> Bytes {
        self.text.extend_from_slice(text);
        self.text.split().freeze()
    }

    /// All of them.
    pub fn map(self) -> HeaderMap {
        self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_every_field_that_http2_can_carry_in_order() {
        let mut fields = Fields::with_room(1, 1);
        assert_eq!(fields.text(b"/path"), "/path");
        for name in Name::known() {
            fields.add(name, b"not looked at", name.text());
        }
        for (name, value) in [
            ("X-One", "1"),
            ("x-one", ""),
            ("no token", "2"),
            ("X-Bad", "3\x01"),
            ("Set-Cookie", "a"),
            ("x-last", "\u{e9}"),
        ] {
            fields.add(Name::of(name.as_bytes()), name.as_bytes(), value.as_bytes());
        }
        let names: usize = Name::known().map(|name| name.text().len()).sum();
        assert_eq!(fields.bytes(), names + "1a\u{e9}".len());
        let map = fields.map();
        for name in Name::known() {
            assert_eq!(map.get(name.lower_case()).unwrap().as_bytes(), name.text(), "{name:?}");
        }
        let all = |name: &str| map.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
        assert_eq!(all("x-one"), [&b"1"[..], b""]);
        assert_eq!(all("set-cookie"), [&b"Set-Cookie"[..], b"a"]);
        assert_eq!(all("x-last"), ["\u{e9}".as_bytes()]);
        assert_eq!(map.len(), Name::COUNT + 4, "neither that without a token nor that with a control");
    }

    #[test]
    fn trailers_are_a_map_too() {
        let trailers = [(&b"grpc-status"[..], &b"0"[..]), (b"X-Sum", b"1"), (b"x-sum", b"2")];
        let map = trailer_map(trailers.into_iter());
        let fields: Vec<_> = map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("grpc-status", &b"0"[..]), ("x-sum", b"1"), ("x-sum", b"2")]);
        assert!(trailer_map(std::iter::empty()).is_empty());
    }
}
