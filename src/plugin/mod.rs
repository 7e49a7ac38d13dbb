//! The plugin contract: spec, phases, step, chain. How to add one is a page in `src/plugins/README.md`.

pub mod chain;
pub mod consumers;
pub mod counters;
pub mod meta;
pub mod registry;
pub mod shared;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use crate::exchange::{BodyPiece, Exchange, Reply};
use crate::mail::ToControl;
use crate::model::{Id, Stored};
use crate::transport::TlsClients;
use crate::transport::pool::Pools;
pub use chain::Chain;
pub use registry::{Entry, Registry};

use consumers::Consumers;
use counters::Tables;
use shared::Shared;

/// Which schema a configuration is checked against (APISIX core.schema.TYPE_*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SchemaType {
    /// A route's, service's, plugin config's, global rule's or consumer's plugin.
    Plain,
    /// Inside a consumer or credential: the secret of an auth plugin.
    Consumer,
    /// Plugin metadata.
    Metadata,
}

/// What a plugin is: one static value a plugin file.
pub struct Spec {
    /// Its name in configurations, as in APISIX.
    pub name: &'static str,
    /// Higher runs first within a phase.
    pub priority: i32,
    /// As APISIX's `version`.
    pub version: f64,
    /// An auth plugin: it finds the consumer, and never runs twice in a request.
    pub auth: bool,
    /// Where a route has the plugin, a global rule's copy is skipped (`run_policy = prefer_route`).
    pub prefer_route: bool,
    /// JSON Schema of its configuration.
    pub schema: &'static str,
    /// JSON Schema of a consumer's part, for auth plugins.
    pub consumer_schema: Option<&'static str>,
    /// JSON Schema of its plugin metadata.
    pub metadata_schema: Option<&'static str>,
    /// Fields stored encrypted, by dotted path.
    pub encrypt_fields: &'static [&'static str],
    /// The same for a consumer's part.
    pub consumer_encrypt_fields: &'static [&'static str],
    /// The field of a consumer's part by which the consumer is found (and which must be unique).
    pub consumer_key: Option<&'static str>,
    /// What users read of a configuration that its JSON Schema refuses, from the schema's own words.
    pub refusal: fn(&Value, String) -> String,
    /// Checks that a JSON Schema cannot say; the error text is APISIX's.
    pub check: fn(&Value, SchemaType) -> Result<(), String>,
    /// Compiles a checked configuration for one core.
    pub build: fn(&Value, &Build) -> Built,
}

/// What compiling a configuration gives.
pub type Built = Result<Rc<dyn Plugin>, String>;

impl Spec {
    /// What most plugins are, but for a name, a priority, a schema and what builds them.
    pub const PLAIN: Spec = Spec {
        name: "",
        priority: 0,
        version: 0.1,
        auth: false,
        prefer_route: false,
        schema: "",
        consumer_schema: None,
        metadata_schema: None,
        encrypt_fields: &[],
        consumer_encrypt_fields: &[],
        consumer_key: None,
        refusal: |_, why| why,
        check: no_check,
        build: |_, _| Err("nothing builds this plugin".to_owned()),
    };
}

/// `check` of plugins whose schema says it all.
pub fn no_check(_: &Value, _: SchemaType) -> Result<(), String> {
    Ok(())
}

/// Where a configuration that is being compiled belongs.
pub struct Build<'a> {
    /// The process: counters, metrics, configuration.
    pub host: &'a Rc<Host>,
    /// `/apisix/routes/1`, `/apisix/services/2`, …: the object the configuration was written in
    /// (APISIX's `_meta.parent.resource_key`).
    pub parent: &'a str,
    /// The plugin's metadata object, if there is one.
    pub metadata: Option<&'a Value>,
}

