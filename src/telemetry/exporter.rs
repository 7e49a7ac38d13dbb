//! The metrics as Prometheus text (exposition format 0.0.4), with APISIX's names
//! (apisix/plugins/prometheus/exporter.lua).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::families::{FamilyId, Kind};
use super::metrics::{Metrics, Page, Shape, Shown};

/// What control knows about the node at the time of a scrape.
#[derive(Debug, Default)]
pub struct Node<'a> {
    /// Host name.
    pub hostname: &'a str,
    /// The version shown.
    pub version: &'a str,
    /// With the provider etcd: whether it answers.
    pub etcd_reachable: Option<bool>,
    /// Highest revisions by key (`routes`, …, `max_modify_index`, `x_etcd_index`).
    pub modify_indexes: &'a [(&'a str, i64)],
    /// Nodes under health checks: upstream, address, port, whether healthy.
    pub upstream_status: &'a [(String, String, u16, bool)],
    /// Tables of bounded size: name, capacity and free space, bytes.
    pub tables: &'a [(&'a str, u64, u64)],
    /// Log entries that wait to be sent: name of the batch, route, server address, entries.
    pub batch_entries: &'a [(String, String, String, usize)],
    /// Certificates: ssl object, its first name, which of the object's, days left.
    pub certificates: &'a [(String, String, String, f64)],
    /// Certificates with OCSP stapling on: those that have a response, and those that have none.
    pub stapled: (usize, usize),
    /// Lines that the logs lost, by log.
    pub dropped_lines: &'a [(&'a str, u64)],
    /// The clock of the cores.
    pub now_ms: u64,
}

/// Makes the text. Keeps what it has seen of each page, so that a scrape holds a page's mutex only to fetch
/// new series.
#[derive(Debug)]
pub struct Exporter {
    metrics: Arc<Metrics>,
    seen: Vec<(Arc<Page>, Shown)>,
}

