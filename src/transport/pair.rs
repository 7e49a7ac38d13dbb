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

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use rustls::crypto::aws_lc_rs::default_provider;

    use super::*;

    #[test]
    fn a_certificate_that_cannot_be_read_is_refused() {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        for chain in [vec![], vec![CertificateDer::from(b"no certificate".to_vec())]] {
            let key = PrivateKeyDer::Pkcs8(pkcs8.as_ref().to_vec().into());
            assert!(certified(chain, key, &default_provider()).is_err());
        }
    }
}
