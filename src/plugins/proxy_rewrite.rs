//! `proxy-rewrite`: changes the request on its way upstream: URI, method, `Host`, headers.
//!
//! ```json
//! {
//!   "uri": "/iresty/*",
//!   "plugins": {
//!     "proxy-rewrite": {
//!       "regex_uri": ["^/iresty/(.*)/(.*)", "/$1-$2"],
//!       "method": "POST",
//!       "host": "iresty.com",
//!       "headers": {
//!         "set": { "X-Api-Version": "v$1", "X-Client": "$remote_addr" },
//!         "add": { "X-Tag": ["a", "b"] },
//!         "remove": ["X-Internal"]
//!       }
//!     }
//!   }
//! }
//! ```
//!
//! `uri` is a new path, with `$variables`. Without it `regex_uri` is a list of patterns for the path, each followed by what
//! the first that matches is replaced by (`$1` is a group). `headers` are added, set and removed in this order; values
//! may have `$variables`, and `$1` of `regex_uri`. The older form of `headers`, names with values, sets them.
//!
//! Phase: rewrite (apisix/plugins/proxy-rewrite.lua). Whatever is configured, the upstream gets the path
//! encoded anew from its normalized form, unless `use_real_request_uri_unsafe` is set.
//!
//! Known differences, all on the safe side: text that a regex captured is never read for `$variables` again;
//! every `?` of a variable in `uri` is escaped, not only the first; with `use_real_request_uri_unsafe`,
//! blanks and control characters that variables bring are escaped. `$uri` keeps the client's path in
//! the access log.

use std::borrow::Cow;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::exchange::{Exchange, Reply, Vars};
use crate::expr::regex::Captures;
use crate::expr::{Pattern, Replacement, Template};
use crate::model::schema::{is_secret_ref, number_text};
use crate::plugin::{Build, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::plugins::kit::headers::has_operations;
use crate::wire::headers::FieldName;
use crate::wire::uri;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "proxy-rewrite",
    priority: 1008,
    schema: include_str!("proxy_rewrite.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

#[derive(Deserialize)]
struct Conf {
    uri: Option<String>,
    #[serde(default)]
    regex_uri: Vec<String>,
    method: Option<String>,
    host: Option<String>,
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    use_real_request_uri_unsafe: bool,
}

struct ProxyRewrite {
    uri: NewUri,
    method: Option<Box<[u8]>>,
    host: Option<Vec<u8>>,
    headers: Headers,
    /// `use_real_request_uri_unsafe`
    real_uri: bool,
}

enum NewUri {
    /// The client's.
    Same,
    /// `uri`
    Template(Template),
    /// `regex_uri`: the first that matches is taken.
    Regex(Vec<Rule>),
}

struct Rule {
    text: String,
    pattern: Pattern,
    by: Replacement,
}

/// Changes of request headers, in APISIX's order: add, set, remove.
#[derive(Default)]
struct Headers {
    add: Vec<(FieldName, Vec<Template>)>,
    set: Vec<(FieldName, Vec<Template>)>,
    remove: Vec<Box<[u8]>>,
}

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    if let Some(pairs) = conf.get("regex_uri").and_then(Value::as_array) {
        if !pairs.len().is_multiple_of(2) {
            return Err("The length of regex_uri should be an even number".into());
        }
        let texts: Vec<&str> = pairs.iter().filter_map(Value::as_str).collect();
        for pair in texts.chunks_exact(2) {
            if !is_secret_ref(pair[0]) {
                let by = if is_secret_ref(pair[1]) { "" } else { pair[1] };
                Rule::compile(pair[0], by)
                    .map_err(|error| format!("invalid regex_uri({}, {}): {error}", pair[0], pair[1]))?;
            }
        }
    }
    match conf.get("headers").and_then(Value::as_object) {
        Some(headers) if !has_operations(headers) => check_plain_headers(headers),
        _ => Ok(()),
    }
}

fn check_plain_headers(headers: &Map<String, Value>) -> Result<(), String> {
    for (name, value) in headers {
        let text = match value {
            Value::String(text) => text.as_str(),
            Value::Number(_) => "",
            _ => return Err("invalid type as header value".into()),
        };
        if name.is_empty() {
            return Err("invalid field length in header".into());
        }
        if !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return Err("invalid field character in header".into());
        }
        if !text.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
            return Err("invalid value character in header".into());
        }
    }
    Ok(())
}

