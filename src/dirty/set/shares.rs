//! In which order what is pending is taken into a batch that does not take all of it: directories
//! near the top take turns, so that what one user made by ten thousands does not keep another
//! user's file for later batches.
//!
//! Each directory down to [`DEPTH`] levels below the root has a queue of its own; what lies below
//! the last of them is walked in the order of the tree. In its first turn a queue gives one path,
//! then twice as many as before, so that many queues all get into a batch, and few of them do not
//! take turns for each path.
//!
//! Gives up: users are not known here, only directories.

use std::collections::VecDeque;

use super::{BatchId, NONE, NameTree, ROOT};

/// Levels below the root whose directories have queues of their own.
const DEPTH: u8 = 2;

/// Where to go on, and the deep run in flight above.
pub(super) type Step = (u32, Option<BatchId>);

#[derive(Debug)]
struct Share {
    stack: Vec<(Step, u8)>,
    /// Paths in this turn.
    turn: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Shares {
    waiting: VecDeque<Share>,
    /// The one whose turn it is, and how many paths it may give yet.
    now: Share,
    left: usize,
    depth: u8,
}

impl Shares {
    /// Of the whole tree.
    pub(super) fn new() -> Shares {
        let now = Share { stack: vec![((ROOT, None), 0)], turn: 1 };
        Shares { waiting: VecDeque::new(), now, left: 1, depth: 0 }
    }

    /// Of these children of the root.
    pub(super) fn of(tops: &[u32], nodes: &NameTree) -> Shares {
        let mut shares = Shares { now: Share { stack: Vec::new(), turn: 1 }, ..Shares::new() };
        shares.descend(nodes, tops.iter().copied(), None);
        shares
    }

    /// The next node.
    pub(super) fn next(&mut self) -> Option<Step> {
        if self.left == 0 || self.now.stack.is_empty() {
            self.turn();
        }
        let (step, depth) = self.now.stack.pop()?;
        self.depth = depth;
        Some(step)
    }

    fn turn(&mut self) {
        let Some(next) = self.waiting.pop_front() else {
            self.now.turn = usize::MAX; // alone
            self.left = usize::MAX;
            return;
        };
        let mut last = std::mem::replace(&mut self.now, next);
        if !last.stack.is_empty() {
            last.turn = last.turn.saturating_mul(2);
            self.waiting.push_back(last);
        }
        self.left = self.now.turn;
    }

    /// So many paths were taken at the last node.
    pub(super) fn took(&mut self, paths: usize) {
        self.left = self.left.saturating_sub(paths);
    }

    /// Goes down to the children of the last node.
    pub(super) fn descend(&mut self, nodes: &NameTree, children: impl Iterator<Item = u32>, over: Option<BatchId>) {
        let (from, depth) = (self.now.stack.len(), self.depth);
        for child in children {
            let step = ((child, over), (depth + 1).min(DEPTH));
            if depth < DEPTH && nodes[child].first_child != NONE {
                self.waiting.push_back(Share { stack: vec![step], turn: 1 });
            } else {
                self.now.stack.push(step);
            }
        }
        self.now.stack[from..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    /// Of `many` files in the directory of one user and one of another, what the first batch of
    /// `most` paths has of the other's.
    fn first_batch(many: &str, other: &str, most: usize) -> (usize, bool) {
        let mut set = DirtySet::new(1_000_000);
        for n in 0..1_000 {
            set.see(many.replace('#', &n.to_string()).as_bytes(), Seen::Written);
        }
        set.see(other.as_bytes(), Seen::Written);
        let batch = set.take_shallow(Limits { max_paths: most, ignore_holds: true }, &mut |_, _| false).unwrap();
        (batch.entries.len(), batch.entries.iter().any(|e| *e.path == *other.as_bytes()))
    }

    #[test]
    fn one_users_flood_leaves_room_for_anothers_file() {
        for (many, other) in [
            ("u/f#", "v/f"),
            ("u/f#", "top"),
            ("f#", "v/f"),
            ("f#", "v/deep/er/f"),
            ("u/d#/f", "v/f"),
            ("u/d#/e/f", "v/f"),
            ("home/u/f#", "home/v/f"),
            ("home/u/a/b/c/f#", "home/v/a/b/c/f"),
        ] {
            assert_eq!(first_batch(many, other, 100), (100, true), "{many} and {other}");
            assert_eq!(first_batch(many, other, 5_000), (1_001, true), "{many} and {other}");
        }
    }

    #[test]
    fn what_lies_beside_a_flood_is_taken_without_it() {
        let all = Limits { max_paths: 100, ignore_holds: true };
        let taken = |set: &mut DirtySet, tops: &[&str]| {
            let tops = tops.iter().map(|top| top.as_bytes().to_vec()).collect();
            let batch = set.take_beside(all, &tops);
            let paths = batch.into_iter().flat_map(|b| b.entries).map(|e| e.path.to_string());
            paths.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let mut set = DirtySet::new(1_000);
        for path in ["u/1", "u/2", "v/f", "v/d/f", "top", "uu/f"] {
            set.see(path.as_bytes(), Seen::Written);
        }
        assert_eq!(taken(&mut set, &["u"]), ["top", "uu/f", "v/d/f", "v/f"]);
        assert!(taken(&mut set, &["u"]).is_empty(), "in flight");
        assert_eq!(taken(&mut set, &["v"]), ["u/1", "u/2"]);
        // Nothing passes a comparison that covers it.
        for kind in [Seen::Contents, Seen::Subtree] {
            let mut set = DirtySet::new(1_000);
            set.see(b"v/f", Seen::Written);
            set.see(b"", kind);
            assert!(taken(&mut set, &["u"]).is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn all_of_it_leaves_in_as_few_batches() {
        let mut set = DirtySet::new(1_000_000);
        let mut all = std::collections::BTreeSet::new();
        for n in 0..3_000 {
            let path = format!("{}/{}/{}/f{n}", n % 7, n % 11, n % 13);
            set.see(path.as_bytes(), Seen::Written);
            all.insert(path);
        }
        let (mut batches, mut left) = (0, std::collections::BTreeSet::new());
        while let Some(batch) = set.take_shallow(Limits { max_paths: 500, ignore_holds: true }, &mut |_, _| false) {
            batches += 1;
            left.extend(batch.entries.iter().map(|e| e.path.to_string()));
        }
        assert_eq!((batches, left == all), (6, true));
    }
}
