//! The dirty set of one target: a tree of path components, so that a directory's deletion absorbs
//! what is pending below in time proportional to what it absorbs, and "is anything above or below
//! in flight" is a walk up, not a search.
//!
//! A node exists while it, or something below it, is pending or in flight. Nodes live in an arena;
//! names are looked up by a hash of (parent, name).

mod bound;
mod cursors;
mod flight;
mod landed;
mod list;
mod look;
mod moves;
mod order;
mod shares;
mod twins;

use std::time::Duration;

use hashbrown::HashTable;

use super::{Epoch, Epochs, Seen};
use crate::hash;
use crate::path::{self, RelPath};
use crate::short::Short;
use cursors::{Cursors, Found};
use landed::Landed;
pub(crate) use moves::Moves;
use moves::Renames;
pub(crate) use order::{LinkRead, Needs};

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
    /// An event said that the file behind this name changed: where it has other names, they changed
    /// too. Of a directory: the same of files in it, which are not pending by themselves any more.
    pub(crate) through: bool,
    /// A long deep run that began earlier passes over this path too and may undo what this batch
    /// does, so it must be sent once more when that run has ended.
    pub(crate) over: Option<BatchId>,
    fresh: bool,
    taken: bool,
    epoch: Epoch,
}

impl Entry {
    fn plain(path: RelPath, epoch: Epoch) -> Entry {
        let (gone, content, held, written, through, fresh, taken) = (false, false, false, false, false, false, false);
        Entry { path, kind: Kind::Entry, gone, content, held, written, through, over: None, fresh, taken, epoch }
    }

