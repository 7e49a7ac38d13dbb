//! Opening a stream to an upstream node.

use std::hash::{Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustls::pki_types::ServerName;

use crate::reactor::{TcpStream, now_ms};

use super::{Stream, TlsClient, TlsStream};

/// TLS to a node. Equal are those of one client and one name: clients are made once a core for each configuration, so
/// that which one it is says what it trusts and shows. It is held here: another never gets its place in memory.
#[derive(Clone)]
pub struct Secure {
    /// Whom we trust and who we are.
    pub client: Rc<TlsClient>,
    /// The name asked for (SNI) and verified. An address, or `None`, sends no SNI.
    pub name: Option<ServerName<'static>>,
}

impl PartialEq for Secure {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.client, &other.client) && self.name == other.name
    }
}

impl Eq for Secure {}

impl Hash for Secure {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Rc::as_ptr(&self.client).hash(state);
        self.name.hash(state);
    }
}

/// Where to connect. Connections to equal targets may take each other's place.
#[derive(Clone, PartialEq, Eq, Hash)]
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
