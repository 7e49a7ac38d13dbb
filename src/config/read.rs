//! The merged tree read into the typed [`Config`].

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::admin_key::Empty;
use super::yaml::{Data, Node};
use super::{Environment, Notes, Place, listen, read_http, read_stream, types::*, units};
use crate::limits;
use crate::model::types::IpNet;

/// The merged tree with ways to ask for typed values. What is not there (removed by null) has the value
/// that nginx or APISIX's code falls back to.
pub(super) struct Reader<'t> {
    pub(super) tree: &'t Node,
    pub(super) notes: &'t mut Notes,
}

impl<'t> Reader<'t> {
    /// The value at `path`, keys joined by dots.
    pub(super) fn at(&self, path: &str) -> Option<&'t Node> {
        path.split('.').try_fold(self.tree, |node, key| node.get(key))
    }

    pub(super) fn line(&self, path: &str) -> u32 {
        self.at(path).map_or(0, |n| n.line)
    }

    /// Lua's truth: anything there that is not `false`.
    pub(super) fn is(&self, path: &str) -> bool {
        self.at(path).is_some_and(|n| n.data != Data::Bool(false))
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.at(path)?.scalar_text()
    }

    pub(super) fn items(&self, path: &str) -> &'t [Node] {
        match self.at(path).map(|n| &n.data) {
            Some(Data::List(items)) => items,
            _ => &[],
        }
    }

    fn texts(&self, path: &str) -> Vec<String> {
        self.items(path).iter().filter_map(Node::scalar_text).collect()
    }

    pub(super) fn parsed<T>(&mut self, path: &str, removed: T, parse: impl Fn(&str) -> Option<T>) -> T {
        let Some(node) = self.at(path) else { return removed };
        if let Some(value) = node.scalar_text().and_then(|text| parse(&text)) {
            return value;
        }
        let shown = node.scalar_text().unwrap_or_else(|| node.lua_type().to_owned());
        self.notes.error(node.line, format!("invalid value \"{shown}\" of {path}"));
        removed
    }

    pub(super) fn ms(&mut self, path: &str, removed: u64) -> u64 {
        self.parsed(path, removed, units::time_ms)
    }

    /// Seconds, fractions allowed, negative ones taken as `removed` (apisix/core/config_etcd.lua).
    fn seconds_ms(&mut self, path: &str, removed: u64) -> u64 {
        self.parsed(path, removed, |text| {
            let seconds: f64 = text.parse().ok().filter(|s: &f64| s.is_finite())?;
            Some(if seconds < 0.0 { removed } else { (seconds * 1000.0) as u64 })
        })
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, path: &str, removed: T) -> T {
        self.parsed(path, removed, |text| text.parse().ok())
    }

    pub(super) fn nets(&mut self, path: &str) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for item in self.items(path) {
            match item.scalar_text().as_deref() {
                Some("unix:") => {} // peers on a unix socket: ringway has no such listeners
                Some("all") => nets.extend(["0.0.0.0/0", "::/0"].iter().filter_map(|t| units::net(t))),
                text => match text.and_then(units::net) {
                    Some(net) => nets.push(net),
                    None => self.notes.error(
                        item.line,
                        format!("invalid address \"{}\" in {path}", text.unwrap_or(item.lua_type())),
                    ),
                },
            }
        }
        nets
    }
}