    /// Moves the entry out and leaves its path and kind behind, marked as taken.
    pub(crate) fn take(&mut self) -> Entry {
        let whole = self.clone();
        self.taken = true;
        whole
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

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

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
/// What stays when a path becomes dirty, or clean.
const LASTING: u16 = SOFT | ALONE | NOTED;

struct Node {
    parent: u32,
    first_child: u32,
    last_child: u32,
    next: u32,
    prev: u32,
    name: Short,
    epoch: Epoch,
    /// Nodes in flight strictly below.
    flying_below: u32,
    /// The batch that carries this path; 0 = none.
    flying: BatchId,
    kind: Option<Kind>,
    flags: u16,
}

/// Dirty paths of one target. See the module's text for the places a path can be in.
pub struct DirtySet {
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    epochs: Epochs,
    pending: usize,
    subtrees: usize,
    contents: usize,
    waiting: usize,
    max_pending: usize,
    coarsened: u64,
    merged: u64,
    next_batch: BatchId,
    landed: Landed,
    cursors: Cursors,
    twins: twins::Twins,
    renames: Renames,
    /// The last path seen lost its file, and a change had come through it that may not have left:
    /// when that was, at the earliest.
    dropped: Option<Epoch>,
    /// The same of a directory, and changes through names in it.
    absorbed: bool,
    /// What left just now, if it takes such changes along.
    carried: Option<RelPath>,
    /// Files that wait for their closing write, by the time they stop waiting (oldest first).
    holds: std::collections::VecDeque<(Duration, RelPath)>,
    /// The same of paths that are `ABSENT`.
    absences: std::collections::VecDeque<(Duration, RelPath)>,
    absent: usize,
    order: order::Order,
    later: usize,
}

fn hash_of(parent: u32, name: &[u8]) -> u64 {
    hash::of((parent, name))
}

impl DirtySet {
    /// An empty set. Beyond `max_pending` paths, directories are coarsened to `Contents` and then
    /// `Subtree`.
    pub fn new(max_pending: usize) -> DirtySet {
        let root = Node {
            parent: NONE,
            first_child: NONE,
            last_child: NONE,
            next: NONE,
            prev: NONE,
            name: Short::default(),
            epoch: Epoch::default(),
            flying_below: 0,
            flying: 0,
            kind: None,
            flags: 0,
        };
        DirtySet {
            nodes: vec![root],
            free: Vec::new(),
            by_name: HashTable::new(),
            epochs: Epochs::default(),
            pending: 0,
            subtrees: 0,
            contents: 0,
            waiting: 0,
            max_pending: max_pending.max(1),
            coarsened: 0,
            merged: 0,
            next_batch: 0,
            landed: Landed::default(),
            cursors: Cursors::default(),
            twins: Default::default(),
            renames: Renames::default(),
            dropped: None,
            absorbed: false,
            carried: None,
            holds: Default::default(),
            absences: Default::default(),
            absent: 0,
            order: Default::default(),
            later: 0,
        }
    }

    /// Paths that wait to be sent.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Pending paths that [`DirtySet::take_shallow`] or [`DirtySet::take_deep`] could return if
    /// nothing were in flight.
    pub(crate) fn ready(&self, ignore_holds: bool) -> usize {
        let pending = self.pending.saturating_sub(self.absent + self.later);
        if ignore_holds { pending } else { pending.saturating_sub(self.waiting) }
    }

    /// Whether what was seen last took a name from its file through which a change had come, where
    /// that has perhaps not left: when it came, at the earliest. The look of a batch that left may
    /// have met another file under the name, whose coming was not seen yet.
    pub(crate) fn dropped_change(&self) -> Option<Epoch> {
        self.dropped
    }

    /// Whether a subtree is pending.
    pub(crate) fn has_deep(&self) -> bool {
        self.subtrees > 0
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
        while self.absences.front().is_some_and(|(until, _)| *until <= now) {
            let (_, path) = self.absences.pop_front().expect("the front was just looked at");
            if let Some(at) = self.find(&path) {
                self.end_absence(at);
            }
        }
        while self.holds.front().is_some_and(|(until, _)| *until <= now) {
            let (_, path) = self.holds.pop_front().expect("the front was just looked at");
            if let Some(at) = self.find(&path) {
                // A later hold of the same path has a later place in the queue; ending this one
                // early only costs a check.
                self.end_wait(at);
            }
        }
    }

    /// When the next hold ends, as a time since the daemon's start.
    pub(crate) fn next_hold(&self) -> Option<Duration> {
        self.holds.front().into_iter().chain(self.absences.front()).map(|(until, _)| *until).min()
    }

    /// Closes the current epoch for a flush; see [`Epochs::close`].
    pub(crate) fn close_epoch(&mut self) -> Epoch {
        self.epochs.close()
    }

    // ----- tree -----

    fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let nodes = &self.nodes;
        self.by_name
            .find(hash_of(parent, name), |&at| {
                let n = &nodes[at as usize];
                n.parent == parent && *n.name == *name
            })
            .copied()
    }

    /// The same where it is `last`, or, if asked for, the one behind that in its directory.
    fn near(&self, parent: u32, name: &[u8], last: u32, or_next: bool) -> Option<u32> {
        // A place that is free has no name, and one that was given away another name or parent.
        let fits = |n: &Node| n.parent == parent && *n.name == *name;
        let n = self.nodes.get(last as usize)?;
        if fits(n) {
            return Some(last);
        }
        let next = n.next;
        (or_next && self.nodes.get(next as usize).is_some_and(fits)).then_some(next)
    }

    fn find(&self, path: &[u8]) -> Option<u32> {
        let mut at = ROOT;
        for name in components(path) {
            at = self.child(at, name)?;
        }
        Some(at)
    }

    /// Whether the path is pending or in flight, itself or with a directory above it. Attributes of
    /// a directory above that wait say nothing of what is in it; in flight they may belong to more.
    pub(crate) fn owes(&self, path: &[u8]) -> bool {
        let covers = |at: u32, own: bool| {
            let n = &self.nodes[at as usize];
            n.flying != 0 || n.kind.is_some_and(|kind| own || kind > Kind::Entry)
        };
        let mut at = ROOT;
        for name in components(path) {
            if covers(at, false) {
                return true;
            }
            match self.child(at, name) {
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
            if self.nodes[at as usize].flying != 0 {
                return true;
            }
            match self.child(at, name) {
                Some(child) => at = child,
                None => return false,
            }
        }
        self.nodes[at as usize].flying != 0
    }

    /// Whether something in the directory `path` is pending or in flight, or below one of its
    /// directories.
    pub(crate) fn owes_in(&self, path: &[u8]) -> bool {
        // Nodes are there for that alone.
        self.find(path).is_some_and(|at| self.nodes[at as usize].first_child != NONE)
    }

    fn make_child(&mut self, parent: u32, name: &[u8]) -> u32 {
        let prev = self.nodes[parent as usize].last_child;
        let node = Node {
            parent,
            first_child: NONE,
            last_child: NONE,
            next: NONE,
            prev,
            name: name.into(),
            epoch: Epoch::default(),
            flying_below: 0,
            flying: 0,
            kind: None,
            flags: 0,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        if prev == NONE {
            self.nodes[parent as usize].first_child = at;
        } else {
            self.nodes[prev as usize].next = at;
        }
        self.nodes[parent as usize].last_child = at;
        let nodes = &self.nodes;
        self.by_name.insert_unique(hash_of(parent, name), at, |&at| {
            let n = &nodes[at as usize];
            hash_of(n.parent, &n.name)
        });
        at
    }

    /// Takes nodes out of the tree from `at` upwards, as long as nothing needs them.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT {
            let n = &self.nodes[at as usize];
            if n.kind.is_some() || n.flying != 0 || n.first_child != NONE {
                return;
            }
            let parent = n.parent;
            self.unlink(at);
            at = parent;
        }
    }

    fn unlink(&mut self, at: u32) {
        let (parent, prev, next, hash) = {
            let n = &self.nodes[at as usize];
            (n.parent, n.prev, n.next, hash_of(n.parent, &n.name))
        };
        match prev {
            NONE => self.nodes[parent as usize].first_child = next,
            p => self.nodes[p as usize].next = next,
        }
        match next {
            NONE => self.nodes[parent as usize].last_child = prev,
            n => self.nodes[n as usize].prev = prev,
        }
        if let Ok(slot) = self.by_name.find_entry(hash, |&x| x == at) {
            slot.remove();
        }
        if self.nodes[at as usize].flags & NOTED != 0 {
            self.cursors.lose();
        }
        self.nodes[at as usize].name = Short::default();
        self.free.push(at);
        if self.free.len() > 1024 && self.free.len() == self.nodes.len() - 1 {
            // All but the root are free: give the memory of a past burst back.
            *self = DirtySet {
                epochs: std::mem::take(&mut self.epochs),
                holds: std::mem::take(&mut self.holds),
                absences: std::mem::take(&mut self.absences),
                dropped: self.dropped,
                absorbed: self.absorbed,
                carried: self.carried.take(),
                landed: std::mem::take(&mut self.landed),
                twins: std::mem::take(&mut self.twins),
                order: std::mem::take(&mut self.order),
                renames: std::mem::take(&mut self.renames),
                nodes: {
                    self.nodes.truncate(1);
                    self.nodes.shrink_to_fit();
                    std::mem::take(&mut self.nodes)
                },
                pending: self.pending,
                subtrees: self.subtrees,
                contents: self.contents,
                waiting: self.waiting,
                coarsened: self.coarsened,
                merged: self.merged,
                next_batch: self.next_batch,
                ..DirtySet::new(self.max_pending)
            };
        }
    }

    fn path_of(&self, mut at: u32) -> RelPath {
        let mut chain = Vec::new();
        while at != ROOT {
            chain.push(at);
            at = self.nodes[at as usize].parent;
        }
        let mut out = Vec::new();
        for &at in chain.iter().rev() {
            path::push(&mut out, &self.nodes[at as usize].name);
        }
        RelPath::from_normal(out)
    }

    // ----- becoming dirty and clean -----

    fn tally(&mut self, kind: Kind, by: isize) {
        let add = |n: &mut usize| *n = n.wrapping_add_signed(by);
        add(&mut self.pending);
        match kind {
            Kind::Entry => {}
            Kind::Contents => add(&mut self.contents),
            Kind::Subtree => add(&mut self.subtrees),
        }
    }

    fn end_absence(&mut self, at: u32) {
        let flags = &mut self.nodes[at as usize].flags;
        self.absent -= usize::from(*flags & ABSENT != 0);
        *flags &= !ABSENT;
        self.end_later(at);
    }

    fn end_wait(&mut self, at: u32) {
        self.end_absence(at);
        let n = &mut self.nodes[at as usize];
        if n.flags & WAITS != 0 {
            self.waiting -= 1;
        }
        n.flags &= !(WAITS | OPEN);
    }

    /// Makes `at` pending with at least `kind`; counted since `epoch` if it was clean.
    fn mark(&mut self, at: u32, kind: Kind, epoch: Epoch) {
        if kind == Kind::Subtree {
            self.cursors.lose();
        }
        match self.nodes[at as usize].kind {
            None => {
                self.epochs.add(epoch);
                let n = &mut self.nodes[at as usize];
                n.kind = Some(kind);
                n.epoch = epoch;
                n.flags &= LASTING;
                self.tally(kind, 1);
            }
            Some(old) => {
                if epoch < self.nodes[at as usize].epoch {
                    self.epochs.remove(self.nodes[at as usize].epoch);
                    self.epochs.add(epoch);
                    self.nodes[at as usize].epoch = epoch;
                }
                if kind > old {
                    self.tally(old, -1);
                    self.tally(kind, 1);
                    self.nodes[at as usize].kind = Some(kind);
                }
            }
        }
    }

    /// Makes `at` clean again and returns its epoch, which is no longer counted.
    fn clear(&mut self, at: u32) -> Option<Epoch> {
        let kind = self.nodes[at as usize].kind.take()?;
        self.renames.forget_left();
        if self.nodes[at as usize].flags & PAIRED != 0 {
            self.unpair(at);
        }
        self.end_wait(at);
        self.nodes[at as usize].flags &= LASTING;
        self.tally(kind, -1);
        let epoch = self.nodes[at as usize].epoch;
        self.epochs.remove(epoch);
        Some(epoch)
    }

    /// Clears all that is pending strictly below `top` (what is in flight stays). Returns the
    /// oldest epoch among it and `own`, and those of `CONTENT` and `THROUGH` that something among
    /// it had.
    fn absorb_below(&mut self, top: u32, own: Epoch) -> (Epoch, u16) {
        let (mut oldest, mut content) = (own, 0);
        let mut stack: Vec<u32> = self.children(top).collect();
        while let Some(at) = stack.pop() {
            let n = &self.nodes[at as usize];
            content |= n.flags & (CONTENT | THROUGH);
            if top == ROOT
                && n.flags & CONTENT != 0
                && let Some(kind) = n.kind
            {
                let (path, seen) = (self.path_of(at), twins::told_by(kind, n.flags & GONE != 0));
                self.twins.remember(&path, seen);
            }
            if let Some(epoch) = self.clear(at) {
                oldest = oldest.min(epoch);
            }
            if self.nodes[at as usize].first_child != NONE {
                stack.extend(self.children(at));
            } else {
                self.prune_up_to(at, top);
            }
        }
        (oldest, content)
    }

    /// Like [`DirtySet::prune`], but leaves `top` in place even if nothing needs it.
    fn prune_up_to(&mut self, mut at: u32, top: u32) {
        while at != top && at != ROOT {
            let n = &self.nodes[at as usize];
            if n.kind.is_some() || n.flying != 0 || n.first_child != NONE {
                return;
            }
            let parent = n.parent;
            self.unlink(at);
            at = parent;
        }
    }

    fn children(&self, of: u32) -> Children<'_> {
        Children { nodes: &self.nodes, next: self.nodes[of as usize].first_child }
    }

