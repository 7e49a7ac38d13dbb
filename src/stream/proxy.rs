//! To the upstream: pick a node, connect, and again with another node while none could be reached (apisix/balancer.lua,
//! ngx_stream_proxy_module.c).

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::xrpc::lane::Lane;
use super::xrpc::lanes::{Found, Lanes, Opening, Place};
use super::{Listened, NO_UPSTREAM, Refused};
use crate::config::{NextUpstream, Proxy};
use crate::exchange::Exchange;
use crate::gate::proxy::{announce, note_connected, pick, resolved};
use crate::gate::{Core, passive};
use crate::live::plan::Destination;
use crate::live::{LiveUpstream, Picked};
use crate::model::Balance;
use crate::reactor;
use crate::transport::{Secure, Stream, Target, connect, trust};
use crate::upstream::NodeSet;
use crate::upstream::retry::{Decision, Failure, Retries, Try};
use crate::wire::proxy_protocol::{Addresses, encode_v1};

/// A connection to an upstream.
pub struct Reached {
    /// The connection.
    pub stream: Rc<Stream>,
    /// The session ends when nothing has moved for so long, ms.
    pub idle_ms: u64,
}

/// On layer 4 every failure leads to the next node (`proxy_next_upstream` is on), as often as the upstream's own
/// `retries` allow.
static EVERY_FAILURE: Proxy = Proxy {
    connect_timeout_ms: 0,
    send_timeout_ms: 0,
    read_timeout_ms: 0,
    next_upstream: NextUpstream {
        error: true,
        timeout: true,
        invalid_header: false,
        non_idempotent: true,
        statuses: Vec::new(),
    },
    next_upstream_tries: 0,
    next_upstream_timeout_ms: 0,
};

/// Connects to a node of the upstream that a plugin chose, else of `own`, and sends the PROXY header if the listener
/// asks for it.
pub async fn reach(
    core: &Core,
    ex: &mut Exchange,
    own: &Destination,
    listened: Listened,
) -> Result<Reached, Refused> {
    match reach_shared(core, ex, own, listened, None).await? {
        Shared::Alone(reached) => Ok(reached),
        Shared::Lane { .. } => Err(NO_UPSTREAM),
    }
}

/// What [`reach_shared`] has found.
pub enum Shared {
    /// A connection that others use, too.
    Lane {
        /// The connection.
        lane: Rc<Lane>,
        /// As [`Reached::idle_ms`].
        idle_ms: u64,
    },
    /// All that there may be are held up: here is one for this session alone.
    Alone(Reached),
}

/// As [`reach`], with a connection among `lanes` if there are any. A node is picked for each session all the same.
pub async fn reach_shared(
    core: &Core,
    ex: &mut Exchange,
    own: &Destination,
    listened: Listened,
    lanes: Option<&Lanes>,
) -> Result<Shared, Refused> {
    let upstream =
        resolved(core, ex.out.upstream.as_ref(), own).await.map_err(|reply| Refused(reply.status))?;
    announce(core, &upstream);
    let streams = &core.config.streams;
    let (connect_ms, idle_ms) = match upstream.conf.timeout {
        Some(own) => (own.connect_ms, u64::from(own.read_ms.max(own.send_ms))),
        None => (u32::try_from(streams.connect_timeout_ms).unwrap_or(u32::MAX), streams.timeout_ms),
    };
    let connected = connected(core, ex, &upstream, connect_ms, lanes).await?;
    ex.live_upstream = Some(upstream);
    let stream = match connected {
        Connected::Lane(lane) => return Ok(Shared::Lane { lane, idle_ms }),
        Connected::New(stream, opening) => {
            let stream = Rc::new(stream);
            match opening.and_then(|opening| opening.opened(stream.clone(), idle_ms)) {
                Some(lane) => return Ok(Shared::Lane { lane, idle_ms }),
                None => stream,
            }
        }
    };
    if listened.proxy_protocol_to_upstream {
        let source = SocketAddr::new(ex.remote_addr, ex.remote_port);
        let mut header = reactor::take_buffer();
        encode_v1(&mut header, Some(Addresses { source, destination: ex.facts.local }));
        stream.send(header);
    }
    Ok(Shared::Alone(Reached { stream, idle_ms }))
}

enum Connected<'a> {
    /// Somebody else has connected before.
    Lane(Rc<Lane>),
    /// A new connection, which others may share if it is opened as a lane.
    New(Stream, Option<Opening<'a>>),
}

async fn connected<'a>(
    core: &Core,
    ex: &mut Exchange,
    upstream: &LiveUpstream,
    connect_ms: u32,
    lanes: Option<&'a Lanes>,
) -> Result<Connected<'a>, Refused> {
    let mut tried = NodeSet::new();
    let mut retries = Retries::new(&upstream.conf, &EVERY_FAILURE, upstream.nodes.len(), reactor::now_ms());
    loop {
        let picked = match upstream.conf.balance {
            Balance::None => upstream.pick_any(&tried, &mut core.rng.borrow_mut()).ok_or(NO_UPSTREAM)?,
            _ => pick(core, ex, upstream, &tried).map_err(|reply| Refused(reply.status))?,
        };
        ex.upstream.begin(picked.addr, picked.node, reactor::now_ms());
        ex.out.node_host = upstream.nodes.get(picked.node).map(|node| node.name.clone());
        upstream.started(picked.node);
        let target = target(ex, upstream, &picked);
        let opening = match lanes {
            None => None,
            Some(lanes) => match lanes.find(&Place::of(&target)).await {
                Found::Lane(lane) => return Ok(Connected::Lane(lane)),
                Found::Open(opening) => Some(opening),
                Found::Full => None,
            },
        };
        let error = match Box::pin(connect(&target, connect_ms)).await {
            Ok(stream) => {
                note_connected(ex);
                return Ok(Connected::New(stream, opening));
            }
            Err(error) => error,
        };
        log::error!("connect() to {} failed: {error}", picked.addr);
        let failure = match error.kind() {
            io::ErrorKind::TimedOut => Failure::Timeout,
            _ => Failure::Error,
        };
        upstream.finished(picked.node, None, reactor::now_ms());
        passive::failed(core, upstream, picked.node, failure);
        tried.insert(picked.node);
        let failed = Try {
            failure,
            reused: false,
            sent: false,
            non_idempotent: false,
            replayable: true,
            unseen: false,
        };
        if retries.after(failed, reactor::now_ms()) != Decision::NextNode {
            return Err(NO_UPSTREAM);
        }
    }
}

/// Where a node is reached. TLS asks for the name that the client asked for, else for the node's own.
fn target(ex: &Exchange, upstream: &LiveUpstream, picked: &Picked) -> Target {
    let asked = ex.facts.tls.as_deref().and_then(|tls| tls.sni.as_deref());
    let name = asked.or(ex.out.node_host.as_deref()).and_then(trust::server_name);
    let tls = upstream.tls.bare.as_ref().map(|client| Secure { client: client.clone(), name });
    Target { address: picked.addr, tls }
}
