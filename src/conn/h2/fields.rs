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
        self.bytes += value.len();
        if let Ok(value) = HeaderValue::from_maybe_shared(self.text(value)) {
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
