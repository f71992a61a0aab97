//! How many processes carry batches at a time, and which files wait for a lane of their own. Pure.
//!
//! Promises: never more than `jobs` + `small_jobs` of them, whatever they carry; each counts in the
//! lane it left by. A file that takes long by its size alone (a disk image, a terabyte of nothing)
//! takes neither the small lane nor the bulk lane from others: large files share half of all
//! processes, one file each, and what lies below different directories at the top takes turns.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use crate::dirty::{Entry, Kind};
use crate::path::RelPath;

/// From this size on a file travels alone, in a lane of its own.
pub(super) const LARGE_FILE: u64 = 64 * 1024 * 1024;
/// The same of one that is read on both sides and most likely equal: alone it can rest.
pub(super) const READ_ALONE: u64 = 16 * 1024 * 1024;

/// What a batch travels by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Few paths.
    Small,
    /// Many, or what compares.
    Bulk,
    /// One large file.
    Large,
}

impl Lane {
    /// The lane of a batch of few paths or many, where small runs and bulk runs have room. `None`:
    /// it waits for the end of a run; a small lane that is free is of no use to many. A comparison
    /// (`deep`) needs a bulk lane; few paths that are pending beside it do not wait for that lane.
    pub(super) fn of(few: bool, deep: bool, (small, bulk): (bool, bool)) -> Option<Lane> {
        match (few && small, bulk) {
            (true, false) => Some(Lane::Small),
            (true, true) if !deep => Some(Lane::Small),
            (_, true) => Some(Lane::Bulk),
            (false, false) => None,
        }
    }
}

/// Processes under way, by lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lanes {
    pub(super) small: usize,
    pub(super) bulk: usize,
    pub(super) large: usize,
}

impl Lanes {
    pub(super) fn of(lanes: impl Iterator<Item = Lane>) -> Lanes {
        let mut count = Lanes::default();
        for lane in lanes {
            match lane {
                Lane::Small => count.small += 1,
                Lane::Bulk => count.bulk += 1,
                Lane::Large => count.large += 1,
            }
        }
        count
    }

    pub(super) fn all(&self) -> usize {
        self.small + self.bulk + self.large
    }

    /// Whether one more may start in `lane`.
    pub(super) fn room(&self, lane: Lane, jobs: usize, small_jobs: usize) -> bool {
        let all = jobs + small_jobs;
        self.all() < all
            && match lane {
                Lane::Small => self.small < small_jobs,
                Lane::Bulk => self.bulk < jobs,
                Lane::Large => self.large < (all / 2).max(1),
            }
    }
}

/// The directories at the top of which a run carries so much that it is long: what lies in others
/// need not wait for it.
pub(super) fn crowded_tops(entries: &[Entry], few: usize) -> BTreeSet<Vec<u8>> {
    let mut count: BTreeMap<&[u8], usize> = BTreeMap::new();
    for entry in entries {
        *count.entry(top(&entry.path)).or_default() += if entry.kind == Kind::Entry { 1 } else { few + 1 };
    }
    count.into_iter().filter(|(_, paths)| *paths > few).map(|(top, _)| top.to_vec()).collect()
}

/// The few of `entries` that lie beside those that make the batch long: by a run of their own they
/// need not wait for its end, nor does what becomes dirty below a directory among them. Empty where
/// all are few, and where what is beside is itself many. `stays`: not without the others.
pub(super) fn take_few_beside(entries: &mut Vec<Entry>, few: usize, stays: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let tops = crowded_tops(entries, few);
    let beside = |entry: &Entry| !tops.contains(top(&entry.path));
    if tops.is_empty() || entries.iter().filter(|entry| beside(entry)).count() > few {
        return Vec::new();
    }
    entries.extract_if(.., |entry| beside(entry) && !stays(entry)).collect()
}

