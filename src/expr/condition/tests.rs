use std::borrow::Cow;

use serde_json::{Value, json};

use super::*;

struct Table<'a>(&'a [(&'a str, &'a str)]);
impl Vars for Table<'_> {
    fn var(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(value.as_bytes()))
    }
}

fn holds(rule: Value, vars: &[(&str, &str)]) -> bool {
    Expr::compile(&rule).unwrap().eval(&Table(vars))
}

#[test]
fn operators() {
    let cases = [
        (json!(["x", "==", "v"]), "v", true),
        (json!(["x", "==", "v"]), "V", false),
        (json!(["x", "==", 18]), "18.0", true),
        (json!(["x", "==", 18]), "0x12", true),
        (json!(["x", "==", 18]), "aa", false),
        (json!(["x", "==", "18"]), "18.0", false),
        (json!(["x", "==", true]), "true", false),
        (json!(["x", "==", null]), "v", false),
        (json!(["x", "v"]), "v", true),
        (json!(["x", "V"]), "v", true), // the old form lowers the value
        (json!(["x", 5]), "5", true),
        (json!(["x", "~=", "v"]), "v", false),
        (json!(["x", "~=", 18]), "18", false),
        (json!(["x", "~=", 18]), "aa", true),
        (json!(["x", "~=", null]), "v", true),
        (json!(["x", "~="]), "v", true),
        (json!(["x", ">", 10]), "11", true),
        (json!(["x", ">", 10]), "9", false),
        (json!(["x", ">", "10"]), "11", true),
        (json!(["x", ">", "ten"]), "11", false),
        (json!(["x", ">=", "2"]), "2", true),
        (json!(["x", ">=", 3]), "2", false),
        (json!(["x", "<", 3]), "2", true),
        (json!(["x", "<", 3]), "nan", false),
        (json!(["x", "<=", 2]), "2", true),
        (json!(["x", "~~", "^[a-z]+$"]), "abc", true),
        (json!(["x", "~~", "A"]), "a", false),
        (json!(["x", "~*", "A"]), "a", true),
        (json!(["x", "~~", "("]), "(", false),
        (json!(["x", "!", "~~", "("]), "(", true),
        (json!(["x", "~~", 1]), "212", true),
        (json!(["x", "in", ["1", "2"]]), "2", true),
        (json!(["x", "IN", ["1", "2"]]), "3", false),
        (json!(["x", "in", [1, 2]]), "1", false), // a variable is text, and text equals no number
        (json!(["x", "in", "1"]), "1", false),
        (json!(["x", "has", "a"]), "[\"a\"]", false), // an argument is no list
        (json!(["x", "ipmatch", "127.0.0.0/16"]), "127.0.9.9", true),
        (json!(["x", "ipmatch", ["10.0.0.1", "::1"]]), "::1", true),
        (json!(["x", "ipmatch", ["10.0.0.1"]]), "10.0.0.2", false),
        (json!(["x", "ipmatch", ["10.0.0.1"]]), "junk", false),
        (json!(["x", "!", "ipmatch", ["10.0.0.1"]]), "junk", true),
        (json!(["x", "!", ">", 15]), "11", true),
        (json!(["x", "!", "in", ["1"]]), "1", false),
    ];
    for (condition, value, expected) in cases {
        assert_eq!(holds(json!([condition]), &[("x", value)]), expected, "{condition} with {value}");
    }
}

#[test]
fn missing_variables() {
    for (condition, expected) in [
        (json!(["x", "==", "v"]), false),
        (json!(["x", "==", null]), true),
        (json!(["x", "=="]), true),
        (json!(["x", "==", 0]), false),
        (json!(["x", "~=", "v"]), true),
        (json!(["x", "~=", 1]), true),
        (json!(["x", "~=", null]), false),
        (json!(["x", ">", 1]), false),
        (json!(["x", "!", ">", 1]), true),
        (json!(["x", "~~", ".*"]), false),
        (json!(["x", "in", ["v"]]), false),
        (json!(["x", "has", "v"]), false),
        (json!(["x", "ipmatch", "0.0.0.0/0"]), false),
    ] {
        assert_eq!(holds(json!([condition]), &[]), expected, "{condition}");
    }
}

