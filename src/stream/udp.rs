//! UDP: a session is what one client sends and gets until nothing has moved for a while (nginx: `listen … udp`). Each core
//! has a socket of its own in the group of an address, and the kernel keeps a client on one of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::task::{Poll, Waker};

use ahash::AHashMap;

use super::meter::{Meter, Moved};
use super::{GAVE_UP, Listened, NO_UPSTREAM, Refused, finish, match_route, preread};
use crate::conn::Gate;
use crate::exchange::{Client, Exchange, Facts, Session};
use crate::gate::proxy::{announce, note_connected, pick, resolved};
use crate::gate::{Core, passive};
use crate::limits;
use crate::model::Balance;
use crate::reactor::{self, Transmit, UdpBatch, UdpSocket, bind_udp};
use crate::upstream::NodeSet;
use crate::upstream::retry::Failure;

/// One address of `stream_proxy.udp` on one core.
struct Door {
    core: Rc<Core>,
    socket: UdpSocket,
    address: SocketAddr,
    sessions: RefCell<AHashMap<Ends, Rc<Peer>>>,
    batch: Rc<RefCell<UdpBatch>>,
}

/// Whose session it is: the client's address, and that of ours which it spoke to. A door on all addresses is many doors to
/// those who come: an answer has to come from where it was asked for (nginx keys them so, too).
type Ends = (SocketAddr, Option<IpAddr>);

/// A client, as the door and its session's task know it.
#[derive(Default)]
struct Peer {
    /// What came before the upstream was chosen.
    waiting: RefCell<VecDeque<Vec<u8>>>,
    upstream: RefCell<Option<(Rc<UdpSocket>, SocketAddr)>>,
    /// When a datagram moved last, ms of the core's clock.
    moved_ms: Cell<u64>,
    received: Cell<u64>,
    sent_up: Cell<u64>,
    /// A send has told that the upstream is not there.
    gone: Cell<Option<io::Error>>,
    /// Who waits for answers, to hear of that.
    waits: Cell<Option<Waker>>,
}

/// Serves these sockets, until the core drains. Sessions end with it: a datagram is nobody's promise.
pub fn serve(core: &Rc<Core>, sockets: Vec<std::net::UdpSocket>) {
    let batch = Rc::new(RefCell::new(UdpBatch::new()));
    for socket in sockets {
        let address = socket.local_addr();
        let door = address.and_then(|address| Ok((address, taken_over(socket)?)));
        match door {
            Ok((address, socket)) => {
                let (core, batch) = (core.clone(), batch.clone());
                let sessions = RefCell::default();
                reactor::spawn(watch(Rc::new(Door { core, socket, address, sessions, batch })));
            }
            Err(error) => log::error!("a UDP socket cannot be served: {error}"),
        }
    }
}

/// Takes over a bound socket. What a client or an upstream has to say may be longer than one packet.
fn taken_over(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from_std(socket)?;
    socket.cut_long()?;
    Ok(socket)
}

/// Hands what comes to its sessions. However much comes: after some rounds it is the turn of others.
async fn watch(door: Rc<Door>) {
    for round in 1_usize.. {
        if round.is_multiple_of(limits::UDP_ROUNDS) {
            reactor::yield_now().await;
        }
        let came = poll_fn(|cx| match door.core.is_draining() {
            true => Poll::Ready(None),
            false => door.socket.poll_recv(cx, &mut door.batch.borrow_mut()).map(Some),
        });
        match came.await {
            None => return,
            Some(Ok(())) => {
                for received in door.batch.borrow().received() {
                    for datagram in received.datagrams() {
                        deliver(&door, received.from, received.to, datagram);
                    }
                }
            }
            Some(Err(error)) => {
                log::info!("recvmsg() on {} failed: {error}", door.address);
                reactor::sleep(limits::ACCEPT_PAUSE_MS).await;
            }
        }
    }
}

