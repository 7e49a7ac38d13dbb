//! `batch-requests`: many requests in one, at `/apisix/batch-requests` (apisix/plugins/batch-requests.lua).
//!
//! The plugin does nothing on a route of its own. Once it is in `plugins` of config.yaml, a route with
//! `public-api` serves it:
//!
//! ```json
//! {
//!   "uri": "/apisix/batch-requests",
//!   "plugins": { "public-api": {}, "batch-requests": {} }
//! }
//! ```
//!
//! The client posts `{"query", "headers", "timeout", "pipeline": [{"method", "path", "query", "headers",
//! "body"}]}`. The gateway sends the requests to itself on one connection, so each meets its own route and
//! plugins, and answers with the list of their answers, `{"status", "reason", "headers", "body"}`. Query and
//! headers of the whole stand behind those of each request, the outer request's headers behind both, but for
//! `Content-*`. Metadata bounds it: `max_body_size` (1 MiB) and `max_pipeline_items` (1000).
//! `plugin_attr.batch-requests.uri` moves the endpoint.
//!
//! Phases: none.
//!
//! Known differences:
//! - `Connection` and `Transfer-Encoding` of the outer request are not handed on: they would end the pipeline.
//! - An answer whose body breaks off is a 504 as one that does not come, without `read_body_err`.
//! - If nothing listens on 127.0.0.1, the address is used that the client came by.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::kit::off_route;
use crate::exchange::{Exchange, Reply, ReplyBody};
use crate::limits;
use crate::model::cjson;
use crate::model::schema::{Schema, number_text};
use crate::plugin::{Host, Spec};
use crate::plugins::kit::http::{Answer, Call, read_answer, write_call};
use crate::reactor::{self, Out};
use crate::transport::{Stream, Target, connect};
use crate::wire::headers::Headers;
use crate::wire::http::Method;
use crate::wire::uri;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "batch-requests",
    priority: 4010,
    schema: r#"{"type": "object"}"#,
    metadata_schema: Some(
        r#"{
        "type": "object",
        "properties": {
            "max_body_size": {"type": "integer", "exclusiveMinimum": 0, "default": 1048576},
            "max_pipeline_items": {"type": "integer", "exclusiveMinimum": 0, "default": 1000}
        }
    }"#,
    ),
    build: off_route::build,
    ..Spec::PLAIN
};

/// Where it is, unless `plugin_attr` says otherwise.
pub const URI: &str = "/apisix/batch-requests";

const MAX_BODY_BYTES: u64 = 1 << 20;
const MAX_REQUESTS: u64 = 1000;

/// What a client posts.
static BATCH: LazyLock<Schema> = LazyLock::new(|| {
    let schema = json!({
        "type": "object",
        "properties": {
            "query": {"type": "object"},
            "headers": {"type": "object"},
            "timeout": {"type": "integer", "minimum": 1, "default": 30000},
            "pipeline": {"type": "array", "minItems": 1, "items": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "version": {"type": "number", "enum": [1.0, 1.1], "default": 1.1},
                    "method": {
                        "type": "string",
                        "enum": ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"],
                        "default": "GET"
                    },
                    "path": {"type": "string", "minLength": 1},
                    "query": {"type": "object"},
                    "headers": {"type": "object"},
                    "body": {"type": "string"},
                    "ssl_verify": {"type": "boolean", "default": false}
                },
                "required": ["path"]
            }}
        },
        "anyOf": [{"required": ["pipeline"]}]
    });
    Schema::compile(schema).unwrap_or_else(|error| panic!("the schema of a batch: {error}"))
});

/// Serves one batch.
pub async fn serve(ex: &mut Exchange, host: &Host) -> Reply {
    ex.resp_headers().set(b"Content-Type", b"application/json");
    match batch(ex, host).await {
        Ok(answers) => Reply { status: 200, body: ReplyBody::Json(answers) },
        Err((status, error)) => Reply::error_msg(status, &error),
    }
}

