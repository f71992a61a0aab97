//! One rsync, from its start to its outcome.
//!
//! Promises: an outcome comes out once the process has ended and all it wrote has been read; no
//! output pipe that a stranger keeps open (the master connection of a remote shell) can hold that
//! up. A run that is dropped is killed.
//!
//! How: the owner waits on [`Run::pidfd`] and [`Run::output_fd`] in its reactor and calls
//! [`Run::on_readable`] and [`Run::on_exit`]; nothing here blocks. [`Run::wait`] does all of it for
//! callers that may block.
//!
//! Gives up: a run has no time limit of its own. rsync's `--timeout` bounds a silent peer, but a
//! sender that opens a file which has just become a FIFO hangs for ever in spite of it (measured,
//! to 20 s); the run's owner watches [`Run::progress_mark`], and terminates what stands still.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Once;
use std::time::{Duration, Instant};

use thiserror::Error;

#[cfg(not(test))]
use super::acks::hasten;
use super::argv::{Pass, Spec, argv, inherited};
use super::outcome::{Context, Exit, Outcome, classify};
use super::output::{Names, Output, Stream};
use super::password::{PasswordError, password, with_password};
use super::publication::{Publication, Published};
#[cfg(test)]
use super::scripted::{Child, hasten};
use crate::config;
use crate::location::Location;
use crate::path::RelPath;
use crate::privilege;
use crate::role::mark;
#[cfg(not(test))]
use crate::sys::child::Child;
use crate::sys::child::{FeedError, Limits, OpenFile, SpawnError, Stdin, User, WaitsOn, Work};
use crate::sys::landlock::Ruleset;
use crate::sys::memfd;
use crate::sys::reactor::{Interest, Reactor};

/// Bytes that a standby's list may have, where the kernel grants the pipe.
pub(crate) const STANDBY_LIST_BYTES: usize = 256 * 1024;
/// Bytes read from an output at a time.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one output before the owner gets its turn again.
const READS_PER_TURN: usize = 16;
/// Between the end of rsync and that of its group when [`Run::wait`] runs out of time.
const GRACE: Duration = Duration::from_secs(2);

/// Where the list of paths comes from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// There is none: [`Pass::Full`].
    None,
    /// An encoded list ([`super::filelist::encode`]).
    List(&'a [u8]),
    /// It is given later with [`Run::feed`]; meanwhile rsync connects and waits.
    Standby,
}

/// Why a run did not start.
#[derive(Debug, Error)]
pub enum RunError {
    /// The process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The password file: a matter of configuration.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The list's file in memory.
    #[error("cannot write a list of {bytes} bytes into memory: is memory short?")]
    List {
        /// Bytes of the list.
        bytes: usize,
        /// memfd_create(2), write(2).
        #[source]
        source: io::Error,
    },
}

/// What does the work.
#[derive(Debug)]
enum Doer {
    Rsync(Child),
    Feed(Publication),
}

/// A started rsync, or what stands for one.
#[derive(Debug)]
pub struct Run {
    child: Doer,
    output: Output,
    context: Context,
    /// Its peer is an rsync daemon, by a connection of its own.
    daemon: bool,
    moving: Option<Instant>,
}

