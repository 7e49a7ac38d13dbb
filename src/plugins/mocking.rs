//! `mocking`: answers in place of an upstream that is not there yet, with an example or with data made up by a schema.
//!
//! ```json
//! {
//!   "uri": "/orders/*",
//!   "plugins": {
//!     "mocking": {
//!       "response_status": 201,
//!       "response_headers": { "X-Order": "$arg_id" },
//!       "response_schema": {
//!         "type": "object",
//!         "properties": {
//!           "id": { "type": "integer", "example": 7 },
//!           "items": { "type": "array", "items": { "type": "string" } },
//!           "price": { "type": "number" }
//!         }
//!       }
//!     }
//!   }
//! }
//! ```
//!
//! Phase: access (apisix/plugins/mocking.lua). `delay` is in seconds. `response_example` beats `response_schema`; both
//! may have `$variables`. With a schema the answer is JSON, or XML where `content_type` says so.
//!
//! Known differences: fields come in the schema's order (in no order in APISIX); a field without `type` is left out
//! (an error in APISIX), and schemas are followed 64 levels deep.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::exchange::{Exchange, Reply, ReplyBody};
use crate::expr::Template;
use crate::limits;
use crate::model::schema::number_text;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::reactor;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "mocking",
    priority: 10900,
    schema: include_str!("mocking.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

/// Who mocks: the APISIX version whose behaviour this is.
const MOCKED_BY: &[u8] = b"APISIX/3.18.0";

struct Mocking {
    delay_ms: u32,
    status: u16,
    content_type: Box<[u8]>,
    content: Content,
    with_mock_header: bool,
    headers: Vec<(Box<[u8]>, Template)>,
}

enum Content {
    /// `response_example`
    Example(Template),
    /// `response_schema`, and how its data is written.
    Schema { schema: Value, format: Format, rng: RefCell<fastrand::Rng> },
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Xml,
    /// Data is not written as HTML.
    None,
}

/// The type without its parameters.
fn media_type(content_type: &str) -> &str {
    content_type.split_once(';').map_or(content_type, |(media, _)| media)
}

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    match media_type(conf["content_type"].as_str().unwrap_or_default()) {
        "application/xml" | "application/json" | "text/plain" | "text/html" | "text/xml" => Ok(()),
        _ => Err("unsupported content type!".to_owned()),
    }
}

fn build(conf: &Value, _: &Build) -> Built {
    let content_type = conf["content_type"].as_str().unwrap_or_default();
    let content = match conf["response_example"].as_str() {
        Some(example) => Content::Example(Template::compile(example)),
        None => Content::Schema {
            schema: conf["response_schema"].clone(),
            format: match media_type(content_type) {
                "application/xml" | "text/xml" => Format::Xml,
                "application/json" | "text/plain" => Format::Json,
                _ => Format::None,
            },
            rng: RefCell::new(fastrand::Rng::new()),
        },
    };
    let headers = conf["response_headers"].as_object().into_iter().flatten().map(|(name, value)| {
        let text =
            value.as_str().map_or_else(|| number_text(value.as_f64().unwrap_or_default()), str::to_owned);
        (name.as_bytes().into(), Template::compile(&text))
    });
    Ok(Rc::new(Mocking {
        delay_ms: conf["delay"].as_f64().map_or(0, |seconds| (seconds * 1000.0) as u32),
        status: conf["response_status"].as_u64().map_or(200, |status| status.min(999) as u16),
        content_type: content_type.as_bytes().into(),
        content,
        with_mock_header: conf["with_mock_header"] != false,
        headers: headers.collect(),
    }))
}

impl Plugin for Mocking {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Access])
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        let reply = self.reply(ex);
        if self.delay_ms == 0 {
            return Step::Reply(reply);
        }
        Step::Wait(Box::pin(async move {
            reactor::sleep(self.delay_ms).await;
            Some(reply)
        }))
    }
}

impl Mocking {
    fn reply(&self, ex: &mut Exchange) -> Reply {
        let mut body = Vec::new();
        match &self.content {
            Content::Example(template) => _ = template.render(ex, &mut body),
            Content::Schema { schema, format, rng } => {
                let data = made_object(schema, &mut rng.borrow_mut(), 0);
                let text = match format {
                    Format::Json => Value::Object(data).to_string(),
                    Format::Xml => xml(&data),
                    Format::None => {
                        log::error!("json schema body only support xml and json content type");
                        String::new()
                    }
                };
                Template::compile(&text).render(ex, &mut body);
            }
        }
        ex.resp_headers().set(b"Content-Type", &self.content_type);
        if self.with_mock_header {
            ex.resp_headers().set(b"x-mock-by", MOCKED_BY);
        }
        for (name, value) in &self.headers {
            let mut text = Vec::new();
            value.render(ex, &mut text);
            ex.add_resp_header(name, &text);
        }
        Reply { status: self.status, body: ReplyBody::Text(body) }
    }
}

/// Data for an object schema.
fn made_object(schema: &Value, rng: &mut fastrand::Rng, depth: usize) -> Map<String, Value> {
    let fields = schema["properties"].as_object().into_iter().flatten();
    fields.filter_map(|(name, schema)| Some((name.clone(), made(schema, rng, depth + 1)?))).collect()
}

