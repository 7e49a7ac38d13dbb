//! Connections to upstreams: few for each target and core, shared by the streams of all exchanges.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
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
use crate::transport::pool::Key;
use crate::transport::{Stream, Target, connect};
use crate::wire::frames::FrameWatch;

/// The connections of a core.
#[derive(Default)]
pub struct Links {
    places: RefCell<HashMap<Key, Rc<Place>>>,
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
    rules: KeepalivePool,
}

/// A connection for a request.
pub struct Linked {
    /// The connection.
    pub link: Rc<Link>,
    /// It was there before: if it fails before an answer, the node may still be well.
    pub reused: bool,
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

    fn place(&self, target: &Target) -> Rc<Place> {
        let mut places = self.places.borrow_mut();
        let key = Key::of(target);
        if let Some(place) = places.get(&key) {
            return place.clone();
        }
        places.retain(|_, place| Rc::strong_count(place) > 1 || place.is_used());
        places.entry(key).or_default().clone()
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
