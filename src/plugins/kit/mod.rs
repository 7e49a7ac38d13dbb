//! What several plugins share.

pub mod auth;
pub mod base64;
pub mod batch;
pub mod batch_logger;
pub mod collector;
pub mod content_coding;
pub mod headers;
pub mod http;
pub mod json;
pub mod limit;
pub mod log_entry;
pub mod log_json;
pub mod log_session;
pub mod logger;
pub mod off_route;
pub mod place;
pub mod random;
pub mod restriction;
#[cfg(test)]
pub mod test;
pub mod version;
