//! The way of an event: from the reader's buffers through the resolver (fanotify) or the watches
//! (inotify) to the targets and the hooks.
//!
//! ```text
//! Item::Buf ─► Engine::fanotify ─► Resolver::event ──► MarkSink ──┐
//!          └─► Engine::inotify ──► Watching::inotify ─► WatchSink ┴► Sink ─► Fanout
//! Fanout ─► Target::see, Hooks::seen
//! ```

use std::time::Duration;

use super::Engine;
use super::aliases::Aliases;
use super::dir_times::DirTimes;
use super::exported::Following;
use super::follow::Written;
use super::gate::Gate;
use super::history::History;
use super::listening::Listeners;
use super::names;
use super::rescans::UNWATCHED_EVERY;
use super::strays::Strays;
use super::watching::{Taken, Watching};
use crate::dirty::{PathSink, Seen};
use crate::filter::Filter;
use crate::hooks::Hooks;
use crate::lost::{Cause, Lost};
use crate::path::{RelPath, Shown};
use crate::resolve::Resolver;
use crate::root::Root;
use crate::source::fan_decode;
use crate::source::reader::{Feed, Item, Reader};
use crate::targets::Target;

/// Buffers handled before children and commands get their turn.
const BUFFERS_PER_TURN: usize = 64;

/// What turns events into dirty paths.
pub(super) struct Intake {
    pub(super) resolver: Resolver,
    pub(super) gate: Gate,
    pub(super) watching: Watching,
    pub(super) reader: Reader,
    pub(super) written: Written,
    pub(super) dir_times: DirTimes,
    pub(super) following: Following,
    /// Events since the start.
    pub(super) events: u64,
}

/// Everything that is to know of a dirty path.
pub(super) struct Fanout<'a> {
    /// Since the engine's start.
    pub(super) now: Duration,
    pub(super) targets: &'a mut [Target],
    pub(super) hooks: &'a mut Hooks,
}

impl Fanout<'_> {
    pub(super) fn apply(&mut self, path: &[u8], seen: Seen) {
        for target in self.targets.iter_mut() {
            target.see(self.now, path, seen);
        }
        self.hooks.seen(path, seen);
    }
}

/// What stands between an event's path and the fan-out: event switches, the tap of
/// `fansync events`, and the other places of a directory that is mounted twice.
struct Sink<'a> {
    fanout: Fanout<'a>,
    gate: &'a mut Gate,
    dir_times: &'a mut DirTimes,
    tap: &'a mut Listeners,
    filter: &'a Filter,
    aliases: Aliases,
    /// A directory above a mount was renamed.
    mounts_moved: bool,
}

impl Sink<'_> {
    /// Whether it is the times of a directory, and these wait.
    fn puts_off(&mut self, mask: u64, path: &[u8], seen: Seen) -> bool {
        seen == Seen::DirTimes && (!self.gate.admits_dir_times(mask, path) || !self.dir_times.changed(path, self.fanout.now))
    }

    /// What the event switches leave of it.
    fn admit(&mut self, mask: u64, pid: i32, path: &[u8], seen: Seen) -> Option<Seen> {
        if self.tap.any() {
            self.tap.publish(mask, pid, path, seen);
        }
        self.gate.admit(mask, path, seen)
    }

    fn apply(&mut self, path: &[u8], seen: Seen) {
        tracing::trace!(path = %Shown(path), ?seen, "event");
        self.fanout.apply(path, seen);
    }

    /// The same for the other places where `path` is mounted.
    fn apply_to_aliases(&mut self, path: &[u8], seen: Seen) {
        let (fanout, gate, filter) = (&mut self.fanout, &self.gate, self.filter);
        self.aliases.others(path, seen, &mut |path, seen| {
            if !gate.hides(path) && !filter.excludes(path, true) && !filter.excludes(path, false) {
                fanout.apply(path, seen);
            }
        });
        self.mounts_moved |= self.aliases.change_with(path, seen);
    }
}

