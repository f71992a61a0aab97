//! `kind = "command"`: a program for each path, or one for many.
//!
//! No shell sees a file name: the path is one argument, or `$1` of a script that the configuration
//! wrote, or bytes on standard input. The environment is made anew. A run that takes too long is
//! ended with its process group: SIGTERM, and SIGKILL a second later, while the group still belongs
//! to it.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message;
use super::queue::{Event, Fault, Queue};
use super::worker::{Deliver, Place};
use crate::config::hook::{Command, Hook as Config, Input};
use crate::path::Shown;
use crate::sys::child::{Child, Exit, Stdin, Stream};
use crate::sys::memfd;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is checked whether the daemon stops.
const LOOK: Duration = Duration::from_millis(100);
/// Of what a command says, the end is kept.
const KEPT_BYTES: usize = 500;
/// Variables of the daemon that a command gets.
const KEPT_VARS: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];

pub(super) struct Runner {
    before: Vec<OsString>,
    after: Vec<OsString>,
    command: Command,
    config: Arc<Config>,
    place: Place,
    queue: Arc<Queue>,
    env: Vec<(OsString, OsString)>,
}

impl Runner {
    pub(super) fn new(command: &Command, config: &Arc<Config>, place: &Place, queue: &Arc<Queue>) -> Runner {
        let words = |text: &str| shlex::split(text).unwrap_or_default().into_iter().map(OsString::from).collect();
        let (before, after) = if command.shell {
            let path = if command.input == Input::Argument { " \"$1\" " } else { " " };
            let script = format!("{}{path}{}", command.prefix, command.suffix);
            (["sh", "-c", &script, "sh"].map(OsString::from).to_vec(), Vec::new())
        } else {
            (words(&command.prefix), words(&command.suffix))
        };
        let mut env: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| KEPT_VARS.iter().any(|kept| name == kept)).collect();
        if !env.iter().any(|(name, _)| name == "PATH") {
            env.push(("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()));
        }
        env.push(("FANSYNC_MIRROR".into(), place.mirror.clone().into()));
        env.push(("FANSYNC_HOOK".into(), config.name.clone().into()));
        env.push(("FANSYNC_SOURCE".into(), OsString::from_vec(place.root.clone())));
        Runner {
            before,
            after,
            command: command.clone(),
            config: Arc::clone(config),
            place: place.clone(),
            queue: Arc::clone(queue),
            env,
        }
    }

    /// What one run gets besides the path.
    fn env(&self, events: &[Event]) -> Vec<(OsString, OsString)> {
        let mut env = self.env.clone();
        let mut set = |name: &str, value: OsString| env.push((name.into(), value));
        set("FANSYNC_COUNT", events.len().to_string().into());
        if let (Input::Argument, [event]) = (self.command.input, events) {
            set("FANSYNC_PATH", OsString::from_vec(message::absolute(&self.place, event)));
            set("FANSYNC_RELATIVE_PATH", OsString::from_vec(event.path.to_vec()));
            set("FANSYNC_KIND", event.change.map_or("changed", |c| c.name()).into());
            set("FANSYNC_TARGET", event.target.as_deref().unwrap_or_default().into());
            set("FANSYNC_TIME", format!("{}.{:03}", event.millis / 1000, event.millis % 1000).into());
            set("FANSYNC_BATCH", event.batch.clone().into());
        }
        env
    }

    fn run(&self, argv: &[OsString], env: &[(OsString, OsString)], stdin: Stdin) -> Result<(Exit, String), Fault> {
        let program = Shown(argv[0].as_encoded_bytes()).to_string();
        let mut child = Child::spawn(argv, env, stdin).map_err(|e| {
            let why = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            Fault::Receiver { reason: format!("{e}{why}"), after: None }
        })?;
        let deadline = Instant::now() + self.config.timeout;
        let mut stderr = Vec::new();
        loop {
            if ready(&child, LOOK.min(deadline.saturating_duration_since(Instant::now()))) {
                drain(&mut child, &mut stderr);
                match child.try_wait() {
                    Ok(Some(exit)) => return Ok((exit, last_line(&stderr))),
                    Ok(None) => {}
                    Err(e) => {
                        return Err(Fault::Changes {
                            reason: format!("how {program} ended is not known: {e}"),
                            permanent: false,
                        });
                    }
                }
            }
            drain(&mut child, &mut stderr);
            let late = Instant::now() >= deadline;
            if late || self.queue.is_closed() {
                child.terminate();
                // Not reaped yet, so that the group's number stays its own and every member of it
                // can be killed.
                let until = Instant::now() + GRACE.min(if late { GRACE } else { LOOK });
                while Instant::now() < until && !ended(&child, until.saturating_duration_since(Instant::now())) {}
                child.kill();
                let reason = format!("{program} ran for more than {:?} and was killed", self.config.timeout);
                return Err(Fault::Changes { reason, permanent: false });
            }
        }
    }
}

impl Deliver for Runner {
    fn deliver(&mut self, events: &[Event]) -> Result<(), Fault> {
        let mut argv = self.before.clone();
        let stdin = match self.command.input {
            Input::Argument => {
                argv.extend(events.first().map(|event| OsString::from_vec(message::absolute(&self.place, event))));
                Stdin::Null
            }
            Input::Stdin => {
                let mut list = Vec::new();
                for event in events {
                    list.extend(message::absolute(&self.place, event));
                    list.push(0);
                }
                let file = memfd::sealed(c"fansync-hook", &list);
                Stdin::File(
                    file.map_err(|e| Fault::Receiver { reason: format!("cannot write a list into memory: {e}"), after: None })?,
                )
            }
        };
        argv.extend(self.after.iter().cloned());
        let (exit, stderr) = self.run(&argv, &self.env(events), stdin)?;
        let good = self.command.ignore_error || matches!(exit, Exit::Code(code) if self.command.success.contains(&code));
        if good {
            return Ok(());
        }
        let how = match exit {
            Exit::Code(code) => format!("exit code {code}"),
            Exit::Signal(signal) => format!("signal {signal}"),
        };
        let words = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
        Err(Fault::Changes { reason: format!("{how}{words}"), permanent: false })
    }
}

/// Waits until the child has ended or has written something.
fn ready(child: &Child, patience: Duration) -> bool {
    let mut fds = vec![PollFd::new(child.pidfd(), PollFlags::POLLIN)];
    let outputs = [Stream::Stdout, Stream::Stderr].into_iter().filter_map(|stream| child.output(stream));
    fds.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    matches!(poll(&mut fds, timeout(patience)), Ok(n) if n > 0)
}

fn ended(child: &Child, patience: Duration) -> bool {
    matches!(poll(&mut [PollFd::new(child.pidfd().as_fd(), PollFlags::POLLIN)], timeout(patience)), Ok(n) if n > 0)
}

fn timeout(patience: Duration) -> PollTimeout {
    PollTimeout::try_from(patience + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
}

/// Reads the output so far, so that a command that writes much is not held up by a full pipe.
fn drain(child: &mut Child, stderr: &mut Vec<u8>) {
    let mut buffer = [0; 8192];
    for stream in [Stream::Stdout, Stream::Stderr] {
        while let Ok(Some(len)) = child.read(stream, &mut buffer)
            && len > 0
        {
            if stream == Stream::Stderr {
                stderr.extend_from_slice(&buffer[..len]);
                let over = stderr.len().saturating_sub(KEPT_BYTES);
                stderr.drain(..over);
            }
        }
    }
}

pub(super) fn last_line(stderr: &[u8]) -> String {
    let line = stderr.split(|&b| b == b'\n').rfind(|line| !line.trim_ascii().is_empty());
    line.map(|line| Shown(line.trim_ascii()).to_string()).unwrap_or_default()
}
