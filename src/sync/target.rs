//! One target: its dirty set, its runs in flight, the processes that stand by, and what to do when it fails.
//!
//! The engine thread owns it and calls in: [`Target::see`] for each change, [`Target::on_ready`] when a child's descriptor is
//! ready, [`Target::tick`] when time has passed, [`Target::dispatch`] when something may leave.
//!
//! When a batch leaves: at once after a quiet time; else when no event came for `settle`, or when the oldest has waited
//! for a delay that follows the length of the runs (at most `max_delay`). So a lone change travels in milliseconds, and a
//! burst in few, large batches.
//!
//! Two lanes: up to `small_jobs` short lists, by preference through a process that stands by, beside `jobs` bulk runs. A run is
//! confirmed by its exit, which rsync delays up to 45 ms after the change is visible, so several small ones overlap.
//! Runs that overlap never touch the same path, but each sets the times of the directories above its paths. Where they saw
//! different times, the directory is sent once more after both.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::argv::{self, Compare, Deletions, Pass, Spec};
use super::filelist::{self, Form, Refusal};
use super::normal::{self, Normal, State as Look};
use super::outcome::{Outcome, Verdict};
use super::output::{Output, Stream};
use super::probe::{self, RsyncFacts, TargetState};
use super::retries::{Backoff, Retries, WHOLE_ROUNDS};
use super::run::{Input, Run, RunError};
use crate::config::{self, Mirror};
use crate::dirty::{Batch, BatchId, DirtySet, Entry, Epoch, Kind, Limits, Seen};
use crate::filter::Filter;
use crate::path::{self, RelPath, Shown};
use crate::resolve::Root;
use crate::status;
use crate::sys::reactor::{Interest, Reactor};
use crate::sys::statx::{FileTime, StatBrief, Statter};

/// Most paths in a batch of the small lane.
const SMALL_PATHS: usize = 200;
/// How often a run is asked whether a FIFO holds it up: rsync opens what was a file when it looked, and waits for a writer.
const FIFO_LOOK: Duration = Duration::from_millis(200);
/// A deep run that takes longer lets others pass below it.
const SOFT_AFTER: Duration = Duration::from_millis(500);
/// No event for this many times `settle` (events come at that cadence), and a burst is taken to be over.
const PAUSE_SETTLES: u32 = 3;
/// Quiet for this many times `settle`, and the next event is handled at once.
const QUIET_SETTLES: u32 = 4;
/// The delay of a busy target, in runs' lengths, and its lower bound.
const DELAY_RUNS: u32 = 20;
const DELAY_MIN: Duration = Duration::from_millis(50);
/// A standby that ends before this age says something about the target; a later end is the server's idle timeout.
const STANDBY_INFANT: Duration = Duration::from_secs(3);
/// Between the moment a change happens and the moment its event is seen; generous, since the price is only a needless comparison.
const TWIN_SLACK_SECS: i64 = 2;
/// Entries of a directory that cost as much as one listed path.
const LEVEL_ENTRIES_PER_PATH: usize = 4;
/// What a target did not answer is looked at again after this many times `watchdog`.
const UNANSWERED_WATCHDOGS: u32 = 2;
/// Failures listed in the status.
const SHOWN_FAILURES: usize = 50;
/// Probes of a configuration error come this much rarer than those of a target that is down.
const CONFIG_PAUSE: u32 = 4;

/// What the engine lends to its targets.
pub struct Context<'a> {
    /// Time since the daemon's start.
    pub now: Duration,
    /// The daemon's start by the wall clock, seconds since 1970.
    pub wall_start: i64,
    /// The watch root.
    pub root: &'a Root,
    /// Whether the source is still what it was, all filesystems below it included; asked before every run.
    pub check: &'a dyn Fn() -> Result<(), String>,
    /// What is left out.
    pub filter: &'a Filter,
    /// For rule N.
    pub statter: &'a mut Statter,
    /// Where children's descriptors are registered.
    pub reactor: &'a mut Reactor,
    /// Set by a target that found the root gone.
    pub held: &'a mut Option<String>,
}

/// How the target is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Being asked whether it is usable.
    Probing {
        /// Failures so far.
        tries: u32,
    },
    /// Usable.
    Up,
    /// Not usable until somebody or something changes; tried again at `next`.
    Away { config: bool, reason: String, tries: u32, next: Duration },
}

#[derive(Debug)]
enum Load {
    Probe,
    Standby,
    Batch(Batch),
}

struct Flight {
    run: Run,
    load: Load,
    pass: Pass,
    small: bool,
    stood_by: bool,
    started: Duration,
    paths: usize,
    soft: bool,
    /// Directories above the listed paths, with the ctime seen.
    ancestors: BTreeMap<RelPath, FileTime>,
    /// Entries that went through meanwhile and that this run may have undone.
    after: Vec<Entry>,
    mark: u64,
    marked: Duration,
    /// When it was last asked about FIFOs.
    looked: Duration,
    ended_badly: Option<Ended>,
}

/// Why a run was ended from here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// No progress for the time of the watchdog; perhaps the target hangs.
    Stalled,
    /// A FIFO of the source held it up. The target has no part in it.
    Fifo,
}

/// See the module's text.
pub struct Target {
    /// The configuration.
    pub cfg: config::Target,
    mirror: Mirror,
    facts: RsyncFacts,
    index: u16,
    filter_args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    set: DirtySet,
    state: State,
    /// Whether the receiver can delete missing arguments.
    missing_args: bool,
    runs: BTreeMap<u32, Flight>,
    next_run: u32,
    retries: Retries,
    backoff: Backoff,
    /// Failures since the target last took something. That it answers a probe does not end the row: a full disk does so too.
    tries: u32,
    /// What runs carried that the target did not answer, and when it is looked at again.
    unanswered: Vec<(Duration, Vec<(RelPath, Kind)>)>,
    /// Until then one connection at a time: the server had none left for us.
    crowded: Option<Duration>,
    /// The last outage was for want of space.
    full: bool,
    /// The target's directory was not there: what comes back in its place may hold nothing of what was sent before.
    suspect: bool,
    last_seen: Duration,
    first_ready: Option<Duration>,
    go_now: bool,
    run_length: Duration,
    flushes: Vec<Epoch>,
    stopping: bool,
    reconciles: u64,
    /// Said already that the target's top directory cannot be changed.
    top_refused: bool,
    stats: status::Target,
}

/// What one run carries: entries, and how they are listed.
struct Part {
    batch: Batch,
    list: Vec<(RelPath, Form)>,
}

impl Part {
    fn new(id: BatchId, round: u32) -> Part {
        Part { batch: Batch { id, entries: Vec::new(), round }, list: Vec::new() }
    }
}

/// Whether the content of a file that was written or moved here may be another one although its size and mtime are those
/// that the target has: it changed after `since` (seconds since 1970). The mtime can have been set back (`cp -p`, archives), it can have come with a
/// rename, and two writes within one tick of the kernel's clock (4 ms, before Linux 6.13) leave the same. A file that was
/// only opened for writing has an older ctime.
fn may_be_twin(stat: &StatBrief, since: i64) -> bool {
    stat.ctime.secs + TWIN_SLACK_SECS >= since
}

