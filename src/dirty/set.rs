//! The dirty set of one target: a tree of path components, so that a directory's deletion absorbs what is pending below
//! in time proportional to what it absorbs, and "is anything above or below in flight" is a walk up, not a search.
//!
//! A node exists while it, or something below it, is pending or in flight. Nodes live in an arena; names are looked up
//! by a hash of (parent, name).

use std::hash::{Hash, Hasher};
use std::time::Duration;

use hashbrown::HashTable;
use rustc_hash::{FxHashSet, FxHasher};

use super::{Epoch, Epochs, Seen};
use crate::path::{self, RelPath};

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
pub type BatchId = u32;

/// One path of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the watch root.
    pub path: RelPath,
    /// How much of it is to be compared.
    pub kind: Kind,
    /// It was deleted or moved away in this window. If a directory is found there after all, it is another one and must
    /// be compared whole.
    pub gone: bool,
    /// Its content may be another although size and times are the same: it was written or moved here, and not only touched.
    pub content: bool,
    /// It appeared and no closing write has been seen yet: a regular file waits.
    pub held: bool,
    /// A long deep run that began earlier passes over this path too and may undo what this batch does, so it must be sent once
    /// more when that run has ended.
    pub over: Option<BatchId>,
    fresh: bool,
    taken: bool,
    epoch: Epoch,
}

impl Entry {
    /// Moves the entry out and leaves its path and kind behind, marked as taken.
    pub fn take(&mut self) -> Entry {
        let whole = self.clone();
        self.taken = true;
        whole
    }

    /// When it became dirty, as a time since the daemon's start; to within an epoch.
    pub fn since(&self) -> Duration {
        self.epoch.begins()
    }

    /// The epoch it became dirty in.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether [`Entry::take`] moved it out: what is left counts nowhere.
    pub fn is_taken(&self) -> bool {
        self.taken
    }
}

/// Paths that leave together. Returned to the set by [`DirtySet::confirm`] or [`DirtySet::restore`].
#[derive(Debug)]
pub struct Batch {
    /// Unique among the batches of this set.
    pub id: BatchId,
    /// In no useful order; distinct paths.
    pub entries: Vec<Entry>,
    /// How often these entries have failed together.
    pub round: u32,
}

/// Bounds for [`DirtySet::take_shallow`] and [`DirtySet::take_deep`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most paths in the batch.
    pub max_paths: usize,
    /// Take files that wait for their closing write as well (a flush).
    pub ignore_holds: bool,
}

/// New files in a directory before it is asked whether to compare its level instead.
pub const LEVEL_MIN: usize = 50;

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// Created in this window under a name that the target cannot know: if it goes again before it left, nothing is to do.
const FRESH: u8 = 1;
const GONE: u8 = 2;
/// Created, no closing write seen.
const OPEN: u8 = 4;
/// `OPEN`, and the caller found a regular file there: not to be taken before its time.
const WAITS: u8 = 8;
/// The batch in flight here is a long deep run: others may pass below it.
const SOFT: u8 = 16;
/// Written or moved here; see [`Entry::content`].
const CONTENT: u8 = 32;

struct Node {
    parent: u32,
    first_child: u32,
    last_child: u32,
    next: u32,
    prev: u32,
    name: Box<[u8]>,
    epoch: Epoch,
    /// Nodes in flight strictly below.
    flying_below: u32,
    /// The batch that carries this path; 0 = none.
    flying: BatchId,
    kind: Option<Kind>,
    flags: u8,
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
    next_batch: BatchId,
    landed: Landed,
    /// Files that wait for their closing write, by the time they stop waiting (oldest first).
    holds: std::collections::VecDeque<(Duration, RelPath)>,
}

fn hash_of(parent: u32, name: &[u8]) -> u64 {
    let mut h = FxHasher::default();
    parent.hash(&mut h);
    name.hash(&mut h);
    h.finish()
}

impl DirtySet {
    /// An empty set. Beyond `max_pending` paths, directories are coarsened to `Contents` and then `Subtree`.
    pub fn new(max_pending: usize) -> DirtySet {
        let root = Node {
            parent: NONE,
            first_child: NONE,
            last_child: NONE,
            next: NONE,
            prev: NONE,
            name: Box::default(),
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
            next_batch: 0,
            landed: Landed::default(),
            holds: Default::default(),
        }
    }

