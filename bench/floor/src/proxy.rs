//! The loop: a turn of the ring, then one step for each completion.

use std::io;
use std::mem::size_of;
use std::net::SocketAddrV4;
use std::os::fd::RawFd;

use floor::buffers::{Buffers, GROUP};
use floor::ring::Ring;
use floor::socket;
use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use slab::Slab;

use crate::pair::{Chunk, End, GATHERED, Pair};

/// Chunks that may wait for a slow receiver before its sender's receive is cancelled (back-pressure).
const WAITING: usize = 8;

/// What a completion is about; with the pair's slot it makes up `user_data`.
#[derive(Clone, Copy)]
enum Operation {
    Accept = 0,
    Connect = 1,
    Receive = 2,
    Send = 3,
    Forget = 4,
    Close = 5,
}

const OPERATIONS: [Operation; 6] = [
    Operation::Accept,
    Operation::Connect,
    Operation::Receive,
    Operation::Send,
    Operation::Forget,
    Operation::Close,
];

fn tag(slot: usize, end: End, operation: Operation) -> u64 {
    (slot as u64) << 4 | (end as u64) << 3 | operation as u64
}

fn untag(data: u64) -> (usize, End, Operation) {
    let end = if data & 8 == 0 { End::Client } else { End::Upstream };
    ((data >> 4) as usize, end, OPERATIONS[(data & 7) as usize])
}

/// The floor itself.
pub struct Proxy {
    ring: Ring,
    buffers: Buffers,
    pairs: Slab<Pair>,
    listener: RawFd,
    upstream: Box<libc::sockaddr_in>,
    /// Receives that ended for want of a buffer; armed again as soon as one came back.
    starved: Vec<(usize, End)>,
    /// Sides that were given their first chunk in this turn.
    dirty: Vec<(usize, End)>,
    recycled: bool,
}

impl Proxy {
    pub fn new(ring: Ring, buffers: Buffers, listener: RawFd, upstream: SocketAddrV4) -> Proxy {
        let upstream = Box::new(socket::sockaddr(upstream));
        Proxy {
            ring,
            buffers,
            pairs: Slab::new(),
            listener,
            upstream,
            starved: Vec::new(),
            dirty: Vec::new(),
            recycled: false,
        }
    }

    /// Runs until the ring fails.
    pub fn run(mut self) -> io::Result<()> {
        let mut completions = Vec::with_capacity(4096);
        self.accept();
        loop {
            self.ring.turn(&mut completions)?;
            for completion in completions.drain(..) {
                self.step(&completion);
            }
            // After all completions: what arrived in one turn leaves in one send.
            for (slot, end) in std::mem::take(&mut self.dirty) {
                if self.pairs.get(slot).is_some_and(|pair| !pair.failed) {
                    self.send(slot, end);
                }
            }
            if std::mem::take(&mut self.recycled) {
                for (slot, end) in std::mem::take(&mut self.starved) {
                    self.receive(slot, end);
                }
            }
        }
    }

    fn step(&mut self, completion: &cqueue::Entry) {
        let (slot, end, operation) = untag(completion.user_data());
        let (result, flags) = (completion.result(), completion.flags());
        match operation {
            Operation::Accept => return self.accepted(result, flags),
            Operation::Close => return,
            Operation::Connect => self.connected(slot, result),
            Operation::Receive => self.received(slot, end, result, flags),
            Operation::Send => self.sent(slot, end, result),
            Operation::Forget => {}
        }
        if !cqueue::more(flags) {
            self.pairs[slot].in_flight -= 1;
        }
        self.close_if_finished(slot);
    }

    fn queue(&mut self, slot: usize, entry: squeue::Entry) {
        self.pairs[slot].in_flight += 1;
        // SAFETY: entries point at provided buffers and the boxed address, which live as long as the process, or at
        // the boxed `gather` of a pair that stays while anything is in flight. A buffer is recycled, and `gather`
        // written again, only after the completion of the send.
        unsafe { self.ring.push(entry) }
    }

    fn accept(&mut self) {
        let entry = opcode::AcceptMulti::new(Fd(self.listener)).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: a multishot accept points at no memory.
        unsafe { self.ring.push(entry.user_data(tag(0, End::Client, Operation::Accept))) }
    }

    fn accepted(&mut self, result: i32, flags: u32) {
        if !cqueue::more(flags) {
            self.accept();
        }
        if result < 0 {
            return eprintln!("accept: {}", io::Error::from_raw_os_error(-result));
        }
        let upstream = match socket::dial() {
            Ok(fd) => fd,
            Err(e) => {
                eprintln!("socket: {e}");
                return self.close(result);
            }
        };
        let slot = self.pairs.insert(Pair::new(result, upstream));
        let address = (&raw const *self.upstream).cast();
        let entry =
            opcode::Connect::new(Fd(upstream), address, size_of::<libc::sockaddr_in>() as u32).build();
        self.queue(slot, entry.user_data(tag(slot, End::Upstream, Operation::Connect)));
    }

    fn connected(&mut self, slot: usize, result: i32) {
        if result < 0 {
            self.pairs[slot].failed = true;
            return;
        }
        self.pairs[slot].connected = true;
        self.receive(slot, End::Client);
        self.receive(slot, End::Upstream);
    }

    fn receive(&mut self, slot: usize, end: End) {
        // A pair that starved may have gone, and its slot may be another's by now.
        let Some(pair) = self.pairs.get_mut(slot) else { return };
        let open = pair.connected && !pair.failed;
        let side = pair.side(end);
        if side.receiving || side.ended || !open {
            return;
        }
        side.receiving = true;
        let entry = opcode::RecvMulti::new(Fd(side.fd), GROUP).build();
        self.queue(slot, entry.user_data(tag(slot, end, Operation::Receive)));
    }

