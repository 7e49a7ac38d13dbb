//! `public-api`: opens an endpoint of another plugin to clients, on a route, so that other plugins can guard it
//! (apisix/plugins/public-api.lua, api_router.lua).
//!
//! ```json
//! {
//!   "uri": "/batch",
//!   "plugins": {
//!     "public-api": { "uri": "/apisix/batch-requests" },
//!     "key-auth": {}
//!   }
//! }
//! ```
//!
//! Without `uri` the request's own path names the endpoint. There are `POST /apisix/batch-requests`,
//! `GET /apisix/status` (node-status) and `GET /apisix/prometheus/metrics`, each while its plugin is in the
//! operator's list. What is no endpoint gets 404.
//!
//! Phases: access.
//!
//! Known differences: none.

use std::rc::Rc;

use serde_json::Value;

use super::{batch_requests, node_status, prometheus};
use crate::config::metrics_uri;
use crate::exchange::{Exchange, Reply, ReplyBody};
use crate::mail::ToControl;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "public-api",
    priority: 501,
    schema: r#"{"type": "object", "properties": {"uri": {"type": "string"}}}"#,
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, _: &Build) -> Built {
    Ok(Rc::new(PublicApi { uri: conf["uri"].as_str().map(|uri| uri.as_bytes().into()) }))
}

struct PublicApi {
    /// In place of the request's path.
    uri: Option<Box<[u8]>>,
}

/// The endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Endpoint {
    BatchRequests,
    NodeStatus,
    Metrics,
}

/// The endpoint of this method and path, if its plugin is enabled.
fn endpoint(host: &Host, method: &[u8], path: &[u8]) -> Option<Endpoint> {
    let attr = host.attr.borrow();
    let batch = attr["batch-requests"]["uri"].as_str().unwrap_or(batch_requests::URI);
    let (plugin, endpoint) = match method {
        b"POST" if path == batch.as_bytes() => (batch_requests::SPEC.name, Endpoint::BatchRequests),
        b"GET" if path == node_status::URI.as_bytes() => (node_status::SPEC.name, Endpoint::NodeStatus),
        b"GET" if path == metrics_uri(&attr).as_bytes() => (prometheus::SPEC.name, Endpoint::Metrics),
        _ => return None,
    };
    host.enables(plugin).then_some(endpoint)
}

impl Plugin for PublicApi {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let path = self.uri.as_deref().unwrap_or(&ex.req.path);
        match endpoint(host, ex.req.head.method_text(), path) {
            Some(Endpoint::BatchRequests) => {
                Step::Wait(Box::pin(async move { Some(batch_requests::serve(ex, host).await) }))
            }
            Some(Endpoint::NodeStatus) => Step::Reply(node_status::page(host)),
            Some(Endpoint::Metrics) => Step::Wait(Box::pin(metrics(ex, host))),
            None => Step::Reply(Reply::page(404)),
        }
    }
}

/// The metrics, which control gathers.
async fn metrics(ex: &mut Exchange, host: &Host) -> Option<Reply> {
    let (answer, text) = tokio::sync::oneshot::channel();
    if !host.tell_control(ToControl::Scrape(answer)) {
        return Some(Reply::page(503));
    }
    let Ok(text) = text.await else { return Some(Reply::page(503)) };
    ex.resp_headers().set(b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8");
    Some(Reply { status: 200, body: ReplyBody::Text(text.into_bytes()) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses() {
        let said = |conf| test::check(&SPEC, SchemaType::Plain, conf);
        assert_eq!(said(json!({})), "accepted");
        let wrong = r#"property "uri" validation failed: wrong type: expected string, got number"#;
        assert_eq!(said(json!({ "uri": 3233 })), wrong);
    }

    #[test]
    fn when_control_has_no_room_the_message_is_dropped_and_counted() {
        let (control, mut inbox) = tokio::sync::mpsc::channel(1);
        let host = Host { control, ..Rc::into_inner(test::host()).unwrap() };
        assert!(host.tell_control(ToControl::Name("a".into())));
        let mut ex = test::exchange("GET /apisix/prometheus/metrics HTTP/1.1\nHost: a.com");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let refused = runtime.block_on(metrics(&mut ex, &host));
        assert_eq!(refused.map(|reply| reply.status), Some(503));
        assert_eq!(host.metrics.borrow().tallies().dropped_messages.get(), 1);
        assert!(inbox.try_recv().is_ok());
        assert!(host.tell_control(ToControl::Name("b".into())), "there is room again");
    }

    #[test]
    fn endpoints_are_those_of_enabled_plugins() {
        let host = test::host();
        let list = |names: &[&str]| Some(names.iter().map(|name| Box::from(*name)).collect());
        host.enabled.replace(list(&["batch-requests", "prometheus"]));
        let at = |method: &str, path: &str| endpoint(&host, method.as_bytes(), path.as_bytes());
        assert_eq!(at("POST", "/apisix/batch-requests"), Some(Endpoint::BatchRequests));
        assert_eq!(at("GET", "/apisix/prometheus/metrics"), Some(Endpoint::Metrics));
        assert_eq!(at("GET", "/apisix/status"), None, "node-status is not in the list");
        for (method, path) in [("GET", "/apisix/batch-requests"), ("GET", "/apisix/batch"), ("POST", "/")] {
            assert_eq!(at(method, path), None, "{method} {path}");
        }
        host.enabled.replace(list(&["node-status"]));
        assert_eq!(at("GET", "/apisix/status"), Some(Endpoint::NodeStatus), "the list was reloaded");
        assert_eq!(at("POST", "/apisix/batch-requests"), None);
        host.enabled.replace(None);
        host.attr.replace(Arc::new(
            json!({ "prometheus": { "export_uri": "/m" }, "batch-requests": { "uri": "/b" } }),
        ));
        assert_eq!(
            (at("GET", "/m"), at("POST", "/b")),
            (Some(Endpoint::Metrics), Some(Endpoint::BatchRequests))
        );
        assert_eq!(at("GET", "/apisix/prometheus/metrics"), None);
    }

    #[test]
    fn what_is_no_endpoint_is_not_found() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({ "uri": "/nowhere" }));
        let mut ex = test::exchange("GET /apisix/prometheus/metrics HTTP/1.1\nHost: a");
        assert_eq!(test::run(&plugin, Phase::Access, &mut ex, &host), Some(Reply::page(404)));
        // control does not listen in a test
        let plugin = test::build(&SPEC, &host, json!({}));
        assert_eq!(test::run(&plugin, Phase::Access, &mut ex, &host), Some(Reply::page(503)));
    }
}
