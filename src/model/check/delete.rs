//! What may not be deleted because something refers to it (`delete_checker` of apisix/admin/*.lua).

use serde_json::Value;

use super::Lookups;
use crate::model::id::{Kind, id_text};

/// Refuses with the text of a 400 where a stored object refers to this one. `?force=true` skips it.
pub fn check_delete(kind: Kind, id: &str, lookups: &dyn Lookups) -> Result<(), String> {
    let refers = |member: &'static str| {
        move |value: &Value| value.get(member).and_then(id_text).as_deref() == Some(id)
    };
    let found = |within: Kind, refers: &dyn Fn(&Value) -> bool| {
        let mut holder = None;
        lookups.each(within, &mut |of, value| {
            if holder.is_none() && refers(value) {
                holder = Some(of.to_owned());
            }
        });
        holder
    };
    let using = |what: &str, holder: &str, of: &str| {
        Err(format!("can not delete this {what} {holder} [{of}] is still using it now"))
    };
    match kind {
        Kind::Upstream => upstream(id, lookups),
        Kind::Service => {
            for (within, holder) in [(Kind::Route, "route"), (Kind::StreamRoute, "stream_route")] {
                if let Some(of) = found(within, &refers("service_id")) {
                    return using("service directly,", holder, &of);
                }
            }
            Ok(())
        }
        Kind::PluginConfig => match found(Kind::Route, &refers("plugin_config_id")) {
            Some(of) => using("plugin config,", "route", &of),
            None => Ok(()),
        },
        Kind::ConsumerGroup => match found(Kind::Consumer, &refers("group_id")) {
            Some(of) => using("consumer group,", "consumer", &of),
            None => Ok(()),
        },
        Kind::Proto => {
            let uses = |value: &Value| {
                let proto = value.pointer("/plugins/grpc-transcode/proto_id").and_then(id_text);
                proto.as_deref() == Some(id)
            };
            for (within, holder) in [(Kind::Route, "route"), (Kind::Service, "service")] {
                if let Some(of) = found(within, &uses) {
                    return using("proto,", holder, &of);
                }
            }
            Ok(())
        }
        Kind::StreamRoute => {
            let hangs_on = |value: &Value| {
                value.pointer("/protocol/superior_id").and_then(id_text).as_deref() == Some(id)
            };
            match found(Kind::StreamRoute, &hangs_on) {
                Some(of) => Err(format!(
                    "can not delete this stream route directly, stream route [{of}] is still using it as superior_id"
                )),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// An upstream is referred to by `upstream_id` and from traffic-split, wherever plugins are.
fn upstream(id: &str, lookups: &dyn Lookups) -> Result<(), String> {
    let holders = [
        (Kind::Route, "route", true),
        (Kind::Service, "service", true),
        (Kind::PluginConfig, "plugin_config", false),
        (Kind::Consumer, "consumer", false),
        (Kind::ConsumerGroup, "consumer_group", false),
        (Kind::GlobalRule, "global_rules", false),
    ];
    for (kind, holder, has_upstream) in holders {
        let mut outcome = Ok(());
        lookups.each(kind, &mut |of, value| {
            if outcome.is_err() {
                return;
            }
            if is_in_traffic_split(value, id) {
                outcome = Err(format!(
                    "can not delete this upstream, plugin in {holder} [{of}] is still using it now"
                ));
            } else if has_upstream && value.get("upstream_id").and_then(id_text).as_deref() == Some(id) {
                outcome = Err(format!("can not delete this upstream, {holder} [{of}] is still using it now"));
            }
        });
        outcome?;
    }
    Ok(())
}

fn is_in_traffic_split(value: &Value, id: &str) -> bool {
    let list =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(split) = value.pointer("/plugins/traffic-split") else { return false };
    list(split, "rules")
        .iter()
        .flat_map(|rule| list(rule, "weighted_upstreams"))
        .any(|upstream| upstream.get("upstream_id").and_then(id_text).as_deref() == Some(id))
}
