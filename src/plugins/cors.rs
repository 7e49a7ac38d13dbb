//! `cors`: lets scripts of other origins call a route (apisix/plugins/cors.lua, the Fetch standard).
//!
//! ```json
//! {
//!   "uri": "/api/*",
//!   "plugins": {
//!     "cors": {
//!       "allow_origins": "https://app.example.com,https://admin.example.com",
//!       "allow_methods": "GET,POST",
//!       "allow_headers": "Content-Type,X-Token",
//!       "expose_headers": "X-Request-Id",
//!       "max_age": 600,
//!       "allow_credential": true
//!     }
//!   }
//! }
//! ```
//!
//! `allow_origins` is a list with commas. An origin that is in it gets the `Access-Control-Allow-*` headers, others get
//! none. `timing_allow_origins` and `timing_allow_origins_by_regex` do the same for `Timing-Allow-Origin`. `max_age` is how
//! long browsers may keep the answer, in seconds.
//!
//! `**` in place of `*` allows everything together with credentials. `allow_origins_by_regex` replaces
//! `allow_origins`; `allow_origins_by_metadata` names lists in the plugin's metadata:
//! `{"allow_origins": {"partners": "https://a.com,https://b.com"}}`.
//!
//! Phases: rewrite answers every OPTIONS request with 200; header_filter sets the headers, on answers of the
//! gateway and of the upstream alike.
//!
//! Known differences:
//! - A name in `allow_origins_by_metadata` that the metadata lacks allows nothing (a Lua error in APISIX).
//! - `"**"` never splits the client's `Origin` at commas.

use std::rc::Rc;

use serde_json::Value;
use smallvec::SmallVec;

use crate::exchange::{Exchange, Reply, Vars};
use crate::expr::regex::Pattern;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::wire::headers::FieldLine;
use crate::wire::{Headers, Name};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "cors",
    priority: 4000,
    schema: include_str!("cors.schema.json"),
    metadata_schema: Some(
        r#"{
        "type": "object",
        "properties": {
            "allow_origins": {
                "type": "object",
                "additionalProperties": {
                    "type": "string",
                    "pattern": "^(\\*|\\*\\*|null|\\w+://[^,]+(,\\w+://[^,]+)*)$"
                }
            }
        }
    }"#,
    ),
    check,
    build,
    ..Spec::PLAIN
};

/// All methods, for `**`.
const ALL_METHODS: &str = "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE";

/// Where the client's `Origin` waits for the header filter: other plugins may change the header meanwhile.
const ORIGIN: &str = "cors_request_origin";

fn check(conf: &Value, kind: SchemaType) -> Result<(), String> {
    if kind == SchemaType::Metadata {
        return Ok(());
    }
    const OPEN: [&str; 5] =
        ["allow_origins", "allow_methods", "allow_headers", "expose_headers", "timing_allow_origins"];
    if conf["allow_credential"] == true && OPEN.iter().any(|option| conf[option] == "*") {
        return Err("you can not set '*' for other option when 'allow_credential' is true".into());
    }
    for list in ["allow_origins_by_regex", "timing_allow_origins_by_regex"] {
        for regex in texts(conf, list) {
            Pattern::compile(regex, "j")?;
        }
    }
    Ok(())
}

fn texts<'a>(conf: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    conf[list].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The origins that an option allows.
enum Origins {
    /// `**`: whoever asks.
    Anyone,
    /// A single one, or `*`.
    Fixed(Box<[u8]>),
    /// Several: the one that asks, if it is among them.
    Listed(Box<[Box<[u8]>]>),
}

impl Origins {
    fn of(text: &str) -> Origins {
        match text {
            "**" => Origins::Anyone,
            text if text.contains(',') => {
                let items = text.split(',').filter(|item| !item.is_empty());
                Origins::Listed(items.map(|item| item.as_bytes().into()).collect())
            }
            text => Origins::Fixed(text.as_bytes().into()),
        }
    }

    /// What `Access-Control-Allow-Origin` says to `origin`.
    fn allowed<'a>(&'a self, origin: Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self {
            Origins::Anyone => Some(origin.unwrap_or(b"*")),
            Origins::Fixed(fixed) => Some(fixed),
            Origins::Listed(list) => origin.filter(|origin| list.iter().any(|item| **item == **origin)),
        }
    }
}

/// Several patterns are one, as in APISIX: `a|b`.
fn joined(conf: &Value, list: &str) -> Result<Option<Pattern>, String> {
    let patterns: Vec<&str> = texts(conf, list).collect();
    (!patterns.is_empty()).then(|| Pattern::compile(&patterns.join("|"), "jo")).transpose()
}

