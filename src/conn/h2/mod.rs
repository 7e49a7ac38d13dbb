//! HTTP/2 (RFC 9113): the server role towards clients, the client role towards upstreams. The `h2` crate speaks the
//! protocol; here are its way to our streams ([`duplex`]), the life of a connection ([`server`], [`link`]), the road of
//! one stream ([`stream`], [`call`]) and what passes over it ([`answer`], [`upload`], [`channel`]). What HTTP/3 does alike is
//! beside this room.

pub mod answer;
pub mod call;
pub mod channel;
pub mod duplex;
pub mod fields;
pub mod link;
pub mod pipe;
pub mod preface;
pub mod server;
pub mod stream;
pub mod upload;

pub use server::serve;

/// What is counted of HTTP/2 connections of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A connection begins.
    Connection,
    /// A stream begins.
    Stream,
    /// A client has reset a stream before the answer's end.
    Reset,
    /// A connection is closed because its client floods it.
    Flood,
}
