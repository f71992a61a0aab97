//! The last check of the disk before a list leaves.
//!
//! Promises, for every path given: it is in the result, or something above it in the result covers
//! it, or it is reported unreadable. A path is called missing only when the kernel returned ENOENT
//! or ENOTDIR for it or a directory above it; any other error is no evidence, and nothing is
//! deleted for it.
//!
//! Why each path is walked from the root: rsync, given a path below something that is no directory,
//! fails or (below a symbolic link) replaces the link on the target by a directory; given a path
//! below a directory that is gone, it deletes the path and leaves the directories. So the first
//! missing component is listed instead, or the first that is no directory. What lies below a listed
//! deletion or a deep pass is covered by it and dropped.
//!
//! Gives up: the source can change between this check and rsync's own. Whatever happens then raises
//! an event of its own and comes by again.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use thiserror::Error;

pub use crate::dirty::Kind;
use crate::path::{self, RelPath, tree_order};
use crate::sys::statx::{FileTime, Paths, StatBrief, Statter};

/// What the disk says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Present(StatBrief),
    /// It is not there; its parent is a directory that is.
    Missing,
    /// It is not known. Neither send nor delete it; check again later.
    Unreadable(Errno),
}

/// One path of a normalised list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// As given, or the component above it that decides.
    pub path: RelPath,
    /// [`Kind::Entry`] for everything that is no directory.
    pub kind: Kind,
    /// What the disk says.
    pub state: State,
}

/// A normalised list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normal {
    /// In the order of the tree (a directory before what is below it), each path once.
    pub items: Vec<Item>,
    /// Every directory that lies above an item, the root first, with its ctime: rsync sets its
    /// attributes, so runs that overlap may leave the mtime of the older read behind.
    pub(crate) ancestors: Vec<(RelPath, FileTime)>,
    /// The root itself.
    pub(crate) root: StatBrief,
}

impl Normal {
    /// The newest change time of all that was read.
    pub(crate) fn newest(&self) -> FileTime {
        let items = self.items.iter().filter_map(|item| match &item.state {
            State::Present(stat) => Some(stat.ctime),
            _ => None,
        });
        items.chain(self.ancestors.iter().map(|(_, ctime)| *ctime)).fold(self.root.ctime, FileTime::max)
    }
}

impl Normal {
    /// Leaves these items out, and the directories that lie above none of the others.
    pub(crate) fn remove(&mut self, paths: &BTreeSet<&[u8]>) {
        self.items.retain(|item| !paths.contains(&*item.path));
        let items = &self.items;
        self.ancestors.retain(|(dir, _)| {
            let first = items.partition_point(|item| tree_order(&item.path, dir).is_lt());
            items[first..].iter().take(2).any(|item| item.path != *dir && path::is_at_or_below(&item.path, dir))
        });
    }
}

