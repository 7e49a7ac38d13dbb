//! Candidate a: the same proxy as a loop over completions, with multishot receives and provided buffers.

use std::io;
use std::mem::{size_of, take};
use std::os::fd::RawFd;

use floor::buffers::{Buffers, GROUP};
use floor::ring::Ring;
use floor::socket;
use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use slab::Slab;
use spike::http::{self, Parse};

#[derive(Clone, Copy)]
enum Operation {
    Accept,
    Connect,
    Receive,
    Send,
    Close,
}

const OPERATIONS: [Operation; 5] =
    [Operation::Accept, Operation::Connect, Operation::Receive, Operation::Send, Operation::Close];

/// A connection of either side. `peer` is the other side of the exchange in progress.
struct Connection {
    fd: RawFd,
    client: bool,
    peer: Option<usize>,
    /// Bytes still to come of the body it is sending us.
    rest: u64,
    /// Bytes it sent that are not consumed: half a head, or the next request.
    pending: Vec<u8>,
    /// Bytes for it, not yet handed to the kernel.
    out: Vec<u8>,
    /// Bytes of the send in flight, and how many went already.
    sending: Vec<u8>,
    sent: usize,
    connected: bool,
    closing: bool,
    in_flight: u32,
}

impl Connection {
    fn new(fd: RawFd, client: bool) -> Connection {
        Connection {
            fd,
            client,
            peer: None,
            rest: 0,
            pending: Vec::new(),
            out: Vec::with_capacity(1024),
            sending: Vec::with_capacity(1024),
            sent: 0,
            connected: client,
            closing: false,
            in_flight: 0,
        }
    }

    fn parse(&self) -> Parse {
        if self.client { http::request } else { http::response }
    }
}

struct Proxy {
    ring: Ring,
    buffers: Buffers,
    connections: Slab<Connection>,
    idle: Vec<usize>,
    upstream: Box<libc::sockaddr_in>,
    listener: RawFd,
    starved: Vec<usize>,
}

impl Proxy {
    fn run(mut self) -> io::Result<()> {
        let mut completions = Vec::with_capacity(4096);
        self.accept();
        loop {
            self.ring.turn(&mut completions)?;
            for completion in completions.drain(..) {
                self.step(&completion);
            }
            for slot in take(&mut self.starved) {
                self.receive(slot);
            }
        }
    }

    fn queue(&mut self, slot: usize, entry: squeue::Entry, operation: Operation) {
        self.connections[slot].in_flight += 1;
        // SAFETY: `sending` and the boxed address are left alone until the completion; a connection is removed only
        // when nothing is in flight.
        unsafe { self.ring.push(entry.user_data((slot as u64) << 3 | operation as u64)) }
    }

    fn accept(&mut self) {
        let entry = opcode::AcceptMulti::new(Fd(self.listener)).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: points at no memory.
        unsafe { self.ring.push(entry.user_data(Operation::Accept as u64)) }
    }

    fn receive(&mut self, slot: usize) {
        if self.connections.get(slot).is_some_and(|connection| !connection.closing) {
            let entry = opcode::RecvMulti::new(Fd(self.connections[slot].fd), GROUP).build();
            self.queue(slot, entry, Operation::Receive);
        }
    }

    fn step(&mut self, completion: &cqueue::Entry) {
        let slot = (completion.user_data() >> 3) as usize;
        let (result, flags) = (completion.result(), completion.flags());
        match OPERATIONS[(completion.user_data() & 7) as usize] {
            Operation::Close => return,
            Operation::Accept => {
                if !cqueue::more(flags) {
                    self.accept();
                }
                if result >= 0 {
                    let slot = self.connections.insert(Connection::new(result, true));
                    self.receive(slot);
                }
                return;
            }
            Operation::Connect if result == 0 => {
                self.connections[slot].connected = true;
                self.receive(slot);
                self.flush(slot);
            }
            Operation::Connect => self.end(slot),
            Operation::Receive => self.received(slot, result, flags),
            Operation::Send => self.sent(slot, result),
        }
        let connection = &mut self.connections[slot];
        if !cqueue::more(flags) {
            connection.in_flight -= 1;
        }
        if connection.closing && connection.in_flight == 0 {
            let fd = self.connections.remove(slot).fd;
            let entry = opcode::Close::new(Fd(fd)).build().user_data(Operation::Close as u64);
            // SAFETY: points at no memory.
            unsafe { self.ring.push(entry) }
        }
    }

    fn received(&mut self, slot: usize, result: i32, flags: u32) {
        if let Some(buffer) = cqueue::buffer_select(flags) {
            // SAFETY: the kernel wrote `result` bytes to this buffer and leaves it alone until it is recycled below.
            let bytes =
                unsafe { std::slice::from_raw_parts(self.buffers.start(buffer), result.max(0) as usize) };
            if !self.connections[slot].closing && result > 0 && self.feed(slot, bytes).is_err() {
                self.end(slot);
            }
            self.buffers.recycle(buffer);
        }
        if result == -libc::ENOBUFS {
            self.starved.push(slot);
        } else if result <= 0 {
            self.end(slot);
        } else if !cqueue::more(flags) {
            self.receive(slot);
        }
    }