impl Exporter {
    /// For these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Exporter {
        Exporter { metrics, seen: Vec::new() }
    }

    /// The whole text.
    pub fn text(&mut self, node: &Node<'_>) -> String {
        for page in self.metrics.pages().into_iter().skip(self.seen.len()) {
            self.seen.push((page, Shown::default()));
        }
        for (page, seen) in &mut self.seen {
            page.fetch(seen);
        }
        let shape = self.metrics.shape();
        let mut text = Text { out: String::new(), prefix: &shape.prefix };
        self.node(&mut text, node);
        for (id, _) in shape.families() {
            self.family(&mut text, &shape, id, node.now_ms);
        }
        text.out
    }

    /// What is no series of a core.
    fn node(&self, text: &mut Text<'_>, node: &Node<'_>) {
        let metrics = &self.metrics;
        text.gauge(
            "nginx_http_current_connections",
            "Number of HTTP connections",
            &["state"],
            [
                (["accepted"], metrics.sum(|t| &t.accepted)),
                (["active"], metrics.sum(|t| &t.active)),
                (["handled"], metrics.sum(|t| &t.handled)),
                (["reading"], metrics.sum(|t| &t.reading)),
                (["waiting"], metrics.waiting()),
                (["writing"], metrics.sum(|t| &t.writing)),
            ],
        );
        let requests = metrics.sum(|t| &t.requests);
        let help = "The total number of client requests since APISIX started";
        text.gauge("http_requests_total", help, &[], [([], requests)]);
        let reachable = node.etcd_reachable.map(|up| ([], u64::from(up)));
        let help = "Config server etcd reachable from APISIX, 0 is unreachable";
        text.gauge("etcd_reachable", help, &[], reachable);
        let indexes = node.modify_indexes.iter().map(|(key, revision)| ([*key], *revision));
        text.gauge("etcd_modify_indexes", "Etcd modify index for APISIX keys", &["key"], indexes);
        let info = [([node.hostname, node.version], 1)];
        text.gauge("node_info", "Info of APISIX node", &["hostname", "version"], info);
        let nodes = node.upstream_status.iter();
        let ports: Vec<String> = nodes.clone().map(|(_, _, port, _)| port.to_string()).collect();
        let status =
            nodes.zip(&ports).map(|((name, ip, _, up), port)| ([&**name, &**ip, &**port], u64::from(*up)));
        text.gauge("upstream_status", "Upstream status from health check", &["name", "ip", "port"], status);
        let capacity = node.tables.iter().map(|(name, capacity, _)| ([*name], *capacity));
        let help = "The capacity of each nginx shared DICT since APISIX start";
        text.gauge("shared_dict_capacity_bytes", help, &["name"], capacity);
        let free = node.tables.iter().map(|(name, _, free)| ([*name], *free));
        let help = "The free space of each nginx shared DICT since APISIX start";
        text.gauge("shared_dict_free_space_bytes", help, &["name"], free);
        let waiting = node.batch_entries.iter();
        let waiting = waiting.map(|(name, route, addr, entries)| ([&**name, &**route, &**addr], *entries));
        let names = ["name", "route_id", "server_addr"];
        text.gauge("batch_process_entries", "batch process remaining entries", &names, waiting);
        text.counter(
            "nginx_metric_errors_total",
            "Series refused because a core has too many",
            &[],
            [([], metrics.sum(|t| &t.refused_series))],
        );
        let panics = metrics.sum(|t| &t.panics);
        text.counter("panics_total", "Requests and connections that a panic ended", &[], [([], panics)]);
        text.counter(
            "dropped_messages_total",
            "Messages from cores that found the queue full",
            &[],
            [([], metrics.sum(|t| &t.dropped_messages))],
        );
        self.tls(text);
        certificates(text, node);
        self.http2(text);
        self.http3(text);
        let lines = node.dropped_lines.iter().map(|(log, lines)| ([*log], *lines));
        text.counter("dropped_log_lines_total", "Log lines that found the queue full", &["log"], lines);
    }

    /// What TLS handshakes with clients have come to.
    fn tls(&self, text: &mut Text<'_>) {
        let metrics = &self.metrics;
        let kinds = [("TLSv1.2", "no"), ("TLSv1.2", "yes"), ("TLSv1.3", "no"), ("TLSv1.3", "yes")];
        let done = kinds
            .iter()
            .enumerate()
            .map(|(at, (version, resumed))| ([*version, *resumed], metrics.sum(|t| &t.tls_handshakes[at])));
        text.counter("tls_handshakes_total", "TLS handshakes with clients", &["version", "resumed"], done);
        let failed = metrics.sum(|t| &t.tls_failures);
        text.counter("tls_handshake_failures_total", "TLS handshakes that failed", &[], [([], failed)]);
    }

    /// What HTTP/2 connections of clients have seen.
    fn http2(&self, text: &mut Text<'_>) {
        let metrics = &self.metrics;
        for (name, help, value) in [
            ("http2_connections_total", "HTTP/2 connections", metrics.sum(|t| &t.h2_connections)),
            ("http2_streams_total", "HTTP/2 streams", metrics.sum(|t| &t.h2_streams)),
            ("http2_resets_total", "HTTP/2 streams that their client reset", metrics.sum(|t| &t.h2_resets)),
            ("http2_floods_total", "HTTP/2 connections closed for a flood", metrics.sum(|t| &t.h2_floods)),
        ] {
            text.counter(name, help, &[], [([], value)]);
        }
    }

    /// What HTTP/3 connections of clients have seen.
    fn http3(&self, text: &mut Text<'_>) {
        let metrics = &self.metrics;
        for (name, help, value) in [
            ("http3_connections_total", "HTTP/3 connections", metrics.sum(|t| &t.h3_connections)),
            ("http3_streams_total", "HTTP/3 requests", metrics.sum(|t| &t.h3_streams)),
            ("http3_resets_total", "HTTP/3 requests that their client reset", metrics.sum(|t| &t.h3_resets)),
            (
                "http3_violations_total",
                "HTTP/3 connections closed for an error",
                metrics.sum(|t| &t.h3_violations),
            ),
            ("quic_refused_total", "QUIC connections turned away", metrics.sum(|t| &t.quic_refused)),
            (
                "quic_retries_total",
                "QUIC clients that had to prove their address",
                metrics.sum(|t| &t.quic_retries),
            ),
            (
                "quic_passed_total",
                "QUIC datagrams passed on to another core",
                metrics.sum(|t| &t.quic_passed),
            ),
            (
                "quic_dropped_total",
                "QUIC datagrams dropped for want of room",
                metrics.sum(|t| &t.quic_dropped),
            ),
        ] {
            text.counter(name, help, &[], [([], value)]);
        }
    }

    /// The series of one family, the pages added up, sorted by their labels.
    fn family(&self, text: &mut Text<'_>, shape: &Arc<Shape>, id: FamilyId, now_ms: u64) {
        let family = shape.family(id);
        let mut merged: BTreeMap<&[Box<str>], Vec<u64>> = BTreeMap::new();
        let pages = self.seen.iter().filter(|(_, seen)| Arc::ptr_eq(&seen.shape, shape));
        for series in pages.flat_map(|(_, seen)| &seen.series) {
            let idle_ms = now_ms.saturating_sub(series.used_ms.load(Relaxed));
            if series.family != id || (family.expire_ms > 0 && idle_ms > family.expire_ms) {
                continue;
            }
            let values = merged.entry(&series.labels).or_insert_with(|| vec![0; series.values.len()]);
            let last = values.len() - 1;
            for (i, (sum, value)) in values.iter_mut().zip(&*series.values).enumerate() {
                let value = value.load(Relaxed);
                *sum = match family.kind {
                    Kind::Histogram if i == last => (f64::from_bits(*sum) + f64::from_bits(value)).to_bits(),
                    _ => sum.wrapping_add(value),
                };
            }
        }
        if merged.is_empty() {
            return;
        }
        let names: Vec<&str> = family.labels.iter().map(String::as_str).collect();
        match family.kind {
            Kind::Counter | Kind::Gauge => {
                let kind = if family.kind == Kind::Gauge { "gauge" } else { "counter" };
                text.head(family.name, family.help, kind);
                for (labels, values) in merged {
                    text.sample(family.name, "", &names, labels, None, values[0]);
                }
            }
            Kind::Histogram => {
                text.head(family.name, family.help, "histogram");
                for (labels, values) in merged {
                    histogram(text, &family.buckets, family.name, &names, labels, &values);
                }
            }
        }
    }
}

