//! Codecs without sockets: HTTP/1.1 heads and bodies, frames of HTTP/2 and HTTP/3, URIs, the PROXY protocol, RESP,
//! WebSocket frames and the messages on them.

pub mod client_hello;
pub mod frames;
pub mod h3;
pub mod header_name;
pub mod headers;
pub mod hex;
pub mod http;
pub mod proxy_protocol;
pub mod pubsub;
pub mod resp;
pub mod uri;
pub mod varint;
pub mod websocket;

pub use header_name::Name;
pub use headers::{Headers, Span};