impl Run {
    /// Starts rsync for `pass` with the environment `env` ([`super::argv::environment`]).
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn start(spec: &Spec<'_>, pass: Pass, env: &[(OsString, OsString)], input: Input<'_>) -> Result<Run, RunError> {
        let stdin = stdin(input)?;
        // What a target sends as its mark is written to this host: no more than one mark, and
        // without any right to more.
        let fetches = pass == Pass::Role;
        let caps = match fetches {
            true => privilege::of_fetch(spec.peer.location, spec.peer.ssh),
            false => privilege::of_rsync(spec.peer.location, spec.peer.ssh, spec.extras),
        };
        let (user, ruleset) = if fetches { fetching(spec) } else { (None, None) };
        let file_bytes = fetches.then_some(mark::MAX_BYTES);
        let limits = Limits { no_core: true, file_bytes, user, writes: ruleset.as_ref(), priority: spec.priority };
        let mut inherit: Vec<BorrowedFd<'_>> = match (spec.renamed, spec.below) {
            (Some(renamed), _) => vec![renamed.source.as_fd()],
            (_, Some(below)) => std::iter::once(&below.source).chain(&below.target).map(AsFd::as_fd).collect(),
            _ => spec.source.into_iter().collect(),
        };
        // A process that is not trusted could give the lock up; nothing that comes after it minds
        // what fetches.
        inherit.extend(spec.lock.filter(|_| !fetches));
        let with_password = match spec.peer.password_of_module() {
            Some(path) => Some(with_password(env, password(path)?)),
            None => None,
        };
        let (words, env) = (argv(spec, pass), with_password.as_deref().unwrap_or(env));
        let child = match Child::spawn_with(&words, env, stdin, caps, limits, &inherit) {
            // Another user may not run it, or cannot be made.
            Err(SpawnError::Program { source, .. }) if user.is_some() => {
                static LOGGED: Once = Once::new();
                LOGGED.call_once(|| {
                    tracing::warn!(
                        rsync = %spec.rsync.display(), error = %source,
                        "role marks are fetched by a process of root's, without capabilities: another user cannot run rsync"
                    );
                });
                Child::spawn_with(&words, env, Stdin::Null, caps, Limits { user: None, ..limits }, &inherit)?
            }
            started => started?,
        };
        let context = Context {
            filters: !spec.filter_args.is_empty() || !spec.guard_args.is_empty(),
            delete: spec.delete,
            makes_target: pass == Pass::MovedTree,
        };
        let output = Output::new(names(spec));
        let run = Run { child: Doer::Rsync(child), output, context, daemon: spec.peer.location.is_socket(), moving: None };
        // A spare process connects at leisure; it is hastened when it gets its list.
        if !matches!(input, Input::Standby) {
            run.hasten();
        }
        Ok(run)
    }

    /// Starts an rsync with these words, the program first, that copies towards us: its messages
    /// name paths of both sides as `names` has them.
    ///
    /// # Errors
    /// See [`RunError`].
    pub(crate) fn pull(
        words: &[OsString],
        peer: &super::argv::Peer<'_>,
        env: &[(OsString, OsString)],
        input: Input<'_>,
        names: Names,
    ) -> Result<Run, RunError> {
        let stdin = stdin(input)?;
        let with_password = match peer.password_of_module() {
            Some(path) => Some(with_password(env, password(path)?)),
            None => None,
        };
        let env = with_password.as_deref().unwrap_or(env);
        let limits = Limits { no_core: true, ..Limits::default() };
        let child = Child::spawn_with(words, env, stdin, None, limits, &[])?;
        let context = Context { filters: true, delete: true, makes_target: false };
        let run = Run {
            child: Doer::Rsync(child),
            output: Output::new(names),
            context,
            daemon: peer.location.is_socket(),
            moving: None,
        };
        if !matches!(input, Input::Standby) {
            run.hasten();
        }
        Ok(run)
    }

    /// Starts an rsync with these words, the program first, that applies a batch to the directory
    /// `dir` and writes nowhere else, as far as the kernel can see to that.
    ///
    /// # Errors
    /// See [`RunError`].
    pub(crate) fn apply(
        words: &[OsString],
        env: &[(OsString, OsString)],
        input: Input<'_>,
        dir: impl AsFd,
        extras: config::Extras,
        names: Names,
    ) -> Result<Run, RunError> {
        let stdin = stdin(input)?;
        let caps = privilege::of_rsync(&Location::Local("/".into()), None, extras);
        let ruleset = Ruleset::writes_below(dir.as_fd()).ok();
        let limits = Limits { no_core: true, writes: ruleset.as_ref(), ..Limits::default() };
        let child = Child::spawn_with(words, env, stdin, caps, limits, &[])?;
        let context = Context { filters: true, delete: true, makes_target: false };
        Ok(Run { child: Doer::Rsync(child), output: Output::new(names), context, daemon: false, moving: None })
    }

    /// What publishes a record.
    pub(crate) fn publication(publication: Publication) -> Run {
        let (output, context) = (Output::new(Names::default()), Context::default());
        Run { child: Doer::Feed(publication), output, context, daemon: false, moving: None }
    }

    /// Keeps the first `limit` itemised changes; call before the first output is read. See
    /// [`Output::items`].
    pub fn keep_items(&mut self, limit: usize) {
        self.output.keep_items(limit);
    }

    /// Keeps the itemised changes of these paths, and no others; as [`Run::keep_items`].
    pub(crate) fn keep_items_of(&mut self, paths: impl IntoIterator<Item = RelPath>) {
        self.output.keep_items_of(paths.into_iter().collect());
    }

    /// Takes out the itemised changes that were kept; `false` if there were more.
    pub(crate) fn take_items(&mut self) -> (Vec<super::output::Item>, bool) {
        (std::mem::take(&mut self.output.items), self.output.items_more == 0)
    }

    /// rsync's process id.
    pub fn pid(&self) -> u32 {
        match &self.child {
            Doer::Rsync(child) => child.pid(),
            Doer::Feed(_) => 0,
        }
    }

    /// Readable once rsync has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        match &self.child {
            Doer::Rsync(child) => child.pidfd(),
            Doer::Feed(publication) => publication.ready(),
        }
    }

    /// An output to wait on; `None` once it came to its end.
    pub(crate) fn output_fd(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match &self.child {
            Doer::Rsync(child) => child.output(stream),
            Doer::Feed(_) => None,
        }
    }

    /// rsync's output so far: counters, progress, messages.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// How many bytes of a list a standby takes; `None` when it does not wait for one.
    pub fn capacity(&self) -> Option<usize> {
        self.rsync().and_then(Child::capacity)
    }

    /// Gives a standby its list, which starts the transfer.
    ///
    /// # Errors
    /// See [`FeedError`]; rsync is killed then, nothing of the list was carried out.
    pub fn feed(&mut self, list: &[u8]) -> Result<(), FeedError> {
        match &mut self.child {
            Doer::Rsync(child) => child.feed(list)?,
            Doer::Feed(_) => return Err(FeedError::NotWaiting),
        }
        self.hasten();
        Ok(())
    }

    fn hasten(&self) {
        if let Doer::Rsync(child) = &self.child
            && self.daemon
        {
            hasten(child.pidfd(), child.pid());
        }
    }

    /// Reads what an output has now, at most about 1 MiB. Returns whether the output is still open;
    /// once it is not, its descriptor is closed, so take it out of the reactor **before** (or
    /// ignore that reactor's late token).
    pub(crate) fn on_readable(&mut self, stream: Stream) -> bool {
        let Doer::Rsync(child) = &mut self.child else { return false };
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_PER_TURN {
            match child.read(stream, &mut buffer) {
                Ok(Some(0)) => return false,
                Ok(Some(len)) => {
                    self.output.push(stream, &buffer[..len]);
                    if self.moving.is_none() && self.output.progress.is_some() {
                        self.moving = Some(Instant::now());
                    }
                }
                Ok(None) => return true,
                Err(error) => {
                    // A pipe has no read errors; take it for the end and let the exit code speak.
                    tracing::warn!(pid = child.pid(), ?stream, %error, "cannot read rsync's output");
                    return false;
                }
            }
        }
        true
    }

    /// The outcome, once rsync has ended; `None` before. Call when [`Run::pidfd`] is readable.
    ///
    /// # Errors
    /// waitid(2): the process was reaped elsewhere; how it ended is unknown, treat it as killed.
    pub(crate) fn on_exit(&mut self) -> io::Result<Option<Outcome>> {
        let child = match &mut self.child {
            Doer::Rsync(child) => child,
            Doer::Feed(publication) => return Ok(publication.ended().map(Published::outcome)),
        };
        let Some(exit) = child.try_wait()? else { return Ok(None) };
        // All that rsync wrote is in the pipes by now, and no pipe holds more than one turn reads.
        self.on_readable(Stream::Stdout);
        self.on_readable(Stream::Stderr);
        self.output.finish();
        Ok(Some(classify(exit, &self.output, self.context)))
    }

    /// Cuts rsync off: its receiver puts in place what it has whole, removes its temporary file and
    /// ends. See [`crate::sys::child`] for why it is not queried.
    pub(crate) fn cut(&mut self) {
        match &mut self.child {
            Doer::Rsync(child) => child.cut(),
            Doer::Feed(publication) => publication.give_up(),
        }
    }

    /// Ends rsync at once.
    pub(crate) fn kill(&mut self) {
        match &mut self.child {
            Doer::Rsync(child) => child.kill(),
            Doer::Feed(publication) => publication.give_up(),
        }
    }

    /// A number that changes for as long as rsync does something. Costs two reads from /proc.
    pub fn progress_mark(&self) -> u64 {
        self.rsync().map_or(0, Child::progress_mark)
    }

    /// What rsync has done so far. Costs two reads from /proc.
    pub(crate) fn work(&self) -> Work {
        self.rsync().map_or_else(Work::default, Child::work)
    }

    /// The same, of a run that copies towards us.
    pub(crate) fn work_of_pull(&self) -> Work {
        self.rsync().map_or_else(Work::default, Child::work_of_all)
    }

    /// When rsync first printed its progress; `None` until then, and for passes that do not print
    /// it.
    pub(crate) fn moving(&self) -> Option<Instant> {
        self.moving
    }

    /// Bytes that rsync has read so far: of a sender nearly all of them content of files.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.rsync().map_or(0, Child::bytes_read)
    }

    /// The largest file that it has open.
    pub(crate) fn open_file(&self) -> Option<OpenFile> {
        self.rsync().and_then(Child::open_file)
    }

    /// What it waits on while it opens a file.
    pub(crate) fn waits_on(&self) -> Option<WaitsOn> {
        self.rsync().and_then(Child::waits_on)
    }

    fn rsync(&self) -> Option<&Child> {
        match &self.child {
            Doer::Rsync(child) => Some(child),
            Doer::Feed(_) => None,
        }
    }

    /// Blocks until rsync has ended, at most `timeout` (then it is cut off, and its group killed
    /// two seconds later). `progress` is called after each piece of output.
    ///
    /// # Errors
    /// As [`Run::on_exit`], and as [`Reactor::wait`].
    pub fn wait(&mut self, timeout: Duration, mut progress: impl FnMut(&Output)) -> io::Result<Outcome> {
        let deadline = Instant::now() + timeout;
        self.wait_while(timeout, |run| {
            progress(&run.output);
            Instant::now() < deadline
        })
    }

    /// Blocks until rsync has ended. `going` is called after each piece of output, and at least
    /// every `interval`; once it returns false, rsync is cut off, and its group killed two seconds
    /// later.
    ///
    /// # Errors
    /// As [`Run::on_exit`], and as [`Reactor::wait`].
    pub(crate) fn wait_while(&mut self, interval: Duration, mut going: impl FnMut(&Run) -> bool) -> io::Result<Outcome> {
        const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
        const EXIT: u64 = 2;
        let mut reactor = Reactor::new(false);
        reactor.add(self.pidfd(), Interest::Read, EXIT)?;
        for stream in STREAMS {
            if let Some(fd) = self.output_fd(stream) {
                reactor.add(fd, Interest::Read, stream as u64)?;
            }
        }
        let mut kill_at: Option<Instant> = None;
        let mut ready = Vec::new();
        loop {
            let limit = kill_at.map_or(interval, |at| at.saturating_duration_since(Instant::now()));
            reactor.wait(&mut ready, Some(limit))?;
            for stream in STREAMS {
                if ready.contains(&(stream as u64)) && !self.on_readable(stream) {
                    reactor.remove(stream as u64)?;
                }
            }
            if ready.contains(&EXIT)
                && let Some(outcome) = self.on_exit()?
            {
                return Ok(outcome);
            }
            match kill_at {
                Some(at) if Instant::now() >= at => {
                    self.kill();
                    kill_at = Some(Instant::now() + GRACE);
                }
                None if !going(self) => {
                    self.cut();
                    kill_at = Some(Instant::now() + GRACE);
                }
                _ => {}
            }
        }
    }
}