    /// Takes in that `seen` happened to `path` just now.
    pub fn see(&mut self, path: &[u8], seen: Seen) {
        let before = self.pending;
        self.see_since(path, seen, self.epochs.current());
        self.merged += u64::from(self.pending <= before);
    }

    /// Takes in that `seen` happened to `path`, as part of a change from `epoch`: a caller that
    /// waits for that waits for this too.
    pub(crate) fn see_since(&mut self, path: &[u8], seen: Seen, epoch: Epoch) {
        let half = self.half_of_rename(path, seen);
        let carried = std::mem::take(&mut self.carried);
        self.see_plain(path, seen.plain(), epoch);
        match seen {
            Seen::LeftDir | Seen::GoneDir if self.absorbed => {
                self.set_flag(path, THROUGH, true);
                self.carried = Some(RelPath::from_normal(path)).filter(|_| seen == Seen::LeftDir);
            }
            Seen::ArrivedDir => {
                if let Some(old) = carried {
                    self.set_flag(&old, THROUGH, false);
                    self.set_flag(path, THROUGH, true);
                }
            }
            _ => {}
        }
        if let Some(half) = half {
            self.pair(path, half);
        }
    }

    fn set_flag(&mut self, path: &[u8], flag: u16, on: bool) {
        if let Some(at) = self.find(path).filter(|&at| self.nodes[at as usize].kind.is_some()) {
            let flags = &mut self.nodes[at as usize].flags;
            *flags = if on { *flags | flag } else { *flags & !flag };
        }
    }

