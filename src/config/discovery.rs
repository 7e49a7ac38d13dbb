//! What `discovery` may say. ringway discovers no services yet; a file that is wrong about it is refused all the same,
//! with APISIX's texts (apisix/discovery/*/schema.lua), so that `ringway test` judges a file as APISIX does.

use serde_json::{Value, json};

use super::Notes;
use super::schema::refusal;
use super::yaml::{Data, Node};

/// Checks each kind of discovery that is configured. One that nobody knows is passed over, as in APISIX.
pub(super) fn check(tree: &Node, notes: &mut Notes) {
    let Some(Data::Map(kinds)) = tree.get("discovery").map(|node| &node.data) else { return };
    for (kind, node) in kinds {
        if let Some(why) = schema(kind).and_then(|schema| refusal(schema, node)) {
            notes.error(node.line, format!("invalid discovery {kind} configuration: {why}"));
        }
    }
}

fn schema(kind: &str) -> Option<Value> {
    Some(match kind {
        "consul" => consul("skip_services"),
        "consul_kv" => consul("skip_keys"),
        "dns" => dns(),
        "eureka" => eureka(),
        "kubernetes" => kubernetes(),
        "nacos" => nacos(),
        "tars" => tars(),
        _ => return None,
    })
}

fn at_least(minimum: i64) -> Value {
    json!({"type": "integer", "minimum": minimum})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn texts() -> Value {
    json!({"type": "array", "minItems": 1, "items": text()})
}

fn patterned(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

/// Times to wait, each by its name.
fn timeout(steps: [&str; 3]) -> Value {
    let steps: serde_json::Map<_, _> = steps.iter().map(|step| ((*step).to_owned(), at_least(1))).collect();
    json!({"type": "object", "properties": steps})
}

/// Both kinds; `skipped` is the list of what is left out. What only one of them has is not looked at in the other.
fn consul(skipped: &str) -> Value {
    let integer = json!({"type": "integer"});
    let weights = json!({"fail_timeout": integer, "weight": integer, "max_fails": integer});
    let mut schema = json!({
        "type": "object",
        "properties": {
            "servers": texts(),
            "token": text(),
            "fetch_interval": at_least(1),
            "keepalive": {"type": "boolean"},
            "weight": at_least(1),
            "timeout": timeout(["connect", "read", "wait"]),
            "dump": {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "minLength": 1},
                    "load_on_init": {"type": "boolean"},
                    "expire": integer,
                },
                "required": ["path"],
            },
            "default_service": {
                "type": "object",
                "properties": {
                    "host": text(),
                    "port": integer,
                    "metadata": {"type": "object", "properties": weights},
                },
            },
        },
        "required": ["servers"],
    });
    let properties = &mut schema["properties"];
    properties[skipped] = texts();
    if skipped == "skip_keys" {
        properties["prefix"] = text();
    } else {
        properties["shared_size"] = patterned("^[1-9][0-9]*m$");
        properties["sort_type"] = json!({"enum": ["origin", "host_sort", "port_sort", "combine_sort"]});
    }
    schema
}

fn dns() -> Value {
    json!({
        "type": "object",
        "properties": {
            "servers": texts(),
            "resolv_conf": text(),
            "order": {
                "type": "array",
                "minItems": 1,
                "maxItems": 5,
                "uniqueItems": true,
                "items": {"enum": ["last", "SRV", "A", "AAAA", "CNAME"]},
            },
        },
        "oneOf": [{"required": ["servers"]}, {"required": ["resolv_conf"]}],
    })
}

fn eureka() -> Value {
    json!({
        "type": "object",
        "properties": {
            "host": texts(),
            "fetch_interval": at_least(1),
            "prefix": text(),
            "weight": at_least(0),
            "timeout": timeout(["connect", "send", "read"]),
        },
        "required": ["host"],
    })
}

