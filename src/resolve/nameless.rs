//! Files that changed and that the kernel has no path for: which of them lie below the root, a walk
//! over the source finds out.
//!
//! A server that works by file handle (NFS after a restart or under memory pressure) changes files
//! whose names are not in the kernel's cache. The event names the inode alone, anywhere on the
//! filesystem. What is outside is of no concern; what is inside has to be sent. So the inode is
//! sought by a walk over the source, which compares inode numbers and queries no target.
//!
//! The same is done for objects whose handle could not be opened (see `opening`), which are sought
//! by the handle itself: a file that is found is dirty, of a directory that is found it is not
//! known what changed in it, so it is compared. What lies outside compares nothing.
//!
//! Promises: each file that is handed in is either sought by a walk that begins afterwards, or was
//! found to lie outside and has not been named by an event since.
//!
//! Costs: files that are handed in within `GATHER` share a walk; after one that found nothing below
//! the root the next waits for ten times as long as it took, doubling up to `PAUSE_MAX`, unless a
//! flush or a stop waits. A file that lies outside is sought once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::unexplained::{Owned, owned};
use crate::dirty::Seen;
use crate::links::Inode;
use crate::links::objects::{Object, Objects};
use crate::path::RelPath;
use crate::source::fan_decode::Fid;

/// How long files are gathered for one walk.
const GATHER: Duration = Duration::from_millis(300);
/// The longest pause between two walks.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a walk that could not begin.
const RETRY: Duration = Duration::from_secs(1);
/// Objects that could not be opened, and are sought at a time.
const MAX_UNOPENED: usize = 10_000;
/// Files known to lie outside at a time; with more, all are forgotten and sought again.
const MAX_OUTSIDE: usize = 100_000;

/// What changed of a file; the stronger one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    Attributes,
    /// Its content, and it may still be written.
    Writing,
    /// Its content, and it was closed.
    Written,
}

impl Change {
    /// That of a fanotify mask.
    pub(super) fn of(mask: u64) -> Change {
        match mask {
            m if m & libc::FAN_CLOSE_WRITE != 0 => Change::Written,
            m if m & libc::FAN_MODIFY != 0 => Change::Writing,
            _ => Change::Attributes,
        }
    }

    pub(super) fn seen(self) -> Seen {
        match self {
            Change::Attributes => Seen::Touched,
            Change::Writing => Seen::Modified,
            Change::Written => Seen::Written,
        }
    }
}

#[derive(Debug)]
struct File {
    handle: Owned,
    change: Change,
    /// An event named it, or may have, since it was handed in: where it lies may have changed.
    moved: bool,
}

/// An object whose handle could not be opened.
#[derive(Debug, Clone, Copy)]
struct Unopened {
    change: Change,
    is_dir: bool,
    /// As [`File::moved`].
    moved: bool,
}

/// What a walk seeks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sought {
    /// Files, by their inodes.
    pub(crate) inodes: HashSet<Inode>,
    /// What could not be opened.
    pub(crate) objects: HashSet<Object>,
    /// Whether files are among these.
    pub(crate) files: bool,
}

/// What a walk has led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// What became dirty.
    pub(crate) dirty: Vec<(RelPath, Seen)>,
    /// Where it is not known what changed.
    pub(crate) lost: Vec<RelPath>,
}

/// See the module's text. Pure: time is an argument, the walk is made elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Nameless {
    wanted: HashMap<Inode, File>,
    walking: Option<HashMap<Inode, File>>,
    unopened: HashMap<Owned, Unopened>,
    /// Those of the walk under way.
    seeking: HashMap<Owned, Unopened>,
    outside: HashSet<Owned>,
    /// Events carry the handle of what is created and moved, so a file that comes inside is
    /// noticed.
    names_files: bool,
    begun: u64,
    ended: u64,
    /// The walk that a flush waits for.
    promised: u64,
    pause: Duration,
    next: Duration,
}

impl Nameless {
    /// Whether every event that gives a file a name carries the file's handle
    /// (`FAN_REPORT_TARGET_FID`).
    pub(super) fn names_files(&mut self, names_files: bool) {
        self.names_files = names_files;
    }

    /// A file changed that has no path.
    pub(super) fn changed(&mut self, now: Duration, inode: Inode, handle: Owned, change: Change) {
        if self.outside.contains(&handle) {
            return;
        }
        if !self.wants() {
            self.next = self.next.max(now + GATHER);
        }
        let file = self.wanted.entry(inode).or_insert_with(|| File { handle: handle.clone(), change, moved: false });
        // The inode number may be in use again.
        file.handle = handle;
        file.change = file.change.max(change);
    }

