//! The families of metrics: their names, texts and labels as APISIX has them (apisix/plugins/prometheus/exporter.lua).

/// A group of series under one name.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// Its name, without the prefix.
    pub name: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Upper bounds of a histogram's buckets, ascending.
    pub buckets: Box<[f64]>,
    /// Label names, the extra ones behind the built-in ones.
    pub labels: Vec<String>,
    /// Variables of the extra labels (`plugin_attr.prometheus.metrics.<name>.extra_labels`), without `$`.
    pub extra: Vec<String>,
    /// Series unused for so long are not shown, begin anew when they are used again, and give their place to new ones
    /// (gauges keep their number and place); 0 keeps them for ever.
    pub expire_ms: u64,
}

/// What a family's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One number that grows.
    Counter,
    /// One number that also shrinks.
    Gauge,
    /// Numbers of values below each bucket's bound, and their sum.
    Histogram,
}

/// Which family: an index into the families of a [`Shape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FamilyId(pub(super) u16);

/// `http_status`
pub const HTTP_STATUS: FamilyId = FamilyId(0);
/// `http_latency`, milliseconds
pub const HTTP_LATENCY: FamilyId = FamilyId(1);
/// `bandwidth`, bytes
pub const BANDWIDTH: FamilyId = FamilyId(2);
/// `stream_connection_total`
pub const STREAM_CONNECTIONS: FamilyId = FamilyId(3);
/// `stream_active_connections`
pub const STREAM_ACTIVE: FamilyId = FamilyId(4);
/// `stream_status`
pub const STREAM_STATUS: FamilyId = FamilyId(5);
/// `stream_bandwidth`, bytes
pub const STREAM_BANDWIDTH: FamilyId = FamilyId(6);
/// `redis_commands_total`
pub const REDIS_COMMANDS: FamilyId = FamilyId(7);
/// `redis_commands_latency_seconds`
pub const REDIS_LATENCY: FamilyId = FamilyId(8);
/// `pubsub_active_sessions`
pub const PUBSUB_SESSIONS: FamilyId = FamilyId(9);
/// `pubsub_active_subscriptions`
pub const PUBSUB_SUBSCRIPTIONS: FamilyId = FamilyId(10);
/// `pubsub_messages_total`
pub const PUBSUB_MESSAGES: FamilyId = FamilyId(11);
/// `pubsub_fetches_total`
pub const PUBSUB_FETCHES: FamilyId = FamilyId(12);

/// APISIX's buckets of the latency of Redis commands, s (apisix/stream/xrpc/protocols/redis/metrics.lua).
const REDIS_BUCKETS_S: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// APISIX's latency buckets, ms (apisix/plugins/prometheus/exporter.lua).
pub const LATENCY_BUCKETS_MS: [f64; 15] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 30000.0, 60000.0];

/// What a family is before configuration.
pub(super) struct Told {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) buckets: Buckets,
    /// Built-in label names, with blanks between them.
    pub(super) labels: &'static str,
}

/// Where a family's buckets come from.
pub(super) enum Buckets {
    /// It is no histogram.
    None,
    /// `default_buckets`, else [`LATENCY_BUCKETS_MS`].
    Configured,
    Fixed(&'static [f64]),
}

/// All of them, each at the place that its id names.
pub(super) const FAMILIES: [Told; 13] = [
    Told {
        name: "http_status",
        help: "HTTP status codes per service in APISIX",
        kind: Kind::Counter,
        buckets: Buckets::None,
        labels: "code route matched_uri matched_host service consumer node request_type request_llm_model \
                 llm_model response_source",
    },
    Told {
        name: "http_latency",
        help: "HTTP request latency in milliseconds per service in APISIX",
        kind: Kind::Histogram,
        buckets: Buckets::Configured,
        labels: "type route service consumer node request_type request_llm_model llm_model",
    },
    Told {
        name: "bandwidth",
        help: "Total bandwidth in bytes consumed per service in APISIX",
        kind: Kind::Counter,
        buckets: Buckets::None,
        labels: "type route service consumer node request_type request_llm_model llm_model",
    },
    Told {
        name: "stream_connection_total",
        help: "Total number of connections handled per stream route in APISIX",
        kind: Kind::Counter,
        buckets: Buckets::None,
        labels: "route",
    },
    Told {
        name: "stream_active_connections",
        help: "Number of stream sessions currently being proxied per listening address",
        kind: Kind::Gauge,
        buckets: Buckets::None,
        labels: "listen_addr",
    },
    Told {
        name: "stream_status",
        help: "Stream sessions per termination status in APISIX",
        kind: Kind::Counter,
        buckets: Buckets::None,
        labels: "code listen_addr node",
    },
    Told {
        name: "stream_bandwidth",
        help: "Total bandwidth in bytes proxied by the stream subsystem in APISIX",
        kind: Kind::Counter,
        buckets: Buckets::None,
        labels: "listen_addr type side",
    },
    Told {
        name: "redis_commands_total",
        help: "Total number of requests for a specific Redis command",
        kind: Kind::Counter,
        buckets: Buckets::None,
        labels: "route command",
    },
    Told {
        name: "redis_commands_latency_seconds",
        help: "Latency of requests for a specific Redis command",
        kind: Kind::Histogram,
        buckets: Buckets::Fixed(&REDIS_BUCKETS_S),
        labels: "route command",
    },
    Told {
        name: "pubsub_active_sessions",
        help: "Number of publish and subscribe sessions currently open per route",
        kind: Kind::Gauge,
        buckets: Buckets::None,
        labels: "route",
    },
    Told {
        name: "pubsub_active_subscriptions",
        help: "Number of subscriptions of publish and subscribe sessions currently open per route",
        kind: Kind::Gauge,
        buckets: Buckets::None,
        labels: "route",
    },
    Told {
        name: "pubsub_messages_total",
        help: "Total number of messages sent to clients of publish and subscribe, fetched or pushed",
        kind: Kind::Counter,
        buckets: Buckets::None,
        labels: "route type",
    },
    Told {
        name: "pubsub_fetches_total",
        help: "Total number of fetches from the brokers behind publish and subscribe",
        kind: Kind::Counter,
        buckets: Buckets::None,
        labels: "system topic",
    },
];
