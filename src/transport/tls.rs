//! TLS as a client: rustls, which knows no sockets, over the reactor's stream.
//!
//! Encrypted chunks go in, plain ones come out. What rustls wants to send (records, tickets' and key
//! updates' answers, alerts) is queued on the socket at once and leaves with everything else of the turn.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use smallvec::SmallVec;

use crate::reactor::{Chunk, Out, TcpStream, take_buffer};

use super::trust::{Identity, Trust, client_config};

/// One way of being a TLS client on this core: trust, identity and protocols. Connections of one client
/// resume each other's sessions.
#[derive(Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
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
    tls: RefCell<ClientConnection>,
    /// Plain bytes that were put back, the front one last.
    front: RefCell<SmallVec<[Chunk; 1]>>,
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
        let mut tls = ClientConnection::new(Arc::clone(&client.config), name).map_err(invalid)?;
        // What is written is encrypted and queued on the socket at once: poll_flushed is the back-pressure.
        tls.set_buffer_limit(None);
        let stream = TlsStream { tcp, tls: RefCell::new(tls), front: RefCell::default() };
        stream.tcp.set_recv_deadline(Some(deadline_ms));
        stream.send_records()?;
        while stream.tls.borrow().is_handshaking() {
            let chunk = stream.tcp.recv().await?;
            if chunk.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // A server that speaks first may send data with its last flight.
            stream.unrecv(stream.decrypt(&chunk)?);
        }
        stream.tcp.set_recv_deadline(None);
        Ok(stream)
    }

    /// See [`super::Stream::poll_recv`]. A connection that ends without a close_notify ends like any other,
    /// as in nginx: the framing of HTTP tells what is missing.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        if let Some(chunk) = self.front.borrow_mut().pop() {
            return Poll::Ready(Ok(chunk));
        }
        loop {
            let Poll::Ready(encrypted) = self.tcp.poll_recv(cx)? else { return Poll::Pending };
            if encrypted.is_empty() {
                return Poll::Ready(Ok(Chunk::empty()));
            }
            let plain = self.decrypt(&encrypted)?;
            if !plain.is_empty() {
                return Poll::Ready(Ok(plain));
            }
            if self.tls.borrow_mut().process_new_packets().map_err(invalid)?.peer_has_closed() {
                return Poll::Ready(Ok(Chunk::empty()));
            }
        }
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
        let mut tls = self.tls.borrow_mut();
        for piece in out.slices() {
            // Writing into rustls' own unbounded buffer cannot fail.
            let _ = tls.writer().write_all(piece);
        }
        drop(tls);
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

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
