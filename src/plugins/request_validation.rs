//! `request-validation`: refuses requests whose headers or body do not fit a JSON Schema.
//!
//! ```json
//! {
//!   "uri": "/orders",
//!   "plugins": {
//!     "request-validation": {
//!       "header_schema": {
//!         "type": "object",
//!         "required": ["X-Tenant"],
//!         "properties": { "X-Tenant": { "type": "string", "pattern": "^[a-z]+$" } }
//!       },
//!       "body_schema": {
//!         "type": "object",
//!         "required": ["item"],
//!         "properties": { "item": { "type": "string" }, "amount": { "type": "integer", "default": 1 } }
//!       },
//!       "rejected_code": 422
//!     }
//!   }
//! }
//! ```
//!
//! Phase: rewrite (apisix/plugins/request-validation.lua). The body is JSON, or a form where `Content-Type` is
//! `application/x-www-form-urlencoded`. The upstream gets JSON as it was understood here, with the schema's
//! defaults: of a name that stands twice in an object only the last value goes on. Answers are the schema's own
//! error texts, or `rejected_msg`.
//!
//! Known differences: the text of an answer to a body that is no JSON at all is this gateway's.

use std::borrow::Cow;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::exchange::{Exchange, Reply, ReplyBody};
use crate::gate::prepare::client_body_error;
use crate::model::cjson;
use crate::model::schema::Schema;
use crate::plugin::{Build, Built, Host, Phase, Phases, Plugin, SchemaType, Spec, Step};
use crate::wire::Name;
use crate::wire::uri;

/// The plugin.
pub const SPEC: Spec = Spec {
    name: "request-validation",
    priority: 2800,
    schema: include_str!("request_validation.schema.json"),
    check,
    build,
    ..Spec::PLAIN
};

struct RequestValidation {
    headers: Option<HeaderSchema>,
    body: Option<Schema>,
    max_body_bytes: usize,
    rejected_code: u16,
    rejected_msg: Option<Box<str>>,
}

struct HeaderSchema {
    schema: Schema,
    /// Names of headers as the schema spells them.
    names: Vec<Box<str>>,
    /// It has no rule that counts or looks at other headers.
    named_only: bool,
}

fn check(conf: &Value, _: SchemaType) -> Result<(), String> {
    for field in ["body_schema", "header_schema"] {
        if let Some(schema) = conf.get(field) {
            compile(schema)?;
        }
    }
    Ok(())
}

fn build(conf: &Value, _: &Build) -> Built {
    let schema = |field: &str| conf.get(field).map(compile).transpose();
    Ok(Rc::new(RequestValidation {
        headers: schema("header_schema")?.map(HeaderSchema::new),
        body: schema("body_schema")?,
        max_body_bytes: conf["max_req_body_size"].as_u64().map_or(64 << 20, |bytes| bytes as usize),
        rejected_code: conf["rejected_code"].as_u64().map_or(400, |code| code as u16),
        rejected_msg: conf["rejected_msg"].as_str().map(Box::from),
    }))
}

fn compile(schema: &Value) -> Result<Schema, String> {
    let mut schema = schema.clone();
    as_in_lua(&mut schema)?;
    Schema::compile(schema)
}

/// What APISIX's own validator makes of two things that users write: `function` is a type, of which no JSON is, and
/// lists that are none are an error of Lua.
fn as_in_lua(schema: &mut Value) -> Result<(), String> {
    match schema {
        Value::Object(fields) => {
            for list in ["enum", "required"] {
                if let Some(Value::String(_)) = fields.get(list) {
                    return Err("bad argument #1 to 'ipairs' (table expected, got string)".to_owned());
                }
            }
            if fields.get("type").is_some_and(|name| name == "function") {
                fields.remove("type");
                fields.insert("not".to_owned(), Value::Object(Map::new()));
            }
            fields.values_mut().try_for_each(as_in_lua)
        }
        Value::Array(items) => items.iter_mut().try_for_each(as_in_lua),
        _ => Ok(()),
    }
}

