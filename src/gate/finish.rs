//! After the answer: the upstream connection, the log phase, the access log.

use super::{Access, Core, passive, taking_part};
use crate::exchange::{Body, Exchange, Vars};
use crate::live::{LiveUpstream, Plan};
use crate::plugin::Phase;
use crate::reactor;

/// Ends an exchange whose answer has left, or whose client has.
pub fn finish(core: &Core, ex: &mut Exchange) {
    release_upstream(ex);
    ex.ended_ms = reactor::now_ms();
    passive::ended(core, ex);
    let (global, plan) = taking_part(ex, Phase::Log);
    if let Some(global) = global {
        // a rule's plugin may leave the exchange to the route's own copy of it
        let route = ex.plan.clone().and_then(|plan| plan.downcast::<Plan>().ok());
        global.log(ex, &core.host, route.as_ref().map(|plan| &plan.chain));
    }
    if let Some(plan) = plan {
        plan.chain.log(ex, &core.host, None);
    }
    ex.held.clear();
    if let Some(access) = &core.access {
        write_access_line(&mut access.borrow_mut(), ex);
    }
}

/// Writes one line of an access log.
pub fn write_access_line(access: &mut Access, ex: &Exchange) {
    let format = &access.format;
    access.log.line(reactor::now_ms(), |line| {
        format.write(line, |name, out| {
            let value = ex.var(name);
            out.extend_from_slice(value.as_deref().unwrap_or_default());
            value.is_some()
        });
    });
}

/// Gives the upstream connection back if both messages ended where they said, else closes it, and tells the balancer that
/// its node is done, and how long it took: whether it has answered or not. An exchange does so once, however it ends.
pub(super) fn release_upstream(ex: &mut Exchange) {
    let (lease, call) = (ex.lease.take(), ex.call.take());
    if !std::mem::take(&mut ex.counted) {
        return;
    }
    let whole = ex.resp.answered && ex.resp.body.is_done();
    if let Some(body) = call.and_then(|call| call.end(whole)) {
        ex.req.body = body;
    }
    let now_ms = reactor::now_ms();
    let (mut latency_ms, mut node) = (None, 0);
    if let Some(attempt) = ex.upstream.current() {
        let took_ms = (now_ms - attempt.began_ms) as u32;
        attempt.response_ms = Some(took_ms);
        attempt.body_bytes = ex.resp.body.arrived_bytes();
        attempt.bytes += attempt.body_bytes;
        // no connection, no latency (apisix/balancer/ewma.lua adds the time to connect)
        (latency_ms, node) = (attempt.connect_ms.map(|_| took_ms), attempt.node);
    }
    if let Some(lease) = lease
        && ex.keep_upstream
        && ex.resp.body.ended_clean()
    {
        lease.keep(now_ms);
    }
    ex.resp.body = Body::Empty;
    let Some(upstream) = ex.live_upstream.as_ref().and_then(|up| up.downcast_ref::<LiveUpstream>()) else {
        return;
    };
    upstream.finished(node, latency_ms, now_ms);
}
