//! `multi-auth`: a request may authenticate in one of several ways (apisix/plugins/multi-auth.lua).
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "multi-auth": {
//!       "auth_plugins": [
//!         { "basic-auth": {} },
//!         { "key-auth": { "header": "apikey", "hide_credentials": true } },
//!         { "jwt-auth": {} }
//!       ]
//!     }
//!   }
//! }
//! ```
//!
//! The plugins are asked in the order of the list; the first that knows the client ends it. If none does, the
//! answer is 401 with the last one's `WWW-Authenticate`, and the log says why each refused.
//!
//! Phases: rewrite.
//!
//! Known differences:
//! - `WWW-Authenticate` of the plugins that did not know the client is not in the answer to a client that
//!   another one knows.
//! - A list that names no plugin at all refuses every request.
//! - A plugin of this build counts even where `plugins` of config.yaml leaves it out.

use std::rc::Rc;
use std::sync::LazyLock;

use serde_json::Value;
use smallvec::SmallVec;

use crate::exchange::{Exchange, Reply, ReplyBody};
use crate::plugin::registry::Entry;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Registry, SchemaType, Spec, Step};
use crate::wire::Name;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "multi-auth",
    priority: 2600,
    auth: true,
    schema: r#"{
        "type": "object",
        "title": "work with route or service object",
        "properties": {"auth_plugins": {"type": "array", "minItems": 2}},
        "required": ["auth_plugins"]
    }"#,
    check,
    build,
    ..Spec::PLAIN
};

/// The plugins that may stand in the list, with their schemas.
static REGISTRY: LazyLock<Registry> = LazyLock::new(super::registry);

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    each(conf, |entry, conf| {
        let name = entry.spec.name;
        let checked = entry.check(&mut conf.clone(), SchemaType::Plain);
        checked.map_err(|error| format!("plugin {name} check schema failed: {error}"))
    })
}

/// Calls `visit` with each plugin of the list and its configuration.
fn each(
    conf: &Value,
    mut visit: impl FnMut(&'static Entry, &Value) -> Result<(), String>,
) -> Result<(), String> {
    for item in conf["auth_plugins"].as_array().into_iter().flatten() {
        let plugins = item.as_object().ok_or("an item of \"auth_plugins\" is not an object")?;
        for (name, conf) in plugins {
            let entry = REGISTRY.get(name).ok_or_else(|| format!("{name} plugin did not found"))?;
            if !entry.spec.auth {
                return Err(format!("{name} plugin is not supported"));
            }
            visit(entry, conf)?;
        }
    }
    Ok(())
}

fn build(conf: &Value, build: &Build) -> Built {
    let mut plugins = Vec::new();
    each(conf, |entry, conf| {
        let mut conf = conf.clone();
        entry.check(&mut conf, SchemaType::Plain)?; // for its defaults
        plugins.push((entry.spec.name, (entry.spec.build)(&conf, build)?));
        Ok(())
    })?;
    Ok(Rc::new(MultiAuth { plugins }))
}

struct MultiAuth {
    plugins: Vec<(&'static str, Rc<dyn Plugin>)>,
}

impl Plugin for MultiAuth {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        Step::Wait(Box::pin(async move {
            let mut refusals: SmallVec<[(&str, Reply); 2]> = SmallVec::new();
            for (name, plugin) in &self.plugins {
                let refusal = match plugin.rewrite(ex, host) {
                    Step::Next => None,
                    Step::Reply(reply) => Some(reply),
                    Step::Wait(future) => future.await,
                };
                let Some(refusal) = refusal else {
                    ex.resp_headers().remove(Name::WwwAuthenticate);
                    return None;
                };
                refusals.push((name, refusal));
            }
            for (name, Reply { status, body }) in refusals {
                let error = message(&body);
                log::warn!("{name} failed to authenticate the request, code: {status}. error: {error}");
            }
            Some(Reply::message(401, "Authorization Failed"))
        }))
    }
}

fn message(body: &ReplyBody) -> &str {
    match body {
        ReplyBody::Field("message", text) => text,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::{base64, test};

    #[test]
    fn checks_configurations_as_apisix() {
        let list = |list: Value| json!({ "auth_plugins": list });
        for (conf, outcome) in [
            (list(json!([{"basic-auth": {}}, {"key-auth": {"query": "k"}, "jwt-auth": {}}])), "accepted"),
            (json!({}), "property \"auth_plugins\" is required"),
            (
                list(json!([{"basic-auth": {}}])),
                "property \"auth_plugins\" validation failed: expect array to have at least 2 items",
            ),
            (
                list(json!([{"basic-auth": {"hide_credentials": "false"}}, {"key-auth": {}}])),
                "plugin basic-auth check schema failed: property \"hide_credentials\" validation failed: \
                 wrong type: expected boolean, got string",
            ),
            (
                list(json!([{"key-auth": {}}, {"basic-auth": "blah"}])),
                "plugin basic-auth check schema failed: wrong type: expected object, got string",
            ),
            (list(json!([{"key-auth": {}}, {"no-auth": {}}])), "no-auth plugin did not found"),
            (
                list(json!([{"key-auth": {}}, {"ip-restriction": {}}])),
                "ip-restriction plugin is not supported",
            ),
            (list(json!([{"key-auth": {}}, "basic-auth"])), "an item of \"auth_plugins\" is not an object"),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), outcome, "{conf}");
        }
    }

    fn host() -> Rc<Host> {
        let host = test::host();
        let both = json!({"key-auth": {"key": "k"}, "basic-auth": {"username": "foo", "password": "bar"}});
        host.consumers.put(&test::consumer("jack", both, json!({})));
        host.consumers.put(&test::consumer("anna", json!({}), json!({})));
        host
    }

    #[test]
    fn one_way_is_enough() {
        let host = host();
        let list =
            json!([{"basic-auth": {}}, {"hmac-auth": {"validate_request_body": true}}, {"key-auth": {}}]);
        let plugin = test::build(&SPEC, &host, json!({ "auth_plugins": list }));
        let refused = Some(Reply::message(401, "Authorization Failed"));
        let basic = format!("Authorization: Basic {}", base64::encode(b"foo:bar"));
        for (header, reply, challenge) in [
            (&*basic, None, "-"),
            ("apikey: k", None, "-"),
            ("Authorization: Basic x\napikey: k", None, "-"),
            ("apikey: wrong", refused, "apikey realm=\"key\""),
        ] {
            let mut ex = test::exchange(&format!("GET / HTTP/1.1\nHost: a\n{header}"));
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), reply, "{header}");
            assert_eq!(test::values(ex.resp_headers(), "WWW-Authenticate"), challenge);
            assert_eq!(ex.consumer.is_some(), reply.is_none());
        }
    }

    #[test]
    fn an_anonymous_consumer_of_one_way_ends_the_list() {
        let host = host();
        let list = json!([{"basic-auth": {"anonymous_consumer": "anna"}}, {"key-auth": {}}]);
        let plugin = test::build(&SPEC, &host, json!({ "auth_plugins": list }));
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a\napikey: k");
        assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
        assert_eq!(test::values(ex.req_headers(), "X-Consumer-Username"), "anna");
    }

    #[test]
    fn nobody_is_let_in_where_nothing_is_asked() {
        let host = host();
        let plugin = test::build(&SPEC, &host, json!({"auth_plugins": [{}, {}]}));
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a\napikey: k");
        let reply = test::run(&plugin, Phase::Rewrite, &mut ex, &host);
        assert_eq!(reply, Some(Reply::message(401, "Authorization Failed")));
    }
}
