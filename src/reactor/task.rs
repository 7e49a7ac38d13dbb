//! Tasks of one core and their wakers.
//!
//! A waker is one integer (runtime, generation, index of the task): no allocation, no count. Waking on the own
//! thread queues the task, once; waking on another goes through [`Remote`], which outlives all runtimes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{RawWaker, RawWakerVTable, Waker};

use crossbeam_queue::ArrayQueue;

use super::core;
use crate::limits;

pub(super) type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

/// The future given to `block_on` has this index; it is kept apart from the others.
pub(super) const MAIN: u32 = 0;

const INDEX_BITS: u32 = 26;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: u32 = INDEX_MASK as u32;
const _: () = assert!(usize::BITS == 64 && limits::RUNTIMES <= 1 << (64 - 2 * INDEX_BITS));

// A reload starts all cores anew beside the old ones.
const _: () = assert!(limits::RUNTIMES >= 2 * limits::CORES);

/// Which task to poll: 12 bits runtime, 26 generation, 26 index.
#[derive(Clone, Copy)]
pub(super) struct TaskId(usize);

impl TaskId {
    fn new(runtime: u16, generation: u32, index: u32) -> TaskId {
        TaskId(
            usize::from(runtime) << (2 * INDEX_BITS) | (generation as usize) << INDEX_BITS | index as usize,
        )
    }

    pub fn runtime(self) -> u16 {
        (self.0 >> (2 * INDEX_BITS)) as u16
    }

    fn generation(self) -> u32 {
        (self.0 >> INDEX_BITS) as u32 & GENERATION_MASK
    }

    pub fn index(self) -> u32 {
        (self.0 & INDEX_MASK) as u32
    }

    pub fn waker(self) -> Waker {
        // SAFETY: the table's functions treat the data as an integer and are safe for any value and thread.
        unsafe { Waker::from_raw(RawWaker::new(ptr::without_provenance(self.0), &VTABLE)) }
    }
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &VTABLE), wake, wake, |_| {});

fn wake(data: *const ()) {
    let id = TaskId(data.addr());
    if !core::wake_local(id)
        && let Some(remote) = REMOTES[usize::from(id.runtime())].get()
    {
        remote.wake(id);
    }
}

struct Slot {
    task: Option<BoxedTask>,
    generation: u32,
    queued: bool,
}

/// The tasks of a core, by index, and those to poll next.
pub(super) struct Tasks {
    runtime: u16,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    ready: RefCell<VecDeque<u32>>,
    alive: Cell<usize>,
}

impl Tasks {
    pub fn new(runtime: u16) -> Tasks {
        let main = Slot { task: None, generation: 0, queued: true };
        Tasks {
            runtime,
            slots: RefCell::new(vec![main]),
            free: RefCell::new(Vec::new()),
            ready: RefCell::new(VecDeque::from([MAIN])),
            alive: Cell::new(0),
        }
    }

    /// The runtime id that wakers of these tasks carry.
    pub fn runtime(&self) -> u16 {
        self.runtime
    }

    /// Tasks spawned and not yet finished.
    pub fn alive(&self) -> usize {
        self.alive.get()
    }

    pub fn spawn(&self, task: BoxedTask) {
        self.alive.set(self.alive.get() + 1);
        let mut slots = self.slots.borrow_mut();
        let index = match self.free.borrow_mut().pop() {
            Some(index) => {
                let slot = &mut slots[index as usize];
                slot.task = Some(task);
                slot.queued = true;
                index
            }
            None => {
                assert!(slots.len() < INDEX_MASK, "2^26 tasks on one core");
                slots.push(Slot { task: Some(task), generation: 0, queued: true });
                (slots.len() - 1) as u32
            }
        };
        self.ready.borrow_mut().push_back(index);
    }

    /// Queues a task of this runtime; stale and repeated wakes are no-ops.
    pub fn wake(&self, id: TaskId) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(id.index() as usize) else { return };
        if slot.generation == id.generation() && !slot.queued {
            slot.queued = true;
            self.ready.borrow_mut().push_back(id.index());
        }
    }

    /// Queues every task: more wake-ups came from outside than could be told apart.
    pub fn wake_all(&self) {
        let mut slots = self.slots.borrow_mut();
        for (index, slot) in slots.iter_mut().enumerate() {
            if !slot.queued && (slot.task.is_some() || index == MAIN as usize) {
                slot.queued = true;
                self.ready.borrow_mut().push_back(index as u32);
            }
        }
    }

    pub fn any_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// The next task to poll, taken out of its slot (MAIN has none). Follow with `put_back` or `finish`.
    pub fn next(&self) -> Option<(TaskId, Option<BoxedTask>)> {
        let mut slots = self.slots.borrow_mut();
        loop {
            let index = self.ready.borrow_mut().pop_front()?;
            let slot = &mut slots[index as usize];
            slot.queued = false;
            let task = slot.task.take();
            if task.is_some() || index == MAIN {
                return Some((TaskId::new(self.runtime, slot.generation, index), task));
            }
        }
    }

    pub fn put_back(&self, id: TaskId, task: BoxedTask) {
        self.slots.borrow_mut()[id.index() as usize].task = Some(task);
    }

    pub fn finish(&self, id: TaskId) {
        let slot = &mut self.slots.borrow_mut()[id.index() as usize];
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.borrow_mut().push(id.index());
        self.alive.set(self.alive.get() - 1);
    }

    /// Takes a task out for good, for the end of the runtime: nothing may be spawned any more.
    pub fn take_any(&self) -> Option<BoxedTask> {
        let mut slots = self.slots.borrow_mut();
        while let Some(slot) = slots.pop() {
            if slot.task.is_some() {
                return slot.task;
            }
        }
        None
    }
}

