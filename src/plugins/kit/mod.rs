//! What several plugins share.

pub mod batch;
pub mod collector;
pub mod http;
pub mod log_entry;
pub mod log_files;
#[cfg(test)]
pub mod test;
pub mod version;
