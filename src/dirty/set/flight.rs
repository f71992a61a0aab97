//! Batches: what is taken, kept apart while it flies, and comes back.

use std::collections::BTreeSet;

use super::shares::Shares;
use super::*;

impl DirtySet {
    /// Takes pending `Entry` and `Contents` paths that touch nothing in flight. `None` when there
    /// are none.
    ///
    /// `by_level(directory, n)` is asked about directories with at least [`LEVEL_MIN`] new,
    /// complete files whether these `n` had better be found by a comparison of its whole level than
    /// be listed.
    pub fn take_shallow(&mut self, limits: Limits, by_level: &mut dyn FnMut(&RelPath, usize) -> bool) -> Option<Batch> {
        self.take(limits, false, by_level)
    }

    /// Takes pending `Subtree` paths that touch nothing in flight. `None` when there are none. The
    /// whole tree comes alone.
    pub(crate) fn take_deep(&mut self, limits: Limits) -> Option<Batch> {
        if self.tally.subtrees == 0 {
            return None;
        }
        self.take(limits, true, &mut |_, _| false)
    }

    pub(super) fn take(
        &mut self,
        limits: Limits,
        deep: bool,
        by_level: &mut dyn FnMut(&RelPath, usize) -> bool,
    ) -> Option<Batch> {
        self.take_from(Shares::new(), limits, deep, by_level)
    }

    /// Takes what [`DirtySet::take_shallow`] would, but for what lies at or below these names in
    /// the root. Nothing where the root itself is to be compared or is in flight.
    pub(crate) fn take_beside(&mut self, limits: Limits, tops: &BTreeSet<Vec<u8>>) -> Option<Batch> {
        let root = &self.tree[ROOT];
        if root.flying != 0 || root.kind.is_some_and(|kind| kind > Kind::Entry) {
            return None;
        }
        let beside: Vec<u32> = self.tree.children(ROOT).filter(|&at| !tops.contains(&*self.tree[at].name)).collect();
        let shares = Shares::of(&beside, &self.tree);
        self.take_from(shares, limits, false, &mut |_, _| false)
    }

    fn take_from(
        &mut self,
        mut shares: Shares,
        limits: Limits,
        deep: bool,
        by_level: &mut dyn FnMut(&RelPath, usize) -> bool,
    ) -> Option<Batch> {
        if self.ready(limits.ignore_holds) == 0 {
            return None;
        }
        let mut picked: Vec<(u32, Option<BatchId>)> = Vec::new();
        // A level that stands for many files counts as many.
        let mut weight = 0;
        while let Some((at, mut over)) = shares.next() {
            let n = &self.tree[at];
            if n.flying != 0 {
                if n.flags & SOFT == 0 || n.flags & GONE != 0 || n.kind.is_some_and(|k| k > Kind::Entry) {
                    continue; // in flight; and what became dirty again waits for its turn, with all below it
                }
                over = Some(n.flying);
            }
            let mut descend = n.first_child != NONE;
            if descend && !deep && n.flying == 0 && n.flying_below == 0 && over.is_none() {
                let level = self.try_level(at, by_level);
                weight += level;
                shares.took(level);
            }
            let n = &self.tree[at];
            if n.flags & PAIRED != 0 {
                continue; // leaves with `take_moves`
            }
            if let Some(kind) = n.kind {
                let whole_tree = at == ROOT && kind == Kind::Entry; // attributes of the root travel with every batch
                if n.flying_below > 0 && !whole_tree {
                    continue; // so that it cannot starve, nothing below it leaves any more
                }
                let waits = n.flags & WAITS != 0 && !limits.ignore_holds
                    || n.flags & (ABSENT | LATER) != 0
                    || n.flags & GONE != 0 && !self.order.is_empty() && self.order.keeps(&self.tree.path_of(at), n.epoch, 0)
                    || n.flying != 0 && at != ROOT
                    || self.renames.has_linked() && self.near_linked(&self.tree.path_of(at), kind, n.flags & GONE != 0);
                if (kind == Kind::Subtree) == deep && !waits {
                    picked.push((at, over));
                    weight += 1;
                    shares.took(1);
                }
                descend &= kind != Kind::Subtree;
            }
            if weight >= limits.max_paths {
                break;
            }
            if descend {
                let children = self.tree.children(at);
                shares.descend(&self.tree, children, over);
            }
        }
        if picked.is_empty() {
            return None;
        }
        let id = self.new_batch_id();
        let entries = picked.into_iter().map(|(at, over)| self.lift(at, id, over)).collect();
        Some(Batch { id, entries, round: 0 })
    }

