//! Active health checks, run once a process, and the place where all verdicts are reached.
//!
//! A core that uses an upstream with `checks` for the first time says so, and its nodes are probed from
//! then on. Passive reports from the cores count in the same counters. Each change of a node's state is
//! published as a [`HealthDelta`] to every core, and so is the state with which a node begins.

mod check;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::limits;
use crate::upstream::health::{Checks, Observer, ProbeType, Report, Status, Target, TargetAddress};

pub use check::ProbeTls;

/// What the prober is told. The channel is bounded; a passive report that finds it full is dropped and
/// counted by the sender.
#[derive(Debug)]
pub enum Order {
    /// An upstream is in use, or has changed.
    Watch {
        /// The upstream's key, as `/upstreams/1`.
        upstream: Arc<str>,
        /// Its checks.
        checks: Arc<Checks>,
        /// Its nodes (see [`crate::upstream::health::targets`]).
        targets: Vec<TargetAddress>,
    },
    /// An upstream is gone or has no checks any more.
    Forget {
        /// The upstream's key.
        upstream: Arc<str>,
    },
    /// A request has met a node.
    Observed {
        /// The upstream's key.
        upstream: Arc<str>,
        /// The node's address.
        ip: Arc<str>,
        /// `checks.active.port`, else the node's port.
        port: u16,
        /// What it met.
        report: Report,
    },
    /// The Control API asks for everything.
    List(oneshot::Sender<Vec<Checker>>),
}

/// A node's new state, for all cores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthDelta {
    /// The upstream's key.
    pub upstream: Arc<str>,
    /// The target's address.
    pub ip: Arc<str>,
    /// The target's port.
    pub port: u16,
    /// The state.
    pub status: Status,
    /// Grows by one with each delta of the process.
    pub version: u64,
}

/// The state of one upstream's checks, for the Control API.
#[derive(Clone, Debug)]
pub struct Checker {
    /// The upstream's key.
    pub upstream: Arc<str>,
    /// `type` of the active checks.
    pub kind: ProbeType,
    /// Its nodes.
    pub nodes: Vec<(TargetAddress, Target)>,
}

impl Checker {
    /// `nodes` of an item of `/v1/healthcheck`.
    pub fn nodes_json(&self) -> Value {
        let nodes = self.nodes.iter().map(|(address, target)| {
            json!({
                "ip": address.ip,
                "port": address.port,
                "hostname": address.hostname,
                "status": target.status.as_str(),
                "counter": {
                    "success": target.counters.success,
                    "http_failure": target.counters.http_failure,
                    "tcp_failure": target.counters.tcp_failure,
                    "timeout_failure": target.counters.timeout_failure,
                },
            })
        });
        nodes.collect()
    }
}

/// Runs until every sender of `orders` is gone. `publish` is called for each change, in order.
pub async fn run(mut orders: mpsc::Receiver<Order>, tls: ProbeTls, publish: impl FnMut(HealthDelta)) {
    let mut prober = Prober {
        tls,
        publish,
        version: 0,
        generation: 0,
        upstreams: HashMap::new(),
        due: BinaryHeap::new(),
        running: JoinSet::new(),
        sockets: Arc::new(Semaphore::new(limits::PROBES_IN_FLIGHT)),
    };
    loop {
        let next = prober.due.peek().map_or_else(far_away, |Reverse(due)| due.at);
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => prober.obey(order),
                None => return,
            },
            Some(done) = prober.running.join_next() => {
                if let Ok(probed) = done {
                    prober.finished(&probed);
                }
            }
            () = sleep_until(next) => prober.run_due(Instant::now()),
        }
    }
}

/// Nothing is due: any time that is not soon.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// How long the states of an upstream without checks are kept for its return (`DELAYED_CLEAR_TIMEOUT` in
/// apisix/healthcheck_manager.lua).
const FORGET_AFTER: Duration = Duration::from_secs(10);

