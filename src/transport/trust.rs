//! TLS towards upstreams: whom we trust, who we are, and rustls' configuration of both.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::pair;

/// Whose certificates are accepted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Anyone's: nginx's `proxy_ssl_verify off`, APISIX's default towards upstreams.
    Anyone,
    /// Those that lead to one of these roots and name the server.
    Roots(Arc<RootCertStore>),
}

/// What we show to a server that asks for a client certificate.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads `tls.client_cert` and `tls.client_key` of an upstream.
    pub fn from_pem(cert: &str, key: &str) -> io::Result<Identity> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| invalid(format!("client_cert: {error}")))?;
        if chain.is_empty() {
            return Err(invalid("client_cert: no certificate in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| invalid(format!("client_key: {error}")))?;
        Ok(Identity { chain, key })
    }
}

/// Reads `apisix.ssl.ssl_trusted_certificate`: a list, separated by commas, of paths to PEM files or
/// `system` for the operating system's roots. Roots that do not parse are left out with a warning.
pub fn roots(trusted: &str) -> io::Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for place in trusted.split(',').map(str::trim).filter(|place| !place.is_empty()) {
        let certificates: Vec<CertificateDer<'static>> = if place == "system" {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                log::warn!("the system's trusted certificates: {error}");
            }
            found.certs
        } else {
            CertificateDer::pem_file_iter(place)
                .and_then(Iterator::collect)
                .map_err(|error| invalid(format!("ssl_trusted_certificate {place}: {error}")))?
        };
        let (_, ignored) = store.add_parsable_certificates(certificates);
        if ignored > 0 {
            log::warn!("{ignored} trusted certificates of {place} cannot be read and are left out");
        }
    }
    Ok(Arc::new(store))
}

/// A client's configuration. Sessions are resumed among connections that share it, so each core makes its
/// own, and one for each trust and identity. `alpn` may be empty.
pub fn client_config(
    trust: &Trust,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny)),
        Trust::Roots(roots) => builder.with_root_certificates(Arc::clone(roots)),
    };
    let mut config = match identity {
        Some(Identity { chain, key }) => {
            let own = pair::certified(chain.clone(), key.clone_key(), &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The name to ask a TLS server for: `host` without its port. `None` if it is no name and no address.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    let bare = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        },
    };
    ServerName::try_from(bare).ok().map(|name| name.to_owned())
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Verification off. Signatures are not looked at either: without a trusted certificate they prove
/// nothing, and old certificates that rustls cannot read must work as they do in nginx.
#[derive(Debug)]
pub struct AcceptAny;

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
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_has_no_port_and_no_brackets() {
        for (host, name) in [
            ("a.example", Some("a.example")),
            ("a.example:8443", Some("a.example")),
            ("192.0.2.1:443", Some("192.0.2.1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("", None),
            ("not a name", None),
        ] {
            assert_eq!(server_name(host).map(|n| n.to_str().into_owned()).as_deref(), name, "{host}");
        }
    }

    #[test]
    fn a_bad_identity_or_root_file_is_named() {
        let error = Identity::from_pem("", "").unwrap_err().to_string();
        assert!(error.starts_with("client_cert"), "{error}");
        let error = roots("/no/such/file.pem").unwrap_err().to_string();
        assert!(error.contains("/no/such/file.pem"), "{error}");
        assert!(roots("").unwrap().is_empty());
    }
}
