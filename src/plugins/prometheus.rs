//! `prometheus`: counts requests by route, service, consumer and node; the numbers are on the export server
//! (`plugin_attr.prometheus` in config.yaml, 127.0.0.1:9091/apisix/prometheus/metrics).
//!
//! ```json
//! {
//!   "uri": "/api/*",
//!   "plugins": {
//!     "prometheus": { "prefer_name": true }
//!   }
//! }
//! ```
//!
//! Phase: log (apisix/plugins/prometheus/exporter.lua `http_log`). Series: `http_status`, `http_latency`
//! (types `request`, `upstream`, `apisix`) and `bandwidth` (`ingress`, `egress`). Plugin metadata
//! `disabled_labels` empties labels, `plugin_attr` gives extra ones. A route with `public-api` shows the metrics to
//! clients, too. A scrape reads the cores' pages in memory: no disk, and no core is asked.
//!
//! On stream routes it counts sessions: `stream_connection_total` and `stream_status`. While it is in `stream_plugins`,
//! `stream_active_connections` and `stream_bandwidth` are counted for all listeners of layer 4, the latter each second while
//! bytes move.
//!
//! Beyond APISIX, whatever plugins a route has: `pubsub_active_sessions` and `pubsub_active_subscriptions` by `route`,
//! `pubsub_messages_total` by `route` and `type` (`fetch`: answers to a fetch command, `push`: what subscribers were sent), and
//! `pubsub_fetches_total` by `system` (`kafka`) and `topic`, the fetches that brokers have answered: subscribers of a partition
//! share them, so it grows more slowly than messages do.
//!
//! The labels of a request follow from its route, consumer, node and status. Their series are looked up once
//! and kept under these few words, so a request that was seen before builds no label.
//!
//! Known differences: `upstream` latency is the sum of all tries; the `llm_*` and `ai_cache_*` families
//! have no series, since no plugin that feeds them is there.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use serde_json::Value;
use smallvec::SmallVec;

use crate::exchange::{Exchange, Matched, Source, Vars};
use crate::limits;
use crate::model::{Consumer, Stored};
use crate::plugin::{Build, Host, Phase, Phases, Plugin, Spec};
use crate::telemetry::families::{
    BANDWIDTH, FamilyId, HTTP_LATENCY, HTTP_STATUS, STREAM_CONNECTIONS, STREAM_STATUS,
};
use crate::telemetry::metrics::{CoreMetrics, SeriesId};

/// What the registry knows.
pub const SPEC: Spec = Spec {
    name: "prometheus",
    priority: 500,
    version: 0.2,
    prefer_route: true,
    schema: r#"{"type": "object", "properties": {"prefer_name": {"type": "boolean", "default": false}}}"#,
    metadata_schema: Some(include_str!("prometheus_metadata.schema.json")),
    build,
    ..Spec::PLAIN
};

/// The same on stream routes, where sessions are counted.
pub const STREAM: Spec = Spec {
    schema: r#"{"type": "object", "properties": {"prefer_name": {"type": "boolean", "default": false}}}"#,
    name: SPEC.name,
    priority: SPEC.priority,
    build: build_stream,
    ..Spec::PLAIN
};

struct Prometheus {
    /// Labels say names where there are any, not ids.
    prefer_name: bool,
    /// `disabled_labels` of the metadata, as family and label.
    disabled: Vec<(Box<str>, Box<str>)>,
    known: RefCell<AHashMap<Key, Known>>,
    /// One of `known`: the next request most often has the same.
    last: RefCell<Option<Last>>,
}

/// All that the labels of a request depend on. Addresses stand for objects that [`Known`] keeps alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    matched: usize,
    consumer: usize,
    node: Option<IpAddr>,
    /// The upstream's time is known: there is a series for it.
    timed: bool,
    status: u16,
    /// With `node` it says what [`Exchange::response_source`] does.
    source: Source,
}

/// The key that was asked for last, with series that were whole then.
struct Last {
    key: Key,
    series: Series,
    /// [`CoreMetrics::generation`] at that time.
    generation: u64,
}

impl Last {
    fn is_good_for(&self, key: &Key, metrics: &CoreMetrics) -> bool {
        self.key == *key && self.generation == metrics.generation()
    }
}

