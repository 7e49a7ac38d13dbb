//! Tells etcd which nodes there are, while the operator's list has `server-info`: a key for each, kept by a lease
//! (apisix/plugins/server-info.lua).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::plugin_lists::PluginLists;
use super::plugins::Plugins;
use super::store::{Error, Etcd, Store};
use crate::config::{Config, Role};
use crate::plugins::server_info;

/// Between two looks at the list of plugins.
const LOOK: Duration = Duration::from_secs(1);
/// The next try after a configuration that is wrong.
const WRONG_S: u64 = 60;

/// Notes when the node began, and starts to report where APISIX does: nodes with an etcd that may write to it.
pub fn start(config: &Config, store: &Store, plugins: Arc<Plugins>, lists: Arc<PluginLists>) {
    server_info::info();
    if let (Store::Etcd(etcd), true) = (store, config.deployment.role != Role::DataPlane) {
        tokio::spawn(report(etcd.clone(), plugins, lists));
    }
}

/// Reports at once, then each time half of the time to live is over.
async fn report(etcd: Etcd, plugins: Arc<Plugins>, lists: Arc<PluginLists>) {
    let name = server_info::SPEC.name;
    let (mut lease, mut due) = (None, Instant::now());
    loop {
        let now = Instant::now();
        if !plugins.enabled(name) {
            due = now;
        } else if now >= due {
            let pause_s = match server_info::report_ttl_s(lists.last().attr.get(name)) {
                Ok(ttl_s) => {
                    if let Err(error) = tell(&etcd, ttl_s, &mut lease).await {
                        log::error!("failed to report server_info to etcd: {error}");
                    }
                    ttl_s / 2
                }
                Err(error) => {
                    log::error!("failed to check plugin_attr: {error}");
                    WRONG_S
                }
            };
            due = now + Duration::from_secs(pause_s);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn tell(etcd: &Etcd, ttl_s: u64, lease: &mut Option<i64>) -> Result<(), Error> {
    if server_info::etcd_version().is_none() {
        server_info::found_etcd(etcd.version().await?);
    }
    let info = server_info::info();
    let key = format!("/data_plane/server_info/{}", info["id"].as_str().unwrap_or_default());
    etcd.announce(&key, Bytes::from(info.to_string()), ttl_s as i64, lease).await
}
