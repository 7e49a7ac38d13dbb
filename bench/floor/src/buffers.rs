//! A ring of provided buffers (kernel 5.19): the kernel takes one for each piece a multishot receive delivers, we
//! put it back once the bytes have been sent on.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::ring::Ring;

/// The group id of the one buffer ring a process here has.
pub const GROUP: u16 = 0;

/// `count` buffers of `size` bytes each, shared with the kernel. Lives as long as the process.
pub struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    size: usize,
    mask: u16,
    tail: u16,
}

fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh private anonymous mapping touches no memory of ours.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mmap gave a null page"))
}

impl Buffers {
    /// Maps `count` (a power of two) buffers of `size` bytes.
    pub fn new(count: u16, size: usize) -> io::Result<Buffers> {
        assert!(count.is_power_of_two(), "the kernel wants a power of two");
        let entries = map(usize::from(count) * size_of::<BufRingEntry>())?.cast();
        let memory = map(usize::from(count) * size)?;
        let mut buffers = Buffers { entries, memory, size, mask: count - 1, tail: 0 };
        for id in 0..count {
            buffers.stage(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Maps buffers as [`Buffers::new`] and registers them as group [`GROUP`] of `ring`.
    pub fn register(ring: &Ring, count: u16, size: usize) -> io::Result<Buffers> {
        let buffers = Buffers::new(count, size)?;
        // SAFETY: the mapping is page aligned, holds `count` entries and is never unmapped.
        unsafe { ring.uring.submitter().register_buf_ring_with_flags(buffers.address(), count, GROUP, 0)? };
        Ok(buffers)
    }

    /// Where the ring of entries begins, as the kernel wants it at registration.
    pub fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Size of one buffer in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Where buffer `id` begins. Valid until `id` is recycled.
    pub fn start(&self, id: u16) -> *mut u8 {
        debug_assert!(id <= self.mask);
        // SAFETY: `id` names one of the `count` buffers, so the offset stays inside `memory`.
        unsafe { self.memory.as_ptr().add(usize::from(id) * self.size) }
    }

    /// Gives buffer `id` back to the kernel. The caller holds no view of it any more.
    pub fn recycle(&mut self, id: u16) {
        self.stage(id);
        self.publish();
    }

    fn stage(&mut self, id: u16) {
        let address = self.start(id) as u64;
        // SAFETY: the index is masked to the ring; the slot at the tail belongs to us until `publish`.
        let entry = unsafe { &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask)) };
        entry.set_addr(address);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the tail lies in the first entry of a live mapping and is aligned; the kernel reads it with
        // acquire, so release publishes the staged entries.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}
