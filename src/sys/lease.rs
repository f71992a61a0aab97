//! Leases on files (fcntl(2), `F_SETLEASE`): to know that no process has a file open, and to show
//! what one does to a process that opens the file.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes a lease against every other open of a file that no other process has open, for as long as
/// the descriptor is open or until it is broken. The signal of a break is ignored from now on in
/// the whole process: a process that opens the file waits for the kernel's time.
///
/// # Errors
/// fcntl(2): EAGAIN when the file is open elsewhere, EACCES when it is not the process's own.
pub fn hold_write_lease(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a signal number and a constant that ignores it; no handler, no pointer.
    if unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an open descriptor, which the caller borrows to us, and two numbers.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a lease that was taken on this descriptor is whole: no process has come to open the file.
///
/// # Errors
/// fcntl(2).
pub(crate) fn lease_is_whole(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: an open descriptor, which the caller borrows to us, and a number.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) } {
        -1 => Err(io::Error::last_os_error()),
        // While it is being broken, this is what it is to become.
        kind => Ok(kind == libc::F_WRLCK),
    }
}
