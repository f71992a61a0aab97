//! The processes of a follower: the run under way, one that is connected ahead, and their
//! descriptors.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::feed::machine::Work;
use crate::sync::argv::{self, Peer};
use crate::sync::outcome::Outcome;
use crate::sync::output::{Names, Stream};
use crate::sync::pulse::{Beat, Carries, Pulse};
use crate::sync::run::{Input, Run, RunError};
use crate::sys::reactor::{Interest, Reactor};

const WAKE: u64 = 1;
/// A run's descriptors: its outputs, and its end.
const STDOUT: u64 = 2;
const STDERR: u64 = 3;
const EXIT: u64 = 4;
/// The end of the spare process.
const SPARE: u64 = 5;

/// A run under way.
pub(super) struct Doing {
    pub(super) run: Run,
    pub(super) what: What,
    pub(super) began: Duration,
    pub(super) cut: Option<Cut>,
    pulse: Pulse,
}

/// What a run is for.
pub(super) enum What {
    /// Fetches the upstream's mark, before this.
    Mark(Work),
    /// Counts what this would delete.
    Count(Work),
    Pull(Work),
    /// Applies a batch.
    Apply,
}

/// Why a run was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The follower ends.
    Stop,
    /// It made no progress.
    Stalled,
}

/// A process that waits for what it is to do.
struct Spare {
    run: Run,
    what: Ready,
    since: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// For a list, connected to the upstream.
    Pull,
    /// For a batch.
    Apply,
}

impl Doing {
    /// What it carries, for the watchdog.
    fn carries(&self) -> Carries {
        match &self.what {
            _ if self.cut.is_some() => Carries::List,
            What::Mark(_) => Carries::List,
            What::Pull(Work::List { deep: false, paths, .. }) if paths.len() > 1 => Carries::List,
            _ => Carries::Whole,
        }
    }

    /// Until when the run of a batch may go on.
    fn until(&self, most: Duration) -> Option<Duration> {
        matches!(self.what, What::Apply).then(|| self.began + most)
    }
}

/// See the module's text.
pub(super) struct Processes {
    reactor: Reactor,
    env: Vec<(OsString, OsString)>,
    doing: Option<Doing>,
    spare: Option<Spare>,
}

impl Processes {
    pub(super) fn new(io_uring: bool) -> Processes {
        let env = argv::environment(std::env::vars_os());
        Processes { reactor: Reactor::new(io_uring), env, doing: None, spare: None }
    }

