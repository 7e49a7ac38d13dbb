//! The per-core runtime: one thread, one driver, nothing shared.
//!
//! [`block_on`] builds a driver on the calling thread, io_uring where the host allows it and epoll where not, and
//! runs tasks until the main one ends. Inside it: [`spawn`], timers ([`sleep`], deadlines of streams), [`Listener`],
//! [`TcpStream`], [`UdpSocket`]; from outside and across cores: [`mailbox()`]. Both drivers behave alike (the tests run on both).
//!
//! The road of a request: a completion (`uring`) or an edge (`epoll`) finds the stream's `slot`, puts a [`Chunk`]
//! there and queues the task (`task`); the task reads it, answers with [`TcpStream::send`], and at the end of the
//! turn (`core`) everything queued for one stream leaves in one call (`out`).

#![allow(unsafe_code)] // this room only; every block says why it is sound

mod affinity;
mod allocator;
mod chunk;
mod core;
mod descriptors;
mod epoll;
mod listener;
mod mailbox;
pub mod nice;
mod out;
mod pipe;
pub mod signals;
mod slot;
mod stats;
mod stream;
mod task;
#[cfg(test)]
mod tests;
mod timer;
mod udp;
mod uring;
pub mod wheel;

use std::any::Any;
use std::io;
use std::task::Poll;
use std::time::Instant;

pub use affinity::{core_count, pin};
pub use allocator::Allocator;
pub use chunk::Chunk;
pub use descriptors::raise_descriptor_limit;
pub use listener::{Accepted, ListenOptions, Listener, listen, take_alone};
pub use mailbox::{Receiver, SendError, Sender, mailbox};
pub use out::Out;
pub use pipe::{Arrived, Piped};
pub use stats::Stats;
pub use stream::TcpStream;
pub use timer::{Sleep, sleep, sleep_until};
pub use udp::{EcnCodepoint, Received, Transmit, UdpBatch, UdpSocket, bind_udp, steer};

/// Which driver to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring if the host allows it, else epoll.
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll.
    Epoll,
}

/// Which driver is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring with `SINGLE_ISSUER` and `DEFER_TASKRUN`.
    Uring,
    /// Edge-triggered epoll.
    Epoll,
}

/// The size of one core's runtime.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which driver.
    pub driver: Driver,
    /// Entries of the submission queue (a power of two); four times as many completions. More in one turn costs
    /// a system call, no loss.
    pub ring_entries: u32,
    /// Receive buffers shared by all parked streams of the core (a power of two, at most 32768). They are used in
    /// turn, and most hold one short head, so that few lines of each are touched.
    pub recv_buffers: u16,
    /// Bytes of each: a head, or a fair piece of a body. All of them are resident from the start.
    pub recv_buffer_bytes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config { driver: Driver::Auto, ring_entries: 1024, recv_buffers: 512, recv_buffer_bytes: 16 << 10 }
    }
}

/// What [`block_on`] found.
#[derive(Clone, Debug)]
pub struct Info {
    /// The driver in use.
    pub driver: DriverKind,
    /// Why io_uring was refused, if it was tried.
    pub refused: Option<String>,
}

/// Runs a core on this thread until the future that `main` makes is done. Tasks still alive then are dropped, and
/// their operations cancelled and awaited. A panic of the main future is passed on after that.
///
/// # Errors
/// The driver cannot be built: no descriptors or memory, a wrong [`Config`], or io_uring was insisted on.
pub fn block_on<F: Future>(config: Config, main: impl FnOnce(Info) -> F) -> io::Result<F::Output> {
    core::block_on(config, main)
}

/// Runs a task on this core. If it panics, it alone ends; see [`on_panic`].
///
/// # Panics
/// Outside of [`block_on`], as all functions here that need a core.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    let task = Box::pin(task);
    core::with(|core| core.spawn(task));
}

/// Polls every task of this core once more: for a change that all of them look at, such as the core's drain.
pub fn wake_all() {
    core::with(|core| core.wake_all());
}

/// Tasks of this core that panicked.
pub fn panics() -> u64 {
    core::with(|core| core.counters.panics.get())
}

/// Calls `hook` with the payload of each panic of a task of this core.
pub fn on_panic(hook: impl Fn(&(dyn Any + Send)) + 'static) {
    core::with(|core| core.set_panic_hook(Box::new(hook)));
}

/// The monotonic time of this turn: read once per turn, so free, and late by what the turn has taken so far.
pub fn now() -> Instant {
    core::with(|core| core.now())
}

/// Milliseconds from the start of this core's runtime to [`now`]: the clock of deadlines.
pub fn now_ms() -> u64 {
    core::with(|core| core.now_ms())
}

/// Goes on in the next turn, after the kernel was asked.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        core::with(|core| core.wake_next_turn(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// An empty send buffer from this core's pool; sent, it returns there by itself.
pub fn take_buffer() -> Vec<u8> {
    core::with(|core| core.buffers.take_vec())
}

/// Returns a buffer that was not sent.
pub fn give_buffer(buffer: Vec<u8>) {
    core::with(|core| core.buffers.give_vec(buffer));
}

/// What this core has counted.
pub fn stats() -> Stats {
    core::with(|core| core.counters.read(core.tasks.alive()))
}
