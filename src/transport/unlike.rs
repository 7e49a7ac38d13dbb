//! Clients' own certificates that webpki takes from nobody: those of X.509 version 1, which is what
//! `openssl x509 -req` makes without a file of extensions, and those of authorities, as one that signs itself often is.
//! OpenSSL, and so nginx, takes both. Here they have to be signed by a root itself.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error};
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::X509Version;

use super::der::{self, Reader, tlv};
use super::ocsp::Signed;

/// Is it one of those? If so, is it one of version 1?
pub fn kind(own: &CertificateDer<'_>) -> Option<Kind> {
    let (_, read) = X509Certificate::from_der(own).ok()?;
    match (read.version(), read.is_ca()) {
        (X509Version::V1, _) => Some(Kind::Version1),
        (_, true) => Some(Kind::Authority),
        _ => None,
    }
}

/// Why webpki does not take a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It cannot be read at all.
    Version1,
    /// It is read, and taken from nobody.
    Authority,
}

/// Is it a client's, signed by one of the roots, and does it hold now?
///
/// # Errors
/// It is not.
pub fn check(own: &CertificateDer<'_>, roots: &[TrustAnchor<'_>], now: UnixTime) -> Result<(), Error> {
    let refused = |why| Err(Error::InvalidCertificate(why));
    let Ok(([], read)) = X509Certificate::from_der(own) else {
        return refused(CertificateError::BadEncoding);
    };
    let valid = read.validity();
    let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now_s < valid.not_before.timestamp() {
        return refused(CertificateError::NotValidYet);
    }
    if now_s > valid.not_after.timestamp() {
        return refused(CertificateError::Expired);
    }
    if has_unknown_demands(&read) {
        return refused(CertificateError::UnhandledCriticalExtension);
    }
    if !is_for_clients(&read) {
        return refused(CertificateError::InvalidPurpose);
    }
    let Some(signed) = Signed::read(&mut Reader(own)) else { return refused(CertificateError::BadEncoding) };
    let issuer = Reader(read.issuer().as_raw()).take(der::SEQUENCE);
    let mut issuers = roots
        .iter()
        // what a root constrains is webpki's to judge
        .filter(|root| root.name_constraints.is_none() && issuer == Some(root.subject.as_ref()));
    match issuers.any(|root| signed.is_by(&tlv(der::SEQUENCE, root.subject_public_key_info.as_ref()))) {
        true => Ok(()),
        false => refused(CertificateError::UnknownIssuer),
    }
}

/// Is there a critical extension that is not understood (RFC 5280, section 4.2)?
fn has_unknown_demands(read: &X509Certificate<'_>) -> bool {
    let mut critical = read.extensions().iter().filter(|extension| extension.critical);
    critical.any(|extension| {
        let parsed = extension.parsed_extension();
        parsed.unsupported() || parsed.error().is_some()
    })
}

/// May its key be used as OpenSSL wants it of a client's? An authority that may only sign certificates is none.
fn is_for_clients(read: &X509Certificate<'_>) -> bool {
    let (Ok(extended), Ok(usage)) = (read.extended_key_usage(), read.key_usage()) else { return false };
    extended.is_none_or(|usage| usage.value.any || usage.value.client_auth)
        && usage.is_none_or(|usage| usage.value.digital_signature() || usage.value.key_agreement())
}

/// The signature of a handshake of TLS 1.3 by a certificate of version 1.
///
/// # Errors
/// It is none of its key's.
pub fn verify_tls13(
    message: &[u8],
    own: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    known: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let key = SubjectPublicKeyInfoDer::from(public_key(own)?);
    verify_tls13_signature_with_raw_key(message, &key, signature, known)
}

/// The same of TLS 1.2, where the scheme does not name the curve.
///
/// # Errors
/// It is none of its key's.
pub fn verify_tls12(
    message: &[u8],
    own: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    known: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let bad = Error::InvalidCertificate(CertificateError::BadSignature);
    let key = public_key(own)?;
    let Some((kind, key)) = key_of(key) else { return Err(bad) };
    let of_scheme = known.mapping.iter().find(|(scheme, _)| *scheme == signature.scheme);
    let mut candidates = of_scheme.into_iter().flat_map(|(_, candidates)| candidates.iter());
    let is_by = candidates.any(|algorithm| {
        algorithm.public_key_alg_id().as_ref() == kind
            && algorithm.verify_signature(key, message, signature.signature()).is_ok()
    });
    if is_by { Ok(HandshakeSignatureValid::assertion()) } else { Err(bad) }
}

