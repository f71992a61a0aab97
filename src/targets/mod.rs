//! One target: its dirty set, its runs in flight, its standby processes, and what to do when it
//! fails.
//!
//! The engine thread owns it and calls in: [`Target::see`] for each change, [`Target::on_ready`]
//! when a child's descriptor is ready, [`Target::tick`] when time has passed, [`Target::dispatch`]
//! when something may leave.
//!
//! When a batch leaves: at once after a quiet time; else in a pause of the events, or when the
//! oldest change has waited for a delay that follows the length of the runs, and that is longer
//! while a flood goes on (at most `max_delay`). So a lone change travels in milliseconds, and a
//! burst in few, large batches. See `pace`.
//!
//! Two lanes: up to `small_jobs` short lists, by preference through a standby process, beside
//! `jobs` bulk runs. A run is confirmed by its exit, which rsync delays up to 45 ms after the
//! change is visible, so several small ones overlap. Runs that overlap never touch the same path,
//! but each sets the times of the directories above its paths. Where they saw different times, the
//! directory is sent once more after both.
//!
//! | part | holds |
//! | --- | --- |
//! | `ledger` | every path that the target lacks, and why |
//! | `link` | whether it can be sent to, and when it is probed next |
//! | `identity`, `orphans`, `fence` | what is to be known before anything is sent |
//! | `schedule`, `pace`, `lanes` | when a batch leaves, and by what |
//! | `compose` | how the entries of a batch are listed |
//! | `delete_guard`, `guarded`, `emptied`, `gone_dirs` | which deletions go through |
//! | `launch`, `runs`, `watchdog` | processes: their start, what each is for, their progress |
//! | `completion`, `ended` | what the end of a run means for its batch |
//! | `renames`, `below`, `survey`, `displaced`, `proof` | runs of a special kind |
//! | `linked`, `link_stalls`, `specials`, `names` | files with several names |
//! | `feed` | a target that is a feed: its runs publish records |
//! | `doubts`, `unread`, `leases`, `long` | what size and time do not say, what cannot be sent |
//! | `confirmed`, `report`, `explained`, `watched` | for hooks, `status`, `explain`, flushes |

mod apart;
mod allowance;
mod args;
mod below;
mod completion;
mod compose;
mod confirmed;
mod delete_guard;
mod displaced;
mod doubts;
mod emptied;
mod ended;
mod explained;
mod feed;
mod fence;
#[cfg(test)]
mod golden;
mod gone_dirs;
mod guarded;
mod history;
mod identity;
mod inherited;
mod lanes;
pub(crate) mod latency;
mod launch;
mod leases;
pub use leases::leased;
mod ledger;
mod link;
mod link_stalls;
mod linked;
mod long;
mod names;
mod order;
mod orphans;
mod pace;
mod pause;
mod probing;
mod proof;
mod recount;
mod renames;
mod repeats;
mod report;
mod run_progress;
mod runs;
mod schedule;
mod send;
mod slow;
mod specials;
mod survey;
mod unread;
mod watchdog;
mod watched;

pub(crate) use confirmed::{Confirmation, Owed, OwedQuery};
pub(crate) use guarded::spared;
pub(crate) use history::Since;
pub(crate) use ledger::Reached;
pub(crate) use survey::limited_args;
pub(crate) use watched::{Sides, Wrong};

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};

use crate::config::{self, Delete, Mirror};
use crate::dirty::{Batch, BatchId, DirtySet, Entry, Epoch, Kind, LEVEL_MIN, Limits, Seen};
use crate::error::chain;
use crate::filter::Filter;
use crate::guard::Hold;
use crate::links::names::Names;
use crate::links::{self, Links};
use crate::location::Trouble;
use crate::lost::Cause;
use crate::path::{self, RelPath, Shown};
use crate::progress::LOG_EVERY;
use crate::root::Root;
use crate::state::runs::Runs as RunLock;
use crate::status;
use crate::sync::argv::{self, Compare, Deletions, Pass, Peer, Spec};
use crate::sync::dialect::Dialect;
use crate::sync::filelist::{self, Form, Refusal};
use crate::sync::first::Fill;
use crate::sync::normal::{self, Normal, State as Look};
use crate::sync::outcome::{self, Outcome, Verdict};
use crate::sync::output::{Item, Output, Stream};
use crate::sync::probe::{self, RsyncFacts, TargetState};
use crate::sync::pulse::Pulse;
use crate::sync::retries::{Backoff, Retries, WHOLE_ROUNDS};
use crate::sync::run::{Input, Run, RunError};
use crate::sys::child::WaitsOn;
use crate::sys::reactor::{Interest, Reactor};
use crate::sys::statx::{FileTime, StatBrief, Statter};
use crate::text::{are, plural, they_are};
use args::RsyncArgs;
use compose::Met;
use confirmed::ConfirmationLog;
use delete_guard::{DeleteGuard, JUDGE_LOST, JUDGE_SOON};
use doubts::Doubts;
use gone_dirs::GoneDirs;
use guarded::{DryRun, Extra, RunOptions};
use lanes::{Lane, Lanes, LargeFiles};
use launch::{Launch, LaunchKind};
use ledger::{Index, Ledger, Reach, Unanswered, Where};
use link::{Link, State};
use linked::HardLinks;
use pace::Pace;
use report::Counters;
use runs::{AbortReason, Carried, How, InFlightRun, Process, Purpose, RunKind, Runs};
use schedule::Schedule;

