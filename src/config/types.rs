//! The configuration as the rest of the program reads it: typed, complete, units in the names.
//!
//! Each field says which option of config.yaml it comes from. Times are milliseconds, 0 as in nginx.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::model::types::IpNet;

/// Everything that config.yaml says.
#[derive(Debug, Clone)]
pub struct Config {
    /// `apisix.id`: what this node is called; without it a name of its own is made once and kept.
    pub id: Option<String>,
    /// The file in use; `None` when the gateway runs on its defaults.
    pub file: Option<PathBuf>,
    /// What relative paths are relative to: the parent of the directory that holds the file.
    pub home: PathBuf,
    /// Where HTTP is served.
    pub listen: Listen,
    /// TLS towards clients.
    pub ssl: Ssl,
    /// The Admin API; `None` if `apisix.enable_admin` is false or the role is `data_plane`.
    pub admin: Option<Admin>,
    /// Address of the Control API (`apisix.enable_control`, `apisix.control`).
    pub control: Option<SocketAddr>,
    /// Address of the status API (`apisix.status`).
    pub status: Option<SocketAddr>,
    /// `plugin_attr.prometheus`.
    pub prometheus: Prometheus,
    /// Role, provider, etcd.
    pub deployment: Deployment,
    /// `nginx_config.http` and the directives of the configuration snippets.
    pub http: Http,
    /// `apisix.router.http`.
    pub router: RouterMode,
    /// `apisix.delete_uri_tail_slash`
    pub delete_uri_tail_slash: bool,
    /// `apisix.normalize_uri_like_servlet`
    pub normalize_uri_like_servlet: bool,
    /// `apisix.match_uri_encoded_slash`
    pub match_uri_encoded_slash: bool,
    /// `apisix.max_post_args_readable_size`, there in MB; 0 is no limit.
    pub max_post_args_readable_bytes: u64,
    /// `graphql.max_size`
    pub graphql_max_bytes: u64,
    /// `apisix.show_upstream_status_in_response_header`
    pub show_upstream_status_in_response_header: bool,
    /// `apisix.proxy_mode` includes `stream`.
    pub stream: bool,
    /// What listens on layer 4, and how it goes on.
    pub streams: Streams,
    /// `apisix.enable_ipv6`
    pub enable_ipv6: bool,
    /// `apisix.enable_http2`
    pub enable_http2: bool,
    /// `apisix.enable_server_tokens`: the version in the `Server` header.
    pub enable_server_tokens: bool,
    /// `apisix.trusted_addresses`: peers whose X-Forwarded-* are kept; `None` if not configured.
    pub trusted_addresses: Option<Vec<IpNet>>,
    /// DNS.
    pub dns: Dns,
    /// `apisix.disable_upstream_healthcheck`
    pub disable_upstream_healthcheck: bool,
    /// `apisix.data_encryption`
    pub data_encryption: DataEncryption,
    /// `apisix.lru.secret.ttl`: how long the answer of a secret manager holds.
    pub secret_ttl_ms: u64,
    /// `apisix.lru.secret.neg_ttl`: how long its failure holds.
    pub secret_failure_ttl_ms: u64,
    /// `nginx_config.worker_processes`, APISIX_WORKER_PROCESSES, `apisix.enable_dev_mode`; `None` is auto.
    pub worker_processes: Option<usize>,
    /// `nginx_config.worker_rlimit_nofile`, at least `event.worker_connections` + 128.
    pub worker_rlimit_nofile: u64,
    /// `nginx_config.event.worker_connections`: connections per core.
    pub worker_connections: u64,
    /// `nginx_config.worker_shutdown_timeout`; 0 there is no limit (ngx_cycle.c, `ngx_set_shutdown_timer`).
    pub worker_shutdown_timeout_ms: u64,
    /// `nginx_config.error_log`, `error_log_level`
    pub error_log: ErrorLog,
    /// `plugins`: the operator's list, or that of APISIX 3.18. `None` if removed by null: then the plugins
    /// come from the configuration source alone.
    pub plugins: Option<Vec<String>>,
    /// `stream_plugins`
    pub stream_plugins: Option<Vec<String>>,
    /// `plugin_attr` as written over the defaults: a JSON object.
    pub plugin_attr: Value,
}

