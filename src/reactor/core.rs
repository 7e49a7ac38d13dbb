//! One core's runtime: its state and its turn.
//!
//! A turn: poll what is ready, hand over what was queued for sending, ask the kernel once (submit, wait, take
//! completions), read the clock once, fire timers, take wake-ups from other threads. No handler of an event
//! runs foreign code: wakers are collected and called at the end, when nothing is borrowed.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::chunk::Buffers;
use super::epoll::Epoll;
use super::out::Outgoing;
use super::pipe::Pipes;
use super::slot::Slot;
use super::stats::Counters;
use super::task::{BoxedTask, Remote, TaskId, Tasks};
use super::uring::Uring;
use super::wheel::{Key, Wheel};
use super::{Config, Driver, DriverKind, Info};
use crate::limits;

#[expect(clippy::large_enum_variant, reason = "one per core, and the large one is the common one")]
pub(super) enum Backend {
    Uring(Uring),
    Epoll(Epoll),
}

pub(super) enum Timer {
    Wake(Waker),
    /// A stream with a deadline; it takes its timer out before it goes.
    Slot(NonNull<Slot>),
}

type PanicHook = Box<dyn Fn(&(dyn Any + Send))>;

pub(super) struct Core {
    pub backend: Backend, // dropped first: the kernel lets go of the buffers below
    pub buffers: Buffers,
    pub pipes: Pipes,
    pub tasks: Tasks,
    pub counters: Counters,
    pub remote: &'static Remote,
    /// False when the runtime is over: nothing may be started any more.
    pub alive: Cell<bool>,
    timers: RefCell<Wheel<Timer>>,
    start: Instant,
    now: Cell<Instant>,
    now_ms: Cell<u64>,
    /// Streams with something to send; each counts this entry as an operation (`Slot::dirty`).
    dirty: RefCell<Vec<NonNull<Slot>>>,
    #[expect(
        clippy::vec_box,
        reason = "the kernel knows them by address, so they stay boxed in the pool too"
    )]
    outgoing: RefCell<Vec<Box<Outgoing>>>,
    wakes: RefCell<Vec<Waker>>,
    next_turn: RefCell<Vec<Waker>>,
    on_panic: RefCell<Option<Rc<PanicHook>>>,
}

thread_local! {
    static CURRENT: Cell<*const Rc<Core>> = const { Cell::new(ptr::null()) };
}

/// Runs `f` on this thread's core.
///
/// # Panics
/// Outside of `block_on`: a mistake of the program, not of its input.
pub(super) fn with<R>(f: impl FnOnce(&Rc<Core>) -> R) -> R {
    let core = CURRENT.get();
    assert!(!core.is_null(), "this needs a reactor: call it inside reactor::block_on");
    // SAFETY: `Entered` points CURRENT at an Rc that outlives it, and takes it away again before.
    f(unsafe { &*core })
}

/// As [`with`], for what may be dropped after its runtime: then nothing is done.
pub(super) fn try_with(f: impl FnOnce(&Rc<Core>)) {
    // SAFETY: as in `with`.
    if let Some(core) = unsafe { CURRENT.get().as_ref() } {
        f(core);
    }
}

/// Queues a task of this thread's runtime; false when it belongs to another.
pub(super) fn wake_local(id: TaskId) -> bool {
    let core = CURRENT.get();
    // SAFETY: as in `with`.
    let Some(core) = (unsafe { core.as_ref() }) else { return false };
    let ours = core.tasks.runtime() == id.runtime();
    if ours {
        core.tasks.wake(id);
    }
    ours
}

struct Entered;

impl Entered {
    fn new(core: &Rc<Core>) -> Entered {
        CURRENT.set(core);
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(ptr::null());
    }
}

/// See [`super::block_on`].
pub(super) fn block_on<F: Future>(config: Config, main: impl FnOnce(Info) -> F) -> io::Result<F::Output> {
    if !CURRENT.get().is_null() {
        return Err(io::Error::new(io::ErrorKind::Deadlock, "block_on inside block_on"));
    }
    let (runtime, remote) = Remote::take()?;
    let (core, info) = match Core::new(&config, runtime, remote) {
        Ok(made) => made,
        Err(error) => {
            remote.give_up();
            return Err(error);
        }
    };
    let entered = Entered::new(&core);
    let output = catch_unwind(AssertUnwindSafe(|| {
        let mut main = Box::pin(main(info));
        core.run(main.as_mut())
    }));
    core.end();
    drop(entered);
    remote.give_up();
    output.or_else(|panic| resume_unwind(panic))
}

