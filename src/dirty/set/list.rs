//! Listings of pending paths: for people, and for the next start.

use super::{CONTENT, DirtySet, GONE, Kind, ROOT};
use crate::dirty::Epoch;
use crate::path::RelPath;

/// Nodes visited in search of paths that wait: the rest may be in flight, and be many.
const MAX_VISITED: usize = 2000;

/// Numbers of nodes visited for each path that was written: there are directories, too, what goes,
/// and numbers that are free. They lie in memory one after the other.
const VISITS_PER_WRITTEN: usize = 100;

/// Up to where a listing of what was written came. A node keeps its number while its path waits in
/// the set, so no such path is passed over, whatever becomes of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListedTo {
    /// The last path behind a comparison.
    twin: Option<RelPath>,
    /// The next node. The root: those paths come before.
    node: u32,
}

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

    /// The next paths behind `to` that were written and wait, at most `most`, each with when it
    /// became dirty; `None` of one that waits behind the comparison that covers it. Bounded in
    /// time. `to` moves on, and back to the beginning after the last one.
    pub(crate) fn written(&self, to: &mut ListedTo, most: usize) -> Vec<(RelPath, Option<Epoch>)> {
        let mut found = Vec::new();
        if to.node == ROOT {
            let after = to.twin.take();
            let mut twins = self.twins.written(after.as_ref());
            found.extend(twins.by_ref().take(most).map(|path| (path.clone(), None)));
            to.twin = twins.next().and(found.last().map(|(path, _)| path.clone()));
            if to.twin.is_some() {
                return found;
            }
        }
        let mut at = to.node.max(ROOT + 1);
        let visits = u32::try_from(most.saturating_mul(VISITS_PER_WRITTEN)).unwrap_or(u32::MAX);
        let until = self.tree.end().min(at.saturating_add(visits));
        while at < until && found.len() < most {
            let n = &self.tree[at];
            if n.kind == Some(Kind::Entry) && n.flags & (CONTENT | GONE) == CONTENT {
                found.push((self.tree.path_of(at), Some(n.epoch)));
            }
            at += 1;
        }
        to.node = if at < self.tree.end() { at } else { ROOT };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
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
            let written = set.written(&mut ListedTo::default(), most);
            let mut found: Vec<_> = written.into_iter().map(|(p, at)| (p.to_string(), at.is_some())).collect();
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
    #[test]
    fn what_was_written_is_listed_in_parts_whatever_comes_and_goes_meanwhile() {
        let mut set = DirtySet::new(1000);
        set.see(b"whole", Seen::Subtree);
        for at in 0..7 {
            set.see(format!("whole/{at}").as_bytes(), Seen::Written);
        }
        for at in 0..25 {
            set.see(format!("d/{at}").as_bytes(), Seen::Written);
        }
        let (mut to, mut found, mut parts) = (ListedTo::default(), Vec::new(), 0);
        loop {
            let part = set.written(&mut to, 3);
            assert!(part.len() <= 3);
            found.extend(part.into_iter().map(|(path, _)| path.to_string()));
            if to == ListedTo::default() {
                break;
            }
            set.see(format!("d/{parts}").as_bytes(), Seen::Gone);
            set.see(format!("new/{parts}").as_bytes(), Seen::Written);
            parts += 1;
        }
        for path in (0..7).map(|at| format!("whole/{at}")).chain((parts..25).map(|at| format!("d/{at}"))) {
            assert!(found.contains(&path), "{path}");
        }
        assert_eq!(set.written(&mut to, 3).len(), 3, "and from the beginning");
    }

    #[test]
    fn a_place_in_a_set_that_has_shrunk_is_its_end() {
        let mut set = DirtySet::new(100_000);
        (0..5000).for_each(|at| set.see(format!("d/{at}").as_bytes(), Seen::Written));
        let mut to = ListedTo::default();
        assert_eq!(set.written(&mut to, 4000).len(), 4000);
        set.see(b"d", Seen::GoneDir);
        let all = Limits { max_paths: usize::MAX, ignore_holds: true };
        for batch in [set.take_deep(all), set.take_shallow(all, &mut |_, _| false)].into_iter().flatten() {
            set.confirm(batch.id, batch.entries);
        }
        assert!(set.tree.end() == 1 && set.written(&mut to, 4000).is_empty());
        assert_eq!(to, ListedTo::default());
    }
}
