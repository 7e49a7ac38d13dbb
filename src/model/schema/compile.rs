//! From the JSON of a schema to its rules: keywords read once, patterns compiled, `$ref` resolved.

use std::collections::HashMap;

use pcre2::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::lua::number_text;
use super::{
    Additional, AnyOf, ArrayRules, Condition, Contains, Dependency, Format, Items, Node, NodeId, NumberRules,
    ObjectRules, Pattern, Property, Rules, StringRules, Type, Types,
};
use crate::limits::{REGEX_STEPS, SCHEMA_DEPTH, SCHEMA_NODES};

/// Compiles `raw` into an arena and the index of its root.
pub(super) fn compile(raw: &Value) -> Result<(Vec<Node>, NodeId), String> {
    let mut compiler = Compiler { raw, nodes: Vec::new(), by_pointer: HashMap::new() };
    let root = compiler.at(String::new(), 0)?;
    Ok((compiler.nodes, root))
}

struct Compiler<'a> {
    raw: &'a Value,
    nodes: Vec<Node>,
    /// JSON pointer → node, so that a `$ref` back to a schema in the making ends.
    by_pointer: HashMap<String, NodeId>,
}

/// A schema object being compiled: where it is and how deep.
struct Place<'a> {
    map: &'a Map<String, Value>,
    pointer: String,
    depth: usize,
}

impl Place<'_> {
    fn child(&self, steps: &[&str]) -> String {
        let mut pointer = self.pointer.clone();
        for step in steps {
            pointer.push('/');
            pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        }
        pointer
    }
}

impl<'a> Compiler<'a> {
    /// The node of the schema at a JSON pointer.
    fn at(&mut self, pointer: String, depth: usize) -> Result<NodeId, String> {
        let (pointer, value) = self.resolve(pointer)?;
        if let Some(&id) = self.by_pointer.get(&pointer) {
            return Ok(id);
        }
        if depth > SCHEMA_DEPTH || self.nodes.len() >= SCHEMA_NODES {
            return Err("the schema is too large".to_owned());
        }
        let id = self.nodes.len();
        self.nodes.push(Node::Always(true));
        self.by_pointer.insert(pointer.clone(), id);
        self.nodes[id] = match value {
            Value::Bool(answer) => Node::Always(*answer),
            Value::Object(map) => Node::Rules(Box::new(self.rules(&Place { map, pointer, depth })?)),
            Value::Array(list) if list.is_empty() => Node::Always(true),
            other => return Err(format!("a schema must be an object or a boolean: got {other}")),
        };
        Ok(id)
    }

