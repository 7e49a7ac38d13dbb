//! `redirect`: sends clients to another address, most often to the same one by HTTPS.
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "redirect": { "http_to_https": true }
//!   }
//! }
//! ```
//!
//! ```json
//! {
//!   "uri": "/old/*",
//!   "plugins": {
//!     "redirect": {
//!       "regex_uri": ["^/old/(.*)/(.*)", "/new/$2-$1"],
//!       "ret_code": 301,
//!       "append_query_string": true
//!     }
//!   }
//! }
//! ```
//!
//! One of three says where to: `http_to_https` the same address by HTTPS, `regex_uri` a pattern for the path and what takes
//! its place (a path that does not match goes its way), `uri` an address. They are answered with `ret_code`.
//! `append_query_string` puts the client's arguments behind, `encode_uri` percent-encodes the path.
//!
//! Phase: rewrite (apisix/plugins/redirect.lua). `uri` may have `$variables` and `${variables}`; a `\$` stays as it
//! is. `http_to_https` answers GET and HEAD with 301, others with 308; the port is `plugin_attr.redirect.https_port`,
//! else one of those of `apisix.ssl.listen`, and is left out where it is 443.
//!
//! Known differences: none.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, Reply, Vars};
use crate::expr::{Pattern, Replacement};
use crate::model::schema::is_secret_ref;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::wire::uri;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "redirect",
    priority: 900,
    schema: include_str!("redirect.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

struct Redirect {
    to: To,
    ret_code: u16,
    encode_uri: bool,
    append_query_string: bool,
    rng: RefCell<fastrand::Rng>,
}

enum To {
    /// `uri`
    Uri(Vec<Piece>),
    /// `regex_uri`
    Regex(Pattern, Replacement),
    /// `http_to_https`: with one of these ports.
    Https(Vec<u16>),
    /// `http_to_https: false`
    Nowhere,
}

/// A piece of `uri`.
#[derive(Debug, PartialEq)]
enum Piece {
    Text(Box<[u8]>),
    Variable(Box<str>),
}

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    if let (Some(pattern), Some(by)) = (conf["regex_uri"][0].as_str(), conf["regex_uri"][1].as_str())
        && !is_secret_ref(pattern)
    {
        let tried = if is_secret_ref(by) { "" } else { by };
        Pattern::compile(pattern, "jo")
            .and_then(|_| Replacement::compile(tried))
            .map_err(|error| format!("invalid regex_uri ({pattern}, {by}), err:{error}"))?;
    }
    if conf["http_to_https"] == true && conf["append_query_string"] == true {
        return Err("only one of `http_to_https` and `append_query_string` can be configured.".to_owned());
    }
    Ok(())
}

fn build(conf: &Value, build: &Build) -> Built {
    let regex =
        conf["regex_uri"].as_array().map(|pair| [&pair[0], &pair[1]].map(|v| v.as_str().unwrap_or("")));
    let to = match (conf["uri"].as_str(), regex) {
        (Some(uri), _) => To::Uri(pieces(uri)),
        (None, Some([pattern, by])) => To::Regex(Pattern::compile(pattern, "jo")?, Replacement::compile(by)?),
        (None, None) if conf["http_to_https"] == true => To::Https(https_ports(build.host)),
        (None, None) => To::Nowhere,
    };
    Ok(Rc::new(Redirect {
        to,
        ret_code: conf["ret_code"].as_u64().map_or(302, |code| code.min(999) as u16),
        encode_uri: conf["encode_uri"] == true,
        append_query_string: conf["append_query_string"] == true,
        rng: RefCell::new(fastrand::Rng::new()),
    }))
}

/// Ports of which one is written; none for 443 and for what is no port.
fn https_ports(host: &Host) -> Vec<u16> {
    match host.attr.borrow()["redirect"]["https_port"].as_i64() {
        Some(port) => u16::try_from(port).into_iter().collect(),
        None => host.config.listen.ssl.iter().map(|address| address.port()).collect(),
    }
}

/// `\$name` stays, `$name` and `${name}` are variables, a lone `$` is text, and other backslashes go.
fn pieces(uri: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = uri;
    while let Some(at) = rest.find(['$', '\\']) {
        text.push_str(&rest[..at]);
        let special = &rest[at..];
        if let Some((kept, behind)) = special.strip_prefix("\\$").and_then(name) {
            text.push_str("\\$");
            text.push_str(kept);
            rest = behind;
            continue;
        }
        rest = &special[1..];
        if special.starts_with('\\') {
            continue;
        }
        let braced = rest.strip_prefix('{').and_then(name).and_then(|(n, b)| Some((n, b.strip_prefix('}')?)));
        match braced.or_else(|| name(rest)) {
            Some((variable, behind)) => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text).into_bytes().into()));
                }
                pieces.push(Piece::Variable(variable.into()));
                rest = behind;
            }
            None => text.push('$'),
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into_bytes().into()));
    }
    pieces
}

/// A variable's name, and what is behind it.
fn name(text: &str) -> Option<(&str, &str)> {
    let length = text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    (length > 0).then(|| text.split_at(length))
}

