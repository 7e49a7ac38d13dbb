//! QUIC on one core: its endpoints, and how a connection becomes one of HTTP/3.

use std::cell::RefCell;
use std::net::UdpSocket as StdUdpSocket;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use quinn_proto::EndpointConfig;

use super::accept::{Live, Shard, count, site_of, tls_facts};
use crate::conn::{Gate, h3};
use crate::exchange::Facts;
use crate::reactor::{self, UdpBatch, UdpSocket};
use crate::transport::quic::{Connection, Endpoint, Handshake, QuicKeys, Seen, Served, choose_by, endpoint};
use crate::wire::h3::Code;

/// The endpoints of a core, one a socket; nothing is taken from the sockets yet.
pub fn endpoints(shard: &Rc<Shard>, sockets: Vec<StdUdpSocket>, keys: &QuicKeys) -> Vec<Rc<Endpoint>> {
    if sockets.is_empty() {
        return Vec::new();
    }
    let chooser = shard.clone();
    choose_by(Box::new(move |asked| site_of(&chooser, asked)));
    let config = Arc::new(EndpointConfig::new(Arc::new(keys.reset.clone())));
    let Some(server) = endpoint::server_config(shard.core.settings().keepalive_ms, keys.token.clone()) else {
        log::error!("HTTP/3 is not served: this build lacks AES-128-GCM");
        return Vec::new();
    };
    let server = Arc::new(server);
    let mut endpoints = Vec::new();
    for socket in sockets {
        let served = Box::new(OfShard(shard.clone()));
        let endpoint = UdpSocket::from_std(socket)
            .and_then(|socket| Endpoint::new(socket, config.clone(), server.clone(), served));
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

struct OfShard(Rc<Shard>);

impl Served for OfShard {
    fn admits(&self) -> bool {
        let Shard { core, .. } = &*self.0;
        let admits = u64::from(self.0.connections()) < core.config.worker_connections;
        if !admits {
            log::warn!("{} worker_connections are not enough", core.config.worker_connections);
        }
        admits
    }

    fn begins(&self, connection: Rc<Connection>) {
        reactor::spawn(connected(Live::new(&self.0), connection));
    }

    fn saw(&self, event: Seen) {
        let metrics = self.0.core.host.metrics.borrow();
        let tallies = metrics.tallies();
        match event {
            Seen::Refused => tallies.quic_refused.add(1),
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
    let mut late = reactor::sleep_until(reactor::now_ms() + u64::from(core.settings().header_ms));
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
