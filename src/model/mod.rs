//! Configuration objects as the operator wrote them: immutable, shared behind `Arc`.

pub mod address;
pub mod check;
pub mod cjson;
pub mod delta;
pub mod id;
pub mod json_path;
pub mod parse;
pub mod schema;
pub mod schemas;
pub mod types;

pub use id::*;
pub use types::*;
