//! `forward-auth`: asks another server whether a request may pass (apisix/plugins/forward-auth.lua).
//!
//! ```json
//! {
//!   "uri": "/headers",
//!   "plugins": {
//!     "forward-auth": {
//!       "uri": "http://127.0.0.1:9000/auth",
//!       "request_headers": ["Authorization"],
//!       "upstream_headers": ["X-User-ID"],
//!       "client_headers": ["Location"],
//!       "extra_headers": {"X-Tenant": "$arg_tenant"},
//!       "timeout": 1000,
//!       "status_on_error": 503
//!     }
//!   }
//! }
//! ```
//!
//! The server is told `X-Forwarded-Proto`, `-Method`, `-Host`, `-Uri` and `-For`, and the headers named in
//! `request_headers`; with `request_method: POST` the client's body, too. An answer below 300 lets the
//! request pass, with `upstream_headers` taken from it. Any other is the client's answer, with its
//! `client_headers`. Where there is none, `status_on_error` is, unless `allow_degradation` lets the request
//! pass.
//!
//! Phases: access. The call is made by the core on connections that it keeps (`keepalive*`).
//!
//! Known differences: a `uri` that is no http or https URL is an error of every call, as in APISIX, but is
//! logged once, when the plugin is built; a body that the server sends beyond 64 MiB is an error; an extra header
//! that takes no value (a line end in a variable) gets `status_on_error`, also with `allow_degradation`.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, ReadBody, Reply, ReplyBody, Vars};
use crate::expr::Template;
use crate::model::KeepalivePool;
use crate::model::schema::number_text;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::plugins::kit::http::{Call, HttpClient, Url};
use crate::wire::headers::Headers;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "forward-auth",
    priority: 2002,
    schema: r#"{
        "type": "object",
        "properties": {
            "uri": {"type": "string"},
            "allow_degradation": {"type": "boolean", "default": false},
            "status_on_error": {"type": "integer", "minimum": 200, "maximum": 599, "default": 403},
            "ssl_verify": {"type": "boolean", "default": true},
            "request_method": {"type": "string", "default": "GET", "enum": ["GET", "POST"]},
            "max_req_body_size": {"type": "integer", "minimum": 1, "default": 67108864},
            "request_headers": {"type": "array", "default": [], "items": {"type": "string"}},
            "extra_headers": {
                "type": "object",
                "minProperties": 1,
                "patternProperties": {"^[^:]+$": {"type": "string"}}
            },
            "upstream_headers": {"type": "array", "default": [], "items": {"type": "string"}},
            "client_headers": {"type": "array", "default": [], "items": {"type": "string"}},
            "timeout": {"type": "integer", "minimum": 1, "maximum": 60000, "default": 3000},
            "keepalive": {"type": "boolean", "default": true},
            "keepalive_timeout": {"type": "integer", "minimum": 1000, "default": 60000},
            "keepalive_pool": {"type": "integer", "minimum": 1, "default": 5}
        },
        "required": ["uri"]
    }"#,
    check,
    build,
    ..Spec::PLAIN
};

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    if conf["uri"].as_str().is_some_and(|uri| uri.starts_with("http://")) {
        log::warn!("Using forward-auth uri with no TLS is a security risk");
    }
    if conf["ssl_verify"] == false {
        log::warn!("Keeping ssl_verify disabled in forward-auth configuration is a security risk");
    }
    Ok(())
}

fn names(conf: &Value, list: &str) -> Box<[Box<[u8]>]> {
    let list = conf[list].as_array().into_iter().flatten().filter_map(Value::as_str);
    list.map(|name| name.as_bytes().into()).collect()
}