/// Data for a schema: its example where that has the type, else at random.
fn made(schema: &Value, rng: &mut fastrand::Rng, depth: usize) -> Option<Value> {
    if depth > limits::EXPR_DEPTH {
        return None;
    }
    let example = &schema["example"];
    Some(match schema["type"].as_str()?.to_ascii_lowercase().as_str() {
        "string" if example.is_string() => example.clone(),
        "string" => (0..rng.usize(1..=10)).map(|_| rng.lowercase()).collect::<String>().into(),
        "number" if example.is_number() => example.clone(),
        "number" => json!(rng.f64() * 10_000.0),
        "integer" => match example.as_f64() {
            Some(number) => json!(number.floor() as i64),
            None => json!(rng.u32(1..=10_000)),
        },
        "boolean" if example.is_boolean() => example.clone(),
        "boolean" => rng.bool().into(),
        "object" => made_object(schema, rng, depth).into(),
        "array" => {
            let items = schema.get("items")?;
            (0..rng.usize(1..=3)).filter_map(|_| made(items, rng, depth + 1)).collect()
        }
        _ => return None,
    })
}

/// XML as xml2lua writes it, in an element `data`; an object with one field lends its value to it.
fn xml(data: &Map<String, Value>) -> String {
    let mut out = String::new();
    match data.values().next() {
        Some(only) if data.len() == 1 => element(&mut out, "data", only, 0),
        _ => element(&mut out, "data", &Value::Object(data.clone()), 0),
    }
    out.truncate(out.trim_end().len());
    out
}

fn element(out: &mut String, name: &str, value: &Value, level: usize) {
    let indent = "  ".repeat(level);
    // a String takes all that is written
    let _ = match value {
        Value::Array(items) => {
            items.iter().for_each(|item| element(out, name, item, level));
            Ok(())
        }
        Value::Object(fields) if !fields.is_empty() => {
            let _ = writeln!(out, "{indent}<{name}>");
            fields.iter().for_each(|(name, value)| element(out, name, value, level + 1));
            writeln!(out, "{indent}</{name}>")
        }
        Value::Object(_) | Value::Null => writeln!(out, "{indent}<{name}/>"),
        Value::String(text) if text.is_empty() => writeln!(out, "{indent}<{name}/>"),
        Value::String(text) => writeln!(out, "{indent}<{name}>{text}</{name}>"),
        plain => writeln!(out, "{indent}<{name}>{plain}</{name}>"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::kit::test;

    /// Status, body and headers of a mocked answer.
    fn mocked(conf: Value) -> (u16, String, Exchange) {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange("GET /a?name=jack HTTP/1.1\nHost: a.com");
        let reply = test::run(&plugin, Phase::Access, &mut ex, &host).unwrap();
        let ReplyBody::Text(body) = reply.body else { panic!("{reply:?}") };
        (reply.status, String::from_utf8(body).unwrap(), ex)
    }

    #[test]
    fn refuses_with_the_texts_of_apisix() {
        for (conf, error) in [
            (
                json!({}),
                "object matches none of the required: [\"response_example\"] or [\"response_schema\"]",
            ),
            (json!({"response_example": "x", "content_type": "image/png"}), "unsupported content type!"),
            (
                json!({"response_example": "x", "response_status": 99}),
                "property \"response_status\" validation failed: expected 99 to be at least 100",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    #[test]
    fn an_example_with_variables_and_headers() {
        let (status, body, mut ex) = mocked(json!({
            "response_status": 201, "content_type": "text/plain", "response_example": "hello $arg_name",
            "response_headers": {"X-N": 5, "X-Name": "$arg_name"},
        }));
        assert_eq!((status, &*body), (201, "hello jack"));
        let mut header = |name| test::values(ex.resp_headers(), name);
        assert_eq!(header("Content-Type"), "text/plain");
        assert_eq!((header("X-N"), header("X-Name")), ("5".into(), "jack".into()));
        assert_eq!(header("x-mock-by"), "APISIX/3.18.0");
        let (_, _, mut ex) = mocked(json!({"response_example": "", "with_mock_header": false}));
        assert_eq!(test::values(ex.resp_headers(), "x-mock-by"), "-");
    }

    #[test]
    fn data_by_a_schema() {
        let schema = json!({"type": "object", "properties": {
            "text": {"type": "string", "example": "hello"},
            "whole": {"type": "integer", "example": 4.7},
            "number": {"type": "number", "example": 5.5},
            "yes": {"type": "boolean", "example": true},
            "empty": {"type": "object"},
            "list": {"type": "array", "items": {"type": "Object", "properties": {"n": {"type": "integer"}}}},
            "lost": {"type": "array"},
        }});
        let (_, body, _) = mocked(json!({"response_schema": schema}));
        let mut body: Value = serde_json::from_str(&body).unwrap();
        let list = body["list"].take();
        let items = list.as_array().unwrap();
        assert!((1..=3).contains(&items.len()) && items.iter().all(|item| item["n"].is_u64()), "{list}");
        let expected =
            json!({"text": "hello", "whole": 4, "number": 5.5, "yes": true, "empty": {}, "list": null});
        assert_eq!(body, expected);
    }

    #[test]
    fn xml_by_a_schema() {
        let field = |example: Value| json!({"type": "string", "example": example});
        let inner = json!({"type": "object", "properties": {"b": field(json!("x")), "c": field(json!(""))}});
        let schema = json!({"type": "object", "properties": {"a": inner, "d": field(json!("y"))}});
        let conf = |schema: &Value| json!({"content_type": "text/xml", "response_schema": schema});
        let expected = "<data>\n  <a>\n    <b>x</b>\n    <c/>\n  </a>\n  <d>y</d>\n</data>";
        assert_eq!(mocked(conf(&schema)).1, expected);
        let one = json!({"type": "object", "properties": {"only": field(json!("x"))}});
        assert_eq!(mocked(conf(&one)).1, "<data>x</data>");
    }
}
