//! To the upstream and back: pick a node, connect, send, read the head of the answer; and again with
//! another node while nothing was answered (APISIX balancer.lua, nginx ngx_http_upstream.c).

use std::io;
use std::rc::Rc;

use rustls::pki_types::ServerName;

use super::finish::release_upstream;
use super::{Core, handle, passive, prepare};
use crate::conn::h1::client::{self, AnswerHead, NoAnswer};
use crate::conn::h1::upload::{self, Unsent};
use crate::exchange::{Body, BodyError, Exchange, Held, Reply, Source, UpstreamChoice};
use crate::limits;
use crate::live::plan::Destination;
use crate::live::{LiveUpstream, Picked, Plan, Unusable};
use crate::mail::ToControl;
use crate::model::Scheme;
use crate::plugin::{Chain, Phase};
use crate::pubsub::handshake;
use crate::reactor;
use crate::transport::pool::Lease;
use crate::transport::{Secure, trust};
use crate::upstream::NodeSet;
use crate::upstream::retry::{Decision, Failure, NO_NODE_TO_TRY, NO_VALID_NODE, Retries, Try};
use crate::wire::Name;
use crate::wire::http::{Host, Method};

/// Timeouts of one exchange towards its upstream, ms.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub connect_ms: u32,
    pub send_ms: u32,
    pub read_ms: u32,
}

/// Sends the exchange upstream. `Ok`: `ex.resp` is the upstream's answer, or the client has left.
pub async fn run(core: &Core, ex: &mut Exchange, plan: &Plan, global: &Chain) -> Result<(), Reply> {
    let upstream = resolved(core, ex.out.upstream.as_ref(), &plan.destination).await?;
    match upstream.conf.scheme {
        Scheme::Http | Scheme::Https | Scheme::Grpc | Scheme::Grpcs | Scheme::Kafka
            if upstream.conf.discovery.is_none() => {}
        // layer 4 and service discovery are not served here: such a route never opens
        _ => return Err(Reply::page(503)),
    }
    refuse_switch(ex, plan, &upstream)?;
    ex.live_upstream = Some(upstream.clone());
    if upstream.conf.scheme == Scheme::Kafka {
        // no node is picked: the system behind it does that (APISIX init.lua `handle_upstream`)
        return handshake::accept(ex);
    }
    announce(core, &upstream);
    if upstream.reads_body && ex.body_read.is_none() {
        prepare::read_body(core, ex).await?;
    }
    let picked = pick(core, ex, &upstream, &NodeSet::new())?;
    set_host(ex, &upstream, picked.node);
    for chain in [global, &plan.chain] {
        if chain.has(Phase::BeforeProxy) {
            handle::unanswered(chain.run(Phase::BeforeProxy, ex, &core.host).await)?;
        }
    }

    let (times, websocket) = (times(core, plan, &upstream), plan.websocket);
    let mut ask = Ask { core, upstream: &upstream, picked, times, websocket, fresh: false };
    until_answered(ex, &mut ask).await
}

/// Asks one node after the other, until one has answered or no more may be asked.
async fn until_answered(ex: &mut Exchange, ask: &mut Ask<'_>) -> Result<(), Reply> {
    let Ask { core, upstream, .. } = *ask;
    let rules = &core.config.http.proxy;
    let mut retries = Retries::new(&upstream.conf, rules, upstream.nodes.len(), reactor::now_ms());
    let mut held = Held::default();
    let mut tried = NodeSet::new();
    loop {
        ex.upstream.begin(ask.picked.addr, ask.picked.node, reactor::now_ms());
        upstream.started(ask.picked.node);
        ex.counted = true;
        let asked = match upstream.speaks_h2(ask.may_switch(ex)) {
            true => Box::pin(ask.over_h2(ex, &mut held)).await,
            false => ask.over_h1(ex, &mut held).await,
        };
        let failed = match asked {
            Ok(()) => return Ok(()),
            Err(Missed::Try(failed)) => failed,
            Err(Missed::ClientGone) => return ask.client_left(ex),
            Err(Missed::Body(error)) => return ask.client_broke_off(ex, error),
        };
        match retries.after(failed, reactor::now_ms()) {
            Decision::Pass => return Ok(()),
            Decision::GiveUp(status) => return ask.give_up(ex, failed, status),
            Decision::SameNode => ask.afresh(ex),
            Decision::NextNode => ask.turn_away(ex, failed, &mut tried)?,
        }
    }
}

