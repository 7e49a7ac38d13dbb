//! Whole files, as operators write them.

use super::*;

fn no_env(_: &str) -> Option<String> {
    None
}

fn good(text: &str) -> Config {
    match load_text(text, &no_env) {
        Ok(loaded) => loaded.config,
        Err(failure) => panic!("{text}\n{failure}"),
    }
}

fn errors(text: &str) -> Vec<String> {
    match load_text(text, &no_env) {
        Ok(_) => Vec::new(),
        Err(failure) => failure.errors.iter().map(Note::to_string).collect(),
    }
}

fn notes(text: &str) -> Vec<String> {
    load_text(text, &no_env).unwrap().notes.iter().map(Note::to_string).collect()
}

#[test]
fn an_empty_file_is_apisix_with_its_defaults() {
    let config = good("# nothing\n");
    let shown: Vec<String> = config.listen.http.iter().map(|a| a.to_string()).collect();
    assert_eq!(shown, ["0.0.0.0:9080", "[::]:9080"]);
    assert_eq!(config.deployment.provider, Provider::Etcd);
    assert_eq!(config.deployment.etcd.hosts, ["http://127.0.0.1:2379"]);
    let admin = config.admin.as_ref().unwrap();
    assert_eq!(admin.listen.to_string(), "0.0.0.0:9180");
    assert_eq!((admin.allow.len(), admin.required, admin.cors), (1, true, true));
    assert_eq!(config.control.unwrap().to_string(), "127.0.0.1:9090");
    assert_eq!(config.prometheus.listen.unwrap().to_string(), "127.0.0.1:9091");
    assert_eq!(config.status, None);
    assert_eq!(config.router, RouterMode::HostUri);
    assert_eq!(config.http.client_max_body_bytes, 0);
    assert_eq!((config.http.keepalive_timeout_ms, config.http.send_timeout_ms), (60_000, 10_000));
    assert!(config.http.underscores_in_headers && config.http.proxy_ssl_server_name);
    assert_eq!(config.worker_shutdown_timeout_ms, 240_000);
    assert_eq!((config.worker_processes, config.worker_rlimit_nofile), (None, 20480));
    assert_eq!(config.error_log.level, "warn");
    assert!(config.deployment.etcd.tls_verify && !config.ssl.session_tickets);
    let plugins = config.plugins.as_ref().unwrap();
    assert!(plugins.len() > 90 && plugins.iter().any(|p| p == "limit-count"));
    assert!(!plugins.iter().any(|p| p == "server-info"));
    let log = config.http.access_log.as_ref().unwrap();
    assert_eq!(log.path, Path::new("/logs/access.log"));
    assert_eq!(
        log.format,
        "$remote_addr - $remote_user [$time_local] $http_host \"$request\" $status $body_bytes_sent \
         $request_time \"$http_referer\" \"$http_user_agent\" $upstream_addr $upstream_status \
         $upstream_response_time \"$upstream_scheme://$upstream_host$upstream_uri\" \"$apisix_request_id\""
    );
}

#[test]
fn node_listen_in_its_three_forms() {
    let ports = |text: &str| -> Vec<String> {
        good(&format!("apisix:\n  {text}\n")).listen.http.iter().map(|a| a.to_string()).collect()
    };
    assert_eq!(ports("node_listen: 8000"), ["0.0.0.0:8000", "[::]:8000"]);
    assert_eq!(ports("node_listen: [80, 81]\n  enable_ipv6: false"), ["0.0.0.0:80", "0.0.0.0:81"]);
    assert_eq!(
        ports("node_listen: [{ip: 127.0.0.2, port: 9082}, {port: 9083}, {ip: '[::1]', port: 1}]"),
        ["127.0.0.2:9082", "0.0.0.0:9083", "[::]:9083", "[::1]:1"]
    );
    assert_eq!(ports("node_listen: [80, 80]\n  enable_ipv6: false"), ["0.0.0.0:80"]);
    assert_eq!(
        errors("apisix:\n  node_listen:\n  - port: 1\n    enable_http2: true\n"),
        [
            "line 4: ERROR: port level enable_http2 in node_listen is deprecatedfrom 3.9 version, and you should \
          use enable_http2 in apisix level."
        ]
    );
    assert_eq!(errors("apisix:\n  node_listen:\n  - 99999\n").len(), 1);
    assert_eq!(errors("apisix:\n  node_listen:\n  - ip: nohost\n").len(), 1);
}