    /// `path` is another name of a file that changed at `epoch` through one of its names;
    /// `content`: it was written, too.
    pub(crate) fn see_other_name(&mut self, path: &[u8], content: bool, epoch: Epoch) {
        let own = self.find(path).is_some_and(|at| self.nodes[at as usize].flags & THROUGH != 0);
        // Whether one that is still open waits for its close is for its own events to say.
        self.see_plain(path, if content { Seen::Modified } else { Seen::Touched }, epoch);
        if !own && let Some(at) = self.find(path) {
            self.nodes[at as usize].flags &= !THROUGH;
        }
    }

    fn see_plain(&mut self, path: &[u8], seen: Seen, epoch: Epoch) {
        (self.dropped, self.absorbed) = (None, false);
        let loses = matches!(seen, Seen::Gone | Seen::GoneDir | Seen::Replaced);
        let changed = if matches!(seen, Seen::Written | Seen::Replaced | Seen::Modified | Seen::Touched) { THROUGH } else { 0 };
        let start = self.cursors.start(path);
        let Found { mut at, mut flying_above, last, in_turn } = start.found;
        let mut above_parent = flying_above;
        let mut of_parent: Option<(Option<Kind>, bool, Epoch)> = None;
        for name in components(start.rest) {
            self.disturb(at);
            let n = &self.nodes[at as usize];
            above_parent = flying_above;
            if n.kind == Some(Kind::Subtree) {
                self.dropped = (loses && n.flags & THROUGH != 0).then_some(n.epoch);
                if n.flags & CONTENT == 0 {
                    self.twins.remember(path, seen);
                }
                self.nodes[at as usize].flags |= changed;
                return self.mark(at, Kind::Subtree, epoch);
            }
            of_parent = Some((n.kind, n.flags & THROUGH != 0, n.epoch));
            flying_above |= n.flying != 0 && n.flags & ALONE == 0;
            at = match self.near(at, name, last, in_turn).or_else(|| self.child(at, name)) {
                Some(child) => child,
                None => self.make_child(at, name),
            };
        }
        let parent = self.nodes[at as usize].parent;
        if parent == start.found.at {
            let neighbour = self.nodes.get(last as usize).is_some_and(|n| n.next == at);
            self.cursors.passed(&start, at, neighbour || in_turn && last == at);
        } else if at != ROOT && parent != ROOT {
            let found = Found { at: parent, flying_above: above_parent, last: at, in_turn: false };
            self.cursors.set(path::parent(path).unwrap_or_default(), found);
            self.nodes[parent as usize].flags |= NOTED;
        }
        self.disturb(at);
        let n = &self.nodes[at as usize];
        if n.kind == Some(Kind::Subtree) {
            // Already to be compared whole. Of one that is gone now, too: the entry's state when
            // the batch leaves counts.
            self.absorbed = n.flags & THROUGH != 0;
            self.dropped = (loses && self.absorbed).then_some(n.epoch);
            return self.mark(at, Kind::Subtree, epoch);
        }
        let (was, was_fresh, has_children) = (n.kind, n.flags & FRESH != 0, n.first_child != NONE);
        let (in_flight, through) = (n.flying != 0 || flying_above, (n.flags & THROUGH != 0).then_some(n.epoch));
        if loses {
            let above = of_parent.filter(|of| of.0 == Some(Kind::Contents) && of.1).map(|of| of.2);
            let sent = || (in_flight || self.landed.covers(path)).then(|| self.oldest());
            self.dropped = through.into_iter().chain(above).min().or_else(sent);
        }
        let n = &self.nodes[at as usize];
        let unknown_to_target = matches!(seen, Seen::Created | Seen::CreatedDir)
            && was.is_none()
            && n.flying == 0
            && !flying_above
            && !self.landed.covers(path);
        let covered_by_parent = of_parent.is_some_and(|of| of.0 == Some(Kind::Contents));
        match seen {
            Seen::Touched | Seen::Gone if covered_by_parent && was.is_none() && (seen == Seen::Touched || !has_children) => {
                let parent = self.nodes[at as usize].parent;
                self.mark(parent, Kind::Contents, epoch);
                self.nodes[parent as usize].flags |= changed;
                self.prune(at);
            }
            Seen::Written | Seen::Replaced => {
                self.mark(at, Kind::Entry, epoch);
                self.end_wait(at);
                let n = &mut self.nodes[at as usize];
                n.flags |= CONTENT | THROUGH | WRITTEN;
                if seen == Seen::Replaced {
                    n.flags &= !FRESH; // what leaves next may be the other half of an exchange
                }
            }
            Seen::Modified => {
                // One that has just been created goes on waiting for its close.
                self.mark(at, Kind::Entry, epoch);
                self.nodes[at as usize].flags |= CONTENT | THROUGH | WRITTEN;
            }
            Seen::Touched => {
                self.mark(at, Kind::Entry, epoch);
                self.nodes[at as usize].flags |= THROUGH;
            }
            Seen::Created => {
                self.mark(at, Kind::Entry, epoch);
                self.nodes[at as usize].flags |= OPEN | CONTENT | if unknown_to_target && !has_children { FRESH } else { 0 };
            }
            Seen::CreatedDir if unknown_to_target && !has_children => {
                self.mark(at, Kind::Entry, epoch);
                self.nodes[at as usize].flags |= FRESH;
            }
            Seen::CreatedDir | Seen::MovedDir | Seen::Subtree => {
                let (below, flags) = self.absorb_below(at, epoch);
                let (mut content, mut through) = (flags & CONTENT, flags & THROUGH);
                if at == ROOT {
                    through = 0; // every name is in it
                    content = 0; // to take nothing in the whole tree for the same would cost too much; see `twins`
                } else if seen != Seen::Subtree {
                    // Another directory under a name that the target has: what looks the same in it
                    // may not be.
                    content = CONTENT;
                } else {
                    through = THROUGH; // who knows what changed in it
                }
                self.mark(at, Kind::Subtree, below);
                self.end_wait(at);
                let n = &mut self.nodes[at as usize];
                n.flags = n.flags & !(FRESH | GONE) | content | through;
            }
            Seen::Gone | Seen::GoneDir if was_fresh && was == Some(Kind::Entry) => {
                // It came and went within one window; only its parent's times show it.
                let (below, flags) = self.absorb_below(at, epoch);
                self.absorbed = flags & THROUGH != 0;
                self.dropped = self.dropped.or(self.absorbed.then_some(below));
                let own = self.clear(at).unwrap_or(epoch);
                let parent = self.nodes[at as usize].parent;
                self.prune_up_to(at, parent);
                self.mark(parent, Kind::Entry, below.min(own));
            }
            Seen::Gone | Seen::GoneDir => {
                // What comes here after a deletion may look like what was deleted.
                let (below, flags) = self.absorb_below(at, epoch);
                let own = if was > Some(Kind::Entry) { self.nodes[at as usize].flags } else { 0 };
                self.absorbed = (flags | own) & THROUGH != 0;
                self.dropped = self.dropped.or(self.absorbed.then_some(below));
                self.mark(at, Kind::Entry, below);
                self.end_wait(at);
                let n = &mut self.nodes[at as usize];
                n.flags = n.flags & !(FRESH | THROUGH) | GONE | CONTENT;
            }
            Seen::Contents => self.level(at, epoch, false),
            Seen::Left | Seen::LeftDir | Seen::Arrived | Seen::ArrivedDir | Seen::DirTimes => unreachable!("made plain before"),
        }
        if self.pending > self.max_pending {
            self.coarsen();
        }
    }

