//! The walk that finds objects by their handles, on a thread of its own: those that an event named
//! and that could not be opened.
//!
//! Promises: as [`super::search`]. What cannot return its handle for a reason of the disk's
//! may be what is sought, and is handed out too. A walk that lacked a descriptor or memory says
//! that it is not complete.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::search::{Within, try_open_dir};
use crate::filter::Filter;
use crate::path::RelPath;
use crate::sys::dirent::{Listing, Type};
use crate::sys::handle::name_to_handle;

/// Type and bytes of a handle. Not the filesystem: a walk that finds another one's object costs a
/// comparison in vain.
pub(crate) type Object = (i32, Box<[u8]>);

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// Where they are, and whether each is a directory.
    pub(crate) found: Vec<(RelPath, Object, bool)>,
    /// What could not be queried.
    pub(crate) unread: Vec<RelPath>,
    /// Why the walk has not seen everything.
    pub(crate) incomplete: Option<Errno>,
}

/// What an error of a path below the source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is gone, or can be none of those that are sought.
    None,
    /// The walk has to be made again.
    Again,
    /// The disk, or what is not known.
    Unread,
}

fn refusal(errno: Errno) -> Refusal {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV | Errno::EOPNOTSUPP | Errno::EACCES | Errno::ESTALE => {
            Refusal::None
        }
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN => Refusal::Again,
        _ => Refusal::Unread,
    }
}

/// Seeks `sought` below `root`; `files`: there are others than directories among them.
pub(crate) fn seek_objects(root: Within<'_>, filter: &Filter, sought: &HashSet<Object>, files: bool) -> Objects {
    let mut out = Objects::default();
    if sought.is_empty() {
        return out;
    }
    let (mut listing, mut dirs) = (Listing::default(), vec![RelPath::root()]);
    if let Ok(own) = name_to_handle(root.fd, Path::new("")) {
        out.takes(RelPath::root(), (own.kind, own.bytes), true, sought);
    }
    while let Some(dir) = dirs.pop() {
        let fd = match try_open_dir(root, &dir) {
            Ok(Some(fd)) => fd,
            Ok(None) => continue,
            Err(errno) => {
                out.refused(dir, errno);
                continue;
            }
        };
        loop {
            let entries = match listing.next(fd.as_fd()) {
                Ok(Some(entries)) => entries,
                Ok(None) => break,
                Err(error) => {
                    out.refused(dir.clone(), Errno::from_raw(error.raw_os_error().unwrap_or_default()));
                    break;
                }
            };
            for (name, kind) in entries {
                if kind == Type::Other && !files {
                    continue;
                }
                let (at, is_dir) = (dir.join(name), kind == Type::Dir);
                if filter.excludes(&at, is_dir) {
                    continue;
                }
                match name_to_handle(fd.as_fd(), Path::new(OsStr::from_bytes(name))) {
                    Ok(handle) => out.takes(at.clone(), (handle.kind, handle.bytes), is_dir, sought),
                    Err(error) => out.refused(at.clone(), Errno::from_raw(error.raw_os_error().unwrap_or_default())),
                }
                if kind != Type::Other {
                    dirs.push(at);
                }
            }
        }
    }
    out
}

impl Objects {
    fn takes(&mut self, at: RelPath, object: Object, is_dir: bool, sought: &HashSet<Object>) {
        if sought.contains(&object) {
            self.found.push((at, object, is_dir));
        }
    }

    fn refused(&mut self, at: RelPath, errno: Errno) {
        match refusal(errno) {
            Refusal::None => {}
            Refusal::Again => self.incomplete = Some(errno),
            Refusal::Unread if self.unread.last() == Some(&at) => {}
            Refusal::Unread => self.unread.push(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apart::{Apart, Why};
    use std::fs::{self, File};

    #[test]
    fn objects_are_found_by_their_handles() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::create_dir_all(at("out/e")).unwrap();
        fs::create_dir_all(at("proc/e")).unwrap();
        fs::write(at("d/f"), "").unwrap();
        fs::hard_link(at("d/f"), at("g")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let object = |name: &str| {
            let handle = name_to_handle(root.as_fd(), Path::new(name)).unwrap();
            (handle.kind, handle.bytes)
        };
        let mut apart = Apart::default();
        apart.put(RelPath::from_normal("proc"), Why::NoTree("proc".into()));
        let filter = Filter::new(&[] as &[&str], &["/out/"]).unwrap();
        let seek = |names: &[&str], files| {
            let sought = names.iter().map(|name| object(name)).collect();
            let found = seek_objects(Within { fd: root.as_fd(), apart: &apart }, &filter, &sought, files);
            assert!(found.unread.is_empty() && found.incomplete.is_none(), "{found:?}");
            let mut found: Vec<_> = found.found.into_iter().map(|(at, _, is_dir)| (at.to_string(), is_dir)).collect();
            found.sort();
            found
        };
        let is = |list: &[(&str, bool)]| list.iter().map(|(at, dir)| ((*at).to_owned(), *dir)).collect::<Vec<_>>();
        assert_eq!(seek(&["d/e", "out/e", "proc/e"], false), is(&[("d/e", true)]));
        assert_eq!(seek(&["d/f"], true), is(&[("d/f", false), ("g", false)]));
        assert_eq!(seek(&[""], false).len(), 1, "the source itself");
        assert_eq!(seek(&[], true), []);
    }

    #[test]
    fn what_an_error_says_of_a_path() {
        for (errno, want) in [
            (Errno::ENOENT, Refusal::None),
            (Errno::ENOTDIR, Refusal::None),
            (Errno::EOPNOTSUPP, Refusal::None),
            (Errno::EACCES, Refusal::None),
            (Errno::EMFILE, Refusal::Again),
            (Errno::ENFILE, Refusal::Again),
            (Errno::ENOMEM, Refusal::Again),
            (Errno::EIO, Refusal::Unread),
            (Errno::EUCLEAN, Refusal::Unread),
            (Errno::UnknownErrno, Refusal::Unread),
        ] {
            assert_eq!(refusal(errno), want, "{errno}");
        }
    }
}