/// What plugins share on one core. No locks: all of it is this core's, but for [`Tables`].
pub struct Host {
    /// Consumers by the key of each auth plugin.
    pub consumers: Consumers,
    /// Node-wide counters: the exception to shared-nothing, because limits are a node's.
    pub counters: Tables,
    /// This core's metrics page.
    pub metrics: std::cell::RefCell<crate::telemetry::metrics::CoreMetrics>,
    /// Connections of this core to other servers, those of upstreams and of plugins' own calls.
    pub pools: Rc<Pools>,
    /// TLS towards them.
    pub tls: Rc<TlsClients>,
    /// Plugin metadata, for what is not built with a plugin's own.
    pub metadata: std::cell::RefCell<ahash::AHashMap<Id, Arc<Stored<Value>>>>,
    /// To the control thread.
    pub control: tokio::sync::mpsc::Sender<ToControl>,
    /// The configuration of the process.
    pub config: Arc<crate::config::Config>,
    /// The ways out of plugins: names, connections, TLS, Redis.
    pub outbound: Rc<crate::client::Outbound>,
    /// The operator's list of plugins; `None` enables all that this build has.
    pub enabled: std::cell::RefCell<Option<Arc<[Box<str>]>>>,
    /// `plugin_attr` of config.yaml, as it was read last.
    pub attr: std::cell::RefCell<Arc<Value>>,
    /// Upstream objects that there are, by id.
    pub upstreams: std::cell::RefCell<ahash::AHashSet<Id>>,
    /// The time that limiters go by: the reactor's, or a test's.
    pub now: fn() -> std::time::Instant,
    /// The wall clock, seconds since 1970: that of the machine, or a test's.
    pub unix_s: fn() -> u64,
    /// What plugins of one kind share on this core.
    pub shared: Shared,
}

impl Host {
    /// Is the plugin in the operator's list?
    pub fn enables(&self, plugin: &str) -> bool {
        self.enabled.borrow().as_ref().is_none_or(|list| list.iter().any(|name| **name == *plugin))
    }

    /// Tells control something. When its queue is full the message is dropped and counted: a core never
    /// waits for control.
    pub fn tell_control(&self, message: ToControl) -> bool {
        let sent = self.control.try_send(message).is_ok();
        if !sent {
            self.metrics.borrow_mut().dropped_messages();
        }
        sent
    }
}

/// The phases that a plugin takes part in, as a bit set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Phases(pub u8);

/// One phase of a request, in the order of the road.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Before the consumer is known.
    Rewrite,
    /// After it.
    Access,
    /// The upstream node is picked.
    BeforeProxy,
    /// The answer's head is there.
    HeaderFilter,
    /// Each piece of the answer's body.
    BodyFilter,
    /// The answer has left.
    Log,
}

impl Phase {
    /// As APISIX calls it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Rewrite => "rewrite",
            Phase::Access => "access",
            Phase::BeforeProxy => "before_proxy",
            Phase::HeaderFilter => "header_filter",
            Phase::BodyFilter => "body_filter",
            Phase::Log => "log",
        }
    }
}

impl Phases {
    /// A set of phases.
    pub const fn of(phases: &[Phase]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < phases.len() {
            bits |= 1 << phases[i] as u8;
            i += 1;
        }
        Phases(bits)
    }

    /// Is `phase` in the set?
    pub const fn has(self, phase: Phase) -> bool {
        self.0 & (1 << phase as u8) != 0
    }
}

/// What a plugin wants after a phase.
pub enum Step<'a> {
    /// Go on.
    Next,
    /// Answer now.
    Reply(Reply),
    /// It must wait (a call to another server): allocated only then.
    Wait(Pin<Box<dyn Future<Output = Option<Reply>> + 'a>>),
}

/// A compiled plugin configuration on one core. A phase that a plugin does not name in
/// [`Plugin::phases`] is never called.
pub trait Plugin {
    /// The phases it takes part in.
    fn phases(&self) -> Phases;

    /// Before the consumer is known: authentication, rewriting.
    fn rewrite<'a>(&'a self, _: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        Step::Next
    }

    /// Access decisions.
    fn access<'a>(&'a self, _: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        Step::Next
    }

    /// The upstream node is picked, nothing has been sent.
    fn before_proxy<'a>(&'a self, _: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        Step::Next
    }

    /// The answer's head may be changed. `slot` numbers this plugin's state in the exchange
    /// ([`Exchange::slot`]), the same for its body filter.
    fn header_filter(&self, _: &mut Exchange, _: &Host, _slot: u16) {}

    /// A piece of the answer's body may be changed.
    fn body_filter(&self, _: &mut Exchange, _piece: &mut BodyPiece, _slot: u16) {}

    /// The answer has left, or the client has.
    fn log(&self, _: &mut Exchange, _: &Host) {}
}
