//! The user's tree checked and laid over the defaults, as apisix/cli/file.lua does it.

use super::options::{self, Kind, Use};
use super::yaml::{Data, Node};

/// What the check of a user's tree found; each with the line it stands in.
#[derive(Debug, Default)]
pub struct Findings {
    /// Known options of a wrong type: these stop the start. The texts are APISIX's.
    pub errors: Vec<(u32, String)>,
    /// Options that nobody knows.
    pub unknown: Vec<(u32, String)>,
    /// Options without a meaning in ringway.
    pub inert: Vec<(u32, String)>,
    /// Options of parts that ringway has not yet.
    pub later: Vec<(u32, String)>,
}

/// Compares the user's tree with the table of known options.
pub fn check(user: &Node) -> Findings {
    let mut found = Findings::default();
    visit(user, "", "", &mut found);
    found
}

/// `path` names the option as the table does (`a.b[]`), `shown` as the user sees it (`a.b[2]`).
fn visit(node: &Node, path: &str, shown: &str, found: &mut Findings) {
    match &node.data {
        Data::Map(entries) => {
            for (key, value) in entries {
                let dot = if path.is_empty() { "" } else { "." };
                option(value, &format!("{path}{dot}{key}"), &format!("{shown}{dot}{key}"), found);
            }
        }
        Data::List(items) => {
            for (i, item) in items.iter().enumerate() {
                option(item, &format!("{path}[]"), &format!("{shown}[{}]", i + 1), found);
            }
        }
        _ => {}
    }
}

fn option(node: &Node, path: &str, shown: &str, found: &mut Findings) {
    let Some(known) = options::find(path) else {
        found.unknown.push((node.line, shown.to_owned()));
        return;
    };
    if !known.kind.accepts(node) {
        found.errors.push((
            node.line,
            format!(
                "failed to merge, path[{}] expect: {}, but got: {}",
                shown.replace('.', "->"),
                known.kind.expected(),
                node.lua_type()
            ),
        ));
        return;
    }
    if node.data == Data::Null {
        return;
    }
    match known.used {
        Use::Here if known.kind == Kind::Free => {}
        Use::Here => visit(node, path, shown, found),
        Use::Inert => found.inert.push((node.line, shown.to_owned())),
        Use::Later => found.later.push((node.line, shown.to_owned())),
    }
}

/// Lays `user` over `base`: maps merge, everything else replaces, null removes.
pub fn overlay(base: &mut Node, user: Node) {
    let line = user.line;
    match (&mut base.data, user.data) {
        (Data::Map(_), Data::Map(entries)) => {
            base.line = line;
            for (key, value) in entries {
                if value.data == Data::Null {
                    base.remove(&key);
                } else if let Some(old) = base.get_mut(&key) {
                    overlay(old, value);
                } else {
                    let mut fresh = value;
                    drop_nulls(&mut fresh);
                    base.set(&key, fresh);
                }
            }
        }
        (_, data) => {
            *base = Node { line, at: user.at, data };
            drop_nulls(base);
        }
    }
}

/// Removes null entries of maps: they mean "not there". Nulls inside lists stay.
fn drop_nulls(node: &mut Node) {
    match &mut node.data {
        Data::Map(entries) => {
            entries.retain(|(_, v)| v.data != Data::Null);
            entries.iter_mut().for_each(|(_, v)| drop_nulls(v));
        }
        Data::List(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml::parse;

    #[test]
    fn maps_merge_lists_replace_null_removes() {
        let mut base = parse("a: {x: 1, y: 2}\nl: [1, 2]\ngone: 1\nm: {k: 1}\n").unwrap();
        overlay(&mut base, parse("a: {y: 3, z: {n: ~, v: 1}}\nl: [9]\ngone: ~\nm: []\nnew: 1\n").unwrap());
        assert_eq!(
            base.to_json(),
            serde_json::json!({"a": {"x": 1, "y": 3, "z": {"v": 1}}, "l": [9], "m": [], "new": 1})
        );
    }

    #[test]
    fn wrong_types_have_the_texts_of_apisix() {
        for (text, want) in [
            ("apisix:\n  node_listen: xxxx\n", "path[apisix->node_listen] expect: table, but got: string"),
            (
                "deployment:\n  admin:\n    admin_key_required: \"false\"\n",
                "path[deployment->admin->admin_key_required] expect: boolean, but got: string",
            ),
            (
                "nginx_config:\n  http:\n    send_timeout: true\n",
                "path[nginx_config->http->send_timeout] expect: string, but got: boolean",
            ),
            ("plugins: x\n", "path[plugins] expect: table, but got: string"),
        ] {
            let found = check(&parse(text).unwrap());
            let lines = text.lines().count() as u32;
            assert_eq!(found.errors, vec![(lines, format!("failed to merge, {want}"))], "{text}");
        }
        for fine in [
            "apisix:\n  node_listen: 80\n",
            "nginx_config:\n  error_log: 5\n",
            "nginx_config:\n  http:\n    enable_access_log: 'false'\n",
            "apisix:\n  data_encryption:\n    keyring: qeddd145sfvddff3\n",
            "deployment:\n  etcd:\n    host: http://foo:2379\n",
            "apisix:\n  ssl: ~\n",
        ] {
            assert_eq!(check(&parse(fine).unwrap()).errors, vec![], "{fine}");
        }
    }

    #[test]
    fn unknown_inert_and_later_options_are_told_apart() {
        let text = "apisix:\n  nope: 1\n  extra_lua_path: /x\n  node_listen:\n  - port: 1\n    prot: 2\n\
                    wasm: {plugins: []}\nplugin_attr: {any: {thing: 1}}\n";
        let found = check(&parse(text).unwrap());
        assert_eq!(
            found.unknown,
            vec![(2, "apisix.nope".to_owned()), (6, "apisix.node_listen[1].prot".to_owned())]
        );
        assert_eq!(found.inert, vec![(3, "apisix.extra_lua_path".to_owned())]);
        assert_eq!(found.later, vec![(7, "wasm".to_owned())]);
        assert!(found.errors.is_empty());
    }

    #[test]
    fn the_defaults_are_known_options_of_the_right_types() {
        let found = check(&parse(super::super::DEFAULTS).unwrap());
        assert!(found.errors.is_empty() && found.unknown.is_empty(), "{found:?}");
    }
}
