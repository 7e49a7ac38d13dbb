//! The ssl objects of a core, by the names that clients ask for (apisix/ssl/router/radixtree_sni.lua).

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use serde_json::Value;

use crate::expr::Pattern;
use crate::model::{Id, Stored};
use crate::transport::{Site, Sites};

/// An ssl object that serves clients.
pub struct Certificate {
    object: Arc<Stored<Value>>,
    snis: Vec<Box<str>>,
    /// Made when the first client comes, once a process; `None`: it cannot serve, which has been logged.
    site: OnceCell<Option<Arc<Site>>>,
    /// `client.skip_mtls_uri_regex`
    skip_mtls: Vec<Pattern>,
}

impl Certificate {
    /// `None`: it is for clients of ours, switched off, or has no name.
    fn new(object: &Arc<Stored<Value>>) -> Option<Certificate> {
        let value = &object.value;
        let is_server = value.get("type").is_none_or(|of| of == "server");
        if !is_server || value.get("status").is_some_and(|status| status != 1) {
            return None;
        }
        let named =
            |name: &Value| name.as_str().map(|sni| Box::from(sni.trim_end_matches('.').to_lowercase()));
        let several = value.get("snis").and_then(Value::as_array).into_iter().flatten();
        let snis: Vec<Box<str>> = match value.get("sni") {
            Some(sni) => named(sni).into_iter().collect(),
            None => several.filter_map(named).collect(),
        };
        let skips = value.pointer("/client/skip_mtls_uri_regex").and_then(Value::as_array);
        let skip_mtls = skips
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter_map(|regex| {
                let compiled = Pattern::compile(regex, "jo");
                compiled
                    .map_err(|error| log::error!("skip_mtls_uri_regex of ssl {}: {error}", object.id))
                    .ok()
            })
            .collect();
        let certificate = Certificate { object: object.clone(), snis, site: OnceCell::new(), skip_mtls };
        (!certificate.snis.is_empty()).then_some(certificate)
    }

    /// How it is served, if it can be.
    pub fn site(&self, sites: &Sites) -> Option<&Arc<Site>> {
        let made = self.site.get_or_init(|| {
            let site = sites.get(&self.object.id, self.object.modify_revision, &self.object.value);
            site.map_err(|error| log::error!("failed to serve ssl {}: {error}", self.object.id)).ok()
        });
        made.as_ref()
    }

    /// Clients must show a certificate.
    pub fn asks_client(&self) -> bool {
        self.object.value.get("client").is_some()
    }

    /// Clients without one may ask for some paths.
    pub fn judges_by_path(&self) -> bool {
        self.object.value.pointer("/client/skip_mtls_uri_regex").is_some()
    }

    /// Is `path` one of those?
    pub fn skips_mtls(&self, path: &[u8]) -> bool {
        self.skip_mtls.iter().any(|pattern| pattern.captures(path).is_ok_and(|found| found.is_some()))
    }
}

/// All of them.
#[derive(Default)]
pub struct Certificates {
    /// By name: `a.example`, `*.example`, `*`. The one created first serves.
    by_sni: AHashMap<Box<str>, Vec<Rc<Certificate>>>,
    by_id: AHashMap<Id, Rc<Certificate>>,
    /// How many ask clients for certificates.
    asking: usize,
}

impl Certificates {
    /// Takes an object in, in place of its old self.
    pub fn put(&mut self, object: &Arc<Stored<Value>>) {
        self.remove(&object.id);
        let Some(certificate) = Certificate::new(object).map(Rc::new) else { return };
        self.asking += usize::from(certificate.asks_client());
        for sni in &certificate.snis {
            let same = self.by_sni.entry(sni.clone()).or_default();
            let at = same
                .partition_point(|other| other.object.create_revision <= certificate.object.create_revision);
            same.insert(at, certificate.clone());
        }
        self.by_id.insert(object.id.clone(), certificate);
    }

    /// Forgets an object.
    pub fn remove(&mut self, id: &Id) {
        let Some(old) = self.by_id.remove(id) else { return };
        self.asking -= usize::from(old.asks_client());
        for sni in &old.snis {
            if let Some(same) = self.by_sni.get_mut(sni) {
                same.retain(|other| !Rc::ptr_eq(other, &old));
                if same.is_empty() {
                    self.by_sni.remove(sni);
                }
            }
        }
    }

    /// Does any of them ask clients for a certificate?
    pub fn any_asks_client(&self) -> bool {
        self.asking > 0
    }

    /// The one for `sni` (lower case): its own, else the wildcard of the most labels, which covers one label only.
    pub fn find(&self, sni: &str) -> Option<&Rc<Certificate>> {
        let sni = sni.trim_end_matches('.');
        let first = |name: &str| self.by_sni.get(name).and_then(|same| same.first());
        if let Some(own) = first(sni) {
            return Some(own);
        }
        let mut wildcard = String::with_capacity(sni.len() + 1);
        for (at, _) in sni.match_indices('.') {
            wildcard.clear();
            wildcard.push('*');
            wildcard.push_str(&sni[at..]);
            if let Some(found) = first(&wildcard) {
                return (!sni[..at].contains('.')).then_some(found);
            }
        }
        first("*")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(id: &str, revision: i64, value: Value) -> Arc<Stored<Value>> {
        Arc::new(Stored { id: id.into(), create_revision: revision, modify_revision: revision, value })
    }

    fn found(certificates: &Certificates, sni: &str) -> Option<String> {
        certificates.find(sni).map(|certificate| certificate.object.id.to_string())
    }

    #[test]
    fn a_name_is_served_by_its_own_or_a_wildcard_of_one_label() {
        let mut all = Certificates::default();
        all.put(&object("own", 1, json!({"sni": "a.example.com"})));
        all.put(&object("wild", 2, json!({"snis": ["*.example.com", "Example.COM."]})));
        all.put(&object("client", 3, json!({"type": "client", "sni": "c.test"})));
        all.put(&object("off", 4, json!({"status": 0, "sni": "off.test"})));
        for (sni, id) in [
            ("a.example.com", Some("own")),
            ("a.example.com.", Some("own")),
            ("b.example.com", Some("wild")),
            ("example.com", Some("wild")),
            ("b.a.example.com", None),
            ("c.test", None),
            ("off.test", None),
            ("com", None),
        ] {
            assert_eq!(found(&all, sni).as_deref(), id, "{sni}");
        }
        all.put(&object("any", 5, json!({"sni": "*"})));
        assert_eq!(found(&all, "c.test").as_deref(), Some("any"));
        assert_eq!(found(&all, "b.a.example.com"), None, "as in APISIX: the longer wildcard decides");
    }

    #[test]
    fn an_object_leaves_no_trace_of_its_old_self() {
        let mut all = Certificates::default();
        all.put(&object("1", 1, json!({"sni": "a.test", "client": {"ca": ""}})));
        all.put(&object("2", 2, json!({"sni": "a.test"})));
        assert!(all.any_asks_client());
        assert_eq!(found(&all, "a.test").as_deref(), Some("1"), "the first one created serves");
        all.put(&object("1", 1, json!({"sni": "b.test"})));
        assert!(!all.any_asks_client());
        assert_eq!(found(&all, "a.test").as_deref(), Some("2"));
        assert_eq!(found(&all, "b.test").as_deref(), Some("1"));
        all.remove(&"1".into());
        all.remove(&"2".into());
        assert_eq!((found(&all, "a.test"), found(&all, "b.test")), (None, None));
        assert!(all.by_sni.is_empty() && all.by_id.is_empty());
    }
}