/// What a run reads.
fn stdin(input: Input<'_>) -> Result<Stdin, RunError> {
    Ok(match input {
        Input::None => Stdin::Null,
        Input::Standby => Stdin::Later(STANDBY_LIST_BYTES),
        Input::List(list) => {
            let file = memfd::sealed(c"fansync-list", list);
            Stdin::File(file.map_err(|source| RunError::List { bytes: list.len(), source })?)
        }
    })
}

/// Whom a run becomes that fetches a mark, and what it may write. The user, if the directory that
/// it copies into was made for it.
fn fetching(spec: &Spec<'_>) -> (Option<User>, Option<Ruleset>) {
    let made_for = |user: &User| std::fs::metadata(spec.root).is_ok_and(|dir| dir.gid() == user.gid);
    let user = privilege::user_of_fetch(spec.peer.location).filter(made_for);
    let confined = spec.source.filter(|_| privilege::fetch_writes_nothing_else(spec.peer.location, spec.peer.ssh));
    // Kernels without Landlock: the user and the size of files are bounds, too.
    (user, confined.and_then(|dir| Ruleset::writes_below(dir).ok()))
}

/// How the run's messages name paths.
fn names(spec: &Spec<'_>) -> Names {
    let names = Names::new(spec.root, spec.peer.location).copying(config::Nodes::copied(spec.extra));
    match (spec.below, spec.source) {
        (Some(below), _) => {
            let names = names.below(&below.dir).told_as(inherited(below.source.as_fd()));
            match &below.target {
                Some(fd) => names.target_told_as(inherited(fd.as_fd())),
                None => names,
            }
        }
        (None, Some(fd)) => names.told_as(inherited(fd)),
        (None, None) => names,
    }
}

