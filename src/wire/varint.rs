//! Integers of QUIC and HTTP/3: one, two, four or eight bytes, as the first two bits say (RFC 9000 section 16).

/// The largest: 62 bits.
pub const MAX: u64 = (1 << 62) - 1;

/// The integer at the beginning of `bytes` and how many it takes; `None`: it is not all there.
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    Some((rest.iter().fold(u64::from(first & 63), |value, byte| value << 8 | u64::from(*byte)), length))
}

/// Appends `value`, at most [`MAX`], in as few bytes as it needs.
pub fn write(value: u64, out: &mut Vec<u8>) {
    let value = value.min(MAX);
    let (length, mark) = match value {
        0..64 => (1, 0),
        64..16_384 => (2, 0x40),
        16_384..1_073_741_824 => (4, 0x80),
        _ => (8, 0xc0),
    };
    let bytes = value.to_be_bytes();
    let at = out.len();
    out.extend_from_slice(&bytes[8 - length..]);
    out[at] |= mark;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9000 appendix A.1.
    #[test]
    fn the_examples_of_the_rfc() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(read(bytes), Some((value, bytes.len())));
            assert_eq!(read(&bytes[..bytes.len() - 1]), None);
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!(out, bytes);
        }
        assert_eq!(read(&[0x40, 0x25]), Some((37, 2)), "more bytes than it needs");
    }

    #[test]
    fn what_is_written_is_read() {
        for value in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, MAX] {
            let mut out = vec![1];
            write(value, &mut out);
            assert_eq!(read(&out[1..]), Some((value, out.len() - 1)), "{value}");
        }
    }
}
