//! Every option of config.yaml that ringway knows: its path, its type, and what it means here.
//!
//! The list is APISIX's (conf/config.yaml.example, apisix/cli/config.lua, apisix/cli/schema.lua). It decides
//! what is reported as unknown, which wrong types stop the start, and which options get the one
//! "accepted without effect" line.

use super::yaml::{Data, Node};
use Kind::*;
use Use::*;

/// The types a value may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// true or false
    Bool,
    /// a number
    Num,
    /// text
    Str,
    /// a table: list or map, contents known
    Table,
    /// a table whose contents are not looked at here
    Free,
    /// nginx_config: number or text
    Scalar,
    /// nginx_config: number, text or boolean
    Flag,
    /// node_listen: a port or a table
    NumOrTable,
    /// keyring, etcd host: text or a table
    StrOrTable,
    /// number or text
    NumOrStr,
    /// anything
    Any,
}

/// What ringway does with an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// It takes effect.
    Here,
    /// It has no meaning in this program: accepted, named in one log line.
    Inert,
    /// It belongs to a part that ringway does not have yet: accepted, named in one warning.
    Later,
}

/// One known option.
#[derive(Debug)]
pub struct Known {
    /// Keys joined by dots; `[]` stands for any item of a list.
    pub path: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its effect.
    pub used: Use,
}

const fn known(path: &'static str, kind: Kind, used: Use) -> Known {
    Known { path, kind, used }
}