/// t/cli/test_main.sh
#[test]
fn ports_of_tls_and_of_the_proxy_protocol() {
    let listen = |text: &str| good(&format!("apisix:\n  {text}\n")).listen;
    let shown = |list: &[std::net::SocketAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&listen("ssl: {listen: [{port: 8443}]}").ssl), ["0.0.0.0:8443", "[::]:8443"]);
    let three = listen("node_listen: [80, 81, 82]\n  ssl: {listen: [{port: 443}, {port: 444}, {port: 445}]}");
    assert_eq!((three.http.len(), three.ssl.len(), three.http3.len()), (6, 6, 0));
    let own = listen(
        "ssl: {listen: [{ip: 127.0.0.3, port: 9444}, {ip: 127.0.0.4, port: 9445, enable_http3: true}]}",
    );
    assert_eq!(shown(&own.ssl), ["127.0.0.3:9444", "127.0.0.4:9445"]);
    assert_eq!(shown(&own.http3), ["127.0.0.4:9445"]);
    assert_eq!(
        errors("apisix:\n  ssl:\n    listen:\n    - port: 9444\n      enable_http2: true\n"),
        [
            "line 5: ERROR: port level enable_http2 in ssl.listen is deprecatedfrom 3.9 version, and you should \
             use enable_http2 in apisix level."
        ]
    );
    let proxied = "proxy_protocol: {listen_http_port: 9181, listen_https_port: 9182}";
    let both = listen(proxied);
    assert_eq!(shown(&both.proxy_protocol), ["0.0.0.0:9181", "[::]:9181"]);
    assert_eq!(shown(&both.proxy_protocol_ssl), ["0.0.0.0:9182", "[::]:9182"]);
    let ipv4 = listen(&format!("enable_ipv6: false\n  {proxied}"));
    assert_eq!(shown(&ipv4.proxy_protocol), ["0.0.0.0:9181"]);
    assert_eq!(shown(&ipv4.proxy_protocol_ssl), ["0.0.0.0:9182"]);
}

/// t/cli/test_admin.sh and test_control.sh
#[test]
fn addresses_of_the_apis() {
    let apisix = |text: &str| good(&format!("apisix: {{{text}}}\n"));
    let control = |text: &str| apisix(text).control.map(|address| address.to_string());
    assert_eq!(control("control: {ip: 127.0.0.2}").as_deref(), Some("127.0.0.2:9090"));
    assert_eq!(control("control: {port: 9092}").as_deref(), Some("127.0.0.1:9092"));
    assert_eq!(control("enable_control: false"), None);
    assert_eq!(apisix("status: {port: 7086}").status.unwrap().to_string(), "127.0.0.1:7086");
    assert!(apisix("enable_admin: false").admin.is_none());
    let admin = good("deployment: {admin: {admin_listen: {ip: 127.0.0.2, port: 9181}}}").admin.unwrap();
    assert_eq!((admin.listen.to_string().as_str(), admin.on_node_port), ("127.0.0.2:9181", false));
}

