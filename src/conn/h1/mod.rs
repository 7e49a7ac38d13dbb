//! HTTP/1.1: the server role towards clients, the client role towards upstreams.

pub mod answer;
pub mod client;
pub mod server;
pub mod upload;

#[cfg(test)]
pub(in crate::conn) mod tests;
