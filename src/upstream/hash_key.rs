//! What a consistent hash is taken over (apisix/balancer/chash.lua, `fetch_chash_hash_key`).

use std::borrow::Cow;

use crate::exchange::Vars;
use crate::expr::Template;
use crate::model::{HashOn, Upstream};

/// Where the key of a `chash` upstream comes from, compiled once.
#[derive(Clone, Debug, PartialEq)]
pub enum HashKey {
    /// One variable: `vars`, `header`, `cookie` and `consumer` all come down to that.
    Var(Box<str>),
    /// `vars_combinations`: text with variables in it.
    Template(Template),
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
            HashOn::VarsCombinations => HashKey::Template(Template::compile(key)),
        }
    }

    /// The bytes to hash. Where the variable has no value, or none of a template's has, it is the client's
    /// address.
    pub fn resolve<'a>(&self, vars: &'a dyn Vars) -> Cow<'a, [u8]> {
        let found = match self {
            HashKey::Var(name) => vars.var(name),
            HashKey::Template(template) => {
                let mut text = Vec::new();
                (template.render(vars, &mut text) > 0).then_some(Cow::Owned(text))
            }
        };
        found.or_else(|| vars.var("remote_addr")).unwrap_or_default()
    }
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
