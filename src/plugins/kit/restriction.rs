//! The verdict of plugins that let requests in or keep them out by one list: ua-restriction, referer-restriction.

use serde_json::Value;

use crate::exchange::Reply;
use crate::plugin::Step;

/// What a configuration says beside its list.
pub struct Restriction {
    /// The list names who is allowed, not who is refused.
    pub only_these: bool,
    bypass_missing: bool,
    message: Box<str>,
}

impl Restriction {
    /// `allowlist` is the field whose presence makes the list one of those allowed.
    pub fn new(conf: &Value, allowlist: &str) -> Self {
        Restriction {
            only_these: conf.get(allowlist).is_some(),
            bypass_missing: conf["bypass_missing"] == true,
            message: conf["message"].as_str().unwrap_or_default().into(),
        }
    }

    /// Lets the request go on, or refuses it with `message`. `listed` is `None` where the request lacks what the
    /// list speaks of.
    pub fn decide(&self, listed: Option<bool>) -> Step<'static> {
        match listed.map_or(self.bypass_missing, |listed| listed == self.only_these) {
            true => Step::Next,
            false => Step::Reply(Reply::message(403, &self.message)),
        }
    }
}