/// Reads everything; what is wrong goes to `notes`.
pub(super) fn config(
    tree: &Node,
    source: &str,
    place: Place,
    env: Environment<'_>,
    notes: &mut Notes,
) -> (Config, Vec<Empty>) {
    let mut r = Reader { tree, notes };
    let deployment = deployment(&mut r, &place, env);
    let (admin, empty_keys) = admin(&mut r, deployment.role, &place.conf);
    let mut http = read_http::http(&mut r, &place.home);
    let mut streams = read_stream::streams(&mut r, &place.home);
    read_http::snippets(&mut r, source, &mut http, &mut streams);
    let mut ports = listen::read(&mut r, admin.as_ref(), &place.home);
    if r.text("apisix.proxy_mode").as_deref() == Some("stream") {
        let Listen { trusted_certificate, .. } = std::mem::take(&mut ports.listen);
        ports.listen.trusted_certificate = trusted_certificate;
        ports.admin_on_node_port = false;
    }
    if deployment.role == Role::ControlPlane {
        // It proxies nothing (apisix/cli/ngx_tpl.lua): an Admin API on the proxy's port has it for itself.
        let Listen { trusted_certificate, .. } = std::mem::take(&mut ports.listen);
        ports.listen.trusted_certificate = trusted_certificate;
        ports.admin_on_node_port = false;
        (streams.tcp, streams.udp) = (Vec::new(), Vec::new());
    }
    let admin = admin.map(|admin| Admin { on_node_port: ports.admin_on_node_port, ..admin });
    let worker_connections = r.number("nginx_config.event.worker_connections", 10620);
    let nofile = r.number("nginx_config.worker_rlimit_nofile", 0);
    let config = Config {
        id: r.text("apisix.id").filter(|id| !id.is_empty()),
        listen: ports.listen,
        ssl: ssl(&mut r),
        admin,
        control: ports.control,
        status: ports.status,
        prometheus: Prometheus { listen: ports.prometheus, ..prometheus(&mut r) },
        deployment,
        http,
        router: router(&mut r),
        delete_uri_tail_slash: r.is("apisix.delete_uri_tail_slash"),
        normalize_uri_like_servlet: r.is("apisix.normalize_uri_like_servlet"),
        match_uri_encoded_slash: r.is("apisix.match_uri_encoded_slash"),
        max_post_args_readable_bytes: r.number::<u64>("apisix.max_post_args_readable_size", 64) << 20,
        graphql_max_bytes: r.number("graphql.max_size", limits::GRAPHQL_BYTES),
        show_upstream_status_in_response_header: r.is("apisix.show_upstream_status_in_response_header"),
        streams,
        stream: r.text("apisix.proxy_mode").is_some_and(|mode| mode.contains("stream")),
        enable_ipv6: r.is("apisix.enable_ipv6"),
        enable_http2: r.is("apisix.enable_http2"),
        enable_server_tokens: r.is("apisix.enable_server_tokens"),
        trusted_addresses: r.at("apisix.trusted_addresses").map(|_| r.nets("apisix.trusted_addresses")),
        dns: dns(&mut r),
        disable_upstream_healthcheck: r.is("apisix.disable_upstream_healthcheck"),
        data_encryption: data_encryption(&mut r),
        secret_ttl_ms: r.seconds_ms("apisix.lru.secret.ttl", 300_000),
        secret_failure_ttl_ms: r.seconds_ms("apisix.lru.secret.neg_ttl", 60_000),
        worker_processes: worker_processes(&mut r, env),
        worker_rlimit_nofile: if nofile <= worker_connections { worker_connections + 128 } else { nofile },
        worker_connections,
        worker_shutdown_timeout_ms: match r.ms("nginx_config.worker_shutdown_timeout", 0) {
            0 => u64::MAX,
            within_ms => within_ms,
        },
        error_log: error_log(&mut r, &place.home),
        plugins: r.at("plugins").map(|_| r.texts("plugins")),
        stream_plugins: r.at("stream_plugins").map(|_| r.texts("stream_plugins")),
        plugin_attr: r.at("plugin_attr").map_or(Value::Null, Node::to_json),
        file: place.file,
        home: place.home,
    };
    batch_requests(&mut r, &config);
    proxy_cache(&mut r, &config);
    stream_metrics(&mut r, &config);
    (config, empty_keys)
}

