//! `headers` of proxy-rewrite and response-rewrite.

use serde_json::{Map, Value};

/// Is it in the form `{add, set, remove}`, and not the older `{name: value}`?
pub fn has_operations(headers: &Map<String, Value>) -> bool {
    let table = |key: &str| headers.get(key).is_some_and(|value| value.is_object() || value.is_array());
    table("add") || table("set") || table("remove")
}
