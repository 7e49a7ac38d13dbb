//! `http-logger`: posts entries for requests to an HTTP server (apisix/plugins/http-logger.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "http-logger": {
//!       "uri": "http://127.0.0.1:8080/logs?token=x",
//!       "auth_header": "Basic 123",
//!       "concat_method": "new_line",
//!       "batch_max_size": 100
//!     }
//!   }
//! }
//! ```
//!
//! A batch is a JSON list, or with `concat_method: new_line` a line of JSON for each entry; with `batch_max_size: 1`
//! each entry is an object. `auth_header` is stored encrypted. A status of 400 and above counts as a failure.
//! `timeout` is in seconds.
//!
//! An entry is APISIX's full one (request, response, server, latencies, …), or what `log_format` says: a table
//! whose values are constants or `$variable`s, of the plugin or of its metadata; `log_format_extra` adds fields
//! to the full one. `include_req_body` and `include_resp_body` add the bodies, up to `max_req_body_bytes` and
//! `max_resp_body_bytes`, where `include_*_body_expr` holds.
//!
//! Entries are gathered (`batch_max_size`, `inactive_timeout`, `buffer_duration`, in seconds), sent by a thread of
//! their own, and tried again (`max_retry_count`, `retry_delay`). While `max_pending_entries` of the metadata
//! (8192) wait, new ones are dropped and counted in `apisix_dropped_log_lines_total`.
//!
//! Phases: access (the request's body), body_filter (the answer's), log.
//!
//! Known differences:
//! - All cores share one queue of a configuration (each worker has its own in APISIX).
//! - Bytes that are no UTF-8 are replaced in the JSON.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::limits;
use crate::plugin::{Build, Built, SchemaType, Spec};
use crate::plugins::kit::batch::{self, Sending, Sink};
use crate::plugins::kit::batch_logger;
use crate::plugins::kit::collector::{Collector, CollectorTls};
use crate::plugins::kit::http::Url;
use crate::plugins::kit::log_entry::{self, LogEntry};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "http-logger",
    priority: 410,
    schema: include_str!("http_logger.schema.json"),
    metadata_schema: Some(batch_logger::METADATA_SCHEMA),
    encrypt_fields: &["auth_header"],
    check,
    build,
    ..Spec::PLAIN
};

fn check(conf: &Value, kind: SchemaType) -> Result<(), String> {
    if kind == SchemaType::Metadata {
        return Ok(());
    }
    if conf["uri"].as_str().is_some_and(|uri| uri.starts_with("http://")) {
        log::warn!("Using http-logger uri with no TLS is a security risk");
    }
    log_entry::check_expressions(conf)
}

fn build(conf: &Value, build: &Build) -> Built {
    let entry = LogEntry::compile(conf, build.metadata)?.calling_unmatched("no-matched");
    batch_logger::build(SPEC.name, conf, build, entry, batch_logger::json, || {
        let timeout = Duration::from_secs(conf["timeout"].as_u64().unwrap_or(3));
        let url = Url::parse(conf["uri"].as_str().unwrap_or_default())?;
        let verify = conf["ssl_verify"] == true;
        let tls = url.secure.then(|| CollectorTls::new(&url.host, verify, &build.host.config));
        Ok(Box::new(Server {
            server: Collector { host: url.host.clone(), port: url.port, timeout },
            tls: tls.transpose()?,
            url,
            authorization: conf["auth_header"].as_str().map(Box::from),
            lines: conf["concat_method"] == "new_line",
        }))
    })
}

/// Where batches go.
struct Server {
    server: Collector,
    tls: Option<CollectorTls>,
    url: Url,
    authorization: Option<Box<str>>,
    /// Entries are lines, not a list.
    lines: bool,
}