impl HeaderSchema {
    fn new(schema: Schema) -> Self {
        let raw = schema.raw();
        let described = raw["properties"].as_object().into_iter().flat_map(|fields| fields.keys());
        let required = raw["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names = described.map(String::as_str).chain(required).map(Box::from).collect();
        let plain = ["type", "properties", "required", "title", "description", "$schema", "$comment"];
        let named_only =
            raw.as_object().is_some_and(|rules| rules.keys().all(|rule| plain.contains(&&**rule)));
        HeaderSchema { schema, names, named_only }
    }

    fn check(&self, ex: &Exchange) -> Result<(), String> {
        let mut object = Map::new();
        for (name, value, _) in ex.req.head.headers.iter() {
            let Some(name) = self.spelling(name) else { continue };
            let value = Value::from(String::from_utf8_lossy(value));
            match object.get_mut(&*name) {
                None => _ = object.insert(name.into_owned(), value),
                Some(Value::Array(values)) => values.push(value),
                Some(first) => *first = Value::Array(vec![first.take(), value]),
            }
        }
        self.schema.validate(&mut Value::Object(object))
    }

    /// A header's name as the schema has it (names have no case), else in lower case; `None` if the schema says
    /// nothing of it.
    fn spelling(&self, name: &[u8]) -> Option<Cow<'_, str>> {
        match self.names.iter().find(|known| known.as_bytes().eq_ignore_ascii_case(name)) {
            Some(known) => Some(Cow::Borrowed(known)),
            None if self.named_only => None,
            None => Some(Cow::Owned(String::from_utf8_lossy(name).to_ascii_lowercase())),
        }
    }
}

impl Plugin for RequestValidation {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Rewrite])
    }

    fn rewrite<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        if let Some(schema) = &self.headers
            && let Err(error) = schema.check(ex)
        {
            log::error!("req schema validation failed: {error}");
            return Step::Reply(self.refuse(Some(error)));
        }
        match &self.body {
            Some(schema) => Step::Wait(Box::pin(self.check_body(schema, ex))),
            None => Step::Next,
        }
    }
}

impl RequestValidation {
    fn refuse(&self, error: Option<String>) -> Reply {
        let text = self.rejected_msg.as_deref().map(str::to_owned).or(error);
        let body = text.map_or(ReplyBody::None, |text| ReplyBody::Text(text.into_bytes()));
        Reply { status: self.rejected_code, body }
    }

    async fn check_body(&self, schema: &Schema, ex: &mut Exchange) -> Option<Reply> {
        let body = match ex.req.body.read_ahead(self.max_body_bytes).await {
            Ok(Some(body)) if !body.is_empty() => body,
            Ok(read) => {
                if read.is_none() {
                    log::error!("failed to get body: it is longer than {} bytes", self.max_body_bytes);
                }
                return Some(self.refuse(None));
            }
            Err(error) => return Some(client_body_error(ex, error)),
        };
        if ex.req.head.headers.all(Name::ContentType).count() > 1 {
            // the upstream may read another of them
            log::error!("duplicated Content-Type header");
            return Some(self.refuse(None));
        }
        let is_form = ex.req.head.headers.get(Name::ContentType).is_some_and(is_form);
        let decoded = if is_form { Ok(form(&body)) } else { cjson::read(&body) };
        let mut value = match decoded {
            Ok(value) => value,
            Err(error) => {
                log::error!("failed to decode the req body: {error}");
                return Some(self.refuse(Some(error)));
            }
        };
        if let Err(error) = schema.validate(&mut value) {
            log::error!("req schema validation failed: {error}");
            return Some(self.refuse(Some(error)));
        }
        if !is_form {
            ex.req.body.replace(value.to_string().into_bytes());
        }
        None
    }
}

fn is_form(content_type: &[u8]) -> bool {
    const FORM: &[u8] = b"application/x-www-form-urlencoded";
    content_type.get(..FORM.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(FORM))
}

