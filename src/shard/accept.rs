//! Accepting connections, and handing them to a core that has less to do.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::conn::Gate;
use crate::conn::h1::server;
use crate::conn::proxy_header;
use crate::control::applied::Applied;
use crate::exchange::{ClientVerify, Facts, TlsFacts};
use crate::gate::Core;
use crate::mail::{Cores, ToCore};
use crate::reactor::{self, Accepted, Listener, SendError, TcpStream};
use crate::stream::Listened;
use crate::transport::{Agreed, Site, Sites, Stream, TlsStream};

/// A listening socket on its way to its core.
pub struct Listening {
    /// The socket.
    pub socket: std::net::TcpListener,
    /// Its address.
    pub local: SocketAddr,
    /// How a connection begins.
    pub begins: Begins,
}

/// What comes before the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begins {
    /// A PROXY header.
    pub proxy_protocol: bool,
    /// A TLS handshake.
    pub tls: bool,
    /// What follows.
    pub then: Then,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Requests.
    Http,
    /// A session of layer 4.
    Stream {
        /// Upstreams get a PROXY header.
        proxy_protocol_to_upstream: bool,
    },
}

/// A listening socket at work.
pub struct Tap {
    /// Its place among the sockets of the configuration, the same on all cores.
    pub at: usize,
    /// The socket, until it is accepted from no more.
    pub listener: RefCell<Option<Rc<Listener>>>,
    /// Its address.
    pub local: SocketAddr,
    /// How a connection begins.
    pub begins: Begins,
}

/// One core with its connections.
pub struct Shard {
    /// Its index.
    pub index: usize,
    /// Its gateway.
    pub core: Rc<Core>,
    /// All cores.
    pub cores: Arc<Cores>,
    /// The revision that each core runs.
    pub applied: Arc<Applied>,
    /// TLS towards clients.
    pub sites: Arc<Sites>,
    live: Cell<u32>,
    serial: Cell<u64>,
}

/// Counts a connection as live from its accept to its end, however it ends.
pub(super) struct Live(pub(super) Rc<Shard>);

impl Shard {
    /// No connections yet.
    pub fn new(
        index: usize,
        core: Rc<Core>,
        cores: Arc<Cores>,
        applied: Arc<Applied>,
        sites: Arc<Sites>,
    ) -> Self {
        Shard { index, core, cores, applied, sites, live: Cell::new(0), serial: Cell::new(0) }
    }

    /// Live connections.
    pub fn connections(&self) -> u32 {
        self.live.get()
    }

    fn count(&self, connections: u32) {
        self.live.set(connections);
        self.cores.set_connections(self.index, connections);
        self.core.host.metrics.borrow().tallies().active.set(u64::from(connections));
    }
}

impl Live {
    pub(super) fn new(shard: &Rc<Shard>) -> Self {
        shard.count(shard.live.get() + 1);
        shard.serial.set(shard.serial.get() + 1);
        let metrics = shard.core.host.metrics.borrow();
        metrics.tallies().accepted.add(1);
        metrics.tallies().handled.add(1);
        drop(metrics);
        Live(shard.clone())
    }
}

impl Live {
    /// `$connection`, asked for right after it began.
    pub(super) fn serial(&self) -> u64 {
        self.0.serial.get()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.count(self.0.live.get() - 1);
    }
}

/// Accepts until the listener stops; then what already waited is still served.
pub async fn accept(shard: Rc<Shard>, tap: Rc<Tap>) {
    let Some(listener) = tap.listener.borrow().clone() else { return };
    loop {
        match listener.accept().await {
            Ok(accepted) => place(&shard, &tap, accepted),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => break,
            Err(error) => {
                log::error!("accept() on {} failed: {error}", tap.local);
                reactor::sleep(crate::limits::ACCEPT_PAUSE_MS).await;
            }
        }
    }
    while let Some(accepted) = listener.drain_backlog() {
        adopt(&shard, &tap, accepted);
    }
    tap.listener.take();
    // Other cores may go on with the same socket: then it is only let go.
    if shard.core.closes_idle() {
        listener.close();
    }
}

/// Serves a fresh connection here, or sends its descriptor to a core that has clearly less to do.
fn place(shard: &Rc<Shard>, tap: &Rc<Tap>, accepted: Accepted) {
    let Some(other) = shard.cores.better_core(shard.index) else { return adopt(shard, tap, accepted) };
    let mail = shard.cores.mail(other);
    if let Err(error) = mail.try_send(ToCore::Adopt { accepted, listener: tap.at })
        && let SendError::Full(ToCore::Adopt { accepted, .. })
        | SendError::Closed(ToCore::Adopt { accepted, .. }) = error
    {
        adopt(shard, tap, accepted);
    }
}

/// Serves a connection on this core.
pub fn adopt(shard: &Rc<Shard>, tap: &Rc<Tap>, accepted: Accepted) {
    if u64::from(shard.connections()) >= shard.core.config.worker_connections {
        log::warn!("{} worker_connections are not enough", shard.core.config.worker_connections);
        return;
    }
    let stream = match TcpStream::from_fd(accepted.into()) {
        Ok(stream) => stream,
        Err(error) => return log::error!("a connection cannot be served: {error}"),
    };
    let Ok(peer) = stream.peer_addr() else { return };
    let live = Live::new(shard);
    let local = match tap.local.ip().is_unspecified() {
        true => stream.local_addr().unwrap_or(tap.local),
        false => tap.local,
    };
    let scheme = if tap.begins.then == Then::Http { "http" } else { "tcp" };
    let facts = Facts::new(peer, local, scheme, live.serial());
    match tap.begins {
        Begins { proxy_protocol: false, tls: false, then: Then::Http } => {
            reactor::spawn(serve(live, Rc::new(Stream::Plain(stream)), Rc::new(facts)));
        }
        Begins { then: Then::Http, .. } => reactor::spawn(begin(live, stream, facts, tap.begins)),
        Begins { then: Then::Stream { proxy_protocol_to_upstream }, .. } => {
            let listening = Listened { address: tap.local, proxy_protocol_to_upstream };
            reactor::spawn(begin_stream(live, stream, facts, tap.begins, listening));
        }
    }
}

