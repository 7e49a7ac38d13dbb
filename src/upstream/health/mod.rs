//! Health of nodes: the state machine of lua-resty-healthcheck (api7's, lib/resty/healthcheck.lua), pure.
//!
//! `checks` is the configuration, [`Target`] what is known of one node, and it moves between four states:
//!
//! ```text
//!            one failure                    any failure counter reaches its limit
//!  healthy ───────────────► mostly_healthy ───────────────────────────────────────► unhealthy
//!     ▲                                                                              │ one success
//!     └───────────────────────────── successes reach their limit ── mostly_unhealthy ◄┘
//! ```
//!
//! Reports come from active probes and, as passive ones, from requests; both count in the same counters,
//! each with the limits of its own section. The control thread owns the targets; cores get verdicts.

mod checks;
mod targets;

pub use checks::{Active, Checks, Passive, ProbeType};
pub use targets::{TargetAddress, targets};

/// What is known of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Status {
    /// Fit.
    #[default]
    Healthy,
    /// Fit, with failures since the last success.
    MostlyHealthy,
    /// Out, with successes since the last failure.
    MostlyUnhealthy,
    /// Out.
    Unhealthy,
}

impl Status {
    /// The name in the Control API.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::MostlyHealthy => "mostly_healthy",
            Status::MostlyUnhealthy => "mostly_unhealthy",
            Status::Unhealthy => "unhealthy",
        }
    }

    /// The state by its two halves, as mail carries it: see [`usable`](Status::usable), [`settled`](Status::settled).
    pub fn of(usable: bool, settled: bool) -> Status {
        match (usable, settled) {
            (true, true) => Status::Healthy,
            (true, false) => Status::MostlyHealthy,
            (false, false) => Status::MostlyUnhealthy,
            (false, true) => Status::Unhealthy,
        }
    }

    /// Whether nothing speaks for the contrary.
    pub fn settled(self) -> bool {
        matches!(self, Status::Healthy | Status::Unhealthy)
    }

    /// Whether requests may go there.
    pub fn usable(self) -> bool {
        matches!(self, Status::Healthy | Status::MostlyHealthy)
    }
}

/// One observation of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// An answer with this status; 0 stands for an answer that is no HTTP.
    Http(u16),
    /// A TCP probe connected.
    Connected,
    /// The connection failed or broke (a failed TLS handshake too).
    TcpFailure,
    /// Connecting or answering took too long.
    Timeout,
}

/// Who observed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Observer {
    /// A probe: the limits of `checks.active` hold.
    Active,
    /// A request: the limits of `checks.passive` hold.
    Passive,
}

/// Counts since the last contrary report, as the Control API shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Successes.
    pub success: u8,
    /// Answers with an unhealthy status.
    pub http_failure: u8,
    /// Failed connections.
    pub tcp_failure: u8,
    /// Timeouts.
    pub timeout_failure: u8,
}

/// One counted report, for the log line that APISIX's operators know:
/// `unhealthy TCP increment (1/2) for '…'`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// `true` for a success.
    pub healthy: bool,
    /// `SUCCESS`, `HTTP`, `TCP` or `TIMEOUT`.
    pub counter: &'static str,
    /// The counter now.
    pub count: u8,
    /// Where the state changes.
    pub limit: u8,
}

/// What is known of one node of one upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// Its state.
    pub status: Status,
    /// Its counters.
    pub counters: Counters,
}

impl Target {
    /// Takes a report in. `None` if it does not count: its status is in neither list, its limit is 0
    /// (off), or the node is already in the very state that it speaks for.
    pub fn report(&mut self, checks: &Checks, observer: Observer, report: Report) -> Option<Counted> {
        let limits = checks.limits(observer);
        let (healthy, counter, limit) = match report {
            Report::Connected => (true, "SUCCESS", limits.successes),
            Report::TcpFailure => (false, "TCP", limits.tcp_failures),
            Report::Timeout => (false, "TIMEOUT", limits.timeouts),
            Report::Http(status) if limits.healthy_statuses.contains(&status) => {
                (true, "SUCCESS", limits.successes)
            }
            Report::Http(status) if status == 0 || limits.unhealthy_statuses.contains(&status) => {
                (false, "HTTP", limits.http_failures)
            }
            Report::Http(_) => return None,
        };
        let goal = if healthy { Status::Healthy } else { Status::Unhealthy };
        if limit == 0 || self.status == goal {
            return None;
        }
        let count = self.count(healthy, counter);
        if count >= limit {
            self.status = goal;
        } else if self.status == Status::Healthy {
            self.status = Status::MostlyHealthy;
        } else if self.status == Status::Unhealthy {
            self.status = Status::MostlyUnhealthy;
        }
        Some(Counted { healthy, counter, count, limit })
    }

