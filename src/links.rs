//! Which names are one file: an index of the files that have several names below the root.
//!
//! # What it promises
//! rsync links names of one file at the target only when one run lists them all; a run that lists
//! one of them breaks its link and leaves the others as they were. So every batch that holds a name
//! of such a file gets the other names too ([`Links::partners`], [`Links::crossing`]), provided
//! they are known; and when names become known that were not, all names of the file are sent again,
//! together.
//!
//! # How it works
//! Names are learnt from lookups on disk: each path of a batch is looked up before it leaves, and
//! a link count above one shows it. What these checks do not find (link(2) raises an event for the
//! new name, not for the old) is found by a walk in the background ([`search`]): over a directory
//! that is compared whole, or over everything when a file has more names than are known. Names that
//! a walk over everything did not find lie outside of the root, and are counted so that they are
//! not looked for again.
//!
//! Nothing here is believed: a name is looked up again before it joins a batch, and dropped when it
//! leads elsewhere.
//!
//! # What it gives up
//! A file with more than [`MOST_TOGETHER`] names is not kept together: its names are sent as files
//! of their own, as without `hard_links`, and only full passes link them. Files with one name are
//! not remembered; the first link to one costs a walk over the tree, at most every `Links::pause`.
//! More than [`MAX_NAMES`] names are not remembered: what goes beyond is joined in full passes
//! only. A link that was broken while fansync did not run, by a copy with the same size, time and
//! content, stays a link on the target: rsync does not part what is equal.

mod departed;
pub(crate) mod names;
pub(crate) mod objects;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod search;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::path::{self, RelPath};
use crate::sys::statx::StatBrief;

pub(crate) use departed::Since;

/// Names remembered; each takes about 120 bytes and its path.
pub(crate) const MAX_NAMES: usize = 2_000_000;
/// Names of one file that are kept together. What all of them cost, each of them would cost again,
/// and a user can make 65,000: with more, each is sent as a file of its own.
pub(crate) const MOST_TOGETHER: u32 = 1000;
/// What waits for the next walk at most; with a longer pause it is sent as files of their own, and
/// linked after the walk.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a walk that found nothing of use doubles up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a walk that could not begin.
const RETRY: Duration = Duration::from_secs(1);
/// Directories that wait to be walked; with more it is a walk over everything.
const MAX_SCOPES: usize = 1000;

/// A file, whatever its names: device and inode.
pub(crate) type Inode = ((u32, u32), u64);

/// Which walk something waits for: over everything or not, and the number of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    whole: bool,
    number: u64,
}

#[derive(Default)]
struct Group {
    names: Vec<Arc<[u8]>>,
    /// Names that a walk over everything did not find.
    outside: u32,
}

/// See the module's text. One for all targets of a mirror.
pub(crate) struct Links {
    groups: HashMap<Inode, Group>,
    names: BTreeMap<Arc<[u8]>, Inode>,
    departed: departed::Departed,
    most: usize,
    full_said: bool,
    /// Files with too many names.
    apart: HashSet<Inode>,
    apart_said: bool,
    /// Directories to be walked; `true`: with all below.
    scopes: BTreeMap<RelPath, bool>,
    /// The last walk over everything that was requested because there were too many directories.
    crowded: u64,
    whole: bool,
    /// For which files the next walk over everything was requested, and for which the one under way
    /// was.
    requested: HashSet<Inode>,
    sought: HashSet<Inode>,
    /// A walk over some directories found names whose fellows lie elsewhere: the walk that finds
    /// these.
    rest: Option<Ticket>,
    running: bool,
    /// Names that became known while a walk was under way: it may have passed their places before.
    recent: HashSet<Arc<[u8]>>,
    /// Walks begun and ended: over some directories, over everything.
    begun: [u64; 2],
    ended: [u64; 2],
    pause: Duration,
    /// No walk over everything before.
    next_whole: Duration,
    /// No walk before: the last one could not begin.
    not_before: Duration,
}

/// What a walk has to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// Everything, and this is the walk at the start.
    pub(crate) first: bool,
    /// Everything.
    pub(crate) whole: bool,
    /// These directories; `true`: with all below.
    pub(crate) scopes: BTreeMap<RelPath, bool>,
}