/// The known options.
pub const OPTIONS: &[Known] = &[
    known("apisix", Table, Here),
    known("apisix.id", Str, Here),
    known("apisix.node_listen", NumOrTable, Here),
    known("apisix.node_listen[]", Any, Here),
    known("apisix.node_listen[].ip", Str, Here),
    known("apisix.node_listen[].port", Num, Here),
    known("apisix.node_listen[].enable_http2", Bool, Here), // refused with APISIX's text
    known("apisix.enable_admin", Bool, Here),
    known("apisix.enable_dev_mode", Bool, Here),
    known("apisix.enable_reuseport", Bool, Inert),
    known("apisix.show_upstream_status_in_response_header", Bool, Here),
    known("apisix.enable_ipv6", Bool, Here),
    known("apisix.enable_http2", Bool, Here),
    known("apisix.proxy_protocol", Table, Here),
    known("apisix.proxy_protocol.listen_http_port", Num, Here),
    known("apisix.proxy_protocol.listen_https_port", Num, Here),
    known("apisix.proxy_protocol.enable_tcp_pp", Bool, Here),
    known("apisix.proxy_protocol.enable_tcp_pp_to_upstream", Bool, Here),
    known("apisix.enable_server_tokens", Bool, Here),
    known("apisix.extra_lua_path", Str, Inert),
    known("apisix.extra_lua_cpath", Str, Inert),
    known("apisix.lua_module_hook", Str, Inert),
    known("apisix.proxy_cache", Free, Later),
    known("apisix.delete_uri_tail_slash", Bool, Here),
    known("apisix.normalize_uri_like_servlet", Bool, Here),
    known("apisix.match_uri_encoded_slash", Bool, Here),
    known("apisix.max_post_args_readable_size", Num, Here),
    known("apisix.router", Table, Here),
    known("apisix.router.http", Str, Here),
    known("apisix.router.ssl", Str, Here),
    known("apisix.proxy_mode", Str, Here),
    known("apisix.stream_proxy", Free, Here),
    known("apisix.dns_resolver", Any, Here), // these three: schema.rs
    known("apisix.dns_resolver[]", Any, Here),
    known("apisix.dns_resolver_valid", Any, Here),
    known("apisix.resolver_timeout", Num, Here),
    known("apisix.enable_resolv_search_opt", Bool, Here),
    known("apisix.ssl", Table, Here),
    known("apisix.ssl.enable", Bool, Here),
    known("apisix.ssl.listen", Table, Here),
    known("apisix.ssl.listen[]", Table, Here),
    known("apisix.ssl.listen[].ip", Str, Here),
    known("apisix.ssl.listen[].port", Num, Here),
    known("apisix.ssl.listen[].enable_http2", Bool, Here), // refused with APISIX's text
    known("apisix.ssl.listen[].enable_http3", Bool, Here),
    known("apisix.ssl.ssl_trusted_certificate", Str, Here),
    known("apisix.ssl.ssl_protocols", Str, Here),
    known("apisix.ssl.ssl_ciphers", Str, Here),
    known("apisix.ssl.ssl_session_tickets", Bool, Here),
    known("apisix.ssl.fallback_sni", Str, Here),
    known("apisix.enable_control", Bool, Here),
    known("apisix.control", Table, Here),
    known("apisix.control.ip", Str, Here),
    known("apisix.control.port", Num, Here),
    known("apisix.control.router", Str, Inert),
    known("apisix.status", Table, Here),
    known("apisix.status.ip", Str, Here),
    known("apisix.status.port", Num, Here),
    known("apisix.disable_sync_configuration_during_start", Bool, Inert),
    known("apisix.worker_startup_time_threshold", Num, Inert),
    known("apisix.data_encryption", Table, Here),
    known("apisix.data_encryption.enable_encrypt_fields", Bool, Here),
    known("apisix.data_encryption.keyring", StrOrTable, Here),
    known("apisix.data_encryption.keyring[]", NumOrStr, Here),
    known("apisix.disable_upstream_healthcheck", Bool, Here),
    known("apisix.trusted_addresses", Any, Here), // these two: schema.rs
    known("apisix.trusted_addresses[]", Any, Here),
    known("apisix.lru", Table, Here),
    known("apisix.lru.secret", Table, Here),
    known("apisix.lru.secret.ttl", Num, Here),
    known("apisix.lru.secret.neg_ttl", Num, Here),
    known("apisix.lru.secret.count", Num, Inert), // as many as objects refer to
    known("apisix.lru.secret.neg_count", Num, Inert),
    known("apisix.tracing", Bool, Later),
    known("nginx_config", Table, Here),
    known("nginx_config.user", Scalar, Inert),
    known("nginx_config.error_log", Scalar, Here),
    known("nginx_config.error_log_level", Scalar, Here),
    known("nginx_config.worker_processes", Scalar, Here),
    known("nginx_config.enable_cpu_affinity", Flag, Inert), // cores are always pinned
    known("nginx_config.worker_rlimit_nofile", Scalar, Here),
    known("nginx_config.worker_shutdown_timeout", Scalar, Here),
    known("nginx_config.max_pending_timers", Scalar, Inert),
    known("nginx_config.max_running_timers", Scalar, Inert),
    known("nginx_config.event", Table, Here),
    known("nginx_config.event.worker_connections", Scalar, Here),
    known("nginx_config.envs", Table, Inert),
    known("nginx_config.envs[]", Str, Inert),
    known("nginx_config.meta", Free, Inert),
    known("nginx_config.stream", Free, Here),
    known("nginx_config.main_configuration_snippet", Str, Here),
    known("nginx_config.http_configuration_snippet", Str, Here),
    known("nginx_config.http_server_configuration_snippet", Str, Here),
    known("nginx_config.http_server_location_configuration_snippet", Str, Here),
    known("nginx_config.http_admin_configuration_snippet", Str, Here),
    known("nginx_config.http_end_configuration_snippet", Str, Here),
    known("nginx_config.stream_configuration_snippet", Str, Here),
    known("nginx_config.http", Table, Here),
    known("nginx_config.http.enable_access_log", Flag, Here),
    known("nginx_config.http.access_log", Scalar, Here),
    known("nginx_config.http.access_log_buffer", Scalar, Here),
    known("nginx_config.http.access_log_format", Scalar, Here),
    known("nginx_config.http.access_log_format_escape", Scalar, Here),
    known("nginx_config.http.keepalive_timeout", Scalar, Here),
    known("nginx_config.http.client_header_timeout", Scalar, Here),
    known("nginx_config.http.client_body_timeout", Scalar, Here),
    known("nginx_config.http.client_max_body_size", Scalar, Here),
    known("nginx_config.http.send_timeout", Scalar, Here),
    known("nginx_config.http.underscores_in_headers", Scalar, Here),
    known("nginx_config.http.real_ip_header", Scalar, Here),
    known("nginx_config.http.real_ip_recursive", Scalar, Here),
    known("nginx_config.http.real_ip_from", Table, Here),
    known("nginx_config.http.real_ip_from[]", Str, Here),
    known("nginx_config.http.proxy_ssl_server_name", Flag, Here),
    known("nginx_config.http.upstream", Table, Here),
    known("nginx_config.http.upstream.keepalive", Scalar, Here),
    known("nginx_config.http.upstream.keepalive_requests", Scalar, Here),
    known("nginx_config.http.upstream.keepalive_timeout", Scalar, Here),
    known("nginx_config.http.charset", Scalar, Here),
    known("nginx_config.http.variables_hash_max_size", Scalar, Inert),
    known("nginx_config.http.lua_shared_dict", Free, Inert),
    known("nginx_config.http.custom_lua_shared_dict", Free, Inert),
    known("http", Free, Inert),
    known("graphql", Table, Here),
    known("graphql.max_size", Num, Here),
    known("ext-plugin", Free, Later),
    known("plugins", Table, Here),
    known("plugins[]", Str, Here),
    known("stream_plugins", Table, Here),
    known("stream_plugins[]", Str, Here),
    known("wasm", Free, Later),
    known("xrpc", Free, Here),
    known("plugin_attr", Free, Here),
    known("discovery", Free, Later),
    known("deployment", Table, Here),
    known("deployment.role", Str, Here),
    known("deployment.role_traditional", Table, Here),
    known("deployment.role_traditional.config_provider", Str, Here),
    known("deployment.role_control_plane", Table, Here),
    known("deployment.role_control_plane.config_provider", Str, Here),
    known("deployment.role_data_plane", Table, Here),
    known("deployment.role_data_plane.config_provider", Str, Here),
    known("deployment.embedded", Table, Here),
    known("deployment.embedded.path", Str, Here),
    known("deployment.admin", Table, Here),
    known("deployment.admin.admin_key_required", Bool, Here),
    known("deployment.admin.admin_key", Table, Here),
    known("deployment.admin.admin_key[]", Table, Here),
    known("deployment.admin.admin_key[].name", Str, Here),
    known("deployment.admin.admin_key[].key", NumOrStr, Here),
    known("deployment.admin.admin_key[].role", Str, Here),
    known("deployment.admin.enable_admin_cors", Bool, Here),
    known("deployment.admin.enable_admin_ui", Bool, Later),
    known("deployment.admin.allow_admin", Table, Here),
    known("deployment.admin.allow_admin[]", Str, Here),
    known("deployment.admin.admin_listen", Table, Here),
    known("deployment.admin.admin_listen.ip", Str, Here),
    known("deployment.admin.admin_listen.port", Num, Here),
    known("deployment.admin.https_admin", Bool, Here),
    known("deployment.admin.admin_api_mtls", Free, Here),
    known("deployment.admin.admin_api_version", Str, Here),
    known("deployment.etcd", Table, Here),
    known("deployment.etcd.host", StrOrTable, Here),
    known("deployment.etcd.host[]", Str, Here),
    known("deployment.etcd.prefix", Str, Here),
    known("deployment.etcd.timeout", Num, Here),
    known("deployment.etcd.watch_timeout", Num, Here),
    known("deployment.etcd.resync_delay", Num, Here),
    known("deployment.etcd.health_check_timeout", Num, Here),
    known("deployment.etcd.startup_retry", Num, Here),
    known("deployment.etcd.user", NumOrStr, Here),
    known("deployment.etcd.password", NumOrStr, Here),
    known("deployment.etcd.tls", Table, Here),
    known("deployment.etcd.tls.cert", Str, Here),
    known("deployment.etcd.tls.key", Str, Here),
    known("deployment.etcd.tls.verify", Bool, Here),
    known("deployment.etcd.tls.sni", Str, Here),
    known("deployment.certs", Free, Inert), // APISIX 3.0's conf server, gone since 3.3
    known("etcd", Free, Here),              // APISIX 2.x: moved to deployment.etcd before this is asked
];

