//! YAML read into a tree that knows its lines.
//!
//! Plain scalars become values by the rules of lyaml, which APISIX uses (YAML 1.1: `yes` and `on` are
//! booleans, `010` is eight), so that a file means here what it means there. Built on the events of
//! `saphyr-parser`; aliases are expanded within a bound, a later duplicate of a key wins.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use crate::limits;

/// A value with the place it came from.
#[derive(Clone, Debug)]
pub struct Node {
    /// Line in its file, from 1; 0 for a compiled-in default.
    pub line: u32,
    /// For a scalar: the byte of the file where its text, or its opening quote, begins.
    pub at: usize,
    /// The value.
    pub data: Data,
}

/// What a [`Node`] holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `~`, `null` or nothing
    Null,
    /// A boolean
    Bool(bool),
    /// A whole number
    Int(i64),
    /// Any other number
    Float(f64),
    /// Text
    Str(String),
    /// A sequence
    List(Vec<Node>),
    /// A mapping, in the order written
    Map(Vec<(String, Node)>),
}

/// Equality of what is written; places do not count.
impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.data == other.data
    }
}

/// Why a text is no YAML.
#[derive(Debug, PartialEq)]
pub struct BadYaml {
    /// Line, from 1.
    pub line: u32,
    /// The reason.
    pub text: String,
}

impl Node {
    /// A value that stands in no file.
    pub fn new(data: Data) -> Node {
        Node { line: 0, at: 0, data }
    }

    /// The value below `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// As [`Node::get`], to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.data {
            Data::Map(entries) => entries.iter_mut().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Sets `key` in a mapping; nothing happens in any other value.
    pub fn set(&mut self, key: &str, value: Node) {
        if let Data::Map(entries) = &mut self.data {
            match entries.iter_mut().find(|(k, _)| k == key) {
                Some((_, old)) => *old = value,
                None => entries.push((key.to_owned(), value)),
            }
        }
    }

