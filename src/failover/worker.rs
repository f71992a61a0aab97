//! Processes started ahead that make the calls that can touch a mount ([`super::tool`]): a switch
//! then costs no fork and no exec.
//!
//! Each reads requests from its standard input, a line each, and answers each with a line. One
//! whose call does not end by its deadline is killed and, if even that does not end it, left alone.
//! One whose caller has gone is given up at once: it ends with its call, as its input is closed.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;

use super::child::{CallError, Calls};

/// How many wait for work: one for the calls that follow each other, one for the detach, one for a
/// check of a mount.
const SPARE: usize = 3;

/// What a worker answers when a call has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// The error number; 0 when there is none.
    pub(crate) errno: i32,
    /// The error message.
    #[serde(rename = "said")]
    pub(crate) message: String,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    buffer: Vec<u8>,
}

impl Worker {
    fn start(exe: &Path) -> io::Result<Worker> {
        let mut command = Command::new(exe);
        command.args(["failover", "call"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Worker { child: command.spawn()?, buffer: Vec::new() })
    }

    fn send(&mut self, words: &[&str]) -> io::Result<()> {
        let mut line = serde_json::to_vec(words)?;
        line.push(b'\n');
        // A request is shorter than the pipe is empty, so this does not wait.
        self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(&line)
    }

    /// Its answer, if there is one by then; `None` while the call goes on.
    ///
    /// # Errors
    /// It has ended without one.
    pub(crate) fn answer(&mut self, within: Duration) -> io::Result<Option<Result<(), Refusal>>> {
        let begun = Instant::now();
        let out = self.child.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let answer = serde_json::from_slice::<Option<Refusal>>(&self.buffer[..end])?;
                self.buffer.drain(..=end);
                return Ok(Some(answer.map_or(Ok(()), Err)));
            }
            let left = within.saturating_sub(begun.elapsed());
            let wait = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
            let wait = if left.is_zero() { PollTimeout::ZERO } else { wait };
            match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(0) if left.is_zero() => return Ok(None),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    let mut some = [0; 4096];
                    match io::Read::read(out, &mut some)? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        n => self.buffer.extend_from_slice(&some[..n]),
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes its input, after which it ends with its call.
    fn give_up(mut self) -> Child {
        self.child.stdin = None;
        self.child
    }
}

/// Workers that wait for work.
#[derive(Debug)]
pub(crate) struct Workers {
    exe: std::path::PathBuf,
    idle: Vec<Worker>,
}

impl Workers {
    /// Starts none yet. `exe`: this program.
    pub(crate) fn new(exe: &Path) -> Workers {
        Workers { exe: exe.into(), idle: Vec::new() }
    }

    /// Starts what is missing, for the next time.
    pub(crate) fn refill(&mut self) {
        self.idle.retain_mut(|w| matches!(w.child.try_wait(), Ok(None)));
        while self.idle.len() < SPARE {
            match Worker::start(&self.exe) {
                Ok(worker) => self.idle.push(worker),
                Err(error) => {
                    tracing::warn!(%error, "cannot start a process for mount calls ahead");
                    return;
                }
            }
        }
    }

    /// Gives a request to one that waits, or to one started for it. For [`Workers::back`] when it
    /// has answered.
    ///
    /// # Errors
    /// [`CallError::Start`].
    pub(crate) fn begin(&mut self, what: &str, words: &[&str]) -> Result<Worker, CallError> {
        // One that was killed shows by its broken pipe.
        while let Some(mut worker) = self.idle.pop() {
            if worker.send(words).is_ok() {
                return Ok(worker);
            }
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
        let start = || {
            let mut worker = Worker::start(&self.exe)?;
            worker.send(words)?;
            Ok(worker)
        };
        start().map_err(|source| CallError::Start { what: what.into(), source })
    }

    /// Takes back one that has answered.
    pub(crate) fn back(&mut self, worker: Worker) {
        self.idle.push(worker);
    }

    /// Makes one call, and waits for it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) fn run(&mut self, calls: &mut Calls, what: &str, words: &[&str], deadline: Duration) -> Result<(), CallError> {
        let mut worker = self.begin(what, words)?;
        match worker.answer(deadline) {
            Ok(Some(answer)) => {
                self.back(worker);
                answer.map_err(|r| CallError::Failed { what: what.into(), message: r.message, errno: r.errno })
            }
            Ok(None) => {
                calls.abandon(what, worker.child);
                Err(CallError::Late { what: what.into(), deadline })
            }
            Err(e) => {
                calls.abandon(what, worker.child);
                Err(CallError::Failed { what: what.into(), message: format!("its process ended: {e}"), errno: 0 })
            }
        }
    }

    /// Begins a call that no thread waits for; its process id.
    ///
    /// # Errors
    /// [`CallError::Start`].
    pub(crate) fn leave(&mut self, calls: &mut Calls, what: &str, words: &[&str]) -> Result<u32, CallError> {
        let worker = self.begin(what, words)?;
        let pid = worker.pid();
        calls.keep(what, worker.give_up());
        Ok(pid)
    }

    /// Gives up one whose call takes too long.
    pub(crate) fn abandon(&mut self, calls: &mut Calls, what: &str, worker: Worker) {
        calls.abandon(what, worker.child);
    }
}
