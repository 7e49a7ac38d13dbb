//! `jwt-auth`: the consumer is found by a claim of a JSON Web Token that it has signed (RFC 7519,
//! apisix/plugins/jwt-auth.lua).
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "jwt-auth": { "key_claim_name": "iss", "claims_to_verify": ["exp"], "hide_credentials": true }
//!   }
//! }
//! ```
//!
//! A consumer, or one of its credentials, brings the key by which it is found and what its tokens are verified
//! with: a `secret` for the HS algorithms, a `public_key` in PEM for the others.
//!
//! ```json
//! {
//!   "username": "jack",
//!   "plugins": {
//!     "jwt-auth": { "key": "jack-key", "secret": "a-secret-of-32-bytes-or-more-0123", "algorithm": "HS256" }
//!   }
//! }
//! ```
//!
//! The token stands in a header, with or without `Bearer ` before it, else in an argument, else in a cookie.
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `header`, `query`, `cookie` | `authorization`, `jwt`, `jwt` | where the token is looked for, in this order |
//! | `hide_credentials` | `false` | the token does not go upstream |
//! | `key_claim_name` | `key` | the claim that holds the consumer's `key` |
//! | `claims_to_verify` | | of `exp` and `nbf`: must be there and hold. Without it both are checked where they are there |
//! | `store_in_ctx` | `false` | the payload becomes the variable `jwt_auth_payload`, as JSON |
//! | `realm` | `jwt` | in `WWW-Authenticate` of a refusal |
//! | `anonymous_consumer` | | the consumer of requests that fail to authenticate |
//!
//! | of a consumer | default | meaning |
//! |---|---|---|
//! | `key` | | what the claim must say |
//! | `algorithm` | `HS256` | HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384, PS512, EdDSA; tokens that name another are refused |
//! | `secret` | | of the HS algorithms |
//! | `base64_secret` | `false` | `secret` is base64 |
//! | `public_key` | | of the others, PEM |
//! | `lifetime_grace_period` | 0 | seconds that clocks may differ |
//! | `exp` | 86400 | not used: the gateway signs no tokens |
//!
//! Phases: rewrite. The consumer's plugins join the route's after it; the upstream is told who it is in
//! `X-Consumer-Username`, `X-Credential-Identifier` and `X-Consumer-Custom-ID`.
//!
//! A core remembers the tokens that it has verified, a bounded number of them, and checks only the times of one
//! that it knows; a credential that is changed or removed ends that.
//!
//! Known differences:
//! - RSA keys need 1024 bits for RS256 and RS512, 2048 for the other RSA algorithms; APISIX takes weaker ones.
//!   PS signatures may be of any length that goes with the key, not of 256 bytes alone.
//! - EdDSA is Ed25519; Ed448 is not verified.
//! - `hide_credentials` takes one cookie out and leaves the others as they are; APISIX cuts some of them.
//! - `store_in_ctx` gives a variable, where APISIX has a field for Lua code.

mod token;
mod verified;

use std::borrow::Cow;
use std::rc::Rc;

use serde_json::Value;

use super::kit::auth::Admission;
use super::kit::place::{self, Arg, Header};
use crate::exchange::{Exchange, Known};
use crate::model::schema::is_secret_ref;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use token::{Key, Terms, TimeClaim, Token};
use verified::{Verified, VerifiedTokens};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "jwt-auth",
    priority: 2510,
    auth: true,
    schema: include_str!("schema.json"),
    consumer_schema: Some(include_str!("consumer.schema.json")),
    consumer_encrypt_fields: &["secret"],
    consumer_key: Some("key"),
    check,
    build,
    ..Spec::PLAIN
};

fn check(conf: &Value, kind: SchemaType) -> Result<(), String> {
    if kind != SchemaType::Consumer {
        return Ok(());
    }
    let with_secret = token::algorithm(conf).starts_with("HS");
    if with_secret && conf.get("secret").is_none() {
        return Err("property \"secret\" is required when using HS based algorithms".into());
    }
    let is_reference = conf["secret"].as_str().is_some_and(is_secret_ref);
    if conf["base64_secret"] == true && !is_reference && token::secret(conf).is_none() {
        return Err("base64_secret required but the secret is not in base64 format".into());
    }
    if !with_secret && conf.get("public_key").is_none() {
        return Err("missing valid public key".into());
    }
    Ok(())
}

fn build(conf: &Value, build: &Build) -> Built {
    let text = |name: &str| conf[name].as_str().unwrap_or_default();
    let claims = conf["claims_to_verify"].as_array().into_iter().flatten();
    Ok(Rc::new(JwtAuth {
        header: Header::new(text("header").as_bytes()),
        query: text("query").as_bytes().into(),
        cookie: text("cookie").as_bytes().into(),
        hide: conf["hide_credentials"] == true,
        key_claim: text("key_claim_name").into(),
        required: claims.filter_map(Value::as_str).filter_map(TimeClaim::of).collect(),
        shows_payload: conf["store_in_ctx"] == true,
        admission: Admission::new(SPEC.name, "Bearer", conf),
        verified: build.host.shared.get(),
    }))
}