/// To the session of a client, which may begin with it.
fn deliver(door: &Rc<Door>, from: SocketAddr, to: Option<IpAddr>, datagram: &[u8]) {
    let ends = (from, to);
    let known = door.sessions.borrow().get(&ends).cloned();
    let peer = match known {
        Some(peer) => peer,
        None if door.sessions.borrow().len() >= limits::UDP_SESSIONS => {
            return log::info!("a datagram of {from} is dropped: too many sessions on {}", door.address);
        }
        None => {
            let peer = Rc::new(Peer::default());
            door.sessions.borrow_mut().insert(ends, peer.clone());
            reactor::spawn(session(door.clone(), peer.clone(), ends));
            peer
        }
    };
    peer.received.set(peer.received.get() + datagram.len() as u64);
    peer.moved_ms.set(reactor::now_ms());
    if peer.upstream.borrow().is_some() {
        return peer.send_up(datagram);
    }
    let mut waiting = peer.waiting.borrow_mut();
    if waiting.len() < limits::UDP_WAITING {
        waiting.push_back(datagram.to_vec());
    }
}

impl Peer {
    /// What the network does not take is lost.
    fn send_up(&self, datagram: &[u8]) {
        let Some((socket, destination)) = self.upstream.borrow().clone() else { return };
        match socket.try_send(&transmit(destination, None, datagram)) {
            Ok(()) => self.sent_up.set(self.sent_up.get() + datagram.len() as u64),
            Err(error) if tells_of_the_peer(&error) => {
                self.gone.set(Some(error));
                self.waits.take().into_iter().for_each(Waker::wake);
            }
            Err(_) => {}
        }
    }
}

/// Is it about who is spoken to, and not about one datagram?
fn tells_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

fn transmit(destination: SocketAddr, src_ip: Option<IpAddr>, contents: &[u8]) -> Transmit<'_> {
    Transmit { destination, ecn: None, contents, segment_size: None, src_ip }
}

/// A session's place in its door, given back however the session ends: after a panic, too, the client's next datagram
/// begins another one.
struct Taken<'a> {
    door: &'a Door,
    ends: Ends,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.door.sessions.borrow_mut().remove(&self.ends);
    }
}

/// One session, to its end.
async fn session(door: Rc<Door>, peer: Rc<Peer>, ends: Ends) {
    let (client, to) = ends;
    let core = door.core.clone();
    let local = SocketAddr::new(to.unwrap_or(door.address.ip()), door.address.port());
    let facts = Rc::new(Facts::new(client, local, "udp", 0));
    let mut ex = core.take(&facts, Client::None);
    let session = Session { protocol: "UDP", listener: Some(door.address), ..Session::default() };
    ex.session = Some(Box::new(session));
    let listened = Listened { address: door.address, proxy_protocol_to_upstream: false };
    let meter = Meter::new(&core, listened);
    let place = Taken { door: &door, ends };
    let outcome = Box::pin(road(&door, &peer, &mut ex, &meter, ends)).await;
    drop(place);
    ex.resp.head.status = outcome.err().map_or(200, |Refused(status)| status);
    if let Some(session) = &mut ex.session {
        (session.received, session.upstream_sent) = (peer.received.get(), peer.sent_up.get());
    }
    finish(&core, &mut ex);
    meter.tell(Moved::of(&ex));
    core.give_back(ex);
}