/// The series of a key.
struct Known {
    _matched: Option<Rc<Matched>>,
    _consumer: Option<Arc<Stored<Consumer>>>,
    series: Series,
}

/// `None`: the core has as many series as it may.
#[derive(Clone, Copy)]
struct Series {
    status: Option<SeriesId>,
    request: Option<SeriesId>,
    upstream: Option<SeriesId>,
    apisix: Option<SeriesId>,
    ingress: Option<SeriesId>,
    egress: Option<SeriesId>,
}

impl Series {
    /// None was refused, and none has expired and given its place away.
    fn is_whole(&self, timed: bool, metrics: &CoreMetrics) -> bool {
        let Series { status, request, upstream, apisix, ingress, egress } = *self;
        let holds = |id: Option<SeriesId>| id.is_some_and(|id| metrics.holds(id));
        [status, request, apisix, ingress, egress].into_iter().all(holds) && (!timed || holds(upstream))
    }
}

fn build(conf: &Value, build: &Build) -> Result<Rc<dyn Plugin>, String> {
    let disabled = build.metadata.and_then(|metadata| metadata.get("disabled_labels")?.as_object());
    let labels = |(family, labels): (&String, &Value)| {
        let labels = labels.as_array().cloned().unwrap_or_default();
        let pair = |label: Value| Some((Box::from(family.as_str()), Box::from(label.as_str()?)));
        labels.into_iter().filter_map(pair).collect::<Vec<_>>()
    };
    Ok(Rc::new(Prometheus {
        prefer_name: conf["prefer_name"] == true,
        disabled: disabled.into_iter().flatten().flat_map(labels).collect(),
        known: RefCell::default(),
        last: RefCell::default(),
    }))
}

/// Counts sessions (exporter.lua `stream_log`).
struct Sessions {
    prefer_name: bool,
}

fn build_stream(conf: &Value, _: &Build) -> Result<Rc<dyn Plugin>, String> {
    Ok(Rc::new(Sessions { prefer_name: conf["prefer_name"] == true }))
}

/// A plugin may turn a session away with any code; the metric has those that nginx itself gives (exporter.lua
/// `stream_reject_code`).
fn nginx_code(code: u16) -> u16 {
    match code {
        200 | 400 | 403 | 500 | 502 | 503 => code,
        401..=499 => 400,
        _ => 500,
    }
}

impl Plugin for Sessions {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Log])
    }

    fn log(&self, ex: &mut Exchange, host: &Host) {
        let Some(session) = ex.session.as_deref() else { return };
        let Labels { route, .. } = Labels::of(ex, self.prefer_name);
        let node = ex.upstream.attempts.last().map(|attempt| attempt.addr.to_string()).unwrap_or_default();
        let listener = session.listener.map(|address| address.to_string()).unwrap_or_default();
        let code = nginx_code(session.broken.unwrap_or(ex.status())).to_string();
        let mut metrics = host.metrics.borrow_mut();
        metrics.count(STREAM_CONNECTIONS, &[route], 1);
        metrics.count(STREAM_STATUS, &[code.as_bytes(), listener.as_bytes(), node.as_bytes()], 1);
    }
}

impl Plugin for Prometheus {
    fn phases(&self) -> Phases {
        Phases::of(&[Phase::Log])
    }

    fn log(&self, ex: &mut Exchange, host: &Host) {
        let metrics = &mut *host.metrics.borrow_mut();
        let series = self.series(ex, metrics);
        let whole_ms = ex.ended_ms.saturating_sub(ex.started_ms);
        let upstream_ms = ex.upstream.response_ms();
        let gateway_ms = whole_ms.saturating_sub(upstream_ms.unwrap_or(0));
        let add = |id: Option<SeriesId>, n: u64| id.map_or((), |id| metrics.add(id, n));
        add(series.status, 1);
        add(series.ingress, ex.request_length());
        add(series.egress, ex.resp.bytes);
        let observe = |id: Option<SeriesId>, ms: u64| id.map_or((), |id| metrics.observe(id, ms as f64));
        observe(series.request, whole_ms);
        if let Some(ms) = upstream_ms {
            observe(series.upstream, ms);
        }
        observe(series.apisix, gateway_ms);
    }
}