fn ssl(r: &mut Reader<'_>) -> Ssl {
    let path = "apisix.ssl.ssl_protocols";
    let protocols = r.text(path).unwrap_or_else(|| "TLSv1.2 TLSv1.3".to_owned());
    let (versions, others) = TlsVersions::named(protocols.split_whitespace());
    if versions.is_empty() {
        r.notes.error(r.line(path), format!("{path} names none that is served: TLSv1.2, TLSv1.3"));
    } else if !others.is_empty() {
        r.notes.warn(
            r.line(path),
            format!("{path}: {} is not served, only TLSv1.2 and TLSv1.3", others.join(" ")),
        );
    }
    Ssl {
        versions,
        ciphers: r.text("apisix.ssl.ssl_ciphers").map(|list| list.split(':').map(str::to_owned).collect()),
        session_tickets: r.is("apisix.ssl.ssl_session_tickets"),
        fallback_sni: r.text("apisix.ssl.fallback_sni").map(|sni| sni.to_ascii_lowercase()),
    }
}

/// Its sub-requests come from the loopback address and pass on the client's (apisix/cli/ops.lua).
fn batch_requests(r: &mut Reader<'_>, config: &Config) {
    let enabled = config.plugins.iter().flatten().any(|p| p == "batch-requests");
    let trusted =
        config.http.real_ip.from.iter().any(|n| n.address.is_loopback() || n.address.is_unspecified());
    if enabled && !trusted {
        r.notes.error(
            r.line("nginx_config.http.real_ip_from"),
            "missing loopback or unspecified in the nginx_config.http.real_ip_from for plugin batch-requests",
        );
    }
}

/// The defaults have zones: this is for who takes them away (apisix/cli/ops.lua).
fn proxy_cache(r: &mut Reader<'_>, config: &Config) {
    let enabled = config.plugins.iter().flatten().any(|p| p == "proxy-cache");
    if enabled && r.at("apisix.proxy_cache").is_none() {
        r.notes.error(r.line("plugins"), "missing apisix.proxy_cache for plugin proxy-cache");
    }
}

/// Metrics of layer 4 have no route of their own to be shown by (apisix/cli/ops.lua).
fn stream_metrics(r: &mut Reader<'_>, config: &Config) {
    let enabled = config.stream_plugins.iter().flatten().any(|p| p == "prometheus");
    if enabled && config.prometheus.listen.is_none() {
        r.notes.error(r.line("stream_plugins"), "L4 prometheus metric should be exposed via export server");
    }
}

fn deployment(r: &mut Reader<'_>, place: &Place, env: Environment<'_>) -> Deployment {
    let role_name = r.text("deployment.role").unwrap_or_else(|| "traditional".to_owned());
    let (role, allowed): (Role, &[&str]) = match role_name.as_str() {
        "control_plane" => (Role::ControlPlane, &["etcd", "embedded"]),
        "data_plane" => (Role::DataPlane, &["etcd", "yaml", "json", "embedded", "xds"]),
        "traditional" => (Role::Traditional, &["etcd", "yaml", "embedded"]),
        _ => {
            r.notes.error(
                r.line("deployment.role"),
                "failed to validate config: property \"deployment\" validation failed: property \"role\" \
                 validation failed: matches none of the enum values",
            );
            (Role::Traditional, &["etcd", "yaml", "embedded"])
        }
    };
    let path = format!("deployment.role_{role_name}.config_provider");
    let provider = r.text(&path);
    let invalid = format!("invalid deployment {role_name} configuration: property \"role_{role_name}\"");
    match provider.as_deref() {
        None => r.notes.error(r.line("deployment.role"), format!("{invalid} is required")),
        Some("xds") => r.notes.error(r.line(&path), "config_provider xds is not supported yet"),
        Some(provider) if !allowed.contains(&provider) => r.notes.error(
            r.line(&path),
            format!(
                "{invalid} validation failed: property \"config_provider\" validation failed: matches none \
                 of the enum values"
            ),
        ),
        Some(_) => {}
    }
    standalone_env(r, &role_name, provider.as_deref(), env);
    let profile = env("APISIX_PROFILE").filter(|p| !p.is_empty());
    let beside = |name: &str, extension| {
        let profile = profile.as_ref().map_or(String::new(), |p| format!("-{p}"));
        place.conf.join(format!("{name}{profile}.{extension}"))
    };
    let data = place.home.join(r.text("deployment.embedded.path").unwrap_or_else(|| "data".to_owned()));
    let provider = match provider.as_deref() {
        Some("yaml") if role == Role::Traditional && r.is("apisix.enable_admin") => Provider::StandaloneApi,
        Some("yaml") => Provider::Yaml { path: beside("apisix", "yaml") },
        Some("json") => Provider::Json { path: beside("apisix", "json") },
        Some("embedded") => Provider::Embedded { path: data.clone() },
        _ => Provider::Etcd,
    };
    let (debug, etcd) = (beside("debug", "yaml"), etcd(r, provider == Provider::Etcd, &place.home));
    Deployment { role, etcd, provider, profile, data, debug }
}