fn build(conf: &Value, _: &Build) -> Result<Rc<dyn Plugin>, String> {
    let conf: Conf = serde::Deserialize::deserialize(conf).map_err(|error| error.to_string())?;
    let uri = match conf.uri {
        Some(uri) => NewUri::Template(Template::compile(&uri)),
        None if conf.regex_uri.is_empty() => NewUri::Same,
        None => {
            let rules = conf.regex_uri.chunks_exact(2).map(|pair| Rule::compile(&pair[0], &pair[1]));
            NewUri::Regex(rules.collect::<Result<_, String>>()?)
        }
    };
    Ok(Rc::new(ProxyRewrite {
        uri,
        method: conf.method.map(|method| method.into_bytes().into()),
        host: conf.host.map(String::into_bytes),
        headers: conf.headers.as_ref().map(Headers::compile).unwrap_or_default(),
        real_uri: conf.use_real_request_uri_unsafe,
    }))
}

impl Rule {
    fn compile(pattern: &str, by: &str) -> Result<Rule, String> {
        let (text, by) = (pattern.to_owned(), Replacement::compile(by));
        Ok(Rule { text, pattern: Pattern::compile(pattern, "jo")?, by: by? })
    }
}

impl Headers {
    fn compile(conf: &Map<String, Value>) -> Headers {
        if !has_operations(conf) {
            return Headers { set: fields(conf), ..Headers::default() };
        }
        let list = |key: &str| conf.get(key).and_then(Value::as_object).map(fields).unwrap_or_default();
        let remove = conf.get("remove").and_then(Value::as_array).into_iter().flatten();
        let remove = remove.filter_map(|name| Some(name.as_str()?.as_bytes().into()));
        Headers { add: list("add"), set: list("set"), remove: remove.collect() }
    }

    fn apply(&self, ex: &mut Exchange, captures: Option<&Captures<'_>>) {
        for (name, templates) in &self.add {
            for value in rendered(templates, ex, captures) {
                ex.req.head.headers.add(name.text(), &value);
            }
        }
        for (name, templates) in &self.set {
            // an empty value takes the header away (lua-nginx-module `ngx.req.set_header`)
            let values = rendered(templates, ex, captures);
            let mut values = values.iter().filter(|value| !value.is_empty());
            match values.next() {
                Some(first) => drop(ex.req.head.headers.set_known(name, first)),
                None => ex.req.head.headers.remove_named(name.text()),
            }
            for value in values {
                ex.req.head.headers.add(name.text(), value);
            }
        }
        for name in &self.remove {
            ex.req.head.headers.remove_named(name);
        }
    }
}

/// Names with the templates of their values.
fn fields(conf: &Map<String, Value>) -> Vec<(FieldName, Vec<Template>)> {
    let values = |value: &Value| match value {
        Value::Array(values) => values.iter().map(value_template).collect(),
        one => vec![value_template(one)],
    };
    conf.iter().map(|(name, value)| (FieldName::new(name.as_bytes()), values(value))).collect()
}

fn value_template(value: &Value) -> Template {
    match value {
        Value::String(text) => Template::compile(&brace_captures(text)),
        value => Template::compile(&number_text(value.as_f64().unwrap_or_default())),
    }
}