/// apisix/cli/ops.lua
#[test]
fn plugins_need_what_they_are_served_by() {
    const CACHE: &str = "missing apisix.proxy_cache for plugin proxy-cache";
    const METRICS: &str = "L4 prometheus metric should be exposed via export server";
    let off = "plugin_attr: {prometheus: {enable_export_server: false}}\n";
    for (text, said) in [
        ("plugins: [proxy-cache]\n".to_owned(), None),
        (
            "apisix: {proxy_cache: null}\nplugins: [proxy-cache]\n".to_owned(),
            Some(format!("line 2: {CACHE}")),
        ),
        ("apisix:\n  proxy_cache:\n".to_owned(), Some(CACHE.to_owned())),
        ("apisix: {proxy_cache: null}\nplugins: [cors]\n".to_owned(), None),
        ("stream_plugins: [prometheus]\n".to_owned(), None),
        (format!("{off}stream_plugins: [prometheus]\n"), Some(format!("line 2: {METRICS}"))),
        ("plugin_attr: null\nstream_plugins: [prometheus]\n".to_owned(), Some(format!("line 2: {METRICS}"))),
        (format!("{off}stream_plugins: [mqtt-proxy]\nplugins: [prometheus]\n"), None),
    ] {
        assert_eq!(errors(&text), said.into_iter().collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn port_conflicts_are_named() {
    for (text, want) in [
        ("apisix:\n  node_listen: 9090\n", "line 2: http listen port 9090 conflicts with control port"),
        ("apisix:\n  node_listen: [9091]\n", "line 2: http listen port 9091 conflicts with prometheus port"),
        (
            "deployment:\n  admin:\n    admin_listen:\n      port: 9443\n",
            "https listen port 9443 conflicts with admin port",
        ),
        (
            "deployment:\n  admin:\n    admin_listen:\n      port: 9090\n",
            "control port 9090 conflicts with admin port",
        ),
        ("apisix:\n  status:\n    port: 9091\n", "prometheus port 9091 conflicts with status port"),
        (
            "apisix:\n  control:\n    port: 9093\nplugin_attr:\n  prometheus:\n    export_addr:\n      port: 9093\n",
            "line 7: prometheus port 9093 conflicts with control port",
        ),
        (
            "apisix:\n  ssl:\n    listen:\n    - port: 9080\n",
            "line 4: https listen port 9080 conflicts with http listen port",
        ),
    ] {
        let found = errors(text);
        assert!(
            !found.is_empty() && found.iter().all(|f| f == want || f.ends_with(want)),
            "{text} {found:?}"
        );
    }
    assert!(errors("apisix:\n  node_listen: 9090\n  enable_control: false\n").is_empty());
}

#[test]
fn an_admin_port_that_is_a_node_port_serves_admin_there() {
    let config = good("deployment:\n  admin:\n    admin_listen: {ip: 127.0.0.1, port: 9080}\n");
    assert!(config.admin.unwrap().on_node_port);
    assert!(!good("").admin.unwrap().on_node_port);
}

#[test]
fn substitution_reaches_values_and_keys() {
    let env = |name: &str| match name {
        "PORT" => Some("8000".to_owned()),
        "KEY" => Some("1234567890123456".to_owned()),
        _ => None,
    };
    let text = "apisix:\n  node_listen: ${{PORT}}\nnginx_config:\n  http:\n    custom_lua_shared_dict:\n      \
                ${{KEY}}: 1m\ndeployment:\n  admin:\n    admin_key:\n    - name: admin\n      key: ${{KEY}}\n      \
                role: admin\n  etcd:\n    host: [\"http://${{ETCD:=localhost}}:2379\"]\n";
    let loaded = load_text(text, &env).unwrap();
    assert_eq!(loaded.config.listen.http[0].port(), 8000);
    assert_eq!(loaded.config.deployment.etcd.hosts, ["http://localhost:2379"]);
    let keys = loaded.config.admin.unwrap().keys.unwrap();
    assert_eq!(keys[0].key, "1234567890123456");
    let failure = load_text("a: 1\nb: ${{NOPE}}\n", &env).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "line 2: failed to handle configuration: can't find environment variable NOPE"
    );
}

/// t/cli/test_main.sh and test_standalone.sh
#[test]
fn what_is_substituted_has_the_type_that_it_looks_like() {
    let env = |name: &str| match name {
        "ADMIN" => Some("false".to_owned()),
        "NUMBER" => Some("5".to_owned()),
        _ => None,
    };
    let text = "apisix:\n  enable_admin: ${{ADMIN}}\n  resolver_timeout: ${{ NUMBER }}\nnginx_config:\n  \
                worker_processes: ${{NUMBER}}\n  worker_rlimit_nofile: ${{NUMBER}}9999\ntests:\n  key: \
                ${{NOWHERE:=very-long-domain-with-many-symbols.example:1234/path?param1=value1}}\n";
    let config = load_text(text, &env).unwrap().config;
    assert!(config.admin.is_none());
    assert_eq!(config.dns.timeout_ms, 5000);
    assert_eq!((config.worker_processes, config.worker_rlimit_nofile), (Some(5), 59999));
    for text in ["nginx_config: {worker_processes: true}", "nginx_config:\n  worker_processes: ${{ADMIN}}\n"]
    {
        let failure = load_text(text, &env).unwrap_err().to_string();
        assert!(failure.contains("path[nginx_config->worker_processes] expect: "), "{failure}");
    }
}

#[test]
fn the_reserved_environment_variables() {
    let env = |name: &str| match name {
        "APISIX_DEPLOYMENT_ETCD_HOST" => Some("[\"http://a:1\",\"https://b:2\"]".to_owned()),
        "APISIX_WORKER_PROCESSES" => Some("3".to_owned()),
        _ => None,
    };
    let config = load_text("nginx_config:\n  worker_processes: 7\n", &env).unwrap().config;
    assert_eq!(config.deployment.etcd.hosts, ["http://a:1", "https://b:2"]);
    assert_eq!(config.worker_processes, Some(3));
    assert_eq!(
        good("apisix: {enable_dev_mode: true}\nnginx_config: {worker_processes: 7}").worker_processes,
        Some(1)
    );
    let bad = |name: &str| (name == "APISIX_DEPLOYMENT_ETCD_HOST").then(|| "x".to_owned());
    let loaded = load_text("", &bad).unwrap();
    assert_eq!(loaded.config.deployment.etcd.hosts, ["http://127.0.0.1:2379"]);
    assert!(loaded.notes.iter().any(|n| n.text.starts_with("parse ${APISIX_DEPLOYMENT_ETCD_HOST} failed")));
}

/// t/cli/test_standalone_yaml_format.sh and test_standalone_docker.sh
#[test]
fn stand_alone_insists_on_a_file_in_whatever_style_it_is_written() {
    let alone = |name: &str| (name == "APISIX_STAND_ALONE").then(|| "true".to_owned());
    for text in [
        "deployment:\n  role: data_plane\n  role_data_plane:\n    config_provider: yaml\n",
        "deployment:\n  role: \"data_plane\"\n  role_data_plane:\n    config_provider: 'yaml'\n",
        "deployment:\n  role: 'data_plane'\n  role_data_plane:\n    config_provider: yaml\n",
        "deployment: {\"role\": \"data_plane\", \"role_data_plane\": {\"config_provider\": \"yaml\"}}\n",
    ] {
        let provider = load_text(text, &alone).unwrap().config.deployment.provider;
        assert_eq!(provider, Provider::Yaml { path: "/conf/apisix.yaml".into() }, "{text}");
    }
    let driven = "deployment:\n  role: traditional\n  role_traditional:\n    config_provider: yaml\n  admin:\n    \
                  admin_key_required: false\napisix:\n  enable_admin: true\n";
    let driven = load_text(driven, &alone).unwrap().config;
    assert!(driven.deployment.provider == Provider::StandaloneApi && driven.admin.is_some());
    for text in ["", "deployment: {role: data_plane, role_data_plane: {config_provider: etcd}}"] {
        let failure = load_text(text, &alone).unwrap_err().to_string();
        let why = "APISIX_STAND_ALONE is set to 'true' but config_provider is 'etcd'";
        assert!(failure.starts_with(why), "{failure}");
    }
}

#[test]
fn the_old_etcd_key_and_a_single_host() {
    assert_eq!(good("etcd:\n  host: \"http://foo:2379\"\n").deployment.etcd.hosts, ["http://foo:2379"]);
    let both =
        "etcd:\n  host: http://old:1\ndeployment:\n  etcd:\n    host: [http://new:1]\n    prefix: /x/\n";
    let etcd = good(both).deployment.etcd;
    assert_eq!((etcd.hosts.as_slice(), etcd.prefix.as_str()), (["http://new:1".to_owned()].as_slice(), "/x"));
    assert!(errors("deployment:\n  etcd:\n    host: [\"127.0.0.1:2379\"]\n")[0].contains("^https?://"));
}

#[test]
fn providers_by_role() {
    let provider = |text: &str| good(&format!("deployment:\n  {text}\n")).deployment.provider;
    let yaml = || Provider::Yaml { path: "/conf/apisix.yaml".into() };
    assert_eq!(provider("role: data_plane\n  role_data_plane: {config_provider: yaml}"), yaml());
    assert_eq!(
        provider("role: data_plane\n  role_data_plane: {config_provider: json}"),
        Provider::Json { path: "/conf/apisix.json".into() }
    );
    assert_eq!(provider("role_traditional: {config_provider: yaml}"), Provider::StandaloneApi);
    assert_eq!(provider("role_traditional: {config_provider: yaml}\napisix: {enable_admin: false}"), yaml());
    assert_eq!(
        provider("role_traditional: {config_provider: embedded}\n  embedded: {path: /var/x}"),
        Provider::Embedded { path: "/var/x".into() }
    );
    for provider in ["etcd", "yaml"] {
        let role = format!("{{role: data_plane, role_data_plane: {{config_provider: {provider}}}}}");
        assert!(good(&format!("apisix: {{enable_admin: true}}\ndeployment: {role}\n")).admin.is_none());
    }
    assert!(
        good(
            "apisix: {enable_admin: false}\ndeployment:\n  role: control_plane\n  role_control_plane: \
                  {config_provider: etcd}\n"
        )
        .admin
        .is_some()
    );
    assert_eq!(
        errors("deployment:\n  role_traditional:\n    config_provider: json\n"),
        ["line 3: invalid deployment traditional configuration: property \"role_traditional\" validation \
          failed: property \"config_provider\" validation failed: matches none of the enum values"]
    );
    assert_eq!(
        errors("deployment:\n  role: data_plane\n"),
        ["line 2: invalid deployment data_plane configuration: property \"role_data_plane\" is required"]
    );
    assert_eq!(errors("deployment:\n  role: boss\n  role_boss: {config_provider: etcd}\n").len(), 1);
}

#[test]
fn admin_keys_and_who_may_ask() {
    let admin = |text: &str| good(&format!("deployment:\n  admin:\n    {text}\n")).admin.unwrap();
    const MISSING: &str = "ERROR: missing valid Admin API token.";
    let refused = |text: &str| {
        errors(&format!("deployment:\n  admin:\n    {text}\n")).iter().any(|e| e.contains(MISSING))
    };
    assert_eq!(admin("allow_admin: ~").allow, []);
    assert_eq!(admin("allow_admin: []").allow, []);
    assert_eq!(admin("allow_admin: [10.0.0.0/8, '::/64']").allow.len(), 2);
    assert!(admin("admin_key: ~").keys.is_none());
    assert!(admin("admin_key: ~\n    allow_admin: [127.0.0.0/24]").keys.is_none());
    assert!(refused("admin_key: ~\n    allow_admin: ~"));
    assert!(refused("admin_key: ~\n    allow_admin: [0.0.0.0/0, 127.0.0.0/24]"));
    assert!(refused("admin_key: []\n    allow_admin: [0.0.0.0/0]"));
    assert!(!refused("admin_key: ~\n    admin_key_required: false\n    allow_admin: [0.0.0.0/0]"));
    assert!(!admin("admin_key_required: false").required);
    assert!(
        notes("deployment:\n  admin:\n    admin_key_required: false\n")
            .iter()
            .any(|n| n.contains("Warning! Admin key is bypassed!"))
    );
    assert_eq!(errors("deployment:\n  admin:\n    allow_admin: [all, nonsense]\n").len(), 1);
    let keys =
        admin("admin_key:\n    - {name: a, key: 123, role: admin}\n    - {name: v, key: x, role: viewer}");
    let keys = keys.keys.unwrap();
    assert_eq!((keys[0].key.as_str(), keys[0].viewer, keys[1].viewer), ("123", false, true));
    assert!(!format!("{keys:?}").contains("123"));
    for (version, is_2) in [("v2", true), ("default", true), ("v3", false)] {
        assert_eq!(admin(&format!("admin_api_version: {version}")).version_2, is_2, "{version}");
    }
}

#[test]
fn null_removes_and_what_is_removed_has_nginx_own_default() {
    let config = good(
        "nginx_config:\n  http:\n    keepalive_timeout: ~\n    real_ip_from: ~\n    access_log: ~\n\
                       apisix:\n  enable_control: ~\n  ssl: ~\nplugins: ~\n",
    );
    assert_eq!(config.http.keepalive_timeout_ms, 75_000);
    assert!(config.http.real_ip.from.is_empty() && config.http.access_log.is_none());
    assert!(config.control.is_none() && config.listen.ssl.is_empty() && config.plugins.is_none());
    assert_eq!(good("plugins: []\n").plugins, Some(vec![]));
    assert_eq!(good("plugins: [cors]\n").plugins, Some(vec!["cors".to_owned()]));
}

#[test]
fn values_that_do_not_parse_stop_the_start_with_their_line() {
    for (text, want) in [
        (
            "nginx_config:\n  http:\n    send_timeout: 10x\n",
            "line 3: invalid value \"10x\" of nginx_config.http.send_timeout",
        ),
        (
            "nginx_config:\n  http:\n    real_ip_recursive: maybe\n",
            "line 3: invalid value \"maybe\" of nginx_config.http.real_ip_recursive",
        ),
        ("apisix:\n  router:\n    http: tree\n", "line 3: invalid value \"tree\" of apisix.router.http"),
        (
            "apisix:\n  data_encryption:\n    keyring: [short]\n",
            "line 3: apisix.data_encryption.keyring: a key must have 16 or 32 bytes",
        ),
        (
            "plugins: [batch-requests]\nnginx_config:\n  http:\n    real_ip_from: [10.0.0.1]\n",
            "line 4: missing loopback or unspecified in the nginx_config.http.real_ip_from for plugin \
             batch-requests",
        ),
        (
            "nginx_config:\n  error_log_level: loud\n",
            "line 2: invalid value \"loud\" of nginx_config.error_log_level",
        ),
        (
            "apisix:\n  data_encryption:\n    keyring: [qeddd145sfvddff3, qeddd145sfvddff3qedd]\n",
            "line 3: apisix.data_encryption.keyring: a key must have 16 or 32 bytes",
        ),
        ("nginx_config:\n  worker_processes: 1025\n", "line 2: worker_processes must be 1 to 1024"),
        ("nginx_config:\n  worker_processes: 0\n", "line 2: worker_processes must be 1 to 1024"),
    ] {
        assert_eq!(errors(text), [want], "{text}");
    }
    assert!(errors("apisix: [\n")[0].contains("invalid config.yaml file"));
    assert!(errors("just text\n")[0].contains("invalid config.yaml file"));
}

#[test]
fn unknown_options_are_reported_and_never_stop_the_start() {
    let notes = notes(
        "apisix:\n  nodelisten: 1\n  lua_module_hook: x\nfoo: {a: 1}\ndiscovery: {dns: {servers: [a]}}\n",
    );
    for want in [
        "line 2: unknown option apisix.nodelisten",
        "line 4: unknown option foo",
        "options accepted without effect in ringway: apisix.lua_module_hook (line 3)",
        "options of parts that ringway does not have yet: discovery (line 5)",
    ] {
        assert!(notes.iter().any(|n| n == want), "{want} in {notes:?}");
    }
}

/// t/cli/test_main.sh
#[test]
fn what_nginx_would_be_told() {
    let text = "nginx_config:\n  enable_cpu_affinity: true\n  http:\n    client_max_body_size: 512m\n    charset: gbk\n    \
                real_ip_recursive: \"on\"\n    variables_hash_max_size: 1024\n    lua_shared_dict: {discovery: 2m}\n    \
                upstream: {keepalive: 32, keepalive_requests: 100, keepalive_timeout: 6s}\n";
    let http = good(text).http;
    assert_eq!((http.client_max_body_bytes, http.charset.as_deref()), (512 << 20, Some("gbk")));
    assert!(http.real_ip.recursive);
    let upstream = UpstreamKeepalive { connections: 32, requests: 100, timeout_ms: 6000 };
    assert_eq!(http.upstream, upstream);
    let notes = notes(text);
    assert!(
        notes.iter().all(|note| note.starts_with("options accepted without effect in ringway: ")),
        "{notes:?}"
    );
}

/// t/cli/test_dns.sh
#[test]
fn dns_servers() {
    let text = "apisix:\n  dns_resolver: [127.0.0.1, '[::1]:5353', '::1', '[::2]', 'fe80::1%eth0', '1.2.3.4:54']\n  \
                dns_resolver_valid: 30\n";
    let dns = good(text).dns;
    let shown: Vec<String> = dns.resolvers.iter().map(|a| a.to_string()).collect();
    assert_eq!(shown, ["127.0.0.1:53", "[::1]:5353", "[::1]:53", "[::2]:53", "1.2.3.4:54"]);
    assert_eq!((dns.valid_ms, dns.timeout_ms, dns.search), (Some(30_000), 5000, true));
    assert_eq!(notes(text), ["line 2: unsupported DNS resolver: fe80::1%eth0, would ignore this item"]);
    assert_eq!(
        errors("apisix:\n  dns_resolver: [a.b]\n"),
        ["line 2: invalid address \"a.b\" in apisix.dns_resolver"]
    );
    assert!(good("").enable_ipv6 && !good("apisix: {enable_ipv6: false}\n").enable_ipv6);
}

#[test]
fn log_formats() {
    let log = good(
        "nginx_config:\n  http:\n    access_log_format: |\n      \"$host \\\"$request\\\"\"\n    \
                    access_log_format_escape: json\n    access_log: /dev/stdout\n",
    )
    .http
    .access_log
    .unwrap();
    assert_eq!((log.format.as_str(), log.escape.as_str()), ("\"$host \"$request\"\"", "json"));
    assert_eq!(log.path, Path::new("/dev/stdout"));
    assert!(good("nginx_config:\n  http:\n    enable_access_log: false\n").http.access_log.is_none());
}

#[test]
fn syslog_makes_no_file_of_that_name() {
    let text = "nginx_config:\n  error_log: syslog:server=a\n  http:\n    access_log: syslog:server=a\n";
    let config = good(text);
    assert!(config.error_log.path.is_none() && config.http.access_log.is_none());
    let notes = notes(text).join("\n");
    assert!(notes.contains("line 2: nginx_config.error_log to syslog is not supported"), "{notes}");
    assert!(
        notes.contains("line 4: nginx_config.http.access_log \"syslog:server=a\" is not supported"),
        "{notes}"
    );
}

/// t/cli/test_validate_config.sh
#[test]
fn sub_requests_of_batch_requests_come_from_a_trusted_address() {
    let text = |from: &str| {
        format!("plugins: [batch-requests]\nnginx_config: {{http: {{real_ip_from: [{from}]}}}}\n")
    };
    for from in ["127.0.0.1", "127.0.0.2/8", "0.0.0.0", "0.0.0.0/0", "'::'", "'::/0'", "'::1', 'unix:'"] {
        assert!(errors(&text(from)).is_empty(), "{from}: {:?}", errors(&text(from)));
    }
    for from in ["128.0.0.2", "10.0.0.0/8", "'unix:'", ""] {
        let why =
            "missing loopback or unspecified in the nginx_config.http.real_ip_from for plugin batch-requests";
        assert_eq!(errors(&text(from)), [format!("line 2: {why}")], "{from}");
    }
}

/// t/cli/test_core_config.sh
#[test]
fn options_of_nginx_and_lua_are_accepted_and_named() {
    let text = "nginx_config:\n  max_pending_timers: 10240\n  max_running_timers: 2561\n  http:\n    \
                custom_lua_shared_dict: {my_dict: 1m}\n";
    let named = "options accepted without effect in ringway: nginx_config.max_pending_timers (line 2), \
                 nginx_config.max_running_timers (line 3), nginx_config.http.custom_lua_shared_dict (line 5)";
    assert_eq!(notes(text), [named]);
}

/// A directory of its own for one test.
fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("ringway-config-{}-{name}", std::process::id()));
    std::fs::create_dir_all(dir.join("conf")).unwrap();
    dir
}

