//! Connections to upstreams: few for each target and core, shared by the streams of all exchanges.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::client::{Builder, Connection, SendRequest};

use super::duplex::{Duplex, Wire};
use crate::exchange::h2::{Calls, Data, Open};
use crate::limits;
use crate::model::KeepalivePool;
use crate::reactor::{self, Sleep};
use crate::transport::{Stream, Target, connect};
use crate::wire::frames::FrameWatch;

/// The connections of a core.
pub struct Links {
    places: RefCell<HashMap<Target, Rc<Place>>>,
    /// Of all targets, in the order in which they were made or last found in use.
    ring: RefCell<VecDeque<Rc<Link>>>,
    /// Beyond so many, idle ones end.
    most: usize,
}

/// Those to one target.
#[derive(Default)]
struct Place {
    links: RefCell<Vec<Rc<Link>>>,
    /// One is being made: whoever needs one waits for it.
    connecting: Cell<bool>,
    /// How many were tried to make, and why the last failed if it did.
    tried: Cell<u64>,
    failed: Cell<Option<io::ErrorKind>>,
    waiting: RefCell<Vec<Waker>>,
}

/// One connection.
pub struct Link {
    /// Gone when the connection takes no more streams.
    sender: RefCell<Option<SendRequest<Data>>>,
    calls: Rc<Calls>,
    /// Streams that it has carried.
    served: Cell<u32>,
    /// How many it had carried when the core was last short of room.
    seen_served: Cell<u32>,
    rules: KeepalivePool,
}

/// A connection for a request.
pub struct Linked {
    /// The connection.
    pub link: Rc<Link>,
    /// It was there before: if it fails before an answer, the node may still be well.
    pub reused: bool,
}

impl Default for Links {
    fn default() -> Self {
        Links { places: RefCell::default(), ring: RefCell::default(), most: limits::H2_IDLE_LINKS }
    }
}

impl Links {
    /// A connection to `target` that takes one more stream, made if there is none. Whoever has failed on one tells by
    /// [`Link::retire`], or it has ended.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn take(
        &self,
        target: &Target,
        rules: KeepalivePool,
        connect_ms: u32,
        send_ms: u32,
    ) -> io::Result<Linked> {
        let place = self.place(target);
        let mut seen = place.tried.get();
        if let Some(link) = place.usable() {
            return Ok(Linked { link, reused: true });
        }
        loop {
            if !place.connecting.get() {
                let making = Making::begin(&place);
                let made = Box::pin(make(target, rules, connect_ms, send_ms)).await;
                if let Ok(link) = &made {
                    self.enter(link);
                }
                return making.end(made).map(|link| Linked { link, reused: false });
            }
            place.made_since(seen).await;
            if let Some(kind) = place.failed.get() {
                return Err(kind.into());
            }
            seen = place.tried.get();
            if let Some(link) = place.usable() {
                return Ok(Linked { link, reused: false });
            }
        }
    }

    /// Forgets connections that have ended. Call it about once a second.
    pub fn sweep(&self) {
        self.ring.borrow_mut().retain(|link| link.is_open());
        self.places.borrow_mut().retain(|_, place| Rc::strong_count(place) > 1 || place.is_used());
    }

    fn place(&self, target: &Target) -> Rc<Place> {
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.get(target) {
            return place.clone();
        }
        places.entry(target.clone()).or_default().clone()
    }

    /// A new connection. Where there are too many, one ends that was idle for long: a client may ask under ever new names,
    /// each of which needs a connection of its own. Those in use since they were last looked at have another turn; looking at
    /// a few each time keeps up with those that come.
    fn enter(&self, link: &Rc<Link>) {
        let mut ring = self.ring.borrow_mut();
        for _ in 0..limits::H2_IDLE_LINKS_LOOKED_AT {
            if ring.len() < self.most {
                break;
            }
            let Some(oldest) = ring.pop_front() else { break };
            match oldest.is_open() && oldest.was_used() {
                true => ring.push_back(oldest),
                false => oldest.retire(),
            }
        }
        ring.push_back(link.clone());
    }
}

impl Place {
    fn is_used(&self) -> bool {
        self.links.borrow_mut().retain(|link| link.is_open());
        !self.links.borrow().is_empty()
    }

