//! What was written below something that is compared whole.
//!
//! A comparison takes files of the same size and time for equal. So a path that was written, and is
//! covered by a subtree that is compared that way, is remembered here, up to [`MAX_TWINS`], and
//! becomes pending again by itself when the subtree leaves: it goes after it, with its content.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::*;

/// Paths remembered. What goes beyond, or beyond half of `max_pending`, is trusted as rsync trusts:
/// a file rewritten with the same size and time stays as it was.
const MAX_TWINS: usize = 10_000;

#[derive(Default)]
pub(super) struct Twins {
    paths: BTreeMap<RelPath, Seen>,
}

fn rank(seen: Seen) -> u8 {
    match seen {
        Seen::Written | Seen::Replaced => 1,
        Seen::Gone => 2,
        Seen::MovedDir => 3,
        _ => 0,
    }
}

/// What was seen of a path that is pending with its content in doubt.
pub(super) fn told_by(kind: Kind, gone: bool) -> Seen {
    match kind {
        Kind::Entry if gone => Seen::Gone,
        Kind::Entry => Seen::Written,
        Kind::Contents => Seen::Contents,
        Kind::Subtree => Seen::MovedDir,
    }
}

impl Twins {
    /// Remembers that `seen` happened to `path`, if it puts the content in doubt.
    pub(super) fn remember(&mut self, path: &[u8], seen: Seen) {
        let seen = match seen {
            Seen::Created => Seen::Written,
            Seen::GoneDir => Seen::Gone,
            other => other,
        };
        if rank(seen) == 0 {
            return;
        }
        if let Some(known) = self.paths.get_mut(path) {
            if rank(*known) < rank(seen) {
                *known = seen;
            }
        } else if self.paths.len() < MAX_TWINS {
            self.paths.insert(RelPath::from_normal(path), seen);
        }
    }

    /// Files among them that are there, by path: those behind `after`, or all.
    pub(super) fn written(&self, after: Option<&RelPath>) -> impl Iterator<Item = &RelPath> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let paths = self.paths.range::<RelPath, _>((from, Bound::Unbounded));
        paths.filter(|(_, seen)| rank(**seen) == 1).map(|(path, _)| path)
    }

    /// Takes out what lies below `top`.
    pub(super) fn below(&mut self, top: &[u8]) -> Vec<(RelPath, Seen)> {
        let found: Vec<RelPath> = self.paths.keys().filter(|p| path::is_at_or_below(p, top)).cloned().collect();
        found.into_iter().filter_map(|p| self.paths.remove_entry(&p)).collect()
    }
}

impl DirtySet {
    /// The subtree at `top` leaves: what was written below it goes after it.
    pub(super) fn send_twins_after(&mut self, top: &[u8], epoch: Epoch) {
        for (path, seen) in self.twins.below(top) {
            // Not so many that they would make the whole coarse again, which they would follow
            // again.
            if *path != *top && self.tally.pending < self.max_pending / 2 {
                self.see_since(&path, seen, epoch);
            }
        }
    }
}
