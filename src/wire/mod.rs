//! Codecs without sockets: HTTP/1.1 heads and bodies, URIs, the PROXY protocol, RESP.

pub mod header_name;
pub mod headers;
pub mod http;
pub mod proxy_protocol;
pub mod resp;
pub mod uri;

pub use header_name::Name;
pub use headers::{Headers, Span};
