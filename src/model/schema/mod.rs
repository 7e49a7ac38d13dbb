//! JSON Schema as APISIX reads it: the subset of drafts 4, 6 and 7 of the Lua library `api7/jsonschema`, its
//! order of checks and its error texts, word for word (the Admin API returns them and its users match on them).
//!
//! Three things differ from the standard and are kept on purpose: an empty array and an empty object are the
//! same value; `default` is written into the object while it is validated; and a string that refers to a secret
//! (`$secret://…`, `$env://…`) passes every check of a schema whose type is `string` or absent, because its real
//! value is not known yet (apisix/secret.lua, `is_secret_ref`).
//!
//! Lua walks `properties` in hash order; here it is the order written, so with two faults in one object the one
//! reported first can differ, but is always the same.

mod check;
mod compile;
mod lua;

use pcre2::bytes::Regex;
use serde_json::Value;

pub use lua::{deep_equal, is_secret_ref, number_text};

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    raw: Value,
    nodes: Vec<Node>,
    root: NodeId,
}

impl Schema {
    /// Compiles a schema. The error says what in it is wrong (an unknown type, a pattern that PCRE refuses, …).
    pub fn compile(raw: Value) -> Result<Schema, String> {
        let (nodes, root) = compile::compile(&raw)?;
        Ok(Schema { raw, nodes, root })
    }

    /// A schema that accepts nothing.
    pub fn refuse_all() -> Schema {
        Schema { raw: Value::Bool(false), nodes: vec![Node::Always(false)], root: 0 }
    }

    /// The schema as it was written.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// Validates `value` and writes missing defaults into it; when it fails, some may have been written.
    pub fn validate(&self, value: &mut Value) -> Result<(), String> {
        check::check(&self.nodes, self.root, value)
    }

    /// Validates a copy, so that `value` stays as it is: what the Admin API does with what it stores.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        self.validate(&mut value.clone())
    }
}

/// Index into [`Schema::nodes`]; an arena, because `$ref` makes schemas cyclic.
type NodeId = usize;

#[derive(Debug)]
enum Node {
    /// `true` or `false`.
    Always(bool),
    Rules(Box<Rules>),
}

/// One schema object, in the order in which its rules are checked.
#[derive(Debug, Default)]
struct Rules {
    types: Option<Types>,
    object: Option<ObjectRules>,
    array: Option<ArrayRules>,
    string: Option<StringRules>,
    number: Option<NumberRules>,
    one_of_values: Option<Vec<Value>>,
    all_of: Vec<NodeId>,
    any_of: Option<AnyOf>,
    one_of: Option<Vec<NodeId>>,
    condition: Option<Condition>,
    not: Option<NodeId>,
    property_names: Option<bool>,
    format: Option<Format>,
    constant: Option<Value>,
    contains: Option<Contains>,
}

#[derive(Debug)]
enum Types {
    One(Type),
    Any(Vec<Type>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Object,
    Array,
    /// Object or array.
    Table,
    Integer,
    String,
    Boolean,
    Number,
    Null,
}

#[derive(Debug, Default)]
struct ObjectRules {
    properties: Vec<Property>,
    /// Required names that `properties` does not list.
    required: Vec<Box<str>>,
    /// `required: []`, which to the Lua library means "must be empty".
    must_be_empty: bool,
    /// Dependencies of names that `properties` does not list.
    dependencies: Vec<(Box<str>, Dependency)>,
    patterns: Vec<(Pattern, NodeId)>,
    additional: Additional,
    min_properties: Option<usize>,
    max_properties: Option<usize>,
}

#[derive(Debug)]
struct Property {
    name: Box<str>,
    schema: NodeId,
    required: bool,
    dependency: Option<Dependency>,
    default: Option<Value>,
}

#[derive(Debug)]
enum Dependency {
    Names(Vec<Box<str>>),
    Schema(NodeId),
}

#[derive(Debug, Default)]
enum Additional {
    #[default]
    Allowed,
    Forbidden,
    Schema(NodeId),
}

#[derive(Debug, Default)]
struct ArrayRules {
    items: Items,
    min_items: Option<usize>,
    max_items: Option<usize>,
    unique: bool,
}

#[derive(Debug, Default)]
enum Items {
    #[default]
    Free,
    Always(bool),
    Each(NodeId),
    Tuple(Vec<NodeId>, Additional),
}

#[derive(Debug, Default)]
struct StringRules {
    min_length: Option<usize>,
    max_length: Option<usize>,
    pattern: Option<Pattern>,
}

#[derive(Debug, Default)]
struct NumberRules {
    minimum: Option<f64>,
    exclusive_minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_maximum: Option<f64>,
    multiple_of: Option<f64>,
}

#[derive(Debug)]
struct AnyOf {
    schemas: Vec<NodeId>,
    /// The `required` lists of the branches, as the error ends with them.
    required_text: String,
}

#[derive(Debug)]
struct Condition {
    condition: NodeId,
    then: Option<NodeId>,
    otherwise: Option<NodeId>,
}

#[derive(Debug)]
enum Contains {
    Always(bool),
    Schema(NodeId),
}

#[derive(Debug)]
enum Format {
    Ipv4,
    Ipv6,
    /// A format that is a pattern, with its name.
    Pattern(&'static str, Regex),
}

/// A PCRE pattern with its text.
#[derive(Debug)]
struct Pattern {
    text: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// As `ngx.re.find(s, p, "jo")`: bytes, unanchored. An error: the match took too long.
    fn matches(&self, subject: &str) -> Result<bool, pcre2::Error> {
        self.regex.is_match(subject.as_bytes())
    }
}

#[cfg(test)]
mod tests;
