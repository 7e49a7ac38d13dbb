//! The control thread: everything that is not on the road of a request. Where configuration comes from
//! ([`store`]), how it reaches the cores ([`feed`]), and the HTTP services for people and machines
//! ([`admin`], [`control_api`]).

pub mod admin;
pub mod applied;
pub mod call;
pub mod certificates;
pub mod control_api;
pub mod debug;
pub mod dns;
pub mod encryption;
pub mod feed;
pub mod nodes;
pub mod outbox;
pub mod pid_file;
pub mod plugin_lists;
pub mod plugins;
pub mod probe;
pub mod reload;
pub mod rotation;
pub mod run;
pub mod scrape;
pub mod secrets;
pub mod server_info;
pub mod store;
pub mod switchboard;