/// Most paths in a batch of the small lane.
const SMALL_PATHS: usize = 200;
/// How often a run is checked for a FIFO that holds it up: rsync opens what was a file when it
/// looked, and waits for a writer.
const FIFO_CHECK: Duration = Duration::from_millis(200);
/// How often what a run writes is read. rsync writes each line by itself (`--outbuf` changes
/// nothing, 3.5.0), and to be woken for each costs as much as the transfer of the file it names.
const OUTPUT_PAUSE: Duration = Duration::from_millis(10);
/// A deep run that takes longer lets others pass below it.
const SOFT_AFTER: Duration = Duration::from_millis(500);
/// A standby that ends before this age says something about the target; a later end is the server's
/// idle timeout.
const STANDBY_INFANT: Duration = Duration::from_secs(3);
/// Between the moment a change happens and the moment its event is seen; generous, since the price
/// is only a needless comparison.
const TWIN_SLACK_SECS: i64 = 2;
/// Entries of a directory that cost as much as one listed path.
const LEVEL_ENTRIES_PER_PATH: usize = 4;
/// New files in a directory before its level is requested, where a level costs more than itself.
const DEAR_LEVEL_MIN: usize = 50;
/// What a target did not answer is checked again after this many times `watchdog`.
const UNANSWERED_WATCHDOGS: u32 = 2;
/// Failures listed in the status.
const SHOWN_FAILURES: usize = 50;
/// Probes of a configuration error come this much rarer than those of a target that is down.
const CONFIG_PAUSE: u32 = 4;

/// What the engine lends to its targets.
pub(crate) struct Context<'a> {
    /// Time since the daemon's start.
    pub now: Duration,
    /// The daemon's start by the wall clock, seconds since 1970.
    pub wall_start: i64,
    /// What is changed from now on has this change time, or a later one.
    pub stamp: FileTime,
    /// The watch root.
    pub root: &'a Root,
    /// Whether the source is still what it was, all filesystems below it included; checked before
    /// every run.
    pub check: &'a dyn Fn() -> Result<(), Hold>,
    /// The root, and where filesystems are mounted below it.
    pub places: &'a dyn Fn() -> Vec<RelPath>,
    /// What is left out.
    pub filter: &'a Filter,
    /// For rule N.
    pub statter: &'a mut Statter,
    /// Which names are one file; only where links are kept.
    pub links: Option<&'a mut Links>,
    /// Names of changed files, where an event does not lead to all of them.
    pub names: &'a mut Names,
    /// Is given what may have a name outside.
    pub meet: &'a mut dyn FnMut(links::Met<'_>),
    /// Where children's descriptors are registered.
    pub reactor: &'a mut Reactor,
    /// Set by a target that found the source gone or emptied.
    pub held: &'a mut Option<Hold>,
}

/// See the module's text.
pub(crate) struct Target {
    /// The configuration.
    pub(crate) cfg: config::Target,
    mirror: Mirror,
    args: RsyncArgs,
    ledger: Ledger,
    link: Link,
    /// After a restart, until a probe has run.
    identity: Option<identity::IdentityCheck>,
    orphans: Option<orphans::Orphans>,
    /// Of mirrors that honour roles.
    fence: Option<fence::Fence>,
    /// Of a feed, from [`Target::start_feed`] on.
    feed: Option<feed::Feed>,
    schedule: Schedule,
    /// Its share of what all targets of the daemon have together.
    allowance: allowance::Allowance,
    runs: Runs,
    guard: DeleteGuard,
    doubts: Doubts,
    displaced: displaced::Tried,
    met: Met,
    /// What comparisons leave alone.
    unread: unread::Unread,
    renames: renames::Renames,
    descents: below::Descents,
    hard_links: HardLinks,
    confirmations: ConfirmationLog,
    /// Of verifications under way.
    watches: Vec<watched::Watch>,
    gone_dirs: GoneDirs,
    counters: Counters,
}

