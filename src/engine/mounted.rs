//! Which filesystems are mounted below the source, which of those that were are missing, and which
//! are none of its.
//!
//! Mounts come and go all the time on a host with containers, and the kernel reports each in the
//! whole mount namespace. Only those on the way to the source and below it concern a mirror; of the
//! others nothing is made.
//!
//! A filesystem that was seen below the source is expected from then on, over restarts too
//! ([`crate::state::mounts`]): what its mount point holds without it must not be taken for what is
//! left of it. Its place is held until it is back, or until the source is accepted as it is. A
//! mount that is moved within the source takes its expectation along. What the filter leaves out is
//! not expected, nor is what is not mirrored ([`super::foreign`]), with all that is mounted below
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::aliases::{Aliases, Shown};
use super::foreign::foreign;
use crate::apart::{Apart, Why};
use crate::config::Mounts as Wanted;
use crate::filter::Filter;
use crate::guard::Hold;
use crate::path::{RelPath, is_at_or_below};
use crate::sys::mount::{MountEntry, MountWatch, Mounts};

/// See the module's text.
pub(super) struct Mounted {
    watch: Option<MountWatch>,
    wanted: Wanted,
    /// What concerns the root, as it was last.
    seen: Vec<MountEntry>,
    /// What is mirrored, by its place below the root.
    trees: BTreeMap<RelPath, MountEntry>,
    foreign: BTreeMap<RelPath, Why>,
    aliases: Aliases,
    expected: BTreeSet<RelPath>,
    absent: BTreeSet<RelPath>,
    /// The root is a whole filesystem.
    own_is_whole: bool,
}

/// What [`Mounted::poll`] found new.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// The root and every tree mounted below it, the root first.
    pub(super) trees: Vec<RelPath>,
    /// Where a tree was that is mounted elsewhere below the root now.
    pub(super) moved: Vec<RelPath>,
    /// What was foreign, and is mounted there no more.
    pub(super) bared: Vec<RelPath>,
}

impl Mounted {
    /// `expected`: from an earlier run. Changes from here on are reported.
    pub(super) fn new(expected: BTreeSet<RelPath>, wanted: &Wanted) -> Mounted {
        Mounted {
            watch: MountWatch::new().ok(),
            wanted: wanted.clone(),
            seen: Vec::new(),
            trees: BTreeMap::new(),
            foreign: BTreeMap::new(),
            aliases: Aliases::default(),
            absent: expected.clone(),
            expected,
            own_is_whole: false,
        }
    }

    /// Readiness for priority data means that mounts changed, anywhere.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Reads the table. `None`: as at the last call.
    pub(super) fn poll(&mut self, root: &Path, filter: &Filter) -> Option<News> {
        if let Some(watch) = &self.watch {
            let _ = watch.changed(); // acknowledges, before the table is read
        }
        match Mounts::read() {
            Ok(mounts) => self.take(&mounts, root, filter),
            Err(error) => {
                tracing::warn!(%error, "cannot read the list of mounts; filesystems that are mounted below the source now are not watched");
                self.seen.is_empty().then(|| News { trees: vec![RelPath::root()], ..News::default() })
            }
        }
    }

    fn take(&mut self, mounts: &Mounts, root: &Path, filter: &Filter) -> Option<News> {
        let concerning: Vec<MountEntry> = mounts.concerning(root).cloned().collect();
        if concerning == self.seen {
            return None;
        }
        self.seen = concerning;
        let (trees, foreigners) = sort(mounts, root, &self.wanted);
        let own = mounts.mount_of(root).and_then(|m| {
            let mut dir = m.root.strip_suffix(b"/").unwrap_or(&m.root).to_vec();
            dir.push(b'/');
            dir.extend_from_slice(root.strip_prefix(&m.point).ok()?.as_os_str().as_bytes());
            Some((m.dev, dir))
        });
        self.own_is_whole = own.as_ref().is_some_and(|(_, dir)| dir == b"/");
        let own = own.iter().map(|(dev, dir)| Shown { at: RelPath::root(), dev: *dev, dir });
        let others = trees.iter().map(|(at, m): (&RelPath, &MountEntry)| Shown { at: at.clone(), dev: m.dev, dir: &m.root });
        self.aliases = Aliases::among(&own.chain(others).collect::<Vec<_>>());
        self.aliases.mounted_at(trees.keys().chain(foreigners.keys()));
        let moved: Vec<RelPath> = self
            .trees
            .iter()
            .filter(|(at, was)| trees.get(*at).is_none_or(|is| is.id != was.id) && trees.values().any(|is| same(was, is)))
            .map(|(at, _)| at.clone())
            .collect();
        moved.iter().for_each(|at| _ = self.expected.remove(at));
        let bared = self.foreign.keys().filter(|at| !foreigners.contains_key(*at)).cloned().collect();
        (self.trees, self.foreign) = (trees, foreigners);
        self.expected.extend(self.trees.keys().filter(|at| !filter.excludes(at, true)).cloned());
        self.absent = self.expected.iter().filter(|at| !self.trees.contains_key(*at)).cloned().collect();
        Some(News { trees: std::iter::once(RelPath::root()).chain(self.trees.keys().cloned()).collect(), moved, bared })
    }

