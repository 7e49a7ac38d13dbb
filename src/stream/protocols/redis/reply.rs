//! Replies of Redis, RESP2 and RESP3, piece by piece: where each ends, and as much of it as tells a reply from a pushed
//! message. Values pass by unheld.

use smallvec::SmallVec;

use super::command::number;
use crate::limits;
use crate::stream::xrpc::Broken;

/// What is known of a reply when it has ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Its first byte.
    pub kind: u8,
    /// The beginning of its line, or of the first text of an array: `message`, `subscribe`, …
    pub text: SmallVec<[u8; 16]>,
    /// The last number that stands in it, one level deep.
    pub number: i64,
}

/// An array that is being read.
#[derive(Clone, Copy, Debug)]
struct Level {
    left: u64,
    /// An attribute (RESP3) stands before a value, and is none.
    attribute: bool,
}

/// Where an upstream's bytes stand.
#[derive(Debug, Default)]
pub struct Decoder {
    levels: SmallVec<[Level; 4]>,
    /// Bytes of a text that is being read, its line end among them.
    left: u64,
    in_text: bool,
    line: SmallVec<[u8; 32]>,
    /// The text that is being read is the first of its array.
    keeps: bool,
    reply: Reply,
}

impl Decoder {
    /// No reply is half read.
    pub fn is_between(&self) -> bool {
        self.levels.is_empty() && !self.in_text && self.line.is_empty()
    }

    /// Reads on from `at` to the end of a reply. `None`: all bytes were read.
    ///
    /// # Errors
    /// They are no reply.
    pub fn read(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<Reply>, Broken> {
        while *at < bytes.len() {
            let rest = &bytes[*at..];
            let value_ended = if self.in_text {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                if self.keeps && self.reply.text.len() < 16 {
                    // but for its line end
                    let text = usize::try_from(self.left.saturating_sub(2)).unwrap_or(usize::MAX).min(here);
                    self.reply.text.extend(rest[..text].iter().copied().take(16 - self.reply.text.len()));
                }
                *at += here;
                self.left -= here as u64;
                self.in_text = self.left > 0;
                !self.in_text
            } else {
                let Some(end) = memchr::memchr(b'\n', rest) else {
                    *at = bytes.len();
                    self.keep_line(rest)?;
                    return Ok(None);
                };
                *at += end + 1;
                match self.line.is_empty() {
                    true => self.line_read(&rest[..end])?,
                    false => {
                        let mut line = std::mem::take(&mut self.line);
                        // of a long status line its beginning is enough
                        line.extend_from_slice(&rest[..end]);
                        self.line_read(&line)?
                    }
                }
            };
            if value_ended && self.value_ended() {
                return Ok(Some(std::mem::take(&mut self.reply)));
            }
        }
        Ok(None)
    }

    fn keep_line(&mut self, rest: &[u8]) -> Result<(), Broken> {
        if self.line.len() + rest.len() > limits::REDIS_LINE {
            return Broken::because("a line of a reply does not end");
        }
        self.line.extend_from_slice(rest);
        Ok(())
    }

    /// A line without its LF. True: it is a whole value.
    fn line_read(&mut self, line: &[u8]) -> Result<bool, Broken> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some((&kind, rest)) = line.split_first() else { return Broken::because("unknown prefix: \"\"") };
        let is_first = self.levels.len() == 1 && self.reply.text.is_empty() && self.keeps;
        if self.levels.is_empty() {
            self.reply = Reply { kind, ..Reply::default() };
        }
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {
                if self.levels.is_empty() || is_first {
                    self.reply.text = rest.iter().copied().take(16).collect();
                }
                if kind == b':' && self.levels.len() <= 1 {
                    self.reply.number = number(rest).unwrap_or(0);
                }
                Ok(true)
            }
            b'$' | b'=' | b'!' => match number(rest) {
                Some(-1) => Ok(true),
                Some(length @ 0..=limits::REDIS_BULK) => {
                    self.left = length as u64 + 2;
                    self.in_text = true;
                    self.keeps = is_first;
                    Ok(false)
                }
                _ => Broken::because(format!("invalid bulk length: {}", rest.escape_ascii())),
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => self.array(kind, rest),
            other => Broken::because(format!("unknown prefix: \"{}\"", char::from(other).escape_default())),
        }
    }

