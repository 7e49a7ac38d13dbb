//! The PROXY protocol, versions 1 and 2 (haproxy.org/download/2.8/doc/proxy-protocol.txt): who the client of the balancer before us is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::http::Progress;
use crate::limits;

/// The addresses that a header tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProxyHeader {
    /// The client's and the address it connected to. `None` for health checks of the balancer itself (`LOCAL`), and for
    /// kinds of address that are no IP (`UNKNOWN`, unix): then the connection's own addresses count.
    pub addresses: Option<Addresses>,
}

/// Both ends of the connection that the balancer accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

/// The connection does not begin with a PROXY header: it is closed without an answer (nginx: "broken header").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokenHeader;

/// The 12 bytes that begin version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, CRLF included.
const LINE: usize = 107;

/// Reads a header from the beginning of `input`; call again with more behind the same bytes while it is [`Progress::Partial`].
pub fn decode(input: &[u8], header: &mut ProxyHeader) -> Result<Progress, BrokenHeader> {
    let signed = input.len().min(SIGNATURE.len());
    if input[..signed] == SIGNATURE[..signed] {
        return if signed == SIGNATURE.len() { decode_v2(input, header) } else { Ok(Progress::Partial) };
    }
    decode_v1(input, header)
}

fn decode_v1(input: &[u8], header: &mut ProxyHeader) -> Result<Progress, BrokenHeader> {
    const START: &[u8] = b"PROXY ";
    let begun = input.len().min(START.len());
    if input[..begun] != START[..begun] {
        return Err(BrokenHeader);
    }
    let line = &input[..input.len().min(LINE)];
    let Some(lf) = memchr::memchr(b'\n', line) else {
        return if line.len() == LINE { Err(BrokenHeader) } else { Ok(Progress::Partial) };
    };
    let text =
        line[..lf].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok()).ok_or(BrokenHeader)?;
    let mut words = text.split(' ').skip(1);
    let addresses = match words.next() {
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => Some(addresses_v1(family, &mut words).ok_or(BrokenHeader)?),
        _ => return Err(BrokenHeader),
    };
    *header = ProxyHeader { addresses };
    Ok(Progress::Done(lf + 1))
}

/// `source destination source-port destination-port`, and nothing behind them.
fn addresses_v1<'a>(family: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<Addresses> {
    let mut ip = || match family {
        "TCP4" => words.next()?.parse().ok().map(IpAddr::V4),
        _ => words.next()?.parse().ok().map(IpAddr::V6),
    };
    let (source, destination) = (ip()?, ip()?);
    let mut port = || words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit()))?.parse().ok();
    let (source, destination) = (SocketAddr::new(source, port()?), SocketAddr::new(destination, port()?));
    words.next().is_none().then_some(Addresses { source, destination })
}

fn decode_v2(input: &[u8], header: &mut ProxyHeader) -> Result<Progress, BrokenHeader> {
    let Some((&[version_command, family, high, low], rest)) =
        input[SIGNATURE.len()..].split_first_chunk::<4>()
    else {
        return Ok(Progress::Partial);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let whole = SIGNATURE.len() + 4 + len;
    if version_command >> 4 != 2 || whole > limits::PROXY_HEADER {
        return Err(BrokenHeader);
    }
    let addresses = match version_command & 15 {
        0 => 0,
        // TCP and UDP over IPv4 (0x1_) and IPv6 (0x2_); everything else has no address for us.
        1 => family >> 4,
        _ => return Err(BrokenHeader),
    };
    let Some(body) = rest.get(..len) else { return Ok(Progress::Partial) };
    // What is behind the addresses are TLVs, of which none is used.
    let addresses = match addresses {
        1 => Some(addresses_v2::<4>(body).ok_or(BrokenHeader)?),
        2 => Some(addresses_v2::<16>(body).ok_or(BrokenHeader)?),
        _ => None,
    };
    *header = ProxyHeader { addresses };
    Ok(Progress::Done(whole))
}

/// Source, destination (`N` bytes each), source port, destination port.
fn addresses_v2<const N: usize>(body: &[u8]) -> Option<Addresses> {
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let destination_port = rest.first_chunk::<2>()?;
    let socket = |ip: &[u8; N], port: &[u8; 2]| {
        let ip = match <[u8; 4]>::try_from(&ip[..]) {
            Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
            Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&ip[..]).ok()?)),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    };
    Some(Addresses {
        source: socket(source, source_port)?,
        destination: socket(destination, destination_port)?,
    })
}

