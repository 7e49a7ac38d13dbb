//! TLS inside QUIC. The certificate, and whether the client must show one, follow from the name that it asks for: so a
//! session gathers the ClientHello, which may span several packets, and is rustls' from there on.

use std::any::Any;
use std::cell::RefCell;
use std::io::Cursor;
use std::sync::Arc;

use quinn_proto::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::crypto::aws_lc_rs as crypto;
use rustls::pki_types::CertificateDer;
use rustls::quic::{KeyChange, Secrets, ServerConnection, Suite, Version};
use rustls::{CipherSuite, HandshakeKind};

use crate::limits;
use crate::transport::site::{Site, cipher_name};
use crate::transport::tls::Agreed;
use crate::wire::client_hello::{self, Hello};

/// `unexpected_message` (RFC 8446 section 6), `unrecognized_name` (RFC 6066 section 3) and `internal_error`.
const UNEXPECTED_MESSAGE: u8 = 10;
const UNRECOGNIZED_NAME: u8 = 112;
const INTERNAL_ERROR: u8 = 80;

/// Gives the site that serves a name, and the name that counts: the client's, or that of clients that send none.
pub type Choose = Box<dyn Fn(Option<&str>) -> Option<(Arc<Site>, String)>>;

thread_local! {
    /// A session must be `Send` by its trait, though it never leaves its core; what it asks is the core's own.
    static CHOOSE: RefCell<Option<Choose>> = const { RefCell::new(None) };
}

/// From now on sessions of this thread ask `choose`.
pub fn choose_by(choose: Choose) {
    CHOOSE.set(Some(choose));
}

/// What a handshake has come to.
#[derive(Clone)]
pub struct Handshake {
    /// Who serves.
    pub site: Arc<Site>,
    /// The name that was asked for, or stands for it.
    pub sni: Box<str>,
    /// Version, cipher, resumption.
    pub agreed: Agreed,
    /// What the client showed.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Begins sessions.
pub struct Sessions {
    initial: Suite,
}

impl Sessions {
    /// `None`: this build's cryptography lacks what QUIC begins with.
    pub fn new() -> Option<Sessions> {
        let suites = crypto::default_provider().cipher_suites;
        let suite = suites.iter().find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256)?;
        Some(Sessions { initial: suite.tls13()?.quic_suite()? })
    }
}

fn known(version: u32) -> Result<Version, UnsupportedVersion> {
    if version == 1 { Ok(Version::V1) } else { Err(UnsupportedVersion) }
}

fn keys(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
        packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
    }
}

impl ServerConfig for Sessions {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        Ok(keys(self.initial.keys(dst_cid, rustls::Side::Server, known(version)?)))
    }

    /// RFC 9001 section 5.8.
    fn retry_tag(&self, _version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
        const KEY: [u8; 16] =
            [0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e];
        const NONCE: [u8; 12] = [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];
        let pseudo = [&[orig_dst_cid.len() as u8], &**orig_dst_cid, packet].concat();
        let mut tag = [0; 16];
        // Neither can fail: the key has the length of its algorithm. A wrong tag would be a Retry that nobody takes.
        if let Ok(key) = UnboundKey::new(&AES_128_GCM, &KEY)
            && let Ok(sealed) = LessSafeKey::new(key).seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(NONCE),
                Aad::from(&pseudo),
                &mut [],
            )
        {
            tag.copy_from_slice(sealed.as_ref());
        }
        tag
    }

    fn start_session(self: Arc<Self>, _version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let mut parameters = Vec::new();
        params.write(&mut parameters);
        Box::new(TlsSession { initial: self.initial, state: State::Hello(Vec::new(), parameters) })
    }
}

struct TlsSession {
    initial: Suite,
    state: State,
}

enum State {
    /// The ClientHello as far as it has come, and our transport parameters.
    Hello(Vec<u8>, Vec<u8>),
    Chosen(Box<Chosen>),
    /// The handshake is over: what rustls has kept for it is given back, kilobytes of each connection.
    Done(Box<Done>),
}

struct Chosen {
    tls: ServerConnection,
    site: Arc<Site>,
    sni: Box<str>,
    next: Option<Secrets>,
    /// That the handshake's data is there has been said.
    told: bool,
}

struct Done {
    handshake: Handshake,
    next: Option<Secrets>,
}

impl TlsSession {
    fn chosen(&self) -> Option<&Chosen> {
        match &self.state {
            State::Chosen(chosen) => Some(chosen),
            State::Hello(..) | State::Done(_) => None,
        }
    }
}

