//! One value against compiled rules, in the Lua library's order, with its texts.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value};

use super::lua::{deep_equal, is_secret_ref, number_text, quoted, type_name};
use super::{
    Additional, AnyOf, ArrayRules, Condition, Contains, Dependency, Format, Items, Node, NodeId, NumberRules,
    ObjectRules, Pattern, Rules, StringRules, Type, Types,
};
use crate::limits::{SCHEMA_DEPTH, SCHEMA_STEPS};

type Outcome = Result<(), String>;

/// Up to here a float is one integer, and no other (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Validates `value`, filling defaults.
pub(super) fn check(nodes: &[Node], root: NodeId, value: &mut Value) -> Outcome {
    let mut checker = Checker { nodes, depth: 0, steps: 0, gave_up: None };
    let outcome = checker.node(root, value);
    checker.gave_up.map_or(outcome, Err)
}

/// The schema and how deep in it the check is: a schema may refer to itself, so depth is bounded here.
struct Checker<'a> {
    nodes: &'a [Node],
    depth: usize,
    /// Rules looked at so far: branches that refer to the same rules double them at each level.
    steps: usize,
    /// Why the check could not go on to its end. Nobody knows then what the value is: it is refused, even where
    /// `not`, `anyOf` or `if` would make a pass of one failed rule, and nothing further is tried.
    gave_up: Option<String>,
}

/// What an early rule says of the rest: some keywords answer for the whole schema.
enum Verdict {
    GoOn,
    Accept,
}

