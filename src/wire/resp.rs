//! The Redis protocol, version 2 (RESP, redis.io/docs/reference/protocol-spec): commands out, replies in.

use crate::limits;

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR …`, with its code.
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3`
    Bulk(Vec<u8>),
    /// `$-1` or `*-1`
    Null,
    /// `*2`
    Array(Vec<Reply>),
}

/// Bytes that are no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Appends a command.
pub fn write_command<'a>(out: &mut Vec<u8>, parts: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>) {
    let mut digits = itoa::Buffer::new();
    let mut head = |out: &mut Vec<u8>, kind: u8, number: usize| {
        out.push(kind);
        out.extend_from_slice(digits.format(number).as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    let parts = parts.into_iter();
    head(out, b'*', parts.clone().count());
    for part in parts {
        head(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads one reply from the front of `bytes`: the reply and its length, or `None` if it is not whole yet.
///
/// # Errors
/// The bytes are no reply, or one that is longer or deeper than [`limits::REDIS_REPLY`] and 8 levels.
pub fn read_reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let mut at = 0;
    let reply = read(bytes, &mut at, 8)?;
    if reply.is_none() && bytes.len() > limits::REDIS_REPLY {
        return Err(Malformed);
    }
    Ok(reply.map(|reply| (reply, at)))
}

fn read(bytes: &[u8], at: &mut usize, depth: u32) -> Result<Option<Reply>, Malformed> {
    let rest = &bytes[*at..];
    let Some(end) = memchr::memchr(b'\n', rest) else { return Ok(None) };
    let line = rest[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let (kind, line) = line.split_first().ok_or(Malformed)?;
    let text = std::str::from_utf8(line);
    let number = || text.ok().and_then(|text| text.parse::<i64>().ok()).ok_or(Malformed);
    *at += end + 1;
    Ok(Some(match kind {
        b'+' => Reply::Simple(String::from_utf8_lossy(line).into_owned()),
        b'-' => Reply::Error(String::from_utf8_lossy(line).into_owned()),
        b':' => Reply::Integer(number()?),
        b'$' => match number()? {
            -1 => Reply::Null,
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                if length > limits::REDIS_REPLY {
                    return Err(Malformed);
                }
                let Some(data) = bytes[*at..].get(..length + 2) else { return Ok(None) };
                *at += length + 2;
                Reply::Bulk(data.strip_suffix(b"\r\n").ok_or(Malformed)?.to_vec())
            }
        },
        b'*' => match number()? {
            -1 => Reply::Null,
            count => {
                let count = usize::try_from(count).map_err(|_| Malformed)?;
                // an element has three bytes at least
                if depth == 0 || count > limits::REDIS_REPLY / 3 {
                    return Err(Malformed);
                }
                let mut items = Vec::new();
                for _ in 0..count {
                    let Some(item) = read(bytes, at, depth - 1)? else { return Ok(None) };
                    items.push(item);
                }
                Reply::Array(items)
            }
        },
        _ => return Err(Malformed),
    }))
}

impl Reply {
    /// A number, also one that came as text.
    pub fn number(&self) -> Option<f64> {
        match self {
            Reply::Integer(number) => Some(*number as f64),
            Reply::Bulk(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            Reply::Simple(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Bulk(text) => std::str::from_utf8(text).ok(),
            Reply::Simple(text) => Some(text),
            _ => None,
        }
    }

    /// The items of an array; none of anything else.
    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) => items,
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let mut out = Vec::new();
        write_command(&mut out, [&b"SET"[..], b"k", b"a\r\nb"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n");
    }

    #[test]
    fn replies_however_they_are_cut() {
        let bytes = b"+OK\r\n-ERR no\r\n:-5\r\n$4\r\na\r\nb\r\n$-1\r\n*2\r\n:1\r\n*1\r\n$0\r\n\r\n*-1\r\n";
        let expected = [
            Reply::Simple("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Integer(-5),
            Reply::Bulk(b"a\r\nb".to_vec()),
            Reply::Null,
            Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![Reply::Bulk(Vec::new())])]),
            Reply::Null,
        ];
        for cut in 1..bytes.len() {
            let (mut buffer, mut seen) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some((reply, length)) = read_reply(&buffer).unwrap() {
                    buffer.drain(..length);
                    seen.push(reply);
                }
            }
            assert_eq!(seen, expected, "pieces of {cut}");
        }
    }

    #[test]
    fn what_is_no_reply() {
        let deep = b"*1\r\n".repeat(10);
        for bad in
            [&b"x\r\n"[..], b"\r\n", b"+a\n", b":x\r\n", b"$-2\r\n", b"$1\r\nabc", b"$9999999999\r\n", &deep]
        {
            assert_eq!(read_reply(bad), Err(Malformed), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn no_bytes_panic() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..50_000 {
            let letters = b"+-:$*019\r\n\r\na";
            let bytes: Vec<u8> =
                (0..random.usize(0..20)).map(|_| letters[random.usize(..letters.len())]).collect();
            let _ = read_reply(&bytes);
        }
    }

    #[test]
    fn a_reply_has_a_longest_length() {
        let most = limits::REDIS_REPLY;
        for (bytes, is_reply) in [
            (format!("${most}\r\n").into_bytes(), true),
            (format!("${}\r\n", most + 1).into_bytes(), false),
            (format!("*{}\r\n", most / 3).into_bytes(), true),
            (format!("*{}\r\n", most / 3 + 1).into_bytes(), false),
            ([&b"+"[..], &vec![b'x'; most - 1]].concat(), true),
            ([&b"+"[..], &vec![b'x'; most]].concat(), false),
        ] {
            let expected = if is_reply { Ok(None) } else { Err(Malformed) };
            assert_eq!(read_reply(&bytes), expected, "{}", String::from_utf8_lossy(&bytes[..9]));
        }
    }
}