impl Config {
    /// What `Server` says on every answer: the APISIX version whose behaviour this is, or no version where
    /// `enable_server_tokens` is off.
    pub fn server_name(&self) -> &'static str {
        if self.enable_server_tokens { "APISIX/3.18.0" } else { "APISIX" }
    }

    /// A path of the configuration, taken from [`Config::home`] if it is relative.
    pub fn path(&self, path: &str) -> PathBuf {
        self.home.join(path)
    }
}

/// Where clients connect. An IPv6 wildcard here serves IPv6 only, as in nginx.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listen {
    /// `apisix.node_listen`
    pub http: Vec<SocketAddr>,
    /// `apisix.proxy_protocol.listen_http_port`: the PROXY header is required there.
    pub proxy_protocol: Vec<SocketAddr>,
    /// `apisix.ssl.listen`, empty if `ssl.enable` is false.
    pub ssl: Vec<SocketAddr>,
    /// Those of them with `enable_http3`: UDP is served beside TCP.
    pub http3: Vec<SocketAddr>,
    /// `apisix.proxy_protocol.listen_https_port`: a PROXY header, then TLS.
    pub proxy_protocol_ssl: Vec<SocketAddr>,
    /// `apisix.ssl.ssl_trusted_certificate`: PEM files and `system`, separated by commas; `None` is the system's.
    pub trusted_certificate: Option<PathBuf>,
}

/// Layer 4: `apisix.stream_proxy`, `nginx_config.stream`, `xrpc`.
#[derive(Debug, Clone, PartialEq)]
pub struct Streams {
    /// `stream_proxy.tcp`, ranges spelt out.
    pub tcp: Vec<StreamListen>,
    /// `stream_proxy.udp`, ranges spelt out.
    pub udp: Vec<SocketAddr>,
    /// `nginx_config.stream.access_log`, if it is enabled.
    pub access_log: Option<AccessLog>,
    /// `nginx_config.stream.real_ip_from`: balancers whose PROXY header is believed.
    pub real_ip_from: Vec<IpNet>,
    /// `xrpc.protocols`, by name.
    pub protocols: Vec<String>,
    /// nginx's `proxy_connect_timeout`.
    pub connect_timeout_ms: u64,
    /// nginx's `proxy_timeout`: a session in which nothing moves for so long ends.
    pub timeout_ms: u64,
    /// nginx's `preread_timeout`: for PROXY header, handshake and what plugins read ahead.
    pub preread_timeout_ms: u64,
}

/// One address of `stream_proxy.tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamListen {
    /// Where clients connect.
    pub address: SocketAddr,
    /// `tls`: TLS ends here.
    pub tls: bool,
    /// `proxy_protocol`, else `proxy_protocol.enable_tcp_pp`: a PROXY header comes first.
    pub proxy_protocol: bool,
    /// `proxy_protocol_to_upstream`, else `proxy_protocol.enable_tcp_pp_to_upstream`: upstreams get one.
    pub proxy_protocol_to_upstream: bool,
}

/// `apisix.ssl`: TLS towards clients, but for what an ssl object says of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Ssl {
    /// `ssl_protocols`
    pub versions: TlsVersions,
    /// `ssl_ciphers`, by their names in OpenSSL; `None` allows all that are secure.
    pub ciphers: Option<Vec<String>>,
    /// `ssl_session_tickets`: sessions are kept by the client; otherwise by this process.
    pub session_tickets: bool,
    /// `fallback_sni`: the name of clients that send none.
    pub fallback_sni: Option<String>,
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsVersions {
    /// TLS 1.2
    pub v1_2: bool,
    /// TLS 1.3
    pub v1_3: bool,
}

