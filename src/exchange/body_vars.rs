//! Variables that look into the request's body: `post_arg_*`, `post_arg.*` and `graphql_*` (APISIX
//! core/ctx.lua, core/request.lua `get_request_body_table`).
//!
//! They are asked for while nothing can wait. A condition of a route asks for a body that has not been read
//! by [`Exchange::wants_body`]: the gate reads it ahead ([`super::Body::read_ahead`]) and asks again. For
//! plugins and hash keys it is read where their configuration [names](named_in) such a variable.

use std::borrow::Cow;
use std::cell::OnceCell;

use graphql_parser::query::{self, Definition, OperationDefinition, Selection};
use serde_json::{Map, Value, json};

use super::{Body, Exchange};
use crate::model::json_path::body_path;
use crate::wire::Name;
use crate::wire::http::Method;
use crate::wire::uri;

/// A request's body that was read ahead, and what it says.
#[derive(Default)]
pub struct ReadBody {
    /// The bytes; none of a body that is longer than may be read ahead.
    pub bytes: Vec<u8>,
    /// The longest GraphQL document to look into.
    graphql_bytes: u64,
    table: OnceCell<Option<Value>>,
    graphql: OnceCell<Option<Operation>>,
}

/// The first operation of a GraphQL document.
#[derive(Debug, PartialEq)]
struct Operation {
    kind: &'static str,
    name: String,
    root_fields: Vec<Value>,
}

impl ReadBody {
    /// These bytes, not looked into yet; `graphql_bytes` is `graphql.max_size`.
    pub fn new(bytes: Vec<u8>, graphql_bytes: u64) -> Self {
        ReadBody { bytes, graphql_bytes, ..ReadBody::default() }
    }
}

/// Does a configuration name a variable that looks into the body, in whatever field? Then the body is read
/// ahead of the plugins and of the balancer, which cannot wait for it.
pub fn named_in(conf: &Value) -> bool {
    match conf {
        Value::String(text) => named_in_text(text),
        Value::Array(list) => list.iter().any(named_in),
        Value::Object(fields) => fields.iter().any(|(name, value)| named_in_text(name) || named_in(value)),
        _ => false,
    }
}

/// [`named_in`] for a text, such as a hash key.
pub fn named_in_text(text: &str) -> bool {
    ["post_arg_", "post_arg.", "graphql_"].iter().any(|prefix| text.contains(prefix))
}

impl Exchange {
    /// The value of a variable that looks into the body.
    pub(super) fn body_var(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if let Some(key) = name.strip_prefix("graphql_") {
            let operation = self.graphql()?;
            return Some(match key {
                "operation" => Cow::Borrowed(operation.kind.as_bytes()),
                "name" => Cow::Borrowed(operation.name.as_bytes()),
                "root_fields" => {
                    Cow::Owned(Value::Array(operation.root_fields.clone()).to_string().into_bytes())
                }
                _ => return None,
            });
        }
        if let Some(key) = name.strip_prefix("post_arg_") {
            let content_type = self.content_type();
            if !content_type.starts_with(FORM) {
                return None;
            }
            let body = self.body_read()?;
            let (_, value) =
                uri::args(&body.bytes).find(|(n, _)| uri::decode_component(n) == key.as_bytes())?;
            return Some(value.map_or(Cow::Borrowed(b"true"), uri::decode_component));
        }
        let text = |value: &Value| Cow::Owned(value.to_string().into_bytes());
        match self.body_member(name.strip_prefix("post_arg.")?)? {
            Cow::Borrowed(Value::Null) => None,
            Cow::Borrowed(Value::String(text)) => Some(Cow::Borrowed(text.as_bytes())),
            Cow::Borrowed(value) => Some(text(value)),
            Cow::Owned(found) => Some(text(&found)),
        }
    }

