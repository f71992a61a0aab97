//! The walk that finds files with several names, on a thread of its own.
//!
//! Promises: no link is followed, nothing outside of the root is opened, nothing is written. What
//! cannot be read is left out: what lies there is not sent either, or listed as a failure by the
//! target that sends it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::fcntl::OFlag;

use super::objects::Object;
use super::{Found, Inode, Job, names, shared};
use crate::apart::Apart;
use crate::filter::Filter;
use crate::path::{self, RelPath};
use crate::sys::beneath::open_beneath;
use crate::sys::dirent::{Listing, Type, numbers_are_inodes};
use crate::sys::handle::name_to_handle;
use crate::sys::statx::{Paths, Statter};

/// Names looked up together.
const BATCH: usize = 2048;

/// What is walked over.
#[derive(Clone, Copy)]
pub(crate) struct Within<'a> {
    /// The source.
    pub(crate) fd: BorrowedFd<'a>,
    /// Places in it that are not entered.
    pub(crate) apart: &'a Apart,
}

/// Walks over what `job` names, below `root`.
pub(crate) fn search(root: Within<'_>, filter: &Filter, job: Job) -> Found {
    let started = Instant::now();
    let mut walk = Walk::new(root, filter);
    if job.whole {
        walk.dirs.push((RelPath::root(), true));
    } else {
        walk.dirs.extend(job.scopes.iter().map(|(dir, deep)| (dir.clone(), *deep)));
    }
    while let Some((dir, deep)) = walk.dirs.pop() {
        walk.read(&dir, deep);
    }
    Found { names: walk.names, special: walk.special, took: started.elapsed(), job }
}

/// A directory below `root`. `None`: it is gone, cannot be read, or is left alone.
fn open_dir(root: Within<'_>, dir: &RelPath) -> Option<OwnedFd> {
    try_open_dir(root, dir).ok().flatten()
}

/// The same, where it matters why. `None`: it is left alone.
pub(super) fn try_open_dir(root: Within<'_>, dir: &RelPath) -> nix::Result<Option<OwnedFd>> {
    if root.apart.covers(dir) {
        return Ok(None);
    }
    // A directory that becomes a symbolic link does not lead the walk elsewhere.
    let open = |noatime: OFlag| open_beneath(root.fd, dir.as_path(), OFlag::O_RDONLY | OFlag::O_DIRECTORY | noatime);
    open(OFlag::O_NOATIME).or_else(|_| open(OFlag::empty())).map(Some)
}

/// Finds all names below `root` of the files in `sought`, and how many names each file has. A
/// listing holds the number of each name's inode, so only the names that are sought are looked at,
/// where the filesystem is one whose listings can be trusted.
pub(crate) fn seek(root: Within<'_>, filter: &Filter, sought: &HashSet<Inode>) -> names::Found {
    let started = Instant::now();
    let names = if sought.is_empty() { Vec::new() } else { seek_all(root, filter, sought) };
    names::Found { names, scoped: HashSet::new(), took: started.elapsed() }
}

/// The same of what `job` seeks, and of all files in its directories that changed and have names
/// elsewhere.
pub(crate) fn seek_for(root: Within<'_>, filter: &Filter, job: &names::Job) -> names::Found {
    let started = Instant::now();
    let scoped = survey(root, filter, &job.scopes);
    let sought: HashSet<Inode> = job.sought.union(&scoped).copied().collect();
    let found = seek(root, filter, &sought);
    names::Found { scoped, took: started.elapsed(), ..found }
}

/// What [`changed`] found.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// The names of the files that changed.
    pub(crate) names: Vec<RelPath>,
    /// There are files with several names, changed or not.
    pub(crate) linked: bool,
}

/// The files at and below `places` that changed at `since` or later, in seconds since 1970.
pub(crate) fn changed(root: Within<'_>, filter: &Filter, places: &[RelPath], since: i64) -> Changed {
    let mut walk = Walk::new(root, filter);
    (walk.since, walk.all) = (since, true);
    walk.dirs.extend(places.iter().map(|place| (place.clone(), true)));
    while let Some((dir, deep)) = walk.dirs.pop() {
        walk.read(&dir, deep);
    }
    Changed { names: walk.names.into_iter().map(|(name, ..)| name).collect(), linked: walk.linked }
}

