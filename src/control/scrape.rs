//! `GET /apisix/prometheus/metrics`: what the cores have counted, and what control knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::Method;
use tokio::sync::{mpsc, oneshot};

use super::admin::message::{AdminRequest, AdminResponse};
use super::admin::page;
use super::certificates::Certificates;
use super::feed::Feed;
use super::plugin_lists::PluginLists;
use super::probe::{Checker, Order};
use super::store::Store;
use crate::config::metrics_uri;
use crate::model::Kind;
use crate::model::delta::Object;
use crate::plugins::kit::batch::{self, Gathered};
use crate::telemetry::exporter::{Exporter, Node};
use crate::telemetry::files::{self, Log};
use crate::telemetry::metrics::Metrics;

/// Answers scrapes. The cores are never asked: their pages are read.
#[derive(Clone)]
pub struct Scrape {
    /// `plugin_attr` says where the metrics are.
    lists: Arc<PluginLists>,
    store: Store,
    feed: Arc<Feed>,
    probes: mpsc::Sender<Order>,
    exporter: Arc<Mutex<Exporter>>,
    metrics: Arc<Metrics>,
    certificates: Arc<Certificates>,
}

impl Scrape {
    /// Of these sources.
    pub fn new(
        lists: &Arc<PluginLists>,
        store: &Store,
        feed: &Arc<Feed>,
        probes: mpsc::Sender<Order>,
        metrics: Arc<Metrics>,
        certificates: Arc<Certificates>,
    ) -> Self {
        Scrape {
            lists: lists.clone(),
            store: store.clone(),
            feed: feed.clone(),
            probes,
            exporter: Arc::new(Mutex::new(Exporter::new(metrics.clone()))),
            metrics,
            certificates,
        }
    }

    /// The metrics, or nginx's 404 for any other path. Where the plugin is in no list there are none (apisix/plugins/
    /// prometheus/exporter.lua `export_metrics`).
    pub async fn answer(&self, request: &AdminRequest) -> AdminResponse {
        let lists = self.lists.last();
        if !lists.http.iter().chain(&lists.stream).any(|name| name == "prometheus") {
            return AdminResponse::text(200, "{}".to_owned());
        }
        if request.method != Method::GET || request.path() != metrics_uri(&lists.attr) {
            return page(404);
        }
        let mut response = AdminResponse::text(200, self.text().await);
        response.set("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
        response
    }

    /// The metrics.
    pub async fn text(&self) -> String {
        let upstream_status = upstream_status(&self.checkers().await);
        let with_etcd = matches!(self.store, Store::Etcd(_));
        let modify_indexes = if with_etcd { self.modify_indexes() } else { Vec::new() };
        let batch_entries = batch_entries(batch::gathered());
        let mut dropped_lines = vec![("error", crate::telemetry::log::dropped())];
        dropped_lines.extend(Log::ALL.map(|log| (log.name(), files::dropped(log))));
        dropped_lines.extend(batch::dropped());
        let (certificates, _) = self.certificates.shown();
        let certificates: Vec<_> = certificates
            .into_iter()
            .map(|one| (one.id, one.sni, one.index.to_string(), one.days_left))
            .collect();
        let node = Node {
            certificates: &certificates,
            stapled: self.certificates.stapled(),
            batch_entries: &batch_entries,
            hostname: crate::telemetry::hostname(),
            version: "3.18.0",
            etcd_reachable: with_etcd.then(|| self.store.health().reachable),
            modify_indexes: &modify_indexes,
            upstream_status: &upstream_status,
            tables: &[],
            dropped_lines: &dropped_lines,
            now_ms: self.metrics.now_ms(),
        };
        self.exporter.lock().unwrap_or_else(PoisonError::into_inner).text(&node)
    }

    /// Highest revisions by kind. What the cores have no use for is 0.
    fn modify_indexes(&self) -> Vec<(&'static str, i64)> {
        let revision = self.feed.revision();
        let model = self.feed.model();
        let newest = |kind| model.of_kind(kind).map(Object::modify_revision).max().unwrap_or(0);
        let kinds = [
            ("routes", Kind::Route),
            ("services", Kind::Service),
            ("ssls", Kind::Ssl),
            ("consumers", Kind::Consumer),
            ("global_rules", Kind::GlobalRule),
            ("upstreams", Kind::Upstream),
            ("stream_routes", Kind::StreamRoute),
            ("protos", Kind::Proto),
        ];
        let mut indexes: Vec<_> = kinds.into_iter().map(|(name, kind)| (name, newest(kind))).collect();
        let most = indexes.iter().map(|(_, index)| *index).max().unwrap_or(0);
        let global = newest(Kind::GlobalRule);
        indexes.extend([("prev_index", global), ("max_modify_index", most), ("x_etcd_index", revision)]);
        indexes
    }

    async fn checkers(&self) -> Vec<Checker> {
        let (answer, list) = oneshot::channel();
        match self.probes.send(Order::List(answer)).await {
            Ok(()) => list.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}

/// Of targets that differ in their names alone the last one counts: no series may stand twice in the text.
fn upstream_status(checkers: &[Checker]) -> Vec<(String, String, u16, bool)> {
    let nodes = checkers.iter().flat_map(|checker| {
        checker.nodes.iter().map(|(address, target)| {
            ((checker.upstream.to_string(), address.ip.to_string(), address.port), target.status.usable())
        })
    });
    let last: BTreeMap<_, _> = nodes.collect();
    last.into_iter().map(|((name, ip, port), up)| (name, ip, port, up)).collect()
}

/// Batches of one name, route and server are added up: those of a configuration that was replaced have yet to be sent.
fn batch_entries(batches: Vec<Gathered>) -> Vec<(String, String, String, usize)> {
    let mut sums: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    for Gathered { name, route_id, server_addr, entries } in batches {
        *sums.entry((name, route_id, server_addr)).or_default() += entries;
    }
    sums.into_iter().map(|((name, route, server), entries)| (name, route, server, entries)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::health::{ProbeType, Status, Target, TargetAddress};

    #[test]
    fn no_series_stands_twice() {
        let target = |host: &str, status| {
            let address = TargetAddress {
                ip: "10.0.0.1".into(),
                port: 80,
                hostname: "10.0.0.1".into(),
                host_header: host.into(),
            };
            (address, Target { status, ..Target::default() })
        };
        let nodes = vec![target("a.test", Status::Healthy), target("b.test", Status::Unhealthy)];
        let checker = Checker { upstream: "/apisix/upstreams/1".into(), kind: ProbeType::Http, nodes };
        let status = upstream_status(&[checker]);
        assert_eq!(status, [("/apisix/upstreams/1".to_owned(), "10.0.0.1".to_owned(), 80, false)]);
        let batch = |entries| Gathered {
            name: "http logger".to_owned(),
            route_id: "1".to_owned(),
            server_addr: "127.0.0.1".to_owned(),
            entries,
        };
        let sums = batch_entries(vec![batch(2), batch(3)]);
        assert_eq!(sums, [("http logger".to_owned(), "1".to_owned(), "127.0.0.1".to_owned(), 5)]);
    }
}