/// Whether `new` files are so large a part of a directory that comparing its whole level is cheaper than listing them. rsync
/// reads a list at 1.1 µs a byte and spends 6 to 12 µs on an entry of a level (measured, 3.5.0): listed at about 40 bytes,
/// a path costs as much as four or more entries.
fn mostly_new(root: &Root, dir: &RelPath, new: usize) -> bool {
    let most = new * LEVEL_ENTRIES_PER_PATH;
    match nix::dir::Dir::openat(root, dir.as_path(), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()) {
        Ok(mut listing) => listing.iter().take(most + 3).count() <= most + 2, // with `.` and `..`
        Err(_) => false,
    }
}

/// A token's parts: which target, which run, which of its descriptors.
fn token(index: u16, run: u32, which: u8) -> u64 {
    TOKEN_BASE | u64::from(index) << 40 | u64::from(run) << 8 | u64::from(which)
}

/// Set in every token of a child; free for the engine otherwise.
pub const TOKEN_BASE: u64 = 1 << 63;

/// Which target a token belongs to.
pub fn token_target(token: u64) -> usize {
    (token >> 40 & 0xffff) as usize
}

const STDOUT: u8 = 0;
const STDERR: u8 = 1;
const EXIT: u8 = 2;

impl Target {
    /// A target that is asked at the next [`Target::tick`] whether it is usable.
    pub fn new(index: usize, mirror: &Mirror, cfg: &config::Target, facts: &RsyncFacts) -> Target {
        let backoff = Backoff { min: cfg.retry_min, max: cfg.retry_max };
        Target {
            cfg: cfg.clone(),
            mirror: mirror.clone(),
            facts: facts.clone(),
            index: index as u16,
            filter_args: mirror.filter.rsync_args(),
            env: argv::environment(std::env::vars_os()),
            set: DirtySet::new(mirror.batch.max_pending),
            state: State::Away { config: false, reason: "not asked yet".into(), tries: 0, next: Duration::ZERO },
            missing_args: true,
            runs: BTreeMap::new(),
            next_run: 0,
            retries: Retries::new(backoff),
            backoff,
            tries: 0,
            unanswered: Vec::new(),
            crowded: None,
            full: false,
            suspect: false,
            last_seen: Duration::ZERO,
            first_ready: None,
            go_now: true,
            run_length: Duration::ZERO,
            flushes: Vec::new(),
            stopping: false,
            reconciles: 0,
            top_refused: false,
            stats: status::Target { name: cfg.name.clone(), url: cfg.location.to_string(), ..Default::default() },
        }
    }

    // ----- what comes in -----

    /// Takes in a change.
    pub fn see(&mut self, now: Duration, path: &[u8], seen: Seen) {
        self.set.tick(now);
        if self.first_ready.is_none() {
            self.first_ready = Some(now);
            self.go_now |= now.saturating_sub(self.last_seen) > self.mirror.batch.settle * QUIET_SETTLES;
        }
        self.last_seen = now;
        self.set.see(path, seen);
    }

    /// See [`DirtySet::wants_barrier`].
    pub fn wants_barrier(&self) -> bool {
        self.set.wants_barrier()
    }

    /// See [`DirtySet::begin_barrier`].
    pub fn begin_barrier(&mut self) {
        self.set.begin_barrier();
    }

    /// See [`DirtySet::end_barrier`].
    pub fn end_barrier(&mut self) {
        self.set.end_barrier();
    }

    /// Begins a flush: the returned epoch is done when [`Target::flushed`] says so. Until then nothing is delayed.
    pub fn flush(&mut self) -> Epoch {
        let epoch = self.set.close_epoch();
        self.flushes.push(epoch);
        self.retries.hurry(Duration::ZERO);
        if let State::Away { next, .. } = &mut self.state {
            *next = Duration::ZERO; // somebody waits: ask at once, once
        }
        epoch
    }

    /// Whether everything of `epoch` and before is on the target.
    pub fn flushed(&self, epoch: Epoch) -> bool {
        self.set.epochs().clear_until(epoch)
    }

    /// Ends the hurry of a flush, done or given up.
    pub fn end_flush(&mut self, epoch: Epoch) {
        self.flushes.retain(|e| *e != epoch);
    }

    /// What keeps a flush from ending, in words, when waiting cannot help: only failed paths are left.
    pub fn stuck(&self) -> bool {
        self.set.pending() == 0
            && self.retries.waiting() == 0
            && self.retries.failures().len() > 0
            && self.batches().next().is_none()
    }

    /// Why not everything is on the target.
    pub fn why_waiting(&self) -> (String, bool) {
        let failures = self.retries.failures().len();
        match &self.state {
            State::Away { reason, .. } => (format!("{reason}; {} paths pending", self.unconfirmed()), true),
            _ if failures > 0 => {
                let first = self.retries.failures().next().map(|f| format!("{}: {}", f.entry.path, f.reason));
                (format!("{failures} paths failed, the first: {}", first.unwrap_or_default()), false)
            }
            _ => (format!("{} paths not confirmed yet", self.unconfirmed()), false),
        }
    }

    /// Paths that are not confirmed: pending, in flight, or waiting for another try.
    pub fn unconfirmed(&self) -> usize {
        self.set.epochs().total()
    }

    /// Whether nothing is left to do.
    pub fn in_sync(&self) -> bool {
        self.unconfirmed() == 0
    }

    /// Whether the target can be sent to.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Why the target cannot be sent to, and whether it is a matter of configuration.
    pub fn away(&self) -> Option<(&str, bool, u32)> {
        match &self.state {
            State::Away { reason, config, tries, .. } => Some((reason, *config, *tries)),
            _ => None,
        }
    }

    /// Passes over the whole tree that ended well.
    pub fn reconciles(&self) -> u64 {
        self.reconciles
    }

    /// Paths that keep failing, with rsync's words.
    pub fn failures(&self) -> Vec<(String, String)> {
        self.retries.failures().map(|f| (f.entry.path.to_string(), f.reason.clone())).collect()
    }

    /// From now on nothing is delayed and no process is kept standing by.
    pub fn stop(&mut self, cx: &mut Context<'_>) {
        self.stopping = true;
        self.drop_standbys(cx);
    }

    // ----- what goes out -----

    fn hurry(&self) -> bool {
        self.stopping || !self.flushes.is_empty()
    }

    fn batches(&self) -> impl Iterator<Item = (&Flight, &Batch)> {
        self.runs.values().filter_map(|r| match &r.load {
            Load::Batch(b) => Some((r, b)),
            _ => None,
        })
    }

    fn lanes_free(&self) -> (bool, bool) {
        let small = self.batches().filter(|(r, _)| r.small).count();
        let bulk = self.batches().count() - small;
        if self.crowded.is_some() && small + bulk > 0 {
            return (false, false);
        }
        (small < self.cfg.small_jobs, bulk < self.cfg.jobs)
    }

    /// How long the oldest change waits for company at most.
    fn delay(&self) -> Duration {
        (self.run_length * DELAY_RUNS).clamp(DELAY_MIN.min(self.mirror.batch.max_delay), self.mirror.batch.max_delay)
    }

