//! One mirror's engine: a thread that owns the path tree, the targets and their children, and waits on one reactor.
//!
//! Each turn: wait; take filled buffers from the ring and turn them into dirty paths; serve children that have something to
//! say; send what may leave. Nothing in a turn blocks, but for look-ups on the source's own disk.
//!
//! Order at the start: marks first, then [`Engine::run`] begins with the whole tree, so a change during the first pass is
//! heard. Loss of sight, of whatever cause, goes through `Engine::lost`: the subtree becomes dirty whole.

mod aliases;
mod asking;
mod byhandle;
mod commands;
mod detached;
mod dir_times;
mod engines;
mod explaining;
mod exported;
mod follow;
mod foreign;
mod gate;
mod handle;
mod history;
mod hold;
mod last;
mod linked;
mod listening;
mod losses;
mod mounted;
mod nameless;
mod names;
mod outside;
mod record;
mod steering;
mod strays;
mod verifying;
mod waiting;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, unbounded};

use crate::apart::Apart;
use crate::config::Mirror;
use crate::dirty::Seen;
use crate::faillog::FailLog;
use crate::guard::Hold;
use crate::hooks::Hooks;
use crate::links::Met;
use crate::lost::{Cause, Lost};
use crate::path::{RelPath, Shown};
use crate::resolve::Resolver;
use crate::root::Root;
use crate::source::fan_decode;
use crate::source::reader::{Feed, Item, Reader};
use crate::state::StateError;
use crate::state::filled::FilledFile;
use crate::state::pauses::PauseFile;
use crate::state::runs::Runs;
use crate::status;
use crate::sync::probe::RsyncFacts;
use crate::sys::event::EventFd;
use crate::sys::reactor::{Backend, Interest, Reactor};
use crate::sys::statx::Statter;
use crate::targets::{Context, TOKEN_BASE, Target, token_target};
use asking::Asked;
use commands::Flush;
use dir_times::DirTimes;
use follow::Written;
use gate::Gate;
use history::{Begin, History, Renewed};
use losses::Recent;
use record::Record;
use verifying::Verifying;
use watching::Watching;

pub use asking::Question;
pub use engines::Engines;
pub(crate) use explaining::{Said, explain};
pub use handle::{Command, Handle, Replacement};
pub use last::LastStatus;
pub use listening::Listeners;
pub(crate) use listening::listen;
pub(crate) use mounted::left_alone;
pub use verifying::{Board, Live, Plan};
pub use waiting::{Stage, Waiting};
pub use watching::WatchError;

const WAKE: u64 = 1;
const MOUNTS: u64 = 2;

/// Buffers handled before children and commands get their turn.
const BUFFERS_PER_TURN: usize = 64;
/// How often subtrees that cannot be watched are compared.
const UNWATCHED_EVERY: Duration = Duration::from_secs(30);
/// After a wait that failed.
const UNREADY_PAUSE: Duration = Duration::from_millis(100);
/// Directories remembered inside and outside the root, each; about 100 bytes, name and handle included.
const MAX_DIRS: usize = 1_000_000;

/// Why a mirror cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The source.
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

/// How an engine ended.
pub enum Ended {
    /// For good, with so many changes that are not on some target.
    Stopped(usize),
    /// To begin again with the source as it is now.
    Again(Box<Again>),
}

/// What an engine leaves to the one that takes its place.
pub struct Again {
    mirror: Mirror,
    facts: RsyncFacts,
    state_dir: PathBuf,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    turns: Arc<AtomicU64>,
    keep: bool,
    /// Somebody said that the source is meant: what it lacks may be deleted.
    accepted: bool,
    /// Targets that were filled from the directory that the source's path led to before it was switched to another one.
    switched: Option<Vec<String>>,
    /// The engine before gave up without a stop.
    renewed: Option<Renewed>,
    /// Asked of the engine before, and not answered.
    flushes: Vec<Flush>,
    /// The configuration is another one: what it was before.
    before: Option<Box<(Mirror, RsyncFacts)>>,
}

impl Again {
    /// The mirror's name.
    pub fn mirror(&self) -> &str {
        &self.mirror.name
    }

    /// The same with the configuration before, where it is another.
    pub fn before(&self) -> Option<Again> {
        let (mirror, facts) = self.before.as_deref()?.clone();
        Some(Again { mirror, facts, ..self.once_more() })
    }

