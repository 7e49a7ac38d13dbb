//! `udp-logger`: sends an entry for each request to a UDP server, as JSON (apisix/plugins/udp-logger.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "udp-logger": { "host": "127.0.0.1", "port": 3000, "batch_max_size": 1 }
//!   }
//! }
//! ```
//!
//! A batch is a JSON list in one datagram; with `batch_max_size: 1` each entry is an object. What is longer than a
//! datagram may be cannot be sent: choose `batch_max_size` with this in mind. `timeout` is in seconds.
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

use crate::plugin::{Build, Built, Spec};
use crate::plugins::kit::batch::{self, Sending, Sink};
use crate::plugins::kit::batch_logger;
use crate::plugins::kit::collector::Collector;
use crate::plugins::kit::log_entry::LogEntry;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "udp-logger",
    priority: 400,
    schema: include_str!("udp_logger.schema.json"),
    metadata_schema: Some(batch_logger::METADATA_SCHEMA),
    build,
    ..Spec::PLAIN
};

fn build(conf: &Value, build: &Build) -> Built {
    let entry = LogEntry::compile(conf, build.metadata)?;
    batch_logger::build(SPEC.name, conf, build, entry, batch_logger::json, || {
        let timeout = Duration::from_secs(conf["timeout"].as_u64().unwrap_or(3));
        Ok(Box::new(Server(Collector::of(conf, timeout))))
    })
}

/// Where batches go.
struct Server(Collector);

impl Sink for Server {
    fn send<'a>(&'a self, entries: &'a [Vec<u8>], single: bool) -> Sending<'a> {
        Box::pin(async move { self.0.send_datagram(&batch::json(entries, single)).await })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "host": "127.0.0.1", "port": 3000 }), "accepted"),
            (json!({ "port": 3000 }), r#"property "host" is required"#),
            (
                json!({ "host": "127.0.0.1", "port": 2000, "timeout": "10" }),
                r#"property "timeout" validation failed: wrong type: expected integer, got string"#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn a_batch_arrives_in_one_datagram() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let host = test::host();
        let port = socket.local_addr().unwrap().port();
        let conf =
            json!({ "host": "127.0.0.1", "port": port, "batch_max_size": 2, "log_format": { "h": "$host" } });
        let plugin = test::build(&SPEC, &host, conf);
        for _ in 0..2 {
            plugin.log(&mut test::exchange("GET / HTTP/1.1\nHost: a.com"), &host);
        }
        let mut read = [0; 1000];
        let length = socket.recv(&mut read).unwrap();
        assert_eq!(&read[..length], br#"[{"h":"a.com"},{"h":"a.com"}]"#);
    }
}
