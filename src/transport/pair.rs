//! A chain of certificates and the key of its first.

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;

/// Puts them together. `CertifiedKey::from_der` reads the certificate as webpki does, which knows none of X.509
/// version 1; it is the other side that has to like it. What cannot be read here is left to it.
///
/// # Errors
/// There is no certificate that can be read, or the key is of a kind that nobody knows or another certificate's.
pub fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let own = chain.first().ok_or(Error::NoCertificatesPresented)?;
    let Ok((_, own)) = X509Certificate::from_der(own) else {
        return CertifiedKey::from_der(chain, key, provider);
    };
    let key = provider.key_provider.load_private_key(key)?;
    if key.public_key().is_some_and(|key| own.public_key().raw != key.as_ref()) {
        return Err(InconsistentKeys::KeyMismatch.into());
    }
    Ok(CertifiedKey::new(chain, key))
}
