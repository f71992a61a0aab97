//! Other names of files that changed through one name, where links are not kept
//! (`hard_links = false`): each name is a file of its own on the targets, and each has to be sent.
//!
//! # What it promises
//! A change through one name below the root reaches every other name below it. Names are known from
//! earlier searches and from batches; where fewer are known than the file has, a walk over the
//! source finds the rest ([`super::search::seek`]). One walk serves all files that are sought when
//! it begins. Names that a walk did not find lie outside of the root, and are counted so that they
//! are not sought again with each write; a name that is linked into the tree later has an event of
//! its own.
//!
//! # What it costs
//! Nothing where no file has several names: a file is checked here when its batch found a link
//! count above one, and is known here only once it was sought. The index is bounded
//! ([`MAX_NAMES`]); what it forgets costs a walk. Walks over a tree that holds no more names become
//! rare, unless a flush waits for one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::Inode;
use crate::path::RelPath;

/// Names remembered; each takes some 100 bytes and its path.
pub(crate) const MAX_NAMES: usize = 50_000;
/// A file with more names is sought with each change: to look each name up is the work of a walk,
/// and not of the engine.
pub(crate) const MANY: usize = 64;
/// The pause after a walk that found no other name doubles up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Directories that wait to be walked; with more it is a walk over everything.
const MAX_SCOPES: usize = 1000;
/// The pause after a walk that could not begin.
const RETRY: Duration = Duration::from_secs(1);

/// The walk that something waits for, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// That of the walk after this one.
    pub(crate) fn next(self) -> Ticket {
        Ticket(self.0 + 1)
    }
}

/// What is known of a file.
#[derive(Debug, Default)]
struct File {
    names: Vec<RelPath>,
    /// Names that a walk did not find.
    outside: u32,
}

struct Walk {
    job: Job,
    arrivals: u64,
}

/// What a walk is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    /// Files whose names are sought.
    pub(crate) sought: HashSet<Inode>,
    /// Directories; files in them that changed are sought, too.
    pub(crate) scopes: BTreeMap<RelPath, Scope>,
}

/// A directory in which files may have changed, each through a name which nothing else reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// With all below it.
    pub deep: bool,
    /// When they changed at the earliest, in seconds since 1970.
    pub since: i64,
}

/// See the module's text. One for all targets of a mirror.
#[derive(Default)]
pub(crate) struct Names {
    files: HashMap<Inode, File>,
    held: usize,
    wanted: Job,
    walk: Option<Walk>,
    begun: u64,
    ended: u64,
    /// How often a directory came into the tree, with names in it that no event reported.
    arrivals: u64,
    /// Since the last of these nothing is known to lie outside.
    settled: u64,
    pause: Duration,
    next: Duration,
    /// How often a batch met a file with several names, or may have.
    met: u64,
    /// When the first change came through a name that led nowhere when it was to leave, as a time
    /// since the daemon's start.
    astray: Option<Duration>,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Names of files that were sought, and the number of names that these have.
    pub(crate) names: Vec<(RelPath, Inode, u32)>,
    /// Files with a name in one of the directories, and others elsewhere.
    pub(crate) scoped: HashSet<Inode>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// The end of a walk.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What waited for this one or an earlier one goes on.
    pub(crate) ticket: Ticket,
    /// All names below the root of the files that were sought.
    pub(crate) names: BTreeMap<Inode, Vec<RelPath>>,
    /// Those among them that were found in a directory that was requested.
    pub(crate) scoped: HashSet<Inode>,
}

impl Names {
    /// A batch holds a file with several names, or directories that may.
    pub(crate) fn meet(&mut self) {
        self.met += 1;
    }

    /// As long as this stays the same, no batch brought the first file with several names.
    pub(crate) fn met(&self) -> u64 {
        self.met
    }

    /// A change came `since` through a name that leads nowhere now, and the file behind it is not
    /// known.
    pub(crate) fn stray(&mut self, since: Duration) {
        self.astray = self.astray.into_iter().chain([since]).min();
    }

    /// When the first change came that [`Names::stray`] was called for.
    pub(crate) fn take_astray(&mut self) -> Option<Duration> {
        self.astray.take()
    }

