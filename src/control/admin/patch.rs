//! PATCH: a merge of objects, or the replacement of one part (apisix/core/table.lua `merge`, `patch`).

use serde_json::{Map, Value};

/// Merges `change` into `object`: members replace members, objects merge, null removes. An array, and an
/// empty object, replaces what was there: Lua cannot tell an empty object from an empty array.
pub fn merge(object: &mut Map<String, Value>, change: Map<String, Value>) {
    for (name, value) in change {
        if value.is_null() {
            object.shift_remove(&name);
            continue;
        }
        match (object.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !old.is_empty() && !new.is_empty() => {
                merge(old, new);
            }
            (_, value) => drop(object.insert(name, value)),
        }
    }
}

/// Replaces the part of `object` at `path` (`upstream/nodes`), making the objects on the way; null removes
/// it. The error is the text of APISIX.
pub fn replace(object: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), String> {
    let path = path.trim_matches('/');
    let (way, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut here = object;
    let mut walked = String::new();
    for step in way.split('/').filter(|step| !step.is_empty()) {
        walked.push('/');
        walked.push_str(step);
        let next = here.entry(step).or_insert_with(|| Value::Object(Map::new()));
        here = next.as_object_mut().ok_or_else(|| format!("invalid sub-path: {walked}"))?;
    }
    match value {
        Value::Null => drop(here.shift_remove(name)),
        value => drop(here.insert(name.to_owned(), value)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn merging() {
        let table = [
            (json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2})),
            (json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": 3}}), json!({"a": {"x": 3, "y": 2}})),
            (json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": null}}), json!({"a": {"y": 2}})),
            (json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": {"x": 1}}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": {"x": 1}}), json!({"a": {}}), json!({"a": {}})),
            (json!({"a": "text"}), json!({"a": {"x": 1}}), json!({"a": {"x": 1}})),
        ];
        for (before, change, after) in table {
            let mut value = object(before.clone());
            merge(&mut value, object(change.clone()));
            assert_eq!(Value::Object(value), after, "{before} patched with {change}");
        }
    }

    #[test]
    fn replacing_a_part() {
        let table = [
            (json!({"a": {"b": 1}}), "a/b", json!(2), Ok(json!({"a": {"b": 2}}))),
            (json!({"a": {"b": {"x": 1}}}), "a/b", json!({"y": 1}), Ok(json!({"a": {"b": {"y": 1}}}))),
            (json!({}), "a/b/c", json!(1), Ok(json!({"a": {"b": {"c": 1}}}))),
            (json!({"a": 1}), "a", json!(null), Ok(json!({}))),
            (json!({"a": {"b": "text"}}), "a/b/c", json!(1), Err("invalid sub-path: /a/b")),
        ];
        for (before, path, value, expected) in table {
            let mut result = object(before.clone());
            let outcome = replace(&mut result, path, value);
            let outcome = outcome.map(|()| Value::Object(result));
            assert_eq!(outcome, expected.map_err(str::to_owned), "{before} at {path}");
        }
    }
}
