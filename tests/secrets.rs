//! `$secret://` references, with a key-value server that speaks as HashiCorp Vault does.

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use serde_json::{Value, json};

/// Vault's key-value engine, version 1: path → members. It wants the token `root`.
fn vault(secrets: Arc<Mutex<Value>>) -> Upstream {
    Upstream::start(move |conn| {
        while let Some(request) = conn.request() {
            let answer = match request.header("x-vault-token") {
                Some("root") => match &secrets.lock().unwrap()[&request.target] {
                    Value::Null => (404, json!({"errors": []})),
                    members => (200, json!({"data": members})),
                },
                _ => (403, json!({"errors": ["permission denied"]})),
            };
            let body = answer.1.to_string();
            let head = format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\n\r\n", answer.0, body.len());
            if conn.send(head + &body).is_err() {
                return;
            }
        }
    })
}

fn enters(gateway: &Gateway, key: &str) -> bool {
    request(gateway.port(), "GET", "/guarded", &format!("Host: a\r\napikey: {key}\r\n")).status == 200
}

#[test]
fn a_consumers_key_comes_from_vault() {
    on_both_drivers(|driver| {
        let jack =
            |key: &str| json!({"/v1/kv/apisix/jack": {"key": key}, "/v1/kv/other/jack": {"key": "moved"}});
        let secrets = Arc::new(Mutex::new(jack("first")));
        let server = vault(secrets.clone());
        let upstream = Upstream::mirror();
        let gateway = Setup::new(driver, Source::Embedded)
            .variable("VAULT_TOKEN", "root")
            .workers(1) // the next request may not meet a core that has not heard yet
            .apisix("lru: {secret: {ttl: 0.3, neg_ttl: 0.3}}\n")
            .start();
        let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
        let plugins = json!({
            "key-auth": {},
            "proxy-rewrite": {"headers": {"set": {"X-From-Vault": "$secret://vault/1/jack/key"}}},
        });
        gateway
            .put("/routes/1", &json!({"uri": "/guarded", "plugins": plugins, "upstream": {"nodes": nodes}}));
        let reference = "$secret://vault/1/jack/key";
        gateway.put("/consumers", &json!({"username": "jack", "plugins": {"key-auth": {"key": reference}}}));
        // Nobody can be asked yet, and the reference itself opens nothing.
        assert!(!enters(&gateway, "first") && !enters(&gateway, reference));
        let manager = |prefix: &str, token: &str| {
            let uri = format!("http://127.0.0.1:{}", server.port);
            gateway.put("/secrets/vault/1", &json!({"uri": uri, "prefix": prefix, "token": token}));
        };
        manager("kv/apisix", "$env://VAULT_TOKEN");
        eventually("the key of Vault", || enters(&gateway, "first"));
        let text = request(gateway.port(), "GET", "/guarded", "Host: a\r\napikey: first\r\n").text();
        assert!(text.to_ascii_lowercase().contains("x-from-vault: first"), "{text}");
        assert!(!enters(&gateway, reference));
        // It is asked again, and what it said is kept while it fails.
        *secrets.lock().unwrap() = jack("second");
        eventually("the new key", || enters(&gateway, "second"));
        assert!(!enters(&gateway, "first"));
        *secrets.lock().unwrap() = json!({});
        gateway
            .read_until("logs/error.log", "failed to resolve secret reference: $secret://vault/1/jack/key");
        assert!(enters(&gateway, "second"));
        // A manager that is written anew counts at once, and its failure too.
        *secrets.lock().unwrap() = jack("second");
        manager("kv/other", "root");
        eventually("the key at the new place", || enters(&gateway, "moved"));
        manager("kv/other", "wrong");
        eventually("nobody enters", || !enters(&gateway, "moved"));
        // The APIs show the reference, and no log has the secret.
        let shown = gateway.admin("GET", "/consumers/jack", "").json();
        assert_ne!(shown["value"]["plugins"]["key-auth"]["key"], "moved");
        let log = gateway.read("logs/error.log");
        assert!(!log.contains("second") && !log.contains("moved"), "{log}");
    });
}

#[test]
fn managers_are_checked_when_they_are_stored() {
    let gateway = Setup::new("epoll", Source::Embedded).start();
    let put = |path: &str, conf: Value| {
        let answer = gateway.admin("PUT", path, &conf.to_string());
        (answer.status, answer.json()["error_msg"].as_str().unwrap_or_default().to_owned())
    };
    let vault = json!({"uri": "http://127.0.0.1:8200", "prefix": "kv", "token": "t"});
    assert_eq!(put("/secrets/vault/1", vault).0, 201);
    assert_eq!(put("/secrets/aws/1", json!({"access_key_id": "a", "secret_access_key": "b"})).0, 201);
    let missing = put("/secrets/vault/2", json!({"uri": "http://127.0.0.1:8200", "prefix": "kv"}));
    assert_eq!(missing, (400, "invalid configuration: property \"token\" is required".into()));
    assert_eq!(put("/secrets/none/1", json!({})).0, 400);
}