    /// Bytes from a connection: body of the message in progress, a head, or to be kept for later.
    fn feed(&mut self, slot: usize, bytes: &[u8]) -> Result<(), http::Malformed> {
        let connection = &mut self.connections[slot];
        if connection.rest > 0 {
            return self.body(slot, bytes);
        }
        if connection.client && connection.peer.is_some() {
            connection.pending.extend_from_slice(bytes);
            return Ok(());
        }
        if connection.pending.is_empty() {
            return self.head(slot, bytes);
        }
        let mut all = take(&mut connection.pending);
        all.extend_from_slice(bytes);
        self.head(slot, &all)
    }

    fn body(&mut self, slot: usize, bytes: &[u8]) -> Result<(), http::Malformed> {
        let connection = &mut self.connections[slot];
        let peer = connection.peer.ok_or(http::Malformed)?;
        let here = bytes.len().min(connection.rest as usize);
        connection.rest -= here as u64;
        connection.pending.extend_from_slice(&bytes[here..]);
        self.connections[peer].out.extend_from_slice(&bytes[..here]);
        self.flush(peer);
        self.finish_answer(slot)
    }

    fn head(&mut self, slot: usize, bytes: &[u8]) -> Result<(), http::Malformed> {
        let parse = self.connections[slot].parse();
        let to = match self.connections[slot].peer {
            Some(peer) => peer,
            None if self.connections[slot].client => self.take_upstream(slot).ok_or(http::Malformed)?,
            None => return Err(http::Malformed),
        };
        let out = &mut self.connections[to].out;
        let Some(head) = parse(bytes, out)? else {
            self.connections[slot].pending.extend_from_slice(bytes);
            if self.connections[slot].client {
                self.release(slot, to);
            }
            return Ok(());
        };
        let body = &bytes[head.length..];
        let here = body.len().min(head.body as usize);
        out.extend_from_slice(&body[..here]);
        let connection = &mut self.connections[slot];
        connection.rest = head.body - here as u64;
        connection.pending.extend_from_slice(&body[here..]);
        self.flush(to);
        self.finish_answer(slot)
    }

    /// After bytes of an answer: when it is whole, the exchange ends and a pipelined request may begin.
    fn finish_answer(&mut self, slot: usize) -> Result<(), http::Malformed> {
        let connection = &self.connections[slot];
        let (false, 0, Some(client)) = (connection.client, connection.rest, connection.peer) else {
            return Ok(());
        };
        self.release(client, slot);
        let next = take(&mut self.connections[client].pending);
        if next.is_empty() { Ok(()) } else { self.feed(client, &next) }
    }

    fn release(&mut self, client: usize, upstream: usize) {
        self.connections[client].peer = None;
        self.connections[upstream].peer = None;
        self.idle.push(upstream);
    }

    fn take_upstream(&mut self, client: usize) -> Option<usize> {
        let slot = match self.idle.pop() {
            Some(slot) => slot,
            None => {
                let fd = socket::dial().ok()?;
                let slot = self.connections.insert(Connection::new(fd, false));
                let address = (&raw const *self.upstream).cast();
                let entry = opcode::Connect::new(Fd(fd), address, size_of::<libc::sockaddr_in>() as u32);
                self.queue(slot, entry.build(), Operation::Connect);
                slot
            }
        };
        self.connections[client].peer = Some(slot);
        self.connections[slot].peer = Some(client);
        Some(slot)
    }

    fn flush(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if connection.out.is_empty() || !connection.sending.is_empty() || !connection.connected {
            return;
        }
        std::mem::swap(&mut connection.out, &mut connection.sending);
        self.send(slot);
    }

    fn send(&mut self, slot: usize) {
        let connection = &self.connections[slot];
        let bytes = &connection.sending[connection.sent..];
        let entry = opcode::Send::new(Fd(connection.fd), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.queue(slot, entry, Operation::Send);
    }

    fn sent(&mut self, slot: usize, result: i32) {
        if result < 0 {
            return self.end(slot);
        }
        let connection = &mut self.connections[slot];
        connection.sent += result as usize;
        if connection.sent < connection.sending.len() {
            return self.send(slot);
        }
        connection.sent = 0;
        connection.sending.clear();
        self.flush(slot);
    }

    /// The connection is of no more use; its exchange, if any, ends with it.
    fn end(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if std::mem::replace(&mut connection.closing, true) {
            return;
        }
        // SAFETY: no memory; the descriptor is open until nothing is in flight on it. This ends its receive.
        unsafe { libc::shutdown(connection.fd, libc::SHUT_RDWR) };
        let (client, peer) = (connection.client, connection.peer);
        if !client {
            self.idle.retain(|&idle| idle != slot);
        }
        if let Some(peer) = peer {
            self.end(peer);
        }
    }
}

fn main() -> io::Result<()> {
    let options = spike::options::read();
    if let Some(core) = options.core {
        socket::pin(core)?;
    }
    socket::raise_open_files()?;
    let ring = Ring::new()?;
    let buffers = Buffers::register(&ring, 1024, 64 << 10)?;
    let listener = socket::listen(options.listen)?;
    let upstream = Box::new(socket::sockaddr(options.upstream));
    let (connections, idle, starved) = (Slab::new(), Vec::new(), Vec::new());
    Proxy { ring, buffers, connections, idle, upstream, listener, starved }.run()
}
