//! The exchange as futures: read a request, take an upstream connection, pass both messages on. Generic over the
//! reactor's connection.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddrV4;
use std::ops::Deref;

use crate::http::{self, Parse};

/// A connection of one reactor.
#[allow(async_fn_in_trait)]
pub trait Wire: Sized {
    /// Bytes read, in a buffer that goes back to where it came from when dropped.
    type Chunk: Deref<Target = [u8]>;
    async fn connect(to: SocketAddrV4) -> io::Result<Self>;
    /// Empty at the end of the stream.
    async fn read(&mut self) -> io::Result<Self::Chunk>;
    /// Writes all of `bytes`, and gives the buffer back empty.
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>>;
    /// Writes a chunk as it is.
    async fn pass(&mut self, chunk: Self::Chunk) -> io::Result<()>;
    /// More of a body than came with its head is about to be read (or was); a reactor may take larger buffers.
    fn streams(&mut self, _body: bool) {}
}

/// Idle upstream connections, last in first out.
pub struct Pool<W> {
    upstream: SocketAddrV4,
    idle: RefCell<Vec<W>>,
}

impl<W: Wire> Pool<W> {
    pub fn new(upstream: SocketAddrV4) -> Pool<W> {
        Pool { upstream, idle: RefCell::new(Vec::new()) }
    }

    async fn take(&self) -> io::Result<W> {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some(wire) => Ok(wire),
            None => W::connect(self.upstream).await,
        }
    }
}

/// Serves one client until it leaves.
pub async fn serve<W: Wire>(mut client: W, pool: &Pool<W>) -> io::Result<()> {
    let (mut pending, mut out) = (Vec::new(), Vec::with_capacity(2048));
    while let Some(rest) = head(&mut client, http::request, &mut pending, &mut out).await? {
        let mut upstream = pool.take().await?;
        out = upstream.write(out).await?;
        relay(&mut client, &mut upstream, rest).await?;
        let mut unexpected = Vec::new();
        let Some(rest) = head(&mut upstream, http::response, &mut unexpected, &mut out).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        out = client.write(out).await?;
        relay(&mut upstream, &mut client, rest).await?;
        if unexpected.is_empty() {
            pool.idle.borrow_mut().push(upstream);
        }
    }
    Ok(())
}

/// Reads a head and writes it, and what came of its body, to `out`. Gives the bytes of the body still to come, or
/// `None` when the peer left between messages. Bytes of a next message stay in `pending`.
async fn head<W: Wire>(
    from: &mut W,
    parse: Parse,
    pending: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> io::Result<Option<u64>> {
    if !pending.is_empty() {
        let input = std::mem::take(pending);
        if let Some(rest) = split(&input, parse, pending, out)? {
            return Ok(Some(rest));
        }
        *pending = input;
    }
    loop {
        let chunk = from.read().await?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let done = if pending.is_empty() {
            split(&chunk, parse, pending, out)?
        } else {
            let mut input = std::mem::take(pending);
            input.extend_from_slice(&chunk);
            let done = split(&input, parse, pending, out)?;
            if done.is_none() {
                *pending = input;
                continue;
            }
            done
        };
        match done {
            Some(rest) => return Ok(Some(rest)),
            None => pending.extend_from_slice(&chunk),
        }
    }
}

fn split(input: &[u8], parse: Parse, pending: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let Some(head) = parse(input, out)? else { return Ok(None) };
    let body = &input[head.length..];
    let here = body.len().min(head.body as usize);
    out.extend_from_slice(&body[..here]);
    pending.extend_from_slice(&body[here..]);
    Ok(Some(head.body - here as u64))
}

async fn relay<W: Wire>(from: &mut W, to: &mut W, mut rest: u64) -> io::Result<()> {
    if rest == 0 {
        return Ok(());
    }
    from.streams(true);
    while rest > 0 {
        let chunk = from.read().await?;
        if chunk.is_empty() || chunk.len() as u64 > rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        rest -= chunk.len() as u64;
        to.pass(chunk).await?;
    }
    from.streams(false);
    Ok(())
}
