//! `load3 HOST:PORT PATH [--connections C] [--streams M] [--seconds S] [--header 'Name: value'] [--rebind | --hold]`
//!
//! A closed loop over HTTP/3: each of C connections keeps M requests under way for S seconds. Prints one JSON object.
//!
//! `--rebind`: each connection makes a request, moves to a new port and makes another one; `survived` counts the
//! second answers. `--hold`: each connection makes one request and stays until standard input ends; a line `held`
//! says that all are there.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

mod connection;
mod endpoint;
mod http3;
mod trusting;

use endpoint::Endpoint;

/// Not counted: connections open, windows grow.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longest wait for the first or the last answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that are to stay begin so many at a time: what is measured is what each of them holds, not what thousands of
/// handshakes at once need.
const SLICE: usize = 16;

struct Options {
    server: SocketAddr,
    request: Vec<u8>,
    connections: usize,
    streams: usize,
    length: Duration,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Load,
    Rebind,
    Hold,
}

fn options() -> Option<Options> {
    let mut arguments = std::env::args().skip(1);
    let server: SocketAddr = arguments.next()?.parse().ok()?;
    let path = arguments.next()?;
    let mut headers = Vec::new();
    let (mut connections, mut streams, mut length, mut mode) = (10, 100, Duration::from_secs(3), Mode::Load);
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--rebind" => mode = Mode::Rebind,
            "--hold" => mode = Mode::Hold,
            "--connections" => connections = arguments.next()?.parse().ok().filter(|count| *count > 0)?,
            "--streams" => streams = arguments.next()?.parse().ok().filter(|count| *count > 0)?,
            "--seconds" => length = Duration::try_from_secs_f64(arguments.next()?.parse().ok()?).ok()?,
            "--header" => {
                let header = arguments.next()?;
                let (name, value) = header.split_once(':')?;
                headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => return None,
        }
    }
    let request = http3::request(endpoint::NAME, &path, &headers);
    Some(Options { server, request, connections, streams, length, mode })
}

fn main() -> io::Result<()> {
    let Some(options) = options() else {
        eprintln!(
            "usage: load3 HOST:PORT PATH [--connections C] [--streams M] [--seconds S] [--header H] [--rebind|--hold]"
        );
        std::process::exit(2);
    };
    let mut endpoint = Endpoint::new(options.server, options.request)?;
    if options.mode != Mode::Hold {
        endpoint.open(options.connections)?;
    }
    match options.mode {
        Mode::Load => load(&mut endpoint, options.streams, options.length),
        Mode::Rebind => rebind(&mut endpoint),
        Mode::Hold => hold(&mut endpoint, options.connections),
    }
}

fn load(endpoint: &mut Endpoint, streams: usize, length: Duration) -> io::Result<()> {
    endpoint.keep_under_way(streams);
    endpoint.run_until(Instant::now() + WARM_UP, |_| false)?;
    let (before, begin) = (endpoint.counted, Instant::now());
    endpoint.run_until(begin + length, |_| false)?;
    let took_s = begin.elapsed().as_secs_f64();
    let counted = endpoint.counted;
    let good = counted.good - before.good;
    println!(
        r#"{{"requests": {good}, "rps": {:.1}, "other_status": {}, "failed": {}, "lost_connections": {}, "body_bytes": {}, "bit_s": {:.0}}}"#,
        good as f64 / took_s,
        counted.other - before.other,
        counted.failed - before.failed,
        counted.lost,
        counted.body_bytes - before.body_bytes,
        (counted.body_bytes - before.body_bytes) as f64 * 8.0 / took_s,
    );
    Ok(())
}

/// One request on every connection but the first `others`; true when all were answered.
fn one_each(endpoint: &mut Endpoint, others: usize) -> io::Result<bool> {
    let goal = endpoint.counted.good + (endpoint.connections() - others) as u64;
    endpoint.ask_once(others);
    endpoint.run_until(Instant::now() + PATIENCE, |counted| counted.good + counted.lost >= goal)?;
    Ok(endpoint.counted.good >= goal)
}

fn rebind(endpoint: &mut Endpoint) -> io::Result<()> {
    if !one_each(endpoint, 0)? {
        return Err(io::Error::other(format!("before the move: {:?}", endpoint.counted)));
    }
    let before = endpoint.counted.good;
    endpoint.rebind()?;
    one_each(endpoint, 0)?;
    let survived = endpoint.counted.good - before;
    println!(r#"{{"connections": {}, "survived": {survived}}}"#, endpoint.connections());
    Ok(())
}

fn hold(endpoint: &mut Endpoint, count: usize) -> io::Result<()> {
    while endpoint.connections() < count {
        let before = endpoint.connections();
        endpoint.open(SLICE.min(count - before))?;
        if !one_each(endpoint, before)? {
            return Err(io::Error::other(format!("not all were answered: {:?}", endpoint.counted)));
        }
    }
    println!("held");
    let ended = std::thread::spawn(|| io::copy(&mut io::stdin(), &mut io::sink()));
    while !ended.is_finished() {
        endpoint.run_until(Instant::now() + Duration::from_millis(100), |_| false)?;
    }
    Ok(())
}
