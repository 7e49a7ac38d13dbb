//! HashiCorp Vault, and OpenBao: the key-value engine by HTTP (apisix/secret/vault.lua). The last step of a key is a
//! member of the secret at the path before it. Version 1 answers `{"data": {…}}`, version 2 (a `prefix` like
//! `kv/data/apisix`) `{"data": {"data": {…}, "metadata": {…}}}`: both are read, APISIX reads the first.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ENV, from_env, strip};
use crate::limits;
use crate::transport::trust;

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

    let stream = TcpStream::connect((place.host, place.port)).await.map_err(|error| error.to_string())?;
    if !place.is_tls {
        return exchange(stream, request).await;
    }
    let name = trust::server_name(place.host).ok_or("its uri names no server")?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
    exchange(stream.map_err(|error| error.to_string())?, request).await
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(u16, Bytes), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    tokio::spawn(connection); // ends with its sender
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), limits::SECRET_ANSWER_BYTES).collect().await;
    Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
}

/// Where a server is.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    is_tls: bool,
    /// As in the URI, for the Host header.
    authority: &'a str,
    /// Without the brackets of an IPv6 address.
    host: &'a str,
    port: u16,
    path: &'a str,
}

impl Place<'_> {
    fn of(uri: &str) -> Option<Place<'_>> {
        let (scheme, rest) = uri.split_once("://")?;
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = crate::model::address::split_address(authority);
        let port = match port {
            Some(port) => port.parse().ok()?,
            None if is_tls => 443,
            None => 80,
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (!host.is_empty()).then_some(Place { is_tls, authority, host, port, path })
    }
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
    fn places() {
        let place = Place::of("http://127.0.0.1:8200").unwrap();
        assert_eq!((place.is_tls, place.host, place.port, place.path), (false, "127.0.0.1", 8200, ""));
        let place = Place::of("https://[::1]/mock").unwrap();
        assert_eq!((place.is_tls, place.host, place.port, place.path), (true, "::1", 443, "/mock"));
        assert_eq!(place.authority, "[::1]");
        for bad in ["vault:8200", "ftp://a", "http://", "http://a:port"] {
            assert_eq!(Place::of(bad), None, "{bad}");
        }
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
}
