//! Signals to other processes.

use std::io;

/// Asks a process to end soon.
pub const TERM: i32 = libc::SIGTERM;
/// Asks it to end when its requests are answered.
pub const QUIT: i32 = libc::SIGQUIT;
/// Asks it to read its configuration again.
pub const HUP: i32 = libc::SIGHUP;

/// Sends a signal to one process; a number that is no process's id is an error.
pub fn send(pid: u32, signal: i32) -> io::Result<()> {
    // 0 and negative numbers would mean groups of processes
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill(2) takes two numbers and touches no memory of this process.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_processes_are_signalled() {
        assert_eq!(send(0, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(u32::MAX, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(send(std::process::id(), 0).is_ok());
    }
}
