//! Layer 4: the road of a session, from its accept to its log line (apisix/init.lua `stream_preread_phase`,
//! `stream_log_phase`). [`serve`] is the first page to read, [`proxy`] finds and reaches the upstream, [`xrpc`] serves those
//! that speak one of the [`protocols`].

pub mod meter;
pub mod protocols;
pub mod proxy;
pub mod udp;
pub mod xrpc;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::conn::tunnel::{Ended, Pump};
use crate::conn::{Gate, Switched};
use crate::exchange::{Client, ClientVerify, Exchange, Facts, Session};
use crate::expr::IpNets;
use crate::gate::Core;
use crate::gate::finish::write_access_line;
use crate::limits;
use crate::live::LiveUpstream;
use crate::live::streams::StreamPlan;
use crate::plugin::Phase;
use crate::reactor;
use crate::transport::Stream;

use meter::{Meter, Moved};

/// The listener that a session came by.
#[derive(Clone, Copy, Debug)]
pub struct Listened {
    /// Its address as written.
    pub address: SocketAddr,
    /// Upstreams get a PROXY header.
    pub proxy_protocol_to_upstream: bool,
}

/// Why a session ended, by nginx's status of streams (src/stream/ngx_stream.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

/// No route, or what it needs is missing: nginx says 500 where Lua has given up.
pub const GAVE_UP: Refused = Refused(500);
/// No upstream could be reached.
pub const NO_UPSTREAM: Refused = Refused(502);

/// One session, to its end.
pub async fn serve(core: Rc<Core>, stream: Rc<Stream>, facts: Rc<Facts>, listened: Listened) {
    let mut ex = core.take(&facts, Client::Raw(stream.clone()));
    ex.session =
        Some(Box::new(Session { protocol: "TCP", listener: Some(listened.address), ..Session::default() }));
    let meter = Meter::new(&core, listened);
    believe_balancer(&core, &mut ex);
    let outcome = Box::pin(road(&core, &mut ex, &stream, listened, &meter)).await;
    ex.resp.head.status = outcome.err().map_or(200, |Refused(status)| status);
    drop(stream);
    finish(&core, &mut ex);
    meter.tell(Moved::of(&ex));
    core.give_back(ex);
}

/// The phases, top to bottom. `Err`: the session is refused.
async fn road(
    core: &Rc<Core>,
    ex: &mut Exchange,
    stream: &Rc<Stream>,
    listened: Listened,
    meter: &Meter,
) -> Result<(), Refused> {
    let plan = or_turn_away(stream, admit(core, ex).await).await?;
    if plan.route.value.protocol.is_some() {
        return Box::pin(xrpc::session::run(core, ex, stream, &plan, listened, meter)).await;
    }
    let reached = proxy::reach(core, ex, &plan.destination, listened).await;
    let reached = or_turn_away(stream, reached).await?;
    pump(ex, stream.clone(), reached, meter).await;
    Ok(())
}

/// Finds the route and asks its plugins, before a byte of the client is used.
async fn admit(core: &Core, ex: &mut Exchange) -> Result<Rc<StreamPlan>, Refused> {
    verify_client(core, ex)?;
    let plan = match_route(core, ex)?;
    ex.plan = Some(plan.clone());
    ex.matched = Some(plan.matched.clone());
    if let Some(status) = plan.refusal {
        return Err(Refused(status));
    }
    preread(core, ex, &plan).await?;
    Ok(plan)
}

/// A client that has spoken and gets no upstream gets a reset, for an end could be taken for an answer; who has said nothing gets
/// an end. That is what nginx's close does, which leaves the bytes of the client unread; they may still be on their way here.
/// TLS has a word of its own for such an end.
async fn or_turn_away<T>(client: &Stream, outcome: Result<T, Refused>) -> Result<T, Refused> {
    let (Err(_), Stream::Plain(tcp)) = (&outcome, client) else { return outcome };
    client.set_recv_deadline(Some(reactor::now_ms() + limits::TURNED_AWAY_MS));
    let has_spoken = client.recv().await.is_ok_and(|bytes| !bytes.is_empty());
    if has_spoken && let Err(error) = tcp.set_linger_zero() {
        log::debug!("a refused session ends without a reset: {error}");
    }
    outcome
}

