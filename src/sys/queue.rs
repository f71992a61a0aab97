//! Small questions to a descriptor that queues bytes for reading.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// How many bytes wait to be read (`FIONREAD`): fanotify, inotify, pipes and sockets answer; an
/// eventfd does not. The kernel walks its queue for it, so this is for rare questions only.
///
/// # Errors
/// `ENOTTY` or `EINVAL` from a descriptor that does not know.
pub(crate) fn queued_bytes(fd: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int through the pointer, which is valid for that.
    Errno::result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    // The kernel's int wraps past 2 GiB; then "all there is" is the safe answer.
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Sets `O_NONBLOCK` on the open file, so for every descriptor that shares it.
///
/// # Errors
/// Those of fcntl(2).
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_tells_what_waits_and_stops_blocking() {
        let (out, inn) = nix::unistd::pipe().unwrap();
        assert_eq!(queued_bytes(&out).unwrap(), 0);
        nix::unistd::write(&inn, b"12345").unwrap();
        assert_eq!(queued_bytes(&out).unwrap(), 5);
        set_nonblocking(&out).unwrap();
        let mut buf = [0; 16];
        assert_eq!(nix::unistd::read(&out, &mut buf), Ok(5));
        assert_eq!(nix::unistd::read(&out, &mut buf), Err(Errno::EAGAIN));
    }
}
