//! Received bytes and the per-core buffers that they live in.
//!
//! A [`Chunk`] is an owned window on a buffer, 24 bytes, counted without atomics. Four kinds of buffer stand
//! behind it: one of the core's small receive buffers (with io_uring they form the provided-buffer ring that
//! the kernel picks from, with epoll a free list), a pooled large one for bodies, or a caller's `Vec` or
//! `Bytes`. Dropping the last window gives the buffer back at once.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use io_uring::types::BufRingEntry;

use super::core::Core;
use crate::limits;

/// Owned received bytes: dereferences to `[u8]`, can be cut at both ends, gives its buffer back when dropped.
///
/// Clones and splits share the buffer. A chunk holds the whole of its buffer, so keep it briefly: copy what
/// must outlive the exchange.
pub struct Chunk {
    start: NonNull<u8>,
    header: Option<NonNull<Header>>, // None: 'static bytes
    len: u32,
}

/// What is known of one buffer.
pub(super) struct Header {
    refs: Cell<u32>,
    data: NonNull<u8>,
    /// Set while the buffer is lent out: one strong count of the core, so that its memory stays.
    core: Cell<*const Core>,
    owner: Owner,
}

enum Owner {
    /// A receive buffer, by its number.
    Ring(u16),
    /// Pooled, `limits::BULK_BUFFER` bytes.
    Bulk,
    /// Memory of the caller, held only to be freed.
    Vec(#[expect(dead_code)] Vec<u8>),
    Bytes(#[expect(dead_code)] Bytes),
}

impl Chunk {
    /// No bytes; as the result of a receive it means the end of the stream.
    pub const fn empty() -> Chunk {
        Chunk::from_static(&[])
    }

    /// Bytes that live for ever; nothing is allocated. At most 4 GiB are taken.
    pub const fn from_static(bytes: &'static [u8]) -> Chunk {
        let len = if bytes.len() > u32::MAX as usize { u32::MAX } else { bytes.len() as u32 };
        // SAFETY: a reference's pointer is never null.
        let start = unsafe { NonNull::new_unchecked(bytes.as_ptr().cast_mut()) };
        Chunk { start, header: None, len }
    }

    /// Takes over a vector without copying (one small allocation). At most 4 GiB are taken.
    pub fn from_vec(vec: Vec<u8>) -> Chunk {
        let (data, len) = (vec.as_ptr(), vec.len());
        Chunk::owned(data, len, Owner::Vec(vec))
    }

    /// Takes over `Bytes` without copying (one small allocation). At most 4 GiB are taken.
    pub fn from_bytes(bytes: Bytes) -> Chunk {
        let (data, len) = (bytes.as_ptr(), bytes.len());
        Chunk::owned(data, len, Owner::Bytes(bytes))
    }

    fn owned(data: *const u8, len: usize, owner: Owner) -> Chunk {
        if len == 0 {
            return Chunk::empty();
        }
        let Some(data) = NonNull::new(data.cast_mut()) else { return Chunk::empty() };
        let header = Box::new(Header { refs: Cell::new(1), data, core: Cell::new(std::ptr::null()), owner });
        let header = NonNull::from(Box::leak(header));
        Chunk { start: data, header: Some(header), len: u32::try_from(len).unwrap_or(u32::MAX) }
    }

    /// The first `len` bytes of a buffer of which the caller owns the only reference.
    ///
    /// # Safety
    /// `header` came from [`Buffers::small`], [`Buffers::large`] or [`Buffers::picked`], was not given back
    /// since, and its first `len` bytes are initialised and no longer written by anybody.
    pub(super) unsafe fn from_header(header: NonNull<Header>, len: u32) -> Chunk {
        // SAFETY: headers live as long as a reference to them is counted; the caller hands us one.
        let start = unsafe { header.as_ref() }.data;
        Chunk { start, header: Some(header), len }
    }

    /// Drops the first `n` bytes (all of them when there are fewer).
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.len as usize);
        // SAFETY: n <= len, so the pointer stays inside the buffer or one past its end.
        self.start = unsafe { self.start.add(n) };
        self.len -= n as u32;
    }

