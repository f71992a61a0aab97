//! Which kinds of events are followed (`[mirror.events]`).
//!
//! An event that is not followed makes nothing dirty; the tree of directories has processed it all
//! the same. What is dirty for another reason is read from the disk as always, so a switch says
//! what *starts* a transfer, not what it carries. A record of the kernel may stand for several
//! events that it merged: it is followed if one of them is.
//!
//! With `create_folder` off, what happens below a directory that was made since the start is not
//! followed either, as there is no such directory on the target: neither events from there nor what
//! a search finds there. A rename to another place makes it one that was moved.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::config::Events;
use crate::dirty::Seen;
use crate::path::{self, RelPath};

// fanotify(7) and inotify(7) have the same bits for these.
const ATTRIB: u64 = libc::FAN_ATTRIB;
const CLOSE_WRITE: u64 = libc::FAN_CLOSE_WRITE;
const CREATE: u64 = libc::FAN_CREATE;
const DELETE: u64 = libc::FAN_DELETE;
const MOVED_FROM: u64 = libc::FAN_MOVED_FROM | libc::FAN_RENAME;
const MOVED_TO: u64 = libc::FAN_MOVED_TO | libc::FAN_RENAME;

/// See the module's text.
pub(super) struct Gate {
    events: Events,
    open: bool,
    /// Directories that were made and not followed; none below another.
    hidden: BTreeSet<RelPath>,
}

impl Gate {
    pub(super) fn new(events: Events) -> Gate {
        Gate { events, open: events == Events::default(), hidden: BTreeSet::new() }
    }

    /// Whether no kind of event is left out.
    pub(super) fn admits_all(&self) -> bool {
        self.open
    }

    /// What is to be made of a path that a record with this mask reported, if anything.
    pub(super) fn admit(&mut self, mask: u64, path: &[u8], seen: Seen) -> Option<Seen> {
        if self.open {
            return Some(seen);
        }
        let seen = seen.plain(); // what is not all followed is not reported as renames
        if !self.hidden.is_empty() && !self.below_hidden(mask, path, seen) {
            return None;
        }
        let e = &self.events;
        let has = |bits: u64| mask & bits != 0;
        let moved_in = e.move_to && has(MOVED_TO);
        let follow = match seen {
            Seen::Created => e.create_file,
            Seen::CreatedDir => e.create_folder,
            // inotify reports a new directory so, too.
            Seen::MovedDir | Seen::ArrivedDir => moved_in || (e.create_folder && has(CREATE)) || !has(CREATE | MOVED_TO),
            Seen::Written | Seen::Replaced | Seen::Arrived => {
                moved_in
                    || (e.close_write && has(CLOSE_WRITE))
                    || (e.create_file && has(CREATE))
                    || !has(MOVED_TO | CLOSE_WRITE | CREATE)
            }
            Seen::Gone | Seen::GoneDir | Seen::Left | Seen::LeftDir => {
                (e.delete && has(DELETE)) || (e.move_from && has(MOVED_FROM)) || !has(DELETE | MOVED_FROM)
            }
            // Merged with a deletion that is not followed: what is looked for would be missing.
            Seen::Touched if has(DELETE | MOVED_FROM) => {
                e.attrib && ((e.delete && has(DELETE)) || (e.move_from && has(MOVED_FROM)))
            }
            Seen::Touched | Seen::DirTimes => e.attrib,
            // Comes with follow_open_files only.
            Seen::Modified | Seen::Contents | Seen::Subtree => true,
        };
        if follow {
            return Some(seen);
        }
        if matches!(seen, Seen::CreatedDir | Seen::MovedDir) && has(CREATE) {
            self.hide(path);
            return None;
        }
        // The attributes of something that was there; the other half of a merged record.
        (e.attrib && has(ATTRIB) && !matches!(seen, Seen::Gone | Seen::GoneDir | Seen::Touched)).then_some(Seen::Touched)
    }

    /// Whether the times of the directory `path` are followed where a record with this mask
    /// reported an entry of it that is left out.
    pub(super) fn admits_dir_times(&self, mask: u64, path: &[u8]) -> bool {
        let e = &self.events;
        let has = |bits: u64| mask & bits != 0;
        // A file that is made is followed by its creation or by its close.
        let created = if has(libc::FAN_ONDIR) { e.create_folder } else { e.create_file || e.close_write };
        let followed = created && has(CREATE)
            || e.delete && has(DELETE)
            || e.move_from && has(MOVED_FROM)
            || e.move_to && has(MOVED_TO)
            || !has(CREATE | DELETE | MOVED_FROM | MOVED_TO);
        self.open || followed && !self.hides(path)
    }

