//! What keeps a source that lost its files by accident from taking them off the targets.
//!
//! Two rules, both for mirrors that delete:
//!
//! - **Emptied at one blow.** A run is about to delete names at the top of the source (or of a
//!   filesystem mounted below it), and next to nothing is left there: nothing at all, or less than
//!   a tenth of what was there. Then a dry run counts what the target would lose. From
//!   [`EMPTIED_MIN`] entries on, the deletions wait until the entries are back or are accepted;
//!   where nothing at all is left that only its owner could remove, everything stops ([`extent`]).
//!   For the first comparison since the start everything stops from the first entry on, for then
//!   nothing is known but that a disk may not be mounted. Sources that become empty in the course
//!   of things (a spool) say so with `allow_empty`.
//! - **`max_delete`.** Where it is set, whatever may delete is run dry first. What would delete
//!   more is held, whole: it stays pending, and the rest goes on. rsync's own `--max-delete` is no
//!   help there, as it deletes up to its bound, leaves directories half empty, and names none of
//!   what it skipped (measured, 3.5.0); it is given as a second bound only, for what goes away
//!   between the dry run and the run.
//!
//! Gives up: a tree that is removed file by file while everything works is followed file by file;
//! each batch is judged for itself.

use std::os::fd::AsFd;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};

use crate::config::MaxDelete;
use crate::filter::Filter;
use crate::path::{self, RelPath};
use crate::root::Root;
use crate::text::plural;

/// A target that would lose fewer entries does not stop the mirror because its source is empty.
pub(crate) const EMPTIED_MIN: u64 = 10;

/// Why a mirror sends nothing to any target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The source is not what it was; in words.
    Gone(String),
    /// The source's path leads elsewhere, or through another mount: it is to be opened anew; in
    /// words.
    Moved(String),
    /// The filesystem that was mounted below the source is gone. It holds its own place alone.
    Lost {
        /// Where it was mounted.
        at: RelPath,
    },
    /// See the module's text.
    Emptied {
        /// The root, or where the filesystem is mounted.
        at: RelPath,
        /// Names at its top that would be enough for it to count as filled again; `None`: not
        /// known.
        enough: Option<usize>,
        /// What a target would lose.
        deletes: u64,
        /// Nothing was ever sent from it: it may be the directory below a disk that is yet to be
        /// mounted.
        from_the_start: bool,
    },
}

impl Hold {
    /// What is wrong, for people. `root`: as they know it.
    pub(crate) fn words(&self, root: &str) -> String {
        match self {
            Hold::Gone(why) | Hold::Moved(why) => why.clone(),
            Hold::Lost { at } => format!("the filesystem mounted at {root}/{at} is gone"),
            Hold::Emptied { at, deletes, from_the_start, .. } => {
                let place = if at.is_root() { root.to_owned() } else { format!("{root}/{at}") };
                let since =
                    if *from_the_start { "is empty (a disk that is not mounted?)" } else { "lost nearly everything at one blow" };
                format!("the source {place} {since}, and a target would lose {}", plural(*deletes, "entry"))
            }
        }
    }
}

/// How much is held of a place that lost nearly everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The place: nothing of it is sent.
    Place,
    /// The deletions at its top.
    Deletions,
}

/// How much is held of a place at whose top `left` names are there. A place without anything may be
/// a disk that is gone, or the work of `rm -rf`, unless it is `shared`: others than its owner may
/// write there, and one of them must not stop the rest.
pub(crate) fn extent(left: usize, shared: bool) -> Extent {
    if left == 0 && !shared { Extent::Place } else { Extent::Deletions }
}

/// Whether others than its owner may write into the directory `at`. The bits of the group are the
/// mask of an access control list, where there is one.
pub(crate) fn is_shared(root: &Root, at: &RelPath) -> bool {
    fstatat(root, at.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_mode & 0o022 != 0)
}

/// Whether `missing` names at the top of a place are suspicious, `left` being there.
pub(crate) fn suspicious_names(missing: usize, left: usize) -> bool {
    missing > 0 && (left == 0 || (missing as u64 >= EMPTIED_MIN && left * 9 <= missing))
}

/// Whether a comparison of the top of a place is suspicious, `left` being there and `known` having
/// been there when last looked at.
pub(crate) fn suspicious_level(known: usize, left: usize) -> bool {
    left == 0 || (known as u64 >= EMPTIED_MIN && left * 10 <= known)
}