/// Walks over `at`, with all below it if `deep`, and hands over the files with several names,
/// directory by directory, by the path and the handle of each; until `more` says that it is enough.
pub(crate) fn linked(
    root: Within<'_>,
    filter: &Filter,
    at: RelPath,
    deep: bool,
    more: &mut dyn FnMut(Vec<(RelPath, Object)>) -> bool,
) {
    let mut walk = Walk::new(root, filter);
    walk.dirs.push((at, deep));
    while let Some((dir, deep)) = walk.dirs.pop() {
        walk.read(&dir, deep);
        let names = walk.names.drain(..).filter_map(|(name, ..)| {
            let handle = name_to_handle(root.fd, name.as_path()).ok()?;
            Some((name, (handle.kind, handle.bytes)))
        });
        let names = names.collect();
        walk.special.clear();
        if !more(names) {
            return;
        }
    }
}

fn survey(root: Within<'_>, filter: &Filter, scopes: &BTreeMap<RelPath, names::Scope>) -> HashSet<Inode> {
    let mut out = HashSet::new();
    for (dir, scope) in scopes {
        let mut walk = Walk::new(root, filter);
        walk.since = scope.since;
        walk.dirs.push((dir.clone(), scope.deep));
        while let Some((dir, deep)) = walk.dirs.pop() {
            walk.read(&dir, deep);
        }
        let mut missing: HashMap<Inode, u32> = HashMap::new();
        for (_, inode, nlink) in walk.names {
            let missing = missing.entry(inode).or_insert(nlink);
            *missing = missing.saturating_sub(1);
        }
        // Of the whole source it is not known by which name a file changed: that one may have left,
        // and be back.
        let seeks = |missing: u32| missing > 0 || dir.is_root() && scope.deep;
        out.extend(missing.into_iter().filter(|(_, missing)| seeks(*missing)).map(|(inode, _)| inode));
    }
    out
}

fn seek_all(root: Within<'_>, filter: &Filter, sought: &HashSet<Inode>) -> Vec<(RelPath, Inode, u32)> {
    let numbers: HashSet<u64> = sought.iter().map(|inode| inode.1).collect();
    let (mut listing, mut statter, mut names) = (Listing::default(), Statter::new(), Vec::new());
    let mut dirs = vec![RelPath::root()];
    let mut paths = Paths::default();
    while let Some(dir) = dirs.pop() {
        let Some(fd) = open_dir(root, &dir) else { continue };
        let trusted = numbers_are_inodes(fd.as_fd());
        let below = dirs.len();
        loop {
            let more = match listing.next(fd.as_fd()) {
                Ok(Some(mut entries)) => {
                    while let Some((name, kind, number)) = entries.next_numbered() {
                        match kind {
                            Type::Dir => dirs.push(dir.join(name)),
                            Type::Other if trusted && !numbers.contains(&number) => {}
                            Type::Other | Type::Unknown => _ = paths.push(name, None),
                        }
                    }
                    true
                }
                Ok(None) | Err(_) => false,
            };
            if paths.len() >= BATCH || !more {
                for (at, looked) in statter.stat_all(fd.as_fd(), &paths).into_iter().enumerate() {
                    let Ok(stat) = looked else { continue };
                    let (inode, name) = ((stat.dev, stat.ino), paths.get(at));
                    if stat.is_dir() {
                        dirs.push(dir.join(name));
                    } else if sought.contains(&inode) {
                        let name = dir.join(name);
                        if !filter.excludes(&name, false) {
                            names.push((name, inode, stat.nlink));
                        }
                    }
                }
                paths.clear();
            }
            if !more {
                break;
            }
        }
        if !filter.is_empty() {
            let children = dirs.split_off(below);
            dirs.extend(children.into_iter().filter(|child| !filter.excludes(child, true)));
        }
    }
    names
}