/// t/cli/test_validate_config.sh
#[test]
fn trusted_certificates_are_beside_the_folder_of_the_file() {
    let dir = scratch("trusted");
    let path = dir.join("conf/config.yaml");
    std::fs::write(dir.join("ca.pem"), "").unwrap();
    let read = |places: &str| {
        let text = format!("apisix:\n  ssl:\n    ssl_trusted_certificate: {places}\n");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), &no_env).map(|loaded| loaded.config.listen.trusted_certificate)
    };
    let ca = dir.join("ca.pem").display().to_string();
    assert_eq!(read("ca.pem").unwrap(), Some(PathBuf::from(&ca)));
    assert_eq!(read(&format!("system, {ca}")).unwrap(), Some(format!("system,{ca}").into()));
    assert_eq!(read("system").unwrap(), None);
    let missing = read("ca.pem, other.pem").unwrap_err().to_string();
    let other = dir.join("other.pem").display().to_string();
    assert_eq!(missing, format!("{}:3: certificate path {other} doesn't exist", path.display()));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn an_empty_key_is_made_once_and_only_it_changes_in_the_file() {
    let dir = scratch("key");
    let path = dir.join("conf/config.yaml");
    let text = "# ключ\ndeployment:\n  admin:\n    admin_key:\n      - name: admin\n        key: ''  # made \
                once\n        role: admin\n      - {name: two, key: \"\", role: admin}\nplugins: [ cors ]\n";
    std::fs::write(&path, text).unwrap();
    let mut loaded = load(Some(&path), &no_env).unwrap();
    let mut seed = 0;
    admin_key::fill(&mut loaded, &mut || {
        seed += 7;
        seed
    });
    let keys = loaded.config.admin.unwrap().keys.unwrap();
    assert_eq!(keys[0].key.len(), 32);
    assert!(keys[0].key.bytes().all(|b| b.is_ascii_alphabetic()) && keys[0].key != keys[1].key);
    let want = text
        .replace("key: ''", &format!("key: '{}'", keys[0].key))
        .replace("key: \"\"", &format!("key: \"{}\"", keys[1].key));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
    let again = load(Some(&path), &no_env).unwrap();
    assert!(again.empty_keys.is_empty());
    assert_eq!(again.config.home, dir);
    assert_eq!(again.config.deployment.data, dir.join("data"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_key_that_is_not_in_the_file_goes_to_the_data_directory() {
    let dir = scratch("store");
    let path = dir.join("conf/config.yaml");
    let text = "apisix: {node_listen: 9085}\n";
    std::fs::write(&path, text).unwrap();
    let key_after_start = |start: u32| {
        let mut loaded = load(Some(&path), &no_env).unwrap();
        let mut seed = start;
        admin_key::fill(&mut loaded, &mut || {
            seed += 1;
            seed
        });
        loaded.config.admin.unwrap().keys.unwrap()[0].key.clone()
    };
    let first = key_after_start(0);
    assert_eq!(first.len(), 32);
    assert_eq!(key_after_start(9), first);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(dir.join("data/admin.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_file_that_is_asked_for_must_be_there() {
    let failure = load(Some(Path::new("/nonexistent/config.yaml")), &no_env).unwrap_err();
    assert!(failure.to_string().starts_with("/nonexistent/config.yaml: failed to read the configuration"));
    let profile = |name: &str| (name == "APISIX_PROFILE").then(|| "nonexistent".to_owned());
    assert!(load(None, &profile).unwrap_err().to_string().starts_with("conf/config-nonexistent.yaml: "));
}

#[test]
fn the_shipped_files_are_good() {
    let shipped = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
        load(Some(&path), &no_env).unwrap()
    };
    let plain = shipped("config.yaml");
    assert!(matches!(plain.config.deployment.provider, Provider::Embedded { .. }));
    // a gateway that ran from it has written one that it made
    let key = &plain.config.admin.as_ref().unwrap().keys.as_ref().unwrap()[0].key;
    assert!(plain.empty_keys.len() == 1 || key.len() == 32 && key.bytes().all(|b| b.is_ascii_alphanumeric()));
    assert!(plain.notes.is_empty(), "{:?}", plain.notes);
    let seeds = shipped("config-seeds.yaml").config;
    let admin = seeds.admin.unwrap();
    assert!(admin.on_node_port);
    assert_eq!(admin.keys.unwrap()[0].key, "edd1c9f034335f136f87ad84b625c8f1");
    assert!(seeds.listen.http.iter().all(|a| a.ip().is_loopback()));
}

#[test]
fn a_control_plane_opens_no_proxy_port() {
    let config = good(
        "apisix: {node_listen: 9080}\ndeployment:\n  role: control_plane\n  role_control_plane: \
         {config_provider: etcd}\n  admin: {admin_listen: {port: 9080}}\n",
    );
    assert!(config.listen.http.is_empty() && config.listen.ssl.is_empty());
    let admin = config.admin.unwrap();
    assert_eq!((admin.listen.port(), admin.on_node_port), (9080, false));
}

#[test]
fn https_for_the_admin_api_needs_its_files() {
    let admin = |lines: &str| format!("deployment:\n  admin:\n    https_admin: true\n{lines}");
    assert_eq!(errors(&admin("")), ["line 3: missing ssl cert for https admin"]);
    let files =
        "    admin_api_mtls: {admin_ssl_cert: a.crt, admin_ssl_cert_key: ../a.key, admin_ssl_ca_cert: ''}\n";
    let tls = good(&admin(files)).admin.unwrap().tls.unwrap();
    assert_eq!((tls.cert, tls.key, tls.client_ca), ("/conf/a.crt".into(), "/conf/../a.key".into(), None));
}
