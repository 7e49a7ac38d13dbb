//! JSON written as YAML, for clients that ask for it. Strings are always quoted: what they hold never decides
//! their type.

use std::fmt::Write;

use serde_json::Value;

/// A document in block style, without markers around it.
pub fn text(value: &Value) -> String {
    let mut text = String::new();
    block(&mut text, value, 0);
    text
}

fn block(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let _ = write!(text, "{:1$}{2}:", "", depth * 2, Value::from(name.as_str()));
                below(text, value, depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(text, "{:1$}-", "", depth * 2);
                below(text, item, depth);
            }
        }
        // an empty list or object is written as in JSON
        leaf => drop(writeln!(text, "{:1$}{leaf}", "", depth * 2)),
    }
}

fn below(text: &mut String, value: &Value, depth: usize) {
    let is_leaf = match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    };
    if is_leaf {
        let _ = writeln!(text, " {value}");
    } else {
        text.push('\n');
        block(text, value, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_as_the_same() {
        let value = json!({
            "a": [1, "1", {"b": null, "c: d": "x\ny # z"}, [], {}, [true, [2]]], "e": {"f": {"g": "no"}}, "h": 1.5,
        });
        let read = crate::config::yaml::parse(&text(&value)).unwrap().to_json();
        assert_eq!(read, value);
    }
}