/// Whether `deletes` are more than the bound allows. `entries`: in the tree, what would be deleted
/// included.
pub(crate) fn exceeds(limit: MaxDelete, deletes: u64, entries: u64) -> bool {
    deletes > allowed(limit, entries)
}

/// How many entries of a tree of `entries` may be deleted at once.
pub(crate) fn allowed(limit: MaxDelete, entries: u64) -> u64 {
    match limit {
        MaxDelete::Count(count) => count,
        MaxDelete::Percent(percent) => (u128::from(entries) * u128::from(percent) / 100) as u64,
    }
}

/// Names in the directory `at` that belong to the mirror, counted up to `most`. `None` when it
/// cannot be read, which is evidence of nothing.
pub(crate) fn left(root: &Root, filter: &Filter, at: &RelPath, most: usize) -> Option<usize> {
    let name = if at.is_root() { std::path::Path::new(".") } else { at.as_path() };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut dir = nix::dir::Dir::openat(root.as_fd(), name, flags, Mode::empty()).ok()?;
    let mut count = 0;
    let mut full = Vec::new();
    for entry in dir.iter() {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        // What mkfs makes does not count as content.
        if matches!(name, b"." | b".." | b"lost+found") {
            continue;
        }
        full.clear();
        full.extend_from_slice(at);
        path::push(&mut full, name);
        let is_dir = entry.file_type() == Some(nix::dir::Type::Directory);
        if !filter.excludes_leaf(&full, is_dir) {
            count += 1;
            if count >= most {
                break;
            }
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_top_is_suspicious() {
        for (missing, left, want) in [
            (0, 0, false),
            (1, 0, true),
            (1, 1, false),
            (9, 1, false),
            (10, 1, true),
            (10, 2, false),
            (100, 11, true),
            (100, 12, false),
        ] {
            assert_eq!(suspicious_names(missing, left), want, "{missing} gone, {left} left");
        }
        for (known, left, want) in
            [(0, 0, true), (1, 1, false), (9, 1, false), (10, 1, true), (10, 2, false), (200, 20, true), (200, 21, false)]
        {
            assert_eq!(suspicious_level(known, left), want, "{known} known, {left} left");
        }
    }

    #[test]
    fn one_of_several_writers_holds_no_more_than_deletions() {
        for (left, shared, want) in
            [(0, false, Extent::Place), (0, true, Extent::Deletions), (1, false, Extent::Deletions), (1, true, Extent::Deletions)]
        {
            assert_eq!(extent(left, shared), want, "{left} left, shared: {shared}");
        }
    }

    #[test]
    fn bounds() {
        use MaxDelete::{Count, Percent};
        for (limit, deletes, entries, want) in [
            (Count(0), 1, 9, true),
            (Count(5), 5, 9, false),
            (Count(5), 6, 9, true),
            (Percent(10), 10, 100, false),
            (Percent(10), 11, 100, true),
            (Percent(10), 1, 9, true),
            (Percent(100), 9, 9, false),
            (Percent(50), u64::MAX / 2, u64::MAX, false),
        ] {
            assert_eq!(exceeds(limit, deletes, entries), want, "{limit:?}: {deletes} of {entries}");
        }
    }

    #[test]
    fn counts_what_belongs_to_the_mirror() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b.tmp", "cache", "lost+found", "sub", "sub/x", "sub/y.tmp"] {
            match name.contains('.') || name == "a" || name.ends_with('x') {
                true => std::fs::write(dir.path().join(name), "").unwrap(),
                false => std::fs::create_dir(dir.path().join(name)).unwrap(),
            }
        }
        let root = Root::open(dir.path()).unwrap();
        let filter = Filter::new::<&str, &str>(&[], &["*.tmp", "/cache/"]).unwrap();
        let at = |path: &str| RelPath::new(path.as_bytes()).unwrap();
        assert_eq!(left(&root, &filter, &RelPath::root(), 100), Some(2));
        assert_eq!(left(&root, &filter, &RelPath::root(), 1), Some(1));
        assert_eq!(left(&root, &filter, &at("sub"), 100), Some(1));
        assert_eq!(left(&root, &filter, &at("none"), 100), None);
    }
}
