//! Fields on their way into the h2 crate, which takes them in a map.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Trailer fields as the h2 crate takes them.
pub fn trailer_map<'a>(trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
    let mut values = Fields::default();
    trailers.for_each(|(name, value)| values.add(name, value));
    values.map()
}

/// The fields of a head on their way into a map: one buffer for all values.
#[derive(Default)]
pub struct Fields {
    text: Vec<u8>,
    fields: SmallVec<[(HeaderName, usize); 16]>,
}

impl Fields {
    /// Bytes of the values so far.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// A name that is no token is left out: HTTP/2 could not carry it.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        if let Ok(name) = HeaderName::from_bytes(name) {
            self.text.extend_from_slice(value);
            self.fields.push((name, value.len()));
        }
    }

    /// All of them.
    pub fn map(self) -> HeaderMap {
        let mut text = Bytes::from(self.text);
        let mut map = HeaderMap::with_capacity(self.fields.len());
        for (name, length) in self.fields {
            if let Ok(value) = HeaderValue::from_maybe_shared(text.split_to(length)) {
                map.append(name, value);
            }
        }
        map
    }
}