/// Takes the paths of one fanotify event at a time.
struct MarkSink<'a> {
    sink: Sink<'a>,
    /// Of the event at hand.
    mask: u64,
    pid: i32,
    /// It was about a path in the mirror.
    inside: bool,
    /// Whether directories that moved within the mirror count, too.
    walks: bool,
    /// Directories that came, with what they contain.
    came: Vec<RelPath>,
}

impl PathSink for MarkSink<'_> {
    fn apply(&mut self, path: &[u8], seen: Seen) {
        if self.sink.puts_off(self.mask, path, seen) {
            return;
        }
        self.inside = true;
        if seen == Seen::MovedDir || self.walks && seen == Seen::ArrivedDir {
            self.came.push(RelPath::from_normal(path));
        }
        if let Some(seen) = self.sink.admit(self.mask, self.pid, path, seen) {
            self.sink.apply(path, seen);
            self.sink.apply_to_aliases(path, seen);
        }
    }
}

/// Takes the paths of inotify's events.
struct WatchSink<'a> {
    sink: Sink<'a>,
    root: &'a Root,
    written: &'a mut Written,
    strays: &'a mut Strays,
    whiteouts: Vec<RelPath>,
}

impl WatchSink<'_> {
    fn apply(&mut self, mask: u32, path: &[u8], seen: Seen) {
        if self.sink.puts_off(mask.into(), path, seen) {
            return;
        }
        let Some(seen) = self.sink.admit(mask.into(), 0, path, seen) else { return };
        let (now, unsent) = (self.sink.fanout.now, self.written.holds(path));
        if !self.written.see(path, seen, now) {
            return;
        }
        self.sink.apply(path, seen);
        let dropped = self.sink.fanout.targets.iter().filter_map(Target::dropped_change).min();
        self.strays.see(path, seen, dropped, unsent, now);
        self.sink.apply_to_aliases(path, seen);
        if mask & libc::IN_MOVED_FROM != 0 && crate::resolve::is_whiteout(self.root, path) {
            self.whiteouts.push(RelPath::from_normal(path));
        }
    }
}

/// The sink of `$engine`, which leaves its other fields to be borrowed.
macro_rules! sink {
    ($engine:ident, $now:ident) => {
        Sink {
            fanout: Fanout { now: $now, targets: &mut $engine.targets, hooks: &mut $engine.hooks },
            gate: &mut $engine.intake.gate,
            dir_times: &mut $engine.intake.dir_times,
            tap: &mut $engine.listeners,
            filter: &$engine.mirror.filter,
            aliases: $engine.intake.watching.aliases(),
            mounts_moved: false,
        }
    };
}

impl Engine {
    /// Makes a path dirty on every target; no change that a hook is to learn of.
    pub(super) fn see_all(&mut self, path: &[u8], seen: Seen) {
        let now = self.now();
        for target in &mut self.targets {
            target.see(now, path, seen);
        }
        if let Some(history) = &mut self.saved.history {
            history.touch(now);
        }
    }

    /// A search found that `path` changed.
    pub(super) fn take_found(&mut self, path: &[u8], seen: Seen) {
        if self.intake.gate.hides(path) {
            return;
        }
        let now = self.now();
        for target in &mut self.targets {
            target.see_found(now, path, seen);
        }
        if let Some(history) = &mut self.saved.history {
            history.touch(now);
        }
        self.hooks.seen(path, seen);
    }

