//! What the user reads at the start: where the gateway listens, where its objects are, and a first command.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::{Admin, Config, Provider, metrics_uri};
use crate::reactor::DriverKind;

/// The text; `drivers` are those of the cores, and why a better one was refused.
pub(super) fn banner(config: &Config, cores: usize, drivers: &[(DriverKind, Option<String>)]) -> String {
    let mut text = String::new();
    let list = |addrs: &[SocketAddr]| addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "ringway {} is up", env!("CARGO_PKG_VERSION"));
    for (name, addrs) in [
        ("proxy    ", &config.listen.http),
        ("TLS      ", &config.listen.ssl),
        ("HTTP/3   ", &config.listen.http3),
        ("PROXY    ", &config.listen.proxy_protocol),
        ("PROXY+TLS", &config.listen.proxy_protocol_ssl),
    ] {
        if !addrs.is_empty() {
            let _ = writeln!(text, "  {name} {}", list(addrs));
        }
    }
    let streams: Vec<SocketAddr> = config.streams.tcp.iter().map(|listen| listen.address).collect();
    if !streams.is_empty() {
        let _ = writeln!(text, "  streams   {}", list(&streams));
    }
    if let Some(admin) = &config.admin {
        let _ = writeln!(text, "  Admin API {}", admin.listen);
    }
    if let Some(control) = config.control {
        let _ = writeln!(text, "  Control   {control}");
    }
    if let Some(metrics) = config.prometheus.listen {
        let _ = writeln!(text, "  metrics   {metrics}{}", metrics_uri(&config.plugin_attr));
    }
    let _ = match drivers.first() {
        Some((DriverKind::Uring, _)) => writeln!(text, "  reactor   io_uring, {cores} cores"),
        Some((DriverKind::Epoll, Some(why))) => writeln!(text, "  reactor   epoll ({why}), {cores} cores"),
        _ => writeln!(text, "  reactor   epoll, {cores} cores"),
    };
    let _ = writeln!(text, "  objects   {}", source(&config.deployment.provider));
    if let Some(admin) = &config.admin {
        let key = admin.keys.iter().flatten().find(|key| !key.viewer && admin.required);
        if let Some(key) = key {
            let _ = writeln!(text, "  admin key {}", key.key);
        }
        if config.deployment.provider == Provider::StandaloneApi {
            return text; // it has no /routes
        }
        let header = key.map_or(String::new(), |key| format!(" -H 'X-API-KEY: {}'", key.key));
        let _ = writeln!(
            text,
            "first route:\n  curl {}/apisix/admin/routes/1{header} -X PUT -d \
             '{{\"uri\":\"/*\",\"upstream\":{{\"type\":\"roundrobin\",\"nodes\":{{\"127.0.0.1:80\":1}}}}}}'",
            admin_url(admin),
        );
    }
    text
}

/// Where curl on this host finds the Admin API. Its certificate may well have another name.
fn admin_url(admin: &Admin) -> String {
    let ip = match admin.listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let scheme = if admin.tls.is_some() && !admin.on_node_port { "-k https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, admin.listen.port()))
}

fn source(provider: &Provider) -> String {
    match provider {
        Provider::Etcd => "etcd".into(),
        Provider::Yaml { path } | Provider::Json { path } => path.display().to_string(),
        Provider::StandaloneApi => "Admin API only (standalone)".into(),
        Provider::Embedded { path } => format!("embedded store in {}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    fn of(text: &str) -> String {
        banner(&load_text(text, &|_| None).unwrap().config, 1, &[])
    }

    #[test]
    fn the_first_command_goes_where_the_admin_api_is() {
        let admin = |more: &str| of(&format!("deployment:\n  admin:\n    {more}\n"));
        for (more, url) in [
            ("admin_listen: {}", "curl http://127.0.0.1:9180/apisix/admin/routes/1 "),
            ("admin_listen: {ip: 127.0.0.2, port: 9181}", "curl http://127.0.0.2:9181/apisix/"),
            ("admin_listen: {ip: '::', port: 9181}", "curl http://[::1]:9181/apisix/"),
            (
                "https_admin: true\n    admin_api_mtls: {admin_ssl_cert: a, admin_ssl_cert_key: b}",
                "curl -k https://127.0.0.1:9180/apisix/",
            ),
        ] {
            assert!(admin(more).contains(url), "{more}: {}", admin(more));
        }
    }

    #[test]
    fn without_routes_of_its_own_the_admin_api_gets_no_first_route() {
        let text = of("deployment: {role: traditional, role_traditional: {config_provider: yaml}}");
        assert!(text.contains("Admin API ") && !text.contains("first route"), "{text}");
    }

    #[test]
    fn only_what_listens_is_shown() {
        assert!(of("").contains("\n  proxy     0.0.0.0:9080, [::]:9080\n"), "{}", of(""));
        let text = of("apisix: {proxy_mode: stream, stream_proxy: {tcp: [9100]}, enable_control: false}");
        assert!(text.contains("\n  streams   0.0.0.0:9100\n"), "{text}");
        assert!(!text.contains("  proxy ") && !text.contains("  Control "), "{text}");
    }
}
