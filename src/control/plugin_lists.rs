//! The operator's lists of plugins in config.yaml, and what it says to each of them, which can be read again while the
//! gateway runs (`PUT /plugins/reload` of the Admin and Control API; apisix/plugin.lua `load`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::config::{self, Config};

/// `plugins` and `stream_plugins` of config.yaml.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// `plugins`, in its order.
    pub http: Vec<String>,
    /// `stream_plugins`
    pub stream: Vec<String>,
    /// `plugin_attr`
    pub attr: Arc<Value>,
}

/// The lists as they were read last, and where from.
#[derive(Debug)]
pub struct PluginLists {
    file: Option<PathBuf>,
    last: Mutex<Arc<Lists>>,
}

impl PluginLists {
    /// Those of the configuration that was started.
    pub fn new(config: &Config) -> PluginLists {
        PluginLists { file: config.file.clone(), ..lists(config).into() }
    }

    /// As they were read last.
    pub fn last(&self) -> Arc<Lists> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again, if there is one. One that cannot be read changes nothing and is reported.
    pub fn read_again(&self) -> Arc<Lists> {
        let Some(file) = &self.file else { return self.last() };
        match config::load(Some(file), &|name| std::env::var(name).ok()) {
            Ok(loaded) => self.take(&loaded.config),
            Err(failure) => log::error!("failed to read the lists of plugins again: {failure}"),
        }
        self.last()
    }

    /// Takes the lists of a configuration that has been read again.
    pub fn take(&self, config: &Config) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = lists(config).into();
    }
}

/// Lists that stand in no file.
impl From<Lists> for PluginLists {
    fn from(lists: Lists) -> PluginLists {
        PluginLists { file: None, last: Mutex::new(lists.into()) }
    }
}

fn lists(config: &Config) -> Lists {
    Lists {
        http: config.plugins.clone().unwrap_or_default(),
        stream: config.stream_plugins.clone().unwrap_or_default(),
        attr: config.plugin_attr.clone().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::store::tests::TempDir;

    #[test]
    fn the_lists_follow_the_file() {
        let directory = TempDir::new();
        let conf = directory.0.join("conf");
        std::fs::create_dir_all(&conf).unwrap();
        let file = conf.join("config.yaml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("plugins: [key-auth, cors]\nstream_plugins: [ip-restriction]\n");
        let loaded = config::load(Some(&file), &|_| None).unwrap();
        let lists = PluginLists::new(&loaded.config);
        assert_eq!(lists.last().http, ["key-auth", "cors"]);
        write("plugins: [cors]\n");
        assert_eq!(lists.read_again().http, ["cors"]);
        write("plugins: [cors\n");
        assert_eq!(lists.read_again().http, ["cors"], "a broken file changes nothing");
    }
}