impl TlsVersions {
    /// Those of `names` (`TLSv1.2`, `TLSv1.3`) that are served, and the names of those that are not. TLS 1.1 and older
    /// are served by no safe library.
    pub fn named<'a>(names: impl Iterator<Item = &'a str>) -> (TlsVersions, Vec<&'a str>) {
        let mut versions = TlsVersions { v1_2: false, v1_3: false };
        let mut others = Vec::new();
        for name in names {
            match name {
                "TLSv1.2" => versions.v1_2 = true,
                "TLSv1.3" => versions.v1_3 = true,
                other => others.push(other),
            }
        }
        (versions, others)
    }

    /// No version at all.
    pub fn is_empty(self) -> bool {
        !self.v1_2 && !self.v1_3
    }
}

/// The Admin API.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// `admin_listen`
    pub listen: SocketAddr,
    /// `admin_listen.port` is also a port of `node_listen`: the Admin API answers there, before routing,
    /// and has no listener of its own.
    pub on_node_port: bool,
    /// `admin_key_required`; false lets everybody in.
    pub required: bool,
    /// `admin_key`; `None` (written as null) lets in whom `allow` lets in.
    pub keys: Option<Vec<AdminKey>>,
    /// `allow_admin`; empty allows all.
    pub allow: Vec<IpNet>,
    /// `enable_admin_cors`
    pub cors: bool,
    /// `admin_api_version` is not `v3`: the older answer shapes.
    pub version_2: bool,
    /// `https_admin`
    pub tls: Option<AdminTls>,
}

/// `admin_api_mtls`: PEM files, relative to the directory of the configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminTls {
    /// `admin_ssl_cert`
    pub cert: PathBuf,
    /// `admin_ssl_cert_key`
    pub key: PathBuf,
    /// `admin_ssl_ca_cert`: clients need a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

/// One entry of `admin_key`.
#[derive(Clone, PartialEq)]
pub struct AdminKey {
    /// `name`
    pub name: String,
    /// `key`; while it is empty it matches nothing.
    pub key: String,
    /// `role` is `viewer`: may only read.
    pub viewer: bool,
}

/// The key itself stays out of debug output and so out of logs.
impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminKey")
            .field("name", &self.name)
            .field("viewer", &self.viewer)
            .finish_non_exhaustive()
    }
}

/// `export_uri` of `plugin_attr.prometheus`, given all of `plugin_attr`.
pub fn metrics_uri(plugin_attr: &Value) -> &str {
    plugin_attr["prometheus"]["export_uri"].as_str().unwrap_or("/apisix/prometheus/metrics")
}

/// `plugin_attr.prometheus`
#[derive(Debug, Clone, PartialEq)]
pub struct Prometheus {
    /// `export_addr`; `None` if `enable_export_server` is false.
    pub listen: Option<SocketAddr>,
    /// `metric_prefix`
    pub prefix: String,
    /// `default_buckets` of the latency histogram, ms.
    pub buckets: Option<Vec<f64>>,
    /// `metrics`: extra labels and expiry, by family.
    pub metrics: Value,
}

/// `deployment.role`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Proxy and Admin API.
    Traditional,
    /// Admin API only.
    ControlPlane,
    /// Proxy only.
    DataPlane,
}

/// Where routes and the other objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// etcd.
    Etcd,
    /// apisix.yaml, watched for changes.
    Yaml {
        /// The file: apisix.yaml beside config.yaml (apisix-<profile>.yaml under a profile).
        path: PathBuf,
    },
    /// apisix.json, watched for changes.
    Json {
        /// The file.
        path: PathBuf,
    },
    /// Role `traditional` with provider `yaml` and the Admin API on: the whole configuration comes through
    /// `/apisix/admin/configs`, no file is read (apisix/core/config_yaml.lua).
    StandaloneApi,
    /// ringway's own store.
    Embedded {
        /// Its directory.
        path: PathBuf,
    },
}

