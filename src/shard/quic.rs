//! QUIC on one core: its endpoints, and how a connection becomes one of HTTP/3.

use std::cell::RefCell;
use std::net::UdpSocket as StdUdpSocket;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::accept::{Live, Shard, count, site_of, tls_facts};
use crate::conn::{Gate, h3};
use crate::exchange::Facts;
use crate::limits;
use crate::mail::{Cores, Datagram, Elder, ToCore};
use crate::reactor::{self, SendError, UdpBatch, UdpSocket};
use crate::transport::quic::id::{ConnectionIds, Owner};
use crate::transport::quic::{Connection, Endpoint, Handshake, QuicKeys, Seen, Served, choose_by, endpoint};
use crate::wire::h3::Code;

/// The endpoints of a core, one a socket; nothing is taken from the sockets yet.
pub fn endpoints(
    shard: &Rc<Shard>,
    sockets: Vec<StdUdpSocket>,
    keys: Option<&QuicKeys>,
    (generation, elders): (u32, Arc<[Elder]>),
) -> Vec<Rc<Endpoint>> {
    let Some(keys) = keys.filter(|_| !sockets.is_empty()) else { return Vec::new() };
    let chooser = shard.clone();
    choose_by(Box::new(move |asked| site_of(&chooser, asked)));
    let own = Owner { core: shard.index as u8, generation: generation as u8 };
    let ids = ConnectionIds::new(keys.ids.clone(), own);
    let Some(server) = endpoint::server_config(shard.core.settings().keepalive_ms, keys.token.clone()) else {
        log::error!("HTTP/3 is not served: this build lacks AES-128-GCM");
        return Vec::new();
    };
    let server = Arc::new(server);
    let mut endpoints = Vec::new();
    for socket in sockets {
        let served = Box::new(OfShard { shard: shard.clone(), own, elders: elders.clone() });
        let endpoint = UdpSocket::from_std(socket).and_then(|socket| {
            Endpoint::new(socket, keys.reset.clone(), ids.clone(), server.clone(), served)
        });
        match endpoint {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(error) => log::error!("core {} cannot serve HTTP/3: {error}", shard.index),
        }
    }
    endpoints
}

/// From now on datagrams are taken.
pub fn serve(endpoints: &[Rc<Endpoint>]) {
    let batch = Rc::new(RefCell::new(UdpBatch::new()));
    for endpoint in endpoints {
        reactor::spawn(endpoint.clone().serve(batch.clone()));
    }
}

/// Takes a datagram that another core has got.
pub fn passed(endpoints: &[Rc<Endpoint>], datagram: &Datagram) {
    if let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.local() == datagram.endpoint) {
        endpoint.passed(datagram);
    }
}

struct OfShard {
    shard: Rc<Shard>,
    own: Owner,
    elders: Arc<[Elder]>,
}

impl OfShard {
    /// The cores of a generation, given as connection IDs name it: its low byte.
    fn cores(&self, generation: u8) -> Option<&Arc<Cores>> {
        if generation == self.own.generation {
            return Some(&self.shard.cores);
        }
        let mut newest_first = self.elders.iter().rev();
        newest_first.find(|elder| elder.generation as u8 == generation).map(|elder| &elder.cores)
    }
}

impl Served for OfShard {
    fn admits(&self) -> bool {
        let Shard { core, .. } = &*self.shard;
        let admits = u64::from(self.shard.connections()) < core.config.worker_connections;
        if !admits {
            log::warn!("{} worker_connections are not enough", core.config.worker_connections);
        }
        admits
    }

    fn begins(&self, connection: Rc<Connection>) {
        reactor::spawn(connected(Live::new(&self.shard), connection));
    }

    fn pass_on(&self, owner: Owner, datagram: Datagram) -> bool {
        let core = usize::from(owner.core);
        let Some(cores) = self.cores(owner.generation).filter(|cores| core < cores.count()) else {
            return false;
        };
        let seen = match cores.mail(core).try_send(ToCore::Datagram(Box::new(datagram))) {
            Ok(()) => Seen::Passed,
            Err(SendError::Full(_)) => Seen::Dropped,
            Err(SendError::Closed(_)) => return false,
        };
        self.saw(seen);
        true
    }

    fn saw(&self, event: Seen) {
        let metrics = self.shard.core.host.metrics.borrow();
        let tallies = metrics.tallies();
        match event {
            Seen::Refused => tallies.quic_refused.add(1),
            Seen::Failed => tallies.tls_failures.add(1),
            Seen::Retry => tallies.quic_retries.add(1),
            Seen::Passed => tallies.quic_passed.add(1),
            Seen::Dropped => tallies.quic_dropped.add(1),
            Seen::Panic => tallies.panics.add(1),
        }
    }
}

/// The task of a connection, from its first datagram on.
async fn connected(live: Live, connection: Rc<Connection>) {
    let serial = live.serial();
    let shard = live.0.clone();
    let core = &shard.core;
    let patience_ms = core.settings().header_ms.min(limits::QUIC_HANDSHAKE_MS);
    let mut late = reactor::sleep_until(reactor::now_ms() + u64::from(patience_ms));
    let shaken = {
        let mut handshake = std::pin::pin!(connection.handshake());
        std::future::poll_fn(|cx| match handshake.as_mut().poll(cx) {
            Poll::Ready(shaken) => Poll::Ready(Some(shaken)),
            Poll::Pending => Pin::new(&mut late).poll(cx).map(|()| None),
        })
        .await
    };
    let Handshake { site, sni, agreed, certificates } = match shaken {
        Some(Ok(handshake)) => handshake,
        ended => {
            count(&shard, None);
            match ended {
                Some(Err(lost)) => log::info!("a handshake with {} failed: {}", connection.peer(), lost.0),
                _ => connection.close(Code::NoError as u64, "too slow"),
            }
            return;
        }
    };
    count(&shard, Some(agreed));
    let facts = || {
        let mut facts = Facts::new(connection.peer(), connection.local(), "https", serial);
        facts.tls = Some(Box::new(tls_facts(&site, Some(sni.clone()), agreed, &certificates)));
        Rc::new(facts)
    };
    let mut current = facts();
    h3::serve(core.clone(), connection.clone(), || {
        if current.peer != connection.peer() {
            current = facts();
        }
        current.clone()
    })
    .await;
    // a core that drains ends with its last connection: this one's goodbye leaves before
    reactor::yield_now().await;
    drop(live);
}
