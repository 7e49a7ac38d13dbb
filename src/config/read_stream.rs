//! Layer 4: `apisix.stream_proxy`, `nginx_config.stream`, `xrpc` and the stream snippet, read into [`Streams`]
//! (apisix/cli/ops.lua `validate_port_or_range`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::read::Reader;
use super::snippet::{Directive, Outcome};
use super::types::{AccessLog, StreamListen, Streams};
use super::units;
use super::yaml::{Data, Node};
use crate::limits;

/// nginx's formats of a stream line, if none is written (conf/config.yaml.example).
const ACCESS_LOG_FORMAT: &str =
    "$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received $session_time";

/// Everything but the snippet. Without `stream` in `apisix.proxy_mode` nothing listens.
pub(super) fn streams(r: &mut Reader<'_>, home: &Path) -> Streams {
    let mode = r.text("apisix.proxy_mode").unwrap_or_default();
    let is_on = mode.contains("stream");
    let at = |key: &str| format!("nginx_config.stream.{key}");
    let logs = r.at(&at("enable_access_log")).is_some_and(|node| node.data == Data::Bool(true));
    let protocols = r.items("xrpc.protocols").iter();
    Streams {
        tcp: if is_on { tcp(r) } else { Vec::new() },
        udp: if is_on { udp(r) } else { Vec::new() },
        access_log: logs.then(|| AccessLog {
            path: home.join(r.text(&at("access_log")).unwrap_or_else(|| "logs/access_stream.log".to_owned())),
            format: access_log_format(r, &at("access_log_format")),
            escape: r.parsed(&at("access_log_format_escape"), "default".to_owned(), |text| {
                matches!(text, "default" | "json" | "none").then(|| text.to_owned())
            }),
            buffer_bytes: r.parsed(&at("access_log_buffer"), 16384, units::size_bytes) as usize,
        }),
        real_ip_from: r.nets(&at("real_ip_from")),
        protocols: protocols.filter_map(|protocol| protocol.get("name")?.scalar_text()).collect(),
        connect_timeout_ms: 60_000,
        timeout_ms: 600_000,
        preread_timeout_ms: 30_000,
    }
}

/// The documented format is written between quotation marks, and ends in a line end.
fn access_log_format(r: &Reader<'_>, path: &str) -> String {
    let Some(text) = r.text(path) else { return ACCESS_LOG_FORMAT.to_owned() };
    text.trim_end_matches(['\n', '\r']).to_owned()
}

fn tcp(r: &mut Reader<'_>) -> Vec<StreamListen> {
    let accepts = r.is("apisix.proxy_protocol.enable_tcp_pp");
    let sends = r.is("apisix.proxy_protocol.enable_tcp_pp_to_upstream");
    let mut all = Vec::new();
    for item in r.items("apisix.stream_proxy.tcp") {
        let is_map = matches!(item.data, Data::Map(_));
        let flag = |name: &str, otherwise| match item.get(name).filter(|_| is_map).map(|node| &node.data) {
            Some(Data::Bool(flag)) => *flag,
            _ => otherwise,
        };
        let written = if is_map { item.get("addr") } else { Some(item) };
        let Some(written) = written else { continue };
        for address in addresses(r, written, "tcp") {
            all.push(StreamListen {
                address,
                tls: flag("tls", false),
                proxy_protocol: flag("proxy_protocol", accepts),
                proxy_protocol_to_upstream: flag("proxy_protocol_to_upstream", sends),
            });
        }
    }
    all
}

fn udp(r: &mut Reader<'_>) -> Vec<SocketAddr> {
    r.items("apisix.stream_proxy.udp").iter().flat_map(|item| addresses(r, item, "udp")).collect()
}

/// The addresses of `9100`, `127.0.0.1:9101`, `2000-2100` or `[::1]:4000-4100`.
fn addresses(r: &mut Reader<'_>, node: &Node, list: &str) -> Vec<SocketAddr> {
    let text = node.scalar_text().unwrap_or_default();
    let found = parse(&text).and_then(|(ip, ports)| match ports.len() {
        ..=limits::STREAM_PORTS => Ok((ip, ports)),
        many => Err(format!("{many} ports are more than {}", limits::STREAM_PORTS)),
    });
    match found {
        Ok((ip, ports)) => ports.map(|port| SocketAddr::new(ip, port)).collect(),
        Err(why) => {
            r.notes.error(node.line, format!("invalid stream_proxy.{list} entry: {why}"));
            Vec::new()
        }
    }
}

