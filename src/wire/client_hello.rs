//! The name in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3), read before any TLS library is asked:
//! over QUIC the certificate has to be known first.

use std::net::IpAddr;

/// A record begins with its type, a version and two bytes of length (RFC 8446 section 5.1).
const RECORD_HEAD: usize = 5;
const HANDSHAKE: u8 = 22;
/// A handshake message begins with its type and three bytes of length.
const HEAD: usize = 4;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// Why it cannot be read, as the alert that says so (RFC 8446 section 6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// Another message: `unexpected_message`.
    Unexpected = 10,
    /// Lengths that do not fit: `decode_error`.
    Malformed = 50,
}

/// What a ClientHello says so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hello<'a> {
    /// More bytes are needed.
    Partial,
    /// The host that the client wants, if it names one.
    Whole(Option<&'a str>),
}

/// Reads the first handshake message among `bytes`, which may have `most` bytes.
///
/// # Errors
/// See [`Broken`].
pub fn read(bytes: &[u8], most: usize) -> Result<Hello<'_>, Broken> {
    match bytes.first() {
        None => return Ok(Hello::Partial),
        Some(&CLIENT_HELLO) => {}
        Some(_) => return Err(Broken::Unexpected),
    }
    let Some(head) = bytes.get(1..HEAD) else { return Ok(Hello::Partial) };
    let length = head.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length > most {
        return Err(Broken::Malformed);
    }
    match bytes.get(HEAD..HEAD + length) {
        Some(body) => name(body).map(Hello::Whole).ok_or(Broken::Malformed),
        None => Ok(Hello::Partial),
    }
}

/// The address that a client gives where a host's name belongs, in the record that `bytes` begin with. RFC 6066 forbids it
/// and rustls passes over it; OpenSSL's clients do it, and ssl objects may have an address as their `sni`.
pub fn address(bytes: &[u8]) -> Option<&str> {
    let (head, rest) = bytes.split_at_checked(RECORD_HEAD)?;
    let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
    match read(rest.get(..length).filter(|_| head[0] == HANDSHAKE)?, length) {
        Ok(Hello::Whole(name)) => name.filter(|name| name.parse::<IpAddr>().is_ok()),
        _ => None,
    }
}

/// The outer `None`: malformed.
fn name(body: &[u8]) -> Option<Option<&str>> {
    let mut rest = body;
    take(&mut rest, 2 + 32)?; // version and random
    list(&mut rest, 1)?; // session
    list(&mut rest, 2)?; // ciphers
    list(&mut rest, 1)?; // compressions
    let mut extensions = list(&mut rest, 2)?;
    let mut found = None;
    while !extensions.is_empty() {
        let kind = u16::from_be_bytes(take(&mut extensions, 2)?.try_into().ok()?);
        let mut extension = list(&mut extensions, 2)?;
        if kind != SERVER_NAME {
            continue;
        }
        let mut names = list(&mut extension, 2)?;
        while !names.is_empty() {
            let kind = take(&mut names, 1)?;
            let host = list(&mut names, 2)?;
            if kind == [HOST_NAME] && host.iter().all(u8::is_ascii_graphic) && !host.is_empty() {
                found = std::str::from_utf8(host).ok();
            }
        }
    }
    Some(found)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    Some(taken)
}

/// A run of bytes with its length before it, in `bytes` bytes.
fn list<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let length = take(rest, bytes)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    take(rest, length)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;

    use super::*;

    /// What rustls says to `host`, without the record's head.
    fn hello(host: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(host).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut record = Vec::new();
        client.write_tls(&mut record).unwrap();
        record.split_off(5)
    }

    #[test]
    fn the_name_of_a_real_client() {
        assert_eq!(read(&hello("a.example"), 16_384), Ok(Hello::Whole(Some("a.example"))));
        assert_eq!(read(&hello("192.0.2.1"), 16_384), Ok(Hello::Whole(None)), "an address is no name");
    }

    #[test]
    fn an_address_in_place_of_a_name() {
        // "a.example" and "192.0.2.1" have nine bytes each
        let said = hello("a.example");
        let at = said.windows(9).position(|bytes| bytes == b"a.example").unwrap();
        let record = |name: &[u8; 9]| {
            let mut said = said.clone();
            said[at..at + 9].copy_from_slice(name);
            [&[22, 3, 1][..], &u16::try_from(said.len()).unwrap().to_be_bytes(), &said].concat()
        };
        assert_eq!(address(&record(b"192.0.2.1")), Some("192.0.2.1"));
        assert_eq!(address(&record(b"2001:db8:")), None, "neither a name nor an address");
        assert_eq!(address(&record(b"a.example")), None, "a name is not an address");
        let whole = record(b"192.0.2.1");
        for end in 0..whole.len() {
            assert_eq!(address(&whole[..end]), None, "{end}");
        }
    }

    #[test]
    fn pieces_are_partial_until_it_is_whole() {
        let hello = hello("a.example");
        for end in 0..hello.len() {
            assert_eq!(read(&hello[..end], 16_384), Ok(Hello::Partial), "{end}");
        }
        let more = [&hello[..], b"what follows"].concat();
        assert_eq!(read(&more, 16_384), Ok(Hello::Whole(Some("a.example"))));
    }

    #[test]
    fn what_is_no_client_hello() {
        assert_eq!(read(&[2, 0, 0, 1, 0], 100), Err(Broken::Unexpected));
        assert_eq!(read(&[1, 0, 0, 101], 100), Err(Broken::Malformed), "too long");
        assert_eq!(read(&[1, 0, 0, 1, 0], 100), Err(Broken::Malformed), "too short");
        // a body whose inner lengths point beyond it
        let hello = hello("a.example");
        for at in HEAD + 34..hello.len() {
            let mut broken = hello.clone();
            broken[at] = 0xff;
            let _ = read(&broken, 16_384); // anything but a panic
        }
    }
}
