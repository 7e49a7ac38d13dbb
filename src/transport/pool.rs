//! Kept connections to upstream nodes, per core.
//!
//! A [`Pool`] belongs to one way of reaching one address; a node of a live upstream holds its pool, so that
//! a request hashes nothing. With TLS the name is often known only when a request comes: the node's pool holds one
//! for each name in use ([`Pool::secured`]), and all end with the node. The last connection put in is the first
//! taken out: those that are not needed grow old and are closed.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};

use crate::limits;
use crate::model::KeepalivePool;
use crate::transport::{Secure, Stream, Target, connect};

/// A connection and how much it was used.
pub struct Connection {
    /// The stream.
    pub stream: Rc<Stream>,
    /// Requests it has carried, the present one included.
    pub requests: u32,
    /// It was taken out of a pool: if it fails before an answer, the node may still be well.
    pub reused: bool,
}

impl Connection {
    /// A new connection for its first request.
    pub fn new(stream: Stream) -> Self {
        Connection { stream: Rc::new(stream), requests: 1, reused: false }
    }
}

struct Idle {
    stream: Rc<Stream>,
    requests: u32,
    /// `u64::MAX` where there is no limit.
    expires_ms: u64,
}

/// A connection while a request has it. Dropping it closes the connection, [`Lease::keep`] gives it back.
pub struct Lease {
    /// The connection.
    pub connection: Connection,
    pool: Rc<Pool>,
    rules: KeepalivePool,
    /// Between two reads, ms: what a tunnel on this connection observes.
    pub read_timeout_ms: u32,
}

impl Lease {
    /// A kept connection of `pool`, unless a fresh one is asked for or none is good, else a new one.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn take(
        pool: &Rc<Pool>,
        rules: KeepalivePool,
        fresh: bool,
        now_ms: u64,
        timeout_ms: u32,
    ) -> io::Result<Lease> {
        let kept = if fresh { None } else { pool.take(now_ms) };
        let connection = match kept {
            Some(connection) => connection,
            // boxed: a future is as large as its largest wait, and most requests do not wait here
            None => Connection::new(Box::pin(connect(pool.target(), timeout_ms)).await?),
        };
        Ok(Lease { connection, pool: pool.clone(), rules, read_timeout_ms: 0 })
    }

    /// Gives the connection back: both messages came to their framed end.
    pub fn keep(self, now_ms: u64) {
        self.pool.put(self.connection, &self.rules, now_ms);
    }
}

/// The kept connections of one way of reaching one address. Connections that began with a PROXY header speak for one
/// client and are never put in.
pub struct Pool {
    target: Target,
    idle: RefCell<VecDeque<Idle>>,
    /// The same address with TLS: those that keep connections, or began to serve a request since the last sweep.
    secured: RefCell<HashMap<Secure, Rc<Pool>>>,
    /// Kept connections of the whole core.
    total: Rc<Cell<usize>>,
}

/// All pools of a core.
#[derive(Default)]
pub struct Pools {
    pools: RefCell<HashMap<Target, Weak<Pool>>>,
    /// See [`Pools::lasting`]: the one that was asked for last stands last.
    lasting: RefCell<Vec<Rc<Pool>>>,
    total: Rc<Cell<usize>>,
}

impl Pools {
    /// No pools yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The pool for `target`: the same one for the same target while somebody holds it.
    pub fn get(&self, target: &Target) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get(target).and_then(Weak::upgrade) {
            return pool;
        }
        let pool = Pool::new(target.clone(), &self.total);
        pools.insert(target.clone(), Rc::downgrade(&pool));
        pool
    }

    /// As [`Pools::get`], and it lives as long as it keeps connections: for calls that go to another place each time. Of too
    /// many the one ends that nobody has asked for longest.
    pub fn lasting(&self, target: &Target) -> Rc<Pool> {
        let pool = self.get(target);
        let mut lasting = self.lasting.borrow_mut();
        match lasting.iter().rposition(|held| Rc::ptr_eq(held, &pool)) {
            Some(at) => lasting[at..].rotate_left(1),
            None => {
                if lasting.len() >= limits::LASTING_POOLS {
                    lasting.remove(0);
                }
                lasting.push(pool.clone());
            }
        }
        pool
    }

    /// Closes connections that are too old or that the peer has closed, and forgets pools that are of no use. Call it
    /// about once a second.
    pub fn sweep(&self, now_ms: u64) {
        self.pools.borrow_mut().retain(|_, pool| pool.strong_count() > 0);
        let pools: Vec<Rc<Pool>> = self.pools.borrow().values().filter_map(Weak::upgrade).collect();
        pools.iter().for_each(|pool| pool.sweep(now_ms));
        drop(pools);
        let in_use = |pool: &Rc<Pool>| Rc::strong_count(pool) > 1 || !pool.idle.borrow().is_empty();
        self.lasting.borrow_mut().retain(in_use);
    }

    /// Kept connections of the core.
    pub fn idle_connections(&self) -> usize {
        self.total.get()
    }
}

