//! `/plugins` of the store: the operator's list, from which nodes without an Admin API, of ringway and of
//! APISIX alike, learn what to run (apisix/admin/init.lua, `sync_local_conf_to_etcd`). It is only ever written
//! with the list of config.yaml, never with what this build happens to have.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::AdminState;
use crate::control::store::Error;

const KEY: &str = "/plugins";

/// At the start: brings a list that is already there up to date. A store without one is left so.
pub async fn refresh(state: &AdminState) -> Result<(), Error> {
    let Some(stored) = state.store.get(KEY).await? else { return Ok(()) };
    let list = list(state);
    let old = serde_json::from_slice::<Value>(&stored.value).unwrap_or_default();
    if by_name(&old) == by_name(&list) {
        return Ok(());
    }
    log::warn!("sync local conf to etcd");
    let value = Bytes::from(list.to_string());
    match state.store.put(KEY, value, Some(stored.mod_revision), None).await {
        // Another admin node was faster; its list is as good as ours.
        Ok(_) | Err(Error::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `PUT /plugins/reload`: the lists of config.yaml are read again, count from now on, and are written in any
/// case, so that the other nodes follow.
pub async fn reload(state: &AdminState) -> Result<(), Error> {
    state.feed.enable_plugins(&state.plugin_lists.read_again());
    state.store.put(KEY, Bytes::from(list(state).to_string()), None, None).await.map(drop)
}

fn list(state: &AdminState) -> Value {
    let lists = state.plugin_lists.last();
    let http = lists.http.iter().map(|name| json!({"name": name}));
    let stream = lists.stream.iter().map(|name| json!({"name": name, "stream": true}));
    http.chain(stream).collect()
}

/// Order does not matter; of one name the last entry counts.
fn by_name(list: &Value) -> HashMap<&str, &Value> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| Some((item.get("name")?.as_str()?, item))).collect()
}
