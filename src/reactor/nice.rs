//! Who goes first where threads share a processor: the cores. Control, logs and all others stand back.

/// Lowers the calling thread's priority to nice `level` (10 for control and log threads), so that the cores
/// come first. Refusal is ignored: it costs latency, not correctness.
pub fn stand_back(level: i32) {
    // SAFETY: setpriority takes three integers and touches no memory of ours. On Linux `who` 0 with
    // PRIO_PROCESS is the calling thread alone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, level) };
}

/// Slice of a core's thread, ns: the shortest that Linux grants.
const SLICE_NS: u64 = 100_000;

/// Asks for short slices of processor time for the calling thread, a core's: when it wakes it then goes at once
/// before a thread that has not yet used up a longer slice, as control has when it takes in a change. The share
/// of time stays as it is. Linux 6.12 and later (`sched_setattr(2)` of an ordinary thread); older ones ignore it.
pub fn go_first() {
    // SAFETY: both take integers only. On Linux 0 is the calling thread alone.
    let (policy, nice) = unsafe { (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)) };
    if policy != libc::SCHED_OTHER {
        return; // somebody has chosen another one
    }
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy as u32,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a structure that outlives the call and writes nothing.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0) };
}

/// The kernel's id of the calling thread, as tools and logs show it.
pub fn thread_id() -> i32 {
    // SAFETY: gettid takes nothing and always succeeds.
    unsafe { libc::gettid() }
}
