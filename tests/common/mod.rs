//! What the end-to-end tests are made of: the gateway as a user starts it, a client that sends exactly the
//! bytes it is given, upstreams that do what they are told, and real servers.
#![allow(dead_code, unused_imports)] // each file of tests/ uses its part

mod client;
pub mod frames;
mod gateway;
mod h2_client;
mod kafka;
pub mod pubsub;
mod pki;
mod servers;
pub mod streams;
mod upstream;

pub use client::{Client, Response, ask, get, request};
pub use gateway::{Gateway, KEY, Setup, Source, drivers, everything_to, limit_for};
pub use h2_client::with_h2;
pub use kafka::{KAFKA_4, Kafka};
pub use pki::Pki;
pub use servers::{Etcd, Nginx, Redis, name_server, redis_cli};
pub use upstream::{Conn, Gate, Request, Upstream, deaf, ok};

use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Where `tests/run` puts Python's packages.
pub const PYTHON: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/python/bin/python");

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test on io_uring and on epoll, those that this host allows.
pub fn on_both_drivers(test: impl Fn(&'static str)) {
    for driver in drivers() {
        println!("driver {driver}");
        test(driver);
    }
}

/// A port that nothing listens on. It lies below the range from which the kernel takes the ports of outgoing
/// connections, so none of those can take it meanwhile. It is asked for by connecting: a listener opened to try it
/// would live on for a moment in each program that another thread is just starting.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = (std::process::id() % 240) as u16 * 50;
    loop {
        let port = 20_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            return port;
        }
    }
}

/// Runs one of `tests/clients/` with the packages that `tests/run` has installed; it ends well.
#[track_caller]
pub fn python(script: &str, arguments: &[&dyn ToString]) {
    let done = Command::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/python/bin/python"))
        .arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")))
        .args(arguments.iter().map(|argument| argument.to_string()))
        .output()
        .expect("Python's packages are installed (tests/run does it)");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script} with {}:\n{errors}", done.status);
}

/// Asks again and again, until the answer is yes or patience ends.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
