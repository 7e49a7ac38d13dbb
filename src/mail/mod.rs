//! Every message that crosses a core, with its sender, its receiver and its bound.

pub mod cores;
pub mod messaging;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::model::delta::Batch;
use crate::reactor::{Accepted, EcnCodepoint};

pub use cores::{Cores, Elder};

/// To a core. Bound: [`crate::limits::CORE_MAIL`].
pub enum ToCore {
    /// From control: the configuration changed. Control keeps what does not fit and tries again: a core
    /// misses none.
    Config(Batch),
    /// From control: a name was resolved. Later answers replace earlier ones.
    Name {
        /// The name as written in nodes.
        name: Arc<str>,
        /// Its addresses; none where it does not exist.
        addresses: Arc<[IpAddr]>,
    },
    /// From control: a health verdict.
    Health {
        /// The upstream's resource key.
        upstream: Arc<str>,
        /// The node as its upstream writes it.
        host: Arc<str>,
        /// Its port.
        port: u16,
        /// Requests may go there.
        healthy: bool,
        /// Nothing speaks for the contrary: reports that say the same change nothing.
        settled: bool,
    },
    /// From control: the basic debug mode was switched.
    Debug {
        /// Answers name the plugins that ran.
        basic: bool,
    },
    /// From another core that has clearly more connections: a fresh one, nothing read of it yet.
    Adopt {
        /// The connection.
        accepted: Accepted,
        /// Which of the listeners it came by.
        listener: usize,
    },
    /// From another core, of this or of an earlier start of the cores: a datagram of a QUIC connection that lives here.
    /// One that does not fit is lost, as any datagram may be.
    Datagram(Box<Datagram>),
    /// From control: accept no more, finish what is under way, until this many ms from now. May come again, with
    /// less time.
    Drain {
        /// Time left, ms.
        within_ms: u64,
        /// Connections that wait for a next request may still send one, for other cores go on in place of this
        /// one; else they are closed at once.
        gently: bool,
    },
}

impl ToCore {
    /// The same for another core; a connection cannot be copied, nor what belongs to one.
    pub fn copy(&self) -> Option<ToCore> {
        Some(match self {
            ToCore::Config(batch) => ToCore::Config(batch.clone()),
            ToCore::Name { name, addresses } => {
                ToCore::Name { name: name.clone(), addresses: addresses.clone() }
            }
            ToCore::Health { upstream, host, port, healthy, settled } => ToCore::Health {
                upstream: upstream.clone(),
                host: host.clone(),
                port: *port,
                healthy: *healthy,
                settled: *settled,
            },
            ToCore::Debug { basic } => ToCore::Debug { basic: *basic },
            ToCore::Drain { within_ms, gently } => ToCore::Drain { within_ms: *within_ms, gently: *gently },
            ToCore::Adopt { .. } | ToCore::Datagram(_) => return None,
        })
    }
}

/// A datagram that has come to another core.
pub struct Datagram {
    /// The address of the socket that it came by.
    pub endpoint: SocketAddr,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address that it came to.
    pub to: Option<IpAddr>,
    /// The congestion marks.
    pub ecn: Option<EcnCodepoint>,
}

/// To control. Bound: [`crate::limits::CONTROL_MAIL`]; a full queue drops the message and counts it.
pub enum ToControl {
    /// From a core: an Admin API call that came by a proxy port.
    Admin(Box<AdminCall>),
    /// From a core: this upstream is in use, its health checks may begin.
    InUse(Arc<str>),
    /// From a core: a name that no upstream object has, wanted by a plugin.
    Name(Arc<str>),
    /// From a core: what a request saw of a node, for passive health checks.
    Passive {
        /// The upstream's resource key.
        upstream: Arc<str>,
        /// The node as its upstream writes it.
        host: Arc<str>,
        /// Its port.
        port: u16,
        /// What was seen.
        seen: Seen,
    },
    /// From a core: a plugin calls a server by this name.
    Resolve {
        /// The name.
        name: Arc<str>,
        /// Where its addresses go; none where it cannot be resolved.
        answer: tokio::sync::oneshot::Sender<Resolved>,
    },
    /// From a core: a client asks for the metrics on a proxy port. The answer is their text.
    Scrape(tokio::sync::oneshot::Sender<String>),
    /// From a core: it has ended.
    CoreEnded {
        /// Which start of the cores it belongs to: each reload of config.yaml makes new ones.
        generation: u32,
        /// Its index.
        core: usize,
    },
}

/// The addresses of a name.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// In rising order.
    pub addresses: Arc<[IpAddr]>,
    /// How long they hold, ms.
    pub valid_ms: u64,
}

/// What a request saw of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// An answer with this status.
    Status(u16),
    /// No connection, or a broken one.
    TcpFailure,
    /// No answer in time.
    Timeout,
}

/// An Admin API call that came by a proxy port.
pub struct AdminCall {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Arc<[u8]>,
    /// Who calls.
    pub peer: IpAddr,
    /// Where the answer goes.
    pub answer: tokio::sync::oneshot::Sender<AdminAnswer>,
}

/// Its answer.
#[derive(Debug)]
pub struct AdminAnswer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}
