//! How an engine is made, and what one leaves to the next: the marks first, then what an earlier
//! run has left on disk, then the threads of hooks.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crossbeam::channel::{Receiver, unbounded};

use super::dir_times::DirTimes;
use super::drains::Drains;
use super::exported::Following;
use super::flushes::{FlushRequest, Flushes};
use super::follow::Written;
use super::gate::Gate;
use super::history::{Begin, History, Renewed};
use super::intake::Intake;
use super::listening::Listeners;
use super::record::Record;
use super::rescans::Rescans;
use super::unsent::Unsent;
use super::verifying::Verifying;
use super::walks::Searches;
use super::watching::Watching;
use super::{Clock, Command, Engine, Handle, Io, MOUNTS, Saved, Shutdown, WAKE, WatchError, byhandle, hold};
use crate::budget::Budget;
use crate::config::Mirror;
use crate::dirty::Seen;
use crate::faillog::FailLog;
use crate::hooks::Hooks;
use crate::path::RelPath;
use crate::resolve::Resolver;
use crate::root::Root;
use crate::state::StateError;
use crate::state::filled::FilledFile;
use crate::state::pauses::PauseFile;
use crate::state::runs::Runs;
use crate::state::written::WrittenFile;
use crate::sync::probe::RsyncFacts;
use crate::sys::event::EventFd;
use crate::sys::reactor::{Interest, Reactor};
use crate::sys::statx::Statter;
use crate::targets::Target;

/// Directories remembered inside and outside the root, each; about 100 bytes, name and handle
/// included.
const MAX_DIRS: usize = 1_000_000;

/// Why a mirror cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot open the source {path}")]
    Source {
        /// As configured.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing can be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Where state is kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// A system call that every kernel has.
    #[error("cannot set up the mirror {mirror}: {what}")]
    Setup {
        /// The mirror's name.
        mirror: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl StartError {
    fn of(mirror: &Mirror, what: &'static str) -> impl FnOnce(std::io::Error) -> StartError + use<> {
        let mirror = mirror.name.clone();
        move |source| StartError::Setup { mirror, what, source }
    }
}

/// How an engine ended.
pub(crate) enum Ended {
    /// For good, with so many changes that are not on some target.
    Stopped(usize),
    /// To begin again with the source as it is now.
    Again(Box<Again>),
}

/// What an engine leaves to the one that takes its place.
pub(crate) struct Again {
    pub(super) mirror: Mirror,
    pub(super) setup: Setup,
    pub(super) commands: Receiver<Command>,
    pub(super) wake: Arc<EventFd>,
    pub(super) turns: Arc<AtomicU64>,
    /// An administrator accepted the source: what it lacks may be deleted.
    pub(super) accepted: bool,
    /// Targets that were filled from the directory that the source's path led to before it was
    /// switched to another one.
    pub(super) switched: Option<Vec<String>>,
    /// The engine before gave up without a stop.
    pub(super) renewed: Option<Renewed>,
    /// Asked of the engine before, and not answered.
    pub(super) flushes: Vec<FlushRequest>,
    /// The configuration is another one: what it was before.
    pub(super) before: Option<Box<(Mirror, RsyncFacts)>>,
}

impl Again {
    /// The mirror's name.
    pub(crate) fn mirror(&self) -> &str {
        &self.mirror.name
    }

    /// The same with the configuration before, where it is another.
    pub(crate) fn before(&self) -> Option<Again> {
        let (mirror, facts) = self.before.as_deref()?.clone();
        let again = self.once_more();
        Some(Again { mirror, setup: Setup { facts, ..again.setup }, ..again })
    }

    /// The same, for a second try.
    pub(super) fn once_more(&self) -> Again {
        Again {
            mirror: self.mirror.clone(),
            setup: self.setup.clone(),
            commands: self.commands.clone(),
            wake: Arc::clone(&self.wake),
            turns: Arc::clone(&self.turns),
            accepted: self.accepted,
            switched: self.switched.clone(),
            renewed: self.renewed,
            flushes: self.flushes.clone(),
            before: None,
        }
    }
}

/// What a mirror is run with, beside its configuration.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) facts: RsyncFacts,
    pub(super) state_dir: PathBuf,
    /// Whether state is kept there.
    pub(super) keep: bool,
    /// What the targets of all mirrors share.
    pub(super) budget: Budget,
}

impl Engine {
    /// What [`Engine::open`] needs, and the way to the engine, whose commands are taken once it
    /// runs. `keep`: whether the state is kept in `state_dir`, so that the next start need not
    /// compare everything.
    ///
    /// # Errors
    /// [`StartError::Setup`].
    pub(crate) fn prepare(
        mirror: &Mirror,
        facts: &RsyncFacts,
        state_dir: &Path,
        keep: bool,
        budget: &Budget,
    ) -> Result<(Again, Handle), StartError> {
        let wake = EventFd::new().map_err(StartError::of(mirror, "cannot make an eventfd"))?;
        let (tx, commands) = unbounded();
        let again = Again {
            mirror: mirror.clone(),
            setup: Setup { facts: facts.clone(), state_dir: state_dir.into(), keep, budget: budget.clone() },
            commands,
            wake: Arc::new(wake),
            turns: Arc::default(),
            accepted: false,
            switched: None,
            renewed: None,
            flushes: Vec::new(),
            before: None,
        };
        let handle = Handle {
            mirror: mirror.name.clone(),
            targets: mirror.targets.iter().map(|t| t.name.clone()).collect(),
            commands: tx,
            wake: Arc::clone(&again.wake),
            turns: Arc::clone(&again.turns),
            last: Default::default(),
            moved: Default::default(),
        };
        Ok((again, handle))
    }

    /// Opens the source, sets the marks, and starts the reader: from here on no change is missed.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(crate) fn open(again: Again) -> Result<Engine, StartError> {
        let Again { mirror, setup, commands, wake, turns, accepted, switched, renewed, flushes, .. } = again;
        let failed = |what| StartError::of(&mirror, what);
        let mut begin = Begin::now().map_err(failed("cannot read the clocks"))?;
        begin.renewed = renewed;
        let root = Root::open(&mirror.source).map_err(|source| StartError::Source { path: mirror.source.clone(), source })?;
        let mut io = Io::new(&mirror, commands, wake, turns)?;
        let guard =
            hold::SourceGuard::new(setup.keep.then(|| hold::Remembered::load(&setup.state_dir, &mirror, &root, accepted)));
        let expected = if accepted { BTreeSet::new() } else { guard.expected() };
        let searches = Searches::new(&mirror);
        let intake = Intake::open(&mirror, &root, expected, &io)?;
        if let Some(mounts) = intake.watching.mounts_fd() {
            io.reactor.add(mounts, Interest::Priority, MOUNTS).map_err(failed("cannot wait for mounts"))?;
        }
        let made = mirror.targets.iter().enumerate().map(|(i, target)| Target::new(i, &mirror, target, &setup.facts));
        let mut targets: Vec<Target> = made.collect();
        targets.iter_mut().for_each(|target| target.share(setup.budget.join(Arc::clone(&io.wake))));
        let saved = Saved::open(&setup, &mirror, &root, &intake.watching, &mut targets, &mut begin)?;
        for target in &mut targets {
            let kept = setup.keep.then_some(setup.state_dir.as_path());
            target.start_feed(&root, kept).map_err(failed("cannot start the thread of a feed"))?;
        }
        let hooks = Hooks::start(&mirror, root.path(), &setup.state_dir).map_err(failed("cannot start the threads of hooks"))?;
        let mut engine = Engine {
            begin,
            clock: Clock { started: Instant::now(), wall_start: byhandle::wall_clock() },
            io,
            intake,
            drains: Drains::default(),
            rescans: Rescans::new(mirror.full_every, &mirror.full_at),
            searches,
            guard,
            saved,
            verifying: Verifying::new(mirror.targets.len()),
            setup,
            root,
            targets,
            hooks,
            flushes: Flushes::default(),
            listeners: Listeners::default(),
            shutdown: Shutdown::default(),
            mirror,
        };
        if let Some(filled) = switched {
            engine.targets.iter_mut().for_each(|target| target.take_other_source(filled.contains(&target.cfg.name)));
        }
        if accepted {
            engine.see_all(b"", Seen::Subtree);
            for at in 0..engine.targets.len() {
                engine.with_target(at, |target, cx| {
                    target.accept_deletes(cx);
                });
            }
        }
        engine.take_over(flushes);
        Ok(engine)
    }
}

