//! To the upstream and back: pick a node, connect, send, read the head of the answer; and again with
//! another node while nothing was answered (APISIX balancer.lua, nginx ngx_http_upstream.c).

use std::io;
use std::rc::Rc;
use std::task::Poll;

use rustls::pki_types::ServerName;

use super::{Core, handle, over_h2, passive, prepare};
use crate::conn::h1::client::{self, NoAnswer, SendBody};
use crate::exchange::{Body, BodyError, Exchange, Reply, Source, UpstreamChoice};
use crate::limits;
use crate::live::plan::Destination;
use crate::live::{LiveUpstream, Picked, Plan, Unusable};
use crate::mail::ToControl;
use crate::model::Scheme;
use crate::plugin::{Chain, Phase};
use crate::pubsub::handshake;
use crate::reactor::{self, Chunk, Out};
use crate::transport::pool::Lease;
use crate::transport::{Secure, Target, trust};
use crate::upstream::NodeSet;
use crate::upstream::retry::{Decision, Failure, NO_NODE_TO_TRY, NO_VALID_NODE, Retries, Try};
use crate::wire::Name;
use crate::wire::http::chunked::{CHUNK_END, chunk_head};
use crate::wire::http::{Host, Method};

/// Timeouts of one exchange towards its upstream, ms.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub connect_ms: u32,
    pub send_ms: u32,
    pub read_ms: u32,
}

/// What is kept of a request's body so that it can be sent again.
#[derive(Default)]
pub(super) struct Held {
    pub bytes: Vec<u8>,
    /// All that was taken from the client so far is in `bytes`.
    pub whole: bool,
    /// The body has ended.
    pub ended: bool,
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
    let times = times(core, plan, &upstream);
    let mut tried = NodeSet::new();
    let mut picked = pick(core, ex, &upstream, &tried)?;
    set_host(ex, &upstream, picked.node);
    handle::run(global, Phase::BeforeProxy, core, ex).await?;
    handle::run(&plan.chain, Phase::BeforeProxy, core, ex).await?;