    /// Takes `key` out of a mapping.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let Data::Map(entries) = &mut self.data else { return None };
        let at = entries.iter().position(|(k, _)| k == key)?;
        Some(entries.remove(at).1)
    }

    /// The name that Lua, and so APISIX's error texts, have for this kind of value.
    pub fn lua_type(&self) -> &'static str {
        match self.data {
            Data::Null => "nil",
            Data::Bool(_) => "boolean",
            Data::Int(_) | Data::Float(_) => "number",
            Data::Str(_) => "string",
            Data::List(_) | Data::Map(_) => "table",
        }
    }

    /// The same value as JSON. A number that JSON has not (infinity) becomes null.
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(b) => Value::Bool(*b),
            Data::Int(n) => Value::from(*n),
            Data::Float(n) => Number::from_f64(*n).map_or(Value::Null, Value::Number),
            Data::Str(s) => Value::String(s.clone()),
            Data::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Data::Map(entries) => {
                Value::Object(entries.iter().map(|(k, v)| (k.clone(), v.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// A scalar as text, as Lua's `tostring` would give it; `None` for null and tables.
    pub fn scalar_text(&self) -> Option<String> {
        match &self.data {
            Data::Bool(b) => Some(b.to_string()),
            Data::Int(n) => Some(n.to_string()),
            Data::Float(n) => Some(n.to_string()),
            Data::Str(s) => Some(s.clone()),
            Data::Null | Data::List(_) | Data::Map(_) => None,
        }
    }
}

/// Reads the first document of `text`. A text without a document is null.
pub fn parse(text: &str) -> Result<Node, BadYaml> {
    let mut builder = Builder { bytes_of: text, ..Builder::default() };
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| BadYaml { line: e.marker().line() as u32, text: e.info().to_owned() })?;
        if builder.take(event, span)? {
            break;
        }
    }
    Ok(builder.root.unwrap_or_else(|| Node::new(Data::Null)))
}

/// A collection that is still open.
struct Open {
    node: Node,
    anchor: usize,
    /// In a mapping: the key whose value comes next.
    key: Option<String>,
}

#[derive(Default)]
struct Builder<'t> {
    bytes_of: &'t str,
    /// The last (character index, byte index) converted; the parser's marks only move forward.
    cursor: (usize, usize),
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    expanded: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    /// Takes one event; true at the end of the first document.
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<bool, BadYaml> {
        let line = span.start.line() as u32;
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain
                    && tag.is_none_or(|t| !(t.is_yaml_core_schema() && t.suffix == "str"));
                let data = if plain { plain_scalar(&text) } else { Data::Str(text.into_owned()) };
                let at = self.byte(span.start.index());
                self.close(Node { line, at, data }, anchor)?;
            }
            Event::SequenceStart(anchor, _) => self.begin(Data::List(Vec::new()), line, anchor)?,
            Event::MappingStart(anchor, _) => self.begin(Data::Map(Vec::new()), line, anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(done) = self.open.pop() {
                    self.close(done.node, done.anchor)?;
                }
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| bad(line, "an alias refers to what is not complete yet"))?;
                self.expanded += count(&node);
                if self.expanded > limits::CONFIG_ALIAS_NODES {
                    return Err(bad(line, "aliases expand to too many values"));
                }
                self.close(node, 0)?;
            }
            Event::DocumentEnd => return Ok(true),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {}
        }
        Ok(false)
    }

    fn begin(&mut self, data: Data, line: u32, anchor: usize) -> Result<(), BadYaml> {
        if self.open.len() >= limits::CONFIG_DEPTH {
            return Err(bad(line, "nested too deeply"));
        }
        self.open.push(Open { node: Node { line, at: 0, data }, anchor, key: None });
        Ok(())
    }

    /// Puts a complete node where it belongs: into the open collection, or as the root.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), BadYaml> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.node.data {
            Data::List(items) => items.push(node),
            Data::Map(entries) => match parent.key.take() {
                None => {
                    let key = if node.data == Data::Null { Some(String::new()) } else { node.scalar_text() };
                    parent.key = Some(key.ok_or_else(|| bad(node.line, "a key must be a scalar"))?);
                }
                Some(key) if key == "<<" => merge_in(entries, node),
                Some(key) => match entries.iter_mut().find(|(k, _)| *k == key) {
                    Some((_, old)) => *old = node,
                    None => entries.push((key, node)),
                },
            },
            _ => {}
        }
        Ok(())
    }

    /// The byte index of the character at `chars`.
    fn byte(&mut self, chars: usize) -> usize {
        if chars < self.cursor.0 {
            self.cursor = (0, 0);
        }
        let (from_char, from_byte) = self.cursor;
        let rest = &self.bytes_of[from_byte..];
        let byte = rest.char_indices().nth(chars - from_char).map_or(rest.len(), |(i, _)| i) + from_byte;
        self.cursor = (chars, byte);
        byte
    }
}

fn bad(line: u32, text: &str) -> BadYaml {
    BadYaml { line, text: text.to_owned() }
}

fn count(node: &Node) -> usize {
    1 + match &node.data {
        Data::List(items) => items.iter().map(count).sum(),
        Data::Map(entries) => entries.iter().map(|(_, v)| count(v)).sum(),
        _ => 0,
    }
}

/// The `<<` key: entries of another mapping that do not replace those written here.
fn merge_in(entries: &mut Vec<(String, Node)>, other: Node) {
    match other.data {
        Data::Map(from) => {
            for (key, value) in from {
                if !entries.iter().any(|(k, _)| *k == key) {
                    entries.push((key, value));
                }
            }
        }
        Data::List(items) => items.into_iter().for_each(|item| merge_in(entries, item)),
        _ => {}
    }
}

/// The value of an unquoted scalar, by lyaml's implicit rules.
fn plain_scalar(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Data::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Data::Bool(false),
        _ => {}
    }
    let first = text.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return Data::Str(text.to_owned());
    }
    number(text).unwrap_or_else(|| Data::Str(text.to_owned()))
}