/// Runs a program to its end and returns what it wrote, at most `limit` bytes of each output. For
/// short questions to rsync.
///
/// # Errors
/// [`SpawnError`], or TimedOut in [`CollectError::Io`] after `timeout`; the program is killed then.
pub(crate) fn collect(
    argv: &[OsString],
    env: &[(OsString, OsString)],
    limit: usize,
    timeout: Duration,
) -> Result<Collected, CollectError> {
    gather(Child::spawn(argv, env, Stdin::Null)?, limit, timeout)
}

/// The same for a question to a target whose answer rsync reads as what comes towards us: without
/// capabilities, writing nothing but below `dir`, as far as [`privilege`] has it for the run that
/// fetches a mark. It stays this user's, as another one's rsync does not check owners.
///
/// # Errors
/// As [`collect`].
pub(crate) fn collect_confined(
    spec: &Spec<'_>,
    argv: &[OsString],
    env: &[(OsString, OsString)],
    dir: BorrowedFd<'_>,
    limit: usize,
    timeout: Duration,
) -> Result<Collected, CollectError> {
    let confined = privilege::fetch_writes_nothing_else(spec.peer.location, spec.peer.ssh);
    let ruleset = confined.then(|| Ruleset::writes_below(dir).ok()).flatten();
    let limits = Limits { no_core: true, file_bytes: Some(mark::MAX_BYTES), writes: ruleset.as_ref(), ..Limits::default() };
    let caps = privilege::of_fetch(spec.peer.location, spec.peer.ssh);
    gather(Child::spawn_with(argv, env, Stdin::Null, caps, limits, &[])?, limit, timeout)
}

