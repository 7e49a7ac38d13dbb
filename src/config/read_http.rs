//! `nginx_config.http` and the configuration snippets, read into [`Http`].

use std::path::Path;

use super::read::Reader;
use super::types::*;
use super::yaml::Data;
use super::{read_stream, snippet, units};

/// Without the snippets.
pub(super) fn http(r: &mut Reader<'_>, home: &Path) -> Http {
    let at = |key: &str| format!("nginx_config.http.{key}");
    let access_log = (r.at(&at("enable_access_log")).is_none_or(|n| n.data != Data::Bool(false)))
        .then(|| r.text(&at("access_log")))
        .flatten()
        .filter(|path| path != "off" && !other_sink(r, "nginx_config.http.access_log", path));
    let charset = r.text(&at("charset")).filter(|c| c != "off");
    let source = r.text(&at("real_ip_header"));
    Http {
        client_max_body_bytes: r.parsed(&at("client_max_body_size"), 1 << 20, units::size_bytes),
        client_body_buffer_bytes: 16 << 10,
        keepalive_timeout_ms: r.ms(&at("keepalive_timeout"), 75_000),
        keepalive_requests: 1000,
        client_header_timeout_ms: r.ms(&at("client_header_timeout"), 60_000),
        client_body_timeout_ms: r.ms(&at("client_body_timeout"), 60_000),
        send_timeout_ms: r.ms(&at("send_timeout"), 60_000),
        client_header_buffer_bytes: 1 << 10,
        large_client_header_buffers: 4,
        large_client_header_buffer_bytes: 8 << 10,
        underscores_in_headers: r.parsed(&at("underscores_in_headers"), false, snippet::on_off),
        ignore_invalid_headers: true,
        real_ip: RealIp {
            source: snippet::real_ip_source(source.as_deref().unwrap_or("X-Real-IP")),
            from: r.nets(&at("real_ip_from")),
            recursive: r.parsed(&at("real_ip_recursive"), false, snippet::on_off),
        },
        access_log: access_log.map(|path| AccessLog {
            path: home.join(path),
            format: access_log_format(r),
            escape: r.parsed(&at("access_log_format_escape"), "default".to_owned(), |text| {
                matches!(text, "default" | "json" | "none").then(|| text.to_owned())
            }),
            buffer_bytes: r.parsed(&at("access_log_buffer"), 16384, units::size_bytes) as usize,
        }),
        charset,
        proxy_ssl_server_name: r.is(&at("proxy_ssl_server_name")),
        proxy_ssl_verify: false,
        upstream: UpstreamKeepalive {
            connections: r.number(&at("upstream.keepalive"), 0),
            requests: r.number(&at("upstream.keepalive_requests"), 1000),
            timeout_ms: r.ms(&at("upstream.keepalive_timeout"), 60_000),
        },
        add_headers: Vec::new(),
        proxy: Proxy::NGINX,
    }
}

/// nginx can log to syslog; ringway cannot yet, and says so instead of making a file of that name.
fn other_sink(r: &mut Reader<'_>, path: &str, value: &str) -> bool {
    let other = value.starts_with("syslog:");
    if other {
        r.notes.warn(r.line(path), format!("{path} \"{value}\" is not supported: it is off"));
    }
    other
}

/// APISIX puts the format between single quotes of nginx text, so what nginx would unquote there is
/// unquoted here, and a line end from a block scalar is part of the line's end.
fn access_log_format(r: &Reader<'_>) -> String {
    let text = r.text("nginx_config.http.access_log_format").unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    let mut chars = text.trim_end_matches(['\n', '\r']).chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('"' | '\'' | '\\')) => out.extend(chars.next()),
            ('\\', Some('n')) => {
                chars.next();
                out.push('\n');
            }
            ('\\', Some('t')) => {
                chars.next();
                out.push('\t');
            }
            _ => out.push(c),
        }
    }
    out
}

/// The seven snippets: those of http, server and location in nginx's order of nesting take effect.
pub(super) fn snippets(r: &mut Reader<'_>, source: &str, http: &mut Http, streams: &mut Streams) {
    for (name, effective) in [
        ("main_configuration_snippet", false),
        ("http_configuration_snippet", true),
        ("http_end_configuration_snippet", true),
        ("http_server_configuration_snippet", true),
        ("http_server_location_configuration_snippet", true),
        ("http_admin_configuration_snippet", false),
        ("stream_configuration_snippet", false),
    ] {
        let path = format!("nginx_config.{name}");
        let Some(node) = r.at(&path) else { continue };
        let text = node.scalar_text().unwrap_or_default();
        // a block scalar's text begins on the line after its `|`
        let block = source.get(node.at..).is_some_and(|s| s.starts_with(['|', '>']));
        let first = node.line + u32::from(block);
        let directives = match snippet::parse(&text) {
            Ok(directives) => directives,
            Err((line, reason)) => {
                r.notes.error(first + line, format!("{path}: {reason}"));
                continue;
            }
        };
        for directive in directives {
            let outcome = match effective {
                true => snippet::apply(&directive, http),
                false if name.starts_with("stream") => read_stream::apply(&directive, streams),
                false => snippet::Outcome::Unknown,
            };
            let line = first + directive.line;
            match outcome {
                snippet::Outcome::Done | snippet::Outcome::NoNeed => {}
                snippet::Outcome::Unknown => r.notes.warn(
                    line,
                    format!(
                        "directive \"{}\" of {path} has no effect in ringway",
                        directive.words.first().map_or("{", String::as_str)
                    ),
                ),
                snippet::Outcome::Wrong(reason) => r.notes.error(line, format!("{path}: {reason}")),
            }
        }
    }
}
