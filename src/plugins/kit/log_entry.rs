//! What a logger says of a request: APISIX's full entry, or the operator's own `log_format`
//! (apisix/utils/log-util.lua). All loggers share it.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::exchange::{Body, BodyPiece, Exchange, Vars};
use crate::expr::Expr;
use crate::limits;
use crate::plugin::{Phase, Phases, Step};
use crate::plugins::kit::content_coding::{Undecoded, decode};
use crate::wire::Name;
use crate::wire::headers::Headers;
use crate::wire::uri;

/// Where the bodies of an exchange wait for the log phase: the variables that a format may name.
const REQUEST_BODY: &str = "request_body";
const RESPONSE_BODY: &str = "resp_body";

/// One `log_format`, compiled.
#[derive(Clone, Debug, PartialEq)]
enum Format {
    /// `$name`
    Variable(Box<str>),
    /// Whatever else stands there.
    Constant(Value),
    /// A table in the table.
    Table(Vec<(String, Format)>),
}

impl Format {
    fn table(fields: &Map<String, Value>, depth: usize) -> Vec<(String, Format)> {
        fields.iter().map(|(name, value)| (name.clone(), Format::of(value, depth))).collect()
    }

    fn of(value: &Value, depth: usize) -> Format {
        match value {
            Value::Object(_) | Value::Array(_) if depth >= limits::LOG_FORMAT_DEPTH => {
                log::warn!("log_format nesting exceeds max depth {}, truncating", limits::LOG_FORMAT_DEPTH);
                Format::Table(Vec::new())
            }
            Value::Object(fields) => Format::Table(Format::table(fields, depth + 1)),
            Value::String(text) => match text.strip_prefix('$') {
                Some(name) => Format::Variable(name.into()),
                None => Format::Constant(value.clone()),
            },
            value => Format::Constant(value.clone()),
        }
    }

    fn names(&self, variable: &str) -> bool {
        match self {
            Format::Variable(name) => **name == *variable,
            Format::Constant(_) => false,
            Format::Table(fields) => fields.iter().any(|(_, field)| field.names(variable)),
        }
    }
}

/// How much of a body is kept, and when.
struct Kept {
    /// `include_*_body`
    included: bool,
    /// `include_*_body_expr`
    condition: Option<Expr>,
    /// `max_*_body_bytes`
    most: usize,
}

impl Kept {
    fn compile(conf: &Value, side: &str) -> Result<Kept, String> {
        let condition = conf.get(format!("include_{side}_body_expr")).map(Expr::compile).transpose()?;
        let most = conf[format!("max_{side}_body_bytes")].as_u64().unwrap_or(limits::LOGGED_BODY_BYTES);
        Ok(Kept {
            included: conf[format!("include_{side}_body")] == true,
            condition,
            most: usize::try_from(most).unwrap_or(usize::MAX),
        })
    }

    fn wanted(&self, ex: &Exchange) -> bool {
        self.included && self.condition.as_ref().is_none_or(|condition| condition.eval(ex))
    }
}

/// What one logger's configuration says of its entries.
pub struct LogEntry {
    /// In place of the full entry.
    format: Option<Vec<(String, Format)>>,
    /// Fields beside those of the full entry.
    extra: Vec<(String, Format)>,
    request: Kept,
    /// A format names `$request_body`: it is kept whatever `include_req_body` says.
    names_request_body: bool,
    response: Kept,
}

/// A body filter's state: what was kept of the answer's body.
enum Held {
    Undecided,
    Unwanted,
    Bytes(Vec<u8>),
}

/// APISIX checks these in `check_schema` (log-util.lua `check_log_schema`).
pub fn check_expressions(conf: &Value) -> Result<(), String> {
    for name in ["include_req_body_expr", "include_resp_body_expr"] {
        if let Some(condition) = conf.get(name) {
            Expr::compile(condition)
                .map_err(|error| format!("failed to validate the '{name}' expression: {error}"))?;
        }
    }
    Ok(())
}

impl LogEntry {
    /// From the plugin's configuration and, where that has no format of its own, its metadata.
    pub fn compile(conf: &Value, metadata: Option<&Value>) -> Result<LogEntry, String> {
        let common = |name: &str| metadata.and_then(|metadata| metadata.get(name)?.as_object());
        let own = |name: &str| conf.get(name).and_then(Value::as_object);
        let format = own("log_format").or(common("log_format").filter(|format| !format.is_empty()));
        let format = format.map(|format| Format::table(format, 1));
        let extra = own("log_format_extra").or(common("log_format_extra"));
        let extra = extra.map(|extra| Format::table(extra, 1)).unwrap_or_default();
        let mut fields = format.iter().flatten().chain(&extra);
        Ok(LogEntry {
            names_request_body: fields.any(|(_, field)| field.names(REQUEST_BODY)),
            format,
            extra,
            request: Kept::compile(conf, "req")?,
            response: Kept::compile(conf, "resp")?,
        })
    }

