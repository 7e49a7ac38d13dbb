//! `response-rewrite`: changes the answer: status, headers, and the body as a whole or by regex.
//!
//! ```json
//! {
//!   "uri": "/api/*",
//!   "plugins": {
//!     "response-rewrite": {
//!       "vars": [["status", "==", 200]],
//!       "headers": {
//!         "add": ["Set-Cookie: a=1", "X-Client: $remote_addr"],
//!         "set": { "X-Server-Id": 3 },
//!         "remove": ["X-Powered-By"]
//!       },
//!       "filters": [{ "regex": "secret", "scope": "global", "replace": "******" }]
//!     }
//!   }
//! }
//! ```
//!
//! Phases: header_filter, body_filter (apisix/plugins/response-rewrite.lua). A body that is given replaces the
//! upstream's at its first piece, so that the client does not wait for the rest; filters hold the body
//! back to its end, or to `max_resp_body_size`, where it is cut.
//!
//! Filters read `gzip` and `br` answers, too, which then leave as plain text; what is decoded is bounded by
//! `max_resp_body_size` as well.
//!
//! Known differences: an answer in another encoding passes unchanged, with its `Content-Encoding`; APISIX drops
//! the header. A filter that fails leaves the body as it was.

use std::rc::Rc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::exchange::{BodyPiece, Exchange};
use crate::expr::{Expr, Pattern, Replacement, Template};
use crate::model::schema::{is_secret_ref, number_text};
use crate::plugin::{Build, Host, Phase, Phases, Plugin, SchemaType, Spec};
use crate::plugins::kit::base64;
use crate::plugins::kit::content_coding::{self, decode};
use crate::plugins::kit::headers::has_operations;
use crate::reactor::Chunk;
use crate::wire::{Name, uri};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "response-rewrite",
    priority: 899,
    schema: include_str!("response_rewrite.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

#[derive(Deserialize)]
struct Conf {
    max_resp_body_size: usize,
    headers: Option<Map<String, Value>>,
    body: Option<String>,
    #[serde(default)]
    body_base64: bool,
    status_code: Option<u16>,
    vars: Option<Value>,
    #[serde(default)]
    filters: Vec<FilterConf>,
}

#[derive(Deserialize)]
struct FilterConf {
    regex: String,
    scope: String,
    replace: String,
    options: String,
}

struct ResponseRewrite {
    vars: Option<Expr>,
    status: Option<u16>,
    headers: Headers,
    body: NewBody,
    max_body_bytes: usize,
}

enum NewBody {
    /// The answer's own.
    Same,
    /// `body`
    Fixed(Chunk),
    /// `filters`
    Filtered(Vec<Filter>),
}

struct Filter {
    regex: String,
    /// `Err`: what compiling said, which APISIX notices only when an answer comes.
    compiled: Result<(Pattern, Replacement), String>,
    all: bool,
}

/// Changes of the answer's headers, in APISIX's order: add, set, remove.
#[derive(Default)]
struct Headers {
    add: Vec<(Box<[u8]>, Template)>,
    set: Vec<(Box<[u8]>, Template)>,
    remove: Vec<Box<[u8]>>,
}

/// What the header filter decided about the body of this answer.
enum State {
    Untouched,
    Replaced,
    /// What has come of it, and its `Content-Encoding`, which its head has no longer.
    Held {
        body: Vec<u8>,
        coding: Option<Box<[u8]>>,
    },
}

/// The schema lets any value be `headers`. Of lists APISIX says the text here; scalars raise a Lua error there.
fn check_headers(headers: &Value) -> Result<(), String> {
    let headers = match headers {
        Value::Object(headers) if has_operations(headers) => return Ok(()),
        Value::Object(headers) => headers,
        Value::Array(list) if list.is_empty() => return Ok(()),
        Value::Bool(false) => return Ok(()),
        _ => return Err("invalid type as header field".into()),
    };
    for (name, value) in headers {
        if !value.is_string() && !value.is_number() {
            return Err("invalid type as header value".into());
        }
        if name.is_empty() {
            return Err("invalid field length in header".into());
        }
    }
    Ok(())
}

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    conf.get("headers").map_or(Ok(()), check_headers)?;
    let body = conf.get("body").and_then(Value::as_str).unwrap_or_default();
    if conf["body_base64"] == true
        && !is_secret_ref(body)
        && (body.is_empty() || base64::decode(body.as_bytes()).is_none())
    {
        return Err("invalid base64 content".into());
    }
    if let Some(vars) = conf.get("vars") {
        Expr::compile(vars).map_err(|error| format!("failed to validate the 'vars' expression: {error}"))?;
    }
    for filter in conf.get("filters").and_then(Value::as_array).into_iter().flatten() {
        let field = |name: &str| filter[name].as_str().unwrap_or_default();
        // only unknown option letters are found here (re_match_compile throws for nothing else)
        Pattern::compile("", field("options"))
            .map_err(|error| format!("regex \"{}\" validation failed: {error}", field("regex")))?;
    }
    Ok(())
}

