//! Names of nodes, resolved once a process.
//!
//! A core that uses a name says so; the name is kept fresh until the last user is gone, and each change of
//! its addresses is published as a [`DnsDelta`] to every core. The rules are those of APISIX's resolver
//! (apisix/core/resolver.lua, core/dns/client.lua): `/etc/hosts` first, then the record type that answered
//! last, A, AAAA, each through CNAMEs. When no name server answers, the last addresses stay; when they
//! answer that the name does not exist, it has none and its nodes are dropped.

mod lookup;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::limits;

pub use lookup::{Answer, DnsConfig, Family, Lookup};

/// What the resolver is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// One more user of a name. What is known is published again, for its sake.
    Use(Arc<str>),
    /// One user less.
    Release(Arc<str>),
}

/// The addresses of a name, for all cores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsDelta {
    /// The name as the operator wrote it.
    pub name: Arc<str>,
    /// Its addresses in rising order; none if it cannot be resolved.
    pub addresses: Arc<[IpAddr]>,
    /// Grows by one with each delta of the process.
    pub version: u64,
}

/// After a failure the next try is this far away: short, so that recovery is quick.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Records with a smaller TTL than this are not asked for more often than this.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// Runs until every sender of `orders` is gone. `publish` is called for each change, in order, and for the
/// first answer of a name whatever it is.
pub async fn run(
    mut orders: mpsc::Receiver<Order>,
    lookup: impl Into<Arc<Lookup>>,
    publish: impl FnMut(DnsDelta),
) {
    let mut resolver = Resolver {
        lookup: lookup.into(),
        publish,
        version: 0,
        names: HashMap::new(),
        due: BinaryHeap::new(),
        running: JoinSet::new(),
        slots: Arc::new(Semaphore::new(limits::DNS_IN_FLIGHT)),
    };
    loop {
        let next = resolver.due.peek().map(|Reverse((at, _))| *at);
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Use(name)) => resolver.used(name),
                Some(Order::Release(name)) => resolver.released(&name),
                None => return,
            },
            Some(done) = resolver.running.join_next() => {
                if let Ok((name, answer)) = done {
                    resolver.answered(&name, answer);
                }
            }
            () = sleep_until(next) => resolver.refresh(Instant::now()),
        }
    }
}

struct Name {
    users: u32,
    /// `None` until the first answer.
    addresses: Option<Arc<[IpAddr]>>,
    /// The record type that answered last.
    family: Family,
    /// When the next question is due; `None` while one is being asked.
    due: Option<Instant>,
}

struct Resolver<P> {
    lookup: Arc<Lookup>,
    publish: P,
    version: u64,
    names: HashMap<Arc<str>, Name>,
    /// May hold times of names that are gone or were put off: [`Name::due`] decides.
    due: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    running: JoinSet<(Arc<str>, Answer)>,
    slots: Arc<Semaphore>,
}

impl<P: FnMut(DnsDelta)> Resolver<P> {
    fn used(&mut self, name: Arc<str>) {
        if let Some(known) = self.names.get_mut(&name) {
            known.users += 1;
            if let Some(addresses) = known.addresses.clone() {
                self.publish(name, addresses);
            }
        } else if self.names.len() >= limits::DNS_NAMES {
            log::error!("dns resolver: more than {} names, {name} is not resolved", limits::DNS_NAMES);
            self.publish(name, Arc::new([]));
        } else {
            let entry = Name { users: 1, addresses: None, family: Family::V4, due: None };
            self.names.insert(Arc::clone(&name), entry);
            self.ask(name, Family::V4);
        }
    }

    fn released(&mut self, name: &Arc<str>) {
        if let Some(known) = self.names.get_mut(name) {
            known.users -= 1;
            if known.users == 0 {
                self.names.remove(name);
            }
        }
    }

    fn refresh(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.due.peek()
            && *at <= now
            && let Some(Reverse((at, name))) = self.due.pop()
        {
            if let Some(known) = self.names.get_mut(&name).filter(|known| known.due == Some(at)) {
                known.due = None;
                let family = known.family;
                self.ask(name, family);
            }
        }
    }

    fn ask(&mut self, name: Arc<str>, family: Family) {
        let (lookup, slots) = (Arc::clone(&self.lookup), Arc::clone(&self.slots));
        self.running.spawn(async move {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            let answer = lookup.resolve(&name, family).await;
            (name, answer)
        });
    }

    fn answered(&mut self, name: &Arc<str>, answer: Answer) {
        // Gone and back again while it was asked for: whichever answer comes first sets the time.
        let Some(known) = self.names.get_mut(name).filter(|known| known.due.is_none()) else { return };
        let (addresses, again) = match answer {
            Answer::Addresses { addresses, family, ttl } => {
                known.family = family;
                (Some(addresses), ttl.max(SHORTEST_TTL))
            }
            Answer::NoSuchName => {
                log::error!("failed to parse domain: {name}, error: no such name");
                (Some(Arc::new([]) as Arc<[IpAddr]>), RETRY_AFTER)
            }
            Answer::Failed(error) => {
                log::error!("failed to parse domain: {name}, error: {error}");
                // stale addresses are better than none
                (Some(known.addresses.clone().unwrap_or_default()), RETRY_AFTER)
            }
        };
        let at = Instant::now() + again;
        known.due = Some(at);
        self.due.push(Reverse((at, Arc::clone(name))));
        if known.addresses != addresses {
            known.addresses.clone_from(&addresses);
            self.publish(Arc::clone(name), addresses.unwrap_or_default());
        }
    }

    fn publish(&mut self, name: Arc<str>, addresses: Arc<[IpAddr]>) {
        self.version += 1;
        (self.publish)(DnsDelta { name, addresses, version: self.version });
    }
}

#[cfg(test)]
mod tests;
