//! Google Cloud's Secret Manager (apisix/secret/gcp.lua, apisix/utils/google-cloud-oauth.lua): the latest version of a secret,
//! with an access token that a service account gets for a signed JWT (RFC 7523). A key is the name of a secret, or that and a
//! member of the JSON object in it.

use std::borrow::Cow;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use jiff::Timestamp;
use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::aws::member_of;
use crate::control::call::{Place, call};
use crate::limits;

/// Access tokens that still hold, the last at the end.
#[derive(Default)]
pub struct Tokens(Mutex<Vec<Token>>);

#[derive(Clone)]
struct Token {
    /// The account that it is for, as configured.
    account: Box<str>,
    /// `Bearer …`
    authorization: Box<str>,
    until_s: i64,
}

impl Tokens {
    fn get(&self, account: &str, now_s: i64) -> Option<Box<str>> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.iter().find(|token| &*token.account == account && now_s < token.until_s)?;
        Some(token.authorization.clone())
    }

    fn put(&self, token: Token) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|other| other.account != token.account);
        if tokens.len() >= limits::SECRET_TOKENS {
            tokens.remove(0);
        }
        tokens.push(token);
    }
}

/// The secret at `key`. Texts of errors hold nothing that Google said, but for its status.
pub async fn get(conf: &Value, key: &str, tls: &Arc<ClientConfig>, tokens: &Tokens) -> Result<Value, String> {
    let (name, member) = key.split_once('/').map_or((key, None), |(name, member)| (name, Some(member)));
    if name.is_empty() {
        return Err(format!("can't find main key, key: {key}"));
    }
    let secret = ask(conf, name, tls, tokens).await;
    let secret = secret.map_err(|why| format!("failed to retrtive data from gcp secret manager: {why}"))?;
    match member {
        Some(member) => member_of(&secret, member),
        None => Ok(Value::String(secret)),
    }
}

async fn ask(conf: &Value, name: &str, tls: &Arc<ClientConfig>, tokens: &Tokens) -> Result<String, String> {
    let account = account(conf)?;
    let text = |name: &str| account[name].as_str();
    let entries = text("entries_uri").unwrap_or("https://secretmanager.googleapis.com/v1");
    let place = Place::of(entries).ok_or("its entries_uri cannot be read")?;
    let authorization = authorization(&account, tls, tokens).await?;
    let project = text("project_id").unwrap_or_default();
    let target = format!("{}/projects/{project}/secrets/{name}/versions/latest:access", place.path);
    let request = Request::get(target)
        .header("host", place.authority)
        .header("content-type", "application/json")
        .header("authorization", &*authorization)
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    let (status, body) = call(&place, request, tls, limits::SECRET_ANSWER_BYTES).await?;
    if status != 200 {
        return Err(format!("invalid status code {status}"));
    }
    let body: Value = serde_json::from_slice(&body).map_err(|_| "failed to parse response data")?;
    let data = body["payload"]["data"].as_str().ok_or("invalid payload")?;
    let bytes = STANDARD.decode(data).map_err(|_| "invalid payload")?;
    String::from_utf8(bytes).map_err(|_| "invalid payload".to_owned())
}

/// The service account: in the object, or in a file as Google hands it out.
fn account(conf: &Value) -> Result<Cow<'_, Value>, String> {
    let Some(path) = conf["auth_file"].as_str() else { return Ok(Cow::Borrowed(&conf["auth_config"])) };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limits::SECRET_ANSWER_BYTES as u64).read_to_string(&mut text))
        .map_err(|error| format!("failed to read configuration, file: {path}, err: {error}"))?;
    let account: Value =
        serde_json::from_str(&text).map_err(|_| format!("config parse failure, file: {path}"))?;
    match ["client_email", "private_key", "project_id"].iter().find(|name| !account[**name].is_string()) {
        Some(missing) => {
            Err(format!("config parse failure, file: {path}, err: property \"{missing}\" is required"))
        }
        None => Ok(Cow::Owned(account)),
    }
}

