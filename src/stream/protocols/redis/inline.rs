//! The words of an inline command, exactly as redis-server reads them (`sdssplitargs` in sds.c): what it takes for MULTI is
//! to be seen as that here, too, or it would be left behind on a connection that others share.

use smallvec::SmallVec;

/// A word without its quotation marks.
pub type Word = SmallVec<[u8; 32]>;

/// The words of a line without its end and without NUL. None: quotation marks that do not end, or not at the word's end.
pub fn words(line: &[u8]) -> Option<SmallVec<[Word; 4]>> {
    let mut words = SmallVec::new();
    let mut rest = line;
    loop {
        rest = &rest[rest.iter().position(|byte| !is_blank(*byte)).unwrap_or(rest.len())..];
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Word::new();
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => break,
                b'"' | b'\'' => {
                    rest = if byte == b'"' { double(rest, &mut word)? } else { single(rest, &mut word)? };
                    if rest.first().is_some_and(|byte| !is_blank(*byte)) {
                        return None;
                    }
                    break;
                }
                byte => word.push(byte),
            }
        }
        words.push(word);
    }
}

/// C's `isspace`, of which not all end a word that has begun.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// The inside of `"`, with its escapes. What is behind it.
fn double<'a>(mut rest: &'a [u8], word: &mut Word) -> Option<&'a [u8]> {
    loop {
        (rest, _) = match rest {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', b'x', high, low, behind @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
                (behind, word.push(digit(*high) << 4 | digit(*low)))
            }
            [b'\\', byte, behind @ ..] => {
                let byte = match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    byte => *byte,
                };
                (behind, word.push(byte))
            }
            [byte, behind @ ..] => (behind, word.push(*byte)),
            [] => return None,
        }
    }
}

/// The inside of `'`. What is behind it.
fn single<'a>(mut rest: &'a [u8], word: &mut Word) -> Option<&'a [u8]> {
    loop {
        (rest, _) = match rest {
            [b'\'', behind @ ..] => return Some(behind),
            [b'\\', b'\'', behind @ ..] => (behind, word.push(b'\'')),
            [byte, behind @ ..] => (behind, word.push(*byte)),
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_redis_server() {
        for (line, expected) in [
            (&b"get  key"[..], Some(&[&b"get"[..], b"key"][..])),
            (b"", Some(&[])),
            (b" \t\x0b\x0c\r ", Some(&[])),
            (b"\x0bMULTI", Some(&[b"MULTI"])),
            (b"GET a\x0bb", Some(&[b"GET", b"a\x0bb"])),
            (b"GET a\rb", Some(&[b"GET", b"a", b"b"])),
            (b"\"MULTI\"", Some(&[b"MULTI"])),
            (b"'multi'", Some(&[b"multi"])),
            (b"mu\"lti\"", Some(&[b"multi"])),
            (b"\"\\x4dULTI\"", Some(&[b"MULTI"])),
            (b"\"\\xzz\\n\\r\\t\\b\\a\\\"\"", Some(&[b"xzz\n\r\t\x08\x07\""])),
            (b"'it\\'s\\n'", Some(&[b"it's\\n"])),
            (b"get \"\"", Some(&[b"get", b""])),
            (b"get a\\\"", None),
            (b"get \"a", None),
            (b"get \"a\"b", None),
            (b"get 'a'b", None),
            (b"get 'a\\'", None),
        ] {
            let all = words(line);
            let all: Option<Vec<&[u8]>> =
                all.as_ref().map(|words| words.iter().map(|word| &word[..]).collect());
            assert_eq!(all.as_deref(), expected, "{}", line.escape_ascii());
        }
    }
}
