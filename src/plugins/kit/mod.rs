//! What several plugins share.

pub mod http;
#[cfg(test)]
pub mod test;
pub mod version;