    /// Follows `$ref`s (its siblings are ignored). Only references within the schema are known.
    fn resolve(&self, mut pointer: String) -> Result<(String, &'a Value), String> {
        for _ in 0..SCHEMA_DEPTH {
            let value =
                self.raw.pointer(&pointer).ok_or_else(|| format!("reference not found: #{pointer}"))?;
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                return Ok((pointer, value));
            };
            let Some(fragment) = reference.strip_prefix('#') else {
                return Err(format!("an external resolver is required to fetch {reference}"));
            };
            pointer = percent_decoded(fragment.trim_end_matches('/'));
        }
        Err("references of the schema go in a circle".to_owned())
    }

    fn rules(&mut self, place: &Place) -> Result<Rules, String> {
        let map = place.map;
        let mut rules = Rules {
            types: types(map)?,
            object: self.object(place)?,
            array: self.array(place)?,
            string: string(map)?,
            number: number(map),
            one_of_values: enumeration(map)?,
            constant: map.get("const").cloned(),
            property_names: map.get("propertyNames").and_then(Value::as_bool),
            format: format(map)?,
            ..Rules::default()
        };
        rules.all_of = self.list(place, "allOf")?.unwrap_or_default();
        if let Some(schemas) = self.list(place, "anyOf")? {
            rules.any_of = Some(AnyOf { schemas, required_text: required_text(&map["anyOf"]) });
        }
        rules.one_of = self.list(place, "oneOf")?;
        if let Some(condition) = self.unless_false(place, "if")? {
            let (then, otherwise) = (self.unless_false(place, "then")?, self.unless_false(place, "else")?);
            rules.condition = Some(Condition { condition, then, otherwise });
        }
        rules.not = self.unless_false(place, "not")?;
        rules.contains = match map.get("contains") {
            Some(Value::Bool(answer)) => Some(Contains::Always(*answer)),
            _ => self.child(place, "contains")?.map(Contains::Schema),
        };
        Ok(rules)
    }

    fn child(&mut self, place: &Place, keyword: &str) -> Result<Option<NodeId>, String> {
        if !place.map.contains_key(keyword) {
            return Ok(None);
        }
        self.at(place.child(&[keyword]), place.depth + 1).map(Some)
    }

    /// Of keywords whose `false` is no rule to Lua, where false is "not set".
    fn unless_false(&mut self, place: &Place, keyword: &str) -> Result<Option<NodeId>, String> {
        match place.map.get(keyword) {
            Some(Value::Bool(false)) => Ok(None),
            _ => self.child(place, keyword),
        }
    }

    fn list(&mut self, place: &Place, keyword: &str) -> Result<Option<Vec<NodeId>>, String> {
        let Some(list) = place.map.get(keyword) else { return Ok(None) };
        let list = list.as_array().ok_or_else(|| format!("`{keyword}` must be an array"))?;
        let ids = (0..list.len())
            .map(|i| self.at(place.child(&[keyword, &i.to_string()]), place.depth + 1))
            .collect::<Result<_, _>>()?;
        Ok(Some(ids))
    }

    fn object(&mut self, place: &Place) -> Result<Option<ObjectRules>, String> {
        const KEYWORDS: [&str; 7] = [
            "properties",
            "additionalProperties",
            "patternProperties",
            "minProperties",
            "maxProperties",
            "dependencies",
            "required",
        ];
        let map = place.map;
        if !KEYWORDS.iter().any(|keyword| map.contains_key(*keyword)) {
            return Ok(None);
        }
        let mut required = names(map.get("required"), "required")?;
        let must_be_empty = required.as_ref().is_some_and(Vec::is_empty);
        let mut object = ObjectRules {
            must_be_empty,
            min_properties: size(map, "minProperties"),
            max_properties: size(map, "maxProperties"),
            ..ObjectRules::default()
        };
        let mut dependencies = self.dependencies(place)?;
        for (name, schema) in entries(map, "properties")? {
            let default = schema.get("default").filter(|default| !default.is_null()).cloned();
            object.properties.push(Property {
                name: name.as_str().into(),
                schema: self.at(place.child(&["properties", name]), place.depth + 1)?,
                required: required.iter().flatten().any(|r| **r == **name),
                dependency: take(&mut dependencies, name),
                default,
            });
            required.iter_mut().for_each(|list| list.retain(|r| **r != **name));
        }
        object.required = required.unwrap_or_default();
        object.dependencies = dependencies;
        for (text, _) in entries(map, "patternProperties")? {
            let schema = self.at(place.child(&["patternProperties", text]), place.depth + 1)?;
            object.patterns.push((pattern(text)?, schema));
        }
        object.additional = self.additional(place, "additionalProperties")?;
        Ok(Some(object))
    }

    fn dependencies(&mut self, place: &Place) -> Result<Vec<(Box<str>, Dependency)>, String> {
        let mut dependencies = Vec::new();
        for (name, dependency) in entries(place.map, "dependencies")? {
            let dependency = match dependency {
                Value::Array(list) if !list.is_empty() => {
                    Dependency::Names(names(Some(dependency), "dependencies")?.unwrap_or_default())
                }
                _ => Dependency::Schema(self.at(place.child(&["dependencies", name]), place.depth + 1)?),
            };
            dependencies.push((name.as_str().into(), dependency));
        }
        Ok(dependencies)
    }

    fn additional(&mut self, place: &Place, keyword: &str) -> Result<Additional, String> {
        Ok(match place.map.get(keyword) {
            None | Some(Value::Bool(true)) => Additional::Allowed,
            Some(Value::Bool(false)) => Additional::Forbidden,
            Some(_) => Additional::Schema(self.at(place.child(&[keyword]), place.depth + 1)?),
        })
    }

    fn array(&mut self, place: &Place) -> Result<Option<ArrayRules>, String> {
        let map = place.map;
        let items = match map.get("items") {
            None => Items::Free,
            Some(Value::Bool(answer)) => Items::Always(*answer),
            Some(Value::Array(list)) if !list.is_empty() => {
                let tuple = self.list(place, "items")?.unwrap_or_default();
                Items::Tuple(tuple, self.additional(place, "additionalItems")?)
            }
            Some(_) => Items::Each(self.at(place.child(&["items"]), place.depth + 1)?),
        };
        let array = ArrayRules {
            items,
            min_items: size(map, "minItems"),
            max_items: size(map, "maxItems"),
            unique: map.get("uniqueItems") == Some(&Value::Bool(true)),
        };
        let unused = matches!(array.items, Items::Free)
            && array.min_items.is_none()
            && array.max_items.is_none()
            && !array.unique;
        Ok((!unused).then_some(array))
    }
}

