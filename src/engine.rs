//! One mirror's engine: a thread that owns the path tree, the targets and their children, and waits
//! on one reactor.
//!
//! Each turn: wait; take filled buffers from the ring and turn them into dirty paths; serve
//! children that have something to say; send what may leave. Nothing in a turn blocks, but for
//! look-ups on the source's own disk.
//!
//! Order at the start: marks first, then [`Engine::run`] begins with the whole tree, so a change
//! during the first pass raises an event. Lost events, of whatever cause, go through
//! `Engine::lost`: the subtree becomes dirty whole.

mod aliases;
mod byhandle;
mod calls;
mod commands;
mod detached;
mod dir_times;
mod drains;
mod engines;
mod explaining;
mod exported;
mod flushes;
mod follow;
mod foreign;
mod gate;
mod handle;
mod history;
mod hold;
mod intake;
mod last;
mod linked;
mod listening;
mod mounted;
mod moved;
mod nameless;
mod names;
mod opening;
mod outside;
mod record;
mod rescans;
mod steering;
mod strays;
mod unsent;
mod verifying;
mod waiting;
mod walks;
mod watching;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::Receiver;

use crate::config::Mirror;
use crate::hooks::Hooks;
use crate::links::Met;
use crate::lost::Cause;
use crate::path::{RelPath, Shown};
use crate::root::Root;
use crate::state::filled::FilledFile;
use crate::state::pauses::PauseFile;
use crate::status;
use crate::sync::probe::RsyncFacts;
use crate::sys::event::EventFd;
use crate::sys::localtime;
use crate::sys::reactor::Reactor;
use crate::sys::statx::{self, Statter};
use crate::targets::{self, Context, TOKEN_BASE, Target};
use drains::{Drains, For};
use flushes::Flushes;
use history::{Begin, History};
use intake::Intake;
use record::Record;
use rescans::{Rescans, UNWATCHED_EVERY};
use unsent::Unsent;
use verifying::Verifying;
use walks::Searches;

pub(crate) use calls::{Call, OnTarget};
pub(crate) use engines::Engines;
pub(crate) use explaining::explain;
#[cfg_attr(not(feature = "feed"), allow(unused_imports, reason = "there is no follower then"))]
pub(crate) use explaining::{Said, kind_of, verdict};
pub(crate) use handle::{Command, Handle, Replacement};
pub use listening::Listeners;
pub(crate) use listening::listen;
pub(crate) use mounted::left_alone;
pub(crate) use opening::{Again, Ended, StartError};
pub(crate) use verifying::{Board, Followed, Live, Plan};
pub(crate) use waiting::Stage;
pub(crate) use watching::WatchError;

const WAKE: u64 = 1;
const MOUNTS: u64 = 2;

/// After a wait that failed.
const UNREADY_PAUSE: Duration = Duration::from_millis(100);

/// The engine's clocks.
struct Clock {
    started: Instant,
    /// `started` by the wall clock, seconds since 1970.
    wall_start: i64,
}

/// What the engine waits on, and the way to it from other threads.
struct Io {
    reactor: Reactor,
    statter: Statter,
    wake: Arc<EventFd>,
    turns: Arc<AtomicU64>,
    commands: Receiver<Command>,
}

/// What is kept on disk; `None` where nothing is.
struct Saved {
    history: Option<History>,
    /// Without it a pause ends with the process.
    pauses: Option<PauseFile>,
    /// Where it is kept which targets were filled, and which are known there.
    filled: Option<(FilledFile, BTreeSet<String>)>,
    unsent: Option<Unsent>,
    record: Option<Record>,
}

/// How the engine comes to its end.
#[derive(Default)]
struct Shutdown {
    stop_at: Option<Instant>,
    /// The configuration that the mirror is to go on with.
    successor: Option<Box<(Mirror, RsyncFacts)>>,
    /// The source is to be opened anew; whether it was accepted as it is.
    begin_again: Option<bool>,
}

/// See the module's text.
pub(crate) struct Engine {
    mirror: Mirror,
    setup: opening::Setup,
    begin: Begin,
    clock: Clock,
    root: Root,
    io: Io,
    intake: Intake,
    drains: Drains,
    rescans: Rescans,
    searches: Searches,
    guard: hold::SourceGuard,
    saved: Saved,
    targets: Vec<Target>,
    hooks: Hooks,
    flushes: Flushes,
    listeners: Listeners,
    verifying: Verifying,
    shutdown: Shutdown,
}

