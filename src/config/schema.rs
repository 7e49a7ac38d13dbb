//! Options whose values APISIX checks by JSON Schema (apisix/cli/schema.lua), where a type alone does not say what is
//! right. The texts are those of that schema.

use serde_json::{Map, Value, json};

use super::Notes;
use super::yaml::Node;
use crate::model::schema::Schema;
use crate::model::schemas::ip_or_net;

/// Each option by its path, with its schema.
fn checked() -> [(&'static str, Value); 10] {
    let list_of = |item: Value| json!({"type": "array", "minItems": 1, "items": item});
    let texts = list_of(json!({"type": "string"}));
    // What a process can hand on in its environment.
    let variables = list_of(json!({"type": "string", "pattern": r"\A[^\x00-\x1f]*\z"}));
    let port = json!([{"type": "integer"}, {"type": "string"}]);
    let listeners = |kinds: Value| json!({"type": "array", "minItems": 1, "items": {"anyOf": kinds}, "uniqueItems": true});
    let listener = json!({
        "type": "object",
        "properties": {
            "addr": {"anyOf": port},
            "tls": {"type": "boolean"},
            "proxy_protocol": {"type": "boolean"},
            "proxy_protocol_to_upstream": {"type": "boolean"},
        },
        "required": ["addr"],
    });
    let zone_fields = ["name", "memory_size", "disk_size", "disk_path", "cache_levels"];
    let text_fields: Map<String, Value> =
        zone_fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
    let zone = json!({
        "type": "object",
        "properties": text_fields,
        "oneOf": [
            {"required": ["name", "memory_size"], "maxProperties": 2},
            {"required": zone_fields},
        ],
    });
    let wasm = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "file": {"type": "string"},
            "priority": {"type": "integer"},
            "http_request_phase": {"enum": ["access", "rewrite"], "default": "access"},
        },
        "required": ["name", "file", "priority"],
    });
    [
        // How long the keys are says read.rs: what is wrong with one is said without showing it.
        (
            "apisix.data_encryption.keyring",
            json!({"anyOf": [{"type": "array", "minItems": 1}, {"type": "string"}]}),
        ),
        ("apisix.dns_resolver", texts),
        ("apisix.dns_resolver_valid", json!({"type": "integer"})),
        ("apisix.lua_module_hook", json!({"pattern": "^[a-zA-Z._-]+$"})),
        (
            "apisix.proxy_cache.zones",
            json!({"type": "array", "minItems": 1, "items": zone, "uniqueItems": true}),
        ),
        ("apisix.stream_proxy.tcp", listeners(json!([port[0], port[1], listener]))),
        ("apisix.stream_proxy.udp", listeners(port)),
        (
            "apisix.trusted_addresses",
            json!({"type": "array", "minItems": 1, "items": {"anyOf": ip_or_net()}, "uniqueItems": true}),
        ),
        ("nginx_config.envs", variables),
        ("wasm.plugins", json!({"type": "array", "minItems": 1, "items": wasm})),
    ]
}

/// Why a schema refuses a value, if it does.
pub(super) fn refusal(schema: Value, node: &Node) -> Option<String> {
    Schema::compile(schema).and_then(|schema| schema.check(&node.to_json())).err()
}

/// Checks the options that are there.
pub(super) fn check(tree: &Node, notes: &mut Notes) {
    for (path, schema) in checked() {
        let Some(node) = path.split('.').try_fold(tree, |node, step| node.get(step)) else { continue };
        if let Some(why) = refusal(schema, node) {
            let place: String =
                path.split('.').map(|step| format!("property \"{step}\" validation failed: ")).collect();
            notes.error(node.line, format!("failed to validate config: {place}{why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load_text;

    fn error(text: &str) -> String {
        load_text(text, &|_| None).map_or_else(|failure| failure.to_string(), |_| "accepted".to_owned())
    }

    #[test]
    fn trusted_addresses() {
        const PLACE: &str = "line 2: failed to validate config: property \"apisix\" validation failed: property \
                             \"trusted_addresses\" validation failed: ";
        for (value, why) in [
            ("127.0.0.1", "wrong type: expected array, got string"),
            ("[]", "expect array to have at least 1 items"),
            ("[127.0.0.1, 123]", "failed to validate item 2: object matches none of the required"),
            ("['127.0.0']", "failed to validate item 1: object matches none of the required"),
            ("[127.0.0.0/33]", "failed to validate item 1: object matches none of the required"),
            ("[127.0.0.1, 192.168.1.1, 127.0.0.1]", "expected unique items but items 1 and 3 are equal"),
        ] {
            assert_eq!(error(&format!("apisix:\n  trusted_addresses: {value}\n")), format!("{PLACE}{why}"));
        }
        for value in ["[127.0.0.1]", "[127.0.0.0/24]", "['::1', 'fe80::/10']"] {
            assert_eq!(error(&format!("apisix:\n  trusted_addresses: {value}\n")), "accepted", "{value}");
        }
    }

    #[test]
    fn other_options() {
        for (text, why) in [
            (
                "apisix: {dns_resolver_valid: /apisix}",
                "property \"dns_resolver_valid\" validation failed: wrong type: expected integer, got string",
            ),
            ("apisix: {dns_resolver: []}", "expect array to have at least 1 items"),
            ("apisix: {proxy_cache: {zones: [{name: a}]}}", "value should match only one schema"),
            (
                "apisix: {lua_module_hook: example/my_hook}",
                "property \"lua_module_hook\" validation failed: failed to match pattern",
            ),
            (
                "apisix: {data_encryption: {keyring: []}}",
                "property \"keyring\" validation failed: object matches none of the required",
            ),
            (
                "nginx_config: {envs: [A, \"B=b\\nc\"]}",
                "property \"envs\" validation failed: failed to validate item 2: failed to match pattern",
            ),
            ("apisix: {stream_proxy: {tcp: [{tls: true}]}}", "object matches none of the required"),
            (
                "apisix: {stream_proxy: {tcp: [80.5]}}",
                "failed to validate item 1: object matches none of the required",
            ),
            ("wasm: {plugins: [{name: a, file: b}]}", "property \"priority\" is required"),
        ] {
            assert!(error(text).contains(why), "{text}: {}", error(text));
        }
        for text in [
            "apisix: {dns_resolver_valid: 30}",
            "apisix: {stream_proxy: {tcp: ['localhost:9100', 9101, {addr: 9102, tls: true}], udp: [9200]}}",
            "apisix: {proxy_cache: {zones: [{name: a, memory_size: 1m}]}}",
            "apisix: {proxy_cache: {zones: [{name: a, disk_path: /tmp/a, disk_size: 100m, memory_size: 20m, \
             cache_levels: '1:2'}]}}",
            "apisix: {lua_module_hook: my_hook}",
            "apisix: {data_encryption: {keyring: [qeddd145sfvddff3qeddd145sfvddff3, qeddd145sfvddff3]}}",
            "apisix: {data_encryption: {keyring: ~}}",
            r#"nginx_config: {envs: [A, A=a b, "A=a\"b\\c"]}"#,
        ] {
            assert_eq!(error(text), "accepted", "{text}");
        }
    }
}