    fn received(&mut self, slot: usize, end: End, result: i32, flags: u32) {
        let pair = &mut self.pairs[slot];
        let failed = pair.failed;
        let side = pair.side(end);
        if !cqueue::more(flags) {
            side.receiving = false;
            side.cancelling = false;
        }
        let buffer = cqueue::buffer_select(flags);
        match (result, buffer) {
            (1.., Some(buffer)) if !failed => {
                self.forward(slot, end, Chunk { buffer, length: result as u32 });
                return;
            }
            (_, Some(buffer)) => self.recycle(buffer),
            _ => {}
        }
        match -result {
            0 => {
                self.pairs[slot].side(end).ended = true;
                self.pass_end(slot, end.other());
            }
            libc::ENOBUFS => self.starved.push((slot, end)),
            // Cancelled for back-pressure: `sent` arms it again, unless all was sent meanwhile.
            libc::ECANCELED => self.resume(slot, end),
            error if error > 0 => self.fail(slot),
            _ => {}
        }
    }

    /// Queues `chunk`, which came from `from`, on the other side.
    fn forward(&mut self, slot: usize, from: End, chunk: Chunk) {
        let pair = &mut self.pairs[slot];
        let to = pair.side(from.other());
        to.out.push_back(chunk);
        let waiting = to.out.len();
        if waiting == 1 {
            self.dirty.push((slot, from.other()));
        }
        let source = self.pairs[slot].side(from);
        if waiting > WAITING && source.receiving && !source.cancelling {
            source.cancelling = true;
            let entry = opcode::AsyncCancel::new(tag(slot, from, Operation::Receive)).build();
            self.queue(slot, entry.user_data(tag(slot, from, Operation::Forget)));
        } else if waiting <= WAITING && !source.receiving {
            self.receive(slot, from);
        }
    }

    /// Sends what waits for `end`, several chunks in one call.
    fn send(&mut self, slot: usize, end: End) {
        let side = self.pairs[slot].side(end);
        if side.sending > 0 || side.out.is_empty() {
            return;
        }
        // MSG_WAITALL: the kernel itself goes on after a short send.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        side.sending = side.out.len().min(GATHERED);
        let entry = if side.sending == 1 {
            let chunk = side.out[0];
            opcode::Send::new(Fd(side.fd), self.buffers.start(chunk.buffer), chunk.length)
                .flags(flags)
                .build()
        } else {
            let gather = &mut *side.gather;
            for (piece, chunk) in gather.pieces.iter_mut().zip(&side.out) {
                piece.iov_base = self.buffers.start(chunk.buffer).cast();
                piece.iov_len = chunk.length as usize;
            }
            gather.message.msg_iov = gather.pieces.as_mut_ptr();
            gather.message.msg_iovlen = side.sending;
            opcode::SendMsg::new(Fd(side.fd), &raw const gather.message).flags(flags as u32).build()
        };
        self.queue(slot, entry.user_data(tag(slot, end, Operation::Send)));
    }

    fn sent(&mut self, slot: usize, end: End, result: i32) {
        let side = self.pairs[slot].side(end);
        let mut length = 0;
        for chunk in side.out.drain(..std::mem::take(&mut side.sending)) {
            length += chunk.length as i32;
            self.buffers.recycle(chunk.buffer);
        }
        self.recycled = true;
        if result < length {
            return self.fail(slot);
        }
        self.send(slot, end);
        self.resume(slot, end.other());
        self.pass_end(slot, end);
    }

    /// Arms the receive of `end` again once what it had delivered is on its way.
    fn resume(&mut self, slot: usize, end: End) {
        if self.pairs[slot].side(end.other()).out.len() <= WAITING / 2 {
            self.receive(slot, end);
        }
    }

    /// Sends our FIN to `end` when the other end has sent its own and all its bytes were passed on.
    fn pass_end(&mut self, slot: usize, end: End) {
        let pair = &mut self.pairs[slot];
        let other_ended = pair.side(end.other()).ended;
        let finished = pair.finished();
        let side = pair.side(end);
        // Closing follows at once when both have ended: it sends the FIN itself.
        if !other_ended || !side.out.is_empty() || side.shut || finished {
            return;
        }
        side.shut = true;
        let entry = opcode::Shutdown::new(Fd(side.fd), libc::SHUT_WR).build();
        self.queue(slot, entry.user_data(tag(slot, end, Operation::Forget)));
    }

    /// Wakes every operation of the pair, so that it can close.
    fn fail(&mut self, slot: usize) {
        if std::mem::replace(&mut self.pairs[slot].failed, true) {
            return;
        }
        for end in [End::Client, End::Upstream] {
            let entry = opcode::Shutdown::new(Fd(self.pairs[slot].side(end).fd), libc::SHUT_RDWR).build();
            self.queue(slot, entry.user_data(tag(slot, end, Operation::Forget)));
        }
    }

    fn close_if_finished(&mut self, slot: usize) {
        let pair = &self.pairs[slot];
        if pair.in_flight > 0 || !pair.finished() {
            return;
        }
        for side in self.pairs.remove(slot).sides {
            for chunk in side.out {
                self.recycle(chunk.buffer);
            }
            self.close(side.fd);
        }
    }

    fn close(&mut self, fd: RawFd) {
        // SAFETY: a close points at no memory; nothing uses `fd` after this.
        unsafe {
            self.ring.push(opcode::Close::new(Fd(fd)).build().user_data(tag(
                0,
                End::Client,
                Operation::Close,
            )))
        }
    }

    fn recycle(&mut self, buffer: u16) {
        self.buffers.recycle(buffer);
        self.recycled = true;
    }
}
