//! Configuration from a real etcd, written as APISIX writes it.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::*;
use serde_json::{Value, json};

fn gateway(driver: &'static str, etcd: &Etcd) -> Gateway {
    Setup::new(driver, Source::Etcd(etcd.port)).start()
}

/// A route as APISIX's Admin API leaves it in etcd.
fn route(id: &str, uri: &str, upstream: &Upstream) -> String {
    json!({
        "id": id, "uri": uri, "priority": 0, "status": 1,
        "create_time": 1700000000, "update_time": 1700000000,
        "upstream": {
            "type": "roundrobin", "hash_on": "vars", "scheme": "http", "pass_host": "pass",
            "nodes": {format!("127.0.0.1:{}", upstream.port): 1},
        },
    })
    .to_string()
}

/// The folders that APISIX's `init_etcd` leaves.
fn init_dirs(etcd: &Etcd) {
    for folder in ["routes", "services", "upstreams", "consumers", "global_rules", "plugin_configs"] {
        etcd.put(&format!("/apisix/{folder}/"), "init_dir");
    }
}

#[test]
fn routes_are_served_watched_and_removed() {
    on_both_drivers(|driver| {
        let (etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
        init_dirs(&etcd);
        etcd.put("/apisix/routes/1", &route("1", "/before", &upstream));
        let gateway = gateway(driver, &etcd);
        assert_eq!(gateway.get("/before").text(), "served", "what was there before the start");
        etcd.put("/apisix/routes/2", &route("2", "/after", &upstream));
        eventually("the watch", || gateway.get("/after").status == 200);
        etcd.delete("/apisix/routes/1");
        eventually("the delete", || gateway.get("/before").status == 404);
    });
}

/// t/cli/test_etcd_sync_event_handle.sh
#[test]
fn wrong_values_harm_nobody_else() {
    on_both_drivers(|driver| {
        let (etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
        init_dirs(&etcd);
        etcd.put("/apisix/routes/bad", "{\"uri\": 5}");
        etcd.put("/apisix/routes/nojson", "not json");
        etcd.put("/apisix/strange/1", "{}");
        etcd.put("/apisix/routes/good", &route("good", "/good", &upstream));
        let gateway = gateway(driver, &etcd);
        assert_eq!(gateway.get("/good").text(), "served");
        etcd.put("/apisix/routes/late", "{\"uri\":");
        etcd.put("/apisix/routes/last", &route("last", "/last", &upstream));
        eventually("what came behind a wrong value", || gateway.get("/last").status == 200);
        gateway.read_until("logs/error.log", "late");
        // what was served goes on as it was, until a value is right again
        etcd.put("/apisix/routes/good", "{\"uri\": \"/good\"}");
        gateway.read_until("logs/error.log", "failed to check item data of [/routes/good] err: ");
        assert_eq!(gateway.get("/good").text(), "served");
        etcd.put("/apisix/routes/good", &route("good", "/better", &upstream));
        eventually("a value that is right", || gateway.get("/better").status == 200);
        assert_eq!(gateway.get("/good").status, 404);
    });
}

/// t/cli/test_etcd_sync_event_handle.sh
#[test]
fn changes_that_were_missed_come_later_but_for_the_wrong_ones() {
    on_both_drivers(|driver| {
        let mut etcd = Etcd::start();
        init_dirs(&etcd);
        let put = |etcd: &Etcd, id: u8, plugins: Value| {
            etcd.put(
                &format!("/apisix/routes/{id}"),
                &json!({"uri": format!("/{id}"), "plugins": plugins}).to_string(),
            );
        };
        (1..=5).for_each(|id| put(&etcd, id, json!({})));
        let gateway = gateway(driver, &etcd);
        let statuses = || (1..=6).map(|id| gateway.get(&format!("/{id}")).status).collect::<Vec<_>>();
        assert_eq!(statuses(), [503, 503, 503, 503, 503, 404]);
        // the watch breaks, and nobody notices before all is written
        gateway.signal("STOP");
        etcd.kill(false);
        etcd.start_again();
        for id in [1, 3, 4, 5] {
            put(&etcd, id, json!({"fault-injection": {"abort": {"http_status": 204}}}));
        }
        etcd.put("/apisix/routes/2", "{\"uri\": \"/2\"}");
        gateway.signal("CONT");
        eventually("what was missed", || statuses() == [204, 503, 204, 204, 204, 404]);
        gateway.read_until("logs/error.log", "failed to check item data of [/routes/2] err: ");
    });
}

/// t/cli/test_etcd.sh
#[test]
fn a_start_without_etcd_is_tried_again_and_says_why_it_failed() {
    let port = free_port();
    let said = Setup::new("epoll", Source::Etcd(port)).refused();
    let tried = format!("etcd http://127.0.0.1:{port}: tcp connect error: Connection refused");
    assert_eq!(said.matches(&tried).count(), 2, "`startup_retry` has its default: {said}");
    assert!(said.contains(&format!("no etcd of [\"http://127.0.0.1:{port}\"] answers: ")), "{said}");
}

#[test]
fn the_admin_api_writes_what_apisix_reads() {
    on_both_drivers(|driver| {
        let (etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
        let gateway = gateway(driver, &etcd);
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        gateway.put("/routes/r", &json!({"uri": "/r", "upstream": {"nodes": nodes}}));
        assert_eq!(gateway.get("/r").text(), "served");
        let stored: Value = serde_json::from_str(&etcd.get("/apisix/routes/r").unwrap()).unwrap();
        assert_eq!((&stored["id"], &stored["uri"]), (&json!("r"), &json!("/r")));
        assert!(stored["create_time"].is_number() && stored["update_time"].is_number());
        gateway.delete("/routes/r");
        assert_eq!(etcd.get("/apisix/routes/r"), None);
    });
}

#[test]
fn traffic_flows_while_etcd_is_gone_and_changes_come_after() {
    on_both_drivers(|driver| {
        let (mut etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
        etcd.put("/apisix/routes/1", &route("1", "/a", &upstream));
        let gateway = gateway(driver, &etcd);
        etcd.kill(false);
        for _ in 0..50 {
            assert_eq!(gateway.get("/a").text(), "served");
        }
        let refused = gateway.admin("PUT", "/routes/9", &route("9", "/never", &upstream));
        assert!(refused.status >= 500 || refused.status == 400, "{refused}");
        etcd.start_again();
        assert_eq!(gateway.get("/a").text(), "served");
        etcd.put("/apisix/routes/2", &route("2", "/b", &upstream));
        eventually("the watch goes on", || gateway.get("/b").status == 200);
        assert_eq!(gateway.get("/a").text(), "served");
    });
}

#[test]
fn compaction_loses_nothing() {
    on_both_drivers(|driver| {
        let (mut etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
        etcd.put("/apisix/routes/1", &route("1", "/a", &upstream));
        etcd.put("/apisix/routes/2", &route("2", "/b", &upstream));
        let gateway = gateway(driver, &etcd);
        // the watch breaks; what it would have seen is compacted before it is back
        gateway.signal("STOP");
        etcd.delete("/apisix/routes/1");
        for n in 0..50 {
            etcd.put("/apisix/routes/2", &route("2", &format!("/b{n}"), &upstream));
        }
        etcd.put("/apisix/routes/3", &route("3", "/c", &upstream));
        etcd.compact();
        etcd.kill(false);
        etcd.start_again();
        gateway.signal("CONT");
        eventually("the state behind the compaction", || {
            gateway.get("/c").status == 200
                && gateway.get("/b49").status == 200
                && gateway.get("/a").status == 404
        });
    });
}

#[test]
fn an_etcd_that_was_wiped_is_followed() {
    on_both_drivers(|driver| {
        let (mut etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
        for n in 0..20 {
            etcd.put("/apisix/routes/old", &route("old", &format!("/old{n}"), &upstream));
        }
        let gateway = gateway(driver, &etcd);
        assert_eq!(gateway.get("/old19").status, 200);
        etcd.kill(true);
        etcd.start_again();
        etcd.put("/apisix/routes/new", &route("new", "/new", &upstream));
        eventually("the new state", || {
            gateway.get("/new").status == 200 && gateway.get("/old19").status == 404
        });
        etcd.put("/apisix/routes/more", &route("more", "/more", &upstream));
        eventually("the watch of the new etcd", || gateway.get("/more").status == 200);
    });
}

#[test]
fn it_starts_from_its_snapshot_when_etcd_is_down() {
    on_both_drivers(|driver| {
        let (mut etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
        etcd.put("/apisix/routes/1", &route("1", "/a", &upstream));
        etcd.put("/apisix/routes/old", &route("old", "/old", &upstream));
        etcd.put("/apisix/routes/older", &route("older", "/older", &upstream));
        let mut gateway = gateway(driver, &etcd);
        let stop = |gateway: &mut Gateway| {
            gateway.signal("TERM");
            gateway.wait(PATIENCE);
        };
        assert_eq!(gateway.get("/older").text(), "served");
        stop(&mut gateway);
        etcd.delete("/apisix/routes/older");
        gateway.start_again();
        etcd.put("/apisix/routes/2", &route("2", "/b", &upstream));
        etcd.delete("/apisix/routes/old");
        eventually("the watch", || gateway.get("/b").status == 200 && gateway.get("/old").status == 404);
        stop(&mut gateway);
        etcd.kill(false);
        gateway.start_again();
        assert_eq!(gateway.get("/a").text(), "served");
        assert_eq!(gateway.get("/b").text(), "served");
        assert_eq!(gateway.get("/old").status, 404, "deleted while the gateway ran");
        assert_eq!(gateway.get("/older").status, 404, "deleted while it did not");
        etcd.start_again();
        etcd.put("/apisix/routes/3", &route("3", "/c", &upstream));
        eventually("etcd is back", || gateway.get("/c").status == 200);
    });
}

#[test]
fn two_gateways_share_one_etcd() {
    on_both_drivers(|driver| {
        let (etcd, upstream) = (Etcd::start(), Upstream::answering(ok("served")));
        let (one, two) = (gateway(driver, &etcd), gateway(driver, &etcd));
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        one.put("/routes/r", &json!({"uri": "/r", "upstream": {"nodes": nodes}}));
        eventually("the other one", || two.get("/r").status == 200);
        assert_eq!(two.admin("GET", "/routes/r", "").json()["value"]["uri"], json!("/r"));
    });
}

#[test]
fn an_etcd_behind_certificates_and_a_password() {
    let certs = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests");
    let upstream = Upstream::answering(ok("served"));
    let mut etcd = Etcd::start();
    etcd.put("/apisix/routes/1", &route("1", "/before", &upstream));
    etcd.secure("secret");
    let access = format!(
        "user: root, password: secret, tls: {{cert: {certs}/client.pem, key: {certs}/client.key.pem, verify: true, \
         sni: server.example}}"
    );
    let trusted = format!("ssl: {{enable: false, ssl_trusted_certificate: {certs}/ca.pem}}");
    for (driver, access) in [
        (drivers()[0], access.clone()),
        // nobody vouches for the certificate, and nobody asks
        (drivers()[0], access.replace("verify: true, sni: server.example", "verify: false")),
    ] {
        let source = Source::SecuredEtcd(etcd.port, access);
        let gateway = Setup::new(driver, source).apisix(&trusted).start();
        assert_eq!(gateway.get("/before").text(), "served");
        let after =
            json!({"uri": "/after", "upstream": {"nodes": {format!("127.0.0.1:{}", upstream.port): 1}}});
        gateway.put("/routes/2", &after);
        eventually("the watch", || gateway.get("/after").status == 200);
        gateway.delete("/routes/2");
    }
}

/// A secret as APISIX writes it: AES-128-CBC under a key of its default ring, which is the vector, too.
fn encrypted(secret: &str, key: &str) -> String {
    let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut openssl = Command::new("openssl")
        .args(["enc", "-aes-128-cbc", "-base64", "-A", "-K", &hex, "-iv", &hex])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed (tests/run does it)");
    openssl.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
    let done = openssl.wait_with_output().unwrap();
    assert!(done.status.success());
    String::from_utf8(done.stdout).unwrap()
}

/// APISIX's two keys: it writes with the first, and reads what older ones wrote with the second.
const KEYRING: [&str; 2] = ["qeddd145sfvddff3", "edd1c9f0985e76a2"];

#[test]
fn consumers_whose_secrets_apisix_encrypted_are_let_in() {
    on_both_drivers(|driver| {
        let (etcd, upstream) = (Etcd::start(), Upstream::mirror());
        init_dirs(&etcd);
        let consumer = |name: &str, plugins: Value| {
            let consumer = json!({"username": name, "create_time": 1, "update_time": 1, "plugins": plugins});
            etcd.put(&format!("/apisix/consumers/{name}"), &consumer.to_string());
        };
        consumer("new", json!({"key-auth": {"key": encrypted("new-key", KEYRING[0])}}));
        consumer("old", json!({"key-auth": {"key": encrypted("old-key", KEYRING[1])}}));
        consumer("plain", json!({"key-auth": {"key": "plain-key"}}));
        consumer(
            "basic",
            json!({"basic-auth": {"username": "b", "password": encrypted("pass", KEYRING[0])}}),
        );
        let credential = json!({"id": "c", "create_time": 1, "update_time": 1,
            "plugins": {"key-auth": {"key": encrypted("credential-key", KEYRING[0])}}});
        etcd.put("/apisix/consumers/basic/credentials/c", &credential.to_string());
        for (id, plugins) in
            [("key", json!({"key-auth": {}})), ("basic", json!({"basic-auth": {"hide_credentials": true}}))]
        {
            let mut route: Value = serde_json::from_str(&route(id, &format!("/{id}"), &upstream)).unwrap();
            route["plugins"] = plugins;
            etcd.put(&format!("/apisix/routes/{id}"), &route.to_string());
        }
        let gateway = gateway(driver, &etcd);
        let ask = |target: &str, field: &str| {
            request(gateway.port(), "GET", target, &format!("Host: a\r\n{field}\r\n"))
        };
        for (field, consumer) in [
            ("apikey: new-key", Some("new")),
            ("apikey: old-key", Some("old")),
            ("apikey: plain-key", Some("plain")),
            ("apikey: credential-key", Some("basic")),
            (&*format!("apikey: {}", encrypted("new-key", KEYRING[0])), None),
            ("Authorization: Basic YjpwYXNz", Some("basic")),
            ("Authorization: Basic YjpubzwK", None),
        ] {
            let target = if field.starts_with("apikey") { "/key" } else { "/basic" };
            let answer = ask(target, field);
            assert_eq!(answer.status, if consumer.is_some() { 200 } else { 401 }, "{field}: {answer}");
            if let Some(consumer) = consumer {
                let named = format!("x-consumer-username: {consumer}\r\n");
                assert!(answer.text().to_ascii_lowercase().contains(&named), "{field}: {answer}");
            }
        }
        // shown in the clear, and written as APISIX would
        let shown = gateway.admin("GET", "/consumers/new", "").json();
        assert_eq!(shown["value"]["plugins"]["key-auth"]["key"], "new-key");
        gateway.put("/consumers", &json!({"username": "ours", "plugins": {"key-auth": {"key": "our-key"}}}));
        let stored: Value = serde_json::from_str(&etcd.get("/apisix/consumers/ours").unwrap()).unwrap();
        assert_eq!(stored["plugins"]["key-auth"]["key"], encrypted("our-key", KEYRING[0]));
        assert_eq!(ask("/key", "apikey: our-key").status, 200);
    });
}

/// A private key of an ssl object, as it is stored, is shown to an upstream that wants a certificate.
#[test]
fn private_keys_that_apisix_encrypted_are_used() {
    const PEMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/tests");
    let pem = |name: &str| std::fs::read_to_string(format!("{PEMS}/{name}")).unwrap();
    on_both_drivers(|driver| {
        let etcd = Etcd::start();
        let nginx = Nginx::start(&format!(
            "ssl_client_certificate {PEMS}/ca.pem; ssl_verify_client on;\n\
             location /who {{ return 200 $ssl_client_verify; }}"
        ));
        let ssl = json!({"id": "c", "type": "client", "create_time": 1, "update_time": 1,
            "cert": pem("client.pem"), "key": encrypted(&pem("client.key.pem"), KEYRING[0])});
        etcd.put("/apisix/ssls/c", &ssl.to_string());
        let route = json!({"id": "1", "uri": "/*", "create_time": 1, "update_time": 1, "upstream": {
            "type": "roundrobin", "scheme": "https", "tls": {"client_cert_id": "c"},
            "nodes": {format!("127.0.0.1:{}", nginx.tls_port): 1}}});
        etcd.put("/apisix/routes/1", &route.to_string());
        let gateway = gateway(driver, &etcd);
        let answer = gateway.get("/who");
        assert_eq!((answer.status, &*answer.text()), (200, "SUCCESS"), "{answer}");
    });
}

/// Other nodes and dashboards find this one by its key, which goes with it.
#[test]
fn a_node_reports_itself() {
    on_both_drivers(|driver| {
        let etcd = Etcd::start();
        let gateway = Setup::new(driver, Source::Etcd(etcd.port)).rest("plugins: [server-info]").start();
        let shown = || get(gateway.ports.control, "/v1/server_info").json();
        let key = format!("/apisix/data_plane/server_info/{}", shown()["id"].as_str().unwrap());
        eventually("the report", || etcd.get(&key).is_some());
        let stored: Value = serde_json::from_str(&etcd.get(&key).unwrap()).unwrap();
        assert_eq!(stored, shown());
        assert!(stored["etcd_version"].as_str().unwrap().starts_with("3."), "{stored}");
        assert!(stored["boot_time"].as_u64().unwrap() > 1_700_000_000, "{stored}");
    });
}