    fn array(&mut self, kind: u8, count: &[u8]) -> Result<bool, Broken> {
        let values = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
        match number(count) {
            Some(..=0) => Ok(kind != b'|'),
            Some(_) if self.levels.len() >= limits::REDIS_DEPTH => Broken::because("a reply nests too deep"),
            Some(count) => {
                self.keeps = self.levels.is_empty();
                self.levels.push(Level { left: count as u64 * values, attribute: kind == b'|' });
                Ok(false)
            }
            None => Broken::because(format!("invalid array length: {}", count.escape_ascii())),
        }
    }

    /// A value has ended, and with it perhaps the arrays that it is the last of. True: the whole reply.
    fn value_ended(&mut self) -> bool {
        self.keeps = false;
        while let Some(level) = self.levels.last_mut() {
            level.left -= 1;
            if level.left > 0 {
                return false;
            }
            let attribute = level.attribute;
            self.levels.pop();
            if attribute {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], cut: usize) -> (Vec<String>, Option<String>) {
        let (mut decoder, mut all) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(cut) {
            let mut at = 0;
            loop {
                match decoder.read(piece, &mut at) {
                    Ok(Some(Reply { kind, text, number })) => {
                        all.push(format!("{} {} {number}", char::from(kind), String::from_utf8_lossy(&text)));
                    }
                    Ok(None) => break,
                    Err(Broken(why)) => return (all, Some(why)),
                }
            }
        }
        (all, None)
    }

    #[test]
    fn replies_however_they_are_cut() {
        let bytes = b"+OK\r\n-ERR no\r\n:5\r\n$3\r\na\nb\r\n$-1\r\n*-1\r\n*0\r\n\
            *3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n\
            *2\r\n*2\r\n:1\r\n$1\r\nx\r\n*1\r\n+y\r\n\
            >3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$3\r\nabc\r\n\
            |1\r\n+ttl\r\n:3\r\n%1\r\n+k\r\n#t\r\n_\r\n,1.5\r\n(123\r\n~1\r\n=7\r\ntxt:abc\r\n";
        let expected = [
            "+ OK 0",
            "- ERR no 0",
            ": 5 5",
            "$  0",
            "$  0",
            "*  0",
            "*  0",
            "* subscribe 1",
            "*  0",
            "> message 0",
            "% k 0",
            "_  0",
            ", 1.5 0",
            "( 123 0",
            "~ txt:abc 0",
        ];
        for cut in 1..=bytes.len() {
            let (all, broken) = read(bytes, cut);
            assert_eq!((all, broken), (expected.map(str::to_owned).to_vec(), None), "pieces of {cut}");
        }
    }

    #[test]
    fn what_is_no_reply_says_why() {
        for (bytes, why) in [
            (b"HTTP/1.1 400\r\n".to_vec(), "unknown prefix: \"H\""),
            (b"\r\n".to_vec(), "unknown prefix: \"\""),
            (b"$x\r\n".to_vec(), "invalid bulk length: x"),
            (format!("${}\r\n", limits::REDIS_BULK + 1).into_bytes(), "invalid bulk length: 536870913"),
            (b"*1\r\n".repeat(100), "a reply nests too deep"),
            (b"+".repeat(70_000), "a line of a reply does not end"),
        ] {
            assert_eq!(read(&bytes, 4096).1.as_deref(), Some(why));
        }
    }

    #[test]
    fn no_bytes_panic_and_cuts_do_not_matter() {
        let mut random = fastrand::Rng::with_seed(13);
        for _ in 0..20_000 {
            let letters = b"*$-+:>%|~_0123\r\n\r\na";
            let bytes: Vec<u8> =
                (0..random.usize(0..40)).map(|_| letters[random.usize(..letters.len())]).collect();
            assert_eq!(read(&bytes, 1 + random.usize(..9)), read(&bytes, 64), "{}", bytes.escape_ascii());
        }
    }
}