fn number(text: &str) -> Option<Data> {
    let bare: String = text.chars().filter(|c| *c != '_').collect();
    let (negative, digits) = match bare.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, bare.strip_prefix('+').unwrap_or(&bare)),
    };
    let radix = |digits: &str, radix| {
        let n = i64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with(['+', '-']))?;
        Some(Data::Int(if negative { -n } else { n }))
    };
    if let Some(hex) = digits.strip_prefix("0x") {
        return radix(hex, 16);
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return radix(binary, 2);
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() {
        return match digits.strip_prefix('0').filter(|rest| !rest.is_empty()) {
            Some(octal) if octal.bytes().all(|b| b < b'8') => radix(octal, 8),
            _ => radix(digits, 10).or_else(|| bare.parse().ok().map(Data::Float)),
        };
    }
    let float = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().any(|b| b.is_ascii_digit())
        && digits.contains(['.', 'e', 'E']);
    if float { bare.parse().ok().map(Data::Float) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_lyaml() {
        for (text, want) in [
            ("9080", Data::Int(9080)),
            ("-1", Data::Int(-1)),
            ("010", Data::Int(8)),
            ("089", Data::Int(89)),
            ("0x1f", Data::Int(31)),
            ("1_000", Data::Int(1000)),
            ("0.5", Data::Float(0.5)),
            ("1e3", Data::Float(1000.0)),
            ("on", Data::Bool(true)),
            ("Off", Data::Bool(false)),
            ("yes", Data::Bool(true)),
            ("y", Data::Str("y".into())),
            ("~", Data::Null),
            ("127.0.0.1", Data::Str("127.0.0.1".into())),
            ("10s", Data::Str("10s".into())),
            ("-", Data::Str("-".into())),
            (".", Data::Str(".".into())),
            ("edd1c9f034335f136f87ad84b625c8f1", Data::Str("edd1c9f034335f136f87ad84b625c8f1".into())),
        ] {
            assert_eq!(plain_scalar(text), want, "{text}");
        }
    }

    #[test]
    fn quotes_keep_text_and_places_are_known() {
        let text = "# ключ\na: '9080'\nb: \"\" # x\n";
        let tree = parse(text).unwrap();
        let a = tree.get("a").unwrap();
        assert_eq!(a.data, Data::Str("9080".into()));
        assert_eq!((a.line, &text[a.at..a.at + 6]), (2, "'9080'"));
        let b = tree.get("b").unwrap();
        assert_eq!((b.line, &text[b.at..b.at + 2]), (3, "\"\""));
    }

    #[test]
    fn collections_anchors_and_merge_keys() {
        let tree =
            parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nlist:\n- *b\n- [1, two]\nx: 1\nx: 2\n")
                .unwrap();
        assert_eq!(
            tree.to_json(),
            serde_json::json!({"base": {"x": 1, "y": 2}, "use": {"x": 1, "y": 3},
                               "list": [{"x": 1, "y": 2}, [1, "two"]], "x": 2})
        );
        assert_eq!(tree.get("use").unwrap().get("y").unwrap().line, 4);
    }

    #[test]
    fn errors_carry_their_line_and_floods_end() {
        assert_eq!(parse("a: 1\nb: [1,\nc: 2\n").unwrap_err().line, 3);
        assert_eq!(parse("# nothing\n").unwrap().data, Data::Null);
        let nested = |depth| format!("{}1{}\n", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(64)).is_ok());
        assert_eq!(parse(&nested(65)).unwrap_err().text, "nested too deeply");
        let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for i in 1..9 {
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")));
        }
        assert!(parse(&bomb).unwrap_err().text.contains("too many"));
        let aliases = |count| format!("a: &a [{}1]\nb: [{}1]\n", "1,".repeat(998), "*a,".repeat(count));
        assert!(parse(&aliases(limits::CONFIG_ALIAS_NODES / 1000)).is_ok());
        let more = parse(&aliases(limits::CONFIG_ALIAS_NODES / 999 + 1));
        assert!(more.unwrap_err().text.contains("too many"));
    }
}
