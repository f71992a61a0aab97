//! Quick acknowledgements for the connections of running rsyncs.
//!
//! A server without TCP_NODELAY holds a small answer back until the one before it is acknowledged
//! (Nagle), and the kernel here delays an acknowledgement by up to 40 ms when it expects that rsync
//! will answer anyway. Where rsync does not, a run of 3 ms takes 43. The option that ends this,
//! `TCP_QUICKACK`, is not in rsync's `--sockopts`, and the kernel takes it back at each answer.
//!
//! Promises: while a run to an rsync daemon lasts, its connection acknowledges at once, as far as a
//! repetition every half millisecond brings it. Nothing of the run is held. What the kernel does
//! not permit is logged once and tried no more.
//!
//! How: one thread for the process. It sleeps while there is no run, and forgets a run when its
//! process is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};

use crate::sys::borrowed;

/// A run whose connection is to acknowledge at once.
struct Connection {
    pidfd: OwnedFd,
    pid: u32,
    /// In the run's own table; none before it has connected.
    sockets: Vec<RawFd>,
    since: Instant,
    next: Instant,
}

/// What became of one repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There is a connection, or there may be one soon.
    Goes,
    /// The process is gone, or has not connected for too long.
    Over,
    /// The kernel does not permit it.
    Refused,
}

/// Between two repetitions, by the age of the run. The exchanges of a small run take 3 ms in all; a
/// long one waits for acknowledgements at its start and at its end only.
fn pause(age: Duration) -> Duration {
    match age.as_millis() {
        0..100 => Duration::from_micros(500),
        100..2000 => Duration::from_millis(2),
        _ => Duration::from_millis(5),
    }
}

/// How long a run may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);

/// Has the connection of the rsync `pid` acknowledge at once until the process ends.
pub(crate) fn hasten(pidfd: BorrowedFd<'_>, pid: u32) {
    static RUNS: OnceLock<Option<Sender<Connection>>> = OnceLock::new();
    let Some(runs) = RUNS.get_or_init(start) else { return };
    let Ok(pidfd) = pidfd.try_clone_to_owned() else { return };
    let now = Instant::now();
    // The thread has left when the kernel refused.
    let _ = runs.send(Connection { pidfd, pid, sockets: Vec::new(), since: now, next: now });
}

fn start() -> Option<Sender<Connection>> {
    let (sender, receiver) = unbounded();
    match std::thread::Builder::new().name("acks".into()).spawn(move || repeat(&receiver)) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::warn!(%error, "no thread for quick acknowledgements; servers without TCP_NODELAY answer up to 40 ms later");
            None
        }
    }
}

fn repeat(added: &Receiver<Connection>) {
    let mut runs: Vec<Connection> = Vec::new();
    loop {
        let arrived = match runs.iter().map(|run| run.next).min() {
            None => added.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(next) => added.recv_timeout(next.saturating_duration_since(Instant::now())),
        };
        match arrived {
            Ok(run) => runs.push(run),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        loop {
            match added.try_recv() {
                Ok(run) => runs.push(run),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        let mut refused = false;
        runs.retain_mut(|run| {
            if run.next > Instant::now() {
                return true;
            }
            let step = run.step();
            refused |= step == Step::Refused;
            step == Step::Goes
        });
        if refused {
            return;
        }
    }
}

impl Connection {
    fn step(&mut self) -> Step {
        let now = Instant::now();
        let age = now.saturating_duration_since(self.since);
        self.next = now + pause(age);
        let done = if self.sockets.is_empty() {
            borrowed::tcp_sockets(self.pidfd.as_fd(), self.pid).map(|found| self.sockets = found)
        } else {
            Ok(())
        };
        let done = done
            .and_then(|()| self.sockets.iter().try_for_each(|&socket| borrowed::acknowledge_at_once(self.pidfd.as_fd(), socket)));
        match done {
            Ok(()) if self.sockets.is_empty() && age > CONNECT_WITHIN => Step::Over,
            Ok(()) => Step::Goes,
            Err(error) => self.judge(&error),
        }
    }

    fn judge(&self, error: &io::Error) -> Step {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
                tracing::info!(
                    pid = self.pid, %error,
                    "the connections of rsync cannot be set to quick acknowledgements (pidfd_getfd; Linux 5.6, \
                     kernel.yama.ptrace_scope 0 or 1): to servers without TCP_NODELAY, a change can take 40 ms longer"
                );
                Step::Refused
            }
            // ESRCH, ENOENT: it has ended. EBADF: it has closed its connection.
            _ => Step::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::apart::apart;
    use crate::sys::child::pidfd_open;

    #[test]
    fn the_pause_grows_with_the_age_of_the_run() {
        for (age_ms, micros) in [(0, 500), (99, 500), (100, 2000), (1999, 2000), (2000, 5000), (100_000, 5000)] {
            assert_eq!(pause(Duration::from_millis(age_ms)), Duration::from_micros(micros), "{age_ms} ms");
        }
    }

    #[test]
    fn a_run_is_followed_until_its_process_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let now = Instant::now();
        let pidfd = pidfd_open(child.id()).unwrap();
        let mut run = Connection { pidfd, pid: child.id(), sockets: Vec::new(), since: now, next: now };
        let connecting = run.step();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(connecting, Step::Goes);
        assert_eq!(run.step(), Step::Over);
    }

    /// Its connection expects to answer, so it delays acknowledgements (`TCP_QUICKACK` is 0), until
    /// the thread has seen it.
    #[test]
    fn the_connection_of_a_run_acknowledges_at_once() {
        apart();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _server = listener.accept().unwrap();
        borrowed::set_quick_acks(client.as_fd(), false).unwrap();
        assert!(!borrowed::quick_acks(client.as_fd()).unwrap());
        let input = OwnedFd::from(client.try_clone().unwrap());
        let mut child = std::process::Command::new("sleep").arg("1000").stdin(input).spawn().unwrap();
        hasten(pidfd_open(child.id()).unwrap().as_fd(), child.id());
        let deadline = Instant::now() + Duration::from_secs(60);
        while !borrowed::quick_acks(client.as_fd()).unwrap() {
            assert!(Instant::now() < deadline, "it is never set");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn errors_by_what_they_mean() {
        let child = std::process::id();
        let now = Instant::now();
        let run = Connection { pidfd: pidfd_open(child).unwrap(), pid: child, sockets: Vec::new(), since: now, next: now };
        for (errno, step) in [
            (libc::EPERM, Step::Refused),
            (libc::ENOSYS, Step::Refused),
            (libc::ESRCH, Step::Over),
            (libc::EBADF, Step::Over),
            (libc::ENOENT, Step::Over),
        ] {
            assert_eq!(run.judge(&io::Error::from_raw_os_error(errno)), step, "{errno}");
        }
    }
}
