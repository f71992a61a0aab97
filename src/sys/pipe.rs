//! Pipes for children.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd;

/// A pipe, read end first, both ends close-on-exec and blocking.
///
/// # Errors
/// pipe(2): EMFILE, ENFILE.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// Asks for room for `wish` bytes and returns how many the pipe holds. The wish is refused beyond
/// `/proc/sys/fs/pipe-max-size`, or when the user's pipes hold too many pages already (pipe(7)); a
/// new pipe may then hold a page only.
///
/// # Errors
/// fcntl(2) with F_GETPIPE_SZ: EBADF.
pub(crate) fn ask_capacity(pipe: impl AsFd, wish: usize) -> io::Result<usize> {
    if let Ok(wish) = i32::try_from(wish) {
        // A refusal shows in the capacity that is returned.
        let _ = fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(wish));
    }
    Ok(fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ)? as usize)
}

/// Makes this end non-blocking; the other end stays as it is.
///
/// # Errors
/// fcntl(2): EBADF.
pub(crate) fn set_nonblocking(pipe: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(pipe.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pipe_takes_its_capacity_in_one_write() {
        let (_rx, tx) = pipe().unwrap();
        set_nonblocking(&tx).unwrap();
        let capacity = ask_capacity(&tx, 128 * 1024).unwrap();
        assert_eq!(unistd::write(&tx, &vec![b'x'; capacity]), Ok(capacity));
        assert_eq!(unistd::write(&tx, b"x"), Err(nix::errno::Errno::EAGAIN));
    }

    #[test]
    fn an_immodest_wish_leaves_the_pipe_as_it_is() {
        let (_rx, tx) = pipe().unwrap();
        let before = ask_capacity(&tx, 8192).unwrap();
        assert_eq!(ask_capacity(&tx, usize::MAX).unwrap(), before);
    }
}