impl Sink for Server {
    fn send<'a>(&'a self, entries: &'a [Vec<u8>], single: bool) -> Sending<'a> {
        Box::pin(async move {
            let body = if self.lines { entries.join(&b'\n') } else { batch::json(entries, single) };
            let wire = self.server.connect(self.tls.as_ref(), "HTTP server").await?;
            let at = format!("[{}] port[{}]", self.server.host, self.server.port);
            let answer =
                self.server.within(async { self.post(wire, body).await.map_err(std::io::Error::other) });
            match answer.await {
                Ok((status, _)) if status < 400 => Ok(()),
                Ok((status, body)) => {
                    Err(format!("server returned status code[{status}] host{at} body[{body}]"))
                }
                Err(error) => Err(format!("error while sending data to {at} {error}")),
            }
        })
    }
}

impl Server {
    /// The answer's status, and the body of a refusal.
    async fn post(
        &self,
        wire: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
        body: Vec<u8>,
    ) -> Result<(u16, String), hyper::Error> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire)).await?;
        tokio::spawn(connection); // ends with the answer, or when the sender is dropped
        let mut request = Request::post(&*self.url.path)
            .header(HOST, self.url.authority())
            .header(CONTENT_TYPE, if self.lines { "text/plain" } else { "application/json" });
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, &**authorization);
        }
        let Ok(request) = request.body(Full::new(bytes::Bytes::from(body))) else {
            return Ok((400, "auth_header or uri cannot be sent".into()));
        };
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), limits::COLLECTOR_ANSWER_BYTES).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        Ok((status, text.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "uri": "http://127.0.0.1" }), "accepted"),
            (json!({ "auth_header": "Basic 123" }), r#"property "uri" is required"#),
            (
                json!({ "uri": "http://127.0.0.1", "timeout": "10" }),
                r#"property "timeout" validation failed: wrong type: expected integer, got string"#,
            ),
            (
                json!({ "uri": "http://127.0.0.1", "concat_method": "other" }),
                r#"property "concat_method" validation failed: matches none of the enum values"#,
            ),
            (
                json!({ "uri": "http://127.0.0.1", "include_req_body_expr": [["a", "<>", "b"]] }),
                "failed to validate the 'include_req_body_expr' expression: invalid operator '<>'",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn of_a_refusal_without_end_nothing_is_kept() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let url = Url::parse("http://127.0.0.1/").unwrap();
        let at = Collector { host: url.host.clone(), port: url.port, timeout: Duration::from_secs(9) };
        let server = Server { server: at, tls: None, url, authorization: None, lines: false };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ((status, text), sent) = runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let sent = tokio::spawn(async move {
                let _ = theirs.read(&mut [0; 4096]).await;
                let _ = theirs.write_all(b"HTTP/1.1 500 Oops\r\n\r\n").await;
                let mut sent = 0;
                while theirs.write_all(&[b'x'; 4096]).await.is_ok() {
                    sent += 4096;
                }
                sent
            });
            (server.post(ours, b"[]".to_vec()).await.unwrap(), sent.await.unwrap())
        });
        assert_eq!((status, text.as_str()), (500, ""));
        assert!(sent < 1 << 20, "it is read until {sent} bytes have come");
    }

    #[test]
    fn entries_arrive_as_lines() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = test::host();
        let uri = format!("http://{}/logs?a=b", listener.local_addr().unwrap());
        let conf = json!({ "uri": uri, "batch_max_size": 2, "concat_method": "new_line", "auth_header": "Basic 1",
            "log_format": { "h": "$host" } });
        let plugin = test::build(&SPEC, &host, conf);
        for _ in 0..2 {
            plugin.log(&mut test::exchange("GET / HTTP/1.1\nHost: a.com"), &host);
        }
        let (mut peer, _) = listener.accept().unwrap();
        let (mut read, line) = (String::new(), r#"{"h":"a.com","route_id":"no-matched"}"#);
        let body = format!("{line}\n{line}");
        while !read.ends_with(&body) {
            let mut buffer = [0; 1000];
            let length = peer.read(&mut buffer).unwrap();
            assert!(length > 0, "{read}");
            read.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert!(read.starts_with("POST /logs?a=b HTTP/1.1\r\n"), "{read}");
        assert!(read.contains("authorization: Basic 1\r\n") && read.contains("text/plain"), "{read}");
    }
}
