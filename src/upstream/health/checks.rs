//! `checks` of an upstream. Defaults are those of apisix/schema_def.lua where a section is written, and
//! those of lua-resty-healthcheck where it is not: without `active.healthy` and `active.unhealthy` there
//! are no active probes, and passive TCP failures and timeouts count even without a `passive` section.

use serde::Deserialize;
use serde_json::Value;

use super::{Observer, Report, Status};

/// How an active probe looks at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeType {
    /// A request in clear.
    #[default]
    Http,
    /// A request over TLS.
    Https,
    /// A connection.
    Tcp,
}

impl ProbeType {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeType::Http => "http",
            ProbeType::Https => "https",
            ProbeType::Tcp => "tcp",
        }
    }
}

/// The health checks of an upstream.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Checks {
    /// Probes.
    pub active: Active,
    /// What requests tell; `None` if not written.
    pub passive: Option<Passive>,
    #[serde(skip)]
    passive_limits: Limits,
    #[serde(skip)]
    active_limits: Limits,
}

/// `checks.active`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default)]
pub struct Active {
    /// http, https or tcp.
    #[serde(rename = "type")]
    pub kind: ProbeType,
    /// For the connection and for each wait on it, s.
    pub timeout: f64,
    /// Probes of this upstream at one time.
    pub concurrency: u32,
    /// Host header, and part of a target's identity.
    pub host: Option<Box<str>>,
    /// Instead of each node's port.
    pub port: Option<u16>,
    /// Request method.
    pub http_method: Box<str>,
    /// Request target.
    pub http_path: Box<str>,
    /// Request body.
    pub http_req_body: Box<str>,
    /// Whether an https probe checks the certificate.
    pub https_verify_certificate: bool,
    /// More header lines, `Name: value`.
    pub req_headers: Box<[Box<str>]>,
    healthy: ActiveHealthy,
    unhealthy: ActiveUnhealthy,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
struct ActiveHealthy {
    #[serde(default = "one")]
    interval: u32,
    #[serde(default = "active_healthy_statuses")]
    http_statuses: Box<[u16]>,
    #[serde(default = "two")]
    successes: u8,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
struct ActiveUnhealthy {
    #[serde(default = "one")]
    interval: u32,
    #[serde(default = "active_unhealthy_statuses")]
    http_statuses: Box<[u16]>,
    #[serde(default = "five")]
    http_failures: u8,
    #[serde(default = "two")]
    tcp_failures: u8,
    #[serde(default = "three")]
    timeouts: u8,
}

/// `checks.passive`.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Passive {
    /// http, https or tcp; only shown.
    #[serde(rename = "type")]
    pub kind: ProbeType,
    healthy: PassiveHealthy,
    unhealthy: PassiveUnhealthy,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default)]
struct PassiveHealthy {
    http_statuses: Box<[u16]>,
    successes: u8,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default)]
struct PassiveUnhealthy {
    http_statuses: Box<[u16]>,
    http_failures: u8,
    tcp_failures: u8,
    timeouts: u8,
}

/// When a node changes its state; 0 switches a counter off.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Limits {
    /// Statuses that speak for the node.
    pub healthy_statuses: Box<[u16]>,
    /// Statuses that speak against it.
    pub unhealthy_statuses: Box<[u16]>,
    /// Successes to come back.
    pub successes: u8,
    /// Unhealthy answers to go.
    pub http_failures: u8,
    /// Failed connections to go.
    pub tcp_failures: u8,
    /// Timeouts to go.
    pub timeouts: u8,
}

impl Checks {
    /// Reads `checks` as written. The schema has been checked before; what slips through it is named.
    pub fn parse(written: &Value) -> Result<Checks, serde_json::Error> {
        let mut checks = Checks::deserialize(written)?;
        let (healthy, unhealthy) = (&checks.active.healthy, &checks.active.unhealthy);
        checks.active_limits = Limits {
            healthy_statuses: healthy.http_statuses.clone(),
            unhealthy_statuses: unhealthy.http_statuses.clone(),
            successes: healthy.successes,
            http_failures: unhealthy.http_failures,
            tcp_failures: unhealthy.tcp_failures,
            timeouts: unhealthy.timeouts,
        };
        let Passive { healthy, unhealthy, .. } = checks.passive.clone().unwrap_or_default();
        checks.passive_limits = Limits {
            healthy_statuses: healthy.http_statuses,
            unhealthy_statuses: unhealthy.http_statuses,
            successes: healthy.successes,
            http_failures: unhealthy.http_failures,
            tcp_failures: unhealthy.tcp_failures,
            timeouts: unhealthy.timeouts,
        };
        Ok(checks)
    }

    /// The limits that hold for reports of `observer`.
    pub fn limits(&self, observer: Observer) -> &Limits {
        match observer {
            Observer::Active => &self.active_limits,
            Observer::Passive => &self.passive_limits,
        }
    }

    /// Whether what a request met at a node in state `known` can change anything. Almost always it is a
    /// healthy status of a healthy node, which does not. Statuses count only where `passive` is written
    /// (apisix/init.lua, `healthcheck_passive`), failed tries always (apisix/balancer.lua).
    pub fn passive_counts(&self, report: Report, known: Status) -> bool {
        let limits = &self.passive_limits;
        let speaks_for = |status: &u16| limits.healthy_statuses.contains(status);
        match report {
            Report::Http(_) if self.passive.is_none() => false,
            Report::Http(status) if speaks_for(&status) => known != Status::Healthy && limits.successes > 0,
            Report::Http(status) => {
                let counts = limits.unhealthy_statuses.contains(&status) && limits.http_failures > 0;
                counts && known != Status::Unhealthy
            }
            Report::TcpFailure => known != Status::Unhealthy && limits.tcp_failures > 0,
            Report::Timeout => known != Status::Unhealthy && limits.timeouts > 0,
            Report::Connected => false,
        }
    }