    /// The same, for a second try.
    fn once_more(&self) -> Again {
        Again {
            mirror: self.mirror.clone(),
            facts: self.facts.clone(),
            state_dir: self.state_dir.clone(),
            commands: self.commands.clone(),
            wake: Arc::clone(&self.wake),
            turns: Arc::clone(&self.turns),
            keep: self.keep,
            accepted: self.accepted,
            switched: self.switched.clone(),
            renewed: self.renewed,
            flushes: self.flushes.clone(),
            before: None,
        }
    }
}

/// See the module's text.
pub struct Engine {
    mirror: Mirror,
    begin: Begin,
    /// `None`: nothing is kept.
    history: Option<History>,
    facts: RsyncFacts,
    state_dir: PathBuf,
    keep: bool,
    /// `None`: nothing is kept, and a pause ends with the process.
    pauses: Option<PauseFile>,
    /// Where it is kept which targets were filled, and which are known there; where state is kept.
    filled: Option<(FilledFile, BTreeSet<String>)>,
    /// Where filesystems were mounted, and what of that is on disk; `None`: nothing is kept.
    mounts: Option<hold::Remembered>,
    started: Instant,
    /// `started` by the wall clock, seconds since 1970.
    wall_start: i64,
    root: Root,
    resolver: Resolver,
    gate: Gate,
    watching: Watching,
    reader: Reader,
    reactor: Reactor,
    statter: Statter,
    written: Written,
    dir_times: DirTimes,
    wake: Arc<EventFd>,
    turns: Arc<AtomicU64>,
    targets: Vec<Target>,
    commands: Receiver<Command>,
    flushes: Vec<Flush>,
    next_token: u64,
    losses: BTreeMap<Cause, u64>,
    recent: BTreeMap<RelPath, Recent>,
    next_unwatched: Option<Duration>,
    held: Option<Hold>,
    /// Places that are left alone.
    apart: Arc<Apart>,
    /// The source's path leads to another directory now.
    switched: bool,
    /// The source was mounted anew at its path.
    remounted: bool,
    /// The source is to be opened anew; whether somebody accepted it.
    begin_again: Option<bool>,
    /// The configuration that the mirror is to go on with.
    successor: Option<Box<(Mirror, RsyncFacts)>>,
    next_root_check: Duration,
    next_full: Option<Duration>,
    stop_at: Option<Instant>,
    /// The drain that a stop asked for; `None` once everything before it is in the dirty sets.
    stop_drain: Option<u64>,
    /// The drain under way for [`DirtySet::begin_barrier`](crate::dirty::DirtySet::begin_barrier).
    barrier: Option<u64>,
    /// The drain under way for [`Resolver::settle`].
    settling: Option<u64>,
    record: Option<Record>,
    events: u64,
    /// Which names are one file; only with `hard_links`.
    linking: Option<linked::Linking>,
    /// Names of changed files, where an event does not lead to all of them.
    naming: names::Naming,
    nameless_walks: nameless::Walks,
    following: exported::Following,
    by_handle: byhandle::ByHandle,
    strays: strays::Strays,
    outside: outside::Outside,
    hooks: Hooks,
    asked: Vec<Asked>,
    listeners: Listeners,
    verifying: Verifying,
}

impl Engine {
    /// Opens the source, sets the marks, and starts the reader: from here on every change is heard.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// `keep`: whether the state is kept in `state_dir`, so that the next start need not compare everything.
    pub fn start(mirror: &Mirror, facts: &RsyncFacts, state_dir: &Path, keep: bool) -> Result<(Engine, Handle), StartError> {
        let (again, handle) = Engine::prepare(mirror, facts, state_dir, keep)?;
        Ok((Engine::open(again)?, handle))
    }

    /// What [`Engine::open`] needs, and the way to the engine; it is taken in once that runs.
    ///
    /// # Errors
    /// [`StartError::Setup`].
    pub fn prepare(mirror: &Mirror, facts: &RsyncFacts, state_dir: &Path, keep: bool) -> Result<(Again, Handle), StartError> {
        let wake = EventFd::new().map_err(|source| StartError::Setup {
            mirror: mirror.name.clone(),
            what: "cannot make an eventfd",
            source,
        })?;
        let (tx, commands) = unbounded();
        let again = Again {
            mirror: mirror.clone(),
            facts: facts.clone(),
            state_dir: state_dir.into(),
            commands,
            wake: Arc::new(wake),
            turns: Arc::default(),
            keep,
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
        };
        Ok((again, handle))
    }

