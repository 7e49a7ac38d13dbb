//! One session of a protocol, to its end: bytes both ways at the protocol's word. Each direction has one piece in flight,
//! so a side that takes nothing stops the other, and nothing gathers here but calls, of which there is a bound.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

mod end;

use super::link::{self, Link, Of, Unsent, Wire, send, size_buffers};
use super::{Broken, Call, Calls, Pass, Session, To, Verdict, Wants};
use crate::conn::Gate;
use crate::exchange::{Client, Exchange};
use crate::gate::Core;
use crate::limits;
use crate::live::LiveUpstream;
use crate::live::streams::{StreamPlan, Subordinate};
use crate::reactor::{self, Chunk};
use crate::stream::meter::{Meter, Moved};
use crate::stream::protocols::{self, Served};
use crate::stream::{GAVE_UP, Listened, Refused, proxy};
use crate::transport::Stream;
use end::End;

/// What both directions share.
struct Shared<'a> {
    core: &'a Rc<Core>,
    meter: &'a Meter,
    ex: RefCell<&'a mut Exchange>,
    client: &'a Stream,
    plan: &'a Rc<StreamPlan>,
    listened: Listened,
    served: &'a Served,
    /// Calls may go over shared connections.
    shares: Cell<bool>,
    /// Calls are counted in metrics.
    counts: bool,
    session: RefCell<Box<dyn Session>>,
    calls: RefCell<Calls>,
    links: RefCell<Vec<Rc<Link>>>,
    /// The last calls went over a shared connection.
    last_shared: Cell<bool>,
    /// The subordinate routes, and the version of the configuration that they are of.
    routes: RefCell<(Option<u64>, Rc<[Subordinate]>)>,
    /// When something moved last, ms of the core's clock.
    moved_ms: Cell<u64>,
    /// The direction from the client waits until fewer calls are under way.
    waits: RefCell<Option<Waker>>,
    up_bytes: Cell<u64>,
    down_bytes: Cell<u64>,
}

/// Serves a session of `plan`, whose route has a protocol.
pub async fn run(
    core: &Rc<Core>,
    ex: &mut Exchange,
    client: &Rc<Stream>,
    plan: &Rc<StreamPlan>,
    listened: Listened,
    meter: &Meter,
) -> Result<(), Refused> {
    let Some(served) = protocols::of(core, plan) else { return Err(GAVE_UP) };
    let metrics = plan.route.value.protocol.as_ref().is_some_and(|protocol| protocol.metrics)
        && core.live.borrow().enables_stream_plugin("prometheus");
    let logs = !plan.loggers.is_empty();
    let wants = Wants { calls: logs || metrics, variables: logs };
    // a PROXY header makes a connection one client's
    let shares = served.protocol.shares().is_some() && !listened.proxy_protocol_to_upstream;
    let shared = Shared {
        core,
        meter,
        ex: RefCell::new(ex),
        client,
        plan,
        listened,
        session: RefCell::new(served.protocol.open(wants)),
        served: &served,
        shares: Cell::new(shares),
        counts: metrics,
        calls: RefCell::new(Calls::new(wants, reactor::now())),
        links: RefCell::default(),
        last_shared: Cell::new(false),
        routes: RefCell::new((None, Rc::new([]))),
        moved_ms: Cell::new(reactor::now_ms()),
        waits: RefCell::default(),
        up_bytes: Cell::new(0),
        down_bytes: Cell::new(0),
    };
    let end = both(&shared).await;
    shared.close(end).await
}

/// Both directions at once. When the client is done the answers that are under way still come.
async fn both(shared: &Shared<'_>) -> End {
    let (mut up, mut down) = (pin!(shared.up()), pin!(shared.down()));
    let mut client_done = false;
    poll_fn(|cx| {
        if !client_done {
            match up.as_mut().poll(cx) {
                Poll::Ready(End::ClientDone) => client_done = true,
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {}
            }
        }
        if client_done && shared.links.borrow().is_empty() {
            return Poll::Ready(End::ClientDone);
        }
        if shared.is_cut_off() {
            return Poll::Ready(End::Client(io::ErrorKind::TimedOut.into()));
        }
        let ended = down.as_mut().poll(cx);
        if ended.is_pending() && client_done && shared.is_answered() {
            return Poll::Ready(End::ClientDone);
        }
        ended
    })
    .await
}

