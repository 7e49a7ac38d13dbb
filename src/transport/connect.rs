//! Opening a stream to an upstream node.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustls::pki_types::ServerName;

use crate::reactor::{TcpStream, now_ms};

use super::{Stream, TlsClient, TlsStream};

/// TLS to a node.
#[derive(Clone)]
pub struct Secure {
    /// Whom we trust and who we are.
    pub client: Rc<TlsClient>,
    /// The name asked for (SNI) and verified. An address, or `None`, sends no SNI.
    pub name: Option<ServerName<'static>>,
}

/// Where to connect.
#[derive(Clone)]
pub struct Target {
    /// The node.
    pub address: SocketAddr,
    /// TLS, if the scheme says so.
    pub tls: Option<Secure>,
}

/// Connects, and shakes hands if `target` has TLS, both within `connect_timeout_ms` as nginx's
/// `proxy_connect_timeout`.
///
/// # Errors
/// `TimedOut` after `connect_timeout_ms`; `InvalidData` when TLS fails; else what `connect(2)` says.
pub async fn connect(target: &Target, connect_timeout_ms: u32) -> io::Result<Stream> {
    let deadline_ms = now_ms() + u64::from(connect_timeout_ms);
    let tcp = TcpStream::connect(target.address, connect_timeout_ms).await?;
    let Some(secure) = &target.tls else { return Ok(Stream::Plain(tcp)) };
    let name = secure.name.clone().unwrap_or_else(|| ServerName::IpAddress(target.address.ip().into()));
    let tls = TlsStream::handshake(tcp, &secure.client, name, deadline_ms).await?;
    Ok(Stream::Tls(Box::new(tls)))
}
