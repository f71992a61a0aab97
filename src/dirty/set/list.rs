//! A listing of pending paths, for people.

use super::{DirtySet, Kind, ROOT};
use crate::dirty::Epoch;
use crate::path::RelPath;

/// Nodes visited in search of paths that wait: the rest may be in flight, and be many.
const MAX_VISITED: usize = 2000;

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
    fn a_large_set_is_not_walked_whole() {
        let mut set = DirtySet::new(100_000);
        (0..50_000).for_each(|i| set.see(format!("d{i}/f").as_bytes(), Seen::Written));
        assert_eq!(set.some_pending(20).len(), 20);
        assert!(set.some_pending(usize::MAX).len() <= MAX_VISITED);
    }
}
