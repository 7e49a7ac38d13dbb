//! QUIC (RFC 9000), the server's side. quinn-proto speaks the protocol and knows no sockets; here are its sockets and
//! timers ([`endpoint`]), its connections with their streams ([`connection`]), and TLS inside it ([`session`]).

pub mod connection;
pub mod endpoint;
pub mod id;
pub mod keys;
pub mod session;

pub use connection::{Connection, Lost, Unread, Unwritten};
pub use endpoint::{Endpoint, Seen, Served};
pub use id::Owner;
pub use keys::QuicKeys;
pub use quinn_proto::{Dir, StreamId};
pub use session::{Handshake, choose_by};