/// `$1x` and `${1}x` become `${1}x`: a capture's name ends with its digits, a variable's does not
/// (core/utils.lua `resolve_var_with_captures`).
fn brace_captures(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, behind) = (&rest[..dollar], &rest[dollar + 1..]);
        let escaped = before.ends_with('\\') || (before.is_empty() && out.ends_with('\\'));
        let inner = behind.strip_prefix('{').unwrap_or(behind);
        let digits = inner.bytes().take_while(u8::is_ascii_digit).count();
        out.push_str(before);
        if escaped || digits == 0 {
            out.push('$');
            rest = behind;
        } else {
            out.push_str(&format!("${{{}}}", &inner[..digits]));
            rest = &inner[digits..];
            rest = rest.strip_prefix('}').unwrap_or(rest);
        }
    }
    out + rest
}

fn rendered(templates: &[Template], ex: &Exchange, captures: Option<&Captures<'_>>) -> Vec<Vec<u8>> {
    let vars = WithCaptures { ex, captures };
    let render = |template: &Template| {
        let mut value = Vec::new();
        template.render(&vars, &mut value);
        uri::header_value(value)
    };
    templates.iter().map(render).collect()
}

/// The exchange's variables, and `$1`, `$2`, … of the regex that matched.
struct WithCaptures<'a> {
    ex: &'a Exchange,
    captures: Option<&'a Captures<'a>>,
}

impl Vars for WithCaptures<'_> {
    fn var(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name.parse::<usize>() {
            Ok(number) => self.captures.map(|captures| Cow::Borrowed(captures.get(number))),
            Err(_) => self.ex.var(name),
        }
    }
}

impl Plugin for ProxyRewrite {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        if let Some(host) = &self.host {
            ex.out.host = Some(host.clone());
        }
        let source = self.source_uri(ex);
        let captures = match self.set_uri(ex, &source) {
            Ok(captures) => captures,
            Err(error) => {
                log::error!("{error}");
                return Step::Reply(Reply::error_msg(500, &error));
            }
        };
        self.headers.apply(ex, captures.as_ref());
        if let Some(method) = &self.method {
            ex.out.method = Some(method.clone());
        }
        Step::Next
    }
}

impl ProxyRewrite {
    /// What is rewritten: the normalized path, or with `use_real_request_uri_unsafe` the target as sent.
    fn source_uri(&self, ex: &Exchange) -> Vec<u8> {
        if self.real_uri { ex.req.head.target().to_vec() } else { ex.req.path.clone() }
    }

    /// Decides the upstream's URI; gives what `regex_uri` captured in `source`.
    fn set_uri<'s>(&'s self, ex: &mut Exchange, source: &'s [u8]) -> Result<Option<Captures<'s>>, String> {
        let mut captures = None;
        // may a `?` in the new URI begin its arguments? One that came decoded in the path may not
        let (new, splits) = match &self.uri {
            NewUri::Same => (Cow::Borrowed(source), false),
            NewUri::Template(template) => (Cow::Owned(self.render(template, ex, source)), true),
            NewUri::Regex(rules) => {
                let mut new = Cow::Borrowed(source);
                for rule in rules {
                    captures = rule.pattern.captures(source).map_err(|error| {
                        let path = String::from_utf8_lossy(&ex.req.path);
                        format!("failed to match the uri {path} ({})  : {error}", rule.text)
                    })?;
                    if let Some(found) = &captures {
                        new = Cow::Owned(found.replaced(&rule.by));
                        break;
                    }
                }
                (new, !source.contains(&b'?'))
            }
        };
        ex.out.uri = Some(match self.real_uri {
            true => escape(&new, |b| b.is_ascii_control() || b == b' '),
            false => encode(&new, splits, ex.req.args.as_deref().filter(|args| !args.is_empty())),
        });
        Ok(captures)
    }

    /// `uri` with its variables; with `use_real_request_uri_unsafe` the client's arguments go behind it.
    fn render(&self, template: &Template, ex: &Exchange, source: &[u8]) -> Vec<u8> {
        let mut new = Vec::new();
        template.render_with(ex, &mut new, |value, out| {
            out.extend_from_slice(&escape(value, |b| b == b'?'));
        });
        if let Some(question) = memchr::memchr(b'?', source).filter(|_| self.real_uri) {
            new.push(if new.contains(&b'?') { b'&' } else { b'?' });
            new.extend_from_slice(&source[question + 1..]);
        }
        new
    }
}

