//! $variables in conditions and templates: pure functions over an exchange.

pub mod condition;
pub mod ip;
pub mod number;
pub mod regex;
pub mod template;

pub use condition::Expr;
pub use ip::IpNets;
pub use regex::{Pattern, Replacement};
pub use template::Template;
