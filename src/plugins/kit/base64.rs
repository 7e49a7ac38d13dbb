//! Base64 as nginx reads it (ngx_string.c `ngx_decode_base64_internal`): padding may be missing, what follows
//! the first `=` is not looked at, bits behind the last byte neither.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const fn lenient(alphabet: &Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    GeneralPurpose::new(alphabet, config)
}

const PLAIN: GeneralPurpose = lenient(&STANDARD);
const URL: GeneralPurpose = lenient(&URL_SAFE);

/// `ngx.decode_base64`
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    PLAIN.decode(until_padding(text)).ok()
}

/// The same with `-` and `_` (RFC 4648 section 5).
pub fn decode_url(text: &[u8]) -> Option<Vec<u8>> {
    URL.decode(until_padding(text)).ok()
}

/// Base64 with padding.
pub fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Appends what [`encode`] gives.
pub fn append(bytes: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + bytes.len().div_ceil(3) * 4, 0);
    // the room is what four letters for each three bytes need, the last ones padded
    let written = base64::engine::general_purpose::STANDARD.encode_slice(bytes, &mut out[from..]);
    out.truncate(from + written.unwrap_or(0));
}

fn until_padding(text: &[u8]) -> &[u8] {
    &text[..memchr::memchr(b'=', text).unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nginx_reads() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYg==", Some(b"foob")),
            ("Zm9vYg", Some(b"foob")),
            ("Zm9vYh", Some(b"foob")),
            ("Zm9v=!!", Some(b"foo")),
            ("Zm9vY", None),
            ("Zm 9v", None),
            ("Zm9v\n", None),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), bytes, "{text}");
        }
        for bytes in [&b""[..], b"f", b"fo", b"foo", b"foob"] {
            let mut out = b"=".to_vec();
            append(bytes, &mut out);
            assert_eq!(out, format!("={}", encode(bytes)).as_bytes());
        }
        assert_eq!((decode(b"-_8"), decode_url(b"-_8")), (None, Some(vec![251, 255])));
        assert_eq!((decode(b"+/8"), decode_url(b"+/8")), (Some(vec![251, 255]), None));
    }
}
