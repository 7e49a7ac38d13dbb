//! The configuration as one core runs it.

pub mod router;