    /// The same on a channel that is there already.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn open(again: Again) -> Result<Engine, StartError> {
        let Again { mirror, facts, state_dir, commands, wake, turns, keep, accepted, switched, renewed, flushes, .. } = again;
        let (mirror, facts, state_dir) = (&mirror, &facts, state_dir.as_path());
        let setup = |what| move |source| StartError::Setup { mirror: mirror.name.clone(), what, source };
        let mut begin = Begin::now().map_err(setup("cannot read the clocks"))?;
        begin.renewed = renewed;
        let root = Root::open(&mirror.source).map_err(|source| StartError::Source { path: mirror.source.clone(), source })?;
        let backend = if mirror.kernel.io_uring { Backend::Auto } else { Backend::Poll };
        let mut reactor = Reactor::new(backend).map_err(setup("cannot wait for descriptors"))?;
        let mut resolver = Resolver::new(MAX_DIRS);
        let mounts = keep.then(|| hold::Remembered::load(state_dir, mirror, &root, accepted));
        let expected = mounts.as_ref().filter(|_| !accepted).map(hold::Remembered::expected).unwrap_or_default();
        let by_handle = byhandle::ByHandle::new(byhandle::wall_clock());
        let following = exported::Following::new(mirror.follow_open_files, &root);
        let (watching, reader) = Watching::start(mirror, following.is_on(), &root, expected, &mut resolver, &wake, &turns)?;
        reactor.add(wake.as_fd(), Interest::Read, WAKE).map_err(setup("cannot wait for events"))?;
        if let Some(mounts) = watching.mounts_fd() {
            reactor.add(mounts, Interest::Priority, MOUNTS).map_err(setup("cannot wait for mounts"))?;
        }
        let mut targets: Vec<Target> = mirror.targets.iter().enumerate().map(|(i, t)| Target::new(i, mirror, t, facts)).collect();
        let history = match keep {
            true => Some(History::open(state_dir, mirror, &root, &watching, &targets, &mut begin)?),
            false => None,
        };
        if keep {
            let path = state_dir.join(&mirror.name);
            let (runs, earlier) = Runs::open(state_dir, &mirror.name).map_err(|source| StateError::Directory { path, source })?;
            let killed = earlier && !history.as_ref().is_some_and(History::is_after_stop);
            let runs = Arc::new(runs);
            targets.iter_mut().for_each(|target| target.take_runs(&runs, killed));
        }
        let hooks = Hooks::start(mirror, root.path(), state_dir).map_err(setup("cannot start the threads of hooks"))?;
        let mut engine = Engine {
            begin,
            history,
            hooks,
            facts: facts.clone(),
            state_dir: state_dir.into(),
            keep,
            pauses: keep.then(|| PauseFile::new(state_dir, &mirror.name, root.path())),
            filled: keep.then(|| (FilledFile::new(state_dir, &mirror.name, root.path()), BTreeSet::new())),
            mounts,
            mirror: mirror.clone(),
            started: Instant::now(),
            wall_start: byhandle::wall_clock(),
            root,
            resolver,
            gate: Gate::new(mirror.events),
            watching,
            reader,
            reactor,
            statter: Statter::new(),
            written: Written::new(mirror.follow_interval),
            dir_times: DirTimes::default(),
            wake,
            turns,
            targets,
            commands,
            flushes: Vec::new(),
            next_token: 0,
            losses: BTreeMap::new(),
            recent: BTreeMap::new(),
            next_unwatched: None,
            held: None,
            apart: Arc::default(),
            switched: false,
            remounted: false,
            begin_again: None,
            successor: None,
            next_root_check: Duration::ZERO,
            next_full: mirror.full_every,
            stop_at: None,
            stop_drain: None,
            barrier: None,
            settling: None,
            record: mirror.fail_log.as_deref().map(|path| Record::new(FailLog::open(path), mirror.targets.len())),
            events: 0,
            linking: mirror.extras.hard_links.then(linked::Linking::new),
            naming: names::Naming::new(),
            nameless_walks: nameless::Walks::new(),
            following,
            by_handle,
            strays: strays::Strays::new(),
            outside: outside::Outside::new(),
            asked: Vec::new(),
            listeners: Listeners::default(),
            verifying: Verifying::new(mirror.targets.len()),
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

    /// Runs until told to stop, or until the source is to be opened anew.
    pub fn run(mut self) -> Ended {
        self.begin();
        self.want_linked(b"", true);
        self.take_up_pauses();
        self.settle_places();
        self.take_up_filled();
        self.remember_mounts();
        self.check_root();
        for lost in self.watching.take_lost() {
            self.lost(lost);
        }
        let (mut ready, mut cannot_wait) = (Vec::new(), false);
        loop {
            ready.clear();
            let timeout = self.next_due().map(|due| due.saturating_sub(self.started.elapsed()));
            if let Err(error) = self.reactor.wait(&mut ready, timeout) {
                // For want of memory; what is ready stays so.
                if !std::mem::replace(&mut cannot_wait, true) {
                    tracing::error!(mirror = %self.mirror.name, %error, "cannot wait for events; tried again");
                }
                std::thread::sleep(UNREADY_PAUSE);
                ready.clear();
            } else {
                cannot_wait = false;
            }
            let mut more = false;
            for &token in &ready {
                match token {
                    WAKE => {
                        self.wake.clear();
                    }
                    MOUNTS => self.mounts_changed(),
                    t if t & TOKEN_BASE != 0 => {
                        self.with_target(token_target(t), |target, cx| target.on_ready(cx, t));
                    }
                    _ => {}
                }
            }
            more |= self.take_events();
            more |= self.take_walk();
            self.take_commands();
            self.tick();
            self.follow_links();
            self.follow_names();
            self.follow_nameless();
            self.follow_by_handle();
            self.follow_strays();
            more |= self.follow_outside();
            for at in 0..self.targets.len() {
                self.with_target(at, |target, cx| target.dispatch(cx));
            }
            self.serve_flushes();
            self.keep_record(false);
            self.raise_barrier();
            if more {
                self.wake.wake();
            }
            if self.stop_at.is_some_and(|at| Instant::now() >= at || self.drained()) {
                self.keep_record(true);
                self.leave();
                self.hooks.stop(self.stop_at.unwrap_or_else(Instant::now));
                if self.successor.is_some() {
                    return Ended::Again(Box::new(self.again(false)));
                }
                return Ended::Stopped(self.targets.iter().map(Target::unconfirmed).sum());
            }
            if let Some(accepted) = self.begin_again {
                self.hooks.stop(Instant::now());
                return Ended::Again(Box::new(self.again(accepted)));
            }
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn with_target(&mut self, at: usize, work: impl FnOnce(&mut Target, &mut Context<'_>)) {
        let now = self.started.elapsed();
        let held_before = self.held.is_some();
        let Some(target) = self.targets.get_mut(at) else { return };
        let (resolver, root) = (&mut self.resolver, &self.root);
        let mut dirs: Vec<(RelPath, bool)> = Vec::new();
        let mut meet = |met: Met<'_>| match met {
            Met::Name(name) => resolver.know_linked(root, name),
            Met::Dir(dir, deep) => dirs.push((dir.clone(), deep)),
        };
        let mut cx = Context {
            now,
            wall_start: self.wall_start,
            root: &self.root,
            check: &|| hold::check(&self.root).and_then(|()| self.watching.check(&self.root, &self.apart)),
            places: &|| self.watching.places(),
            filter: &self.mirror.filter,
            links: self.linking.as_mut().map(|l| &mut l.links),
            names: &mut self.naming.names,
            meet: &mut meet,
            statter: &mut self.statter,
            reactor: &mut self.reactor,
            held: &mut self.held,
        };
        target.keep_apart(&mut cx, &self.apart);
        let filled = target.is_filled();
        work(target, &mut cx);
        let filled = (!filled && target.is_filled()).then(|| target.identity());
        let told = target.take_told();
        dirs.into_iter().for_each(|(dir, deep)| self.want_linked(&dir, deep));
        if !held_before && let Some(why) = self.held.take() {
            self.hold(why);
        }
        if let Some(identity) = filled {
            self.remember_filled(identity);
        }
        if let Some((told, settled)) = told {
            self.hooks.confirmed(at, told, &settled, &self.targets);
        }
    }

    // ----- events -----

    fn see_all(&mut self, path: &[u8], seen: Seen) {
        let now = self.now();
        for target in &mut self.targets {
            target.see(now, path, seen);
        }
        if let Some(history) = &mut self.history {
            history.touch(now);
        }
    }

    /// A search found that `path` changed.
    fn take_found(&mut self, path: &[u8], seen: Seen) {
        if self.gate.hides(path) {
            return;
        }
        self.see_all(path, seen);
        self.hooks.seen(path, seen);
    }

    /// Takes buffers from the ring; `true` when there may be more.
    fn take_events(&mut self) -> bool {
        for _ in 0..BUFFERS_PER_TURN {
            let Some(item) = self.reader.pop() else {
                self.resolver.maintain();
                self.strays.caught_up(self.started.elapsed());
                return false;
            };
            match item {
                Item::Buf(buf) => {
                    match buf.feed {
                        Feed::Fanotify => self.fanotify(&buf),
                        Feed::Inotify => self.inotify(&buf),
                    }
                    self.reader.give_back(buf);
                }
                Item::Drained(token) => self.drained_until(token),
                Item::Failed { feed, error, .. } => {
                    tracing::error!(
                        mirror = %self.mirror.name, ?feed, %error,
                        "events can no longer be read; the whole tree is compared every {} s instead. Restart fansync",
                        UNWATCHED_EVERY.as_secs()
                    );
                    self.go_blind(Cause::ReaderFailed);
                }
            }
        }
        true
    }

    /// Events do not tell of everything any more, and nothing will change that: all is compared,
    /// again and again.
    fn go_blind(&mut self, cause: Cause) {
        self.watching.go_blind();
        self.lost(Lost::all(cause));
        self.next_unwatched = Some(self.now() + UNWATCHED_EVERY);
    }

    fn fanotify(&mut self, bytes: &[u8]) {
        let now = self.started.elapsed();
        self.resolver.tick(now);
        let mut losses = Vec::new();
        let mut dirty = false;
        let (aliases, filter, mut relook) = (self.watching.aliases(), self.mirror.filter.clone(), false);
        let (mut came, walks) = (Vec::new(), self.outside.is_incomplete());
        for event in fan_decode::events(bytes) {
            self.events += 1;
            let targets = &mut self.targets;
            let hooks = &mut self.hooks;
            let gate = &mut self.gate;
            let (mask, pid) = event.as_ref().map_or((0, 0), |e| (e.mask, e.pid));
            let listeners = &mut self.listeners;
            let dir_times = &mut self.dir_times;
            let mut inside = false;
            let mut out = |path: &[u8], seen: Seen| {
                if seen == Seen::DirTimes && (!gate.admits_dir_times(mask, path) || !dir_times.changed(path, now)) {
                    return;
                }
                inside = true;
                if seen == Seen::MovedDir || walks && seen == Seen::ArrivedDir {
                    came.push(RelPath::from_normal(path));
                }
                if listeners.any() {
                    listeners.tell(mask, pid, path, seen);
                }
                let Some(seen) = gate.admit(mask, path, seen) else { return };
                tracing::trace!(path = %crate::path::Shown(path), ?seen, "event");
                for target in targets.iter_mut() {
                    target.see(now, path, seen);
                }
                hooks.seen(path, seen);
                aliases.others(path, seen, &mut |path, seen| {
                    if !gate.hides(path) && !filter.excludes(path, true) && !filter.excludes(path, false) {
                        targets.iter_mut().for_each(|target| target.see(now, path, seen));
                        hooks.seen(path, seen);
                    }
                });
                relook |= aliases.change_with(path, seen);
            };
            let told = match &event {
                Ok(event) => self.resolver.event(&self.root, &self.mirror.filter, event, &mut out),
                Err(corrupt) => {
                    tracing::error!(mirror = %self.mirror.name, "{corrupt}");
                    Err(Lost::all(Cause::CorruptRecord))
                }
            };
            losses.extend(told.err());
            dirty |= inside;
            for inode in self.resolver.take_survivors() {
                names::seek_survivor(&mut self.naming.names, &mut self.targets, now, inode);
            }
            if let (Ok(event), Some(history)) = (&event, &mut self.history)
                && History::concerns_places(event)
            {
                history.directory(event, inside);
            }
        }
        if self.listeners.any() {
            self.listeners.forget_commands();
        }
        if let Some(history) = self.history.as_mut().filter(|_| dirty) {
            history.touch(now);
        }
        came.iter().for_each(|dir| self.want_linked(dir, true));
        losses.into_iter().for_each(|l| self.lost(l));
        if relook {
            self.mounts_changed();
        }
    }

    fn inotify(&mut self, bytes: &[u8]) {
        let now = self.started.elapsed();
        let (targets, written, strays) = (&mut self.targets, &mut self.written, &mut self.strays);
        let hooks = &mut self.hooks;
        let gate = &mut self.gate;
        let listeners = &mut self.listeners;
        let (aliases, filter, mut relook) = (self.watching.aliases(), self.mirror.filter.clone(), false);
        let (root, mut whiteouts) = (&self.root, Vec::new());
        let dir_times = &mut self.dir_times;
        let mut out = |mask: u32, path: &[u8], seen: Seen| {
            if seen == Seen::DirTimes && (!gate.admits_dir_times(mask.into(), path) || !dir_times.changed(path, now)) {
                return;
            }
            if listeners.any() {
                listeners.tell(u64::from(mask), 0, path, seen);
            }
            let Some(seen) = gate.admit(u64::from(mask), path, seen) else { return };
            let unsent = written.holds(path);
            if !written.see(path, seen, now) {
                return;
            }
            tracing::trace!(path = %crate::path::Shown(path), ?seen, "event");
            for target in targets.iter_mut() {
                target.see(now, path, seen);
            }
            let dropped = targets.iter().filter_map(Target::dropped_change).min();
            strays.see(path, seen, dropped, unsent, now);
            hooks.seen(path, seen);
            aliases.others(path, seen, &mut |path, seen| {
                if !gate.hides(path) && !filter.excludes(path, true) && !filter.excludes(path, false) {
                    targets.iter_mut().for_each(|target| target.see(now, path, seen));
                    hooks.seen(path, seen);
                }
            });
            relook |= aliases.change_with(path, seen);
            if mask & libc::IN_MOVED_FROM != 0 && crate::resolve::is_whiteout(root, path) {
                whiteouts.push(RelPath::from_normal(path));
            }
        };
        let (events, unplaced) = self.watching.inotify(&self.mirror.filter, bytes, &mut out);
        if unplaced {
            self.strays.astray(now);
        }
        for path in whiteouts {
            self.targets.iter_mut().for_each(|target| target.see(now, &path, Seen::Written));
            self.hooks.seen(&path, Seen::Written);
        }
        self.events += events;
        if let Some(history) = self.history.as_mut().filter(|_| events > 0) {
            history.touch(now);
        }
        for lost in self.watching.take_lost() {
            self.lost(lost);
        }
        if relook {
            self.mounts_changed();
        }
    }

    fn mounts_changed(&mut self) {
        let Some(lost) = self.watching.remount(&self.mirror, &self.root, &mut self.resolver) else { return };
        lost.into_iter().for_each(|lost| self.lost(lost));
        self.settle_places();
        self.remember_mounts();
        self.check_root();
    }

    // ----- time -----

    fn tick(&mut self) {
        let now = self.now();
        self.compare_scheduled(false);
        if self.resolver.takes_deafness() {
            tracing::error!(
                mirror = %self.mirror.name,
                "the whole tree is compared every {} s, as events may be missing. Restart fansync", UNWATCHED_EVERY.as_secs()
            );
            self.go_blind(Cause::Unwatched);
        }
        if self.recent.len() > 1000 {
            self.recent.retain(|_, r| r.scheduled || now.saturating_sub(r.at) < r.pause * 4);
        }
        if self.next_unwatched.is_some_and(|at| at <= now) {
            self.compare_unwatched();
        }
        self.look_for_exports();
        self.watching.expire();
        self.tell_walk();
        if self.next_followed().is_some_and(|at| at <= now) {
            self.tell_followed(now);
        }
        if self.hooks.is_waiting() && self.targets.iter().all(Target::holds_all) {
            self.hooks.all_in_sync();
        }
        if self.next_full.is_some_and(|at| at <= now) {
            self.next_full = self.mirror.full_every.map(|every| now + every);
            tracing::info!(mirror = %self.mirror.name, "the periodic comparison of the whole tree is due");
            self.distrust_all();
            self.targets.iter_mut().for_each(|t| t.see_periodic(now));
        }
        if self.looks_at_source() && self.next_root_check <= now {
            self.recheck_root();
        }
        for at in 0..self.targets.len() {
            self.with_target(at, |target, cx| target.tick(cx));
        }
        self.keep_history();
    }

    /// When something is to be done next, as a time since the start.
    fn next_due(&self) -> Option<Duration> {
        let mut due: Vec<Duration> = Vec::new();
        for target in &self.targets {
            due.extend(target.next_due().filter(|_| self.held.is_none()));
        }
        due.extend(self.recent.values().filter(|r| r.scheduled).map(|r| r.at + r.pause));
        due.extend(self.next_unwatched);
        due.extend(self.next_followed());
        due.extend(self.linking.as_ref().and_then(|l| l.links.next_due()));
        due.extend(self.naming.names.next_due());
        due.extend(self.resolver.nameless_due());
        due.extend(self.following.next_due());
        due.extend(self.by_handle.next_due().filter(|_| !self.watching.by_marks()));
        due.extend(self.strays.next_due());
        due.extend(self.outside.next_due().filter(|_| !self.begin.status.walking));
        due.extend(self.history.as_ref().and_then(History::next_due));
        due.extend(self.watching.expires(self.started));
        due.extend(self.next_full);
        due.extend(self.record_due());
        due.extend(self.looks_at_source().then_some(self.next_root_check));
        let since = |at: Instant| at.saturating_duration_since(self.started);
        due.extend(self.flushes.iter().map(|f| since(f.deadline)));
        due.extend(self.stop_at.map(since));
        due.into_iter().min()
    }

    /// While stopping: whether nothing is left that could still be sent.
    fn drained(&self) -> bool {
        if self.held.is_some() {
            return !self.targets.iter().any(Target::is_sending);
        }
        self.stop_drain.is_none()
            && !self.begin.status.walking
            && !self.resolver.seeks_nameless()
            && self.by_handle.is_idle()
            && self.strays.is_idle()
            && self.targets.iter().all(|t| t.in_sync() || !t.is_up() || t.at_rest())
    }

    // ----- status -----

    fn status(&self) -> status::Mirror {
        let put_off = self.recent.values().filter(|r| r.scheduled).map(|r| self.now().saturating_sub(r.since)).max();
        let held = self.held_words();
        let stats = self.resolver.stats();
        let muted = self.resolver.muted();
        let (state_unsaved_seconds, state_unsaved) = self.unsaved_state();
        status::Mirror {
            name: self.mirror.name.clone(),
            source: Shown(self.root.path().as_os_str().as_bytes()).to_string(),
            given: self.root.link().map(|given| Shown(given.as_os_str().as_bytes()).to_string()).unwrap_or_default(),
            watch: self.watching.status(&self.root, &self.by_handle.words()),
            reader: format!("{} ({})", self.reader.backend_name(), self.reader.backend_reason()),
            rsync: if self.mirror.targets.is_empty() { String::new() } else { self.facts.version.to_string() },
            rsync_unsafe: self.facts.unconfined().filter(|_| !self.mirror.targets.is_empty()).unwrap_or_default(),
            reader_pauses: self.reader.stats().full_pauses,
            ready: true,
            held: self.held_words().unwrap_or_default(),
            apart: self.apart_status(),
            state_unsaved,
            state_unsaved_seconds,
            unanswered_seconds: 0.0,
            events: self.events,
            foreign: stats.foreign,
            lookups: stats.opened,
            searches: self.resolver.nameless_walks(),
            directories: self.resolver.known().0 as u64,
            muted_directories: muted.directories,
            muted_files: muted.files,
            follow_open_files: self.following.is_on(),
            follow_why: self.following.why().into(),
            following: muted.followed + self.written.len() as u64,
            linked_files: self.resolver.linked_files(),
            linked_walks: self.outside.ended(),
            links: self.links_status(),
            lost: self.losses_by_cause(),
            initial: self.begun(),
            start: self.start_status(),
            targets: (0..self.targets.len()).map(|at| self.target_status(at, held.as_deref(), put_off)).collect(),
            hooks: self.hooks.status(),
        }
    }

    fn target_status(&self, at: usize, held: Option<&str>, put_off: Option<Duration>) -> status::Target {
        let told = self.targets[at].status(self.now(), held, put_off);
        status::Target { verify: self.verifying.status(at), ..told }
    }
}
