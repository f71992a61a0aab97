//! What landed a moment ago, and whose events may still be on their way.

use std::collections::BTreeSet;

use super::{Entry, Epoch, Kind};
use crate::hash::KeyedSet;
use crate::path::{self, RelPath};

/// What went to the target a moment ago. An event that was raised before rsync read the path, and
/// is seen only after that run has ended, is about something that the target has already: it must
/// not be taken for new there.
#[derive(Default)]
pub(super) struct Landed {
    pub(super) recent: Landing,
    pub(super) settling: Landing,
}

#[derive(Default)]
pub(super) struct Landing {
    paths: KeyedSet<RelPath>,
    /// Directories compared with what is below them, deep or one level.
    above: Vec<RelPath>,
    /// When the oldest of them became dirty.
    oldest: Option<Epoch>,
    /// Where a change came through a name, and the check before the run may have met another file
    /// there: a directory above was replaced, and that was not seen yet.
    carried: BTreeSet<RelPath>,
}

impl Landing {
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// A change came through this name.
    pub(super) fn carry(&mut self, path: &[u8]) {
        self.carried.insert(RelPath::from_normal(path));
    }

    /// Takes out the changes through names below `dir`. Whether there was one.
    fn uncarry(&mut self, dir: &[u8]) -> bool {
        let from = RelPath::from_normal(dir);
        let below = self.carried.range(from..).take_while(|at| at.starts_with(dir));
        let below: Vec<RelPath> = below.filter(|at| at.len() > dir.len() && path::is_at_or_below(at, dir)).cloned().collect();
        below.iter().for_each(|at| _ = self.carried.remove(at));
        !below.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Landing::default();
    }

    pub(super) fn covers(&self, path: &[u8]) -> bool {
        !self.is_empty() && (self.paths.contains(path) || self.above.iter().any(|above| path::is_at_or_below(path, above)))
    }
}

impl Landed {
    pub(super) fn add(&mut self, entry: &Entry) {
        let oldest = self.recent.oldest.get_or_insert(entry.epoch);
        *oldest = entry.epoch.min(*oldest);
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

    /// The event of a name that went says itself what became of a change through it.
    pub(super) fn went(&mut self, path: &[u8]) {
        self.recent.carried.remove(path);
        self.settling.carried.remove(path);
    }

    /// A directory went, with all below it: whether changes came through names in it that are
    /// perhaps not followed yet. Reports it once.
    pub(super) fn take_carried(&mut self, dir: &[u8]) -> bool {
        self.recent.uncarry(dir) | self.settling.uncarry(dir)
    }

    pub(super) fn oldest(&self) -> Option<Epoch> {
        self.recent.oldest.into_iter().chain(self.settling.oldest).min()
    }

    pub(super) fn covers(&self, path: &[u8]) -> bool {
        self.recent.covers(path) || self.settling.covers(path)
    }
}