    /// When the pending paths may leave; `None` when there are none.
    fn leaves_at(&self) -> Option<Duration> {
        if self.set.ready(self.hurry()) == 0 {
            return None;
        }
        if self.go_now || self.hurry() {
            return Some(Duration::ZERO);
        }
        let oldest = self.first_ready.unwrap_or(Duration::ZERO);
        Some((self.last_seen + self.mirror.batch.settle * PAUSE_SETTLES).min(oldest + self.delay()))
    }

    /// Sends what may leave now.
    pub fn dispatch(&mut self, cx: &mut Context<'_>) {
        self.set.tick(cx.now);
        if self.state != State::Up || cx.held.is_some() {
            return;
        }
        loop {
            let (small, bulk) = self.lanes_free();
            if !bulk {
                break;
            }
            let Some((entries, round)) = self.retries.take_due(cx.now) else { break };
            let _ = small;
            if let Some(batch) = self.set.take_again(entries, round) {
                self.launch(cx, batch);
            }
            if self.state != State::Up || cx.held.is_some() {
                return;
            }
        }
        let mut launched = false;
        while self.leaves_at().is_some_and(|at| at <= cx.now) {
            let (small, bulk) = self.lanes_free();
            let ignore_holds = self.hurry();
            let few = self.set.ready(ignore_holds) <= SMALL_PATHS && !self.set.has_deep();
            let max_paths = match (small, bulk) {
                (true, _) if few => SMALL_PATHS,
                (_, true) => self.mirror.batch.max_paths,
                _ => break,
            };
            let batch =
                match self.set.take_shallow(Limits { max_paths, ignore_holds }, &mut |dir, new| mostly_new(cx.root, dir, new)) {
                    Some(batch) => batch,
                    None if bulk => match self.set.take_deep(Limits { max_paths, ignore_holds }) {
                        Some(batch) => batch,
                        None => break,
                    },
                    None => break,
                };
            launched |= self.launch(cx, batch);
            if self.state != State::Up || cx.held.is_some() {
                return;
            }
        }
        if launched {
            self.go_now = false;
        }
        if self.set.ready(false) == 0 {
            self.first_ready = None;
        } else if launched {
            // What is left waits for something in flight; its own delay begins anew.
            self.first_ready = Some(cx.now);
        }
        // Starting a process takes a core from the transfer that just began; what stands by is replaced after it.
        if self.batches().next().is_none() || !self.runs.values().any(|r| matches!(r.load, Load::Standby)) {
            self.refill_standby(cx);
        }
    }