    /// Paths that wait to be sent.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Pending paths that [`DirtySet::take_shallow`] or [`DirtySet::take_deep`] could return if nothing were in flight.
    pub fn ready(&self, ignore_holds: bool) -> usize {
        if ignore_holds { self.pending } else { self.pending - self.waiting }
    }

    /// Whether a subtree is pending.
    pub fn has_deep(&self) -> bool {
        self.subtrees > 0
    }

    /// Whether the whole tree is pending.
    pub fn whole_tree_pending(&self) -> bool {
        self.nodes[ROOT as usize].kind == Some(Kind::Subtree)
    }

    /// Pending paths of kind `Contents`.
    pub fn has_contents(&self) -> bool {
        self.contents > 0
    }

    /// How often the bound on pending paths made directories coarser.
    pub fn coarsened(&self) -> u64 {
        self.coarsened
    }

    /// Age bookkeeping of everything that is not confirmed, in flight and waiting to be tried again included.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Tells the time (since the daemon's start); files whose hold ends by then become ready.
    pub fn tick(&mut self, now: Duration) {
        self.epochs.tick(now);
        while self.holds.front().is_some_and(|(until, _)| *until <= now) {
            let (_, path) = self.holds.pop_front().expect("the front was just looked at");
            if let Some(at) = self.find(&path) {
                // A later hold of the same path has a later place in the queue; ending this one early only costs a look.
                self.end_wait(at);
            }
        }
    }

    /// When the next hold ends, as a time since the daemon's start.
    pub fn next_hold(&self) -> Option<Duration> {
        self.holds.front().map(|(until, _)| *until)
    }