async fn batch(ex: &mut Exchange, host: &Host) -> Result<Value, (u16, String)> {
    let bound = |name: &str, default: u64| {
        let metadata = host.metadata.borrow();
        metadata.get(SPEC.name).and_then(|metadata| metadata.value[name].as_u64()).unwrap_or(default)
    };
    let body = read_body(ex, bound("max_body_size", MAX_BODY_BYTES)).await?;
    if body.is_empty() {
        let error = "no request body, you should give at least one pipeline setting";
        return Err((400, error.into()));
    }
    let mut batch = cjson::read(&body).map_err(|error| {
        (400, format!("invalid request body: {}, err: {error}", String::from_utf8_lossy(&body)))
    })?;
    BATCH.validate(&mut batch).map_err(|error| (400, format!("bad request body: {error}")))?;
    let none = Vec::new();
    let requests = batch["pipeline"].as_array().unwrap_or(&none);
    let most = bound("max_pipeline_items", MAX_REQUESTS);
    if requests.len() as u64 > most {
        let count = requests.len();
        return Err((400, format!("too many pipeline requests, {count} exceeds the maximum of {most}")));
    }
    let timeout_ms = u32::try_from(batch["timeout"].as_u64().unwrap_or(30_000)).unwrap_or(u32::MAX);
    let stream = connect_to_self(ex, timeout_ms)
        .await
        .map_err(|error| (500, format!("connect to apisix failed: {error}")))?;
    let mut out = Vec::new();
    for request in requests {
        write(request, &batch, ex, host, &mut out)
            .map_err(|error| (400, format!("request failed: {error}")))?;
    }
    stream.set_send_deadline(Some(reactor::now_ms() + u64::from(timeout_ms)));
    stream.send(Out::from(out));
    Ok(Value::Array(answers(&Rc::new(stream), requests, timeout_ms, limits::BATCH_ANSWERS_BYTES).await))
}

/// The whole body. A longer one is read to its end, for the error says how long it is.
async fn read_body(ex: &mut Exchange, most: u64) -> Result<Vec<u8>, (u16, String)> {
    let too_long =
        |bytes: u64| (413, format!("request size {bytes} is greater than the maximum size {most} allowed"));
    if let Some(length) = ex.req.body.known_length().filter(|length| *length > most) {
        return Err(too_long(length));
    }
    let (mut body, mut total) = (Vec::new(), 0);
    while let Some(piece) = ex.req.body.piece().await.map_err(|_| (400, "failed to read body".to_owned()))? {
        total += piece.len() as u64;
        if total <= most {
            body.extend_from_slice(&piece);
        }
    }
    if total > most { Err(too_long(total)) } else { Ok(body) }
}

async fn connect_to_self(ex: &Exchange, timeout_ms: u32) -> io::Result<Stream> {
    let local = ex.facts.local;
    let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), local.port());
    match connect(&Target { address: loopback, tls: None }, timeout_ms).await {
        Err(_) if local != loopback => connect(&Target { address: local, tls: None }, timeout_ms).await,
        outcome => outcome,
    }
}

/// Writes one request of the batch.
fn write(
    request: &Value,
    batch: &Value,
    ex: &Exchange,
    host: &Host,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let path = request["path"].as_str().unwrap_or_default();
    if path.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return Err("invalid characters found in path");
    }
    let mut target = path.to_owned();
    if let Some(query) = query(request["query"].as_object(), batch["query"].as_object()) {
        target.push('?');
        target.push_str(&query);
    }
    let headers = headers(request, batch, ex, host)?;
    let body = request["body"].as_str().map(str::as_bytes);
    let method = request["method"].as_str().unwrap_or("GET");
    let body = body.or(matches!(method, "POST" | "PUT" | "PATCH").then_some(b""));
    let authority = format!("127.0.0.1:{}", ex.facts.local.port());
    write_call(&Call { method, headers: &headers, body }, &target, &authority, true, out);
    Ok(())
}

/// The request's own arguments, then those of the whole that it lacks.
fn query(own: Option<&Map<String, Value>>, whole: Option<&Map<String, Value>>) -> Option<String> {
    own.or(whole)?;
    let common =
        whole.into_iter().flatten().filter(|(name, _)| own.is_none_or(|own| !own.contains_key(*name)));
    let mut pairs = Vec::new();
    for (name, value) in own.into_iter().flatten().chain(common) {
        let name = encoded(name);
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            match value {
                Value::Bool(true) => pairs.push(name.clone()),
                Value::Bool(false) | Value::Null => {}
                value => pairs.push(format!("{name}={}", encoded(&text(value)))),
            }
        }
    }
    Some(pairs.join("&"))
}

