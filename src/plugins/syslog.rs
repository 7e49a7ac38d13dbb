//! `syslog`: sends an entry for each request to a syslog server (apisix/plugins/syslog.lua, RFC 5424).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": {
//!     "syslog": { "host": "127.0.0.1", "port": 5044, "sock_type": "udp", "batch_max_size": 1 }
//!   }
//! }
//! ```
//!
//! A message is `<46>1 TIME HOST apisix PID - - JSON` and a line end: facility SYSLOG, severity INFO, the host that
//! was asked for. `sock_type` is `tcp` or `udp`; `tls` encrypts the former. `timeout` is in milliseconds.
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
//! - A batch is sent at once: `flush_limit` has no effect (APISIX holds messages back until so many bytes are
//!   there), nor has `pool_size`, for each batch has a connection of its own. A batch longer than `drop_limit` bytes is
//!   dropped.
//! - Over UDP each message has a datagram of its own.

use std::time::Duration;

use serde_json::Value;

use crate::exchange::{Exchange, Vars};
use crate::limits;
use crate::plugin::{Build, Built, SchemaType, Spec};
use crate::plugins::kit::batch::{Sending, Sink};
use crate::plugins::kit::batch_logger;
use crate::plugins::kit::collector::{Collector, CollectorTls};
use crate::plugins::kit::log_entry::LogEntry;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "syslog",
    priority: 401,
    schema: include_str!("syslog.schema.json"),
    metadata_schema: Some(batch_logger::METADATA_SCHEMA),
    check,
    build,
    ..Spec::PLAIN
};

/// The same on stream routes, where sessions are logged, and as a logger of xRPC, where calls are.
pub const STREAM: Spec = Spec {
    schema: r#"{
        "type": "object",
        "properties": {
            "host": {"type": "string"},
            "port": {"type": "integer"},
            "flush_limit": {"type": "integer", "minimum": 1, "default": 4096},
            "drop_limit": {"type": "integer", "default": 1048576},
            "timeout": {"type": "integer", "minimum": 1, "default": 3000},
            "log_format": {"type": "object"},
            "sock_type": {"type": "string", "default": "tcp", "enum": ["tcp", "udp"]},
            "pool_size": {"type": "integer", "minimum": 5, "default": 5},
            "tls": {"type": "boolean", "default": false},
            "name": {"type": "string", "default": "stream sys logger"},
            "max_retry_count": {"type": "integer", "minimum": 0, "default": 0},
            "retry_delay": {"type": "integer", "minimum": 0, "default": 1},
            "buffer_duration": {"type": "integer", "minimum": 1, "default": 60},
            "inactive_timeout": {"type": "integer", "minimum": 1, "default": 5},
            "batch_max_size": {"type": "integer", "minimum": 1, "default": 1000}
        },
        "required": ["host", "port"]
    }"#,
    metadata_schema: Some(
        r#"{
        "type": "object",
        "properties": {
            "log_format": {"type": "object"},
            "max_pending_entries": {"type": "integer", "minimum": 1, "default": 8192}
        }
    }"#,
    ),
    name: SPEC.name,
    priority: SPEC.priority,
    build,
    ..Spec::PLAIN
};

/// Facility SYSLOG (5) and severity INFO (6): RFC 5424 section 6.2.1.
const PRIORITY: u8 = 5 * 8 + 6;

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    if conf["tls"] == false {
        log::warn!("Keeping tls disabled in syslog configuration is a security risk");
    }
    Ok(())
}

fn build(conf: &Value, build: &Build) -> Built {
    let entry = LogEntry::compile(conf, build.metadata)?;
    batch_logger::build(SPEC.name, conf, build, entry, write, || {
        let server = Collector::of(conf, Duration::from_millis(conf["timeout"].as_u64().unwrap_or(3000)));
        let tls = (conf["tls"] == true).then(|| CollectorTls::new(&server.host, false, &build.host.config));
        Ok(Box::new(Server {
            tls: tls.transpose()?,
            server,
            datagrams: conf["sock_type"] == "udp",
            most_bytes: conf["drop_limit"].as_u64().unwrap_or(1 << 20) as usize,
        }))
    })
}

/// Where batches go.
struct Server {
    server: Collector,
    tls: Option<CollectorTls>,
    datagrams: bool,
    most_bytes: usize,
}

impl Sink for Server {
    fn send<'a>(&'a self, entries: &'a [Vec<u8>], _: bool) -> Sending<'a> {
        Box::pin(async move {
            let data = entries.concat();
            if data.len() > self.most_bytes {
                return Err(format!("failed to log message: {} bytes are above drop_limit", data.len()));
            }
            if !self.datagrams {
                return self.server.send(&data, self.tls.as_ref(), "syslog server").await;
            }
            for entry in entries {
                self.server.send_datagram(entry).await?;
            }
            Ok(())
        })
    }
}

/// Begins a message (RFC 5424 section 6; apisix/utils/rfc5424.lua); what it says follows.
fn begin(time: jiff::Timestamp, host: &str, out: &mut Vec<u8>) {
    let host = if host.is_empty() { "-" } else { host };
    let time = time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ");
    out.extend_from_slice(
        format!("<{PRIORITY}>1 {time} {host} apisix {} - - ", std::process::id()).as_bytes(),
    );
}

fn write(entry: &LogEntry, ex: &Exchange) -> Vec<u8> {
    let mut out = Vec::with_capacity(limits::LOG_ENTRY_BYTES);
    begin(jiff::Timestamp::now(), &String::from_utf8_lossy(&ex.var("host").unwrap_or_default()), &mut out);
    entry.write(ex, &mut out);
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::kit::test;

    #[test]
    fn accepts_and_refuses_with_the_texts_of_apisix() {
        for (conf, said) in [
            (json!({ "host": "127.0.0.1", "port": 3000, "sock_type": "udp" }), "accepted"),
            (json!({ "host": "127.0.0.1" }), r#"property "port" is required"#),
            (
                json!({ "host": "127.0.0.1", "port": 3000, "flush_limit": "1" }),
                r#"property "flush_limit" validation failed: wrong type: expected integer, got string"#,
            ),
            (
                json!({ "host": "127.0.0.1", "port": 3000, "sock_type": "http" }),
                r#"property "sock_type" validation failed: matches none of the enum values"#,
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), said, "{conf}");
        }
    }

    #[test]
    fn messages_are_those_of_the_rfc() {
        let time = jiff::Timestamp::from_millisecond(1_700_000_000_042).unwrap();
        let pid = std::process::id();
        let expected = format!("<46>1 2023-11-14T22:13:20.042Z a.com apisix {pid} - - ");
        let mut out = Vec::new();
        begin(time, "a.com", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_message_arrives_by_udp() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let host = test::host();
        let port = socket.local_addr().unwrap().port();
        let conf = json!({ "host": "127.0.0.1", "port": port, "sock_type": "udp", "batch_max_size": 1,
            "log_format": { "h": "$host" } });
        let plugin = test::build(&SPEC, &host, conf);
        plugin.log(&mut test::exchange("GET / HTTP/1.1\nHost: a.com"), &host);
        let mut read = [0; 1000];
        let length = socket.recv(&mut read).unwrap();
        let read = String::from_utf8_lossy(&read[..length]);
        assert!(read.starts_with("<46>1 ") && read.ends_with(" - - {\"h\":\"a.com\"}\n"), "{read}");
    }
}
