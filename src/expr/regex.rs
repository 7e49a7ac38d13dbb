//! Regular expressions as plugins use them: patterns and option letters of `ngx.re.*`, and replacements with
//! `$1` (facts: lua-resty-core regex.lua, lua-nginx-module ngx_http_lua_script.c).
//!
//! Known differences: the options `d` (DFA) and `J` are read and do nothing; a match may take
//! [`REGEX_STEPS`] steps.

use std::cell::Cell;
use std::fmt;

use pcre2::bytes::{CaptureLocations, Regex, RegexBuilder};

use crate::limits::REGEX_STEPS;

/// A compiled pattern.
pub struct Pattern {
    regex: Regex,
    /// What the last match wrote its groups to, for the next one: most matches allocate nothing.
    spare: Cell<Option<CaptureLocations>>,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.regex.as_str()).finish()
    }
}

impl Pattern {
    /// Compiles `pattern` with the option letters of `ngx.re.match`. The error is nginx's text.
    pub fn compile(pattern: &str, options: &str) -> Result<Pattern, String> {
        let mut builder = RegexBuilder::new();
        builder.jit_if_available(true);
        let (mut head, mut tail) = (format!("(*LIMIT_MATCH={REGEX_STEPS})"), "");
        for letter in options.chars() {
            match letter {
                'i' => drop(builder.caseless(true)),
                'm' => drop(builder.multi_line(true)),
                's' => drop(builder.dotall(true)),
                'x' => drop(builder.extended(true)),
                'u' | 'U' => drop(builder.utf(true)),
                'D' => head.push_str("(?J)"),
                'a' => tail = r"\G",
                'j' | 'o' | 'd' | 'J' => {}
                other => return Err(format!("unknown flag \"{other}\" (flags \"{options}\")")),
            }
        }
        head.push_str(tail);
        let whole = if tail.is_empty() { format!("{head}{pattern}") } else { format!("{head}(?:{pattern})") };
        let compiled = builder.build(&whole).map(|regex| Pattern { regex, spare: Cell::default() });
        compiled.map_err(|error| {
            let text = error.to_string();
            let reason = text.rsplit_once(": ").map_or(&*text, |(_, reason)| reason);
            let at = error.offset().unwrap_or(0).saturating_sub(head.len());
            match pattern.get(at..).filter(|rest| !rest.is_empty()) {
                Some(rest) => format!("pcre2_compile() failed: {reason} in \"{pattern}\" at \"{rest}\""),
                None => format!("pcre2_compile() failed: {reason} in \"{pattern}\""),
            }
        })
    }

    /// Is there a match in `text`? `Err` as in [`Pattern::captures`].
    pub fn is_match(&self, text: &[u8]) -> Result<bool, String> {
        self.captures(text).map(|found| found.is_some())
    }

    /// The first match in `text`. `Err`: the match took too long, or `text` is not UTF-8 and should be.
    pub fn captures<'t>(&'t self, text: &'t [u8]) -> Result<Option<Captures<'t>>, String> {
        self.captures_at(text, 0)
    }

    fn captures_at<'t>(&'t self, text: &'t [u8], start: usize) -> Result<Option<Captures<'t>>, String> {
        let groups = self.spare.take().unwrap_or_else(|| self.regex.capture_locations());
        let mut found = Captures { pattern: self, text, groups: Some(groups) };
        let Some(groups) = &mut found.groups else { return Ok(None) };
        let matched = self.regex.captures_read_at(groups, text, start).map_err(|error| error.to_string())?;
        Ok(matched.is_some().then_some(found))
    }

    /// `text` with the first match, or every match, replaced. `None`: nothing matches.
    pub fn replace(&self, text: &[u8], by: &Replacement, all: bool) -> Result<Option<Vec<u8>>, String> {
        let (mut out, mut kept, mut start) = (Vec::new(), 0, 0);
        let mut replaced = false;
        while start <= text.len() {
            let Some(found) = self.captures_at(text, start)? else { break };
            let (from, to) = found.span();
            if out.is_empty() {
                out.reserve(text.len() + 16);
            }
            out.extend_from_slice(&text[kept..from]);
            by.render(&found, &mut out);
            replaced = true;
            kept = to;
            start = if to == from { to + 1 } else { to };
            if !all {
                break;
            }
        }
        if !replaced {
            return Ok(None);
        }
        out.extend_from_slice(&text[kept..]);
        Ok(Some(out))
    }
}

/// What a match captured.
pub struct Captures<'t> {
    pattern: &'t Pattern,
    text: &'t [u8],
    /// Until they go back to the pattern.
    groups: Option<CaptureLocations>,
}