/// What of `entries` is beyond `most` bytes. `size`: of an entry that may wait for another run;
/// those without one stay and count nothing. The first that counts stays, however large it is.
pub(super) fn take_beyond(entries: &mut Vec<Entry>, most: u64, size: impl Fn(&Entry) -> Option<u64>) -> Vec<Entry> {
    let (mut sum, mut any) = (0_u64, false);
    let beyond = |entry: &mut Entry| {
        let Some(size) = size(entry) else { return false };
        let fits = !any || sum.saturating_add(size) <= most;
        if fits {
            (sum, any) = (sum.saturating_add(size), true);
        }
        !fits
    };
    entries.extract_if(.., beyond).collect()
}

/// Large files that wait for their lane.
#[derive(Debug, Default)]
pub(super) struct LargeFiles {
    waiting: BTreeMap<RelPath, (Entry, u32)>,
    /// The directory at the top below which the last one lay.
    last: Vec<u8>,
    /// Files that were read on both sides for nothing, and until when they are not read again.
    rests: BTreeMap<RelPath, Duration>,
}

/// A large file that was read on both sides and found equal is not read again for so many times as
/// long as that took: a database that each reader opens for writing would be read without an end.
const RESTS: u32 = 9;
/// Nor for longer than this.
const LONGEST_REST: Duration = Duration::from_secs(60);

fn top(path: &[u8]) -> &[u8] {
    memchr::memchr(b'/', path).map_or(path, |end| &path[..end])
}

impl LargeFiles {
    /// `round`: how often it failed. Returns what waited under this name already.
    pub(super) fn put(&mut self, entry: Entry, round: u32) -> Option<Entry> {
        self.waiting.insert(entry.path.clone(), (entry, round)).map(|(old, _)| old)
    }

    /// The next one that does not rest, from below another directory at the top than the last one
    /// where there is one. `hurry`: none rests.
    pub(super) fn take(&mut self, now: Duration, hurry: bool) -> Option<(Entry, u32)> {
        self.rests.retain(|_, until| *until > now);
        // Behind all that lies below the last: `/` is followed by `0`.
        let behind = [&*self.last, b"0"].concat();
        let later = self.waiting.range::<[u8], _>((Bound::Included(&*behind), Bound::Unbounded));
        let path = later.chain(&self.waiting).map(|(path, _)| path).find(|path| hurry || !self.rests.contains_key(*path))?;
        let path = path.clone();
        self.last = top(&path).to_vec();
        self.waiting.remove(&path)
    }

    /// When the next one may leave.
    pub(super) fn due(&self, hurry: bool) -> Option<Duration> {
        let due = |path| self.rests.get(path).copied().filter(|_| !hurry).unwrap_or_default();
        self.waiting.keys().map(due).min()
    }

    /// Those that rest, with when that ends.
    pub(super) fn resting(&self, now: Duration) -> impl Iterator<Item = (&Entry, Duration)> {
        let rests = move |path| self.rests.get(path).copied().filter(|until| *until > now);
        self.waiting.iter().filter_map(move |(path, (entry, _))| Some((entry, rests(path)?)))
    }

    /// Whether the file rests.
    pub(super) fn rests(&self, path: &RelPath, now: Duration) -> bool {
        self.rests.get(path).is_some_and(|until| *until > now)
    }

    /// One changed, so it does not rest.
    pub(super) fn wake(&mut self, path: &RelPath) {
        self.rests.remove(path);
    }

    /// One was read on both sides in `took`, and is equal.
    pub(super) fn rest(&mut self, path: RelPath, now: Duration, took: Duration) {
        self.rests.insert(path, now + (took * RESTS).min(LONGEST_REST));
    }

