//! The dirty set of one target: a tree of path components, so that a directory's deletion absorbs
//! what is pending below in time proportional to what it absorbs, and "is anything above or below
//! in flight" is a walk up, not a search.
//!
//! A node exists while it, or something below it, is pending or in flight. Nodes live in an arena;
//! names are looked up by a hash of (parent, name).

mod bound;
mod cursors;
mod exchange;
mod events;
mod flight;
mod holds;
mod landed;
mod list;
mod look;
mod moves;
mod order;
mod shares;
mod tree;
mod twins;

use std::time::Duration;

use super::{Epoch, Epochs, Seen};
use crate::path::{self, RelPath};
use cursors::Cursors;
use holds::Holds;
use landed::Landed;
pub(crate) use list::ListedTo;
pub(crate) use moves::Moves;
use moves::Renames;
pub(crate) use order::{LinkRead, Needs};
use tree::{NONE, NameTree, ROOT, components};

/// How much of a path is to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The path itself. Of a directory: its attributes, not its contents.
    Entry,
    /// A directory and one level of its contents, with deletes.
    Contents,
    /// A path and all below it, with deletes.
    Subtree,
}

/// Names one batch in flight.
pub(crate) type BatchId = u32;

/// One path of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the watch root.
    pub(crate) path: RelPath,
    /// How much of it is to be compared.
    pub(crate) kind: Kind,
    /// It was deleted or moved away in this window. If a directory is found there after all, it is
    /// another one and must be compared whole.
    pub(crate) gone: bool,
    /// Its content may be another although size and times are the same: it was written or moved
    /// here, and not only touched.
    pub(crate) content: bool,
    /// It appeared and no closing write has been seen yet: a regular file waits.
    pub(crate) held: bool,
    /// Its content changed by more than its making: one that is made may be a link.
    pub(crate) written: bool,
    /// An event reported that the file behind this name changed: where it has other names, they
    /// changed too. Of a directory: the same of files in it, which are not pending by themselves
    /// any more.
    pub(crate) through: bool,
    /// It was found with this as its only name: where it is gone by the time that a run fails, no
    /// other name is sought.
    pub(crate) single: bool,
    /// It waited for the event that says where its file went.
    pub(crate) waited: bool,
    /// A long deep run that began earlier passes over this path too and may undo what this batch
    /// does, so it must be sent once more when that run has ended.
    pub(crate) over: Option<BatchId>,
    fresh: bool,
    taken: bool,
    epoch: Epoch,
}

impl Entry {
    fn plain(path: RelPath, epoch: Epoch) -> Entry {
        let (gone, content, held, written, through, single, waited, fresh, taken) = Default::default();
        Entry { path, kind: Kind::Entry, gone, content, held, written, through, single, waited, over: None, fresh, taken, epoch }
    }

    /// Moves the entry out and leaves its path and kind behind, marked as taken.
    pub(crate) fn take(&mut self) -> Entry {
        let whole = self.clone();
        self.taken = true;
        whole
    }

    /// Takes in another entry of the same path. Returns the epoch that is counted no longer.
    fn merge(&mut self, other: &Entry) -> Epoch {
        let newer = self.epoch.max(other.epoch);
        self.epoch = self.epoch.min(other.epoch);
        self.kind = self.kind.max(other.kind);
        self.gone |= other.gone;
        self.content |= other.content;
        self.through |= other.through;
        self.written |= other.written;
        self.waited |= other.waited;
        newer
    }

    /// When it became dirty, as a time since the daemon's start; to within an epoch.
    pub(crate) fn since(&self) -> Duration {
        self.epoch.begins()
    }

    /// The epoch it became dirty in.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the target may hold something else under this name: it was deleted, written or moved
    /// here, and is not only new.
    pub(crate) fn is_replaced(&self) -> bool {
        self.gone || self.content && !self.fresh
    }

    /// Whether [`Entry::take`] moved it out: what is left counts nowhere.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken
    }
}

/// Paths that leave together. Returned to the set by [`DirtySet::confirm`] or
/// [`DirtySet::restore`].
#[derive(Debug)]
pub struct Batch {
    /// Unique among the batches of this set.
    pub id: BatchId,
    /// In no useful order; distinct paths.
    pub entries: Vec<Entry>,
    /// How often these entries have failed together.
    pub(crate) round: u32,
}

/// Bounds for [`DirtySet::take_shallow`] and [`DirtySet::take_deep`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most paths in the batch.
    pub max_paths: usize,
    /// Take files that wait for their closing write as well (a flush).
    pub ignore_holds: bool,
}

