//! What the user reads at the start: where the gateway listens, where its objects are, and a first command.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::config::{Config, Provider, metrics_uri};
use crate::reactor::DriverKind;

/// The text; `drivers` are those of the cores, and why a better one was refused.
pub(super) fn banner(config: &Config, cores: usize, drivers: &[(DriverKind, Option<String>)]) -> String {
    let mut text = String::new();
    let list = |addrs: &[SocketAddr]| addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "ringway {} is up", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "  proxy     {}", list(&config.listen.http));
    for (name, addrs) in [
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
        let header = key.map_or(String::new(), |key| format!(" -H 'X-API-KEY: {}'", key.key));
        let _ = writeln!(
            text,
            "first route:\n  curl http://127.0.0.1:{}/apisix/admin/routes/1{header} -X PUT -d \
             '{{\"uri\":\"/*\",\"upstream\":{{\"type\":\"roundrobin\",\"nodes\":{{\"127.0.0.1:80\":1}}}}}}'",
            admin.listen.port(),
        );
    }
    text
}

fn source(provider: &Provider) -> String {
    match provider {
        Provider::Etcd => "etcd".into(),
        Provider::Yaml { path } | Provider::Json { path } => path.display().to_string(),
        Provider::StandaloneApi => "Admin API only (standalone)".into(),
        Provider::Embedded { path } => format!("embedded store in {}", path.display()),
    }
}