    /// Those of a logger.
    pub fn phases(&self) -> Phases {
        let mut phases = Phases::of(&[Phase::Log]).0;
        if self.request.included || self.names_request_body {
            phases |= Phases::of(&[Phase::Access]).0;
        }
        if self.response.included {
            phases |= Phases::of(&[Phase::BodyFilter]).0;
        }
        Phases(phases)
    }

    /// Access: keeps what the entry wants of the request's body, which then goes on its way.
    pub fn access<'a>(&'a self, ex: &'a mut Exchange) -> Step<'a> {
        let wanted = self.names_request_body || self.request.wanted(ex);
        if !wanted || matches!(ex.req.body, Body::Empty) {
            return Step::Next;
        }
        Step::Wait(Box::pin(async move {
            // a body that breaks off is met again by who sends it on
            if let Ok(body) = ex.req.body.peek(self.request.most).await {
                let longer = ex.var(REQUEST_BODY).is_some_and(|known| known.len() >= body.len());
                if !longer {
                    ex.set_var(REQUEST_BODY, body);
                }
            }
            None
        }))
    }

    /// Body filter: keeps what the entry wants of the answer's body.
    pub fn body_filter(&self, ex: &mut Exchange, piece: &BodyPiece, slot: u16) {
        if matches!(ex.slot(slot, || Held::Undecided), Held::Undecided) {
            let wanted = self.response.wanted(ex);
            let first = if wanted { Held::Bytes(Vec::new()) } else { Held::Unwanted };
            *ex.slot(slot, || Held::Undecided) = first;
        }
        let Held::Bytes(held) = ex.slot(slot, || Held::Undecided) else { return };
        held.extend_from_slice(&piece.data);
        if piece.last || held.len() >= self.response.most {
            let mut body = std::mem::take(held);
            body.truncate(self.response.most);
            *ex.slot(slot, || Held::Undecided) = Held::Unwanted;
            let body = self.decoded(ex, body);
            ex.set_var(RESPONSE_BODY, body);
        }
    }

    /// What an upstream compressed is logged as it was, if the coding is known and the body whole.
    fn decoded(&self, ex: &Exchange, body: Vec<u8>) -> Vec<u8> {
        let coding = ex.resp.head.headers.get(Name::ContentEncoding);
        let Some(coding) = coding.filter(|_| ex.encoder.is_none()) else { return body };
        match decode(coding, &body, self.response.most) {
            Ok(plain) => return plain,
            Err(Undecoded::Unknown) => {
                log::warn!("unsupported compression encoding type: {}", String::from_utf8_lossy(coding));
            }
            Err(Undecoded::Broken(error)) => log::warn!("try decode compressed data err: {error}"),
        }
        body
    }

