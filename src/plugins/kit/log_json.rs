//! A log entry as JSON, written straight from the exchange: a logger costs what its bytes cost.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use super::json::{self, Object};
use super::log_entry::{Format, LogEntry, REQUEST_BODY, RESPONSE_BODY};
use super::log_session;
use crate::exchange::{Exchange, Vars};
use crate::limits;
use crate::wire::Name;
use crate::wire::http::write::number;
use crate::wire::uri;

/// A header's name, value and id.
type Field<'a> = (&'a [u8], &'a [u8], Name);

impl LogEntry {
    /// Appends the entry of an exchange whose answer has left: one JSON object.
    pub fn write(&self, ex: &Exchange, out: &mut Vec<u8>) {
        match (self.format(), &ex.session) {
            (Some(format), _) => self.write_format(ex, format, out),
            (None, Some(session)) => json::value(&log_session::entry(ex, session).into(), out),
            (None, None) => self.write_full(ex, out),
        }
    }

    fn route_id<'a>(&'a self, ex: &'a Exchange) -> Option<&'a str> {
        let matched = ex.matched.as_deref().and_then(|matched| matched.route_id.as_deref());
        matched.or(self.unmatched_route_id())
    }

    /// The operator's own format. The ids of route and service come with it (log-util.lua `get_custom_format_log`).
    fn write_format(&self, ex: &Exchange, format: &[(String, Format)], out: &mut Vec<u8>) {
        let mut entry = Object::begin(out);
        let matched = ex.matched.as_deref();
        let ids = [
            ("service_id", matched.and_then(|matched| matched.service_id.as_deref())),
            ("route_id", self.route_id(ex)),
        ];
        let is_id = |name: &str| ids.iter().any(|(id, value)| *id == name && value.is_some());
        self.write_fields(ex, format, &mut entry, &|name| !is_id(name));
        for (name, id) in ids {
            if let Some(id) = id {
                json::text(id.as_bytes(), entry.field(name));
            }
        }
        entry.end();
    }

    /// Those fields of a format whose variable is there and whose name is wanted.
    fn write_fields(
        &self,
        ex: &Exchange,
        fields: &[(String, Format)],
        to: &mut Object,
        wanted: &dyn Fn(&str) -> bool,
    ) {
        for (name, field) in fields.iter().filter(|(name, _)| wanted(name)) {
            match field {
                Format::Variable(variable) => self.write_variable(ex, variable, || to.named(name.as_bytes())),
                field => self.write_field(ex, field, to.named(name.as_bytes())),
            }
        }
    }

    /// The value of a field; nothing for a variable that is not there.
    fn write_field(&self, ex: &Exchange, field: &Format, out: &mut Vec<u8>) {
        match field {
            Format::Variable(variable) => self.write_variable(ex, variable, || out),
            Format::Constant(value) => json::value(value, out),
            Format::Table(fields) => {
                let mut inner = Object::begin(out);
                self.write_fields(ex, fields, &mut inner, &|_| true);
                inner.end();
            }
            Format::List(items) => self.write_items(ex, items, out),
        }
    }

