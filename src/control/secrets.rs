//! References to secrets in configurations (apisix/secret.lua, apisix/core/env.lua): `$env://NAME` is a variable of
//! the environment, `$env://NAME/member` one member of the JSON object in it. They are resolved once, when an object
//! is taken in: the environment of a process does not change. The store, and what the APIs show of it, keep the
//! references.
//!
//! `$secret://MANAGER/ID/KEY` has no manager in this build yet, so it cannot be resolved. What cannot be resolved
//! stays as it is, with an error line; credentials of consumers are left out then.

use serde_json::Value;

use crate::model::schema::is_secret_ref;

const ENV: &str = "$env://";
const SECRET: &str = "$secret://";

/// The environment: a variable's value.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces every reference below `conf`. `owner` names the object in error lines; secrets themselves are never
/// written.
pub fn resolve(conf: &mut Value, owner: &str, env: Environment<'_>) {
    match conf {
        Value::Array(items) => items.iter_mut().for_each(|item| resolve(item, owner, env)),
        Value::Object(members) => {
            for (field, value) in members {
                match value {
                    Value::String(text) if is_secret_ref(text) => match fetch(text, env) {
                        Ok(secret) => *value = secret,
                        Err(why) => log::error!(
                            "failed to resolve secret reference: {text}, field: {field} of {owner}, err: {why}"
                        ),
                    },
                    Value::String(_) => {}
                    deeper => resolve(deeper, owner, env),
                }
            }
        }
        Value::String(text) if is_secret_ref(text) => match fetch(text, env) {
            Ok(secret) => *conf = secret,
            Err(why) => log::error!("failed to resolve secret reference: {text} of {owner}, err: {why}"),
        },
        _ => {}
    }
}

fn fetch(reference: &str, env: Environment<'_>) -> Result<Value, String> {
    let is_env = reference.get(..ENV.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(ENV));
    if !is_env {
        return Err(missing_manager(reference));
    }
    let path = &reference[ENV.len()..];
    let (name, member) = path.split_once('/').unwrap_or((path, ""));
    let value = env(name).ok_or("no value")?;
    if member.is_empty() {
        return Ok(Value::String(value));
    }
    let object: Value = serde_json::from_str(&value).map_err(|_| format!("{name} holds no JSON"))?;
    object.get(member).filter(|value| !value.is_null()).cloned().ok_or_else(|| "no value".to_owned())
}

fn missing_manager(reference: &str) -> String {
    let mut steps = reference.get(SECRET.len()..).unwrap_or_default().splitn(3, '/');
    match (steps.next(), steps.next(), steps.next()) {
        (_, None, _) => "error format: no secret manager".into(),
        (_, _, None) => "error format: no secret conf id".into(),
        (_, _, Some("")) => "error format: no secret key id".into(),
        (manager, ..) => format!("no secret manager: {}", manager.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "KEY" => Some("s3cret".into()),
            "ALL" => Some(r#"{"key": "inner", "port": 80}"#.into()),
            _ => None,
        }
    }

    #[test]
    fn references_are_replaced_at_any_depth() {
        let mut conf = json!({
            "a": "$env://KEY", "b": ["$ENV://KEY", {"c": "$env://ALL/key"}], "port": "$env://ALL/port",
            "plain": "$KEY", "n": 1,
        });
        resolve(&mut conf, "route 1", &env);
        let expected =
            json!({"a": "s3cret", "b": ["s3cret", {"c": "inner"}], "port": 80, "plain": "$KEY", "n": 1});
        assert_eq!(conf, expected);
    }

    #[test]
    fn what_cannot_be_resolved_stays() {
        for reference in
            ["$env://NONE", "$env://KEY/x", "$env://ALL/none", "$secret://vault/1/a/b", "$secret://x"]
        {
            let mut conf = json!({"key": reference});
            resolve(&mut conf, "route 1", &env);
            assert_eq!(conf["key"], reference);
            assert!(fetch(reference, &env).is_err_and(|why| !why.contains("s3cret")));
        }
        assert_eq!(fetch("$secret://vault/1", &env), Err("error format: no secret conf id".into()));
        assert_eq!(fetch("$secret://vault/1/k", &env), Err("no secret manager: vault".into()));
    }
}
