//! What one core knows of the health of an upstream's nodes.

use crate::upstream::{NodeSet, Peer};

use super::{Checks, Observer, Report, Status};

/// The verdicts on the nodes of one upstream. Built anew when its nodes change: the control thread
/// then sends every verdict that is not `healthy` again.
#[derive(Clone, Debug)]
pub struct NodeHealth {
    statuses: Box<[Status]>,
    unhealthy: NodeSet,
}

impl NodeHealth {
    /// All nodes healthy.
    pub fn new(nodes: usize) -> Self {
        NodeHealth { statuses: vec![Status::Healthy; nodes].into(), unhealthy: NodeSet::new() }
    }

    /// The nodes that are out, for [`crate::upstream::Pick`].
    pub fn unhealthy(&self) -> &NodeSet {
        &self.unhealthy
    }

    /// The verdict on a node.
    pub fn status(&self, node: usize) -> Status {
        self.statuses.get(node).copied().unwrap_or_default()
    }

    /// Takes in a verdict on the target `ip`, `port`.
    pub fn apply(&mut self, peers: &[Peer], checks: &Checks, ip: &str, port: u16, status: Status) {
        for (node, peer) in peers.iter().enumerate() {
            if *peer.host == *ip && checks.active.port.unwrap_or(peer.port) == port {
                self.set(node, status);
            }
        }
    }

    fn set(&mut self, node: usize, status: Status) {
        let Some(known) = self.statuses.get_mut(node) else { return };
        *known = status;
        if status.usable() {
            self.unhealthy.remove(node);
        } else {
            self.unhealthy.insert(node);
        }
    }

    /// Whether the control thread must hear of the final answer `status` from `node`: almost always a
    /// healthy status of a healthy node, which changes nothing. Failed tries that are repeated are told
    /// always, as APISIX does (apisix/balancer.lua, `pick_server`).
    pub fn passive_report(&self, checks: &Checks, node: usize, status: u16) -> Option<Report> {
        checks.passive.as_ref()?;
        let limits = checks.limits(Observer::Passive);
        let known = self.status(node);
        let counts = if limits.healthy_statuses.contains(&status) {
            known != Status::Healthy && limits.successes > 0
        } else {
            limits.unhealthy_statuses.contains(&status)
                && known != Status::Unhealthy
                && limits.http_failures > 0
        };
        counts.then_some(Report::Http(status))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn peers() -> Vec<Peer> {
        let peer = |host: &str, port| Peer { host: host.into(), port, weight: 1, priority: 0 };
        vec![peer("10.0.0.1", 80), peer("10.0.0.1", 81), peer("10.0.0.2", 80)]
    }

    #[test]
    fn verdicts_find_their_nodes() {
        let checks = Checks::parse(&json!({"active": {}})).unwrap();
        let mut health = NodeHealth::new(3);
        health.apply(&peers(), &checks, "10.0.0.1", 81, Status::Unhealthy);
        assert!(health.unhealthy().contains(1) && health.unhealthy().len() == 1);
        health.apply(&peers(), &checks, "10.0.0.1", 81, Status::MostlyUnhealthy);
        assert!(health.unhealthy().contains(1), "still out");
        health.apply(&peers(), &checks, "10.0.0.1", 81, Status::Healthy);
        assert!(health.unhealthy().is_empty());
        // one probed port for all nodes of an address
        let checks = Checks::parse(&json!({"active": {"port": 9000}})).unwrap();
        health.apply(&peers(), &checks, "10.0.0.1", 9000, Status::Unhealthy);
        assert!(health.unhealthy().contains(0) && health.unhealthy().contains(1));
        assert!(!health.unhealthy().contains(2));
    }

    #[test]
    fn only_answers_that_can_change_a_verdict_are_told() {
        let checks = Checks::parse(&json!({"active": {}, "passive": {}})).unwrap();
        let mut health = NodeHealth::new(3);
        assert_eq!(health.passive_report(&checks, 0, 200), None);
        assert_eq!(health.passive_report(&checks, 0, 404), None);
        assert_eq!(health.passive_report(&checks, 0, 500), Some(Report::Http(500)));
        health.apply(&peers(), &checks, "10.0.0.1", 80, Status::MostlyHealthy);
        assert_eq!(health.passive_report(&checks, 0, 200), Some(Report::Http(200)));
        health.apply(&peers(), &checks, "10.0.0.1", 80, Status::Unhealthy);
        assert_eq!(health.passive_report(&checks, 0, 500), None);
        let active_only = Checks::parse(&json!({"active": {}})).unwrap();
        assert_eq!(health.passive_report(&active_only, 0, 500), None);
    }
}