/// The task of a connection: no more than this while it is idle.
async fn serve(live: Live, stream: Rc<Stream>, facts: Rc<Facts>) {
    server::serve(live.0.core.clone(), stream, facts).await;
}

/// The same for one that begins with something else than a request. What that needs is gone when it is served.
async fn begin(live: Live, tcp: TcpStream, mut facts: Facts, begins: Begins) {
    let deadline_ms = reactor::now_ms() + live.0.core.config.http.client_header_timeout_ms;
    let begun = Box::pin(begun(&live.0, tcp, &mut facts, begins, deadline_ms)).await;
    match begun {
        Ok(stream) => serve(live, Rc::new(stream), Rc::new(facts)).await,
        Err(error) => log::info!("a connection from {} ended before a request: {error}", facts.peer),
    }
}

/// The same for a session of layer 4.
async fn begin_stream(live: Live, tcp: TcpStream, mut facts: Facts, begins: Begins, listened: Listened) {
    let core = live.0.core.clone();
    let deadline_ms = reactor::now_ms() + core.config.streams.preread_timeout_ms;
    match Box::pin(begun(&live.0, tcp, &mut facts, begins, deadline_ms)).await {
        Ok(stream) => crate::stream::serve(core, Rc::new(stream), Rc::new(facts), listened).await,
        Err(error) => log::info!("a session from {} ended before its first byte: {error}", facts.peer),
    }
}

async fn begun(
    shard: &Shard,
    tcp: TcpStream,
    facts: &mut Facts,
    begins: Begins,
    deadline_ms: u64,
) -> io::Result<Stream> {
    if begins.proxy_protocol {
        facts.proxy_protocol = proxy_header::read(&tcp, deadline_ms).await?;
    }
    match begins.tls {
        true => {
            let stream = begins.then != Then::Http;
            Ok(Stream::Tls(Box::new(handshake(shard, tcp, facts, stream, deadline_ms).await?)))
        }
        false => Ok(Stream::Plain(tcp)),
    }
}

/// TLS with the certificate of the name that the client asks for.
async fn handshake(
    shard: &Shard,
    tcp: TcpStream,
    facts: &mut Facts,
    is_stream: bool,
    deadline_ms: u64,
) -> io::Result<TlsStream> {
    let mut sni = None;
    let choose = |asked: Option<&str>| {
        let (site, name) = site_of(shard, asked)?;
        sni = Some(name.into_boxed_str());
        Some(site)
    };
    let accepted = TlsStream::accept(tcp, choose, is_stream, deadline_ms).await;
    count(shard, accepted.as_ref().ok().map(|(stream, _)| stream.agreed()));
    let (stream, site) = accepted?;
    facts.scheme = if is_stream { "tls" } else { "https" };
    facts.tls = Some(Box::new(tls_facts(&site, sni, stream.agreed(), &stream.peer_certificates())));
    Ok(stream)
}

/// Who serves the name that a client asks for, and the name. Without one, `fallback_sni` is taken.
pub(super) fn site_of(shard: &Shard, asked: Option<&str>) -> Option<(Arc<Site>, String)> {
    let fallback = || shard.sites.fallback_sni().map(str::to_owned);
    let name = asked.map(str::to_lowercase).or_else(fallback)?;
    let live = shard.core.live.borrow();
    let found = live.certificates().find(&name).and_then(|found| found.site(&shard.sites));
    if found.is_none() {
        log::info!("failed to match any SSL certificate by SNI: {name}");
    }
    Some((found.cloned()?, name))
}

/// What a handshake has given, and whether the certificates that the client `shown` are believed.
pub(super) fn tls_facts(
    site: &Site,
    sni: Option<Box<str>>,
    agreed: Agreed,
    shown: &[CertificateDer<'_>],
) -> TlsFacts {
    let client = match &site.client_auth {
        Some(auth) if !shown.is_empty() => match auth.believes(shown) {
            true => ClientVerify::Success,
            false => ClientVerify::Failed,
        },
        _ => ClientVerify::None,
    };
    let client_certificate = shown.first().map(|certificate| Box::from(certificate.as_ref()));
    TlsFacts { sni, agreed, client, client_certificate }
}

/// Counts a handshake: what it has agreed on, if it came to its end.
pub(super) fn count(shard: &Shard, agreed: Option<Agreed>) {
    let metrics = shard.core.host.metrics.borrow();
    let tallies = metrics.tallies();
    match agreed {
        Some(Agreed { version, resumed, .. }) => {
            tallies.tls_handshakes[2 * usize::from(version == "TLSv1.3") + usize::from(resumed)].add(1);
        }
        None => tallies.tls_failures.add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_an_idle_connection_is_small() {
        let bytes = bytes_of(serve);
        assert!(bytes <= 512, "{bytes} bytes: what an exchange needs belongs into its box");
    }
}