/// New files in a directory before a comparison of its level is considered.
pub(crate) const LEVEL_MIN: usize = 10;

/// Created in this window under a name that the target cannot know: if it goes again before it
/// left, nothing is to do.
const FRESH: u16 = 1;
const GONE: u16 = 2;
/// Created, no closing write seen.
const OPEN: u16 = 4;
/// `OPEN`, and the caller found a regular file there: not to be taken before its time.
const WAITS: u16 = 8;
/// The batch in flight here is a long deep run: others may pass below it.
const SOFT: u16 = 16;
/// Written or moved here; see [`Entry::content`].
const CONTENT: u16 = 32;
/// It came here by a rename, and the target holds it under its old name still. See [`moves`].
const MOVED: u16 = 64;
/// The old name of such a thing.
const ORIGIN: u16 = 128;
const PAIRED: u16 = MOVED | ORIGIN;
/// What flies here was new to the target and travels alone, by its name: nothing below it can be
/// there yet.
const ALONE: u16 = 256;
/// A cursor may lead here: those are lost when this is taken out.
const NOTED: u16 = 512;
/// See [`Entry::through`].
const THROUGH: u16 = 1024;
/// The last check did not find what changed here: the event that says where it went is to come. Not
/// to be taken before its time.
const ABSENT: u16 = 2048;
/// A symbolic link that leaves after what it leads to. See [`order`]. Not to be taken before its
/// time.
const LATER: u16 = 4096;
/// See [`Entry::written`].
const WRITTEN: u16 = 8192;
/// See [`Entry::waited`].
const WAITED: u16 = 16384;
/// A change that came through the name flies with what is here, or with what the check before the
/// run met in its place.
const CARRIED: u16 = 32768;
/// What stays when a path becomes dirty, or clean.
const LASTING: u16 = SOFT | ALONE | NOTED | CARRIED;

/// Dirty paths of one target. See the module's text for the places a path can be in.
pub struct DirtySet {
    tree: NameTree,
    epochs: Epochs,
    tally: Tally,
    max_pending: usize,
    coarsened: u64,
    merged: u64,
    next_batch: BatchId,
    landed: Landed,
    cursors: Cursors,
    twins: twins::Twins,
    renames: Renames,
    last: LastEvent,
    holds: Holds,
    order: order::Order,
    /// Comparisons delete nothing: what went is named, whatever covers it.
    by_name: bool,
}

/// How many paths are pending.
#[derive(Default)]
struct Tally {
    /// Of every kind.
    pending: usize,
    subtrees: usize,
    contents: usize,
}

impl Tally {
    fn of_kind(&mut self, kind: Kind) -> Option<&mut usize> {
        match kind {
            Kind::Entry => None,
            Kind::Contents => Some(&mut self.contents),
            Kind::Subtree => Some(&mut self.subtrees),
        }
    }

    fn add(&mut self, kind: Kind) {
        self.pending += 1;
        self.of_kind(kind).into_iter().for_each(|n| *n += 1);
    }

    fn remove(&mut self, kind: Kind) {
        self.pending -= 1;
        self.of_kind(kind).into_iter().for_each(|n| *n -= 1);
    }
}

/// What the last event meant for changes that had come through the names it was about.
#[derive(Default)]
struct LastEvent {
    /// Its path lost its file, and a change had come through it that may not have left: when that
    /// was, at the earliest.
    dropped: Option<Epoch>,
    /// The same of a directory, and changes through names in it.
    absorbed: bool,
    /// What left just now, if it takes such changes along.
    carried: Option<RelPath>,
    /// The same, where it left the source.
    strayed: Option<RelPath>,
    exchange: exchange::Exchange,
}

impl DirtySet {
    /// An empty set. Beyond `max_pending` paths, directories are coarsened to `Contents` and then
    /// `Subtree`.
    pub fn new(max_pending: usize) -> DirtySet {
        DirtySet {
            tree: NameTree::new(),
            epochs: Epochs::default(),
            tally: Tally::default(),
            max_pending: max_pending.max(1),
            coarsened: 0,
            merged: 0,
            next_batch: 0,
            landed: Landed::default(),
            cursors: Cursors::default(),
            twins: Default::default(),
            renames: Renames::default(),
            last: LastEvent::default(),
            holds: Holds::default(),
            order: Default::default(),
            by_name: false,
        }
    }

    /// From here on each path that goes is listed by its name, after the comparison that covers it.
    pub(crate) fn list_deletions(&mut self) {
        self.by_name = true;
    }

    /// Paths that wait to be sent.
    pub fn pending(&self) -> usize {
        self.tally.pending
    }