fn take(dependencies: &mut Vec<(Box<str>, Dependency)>, name: &str) -> Option<Dependency> {
    let at = dependencies.iter().position(|(of, _)| **of == *name)?;
    Some(dependencies.remove(at).1)
}

fn entries<'a>(
    map: &'a Map<String, Value>,
    keyword: &str,
) -> Result<impl Iterator<Item = (&'a String, &'a Value)> + use<'a>, String> {
    match map.get(keyword) {
        None => Ok(None.into_iter().flatten()),
        Some(Value::Object(entries)) => Ok(Some(entries.iter()).into_iter().flatten()),
        Some(Value::Array(list)) if list.is_empty() => Ok(None.into_iter().flatten()),
        Some(_) => Err(format!("`{keyword}` must be an object")),
    }
}

fn names(list: Option<&Value>, keyword: &str) -> Result<Option<Vec<Box<str>>>, String> {
    let wrong = || format!("`{keyword}` must be an array of strings");
    let list = match list {
        None => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong()),
    };
    list.iter()
        .map(|name| name.as_str().map(Into::into).ok_or_else(wrong))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn size(map: &Map<String, Value>, keyword: &str) -> Option<usize> {
    map.get(keyword).and_then(Value::as_f64).map(|size| size.max(0.0) as usize)
}

fn types(map: &Map<String, Value>) -> Result<Option<Types>, String> {
    match map.get("type") {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(Types::One(type_of(name)?))),
        Some(Value::Array(list)) => list
            .iter()
            .map(|name| type_of(name.as_str().unwrap_or_default()))
            .collect::<Result<_, _>>()
            .map(|types| Some(Types::Any(types))),
        Some(other) => Err(format!("invalid \"type\" type: got {}", super::lua::type_name(other))),
    }
}

fn type_of(name: &str) -> Result<Type, String> {
    Ok(match name {
        "object" => Type::Object,
        "array" => Type::Array,
        "table" => Type::Table,
        "integer" => Type::Integer,
        "string" => Type::String,
        "boolean" => Type::Boolean,
        "number" => Type::Number,
        "null" => Type::Null,
        _ => return Err(format!("invalid JSON type: {name}")),
    })
}

fn string(map: &Map<String, Value>) -> Result<Option<StringRules>, String> {
    let rules = StringRules {
        min_length: size(map, "minLength"),
        max_length: size(map, "maxLength"),
        pattern: map.get("pattern").and_then(Value::as_str).map(pattern).transpose()?,
    };
    let unused = rules.min_length.is_none() && rules.max_length.is_none() && rules.pattern.is_none();
    Ok((!unused).then_some(rules))
}

