//! `ocsp-stapling`: shows clients what the authority says of a certificate (apisix/plugins/ocsp-stapling.lua).
//!
//! ```json
//! {
//!   "uri": "/*",
//!   "plugins": { "ocsp-stapling": {} }
//! }
//! ```
//!
//! The plugin does nothing on a route; APISIX wants it in `plugins` of config.yaml, here it need not stand there. What
//! counts is the option `ocsp_stapling` of an ssl object: `enabled`, `skip_verify` (show what the responder says
//! without a look at it) and `cache_ttl` (seconds between two questions, 3600). The certificate names its responder,
//! and its chain must hold its issuer.
//!
//! Phases: none.
//!
//! Known differences: the responder is asked when the ssl object comes and not by its first client, for each of its
//! certificates and not for the last one, and again in half the time for which its response is good if that is
//! sooner. While it cannot be reached the last good response is shown, as long as it is good.

use super::kit::off_route;
use crate::plugin::Spec;

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "ocsp-stapling",
    priority: -44,
    schema: r#"{"type": "object", "properties": {}}"#,
    build: off_route::build,
    ..Spec::PLAIN
};
