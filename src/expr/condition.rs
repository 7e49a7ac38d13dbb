//! Conditions over $variables, the language of lua-resty-expr: `vars` of routes, filters of plugins.
//!
//! A condition is `[name, operator, value]` or `[name, "!", operator, value]`; a list of conditions is an
//! AND; `["OR", c1, c2, …]` (also `AND`, `!AND`, `!OR`) combines two or more. Facts and error texts are from
//! lib/resty/expr/v1.lua. Known differences: a value that would raise a Lua error at compile time is an
//! ordinary error here; variables but `post_arg.*` are text, so one whose text is a number never equals (`==`, `in`)
//! a string by another spelling of it; the depth is bounded.

use std::net::IpAddr;

use pcre2::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use super::{ip, ip::IpNets, number};
use crate::exchange::Vars;
use crate::limits::{EXPR_DEPTH, REGEX_STEPS};
use crate::model::schema::number_text;

/// A compiled condition.
#[derive(Clone, Debug, Default)]
pub struct Expr(Option<Node>);

#[derive(Clone, Debug)]
enum Node {
    All { negate: bool, nodes: Box<[Node]> },
    Any { negate: bool, nodes: Box<[Node]> },
    Test { name: Box<str>, negate: bool, test: Test },
}

/// A comparison with its right side prepared.
#[derive(Clone, Debug)]
enum Test {
    Equal(Operand),
    NotEqual(Operand),
    /// `None` on the right: no number, never true.
    Greater(Option<f64>),
    GreaterOrEqual(Option<f64>),
    Less(Option<f64>),
    LessOrEqual(Option<f64>),
    /// `None`: the pattern does not compile, which the library notices only when it matches: never true.
    Matches(Option<Regex>),
    In {
        /// Sorted.
        texts: Box<[Box<[u8]>]>,
        /// What only a JSON value can equal.
        others: Box<[Operand]>,
    },
    Has(Operand),
    IpMatch(IpNets),
}

/// A right side as Lua compares it.
#[derive(Clone, Debug)]
enum Operand {
    Nil,
    Number(f64),
    Text(Box<[u8]>),
    /// Equal to no text.
    Bool(bool),
    /// A table: equal to no variable.
    Table,
}

impl Expr {
    /// Compiles `rule`; the error is the library's text, to which callers put their own beginning
    /// (`failed to validate the 'vars' expression: …`). An empty list is always true.
    pub fn compile(rule: &Value) -> Result<Expr, String> {
        let items = match rule {
            Value::Null | Value::Bool(false) => return Err("missing argument rule".into()),
            // To Lua an object is a table of length 0.
            Value::Object(_) => return Ok(Expr(None)),
            Value::Array(items) => items,
            other => return Err(wrong_type("table", other)),
        };
        match items.first() {
            None => return Ok(Expr(None)),
            Some(Value::Array(_) | Value::Object(_)) => {}
            Some(first) if logic(&text(first)?).is_some() => {}
            Some(_) => return Err("rule should be wrapped inside brackets".into()),
        }
        compile(rule, 0).map(|node| Expr(Some(node)))
    }

    /// Whether the condition holds for `vars`. A test that cannot be made (a pattern that does not compile
    /// or gives up, an address that is none) is false before its `!`.
    pub fn eval(&self, vars: &(impl Vars + ?Sized)) -> bool {
        self.0.as_ref().is_none_or(|node| node.eval(vars))
    }
}

fn compile(rule: &Value, depth: usize) -> Result<Node, String> {
    if depth >= EXPR_DEPTH {
        return Err("expression nested too deep".into());
    }
    let items: &[Value] = match rule {
        Value::Array(items) => items,
        Value::Object(_) => &[],
        other => return Err(wrong_type("table", other)),
    };
    let all_of = |items: &[Value]| -> Result<Box<[Node]>, String> {
        items.iter().map(|item| compile(item, depth + 1)).collect()
    };
    match items.first() {
        None => Err("rule too short".into()),
        Some(Value::Array(_) | Value::Object(_)) => Ok(Node::All { negate: false, nodes: all_of(items)? }),
        Some(first) => match logic(&text(first)?) {
            Some(_) if items.len() <= 2 => Err("rule too short".into()),
            Some(Logic::And { negate }) => Ok(Node::All { negate, nodes: all_of(&items[1..])? }),
            Some(Logic::Or { negate }) => Ok(Node::Any { negate, nodes: all_of(&items[1..])? }),
            None => compile_test(items),
        },
    }
}