#[test]
fn lists() {
    let vars = [("graphql_root_fields", r#"["owner","repo"]"#), ("post_arg.text", r#"["owner"]"#)];
    assert!(holds(json!([["graphql_root_fields", "has", "owner"]]), &vars));
    assert!(!holds(json!([["graphql_root_fields", "has", "own"]]), &vars));
    assert!(!holds(json!([["post_arg.text", "has", "owner"]]), &vars), "a text is no list");
}

/// A body of JSON, whose members are the variables `post_arg.*`.
struct Body(Value);
impl Vars for Body {
    fn var(&self, _: &str) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn json_var(&self, name: &str) -> Option<Cow<'_, Value>> {
        self.0.get(name.strip_prefix("post_arg.")?).map(Cow::Borrowed)
    }
}

#[test]
fn members_of_a_json_body_compare_by_their_type() {
    let body = json!({
        "admin": true, "age": 5, "text": "5", "word": "true", "ids": [1, "b", false, null], "nothing": null, "map": {"a": 1}
    });
    let body = Body(body);
    for (condition, expected) in [
        (json!(["post_arg.admin", "==", true]), true),
        (json!(["post_arg.admin", "~=", true]), false),
        (json!(["post_arg.admin", "==", false]), false),
        (json!(["post_arg.admin", "==", "true"]), false),
        (json!(["post_arg.word", "==", true]), false),
        (json!(["post_arg.word", "==", "true"]), true),
        (json!(["post_arg.admin", "in", ["x", true]]), true),
        (json!(["post_arg.admin", "in", ["true"]]), false),
        (json!(["post_arg.admin", ">", 0]), false),
        (json!(["post_arg.admin", "~~", "^true$"]), true),
        (json!(["post_arg.age", "==", 5]), true),
        (json!(["post_arg.age", "~=", 5]), false),
        (json!(["post_arg.age", "==", "5"]), false),
        (json!(["post_arg.age", "~=", "5"]), true),
        (json!(["post_arg.age", "in", [5]]), true),
        (json!(["post_arg.age", "in", ["5"]]), false),
        (json!(["post_arg.age", "!", "in", [4, 5]]), false),
        (json!(["post_arg.age", ">=", "5"]), true),
        (json!(["post_arg.age", "<", 5]), false),
        (json!(["post_arg.age", "~~", "^5$"]), true),
        (json!(["post_arg.text", "==", 5]), true),
        (json!(["post_arg.text", "==", "5"]), true),
        (json!(["post_arg.text", "in", [5]]), false),
        (json!(["post_arg.text", "in", ["5"]]), true),
        (json!(["post_arg.text", ">", 4]), true),
        (json!(["post_arg.ids", "has", 1]), true),
        (json!(["post_arg.ids", "has", "1"]), false),
        (json!(["post_arg.ids", "has", false]), true),
        (json!(["post_arg.ids", "has", null]), false),
        (json!(["post_arg.ids", "==", [1, "b", false, null]]), false),
        (json!(["post_arg.map", "~=", {"a": 1}]), true),
        (json!(["post_arg.map", "has", 1]), false),
        (json!(["post_arg.nothing", "==", null]), false),
        (json!(["post_arg.nothing", "~=", null]), true),
        (json!(["post_arg.nothing", "in", [null]]), true),
        (json!(["post_arg.none", "==", null]), true),
        (json!(["post_arg.none", "~=", true]), true),
    ] {
        let expr = Expr::compile(&json!([condition])).unwrap();
        assert_eq!(expr.eval(&body), expected, "{condition}");
    }
}

#[test]
fn logic_combines() {
    let (a, b) = (json!(["w", ">", 10]), json!(["w", "!", ">", 15]));
    for (rule, weight, expected) in [
        (json!([]), "1", true),
        (json!({}), "1", true),
        (json!([a, b]), "12", true),
        (json!([a, b]), "16", false),
        (json!(["AND", a, b]), "12", true),
        (json!(["and", a, b]), "8", false),
        (json!(["OR", a, b]), "8", true),
        (json!(["!AND", a, b]), "12", false),
        (json!(["!and", a, b]), "16", true),
        (json!(["!OR", a, b]), "12", false),
        (json!(["!OR", ["w", "<", 5], ["w", ">", 20]]), "12", true),
        (json!(["OR", ["AND", a, b], [["w", "==", "3"]]]), "3", true),
        (json!([["OR", ["w", "==", "1"], ["w", "==", "2"]], ["w", "~=", "1"]]), "1", false),
        (json!([["OR", ["w", "==", "1"], ["w", "==", "2"]], ["w", "~=", "1"]]), "2", true),
    ] {
        assert_eq!(holds(rule.clone(), &[("w", weight)]), expected, "{rule} with {weight}");
    }
}

#[test]
fn error_texts() {
    let mut deep = json!(["x", "==", "y"]);
    for _ in 0..1000 {
        deep = Value::Array(vec![deep]);
    }
    for (rule, error) in [
        (json!(null), "missing argument rule"),
        (json!(["arg_k", "==", "v"]), "rule should be wrapped inside brackets"),
        (json!([["arg_k", "=", "v"]]), "invalid operator '='"),
        (json!([["arg_k", "INVALID", 10]]), "invalid operator 'invalid'"),
        (json!([["arg_k", "invalid", null]]), "invalid operator 'invalid'"),
        (json!([["arg_k"]]), "invalid expression"),
        (json!([[]]), "rule too short"),
        (json!([{}]), "rule too short"),
        (json!([["!", "arg_k", "==", "1"]]), "bad 'not' expression"),
        (json!(["OR", ["x", ">", 1]]), "rule too short"),
        (json!(["OR", ["x", ">", 1], ["AND"]]), "rule too short"),
        (json!([["x", "ipmatch"]]), "invalid ip address"),
        (json!([["x", "ipmatch", ""]]), "invalid ip address"),
        (json!([["x", "ipmatch", []]]), "invalid ip address"),
        (json!([["x", "ipmatch", [""]]]), "invalid ip address: "),
        (json!([["x", "ipmatch", ["1.2.3.4", "a/8"]]]), "invalid ip address: a"),
        (json!([true]), "string expected, got boolean"),
        (json!([["x", ["y"], 1]]), "string expected, got table"),
        (deep, "expression nested too deep"),
    ] {
        assert_eq!(Expr::compile(&rule).unwrap_err(), error, "{rule}");
    }
}

#[test]
fn a_runaway_pattern_gives_up() {
    let rule = json!([["x", "~~", "^(([a-z])+.)+[A-Z]([a-z])+$"]]);
    assert!(!holds(rule, &[("x", &"a".repeat(2000))]));
    // it would hold in the end
    let rule = json!([["x", "~~", "^(?:(?:a+)+c|a+b)$"]]);
    assert!(holds(rule.clone(), &[("x", "aaaab")]));
    assert!(!holds(rule, &[("x", &format!("{}b", "a".repeat(26)))]));
}

/// Random JSON, shaped like an expression more often than chance would make it.
fn random_json(random: &mut fastrand::Rng, depth: usize) -> Value {
    const WORDS: [&str; 24] = [
        "==",
        "~=",
        ">",
        ">=",
        "<",
        "<=",
        "~~",
        "~*",
        "in",
        "has",
        "ipmatch",
        "!",
        "AND",
        "or",
        "!AND",
        "!OR",
        "x",
        "y",
        "10.0.0.0/8",
        "::1",
        "12",
        "(a|b)+$",
        "",
        "post_arg.z",
    ];
    match random.u32(0..if depth == 0 { 4 } else { 10 }) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(random.f64() * 20.0),
        3..=5 => json!(WORDS[random.usize(..WORDS.len())]),
        6 => json!({ "x": random_json(random, depth - 1) }),
        _ => (0..random.usize(0..5)).map(|_| random_json(random, depth - 1)).collect(),
    }
}

