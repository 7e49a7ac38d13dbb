//! Lists: which objects, in what order, which page (apisix/admin/v3_adapter.lua).

use std::collections::HashMap;

use pcre2::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use super::message::Args;
use crate::model::{Kind, id_text};

/// One object of a list, as the Admin API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The full key.
    pub key: String,
    /// The object.
    pub value: Value,
    /// Revision of its creation.
    pub created: i64,
    /// Revision of its last change.
    pub modified: i64,
}

/// What of a list is shown.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// The objects.
    pub items: Vec<Item>,
    /// How many the filters let through, on all pages together.
    pub total: usize,
}

/// Applies the filters and the page of the query. The error is a 400's text.
pub fn select(mut items: Vec<Item>, args: &Args, kind: Kind) -> Result<Page, String> {
    let filters = Filters::read(args, kind)?;
    items.retain(|item| filters.let_through(&item.value));
    let total = items.len();
    let (Some(page), Some(size)) = (number(args, "page"), number(args, "page_size")) else {
        return Ok(Page { items, total });
    };
    if !(10.0..=500.0).contains(&size) {
        return Err("page_size must be between 10 and 500".into());
    }
    let (page, size) = (page.max(1.0) as usize, size as usize);
    items.sort_by_key(|item| item.created);
    let items = items.into_iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    Ok(Page { items, total })
}

fn number(args: &Args, name: &str) -> Option<f64> {
    args.get(name)?.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

struct Filters {
    name: Option<Regex>,
    uri: Option<Regex>,
    label: Option<String>,
    /// Fields that must have these values.
    fields: HashMap<String, String>,
}

impl Filters {
    fn read(args: &Args, kind: Kind) -> Result<Filters, String> {
        let fields = Args::parse(args.get("filter").unwrap_or(""));
        let fields = fields.iter().filter(|(field, _)| {
            let known = fields_of(kind).contains(field);
            if !known {
                log::warn!("filter field '{field}' is not supported by resource: {}", kind.directory());
            }
            known
        });
        // Of a field that is named twice the last value counts.
        let fields: HashMap<String, String> =
            fields.map(|(f, value)| (f.to_owned(), value.to_owned())).collect();
        Ok(Filters {
            name: args.get("name").map(regex).transpose()?,
            uri: args.get("uri").map(regex).transpose()?,
            label: args.get("label").map(str::to_owned),
            fields,
        })
    }

    fn let_through(&self, value: &Value) -> bool {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let uris = || {
            let many = value.get("uris").and_then(Value::as_array).into_iter().flatten();
            text("uri").into_iter().chain(many.filter_map(Value::as_str))
        };
        self.name.as_ref().is_none_or(|regex| text("name").is_some_and(|name| found(regex, name)))
            && self.uri.as_ref().is_none_or(|regex| uris().any(|uri| found(regex, uri)))
            && self
                .label
                .as_ref()
                .is_none_or(|label| value.pointer("/labels").is_some_and(|l| l.get(label).is_some()))
            && self
                .fields
                .iter()
                .all(|(field, wanted)| value.get(field).and_then(id_text).is_some_and(|id| *id == **wanted))
    }
}

/// The fields that `filter` knows (`list_filter_fields` of apisix/admin/routes.lua and stream_routes.lua).
fn fields_of(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Route | Kind::StreamRoute => &["service_id", "upstream_id"],
        _ => &[],
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new().jit_if_available(true).build(pattern).map_err(|e| format!("invalid pattern: {e}"))
}

fn found(regex: &Regex, text: &str) -> bool {
    regex.is_match(text.as_bytes()).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items() -> Vec<Item> {
        let values = [
            json!({"name": "alpha", "uri": "/a/one", "labels": {"env": "prod"}, "service_id": 1}),
            json!({"name": "beta", "uris": ["/b", "/a/two"], "service_id": "1", "upstream_id": "u"}),
            json!({"uri": "/c"}),
        ];
        let item =
            |(n, value)| Item { key: format!("/apisix/routes/{n}"), value, created: 10 - n, modified: n };
        (0..).zip(values).map(item).collect()
    }

    fn names(query: &str) -> Vec<String> {
        let page = select(items(), &Args::parse(query), Kind::Route).unwrap();
        assert!(query.contains("page") || page.total == page.items.len());
        page.items.into_iter().map(|item| item.key.rsplit('/').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn filters() {
        let table: [(&str, &[&str]); 11] = [
            ("", &["0", "1", "2"]),
            ("name=a", &["0", "1"]),
            ("name=^al", &["0"]),
            ("uri=^/a/", &["0", "1"]),
            ("label=env", &["0"]),
            ("filter=service_id%3D1", &["0", "1"]),
            ("filter=service_id%3D1%26upstream_id%3Du", &["1"]),
            ("filter=service_id%3D2%26service_id%3D1", &["0", "1"]),
            ("filter=unknown%3D1", &["0", "1", "2"]),
            ("name=beta&label=env", &[]),
            ("page=1", &["0", "1", "2"]),
        ];
        for (query, expected) in table {
            assert_eq!(names(query), expected, "{query}");
        }
    }

    #[test]
    fn pages_are_in_order_of_creation() {
        assert_eq!(names("page=1&page_size=10"), ["2", "1", "0"]);
        assert_eq!(names("page=0&page_size=10"), ["2", "1", "0"]);
        assert!(names("page=2&page_size=10").is_empty());
        let total = select(items(), &Args::parse("page=2&page_size=10"), Kind::Route).unwrap().total;
        assert_eq!(total, 3);
        for size in ["9", "501", "0"] {
            let args = Args::parse(&format!("page=1&page_size={size}"));
            let error = select(items(), &args, Kind::Route).unwrap_err();
            assert_eq!(error, "page_size must be between 10 and 500");
        }
    }
}
