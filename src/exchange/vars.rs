//! Variables by their nginx and APISIX names.

use std::borrow::Cow;

/// Something that has `$variables`: an exchange, or a table in a test.
pub trait Vars {
    /// The value of `$name` (without the `$`), or `None` where nginx would have no value.
    fn var(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}