impl Pool {
    fn new(target: Target, total: &Rc<Cell<usize>>) -> Rc<Pool> {
        let (idle, secured) = (RefCell::default(), RefCell::default());
        Rc::new(Pool { target, idle, secured, total: total.clone() })
    }

    /// Where its connections lead.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The pool of the same address with TLS. It lives as long as this one, or for as long as it keeps a connection.
    pub fn secured(&self, secure: Secure) -> Rc<Pool> {
        let mut pools = self.secured.borrow_mut();
        if let Some(pool) = pools.get(&secure) {
            return pool.clone();
        }
        let target = Target { address: self.target.address, tls: Some(secure.clone()) };
        pools.entry(secure).or_insert(Pool::new(target, &self.total)).clone()
    }

    /// A kept connection that is still good.
    pub fn take(&self, now_ms: u64) -> Option<Connection> {
        loop {
            let idle = self.idle.borrow_mut().pop_back()?;
            if self.keeps(&idle, now_ms) {
                self.total.set(self.total.get() - 1);
                return Some(Connection { stream: idle.stream, requests: idle.requests + 1, reused: true });
            }
        }
    }

    /// Keeps a connection whose request and answer both came to their framed end. It is closed instead if
    /// it has carried its number of requests, if bytes that nobody asked for wait in it, if not all of the request has
    /// left it, or, the oldest first, where there are too many.
    pub fn put(&self, connection: Connection, rules: &KeepalivePool, now_ms: u64) {
        let Connection { stream, requests, .. } = connection;
        let most = match self.target.tls {
            Some(_) => limits::IDLE_UPSTREAM_CONNECTIONS_OF_NAMES,
            None => limits::IDLE_UPSTREAM_CONNECTIONS,
        };
        let full = self.total.get() >= most;
        stream.set_recv_deadline(None);
        let is_clear = stream.queued_bytes() == 0 && silent(&stream);
        if requests >= rules.requests || rules.size == 0 || full || !is_clear {
            return;
        }
        stream.set_send_deadline(None);
        stream.expect_alike();
        let expires_ms = match rules.idle_timeout_ms {
            0 => u64::MAX,
            timeout_ms => now_ms + u64::from(timeout_ms),
        };
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= rules.size as usize && idle.pop_front().is_some() {
            self.total.set(self.total.get() - 1);
        }
        idle.push_back(Idle { stream, requests, expires_ms });
        self.total.set(self.total.get() + 1);
    }

    /// See [`Pools::sweep`].
    fn sweep(&self, now_ms: u64) {
        let idle = self.idle.take();
        let kept: VecDeque<Idle> = idle.into_iter().filter(|idle| self.keeps(idle, now_ms)).collect();
        self.idle.replace(kept);
        self.secured.borrow_mut().retain(|_, pool| {
            pool.sweep(now_ms);
            Rc::strong_count(pool) > 1 || !pool.idle.borrow().is_empty()
        });
    }

    /// Whether a kept connection is young enough and silent. If not, it counts no more.
    fn keeps(&self, idle: &Idle, now_ms: u64) -> bool {
        let good = now_ms < idle.expires_ms && silent(&idle.stream);
        if !good {
            self.total.set(self.total.get() - 1);
        }
        good
    }
}

