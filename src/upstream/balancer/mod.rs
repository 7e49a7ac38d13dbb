//! Which node of an upstream serves a request.
//!
//! A [`Balancer`] belongs to one core. Nodes are grouped by priority; a lower level is asked only when the
//! higher ones have no node left that was not tried (apisix/balancer/priority.lua). Unhealthy nodes are left
//! out until all are unhealthy: then the verdicts are taken for wrong and all nodes are used
//! (apisix/balancer.lua). Time and randomness are arguments.

mod chash;
mod ewma;
mod kept;
mod least_conn;
mod random;
mod roundrobin;

use std::cell::Cell;
use std::rc::Rc;

use crate::model::Balance;
use crate::upstream::NodeSet;

use self::chash::Chash;
use self::ewma::{Ewma, Latency};
use self::kept::Kept;
use self::least_conn::LeastConn;
use self::random::Random;
use self::roundrobin::RoundRobin;

/// A node as a balancer sees it: resolved, its port filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node's address; for a node written as a name the address it resolved to, which is what APISIX's
    /// hash ring is made of. An address is as it was written, IPv6 without its brackets.
    pub host: Box<str>,
    /// The node's port, or its scheme's.
    pub port: u16,
    /// Relative weight.
    pub weight: u32,
    /// Higher first.
    pub priority: i32,
}

/// What one pick depends on.
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// The value that a consistent hash is taken over; other algorithms ignore it.
    pub key: &'a [u8],
    /// Nodes that this request has tried: never picked again.
    pub tried: &'a NodeSet,
    /// Nodes that the health checks took out.
    pub unhealthy: &'a NodeSet,
    /// A monotonic clock.
    pub now_ms: u64,
}

/// One member of a priority level: the node's index in the upstream and its weight.
#[derive(Clone, Copy)]
struct Member {
    node: usize,
    weight: u32,
}

enum Algorithm {
    RoundRobin(RoundRobin),
    Chash(Chash),
    LeastConn(LeastConn),
    Ewma(Ewma),
    Random(Random),
}

/// What outlives a pick, and a rebuild of the upstream.
enum State {
    None,
    Connections(Kept<u32>),
    Latencies(Kept<Latency>),
}

/// The nodes of one priority.
struct Level {
    algorithm: Algorithm,
    /// Those of its nodes that have a weight.
    weighted: NodeSet,
    /// Those that have none, for the time when the others are all unhealthy: APISIX balances over what is
    /// healthy, and weight 0 keeps a node out only where another has more.
    spare: Option<RoundRobin>,
}

/// Picks nodes for one upstream on one core.
pub struct Balancer {
    /// By priority, highest first.
    levels: Box<[Level]>,
    state: State,
    nodes: usize,
    warned: Cell<bool>,
}

impl Balancer {
    /// Builds a balancer for `peers`, whose order gives the node indexes. `previous` is the balancer of the
    /// same upstream before it was changed: connection counts and latencies of nodes that stay are kept
    /// (apisix/balancer/least_conn.lua does so by resource key).
    pub fn new(
        balance: Balance,
        peers: &[Peer],
        previous: Option<&Balancer>,
        rng: &mut fastrand::Rng,
    ) -> Balancer {
        let state = match (balance, previous.map(|p| &p.state)) {
            (Balance::LeastConn, Some(State::Connections(old))) => {
                State::Connections(Kept::carry(peers, Some(old)))
            }
            (Balance::LeastConn, _) => State::Connections(Kept::carry(peers, None)),
            (Balance::Ewma, Some(State::Latencies(old))) => State::Latencies(Kept::carry(peers, Some(old))),
            (Balance::Ewma, _) => State::Latencies(Kept::carry(peers, None)),
            _ => State::None,
        };
        let mut priorities: Vec<i32> = peers.iter().map(|p| p.priority).collect();
        priorities.sort_unstable_by(|a, b| b.cmp(a));
        priorities.dedup();
        let levels = priorities
            .into_iter()
            .filter_map(|priority| {
                let members: Box<[Member]> = (peers.iter().enumerate())
                    .filter(|(_, peer)| peer.priority == priority)
                    .map(|(node, peer)| Member { node, weight: peer.weight })
                    .collect();
                let (mut weighted, mut spare) = (NodeSet::new(), Vec::new());
                for member in &members {
                    match member.weight {
                        0 => spare.push(*member),
                        _ => drop(weighted.insert(member.node)),
                    }
                }
                // the ring of chash keeps its unhealthy nodes, and one without weight is not on it
                let has_spare = !weighted.is_empty() && !spare.is_empty() && balance != Balance::Chash;
                let spare = has_spare.then(|| RoundRobin::new(spare.into(), rng));
                let algorithm = match (balance, &state) {
                    (Balance::RoundRobin, _) => Algorithm::RoundRobin(RoundRobin::new(members, rng)),
                    (Balance::Random, _) => Algorithm::Random(Random::new(members)),
                    (Balance::Chash, _) => Algorithm::Chash(Chash::new(&members, peers)),
                    (Balance::LeastConn, State::Connections(kept)) => {
                        Algorithm::LeastConn(LeastConn::new(members, kept.cells()))
                    }
                    (Balance::Ewma, State::Latencies(kept)) => {
                        Algorithm::Ewma(Ewma::new(members, kept.cells()))
                    }
                    // `none`: the upstream's scheme chooses its own peer
                    _ => return None,
                };
                Some(Level { algorithm, weighted, spare })
            })
            .collect();
        Balancer { levels, state, nodes: peers.len(), warned: Cell::new(false) }
    }