fn number(map: &Map<String, Value>) -> Option<NumberRules> {
    let bound = |keyword: &str| map.get(keyword).and_then(Value::as_f64);
    let rules = NumberRules {
        minimum: bound("minimum"),
        exclusive_minimum: bound("exclusiveMinimum"),
        maximum: bound("maximum"),
        exclusive_maximum: bound("exclusiveMaximum"),
        multiple_of: bound("multipleOf"),
    };
    let bounds =
        [rules.minimum, rules.exclusive_minimum, rules.maximum, rules.exclusive_maximum, rules.multiple_of];
    bounds.iter().any(Option::is_some).then_some(rules)
}

fn enumeration(map: &Map<String, Value>) -> Result<Option<Vec<Value>>, String> {
    match map.get("enum") {
        None => Ok(None),
        Some(Value::Array(list)) if list.iter().any(Value::is_null) => {
            Err("unsupported enum type: userdata".to_owned())
        }
        Some(Value::Array(list)) if !list.is_empty() => Ok(Some(list.clone())),
        Some(_) => Err("`enum` must be an array with values".to_owned()),
    }
}

/// `["a"] or ["b","c"]` for branches that are told apart by what they require.
fn required_text(any_of: &Value) -> String {
    let lists = any_of.as_array().into_iter().flatten().filter_map(|branch| branch.get("required"));
    let texts: Vec<String> = lists.map(|list| list.to_string().replace('/', "\\/")).collect();
    if texts.is_empty() { String::new() } else { format!(": {}", texts.join(" or ")) }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Ok(Pattern { text: text.into(), regex: regex(text)? })
}

/// What it matches is a client's text at times: the limit keeps a bad pattern from holding a core.
fn regex(text: &str) -> Result<Regex, String> {
    RegexBuilder::new()
        .jit_if_available(true)
        .build(&format!("(*LIMIT_MATCH={REGEX_STEPS}){text}"))
        .map_err(|error| format!("invalid pattern {text:?}: {error}"))
}

/// The formats of the Lua library; others are ignored. The addresses are read by `inet_pton` there.
fn format(map: &Map<String, Value>) -> Result<Option<Format>, String> {
    let (name, text) = match map.get("format").and_then(Value::as_str) {
        Some("ipv4") => return Ok(Some(Format::Ipv4)),
        Some("ipv6") => return Ok(Some(Format::Ipv6)),
        Some("email") => ("email", r"^[A-Za-z0-9_\-.]+@[A-Za-z0-9_\-.]+\.[A-Za-z]{2,4}$"),
        Some("hostname") => ("hostname", r"^[a-zA-Z0-9\-.]+$"),
        Some("uuid") => ("uuid", r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"),
        Some("date") => ("date", r"^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])$"),
        Some("date-time") => (
            "date-time",
            concat!(
                r"^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])",
                r"[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$"
            ),
        ),
        Some("uri") => ("uri", r"^[a-zA-Z][a-zA-Z0-9+\-.]*:\S*$"),
        _ => return Ok(None),
    };
    Ok(Some(Format::Pattern(name, regex(text)?)))
}

/// `%41` → `A`; a broken escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                out.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Type {
    pub(super) fn name(self) -> &'static str {
        match self {
            Type::Object => "object",
            Type::Array => "array",
            Type::Table => "table",
            Type::Integer => "integer",
            Type::String => "string",
            Type::Boolean => "boolean",
            Type::Number => "number",
            Type::Null => "null",
        }
    }
}

impl NumberRules {
    /// The bounds in their order of check: the bound, whether the number breaks it, how the error names it.
    pub(super) fn broken_bound(&self, number: f64) -> Option<String> {
        let bounds = [
            (self.minimum, number < self.minimum.unwrap_or(number), "at least"),
            (self.exclusive_minimum, self.exclusive_minimum.is_some_and(|b| number <= b), "greater than"),
            (self.maximum, number > self.maximum.unwrap_or(number), "at most"),
            (self.exclusive_maximum, self.exclusive_maximum.is_some_and(|b| number >= b), "smaller than"),
        ];
        let (bound, _, words) = bounds.into_iter().find(|(_, broken, _)| *broken)?;
        let bound = number_text(bound.unwrap_or(number));
        Some(format!("expected {} to be {words} {bound}", number_text(number)))
    }
}