    /// Looks at the disk, decides how each entry is listed, and starts the run. `false` when nothing was left to send.
    fn launch(&mut self, cx: &mut Context<'_>, batch: Batch) -> bool {
        if let Err(why) = (cx.check)() {
            self.give_back(batch);
            *cx.held = Some(why);
            return false;
        }
        let whole_tree = batch.entries.iter().any(|e| e.path.is_root() && e.kind == Kind::Subtree);
        if whole_tree {
            let batch = Batch { entries: self.only_root(batch.entries), ..batch };
            return self.start_full(cx, batch);
        }
        let paths: Vec<(RelPath, Kind)> = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
        let normal = match normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter) {
            Ok(normal) => normal,
            Err(e) => {
                self.give_back(batch);
                *cx.held = Some(chain(&e));
                return false;
            }
        };
        let deep = batch.entries.iter().any(|e| e.kind == Kind::Subtree);
        let (quick, thorough) = self.compose(cx, batch, &normal, deep);
        let mut started = false;
        for (thorough, part) in [(false, quick), (true, thorough)] {
            if part.batch.entries.is_empty() {
                continue;
            }
            // A second part waits for the first where there is one connection only.
            if self.state == State::Up && (self.crowded.is_none() || !started) {
                started |= self.start_listed(cx, part, &normal, deep, thorough);
            } else {
                self.give_back(part.batch);
            }
        }
        started
    }

    /// Of a batch that holds the whole tree, anything else is covered by it.
    fn only_root(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let (root, rest): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.path.is_root());
        for e in rest {
            self.set.park(0, std::slice::from_ref(&e));
            self.set.restore(e);
        }
        root
    }

    fn give_back(&mut self, batch: Batch) {
        self.set.park(batch.id, &batch.entries);
        for e in batch.entries {
            self.set.restore(e);
        }
    }

    /// Makes the files that did not fit failures, for rsync ends at the first such and never gets to what comes after it.
    fn set_unfit_apart(&mut self, cx: &Context<'_>, batch: &mut Batch, outcome: &Outcome) {
        let unfit = |e: &Entry| e.kind == Kind::Entry && outcome.failed.contains(&e.path);
        let (bad, good): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut batch.entries).into_iter().partition(unfit);
        self.set.park(batch.id, &bad);
        self.retries.fail(cx.now, bad, &outcome.reason, fastrand::f64());
        batch.entries = good;
    }

    /// Decides the form of each entry by what was found. Entries that need another kind of pass go back to the set as such.
    /// The first part is compared by
    /// size and mtime; the second holds what may differ although these are the same ([`may_be_twin`]), and what has neither.
    fn compose(&mut self, cx: &mut Context<'_>, batch: Batch, normal: &Normal, deep: bool) -> (Part, Part) {
        let deletions = self.spec(cx.root.path(), Compare::Quick).deletions();
        let found: BTreeMap<&[u8], &normal::Item> = normal.items.iter().map(|i| (&*i.path, i)).collect();
        let Batch { id, entries, round } = batch;
        let mut quick = Part::new(id, round);
        let mut thorough = Part::new(id, round);
        let mut done = Vec::new();
        for mut entry in entries {
            // The item of the path itself, or of the component above it that decides.
            let mut at: &[u8] = &entry.path;
            let item = loop {
                match found.get(at) {
                    Some(item) => break Some(*item),
                    None => match path::parent(at) {
                        Some(up) => at = up,
                        None => break None,
                    },
                }
            };
            let Some(item) = item else {
                // Only the root's own attributes: they travel with any list.
                if entry.path.is_root() && entry.kind == Kind::Contents {
                    quick.list.push((RelPath::root(), Form::OneLevel));
                    quick.batch.entries.push(entry);
                } else {
                    thorough.batch.entries.push(entry);
                }
                continue;
            };
            let own = item.path == entry.path;
            match item.state {
                Look::Unreadable(errno) => {
                    self.set.park(id, std::slice::from_ref(&entry));
                    let why = format!("cannot look at it on the source: {}", errno.desc());
                    self.retries.failed(cx.now, vec![entry], u32::MAX - 1, &[], &why, fastrand::f64());
                    continue;
                }
                Look::Present(stat) => {
                    let dir = stat.is_dir();
                    if !item.path.is_root() && cx.filter.excludes(&item.path, dir) {
                        // Its type changed to one that is left out: to the target it is a deletion.
                        self.by_parent(id, entry, &item.path, deletions, &mut done);
                        continue;
                    }
                    if own && dir && entry.gone && entry.kind < Kind::Subtree {
                        entry.kind = Kind::Subtree;
                        entry.gone = false;
                        self.turn(id, entry);
                        continue;
                    }
                    if own && entry.held && stat.is_file() && stat.nlink == 1 && !self.hurry() {
                        let until = cx.now + self.mirror.batch.create_hold;
                        self.set.hold(id, entry, until);
                        continue;
                    }
                    if deep && !dir {
                        entry.kind = Kind::Entry;
                        self.turn(id, entry);
                        continue;
                    }
                    let form = if own && item.kind == Kind::Contents { Form::OneLevel } else { Form::Plain };
                    let since = cx.wall_start + entry.since().as_secs() as i64;
                    let trusted = match deep || form == Form::OneLevel {
                        true => !entry.content,
                        // Of others than files nothing is compared but what is sent anyway.
                        false => stat.is_file() && !(own && entry.content && may_be_twin(&stat, since)),
                    };
                    if item.path.is_root() && form == Form::Plain {
                        thorough.batch.entries.push(entry);
                        continue;
                    }
                    let part = if trusted { &mut quick } else { &mut thorough };
                    part.list.push((item.path.clone(), form));
                    part.batch.entries.push(entry);
                    continue;
                }
                Look::Missing => match deletions {
                    Deletions::ByName if deep => {
                        entry.kind = Kind::Entry;
                        entry.gone = true;
                        self.turn(id, entry);
                        continue;
                    }
                    Deletions::ByName => thorough.list.push((item.path.clone(), Form::Plain)),
                    Deletions::ByParent | Deletions::Never => {
                        self.by_parent(id, entry, &item.path, deletions, &mut done);
                        continue;
                    }
                },
            }
            thorough.batch.entries.push(entry);
        }
        self.set.forget(done);
        if !quick.batch.entries.is_empty() {
            thorough.batch = self.set.split(&quick.batch, thorough.batch.entries);
        }
        (quick, thorough)
    }

    /// Sends an entry back to the set with its new kind.
    fn turn(&mut self, id: BatchId, entry: Entry) {
        self.set.park(id, std::slice::from_ref(&entry));
        self.set.restore(entry);
    }

    /// A deletion that cannot be listed by name becomes a one-level pass over the directory above; where nothing may be
    /// deleted, only that directory's times are left to send.
    fn by_parent(&mut self, id: BatchId, mut entry: Entry, missing: &RelPath, deletions: Deletions, done: &mut Vec<Entry>) {
        self.set.park(id, std::slice::from_ref(&entry));
        match path::parent(missing) {
            Some(parent) => {
                entry.path = RelPath::from_normal(parent);
                entry.kind = if deletions == Deletions::Never { Kind::Entry } else { Kind::Contents };
                entry.gone = false;
                entry.held = false;
                self.set.restore(entry);
            }
            None => done.push(entry),
        }
    }

    fn spec<'s>(&'s self, root: &'s std::path::Path, compare: Compare) -> Spec<'s> {
        Spec {
            rsync: &self.mirror.rsync,
            root,
            location: &self.cfg.location,
            password_file: self.cfg.password_file.as_deref(),
            delete: self.mirror.delete,
            missing_args: self.missing_args,
            compare,
            facts: &self.facts,
            filter_args: &self.filter_args,
            compress: self.cfg.compress,
            extra: &self.cfg.args,
            timeout: self.cfg.timeout,
            connect_timeout: self.cfg.connect_timeout,
            ssh: self.cfg.ssh.as_deref(),
            remote_rsync: self.cfg.rsync_path.as_deref(),
        }
    }

    fn start_full(&mut self, cx: &mut Context<'_>, batch: Batch) -> bool {
        let pass = Pass::Full { progress: true };
        tracing::info!(target_name = %self.cfg.name, "comparing the whole tree");
        let ancestors = BTreeMap::new();
        self.start(cx, pass, Input::None, Load::Batch(batch), 1, false, Compare::Quick, ancestors)
    }

    fn start_listed(&mut self, cx: &mut Context<'_>, part: Part, normal: &Normal, deep: bool, thorough: bool) -> bool {
        let Part { batch, mut list } = part;
        if list.is_empty() {
            // The root's own attributes travel with any list, so with one that names nothing there is.
            list.push((RelPath::from_normal(format!(".probe-{:016x}", fastrand::u64(..))), Form::Plain));
        }
        let one_level = list.iter().any(|(_, form)| *form == Form::OneLevel);
        let encoded = filelist::encode(list.iter().map(|(p, f)| (p, *f)));
        let batch = self.refuse(cx, batch, &encoded.refused);
        if batch.entries.is_empty() {
            return false;
        }
        let pass = match (deep, one_level) {
            (true, _) => Pass::Deep,
            (false, true) => Pass::ShallowOneLevel,
            (false, false) => Pass::Shallow,
        };
        let small = batch.entries.len() <= SMALL_PATHS && pass == Pass::Shallow && batch.round == 0;
        let mut ancestors: BTreeMap<RelPath, FileTime> = normal.ancestors.iter().cloned().collect();
        ancestors.insert(RelPath::root(), normal.root.ctime); // its attributes travel with every list
        let entries = encoded.entries;
        let mut batch = Some(batch);
        if small
            && thorough
            && let Some((serial, mut run)) = self.take_standby(&encoded.bytes)
        {
            if cx.now.saturating_sub(run.started) > STANDBY_INFANT {
                self.proven(cx);
            }
            match run.run.feed(&encoded.bytes) {
                Ok(()) => {
                    run.load = Load::Batch(batch.take().expect("not used yet"));
                    (run.started, run.marked, run.looked) = (cx.now, cx.now, cx.now);
                    (run.stood_by, run.small, run.paths, run.ancestors) = (true, true, entries, ancestors);
                    self.runs.insert(serial, run);
                    return true;
                }
                Err(error) => {
                    tracing::debug!(target_name = %self.cfg.name, %error, "a standby took no list");
                    self.discard(cx, serial, run);
                }
            }
        }
        let batch = batch.expect("no standby took it");
        let compare = match batch.round {
            // Set apart, and perhaps for want of room: what is there already must not be sent for a time stamp.
            WHOLE_ROUNDS.. => Compare::Checksum,
            1.. if thorough => Compare::Checksum,
            0 if thorough => Compare::Resend,
            _ => Compare::Quick,
        };
        self.start(cx, pass, Input::List(&encoded.bytes), Load::Batch(batch), entries, small, compare, ancestors)
    }

    /// Paths that rsync cannot be told become failures at once; they are reported, not dropped.
    fn refuse(&mut self, cx: &Context<'_>, mut batch: Batch, refused: &[(RelPath, Refusal)]) -> Batch {
        for (path, why) in refused {
            let Refusal::TooLong = why else { continue };
            let (bad, good): (Vec<Entry>, Vec<Entry>) = batch.entries.into_iter().partition(|e| e.path.starts_with(path));
            batch.entries = good;
            self.set.park(batch.id, &bad);
            let reason = format!("the path has {} bytes, rsync takes at most {}", path.len(), path::MAX_PATH_BYTES);
            self.retries.fail(cx.now, bad, &reason, 0.0);
        }
        batch
    }

    #[allow(clippy::too_many_arguments)]
    fn start(
        &mut self,
        cx: &mut Context<'_>,
        pass: Pass,
        input: Input<'_>,
        load: Load,
        paths: usize,
        small: bool,
        compare: Compare,
        ancestors: BTreeMap<RelPath, FileTime>,
    ) -> bool {
        let serial = self.next_run;
        self.next_run = self.next_run.wrapping_add(1);
        let started = Run::start(&self.spec(cx.root.path(), compare), pass, &self.env, input)
            .map_err(|e| (matches!(e, RunError::Password(_)), chain(&e)))
            .and_then(|run| {
                let fds =
                    [(run.output_fd(Stream::Stdout), STDOUT), (run.output_fd(Stream::Stderr), STDERR), (Some(run.pidfd()), EXIT)];
                for (fd, which) in fds {
                    let Some(fd) = fd else { continue };
                    let added = cx.reactor.add(fd, Interest::Read, token(self.index, serial, which));
                    added.map_err(|e| (false, format!("cannot wait for it: {e}")))?;
                }
                Ok(run)
            });
        let run = match started {
            Ok(run) => run,
            Err((config, error)) => {
                self.unregister(cx, serial);
                if let Load::Batch(batch) = load {
                    self.give_back(batch);
                }
                self.went_away(cx, config, format!("cannot start rsync: {error}"));
                return false;
            }
        };
        let run = Flight {
            run,
            load,
            pass,
            small,
            stood_by: false,
            started: cx.now,
            paths,
            soft: false,
            ancestors,
            after: Vec::new(),
            mark: 0,
            marked: cx.now,
            looked: cx.now,
            ended_badly: None,
        };
        self.runs.insert(serial, run);
        true
    }

    // ----- standby -----

    fn refill_standby(&mut self, cx: &mut Context<'_>) {
        if self.state != State::Up || self.stopping || cx.held.is_some() || self.crowded.is_some() {
            return;
        }
        let have = self.runs.values().filter(|r| matches!(r.load, Load::Standby)).count();
        for _ in have..self.cfg.standby {
            if !self.start(cx, Pass::Shallow, Input::Standby, Load::Standby, 0, true, Compare::Resend, BTreeMap::new()) {
                return;
            }
        }
    }

    fn take_standby(&mut self, list: &[u8]) -> Option<(u32, Flight)> {
        let (&serial, _) = self
            .runs
            .iter()
            .find(|(_, r)| matches!(r.load, Load::Standby) && r.run.capacity().is_some_and(|c| c >= list.len()))?;
        self.runs.remove(&serial).map(|run| (serial, run))
    }

    fn drop_standbys(&mut self, cx: &mut Context<'_>) {
        let serials: Vec<u32> =
            self.runs.iter().filter(|(_, r)| matches!(r.load, Load::Standby)).map(|(&serial, _)| serial).collect();
        for serial in serials {
            if let Some(run) = self.runs.remove(&serial) {
                self.discard(cx, serial, run);
            }
        }
    }

    /// Takes a run's descriptors out of the reactor and ends its process.
    fn discard(&mut self, cx: &mut Context<'_>, serial: u32, run: Flight) {
        self.unregister(cx, serial);
        drop(run);
    }

    fn unregister(&self, cx: &mut Context<'_>, serial: u32) {
        for which in [STDOUT, STDERR, EXIT] {
            let _ = cx.reactor.remove(token(self.index, serial, which));
        }
    }

    // ----- what comes back -----

    /// A descriptor of one of this target's children is ready.
    pub fn on_ready(&mut self, cx: &mut Context<'_>, token_: u64) {
        let (serial, which) = ((token_ >> 8) as u32, token_ as u8);
        let Some(run) = self.runs.get_mut(&serial) else {
            let _ = cx.reactor.remove(token_);
            return;
        };
        match which {
            STDOUT | STDERR => {
                let stream = if which == STDOUT { Stream::Stdout } else { Stream::Stderr };
                if !run.run.on_readable(stream) {
                    let _ = cx.reactor.remove(token_);
                }
            }
            _ => {
                let outcome = match run.run.on_exit() {
                    Ok(Some(outcome)) => outcome,
                    Ok(None) => return,
                    Err(error) => Outcome::unknown(format!("how rsync ended is not known: {error}")),
                };
                let Some(mut run) = self.runs.remove(&serial) else { return };
                self.unregister(cx, serial);
                let load = std::mem::replace(&mut run.load, Load::Probe);
                match load {
                    Load::Probe => self.probed(cx, &run, &outcome),
                    Load::Standby => self.standby_ended(cx, &run, &outcome),
                    Load::Batch(batch) => self.batch_ended(cx, run, batch, outcome),
                }
            }
        }
    }

    fn probed(&mut self, cx: &mut Context<'_>, run: &Flight, outcome: &Outcome) {
        self.suspect |= gone(outcome, run.run.output());
        match probe::interpret_probe(outcome, &run.run.output().signs) {
            TargetState::Usable => self.came_up(cx, true),
            TargetState::UseFallback => self.came_up(cx, false),
            TargetState::Config(reason) => self.went_away(cx, true, reason),
            TargetState::Down(reason) => self.went_away(cx, false, reason),
            TargetState::Source(reason) => match (cx.check)() {
                Err(why) => {
                    *cx.held = Some(why);
                    self.went_away(cx, false, reason);
                }
                Ok(()) => self.went_away(cx, false, reason),
            },
        }
    }

    fn came_up(&mut self, cx: &mut Context<'_>, missing_args: bool) {
        self.missing_args = missing_args;
        if !missing_args {
            tracing::warn!(
                target_name = %self.cfg.name,
                "the target's rsync cannot delete by name (--delete-missing-args); its directories are compared one level deep instead, \
                 which costs more. rsync 3.4.4 and later can"
            );
        }
        if self.state != State::Up {
            tracing::info!(target_name = %self.cfg.name, url = %self.cfg.location, pending = self.unconfirmed(), "target is up");
        }
        self.state = State::Up;
        self.go_now = true;
        if std::mem::take(&mut self.suspect) {
            tracing::warn!(target_name = %self.cfg.name, "the target's directory was gone, so the whole tree is compared with what came back");
            self.see(cx.now, b"", Seen::Subtree);
        }
        self.refill_standby(cx);
    }

    /// The target has taken something, or a connection to it has lived: an outage, if there was one, is over.
    fn proven(&mut self, cx: &Context<'_>) {
        self.full = false;
        if std::mem::take(&mut self.tries) > 0 {
            self.stats.reason.clear();
            // What failed may have failed for the same cause.
            self.retries.hurry(cx.now);
        }
    }

    fn went_away(&mut self, cx: &mut Context<'_>, config: bool, reason: String) {
        self.tries += 1;
        let tries = self.tries;
        let pause = self.backoff.pause(tries, fastrand::f64()) * if config { CONFIG_PAUSE } else { 1 };
        // Once per cause; what repeats is counted and shown in the status.
        if self.stats.reason != reason {
            tracing::warn!(
                target_name = %self.cfg.name,
                url = %self.cfg.location,
                pending = self.unconfirmed(),
                "target {}: {reason}",
                if config { "refuses us, somebody must change something" } else { "is down" },
            );
        }
        self.stats.reason = reason.clone();
        self.missing_args = true; // it may come back with another rsync; the probe asks anew
        self.state = State::Away { config, reason, tries, next: cx.now + pause };
        self.drop_standbys(cx);
    }

    /// What made the waiting processes' connections useless may have befallen the target: asks it at once, and nothing is
    /// sent before it has answered.
    fn doubt(&mut self, cx: &mut Context<'_>, reason: &str) {
        if self.is_up() {
            self.state = State::Away { config: false, reason: reason.into(), tries: self.tries, next: cx.now };
            self.drop_standbys(cx);
        }
    }

    fn standby_ended(&mut self, cx: &mut Context<'_>, run: &Flight, outcome: &Outcome) {
        let old = cx.now.saturating_sub(run.started) > STANDBY_INFANT;
        if old || self.stopping || self.state != State::Up {
            if old && self.state == State::Up {
                self.proven(cx);
            }
            return self.refill_standby(cx);
        }
        match outcome.verdict {
            Verdict::Done => self.went_away(cx, false, "rsync ended before it was given a list".into()),
            // No connection to spare for standing by: work goes on without.
            Verdict::Busy => self.crowd(cx, outcome),
            _ => self.went_away(cx, matches!(outcome.verdict, Verdict::Config | Verdict::Refused { .. }), outcome.reason.clone()),
        }
    }

    /// The server's connections are used up. What we hold beyond the one that works may be the cause, so it is let go for
    /// as long as a process would stand by; then it is tried again.
    fn crowd(&mut self, cx: &mut Context<'_>, outcome: &Outcome) {
        if self.crowded.replace(cx.now + self.cfg.standby_max_age).is_none() {
            tracing::warn!(
                target_name = %self.cfg.name,
                "one connection at a time for {:?}: {}. Raise the module's max connections to {} or more",
                self.cfg.standby_max_age, outcome.reason, self.cfg.jobs + self.cfg.small_jobs + self.cfg.standby,
            );
        }
        self.drop_standbys(cx);
    }

    fn batch_ended(&mut self, cx: &mut Context<'_>, mut run: Flight, batch: Batch, outcome: Outcome) {
        let took = cx.now.saturating_sub(run.started);
        let id = batch.id;
        self.count(&run, &outcome, took);
        self.repair_overlaps(&run, &batch);
        let since = batch.entries.iter().map(Entry::epoch).min();
        let litter = if self.mirror.delete { leftovers(&batch, &outcome) } else { BTreeSet::new() };
        let after = std::mem::take(&mut run.after);
        self.log(&run, &batch, &outcome, took);
        self.suspect |= gone(&outcome, run.run.output());
        // A receiver that hangs keeps what it got, and may carry it out when it wakes up, over what was sent since (measured).
        if outcome.verdict == Verdict::TimedOut || run.ended_badly == Some(Ended::Stalled) {
            let carried = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
            self.unanswered.push((cx.now + self.cfg.watchdog * UNANSWERED_WATCHDOGS, carried));
        }
        match &outcome.verdict {
            Verdict::Done => {
                if self.full && outcome.counters.deleted > 0 {
                    self.retries.hurry(cx.now); // there may be room now
                }
                if !self.full || outcome.counters.files_sent + outcome.counters.deleted > 0 {
                    self.proven(cx);
                }
                self.confirm(cx, id, batch.entries);
            }
            Verdict::Partial
                if read_only(&batch, &outcome, run.run.output())
                    && (batch.round + 1 == WHOLE_ROUNDS || (batch.round == 0 && self.tries > 0)) =>
            {
                self.give_back(batch);
                if self.is_up() {
                    self.went_away(cx, true, outcome.reason.clone());
                }
            }
            Verdict::Partial | Verdict::SourceRace => {
                if !run.run.output().signs.read_only {
                    self.proven(cx);
                }
                self.partial(cx, &run, batch, &outcome);
            }
            Verdict::Busy => {
                self.give_back(batch);
                // With others of ours it was a matter of our own number, and their ends free a connection.
                let others = self.runs.values().any(|r| matches!(r.load, Load::Standby | Load::Batch(_)));
                self.crowd(cx, &outcome);
                if self.is_up() && !others {
                    self.went_away(cx, false, outcome.reason.clone());
                }
            }
            Verdict::TargetFull => {
                self.full = true;
                let mut batch = batch;
                self.set_unfit_apart(cx, &mut batch, &outcome);
                // One that was tried alone tells nothing new of the others.
                if !batch.entries.is_empty() && self.is_up() {
                    self.went_away(cx, false, outcome.reason.clone());
                }
                self.give_back(batch);
            }
            // The connection was old, and rsync does not look at it before it has its list: the server may have been restarted since,
            // or something on the way forgot about it. A probe tells whether the target is there.
            Verdict::TargetDown | Verdict::TimedOut if run.stood_by => {
                self.give_back(batch);
                self.doubt(cx, &outcome.reason);
            }
            // Somebody else did that to our process, the target has no part in it. The kernel, when memory is short: smaller lists may help.
            Verdict::Killed if run.ended_badly.is_none() && batch.round + 1 < WHOLE_ROUNDS => {
                self.set.park(id, &batch.entries);
                self.retries.failed(cx.now, batch.entries, batch.round, &[], &outcome.reason, fastrand::f64());
            }
            Verdict::NoMissingArgs => {
                self.give_back(batch);
                self.drop_standbys(cx);
                self.came_up(cx, false);
            }
            Verdict::SourceRoot => {
                self.give_back(batch);
                match (cx.check)() {
                    Err(why) => *cx.held = Some(why),
                    Ok(()) if self.is_up() => self.went_away(cx, false, outcome.reason.clone()),
                    Ok(()) => {}
                }
            }
            Verdict::Killed if run.ended_badly.is_some() => {
                let why = match run.ended_badly {
                    Some(Ended::Fifo) => "a file became a FIFO while it was to be sent".into(),
                    _ => format!("no progress for {:?}, ended by the watchdog", self.cfg.watchdog),
                };
                self.set.park(id, &batch.entries);
                self.retries.failed(cx.now, batch.entries, batch.round, &outcome.failed, &why, fastrand::f64());
                if run.stood_by && run.ended_badly == Some(Ended::Stalled) {
                    self.doubt(cx, &why);
                }
            }
            verdict => {
                let config = matches!(verdict, Verdict::Config | Verdict::Refused { .. } | Verdict::DeletesHeld);
                self.give_back(batch);
                for e in self.retries.take_all() {
                    self.set.restore(e);
                }
                // Of several runs that meet the same outage, the first counts.
                if self.is_up() {
                    self.went_away(cx, config, outcome.reason.clone());
                }
            }
        }
        for entry in after {
            self.set.restore(entry);
        }
        if let Some(since) = since {
            litter.iter().for_each(|dir| self.set.see_since(dir, Seen::Contents, since));
        }
        if self.set.ready(false) > 0 && self.first_ready.is_none() {
            self.first_ready = Some(cx.now);
        }
    }

    fn confirm(&mut self, cx: &Context<'_>, id: BatchId, entries: Vec<Entry>) {
        self.stats.batches += 1;
        self.stats.last_success_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        for entry in &entries {
            let over = self.retries.confirmed(entry);
            self.set.forget(over);
            if entry.path.is_root() && entry.kind == Kind::Subtree {
                self.reconciles += 1;
            }
        }
        for entry in self.set.confirm(id, entries) {
            let over = entry.over;
            match self.runs.values_mut().find(|r| matches!(&r.load, Load::Batch(b) if Some(b.id) == over)) {
                Some(run) => run.after.push(entry),
                None => self.set.restore(entry),
            }
        }
        let _ = cx;
    }

    fn partial(&mut self, cx: &Context<'_>, run: &Flight, batch: Batch, outcome: &Outcome) {
        let Batch { id, mut entries, round } = batch;
        self.set.park(id, &entries);
        // A deep run that has named all it could not do, and skipped no deletions, is done but for these.
        let named = &outcome.failed;
        let clean = outcome.failed_more == 0 && !run.run.output().signs.deletes_skipped;
        if clean && !named.is_empty() && named.iter().all(RelPath::is_root) {
            // A module that may not change its own top directory. Nothing else failed, and nothing helps.
            if !std::mem::replace(&mut self.top_refused, true) {
                tracing::warn!(target_name = %self.cfg.name, "the target's top directory keeps its own times and mode: {}", outcome.reason);
            }
            return self.confirm(cx, id, entries);
        }
        let deep_alone = entries.len() == 1 && entries[0].kind == Kind::Subtree;
        if round >= 2 && deep_alone && !named.is_empty() && clean {
            let entry = entries.remove(0);
            if entry.path.is_root() {
                self.reconciles += 1;
            }
            let kinds = named.iter().filter(|p| !p.is_root()).map(|p| (p.clone(), kind_on_source(cx.root, p)));
            entries = self.set.narrow(entry, kinds);
            return self.retries.fail(cx.now, entries, &outcome.reason, fastrand::f64());
        }
        self.retries.failed(cx.now, entries, round, named, &outcome.reason, fastrand::f64());
    }

    /// Directories above both this run's paths and those of a run still in flight, seen with different times: whichever ends
    /// last may have set the older ones. They are sent again when the other has ended; who waits for this run's changes waits
    /// for that too.
    fn repair_overlaps(&mut self, ended: &Flight, batch: &Batch) {
        let Some(since) = batch.entries.iter().map(Entry::epoch).min() else { return };
        for other in self.runs.values_mut().filter(|r| matches!(r.load, Load::Batch(_))) {
            for (dir, seen) in &ended.ancestors {
                let waits = |e: &Entry| e.path == *dir && e.kind == Kind::Entry;
                if other.ancestors.get(dir).is_some_and(|theirs| theirs != seen) && !other.after.iter().any(waits) {
                    other.after.push(self.set.parked(dir.clone(), since));
                }
            }
        }
    }

    fn count(&mut self, run: &Flight, outcome: &Outcome, took: Duration) {
        let s = &mut self.stats;
        s.runs += 1;
        s.standby_hits += u64::from(run.stood_by);
        s.files_sent += outcome.counters.files_sent;
        s.deleted += outcome.counters.deleted;
        s.bytes_sent += outcome.counters.wire_sent;
        if !outcome.is_done() {
            *s.bad_runs.entry(class(&outcome.verdict).into()).or_insert(0) += 1;
        }
        if run.small || run.pass == Pass::Shallow {
            self.run_length = (self.run_length * 3 + took) / 4;
        }
    }

    fn log(&mut self, run: &Flight, batch: &Batch, outcome: &Outcome, took: Duration) {
        let c = &outcome.counters;
        let first = batch.entries.first().map(|e| e.path.to_string()).unwrap_or_default();
        let pass = match run.pass {
            Pass::Full { .. } => "full",
            Pass::Deep => "deep",
            Pass::ShallowOneLevel => "one-level",
            Pass::Shallow | Pass::Probe => "shallow",
        };
        let ms = took.as_secs_f64() * 1000.0;
        self.stats.last_batch = format!(
            "{} paths ({pass}), {} files sent, {} deleted, {ms:.1} ms: {}",
            run.paths,
            c.files_sent,
            c.deleted,
            if outcome.is_done() { "done" } else { &outcome.reason }
        );
        if outcome.is_done() {
            tracing::info!(
                target_name = %self.cfg.name, pass, paths = run.paths, sent = c.files_sent, deleted = c.deleted, bytes = c.wire_sent,
                ms = (ms * 10.0).round() / 10.0, standby = run.stood_by, %first, "batch"
            );
        } else {
            tracing::warn!(
                target_name = %self.cfg.name, pass, paths = run.paths, ms = (ms * 10.0).round() / 10.0, round = batch.round, %first,
                class = class(&outcome.verdict), "batch did not end well, its paths are kept: {}", outcome.reason
            );
        }
    }

    // ----- time -----

    /// Does what is due: probes, watchdog, standby renewal, softening of long deep runs.
    pub fn tick(&mut self, cx: &mut Context<'_>) {
        self.set.tick(cx.now);
        if let State::Away { next, tries, .. } = &self.state
            && *next <= cx.now
            && cx.held.is_none()
        {
            self.state = State::Probing { tries: *tries };
            let list = probe::probe_list();
            self.start(cx, Pass::Probe, Input::List(&list), Load::Probe, 0, false, Compare::Quick, BTreeMap::new());
        }
        self.crowded.take_if(|until| *until <= cx.now);
        if self.is_up() {
            for (_, carried) in self.unanswered.extract_if(.., |(due, _)| *due <= cx.now).collect::<Vec<_>>() {
                for (path, kind) in carried {
                    let seen = match kind {
                        Kind::Entry => Seen::Touched,
                        Kind::Contents => Seen::Contents,
                        Kind::Subtree => Seen::Subtree,
                    };
                    self.see(cx.now, &path, seen);
                }
            }
        }
        let mut softened = Vec::new();
        let mut old = Vec::new();
        for (&serial, run) in &mut self.runs {
            let age = cx.now.saturating_sub(run.started);
            match &run.load {
                Load::Standby if age > self.cfg.standby_max_age => old.push(serial),
                Load::Batch(_) if !run.soft && deep(run.pass) && age >= SOFT_AFTER => {
                    run.soft = true;
                    softened.push(serial);
                }
                _ => {}
            }
            if !matches!(run.load, Load::Standby) && cx.now.saturating_sub(run.marked) >= self.cfg.watchdog {
                let mark = run.run.progress_mark();
                if mark == run.mark {
                    if run.ended_badly.is_some() {
                        run.run.kill();
                    } else {
                        tracing::warn!(target_name = %self.cfg.name, "a run made no progress for {:?}, ending it", self.cfg.watchdog);
                        run.ended_badly = Some(Ended::Stalled);
                        run.run.terminate();
                    }
                }
                (run.mark, run.marked) = (mark, cx.now);
            }
            if !matches!(run.load, Load::Standby) && run.ended_badly.is_none() && cx.now.saturating_sub(run.looked) >= FIFO_LOOK {
                run.looked = cx.now;
                if run.run.waits_for_fifo() {
                    tracing::info!(target_name = %self.cfg.name, "a file became a FIFO under a run, which is ended and done again");
                    run.ended_badly = Some(Ended::Fifo);
                    run.run.terminate();
                }
            }
        }
        for serial in softened {
            if let Some(Flight { load: Load::Batch(batch), .. }) = self.runs.get(&serial) {
                self.set.soften(batch);
            }
        }
        for serial in old {
            if let Some(run) = self.runs.remove(&serial) {
                self.discard(cx, serial, run);
            }
        }
        self.refill_standby(cx);
    }

    /// When [`Target::tick`] or [`Target::dispatch`] has something to do next, if nothing else happens.
    pub fn next_due(&self) -> Option<Duration> {
        let mut due = Vec::new();
        if let State::Away { next, .. } = &self.state {
            due.push(*next);
        }
        if self.state == State::Up {
            let (small, bulk) = self.lanes_free();
            if small || bulk {
                due.extend(self.leaves_at().filter(|_| !self.blocked()));
            }
            if bulk {
                due.extend(self.retries.next_due());
            }
            due.extend(self.unanswered.iter().map(|(due, _)| *due));
        }
        due.extend(self.set.next_hold());
        due.extend(self.crowded);
        for run in self.runs.values() {
            match run.load {
                Load::Standby => due.push(run.started + self.cfg.standby_max_age),
                Load::Batch(_) if !run.soft && deep(run.pass) => due.push(run.started + SOFT_AFTER),
                _ => {}
            }
            if !matches!(run.load, Load::Standby) {
                due.push(run.marked + self.cfg.watchdog);
                due.extend(run.ended_badly.is_none().then_some(run.looked + FIFO_LOOK));
            }
        }
        due.into_iter().min()
    }

    /// Whether all that could leave has just been seen to wait for something in flight: then only an end wakes it.
    fn blocked(&self) -> bool {
        !self.go_now && self.batches().next().is_some() && self.leaves_at() == Some(Duration::ZERO)
    }

    // ----- status -----

    /// The current numbers.
    pub fn status(&self, now: Duration, held: Option<&str>) -> status::Target {
        let mut s = self.stats.clone();
        s.pending = self.set.pending() as u64;
        s.in_flight = self.batches().map(|(_, b)| b.entries.len() as u64).sum();
        s.lag_seconds = self.set.epochs().lag(now).unwrap_or_default().as_secs_f64();
        s.standby = self.runs.values().filter(|r| matches!(r.load, Load::Standby)).count() as u64;
        s.coarsened = self.set.coarsened();
        s.retry_seconds = 0.0;
        match &self.state {
            State::Probing { .. } => s.state = "probing".into(),
            State::Up => {
                s.state = if self.in_sync() { "idle" } else { "syncing" }.into();
                s.reason.clear();
            }
            State::Away { config, reason, next, tries } => {
                s.state = if *config { "config" } else { "down" }.into();
                s.tries = u64::from(*tries);
                s.reason = reason.clone();
                s.retry_seconds = next.saturating_sub(now).as_secs_f64();
            }
        }
        if let Some(why) = held {
            (s.state, s.reason) = ("held".into(), why.into());
        }
        s.reconcile = self.batches().find(|(r, _)| matches!(r.pass, Pass::Full { .. })).map(|(run, _)| {
            let p = run.run.output().progress.unwrap_or_default();
            status::Reconcile {
                seconds: now.saturating_sub(run.started).as_secs_f64(),
                files_done: p.files_done,
                files_total: if p.scanning { 0 } else { p.files_total },
                bytes: p.bytes,
            }
        });
        s.failures = self
            .retries
            .failures()
            .take(SHOWN_FAILURES)
            .map(|f| status::Failure {
                path: Shown(&f.entry.path).to_string(),
                reason: f.reason.clone(),
                tries: f.tries,
                retry_seconds: f.due.saturating_sub(now).as_secs_f64(),
            })
            .collect();
        s.failures_more = self.retries.failures().len().saturating_sub(SHOWN_FAILURES) as u64;
        s
    }
}