    /// Closes the current epoch for a flush; see [`Epochs::close`].
    pub fn close_epoch(&mut self) -> Epoch {
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

    fn find(&self, path: &[u8]) -> Option<u32> {
        let mut at = ROOT;
        for name in components(path) {
            at = self.child(at, name)?;
        }
        Some(at)
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
        self.nodes[at as usize].name = Box::default();
        self.free.push(at);
        if self.free.len() > 1024 && self.free.len() == self.nodes.len() - 1 {
            // All but the root are free: give the memory of a past burst back.
            *self = DirtySet {
                epochs: std::mem::take(&mut self.epochs),
                holds: std::mem::take(&mut self.holds),
                landed: std::mem::take(&mut self.landed),
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

    fn end_wait(&mut self, at: u32) {
        let n = &mut self.nodes[at as usize];
        if n.flags & WAITS != 0 {
            self.waiting -= 1;
        }
        n.flags &= !(WAITS | OPEN);
    }

    /// Makes `at` pending with at least `kind`; counted since `epoch` if it was clean.
    fn mark(&mut self, at: u32, kind: Kind, epoch: Epoch) {
        match self.nodes[at as usize].kind {
            None => {
                self.epochs.add(epoch);
                let n = &mut self.nodes[at as usize];
                n.kind = Some(kind);
                n.epoch = epoch;
                n.flags &= SOFT;
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

    /// Makes `at` clean again and tells its epoch, which is no longer counted.
    fn clear(&mut self, at: u32) -> Option<Epoch> {
        let kind = self.nodes[at as usize].kind.take()?;
        self.end_wait(at);
        self.nodes[at as usize].flags &= SOFT;
        self.tally(kind, -1);
        let epoch = self.nodes[at as usize].epoch;
        self.epochs.remove(epoch);
        Some(epoch)
    }

    /// Clears all that is pending strictly below `top` (what is in flight stays). Tells the oldest epoch among it and `own`,
    /// and `CONTENT` if something among it had that flag.
    fn absorb_below(&mut self, top: u32, own: Epoch) -> (Epoch, u8) {
        let (mut oldest, mut content) = (own, 0);
        let mut stack: Vec<u32> = self.children(top).collect();
        while let Some(at) = stack.pop() {
            content |= self.nodes[at as usize].flags & CONTENT;
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
        self.see_since(path, seen, self.epochs.current());
    }

    /// Takes in that `seen` happened to `path`, as part of a change from `epoch`: whoever waits for that waits for this too.
    pub fn see_since(&mut self, path: &[u8], seen: Seen, epoch: Epoch) {
        let mut at = ROOT;
        let mut flying_above = false;
        let mut parent_kind = None;
        for name in components(path) {
            let n = &self.nodes[at as usize];
            if n.kind == Some(Kind::Subtree) {
                return self.mark(at, Kind::Subtree, epoch);
            }
            parent_kind = n.kind;
            flying_above |= n.flying != 0;
            at = match self.child(at, name) {
                Some(child) => child,
                None => self.make_child(at, name),
            };
        }
        let n = &self.nodes[at as usize];
        if n.kind == Some(Kind::Subtree) {
            // Already to be compared whole. Of one that is gone now, too: what is there counts when the batch leaves.
            return self.mark(at, Kind::Subtree, epoch);
        }
        let (was, was_fresh, has_children) = (n.kind, n.flags & FRESH != 0, n.first_child != NONE);
        let unknown_to_target = was.is_none() && n.flying == 0 && !flying_above && !self.landed.covers(path);
        let covered_by_parent = parent_kind == Some(Kind::Contents);
        match seen {
            Seen::Touched | Seen::Gone if covered_by_parent && was.is_none() && (seen == Seen::Touched || !has_children) => {
                self.mark(self.nodes[at as usize].parent, Kind::Contents, epoch);
                self.prune(at);
            }
            Seen::Written => {
                self.mark(at, Kind::Entry, epoch);
                self.end_wait(at);
                self.nodes[at as usize].flags |= CONTENT;
            }
            Seen::Touched => self.mark(at, Kind::Entry, epoch),
            Seen::Created => {
                self.mark(at, Kind::Entry, epoch);
                self.nodes[at as usize].flags |= OPEN | CONTENT | if unknown_to_target && !has_children { FRESH } else { 0 };
            }
            Seen::CreatedDir if unknown_to_target && !has_children => {
                self.mark(at, Kind::Entry, epoch);
                self.nodes[at as usize].flags |= FRESH;
            }
            Seen::CreatedDir | Seen::MovedDir | Seen::Subtree => {
                let (below, mut content) = self.absorb_below(at, epoch);
                if at == ROOT {
                    content = 0; // to take nothing in the whole tree for the same would cost more than it is worth
                } else if seen != Seen::Subtree {
                    // Another directory under a name that the target has: what looks the same in it may not be.
                    content = CONTENT;
                }
                self.mark(at, Kind::Subtree, below);
                self.end_wait(at);
                let n = &mut self.nodes[at as usize];
                n.flags = n.flags & !(FRESH | GONE) | content;
            }
            Seen::Gone | Seen::GoneDir if was_fresh && was == Some(Kind::Entry) => {
                // It came and went within one window; only its parent's times tell of it.
                let (below, _) = self.absorb_below(at, epoch);
                let own = self.clear(at).unwrap_or(epoch);
                let parent = self.nodes[at as usize].parent;
                self.prune_up_to(at, parent);
                self.mark(parent, Kind::Entry, below.min(own));
            }
            Seen::Gone | Seen::GoneDir => {
                // What comes here after a deletion may look like what was deleted.
                let (below, _) = self.absorb_below(at, epoch);
                self.mark(at, Kind::Entry, below);
                self.end_wait(at);
                let n = &mut self.nodes[at as usize];
                n.flags = n.flags & !FRESH | GONE | CONTENT;
            }
            Seen::Contents => self.level(at, epoch, false),
        }
        if self.pending > self.max_pending {
            self.coarsen();
        }
    }

    /// Makes a directory's contents pending, and clean what that covers: its children, but not those that were deleted (a
    /// directory may be there again). What was written is covered only if asked for: the whole level is then compared without
    /// trust in times.
    fn level(&mut self, at: u32, epoch: Epoch, with_content: bool) {
        let children: Vec<u32> = self.children(at).collect();
        let (mut oldest, mut content) = (epoch, 0);
        for child in children {
            let n = &self.nodes[child as usize];
            let written = n.flags & CONTENT;
            if n.kind == Some(Kind::Entry) && n.flags & GONE == 0 && (with_content || written == 0) {
                content |= written;
                oldest = self.clear(child).map_or(oldest, |e| e.min(oldest));
                self.prune_up_to(child, at);
            }
        }
        self.mark(at, Kind::Contents, oldest);
        self.end_wait(at);
        let n = &mut self.nodes[at as usize];
        n.flags = n.flags & !FRESH | content;
    }

    // ----- batches -----

    /// Takes pending `Entry` and `Contents` paths that touch nothing in flight. `None` when there are none.
    ///
    /// `by_level(directory, n)` is asked about directories with at least [`LEVEL_MIN`] new, complete files whether these `n`
    /// had better be found by a comparison of its whole level than be listed.
    pub fn take_shallow(&mut self, limits: Limits, by_level: &mut dyn FnMut(&RelPath, usize) -> bool) -> Option<Batch> {
        self.take(limits, false, by_level)
    }

    /// Takes pending `Subtree` paths that touch nothing in flight. `None` when there are none. The whole tree comes alone.
    pub fn take_deep(&mut self, limits: Limits) -> Option<Batch> {
        if self.subtrees == 0 {
            return None;
        }
        self.take(limits, true, &mut |_, _| false)
    }

    fn take(&mut self, limits: Limits, deep: bool, by_level: &mut dyn FnMut(&RelPath, usize) -> bool) -> Option<Batch> {
        if self.ready(limits.ignore_holds) == 0 {
            return None;
        }
        let mut picked: Vec<(u32, Option<BatchId>)> = Vec::new();
        let mut stack: Vec<(u32, Option<BatchId>)> = vec![(ROOT, None)];
        while let Some((at, mut over)) = stack.pop() {
            let n = &self.nodes[at as usize];
            if n.flying != 0 {
                if n.flags & SOFT == 0 || n.flags & GONE != 0 || n.kind.is_some_and(|k| k > Kind::Entry) {
                    continue; // in flight; and what became dirty again waits for its turn, with all below it
                }
                over = Some(n.flying);
            }
            let mut descend = n.first_child != NONE;
            if descend && !deep && n.flying == 0 && n.flying_below == 0 && over.is_none() {
                self.try_level(at, by_level);
            }
            let n = &self.nodes[at as usize];
            if let Some(kind) = n.kind {
                let whole_tree = at == ROOT && kind == Kind::Entry; // attributes of the root travel with every batch
                if n.flying_below > 0 && !whole_tree {
                    continue; // so that it cannot starve, nothing below it leaves any more
                }
                let waits = n.flags & WAITS != 0 && !limits.ignore_holds || n.flying != 0 && at != ROOT;
                if (kind == Kind::Subtree) == deep && !waits {
                    picked.push((at, over));
                }
                descend &= kind != Kind::Subtree;
            }
            if picked.len() >= limits.max_paths {
                break;
            }
            if descend {
                let from = stack.len();
                stack.extend(Children { nodes: &self.nodes, next: n.first_child }.map(|c| (c, over)));
                stack[from..].reverse();
            }
        }
        if picked.is_empty() {
            return None;
        }
        let id = self.new_batch_id();
        let entries = picked.into_iter().map(|(at, over)| self.lift(at, id, over)).collect();
        Some(Batch { id, entries, round: 0 })
    }

    /// Turns a directory with many new files into one comparison of its level, if `by_level` says so. All of them must be new
    /// to the target: then nothing there can look the same and be another; and complete: the comparison sends what it finds.
    fn try_level(&mut self, at: u32, by_level: &mut dyn FnMut(&RelPath, usize) -> bool) {
        let mut new = 0;
        for child in self.children(at) {
            let n = &self.nodes[child as usize];
            match n.kind {
                Some(Kind::Entry) if n.flags & OPEN != 0 => return,
                Some(Kind::Entry) if n.flags & FRESH != 0 && n.first_child == NONE => new += 1,
                _ => {}
            }
        }
        if new < LEVEL_MIN || !by_level(&self.path_of(at), new) {
            return;
        }
        let fresh: Vec<u32> = self
            .children(at)
            .filter(|&c| {
                let n = &self.nodes[c as usize];
                n.kind == Some(Kind::Entry) && n.flags & FRESH != 0 && n.first_child == NONE
            })
            .collect();
        let mut oldest = self.epochs.current();
        for child in fresh {
            oldest = self.clear(child).map_or(oldest, |e| e.min(oldest));
            self.prune_up_to(child, at);
        }
        self.mark(at, Kind::Contents, oldest);
    }

    fn new_batch_id(&mut self) -> BatchId {
        self.next_batch = self.next_batch.checked_add(1).unwrap_or(1);
        self.next_batch
    }

    /// Moves one pending path into batch `id`. Its epoch stays counted.
    fn lift(&mut self, at: u32, id: BatchId, over: Option<BatchId>) -> Entry {
        let path = self.path_of(at);
        let n = &self.nodes[at as usize];
        let entry = Entry {
            path,
            kind: n.kind.expect("only pending paths are lifted"),
            gone: n.flags & GONE != 0,
            content: n.flags & CONTENT != 0,
            held: n.flags & OPEN != 0,
            over,
            fresh: n.flags & FRESH != 0,
            taken: false,
            epoch: n.epoch,
        };
        let epoch = self.clear(at).expect("it was pending");
        self.epochs.add(epoch);
        self.fly(at, id, entry.kind);
        entry
    }

    fn fly(&mut self, at: u32, id: BatchId, kind: Kind) {
        debug_assert!(self.nodes[at as usize].flying == 0 || at == ROOT);
        // What lies above travels too: as a directory that is implied, or in place of the path where it is none any more.
        let mut above = at;
        while above != ROOT {
            above = self.nodes[above as usize].parent;
            self.nodes[above as usize].flags &= !FRESH;
        }
        if kind > Kind::Entry {
            // And so may what is below, although it is pending by itself.
            let mut below: Vec<u32> = self.children(at).collect();
            while let Some(at) = below.pop() {
                self.nodes[at as usize].flags &= !FRESH;
                below.extend(self.children(at));
            }
        }
        if self.nodes[at as usize].flying != 0 {
            return; // the root's attributes under a whole-tree pass: that pass keeps the place
        }
        self.nodes[at as usize].flying = id;
        self.count_flying(at, 1);
    }

    fn count_flying(&mut self, mut at: u32, by: i32) {
        while at != ROOT {
            at = self.nodes[at as usize].parent;
            let n = &mut self.nodes[at as usize];
            n.flying_below = n.flying_below.checked_add_signed(by).expect("what lands was in flight");
        }
    }

    fn land(&mut self, path: &[u8], id: BatchId) {
        let Some(at) = self.find(path) else { return };
        if self.nodes[at as usize].flying != id {
            return;
        }
        self.nodes[at as usize].flying = 0;
        self.nodes[at as usize].flags &= !SOFT;
        self.count_flying(at, -1);
        self.prune(at);
    }

    /// Lets other batches pass below the paths of `batch`, a deep run that takes long. What they carry must be sent again
    /// after it ([`Entry::over`]).
    pub fn soften(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            if let Some(at) = self.find(&entry.path)
                && self.nodes[at as usize].flying == batch.id
                && self.nodes[at as usize].flags & SOFT == 0
            {
                self.nodes[at as usize].flags |= SOFT;
            }
        }
    }

    /// The target holds `entries` of batch `id`: they are done. Those that a longer run may undo
    /// ([`Entry::over`]) are returned, and stay counted: restore them when that run has ended.
    pub fn confirm(&mut self, id: BatchId, entries: Vec<Entry>) -> Vec<Entry> {
        let mut again = Vec::new();
        for entry in entries {
            self.landed.add(&entry);
            self.land(&entry.path, id);
            if entry.over.is_some() {
                again.push(entry);
            } else {
                self.epochs.remove(entry.epoch);
            }
        }
        again
    }

    /// Whether something landed since the last [`DirtySet::begin_barrier`].
    pub fn wants_barrier(&self) -> bool {
        !self.landed.recent.is_empty() && self.landed.settling.is_empty()
    }

    /// A drain of every event source begins. What landed before it may have carried changes whose events are still on their
    /// way; once the drain has ended ([`DirtySet::end_barrier`]) those have been seen.
    pub fn begin_barrier(&mut self) {
        if self.landed.settling.is_empty() {
            std::mem::swap(&mut self.landed.recent, &mut self.landed.settling);
        }
    }

    /// See [`DirtySet::begin_barrier`].
    pub fn end_barrier(&mut self) {
        self.landed.settling.clear();
    }

    /// Ends the flight of `entries` without sending them; they stay counted and are the caller's until it hands them to
    /// [`DirtySet::restore`] or [`DirtySet::take_again`].
    pub fn park(&mut self, id: BatchId, entries: &[Entry]) {
        for entry in entries {
            self.land(&entry.path, id);
        }
    }

    /// Makes an entry that was parked pending again, merged with what has become dirty meanwhile.
    pub fn restore(&mut self, entry: Entry) {
        self.epochs.remove(entry.epoch);
        let mut at = ROOT;
        for name in components(&entry.path) {
            if self.nodes[at as usize].kind == Some(Kind::Subtree) {
                let epoch = entry.epoch;
                self.mark(at, Kind::Subtree, epoch);
                return;
            }
            at = match self.child(at, name) {
                Some(child) => child,
                None => self.make_child(at, name),
            };
        }
        let fresh = self.nodes[at as usize].kind.is_none();
        let (epoch, mut content) = match entry.kind {
            Kind::Subtree => self.absorb_below(at, entry.epoch),
            _ => (entry.epoch, 0),
        };
        if entry.content {
            content = CONTENT;
        }
        if at == ROOT {
            content = 0;
        }
        self.mark(at, entry.kind, epoch);
        let n = &mut self.nodes[at as usize];
        n.flags = n.flags & !FRESH | content;
        if entry.gone {
            n.flags |= GONE;
        }
        if entry.held && fresh {
            n.flags |= OPEN;
        }
        if n.kind == Some(Kind::Subtree) {
            self.end_wait(at);
        }
        if self.pending > self.max_pending {
            self.coarsen();
        }
    }

    /// Replaces a parked entry by others of the same age: all of it is on the target but these paths, each with what is to be
    /// sent of it.
    pub fn narrow(&mut self, entry: Entry, paths: impl IntoIterator<Item = (RelPath, Kind)>) -> Vec<Entry> {
        self.landed.add(&entry);
        let narrowed: Vec<Entry> = paths
            .into_iter()
            .map(|(path, kind)| Entry { path, kind, gone: false, content: true, held: false, over: None, fresh: false, ..entry })
            .collect();
        for _ in &narrowed {
            self.epochs.add(entry.epoch);
        }
        self.epochs.remove(entry.epoch);
        narrowed
    }

    /// An entry for a path's attributes that the caller keeps until it restores it; counted since `since`.
    pub fn parked(&mut self, path: RelPath, since: Epoch) -> Entry {
        self.epochs.add(since);
        Entry {
            path,
            kind: Kind::Entry,
            gone: false,
            content: false,
            held: false,
            over: None,
            fresh: false,
            taken: false,
            epoch: since,
        }
    }

    /// Forgets parked entries that turned out to be needless.
    pub fn forget(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.epochs.remove(entry.epoch);
        }
    }

    /// Puts a file that was found to be still open back until `until` (time since the daemon's start) or its closing write.
    pub fn hold(&mut self, id: BatchId, entry: Entry, until: Duration) {
        self.land(&entry.path, id);
        let (path, fresh) = (entry.path.clone(), entry.fresh);
        self.restore(entry);
        if let Some(at) = self.find(&path) {
            let n = &mut self.nodes[at as usize];
            // Only if nothing newer has been merged into it: a closing write has cleared OPEN.
            if n.kind == Some(Kind::Entry) && n.flags & OPEN != 0 && n.flags & WAITS == 0 {
                n.flags |= WAITS | if fresh { FRESH } else { 0 };
                self.waiting += 1;
                self.holds.push_back((until, path));
            }
        }
    }

    /// Sends parked entries again as a batch of their own. Those that touch something in flight are restored instead;
    /// `None` when that leaves nothing.
    pub fn take_again(&mut self, mut entries: Vec<Entry>, round: u32) -> Option<Batch> {
        // Parents first, so that an entry never finds its own batch below itself.
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let epochs = &mut self.epochs;
        entries.dedup_by(|dup, kept| {
            let same = dup.path == kept.path;
            if same {
                epochs.remove(dup.epoch.max(kept.epoch));
                kept.epoch = kept.epoch.min(dup.epoch);
                kept.kind = kept.kind.max(dup.kind);
                kept.gone |= dup.gone;
                kept.content |= dup.content;
            }
            same
        });
        let id = self.new_batch_id();
        let mut go = Vec::new();
        for mut entry in entries {
            match self.flying_over(&entry.path, entry.kind, id) {
                Err(InTheWay) => self.restore(entry),
                Ok(over) => {
                    entry.over = over;
                    let mut at = ROOT;
                    for name in components(&entry.path) {
                        at = match self.child(at, name) {
                            Some(child) => child,
                            None => self.make_child(at, name),
                        };
                    }
                    // What became dirty on the very path meanwhile leaves with it.
                    if let Some(kind) = self.nodes[at as usize].kind
                        && kind <= entry.kind
                    {
                        entry.gone |= self.nodes[at as usize].flags & GONE != 0;
                        entry.content |= self.nodes[at as usize].flags & CONTENT != 0;
                        self.clear(at);
                    }
                    self.fly(at, id, entry.kind);
                    go.push(entry);
                }
            }
        }
        (!go.is_empty()).then_some(Batch { id, entries: go, round })
    }

    /// Moves `entries` of a batch in flight into a batch of their own.
    pub fn split(&mut self, batch: &Batch, entries: Vec<Entry>) -> Batch {
        let id = self.new_batch_id();
        for entry in &entries {
            if let Some(at) = self.find(&entry.path)
                && self.nodes[at as usize].flying == batch.id
            {
                self.nodes[at as usize].flying = id;
            }
        }
        Batch { id, entries, round: batch.round }
    }

    /// Whether a path of this kind can leave with batch `own`; `Ok(over)` names the long deep run it would pass.
    fn flying_over(&self, path: &[u8], kind: Kind, own: BatchId) -> Result<Option<BatchId>, InTheWay> {
        let mut over = None;
        let mut at = ROOT;
        let mut rest = components(path);
        loop {
            let n = &self.nodes[at as usize];
            if n.flying != 0 && n.flying != own {
                if n.flags & SOFT == 0 {
                    return Err(InTheWay);
                }
                over = Some(n.flying);
            }
            let Some(name) = rest.next() else { break };
            match self.child(at, name) {
                Some(child) => at = child,
                None => return Ok(over),
            }
        }
        let n = &self.nodes[at as usize];
        if n.flying_below > 0 || n.flying != 0 || kind == Kind::Subtree && over.is_some() {
            return Err(InTheWay);
        }
        Ok(over)
    }

    // ----- the bound -----

    /// Makes directories coarser until a good part of the bound is free again: first directories with several dirty
    /// children become `Contents`, then whole subtrees, the deepest first, become `Subtree`.
    fn coarsen(&mut self) {
        self.coarsened += 1;
        let goal = self.max_pending / 2;
        let by_depth = self.directories_by_depth();
        for level in by_depth.iter().rev() {
            for &at in level {
                let dirty = self
                    .children(at)
                    .filter(|&c| self.nodes[c as usize].kind == Some(Kind::Entry) && self.nodes[c as usize].flags & GONE == 0)
                    .count();
                if dirty >= 2 {
                    let epoch = self.epochs.current();
                    self.level(at, epoch, true);
                }
            }
            if self.pending <= goal {
                return;
            }
        }
        for level in by_depth.iter().rev() {
            for &at in level {
                if self.nodes[at as usize].first_child != NONE {
                    let path = self.path_of(at);
                    self.see(&path, Seen::Subtree);
                }
            }
            if self.pending <= goal {
                return;
            }
        }
    }

    /// Nodes with children, by depth, the root first.
    fn directories_by_depth(&self) -> Vec<Vec<u32>> {
        let mut levels = vec![vec![ROOT]];
        while let Some(last) = levels.last() {
            let next: Vec<u32> =
                last.iter().flat_map(|&at| self.children(at)).filter(|&c| self.nodes[c as usize].first_child != NONE).collect();
            if next.is_empty() {
                break;
            }
            levels.push(next);
        }
        levels
    }
}

/// What went to the target a moment ago. An event that was raised before rsync looked, and is seen only after that run has
/// ended, tells of something that the target has already: it must not be taken for new there.
#[derive(Default)]
struct Landed {
    recent: Landing,
    settling: Landing,
}

#[derive(Default)]
struct Landing {
    paths: FxHashSet<RelPath>,
    /// Directories compared with what is below them, deep or one level.
    above: Vec<RelPath>,
}

impl Landing {
    fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    fn clear(&mut self) {
        *self = Landing::default();
    }

    fn covers(&self, path: &[u8]) -> bool {
        !self.is_empty() && (self.paths.contains(path) || self.above.iter().any(|above| path::is_at_or_below(path, above)))
    }
}

impl Landed {
    fn add(&mut self, entry: &Entry) {
        // With the directories above: they travel with it, or in its place.
        let mut path: &[u8] = &entry.path;
        while self.recent.paths.insert(RelPath::from_normal(path)) {
            match path::parent(path) {
                Some(above) => path = above,
                None => break,
            }
        }
        if entry.kind > Kind::Entry {
            self.recent.above.push(entry.path.clone());
        }
    }

    fn covers(&self, path: &[u8]) -> bool {
        self.recent.covers(path) || self.settling.covers(path)
    }
}

/// Something in flight is above, below or at the path.
struct InTheWay;

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