/// The option at `path`, `[]` for list items.
pub fn find(path: &str) -> Option<&'static Known> {
    OPTIONS.iter().find(|o| o.path == path)
}

impl Kind {
    /// Whether a value of this kind may be `node`. Null always may: it removes the option.
    pub fn accepts(self, node: &Node) -> bool {
        let lua = node.lua_type();
        match self {
            Any => true,
            _ if node.data == Data::Null => true,
            Bool => lua == "boolean",
            Num => lua == "number",
            Str => lua == "string",
            Table | Free => lua == "table",
            Scalar => matches!(lua, "number" | "string"),
            Flag => matches!(lua, "number" | "string" | "boolean"),
            NumOrTable => matches!(lua, "number" | "table"),
            StrOrTable => matches!(lua, "string" | "table"),
            NumOrStr => matches!(lua, "number" | "string"),
        }
    }

    /// The type that an error text says was expected.
    pub fn expected(self) -> &'static str {
        match self {
            Bool | Flag => "boolean",
            Num | NumOrStr => "number",
            Str | Scalar => "string",
            Table | Free | NumOrTable | StrOrTable => "table",
            Any => "any",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_listed_once_below_a_listed_parent() {
        for (i, option) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS[..i].iter().all(|o| o.path != option.path), "{} twice", option.path);
            let parent = option
                .path
                .strip_suffix("[]")
                .or_else(|| option.path.rsplit_once('.').map(|(parent, _)| parent));
            assert!(parent.is_none_or(|p| find(p).is_some()), "{} has no parent", option.path);
        }
    }
}
