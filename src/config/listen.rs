//! Ports: which are asked for, and which of them are in each other's way (apisix/cli/ops.lua).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::read::Reader;
use super::types::{Admin, Listen};
use super::units;
use super::yaml::{Data, Node};

/// All addresses the gateway listens on.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) listen: Listen,
    pub(super) control: Option<SocketAddr>,
    pub(super) status: Option<SocketAddr>,
    pub(super) prometheus: Option<SocketAddr>,
    pub(super) admin_on_node_port: bool,
}

impl Reader<'_> {
    /// The address in `<path>.ip` and `<path>.port`.
    pub(super) fn address(&mut self, path: &str, ip: &str, port: u16) -> SocketAddr {
        let text = self.text(&format!("{path}.ip")).unwrap_or_else(|| ip.to_owned());
        let address = units::ip(&text);
        if address.is_none() {
            self.notes
                .error(self.line(&format!("{path}.ip")), format!("invalid address \"{text}\" of {path}.ip"));
        }
        let port = match self.at(&format!("{path}.port")) {
            Some(node) => self.port(node, path).unwrap_or(port),
            None => port,
        };
        SocketAddr::new(address.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), port)
    }

    fn port(&mut self, node: &Node, what: &str) -> Option<u16> {
        match node.data {
            Data::Int(port @ 1..=65535) => Some(port as u16),
            _ => {
                let shown = node.scalar_text().unwrap_or_else(|| node.lua_type().to_owned());
                self.notes.error(node.line, format!("{what} listen port format error: {shown}"));
                None
            }
        }
    }
}

/// Reads every port and names the conflicts.
pub(super) fn read(r: &mut Reader<'_>, admin: Option<&Admin>, home: &Path) -> Ports {
    let mut ports = Ports::default();
    // (port, name as APISIX's messages have it, line)
    let mut taken: Vec<(u16, &str)> = Vec::new();
    let mut take = |r: &mut Reader<'_>, name: &'static str, address: SocketAddr, line: u32| match taken
        .iter()
        .find(|(port, _)| *port == address.port())
    {
        Some((_, other)) => {
            r.notes.error(line, format!("{name} {} conflicts with {other}", address.port()));
        }
        None => taken.push((address.port(), name)),
    };
    let http = node_listen(r);
    if let Some(admin) = admin {
        ports.admin_on_node_port = http.iter().any(|(a, _)| a.port() == admin.listen.port());
        if !ports.admin_on_node_port {
            take(r, "admin port", admin.listen, r.line("deployment.admin.admin_listen.port"));
        }
    }
    if r.is("apisix.status") {
        let address = r.address("apisix.status", "127.0.0.1", 7085);
        take(r, "status port", address, r.line("apisix.status"));
        ports.status = Some(address);
    }
    if r.is("apisix.enable_control") {
        let address = r.address("apisix.control", "127.0.0.1", 9090);
        take(r, "control port", address, r.line("apisix.control"));
        ports.control = Some(address);
    }
    if r.is("plugin_attr.prometheus.enable_export_server") {
        let address = r.address("plugin_attr.prometheus.export_addr", "127.0.0.1", 9091);
        take(r, "prometheus port", address, r.line("plugin_attr.prometheus.export_addr.port"));
        ports.prometheus = Some(address);
    }
    let proxy_protocol = proxy_protocol(r, "listen_http_port");
    let proxy_protocol_ssl = proxy_protocol_ssl(r);
    let (ssl, http3) = ssl_listen(r);
    let mut bound: Vec<(SocketAddr, &str)> = Vec::new();
    for (scheme, addresses, into) in [
        ("http", http, &mut ports.listen.http),
        ("proxy_protocol", proxy_protocol, &mut ports.listen.proxy_protocol),
        ("https", ssl, &mut ports.listen.ssl),
        ("proxy_protocol", proxy_protocol_ssl, &mut ports.listen.proxy_protocol_ssl),
    ] {
        for (address, line) in addresses {
            let port = address.port();
            if let Some((_, other)) = taken.iter().find(|(p, _)| *p == port) {
                r.notes.error(line, format!("{scheme} listen port {port} conflicts with {other}"));
            } else if let Some((_, other)) = bound.iter().find(|(b, _)| *b == address) {
                if *other != scheme {
                    r.notes.error(
                        line,
                        format!("{scheme} listen port {port} conflicts with {other} listen port"),
                    );
                }
            } else {
                bound.push((address, scheme));
                into.push(address);
            }
        }
    }
    ports.listen.http3 = http3;
    ports.listen.http3.retain(|address| ports.listen.ssl.contains(address));
    ports.listen.trusted_certificate = trusted(r, home);
    ports
}

