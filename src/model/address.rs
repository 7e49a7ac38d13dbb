//! `host:port` as APISIX reads it (apisix/core/utils.lua, `parse_addr`).

/// Splits an address into host and port. Brackets of an IPv6 address stay with the host; an IPv6 address
/// without brackets has no port. What is malformed comes back as a host.
pub fn split_address(address: &str) -> (&str, Option<&str>) {
    let whole = (address, None);
    let Some((host, port)) = address.rsplit_once(':') else { return whole };
    if address.starts_with('[') {
        // `[::1]` ends in its bracket, and its last colon lies inside.
        return if host.ends_with(']') { (host, Some(port)) } else { whole };
    }
    // Two colons before any dot make an IPv6 address.
    let head = address.split('.').next().unwrap_or_default();
    if head.matches(':').count() >= 2 || port.is_empty() { whole } else { (host, Some(port)) }
}

/// A host whose brackets, if it is an IPv6 address in such, are left out.
pub fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        let table = [
            ("1.2.3.4:80", ("1.2.3.4", Some("80"))),
            ("a.com", ("a.com", None)),
            ("localhost:8", ("localhost", Some("8"))),
            ("[::1]:80", ("[::1]", Some("80"))),
            ("[::1]", ("[::1]", None)),
            ("[::1", ("[::1", None)),
            ("::1", ("::1", None)),
            ("::ffff:192.0.2.1", ("::ffff:192.0.2.1", None)),
            ("a:", ("a:", None)),
            ("", ("", None)),
        ];
        for (address, expected) in table {
            assert_eq!(split_address(address), expected, "{address}");
        }
    }
}