    /// Turns a directory with many new files into one comparison of its level, if `by_level` says
    /// so. All of them must be new to the target: then nothing there can look the same and be
    /// another; and complete: the comparison sends what it finds. Returns how many files the level
    /// stands for; 0 when it stays as it is.
    fn try_level(&mut self, at: u32, by_level: &mut dyn FnMut(&RelPath, usize) -> bool) -> usize {
        let mut new = 0;
        for child in self.tree.children(at) {
            let n = &self.tree[child];
            match n.kind {
                Some(Kind::Entry) if n.flags & OPEN != 0 => return 0,
                Some(Kind::Entry) if n.flags & FRESH != 0 && n.first_child == NONE => new += 1,
                _ => {}
            }
        }
        if new < LEVEL_MIN || !by_level(&self.tree.path_of(at), new) {
            return 0;
        }
        let fresh: Vec<u32> = self
            .tree
            .children(at)
            .filter(|&c| {
                let n = &self.tree[c];
                n.kind == Some(Kind::Entry) && n.flags & FRESH != 0 && n.first_child == NONE
            })
            .collect();
        let mut oldest = self.epochs.current();
        for child in fresh {
            oldest = self.clear(child).map_or(oldest, |e| e.min(oldest));
            self.prune_up_to(child, at);
        }
        self.mark(at, Kind::Contents, oldest);
        new
    }

    pub(super) fn new_batch_id(&mut self) -> BatchId {
        self.next_batch = self.next_batch.checked_add(1).unwrap_or(1);
        self.next_batch
    }

    /// Moves one pending path into batch `id`. Its epoch stays counted.
    pub(super) fn lift(&mut self, at: u32, id: BatchId, over: Option<BatchId>) -> Entry {
        let path = self.tree.path_of(at);
        let n = &self.tree[at];
        let entry = Entry {
            path,
            kind: n.kind.expect("only pending paths are lifted"),
            gone: n.flags & GONE != 0,
            content: n.flags & CONTENT != 0,
            held: n.flags & OPEN != 0,
            written: n.flags & WRITTEN != 0,
            through: n.flags & THROUGH != 0,
            single: false,
            waited: n.flags & WAITED != 0,
            over,
            fresh: n.flags & FRESH != 0,
            taken: false,
            epoch: n.epoch,
        };
        let epoch = self.clear(at).expect("it was pending");
        self.epochs.add(epoch);
        if !self.order.is_empty() {
            self.order.taken(&entry.path, epoch, id);
        }
        self.fly(at, id, entry.kind);
        self.tree[at].flags |= if entry.through { CARRIED } else { 0 };
        if entry.fresh && entry.kind == Kind::Entry {
            self.tree[at].flags |= ALONE;
        }
        if entry.kind == Kind::Subtree && (!entry.content || self.by_name) {
            self.send_twins_after(&entry.path, epoch);
        }
        entry
    }

    pub(super) fn fly(&mut self, at: u32, id: BatchId, kind: Kind) {
        debug_assert!(self.tree[at].flying == 0 || at == ROOT);
        // What lies above travels too: as a directory that is implied, or in place of the path
        // where it is none any more.
        let mut above = at;
        while above != ROOT {
            above = self.tree[above].parent;
            self.tree[above].flags &= !FRESH;
        }
        if kind > Kind::Entry {
            // And so may what is below, although it is pending by itself.
            let mut below: Vec<u32> = self.tree.children(at).collect();
            while let Some(at) = below.pop() {
                self.tree[at].flags &= !FRESH;
                below.extend(self.tree.children(at));
            }
        }
        if self.tree[at].flying != 0 {
            return; // the root's attributes under a whole-tree pass: that pass keeps the place
        }
        self.tree[at].flying = id;
        self.cursors.lose();
        self.count_flying(at, 1);
    }

    fn count_flying(&mut self, mut at: u32, by: i32) {
        while at != ROOT {
            at = self.tree[at].parent;
            let n = &mut self.tree[at];
            n.flying_below = n.flying_below.checked_add_signed(by).expect("what lands was in flight");
        }
    }