/// How long certificates are good for.
fn certificates(text: &mut Text<'_>, node: &Node<'_>) {
    let left = node.certificates.iter().map(|(id, sni, index, days)| ([&**id, &**sni, &**index], days));
    let help = "Days until a certificate of an ssl object expires, less than 0 if it has";
    text.gauge("ssl_certificate_days_left", help, &["ssl_id", "sni", "index"], left);
    let (with, without) = node.stapled;
    let stapled = [(["yes"], with), (["no"], without)].into_iter().filter(|_| with + without > 0);
    let help = "Certificates with OCSP stapling on, by whether they have a response";
    text.gauge("ssl_ocsp_certificates", help, &["stapled"], stapled);
}

/// One series of a histogram: its buckets, their count and their sum.
fn histogram(
    text: &mut Text<'_>,
    buckets: &[f64],
    name: &str,
    names: &[&str],
    labels: &[Box<str>],
    values: &[u64],
) {
    let mut below = 0;
    for (bound, count) in buckets.iter().zip(values) {
        below += count;
        text.sample(name, "_bucket", names, labels, Some(&bound.to_string()), below);
    }
    let above = values.len() - 2;
    below += values[above];
    text.sample(name, "_bucket", names, labels, Some("+Inf"), below);
    text.sample(name, "_count", names, labels, None, below);
    text.sample(name, "_sum", names, labels, None, f64::from_bits(values[above + 1]));
}

/// Text in the making. Writing to a String cannot fail.
struct Text<'a> {
    out: String,
    prefix: &'a str,
}

