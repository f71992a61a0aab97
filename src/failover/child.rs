//! Children that may never end: each call that can touch a mount runs in one, with a deadline; past
//! it the child is killed and, if even that does not end it (a task in an uninterruptible wait),
//! left alone and reaped later.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::sys::child::as_usual;

const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How long a killed child may take before it is left alone.
const AFTER_KILL: Duration = Duration::from_millis(100);

/// Why a call did not succeed.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// It could not be started.
    #[error("cannot start {what}: {source}")]
    Start {
        what: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long; it was killed.
    #[error("{what} did not end within {deadline:?}")]
    Late {
        what: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It failed.
    #[error("{what}: {message}")]
    Failed {
        what: String,
        /// The error message.
        message: String,
        /// The error number, where it was a system call; else 0.
        errno: i32,
    },
}

/// Starts children and keeps those that do not end.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    left: Vec<(String, Child)>,
}

impl Calls {
    /// Runs a program to its end, at most for `deadline`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(crate) fn run(&mut self, what: &str, mut command: Command, deadline: Duration) -> Result<(), CallError> {
        let begun = Instant::now();
        let mut child = self.spawn(what, &mut command)?;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(failed(what, &mut child, &status.to_string())),
                Ok(None) if begun.elapsed() < deadline => std::thread::sleep(POLL_INTERVAL),
                Ok(None) => break,
                Err(e) => return Err(CallError::Failed { what: what.into(), message: e.to_string(), errno: 0 }),
            }
        }
        self.abandon(what, child);
        Err(CallError::Late { what: what.into(), deadline })
    }

    /// Kills a child, and leaves it alone if that does not end it.
    pub(crate) fn abandon(&mut self, what: &str, mut child: Child) {
        let _ = child.kill();
        let killed = Instant::now();
        while killed.elapsed() < AFTER_KILL {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        self.keep(what, child);
    }

    /// Takes on a child that no thread waits for.
    pub(crate) fn keep(&mut self, what: &str, child: Child) {
        self.left.push((what.into(), child));
    }

    /// Starts a program and gives it to the caller, who looks after it.
    ///
    /// # Errors
    /// [`CallError::Start`].
    pub(crate) fn spawn(&mut self, what: &str, command: &mut Command) -> Result<Child, CallError> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        as_usual(command).spawn().map_err(|source| CallError::Start { what: what.into(), source })
    }

    /// What still has not ended, with its process id. Those that have are buried.
    pub(crate) fn still_there(&mut self) -> Vec<(String, u32)> {
        self.left.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
        self.left.iter().map(|(what, child)| (what.clone(), child.id())).collect()
    }

    /// Whether a child that was left has ended.
    pub(crate) fn has_ended(&mut self, pid: u32) -> bool {
        self.left.iter_mut().find(|(_, child)| child.id() == pid).is_none_or(|(_, child)| !matches!(child.try_wait(), Ok(None)))
    }
}

/// The first line that a failed child wrote.
pub(crate) fn failed(what: &str, child: &mut Child, status: &str) -> CallError {
    let mut text = Vec::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.take(4096).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let message = text.lines().find(|l| !l.trim().is_empty()).unwrap_or(status).trim().to_owned();
    CallError::Failed { what: what.into(), message, errno: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn ends_fails_and_is_late() {
        let mut calls = Calls::default();
        let soon = Duration::from_secs(60);
        assert!(calls.run("a", sh("true"), soon).is_ok());
        let error = calls.run("b", sh("echo no such thing >&2; exit 3"), soon).unwrap_err();
        assert_eq!(error.to_string(), "b: no such thing");
        let begun = Instant::now();
        assert!(matches!(calls.run("c", sh("exec sleep 1000"), Duration::from_millis(50)), Err(CallError::Late { .. })));
        assert!(begun.elapsed() < soon);
        while !calls.still_there().is_empty() {
            assert!(begun.elapsed() < soon, "a child that was killed is never buried");
            std::thread::yield_now();
        }
        let child = calls.spawn("d", &mut sh("exec sleep 1000")).unwrap();
        calls.keep("d", child);
        let left = calls.still_there();
        assert_eq!(left.len(), 1);
        let pid = nix::unistd::Pid::from_raw(left[0].1 as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        while !calls.still_there().is_empty() {
            assert!(begun.elapsed() < soon, "a child that was left is never buried");
            std::thread::yield_now();
        }
    }
}