    /// Wakes up for this descriptor, too.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn listen(&mut self, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        self.reactor.add(fd, Interest::Read, WAKE)
    }

    /// Waits for something to happen, and gives the run that has ended.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> std::io::Result<Option<(Doing, Outcome)>> {
        let mut ready = Vec::new();
        let waited = self.reactor.wait(&mut ready, timeout);
        let mut ended = None;
        for &token in &ready {
            ended = ended.or(self.on_ready(token));
        }
        waited.map(|_| ended)
    }

    fn on_ready(&mut self, token: u64) -> Option<(Doing, Outcome)> {
        match token {
            STDOUT | STDERR => {
                let stream = if token == STDOUT { Stream::Stdout } else { Stream::Stderr };
                if let Some(doing) = &mut self.doing
                    && !doing.run.on_readable(stream)
                {
                    let _ = self.reactor.remove(token);
                }
                None
            }
            EXIT => {
                let outcome = match self.doing.as_mut()?.run.on_exit() {
                    Ok(Some(outcome)) => outcome,
                    Ok(None) => return None,
                    Err(error) => Outcome::unknown(format!("how rsync ended is not known: {error}")),
                };
                self.unwatch();
                Some((self.doing.take()?, outcome))
            }
            SPARE => {
                self.drop_spare();
                None
            }
            _ => None,
        }
    }

    /// Starts an rsync that copies from `peer`.
    ///
    /// # Errors
    /// See [`RunError`].
    pub(super) fn start(&self, words: &[OsString], peer: &Peer<'_>, input: Input<'_>, names: Names) -> Result<Run, RunError> {
        Run::pull(words, peer, &self.env, input, names)
    }

    /// What processes have in their environment.
    pub(super) fn env(&self) -> &[(OsString, OsString)] {
        &self.env
    }

    /// The run under way.
    pub(super) fn doing(&self) -> Option<&Doing> {
        self.doing.as_ref()
    }

    /// Goes on with this run until it ends.
    ///
    /// # Errors
    /// Its end cannot be waited for.
    pub(super) fn watch(&mut self, run: Run, what: What, now: Duration) -> std::io::Result<()> {
        let fds = [(run.output_fd(Stream::Stdout), STDOUT), (run.output_fd(Stream::Stderr), STDERR), (Some(run.pidfd()), EXIT)];
        for (fd, token) in fds {
            let added = fd.map_or(Ok(()), |fd| self.reactor.add(fd, Interest::Read, token));
            if let Err(error) = added {
                self.unwatch();
                return Err(error);
            }
        }
        self.doing = Some(Doing { run, what, began: now, cut: None, pulse: Pulse::new(now) });
        Ok(())
    }

    fn unwatch(&mut self) {
        for token in [STDOUT, STDERR, EXIT] {
            let _ = self.reactor.remove(token);
        }
    }

    /// When there is something to do about the run under way. `watchdog`: it may stand still for so
    /// long; `timeout`: that of a batch may last so long.
    pub(super) fn due(&self, watchdog: Duration, timeout: Duration) -> Option<Duration> {
        let doing = self.doing.as_ref()?;
        Some(doing.pulse.due(doing.carries(), watchdog)).into_iter().chain(doing.until(timeout)).min()
    }

    /// Ends a run that makes no progress, as that of a target; `true`: it was cut just now.
    pub(super) fn watch_over(&mut self, now: Duration, watchdog: Duration) -> bool {
        let Some(doing) = &mut self.doing else { return false };
        let carries = doing.carries();
        if doing.pulse.due(carries, watchdog) > now {
            return false;
        }
        match doing.pulse.take(now, doing.run.work_of_pull(), carries, watchdog) {
            Beat::Goes => false,
            _ if doing.cut.is_some() => {
                doing.run.kill();
                false
            }
            Beat::Silent | Beat::Idle | Beat::Knotted => {
                doing.cut = Some(Cut::Stalled);
                doing.run.cut();
                doing.pulse = Pulse::new(now);
                true
            }
        }
    }

    /// Ends the run of a batch that stands still: rsync waits for ever for what is missing in one
    /// that was cut off (3.5.0).
    pub(super) fn end_slow_batch(&mut self, now: Duration, timeout: Duration) {
        if let Some(doing) = self.doing.as_mut().filter(|doing| doing.until(timeout).is_some_and(|until| now >= until)) {
            doing.run.cut();
        }
    }

    /// The follower ends, and with it the run.
    pub(super) fn stop(&mut self) {
        if let Some(doing) = &mut self.doing
            && doing.cut.replace(Cut::Stop) != Some(Cut::Stop)
        {
            doing.run.cut();
        }
    }

    // ----- the spare process -----

    /// Whether one waits.
    pub(super) fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    pub(super) fn drop_spare(&mut self) {
        let _ = self.reactor.remove(SPARE);
        self.spare = None;
    }

    /// Drops one that waits for something else, or has for longer than `most`.
    pub(super) fn drop_old_spare(&mut self, what: Ready, now: Duration, most: Duration) {
        if self.spare.as_ref().is_some_and(|spare| spare.what != what || now.saturating_sub(spare.since) > most) {
            self.drop_spare();
        }
    }

    /// Keeps this one for what is to come.
    pub(super) fn keep_spare(&mut self, run: Run, what: Ready, now: Duration) {
        if self.reactor.add(run.pidfd(), Interest::Read, SPARE).is_ok() {
            self.spare = Some(Spare { run, what, since: now });
        }
    }

    /// Gives these bytes to the one that waits for such, and gives that.
    pub(super) fn feed_spare(&mut self, what: Ready, bytes: &[u8]) -> Option<Result<Run, String>> {
        let fits = |spare: &mut Spare| spare.what == what && spare.run.capacity().is_some_and(|most| most >= bytes.len());
        let Spare { mut run, .. } = self.spare.take_if(fits)?;
        let _ = self.reactor.remove(SPARE);
        Some(run.feed(bytes).map(|()| run).map_err(|error| error.to_string()))
    }
}