    pub(super) fn land(&mut self, path: &[u8], id: BatchId) {
        let Some(at) = self.tree.find(path) else { return };
        if self.tree[at].flying != id {
            return;
        }
        self.tree[at].flying = 0;
        self.cursors.lose();
        if self.tree[at].flags & CARRIED != 0 {
            self.landed.recent.carry(path);
        }
        self.tree[at].flags &= !(SOFT | ALONE | CARRIED);
        self.count_flying(at, -1);
        self.prune(at);
    }

    /// Lets other batches pass below the paths of `batch`, a deep run that takes long. What they
    /// carry must be sent again after it ([`Entry::over`]).
    pub(crate) fn soften(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            if let Some(at) = self.tree.find(&entry.path)
                && self.tree[at].flying == batch.id
                && self.tree[at].flags & SOFT == 0
            {
                self.tree[at].flags |= SOFT;
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
    pub(crate) fn wants_barrier(&self) -> bool {
        !self.landed.recent.is_empty() && self.landed.settling.is_empty()
    }

    /// A drain of every event source begins. What landed before it may have carried changes whose
    /// events are still on their way; once the drain has ended ([`DirtySet::end_barrier`]) those
    /// have been seen.
    pub(crate) fn begin_barrier(&mut self) {
        if self.landed.settling.is_empty() {
            std::mem::swap(&mut self.landed.recent, &mut self.landed.settling);
        }
    }

    /// See [`DirtySet::begin_barrier`].
    pub(crate) fn end_barrier(&mut self) {
        self.landed.settling.clear();
    }

    /// Ends the flight of `entries` without sending them; they stay counted and are the caller's
    /// until it hands them to [`DirtySet::restore`] or [`DirtySet::take_again`].
    pub(crate) fn park(&mut self, id: BatchId, entries: &[Entry]) {
        for entry in entries {
            self.land(&entry.path, id);
        }
    }

    /// A run that carried these has ended, in whatever way. See [`Entry::single`].
    pub(crate) fn settle_single(&mut self, entries: &mut [Entry]) {
        for entry in entries.iter_mut().filter(|entry| entry.single && entry.through) {
            entry.through = false;
            // For an event from before the read that is seen only now.
            self.landed.add(entry);
        }
    }

    /// Makes an entry that was parked pending again, merged with what has become dirty meanwhile.
    pub(crate) fn restore(&mut self, entry: Entry) {
        self.epochs.remove(entry.epoch);
        let mut at = ROOT;
        for name in components(&entry.path) {
            self.disturb(at);
            if self.tree[at].kind == Some(Kind::Subtree) {
                let epoch = entry.epoch;
                if entry.content && (self.tree[at].flags & CONTENT == 0 || self.by_name) {
                    self.twins.remember(&entry.path, twins::told_by(entry.kind, entry.gone));
                }
                if entry.through && at != ROOT {
                    self.tree[at].flags |= THROUGH;
                }
                self.mark(at, Kind::Subtree, epoch);
                return;
            }
            at = self.tree.child_or_new(at, name);
        }
        self.disturb(at);
        let fresh = self.tree[at].kind.is_none();
        let (epoch, mut content) = match entry.kind {
            Kind::Subtree => self.absorb_below(at, entry.epoch),
            _ => (entry.epoch, 0),
        };
        if entry.content {
            content |= CONTENT;
        }
        if at == ROOT {
            content = 0;
        }
        self.mark(at, entry.kind, epoch);
        let n = &mut self.tree[at];
        n.flags = n.flags & !FRESH | content;
        if entry.gone {
            n.flags |= GONE;
        }
        if entry.through {
            n.flags |= THROUGH;
        }
        if entry.written {
            n.flags |= WRITTEN;
        }
        if entry.waited {
            n.flags |= WAITED;
        }
        if entry.held && fresh {
            n.flags |= OPEN;
        }
        if n.kind == Some(Kind::Subtree) {
            self.end_wait(at);
        }
        if self.tally.pending > self.max_pending {
            self.coarsen();
        }
    }

    /// Replaces a parked entry by others of the same age: all of it is on the target but these
    /// paths, each with what is to be sent of it.
    pub(crate) fn narrow(&mut self, entry: Entry, paths: impl IntoIterator<Item = (RelPath, Kind)>) -> Vec<Entry> {
        self.landed.add(&entry);
        let narrowed: Vec<Entry> = paths
            .into_iter()
            .map(|(path, kind)| {
                let (gone, held, through, single, waited, fresh) = Default::default();
                Entry { path, kind, gone, content: true, held, through, single, waited, over: None, fresh, ..entry }
            })
            .collect();
        for _ in &narrowed {
            self.epochs.add(entry.epoch);
        }
        self.epochs.remove(entry.epoch);
        narrowed
    }

    /// Replaces parked entries by one for a directory above all of them, as old as the oldest.
    /// `None` for none.
    pub(crate) fn widen(&mut self, entries: Vec<Entry>, path: RelPath, kind: Kind) -> Option<Entry> {
        let epoch = entries.iter().map(|e| e.epoch).min()?;
        let over = entries.iter().find_map(|e| e.over);
        self.epochs.add(epoch);
        self.forget(entries);
        Some(Entry { kind, content: true, over, ..Entry::plain(path, epoch) })
    }

    /// An entry for a path's attributes that the caller keeps until it restores it; counted since
    /// `since`.
    pub(crate) fn parked(&mut self, path: RelPath, since: Epoch) -> Entry {
        self.epochs.add(since);
        Entry::plain(path, since)
    }

    /// Forgets parked entries that turned out to be needless.
    pub(crate) fn forget(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.epochs.remove(entry.epoch);
        }
    }

    /// Puts a file that was found to be still open back until `until` (time since the daemon's
    /// start) or its closing write.
    pub(crate) fn hold(&mut self, id: BatchId, entry: Entry, until: Duration) {
        self.land(&entry.path, id);
        let (path, fresh) = (entry.path.clone(), entry.fresh);
        self.restore(entry);
        if let Some(at) = self.tree.find(&path) {
            let n = &mut self.tree[at];
            // Only if nothing newer has been merged into it: a closing write has cleared OPEN.
            if n.kind == Some(Kind::Entry) && n.flags & (OPEN | WAITS) == OPEN {
                // What lies below in the same batch may take it along.
                n.flags |= if fresh && n.flying_below == 0 { FRESH } else { 0 };
                self.holds.begin_until(&mut n.flags, WAITS, until, path);
            }
        }
    }

    /// Puts an entry back that was not found where it changed, until `until` (time since the
    /// daemon's start) or the event that says where it went. It is sent as one that went.
    pub(crate) fn hold_absent(&mut self, id: BatchId, mut entry: Entry, until: Duration) {
        self.land(&entry.path, id);
        (entry.gone, entry.waited) = (true, true);
        let path = entry.path.clone();
        self.restore(entry);
        if let Some(at) = self.tree.find(&path)
            && self.tree[at].kind == Some(Kind::Entry)
        {
            self.holds.begin_until(&mut self.tree[at].flags, ABSENT, until, path);
        }
    }

    /// Sends parked entries again as a batch of their own. Those that touch something in flight are
    /// restored instead; `None` when that leaves nothing.
    pub(crate) fn take_again(&mut self, mut entries: Vec<Entry>, round: u32) -> Option<Batch> {
        // Parents first, so that an entry never finds its own batch below itself.
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let (epochs, twins) = (&mut self.epochs, &mut self.twins);
        entries.dedup_by(|dup, kept| {
            let same = dup.path == kept.path;
            let whole_tree = kept.path.is_root() && kept.kind == Kind::Subtree;
            if whole_tree && !same {
                // The whole tree comes alone: it covers everything.
                if dup.content {
                    twins.remember(&dup.path, twins::told_by(dup.kind, dup.gone));
                }
                epochs.remove(dup.epoch.max(kept.epoch));
                kept.epoch = kept.epoch.min(dup.epoch);
                return true;
            }
            if same {
                epochs.remove(kept.merge(dup));
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
                    // A run carried it before: the target may have it, whatever that run came to.
                    entry.fresh = false;
                    let at = self.tree.find_or_new(&entry.path);
                    // What became dirty on the very path meanwhile leaves with it.
                    if let Some(kind) = self.tree[at].kind
                        && kind <= entry.kind
                    {
                        entry.gone |= self.tree[at].flags & GONE != 0;
                        entry.content |= self.tree[at].flags & CONTENT != 0;
                        entry.through |= self.tree[at].flags & THROUGH != 0;
                        entry.written |= self.tree[at].flags & WRITTEN != 0;
                        entry.waited |= self.tree[at].flags & WAITED != 0;
                        self.clear(at);
                    }
                    if round == 0 && !self.order.is_empty() {
                        self.order.taken(&entry.path, entry.epoch, id);
                    }
                    self.fly(at, id, entry.kind);
                    self.tree[at].flags |= if entry.through { CARRIED } else { 0 };
                    if entry.kind == Kind::Subtree && (!entry.content || self.by_name) {
                        self.send_twins_after(&entry.path, entry.epoch);
                    }
                    go.push(entry);
                }
            }
        }
        (!go.is_empty()).then_some(Batch { id, entries: go, round })
    }

    /// Merges a parked entry with one in flight of the same path, which is no less of it.
    pub(crate) fn take_in_flight(&mut self, flying: &mut Entry, parked: Entry) {
        flying.fresh = false;
        self.epochs.remove(flying.merge(&parked));
    }

    /// Takes `path` into batch `id` beside what it holds, as old as `since`, with what is pending
    /// of it. `Ok(None)` when the batch has it already.
    ///
    /// # Errors
    /// The batch in flight that is in the way, when it is at or above the path.
    pub(crate) fn join(&mut self, id: BatchId, path: &RelPath, since: Epoch) -> Result<Option<Entry>, Option<BatchId>> {
        let mut at = ROOT;
        let mut blocks = self.blocks(ROOT, id);
        for name in components(path) {
            match self.tree.child(at, name) {
                Some(child) => at = child,
                None => {
                    at = NONE;
                    break;
                }
            }
            blocks = blocks.or(self.blocks(at, id));
        }
        // Itself: a directory above it is there for its attributes perhaps.
        if at != NONE && self.tree[at].flying == id {
            return Ok(None);
        }
        let over = self.flying_over(path, Kind::Entry, id).map_err(|InTheWay| blocks)?;
        let at = self.tree.find_or_new(path);
        let n = &self.tree[at];
        let mut entry = Entry { over, ..Entry::plain(path.clone(), since) };
        if n.kind == Some(Kind::Entry) {
            (entry.gone, entry.content) = (n.flags & GONE != 0, n.flags & CONTENT != 0);
            (entry.through, entry.written) = (n.flags & THROUGH != 0, n.flags & WRITTEN != 0);
            entry.waited = n.flags & WAITED != 0;
            let epoch = self.clear(at).expect("it was pending");
            entry.epoch = epoch.min(since);
            if !self.order.is_empty() {
                self.order.taken(path, entry.epoch, id);
            }
        }
        self.epochs.add(entry.epoch);
        self.fly(at, id, Kind::Entry);
        self.tree[at].flags |= if entry.through { CARRIED } else { 0 };
        Ok(Some(entry))
    }

    fn blocks(&self, at: u32, own: BatchId) -> Option<BatchId> {
        let n = &self.tree[at];
        (n.flying != 0 && n.flying != own && n.flags & SOFT == 0).then_some(n.flying)
    }

    /// Moves `entries` of a batch in flight into a batch of their own.
    pub(crate) fn split(&mut self, batch: &Batch, entries: Vec<Entry>) -> Batch {
        let id = self.new_batch_id();
        self.order.split(batch.id, id, &entries);
        for entry in &entries {
            if let Some(at) = self.tree.find(&entry.path)
                && self.tree[at].flying == batch.id
            {
                self.tree[at].flying = id;
                self.cursors.lose();
            }
        }
        Batch { id, entries, round: batch.round }
    }

    /// Whether a path of this kind can leave with batch `own`; `Ok(over)` names the long deep run
    /// it would pass.
    fn flying_over(&self, path: &[u8], kind: Kind, own: BatchId) -> Result<Option<BatchId>, InTheWay> {
        if self.renames.has_linked() && self.near_linked(path, kind, true) {
            return Err(InTheWay);
        }
        let mut over = None;
        let mut at = ROOT;
        let mut rest = components(path);
        loop {
            let n = &self.tree[at];
            if n.flying != 0 && n.flying != own {
                if n.flags & SOFT == 0 {
                    return Err(InTheWay);
                }
                over = Some(n.flying);
            }
            let Some(name) = rest.next() else { break };
            match self.tree.child(at, name) {
                Some(child) => at = child,
                None => return Ok(over),
            }
        }
        let n = &self.tree[at];
        if n.flying_below > 0 || n.flying != 0 || kind == Kind::Subtree && over.is_some() {
            return Err(InTheWay);
        }
        Ok(over)
    }
}

/// Something in flight is above, below or at the path.
struct InTheWay;