fn gather(mut child: Child, limit: usize, timeout: Duration) -> Result<Collected, CollectError> {
    let deadline = Instant::now() + timeout;
    let mut reactor = Reactor::new(false);
    let mut texts = [Vec::new(), Vec::new()];
    let mut ready = Vec::new();
    const EXIT: u64 = 2;
    reactor.add(child.pidfd(), Interest::Read, EXIT)?;
    for stream in [Stream::Stdout, Stream::Stderr] {
        if let Some(fd) = child.output(stream) {
            reactor.add(fd, Interest::Read, stream as u64)?;
        }
    }
    let mut buffer = [0; READ_BYTES];
    loop {
        reactor.wait(&mut ready, Some(deadline.saturating_duration_since(Instant::now())))?;
        let exit = if ready.contains(&EXIT) { child.try_wait()? } else { None };
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..READS_PER_TURN {
                match child.read(stream, &mut buffer)? {
                    Some(0) => {
                        reactor.remove(stream as u64)?;
                        break;
                    }
                    Some(len) => {
                        let text = &mut texts[stream as usize];
                        let room = limit - text.len();
                        text.extend_from_slice(&buffer[..len.min(room)]);
                    }
                    None => break,
                }
            }
        }
        if let Some(exit) = exit {
            let [stdout, stderr] = texts;
            return Ok(Collected { exit, stdout, stderr });
        }
        if Instant::now() >= deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
    }
}

/// What [`collect`] brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collected {
    /// How it ended.
    pub(crate) exit: Exit,
    /// The start of what it wrote.
    pub(crate) stdout: Vec<u8>,
    /// The start of what it complained of.
    pub(crate) stderr: Vec<u8>,
}

/// Why [`collect`] brings nothing.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The process did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Waiting or reading failed, or took too long.
    #[error("cannot read what a program says")]
    Io(#[from] io::Error),
}
