//! $variables in conditions and templates: pure functions over an exchange.
