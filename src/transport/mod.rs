//! A byte stream to a peer: plain TCP or TLS over it, one interface.
//!
//! [`connect`] gives a [`Stream`]; [`trust`] says whom a TLS client believes, [`site`] how we are a TLS server, and
//! [`tls`] runs rustls over the reactor's socket. QUIC has a room of its own: [`quic`].

pub mod client_auth;
pub mod connect;
pub mod der;
pub mod linger;
pub mod ocsp;
pub mod pair;
pub mod pieces;
pub mod pool;
pub mod quic;
pub mod sessions;
pub mod site;
pub mod stream;
pub mod tls;
pub mod trust;
mod unlike;
pub mod x509;

pub use connect::{Secure, Target, connect};
pub use linger::Linger;
pub use site::{Site, Sites};
pub use stream::Stream;
pub use tls::{Agreed, TlsClient, TlsClients, TlsStream};

#[cfg(test)]
pub(crate) mod tests;