    /// The source is meant without what was mounted there.
    pub(super) fn give_up(&mut self, at: &RelPath) {
        self.expected.remove(at);
        self.absent.remove(at);
    }

    /// Where a filesystem was mounted, and what is not left out; to be remembered.
    pub(super) fn expected(&self) -> &BTreeSet<RelPath> {
        &self.expected
    }

    /// Those of them that are not mounted now.
    pub(super) fn absent(&self) -> &BTreeSet<RelPath> {
        &self.absent
    }

    /// Whether one of the filesystems at the places that `counts` admits has more in it than is
    /// shown below the root.
    pub(super) fn reach_beyond(&self, counts: &dyn Fn(&RelPath) -> bool) -> bool {
        let own = self.own_is_whole;
        !own && counts(&RelPath::root()) || self.trees.iter().any(|(at, mount)| mount.root != b"/" && counts(at))
    }

    /// Which paths show the same.
    pub(super) fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// What is mounted below the root and not mirrored.
    pub(super) fn foreign(&self) -> &BTreeMap<RelPath, Why> {
        &self.foreign
    }
}

/// The mounts below `root` that are mirrored, and the places of those that are not.
fn sort(mounts: &Mounts, root: &Path, wanted: &Wanted) -> (BTreeMap<RelPath, MountEntry>, BTreeMap<RelPath, Why>) {
    let place = |m: &MountEntry| RelPath::new(m.point.strip_prefix(root).ok()?.as_os_str().as_bytes()).filter(|p| !p.is_root());
    let below: BTreeMap<RelPath, &MountEntry> = mounts.below(root).filter_map(|m| Some((place(m)?, m))).collect();
    let (mut trees, mut foreigners) = (BTreeMap::new(), BTreeMap::<RelPath, Why>::new());
    // In order of their places, so that what is above comes first.
    for (at, mount) in below {
        if foreigners.keys().any(|above| is_at_or_below(&at, above)) {
            continue;
        }
        match foreign(mount, &at, wanted) {
            Some(why) => _ = foreigners.insert(at, why),
            None => _ = trees.insert(at, mount.clone()),
        }
    }
    (trees, foreigners)
}

/// What a daemon would leave alone below `root`, for commands that compare without one. `expected`:
/// where filesystems were mounted in an earlier run.
///
/// # Errors
/// The mount table cannot be read.
pub(crate) fn left_alone(root: &Path, wanted: &Wanted, expected: BTreeSet<RelPath>) -> std::io::Result<Apart> {
    let (trees, foreigners) = sort(&Mounts::read()?, root, wanted);
    let mut apart = Apart::default();
    foreigners.into_iter().for_each(|(at, why)| apart.put(at, why));
    let absent = expected.into_iter().filter(|at| !trees.contains_key(at) && !at.is_root());
    absent.for_each(|at| apart.put(at.clone(), Why::Held(Hold::Lost { at })));
    Ok(apart)
}