/// APISIX_STAND_ALONE=true insists on a file provider (apisix/cli/ops.lua).
fn standalone_env(r: &mut Reader<'_>, role: &str, provider: Option<&str>, env: Environment<'_>) {
    if env("APISIX_STAND_ALONE").as_deref() == Some("true") && !matches!(provider, Some("yaml" | "json")) {
        r.notes.error(
            0,
            format!(
                "APISIX_STAND_ALONE is set to 'true' but config_provider is '{}'\nFor standalone mode, \
                 config_provider must be 'yaml' or 'json'\nCurrent role: {role}\nSee: \
                 https://apisix.apache.org/docs/apisix/deployment-modes/",
                provider.unwrap_or("nil")
            ),
        );
    }
}

fn etcd(r: &mut Reader<'_>, in_use: bool, home: &Path) -> Etcd {
    let hosts = match r.at("deployment.etcd.host").map(|n| &n.data) {
        Some(Data::Str(host)) => vec![host.clone()],
        _ => r.texts("deployment.etcd.host"),
    };
    let line = r.line("deployment.etcd.host");
    if in_use && hosts.is_empty() {
        r.notes.error(line, "deployment.etcd.host is required: expect array to have at least 1 items");
    }
    for (i, host) in hosts.iter().enumerate() {
        if !(host.starts_with("http://") || host.starts_with("https://")) {
            r.notes.error(
                line,
                format!(
                    "property \"host\" validation failed: failed to validate item {}: failed to match \
                     pattern \"^https?://\" with \"{host}\"",
                    i + 1
                ),
            );
        }
    }
    Etcd {
        hosts,
        prefix: r.text("deployment.etcd.prefix").unwrap_or_default().trim_end_matches('/').to_owned(),
        user: r.text("deployment.etcd.user"),
        password: r.text("deployment.etcd.password"),
        timeout_ms: r.seconds_ms("deployment.etcd.timeout", 30_000),
        watch_timeout_ms: r.seconds_ms("deployment.etcd.watch_timeout", 50_000),
        resync_delay_ms: r.seconds_ms("deployment.etcd.resync_delay", 5000),
        health_check_timeout_ms: r.seconds_ms("deployment.etcd.health_check_timeout", 10_000),
        startup_retry: r.number("deployment.etcd.startup_retry", 2),
        tls_cert: r.text("deployment.etcd.tls.cert").map(|p| home.join(p)),
        tls_key: r.text("deployment.etcd.tls.key").map(|p| home.join(p)),
        tls_verify: r.is("deployment.etcd.tls.verify"),
        tls_sni: r.text("deployment.etcd.tls.sni"),
    }
}

