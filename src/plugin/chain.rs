//! The plugins of one object as one core runs them: sorted, and indexed by phase.

use std::rc::Rc;

use serde_json::Value;

use super::meta::Meta;
use super::{Host, Phase, Phases, Plugin, Spec, Step};
use crate::exchange::{BodyPiece, Exchange, Reply, ReplyBody};

/// One plugin of a chain.
pub struct Item {
    /// What it is.
    pub spec: &'static Spec,
    /// Its compiled configuration.
    pub plugin: Rc<dyn Plugin>,
    /// Its `_meta`.
    pub meta: Rc<Meta>,
    /// Its configuration names a variable that looks into the request's body.
    pub reads_body: bool,
    /// It came with the consumer: its rewrite has not run yet when the consumer is found.
    pub from_consumer: bool,
}

/// A sorted list of plugins. Each phase has the list of those that take part in it, so that a phase
/// without plugins costs one length test.
#[derive(Default)]
pub struct Chain {
    items: Vec<Item>,
    phases: [Vec<u16>; 6],
    taken: Phases,
    reads_body: bool,
    rewrites_by_body: bool,
    /// The first number of this chain's filter state in an exchange.
    slots_from: u16,
}

impl Chain {
    /// Sorts `items` by `_meta.priority`, else the plugin's own (higher first; equal keep APISIX's
    /// order, by name). `slots_from` keeps two chains of one exchange apart.
    pub fn new(mut items: Vec<Item>, slots_from: u16) -> Self {
        items.sort_by(|a, b| b.priority().cmp(&a.priority()).then(a.spec.name.cmp(b.spec.name)));
        let mut phases: [Vec<u16>; 6] = Default::default();
        let taken = Phases(items.iter().fold(0, |taken, item| taken | item.plugin.phases().0));
        for (at, item) in items.iter().enumerate() {
            let set = item.plugin.phases();
            for (phase, list) in phases.iter_mut().enumerate() {
                if set.0 & (1 << phase) != 0 {
                    list.push(at as u16);
                }
            }
        }
        let reads_body = items.iter().any(|item| item.reads_body);
        let rewrites_by_body =
            items.iter().any(|item| item.reads_body && item.plugin.phases().has(Phase::Rewrite));
        Chain { items, phases, taken, reads_body, rewrites_by_body, slots_from }
    }

    /// Its plugins, in the order in which they run.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Does any plugin look into the request's body by a variable?
    pub fn reads_body(&self) -> bool {
        self.reads_body
    }

    /// Does one look into it as early as in rewrite, where authentication stands, too?
    pub fn rewrites_by_body(&self) -> bool {
        self.rewrites_by_body
    }

    /// The phases in which any plugin takes part.
    pub fn taken(&self) -> Phases {
        self.taken
    }

    /// Does any plugin take part in `phase`?
    #[inline]
    pub fn has(&self, phase: Phase) -> bool {
        self.taken.has(phase)
    }

    /// The plugins of a phase, and the numbers of their state in an exchange.
    fn of(&self, phase: Phase) -> impl Iterator<Item = (u16, &Item)> {
        self.phases[phase as usize].iter().map(|at| (self.slots_from + at, &self.items[*at as usize]))
    }

