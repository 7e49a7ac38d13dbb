//! `tcp-logger`: sends an entry for each request to a TCP server, as JSON (apisix/plugins/tcp-logger.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "tcp-logger": {
//!       "host": "127.0.0.1",
//!       "port": 5044,
//!       "tls": false,
//!       "batch_max_size": 1,
//!       "log_format": { "host": "$host", "client_ip": "$remote_addr" }
//!     }
//!   }
//! }
//! ```
//!
//! A batch is a JSON list on a connection of its own; with `batch_max_size: 1` each entry is an object. With
//! `tls` the connection is encrypted (server name `tls_options`, else `host`; the certificate is not looked at).
//! `timeout` is in milliseconds.
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

use serde_json::Value;

use crate::plugin::{Build, Built, SchemaType, Spec};
use crate::plugins::kit::batch::{self, Sending, Sink};
use crate::plugins::kit::batch_logger;
use crate::plugins::kit::collector::{Collector, CollectorTls};
use crate::plugins::kit::log_entry::LogEntry;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "tcp-logger",
    priority: 405,
    schema: include_str!("tcp_logger.schema.json"),
    metadata_schema: Some(batch_logger::METADATA_SCHEMA),
    check,
    build,
    ..Spec::PLAIN
};

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    if conf["tls"] == false {
        log::warn!("Keeping tls disabled in tcp-logger configuration is a security risk");
    }
    Ok(())
}

fn build(conf: &Value, build: &Build) -> Built {
    let entry = LogEntry::compile(conf, build.metadata)?;
    batch_logger::build(SPEC.name, conf, build, entry, batch_logger::json, || {
        let server = Collector::of(conf, Duration::from_millis(conf["timeout"].as_u64().unwrap_or(1000)));
        let name = conf["tls_options"].as_str().unwrap_or(&server.host);
        let tls = (conf["tls"] == true).then(|| CollectorTls::new(name, false, &build.host.config));
        Ok(Box::new(Server { tls: tls.transpose()?, server }))
    })
}

/// Where batches go.
struct Server {
    server: Collector,
    tls: Option<CollectorTls>,
}

impl Sink for Server {
    fn send<'a>(&'a self, entries: &'a [Vec<u8>], single: bool) -> Sending<'a> {
        Box::pin(async move {
            self.server.send(&batch::json(entries, single), self.tls.as_ref(), "TCP server").await
        })
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
            (json!({ "host": "127.0.0.1", "port": 3000 }), "accepted"),
            (json!({ "host": "127.0.0.1" }), r#"property "port" is required"#),
            (
                json!({ "host": "127.0.0.1", "port": 2000, "timeout": "10" }),
                r#"property "timeout" validation failed: wrong type: expected integer, got string"#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn an_entry_arrives() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = test::host();
        let port = listener.local_addr().unwrap().port();
        let conf =
            json!({ "host": "127.0.0.1", "port": port, "batch_max_size": 1, "log_format": { "h": "$host" } });
        let plugin = test::build(&SPEC, &host, conf);
        plugin.log(&mut test::exchange("GET / HTTP/1.1\nHost: a.com"), &host);
        let (mut peer, _) = listener.accept().unwrap();
        let mut read = String::new();
        std::io::Read::read_to_string(&mut peer, &mut read).unwrap();
        assert_eq!(read, r#"{"h":"a.com"}"#);
    }
}
