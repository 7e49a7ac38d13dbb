//! Outbound calls of plugins: what those of one core share.

pub mod names;
pub mod redis;

use std::rc::Rc;

use crate::transport::TlsClients;
use crate::transport::pool::Pools;

pub use names::Names;

/// The ways out of one core, beside those to its upstreams.
pub struct Outbound {
    /// Addresses of names.
    pub names: Names,
    /// Kept connections.
    pub pools: Rc<Pools>,
    /// TLS as a client.
    pub tls: Rc<TlsClients>,
    /// Redis.
    pub redis: redis::Clients,
}

impl Outbound {
    /// No Redis yet.
    pub fn new(names: Names, pools: Rc<Pools>, tls: Rc<TlsClients>) -> Self {
        Outbound { names, pools, tls, redis: redis::Clients::default() }
    }
}
