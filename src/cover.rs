//! Many paths asked about many paths: a sorted list and a binary search, so that n of m cost n log
//! m comparisons, however long the paths.
//! Walking up each path would cost as much as it is deep, and one that a stranger made can have two
//! thousand components.

use crate::path::{self, tree_order};

/// Paths in the order of the tree.
#[derive(Debug, Default)]
pub(crate) struct Cover<'p> {
    all: Vec<&'p [u8]>,
    /// Those of them that are below no other.
    tops: Vec<&'p [u8]>,
}

impl<'p> Cover<'p> {
    /// Of `paths`, in any order.
    pub(crate) fn new<P: AsRef<[u8]> + ?Sized + 'p>(paths: impl IntoIterator<Item = &'p P>) -> Cover<'p> {
        let mut all: Vec<&[u8]> = paths.into_iter().map(AsRef::as_ref).collect();
        all.sort_unstable_by(|a, b| tree_order(a, b));
        let mut tops: Vec<&[u8]> = Vec::new();
        for &path in &all {
            if tops.last().is_none_or(|top| !path::is_at_or_below(path, top)) {
                tops.push(path);
            }
        }
        Cover { all, tops }
    }

    /// Whether `path` is among them.
    pub(crate) fn has(&self, path: &[u8]) -> bool {
        self.all.binary_search_by(|at| tree_order(at, path)).is_ok()
    }

    /// Whether one of them is `path` or lies above it.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        // No top lies below another, so the last one before the path is the only one that can be
        // above.
        let behind = self.tops.partition_point(|top| tree_order(top, path).is_le());
        behind > 0 && path::is_at_or_below(path, self.tops[behind - 1])
    }

    /// Whether one of them is `path` or lies below it.
    pub(crate) fn reaches(&self, path: &[u8]) -> bool {
        let at = self.all.partition_point(|at| tree_order(at, path).is_lt());
        self.all.get(at).is_some_and(|at| path::is_at_or_below(at, path))
    }

    /// Whether one of them is `path`, or lies above or below it.
    pub(crate) fn meets(&self, path: &[u8]) -> bool {
        self.covers(path) || self.reaches(path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_one_would_ask_each(
            paths in prop::collection::vec("[ab-]{1,2}(/[ab-]{1,2}){0,3}|", 0..8),
            asked in prop::collection::vec("[ab-]{1,2}(/[ab-]{1,2}){0,3}|", 0..8),
        ) {
            let cover = Cover::new(paths.iter().map(String::as_bytes));
            for at in &asked {
                let at = at.as_bytes();
                let above = paths.iter().any(|p| path::is_at_or_below(at, p.as_bytes()));
                let below = paths.iter().any(|p| path::is_at_or_below(p.as_bytes(), at));
                prop_assert_eq!(cover.covers(at), above);
                prop_assert_eq!(cover.reaches(at), below);
                prop_assert_eq!(cover.meets(at), above || below);
                prop_assert_eq!(cover.has(at), paths.iter().any(|p| p.as_bytes() == at));
            }
        }
    }
}