fn random_expr(random: &mut fastrand::Rng, depth: usize) -> Value {
    if depth > 0 && random.u32(0..3) == 0 {
        let word = ["AND", "OR", "!AND", "!OR"][random.usize(..4)];
        let nodes = (0..random.usize(2..4)).map(|_| random_expr(random, depth - 1));
        return std::iter::once(json!(word)).chain(nodes).collect();
    }
    let name = ["x", "y", "post_arg.z", "none"][random.usize(..4)];
    let operator = ["==", "~=", ">", ">=", "<", "<=", "~~", "~*", "in", "has", "ipmatch"][random.usize(..11)];
    let value = match operator {
        "ipmatch" => json!(["10.0.0.0/8", "::1"]),
        _ => random_json(random, 2),
    };
    if random.bool() { json!([name, operator, value]) } else { json!([name, "!", operator, value]) }
}

#[test]
fn nothing_panics() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut compiled = 0;
    for round in 0..20_000 {
        let rule =
            if round % 2 == 0 { random_json(&mut random, 4) } else { json!([random_expr(&mut random, 3)]) };
        let value = ["", "12", "10.1.1.1", "abab", "[1,\"x\"]"][random.usize(..5)];
        if let Ok(expr) = Expr::compile(&rule) {
            compiled += 1;
            expr.eval(&Table(&[("x", value), ("y", "11"), ("post_arg.z", value)]));
        } else {
            assert!(round % 2 == 0, "a valid expression was refused: {rule}");
        }
    }
    assert!(compiled > 10_000);
}
