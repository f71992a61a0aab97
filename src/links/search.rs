//! The walk that finds files with several names, on a thread of its own.
//!
//! Promises: no link is followed, nothing outside of the root is opened, nothing is written. What cannot be read is left out: what lies there is not sent
//! either, or listed as a failure by whoever sends it.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::{Found, Job, shared};
use crate::filter::Filter;
use crate::path::{self, RelPath};
use crate::sys::dirent::{Listing, Type};
use crate::sys::statx::{Paths, Statter};

/// Names looked up together.
const BATCH: usize = 2048;

/// Walks over what `job` names, below `root`.
pub fn search(root: BorrowedFd<'_>, filter: &Filter, job: Job) -> Found {
    let started = Instant::now();
    let mut walk =
        Walk { root, filter, statter: Statter::new(), listing: Listing::default(), names: Vec::new(), dirs: Vec::new() };
    if job.whole {
        walk.dirs.push((RelPath::root(), true));
    } else {
        walk.dirs.extend(job.scopes.iter().map(|(dir, deep)| (dir.clone(), *deep)));
    }
    while let Some((dir, deep)) = walk.dirs.pop() {
        walk.read(&dir, deep);
    }
    Found { names: walk.names, took: started.elapsed(), job }
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    filter: &'a Filter,
    statter: Statter,
    listing: Listing,
    names: Vec<(RelPath, super::Inode, u32)>,
    dirs: Vec<(RelPath, bool)>,
}

impl Walk<'_> {
    fn read(&mut self, dir: &RelPath, deep: bool) {
        let how = |noatime: OFlag| {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | noatime;
            // openat2(2), Linux 5.6: a directory that becomes a symbolic link does not lead the walk elsewhere.
            OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)
        };
        let open = |flags| openat2(self.root, dir.as_path(), how(flags));
        let Ok(fd) = open(OFlag::O_NOATIME).or_else(|_| open(OFlag::empty())) else { return };
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
                    if let Some(inode) = shared(&stat) {
                        let mut name = dir.to_vec();
                        path::push(&mut name, paths.get(at));
                        if !self.filter.excludes(&name, false) {
                            self.names.push((RelPath::from_normal(name), inode, stat.nlink));
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
    use std::collections::BTreeMap;
    use std::fs::{self, File};

    fn names(root: &File, filter: &Filter, job: Job) -> Vec<(String, u32)> {
        let mut out: Vec<_> =
            search(root.as_fd(), filter, job).names.into_iter().map(|(path, _, nlink)| (path.to_string(), nlink)).collect();
        out.sort();
        out
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
    }
}