fn public_key<'a>(own: &'a CertificateDer<'_>) -> Result<&'a [u8], Error> {
    let read = X509Certificate::from_der(own);
    let (_, read) = read.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(read.tbs_certificate.subject_pki.raw)
}

/// The algorithm of a SubjectPublicKeyInfo and the key in it.
fn key_of(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut info = Reader(Reader(info).take(der::SEQUENCE)?);
    Some((info.take(der::SEQUENCE)?, info.take(der::BITS)?.strip_prefix(&[0])?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;
    use crate::transport::client_auth::ClientAuth;

    /// 2027-01-01: the certificates were made by OpenSSL shortly before, for a hundred years.
    const NOW_S: u64 = 1_798_761_600;

    macro_rules! made {
        ($file:literal) => {
            &include_bytes!(concat!("tests/", $file))[..]
        };
    }

    fn der(pem: &[u8]) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem).unwrap()
    }

    fn believed(roots: &[&[u8]]) -> RootCertStore {
        let mut store = RootCertStore::empty();
        roots.iter().for_each(|root| store.add(der(root)).unwrap());
        store
    }

    #[test]
    fn a_clients_certificate_must_be_timely_for_clients_and_without_unknown_demands() {
        let roots = believed(&[made!("unlike/root.pem"), made!("unlike/constrained.pem")]);
        let century_s = 100 * 366 * 86_400;
        let table = [
            (made!("unlike/authority.pem"), NOW_S, None),
            (made!("unlike/v1.pem"), NOW_S, None),
            (made!("unlike/root.pem"), NOW_S, None),
            (made!("unlike/asking.pem"), NOW_S, None),
            (made!("unlike/v1.pem"), 1_700_000_000, Some(CertificateError::NotValidYet)),
            (made!("unlike/v1.pem"), NOW_S + century_s, Some(CertificateError::Expired)),
            (made!("unlike/demanding.pem"), NOW_S, Some(CertificateError::UnhandledCriticalExtension)),
            (made!("unlike/serving.pem"), NOW_S, Some(CertificateError::InvalidPurpose)),
            (made!("unlike/signing.pem"), NOW_S, Some(CertificateError::InvalidPurpose)),
            // its issuer may only sign for some names, which a client's has not
            (made!("unlike/below.pem"), NOW_S, Some(CertificateError::UnknownIssuer)),
            (made!("ocsp/ca.pem"), NOW_S, Some(CertificateError::UnknownIssuer)),
        ];
        for (n, (pem, now_s, refused)) in table.into_iter().enumerate() {
            assert!(kind(&der(pem)).is_some(), "{n}");
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
            let expected = refused.map_or(Ok(()), |why| Err(Error::InvalidCertificate(why)));
            assert_eq!(check(&der(pem), &roots.roots, now), expected, "{n}");
        }
    }

    /// What a server says of a client that shows the certificate of version 1 and signs with this key.
    fn shown_with(own: &[u8], version: &'static rustls::SupportedProtocolVersion) -> Result<(), Error> {
        let provider = Arc::new(default_provider());
        let key = |pem: &[u8]| PrivateKeyDer::from_pem_slice(pem).unwrap();
        let auth = ClientAuth::of_roots(believed(&[made!("unlike/root.pem")]), provider.clone()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])?
            .with_client_cert_verifier(Arc::new(auth))
            .with_single_cert(vec![der(made!("server.pem"))], key(made!("server.key.pem")))?;
        let signs = provider.key_provider.load_private_key(key(own))?;
        let shown = CertifiedKey::new(vec![der(made!("unlike/v1.pem"))], signs);
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .with_root_certificates(believed(&[made!("ca.pem")]))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        let mut server = ServerConnection::new(Arc::new(server))?;
        let mut client = ClientConnection::new(Arc::new(client), "server.example".try_into().unwrap())?;
        let (mut up, mut down) = (Vec::new(), Vec::new());
        while server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            for bytes in std::mem::take(&mut up).chunks(4096) {
                server.read_tls(&mut &bytes[..]).unwrap();
                server.process_new_packets()?;
            }
            while server.wants_write() {
                server.write_tls(&mut down).unwrap();
            }
            for bytes in std::mem::take(&mut down).chunks(4096) {
                client.read_tls(&mut &bytes[..]).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn who_shows_a_certificate_of_version_1_must_have_its_key() {
        for version in [&TLS12, &TLS13] {
            assert_eq!(shown_with(made!("unlike/v1.key.pem"), version), Ok(()), "{version:?}");
            let forged = Err(Error::InvalidCertificate(CertificateError::BadSignature));
            assert_eq!(shown_with(made!("client.key.pem"), version), forged, "{version:?}");
        }
    }
}