impl Text<'_> {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let prefix = self.prefix;
        let _ = writeln!(self.out, "# HELP {prefix}{name} {help}\n# TYPE {prefix}{name} {kind}");
    }

    fn gauge<'s, const N: usize, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str; N],
        samples: impl IntoIterator<Item = ([&'s str; N], V)>,
    ) {
        self.whole(name, help, "gauge", labels, samples);
    }

    fn counter<'s, const N: usize, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str; N],
        samples: impl IntoIterator<Item = ([&'s str; N], V)>,
    ) {
        self.whole(name, help, "counter", labels, samples);
    }

    /// A whole family; nothing at all where it has no samples.
    fn whole<'s, const N: usize, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        labels: &[&str; N],
        samples: impl IntoIterator<Item = ([&'s str; N], V)>,
    ) {
        let mut first = true;
        for (values, value) in samples {
            if std::mem::take(&mut first) {
                self.head(name, help, kind);
            }
            self.sample(name, "", labels, &values, None, value);
        }
    }

    fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        names: &[&str],
        values: &[impl AsRef<str>],
        le: Option<&str>,
        value: impl Display,
    ) {
        let _ = write!(self.out, "{}{name}{suffix}", self.prefix);
        let mut between = '{';
        for (name, value) in names.iter().zip(values) {
            let _ = write!(self.out, "{between}{name}=\"");
            escaped(&mut self.out, value.as_ref());
            self.out.push('"');
            between = ',';
        }
        if let Some(le) = le {
            let _ = write!(self.out, "{between}le=\"{le}\"");
            between = ',';
        }
        if between == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

/// A label's value: backslash, quote and line end escaped.
fn escaped(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::families::{BANDWIDTH, HTTP_LATENCY, HTTP_STATUS};
    use super::*;
    use crate::limits;

    fn node() -> Node<'static> {
        Node { hostname: "h", version: "3.18.0", ..Node::default() }
    }

    #[test]
    fn cores_are_added_up_under_apisix_names() {
        let metrics = Metrics::new(Shape::new("apisix_", Some(&[10.0, 2.5]), None));
        let mut cores = [metrics.core(), metrics.core()];
        for core in &mut cores {
            core.tallies().requests.add(2);
            core.tallies().panics.add(1);
            core.count(
                HTTP_STATUS,
                &[
                    b"200",
                    b"1",
                    b"/a\"",
                    b"",
                    b"",
                    b"",
                    b"127.0.0.1",
                    b"traditional_http",
                    b"",
                    b"",
                    b"upstream",
                ],
                2,
            );
            let labels: [&[u8]; 8] = [b"request", b"1", b"", b"", b"", b"", b"", b""];
            let id = core.series(HTTP_LATENCY, &labels).unwrap();
            core.observe(id, 2.0);
            core.observe(id, 11.25);
            core.count(BANDWIDTH, &[b"egress", b"1", b"", b"", b"", b"", b"", b""], 70);
        }
        let text = Exporter::new(metrics).text(&node());
        for line in [
            "# TYPE apisix_http_status counter",
            "apisix_http_status{code=\"200\",route=\"1\",matched_uri=\"/a\\\"\",matched_host=\"\",service=\"\",\
             consumer=\"\",node=\"127.0.0.1\",request_type=\"traditional_http\",request_llm_model=\"\",\
             llm_model=\"\",response_source=\"upstream\"} 4",
            "apisix_http_requests_total 4",
            "apisix_panics_total 2",
            "apisix_nginx_http_current_connections{state=\"active\"} 0",
            "apisix_node_info{hostname=\"h\",version=\"3.18.0\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let tail = "type=\"request\",route=\"1\",service=\"\",consumer=\"\",node=\"\",request_type=\"\",\
                    request_llm_model=\"\",llm_model=\"\"";
        let want = [
            "# TYPE apisix_http_latency histogram".to_owned(),
            format!("apisix_http_latency_bucket{{{tail},le=\"2.5\"}} 2"),
            format!("apisix_http_latency_bucket{{{tail},le=\"10\"}} 2"),
            format!("apisix_http_latency_bucket{{{tail},le=\"+Inf\"}} 4"),
            format!("apisix_http_latency_count{{{tail}}} 4"),
            format!("apisix_http_latency_sum{{{tail}}} 26.5"),
        ];
        assert!(text.contains(&want.join("\n")), "{text}");
        assert!(!text.contains("etcd_reachable"));
    }

    #[test]
    fn what_control_knows_is_shown() {
        let metrics = Metrics::new(Shape::new("x_", None, None));
        let status = [("/apisix/upstreams/1".to_owned(), "10.0.0.1".to_owned(), 80, true)];
        let text = Exporter::new(metrics).text(&Node {
            etcd_reachable: Some(false),
            modify_indexes: &[("routes", 12)],
            upstream_status: &status,
            tables: &[("limits", 100, 40)],
            dropped_lines: &[("access", 3)],
            ..node()
        });
        for line in [
            "x_etcd_reachable 0",
            "x_etcd_modify_indexes{key=\"routes\"} 12",
            "x_upstream_status{name=\"/apisix/upstreams/1\",ip=\"10.0.0.1\",port=\"80\"} 1",
            "x_shared_dict_capacity_bytes{name=\"limits\"} 100",
            "x_shared_dict_free_space_bytes{name=\"limits\"} 40",
            "x_dropped_log_lines_total{log=\"access\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn unused_series_fade_and_come_back() {
        let attr = serde_json::json!({"bandwidth": {"expire": 10}});
        let metrics = Metrics::new(Shape::new("", None, Some(&attr)));
        let mut core = metrics.core();
        let mut exporter = Exporter::new(metrics);
        core.tick(1000);
        core.count(BANDWIDTH, &[b"in"], 5);
        let shows = |exporter: &mut Exporter, now_ms| {
            exporter.text(&Node { now_ms, ..node() }).contains("bandwidth{")
        };
        assert!(shows(&mut exporter, 11_000));
        assert!(!shows(&mut exporter, 11_001));
        core.tick(20_000);
        core.count(BANDWIDTH, &[b"in"], 5);
        assert!(shows(&mut exporter, 20_001));
    }

    #[test]
    fn a_series_that_comes_back_begins_anew() {
        let attr = serde_json::json!({"bandwidth": {"expire": 10}, "http_latency": {"expire": 10}});
        let metrics = Metrics::new(Shape::new("", None, Some(&attr)));
        let mut core = metrics.core();
        let mut exporter = Exporter::new(metrics);
        core.tick(1000);
        core.count(BANDWIDTH, &[b"in"], 5);
        let latency = core.series(HTTP_LATENCY, &[b"request"]).unwrap();
        core.observe(latency, 3.0);
        core.tick(11_000);
        core.count(BANDWIDTH, &[b"in"], 5);
        core.observe(latency, 3.0);
        let mut shows = |now_ms| exporter.text(&Node { now_ms, ..node() });
        let text = shows(11_000);
        assert!(text.contains("bandwidth{type=\"in\"} 10\n"), "{text}");
        core.tick(30_000);
        core.count(BANDWIDTH, &[b"in"], 2);
        core.observe(latency, 4.0);
        let text = shows(30_000);
        assert!(text.contains("bandwidth{type=\"in\"} 2\n"), "{text}");
        assert!(text.contains("http_latency_sum{type=\"request\"} 4\n"), "{text}");
        assert!(text.contains("http_latency_count{type=\"request\"} 1\n"), "{text}");
    }

    #[test]
    fn a_full_core_gives_the_room_of_expired_series_to_new_ones() {
        let attr = serde_json::json!({"bandwidth": {"expire": 10}});
        let metrics = Metrics::new(Shape::new("", None, Some(&attr)));
        let mut core = metrics.core();
        let mut exporter = Exporter::new(metrics.clone());
        core.tick(1000);
        for n in 0..limits::METRIC_SERIES {
            core.count(BANDWIDTH, &[n.to_string().as_bytes()], 1);
        }
        exporter.text(&Node { now_ms: 1000, ..node() });
        core.tick(8000);
        core.count(BANDWIDTH, &[b"7"], 1);
        core.count(BANDWIDTH, &[b"early"], 1);
        core.tick(12_000);
        core.count(BANDWIDTH, &[b"late"], 3);
        core.count(BANDWIDTH, &[b"0"], 4);
        let text = exporter.text(&Node { now_ms: 12_000, ..node() });
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("bandwidth{")).collect();
        let want = ["bandwidth{type=\"0\"} 4", "bandwidth{type=\"7\"} 2", "bandwidth{type=\"late\"} 3"];
        assert_eq!(lines, want);
        assert_eq!(metrics.sum(|t| &t.refused_series), 1, "only while none had expired");
    }
}
