//! Every bound in the program, each with its reason. A bound that a user can set lives in
//! `config`; here are the others, and the defaults' ceilings. A file for each part of the house; all are known as `limits::NAME`.

mod control;
mod cores;
mod h2;
mod http;
mod model;
mod plugins;
mod pubsub;
mod quic;
mod stream;
mod telemetry;

pub use control::*;
pub use cores::*;
pub use h2::*;
pub use http::*;
pub use model::*;
pub use plugins::*;
pub use pubsub::*;
pub use quic::*;
pub use stream::*;
pub use telemetry::*;
