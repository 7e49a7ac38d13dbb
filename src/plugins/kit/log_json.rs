//! A log entry as JSON, written straight from the exchange: a logger costs what its bytes cost.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;
use smallvec::SmallVec;

use super::log_entry::{Format, LogEntry, REQUEST_BODY, RESPONSE_BODY};
use super::log_session;
use crate::exchange::{Exchange, Vars};
use crate::limits;
use crate::wire::headers::Headers;
use crate::wire::uri;

impl LogEntry {
    /// Appends the entry of an exchange whose answer has left: one JSON object.
    pub fn write(&self, ex: &Exchange, out: &mut Vec<u8>) {
        let written = match (self.format(), &ex.session) {
            (Some(format), _) => serde_json::to_writer(out, &Formatted { entry: self, ex, format }),
            (None, Some(session)) => serde_json::to_writer(out, &log_session::entry(ex, session)),
            (None, None) => serde_json::to_writer(out, &Full::of(self, ex)),
        };
        // memory takes every byte, and every key is a string
        debug_assert!(written.is_ok());
    }

    fn route_id<'a>(&'a self, ex: &'a Exchange) -> Option<&'a str> {
        let matched = ex.matched.as_deref().and_then(|matched| matched.route_id.as_deref());
        matched.or(self.unmatched_route_id())
    }
}

/// Bytes as a string; what is no UTF-8 is replaced.
struct Text<'a>(Cow<'a, [u8]>);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&String::from_utf8_lossy(&self.0))
    }
}

/// A variable; one that is not there is empty.
fn var<'a>(ex: &'a Exchange, name: &str) -> Text<'a> {
    Text(ex.var(name).unwrap_or_default())
}

/// The operator's own format. The ids of route and service come with it (log-util.lua `get_custom_format_log`).
struct Formatted<'a> {
    entry: &'a LogEntry,
    ex: &'a Exchange,
    format: &'a [(String, Format)],
}

impl Serialize for Formatted<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        let matched = self.ex.matched.as_deref();
        let ids = [
            ("service_id", matched.and_then(|matched| matched.service_id.as_deref())),
            ("route_id", self.entry.route_id(self.ex)),
        ];
        let is_id = |name: &str| ids.iter().any(|(id, value)| *id == name && value.is_some());
        write_fields(&mut map, self.entry, self.ex, self.format, |name| !is_id(name))?;
        for (name, id) in ids {
            if let Some(id) = id {
                map.serialize_entry(name, id)?;
            }
        }
        map.end()
    }
}

/// Those fields of a format whose variable is there and whose name is wanted.
fn write_fields<M: SerializeMap>(
    map: &mut M,
    entry: &LogEntry,
    ex: &Exchange,
    fields: &[(String, Format)],
    wanted: impl Fn(&str) -> bool,
) -> Result<(), M::Error> {
    for (name, field) in fields.iter().filter(|(name, _)| wanted(name)) {
        match field {
            Format::Constant(value) => map.serialize_entry(name, value)?,
            Format::Table(fields) => map.serialize_entry(name, &Inner { entry, ex, fields })?,
            Format::Variable(variable) => match ex.var(variable) {
                Some(body) if **variable == *REQUEST_BODY => {
                    map.serialize_entry(name, &Text(entry.cut(&body).into()))?;
                }
                // the status is a number in Lua, too
                Some(_) if &**variable == "status" => map.serialize_entry(name, &ex.status())?,
                Some(value) => map.serialize_entry(name, &Text(value))?,
                None if **variable == *RESPONSE_BODY => map.serialize_entry(name, "")?,
                None => {}
            },
        }
    }
    Ok(())
}

/// A table in a format.
struct Inner<'a> {
    entry: &'a LogEntry,
    ex: &'a Exchange,
    fields: &'a [(String, Format)],
}

impl Serialize for Inner<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        write_fields(&mut map, self.entry, self.ex, self.fields, |_| true)?;
        map.end()
    }
}

