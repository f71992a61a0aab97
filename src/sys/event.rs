//! [`EventFd`]: wakes a thread that sleeps in poll(2) or io_uring.

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd as NixEventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// An eventfd(2) as a level: woken any number of times, it is readable until cleared. Non-blocking,
/// close-on-exec.
///
/// The sleeper's order is: clear, look for work, poll. A thread that makes work visible first and
/// wakes afterwards is then never missed.
#[derive(Debug)]
pub struct EventFd(NixEventFd);

impl EventFd {
    /// A new eventfd that is not readable yet.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM` of eventfd(2).
    pub fn new() -> io::Result<EventFd> {
        Ok(EventFd(NixEventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes it readable. Never blocks, never fails: a counter that is full (2^64 - 2 wakes
    /// uncleared) is readable already.
    pub(crate) fn wake(&self) {
        loop {
            match self.0.write(1) {
                Err(Errno::EINTR) => {}
                Ok(_) | Err(Errno::EAGAIN) => return,
                // write(2) to an eventfd this value owns has no other error; going on would lose a
                // wake-up silently.
                Err(errno) => panic!("write to an eventfd failed: {errno}"),
            }
        }
    }

    /// Makes it unreadable again and returns whether it had been woken.
    pub fn clear(&self) -> bool {
        loop {
            match self.0.read() {
                Ok(_) => return true,
                Err(Errno::EAGAIN) => return false,
                Err(Errno::EINTR) => {}
                Err(errno) => panic!("read from an eventfd failed: {errno}"),
            }
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn readable(event: &EventFd) -> bool {
        poll(&mut [PollFd::new(event.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn is_a_level_not_a_count() {
        let event = EventFd::new().unwrap();
        assert!(!readable(&event));
        assert!(!event.clear());
        event.wake();
        event.wake();
        assert!(readable(&event));
        assert!(event.clear());
        assert!(!readable(&event));
        assert!(!event.clear());
    }

    #[test]
    fn a_full_counter_does_not_block_the_waker() {
        let event = EventFd::new().unwrap();
        event.0.write(u64::MAX - 1).unwrap();
        event.wake();
        assert!(event.clear());
        assert!(!readable(&event));
    }
}