fn build(conf: &Value, build: &Build) -> Built {
    let number = |name: &str| conf[name].as_u64().unwrap_or_default();
    let ms = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
    let keep = KeepalivePool {
        size: if conf["keepalive"] == false { 0 } else { ms("keepalive_pool") },
        idle_timeout_ms: ms("keepalive_timeout"),
        requests: u32::MAX,
    };
    let verify = conf["ssl_verify"] != false;
    let client = Url::parse(conf["uri"].as_str().unwrap_or_default())
        .and_then(|url| HttpClient::new(url, verify, keep, ms("timeout"), build.host))
        .map_err(|error| log::error!("forward-auth of {}: {error}", build.parent));
    let extra = conf["extra_headers"].as_object().into_iter().flatten();
    let template = |value: &Value| match value {
        Value::String(text) => Template::compile(text),
        value => Template::compile(&number_text(value.as_f64().unwrap_or_default())),
    };
    Ok(Rc::new(ForwardAuth {
        client: client.ok(),
        posts: conf["request_method"] == "POST",
        max_body_bytes: usize::try_from(number("max_req_body_size")).unwrap_or(usize::MAX),
        request_headers: names(conf, "request_headers"),
        extra: extra.map(|(name, value)| (name.as_bytes().into(), template(value))).collect(),
        upstream_headers: names(conf, "upstream_headers"),
        client_headers: names(conf, "client_headers"),
        degrades: conf["allow_degradation"] == true,
        status_on_error: conf["status_on_error"].as_u64().unwrap_or(403) as u16,
    }))
}

struct ForwardAuth {
    /// `None`: the URL is none.
    client: Option<HttpClient>,
    posts: bool,
    max_body_bytes: usize,
    request_headers: Box<[Box<[u8]>]>,
    extra: Box<[(Box<[u8]>, Template)]>,
    upstream_headers: Box<[Box<[u8]>]>,
    client_headers: Box<[Box<[u8]>]>,
    degrades: bool,
    status_on_error: u16,
}

impl Plugin for ForwardAuth {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, host: &'a Host) -> Step<'a> {
        Step::Wait(Box::pin(self.ask(ex, host)))
    }
}

impl ForwardAuth {
    async fn ask(&self, ex: &mut Exchange, host: &Host) -> Option<Reply> {
        let mut headers = self.headers(ex);
        if ex.wants_body.take() {
            // an extra header looks into the body
            let most = host.config.max_post_args_readable_bytes as usize;
            let read = ex.req.body.read_ahead(most).await.ok().flatten().unwrap_or_default();
            ex.body_read = Some(Box::new(ReadBody::new(read, host.config.graphql_max_bytes)));
            headers = self.headers(ex);
        }
        let headers = match headers {
            Ok(headers) => headers,
            Err(name) => {
                let name = String::from_utf8_lossy(name);
                log::warn!(
                    "failed to process forward auth, err: invalid characters found in header value, {name}"
                );
                return Some(Reply::page(self.status_on_error));
            }
        };
        let mut body = None;
        if self.posts {
            match ex.req.body.read_ahead(self.max_body_bytes).await {
                Ok(Some(read)) => body = Some(read),
                refused => {
                    log::error!("failed to read request body: {refused:?}");
                    return Some(Reply::page(413));
                }
            }
        }
        let method = if self.posts { "POST" } else { "GET" };
        let call = Call { method, headers: &headers, body: body.as_deref() };
        let answer = match &self.client {
            Some(client) => client.call(host, &call).await,
            None => Err(std::io::ErrorKind::InvalidInput.into()),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if self.degrades => return None,
            Err(error) => {
                log::warn!("failed to process forward auth, err: {error}");
                return Some(Reply::page(self.status_on_error));
            }
        };
        if answer.head.status >= 300 {
            for name in &self.client_headers {
                copy(&answer.head.headers, ex.resp_headers(), name);
            }
            return Some(Reply { status: answer.head.status, body: ReplyBody::Text(answer.body) });
        }
        for name in &self.upstream_headers {
            // what the client sent under the name goes in any case
            copy(&answer.head.headers, &mut ex.req.head.headers, name);
        }
        None
    }

