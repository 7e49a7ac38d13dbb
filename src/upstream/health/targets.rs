//! What of an upstream is probed (apisix/healthcheck_manager.lua, `compute_targets`).

use std::sync::Arc;

use crate::model::{PassHost, Upstream};

use super::Checks;

/// One probed address. Its identity is all of it: a changed Host header is a new target.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TargetAddress {
    /// The node's address, resolved; IPv6 without brackets.
    pub ip: Arc<str>,
    /// `checks.active.port`, else the node's.
    pub port: u16,
    /// `checks.active.host`, else the node's address; shown in the Control API.
    pub hostname: Arc<str>,
    /// Host header: `upstream_host` if the upstream rewrites it, else the name that the node was written
    /// as, else `hostname`.
    pub host_header: Arc<str>,
}

/// The targets of an upstream in the order of its nodes. `resolve` gives a node's address and port by its
/// index, or `None` where its name does not resolve: such a node is no target.
pub fn targets(
    upstream: &Upstream,
    checks: &Checks,
    resolve: impl Fn(usize) -> Option<(Arc<str>, u16)>,
) -> Vec<TargetAddress> {
    let rewritten = upstream.upstream_host.as_deref().filter(|_| upstream.pass_host == PassHost::Rewrite);
    let mut targets: Vec<TargetAddress> = Vec::with_capacity(upstream.nodes.len());
    for (index, node) in upstream.nodes.iter().enumerate() {
        let Some((ip, port)) = resolve(index) else { continue };
        let hostname = checks.active.host.as_deref().map_or_else(|| Arc::clone(&ip), Arc::from);
        let name = Some(&*node.host).filter(|&host| *host != *ip);
        let host_header = rewritten.or(name).map_or_else(|| Arc::clone(&hostname), Arc::from);
        let target = TargetAddress { ip, port: checks.active.port.unwrap_or(port), hostname, host_header };
        // With `checks.active.port` nodes of one address are one target.
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Node;

    fn host_headers(upstream: &Upstream, active: serde_json::Value) -> Vec<(u16, String)> {
        let checks = Checks::parse(&json!({"active": active})).unwrap();
        let resolve = |index: usize| match &*upstream.nodes[index].host {
            "gone.example" => None,
            "a.example" => Some(("192.0.2.7".into(), 80)),
            host => Some((host.into(), 8080)),
        };
        let targets = targets(upstream, &checks, resolve);
        targets.iter().map(|t| (t.port, t.host_header.to_string())).collect()
    }

    #[test]
    fn the_host_header_is_upstream_host_then_name_then_check_host_then_address() {
        let node =
            |host: &str| Node { host: host.into(), port: None, weight: 1, priority: 0, metadata: None };
        let nodes = vec![node("192.0.2.1"), node("a.example"), node("gone.example")];
        let mut upstream = Upstream { nodes, ..Upstream::default() };
        assert_eq!(
            host_headers(&upstream, json!({})),
            [(8080, "192.0.2.1".to_owned()), (80, "a.example".to_owned())]
        );
        assert_eq!(
            host_headers(&upstream, json!({"host": "c.example", "port": 99})),
            [(99, "c.example".to_owned()), (99, "a.example".to_owned())]
        );
        upstream.upstream_host = Some("r.example".into());
        upstream.pass_host = PassHost::Rewrite;
        assert!(host_headers(&upstream, json!({})).iter().all(|(_, header)| header == "r.example"));
        upstream.nodes.push(node("192.0.2.1"));
        assert_eq!(host_headers(&upstream, json!({"port": 99})).len(), 2, "one target an address");
    }
}