/// Whether a run found that the target's directory, or the module that stands for it, is not there.
fn gone(outcome: &Outcome, output: &Output) -> bool {
    outcome.verdict == Verdict::TargetMissing || output.signs.module_missing
}

/// Whether a batch found the whole target read-only, as a filesystem is after an error: every path failed, and for this. A
/// read-only part of a target looks the same for as long as nothing else changes; so it is asked of whole rounds only, and what
/// was set apart already stays a matter of its paths.
fn read_only(batch: &Batch, outcome: &Outcome, output: &Output) -> bool {
    let named = |e: &Entry| outcome.failed.iter().any(|path| path::is_at_or_below(path, &e.path));
    output.signs.read_only && batch.entries.iter().all(named)
}

/// Directories where a receiver that was killed has left temporary files, which only a pass with deletes over them removes. One
/// that lives longer than its client cleans up.
fn leftovers(batch: &Batch, outcome: &Outcome) -> BTreeSet<RelPath> {
    let broken = match outcome.verdict {
        // Whatever rsync counted as sent until then. Who never got a connection left nothing.
        Verdict::TargetDown | Verdict::TimedOut | Verdict::Unknown => !outcome.reason.contains("failed to connect"),
        // What it had said so far is lost with it; with a local target the receiver is killed as well, most likely.
        Verdict::Killed => true,
        _ => false,
    };
    let files = batch.entries.iter().filter(|e| broken && e.kind == Kind::Entry);
    files.filter_map(|e| path::parent(&e.path).map(RelPath::from_normal)).collect()
}