fn build(conf: &Value, _: &Build) -> Result<Rc<dyn Plugin>, String> {
    let conf: Conf = Deserialize::deserialize(conf).map_err(|error| error.to_string())?;
    let body = match conf.body {
        _ if !conf.filters.is_empty() => {
            NewBody::Filtered(conf.filters.into_iter().map(Filter::of).collect())
        }
        Some(body) if conf.body_base64 => {
            let bytes = base64::decode(body.as_bytes()).ok_or("invalid base64 content")?;
            NewBody::Fixed(Chunk::from_vec(bytes))
        }
        Some(body) => NewBody::Fixed(Chunk::from_vec(body.into_bytes())),
        None => NewBody::Same,
    };
    let headers = conf.headers.as_ref().map_or(Ok(Headers::default()), Headers::compile);
    Ok(Rc::new(ResponseRewrite {
        vars: conf.vars.as_ref().map(Expr::compile).transpose()?,
        status: conf.status_code,
        headers: headers.unwrap_or_else(|line| {
            log::error!("failed to create header operation: {line}");
            Headers::default()
        }),
        body,
        max_body_bytes: conf.max_resp_body_size,
    }))
}

impl Filter {
    fn of(conf: FilterConf) -> Filter {
        let pattern = Pattern::compile(&conf.regex, &conf.options);
        let compiled = pattern.and_then(|pattern| Ok((pattern, Replacement::compile(&conf.replace)?)));
        Filter { regex: conf.regex, compiled, all: conf.scope != "once" }
    }

    fn apply(&self, body: &mut Vec<u8>) {
        let replaced = match &self.compiled {
            Ok((pattern, by)) => pattern.replace(body, by, self.all),
            Err(error) => Err(error.clone()),
        };
        match replaced {
            Ok(Some(new)) => *body = new,
            Ok(None) => {}
            Err(error) => log::error!("regex \"{}\" substitutes failed:{error}", self.regex),
        }
    }
}

impl Headers {
    /// `Err`: a line of `add` that is no header, for which APISIX leaves out all changes of headers.
    fn compile(conf: &Map<String, Value>) -> Result<Headers, String> {
        if !has_operations(conf) {
            return Ok(Headers { set: fields(conf), ..Headers::default() });
        }
        let texts = |key: &str| {
            let list = conf.get(key).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).collect::<Vec<_>>()
        };
        let add = texts("add").into_iter().map(|line| field(line).ok_or_else(|| line.to_owned()));
        Ok(Headers {
            add: add.collect::<Result<_, String>>()?,
            set: conf.get("set").and_then(Value::as_object).map(fields).unwrap_or_default(),
            remove: texts("remove").into_iter().map(dashed).collect(),
        })
    }

    fn apply(&self, ex: &mut Exchange) {
        // an empty value is no header, as with nginx
        for (name, template) in &self.add {
            let value = rendered(template, ex);
            if !value.is_empty() {
                ex.resp_headers().add(name, &value);
            }
        }
        for (name, template) in &self.set {
            let value = rendered(template, ex);
            match value.is_empty() {
                true => ex.resp_headers().remove_named(name),
                false => drop_refused(ex.resp_headers().set(name, &value), name),
            }
        }
        for name in &self.remove {
            ex.resp_headers().remove_named(name);
        }
    }
}

/// A header whose name would break the message is left out.
fn drop_refused(written: bool, name: &[u8]) {
    if !written {
        log::error!("header {} cannot be set: invalid name", String::from_utf8_lossy(name));
    }
}

/// A name as it is written: OpenResty makes `-` of `_` in the names of headers that Lua sets on an answer
/// (`lua_transform_underscores_in_response_headers`).
fn dashed(name: &str) -> Box<[u8]> {
    name.replace('_', "-").into_bytes().into()
}

