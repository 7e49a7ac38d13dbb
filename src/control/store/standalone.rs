//! The configuration of the API-driven standalone mode: one document in memory, put there by
//! `PUT /apisix/admin/configs` and gone with the process (apisix/admin/standalone.lua).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::document::{Keys, objects};
use super::{Entry, Event, Listing};
use crate::limits;

/// A handle to the document. Cheap to clone.
#[derive(Clone, Default)]
pub struct Standalone(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    keys: Keys,
    document: Option<Arc<Map<String, Value>>>,
    watcher: Option<mpsc::UnboundedSender<Event>>,
}

impl Standalone {
    /// The document in force.
    pub fn document(&self) -> Option<Arc<Map<String, Value>>> {
        self.state().document.clone()
    }

    /// Replaces the document if it still is `old`; false if somebody was faster.
    pub fn replace(&self, old: Option<&Arc<Map<String, Value>>>, new: Map<String, Value>) -> bool {
        let mut state = self.state();
        if state.document.as_ref().map(Arc::as_ptr) != old.map(Arc::as_ptr) {
            return false;
        }
        let new = Value::Object(new);
        let is_first = state.document.is_none();
        let mut event = state.keys.take(objects(&new));
        if is_first && let Some(all) = state.keys.snapshot() {
            event = all;
        }
        if let Value::Object(new) = new {
            state.document = Some(new.into());
        }
        if let Some(watcher) = &state.watcher {
            let _ = watcher.send(event); // nobody left to tell: the gateway ends
        }
        true
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.state().keys.get(key)
    }

    pub(super) fn list(&self, dir: &str) -> Listing {
        self.state().keys.list(dir)
    }

    /// To be called once, inside the control runtime. Before the first document the cores are told that there is
    /// nothing: they serve that, and are not ready.
    pub(super) fn watch(&self) -> mpsc::Receiver<Event> {
        // Writers do not wait; there is one event for each document that was accepted.
        let (watcher, mut changes) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::channel(limits::WATCH_QUEUE);
        let mut state = self.state();
        let _ = watcher.send(state.keys.snapshot().unwrap_or_else(Event::nothing)); // its receiver is held below
        state.watcher = Some(watcher);
        tokio::spawn(async move {
            while let Some(event) = changes.recv().await {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::block_on;
    use super::*;

    #[test]
    fn each_document_is_told_once_and_nobody_is_overtaken() {
        block_on(async {
            let store = Standalone::default();
            let mut events = store.watch();
            assert_eq!(events.recv().await, Some(Event::nothing()));
            let document = |value: Value| value.as_object().unwrap().clone();
            let first = document(json!({"routes": [{"id": 1, "uri": "/a"}], "routes_conf_version": 1}));
            assert!(store.replace(None, first.clone()));
            let Some(Event::Snapshot { entries, .. }) = events.recv().await else { panic!() };
            assert_eq!(&*entries[0].key, "/routes/1");
            assert!(!store.replace(None, first), "another document came between");
            let old = store.document();
            assert!(store.replace(old.as_ref(), document(json!({}))));
            let Some(Event::Changes { changes, .. }) = events.recv().await else { panic!() };
            assert_eq!((&*changes[0].key, &changes[0].value), ("/routes/1", &None));
        });
    }
}
