//! Plugins that do nothing on a route: what they are for is elsewhere, and begins when the operator enables them.

use std::rc::Rc;

use serde_json::Value;

use crate::plugin::{Build, Built, Phases, Plugin};

/// `build` of such a plugin.
pub fn build(_: &Value, _: &Build) -> Built {
    Ok(Rc::new(OffRoute))
}

struct OffRoute;

impl Plugin for OffRoute {
    fn phases(&self) -> Phases {
        Phases::default()
    }
}
