//! `csrf`: a double-submit cookie (apisix/plugins/csrf.lua). Every answer sets a signed token as a cookie;
//! requests with other methods than GET, HEAD and OPTIONS must bring it back in a header of the same name.
//!
//! ```json
//! {
//!   "uri": "/account/*",
//!   "plugins": {
//!     "csrf": { "key": "edd1c9f034335f136f87ad84b625c8f1", "expires": 3600, "name": "apisix-csrf-token" }
//!   }
//! }
//! ```
//!
//! `key` is stored encrypted. A token is Base64 of `{"random", "expires", "sign"}`, where `expires` is when it
//! was made and `sign` the SHA-256 of both with the key. `expires: 0` never lets it grow old.
//!
//! Phases: access, header_filter.
//!
//! Known differences: a token whose fields are of a wrong type is refused with 401 (a Lua error, 500, in
//! APISIX); signatures are compared in constant time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::base64::Engine;
use ::base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::exchange::{Exchange, Reply, Vars};
use crate::model::schema::number_text;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, Spec, Step};
use crate::plugins::kit::base64;
use crate::wire::hex;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "csrf",
    priority: 2980,
    schema: r#"{
        "type": "object",
        "properties": {
            "key": {"type": "string"},
            "expires": {"type": "integer", "default": 7200},
            "name": {"type": "string", "default": "apisix-csrf-token"}
        },
        "encrypt_fields": ["key"],
        "required": ["key"]
    }"#,
    encrypt_fields: &["key"],
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, _: &Build) -> Built {
    let name = conf["name"].as_str().unwrap_or("apisix-csrf-token");
    Ok(Rc::new(Csrf {
        key: conf["key"].as_str().unwrap_or_default().into(),
        expires_s: conf["expires"].as_i64().unwrap_or(7200),
        name: name.into(),
        cookie: format!("cookie_{name}").into(),
        expires: RefCell::default(),
    }))
}

struct Csrf {
    key: Box<str>,
    expires_s: i64,
    name: Box<str>,
    /// The variable of its cookie.
    cookie: Box<str>,
    /// A second and its date, as the cookies of that second have it.
    expires: RefCell<(i64, String)>,
}

impl Plugin for Csrf {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access, Phase::HeaderFilter])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        if matches!(ex.req.head.method_text(), b"GET" | b"HEAD" | b"OPTIONS") {
            return Step::Next;
        }
        match self.verify(ex, unix_s()) {
            Ok(()) => Step::Next,
            Err(error) => Step::Reply(Reply::error_msg(401, error)),
        }
    }

    fn header_filter(&self, ex: &mut Exchange, _: &Host, _: u16) {
        let now_s = unix_s();
        let until_s = now_s + self.expires_s;
        let mut expires = self.expires.borrow_mut();
        if expires.0 != until_s || expires.1.is_empty() {
            *expires = (until_s, cookie_time(until_s));
        }
        let mut cookie = Vec::with_capacity(COOKIE_BYTES);
        cookie.extend_from_slice(self.name.as_bytes());
        cookie.push(b'=');
        self.write_token(&random(), now_s, &mut cookie);
        cookie.extend_from_slice(b";path=/;SameSite=Lax;Expires=");
        cookie.extend_from_slice(expires.1.as_bytes());
        ex.resp_headers().add(b"Set-Cookie", &cookie);
    }
}

/// As long as a cookie usually is, bytes: its memory is asked for at once.
const COOKIE_BYTES: usize = 320;

fn unix_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

impl Csrf {
    fn verify(&self, ex: &Exchange, now_s: i64) -> Result<(), &'static str> {
        let sent = ex.req_headers().get_named(self.name.as_bytes()).filter(|token| !token.is_empty());
        let sent = sent.ok_or("no csrf token in headers")?;
        let cookie = ex.var(&self.cookie).ok_or("no csrf cookie")?;
        if *sent != *cookie {
            return Err("csrf token mismatch");
        }
        self.check(sent, now_s).map_err(|reason| {
            log::error!("{reason}");
            "Failed to verify the csrf token signature"
        })
    }

    fn check(&self, token: &[u8], now_s: i64) -> Result<(), &'static str> {
        let text = BASE64.decode(token).map_err(|_| "csrf token base64 decode error")?;
        let token: Value = serde_json::from_slice(&text).map_err(|_| "decode token error")?;
        let random = lua_text(&token["random"]).ok_or("no random in token")?;
        let made = token["expires"].as_f64().ok_or("no expires in token")?;
        if self.expires_s > 0 && now_s as f64 - made > self.expires_s as f64 {
            return Err("token has expired");
        }
        let mut sign = Vec::new();
        self.write_sign(&random, &number_text(made), &mut sign);
        let given = token["sign"].as_str().unwrap_or_default();
        aws_lc_rs::constant_time::verify_slices_are_equal(&sign, given.as_bytes())
            .map_err(|_| "Invalid signatures")
    }

    /// Appends a token that is made now.
    fn write_token(&self, random: &str, now_s: i64, out: &mut Vec<u8>) {
        let mut made = itoa::Buffer::new();
        let made = made.format(now_s);
        let mut token = Vec::with_capacity(TOKEN_BYTES);
        for part in [r#"{"random":"#, random, r#","expires":"#, made, r#","sign":""#] {
            token.extend_from_slice(part.as_bytes());
        }
        self.write_sign(random, made, &mut token);
        token.extend_from_slice(br#""}"#);
        base64::append(&token, out);
    }

    /// Appends the hexadecimal SHA-256 of a token's fields with the key.
    fn write_sign(&self, random: &str, made: &str, out: &mut Vec<u8>) {
        let mut text = Vec::with_capacity(SIGNED_BYTES);
        for part in ["{expires:", made, ",random:", random, ",key:", &self.key, "}"] {
            text.extend_from_slice(part.as_bytes());
        }
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
        hex::append_lower(digest.as_ref(), out);
    }
}

