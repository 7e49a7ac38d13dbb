//! TLS towards etcd: whom to trust, what to call it, and who we are.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// `deployment.etcd.tls`, and the trusted certificates of `apisix.ssl`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Client certificate and its key, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Verify etcd's certificate.
    pub verify: bool,
    /// The name to ask for and to verify, if it is not the host's.
    pub sni: Option<String>,
    /// `apisix.ssl.ssl_trusted_certificate`, PEM; the system's roots if `None`.
    pub trusted: Option<PathBuf>,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls { identity: None, verify: true, sni: None, trusted: None }
    }
}

/// The endpoint for one host, `http://` or `https://` (a bare `host:port` is http).
pub fn endpoint(host: &str, tls: &Tls) -> Result<Endpoint, Box<dyn Error>> {
    let url = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
    let endpoint = Endpoint::from_shared(url)?;
    if !host.starts_with("https://") {
        return Ok(endpoint);
    }
    let mut config = ClientTlsConfig::new();
    if let Some(sni) = &tls.sni {
        config = config.domain_name(sni);
    }
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(fs::read(certificate)?, fs::read(key)?));
    }
    if !tls.verify {
        return Ok(endpoint.tls_config_with_verifier(config, Arc::new(AcceptAny::new()))?);
    }
    let config = match &tls.trusted {
        Some(file) => config.ca_certificate(Certificate::from_pem(fs::read(file)?)),
        None => config.with_native_roots(),
    };
    Ok(endpoint.tls_config(config)?)
}

/// `verify: false`: any certificate will do, but the peer must hold its key.
#[derive(Debug)]
struct AcceptAny {
    provider: CryptoProvider,
}

impl AcceptAny {
    fn new() -> AcceptAny {
        AcceptAny { provider: aws_lc_rs::default_provider() }
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