    /// The entry, once the answer has left.
    pub fn entry(&self, ex: &Exchange) -> Map<String, Value> {
        if let Some(format) = &self.format {
            let mut entry = self.formatted(ex, format);
            let matched = ex.matched.as_deref();
            let ids = [
                ("service_id", matched.and_then(|matched| matched.service_id.as_deref())),
                ("route_id", matched.and_then(|matched| matched.route_id.as_deref())),
            ];
            entry.extend(ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), id?.into()))));
            return entry;
        }
        let mut entry = self.full(ex);
        for (name, value) in self.formatted(ex, &self.extra) {
            entry.entry(name).or_insert(value); // a default field is never replaced
        }
        entry
    }

    fn formatted(&self, ex: &Exchange, fields: &[(String, Format)]) -> Map<String, Value> {
        let value = |field: &Format| match field {
            Format::Constant(value) => Some(value.clone()),
            Format::Table(fields) => Some(Value::Object(self.formatted(ex, fields))),
            Format::Variable(name) => match ex.var(name) {
                Some(body) if **name == *REQUEST_BODY => {
                    Some(text(&body[..body.len().min(self.request.most)]))
                }
                // the status is a number in Lua, too
                Some(_) if &**name == "status" => Some(ex.status().into()),
                Some(value) => Some(text(&value)),
                None => (**name == *RESPONSE_BODY).then(|| "".into()),
            },
        };
        fields.iter().filter_map(|(name, field)| Some((name.clone(), value(field)?))).collect()
    }

    /// Everything that APISIX logs where no format is given (log-util.lua `get_full_log`).
    fn full(&self, ex: &Exchange) -> Map<String, Value> {
        let var = |name: &str| ex.var(name).map_or_else(String::new, |value| lossy(&value).into_owned());
        let latency_ms = ex.ended_ms.saturating_sub(ex.started_ms);
        let upstream_ms = ex.upstream.response_ms();
        let mut request = json!({
            "url": format!("{}://{}:{}{}", var("scheme"), var("host"), var("server_port"), var("request_uri")),
            "uri": var("request_uri"),
            "method": lossy(ex.req.head.method_text()),
            "headers": table(&ex.req.head.headers),
            "querystring": arguments(ex.req.args.as_deref().unwrap_or_default()),
            "size": ex.request_length(),
        });
        let mut response =
            json!({ "status": ex.status(), "headers": table(&ex.resp.head.headers), "size": ex.resp.bytes });
        if self.request.wanted(ex)
            && let Some(body) = ex.var(REQUEST_BODY)
        {
            request["body"] = text(&body[..body.len().min(self.request.most)]);
        }
        if self.response.included
            && let Some(body) = ex.var(RESPONSE_BODY)
        {
            response["body"] = text(&body);
        }
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let matched = ex.matched.as_deref();
        let service_id = matched.map(|matched| matched.service_id.as_deref().unwrap_or_default().to_owned());
        let mut entry = json!({
            "request": request,
            "response": response,
            "server": { "hostname": crate::telemetry::hostname(), "version": "3.18.0" },
            "service_id": service_id.unwrap_or_else(|| var("host")),
            "client_ip": ex.remote_addr.to_string(),
            "start_time": now_ms.saturating_sub(latency_ms),
            "latency": latency_ms,
            "apisix_latency": latency_ms.saturating_sub(upstream_ms.unwrap_or(0)),
        });
        let maybe = [
            ("upstream", ex.var("upstream_addr").map(|value| text(&value))),
            ("route_id", matched.and_then(|matched| matched.route_id.as_deref()).map(Value::from)),
            ("upstream_latency", upstream_ms.map(Value::from)),
            (
                "consumer",
                ex.consumer.as_ref().map(|known| json!({ "username": &*known.consumer.value.username })),
            ),
        ];
        let Value::Object(entry) = &mut entry else { return Map::new() };
        entry.extend(maybe.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        std::mem::take(entry)
    }
}

fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn text(bytes: &[u8]) -> Value {
    Value::String(lossy(bytes).into_owned())
}

/// Names in lower case, as nginx's Lua gives them.
fn table(headers: &Headers) -> Map<String, Value> {
    let mut table = Map::new();
    for (name, value, _) in headers.iter() {
        put(&mut table, lossy(name).to_ascii_lowercase(), text(value));
    }
    table
}

/// An argument without `=` is `true`.
fn arguments(args: &[u8]) -> Map<String, Value> {
    let mut table = Map::new();
    for (name, value) in uri::args(args).filter(|(name, _)| !name.is_empty()) {
        let value = value.map_or(Value::Bool(true), |value| text(&uri::decode_component(value)));
        put(&mut table, lossy(&uri::decode_component(name)).into_owned(), value);
    }
    table
}