    /// Takes buffers from the ring; `true` when there may be more.
    pub(super) fn take_events(&mut self) -> bool {
        for _ in 0..BUFFERS_PER_TURN {
            let Some(item) = self.intake.reader.pop() else {
                self.intake.resolver.maintain();
                let now = self.now();
                self.searches.strays.caught_up(now);
                return false;
            };
            match item {
                Item::Buf(buf) => {
                    match buf.feed {
                        Feed::Fanotify => self.fanotify(&buf),
                        Feed::Inotify => self.inotify(&buf),
                    }
                    self.intake.reader.give_back(buf);
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

    /// Events do not cover everything any more, and nothing will change that: all is compared,
    /// again and again.
    pub(super) fn go_blind(&mut self, cause: Cause) {
        self.intake.watching.go_blind();
        self.lost(Lost::all(cause));
        let now = self.now();
        self.rescans.unwatched_from(now);
    }

    fn fanotify(&mut self, bytes: &[u8]) {
        let now = self.now();
        self.intake.resolver.tick(now);
        self.intake.resolver.confirmed(self.targets.iter().filter_map(Target::oldest_change).min().unwrap_or(now));
        let (mut losses, mut dirty) = (Vec::new(), false);
        let walks = self.searches.outside.is_incomplete();
        let mut out = MarkSink { sink: sink!(self, now), mask: 0, pid: 0, inside: false, walks, came: Vec::new() };
        for event in fan_decode::events(bytes) {
            self.intake.events += 1;
            (out.mask, out.pid) = event.as_ref().map_or((0, 0), |e| (e.mask, e.pid));
            out.inside = false;
            let outcome = match &event {
                Ok(event) => self.intake.resolver.event(&self.root, &self.mirror.filter, event, &mut out),
                Err(corrupt) => {
                    tracing::error!(mirror = %self.mirror.name, "{corrupt}");
                    Err(Lost::all(Cause::CorruptRecord))
                }
            };
            losses.extend(outcome.err());
            dirty |= out.inside;
            if out.inside && out.mask & libc::FAN_ONDIR != 0 {
                let names = &mut self.searches.naming.names;
                out.sink.fanout.targets.iter_mut().for_each(|target| target.seek_strayed(names, self.clock.wall_start));
            }
            if let Ok(event) = &event
                && self.intake.resolver.took_name()
                && out.sink.fanout.targets.iter().any(|target| target.dropped_change().is_some())
            {
                match self.intake.resolver.survivor(event) {
                    Ok(Some(inode)) => names::seek_survivor(&mut self.searches.naming.names, out.sink.fanout.targets, now, inode),
                    Ok(None) => {}
                    Err(lost) => losses.push(lost),
                }
            }
            if let (Ok(event), Some(history)) = (&event, &mut self.saved.history)
                && History::concerns_places(event)
            {
                history.directory(event, out.inside);
            }
        }
        let MarkSink { sink: Sink { mounts_moved, tap, .. }, came, .. } = out;
        if tap.any() {
            tap.forget_commands();
        }
        if let Some(history) = self.saved.history.as_mut().filter(|_| dirty) {
            history.touch(now);
        }
        came.iter().for_each(|dir| self.want_linked(dir, true));
        losses.into_iter().for_each(|l| self.lost(l));
        if mounts_moved {
            self.mounts_changed();
        }
    }

    fn inotify(&mut self, bytes: &[u8]) {
        let now = self.now();
        let mut out = WatchSink {
            sink: sink!(self, now),
            root: &self.root,
            written: &mut self.intake.written,
            strays: &mut self.searches.strays,
            whiteouts: Vec::new(),
        };
        let mut apply = |mask: u32, path: &[u8], seen: Seen| out.apply(mask, path, seen);
        let Taken { events, unplaced, came } = self.intake.watching.inotify(&self.mirror.filter, bytes, &mut apply);
        for path in std::mem::take(&mut out.whiteouts) {
            out.sink.fanout.apply(&path, Seen::Written);
        }
        let mounts_moved = out.sink.mounts_moved;
        // A walk finds what changed, and not by which kind of event.
        if unplaced || came && self.intake.gate.admits_all() {
            self.searches.strays.astray(now);
        }
        self.intake.events += events;
        if let Some(history) = self.saved.history.as_mut().filter(|_| events > 0) {
            history.touch(now);
        }
        for lost in self.intake.watching.take_lost() {
            self.lost(lost);
        }
        if mounts_moved {
            self.mounts_changed();
        }
    }

    pub(super) fn mounts_changed(&mut self) {
        let changed = self.intake.watching.remount(&self.mirror, &self.root, &mut self.intake.resolver);
        let Some(lost) = changed else { return };
        lost.into_iter().for_each(|lost| self.lost(lost));
        self.settle_places();
        self.remember_mounts();
        self.check_root();
    }
}
