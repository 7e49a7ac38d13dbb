//! TLS towards etcd: whom to trust, what to call it, and who we are.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tonic::transport::{ClientTlsConfig, Endpoint, Identity};

use crate::transport::trust::{self, AcceptAny};

/// `deployment.etcd.tls`, and the trusted certificates of `apisix.ssl`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Client certificate and its key, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Verify etcd's certificate.
    pub verify: bool,
    /// The name to ask for and to verify, if it is not the host's.
    pub sni: Option<String>,
    /// `apisix.ssl.ssl_trusted_certificate`: PEM files and `system`, separated by commas; the system's if `None`.
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
        return Ok(endpoint.tls_config_with_verifier(config, Arc::new(AcceptAny))?);
    }
    let trusted = tls.trusted.as_ref().map_or("system".into(), |places| places.to_string_lossy());
    let roots = trust::roots(&trusted)?;
    let config = config.trust_anchors(roots.roots.iter().cloned());
    Ok(endpoint.tls_config(config)?)
}
