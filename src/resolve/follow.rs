//! Files that are written while they are open: each is reported once per interval, however often it
//! is written.
//!
//! A file's first write mutes it in the kernel and starts its interval. When that is over, first
//! the mark is taken away, then the file is reported: its content is read later than that, so a
//! write up to that moment is in what is sent, and any later one raises an event that starts the
//! next interval. A mark that the kernel evicted costs one more event. What else happens to the
//! file meanwhile (closed, moved, linked, deleted) ends the interval, in the same order: unmuted,
//! then reported by its own event.
//!
//! The interval comes first, then the report: a file that is closed within it is sent once, whole,
//! and not once half-written.
//!
//! A file is known here by the directory and name it was written through; a directory that moves
//! takes it along (the path tree does). At most [`MAX_FOLLOWED`] at a time; one more is reported at
//! once, and costs its writer the events.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;

use super::tree::{Key, hash};
use crate::source::fan_decode::{Fid, Place};

/// Files in their interval at a time.
const MAX_FOLLOWED: usize = 65_536;

/// A handle of its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct OwnedFid {
    fs: u64,
    kind: i32,
    bytes: Box<[u8]>,
}

impl OwnedFid {
    pub(super) fn of(fid: &Fid<'_>) -> OwnedFid {
        OwnedFid { fs: fid.fs.0, kind: fid.kind, bytes: fid.handle.into() }
    }

    /// Borrowed, as a record has it.
    pub(crate) fn fid(&self) -> Fid<'_> {
        Fid { fs: crate::sys::handle::FsId(self.fs), kind: self.kind, handle: &self.bytes }
    }

    fn key(&self) -> Key<'_> {
        (self.fs, self.kind, &self.bytes)
    }
}

/// A file in its interval.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) file: OwnedFid,
    /// The directory and name it was written through, if the event has them.
    pub(crate) place: Option<(OwnedFid, Box<[u8]>)>,
    due: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Follows {
    interval: Duration,
    files: HashTable<Followed>,
    /// By time, which is the order they came in. What is not in `files` with this time any more is
    /// skipped.
    due: VecDeque<(Duration, u64)>,
}

impl Follows {
    /// No file yet.
    pub(crate) fn new(interval: Duration) -> Follows {
        Follows { interval, files: HashTable::new(), due: VecDeque::new() }
    }

    /// Starts the interval of `file`, unless it is in one. `false`: there is no room, it is to be
    /// reported now.
    pub(crate) fn add(&mut self, file: &Fid<'_>, place: Option<&Place<'_>>, now: Duration) -> bool {
        if self.contains(file) {
            return true;
        }
        if self.files.len() >= MAX_FOLLOWED {
            return false;
        }
        let (hashed, due) = (hash(key(file)), now + self.interval);
        let place = place.map(|place| (OwnedFid::of(&place.fid), place.name.into()));
        self.files.insert_unique(hashed, Followed { file: OwnedFid::of(file), place, due }, |f| hash(f.file.key()));
        self.due.push_back((due, hashed));
        true
    }

    /// Whether `file` is in its interval.
    pub(crate) fn contains(&self, file: &Fid<'_>) -> bool {
        !self.files.is_empty() && self.files.find(hash(key(file)), |f| f.file.key() == key(file)).is_some()
    }

    /// Ends the interval of `file`; `false` when it was in none.
    pub(crate) fn remove(&mut self, file: &Fid<'_>) -> bool {
        if self.files.is_empty() {
            return false;
        }
        match self.files.find_entry(hash(key(file)), |f| f.file.key() == key(file)) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// Takes the next file whose interval is over at `now`.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<Followed> {
        while let Some(&(due, hashed)) = self.due.front() {
            if due > now {
                return None;
            }
            self.due.pop_front();
            if let Ok(entry) = self.files.find_entry(hashed, |f| f.due == due && hash(f.file.key()) == hashed) {
                return Some(entry.remove().0);
            }
        }
        None
    }

    /// When [`Follows::take_due`] may have something.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.due.front().map(|&(due, _)| due)
    }

    /// Files in their interval.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

fn key<'a>(fid: &Fid<'a>) -> Key<'a> {
    (fid.fs.0, fid.kind, fid.handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::handle::FsId;

    const SECOND: Duration = Duration::from_secs(1);

    fn fid(handle: &[u8]) -> Fid<'_> {
        Fid { fs: FsId(1), kind: 1, handle }
    }

    #[test]
    fn an_interval_begins_with_the_first_write_and_ends_once() {
        let mut follows = Follows::new(SECOND * 2);
        assert!(follows.add(&fid(b"a"), None, SECOND));
        assert!(follows.add(&fid(b"a"), None, SECOND * 2), "in its interval already");
        assert!(follows.add(&fid(b"b"), None, SECOND * 2));
        assert_eq!(follows.next_due(), Some(SECOND * 3));
        assert!(follows.take_due(SECOND * 2).is_none());
        assert_eq!(&*follows.take_due(SECOND * 3).unwrap().file.bytes, b"a");
        assert!(follows.take_due(SECOND * 3).is_none());
        assert_eq!(follows.len(), 1);
    }

    #[test]
    fn a_file_that_was_closed_and_written_again_begins_anew() {
        let mut follows = Follows::new(SECOND * 2);
        assert!(follows.add(&fid(b"a"), None, SECOND));
        assert!(follows.remove(&fid(b"a")) && !follows.remove(&fid(b"a")));
        assert!(follows.add(&fid(b"a"), None, SECOND * 2));
        assert!(follows.take_due(SECOND * 3).is_none(), "the first interval is void");
        assert!(follows.take_due(SECOND * 4).is_some());
        assert!(follows.is_empty() && follows.next_due().is_none());
    }

    #[test]
    fn more_than_there_is_room_for_are_told_at_once() {
        let mut follows = Follows::new(SECOND);
        let name = |n: usize| n.to_ne_bytes();
        assert!((0..MAX_FOLLOWED).all(|n| follows.add(&fid(&name(n)), None, SECOND)));
        assert!(!follows.add(&fid(&name(MAX_FOLLOWED)), None, SECOND));
        assert!(follows.add(&fid(&name(0)), None, SECOND));
    }
}