fn parse(text: &str) -> Result<(IpAddr, std::ops::RangeInclusive<u16>), String> {
    let (host, ports) = match text.rsplit_once(':') {
        Some((host, ports)) => (host, ports),
        None => ("", text),
    };
    let ip = match host {
        "" | "*" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => units::ip(host).ok_or_else(|| format!("invalid address: {host}"))?,
    };
    let port = |digits: &str| match digits.parse::<u64>() {
        Ok(port @ 1..=65535) => Ok(port as u16),
        Ok(_) => Err(format!("port out of range (1-65535): {digits}")),
        Err(_) if ports.is_empty() => Err(format!("missing port: {text}")),
        Err(_) => Err(format!("invalid port format: {text}")),
    };
    let Some((first, last)) = ports.split_once('-') else {
        let port = port(ports)?;
        return Ok((ip, port..=port));
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("invalid port range (start > end): {text}"));
    }
    Ok((ip, first..=last))
}

/// Puts one directive of the stream snippet into effect.
pub(super) fn apply(directive: &Directive, streams: &mut Streams) -> Outcome {
    let Some((name, args)) = directive.words.split_first() else { return Outcome::Unknown };
    let ms = match name.as_str() {
        "proxy_timeout" => &mut streams.timeout_ms,
        "proxy_connect_timeout" => &mut streams.connect_timeout_ms,
        "preread_timeout" => &mut streams.preread_timeout_ms,
        "tcp_nodelay" | "proxy_buffer_size" | "preread_buffer_size" => return Outcome::NoNeed,
        _ => return Outcome::Unknown,
    };
    match args.first().and_then(|text| units::time_ms(text)) {
        Some(value) => *ms = value,
        None => return Outcome::Wrong(format!("invalid value in \"{}\"", directive.words.join(" "))),
    }
    Outcome::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, load_text};

    fn load(text: &str) -> Config {
        load_text(text, &|_| None).map_err(|failure| failure.to_string()).unwrap().config
    }

    /// t/cli/test_stream_port_range.sh
    #[test]
    fn addresses_ports_and_ranges() {
        for (text, outcome) in [
            ("9100", Ok(("0.0.0.0", 9100, 9100))),
            ("127.0.0.1:9101", Ok(("127.0.0.1", 9101, 9101))),
            ("localhost:1", Ok(("127.0.0.1", 1, 1))),
            ("2000-2100", Ok(("0.0.0.0", 2000, 2100))),
            ("[::1]:4000-4001", Ok(("::1", 4000, 4001))),
            ("0", Err("port out of range (1-65535): 0")),
            ("65536", Err("port out of range (1-65535): 65536")),
            ("2100-2000", Err("invalid port range (start > end): 2100-2000")),
            ("a.b:1", Err("invalid address: a.b")),
            ("x", Err("invalid port format: x")),
            ("0-100", Err("port out of range (1-65535): 0")),
            ("100-70000", Err("port out of range (1-65535): 70000")),
            ("127.0.0.1:0", Err("port out of range (1-65535): 0")),
            ("127.0.0.1:65536", Err("port out of range (1-65535): 65536")),
            ("127.0.0.1:3000-2000", Err("invalid port range (start > end): 127.0.0.1:3000-2000")),
            ("80.5", Err("invalid port format: 80.5")),
            ("1e3", Err("invalid port format: 1e3")),
            ("127.0.0.1:", Err("missing port: 127.0.0.1:")),
            ("", Err("missing port: ")),
        ] {
            let expected = outcome
                .map(|(ip, first, last): (&str, u16, u16)| (ip.parse().unwrap(), first..=last))
                .map_err(str::to_owned);
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    /// Ports, whether they have TLS, and where the PROXY header is taken and sent.
    fn tcp(text: &str) -> Vec<(u16, bool, bool, bool)> {
        let listeners = load(text).streams.tcp.into_iter();
        listeners.map(|l| (l.address.port(), l.tls, l.proxy_protocol, l.proxy_protocol_to_upstream)).collect()
    }

    /// t/cli/test_stream_proxy_protocol.sh
    #[test]
    fn a_listener_goes_before_what_is_global() {
        let tcp = |global: &str, list: &str| {
            tcp(&format!(
                "apisix: {{proxy_mode: http&stream, proxy_protocol: {{{global}}}, stream_proxy: {{tcp: [{list}], udp: \
                 [9200]}}}}"
            ))
        };
        assert_eq!(tcp("", "9100"), [(9100, false, false, false)]);
        assert_eq!(
            tcp("enable_tcp_pp: true", "9100, {addr: 9101, proxy_protocol: false}"),
            [(9100, false, true, false), (9101, false, false, false)]
        );
        assert_eq!(
            tcp("enable_tcp_pp_to_upstream: true", "9100, {addr: 9101, proxy_protocol_to_upstream: false}"),
            [(9100, false, false, true), (9101, false, false, false)]
        );
        assert_eq!(
            tcp("", "9100, {addr: '127.0.0.1:9101-9102', tls: true, proxy_protocol_to_upstream: true}"),
            [(9100, false, false, false), (9101, true, false, true), (9102, true, false, true)]
        );
        let trusted =
            |stream: &str| load(&format!("nginx_config: {{stream: {{{stream}}}}}")).streams.real_ip_from;
        assert_eq!(trusted(""), []);
        assert_eq!(trusted("real_ip_from: [192.168.1.0/24, 10.0.0.0/8]").len(), 2);
    }

    #[test]
    fn listeners_and_what_is_global() {
        let text = "apisix:\n  proxy_mode: http&stream\n  proxy_protocol: {enable_tcp_pp: true}\n  stream_proxy:\n    \
                    tcp: [9100, {addr: '127.0.0.1:9101', tls: true, proxy_protocol: false, \
                    proxy_protocol_to_upstream: true}, 9200-9202]\n    udp: [9300]\nxrpc: {protocols: [{name: redis}]}\n\
                    nginx_config:\n  stream_configuration_snippet: |\n    proxy_timeout 5s;\n  stream:\n    \
                    enable_access_log: true\n    access_log_format: |\n      $protocol x\n";
        let streams = load(text).streams;
        assert_eq!(
            streams.tcp.iter().map(|l| l.address.port()).collect::<Vec<_>>(),
            [9100, 9101, 9200, 9201, 9202]
        );
        let (first, second) = (streams.tcp[0], streams.tcp[1]);
        assert!(first.proxy_protocol && !first.proxy_protocol_to_upstream && !first.tls);
        assert!(!second.proxy_protocol && second.proxy_protocol_to_upstream && second.tls);
        assert_eq!((streams.udp.len(), streams.protocols.len(), streams.timeout_ms), (1, 1, 5000));
        assert_eq!(streams.access_log.unwrap().format, "$protocol x");
    }

    #[test]
    fn without_the_mode_nothing_listens() {
        assert_eq!(load("apisix: {stream_proxy: {tcp: [9100]}}").streams.tcp, []);
        let only = load("apisix: {proxy_mode: stream, stream_proxy: {tcp: [9100]}}");
        assert!(only.listen.http.is_empty() && only.listen.ssl.is_empty(), "stream alone serves no HTTP");
        assert_eq!(only.streams.tcp.len(), 1);
    }

    #[test]
    fn a_range_has_so_many_ports_at_most() {
        let config = |last: usize| {
            let text = format!("apisix: {{proxy_mode: stream, stream_proxy: {{udp: ['2000-{last}']}}}}");
            load_text(&text, &|_| None)
        };
        let most = config(1999 + limits::STREAM_PORTS);
        assert_eq!(most.map_err(|_| ()).unwrap().config.streams.udp.len(), limits::STREAM_PORTS);
        let error = config(2000 + limits::STREAM_PORTS).err().unwrap().to_string();
        assert!(error.contains("4097 ports are more than 4096"), "{error}");
    }
}