    /// The value of a variable that is there, where `out` says.
    fn write_variable<'o>(&self, ex: &Exchange, variable: &str, out: impl FnOnce() -> &'o mut Vec<u8>) {
        match ex.var(variable) {
            Some(body) if *variable == *REQUEST_BODY => json::text(self.cut(&body), out()),
            // the status is a number in Lua, too
            Some(_) if variable == "status" => number(out(), ex.status().into()),
            Some(value) => json::text(&value, out()),
            None if *variable == *RESPONSE_BODY => json::text(b"", out()),
            None => {}
        }
    }

    /// A list as Lua has it: with gaps, but for those at its end, and an empty one is a table.
    fn write_items(&self, ex: &Exchange, items: &[Format], out: &mut Vec<u8>) {
        let begin = out.len();
        let mut end = begin;
        for item in items {
            out.push(if out.len() == begin { b'[' } else { b',' });
            let from = out.len();
            self.write_field(ex, item, out);
            match out.len() > from {
                true => end = out.len(),
                false => out.extend_from_slice(b"null"),
            }
        }
        out.truncate(end);
        out.extend_from_slice(if end == begin { b"{}" } else { b"]" });
    }

    /// Everything that APISIX logs where no format is given (log-util.lua `get_full_log`).
    fn write_full(&self, ex: &Exchange, out: &mut Vec<u8>) {
        let latency = ex.ended_ms.saturating_sub(ex.started_ms);
        let upstream_latency = ex.upstream.response_ms();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);

        let mut entry = Object::begin(out);
        self.write_request(ex, entry.field("request"));
        self.write_response(ex, entry.field("response"));
        write_server(entry.field("server"));
        match ex.matched.as_deref() {
            Some(matched) => {
                let id = matched.service_id.as_deref().unwrap_or_default();
                json::text(id.as_bytes(), entry.field("service_id"));
            }
            None => json::text(&ex.var("host").unwrap_or_default(), entry.field("service_id")),
        }
        write_client_ip(ex, entry.field("client_ip"));
        number(entry.field("start_time"), now_ms.saturating_sub(latency));
        number(entry.field("latency"), latency);
        number(entry.field("apisix_latency"), latency.saturating_sub(upstream_latency.unwrap_or(0)));
        if let Some(upstream) = ex.var("upstream_addr") {
            json::text(&upstream, entry.field("upstream"));
        }
        if let Some(id) = self.route_id(ex) {
            json::text(id.as_bytes(), entry.field("route_id"));
        }
        if let Some(latency) = upstream_latency {
            number(entry.field("upstream_latency"), latency);
        }
        if let Some(known) = &ex.consumer {
            let mut consumer = Object::begin(entry.field("consumer"));
            json::text(known.consumer.value.username.as_bytes(), consumer.field("username"));
            consumer.end();
        }
        // default fields are never replaced
        self.write_fields(ex, self.extra(), &mut entry, &|name| !self.is_default(ex, name));
        entry.end();
    }

    /// Does the full entry of this exchange have a field of this name by itself?
    fn is_default(&self, ex: &Exchange, name: &str) -> bool {
        match name {
            "request" | "response" | "server" | "service_id" | "client_ip" | "start_time" | "latency"
            | "apisix_latency" => true,
            "upstream" => ex.var("upstream_addr").is_some(),
            "route_id" => self.route_id(ex).is_some(),
            "upstream_latency" => ex.upstream.response_ms().is_some(),
            "consumer" => ex.consumer.is_some(),
            _ => false,
        }
    }

    fn write_request(&self, ex: &Exchange, out: &mut Vec<u8>) {
        let var = |name| ex.var(name).unwrap_or_default();
        let uri = var("request_uri");
        let mut request = Object::begin(out);
        let url = request.field("url");
        url.push(b'"');
        for part in [&*var("scheme"), b"://", &*var("host"), b":", &*var("server_port"), &*uri] {
            json::text_part(part, url);
        }
        url.push(b'"');
        json::text(&uri, request.field("uri"));
        json::text(ex.req.head.method_text(), request.field("method"));
        write_headers(ex.req.head.headers.iter(), &[], request.field("headers"));
        write_arguments(ex.req.args.as_deref().unwrap_or_default(), request.field("querystring"));
        number(request.field("size"), ex.request_length());
        if self.wants_request(ex)
            && let Some(body) = ex.var(REQUEST_BODY)
        {
            json::text(self.cut(&body), request.field("body"));
        }
        request.end();
    }

    fn write_response(&self, ex: &Exchange, out: &mut Vec<u8>) {
        let mut response = Object::begin(out);
        number(response.field("status"), ex.status().into());
        // what is said to the client is not what the upstream said to the gateway (`ngx.resp.get_headers`)
        let headers = ex.resp.head.headers.iter().filter(|(_, _, id)| !is_hop_by_hop(*id));
        let own =
            [("connection", Some(ex.resp.connection())), ("transfer-encoding", ex.resp.transfer_encoding())];
        write_headers(headers, &own, response.field("headers"));
        number(response.field("size"), ex.resp.bytes);
        if self.keeps_responses()
            && let Some(body) = ex.var(RESPONSE_BODY)
        {
            json::text(&body, response.field("body"));
        }
        response.end();
    }
}

fn write_server(out: &mut Vec<u8>) {
    let mut server = Object::begin(out);
    json::text(crate::telemetry::hostname().as_bytes(), server.field("hostname"));
    json::text(b"3.18.0", server.field("version"));
    server.end();
}

fn write_client_ip(ex: &Exchange, out: &mut Vec<u8>) {
    out.push(b'"');
    ex.write_remote_addr(out);
    out.push(b'"');
}

/// nginx passes none of these on.
fn is_hop_by_hop(name: Name) -> bool {
    matches!(name, Name::Connection | Name::KeepAlive | Name::TransferEncoding)
}

