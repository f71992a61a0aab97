//! Writing to files of which others may have made that they do not block.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits where the file does not block: a process that shares it may have set it so.
pub(crate) struct Patient<T>(pub(crate) T);

impl<T: Write + AsFd> Patient<T> {
    fn until_ready<R>(&mut self, mut call: impl FnMut(&mut T) -> io::Result<R>) -> io::Result<R> {
        loop {
            match call(&mut self.0) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
        }
    }
}

impl<T: Write + AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_ready(|out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.until_ready(Write::flush)
    }
}
