//! For tests: a thread whose descriptors are its own.
//!
//! A process has one table of descriptors, and a child holds a copy of all of it between fork and
//! exec. What one test closes at that moment stays open as long as a child that another test
//! starts: its event comes later, its pipe comes to its end later. A thread with a table of its own
//! is not concerned.

#![allow(unsafe_code)]

use std::cell::Cell;

thread_local! {
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread, and those it starts from here on, a table of descriptors of their own: empty
/// but for the standard three. To be called before the thread opens any. A second call does
/// nothing.
pub(crate) fn apart() {
    if APART.replace(true) {
        return;
    }
    // SAFETY: three numbers, no pointers. What it closes it closes in a table that this call makes:
    // the descriptors of other threads stay open in theirs, and this thread has none yet, which the
    // caller sees to.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE as i32) };
    assert_eq!(done, 0, "close_range(2), Linux 5.9: {}", std::io::Error::last_os_error());
}

/// A process that holds a listening Unix socket of another that has ended; it ends with what is
/// returned.
pub(crate) fn left_listening(path: &std::path::Path) -> LeftListening {
    use std::io::Read;
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixListener;
    use std::os::unix::process::CommandExt;

    let at = path.to_owned();
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "sleep 1000 >/dev/null & echo $!"]).stdout(std::process::Stdio::piped());
    let listen = move || {
        let listener = UnixListener::bind(&at)?;
        // SAFETY: F_SETFD takes no pointer.
        unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_SETFD, 0) };
        let _ = listener.into_raw_fd();
        Ok(())
    };
    // SAFETY: it allocates little, in a test, where the allocator of this C library can be used
    // after fork(2).
    unsafe { command.pre_exec(listen) };
    let mut shell = command.spawn().unwrap();
    let mut pid = String::new();
    shell.stdout.take().unwrap().read_to_string(&mut pid).unwrap();
    shell.wait().unwrap();
    LeftListening(pid.trim().parse().unwrap())
}

/// See [`left_listening`].
pub(crate) struct LeftListening(i32);

impl Drop for LeftListening {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0), nix::sys::signal::Signal::SIGKILL);
    }
}