/// `deployment`
#[derive(Debug, Clone)]
pub struct Deployment {
    /// `role`
    pub role: Role,
    /// `role_*.config_provider`
    pub provider: Provider,
    /// `etcd`
    pub etcd: Etcd,
    /// APISIX_PROFILE, if set: part of file names.
    pub profile: Option<String>,
    /// Where ringway keeps files of its own (etcd snapshot, generated key): `embedded.path`.
    pub data: PathBuf,
    /// debug.yaml beside config.yaml (debug-<profile>.yaml under a profile), which need not be there.
    pub debug: PathBuf,
}

/// `deployment.etcd`
#[derive(Clone, PartialEq)]
pub struct Etcd {
    /// `host`
    pub hosts: Vec<String>,
    /// `prefix`, without a slash at its end.
    pub prefix: String,
    /// `user`
    pub user: Option<String>,
    /// `password`
    pub password: Option<String>,
    /// `timeout`
    pub timeout_ms: u64,
    /// `watch_timeout`
    pub watch_timeout_ms: u64,
    /// `resync_delay`: pause after a failed sync, to which up to half is added at random.
    pub resync_delay_ms: u64,
    /// `health_check_timeout`: how long a failed host is left out.
    pub health_check_timeout_ms: u64,
    /// `startup_retry`
    pub startup_retry: u32,
    /// `tls.cert`
    pub tls_cert: Option<PathBuf>,
    /// `tls.key`
    pub tls_key: Option<PathBuf>,
    /// `tls.verify`
    pub tls_verify: bool,
    /// `tls.sni`
    pub tls_sni: Option<String>,
}

/// Password out of debug output, as in [`AdminKey`].
impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd")
            .field("hosts", &self.hosts)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// `apisix.router.http`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterMode {
    /// `radixtree_host_uri`
    HostUri,
    /// `radixtree_uri`
    Uri,
    /// `radixtree_uri_with_parameter`
    UriWithParameter,
}

/// Name resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    /// `apisix.dns_resolver`; empty takes those of /etc/resolv.conf.
    pub resolvers: Vec<SocketAddr>,
    /// `apisix.dns_resolver_valid`: replaces the TTL of answers.
    pub valid_ms: Option<u64>,
    /// `apisix.resolver_timeout`
    pub timeout_ms: u64,
    /// `apisix.enable_resolv_search_opt`
    pub search: bool,
}

/// `apisix.data_encryption`. APISIX encrypts with the first key and tries all to decrypt.
#[derive(Clone, PartialEq)]
pub struct DataEncryption {
    /// `enable_encrypt_fields`
    pub enable_encrypt_fields: bool,
    /// `keyring`: keys of 16 or 32 bytes.
    pub keyring: Vec<String>,
}

/// Keys out of debug output.
impl std::fmt::Debug for DataEncryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataEncryption")
            .field("enable_encrypt_fields", &self.enable_encrypt_fields)
            .finish_non_exhaustive()
    }
}

/// The error log.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorLog {
    /// The file; `None` is standard error (`/dev/stderr` or `stderr`).
    pub path: Option<PathBuf>,
    /// nginx's name of the lowest level that is written: debug … emerg.
    pub level: String,
}

/// The HTTP side: `nginx_config.http` with the honoured snippet directives over it.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// `client_max_body_size`; 0 is no limit.
    pub client_max_body_bytes: u64,
    /// `client_body_buffer_size` (snippet).
    pub client_body_buffer_bytes: u64,
    /// `keepalive_timeout`: 0 closes each connection after its answer.
    pub keepalive_timeout_ms: u64,
    /// `keepalive_requests` (snippet): requests per client connection.
    pub keepalive_requests: u64,
    /// `client_header_timeout`
    pub client_header_timeout_ms: u64,
    /// `client_body_timeout`: between two reads.
    pub client_body_timeout_ms: u64,
    /// `send_timeout`: between two writes.
    pub send_timeout_ms: u64,
    /// `client_header_buffer_size` (snippet)
    pub client_header_buffer_bytes: u64,
    /// `large_client_header_buffers` (snippet): how many.
    pub large_client_header_buffers: u32,
    /// `large_client_header_buffers` (snippet): size of one, which bounds the request line and each header.
    pub large_client_header_buffer_bytes: u64,
    /// `underscores_in_headers`: off drops such headers.
    pub underscores_in_headers: bool,
    /// `ignore_invalid_headers` (snippet): off lets them through.
    pub ignore_invalid_headers: bool,
    /// Where the client's address comes from.
    pub real_ip: RealIp,
    /// The access log; `None` if switched off.
    pub access_log: Option<AccessLog>,
    /// `charset`, added to text types; `None` for `off` or null.
    pub charset: Option<String>,
    /// `proxy_ssl_server_name`: SNI towards upstreams.
    pub proxy_ssl_server_name: bool,
    /// `proxy_ssl_verify` (snippets): all `https` upstreams are looked at as those with `tls.verify`.
    pub proxy_ssl_verify: bool,
    /// Keep-alive towards upstreams (`upstream.*`).
    pub upstream: UpstreamKeepalive,
    /// `add_header` (snippets).
    pub add_headers: Vec<AddHeader>,
    /// Defaults towards upstreams (snippets).
    pub proxy: Proxy,
}

