//! The control thread: everything that is not on the road of a request. Where configuration comes from
//! ([`store`]), how it reaches the cores ([`feed`]), and the HTTP services for people and machines
//! ([`admin`], [`control_api`], [`metrics_server`]).

pub mod dns;
pub mod probe;
pub mod admin;
pub mod applied;
pub mod encryption;
pub mod feed;
pub mod plugins;
pub mod store;
pub mod nodes;
