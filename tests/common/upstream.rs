//! Upstreams that do what a test tells them, and remember what they got.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{PATIENCE, eventually, free_port};

/// A request as an upstream got it.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Request line and fields, as they came.
    pub head: String,
    pub headers: Vec<(String, String)>,
    /// Without its chunk framing.
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Which of the upstream's connections it came by, from 0.
    pub connection: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
}

/// One connection, on the upstream's side.
pub struct Conn {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    /// Its number, from 0.
    pub number: usize,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Conn {
    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 64 << 10];
        let n = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark) {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            if !matches!(self.fill(), Ok(1..)) {
                return None;
            }
        }
    }

    /// The next head, its body unread. `None`: the connection has ended.
    pub fn head(&mut self) -> Option<Request> {
        let head = String::from_utf8_lossy(&self.until(b"\r\n\r\n")?).into_owned();
        let mut words = head.split(' ');
        let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let headers = fields.map(|(name, value)| (name.to_string(), value.trim().to_string())).collect();
        let (body, trailers, connection) = (Vec::new(), Vec::new(), self.number);
        Some(Request { method, target, head, headers, body, trailers, connection })
    }

    /// The next request with its body; it is remembered.
    pub fn request(&mut self) -> Option<Request> {
        let mut request = self.head()?;
        if request.header("transfer-encoding").is_some() {
            loop {
                let line = self.until(b"\r\n")?;
                let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
                if size == 0 {
                    break;
                }
                while self.buffer.len() < size + 2 {
                    self.fill().ok().filter(|n| *n > 0)?;
                }
                request.body.extend(self.buffer.drain(..size));
                self.buffer.drain(..2);
            }
            loop {
                let line = self.until(b"\r\n")?;
                let line = String::from_utf8_lossy(&line).trim_end().to_string();
                let Some((name, value)) = line.split_once(':') else { break };
                request.trailers.push((name.to_string(), value.trim().to_string()));
            }
        } else if let Some(length) = request.header("content-length").and_then(|v| v.parse().ok()) {
            while self.buffer.len() < length {
                self.fill().ok().filter(|n| *n > 0)?;
            }
            request.body = self.buffer.drain(..length).collect();
        }
        self.seen.lock().unwrap().push(request.clone());
        Some(request)
    }

    /// Remembers a request that was read in another way.
    pub fn remember(&self, request: &Request) {
        self.seen.lock().unwrap().push(request.clone());
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Reads and drops so many bytes behind the last head. False: the other side has closed before.
    pub fn skip(&mut self, bytes: usize) -> bool {
        let here = self.buffer.len().min(bytes);
        self.buffer.drain(..here);
        let mut left = bytes - here;
        let mut piece = vec![0; 256 << 10];
        while left > 0 {
            let most = left.min(piece.len());
            match self.stream.read(&mut piece[..most]) {
                Ok(n @ 1..) => left -= n,
                _ => return false,
            }
        }
        true
    }

    /// Reads and counts what comes until the other side closes.
    pub fn drain(&mut self) -> usize {
        let mut n = self.buffer.len();
        self.buffer.clear();
        while let Ok(more @ 1..) = self.fill() {
            n += more;
            self.buffer.clear();
        }
        n
    }

    pub fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A 200 with this body.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/x-test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Where a script waits for its test.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    /// Lets one through, now or later.
    pub fn let_one_pass(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = usize::MAX / 2;
        self.0.1.notify_all();
    }

    /// Waits to be let through, but not for ever.
    pub fn pass(&self) {
        let (passes, changed) = &*self.0;
        let (mut passes, _) =
            changed.wait_timeout_while(passes.lock().unwrap(), PATIENCE, |passes| *passes == 0).unwrap();
        *passes = passes.saturating_sub(1);
    }
}

/// A server on a port of its own; each connection is served by a thread that runs the test's script.
pub struct Upstream {
    pub port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Upstream {
    /// Runs `script` for each connection; the connection is closed when it returns.
    pub fn start(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Upstream {
        Upstream::start_on(free_port(), script)
    }

    /// The port may be that of a server just ended, which a program being started still holds open for a moment.
    pub fn start_on(port: u16, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Upstream {
        let mut listener = None;
        eventually("the upstream's port is free", || {
            listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
            listener.is_some()
        });
        let listener = listener.unwrap();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let ended: Arc<AtomicBool> = Arc::default();
        let upstream =
            Upstream { port, seen: seen.clone(), connections: connections.clone(), ended: ended.clone() };
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let number = connections.fetch_add(1, Ordering::AcqRel);
                let (seen, script) = (seen.clone(), script.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let _ = stream.set_read_timeout(Some(3 * PATIENCE));
                    let mut conn = Conn { stream, buffer: Vec::new(), number, seen };
                    script(&mut conn);
                });
            }
        });
        upstream
    }

    /// Gives every request the same answer.
    pub fn answering(answer: impl AsRef<[u8]> + Send + Sync + 'static) -> Upstream {
        Upstream::start(move |conn| {
            while conn.request().is_some() {
                if conn.send(&answer).is_err() {
                    return;
                }
            }
        })
    }

    /// Answers with the status that the request's path begins with: `/404`.
    pub fn with_statuses() -> Upstream {
        Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                let status = &request.target[1..4];
                if conn.send(format!("HTTP/1.1 {status} Told\r\nContent-Length: 0\r\n\r\n")).is_err() {
                    return;
                }
            }
        })
    }

    /// Takes requests and never answers.
    pub fn silent() -> Upstream {
        Upstream::start(|conn| while conn.request().is_some() {})
    }

    /// Answers when the gate lets it.
    pub fn held(body: &'static str) -> (Upstream, Gate) {
        let gate = Gate::default();
        let own = gate.clone();
        let upstream = Upstream::start(move |conn| {
            while conn.request().is_some() {
                own.pass();
                if conn.send(ok(body)).is_err() {
                    return;
                }
            }
        });
        (upstream, gate)
    }

    /// Gives every request the same answer, and remembers nothing: for runs without end.
    pub fn answering_unseen(answer: impl AsRef<[u8]> + Send + Sync + 'static) -> Upstream {
        Upstream::start(move |conn| {
            while conn.request().is_some() {
                conn.seen.lock().unwrap().clear();
                if conn.send(&answer).is_err() {
                    return;
                }
            }
        })
    }

    /// Switches protocols at the first request, and says nothing more.
    pub fn switching() -> Upstream {
        Upstream::start(|conn| {
            conn.request();
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
            let _ = conn.send(head);
            conn.drain();
        })
    }

    /// Gives each request its own head back as a body.
    pub fn mirror() -> Upstream {
        Upstream::start(|conn| {
            while let Some(request) = conn.request() {
                if conn.send(ok(&request.head)).is_err() {
                    return;
                }
            }
        })
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The last request so far.
    #[track_caller]
    pub fn last(&self) -> Request {
        self.seen.lock().unwrap().last().expect("a request reached the upstream").clone()
    }

    /// Waits until so many requests have come.
    #[track_caller]
    pub fn wait_for(&self, requests: usize) {
        eventually(&format!("{requests} requests at the upstream"), || self.requests().len() >= requests);
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// A server whose backlog is full: the kernel answers no further SYN.
pub fn deaf() -> (socket2::Socket, u16, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
    }
    (socket, address.port(), waiting)
}