    /// Keeps only the first `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Takes the first `n` bytes out as a chunk of their own; both share the buffer.
    pub fn split_to(&mut self, n: usize) -> Chunk {
        let mut front = self.clone();
        front.truncate(n);
        self.advance(n);
        front
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start..start+len lies in one buffer that is initialised there, kept alive by our count, and
        // written by nobody: the kernel gets a buffer only when no chunk refers to it, and there is no DerefMut.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Chunk {
        if let Some(header) = self.header {
            // SAFETY: our own count keeps the header alive.
            let refs = unsafe { &header.as_ref().refs };
            refs.set(refs.get().checked_add(1).expect("fewer than 2^32 windows on one buffer"));
        }
        Chunk { start: self.start, header: self.header, len: self.len }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(header) = self.header else { return };
        // SAFETY: our own count keeps the header alive; the block ends before it can go.
        let last = unsafe {
            let refs = &header.as_ref().refs;
            refs.set(refs.get() - 1);
            refs.get() == 0
        };
        if last {
            // SAFETY: the count is zero, so no other window exists.
            unsafe { release(header) };
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Gives a buffer back to where it came from.
///
/// # Safety
/// The caller owns the only reference to the header, and uses it no more.
pub(super) unsafe fn release(header: NonNull<Header>) {
    // SAFETY: alive, by the caller's word.
    let Header { core, owner, .. } = unsafe { header.as_ref() };
    let core = core.get();
    match owner {
        Owner::Vec(_) | Owner::Bytes(_) => {
            // SAFETY: made by Box::leak in `owned`, and nobody else refers to it.
            drop(unsafe { Box::from_raw(header.as_ptr()) });
        }
        Owner::Ring(number) => {
            // SAFETY: `lend` left one strong count with the header, so the core is alive; here it is taken
            // back, after the last use of the header, whose memory the core owns.
            let core = unsafe { Rc::from_raw(core) };
            core.buffers.give_back(*number);
        }
        Owner::Bulk => {
            // SAFETY: as above.
            let core = unsafe { Rc::from_raw(core) };
            core.buffers.give_back_large(header);
        }
    }
}

/// All buffers of one core.
pub(super) struct Buffers {
    memory: NonNull<u8>,
    layout: Layout,
    headers: Box<[Header]>,
    bytes: u32,
    /// The entries that the kernel reads (io_uring), page-aligned, as many as there are buffers.
    ring: Option<(NonNull<BufRingEntry>, Layout)>,
    tail: Cell<u16>,
    /// Numbers of free buffers (epoll; with io_uring the ring itself is the list).
    free: RefCell<Vec<u16>>,
    large: RefCell<Vec<NonNull<Header>>>,
    vecs: RefCell<Vec<Vec<u8>>>,
}

const PAGE: usize = 4096;
/// Bytes between two receive buffers. Most hold one short head: were they a power of two apart, all heads would
/// compete for the same few sets of the processor's caches. An odd number of cache lines spreads them over all.
const COLOUR: usize = 5 * 64;
const LARGE: Layout = match Layout::from_size_align(limits::BULK_BUFFER, PAGE) {
    Ok(layout) => layout,
    Err(_) => panic!("BULK_BUFFER is a sane size"),
};

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: every layout here has a size above zero (`Buffers::new` refuses others).
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Buffers {
    /// `count` receive buffers (a power of two up to 32768, as io_uring demands) of `bytes` bytes each, laid out
    /// as a ring for the kernel when `ring` is set.
    pub fn new(count: u16, bytes: u32, ring: bool) -> io::Result<Buffers> {
        let wrong =
            || io::Error::new(io::ErrorKind::InvalidInput, "receive buffers: a power of two, of some bytes");
        if !count.is_power_of_two() || bytes == 0 {
            return Err(wrong());
        }
        let stride = (bytes as usize).checked_add(COLOUR).ok_or_else(wrong)?;
        let size = usize::from(count).checked_mul(stride).ok_or_else(wrong)?;
        let layout = Layout::from_size_align(size, PAGE).map_err(|_| wrong())?;
        let memory = allocate(layout);
        for page in (0..size).step_by(PAGE) {
            // SAFETY: page < size, inside the allocation, which nobody else knows yet. Volatile, so that it is done:
            // what a core needs is taken when it starts, and no request waits for a page of memory.
            unsafe { memory.as_ptr().add(page).write_volatile(0) };
        }
        let headers = (0..count)
            .map(|number| Header {
                refs: Cell::new(0),
                // SAFETY: number < count, so the offset is inside the allocation.
                data: unsafe { memory.add(usize::from(number) * stride) },
                core: Cell::new(std::ptr::null()),
                owner: Owner::Ring(number),
            })
            .collect();
        let buffers = Buffers {
            memory,
            layout,
            headers,
            bytes,
            ring: if ring { Some(ring_memory(count)?) } else { None },
            tail: Cell::new(0),
            free: RefCell::new(Vec::new()),
            large: RefCell::new(Vec::new()),
            vecs: RefCell::new(Vec::new()),
        };
        (0..count).for_each(|number| buffers.give_back(number));
        Ok(buffers)
    }

    /// Address and number of the entries of the provided-buffer ring.
    pub fn ring(&self) -> Option<(u64, u16)> {
        self.ring.map(|(entries, _)| (entries.as_ptr() as u64, self.headers.len() as u16))
    }

    /// Size of a small buffer.
    pub fn small_bytes(&self) -> u32 {
        self.bytes
    }

    /// The buffer that the kernel took from the ring and filled; None for a number that does not exist.
    pub fn picked(&self, core: &Rc<Core>, number: u16) -> Option<NonNull<Header>> {
        self.headers.get(usize::from(number)).map(|header| lend(core, NonNull::from(header)))
    }

    /// A free small buffer for a receive by system call: pointer and size. None when all are in use, and always
    /// with io_uring, where only the kernel picks.
    pub fn small(&self, core: &Rc<Core>) -> Option<NonNull<Header>> {
        let number = self.free.borrow_mut().pop()?;
        self.picked(core, number)
    }

    /// A large buffer, [`limits::BULK_BUFFER`] bytes.
    pub fn large(&self, core: &Rc<Core>) -> NonNull<Header> {
        let pooled = self.large.borrow_mut().pop();
        let header = pooled.unwrap_or_else(|| {
            let data = allocate(LARGE);
            let header =
                Header { refs: Cell::new(0), data, core: Cell::new(std::ptr::null()), owner: Owner::Bulk };
            NonNull::from(Box::leak(Box::new(header)))
        });
        lend(core, header)
    }

    fn give_back(&self, number: u16) {
        let Some((entries, _)) = self.ring else {
            self.free.borrow_mut().push(number);
            return;
        };
        let tail = self.tail.get();
        let at = usize::from(tail) & (self.headers.len() - 1);
        // SAFETY: `at` is below the number of entries. The kernel reads entries only below the tail that we
        // publish, and at most headers.len() buffers are ever in the ring, so this entry is ours; its tail field
        // (`resv` of entry 0) is not touched by the setters.
        unsafe {
            let entry = &mut *entries.as_ptr().add(at);
            entry.set_addr(self.headers[usize::from(number)].data.as_ptr() as u64);
            entry.set_len(self.bytes);
            entry.set_bid(number);
        }
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: the tail is an aligned u16 inside the ring's memory, which lives as long as self; the kernel
        // reads it concurrently, hence the atomic store, with Release so that the entry is seen first.
        unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries.as_ptr()).cast_mut()) }
            .store(tail.wrapping_add(1), Ordering::Release);
    }

