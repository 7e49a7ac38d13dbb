//! TLS in both roles: rustls, which knows no sockets, over the reactor's stream.
//!
//! Encrypted chunks go in, plain ones come out. What rustls wants to send (records, tickets' and key
//! updates' answers, alerts) is queued on the socket at once and leaves with everything else of the turn.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion};
use smallvec::SmallVec;

use crate::reactor::{Chunk, Out, TcpStream, take_buffer};
use crate::wire::client_hello;

use super::site::{Site, cipher_name};
use super::trust::{Identity, Trust, client_config};

/// One way of being a TLS client on this core: trust, identity and protocols. Connections of one client
/// resume each other's sessions.
#[derive(Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// For connections that are not this core's.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

/// The TLS clients of a core, each made once.
pub struct TlsClients {
    roots: Trust,
    clients: RefCell<HashMap<ClientKey, Weak<TlsClient>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    verify: bool,
    identity: Option<(Box<str>, Box<str>)>,
    alpn: SmallVec<[&'static [u8]; 2]>,
}

impl TlsClients {
    /// `roots` are those of `apisix.ssl.ssl_trusted_certificate`, shared by all cores.
    pub fn new(roots: Trust) -> Self {
        TlsClients { roots, clients: RefCell::default() }
    }

    /// The client for `tls.verify`, `tls.client_cert` and `tls.client_key` (PEM) of an upstream. The same
    /// values give the same client while somebody holds it, so that pools and sessions stay.
    ///
    /// # Errors
    /// Certificate and key cannot be read or do not belong together.
    pub fn get(
        &self,
        verify: bool,
        identity: Option<(&str, &str)>,
        alpn: &[&'static [u8]],
    ) -> io::Result<Rc<TlsClient>> {
        let key = ClientKey {
            verify,
            identity: identity.map(|(cert, private)| (cert.into(), private.into())),
            alpn: alpn.into(),
        };
        let mut clients = self.clients.borrow_mut();
        if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let identity = identity.map(|(cert, private)| Identity::from_pem(cert, private)).transpose()?;
        let trust = if verify { &self.roots } else { &Trust::Anyone };
        let config = client_config(trust, identity.as_ref(), alpn).map_err(invalid)?;
        let client = Rc::new(TlsClient { config });
        clients.retain(|_, client| client.strong_count() > 0);
        clients.insert(key, Rc::downgrade(&client));
        Ok(client)
    }
}

/// A TLS connection, its handshake done.
pub struct TlsStream {
    tcp: TcpStream,
    tls: RefCell<Connection>,
    /// Plain bytes that were put back, the front one last.
    front: RefCell<SmallVec<[Chunk; 1]>>,
    /// The peer has said that it closes, perhaps in one piece with its last bytes.
    closed: Cell<bool>,
}

impl TlsStream {
    /// Shakes hands as a client until `deadline_ms` on the core's clock.
    ///
    /// # Errors
    /// `TimedOut`, `UnexpectedEof`, what the socket says, or `InvalidData` with rustls' reason.
    pub async fn handshake(
        tcp: TcpStream,
        client: &TlsClient,
        name: ServerName<'static>,
        deadline_ms: u64,
    ) -> io::Result<TlsStream> {
        let tls = ClientConnection::new(Arc::clone(&client.config), name).map_err(invalid)?;
        let stream = TlsStream::over(tcp, tls.into());
        stream.tcp.set_recv_deadline(Some(deadline_ms));
        stream.send_records()?;
        stream.finish_handshake().await?;
        Ok(stream)
    }

    /// Shakes hands as a server until `deadline_ms` on the core's clock. `choose` is told the name, or the address, that
    /// the client asks for (SNI), and gives the site that serves it. What follows is HTTP, or else a `stream` of anything.
    ///
    /// # Errors
    /// As `handshake`; `PermissionDenied` if there is no site. The client has been told by an alert.
    pub async fn accept<S: AsRef<Site>>(
        tcp: TcpStream,
        choose: impl FnOnce(Option<&str>) -> Option<S>,
        stream: bool,
        deadline_ms: u64,
    ) -> io::Result<(TlsStream, S)> {
        tcp.set_recv_deadline(Some(deadline_ms));
        let mut acceptor = Acceptor::default();
        let mut begun = Vec::new(); // a ClientHello that comes in several pieces
        loop {
            let chunk = tcp.recv().await?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut rest = &chunk[..];
            while !rest.is_empty() && acceptor.read_tls(&mut rest)? > 0 {
                let accepted = match acceptor.accept() {
                    Ok(None) => continue,
                    Ok(Some(accepted)) => accepted,
                    Err((error, mut alert)) => {
                        let mut bytes = take_buffer();
                        alert.write_all(&mut bytes)?;
                        return refuse(&tcp, bytes, invalid(error)).await;
                    }
                };
                if !begun.is_empty() {
                    begun.extend_from_slice(&chunk);
                }
                let whole = if begun.is_empty() { &chunk[..] } else { &begun };
                let hello = accepted.client_hello();
                let Some(site) = choose(hello.server_name().or_else(|| client_hello::address(whole))) else {
                    let unknown =
                        io::Error::new(io::ErrorKind::PermissionDenied, "no certificate for this name");
                    return refuse(&tcp, UNRECOGNIZED_NAME.to_vec(), unknown).await;
                };
                let config = match stream {
                    true => &site.as_ref().stream_config,
                    false => &site.as_ref().config,
                };
                let tls = match accepted.into_connection(Arc::clone(config)) {
                    Ok(tls) => tls,
                    Err((error, mut alert)) => {
                        let mut bytes = take_buffer();
                        alert.write_all(&mut bytes)?;
                        return refuse(&tcp, bytes, invalid(error)).await;
                    }
                };
                let stream = TlsStream::over(tcp, tls.into());
                stream.unrecv(stream.decrypt(rest)?);
                stream.finish_handshake().await?;
                return Ok((stream, site));
            }
            begun.extend_from_slice(&chunk);
        }
    }

