//! A consumer as an exchange knows it.

use std::sync::Arc;

use serde_json::Value;

use crate::model::{Consumer, Stored};
use crate::wire::Name;
use crate::wire::headers::{FieldLine, Headers};

/// A consumer, and what the upstream is told of it (apisix/consumer.lua `attach_consumer`).
#[derive(Clone)]
pub struct Known {
    /// The consumer.
    pub consumer: Arc<Stored<Consumer>>,
    /// The credential it was found by.
    pub credential: Option<Arc<str>>,
    username: Option<FieldLine>,
    identifier: Option<FieldLine>,
    custom_id: Option<FieldLine>,
}

impl Known {
    /// A consumer, and the credential it was found by.
    pub fn new(consumer: Arc<Stored<Consumer>>, credential: Option<Arc<str>>) -> Known {
        let line = |name: Name, value: &str| FieldLine::new(name.text(), value.as_bytes());
        let custom_id = consumer.value.labels.as_ref().and_then(|labels| labels.get("custom_id"));
        Known {
            username: line(Name::XConsumerUsername, &consumer.value.username),
            identifier: credential.as_deref().and_then(|id| line(Name::XCredentialIdentifier, id)),
            custom_id: custom_id.and_then(Value::as_str).and_then(|id| line(Name::XConsumerCustomId, id)),
            consumer,
            credential,
        }
    }

    /// Writes it into a request. What the client says in these headers is overwritten or removed. An
    /// `anonymous_consumer` has no custom id there.
    pub fn tell(&self, request: &mut Headers, anonymous: bool) {
        let custom_id = self.custom_id.as_ref().filter(|_| !anonymous);
        for (name, line) in [
            (Name::XConsumerUsername, self.username.as_ref()),
            (Name::XCredentialIdentifier, self.identifier.as_ref()),
            (Name::XConsumerCustomId, custom_id),
        ] {
            match line {
                Some(line) => request.set_line(line),
                None => request.remove(name),
            }
        }
    }
}