impl Captures<'_> {
    /// Group `number`; 0 is the whole match. Empty for a group that took no part or is not there.
    pub fn get(&self, number: usize) -> &[u8] {
        self.place(number).and_then(|(from, to)| self.text.get(from..to)).unwrap_or_default()
    }

    /// The text with this match replaced.
    pub fn replaced(&self, by: &Replacement) -> Vec<u8> {
        let (from, to) = self.span();
        let mut out = Vec::with_capacity(self.text.len() + 16);
        out.extend_from_slice(&self.text[..from]);
        by.render(self, &mut out);
        out.extend_from_slice(&self.text[to..]);
        out
    }

    fn place(&self, number: usize) -> Option<(usize, usize)> {
        self.groups.as_ref()?.get(number)
    }

    fn span(&self) -> (usize, usize) {
        self.place(0).unwrap_or((0, 0))
    }
}

impl Drop for Captures<'_> {
    fn drop(&mut self) {
        self.pattern.spare.set(self.groups.take());
    }
}

/// A compiled replacement: text with `$1`, `${1}`, `$0` and `$$`.
#[derive(Clone, Debug, PartialEq)]
pub struct Replacement(Box<[Piece]>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(Box<[u8]>),
    Group(usize),
}

impl Replacement {
    /// Compiles; a `$` with something else behind it is an error, as in nginx.
    pub fn compile(text: &str) -> Result<Replacement, String> {
        let failed = || "failed to compile the replacement template".to_owned();
        let (mut pieces, mut literal) = (Vec::new(), Vec::new());
        let mut rest = text.as_bytes();
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            if byte != b'$' {
                literal.push(byte);
                continue;
            }
            if let Some(behind) = rest.strip_prefix(b"$") {
                literal.push(b'$');
                rest = behind;
                continue;
            }
            let inner = rest.strip_prefix(b"{");
            let (number, behind) = group_number(inner.unwrap_or(rest)).ok_or_else(failed)?;
            rest = if inner.is_some() { behind.strip_prefix(b"}").ok_or_else(failed)? } else { behind };
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Group(number));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Replacement(pieces.into()))
    }

    fn render(&self, found: &Captures<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Group(number) => out.extend_from_slice(found.get(*number)),
            }
        }
    }
}

/// One or two digits, and what follows.
fn group_number(text: &[u8]) -> Option<(usize, &[u8])> {
    let digit = |at: usize| text.get(at).filter(|b| b.is_ascii_digit()).map(|b| usize::from(b - b'0'));
    let first = digit(0)?;
    Some(match digit(1) {
        Some(second) => (first * 10 + second, &text[2..]),
        None => (first, &text[1..]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(pattern: &str, options: &str, text: &str, by: &str, all: bool) -> String {
        let by = Replacement::compile(by).unwrap();
        let out = Pattern::compile(pattern, options).unwrap().replace(text.as_bytes(), &by, all).unwrap();
        out.map_or("-".into(), |out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn replaces_as_ngx_re_does() {
        for (pattern, options, text, by, all, expected) in [
            ("^/a/(.*)/(.*)", "jo", "/a/b/c?d", "/$2-${1}$$", false, "/c?d-b$"),
            ("l", "jo", "hello", "L", false, "heLlo"),
            ("l", "jo", "hello", "L", true, "heLLo"),
            ("L", "i", "hello", "[$0]", true, "he[l][l]o"),
            ("x", "", "hello", "y", true, "-"),
            ("", "", "ab", "-", true, "-a-b-"),
            ("(a)|(b)", "", "ab", "<$1$2$3>", true, "<a><b>"),
            ("a", "a", "aaba", "x", true, "xxba"),
            ("a b", "x", "ab", "x", false, "x"),
        ] {
            assert_eq!(replaced(pattern, options, text, by, all), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_match_stays_as_it_was_while_others_are_made() {
        let pattern = Pattern::compile("(.)b", "").unwrap();
        let first = pattern.captures(b"ab").unwrap().unwrap();
        assert!(pattern.is_match(b"cb").unwrap() && !pattern.is_match(b"c").unwrap());
        let second = pattern.captures(b"xdby").unwrap().unwrap();
        let by = Replacement::compile("<$1>").unwrap();
        assert_eq!(
            (first.get(1), second.get(1), &*second.replaced(&by)),
            (&b"a"[..], &b"d"[..], &b"x<d>y"[..])
        );
        drop((first, second));
        assert_eq!(pattern.captures(b"eb").unwrap().unwrap().get(1), b"e");
    }

    #[test]
    fn errors_are_those_of_nginx() {
        let error = |pattern, options| Pattern::compile(pattern, options).unwrap_err();
        assert_eq!(error("hello", "h"), "unknown flag \"h\" (flags \"h\")");
        assert_eq!(
            error("^/test/(.*", "jo"),
            "pcre2_compile() failed: missing closing parenthesis in \"^/test/(.*\""
        );
        for bad in ["$", "$x", "${1", "a${}"] {
            let error = Replacement::compile(bad).unwrap_err();
            assert_eq!(error, "failed to compile the replacement template", "{bad}");
        }
    }
}
