//! nginx's `log_format`: text with `$variables`, and its three ways of escaping their values
//! (ngx_http_log_module).

use crate::wire::hex;

/// How values are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// `"`, `\`, controls and all above 0x7E as `\xHH`; no value is `-`.
    Default,
    /// As inside a JSON string; no value is empty.
    Json,
    /// Not at all; no value is empty.
    None,
}

impl Escape {
    /// By the name that `access_log_format_escape` has for it.
    pub fn named(name: &str) -> Option<Escape> {
        match name {
            "default" => Some(Escape::Default),
            "json" => Some(Escape::Json),
            "none" => Some(Escape::None),
            _ => None,
        }
    }
}

/// A compiled format. `V` is what the caller knows a variable by: found once here, not by name in each
/// line.
#[derive(Debug, Clone)]
pub struct LogFormat<V> {
    pieces: Vec<Piece<V>>,
    escape: Escape,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece<V> {
    Text(Box<[u8]>),
    Variable(V),
}

impl<V> LogFormat<V> {
    /// Compiles `text`; `variable` is asked once for each `$name` and `${name}`. A `$` that no name follows
    /// is itself.
    pub fn compile(text: &str, escape: Escape, mut variable: impl FnMut(&str) -> V) -> Self {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            match name(rest) {
                None => plain.push('$'),
                Some((name, after)) => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain).into_bytes().into()));
                    }
                    pieces.push(Piece::Variable(variable(name)));
                    rest = after;
                }
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into_bytes().into()));
        }
        LogFormat { pieces, escape }
    }

    /// Appends one line, without its end. `value` appends the raw value of a variable, or answers false if
    /// it has none.
    pub fn write(&self, out: &mut Vec<u8>, mut value: impl FnMut(&V, &mut Vec<u8>) -> bool) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Variable(variable) => {
                    let start = out.len();
                    let found = value(variable, out);
                    if !found {
                        out.truncate(start);
                        if self.escape == Escape::Default {
                            out.push(b'-');
                        }
                    } else {
                        escape(out, start, self.escape);
                    }
                }
            }
        }
    }
}

/// The variable's name at the start of what follows a `$`, and the rest.
fn name(text: &str) -> Option<(&str, &str)> {
    let word = |text: &str| text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    if let Some(braced) = text.strip_prefix('{') {
        let len = word(braced);
        return (len > 0 && braced[len..].starts_with('}')).then(|| (&braced[..len], &braced[len + 1..]));
    }
    let len = word(text);
    (len > 0).then(|| text.split_at(len))
}

/// Escapes what stands in `out` from `start` on. Nearly no value needs it: one look, no copy.
fn escape(out: &mut Vec<u8>, start: usize, escape: Escape) {
    let special: fn(u8) -> bool = match escape {
        Escape::None => return,
        Escape::Default => |b| !(0x20..0x7f).contains(&b) || b == b'"' || b == b'\\',
        Escape::Json => |b| b < 0x20 || b == b'"' || b == b'\\',
    };
    let Some(first) = out[start..].iter().position(|b| special(*b)) else { return };
    let raw = out.split_off(start + first);
    for byte in raw {
        match (special(byte), escape) {
            (false, _) => out.push(byte),
            (true, Escape::Json) => json(out, byte),
            (true, _) => {
                out.extend(b"\\x");
                out.extend(hex::upper_digits(byte));
            }
        }
    }
}

fn json(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend([b'\\', byte]),
        b'\n' => out.extend(b"\\n"),
        b'\r' => out.extend(b"\\r"),
        b'\t' => out.extend(b"\\t"),
        8 => out.extend(b"\\b"),
        12 => out.extend(b"\\f"),
        _ => {
            out.extend(b"\\u00");
            out.extend(hex::upper_digits(byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: &str, escape: Escape) -> String {
        let format = LogFormat::compile(format, escape, str::to_owned);
        let mut out = b"<".to_vec();
        format.write(&mut out, |name, out| {
            let value: &[u8] = match name.as_str() {
                "host" => b"a.b",
                "agent" => b"x\"\\\n\x01\xc3\xa9\x7f",
                "empty" => b"",
                _ => {
                    out.extend_from_slice(b"half");
                    return false;
                }
            };
            out.extend_from_slice(value);
            true
        });
        String::from_utf8_lossy(&out[1..]).into_owned()
    }

    #[test]
    fn variables_are_found() {
        assert_eq!(line("$host:${host}_x $", Escape::Default), "a.b:a.b_x $");
        assert_eq!(line("${host $host$host", Escape::Default), "${host a.ba.b");
        assert_eq!(line("[$none] [$empty]", Escape::Default), "[-] []");
        assert_eq!(line("", Escape::Default), "");
    }

    #[test]
    fn the_three_escapes() {
        assert_eq!(line("$agent", Escape::Default), "x\\x22\\x5C\\x0A\\x01\\xC3\\xA9\\x7F");
        assert_eq!(
            line("{\"a\":\"$agent\",\"n\":\"$none\"}", Escape::Json),
            "{\"a\":\"x\\\"\\\\\\n\\u0001é\u{7f}\",\"n\":\"\"}"
        );
        assert_eq!(line("$agent$none", Escape::None), "x\"\\\n\u{1}é\u{7f}");
    }
}
