//! `load HOST:PORT PATH --rate R --seconds S --connections C [--header 'Name: value']`
//!
//! An open loop: each connection has a schedule, and a latency is counted from the moment its request was due, not
//! from the moment it could be sent. A server that stalls is charged for every request that it kept waiting
//! (wrk2's way of counting; a closed loop omits exactly those). Prints one JSON object, latencies in µs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

mod answer;
mod epoll;

use answer::Answer;
use epoll::Epoll;

/// Not counted: connections warm up, pools fill.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longest wait for the last answers after the schedule has ended.
const GRACE: Duration = Duration::from_secs(5);

struct Options {
    server: SocketAddr,
    request: Vec<u8>,
    rate: f64,
    length: Duration,
    connections: u32,
}

fn options() -> Option<Options> {
    let mut arguments = std::env::args().skip(1);
    let server: SocketAddr = arguments.next()?.parse().ok()?;
    let path = arguments.next()?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n");
    let (mut rate, mut length, mut connections) = (1000.0, Duration::from_secs(3), 64);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--rate" => rate = value.parse().ok().filter(|rate| *rate > 0.0)?,
            "--seconds" => length = Duration::try_from_secs_f64(value.parse().ok()?).ok()?,
            "--connections" => connections = value.parse().ok().filter(|count| *count > 0)?,
            "--header" => request.push_str(&format!("{value}\r\n")),
            _ => return None,
        }
    }
    request.push_str("\r\n");
    Some(Options { server, request: request.into_bytes(), rate, length: length + WARM_UP, connections })
}

/// One connection: when its next request is due, and the due time of the one it waits for.
struct Connection {
    stream: TcpStream,
    due: Instant,
    waiting: Option<Instant>,
    answer: Answer,
}

impl Connection {
    fn open(options: &Options, due: Instant) -> io::Result<Connection> {
        let stream = TcpStream::connect(options.server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Connection { stream, due, waiting: None, answer: Answer::default() })
    }

    /// Sends the request that is due, unless one is still unanswered: then it goes, late, after that answer.
    fn send_due(&mut self, options: &Options, now: Instant, end: Instant) -> io::Result<()> {
        if self.waiting.is_some() || self.due > now || self.due >= end {
            return Ok(());
        }
        self.waiting = Some(self.due);
        self.due += Duration::from_secs_f64(f64::from(options.connections) / options.rate);
        // A request is far smaller than a socket buffer that is empty between exchanges.
        self.stream.write_all(&options.request)
    }

    /// Reads what is there; gives the due time of the request when its answer is whole.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Instant>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    if self.answer.feed(&buffer[..length])? {
                        self.answer = Answer::default();
                        return Ok(self.waiting.take());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

fn run(options: &Options) -> io::Result<Vec<u32>> {
    let epoll = Epoll::new()?;
    let begin = Instant::now() + Duration::from_millis(50);
    let end = begin + options.length;
    let mut connections = Vec::new();
    for number in 0..options.connections {
        // Spread evenly: the connections' schedules together are one request every 1/rate.
        let due = begin + Duration::from_secs_f64(f64::from(number) / options.rate);
        let connection = Connection::open(options, due)?;
        epoll.add(connection.stream.as_raw_fd(), number)?;
        connections.push(connection);
    }
    let mut latencies = Vec::with_capacity((options.rate * options.length.as_secs_f64()) as usize + 1);
    let mut buffer = vec![0; 256 << 10];
    let mut ready = Vec::new();
    loop {
        let mut now = Instant::now();
        for connection in &mut connections {
            connection.send_due(options, now, end)?;
        }
        let next = connections.iter().filter(|c| c.waiting.is_none() && c.due < end).map(|c| c.due).min();
        let unanswered = connections.iter().any(|c| c.waiting.is_some());
        if (next.is_none() && !unanswered) || now > end + GRACE {
            break;
        }
        now = Instant::now();
        let patience = next.map_or(GRACE, |due| due.saturating_duration_since(now));
        epoll.wait(patience, &mut ready)?;
        for number in ready.drain(..) {
            let connection = &mut connections[number as usize];
            let Some(due) = connection.receive(&mut buffer)? else { continue };
            let now = Instant::now();
            if due >= begin + WARM_UP {
                latencies.push(now.duration_since(due).as_nanos().min(u128::from(u32::MAX)) as u32);
            }
            connection.send_due(options, now, end)?;
        }
    }
    if connections.iter().any(|c| c.waiting.is_some()) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(latencies)
}

fn quantile_us(sorted: &[u32], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    f64::from(sorted[index]) / 1000.0
}

fn main() {
    let Some(options) = options() else {
        eprintln!("usage: load HOST:PORT PATH --rate R --seconds S --connections C [--header 'Name: value']");
        std::process::exit(2);
    };
    let mut latencies = run(&options).unwrap_or_else(|error| {
        eprintln!("{}: {error}", options.server);
        std::process::exit(1);
    });
    if latencies.is_empty() {
        eprintln!("nothing was measured: the run is too short for the rate");
        std::process::exit(1);
    }
    latencies.sort_unstable();
    let counted = latencies.len() as f64 / (options.length - WARM_UP).as_secs_f64();
    println!(
        r#"{{"rps":{counted:.1},"p50_us":{:.1},"p99_us":{:.1},"p999_us":{:.1},"max_us":{:.1}}}"#,
        quantile_us(&latencies, 0.5),
        quantile_us(&latencies, 0.99),
        quantile_us(&latencies, 0.999),
        quantile_us(&latencies, 1.0),
    );
}