/// Appends a version 1 header. Addresses of two families have no common form: they are written as `UNKNOWN`.
pub fn encode_v1(out: &mut Vec<u8>, addresses: Option<Addresses>) {
    let line = match addresses {
        Some(Addresses { source: SocketAddr::V4(from), destination: SocketAddr::V4(to) }) => {
            format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
        }
        Some(Addresses { source: SocketAddr::V6(from), destination: SocketAddr::V6(to) }) => {
            format!("PROXY TCP6 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
        }
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    };
    out.extend_from_slice(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> Option<Addresses> {
        Some(Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [SIGNATURE, &[version_command, family, len[0], len[1]][..], body].concat()
    }

    fn valid() -> Vec<(Vec<u8>, Option<Addresses>)> {
        let v4 = [&[1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 0][..], &[3, 0, 4, 9, 9, 9, 9]].concat();
        let v6 = [&[0; 15][..], &[1], &[0; 15], &[2], &[0, 1, 0, 2]].concat();
        vec![
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 80 256\r\n".to_vec(), addresses("1.2.3.4:80", "5.6.7.8:256")),
            (b"PROXY TCP6 ::1 ::2 1 2\r\n".to_vec(), addresses("[::1]:1", "[::2]:2")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), addresses("1.2.3.4:80", "5.6.7.8:256")),
            (v2(0x21, 0x12, &v4[..12]), addresses("1.2.3.4:80", "5.6.7.8:256")),
            (v2(0x21, 0x21, &v6), addresses("[::1]:1", "[::2]:2")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x21, 0x00, &[]), None),
        ]
    }

    #[test]
    fn decodes_however_it_is_cut() {
        for (mut bytes, expected) in valid() {
            let len = bytes.len();
            bytes.extend_from_slice(b"GET / HTTP/1.1");
            for at in 0..len {
                let mut header = ProxyHeader::default();
                assert_eq!(decode(&bytes[..at], &mut header), Ok(Progress::Partial), "{bytes:?} {at}");
            }
            let mut header = ProxyHeader::default();
            assert_eq!(decode(&bytes, &mut header), Ok(Progress::Done(len)));
            assert_eq!(header.addresses, expected);
        }
    }

    #[test]
    fn refuses() {
        let long = format!("PROXY UNKNOWN {}", "a".repeat(107));
        let texts = [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP5 a\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 80\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 80 65536\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +80 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 80 1 \r\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 80 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 80 1\n",
            "proxy UNKNOWN\r\n",
            &long,
        ];
        let broken = [
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x11, &[0; 4081]),
        ];
        for bytes in texts.iter().map(|text| text.as_bytes()).chain(broken.iter().map(Vec::as_slice)) {
            let mut header = ProxyHeader::default();
            assert_eq!(decode(bytes, &mut header), Err(BrokenHeader), "{bytes:?}");
        }
    }

    #[test]
    fn mutations_never_panic() {
        let (mut random, valid) = (fastrand::Rng::with_seed(2), valid());
        for _ in 0..30_000 {
            let mut bytes = random.choice(&valid).unwrap().0.clone();
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
            let mut header = ProxyHeader::default();
            if let Ok(Progress::Done(len)) = decode(&bytes, &mut header) {
                assert!(len <= bytes.len());
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for expected in [addresses("1.2.3.4:5", "6.7.8.9:10"), addresses("[fe80::1]:5", "[::]:65535"), None] {
            let (mut out, mut header) = (Vec::new(), ProxyHeader::default());
            encode_v1(&mut out, expected);
            assert_eq!(decode(&out, &mut header), Ok(Progress::Done(out.len())));
            assert_eq!(header.addresses, expected);
        }
        let mut out = Vec::new();
        encode_v1(&mut out, addresses("1.2.3.4:5", "[::1]:1"));
        assert_eq!(out, b"PROXY UNKNOWN\r\n");
    }
}