/// `nginx_config.stream.real_ip_from`: such a balancer's word for its client is believed.
fn believe_balancer(core: &Core, ex: &mut Exchange) {
    let Some(named) = ex.facts.proxy_protocol else { return };
    if IpNets::new(&core.config.streams.real_ip_from).contains(ex.facts.peer.ip()) {
        ex.remote_addr = named.ip();
        ex.remote_port = named.port();
    } else {
        ex.remote_port = ex.facts.peer.port();
    }
}

/// An ssl object with a `client` part lets nobody in who has not shown who he is.
fn verify_client(core: &Core, ex: &Exchange) -> Result<(), Refused> {
    let Some(tls) = ex.facts.tls.as_deref() else { return Ok(()) };
    let live = core.live.borrow();
    let asks =
        tls.sni.as_deref().and_then(|sni| live.certificates().find(sni)).is_some_and(|c| c.asks_client());
    if asks && tls.client != ClientVerify::Success {
        log::error!("client certificate was not present or is not believed");
        return Err(GAVE_UP);
    }
    Ok(())
}

fn match_route(core: &Core, ex: &Exchange) -> Result<Rc<StreamPlan>, Refused> {
    let sni = ex.facts.tls.as_deref().and_then(|tls| tls.sni.as_deref());
    core.live.borrow().find_stream(ex.remote_addr, ex.facts.local, sni).ok_or_else(|| {
        log::info!("not hit any route");
        GAVE_UP
    })
}

/// What plugins say before the upstream is asked: their access phase is APISIX's preread.
async fn preread(core: &Core, ex: &mut Exchange, plan: &StreamPlan) -> Result<(), Refused> {
    if !plan.chain.has(Phase::Access) {
        return Ok(());
    }
    match plan.chain.run(Phase::Access, ex, &core.host).await {
        None => Ok(()),
        Some(reply) => {
            log::warn!("a session from {} ends before it is proxied: code {}", ex.remote_addr, reply.status);
            Err(Refused(reply.status))
        }
    }
}

/// Bytes both ways, to the end.
async fn pump(ex: &mut Exchange, client: Rc<Stream>, reached: proxy::Reached, meter: &Meter) {
    let idle_ms = reached.idle_ms;
    let (client, upstream) = (Switched::H1(client), Switched::H1(reached.stream));
    let mut pump = Pump::new(&client, &upstream, idle_ms, idle_ms);
    let ended = poll_fn(|cx| {
        let polled = pump.poll(cx);
        meter.moved(Moved::pumped(pump.up_bytes(), pump.down_bytes()));
        polled
    })
    .await;
    let began_ms = ex.upstream.attempts.last().map_or(0, |attempt| attempt.began_ms);
    let (up, down) = (pump.up_bytes(), pump.down_bytes());
    if let Some(session) = &mut ex.session {
        session.received += up;
        session.upstream_sent += up;
        session.first_byte_ms = pump.first_down_ms.map(|at_ms| at_ms.saturating_sub(began_ms) as u32);
        session.broken = match &ended {
            Ended::Closed => None,
            Ended::Client(_) => Some(Refused(400).0),
            Ended::Upstream(_) => Some(NO_UPSTREAM.0),
        };
    }
    if let Some(attempt) = ex.upstream.current() {
        attempt.bytes += down;
    }
    ex.resp.bytes += down;
    match ended {
        Ended::Closed => {}
        Ended::Client(error) => log::info!("a session ended with its client: {error}"),
        Ended::Upstream(error) => log::info!("a session ended with its upstream: {error}"),
    }
}

/// The log phase and the access log.
fn finish(core: &Core, ex: &mut Exchange) {
    let now_ms = reactor::now_ms();
    ex.ended_ms = now_ms;
    if let Some(attempt) = ex.upstream.current() {
        let took_ms = (now_ms - attempt.began_ms) as u32;
        attempt.response_ms = Some(took_ms);
        let node = attempt.node;
        if let Some(upstream) = ex.live_upstream.take().and_then(|up| up.downcast::<LiveUpstream>().ok()) {
            upstream.finished(node, Some(took_ms), now_ms);
        }
    }
    if let Some(plan) = ex.plan.clone().and_then(|plan| plan.downcast::<StreamPlan>().ok()) {
        plan.chain.log(ex, &core.host, None);
    }
    ex.held.clear();
    if let Some(access) = &core.stream_access {
        write_access_line(&mut access.borrow_mut(), ex);
    }
}