/// `Name: value`, where the value has no colon.
fn field(line: &str) -> Option<(Box<[u8]>, Template)> {
    let (name, value) = line.split_once(':')?;
    let (name, value) = (name.trim_end(), value.trim_start());
    let right = !name.is_empty() && !name.contains(char::is_whitespace) && !value.is_empty();
    (right && !value.contains(':')).then(|| (dashed(name), Template::compile(value)))
}

fn fields(conf: &Map<String, Value>) -> Vec<(Box<[u8]>, Template)> {
    let template = |value: &Value| match value {
        Value::String(text) => Template::compile(text),
        value => Template::compile(&number_text(value.as_f64().unwrap_or_default())),
    };
    conf.iter().map(|(name, value)| (dashed(name), template(value))).collect()
}

fn rendered(template: &Template, ex: &Exchange) -> Vec<u8> {
    let mut value = Vec::new();
    template.render(ex, &mut value);
    uri::header_value(value)
}

impl Plugin for ResponseRewrite {
    fn phases(&self) -> Phases {
        match self.body {
            NewBody::Same => Phases::of(&[Phase::HeaderFilter]),
            _ => Phases::of(&[Phase::HeaderFilter, Phase::BodyFilter]),
        }
    }

    fn header_filter(&self, ex: &mut Exchange, _: &Host, slot: u16) {
        if !self.vars.as_ref().is_none_or(|vars| vars.eval(ex)) {
            return;
        }
        if let Some(status) = self.status {
            ex.resp.head.set_status(status);
        }
        match &self.body {
            NewBody::Same => {}
            NewBody::Fixed(_) => {
                forget_body(ex);
                *ex.slot(slot, || State::Untouched) = State::Replaced;
            }
            NewBody::Filtered(_) => {
                let coding = ex.resp_headers().get(Name::ContentEncoding).map(Box::from);
                match coding {
                    Some(coding) if !content_coding::is_known(&coding) => log::error!(
                        "filters may not work as expected due to unsupported compression encoding type: {}",
                        String::from_utf8_lossy(&coding)
                    ),
                    coding => {
                        forget_body(ex);
                        *ex.slot(slot, || State::Untouched) = State::Held { body: Vec::new(), coding };
                    }
                }
            }
        }
        self.headers.apply(ex);
    }

    fn body_filter(&self, ex: &mut Exchange, piece: &mut BodyPiece, slot: u16) {
        match (ex.slot(slot, || State::Untouched), &self.body) {
            (State::Replaced, NewBody::Fixed(body)) => {
                piece.data = body.clone();
                piece.last = true;
            }
            (State::Held { body, coding }, NewBody::Filtered(filters)) => {
                body.extend_from_slice(&piece.data);
                piece.data = Chunk::empty();
                if body.len() >= self.max_body_bytes {
                    body.truncate(self.max_body_bytes);
                    piece.last = true;
                }
                if piece.last {
                    let body = std::mem::take(body);
                    piece.data = Chunk::from_vec(self.filtered(filters, body, coding.as_deref()));
                }
            }
            _ => {}
        }
    }
}

impl ResponseRewrite {
    /// A body that cannot be decoded passes as it came, as in APISIX.
    fn filtered(&self, filters: &[Filter], body: Vec<u8>, coding: Option<&[u8]>) -> Vec<u8> {
        let mut plain = match coding.map(|coding| decode(coding, &body, self.max_body_bytes)) {
            None => body,
            Some(Ok(plain)) => plain,
            Some(Err(error)) => {
                log::error!("filters may not work as expected: {error}");
                return body;
            }
        };
        filters.iter().for_each(|filter| filter.apply(&mut plain));
        plain
    }
}