/// Names in lower case, as nginx's Lua gives them; a name that comes again has a list.
fn write_headers<'a>(
    headers: impl Iterator<Item = Field<'a>>,
    own: &[(&str, Option<&str>)],
    out: &mut Vec<u8>,
) {
    let fields: SmallVec<[_; 16]> = headers.take(limits::LOGGED_FIELDS).collect();
    let same = |a: usize, b: usize| {
        let ((name, _, id), (other, _, other_id)) = (fields[a], fields[b]);
        id == other_id && name.len() == other.len() && name.eq_ignore_ascii_case(other)
    };
    let mut table = Object::begin(out);
    for (at, (name, value, _)) in fields.iter().enumerate() {
        if (0..at).any(|before| same(before, at)) {
            continue;
        }
        let out = table.named_lower(name);
        if (at + 1..fields.len()).any(|behind| same(at, behind)) {
            let values = (at..fields.len()).filter(|other| same(at, *other)).map(|other| fields[other].1);
            write_list(values, out, json::text);
        } else {
            json::text(value, out);
        }
    }
    for (name, value) in own {
        if let Some(value) = value {
            json::text(value.as_bytes(), table.named(name.as_bytes()));
        }
    }
    table.end();
}

/// Arguments, decoded; a name that comes again has a list.
fn write_arguments(args: &[u8], out: &mut Vec<u8>) {
    let pairs = uri::args(args).take(limits::LOGGED_FIELDS);
    let pairs: SmallVec<[_; 8]> = pairs.map(|(name, value)| (argument_name(name), value)).collect();
    let mut table = Object::begin(out);
    for (at, (name, value)) in pairs.iter().enumerate() {
        if pairs[..at].iter().any(|(other, _)| other == name) {
            continue;
        }
        let out = table.named(name.as_bytes());
        if pairs[at + 1..].iter().any(|(other, _)| other == name) {
            let values = pairs[at..].iter().filter(|(other, _)| other == name).map(|(_, value)| *value);
            write_list(values, out, write_argument);
        } else {
            write_argument(*value, out);
        }
    }
    table.end();
}

fn argument_name(name: &[u8]) -> Cow<'_, str> {
    match uri::decode_component(name) {
        Cow::Borrowed(name) => String::from_utf8_lossy(name),
        Cow::Owned(name) => Cow::Owned(String::from_utf8_lossy(&name).into_owned()),
    }
}

/// The value of an argument; without `=` it is true.
fn write_argument(value: Option<&[u8]>, out: &mut Vec<u8>) {
    match value {
        Some(value) => json::text(&uri::decode_component(value), out),
        None => out.extend_from_slice(b"true"),
    }
}

fn write_list<T>(items: impl Iterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    for (at, item) in items.enumerate() {
        out.push(if at == 0 { b'[' } else { b',' });
        write(item, out);
    }
    out.push(b']');
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
    fn headers_of_the_answer_say_what_the_client_was_told_of_connection_and_framing() {
        let mut ex = test::exchange("GET / HTTP/1.1\nHost: a.com");
        let upstream = [
            ("Connection", "X-Up"),
            ("Keep-Alive", "timeout=5"),
            ("Transfer-Encoding", "gzip"),
            ("X-Up", "1"),
        ];
        test::answer(&mut ex, 200, &upstream);
        let seen = |ex: &Exchange| {
            let mut out = Vec::new();
            LogEntry::compile(&json!({}), None).unwrap().write(ex, &mut out);
            let entry: Value = serde_json::from_slice(&out).unwrap();
            let variables = ["sent_http_connection", "sent_http_transfer_encoding", "sent_http_keep_alive"];
            let variables =
                variables.map(|name| ex.var(name).map(|v| String::from_utf8_lossy(&v).into_owned()));
            (entry["response"]["headers"].clone(), variables)
        };
        let some = |text: &str| Some(text.to_owned());
        let kept = json!({ "x-up": "1", "connection": "keep-alive" });
        assert_eq!(seen(&ex), (kept, [some("keep-alive"), None, None]));
        (ex.resp.closes, ex.resp.chunked) = (true, true);
        let closed = json!({ "x-up": "1", "connection": "close", "transfer-encoding": "chunked" });
        assert_eq!(seen(&ex), (closed, [some("close"), some("chunked"), None]));
        ex.resp.upgrade = true;
        assert_eq!(seen(&ex).0["connection"], "upgrade");
    }

    #[test]
    fn of_very_many_arguments_the_first_are_logged() {
        let args: Vec<String> =
            (0..limits::LOGGED_FIELDS + 10).map(|number| format!("a{number}=1")).collect();
        let entry = written(&format!("GET /?{} HTTP/1.1\nHost: a.com", args.join("&")));
        assert_eq!(entry["request"]["querystring"].as_object().unwrap().len(), limits::LOGGED_FIELDS);
    }
}