    /// Runs rewrite, access or before_proxy: the first plugin that answers ends it.
    pub fn run<'a>(
        &'a self,
        phase: Phase,
        ex: &'a mut Exchange,
        host: &'a Host,
    ) -> impl Future<Output = Option<Reply>> + 'a {
        run_each(self.of(phase), phase, ex, host)
    }

    /// Plugins with a rewrite that only the consumer brought, auth plugins left out.
    fn rewrites_in_consumer(&self) -> impl Iterator<Item = (u16, &Item)> {
        self.of(Phase::Rewrite).filter(|(_, item)| item.from_consumer && !item.spec.auth)
    }

    /// Is there anything for [`run_rewrite_in_consumer`](Chain::run_rewrite_in_consumer) to run?
    pub fn has_rewrite_in_consumer(&self) -> bool {
        self.rewrites_in_consumer().next().is_some()
    }

    /// The rewrite of those plugins that only the consumer brought, auth plugins left out
    /// (plugin.lua, phase `rewrite_in_consumer`).
    pub async fn run_rewrite_in_consumer(&self, ex: &mut Exchange, host: &Host) -> Option<Reply> {
        run_each(self.rewrites_in_consumer(), Phase::Rewrite, ex, host).await
    }

    /// Notes what will run behind the answer's head, as far as can be foretold: filters that look at the
    /// exchange are taken to hold (plugin.lua `trace_expected_plugins_for_debug`).
    pub fn foretell(&self, ex: &mut Exchange) {
        for phase in [Phase::BodyFilter, Phase::Log] {
            self.of(phase).for_each(|(_, item)| item.note(phase, ex));
        }
    }

    /// Runs header_filter.
    pub fn header_filter(&self, ex: &mut Exchange, host: &Host) {
        for (slot, item) in self.of(Phase::HeaderFilter) {
            if item.takes_part(ex, slot) {
                item.note(Phase::HeaderFilter, ex);
                item.plugin.header_filter(ex, host, slot);
            }
        }
    }

    /// Runs body_filter over one piece of the answer's body.
    pub fn body_filter(&self, ex: &mut Exchange, piece: &mut BodyPiece) {
        for (slot, item) in self.of(Phase::BodyFilter) {
            if item.takes_part(ex, slot) {
                item.note(Phase::BodyFilter, ex);
                item.plugin.body_filter(ex, piece, slot);
            }
        }
    }

    /// Runs log. A plugin that prefers the route's copy is left out where `route` has it, too.
    pub fn log(&self, ex: &mut Exchange, host: &Host, route: Option<&Chain>) {
        let preferred =
            |name| route.is_some_and(|route| route.items.iter().any(|item| item.spec.name == name));
        for (slot, item) in self.of(Phase::Log) {
            if item.spec.prefer_route && preferred(item.spec.name) {
                continue;
            }
            if item.takes_part(ex, slot) {
                item.note(Phase::Log, ex);
                item.plugin.log(ex, host);
            }
        }
    }
}

async fn run_each<'a>(
    items: impl Iterator<Item = (u16, &'a Item)>,
    phase: Phase,
    ex: &mut Exchange,
    host: &Host,
) -> Option<Reply> {
    for (slot, item) in items {
        let reply = match item.step(phase, ex, host, slot) {
            Step::Next => None,
            Step::Reply(reply) => Some(reply),
            Step::Wait(future) => future.await,
        };
        if let Some(reply) = reply {
            return Some(item.finish(reply));
        }
    }
    None
}

impl Item {
    /// For the basic debug mode.
    fn note(&self, phase: Phase, ex: &mut Exchange) {
        if let Some(trace) = &mut ex.trace {
            trace.note(self.spec.name, phase.name());
        }
    }

    fn priority(&self) -> i32 {
        self.meta.priority.unwrap_or(self.spec.priority)
    }

    /// `_meta.filter` lets it, and no workflow has run it already.
    #[inline]
    fn takes_part(&self, ex: &mut Exchange, slot: u16) -> bool {
        !ex.skipped.contains(&self.spec.name) && self.meta.allows(ex, slot)
    }

    #[inline]
    fn step<'a>(&'a self, phase: Phase, ex: &'a mut Exchange, host: &'a Host, slot: u16) -> Step<'a> {
        if !self.takes_part(ex, slot) {
            return Step::Next;
        }
        self.note(phase, ex);
        match phase {
            Phase::Rewrite => self.plugin.rewrite(ex, host),
            Phase::Access => self.plugin.access(ex, host),
            _ => self.plugin.before_proxy(ex, host),
        }
    }

    /// Logs a refusal and puts `_meta.error_response` in its place (plugin.lua `run_plugin`).
    fn finish(&self, mut reply: Reply) -> Reply {
        if reply.status >= 400 {
            log::warn!("{} exits with http status code {}", self.spec.name, reply.status);
            match &self.meta.error_response {
                Some(Value::String(text)) => reply.body = ReplyBody::Text(text.clone().into_bytes()),
                Some(value) => reply.body = ReplyBody::Json(value.clone()),
                None => {}
            }
        }
        reply
    }
}