    /// What `path` leads to in the body as a table: plain names with dots between them, or a JSONPath, which gives
    /// the list of all it finds.
    pub(super) fn body_member(&self, path: &str) -> Option<Cow<'_, Value>> {
        if path.contains(['[', '*']) || path.contains("..") {
            return along(path, self.body_table()?).map(Cow::Owned);
        }
        let table = self.body_table()?;
        path.split('.').try_fold(table, |value, step| value.as_object()?.get(step)).map(Cow::Borrowed)
    }

    fn content_type(&self) -> &[u8] {
        self.req.head.headers.get(Name::ContentType).unwrap_or_default()
    }

    /// The body, if it has been read; else it is asked for.
    fn body_read(&self) -> Option<&ReadBody> {
        if self.body_read.is_none() && !matches!(self.req.body, Body::Empty) {
            self.wants_body.set(true);
        }
        self.body_read.as_deref()
    }

    /// The body as a table, by its content type.
    fn body_table(&self) -> Option<&Value> {
        let content_type = self.content_type();
        let holds = |kind: &[u8]| memchr::memmem::find(content_type, kind).is_some();
        let parse: fn(&[u8], &[u8]) -> Option<Value> = match () {
            () if holds(JSON) => |body, _| serde_json::from_slice(body).ok(),
            () if holds(FORM) => |body, _| Some(form(body)),
            () if holds(b"multipart/form-data") => multipart,
            () => return None,
        };
        let body = self.body_read()?;
        body.table.get_or_init(|| parse(&body.bytes, content_type)).as_ref()
    }

    fn graphql(&self) -> Option<&Operation> {
        if let Some(body) = &self.body_read {
            return body.graphql.get_or_init(|| self.parse_graphql(body)).as_ref();
        }
        match self.req.head.method {
            // Asks for the body, which a GET need not have: what comes of it is kept there.
            Method::Get => {
                self.wants_body.set(true);
                None
            }
            _ => self.body_read().and(None),
        }
    }

    fn parse_graphql(&self, body: &ReadBody) -> Option<Operation> {
        let text = match self.req.head.method {
            Method::Get => {
                let mut args = uri::args(self.req.args.as_deref()?);
                let (_, value) = args.find(|(name, _)| uri::decode_component(name) == b"query".as_slice())?;
                uri::decode_component(value?).into_owned()
            }
            Method::Post if self.content_type() == JSON => {
                let value: Value = serde_json::from_slice(&body.bytes).ok()?;
                value.get("query")?.as_str()?.as_bytes().to_vec()
            }
            Method::Post => body.bytes.clone(),
            _ => return None,
        };
        if text.len() as u64 > body.graphql_bytes {
            log::error!("failed to read graphql data, it has {} bytes", text.len());
            return None;
        }
        match operation(std::str::from_utf8(&text).ok()?) {
            Ok(operation) => operation,
            Err(why) => {
                log::error!("failed to parse graphql: {why}");
                None
            }
        }
    }
}

/// The list of all that a JSONPath finds.
fn along(path: &str, table: &Value) -> Option<Value> {
    let path = body_path(path).ok()?;
    let found = path.query(table).all();
    (!found.is_empty()).then(|| json!(found))
}

const JSON: &[u8] = b"application/json";
const FORM: &[u8] = b"application/x-www-form-urlencoded";

/// The first definition of a document, which is an operation but for strange documents.
fn operation(text: &str) -> Result<Option<Operation>, query::ParseError> {
    let document = query::parse_query::<&str>(text)?;
    let Some(first) = document.definitions.into_iter().next() else { return Ok(None) };
    let (kind, name, selection) = match first {
        Definition::Operation(OperationDefinition::SelectionSet(set)) => ("query", None, set),
        Definition::Operation(OperationDefinition::Query(q)) => ("query", q.name, q.selection_set),
        Definition::Operation(OperationDefinition::Mutation(m)) => ("mutation", m.name, m.selection_set),
        Definition::Operation(OperationDefinition::Subscription(s)) => {
            ("subscription", s.name, s.selection_set)
        }
        Definition::Fragment(fragment) => ("", Some(fragment.name), fragment.selection_set),
    };
    let fields = selection.items.into_iter().filter_map(|item| match item {
        Selection::Field(field) => Some(Value::from(field.name)),
        Selection::FragmentSpread(spread) => Some(Value::from(spread.fragment_name)),
        Selection::InlineFragment(_) => None,
    });
    Ok(Some(Operation { kind, name: name.unwrap_or_default().into(), root_fields: fields.collect() }))
}

/// A form's pairs. A name that stands twice has a list; one without a value is `true`.
fn form(body: &[u8]) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&uri::decode_component(bytes)).into_owned();
    let pairs = uri::args(body).map(|(name, value)| {
        (text(name), value.map_or(Value::Bool(true), |value| Value::String(text(value))))
    });
    gather(pairs)
}

