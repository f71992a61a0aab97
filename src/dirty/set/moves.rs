//! Renames whose two halves are both pending: the target holds under the old name what belongs
//! under the new.
//!
//! A pair is nothing but a mark on two pending paths, each of which is pending as it would be
//! without: the new name with all it holds, the old name as a deletion. So dropping the mark is
//! always right, and it is dropped at the first sign that the two are not the same any more:
//! anything seen at or below one of them, or above in a way that covers it. What is marked does not
//! leave by itself; [`DirtySet::take_moves`] takes both names together.
//!
//! A pair is made only where the old name was in sync when it went: nothing pending or in flight at
//! it, below it, or above it so that it is covered; and where nothing is known of the new name.
//!
//! *Linked* paths are old names whose files may share inodes with the new ones on the target, since
//! a run that makes hard links has begun. A change of mode there would change the other name too.
//! So the old name has to go from the target before anything else is sent at it, below it or above
//! it: [`DirtySet::take_linked`], whatever is on the source there by then.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::*;

/// Pairs that are kept at a time; of what is renamed beyond that, the content is sent.
const MOST_PAIRS: usize = 10_000;
/// Linked names that are removed together.
const MOST_LINKED: usize = 10_000;
/// Attempts to remove a linked name before it is given up.
const LINKED_TRIES: u32 = 4;
/// The pause after the first failed attempt; grows fourfold.
const LINKED_PAUSE: Duration = Duration::from_millis(200);

#[derive(Default)]
pub(super) struct Renames {
    /// New name to old, and back, as nodes.
    old_of: FxHashMap<u32, u32>,
    new_of: FxHashMap<u32, u32>,
    /// What left just now, clean.
    left: Option<u32>,
    linked: BTreeMap<RelPath, Linked>,
    broken: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Linked {
    tries: u32,
    due: Duration,
    flying: bool,
    /// A list of missing names may remove it.
    listed: bool,
}

impl Renames {
    pub(super) fn has_linked(&self) -> bool {
        !self.linked.is_empty()
    }

    /// Something is not pending any more; if it is what left, its node may come to stand for
    /// another path.
    pub(super) fn forget_left(&mut self) {
        self.left = None;
    }
}

/// The half of a rename that is being reported.
pub(super) enum Half {
    Left,
    Arrived { old: u32 },
}

/// Renames that leave together.
#[derive(Debug)]
pub(crate) struct Moves {
    /// New and old name in turn. Directories, or files, of one directory, all to the same other one
    /// under their names; files of one directory, all within it; or one directory.
    pub(crate) batch: Batch,
    /// What it is: directories have all below them moved.
    pub(crate) dir: bool,
}

impl DirtySet {
    /// Before a half of a rename is taken in: whether it can become a pair.
    pub(super) fn half_of_rename(&mut self, path: &[u8], seen: Seen) -> Option<Half> {
        let left = self.renames.left.take();
        match seen {
            Seen::Left | Seen::LeftDir => {
                (self.renames.old_of.len() < MOST_PAIRS && self.is_clean(path, GONE | FRESH)).then_some(Half::Left)
            }
            Seen::Arrived | Seen::ArrivedDir => {
                let old = left?;
                self.is_clean(path, GONE).then_some(Half::Arrived { old })
            }
            _ => None,
        }
    }

    /// After it was taken in.
    pub(super) fn pair(&mut self, path: &[u8], half: Half) {
        let Some(at) = self.tree.find(path) else { return };
        match half {
            Half::Left => self.renames.left = Some(at),
            Half::Arrived { old } => {
                let pending = |at: u32| self.tree[at].kind.is_some() && self.tree[at].flying == 0;
                if at != old && pending(at) && pending(old) && self.tree[old].flags & GONE != 0 {
                    self.cursors.lose(); // what comes next below has to pass here
                    self.tree[at].flags |= MOVED;
                    self.tree[old].flags |= ORIGIN;
                    self.renames.old_of.insert(at, old);
                    self.renames.new_of.insert(old, at);
                }
            }
        }
    }

    /// Whether nothing is pending or in flight at `path`, below it, or above it so that it is
    /// covered. `bad`: flags that a directory above must not have.
    fn is_clean(&self, path: &[u8], bad: u16) -> bool {
        if self.renames.has_linked() && self.near_linked(path, Kind::Subtree, true) {
            return false;
        }
        let mut at = ROOT;
        for name in components(path) {
            let n = &self.tree[at];
            // What covers more than itself, or is another than it was. What flies above an old name
            // may do so as well.
            if n.kind.is_some_and(|k| k > Kind::Entry) || n.flags & (bad | PAIRED) != 0 || n.flying != 0 && bad & FRESH != 0 {
                return false;
            }
            at = match self.tree.child(at, name) {
                Some(child) => child,
                None => return true,
            };
        }
        false // there is a node, so there is something
    }

