//! One request and its answer, whatever the HTTP version.

pub mod vars;

pub use vars::Vars;