    /// Adds one; a success forgets the failures, a failure forgets the successes only.
    fn count(&mut self, healthy: bool, counter: &str) -> u8 {
        if healthy {
            self.counters = Counters { success: self.counters.success, ..Counters::default() };
        } else {
            self.counters.success = 0;
        }
        let cell = match counter {
            "HTTP" => &mut self.counters.http_failure,
            "TCP" => &mut self.counters.tcp_failure,
            "TIMEOUT" => &mut self.counters.timeout_failure,
            _ => &mut self.counters.success,
        };
        *cell = cell.saturating_add(1);
        *cell
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checks() -> Checks {
        Checks::parse(&json!({
            "active": {
                "healthy": {"successes": 2},
                "unhealthy": {"http_failures": 3, "tcp_failures": 2, "timeouts": 2}
            },
            "passive": {"healthy": {"successes": 3}, "unhealthy": {"http_failures": 2, "tcp_failures": 0}}
        }))
        .unwrap()
    }

    /// Feeds active reports and returns the states seen.
    fn states(target: &mut Target, reports: &[Report]) -> Vec<Status> {
        let checks = checks();
        let mut feed = |&report| {
            target.report(&checks, Observer::Active, report);
            target.status
        };
        reports.iter().map(&mut feed).collect()
    }

    #[test]
    fn a_state_has_two_halves() {
        for status in [Status::Healthy, Status::MostlyHealthy, Status::MostlyUnhealthy, Status::Unhealthy] {
            assert_eq!(Status::of(status.usable(), status.settled()), status);
        }
    }

    #[test]
    fn failures_take_a_node_out_and_successes_bring_it_back() {
        use Status::*;
        let mut target = Target::default();
        let failures = [Report::Http(500), Report::Http(500), Report::Http(503)];
        assert_eq!(states(&mut target, &failures), [MostlyHealthy, MostlyHealthy, Unhealthy]);
        assert_eq!(target.counters.http_failure, 3);
        assert_eq!(states(&mut target, &[Report::Http(200)]), [MostlyUnhealthy]);
        assert_eq!(target.counters, Counters { success: 1, ..Counters::default() });
        // a failure in between: the successes start anew, the state stays
        assert_eq!(states(&mut target, &[Report::TcpFailure]), [MostlyUnhealthy]);
        assert_eq!(states(&mut target, &[Report::Http(200), Report::Http(302)]), [MostlyUnhealthy, Healthy]);
    }

    #[test]
    fn each_kind_of_failure_has_its_own_counter() {
        let mut target = Target::default();
        let mixed = [Report::TcpFailure, Report::Timeout, Report::Http(0), Report::Http(404)];
        assert!(states(&mut target, &mixed).iter().all(|&s| s == Status::MostlyHealthy));
        assert_eq!(
            target.counters,
            Counters { success: 0, http_failure: 2, tcp_failure: 1, timeout_failure: 1 }
        );
        assert_eq!(states(&mut target, &[Report::Timeout]), [Status::Unhealthy]);
    }

    #[test]
    fn a_success_of_a_mostly_healthy_node_clears_its_failures() {
        let mut target = Target::default();
        states(&mut target, &[Report::TcpFailure, Report::Http(200)]);
        assert_eq!(target.status, Status::MostlyHealthy);
        assert_eq!(target.counters, Counters { success: 1, ..Counters::default() });
        states(&mut target, &[Report::Http(200)]);
        assert_eq!(target.status, Status::Healthy);
    }

    #[test]
    fn what_does_not_count_changes_nothing() {
        let checks = checks();
        let mut target = Target::default();
        for (observer, report) in [
            (Observer::Active, Report::Http(200)),   // already healthy
            (Observer::Active, Report::Http(418)),   // in neither list
            (Observer::Passive, Report::TcpFailure), // limit 0: off
            (Observer::Passive, Report::Http(404)),  // not unhealthy for passive checks
        ] {
            assert_eq!(target.report(&checks, observer, report), None, "{report:?}");
        }
        assert_eq!(target, Target::default());
    }

    #[test]
    fn passive_and_active_reports_share_the_counters_with_their_own_limits() {
        let checks = checks();
        let mut target = Target::default();
        target.report(&checks, Observer::Active, Report::Http(500));
        let counted = target.report(&checks, Observer::Passive, Report::Http(500)).unwrap();
        assert_eq!(counted, Counted { healthy: false, counter: "HTTP", count: 2, limit: 2 });
        assert_eq!(target.status, Status::Unhealthy);
    }
}
