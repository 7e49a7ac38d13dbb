//! The phases, top to bottom (APISIX init.lua `http_access_phase` to `http_header_filter_phase`).

use std::any::Any;
use std::rc::Rc;

use super::{Core, head, mtls, prepare, proxy};
use crate::exchange::{Exchange, Reply};
use crate::live::Plan;
use crate::plugin::{Chain, Phase};
use crate::wire::uri;

/// An answer that ends the road early.
pub type Road = Result<(), Reply>;

/// From the head of the request to the head of the answer. Body filters run while the answer is written,
/// the log phase when it has left ([`super::finish`]).
pub async fn handle(core: &Core, ex: &mut Exchange) {
    if let Err(reply) = road(core, ex).await {
        reply.apply(ex);
    }
    if !ex.resp.client_gone {
        head::filter(core, ex);
    }
}

/// `Err`: the gateway answers. `Ok`: the upstream has, or the client has left.
async fn road(core: &Core, ex: &mut Exchange) -> Road {
    prepare::request(core, ex)?;
    mtls::verify(core, ex)?;
    prepare::own_endpoint(core, ex).await?;
    ex.trace = core.debug.get().then(Box::default);
    let global = core.live.borrow().global_chain().map_err(Reply::page)?;
    let mut plan = match_route(core, ex);
    if ex.wants_body.take() {
        Box::pin(prepare::read_body(core, ex)).await?;
        // what was found without the body may not hold with it
        ex.matched = None;
        ex.params.clear();
        plan = match_route(core, ex);
    }
    let Some(plan) = plan else { return Box::pin(no_route(core, ex, global)).await };
    hold(ex, Some(&plan), &global);
    refuse_unserved(&plan)?;
    if global.rewrites_by_body() || plan.chain.rewrites_by_body() {
        read_ahead(core, ex, &global, Some(&plan)).await?;
    }

    for chain in [&*global, &plan.chain] {
        if chain.has(Phase::Rewrite) {
            unanswered(chain.run(Phase::Rewrite, ex, &core.host).await)?;
        }
    }
    let plan = join_consumer(core, ex, plan, &global).await?;
    read_ahead(core, ex, &global, Some(&plan)).await?;
    for chain in [&*global, &plan.chain] {
        if chain.has(Phase::Access) {
            unanswered(chain.run(Phase::Access, ex, &core.host).await)?;
        }
    }
    proxy::run(core, ex, &plan, &global).await
}

/// Reads the body where a plugin will look into it by a variable, for which it cannot wait. That is behind authentication,
/// and what bounds bodies, unless a plugin of their phase looks into it.
async fn read_ahead(core: &Core, ex: &mut Exchange, global: &Chain, plan: Option<&Plan>) -> Road {
    let asked = global.reads_body() || plan.is_some_and(|plan| plan.chain.reads_body());
    if asked && ex.body_read.is_none() {
        prepare::read_body(core, ex).await?;
    }
    Ok(())
}

/// The road goes on where no plugin of a phase has answered.
pub fn unanswered(reply: Option<Reply>) -> Road {
    reply.map_or(Ok(()), Err)
}

/// Finds the route. Under `match_uri_encoded_slash` the router alone sees a path that keeps `%2F`.
fn match_route(core: &Core, ex: &mut Exchange) -> Option<Rc<Plan>> {
    if core.config.match_uri_encoded_slash
        && let Some(kept) = uri::keep_encoded_slashes(ex.req.head.path(), &ex.req.path)
    {
        let path = std::mem::replace(&mut ex.req.path, kept);
        let found = match_path(core, ex);
        ex.req.path = path;
        return found;
    }
    match_path(core, ex)
}

/// Finds the route and remembers what the path said.
fn match_path(core: &Core, ex: &mut Exchange) -> Option<Rc<Plan>> {
    let hit = core.live.borrow().find(ex)?;
    ex.matched = Some(hit.plan.matched(&hit.params, &ex.req.path, &ex.req.host));
    if !hit.params.has_none() {
        ex.params = hit.params.pairs(&ex.req.path);
    }
    Some(hit.plan)
}

/// Global rules run for requests that no route takes, too.
async fn no_route(core: &Core, ex: &mut Exchange, global: Rc<Chain>) -> Road {
    hold(ex, None, &global);
    read_ahead(core, ex, &global, None).await?;
    unanswered(global.run(Phase::Rewrite, ex, &core.host).await)?;
    unanswered(global.run(Phase::Access, ex, &core.host).await)?;
    Err(Reply::error_msg(404, "404 Route Not Found"))
}

/// What the route refers to is missing, or it needs what this build has not: it never opens.
fn refuse_unserved(plan: &Plan) -> Road {
    plan.refusal.map_or(Ok(()), |status| Err(Reply::page(status)))
}

/// Once an auth plugin has found the consumer: its plugins, and its group's, over the route's. Those that
/// only it brings run their rewrite now.
async fn join_consumer(
    core: &Core,
    ex: &mut Exchange,
    plan: Rc<Plan>,
    global: &Rc<Chain>,
) -> Result<Rc<Plan>, Reply> {
    let Some(known) = &ex.consumer else { return Ok(plan) };
    ex.verdicts.forget_route();
    let joined = plan.join_consumer(&core.live.borrow(), known).map_err(Reply::page)?;
    if Rc::ptr_eq(&joined, &plan) {
        return Ok(plan);
    }
    hold(ex, Some(&joined), global);
    refuse_unserved(&joined)?;
    read_ahead(core, ex, global, Some(&joined)).await?;
    if !joined.chain.has_rewrite_in_consumer() {
        return Ok(joined);
    }
    match Box::pin(joined.chain.run_rewrite_in_consumer(ex, &core.host)).await {
        Some(reply) => Err(reply),
        None => Ok(joined),
    }
}

/// The exchange keeps its plan to its end, whatever the configuration becomes meanwhile.
fn hold(ex: &mut Exchange, plan: Option<&Rc<Plan>>, global: &Rc<Chain>) {
    ex.plan = plan.map(|plan| plan.clone() as Rc<dyn Any>);
    ex.global = Some(global.clone());
    ex.phases = global.taken().0 | plan.map_or(0, |plan| plan.chain.taken().0);
}