/// A token's parts: which target, which run, which of its descriptors.
fn token(index: u16, run: u32, which: u8) -> u64 {
    TOKEN_BASE | u64::from(index) << 40 | u64::from(run) << 8 | u64::from(which)
}

/// Set in every token of a child; free for the engine otherwise.
pub(crate) const TOKEN_BASE: u64 = 1 << 63;

/// Which target a token belongs to.
pub(crate) fn token_target(token: u64) -> usize {
    (token >> 40 & 0xffff) as usize
}

const STDOUT: u8 = 0;
const STDERR: u8 = 1;
const EXIT: u8 = 2;

impl Target {
    /// A target that is probed at the next [`Target::tick`].
    pub(crate) fn new(index: usize, mirror: &Mirror, cfg: &config::Target, facts: &RsyncFacts) -> Target {
        let (of_feed, own) = (feed::plain(mirror, cfg), (mirror, cfg));
        let (mirror, cfg) = of_feed.as_ref().map_or(own, |(mirror, cfg)| (mirror, cfg));
        let backoff = Backoff { min: cfg.retry_min, max: cfg.retry_max };
        let failed = Backoff { min: cfg.retry_min, max: cfg.retry_failed.unwrap_or(cfg.retry_max) };
        let confirmations = ConfirmationLog::new(index, mirror, &cfg.name);
        let mut ledger = Ledger::new(mirror.batch.max_pending, failed);
        ledger.delivered = confirmations.keep > 0;
        if mirror.delete == Delete::Running {
            ledger.set.list_deletions();
        }
        let fill = match mirror.initial {
            // What a follower deletes is bounded there.
            _ if cfg.location.is_feed() => Fill::Filled,
            _ if mirror.delete == Delete::Running => Fill::Kept,
            // Comparisons that were requested are meant to make it equal.
            config::Initial::None if mirror.full_every.is_none() && mirror.full_at.is_empty() => Fill::Kept,
            _ => Fill::Unknown,
        };
        Target {
            cfg: cfg.clone(),
            mirror: mirror.clone(),
            args: RsyncArgs::new(mirror, facts),
            ledger,
            link: Link::new(backoff),
            identity: None,
            orphans: Some(orphans::Orphans::of_earlier_runs()),
            fence: fence::Fence::new(mirror),
            feed: None,
            schedule: Schedule::new(Pace::new(&mirror.batch, cfg.delay.or(mirror.batch.delay))),
            allowance: Default::default(),
            runs: Runs::new(index as u16),
            guard: DeleteGuard::new(fill),
            doubts: Default::default(),
            displaced: Default::default(),
            met: Default::default(),
            unread: Default::default(),
            renames: renames::Renames::new(),
            descents: Default::default(),
            hard_links: Default::default(),
            confirmations,
            watches: Vec::new(),
            gone_dirs: GoneDirs::default(),
            counters: Counters::new(status::Target {
                name: cfg.name.clone(),
                url: cfg.location.to_string(),
                ..Default::default()
            }),
        }
    }

    // ----- what comes in -----

    /// Takes in a change.
    pub(crate) fn see(&mut self, now: Duration, path: &[u8], seen: Seen) {
        if path.is_empty() && seen == Seen::Subtree {
            self.schedule.periodic.unlimited();
            self.ledger.set.tick(now);
            self.guard.compares_whole(self.ledger.set.epochs().current());
        }
        self.take_in(now, path, seen, None);
    }

    /// Takes in a change that a search found. It may be as old as the oldest that is not confirmed:
    /// who waits for that waits for this too.
    pub(crate) fn see_found(&mut self, now: Duration, path: &[u8], seen: Seen) {
        self.take_in(now, path, seen, self.ledger.set.epochs().oldest());
    }

    /// Whether it gets the times of directories.
    pub(crate) fn sends_dir_times(&self) -> bool {
        config::copies_dir_times(&self.cfg.args)
    }

    /// The periodic comparison of the whole tree is due.
    pub(crate) fn see_periodic(&mut self, now: Duration) {
        self.schedule.periodic.due(self.ledger.set.coarsened());
        self.take_in(now, b"", Seen::Subtree, None);
    }