    fn give_back_large(&self, header: NonNull<Header>) {
        let mut large = self.large.borrow_mut();
        if large.len() < limits::BULK_POOL {
            large.push(header);
        } else {
            free_large(header);
        }
    }

    /// An empty send buffer.
    pub fn take_vec(&self) -> Vec<u8> {
        self.vecs.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(limits::SEND_BUFFER))
    }

    /// Takes a send buffer back, unless it has grown too large, was none to begin with, or enough are there.
    pub fn give_vec(&self, mut vec: Vec<u8>) {
        let mut vecs = self.vecs.borrow_mut();
        if vecs.len() < limits::SEND_POOL
            && (limits::SEND_BUFFER..=limits::SEND_BUFFER_KEEP).contains(&vec.capacity())
        {
            vec.clear();
            vecs.push(vec);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // Nothing is lent out: every lent header holds a strong count of the core that owns self.
        self.large.borrow_mut().drain(..).for_each(free_large);
        // SAFETY: allocated with these layouts in `new`. No operation that could write here is left: the core
        // reaps all of them (or leaks itself) before it lets go of its driver.
        unsafe {
            dealloc(self.memory.as_ptr(), self.layout);
            if let Some((entries, layout)) = self.ring {
                dealloc(entries.as_ptr().cast(), layout);
            }
        }
    }
}

