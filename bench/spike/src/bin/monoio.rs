//! Candidates b and c: monoio as it is, and with `--flags` on a ring with `SINGLE_ISSUER|DEFER_TASKRUN`.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddrV4;
use std::ops::Deref;
use std::rc::Rc;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use spike::exchange::{Pool, Wire, serve};

/// Size of a receive buffer in bytes; a 64 KiB body arrives in one or two.
const SIZE: usize = 64 << 10;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

struct Chunk(Vec<u8>);

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| free.push(std::mem::take(&mut self.0)));
    }
}

struct Stream(TcpStream);

impl Wire for Stream {
    type Chunk = Chunk;

    async fn connect(to: SocketAddrV4) -> io::Result<Stream> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Stream(stream))
    }

    async fn read(&mut self) -> io::Result<Chunk> {
        let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SIZE));
        buffer.clear();
        let (result, buffer) = self.0.read(buffer).await;
        result.map(|_| Chunk(buffer))
    }

    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let (result, mut bytes) = self.0.write_all(bytes).await;
        bytes.clear();
        result.map(|_| bytes)
    }

    async fn pass(&mut self, mut chunk: Chunk) -> io::Result<()> {
        let (result, bytes) = self.0.write_all(std::mem::take(&mut chunk.0)).await;
        chunk.0 = bytes;
        result.map(|_| ())
    }
}

async fn run(listen: SocketAddrV4, upstream: SocketAddrV4) {
    let pool = Rc::new(Pool::<Stream>::new(upstream));
    let options = ListenerOpts::new().backlog(4096).reuse_port(false);
    let listener = TcpListener::bind_with_config(listen, &options).expect("listen");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let pool = pool.clone();
        monoio::spawn(async move {
            if stream.set_nodelay(true).is_ok() {
                let _ = serve(Stream(stream), &pool).await;
            }
        });
    }
}

fn main() -> io::Result<()> {
    let options = spike::options::read();
    if let Some(core) = options.core {
        floor::socket::pin(core)?;
    }
    floor::socket::raise_open_files()?;
    let mut ring = io_uring_06::IoUring::builder();
    if options.flags {
        ring.setup_single_issuer().setup_defer_taskrun();
    }
    ring.setup_cqsize(16384);
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(4096)
        .build()?;
    runtime.block_on(run(options.listen, options.upstream));
    Ok(())
}