    /// When the oldest change came that may be on its way, or have left a moment ago.
    fn oldest(&self) -> Epoch {
        let current = self.epochs.current();
        self.epochs.oldest().into_iter().chain(self.landed.oldest()).min().unwrap_or(current)
    }

    /// Makes a directory's contents pending, and clean what that covers: its children, but not
    /// those that were deleted (a directory may be there again). What was written is covered only
    /// if asked for: the whole level is then compared without trust in times.
    fn level(&mut self, at: u32, epoch: Epoch, with_content: bool) {
        let children: Vec<u32> = self.children(at).collect();
        let (mut oldest, mut content, mut through) = (epoch, 0, 0);
        for child in children {
            self.disturb(child); // this pass would delete the one name and make the other
            let n = &self.nodes[child as usize];
            let written = n.flags & CONTENT;
            if n.kind == Some(Kind::Entry) && n.flags & GONE == 0 && (with_content || written == 0) {
                content |= written;
                // Names that were made are not known by their own look any more, either.
                through |= if n.flags & (THROUGH | CONTENT) != 0 { THROUGH } else { 0 };
                oldest = self.clear(child).map_or(oldest, |e| e.min(oldest));
                self.prune_up_to(child, at);
            }
        }
        self.mark(at, Kind::Contents, oldest);
        self.end_wait(at);
        let n = &mut self.nodes[at as usize];
        n.flags = n.flags & !FRESH | content | through;
    }
}

struct Children<'a> {
    nodes: &'a [Node],
    next: u32,
}

impl Iterator for Children<'_> {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        if self.next == NONE {
            return None;
        }
        let at = self.next;
        self.next = self.nodes[at as usize].next;
        Some(at)
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|c| !c.is_empty())
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "set/through_tests.rs"]
mod through_tests;