/// What a walk found.
#[derive(Debug)]
pub(crate) struct Found {
    /// What it was to read.
    pub(crate) job: Job,
    /// Names of files with several, and the number of names that these have.
    pub(crate) names: Vec<(RelPath, Inode, u32)>,
    /// Those of them that are neither files nor directories.
    pub(crate) special: Vec<(RelPath, Inode)>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// The file that a check found, if it has several names. Directories have none but their own.
pub(crate) fn shared(stat: &StatBrief) -> Option<Inode> {
    (stat.nlink > 1 && !stat.is_dir()).then_some((stat.dev, stat.ino))
}

/// What a target met as a batch was about to leave.
pub(crate) enum Met<'a> {
    /// A name of a file that has several.
    Name(&'a RelPath),
    /// A directory (`true`: with all below it) in which names of such files may be that no event
    /// gave.
    Dir(&'a RelPath, bool),
}

impl Links {
    /// An empty index that wants its first walk.
    pub(crate) fn new(most: usize) -> Links {
        Links {
            groups: HashMap::new(),
            names: BTreeMap::new(),
            departed: Default::default(),
            most,
            full_said: false,
            apart: HashSet::new(),
            apart_said: false,
            scopes: BTreeMap::new(),
            crowded: 0,
            whole: true,
            requested: HashSet::new(),
            sought: HashSet::new(),
            rest: None,
            running: false,
            recent: HashSet::new(),
            begun: [0; 2],
            ended: [0; 2],
            pause: Duration::ZERO,
            next_whole: Duration::ZERO,
            not_before: Duration::ZERO,
        }
    }

    /// Files with several names, and these names.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.groups.len(), self.names.len())
    }

    /// Files with too many names to be kept together.
    pub(crate) fn apart(&self) -> usize {
        self.apart.len()
    }

    /// Whether the names of a file are kept together, by the number of names that it has now.
    pub(crate) fn keeps_together(&mut self, inode: Inode, nlink: u32, path: &[u8]) -> bool {
        if nlink > MOST_TOGETHER {
            self.set_apart(inode, path);
            return false;
        }
        self.apart.remove(&inode);
        true
    }

    fn set_apart(&mut self, inode: Inode, path: &[u8]) {
        for name in self.groups.remove(&inode).into_iter().flat_map(|group| group.names) {
            self.names.remove(&name);
        }
        if self.apart.insert(inode) && !std::mem::replace(&mut self.apart_said, true) {
            tracing::warn!(
                path = %path::Shown(path),
                most = MOST_TOGETHER,
                "a file has more names than are kept together; each is sent as a file of its own"
            );
        }
    }

    /// Walks that ended.
    pub(crate) fn walks(&self) -> u64 {
        self.ended.iter().sum()
    }

    /// Takes in that `path` leads to `inode`. `true` when that is new.
    pub(crate) fn note(&mut self, path: &[u8], inode: Inode) -> bool {
        if self.apart.contains(&inode) {
            self.forget(path);
            return false;
        }
        match self.names.get(path) {
            Some(known) if *known == inode => return false,
            Some(_) => self.forget(path),
            None => {}
        }
        if self.names.len() >= self.most {
            if !std::mem::replace(&mut self.full_said, true) {
                tracing::warn!(
                    names = self.most,
                    "more names of linked files than are remembered; the rest is linked by full comparisons only"
                );
            }
            return false;
        }
        if self.partners(inode).nth(MOST_TOGETHER as usize - 1).is_some() {
            self.set_apart(inode, path);
            return false;
        }
        let name: Arc<[u8]> = path.into();
        if self.running {
            self.recent.insert(Arc::clone(&name));
        }
        self.groups.entry(inode).or_default().names.push(Arc::clone(&name));
        self.names.insert(name, inode);
        true
    }

    /// `path` leads elsewhere, or nowhere.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        let Some((name, inode)) = self.names.remove_entry(path) else { return };
        self.departed.lose(name, inode);
        if let Some(group) = self.groups.get_mut(&inode) {
            group.names.retain(|name| **name != *path);
            if group.names.is_empty() {
                self.groups.remove(&inode);
            }
        }
    }