/// The phases of [`super::serve`], but for those that need a connection.
async fn road(
    door: &Door,
    peer: &Peer,
    ex: &mut Exchange,
    meter: &Meter,
    (client, to): Ends,
) -> Result<(), Refused> {
    let core = &door.core;
    let plan = match_route(core, ex)?;
    ex.plan = Some(plan.clone());
    ex.matched = Some(plan.matched.clone());
    if let Some(status) = plan.refusal {
        return Err(Refused(status));
    }
    if plan.route.value.protocol.is_some() {
        log::error!("stream route {} has a protocol, which UDP does not carry", plan.route.id);
        return Err(GAVE_UP);
    }
    preread(core, ex, &plan).await?;
    let choice = ex.out.upstream.clone();
    let upstream =
        resolved(core, choice.as_ref(), &plan.destination).await.map_err(|reply| Refused(reply.status))?;
    announce(core, &upstream);
    let picked = match upstream.conf.balance {
        Balance::None => upstream.pick_any(&NodeSet::new(), &mut core.rng.borrow_mut()).ok_or(NO_UPSTREAM)?,
        _ => pick(core, ex, &upstream, &NodeSet::new()).map_err(|reply| Refused(reply.status))?,
    };
    ex.upstream.begin(picked.addr, picked.node, reactor::now_ms());
    upstream.started(picked.node);
    ex.live_upstream = Some(upstream.clone());
    let any = match picked.addr.is_ipv4() {
        true => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        false => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    // connected, so that a node where nobody listens is heard of: the client's next datagram goes to another one
    let connected = bind_udp(any, false).and_then(|socket| {
        socket.connect(picked.addr)?;
        taken_over(socket)
    });
    let socket = connected.map(Rc::new).map_err(|error| {
        log::error!("a UDP session of {client} has no socket: {error}");
        NO_UPSTREAM
    })?;
    note_connected(ex);
    *peer.upstream.borrow_mut() = Some((socket.clone(), picked.addr));
    peer.waiting.take().iter().for_each(|datagram| peer.send_up(datagram));
    let idle_ms = upstream
        .conf
        .timeout
        .map_or(core.config.streams.timeout_ms, |own| u64::from(own.read_ms.max(own.send_ms)));
    let answers = Answers { door, peer, meter, socket: &socket, from: picked.addr, client, to, idle_ms };
    if let Err(error) = answers.pass_on(ex).await {
        log::info!("a UDP session of {client} ended with its upstream: {error}");
        passive::failed(core, &upstream, picked.node, Failure::Error);
        ex.session.iter_mut().for_each(|session| session.broken = Some(NO_UPSTREAM.0));
    }
    Ok(())
}

/// The way back to a client.
struct Answers<'a> {
    door: &'a Door,
    peer: &'a Peer,
    meter: &'a Meter,
    socket: &'a UdpSocket,
    from: SocketAddr,
    client: SocketAddr,
    to: Option<IpAddr>,
    idle_ms: u64,
}

impl Answers<'_> {
    /// Until nothing has moved for `idle_ms`, or the core drains.
    async fn pass_on(&self, ex: &mut Exchange) -> io::Result<()> {
        let mut rests = Box::pin(reactor::sleep_until(self.peer.moved_ms.get() + self.idle_ms));
        for round in 1_usize.. {
            if round.is_multiple_of(limits::UDP_ROUNDS) {
                reactor::yield_now().await;
            }
            let came = poll_fn(|cx| {
                if self.door.core.is_draining() {
                    return Poll::Ready(None);
                }
                if let Some(error) = self.peer.gone.take() {
                    return Poll::Ready(Some(Err(error)));
                }
                if let Poll::Ready(came) = self.socket.poll_recv(cx, &mut self.door.batch.borrow_mut()) {
                    return Poll::Ready(Some(came));
                }
                self.peer.waits.set(Some(cx.waker().clone()));
                while rests.as_mut().poll(cx).is_ready() {
                    let until_ms = self.peer.moved_ms.get() + self.idle_ms;
                    if until_ms <= reactor::now_ms() {
                        return Poll::Ready(None);
                    }
                    rests.set(reactor::sleep_until(until_ms));
                }
                Poll::Pending
            });
            match came.await {
                None => return Ok(()),
                Some(came) => came?,
            }
            self.peer.moved_ms.set(reactor::now_ms());
            for received in self.door.batch.borrow().received().filter(|received| received.from == self.from)
            {
                for datagram in received.datagrams() {
                    self.pass_one(ex, datagram);
                }
            }
        }
        Ok(())
    }

    fn pass_one(&self, ex: &mut Exchange, datagram: &[u8]) {
        if let (Some(attempt), Some(session)) = (ex.upstream.current(), &mut ex.session) {
            attempt.bytes += datagram.len() as u64;
            let began_ms = attempt.began_ms;
            session.first_byte_ms.get_or_insert_with(|| (reactor::now_ms() - began_ms) as u32);
        }
        if self.door.socket.try_send(&transmit(self.client, self.to, datagram)).is_ok() {
            ex.resp.bytes += datagram.len() as u64;
        }
        let (received, sent_up) = (self.peer.received.get(), self.peer.sent_up.get());
        self.meter.moved(Moved { received, sent_up, ..Moved::of(ex) });
    }
}