    /// Whether [`Pick::key`] matters, so that others need not compute it.
    pub fn wants_key(&self) -> bool {
        self.nodes > 1 && matches!(self.levels.first(), Some(Level { algorithm: Algorithm::Chash(_), .. }))
    }

    /// The index of the node to use, or `None` when every node that may be used was tried.
    ///
    /// A single node is always picked, whatever its weight, its health, and however often it was tried
    /// (apisix/balancer.lua has that as a fast path).
    pub fn pick(&mut self, pick: &Pick<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.nodes == 1 && !self.levels.is_empty() {
            return Some(0);
        }
        let some_healthy = pick.unhealthy.len() < self.nodes.max(1);
        if some_healthy == self.warned.get() {
            self.warned.set(!some_healthy);
            if !some_healthy {
                log::warn!("all upstream nodes is unhealthy, use default");
            }
        }
        if pick.tried.is_empty() && (pick.unhealthy.is_empty() || !some_healthy) {
            return self.pick_open(pick, |_| true, rng);
        }
        let open = |node| !pick.tried.contains(node) && (!some_healthy || !pick.unhealthy.contains(node));
        self.pick_open(pick, open, rng)
    }

    fn pick_open(
        &mut self,
        pick: &Pick<'_>,
        open: impl Fn(usize) -> bool + Copy,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        self.levels.iter_mut().find_map(|level| {
            let picked = match &mut level.algorithm {
                Algorithm::RoundRobin(level) => level.pick(open),
                Algorithm::Chash(level) => level.pick(pick.key, open),
                Algorithm::LeastConn(level) => level.pick(open),
                Algorithm::Ewma(level) => level.pick(open, pick.now_ms, rng),
                Algorithm::Random(level) => level.pick(open, rng),
            };
            picked.or_else(|| {
                let spare = level.spare.as_mut()?;
                level.weighted.is_within(pick.unhealthy).then(|| spare.pick(open))?
            })
        })
    }

    /// A request begins to use `node`. Each call needs one [`Balancer::finished`], on this balancer or on
    /// the one that replaced it.
    pub fn started(&self, node: usize) {
        if let State::Connections(kept) = &self.state
            && let Some(connections) = kept.cells().get(node)
        {
            connections.set(connections.get().saturating_add(1));
        }
    }

    /// A request is done with `node`. `latency_ms` is the time to connect and answer, or that for which an answer was
    /// awaited in vain; `None` where there was no connection, or another node was tried next.
    pub fn finished(&self, node: usize, latency_ms: Option<u32>, now_ms: u64) {
        match &self.state {
            State::None => {}
            State::Connections(kept) => {
                if let Some(connections) = kept.cells().get(node) {
                    connections.set(connections.get().saturating_sub(1));
                }
            }
            State::Latencies(kept) => {
                if let (Some(latency), Some(latency_ms)) = (kept.cells().get(node), latency_ms) {
                    latency.set(latency.get().with(latency_ms, now_ms));
                }
            }
        }
    }
}

/// The members whose weight lets them be picked: weight 0 means never, unless all of a level have it.
fn weighted(members: Box<[Member]>) -> Box<[Member]> {
    if members.iter().all(|m| m.weight == 0) {
        members
    } else {
        members.into_iter().filter(|m| m.weight > 0).collect()
    }
}

/// A member together with the state of its node.
struct Tracked<T> {
    member: Member,
    state: Rc<Cell<T>>,
}

/// Joins members with the cells of their nodes.
fn track<T>(members: Box<[Member]>, cells: &[Rc<Cell<T>>]) -> Box<[Tracked<T>]> {
    members.into_iter().map(|member| Tracked { member, state: Rc::clone(&cells[member.node]) }).collect()
}

#[cfg(test)]
mod tests;
