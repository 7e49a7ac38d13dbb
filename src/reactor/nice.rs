//! Threads that must stand back: control, logs, everything that is not a core.

/// Lowers the calling thread's priority to nice `level` (10 for control and log threads), so that the cores
/// come first. Refusal is ignored: it costs latency, not correctness.
pub fn stand_back(level: i32) {
    // SAFETY: setpriority takes three integers and touches no memory of ours. On Linux `who` 0 with
    // PRIO_PROCESS is the calling thread alone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, level) };
}

/// The kernel's id of the calling thread, as tools and logs show it.
pub fn thread_id() -> i32 {
    // SAFETY: gettid takes nothing and always succeeds.
    unsafe { libc::gettid() }
}