/// `ssl_trusted_certificate`: places separated by commas, each a file or `system`.
fn trusted(r: &mut Reader<'_>, home: &Path) -> Option<PathBuf> {
    const OPTION: &str = "apisix.ssl.ssl_trusted_certificate";
    let text = r.text(OPTION).filter(|text| text != "system")?;
    let mut places = Vec::new();
    for place in text.split(',').map(str::trim) {
        if place == "system" {
            places.push(place.to_owned());
            continue;
        }
        let path = home.join(place);
        if !path.exists() {
            r.notes.error(r.line(OPTION), format!("certificate path {} doesn't exist", path.display()));
        }
        places.push(path.to_string_lossy().into_owned());
    }
    Some(places.join(",").into())
}

/// An address, and `[::]` beside the IPv4 wildcard if IPv6 is on.
fn addresses(ip: Option<IpAddr>, port: u16, ipv6: bool, line: u32) -> Vec<(SocketAddr, u32)> {
    let Some(ip) = ip else {
        let mut both = vec![(SocketAddr::from(([0, 0, 0, 0], port)), line)];
        if ipv6 {
            both.push((SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), line));
        }
        return both;
    };
    vec![(SocketAddr::new(ip, port), line)]
}

/// `node_listen`: a port, ports, or `{ip, port}`.
fn node_listen(r: &mut Reader<'_>) -> Vec<(SocketAddr, u32)> {
    let ipv6 = r.is("apisix.enable_ipv6");
    let Some(node) = r.at("apisix.node_listen") else { return Vec::new() };
    let items = match &node.data {
        Data::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut all = Vec::new();
    for item in items {
        match &item.data {
            Data::Map(_) => all.extend(item_addresses(r, item, "http", "node_listen", 9080, ipv6)),
            _ => all.extend(
                r.port(item, "http").into_iter().flat_map(|port| addresses(None, port, ipv6, item.line)),
            ),
        }
    }
    all
}

/// The addresses of `ssl.listen`, and those of them that serve HTTP/3.
fn ssl_listen(r: &mut Reader<'_>) -> (Vec<(SocketAddr, u32)>, Vec<SocketAddr>) {
    let ipv6 = r.is("apisix.enable_ipv6");
    let (mut all, mut http3) = (Vec::new(), Vec::new());
    let Some(Data::List(items)) = r.at("apisix.ssl.listen").map(|n| &n.data) else { return (all, http3) };
    if !r.is("apisix.ssl.enable") {
        return (all, http3);
    }
    for item in items {
        let addresses = item_addresses(r, item, "https", "ssl.listen", 9443, ipv6);
        if matches!(item.get("enable_http3").map(|node| &node.data), Some(Data::Bool(true))) {
            http3.extend(addresses.iter().map(|(address, _)| *address));
        }
        all.extend(addresses);
    }
    (all, http3)
}

/// The addresses of one `{ip, port}`.
fn item_addresses(
    r: &mut Reader<'_>,
    item: &Node,
    scheme: &str,
    list: &str,
    default_port: u16,
    ipv6: bool,
) -> Vec<(SocketAddr, u32)> {
    if let Some(http2) = item.get("enable_http2") {
        r.notes.error(
            http2.line,
            format!(
                "ERROR: port level enable_http2 in {list} is deprecatedfrom 3.9 version, and you should use \
                 enable_http2 in apisix level."
            ),
        );
    }
    let port = match item.get("port") {
        Some(port) => r.port(port, scheme),
        None => Some(default_port),
    };
    let ip = match item.get("ip").and_then(Node::scalar_text) {
        None => None,
        Some(text) => match units::ip(&text) {
            Some(ip) => Some(ip),
            None => {
                r.notes.error(item.line, format!("{scheme} listen ip format error: {text}"));
                return Vec::new();
            }
        },
    };
    port.map_or(Vec::new(), |port| addresses(ip, port, ipv6, item.line))
}

fn proxy_protocol_ssl(r: &mut Reader<'_>) -> Vec<(SocketAddr, u32)> {
    if !r.is("apisix.ssl.enable") {
        return Vec::new();
    }
    proxy_protocol(r, "listen_https_port")
}

fn proxy_protocol(r: &mut Reader<'_>, option: &str) -> Vec<(SocketAddr, u32)> {
    let ipv6 = r.is("apisix.enable_ipv6");
    let Some(node) = r.at(&format!("apisix.proxy_protocol.{option}")) else { return Vec::new() };
    r.port(node, "proxy_protocol").map_or(Vec::new(), |port| addresses(None, port, ipv6, node.line))
}

/// A DNS server: an address, with port 53 if none is written.
pub(super) fn resolver(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(units::ip(text)?, 53)))
}
