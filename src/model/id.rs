//! What kinds of object there are, how they are called and what their ids look like.

use std::sync::Arc;

use serde_json::Value;

use super::schema::number_text;

/// An object's id: always text (`1` and `"1"` are the same id). A credential's is
/// `{consumer}/credentials/{credential}`, a secret's `{manager}/{id}`: what follows the directory in its key.
pub type Id = Arc<str>;

/// An id as written in an object: a string, or a number as Lua prints it.
pub fn id_text(id: &Value) -> Option<Id> {
    match id {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => number.as_f64().map(|number| number_text(number).into()),
        _ => None,
    }
}

/// The kinds of object, named as their etcd directory and Admin API resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// `/routes`
    Route,
    /// `/services`
    Service,
    /// `/upstreams`
    Upstream,
    /// `/consumers`
    Consumer,
    /// `/consumers/{consumer}/credentials`
    Credential,
    /// `/consumer_groups`
    ConsumerGroup,
    /// `/global_rules`
    GlobalRule,
    /// `/plugin_configs`
    PluginConfig,
    /// `/plugin_metadata`
    PluginMetadata,
    /// `/ssls`
    Ssl,
    /// `/protos`
    Proto,
    /// `/stream_routes`
    StreamRoute,
    /// `/secrets`
    Secret,
    /// `/services/{service}/graphql_cost_decorations`
    CostDecoration,
    /// `/plugins`: one key, the list of enabled plugins
    PluginList,
}

impl Kind {
    /// All kinds, in the order in which a whole configuration is read: what is referred to comes first.
    pub const ALL: [Kind; 15] = [
        Kind::PluginList,
        Kind::PluginMetadata,
        Kind::Secret,
        Kind::Ssl,
        Kind::Proto,
        Kind::Upstream,
        Kind::Service,
        Kind::CostDecoration,
        Kind::PluginConfig,
        Kind::ConsumerGroup,
        Kind::Consumer,
        Kind::Credential,
        Kind::GlobalRule,
        Kind::Route,
        Kind::StreamRoute,
    ];

    /// Lives below an object of another kind: a credential below its consumer, a decoration below its service.
    pub fn is_nested(self) -> bool {
        matches!(self, Kind::Credential | Kind::CostDecoration)
    }

    /// Directory below the etcd prefix, Admin API resource and key in apisix.yaml; that of the other kind if
    /// this one [is nested](Kind::is_nested).
    pub fn directory(self) -> &'static str {
        match self {
            Kind::Route => "routes",
            Kind::Service | Kind::CostDecoration => "services",
            Kind::Upstream => "upstreams",
            Kind::Consumer | Kind::Credential => "consumers",
            Kind::ConsumerGroup => "consumer_groups",
            Kind::GlobalRule => "global_rules",
            Kind::PluginConfig => "plugin_configs",
            Kind::PluginMetadata => "plugin_metadata",
            Kind::Ssl => "ssls",
            Kind::Proto => "protos",
            Kind::StreamRoute => "stream_routes",
            Kind::Secret => "secrets",
            Kind::PluginList => "plugins",
        }
    }

    /// The kind of the objects right below a directory (`consumers` gives [`Kind::Consumer`]).
    pub fn of_directory(directory: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| !kind.is_nested() && kind.directory() == directory)
    }

    /// The kind and id of a key below the prefix, without a leading slash: `routes/1`,
    /// `consumers/jack/credentials/a`, `secrets/vault/1`, `plugins`. `None` for a bare directory and for what
    /// is no object of ours.
    pub fn of_key(key: &str) -> Option<(Kind, &str)> {
        if key == Kind::PluginList.directory() {
            return Some((Kind::PluginList, ""));
        }
        let (directory, id) = key.split_once('/')?;
        let kind = Kind::of_directory(directory)?;
        let mut steps = id.split('/');
        match (kind, steps.next(), steps.next(), steps.next(), steps.next()) {
            (_, Some(""), ..) | (Kind::PluginList, ..) => None,
            (Kind::Consumer, Some(_), Some("credentials"), Some(credential), None)
                if !credential.is_empty() =>
            {
                Some((Kind::Credential, id))
            }
            (Kind::Service, Some(_), Some("graphql_cost_decorations"), Some(decoration), None)
                if !decoration.is_empty() =>
            {
                Some((Kind::CostDecoration, id))
            }
            (Kind::Secret, Some(_), Some(name), None, None) if !name.is_empty() => Some((kind, id)),
            (Kind::Secret, ..) => None,
            (_, Some(_), None, ..) => Some((kind, id)),
            _ => None,
        }
    }

    /// The name in `/apisix/admin/schema/{name}` and in apisix/schema_def.lua.
    pub fn schema_name(self) -> &'static str {
        match self {
            Kind::Route => "route",
            Kind::Service => "service",
            Kind::Upstream => "upstream",
            Kind::Consumer => "consumer",
            Kind::Credential => "credential",
            Kind::ConsumerGroup => "consumer_group",
            Kind::GlobalRule => "global_rule",
            Kind::PluginConfig => "plugin_config",
            Kind::PluginMetadata => "plugin_metadata",
            Kind::Ssl => "ssl",
            Kind::Proto => "proto",
            Kind::StreamRoute => "stream_route",
            Kind::Secret => "secret",
            Kind::CostDecoration => "graphql_cost_decoration",
            Kind::PluginList => "plugins",
        }
    }

    /// What error texts call it: with a blank where the schema's name has an underscore, except for
    /// `plugin_metadata` (the `kind` of apisix/admin/*.lua).
    pub fn title(self) -> &'static str {
        match self {
            Kind::ConsumerGroup => "consumer group",
            Kind::CostDecoration => "graphql cost decoration",
            Kind::GlobalRule => "global rule",
            Kind::PluginConfig => "plugin config",
            Kind::StreamRoute => "stream route",
            other => other.schema_name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_text() {
        assert_eq!(id_text(&json!(1)).as_deref(), Some("1"));
        assert_eq!(id_text(&json!("a.b")).as_deref(), Some("a.b"));
        assert_eq!(id_text(&json!(null)), None);
    }

    #[test]
    fn keys_tell_kind_and_id() {
        assert_eq!(Kind::of_key("routes/1"), Some((Kind::Route, "1")));
        assert_eq!(Kind::of_key("consumers/jack"), Some((Kind::Consumer, "jack")));
        let credential = Some((Kind::Credential, "jack/credentials/a"));
        assert_eq!(Kind::of_key("consumers/jack/credentials/a"), credential);
        let decoration = Some((Kind::CostDecoration, "s/graphql_cost_decorations/d"));
        assert_eq!(Kind::of_key("services/s/graphql_cost_decorations/d"), decoration);
        assert_eq!(Kind::of_key("secrets/vault/1"), Some((Kind::Secret, "vault/1")));
        assert_eq!(Kind::of_key("plugins"), Some((Kind::PluginList, "")));
        let none = ["routes", "routes/", "routes/a/b", "plugins/", "secrets/vault", "services/1/x/y", "x/1"];
        for key in none.into_iter().chain(["consumers/jack/credentials/", "data_plane/server_info/u"]) {
            assert_eq!(Kind::of_key(key), None, "{key}");
        }
    }

    #[test]
    fn every_kind_has_its_directory() {
        assert!(
            Kind::ALL
                .into_iter()
                .filter(|kind| !kind.is_nested())
                .all(|kind| { Kind::of_directory(kind.directory()) == Some(kind) })
        );
    }
}