    /// Something happened at or below this node.
    pub(super) fn disturb(&mut self, at: u32) {
        if self.tree[at].flags & PAIRED != 0 {
            self.unpair(at);
        }
    }

    pub(super) fn unpair(&mut self, at: u32) {
        let (new, old) = match (self.renames.old_of.get(&at), self.renames.new_of.get(&at)) {
            (Some(&old), _) => (at, old),
            (_, Some(&new)) => (new, at),
            (None, None) => return,
        };
        self.part(new, old);
        self.renames.broken += 1;
    }

    fn part(&mut self, new: u32, old: u32) {
        self.renames.old_of.remove(&new);
        self.renames.new_of.remove(&old);
        for at in [new, old] {
            self.tree[at].flags &= !PAIRED;
        }
    }

    /// Pairs that were parted before they left, since the start.
    pub(crate) fn parted(&self) -> u64 {
        self.renames.broken
    }

    /// Whether renames are pending.
    pub(crate) fn has_moves(&self) -> bool {
        !self.renames.old_of.is_empty()
    }

    /// Whether something waits to be removed from the target by [`DirtySet::take_linked`].
    pub(crate) fn has_linked(&self) -> bool {
        self.renames.has_linked()
    }

    /// Takes renames that touch nothing in flight and whose new directory is on the target. `None`
    /// when there are none.
    pub(crate) fn take_moves(&mut self, max: usize) -> Option<Moves> {
        // What may leave together: from one directory to another, of one kind, under the same names
        // or other ones.
        let group = |&(new, old): &(u32, u32)| {
            let (n, o) = (&self.tree[new], &self.tree[old]);
            (n.parent, o.parent, n.kind == Some(Kind::Subtree), *n.name == *o.name)
        };
        let mut order: Vec<(u32, u32)> = self.renames.old_of.iter().map(|(&new, &old)| (new, old)).collect();
        order.sort_unstable_by_key(|pair| (group(pair), pair.0));
        let mut picked: Vec<(u32, u32)> = Vec::new();
        let mut picks = None;
        for pair @ (new, old) in order {
            let of = group(&pair);
            // A directory that gets another name is linked by a run that begins in it.
            let alone = of.2 && !of.3;
            if picked.len() >= max || picks.is_some_and(|picks| picks != of || alone) {
                break;
            }
            if self.way_is_free(new, true) && self.way_is_free(old, false) {
                picked.push((new, old));
                picks = Some(of);
            }
        }
        let (_, _, dir, _) = picks?;
        let id = self.new_batch_id();
        let mut entries = Vec::new();
        for (new, old) in picked {
            self.part(new, old);
            entries.push(self.lift(new, id, None));
            entries.push(self.lift(old, id, None));
        }
        Some(Moves { batch: Batch { id, entries, round: 0 }, dir })
    }

    /// Whether nothing flies at, above or below, and, if asked for, nothing above is still to be
    /// sent.
    fn way_is_free(&self, at: u32, settled: bool) -> bool {
        let n = &self.tree[at];
        if n.flying != 0 || n.flying_below > 0 {
            return false;
        }
        if self.renames.has_linked() && self.near_linked(&self.tree.path_of(at), Kind::Subtree, true) {
            return false;
        }
        let mut at = n.parent;
        while at != NONE {
            let n = &self.tree[at];
            if n.flying != 0 || settled && at != ROOT && n.kind.is_some() {
                return false;
            }
            at = n.parent;
        }
        true
    }

    /// Hard links of `path` are being made on the target. `listed`: where the source has nothing of
    /// that name, a list that names it removes it as well as a run that looks at no source.
    pub(crate) fn link(&mut self, path: RelPath, listed: bool) {
        self.renames.linked.insert(path, Linked { listed, ..Linked::default() });
    }

    /// Whether something of this kind at `path` has to wait for the removal of a linked name.
    pub(super) fn near_linked(&self, path: &[u8], kind: Kind, gone: bool) -> bool {
        let linked = &self.renames.linked;
        std::iter::successors(Some(path), |path| path::parent(path)).any(|at| linked.contains_key(at))
            || (kind > Kind::Entry || gone) && path::any_at_or_below(linked, path)
    }