    /// Something changed of an object that cannot be opened. `false`: too many of them wait.
    pub(super) fn unopened(&mut self, now: Duration, handle: Owned, is_dir: bool, change: Change) -> bool {
        if self.outside.contains(&handle) {
            return true;
        }
        if self.unopened.len() >= MAX_UNOPENED {
            self.unopened.clear();
            return false;
        }
        if !self.wants() {
            self.next = self.next.max(now + GATHER);
        }
        let known = self.unopened.entry(handle).or_insert(Unopened { change, is_dir, moved: false });
        known.change = known.change.max(change);
        known.is_dir |= is_dir;
        true
    }

    /// Whether a walk found it to have no name inside, and no event has named it since.
    pub(super) fn is_outside(&self, handle: &Owned) -> bool {
        self.outside.contains(handle)
    }

    /// An event named this file: it may be inside now.
    pub(super) fn named(&mut self, file: Option<&Fid<'_>>) {
        if self.outside.is_empty() && self.walking.is_none() {
            return;
        }
        let Some(file) = file else { return };
        let file = owned(file);
        self.outside.remove(&file);
        let walking = self.walking.iter_mut().flat_map(HashMap::values_mut);
        walking.filter(|f| f.handle == file).for_each(|f| f.moved = true);
        self.seeking.get_mut(&file).into_iter().for_each(|f| f.moved = true);
    }

    /// Files may have come inside without an event that names them: in a directory, by a mount,
    /// unseen.
    pub(super) fn forget_outside(&mut self) {
        self.outside.clear();
        self.walking.iter_mut().flat_map(HashMap::values_mut).for_each(|file| file.moved = true);
        self.seeking.values_mut().for_each(|file| file.moved = true);
    }

    /// A walk that was promised takes place, also where what it was to seek was given up.
    fn wants(&self) -> bool {
        !self.wanted.is_empty() || !self.unopened.is_empty() || self.promised > self.begun
    }

    /// Whether something is sought.
    pub(crate) fn any(&self) -> bool {
        self.wants() || self.walking.is_some()
    }

    /// The number of the walk that will have found everything handed in so far.
    pub(crate) fn covered_by(&mut self) -> u64 {
        self.promised = self.begun + u64::from(self.wants());
        self.promised
    }

    /// Walks that ended.
    pub(crate) fn walks(&self) -> u64 {
        self.ended
    }

    /// A flush or a stop waits: what is wanted is sought at once.
    pub(crate) fn hurry(&mut self) {
        self.next = Duration::ZERO;
    }

    /// When [`Nameless::begin`] has something to do.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        (self.walking.is_none() && self.wants()).then_some(self.next)
    }

    /// The walk to begin now: what it seeks.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Sought> {
        self.next_due().filter(|due| *due <= now)?;
        let wanted = std::mem::take(&mut self.wanted);
        self.seeking = std::mem::take(&mut self.unopened);
        let sought = Sought {
            inodes: wanted.keys().copied().collect(),
            objects: self.seeking.keys().map(object).collect(),
            files: self.seeking.values().any(|o| !o.is_dir),
        };
        self.begun += 1;
        self.walking = Some(wanted);
        Some(sought)
    }

    /// The walk could not begin, or did not see everything; it is made again.
    pub(crate) fn put_off(&mut self, now: Duration) {
        self.begun -= 1;
        for (inode, file) in self.walking.take().into_iter().flatten() {
            self.wanted.entry(inode).or_insert(file);
        }
        for (handle, unopened) in self.seeking.drain() {
            self.unopened.entry(handle).or_insert(unopened);
        }
        self.next = now + RETRY;
    }

    /// Takes in what the walk found.
    pub(crate) fn end(&mut self, now: Duration, names: &[(RelPath, Inode)], objects: &Objects, took: Duration) -> Ended {
        let walking = self.walking.take().unwrap_or_default();
        self.ended = self.begun;
        let found: HashSet<Inode> = names.iter().map(|(_, inode)| *inode).collect();
        let dirty = |(path, inode): &(RelPath, Inode)| Some((path.clone(), walking.get(inode)?.change.seen()));
        let mut ended = Ended { dirty: names.iter().filter_map(dirty).collect(), lost: objects.unread.clone() };
        let seeking = std::mem::take(&mut self.seeking);
        let by_object: HashMap<Object, Unopened> = seeking.iter().map(|(handle, o)| (object(handle), *o)).collect();
        for (path, handle, is_dir) in &objects.found {
            match by_object.get(handle) {
                Some(o) if !is_dir && !o.is_dir => ended.dirty.push((path.clone(), o.change.seen())),
                _ => ended.lost.push(path.clone()),
            }
        }
        let inside: HashSet<&Object> = objects.found.iter().map(|(_, handle, _)| handle).collect();
        self.pause = if ended == Ended::default() { self.pause.max(took * 5) * 2 } else { took * 2 }.min(PAUSE_MAX);
        self.next = now + self.pause;
        if self.names_files {
            if self.outside.len() + walking.len() > MAX_OUTSIDE {
                self.outside.clear();
            }
            // What could not be queried may be any of them.
            let unopened = seeking.into_iter().filter(|_| objects.unread.is_empty());
            let unopened = unopened.filter(|(handle, o)| !o.moved && !inside.contains(&object(handle)));
            self.outside.extend(unopened.map(|(handle, _)| handle));
            let outside = walking.into_iter().filter(|(inode, file)| !file.moved && !found.contains(inode));
            self.outside.extend(outside.map(|(_, file)| file.handle));
        }
        ended
    }
}

