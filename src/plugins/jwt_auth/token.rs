//! A JSON Web Token: its three parts, the keys and algorithms that verify it (RFC 7515, RFC 7518), and the
//! times in it (RFC 7519; apisix/plugins/jwt-auth/parser.lua).

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    self as sig, ParsedPublicKey, RsaParameters, RsaPssSaltLength, VerificationAlgorithm,
};
use serde_json::Value;

use crate::plugins::kit::base64;

/// A token whose parts could be read; nothing is verified yet.
pub struct Token {
    /// `alg` of its header.
    pub alg: Option<Box<str>>,
    /// Its payload.
    pub claims: Value,
    /// What its payload says of time.
    pub times: Times,
    /// What is signed: so many bytes from its start.
    signed_bytes: usize,
    /// `None`: it is no base64, and so verifies nothing.
    signature: Option<Vec<u8>>,
}

impl Token {
    /// Reads `header.payload.signature`. The error is for the log.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let mut parts = text.split(|b| *b == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("invalid jwt string");
        };
        let json = |part: &[u8]| serde_json::from_slice::<Value>(&base64::decode_url(part)?).ok();
        let header_json = json(header).filter(Value::is_object).ok_or("invalid header")?;
        let claims = json(payload).ok_or("invalid payload")?;
        Ok(Token {
            alg: header_json["alg"].as_str().map(Box::from),
            times: Times::of(&claims),
            claims,
            signed_bytes: header.len() + 1 + payload.len(),
            signature: base64::decode_url(signature),
        })
    }

    /// Was `text`, which this token was parsed from, signed with the key?
    pub fn is_signed_by(&self, text: &[u8], key: &Key) -> bool {
        let (Some(signed), Some(signature)) = (text.get(..self.signed_bytes), &self.signature) else {
            return false;
        };
        match key {
            Key::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
            Key::Public(keys) => keys.iter().any(|key| key.verify_sig(signed, signature).is_ok()),
            Key::Broken(_) => false,
        }
    }
}

/// What a consumer's configuration says of its tokens.
pub struct Terms {
    /// What they are signed with.
    pub key: Key,
    /// So many seconds may the clocks differ.
    pub grace_s: u64,
}

impl Terms {
    /// Of a configuration that was checked.
    pub fn of(conf: &Value) -> Terms {
        Terms { key: Key::of(conf), grace_s: conf["lifetime_grace_period"].as_u64().unwrap_or(0) }
    }
}

/// What verifies a consumer's tokens.
pub enum Key {
    /// HS256, HS384, HS512.
    Secret(Box<hmac::Key>),
    /// The others. Two of the same key where a signature may be made in two ways.
    Public(Vec<ParsedPublicKey>),
    /// The configuration holds no key that can be used, and why.
    Broken(&'static str),
}

/// Tokens of the RSA algorithms with 1024 bits are still around; shorter keys are not taken.
const RS256: &RsaParameters = &sig::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
const RS384: &RsaParameters = &sig::RSA_PKCS1_2048_8192_SHA384;
const RS512: &RsaParameters = &sig::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY;
/// RFC 7518 section 3.5 wants a salt as long as the digest; OpenSSL signs with the longest there can be and
/// verifies either, and so do we.
const PS256: [&RsaParameters; 2] = [
    &sig::RSA_PSS_2048_8192_SHA256,
    &sig::RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max),
];
const PS384: [&RsaParameters; 2] = [
    &sig::RSA_PSS_2048_8192_SHA384,
    &sig::RSA_PSS_2048_8192_SHA384.with_pss_salt_length(RsaPssSaltLength::Max),
];
const PS512: [&RsaParameters; 2] = [
    &sig::RSA_PSS_2048_8192_SHA512,
    &sig::RSA_PSS_2048_8192_SHA512.with_pss_salt_length(RsaPssSaltLength::Max),
];

impl Key {
    /// The key of a consumer's configuration.
    pub fn of(conf: &Value) -> Key {
        let secret = |algorithm| match secret(conf) {
            Some(secret) => Key::Secret(Box::new(hmac::Key::new(algorithm, &secret))),
            None => Key::Broken("no secret"),
        };
        let public = |ways: &[&'static dyn VerificationAlgorithm]| {
            let Some(der) = conf["public_key"].as_str().and_then(pem_der) else {
                return Key::Broken("the public key is not PEM");
            };
            let keys = ways.iter().map(|way| ParsedPublicKey::new(*way, &der)).collect::<Result<_, _>>();
            keys.map_or(Key::Broken("the public key is not one of the algorithm"), Key::Public)
        };
        match algorithm(conf) {
            "HS256" => secret(hmac::HMAC_SHA256),
            "HS384" => secret(hmac::HMAC_SHA384),
            "HS512" => secret(hmac::HMAC_SHA512),
            "RS256" => public(&[RS256]),
            "RS384" => public(&[RS384]),
            "RS512" => public(&[RS512]),
            "PS256" => public(&[PS256[0], PS256[1]]),
            "PS384" => public(&[PS384[0], PS384[1]]),
            "PS512" => public(&[PS512[0], PS512[1]]),
            "ES256" => public(&[&sig::ECDSA_P256_SHA256_FIXED]),
            "ES384" => public(&[&sig::ECDSA_P384_SHA384_FIXED]),
            "ES512" => public(&[&sig::ECDSA_P521_SHA512_FIXED]),
            "EdDSA" => public(&[&sig::ED25519]),
            _ => Key::Broken("unknown algorithm"),
        }
    }
}