fn encoded(text: &str) -> String {
    String::from_utf8_lossy(&uri::encode_component(text.as_bytes())).into_owned()
}

/// As Lua's `tostring`.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), number_text),
        value => value.to_string(),
    }
}

/// The request's own headers, those of the whole that it lacks, those of the outer request that both lack.
fn headers(request: &Value, batch: &Value, ex: &Exchange, host: &Host) -> Result<Headers, &'static str> {
    let mut headers = Headers::default();
    for source in [&request["headers"], &batch["headers"]] {
        let known = headers.clone();
        for (name, value) in source.as_object().into_iter().flatten() {
            let skipped = matches!(&*name.to_ascii_lowercase(), "content-length" | "transfer-encoding");
            if skipped || known.get_named(name.as_bytes()).is_some() {
                continue;
            }
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            for value in values {
                if !headers.add(name.as_bytes(), text(value).as_bytes()) {
                    return Err("invalid characters found in header value");
                }
            }
        }
    }
    let known = headers.clone();
    for (name, value, _) in ex.req_headers().iter() {
        let lower = name.to_ascii_lowercase();
        let hop = matches!(&*lower, b"connection" | b"transfer-encoding" | b"expect" | b"upgrade");
        if !hop && !lower.starts_with(b"content-") && known.get_named(name).is_none() {
            headers.add(name, value);
        }
    }
    let real_ip = match &host.config.http.real_ip.source {
        crate::config::RealIpSource::Header(name) => name.as_str(),
        crate::config::RealIpSource::ProxyProtocol => "X-Real-IP",
    };
    headers.set(real_ip.as_bytes(), ex.remote_addr.to_string().as_bytes());
    Ok(headers)
}

/// The answers in order. Behind one that does not come there is none, nor behind `most` bytes of bodies.
async fn answers(stream: &Rc<Stream>, requests: &[Value], timeout_ms: u32, most: usize) -> Vec<Value> {
    let mut answers = Vec::with_capacity(requests.len());
    let (mut broken, mut bytes) = (false, 0);
    for request in requests {
        let method = Method::of(request["method"].as_str().unwrap_or("GET").as_bytes());
        let read = match broken {
            true => None,
            false => read_answer(stream, method, timeout_ms).await.ok(),
        };
        bytes += read.as_ref().map_or(0, |(answer, _)| answer.body.len());
        broken = read.is_none() || bytes > most;
        answers.push(match read {
            Some((answer, _)) => shown(&answer, method),
            None => json!({ "status": 504, "reason": "upstream timeout" }),
        });
    }
    answers
}