/// Whether one is the other, perhaps at another place. An id alone is used again.
fn same(was: &MountEntry, is: &MountEntry) -> bool {
    (was.id, was.dev, &was.root, &was.fs_type, &was.source) == (is.id, is.dev, &is.root, &is.fs_type, &is.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "22 1 8:1 / / rw - ext4 a rw\n30 22 8:17 / /data rw - xfs b rw\n";

    fn take(mounted: &mut Mounted, more: &str) -> Option<News> {
        let filter = Filter::new::<&str, &str>(&[], &["/cache/"]).unwrap();
        let mounts = Mounts::parse(format!("{HOST}{more}").as_bytes()).unwrap();
        mounted.take(&mounts, Path::new("/data/src"), &filter)
    }

    fn shown<'a>(paths: impl IntoIterator<Item = &'a RelPath>) -> String {
        paths.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn poll(mounted: &mut Mounted, more: &str) -> Option<String> {
        take(mounted, more).map(|news| shown(&news.trees))
    }

    fn absent(mounted: &Mounted) -> String {
        shown(mounted.absent())
    }

    fn mounted(expected: &[&str]) -> Mounted {
        Mounted::new(expected.iter().map(|at| RelPath::from_normal(*at)).collect(), &Wanted::default())
    }

    #[test]
    fn only_what_concerns_the_source_is_news() {
        let mut m = mounted(&[]);
        assert!(poll(&mut m, "").is_some());
        for elsewhere in ["", "31 22 0:40 / /var/lib/c rw - overlay c rw\n", "32 30 0:41 / /data/src2 rw - tmpfs t rw\n"] {
            assert_eq!(poll(&mut m, elsewhere), None, "{elsewhere}");
        }
        let inner = "33 30 0:42 / /data/src/in rw - tmpfs t rw\n";
        assert!(poll(&mut m, inner).unwrap().ends_with(" in"));
        assert_eq!(poll(&mut m, inner), None);
        assert_eq!(poll(&mut m, &inner.replace("t rw", "t ro")), None, "remounted");
        assert!(poll(&mut m, &inner.replace("0:42", "0:43")).is_some(), "another one in its place");
        assert!(poll(&mut m, "34 30 0:44 / /data/src rw - tmpfs t rw\n").is_some(), "over the source");
        assert!(poll(&mut m, "35 22 0:45 / /data rw - tmpfs t rw\n").is_some(), "over what the source lies in");
    }

    #[test]
    fn what_was_there_is_missed_until_it_is_back() {
        let (inner, cache) = ("33 30 0:42 / /data/src/in rw - tmpfs t rw\n", "34 30 0:43 / /data/src/cache rw - tmpfs t rw\n");
        let mut m = mounted(&[]);
        poll(&mut m, &format!("{inner}{cache}"));
        assert_eq!((absent(&m), m.expected().len()), (String::new(), 1), "what is left out is not expected");
        poll(&mut m, "");
        assert_eq!(absent(&m), "in");
        let mut next = mounted(&["in"]);
        assert_eq!(absent(&next), "in", "before the table was ever read");
        poll(&mut next, cache);
        assert_eq!(absent(&next), "in");
        poll(&mut next, inner);
        assert_eq!(absent(&next), "");
        poll(&mut next, "");
        next.give_up(&RelPath::from_normal("in"));
        assert_eq!((absent(&next).as_str(), next.expected().len()), ("", 0));
    }

    #[test]
    fn a_mount_that_is_moved_takes_its_expectation_along() {
        let at = |place: &str| format!("33 30 0:42 / /data/{place} rw - tmpfs t rw\n");
        let mut m = mounted(&[]);
        poll(&mut m, &at("src/a"));
        let news = take(&mut m, &at("src/b")).unwrap();
        assert_eq!(
            (shown(&news.trees), shown(&news.moved), shown(m.expected())),
            (format!("{} b", RelPath::root()), "a".into(), "b".into())
        );
        let news = take(&mut m, &at("elsewhere"));
        assert!(news.is_some_and(|n| n.moved.is_empty()));
        assert_eq!(absent(&m), "b", "moved out of the source");
        // Another one that got the same id.
        take(&mut m, &at("src/b"));
        take(&mut m, &at("src/c").replace("0:42", "0:43"));
        assert_eq!(absent(&m), "b");
    }

    #[test]
    fn what_is_no_tree_is_neither_taken_nor_missed() {
        let chroot = "40 30 0:5 / /data/src/c/proc rw - proc proc rw\n41 40 0:6 / /data/src/c/proc/x rw - tmpfs t rw\n\
                      42 30 0:7 / /data/src/u rw - fuse.x evil rw,user_id=1000,group_id=1000\n";
        let mut m = mounted(&[]);
        let news = take(&mut m, chroot).unwrap();
        assert_eq!((news.trees.len(), shown(m.foreign().keys()), m.expected().len()), (1, "c/proc u".into(), 0));
        let news = take(&mut m, "").unwrap();
        assert_eq!((shown(&news.bared), absent(&m)), ("c/proc u".into(), String::new()));
        // Over a tree that is expected: that one is hidden.
        let inner = "33 30 0:42 / /data/src/u rw - tmpfs t rw\n";
        take(&mut m, inner);
        take(&mut m, &format!("{inner}42 33 0:7 / /data/src/u rw - fuse.x evil rw,user_id=1000\n"));
        assert_eq!((absent(&m), shown(m.foreign().keys())), ("u".into(), "u".into()));
    }
}
