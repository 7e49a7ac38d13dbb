//! AWS Secrets Manager (apisix/secret/aws.lua): `GetSecretValue`, signed with Signature Version 4. A key is the name of a
//! secret, or that and a member of the JSON object in it. Names may have slashes, so the longest is tried first; where AWS
//! does not know it, its last steps are taken for the member.

use std::sync::Arc;

use aws_lc_rs::{digest, hmac};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use jiff::Timestamp;
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::{ENV, from_env, strip};
use crate::control::call::{Place, call};
use crate::limits;
use crate::wire::hex;

const SERVICE: &str = "secretsmanager";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const TARGET: &str = "secretsmanager.GetSecretValue";

/// Why AWS gave no secret.
enum Refused {
    /// It has none of this name.
    Unknown(String),
    Other(String),
}

/// The secret at `key`. Texts of errors hold nothing that AWS said, but for its status.
pub async fn get(conf: &Value, key: &str, tls: &Arc<ClientConfig>) -> Result<Value, String> {
    if key.is_empty() || key.starts_with('/') {
        return Err(format!("can't find main key, key: {key}"));
    }
    let (mut name, mut member) = (key, None);
    loop {
        let why = match ask(conf, name, tls, Timestamp::now()).await {
            Ok(secret) => {
                return member.map_or(Ok(Value::String(secret.clone())), |member| member_of(&secret, member));
            }
            Err(Refused::Unknown(why)) => why,
            Err(Refused::Other(why)) => return Err(failed(&why)),
        };
        let Some((shorter, _)) = name.rsplit_once('/') else { return Err(failed(&why)) };
        (name, member) = (shorter, Some(&key[shorter.len() + 1..]));
    }
}

fn failed(why: &str) -> String {
    format!("failed to retrieve data from aws secret manager: {why}")
}

/// A member of the JSON object that a secret is.
pub(super) fn member_of(secret: &str, member: &str) -> Result<Value, String> {
    let object: Value = serde_json::from_str(secret).map_err(|_| "failed to decode result: it is no JSON")?;
    object.get(member).filter(|value| !value.is_null()).cloned().ok_or_else(|| "no value".to_owned())
}

/// The current version of the secret of this name.
async fn ask(conf: &Value, name: &str, tls: &Arc<ClientConfig>, now: Timestamp) -> Result<String, Refused> {
    let region = conf["region"].as_str().unwrap_or("us-east-1");
    let by_default = format!("https://{SERVICE}.{region}.amazonaws.com");
    let place = Place::of(conf["endpoint_url"].as_str().unwrap_or(&by_default))
        .ok_or_else(|| Refused::Other("its endpoint_url cannot be read".into()))?;
    let body = json!({"SecretId": name, "VersionStage": "AWSCURRENT"}).to_string();
    let request = Signed {
        host: place.authority,
        region,
        id: setting(conf, "access_key_id").unwrap_or_default(),
        secret: setting(conf, "secret_access_key").unwrap_or_default(),
        token: setting(conf, "session_token"),
        at: now.strftime("%Y%m%dT%H%M%SZ").to_string(),
    }
    .request(body)
    .map_err(|error| Refused::Other(error.to_string()))?;
    let answer = call(&place, request, tls, limits::SECRET_ANSWER_BYTES).await;
    let (status, body) = answer.map_err(Refused::Other)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status != 200 {
        let unknown = body["__type"].as_str().is_some_and(|kind| kind.contains("ResourceNotFoundException"));
        let why = format!("invalid status code {status}");
        return Err(if unknown { Refused::Unknown(why) } else { Refused::Other(why) });
    }
    body["SecretString"].as_str().map(str::to_owned).ok_or_else(|| Refused::Other("no value".into()))
}

/// A setting, which may be a variable of the environment.
fn setting(conf: &Value, name: &str) -> Option<String> {
    let text = conf[name].as_str()?;
    let variable = strip(text, ENV).and_then(|path| from_env(path, &|name| std::env::var(name).ok()).ok());
    Some(variable.as_ref().and_then(Value::as_str).unwrap_or(text).to_owned())
}

/// What a request is signed with.
struct Signed<'a> {
    host: &'a str,
    region: &'a str,
    id: String,
    secret: String,
    token: Option<String>,
    /// As `20150830T123600Z`.
    at: String,
}

impl Signed<'_> {
    fn request(&self, body: String) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        // by name, as the signature wants them
        let token = self.token.as_deref().map(|token| ("x-amz-security-token", token));
        let mut fields = vec![("content-type", CONTENT_TYPE), ("host", self.host), ("x-amz-date", &self.at)];
        fields.extend(token);
        fields.push(("x-amz-target", TARGET));
        let names = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = fields.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", sha256(body.as_bytes()));
        let signature = signature(&self.secret, &self.at, self.region, SERVICE, &canonical);
        let scope = scope(&self.at, self.region, SERVICE);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.id
        );
        let mut request = Request::post("/").header("authorization", authorization);
        for (name, value) in fields {
            request = request.header(name, value);
        }
        request.body(Full::from(body))
    }
}

fn scope(at: &str, region: &str, service: &str) -> String {
    let day = at.split('T').next().unwrap_or_default();
    format!("{day}/{region}/{service}/aws4_request")
}

/// Signature Version 4 of a canonical request, in hexadecimal.
fn signature(secret: &str, at: &str, region: &str, service: &str, canonical: &str) -> String {
    let scope = scope(at, region, service);
    let text = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let first = format!("AWS4{secret}").into_bytes();
    let key = scope.split('/').fold(first, |key, part| sign(&key, part).as_ref().to_vec());
    hex::lower(sign(&key, &text).as_ref())
}

fn sha256(bytes: &[u8]) -> String {
    hex::lower(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in AWS's description of the signature.
    #[test]
    fn the_signature_is_that_of_the_example() {
        let canonical = "GET\n/\nAction=ListUsers&Version=2010-05-08\n\
            content-type:application/x-www-form-urlencoded; charset=utf-8\nhost:iam.amazonaws.com\n\
            x-amz-date:20150830T123600Z\n\ncontent-type;host;x-amz-date\n\
            e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            sha256(canonical.as_bytes()),
            "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
        );
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        assert_eq!(
            signature(secret, "20150830T123600Z", "us-east-1", "iam", canonical),
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    #[test]
    fn a_session_token_is_signed_too() {
        let mut signed = Signed {
            host: "a.test",
            region: "eu-west-1",
            id: "id".into(),
            secret: "secret".into(),
            token: Some("token".into()),
            at: "20260101T000000Z".into(),
        };
        let authorization = |signed: &Signed<'_>| {
            let request = signed.request("{}".into()).unwrap();
            request.headers()["authorization"].to_str().unwrap().to_owned()
        };
        let with = authorization(&signed);
        assert!(
            with.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target,")
        );
        assert!(
            with.starts_with(
                "AWS4-HMAC-SHA256 Credential=id/20260101/eu-west-1/secretsmanager/aws4_request, "
            )
        );
        signed.token = None;
        assert_ne!(authorization(&signed), with);
    }

    #[test]
    fn members_of_a_secret() {
        assert_eq!(member_of(r#"{"a": "x", "n": 1, "none": null}"#, "a"), Ok(json!("x")));
        assert_eq!(member_of(r#"{"n": 1}"#, "n"), Ok(json!(1)));
        assert_eq!(member_of(r#"{"none": null}"#, "none"), Err("no value".into()));
        assert!(member_of("s3cret", "a").is_err_and(|why| !why.contains("s3cret")));
    }
}
