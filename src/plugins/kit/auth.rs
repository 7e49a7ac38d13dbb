//! How an auth plugin ends: the consumer is attached, or the anonymous one is, or the client is challenged.

use std::rc::Rc;

use serde_json::Value;

use crate::exchange::{Exchange, Known, Reply};
use crate::plugin::{Host, consumers};

/// What became of the search for a consumer. The text is for the client; why it failed goes to the log,
/// without what the client sent.
pub type Outcome = Result<Rc<Known>, &'static str>;

/// What each auth plugin does with an [`Outcome`].
pub struct Admission {
    plugin: &'static str,
    anonymous: Option<Box<str>>,
    /// `WWW-Authenticate` of a refusal (RFC 9110 section 11.6.1).
    challenge: Box<[u8]>,
}

impl Admission {
    /// Reads `anonymous_consumer` and `realm`; `scheme` is the challenge's.
    pub fn new(plugin: &'static str, scheme: &str, conf: &Value) -> Self {
        let realm = conf["realm"].as_str().unwrap_or_default();
        Admission {
            plugin,
            anonymous: conf["anonymous_consumer"].as_str().map(Box::from),
            challenge: format!("{scheme} realm=\"{realm}\"").into_bytes().into(),
        }
    }

    /// Is a request without a consumer let in as somebody?
    pub fn has_anonymous(&self) -> bool {
        self.anonymous.is_some()
    }

    /// `None`: the request goes on, with its consumer.
    pub fn decide(&self, ex: &mut Exchange, host: &Host, outcome: Outcome) -> Option<Reply> {
        let error = match outcome {
            Ok(known) => {
                consumers::attach(ex, known);
                return None;
            }
            Err(error) => error,
        };
        let Some(name) = &self.anonymous else { return Some(self.refuse(ex, error)) };
        let Some(known) = host.consumers.by_name(name) else {
            log::error!(
                "{} failed to authenticate the request, code: 401. error: failed to get anonymous consumer {name}",
                self.plugin
            );
            return Some(self.refuse(ex, "Invalid user authorization"));
        };
        consumers::attach_anonymous(ex, known);
        None
    }

    fn refuse(&self, ex: &mut Exchange, error: &str) -> Reply {
        ex.resp_headers().set(b"WWW-Authenticate", &self.challenge);
        Reply::message(401, error)
    }
}
