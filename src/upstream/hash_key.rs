//! What a consistent hash is taken over (apisix/balancer/chash.lua, `fetch_chash_hash_key`).

use std::borrow::Cow;

use crate::exchange::Vars;
use crate::model::{HashOn, Upstream};

/// Where the key of a `chash` upstream comes from, compiled once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// One variable: `vars`, `header`, `cookie` and `consumer` all come down to that.
    Var(Box<str>),
    /// `vars_combinations`: text with variables in it.
    Template(Box<[Part]>),
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Plain text.
    Text(Box<str>),
    /// `$name`, `${name}` or `${name ?? default}`.
    Var {
        /// The variable.
        name: Box<str>,
        /// What stands for it where it has no value.
        default: Option<Box<str>>,
    },
}

impl HashKey {
    /// Compiles `hash_on` and `key` of an upstream.
    pub fn new(upstream: &Upstream) -> HashKey {
        let key = upstream.key.as_deref().unwrap_or_default();
        match upstream.hash_on {
            HashOn::Vars => HashKey::Var(key.into()),
            HashOn::Header => {
                HashKey::Var(format!("http_{}", key.to_ascii_lowercase().replace('-', "_")).into())
            }
            HashOn::Cookie => HashKey::Var(format!("cookie_{key}").into()),
            HashOn::Consumer => HashKey::Var("consumer_name".into()),
            HashOn::VarsCombinations => HashKey::Template(parse(key)),
        }
    }

    /// The bytes to hash. Where the variable has no value, or none of a template's has, it is the client's
    /// address.
    pub fn resolve<'a>(&self, vars: &'a dyn Vars) -> Cow<'a, [u8]> {
        let found = match self {
            HashKey::Var(name) => vars.var(name),
            HashKey::Template(parts) => combine(parts, vars).map(Cow::Owned),
        };
        found.or_else(|| vars.var("remote_addr")).unwrap_or_default()
    }
}

/// The template's text, or `None` if none of its variables had a value or default.
fn combine(parts: &[Part], vars: &dyn Vars) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let mut resolved = false;
    for part in parts {
        match part {
            Part::Text(plain) => text.extend_from_slice(plain.as_bytes()),
            Part::Var { name, default } => {
                let value = vars.var(name);
                let value = value.as_deref().or(default.as_deref().map(str::as_bytes));
                resolved |= value.is_some();
                text.extend_from_slice(value.unwrap_or_default());
            }
        }
    }
    resolved.then_some(text)
}

/// Splits a template as `resolve_var` of apisix/core/utils.lua does: a `$` behind a backslash is plain, and
/// so is one that no name follows.
fn parse(template: &str) -> Box<[Part]> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        let (before, dollar) = rest.split_at(at);
        text.push_str(before);
        match variable(&dollar[1..]).filter(|_| !text.ends_with('\\')) {
            Some((var, len)) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text).into()));
                }
                parts.push(var);
                rest = &dollar[1 + len..];
            }
            None => {
                text.push('$');
                rest = &dollar[1..];
            }
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    parts.into()
}

/// The variable at the start of `text` (behind its `$`) and how many bytes it takes.
fn variable(text: &str) -> Option<(Part, usize)> {
    if let Some(inner) = text.strip_prefix('{') {
        let end = inner.find('}').filter(|&end| end > 0)?;
        let mut words = inner[..end].split("??").map(str::trim);
        let name = words.next()?.into();
        return Some((Part::Var { name, default: words.next().map(Into::into) }, end + 2));
    }
    let in_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    let len = text.bytes().take_while(|b| in_name(b)).count();
    (len > 0).then(|| (Part::Var { name: text[..len].into(), default: None }, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table(&'static [(&'static str, &'static str)]);

    impl Vars for Table {
        fn var(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| Cow::Borrowed(v.as_bytes()))
        }
    }

    fn resolve(hash_on: HashOn, key: &str) -> String {
        let vars = Table(&[
            ("remote_addr", "192.0.2.1"),
            ("uri", "/a"),
            ("http_x_sid", "s1"),
            ("cookie_Sid", "c1"),
            ("consumer_name", "jack"),
        ]);
        let upstream = Upstream { hash_on, key: Some(key.into()), ..Upstream::default() };
        String::from_utf8(HashKey::new(&upstream).resolve(&vars).into_owned()).unwrap()
    }

    #[test]
    fn each_kind_finds_its_value_or_the_clients_address() {
        for (hash_on, key, value) in [
            (HashOn::Vars, "uri", "/a"),
            (HashOn::Vars, "arg_none", "192.0.2.1"),
            (HashOn::Header, "X-Sid", "s1"),
            (HashOn::Header, "X-None", "192.0.2.1"),
            (HashOn::Cookie, "Sid", "c1"),
            (HashOn::Consumer, "", "jack"),
            (HashOn::VarsCombinations, "$uri-${ http_x_sid }", "/a-s1"),
            (HashOn::VarsCombinations, "$uri$arg_none", "/a"),
            (HashOn::VarsCombinations, "$arg_none.", "192.0.2.1"),
            (HashOn::VarsCombinations, "${arg_none ?? none}", "none"),
            (HashOn::VarsCombinations, "plain", "192.0.2.1"),
            (HashOn::VarsCombinations, r"\$uri $uri $", r"\$uri /a $"),
        ] {
            assert_eq!(resolve(hash_on, key), value, "{hash_on:?} {key}");
        }
    }
}