    /// Whether nothing is in flight at, above or below a linked name.
    fn is_free(&self, path: &RelPath) -> bool {
        let mut at = ROOT;
        for name in components(path) {
            if self.tree[at].flying != 0 {
                return false;
            }
            match self.tree.child(at, name) {
                Some(child) => at = child,
                None => return true,
            }
        }
        self.tree[at].flying == 0 && self.tree[at].flying_below == 0
    }

    /// Takes linked names of one directory that touch nothing in flight, to be removed from the
    /// target whatever the source holds there. Whether a list may do that holds for all of them.
    pub(crate) fn take_linked(&mut self, now: Duration) -> Option<(Batch, bool)> {
        let mut due = self.renames.linked.iter().filter(|(path, l)| !l.flying && l.due <= now && self.is_free(path));
        let (first, listed) = due.next().map(|(path, l)| (path.clone(), l.listed))?;
        let dir = path::parent(&first).map(<[u8]>::to_vec);
        let beside = due.filter(|(path, l)| l.listed == listed && path::parent(path) == dir.as_deref()).map(|(path, _)| path);
        let paths: Vec<RelPath> = std::iter::once(first).chain(beside.cloned()).take(MOST_LINKED).collect();
        let id = self.new_batch_id();
        let mut entries = Vec::new();
        for path in paths {
            self.renames.linked.get_mut(&path).expect("just found").flying = true;
            let at = self.tree.find_or_new(&path);
            self.fly(at, id, Kind::Subtree);
            let since = self.epochs.current();
            entries.push(self.parked(path, since));
        }
        Some((Batch { id, entries, round: 0 }, listed))
    }

    /// Neither the source has anything at `path` nor the target: if a deletion is pending there, it
    /// is done. Returns since when it was.
    pub(crate) fn settle(&mut self, path: &[u8]) -> Option<Epoch> {
        let at = self.tree.find(path)?;
        let n = &self.tree[at];
        if n.kind == Some(Kind::Entry) && n.flags & GONE != 0 && n.flags & (PAIRED | ABSENT | THROUGH) == 0 && n.flying == 0 {
            let since = self.clear(at);
            self.prune(at);
            return since;
        }
        None
    }

    /// Takes a directory above linked names, to be sent by itself before they are removed; what is
    /// pending of it stays. `None` while something at, above or below it is in flight.
    pub(crate) fn take_above(&mut self, dir: &RelPath) -> Option<Batch> {
        let mut at = ROOT;
        for name in components(dir) {
            if self.tree[at].flying != 0 {
                return None;
            }
            at = self.tree.child_or_new(at, name);
        }
        if self.tree[at].flying != 0 || self.tree[at].flying_below != 0 {
            return None;
        }
        let id = self.new_batch_id();
        self.fly(at, id, Kind::Entry);
        let since = self.epochs.current();
        Some(Batch { id, entries: vec![self.parked(dir.clone(), since)], round: 0 })
    }

    /// Linked names in the directory `dir` are not removed before `until`.
    pub(crate) fn postpone_linked(&mut self, dir: &[u8], until: Duration) {
        for (_, linked) in self.renames.linked.iter_mut().filter(|(path, _)| path::parent(path) == Some(dir)) {
            linked.due = linked.due.max(until);
        }
    }

    /// When [`DirtySet::take_linked`] may be tried again, as a time since the daemon's start. What
    /// waits for the end of a run is left out.
    pub(crate) fn next_linked(&self) -> Option<Duration> {
        let waits = self.renames.linked.iter().filter(|(path, l)| !l.flying && !l.due.is_zero() && self.is_free(path));
        waits.map(|(_, l)| l.due).min()
    }

    /// The flight of a linked name has ended. `gone`: it is not on the target any more. `count`: a
    /// failure speaks of this name and not of the target; a list that did not remove it is no
    /// failure, and is not tried again. Returns `false` when it is given up.
    pub(crate) fn unlinked(&mut self, path: &RelPath, gone: bool, count: bool, now: Duration) -> bool {
        let Some(linked) = self.renames.linked.get_mut(path) else { return true };
        linked.flying = false;
        if std::mem::take(&mut linked.listed) {
            // Whatever became of the list.
        } else if count && !gone {
            linked.due = now + LINKED_PAUSE * 4u32.pow(linked.tries);
            linked.tries += 1;
        }
        let given_up = linked.tries >= LINKED_TRIES;
        if gone || given_up {
            self.renames.linked.remove(path);
        }
        gone || !given_up
    }
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
