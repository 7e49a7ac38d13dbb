//! The plugins of stream routes (apisix/stream/plugins/*.lua). Those that serve requests, too, stand in one file for
//! both, with a `STREAM` beside their `SPEC`: schemas differ, what they do does not. Their access phase is APISIX's
//! preread.

use super::{ip_restriction, limit_conn, mqtt_proxy, prometheus, syslog, traffic_split};
use crate::plugin::{Registry, Spec};

/// The plugins that stream routes may have, by priority.
const ALL: &[&Spec] = &[
    &ip_restriction::SPEC, // 3000
    &limit_conn::STREAM,   // 1003
    &mqtt_proxy::SPEC,     // 1000
    &traffic_split::SPEC,  // 966
    &prometheus::STREAM,   // 500
    &syslog::STREAM,       // 401
];

/// Their registry.
pub fn registry() -> Registry {
    Registry::new(ALL)
}
