//! One file per plugin, named as in APISIX; this file is the registry. How to add one: `README.md` beside it.

pub mod ip_restriction;
pub mod key_auth;
pub mod kit;
pub mod limit_count;
pub mod prometheus;
pub mod proxy_rewrite;
pub mod response_rewrite;

use crate::plugin::{Registry, Spec};

/// All plugins of this build, by priority.
pub const ALL: &[&Spec] = &[
    &ip_restriction::SPEC,   // 3000
    &key_auth::SPEC,         // 2500
    &proxy_rewrite::SPEC,    // 1008
    &limit_count::SPEC,      // 1002
    &response_rewrite::SPEC, // 899
    &prometheus::SPEC,       // 500
];

/// The registry that control and the cores share.
pub fn registry() -> Registry {
    Registry::new(ALL)
}

#[cfg(test)]
mod tests;
