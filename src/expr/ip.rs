//! Sets of IP networks: `remote_addrs`, `ipmatch`, ip-restriction, trusted addresses.
//!
//! IPv4 and IPv6 never match each other, as in lua-resty-ipmatcher: whoever accepts on a dual-stack socket
//! turns an IPv4-mapped address into IPv4 first.

use std::net::IpAddr;

use crate::model::IpNet;

/// Up to so many ranges a linear scan beats a binary search (one cache line of IPv4 ranges).
const LINEAR: usize = 8;

/// A set of networks, kept as sorted, disjoint ranges of addresses.
#[derive(Clone, Debug, Default)]
pub struct IpNets {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl IpNets {
    /// The set of all addresses in `nets`.
    pub fn new(nets: &[IpNet]) -> IpNets {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net.address {
                IpAddr::V4(address) => {
                    let host = u32::MAX.checked_shr(net.prefix.into()).unwrap_or(0);
                    let first = u32::from(address) & !host;
                    v4.push((first, first | host));
                }
                IpAddr::V6(address) => {
                    let host = u128::MAX.checked_shr(net.prefix.into()).unwrap_or(0);
                    let first = u128::from(address) & !host;
                    v6.push((first, first | host));
                }
            }
        }
        IpNets { v4: disjoint(v4), v6: disjoint(v6) }
    }

    /// The set spelled by `texts`, each an address or a network; the error is lua-resty-ipmatcher's.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<IpNets, String> {
        let nets: Result<Vec<IpNet>, String> = texts.into_iter().map(parse_net).collect();
        Ok(IpNets::new(&nets?))
    }

    /// Whether `address` is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => within(&self.v4, address.into()),
            IpAddr::V6(address) => within(&self.v6, address.into()),
        }
    }

    /// Whether no address is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// An address, in brackets or not, and an optional `/bits`; without bits it is a network of one address.
/// Bits that are no number count as absent, as in lua-resty-ipmatcher; too many are an error here.
pub fn parse_net(text: &str) -> Result<IpNet, String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, bits.trim().parse::<u32>().ok()),
        None => (text, None),
    };
    let invalid = || format!("invalid ip address: {address}");
    let parsed = parse_address(address.as_bytes()).ok_or_else(invalid)?;
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let prefix = bits.unwrap_or(most);
    if prefix > most {
        return Err(invalid());
    }
    let address = match parsed {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) & !u32::MAX.checked_shr(prefix).unwrap_or(0)).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) & !u128::MAX.checked_shr(prefix).unwrap_or(0)).into()),
    };
    Ok(IpNet { address, prefix: prefix as u8 })
}

/// The address that a variable holds: IPv4, or IPv6 with or without brackets.
pub fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    match text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Sorted, with overlapping ranges joined.
fn disjoint<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    ranges.into_boxed_slice()
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    if ranges.len() <= LINEAR {
        return ranges.iter().any(|&(first, last)| first <= address && address <= last);
    }
    let after = ranges.partition_point(|&(first, _)| first <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(nets: &IpNets, text: &str) -> bool {
        nets.contains(text.parse().unwrap())
    }

    #[test]
    fn few_networks() {
        let nets = IpNets::parse(["127.0.0.0/8", "10.1.2.3", "::1", "[fe80::]/10", "10.1.0.0/junk"]).unwrap();
        for inside in ["127.0.0.1", "127.255.255.255", "10.1.2.3", "10.1.0.0", "::1", "febf::1"] {
            assert!(contains(&nets, inside), "{inside}");
        }
        for outside in ["128.0.0.0", "10.1.2.4", "10.1.0.1", "::2", "fec0::", "::ffff:127.0.0.1"] {
            assert!(!contains(&nets, outside), "{outside}");
        }
    }

    #[test]
    fn zero_bits_is_everything_of_its_family() {
        let nets = IpNets::parse(["0.0.0.0/0"]).unwrap();
        assert!(contains(&nets, "255.255.255.255") && contains(&nets, "0.0.0.0") && !contains(&nets, "::"));
        assert!(contains(&IpNets::parse(["::/0"]).unwrap(), "ffff::"));
        assert!(IpNets::default().is_empty() && !contains(&IpNets::default(), "1.1.1.1"));
    }

    #[test]
    fn errors_name_the_address() {
        for (text, error) in
            [("", ""), ("a/8", "a"), ("1.2.3/8", "1.2.3"), ("1.2.3.4/33", "1.2.3.4"), ("::/129", "::")]
        {
            assert_eq!(IpNets::parse([text]).unwrap_err(), format!("invalid ip address: {error}"));
        }
        assert_eq!(
            parse_net("10.9.8.7/8").unwrap(),
            IpNet { address: "10.0.0.0".parse().unwrap(), prefix: 8 }
        );
    }

    #[test]
    fn many_networks_agree_with_a_scan() {
        let mut random = fastrand::Rng::with_seed(7);
        let nets: Vec<IpNet> = (0..300)
            .map(|_| {
                let address = std::net::Ipv4Addr::from(random.u32(..) & 0x0fff_ffff);
                parse_net(&format!("{address}/{}", random.u8(8..=32))).unwrap()
            })
            .collect();
        let set = IpNets::new(&nets);
        for _ in 0..5_000 {
            let address = random.u32(..) & 0x1fff_ffff;
            let expected = nets.iter().any(|net| match net.address {
                IpAddr::V4(first) => (address ^ u32::from(first)).leading_zeros() >= net.prefix.into(),
                IpAddr::V6(_) => false,
            });
            assert_eq!(set.contains(IpAddr::V4(address.into())), expected);
        }
    }
}