/// Everything that APISIX logs where no format is given (log-util.lua `get_full_log`).
#[derive(serde::Serialize)]
struct Full<'a> {
    request: Request<'a>,
    response: Response<'a>,
    server: Server,
    service_id: Text<'a>,
    client_ip: std::net::IpAddr,
    start_time: u64,
    latency: u64,
    apisix_latency: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_latency: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<Consumer<'a>>,
    #[serde(flatten)]
    extra: Extra<'a>,
}

#[derive(serde::Serialize)]
struct Request<'a> {
    url: Text<'a>,
    uri: Text<'a>,
    method: Text<'a>,
    headers: Table<'a>,
    querystring: Table<'a>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Text<'a>>,
}

#[derive(serde::Serialize)]
struct Response<'a> {
    status: u16,
    headers: Table<'a>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Text<'a>>,
}

#[derive(serde::Serialize)]
struct Server {
    hostname: &'static str,
    version: &'static str,
}

#[derive(serde::Serialize)]
struct Consumer<'a> {
    username: &'a str,
}

impl<'a> Full<'a> {
    fn of(entry: &'a LogEntry, ex: &'a Exchange) -> Full<'a> {
        let latency = ex.ended_ms.saturating_sub(ex.started_ms);
        let upstream_latency = ex.upstream.response_ms();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let service = ex.matched.as_deref().map(|matched| matched.service_id.as_deref().unwrap_or_default());
        Full {
            request: Request::of(entry, ex),
            response: Response {
                status: ex.status(),
                headers: Table::of_headers(&ex.resp.head.headers),
                size: ex.resp.bytes,
                body: ex.var(RESPONSE_BODY).filter(|_| entry.keeps_responses()).map(Text),
            },
            server: Server { hostname: crate::telemetry::hostname(), version: "3.18.0" },
            service_id: service.map_or_else(|| var(ex, "host"), |id| Text(id.as_bytes().into())),
            client_ip: ex.remote_addr,
            start_time: now_ms.saturating_sub(latency),
            latency,
            apisix_latency: latency.saturating_sub(upstream_latency.unwrap_or(0)),
            upstream: ex.var("upstream_addr").map(Text),
            route_id: entry.route_id(ex),
            upstream_latency,
            consumer: ex.consumer.as_ref().map(|known| Consumer { username: &known.consumer.value.username }),
            extra: Extra { entry, ex },
        }
    }
}

impl<'a> Request<'a> {
    fn of(entry: &'a LogEntry, ex: &'a Exchange) -> Request<'a> {
        let [scheme, host, port, uri] =
            ["scheme", "host", "server_port", "request_uri"].map(|name| var(ex, name).0);
        Request {
            url: Text([&*scheme, b"://", &*host, b":", &*port, &*uri].concat().into()),
            uri: Text(uri),
            method: Text(ex.req.head.method_text().into()),
            headers: Table::of_headers(&ex.req.head.headers),
            querystring: Table::of_arguments(ex.req.args.as_deref().unwrap_or_default()),
            size: ex.request_length(),
            body: ex
                .var(REQUEST_BODY)
                .filter(|_| entry.wants_request(ex))
                .map(|body| Text(entry.cut(&body).to_vec().into())),
        }
    }
}

/// `log_format_extra`: what is not a default field (those are never replaced).
struct Extra<'a> {
    entry: &'a LogEntry,
    ex: &'a Exchange,
}

impl Extra<'_> {
    fn is_default(&self, name: &str) -> bool {
        match name {
            "request" | "response" | "server" | "service_id" | "client_ip" | "start_time" | "latency"
            | "apisix_latency" => true,
            "upstream" => self.ex.var("upstream_addr").is_some(),
            "route_id" => self.entry.route_id(self.ex).is_some(),
            "upstream_latency" => self.ex.upstream.response_ms().is_some(),
            "consumer" => self.ex.consumer.is_some(),
            _ => false,
        }
    }
}

