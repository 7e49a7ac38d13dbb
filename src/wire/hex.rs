//! Bytes as hexadecimal digits.

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Two digits for each byte, small letters: how digests and signatures are written.
pub fn lower(bytes: &[u8]) -> String {
    write(bytes, LOWER)
}

/// Appends what [`lower`] gives.
pub fn append_lower(bytes: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + 2 * bytes.len(), 0);
    let (pairs, _) = out[from..].as_chunks_mut();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = digits(*byte, LOWER);
    }
}

/// Two digits for each byte, capitals: how OpenSSL prints integers.
pub fn upper(bytes: &[u8]) -> String {
    write(bytes, UPPER)
}

/// The digits of a byte, capitals: how logs escape what cannot be printed.
pub fn upper_digits(byte: u8) -> [u8; 2] {
    digits(byte, UPPER)
}

fn write(bytes: &[u8], alphabet: &[u8; 16]) -> String {
    bytes.iter().flat_map(|byte| digits(*byte, alphabet)).map(char::from).collect()
}

fn digits(byte: u8, alphabet: &[u8; 16]) -> [u8; 2] {
    [alphabet[usize::from(byte >> 4)], alphabet[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_two_digits_the_higher_first() {
        assert_eq!(lower(&[0, 0x0f, 0xa5, 0xff]), "000fa5ff");
        assert_eq!(upper(&[0, 0x0f, 0xa5, 0xff]), "000FA5FF");
        assert_eq!(upper_digits(0x1b), *b"1B");
        assert_eq!(lower(&[]), "");
        let mut out = b"0x".to_vec();
        append_lower(&[0, 0x0f, 0xa5, 0xff], &mut out);
        assert_eq!(out, b"0x000fa5ff");
    }
}