fn object((_, kind, bytes): &Owned) -> Object {
    (*kind, bytes.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::samples::{A, B, p};
    use crate::sys::handle::FsId;

    const TOOK: Duration = Duration::from_millis(10);

    fn fid(inode: Inode) -> [u8; 8] {
        inode.1.to_ne_bytes()
    }

    fn changed(n: &mut Nameless, now: Duration, inode: Inode, change: Change) {
        n.changed(now, inode, (1, 1, fid(inode).into()), change);
    }

    fn named(n: &mut Nameless, inode: Inode) {
        n.named(Some(&Fid { fs: FsId(1), kind: 1, handle: &fid(inode) }));
    }

    fn new() -> Nameless {
        Nameless { names_files: true, ..Nameless::default() }
    }

    #[test]
    fn files_are_gathered_for_one_walk_and_each_name_is_dirty() {
        let mut n = new();
        assert!(!n.any() && n.begin(Duration::MAX).is_none() && n.covered_by() == 0);
        changed(&mut n, Duration::ZERO, A, Change::Written);
        changed(&mut n, GATHER / 2, A, Change::Attributes);
        changed(&mut n, GATHER / 2, B, Change::Attributes);
        assert!(n.begin(GATHER / 2).is_none() && n.any() && n.covered_by() == 1);
        assert_eq!(n.begin(GATHER).unwrap().inodes, [A, B].into());
        assert!(n.begin(Duration::MAX).is_none(), "one at a time");
        let dirty = n.end(GATHER, &[(p("a"), A), (p("d/a"), A)], &Objects::default(), TOOK);
        assert_eq!(dirty.dirty, [(p("a"), Seen::Written), (p("d/a"), Seen::Written)]);
        assert!(!n.any());
        assert_eq!((n.covered_by(), n.walks()), (1, 1));
    }

    #[test]
    fn what_lies_outside_is_sought_once_until_an_event_names_it() {
        let mut n = new();
        let sought = |n: &mut Nameless| {
            changed(n, Duration::ZERO, A, Change::Written);
            n.hurry();
            let begun = n.begin(Duration::ZERO).is_some();
            n.end(Duration::ZERO, &[], &Objects::default(), TOOK);
            begun
        };
        assert!(sought(&mut n) && !sought(&mut n));
        named(&mut n, B);
        assert!(!sought(&mut n));
        named(&mut n, A);
        assert!(sought(&mut n) && !sought(&mut n));
        n.forget_outside();
        assert!(sought(&mut n));
        // Linked inside while the walk was on its way.
        for forget in [named as fn(&mut Nameless, Inode), |n, _| n.forget_outside()] {
            n.forget_outside();
            changed(&mut n, Duration::ZERO, A, Change::Written);
            n.hurry();
            n.begin(Duration::ZERO).unwrap();
            forget(&mut n, A);
            n.end(Duration::ZERO, &[], &Objects::default(), TOOK);
            assert!(sought(&mut n));
        }
        let mut blind = Nameless::default();
        assert!(sought(&mut blind) && sought(&mut blind), "no event would report that it came inside");
    }

    #[test]
    fn what_changes_during_a_walk_is_sought_by_the_next() {
        let mut n = new();
        changed(&mut n, Duration::ZERO, A, Change::Written);
        n.begin(GATHER).unwrap();
        changed(&mut n, GATHER, A, Change::Written);
        assert_eq!(n.covered_by(), 2);
        n.end(GATHER, &[(p("a"), A)], &Objects::default(), TOOK);
        assert_eq!(n.walks(), 1);
        assert!(n.any());
    }

    #[test]
    fn walks_in_vain_become_rare() {
        let mut n = new();
        let (mut now, mut walks) = (Duration::ZERO, 0);
        while now < Duration::from_secs(600) {
            changed(&mut n, now, ((8, 1), 100 + walks), Change::Written);
            now = n.next_due().unwrap();
            n.begin(now).unwrap();
            n.end(now, &[], &Objects::default(), TOOK);
            walks += 1;
        }
        assert!((10..25).contains(&walks), "{walks}");
        changed(&mut n, now, A, Change::Written);
        n.hurry();
        assert!(n.begin(now).is_some(), "a flush does not wait");
    }

    #[test]
    fn a_walk_that_a_flush_waits_for_takes_place_where_too_much_was_to_be_sought() {
        let mut n = new();
        let handle = |number: usize| -> Owned { (1, 1, number.to_ne_bytes().into()) };
        let asks = |n: &mut Nameless, number| n.unopened(Duration::ZERO, handle(number), false, Change::Written);
        (0..MAX_UNOPENED).for_each(|number| assert!(asks(&mut n, number)));
        let number = n.covered_by();
        assert!(!asks(&mut n, MAX_UNOPENED), "all is compared instead");
        assert_eq!(n.begin(Duration::MAX).map(|sought| sought.objects.len()), Some(0));
        n.end(Duration::ZERO, &[], &Objects::default(), TOOK);
        assert!(n.walks() >= number && !n.any());
    }

    #[test]
    fn a_walk_that_cannot_begin_is_tried_again() {
        let mut n = new();
        changed(&mut n, Duration::ZERO, A, Change::Written);
        n.begin(GATHER).unwrap();
        n.put_off(GATHER);
        assert_eq!((n.covered_by(), n.begin(GATHER)), (1, None));
        assert_eq!(n.begin(GATHER + RETRY).unwrap().inodes, [A].into());
    }

    #[test]
    fn what_cannot_be_opened_is_sought_by_its_handle_and_compares_no_more_than_itself() {
        let handle = |n: u8| -> Owned { (1, 1, [n].into()) };
        let sought = |n: &mut Nameless, objects: &Objects| {
            n.hurry();
            let begun = n.begin(Duration::ZERO);
            begun.map(|sought| (sought.objects.len(), sought.files, n.end(Duration::ZERO, &[], objects, TOOK)))
        };
        let mut n = new();
        assert!(n.unopened(Duration::ZERO, handle(1), true, Change::Attributes));
        assert!(n.unopened(Duration::ZERO, handle(2), true, Change::Attributes));
        assert!(n.any() && n.covered_by() == 1 && n.begin(GATHER / 2).is_none());
        let found = Objects { found: vec![(p("d/e"), object(&handle(1)), true)], ..Objects::default() };
        let lost = |paths: &[&str]| Ended { lost: paths.iter().map(|at| p(at)).collect(), dirty: Vec::new() };
        assert_eq!(sought(&mut n, &found), Some((2, false, lost(&["d/e"]))));
        // The other lies outside, which stays so until an event names it.
        n.unopened(Duration::ZERO, handle(2), true, Change::Attributes);
        assert!(!n.any());
        n.named(Some(&Fid { fs: FsId(1), kind: 1, handle: &[2] }));
        n.unopened(Duration::ZERO, handle(2), true, Change::Attributes);
        assert_eq!(sought(&mut n, &Objects::default()), Some((1, false, Ended::default())));
        // A file.
        n.unopened(Duration::ZERO, handle(3), false, Change::Attributes);
        n.unopened(Duration::ZERO, handle(3), false, Change::Written);
        let found = Objects { found: vec![(p("f"), object(&handle(3)), false)], ..Objects::default() };
        let dirty = Ended { dirty: vec![(p("f"), Seen::Written)], lost: Vec::new() };
        assert_eq!(sought(&mut n, &found), Some((1, true, dirty)));
        // What cannot be read may be what is sought, so nothing is known to lie outside.
        n.unopened(Duration::ZERO, handle(4), true, Change::Attributes);
        let unread = Objects { unread: vec![p("bad")], ..Objects::default() };
        assert_eq!(sought(&mut n, &unread), Some((1, false, lost(&["bad"]))));
        n.unopened(Duration::ZERO, handle(4), true, Change::Attributes);
        assert!(n.any());
        // A walk that did not see everything is made again.
        n.hurry();
        n.begin(Duration::ZERO).unwrap();
        n.put_off(Duration::ZERO);
        assert_eq!(n.begin(RETRY).map(|sought| sought.objects.len()), Some(1));
        n.end(RETRY, &[], &Objects::default(), TOOK);
        // A bound.
        let mut n = new();
        let all = (0..=MAX_UNOPENED as u32)
            .map(|at| n.unopened(Duration::ZERO, (1, 1, at.to_ne_bytes().into()), true, Change::Attributes));
        assert_eq!(all.filter(|taken| !taken).count(), 1);
    }
}