fn build(conf: &Value, build: &Build) -> Built {
    let text = |name: &str| conf[name].as_str();
    let allow_origins = text("allow_origins").unwrap_or("*");
    let named = build.metadata.and_then(|metadata| metadata["allow_origins"].as_object());
    let by_metadata = texts(conf, "allow_origins_by_metadata");
    let by_metadata =
        by_metadata.filter_map(|name| named.and_then(|named| named.get(name)?.as_str()).map(Origins::of));
    Ok(Rc::new(Cors {
        any_origin: allow_origins == "*",
        allow_origins: Origins::of(allow_origins),
        by_regex: joined(conf, "allow_origins_by_regex")?,
        by_metadata: conf.get("allow_origins_by_metadata").map(|_| by_metadata.collect()),
        methods: Said::new(
            Name::AccessControlAllowMethods,
            match text("allow_methods").unwrap_or("*") {
                "**" => ALL_METHODS,
                methods => methods,
            },
        ),
        headers: text("allow_headers")
            .filter(|headers| *headers != "**")
            .map(|headers| Said::new(Name::AccessControlAllowHeaders, headers)),
        expose: text("expose_headers")
            .filter(|expose| !expose.is_empty())
            .map(|expose| Said::new(Name::AccessControlExposeHeaders, expose)),
        max_age: Said::new(Name::AccessControlMaxAge, &conf["max_age"].as_i64().unwrap_or(5).to_string()),
        credential: (conf["allow_credential"] == true)
            .then(|| Said::new(Name::AccessControlAllowCredentials, "true")),
        timing_origins: text("timing_allow_origins").map(Origins::of),
        timing_by_regex: joined(conf, "timing_allow_origins_by_regex")?,
    }))
}

/// A header that says the same in every answer. An empty value is no header, as with nginx.
enum Said {
    Set(FieldLine),
    Removed(Name),
    /// Its value can be none of a header's: what the upstream says stays.
    Kept,
}

impl Said {
    fn new(name: Name, value: &str) -> Said {
        match value {
            "" => Said::Removed(name),
            value => FieldLine::new(name.text(), value.as_bytes()).map_or(Said::Kept, Said::Set),
        }
    }

    fn write(&self, answer: &mut Headers) {
        match self {
            Said::Set(line) => answer.set_line(line),
            Said::Removed(name) => answer.remove(*name),
            Said::Kept => {}
        }
    }
}

struct Cors {
    allow_origins: Origins,
    /// `allow_origins` is `*`: answers do not vary by origin.
    any_origin: bool,
    by_regex: Option<Pattern>,
    by_metadata: Option<Box<[Origins]>>,
    methods: Said,
    /// `None`: whatever the client asks for.
    headers: Option<Said>,
    expose: Option<Said>,
    max_age: Said,
    credential: Option<Said>,
    timing_origins: Option<Origins>,
    timing_by_regex: Option<Pattern>,
}

impl Plugin for Cors {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite, Phase::HeaderFilter])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        if let Some(origin) = ex.req_headers().get(Name::Origin) {
            let origin = origin.to_vec();
            ex.set_var(ORIGIN, origin);
        }
        match ex.req.head.method_text() {
            b"OPTIONS" => Step::Reply(Reply::page(200)),
            _ => Step::Next,
        }
    }

    fn header_filter(&self, ex: &mut Exchange, _: &Host, _: u16) {
        let origin: Option<SmallVec<[u8; 64]>> = ex.var(ORIGIN).map(|origin| SmallVec::from_slice(&origin));
        let origin = origin.as_deref();
        if !self.any_origin {
            ex.resp_headers().add(b"Vary", b"Origin");
        }
        if let Some(allowed) = self.allowed(origin) {
            self.set_headers(ex, allowed);
        }
        let timing = match (&self.timing_by_regex, &self.timing_origins) {
            (Some(regex), _) => found(regex, origin),
            (None, Some(origins)) => origins.allowed(origin),
            (None, None) => None,
        };
        if let Some(timing) = timing.filter(|timing| agrees(origin, Some(timing))) {
            ex.resp_headers().set(b"Timing-Allow-Origin", timing);
        }
    }
}

