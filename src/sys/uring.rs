//! io_uring(7) for one reading thread: sleep until one of some queues has something, and have it
//! read by then. Safe, because buffers belong to the ring while it waits, and a wait does not end
//! before every read in it has ended.
//!
//! Promises: [`Uring::open`] proves by doing that the ring works here (operations, timed waits,
//! cancelling), so a container that forbids it is found out at the start and not at the first
//! event. Waiting does not show up as iowait where the kernel can help it
//! (`IORING_ENTER_NO_IOWAIT`, 6.15); before, an idle ring makes `top` show a core that waits for
//! I/O.
//!
//! How it works. Each queue gets a read that the kernel leaves waiting; the first to be done ends
//! the wait, and the others are cancelled. What may not be relied on: that a read of an
//! `O_NONBLOCK` file comes back with `EAGAIN` when nothing is there. On 6.18 it waits, for fanotify
//! and inotify as for pipes, and `RWF_NOWAIT` is refused for fanotify and inotify (measured), so
//! there is no such thing as a trying read of these through the ring, and emptying a queue is left
//! to read(2). On kernels where it does come back, the queue is polled instead.
//!
//! Gives up: overlap. An event queue's read is done when it returns, there is nothing to have in
//! flight beside it.
#![allow(unsafe_code)]

use super::event::EventFd;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// `user_data`: the operation in the high half, the token in the low one.
const POLL: u64 = 1 << 32;
const READ: u64 = 2 << 32;
const CANCEL: u64 = 3 << 32;
/// `IORING_ENTER_GETEVENTS`, `IORING_ENTER_EXT_ARG` (5.11), `IORING_ENTER_NO_IOWAIT` (6.15), of
/// linux/io_uring.h.
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// Cancelling a read that waits for an event takes microseconds. A kernel that sees this
/// differently must not hold the daemon up for ever.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no io_uring here.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// io_uring_setup(2) failed.
    #[error("io_uring_setup: {source}{}", if *disabled > 0 { " (sysctl kernel.io_uring_disabled is set)" } else { "" })]
    Setup {
        /// What the kernel returned: `ENOSYS`, `EPERM` by sysctl or seccomp, `ENOMEM` by the
        /// memlock limit before 5.12.
        source: io::Error,
        /// The sysctl `kernel.io_uring_disabled`: 0, 1 (unprivileged), 2 (all).
        disabled: u8,
    },
    /// The kernel is older than what is used here.
    #[error("this kernel's io_uring lacks {0}")]
    Lacks(&'static str),
    /// The trial at the start failed.
    #[error("a trial of io_uring failed: {0}")]
    Trial(io::Error),
}

/// A ring that one thread waits and reads with.
pub struct Uring {
    ring: IoUring,
    enter_flags: u32,
    slots: Vec<Slot>,
}

/// What the kernel holds for one token.
#[derive(Default)]
struct Slot {
    polled: bool,
    /// The wait under way, or the last one, is for this.
    asked_for: bool,
    /// The buffer the kernel may write to, from before submission until the completion was seen.
    reading: Option<Box<[u8]>>,
    cancelling: bool,
    /// A read does not wait on this file, so it is polled.
    poll_only: bool,
}

/// What a wait found, by token.
pub(crate) enum Found {
    /// It is readable or in error; or was, and has been emptied since.
    Ready,
    /// A read has ended, with the bytes read or the read's error. `Interrupted`: it was cancelled,
    /// read nothing, and means nothing.
    Read(Box<[u8]>, io::Result<usize>),
}

