//! How many descriptors the process may open.

use std::io;

/// Raises the limit towards `wanted`, as far as the hard limit (or, for root, the kernel) allows; returns
/// what it is now. It is never lowered.
///
/// # Errors
/// What `getrlimit(2)` or `setrlimit(2)` says.
pub fn raise_descriptor_limit(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live struct of the right type, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    for hard in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let new = libc::rlimit { rlim_cur: wanted.min(hard), rlim_max: hard };
        // SAFETY: the pointer is to a live struct of the right type, which the call reads.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const new) } == 0 {
            return Ok(new.rlim_cur);
        }
    }
    Err(io::Error::last_os_error())
}