/// The path encoded, its own arguments (where `splits`) cleared of control characters, the client's behind.
fn encode(new: &[u8], splits: bool, args: Option<&[u8]>) -> Vec<u8> {
    let question = memchr::memchr(b'?', new).filter(|_| splits);
    let (path, own_args) = new.split_at(question.unwrap_or(new.len()));
    let mut out = uri::encode(path).into_owned();
    out.extend_from_slice(&escape(own_args, |b| b.is_ascii_control()));
    if let Some(args) = args {
        out.push(if question.is_some() { b'&' } else { b'?' });
        out.extend_from_slice(args);
    }
    out
}

/// Percent-encodes those bytes that `must` be.
fn escape(text: &[u8], must: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &b in text {
        match must(b) {
            true => out.extend_from_slice(format!("%{b:02X}").as_bytes()),
            false => out.push(b),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    /// Runs the plugin over a request and gives the URI that the upstream gets.
    fn rewritten(conf: Value, target: &str) -> (Exchange, String) {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange(&format!("GET {target} HTTP/1.1\nHost: a.com\nX-Old: 1\nX-Del: 2"));
        assert!(matches!(plugin.rewrite(&mut ex, &host), Step::Next));
        let uri = String::from_utf8(ex.out.uri.clone().unwrap()).unwrap();
        (ex, uri)
    }

    #[test]
    fn accepts() {
        for conf in [
            json!({ "uri": "/a", "host": "a-b.com:80" }),
            json!({ "headers": { "X-Number": 5, "X-Empty": "" } }),
            json!({ "use_real_request_uri_unsafe": true }),
            json!({ "regex_uri": ["$secret://vault/1/re", "/x"] }),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), "accepted", "{conf}");
        }
    }

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        for (conf, error) in [
            (
                json!({ "uri": "home" }),
                r#"property "uri" validation failed: failed to match pattern "^\\/.*" with "home""#,
            ),
            (
                json!({ "method": "GET1" }),
                r#"property "method" validation failed: matches none of the enum values"#,
            ),
            (
                json!({ "regex_uri": ["^/a", "/b", "^/c"] }),
                "The length of regex_uri should be an even number",
            ),
            (
                json!({ "regex_uri": ["^/test/(.*", "/$1"] }),
                r#"invalid regex_uri(^/test/(.*, /$1): pcre2_compile() failed: missing closing parenthesis in "^/test/(.*""#,
            ),
            (
                json!({ "regex_uri": ["^/test/(.*)", "/$`1"] }),
                "invalid regex_uri(^/test/(.*), /$`1): failed to compile the replacement template",
            ),
            (json!({ "headers": { "a:b": "1" } }), "invalid field character in header"),
            (json!({ "headers": { "": "1" } }), "invalid field length in header"),
            (json!({ "headers": { "a": "1\r\n" } }), "invalid value character in header"),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    #[test]
    fn uris_as_upstreams_get_them() {
        for (conf, target, expected) in [
            (json!({ "host": "b.com" }), "/a%20b//c?x=%20", "/a%20b/c?x=%20"),
            (json!({ "host": "b.com" }), "/a%3fb%25", "/a%3Fb%25"),
            (json!({ "uri": "/new" }), "/old?a=1&b", "/new?a=1&b"),
            (json!({ "uri": "/new?c=2" }), "/old?a=1", "/new?c=2&a=1"),
            (json!({ "uri": "/new?c=2" }), "/old", "/new?c=2"),
            (json!({ "uri": "/$arg_name/x" }), "/old?name=j%20o", "/j%20o/x?name=j%20o"),
            (
                json!({ "uri": "/$uri/remain" }),
                "/hello%3f0z=700%26a=c%20HTTP/1.1%0D%0AHost:google.com%0d%0a%0d%0a",
                "//hello%253F0z=700&a=c%20HTTP/1.1%0D%0AHost:google.com%0D%0A%0D%0A/remain",
            ),
            (json!({ "regex_uri": ["^/t/(.*)/(.*)", "/$1_$2?a=c"] }), "/t/x/y", "/x_y?a=c"),
            (json!({ "regex_uri": ["^/t/(.*)", "/$1?a=c"] }), "/t/x?b=d", "/x?a=c&b=d"),
            (json!({ "regex_uri": ["^/t/(.*)", "/$1"] }), "/t/x%3fy", "/x%3Fy"),
            (json!({ "regex_uri": ["^/no", "/1", "^/t", "/2"] }), "/t/x", "/2/x"),
            (json!({ "regex_uri": ["^/no", "/1"] }), "/t", "/t"),
            (json!({ "uri": "/n", "regex_uri": ["^/t", "/1"] }), "/t", "/n"),
            (json!({ "use_real_request_uri_unsafe": true }), "/a//%62?x=1", "/a//%62?x=1"),
            (json!({ "uri": "/n", "use_real_request_uri_unsafe": true }), "/a?x=1", "/n?x=1"),
            (json!({ "uri": "/n?y=2", "use_real_request_uri_unsafe": true }), "/a?x=1", "/n?y=2&x=1"),
            (
                json!({ "uri": "/$uri", "use_real_request_uri_unsafe": true }),
                "/a%0d%0ab%20c",
                "//a%0D%0Ab%20c",
            ),
            (
                json!({ "regex_uri": ["^/a(.*)", "/b$1"], "use_real_request_uri_unsafe": true }),
                "/a%2f?x=1",
                "/b%2f?x=1",
            ),
        ] {
            assert_eq!(rewritten(conf.clone(), target).1, expected, "{conf} {target}");
        }
    }

    /// A header that is set takes the place of the client's, whatever a variable holds.
    #[test]
    fn line_ends_in_variables_are_escaped_in_headers() {
        let host = test::host();
        let conf =
            json!({ "headers": { "set": { "X-User": "$arg_user" }, "add": { "X-Tag": "$arg_user" } } });
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange("GET /?user=joe%0d%0ax-role:%20admin HTTP/1.1\nHost: a\nX-User: forged");
        assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
        for name in ["X-User", "X-Tag"] {
            assert_eq!(test::values(ex.req_headers(), name), "joe%0D%0Ax-role: admin", "{name}");
        }
    }

    #[test]
    fn headers_method_and_host() {
        let conf = json!({
            "regex_uri": ["^/test/(.*)/(.*)", "/x"], "host": "b.com:81", "method": "POST",
            "headers": {
                "add": { "X-Old": "2", "X-Tag": ["$1", "${2}_b", 3] },
                "set": { "X-Set": ["$host-$1", "b"], "X-Api": "$2x\\$1", "X-None": "$9$no" },
                "remove": ["x-del"]
            }
        });
        let (ex, _) = rewritten(conf, "/test/one/$remote_addr");
        let header = |name| test::values(ex.req_headers(), name);
        assert_eq!(header("X-Old"), "1|2");
        assert_eq!(header("X-Tag"), "one|$remote_addr_b|3");
        assert_eq!(header("X-Set"), "a.com-one|b");
        assert_eq!(header("X-Api"), "$remote_addrx\\$1");
        assert_eq!(header("X-None"), "-");
        assert_eq!(header("X-Del"), "-");
        assert_eq!(ex.out.host.as_deref(), Some(&b"b.com:81"[..]));
        assert_eq!(ex.var("request_method").as_deref(), Some(&b"POST"[..]));
    }

    #[test]
    fn the_older_form_of_headers_sets() {
        let headers = json!({ "X-Old": "$arg_a", "X-N": 1.5, "X-Del": "" });
        let (ex, _) = rewritten(json!({ "headers": headers }), "/?a=7");
        assert_eq!(test::values(ex.req_headers(), "X-Old"), "7");
        assert_eq!(test::values(ex.req_headers(), "X-N"), "1.5");
        assert_eq!(test::values(ex.req_headers(), "X-Del"), "-", "an empty value takes a header away");
    }
}