impl Shared<'_> {
    /// From the client, until it is done.
    async fn up(&self) -> End {
        let (mut kept, pieces) = (Vec::new(), Cell::default());
        loop {
            // no upstream's clock runs for a session that has no connection of its own
            let has_clock = self.shares.get() || self.links.borrow().is_empty();
            self.client.set_recv_deadline(has_clock.then(|| self.rests_until_ms()));
            let chunk = match self.client.recv().await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !self.is_idle() => continue,
                Ok(chunk) if chunk.is_empty() => {
                    self.links.borrow().iter().for_each(|link| link.shutdown_write());
                    return End::ClientDone;
                }
                Ok(chunk) => chunk,
                Err(error) => return End::Client(error),
            };
            size_buffers(self.client, &pieces, chunk.len());
            self.moved(&self.up_bytes, chunk.len());
            if let Err(end) = self.take_in(&mut kept, chunk).await {
                return end;
            }
        }
    }

    /// Ready while another call may begin.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.calls.borrow().len() < limits::RPC_CALLS {
            return Poll::Ready(());
        }
        self.waits.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// When it has been idle for too long, ms of the core's clock. While an answer is awaited its connection's clock runs.
    fn rests_until_ms(&self) -> u64 {
        let idle_ms = self.links.borrow().iter().map(|link| link.idle_ms).max();
        let since_ms = if self.calls.borrow().is_empty() { self.moved_ms.get() } else { reactor::now_ms() };
        since_ms + idle_ms.unwrap_or(self.core.config.streams.timeout_ms)
    }

    /// Nothing has moved for too long.
    fn is_idle(&self) -> bool {
        self.rests_until_ms() <= reactor::now_ms()
    }

    /// The client was too slow for a connection that it shares.
    fn is_cut_off(&self) -> bool {
        let cut_off = |link: &Rc<Link>| matches!(&link.wire, Wire::Lane(seat) if seat.is_cut_off());
        self.links.borrow().iter().any(cut_off)
    }

    /// A client that will send nothing more has all its answers, and no connection of its own that may bring others.
    fn is_answered(&self) -> bool {
        let shared = |link: &Rc<Link>| link.is_over() || matches!(link.of, Of::Shared);
        self.calls.borrow().is_empty()
            && self.links.borrow().iter().all(shared)
            && self.client.queued_bytes() == 0
    }

    /// Ready when no call is under way.
    fn poll_settled(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.calls.borrow().is_empty() {
            return Poll::Ready(());
        }
        self.waits.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Shows the protocol what the client has sent, and does as it says.
    async fn take_in(&self, kept: &mut Vec<u8>, chunk: Chunk) -> Result<(), End> {
        let mut chunk = joined(kept, chunk);
        while !chunk.is_empty() {
            poll_fn(|cx| self.poll_room(cx)).await;
            let routes = self.routes();
            let (verdict, alone, calls) = {
                let calls = &mut *self.calls.borrow_mut();
                calls.now = reactor::now();
                let (alone, before) = (calls.is_empty(), calls.begun());
                let verdict = self.session.borrow_mut().client_bytes(&chunk, calls, &routes);
                (verdict, alone, (calls.begun() - before) as usize)
            };
            match verdict.map_err(End::ClientBroken)? {
                Verdict::Pass(Pass { bytes, to, late, .. }) => {
                    let of = match to {
                        To::Route(at) => {
                            routes.get(at).map_or(Of::Own, |route| Of::Route(route.plan.clone()))
                        }
                        To::Shared if self.shares.get() => Of::Shared,
                        To::Shared | To::Own => Of::Own,
                    };
                    let mut piece = chunk.split_to(bytes);
                    let mut rest = calls;
                    if let Some((from, late_ms)) = late {
                        rest = calls.min(1);
                        self.pass(&of, piece.split_to(from), calls - rest, alone).await?;
                        reactor::sleep(late_ms).await;
                    }
                    self.pass(&of, piece, rest, alone && calls == rest).await?;
                }
                Verdict::Answer { bytes, answer, last } => {
                    chunk.advance(bytes);
                    let idle_ms = self.core.config.streams.timeout_ms;
                    send(self.client, Chunk::from_vec(answer), idle_ms).await.map_err(End::Client)?;
                    if last {
                        return Err(End::Goodbye);
                    }
                }
                Verdict::Settle => poll_fn(|cx| self.poll_settled(cx)).await,
                Verdict::More if chunk.len() > limits::RPC_HEAD => {
                    return Err(End::ClientBroken(Broken("a head that does not end".to_owned())));
                }
                Verdict::More => {
                    kept.extend_from_slice(&chunk);
                    break;
                }
            }
            self.finish_calls();
        }
        Ok(())
    }

    /// Sends bytes with so many calls in them; `alone`: none was under way before.
    async fn pass(&self, of: &Of, mut piece: Chunk, calls: usize, alone: bool) -> Result<(), End> {
        while !piece.is_empty() {
            match self.link(of, alone).await?.send(piece, calls).await {
                Ok(()) => break,
                Err(Unsent::Over(unsent)) => piece = unsent,
                Err(Unsent::Failed(error)) => return Err(End::Upstream(error)),
            }
        }
        Ok(())
    }

    /// From the upstreams, until one closes.
    async fn down(&self) -> End {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        // an upstream in the middle of a message: the others wait
        let mut midst = None;
        loop {
            let (at, link, chunk) = match poll_fn(|cx| self.poll_links(cx, midst)).await {
                Ok((_, link, chunk)) if chunk.is_empty() && self.is_spare(&link) => {
                    link.over.set(true);
                    continue;
                }
                Ok((_, _, chunk)) if chunk.is_empty() => return End::UpstreamDone,
                Ok(came) => came,
                Err(error) => return End::Upstream(error),
            };
            kept.resize_with(kept.len().max(at + 1), Vec::new);
            self.moved(&self.down_bytes, chunk.len());
            let mut chunk = joined(&mut kept[at], chunk);
            while !chunk.is_empty() {
                let verdict = {
                    let calls = &mut *self.calls.borrow_mut();
                    calls.now = reactor::now();
                    self.session.borrow_mut().upstream_bytes(at, &chunk, calls)
                };
                let sent = match verdict {
                    Err(broken) => return End::UpstreamBroken(broken),
                    Ok(Verdict::Pass(Pass { bytes, whole, .. })) => {
                        midst = (!whole).then_some(at);
                        send(self.client, chunk.split_to(bytes), link.idle_ms).await.map_err(End::Client)
                    }
                    Ok(Verdict::Answer { bytes, answer, .. }) => {
                        chunk.advance(bytes);
                        link.send(Chunk::from_vec(answer), 0).await.map_err(|unsent| match unsent {
                            Unsent::Failed(error) => End::Upstream(error),
                            Unsent::Over(_) => End::UpstreamDone,
                        })
                    }
                    Ok(Verdict::More) if chunk.len() > limits::RPC_HEAD => {
                        return End::UpstreamBroken(Broken("a head that does not end".to_owned()));
                    }
                    Ok(Verdict::More | Verdict::Settle) => {
                        kept[at].extend_from_slice(&chunk);
                        break;
                    }
                };
                self.finish_calls();
                if let Err(end) = sent {
                    return end;
                }
            }
        }
    }

    /// The next bytes of an upstream: of the one in the `midst` of a message, else of any.
    fn poll_links(
        &self,
        cx: &mut Context<'_>,
        midst: Option<usize>,
    ) -> Poll<io::Result<(usize, Rc<Link>, Chunk)>> {
        let links = self.links.borrow();
        let may_come =
            |(at, link): &(usize, &Rc<Link>)| midst.is_none_or(|midst| midst == *at) && !link.over.get();
        for (at, link) in links.iter().enumerate().filter(may_come) {
            loop {
                match link.poll_recv(cx) {
                    Poll::Ready(Ok(chunk)) => return Poll::Ready(Ok((at, link.clone(), chunk))),
                    Poll::Ready(Err(error))
                        if error.kind() == io::ErrorKind::TimedOut
                            && let Wire::Own(stream) = &link.wire =>
                    {
                        // what the client sends winds the clock up again
                        let until_ms = self.moved_ms.get() + link.idle_ms;
                        if until_ms <= reactor::now_ms() {
                            return Poll::Ready(Err(error));
                        }
                        stream.set_recv_deadline(Some(until_ms));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
        }
        Poll::Pending
    }

    fn moved(&self, counter: &Cell<u64>, bytes: usize) {
        counter.set(counter.get() + bytes as u64);
        self.moved_ms.set(reactor::now_ms());
        self.meter.moved(Moved::pumped(self.up_bytes.get(), self.down_bytes.get()));
    }

    /// The subordinate routes as they are now.
    fn routes(&self) -> Rc<[Subordinate]> {
        let live = self.core.live.borrow();
        let (version, routes) = &mut *self.routes.borrow_mut();
        if *version != Some(live.streams_version()) {
            *version = Some(live.streams_version());
            *routes = live.subordinates(self.plan).into();
        }
        routes.clone()
    }

    /// A connection of its own that a session with shared ones uses no more: its end is nobody's.
    fn is_spare(&self, link: &Link) -> bool {
        self.last_shared.get() && matches!(link.of, Of::Own)
    }

    /// The connection for these calls: there already, or made now. `alone`: no call was under way before, so another one
    /// may do: in place of one that is held up, and one of its own for a session that has held up others.
    async fn link(&self, of: &Of, alone: bool) -> Result<Rc<Link>, End> {
        let mut of = of.clone();
        if alone && matches!(of, Of::Shared) {
            for link in self.links.borrow().iter() {
                let Wire::Lane(seat) = &link.wire else { continue };
                if seat.is_slow() {
                    self.shares.set(false);
                    of = Of::Own;
                }
                link.over.set(link.over.get() || seat.is_slow() || !seat.is_free());
            }
        }
        self.last_shared.set(matches!(of, Of::Shared));
        let known = self.links.borrow().iter().find(|link| link.of.is(&of) && link.takes_calls()).cloned();
        match known {
            Some(link) => Ok(link),
            None => self.connected(of).await,
        }
    }

    async fn connected(&self, of: Of) -> Result<Rc<Link>, End> {
        // an exchange of its own: answers of other links are logged meanwhile
        let mut own = {
            let ex = self.ex.borrow();
            let mut own = self.core.take(&ex.facts, Client::None);
            (own.remote_addr, own.remote_port) = (ex.remote_addr, ex.remote_port);
            own.session = Some(Box::default());
            own.set_vars.clone_from(&ex.set_vars);
            let is_own = !matches!(of, Of::Route(_));
            own.out.upstream.clone_from(&ex.out.upstream.clone().filter(|_| is_own));
            own
        };
        let plan = if let Of::Route(plan) = &of { plan } else { self.plan };
        let lanes = matches!(of, Of::Shared).then_some(&self.served.lanes);
        let reached = proxy::reach_shared(self.core, &mut own, &plan.destination, self.listened, lanes);
        let reached = Box::pin(reached).await;
        let attempts = std::mem::take(&mut own.upstream.attempts);
        let node = attempts.last().map_or(0, |attempt| attempt.node);
        let upstream = own.live_upstream.take().and_then(|up| up.downcast::<LiveUpstream>().ok());
        self.ex.borrow_mut().upstream.attempts.extend(attempts);
        self.core.give_back(own);
        let (wire, idle_ms) = match reached.map_err(End::Unreached)? {
            proxy::Shared::Lane { lane, idle_ms } => (Wire::Lane(lane.sit()), idle_ms),
            proxy::Shared::Alone(proxy::Reached { stream, idle_ms }) => {
                stream.set_recv_deadline(Some(reactor::now_ms() + idle_ms));
                (Wire::Own(stream), idle_ms)
            }
        };
        self.moved_ms.set(reactor::now_ms());
        let link = Rc::new(Link {
            of,
            wire,
            idle_ms,
            upstream,
            node,
            pieces: Cell::default(),
            over: Cell::new(false),
        });
        link::put(&mut self.links.borrow_mut(), link.clone());
        Ok(link)
    }

    /// Logs and counts the calls that have ended, and lets others begin.
    fn finish_calls(&self) {
        let ended = self.calls.borrow_mut().take_ended();
        if ended.is_empty() {
            return;
        }
        let now = reactor::now();
        for call in &ended {
            self.log(call, call.seconds(now));
        }
        if let Some(waker) = self.waits.take() {
            waker.wake();
        }
    }

    fn log(&self, call: &Call, seconds: f64) {
        let ex = &mut **self.ex.borrow_mut();
        if self.counts {
            let route = self.plan.route.id.as_bytes();
            self.served.protocol.count(&mut self.core.host.metrics.borrow_mut(), route, call, seconds);
        }
        if self.plan.loggers.is_empty() {
            return;
        }
        ex.set_var("rpc_time", format!("{seconds:.6}"));
        call.vars.iter().for_each(|(name, value)| ex.set_var(*name, value.clone()));
        for logger in &self.plan.loggers {
            if logger.filter.as_ref().is_none_or(|filter| filter.eval(&*ex)) {
                logger.plugin.log(ex, &self.core.host);
            }
        }
        ex.set_vars
            .retain(|(name, _)| &**name != "rpc_time" && call.vars.iter().all(|(own, _)| *own != &**name));
    }
}

/// What was kept of earlier bytes, and these behind it.
fn joined(kept: &mut Vec<u8>, chunk: Chunk) -> Chunk {
    if kept.is_empty() {
        return chunk;
    }
    kept.extend_from_slice(&chunk);
    Chunk::from_vec(std::mem::take(kept))
}
