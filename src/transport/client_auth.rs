//! Clients that show a certificate: `client` of an ssl object.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;

use super::unlike::{self, Kind};

/// Believes certificates that lead to `client.ca` over at most `client.depth` others.
#[derive(Debug)]
pub struct ClientAuth {
    chain: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    known: WebPkiSupportedAlgorithms,
    depth: usize,
    /// Who shows none, or a wrong one, is let in so far, and judged when the request is known
    /// (`skip_mtls_uri_regex`).
    lenient: bool,
    mandatory: bool,
}

impl ClientAuth {
    /// `ca` is PEM, of one certificate or several.
    ///
    /// # Errors
    /// It holds none that can be read.
    pub fn new(
        ca: &str,
        depth: usize,
        lenient: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<ClientAuth, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            let added = certificate.map_err(|error| error.to_string())?;
            roots.add(added).map_err(|error| format!("client.ca: {error}"))?;
        }
        let auth = ClientAuth::of_roots(roots, provider).map_err(|error| format!("client.ca: {error}"))?;
        Ok(ClientAuth { depth, lenient, mandatory: !lenient, ..auth })
    }

    /// Who shows a certificate must have it of these; who shows none is let in.
    ///
    /// # Errors
    /// There is none.
    pub fn of_roots(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<ClientAuth, String> {
        let (roots, known) = (Arc::new(roots), provider.signature_verification_algorithms);
        let chain = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(ClientAuth { chain, roots, known, depth: usize::MAX, lenient: false, mandatory: false })
    }

    /// Is this certificate, with what came behind it, believed now? What a lenient handshake leaves open.
    pub fn believes(&self, shown: &[CertificateDer<'_>]) -> bool {
        let Some((own, others)) = shown.split_first() else { return false };
        self.check(own, others, UnixTime::now()).is_ok()
    }

    fn check(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verdict = match others.len() > self.depth {
            true => self.chain.verify_client_cert(own, &within(self.depth, own, others), now),
            false => self.chain.verify_client_cert(own, others, now),
        };
        match verdict {
            Err(_) if unlike::kind(own).is_some() => {
                unlike::check(own, &self.roots.roots, now).map(|()| ClientCertVerified::assertion())
            }
            verdict => verdict,
        }
    }
}

/// Those of `others` that lead from `own` towards a root in at most so many steps. As OpenSSL counts: the root itself and
/// what has nothing to do with it may be sent, too.
fn within<'a>(
    depth: usize,
    own: &CertificateDer<'_>,
    others: &'a [CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    let read = |der: &'a CertificateDer<'a>| Some((der, X509Certificate::from_der(der).ok()?.1));
    let mut others: Vec<_> = others.iter().filter_map(read).collect();
    let Ok((_, own)) = X509Certificate::from_der(own) else { return Vec::new() };
    let mut issuers = vec![own.issuer().as_raw().to_vec()];
    let mut found = Vec::new();
    for _ in 0..depth {
        let is_one = |(_, other): &mut (_, X509Certificate<'_>)| {
            issuers.iter().any(|issuer| issuer == other.subject().as_raw())
        };
        let step: Vec<_> = others.extract_if(.., is_one).collect();
        issuers = step.iter().map(|(_, other)| other.issuer().as_raw().to_vec()).collect();
        found.extend(step.into_iter().map(|(der, _)| der.clone()));
        if issuers.is_empty() {
            break;
        }
    }
    found
}

impl ClientCertVerifier for ClientAuth {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.check(own, others, now) {
            Err(_) if self.lenient => Ok(ClientCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match unlike::kind(certificate) {
            Some(Kind::Version1) => unlike::verify_tls12(message, certificate, signature, &self.known),
            _ => self.chain.verify_tls12_signature(message, certificate, signature),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match unlike::kind(certificate) {
            Some(Kind::Version1) => unlike::verify_tls13(message, certificate, signature, &self.known),
            _ => self.chain.verify_tls13_signature(message, certificate, signature),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