/// Anything but silence is wrong on an idle connection: an end, an error, bytes that no request asked for.
/// With TLS this also takes in the tickets that follow a handshake.
fn silent(stream: &Stream) -> bool {
    stream.is_silent() || stream.poll_recv(&mut Context::from_waker(Waker::noop())).is_pending()
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.idle.get_mut().len());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::reactor::sleep;
    use crate::transport::tests::on_both;
    use crate::transport::trust::{self, Trust};
    use crate::transport::{TlsClient, TlsClients};

    const RULES: KeepalivePool = KeepalivePool { size: 2, idle_timeout_ms: 1000, requests: 3 };

    struct Bench {
        pools: Pools,
        pool: Rc<Pool>,
        listener: TcpListener,
    }

    impl Bench {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let pools = Pools::new();
            let pool = pools.get(&Target { address: listener.local_addr().unwrap(), tls: None });
            Bench { pools, pool, listener }
        }

        /// A connection and its far end.
        async fn connection(&self) -> (Connection, TcpStream) {
            let stream = connect(self.pool.target(), 1000).await.unwrap();
            (Connection::new(stream), self.listener.accept().unwrap().0)
        }
    }

    fn tls_client() -> Rc<TlsClient> {
        TlsClients::new(Trust::Anyone).get(false, None, &[]).unwrap()
    }

    fn secure(client: &Rc<TlsClient>, name: &str) -> Secure {
        Secure { client: client.clone(), name: trust::server_name(name) }
    }

    fn port(connection: &Connection) -> u16 {
        connection.stream.local_addr().unwrap().port()
    }

    #[test]
    fn the_newest_serves_first_and_the_oldest_goes_when_there_are_too_many() {
        on_both(async || {
            let bench = Bench::new();
            let mut ports = Vec::new();
            let mut far_ends = Vec::new();
            for _ in 0..3 {
                let (connection, far_end) = bench.connection().await;
                ports.push(port(&connection));
                far_ends.push(far_end);
                bench.pool.put(connection, &RULES, 0);
            }
            assert_eq!(bench.pools.idle_connections(), 2);
            assert_eq!(port(&bench.pool.take(10).unwrap()), ports[2]);
            assert_eq!(port(&bench.pool.take(10).unwrap()), ports[1]);
            assert!(bench.pool.take(10).is_none());
            assert_eq!(bench.pools.idle_connections(), 0);
        });
    }

    /// What one core keeps has a bound over all upstreams.
    #[test]
    fn a_full_core_keeps_no_more_and_begins_again_when_there_is_room() {
        on_both(async || {
            let bench = Bench::new();
            bench.pools.total.set(limits::IDLE_UPSTREAM_CONNECTIONS);
            let (one_more, _far_end) = bench.connection().await;
            bench.pool.put(one_more, &RULES, 0);
            assert!(bench.pool.take(0).is_none(), "it was closed");
            bench.pools.total.set(limits::IDLE_UPSTREAM_CONNECTIONS - 1);
            let (last, _far_end) = bench.connection().await;
            bench.pool.put(last, &RULES, 0);
            assert!(bench.pool.take(0).is_some());
        });
    }

    /// An upstream may have answered without reading: the next request would stand behind what it does not take.
    #[test]
    fn who_has_not_taken_its_request_gets_no_other() {
        on_both(async || {
            let bench = Bench::new();
            let (connection, _far_end) = bench.connection().await;
            connection.stream.send(vec![b'x'; 64 << 20]); // more than the kernel holds
            sleep(1).await;
            assert!(connection.stream.queued_bytes() > 0);
            bench.pool.put(connection, &RULES, 0);
            assert!(bench.pool.take(0).is_none(), "it was closed");
        });
    }

    /// Who asks under ever new names takes no room from nodes without TLS.
    #[test]
    fn names_fill_half_a_core() {
        on_both(async || {
            let bench = Bench::new();
            let secured = bench.pool.secured(secure(&tls_client(), "one.test"));
            bench.pools.total.set(limits::IDLE_UPSTREAM_CONNECTIONS_OF_NAMES);
            let (of_name, _far_end) = bench.connection().await;
            secured.put(of_name, &RULES, 0);
            assert!(secured.take(0).is_none(), "it was closed");
            let (plain, _far_end) = bench.connection().await;
            bench.pool.put(plain, &RULES, 0);
            assert!(bench.pool.take(0).is_some());
        });
    }

    #[test]
    fn connections_under_a_name_stay_with_their_node_and_end_with_it() {
        on_both(async || {
            let bench = Bench::new();
            let client = tls_client();
            let of = |name| bench.pool.secured(secure(&client, name));
            let (connection, _far_end) = bench.connection().await;
            of("one.test").put(connection, &RULES, 0);
            bench.pools.sweep(10);
            assert!(of("other.test").take(10).is_none(), "another name");
            let other_client = bench.pool.secured(secure(&tls_client(), "one.test"));
            assert!(other_client.take(10).is_none(), "another client certificate");
            let kept = of("one.test").take(10).expect("nobody held its pool");
            of("one.test").put(kept, &RULES, 10);
            let Bench { pools, pool, .. } = bench;
            drop(pool);
            assert_eq!(pools.idle_connections(), 0);
        });
    }

    #[test]
    fn names_that_keep_nothing_are_forgotten() {
        on_both(async || {
            let bench = Bench::new();
            let client = tls_client();
            let (connection, _far_end) = bench.connection().await;
            bench.pool.secured(secure(&client, "kept.test")).put(connection, &RULES, 0);
            let held = bench.pool.secured(secure(&client, "held.test"));
            bench.pool.secured(secure(&client, "gone.test"));
            let names = || bench.pool.secured.borrow().len();
            assert_eq!(names(), 3);
            bench.pools.sweep(10);
            assert_eq!(names(), 2);
            drop(held);
            bench.pools.sweep(RULES.idle_timeout_ms.into());
            assert_eq!((names(), bench.pools.idle_connections()), (0, 0));
            assert_eq!(bench.pools.pools.borrow().len(), 1);
        });
    }

    #[test]
    fn a_connection_serves_its_number_of_requests() {
        on_both(async || {
            let bench = Bench::new();
            let (mut connection, _far_end) = bench.connection().await;
            for request in 2..=3 {
                assert_eq!(connection.reused, request > 2);
                bench.pool.put(connection, &RULES, 0);
                connection = bench.pool.take(0).unwrap();
                assert_eq!(connection.requests, request);
            }
            bench.pool.put(connection, &RULES, 0);
            assert!(bench.pool.take(0).is_none());
        });
    }

    #[test]
    fn old_ones_are_not_used_and_swept() {
        on_both(async || {
            let bench = Bench::new();
            let (old, _far) = bench.connection().await;
            let (young, _near) = bench.connection().await;
            bench.pool.put(old, &RULES, 0);
            bench.pool.put(young, &RULES, 900);
            bench.pools.sweep(1000);
            assert_eq!(bench.pools.idle_connections(), 1);
            assert!(bench.pool.take(1900).is_none());
            let (endless, _far) = bench.connection().await;
            bench.pool.put(endless, &KeepalivePool { idle_timeout_ms: 0, ..RULES }, 0);
            assert!(bench.pool.take(1 << 40).is_some());
        });
    }

    #[test]
    fn a_closed_connection_and_one_with_unasked_bytes_are_dropped() {
        on_both(async || {
            let bench = Bench::new();
            let (closed, far_end) = bench.connection().await;
            let (talking, mut talker) = bench.connection().await;
            bench.pool.put(closed, &RULES, 0);
            bench.pool.put(talking, &RULES, 0);
            drop(far_end);
            talker.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").unwrap();
            sleep(30).await;
            assert!(bench.pool.take(0).is_none());
            assert_eq!(bench.pools.idle_connections(), 0);
        });
    }

    #[test]
    fn lasting_pools_live_as_long_as_they_keep_connections() {
        on_both(async || {
            let bench = Bench::new();
            let Bench { pools, pool, listener } = bench;
            let target = pool.target().clone();
            let stream = connect(&target, 1000).await.unwrap();
            let _far_end = listener.accept().unwrap().0;
            drop(pool);
            pools.lasting(&target).put(Connection::new(stream), &RULES, 0);
            let nothing_kept = Target { address: "127.0.0.1:1".parse().unwrap(), tls: None };
            pools.lasting(&nothing_kept);
            pools.sweep(10);
            assert_eq!((pools.lasting.borrow().len(), pools.idle_connections()), (1, 1));
            let kept = pools.lasting(&target).take(10).expect("nobody held its pool");
            pools.sweep(20);
            assert!(pools.lasting.borrow().is_empty());
            pools.lasting(&target).put(kept, &RULES, 20);
            pools.sweep(20 + u64::from(RULES.idle_timeout_ms));
            assert_eq!((pools.lasting.borrow().len(), pools.idle_connections()), (0, 0));
        });
    }

    #[test]
    fn so_many_lasting_pools_are_held() {
        let pools = Pools::new();
        let to = |port: usize| Target { address: ([127, 0, 0, 1], port as u16).into(), tls: None };
        let first = Rc::downgrade(&pools.lasting(&to(1)));
        let second = Rc::downgrade(&pools.lasting(&to(2)));
        (3..=limits::LASTING_POOLS).for_each(|port| drop(pools.lasting(&to(port))));
        pools.lasting(&to(1));
        pools.lasting(&to(limits::LASTING_POOLS + 1));
        assert_eq!(pools.lasting.borrow().len(), limits::LASTING_POOLS);
        assert_eq!((first.strong_count(), second.strong_count()), (1, 0), "it was asked for again");
    }

    #[test]
    fn one_target_has_one_pool_and_a_dropped_pool_closes_its_connections() {
        on_both(async || {
            let bench = Bench::new();
            assert!(Rc::ptr_eq(&bench.pool, &bench.pools.get(bench.pool.target())));
            let other = Target { address: "127.0.0.1:1".parse().unwrap(), tls: None };
            assert!(!Rc::ptr_eq(&bench.pool, &bench.pools.get(&other)));
            let (connection, _far_end) = bench.connection().await;
            bench.pool.put(connection, &RULES, 0);
            let Bench { pools, pool, .. } = bench;
            drop(pool);
            assert_eq!(pools.idle_connections(), 0);
        });
    }
}
