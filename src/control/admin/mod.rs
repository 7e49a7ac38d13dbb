//! The Admin API.

pub mod list;
pub mod message;
pub mod patch;
