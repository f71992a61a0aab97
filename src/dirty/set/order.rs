//! Symbolic links that leave after what they lead to: `current` after the tree `releases/7`.
//!
//! ```text
//! link pending ─► its text read ─► older changes at its destination? ─► no: it leaves
//!                      ▲                  └► yes: it waits ─► they are confirmed ─┐
//!                      └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Older is what was pending or in flight when the link was read; what becomes dirty at the
//! destination later does not count, so a tree that never rests holds no link for ever. What failed
//! is with the caller and does not count either. While a link waits, deletions beside its
//! destination that came after it wait too: they take away what the link led to before.
//!
//! No circle: a link waits for other waiting links only where they began to wait before it, for no
//! deletion that waits itself, and never as a deletion.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Links that wait at a time; more leave without.
const MAX_LINKS: usize = 256;
/// How often a link that is made anew while it waits begins to wait again.
const MAX_ROUNDS: u32 = 8;
/// Pending paths looked through for an older one.
const MAX_VISITS: usize = 20_000;

/// One link as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkRead {
    /// Where it leads; not above the link itself.
    pub(crate) dest: RelPath,
    /// Distinguishes one link from the next of the same name.
    pub(crate) version: (i64, u32),
}

#[derive(Debug)]
struct Link {
    read: LinkRead,
    /// When it became dirty.
    since: Epoch,
    /// What became dirty until then counts.
    until: Epoch,
    /// Batches that carry what counts.
    behind: BTreeSet<BatchId>,
    serial: u32,
    rounds: u32,
    /// The batch that carries the link itself.
    leaves: Option<BatchId>,
}

impl Link {
    /// Whether a change at `path` is one that the link at `link` depends on.
    fn needs<'l>(&'l self, link: &'l [u8]) -> Needs<'l> {
        Needs { dest: &self.read.dest, link, until: self.until }
    }

    /// Whether a deletion waits for the link at `at`: see [`Order::keeps`].
    fn keeps(&self, at: &[u8], path: &[u8], epoch: Epoch) -> bool {
        let dest = &self.read.dest;
        let (Some(beside), Some(own)) = (path::parent(dest), path::parent(at)) else { return false };
        epoch >= self.since
            && path::is_at_or_below(beside, own)
            && path::is_at_or_below(path, beside)
            && !path::is_at_or_below(path, dest)
            && path != at
    }
}

/// Which changes have to arrive before a link.
pub(crate) struct Needs<'l> {
    dest: &'l [u8],
    link: &'l [u8],
    until: Epoch,
}

impl Needs<'_> {
    /// Those at, below or above its destination that are old enough; not above the link itself.
    fn includes(&self, path: &[u8], epoch: Epoch) -> bool {
        epoch <= self.until
            && (path::is_at_or_below(path, self.dest)
                || (path::is_at_or_below(self.dest, path) && !path::is_at_or_below(self.link, path)))
    }

    /// Whether `entry` is one of them.
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        self.includes(&entry.path, entry.epoch)
    }
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Order {
    links: BTreeMap<RelPath, Link>,
    serial: u32,
}

impl Order {
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// A path leaves with batch `id`.
    pub(super) fn taken(&mut self, path: &[u8], epoch: Epoch, id: BatchId) {
        for (at, link) in &mut self.links {
            if link.leaves.is_none() && link.needs(at).includes(path, epoch) {
                link.behind.insert(id);
            }
        }
    }

    /// Entries of one batch leave with another one.
    pub(super) fn split(&mut self, from: BatchId, to: BatchId, entries: &[Entry]) {
        for link in self.links.values_mut().filter(|link| link.behind.contains(&from)) {
            link.behind.insert(to);
        }
        let entries = if self.links.is_empty() { &[] } else { entries };
        for entry in entries {
            if let Some(link) = self.links.get_mut(&entry.path).filter(|link| link.leaves == Some(from)) {
                link.leaves = Some(to);
            }
        }
    }

    /// Whether a deletion waits for a link: beside the link's destination, in a directory that is
    /// the link's own or below that, and no older than the link. `with`: not for links of this
    /// batch. What waits as a link itself does not wait as a deletion, too, though it may have been
    /// deleted before it was made anew: two such links would wait for each other.
    pub(super) fn keeps(&self, path: &[u8], epoch: Epoch, with: BatchId) -> bool {
        if self.links.contains_key(path) {
            return false;
        }
        let others = self.links.iter().filter(|(_, link)| link.leaves.is_none_or(|id| id != with));
        others.into_iter().any(|(at, link)| link.keeps(at, path, epoch))
    }
}

impl DirtySet {
    /// Links that wait, or are on their way after that.
    pub(crate) fn orders(&self) -> bool {
        !self.order.is_empty()
    }

