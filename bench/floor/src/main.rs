//! `floor LISTEN UPSTREAM [--core N] [--buffers N] [--size BYTES]`: a layer-4 byte copy between each client
//! connection and one upstream connection of its own, on one thread and one io_uring.
//!
//! It is the floor of the tables in `perf/`: it reads no byte that it passes on, so what it costs is what the
//! kernel's TCP and one completion loop cost. A gateway's figure divided by this one is what its own work adds.
//!
//! One limit of the comparison: a layer-4 proxy cannot see where a request ends, so it can neither share upstream
//! connections between clients nor keep one after its client left. In the `newconn` case it therefore opens an
//! upstream connection for each client connection, which a keep-alive HTTP proxy does not.

use std::io;
use std::net::SocketAddrV4;

use floor::buffers::Buffers;
use floor::ring::Ring;
use floor::socket;

mod pair;
mod proxy;

/// What the command line says.
struct Options {
    listen: SocketAddrV4,
    upstream: SocketAddrV4,
    core: Option<usize>,
    buffers: u16,
    size: usize,
}

fn options() -> Result<Options, String> {
    let mut arguments = std::env::args().skip(1);
    let mut address = |what: &str| -> Result<SocketAddrV4, String> {
        let text = arguments.next().ok_or(format!("{what} is missing"))?;
        text.parse().map_err(|e| format!("{what} {text}: {e}"))
    };
    let (listen, upstream) = (address("LISTEN")?, address("UPSTREAM")?);
    let mut options = Options { listen, upstream, core: None, buffers: 1024, size: 64 << 10 };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} wants a value"))?;
        let number: usize = value.parse().map_err(|e| format!("{name} {value}: {e}"))?;
        match name.as_str() {
            "--core" => options.core = Some(number),
            "--buffers" => options.buffers = number.clamp(2, 1 << 15).next_power_of_two() as u16,
            "--size" => options.size = number.clamp(64, 1 << 20),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    Ok(options)
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|problem| {
        eprintln!("{problem}\nusage: floor LISTEN UPSTREAM [--core N] [--buffers N] [--size BYTES]");
        std::process::exit(2);
    });
    if let Some(core) = options.core {
        socket::pin(core)?;
    }
    socket::raise_open_files()?;
    let ring = Ring::new()?;
    let buffers = Buffers::register(&ring, options.buffers, options.size)?;
    let listener = socket::listen(options.listen)?;
    proxy::Proxy::new(ring, buffers, listener, options.upstream).run()
}
