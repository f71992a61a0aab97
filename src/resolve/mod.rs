//! fanotify events to dirty paths: each directory handle becomes a path below the watch root, and the mask becomes what
//! the dirty set wants to know.
//!
//! Promises: an event inside the root is never credited to a wrong path for good, and never dropped without a [`Lost`].
//! A path may be *newer* than its event (the look-up sees the present); the renames that lie between are still in the
//! queue and are replayed by handle, so the tree ends right.
//!
//! How: the path tree ([`tree`]) knows the directories; an unknown handle costs one `open_by_handle_at` and one readlink, whose
//! path was checked to lead back to the same inode. (It does not for a directory hidden below a mount, nor for one that a bind mount
//! shows under a path like ours.) It is hung on its parent, and that one on its own as far up as need be, each known by its
//! handle: a path would not do, as the tree is as old as the queue's head, and another directory may have the name there. Handles
//! outside the root are remembered as foreign and cost one hash look-up from then on.
//!
//! Gives up: a directory that is visible at two paths below the root (a bind mount) is followed at one of them.

pub mod follow;
pub mod mute;
mod muting;
mod paths;
pub mod tree;
mod unexplained;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use crate::dirty::Seen;
use crate::filter::Filter;
use crate::lost::{Cause, Lost};
use crate::path::{self, RelPath};
use crate::source::fan_decode::{FanEvent, Fid, Place};
use crate::sys::handle::{FsId, Handle, HandleRef, fd_path, fs_id, name_to_handle, open_by_handle};
use tree::{Known, NodeId, Tree};

pub use muting::MuteBy;

/// The watched directory, held open: the anchor of every look-up, and the proof that it is still the same one.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
    dev: u64,
    ino: u64,
}

impl Root {
    /// Opens `source`, which must be a directory. The path is made canonical.
    ///
    /// # Errors
    /// Those of realpath(3) and open(2); `ENOTDIR`.
    pub fn open(source: &Path) -> io::Result<Root> {
        let path = source.canonicalize()?;
        let fd = open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(Root { path, fd, dev: stat.st_dev, ino: stat.st_ino })
    }

    /// The same directory, for another thread.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn try_clone(&self) -> io::Result<Root> {
        Ok(Root { path: self.path.clone(), fd: self.fd.try_clone()?, dev: self.dev, ino: self.ino })
    }

    /// Canonical and absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device of the root, `st_dev`.
    pub fn dev(&self) -> u64 {
        self.dev
    }

    /// Whether the path still leads to the directory that was opened. What else it leads to is told in words.
    pub fn check(&self) -> Result<(), String> {
        match nix::sys::stat::lstat(&self.path) {
            Err(e) => Err(format!("the source {} cannot be looked at: {}", self.path.display(), e.desc())),
            Ok(s) if s.st_dev == self.dev && s.st_ino == self.ino => Ok(()),
            Ok(s) if s.st_dev != self.dev => Err(format!(
                "the source {} lies on another filesystem than at the start (unmounted, or something mounted over it)",
                self.path.display()
            )),
            Ok(_) => Err(format!("the source {} is not the directory it was at the start (replaced)", self.path.display())),
        }
    }

    /// The part of an absolute path below the root; empty for the root itself, `None` for a path outside.
    pub(crate) fn strip<'p>(&self, absolute: &'p [u8]) -> Option<&'p [u8]> {
        let root = self.path.as_os_str().as_bytes();
        let root = if root == b"/" { b"" } else { root };
        let rest = absolute.strip_prefix(root)?;
        match rest {
            b"" => Some(rest),
            _ => rest.strip_prefix(b"/"),
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A filesystem that has a mark.
struct Marked {
    fs: FsId,
    /// Any descriptor on the mount: handles are opened, and paths read, through it.
    fd: OwnedFd,
}

/// So often a directory is looked up that moves under our hands.
const HANG_TRIES: u32 = 10;

/// Counters; never reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Events decoded.
    pub events: u64,
    /// Events outside the root, or excluded.
    pub foreign: u64,
    /// Handles that had to be opened.
    pub opened: u64,
    /// Events of directories that were gone by the time their handle was opened.
    pub gone: u64,
    /// Info records of unknown type.
    pub unknown_records: u64,
}