/// A client that can only go on as a WebSocket, on a route that has none: no request is worth sending.
fn refuse_switch(ex: &Exchange, plan: &Plan, upstream: &LiveUpstream) -> Result<(), Reply> {
    let switches = match upstream.conf.scheme {
        Scheme::Http | Scheme::Https => plan.websocket,
        Scheme::Kafka => true,
        _ => false,
    };
    if ex.req.connects && !switches { Err(Reply::page(403)) } else { Ok(()) }
}

/// See [`resolved`].
fn destination(
    core: &Core,
    choice: Option<&UpstreamChoice>,
    own: &Destination,
) -> Result<Rc<LiveUpstream>, Reply> {
    let live = core.live.borrow();
    let chosen = match (choice, own) {
        (Some(UpstreamChoice::Object(id)), _) => live.upstream_by_id(id).unwrap_or_else(|| {
            Err(Unusable { status: 502, reason: format!("failed to find upstream by id: {id}") })
        }),
        (Some(UpstreamChoice::Own(own)), _) => live.own_upstream(own),
        (None, Destination::Upstream(up)) => Ok(if up.awaited { live.again(up) } else { up.clone() }),
        (None, Destination::None(status)) => return Err(Reply::page(*status)),
    };
    chosen.map_err(|Unusable { status, reason }| {
        log::error!("{reason}");
        Reply::page(status)
    })
}

/// The upstream that a plugin chose (`choice`), else the route's `own`. Waits for names that control has not resolved
/// yet, as long as a resolver may take.
pub async fn resolved(
    core: &Core,
    choice: Option<&UpstreamChoice>,
    own: &Destination,
) -> Result<Rc<LiveUpstream>, Reply> {
    let mut upstream = destination(core, choice, own)?;
    if upstream.awaited && upstream.conf.scheme != Scheme::Kafka {
        let until_ms = reactor::now_ms() + core.config.dns.timeout_ms;
        while upstream.awaited && reactor::now_ms() < until_ms {
            reactor::sleep(limits::NAME_TICK_MS).await;
            upstream = destination(core, choice, own)?;
        }
    }
    Ok(upstream)
}

/// The first request to an upstream with health checks starts them.
pub fn announce(core: &Core, upstream: &LiveUpstream) {
    if !upstream.announced.get() {
        let sent = core.tell_control(ToControl::InUse(upstream.key.as_ref().into()));
        upstream.announced.set(sent);
    }
}

fn times(core: &Core, plan: &Plan, upstream: &LiveUpstream) -> Times {
    let proxy = &core.config.http.proxy;
    let ms = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    match plan.timeout.or(upstream.conf.timeout) {
        Some(t) => Times { connect_ms: t.connect_ms, send_ms: t.send_ms, read_ms: t.read_ms },
        None => Times {
            connect_ms: ms(proxy.connect_timeout_ms),
            send_ms: ms(proxy.send_timeout_ms),
            read_ms: ms(proxy.read_timeout_ms),
        },
    }
}

/// Picks a node.
pub fn pick(core: &Core, ex: &Exchange, upstream: &LiveUpstream, tried: &NodeSet) -> Result<Picked, Reply> {
    if upstream.nodes.is_empty() {
        log::error!("no valid upstream node of {}", upstream.key);
        return Err(Reply::page(NO_VALID_NODE));
    }
    let now_ms = reactor::now_ms();
    upstream.pick(ex, tried, now_ms, &mut core.rng.borrow_mut()).ok_or_else(|| {
        log::error!("failed to find valid upstream server, all upstream servers tried: {}", upstream.key);
        Reply::page(NO_NODE_TO_TRY)
    })
}

fn set_host(ex: &mut Exchange, upstream: &LiveUpstream, node: usize) {
    ex.out.scheme.get_or_insert(upstream.scheme);
    ex.out.node_host = upstream.nodes.get(node).map(|node| node.name.clone());
    if let Some(host) = upstream.host_header(node) {
        ex.out.host = Some(host.to_vec());
    }
}

/// Why a try brought no answer.
pub(super) enum Missed {
    Try(Try),
    /// The client's body broke off: the client's fault.
    Body(BodyError),
    ClientGone,
}