/// A name that comes again has a list.
fn put(table: &mut Map<String, Value>, name: String, value: Value) {
    match table.get_mut(&name) {
        Some(Value::Array(values)) => values.push(value),
        Some(first) => *first = json!([first.take(), value]),
        None => drop(table.insert(name, value)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::rc::Rc;

    use super::*;
    use crate::exchange::Matched;
    use crate::plugins::kit::test;
    use crate::reactor::Chunk;

    fn exchange() -> Exchange {
        let mut ex = test::exchange("POST /a?x=1&x=2&y HTTP/1.1\nHost: a.com\nX-A: 1\nx-a: 2");
        ex.matched = Some(Rc::new(Matched { route_id: Some("r1".into()), ..Matched::default() }));
        test::answer(&mut ex, 201, &[("X-Up", "u")]);
        ex
    }

    /// What `access` leaves behind must be read again in full.
    fn with_request_body(entry: &LogEntry, ex: &mut Exchange, body: &str) {
        ex.req.body = Body::from_vec(body.as_bytes().to_vec());
        if let Step::Wait(mut step) = entry.access(ex) {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(step.as_mut().poll(&mut context).is_ready());
        }
        assert_eq!(ex.req.body.known_length(), Some(body.len() as u64));
    }

    fn with_response_body(entry: &LogEntry, ex: &mut Exchange, pieces: &[&[u8]]) {
        for (i, data) in pieces.iter().enumerate() {
            let piece = BodyPiece { data: Chunk::from_vec(data.to_vec()), last: i + 1 == pieces.len() };
            entry.body_filter(ex, &piece, 0);
        }
    }

    #[test]
    fn the_full_entry() {
        let conf = json!({ "include_req_body": true, "include_resp_body": true, "max_resp_body_bytes": 4,
            "log_format_extra": { "mine": "$arg_x", "latency": "never" } });
        let entry = LogEntry::compile(&conf, None).unwrap();
        let mut ex = exchange();
        with_request_body(&entry, &mut ex, "asked");
        with_response_body(&entry, &mut ex, &[b"ans", b"wer", b""]);
        let entry = Value::Object(entry.entry(&ex));
        assert_eq!(
            entry["request"],
            json!({
                "url": "http://a.com:9080/a?x=1&x=2&y", "uri": "/a?x=1&x=2&y", "method": "POST",
                "headers": { "host": "a.com", "x-a": ["1", "2"] },
                "querystring": { "x": ["1", "2"], "y": true }, "size": 0, "body": "asked"
            })
        );
        assert_eq!(
            entry["response"],
            json!({ "status": 201, "headers": { "x-up": "u" }, "size": 0, "body": "answ" })
        );
        assert_eq!((&entry["route_id"], &entry["service_id"]), (&json!("r1"), &json!("")));
        assert_eq!((&entry["client_ip"], &entry["mine"]), (&json!("127.0.0.1"), &json!("1")));
        assert_eq!((&entry["latency"], entry.get("upstream")), (&json!(0), None));
    }

    #[test]
    fn a_format_of_ones_own() {
        let conf = json!({ "log_format": { "host": "$host", "status": "$status", "none": "$arg_none", "text": "plain $host", "n": 1,
            "body": "$request_body", "in": { "deep": { "er": "$arg_y" } } }, "max_req_body_bytes": 2 });
        let entry = LogEntry::compile(&conf, Some(&json!({ "log_format": { "other": "$host" } }))).unwrap();
        let mut ex = exchange();
        with_request_body(&entry, &mut ex, "asked");
        let expected = json!({ "host": "a.com", "status": 201, "text": "plain $host", "n": 1, "body": "as",
            "in": { "deep": {} }, "route_id": "r1" });
        assert_eq!(Value::Object(entry.entry(&ex)), expected);
        let metadata = json!({ "log_format": { "other": "$host" } });
        let entry = LogEntry::compile(&json!({}), Some(&metadata)).unwrap();
        assert_eq!(Value::Object(entry.entry(&exchange())), json!({ "other": "a.com", "route_id": "r1" }));
        let deep = json!({ "log_format": { "1": { "2": { "3": { "4": { "5": { "6": "$host" } } } } } } });
        let entry = LogEntry::compile(&deep, None).unwrap();
        let entry = Value::Object(entry.entry(&exchange()));
        assert_eq!(entry["1"]["2"]["3"]["4"]["5"], json!({}), "deeper tables are emptied");
    }

    #[test]
    fn bodies_on_condition() {
        let conf = json!({ "include_req_body": true, "include_req_body_expr": [["arg_x", "==", "7"]],
            "include_resp_body": true, "include_resp_body_expr": [["status", "==", 200]] });
        let entry = LogEntry::compile(&conf, None).unwrap();
        let mut ex = exchange();
        with_request_body(&entry, &mut ex, "asked");
        with_response_body(&entry, &mut ex, &[b"answer"]);
        let entry = Value::Object(entry.entry(&ex));
        assert_eq!((entry["request"].get("body"), entry["response"].get("body")), (None, None));
        assert_eq!(
            check_expressions(&json!({ "include_resp_body_expr": [["a", "<>", "b"]] })),
            Err("failed to validate the 'include_resp_body_expr' expression: invalid operator '<>'".into())
        );
    }

    #[test]
    fn a_compressed_body_is_logged_as_it_was() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"plain").unwrap();
        let gzip = gzip.finish().unwrap();
        let entry = LogEntry::compile(&json!({ "include_resp_body": true }), None).unwrap();
        for (body, expected) in [(&*gzip, "plain"), (b"not gzip", "not gzip")] {
            let mut ex = exchange();
            ex.resp.head.headers.add(b"Content-Encoding", b"gzip");
            with_response_body(&entry, &mut ex, &[body]);
            assert_eq!(entry.entry(&ex)["response"]["body"], expected);
        }
    }
}
