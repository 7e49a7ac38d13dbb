//! Which bytes may stand where in a head, looked up in one table, and the search for the first that may not.

/// A letter, a digit or `-`: what nginx takes in a field name.
pub(super) const NAME: u8 = 1;
/// `_`, which `underscores_in_headers` is about.
pub(super) const UNDERSCORE: u8 = 2;
/// What else a token may have (RFC 9110 section 5.6.2).
pub(super) const TOKEN: u8 = 4;
/// Anything visible but the colon: what a field name that is not valid may have, so that its line can be dropped.
pub(super) const VISIBLE: u8 = 8;
/// What nginx takes in a method: capital letters, `-` and `_`.
pub(super) const METHOD: u8 = 16;
/// What may stand in a request target: all but blanks and controls.
pub(super) const TARGET: u8 = 32;
/// What may stand in a field value: all but controls other than the tab.
pub(in crate::wire) const VALUE: u8 = 64;
/// The other controls, without NUL, CR and LF.
pub(in crate::wire) const CONTROL: u8 = 128;

/// The classes of each byte.
const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = classes(b as u8);
        b += 1;
    }
    table
};

const fn classes(b: u8) -> u8 {
    let name = match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => NAME,
        b'_' => UNDERSCORE,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.' | b'^' | b'`' | b'|' | b'~' => TOKEN,
        _ => 0,
    };
    let method = if matches!(b, b'A'..=b'Z' | b'-' | b'_') { METHOD } else { 0 };
    let visible = match b {
        0..=b' ' | 0x7f => 0,
        b':' => TARGET,
        _ => TARGET | VISIBLE,
    };
    let value = match b {
        b'\t' | b' '..=0x7e | 0x80.. => VALUE,
        0 | b'\r' | b'\n' => 0,
        _ => CONTROL,
    };
    name | method | visible | value
}

/// Whether `b` is of one of these classes.
pub(super) fn is(b: u8, classes: u8) -> bool {
    CLASS[usize::from(b)] & classes != 0
}

/// The place, from `at` on, of the first byte that is of none of these classes: the end of `bytes` if all are.
#[inline]
pub(super) fn past(bytes: &[u8], mut at: usize, classes: u8) -> usize {
    while bytes.get(at).is_some_and(|&b| is(b, classes)) {
        at += 1;
    }
    at
}

/// As [`past`] for [`VALUE`] and such, most often long: passes eight bytes at a time while all are printable or above 0x7f.
#[inline]
pub(in crate::wire) fn past_text(bytes: &[u8], mut at: usize, classes: u8) -> usize {
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        if !is_text(u64::from_le_bytes(*eight)) {
            break;
        }
        at += 8;
    }
    past(bytes, at, classes)
}

/// Whether none of the eight bytes is below a blank or 0x7f (the "haszero" and "hasless" of Anderson's bit hacks).
fn is_text(eight: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES * 0x80;
    let below_blank = eight.wrapping_sub(ONES * 0x20) & !eight;
    let delete = eight ^ (ONES * 0x7f);
    let delete = delete.wrapping_sub(ONES) & !delete;
    (below_blank | delete) & TOPS == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_are_text_where_each_is() {
        for b in 0..=255_u8 {
            for place in 0..8 {
                let mut eight = *b"a~ \xff\x80z0:";
                eight[place] = b;
                let alone = is(b, VALUE) && b != b'\t';
                assert_eq!(is_text(u64::from_le_bytes(eight)), alone, "{b} at {place}");
            }
        }
    }

    #[test]
    fn the_end_is_the_first_byte_of_another_class() {
        let text = b"abcdefgh\tijklmnopqrstuvw\x80\r\n";
        assert_eq!(past_text(text, 0, VALUE), text.len() - 2);
        assert_eq!(past_text(b"abcdefghijklmno\x01p", 0, VALUE), 15);
        assert_eq!(past_text(b"abcdefghijklmno\x01p", 0, VALUE | CONTROL), 17);
        assert_eq!(past(b"Host: a", 0, NAME), 4);
        assert_eq!(past(b"Host", 9, NAME), 9);
    }
}