impl Cors {
    /// The value of `Access-Control-Allow-Origin`, if the origin is allowed.
    fn allowed<'a>(&'a self, origin: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let by_metadata = self.by_metadata(origin);
        let own = || match &self.by_regex {
            Some(regex) => found(regex, origin),
            None => self.allow_origins.allowed(origin),
        };
        let allowed = match self.by_metadata {
            // the lists of the metadata come first; the route's own count beside them if they say something
            Some(_) if agrees(origin, by_metadata) || self.any_origin => by_metadata,
            _ => own(),
        };
        allowed.filter(|allowed| agrees(origin, Some(allowed)))
    }

    fn by_metadata<'a>(&'a self, origin: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let mut lists = self.by_metadata.iter().flatten();
        lists.find(|list| agrees(origin, list.allowed(origin))).and(origin)
    }

    fn set_headers(&self, ex: &mut Exchange, allowed: &[u8]) {
        let requested: Option<SmallVec<[u8; 64]>> = match &self.headers {
            Some(_) => None,
            None => ex.req_headers().get(Name::AccessControlRequestHeaders).map(SmallVec::from_slice),
        };
        let answer = ex.resp_headers();
        set(answer, Name::AccessControlAllowOrigin, allowed);
        self.methods.write(answer);
        self.max_age.write(answer);
        if let Some(expose) = &self.expose {
            expose.write(answer);
        }
        match &self.headers {
            Some(headers) => headers.write(answer),
            None => set(answer, Name::AccessControlAllowHeaders, requested.as_deref().unwrap_or_default()),
        }
        if let Some(credential) = &self.credential {
            credential.write(answer);
        }
    }
}

/// As [`Said::write`], for a value of this request.
fn set(answer: &mut Headers, name: Name, value: &[u8]) {
    match value {
        b"" => answer.remove(name),
        value => drop(answer.set_name(name, value)),
    }
}

fn found<'a>(regex: &Pattern, origin: Option<&'a [u8]>) -> Option<&'a [u8]> {
    origin.filter(|origin| regex.is_match(origin).unwrap_or(false))
}