    fn over(tcp: TcpStream, mut tls: Connection) -> TlsStream {
        // What is written is encrypted and queued on the socket at once: poll_flushed is the back-pressure.
        tls.set_buffer_limit(None);
        TlsStream { tcp, tls: RefCell::new(tls), front: RefCell::default(), closed: Cell::new(false) }
    }

    /// Takes and answers records until both sides agree.
    async fn finish_handshake(&self) -> io::Result<()> {
        while self.tls.borrow().is_handshaking() {
            let chunk = self.tcp.recv().await?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // Who speaks first may send data with the last flight.
            match self.decrypt(&chunk) {
                Ok(plain) => self.unrecv(plain),
                Err(error) => {
                    let _ = self.tcp.flush().await; // the alert
                    return Err(error);
                }
            }
        }
        self.tcp.set_recv_deadline(None);
        Ok(())
    }

    /// See [`super::Stream::poll_recv`]. A connection that ends without a close_notify ends like any other,
    /// as in nginx: the framing of HTTP tells what is missing.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        if let Some(chunk) = self.front.borrow_mut().pop() {
            return Poll::Ready(Ok(chunk));
        }
        while !self.closed.get() {
            let Poll::Ready(encrypted) = self.tcp.poll_recv(cx)? else { return Poll::Pending };
            if encrypted.is_empty() {
                return Poll::Ready(Ok(Chunk::empty()));
            }
            let plain = self.decrypt(&encrypted)?;
            if !plain.is_empty() {
                return Poll::Ready(Ok(plain));
            }
        }
        Poll::Ready(Ok(Chunk::empty()))
    }

    /// The plain bytes of an encrypted chunk, which may be none.
    fn decrypt(&self, encrypted: &[u8]) -> io::Result<Chunk> {
        let mut plain = Vec::new();
        let mut rest = encrypted;
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            let mut tls = self.tls.borrow_mut();
            // nothing is taken any more once the peer said that it closes
            if tls.read_tls(&mut rest)? == 0 {
                break Ok(());
            }
            match tls.process_new_packets() {
                Ok(state) => {
                    self.closed.set(state.peer_has_closed());
                    let ready = state.plaintext_bytes_to_read();
                    if ready > 0 {
                        let from = plain.len();
                        plain.resize(from + ready, 0);
                        tls.reader().read_exact(&mut plain[from..])?;
                    }
                }
                Err(error) => break Err(invalid(error)),
            }
        };
        // answers, and the alert that tells the peer why
        self.send_records()?;
        result.map(|()| Chunk::from_vec(plain))
    }

    /// See [`super::Stream::unrecv`].
    pub fn unrecv(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.front.borrow_mut().push(chunk);
        }
    }

    /// See [`super::Stream::has_buffered`].
    pub fn has_buffered(&self) -> bool {
        !self.front.borrow().is_empty() || self.tcp.has_buffered()
    }

    /// See [`super::Stream::send`].
    pub fn send(&self, out: &Out) {
        let mut slices: SmallVec<[IoSlice<'_>; 4]> = out.slices().map(IoSlice::new).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            // One call makes one run of records of all pieces. Writing into rustls' own unbounded buffer cannot fail.
            let taken = self.tls.borrow_mut().writer().write_vectored(rest).unwrap_or(0);
            if taken == 0 {
                break;
            }
            IoSlice::advance_slices(&mut rest, taken);
        }
        // Nor can writing into a vector.
        let _ = self.send_records();
    }

    /// See [`super::Stream::shutdown_write`].
    pub fn shutdown_write(&self) {
        self.tls.borrow_mut().send_close_notify();
        let _ = self.send_records();
        self.tcp.shutdown_write();
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The protocol that ALPN chose.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.tls.borrow().alpn_protocol().map(<[u8]>::to_vec)
    }

    /// What was agreed on.
    pub fn agreed(&self) -> Agreed {
        let tls = self.tls.borrow();
        Agreed {
            version: match tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            cipher: tls.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// The certificate that the peer showed, and those behind it.
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.tls.borrow().peer_certificates().unwrap_or_default().to_vec()
    }

    /// Queues on the socket what rustls has to send.
    fn send_records(&self) -> io::Result<()> {
        let mut tls = self.tls.borrow_mut();
        if tls.wants_write() {
            let mut records = take_buffer();
            while tls.wants_write() {
                tls.write_tls(&mut records)?;
            }
            self.tcp.send(records);
        }
        Ok(())
    }
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `TLSv1.2` or `TLSv1.3`: `$ssl_protocol`.
    pub version: &'static str,
    /// By OpenSSL's name: `$ssl_cipher`.
    pub cipher: &'static str,
    /// An earlier session went on.
    pub resumed: bool,
}

/// A fatal alert `unrecognized_name` (RFC 6066 section 3) in a record of its own.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Tells the client why with an alert, and gives up.
async fn refuse<T>(tcp: &TcpStream, alert: Vec<u8>, error: io::Error) -> io::Result<T> {
    tcp.send(alert);
    let _ = tcp.flush().await;
    Err(error)
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
