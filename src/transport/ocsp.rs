//! What an authority says of a certificate, for the handshake to show with it (RFC 6960): the question, the check of the
//! answer, and the place where answers lie for all cores.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs as crypto;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::der::{self, Reader, tlv};
use crate::limits;

/// The authority's last word on one certificate; all cores read it, control writes it.
#[derive(Debug, Default)]
pub struct Staple(RwLock<Option<Word>>);

/// A response, DER.
#[derive(Debug)]
struct Word {
    response: Arc<[u8]>,
    /// It must not be shown any more after this, seconds since 1970.
    good_until_s: i64,
}

impl Staple {
    /// The response, DER.
    pub fn get(&self) -> Option<Arc<[u8]>> {
        let word = self.0.read().unwrap_or_else(PoisonError::into_inner);
        word.as_ref().map(|word| word.response.clone())
    }

    /// Another response, to be shown until `good_until_s`, seconds since 1970.
    pub fn set(&self, response: Arc<[u8]>, good_until_s: i64) {
        let word = Word { response, good_until_s };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(word);
    }

    /// Takes the response away if it is good no longer.
    pub fn expire(&self, now_s: i64) {
        let mut word = self.0.write().unwrap_or_else(PoisonError::into_inner);
        word.take_if(|word| word.good_until_s <= now_s);
    }
}

/// The staples of the process, by certificate. A handshake looks at its own only.
#[derive(Debug, Default)]
pub struct Staples(Mutex<HashMap<[u8; 32], Weak<Staple>>>);

impl Staples {
    /// That of a certificate (DER), the same while somebody holds it.
    pub fn of(&self, certificate: &[u8]) -> Arc<Staple> {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        let mut staples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(staple) = staples.get(&fingerprint).and_then(Weak::upgrade) {
            return staple;
        }
        if staples.len() == staples.capacity() {
            staples.retain(|_, staple| staple.strong_count() > 0);
        }
        let staple = Arc::default();
        staples.insert(fingerprint, Arc::downgrade(&staple));
        staple
    }
}

/// Where the certificate says that its authority answers (RFC 5280 section 4.2.2.1).
pub fn responder(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else { return None };
        access.accessdescs.iter().find_map(|described| match &described.access_location {
            GeneralName::URI(uri) if described.access_method.to_id_string() == "1.3.6.1.5.5.7.48.1" => {
                Some((*uri).to_owned())
            }
            _ => None,
        })
    })
}

/// The AlgorithmIdentifier of SHA-1, which names the authority here and protects nothing.
const SHA1: &[u8] = &[0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00];

/// The CertID of `certificate`, which `issuer` has signed (section 4.1.1).
fn id(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Vec<u8> {
    let hash = |bytes| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let name = hash(certificate.issuer().as_raw());
    let key = hash(&issuer.public_key().subject_public_key.data);
    let parts = [
        SHA1.to_vec(),
        tlv(der::OCTETS, name.as_ref()),
        tlv(der::OCTETS, key.as_ref()),
        tlv(der::INTEGER, certificate.raw_serial()),
    ];
    tlv(der::SEQUENCE, &parts.concat())
}

/// The question for `certificate`, which `issuer` has signed; both DER.
///
/// # Errors
/// Which of them cannot be read.
pub fn request(certificate: &[u8], issuer: &[u8]) -> Result<Vec<u8>, String> {
    let id = id(&read(certificate, "the certificate")?, &read(issuer, "its issuer")?);
    // OCSPRequest, TBSRequest, requestList, Request
    Ok((0..4).fold(id, |inner, _| tlv(der::SEQUENCE, &inner)))
}

fn read<'a>(der: &'a [u8], what: &str) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(der).map(|(_, read)| read).map_err(|_| format!("{what} cannot be read"))
}

/// Whether `response` says that `certificate` is good, and its authority says it: until when, in seconds since 1970.
/// `None`: it names no end.
///
/// # Errors
/// What is wrong with it.
pub fn check(response: &[u8], certificate: &[u8], issuer: &[u8], now_s: i64) -> Result<Option<i64>, String> {
    let (leaf, authority) = (read(certificate, "the certificate")?, read(issuer, "its issuer")?);
    let basic = basic(response)?;
    let malformed = || "the response cannot be read".to_owned();
    let signed = Signed::read(&mut Reader(basic)).ok_or_else(malformed)?;
    if !signed.is_by(authority.public_key().raw) && !signed.is_by_delegate(&authority, now_s) {
        return Err("the response is not signed by the authority".to_owned());
    }
    let single = single(signed.content, &id(&leaf, &authority)).ok_or_else(malformed)?;
    let Single { status, this_update_s, next_update_s } =
        single.ok_or("the response is about another certificate")?;
    match status & 0x1f {
        0 => {}
        1 => return Err("certificate status \"revoked\" in the OCSP response".to_owned()),
        _ => return Err("certificate status \"unknown\" in the OCSP response".to_owned()),
    }
    let late = next_update_s.is_some_and(|until_s| until_s + limits::OCSP_SKEW_S < now_s);
    if late || this_update_s - limits::OCSP_SKEW_S > now_s {
        return Err("the response is out of date".to_owned());
    }
    Ok(next_update_s)
}

