//! Commands of Redis as they come from a client, piece by piece, without being held: RESP arrays of bulk strings, and
//! inline commands (redis.io/docs/reference/protocol-spec). The texts of errors are those of redis-server.

use smallvec::SmallVec;

use super::inline;
use crate::limits;
use crate::stream::xrpc::Broken;

/// What is kept of the command that is being read.
#[derive(Debug, Default)]
pub struct Command {
    /// Its name, lower case.
    pub name: SmallVec<[u8; 16]>,
    /// How many arguments, its name among them.
    pub count: u64,
    /// The argument that is being read or was read last; 1 is the name.
    pub index: u64,
    /// What was asked to be kept of that argument.
    pub kept: Vec<u8>,
    /// Its whole length, bytes.
    pub length: u64,
}

/// Somebody who looks at arguments.
pub trait Arguments {
    /// So many bytes of the next argument, `command.index`, are worth keeping.
    fn keep(&mut self, command: &Command) -> usize;
    /// The argument was read.
    fn argument(&mut self, command: &Command);
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expects {
    /// A command.
    #[default]
    Command,
    /// `$` and the length of an argument.
    Length,
    /// So many bytes of an argument, and the line end behind them.
    Argument { left: u64 },
}

/// Where a client's bytes stand.
#[derive(Debug, Default)]
pub struct Decoder {
    expects: Expects,
    /// A line that has not ended.
    line: Vec<u8>,
    /// The command that is being read.
    pub command: Command,
    /// How many bytes of an argument's line end were seen.
    ends: u8,
    /// So many bytes of the argument are kept.
    keep: usize,
}

impl Decoder {
    /// No command is half read.
    pub fn is_between(&self) -> bool {
        self.expects == Expects::Command && self.line.is_empty()
    }