fn shown(answer: &Answer, method: Method) -> Value {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut headers = Map::new();
    for (name, value, _) in answer.head.headers.iter() {
        let value = Value::from(lossy(value));
        match headers.iter_mut().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name)) {
            Some((_, Value::Array(values))) => values.push(value),
            Some((_, first)) => *first = json!([first.take(), value]),
            None => drop(headers.insert(lossy(name), value)),
        }
    }
    let status = answer.head.status;
    let mut shown = json!({ "status": status, "reason": lossy(answer.head.reason()), "headers": headers });
    if method != Method::Head && !matches!(status, 204 | 304) {
        shown["body"] = lossy(&answer.body).into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::exchange::{Body, Facts};
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;
    use crate::transport::tests::on_both;

    #[test]
    fn metadata() {
        let said = |conf| test::check(&SPEC, SchemaType::Metadata, conf);
        assert_eq!(said(json!({ "max_body_size": 2048 })), "accepted");
        let zero = r#"property "max_body_size" validation failed: expected 0 to be greater than 0"#;
        assert_eq!(said(json!({ "max_body_size": 0 })), zero);
    }

    fn posted(body: &str) -> Exchange {
        let mut ex = test::exchange(
            "POST /apisix/batch-requests HTTP/1.1\nHost: a\nOuter: o\nBoth: outer\nContent-Type: x\nConnection: close",
        );
        ex.req.body = Body::from_vec(body.as_bytes().to_vec());
        ex
    }

    #[test]
    fn behind_so_many_bytes_of_answers_there_are_none() {
        on_both(async || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let target = Target { address: listener.local_addr().unwrap(), tls: None };
            let server = std::thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                peer.write_all(&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345".repeat(4)).unwrap();
                peer
            });
            let stream = Rc::new(connect(&target, 5000).await.unwrap());
            let all = answers(&stream, &vec![json!({ "path": "/" }); 4], 5000, 9).await;
            let status: Vec<_> = all.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
            assert_eq!(status, [200, 200, 504, 504]);
            drop(server.join().unwrap());
        });
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        on_both(async || {
            let host = test::host();
            for (body, status, error) in [
                ("", 400, "no request body, you should give at least one pipeline setting"),
                (
                    "invalid json string",
                    400,
                    "invalid request body: invalid json string, err: Expected value but found invalid token at character 1",
                ),
                ("{}", 400, "bad request body: object matches none of the required: [\"pipeline\"]"),
                (
                    r#"{"pipeline":[{"path":""}]}"#,
                    400,
                    "bad request body: property \"pipeline\" validation failed: failed to validate item 1: property \"path\" validation failed: string too short, expected at least 1, got 0",
                ),
                (
                    &*format!("{{\"pipeline\":[{}{{\"path\":\"/\"}}]}}", "{\"path\":\"/\"},".repeat(1000)),
                    400,
                    "too many pipeline requests, 1001 exceeds the maximum of 1000",
                ),
                (
                    &*"x".repeat(1_048_577),
                    413,
                    "request size 1048577 is greater than the maximum size 1048576 allowed",
                ),
            ] {
                let reply = serve(&mut posted(body), &host).await;
                assert_eq!(reply, Reply::error_msg(status, error));
            }
        });
    }

    #[test]
    fn requests_go_out_at_once_and_answers_come_in_order() {
        on_both(async || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let local = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                let mut read = vec![0; 8192];
                let length = peer.read(&mut read).unwrap();
                peer.write_all(
                    b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 1\r\n\r\nB\
                      HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nC\r\n0\r\n\r\n",
                )
                .unwrap();
                String::from_utf8_lossy(&read[..length]).into_owned()
            });
            let host = test::host();
            let mut ex = posted(
                r#"{"timeout": 1000, "query": {"all": 1, "own": "x"}, "headers": {"Both": "whole", "W": "w"},
                    "pipeline": [
                        {"path": "/b", "query": {"own": "a b"}, "headers": {"W": "own"}},
                        {"path": "/c", "method": "PUT", "body": "data"},
                        {"path": "/d"}
                    ]}"#,
            );
            ex.facts = Rc::new(Facts::new(ex.facts.peer, local, "http", 1));
            let reply = serve(&mut ex, &host).await;
            let Reply { status: 200, body: ReplyBody::Json(answers) } = reply else { panic!("{reply:?}") };
            let timeout = json!({ "status": 504, "reason": "upstream timeout" });
            assert_eq!(
                answers,
                json!([
                    { "status": 200, "reason": "OK", "headers": { "X-A": ["1", "2"], "Content-Length": "1" }, "body": "B" },
                    { "status": 201, "reason": "Created", "headers": { "Transfer-Encoding": "chunked" }, "body": "C" },
                    timeout
                ])
            );
            let port = local.port();
            let sent = server.join().unwrap();
            let first = "GET /b?own=a%20b&all=1 HTTP/1.1\r\nW: own\r\nBoth: whole\r\nHost: a\r\nOuter: o\r\nx-real-ip: 127.0.0.1\r\n\r\n";
            assert!(sent.starts_with(first), "{port} {sent}");
            assert!(sent.contains("PUT /c?all=1&own=x HTTP/1.1\r\n"), "{sent}");
            assert!(sent.contains("Content-Length: 4\r\n\r\ndata"), "{sent}");
        });
    }
}