/// The BasicOCSPResponse in a response (section 4.2.1).
fn basic(response: &[u8]) -> Result<&[u8], String> {
    let malformed = || "the response cannot be read".to_owned();
    let mut outer = Reader(Reader(response).take(der::SEQUENCE).ok_or_else(malformed)?);
    let status = outer.take(der::ENUMERATED).ok_or_else(malformed)?;
    if status != [0] {
        return Err(format!("the responder refuses, status {status:?}"));
    }
    let bytes = outer.take(der::explicit(0)).and_then(|tagged| Reader(tagged).take(der::SEQUENCE));
    let mut bytes = Reader(bytes.ok_or_else(malformed)?);
    // id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1
    let basic: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
    if bytes.take(der::OID) != Some(basic) {
        return Err("the response is of an unknown kind".to_owned());
    }
    bytes.take(der::OCTETS).ok_or_else(malformed)
}

/// What an authority has signed: a certificate, or a basic response. Both begin alike.
pub(super) struct Signed<'a> {
    /// What is signed, tag and length included.
    whole: &'a [u8],
    /// The same without them.
    content: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// Certificates that come with it.
    certificates: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Reads one, and leaves what follows.
    pub(super) fn read(from: &mut Reader<'a>) -> Option<Self> {
        let mut parts = Reader(from.take(der::SEQUENCE)?);
        let before = parts.0;
        let content = parts.take(der::SEQUENCE)?;
        let whole = &before[..before.len() - parts.0.len()];
        let algorithm = parts.take(der::SEQUENCE)?;
        let signature = parts.take(der::BITS)?.strip_prefix(&[0])?;
        let certificates = parts.take(der::explicit(0)).and_then(|tagged| Reader(tagged).take(der::SEQUENCE));
        Some(Signed { whole, content, algorithm, signature, certificates: certificates.unwrap_or_default() })
    }

    /// Is it signed with the key of this SubjectPublicKeyInfo?
    pub(super) fn is_by(&self, key: &[u8]) -> bool {
        let Some(mut parts) = Reader(key).take(der::SEQUENCE).map(Reader) else { return false };
        let (Some(kind), Some(bits)) = (parts.take(der::SEQUENCE), parts.take(der::BITS)) else {
            return false;
        };
        let Some(key) = bits.strip_prefix(&[0]) else { return false };
        let known = crypto::default_provider().signature_verification_algorithms.all;
        known.iter().any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == kind
                && algorithm.signature_alg_id().as_ref() == self.algorithm
                && algorithm.verify_signature(key, self.whole, self.signature).is_ok()
        })
    }

    /// Is it signed by somebody whom `authority` has allowed to answer (section 4.2.2.2)?
    fn is_by_delegate(&self, authority: &X509Certificate<'_>, now_s: i64) -> bool {
        let mut certificates = Reader(self.certificates);
        for _ in 0..limits::OCSP_CERTIFICATES {
            let der = certificates.0;
            let Ok((_, delegate)) = X509Certificate::from_der(der) else { return false };
            let signs_answers =
                delegate.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.ocsp_signing);
            let valid = delegate.validity();
            let now_is_within = (valid.not_before.timestamp()..=valid.not_after.timestamp()).contains(&now_s);
            let Some(signed) = Signed::read(&mut certificates) else { return false };
            if signs_answers
                && now_is_within
                && signed.is_by(authority.public_key().raw)
                && self.is_by(delegate.public_key().raw)
            {
                return true;
            }
        }
        false
    }
}

/// What a response says of one certificate.
struct Single {
    status: u8,
    this_update_s: i64,
    next_update_s: Option<i64>,
}

/// Do both name one certificate? The parameters of the hash may be NULL or left out.
fn same(found: &[u8], id: &[u8]) -> bool {
    let behind_hash = |mut content: Reader<'_>| content.take(der::SEQUENCE).map(|_| content.0.to_vec());
    let asked = Reader(id).take(der::SEQUENCE).map(Reader).and_then(behind_hash);
    asked.is_some() && behind_hash(Reader(found)) == asked
}