    /// `since`: when it happened, if not just now.
    fn take_in(&mut self, now: Duration, path: &[u8], seen: Seen, since: Option<Epoch>) {
        self.ledger.set.tick(now);
        self.note_last(path);
        self.schedule.pace.seen(now);
        if path.is_empty() && seen == Seen::Subtree {
            self.schedule.pace.hurry_whole();
        }
        // A directory of this name may have gone while fansync did not run, and the target have it
        // still.
        let seen = if seen == Seen::CreatedDir && self.doubts.is_resuming() { Seen::MovedDir } else { seen };
        let pairs = self.may_pair(now, path, seen);
        self.note_gone(path, seen);
        self.note_renamed(path, seen);
        self.watches.iter_mut().for_each(|watch| watch.see(path, seen));
        let long = long::place_of(path);
        if let Some(dir) = long {
            let since = since.unwrap_or_else(|| self.ledger.set.epochs().current());
            self.see_long(now, dir, path.len(), since);
        }
        // With one that is too long the times of its directory changed. To one half of a rename
        // that says that the other does not come.
        let (path, seen) = long.map_or((path, seen), |dir| (dir, Seen::Touched));
        match since {
            _ if !pairs => self.ledger.set.see_apart(path, seen, since.unwrap_or_else(|| self.ledger.set.epochs().current())),
            Some(since) => self.ledger.set.see_since(path, seen, since),
            None => self.ledger.set.see(path, seen),
        }
        self.keep_seeking(path, seen);
    }

    /// See [`DirtySet::wants_barrier`].
    pub(crate) fn wants_barrier(&self) -> bool {
        self.ledger.set.wants_barrier()
    }

    /// See [`DirtySet::begin_barrier`].
    pub(crate) fn begin_barrier(&mut self) {
        self.ledger.set.begin_barrier();
    }

    /// See [`DirtySet::end_barrier`].
    pub(crate) fn end_barrier(&mut self) {
        self.ledger.set.end_barrier();
    }

    /// Begins a flush: the returned epoch is done when [`Target::flushed`] says so. Until then
    /// nothing is delayed.
    pub(crate) fn flush(&mut self) -> Epoch {
        let epoch = self.ledger.set.close_epoch();
        self.schedule.begin_flush(epoch);
        self.ledger.retries.flushing(true);
        self.ledger.retries.hurry(Duration::ZERO);
        self.ledger.long.hurry(Duration::ZERO);
        self.link.try_at(Duration::ZERO); // a flush waits: probe at once, once
        epoch
    }

    /// Whether everything of `epoch` and before is on the target.
    pub(crate) fn flushed(&self, epoch: Epoch) -> bool {
        self.ledger.set.epochs().clear_until(epoch)
    }

    /// Ends the hurry of a flush, done or given up.
    pub(crate) fn end_flush(&mut self, epoch: Epoch) {
        self.schedule.end_flush(epoch);
        self.ledger.retries.flushing(self.schedule.is_flushing());
    }

    /// What keeps a flush from ending, in words, when waiting cannot help: only failed paths, or
    /// deletions that an administrator has to accept, are left.
    pub(crate) fn stuck(&self) -> bool {
        let tries = self.schedule.is_flushing() && self.away().is_none() && self.ledger.retries.owes();
        !self.ledger.goes_on() && (self.ledger.failing() > 0 || self.ledger.is_held()) && !self.is_sending() && !tries
    }

    /// Why not everything is on the target.
    pub(crate) fn why_waiting(&self) -> (String, bool) {
        let failures = self.ledger.failing();
        if let Some(why) = self.why_paused() {
            return (why, false);
        }
        match self.away() {
            Some((reason, ..)) => (format!("{reason}; {} pending", plural(self.unconfirmed() as u64, "path")), true),
            _ if !self.ledger.withheld.is_empty() => (self.why_withheld().unwrap_or_default(), false),
            _ if !self.ledger.shelf.is_empty() => (self.why_shelved().unwrap_or_default(), false),
            _ if failures > 0 => {
                let first = self.failures().into_iter().next().map(|(path, reason)| format!("{path}: {reason}"));
                (format!("{} failed, the first: {}", plural(failures as u64, "path"), first.unwrap_or_default()), false)
            }
            _ => (format!("{} not confirmed yet", plural(self.unconfirmed() as u64, "path")), false),
        }
    }