impl Io {
    fn new(mirror: &Mirror, commands: Receiver<Command>, wake: Arc<EventFd>, turns: Arc<AtomicU64>) -> Result<Io, StartError> {
        let mut reactor = Reactor::new(mirror.kernel.io_uring);
        reactor.add(wake.as_fd(), Interest::Read, WAKE).map_err(StartError::of(mirror, "cannot wait for events"))?;
        Ok(Io { reactor, statter: Statter::new(), wake, turns, commands })
    }
}

impl Intake {
    /// Sets the marks and starts the reader.
    fn open(mirror: &Mirror, root: &Root, expected: BTreeSet<RelPath>, io: &Io) -> Result<Intake, StartError> {
        let mut resolver = Resolver::new(MAX_DIRS);
        let following = Following::new(mirror.follow_open_files, root);
        let (watching, reader) = Watching::start(mirror, following.is_on(), root, expected, &mut resolver, &io.wake, &io.turns)?;
        Ok(Intake {
            resolver,
            gate: Gate::new(mirror.events),
            watching,
            reader,
            written: Written::new(mirror.follow_interval),
            dir_times: DirTimes::default(),
            following,
            events: 0,
        })
    }
}

impl Saved {
    /// After the marks are set.
    fn open(
        setup: &Setup,
        mirror: &Mirror,
        root: &Root,
        watching: &Watching,
        targets: &mut [Target],
        begin: &mut Begin,
    ) -> Result<Saved, StartError> {
        let record = mirror.fail_log.as_deref().map(|path| Record::new(FailLog::open(path), mirror.targets.len()));
        if !setup.keep {
            return Ok(Saved { history: None, pauses: None, filled: None, unsent: None, record });
        }
        let dir = setup.state_dir.as_path();
        let history = History::open(dir, mirror, root, watching, targets, begin)?;
        let path = dir.join(&mirror.name);
        let (runs, earlier) = Runs::open(dir, &mirror.name).map_err(|source| StateError::Directory { path, source })?;
        let (runs, killed) = (Arc::new(runs), earlier && !history.is_after_stop());
        targets.iter_mut().for_each(|target| target.take_runs(&runs, killed));
        Ok(Saved {
            history: Some(history),
            pauses: Some(PauseFile::new(dir, &mirror.name, root.path())),
            filled: Some((FilledFile::new(dir, &mirror.name, root.path()), BTreeSet::new())),
            unsent: Some(Unsent::new(WrittenFile::new(dir, &mirror.name, root.path()))),
            record,
        })
    }
}