    /// Reads on from `at` to the end of a command: true, and `at` stands behind it. False: all bytes were read.
    ///
    /// # Errors
    /// They are no command.
    pub fn read(&mut self, bytes: &[u8], at: &mut usize, args: &mut dyn Arguments) -> Result<bool, Broken> {
        while *at < bytes.len() {
            let done = match self.expects {
                Expects::Argument { left } => self.argument(left, bytes, at, args)?,
                Expects::Command | Expects::Length => {
                    let rest = &bytes[*at..];
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        *at = bytes.len();
                        self.line.extend_from_slice(rest);
                        self.bound_line()?;
                        return Ok(false);
                    };
                    *at += end + 1;
                    if self.line.is_empty() {
                        self.line_read(&rest[..end], args)?
                    } else {
                        let mut line = std::mem::take(&mut self.line);
                        line.extend_from_slice(&rest[..end]);
                        self.line_read(&line, args)?
                    }
                }
            };
            if done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn bound_line(&self) -> Result<(), Broken> {
        if self.line.len() <= limits::REDIS_LINE {
            return Ok(());
        }
        Broken::because(match self.line.first() {
            Some(b'*') => "too big mbulk count string",
            Some(b'$') => "too big bulk count string",
            _ => "too big inline request",
        })
    }

    /// A line without its LF. True: it ends a command. In front of the LF a CR is asked for where redis-server looks for
    /// that: what it would read otherwise may go over no connection that others share.
    fn line_read(&mut self, line: &[u8], args: &mut dyn Arguments) -> Result<bool, Broken> {
        let before_cr = line.strip_suffix(b"\r");
        if self.expects == Expects::Length {
            return self.length(before_cr, line, args);
        }
        self.command.name.clear();
        if line.first() != Some(&b'*') {
            return self.inline(before_cr.unwrap_or(line), args);
        }
        match before_cr.and_then(|line| number(&line[1..])) {
            // redis-server takes them for nothing
            Some(..=0) => Ok(false),
            Some(count @ 1..=limits::REDIS_ARGUMENTS) => {
                self.command.count = count as u64;
                self.command.index = 0;
                self.expects = Expects::Length;
                Ok(false)
            }
            _ => Broken::because("invalid multibulk length"),
        }
    }

    fn length(
        &mut self,
        before_cr: Option<&[u8]>,
        line: &[u8],
        args: &mut dyn Arguments,
    ) -> Result<bool, Broken> {
        if line.first() != Some(&b'$') {
            let got = line.first().map_or('\r', |byte| char::from(*byte));
            return Broken::because(format!("expected '$', got '{got}'"));
        }
        match before_cr.and_then(|line| number(&line[1..])) {
            Some(length @ 0..=limits::REDIS_BULK) => {
                self.begin(length as u64, args);
                self.expects = Expects::Argument { left: length as u64 };
                self.ends = 0;
                Ok(false)
            }
            _ => Broken::because("invalid bulk length"),
        }
    }

    /// The next argument begins.
    fn begin(&mut self, length: u64, args: &mut dyn Arguments) {
        self.command.index += 1;
        self.command.length = length;
        self.command.kept.clear();
        let keep = match self.command.index {
            1 => limits::REDIS_NAME,
            _ => args.keep(&self.command),
        };
        self.command.kept.reserve(keep.min(usize::try_from(length).unwrap_or(0)));
        self.keep = keep;
    }

    /// Bytes of an argument. True: they end a command.
    fn argument(
        &mut self,
        left: u64,
        bytes: &[u8],
        at: &mut usize,
        args: &mut dyn Arguments,
    ) -> Result<bool, Broken> {
        let rest = &bytes[*at..];
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let room = self.keep.saturating_sub(self.command.kept.len()).min(here);
        self.command.kept.extend_from_slice(&rest[..room]);
        *at += here;
        let left = left - here as u64;
        self.expects = Expects::Argument { left };
        if left > 0 {
            return Ok(false);
        }
        for expected in b"\r\n".iter().skip(usize::from(self.ends)) {
            match bytes.get(*at) {
                Some(byte) if byte == expected => {
                    *at += 1;
                    self.ends += 1;
                }
                Some(_) => return Broken::because("an argument does not end where its length says"),
                None => return Ok(false),
            }
        }
        Ok(self.ended(args))
    }

    /// An argument was read. True: it was the last.
    fn ended(&mut self, args: &mut dyn Arguments) -> bool {
        let command = &mut self.command;
        if command.index == 1 {
            command.name = command.kept.iter().map(u8::to_ascii_lowercase).collect();
        }
        args.argument(command);
        self.expects = match command.index == command.count {
            true => Expects::Command,
            false => Expects::Length,
        };
        self.expects == Expects::Command
    }

    /// Words on a line; a line without any is no command.
    fn inline(&mut self, line: &[u8], args: &mut dyn Arguments) -> Result<bool, Broken> {
        if line.contains(&0) {
            // behind it redis-server finds no end of the line
            return Broken::because("too big inline request");
        }
        let Some(words) = inline::words(line) else {
            return Broken::because("unbalanced quotes in request");
        };
        self.command.count = words.len() as u64;
        self.command.index = 0;
        for word in &words {
            self.begin(word.len() as u64, args);
            self.command.kept.extend_from_slice(&word[..word.len().min(self.keep)]);
            self.ended(args);
        }
        self.expects = Expects::Command;
        Ok(!words.is_empty())
    }
}

/// Decimal digits with a sign, and nothing else: one spelling of each number (`string2ll` of redis-server).
pub fn number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    if digits[0] == b'0' && text.len() > 1 {
        return None;
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Some(if digits.len() < text.len() { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps three bytes of each argument.
    #[derive(Default)]
    struct Seen(Vec<String>);

    impl Arguments for Seen {
        fn keep(&mut self, _: &Command) -> usize {
            3
        }

        fn argument(&mut self, command: &Command) {
            let kept = String::from_utf8_lossy(&command.kept).into_owned();
            self.0.push(format!("{}/{} {kept} {}", command.index, command.count, command.length));
        }
    }

    /// Each command with its arguments, and what broke, however the bytes are cut.
    fn read(bytes: &[u8], cut: usize) -> (Vec<Vec<String>>, Option<String>) {
        let (mut decoder, mut all, mut seen) = (Decoder::default(), Vec::new(), Seen::default());
        for piece in bytes.chunks(cut) {
            let mut at = 0;
            loop {
                match decoder.read(piece, &mut at, &mut seen) {
                    Ok(true) => all.push(std::mem::take(&mut seen.0)),
                    Ok(false) => break,
                    Err(Broken(why)) => return (all, Some(why)),
                }
            }
            assert_eq!(at, piece.len());
        }
        (all, None)
    }

    #[test]
    fn commands_however_they_are_cut() {
        let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$6\r\na\r\n\r\nb\r\n*0\r\n*1\r\n$4\r\nPING\r\n\r\nget  key\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n";
        let expected: Vec<Vec<&str>> = vec![
            vec!["1/3 SET 3", "2/3 k 1", "3/3 a\r\n 6"],
            vec!["1/1 PING 4"],
            vec!["1/2 get 3", "2/2 key 3"],
            vec!["1/2 GET 3", "2/2  0"],
        ];
        for cut in 1..=bytes.len() {
            let (all, broken) = read(bytes, cut);
            assert_eq!(
                (all, broken),
                (expected.iter().map(|c| c.iter().map(|a| (*a).to_owned()).collect()).collect(), None),
                "pieces of {cut}"
            );
        }
    }

    #[test]
    fn what_is_no_command_says_why() {
        let long = [&b"*"[..], &b"1".repeat(70_000)].concat();
        for (bytes, why) in [
            (&b"*x\r\n"[..], "invalid multibulk length"),
            (format!("*{}\r\n", limits::REDIS_ARGUMENTS + 1).as_bytes(), "invalid multibulk length"),
            (b"*1e9\r\n", "invalid multibulk length"),
            (b"*01\r\n", "invalid multibulk length"),
            (b"*-0\r\n", "invalid multibulk length"),
            (b"*1\n$4\nPING\r\n", "invalid multibulk length"),
            (b"*1\r\n$4\nPING\r\n", "invalid bulk length"),
            (b"*1\r\n$04\r\n", "invalid bulk length"),
            (b"get \"a\r\n", "unbalanced quotes in request"),
            (b"set k it's\r\n", "unbalanced quotes in request"),
            (b"get a\0\r\n", "too big inline request"),
            (b"*1\r\n*1\r\n", "expected '$', got '*'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (format!("*1\r\n${}\r\n", limits::REDIS_BULK + 1).as_bytes(), "invalid bulk length"),
            (b"*1\r\n$1\r\nabc\r\n", "an argument does not end where its length says"),
            (&long, "too big mbulk count string"),
            (&b"x".repeat(70_000), "too big inline request"),
        ] {
            assert_eq!(read(bytes, 4096).1.as_deref(), Some(why), "{:?}", &bytes[..bytes.len().min(20)]);
        }
        let most = format!("*{}\r\n${}\r\n", limits::REDIS_ARGUMENTS, limits::REDIS_BULK);
        assert_eq!(read(most.as_bytes(), 4096).1, None);
    }

    #[test]
    fn of_a_long_name_the_beginning_is_kept() {
        let mut decoder = Decoder::default();
        let name = "N".repeat(limits::REDIS_NAME + 1);
        let bytes = format!("*1\r\n${}\r\n{name}\r\n", name.len());
        assert_eq!(decoder.read(bytes.as_bytes(), &mut 0, &mut Seen::default()), Ok(true));
        assert_eq!(decoder.command.name.len(), limits::REDIS_NAME);
    }

    #[test]
    fn a_big_value_is_not_held() {
        let mut decoder = Decoder::default();
        let mut seen = Seen::default();
        let mut at = 0;
        assert_eq!(decoder.read(b"*2\r\n$3\r\nSET\r\n$500000000\r\n", &mut at, &mut seen), Ok(false));
        for _ in 0..1000 {
            let mut at = 0;
            assert_eq!(decoder.read(&[b'x'; 4096], &mut at, &mut seen), Ok(false));
        }
        assert!(decoder.command.kept.capacity() < 100 && decoder.line.is_empty());
    }

    #[test]
    fn no_bytes_panic() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let letters = b"*$-0123\r\n\r\n ax";
            let bytes: Vec<u8> =
                (0..random.usize(0..40)).map(|_| letters[random.usize(..letters.len())]).collect();
            let whole = read(&bytes, 64);
            assert_eq!(
                read(&bytes, 1 + random.usize(..9)),
                whole,
                "cuts do not matter: {}",
                bytes.escape_ascii()
            );
        }
    }
}