impl Serialize for Extra<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        write_fields(&mut map, self.entry, self.ex, self.entry.extra(), |name| !self.is_default(name))?;
        map.end()
    }
}

/// Headers or arguments: a name that comes again has a list.
struct Table<'a>(SmallVec<[(Cow<'a, str>, Item<'a>); 12]>);

/// One of them.
enum Item<'a> {
    Text(Text<'a>),
    /// An argument without `=`.
    True,
}

impl<'a> Table<'a> {
    /// Names in lower case, as nginx's Lua gives them.
    fn of_headers(headers: &'a Headers) -> Table<'a> {
        let lower = |name: &'a [u8]| match String::from_utf8_lossy(name) {
            Cow::Borrowed(name) if !name.bytes().any(|byte| byte.is_ascii_uppercase()) => Cow::Borrowed(name),
            name => Cow::Owned(name.to_ascii_lowercase()),
        };
        let fields = headers.iter().take(limits::LOGGED_FIELDS);
        Table(fields.map(|(name, value, _)| (lower(name), Item::Text(Text(value.into())))).collect())
    }

    fn of_arguments(args: &'a [u8]) -> Table<'a> {
        let name = |name: &'a [u8]| match uri::decode_component(name) {
            Cow::Borrowed(name) => String::from_utf8_lossy(name),
            Cow::Owned(name) => Cow::Owned(String::from_utf8_lossy(&name).into_owned()),
        };
        let item = |value: Option<&'a [u8]>| match value {
            Some(value) => Item::Text(Text(uri::decode_component(value))),
            None => Item::True,
        };
        let fields = uri::args(args).take(limits::LOGGED_FIELDS);
        Table(fields.map(|(key, value)| (name(key), item(value))).collect())
    }
}

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (at, (name, item)) in self.0.iter().enumerate() {
            let same = |other: &&(Cow<str>, Item)| other.0 == *name;
            if self.0[..at].iter().any(|other| same(&other)) {
                continue;
            }
            match self.0[at + 1..].iter().any(|other| same(&other)) {
                true => map.serialize_entry(name, &List { name, of: &self.0[at..] })?,
                false => map.serialize_entry(name, item)?,
            }
        }
        map.end()
    }
}

struct List<'a> {
    name: &'a str,
    of: &'a [(Cow<'a, str>, Item<'a>)],
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(None)?;
        for (_, item) in self.of.iter().filter(|(name, _)| name == self.name) {
            list.serialize_element(item)?;
        }
        list.end()
    }
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Item::Text(text) => text.serialize(to),
            Item::True => Value::Bool(true).serialize(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::kit::test;

    fn written(head: &str) -> Value {
        let entry = LogEntry::compile(&json!({}), None).unwrap().calling_unmatched("none");
        let mut out = Vec::new();
        entry.write(&test::exchange(head), &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn names_and_values_arrive_decoded_and_escaped() {
        let entry = written("GET /a?b%20c=%22&d=%ff&d HTTP/1.1\nHost: a.com\nX-Quote: \"\\\"");
        assert_eq!(entry["request"]["querystring"], json!({ "b c": "\"", "d": ["\u{fffd}", true] }));
        assert_eq!(entry["request"]["headers"]["x-quote"], "\"\\\"");
        assert_eq!(entry["route_id"], "none");
    }

    #[test]
    fn of_very_many_arguments_the_first_are_logged() {
        let args: Vec<String> =
            (0..limits::LOGGED_FIELDS + 10).map(|number| format!("a{number}=1")).collect();
        let entry = written(&format!("GET /?{} HTTP/1.1\nHost: a.com", args.join("&")));
        assert_eq!(entry["request"]["querystring"].as_object().unwrap().len(), limits::LOGGED_FIELDS);
    }
}