    /// Whether `path` lies at or below a directory that was made and not followed. Events are
    /// judged by [`Gate::admit`]; this is for changes that come from elsewhere, as those of a
    /// search.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        self.hiding(path).is_some()
    }

    fn hiding<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        if self.hidden.is_empty() {
            return None;
        }
        std::iter::successors(Some(path), |at| path::parent(at)).find(|at| self.hidden.contains(*at))
    }

    /// Keeps the hidden directories right; `false` if the path lies in one.
    fn below_hidden(&mut self, mask: u64, path: &[u8], seen: Seen) -> bool {
        let hidden = self.hiding(path).map(RelPath::from_normal);
        match (&hidden, seen) {
            // Moved onto its name, or gone: it is not the hidden one any more.
            (Some(at), Seen::MovedDir) if **at == *path && mask & MOVED_TO != 0 => self.hidden.remove(path),
            (Some(at), Seen::GoneDir) if **at == *path => self.hidden.remove(path),
            (Some(_), _) => false,
            (None, Seen::GoneDir) => {
                let range = self.hidden.range::<[u8], _>((Bound::Excluded(path), Bound::Unbounded));
                let gone: Vec<RelPath> =
                    range.take_while(|p| p.starts_with(path)).filter(|p| path::is_at_or_below(p, path)).cloned().collect();
                gone.iter().for_each(|p| _ = self.hidden.remove(p));
                true
            }
            (None, _) => true,
        }
    }

    fn hide(&mut self, path: &[u8]) {
        self.hidden.insert(RelPath::from_normal(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(change: impl FnOnce(&mut Events)) -> Gate {
        let mut events = Events::default();
        change(&mut events);
        Gate::new(events)
    }

    #[test]
    fn each_switch() {
        type Switch = fn(&mut Events);
        let rename = libc::FAN_RENAME;
        let cases: [(Switch, u64, Seen); 10] = [
            (|e| e.delete = false, DELETE, Seen::Gone),
            (|e| e.delete = false, DELETE, Seen::GoneDir),
            (|e| e.create_folder = false, CREATE, Seen::CreatedDir),
            (|e| e.create_folder = false, CREATE, Seen::MovedDir),
            (|e| e.create_file = false, CREATE, Seen::Created),
            (|e| e.close_write = false, CLOSE_WRITE, Seen::Written),
            (|e| e.move_from = false, rename, Seen::Gone),
            (|e| e.move_from = false, libc::FAN_MOVED_FROM, Seen::GoneDir),
            (|e| e.move_to = false, rename, Seen::Written),
            (|e| e.attrib = false, ATTRIB, Seen::Touched),
        ];
        for (i, (switch, mask, seen)) in cases.iter().enumerate() {
            assert_eq!(gate(switch).admit(*mask, b"x", *seen), None, "case {i}");
            // The others do not close it.
            for (j, (other, ..)) in cases.iter().enumerate() {
                let (mut own, mut all) = (Events::default(), Events::default());
                switch(&mut own);
                other(&mut all);
                if own != all {
                    assert_eq!(gate(other).admit(*mask, b"x", *seen), Some(*seen), "case {i}, switch {j}");
                }
            }
        }
    }

    /// What is looked for after such a record is missing.
    #[test]
    fn a_change_that_is_merged_with_a_deletion_is_followed_with_that_alone() {
        type Switch = fn(&mut Events);
        let cases: [(Switch, u64, Option<Seen>); 5] = [
            (|e| e.create_file = false, DELETE | ATTRIB, Some(Seen::Touched)),
            (|e| e.delete = false, DELETE | ATTRIB, None),
            (|e| e.delete = false, ATTRIB, Some(Seen::Touched)),
            (|e| e.move_from = false, libc::FAN_MOVED_FROM | ATTRIB, None),
            (|e| e.attrib = false, DELETE | ATTRIB, None),
        ];
        for (i, (switch, mask, want)) in cases.into_iter().enumerate() {
            assert_eq!(gate(switch).admit(mask, b"x", Seen::Touched), want, "case {i}");
        }
    }

    #[test]
    fn an_entry_that_is_left_out_counts_for_its_directory() {
        type Switch = fn(&mut Events);
        let (dir, rename) = (libc::FAN_ONDIR, libc::FAN_RENAME);
        let cases: [(Switch, u64, bool); 8] = [
            (|_| (), CREATE, true),
            (|e| e.delete = false, DELETE, false),
            (|e| e.delete = false, CREATE | DELETE, true),
            (|e| e.create_file = false, CREATE, true),
            (|e| (e.create_file, e.close_write) = (false, false), CREATE, false),
            (|e| e.create_folder = false, CREATE | dir, false),
            (|e| (e.move_from, e.move_to) = (false, false), rename, false),
            (|e| e.attrib = false, CREATE, true),
        ];
        for (switch, mask, want) in cases {
            assert_eq!(gate(switch).admits_dir_times(mask, b"d"), want, "{mask:#x}");
        }
        let mut g = gate(|e| e.create_folder = false);
        assert_eq!(g.admit(CREATE, b"d", Seen::CreatedDir), None);
        assert!(!g.admits_dir_times(CREATE, b"d") && !g.admits_dir_times(CREATE, b"d/e") && g.admits_dir_times(CREATE, b"e"));
    }

    #[test]
    fn merged_records_are_followed_for_either_part() {
        let mut g = gate(|e| e.create_file = false);
        assert_eq!(g.admit(CREATE | CLOSE_WRITE, b"x", Seen::Written), Some(Seen::Written));
        assert_eq!(g.admit(CREATE | ATTRIB, b"x", Seen::Created), Some(Seen::Touched));
        let mut g = gate(|e| (e.delete, e.create_file) = (false, false));
        assert_eq!(g.admit(CREATE | DELETE, b"x", Seen::Written), None);
        assert_eq!(g.admit(0, b"x", Seen::Subtree), Some(Seen::Subtree));
    }

    #[test]
    fn what_is_below_a_new_directory_stays_out_of_sight() {
        let mut g = gate(|e| e.create_folder = false);
        assert_eq!(g.admit(CREATE, b"d", Seen::CreatedDir), None);
        assert_eq!(g.admit(CLOSE_WRITE, b"d/f", Seen::Written), None);
        assert_eq!(g.admit(CREATE, b"d/e", Seen::CreatedDir), None);
        assert!(g.hides(b"d") && g.hides(b"d/e/f") && !g.hides(b"d.x") && !g.hides(b"e/d") && !g.hides(b""));
        assert_eq!(g.admit(CLOSE_WRITE, b"d.x", Seen::Written), Some(Seen::Written));
        assert_eq!(g.admit(libc::FAN_RENAME, b"d", Seen::GoneDir), Some(Seen::GoneDir));
        assert_eq!(g.admit(libc::FAN_RENAME, b"e", Seen::MovedDir), Some(Seen::MovedDir));
        assert_eq!(g.admit(CLOSE_WRITE, b"e/f", Seen::Written), Some(Seen::Written));
        assert!(g.hidden.is_empty() && !g.hides(b"e/f"));
        assert_eq!(g.admit(CREATE, b"a/b", Seen::CreatedDir), None);
        assert_eq!(g.admit(DELETE, b"a", Seen::GoneDir), Some(Seen::GoneDir));
        assert!(g.hidden.is_empty(), "a directory that is gone stays hidden");
    }

    #[test]
    fn a_rename_is_one_only_where_both_halves_are_followed() {
        let rename = libc::FAN_RENAME;
        let mut open = gate(|_| ());
        assert_eq!(open.admit(rename, b"a", Seen::Left), Some(Seen::Left));
        assert_eq!(open.admit(rename, b"b", Seen::Arrived), Some(Seen::Arrived));
        // With any switch off, a half may be missing: each stands for itself.
        let mut part = gate(|e| e.attrib = false);
        for (seen, want) in [
            (Seen::Left, Seen::Gone),
            (Seen::LeftDir, Seen::GoneDir),
            (Seen::Arrived, Seen::Replaced),
            (Seen::ArrivedDir, Seen::MovedDir),
        ] {
            assert_eq!(part.admit(rename, b"x", seen), Some(want), "{seen:?}");
        }
    }

    #[test]
    fn a_hidden_directory_ends_with_what_lies_above_it_or_takes_its_name() {
        let hiding = || {
            let mut g = gate(|e| e.create_folder = false);
            for path in [&b"a/b"[..], b"a/c", b"a.b", b"ab/d"] {
                assert_eq!(g.admit(CREATE, path, Seen::CreatedDir), None);
            }
            g
        };
        let mut g = hiding();
        assert_eq!(g.admit(DELETE, b"a", Seen::GoneDir), Some(Seen::GoneDir));
        let left: Vec<&[u8]> = g.hidden.iter().map(|path| &path[..]).collect();
        assert_eq!(left, [&b"a.b"[..], b"ab/d"], "names that only begin alike stay hidden");
        let mut g = hiding();
        assert_eq!(g.admit(MOVED_TO, b"a/b", Seen::MovedDir), Some(Seen::MovedDir));
        assert!(!g.hides(b"a/b/f") && g.hides(b"a/c/f"));
        assert_eq!(g.admit(CREATE, b"a/c", Seen::MovedDir), None, "one that was made there anew is hidden as well");
        assert!(g.hides(b"a/c/f"));
    }

    #[test]
    fn what_no_event_stands_for_is_always_followed() {
        // A search or a loss has no mask: no switch is about it.
        let mut g = gate(|e| *e = Events { delete: false, move_from: false, move_to: false, ..*e });
        for seen in [Seen::Gone, Seen::GoneDir, Seen::MovedDir, Seen::Written, Seen::Contents, Seen::Subtree, Seen::Modified] {
            assert_eq!(g.admit(0, b"x", seen), Some(seen));
        }
        assert!(g.admits_dir_times(0, b"d"));
    }
}