/// The headers that spoke of the body as it was (core/response.lua `clear_header_as_body_modified`).
fn forget_body(ex: &mut Exchange) {
    for name in [Name::ContentLength, Name::ContentEncoding, Name::LastModified, Name::Etag] {
        ex.resp_headers().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::Chain;
    use crate::plugin::chain::Item;
    use crate::plugin::meta::Meta;
    use crate::plugins::kit::content_coding::tests::{BROTLI, gzip};
    use crate::plugins::kit::test;

    const ANSWER: [(&str, &str); 4] =
        [("Content-Length", "12"), ("ETag", "\"1\""), ("X-Up", "1"), ("X-Old", "2")];

    /// The exchange after the header filter, and what is left of the body `pieces`.
    fn rewritten(conf: Value, headers: &[(&str, &str)], pieces: &[&[u8]]) -> (Exchange, String) {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange("GET /hello?name=joe HTTP/1.1\nHost: a.com");
        test::answer(&mut ex, 200, headers);
        plugin.header_filter(&mut ex, &host, 0);
        let body = if plugin.phases().has(Phase::BodyFilter) {
            test::filtered(&plugin, &mut ex, pieces)
        } else {
            "same".into()
        };
        (ex, body)
    }

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({}), "accepted"),
            (json!({ "body": "aGVsbG8", "body_base64": true, "status_code": 201 }), "accepted"),
            (json!({ "headers": { "X-A": "v", "X-B": 1 } }), "accepted"),
            (json!({ "filters": [{ "regex": "(", "replace": "" }] }), "accepted"),
            (
                json!({ "status_code": 599 }),
                r#"property "status_code" validation failed: expected 599 to be at most 598"#,
            ),
            (
                json!({ "body": 2 }),
                r#"property "body" validation failed: wrong type: expected string, got number"#,
            ),
            (json!({ "headers": { "": "v" } }), "invalid field length in header"),
            (json!({ "headers": { "X-A": ["v"] } }), "invalid type as header value"),
            (json!({ "headers": ["X-A"] }), "invalid type as header field"),
            (json!({ "headers": "X-A" }), "invalid type as header field"),
            (json!({ "headers": [] }), "accepted"),
            (json!({ "headers": false }), "accepted"),
            (json!({ "body": "1", "body_base64": true }), "invalid base64 content"),
            (json!({ "body_base64": true }), "invalid base64 content"),
            (json!({ "vars": [[]] }), "failed to validate the 'vars' expression: rule too short"),
            (
                json!({ "filters": [] }),
                r#"property "filters" validation failed: expect array to have at least 1 items"#,
            ),
            (
                json!({ "filters": [{ "regex": "a" }] }),
                r#"property "filters" validation failed: failed to validate item 1: property "replace" is required"#,
            ),
            (
                json!({ "filters": [{ "regex": "hello", "replace": "a", "options": "h" }] }),
                r#"regex "hello" validation failed: unknown flag "h" (flags "h")"#,
            ),
            (
                json!({ "headers": { "remove": ["a:b"] } }),
                r#"property "headers" validation failed: object matches none of the required"#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
        let both = json!({ "body": "a", "filters": [{ "regex": "a", "replace": "b" }] });
        let said = test::check(&SPEC, SchemaType::Plain, both);
        assert!(said.ends_with("value wasn't supposed to match schema"), "{said}");
    }

    #[test]
    fn a_meta_filter_is_judged_once_so_the_body_goes_with_the_status_it_changed() {
        let host = test::host();
        let conf =
            json!({ "status_code": 200, "body": "sorry", "_meta": { "filter": [["status", "==", 500]] } });
        let item = Item {
            spec: &SPEC,
            plugin: test::build(&SPEC, &host, conf.clone()),
            meta: Rc::new(Meta::of(&conf, SPEC.name)),
            reads_body: false,
            from_consumer: false,
        };
        let chain = Chain::new(vec![item], 0);
        for (upstream, seen, body) in [(500, 200, "sorry"), (404, 404, "trouble")] {
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a.com");
            test::answer(&mut ex, upstream, &[("Content-Length", "7")]);
            chain.header_filter(&mut ex, &host);
            let mut piece = BodyPiece { data: Chunk::from_vec(b"trouble".to_vec()), last: true };
            chain.body_filter(&mut ex, &mut piece);
            assert_eq!((ex.resp.head.status, &*piece.data), (seen, body.as_bytes()));
        }
    }

    #[test]
    fn headers_and_status() {
        let conf = json!({ "status_code": 302, "headers": {
            "add": ["X-Up: $arg_name", "Cache-Control : max-age=1, must-revalidate", "X-No: $arg_none"],
            "set": { "X_N": 1.5, "Location": "/$uri", "X-Old": "$arg_none" }, "remove": ["etag"] } });
        let (mut ex, body) = rewritten(conf, &ANSWER, &[b"hello"]);
        assert_eq!((ex.resp.head.status, &*body), (302, "same"));
        let mut header = |name| test::values(ex.resp_headers(), name);
        assert_eq!(header("X-Up"), "1|joe");
        assert_eq!(header("Cache-Control"), "max-age=1, must-revalidate");
        assert_eq!(header("Location"), "//hello");
        assert_eq!(header("X-N"), "1.5");
        for gone in ["X-Old", "X-No", "ETag"] {
            assert_eq!(header(gone), "-", "{gone}");
        }
        assert_eq!(header("Content-Length"), "12", "the body is the same");
    }

    #[test]
    fn line_ends_in_variables_are_escaped_in_headers() {
        let conf = json!({ "headers": { "set": { "X-A": "$arg_a" } } });
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange("GET /?a=1%0d%0aSet-Cookie:%20a HTTP/1.1\nHost: a");
        ex.resp_headers().set(b"X-A", b"the upstream's");
        plugin.header_filter(&mut ex, &host, 0);
        assert_eq!(test::values(ex.resp_headers(), "X-A"), "1%0D%0ASet-Cookie: a");
    }

    #[test]
    fn a_line_that_is_no_header_drops_all_changes_of_headers() {
        let conf = json!({ "headers": { "add": ["a b: c"], "set": { "X-A": "1" } } });
        let (mut ex, _) = rewritten(conf, &ANSWER, &[]);
        assert_eq!(test::values(ex.resp_headers(), "X-A"), "-");
    }

    #[test]
    fn bodies() {
        let filter = |regex: &str, scope: &str, replace: &str| json!({ "filters": [{ "regex": regex, "scope": scope, "replace": replace }] });
        let cut = json!({ "max_resp_body_size": 5, "filters": [{ "regex": "hello", "replace": "HELLO" }] });
        for (conf, expected) in [
            (json!({ "body": "new" }), "new"),
            (json!({ "body": "" }), ""),
            (json!({ "body": "aGVsbG8K", "body_base64": true }), "hello\n"),
            (filter("l", "once", "L"), "heLlo world"),
            (filter("l", "global", ""), "heo word"),
            (filter("o w", "once", "[$0]"), "hell[o w]orld"),
            (filter("(o)( )", "once", "$2$1"), "hell oworld"),
            (filter("nothing", "global", "x"), "hello world"),
            (filter("(", "global", "x"), "hello world"),
            (cut, "HELLO"),
            (
                json!({ "filters": [{ "regex": "hello", "replace": "a" }, { "regex": "a w", "replace": "b" }] }),
                "borld",
            ),
            (json!({ "body": "new", "vars": [["status", "==", 200]] }), "new"),
            (json!({ "body": "new", "vars": [["status", "==", 404]] }), "hello world"),
        ] {
            let untouched = conf["vars"][0][2] == 404;
            let (mut ex, body) = rewritten(conf.clone(), &ANSWER, &[b"hel", b"lo wor", b"ld"]);
            assert_eq!(body, expected, "{conf}");
            let length = test::values(ex.resp_headers(), "Content-Length");
            assert_eq!(length, if untouched { "12" } else { "-" }, "{conf}");
        }
    }

    #[test]
    fn an_encoded_body_is_decoded_and_filtered() {
        let conf = || json!({ "filters": [{ "regex": "hello", "replace": "HELLO" }] });
        let gzip = gzip(b"hello world");
        for (coding, body) in [("gzip", &*gzip), ("br", BROTLI)] {
            let (first, second) = body.split_at(4);
            let (mut ex, text) = rewritten(conf(), &[("Content-Encoding", coding)], &[first, second]);
            assert_eq!(text, "HELLO world", "{coding}");
            assert_eq!(test::values(ex.resp_headers(), "Content-Encoding"), "-");
            let mut short = conf();
            short["max_resp_body_size"] = json!(body.len() + 1);
            let (_, text) = rewritten(short, &[("Content-Encoding", coding)], &[body]);
            assert!(text.starts_with("HELLO"), "{coding}");
        }
        let (_, text) = rewritten(conf(), &[("Content-Encoding", "gzip")], &[b"hello"]);
        assert_eq!(text, "hello", "not what it says: it passes as it came");
    }

    #[test]
    fn a_body_in_an_unknown_encoding_is_not_filtered() {
        let encoded = [("Content-Encoding", "x-unknown")];
        let conf = json!({ "filters": [{ "regex": "hello", "replace": "HELLO" }] });
        let (mut ex, body) = rewritten(conf, &encoded, &[b"hel", b"lo"]);
        assert_eq!(body, "hello");
        assert_eq!(test::values(ex.resp_headers(), "Content-Encoding"), "x-unknown");
        let (mut ex, body) = rewritten(json!({ "body": "new" }), &encoded, &[b"hel", b"lo"]);
        assert_eq!(body, "new");
        assert_eq!(test::values(ex.resp_headers(), "Content-Encoding"), "-");
    }
}
