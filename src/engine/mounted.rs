//! Which filesystems are mounted below the source, and which of those that were are missing.
//!
//! Mounts come and go all the time on a host with containers, and the kernel tells of each in the whole mount namespace. Only those on
//! the way to the source and below it concern a mirror; of the others nothing is made.
//!
//! A filesystem that was seen below the source is expected from then on, over restarts too ([`crate::state::mounts`]): what its mount point
//! holds without it must not be taken for what is left of it. Whoever accepts the source as it is ends that. What the filter leaves out
//! is not expected.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::filter::Filter;
use crate::path::RelPath;
use crate::sys::mount::{MountEntry, MountWatch, Mounts};

/// See the module's text.
pub(super) struct Mounted {
    watch: Option<MountWatch>,
    /// What concerns the root, as it was last.
    seen: Vec<MountEntry>,
    expected: BTreeSet<RelPath>,
    absent: BTreeSet<RelPath>,
}

impl Mounted {
    /// `expected`: from an earlier run. Changes from here on are told.
    pub(super) fn new(expected: BTreeSet<RelPath>) -> Mounted {
        Mounted { watch: MountWatch::new().ok(), seen: Vec::new(), absent: expected.clone(), expected }
    }

    /// Readiness for priority data tells that mounts changed, anywhere.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// The root and every mount below it that is visible, as paths below the root, the root first. `None`: as at the last call.
    pub(super) fn look(&mut self, root: &Path, filter: &Filter) -> Option<Vec<RelPath>> {
        if let Some(watch) = &self.watch {
            let _ = watch.changed(); // acknowledges, before the table is read
        }
        match Mounts::read() {
            Ok(mounts) => self.take(&mounts, root, filter),
            Err(error) => {
                tracing::warn!(%error, "cannot read the list of mounts; filesystems that are mounted below the source now are not watched");
                self.seen.is_empty().then(|| vec![RelPath::root()])
            }
        }
    }

    fn take(&mut self, mounts: &Mounts, root: &Path, filter: &Filter) -> Option<Vec<RelPath>> {
        let concerning: Vec<MountEntry> = mounts.concerning(root).cloned().collect();
        if concerning == self.seen {
            return None;
        }
        self.seen = concerning;
        let below = mounts.below(root).filter_map(|m| m.point.strip_prefix(root).ok());
        let below: Vec<RelPath> = below.filter_map(|p| RelPath::new(p.as_os_str().as_bytes())).filter(|p| !p.is_root()).collect();
        self.expected.extend(below.iter().filter(|at| !filter.excludes(at, true)).cloned());
        self.absent = self.expected.iter().filter(|at| !below.contains(at)).cloned().collect();
        Some(std::iter::once(RelPath::root()).chain(below).collect())
    }

    /// Where a filesystem was mounted, and what is not left out; to be remembered.
    pub(super) fn expected(&self) -> &BTreeSet<RelPath> {
        &self.expected
    }

    /// One of these that is not mounted now.
    pub(super) fn absent(&self) -> Option<&RelPath> {
        self.absent.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "22 1 8:1 / / rw - ext4 a rw\n30 22 8:17 / /data rw - xfs b rw\n";

    fn look(mounted: &mut Mounted, more: &str) -> Option<String> {
        let filter = Filter::new::<&str, &str>(&[], &["/cache/"]).unwrap();
        let mounts = Mounts::parse(format!("{HOST}{more}").as_bytes()).unwrap();
        let found = mounted.take(&mounts, Path::new("/data/src"), &filter)?;
        Some(found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    fn absent(mounted: &Mounted) -> String {
        mounted.absent().map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn only_what_concerns_the_source_is_news() {
        let mut m = Mounted::new(BTreeSet::new());
        assert!(look(&mut m, "").is_some());
        for elsewhere in ["", "31 22 0:40 / /var/lib/c rw - overlay c rw\n", "32 30 0:41 / /data/src2 rw - tmpfs t rw\n"] {
            assert_eq!(look(&mut m, elsewhere), None, "{elsewhere}");
        }
        let inner = "33 30 0:42 / /data/src/in rw - tmpfs t rw\n";
        assert!(look(&mut m, inner).unwrap().ends_with(" in"));
        assert_eq!(look(&mut m, inner), None);
        assert!(look(&mut m, &inner.replace("0:42", "0:43")).is_some(), "another one in its place");
        assert!(look(&mut m, "34 30 0:44 / /data/src rw - tmpfs t rw\n").is_some(), "over the source");
        assert!(look(&mut m, "35 22 0:45 / /data rw - tmpfs t rw\n").is_some(), "over what the source lies in");
    }

    #[test]
    fn what_was_there_is_missed_until_it_is_back() {
        let (inner, cache) = ("33 30 0:42 / /data/src/in rw - tmpfs t rw\n", "34 30 0:43 / /data/src/cache rw - tmpfs t rw\n");
        let mut m = Mounted::new(BTreeSet::new());
        look(&mut m, &format!("{inner}{cache}"));
        assert_eq!((absent(&m), m.expected().len()), (String::new(), 1), "what is left out is not expected");
        look(&mut m, "");
        assert_eq!(absent(&m), "in");
        let mut next = Mounted::new(m.expected().clone());
        assert_eq!(absent(&next), "in", "before the table was ever read");
        look(&mut next, cache);
        assert_eq!(absent(&next), "in");
        look(&mut next, inner);
        assert_eq!(absent(&next), "");
    }
}
