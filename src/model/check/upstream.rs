//! Upstreams, stored or inline (apisix/upstream.lua, `check_upstream_conf`).

use std::net::Ipv6Addr;

use serde_json::Value;

use super::Lookups;
use super::certificate::check_pair;
use super::object::{check_reference, with_defaults};
use crate::model::address::split_address;
use crate::model::id::{Kind, id_text};
use crate::model::schema::number_text;
use crate::model::schemas::{HASH_HEADER, HASH_VARS, HASH_VARS_COMBINATIONS};

type Outcome = Result<(), String>;

/// As the Admin API checks it.
pub(super) fn check_upstream(value: &Value, lookups: &dyn Lookups) -> Outcome {
    for node in value.get("nodes").and_then(Value::as_array).into_iter().flatten() {
        if node.get("host").and_then(Value::as_str).is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()) {
            return Err("invalid configuration: IPv6 address must be enclosed with '[' and ']'".to_owned());
        }
    }
    let value = with_defaults(Kind::Upstream, value)?;
    ports(&value)?;
    client_certificate_id(&value, lookups)?;
    pass_host(&value)?;
    let pem = |name: &str| value.pointer(&format!("/tls/{name}")).and_then(Value::as_str);
    if let Some(cert) = pem("client_cert") {
        check_pair(cert, pem("client_key"), lookups)?;
    }
    hash_key(&value)
}

/// The rules beyond the schema that APISIX also applies to what it reads from the store.
pub fn check_upstream_in_data_plane(value: &Value) -> Outcome {
    pass_host(value)?;
    hash_key(value)
}

/// Ports in a map of nodes are beyond the schema's reach.
fn ports(value: &Value) -> Outcome {
    for address in value.get("nodes").and_then(Value::as_object).into_iter().flat_map(|nodes| nodes.keys()) {
        let port = split_address(address).1.and_then(|port| port.parse::<f64>().ok());
        if let Some(port) = port.filter(|port| !(1.0..=65_535.0).contains(port)) {
            return Err(format!("invalid port {}", number_text(port)));
        }
    }
    Ok(())
}

fn client_certificate_id(value: &Value, lookups: &dyn Lookups) -> Outcome {
    let Some(tls) = value.get("tls") else { return Ok(()) };
    check_reference(tls, "client_cert_id", Kind::Ssl, lookups)?;
    let Some(id) = tls.get("client_cert_id").and_then(id_text) else { return Ok(()) };
    match lookups.get(Kind::Ssl, &id) {
        Some(ssl) if ssl.get("type").is_none_or(|of| of != "client") => {
            Err(format!("failed to fetch ssl info by ssl id [{id}], wrong ssl type"))
        }
        _ => Ok(()),
    }
}

fn pass_host(value: &Value) -> Outcome {
    let host = value.get("upstream_host").and_then(Value::as_str).unwrap_or_default();
    if value.get("pass_host").is_some_and(|mode| mode == "rewrite") && host.is_empty() {
        return Err("`upstream_host` can't be empty when `pass_host` is `rewrite`".to_owned());
    }
    Ok(())
}

fn hash_key(value: &Value) -> Outcome {
    if value.get("type").is_none_or(|of| of != "chash") {
        return Ok(());
    }
    let hash_on = value.get("hash_on").and_then(Value::as_str).unwrap_or("vars");
    let schema = match hash_on {
        "consumer" => return Ok(()),
        "vars" => &HASH_VARS,
        "header" | "cookie" => &HASH_HEADER,
        _ => &HASH_VARS_COMBINATIONS,
    };
    let key = value.get("key").ok_or("missing key")?;
    schema.check(key).map_err(|error| format!("invalid configuration: {error}"))
}
