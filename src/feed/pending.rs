//! What a follower has read and does not hold yet: paths, merged in the order of the records.
//!
//! Unlike a source it cannot read the tree of the source, so it keeps what the last
//! record said of a name. What was deleted and is there again as a directory is another directory,
//! and compared whole.
//!
//! What is no directory has nothing below it. rsync would follow a symbolic link to what is listed
//! below it, or that is entered, and make it a directory, with exit code 0. So a name that a record
//! says is no directory takes along all that was to be pulled below it, and is listed by itself.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::moves::Thing;
use super::record::Item;
use crate::dirty::Kind;
use crate::path::{self, RelPath};

/// Which files a run takes for equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Those of equal size and times.
    SizeAndTimes,
    /// None: all are sent.
    Nothing,
    /// Those of equal content: both sides read them.
    Content,
}

/// What is to be done about a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// How much of it is pulled.
    pub kind: Kind,
    /// The last record said that nothing has this name.
    pub gone: bool,
    /// What is taken for equal.
    pub trust: Trust,
    /// The first record that it is of.
    pub sequence: u64,
    /// How often it has failed.
    pub round: u32,
    /// It was gone in between.
    was_gone: bool,
    /// It may be a directory.
    directory: bool,
    /// The last record that it is of.
    last: u64,
}

impl Need {
    /// What `item` of the record with this sequence asks for.
    pub(super) fn of(item: &Item, sequence: u64) -> Need {
        let directory = item.directory && !item.gone;
        let kind = if directory { item.kind } else { Kind::Entry };
        let trust = if item.content { Trust::Nothing } else { Trust::SizeAndTimes };
        Need { kind, gone: item.gone, trust, sequence, round: 0, was_gone: item.gone, directory, last: sequence }
    }

    /// A comparison of this extent, in place of something that failed so often.
    pub(super) fn compare(kind: Kind, sequence: u64, round: u32) -> Need {
        let trust = Trust::SizeAndTimes;
        Need { kind, gone: false, trust, sequence, round, was_gone: false, directory: true, last: 0 }
    }

    /// A comparison by content of what got its name here, and may have another one at the source.
    pub(super) fn moved(thing: Thing, sequence: u64) -> Need {
        let kind = if thing == Thing::Directory { Kind::Subtree } else { Kind::Entry };
        Need { trust: Trust::Content, was_gone: true, ..Need::compare(kind, sequence, 0) }
    }

    /// A name that may be gone.
    pub(super) fn gone(sequence: u64, round: u32) -> Need {
        let trust = Trust::SizeAndTimes;
        Need { kind: Kind::Entry, gone: true, trust, sequence, round, was_gone: true, directory: true, last: 0 }
    }

    /// Whether a directory of this name may be another one than was here, and is not compared
    /// whole.
    pub(super) fn may_be_another(&self) -> bool {
        (self.was_gone || !self.directory) && self.kind < Kind::Subtree
    }

    /// With what came later.
    fn then(&self, later: &Need) -> Need {
        let was_gone = self.was_gone || later.was_gone;
        let kind = match () {
            () if later.gone || !later.directory => Kind::Entry,
            // What was no directory in between is another one than was here.
            () if self.was_gone || !self.directory => Kind::Subtree,
            () => self.kind.max(later.kind),
        };
        Need {
            kind,
            gone: later.gone,
            trust: self.trust.max(later.trust),
            sequence: self.sequence.min(later.sequence),
            round: self.round.max(later.round),
            was_gone,
            directory: later.directory,
            last: self.last.max(later.last),
        }
    }

    /// Whether its run may delete something.
    pub fn deletes(&self) -> bool {
        self.gone || self.was_gone || self.kind > Kind::Entry
    }
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    paths: BTreeMap<RelPath, Need>,
    /// How many paths are of a record.
    sequences: BTreeMap<u64, usize>,
}

impl Pending {
    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The oldest record that is not done with.
    pub fn oldest(&self) -> Option<u64> {
        self.sequences.keys().next().copied()
    }

