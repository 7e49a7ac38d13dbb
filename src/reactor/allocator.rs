//! The allocator: mimalloc, a heap for each thread; buffers in small pages of memory.
//!
//! mimalloc asks the kernel for huge pages, which HTTP/2 and TLS are a few hundredths faster for. But in a huge page the empty
//! part of a buffer is resident too, and the buffers of an idle connection are almost empty: two of the h2 crate
//! alone are 24 KiB. So what is as large as a buffer lies in an arena of its own that has no huge pages, where only what was
//! touched is resident (perf/0005-tls-http2.md has the figures).

use std::alloc::{GlobalAlloc, Layout};
use std::ops::RangeInclusive;
use std::ptr;
use std::sync::OnceLock;

use libmimalloc_sys as mi;
use mimalloc::MiMalloc;

/// Sizes that buffers have: smaller ones share pages, larger ones are few and in use.
const BUFFER: RangeInclusive<usize> = 8 << 10..=32 << 10;
/// Addresses set aside for buffers; past them buffers come from where all else comes from. Memory is taken as it is touched.
const ADDRESSES: usize = 8 << 30;

/// See the top of this file.
pub struct Allocator;

// SAFETY: every block comes from mimalloc, with the size and alignment asked for or as null, and goes back to mimalloc, which
// finds out itself which of its heaps a block is from, on whatever thread.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if BUFFER.contains(&layout.size()) {
            // SAFETY: as ours.
            return unsafe { buffer(layout) };
        }
        // SAFETY: as ours.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as ours.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as ours.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as ours.
        unsafe { MiMalloc.realloc(block, layout, size) }
    }
}

/// A block in small pages, or any if there is none.
///
/// # Safety
/// As [`GlobalAlloc::alloc`].
#[cold]
#[inline(never)]
unsafe fn buffer(layout: Layout) -> *mut u8 {
    if let Some(Heap(heap)) = HEAP.get_or_init(heap) {
        // SAFETY: the heap is never deleted, and may be used from any thread (mimalloc 3).
        let block = unsafe { mi::mi_heap_malloc_aligned(*heap, layout.size(), layout.align()) };
        if !block.is_null() {
            return block.cast();
        }
    }
    // SAFETY: as ours.
    unsafe { MiMalloc.alloc(layout) }
}

static HEAP: OnceLock<Option<Heap>> = OnceLock::new();

struct Heap(*mut mi::mi_heap_t);

// SAFETY: mimalloc's heaps may be used from any thread (mimalloc 3, `mi_heap_new`).
unsafe impl Send for Heap {}
// SAFETY: the same.
unsafe impl Sync for Heap {}

fn heap() -> Option<Heap> {
    // SAFETY: new addresses, of nobody else; they are given back to nobody as long as the process runs.
    let start = unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let start = libc::mmap(ptr::null_mut(), ADDRESSES, access, kind | libc::MAP_NORESERVE, -1, 0);
        if start == libc::MAP_FAILED {
            return None;
        }
        libc::madvise(start, ADDRESSES, libc::MADV_NOHUGEPAGE);
        start
    };
    let mut arena: mi::mi_arena_id_t = ptr::null_mut();
    // SAFETY: the addresses are mapped, readable and writable, and zero; mimalloc aligns them itself. The heap gets an
    // arena that was made for it alone.
    let heap = unsafe {
        if !mi::mi_manage_os_memory_ex(start, ADDRESSES, true, false, true, -1, true, &raw mut arena) {
            return None;
        }
        mi::mi_heap_new_in_arena(arena)
    };
    (!heap.is_null()).then_some(Heap(heap))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Blocks of 16 KiB, as many as fill two huge pages.
    fn blocks() -> Vec<*mut u8> {
        let layout = Layout::new::<[u8; 16 << 10]>();
        // SAFETY: the layout is not empty.
        (0..256).map(|_| unsafe { Allocator.alloc(layout) }).collect()
    }

    fn free(blocks: &[usize]) {
        for &block in blocks {
            // SAFETY: from `blocks`, once each.
            unsafe { Allocator.dealloc(block as *mut u8, Layout::new::<[u8; 16 << 10]>()) };
        }
    }

    #[test]
    fn the_empty_part_of_a_buffer_is_not_resident() {
        let page = 4096;
        let blocks = blocks();
        let mut resident = 0;
        for &block in &blocks {
            // SAFETY: the block has 16 KiB; `mincore` writes a byte for each page between.
            unsafe {
                block.write(1);
                let first = (block as usize).next_multiple_of(page) as *mut _;
                let mut pages = [0u8; 3];
                assert_eq!(libc::mincore(first, 3 * page, pages.as_mut_ptr()), 0);
                resident += pages.iter().filter(|&&here| here & 1 == 1).count();
            }
        }
        // the first page of each may lie behind the first byte, or be it
        assert!(resident <= 256 + 16, "{resident} pages of {} are resident", 3 * 256);
        free(&blocks.iter().map(|&block| block as usize).collect::<Vec<_>>());
    }

    #[test]
    fn a_buffer_is_freed_on_another_thread_and_its_memory_used_again() {
        let mut places = HashSet::new();
        for _ in 0..64 {
            let blocks: Vec<usize> = blocks().iter().map(|&block| block as usize).collect();
            assert!(blocks.iter().all(|&block| block != 0));
            places.extend(blocks.iter().copied());
            std::thread::spawn(move || free(&blocks)).join().unwrap();
        }
        assert!(places.len() < 8 * 256, "{} places for 256 blocks at a time", places.len());
    }

    #[test]
    fn a_buffer_that_grows_keeps_its_bytes() {
        let mut bytes: Vec<u8> = Vec::new();
        let layout = Layout::new::<[u8; 8 << 10]>();
        // SAFETY: the block has the size and alignment that the layouts say, and is freed with the last one.
        unsafe {
            let block = Allocator.alloc(layout);
            (0..layout.size()).for_each(|at| block.add(at).write(at as u8));
            let block = Allocator.realloc(block, layout, 40 << 10);
            bytes.extend_from_slice(std::slice::from_raw_parts(block, layout.size()));
            Allocator.dealloc(block, Layout::new::<[u8; 40 << 10]>());
        }
        assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    }
}
