//! An ssl object as a TLS server: its certificates, versions and policy, made ready once a process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::{digest, hmac, rand};
use rustls::crypto::{CryptoProvider, aws_lc_rs as crypto};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, ServerConfig, SignatureAlgorithm, SupportedCipherSuite, SupportedProtocolVersion, version,
};
use serde_json::Value;

use super::client_auth::ClientAuth;
use super::ocsp::{Staple, Staples};
use super::pair;
use super::sessions::{Policy, PolicySessions, Sessions, Tickets};
use crate::config::{Ssl, TlsVersions};
use crate::telemetry::clock;

/// An ssl object ready for handshakes.
#[derive(Debug)]
pub struct Site {
    /// How rustls serves it.
    pub config: Arc<ServerConfig>,
    /// The same where something else than HTTP is spoken: the protocols of ALPN are the client's affair.
    pub stream_config: Arc<ServerConfig>,
    /// How rustls serves it inside QUIC: TLS 1.3 is served, and HTTP/3 somewhere.
    pub quic: Option<Arc<ServerConfig>>,
    /// Whom of the clients it believes, if they must show who they are.
    pub client_auth: Option<Arc<ClientAuth>>,
}

/// All sites of the process. Each core asks for one when its first client comes.
pub struct Sites {
    options: Ssl,
    provider: Arc<CryptoProvider>,
    /// What ALPN offers, best first.
    alpn: Vec<Vec<u8>>,
    /// Clients may come by QUIC.
    quic: bool,
    shared: Arc<Shared>,
    made: Mutex<Made>,
}

/// By the key of the ssl object, with its revision: somebody holds it, or it is made anew.
#[derive(Default)]
struct Made {
    sites: HashMap<Box<str>, (i64, Weak<Site>)>,
    /// With so many, those that nobody holds are looked for.
    sweep_at: usize,
}

/// What outlives a reload: sessions, the secret of tickets, OCSP responses.
pub struct Shared {
    /// Written by control.
    pub staples: Arc<Staples>,
    sessions: Arc<Sessions>,
    secret: Arc<hmac::Key>,
}

impl Shared {
    /// # Errors
    /// The host has no randomness.
    pub fn new() -> Result<Shared, String> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| "no randomness for TLS tickets".to_owned())?;
        Ok(Shared {
            staples: Arc::default(),
            sessions: Arc::default(),
            secret: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)),
        })
    }
}

impl Sites {
    /// None yet. `alpn` is what is offered to clients, best first; `quic`: they may come by QUIC, too.
    pub fn new(options: Ssl, alpn: &[&[u8]], quic: bool, shared: Arc<Shared>) -> Sites {
        let mut provider = crypto::default_provider();
        if let Some(names) = &options.ciphers {
            restrict(&mut provider.cipher_suites, names);
        }
        Sites {
            options,
            provider: Arc::new(provider),
            alpn: alpn.iter().map(|name| name.to_vec()).collect(),
            quic,
            shared,
            made: Mutex::default(),
        }
    }

    /// The name of a client that sent none.
    pub fn fallback_sni(&self) -> Option<&str> {
        self.options.fallback_sni.as_deref()
    }

    /// The site of an ssl object: `value` is what `id` was at `revision`, private keys in the clear.
    ///
    /// # Errors
    /// Why it cannot serve: a certificate, a key, versions.
    pub fn get(&self, id: &str, revision: i64, value: &Value) -> Result<Arc<Site>, String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, site)) = made.sites.get(id)
            && *of == revision
            && let Some(site) = site.upgrade()
        {
            return Ok(site);
        }
        let site = Arc::new(self.build(id, value)?);
        if made.sites.len() >= made.sweep_at {
            made.sites.retain(|_, (_, site)| site.strong_count() > 0);
            made.sweep_at = 2 * made.sites.len() + 64;
        }
        made.sites.insert(id.into(), (revision, Arc::downgrade(&site)));
        Ok(site)
    }

    fn build(&self, id: &str, value: &Value) -> Result<Site, String> {
        let keys = certified_keys(value, &self.provider)?;
        let client_auth = client_auth(value, &self.provider)?.map(Arc::new);
        let versions = versions(value, self.options.versions)?;
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?;
        let builder = match &client_auth {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let stapled = value.pointer("/ocsp_stapling/enabled") == Some(&Value::Bool(true));
        let shown = keys.into_iter().map(|key| {
            let staple = key.cert.first().filter(|_| stapled).map(|own| self.shared.staples.of(own));
            (key, staple)
        });
        let mut config = builder.with_cert_resolver(Arc::new(Certificates(shown.collect())));
        let quic = (self.quic && versions.contains(&&version::TLS13)).then(|| {
            let mut config = config.clone();
            config.alpn_protocols = vec![b"h3".to_vec()];
            // Kept by us, whatever `ssl_session_tickets` says: a session that is taken out once cannot be replayed.
            let policy = policy("quic", id, value);
            config.session_storage = Arc::new(PolicySessions { all: self.shared.sessions.clone(), policy });
            config.max_early_data_size = u32::MAX; // QUIC has limits of its own (RFC 9001 section 4.6.1)
            Arc::new(config)
        });
        config.alpn_protocols.clone_from(&self.alpn);
        let policy = policy("tls", id, value);
        if self.options.session_tickets {
            let secret = self.shared.secret.clone();
            config.ticketer = Arc::new(Tickets { secret, policy, unix_s: clock::unix_s });
            config.session_storage = Arc::new(NoServerSessionStorage {});
        } else {
            config.session_storage = Arc::new(PolicySessions { all: self.shared.sessions.clone(), policy });
        }
        let mut stream_config = config.clone();
        stream_config.alpn_protocols.clear();
        let stream_config = Arc::new(stream_config);
        Ok(Site { config: Arc::new(config), stream_config, quic, client_auth })
    }
}