fn alert(alert: u8, reason: impl ToString) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert), frame: None, reason: reason.to_string() }
}

impl Chosen {
    /// Whom the client wants is known: from here on rustls shakes hands.
    fn new(name: Option<&str>, parameters: Vec<u8>) -> Result<Chosen, TransportError> {
        let found = CHOOSE.with_borrow(|choose| choose.as_ref().and_then(|choose| choose(name)));
        let (site, sni) = found.ok_or_else(|| alert(UNRECOGNIZED_NAME, "no certificate for this name"))?;
        let config = site.quic.clone().ok_or_else(|| alert(INTERNAL_ERROR, "no QUIC for this name"))?;
        let tls = ServerConnection::new(config, Version::V1, parameters)
            .map_err(|error| alert(INTERNAL_ERROR, error))?;
        Ok(Chosen { tls, site, sni: sni.into(), next: None, told: false })
    }

    fn read(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.tls.read_hs(bytes).map_err(|error| match self.tls.alert() {
            Some(description) => alert(description.into(), error),
            None => TransportError {
                code: TransportErrorCode::PROTOCOL_VIOLATION,
                frame: None,
                reason: error.to_string(),
            },
        })?;
        let known = self.tls.alpn_protocol().is_some() || !self.tls.is_handshaking();
        Ok(known && !std::mem::replace(&mut self.told, true))
    }

    fn handshake(&self) -> Handshake {
        let agreed = Agreed {
            version: "TLSv1.3",
            cipher: self.tls.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
            resumed: self.tls.handshake_kind() == Some(HandshakeKind::Resumed),
        };
        let certificates = self.tls.peer_certificates().unwrap_or_default().iter();
        Handshake {
            site: self.site.clone(),
            sni: self.sni.clone(),
            agreed,
            certificates: certificates.map(|certificate| certificate.clone().into_owned()).collect(),
        }
    }
}

impl Session for TlsSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        keys(self.initial.keys(dst_cid, side.into(), Version::V1))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        match &self.state {
            State::Chosen(chosen) if chosen.told => Some(Box::new(chosen.handshake())),
            State::Done(done) => Some(Box::new(done.handshake.clone())),
            State::Hello(..) | State::Chosen(_) => None,
        }
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None // part of the handshake's data
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.chosen()?.tls.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None // a client's question
    }

    fn is_handshaking(&self) -> bool {
        match &self.state {
            State::Hello(..) => true,
            State::Chosen(chosen) => chosen.tls.is_handshaking(),
            State::Done(_) => false,
        }
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let (gathered, parameters) = match &mut self.state {
            State::Chosen(chosen) => return chosen.read(buf),
            // a client has nothing more to say (RFC 9001 sections 4.4 and 6)
            State::Done(_) => return Err(alert(UNEXPECTED_MESSAGE, "a message behind the handshake")),
            State::Hello(gathered, parameters) => (gathered, parameters),
        };
        gathered.extend_from_slice(buf);
        let hello = client_hello::read(gathered, limits::QUIC_CLIENT_HELLO);
        let Hello::Whole(name) = hello.map_err(|broken| alert(broken as u8, "no ClientHello"))? else {
            return Ok(false);
        };
        let mut chosen = Box::new(Chosen::new(name, std::mem::take(parameters))?);
        let told = chosen.read(gathered);
        self.state = State::Chosen(chosen);
        told
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(mut bytes) = self.chosen().and_then(|chosen| chosen.tls.quic_transport_parameters()) else {
            return Ok(None);
        };
        TransportParameters::read(Side::Server, &mut Cursor::new(&mut bytes)).map(Some).map_err(Into::into)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let State::Chosen(chosen) = &mut self.state else { return None };
        let Some(change) = chosen.tls.write_hs(buf) else {
            // the tickets have gone out before
            if buf.is_empty() && !chosen.tls.is_handshaking() {
                let (handshake, next) = (chosen.handshake(), chosen.next.take());
                self.state = State::Done(Box::new(Done { handshake, next }));
            }
            return None;
        };
        Some(keys(match change {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                chosen.next = Some(next);
                keys
            }
        }))
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let next = match &mut self.state {
            State::Hello(..) => None,
            State::Chosen(chosen) => chosen.next.as_mut(),
            State::Done(done) => done.next.as_mut(),
        };
        let keys = next?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, _orig_dst_cid: &ConnectionId, _header: &[u8], _payload: &[u8]) -> bool {
        false // clients get them
    }

    fn export_keying_material(
        &self,
        _output: &mut [u8],
        _label: &[u8],
        _context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError) // which nobody here asks for
    }
}