/// A descriptor to wait for.
pub(crate) struct Wanted<'a> {
    /// Below the number given to [`Uring::open`]; always the same for the same file.
    pub(crate) token: usize,
    /// Open at least until the wait returns.
    pub(crate) fd: BorrowedFd<'a>,
    /// To be read into as soon as there is something; without one it is only polled.
    pub(crate) buf: Option<Box<[u8]>>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("tokens", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Uring {
    /// A ring for `tokens` descriptors to wait for, tried out.
    ///
    /// # Errors
    /// [`Unavailable`]; poll(2) then does the same work.
    pub fn open(tokens: usize) -> Result<Uring, Unavailable> {
        // A poll, a read and a cancel for each, at most.
        let entries = (tokens as u32 * 3).max(4).next_power_of_two();
        let ring = IoUring::new(entries).map_err(|source| Unavailable::Setup { source, disabled: disabled() })?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(|_| Unavailable::Lacks("probing (5.6)"))?;
        if ![opcode::PollAdd::CODE, opcode::Read::CODE, opcode::AsyncCancel::CODE].iter().all(|&op| probe.is_supported(op)) {
            return Err(Unavailable::Lacks("read, poll and cancel operations (5.6)"));
        }
        if !ring.params().is_feature_ext_arg() {
            return Err(Unavailable::Lacks("timed waits (5.11)"));
        }
        let no_iowait = if ring.params().is_feature_no_iowait() { ENTER_NO_IOWAIT } else { 0 };
        let enter_flags = ENTER_GETEVENTS | ENTER_EXT_ARG | no_iowait;
        let slots = (0..tokens).map(|_| Slot::default()).collect();
        let mut uring = Uring { ring, enter_flags, slots };
        if tokens > 0 {
            uring.try_out().map_err(Unavailable::Trial)?;
        }
        Ok(uring)
    }

    /// Whether an idle wait is kept out of the iowait figures.
    pub fn hides_iowait(&self) -> bool {
        self.enter_flags & ENTER_NO_IOWAIT != 0
    }

    /// Waits until one of `wanted` has something, or `limit` is over; `None`: for ever. Calls
    /// `found` for each that has, and gives every buffer back through it; when this returns, no
    /// read is in flight.
    ///
    /// # Errors
    /// Those of io_uring_enter(2) that are no part of waiting; `TimedOut` when a read cannot be
    /// cancelled. The ring is then of no further use and keeps the buffers in flight.
    ///
    /// # Panics
    /// If a token is not below the number given to [`Uring::open`].
    pub(crate) fn wait<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = Wanted<'a>>,
        limit: Option<Duration>,
        found: &mut dyn FnMut(usize, Found),
    ) -> io::Result<()> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        for slot in &mut self.slots {
            slot.asked_for = false;
        }
        // The descriptors that were handed over as `wanted` are open until this function returns;
        // all is submitted here.
        for Wanted { token, fd, buf } in wanted {
            self.slots[token].asked_for = true;
            match buf {
                Some(buf) if !self.slots[token].poll_only => self.start_read(token, fd, buf)?,
                spare => {
                    if let Some(buf) = spare {
                        found(token, Found::Read(buf, Err(io::ErrorKind::Interrupted.into())));
                    }
                    self.start_poll(token, fd)?;
                }
            }
        }
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let over = !self.enter(left)?;
            if self.reap(found) || over {
                break;
            }
        }
        self.cancel_reads(found)
    }

    fn start_poll(&mut self, token: usize, fd: BorrowedFd<'_>) -> io::Result<()> {
        if !std::mem::replace(&mut self.slots[token].polled, true) {
            let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
            // SAFETY: a poll refers to no memory.
            unsafe { self.push(&poll.user_data(POLL | token as u64))? };
        }
        Ok(())
    }

    fn start_read(&mut self, token: usize, fd: BorrowedFd<'_>, buf: Box<[u8]>) -> io::Result<()> {
        let slot = &mut self.slots[token];
        assert!(slot.reading.is_none(), "an earlier wait failed, the ring is of no further use");
        let buf = slot.reading.insert(buf);
        let len = buf.len().try_into().unwrap_or(u32::MAX);
        // Offset -1: the file position, the only one that queues have.
        let read = opcode::Read::new(types::Fd(fd.as_raw_fd()), buf.as_mut_ptr(), len).offset(u64::MAX).build();
        // SAFETY: the buffer stays in its slot, at a fixed place on the heap and touched by
        // nothing, until `reap` has seen the read's completion; if that never comes, `drop` leaks
        // it.
        unsafe { self.push(&read.user_data(READ | token as u64)) }
    }

    /// Ends every read in flight, and reports each: one may have got its bytes at the last moment.
    fn cancel_reads(&mut self, found: &mut dyn FnMut(usize, Found)) -> io::Result<()> {
        for token in 0..self.slots.len() {
            if self.slots[token].reading.is_some() {
                self.slots[token].cancelling = true;
                let cancel = opcode::AsyncCancel::new(READ | token as u64).build();
                // SAFETY: a cancel refers to no memory.
                unsafe { self.push(&cancel.user_data(CANCEL | token as u64))? };
            }
        }
        let deadline = Instant::now() + CANCEL_LIMIT;
        while self.slots.iter().any(|slot| slot.cancelling || slot.reading.is_some()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let over = !self.enter(Some(left))?;
            self.reap(found);
            if over && left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "io_uring does not cancel a read of an event queue"));
            }
        }
        Ok(())
    }

    /// Every operation used, once: a poll that fires, a read that gives bytes, one that waits and
    /// is cancelled.
    fn try_out(&mut self) -> io::Result<()> {
        let event = EventFd::new()?;
        event.wake();
        for want in [0, 8, -1] {
            let buf = (want != 0).then(|| vec![0; 8].into());
            let limit = Duration::from_millis(if want < 0 { 1 } else { 1000 });
            let mut got = i64::MIN;
            self.wait([Wanted { token: 0, fd: event.as_fd(), buf }], Some(limit), &mut |_, found| {
                got = match found {
                    Found::Read(_, read) => read.map_or(-1, |n| n as i64),
                    Found::Ready => 0,
                }
            })?;
            if got != want {
                return Err(io::Error::other(format!("waiting gave {got} instead of {want}")));
            }
        }
        self.slots[0].poll_only = false;
        Ok(())
    }

    /// Puts `entry` into the submission queue, making room if need be.
    ///
    /// # Safety
    /// What `entry` points to must stay valid until its completion was seen.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: passed on to the caller.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Submits what is queued and waits for one completion, at most `limit`; false when the time
    /// was over first.
    fn enter(&mut self, limit: Option<Duration>) -> io::Result<bool> {
        let time = limit.map(types::Timespec::from);
        let args = time.as_ref().map_or(types::SubmitArgs::new(), |time| types::SubmitArgs::new().timespec(time));
        let to_submit = self.ring.submission().len() as u32;
        // SAFETY: `EXT_ARG` is set, so the argument is the struct that `SubmitArgs` stands for; it
        // and the time it points to live until the call returns. What was queued keeps the promise
        // of `push`.
        let entered = unsafe { self.ring.submitter().enter(to_submit, 1, self.enter_flags, Some(&args)) };
        match entered.map_err(|error| error.raw_os_error().unwrap_or(0)) {
            // Interrupted, or completions to be taken first, or the kernel short of memory: the
            // caller loops.
            Ok(_) | Err(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(true),
            Err(libc::ETIME) => Ok(false),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Reports what is done, and returns whether any of it was requested: what only an earlier,
    /// wider wait had armed must not end this one.
    fn reap(&mut self, found: &mut dyn FnMut(usize, Found)) -> bool {
        let mut any = false;
        for entry in self.ring.completion() {
            let token = entry.user_data() as u32 as usize;
            let slot = &mut self.slots[token];
            match entry.user_data() & !u64::from(u32::MAX) {
                POLL => {
                    slot.polled = false;
                    any |= slot.asked_for;
                    found(token, Found::Ready);
                }
                READ => {
                    let buf = slot.reading.take().expect("one read at a time, its buffer is in the slot");
                    let read = match entry.result() {
                        bytes @ 0.. => Ok(bytes as usize),
                        error => Err(match -error {
                            libc::ECANCELED => io::ErrorKind::Interrupted.into(),
                            libc::EAGAIN => {
                                slot.poll_only = true;
                                io::ErrorKind::Interrupted.into()
                            }
                            errno => io::Error::from_raw_os_error(errno),
                        }),
                    };
                    any |= slot.asked_for;
                    found(token, Found::Read(buf, read));
                }
                _ => slot.cancelling = false,
            }
        }
        any
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // A read that a failed wait left behind may still write to its buffer after the ring is
        // closed: leak it.
        for slot in &mut self.slots {
            std::mem::forget(slot.reading.take());
        }
    }
}

/// The sysctl `kernel.io_uring_disabled` (6.6), 0 where there is none.
fn disabled() -> u8 {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[path = "uring_tests.rs"]
mod tests;
