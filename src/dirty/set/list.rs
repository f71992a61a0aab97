//! Listings of pending paths: for people, and for the next start.

use super::{CONTENT, DirtySet, GONE, Kind, ROOT};
use crate::dirty::Epoch;
use crate::path::RelPath;

/// Nodes visited in search of paths that wait: the rest may be in flight, and be many.
const MAX_VISITED: usize = 2000;

/// Nodes visited for each path that was written: there are directories, too, and what goes.
const VISITS_PER_WRITTEN: usize = 10;

/// A path that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    /// Relative to the watch root.
    pub(crate) path: RelPath,
    /// How much of it is to be compared.
    pub(crate) kind: Kind,
    /// When it became dirty.
    pub(crate) epoch: Epoch,
}

impl DirtySet {
    /// Some of the paths that wait, at most `most`, the oldest of these first. Bounded in time, so
    /// of a large set just any.
    pub(crate) fn some_pending(&self, most: usize) -> Vec<Waits> {
        let mut found = Vec::new();
        let mut stack = vec![ROOT];
        let mut visited = 0;
        while let Some(at) = stack.pop() {
            visited += 1;
            if found.len() == most || visited > MAX_VISITED {
                break;
            }
            let n = &self.tree[at];
            if let Some(kind) = n.kind {
                found.push(Waits { path: self.tree.path_of(at), kind, epoch: n.epoch });
            }
            stack.extend(self.tree.children(at).take(MAX_VISITED));
        }
        found.sort_by(|a, b| (a.epoch, &a.path).cmp(&(b.epoch, &b.path)));
        found
    }

    /// Paths that were written and wait, at most `most`, each with when it became dirty; `None` of
    /// one that waits behind the comparison that covers it. Bounded in time, as
    /// [`DirtySet::some_pending`].
    pub(crate) fn written(&self, most: usize) -> Vec<(RelPath, Option<Epoch>)> {
        let mut found: Vec<_> = self.twins.written().take(most).map(|path| (path.clone(), None)).collect();
        let (mut stack, mut visited) = (vec![ROOT], 0);
        while let Some(at) = stack.pop() {
            visited += 1;
            if found.len() >= most || visited > most.saturating_mul(VISITS_PER_WRITTEN) {
                break;
            }
            let n = &self.tree[at];
            if n.kind == Some(Kind::Entry) && n.flags & (CONTENT | GONE) == CONTENT {
                found.push((self.tree.path_of(at), Some(n.epoch)));
            }
            stack.extend(self.tree.children(at));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::Seen;
    use std::time::Duration;

    #[test]
    fn the_oldest_of_what_was_found_comes_first() {
        let mut set = DirtySet::new(100_000);
        assert_eq!(set.some_pending(10), []);
        for (ms, path, seen) in [(100, "b/deep/er", Seen::Written), (200, "a", Seen::Subtree), (300, "a/below", Seen::Written)] {
            set.tick(Duration::from_millis(ms));
            set.see(path.as_bytes(), seen);
        }
        let found: Vec<_> = set.some_pending(10).into_iter().map(|w| (w.path.to_string(), w.kind)).collect();
        assert_eq!(found, [("b/deep/er".into(), Kind::Entry), ("a".into(), Kind::Subtree)]);
        assert_eq!(set.some_pending(1).len(), 1);
        assert_eq!(set.merged(), 1, "a/below is part of a");
    }

    #[test]
    fn what_was_written_waits_by_its_name_or_behind_a_comparison() {
        let mut set = DirtySet::new(100);
        let of = |set: &DirtySet, most| {
            let mut found: Vec<_> = set.written(most).into_iter().map(|(p, at)| (p.to_string(), at.is_some())).collect();
            found.sort();
            found
        };
        for (path, seen) in
            [("d/w", Seen::Written), ("t", Seen::Touched), ("g", Seen::Gone), ("x", Seen::Replaced), ("m", Seen::CreatedDir)]
        {
            set.see(path.as_bytes(), seen);
        }
        assert_eq!(of(&set, 10), [("d/w".into(), true), ("x".into(), true)]);
        assert_eq!(of(&set, 1).len(), 1);
        set.see(b"", Seen::Subtree);
        assert_eq!(of(&set, 10), [("d/w".into(), false), ("x".into(), false)]);
    }

    #[test]
    fn a_large_set_is_not_walked_whole() {
        let mut set = DirtySet::new(100_000);
        (0..50_000).for_each(|i| set.see(format!("d{i}/f").as_bytes(), Seen::Written));
        assert_eq!(set.some_pending(20).len(), 20);
        assert!(set.some_pending(usize::MAX).len() <= MAX_VISITED);
    }
}
