//! The bound on pending paths.

use super::*;

impl DirtySet {
    /// Makes directories coarser until a good part of the bound is free again: first directories
    /// with several dirty children become `Contents`, then whole subtrees, the deepest first,
    /// become `Subtree`.
    pub(super) fn coarsen(&mut self) {
        self.coarsened += 1;
        let goal = self.max_pending / 2;
        let by_depth = self.directories_by_depth();
        for level in by_depth.iter().rev() {
            for &at in level {
                let dirty = self
                    .tree
                    .children(at)
                    .filter(|&c| self.tree[c].kind == Some(Kind::Entry) && self.tree[c].flags & GONE == 0)
                    .count();
                if dirty >= 2 {
                    let epoch = self.epochs.current();
                    self.level(at, epoch, true);
                }
            }
            if self.tally.pending <= goal {
                return;
            }
        }
        for level in by_depth.iter().rev() {
            for &at in level {
                if self.tree[at].first_child != NONE {
                    let path = self.tree.path_of(at);
                    self.see(&path, Seen::Subtree);
                }
            }
            if self.tally.pending <= goal {
                return;
            }
        }
    }

    /// Nodes with children, by depth, the root first.
    fn directories_by_depth(&self) -> Vec<Vec<u32>> {
        let mut levels = vec![vec![ROOT]];
        while let Some(last) = levels.last() {
            let next: Vec<u32> =
                last.iter().flat_map(|&at| self.tree.children(at)).filter(|&c| self.tree[c].first_child != NONE).collect();
            if next.is_empty() {
                break;
            }
            levels.push(next);
        }
        levels
    }
}
