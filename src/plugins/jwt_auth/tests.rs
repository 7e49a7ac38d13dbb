//! Tokens signed here, by each algorithm, against the plugin.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self as sig, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;
use crate::exchange::{Reply, Vars};
use crate::plugins::kit::{base64 as plain, test};

const SECRET: &str = "my-secret-key";

/// A token whose signature is made by `sign`.
fn signed(alg: &str, claims: Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(json!({"alg": alg, "typ": "JWT"})), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(text.as_bytes()));
    format!("{text}.{signature}")
}

fn hs256(claims: Value) -> String {
    signed("HS256", claims, mac(hmac::HMAC_SHA256, SECRET.as_bytes()))
}

fn mac(algorithm: hmac::Algorithm, secret: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    move |text| hmac::sign(&hmac::Key::new(algorithm, secret), text).as_ref().to_vec()
}

/// jack with the key `user-key` and this credential, and anna, who is let in without one.
fn host(mut credential: Value) -> Rc<Host> {
    let host = test::host();
    credential["key"] = json!("user-key");
    host.consumers.put(&test::consumer("jack", json!({ "jwt-auth": credential }), json!({})));
    host.consumers.put(&test::consumer("anna", json!({}), json!({})));
    host
}

fn request(target: &str, headers: &str) -> Exchange {
    test::exchange(&format!("GET {target} HTTP/1.1\nHost: a\n{headers}"))
}

/// The answer to a request with this token, and who it was.
fn ask(host: &Rc<Host>, conf: Value, token: &str) -> (Option<Reply>, String) {
    let plugin = test::build(&SPEC, host, conf);
    let mut ex = request("/hello", &format!("Authorization: Bearer {token}"));
    let reply = test::run(&plugin, Phase::Rewrite, &mut ex, host);
    let challenge = test::values(ex.resp_headers(), "WWW-Authenticate");
    assert_eq!(challenge, if reply.is_some() { "Bearer realm=\"jwt\"" } else { "-" });
    (reply, test::values(ex.req_headers(), "X-Consumer-Username"))
}

#[test]
fn checks_configurations_as_apisix() {
    let oneof = "failed to validate dependent schema for \"algorithm\": \
                 value should match only one schema, but matches none";
    for (kind, conf, outcome) in [
        (SchemaType::Plain, json!({}), "accepted"),
        (
            SchemaType::Plain,
            json!({"key_claim_name": ""}),
            "property \"key_claim_name\" validation failed: string too short, expected at least 1, got 0",
        ),
        (
            SchemaType::Plain,
            json!({"claims_to_verify": ["exp", "iat"]}),
            "property \"claims_to_verify\" validation failed: failed to validate item 2: \
             matches none of the enum values",
        ),
        (SchemaType::Consumer, json!({"key": "k", "secret": "s"}), "accepted"),
        (SchemaType::Consumer, json!({"secret": "s"}), "property \"key\" is required"),
        (
            SchemaType::Consumer,
            json!({"key": "k"}),
            "property \"secret\" is required when using HS based algorithms",
        ),
        (
            SchemaType::Consumer,
            json!({"key": "k", "secret": "not base64", "base64_secret": true}),
            "base64_secret required but the secret is not in base64 format",
        ),
        (
            SchemaType::Consumer,
            json!({"key": "k", "secret": "$ENV://SECRET", "base64_secret": true}),
            "accepted",
        ),
        (SchemaType::Consumer, json!({"key": "k", "algorithm": "RS256", "secret": "s"}), oneof),
        (SchemaType::Consumer, json!({"key": "k", "algorithm": "ES512", "public_key": "p"}), "accepted"),
    ] {
        assert_eq!(test::check(&SPEC, kind, conf.clone()), outcome, "{conf}");
    }
}