/// The Admin API with apisix/cli/ops.lua's check of its keys.
fn admin(r: &mut Reader<'_>, role: Role, conf: &Path) -> (Option<Admin>, Vec<Empty>) {
    let enabled = match role {
        Role::Traditional => r.is("apisix.enable_admin"),
        Role::ControlPlane => true,
        Role::DataPlane => false,
    };
    if !enabled || r.at("deployment.admin").is_none() {
        return (None, Vec::new());
    }
    let required = r.at("deployment.admin.admin_key_required").is_none_or(|n| n.data != Data::Bool(false));
    let local_only = match r.items("deployment.admin.allow_admin") {
        [only] => only.data == Data::Str("127.0.0.0/24".to_owned()),
        _ => false,
    };
    let mut keys = None;
    let mut empty = Vec::new();
    if r.at("deployment.admin.admin_key").is_some() {
        let mut list = Vec::new();
        for (index, item) in r.items("deployment.admin.admin_key").iter().enumerate() {
            let text = |key: &str| item.get(key).and_then(Node::scalar_text).unwrap_or_default();
            let viewer = text("role") == "viewer";
            if text("key").is_empty() && viewer {
                r.notes.warn(item.line, format!("admin_key \"{}\" is empty: it opens nothing", text("name")));
            } else if text("key").is_empty() {
                let at = item.get("key").map_or(0, |k| k.at);
                empty.push(Empty { index, name: text("name"), at });
            }
            list.push(AdminKey { name: text("name"), key: text("key"), viewer });
        }
        keys = Some(list);
    }
    if !required {
        r.notes.warn(
            r.line("deployment.admin.admin_key_required"),
            "Warning! Admin key is bypassed! If you are deploying APISIX in a production environment, please \
             enable `admin_key_required` and set a secure admin key!",
        );
    } else if !local_only && keys.as_ref().is_none_or(Vec::is_empty) {
        r.notes.error(
            r.line("deployment.admin.allow_admin"),
            "ERROR: missing valid Admin API token.\nPlease modify \"admin_key\" in conf/config.yaml .",
        );
    }
    let admin = Admin {
        listen: r.address("deployment.admin.admin_listen", "0.0.0.0", 9180),
        on_node_port: false,
        required,
        keys,
        allow: r.nets("deployment.admin.allow_admin"),
        cors: r.is("deployment.admin.enable_admin_cors"),
        version_2: r.text("deployment.admin.admin_api_version").is_some_and(|version| version != "v3"),
        tls: if r.is("deployment.admin.https_admin") { admin_tls(r, conf) } else { None },
    };
    (Some(admin), empty)
}

/// nginx takes these paths from where its own configuration is.
fn admin_tls(r: &mut Reader<'_>, conf: &Path) -> Option<AdminTls> {
    let path = |name: &str| {
        let path = r.text(&format!("deployment.admin.admin_api_mtls.{name}"))?;
        (!path.is_empty()).then(|| conf.join(path))
    };
    let (cert, key, client_ca) =
        (path("admin_ssl_cert"), path("admin_ssl_cert_key"), path("admin_ssl_ca_cert"));
    match (cert, key) {
        (Some(cert), Some(key)) => Some(AdminTls { cert, key, client_ca }),
        _ => {
            let line = r.line("deployment.admin.https_admin");
            r.notes.error(line, "missing ssl cert for https admin");
            None
        }
    }
}

fn prometheus(r: &mut Reader<'_>) -> Prometheus {
    let attr = "plugin_attr.prometheus";
    let buckets = r.items(&format!("{attr}.default_buckets"));
    let buckets: Vec<f64> = buckets
        .iter()
        .filter_map(|n| n.scalar_text()?.parse().ok())
        .filter(|b: &f64| b.is_finite())
        .collect();
    Prometheus {
        listen: None,
        prefix: r.text(&format!("{attr}.metric_prefix")).unwrap_or_else(|| "apisix_".to_owned()),
        buckets: (!buckets.is_empty()).then_some(buckets),
        metrics: r.at(&format!("{attr}.metrics")).map_or(Value::Null, Node::to_json),
    }
}

