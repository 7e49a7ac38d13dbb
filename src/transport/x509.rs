//! What the variables `$ssl_client_*` say of a certificate, in nginx's words (ngx_event_openssl.c).

use std::fmt::Write;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use crate::wire::hex;

/// The value of `$ssl_client_<name>`, or `None` where there is no such variable or the certificate cannot be read.
/// `unix_s` is now.
pub fn variable(der: &[u8], name: &str, unix_s: i64) -> Option<String> {
    let parsed = || X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate);
    match name {
        "raw_cert" => Some(pem(der)),
        "escaped_cert" => Some(escaped(&pem(der))),
        // SHA-1 names the certificate here and protects nothing
        "fingerprint" => Some(hex::lower(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())),
        "s_dn" => Some(rfc2253(parsed()?.subject())),
        "i_dn" => Some(rfc2253(parsed()?.issuer())),
        "serial" => Some(serial(parsed()?.raw_serial())),
        "v_start" => time(parsed()?.validity().not_before),
        "v_end" => time(parsed()?.validity().not_after),
        "v_remain" => {
            Some(((parsed()?.validity().not_after.timestamp() - unix_s) / 86_400).max(0).to_string())
        }
        _ => None,
    }
}

/// Upper-case hexadecimal, as OpenSSL prints integers: whole bytes, no sign byte.
fn serial(bytes: &[u8]) -> String {
    let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len().saturating_sub(1));
    hex::upper(&bytes[from..])
}

fn pem(der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// Everything but letters, digits and `-._~` as %XX.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                write!(out, "{}", char::from(byte))
            }
            _ => write!(out, "%{byte:02X}"),
        };
        out
    })
}

fn time(time: ASN1Time) -> Option<String> {
    let at = jiff::Timestamp::from_second(time.timestamp()).ok()?;
    Some(at.strftime("%b %e %H:%M:%S %Y GMT").to_string())
}

/// A name as RFC 2253 writes it: the last part first, special characters escaped.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for together in name.iter_rdn() {
        let attributes = together.iter().map(|attribute| {
            let oid = attribute.attr_type();
            let known = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
            format!("{known}={}", escaped_value(attribute.as_slice()))
        });
        parts.push(attributes.collect::<Vec<_>>().join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn escaped_value(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, byte) in value.iter().enumerate() {
        let first_or_last_blank = *byte == b' ' && (at == 0 || at + 1 == value.len());
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend(['\\', char::from(*byte)]),
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if first_or_last_blank => out.push_str("\\ "),
            0x20..=0x7e => out.push(char::from(*byte)),
            _ => drop(write!(out, "\\{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn variables_are_those_of_nginx() {
        let text = include_str!("tests/client.pem");
        let der = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        let var = |name: &str| variable(&der, name, 0).unwrap_or_default();
        assert_eq!((var("s_dn"), var("i_dn")), ("CN=client".into(), "CN=ringway test CA".into()));
        assert_eq!(var("raw_cert").trim(), text[text.find("-----").unwrap()..].trim());
        assert!(var("escaped_cert").starts_with("-----BEGIN%20CERTIFICATE-----%0A"));
        assert_eq!(var("fingerprint").len(), 40);
        assert!(var("v_end").ends_with(" GMT") && var("v_remain").parse::<u64>().unwrap() > 36_500);
        assert_eq!(variable(&der, "other", 0), None);
        assert_eq!(variable(b"no certificate", "s_dn", 0), None);
    }

    #[test]
    fn serials_and_values_are_written_as_openssl_does() {
        assert_eq!(serial(&[0, 0xad, 0xb9, 0x0e]), "ADB90E");
        assert_eq!(serial(&[0]), "00");
        assert_eq!(escaped_value(b" a,b+\"c\" "), "\\ a\\,b\\+\\\"c\\\"\\ ");
        assert_eq!(escaped_value("#é".as_bytes()), "\\#\\C3\\A9");
    }
}
