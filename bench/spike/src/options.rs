//! `LISTEN UPSTREAM [--core N] [--flags]`, the command line of each candidate.

use std::net::SocketAddrV4;

pub struct Options {
    pub listen: SocketAddrV4,
    pub upstream: SocketAddrV4,
    pub core: Option<usize>,
    /// Ask for `SINGLE_ISSUER|DEFER_TASKRUN` where that is a choice.
    pub flags: bool,
}

/// Reads the command line, or ends the process with the usage.
pub fn read() -> Options {
    parse().unwrap_or_else(|| {
        eprintln!("usage: LISTEN UPSTREAM [--core N] [--flags]");
        std::process::exit(2)
    })
}

fn parse() -> Option<Options> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next()?.parse().ok()?;
    let upstream = arguments.next()?.parse().ok()?;
    let mut options = Options { listen, upstream, core: None, flags: false };
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--core" => options.core = Some(arguments.next()?.parse().ok()?),
            "--flags" => options.flags = true,
            _ => return None,
        }
    }
    Some(options)
}