fn ring_memory(count: u16) -> io::Result<(NonNull<BufRingEntry>, Layout)> {
    let size = usize::from(count) * size_of::<BufRingEntry>();
    let layout = Layout::from_size_align(size, PAGE).map_err(io::Error::other)?;
    Ok((allocate(layout).cast(), layout))
}

/// Counts the first reference to a buffer, and one to its core.
fn lend(core: &Rc<Core>, header: NonNull<Header>) -> NonNull<Header> {
    // SAFETY: headers of the ring live as long as the core, pooled ones until `free_large`.
    let lent = unsafe { header.as_ref() };
    lent.refs.set(1);
    lent.core.set(Rc::into_raw(core.clone()));
    header
}

/// The memory of a lent buffer, for a receive.
pub(super) fn memory(header: NonNull<Header>) -> *mut u8 {
    // SAFETY: a lent header is alive.
    unsafe { header.as_ref() }.data.as_ptr()
}

fn free_large(header: NonNull<Header>) {
    // SAFETY: made by Box::leak and `allocate` in `large`, and in no list any more.
    unsafe {
        let header = Box::from_raw(header.as_ptr());
        dealloc(header.data.as_ptr(), LARGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_three_words() {
        assert_eq!(size_of::<Chunk>(), 24);
        assert_eq!(size_of::<Option<Chunk>>(), 24);
    }

    #[test]
    fn windows_are_cut_and_share_their_buffer() {
        let mut chunk = Chunk::from_vec(b"GET / HTTP/1.1".to_vec());
        let method = chunk.split_to(3);
        chunk.advance(1);
        let mut path = chunk.clone();
        path.truncate(1);
        assert_eq!((&*method, &*path, &*chunk), (&b"GET"[..], &b"/"[..], &b"/ HTTP/1.1"[..]));
        drop(chunk);
        assert_eq!(&*method, b"GET");
        let mut all = method;
        all.advance(99);
        assert!(all.is_empty() && Chunk::from_vec(Vec::new()).is_empty());
        assert_eq!(&*Chunk::from_bytes(Bytes::from_static(b"x")), b"x");
    }

    #[test]
    fn buffers_are_kept_for_reuse_up_to_a_bound() {
        let buffers = Buffers::new(1, 64, false).unwrap();
        buffers.give_vec(Vec::with_capacity(limits::SEND_BUFFER_KEEP + 1));
        assert_eq!(buffers.vecs.borrow().len(), 0, "one that has grown too large");
        buffers.give_vec(vec![0; 10]);
        assert_eq!(buffers.vecs.borrow().len(), 0, "one that would have to grow again");
        for _ in 0..limits::SEND_POOL + 5 {
            buffers.give_vec(Vec::with_capacity(limits::SEND_BUFFER_KEEP));
        }
        assert_eq!(buffers.vecs.borrow().len(), limits::SEND_POOL);
        for _ in 0..limits::BULK_POOL + 5 {
            let data = allocate(LARGE);
            let header =
                Header { refs: Cell::new(0), data, core: Cell::new(std::ptr::null()), owner: Owner::Bulk };
            buffers.give_back_large(NonNull::from(Box::leak(Box::new(header))));
        }
        assert_eq!(buffers.large.borrow().len(), limits::BULK_POOL);
    }
}