    /// What the server is told. Client headers do not replace what is there. The error is the name of a header whose
    /// variables make no value of one, as line ends do: without it the server would judge another request.
    fn headers(&self, ex: &Exchange) -> Result<Headers, &[u8]> {
        let mut headers = Headers::default();
        for (name, variable) in [
            ("X-Forwarded-Proto", "scheme"),
            ("X-Forwarded-Method", "request_method"),
            ("X-Forwarded-Host", "host"),
            ("X-Forwarded-Uri", "request_uri"),
            ("X-Forwarded-For", "remote_addr"),
        ] {
            if !headers.set(name.as_bytes(), &ex.var(variable).unwrap_or_default()) {
                return Err(name.as_bytes());
            }
        }
        if self.posts
            && let Some(encoding) = ex.header(b"content-encoding")
        {
            headers.set(b"Content-Encoding", &encoding);
        }
        for (name, template) in &self.extra {
            let mut value = Vec::new();
            template.render(ex, &mut value);
            if !headers.set(name, &value) {
                return Err(name);
            }
        }
        for name in &self.request_headers {
            if headers.get_named(name).is_none()
                && let Some(value) = ex.req_headers().get_named(name)
            {
                headers.set(name, value);
            }
        }
        Ok(headers)
    }
}

/// Gives `to` the values of a name that `from` has, and none where it has none.
fn copy(from: &Headers, to: &mut Headers, name: &[u8]) {
    to.remove_named(name);
    for value in from.all_named(name) {
        to.add(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;
    use crate::exchange::Body;
    use crate::plugins::kit::test;
    use crate::transport::tests::on_both;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "uri": "http://127.0.0.1:8199", "request_method": "POST" }), "accepted"),
            (json!({ "request_headers": ["test"] }), r#"property "uri" is required"#),
            (
                json!({ "uri": 3233 }),
                r#"property "uri" validation failed: wrong type: expected string, got number"#,
            ),
            (
                json!({ "uri": "http://127.0.0.1:8199", "request_headers": "test" }),
                r#"property "request_headers" validation failed: wrong type: expected array, got string"#,
            ),
            (
                json!({ "uri": "http://127.0.0.1:8199", "request_method": "PUT" }),
                r#"property "request_method" validation failed: matches none of the enum values"#,
            ),
            (
                json!({ "uri": "http://a", "status_on_error": 199 }),
                r#"property "status_on_error" validation failed: expected 199 to be at least 200"#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    /// One request to a server that answers with `answer`: what the plugin replies, the exchange after it,
    /// and what the server read.
    async fn asked(
        mut conf: Value,
        request: &str,
        body: &str,
        answer: &str,
    ) -> (Option<Reply>, Exchange, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        conf["uri"] = format!("http://{}/auth", listener.local_addr().unwrap()).into();
        let answer = answer.to_owned();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut read = vec![0; 4096];
            let length = peer.read(&mut read).unwrap();
            peer.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&read[..length]).into_owned()
        });
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange(request);
        ex.req.body = Body::from_vec(body.as_bytes().to_vec());
        let Step::Wait(step) = plugin.access(&mut ex, &host) else { panic!("it must ask") };
        let reply = step.await;
        (reply, ex, server.join().unwrap())
    }

    const REQUEST: &str = "GET /a?tenant=7 HTTP/1.1\nHost: a.com\nAuthorization: me\nX-User: forged";

    #[test]
    fn a_request_that_may_pass() {
        on_both(async || {
            let conf = json!({ "request_headers": ["Authorization", "None"], "upstream_headers": ["X-User", "X-Role"],
                "extra_headers": { "X-Tenant": "$arg_tenant", "X-Post": "$post_arg.a" } });
            let answer = "HTTP/1.1 200 OK\r\nX-Role: admin\r\nContent-Length: 0\r\n\r\n";
            let request = format!("{REQUEST}\nContent-Type: application/json");
            let (reply, ex, read) = asked(conf, &request, r#"{"a":"b"}"#, answer).await;
            assert_eq!(reply, None);
            assert!(read.starts_with("GET /auth HTTP/1.1\r\nHost: 127.0.0.1:"), "{read}");
            for line in [
                "X-Forwarded-Proto: http",
                "X-Forwarded-Method: GET",
                "X-Forwarded-Host: a.com",
                "X-Forwarded-Uri: /a?tenant=7",
                "X-Forwarded-For: 127.0.0.1",
                "X-Tenant: 7",
                "X-Post: b",
                "Authorization: me",
            ] {
                assert!(read.contains(&format!("{line}\r\n")), "{line} in {read}");
            }
            assert_eq!(test::values(ex.req_headers(), "X-Role"), "admin");
            assert_eq!(test::values(ex.req_headers(), "X-User"), "-", "the client's own is not believed");
            assert_eq!(ex.req.body.known_length(), Some(9), "the upstream gets the body");
        });
    }

    #[test]
    fn a_refusal_is_the_clients_answer() {
        on_both(async || {
            let answer =
                "HTTP/1.1 302 Found\r\nLocation: http://login\r\nX-Secret: 1\r\nContent-Length: 2\r\n\r\nno";
            let conf =
                json!({ "request_method": "POST", "client_headers": ["Location"], "keepalive": false });
            let (reply, mut ex, read) = asked(conf, REQUEST, "body", answer).await;
            assert_eq!(reply, Some(Reply { status: 302, body: ReplyBody::Text(b"no".to_vec()) }));
            assert_eq!(test::values(ex.resp_headers(), "Location"), "http://login");
            assert_eq!(test::values(ex.resp_headers(), "X-Secret"), "-");
            assert!(read.starts_with("POST /auth"), "{read}");
            assert!(read.ends_with("Content-Length: 4\r\nConnection: close\r\n\r\nbody"), "{read}");
        });
    }

    #[test]
    fn a_server_that_does_not_answer() {
        on_both(async || {
            let (reply, ..) = asked(json!({}), REQUEST, "", "nonsense\r\n\r\n").await;
            assert_eq!(reply, Some(Reply::page(403)));
            let (reply, ..) = asked(json!({ "status_on_error": 503 }), REQUEST, "", "").await;
            assert_eq!(reply, Some(Reply::page(503)));
            let (reply, ..) = asked(json!({ "allow_degradation": true }), REQUEST, "", "").await;
            assert_eq!(reply, None);
        });
    }

    /// t/plugin/forward-auth.t, TEST 16
    #[test]
    fn a_line_end_in_an_extra_header_is_refused() {
        on_both(async || {
            for degrades in [false, true] {
                let host = test::host();
                let conf = json!({ "uri": "http://127.0.0.1:1", "extra_headers": { "X-User": "$arg_user" },
                    "allow_degradation": degrades });
                let plugin = test::build(&SPEC, &host, conf);
                let mut ex = test::exchange("GET /a?user=guest%0d%0ax-role:%20admin HTTP/1.1\nHost: a.com");
                let Step::Wait(step) = plugin.access(&mut ex, &host) else { panic!("it must wait") };
                assert_eq!(step.await, Some(Reply::page(403)), "degrades: {degrades}");
            }
        });
    }

    #[test]
    fn a_line_end_in_the_path_is_refused() {
        on_both(async || {
            let host = test::host();
            let plugin =
                test::build(&SPEC, &host, json!({ "uri": "http://127.0.0.1:1", "allow_degradation": true }));
            let mut ex = test::exchange("GET /admin/users/1%0A HTTP/1.1\nHost: a.com");
            let Step::Wait(step) = plugin.access(&mut ex, &host) else { panic!("it must wait") };
            assert_eq!(step.await, Some(Reply::page(403)));
        });
    }

    #[test]
    fn too_long_a_body_is_not_sent() {
        on_both(async || {
            let host = test::host();
            let conf =
                json!({ "uri": "http://127.0.0.1:1", "request_method": "POST", "max_req_body_size": 3 });
            let plugin = test::build(&SPEC, &host, conf);
            let mut ex = test::exchange(REQUEST);
            ex.req.body = Body::from_vec(b"body".to_vec());
            let Step::Wait(step) = plugin.access(&mut ex, &host) else { panic!("it must ask") };
            assert_eq!(step.await, Some(Reply::page(413)));
        });
    }
}
