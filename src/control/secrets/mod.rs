//! References to secrets in configurations (apisix/secret.lua, apisix/core/env.lua): `$env://NAME` is a variable of
//! the environment, `$env://NAME/member` one member of the JSON object in it; `$secret://MANAGER/ID/KEY` is a key of
//! the secret manager that the object `/secrets/MANAGER/ID` describes ([`managers`]). The store, and what the APIs
//! show of it, keep the references.
//!
//! They are resolved when an object is taken in: the environment of a process does not change, and an object whose
//! manager says something new is taken in again. What cannot be resolved stays as it is, with an error line;
//! credentials of consumers are left out then.

mod aws;
mod gcp;
pub mod managers;
mod vault;

use serde_json::Value;

use self::managers::Managers;
use crate::model::schema::is_secret_ref;

const ENV: &str = "$env://";
const SECRET: &str = "$secret://";

/// The environment: a variable's value.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Resolves the references of one object.
pub struct Resolver<'a> {
    /// The object, in error lines; secrets themselves are never written.
    pub owner: &'a str,
    /// What `$env://` means.
    pub env: Environment<'a>,
    /// What `$secret://` means.
    pub managers: &'a Managers,
    /// The `$secret://` references that were met.
    pub met: Vec<Box<str>>,
}

impl Resolver<'_> {
    /// Replaces every reference below `conf`.
    pub fn resolve(&mut self, conf: &mut Value) {
        match conf {
            Value::Array(items) => items.iter_mut().for_each(|item| self.resolve(item)),
            Value::Object(members) => {
                for (field, value) in members {
                    match value {
                        Value::String(_) => self.replace(value, Some(field)),
                        deeper => self.resolve(deeper),
                    }
                }
            }
            Value::String(_) => self.replace(conf, None),
            _ => {}
        }
    }

    fn replace(&mut self, value: &mut Value, field: Option<&str>) {
        let Some(text) = value.as_str().filter(|text| is_secret_ref(text)) else { return };
        let outcome = match strip(text, ENV) {
            Some(path) => from_env(path, self.env),
            None => {
                self.met.push(text.into());
                match self.managers.look_up(text) {
                    Some(outcome) => outcome,
                    None => return, // asked now; the object comes again with the answer
                }
            }
        };
        match outcome {
            Ok(secret) => *value = secret,
            Err(why) => {
                let field = field.map_or_else(String::new, |field| format!(", field: {field}"));
                log::error!(
                    "failed to resolve secret reference: {text}{field} of {}, err: {why}",
                    self.owner
                );
            }
        }
    }
}

/// What follows a scheme, whose letters may be of either case.
fn strip<'a>(reference: &'a str, scheme: &str) -> Option<&'a str> {
    let head = reference.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then(|| &reference[scheme.len()..])
}

fn from_env(path: &str, env: Environment<'_>) -> Result<Value, String> {
    let (name, member) = path.split_once('/').unwrap_or((path, ""));
    let value = env(name).ok_or("no value")?;
    if member.is_empty() {
        return Ok(Value::String(value));
    }
    let object: Value = serde_json::from_str(&value).map_err(|_| format!("{name} holds no JSON"))?;
    object.get(member).filter(|value| !value.is_null()).cloned().ok_or_else(|| "no value".to_owned())
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

    fn resolve(conf: &mut Value) -> Vec<Box<str>> {
        let managers = Managers::default();
        let mut resolver = Resolver { owner: "route 1", env: &env, managers: &managers, met: Vec::new() };
        resolver.resolve(conf);
        resolver.met
    }

    #[test]
    fn references_are_replaced_at_any_depth() {
        let mut conf = json!({
            "a": "$env://KEY", "b": ["$ENV://KEY", {"c": "$env://ALL/key"}], "port": "$env://ALL/port",
            "plain": "$KEY", "n": 1,
        });
        resolve(&mut conf);
        let expected =
            json!({"a": "s3cret", "b": ["s3cret", {"c": "inner"}], "port": 80, "plain": "$KEY", "n": 1});
        assert_eq!(conf, expected);
    }

    #[test]
    fn what_cannot_be_resolved_stays() {
        for reference in ["$env://NONE", "$env://KEY/x", "$env://ALL/none", "$secret://x"] {
            let mut conf = json!({"key": reference});
            resolve(&mut conf);
            assert_eq!(conf["key"], reference);
        }
        let mut conf = json!({"key": "$secret://vault/1/a/b", "list": ["$secret://vault/2/c/d"]});
        let met = resolve(&mut conf);
        assert_eq!(conf["key"], "$secret://vault/1/a/b");
        assert_eq!(met, ["$secret://vault/1/a/b".into(), "$secret://vault/2/c/d".into()]);
        assert!(from_env("KEY/x", &env).is_err_and(|why| !why.contains("s3cret")));
    }
}
