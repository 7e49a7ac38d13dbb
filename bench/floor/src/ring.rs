//! One io_uring with the flags of a thread that owns its ring alone, and the two calls of a loop: queue, turn.

use std::io;

use io_uring::{IoUring, cqueue, squeue};

/// Submission entries. More than a turn needs; when full the queue is submitted early.
const SUBMISSIONS: u32 = 4096;
/// Completion entries: several per connection at 2,000 connections, so that the queue never overflows into the
/// kernel's slow list.
const COMPLETIONS: u32 = 16384;

/// A ring and the completions of the current turn.
pub struct Ring {
    pub(crate) uring: IoUring,
}

impl Ring {
    /// Fails where the kernel is older than 6.1 or a seccomp profile refuses io_uring: this tool has no fallback.
    pub fn new() -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        Ok(Ring { uring })
    }

    /// Queues one operation.
    ///
    /// # Safety
    /// Memory that `entry` points to stays valid and unaliased until its completion.
    pub unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: forwarded to the caller.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.uring.submit().expect("io_uring_enter refused a full queue");
        }
    }

    /// Submits what is queued, waits for at least one completion and moves all completions into `into`. One syscall.
    pub fn turn(&mut self, into: &mut Vec<cqueue::Entry>) -> io::Result<()> {
        match self.uring.submit_and_wait(1) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
            Err(e) => return Err(e),
        }
        into.extend(self.uring.completion());
        Ok(())
    }
}