    /// Files that are known, and their names.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.files.len(), self.held)
    }

    /// Walks that ended.
    pub(crate) fn walks(&self) -> u64 {
        self.ended
    }

    /// The names that are known of a file; they may lead elsewhere by now. `None`: it was never
    /// sought.
    pub(crate) fn known(&self, inode: Inode) -> Option<&[RelPath]> {
        self.files.get(&inode).map(|file| &*file.names)
    }

    /// `path` leads to `inode`. That of a file that is not known is of no use yet.
    pub(crate) fn note(&mut self, inode: Inode, path: &RelPath) {
        let Some(file) = self.files.get_mut(&inode) else { return };
        if !file.names.contains(path) {
            file.names.push(path.clone());
            self.held += 1;
            if file.names.len() > MANY {
                self.forget_file(inode);
            }
        }
    }

    /// `path` does not lead to `inode` any more. The number may be another file's by now, as ext4
    /// and xfs use one again at once: nothing is known to lie outside.
    pub(crate) fn forget(&mut self, inode: Inode, path: &RelPath) {
        let Some(file) = self.files.get_mut(&inode) else { return };
        let before = file.names.len();
        file.names.retain(|name| name != path);
        if file.names.len() < before {
            file.outside = 0;
        }
        self.held -= before - file.names.len();
    }

    fn forget_file(&mut self, inode: Inode) {
        self.held -= self.files.remove(&inode).map_or(0, |file| file.names.len());
    }

    /// Whether the names that are known are all that lie below the root, of a file that has
    /// `nlink`.
    pub(crate) fn complete(&self, inode: Inode, nlink: u32) -> bool {
        self.files.get(&inode).is_some_and(|file| file.names.len() as u32 + file.outside >= nlink)
    }

    /// A directory is compared that came from elsewhere, or whose events were missed: what is known
    /// to lie outside may be in it.
    pub(crate) fn arrived(&mut self) {
        self.arrivals += 1;
        if self.settled > 0 {
            self.settled = 0;
            self.files.values_mut().for_each(|file| file.outside = 0);
        }
    }

    /// Requests the names of a file. The walk under way will do if it seeks the same, and nothing
    /// came into the tree behind its back:
    /// single names that come meanwhile have events of their own.
    pub(crate) fn seek(&mut self, inode: Inode) -> Ticket {
        if self.walk.as_ref().is_some_and(|walk| walk.arrivals == self.arrivals && walk.job.sought.contains(&inode)) {
            return Ticket(self.begun);
        }
        self.wanted.sought.insert(inode);
        Ticket(self.begun + 1)
    }

    /// Requests the other names of files in a directory that changed.
    pub(crate) fn survey(&mut self, dir: RelPath, scope: Scope) -> Ticket {
        let dir = if self.wanted.scopes.len() < MAX_SCOPES { dir } else { RelPath::root() };
        let deep = scope.deep || self.wanted.scopes.len() >= MAX_SCOPES;
        let all = self.wanted.scopes.entry(dir).or_insert(scope);
        *all = Scope { deep: all.deep || deep, since: all.since.min(scope.since) };
        Ticket(self.begun + 1)
    }

    fn is_wanted(&self) -> bool {
        !self.wanted.sought.is_empty() || !self.wanted.scopes.is_empty()
    }

    /// A flush or a stop waits: what is wanted begins at once.
    pub(crate) fn hurry(&mut self) {
        self.next = Duration::ZERO;
    }

    /// The walk to begin now.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Job> {
        if self.walk.is_some() || !self.is_wanted() || now < self.next {
            return None;
        }
        let job = std::mem::take(&mut self.wanted);
        self.begun += 1;
        self.walk = Some(Walk { job: job.clone(), arrivals: self.arrivals });
        Some(job)
    }

    /// The walk could not begin; it is tried again.
    pub(crate) fn put_off(&mut self, now: Duration) {
        let Some(walk) = self.walk.take() else { return };
        self.begun -= 1;
        self.wanted.sought.extend(walk.job.sought);
        for (dir, scope) in walk.job.scopes {
            self.survey(dir, scope);
        }
        self.next = now + RETRY;
    }

    /// When [`Names::begin`] has something to do.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        (self.walk.is_none() && self.is_wanted()).then_some(self.next)
    }

    /// Takes in what the walk under way found.
    pub(crate) fn end(&mut self, now: Duration, found: Found) -> Ended {
        let walk = self.walk.take().unwrap_or(Walk { job: Job::default(), arrivals: self.arrivals });
        self.ended = self.begun;
        let mut names: BTreeMap<Inode, Vec<RelPath>> = BTreeMap::new();
        let mut counts: HashMap<Inode, u32> = HashMap::new();
        for (path, inode, nlink) in found.names {
            names.entry(inode).or_default().push(path);
            counts.insert(inode, nlink);
        }
        let mut useful = walk.job.sought.is_empty() || !walk.job.scopes.is_empty();
        for inode in walk.job.sought.into_iter().chain(found.scoped.iter().copied()) {
            self.forget_file(inode);
            let there = names.get(&inode).map_or(&[][..], |names| names);
            useful |= there.len() > 1;
            if there.is_empty() || there.len() > MANY {
                continue;
            }
            if self.held + there.len() > MAX_NAMES {
                self.files.clear();
                self.held = 0;
            }
            // A directory that came in meanwhile may have been missed.
            let known = if walk.arrivals == self.arrivals { counts[&inode] } else { 0 };
            let outside = known.saturating_sub(there.len() as u32);
            self.settled += u64::from(outside > 0);
            self.held += there.len();
            self.files.insert(inode, File { names: there.to_vec(), outside });
        }
        self.pause = if useful { found.took * 2 } else { self.pause.max(found.took * 5) * 2 }.min(PAUSE_MAX);
        self.next = now + self.pause;
        Ended { ticket: Ticket(self.ended), names, scoped: found.scoped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::samples::{A, B, p};

    fn found(names: &[(&str, Inode, u32)]) -> Found {
        let names = names.iter().map(|(path, inode, nlink)| (p(path), *inode, *nlink)).collect();
        Found { names, took: Duration::from_millis(10), ..Found::default() }
    }

    fn sought(names: &mut Names, inodes: &[Inode], there: &[(&str, Inode, u32)]) -> Ended {
        inodes.iter().for_each(|inode| _ = names.seek(*inode));
        names.hurry();
        assert_eq!(names.begin(Duration::ZERO).map(|job| job.sought), Some(inodes.iter().copied().collect()));
        names.end(Duration::ZERO, found(there))
    }

    #[test]
    fn one_walk_finds_the_names_of_all_files_that_were_sought() {
        let mut names = Names::default();
        assert!(names.next_due().is_none() && names.begin(Duration::ZERO).is_none(), "no links, no walk");
        let ended = sought(&mut names, &[A, B], &[("a", A, 2), ("x", B, 3), ("d/a", A, 2)]);
        assert_eq!(ended.names[&A], [p("a"), p("d/a")]);
        assert!(names.complete(A, 2) && !names.complete(A, 3));
        assert!(names.complete(B, 3), "its other names lie outside, and are not sought with each write");
        assert_eq!((names.sizes(), names.walks()), ((2, 3), 1));
        names.forget(A, &p("a"));
        assert!(!names.complete(A, 2), "a name that moved is sought");
        names.note(A, &p("e/a"));
        names.note(A, &p("e/a"));
        assert!(names.complete(A, 2));
    }

    #[test]
    fn a_walk_under_way_will_do_unless_a_directory_came_in() {
        let mut names = Names::default();
        let first = names.seek(A);
        assert!(names.begin(Duration::ZERO).is_some());
        assert_eq!(names.seek(A), first);
        assert!(names.seek(B) > first, "not sought by this one");
        names.arrived();
        assert!(names.seek(A) > first);
        let ended = names.end(Duration::ZERO, found(&[("a", A, 2)]));
        assert_eq!(ended.ticket, first);
        assert!(!names.complete(A, 2), "the directory may hold the other name");
        assert!(names.next_due().is_some(), "so it is sought again");
    }

    #[test]
    fn what_lies_outside_may_come_in_with_a_directory() {
        let mut names = Names::default();
        sought(&mut names, &[A], &[("a", A, 2)]);
        assert!(names.complete(A, 2));
        names.arrived();
        assert!(!names.complete(A, 2));
    }

    #[test]
    fn a_number_that_is_used_again_has_no_names_outside() {
        let mut names = Names::default();
        sought(&mut names, &[A], &[("x", A, 2)]);
        assert!(names.complete(A, 2), "one name lies outside");
        // Both went, and a new file has the number, with a name that no search has found.
        names.forget(A, &p("x"));
        names.note(A, &p("p"));
        assert!(!names.complete(A, 2));
    }

    #[test]
    fn walks_that_find_no_other_name_become_rare_and_a_flush_does_not_wait() {
        let mut names = Names::default();
        let (mut now, mut walks) = (Duration::ZERO, 0);
        while now < Duration::from_secs(600) {
            names.seek(A);
            now = now.max(names.next_due().unwrap());
            assert!(names.begin(now).is_some());
            names.arrived();
            names.end(now, found(&[("a", A, 2)]));
            walks += 1;
        }
        assert!((10..30).contains(&walks), "{walks}");
        names.seek(A);
        names.hurry();
        assert!(names.begin(now).is_some());
    }

    #[test]
    fn a_walk_that_cannot_begin_is_tried_again() {
        let mut names = Names::default();
        let ticket = names.seek(A);
        names.begin(Duration::ZERO).unwrap();
        names.put_off(Duration::ZERO);
        assert!(names.begin(Duration::ZERO).is_none());
        assert_eq!(names.begin(RETRY).map(|job| job.sought), Some([A].into()));
        assert_eq!(names.end(RETRY, found(&[])).ticket, ticket);
    }

    #[test]
    fn directories_are_surveyed_together() {
        let mut names = Names::default();
        let scope = |deep, since| Scope { deep, since };
        let ticket = names.survey(p("d"), scope(false, 100));
        assert_eq!((names.survey(p("d"), scope(true, 200)), names.survey(p("e"), scope(false, 300))), (ticket, ticket));
        let job = names.begin(Duration::ZERO).unwrap();
        assert_eq!(job.scopes, [(p("d"), scope(true, 100)), (p("e"), scope(false, 300))].into());
        let found = Found { scoped: [A].into(), ..found(&[("a", A, 2), ("d/a", A, 2)]) };
        let ended = names.end(Duration::ZERO, found);
        assert_eq!((ended.ticket, ended.scoped, ended.names[&A].len()), (ticket, [A].into(), 2));
        assert!(names.complete(A, 2), "and known from now on");
        (0..2 * MAX_SCOPES).for_each(|n| _ = names.survey(p(&format!("d{n}")), scope(false, 5)));
        let scopes = names.begin(Duration::from_secs(1)).unwrap().scopes;
        assert!(scopes.len() <= MAX_SCOPES + 1 && scopes[&RelPath::root()] == scope(true, 5));
    }

    #[test]
    fn the_index_is_bounded() {
        let mut names = Names::default();
        let many: Vec<String> = (0..=MANY).map(|n| format!("f{n}")).collect();
        let all: Vec<(&str, Inode, u32)> = many.iter().map(|name| (name.as_str(), A, 65)).collect();
        assert_eq!(sought(&mut names, &[A], &all).names[&A].len(), MANY + 1);
        assert_eq!(names.sizes(), (0, 0), "sought with each change");
        let pairs = MAX_NAMES / 2 + 10;
        let inodes: Vec<Inode> = (0..pairs).map(|n| ((8, 1), n as u64)).collect();
        let files: Vec<(String, Inode)> =
            inodes.iter().flat_map(|i| [("a", *i), ("b", *i)]).map(|(x, i)| (format!("{x}{}", i.1), i)).collect();
        let all: Vec<(&str, Inode, u32)> = files.iter().map(|(name, inode)| (name.as_str(), *inode, 2)).collect();
        assert_eq!(sought(&mut names, &inodes, &all).names.len(), pairs);
        let (files, held) = names.sizes();
        assert!(held <= MAX_NAMES && held == 2 * files, "{files} {held}");
    }
}
