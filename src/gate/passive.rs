//! Passive health checks: what requests tell of nodes (apisix/balancer.lua `pick_server`, apisix/init.lua
//! `healthcheck_passive`). Control counts; it is told only what can change a node's state.

use super::Core;
use crate::exchange::Exchange;
use crate::live::LiveUpstream;
use crate::mail::{Seen, ToControl};
use crate::upstream::health::Report;
use crate::upstream::retry::Failure;

/// The exchange has ended: its status is that of the node it tried last, whoever made the answer.
pub fn ended(core: &Core, ex: &Exchange) {
    let Some(last) = ex.upstream.attempts.last() else { return };
    let Some(upstream) = ex.live_upstream.as_ref().and_then(|up| up.downcast_ref::<LiveUpstream>()) else {
        return;
    };
    let status = if ex.resp.client_gone { 499 } else { ex.resp.head.status };
    report(core, upstream, last.node, Report::Http(status));
}

/// A try has failed and another node gets the request. To nginx all answers that lead on are failures but
/// for 403 and 404, and APISIX takes failures for timeouts or failed connections.
pub fn failed(core: &Core, upstream: &LiveUpstream, node: usize, failure: Failure) {
    let seen = match failure {
        Failure::Timeout | Failure::Status(504) => Report::Timeout,
        Failure::Status(status @ (403 | 404)) => Report::Http(status),
        _ => Report::TcpFailure,
    };
    report(core, upstream, node, seen);
}

fn report(core: &Core, upstream: &LiveUpstream, node: usize, report: Report) {
    let Some(checks) = &upstream.checks else { return };
    if core.config.disable_upstream_healthcheck || !checks.passive_counts(report, upstream.health_of(node)) {
        return;
    }
    let Some(met) = upstream.nodes.get(node) else { return };
    let sent = core.tell_control(ToControl::Passive {
        upstream: upstream.key.as_ref().into(),
        host: met.host.as_ref().into(),
        port: met.port,
        seen: match report {
            Report::Http(status) => Seen::Status(status),
            Report::Timeout => Seen::Timeout,
            Report::TcpFailure | Report::Connected => Seen::TcpFailure,
        },
    });
    if sent {
        upstream.unsettle(node);
    }
}