    /// Between two probes of a usable (`true`) or unusable node, ms; `None` is never.
    pub fn interval_ms(&self, usable: bool) -> Option<u64> {
        let interval = if usable { self.active.healthy.interval } else { self.active.unhealthy.interval };
        (interval > 0).then(|| u64::from(interval) * 1000)
    }
}

impl Default for Active {
    fn default() -> Self {
        Active {
            kind: ProbeType::Http,
            timeout: 1.0,
            concurrency: 10,
            host: None,
            port: None,
            http_method: "GET".into(),
            http_path: "/".into(),
            http_req_body: "".into(),
            https_verify_certificate: true,
            req_headers: Box::default(),
            healthy: ActiveHealthy {
                interval: 0,
                http_statuses: active_healthy_statuses(),
                successes: two(),
            },
            unhealthy: ActiveUnhealthy {
                interval: 0,
                http_statuses: active_unhealthy_statuses(),
                http_failures: five(),
                tcp_failures: two(),
                timeouts: three(),
            },
        }
    }
}

impl Default for PassiveHealthy {
    fn default() -> Self {
        let http_statuses = (200..=208).chain([226]).chain(300..=308).collect();
        PassiveHealthy { http_statuses, successes: 5 }
    }
}

impl Default for PassiveUnhealthy {
    fn default() -> Self {
        let http_statuses = Box::new([429, 500, 503]);
        PassiveUnhealthy { http_statuses, http_failures: 5, tcp_failures: 2, timeouts: 7 }
    }
}

fn active_healthy_statuses() -> Box<[u16]> {
    Box::new([200, 302])
}

fn active_unhealthy_statuses() -> Box<[u16]> {
    Box::new([429, 404, 500, 501, 502, 503, 504, 505])
}

fn one() -> u32 {
    1
}

fn two() -> u8 {
    2
}

fn three() -> u8 {
    3
}

fn five() -> u8 {
    5
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn written_sections_get_the_schemas_defaults() {
        let checks =
            Checks::parse(&json!({"active": {"healthy": {}, "unhealthy": {"timeouts": 9}}})).unwrap();
        assert_eq!((checks.interval_ms(true), checks.interval_ms(false)), (Some(1000), Some(1000)));
        let limits = checks.limits(Observer::Active);
        assert_eq!((limits.successes, limits.http_failures, limits.tcp_failures), (2, 5, 2));
        assert_eq!(limits.timeouts, 9);
        assert_eq!((&*checks.active.http_path, checks.active.timeout), ("/", 1.0));
        assert!(checks.active.https_verify_certificate);
    }

    #[test]
    fn missing_sections_never_probe_but_count_passive_failures() {
        let checks = Checks::parse(&json!({"active": {"http_path": "/status"}})).unwrap();
        assert_eq!((checks.interval_ms(true), checks.interval_ms(false)), (None, None));
        assert!(checks.passive.is_none());
        let limits = checks.limits(Observer::Passive);
        assert_eq!((limits.tcp_failures, limits.timeouts, limits.http_failures), (2, 7, 5));
        assert!(limits.healthy_statuses.contains(&226) && !limits.healthy_statuses.contains(&209));
    }

    #[test]
    fn all_that_can_be_written_is_read() {
        let checks = Checks::parse(&json!({
            "active": {
                "type": "https", "timeout": 0.5, "concurrency": 3, "host": "a.com", "port": 8443,
                "http_path": "/s", "https_verify_certificate": false, "req_headers": ["X: 1"],
                "healthy": {"interval": 4, "http_statuses": [201], "successes": 1},
                "unhealthy": {"interval": 2}
            },
            "passive": {"type": "tcp", "unhealthy": {"tcp_failures": 7}}
        }))
        .unwrap();
        assert_eq!(checks.active.kind, ProbeType::Https);
        assert_eq!((checks.active.port, checks.active.host.as_deref()), (Some(8443), Some("a.com")));
        assert_eq!((checks.interval_ms(true), checks.interval_ms(false)), (Some(4000), Some(2000)));
        assert_eq!(checks.limits(Observer::Passive).tcp_failures, 7);
        assert!(Checks::parse(&json!({"active": {"type": "icmp"}})).is_err());
    }

    #[test]
    fn only_answers_that_can_change_a_verdict_count() {
        let checks = Checks::parse(&json!({"active": {}, "passive": {}})).unwrap();
        for (status, known, counts) in [
            (200, Status::Healthy, false),
            (200, Status::MostlyHealthy, true),
            (200, Status::Unhealthy, true),
            (500, Status::Healthy, true),
            (500, Status::MostlyUnhealthy, true),
            (500, Status::Unhealthy, false),
            (404, Status::Healthy, false),
        ] {
            assert_eq!(checks.passive_counts(Report::Http(status), known), counts, "{status} {known:?}");
        }
        let active_only = Checks::parse(&json!({"active": {}})).unwrap();
        assert!(!active_only.passive_counts(Report::Http(500), Status::Healthy));
        for failure in [Report::TcpFailure, Report::Timeout] {
            assert!(active_only.passive_counts(failure, Status::Healthy));
            assert!(!active_only.passive_counts(failure, Status::Unhealthy));
        }
        let off = json!({"passive": {"unhealthy": {"tcp_failures": 0, "timeouts": 1}}});
        let off = Checks::parse(&off).unwrap();
        assert!(!off.passive_counts(Report::TcpFailure, Status::Healthy));
        assert!(off.passive_counts(Report::Timeout, Status::Healthy));
    }
}
