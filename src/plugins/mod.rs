//! One file per plugin, named as in APISIX; this file is the registry. How to add one: `README.md` beside it.

pub mod api_breaker;
pub mod attach_consumer_label;
pub mod basic_auth;
pub mod batch_requests;
pub mod client_control;
pub mod consumer_restriction;
pub mod cors;
pub mod csrf;
pub mod echo;
pub mod example_plugin;
pub mod fault_injection;
pub mod file_logger;
pub mod forward_auth;
pub mod gzip;
pub mod hmac_auth;
pub mod http_logger;
pub mod ip_restriction;
pub mod jwt_auth;
pub mod kafka_proxy;
pub mod key_auth;
pub mod kit;
pub mod limit_conn;
pub mod limit_count;
pub mod limit_req;
pub mod log_rotate;
pub mod mocking;
pub mod mqtt_proxy;
pub mod multi_auth;
pub mod node_status;
pub mod ocsp_stapling;
pub mod prometheus;
pub mod proxy_buffering;
pub mod proxy_control;
pub mod proxy_mirror;
pub mod proxy_rewrite;
pub mod public_api;
pub mod real_ip;
pub mod redirect;
pub mod referer_restriction;
pub mod request_id;
pub mod request_validation;
pub mod response_rewrite;
pub mod server_info;
pub mod stream;
pub mod syslog;
pub mod tcp_logger;
pub mod traffic_split;
pub mod ua_restriction;
pub mod udp_logger;
pub mod uri_blocker;
pub mod workflow;

use crate::plugin::{Registry, Spec};

/// All plugins of this build, by priority.
pub const ALL: &[&Spec] = &[
    &real_ip::SPEC,               // 23000
    &client_control::SPEC,        // 22000
    &proxy_buffering::SPEC,       // 21991
    &proxy_control::SPEC,         // 21990
    &request_id::SPEC,            // 12015
    &fault_injection::SPEC,       // 11000
    &mocking::SPEC,               // 10900
    &batch_requests::SPEC,        // 4010
    &cors::SPEC,                  // 4000
    &ip_restriction::SPEC,        // 3000
    &ua_restriction::SPEC,        // 2999
    &referer_restriction::SPEC,   // 2990
    &csrf::SPEC,                  // 2980
    &uri_blocker::SPEC,           // 2900
    &request_validation::SPEC,    // 2800
    &multi_auth::SPEC,            // 2600
    &hmac_auth::SPEC,             // 2530
    &basic_auth::SPEC,            // 2520
    &jwt_auth::SPEC,              // 2510
    &key_auth::SPEC,              // 2500
    &consumer_restriction::SPEC,  // 2400
    &attach_consumer_label::SPEC, // 2399
    &forward_auth::SPEC,          // 2002
    &proxy_mirror::SPEC,          // 1010
    &proxy_rewrite::SPEC,         // 1008
    &workflow::SPEC,              // 1006
    &api_breaker::SPEC,           // 1005
    &limit_conn::SPEC,            // 1003
    &limit_count::SPEC,           // 1002
    &limit_req::SPEC,             // 1001
    &node_status::SPEC,           // 1000
    &gzip::SPEC,                  // 995
    &server_info::SPEC,           // 990
    &traffic_split::SPEC,         // 966
    &redirect::SPEC,              // 900
    &response_rewrite::SPEC,      // 899
    &kafka_proxy::SPEC,           // 508
    &public_api::SPEC,            // 501
    &prometheus::SPEC,            // 500
    &echo::SPEC,                  // 412
    &http_logger::SPEC,           // 410
    &tcp_logger::SPEC,            // 405
    &syslog::SPEC,                // 401
    &udp_logger::SPEC,            // 400
    &file_logger::SPEC,           // 399
    &log_rotate::SPEC,            // 100
    &example_plugin::SPEC,        // 0
    &ocsp_stapling::SPEC,         // -44
];

/// The registry that control and the cores share.
pub fn registry() -> Registry {
    Registry::new(ALL)
}

#[cfg(test)]
mod nonsense;
#[cfg(test)]
mod tests;