/// Does the value let this origin in? Two that are absent agree.
fn agrees(origin: Option<&[u8]>, allowed: Option<&[u8]>) -> bool {
    origin == allowed || allowed == Some(b"*")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        let star = "you can not set '*' for other option when 'allow_credential' is true";
        for (conf, said) in [
            (json!({}), "accepted"),
            (
                json!({ "allow_origins": "**", "allow_methods": "**", "allow_headers": "**", "allow_credential": true }),
                "accepted",
            ),
            (json!({ "allow_origins": "http://a.com,https://b.com:80" }), "accepted"),
            (json!({ "allow_credential": true }), star),
            (
                json!({ "allow_origins": "http://a.com", "allow_methods": "GET", "allow_headers": "X", "expose_headers": "*", "allow_credential": true }),
                star,
            ),
            (
                json!({ "max_age": "5" }),
                r#"property "max_age" validation failed: wrong type: expected integer, got string"#,
            ),
            (
                json!({ "allow_origins_by_regex": [] }),
                r#"property "allow_origins_by_regex" validation failed: expect array to have at least 1 items"#,
            ),
            (
                json!({ "timing_allow_origins_by_regex": ["a("] }),
                "pcre2_compile() failed: missing closing parenthesis in \"a(\"",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
        let said = test::check(&SPEC, SchemaType::Plain, json!({ "allow_origins": "a.com" }));
        assert!(
            said.starts_with(r#"property "allow_origins" validation failed: failed to match pattern"#),
            "{said}"
        );
        let metadata = |origins: &str| {
            test::check(&SPEC, SchemaType::Metadata, json!({ "allow_origins": { "k": origins } }))
        };
        assert_eq!(metadata("http://a.com,http://b.com"), "accepted");
        assert!(metadata("http://a.com,").contains("failed to match pattern"));
    }

    /// The answer to a request of `origin`: each name's values.
    fn answer(conf: Value, metadata: Option<&Value>, origin: &str, names: &[&str]) -> Vec<String> {
        let host = test::host();
        let build = Build { host: &host, parent: "/apisix/routes/1", metadata };
        let plugin = test::build_in(&SPEC, &build, conf).unwrap();
        let line = if origin.is_empty() { String::new() } else { format!("\nOrigin: {origin}") };
        let mut ex = test::exchange(&format!(
            "GET / HTTP/1.1\nHost: a\nAccess-Control-Request-Headers: X-Asked{line}"
        ));
        assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
        ex.req.head.headers.set(b"Origin", b"http://changed.com");
        test::answer(&mut ex, 200, &[("Access-Control-Allow-Origin", "http://up.com")]);
        plugin.header_filter(&mut ex, &host, 0);
        names.iter().map(|name| test::values(ex.resp_headers(), name)).collect()
    }

    #[test]
    fn origins() {
        let metadata = json!({ "allow_origins": { "one": "http://a.com,http://b.com", "all": "*" } });
        for (conf, origin, allowed, vary) in [
            (json!({}), "http://a.com", "*", "-"),
            (json!({}), "", "*", "-"),
            (json!({ "allow_origins": "**" }), "http://a.com", "http://a.com", "Origin"),
            (json!({ "allow_origins": "**" }), "", "*", "Origin"),
            (json!({ "allow_origins": "http://a.com" }), "http://a.com", "http://a.com", "Origin"),
            (json!({ "allow_origins": "http://a.com" }), "http://b.com", "-", "Origin"),
            (
                json!({ "allow_origins": "http://a.com,http://b.com" }),
                "http://b.com",
                "http://b.com",
                "Origin",
            ),
            (json!({ "allow_origins": "http://a.com,http://b.com" }), "http://c.com", "-", "Origin"),
            (json!({ "allow_origins": "http://a.com,http://b.com" }), "", "-", "Origin"),
            (
                json!({ "allow_origins_by_regex": [".*\\.x\\.com$", "b"] }),
                "http://a.x.com",
                "http://a.x.com",
                "-",
            ),
            (json!({ "allow_origins_by_regex": [".*\\.x\\.com$"] }), "http://a.x.org", "-", "-"),
            (json!({ "allow_origins_by_metadata": ["one"] }), "http://b.com", "http://b.com", "-"),
            (json!({ "allow_origins_by_metadata": ["one"] }), "http://c.com", "-", "-"),
            (json!({ "allow_origins_by_metadata": ["none", "all"] }), "http://c.com", "http://c.com", "-"),
            (
                json!({ "allow_origins_by_metadata": ["one"], "allow_origins": "http://c.com" }),
                "http://c.com",
                "http://c.com",
                "Origin",
            ),
        ] {
            let got = answer(conf.clone(), Some(&metadata), origin, &["Access-Control-Allow-Origin", "Vary"]);
            let allowed = if allowed == "-" { "http://up.com" } else { allowed };
            assert_eq!(got, [allowed, vary], "{conf} {origin}");
        }
    }

    #[test]
    fn the_other_headers() {
        let names = [
            "Access-Control-Allow-Methods",
            "Access-Control-Allow-Headers",
            "Access-Control-Expose-Headers",
            "Access-Control-Max-Age",
            "Access-Control-Allow-Credentials",
            "Timing-Allow-Origin",
        ];
        let plain = answer(json!({}), None, "http://a.com", &names);
        assert_eq!(plain, ["*", "*", "-", "5", "-", "-"]);
        let conf = json!({ "allow_origins": "**", "allow_methods": "**", "allow_headers": "**", "max_age": -1,
            "expose_headers": "X-A,X-B", "allow_credential": true, "timing_allow_origins": "http://a.com" });
        let all = answer(conf.clone(), None, "http://a.com", &names);
        assert_eq!(all, [ALL_METHODS, "X-Asked", "X-A,X-B", "-1", "true", "http://a.com"]);
        assert_eq!(answer(conf, None, "http://b.com", &names)[5], "-");
        let regex = json!({ "timing_allow_origins_by_regex": ["^http://[ab].com$"] });
        assert_eq!(answer(regex, None, "http://b.com", &names)[5], "http://b.com");
    }

    /// As `ngx.header` has it: an empty value takes a header away, whoever set it.
    #[test]
    fn an_empty_value_is_no_header_and_one_that_can_be_none_changes_nothing() {
        let names =
            ["Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Expose-Headers"];
        let host = test::host();
        for (conf, expected) in [
            (json!({ "allow_methods": "", "allow_headers": "", "expose_headers": "" }), ["-", "-", "up"]),
            (
                json!({ "allow_methods": "G\n", "allow_headers": "X\0", "expose_headers": "\r" }),
                ["up", "up", "up"],
            ),
            (json!({ "allow_origins": "**", "allow_headers": "**" }), ["*", "-", "up"]),
        ] {
            let plugin = test::build(&SPEC, &host, conf.clone());
            let mut ex = test::exchange("GET / HTTP/1.1\nHost: a\nOrigin: http://a.com");
            assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), None);
            test::answer(&mut ex, 200, &names.map(|name| (name, "up")));
            plugin.header_filter(&mut ex, &host, 0);
            let got = names.map(|name| test::values(ex.resp_headers(), name));
            assert_eq!(got, expected, "{conf}");
        }
    }

    #[test]
    fn options_are_answered_here() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({}));
        let mut ex = test::exchange("OPTIONS / HTTP/1.1\nHost: a");
        assert_eq!(test::run(&plugin, Phase::Rewrite, &mut ex, &host), Some(Reply::page(200)));
    }
}
