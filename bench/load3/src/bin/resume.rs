//! `resume HOST:PORT PATH [--connections C] [--seconds S] [--full]`
//!
//! A closed loop of TLS 1.3 handshakes: each of C threads connects, resumes the session of its last connection (with
//! `--full`: none), makes one request with `Connection: close`, and connects again, for S seconds. Prints one JSON object.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

#[path = "../trusting.rs"]
mod trusting;

use trusting::Trusting;

/// The name asked for, in SNI and `Host`.
const NAME: &str = "bench.test";
const PATIENCE: Duration = Duration::from_secs(10);

struct Options {
    server: SocketAddr,
    path: String,
    connections: usize,
    length: Duration,
    full: bool,
}

fn options() -> Option<Options> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next()?.parse().ok()?;
    let path = arguments.next()?;
    let mut options = Options { server, path, connections: 16, length: Duration::from_secs(3), full: false };
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--full" => options.full = true,
            "--connections" => options.connections = arguments.next()?.parse().ok().filter(|n| *n > 0)?,
            "--seconds" => {
                options.length = Duration::try_from_secs_f64(arguments.next()?.parse().ok()?).ok()?
            }
            _ => return None,
        }
    }
    Some(options)
}

/// Answers so far: on full handshakes, on resumed ones, and none.
#[derive(Default)]
struct Counted {
    full: u64,
    resumed: u64,
    failed: u64,
}

fn config(full: bool) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = trusting::provider();
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    if full {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// One connection with one request; says whether its session was resumed.
fn exchange(options: &Options, config: &Arc<ClientConfig>) -> io::Result<bool> {
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let tcp = TcpStream::connect(options.server)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut stream =
        StreamOwned::new(ClientConnection::new(config.clone(), name).map_err(io::Error::other)?, tcp);
    let head = format!("GET {} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n", options.path);
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error), // a close without close_notify
        _ => {}
    }
    match answer.starts_with(b"HTTP/1.1 200") {
        true => Ok(stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn run(options: &Options, until: Instant) -> Counted {
    let mut counted = Counted::default();
    let Ok(config) = config(options.full) else { return counted };
    while Instant::now() < until {
        match exchange(options, &config) {
            Ok(true) => counted.resumed += 1,
            Ok(false) => counted.full += 1,
            Err(_) => counted.failed += 1,
        }
    }
    counted
}

fn main() {
    let Some(options) = options() else {
        eprintln!("usage: resume HOST:PORT PATH [--connections C] [--seconds S] [--full]");
        std::process::exit(2);
    };
    let begun = Instant::now();
    let until = begun + options.length;
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..options.connections).map(|_| scope.spawn(|| run(&options, until))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).fold(Counted::default(), |sum, one| {
            Counted {
                full: sum.full + one.full,
                resumed: sum.resumed + one.resumed,
                failed: sum.failed + one.failed,
            }
        })
    });
    let Counted { full, resumed, failed } = all;
    let rate = (full + resumed) as f64 / begun.elapsed().as_secs_f64();
    println!("{{\"full\": {full}, \"resumed\": {resumed}, \"failed\": {failed}, \"rps\": {rate:.1}}}");
}