impl Core {
    fn new(config: &Config, runtime: u16, remote: &'static Remote) -> io::Result<(Rc<Core>, Info)> {
        let mut refused = None;
        let mut uring = None;
        if config.driver != Driver::Epoll {
            match Uring::new(config, remote) {
                Ok(made) => uring = Some(made),
                Err(error) if config.driver == Driver::Uring => return Err(error),
                Err(error) => refused = Some(error.to_string()),
            }
        }
        let (backend, buffers, driver) = match uring {
            Some((uring, buffers)) => (Backend::Uring(uring), buffers, DriverKind::Uring),
            None => {
                let buffers = Buffers::new(config.recv_buffers, config.recv_buffer_bytes, false)?;
                (Backend::Epoll(Epoll::new(remote)?), buffers, DriverKind::Epoll)
            }
        };
        let now = Instant::now();
        let core = Rc::new(Core {
            backend,
            buffers,
            pipes: Pipes::default(),
            tasks: Tasks::new(runtime),
            counters: Counters::default(),
            remote,
            alive: Cell::new(true),
            timers: RefCell::default(),
            start: now,
            now: Cell::new(now),
            now_ms: Cell::new(0),
            dirty: RefCell::default(),
            outgoing: RefCell::default(),
            wakes: RefCell::default(),
            next_turn: RefCell::default(),
            on_panic: RefCell::default(),
        });
        Ok((core, Info { driver, refused }))
    }

