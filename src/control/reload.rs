//! HUP: config.yaml is read again, without losing a request.
//!
//! As nginx starts new workers, new cores are started with the new configuration. They accept on the sockets of the
//! old ones, which finish what they have and end. The store, the services of the control thread and the node-wide
//! counters go on. What belongs to them cannot change without a restart: [`keep`] lists it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::admin::AdminState;
use super::feed::Feed;
use super::plugin_lists::PluginLists;
use super::run::access_lines;
use crate::config::{self, Config, Level, admin_key};
use crate::mail::Cores;
use crate::telemetry::log as error_log;

/// Cores that have been started and wait for their configuration.
pub struct NewCores {
    /// Counts the reloads.
    pub generation: u32,
    /// The cores.
    pub cores: Arc<Cores>,
    /// How long the old ones may take to end, ms.
    pub drain_ms: u64,
}

/// Starts cores with a configuration: the first argument counts the reloads. The error says why they cannot be started; then nothing has changed.
pub type StartCores = Box<dyn FnMut(u32, &Arc<Config>) -> Result<Arc<Cores>, String> + Send>;

/// What a reload needs.
pub struct Reload {
    /// The configuration of now.
    pub config: Arc<Config>,
    /// How many reloads were tried.
    pub generation: u32,
    /// Starts cores.
    pub start_cores: StartCores,
    /// Takes the new cores in.
    pub reloads: mpsc::Sender<NewCores>,
    /// The Admin API.
    pub admin: Option<Arc<AdminState>>,
    /// The lists of plugins.
    pub plugin_lists: Arc<PluginLists>,
    /// The way of the lists to the cores.
    pub feed: Arc<Feed>,
}

impl Reload {
    /// Does it. False: it could not be done, and all is as it was.
    pub async fn run(&mut self) -> bool {
        let loaded = config::load(self.config.file.as_deref(), &|name| std::env::var(name).ok());
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(failure) => {
                log::error!("the configuration is not reloaded: {failure}");
                return false;
            }
        };
        admin_key::fill(&mut loaded, &mut || fastrand::u32(..));
        for note in &loaded.notes {
            match note.level {
                Level::Info => log::info!("{note}"),
                Level::Warn | Level::Error => log::warn!("{note}"),
            }
        }
        let mut new = loaded.config;
        let kept = keep(&self.config, &mut new);
        if !kept.is_empty() {
            log::warn!("changes that need a restart, not a reload: {}", kept.join(", "));
        }
        let new = Arc::new(new);
        // Those of a reload that fails end with a number of their own, too.
        self.generation += 1;
        let cores = match (self.start_cores)(self.generation, &new) {
            Ok(started) => started,
            Err(error) => {
                log::error!("the configuration is not reloaded: {error}");
                return false;
            }
        };
        error_log::set_level(&new.error_log.level);
        if let (Some(admin), Some(options)) = (&self.admin, &new.admin) {
            admin.set_options(options.clone());
        }
        if let Some(admin) = &self.admin {
            admin.set_access(access_lines(&new));
        }
        self.plugin_lists.take(&new);
        if !self.feed.list_is_of_store() {
            self.feed.enable_plugins(&self.plugin_lists.last());
        }
        // as nginx's workers, which end by the configuration with which they began (`ngx_set_shutdown_timer`)
        let drain_ms = self.config.worker_shutdown_timeout_ms;
        let _ = self.reloads.send(NewCores { generation: self.generation, cores, drain_ms }).await;
        log::warn!("the configuration is reloaded");
        self.config = new;
        true
    }
}

/// Puts back what a running process cannot change, and names what of it was to change.
fn keep(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut kept = Vec::new();
    macro_rules! keep {
        ($($name:literal: $($field:ident).+;)+) => {$(
            if new.$($field).+ != old.$($field).+ {
                kept.push($name);
                new.$($field).+ = old.$($field).+.clone();
            }
        )+};
    }
    keep! {
        "worker_processes": worker_processes;
        "deployment.role": deployment.role;
        "config_provider": deployment.provider;
        "deployment.etcd": deployment.etcd;
        "data_encryption": data_encryption;
        "apisix.control": control;
        "apisix.status": status;
        "plugin_attr.prometheus.export_addr": prometheus.listen;
        "the resolver": dns;
        "error_log": error_log.path;
        "ssl_trusted_certificate": listen.trusted_certificate;
        "disable_upstream_healthcheck": disable_upstream_healthcheck;
    }
    // The keys and whom they let in may change, where the Admin API listens may not.
    match (&old.admin, &mut new.admin) {
        (Some(was), Some(is)) => {
            if (was.listen, was.on_node_port, &was.tls) != (is.listen, is.on_node_port, &is.tls) {
                kept.push("admin_listen, https_admin");
                (is.listen, is.on_node_port, is.tls) = (was.listen, was.on_node_port, was.tls.clone());
            }
        }
        (None, None) => {}
        (was, is) => {
            kept.push("enable_admin");
            *is = was.clone();
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        config::load_text(text, &|_| None).unwrap().config
    }

    #[test]
    fn what_needs_a_restart_is_named_and_stays() {
        let old = config("{}");
        let mut new = config(
            "apisix: {control: {ip: 127.0.0.1, port: 9999}, node_listen: 9081}\n\
             nginx_config: {error_log_level: info, worker_processes: 3, http: {keepalive_timeout: 5s}}\n\
             deployment: {admin: {admin_listen: {ip: 127.0.0.1, port: 9998}, admin_key: [{name: a, key: b}]}}\n",
        );
        let kept = keep(&old, &mut new);
        assert_eq!(kept, ["worker_processes", "apisix.control", "admin_listen, https_admin"]);
        assert_eq!((new.control, new.worker_processes), (old.control, old.worker_processes));
        // These do change.
        assert_eq!((new.http.keepalive_timeout_ms, &*new.error_log.level), (5_000, "info"));
        assert_eq!(new.listen.http[0].port(), 9081);
        assert_eq!(new.admin.unwrap().keys.unwrap()[0].key, "b");
        let mut without = config("apisix: {enable_admin: false}");
        assert_eq!((keep(&old, &mut without), without.admin.is_some()), (vec!["enable_admin"], true));
    }
}