    /// Entry `entry` of batch `id` is a link. Whether it has to wait: then it is pending again.
    /// `elsewhere`: batches in flight that carry something it needs, and `id` where that batch
    /// does.
    pub(crate) fn order_link(
        &mut self,
        id: BatchId,
        entry: &Entry,
        read: LinkRead,
        elsewhere: impl FnOnce(&Needs<'_>) -> BTreeSet<BatchId>,
    ) -> bool {
        let path = &entry.path;
        let mut link = match self.order.links.remove(path) {
            Some(link) if link.read == read => link,
            Some(link) if link.rounds >= MAX_ROUNDS => return false,
            None if self.order.links.len() >= MAX_LINKS => return false,
            old => {
                self.order.serial = self.order.serial.wrapping_add(1);
                let until = self.epochs.current();
                let behind = elsewhere(&Needs { dest: &read.dest, link: path, until });
                let rounds = old.map_or(0, |old| old.rounds + 1);
                Link { read, since: entry.epoch, until, behind, serial: self.order.serial, rounds, leaves: None }
            }
        };
        link.leaves = None;
        let waits = !link.behind.is_empty() || self.has_older(path, &link);
        if !waits {
            // Deletions beside its destination wait for it on its way, too.
            link.leaves = Some(id);
        }
        self.order.links.insert(path.clone(), link);
        if waits {
            self.land(path, id);
            self.restore(entry.clone());
            if let Some(at) = self.tree.find(path)
                && self.tree[at].kind == Some(Kind::Entry)
            {
                self.holds.begin(&mut self.tree[at].flags, LATER);
            }
        }
        waits
    }

    /// Whether `entry` of batch `id` has to wait for a link since sending it deletes `path`: its
    /// own, or one above it.
    pub(crate) fn waits_for_link(&self, id: BatchId, entry: &Entry, path: &[u8]) -> bool {
        self.order.keeps(path, entry.epoch, id)
    }

    /// Looks at all that wait, after batches have ended. `flies`: whether a batch is in flight
    /// still; `parked`: whether the caller keeps something for a later batch that a link needs.
    /// Whether a link may leave now.
    pub(crate) fn release_links(&mut self, flies: &dyn Fn(BatchId) -> bool, parked: &dyn Fn(&Needs<'_>) -> bool) -> bool {
        let mut links = std::mem::take(&mut self.order.links);
        // Gone, or part of something above.
        let stays = |at: &RelPath, link: &mut Link| {
            link.behind.retain(|&id| flies(id));
            match link.leaves {
                Some(id) => flies(id),
                None => self.tree.find(at).is_some_and(|at| self.tree[at].kind == Some(Kind::Entry)),
            }
        };
        links.retain(stays);
        self.order.links = links;
        let free: Vec<RelPath> = self
            .order
            .links
            .iter()
            .filter(|(at, link)| {
                link.leaves.is_none() && link.behind.is_empty() && !parked(&link.needs(at)) && !self.has_older(at, link)
            })
            .map(|(at, _)| at.clone())
            .collect();
        for path in &free {
            if let Some(at) = self.tree.find(path) {
                self.end_holds(at, LATER);
            }
        }
        !free.is_empty()
    }

    /// Whether something that `link` depends on is pending, and older.
    fn has_older(&self, path: &RelPath, link: &Link) -> bool {
        let counts = |at: u32, here: &dyn Fn() -> RelPath| {
            let n = &self.tree[at];
            if n.kind.is_none() || n.epoch > link.until {
                return false;
            }
            match n.flags & (LATER | GONE) {
                0 => true,
                flags if flags & LATER != 0 => self.order.links.get(&here()).is_some_and(|other| other.serial < link.serial),
                // While the link is in question it may not be among the others.
                _ => !link.keeps(path, &here(), n.epoch) && !self.order.keeps(&here(), n.epoch, 0),
            }
        };
        let (mut at, mut len) = (ROOT, 0);
        for name in components(&link.read.dest) {
            // Above the destination, and not above the link.
            if at != ROOT && !path::is_at_or_below(path, &link.read.dest[..len]) && counts(at, &|| self.tree.path_of(at)) {
                return true;
            }
            at = match self.tree.child(at, name) {
                Some(child) => child,
                None => return false,
            };
            len += name.len() + usize::from(len > 0);
        }
        let (mut stack, mut visits) = (vec![at], 0);
        while let Some(at) = stack.pop() {
            visits += 1;
            if visits > MAX_VISITS {
                return false;
            }
            if counts(at, &|| self.tree.path_of(at)) {
                return true;
            }
            let from = stack.len();
            stack.extend(self.tree.children(at).take(MAX_VISITS));
            stack[from..].reverse();
        }
        false
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
