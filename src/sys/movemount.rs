//! Moving a mount without looking into it: open_tree(2), move_mount(2).

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// linux/mount.h, Linux 6.5: put the mount below the one that is on top at the destination.
const MOVE_MOUNT_BENEATH: libc::c_uint = 0x200;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Moves the mount that is on top of `from` to `to`: on top of the present mount, or, with
/// `beneath`, below it. Neither asks the server of a network filesystem anything (measured on NFS
/// and FUSE).
///
/// # Errors
/// `EINVAL`: `from` is no mount or lies on a shared one; with `beneath` also a kernel before 6.5,
/// or `to` is not a mount or lies on the mount namespace's root. `ENOENT`, `EPERM`.
pub fn move_mount(from: &Path, to: &Path, beneath: bool) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: `from` is NUL-terminated and lives through the call, which keeps no pointer to it.
    let fd =
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), libc::O_CLOEXEC | libc::AT_NO_AUTOMOUNT) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor, and nothing else owns it.
    let tree = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | if beneath { MOVE_MOUNT_BENEATH } else { 0 };
    // SAFETY: both strings are NUL-terminated and live through the call; `tree` is open.
    let done = unsafe { libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
