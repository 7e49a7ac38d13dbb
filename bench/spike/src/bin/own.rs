//! Candidate e: ringway's own driver, `src/reactor`, taken in by its source so that this builds without the gateway.
//! `--flags` has no meaning here: it always asks for them.

use std::io;
use std::net::SocketAddrV4;
use std::rc::Rc;

use spike::exchange::{Pool, Wire, serve};

#[allow(dead_code, unused_imports)] // the gateway's bounds; this uses the reactor's
#[path = "../../../../src/limits/mod.rs"]
mod limits;
#[allow(dead_code, unused_imports)] // the gateway uses the rest
#[path = "../../../../src/reactor/mod.rs"]
mod reactor;

use reactor::{Chunk, Config, Driver, ListenOptions, Listener, TcpStream};

/// Longest wait for a connect in milliseconds.
const CONNECT_MS: u32 = 5000;

/// Bytes that may wait for a slow receiver.
const QUEUED: usize = 64 << 10;

struct Stream(TcpStream);

impl Wire for Stream {
    type Chunk = Chunk;

    async fn connect(to: SocketAddrV4) -> io::Result<Stream> {
        TcpStream::connect(to.into(), CONNECT_MS).await.map(Stream)
    }

    async fn read(&mut self) -> io::Result<Chunk> {
        self.0.recv().await
    }

    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        self.0.send(bytes);
        Ok(reactor::take_buffer())
    }

    async fn pass(&mut self, chunk: Chunk) -> io::Result<()> {
        self.0.send(chunk);
        // Chunks that came in one turn leave in one send; only then is the sender held back.
        if self.0.queued_bytes() < QUEUED { Ok(()) } else { self.0.flush().await }
    }

    fn streams(&mut self, body: bool) {
        self.0.expect_bulk(body);
    }
}

async fn run(listen: SocketAddrV4, upstream: SocketAddrV4) -> io::Result<()> {
    let pool = Rc::new(Pool::<Stream>::new(upstream));
    let listener = Listener::bind(listen.into(), ListenOptions::default())?;
    loop {
        let Ok(accepted) = listener.accept().await else { continue };
        let Ok(stream) = TcpStream::from_fd(accepted.into()) else { continue };
        let pool = pool.clone();
        reactor::spawn(async move {
            let _ = serve(Stream(stream), &pool).await;
        });
    }
}

fn main() -> io::Result<()> {
    let options = spike::options::read();
    if let Some(core) = options.core {
        floor::socket::pin(core)?;
    }
    floor::socket::raise_open_files()?;
    let config = Config { driver: Driver::Uring, ..Config::default() };
    reactor::block_on(config, |_| run(options.listen, options.upstream))?
}
