//! Roles, sources and what a node shows of itself, as an operator sets them up in config.yaml.

mod common;

use std::io::ErrorKind;
use std::net::TcpStream;

use common::*;
use serde_json::json;

fn etcd_of(port: u16, more: &str) -> String {
    format!("etcd: {{host: [\"http://127.0.0.1:{port}\"], prefix: /apisix, timeout: 5{more}}}")
}

fn refuses(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn route(id: &str, uri: &str, upstream: &Upstream) -> String {
    let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
    json!({"id": id, "uri": uri, "upstream": {"type": "roundrobin", "nodes": nodes}}).to_string()
}

/// t/cli/test_deployment_control_plane.sh
#[test]
fn a_control_plane_has_an_admin_api_and_proxies_nothing() {
    let (etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
    let gateway = Setup::new("epoll", Source::Etcd(etcd.port))
        .deployment(&format!(
            "role: control_plane\nrole_control_plane: {{config_provider: etcd}}\n{}\nadmin:\n  admin_key: [{{name: a, \
             key: {KEY}, role: admin}}]\n  admin_listen: {{ip: 127.0.0.1, port: $ADMIN}}",
            etcd_of(etcd.port, "")
        ))
        .start();
    assert_eq!(gateway.admin("PUT", "/routes/1", &route("1", "/*", &upstream)).status, 201);
    assert_eq!(common::get(gateway.ports.admin, "/c").status, 404);
    assert!(refuses(gateway.port()), "the port of the proxy is open");
}

/// t/cli/test_deployment_data_plane.sh and its sister with an etcd that may only be read
#[test]
fn a_data_plane_reads_etcd_and_writes_nothing() {
    let (etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
    etcd.put("/apisix/routes/1", &route("1", "/hello", &upstream));
    etcd.guard("secret");
    let start = |user: &str| {
        let plane = "role: data_plane\nrole_data_plane: {config_provider: etcd}\n";
        let etcd = etcd_of(etcd.port, &format!(", user: {user}, password: secret"));
        Setup::new("epoll", Source::Etcd(0)).deployment(&format!("{plane}{etcd}")).start()
    };
    for user in ["reader", "root"] {
        let gateway = start(user);
        assert_eq!(gateway.get("/hello").text(), "served", "{user}");
        assert_eq!(gateway.get("/apisix/admin/routes").status, 404);
        assert!(refuses(gateway.ports.admin), "the port of the Admin API is open");
        assert!(!gateway.read("logs/error.log").contains("[error]"), "{}", gateway.logs());
    }
}

/// t/cli/test_admin.sh
#[test]
fn without_an_admin_api_the_list_of_plugins_is_that_of_etcd() {
    let etcd = Etcd::start();
    let mocked = json!({"uri": "/m", "plugins": {"mocking": {"response_example": "mocked"}}});
    etcd.put("/apisix/routes/1", &mocked.to_string());
    let gateway = Setup::new("epoll", Source::Etcd(0))
        .deployment(&format!(
            "role: data_plane\nrole_data_plane: {{config_provider: etcd}}\n{}",
            etcd_of(etcd.port, "")
        ))
        .rest("plugins: [node-status]")
        .start();
    assert_eq!(gateway.get("/m").status, 503, "the plugin is not in the list: there is only no upstream");
    etcd.put(
        "/apisix/plugins",
        r#"[{"name":"node-status"},{"name":"mocking"},{"stream":true,"name":"mqtt-proxy"}]"#,
    );
    eventually("the list of etcd", || gateway.get("/m").text() == "mocked");
}

/// t/cli/test_status_api.sh and test_status_api_standalone.sh
#[test]
fn the_status_api_stays_green_while_etcd_is_away() {
    let (mut etcd, port) = (Etcd::start(), free_port());
    let status = format!("status: {{ip: 127.0.0.1, port: {port}}}\n");
    let gateway = Setup::new("epoll", Source::Etcd(etcd.port)).apisix(&status).start();
    let seen = || ["/status", "/status/ready"].map(|path| common::get(port, path).status);
    eventually("readiness", || seen() == [200, 200]);
    assert_eq!(common::get(port, "/status").json(), json!({"status": "ok"}));
    etcd.kill(false);
    gateway.read_until("logs/error.log", "etcd");
    assert_eq!(seen(), [200, 200]);
    drop(gateway);
    let gateway = Setup::new("epoll", Source::Yaml("routes: []".into())).apisix(&status).start();
    eventually("readiness of a file's configuration", || seen() == [200, 200]);
    drop(gateway);
}

/// t/cli/test_standalone.sh
#[test]
fn variables_in_apisix_yaml_have_the_type_that_their_quotes_say() {
    let yaml = "routes:\n\
        - {uri: \"${{PATH_OF_IT}}\", plugins: {mocking: {response_example: hello, response_status: ${{STATUS}}}}}\n\
        - {uri: /large, plugins: {mocking: {response_example: \"${{CLIENT_ID}}\"}}}\n\
        - {uri: /bool, plugins: {redirect: {http_to_https: ${{TRUE}}}}}\n\
        - {uri: /text, plugins: {mocking: {response_example: \"${{TRUE}}\"}}}\n\
        - {uri: /default, plugins: {mocking: {response_example: x, response_status: ${{NOWHERE_SET:=202}}}}}\n\
        - {uri: /key, plugins: {\"${{PLUGIN}}\": {response_example: in a key}}}\n\
        - {uri: /auth, plugins: {key-auth: {}, mocking: {response_example: in}}}\n\
        consumers:\n\
        - {username: jack, plugins: {key-auth: {key: \"${{SECRET_KEY}}\"}}}";
    let gateway = Setup::new("epoll", Source::Yaml(yaml.into()))
        .variable("PATH_OF_IT", "/small")
        .variable("STATUS", "201")
        .variable("CLIENT_ID", "356002209726529540")
        .variable("TRUE", "true")
        .variable("PLUGIN", "mocking")
        .variable("SECRET_KEY", "12345")
        .start();
    let seen = |path: &str| (gateway.get(path).status, gateway.get(path).text());
    assert_eq!(seen("/small"), (201, "hello".into()));
    assert_eq!(seen("/large"), (200, "356002209726529540".into()));
    assert_eq!(gateway.get("/bool").status, 301);
    assert_eq!(seen("/text"), (200, "true".into()));
    assert_eq!(gateway.get("/default").status, 202);
    assert_eq!(seen("/key"), (200, "in a key".into()));
    assert_eq!(gateway.get("/auth").status, 401);
    assert_eq!(request(gateway.port(), "GET", "/auth", "Host: a\r\napikey: 12345\r\n").status, 200);
    // A hard link changes the file's status, not what is in it.
    let reloads = || gateway.read("logs/error.log").matches("apisix.yaml reloaded.").count();
    let before = reloads();
    std::fs::hard_link(gateway.path("conf/apisix.yaml"), gateway.path("conf/apisix.yaml.link")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(reloads(), before);
}

/// t/cli/test_access_log.sh
#[test]
fn the_access_log_as_json_and_off() {
    let format = "access_log_format: '{\"client_ip\": \"$remote_addr\", \"agent\": \"$http_user_agent\", \"llm\": \
                  $llm_prompt_tokens}'\naccess_log_format_escape: json\n";
    let yaml = || Source::Yaml("routes: []".into());
    let gateway = Setup::new("epoll", yaml()).http(format).start();
    request(gateway.port(), "GET", "/hello", "Host: a\r\nUser-Agent: a\"b\r\n");
    let log = gateway.read_until("logs/access.log", "\n");
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line, json!({"client_ip": "127.0.0.1", "agent": "a\"b", "llm": 0}));
    let gateway = Setup::new("epoll", yaml()).http("enable_access_log: false\n").start();
    gateway.get("/hello");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(gateway.read("logs/access.log"), "");
}

/// t/cli/test_access_log.sh
#[test]
fn calls_of_the_admin_api_are_in_the_access_log() {
    let gateway = Setup::new("epoll", Source::Embedded).start();
    gateway.admin("PUT", "/routes/1", r#"{"uri": "/a", "plugins": {}}"#);
    gateway.read_until("logs/access.log", "\"PUT /apisix/admin/routes/1 HTTP/1.1\" 201 ");
    gateway.admin("GET", "/routes?api_key=hidden", "");
    let log = gateway.read_until("logs/access.log", "\"GET /apisix/admin/routes?api_key=*** HTTP/1.1\" 401 ");
    assert!(log.contains("\"http://a\"") && !log.contains("hidden"), "{log}");
}

/// Layer 4 is not served yet; its routes are kept for the nodes that serve it.
#[test]
fn stream_routes_are_stored_and_checked() {
    let gateway = Setup::new("epoll", Source::Embedded)
        .apisix("proxy_mode: http&stream\nstream_proxy: {tcp: [9100]}\n")
        .start();
    let upstream = Upstream::answering(ok("hi"));
    let put = |plugins: serde_json::Value| {
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        let route = json!({"server_port": 9100, "plugins": plugins, "upstream": {"type": "roundrobin", "nodes": nodes}});
        gateway.admin("PUT", "/stream_routes/1", &route.to_string())
    };
    assert_eq!(put(json!({"mqtt-proxy": {"protocol_level": 4}})).status, 201);
    assert_eq!(
        put(json!({"limit-conn": {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "a"}})).status,
        200
    );
    for (plugins, why) in [
        (
            json!({"mqtt-proxy": {"protocol_level": "4"}}),
            "failed to check the configuration of stream plugin [mqtt-proxy]: property \"protocol_level\" validation \
             failed: wrong type: expected integer, got string",
        ),
        (json!({"key-auth": {}}), "unknown plugin [key-auth]"),
    ] {
        let refused = put(plugins);
        assert_eq!((refused.status, refused.json()), (400, json!({"error_msg": why})));
    }
}

/// t/control/plugins-reload.t
#[test]
fn a_reload_of_plugins_reads_their_attributes() {
    let gateway =
        Setup::new("epoll", Source::Embedded).rest("plugins: [public-api, prometheus, mocking]").start();
    gateway.put("/routes/m", &json!({"uri": "/apisix/metrics", "plugins": {"public-api": {}}}));
    assert_eq!(gateway.get("/apisix/metrics").status, 404);
    let config = gateway.read("conf/config.yaml");
    let there = config.replace("  prometheus:\n", "  prometheus:\n    export_uri: /apisix/metrics\n");
    assert_ne!(there, config);
    std::fs::write(gateway.path("conf/config.yaml"), there).unwrap();
    let reload = "PUT /v1/plugins/reload HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(gateway.ports.control, reload.as_bytes()).text(), "done");
    eventually("the new path", || gateway.get("/apisix/metrics").text().contains("apisix_node_info"));
    eventually("it on the port of its own", || {
        common::get(gateway.ports.metrics, "/apisix/metrics").status == 200
    });
    assert_eq!(common::get(gateway.ports.metrics, "/apisix/prometheus/metrics").status, 404);
}
