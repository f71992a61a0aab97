//! Names that a follower gives by itself to what its source renamed, so that it is not pulled
//! again. Pure.
//!
//! What gets such a name is compared by content afterwards, whatever its size and times: the
//! follower may have pulled what was at the old name after the rename, or another program may have
//! changed it. Until a run has done that the name is *doubted*. Doubts outlive the process: they
//! are to be on the disk before the name is given. Nothing else rests on what a record says of a
//! rename, so that a wrong hint costs a comparison and no more.

use std::collections::{BTreeMap, VecDeque};

use super::pending::{Need, Trust};
use super::record::Item;
use crate::dirty::Kind;
use crate::path::{self, RelPath};

/// Names that wait to be given; of what is renamed beyond that, the content is pulled.
const MOST: usize = 1_000;

/// One name that is to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The old name.
    pub from: RelPath,
    /// The new one.
    pub to: RelPath,
    /// The record that says so.
    pub(super) sequence: u64,
}

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// With all below it.
    Directory,
    /// A regular file.
    File,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Moves {
    waiting: VecDeque<Move>,
    doubted: BTreeMap<RelPath, Thing>,
}

impl Moves {
    /// What an earlier process left.
    pub(super) fn of(doubted: impl IntoIterator<Item = (RelPath, Thing)>) -> Moves {
        Moves { waiting: VecDeque::new(), doubted: doubted.into_iter().collect() }
    }

    /// An entry of a record.
    pub(super) fn see(&mut self, item: &Item, sequence: u64) {
        let Some(to) = item.to.as_ref().filter(|_| item.gone && self.waiting.len() < MOST) else { return };
        if !path::is_at_or_below(to, &item.path) && !path::is_at_or_below(&item.path, to) {
            self.waiting.push_back(Move { from: item.path.clone(), to: to.clone(), sequence });
        }
    }

    /// The whole tree is to be compared.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Whether a name waits to be given.
    pub(super) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn next(&mut self) -> Option<Move> {
        self.waiting.pop_front()
    }

    /// This name is about to be given. `false`: it is doubted already, of another thing maybe,
    /// which is not to be forgotten.
    pub(super) fn doubt(&mut self, to: &RelPath, thing: Thing) -> bool {
        let new = !self.doubted.contains_key(to);
        if new {
            self.doubted.insert(to.clone(), thing);
        }
        new
    }

    /// It was not given.
    pub(super) fn trust(&mut self, to: &RelPath) {
        self.doubted.remove(to);
    }

    /// All others are not there.
    pub(super) fn keep(&mut self, is_there: impl Fn(&RelPath) -> bool) {
        self.doubted.retain(|path, _| is_there(path));
    }

    pub(super) fn doubted(&self) -> impl Iterator<Item = (&RelPath, Thing)> {
        self.doubted.iter().map(|(path, thing)| (path, *thing))
    }

    /// A run holds `path` as `need` asks for: what of the doubted names at and below it is still to
    /// be compared. `is_dir`: whether a path here is a directory now.
    pub(super) fn held(&mut self, path: &RelPath, need: &Need, is_dir: &dyn Fn(&RelPath) -> bool) -> Vec<(RelPath, Thing)> {
        if self.doubted.is_empty() {
            return Vec::new();
        }
        let by_content = need.trust > Trust::SizeAndTimes;
        let whole = need.kind == Kind::Subtree;
        let settled = |at: &RelPath, thing: Thing| match () {
            // Nothing is below what is no directory.
            () if at != path => by_content && whole || !is_dir(path),
            () if thing == Thing::Directory && !is_dir(at) => true,
            () => by_content && (whole || thing == Thing::File),
        };
        self.doubted.retain(|at, thing| !path::is_at_or_below(at, path) || !settled(at, *thing));
        let left = self.doubted.iter().filter(|(at, _)| path::is_at_or_below(at, path));
        left.map(|(at, thing)| (at.clone(), *thing)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_is_doubted_until_a_run_has_compared_its_content_or_it_is_not_there() {
        let moved = |thing| Need::moved(thing, 1);
        let quick = |kind| Need::compare(kind, 1, 0);
        let cases = [
            ("d", moved(Thing::Directory), true, &["f"][..]),
            ("d", quick(Kind::Subtree), true, &["d", "d/e/f", "f"]),
            ("d", quick(Kind::Entry), true, &["d", "d/e/f", "f"]),
            ("d", Need::gone(1, 0), false, &["f"]),
            ("d/e", Need::gone(1, 0), false, &["d", "f"]),
            ("d/e", moved(Thing::Directory), true, &["d", "f"]),
            ("f", moved(Thing::File), false, &["d", "d/e/f"]),
            ("f", quick(Kind::Entry), false, &["d", "d/e/f", "f"]),
            ("", quick(Kind::Subtree), true, &["d", "d/e/f", "f"]),
        ];
        for (at, need, dir, want) in cases {
            let mut moves = Moves::of([(path("d"), Thing::Directory), (path("d/e/f"), Thing::File), (path("f"), Thing::File)]);
            let left = moves.held(&path(at), &need, &|_| dir);
            let doubted: Vec<String> = moves.doubted().map(|(path, _)| path.to_string()).collect();
            assert_eq!(doubted, want, "{at:?} {need:?}");
            let below: Vec<RelPath> = want.iter().map(|p| path(p)).filter(|p| path::is_at_or_below(p, &path(at))).collect();
            assert_eq!(left.into_iter().map(|(path, _)| path).collect::<Vec<_>>(), below, "{at:?}");
        }
    }

    #[test]
    fn only_what_can_be_a_rename_waits() {
        let gone = |from: &str, to: &str| Item {
            path: path(from),
            kind: Kind::Entry,
            gone: true,
            directory: false,
            content: false,
            to: Some(path(to)),
        };
        let mut moves = Moves::default();
        for item in [gone("a", "a"), gone("a", "a/b"), gone("a/b", "a"), Item { gone: false, ..gone("a", "b") }] {
            moves.see(&item, 1);
            assert!(!moves.wait(), "{item:?}");
        }
        (0..MOST + 5).for_each(|_| moves.see(&gone("a", "b"), 1));
        assert_eq!(std::iter::from_fn(|| moves.next()).count(), MOST);
    }
}
