//! nginx's notations: times (`60s`, `1m30s`, `500ms`), sizes (`16k`, `1m`), networks.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::types::IpNet;

/// An nginx time in milliseconds. A bare number is in seconds; units fall from `y` to `ms`
/// (nginx's ngx_parse_time).
pub fn time_ms(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("y", 365 * 86_400_000),
        ("M", 30 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut rest = text.trim();
    let mut total = 0u64;
    let mut last = None;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let n: u64 = rest[..digits].parse().ok()?;
        let unit_len = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[digits..digits + unit_len];
        let rank = match unit {
            "" => 6, // seconds
            _ => UNITS.iter().position(|(u, _)| *u == unit)?,
        };
        if last.is_some_and(|l| rank <= l) {
            return None;
        }
        last = Some(rank);
        total = total.checked_add(n.checked_mul(UNITS[rank].1)?)?;
        rest = rest[digits + unit_len..].trim_start();
    }
    Some(total)
}

/// An nginx size in bytes: a number, with `k`, `m` or `g` behind it in either case.
pub fn size_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// `address` or `address/prefix`, host bits cleared.
pub fn net(text: &str) -> Option<IpNet> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(bits);
    if prefix > bits {
        return None;
    }
    let address = match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & mask).into())
        }
    };
    Some(IpNet { address, prefix })
}

/// An IP address, an IPv6 one with or without brackets.
pub fn ip(text: &str) -> Option<IpAddr> {
    text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, want) in [
            ("60s", Some(60_000)),
            ("60", Some(60_000)),
            ("0", Some(0)),
            ("500ms", Some(500)),
            ("1m", Some(60_000)),
            ("1m30s", Some(90_000)),
            ("1h 30m", Some(5_400_000)),
            ("1M", Some(2_592_000_000)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("s", None),
            ("30s1m", None),
            ("1x", None),
            ("-1s", None),
            ("99999999999999999y", None),
        ] {
            assert_eq!(time_ms(text), want, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", Some(0)),
            ("16384", Some(16384)),
            ("16k", Some(16384)),
            ("1M", Some(1 << 20)),
            ("2g", Some(2 << 30)),
            ("", None),
            ("k", None),
            ("1kb", None),
            ("+1", None),
        ] {
            assert_eq!(size_bytes(text), want, "{text}");
        }
    }

    #[test]
    fn networks() {
        let shown = |t| net(t).map(|n| format!("{}/{}", n.address, n.prefix));
        assert_eq!(shown("127.0.0.9/24").as_deref(), Some("127.0.0.0/24"));
        assert_eq!(shown("10.0.0.1").as_deref(), Some("10.0.0.1/32"));
        assert_eq!(shown("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(shown("::1/64").as_deref(), Some("::/64"));
        assert_eq!(shown("::/0").as_deref(), Some("::/0"));
        assert_eq!(shown("1.2.3.4/33"), None);
        assert_eq!(shown("unix:"), None);
        assert_eq!(ip("[::1]"), ip("::1"));
    }
}
