//! HashiCorp Vault, and OpenBao: the key-value engine by HTTP (apisix/secret/vault.lua). The last step of a key is a
//! member of the secret at the path before it. Version 1 answers `{"data": {…}}`, version 2 (a `prefix` like
//! `kv/data/apisix`) `{"data": {"data": {…}, "metadata": {…}}}`: both are read, APISIX reads the first.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use rustls::ClientConfig;
use serde_json::Value;

use super::{ENV, from_env, strip};
use crate::control::call::{Place, call};
use crate::limits;

/// The secret at `key`. Texts of errors hold nothing that Vault said, but for its status.
pub async fn get(conf: &Value, key: &str, tls: &Arc<ClientConfig>) -> Result<Value, String> {
    let (path, member) = key.rsplit_once('/').ok_or_else(|| format!("error key format, key: {key}"))?;
    if path.is_empty() {
        return Err(format!("can't find main key, key: {key}"));
    }
    if member.is_empty() {
        return Err(format!("can't find sub key, key: {key}"));
    }
    let seconds = conf["timeout"].as_f64().filter(|seconds| *seconds > 0.0);
    let patience = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let patience = patience.unwrap_or(Duration::from_millis(limits::SECRET_PATIENCE_MS));
    let answer = tokio::time::timeout(patience, ask(conf, path, tls)).await;
    let (status, body) = answer
        .unwrap_or_else(|_| Err("timeout".into()))
        .map_err(|why| format!("failed to retrtive data from vault kv engine: {why}"))?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match member_of(&body, member) {
        Some(secret) => Ok(secret.clone()),
        None if body["data"].is_object() => Err("no value".into()),
        None => Err(format!("failed to decode result, status: {status}")),
    }
}

fn member_of<'a>(answer: &'a Value, member: &str) -> Option<&'a Value> {
    let data = answer.get("data")?;
    let is_version_2 = data["data"].is_object() && data["metadata"].is_object();
    let data = if is_version_2 { &data["data"] } else { data };
    data.get(member).filter(|value| !value.is_null())
}

/// `GET /v1/PREFIX/PATH` of the server: its status and its body.
async fn ask(conf: &Value, path: &str, tls: &Arc<ClientConfig>) -> Result<(u16, Bytes), String> {
    let text = |name: &str| conf[name].as_str().unwrap_or_default();
    let place = Place::of(text("uri")).ok_or("its uri cannot be read")?;
    let token =
        strip(text("token"), ENV).and_then(|path| from_env(path, &|name| std::env::var(name).ok()).ok());
    let token = token.as_ref().and_then(Value::as_str).unwrap_or(text("token"));
    let target = target(place.path, text("prefix"), path);
    let mut request = Request::get(target).header("Host", place.authority).header("X-Vault-Token", token);
    if let Some(namespace) = conf["namespace"].as_str() {
        request = request.header("X-Vault-Namespace", namespace);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;

    call(&place, request, tls, limits::SECRET_ANSWER_BYTES).await
}

/// The path of a secret, with no empty step in it.
fn target(base: &str, prefix: &str, path: &str) -> String {
    let steps = ["v1"].into_iter().chain(prefix.split('/')).chain(path.split('/'));
    let mut target = base.trim_end_matches('/').to_owned();
    for step in steps.filter(|step| !step.is_empty()) {
        target.push('/');
        target.push_str(step);
    }
    target
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_have_no_empty_step() {
        assert_eq!(target("/mock", "/kv//apisix/", "jack"), "/mock/v1/kv/apisix/jack");
    }

    #[test]
    fn both_versions_of_the_engine_are_read() {
        let first = json!({"data": {"key": "a", "data": {"key": "b"}, "none": null}});
        assert_eq!(member_of(&first, "key"), Some(&json!("a")));
        assert_eq!(member_of(&first, "none"), None);
        let second = json!({"data": {"data": {"key": "b"}, "metadata": {"version": 1}}});
        assert_eq!(member_of(&second, "key"), Some(&json!("b")));
        assert_eq!(member_of(&json!({"errors": []}), "key"), None);
    }

    /// What comes of a question to a server that answers with a body of so many bytes, or with nothing.
    async fn asked(answer: Option<usize>) -> Result<Value, String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some(bytes) = answer {
                let _ = stream.read(&mut [0; 4096]).await;
                let secret = r#"{"data": {"key": "x"}}"#;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{secret}");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&vec![b' '; bytes - secret.len()]).await;
            }
            std::future::pending::<()>().await;
        });
        let tls = crate::transport::trust::client_config(&crate::transport::trust::Trust::Anyone, None, &[]);
        get(&json!({"uri": uri, "prefix": "kv", "token": "t"}), "a/key", &tls.unwrap()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_manager_is_not_waited_for_without_end() {
        let began = tokio::time::Instant::now();
        let answer = asked(None).await;
        let took_ms = began.elapsed().as_millis() as u64;
        assert_eq!(answer.unwrap_err(), "failed to retrtive data from vault kv engine: timeout");
        assert!(took_ms.abs_diff(limits::SECRET_PATIENCE_MS) < 100, "{took_ms} ms");
    }

    #[tokio::test]
    async fn an_answer_has_a_longest_length() {
        assert_eq!(asked(Some(limits::SECRET_ANSWER_BYTES)).await, Ok(json!("x")));
        let error = asked(Some(limits::SECRET_ANSWER_BYTES + 1)).await.unwrap_err();
        assert!(error.contains("length limit exceeded"), "{error}");
    }
}
