//! JSON written piece by piece into a buffer, where building a value first, or looking at each byte of a text, would
//! cost more than the rest of the entry.

use serde_json::Value;

/// An object that is being written.
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    /// Begins one at the end of `out`.
    pub fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, empty: true }
    }

    /// Appends a name of ours, in which nothing needs an escape. The caller appends its value.
    pub fn field(&mut self, name: &'static str) -> &mut Vec<u8> {
        debug_assert!(is_plain(name.as_bytes()));
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// Appends any other name. The caller appends its value.
    pub fn named(&mut self, name: &[u8]) -> &mut Vec<u8> {
        self.separate();
        text(name, self.out);
        self.out.push(b':');
        self.out
    }

    /// As [`named`](Object::named), in lower case.
    pub fn named_lower(&mut self, name: &[u8]) -> &mut Vec<u8> {
        self.separate();
        let from = self.out.len();
        text(name, self.out);
        self.out[from..].make_ascii_lowercase(); // escapes are in lower case
        self.out.push(b':');
        self.out
    }

    /// Ends it.
    pub fn end(self) {
        self.out.push(b'}');
    }

    fn separate(&mut self) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
    }
}

/// Appends bytes as a string; what is no UTF-8 is replaced.
pub fn text(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    text_part(bytes, out);
    out.push(b'"');
}

/// Appends a part of a string, without its quotes.
pub fn text_part(bytes: &[u8], out: &mut Vec<u8>) {
    if is_plain(bytes) {
        return out.extend_from_slice(bytes);
    }
    let quoted = Value::from(String::from_utf8_lossy(bytes)).to_string();
    out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
}

/// Appends a value.
pub fn value(value: &Value, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "memory takes every byte, and every name is a string");
}

/// Whether all bytes stand for themselves in a string. Most do, so it looks at eight at a time, at the last of them twice.
fn is_plain(bytes: &[u8]) -> bool {
    let plain = |eight: &[u8; 8]| are_plain(u64::from_le_bytes(*eight));
    let (eights, _) = bytes.as_chunks();
    match bytes.last_chunk() {
        Some(last) => eights.iter().all(plain) && plain(last),
        None => bytes.iter().all(|b| matches!(b, b' '..=0x7f) && !matches!(b, b'"' | b'\\')),
    }
}

/// Whether all eight bytes are ASCII and no control, quote or backslash: subtracting in every byte at once sets the
/// highest bit of one that was too small.
fn are_plain(eight: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let below_blank = eight.wrapping_sub(ONES * 0x20);
    let quote = (eight ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslash = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (eight | below_blank | quote | backslash) & (ONES * 0x80) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_reads_back() {
        for b in 0..=255_u8 {
            for (place, length) in (0..20).flat_map(|place| [(place, 20), (place, place + 1)]) {
                let mut bytes = *b"abcdefg hijklmno pqr";
                bytes[place] = b;
                let bytes = &bytes[..length];
                let mut out = Vec::new();
                text(bytes, &mut out);
                let read: String = serde_json::from_slice(&out).unwrap();
                assert_eq!(read, String::from_utf8_lossy(bytes), "{b} at {place} of {length}");
            }
        }
    }

    #[test]
    fn texts_are_written_as_serde_writes_them() {
        for sample in ["", "a\"b\\c\n\u{1}\u{7f}", "ä€😀 plain behind", "plain before ä", "0123456\t"] {
            let mut out = Vec::new();
            text(sample.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), Value::from(sample).to_string());
        }
    }

    #[test]
    fn objects_have_commas_between_their_fields() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        text(b"x", object.field("a"));
        Object::begin(object.named(b"\"")).end();
        value(&Value::Null, object.named_lower(b"X-A\x01"));
        object.end();
        assert_eq!(out, br#"{"a":"x","\"":{},"x-a\u0001":null}"#);
    }
}