    /// Pending paths that [`DirtySet::take_shallow`] or [`DirtySet::take_deep`] could return if
    /// nothing were in flight.
    pub(crate) fn ready(&self, ignore_holds: bool) -> usize {
        self.tally.pending.saturating_sub(self.holds.held(ignore_holds))
    }

    /// Whether what was seen last took a name from its file through which a change had come, where
    /// that has perhaps not left: when it came, at the earliest. The read of a batch that left may
    /// have met another file under the name, whose coming was not seen yet.
    pub(crate) fn dropped_change(&self) -> Option<Epoch> {
        self.last.dropped
    }

    /// The directory that left the source with what was seen last, if it took changes along that
    /// came through names in it, and since when these were pending. They are the caller's from here
    /// on.
    pub(crate) fn take_strayed(&mut self) -> Option<(RelPath, Epoch)> {
        let (dir, since) = (self.last.strayed.take()?, self.last.dropped?);
        self.set_flag(&dir, THROUGH, false);
        Some((dir, since))
    }

    /// Whether a subtree is pending.
    pub(crate) fn has_deep(&self) -> bool {
        self.tally.subtrees > 0
    }

    /// How often the bound on pending paths made directories coarser.
    pub fn coarsened(&self) -> u64 {
        self.coarsened
    }

    /// Changes that made no path more wait: it waited already, or something above it did, or it was
    /// gone before it left.
    pub(crate) fn merged(&self) -> u64 {
        self.merged
    }

    /// Age bookkeeping of everything that is not confirmed, in flight and waiting to be tried again
    /// included.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Sets the time (since the daemon's start); files whose hold ends by then become ready.
    pub fn tick(&mut self, now: Duration) {
        self.epochs.tick(now);
        while let Some((path, flags)) = self.holds.pop_due(now) {
            // A later hold of the same path has a later place in the queue; ending this one early
            // only costs a check.
            if let Some(at) = self.tree.find(&path) {
                self.end_holds(at, flags);
            }
        }
    }

    /// How many of the paths from `until` or before it are held: they are not to be sent yet. Looks
    /// at all that is pending, where any is held.
    pub(crate) fn held_until(&self, until: Epoch) -> usize {
        if self.holds.held(false) == 0 {
            return 0;
        }
        let (mut count, mut stack) = (0, vec![ROOT]);
        while let Some(at) = stack.pop() {
            let n = &self.tree[at];
            let held = n.kind.is_some() && n.flags & (WAITS | ABSENT | LATER) != 0 && n.epoch <= until;
            count += usize::from(held);
            stack.extend(self.tree.children(at));
        }
        count
    }

    /// When the next hold ends, as a time since the daemon's start.
    pub(crate) fn next_hold(&self) -> Option<Duration> {
        self.holds.next()
    }

    /// Closes the current epoch for a flush; see [`Epochs::close`].
    pub(crate) fn close_epoch(&mut self) -> Epoch {
        self.epochs.close()
    }

    // ----- tree -----

    /// Whether the path is pending or in flight, itself or with a directory above it. Attributes of
    /// a directory above that wait say nothing of what is in it; in flight they may belong to more.
    pub(crate) fn owes(&self, path: &[u8]) -> bool {
        let covers = |at: u32, own: bool| {
            let n = &self.tree[at];
            n.flying != 0 || n.kind.is_some_and(|kind| own || kind > Kind::Entry)
        };
        let mut at = ROOT;
        for name in components(path) {
            if covers(at, false) {
                return true;
            }
            match self.tree.child(at, name) {
                Some(child) => at = child,
                None => return false,
            }
        }
        covers(at, true)
    }

    /// Whether the path is in flight, itself or with a directory above it.
    pub(crate) fn flies(&self, path: &[u8]) -> bool {
        let mut at = ROOT;
        for name in components(path) {
            if self.tree[at].flying != 0 {
                return true;
            }
            match self.tree.child(at, name) {
                Some(child) => at = child,
                None => return false,
            }
        }
        self.tree[at].flying != 0
    }

    /// Whether something in the directory `path` is pending or in flight, or below one of its
    /// directories.
    pub(crate) fn owes_in(&self, path: &[u8]) -> bool {
        // Nodes are there for that alone.
        self.tree.find(path).is_some_and(|at| self.tree[at].first_child != NONE)
    }

    /// Takes nodes out of the tree from `at` upwards, as long as nothing needs them.
    fn prune(&mut self, at: u32) {
        self.prune_up_to(at, ROOT);
    }