#[test]
fn verifies_by_each_algorithm() {
    let claims = || json!({"key": "user-key"});
    let random = &SystemRandom::new();
    let pem = |der: &[u8]| {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", plain::encode(der))
    };
    let mut cases = Vec::new();
    for (alg, algorithm) in
        [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
    {
        let token = signed(alg, claims(), mac(algorithm, SECRET.as_bytes()));
        cases.push((alg, json!({"secret": SECRET}), token));
        let token = signed(alg, claims(), mac(algorithm, &[0, 255, 7]));
        cases.push((alg, json!({"secret": "AP8H", "base64_secret": true}), token));
    }
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = json!({"public_key": pem(rsa.public_key().as_der().unwrap().as_ref())});
    let max = sig::RsaPssSaltLength::Max;
    let max_salt: &'static sig::RsaSignatureEncoding =
        Box::leak(Box::new(sig::RSA_PSS_SHA256.with_pss_salt_length(max)));
    for (alg, way) in [
        ("RS256", &sig::RSA_PKCS1_SHA256),
        ("RS384", &sig::RSA_PKCS1_SHA384),
        ("RS512", &sig::RSA_PKCS1_SHA512),
        ("PS256", &sig::RSA_PSS_SHA256),
        ("PS256", max_salt),
        ("PS384", &sig::RSA_PSS_SHA384),
        ("PS512", &sig::RSA_PSS_SHA512),
    ] {
        let sign = |text: &[u8]| {
            let mut signature = vec![0; rsa.public_modulus_len()];
            rsa.sign(way, random, text, &mut signature).unwrap();
            signature
        };
        cases.push((alg, public.clone(), signed(alg, claims(), sign)));
    }
    for (alg, way) in [
        ("ES256", &sig::ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", &sig::ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", &sig::ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        let pair = EcdsaKeyPair::generate(way).unwrap();
        let public = json!({"public_key": pem(pair.public_key().as_der().unwrap().as_ref())});
        let sign = |text: &[u8]| pair.sign(random, text).unwrap().as_ref().to_vec();
        cases.push((alg, public, signed(alg, claims(), sign)));
    }
    let pair = Ed25519KeyPair::generate().unwrap();
    let public = json!({"public_key": pem(pair.public_key().as_der().unwrap().as_ref())});
    cases.push(("EdDSA", public, signed("EdDSA", claims(), |text| pair.sign(text).as_ref().to_vec())));

    let refused = Some(Reply::message(401, "failed to verify jwt"));
    for (alg, mut credential, token) in cases {
        credential["algorithm"] = json!(alg);
        let host = host(credential);
        assert_eq!(ask(&host, json!({}), &token), (None, "jack".into()), "{alg}");
        // another payload under the same signature
        let parts: Vec<&str> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(r#"{"key":"user-key","admin":1}"#);
        let forged = [parts[0], &forged, parts[2]].join(".");
        assert_eq!(ask(&host, json!({}), &forged).0, refused, "{alg}");
        let unsigned = format!("{}.{}.", parts[0], parts[1]);
        assert_eq!(ask(&host, json!({}), &unsigned).0, refused, "{alg}");
    }
}

#[test]
fn a_token_must_name_the_algorithm_of_its_consumer() {
    // the public key as the secret of HS256, and none at all: RFC 8725 section 2.1
    let key = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----";
    let host = host(json!({"algorithm": "RS256", "public_key": key}));
    let refused = Some(Reply::message(401, "failed to verify jwt"));
    let claims = || json!({"key": "user-key"});
    for token in [
        signed("HS256", claims(), mac(hmac::HMAC_SHA256, key.as_bytes())),
        signed("none", claims(), |_| Vec::new()),
        signed("RS256", claims(), |_| vec![0; 256]),
    ] {
        assert_eq!(ask(&host, json!({}), &token).0, refused);
    }
}

#[test]
fn refuses_with_a_challenge() {
    let host = host(json!({"secret": SECRET}));
    let wrong = signed("HS256", json!({"key": "user-key"}), mac(hmac::HMAC_SHA256, b"other"));
    for (token, message) in [
        ("invalid".to_owned(), "JWT token invalid"),
        (hs256(json!({"sub": "user-key"})), "missing user key in JWT token"),
        (hs256(json!({"key": false})), "missing user key in JWT token"),
        (hs256(json!("user-key")), "missing user key in JWT token"),
        (hs256(json!({"key": 1})), "Invalid user key in JWT token"),
        (hs256(json!({"key": "nobody"})), "Invalid user key in JWT token"),
        (hs256(json!({"key": "user-key", "exp": 1})), "failed to verify jwt"),
        (wrong, "failed to verify jwt"),
        (hs256(json!({"key": "user-key"})) + "@", "failed to verify jwt"),
    ] {
        assert_eq!(ask(&host, json!({}), &token).0, Some(Reply::message(401, message)), "{token}");
    }
    let plugin = test::build(&SPEC, &host, json!({}));
    let reply = test::run(&plugin, Phase::Rewrite, &mut request("/?a=1", "Cookie: a=b"), &host);
    assert_eq!(reply, Some(Reply::message(401, "Missing JWT token in request")));
    let reply = test::run(&plugin, Phase::Rewrite, &mut request("/?jwt", ""), &host);
    assert_eq!(reply, Some(Reply::message(401, "JWT token invalid")));
}

#[test]
fn checks_times_whether_the_token_is_known_or_not() {
    let host = host(json!({"secret": SECRET, "lifetime_grace_period": 5}));
    let token = hs256(json!({"key": "user-key", "exp": test::unix_s() + 10}));
    let expired = Some(Reply::message(401, "failed to verify jwt"));
    assert_eq!(ask(&host, json!({}), &token).0, None);
    test::pass(std::time::Duration::from_secs(14));
    assert_eq!(ask(&host, json!({}), &token).0, None);
    assert_eq!(ask(&host, json!({"claims_to_verify": ["nbf"]}), &token).0, expired, "nbf is missing");
    test::pass(std::time::Duration::from_secs(1));
    assert_eq!(ask(&host, json!({}), &token).0, expired);
}

#[test]
fn a_known_token_dies_with_its_credential() {
    let host = host(json!({"secret": SECRET}));
    let token = hs256(json!({"key": "user-key"}));
    assert_eq!(ask(&host, json!({}), &token).0, None);
    let other = json!({"jwt-auth": {"key": "user-key", "secret": "changed"}});
    host.consumers.put(&test::consumer("jack", other, json!({})));
    assert_eq!(ask(&host, json!({}), &token).0, Some(Reply::message(401, "failed to verify jwt")));
    host.consumers.remove(&"jack".into());
    assert_eq!(ask(&host, json!({}), &token).0, Some(Reply::message(401, "Invalid user key in JWT token")));
}

#[test]
fn finds_the_token_in_three_places_and_hides_it() {
    let host = host(json!({"secret": SECRET}));
    let conf = json!({"hide_credentials": true, "key_claim_name": "iss", "store_in_ctx": true});
    let plugin = test::build(&SPEC, &host, conf);
    let good = hs256(json!({"iss": "user-key", "n": 1}));
    for (target, headers, reply, upstream, cookies) in [
        ("/a", format!("Authorization: {good}"), None, None, "-"),
        ("/a", format!("authorization: bearer {good}"), None, None, "-"),
        (&*format!("/a?x=1&jwt={good}"), String::new(), None, Some("/a?x=1"), "-"),
        ("/a", format!("Cookie: a=b%20c; jwt={good}; d=\"e\""), None, None, "a=b%20c; d=\"e\""),
        ("/a", format!("Cookie: jwt={good}"), None, None, "-"),
        (
            &*format!("/a?jwt={good}"),
            "Authorization: x".into(),
            Some(Reply::message(401, "JWT token invalid")),
            None,
            "-",
        ),
    ] {
        let mut ex = request(target, &headers);
        assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), reply, "{target} {headers}");
        assert_eq!(test::values(ex.req_headers(), "Authorization"), "-");
        assert_eq!(test::values(ex.req_headers(), "Cookie"), cookies);
        assert_eq!(ex.out.uri.as_deref(), upstream.map(str::as_bytes));
        let payload = reply.is_none().then_some(&br#"{"iss":"user-key","n":1}"#[..]);
        assert_eq!(ex.var("jwt_auth_payload").as_deref(), payload);
    }
}

#[test]
fn lets_the_anonymous_in() {
    let host = host(json!({"secret": SECRET}));
    let (reply, name) = ask(&host, json!({"anonymous_consumer": "anna"}), "invalid");
    assert_eq!((reply, &*name), (None, "anna"));
    let (reply, _) = ask(&host, json!({"anonymous_consumer": "nobody"}), "invalid");
    assert_eq!(reply, Some(Reply::message(401, "Invalid user authorization")));
}