fn gather(pairs: impl Iterator<Item = (String, Value)>) -> Value {
    let mut table = Map::new();
    for (name, value) in pairs {
        match table.get_mut(&name) {
            None => drop(table.insert(name, value)),
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(table)
}

/// The named parts of a multipart body (RFC 7578), as texts. Lines may end without CR, as in lua-multipart.
fn multipart(body: &[u8], content_type: &[u8]) -> Option<Value> {
    let at = memchr::memmem::find(content_type, b"boundary=")? + b"boundary=".len();
    let boundary = content_type[at..].split(|&b| b == b';').next()?.trim_ascii();
    let boundary = boundary.strip_prefix(b"\"").and_then(|b| b.strip_suffix(b"\"")).unwrap_or(boundary);
    let delimiter = [b"--", boundary].concat();
    let mut starts: Vec<usize> = memchr::memmem::find_iter(body, &delimiter).collect();
    starts.push(body.len());
    let parts = starts.windows(2).filter_map(|pair| {
        let (_, mut rest) = split_line(&body[pair[0] + delimiter.len()..pair[1]])?;
        let mut name = None;
        loop {
            let (line, behind) = split_line(rest)?;
            rest = behind;
            if line.is_empty() {
                break;
            }
            if let Some(at) = memchr::memmem::find(line, b" name=\"") {
                name = line[at + b" name=\"".len()..].split(|&b| b == b'"').next();
            }
        }
        let value = rest.strip_suffix(b"\n").map_or(rest, |value| value.strip_suffix(b"\r").unwrap_or(value));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((text(name?), Value::String(text(value))))
    });
    Some(gather(parts))
}

/// The first line, without its end, and what follows it.
fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', text)?;
    let line = &text[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_that_look_into_the_body() {
        for (conf, looks) in [
            (json!({"_meta": {"filter": [["post_arg_a", "==", "b"]]}}), true),
            (json!({"key": "$remote_addr ${post_arg.user.name}"}), true),
            (json!({"rules": [{"match": [{"vars": [["graphql_name", "==", "x"]]}]}]}), true),
            (json!({"headers": {"set": {"X-A": "$arg_a"}}, "count": 1}), false),
        ] {
            assert_eq!(named_in(&conf), looks, "{conf}");
        }
    }

    #[test]
    fn operations() {
        for (text, expected) in [
            ("query { owner { name } }", Some(("query", "", json!(["owner"])))),
            ("{repo owner(id: 1){name}}", Some(("query", "", json!(["repo", "owner"])))),
            ("mutation m { a: b } query q { c }", Some(("mutation", "m", json!(["b"])))),
            ("subscription s($x: Int) { ...f }", Some(("subscription", "s", json!(["f"])))),
        ] {
            let found = operation(text).unwrap();
            let found = found.map(|o| (o.kind, o.name, Value::Array(o.root_fields)));
            let expected = expected.map(|(kind, name, fields)| (kind, name.to_owned(), fields));
            assert_eq!(found, expected, "{text}");
        }
        assert!(operation("query {").is_err());
        // Nesting must not cost the stack.
        assert!(operation(&"{a".repeat(200_000)).is_err());
    }

    #[test]
    fn a_path_that_nests_without_end_leads_nowhere() {
        let table = json!({"a": [{"b": 1}, {"b": 2}]});
        let found = |path: &str| along(path, &table).map(|list| list.to_string());
        assert_eq!(found("a[?(@.b > 1)].b").as_deref(), Some("[2]"));
        for (open, close) in [("[?@.a", "]"), ("[?(", ")]"), ("[?length(", ")]")] {
            assert_eq!(found(&format!("a{}{}", open.repeat(100_000), close.repeat(100_000))), None);
        }
    }

    #[test]
    fn forms() {
        assert_eq!(form(b"a=1+2&b&c=%41&c=d"), json!({"a": "1 2", "b": true, "c": ["A", "d"]}));
        let body = b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n2\r\n--x\r\n\
            Content-Disposition: form-data; filename=\"f\"; name=\"b\"\r\nContent-Type: text/plain\r\n\r\n\r\n--x--\r\n";
        let kind = b"multipart/form-data; boundary=\"x\"; charset=utf-8";
        assert_eq!(multipart(body, kind), Some(json!({"a": "1\r\n2", "b": ""})));
        let bare = b"--x\nContent-Disposition: form-data; name=\"a\"\n\nb\n--x--";
        assert_eq!(multipart(bare, kind), Some(json!({"a": "b"})));
        assert_eq!(multipart(b"", kind), Some(json!({})));
        assert_eq!(multipart(body, b"multipart/form-data"), None);
    }
}
