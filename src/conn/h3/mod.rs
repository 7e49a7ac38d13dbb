//! HTTP/3 (RFC 9114), towards clients. The life of a connection is in [`server`], the road of one request in [`stream`],
//! its answer in [`answer`], the streams beside the requests in [`control`].

pub mod answer;
pub mod channel;
pub mod control;
pub mod server;
pub mod stream;

pub use server::serve;

/// What is counted of HTTP/3 connections of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A connection begins.
    Connection,
    /// A stream begins.
    Stream,
    /// A client has reset a stream before the answer's end.
    Reset,
    /// A connection is closed for what its client did.
    Violation,
}
