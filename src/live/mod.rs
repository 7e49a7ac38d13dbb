//! The configuration as one core runs it.
