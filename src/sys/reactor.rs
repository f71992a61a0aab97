//! Waits until one of many descriptors is ready, or until a time.
//!
//! Promises: level-triggered over both backends: a token comes out of every [`Reactor::wait`] for
//! as long as its descriptor is ready, so what a caller leaves unread is not forgotten. After
//! [`Reactor::remove`] its token never comes again, also when the number of the descriptor or the
//! token is used anew, and the reactor holds no reference to the open file.
//!
//! How: poll(2) is level-triggered by itself. With io_uring each descriptor has a one-shot POLL_ADD
//! that is armed by the next wait after it fired, all of them submitted by the system call that
//! waits: the cost of a wait is per descriptor that was ready, not per descriptor that is watched.
//! Each registration has a number of its own, which identifies late completions.
//!
//! Gives up: a token may come when nothing is there (any more): descriptors are non-blocking, and
//! are read until they would block. A wait may return early with nothing, after a signal.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

/// What to wait for. Errors and hang-ups count as ready always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Interest {
    /// Something to read, or the end of it.
    Read,
    /// An exceptional condition: proc(5), a change of `/proc/self/mountinfo`.
    Priority,
}

impl Interest {
    fn events(self) -> libc::c_short {
        match self {
            Interest::Read => libc::POLLIN,
            Interest::Priority => libc::POLLPRI,
        }
    }
}

/// A set of descriptors to wait on; belongs to one thread.
pub(crate) struct Reactor(Kind);

enum Kind {
    Uring(Box<Uring>),
    Poll(Poll),
}

impl Reactor {
    /// An empty set. `io_uring`: that is used where it works, else poll(2).
    pub(crate) fn new(io_uring: bool) -> Reactor {
        if !io_uring {
            return Reactor(Kind::Poll(Poll::default()));
        }
        match Uring::new() {
            Ok(uring) => Reactor(Kind::Uring(Box::new(uring))),
            Err(error) => {
                tracing::info!(%error, "io_uring is not available, waiting with poll");
                Reactor(Kind::Poll(Poll::default()))
            }
        }
    }

    /// Watches `fd` from the next wait on. It must stay open until `remove`.
    ///
    /// # Errors
    /// EEXIST when the token is in use.
    pub(crate) fn add(&mut self, fd: BorrowedFd<'_>, interest: Interest, token: u64) -> io::Result<()> {
        match &mut self.0 {
            Kind::Uring(uring) => uring.add(fd.as_raw_fd(), interest, token),
            Kind::Poll(poll) => poll.add(fd.as_raw_fd(), interest, token),
        }
    }

    /// Forgets a token; call before the descriptor is closed. An unknown token is ignored.
    ///
    /// # Errors
    /// io_uring_enter(2). The token is forgotten all the same.
    pub(crate) fn remove(&mut self, token: u64) -> io::Result<()> {
        match &mut self.0 {
            Kind::Uring(uring) => uring.remove(token),
            Kind::Poll(poll) => {
                poll.remove(token);
                Ok(())
            }
        }
    }

    /// Waits until a descriptor is ready, at most `timeout` (`None`: for ever; nanoseconds count),
    /// and puts the tokens of all that are into `out`, which is cleared first; each token once, in
    /// no order.
    ///
    /// A ring that fails is given up for poll(2), with all that it watched.
    ///
    /// # Errors
    /// poll(2): ENOMEM. Not EINTR, which returns with nothing.
    pub(crate) fn wait(&mut self, out: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        out.clear();
        match &mut self.0 {
            Kind::Uring(uring) => match uring.wait(out, timeout) {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "io_uring failed, waiting with poll from now on");
                    let mut poll = Poll::default();
                    for (&token, watched) in &uring.watched {
                        poll.put(watched.fd, watched.events as libc::c_short, token);
                    }
                    out.clear();
                    // What was ready in the ring is ready still.
                    let waited = poll.wait(out, timeout);
                    self.0 = Kind::Poll(poll);
                    waited
                }
            },
            Kind::Poll(poll) => poll.wait(out, timeout),
        }
    }
}

fn in_use(token: u64) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("token {token} is watched already"))
}

#[derive(Default)]
struct Poll {
    /// In step with `tokens`.
    fds: Vec<libc::pollfd>,
    tokens: Vec<u64>,
}

impl Poll {
    fn add(&mut self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        if self.tokens.contains(&token) {
            return Err(in_use(token));
        }
        self.put(fd, interest.events(), token);
        Ok(())
    }

    fn put(&mut self, fd: RawFd, events: libc::c_short, token: u64) {
        self.fds.push(libc::pollfd { fd, events, revents: 0 });
        self.tokens.push(token);
    }

    fn remove(&mut self, token: u64) {
        if let Some(at) = self.tokens.iter().position(|&known| known == token) {
            self.fds.swap_remove(at);
            self.tokens.swap_remove(at);
        }
    }