struct Walk<'a> {
    root: Within<'a>,
    filter: &'a Filter,
    statter: Statter,
    listing: Listing,
    names: Vec<(RelPath, super::Inode, u32)>,
    special: Vec<(RelPath, super::Inode)>,
    dirs: Vec<(RelPath, bool)>,
    /// Only files that changed since then, in seconds since 1970.
    since: i64,
    /// Also those of one name.
    all: bool,
    /// A file with several names was met.
    linked: bool,
}

impl<'a> Walk<'a> {
    fn new(root: Within<'a>, filter: &'a Filter) -> Walk<'a> {
        let (statter, listing) = (Statter::new(), Listing::default());
        let (names, special, dirs) = (Vec::new(), Vec::new(), Vec::new());
        Walk { root, filter, statter, listing, names, special, dirs, since: i64::MIN, all: false, linked: false }
    }

    fn read(&mut self, dir: &RelPath, deep: bool) {
        let Some(fd) = open_dir(self.root, dir) else { return };
        let mut paths = Paths::default();
        let mut unknown = Vec::new();
        loop {
            let more = match self.listing.next(fd.as_fd()) {
                Ok(Some(entries)) => {
                    for (name, kind) in entries {
                        match kind {
                            Type::Dir if deep => self.dirs.push((dir.join(name), true)),
                            Type::Dir => {}
                            Type::Other | Type::Unknown => {
                                paths.push(name, None);
                                unknown.push(kind == Type::Unknown);
                            }
                        }
                    }
                    true
                }
                Ok(None) | Err(_) => false,
            };
            if paths.len() >= BATCH || !more {
                for (at, looked) in self.statter.stat_all(fd.as_fd(), &paths).into_iter().enumerate() {
                    let Ok(stat) = looked else { continue };
                    self.linked |= shared(&stat).is_some();
                    let file = if self.all && !stat.is_dir() { Some((stat.dev, stat.ino)) } else { shared(&stat) };
                    if let Some(inode) = file.filter(|_| stat.ctime.secs >= self.since) {
                        let mut name = dir.to_vec();
                        path::push(&mut name, paths.get(at));
                        if !self.filter.excludes(&name, false) {
                            let name = RelPath::from_normal(name);
                            if !stat.is_file() {
                                self.special.push((name.clone(), inode));
                            }
                            self.names.push((name, inode, stat.nlink));
                        }
                    } else if unknown[at] && stat.is_dir() && deep {
                        self.dirs.push((dir.join(paths.get(at)), true));
                    }
                }
                paths.clear();
                unknown.clear();
            }
            if !more {
                break;
            }
        }
        // What is left out is not walked through.
        let filter = self.filter;
        if !filter.is_empty() {
            let from = self.dirs.iter().rposition(|(d, _)| path::parent(d) != Some(dir)).map_or(0, |at| at + 1);
            let children = self.dirs.split_off(from);
            self.dirs.extend(children.into_iter().filter(|(d, _)| !filter.excludes(d, true)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn all(root: &File) -> Within<'_> {
        static NONE: std::sync::LazyLock<Apart> = std::sync::LazyLock::new(Apart::default);
        Within { fd: root.as_fd(), apart: &NONE }
    }

    fn names(root: &File, filter: &Filter, job: Job) -> Vec<(String, u32)> {
        let mut out: Vec<_> =
            search(all(root), filter, job).names.into_iter().map(|(path, _, nlink)| (path.to_string(), nlink)).collect();
        out.sort();
        out
    }

    #[test]
    fn what_is_left_alone_is_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("c/proc/1")).unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        fs::hard_link(dir.path().join("f"), dir.path().join("c/proc/1/f")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let mut apart = Apart::default();
        apart.put(RelPath::from_normal("c/proc"), crate::apart::Why::NoTree("proc".into()));
        let job = || Job { first: false, whole: true, scopes: BTreeMap::new() };
        let found = |apart: &Apart| search(Within { fd: root.as_fd(), apart }, &Filter::none(), job()).names.len();
        assert_eq!((found(&Apart::default()), found(&apart)), (2, 1));
        let inode = search(all(&root), &Filter::none(), job()).names[0].1;
        let sought = [inode].into();
        let found = |apart: &Apart| seek(Within { fd: root.as_fd(), apart }, &Filter::none(), &sought).names.len();
        assert_eq!((found(&Apart::default()), found(&apart)), (2, 1));
    }

    #[test]
    fn files_with_several_names_and_nothing_else() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::create_dir_all(at("out")).unwrap();
        for name in ["one", "two", "d/three"] {
            fs::write(at(name), name).unwrap();
        }
        fs::hard_link(at("two"), at("d/e/two")).unwrap();
        fs::hard_link(at("d/three"), at("out/three")).unwrap();
        fs::write(other.path().join("x"), "x").unwrap();
        fs::hard_link(other.path().join("x"), other.path().join("y")).unwrap();
        std::os::unix::fs::symlink(other.path(), at("link")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let whole = || Job { first: false, whole: true, scopes: BTreeMap::new() };
        let want = |names: &[&str]| names.iter().map(|n| (n.to_string(), 2)).collect::<Vec<_>>();
        assert_eq!(names(&root, &Filter::none(), whole()), want(&["d/e/two", "d/three", "out/three", "two"]));
        let filter = Filter::new(&[] as &[&str], &["/out/"]).unwrap();
        assert_eq!(names(&root, &filter, whole()), want(&["d/e/two", "d/three", "two"]));
        let only =
            |dir: &str, deep| Job { whole: false, scopes: [(RelPath::new(dir.as_bytes()).unwrap(), deep)].into(), ..whole() };
        assert_eq!(names(&root, &Filter::none(), only("d", true)), want(&["d/e/two", "d/three"]));
        assert_eq!(names(&root, &Filter::none(), only("d", false)), want(&["d/three"]));
        assert_eq!(names(&root, &Filter::none(), only("link", true)), []);
        assert_eq!(names(&root, &Filter::none(), only("gone", true)), []);
        let inode = |name: &str| {
            let mut paths = Paths::default();
            paths.push(name.as_bytes(), None);
            let stat = Statter::new().stat_all(root.as_fd(), &paths)[0].unwrap();
            (stat.dev, stat.ino)
        };
        let seek = |filter: &Filter, names: &[&str]| {
            let sought = names.iter().map(|name| inode(name)).collect();
            let mut out: Vec<_> =
                super::seek(all(&root), filter, &sought).names.into_iter().map(|(path, _, n)| (path.to_string(), n)).collect();
            out.sort();
            out
        };
        assert_eq!(seek(&Filter::none(), &["two"]), want(&["d/e/two", "two"]));
        assert_eq!(seek(&filter, &["two", "d/three"]), want(&["d/e/two", "d/three", "two"]));
        assert_eq!(seek(&Filter::none(), &["one"]), [("one".to_owned(), 1)], "one that has lost its other names");
        let survey = |dir: &str, deep, since| {
            let dir = RelPath::new(dir.as_bytes()).unwrap();
            super::survey(all(&root), &Filter::none(), &[(dir, names::Scope { deep, since })].into())
        };
        assert_eq!(survey("d", true, 0), [inode("two"), inode("d/three")].into());
        assert_eq!(survey("d", false, 0), [inode("d/three")].into());
        assert_eq!(survey("d", true, i64::MAX), [].into(), "nothing changed since");
        assert_eq!(survey("d/e", true, 0), [inode("two")].into());
        assert_eq!(survey("", true, 0), [inode("two"), inode("d/three")].into(), "though all names of each are in it");
        let changed = |place: &str, since| {
            let found = super::changed(all(&root), &Filter::none(), &[RelPath::from_normal(place)], since);
            (found.names.len(), found.linked)
        };
        assert_eq!(changed("", 0), (6, true), "five names of files, and a symbolic link");
        assert_eq!(changed("", i64::MAX), (0, true), "whether there are links does not depend on the time");
        fs::create_dir(at("plain")).unwrap();
        fs::write(at("plain/f"), "").unwrap();
        assert_eq!(changed("plain", 0), (1, false));
    }
}