impl Checker<'_> {
    fn node(&mut self, id: NodeId, value: &mut Value) -> Outcome {
        if let Some(why) = &self.gave_up {
            return Err(why.clone());
        }
        self.steps += 1;
        if self.depth >= SCHEMA_DEPTH {
            return Err(self.give_up("the value is nested too deep for its schema".to_owned()));
        }
        if self.steps > SCHEMA_STEPS {
            return Err(self.give_up("the value takes too long to check against its schema".to_owned()));
        }
        self.depth += 1;
        let nodes = self.nodes;
        let outcome = match &nodes[id] {
            Node::Always(true) => Ok(()),
            Node::Always(false) => Err("expect false always".to_owned()),
            Node::Rules(rules) => self.rules(rules, value),
        };
        self.depth -= 1;
        outcome
    }

    fn give_up(&mut self, why: String) -> String {
        self.gave_up.insert(why).clone()
    }

    fn matches(&mut self, id: NodeId, value: &mut Value) -> bool {
        self.node(id, value).is_ok()
    }

    fn rules(&mut self, rules: &Rules, value: &mut Value) -> Outcome {
        if stands_for_a_secret(rules, value) {
            return Ok(());
        }
        if let Some(types) = &rules.types {
            check_type(types, value)?;
            make_whole(types, value);
        }
        if let Some(object) = &rules.object {
            self.object(object, value)?;
        }
        if let Some(array) = &rules.array
            && let Verdict::Accept = self.array(array, value)?
        {
            return Ok(());
        }
        if let (Some(rules), Value::String(text)) = (&rules.string, &*value) {
            self.string(rules, text)?;
        }
        if let (Some(rules), Some(number)) = (&rules.number, value.as_f64()) {
            check_number(rules, number)?;
        }
        if let Some(allowed) = &rules.one_of_values
            && !allowed.iter().any(|allowed| deep_equal(allowed, value))
        {
            return Err("matches none of the enum values".to_owned());
        }
        if let Verdict::Accept = self.compounds(rules, value)? {
            return Ok(());
        }
        self.last(rules, value)
    }

    fn compounds(&mut self, rules: &Rules, value: &mut Value) -> Result<Verdict, String> {
        for (at, id) in rules.all_of.iter().enumerate() {
            self.node(*id, value).map_err(|error| format!("allOf {} failed: {error}", at + 1))?;
        }
        if let Some(AnyOf { schemas, required_text }) = &rules.any_of
            && !schemas.iter().any(|id| self.matches(*id, value))
        {
            return Err(format!("object matches none of the required{required_text}"));
        }
        if let Some(schemas) = &rules.one_of {
            self.one_of(schemas, value)?;
        }
        if let Some(Condition { condition, then, otherwise }) = &rules.condition {
            let (branch, name) =
                if self.matches(*condition, value) { (then, "then") } else { (otherwise, "else") };
            if branch.is_some_and(|id| !self.matches(id, value)) {
                return Err(format!("{name} clause did not match"));
            }
        }
        if rules.not.is_some_and(|id| self.matches(id, value)) {
            return Err("value wasn't supposed to match schema".to_owned());
        }
        match rules.property_names {
            None => Ok(Verdict::GoOn),
            Some(false) if !is_empty(value) => Err("expect false always".to_owned()),
            Some(_) => Ok(Verdict::Accept),
        }
    }

    fn one_of(&mut self, schemas: &[NodeId], value: &mut Value) -> Outcome {
        let mut matched = None;
        for (at, id) in schemas.iter().enumerate() {
            if !self.matches(*id, value) {
                continue;
            }
            if let Some(first) = matched {
                let both = format!("{first} and {}", at + 1);
                return Err(format!("value should match only one schema, but matches both schemas {both}"));
            }
            matched = Some(at + 1);
        }
        match matched {
            Some(_) => Ok(()),
            None => Err("value should match only one schema, but matches none".to_owned()),
        }
    }

    fn last(&mut self, rules: &Rules, value: &mut Value) -> Outcome {
        if let (Some(format), Value::String(text)) = (&rules.format, &*value) {
            check_format(format, text)?;
        }
        if let Some(constant) = &rules.constant
            && !deep_equal(constant, value)
        {
            return Err("failed to check const value".to_owned());
        }
        match &rules.contains {
            None => Ok(()),
            Some(Contains::Always(true)) => match value {
                Value::Array(list) if !list.is_empty() => Ok(()),
                _ => Err("check contains: expect array table".to_owned()),
            },
            Some(Contains::Always(false)) if is_table(value) => {
                Err("check contains: expect table".to_owned())
            }
            Some(Contains::Always(false)) => Ok(()),
            Some(Contains::Schema(_)) if is_empty(value) => {
                Err("check contains: empty array is invalid".to_owned())
            }
            Some(Contains::Schema(id)) => match value {
                Value::Array(list) => list
                    .iter_mut()
                    .any(|item| self.matches(*id, item))
                    .then_some(())
                    .ok_or_else(|| "failed to check contains".to_owned()),
                _ => Ok(()),
            },
        }
    }

    fn object(&mut self, rules: &ObjectRules, value: &mut Value) -> Outcome {
        if value.is_object() || is_empty(value) {
            self.properties(rules, value)?;
            for name in &rules.required {
                if value.get(&**name).is_none() {
                    return Err(format!("property \"{name}\" is required"));
                }
            }
            for (name, dependency) in &rules.dependencies {
                if value.get(&**name).is_some() {
                    self.dependency(name, dependency, value)?;
                }
            }
            self.other_properties(rules, value)?;
            let count = value.as_object().map_or(0, Map::len);
            if let Some(least) = rules.min_properties.filter(|least| count < *least) {
                return Err(format!("expect object to have at least {least} properties"));
            }
            if let Some(most) = rules.max_properties.filter(|most| count > *most) {
                return Err(format!("expect object to have at most {most} properties"));
            }
        }
        if rules.must_be_empty && !is_empty(value) {
            return Err("the input data should be an empty table".to_owned());
        }
        Ok(())
    }

    fn properties(&mut self, rules: &ObjectRules, value: &mut Value) -> Outcome {
        for property in &rules.properties {
            let name = &*property.name;
            if let Some(member) = value.get_mut(name) {
                self.node(property.schema, member)
                    .map_err(|error| format!("property \"{name}\" validation failed: {error}"))?;
                if let Some(dependency) = &property.dependency {
                    self.dependency(name, dependency, value)?;
                }
            } else if property.required {
                return Err(format!("property \"{name}\" is required"));
            } else if let Some(default) = &property.default {
                insert(value, name, default.clone());
            }
        }
        Ok(())
    }

    fn dependency(&mut self, of: &str, dependency: &Dependency, value: &mut Value) -> Outcome {
        match dependency {
            Dependency::Names(names) => match names.iter().find(|name| value.get(&***name).is_none()) {
                Some(name) => Err(format!("property \"{name}\" is required when \"{of}\" is set")),
                None => Ok(()),
            },
            Dependency::Schema(id) => self
                .node(*id, value)
                .map_err(|error| format!("failed to validate dependent schema for \"{of}\": {error}")),
        }
    }

    /// `patternProperties` and, for names that neither it nor `properties` knows, `additionalProperties`.
    fn other_properties(&mut self, rules: &ObjectRules, value: &mut Value) -> Outcome {
        if rules.patterns.is_empty() && matches!(rules.additional, Additional::Allowed) {
            return Ok(());
        }
        let Value::Object(members) = value else { return Ok(()) };
        for (name, member) in members.iter_mut() {
            let mut matched = rules.properties.iter().any(|property| *property.name == **name);
            for (pattern, id) in &rules.patterns {
                if !self.pattern(pattern, name)? {
                    continue;
                }
                matched = true;
                self.node(*id, member).map_err(|error| {
                    format!("failed to validate {name} (matching \"{}\"): {error}", pattern.text)
                })?;
            }
            match rules.additional {
                _ if matched => {}
                Additional::Allowed => {}
                Additional::Forbidden => {
                    return Err(format!("additional properties forbidden, found {name}"));
                }
                Additional::Schema(id) => self
                    .node(id, member)
                    .map_err(|error| format!("failed to validate additional property {name}: {error}"))?,
            }
        }
        Ok(())
    }

    fn string(&mut self, rules: &StringRules, text: &str) -> Outcome {
        if rules.min_length.is_some() || rules.max_length.is_some() {
            let length = text.chars().count();
            if let Some(least) = rules.min_length.filter(|least| length < *least) {
                return Err(format!("string too short, expected at least {least}, got {length}"));
            }
            if let Some(most) = rules.max_length.filter(|most| length > *most) {
                return Err(format!("string too long, expected at most {most}, got {length}"));
            }
        }
        match &rules.pattern {
            Some(pattern) if !self.pattern(pattern, text)? => {
                Err(format!("failed to match pattern {} with {}", quoted(&pattern.text), quoted(text)))
            }
            _ => Ok(()),
        }
    }

    /// Does `pattern` match somewhere in `text`?
    fn pattern(&mut self, pattern: &Pattern, text: &str) -> Result<bool, String> {
        pattern.matches(text).map_err(|error| {
            self.give_up(format!("failed to match pattern {}: {error}", quoted(&pattern.text)))
        })
    }

    fn array(&mut self, rules: &ArrayRules, value: &mut Value) -> Result<Verdict, String> {
        match rules.items {
            Items::Always(true) => return Ok(Verdict::Accept),
            Items::Always(false) if is_empty(value) => return Ok(Verdict::Accept),
            Items::Always(false) => return Err("expect false always".to_owned()),
            _ => {}
        }
        let items: &mut [Value] = match value {
            Value::Array(items) => items,
            Value::Object(members) if members.is_empty() => &mut [],
            _ => return Ok(Verdict::GoOn),
        };
        if let Some(least) = rules.min_items.filter(|least| items.len() < *least) {
            return Err(format!("expect array to have at least {least} items"));
        }
        if let Some(most) = rules.max_items.filter(|most| items.len() > *most) {
            return Err(format!("expect array to have at most {most} items"));
        }
        self.items(&rules.items, items)?;
        if rules.unique
            && let Some((first, second)) = equal_items(items)
        {
            return Err(format!("expected unique items but items {first} and {second} are equal"));
        }
        Ok(Verdict::GoOn)
    }

    fn items(&mut self, rules: &Items, items: &mut [Value]) -> Outcome {
        match rules {
            Items::Each(id) => {
                for (at, item) in items.iter_mut().enumerate() {
                    self.node(*id, item)
                        .map_err(|error| format!("failed to validate item {}: {error}", at + 1))?;
                }
            }
            Items::Tuple(tuple, additional) => {
                for (at, (id, item)) in tuple.iter().zip(items.iter_mut()).enumerate() {
                    self.node(*id, item)
                        .map_err(|error| format!("failed to validate item {}: {error}", at + 1))?;
                }
                for (at, item) in items.iter_mut().enumerate().skip(tuple.len()) {
                    match additional {
                        Additional::Allowed => {}
                        Additional::Forbidden => {
                            return Err("found unexpected extra items in array".to_owned());
                        }
                        Additional::Schema(id) => self.node(*id, item).map_err(|error| {
                            format!("failed to validate additional item {}: {error}", at + 1)
                        })?,
                    }
                }
            }
            Items::Free | Items::Always(_) => {}
        }
        Ok(())
    }
}