/// One cluster, or several with an `id` each.
fn kubernetes() -> Value {
    let variable = r"^\$\{[_A-Za-z]([_A-Za-z0-9]*[_A-Za-z])*\}$";
    let host = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
    let port = r"^([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])$";
    let or_variable =
        |pattern: &str| json!({"type": "string", "oneOf": [{"pattern": variable}, {"pattern": pattern}]});
    let service = json!({
        "type": "object",
        "properties": {
            "schema": {"type": "string", "enum": ["http", "https"]},
            "host": or_variable(host),
            "port": or_variable(port),
            "ssl_verify": {"type": "boolean"},
        },
    });
    let client = json!({
        "type": "object",
        "properties": {
            "token": or_variable(r"^[A-Za-z0-9+/._=-]{0,4096}$"),
            "token_file": {"type": "string", "pattern": r#"^[^\:*?"<>|]*$"#, "minLength": 1, "maxLength": 500},
        },
    });
    let name = patterned("^[a-z0-9]([-a-z0-9_.]*[a-z0-9])?$");
    let names = json!({"type": "array", "minItems": 1, "items": patterned(r"^[\x21-\x7e]*$")});
    let one = json!({
        "type": "object",
        "properties": {
            "service": service,
            "client": client,
            "namespace_selector": {
                "type": "object",
                "properties": {"equal": name, "not_equal": name, "match": names, "not_match": names},
            },
            "label_selector": text(),
            "default_weight": at_least(0),
            "shared_size": patterned("^[1-9][0-9]*m$"),
            "watch_endpoint_slices": {"type": "boolean"},
        },
    });
    let mut of_many = one.clone();
    of_many["properties"]["id"] = patterned("^[a-z0-9]{1,64}$");
    of_many["properties"]["service"]["required"] = json!(["host", "port"]);
    of_many["properties"]["client"]["oneOf"] = json!([{"required": ["token"]}, {"required": ["token_file"]}]);
    of_many["required"] = json!(["id", "service", "client"]);
    json!({"anyOf": [one, {"type": "array", "minItems": 1, "items": of_many}]})
}

fn nacos() -> Value {
    let mut host = patterned(r"^http(s)?:\/\/([a-zA-Z0-9-_.]+:.+\@)?[a-zA-Z0-9-_.:]+$");
    host["minLength"] = json!(2);
    host["maxLength"] = json!(100);
    let mut prefix = patterned(r"^[\/a-zA-Z0-9-_.]+$");
    prefix["maxLength"] = json!(100);
    json!({
        "type": "object",
        "properties": {
            "host": {"type": "array", "minItems": 1, "items": host},
            "fetch_interval": at_least(1),
            "prefix": prefix,
            "weight": at_least(1),
            "timeout": timeout(["connect", "send", "read"]),
            "access_key": text(),
            "secret_key": text(),
        },
        "required": ["host"],
    })
}

fn tars() -> Value {
    let word = json!({"type": "string", "minLength": 1, "maxLength": 64});
    let mut host = patterned(r"^([a-zA-Z0-9-_.]+:.+\@)?[a-zA-Z0-9-_.:]+$");
    host["minLength"] = json!(1);
    host["maxLength"] = json!(500);
    let between =
        |minimum: u32, maximum: u32| json!({"type": "integer", "minimum": minimum, "maximum": maximum});
    json!({
        "type": "object",
        "properties": {
            "db_conf": {
                "type": "object",
                "properties": {
                    "host": host,
                    "port": between(1, 65535),
                    "database": word,
                    "user": word,
                    "password": word,
                },
                "required": ["host", "database", "user", "password"],
            },
            "full_fetch_interval": between(90, 3600),
            "incremental_fetch_interval": between(5, 60),
            "default_weight": between(0, 100),
        },
        "required": ["db_conf"],
    })
}

#[cfg(test)]
mod tests {
    use crate::config::load_text;

    fn outcome(kind: &str) -> Result<(), String> {
        let text = format!("discovery:\n  {kind}\n");
        load_text(&text, &|_| None).map(drop).map_err(|failure| failure.to_string())
    }

    /// t/cli/test_validate_config.sh
    #[test]
    fn a_wrong_discovery_stops_the_start() {
        for (kind, why) in [
            (
                "nacos: {host: '127.0.0.1'}",
                "nacos configuration: property \"host\" validation failed: wrong type: expected array, got string",
            ),
            ("eureka: {weight: 1}", "eureka configuration: property \"host\" is required"),
            (
                "consul: {servers: [a], sort_type: x}",
                "consul configuration: property \"sort_type\" validation failed: matches none of the enum values",
            ),
            (
                "consul_kv: {servers: []}",
                "consul_kv configuration: property \"servers\" validation failed: expect array to have at least 1 items",
            ),
            (
                "dns: {servers: [a], resolv_conf: b}",
                "dns configuration: value should match only one schema, but matches both schemas 1 and 2",
            ),
            ("tars: {}", "tars configuration: property \"db_conf\" is required"),
            ("kubernetes: [{id: a}]", "kubernetes configuration: object matches none of the required"),
            (
                "kubernetes: {service: {port: '70000'}}",
                "kubernetes configuration: object matches none of the required",
            ),
        ] {
            assert_eq!(outcome(kind), Err(format!("line 2: invalid discovery {why}")), "{kind}");
        }
        for kind in [
            "unknown: {host: '127.0.0.1'}",
            "nacos: {host: ['http://nacos:secret@127.0.0.1:8848'], prefix: /nacos/v1/, timeout: {connect: 2000}}",
            "eureka: {host: ['http://127.0.0.1:8761'], weight: 0}",
            "consul: {servers: ['http://127.0.0.1:8500'], sort_type: host_sort, skip_services: [a]}",
            "consul_kv: {servers: ['http://127.0.0.1:8500'], prefix: upstreams}",
            "dns: {servers: ['127.0.0.1:8600'], order: [last, SRV]}",
            "tars: {db_conf: {host: 127.0.0.1, database: d, user: u, password: p}}",
            "kubernetes: {}",
            "kubernetes: {service: {host: '${KUBERNETES_SERVICE_HOST}', port: '6443'}, client: {token: a.b}}",
            "kubernetes: [{id: a, service: {host: k8s, port: '443'}, client: {token_file: /t}}]",
        ] {
            assert_eq!(outcome(kind), Ok(()), "{kind}");
        }
    }
}