    /// Some of the paths, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&RelPath, &Need)> {
        self.paths.iter()
    }

    /// Whether this is one of the paths.
    pub(super) fn has(&self, path: &RelPath) -> bool {
        self.paths.contains_key(path)
    }

    /// Whether one of the paths is at, above or below this one.
    pub(super) fn touches(&self, path: &RelPath) -> bool {
        super::machine::touches(&self.paths, path)
    }

    /// Takes in what a record says, which is newer than all that is here.
    pub fn see(&mut self, item: &Item, sequence: u64) {
        let mut need = Need::of(item, sequence);
        // The record of a directory in that place may come behind those of what is in it.
        if item.gone && self.is_taken_along(&item.path, &Need { last: 0, ..need.clone() }) {
            return;
        }
        if !need.directory || need.kind == Kind::Subtree {
            // It takes all below it along.
            for path in self.below(&item.path) {
                need.sequence = need.sequence.min(self.remove(&path).map_or(u64::MAX, |old| old.sequence));
            }
        }
        let need = match self.remove(&item.path) {
            Some(old) => old.then(&need),
            None => need,
        };
        self.insert(item.path.clone(), need);
    }

    /// Whether something above a path is no directory since a record as late as the last one of
    /// `need`, and takes along what is to be pulled there.
    pub(super) fn is_taken_along(&mut self, path: &RelPath, need: &Need) -> bool {
        let mut above = path::parent(path);
        while let Some(at) = above.filter(|at| !at.is_empty()) {
            if self.paths.get(at).is_some_and(|above| !above.directory && above.last >= need.last)
                && let Some(mut above) = self.remove(at)
            {
                above.sequence = above.sequence.min(need.sequence);
                self.insert(RelPath::from_normal(at), above);
                return true;
            }
            above = path::parent(at);
        }
        false
    }

    /// Takes back what left and was not done, which is older than all that is here.
    pub fn restore(&mut self, path: RelPath, need: Need) {
        if self.is_taken_along(&path, &need) {
            return;
        }
        let need = match self.remove(&path) {
            Some(later) => need.then(&later),
            None => need,
        };
        self.insert(path, need);
    }

    /// Takes out at most `most` paths for which `fits` holds.
    pub fn take(&mut self, most: usize, fits: impl Fn(&Need) -> bool) -> Vec<(RelPath, Need)> {
        let paths: Vec<RelPath> =
            self.paths.iter().filter(|(_, need)| fits(need)).take(most).map(|(path, _)| path.clone()).collect();
        paths.into_iter().filter_map(|path| self.remove(&path).map(|need| (path, need))).collect()
    }

    /// Forgets everything: a comparison of the whole tree stands for it.
    pub fn clear(&mut self) {
        *self = Pending::default();
    }

    fn below(&self, dir: &RelPath) -> Vec<RelPath> {
        if dir.is_root() {
            return self.paths.keys().filter(|path| !path.is_root()).cloned().collect();
        }
        let mut from = dir.to_vec();
        from.push(b'/');
        let range = (Bound::Included(&from[..]), Bound::Unbounded);
        let all = self.paths.range::<[u8], _>(range).map(|(path, _)| path);
        all.take_while(|path| path::is_at_or_below(path, dir)).cloned().collect()
    }

    fn insert(&mut self, path: RelPath, need: Need) {
        *self.sequences.entry(need.sequence).or_default() += 1;
        self.paths.insert(path, need);
    }

    fn remove(&mut self, path: &[u8]) -> Option<Need> {
        let need = self.paths.remove(path)?;
        if let Some(count) = self.sequences.get_mut(&need.sequence) {
            *count -= 1;
            if *count == 0 {
                self.sequences.remove(&need.sequence);
            }
        }
        Some(need)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, kind: Kind, gone: bool, directory: bool) -> Item {
        Item { path: RelPath::new(path.as_bytes()).unwrap(), kind, gone, directory, content: false, to: None }
    }

    fn shown(pending: &Pending) -> Vec<(String, Kind, bool, u64)> {
        pending.iter().map(|(path, need)| (path.to_string(), need.kind, need.gone, need.sequence)).collect()
    }

    #[test]
    fn what_is_gone_takes_along_what_was_to_be_pulled_below_it() {
        let mut pending = Pending::default();
        for (path, sequence) in [("a/b/c", 1), ("a/b", 2), ("a/b0", 2), ("a", 3)] {
            pending.see(&item(path, Kind::Entry, false, true), sequence);
        }
        pending.see(&item("a/b", Kind::Entry, true, false), 4);
        let want = [("a", 3, false), ("a/b", 1, true), ("a/b0", 2, false)];
        assert_eq!(shown(&pending), want.map(|(p, n, gone)| (p.to_owned(), Kind::Entry, gone, n)));
        assert_eq!(pending.oldest(), Some(1));
        assert_eq!(pending.take(10, |need| need.gone).len(), 1);
        assert_eq!((pending.oldest(), pending.len()), (Some(2), 2));
        pending.see(&item("", Kind::Subtree, false, true), 9);
        assert_eq!(shown(&pending), [(".".to_owned(), Kind::Subtree, false, 2)]);
    }

    #[test]
    fn what_is_no_directory_has_nothing_below_it() {
        let mut pending = Pending::default();
        pending.see(&item("a/b", Kind::Contents, false, true), 1);
        pending.see(&item("a/b/c", Kind::Entry, false, false), 2);
        let left = pending.take(1, |need| need.kind == Kind::Entry);
        // A link is in its place.
        pending.see(&item("a/b", Kind::Entry, false, false), 3);
        assert_eq!(shown(&pending), [("a/b".into(), Kind::Entry, false, 1)], "it is not entered");
        left.into_iter().for_each(|(path, need)| pending.restore(path, need));
        pending.see(&item("a/b/c", Kind::Entry, true, false), 3);
        assert_eq!(shown(&pending), [("a/b".into(), Kind::Entry, false, 1)]);
        // A directory again, whose own record comes behind that of what is in it.
        pending.see(&item("a/b/d", Kind::Entry, false, false), 4);
        let left = pending.take(1, |need| need.sequence == 4);
        left.into_iter().for_each(|(path, need)| pending.restore(path, need));
        pending.see(&item("a/b", Kind::Contents, false, true), 5);
        assert_eq!(shown(&pending), [("a/b".into(), Kind::Subtree, false, 1), ("a/b/d".into(), Kind::Entry, false, 4)]);
    }

    #[test]
    fn a_directory_that_was_gone_is_another_one() {
        for (directory, kind) in [(true, Kind::Subtree), (false, Kind::Entry)] {
            let mut pending = Pending::default();
            pending.see(&item("d", Kind::Entry, true, false), 1);
            pending.see(&item("d", Kind::Entry, false, directory), 2);
            assert_eq!(shown(&pending), [("d".into(), kind, false, 1)], "directory: {directory}");
            assert!(pending.iter().all(|(_, need)| need.deletes()));
        }
        let mut pending = Pending::default();
        pending.see(&item("d", Kind::Contents, false, true), 1);
        pending.see(&item("d", Kind::Entry, true, false), 2);
        assert_eq!(shown(&pending), [("d".into(), Kind::Entry, true, 1)]);
    }

    #[test]
    fn what_comes_back_is_older_than_what_came_meanwhile() {
        let mut pending = Pending::default();
        pending.see(&item("d", Kind::Entry, true, false), 1);
        let left = pending.take(1, |_| true);
        pending.see(&item("d", Kind::Entry, false, true), 2);
        left.into_iter().for_each(|(path, need)| pending.restore(path, need));
        assert_eq!(shown(&pending), [("d".into(), Kind::Subtree, false, 1)]);
        let left = pending.take(1, |_| true);
        pending.see(&item("d", Kind::Entry, true, false), 3);
        left.into_iter().for_each(|(path, need)| pending.restore(path, need));
        assert_eq!(shown(&pending), [("d".into(), Kind::Entry, true, 1)]);
    }

    #[test]
    fn a_directory_in_the_place_of_what_was_none_is_another_one() {
        let none = item("d", Kind::Entry, false, false);
        let mut pending = Pending::default();
        pending.see(&none, 1);
        assert!(pending.iter().all(|(_, need)| need.may_be_another()), "where a directory is found after its run");
        pending.see(&item("d", Kind::Entry, false, true), 2);
        assert_eq!(shown(&pending), [("d".into(), Kind::Subtree, false, 1)], "it was never gone");
        let mut pending = Pending::default();
        pending.see(&item("d", Kind::Entry, false, true), 1);
        assert!(pending.iter().all(|(_, need)| !need.may_be_another()));
        pending.see(&item("d", Kind::Contents, false, true), 2);
        assert_eq!(shown(&pending), [("d".into(), Kind::Contents, false, 1)], "it is the same one");
    }
}