/// Turns fanotify events into dirty paths.
pub struct Resolver {
    marked: Vec<Marked>,
    tree: Tree,
    stats: Stats,
    /// The path of the entry at hand.
    dir: Vec<u8>,
    /// The directory whose path `dir` begins with, the tree's version then, and how long that path is.
    at: Option<(NodeId, u64, usize)>,
    paths: paths::Paths,
    fd_errors_said: bool,
    muting: Option<muting::Muting>,
    unexplained: unexplained::Unexplained,
    now: Duration,
}

/// Where an entry is, by what is known of its directory.
enum Placed {
    /// Inside; its path is in `Resolver::dir`.
    Here,
    /// The filter leaves its directory out.
    ExcludedDir,
    /// The filter leaves out the entry, and not its directory.
    Excluded,
    /// Detached by the event at hand: what is above covers it.
    Nowhere,
}

enum Dir {
    Inside(NodeId),
    Outside,
}

/// What an event led to: paths are told as they are found, losses are returned.
type Outcome = Result<(), Lost>;

impl Resolver {
    /// `max_dirs`: directories remembered inside, and outside, the root.
    pub fn new(max_dirs: usize) -> Resolver {
        Resolver {
            marked: Vec::new(),
            tree: Tree::new(max_dirs),
            stats: Stats::default(),
            dir: Vec::new(),
            at: None,
            paths: paths::Paths::default(),
            fd_errors_said: false,
            muting: None,
            unexplained: unexplained::Unexplained::default(),
            now: Duration::ZERO,
        }
    }