/// The word on `id` in a ResponseData. `None`: it cannot be read; `Some(None)`: there is none.
fn single(data: &[u8], id: &[u8]) -> Option<Option<Single>> {
    let mut data = Reader(data);
    let _version = data.take(der::explicit(0));
    data.any()?; // the responder, by name or by key
    data.take(der::GENERALIZED_TIME)?;
    let mut responses = Reader(data.take(der::SEQUENCE)?);
    while !responses.0.is_empty() {
        let mut one = Reader(responses.take(der::SEQUENCE)?);
        let is_it = same(one.take(der::SEQUENCE)?, id);
        let (status, _) = one.any()?;
        let this_update_s = der::unix_s(one.take(der::GENERALIZED_TIME)?)?;
        let next_update_s = match one.take(der::explicit(0)) {
            Some(tagged) => Some(der::unix_s(Reader(tagged).take(der::GENERALIZED_TIME)?)?),
            None => None,
        };
        if is_it {
            return Some(Some(Single { status, this_update_s, next_update_s }));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// 2027-01-01: requests and responses were made by OpenSSL shortly before, for a hundred years.
    const NOW_S: i64 = 1_798_761_600;

    macro_rules! made {
        ($file:literal) => {
            &include_bytes!(concat!("tests/ocsp/", $file))[..]
        };
    }

    fn der(pem: &[u8]) -> Vec<u8> {
        CertificateDer::from_pem_slice(pem).unwrap().to_vec()
    }

    fn checked(response: &[u8], pem: &[u8]) -> Result<Option<i64>, String> {
        check(response, &der(pem), &der(made!("ca.pem")), NOW_S)
    }

    #[test]
    fn the_question_is_that_of_openssl() {
        let leaf = der(made!("leaf.pem"));
        assert_eq!(responder(&leaf).as_deref(), Some("http://ocsp.test:8080/x"));
        assert_eq!(request(&leaf, &der(made!("ca.pem"))).unwrap(), made!("leaf.req"));
        assert_eq!(responder(&der(made!("ca.pem"))), None);
        assert!(request(b"no certificate", &leaf).is_err());
    }

    #[test]
    fn an_answer_must_be_good_signed_and_timely() {
        let leaf = made!("leaf.pem");
        let until_s = checked(made!("good.der"), leaf).unwrap().unwrap();
        assert!(until_s > NOW_S + 99 * 365 * 86_400, "{until_s}");
        assert_eq!(checked(made!("delegated.der"), leaf), checked(made!("delegated.der"), leaf));
        assert!(checked(made!("delegated.der"), leaf).is_ok(), "the authority has allowed another to answer");
        for (response, pem, why) in [
            (
                made!("revoked.der"),
                made!("revoked.pem"),
                "certificate status \"revoked\" in the OCSP response",
            ),
            (
                made!("unknown.der"),
                made!("unlisted.pem"),
                "certificate status \"unknown\" in the OCSP response",
            ),
            (made!("good.der"), made!("revoked.pem"), "the response is about another certificate"),
            (made!("unallowed.der"), leaf, "the response is not signed by the authority"),
            (made!("forged.der"), leaf, "the response is not signed by the authority"),
            (&[0x30, 3, 0x0a, 1, 6], leaf, "the responder refuses, status [6]"),
            (b"<html>", leaf, "the response cannot be read"),
        ] {
            assert_eq!(checked(response, pem), Err(why.to_owned()));
        }
        let at = |now_s| check(made!("good.der"), &der(leaf), &der(made!("ca.pem")), now_s).is_ok();
        assert!(at(until_s) && !at(until_s + limits::OCSP_SKEW_S + 1), "it has an end");
        assert!(!at(1_700_000_000), "it is not from the future");
    }

    #[test]
    fn no_byte_of_what_is_signed_can_be_changed() {
        let (good, leaf, ca) = (made!("good.der"), der(made!("leaf.pem")), der(made!("ca.pem")));
        let signed = Signed::read(&mut Reader(basic(good).unwrap())).unwrap();
        let place = |part: &[u8]| good.windows(part.len()).position(|found| found == part).unwrap();
        let parts = [signed.whole, signed.algorithm, signed.signature];
        let kept: Vec<usize> = parts.iter().flat_map(|part| place(part)..place(part) + part.len()).collect();
        for at in 0..good.len() {
            assert!(check(&good[..at], &leaf, &ca, NOW_S).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut changed = good.to_vec();
                changed[at] ^= 1 << bit;
                // whatever is changed ends well, and what the authority has signed is found out
                let checked = check(&changed, &leaf, &ca, NOW_S);
                assert!(checked.is_err() || !kept.contains(&at), "changed at {at}");
            }
        }
    }

    #[test]
    fn a_certificate_has_one_staple_while_somebody_holds_it() {
        let staples = Staples::default();
        let (one, same) = (staples.of(b"a"), staples.of(b"a"));
        one.set(Arc::from(&b"response"[..]), 1);
        assert_eq!(same.get().as_deref(), Some(&b"response"[..]));
        assert_eq!(staples.of(b"b").get(), None);
        drop((one, same));
        assert_eq!(staples.of(b"a").get(), None);
        (0..1000u32).for_each(|n| drop(staples.of(&n.to_be_bytes())));
        assert!(staples.0.lock().unwrap().len() < 20, "what nobody holds is forgotten");
    }

    #[test]
    fn the_signer_is_looked_for_among_a_few_certificates() {
        let ca = der(made!("ca.pem"));
        let (_, authority) = X509Certificate::from_der(&ca).unwrap();
        let signed = Signed::read(&mut Reader(basic(made!("delegated.der")).unwrap())).unwrap();
        for (others, is_found) in [(limits::OCSP_CERTIFICATES - 1, true), (limits::OCSP_CERTIFICATES, false)]
        {
            let certificates = [&ca.repeat(others), signed.certificates].concat();
            let signed = Signed { certificates: &certificates, ..signed };
            assert_eq!(signed.is_by_delegate(&authority, NOW_S), is_found, "behind {others} others");
        }
    }
}