/// As `ngx.decode_args`: a name without `=` is true, one that stands more than once is a list.
fn form(body: &[u8]) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&uri::decode_component(bytes)).into_owned();
    let mut object = Map::new();
    for (name, value) in uri::args(body) {
        let value = value.map_or(Value::Bool(true), |value| text(value).into());
        match object.get_mut(&text(name)) {
            None => _ = object.insert(text(name), value),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Body;
    use crate::plugins::kit::test;

    /// The answer to a request with this body, or the body that goes upstream.
    fn checked(conf: Value, headers: &str, body: &str) -> String {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, conf);
        let mut ex = test::exchange(&format!("POST / HTTP/1.1\nHost: a\n{headers}"));
        ex.req.body = Body::from_vec(body.as_bytes().to_vec());
        match test::run(&plugin, Phase::Rewrite, &mut ex, &host) {
            Some(Reply { status, body: ReplyBody::Text(text) }) => {
                format!("{status} {}", String::from_utf8(text).unwrap())
            }
            Some(reply) => reply.status.to_string(),
            None => match &ex.req.body {
                Body::Buffered(pieces) => pieces.iter().map(|p| String::from_utf8_lossy(p)).collect(),
                _ => String::new(),
            },
        }
    }

    #[test]
    fn refuses_schemas_that_are_none() {
        for (conf, error) in [
            (json!({}), "object matches none of the required: [\"header_schema\"] or [\"body_schema\"]"),
            (json!({"body_schema": {"type": "test"}}), "invalid JSON type: test"),
            (json!({"body_schema": {"type": "function"}}), "accepted"),
            (
                json!({"header_schema": {"properties": {"a": {"enum": "b"}}}}),
                "bad argument #1 to 'ipairs' (table expected, got string)",
            ),
            (
                json!({"body_schema": {}, "rejected_code": 10000}),
                "property \"rejected_code\" validation failed: expected 10000 to be at most 599",
            ),
        ] {
            assert_eq!(test::check(&SPEC, SchemaType::Plain, conf.clone()), error, "{conf}");
        }
    }

    #[test]
    fn headers() {
        let schema = json!({"type": "object", "required": ["X-A"], "properties": {
            "X-A": {"type": "string"}, "x-b": {"type": "string", "enum": ["1"]}}});
        let conf = json!({"header_schema": schema});
        assert_eq!(checked(conf.clone(), "x-a: 1\nX-B: 1", ""), "");
        assert_eq!(checked(conf.clone(), "X-B: 1", ""), "400 property \"X-A\" is required");
        assert_eq!(
            checked(conf.clone(), "X-A: 1\nX-B: 2", ""),
            "400 property \"x-b\" validation failed: matches none of the enum values"
        );
        assert_eq!(
            checked(conf, "X-A: 1\nX-A: 2", ""),
            "400 property \"X-A\" validation failed: wrong type: expected string, got table"
        );
    }

    #[test]
    fn rules_about_all_headers_see_all() {
        let only =
            json!({"header_schema": {"properties": {"x-a": {}, "host": {}}, "additionalProperties": false}});
        assert_eq!(checked(only.clone(), "X-A: 1", ""), "");
        assert!(checked(only, "X-A: 1\nX-C: 1", "").starts_with("400 additional properties forbidden"));
        let few = json!({"header_schema": {"type": "object", "maxProperties": 2}});
        assert!(checked(few, "X-A: 1\nX-B: 1\nX-C: 1", "").starts_with("400 "));
    }

    #[test]
    fn bodies() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string"}, "b": {"type": "integer", "default": 5}}});
        let conf = json!({"body_schema": schema, "rejected_code": 422, "max_req_body_size": 40});
        assert_eq!(checked(conf.clone(), "", r#"{"a": 1, "a": "x"}"#), r#"{"a":"x","b":5}"#);
        assert_eq!(checked(conf.clone(), "", r#"{"b": 1}"#), "422 property \"a\" is required");
        assert_eq!(checked(conf.clone(), "", ""), "422");
        assert_eq!(checked(conf.clone(), "", &format!("{:50}", "{}")), "422", "too long");
        let no_json = "422 Expected object key string but found T_END at character 2";
        assert_eq!(checked(conf.clone(), "", "{"), no_json);
        let twice = "Content-Type: application/json\nContent-Type: text/plain";
        assert_eq!(checked(conf.clone(), twice, r#"{"a":"x"}"#), "422");
        let form = "Content-Type: Application/x-www-form-urlencoded; charset=utf-8";
        assert_eq!(checked(conf.clone(), form, "a=x+y&c"), "a=x+y&c");
        assert_eq!(
            checked(conf.clone(), form, "a=1&a=2").split(':').next(),
            Some("422 property \"a\" validation failed")
        );
        let mut named = conf;
        named["rejected_msg"] = json!("no");
        assert_eq!(checked(named, "", "{}"), "422 no");
    }
}