struct JwtAuth {
    header: Header,
    query: Box<[u8]>,
    cookie: Box<[u8]>,
    hide: bool,
    /// The claim with the consumer's key.
    key_claim: Box<str>,
    required: Vec<TimeClaim>,
    /// `store_in_ctx`
    shows_payload: bool,
    admission: Admission,
    verified: Rc<VerifiedTokens>,
}

/// Where the token stood.
#[derive(Clone, Copy)]
enum Place {
    Header,
    Query,
    Cookie,
}

impl Plugin for JwtAuth {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        let (outcome, payload, place) = match self.token(ex) {
            None => (Err("Missing JWT token in request"), None, None),
            Some((text, place)) => {
                let found = self.find(&text, host);
                let payload =
                    found.as_ref().ok().filter(|_| self.shows_payload).map(|(_, token)| token.clone());
                (found.map(|(known, _)| known), payload, Some(place))
            }
        };
        // whether it is good or not
        if let Some(place) = place.filter(|_| self.hide) {
            self.remove_token(ex, place);
        }
        if let Some(token) = payload {
            ex.set_var("jwt_auth_payload", token.claims.to_string());
        }
        self.admission.decide(ex, host, outcome).map_or(Step::Next, Step::Reply)
    }
}

impl JwtAuth {
    /// The token of the request, and where it stands. One that is no text is empty.
    fn token<'a>(&self, ex: &'a Exchange) -> Option<(Cow<'a, [u8]>, Place)> {
        if let Some(value) = self.header.of(ex) {
            let bare = value.strip_prefix(b"Bearer ").or_else(|| value.strip_prefix(b"bearer "));
            return Some((bare.unwrap_or(value).into(), Place::Header));
        }
        match place::arg(ex, &self.query) {
            Arg::Text(text) => Some((text, Place::Query)),
            Arg::NoText => Some((Cow::Borrowed(b""), Place::Query)),
            Arg::Missing => ex.cookie(&self.cookie).map(|text| (text, Place::Cookie)),
        }
    }

    fn remove_token(&self, ex: &mut Exchange, place: Place) {
        match place {
            Place::Header => self.header.remove(ex),
            Place::Query => place::remove_arg(ex, &self.query),
            Place::Cookie => remove_cookie(ex, &self.cookie),
        }
    }

    /// The consumer whose key signed the token.
    fn find(&self, text: &[u8], host: &Host) -> Result<(Rc<Known>, Rc<Token>), &'static str> {
        let before = self.verified.get(text);
        let token = match &before {
            Some(before) => before.token.clone(),
            None => Rc::new(Token::parse(text).map_err(|error| refused("JWT token invalid", error))?),
        };
        let key = match token.claims.get(&*self.key_claim) {
            None | Some(Value::Bool(false)) => return Err("missing user key in JWT token"),
            Some(key) => key.as_str(),
        };
        let found = key
            .and_then(|key| host.consumers.find(SPEC.name, key))
            .ok_or_else(|| refused("Invalid user key in JWT token", "failed to find consumer"))?;
        let terms = found.auth.compiled(Terms::of);
        if !before.is_some_and(|before| Rc::ptr_eq(&before.credential, &found.auth)) {
            let expected = token::algorithm(found.auth.conf());
            if token.alg.as_deref() != Some(expected) {
                return Err(refused("failed to verify jwt", "algorithm mismatch"));
            }
            let key = &terms.key;
            if let Key::Broken(error) = key {
                return Err(refused("failed to verify jwt", error));
            }
            if !token.is_signed_by(text, key) {
                return Err(refused("failed to verify jwt", "signature mismatch"));
            }
            self.verified.put(text, Verified { token: token.clone(), credential: found.auth.clone() });
        }
        (token.times.check(&self.required, (host.unix_s)(), terms.grace_s))
            .map_err(|error| refused("failed to verify jwt", &error))?;
        Ok((found.known, token))
    }
}

/// The reason is for the log; it holds neither the token nor a key.
fn refused(answer: &'static str, reason: &str) -> &'static str {
    log::warn!("{answer}: {reason}");
    answer
}

/// Takes one cookie out of the request and leaves the others as they are.
fn remove_cookie(ex: &mut Exchange, name: &[u8]) {
    let headers = &mut ex.req.head.headers;
    let pairs = headers.all_named(b"Cookie").flat_map(|line| line.split(|b| *b == b';'));
    let is_other = |pair: &&[u8]| {
        let found = pair.split(|b| *b == b'=').next().unwrap_or_default();
        found.trim_ascii() != name && !pair.is_empty()
    };
    let rest: Vec<&[u8]> = pairs.map(<[u8]>::trim_ascii).filter(is_other).collect();
    let rest = rest.join(&b"; "[..]);
    headers.remove_named(b"Cookie");
    if !rest.is_empty() {
        headers.set(b"Cookie", &rest);
    }
}

#[cfg(test)]
mod tests;