impl Prometheus {
    /// The series of this exchange. Families with extra labels, whose values no key knows, are looked up
    /// each time.
    fn series(&self, ex: &Exchange, metrics: &mut CoreMetrics) -> Series {
        let consumer = ex.consumer.as_ref().map(|known| &known.consumer);
        let key = Key {
            matched: ex.matched.as_ref().map_or(0, |matched| Rc::as_ptr(matched) as usize),
            consumer: consumer.map_or(0, |consumer| Arc::as_ptr(consumer) as usize),
            node: ex.upstream.attempts.last().map(|attempt| attempt.addr.ip()),
            timed: ex.upstream.response_ms().is_some(),
            status: ex.status(),
            source: ex.resp.source,
        };
        let mut last = self.last.borrow_mut();
        if let Some(last) = last.as_ref().filter(|last| last.is_good_for(&key, metrics)) {
            return last.series;
        }
        let mut known = self.known.borrow_mut();
        let series = match known.get(&key).filter(|known| known.series.is_whole(key.timed, metrics)) {
            Some(known) => known.series,
            None => {
                let series = self.look_up(ex, metrics);
                let has_extra = |id: &FamilyId| !metrics.shape().family(*id).extra.is_empty();
                if [HTTP_STATUS, HTTP_LATENCY, BANDWIDTH].iter().any(has_extra) {
                    return series;
                }
                if known.len() >= limits::KNOWN_SERIES {
                    known.clear();
                }
                known.insert(
                    key,
                    Known { _matched: ex.matched.clone(), _consumer: consumer.cloned(), series },
                );
                series
            }
        };
        let whole = series.is_whole(key.timed, metrics);
        *last = whole.then(|| Last { key, series, generation: metrics.generation() });
        series
    }

    fn look_up(&self, ex: &Exchange, metrics: &mut CoreMetrics) -> Series {
        let Labels { route, uri, host, service, consumer, node } = Labels::of(ex, self.prefer_name);
        let (status, source) = (ex.status().to_string(), ex.response_source());
        let (node, kind): (&[u8], &[u8]) = (&node, b"traditional_http");
        let mut one = |family, values: &[&[u8]]| self.one(ex, metrics, family, values);
        let mut typed = |family, of: &'static str| {
            one(family, &[of.as_bytes(), route, service, consumer, node, kind, b"", b""])
        };
        Series {
            request: typed(HTTP_LATENCY, "request"),
            upstream: ex.upstream.response_ms().and_then(|_| typed(HTTP_LATENCY, "upstream")),
            apisix: typed(HTTP_LATENCY, "apisix"),
            ingress: typed(BANDWIDTH, "ingress"),
            egress: typed(BANDWIDTH, "egress"),
            status: one(
                HTTP_STATUS,
                &[
                    status.as_bytes(),
                    route,
                    uri,
                    host,
                    service,
                    consumer,
                    node,
                    kind,
                    b"",
                    b"",
                    source.as_bytes(),
                ],
            ),
        }
    }

    /// One series: disabled labels emptied, extra ones behind.
    fn one(
        &self,
        ex: &Exchange,
        metrics: &mut CoreMetrics,
        id: FamilyId,
        values: &[&[u8]],
    ) -> Option<SeriesId> {
        let shape = metrics.shape().clone();
        let family = shape.family(id);
        let extra: SmallVec<[Cow<'_, [u8]>; 4]> =
            family.extra.iter().map(|name| ex.var(name).unwrap_or_default()).collect();
        let mut labels: SmallVec<[&[u8]; 16]> = values.iter().copied().collect();
        for (name, value) in family.labels.iter().zip(&mut labels) {
            if self.disabled.iter().any(|(of, label)| **of == *family.name && **label == **name) {
                *value = b"";
            }
        }
        labels.extend(extra.iter().map(|value| &**value));
        metrics.series(id, &labels)
    }
}

/// What the labels of an exchange say.
struct Labels<'a> {
    route: &'a [u8],
    uri: &'a [u8],
    host: &'a [u8],
    service: &'a [u8],
    consumer: &'a [u8],
    node: Vec<u8>,
}