    /// Paths that are not confirmed: pending, in flight, or waiting for another try.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.ledger.total()
    }

    /// Whether nothing is left to do.
    pub(crate) fn in_sync(&self) -> bool {
        self.ledger.in_sync()
    }

    /// Whether it holds, for certain, all that is known here.
    pub(crate) fn holds_all(&self) -> bool {
        self.ledger.in_sync() && !self.ledger.in_doubt()
    }

    /// Whether the target can be sent to.
    pub(crate) fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Why the target cannot be sent to, and whether it is a matter of configuration.
    pub(crate) fn away(&self) -> Option<(&str, bool, u32)> {
        self.link.outage().map(|outage| (&*outage.reason, outage.config, outage.tries))
    }

    /// Passes over the whole tree that ended well.
    pub(crate) fn reconciles(&self) -> u64 {
        self.counters.reconciles
    }

    /// Paths that keep failing, with rsync's words.
    pub(crate) fn failures(&self) -> Vec<(String, String)> {
        let failures = self.ledger.retries.failures().map(|f| (f.entry.path.to_string(), f.reason.clone()));
        failures.chain(self.ledger.long.places().map(|p| (p.dir().to_string(), p.reason()))).collect()
    }

    /// These paths.
    pub(crate) fn failing_paths(&self) -> Vec<RelPath> {
        self.ledger.retries.failures().map(|f| f.entry.path.clone()).collect()
    }

    /// From now on nothing is delayed and no standby process is kept.
    pub(crate) fn stop(&mut self, cx: &mut Context<'_>) {
        self.schedule.stop();
        self.drop_standbys(cx);
    }

    /// The source is another directory than before: its first comparison reads contents. `filled`:
    /// the target was filled from the one before, so what goes with the switch is no surprise.
    pub(crate) fn take_other_source(&mut self, filled: bool) {
        self.doubts.all = true;
        if filled {
            self.guard.was_filled();
        }
    }

    // ----- time -----

    /// Does what is due: probes, watchdog, standby renewal, softening of long deep runs.
    pub(crate) fn tick(&mut self, cx: &mut Context<'_>) {
        self.ledger.set.tick(cx.now);
        self.schedule.pace.tick(cx.now, self.ledger.set.ready(false));
        self.check_orphans(cx.now);
        self.settle(cx);
        self.doubts.tick(self.ledger.set.epochs());
        self.probe_if_due(cx);
        self.end_silent_probe(cx.now);
        if self.role_due().is_some_and(|due| due <= cx.now) {
            self.ask_role(cx);
        }
        self.link.tick(cx.now);
        if self.ledger.set.coarsened() > 0 && !std::mem::replace(&mut self.counters.bound_said, true) {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, cause = %Cause::PendingBound,
                "more than {} paths wait (max_pending); whole directories stand for them and are compared when they leave",
                self.mirror.batch.max_pending
            );
        }
        if self.is_up() && !self.schedule.is_paused() && self.ledger.look_again_at_unanswered(cx.now) {
            self.schedule.pace.waits(cx.now);
        }
        if self.is_up() && self.ledger.failing() > 0 && !self.runs.is_sending() {
            self.ledger.try_lost_again(cx.now);
        }
        self.watch_over_runs(cx);
        self.runs.read_on(cx.now, cx.reactor);
        self.report_progress(cx.now);
        self.refill_standby(cx);
        self.settle_shares(cx);
    }

    /// When [`Target::tick`] or [`Target::dispatch`] has something to do next, if nothing else
    /// happens.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let mut due = Vec::new();
        let goes = !self.schedule.is_paused();
        due.extend(self.link.next_try().filter(|_| goes));
        if self.is_up() && goes {
            let (small, bulk) = self.lanes_open();
            if (small || bulk) && !self.schedule.blocked {
                due.extend(self.leaves_at().filter(|_| !self.blocked()));
            }
            due.extend(self.ledger.large.due(self.hurry()).filter(|_| self.large_opens()));
            if bulk {
                due.extend(self.ledger.retries.next_due());
                due.extend(self.ledger.withheld.iter().map(|w| w.due));
                due.extend(self.recount_due());
                due.extend(self.ledger.set.next_linked());
            }
            due.extend(self.moves_leave_at());
            due.extend(self.ledger.unanswered.iter().map(|u| u.due));
            due.extend(self.ledger.long.next_due());
        }
        due.extend(self.allowance.due());
        due.extend(self.link.due());
        due.extend(self.role_due());
        due.extend(self.ledger.set.next_hold());
        due.extend(self.orphans.as_ref().map(orphans::Orphans::due));
        due.extend(self.schedule.pace.flood_ends());
        due.extend(self.runs.values().flat_map(|run| run.next_due(&self.cfg)));
        due.into_iter().min()
    }

    /// Whether all that could leave has just been seen to wait for something in flight: then only
    /// an end wakes it.
    fn blocked(&self) -> bool {
        !self.schedule.pace.hurries() && self.runs.is_sending() && self.leaves_at() == Some(Duration::ZERO)
    }
}
