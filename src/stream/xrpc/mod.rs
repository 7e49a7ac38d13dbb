//! xRPC: protocols of layer 7 other than HTTP over a session of layer 4 (apisix/stream/xrpc). A [`Protocol`] is a folder
//! of `stream/protocols/`; it looks at the bytes of both sides and says which calls begin and end in them. Here they are
//! moved ([`session`]), routed to subordinate routes, delayed, timed and logged ([`calls`]). Calls of many clients may share
//! connections ([`lane`]).

pub mod calls;
pub mod lane;
pub mod lanes;
mod link;
pub mod session;

use std::rc::Rc;

use serde_json::Value;

use crate::live::streams::Subordinate;
use crate::telemetry::metrics::CoreMetrics;

pub use calls::{Call, Calls};

/// What is known of a protocol before any route names it: one static value a protocol.
pub struct Spec {
    /// Its name in `protocol.name` and `xrpc.protocols`.
    pub name: &'static str,
    /// JSON Schema of `protocol.conf`.
    pub schema: &'static str,
    /// Compiles a checked `protocol.conf` for one route on one core.
    pub build: fn(&Value) -> Result<Rc<dyn Protocol>, String>,
}

/// A protocol with the configuration of one route.
pub trait Protocol {
    /// A client has connected.
    fn open(&self, wants: Wants) -> Box<dyn Session>;

    /// Calls of many clients may share connections, where answers come in the order of their calls: what tells the answers
    /// of one connection apart. `None`: each client has connections of its own.
    fn shares(&self) -> Option<Box<dyn Answers>> {
        None
    }

    /// Counts a call that has ended after `seconds`, where `protocol.metric.enable` asks for it.
    fn count(&self, _metrics: &mut CoreMetrics, _route: &[u8], _call: &Call, _seconds: f64) {}
}

/// Answers on a connection that is shared, each of which belongs to one call.
pub trait Answers {
    /// Reads on from `at` to the end of an answer: true, and `at` stands behind it. False: all bytes were read.
    ///
    /// # Errors
    /// They are none of this protocol.
    fn read(&mut self, bytes: &[u8], at: &mut usize) -> Result<bool, Broken>;

    /// No answer is half read.
    fn is_between(&self) -> bool;

    /// The answer to a call whose connection was lost.
    fn lost(&self) -> &'static [u8];
}

/// What a route wants to know of calls. A protocol need not find out what nobody asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Calls are timed: somebody logs or counts them.
    pub calls: bool,
    /// Calls are logged: their variables are read.
    pub variables: bool,
}

/// One connection of a client, and those that it needs towards upstreams. Bytes are shown in order and each but once,
/// except for those that a verdict leaves behind.
pub trait Session {
    /// Looks at bytes from the client, of which there is at least one. `routes` are the subordinate routes.
    ///
    /// # Errors
    /// They are none of this protocol: the client gets [`Session::refusal`], and the session ends.
    fn client_bytes(
        &mut self,
        bytes: &[u8],
        calls: &mut Calls,
        routes: &[Subordinate],
    ) -> Result<Verdict, Broken>;

    /// Looks at bytes from an upstream; `link` tells several of them apart.
    ///
    /// # Errors
    /// They are none of this protocol: the session ends.
    fn upstream_bytes(&mut self, link: usize, bytes: &[u8], calls: &mut Calls) -> Result<Verdict, Broken>;

    /// What a client is told whose bytes are broken, if the protocol has words for that.
    fn refusal(&self, _broken: &Broken) -> Vec<u8> {
        Vec::new()
    }
}

/// What becomes of bytes that were looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They go on as they are.
    Pass(Pass),
    /// Nothing can be said before more have come. At most [`crate::limits::RPC_HEAD`] are kept for that.
    More,
    /// From the client: they wait until all calls under way are answered, and are shown again.
    Settle,
    /// The sender gets an answer from here, and the other side nothing.
    Answer {
        /// So many are answered.
        bytes: usize,
        /// The answer.
        answer: Vec<u8>,
        /// The session ends with it.
        last: bool,
    },
}

/// Where bytes of a client go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum To {
    /// To the upstream of the session's route, over a connection of the session's own.
    #[default]
    Own,
    /// To the same upstream, over a connection that is shared: whole calls, each of which will have one answer. Only for
    /// protocols that share.
    Shared,
    /// To the upstream of this subordinate route, by its place in the list.
    Route(usize),
}

/// Bytes that go on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// So many.
    pub bytes: usize,
    /// A message ends with them: bytes of another upstream may follow.
    pub whole: bool,
    /// From the client: where they go.
    pub to: To,
    /// A fault is injected: the bytes from here on wait so long, ms.
    pub late: Option<(usize, u32)>,
}

impl Pass {
    /// Whole messages to or from the route's own upstream.
    pub fn whole(bytes: usize) -> Verdict {
        Verdict::Pass(Pass { bytes, whole: true, ..Pass::default() })
    }
}

/// Bytes that are none of the protocol, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl Broken {
    /// With this reason.
    pub fn because<T>(why: impl Into<String>) -> Result<T, Broken> {
        Err(Broken(why.into()))
    }
}