    /// Nothing is there any more, at `dir` and below.
    pub(crate) fn forget_below(&mut self, dir: &[u8]) {
        self.forget(dir);
        let gone: Vec<Arc<[u8]>> = self.below(dir).map(|(name, _)| Arc::clone(name)).collect();
        gone.iter().for_each(|name| self.forget(name));
    }

    fn below<'a>(&'a self, dir: &'a [u8]) -> impl Iterator<Item = (&'a Arc<[u8]>, Inode)> {
        let mut from = dir.to_vec();
        if !dir.is_empty() {
            from.push(b'/');
        }
        let range = self.names.range::<[u8], _>((std::ops::Bound::Included(&*from), std::ops::Bound::Unbounded));
        range.take_while(move |(name, _)| path::is_at_or_below(name, dir)).map(|(name, inode)| (name, *inode))
    }

    /// The names of a file that are known.
    pub(crate) fn partners(&self, inode: Inode) -> impl Iterator<Item = &[u8]> {
        self.groups.get(&inode).into_iter().flat_map(|group| group.names.iter().map(|name| &**name))
    }

    /// Whether all names below the root are known of a file that has `nlink` names.
    pub(crate) fn complete(&self, inode: Inode, nlink: u32) -> bool {
        self.groups.get(&inode).is_some_and(|group| group.names.len() as u32 + group.outside >= nlink)
    }

    /// What was sought and not found lies outside.
    pub(crate) fn settle(&mut self, inode: Inode, nlink: u32) {
        if let Some(group) = self.groups.get_mut(&inode) {
            group.outside = nlink.saturating_sub(group.names.len() as u32);
        }
    }

    /// Names outside of a directory (`deep`: and of all below it) of files that have a name in it.
    pub(crate) fn crossing(&self, dir: &[u8], deep: bool) -> BTreeSet<RelPath> {
        let (mut out, mut gathered) = (BTreeSet::new(), HashSet::new());
        for (name, inode) in self.below(dir) {
            if covers(dir, deep, name) && gathered.insert(inode) {
                let across = self.partners(inode).filter(|other| !covers(dir, deep, other));
                out.extend(across.map(RelPath::from_normal));
            }
        }
        out
    }

    /// The file that `path` is known to lead to.
    pub(crate) fn known(&self, path: &[u8]) -> Option<Inode> {
        self.names.get(path).copied()
    }

    /// A run that makes links begins. What it returns is to be kept until the run is judged.
    pub(crate) fn run_begins(&mut self) -> Since {
        self.departed.begin()
    }

    /// The file that `path` is known to lead to, or led to when it was lost since a run began.
    pub(crate) fn known_since(&self, path: &[u8], since: Option<&Since>) -> Option<Inode> {
        since.and_then(|since| self.departed.known(path, since)).or_else(|| self.known(path))
    }

    /// One name of each file that has some in a directory (`deep`: or below it), or had when a run
    /// began.
    pub(crate) fn one_of_each(&self, dir: &[u8], deep: bool, since: Option<&Since>) -> Vec<RelPath> {
        let mut met = HashSet::new();
        let lost = since.into_iter().flat_map(|since| self.departed.below(dir, since));
        let inside = self.below(dir).chain(lost).filter(|(name, _)| covers(dir, deep, name));
        inside.filter(|(_, inode)| met.insert(*inode)).map(|(name, _)| RelPath::from_normal(&**name)).collect()
    }

    /// The names at and below a directory.
    pub(crate) fn names_below(&self, dir: &[u8]) -> Vec<RelPath> {
        self.below(dir).map(|(name, _)| RelPath::from_normal(&**name)).collect()
    }

    // ----- walks -----

    /// Requests a walk over `dir`.
    pub(crate) fn want(&mut self, dir: &RelPath, deep: bool) -> Ticket {
        if dir.is_root() && deep || self.scopes.len() >= MAX_SCOPES {
            self.whole = true;
            self.next_whole = Duration::ZERO;
            if dir.is_root() && deep {
                self.scopes.insert(RelPath::root(), true);
            } else {
                self.crowded = self.begun[1] + 1;
            }
            return Ticket { whole: true, number: self.begun[1] + 1 };
        }
        *self.scopes.entry(dir.clone()).or_default() |= deep;
        Ticket { whole: false, number: self.begun[0] + 1 }
    }

    /// Requests a walk over everything, to find the names of `inode`; returns whether it will begin
    /// soon.
    pub(crate) fn want_whole(&mut self, now: Duration, inode: Inode) -> (Ticket, bool) {
        self.whole = true;
        self.requested.insert(inode);
        (Ticket { whole: true, number: self.begun[1] + 1 }, self.next_whole <= now + PATIENCE)
    }

    /// A flush waits: what is wanted begins at once.
    pub(crate) fn hurry(&mut self) {
        self.next_whole = Duration::ZERO;
    }

    /// Whether the walk has ended.
    pub(crate) fn has_ended(&self, ticket: Ticket) -> bool {
        self.ended[usize::from(ticket.whole)] >= ticket.number
    }

    /// The walk that will find what walks over some directories left open.
    pub(crate) fn rest(&self) -> Option<Ticket> {
        self.rest.filter(|ticket| !self.has_ended(*ticket))
    }

    /// The walk to begin now, if one is wanted and none is under way.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Job> {
        let whole = self.whole && self.next_whole <= now;
        if self.running || now < self.not_before || !whole && self.scopes.is_empty() {
            return None;
        }
        self.running = true;
        let first = self.begun[1] == 0 && whole;
        if whole {
            self.whole = false;
            self.begun[1] += 1;
            self.sought = std::mem::take(&mut self.requested);
        }
        let scopes = std::mem::take(&mut self.scopes);
        if !scopes.is_empty() {
            self.begun[0] += 1;
        }
        Some(Job { first, whole, scopes })
    }

    /// The walk could not begin; it is tried again.
    pub(crate) fn put_off(&mut self, now: Duration, job: Job) {
        self.running = false;
        self.not_before = now + RETRY;
        if job.whole {
            self.whole = true;
            self.begun[1] -= 1;
            self.requested.extend(std::mem::take(&mut self.sought));
        }
        if !job.scopes.is_empty() {
            self.begun[0] -= 1;
        }
        for (dir, deep) in job.scopes {
            *self.scopes.entry(dir).or_default() |= deep;
        }
    }

    /// When [`Links::begin`] has something to do.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        match (self.running, self.scopes.is_empty()) {
            (true, _) => None,
            (false, false) => Some(self.not_before),
            (false, true) => self.whole.then_some(self.next_whole.max(self.not_before)),
        }
    }

    /// Forgets the names that a walk should have met and did not. They would be counted as names
    /// that are known, and hide those that are not.
    fn forget_missed(&mut self, job: &Job, names: &[(RelPath, Inode, u32)]) {
        let recent = std::mem::take(&mut self.recent);
        let met: HashSet<&[u8]> = names.iter().map(|(name, ..)| &**name).collect();
        let missed = |name: &Arc<[u8]>| !met.contains(&**name) && !recent.contains(name);
        let everything = [(RelPath::root(), true)].into();
        let scopes = if job.whole { &everything } else { &job.scopes };
        let mut gone: Vec<Arc<[u8]>> = Vec::new();
        for (dir, deep) in scopes {
            let there = self.below(dir).map(|(name, _)| name);
            gone.extend(there.filter(|name| covers(dir, *deep, name) && missed(name)).cloned());
        }
        gone.iter().for_each(|name| self.forget(name));
    }

    /// Takes in what a walk found. Returns the names that have to be sent again, together: of files
    /// of which a name became known.
    pub(crate) fn end(&mut self, now: Duration, found: Found) -> Vec<RelPath> {
        let Found { job, names, took, special: _ } = found;
        self.running = false;
        if job.whole {
            self.ended[1] = self.begun[1];
        }
        if !job.scopes.is_empty() {
            self.ended[0] = self.begun[0];
        }
        let mut changed: BTreeSet<Inode> = BTreeSet::new();
        let mut counts: HashMap<Inode, u32> = HashMap::new();
        self.forget_missed(&job, &names);
        for (path, inode, nlink) in names {
            if self.keeps_together(inode, nlink, &path) && self.note(&path, inode) {
                changed.insert(inode);
            }
            counts.insert(inode, nlink);
        }
        // Found since, in what could not be read before.
        for (inode, nlink) in &counts {
            if let Some(group) = self.groups.get_mut(inode) {
                group.outside = group.outside.min(nlink.saturating_sub(group.names.len() as u32));
            }
        }
        // What was sought before the walk began has its names where the walk met them, or outside.
        // Of other files a name may have come behind the walk, when it had passed the first one.
        let sought = if job.whole { std::mem::take(&mut self.sought) } else { HashSet::new() };
        for (inode, nlink) in counts.iter().filter(|(inode, _)| sought.contains(inode)) {
            self.settle(*inode, *nlink);
        }
        let mut again = Vec::new();
        let crowded = self.crowded > 0 && self.crowded >= self.ended[1];
        for inode in changed {
            let Some(group) = self.groups.get(&inode) else { continue };
            let scopes = || job.scopes.iter().chain(&self.scopes);
            let within = |(dir, deep): (&RelPath, &bool)| group.names.iter().filter(|name| covers(dir, *deep, name)).count();
            // A comparison links what lies in its directory, and parts it from what lies elsewhere.
            // It may be older than a name that is in its directory now; then another one brings the
            // name.
            let parts = crowded || scopes().any(|scope| (1..group.names.len()).contains(&within(scope)));
            let links = job.first || job.scopes.iter().any(|scope| within(scope) == group.names.len());
            if group.names.len() > 1 && (parts || !links) {
                again.extend(group.names.iter().map(|name| RelPath::from_normal(&**name)));
            }
        }
        // A place that noted a name that is met here: where others are missing, only a walk over
        // everything finds them.
        for (inode, nlink) in counts {
            if self.groups.get(&inode).is_some_and(|group| group.names.len() as u32 + group.outside < nlink) {
                self.whole = true;
                self.requested.insert(inode);
                self.rest = Some(Ticket { whole: true, number: self.begun[1] + 1 });
            }
        }
        if job.whole && !job.first {
            // Soon again where it was of use, seldom where links lead out of the tree.
            let in_vain = |inode: &Inode| self.groups.get(inode).is_none_or(|group| group.outside > 0);
            let longer = !sought.is_empty() && sought.iter().all(in_vain);
            self.pause = if longer { self.pause.max(took * 10) * 2 } else { took * 2 }.min(PAUSE_MAX);
            self.next_whole = now + self.pause;
        }
        again
    }
}

