//! Objects that other objects need: neither may one be written that refers to nothing, nor one be deleted
//! that is still referred to. Deletion looks at what the gateway runs with, as APISIX does, once that has
//! caught up with the last write made here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::AdminState;
use crate::control::feed::Model;
use crate::limits;
use crate::model::delta::Object;
use crate::model::{Id, Kind, Plugins, id_text};

/// What `conf` refers to must exist. The error is a 400's text.
pub async fn exist(state: &AdminState, conf: &Value) -> Result<(), String> {
    let fields = [
        ("upstream_id", Kind::Upstream, "upstream", "upstream id"),
        ("service_id", Kind::Service, "service", "service id"),
        ("plugin_config_id", Kind::PluginConfig, "plugin config", "plugin config id"),
        ("group_id", Kind::ConsumerGroup, "consumer group", "consumer group id"),
    ];
    for (field, kind, name, id_name) in fields {
        let Some(id) = conf.get(field).and_then(id_text) else { continue };
        let failed = format!("failed to fetch {name} info by {id_name} [{id}]");
        match state.store.get(&format!("/{}/{id}", kind.directory())).await {
            Err(why) => return Err(format!("{failed}: {why}")),
            Ok(None) => return Err(format!("{failed}, response code: 404")),
            Ok(Some(_)) => {}
        }
    }
    Ok(())
}

/// Why an object may not be deleted.
pub async fn in_use(state: &AdminState, kind: Kind, id: &str) -> Option<String> {
    let written = state.written.load(Ordering::Relaxed);
    let patience = Duration::from_millis(limits::ADMIN_WAIT_MS.min(1_000));
    // A feed that lags only makes this check as weak as APISIX's.
    let _ = tokio::time::timeout(patience, state.feed.reached(written)).await;
    let model = state.feed.model();
    match kind {
        Kind::Upstream => upstream_in_use(&model, id),
        Kind::Service => {
            let user = routes(&model).find(|(_, route)| refers(&route.service_id, id));
            user.map(|(user, _)| directly("service", user))
        }
        Kind::PluginConfig => {
            let user = routes(&model).find(|(_, route)| refers(&route.plugin_config_id, id));
            user.map(|(user, _)| used("plugin config", "route", user))
        }
        Kind::ConsumerGroup => model.of_kind(Kind::Consumer).find_map(|object| match object {
            Object::Consumer(c) if refers(&c.value.group_id, id) => {
                Some(used("consumer group", "consumer", &c.id))
            }
            _ => None,
        }),
        Kind::Proto => proto_in_use(&model, id),
        _ => None,
    }
}

fn routes(model: &Model) -> impl Iterator<Item = (&Id, &crate::model::Route)> {
    model.of_kind(Kind::Route).filter_map(|object| match object {
        Object::Route(route) => Some((&route.id, &route.value)),
        _ => None,
    })
}

fn refers(reference: &Option<Id>, id: &str) -> bool {
    reference.as_deref() == Some(id)
}

fn used(what: &str, by: &str, user: &str) -> String {
    format!("can not delete this {what}, {by} [{user}] is still using it now")
}

fn directly(what: &str, user: &str) -> String {
    format!("can not delete this {what} directly, route [{user}] is still using it now")
}

/// The plugins of an object, its id, and the upstream it names.
fn parts(object: &Object) -> Option<(&Id, &Plugins, &Option<Id>)> {
    const NONE: &Option<Id> = &None;
    Some(match object {
        Object::Route(o) => (&o.id, &o.value.plugins, &o.value.upstream_id),
        Object::Service(o) => (&o.id, &o.value.plugins, &o.value.upstream_id),
        Object::Consumer(o) => (&o.id, &o.value.plugins, NONE),
        Object::ConsumerGroup(o) | Object::GlobalRule(o) | Object::PluginConfig(o) => {
            (&o.id, &o.value.plugins, NONE)
        }
        Object::Upstream(_) | Object::PluginMetadata(_) => return None,
    })
}

fn upstream_in_use(model: &Model, id: &str) -> Option<String> {
    let users = [
        (Kind::Route, "route"),
        (Kind::Service, "service"),
        (Kind::PluginConfig, "plugin_config"),
        (Kind::Consumer, "consumer"),
        (Kind::ConsumerGroup, "consumer_group"),
        (Kind::GlobalRule, "global_rules"),
    ];
    users.into_iter().find_map(|(kind, name)| {
        model.of_kind(kind).filter_map(parts).find_map(|(user, plugins, upstream_id)| {
            if splits_traffic_to(plugins, id) {
                return Some(used("upstream", &format!("plugin in {name}"), user));
            }
            refers(upstream_id, id).then(|| used("upstream", name, user))
        })
    })
}

/// traffic-split is the one plugin that names upstreams.
fn splits_traffic_to(plugins: &Plugins, id: &str) -> bool {
    let rules = plugins.get("traffic-split").and_then(|conf| conf.get("rules")).and_then(Value::as_array);
    let targets = rules.into_iter().flatten().filter_map(|rule| rule.get("weighted_upstreams")?.as_array());
    let mut ids = targets.flatten().filter_map(|target| id_text(target.get("upstream_id")?));
    ids.any(|target| *target == *id)
}

fn proto_in_use(model: &Model, id: &str) -> Option<String> {
    [(Kind::Route, "route"), (Kind::Service, "service")].into_iter().find_map(|(kind, name)| {
        model.of_kind(kind).filter_map(parts).find_map(|(user, plugins, _)| {
            let proto = plugins.get("grpc-transcode")?.get("proto_id").and_then(id_text)?;
            (*proto == *id).then(|| used("proto", name, user))
        })
    })
}