    fn wait(&mut self, out: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: pointer and length are those of one vector, `timeout` is null or a timespec that
        // outlives the call, a null signal mask changes nothing (ppoll(2)).
        let ready = unsafe { libc::ppoll(self.fds.as_mut_ptr(), self.fds.len() as libc::nfds_t, timeout, ptr::null()) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        out.extend(self.fds.iter().zip(&self.tokens).filter(|(fd, _)| fd.revents != 0).map(|(_, &token)| token));
        Ok(())
    }
}

/// User data of requests whose completion says nothing.
const NOBODY: u64 = 0;

struct Uring {
    ring: IoUring,
    watched: HashMap<u64, Watched>,
    /// Token by registration number; completions of what is not in here are dropped.
    tokens: HashMap<u64, u64>,
    /// Tokens whose request is to be armed by the next wait.
    idle: Vec<u64>,
    next_id: u64,
}

struct Watched {
    fd: RawFd,
    events: u32,
    id: u64,
    armed: bool,
}

impl Uring {
    fn new() -> io::Result<Uring> {
        let ring = IoUring::new(256)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(Uring { ring, watched: HashMap::new(), tokens: HashMap::new(), idle: Vec::new(), next_id: NOBODY + 1 })
    }

    fn add(&mut self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        if self.watched.contains_key(&token) {
            return Err(in_use(token));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.watched.insert(token, Watched { fd, events: interest.events() as u32, id, armed: false });
        self.tokens.insert(id, token);
        self.idle.push(token);
        Ok(())
    }

    fn remove(&mut self, token: u64) -> io::Result<()> {
        let Some(watched) = self.watched.remove(&token) else { return Ok(()) };
        self.tokens.remove(&watched.id);
        self.idle.retain(|&idle| idle != token);
        if !watched.armed {
            return Ok(());
        }
        // At once, not with the next wait: an armed request holds the open file, and a pipe whose
        // reader is closed must break for its writer now.
        self.push(&opcode::PollRemove::new(watched.id).build().user_data(NOBODY))?;
        self.submit()
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: poll requests carry no pointers, and whatever number their descriptor has
            // become, a poll of it reads and writes no memory of ours.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
                // The completion queue is full (io_uring_enter(2)); `wait` reads it, and submits
                // what is left.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&mut self, out: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        while let Some(token) = self.idle.pop() {
            let Some(watched) = self.watched.get_mut(&token) else { continue };
            watched.armed = true;
            let arm = opcode::PollAdd::new(types::Fd(watched.fd), watched.events).build().user_data(watched.id);
            self.push(&arm)?;
        }
        let timespec = timeout.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            Err(error) => return Err(error),
        }
        for done in self.ring.completion() {
            let Some(&token) = self.tokens.get(&done.user_data()) else { continue };
            let Some(watched) = self.watched.get_mut(&token) else { continue };
            watched.armed = false;
            self.idle.push(token);
            // Failures are for the owner to meet when it reads; a request cancelled by the kernel
            // is armed again.
            if done.result() != -libc::ECANCELED {
                out.push(token);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EventFd;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::time::Instant;

    const SOON: Option<Duration> = Some(Duration::from_secs(5));
    const NOW: Option<Duration> = Some(Duration::ZERO);
    const NOTHING: [u64; 0] = [];

    fn each(test: impl Fn(Reactor)) {
        for io_uring in [false, true] {
            let reactor = Reactor::new(io_uring);
            assert_eq!(matches!(reactor.0, Kind::Uring(_)), io_uring, "both work on this kernel");
            test(reactor);
        }
    }

    fn wait(reactor: &mut Reactor, timeout: Option<Duration>) -> Vec<u64> {
        let mut out = vec![99];
        reactor.wait(&mut out, timeout).unwrap();
        out.sort_unstable();
        out
    }

    #[test]
    fn a_ring_that_fails_is_given_up_for_poll() {
        let mut reactor = Reactor::new(true);
        let ((a, mut to_a), (b, _to_b)) = (io::pipe().unwrap(), io::pipe().unwrap());
        reactor.add(a.as_fd(), Interest::Read, 7).unwrap();
        assert_eq!(wait(&mut reactor, NOW), NOTHING);
        reactor.add(b.as_fd(), Interest::Read, 8).unwrap();
        to_a.write_all(b"a").unwrap();
        let Kind::Uring(uring) = &reactor.0 else { panic!("it was asked for") };
        // Its descriptor is another file's from here on: io_uring_enter(2) says EOPNOTSUPP.
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: dup2(2) takes no pointer; the ring's number is closed by its owner, once.
        assert!(unsafe { libc::dup2(null.as_raw_fd(), uring.ring.as_raw_fd()) } >= 0);
        assert_eq!(wait(&mut reactor, SOON), [7], "what was ready in the ring");
        assert!(matches!(reactor.0, Kind::Poll(_)));
        reactor.remove(7).unwrap();
        assert_eq!(wait(&mut reactor, NOW), NOTHING);
    }

    #[test]
    fn ready_for_as_long_as_it_is() {
        each(|mut reactor| {
            let (mut rx, mut tx) = io::pipe().unwrap();
            reactor.add(rx.as_fd(), Interest::Read, 7).unwrap();
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
            tx.write_all(b"ab").unwrap();
            let mut byte = [0];
            for _ in 0..2 {
                assert_eq!(wait(&mut reactor, SOON), [7]);
                assert_eq!(wait(&mut reactor, SOON), [7], "still unread");
                rx.read_exact(&mut byte).unwrap();
            }
            // At most one late token, then silence.
            wait(&mut reactor, NOW);
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
            drop(tx);
            assert_eq!(wait(&mut reactor, SOON), [7], "the end is readable");
        });
    }

    #[test]
    fn several_kinds_at_once() {
        each(|mut reactor| {
            let event = EventFd::new().unwrap();
            let (rx, tx) = io::pipe().unwrap();
            reactor.add(event.as_fd(), Interest::Read, 1).unwrap();
            reactor.add(rx.as_fd(), Interest::Read, 3).unwrap();
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
            event.write(1).unwrap();
            (&tx).write_all(b"x").unwrap();
            assert_eq!(wait(&mut reactor, SOON), [1, 3]);
            assert_eq!(reactor.add(rx.as_fd(), Interest::Read, 3).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        });
    }

    #[test]
    fn the_end_of_a_process() {
        each(|mut reactor| {
            let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
            let pidfd = crate::sys::child::pidfd_open(child.id()).unwrap();
            reactor.add(pidfd.as_fd(), Interest::Read, 5).unwrap();
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
            drop(child.stdin.take());
            assert_eq!(wait(&mut reactor, SOON), [5]);
            child.wait().unwrap();
        });
    }

    #[test]
    fn removed_tokens_stay_silent() {
        each(|mut reactor| {
            let (rx, mut tx) = io::pipe().unwrap();
            reactor.add(rx.as_fd(), Interest::Read, 1).unwrap();
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
            reactor.remove(1).unwrap();
            reactor.remove(1).unwrap();
            tx.write_all(b"x").unwrap();
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
            // Fired, but not yet seen when it is removed.
            reactor.add(rx.as_fd(), Interest::Read, 2).unwrap();
            assert_eq!(wait(&mut reactor, SOON), [2]);
            reactor.remove(2).unwrap();
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
        });
    }

    #[test]
    fn tokens_and_numbers_are_used_anew() {
        each(|mut reactor| {
            for round in 0..600 {
                let (rx, mut tx) = io::pipe().unwrap();
                reactor.add(rx.as_fd(), Interest::Read, 4).unwrap();
                assert_eq!(wait(&mut reactor, NOW), NOTHING, "round {round}");
                tx.write_all(b"x").unwrap();
                if round % 2 == 0 {
                    assert_eq!(wait(&mut reactor, SOON), [4]);
                }
                reactor.remove(4).unwrap();
            }
        });
    }

    #[test]
    fn removal_lets_go_of_the_file() {
        each(|mut reactor| {
            let (rx, mut tx) = io::pipe().unwrap();
            reactor.add(rx.as_fd(), Interest::Read, 1).unwrap();
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
            reactor.remove(1).unwrap();
            drop(rx);
            assert_eq!(tx.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn more_descriptors_than_the_ring_has_entries() {
        each(|mut reactor| {
            let events: Vec<EventFd> = (0..700).map(|_| EventFd::new().unwrap()).collect();
            for (token, event) in events.iter().enumerate() {
                reactor.add(event.as_fd(), Interest::Read, token as u64).unwrap();
            }
            assert_eq!(wait(&mut reactor, NOW), NOTHING);
            for event in &events {
                event.write(1).unwrap();
            }
            let (mut seen, deadline) = (std::collections::HashSet::new(), Instant::now() + Duration::from_secs(60));
            while seen.len() < events.len() && Instant::now() < deadline {
                seen.extend(wait(&mut reactor, SOON));
            }
            assert_eq!(seen.len(), events.len());
        });
    }

    #[test]
    fn timeouts_are_kept_to_the_fraction_of_a_millisecond() {
        each(|mut reactor| {
            let event = EventFd::new().unwrap();
            reactor.add(event.as_fd(), Interest::Read, 1).unwrap();
            let timeout = Duration::from_micros(2300);
            // The best of some: a busy machine wakes late, a rounding reactor always does.
            let took = (0..50).map(|_| {
                let start = Instant::now();
                assert_eq!(wait(&mut reactor, Some(timeout)), NOTHING);
                start.elapsed()
            });
            let best = took.min().unwrap();
            assert!(best >= timeout && best < timeout + Duration::from_micros(600), "{best:?}");
        });
    }
}
