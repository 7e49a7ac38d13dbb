//! `$secret://` references, with servers that speak as HashiCorp Vault, AWS and Google Cloud do.

mod common;

use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::*;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
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

fn answer(status: u16, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The Authorization field that a request to AWS must have, from the request itself, for the key `id` and `secret`.
fn signed(request: &Request) -> Option<String> {
    let given = request.header("authorization")?;
    let (_, names) = given.split_once("SignedHeaders=")?;
    let (names, _) = names.split_once(',')?;
    let mut canonical = "POST\n/\n\n".to_string();
    for name in names.split(';') {
        canonical.push_str(&format!("{name}:{}\n", request.header(name)?));
    }
    let sha256 = |bytes: &[u8]| hex(digest::digest(&digest::SHA256, bytes).as_ref());
    canonical.push_str(&format!("\n{names}\n{}", sha256(&request.body)));
    let at = request.header("x-amz-date")?;
    let scope = format!("{}/eu-west-1/secretsmanager/aws4_request", &at[..8]);
    let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut key = b"AWS4secret".to_vec();
    for part in scope.split('/').chain([text.as_str()]) {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    Some(format!("AWS4-HMAC-SHA256 Credential=id/{scope}, SignedHeaders={names}, Signature={}", hex(&key)))
}

/// A mock of AWS Secrets Manager: names → texts.
fn aws_mock(secrets: Value) -> Upstream {
    Upstream::start(move |conn| {
        while let Some(request) = conn.request() {
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            let told = match &secrets[asked["SecretId"].as_str().unwrap()] {
                _ if request.header("authorization") != signed(&request).as_deref()
                    || request.header("x-amz-target") != Some("secretsmanager.GetSecretValue")
                    || request.header("x-amz-security-token") != Some("session") =>
                {
                    (400, json!({"__type": "InvalidSignatureException", "message": "no"}))
                }
                Value::Null => (400, json!({"__type": "ResourceNotFoundException", "message": "no"})),
                text => (200, json!({"Name": "x", "SecretString": text, "VersionStages": ["AWSCURRENT"]})),
            };
            if conn.send(answer(told.0, &told.1)).is_err() {
                return;
            }
        }
    })
}

/// A mock of Google's token endpoint and Secret Manager, for the owner of a key.
fn gcp_mock(key: &str) -> Upstream {
    let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap() else { panic!() };
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref().to_vec());
    Upstream::start(move |conn| {
        while let Some(request) = conn.request() {
            let told = if request.target == "/token" {
                let form = String::from_utf8(request.body.clone()).unwrap();
                let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
                let (text, signature) = form.strip_prefix(grant).unwrap().rsplit_once('.').unwrap();
                let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
                let claims = URL_SAFE_NO_PAD.decode(text.split_once('.').unwrap().1).unwrap();
                let claims: Value = serde_json::from_slice(&claims).unwrap();
                let (iss, scope) = (claims["iss"] == "a@b.test", claims["scope"] == "one two");
                let lasts = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
                match public.verify(text.as_bytes(), &signature).is_ok() && iss && scope && lasts == 3600 {
                    true => {
                        (200, json!({"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}))
                    }
                    false => (400, json!({"error": "invalid_grant"})),
                }
            } else if request.header("authorization") != Some("Bearer t0ken") {
                (401, json!({}))
            } else if request.target == "/v1/projects/p/secrets/jack/versions/latest:access" {
                (200, json!({"payload": {"data": STANDARD.encode(r#"{"key": "from gcp"}"#)}}))
            } else {
                (404, json!({}))
            };
            if conn.send(answer(told.0, &told.1)).is_err() {
                return;
            }
        }
    })
}

/// A route to `upstream` with a field that is set to a reference.
fn refer(gateway: &Gateway, upstream: &Upstream, reference: &str) {
    let nodes = json!({format!("127.0.0.1:{}", upstream.port): 1});
    let plugins = json!({"proxy-rewrite": {"headers": {"set": {"X-Secret": reference}}}});
    gateway.put("/routes/1", &json!({"uri": "/*", "plugins": plugins, "upstream": {"nodes": nodes}}));
}

/// The upstream gets `to` in that field.
fn resolves(gateway: &Gateway, upstream: &Upstream, reference: &str, to: &str) {
    refer(gateway, upstream, reference);
    let expected = format!("x-secret: {to}\r\n");
    eventually(&expected, || gateway.get("/").text().to_ascii_lowercase().contains(&expected));
}

#[test]
fn secrets_of_aws() {
    let secrets = json!({"plain": "whole", "apps/jack": "{\"key\": \"of apps/jack\"}", "apps": "{\"other/key\": \"of apps\"}"});
    let server = aws_mock(secrets);
    let upstream = Upstream::mirror();
    let gateway = Setup::new("epoll", Source::Embedded).variable("AWS_SECRET", "secret").workers(1).start();
    let manager = json!({
        "access_key_id": "id", "secret_access_key": "$env://AWS_SECRET", "session_token": "session",
        "region": "eu-west-1", "endpoint_url": format!("http://127.0.0.1:{}", server.port),
    });
    gateway.put("/secrets/aws/1", &manager);
    for (reference, to) in
        [("plain", "whole"), ("apps/jack/key", "of apps/jack"), ("apps/other/key", "of apps")]
    {
        resolves(&gateway, &upstream, &format!("$secret://aws/1/{reference}"), to);
    }
    let none = "$secret://aws/1/none/at/all";
    refer(&gateway, &upstream, none);
    let failed =
        format!("{none}, err: failed to retrieve data from aws secret manager: invalid status code 400");
    let log = gateway.read_until("logs/error.log", &failed);
    assert!(!log.contains("of apps"), "{log}");
}

#[test]
fn secrets_of_google_cloud() {
    let pki = Pki::new("gcp");
    pki.make("account", "rsa", "DNS:a", None);
    let key = pki.read("account.key");
    let server = gcp_mock(&key);
    let upstream = Upstream::mirror();
    let gateway = Setup::new("epoll", Source::Embedded).workers(1).start();
    let at = format!("http://127.0.0.1:{}", server.port);
    let account = json!({
        "client_email": "a@b.test", "private_key": key, "project_id": "p", "scope": ["one", "two"],
        "token_uri": format!("{at}/token"), "entries_uri": format!("{at}/v1"),
    });
    gateway.put("/secrets/gcp/1", &json!({"auth_config": account}));
    resolves(&gateway, &upstream, "$secret://gcp/1/jack/key", "from gcp");
    resolves(&gateway, &upstream, "$secret://gcp/1/jack", "{\"key\": \"from gcp\"}");
    let file = gateway.path("account.json");
    std::fs::write(&file, account.to_string()).unwrap();
    gateway.put("/secrets/gcp/file", &json!({"auth_file": file}));
    resolves(&gateway, &upstream, "$secret://gcp/file/jack/key", "from gcp");
    let none = "$secret://gcp/1/none";
    refer(&gateway, &upstream, none);
    let failed =
        format!("{none}, err: failed to retrtive data from gcp secret manager: invalid status code 404");
    gateway.read_until("logs/error.log", &failed);
    let tokens = server.requests().iter().filter(|request| request.target == "/token").count();
    assert_eq!(tokens, 1, "one token for all");
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
