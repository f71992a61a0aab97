//! For tests: a thread whose descriptors are its own.
//!
//! A process has one table of descriptors, and a child holds a copy of all of it between fork and exec. What one test closes at that
//! moment stays open as long as a child that another test starts: its event comes later, its pipe comes to its end later. A thread
//! with a table of its own is not concerned.

#![allow(unsafe_code)]

use std::cell::Cell;

thread_local! {
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread, and those it starts from here on, a table of descriptors of their own: empty but for the standard three. To be
/// called before the thread opens any. A second call does nothing.
pub(crate) fn apart() {
    if APART.replace(true) {
        return;
    }
    // SAFETY: three numbers, no pointers. What it closes it closes in a table that this call makes: the descriptors of other threads
    // stay open in theirs, and this thread has none yet, which the caller sees to.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE as i32) };
    assert_eq!(done, 0, "close_range(2), Linux 5.9: {}", std::io::Error::last_os_error());
}