/// Everything of the object decides: what changes it ends its sessions. Those of TCP and QUIC are apart, too.
fn policy(below: &str, id: &str, value: &Value) -> Policy {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [below, id] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    context.update(value.to_string().as_bytes());
    let mut policy = Policy::default();
    policy.copy_from_slice(context.finish().as_ref());
    policy
}

/// The object's own `ssl_protocols` take the place of those of config.yaml.
fn versions(value: &Value, global: TlsVersions) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let mut served = global;
    if let Some(own) = value.get("ssl_protocols").and_then(Value::as_array) {
        let names = own.iter().filter_map(Value::as_str);
        let (versions, others) = TlsVersions::named(names);
        if versions.is_empty() {
            return Err(format!(
                "ssl_protocols: {} is not served, only TLSv1.2 and TLSv1.3",
                others.join(", ")
            ));
        }
        if !others.is_empty() {
            log::warn!("ssl_protocols: {} is not served, only TLSv1.2 and TLSv1.3", others.join(", "));
        }
        served = versions;
    }
    let known = [(served.v1_3, &version::TLS13), (served.v1_2, &version::TLS12)];
    Ok(known.into_iter().filter_map(|(on, version)| on.then_some(version)).collect())
}

fn client_auth(value: &Value, provider: &Arc<CryptoProvider>) -> Result<Option<ClientAuth>, String> {
    let Some(client) = value.get("client") else { return Ok(None) };
    let Some(ca) = client.get("ca").and_then(Value::as_str) else { return Ok(None) };
    let depth = client.get("depth").and_then(Value::as_u64).unwrap_or(1);
    let depth = usize::try_from(depth).unwrap_or(usize::MAX);
    let lenient = client.get("skip_mtls_uri_regex").is_some();
    ClientAuth::new(ca, depth, lenient, provider.clone()).map(Some)
}

/// The pairs of `cert` and `key`, `certs` and `keys`.
fn certified_keys(value: &Value, provider: &CryptoProvider) -> Result<Vec<Arc<CertifiedKey>>, String> {
    let one = |name: &str| value.get(name).and_then(Value::as_str);
    let more = |name: &str| value.get(name).and_then(Value::as_array).into_iter().flatten();
    let first = one("cert").zip(one("key"));
    let others = more("certs").filter_map(Value::as_str).zip(more("keys").filter_map(Value::as_str));
    let pairs = first.into_iter().chain(others);
    let mut keys =
        pairs.map(|(cert, key)| certified_key(cert, key, provider)).collect::<Result<Vec<_>, _>>()?;
    // Signing with an elliptic curve costs a tenth of signing with RSA: it goes first where the client can.
    keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
    match keys.is_empty() {
        true => Err("no certificate".to_owned()),
        false => Ok(keys),
    }
}

fn certified_key(cert: &str, key: &str, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("cert: {error}"))?;
    if chain.is_empty() {
        return Err("cert: no certificate in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| format!("key: {error}"))?;
    let certified = pair::certified(chain, key, provider);
    certified.map(Arc::new).map_err(|error| format!("cert and key: {error}"))
}

/// The certificates of one site, best first, and what their authorities say of them.
#[derive(Debug)]
struct Certificates(Vec<(Arc<CertifiedKey>, Option<Arc<Staple>>)>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable =
            self.0.iter().find(|(key, _)| key.key.choose_scheme(hello.signature_schemes()).is_some());
        let (key, staple) = usable.or(self.0.first())?;
        let Some(response) = staple.as_ref().and_then(|staple| staple.get()) else {
            return Some(key.clone());
        };
        // sent to those who ask for it; the copy is a small part of a handshake
        Some(Arc::new(CertifiedKey { ocsp: Some(response.to_vec()), ..(**key).clone() }))
    }
}

/// Keeps the suites of TLS 1.2 that `names` allows, in its order; those of TLS 1.3 are not OpenSSL's `ssl_ciphers`.
fn restrict(suites: &mut Vec<SupportedCipherSuite>, names: &[String]) {
    let place = |suite: &SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls13(_) => Some(0),
        SupportedCipherSuite::Tls12(_) => {
            let own = cipher_name(suite.suite());
            names.iter().position(|name| name == own).map(|at| at + 1)
        }
    };
    let unknown: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| !suites.iter().any(|suite| cipher_name(suite.suite()) == *name))
        .collect();
    if !unknown.is_empty() {
        log::info!("ssl_ciphers that are not served: {}", unknown.join(":"));
    }
    suites.retain(|suite| place(suite).is_some());
    suites.sort_by_key(place);
}

/// What OpenSSL calls a suite: `$ssl_cipher`.
pub fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}