fn router(r: &mut Reader<'_>) -> RouterMode {
    r.parsed("apisix.router.http", RouterMode::HostUri, |text| match text {
        "radixtree_host_uri" => Some(RouterMode::HostUri),
        "radixtree_uri" => Some(RouterMode::Uri),
        "radixtree_uri_with_parameter" => Some(RouterMode::UriWithParameter),
        _ => None,
    })
}

fn dns(r: &mut Reader<'_>) -> Dns {
    let mut resolvers = Vec::new();
    for item in r.items("apisix.dns_resolver") {
        let text = item.scalar_text().unwrap_or_default();
        match listen::resolver(&text) {
            Some(address) => resolvers.push(address),
            None if text.contains('%') => {
                r.notes.warn(item.line, format!("unsupported DNS resolver: {text}, would ignore this item"));
            }
            None => r.notes.error(item.line, format!("invalid address \"{text}\" in apisix.dns_resolver")),
        }
    }
    let valid = r.at("apisix.dns_resolver_valid").map(|node| {
        let seconds = node.scalar_text().and_then(|text| text.parse::<u64>().ok()); // schema.rs lets numbers pass
        seconds.unwrap_or(0).saturating_mul(1000)
    });
    Dns {
        resolvers,
        valid_ms: valid,
        timeout_ms: r.seconds_ms("apisix.resolver_timeout", 30_000),
        search: r.is("apisix.enable_resolv_search_opt"),
    }
}

/// A key of any other length than AES takes would silently leave data in the clear: refused.
fn data_encryption(r: &mut Reader<'_>) -> DataEncryption {
    let path = "apisix.data_encryption.keyring";
    let keyring = match r.at(path).map(|n| &n.data) {
        Some(Data::Str(key)) => vec![key.clone()],
        _ => r.texts(path),
    };
    if keyring.iter().any(|key| !matches!(key.len(), 16 | 32)) {
        r.notes.error(r.line(path), format!("{path}: a key must have 16 or 32 bytes"));
    }
    DataEncryption { enable_encrypt_fields: r.is("apisix.data_encryption.enable_encrypt_fields"), keyring }
}

fn worker_processes(r: &mut Reader<'_>, env: Environment<'_>) -> Option<usize> {
    let written = r.text("nginx_config.worker_processes").and_then(|t| t.parse::<f64>().ok());
    let mut workers = written.map(|n| n as usize);
    if r.is("apisix.enable_dev_mode") {
        workers = Some(1);
    }
    if let Some(text) = env("APISIX_WORKER_PROCESSES") {
        match text.parse::<f64>() {
            Ok(n) => workers = Some(n as usize),
            Err(_) if text == "auto" => workers = None,
            Err(_) => r.notes.error(0, format!("APISIX_WORKER_PROCESSES is no number: {text}")),
        }
    }
    if workers.is_some_and(|n| n == 0 || n > limits::CORES) {
        r.notes.error(
            r.line("nginx_config.worker_processes"),
            format!("worker_processes must be 1 to {}", limits::CORES),
        );
    }
    workers
}

fn error_log(r: &mut Reader<'_>, home: &Path) -> ErrorLog {
    let option = "nginx_config.error_log";
    let mut path = r.text(option).filter(|p| !matches!(p.as_str(), "stderr" | "/dev/stderr"));
    if path.as_ref().is_some_and(|path| path.starts_with("syslog:")) {
        r.notes
            .warn(r.line(option), format!("{option} to syslog is not supported: it goes to standard error"));
        path = None;
    }
    let level = r.parsed("nginx_config.error_log_level", "error".to_owned(), |text| {
        ["debug", "info", "notice", "warn", "error", "crit", "alert", "emerg"]
            .contains(&text)
            .then(|| text.to_owned())
    });
    ErrorLog { path: path.map(|p: String| -> PathBuf { home.join(p) }), level }
}
