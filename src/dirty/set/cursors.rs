//! Where directories were found: events come in runs of one directory, or in turn from some
//! hundred, and the walk down from the root, one hash look-up for each component, would be most of
//! the work of merging one.
//!
//! What is remembered of a directory holds while its node is not taken out, and nothing above
//! becomes a subtree, one half of a rename, or comes to lie in a batch: code that does such a thing
//! calls [`Cursors::lose`], and all is forgotten.
//!
//! Of each directory the entry that was seen last is kept as well: what is seen next is often the
//! same one once more, or the one that became dirty after it, and a comparison of names is less
//! than a check-up.
//!
//! Gives up: directories at the same place of the table push each other out, and are walked to.

use super::ROOT;
use crate::hash;

/// Directories remembered at a time, a power of two.
const SLOTS: usize = 1024;
/// Places that one directory may have: neighbours, so that two do not always push each other out.
const WAYS: usize = 2;
/// The directory of a path, and the one above, for a tree of directories that are new or hold
/// little.
const LEVELS: usize = 2;

/// See the module's text.
#[derive(Default)]
pub(super) struct Cursors {
    /// Empty until one is remembered.
    slots: Vec<Cursor>,
    /// Slots of another age are empty.
    age: u64,
}

#[derive(Clone, Default)]
struct Cursor {
    age: u64,
    found: Found,
    dir: Vec<u8>,
}

/// A directory's node.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) at: u32,
    /// Something above it is in flight, and perhaps what is below as well.
    pub(super) flying_above: bool,
    /// The entry of it that was seen last. Only a hint: it may be another directory's by now, or
    /// none at all.
    pub(super) last: u32,
    /// The one before was its neighbour.
    pub(super) in_turn: bool,
}

/// Where a walk begins.
pub(super) struct Start<'p> {
    pub(super) found: Found,
    /// What is left of the path from there.
    pub(super) rest: &'p [u8],
    /// Of what was remembered.
    slot: Option<usize>,
}

impl Cursors {
    /// All that is remembered holds no more.
    pub(super) fn lose(&mut self) {
        self.age += 1;
    }

    fn place(dir: &[u8]) -> usize {
        hash::of(dir) as usize % SLOTS
    }

    /// Where to begin with `path`: at its directory, at the one above that, or at the root.
    #[inline]
    pub(super) fn start<'p>(&self, path: &'p [u8]) -> Start<'p> {
        let mut dir = path;
        for _ in 0..LEVELS {
            dir = match memchr::memrchr(b'/', dir) {
                Some(end) => &dir[..end],
                None => break,
            };
            if let Some(slot) = self.get(dir) {
                return Start { found: self.slots[slot].found, rest: &path[dir.len() + 1..], slot: Some(slot) };
            }
        }
        Start { found: Found { at: ROOT, ..Found::default() }, rest: path, slot: None }
    }

    #[inline]
    fn get(&self, dir: &[u8]) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let place = Self::place(dir);
        let fits = |&at: &usize| self.slots[at].age == self.age && *self.slots[at].dir == *dir;
        (0..WAYS).map(|way| place ^ way).find(fits)
    }

    /// An entry of the directory that a walk began at was seen.
    #[inline]
    pub(super) fn passed(&mut self, start: &Start<'_>, last: u32, in_turn: bool) {
        if let Some(slot) = start.slot {
            let found = &mut self.slots[slot].found;
            (found.last, found.in_turn) = (last, in_turn);
        }
    }

    /// Remembers where `dir` is.
    pub(super) fn set(&mut self, dir: &[u8], found: Found) {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, Cursor { age: u64::MAX, ..Cursor::default() });
        }
        let place = Self::place(dir);
        let free = (0..WAYS).map(|way| place ^ way).find(|&at| self.slots[at].age != self.age);
        let slot = &mut self.slots[free.unwrap_or(place)];
        (slot.age, slot.found) = (self.age, found);
        slot.dir.clear();
        slot.dir.extend_from_slice(dir);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::*;

    const ALL: Limits = Limits { max_paths: 3, ignore_holds: true };

    #[derive(Clone, Debug)]
    enum Step {
        See(String, Seen),
        Take(bool),
        /// The oldest batch in flight ended well, or not.
        Land(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        use Seen::*;
        let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..5).prop_map(|names| names.join("/"));
        let kinds = vec![
            Written, Written, Written, Modified, Touched, Created, Created, Gone, Gone, CreatedDir, GoneDir, Contents, MovedDir,
            Subtree, Left, Arrived, LeftDir, ArrivedDir,
        ];
        prop_oneof![
            8 => (path, prop::sample::select(kinds)).prop_map(|(path, seen)| Step::See(path, seen)),
            1 => any::<bool>().prop_map(Step::Take),
            1 => any::<bool>().prop_map(Step::Land),
        ]
    }

    /// What a history leads to, step by step. `from_root`: nothing is remembered from one step to
    /// the next.
    fn log(steps: &[Step], from_root: bool) -> Vec<String> {
        let (mut set, mut flying, mut log) = (DirtySet::new(12), std::collections::VecDeque::new(), Vec::new());
        for step in steps {
            if from_root {
                set.cursors.lose();
            }
            match step {
                Step::See(path, seen) => set.see(path.as_bytes(), *seen),
                Step::Take(deep) => {
                    let batch = if *deep { set.take_deep(ALL) } else { set.take_shallow(ALL, &mut |_, _| false) };
                    log.push(format!("{batch:?}"));
                    flying.extend(batch.into_iter().chain(set.take_moves(2).map(|moves| moves.batch)));
                }
                Step::Land(well) => {
                    let Some(Batch { id, entries, .. }) = flying.pop_front() else { continue };
                    if *well {
                        assert!(set.confirm(id, entries).is_empty());
                    } else {
                        set.park(id, &entries);
                        entries.into_iter().for_each(|entry| set.restore(entry));
                    }
                }
            }
            log.push(format!("{step:?}: {} {:?} {:?}", set.pending(), set.some_pending(100), set.merged()));
        }
        log
    }

    proptest! {
        #[test]
        fn what_is_remembered_changes_nothing(steps in prop::collection::vec(step(), 1..120)) {
            prop_assert_eq!(log(&steps, false), log(&steps, true));
        }
    }

    #[test]
    fn directories_that_push_each_other_out_are_found() {
        let mut set = DirtySet::new(1_000_000);
        for _ in 0..2 {
            for n in 0..4 * super::SLOTS {
                set.see(format!("d{n}/sub/f").as_bytes(), Seen::Written);
            }
        }
        assert_eq!(set.pending(), 4 * super::SLOTS);
    }
}