/// What has to be sent of a path that a deep run named: what is below a directory that could not be made was skipped with it.
fn kind_on_source(root: &Root, path: &RelPath) -> Kind {
    match fstatat(root, path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() => Kind::Entry,
        Err(Errno::ENOENT | Errno::ENOTDIR) => Kind::Entry,
        Ok(_) | Err(_) => Kind::Subtree,
    }
}

fn deep(pass: Pass) -> bool {
    matches!(pass, Pass::Deep | Pass::Full { .. })
}

/// An error with its causes, in one line.
fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        next = cause.source();
    }
    out
}

/// The name of an outcome in logs and status.
fn class(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Done => "done",
        Verdict::Partial => "partial",
        Verdict::SourceRace => "source_race",
        Verdict::NoMissingArgs => "no_missing_args",
        Verdict::DeletesHeld => "deletes_held",
        Verdict::SourceRoot => "source_root",
        Verdict::TargetMissing => "target_missing",
        Verdict::TargetFull => "target_full",
        Verdict::TargetDown => "target_down",
        Verdict::TimedOut => "timed_out",
        Verdict::Busy => "busy",
        Verdict::Refused { .. } => "refused",
        Verdict::Config => "config",
        Verdict::Killed => "killed",
        Verdict::Unknown => "unknown",
    }
}
