//! Candidate d: monoio with `SINGLE_ISSUER|DEFER_TASKRUN` and a patch that adds multishot receives over provided
//! buffers (`perf/0001-monoio-multishot.patch`). Build with `--features patched` and a `[patch.crates-io]` on it.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddrV4;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use floor::buffers::{Buffers, GROUP};
use monoio::buf::RawBuf;
use monoio::io::AsyncWriteRentExt;
use monoio::multishot::{Receive, register};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use spike::exchange::{Pool, Wire, serve};

/// Number and size in bytes of the provided buffers.
const COUNT: u16 = 1024;
const SIZE: usize = 64 << 10;

thread_local! {
    static BUFFERS: RefCell<Option<Buffers>> = const { RefCell::new(None) };
}

fn recycle(buffer: u16) {
    BUFFERS.with_borrow_mut(|buffers| {
        if let Some(buffers) = buffers {
            buffers.recycle(buffer);
        }
    });
}

/// A provided buffer, given back when dropped. Without one: the end of the stream.
struct Chunk {
    buffer: Option<u16>,
    start: *const u8,
    length: usize,
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel wrote `length` bytes there and leaves them alone until `recycle`.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer {
            recycle(buffer);
        }
    }
}

/// `receive` goes first: it must not outlive the descriptor it receives on.
struct Stream {
    receive: Receive,
    stream: TcpStream,
}

impl Stream {
    fn new(stream: TcpStream) -> io::Result<Stream> {
        stream.set_nodelay(true)?;
        Ok(Stream { receive: Receive::new(stream.as_raw_fd()), stream })
    }
}

impl Wire for Stream {
    type Chunk = Chunk;

    async fn connect(to: SocketAddrV4) -> io::Result<Stream> {
        Stream::new(TcpStream::connect(to).await?)
    }

    async fn read(&mut self) -> io::Result<Chunk> {
        let Some((buffer, length)) = self.receive.next().await? else {
            return Ok(Chunk { buffer: None, start: [].as_ptr(), length: 0 });
        };
        let start = BUFFERS.with_borrow(|buffers| buffers.as_ref().map(|buffers| buffers.start(buffer)));
        let start = start.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Chunk { buffer: Some(buffer), start, length })
    }

    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let (result, mut bytes) = self.stream.write_all(bytes).await;
        bytes.clear();
        result.map(|_| bytes)
    }

    async fn pass(&mut self, chunk: Chunk) -> io::Result<()> {
        // SAFETY: `chunk` is held until the write is done.
        let (result, _) = self.stream.write_all(unsafe { RawBuf::new(chunk.start, chunk.length) }).await;
        result.map(|_| ())
    }
}

async fn run(listen: SocketAddrV4, upstream: SocketAddrV4) -> io::Result<()> {
    let buffers = Buffers::new(COUNT, SIZE)?;
    // SAFETY: the buffers live in the thread's storage as long as the thread and are never unmapped.
    unsafe { register(buffers.address(), COUNT, GROUP, recycle)? };
    BUFFERS.set(Some(buffers));
    let pool = Rc::new(Pool::<Stream>::new(upstream));
    let options = ListenerOpts::new().backlog(4096).reuse_port(false);
    let listener = TcpListener::bind_with_config(listen, &options)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let Ok(stream) = Stream::new(stream) else { continue };
        let pool = pool.clone();
        monoio::spawn(async move {
            let _ = serve(stream, &pool).await;
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
    ring.setup_single_issuer().setup_defer_taskrun().setup_cqsize(16384);
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .uring_builder(ring)
        .with_entries(4096)
        .build()?;
    runtime.block_on(run(options.listen, options.upstream))
}
