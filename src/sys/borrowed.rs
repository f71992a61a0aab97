//! Sockets of a child: found in its table of descriptors, and set from outside.
//!
//! Promises: nothing of a child is held. A descriptor is duplicated for the length of one call, so
//! that a connection ends when the child's own descriptor does.
//!
//! How: pidfd_getfd(2), Linux 5.6. It asks for what ptrace(2) asks for: same user, no more
//! capabilities than ours, and what Yama (`kernel.yama.ptrace_scope` 0 or 1 for a child of ours)
//! and seccomp permit.

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// The TCP sockets that the process `pid` has open, as numbers in its own table. `pidfd` is of that
/// process.
///
/// # Errors
/// proc(5): ENOENT once it is gone. pidfd_getfd(2): EPERM, ENOSYS, ESRCH.
pub(crate) fn tcp_sockets(pidfd: BorrowedFd<'_>, pid: u32) -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // A descriptor may be closed between the listing and the reading of its link.
        let is_socket = fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().as_bytes().starts_with(b"socket:"));
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()).filter(|_| is_socket) else {
            continue;
        };
        match duplicate(pidfd, number) {
            Ok(socket) if is_tcp(&socket) => found.push(number),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Has the kernel acknowledge at once what the process's socket `number` receives next:
/// `TCP_QUICKACK` (tcp(7)).
/// The kernel takes it back as soon as the process answers something, so it has to be repeated.
///
/// # Errors
/// pidfd_getfd(2): EPERM, ENOSYS, ESRCH and EBADF once process or socket are gone; setsockopt(2).
pub(crate) fn acknowledge_at_once(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    set_quick_acks(duplicate(pidfd, number)?.as_fd(), true)
}

/// Switches `TCP_QUICKACK` (tcp(7)) of a socket of ours.
///
/// # Errors
/// setsockopt(2): ENOTSOCK, ENOPROTOOPT for what is no TCP socket.
pub(crate) fn set_quick_acks(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let value = libc::c_int::from(on);
    let len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer is to an int that outlives the call, and the length is that of an int.
    let done = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, value, len)
    };
    Errno::result(done)?;
    Ok(())
}

/// Whether a socket of ours acknowledges at once.
///
/// # Errors
/// getsockopt(2): as for [`set_quick_acks`].
#[cfg(test)]
pub(crate) fn quick_acks(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(int_option(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK)? != 0)
}

/// Segments with data that a socket of ours has received; `None` where the kernel does not count
/// them (`tcpi_data_segs_in`, Linux 4.6).
///
/// # Errors
/// getsockopt(2): as for [`set_quick_acks`].
pub(crate) fn data_segments_in(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    /// Where it lies in `struct tcp_info` (linux/tcp.h), which only grows.
    const AT: std::ops::Range<usize> = 152..156;
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: both pointers are to values that outlive the call, and `len` is the length of the
    // first.
    let done = unsafe {
        let value = info.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, value, &raw mut len)
    };
    Errno::result(done)?;
    let counted = info.get(AT).filter(|_| len as usize >= AT.end).and_then(|bytes| bytes.try_into().ok());
    Ok(counted.map(u32::from_ne_bytes))
}

fn duplicate(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: three integers, no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec, and nothing else
    // knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn is_tcp(socket: &OwnedFd) -> bool {
    int_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PROTOCOL).is_ok_and(|protocol| protocol == libc::IPPROTO_TCP)
}

fn int_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: both pointers are to values that outlive the call; the length is that of the first.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    Errno::result(done)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::super::apart::apart;
    use super::super::child::pidfd_open;
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    /// A child with a connection as its standard input and another socket as its output.
    #[test]
    fn the_connection_of_a_child_is_found_and_set() {
        apart();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let (_ours, other) = UnixStream::pair().unwrap();
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::from(OwnedFd::from(client)))
            .stdout(Stdio::from(OwnedFd::from(other)))
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(child.id()).unwrap();
        let found = tcp_sockets(pidfd.as_fd(), child.id());
        let set = acknowledge_at_once(pidfd.as_fd(), 0);
        let not_a_socket = acknowledge_at_once(pidfd.as_fd(), 2);
        let not_open = acknowledge_at_once(pidfd.as_fd(), 999);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap(), [0]);
        set.unwrap();
        assert!(not_a_socket.is_err());
        assert_eq!(not_open.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(acknowledge_at_once(pidfd.as_fd(), 0).unwrap_err().raw_os_error(), Some(libc::ESRCH), "it is gone");
    }
}