    fn run<F: Future>(&self, mut main: Pin<&mut F>) -> F::Output {
        loop {
            let mut flushes = 0;
            for _ in 0..limits::TURN_POLLS {
                match self.tasks.next() {
                    Some((id, Some(task))) => self.poll(id, task),
                    Some((id, None)) => {
                        let waker = id.waker();
                        if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                            return output;
                        }
                    }
                    None => {
                        // What is sent at once may make tasks ready that waited for it.
                        self.flush();
                        flushes += 1;
                        if !self.tasks.any_ready() || flushes == limits::TURN_FLUSHES {
                            break;
                        }
                    }
                }
            }
            self.flush();
            self.turn();
        }
    }

    fn poll(&self, id: TaskId, mut task: BoxedTask) {
        self.counters.polls.add(1);
        let waker = id.waker();
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut Context::from_waker(&waker)))) {
            Ok(Poll::Pending) => return self.tasks.put_back(id, task),
            Ok(Poll::Ready(())) => {}
            Err(panic) => self.panicked(&*panic),
        }
        self.tasks.finish(id);
        self.drop_task(task);
    }

    fn drop_task(&self, task: BoxedTask) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(task))) {
            self.panicked(&*panic);
        }
    }

    fn panicked(&self, panic: &(dyn Any + Send)) {
        self.counters.panics.add(1);
        let hook = self.on_panic.borrow().clone();
        if let Some(hook) = hook {
            // A hook that panics itself must not take the core down; that panic is counted by nobody.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(panic)));
        }
    }

    pub fn set_panic_hook(&self, hook: PanicHook) {
        self.on_panic.replace(Some(Rc::new(hook)));
    }

    /// Asks the kernel, then the clock, the timers and the other threads.
    fn turn(&self) {
        self.counters.turns.add(1);
        let busy =
            self.tasks.any_ready() || !self.next_turn.borrow().is_empty() || !self.remote.about_to_sleep();
        let wait_ms = if busy {
            Some(0)
        } else {
            self.timers.borrow().next_ms().map(|at_ms| at_ms.saturating_sub(self.now_ms.get()))
        };
        match &self.backend {
            Backend::Uring(uring) => uring.turn(self, wait_ms),
            Backend::Epoll(epoll) => epoll.turn(self, wait_ms),
        }
        let now = Instant::now();
        self.now.set(now);
        self.now_ms.set(now.duration_since(self.start).as_millis() as u64);
        self.fire_timers();
        if self.remote.drain(|id| self.tasks.wake(id)) {
            self.tasks.wake_all();
        }
        self.wakes.borrow_mut().append(&mut self.next_turn.borrow_mut());
        self.call_wakers();
    }

    fn call_wakers(&self) {
        let mut wakes = self.wakes.take();
        for waker in wakes.drain(..) {
            if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
                self.counters.panics.add(1);
            }
        }
        // The vector's capacity is worth keeping; a waker may have queued another meanwhile.
        let mut place = self.wakes.borrow_mut();
        wakes.append(&mut place);
        *place = wakes;
    }

    fn fire_timers(&self) {
        let now_ms = self.now_ms.get();
        let mut timers = self.timers.borrow_mut();
        if timers.next_ms().is_none_or(|at_ms| at_ms > now_ms) {
            return;
        }
        let mut slots = Vec::new();
        timers.expire(now_ms, |timer| match timer {
            Timer::Wake(waker) => self.wake_later(waker),
            Timer::Slot(slot) => slots.push(slot),
        });
        drop(timers);
        for slot in slots {
            // SAFETY: a slot removes its timer before it is freed, and nothing between `expire` and here frees.
            unsafe { slot.as_ref() }.timer_fired();
        }
    }

    /// Hands everything queued to the kernel: at once, or as entries of the ring.
    pub fn flush(&self) {
        if self.dirty.borrow().is_empty() {
            return;
        }
        let mut dirty = self.dirty.take();
        let lone = dirty.len() <= DIRECT_SENDS;
        for slot in dirty.drain(..) {
            // SAFETY: a dirty slot is not freed before it was taken out of this list.
            unsafe { slot.as_ref() }.dirty.set(false);
            // SAFETY: as above; it may be freed by this call and is not used after it.
            unsafe { Slot::flush(slot, lone) };
        }
        let mut place = self.dirty.borrow_mut();
        dirty.append(&mut place);
        *place = dirty;
        drop(place);
        self.call_wakers();
    }

    pub fn mark_dirty(&self, slot: NonNull<Slot>) {
        self.dirty.borrow_mut().push(slot);
    }

    /// Calls the waker when no event is being handled any more.
    pub fn wake_later(&self, waker: Waker) {
        self.wakes.borrow_mut().push(waker);
    }

    /// Calls the waker after the kernel was asked once more.
    pub fn wake_next_turn(&self, waker: Waker) {
        self.next_turn.borrow_mut().push(waker);
    }

    pub fn now(&self) -> Instant {
        self.now.get()
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    pub fn add_timer(&self, at_ms: u64, timer: Timer) -> Key {
        self.timers.borrow_mut().insert(at_ms, timer)
    }

    pub fn remove_timer(&self, key: Key) -> Option<Timer> {
        self.timers.borrow_mut().remove(key)
    }

    /// The timer wakes another waker from now on.
    pub fn retarget_timer(&self, key: Key, waker: &Waker) {
        let old = match self.timers.borrow_mut().get_mut(key) {
            Some(Timer::Wake(old)) if !old.will_wake(waker) => Some(std::mem::replace(old, waker.clone())),
            _ => None,
        };
        drop(old);
    }

    pub fn spawn(&self, task: BoxedTask) {
        if self.alive.get() {
            self.tasks.spawn(task);
        } else {
            self.drop_task(task);
        }
    }

    pub fn wake_all(&self) {
        self.tasks.wake_all();
    }

    pub fn take_outgoing(&self) -> Box<Outgoing> {
        self.outgoing.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_outgoing(&self, mut outgoing: Box<Outgoing>) {
        outgoing.clear();
        let mut pool = self.outgoing.borrow_mut();
        if pool.len() < limits::SEND_QUEUES {
            pool.push(outgoing);
        }
    }

    /// Drops all tasks, then waits until the kernel has let go of all memory.
    fn end(self: &Rc<Core>) {
        self.alive.set(false);
        while let Some(task) = self.tasks.take_any() {
            self.drop_task(task);
        }
        self.flush();
        if let Backend::Uring(uring) = &self.backend
            && !uring.wind_down(self)
        {
            // The kernel may still write into our buffers: they must stay for ever.
            std::mem::forget(self.clone());
        }
        self.call_wakers();
        drop(self.timers.take());
    }
}

/// Up to so many sends of one turn are made by `send(2)` at once: an entry in the ring is complete at once too, and so
/// costs a second turn of an otherwise idle core; many of them share it.
const DIRECT_SENDS: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_queues_are_kept_for_reuse_up_to_a_bound() {
        let kept = block_on(Config::default(), |_| async {
            with(|core| {
                (0..limits::SEND_QUEUES + 5).for_each(|_| core.give_outgoing(Box::default()));
                core.outgoing.borrow().len()
            })
        });
        assert_eq!(kept.unwrap(), limits::SEND_QUEUES);
    }
}