/// The algorithm that a consumer's tokens must name.
pub fn algorithm(conf: &Value) -> &str {
    conf["algorithm"].as_str().unwrap_or("HS256")
}

/// The bytes of `secret`, out of base64 where `base64_secret` says so.
pub fn secret(conf: &Value) -> Option<Vec<u8>> {
    let text = conf["secret"].as_str()?;
    match conf["base64_secret"] == true {
        true => base64::decode(text.as_bytes()),
        false => Some(text.as_bytes().to_vec()),
    }
}

/// The bytes between the first `-----BEGIN …-----` and its end (RFC 7468).
fn pem_der(text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (_, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: Vec<u8> = body.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    base64::decode(&body)
}

/// A claim about time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeClaim {
    /// Not before.
    Nbf,
    /// Not after.
    Exp,
}

impl TimeClaim {
    /// `None` for other claims.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "nbf" => Some(TimeClaim::Nbf),
            "exp" => Some(TimeClaim::Exp),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            TimeClaim::Nbf => "nbf",
            TimeClaim::Exp => "exp",
        }
    }
}

/// The claims about time of a payload, looked for once.
pub struct Times {
    nbf: Option<Value>,
    exp: Option<Value>,
}

impl Times {
    /// Those of these claims.
    pub fn of(claims: &Value) -> Times {
        let claim = |claim: TimeClaim| claims.get(claim.name()).cloned();
        Times { nbf: claim(TimeClaim::Nbf), exp: claim(TimeClaim::Exp) }
    }

    /// Those `required` must be there; where none are, both are checked if they are there. The error is for the log.
    pub fn check(&self, required: &[TimeClaim], now_s: u64, grace_s: u64) -> Result<(), String> {
        if required.is_empty() {
            let both = [TimeClaim::Nbf, TimeClaim::Exp].into_iter();
            return both
                .filter(|claim| self.get(*claim).is_some())
                .try_for_each(|claim| self.check_one(claim, now_s, grace_s));
        }
        required.iter().try_for_each(|claim| self.check_one(*claim, now_s, grace_s))
    }

    fn get(&self, claim: TimeClaim) -> Option<&Value> {
        match claim {
            TimeClaim::Nbf => self.nbf.as_ref(),
            TimeClaim::Exp => self.exp.as_ref(),
        }
    }

    fn check_one(&self, claim: TimeClaim, now_s: u64, grace_s: u64) -> Result<(), String> {
        let name = claim.name();
        let value = self.get(claim).ok_or_else(|| format!("claim {name} is missing"))?;
        let time_s = value.as_f64().ok_or_else(|| format!("claim {name} is not a number"))?;
        let (now_s, grace_s) = (now_s as f64, grace_s as f64);
        let (holds, what) = match claim {
            TimeClaim::Nbf => (time_s < now_s + grace_s, "not valid until"),
            TimeClaim::Exp => (time_s > now_s - grace_s, "expired at"),
        };
        if holds { Ok(()) } else { Err(format!("'{name}' claim {what} {time_s}")) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_three_parts_and_no_others() {
        let part = |text: &str| base64::encode(text.as_bytes()).replace('=', "");
        let token = |header: &str, payload: &str| format!("{}.{}.AAAA", part(header), part(payload));
        let parsed = Token::parse(token(r#"{"alg":"HS256"}"#, r#"{"key":"a"}"#).as_bytes()).ok().unwrap();
        assert_eq!((parsed.alg.as_deref(), &parsed.claims["key"]), (Some("HS256"), &json!("a")));
        for (text, error) in [
            (String::new(), "invalid jwt string"),
            ("a.b".into(), "invalid jwt string"),
            ("a.b.c.d".into(), "invalid jwt string"),
            (token("{", "{}"), "invalid header"),
            (token("[]", "{}"), "invalid header"),
            (token("{}", "{"), "invalid payload"),
            ("\u{e9}.\u{e9}.\u{e9}".into(), "invalid header"),
        ] {
            assert_eq!(Token::parse(text.as_bytes()).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn times() {
        use TimeClaim::{Exp, Nbf};
        let check = |claims: Value, required: &[TimeClaim], grace_s| {
            Times::of(&claims).check(required, 1000, grace_s).err().unwrap_or("valid".into())
        };
        for (claims, required, grace_s, outcome) in [
            (json!({}), &[][..], 0, "valid"),
            (json!({"exp": 1001, "nbf": 999}), &[], 0, "valid"),
            (json!({"exp": 1000}), &[], 0, "'exp' claim expired at 1000"),
            (json!({"nbf": 1000}), &[], 0, "'nbf' claim not valid until 1000"),
            (json!({"exp": 991, "nbf": 1009}), &[], 10, "valid"),
            (json!({"exp": 990}), &[], 10, "'exp' claim expired at 990"),
            (json!({"nbf": 1010}), &[], 10, "'nbf' claim not valid until 1010"),
            (json!({"exp": "2000"}), &[], 0, "claim exp is not a number"),
            (json!({"nbf": null}), &[], 0, "claim nbf is not a number"),
            (json!({"nbf": 1}), &[Exp], 0, "claim exp is missing"),
            (json!({"exp": 1}), &[Nbf], 0, "claim nbf is missing"),
            (json!({"exp": 1, "nbf": 1}), &[Nbf], 0, "valid"),
            (json!("text"), &[Exp], 0, "claim exp is missing"),
        ] {
            assert_eq!(check(claims.clone(), required, grace_s), outcome, "{claims} {required:?}");
        }
    }
}