    let rules = &core.config.http.proxy;
    let mut retries = Retries::new(&upstream.conf, rules, upstream.nodes.len(), reactor::now_ms());
    let mut held = Held { whole: true, ..Held::default() };
    let mut fresh = false;
    loop {
        ex.upstream.begin(picked.addr, picked.node, reactor::now_ms());
        upstream.started(picked.node);
        let may_switch = plan.websocket && ex.req.head.headers.has(Name::Upgrade);
        let tried_once = match upstream.speaks_h2(may_switch) {
            true => Box::pin(over_h2::attempt(core, ex, &upstream, &picked, times, &mut held, fresh)).await,
            false => attempt(core, ex, &upstream, &picked, times, &mut held, plan.websocket, fresh).await,
        };
        let failed = match tried_once {
            Ok(()) => return Ok(()),
            Err(Missed::ClientGone) => {
                upstream.finished(picked.node, None, reactor::now_ms());
                ex.resp.client_gone = true;
                return Ok(());
            }
            Err(Missed::Body(error)) => {
                upstream.finished(picked.node, None, reactor::now_ms());
                return client_body_failed(ex, error);
            }
            Err(Missed::Try(failed)) => failed,
        };
        let decision = retries.after(failed, reactor::now_ms());
        if decision != Decision::Pass {
            forget_answer(ex);
            upstream.finished(picked.node, None, reactor::now_ms());
        }
        match decision {
            Decision::Pass => return Ok(()),
            Decision::GiveUp(status) => {
                note_failure(ex, failed, status);
                return Err(Reply::page(status));
            }
            Decision::SameNode => {
                ex.upstream.attempts.pop();
                fresh = true;
            }
            Decision::NextNode => {
                note_failure(ex, failed, 0);
                passive::failed(core, &upstream, picked.node, failed.failure);
                tried.insert(picked.node);
                fresh = false;
                picked = pick(core, ex, &upstream, &tried).map_err(|_| Reply::page(NO_NODE_TO_TRY))?;
                set_host(ex, &upstream, picked.node);
            }
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

/// One try on one node, from the connection to the head of the answer.
#[allow(clippy::too_many_arguments)] // one try: everything it depends on, named
async fn attempt(
    core: &Core,
    ex: &mut Exchange,
    upstream: &LiveUpstream,
    picked: &Picked,
    times: Times,
    held: &mut Held,
    websocket: bool,
    fresh: bool,
) -> Result<(), Missed> {
    let mut state = not_sent(ex, held);
    let mut lease = connection(core, ex, upstream, picked, times, fresh).await.map_err(|error| {
        log::error!("connect() to {} failed: {error}", picked.addr);
        Missed::Try(Try { failure: failure_of(&error), ..state })
    })?;
    lease.read_timeout_ms = times.read_ms;
    state.reused = lease.connection.reused;

    hold_body(ex, held).await.map_err(Missed::Body)?;
    state.replayable = held.whole;
    state.sent = true;
    ex.proxied = true;
    let may_switch = websocket && ex.req.head.headers.has(Name::Upgrade);
    let early = send(ex, &lease, held, websocket, times).await;
    state.replayable = held.whole;
    let answered = match early {
        Err(missed) => Err(missed),
        Ok(all_sent) => client::read_answer(&lease.connection.stream, ex, times.read_ms, may_switch)
            .await
            .map(|keep| keep && all_sent)
            .map_err(Unsent::from),
    };
    if answered.is_err() {
        // half a head: neither the next try nor our own page goes on from it
        ex.resp.head.clear();
    }
    match answered {
        Ok(keep) => {
            ex.keep_upstream = keep;
            ex.lease = Some(lease);
            answered_with(core, ex, state)
        }
        Err(Unsent::Body(error)) => Err(Missed::Body(error)),
        Err(Unsent::Upstream(error)) => Err(no_answer(error, picked, state)),
    }
}

/// The head of an answer is there: it counts unless its status leads to the next node.
pub(super) fn answered_with(core: &Core, ex: &mut Exchange, state: Try) -> Result<(), Missed> {
    let now_ms = reactor::now_ms();
    let status = ex.resp.head.status;
    if let Some(attempt) = ex.upstream.current() {
        attempt.status = status;
        attempt.header_ms = Some((now_ms - attempt.began_ms) as u32);
    }
    match core.config.http.proxy.next_upstream.statuses.contains(&status) {
        true => Err(Missed::Try(Try { failure: Failure::Status(status), ..state })),
        false => Ok(()),
    }
}

/// No answer came, for this reason.
pub(super) fn no_answer(error: NoAnswer, picked: &Picked, state: Try) -> Missed {
    match error {
        NoAnswer::ClientGone => Missed::ClientGone,
        NoAnswer::Timeout => {
            log::error!("upstream timed out while reading response header from upstream {}", picked.addr);
            Missed::Try(Try { failure: Failure::Timeout, ..state })
        }
        NoAnswer::Invalid(reason) => {
            log::error!("{reason}, upstream {}", picked.addr);
            Missed::Try(Try { failure: Failure::InvalidHead, ..state })
        }
        NoAnswer::Broken(error) => {
            if !state.reused && !state.unseen {
                log::error!("upstream prematurely closed connection: {error}, upstream {}", picked.addr);
            }
            Missed::Try(state)
        }
    }
}

/// A kept connection, or a new one.
async fn connection(
    core: &Core,
    ex: &mut Exchange,
    upstream: &LiveUpstream,
    picked: &Picked,
    times: Times,
    fresh: bool,
) -> io::Result<Lease> {
    let pool = match &upstream.tls.bare {
        None => picked.pool.clone(),
        Some(client) => core.live.borrow().pool(&Target {
            address: picked.addr,
            tls: Some(Secure { client: client.clone(), name: server_name(core, ex) }),
        }),
    };
    let lease = Lease::take(&pool, upstream.keep, fresh, reactor::now_ms(), times.connect_ms).await?;
    if let Some(attempt) = ex.upstream.current() {
        attempt.connect_ms = Some((reactor::now_ms() - attempt.began_ms) as u32);
    }
    Ok(lease)
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

/// Takes the body up to the replay limit, or what a plugin says in its place: the connection is there, so what is
/// taken is not lost by a failed connect, and a body that ends here goes with a Content-Length.
async fn hold_body(ex: &mut Exchange, held: &mut Held) -> Result<(), BodyError> {
    if held.ended || matches!(ex.req.body, Body::Empty) {
        held.ended = true;
        return Ok(());
    }
    let most = ex.out.held_bytes.unwrap_or(limits::REPLAY_BODY);
    while held.whole && held.bytes.len() < most {
        match ex.req.body.piece().await? {
            Some(piece) => held.bytes.extend_from_slice(&piece),
            None => {
                held.ended = true;
                return Ok(());
            }
        }
        if ex.req.body.is_done() {
            held.ended = true;
            return Ok(());
        }
    }
    Ok(())
}

/// Why the request could not be sent to its end.
enum Unsent {
    Body(BodyError),
    Upstream(NoAnswer),
}

impl From<NoAnswer> for Unsent {
    fn from(error: NoAnswer) -> Self {
        Unsent::Upstream(error)
    }
}

/// Sends head and body. `Ok(false)`: the upstream answered before it had the whole body.
async fn send(
    ex: &mut Exchange,
    lease: &Lease,
    held: &mut Held,
    websocket: bool,
    times: Times,
) -> Result<bool, Unsent> {
    let stream = &*lease.connection.stream;
    let framing = match ex.req.body.known_length() {
        _ if held.ended && client::has_trailers(ex) => SendBody::Chunked,
        _ if held.ended && held.bytes.is_empty() => SendBody::Nothing,
        _ if held.ended => SendBody::Length(held.bytes.len() as u64),
        Some(left) => SendBody::Length(held.bytes.len() as u64 + left),
        None => SendBody::Chunked,
    };
    let mut out = reactor::take_buffer();
    client::write_request(ex, websocket, framing, &mut out);
    let chunked = framing == SendBody::Chunked;
    if !held.bytes.is_empty() {
        if chunked {
            chunk_head(&mut out, held.bytes.len());
        }
        out.extend_from_slice(&held.bytes);
        if chunked {
            out.extend_from_slice(CHUNK_END);
        }
    }
    if held.ended && chunked {
        client::write_last_chunk(ex, &mut out);
    }
    stream.send(Out::from(out));
    if held.ended {
        return Ok(true);
    }
    held.whole = false;
    held.bytes = Vec::new();
    // boxed: most requests have no body that streams, and their road is smaller for it
    Box::pin(stream_body(ex, lease, chunked, times)).await
}

/// Passes the rest of the body on, one piece in flight, while watching for an early answer.
async fn stream_body(ex: &mut Exchange, lease: &Lease, chunked: bool, times: Times) -> Result<bool, Unsent> {
    let stream = &*lease.connection.stream;
    loop {
        stream.set_send_deadline(Some(reactor::now_ms() + u64::from(times.send_ms)));
        let early = std::future::poll_fn(|cx| {
            match stream.poll_flushed(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(NoAnswer::from(error))),
                Poll::Pending => {}
            }
            stream.poll_recv(cx).map(|answer| answer.map(Some).map_err(NoAnswer::from))
        })
        .await?;
        if let Some(chunk) = early {
            stream.unrecv(chunk);
            return Ok(false);
        }
        let body = &mut ex.req.body;
        let piece = std::future::poll_fn(|cx| {
            if let Poll::Ready(piece) = body.poll_piece(cx) {
                return Poll::Ready(piece.map(Ok).map_err(Unsent::Body));
            }
            stream.poll_recv(cx).map(|answer| answer.map(Err).map_err(|e| Unsent::Upstream(e.into())))
        })
        .await?;
        match piece {
            Ok(Some(data)) => {
                let mut out = reactor::take_buffer();
                if chunked {
                    chunk_head(&mut out, data.len());
                }
                let mut sent = Out::from(out).chunk(data);
                if chunked {
                    sent = sent.chunk(Chunk::from_static(CHUNK_END));
                }
                stream.send(sent);
            }
            Ok(None) => {
                if chunked {
                    let mut out = reactor::take_buffer();
                    client::write_last_chunk(ex, &mut out);
                    stream.send(Out::from(out));
                }
                return Ok(true);
            }
            Err(chunk) => {
                stream.unrecv(chunk);
                return Ok(false);
            }
        }
    }
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => NoAnswer::Timeout,
            _ => NoAnswer::Broken(error),
        }
    }
}

pub(super) fn failure_of(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::TimedOut { Failure::Timeout } else { Failure::Error }
}

/// The client's body broke off; a client that left gets no answer.
fn client_body_failed(ex: &mut Exchange, error: BodyError) -> Result<(), Reply> {
    let reply = prepare::client_body_error(ex, error);
    if ex.resp.client_gone { Ok(()) } else { Err(reply) }
}

/// Another answer takes the place of the one that came, if one came; its connection is closed, as nginx does.
fn forget_answer(ex: &mut Exchange) {
    ex.lease = None;
    ex.call = None;
    ex.keep_upstream = false;
    ex.resp.body = Body::Empty;
    ex.resp.head.clear();
    ex.resp.source = Source::Gateway;
    ex.resp.answered = false;
    ex.resp.upgrade = false;
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