/// Whether a comparison of `dir`, with all below it if `deep`, includes `name`.
pub(crate) fn covers(dir: &[u8], deep: bool, name: &[u8]) -> bool {
    if deep { path::is_at_or_below(name, dir) } else { path::parent(name).is_some_and(|parent| parent == dir) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::samples::{A, B, p};

    fn found(job: Job, names: &[(&str, Inode, u32)]) -> Found {
        let names = names.iter().map(|(path, inode, nlink)| (p(path), *inode, *nlink)).collect();
        Found { job, names, special: Vec::new(), took: Duration::from_millis(10) }
    }

    fn started() -> Links {
        let mut links = Links::new(100);
        let job = links.begin(Duration::ZERO).unwrap();
        assert!(job.first && job.whole);
        assert_eq!(
            links.end(Duration::ZERO, found(job, &[("a", A, 2), ("d/b", A, 2), ("d/x", B, 2)])),
            [],
            "rsync's first pass links them"
        );
        // A name of the last one is not met: another walk shows whether it came behind this one.
        let job = links.begin(Duration::ZERO).unwrap();
        assert!(!job.first && job.whole);
        assert_eq!(links.end(Duration::ZERO, found(job, &[("a", A, 2), ("d/b", A, 2), ("d/x", B, 2)])), []);
        links.hurry();
        links
    }

    /// The other name of a file goes while a run carries the file, and a further batch finds that
    /// it has one name left.
    #[test]
    fn a_run_is_judged_by_the_names_that_it_had() {
        let mut links = started();
        let run = links.run_begins();
        links.forget(b"a");
        links.forget(b"d/b");
        assert_eq!((links.known(b"d/b"), links.known_since(b"d/b", Some(&run))), (None, Some(A)));
        assert_eq!(links.one_of_each(b"d", true, None), [p("d/x")]);
        assert_eq!(links.one_of_each(b"d", true, Some(&run)), [p("d/x"), p("d/b")]);
        let later = links.run_begins();
        assert_eq!(links.known_since(b"d/b", Some(&later)), None);
    }

    /// The walk has passed `a` when `b` is made, and meets `b`.
    #[test]
    fn a_name_that_comes_behind_a_walk_does_not_hide_the_first_one() {
        let mut links = started();
        links.want(&p("d"), true);
        links.want_whole(Duration::ZERO, B);
        let job = links.begin(Duration::ZERO).unwrap();
        let c = ((8, 1), 12);
        assert_eq!(links.end(Duration::ZERO, found(job, &[("d/c", c, 2)])), []);
        assert!(!links.complete(c, 2) && links.rest().is_some());
        links.hurry();
        let job = links.begin(Duration::ZERO).unwrap();
        assert_eq!(links.end(Duration::ZERO, found(job, &[("d/c", c, 2), ("c", c, 2)])), [p("d/c"), p("c")]);
        assert!(links.complete(c, 2) && links.rest().is_none());
    }

    /// A batch found that a name of a file leads to another file now, which had one name.
    #[test]
    fn a_name_that_was_noted_before_a_walk_does_not_hide_the_others() {
        let mut links = started();
        let c = ((8, 1), 12);
        links.want(&p("d"), true);
        assert!(links.note(b"d/b", c));
        let job = links.begin(Duration::ZERO).unwrap();
        assert_eq!(links.end(Duration::ZERO, found(job, &[("d/b", c, 2), ("d/x", B, 2)])), []);
        assert!(!links.complete(c, 2) && links.rest().is_some());
        links.hurry();
        let job = links.begin(Duration::ZERO).unwrap();
        assert_eq!(links.end(Duration::ZERO, found(job, &[("d/b", c, 2), ("c", c, 2), ("d/x", B, 2)])), [p("d/b"), p("c")]);
        assert!(links.complete(c, 2) && links.rest().is_none());
        // A file with a name outside is sought once.
        links.want(&p("d"), true);
        let job = links.begin(Duration::ZERO).unwrap();
        assert_eq!(links.end(Duration::ZERO, found(job, &[("d/b", c, 2), ("d/x", B, 2)])), []);
        assert!(links.rest().is_none());
    }

    #[test]
    fn a_walk_that_could_not_begin_is_tried_again() {
        let mut links = started();
        let (ticket, _) = links.want_whole(Duration::ZERO, A);
        let near = links.want(&p("d"), true);
        links.hurry();
        let job = links.begin(Duration::ZERO).unwrap();
        links.put_off(Duration::ZERO, job.clone());
        // A flush waits, and the directory is requested again: not before its time all the same.
        links.hurry();
        assert_eq!(links.want(&p("d"), false), near);
        assert_eq!((links.begin(Duration::ZERO), links.next_due()), (None, Some(RETRY)));
        assert_eq!(links.begin(RETRY), Some(job.clone()));
        assert!(!links.has_ended(ticket) && !links.has_ended(near));
        links.end(RETRY, found(job, &[]));
        assert!(links.has_ended(ticket) && links.has_ended(near));
        // The walk at the start is still that.
        let mut links = Links::new(100);
        let first = links.begin(Duration::ZERO).unwrap();
        links.put_off(Duration::ZERO, first.clone());
        assert_eq!(links.begin(RETRY), Some(first));
    }

    #[test]
    fn names_of_one_file_are_told_together() {
        let links = started();
        assert_eq!(links.partners(A).collect::<Vec<_>>(), [&b"a"[..], b"d/b"]);
        assert!(links.complete(A, 2) && !links.complete(A, 3));
        assert!(links.complete(B, 2), "the other name lies outside");
        assert_eq!(links.crossing(b"d", true), [p("a")].into());
        assert_eq!(links.crossing(b"", false), [p("d/b")].into());
        assert_eq!(links.crossing(b"", true), BTreeSet::new());
    }

    /// A directory that cannot be read holds one of two names; it is walked when it is sent after
    /// all.
    #[test]
    fn a_name_that_is_found_later_is_not_outside() {
        let mut links = started();
        assert!(links.complete(B, 2));
        links.want(&p("u"), true);
        let job = links.begin(Duration::ZERO).unwrap();
        assert_eq!(links.end(Duration::ZERO, found(job, &[("u/y", B, 2)])), [p("d/x"), p("u/y")]);
        assert!(links.complete(B, 2) && !links.complete(B, 3), "a third name is looked for");
    }

    #[test]
    fn a_name_that_leads_elsewhere_leaves_its_group() {
        let mut links = started();
        assert!(links.note(b"a", B));
        assert_eq!(links.partners(A).collect::<Vec<_>>(), [&b"d/b"[..]]);
        links.forget_below(b"d");
        assert_eq!(links.sizes(), (1, 1));
        assert_eq!(links.partners(B).collect::<Vec<_>>(), [&b"a"[..]]);
    }

    #[test]
    fn a_new_link_to_an_old_file_is_looked_for_and_both_are_sent() {
        let mut links = started();
        let c = ((8, 1), 12);
        links.note(b"new", c);
        assert!(!links.complete(c, 2));
        let (ticket, soon) = links.want_whole(Duration::ZERO, c);
        assert!(soon);
        let job = links.begin(Duration::ZERO).unwrap();
        assert!(links.begin(Duration::ZERO).is_none(), "one at a time");
        assert!(!links.has_ended(ticket));
        assert_eq!(links.end(Duration::ZERO, found(job, &[("old", c, 2), ("new", c, 2)])), [p("new"), p("old")]);
        assert!(links.has_ended(ticket) && links.complete(c, 2));
    }

    #[test]
    fn what_waits_for_a_walk_waits_for_one_that_begins_later() {
        let mut links = started();
        links.want_whole(Duration::ZERO, A);
        let job = links.begin(Duration::ZERO).unwrap();
        let (late, _) = links.want_whole(Duration::ZERO, A);
        links.end(Duration::ZERO, found(job, &[]));
        assert!(!links.has_ended(late));
        assert!(links.next_due().is_some());
    }

    #[test]
    fn walks_that_find_nothing_become_rare_and_nobody_waits_for_them() {
        let mut links = started();
        let (mut now, mut walks) = (Duration::ZERO, 0);
        while now < Duration::from_secs(100) {
            let soon = links.want_whole(now, B).1;
            now = now.max(links.next_due().unwrap());
            let mut job = links.begin(now).unwrap();
            job.first = false;
            links.end(now, found(job, &[]));
            walks += 1;
            assert!(walks < 5 || soon || links.pause > PATIENCE);
        }
        assert!(walks < 15, "{walks}");
        assert!(!links.want_whole(now, B).1);
        links.hurry();
        assert!(links.want_whole(now, B).1);
    }

    /// A name that is gone would stand for one that is not known yet.
    #[test]
    fn a_walk_forgets_the_names_that_it_does_not_meet() {
        let mut links = started();
        links.want(&p("d"), true);
        let job = links.begin(Duration::ZERO).unwrap();
        links.note(b"d/new", A);
        links.end(Duration::ZERO, found(job, &[]));
        assert_eq!(links.partners(A).collect::<Vec<_>>(), [&b"a"[..], b"d/new"], "it became known behind the walk");
        assert_eq!(links.partners(B).count(), 0);
        links.want_whole(Duration::ZERO, A);
        let job = links.begin(Duration::ZERO).unwrap();
        links.end(Duration::ZERO, found(job, &[("d/new", A, 2)]));
        assert_eq!(links.partners(A).collect::<Vec<_>>(), [&b"d/new"[..]]);
    }

    /// The comparison of the upper directory may be older than a name that another one brings.
    #[test]
    fn names_that_two_comparisons_carry_are_sent_together() {
        let c = ((8, 1), 12);
        let names = [("m/x", c, 2), ("m/sub/y", c, 2)];
        for (before, after, sent) in [(&["m"][..], &[][..], false), (&["m", "m/sub"], &[], true), (&["m"], &["m/sub"], true)] {
            for first in [false, true] {
                let mut links = if first { Links::new(100) } else { started() };
                before.iter().for_each(|dir| _ = links.want(&p(dir), true));
                let job = links.begin(Duration::ZERO).unwrap();
                assert_eq!(job.first, first);
                after.iter().for_each(|dir| _ = links.want(&p(dir), true));
                let again = links.end(Duration::ZERO, found(job, &names));
                assert_eq!(again.len(), if sent { 2 } else { 0 }, "{before:?} {after:?} {first}");
            }
        }
    }

    /// More directories are compared than are walked one by one: which carried a name is not known.
    #[test]
    fn with_too_many_comparisons_all_names_are_sent_together() {
        let mut links = Links::new(100);
        for at in 0..=MAX_SCOPES {
            links.want(&p(&format!("m{at}")), true);
        }
        let c = ((8, 1), 12);
        let job = links.begin(Duration::ZERO).unwrap();
        assert_eq!(links.end(Duration::ZERO, found(job, &[("m/x", c, 2), ("m/y", c, 2)])).len(), 2);
        links.want_whole(Duration::ZERO, A);
        links.hurry();
        let job = links.begin(Duration::ZERO).unwrap();
        let names = [("m0/x", c, 3), ("m0/y", c, 3), ("m0/z", c, 3)];
        assert_eq!(links.end(Duration::ZERO, found(job, &names)).len(), 3, "no comparison carried them");
    }

    #[test]
    fn a_directory_links_what_is_in_it_and_the_rest_is_sent_after_it() {
        let mut links = started();
        let (c, d) = (((8, 1), 12), ((8, 1), 13));
        let ticket = links.want(&p("m"), true);
        links.note(b"old", d);
        let job = links.begin(Duration::ZERO).unwrap();
        assert!(!job.whole);
        let again = links.end(Duration::ZERO, found(job, &[("m/1", c, 2), ("m/2", c, 2), ("m/3", d, 2)]));
        assert_eq!(again, [p("old"), p("m/3")]);
        assert!(links.has_ended(ticket));
        let job = {
            links.want(&p("m"), true);
            links.begin(Duration::ZERO).unwrap()
        };
        links.end(Duration::ZERO, found(job, &[("m/9", ((8, 1), 14), 2)]));
        assert!(links.whole && links.rest().is_some(), "its other name is nowhere in m");
    }

    #[test]
    fn a_file_with_too_many_names_is_not_kept_together() {
        let mut links = Links::new(10_000);
        for n in 0..3 * MOST_TOGETHER {
            let name = format!("d/f{n}");
            if links.keeps_together(A, n + 1, name.as_bytes()) {
                links.note(name.as_bytes(), A);
            }
            assert!(links.partners(A).count() <= MOST_TOGETHER as usize);
        }
        assert_eq!((links.sizes(), links.apart()), ((0, 0), 1));
        assert!(!links.note(b"d/f0", A) && links.crossing(b"d", true).is_empty());
        // By names alone, too.
        (0..=MOST_TOGETHER).for_each(|n| _ = links.note(format!("e/f{n}").as_bytes(), B));
        assert_eq!((links.sizes(), links.apart()), ((0, 0), 2));
        // When most of them are gone, the rest is one file again.
        assert!(links.keeps_together(A, 2, b"d/f0") && links.note(b"d/f0", A));
    }

    #[test]
    fn the_index_is_bounded() {
        let mut links = Links::new(3);
        for n in 0..10 {
            links.note(format!("f{n}").as_bytes(), A);
        }
        assert_eq!(links.sizes(), (1, 3));
    }
}
