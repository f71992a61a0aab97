//! How the reader sleeps and reads: by poll(2) and read(2), or by io_uring. One small surface, so
//! all else is shared.
//!
//! What io_uring saves is the second system call at a wake-up: its sleep ends with the first bytes
//! already read. Emptying a queue is read(2) either way, since the ring has no trying read for
//! event queues (see `sys::uring`). It is not faster for it (6.18, 2 cores, 100,000 files written,
//! drained every 2 ms: 0.10-0.15 CPU-seconds with io_uring, 0.10-0.18 with poll; a single event
//! after quiet, from mkdir's return to the engine, median: 33-41 µs with io_uring, 22-29 µs with
//! poll).

use crate::sys::event::EventFd;
use crate::sys::queue::set_nonblocking;
use crate::sys::uring::{Found, Uring, Wanted};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What a wait is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitFor {
    /// Any open input, or control.
    Inputs,
    /// Control alone.
    Control,
}

/// The inputs, and the means to wait for and read them.
#[derive(Debug)]
pub(super) struct Port {
    /// `None` once an input has failed: it is neither waited for nor read again.
    inputs: Vec<Option<OwnedFd>>,
    means: Means,
    reason: String,
}

#[derive(Debug)]
enum Means {
    Poll,
    Uring(Box<Uring>),
}

impl Port {
    /// Makes the inputs non-blocking and opens the backend. `io_uring`: it is used where it works
    /// and an idle one does not count as iowait (Linux 6.15); else poll(2) and read(2), which work
    /// everywhere.
    ///
    /// # Errors
    /// fcntl(2) on an input.
    pub(super) fn open(inputs: Vec<OwnedFd>, io_uring: bool) -> io::Result<Port> {
        for fd in &inputs {
            set_nonblocking(fd)?;
        }
        let (means, reason) = match io_uring {
            false => (Means::Poll, "as configured".to_owned()),
            true => match Uring::open(inputs.len() + 1) {
                // Before Linux 6.15 a thread that waits in io_uring counts as waiting for I/O, and
                // an idle daemon shows as a core at 100 % iowait. One system call per wake-up is
                // not worth that alarm.
                Ok(uring) if !uring.hides_iowait() => (Means::Poll, "this kernel counts an idle io_uring as iowait".to_owned()),
                Ok(uring) => (Means::Uring(Box::new(uring)), "io_uring works here".to_owned()),
                Err(why) => (Means::Poll, why.to_string()),
            },
        };
        Ok(Port { inputs: inputs.into_iter().map(Some).collect(), means, reason })
    }

    pub(super) fn name(&self) -> &'static str {
        match self.means {
            Means::Poll => "poll",
            Means::Uring(_) => "io_uring",
        }
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// The descriptor of an input that has not failed.
    pub(super) fn input(&self, input: usize) -> Option<BorrowedFd<'_>> {
        self.inputs[input].as_ref().map(OwnedFd::as_fd)
    }

    /// Closes an input for good.
    pub(super) fn close(&mut self, input: usize) {
        // A poll that io_uring still holds keeps the file alive until it fires; it is never armed
        // again.
        self.inputs[input] = None;
    }

    /// Sleeps until what is waited for may be there, or `limit` is over. May return early for
    /// nothing.
    ///
    /// `spare` gives empty buffers to read into; what was read, or an input's error, goes to `got`
    /// with the buffer, as from [`Port::read`]; a buffer that was not needed comes back there as
    /// `WouldBlock`.
    ///
    /// # Errors
    /// The means to wait have failed, and took the buffers along.
    pub(super) fn wait(
        &mut self,
        control: &EventFd,
        what: WaitFor,
        limit: Option<Duration>,
        spare: &mut dyn FnMut() -> Option<Box<[u8]>>,
        got: &mut dyn FnMut(usize, Box<[u8]>, io::Result<usize>),
    ) -> io::Result<()> {
        let inputs = if what == WaitFor::Inputs { &self.inputs[..] } else { &[] };
        let open = inputs.iter().enumerate().filter_map(|(input, fd)| Some((input, fd.as_ref()?.as_fd())));
        match &mut self.means {
            Means::Uring(uring) => {
                let reads = open.map(|(input, fd)| Wanted { token: input + 1, fd, buf: spare() });
                let all = std::iter::once(Wanted { token: CONTROL, fd: control.as_fd(), buf: None }).chain(reads);
                uring.wait(all, limit, &mut |token, found| match found {
                    Found::Read(buf, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                        got(token - 1, buf, Err(io::ErrorKind::WouldBlock.into()));
                    }
                    Found::Read(buf, read) => got(token - 1, buf, read),
                    Found::Ready => {}
                })
            }
            Means::Poll => {
                let all = std::iter::once(control.as_fd()).chain(open.map(|(_, fd)| fd));
                let mut polls: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
                match ppoll(&mut polls, limit.map(TimeSpec::from_duration), None) {
                    Ok(_) | Err(Errno::EINTR) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            }
        }
    }

    /// One read from an open input into `buf`: the bytes read, `WouldBlock` when none wait.
    pub(super) fn read(&self, input: usize, buf: &mut [u8]) -> io::Result<usize> {
        let Some(fd) = &self.inputs[input] else { return Err(Errno::EBADF.into()) };
        loop {
            match nix::unistd::read(fd, buf) {
                Err(Errno::EINTR) => {}
                other => return other.map_err(io::Error::from),
            }
        }
    }
}

/// Control's token; inputs follow.
const CONTROL: usize = 0;