impl Plugin for Redirect {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        let mut status = self.ret_code;
        let to = match &self.to {
            To::Uri(pieces) => render(pieces, ex),
            To::Regex(pattern, by) => match pattern.replace(&ex.req.path, by, false) {
                Ok(Some(new)) => new,
                Ok(None) => return Step::Next,
                Err(error) => {
                    let path = String::from_utf8_lossy(&ex.req.path);
                    log::error!("failed to substitute the uri:{path} by a redirect, error:{error}");
                    return Step::Reply(Reply::page(500));
                }
            },
            To::Https(ports) => {
                let headers = &ex.req.head.headers;
                let forwarded = headers.get_named(b"x-forwarded-proto");
                if forwarded.unwrap_or(ex.facts.scheme.as_bytes()) == b"https" {
                    return Step::Next;
                }
                status = if matches!(ex.req.head.method_text(), b"GET" | b"HEAD") { 301 } else { 308 };
                self.https(ports, ex)
            }
            To::Nowhere => return Step::Next,
        };
        let location = self.finish(to, ex);
        ex.resp_headers().set(b"Location", &uri::encode_controls(&location));
        Step::Reply(Reply::page(status))
    }
}

fn render(pieces: &[Piece], ex: &Exchange) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text),
            Piece::Variable(name) => out.extend_from_slice(&ex.var(name).unwrap_or_default()),
        }
    }
    out
}

impl Redirect {
    /// The same address by HTTPS.
    fn https(&self, ports: &[u16], ex: &Exchange) -> Vec<u8> {
        let port = self.rng.borrow_mut().choice(ports).copied().filter(|port| !matches!(port, 0 | 443));
        let mut to = b"https://".to_vec();
        to.extend_from_slice(&ex.var("host").unwrap_or_default());
        if let Some(port) = port {
            to.extend_from_slice(format!(":{port}").as_bytes());
        }
        to.extend_from_slice(&ex.var("request_uri").unwrap_or_default());
        to
    }

    /// `encode_uri` and `append_query_string`.
    fn finish(&self, to: Vec<u8>, ex: &Exchange) -> Vec<u8> {
        let question = memchr::memchr(b'?', &to);
        let (path, args) = to.split_at(question.unwrap_or(to.len()));
        let mut new = if self.encode_uri { uri::encode(path).into_owned() } else { path.to_vec() };
        new.extend_from_slice(args);
        if self.append_query_string
            && let Some(args) = ex.req.args.as_deref().filter(|args| !args.is_empty())
        {
            new.push(if question.is_some() { b'&' } else { b'?' });
            new.extend_from_slice(args);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    /// Status and Location of a request, or `on` if it goes on.
    fn redirected(conf: Value, request: &str) -> String {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange(request);
        match test::run(&plugin, Phase::Rewrite, &mut ex, &host) {
            Some(reply) => format!("{} {}", reply.status, test::values(ex.resp_headers(), "Location")),
            None => "on".to_owned(),
        }
    }

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        let one_of = "value should match only one schema, but matches";
        for (conf, error) in [
            (json!({}), format!("{one_of} none")),
            (json!({"uri": "/a", "http_to_https": true}), format!("{one_of} both schemas 1 and 3")),
            (
                json!({"http_to_https": true, "append_query_string": true}),
                "only one of `http_to_https` and `append_query_string` can be configured.".into(),
            ),
            (
                json!({"regex_uri": ["^/test/(.*", "/$1"]}),
                "invalid regex_uri (^/test/(.*, /$1), err:pcre2_compile() failed: missing closing parenthesis \
                 in \"^/test/(.*\""
                    .into(),
            ),
            (
                json!({"regex_uri": ["^/a"]}),
                "property \"regex_uri\" validation failed: expect array to have at least 2 items".into(),
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    #[test]
    fn uris_with_variables() {
        let get = "GET /hello?type=1 HTTP/1.1\nHost: a.com";
        for (conf, to) in [
            (json!({"uri": "/test/add", "ret_code": 301}), "301 /test/add"),
            (json!({"uri": "$uri/test/${arg_type}x$no"}), "302 /hello/test/1x"),
            (json!({"uri": "/foo$$uri"}), "302 /foo$/hello"),
            (json!({"uri": r"\$uri/foo$uri\$uri/b\ar"}), r"302 \$uri/foo/hello\$uri/bar"),
            (json!({"uri": "/a", "append_query_string": true}), "302 /a?type=1"),
            (json!({"uri": "/a?b=c", "append_query_string": true}), "302 /a?b=c&type=1"),
            (json!({"uri": "/a b?c d", "encode_uri": true}), "302 /a%20b?c d"),
            (json!({"regex_uri": ["^/(h)(.*)", "http://b.com/$2/$1"]}), "302 http://b.com/ello/h"),
            (json!({"regex_uri": ["^/no", "/x"]}), "on"),
            (json!({"http_to_https": false}), "on"),
        ] {
            assert_eq!(redirected(conf.clone(), get), to, "{conf}");
        }
        let injected = "GET /a%0d%0aSet-Cookie:x HTTP/1.1\nHost: a.com";
        assert_eq!(redirected(json!({"uri": "$uri"}), injected), "302 /a%0D%0ASet-Cookie:x");
    }

    #[test]
    fn to_https() {
        let conf = || json!({"http_to_https": true});
        // the default configuration listens on 9443
        let to = "https://a.com:9443/x?y=1";
        assert_eq!(redirected(conf(), "GET /x?y=1 HTTP/1.1\nHost: a.com"), format!("301 {to}"));
        assert_eq!(redirected(conf(), "POST /x?y=1 HTTP/1.1\nHost: a.com"), format!("308 {to}"));
        let secure = "GET /x HTTP/1.1\nHost: a.com\nX-Forwarded-Proto: https";
        assert_eq!(redirected(conf(), secure), "on");
    }
}
