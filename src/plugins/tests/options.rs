//! The tables of options on the plugins' pages, made from their schemas: none is forgotten, and defaults are true.

use serde_json::Value;

use crate::model::schemas::insert_parts;
use crate::plugin::Spec;

/// Rules of a schema whose branches say more about the same object.
const BRANCHES: [&str; 6] = ["oneOf", "anyOf", "allOf", "then", "else", "dependencies"];

/// An option that is an object of its own, told elsewhere.
const ELSEWHERE: [&str; 2] = ["upstream", "_meta"];

/// The sections that follow a plugin's own text, `page`: none where it has no options, or tables of its own, which must
/// name them all (those within another one aside).
pub fn sections(spec: &Spec, page: &str) -> String {
    let has_own = page.contains("\n| option |");
    let mut text = String::new();
    for (title, schema) in [
        ("Options", Some(spec.schema)),
        ("Options of a consumer or credential", spec.consumer_schema),
        ("Plugin metadata", spec.metadata_schema),
    ] {
        let rows = schema.map_or(Vec::new(), |schema| {
            let mut schema =
                serde_json::from_str(schema).unwrap_or_else(|error| panic!("{}: {error}", spec.name));
            insert_parts(&mut schema);
            let mut rows = Vec::new();
            properties(&schema, "", true, &mut rows);
            rows
        });
        if has_own {
            let told = |row: &Row| row.path.contains('.') || page.contains(&format!("`{}`", row.path));
            let missing = rows.iter().find(|row| !told(row));
            assert!(
                missing.is_none(),
                "the page of {} misses {}",
                spec.name,
                missing.map_or("", |row| &row.path)
            );
        } else if !rows.is_empty() {
            text += &format!("\n## {title}\n\n| option | type | default |\n|---|---|---|\n");
            for Row { path, kind, default } in rows {
                text += &format!("| `{path}` | {} | {} |\n", cell(&kind), cell(&default));
            }
        }
    }
    text
}

/// An option.
struct Row {
    path: String,
    /// Its type and bounds.
    kind: String,
    /// Or that it is required.
    default: String,
}

/// The options of an object, and below each those of the objects in it. `certain`: no branch decides whether it counts.
fn properties(schema: &Value, prefix: &str, certain: bool, rows: &mut Vec<Row>) {
    let required = |name: &str| {
        certain && schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name))
    };
    for (name, option) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        if !option.is_object() || rows.iter().any(|row| row.path == path) {
            continue;
        }
        let default = match option.get("default") {
            Some(default) => format!("`{default}`"),
            None if required(name) => "required".to_owned(),
            None => String::new(),
        };
        rows.push(Row { path: path.clone(), kind: kind(option), default });
        if !ELSEWHERE.contains(&&**name) {
            below(option, &path, rows);
        }
    }
    for branch in BRANCHES.iter().filter_map(|branch| schema.get(branch)) {
        match branch {
            Value::Array(branches) => {
                branches.iter().for_each(|branch| properties(branch, prefix, false, rows));
            }
            // `dependencies` and `then` alike: schemas, by the option that brings them in or directly
            Value::Object(inner) if branch.get("properties").is_none() => {
                inner.values().for_each(|branch| properties(branch, prefix, false, rows));
            }
            branch => properties(branch, prefix, false, rows),
        }
    }
}

/// The options within an option: of an object, of the items of a list, of either in a choice.
fn below(option: &Value, path: &str, rows: &mut Vec<Row>) {
    properties(option, &format!("{path}."), true, rows);
    if let Some(items) = option.get("items") {
        below(items, &format!("{path}[]"), rows);
    }
}

/// What a value may be: `integer, 200 to 599`, `list of string`, `"a" or "b"`.
fn kind(option: &Value) -> String {
    if let Some(values) = option["enum"].as_array() {
        return values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(choices) = option[choice].as_array().filter(|_| option.get("type").is_none()) {
            let mut kinds: Vec<String> = choices.iter().map(kind).filter(|kind| !kind.is_empty()).collect();
            kinds.dedup();
            return kinds.join(", or ");
        }
    }
    let name = match &option["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => String::new(),
    };
    let name = match &*name {
        "array" => match kind(&option["items"]) {
            items if items.is_empty() => "list".to_owned(),
            items => format!("list of {items}"),
        },
        _ => name,
    };
    [name].into_iter().filter(|name| !name.is_empty()).chain(bounds(option)).collect::<Vec<_>>().join(", ")
}

/// `1 to 5`, `above 0`, `at least 1 long`.
fn bounds(option: &Value) -> Option<String> {
    let range = match (option.get("minimum"), option.get("maximum")) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}")),
        (Some(least), None) => Some(format!("{least} or more")),
        (None, Some(most)) => Some(format!("at most {most}")),
        (None, None) => None,
    };
    range.or_else(|| Some(format!("above {}", option.get("exclusiveMinimum")?)))
}

/// Text that does not end the cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[test]
fn options_are_found_wherever_a_schema_has_them() {
    let schema = serde_json::json!({
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "integer", "minimum": 1},
            "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"enum": ["x", 1]}}}},
            "d": {"oneOf": [{"type": "string"}, {"type": "integer", "exclusiveMinimum": 0}], "default": 5},
        },
        "oneOf": [{"properties": {"e": {"type": ["string", "null"]}}, "required": ["e"]}],
        "dependencies": {"a": {"properties": {"f": {"type": "boolean"}}}},
    });
    let mut rows = Vec::new();
    properties(&schema, "", true, &mut rows);
    let rows: Vec<String> =
        rows.iter().map(|row| format!("{}|{}|{}", row.path, row.kind, row.default)).collect();
    assert_eq!(
        rows,
        [
            "a|integer, 1 or more|required",
            "b|list of object|",
            "b[].c|`\"x\"`, `1`|",
            "d|string, or integer, above 0|`5`",
            "e|string or null|",
            "f|boolean|",
        ]
    );
}