struct Watched {
    checks: Arc<Checks>,
    targets: Vec<WatchedTarget>,
    /// Which of the due times in the heap are its own.
    generation: u64,
    /// Probes of this upstream at one time.
    slots: Arc<Semaphore>,
    forgotten: bool,
}

struct WatchedTarget {
    address: TargetAddress,
    target: Target,
    probing: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    what: Task,
    upstream: Arc<str>,
    generation: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    ProbeUsable,
    ProbeUnusable,
    Purge,
}

struct Probed {
    upstream: Arc<str>,
    address: TargetAddress,
    report: Report,
}

struct Prober<P> {
    tls: ProbeTls,
    publish: P,
    version: u64,
    /// The newest of any upstream: never used twice, since due times may outlive their upstream.
    generation: u64,
    upstreams: HashMap<Arc<str>, Watched>,
    due: BinaryHeap<Reverse<Due>>,
    running: JoinSet<Probed>,
    sockets: Arc<Semaphore>,
}

impl<P: FnMut(HealthDelta)> Prober<P> {
    fn obey(&mut self, order: Order) {
        match order {
            Order::Watch { upstream, checks, targets } => self.watch(upstream, checks, targets),
            Order::Forget { upstream } => self.forget(&upstream),
            Order::Observed { upstream, ip, port, report } => {
                let Some(watched) = self.upstreams.get(&upstream) else { return };
                let same = |t: &&WatchedTarget| t.address.port == port && t.address.ip == ip;
                if let Some(address) = watched.targets.iter().find(same).map(|t| t.address.clone()) {
                    self.report(&upstream, &address, Observer::Passive, report);
                }
            }
            Order::List(answer) => {
                let checkers = self.upstreams.iter().filter(|(_, watched)| !watched.forgotten);
                let list = checkers.map(|(upstream, watched)| Checker {
                    upstream: Arc::clone(upstream),
                    kind: watched.checks.active.kind,
                    nodes: watched.targets.iter().map(|t| (t.address.clone(), t.target)).collect(),
                });
                // The asker may have gone away.
                let _ = answer.send(list.collect());
            }
        }
    }

    /// Begins to probe an upstream, or takes over its new nodes and checks: nodes that stay keep their
    /// state. Every core that asks gets the states that are not `healthy`. A new target is told of although it is: a
    /// core may know its node as another target, which was out (an address that the node's name had before).
    fn watch(&mut self, upstream: Arc<str>, checks: Arc<Checks>, addresses: Vec<TargetAddress>) {
        let old = self.upstreams.remove(&upstream);
        let unchanged = old.as_ref().is_some_and(|old| !old.forgotten && old.checks == checks);
        let generation = match &old {
            Some(old) if unchanged => old.generation,
            _ => self.next_generation(),
        };
        let mut known = old.map(|old| old.targets).unwrap_or_default();
        let mut targets = Vec::with_capacity(addresses.len());
        for address in addresses {
            targets.push(match known.iter().position(|t| t.address == address) {
                Some(index) => known.swap_remove(index),
                None => {
                    let target = Target::default();
                    self.tell(&upstream, &address, target.status);
                    WatchedTarget { address, target, probing: false }
                }
            });
        }
        let slots = Arc::new(Semaphore::new(checks.active.concurrency.max(1) as usize));
        // After those of the new ones: of two targets of one node the one that is out counts.
        for t in targets.iter().filter(|t| t.target.status != Status::Healthy) {
            self.tell(&upstream, &t.address, t.target.status);
        }
        let watched = Watched { checks, targets, generation, slots, forgotten: false };
        if !unchanged {
            for what in [Task::ProbeUsable, Task::ProbeUnusable] {
                self.schedule(&upstream, &watched, what);
            }
        }
        self.upstreams.insert(upstream, watched);
    }