/// As long as a text that is signed usually is, bytes: its memory is asked for at once.
const SIGNED_BYTES: usize = 192;

/// A token before Base64, bytes: two numbers of at most 20 digits, the signature, and the names.
const TOKEN_BYTES: usize = 160;

/// A number between 0.1 and 1 with 14 digits: as many as Lua prints of one, so that it reads back as it was.
fn random() -> String {
    let digits = fastrand::u64(10_000_000_000_000..100_000_000_000_000);
    ["0.", itoa::Buffer::new().format(digits).trim_end_matches('0')].concat()
}

/// A number or a text as Lua joins it to another text.
fn lua_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => number.as_f64().map(number_text),
        _ => None,
    }
}

/// The date of a cookie as nginx writes it: two digits for the year while browsers of old understand them.
fn cookie_time(unix_s: i64) -> String {
    let time = jiff::Timestamp::from_second(unix_s).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC);
    let year = if time.year() > 2037 { "%Y" } else { "%y" };
    time.strftime(&format!("%a, %d-%b-{year} %H:%M:%S GMT")).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::ReplyBody;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    fn csrf(expires_s: i64) -> Csrf {
        let (name, cookie) = ("csrf".into(), "cookie_csrf".into());
        Csrf { key: "userkey".into(), expires_s, name, cookie, expires: RefCell::default() }
    }

    #[test]
    fn accepts_and_refuses() {
        let said = |conf| test::check(&SPEC, SchemaType::Plain, conf);
        assert_eq!(said(json!({ "key": "a", "expires": 0 })), "accepted");
        assert_eq!(said(json!({})), r#"property "key" is required"#);
        let number = r#"property "expires" validation failed: wrong type: expected integer, got string"#;
        assert_eq!(said(json!({ "key": "a", "expires": "1" })), number);
    }

    fn token(csrf: &Csrf, random: &str, made_s: i64) -> String {
        let mut token = Vec::new();
        csrf.write_token(random, made_s, &mut token);
        String::from_utf8(token).unwrap()
    }

    #[test]
    fn a_token_holds_while_it_is_young_and_whole() {
        let csrf = csrf(60);
        let token = token(&csrf, "0.0576", 1_000);
        assert_eq!(csrf.check(token.as_bytes(), 1_060), Ok(()));
        assert_eq!(csrf.check(token.as_bytes(), 1_061), Err("token has expired"));
        assert_eq!(self::csrf(0).check(token.as_bytes(), i64::MAX), Ok(()));
        let of = |text: &str| BASE64.encode(text).into_bytes();
        for (token, error) in [
            (b"%%".to_vec(), "csrf token base64 decode error"),
            (of("no json"), "decode token error"),
            (of("[1]"), "no random in token"),
            (of(r#"{"random":{},"expires":1000}"#), "no random in token"),
            (of(r#"{"random":1}"#), "no expires in token"),
            (of(r#"{"random":1,"expires":1000,"sign":"00"}"#), "Invalid signatures"),
        ] {
            assert_eq!(csrf.check(&token, 1_000), Err(error));
        }
    }

    #[test]
    fn every_token_that_is_made_reads_back() {
        let csrf = csrf(60);
        for _ in 0..1000 {
            let token = token(&csrf, &random(), 1_000);
            assert_eq!(csrf.check(token.as_bytes(), 1_000), Ok(()), "{token}");
        }
        // as APISIX signs it: SHA-256 of the text
        let mut sign = Vec::new();
        csrf.write_sign("0.5", "1000", &mut sign);
        assert_eq!(sign, b"2ceac513c2cf12a5a053a9921549f3ed6baabec67522be7b533e4547e1944972");
    }

    #[test]
    fn requests_that_change_something_need_it() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({ "key": "userkey", "name": "csrf" }));
        let token = token(&csrf(7200), "0.5", unix_s());
        let run = |text: &str| {
            let mut ex = test::exchange(text);
            match test::run(&plugin, Phase::Access, &mut ex, &host) {
                None => "passed".to_owned(),
                Some(Reply { status: 401, body: ReplyBody::Field("error_msg", error) }) => {
                    error.into_string()
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(run("GET / HTTP/1.1\nHost: a"), "passed");
        let post = "POST / HTTP/1.1\nHost: a\n";
        assert_eq!(run(post), "no csrf token in headers");
        assert_eq!(run(&format!("{post}csrf: {token}")), "no csrf cookie");
        assert_eq!(run(&format!("{post}csrf: x\nCookie: csrf={token}")), "csrf token mismatch");
        let wrong = "Failed to verify the csrf token signature";
        assert_eq!(run(&format!("{post}csrf: x\nCookie: csrf=x")), wrong);
        assert_eq!(run(&format!("{post}csrf: {token}\nCookie: csrf={token}")), "passed");
    }

    #[test]
    fn every_answer_sets_the_cookie() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({ "key": "userkey" }));
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a");
        test::answer(&mut ex, 200, &[]);
        plugin.header_filter(&mut ex, &host, 0);
        let cookie = test::values(ex.resp_headers(), "Set-Cookie");
        assert!(cookie.starts_with("apisix-csrf-token=eyJ"), "{cookie}");
        assert!(cookie.contains(";path=/;SameSite=Lax;Expires="), "{cookie}");
        assert_eq!(cookie_time(1_289_820_455), "Mon, 15-Nov-10 11:27:35 GMT");
        assert_eq!(cookie_time(2_208_988_800), "Sun, 01-Jan-2040 00:00:00 GMT");
    }
}
