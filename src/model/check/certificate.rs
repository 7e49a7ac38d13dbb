//! Whether a certificate and its key can be read. The texts are those of lua-resty-core over OpenSSL.

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Lookups;

/// Checks a PEM certificate (chain) and, if given, its private key: PEM, or encrypted as it is stored.
pub(super) fn check_pair(cert: &str, key: Option<&str>, lookups: &dyn Lookups) -> Result<(), String> {
    let readable = CertificateDer::from_pem_slice(cert.as_bytes()).is_ok_and(|cert| is_der_sequence(&cert));
    if !readable {
        return Err("failed to parse cert: PEM_read_bio_X509_AUX() failed".to_owned());
    }
    let Some(key) = key else { return Ok(()) };
    let plain = if key.starts_with("---") { Some(key.to_owned()) } else { lookups.decrypt_key(key) };
    let plain = plain.ok_or("failed to decrypt previous encrypted key")?;
    match PrivateKeyDer::from_pem_slice(plain.as_bytes()) {
        Ok(key) if is_der_sequence(key.secret_der()) => belong_together(cert, &key),
        _ => Err("failed to parse key: PEM_read_bio_PrivateKey() failed".to_owned()),
    }
}

/// Beyond APISIX, which notices at the first handshake: a key that is not the certificate's is refused. What cannot be
/// told (a kind of key that is not served) is let pass.
fn belong_together(cert: &str, key: &PrivateKeyDer<'_>) -> Result<(), String> {
    let Ok(chain) = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>() else {
        return Ok(());
    };
    let Ok(key) = any_supported_type(key) else { return Ok(()) };
    match CertifiedKey::new(chain, key).keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err("the key is not that of the certificate".to_owned())
        }
        _ => Ok(()),
    }
}

/// Certificates and keys are one ASN.1 SEQUENCE that fills the whole of the bytes (X.690, 8.1).
fn is_der_sequence(der: &[u8]) -> bool {
    let [0x30, first, rest @ ..] = der else { return false };
    match first {
        0..=0x7f => rest.len() == usize::from(*first),
        // The long form: so many bytes of length follow; four carry more than any limit of ours.
        0x81..=0x84 => {
            let count = usize::from(first & 0x7f);
            let Some((length, content)) = rest.split_at_checked(count) else { return false };
            length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) == content.len()
        }
        _ => false,
    }
}