/// `real_ip_*`
#[derive(Debug, Clone, PartialEq)]
pub struct RealIp {
    /// `real_ip_header`
    pub source: RealIpSource,
    /// `real_ip_from`, `set_real_ip_from`
    pub from: Vec<IpNet>,
    /// `real_ip_recursive`
    pub recursive: bool,
}

/// `real_ip_header`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealIpSource {
    /// A header, in lower case; the last address in it that is not trusted, or simply the last.
    Header(String),
    /// `proxy_protocol`: the address in the PROXY header.
    ProxyProtocol,
}

/// `access_log*`
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// The file; `/dev/stdout` and the like are opened as they are.
    pub path: PathBuf,
    /// `access_log_format`
    pub format: String,
    /// `access_log_format_escape`: `default`, `json` or `none`.
    pub escape: String,
    /// `access_log_buffer`
    pub buffer_bytes: usize,
}

/// `nginx_config.http.upstream`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamKeepalive {
    /// Idle connections kept per core.
    pub connections: u32,
    /// Requests per connection.
    pub requests: u32,
    /// Idle time.
    pub timeout_ms: u64,
}

/// One `add_header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddHeader {
    /// Its name.
    pub name: String,
    /// Its value, with `$variables`; not added when it comes out empty.
    pub value: String,
    /// With every status, not only 200, 201, 204, 206, 301, 302, 303, 304, 307 and 308.
    pub always: bool,
}

/// `proxy_*` directives of the snippets.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// `proxy_connect_timeout`
    pub connect_timeout_ms: u64,
    /// `proxy_send_timeout`
    pub send_timeout_ms: u64,
    /// `proxy_read_timeout`
    pub read_timeout_ms: u64,
    /// `proxy_next_upstream`
    pub next_upstream: NextUpstream,
    /// `proxy_next_upstream_tries`; 0 leaves it to the upstream's `retries`.
    pub next_upstream_tries: u32,
    /// `proxy_next_upstream_timeout`; 0 is none.
    pub next_upstream_timeout_ms: u64,
}

impl Proxy {
    /// nginx's own defaults (ngx_http_proxy_module).
    pub const NGINX: Proxy = Proxy {
        connect_timeout_ms: 60_000,
        send_timeout_ms: 60_000,
        read_timeout_ms: 60_000,
        next_upstream: NextUpstream {
            error: true,
            timeout: true,
            invalid_header: false,
            non_idempotent: false,
            statuses: Vec::new(),
        },
        next_upstream_tries: 0,
        next_upstream_timeout_ms: 0,
    };
}

/// When another node is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextUpstream {
    /// `error`: connect, send or read failed.
    pub error: bool,
    /// `timeout`
    pub timeout: bool,
    /// `invalid_header`: an empty or malformed answer.
    pub invalid_header: bool,
    /// `non_idempotent`: also POST, LOCK and PATCH that were sent already.
    pub non_idempotent: bool,
    /// `http_500` and so on.
    pub statuses: Vec<u16>,
}