impl<'a> Labels<'a> {
    fn of(ex: &'a Exchange, prefer_name: bool) -> Labels<'a> {
        let text = |text: Option<&'a str>| text.unwrap_or_default().as_bytes();
        let matched = ex.matched.as_deref();
        let name = |name: Option<&'a Box<str>>, id: Option<&'a str>| {
            text(name.filter(|_| prefer_name).map(|name| &**name).or(id))
        };
        Labels {
            route: name(
                matched.and_then(|m| m.route_name.as_ref()),
                matched.and_then(|m| m.route_id.as_deref()),
            ),
            service: name(
                matched.and_then(|m| m.service_name.as_ref()),
                matched.and_then(|m| m.service_id.as_deref()),
            ),
            uri: text(matched.and_then(|m| m.matched_uri.as_deref())),
            host: text(matched.and_then(|m| m.matched_host.as_deref())),
            consumer: text(ex.consumer.as_ref().map(|known| &*known.consumer.value.username)),
            node: (ex.upstream.attempts.last())
                .map(|attempt| attempt.addr.ip().to_string().into_bytes())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::Known as KnownConsumer;
    use crate::plugin::SchemaType;
    use crate::plugins::kit::test;
    use crate::telemetry::exporter::{Exporter, Node};
    use crate::telemetry::metrics::{Metrics, Shape};

    /// An exchange of route 1 that took 30 ms, of which the upstream took 20.
    fn exchange() -> Exchange {
        let mut ex = test::exchange("GET /a/b HTTP/1.1\nHost: a.com");
        ex.matched = Some(Rc::new(Matched {
            route_id: Some("1".into()),
            route_name: Some("first".into()),
            service_id: Some("s".into()),
            matched_uri: Some("/a/*".into()),
            matched_host: Some("*.com".into()),
            ..Matched::default()
        }));
        ex.upstream.begin(([10, 0, 0, 1], 80).into(), 0, 5);
        if let Some(attempt) = ex.upstream.current() {
            attempt.response_ms = Some(20);
        }
        test::answer(&mut ex, 200, &[]);
        (ex.started_ms, ex.ended_ms, ex.req.head_bytes, ex.resp.bytes) = (0, 30, 40, 50);
        ex
    }

    fn scraped(host: &Host) -> String {
        let metrics = host.metrics.borrow().metrics().clone();
        Exporter::new(metrics).text(&Node::default())
    }

    #[test]
    fn accepts_and_refuses() {
        let plain = |conf| test::check(&SPEC, SchemaType::Plain, conf);
        assert_eq!(plain(json!({})), "accepted");
        let said = plain(json!({ "prefer_name": 1 }));
        assert_eq!(
            said,
            r#"property "prefer_name" validation failed: wrong type: expected boolean, got number"#
        );
        let metadata = |labels| {
            test::check(&SPEC, SchemaType::Metadata, json!({ "disabled_labels": { "http_status": labels } }))
        };
        assert_eq!(metadata(json!(["matched_uri", "node"])), "accepted");
        assert!(metadata(json!(["code"])).contains("matches none of the enum values"));
    }

    #[test]
    fn a_request_counts_in_all_its_series() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({}));
        let mut ex = exchange();
        plugin.log(&mut ex, &host);
        plugin.log(&mut ex, &host);
        let text = scraped(&host);
        let typed = r#"route="1",service="s",consumer="",node="10.0.0.1",request_type="traditional_http",request_llm_model="",llm_model="""#;
        for line in [
            r#"apisix_http_status{code="200",route="1",matched_uri="/a/*",matched_host="*.com",service="s",consumer="",node="10.0.0.1",request_type="traditional_http",request_llm_model="",llm_model="",response_source="upstream"} 2"#.to_owned(),
            format!("apisix_bandwidth{{type=\"ingress\",{typed}}} 80"),
            format!("apisix_bandwidth{{type=\"egress\",{typed}}} 100"),
            format!("apisix_http_latency_sum{{type=\"request\",{typed}}} 60"),
            format!("apisix_http_latency_sum{{type=\"upstream\",{typed}}} 40"),
            format!("apisix_http_latency_sum{{type=\"apisix\",{typed}}} 20"),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn requests_that_differ_in_turns_count_each_in_its_own_series() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({}));
        let mut ex = exchange();
        let mut log = |status, consumer: Option<&str>, source| {
            ex.resp.head.status = status;
            ex.resp.source = source;
            ex.consumer = consumer
                .map(|name| Rc::new(KnownConsumer::new(test::consumer(name, json!({}), json!({})), None)));
            plugin.log(&mut ex, &host);
        };
        for _ in 0..2 {
            log(200, None, Source::Upstream);
            log(502, None, Source::Gateway);
            log(200, Some("jack"), Source::Upstream);
        }
        log(502, None, Source::Upstream);
        let text = scraped(&host);
        let counted = |begin: &str, end: &str| {
            let mut lines = text.lines().filter(|line| line.contains("http_status{"));
            lines.any(|line| line.contains(begin) && line.ends_with(end))
        };
        assert!(counted("code=\"200\",route=\"1\",matched_uri=\"/a/*\"", "\"upstream\"} 2"), "{text}");
        assert!(counted("consumer=\"jack\"", "\"upstream\"} 2"), "{text}");
        assert!(counted("code=\"502\"", "response_source=\"nginx\"} 2"), "{text}");
        assert!(counted("code=\"502\"", "response_source=\"upstream\"} 1"), "{text}");
    }

    /// Series that are remembered from the requests before are those of no others.
    #[test]
    fn another_route_node_or_time_has_series_of_its_own() {
        let host = test::host();
        let plugin = test::build(&SPEC, &host, json!({}));
        let [mut untimed, mut timed, mut route, mut node] = [(); 4].map(|()| exchange());
        if let Some(attempt) = untimed.upstream.current() {
            attempt.response_ms = None;
        }
        let first = || untimed.matched.clone();
        (timed.matched, node.matched) = (first(), first());
        route.matched = Some(Rc::new(Matched { route_id: Some("2".into()), ..Matched::default() }));
        node.upstream.begin(([10, 0, 0, 2], 80).into(), 0, 5);
        let mut exchanges = [untimed, timed, route, node];
        for _ in 0..2 {
            exchanges.iter_mut().for_each(|ex| plugin.log(ex, &host));
        }
        let text = scraped(&host);
        let counted = |family: &str, label: &str| {
            let mut lines = text.lines().filter(|line| line.starts_with(family) && line.contains(label));
            lines.next().and_then(|line| line.split(' ').next_back()?.parse::<u32>().ok())
        };
        let latency =
            |of: &str| format!("type=\"{of}\",route=\"1\",service=\"s\",consumer=\"\",node=\"10.0.0.1\"");
        for (family, label, count) in [
            ("apisix_http_status", "route=\"2\"", 2),
            ("apisix_http_status", "node=\"10.0.0.2\"", 2),
            ("apisix_http_latency_count", &latency("request"), 4),
            ("apisix_http_latency_count", &latency("upstream"), 2),
        ] {
            assert_eq!(counted(family, label), Some(count), "{family} {label}\n{text}");
        }
    }

    #[test]
    fn extra_labels_are_those_of_each_request() {
        let mut host = test::host();
        let metrics = json!({ "http_status": { "extra_labels": [{ "who": "$http_x_who" }] } });
        let shape = Shape::new("apisix_", None, Some(&metrics));
        Rc::get_mut(&mut host).unwrap().metrics = RefCell::new(Metrics::new(shape).core());
        let plugin = test::build(&SPEC, &host, json!({}));
        let mut ex = exchange();
        for who in ["one", "other", "one"] {
            ex.req.head.headers.set(b"X-Who", who.as_bytes());
            plugin.log(&mut ex, &host);
        }
        let text = scraped(&host);
        assert!(text.contains("who=\"one\"} 2") && text.contains("who=\"other\"} 1"), "{text}");
    }

    #[test]
    fn names_disabled_labels_and_requests_without_a_route() {
        let host = test::host();
        let metadata = json!({ "disabled_labels": { "http_status": ["matched_uri", "node"] } });
        let build = Build { host: &host, parent: "/apisix/routes/1", metadata: Some(&metadata) };
        let plugin = test::build_in(&SPEC, &build, json!({ "prefer_name": true })).unwrap();
        plugin.log(&mut exchange(), &host);
        let mut none = test::exchange("GET / HTTP/1.1\nHost: a.com");
        none.resp.head.status = 404;
        plugin.log(&mut none, &host);
        let text = scraped(&host);
        let named = r#"code="200",route="first",matched_uri="",matched_host="*.com",service="s",consumer="",node="","#;
        assert!(text.contains(named), "{text}");
        assert!(text.contains(r#"code="404",route="",matched_uri="","#), "{text}");
        assert!(text.contains(r#"response_source="apisix"} 1"#), "{text}");
    }

    #[test]
    fn codes_of_sessions_are_those_of_nginx() {
        let codes = [200, 302, 400, 403, 404, 429, 500, 502, 503, 504, 599].map(nginx_code);
        assert_eq!(codes, [200, 500, 400, 403, 400, 400, 500, 502, 503, 500, 500]);
        let host = test::host();
        let plugin = build_stream(
            &json!({}),
            &Build { host: &host, parent: "/apisix/stream_routes/1", metadata: None },
        )
        .unwrap();
        let mut ex = exchange();
        ex.resp.head.status = 429;
        ex.session = Some(Box::default());
        plugin.log(&mut ex, &host);
        let text = scraped(&host);
        assert!(text.contains("apisix_stream_status{code=\"400\""), "{text}");
    }

    /// Requests of which the upstream's time is not known share all other series.
    #[test]
    fn an_upstreams_time_that_expired_alone_is_counted_anew() {
        let mut host = test::host();
        let metrics = json!({ "http_status": { "expire": 10 }, "http_latency": { "expire": 10 }, "bandwidth": { "expire": 10 } });
        let shape = Shape::new("apisix_", None, Some(&metrics));
        Rc::get_mut(&mut host).unwrap().metrics = RefCell::new(Metrics::new(shape).core());
        let plugin = test::build(&SPEC, &host, json!({}));
        let flood = |name: &str, count: usize| {
            for n in 0..count {
                host.metrics.borrow_mut().count(HTTP_STATUS, &[format!("{name}{n}").as_bytes()], 1);
            }
        };
        let (mut timed, mut untimed) = (exchange(), exchange());
        if let Some(attempt) = untimed.upstream.current() {
            attempt.response_ms = None;
        }
        untimed.matched = timed.matched.clone();
        plugin.log(&mut timed, &host);
        host.metrics.borrow_mut().tick(8_000);
        plugin.log(&mut untimed, &host);
        flood("a", limits::METRIC_SERIES - 6);
        host.metrics.borrow_mut().tick(10_001);
        flood("b", 1);
        host.metrics.borrow_mut().tick(18_001);
        plugin.log(&mut timed, &host);
        let text = scraped(&host);
        let mut lines =
            text.lines().filter(|line| line.starts_with("apisix_http_latency_count{type=\"upstream\""));
        assert!(lines.next().is_some_and(|line| line.ends_with("} 1")), "{text}");
    }

    #[test]
    fn a_route_whose_series_expired_and_gave_way_is_counted_anew() {
        let mut host = test::host();
        let metrics = json!({ "http_status": { "expire": 10 }, "http_latency": { "expire": 10 }, "bandwidth": { "expire": 10 } });
        let shape = Shape::new("apisix_", None, Some(&metrics));
        Rc::get_mut(&mut host).unwrap().metrics = RefCell::new(Metrics::new(shape).core());
        let plugin = test::build(&SPEC, &host, json!({}));
        let mut ex = exchange();
        plugin.log(&mut ex, &host);
        let flood = |name: &str, from: usize| {
            for n in from..limits::METRIC_SERIES {
                host.metrics.borrow_mut().count(HTTP_STATUS, &[format!("{name}{n}").as_bytes()], 1);
            }
        };
        flood("a", 6);
        host.metrics.borrow_mut().tick(10_001);
        flood("b", 0);
        plugin.log(&mut ex, &host);
        assert!(!scraped(&host).contains("route=\"1\""), "no room");
        host.metrics.borrow_mut().tick(20_002);
        plugin.log(&mut ex, &host);
        let text = scraped(&host);
        assert_eq!(
            text.lines()
                .filter(|line| line.contains("apisix_http_status{") && line.ends_with("\"upstream\"} 1"))
                .count(),
            1
        );
        assert_eq!(text.lines().filter(|line| line.starts_with("apisix_bandwidth{")).count(), 2, "{text}");
        assert_eq!(
            text.lines()
                .filter(|line| line.starts_with("apisix_http_latency_count{") && line.ends_with("} 1"))
                .count(),
            3
        );
    }
}
