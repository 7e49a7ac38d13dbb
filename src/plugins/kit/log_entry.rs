//! What a logger says of a request: APISIX's full entry, or the operator's own `log_format`
//! (apisix/utils/log-util.lua), and what it keeps of bodies for that. All loggers share it; `log_json` writes it.

use serde_json::{Map, Value};

use crate::exchange::{Body, BodyPiece, Exchange, Vars};
use crate::expr::Expr;
use crate::limits;
use crate::plugin::{Phase, Phases, Step};
use crate::plugins::kit::content_coding::{Undecoded, decode};
use crate::wire::Name;

/// Where the bodies of an exchange wait for the log phase: the variables that a format may name.
pub(super) const REQUEST_BODY: &str = "request_body";
pub(super) const RESPONSE_BODY: &str = "resp_body";

/// One `log_format`, compiled.
pub(super) enum Format {
    /// `$name`
    Variable(Box<str>),
    /// Whatever else stands there.
    Constant(Value),
    /// A table in the table.
    Table(Vec<(String, Format)>),
    /// A list in it, of any of these.
    List(Vec<Format>),
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
            Value::Array(items) => {
                Format::List(items.iter().map(|item| Format::of(item, depth + 1)).collect())
            }
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
            Format::List(items) => items.iter().any(|item| item.names(variable)),
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
    unmatched_route_id: Option<&'static str>,
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
            unmatched_route_id: None,
        })
    }

    /// Entries of requests that no route matched say so with this id.
    pub fn calling_unmatched(self, id: &'static str) -> LogEntry {
        LogEntry { unmatched_route_id: Some(id), ..self }
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

    /// Access: keeps what the entry may want of the request's body, which then goes on its way. A condition that does not
    /// hold now may do so when the answer is known, for which nginx keeps every body but that of a gRPC call.
    pub fn access<'a>(&'a self, ex: &'a mut Exchange) -> Step<'a> {
        let wanted = self.request.wanted(ex) || !is_grpc(ex);
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

    /// The operator's own format, in place of the full entry.
    pub(super) fn format(&self) -> Option<&[(String, Format)]> {
        self.format.as_deref()
    }

    /// Fields beside those of the full entry.
    pub(super) fn extra(&self) -> &[(String, Format)] {
        &self.extra
    }

    /// What stands for the id of a route where none matched.
    pub(super) fn unmatched_route_id(&self) -> Option<&str> {
        self.unmatched_route_id
    }

    /// Is the body of this exchange's request part of its full entry?
    pub(super) fn wants_request(&self, ex: &Exchange) -> bool {
        self.request.wanted(ex)
    }

    /// Are bodies of answers part of full entries?
    pub(super) fn keeps_responses(&self) -> bool {
        self.response.included
    }

    /// As much of a request's body as an entry may have.
    pub(super) fn cut<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        &body[..body.len().min(self.request.most)]
    }
}

/// Its body may go on for as long as its client hears answers.
fn is_grpc(ex: &Exchange) -> bool {
    let kind = ex.req.head.headers.get(Name::ContentType);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::rc::Rc;

    use serde_json::json;

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

    fn written(entry: &LogEntry, ex: &Exchange) -> Value {
        let mut out = Vec::new();
        entry.write(ex, &mut out);
        serde_json::from_slice(&out).unwrap()
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
        let entry = written(&entry, &ex);
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
            json!({ "status": 201, "headers": { "x-up": "u", "connection": "keep-alive" }, "size": 0, "body": "answ" })
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
        assert_eq!(written(&entry, &ex), expected);
        let metadata = json!({ "log_format": { "other": "$host" } });
        let entry = LogEntry::compile(&json!({}), Some(&metadata)).unwrap();
        assert_eq!(written(&entry, &exchange()), json!({ "other": "a.com", "route_id": "r1" }));
        let deep = json!({ "log_format": { "1": { "2": { "3": { "4": { "5": { "6": "$host" } } } } } } });
        let entry = LogEntry::compile(&deep, None).unwrap();
        let entry = written(&entry, &exchange());
        assert_eq!(entry["1"]["2"]["3"]["4"]["5"], json!({}), "deeper tables are emptied");
    }

    #[test]
    fn a_list_in_a_format_has_the_values_of_its_variables() {
        let conf = json!({ "log_format": {
            "list": ["$host", "plain", { "x": "$arg_x", "none": "$arg_none" }, "$arg_none", 7, "$arg_none"],
            "none": ["$arg_none"], "body": [["$request_body"]] } });
        let entry = LogEntry::compile(&conf, None).unwrap();
        let mut ex = exchange();
        with_request_body(&entry, &mut ex, "asked");
        let expected = json!({ "list": ["a.com", "plain", { "x": "1" }, null, 7], "none": {}, "body": [["asked"]],
            "route_id": "r1" });
        assert_eq!(written(&entry, &ex), expected);
    }

    #[test]
    fn bodies_on_condition() {
        let conf = json!({ "include_req_body": true, "include_req_body_expr": [["arg_x", "==", "7"]],
            "include_resp_body": true, "include_resp_body_expr": [["status", "==", 200]] });
        let entry = LogEntry::compile(&conf, None).unwrap();
        let mut ex = exchange();
        with_request_body(&entry, &mut ex, "asked");
        with_response_body(&entry, &mut ex, &[b"answer"]);
        let entry = written(&entry, &ex);
        assert_eq!((entry["request"].get("body"), entry["response"].get("body")), (None, None));
        assert_eq!(
            check_expressions(&json!({ "include_resp_body_expr": [["a", "<>", "b"]] })),
            Err("failed to validate the 'include_resp_body_expr' expression: invalid operator '<>'".into())
        );
    }

    /// It may have no end before its client has heard the first of the answer.
    #[test]
    fn what_a_grpc_call_sends_is_waited_for_only_where_that_is_asked_for() {
        let condition = json!([["arg_x", "==", "1"]]);
        for (conf, target, waits) in [
            (json!({ "log_format": { "body": "$request_body" } }), "/", false),
            (json!({ "include_req_body": true, "include_req_body_expr": condition }), "/", false),
            (json!({ "include_req_body": true, "include_req_body_expr": condition }), "/?x=1", true),
            (json!({ "include_req_body": true }), "/", true),
        ] {
            let mut ex = test::exchange(&format!(
                "POST {target} HTTP/1.1\nHost: a\nContent-Type: application/grpc+proto"
            ));
            ex.req.body = Body::from_static(b"message");
            let entry = LogEntry::compile(&conf, None).unwrap();
            assert_eq!(matches!(entry.access(&mut ex), Step::Wait(_)), waits, "{conf} {target}");
        }
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
            assert_eq!(written(&entry, &ex)["response"]["body"], expected);
        }
    }
}
