//! HTTP/2: the server role towards clients (RFC 9113). The `h2` crate speaks the protocol; here are its way to our
//! streams ([`duplex`]), the life of a connection ([`server`]) and the road of one stream ([`stream`]).

pub mod answer;
pub mod duplex;
pub mod preface;
pub mod server;
pub mod stream;

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
