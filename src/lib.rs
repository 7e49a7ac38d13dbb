//! ringway: a thread-per-core, shared-nothing io_uring API gateway that takes the place of Apache APISIX.
//!
//! The rooms below are declared in the order in which they may use each other: a room imports only rooms
//! above it (`tests/tidy.rs` checks that). `src/README.md` is the map and shows the road of a request.

#![deny(unsafe_code)] // allowed again in reactor/ only
#![warn(missing_docs)]

pub mod limits;
pub mod reactor;
pub mod wire;
pub mod telemetry;
pub mod model;
pub mod config;
pub mod mail;
pub mod transport;
pub mod exchange;
pub mod expr;
pub mod conn;
pub mod client;
pub mod plugin;
pub mod upstream;
pub mod live;
pub mod pubsub;
pub mod gate;
pub mod stream;
pub mod plugins;
pub mod control;
pub mod shard;
pub mod verbs;
