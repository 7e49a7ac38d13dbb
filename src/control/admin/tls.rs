//! The Admin API over TLS (`https_admin`, `admin_api_mtls`): rustls on the control thread.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config::AdminTls;
use crate::transport::client_auth::ClientAuth;
use crate::transport::pair;

/// How connections become TLS.
#[derive(Clone)]
pub struct AdminAcceptor {
    /// Does the handshakes.
    pub acceptor: TlsAcceptor,
    /// Who shows no certificate gets nginx's 400.
    pub needs_certificate: bool,
}

/// Reads the files. The error names the one that cannot be used.
pub fn acceptor(files: &AdminTls) -> Result<AdminAcceptor, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| named(&files.key, &error))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| named(path, &error))?;
            }
            // A client without a certificate is let in so far that it can be told what it lacks.
            let verifier =
                ClientAuth::of_roots(roots, provider.clone()).map_err(|error| named(path, &error))?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
    };
    let own = pair::certified(chain, key, &provider).map_err(|error| named(&files.cert, &error))?;
    let config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    Ok(AdminAcceptor { acceptor: Arc::new(config).into(), needs_certificate: files.client_ca.is_some() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(chain) if chain.is_empty() => Err(named(path, &"no certificate in it")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(named(path, &error)),
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("admin_api_mtls: {}: {error}", path.display())
}
