//! Error texts, one table; every text is what the Lua library answers.

use serde_json::{Value, json};

use super::Schema;

fn error_of(schema: Value, value: Value) -> String {
    let schema = Schema::compile(schema).unwrap();
    schema.check(&value).err().unwrap_or_else(|| "accepted".to_owned())
}

#[test]
fn each_keyword_refuses_with_its_text() {
    let table = [
        (json!({"type": "string"}), json!(1), "wrong type: expected string, got number"),
        (json!({"type": "integer"}), json!(1.5), "wrong type: expected integer, got number"),
        (json!({"type": "object"}), json!([1]), "wrong type: expected object, got table"),
        (json!({"type": "object"}), json!(null), "wrong type: expected object, got userdata"),
        (
            json!({"type": ["string", "array"]}),
            json!(true),
            "wrong type: expected one of string, array, got boolean",
        ),
        (json!({"minimum": 1}), json!(0), "expected 0 to be at least 1"),
        (json!({"exclusiveMinimum": 0}), json!(0), "expected 0 to be greater than 0"),
        (json!({"maximum": 65535}), json!(65536.5), "expected 65536.5 to be at most 65535"),
        (json!({"exclusiveMaximum": 1}), json!(1), "expected 1 to be smaller than 1"),
        (json!({"multipleOf": 0.01}), json!(1.135), "expected 1.135 to be a multiple of 0.01"),
        (json!({"minLength": 1}), json!(""), "string too short, expected at least 1, got 0"),
        (json!({"maxLength": 2}), json!("éàü"), "string too long, expected at most 2, got 3"),
        (json!({"pattern": "^\\S+$"}), json!("a \"b"), r#"failed to match pattern "^\\S+$" with "a \"b""#),
        (json!({"enum": ["a", 1]}), json!("b"), "matches none of the enum values"),
        (json!({"minItems": 1}), json!([]), "expect array to have at least 1 items"),
        (json!({"maxItems": 1}), json!([1, 2]), "expect array to have at most 1 items"),
        (
            json!({"uniqueItems": true}),
            json!(["x", 1, "1", 1.0]),
            "expected unique items but items 2 and 4 are equal",
        ),
        (
            json!({"uniqueItems": true}),
            json!([{"a": 1}, {"b": 1}, {"b": 1}]),
            "expected unique items but items 2 and 3 are equal",
        ),
        (
            json!({"items": {"type": "string"}}),
            json!(["a", 2]),
            "failed to validate item 2: wrong type: expected string, got number",
        ),
        (
            json!({"items": [{"type": "string"}], "additionalItems": false}),
            json!(["a", 2]),
            "found unexpected extra items in array",
        ),
        (
            json!({"items": [{}], "additionalItems": {"type": "string"}}),
            json!([1, 2]),
            "failed to validate additional item 2: wrong type: expected string, got number",
        ),
        (json!({"minProperties": 1}), json!({}), "expect object to have at least 1 properties"),
        (json!({"maxProperties": 0}), json!({"a": 1}), "expect object to have at most 0 properties"),
        (json!({"required": ["a"]}), json!({"b": 1}), "property \"a\" is required"),
        (json!({"required": []}), json!({"b": 1}), "the input data should be an empty table"),
        (
            json!({"properties": {"a": {"properties": {"b": {"type": "boolean"}}}}}),
            json!({"a": {"b": 1}}),
            "property \"a\" validation failed: property \"b\" validation failed: \
             wrong type: expected boolean, got number",
        ),
        (
            json!({"properties": {"a": {}}, "additionalProperties": false}),
            json!({"a": 1, "x": 2}),
            "additional properties forbidden, found x",
        ),
        (
            json!({"additionalProperties": {"type": "string"}}),
            json!({"a": 1}),
            "failed to validate additional property a: wrong type: expected string, got number",
        ),
        (
            json!({"patternProperties": {".*": {"type": "string"}}}),
            json!({"env": ["production"]}),
            "failed to validate env (matching \".*\"): wrong type: expected string, got table",
        ),
        (
            json!({"dependencies": {"a": ["b"]}}),
            json!({"a": 1}),
            "property \"b\" is required when \"a\" is set",
        ),
        (
            json!({"properties": {"a": {}}, "dependencies": {"a": {"required": ["b"]}}}),
            json!({"a": 1}),
            "failed to validate dependent schema for \"a\": property \"b\" is required",
        ),
        (
            json!({"allOf": [{}, {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}]}),
            json!({}),
            "allOf 2 failed: value should match only one schema, but matches none",
        ),
        (
            json!({"anyOf": [{"required": ["a"]}, {"required": ["a", "b"]}]}),
            json!({}),
            "object matches none of the required: [\"a\"] or [\"a\",\"b\"]",
        ),
        (
            json!({"anyOf": [{"type": "string"}, {"type": "object"}]}),
            json!(1),
            "object matches none of the required",
        ),
        (
            json!({"oneOf": [{"minimum": 1}, {"minimum": 9}, {"minimum": 2}]}),
            json!(3),
            "value should match only one schema, but matches both schemas 1 and 3",
        ),
        (
            json!({"if": {"type": "string"}, "then": {"minLength": 2}}),
            json!("a"),
            "then clause did not match",
        ),
        (json!({"if": {"type": "string"}, "else": {"minimum": 2}}), json!(1), "else clause did not match"),
        (json!({"not": {"type": "string"}}), json!("a"), "value wasn't supposed to match schema"),
        (json!({"format": "ipv4"}), json!("1.2.3.256"), "expect valid ipv4 format but got: 1.2.3.256"),
        (json!({"format": "ipv6"}), json!("::g"), "expect valid ipv6 format but got: ::g"),
        (json!({"format": "email"}), json!("a@b"), "expect valid email format but got: a@b"),
        (json!({"const": {"a": 1}}), json!({"a": 2}), "failed to check const value"),
        (json!({"contains": {"type": "string"}}), json!([1]), "failed to check contains"),
        (json!({"contains": {}}), json!([]), "check contains: empty array is invalid"),
        (json!({"propertyNames": false}), json!({"a": 1}), "expect false always"),
        (
            json!({"properties": {"a": false}}),
            json!({"a": 1}),
            "property \"a\" validation failed: expect false always",
        ),
    ];
    for (schema, value, expected) in table {
        assert_eq!(error_of(schema.clone(), value.clone()), expected, "{schema} on {value}");
    }
}

#[test]
fn accepts_what_the_lua_library_accepts() {
    let table = [
        (json!({"type": "integer"}), json!(2.0)),
        (json!({"type": "object", "required": []}), json!([])),
        (json!({"type": "array"}), json!({})),
        (json!({"type": "null"}), json!(null)),
        (json!({"multipleOf": 0.01}), json!(1.13)),
        (json!({"uniqueItems": true}), json!(["1", 1, true, "true"])),
        (json!({"uniqueItems": false}), json!([1, 1])),
        (json!({"format": "unheard-of"}), json!("x")),
        (json!({"items": true, "enum": ["only"]}), json!("other")),
        (json!({"contains": {"type": "string"}}), json!([1, "a"])),
        (json!({"required": ["a"]}), json!("not an object")),
        // in Lua false is "not set"
        (json!({"if": false, "else": {"minimum": 2}}), json!(1)),
        (json!({"if": {}, "then": false}), json!(1)),
        (json!({"if": {"type": "string"}, "else": false}), json!(1)),
        (json!({"not": false}), json!(1)),
        (json!({"minimum": 5}), json!("not a number")),
    ];
    for (schema, value) in table {
        assert_eq!(error_of(schema.clone(), value.clone()), "accepted", "{schema} on {value}");
    }
}

#[test]
fn defaults_are_written_while_validating_but_not_by_a_check() {
    let schema = json!({"type": "object", "properties": {
        "a": {"default": 1},
        "list": {"default": [200, 302]},
        "sub": {"type": "object", "properties": {"b": {"type": "string", "default": "x"}}},
        "none": {"default": null},
    }});
    let schema = Schema::compile(schema).unwrap();
    let mut value = json!({"sub": []});
    schema.check(&value).unwrap();
    assert_eq!(value, json!({"sub": []}));
    schema.validate(&mut value).unwrap();
    assert_eq!(value, json!({"sub": {"b": "x"}, "a": 1, "list": [200, 302]}));
}

#[test]
fn a_default_counts_for_later_rules() {
    let schema = json!({
        "properties": {"type": {"default": "server"}},
        "if": {"properties": {"type": {"enum": ["server"]}}},
        "then": {"required": ["sni"]},
    });
    assert_eq!(error_of(schema, json!({})), "then clause did not match");
}

#[test]
fn a_secret_reference_passes_string_rules_only() {
    let text = json!({"type": "string", "pattern": "^a$", "maxLength": 3});
    assert_eq!(error_of(text, json!("$secret://vault/1/key")), "accepted");
    assert_eq!(error_of(json!({"enum": ["a"]}), json!("$ENV://A")), "accepted");
    let number = json!({"type": "integer"});
    assert_eq!(error_of(number, json!("$env://A")), "wrong type: expected integer, got string");
}

#[test]
fn references_within_the_schema_and_recursion() {
    let schema = json!({
        "definitions": {"node/x": {"properties": {"child": {"$ref": "#/definitions/node~1x"}, "n": {"type": "number"}}}},
        "$ref": "#/definitions/node%7E1x",
    });
    assert_eq!(
        error_of(schema, json!({"child": {"child": {"n": "a"}}})),
        "property \"child\" validation failed: property \"child\" validation failed: \
         property \"n\" validation failed: wrong type: expected number, got string"
    );
}

#[test]
fn endless_schemas_end() {
    let schema = Schema::compile(json!({"allOf": [{"$ref": "#"}]})).unwrap();
    assert!(schema.check(&json!(1)).unwrap_err().ends_with("nested too deep for its schema"));
    let circle = json!({"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}});
    assert_eq!(Schema::compile(circle).unwrap_err(), "references of the schema go in a circle");
    let mut deep = json!({});
    for _ in 0..1_000 {
        deep = json!({"items": deep});
    }
    assert_eq!(Schema::compile(deep).unwrap_err(), "the schema is too large");
    let wide = |members: usize| {
        let members = (0..members).map(|n| (n.to_string(), json!({"type": "string"})));
        json!({"properties": members.collect::<serde_json::Map<_, _>>()})
    };
    assert_eq!(Schema::compile(wide(70_000)).unwrap_err(), "the schema is too large");
    assert!(Schema::compile(wide(60_000)).is_ok());
}

#[test]
fn branches_that_double_at_each_level_end() {
    let too_deep = "the value is nested too deep for its schema";
    for schema in [
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"oneOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"not": {"$ref": "#"}}),
        json!({"if": {"$ref": "#"}, "then": {"$ref": "#"}, "else": {"$ref": "#"}}),
    ] {
        assert_eq!(error_of(schema.clone(), json!(1)), too_deep, "{schema}");
    }
    let mut rules = serde_json::Map::new();
    for n in 0..25 {
        let next = json!({"$ref": format!("#/rules/{}", n + 1)});
        rules.insert(n.to_string(), json!({"allOf": [next, next]}));
    }
    rules.insert("25".to_owned(), json!(true));
    let doubling = json!({"rules": rules, "$ref": "#/rules/0"});
    assert_eq!(error_of(doubling, json!(1)), "the value takes too long to check against its schema");
    let long: Value = (0..1_000_000).collect();
    assert_eq!(error_of(json!({"items": {"type": "integer"}}), long), "accepted");
}

#[test]
fn an_integer_is_the_same_however_it_is_written() {
    let schema = json!({"properties": {
        "a": {"type": "integer"}, "b": {"type": ["string", "integer"]}, "c": {"type": "number"}, "d": {"type": "integer"},
    }});
    let mut value: Value = serde_json::from_str(r#"{"a": 429.0, "b": -1e3, "c": 1.0, "d": 1e300}"#).unwrap();
    Schema::compile(schema).unwrap().validate(&mut value).unwrap();
    assert_eq!(value.to_string(), r#"{"a":429,"b":-1000,"c":1.0,"d":1e+300}"#);
}

#[test]
fn faulty_schemas_are_refused() {
    let table = [
        (json!({"type": "invalid type"}), "invalid JSON type: invalid type"),
        (json!({"type": 1}), "invalid \"type\" type: got number"),
        (json!({"properties": {"a": 1}}), "a schema must be an object or a boolean: got 1"),
        (json!({"properties": 1}), "`properties` must be an object"),
        (json!({"required": "a"}), "`required` must be an array of strings"),
        (json!({"enum": []}), "`enum` must be an array with values"),
        (json!({"$ref": "#/nowhere"}), "reference not found: #/nowhere"),
        (json!({"$ref": "http://x/y"}), "an external resolver is required to fetch http://x/y"),
        (json!({"oneOf": {}}), "`oneOf` must be an array"),
    ];
    for (schema, expected) in table {
        assert_eq!(Schema::compile(schema).unwrap_err(), expected);
    }
    assert!(Schema::compile(json!({"pattern": "("})).unwrap_err().starts_with("invalid pattern"));
}

#[test]
fn equal_tables_are_found_in_a_long_list() {
    let unique = json!({"uniqueItems": true});
    for (list, error) in [
        (json!([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}]), "1 and 2"),
        (json!([[], 1, {}]), "1 and 3"),
        (json!([[1], [2], [2], [1]]), "1 and 4"),
        (json!([1, 2, 2, 1]), "2 and 3"),
        (json!([[0.0], [-0.0]]), "1 and 2"),
        (json!([[1], [2], 3, 3]), "3 and 4"),
        (json!([[1e308], [-1e308], [1e308]]), "1 and 3"),
    ] {
        let expected = format!("expected unique items but items {error} are equal");
        assert_eq!(error_of(unique.clone(), list.clone()), expected, "{list}");
    }
    for list in [
        json!([["1"], [1], [true], ["true"], [null]]),
        json!([["a", "b"], ["a\",\"b"], {"1": "a"}]),
        json!([[1e308], [1.1e308], [0.5], [0.25], [9_007_199_254_740_992u64], [9_007_199_254_740_994u64]]),
    ] {
        assert_eq!(error_of(unique.clone(), list.clone()), "accepted", "{list}");
    }
    let long: Value = (0..30_000).map(|n| json!([n])).collect();
    let begun = std::time::Instant::now();
    assert_eq!(error_of(unique, long), "accepted");
    assert!(begun.elapsed().as_secs() < 10, "pair by pair they take half a billion comparisons");
}

#[test]
fn a_pattern_that_takes_too_long_refuses_wherever_it_stands() {
    let pattern = "^(?:(?:a+)+c|a+b)$";
    // it would match in the end
    let text = format!("{}b", "a".repeat(24));
    let string = json!({"pattern": pattern});
    assert_eq!(error_of(string.clone(), json!("aaab")), "accepted");
    let refused = error_of(string.clone(), json!(text));
    assert!(refused.starts_with(&format!("failed to match pattern \"{pattern}\": ")), "{refused}");
    for (schema, value) in [
        (json!({"not": string}), json!(text)),
        (json!({"anyOf": [string, {"type": "string"}]}), json!(text)),
        (json!({"if": string, "then": {"type": "number"}}), json!(text)),
        (json!({"patternProperties": {pattern: {"type": "number"}}}), json!({&text: "x"})),
    ] {
        assert_eq!(error_of(schema.clone(), value), refused, "{schema}");
    }
    let begun = std::time::Instant::now();
    let many: Value = (0..10_000).map(|_| json!(text)).collect();
    assert_eq!(error_of(json!({"contains": string}), many), refused);
    assert!(begun.elapsed().as_secs() < 10, "after the first no other string is tried");
}
