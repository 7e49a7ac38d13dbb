//! What loggers say of a session of layer 4, or of a call on one, where no format is given. APISIX has no entry for
//! these (log-util.lua: "log_format is not set").

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::exchange::{Exchange, Session, Vars};

/// The entry. Variables that plugins and protocols have set are in it, by their names.
pub fn entry(ex: &Exchange, session: &Session) -> Map<String, Value> {
    let latency_ms = crate::reactor::now_ms().saturating_sub(ex.started_ms);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let matched = ex.matched.as_deref();
    let ended = ex.resp.head.status != 0;
    let mut entry = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        value.map(|value| entry.insert(name.to_owned(), value));
    };
    put("protocol", Some(session.protocol.into()));
    put("client_ip", Some(ex.remote_addr.to_string().into()));
    put("server_port", Some(ex.facts.local.port().into()));
    put("server", Some(json!({ "hostname": crate::telemetry::hostname(), "version": "3.18.0" })));
    put("route_id", matched.and_then(|matched| matched.route_id.as_deref()).map(Value::from));
    put("service_id", matched.and_then(|matched| matched.service_id.as_deref()).map(Value::from));
    put("upstream", ex.var("upstream_addr").map(|value| text(&value)));
    put("start_time", Some(now_ms.saturating_sub(latency_ms).into()));
    put("status", ended.then(|| ex.resp.head.status.into()));
    put("latency", ended.then(|| latency_ms.into()));
    put("bytes_received", ended.then(|| session.received.into()));
    put("bytes_sent", ended.then(|| ex.resp.bytes.into()));
    for (name, value) in &ex.set_vars {
        put(name, Some(text(value)));
    }
    entry
}

fn text(bytes: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}