    /// The same, but leaves `top` in place even if nothing needs it.
    fn prune_up_to(&mut self, mut at: u32, top: u32) {
        while at != top && at != ROOT && !self.tree[at].is_needed() {
            let parent = self.tree[at].parent;
            if self.tree[at].flags & NOTED != 0 {
                self.cursors.lose();
            }
            self.tree.remove(at);
            if self.tree.shrink() {
                self.cursors = Cursors::default();
            }
            at = parent;
        }
    }

    // ----- becoming dirty and clean -----

    /// Ends holds of a pending path: [`WAITS`], [`ABSENT`] and [`LATER`] as far as they are among
    /// `flags`.
    fn end_holds(&mut self, at: u32, flags: u16) {
        self.holds.end(&mut self.tree[at].flags, flags);
    }

    /// The path is complete, or to be sent as it is.
    fn end_wait(&mut self, at: u32) {
        self.end_holds(at, holds::ALL);
    }

    /// Makes `at` pending with at least `kind`; counted since `epoch` if it was clean.
    fn mark(&mut self, at: u32, kind: Kind, epoch: Epoch) {
        if kind == Kind::Subtree {
            self.cursors.lose();
        }
        match self.tree[at].kind {
            None => {
                self.epochs.add(epoch);
                let n = &mut self.tree[at];
                n.kind = Some(kind);
                n.epoch = epoch;
                n.flags &= LASTING;
                self.tally.add(kind);
            }
            Some(old) => {
                if epoch < self.tree[at].epoch {
                    self.epochs.remove(self.tree[at].epoch);
                    self.epochs.add(epoch);
                    self.tree[at].epoch = epoch;
                }
                if kind > old {
                    self.tally.remove(old);
                    self.tally.add(kind);
                    self.tree[at].kind = Some(kind);
                }
            }
        }
    }

    /// Makes `at` clean again and returns its epoch, which is no longer counted.
    fn clear(&mut self, at: u32) -> Option<Epoch> {
        let kind = self.tree[at].kind.take()?;
        self.renames.forget_left();
        if self.tree[at].flags & PAIRED != 0 {
            self.unpair(at);
        }
        self.end_wait(at);
        self.tree[at].flags &= LASTING;
        self.tally.remove(kind);
        let epoch = self.tree[at].epoch;
        self.epochs.remove(epoch);
        Some(epoch)
    }

    /// Clears all that is pending strictly below `top` (what is in flight stays). Returns the
    /// oldest epoch among it and `own`, and those of `CONTENT` and `THROUGH` that something among
    /// it had.
    fn absorb_below(&mut self, top: u32, own: Epoch) -> (Epoch, u16) {
        let (mut oldest, mut content) = (own, 0);
        let mut stack: Vec<u32> = self.tree.children(top).collect();
        while let Some(at) = stack.pop() {
            let n = &self.tree[at];
            content |= n.flags & (CONTENT | THROUGH);
            if (top == ROOT || self.by_name)
                && n.flags & CONTENT != 0
                && let Some(kind) = n.kind
            {
                let (path, seen) = (self.tree.path_of(at), twins::told_by(kind, n.flags & GONE != 0));
                self.twins.remember(&path, seen);
            }
            if let Some(epoch) = self.clear(at) {
                oldest = oldest.min(epoch);
            }
            if self.tree[at].first_child != NONE {
                stack.extend(self.tree.children(at));
            } else {
                self.prune_up_to(at, top);
            }
        }
        (oldest, content)
    }

    /// Makes a directory's contents pending, and clean what that covers: its children, but not
    /// those that were deleted (a directory may be there again). What was written is covered only
    /// if asked for: the whole level is then compared without trust in times.
    fn level(&mut self, at: u32, epoch: Epoch, with_content: bool) {
        let children: Vec<u32> = self.tree.children(at).collect();
        let (mut oldest, mut content, mut through) = (epoch, 0, 0);
        for child in children {
            self.disturb(child); // this pass would delete the one name and make the other
            let n = &self.tree[child];
            let written = n.flags & CONTENT;
            if n.kind == Some(Kind::Entry) && n.flags & GONE == 0 && (with_content || written == 0) {
                content |= written;
                // Names that were made are not known by their own read any more, either.
                through |= if n.flags & (THROUGH | CONTENT) != 0 { THROUGH } else { 0 };
                oldest = self.clear(child).map_or(oldest, |e| e.min(oldest));
                self.prune_up_to(child, at);
            }
        }
        self.mark(at, Kind::Contents, oldest);
        self.end_wait(at);
        let n = &mut self.tree[at];
        n.flags = n.flags & !FRESH | content | through;
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "set/simulation.rs"]
mod simulation;

#[cfg(test)]
#[path = "set/through_tests.rs"]
mod through_tests;
