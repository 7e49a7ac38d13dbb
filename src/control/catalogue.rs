//! The plugins of this build, as control asks about them.

use serde_json::Value;

use super::plugins::{Catalogue, SchemaType, Traits};
use crate::plugin::{self, Registry};

fn kind(kind: SchemaType) -> plugin::SchemaType {
    match kind {
        SchemaType::Plain => plugin::SchemaType::Plain,
        SchemaType::Consumer => plugin::SchemaType::Consumer,
        SchemaType::Metadata => plugin::SchemaType::Metadata,
    }
}

impl Catalogue for Registry {
    fn find(&self, name: &str) -> Option<Traits> {
        let spec = self.get(name)?.spec;
        Some(Traits {
            priority: spec.priority,
            auth: spec.auth,
            consumer_schema: spec.consumer_schema.is_some(),
            encrypt_fields: spec.encrypt_fields,
            consumer_encrypt_fields: spec.consumer_encrypt_fields,
            consumer_key: spec.consumer_key,
        })
    }

    fn names(&self) -> Vec<&'static str> {
        self.by_priority().iter().map(|spec| spec.name).collect()
    }

    fn schema(&self, name: &str, of: SchemaType) -> Option<Value> {
        Some(self.get(name)?.schema(kind(of))?.raw().clone())
    }

    fn check(&self, name: &str, conf: &mut Value, of: SchemaType) -> Result<(), String> {
        match self.get(name) {
            Some(entry) => entry.check(conf, kind(of)),
            None => Err(format!("unknown plugin [{name}]")),
        }
    }
}