/// A try that fails before anything is sent.
pub(super) fn not_sent(ex: &Exchange, held: &Held) -> Try {
    let non_idempotent = matches!(ex.out_method(), Method::Post | Method::Lock | Method::Patch);
    let replayable = held.whole;
    Try { failure: Failure::Error, reused: false, sent: false, non_idempotent, replayable, unseen: false }
}

/// One try on one node: who is asked, and how.
pub(super) struct Ask<'a> {
    pub core: &'a Core,
    pub upstream: &'a LiveUpstream,
    pub picked: Picked,
    pub times: Times,
    /// The route has `enable_websocket`.
    pub websocket: bool,
    /// A kept connection will not do: one has just turned out closed.
    pub fresh: bool,
}

impl Ask<'_> {
    /// Does the client ask to change the protocol, on a route that lets it?
    fn may_switch(&self, ex: &Exchange) -> bool {
        self.websocket && ex.req.head.headers.has(Name::Upgrade)
    }

    /// From the connection to the head of the answer.
    async fn over_h1(&self, ex: &mut Exchange, held: &mut Held) -> Result<(), Missed> {
        let mut state = not_sent(ex, held);
        let mut lease = self.connection(ex).await.map_err(|error| self.unconnected(&error, state))?;
        lease.read_timeout_ms = self.times.read_ms;
        state.reused = lease.connection.reused;

        // the connection is there: what is taken of the body now is not lost by a failed connect
        let most = ex.out.held_bytes.unwrap_or(limits::REPLAY_BODY);
        held.fill(&mut ex.req.body, most).await.map_err(Missed::Body)?;
        state.sent = true;
        ex.proxied = true;
        let stream = &lease.connection.stream;
        let (read_ms, send_ms) = (self.times.read_ms, self.times.send_ms);
        let mut head = AnswerHead::default();
        let early = upload::send(ex, stream, held, &mut head, self.websocket, send_ms).await;
        state.replayable = held.whole;
        let answered = match early {
            Err(unsent) => Err(unsent),
            Ok(all_sent) => {
                // what is left of a body would be the first that the tunnel carries
                let may_switch = all_sent && self.may_switch(ex);
                let answered = client::read_answer(stream, ex, head, read_ms, may_switch).await;
                answered.map(|keep| keep && all_sent).map_err(Unsent::from)
            }
        };
        match answered {
            Ok(keep) => {
                ex.keep_upstream = keep;
                ex.lease = Some(lease);
                self.answered(ex, state)
            }
            Err(unsent) => {
                // half a head: neither the next try nor our own page goes on from it
                ex.resp.head.clear();
                match unsent {
                    Unsent::Body(error) => Err(Missed::Body(error)),
                    Unsent::Upstream(error) => Err(self.no_answer(error, state)),
                }
            }
        }
    }

    /// A kept connection, or a new one.
    async fn connection(&self, ex: &mut Exchange) -> io::Result<Lease> {
        let pool = match &self.upstream.tls.bare {
            None => self.picked.pool.clone(),
            Some(client) => {
                self.picked.pool.secured(Secure { client: client.clone(), name: server_name(self.core, ex) })
            }
        };
        let (keep, now_ms) = (self.upstream.keep, reactor::now_ms());
        let lease = Lease::take(&pool, keep, self.fresh, now_ms, self.times.connect_ms).await?;
        note_connected(ex);
        Ok(lease)
    }

    /// There is no connection.
    pub(super) fn unconnected(&self, error: &io::Error, state: Try) -> Missed {
        log::error!("connect() to {} failed: {error}", self.picked.addr);
        let timed_out = error.kind() == io::ErrorKind::TimedOut;
        Missed::Try(Try { failure: if timed_out { Failure::Timeout } else { Failure::Error }, ..state })
    }

    /// The head of an answer is there: it counts unless its status leads to the next node.
    pub(super) fn answered(&self, ex: &mut Exchange, state: Try) -> Result<(), Missed> {
        let now_ms = reactor::now_ms();
        let status = ex.resp.head.status;
        if let Some(attempt) = ex.upstream.current() {
            attempt.status = status;
            attempt.header_ms = Some((now_ms - attempt.began_ms) as u32);
        }
        match self.core.config.http.proxy.next_upstream.statuses.contains(&status) {
            true => Err(Missed::Try(Try { failure: Failure::Status(status), ..state })),
            false => Ok(()),
        }
    }

    /// No answer came, for this reason.
    pub(super) fn no_answer(&self, error: NoAnswer, state: Try) -> Missed {
        let addr = self.picked.addr;
        match error {
            NoAnswer::ClientGone => Missed::ClientGone,
            NoAnswer::Timeout => {
                log::error!("upstream timed out while reading response header from upstream {addr}");
                Missed::Try(Try { failure: Failure::Timeout, ..state })
            }
            NoAnswer::Invalid(reason) => {
                log::error!("{reason}, upstream {addr}");
                Missed::Try(Try { failure: Failure::InvalidHead, ..state })
            }
            NoAnswer::Broken(error) => {
                if !state.reused && !state.unseen {
                    log::error!("upstream prematurely closed connection: {error}, upstream {addr}");
                }
                Missed::Try(state)
            }
        }
    }

    /// Nobody waits for an answer.
    fn client_left(&self, ex: &mut Exchange) -> Result<(), Reply> {
        release_upstream(ex);
        ex.resp.client_gone = true;
        Ok(())
    }

    /// The client's body broke off; a client that left gets no answer.
    fn client_broke_off(&self, ex: &mut Exchange, error: BodyError) -> Result<(), Reply> {
        release_upstream(ex);
        let reply = prepare::client_body_error(ex, error);
        if ex.resp.client_gone { Ok(()) } else { Err(reply) }
    }

    /// No more tries: the client gets the page of this status.
    fn give_up(&self, ex: &mut Exchange, failed: Try, status: u16) -> Result<(), Reply> {
        note_failure(ex, failed, status);
        release_upstream(ex);
        Err(Reply::page(status))
    }

    /// The kept connection had ended: the next try is on the same node, and takes the place of this one.
    fn afresh(&mut self, ex: &mut Exchange) {
        self.forget(ex);
        ex.upstream.attempts.pop();
        self.fresh = true;
    }

    /// The next try is on a node that is not among `tried`, nor the one that has failed.
    fn turn_away(&mut self, ex: &mut Exchange, failed: Try, tried: &mut NodeSet) -> Result<(), Reply> {
        self.forget(ex);
        note_failure(ex, failed, 0);
        passive::failed(self.core, self.upstream, self.picked.node, failed.failure);
        tried.insert(self.picked.node);
        let picked = pick(self.core, ex, self.upstream, tried);
        self.picked = picked.map_err(|_| Reply::page(NO_NODE_TO_TRY))?;
        self.fresh = false;
        set_host(ex, self.upstream, self.picked.node);
        Ok(())
    }

    /// The try is over, and another follows. Another answer may take the place of the one that came, if one came; its
    /// connection is closed, as nginx does.
    fn forget(&self, ex: &mut Exchange) {
        self.upstream.finished(self.picked.node, None, reactor::now_ms());
        ex.counted = false;
        ex.lease = None;
        ex.call = None;
        ex.resp.body = Body::Empty;
        ex.resp.head.clear();
        ex.resp.source = Source::Gateway;
        ex.resp.answered = false;
        ex.resp.upgrade = false;
    }
}

/// The name that TLS towards the upstream asks for: the Host header's, if `proxy_ssl_server_name` is on.
pub(super) fn server_name(core: &Core, ex: &Exchange) -> Option<ServerName<'static>> {
    if !core.config.http.proxy_ssl_server_name {
        return None;
    }
    let host = ex.out.host.as_deref().unwrap_or(&ex.req.http_host);
    let host = std::str::from_utf8(Host::parse(host)?.name).ok()?;
    trust::server_name(host)
}

/// Writes down when the connection was there, for `$upstream_connect_time`.
pub fn note_connected(ex: &mut Exchange) {
    if let Some(attempt) = ex.upstream.current() {
        attempt.connect_ms = Some((reactor::now_ms() - attempt.began_ms) as u32);
    }
}

/// Writes a failed try down, for `$upstream_status`.
fn note_failure(ex: &mut Exchange, failed: Try, status: u16) {
    let status = match (failed.failure, status) {
        (Failure::Status(answered), _) => answered,
        (_, 1..) => status,
        (Failure::Timeout, 0) => 504,
        _ => 502,
    };
    if let Some(attempt) = ex.upstream.current() {
        attempt.status = status;
        attempt.response_ms = Some((reactor::now_ms() - attempt.began_ms) as u32);
    }
}