/// The side of a runtime that other threads see. There is one per runtime id; it is never freed, and the next
/// runtime with that id takes it over, so a waker that comes too late wakes a stranger at worst.
pub(super) struct Remote {
    woken: ArrayQueue<TaskId>,
    /// `woken` overflowed: poll everything.
    all: AtomicBool,
    sleeping: AtomicBool,
    taken: AtomicBool,
    /// Non-blocking; never read while in use (both drivers watch it for edges).
    event: OwnedFd,
}

static REMOTES: [OnceLock<Remote>; limits::RUNTIMES] = [const { OnceLock::new() }; limits::RUNTIMES];

impl Remote {
    /// Takes a free runtime id until `give_up`.
    pub fn take() -> io::Result<(u16, &'static Remote)> {
        Remote::take_of(&REMOTES)
    }

    fn take_of(places: &'static [OnceLock<Remote>]) -> io::Result<(u16, &'static Remote)> {
        for (id, place) in places.iter().enumerate() {
            if place.get().is_none() {
                // SAFETY: eventfd takes two integers.
                let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
                if event < 0 {
                    return Err(io::Error::last_os_error());
                }
                // SAFETY: just made, owned by nobody else. When another thread is faster, ours is closed.
                let event = unsafe { OwnedFd::from_raw_fd(event) };
                let _ = place.set(Remote {
                    woken: ArrayQueue::new(limits::REMOTE_WAKES),
                    all: AtomicBool::new(false),
                    sleeping: AtomicBool::new(false),
                    taken: AtomicBool::new(false),
                    event,
                });
            }
            if let Some(remote) = place.get()
                && !remote.taken.swap(true, Ordering::AcqRel)
            {
                return Ok((id as u16, remote));
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many runtimes at once"))
    }

    pub fn give_up(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        while self.woken.pop().is_some() {}
        self.taken.store(false, Ordering::Release);
    }

    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// From another thread: queue the task, and ring only if its core sleeps. The fence pairs with the one in
    /// `about_to_sleep` (Dekker): either we see `sleeping`, or the core sees our entry before it sleeps.
    fn wake(&self, id: TaskId) {
        if self.woken.push(id).is_err() {
            self.all.store(true, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.ring();
        }
    }

    fn ring(&self) {
        // SAFETY: borrows the descriptor for one write; ManuallyDrop keeps it open.
        let mut event = std::mem::ManuallyDrop::new(unsafe {
            File::from_raw_fd(std::os::fd::AsRawFd::as_raw_fd(&self.event))
        });
        // It fails only when 2^64 - 1 rings are unread, and then the edge has long been seen.
        let _ = event.write(&1u64.to_ne_bytes());
    }

    /// The core says that it will block; false: do not, something has come.
    pub fn about_to_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.woken.is_empty() && !self.all.load(Ordering::Relaxed)
    }

    /// The core is awake: hands over what others woke. True: everything is to be polled.
    pub fn drain(&self, mut woken: impl FnMut(TaskId)) -> bool {
        self.sleeping.store(false, Ordering::Relaxed);
        if !self.woken.is_empty() {
            for id in (0..limits::REMOTE_WAKES).map_while(|_| self.woken.pop()) {
                woken(id);
            }
        }
        self.all.load(Ordering::Relaxed) && self.all.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_parts_up_to_their_bounds() {
        let last_runtime = (limits::RUNTIMES - 1) as u16;
        for (runtime, generation, index) in
            [(0, 0, 1), (last_runtime, 0, MAIN), (last_runtime, GENERATION_MASK, INDEX_MASK as u32)]
        {
            let id = TaskId::new(runtime, generation, index);
            assert_eq!((id.runtime(), id.generation(), id.index()), (runtime, generation, index));
        }
    }

    #[test]
    fn where_there_are_too_many_runtimes_another_one_is_an_error() {
        static PLACES: [OnceLock<Remote>; 2] = [const { OnceLock::new() }; 2];
        let (_, first) = Remote::take_of(&PLACES).unwrap();
        assert_eq!(Remote::take_of(&PLACES).unwrap().0, 1);
        assert!(Remote::take_of(&PLACES).is_err());
        first.give_up();
        assert_eq!(Remote::take_of(&PLACES).unwrap().0, 0);
    }

    #[test]
    fn wakes_that_cannot_be_noted_have_everything_polled() {
        static PLACES: [OnceLock<Remote>; 1] = [const { OnceLock::new() }; 1];
        let (_, remote) = Remote::take_of(&PLACES).unwrap();
        for (wakes, all) in [(limits::REMOTE_WAKES, false), (limits::REMOTE_WAKES + 1, true)] {
            (0..wakes).for_each(|index| remote.wake(TaskId::new(0, 0, index as u32)));
            let mut noted = 0;
            assert_eq!(remote.drain(|_| noted += 1), all);
            assert_eq!(noted, limits::REMOTE_WAKES);
        }
    }
}
