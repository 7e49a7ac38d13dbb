//! What several plugins share.

#[cfg(test)]
pub mod test;
pub mod version;
