//! Roles, sources and what a node shows of itself, as an operator sets them up in config.yaml.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use common::streams::{Echo, said};
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

/// t/cli/test_deployment_traditional.sh and test_deployment_data_plane_with_readonly_etcd.sh
#[test]
fn an_admin_node_prepares_its_etcd_and_no_other_does() {
    let etcd = Etcd::start();
    let of = |role: &str| {
        let deployment =
            format!("role: {role}\nrole_{role}: {{config_provider: etcd}}\n{}", etcd_of(etcd.port, ""));
        Setup::new("epoll", Source::Etcd(0)).deployment(&deployment).start()
    };
    let prepared = || ["/apisix/routes/", "/apisix/plugins"].map(|key| etcd.get(key).is_some());
    drop(of("data_plane"));
    assert_eq!(prepared(), [false, false]);
    let gateway = Setup::new("epoll", Source::Etcd(etcd.port)).start();
    assert_eq!(gateway.admin("GET", "/routes", "").status, 200);
    eventually("the folders", || prepared()[0]);
}

/// A node that comes and goes quickly has said at least what the others must not be without.
#[test]
fn an_old_list_of_plugins_is_replaced_before_anything_else_is_written() {
    let etcd = Etcd::start();
    etcd.put("/apisix/plugins", r#"[{"name":"mocking"}]"#);
    let _gateway = Setup::new("epoll", Source::Etcd(etcd.port)).rest("plugins: [node-status]").start();
    eventually("the folders", || etcd.get("/apisix/upstreams/").is_some());
    let written = |key: &str| etcd.revision_of(key);
    let folders = ["consumer_groups", "consumers", "routes", "upstreams"];
    let first_folder = folders.map(|folder| written(&format!("/apisix/{folder}/"))).into_iter().min();
    assert!(etcd.get("/apisix/plugins").unwrap().contains("node-status"));
    assert!(Some(written("/apisix/plugins")) < first_folder, "the list came behind a folder");
}

/// t/cli/test_deployment_traditional.sh
#[test]
fn stream_routes_come_from_etcd_with_http_and_alone() {
    let (etcd, echo) = (Etcd::start(), Echo::start("A"));
    etcd.put("/apisix/stream_routes/1", &json!({"id": "1", "upstream": echo.upstream()}).to_string());
    for (mode, with_http) in [("http&stream", true), ("stream", false)] {
        let apisix = format!(
            "proxy_mode: {mode}\nenable_admin: {with_http}\nstream_proxy: {{tcp: [{{addr: \"127.0.0.1:$PROXIED\"}}]}}"
        );
        let gateway = Setup::new("epoll", Source::Etcd(etcd.port)).apisix(&apisix).start();
        assert_eq!(said(gateway.ports.proxied, "hello"), "Ahellobye", "{mode}");
        match with_http {
            true => assert_eq!(gateway.admin("GET", "/routes", "").status, 200),
            false => assert!(refuses(gateway.port()) && refuses(gateway.ports.admin)),
        }
        assert!(!gateway.read("logs/error.log").contains("[error]"), "{}", gateway.logs());
    }
}

/// t/cli/test_admin.sh, test_control.sh and test_main.sh
#[test]
fn each_listener_has_its_address() {
    let get = |ip: &str, port: u16, path: &str| {
        let mut stream = TcpStream::connect((ip, port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let (port, control) = (free_port(), free_port());
    let gateway = Setup::new("epoll", Source::Embedded)
        .apisix(&format!(
            "node_listen: [{{ip: 127.0.0.4, port: {port}}}]\ncontrol: {{ip: 127.0.0.3, port: {control}}}"
        ))
        .deployment(&format!(
            "role: traditional\nrole_traditional: {{config_provider: embedded}}\nadmin:\n  admin_key: [{{name: a, key: \
             {KEY}, role: admin}}]\n  admin_listen: {{ip: 127.0.0.2, port: $ADMIN}}"
        ))
        .start();
    let admin = gateway.ports.admin;
    assert_eq!(get("127.0.0.2", admin, "/apisix/admin/routes"), "200");
    assert_eq!(get("127.0.0.3", control, "/v1/schema"), "200");
    assert_eq!(get("127.0.0.3", control, "/v0/schema"), "404");
    assert_eq!(get("127.0.0.4", port, "/"), "404");
    for port in [admin, control, port] {
        assert!(refuses(port), "127.0.0.1:{port} is open, too");
    }
    drop(gateway);
    let without =
        Setup::new("epoll", Source::Embedded).apisix("enable_control: false\nenable_admin: false").start();
    assert!(refuses(without.ports.control) && refuses(without.ports.admin));
    assert_eq!(without.get("/apisix/admin/routes").status, 404);
}

/// t/cli/test_admin.sh
#[test]
fn without_an_admin_api_the_list_of_plugins_is_that_of_etcd() {
    let etcd = Etcd::start();
    let mocked = json!({"uri": "/m", "plugins": {"mocking": {"response_example": "mocked"}}});
    etcd.put("/apisix/routes/1", &mocked.to_string());
    for role in ["data_plane", "traditional"] {
        etcd.delete("/apisix/plugins");
        let role =
            format!("role: {role}\nrole_{role}: {{config_provider: etcd}}\n{}", etcd_of(etcd.port, ""));
        let gateway = Setup::new("epoll", Source::Etcd(0))
            .apisix("enable_admin: false")
            .deployment(&role)
            .rest("plugins: [node-status]\nstream_plugins:")
            .start();
        assert_eq!(gateway.get("/m").status, 503, "the plugin is not in the list: there is only no upstream");
        etcd.put(
            "/apisix/plugins",
            r#"[{"name":"node-status"},{"name":"mocking"},{"stream":true,"name":"mqtt-proxy"}]"#,
        );
        eventually("the list of etcd", || gateway.get("/m").text() == "mocked");
    }
}

/// t/cli/test_admin.sh
#[test]
fn with_an_admin_api_the_list_of_plugins_is_that_of_the_file() {
    let etcd = Etcd::start();
    let gateway =
        Setup::new("epoll", Source::Etcd(etcd.port)).rest("plugins: [public-api, node-status]").start();
    let public = json!({"uri": "/apisix/status", "plugins": {"public-api": {}}});
    gateway.put("/routes/node-status", &public);
    assert_eq!(gateway.get("/apisix/status").status, 200);
    // what another node writes; a write behind it is live when it has been seen
    etcd.put("/apisix/plugins", r#"[{"name":"mocking"}]"#);
    gateway.put("/routes/node-status", &public);
    assert_eq!(gateway.get("/apisix/status").status, 200);
    let refused = gateway.admin(
        "PUT",
        "/routes/1",
        r#"{"uri": "/m", "plugins": {"mocking": {"response_example": "m"}}}"#,
    );
    assert_eq!(
        (refused.status, refused.text().contains("unknown plugin [mocking]")),
        (400, true),
        "{refused}"
    );
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

/// docs/en/latest/deployment-modes.md: API-driven, an empty configuration is used until there is another.
#[test]
fn an_api_driven_gateway_serves_an_empty_configuration_until_it_is_given_one() {
    let (upstream, port) = (Upstream::answering(ok("served")), free_port());
    let gateway = Setup::new("epoll", Source::Embedded)
        .apisix(&format!("status: {{ip: 127.0.0.1, port: {port}}}\n"))
        .deployment(&format!(
            "role: traditional\nrole_traditional: {{config_provider: yaml}}\nadmin:\n  admin_key: [{{name: a, key: \
             {KEY}, role: admin}}]\n  admin_listen: {{ip: 127.0.0.1, port: $ADMIN}}"
        ))
        .start();
    assert_eq!(gateway.get("/hello").status, 404);
    assert_eq!(common::get(port, "/status/ready").status, 503, "it has received nothing yet");
    let document = format!(r#"{{"routes": [{}]}}"#, route("1", "/hello", &upstream));
    let mut admin = Client::connect(gateway.ports.admin);
    admin.send(format!(
        "PUT /apisix/admin/configs HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\nX-Digest: 1\r\n\
         Content-Length: {}\r\n\r\n{document}",
        document.len()
    ));
    assert_eq!(admin.response().status, 202);
    eventually("the document", || gateway.get("/hello").text() == "served");
    eventually("the document on each core", || common::get(port, "/status/ready").status == 200);
    // longer than an object may be
    let document = format!("{}{document}", " ".repeat(2 << 20));
    admin.send(format!(
        "PUT /apisix/admin/configs HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\nX-Digest: 2\r\n\
         Content-Length: {}\r\n\r\n{document}",
        document.len()
    ));
    let answer = admin.response();
    assert_eq!(answer.status, 202, "{answer}");
}

/// Who waits for the banner finds each core with all that was there at the start.
#[test]
fn the_banner_comes_when_the_cores_have_the_objects() {
    let (upstream, port) = (Upstream::answering(ok("served")), free_port());
    let routes = (0..3000).map(|n| format!("- {}\n", route(&n.to_string(), &format!("/{n}"), &upstream)));
    let gateway = Setup::new("epoll", Source::Yaml(format!("routes:\n{}", routes.collect::<String>())))
        .apisix(&format!("status: {{ip: 127.0.0.1, port: {port}}}\n"))
        .start();
    assert_eq!(common::get(port, "/status/ready").status, 200);
    assert_eq!(gateway.get("/2999").text(), "served");
}

/// apisix/core/config_yaml.lua: a file that is still written has no end flag; requests find no route until then.
#[test]
fn a_file_of_objects_without_its_end_is_served_once_it_has_it() {
    let (upstream, port) = (Upstream::answering(ok("served")), free_port());
    let mut gateway = Setup::new("epoll", Source::Yaml("routes: []".to_owned()))
        .apisix(&format!("status: {{ip: 127.0.0.1, port: {port}}}\n"))
        .start();
    gateway.kill();
    std::fs::write(gateway.path("conf/apisix.yaml"), "routes: []\n").unwrap();
    gateway.start_again();
    assert_eq!(gateway.get("/hello").status, 404);
    assert_eq!(common::get(port, "/status/ready").status, 503, "it has read nothing yet");
    gateway.read_until("logs/error.log", "missing valid end flag");
    gateway.rewrite_yaml(&format!("routes:\n- {}", route("1", "/hello", &upstream)));
    eventually("the file", || gateway.get("/hello").text() == "served");
    eventually("the file on each core", || common::get(port, "/status/ready").status == 200);
}

/// t/cli/test_etcd_healthcheck.sh and test_status_api.sh
#[test]
fn one_etcd_of_three_may_be_away_and_all_may_come_back() {
    let mut etcds = Etcd::cluster();
    let hosts = etcds.each_ref().map(|etcd| format!("\"http://127.0.0.1:{}\"", etcd.port)).join(", ");
    let deployment = format!(
        "role: traditional\nrole_traditional: {{config_provider: etcd}}\netcd: {{host: [{hosts}], prefix: /apisix, timeout: 2, \
         startup_retry: 1}}\n\
         admin:\n  admin_key: [{{name: a, key: {KEY}, role: admin}}]\n  admin_listen: {{ip: 127.0.0.1, port: $ADMIN}}"
    );
    let setup = || Setup::new("epoll", Source::Etcd(0)).deployment(&deployment);
    let mocked = |text: &str| json!({"uri": "/m", "plugins": {"mocking": {"response_example": text}}});
    let gateway = setup().start();
    for (away, etcd) in etcds.iter_mut().enumerate() {
        etcd.kill(false);
        let text = format!("without {away}");
        let put = || gateway.admin("PUT", "/routes/1", &mocked(&text).to_string()).status;
        eventually("a write of the other two", || matches!(put(), 200 | 201));
        eventually("the watch of another", || gateway.get("/m").text() == text);
        etcd.start_again();
    }
    etcds.iter_mut().for_each(|etcd| etcd.kill(false));
    assert_eq!(gateway.admin("GET", "/routes/1", "").status, 503);
    assert_eq!(gateway.get("/m").text(), "without 2");
    Etcd::start_all_again(&mut etcds);
    eventually("the Admin API", || gateway.admin("GET", "/routes/1", "").status == 200);
    etcds[1].put("/apisix/routes/1", &mocked("back").to_string());
    eventually("the watch", || gateway.get("/m").text() == "back");
    drop(gateway);
    etcds[0].kill(false);
    eventually("a leader of the other two", || etcds[1].serves());
    assert_eq!(setup().start().get("/m").text(), "back", "a start needs two of three");
    etcds[1].kill(false);
    let said = setup().refused();
    for away in &etcds[..2] {
        let line = format!("etcd http://127.0.0.1:{}: tcp connect error: Connection refused", away.port);
        assert!(said.contains(&line), "{said}");
    }
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
        - {uri: /up, upstream: {nodes: {\"${{HOST_IP}}:$UP\": ${{WEIGHT}}}, type: roundrobin, retries: ${{WEIGHT}}}}\n\
        consumers:\n\
        - {username: jack, plugins: {key-auth: {key: \"${{SECRET_KEY}}\"}}}";
    let upstream = Upstream::answering(ok("served"));
    let yaml = yaml.replace("$UP", &upstream.port.to_string());
    let gateway = Setup::new("epoll", Source::Yaml(yaml))
        .variable("HOST_IP", "127.0.0.1")
        .variable("WEIGHT", "3")
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
    assert_eq!(seen("/up"), (200, "served".into()));
    assert_eq!(gateway.get("/apisix/admin/routes").status, 404);
    assert!(refuses(gateway.ports.admin), "a file has no Admin API");
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
fn the_access_log_in_its_own_format_and_another() {
    let yaml = || Source::Yaml("routes: []".into());
    let gateway = Setup::new("epoll", yaml()).start();
    gateway.get("/hello");
    // what is no HTTP has its line, too
    let mut client = gateway.connect();
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
    assert_eq!(client.response().status, 400);
    let log = gateway.read_until("logs/access.log", " 400 ");
    assert!(log.contains(r#"] - "\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03" 400 "#), "{log}");
    let line = log.lines().find(|line| line.contains("/hello")).unwrap();
    let id = line.strip_suffix('"').and_then(|line| line.rsplit_once('"')).unwrap().1;
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{line}");
    assert!(!gateway.read("logs/error.log").contains("[error]"), "{}", gateway.logs());
    let format = "access_log_format: '$remote_addr - $remote_user [$time_local] $http_host my_format'";
    let gateway = Setup::new("epoll", yaml()).http(format).start();
    gateway.get("/hello");
    let log = gateway.read_until("logs/access.log", "\n");
    assert!(log.starts_with("127.0.0.1 - - [") && log.ends_with("] gateway.test my_format\n"), "{log}");
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
    let mut gateway = Setup::new("epoll", yaml()).http("enable_access_log: false\n").start();
    gateway.get("/hello");
    gateway.signal("QUIT"); // what is to be written is written then
    assert!(gateway.wait(PATIENCE).success());
    assert_eq!(gateway.read("logs/access.log"), "");
}

/// A gateway whose Admin API is on the port of the proxy.
fn with_admin_beside_the_proxy(driver: &'static str, http: &str) -> Gateway {
    Setup::new(driver, Source::Embedded)
        .deployment(&format!(
            "role: traditional\nrole_traditional: {{config_provider: embedded}}\nadmin:\n  admin_key: [{{name: a, \
             key: {KEY}, role: admin}}]\n  admin_listen: {{ip: 127.0.0.1, port: $PORT}}"
        ))
        .http(http)
        .start()
}

/// A body that comes too slowly is nobody's fault but the client's, and one that is too long is the Admin API's to refuse.
#[test]
fn bodies_of_admin_calls_on_the_port_of_the_proxy() {
    on_both_drivers(|driver| {
        let gateway = with_admin_beside_the_proxy(driver, "client_body_timeout: 1s");
        let put = |length: usize, body: &str| {
            let mut client = gateway.connect();
            client.send(format!(
                "PUT /apisix/admin/routes/1 HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\nContent-Length: {length}\r\n\r\n\
                 {body}"
            ));
            client.response()
        };
        let route = "{\"uri\": \"/a\", \"plugins\": {}}";
        assert_eq!(put(route.len(), route).status, 201);
        assert_eq!(put(100, route).status, 408);
        let long = (1536 << 10) + 1;
        let refused = put(long, &"x".repeat(long));
        let why = "request size 1572865 is greater than the maximum size 1572864 allowed";
        assert_eq!(refused.status, 400, "{refused}");
        assert!(refused.text().contains(why), "{refused}");
        // too much is enough, whatever else is to come
        let mut client = gateway.connect();
        client.send(format!("{CHUNKED}{:x}\r\n{}", 2 * long, "x".repeat(long)));
        let refused = client.response();
        assert_eq!((refused.status, refused.header("connection")), (400, Some("close")), "{refused}");
        client.closed();
    });
}

const CHUNKED: &str = concat!(
    "PUT /apisix/admin/routes/1 HTTP/1.1\r\nHost: a\r\nX-API-KEY: edd1c9f034335f136f87ad84b625c8f1\r\n",
    "Transfer-Encoding: chunked\r\n\r\n"
);

#[test]
fn a_body_without_end_is_refused_by_the_admin_api_once_it_is_too_long() {
    let gateway = Setup::new("epoll", Source::Embedded).start();
    let piece = format!("80000\r\n{}\r\n", "x".repeat(512 << 10));
    let mut client = Client::connect(gateway.ports.admin);
    client.send(CHUNKED);
    // a client may be in the midst of twice as much
    for _ in 0..6 {
        client.send(&piece);
    }
    let _ = client.try_send(&piece);
    let refused = client.response();
    let why = "request size 1572865 is greater than the maximum size 1572864 allowed";
    assert_eq!(refused.status, 400, "{refused}");
    assert!(refused.text().contains(why), "{refused}");
}

/// apisix/init.lua, `cors_admin`
#[test]
fn pages_of_other_origins_are_told_once_what_they_may_do() {
    let any = [
        "access-control-allow-credentials: true",
        "access-control-allow-origin: *",
        "access-control-expose-headers: *",
        "access-control-max-age: 3600",
    ];
    let before = [
        "access-control-allow-credentials: true",
        "access-control-allow-headers: *",
        "access-control-allow-methods: POST, GET, PUT, OPTIONS, DELETE, PATCH",
        "access-control-allow-origin: *",
        "access-control-max-age: 3600",
    ];
    let (own, shared) =
        (Setup::new("epoll", Source::Embedded).start(), with_admin_beside_the_proxy("epoll", ""));
    for port in [own.ports.admin, shared.port()] {
        for (method, path, key, status, told) in [
            ("OPTIONS", "/apisix/admin/routes", "none", 200, &before[..]),
            ("GET", "/apisix/admin/routes", KEY, 200, &any),
            ("GET", "/apisix/admin/routes", "none", 401, &any),
            ("GET", "/apisix/admin", KEY, 404, &any),
            ("GET", "/other", KEY, 404, &[]),
        ] {
            let answer = request(port, method, path, &format!("Host: a\r\nX-API-KEY: {key}\r\n"));
            assert_eq!(answer.status, status, "{method} {path} {key}");
            let fields =
                answer.headers.iter().map(|(name, value)| format!("{}: {value}", name.to_lowercase()));
            let mut fields: Vec<_> = fields.filter(|field| field.starts_with("access-control")).collect();
            fields.sort();
            assert_eq!(fields, told, "{method} {path} {key}");
            let kind = answer.all("content-type");
            assert_eq!(kind.len(), 1, "{method} {path} {kind:?}");
            assert!(
                method != "OPTIONS" || (kind[0].starts_with("text/plain") && answer.body.is_empty()),
                "{answer}"
            );
        }
    }
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

#[test]
fn stream_routes_are_stored_and_checked() {
    let gateway = Setup::new("epoll", Source::Embedded)
        .apisix("proxy_mode: http&stream\nstream_proxy: {tcp: [\"127.0.0.1:$PROXIED\"]}\n")
        .start();
    let upstream = Upstream::answering(ok("hi"));
    let put = |plugins: serde_json::Value| {
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        let route = json!({"server_port": gateway.ports.proxied, "plugins": plugins, "upstream": {"type": "roundrobin", "nodes": nodes}});
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
    rewrite(&gateway, "  prometheus:\n", "  prometheus:\n    export_uri: /apisix/metrics\n");
    let reload = "PUT /v1/plugins/reload HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(gateway.ports.control, reload.as_bytes()).text(), "done");
    eventually("the new path", || gateway.get("/apisix/metrics").text().contains("apisix_node_info"));
    eventually("it on the port of its own", || {
        common::get(gateway.ports.metrics, "/apisix/metrics").status == 200
    });
    assert_eq!(common::get(gateway.ports.metrics, "/apisix/prometheus/metrics").status, 404);
}

/// Has config.yaml say something else.
fn rewrite(gateway: &Gateway, from: &str, to: &str) {
    let config = gateway.read("conf/config.yaml");
    assert!(config.contains(from), "{from:?} in {config}");
    std::fs::write(gateway.path("conf/config.yaml"), config.replace(from, to)).unwrap();
}

/// t/cli/test_prometheus.sh
#[test]
fn metrics_have_a_port_of_their_own_or_a_route() {
    const PATH: &str = "/apisix/prometheus/metrics";
    let mut gateway = Setup::new("epoll", Source::Embedded).variable("METRICS_IP", "127.0.0.1").start();
    assert_eq!(gateway.get(PATH).status, 404);
    let page = common::get(gateway.ports.metrics, PATH);
    assert_eq!(page.status, 200);
    assert!(page.text().contains("apisix_nginx_http_current_connections"), "{page}");

    let (old, new) = (gateway.ports.metrics, free_port());
    let address =
        |port| format!("export_addr:\n      ip: ${{{{METRICS_IP}}}}\n      port: ${{{{NOWHERE:={port}}}}}\n");
    let before = format!("export_addr: {{ip: 127.0.0.1, port: {old}}}\n");
    rewrite(&gateway, &before, &format!("metric_prefix: apisix_ci_\n    {}", address(new)));
    gateway.kill();
    gateway.start_again();
    assert!(common::get(new, PATH).text().contains("\napisix_ci_node_info{"));
    assert!(refuses(old));

    rewrite(
        &gateway,
        "metric_prefix: apisix_ci_",
        "enable_export_server: false\n    export_uri: /prometheus/metrics",
    );
    gateway.kill();
    gateway.start_again();
    gateway.put("/routes/metrics", &json!({"uri": "/prometheus/metrics", "plugins": {"public-api": {}}}));
    assert!(gateway.get("/prometheus/metrics").text().contains("\napisix_node_info{"));
    assert!(refuses(new));
}

/// t/cli/test_prometheus_reload.sh
#[test]
fn metrics_go_and_come_with_their_plugin() {
    let gateway = Setup::new("epoll", Source::Embedded).rest("plugins: [prometheus]").start();
    let metrics = || common::get(gateway.ports.metrics, "/apisix/prometheus/metrics").text();
    let reload = || {
        let reload = "PUT /v1/plugins/reload HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        assert_eq!(ask(gateway.ports.control, reload.as_bytes()).text(), "done");
    };
    let shown = || metrics().contains("apisix_node_info");
    rewrite(&gateway, "plugins: [prometheus]", "plugins: [ip-restriction]");
    assert!(shown(), "nobody has asked for a reload");
    reload();
    eventually("the plugin is gone", || metrics() == "{}");
    rewrite(&gateway, "plugins: [ip-restriction]", "plugins: [prometheus]");
    assert_eq!(metrics(), "{}", "nobody has asked for a reload");
    reload();
    eventually("the plugin is back", shown);
}