impl Engine {
    /// Runs until it is stopped, or until the source is to be opened anew.
    pub(crate) fn run(mut self) -> Ended {
        self.begin();
        self.take_up_unsent();
        self.want_linked(b"", true);
        self.take_up_pauses();
        self.settle_places();
        self.take_up_filled();
        self.remember_mounts();
        self.check_root();
        for lost in self.intake.watching.take_lost() {
            self.lost(lost);
        }
        let (mut ready, mut cannot_wait) = (Vec::new(), false);
        loop {
            ready.clear();
            let timeout = self.next_due().map(|due| due.saturating_sub(self.clock.started.elapsed()));
            if let Err(error) = self.io.reactor.wait(&mut ready, timeout) {
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
                        self.io.wake.clear();
                    }
                    MOUNTS => self.mounts_changed(),
                    t if t & TOKEN_BASE != 0 => {
                        self.with_target(targets::token_target(t), |target, cx| target.on_ready(cx, t));
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
            let held = self.guard.held.is_some();
            self.targets.iter_mut().for_each(|target| target.tell_held(held));
            self.serve_flushes();
            self.keep_record(false);
            self.keep_unsent();
            self.raise_barrier();
            if more {
                self.io.wake.wake();
            }
            if self.shutdown.stop_at.is_some_and(|at| Instant::now() >= at || self.drained()) {
                self.keep_record(true);
                self.leave();
                self.hooks.stop(self.shutdown.stop_at.unwrap_or_else(Instant::now));
                if self.shutdown.successor.is_some() {
                    return Ended::Again(Box::new(self.again(false)));
                }
                return Ended::Stopped(self.targets.iter().map(Target::unconfirmed).sum());
            }
            if let Some(accepted) = self.shutdown.begin_again {
                let unsent = self.unsent_at_end();
                self.save_unsent(unsent, true);
                self.hooks.stop(Instant::now());
                return Ended::Again(Box::new(self.again(accepted)));
            }
            self.io.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn now(&self) -> Duration {
        self.clock.started.elapsed()
    }

    fn with_target(&mut self, at: usize, work: impl FnOnce(&mut Target, &mut Context<'_>)) {
        let now = self.clock.started.elapsed();
        let held_before = self.guard.held.is_some();
        let Some(target) = self.targets.get_mut(at) else { return };
        let (resolver, root) = (&mut self.intake.resolver, &self.root);
        let mut dirs: Vec<(RelPath, bool)> = Vec::new();
        let mut meet = |met: Met<'_>| match met {
            Met::Name(name) => resolver.know_linked(root, name),
            Met::Dir(dir, deep) => dirs.push((dir.clone(), deep)),
        };
        let mut cx = Context {
            now,
            wall_start: self.clock.wall_start,
            stamp: statx::stamp(),
            root: &self.root,
            check: &|| hold::check(&self.root).and_then(|()| self.intake.watching.check(&self.root, &self.guard.apart)),
            places: &|| self.intake.watching.places(),
            filter: &self.mirror.filter,
            links: self.searches.linking.as_mut().map(|l| &mut l.links),
            names: &mut self.searches.naming.names,
            meet: &mut meet,
            statter: &mut self.io.statter,
            reactor: &mut self.io.reactor,
            held: &mut self.guard.held,
        };
        target.keep_apart(&mut cx, &self.guard.apart);
        let filled = target.is_filled();
        work(target, &mut cx);
        let filled = (!filled && target.is_filled()).then(|| target.identity());
        let confirmed = target.take_confirmations();
        dirs.into_iter().for_each(|(dir, deep)| self.want_linked(&dir, deep));
        if !held_before && let Some(why) = self.guard.held.take() {
            self.hold(why);
        }
        if let Some(identity) = filled {
            self.remember_filled(identity);
        }
        if let Some((confirmations, settled)) = confirmed {
            self.hooks.confirmed(at, confirmations, &settled, &self.targets);
        }
    }

    // ----- time -----

    fn tick(&mut self) {
        let now = self.now();
        self.compare_scheduled(false);
        if self.intake.resolver.takes_deafness() {
            tracing::error!(
                mirror = %self.mirror.name,
                "the whole tree is compared every {} s, as events may be missing. Restart fansync", UNWATCHED_EVERY.as_secs()
            );
            self.go_blind(Cause::Unwatched);
        }
        self.rescans.maintain(now);
        if self.rescans.unwatched_is_due(now) {
            self.compare_unwatched();
        }
        self.look_for_exports();
        self.intake.watching.expire();
        self.tell_walk();
        if self.next_followed().is_some_and(|at| at <= now) {
            self.report_followed(now);
        }
        if self.hooks.is_waiting() && self.targets.iter().all(Target::holds_all) {
            self.hooks.all_in_sync();
        }
        if self.rescans.take_full(now, || localtime::local(SystemTime::now())) {
            tracing::info!(mirror = %self.mirror.name, "the periodic comparison of the whole tree is due");
            self.distrust_all();
            self.targets.iter_mut().for_each(|t| t.see_periodic(now));
        }
        if self.looks_at_source() && self.guard.next_root_check <= now {
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
            due.extend(target.next_due().filter(|_| self.guard.held.is_none()));
        }
        due.extend(self.rescans.next_due());
        due.extend(self.next_followed());
        due.extend(self.searches.linking.as_ref().and_then(|l| l.links.next_due()));
        due.extend(self.searches.naming.names.next_due());
        due.extend(self.intake.resolver.nameless_due());
        due.extend(self.intake.following.next_due());
        due.extend(self.searches.by_handle.next_due().filter(|_| !self.intake.watching.by_marks()));
        due.extend(self.searches.strays.next_due());
        due.extend(self.searches.outside.next_due().filter(|_| !self.begin.status.walking));
        due.extend(self.saved.history.as_ref().and_then(History::next_due));
        due.extend(self.intake.watching.expires(self.clock.started));
        due.extend(self.record_due());
        due.extend(self.unsent_due());
        due.extend(self.looks_at_source().then_some(self.guard.next_root_check));
        let since = |at: Instant| at.saturating_duration_since(self.clock.started);
        due.extend(self.flushes.deadlines().map(since));
        due.extend(self.shutdown.stop_at.map(since));
        due.into_iter().min()
    }

    /// While stopping: whether nothing is left that could still be sent.
    fn drained(&self) -> bool {
        if self.guard.held.is_some() {
            return !self.targets.iter().any(Target::is_sending);
        }
        !self.drains.waits(|why| matches!(why, For::Stop))
            && !self.begin.status.walking
            && !self.intake.resolver.seeks_nameless()
            && self.searches.by_handle.is_idle()
            && self.searches.strays.is_idle()
            && self.targets.iter().all(|t| t.in_sync() || !t.is_up() || t.at_rest())
    }

    // ----- status -----

    fn status(&self) -> status::Mirror {
        let put_off = self.rescans.put_off(self.now());
        let held = self.held_words();
        let stats = self.intake.resolver.stats();
        let muted = self.intake.resolver.muted();
        let (state_unsaved_seconds, state_unsaved) = self.unsaved_state();
        status::Mirror {
            moved: None,
            name: self.mirror.name.clone(),
            source: Shown(self.root.path().as_os_str().as_bytes()).to_string(),
            given: self.root.link().map(|given| Shown(given.as_os_str().as_bytes()).to_string()).unwrap_or_default(),
            watch: self.intake.watching.status(&self.root, &self.searches.by_handle.words()),
            reader: format!("{} ({})", self.intake.reader.backend_name(), self.intake.reader.backend_reason()),
            rsync: if self.mirror.targets.is_empty() { String::new() } else { self.setup.facts.version.to_string() },
            rsync_unsafe: self.setup.facts.unconfined().filter(|_| !self.mirror.targets.is_empty()).unwrap_or_default(),
            reader_pauses: self.intake.reader.stats().full_pauses,
            ready: true,
            held: self.held_words().unwrap_or_default(),
            apart: self.apart_status(),
            state_unsaved,
            state_unsaved_seconds,
            unanswered_seconds: 0.0,
            events: self.intake.events,
            foreign: stats.foreign,
            lookups: stats.opened,
            searches: self.intake.resolver.nameless_walks(),
            directories: self.intake.resolver.known().0 as u64,
            muted_directories: muted.directories,
            muted_files: muted.files,
            follow_open_files: self.intake.following.is_on(),
            follow_why: self.intake.following.why().into(),
            following: muted.followed + self.intake.written.len() as u64,
            linked_files: self.intake.resolver.linked_files(),
            linked_walks: self.searches.outside.ended(),
            links: self.links_status(),
            lost: self.losses_by_cause(),
            initial: self.begun(),
            start: self.start_status(),
            targets: (0..self.targets.len()).map(|at| self.target_status(at, held.as_deref(), put_off)).collect(),
            hooks: self.hooks.status(),
        }
    }

    fn target_status(&self, at: usize, held: Option<&str>, put_off: Option<Duration>) -> status::Target {
        let status = self.targets[at].status(self.now(), held, put_off);
        status::Target { verify: self.verifying.status(at), ..status }
    }
}
