//! The version of a plugin configuration: what makes a limiter count anew when it is edited, and only then.

use std::io::Write;

use serde_json::Value;

/// A number that depends on what a configuration says and on nothing else: not where it stands, not the
/// order of its fields (plugin.lua `conf_version`).
pub fn conf_version(conf: &Value) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash_value(conf, &mut hash);
    hash.finalize()
}

fn hash_value(value: &Value, hash: &mut crc32fast::Hasher) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            hash.update(b"{");
            for name in names {
                hash_text(&Value::from(name.as_str()), hash);
                hash_value(&fields[name], hash);
            }
            hash.update(b"}");
        }
        Value::Array(items) => {
            hash.update(b"[");
            items.iter().for_each(|item| hash_value(item, hash));
            hash.update(b"]");
        }
        plain => hash_text(plain, hash),
    }
}

fn hash_text(value: &Value, hash: &mut crc32fast::Hasher) {
    let mut text = Vec::new();
    let _ = write!(text, "{value},"); // a Vec takes all
    hash.update(&text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_what_is_said_alone() {
        let version = |text: &str| conf_version(&serde_json::from_str(text).unwrap());
        let one = version(r#"{"count": 1, "rules": [{"a": "x", "b": "y"}]}"#);
        assert_eq!(one, version(r#"{"rules": [{"b": "y", "a": "x"}], "count": 1}"#));
        for other in [
            r#"{"count": 2, "rules": [{"a": "x", "b": "y"}]}"#,
            r#"{"count": 1, "rules": [{"a": "x"}, {"b": "y"}]}"#,
            r#"{"count": "1", "rules": [{"a": "x", "b": "y"}]}"#,
            r#"{"count": 1, "rules": [{"a": "y", "b": "x"}]}"#,
        ] {
            assert_ne!(one, version(other), "{other}");
        }
    }
}