/// The Authorization field for an account: with a token that it has, or a new one.
async fn authorization(
    account: &Value,
    tls: &Arc<ClientConfig>,
    tokens: &Tokens,
) -> Result<Box<str>, String> {
    let now_s = Timestamp::now().as_second();
    let whose = account.to_string();
    if let Some(authorization) = tokens.get(&whose, now_s) {
        return Ok(authorization);
    }
    let uri = account["token_uri"].as_str().unwrap_or("https://oauth2.googleapis.com/token");
    let place = Place::of(uri).ok_or("its token_uri cannot be read")?;
    let assertion = assertion(account, uri, now_s)?;
    let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
    let target = if place.path.is_empty() { "/" } else { place.path };
    let request = Request::post(target)
        .header("host", place.authority)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::<Bytes>::from(format!("grant_type={grant}&assertion={assertion}")))
        .map_err(|error| error.to_string())?;
    let no_token = |why: &str| format!("failed to get google oauth token: {why}");
    let answer = call(&place, request, tls, limits::SECRET_ANSWER_BYTES).await;
    let (status, body) = answer.map_err(|why| no_token(&why))?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (status, body["access_token"].as_str()) {
        (200, Some(token)) => {
            let kind = body["token_type"].as_str().unwrap_or("Bearer");
            let authorization: Box<str> = format!("{kind} {token}").into();
            // a minute early, so that none ends on its way
            let until_s = now_s.saturating_add(body["expires_in"].as_i64().unwrap_or(0)).saturating_sub(60);
            tokens.put(Token { account: whose.into(), authorization: authorization.clone(), until_s });
            Ok(authorization)
        }
        (200, None) => Err(no_token("it is not in the answer")),
        (status, _) => Err(no_token(&format!("invalid status code {status}"))),
    }
}

/// The JWT that asks for a token, signed with RS256.
fn assertion(account: &Value, audience: &str, now_s: i64) -> Result<String, String> {
    let scope = match &account["scope"] {
        Value::String(scope) => scope.clone(),
        Value::Array(scopes) => scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        _ => "https://www.googleapis.com/auth/cloud-platform".to_owned(),
    };
    let claims = json!({
        "iss": account["client_email"], "aud": audience, "scope": scope, "iat": now_s, "exp": now_s + 3600,
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(json!({"alg": "RS256", "typ": "JWT"})), part(claims));
    let pem = account["private_key"].as_str().unwrap_or_default();
    let key = match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        Ok(PrivateKeyDer::Pkcs8(key)) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
        Ok(PrivateKeyDer::Pkcs1(key)) => RsaKeyPair::from_der(key.secret_pkcs1_der()).ok(),
        _ => None,
    };
    let key = key.ok_or("its private_key is no RSA key")?;
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
        .map_err(|_| "its private_key cannot sign")?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_kept_until_they_end_and_not_without_bound() {
        let tokens = Tokens::default();
        let token =
            |account: &str| Token { account: account.into(), authorization: "Bearer t".into(), until_s: 100 };
        tokens.put(token("a"));
        assert_eq!(tokens.get("a", 99).as_deref(), Some("Bearer t"));
        assert_eq!((tokens.get("a", 100), tokens.get("b", 0)), (None, None));
        (0..limits::SECRET_TOKENS).for_each(|n| tokens.put(token(&n.to_string())));
        assert_eq!(tokens.get("a", 0), None, "the oldest makes room");
        assert_eq!(tokens.0.lock().unwrap().len(), limits::SECRET_TOKENS);
    }

    #[test]
    fn a_key_that_is_none_is_named() {
        let account = json!({"client_email": "a", "private_key": "x", "project_id": "p"});
        assert_eq!(assertion(&account, "http://a", 0), Err("its private_key is no RSA key".into()));
    }
}