    /// Takes a filesystem in, by a descriptor on its mount that is open for reading (`open_by_handle_at` refuses `O_PATH`
    /// there: EBADF, measured on 6.18). Foreign memories end: what was hidden may be visible now.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    pub fn add_mount(&mut self, root: &Root, fd: OwnedFd) -> io::Result<FsId> {
        let fs = fs_id(fd.as_fd())?;
        self.marked.push(Marked { fs, fd });
        self.know_root(root);
        self.tree.forget_foreign();
        self.hear_all();
        Ok(fs)
    }

    /// Opens a directory of a filesystem that was taken in.
    ///
    /// # Errors
    /// `ENODEV` for another filesystem; those of open_by_handle_at(2).
    pub fn open(&self, fs: FsId, handle: HandleRef<'_>) -> io::Result<OwnedFd> {
        let mut failed = io::Error::from(nix::errno::Errno::ENODEV);
        for marked in self.marked.iter().filter(|m| m.fs == fs) {
            match open_by_handle(marked.fd.as_fd(), handle) {
                Ok(fd) => return Ok(fd),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Forgets every path, and hears of everything: the root was away and what was looked up then is wrong, or events were
    /// missed, and a rename among them. What changed unheard has to be compared after this call.
    pub fn forget(&mut self, root: &Root) {
        self.hear_all();
        self.at = None;
        self.paths.forget();
        self.tree = Tree::new(self.tree.max_dirs());
        self.know_root(root);
    }

    /// Hangs the root's own handle on the tree, so that its events are inside even at a moment when its path leads elsewhere.
    fn know_root(&mut self, root: &Root) {
        if let (Ok(fs), Ok(handle)) = (fs_id(root.as_fd()), name_to_handle(root.as_fd(), Path::new(""))) {
            self.tree.bind(self.tree.root(), (fs.0, handle.kind, &handle.bytes));
        }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Directories known inside and outside the root.
    pub fn known(&self) -> (usize, usize) {
        self.tree.sizes()
    }

    /// To be called between buffers; keeps the memory within its bound.
    pub fn maintain(&mut self) {
        self.tree.sweep();
    }

    /// Tells `out` the paths that `event` makes dirty.
    ///
    /// # Errors
    /// [`Lost`] when the event cannot be credited to a path; `out` may have been told some already.
    pub fn event(&mut self, root: &Root, filter: &Filter, event: &FanEvent<'_>, out: &mut dyn FnMut(&[u8], Seen)) -> Outcome {
        self.stats.events += 1;
        self.stats.unknown_records += u64::from(event.skipped);
        let mask = event.mask;
        if mask & libc::FAN_Q_OVERFLOW != 0 {
            self.forget(root);
            return Err(Lost::all(Cause::QueueOverflow));
        }
        let is_dir = mask & libc::FAN_ONDIR != 0;
        if mask & libc::FAN_RENAME != 0 {
            return self.renamed(root, filter, event, is_dir, out);
        }
        let Some(Place { fid, name }) = event.dir else { return self.nameless(root, filter, event, out) };
        if mask & (libc::FAN_CREATE | libc::FAN_DELETE) != 0 {
            self.unexplained.explained(event.child.as_ref());
        }
        let Dir::Inside(dir) = self.resolve(root, &fid)? else {
            self.stats.foreign += 1;
            self.useless(event, &fid, false);
            return Ok(());
        };
        if name.is_empty() || name == b"." {
            self.tell(filter, dir, b"", true, &[Seen::Touched], out);
            return Ok(());
        }
        let appears = mask & (libc::FAN_CREATE | libc::FAN_MOVED_TO) != 0;
        let goes = mask & (libc::FAN_DELETE | libc::FAN_MOVED_FROM) != 0;
        if is_dir {
            if goes && let Some(child) = self.tree.child(dir, name) {
                self.tree.detach(child);
            }
            if mask & libc::FAN_MOVED_TO != 0 {
                if let Some(old) = self.tree.child(dir, name) {
                    self.tree.detach(old);
                }
                self.tree.forget_foreign();
                self.dir_came(true);
            }
            let seen: &[Seen] = match (appears, goes) {
                (true, false) if mask & libc::FAN_MOVED_TO == 0 => &[Seen::CreatedDir],
                (true, false) => &[Seen::MovedDir],
                (true, true) => &[Seen::GoneDir, Seen::MovedDir],
                (false, true) => &[Seen::GoneDir],
                (false, false) => &[Seen::Touched],
            };
            self.tell(filter, dir, name, true, seen, out);
            return Ok(());
        }
        self.unmute(event);
        let written = mask & (libc::FAN_CLOSE_WRITE | libc::FAN_MOVED_TO) != 0;
        let seen: &[Seen] = match (mask & libc::FAN_CREATE != 0, goes) {
            (true, false) if written => &[Seen::Created, Seen::Written],
            (true, false) => &[Seen::Created],
            // Merged by the kernel, in an order that is lost: look, without any assumption.
            (true, true) => &[Seen::Gone, Seen::Written],
            (false, true) if written => &[Seen::Gone, Seen::Written],
            (false, true) => &[Seen::Gone],
            (false, false) if written => &[Seen::Written],
            (false, false) if mask & libc::FAN_ATTRIB != 0 => &[Seen::Touched],
            (false, false) => &[],
        };
        match self.tell(filter, dir, name, false, seen, out) {
            Placed::ExcludedDir => self.useless(event, &fid, true),
            Placed::Excluded => self.useless_file(event, true),
            Placed::Here if mask & libc::FAN_MODIFY != 0 && !written && !goes && !self.follow(event, event.dir.as_ref()) => {
                out(&self.dir, Seen::Modified);
            }
            Placed::Here | Placed::Nowhere => {}
        }
        Ok(())
    }

    fn renamed(
        &mut self,
        root: &Root,
        filter: &Filter,
        event: &FanEvent<'_>,
        is_dir: bool,
        out: &mut dyn FnMut(&[u8], Seen),
    ) -> Outcome {
        let mut place = |of: Option<Place<'_>>| match of {
            Some(p) => self.resolve(root, &p.fid),
            None => Ok(Dir::Outside),
        };
        let (old, new) = (place(event.old)?, place(event.new)?);
        let (old_name, new_name) = (event.old.map_or(&b""[..], |p| p.name), event.new.map_or(&b""[..], |p| p.name));
        if is_dir {
            // By its own handle alone: what has the old name in the tree may be another directory that a look-up put there ahead of
            // this event. Where the handle is not known, or not told, that place is given up.
            let child = event.child.filter(|c| !c.handle.is_empty());
            let node = match child.map(|c| self.tree.get((c.fs.0, c.kind, c.handle))) {
                Some(Known::Inside(node)) => Some(node),
                _ => {
                    if let Dir::Inside(dir) = old
                        && let Some(there) = self.tree.child(dir, old_name)
                    {
                        self.tree.detach(there);
                    }
                    None
                }
            };
            match (node, &new) {
                (Some(node), Dir::Inside(dir)) => {
                    self.tree.rename(node, *dir, new_name);
                    // The kernel merges a rename into an earlier one with the same names, so their order may be lost (a to b, b to a, a to b
                    // arrive as two, measured on 6.18). A place that does not lead to the directory is no place: it is looked up.
                    // The same of the directory above it: another one may have its name, with one of this name in it.
                    let leads = |path: &[u8]| {
                        child.is_some_and(|c| leads_to(root, path, &c))
                            && event.new.is_some_and(|n| path::parent(path).is_some_and(|up| leads_to(root, up, &n.fid)))
                    };
                    if self.dir_path(node) && !leads(&self.dir) {
                        self.tree.detach(node);
                    }
                }
                (Some(node), Dir::Outside) => self.tree.detach(node),
                (None, Dir::Inside(dir)) => {
                    if let Some(overwritten) = self.tree.child(*dir, new_name) {
                        self.tree.detach(overwritten);
                    }
                }
                (None, Dir::Outside) => {}
            }
            if let Dir::Inside(_) = new {
                let from_outside = matches!(old, Dir::Outside);
                if from_outside {
                    self.tree.forget_foreign();
                }
                self.dir_came(from_outside);
            }
        } else if let (Dir::Inside(_), _) | (_, Dir::Inside(_)) = (&old, &new) {
            self.unmute(event);
        }
        let (left, arrived) = if is_dir { (Seen::LeftDir, Seen::ArrivedDir) } else { (Seen::Left, Seen::Arrived) };
        // Where only one half is to be told, it is no rename to a target.
        let mut told = false;
        if let Dir::Inside(dir) = old {
            let left = if matches!(new, Dir::Inside(_)) { left } else { left.plain() };
            self.tell(filter, dir, old_name, is_dir, &[left], &mut |path, seen| {
                told = true;
                out(path, seen);
            });
        }
        if let Dir::Inside(dir) = new {
            self.tell(filter, dir, new_name, is_dir, &[if told { arrived } else { arrived.plain() }], out);
        }
        Ok(())
    }

    /// An event of a file whose name the kernel does not know: its link count changed, or someone works by file handle (an
    /// NFS server whose cache lost the name). Such a file's path is looked up like a directory's.
    fn nameless(&mut self, root: &Root, filter: &Filter, event: &FanEvent<'_>, out: &mut dyn FnMut(&[u8], Seen)) -> Outcome {
        let Some(child) = event.child.filter(|c| !c.handle.is_empty()) else {
            self.stats.gone += 1;
            return Ok(());
        };
        match self.look_up(root, &child)? {
            Whereabouts::Inside(at) => {
                let is_dir = event.mask & libc::FAN_ONDIR != 0;
                if filter.excludes(&at, is_dir) {
                    self.useless_file(event, true);
                    return Ok(());
                }
                self.unmute(event);
                let has = |bits| event.mask & bits != 0;
                if has(libc::FAN_CLOSE_WRITE) {
                    out(&at, Seen::Written);
                } else if has(libc::FAN_MODIFY) && !is_dir && !self.follow(event, None) {
                    out(&at, Seen::Modified);
                } else if has(libc::FAN_ATTRIB) || is_dir {
                    out(&at, Seen::Touched);
                }
                Ok(())
            }
            Whereabouts::Foreign | Whereabouts::Gone => {
                self.stats.foreign += 1;
                self.useless_file(event, false);
                Ok(())
            }
            Whereabouts::NoName => {
                let link_count = event.mask & (libc::FAN_CLOSE_WRITE | libc::FAN_MODIFY) == 0;
                match link_count && self.unexplained.hold(&child) {
                    true => Ok(()),
                    false => Err(Lost::all(Cause::UnresolvableHandle)),
                }
            }
        }
    }

    /// Whether a drain is needed for [`Resolver::settle`].
    pub fn has_unexplained(&self) -> bool {
        self.unexplained.any()
    }

    /// To be called when everything that was queued has been seen.
    ///
    /// # Errors
    /// [`Lost`] when a file changed that no path is known for.
    pub fn settle(&mut self) -> Outcome {
        match self.unexplained.settle() {
            true => Err(Lost::all(Cause::UnresolvableHandle)),
            false => Ok(()),
        }
    }

    /// Tells the entry `name` of `dir`, or `dir` itself, unless it is left out.
    fn tell(
        &mut self,
        filter: &Filter,
        dir: NodeId,
        name: &[u8],
        is_dir: bool,
        seen: &[Seen],
        out: &mut dyn FnMut(&[u8], Seen),
    ) -> Placed {
        let placed = self.place(filter, dir, name, is_dir);
        match placed {
            Placed::Here => seen.iter().for_each(|&s| out(&self.dir, s)),
            Placed::ExcludedDir | Placed::Excluded => self.stats.foreign += 1,
            Placed::Nowhere => {}
        }
        placed
    }

    /// Writes the path of the entry `name` of `dir` (empty: of `dir`) into `self.dir`.
    fn place(&mut self, filter: &Filter, dir: NodeId, name: &[u8], is_dir: bool) -> Placed {
        if !self.dir_path(dir) {
            return Placed::Nowhere;
        }
        if !filter.is_empty() {
            let excluded = match self.tree.verdict(dir) {
                Some(known) => known,
                None => {
                    let excluded = filter.excludes(&self.dir, true);
                    self.tree.set_verdict(dir, excluded);
                    excluded
                }
            };
            if excluded {
                return Placed::ExcludedDir;
            }
        }
        if !name.is_empty() {
            path::push(&mut self.dir, name);
            if !filter.is_empty() && filter.excludes_leaf(&self.dir, is_dir) {
                return Placed::Excluded;
            }
        }
        Placed::Here
    }

    /// Writes the path of `node` into `self.dir`, unless that begins with it already; `false` when the node is detached.
    fn dir_path(&mut self, node: NodeId) -> bool {
        let version = self.tree.version();
        match self.at {
            Some((known, then, len)) if known == node && then == version => self.dir.truncate(len),
            _ => {
                self.at = None;
                if !self.paths.write(&self.tree, node, &mut self.dir) {
                    return false;
                }
                self.at = Some((node, version, self.dir.len()));
            }
        }
        true
    }

    /// Handle to node, through the tree or by opening it.
    fn resolve(&mut self, root: &Root, fid: &Fid<'_>) -> Result<Dir, Lost> {
        let key = (fid.fs.0, fid.kind, fid.handle);
        match self.tree.get(key) {
            Known::Inside(node) if self.dir_path(node) => return Ok(Dir::Inside(node)),
            Known::Foreign => return Ok(Dir::Outside),
            Known::Inside(_) | Known::Nothing => {}
        }
        self.at_hand(root, fid, HANG_TRIES)
    }

    /// Looks a directory up and hangs it on the tree.
    fn at_hand(&mut self, root: &Root, fid: &Fid<'_>, tries: u32) -> Result<Dir, Lost> {
        let key = (fid.fs.0, fid.kind, fid.handle);
        match self.open_and_find(root, fid)? {
            (Whereabouts::Inside(at), Some(fd)) => match self.hang(fd, key, &at) {
                Ok(node) => Ok(Dir::Inside(node)),
                // It has moved in between, or a directory above it.
                Err(_) if tries > 0 => self.at_hand(root, fid, tries - 1),
                Err(_) => Err(Lost::all(Cause::UnresolvableHandle)),
            },
            (Whereabouts::Inside(_), None) => Err(Lost::all(Cause::UnresolvableHandle)),
            (Whereabouts::Foreign | Whereabouts::NoName, _) => {
                self.tree.set_foreign(key);
                Ok(Dir::Outside)
            }
            (Whereabouts::Gone, _) => {
                // The event that removed it, or a directory above it, was seen or is still to come.
                self.stats.gone += 1;
                Ok(Dir::Outside)
            }
        }
    }

    /// Hangs the directory `fd` (`key`, at `path`) on its parent, with the directories above that are not known.
    ///
    /// # Errors
    /// Those of looking upwards; `ESTALE` where a directory does not have its name any more.
    fn hang(&mut self, fd: OwnedFd, key: tree::Key<'_>, path: &[u8]) -> io::Result<NodeId> {
        let mut below: Vec<(u64, Handle, &[u8])> = Vec::new();
        let (mut fd, mut path) = (fd, path);
        let mut own = (key.0, Handle { kind: key.1, bytes: key.2.into(), mount_id: 0 });
        let top = loop {
            let Some(above) = path::parent(path) else { break self.tree.root() };
            let up = openat(&fd, "..", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            let (name, parent) = (path::base(path), name_to_handle(up.as_fd(), Path::new(""))?);
            let named = name_to_handle(up.as_fd(), Path::new(OsStr::from_bytes(name)))?;
            if named.as_ref() != own.1.as_ref() {
                return Err(nix::errno::Errno::ESTALE.into());
            }
            let parent = (fs_id(up.as_fd())?.0, parent);
            let known = self.tree.get((parent.0, parent.1.kind, &parent.1.bytes));
            below.push((own.0, own.1, name));
            if let Known::Inside(node) = known
                && self.tree.is_attached(node)
            {
                break node;
            }
            (fd, own, path) = (up, parent, above);
        };
        Ok(below
            .into_iter()
            .rev()
            .fold(top, |parent, (fs, handle, name)| self.tree.put(parent, name, (fs, handle.kind, &handle.bytes))))
    }

    fn look_up(&mut self, root: &Root, fid: &Fid<'_>) -> Result<Whereabouts, Lost> {
        self.open_and_find(root, fid).map(|(found, _)| found)
    }

    /// Where an object is, and the object.
    fn open_and_find(&mut self, root: &Root, fid: &Fid<'_>) -> Result<(Whereabouts, Option<OwnedFd>), Lost> {
        self.stats.opened += 1;
        let mut found = Whereabouts::Foreign;
        for at in 0..self.marked.len() {
            if self.marked[at].fs != fid.fs {
                continue;
            }
            let fd = match open_by_handle(self.marked[at].fd.as_fd(), fid.handle_ref()) {
                Ok(fd) => fd,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) => return Ok((Whereabouts::Gone, None)),
                Err(e) => {
                    if !std::mem::replace(&mut self.fd_errors_said, true) {
                        tracing::warn!(
                            error = %e,
                            "cannot open a directory by its handle; the whole tree will be compared instead. \
                             Opening by handle needs CAP_DAC_READ_SEARCH and a free file descriptor"
                        );
                    }
                    return Err(Lost::all(Cause::UnresolvableHandle));
                }
            };
            match where_is(root, fd.as_fd()) {
                Whereabouts::Foreign => {}
                Whereabouts::NoName => found = Whereabouts::NoName,
                other => return Ok((other, Some(fd))),
            }
        }
        Ok((found, None))
    }
}

/// Where an opened object is.
enum Whereabouts {
    Inside(RelPath),
    Foreign,
    /// Unlinked.
    Gone,
    /// It exists, and the kernel has no path for it.
    NoName,
}

fn same(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// Reads the path of `fd` and checks that it leads back to the same inode. A rename in between changes the path, so a
/// mismatch only counts when the path stays the same.
fn where_is(root: &Root, fd: BorrowedFd<'_>) -> Whereabouts {
    let Ok(own) = fstat(fd) else { return Whereabouts::Foreign };
    if own.st_nlink == 0 {
        return Whereabouts::Gone;
    }
    let mut before: Option<Vec<u8>> = None;
    loop {
        let Ok(path) = fd_path(fd) else { return Whereabouts::Foreign };
        if path.ends_with(b" (deleted)") && fstat(fd).map_or(true, |s| s.st_nlink == 0 || is_dir(&s)) {
            // A living directory may really be called so; then its path leads back to it.
            if let Some(rel) = root.strip(&path).and_then(RelPath::new)
                && stat_at(root, &rel).is_some_and(|s| same(&s, &own))
            {
                return Whereabouts::Inside(rel);
            }
            return Whereabouts::Gone;
        }
        let Some(rel) = root.strip(&path) else {
            if path == b"/" && !is_dir(&own) {
                return Whereabouts::NoName; // a file whose directory entry is not in the kernel's cache
            }
            return Whereabouts::Foreign;
        };
        let Some(rel) = RelPath::new(rel) else { return Whereabouts::Foreign };
        if stat_at(root, &rel).is_some_and(|s| same(&s, &own)) {
            return Whereabouts::Inside(rel);
        }
        if before.as_deref() == Some(&path) {
            let unnamed = !is_dir(&own) && rel.is_root();
            return if unnamed { Whereabouts::NoName } else { Whereabouts::Foreign };
        }
        before = Some(path);
    }
}

/// Whether a path below the root names the object of this handle at this moment.
fn leads_to(root: &Root, path: &[u8], fid: &Fid<'_>) -> bool {
    name_to_handle(root.as_fd(), Path::new(OsStr::from_bytes(path))).is_ok_and(|h| h.as_ref() == fid.handle_ref())
}

fn is_dir(s: &FileStat) -> bool {
    s.st_mode & libc::S_IFMT == libc::S_IFDIR
}

fn stat_at(root: &Root, rel: &RelPath) -> Option<FileStat> {
    if rel.is_root() {
        return fstat(root).ok();
    }
    fstatat(root, rel.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