enum Logic {
    And { negate: bool },
    Or { negate: bool },
}

fn logic(word: &str) -> Option<Logic> {
    let (negate, word) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
    match () {
        _ if word.eq_ignore_ascii_case("AND") => Some(Logic::And { negate }),
        _ if word.eq_ignore_ascii_case("OR") => Some(Logic::Or { negate }),
        _ => None,
    }
}

fn compile_test(items: &[Value]) -> Result<Node, String> {
    let (negate, operator, value) = match items {
        [_, not, operator, value] if not == "!" => (true, Some(operator), Some(value)),
        [_, _, _, _] => return Err("bad 'not' expression".into()),
        _ => (false, items.get(1), items.get(2)),
    };
    let Some(operator) = operator else { return Err("invalid expression".into()) };
    let name = text(&items[0])?.into();
    let operator = text(operator)?.to_ascii_lowercase();
    let test = match compile_operator(&operator, value)? {
        Some(test) => test,
        // The old form `[name, value]`; the library lowers the value's case before it notices.
        None if value.is_none() => Test::Equal(Operand::Text(operator.into_bytes().into())),
        None => return Err(format!("invalid operator '{operator}'")),
    };
    Ok(Node::Test { name, negate, test })
}

/// `None`: there is no such operator.
fn compile_operator(operator: &str, value: Option<&Value>) -> Result<Option<Test>, String> {
    Ok(Some(match operator {
        "==" => Test::Equal(operand(value)),
        "~=" => Test::NotEqual(operand(value)),
        ">" => Test::Greater(to_number(value)),
        ">=" => Test::GreaterOrEqual(to_number(value)),
        "<" => Test::Less(to_number(value)),
        "<=" => Test::LessOrEqual(to_number(value)),
        "~~" => Test::Matches(value.and_then(|value| pattern(value, false))),
        "~*" => Test::Matches(value.and_then(|value| pattern(value, true))),
        "in" => {
            let (mut texts, mut others) = (Vec::new(), Vec::new());
            for item in value.and_then(Value::as_array).into_iter().flatten() {
                match operand(Some(item)) {
                    Operand::Text(text) => texts.push(text),
                    other => others.push(other),
                }
            }
            texts.sort_unstable();
            Test::In { texts: texts.into(), others: others.into() }
        }
        "has" => Test::Has(operand(value)),
        "ipmatch" => Test::IpMatch(networks(value)?),
        _ => return Ok(None),
    }))
}

fn operand(value: Option<&Value>) -> Operand {
    match value {
        None | Some(Value::Null) => Operand::Nil,
        Some(Value::Number(number)) => number.as_f64().map_or(Operand::Table, Operand::Number),
        Some(Value::String(text)) => Operand::Text(text.as_bytes().into()),
        Some(Value::Bool(value)) => Operand::Bool(*value),
        Some(Value::Array(_) | Value::Object(_)) => Operand::Table,
    }
}

fn to_number(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => number::parse(text.as_bytes()),
        _ => None,
    }
}

/// Bytes, not UTF-8, as ngx.re without `u`; the limit keeps a bad pattern from holding a core.
fn pattern(value: &Value, caseless: bool) -> Option<Regex> {
    let pattern = format!("(*LIMIT_MATCH={REGEX_STEPS}){}", text(value).ok()?);
    RegexBuilder::new().caseless(caseless).jit_if_available(true).build(&pattern).ok()
}

fn networks(value: Option<&Value>) -> Result<IpNets, String> {
    let items = match value {
        Some(Value::Array(items)) => items.as_slice(),
        None | Some(Value::Bool(false) | Value::Object(_)) => &[],
        Some(Value::String(text)) if text.is_empty() => &[],
        Some(one) => std::slice::from_ref(one),
    };
    if items.is_empty() {
        return Err("invalid ip address".into());
    }
    let texts: Result<Vec<String>, String> = items.iter().map(text).collect();
    IpNets::parse(texts?.iter().map(String::as_str))
}

/// What Lua's string functions accept: text, and numbers as text.
fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(wrong_type("string", other)),
    }
}

fn wrong_type(expected: &str, value: &Value) -> String {
    let got = match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    };
    format!("{expected} expected, got {got}")
}

impl Node {
    fn eval(&self, vars: &(impl Vars + ?Sized)) -> bool {
        match self {
            Node::All { negate, nodes } => nodes.iter().all(|node| node.eval(vars)) != *negate,
            Node::Any { negate, nodes } => nodes.iter().any(|node| node.eval(vars)) != *negate,
            Node::Test { name, negate, test } => test.holds(name, vars) != *negate,
        }
    }
}