    fn forget(&mut self, upstream: &Arc<str>) {
        let Some(watched) = self.upstreams.get_mut(upstream).filter(|w| !w.forgotten) else { return };
        watched.forgotten = true;
        self.generation += 1;
        watched.generation = self.generation;
        self.due.push(Reverse(Due {
            at: Instant::now() + FORGET_AFTER,
            what: Task::Purge,
            upstream: Arc::clone(upstream),
            generation: watched.generation,
        }));
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn schedule(&mut self, upstream: &Arc<str>, watched: &Watched, what: Task) {
        let interval_ms = watched.checks.interval_ms(what == Task::ProbeUsable);
        if let Some(interval_ms) = interval_ms {
            self.due.push(Reverse(Due {
                at: Instant::now() + Duration::from_millis(interval_ms),
                what,
                upstream: Arc::clone(upstream),
                generation: watched.generation,
            }));
        }
    }

    fn run_due(&mut self, now: Instant) {
        while let Some(Reverse(due)) = self.due.peek()
            && due.at <= now
            && let Some(Reverse(due)) = self.due.pop()
        {
            let Some(mut watched) = self.upstreams.remove(&due.upstream) else { continue };
            if watched.generation == due.generation {
                if due.what == Task::Purge {
                    continue;
                }
                self.probe(&due.upstream, &mut watched, due.what == Task::ProbeUsable);
                self.schedule(&due.upstream, &watched, due.what);
            }
            self.upstreams.insert(due.upstream, watched);
        }
    }

    /// Starts a probe of every target that is usable or not, as asked, and is not just being probed.
    fn probe(&mut self, upstream: &Arc<str>, watched: &mut Watched, usable: bool) {
        let wanted = |t: &&mut WatchedTarget| t.target.status.usable() == usable && !t.probing;
        for t in watched.targets.iter_mut().filter(wanted) {
            t.probing = true;
            let (upstream, address) = (Arc::clone(upstream), t.address.clone());
            let (checks, tls) = (Arc::clone(&watched.checks), self.tls.clone());
            let (slots, sockets) = (Arc::clone(&watched.slots), Arc::clone(&self.sockets));
            self.running.spawn(async move {
                // Neither semaphore is ever closed.
                let _slot = slots.acquire().await;
                let _socket = sockets.acquire().await;
                let report = check::check(&checks, &address, &tls).await;
                Probed { upstream, address, report }
            });
        }
    }

    fn finished(&mut self, probed: &Probed) {
        if let Some(watched) = self.upstreams.get_mut(&probed.upstream) {
            for t in watched.targets.iter_mut().filter(|t| t.address == probed.address) {
                t.probing = false;
            }
            self.report(&probed.upstream, &probed.address, Observer::Active, probed.report);
        }
    }

    fn report(&mut self, upstream: &Arc<str>, address: &TargetAddress, observer: Observer, report: Report) {
        let Some(watched) = self.upstreams.get_mut(upstream).filter(|w| !w.forgotten) else { return };
        let Some(t) = watched.targets.iter_mut().find(|t| t.address == *address) else { return };
        let before = t.target.status;
        let Some(counted) = t.target.report(&watched.checks, observer, report) else { return };
        log::warn!(
            "[healthcheck] (upstream#{upstream}) {} {} increment ({}/{}) for '{}({}:{})'",
            if counted.healthy { "healthy" } else { "unhealthy" },
            counted.counter,
            counted.count,
            counted.limit,
            address.hostname,
            address.ip,
            address.port,
        );
        let now = t.target.status;
        if now != before {
            self.tell(upstream, address, now);
        }
    }

    fn tell(&mut self, upstream: &Arc<str>, address: &TargetAddress, status: Status) {
        self.version += 1;
        (self.publish)(HealthDelta {
            upstream: Arc::clone(upstream),
            ip: Arc::clone(&address.ip),
            port: address.port,
            status,
            version: self.version,
        });
    }
}

#[cfg(test)]
mod tests;
