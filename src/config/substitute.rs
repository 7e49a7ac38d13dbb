//! `${{NAME}}` and `${{NAME:=default}}` replaced from the environment (apisix/cli/file.lua).

use super::yaml::{Data, Node};

/// Where variables come from: `std::env::var` in the program, a table in tests.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The text with every reference replaced, and whether there was one. The error is APISIX's text.
pub fn text(input: &str, env: Environment<'_>) -> Result<(String, bool), String> {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    let mut used = false;
    while let Some(start) = rest.find("${{") {
        let Some((reference, after)) = reference(&rest[start + 3..]) else {
            out.push_str(&rest[..start + 3]);
            rest = &rest[start + 3..];
            continue;
        };
        out.push_str(&rest[..start]);
        let (name, default) = match reference.split_once(":=") {
            Some((name, default)) => (name, Some(default.trim())),
            None => (reference, None),
        };
        match env(name).or_else(|| default.map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None => {
                return Err(format!(
                    "failed to handle configuration: can't find environment variable {name}"
                ));
            }
        }
        used = true;
        rest = after;
    }
    out.push_str(rest);
    Ok((out, used))
}

/// Splits ` NAME:=x }} tail` into what stands between the braces and the tail; `None` if this is no
/// reference (APISIX's pattern wants a name first and `}}` later).
fn reference(text: &str) -> Option<(&str, &str)> {
    let body = text.trim_start();
    if !body.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    let end = body.find("}}")?;
    Some((body[..end].trim_end(), &body[end + 2..]))
}

/// Replaces references in all strings and keys below `node`. A value that had a reference becomes a
/// number or boolean when it looks like one. The error names the line.
pub fn tree(node: &mut Node, env: Environment<'_>) -> Result<(), (u32, String)> {
    let line = node.line;
    match &mut node.data {
        Data::Str(value) => {
            let (new, used) = text(value, env).map_err(|e| (line, e))?;
            if used {
                node.data = typed(new);
            }
        }
        Data::List(items) => {
            for item in items {
                tree(item, env)?;
            }
        }
        Data::Map(entries) => {
            for (key, value) in entries.iter_mut() {
                tree(value, env)?;
                let (new, used) = text(key, env).map_err(|e| (value.line, e))?;
                if used {
                    *key = new;
                }
            }
        }
        Data::Null | Data::Bool(_) | Data::Int(_) | Data::Float(_) => {}
    }
    Ok(())
}

/// What a substituted text is: Lua's `tonumber`, then `true` and `false`.
fn typed(text: String) -> Data {
    let trimmed = text.trim();
    if let Ok(n) = trimmed.parse::<i64>() {
        return Data::Int(n);
    }
    let numeric = trimmed.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '.'));
    if numeric && let Ok(n) = trimmed.parse::<f64>() {
        return Data::Float(n);
    }
    match text.as_str() {
        "true" => Data::Bool(true),
        "false" => Data::Bool(false),
        _ => Data::Str(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn env(name: &str) -> Option<String> {
        Some(match name {
            "PORT" => "8000".into(),
            "HOST" => "etcd1".into(),
            "YES" => "true".into(),
            "EMPTY" => String::new(),
            "SOME_VALUE" => "short".into(),
            "SOME_VALUE_BUT_DIFFERENT" => "long".into(),
            _ => return None,
        })
    }

    #[test]
    fn references_in_text() {
        for (input, want) in [
            ("http://${{HOST}}:2379", "http://etcd1:2379"),
            ("${{ HOST }}", "etcd1"),
            ("${{NONE:=a b}}", "a b"),
            ("${{NONE:= x }}", "x"),
            ("${{HOST:=x}}-${{PORT}}", "etcd1-8000"),
            // t/cli/cli_envsubst_confusion.t: a name that begins like another one
            ("${{SOME_VALUE_BUT_DIFFERENT}} ${{SOME_VALUE}}", "long short"),
            ("${{EMPTY:=x}}", ""),
            ("${{NONE:=}}", ""),
            ("$host ${x} ${{", "$host ${x} ${{"),
            ("${{-x}}", "${{-x}}"),
        ] {
            assert_eq!(text(input, &env).unwrap().0, want, "{input}");
        }
        assert_eq!(
            text("${{NOPE}}", &env).unwrap_err(),
            "failed to handle configuration: can't find environment variable NOPE"
        );
    }

    #[test]
    fn values_take_types_and_keys_are_replaced() {
        let mut tree_ = yaml::parse(
            "a: ${{PORT}}\nb: x${{PORT}}\nc: ${{YES}}\n${{HOST}}_x: [\"${{PORT}}\"]\nd: '8000'\n",
        )
        .unwrap();
        tree(&mut tree_, &env).unwrap();
        assert_eq!(
            tree_.to_json(),
            serde_json::json!({"a": 8000, "b": "x8000", "c": true, "etcd1_x": [8000], "d": "8000"})
        );
        let mut missing = yaml::parse("a: 1\nb:\n  c: ${{NOPE}}\n").unwrap();
        assert_eq!(tree(&mut missing, &env).unwrap_err().0, 3);
    }
}