impl Test {
    fn holds(&self, name: &str, vars: &(impl Vars + ?Sized)) -> bool {
        if !name.starts_with("post_arg.") {
            return self.eval(name, vars.var(name).as_deref());
        }
        match vars.json_var(name).as_deref() {
            None => self.eval(name, None),
            // Text compares as text, whatever variable it is of; but it is no list.
            Some(Value::String(text)) => self.eval(name, Some(text.as_bytes())),
            Some(value) => self.eval_json(value),
        }
    }

    /// `value` is no string. Lua compares it as it is, and turns it into text only for the patterns.
    fn eval_json(&self, value: &Value) -> bool {
        let compare = |right: &Option<f64>, holds: fn(&f64, &f64) -> bool| {
            value.as_f64().zip(*right).is_some_and(|(left, right)| holds(&left, &right))
        };
        match self {
            // JSON's null is something to Lua, other than nil.
            Test::Equal(right) => !value.is_null() && same(value, right),
            Test::NotEqual(right) => value.is_null() || !same(value, right),
            Test::Greater(right) => compare(right, f64::gt),
            Test::GreaterOrEqual(right) => compare(right, f64::ge),
            Test::Less(right) => compare(right, f64::lt),
            Test::LessOrEqual(right) => compare(right, f64::le),
            Test::In { others, .. } => others.iter().any(|item| same(value, item)),
            Test::Has(element) => has(value, element),
            Test::Matches(regex) => {
                let text = value.as_f64().map_or_else(|| value.to_string(), number_text);
                regex.as_ref().is_some_and(|regex| regex.is_match(text.as_bytes()).unwrap_or(false))
            }
            Test::IpMatch(_) => false,
        }
    }

    /// `value` is the variable's, `None` where Lua has nil.
    fn eval(&self, name: &str, value: Option<&[u8]>) -> bool {
        let compare = |right: &Option<f64>, holds: fn(&f64, &f64) -> bool| {
            value.and_then(number::parse).zip(*right).is_some_and(|(left, right)| holds(&left, &right))
        };
        match self {
            Test::Equal(right) => equal(value, right),
            Test::NotEqual(right) => !equal(value, right),
            Test::Greater(right) => compare(right, f64::gt),
            Test::GreaterOrEqual(right) => compare(right, f64::ge),
            Test::Less(right) => compare(right, f64::lt),
            Test::LessOrEqual(right) => compare(right, f64::le),
            Test::Matches(regex) => {
                let (Some(regex), Some(value)) = (regex, value) else { return false };
                regex.is_match(value).unwrap_or(false)
            }
            Test::In { texts, .. } => {
                value.is_some_and(|value| texts.binary_search_by(|text| (**text).cmp(value)).is_ok())
            }
            // The one of these variables that is a table in APISIX (core/ctx.lua). Here its text is a JSON array; an
            // argument that merely looks like one must not pass for a list.
            Test::Has(element) => {
                let list = value.filter(|_| name == "graphql_root_fields");
                list.and_then(|list| serde_json::from_slice(list).ok())
                    .is_some_and(|list| has(&list, element))
            }
            Test::IpMatch(nets) => {
                let address: Option<IpAddr> = value.and_then(ip::parse_address);
                address.is_some_and(|address| nets.contains(address))
            }
        }
    }
}

/// The library turns the variable into a number only when the right side is one.
fn equal(value: Option<&[u8]>, right: &Operand) -> bool {
    match right {
        Operand::Nil => value.is_none(),
        Operand::Number(right) => value.and_then(number::parse).is_some_and(|left| left == *right),
        Operand::Text(right) => value.is_some_and(|left| left == &**right),
        Operand::Bool(_) | Operand::Table => false,
    }
}

/// Is there an element of `list` that equals `element`?
fn has(list: &Value, element: &Operand) -> bool {
    let items = list.as_array().into_iter().flatten();
    items.filter(|item| !item.is_null()).any(|item| same(item, element))
}

/// Lua's `==`: values of two types differ, and so do two tables.
fn same(value: &Value, right: &Operand) -> bool {
    match (value, right) {
        (Value::Null, Operand::Nil) => true,
        (Value::Bool(left), Operand::Bool(right)) => left == right,
        (Value::Number(left), Operand::Number(right)) => left.as_f64() == Some(*right),
        (Value::String(left), Operand::Text(right)) => left.as_bytes() == &**right,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