    /// The first connection with room: the others grow idle and end.
    fn usable(&self) -> Option<Rc<Link>> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| link.is_open());
        let full = links.len() >= limits::H2_LINKS;
        let roomy = links.iter().find(|link| link.has_room());
        // where there are too many, streams wait in line for their turn
        roomy.or(if full { links.first() } else { None }).cloned()
    }

    /// Waits until the connection that is being made is there, or has failed.
    async fn made_since(&self, seen: u64) {
        std::future::poll_fn(|cx| {
            if self.tried.get() != seen || !self.connecting.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The making of a connection, which may be given up.
struct Making(Rc<Place>);

impl Making {
    fn begin(place: &Rc<Place>) -> Self {
        place.connecting.set(true);
        place.failed.set(None); // if this one is given up, whoever waits must not hear of the last
        Making(place.clone())
    }

    fn end(self, made: io::Result<Rc<Link>>) -> io::Result<Rc<Link>> {
        self.0.tried.set(self.0.tried.get() + 1);
        self.0.failed.set(made.as_ref().err().map(io::Error::kind));
        if let Ok(link) = &made {
            self.0.links.borrow_mut().push(link.clone());
        }
        made
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.waiting.take().into_iter().for_each(Waker::wake);
    }
}

impl Link {
    /// A handle that opens one stream. `None`: the connection has ended meanwhile.
    pub fn sender(&self) -> Option<(SendRequest<Data>, Open)> {
        self.served.set(self.served.get() + 1);
        let sender = self.sender.borrow().clone();
        if self.served.get() >= self.rules.requests {
            self.retire();
        }
        sender.map(|sender| (sender, Open::new(&self.calls)))
    }

    /// No more streams; it ends with the last of those under way.
    pub fn retire(&self) {
        self.sender.take();
    }

    /// It takes more streams.
    fn is_open(&self) -> bool {
        if self.calls.broken_off() >= limits::H2_LINK_BROKEN_OFF {
            self.retire();
        }
        self.sender.borrow().is_some()
    }

    fn has_room(&self) -> bool {
        self.sender
            .borrow()
            .as_ref()
            .is_some_and(|sender| (self.calls.open() as usize) < sender.current_max_send_streams())
    }

    fn is_idle(&self) -> bool {
        self.calls.open() == 0
    }

    /// Streams are under way, or have begun since this was last asked. Its first, for which it was made, does not count.
    fn was_used(&self) -> bool {
        let served = self.served.get();
        self.seen_served.replace(served) != served || !self.is_idle()
    }
}

/// Connects and says hello. The upstream's own settings need not be awaited.
async fn make(target: &Target, rules: KeepalivePool, connect_ms: u32, send_ms: u32) -> io::Result<Rc<Link>> {
    let stream = Rc::new(connect(target, connect_ms).await?);
    let wire = Wire::new(FrameWatch::of_server(reactor::now_ms()));
    let duplex = Duplex::new(stream.clone(), wire.clone(), send_ms);
    let (sender, connection) = builder().handshake(duplex).await.map_err(io::Error::other)?;
    let link = Rc::new(Link {
        sender: RefCell::new(Some(sender)),
        calls: Rc::default(),
        served: Cell::new(0),
        seen_served: Cell::new(1),
        rules,
    });
    let running = Running { connection, wire, link: link.clone(), idle: None, stream };
    reactor::spawn(running.run());
    Ok(link)
}

/// As towards clients: every limit is set.
fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits::H2_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
        .max_frame_size(limits::H2_FRAME)
        .max_header_list_size(limits::RESPONSE_HEAD as u32)
        .header_table_size(limits::H2_HEADER_TABLE)
        .initial_max_send_streams(limits::H2_LINK_FIRST_STREAMS)
        .max_send_buffer_size(limits::H2_SEND_BUFFER)
        .max_concurrent_reset_streams(limits::H2_LINK_REMEMBERED_RESETS)
        .reset_stream_duration(Duration::from_millis(limits::H2_REMEMBERED_MS))
        // a client that leaves resets all its calls, whose answers come all the same: no reason to end those of others
        .max_local_error_reset_streams(None)
        .data_frame_budget(limits::H2_LINK_SMALL_PIECES);
    builder
}

/// The task of a connection.
struct Running {
    connection: Connection<Duplex, Data>,
    wire: Rc<Wire>,
    link: Rc<Link>,
    /// Ends the connection if no stream begins before.
    idle: Option<Sleep>,
    stream: Rc<Stream>,
}

impl Running {
    async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
        self.link.retire();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.connection).poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(()),
            Poll::Ready(Err(error)) => {
                let level = if error.is_library() { log::Level::Error } else { log::Level::Info };
                log::log!(level, "HTTP/2 connection to upstream {} ended: {error}", self.peer());
                return Poll::Ready(());
            }
            Poll::Pending => {}
        }
        if let Some(fault) = self.wire.fault() {
            log::error!("HTTP/2 connection to upstream {} closed: {fault:?}", self.peer());
            return Poll::Ready(());
        }
        self.poll_idle(cx)
    }

    fn peer(&self) -> String {
        self.stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default()
    }

    /// Retires the link when it was idle for `keepalive_pool.idle_timeout`; the connection then ends by itself.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout_ms = u64::from(self.link.rules.idle_timeout_ms);
        if !self.link.is_idle() || timeout_ms == 0 {
            self.idle = None;
            return Poll::Pending;
        }
        let idle = self.idle.get_or_insert_with(|| reactor::sleep_until(reactor::now_ms() + timeout_ms));
        if Pin::new(idle).poll(cx).is_ready() {
            self.link.retire();
            self.idle = None;
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;
    use crate::transport::tests::on_both;
    use crate::transport::trust::{self, Trust};
    use crate::transport::{Secure, TlsClients};

    const RULES: KeepalivePool = KeepalivePool { size: 2, idle_timeout_ms: 60_000, requests: 1000 };

    fn room_for(most: usize) -> Links {
        Links { most, ..Links::default() }
    }

    fn listeners(count: usize) -> Vec<TcpListener> {
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect()
    }

    fn target(listener: &TcpListener) -> Target {
        Target { address: listener.local_addr().unwrap(), tls: None }
    }

    /// A request of which nothing is sent: under way until it is dropped.
    async fn request(links: &Links, listener: &TcpListener) -> (Rc<Link>, impl Sized) {
        let link = links.take(&target(listener), RULES, 1000, 1000).await.unwrap().link;
        let under_way = link.sender().expect("it takes streams");
        (link, under_way)
    }

    /// Whether the gateway has closed it.
    fn has_ended(far_end: &mut TcpStream) -> bool {
        far_end.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        loop {
            match far_end.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }

    #[test]
    fn beyond_the_bound_of_all_targets_the_connection_that_was_idle_longest_ends() {
        on_both(async || {
            let (links, nodes) = (room_for(2), listeners(4));
            let (first, _) = request(&links, &nodes[0]).await;
            let mut far_end = nodes[0].accept().unwrap().0;
            let (second, _) = request(&links, &nodes[1]).await;
            assert!(first.is_open() && second.is_open());
            let (third, _) = request(&links, &nodes[2]).await;
            assert!(!first.is_open() && second.is_open() && third.is_open());
            while !has_ended(&mut far_end) {
                reactor::sleep(1).await;
            }
            let again = request(&links, &nodes[1]).await.0;
            assert!(Rc::ptr_eq(&again, &second));
            let (fourth, _) = request(&links, &nodes[3]).await;
            assert!(second.is_open() && !third.is_open() && fourth.is_open(), "the second was used again");
        });
    }

    #[test]
    fn connections_with_requests_under_way_stay_and_make_room_when_they_are_idle() {
        on_both(async || {
            const MANY: usize = limits::H2_IDLE_LINKS_LOOKED_AT + 2;
            let (links, nodes) = (room_for(1), listeners(MANY + 1));
            let mut busy = Vec::new();
            for node in &nodes[..MANY] {
                busy.push(request(&links, node).await);
            }
            assert!(busy.iter().all(|(link, _)| link.is_open()));
            let idle: Vec<Rc<Link>> = busy.into_iter().map(|(link, _)| link).collect();
            let (last, _) = request(&links, &nodes[MANY]).await;
            assert_eq!(
                idle.iter().filter(|link| link.is_open()).count(),
                2,
                "so many were looked at, no more"
            );
            assert!(last.is_open());
        });
    }

    #[test]
    fn who_waits_for_a_connection_that_is_given_up_makes_one() {
        on_both(async || {
            let (links, nodes) = (room_for(1), listeners(1));
            let place = links.place(&target(&nodes[0]));
            let failed = Making::begin(&place).end(Err(ErrorKind::ConnectionRefused.into()));
            assert!(failed.is_err());
            let making = Making::begin(&place);
            let mut waiting = std::pin::pin!(request(&links, &nodes[0]));
            std::future::poll_fn(|cx| {
                assert!(waiting.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            drop(making); // its client has left
            assert!(waiting.await.0.is_open());
        });
    }

    #[test]
    fn targets_without_a_connection_are_forgotten() {
        on_both(async || {
            let (links, nodes) = (room_for(1), listeners(2));
            for node in &nodes {
                request(&links, node).await;
            }
            links.sweep();
            assert_eq!((links.places.borrow().len(), links.ring.borrow().len()), (1, 1));
        });
    }

    /// Else another client, with another certificate, could get its place in memory, and with it its connections.
    #[test]
    fn a_tls_client_lives_as_long_as_its_connections_may_be_found() {
        let links = Links::default();
        let client = TlsClients::new(Trust::Anyone).get(false, None, &[]).unwrap();
        let watched = Rc::downgrade(&client);
        let secure = Secure { client, name: trust::server_name("server.example") };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let _place = links.place(&Target { address, tls: Some(secure) });
        assert!(watched.upgrade().is_some());
    }
}
