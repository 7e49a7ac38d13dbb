//! The protocols that stream routes may name, one folder each. How to add one is a page in `docs/xrpc.md`.

#[cfg(any(test, debug_assertions))]
pub mod pingpong;
pub mod redis;

use std::any::Any;
use std::rc::Rc;

use serde_json::Value;

use super::xrpc::lanes::Lanes;
use super::xrpc::{Protocol, Spec};
use crate::gate::Core;
use crate::live::streams::StreamPlan;
use crate::model::schema::Schema;

/// All of them. Ping-pong is there to show that the contract is general: a release has it not.
pub const ALL: &[&Spec] = &[
    #[cfg(any(test, debug_assertions))]
    &pingpong::SPEC,
    &redis::SPEC,
];

/// What the sessions of a route share on one core.
pub struct Served {
    /// The protocol with the route's configuration.
    pub protocol: Rc<dyn Protocol>,
    /// Shared connections.
    pub lanes: Lanes,
}

/// Where the route keeps it.
struct Compiled(Option<Rc<Served>>);

/// Checks `protocol.conf`; the error is that of its JSON Schema.
///
/// # Errors
/// Also if there is no such protocol among `enabled`.
pub fn check(enabled: &[String], name: &str, conf: Option<&mut Value>) -> Result<(), String> {
    let known = ALL.iter().find(|spec| spec.name == name && enabled.iter().any(|on| *on == *name));
    let spec = known.ok_or_else(|| format!("unknown protocol [{name}]"))?;
    let Some(conf) = conf else { return Ok(()) };
    let schema = serde_json::from_str(spec.schema).map_err(|error| error.to_string())?;
    Schema::compile(schema)?.validate(conf)
}

/// The protocol of a route, compiled when the first client comes. `None`: it cannot be served, which has been logged.
pub fn of(core: &Core, plan: &StreamPlan) -> Option<Rc<Served>> {
    let compiled = plan.compiled.get_or_init(|| {
        let built = build(&core.config.streams.protocols, plan);
        let id = &plan.route.id;
        let built =
            built.map_err(|error| log::error!("the protocol of stream route {id} is not served: {error}"));
        let served = built.map(|protocol| Served { lanes: Lanes::new(protocol.clone()), protocol });
        Rc::new(Compiled(served.map(Rc::new).ok())) as Rc<dyn Any>
    });
    compiled.downcast_ref::<Compiled>()?.0.clone()
}

fn build(enabled: &[String], plan: &StreamPlan) -> Result<Rc<dyn Protocol>, String> {
    let protocol = plan.route.value.protocol.as_deref().ok_or("it has none")?;
    let mut conf = protocol.conf.clone();
    check(enabled, &protocol.name, Some(&mut conf).filter(|conf| !conf.is_null()))?;
    let spec = ALL.iter().find(|spec| spec.name == &*protocol.name).ok_or("it is unknown")?;
    (spec.build)(&conf)
}
