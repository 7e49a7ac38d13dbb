//! What a core counts about itself.

use std::cell::Cell;

/// Events since the core began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Turns of the loop: waits for the kernel.
    pub turns: u64,
    /// System calls of the driver: `io_uring_enter`, or `epoll_wait` and every `recv` and `send`.
    pub syscalls: u64,
    /// Completions or events handled.
    pub events: u64,
    /// Polls of tasks.
    pub polls: u64,
    /// Tasks that panicked.
    pub panics: u64,
    /// Receives that found the ring of receive buffers empty.
    pub ring_exhausted: u64,
    /// Receives armed: with io_uring far fewer than chunks received.
    pub recv_armed: u64,
    /// Sends made by `send(2)`, not through the ring.
    pub sends_direct: u64,
    /// Spawned tasks that have not ended.
    pub tasks: u64,
}

/// A number that one thread counts.
#[derive(Default)]
pub(super) struct Counter(Cell<u64>);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

#[derive(Default)]
pub(super) struct Counters {
    pub turns: Counter,
    pub syscalls: Counter,
    pub events: Counter,
    pub polls: Counter,
    pub panics: Counter,
    pub ring_exhausted: Counter,
    pub recv_armed: Counter,
    pub sends_direct: Counter,
}

impl Counters {
    pub fn read(&self, tasks: usize) -> Stats {
        Stats {
            turns: self.turns.get(),
            syscalls: self.syscalls.get(),
            events: self.events.get(),
            polls: self.polls.get(),
            panics: self.panics.get(),
            ring_exhausted: self.ring_exhausted.get(),
            recv_armed: self.recv_armed.get(),
            sends_direct: self.sends_direct.get(),
            tasks: tasks as u64,
        }
    }
}
