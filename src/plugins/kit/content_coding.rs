//! Bodies that an upstream has compressed, for plugins that look into them (apisix/utils/content-decode.lua).

use std::fmt;
use std::io::{self, Read};

use brotli_decompressor::Decompressor;
use flate2::read::MultiGzDecoder;

use crate::limits;

/// Why a body cannot be read.
#[derive(Debug)]
pub enum Undecoded {
    /// Its `Content-Encoding` is neither `gzip` nor `br`.
    Unknown,
    /// It is not what its `Content-Encoding` says, or not all of it is there.
    Broken(io::Error),
}

impl fmt::Display for Undecoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undecoded::Unknown => f.write_str("unknown encoding"),
            Undecoded::Broken(error) => write!(f, "{error}"),
        }
    }
}

/// Can [`decode`] read it?
pub fn is_known(coding: &[u8]) -> bool {
    [b"gzip".as_slice(), b"br"].iter().any(|known| coding.eq_ignore_ascii_case(known))
}

/// Takes the coding off a whole body. A body that would be longer than `most` bytes is cut there: some
/// kilobytes may stand for gigabytes.
pub fn decode(coding: &[u8], body: &[u8], most: usize) -> Result<Vec<u8>, Undecoded> {
    let reader: Box<dyn Read + '_> = match coding {
        _ if coding.eq_ignore_ascii_case(b"gzip") => Box::new(MultiGzDecoder::new(body)),
        _ if coding.eq_ignore_ascii_case(b"br") => Box::new(Decompressor::new(body, limits::DECODE_BUFFER)),
        _ => return Err(Undecoded::Unknown),
    };
    let mut plain = Vec::new();
    match reader.take(most as u64).read_to_end(&mut plain) {
        Ok(_) => Ok(plain),
        Err(error) => Err(Undecoded::Broken(error)),
    }
}

/// Compressed texts, for the tests of plugins, too.
#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// `hello world`, compressed with brotli.
    pub const BROTLI: &[u8] = b"\x0b\x05\x80hello world\x03";

    /// A text, compressed with gzip.
    pub fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn whole_bodies_are_read() {
        let twice = [gzip(b"hello "), gzip(b"world")].concat();
        for (coding, body) in [("gzip", &gzip(b"hello world")[..]), ("GZip", &twice), ("br", BROTLI)] {
            assert_eq!(decode(coding.as_bytes(), body, 100).unwrap(), b"hello world", "{coding}");
            assert_eq!(decode(coding.as_bytes(), body, 5).unwrap(), b"hello", "{coding}");
            let half = decode(coding.as_bytes(), &body[..body.len() - 3], 100);
            assert!(matches!(half, Err(Undecoded::Broken(_))), "{coding}");
        }
        assert!(matches!(decode(b"gzip", b"hello", 100), Err(Undecoded::Broken(_))));
        assert!(matches!(decode(b"zstd", b"hello", 100), Err(Undecoded::Unknown)));
    }

    #[test]
    fn a_small_body_does_not_become_a_huge_one() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 20 << 10);
        assert_eq!(decode(b"gzip", &bomb, 1000).unwrap().len(), 1000);
    }
}