fn stands_for_a_secret(rules: &Rules, value: &Value) -> bool {
    matches!(rules.types, None | Some(Types::One(Type::String))) && value.as_str().is_some_and(is_secret_ref)
}

fn is_table(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Writes a default; an empty array becomes an object, as both are one empty table.
fn insert(value: &mut Value, name: &str, default: Value) {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    if let Value::Object(members) = value {
        members.insert(name.to_owned(), default);
    }
}

fn is_of(of: Type, value: &Value) -> bool {
    match of {
        Type::Object => value.is_object() || is_empty(value),
        Type::Array => value.is_array() || is_empty(value),
        Type::Table => is_table(value),
        Type::Integer => value.as_f64().is_some_and(|number| number % 1.0 == 0.0),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Number => value.is_number(),
        Type::Null => value.is_null(),
    }
}

fn check_type(types: &Types, value: &Value) -> Outcome {
    match types {
        Types::One(of) if !is_of(*of, value) => {
            Err(format!("wrong type: expected {}, got {}", of.name(), type_name(value)))
        }
        Types::Any(list) if !list.iter().any(|of| is_of(*of, value)) => {
            let names: Vec<_> = list.iter().map(|of| of.name()).collect();
            Err(format!("wrong type: expected one of {}, got {}", names.join(", "), type_name(value)))
        }
        _ => Ok(()),
    }
}

/// An integer that was written with a fraction or an exponent (`1.0`, `1e3`) becomes what Lua has for it: the same as
/// `1`. Who reads the value need not know of other spellings.
fn make_whole(types: &Types, value: &mut Value) {
    let of_integers = match types {
        Types::One(of) => *of == Type::Integer,
        Types::Any(list) => list.contains(&Type::Integer),
    };
    if of_integers
        && let Value::Number(number) = value
        && number.is_f64()
        && let Some(number) = number.as_f64().filter(|number| number % 1.0 == 0.0 && number.abs() <= EXACT)
    {
        *value = Value::from(number as i64);
    }
}

fn check_number(rules: &NumberRules, number: f64) -> Outcome {
    if let Some(error) = rules.broken_bound(number) {
        return Err(error);
    }
    match rules.multiple_of {
        Some(step) if !is_multiple(number, step) => {
            let (number, step) = (number_text(number), number_text(step));
            Err(format!("expected {number} to be a multiple of {step}"))
        }
        _ => Ok(()),
    }
}

/// Whole steps divide exactly; for others 1.13 / 0.01 = 112.99999999999999 must count as whole, so the
/// quotient may miss a whole number by 1e-12 of itself.
fn is_multiple(number: f64, step: f64) -> bool {
    if step.trunc() == step {
        return number % step == 0.0;
    }
    let quotient = number / step;
    let whole = (quotient + 0.5).floor();
    let tolerance = 1e-12 * if whole == 0.0 { 1.0 } else { whole.abs() };
    (quotient - whole).abs() <= tolerance
}

/// The numbers (from 1) of two equal items. Simple values are looked at before tables, as the error names the
/// first pair found. Each item is looked at once: the list may be a client's body.
fn equal_items(items: &[Value]) -> Option<(usize, usize)> {
    let mut text = String::new();
    for tables in [false, true] {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut found: Option<(usize, usize)> = None;
        for (at, item) in items.iter().enumerate().filter(|(_, item)| is_table(item) == tables) {
            text.clear();
            canonical(item, &mut text);
            match seen.get(&text) {
                // Of simple values the pair that ends first is told, of tables the one that begins first.
                Some(first) if !tables => return Some((first + 1, at + 1)),
                Some(first) if found.is_none_or(|(begins, _)| *first < begins) => found = Some((*first, at)),
                Some(_) => {}
                None => drop(seen.insert(text.clone(), at)),
            }
        }
        if let Some((first, second)) = found {
            return Some((first + 1, second + 1));
        }
    }
    None
}

/// The same text for values that are equal as [`deep_equal`] has it, and for no others. It recurses as deep as
/// JSON is read.
fn canonical(value: &Value, out: &mut String) {
    match value {
        // Its value's text, so that 1 and 1.0 are one; adding 0 makes -0 one with 0.
        Value::Number(number) => match number.as_f64() {
            // with an exponent, else 1e308 has 309 digits
            Some(number) => out.push_str(&format!("{:e}", number + 0.0)),
            None => out.push_str(&number.to_string()),
        },
        // An empty array and an empty object are one empty table.
        table if is_empty(table) => out.push_str("[]"),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                out.push(if at == 0 { '[' } else { ',' });
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            for (at, (name, member)) in members.into_iter().enumerate() {
                out.push(if at == 0 { '{' } else { ',' });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                canonical(member, out);
            }
            out.push('}');
        }
        // Strings keep their quotes.
        simple => out.push_str(&simple.to_string()),
    }
}

fn check_format(format: &Format, text: &str) -> Outcome {
    let (name, valid) = match format {
        Format::Ipv4 => ("ipv4", text.parse::<Ipv4Addr>().is_ok()),
        Format::Ipv6 => ("ipv6", text.parse::<Ipv6Addr>().is_ok()),
        Format::Pattern(name, regex) => (*name, regex.is_match(text.as_bytes()).unwrap_or(false)),
    };
    if valid { Ok(()) } else { Err(format!("expect valid {name} format but got: {text}")) }
}