    /// Whether it waits.
    pub(super) fn has(&self, path: &RelPath) -> bool {
        self.waiting.contains_key(path)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.waiting.values().map(|(entry, _)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::{DirtySet, Limits, Seen};

    #[test]
    fn a_lane_that_a_batch_cannot_take_is_no_room() {
        for (few, deep, free, lane) in [
            (true, false, (true, true), Some(Lane::Small)),
            (true, false, (true, false), Some(Lane::Small)),
            (true, false, (false, true), Some(Lane::Bulk)),
            (true, false, (false, false), None),
            (true, true, (true, true), Some(Lane::Bulk)),
            // What is small does not wait for the bulk lane that a comparison beside it waits for.
            (true, true, (true, false), Some(Lane::Small)),
            (true, true, (false, true), Some(Lane::Bulk)),
            (true, true, (false, false), None),
            (false, false, (true, true), Some(Lane::Bulk)),
            (false, false, (false, true), Some(Lane::Bulk)),
            (false, true, (true, false), None),
            (false, false, (true, false), None),
            (false, false, (false, false), None),
        ] {
            assert_eq!(Lane::of(few, deep, free), lane, "few {few}, deep {deep}, free {free:?}");
        }
    }

    /// Whatever requests a lane, in whatever order: the number of processes has a bound.
    #[test]
    fn no_more_processes_than_there_are_jobs() {
        for (jobs, small_jobs) in [(1, 1), (1, 4), (2, 4), (2, 0), (8, 4)] {
            for first in [Lane::Small, Lane::Bulk, Lane::Large] {
                let mut lanes = Lanes::default();
                for lane in [first, Lane::Large, Lane::Bulk, Lane::Small] {
                    while lanes.room(lane, jobs, small_jobs) {
                        lanes = match lane {
                            Lane::Small => Lanes { small: lanes.small + 1, ..lanes },
                            Lane::Bulk => Lanes { bulk: lanes.bulk + 1, ..lanes },
                            Lane::Large => Lanes { large: lanes.large + 1, ..lanes },
                        };
                    }
                }
                assert!(lanes.all() <= jobs + small_jobs, "{lanes:?} of {jobs} + {small_jobs}");
                assert!(lanes.large <= ((jobs + small_jobs) / 2).max(1), "others find no room: {lanes:?}");
            }
        }
    }

    #[test]
    fn tops_of_which_a_run_carries_much() {
        let mut set = DirtySet::new(100);
        for path in ["u/1", "u/2", "u/d/3", "v/1", "top"] {
            set.see(path.as_bytes(), Seen::Written);
        }
        set.see(b"w/d", Seen::Contents);
        let batch = set.take_shallow(Limits { max_paths: 100, ignore_holds: true }, &mut |_, _| false).unwrap();
        let tops: Vec<_> = crowded_tops(&batch.entries, 2).into_iter().map(|top| String::from_utf8(top).unwrap()).collect();
        assert_eq!(tops, ["u", "w"]);
    }

    #[test]
    fn few_paths_beside_a_flood_travel_without_it() {
        for (paths, few, beside) in [
            (vec!["u/1", "u/2", "u/3", "v", "v/f", "top"], 3, vec![]), // no flood
            (vec!["u/1", "u/2", "u/3", "v", "v/f", "top"], 2, vec![]), // what is beside is many
            (vec!["u/1", "u/2", "u/3", "v", "v/f"], 2, vec!["v", "v/f"]),
            (vec!["link", "u/1", "u/2", "u/3", "v"], 2, vec!["v"]),
            (vec!["u", "u/1", "u/2"], 2, vec![]), // nothing is beside
        ] {
            let mut set = DirtySet::new(100);
            paths.iter().for_each(|path| set.see(path.as_bytes(), Seen::Written));
            let batch = set.take_shallow(Limits { max_paths: 100, ignore_holds: true }, &mut |_, _| false).unwrap();
            let mut rest = batch.entries;
            let taken: Vec<String> =
                take_few_beside(&mut rest, few, |e| *e.path == *b"link").iter().map(|e| e.path.to_string()).collect();
            assert_eq!((&taken, taken.len() + rest.len()), (&beside.iter().map(|p| p.to_string()).collect(), paths.len()));
        }
    }

    #[test]
    fn a_batch_is_cut_at_its_bytes() {
        for (most, sizes, stay) in [
            (100, vec![Some(40), Some(40), Some(20)], vec![0, 1, 2]),
            (100, vec![Some(40), Some(61), Some(20)], vec![0, 2]),
            (100, vec![Some(500), Some(0), Some(1)], vec![0]),
            (100, vec![None, Some(500), None], vec![0, 1, 2]),
            (100, vec![None, Some(60), Some(60)], vec![0, 1]),
            (100, vec![Some(0), Some(u64::MAX), Some(100)], vec![0, 2]),
        ] {
            let mut set = DirtySet::new(100);
            (0..sizes.len()).for_each(|n| set.see(n.to_string().as_bytes(), Seen::Written));
            let batch = set.take_shallow(Limits { max_paths: 100, ignore_holds: true }, &mut |_, _| false).unwrap();
            let mut entries = batch.entries;
            let at = |e: &Entry| e.path.to_string().parse::<usize>().unwrap();
            let beyond = take_beyond(&mut entries, most, |e| sizes[at(e)]);
            assert_eq!(entries.iter().map(at).collect::<Vec<_>>(), stay, "{sizes:?}");
            assert_eq!(entries.len() + beyond.len(), sizes.len());
        }
    }

    #[test]
    fn large_files_of_different_directories_take_turns() {
        let (mut set, mut large) = (DirtySet::new(100), LargeFiles::default());
        for path in ["a/1", "a/2", "a/3", "a-b/1", "b/1", "b/2", "alone"] {
            set.see(path.as_bytes(), Seen::Written);
        }
        let batch = set.take_shallow(Limits { max_paths: 100, ignore_holds: true }, &mut |_, _| false).unwrap();
        let again = batch.entries[0].clone();
        batch.entries.into_iter().for_each(|entry| assert!(large.put(entry, 0).is_none()));
        assert!(large.put(again, 2).is_some(), "once under each name");
        let order: Vec<String> =
            std::iter::from_fn(|| large.take(Duration::ZERO, false)).map(|(entry, _)| entry.path.to_string()).collect();
        assert_eq!(order[..4], ["a-b/1", "a/1", "alone", "b/1"].map(String::from));
        assert_eq!((order.len(), large.len()), (7, 0));
    }

    /// A file that is read again and again for nothing rests between, unless it changed or a flush
    /// waits; others do not wait for it.
    #[test]
    fn a_file_that_was_read_for_nothing_rests() {
        let second = Duration::from_secs(1);
        let (mut set, mut large) = (DirtySet::new(100), LargeFiles::default());
        for path in ["a/1", "a/2"] {
            set.see(path.as_bytes(), Seen::Written);
        }
        let entries = set.take_shallow(Limits { max_paths: 100, ignore_holds: true }, &mut |_, _| false).unwrap().entries;
        let put = |large: &mut LargeFiles| entries.iter().for_each(|entry| _ = large.put(entry.clone(), 0));
        let take = |large: &mut LargeFiles, now, hurry| large.take(now, hurry).map(|(entry, _)| entry.path.to_string());
        put(&mut large);
        large.rest(entries[0].path.clone(), second, second);
        assert_eq!((large.due(false), large.due(true)), (Some(Duration::ZERO), Some(Duration::ZERO)));
        assert_eq!(take(&mut large, second, false).as_deref(), Some("a/2"));
        assert_eq!(take(&mut large, second, false), None);
        assert_eq!((large.due(false), large.due(true), large.len()), (Some(second * 10), Some(Duration::ZERO), 1));
        let resting =
            |large: &LargeFiles, now| large.resting(now).map(|(e, until)| (e.path.to_string(), until)).collect::<Vec<_>>();
        assert_eq!(resting(&large, second), [("a/1".to_owned(), second * 10)]);
        let mut latency = crate::targets::latency::Latency::default();
        latency.confirmed(second, &entries, |entry| large.rests(&entry.path, second));
        assert_eq!(latency.shown().paths, 1, "what was read for nothing was not late");
        assert_eq!(resting(&large, second * 10), []);
        assert_eq!(take(&mut large, second, true).as_deref(), Some("a/1"), "a flush waits");
        put(&mut large);
        large.wake(&entries[0].path);
        assert_eq!(large.due(false), Some(Duration::ZERO));
        large.rest(entries[0].path.clone(), second, second * 3600);
        large.rest(entries[1].path.clone(), second, second * 3600);
        assert_eq!(large.due(false), Some(second + LONGEST_REST));
        assert_eq!(take(&mut large, second + LONGEST_REST, false).as_deref(), Some("a/1"));
        assert_eq!(take(&mut large, second + LONGEST_REST, false).as_deref(), Some("a/2"));
    }
}