/// Why nothing is known about a batch.
#[derive(Debug, Error)]
pub enum NormalError {
    /// The root's descriptor does not answer: filesystem gone or failing. Check the root, then look
    /// again.
    #[error("cannot look up the source root: the filesystem below it is gone or failing; check the mount")]
    Root(#[source] io::Error),
}

/// Walks every path from `root` (a directory's descriptor) and says what to list.
///
/// `paths`: any order, repetitions allowed (the larger kind counts). One look-up per distinct path
/// and directory above; O(n log n) comparisons.
///
/// # Errors
/// [`NormalError::Root`] when the root cannot be looked up. Errors of single paths are
/// [`State::Unreadable`].
pub fn normalise(root: BorrowedFd<'_>, paths: &[(RelPath, Kind)], statter: &mut Statter) -> Result<Normal, NormalError> {
    let mut wanted: Vec<(&RelPath, Kind)> = paths.iter().map(|(path, kind)| (path, *kind)).collect();
    // The larger kind first, so that dedup keeps it.
    wanted.sort_unstable_by(|a, b| tree_order(a.0, b.0).then(b.1.cmp(&a.1)));
    wanted.dedup_by(|later, first| later.0 == first.0);
    drop_covered(&mut wanted);

    let (batch, ends) = prefixes(&wanted);
    let stats = statter.stat_all(root, &batch);
    let top = stats[0].map_err(|errno| NormalError::Root(errno.into()))?;

    // Where the walk from the root stops: at the first component that failed or is no directory.
    let mut stops: Vec<Option<usize>> = Vec::with_capacity(batch.len());
    for (index, found) in stats.iter().enumerate() {
        let above = batch.parent(index).and_then(|parent| stops[parent]);
        let stops_here = !matches!(found, Ok(stat) if stat.is_dir());
        stops.push(above.or(stops_here.then_some(index)));
    }

    let mut items: Vec<Item> = Vec::with_capacity(wanted.len());
    let mut is_ancestor = vec![false; batch.len()];
    for (&(path, kind), end) in wanted.iter().zip(ends) {
        let at = stops[end].unwrap_or(end);
        let item = match stats[at] {
            Ok(stat) => Item {
                path: at_index(&batch, at),
                kind: if stat.is_dir() { kind } else { Kind::Entry },
                state: State::Present(stat),
            },
            Err(Errno::ENOENT | Errno::ENOTDIR) => Item { path: at_index(&batch, at), kind: Kind::Entry, state: State::Missing },
            Err(errno) => Item { path: path.clone(), kind, state: State::Unreadable(errno) },
        };
        // All paths that stop at the same component follow each other in the order of the tree.
        if items.last().is_some_and(|last| last.path == item.path) {
            continue;
        }
        if !matches!(item.state, State::Unreadable(_)) {
            let mut above = batch.parent(at);
            while let Some(index) = above.filter(|&index| !is_ancestor[index]) {
                is_ancestor[index] = true;
                above = batch.parent(index);
            }
        }
        items.push(item);
    }
    let ancestors = (0..batch.len()).filter(|&index| is_ancestor[index]).filter_map(|index| {
        let stat = stats[index].ok()?;
        Some((at_index(&batch, index), stat.ctime))
    });
    Ok(Normal { ancestors: ancestors.collect(), items, root: top })
}

/// Drops what lies below a subtree. Whatever became of its root (directory, file, gone), it decides
/// for all below.
fn drop_covered(wanted: &mut Vec<(&RelPath, Kind)>) {
    let mut cover: Option<&RelPath> = None;
    wanted.retain(|&(path, kind)| {
        if cover.is_some_and(|cover| path::is_at_or_below(path, cover)) {
            return false;
        }
        if kind == Kind::Subtree {
            cover = Some(path);
        }
        true
    });
}

/// Every distinct component of `wanted` (in the order of the tree), the root first, and for each
/// path the index of its last one.
fn prefixes(wanted: &[(&RelPath, Kind)]) -> (Paths, Vec<usize>) {
    let mut batch = Paths::default();
    let root = batch.push(b".", None);
    let mut ends = Vec::with_capacity(wanted.len());
    // The components of the path before: length of the path up to each, and index.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut before: &[u8] = b"";
    for &(path, _) in wanted {
        while open.last().is_some_and(|&(len, _)| !path::is_at_or_below(path, &before[..len])) {
            open.pop();
        }
        let (mut len, mut index) = open.last().copied().unwrap_or((0, root));
        while len < path.len() {
            let start = if len == 0 { 0 } else { len + 1 };
            len = memchr::memchr(b'/', &path[start..]).map_or(path.len(), |at| start + at);
            index = batch.push(&path[..len], Some(index));
            open.push((len, index));
        }
        before = path;
        ends.push(index);
    }
    (batch, ends)
}

fn at_index(batch: &Paths, index: usize) -> RelPath {
    // The root is looked up as ".".
    if index == 0 { RelPath::root() } else { RelPath::from_normal(batch.get(index)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    #[test]
    fn what_is_left_out_leaves_no_directory_above_it() {
        let stat = StatBrief::default();
        let path = |text: &str| RelPath::from_normal(text.as_bytes());
        let item = |text: &str| Item { path: path(text), kind: Kind::Entry, state: State::Present(stat) };
        let above = |text: &str| (path(text), FileTime::default());
        let ancestors = ["", "u", "v", "v/d", "w"].map(above).into();
        let items = ["u/1", "v", "v/d/e", "w", "w/f"].map(item).into();
        let mut normal = Normal { items, ancestors, root: stat };
        normal.remove(&[&b"v/d/e"[..], b"w/f"].into());
        let left: Vec<String> = normal.items.iter().map(|item| item.path.to_string()).collect();
        let above: Vec<String> = normal.ancestors.iter().map(|(dir, _)| dir.to_string()).collect();
        assert_eq!((left.join(" "), above.join(" ")), ("u/1 v w".into(), format!("{} u", RelPath::root())));
    }

    /// `name`, `name/` and `name//` stand for the three kinds.
    fn parse(text: &str) -> (RelPath, Kind) {
        let kind = match text.len() - text.trim_end_matches('/').len() {
            0 => Kind::Entry,
            1 => Kind::Contents,
            _ => Kind::Subtree,
        };
        (RelPath::new(text.as_bytes()).unwrap(), kind)
    }

    fn normal(root: &Path, paths: &[&str]) -> Normal {
        let dir = File::open(root).unwrap();
        let paths: Vec<_> = paths.iter().map(|text| parse(text)).collect();
        normalise(dir.as_fd(), &paths, &mut Statter::new()).unwrap()
    }

    fn shown(normal: &Normal) -> Vec<String> {
        let state = |state: &State| match state {
            State::Present(stat) if stat.is_dir() => "d".into(),
            State::Present(stat) if stat.is_file() => "f".into(),
            State::Present(_) => "o".into(),
            State::Missing => "-".into(),
            State::Unreadable(errno) => format!("{errno:?}"),
        };
        let slashes = |kind| ["", "/", "//"][kind as usize];
        normal.items.iter().map(|item| format!("{}{} {}", item.path, slashes(item.kind), state(&item.state))).collect()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for d in ["a/b/c", "a-c", "x"] {
            fs::create_dir_all(dir.path().join(d)).unwrap();
        }
        for f in ["a/b/f", "a/f", "file", "x/1"] {
            fs::write(dir.path().join(f), b"x").unwrap();
        }
        symlink("a", dir.path().join("link")).unwrap();
        dir
    }

    #[test]
    fn rule_table() {
        let dir = tree();
        for (paths, want) in [
            (&["a/f"][..], &["a/f f"][..]),
            (&["a/f", "a/f/", "a/f"], &["a/f f"]),
            (&["a/b", "a/b/"], &["a/b/ d"]),
            (&["gone"], &["gone -"]),
            (&["gone/p/q", "gone/r", "gone"], &["gone -"]),
            (&["a/gone/p", "a/b/f"], &["a/b/f f", "a/gone -"]),
            (&["gone//", "gone/x"], &["gone -"]),
            (&["file/x/y", "file"], &["file f"]),
            (&["file//"], &["file f"]),
            (&["link/b/f", "link/f"], &["link o"]),
            (&["a//", "a/b/f", "a-c", "a/gone"], &["a// d", "a-c d"]),
            (&["a/", "a/f"], &["a/ d", "a/f f"]),
            (&["x/1", "a/b", "a-c", "a/b/c", "a"], &["a d", "a/b d", "a/b/c d", "a-c d", "x/1 f"]),
            (&["/"], &["./ d"]),
            (&["//", "x"], &[".// d"]),
            (&[""], &[". d"]),
            (&[], &[]),
        ] {
            assert_eq!(shown(&normal(dir.path(), paths)), want, "{paths:?}");
        }
    }

    #[test]
    fn an_error_is_never_missing() {
        let dir = tree();
        let long = "n".repeat(256);
        let below = format!("{long}/x");
        let normal = normal(dir.path(), &[&long, &below, "a/f", "gone"]);
        let want = ["a/f f".into(), "gone -".into(), format!("{long} ENAMETOOLONG"), format!("{below} ENAMETOOLONG")];
        assert_eq!(shown(&normal), want);
        assert!(normal.ancestors.iter().all(|(path, _)| !path.starts_with(b"n")));
    }

    #[test]
    fn ancestors_with_their_ctime() {
        let dir = tree();
        let normal = normal(dir.path(), &["a/b/f", "a/b/gone/x", "file/y", "x"]);
        let ctime = |path: &str| {
            let stat = fs::metadata(dir.path().join(path)).unwrap();
            FileTime { secs: stat.ctime(), nanos: stat.ctime_nsec() as u32 }
        };
        let want: Vec<_> = ["", "a", "a/b"].map(|path| (RelPath::from_normal(path), ctime(path))).into();
        assert_eq!(normal.ancestors, want);
        assert_eq!(normal.root.ctime, ctime(""));
    }

    mod random {
        use super::*;
        use proptest::prelude::*;
        use std::collections::BTreeSet;

        /// The rule as one would write it for a single path.
        fn oracle(root: &Path, path: &str) -> (String, char) {
            let mut so_far = String::new();
            for part in path.split('/') {
                so_far = if so_far.is_empty() { part.into() } else { format!("{so_far}/{part}") };
                match fs::symlink_metadata(root.join(&so_far)) {
                    Err(_) => return (so_far, '-'),
                    Ok(stat) if !stat.is_dir() => return (so_far, 'p'),
                    Ok(_) => {}
                }
            }
            (so_far, 'p')
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            #[test]
            fn every_path_is_listed_or_covered(
                dirs in proptest::collection::vec("[ab-]{1,2}(/[ab-]{1,2}){0,3}", 0..6),
                files in proptest::collection::vec("[ab-]{1,2}(/[ab-]{1,2}){0,3}", 0..6),
                paths in proptest::collection::vec("[ab-]{1,2}(/[ab-]{1,2}){0,4}", 0..12),
            ) {
                let dir = tempfile::tempdir().unwrap();
                // What collides with an earlier entry is left out.
                dirs.iter().for_each(|d| drop(fs::create_dir_all(dir.path().join(d))));
                files.iter().for_each(|f| drop(fs::write(dir.path().join(f), b"")));
                let texts: Vec<&str> = paths.iter().map(String::as_str).collect();
                let got: BTreeSet<_> = normal(dir.path(), &texts)
                    .items
                    .into_iter()
                    .map(|item| (item.path.to_string(), if item.state == State::Missing { '-' } else { 'p' }))
                    .collect();
                let want: BTreeSet<_> = texts.iter().map(|path| oracle(dir.path(), path)).collect();
                prop_assert_eq!(got, want);
            }
        }
    }
}
