//! fanotify events to dirty paths: each directory handle becomes a path below the watch root, and
//! the mask becomes what the dirty set wants to know.
//!
//! Promises: an event inside the root is never credited to a wrong path for good, and never dropped
//! without a [`Lost`]. A path may be *newer* than its event (the check-up sees the present); the
//! renames that lie between are still in the queue and are replayed by handle, so the tree ends
//! right.
//!
//! How: the path tree ([`tree`]) knows the directories; an unknown handle costs one
//! `open_by_handle_at` and one readlink, whose path was checked to lead back to the same inode. (It
//! does not for a directory hidden below a mount, nor for one that a bind mount shows under a path
//! like ours.) It is hung on its parent, and that one on its own as far up as need be, each known
//! by its handle: a path would not do, as the tree is as old as the queue's head, and another
//! directory may have the name there. Handles outside the root are remembered as foreign and cost
//! one hash look-up from then on.
//!
//! Gives up: a directory that is visible at two paths below the root (a bind mount) is found at one
//! of them; the engine adds the others.

pub(crate) mod follow;
mod linked;
pub mod mute;
mod muting;
pub(crate) mod nameless;
mod opening;
mod paths;
mod relinked;
mod renamed;
pub mod tree;
mod unexplained;
mod writes;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use crate::dirty::{PathSink, Seen};
use crate::filter::Filter;
use crate::links::Inode;
use crate::lost::{Cause, Lost};
use crate::path::{self, RelPath};
use crate::root::Root;
use crate::source::fan_decode::{FanEvent, Fid, Place};
use crate::sys::handle::{FsId, Handle, HandleRef, fd_path, fs_id, name_to_handle};
use nameless::{Change, Nameless};
use opening::{Family, Opened, Opener};
use tree::{Known, NodeId, Tree};

pub use muting::MuteBy;

/// A filesystem that has a mark.
struct Marked {
    /// Where it is mounted below the root.
    at: RelPath,
    fs: FsId,
    /// Handles are opened, and paths read, through the mount.
    by: Opener,
}

/// So often a directory is looked up that moves under our hands.
const HANG_TRIES: u32 = 10;

/// The inode number of each subvolume's root on btrfs, and of nothing else:
/// `BTRFS_FIRST_FREE_OBJECTID`.
const BTRFS_SUBVOLUME_ROOT: u64 = 256;

/// An entry gets a name, or another one.
const NAMES: u64 = libc::FAN_CREATE | libc::FAN_MOVED_TO | libc::FAN_RENAME;

/// What happens to a file, and not to a name.
const CHANGES: u64 = libc::FAN_CLOSE_WRITE | libc::FAN_MODIFY | libc::FAN_ATTRIB;

/// A name has its file as it is to be sent.
const COMPLETES: u64 = libc::FAN_CLOSE_WRITE | libc::FAN_MOVED_TO;

/// Counters; never reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Events decoded.
    pub(crate) events: u64,
    /// Events outside the root, or excluded.
    pub(crate) foreign: u64,
    /// Handles that had to be opened.
    pub opened: u64,
    /// Events of directories that were gone by the time their handle was opened.
    pub(crate) gone: u64,
    /// Info records of unknown type.
    pub(crate) unknown_records: u64,
}

/// Turns fanotify events into dirty paths.
pub struct Resolver {
    marked: Vec<Marked>,
    tree: Tree,
    stats: Stats,
    /// The path of the entry at hand.
    dir: Vec<u8>,
    /// The directory whose path `dir` begins with, the tree's version then, and how long that path
    /// is.
    at: Option<(NodeId, u64, usize)>,
    paths: paths::Paths,
    errors_logged: BTreeSet<i32>,
    muting: Option<muting::Muting>,
    unexplained: unexplained::Unexplained,
    nameless: Nameless,
    relinked: relinked::Relinked,
    linked: linked::Linked,
    writes: writes::Writes,
    /// The same of changes of attributes through names inside.
    touches: writes::Writes,
    /// The last event took a name inside from its file. If the file has a name left inside, it has
    /// so many in all, at least.
    bereft: Option<u32>,
    deafness_taken: bool,
    now: Duration,
}

/// An event of an entry, whose directory is inside.
struct Inside<'e> {
    event: &'e FanEvent<'e>,
    /// The directory's handle.
    fid: Fid<'e>,
    name: &'e [u8],
    dir: NodeId,
}

impl Inside<'_> {
    fn has(&self, bits: u64) -> bool {
        self.event.mask & bits != 0
    }

    fn appears(&self) -> bool {
        self.has(libc::FAN_CREATE | libc::FAN_MOVED_TO)
    }

    fn goes(&self) -> bool {
        self.has(libc::FAN_DELETE | libc::FAN_MOVED_FROM)
    }
}

/// What the mask of an event says of a file, in the order to report it; nothing where it is only
/// being written.
fn file_changes(mask: u64) -> &'static [Seen] {
    let has = |bits| mask & bits != 0;
    let goes = has(libc::FAN_DELETE | libc::FAN_MOVED_FROM);
    match (has(libc::FAN_CREATE), goes, has(libc::FAN_MOVED_TO), has(libc::FAN_CLOSE_WRITE)) {
        // Merged by the kernel, in an order that is lost: it is checked without any assumption.
        (_, true, true, _) => &[Seen::Gone, Seen::Replaced],
        (true, true, false, _) | (_, true, false, true) => &[Seen::Gone, Seen::Written],
        // A file that has other names changed through this one before.
        (false, true, false, false) if has(CHANGES) => &[Seen::Touched, Seen::Gone],
        (false, true, false, false) => &[Seen::Gone],
        (true, false, true, _) => &[Seen::Created, Seen::Replaced],
        (true, false, false, true) => &[Seen::Created, Seen::Written],
        (true, false, false, false) => &[Seen::Created],
        (false, false, true, _) => &[Seen::Replaced],
        (false, false, false, true) => &[Seen::Written],
        (false, false, false, false) if has(libc::FAN_ATTRIB) => &[Seen::Touched],
        (false, false, false, false) => &[],
    }
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
    /// It was removed.
    Gone,
    /// It cannot be opened, and is sought.
    Sought,
}

/// What an event led to: paths go to the sink as they are found, losses are returned.
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
            errors_logged: BTreeSet::new(),
            muting: None,
            unexplained: unexplained::Unexplained::default(),
            nameless: Nameless::default(),
            relinked: relinked::Relinked::default(),
            linked: linked::Linked::default(),
            writes: writes::Writes::default(),
            touches: writes::Writes::default(),
            bereft: None,
            deafness_taken: false,
            now: Duration::ZERO,
        }
    }

    /// Takes a filesystem in, by a descriptor on its mount that is open for reading
    /// (`open_by_handle_at` refuses `O_PATH` there: EBADF, measured on 6.18). Foreign memories end:
    /// what was hidden may be visible now.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    pub fn add_mount(&mut self, root: &Root, at: &RelPath, fd: OwnedFd) -> io::Result<FsId> {
        let fs = fs_id(fd.as_fd())?;
        self.remove_mount(at);
        self.marked.push(Marked { at: at.clone(), fs, by: Opener::new(fd) });
        self.know_root(root);
        self.forget_foreign();
        self.unmute_all();
        Ok(fs)
    }

    /// Lets go of the mount at `at`: it is gone, and a path read through it would lead nowhere.
    /// Returns what it was open by.
    pub(crate) fn remove_mount(&mut self, at: &RelPath) -> Option<OwnedFd> {
        self.marked.extract_if(.., |marked| marked.at == *at).last().map(|marked| marked.by.into_fd())
    }

    /// Opens a directory of a filesystem that was taken in.
    ///
    /// # Errors
    /// `ENODEV` for another filesystem; those of open_by_handle_at(2).
    pub(crate) fn open(&self, fs: FsId, handle: HandleRef<'_>) -> io::Result<OwnedFd> {
        let mut failed = io::Error::from(nix::errno::Errno::ENODEV);
        for marked in self.marked.iter().filter(|m| m.fs == fs) {
            match marked.by.open(handle) {
                Opened::Here(fd) => return Ok(fd),
                Opened::Gone => failed = nix::errno::Errno::ESTALE.into(),
                Opened::Failed(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Forgets every path, and takes all ignore marks away: the root was away and what was looked
    /// up then is wrong, or events were missed, and a rename among them. What changed without an
    /// event has to be compared after this call.
    pub(crate) fn forget(&mut self, root: &Root) {
        self.unmute_all();
        self.at = None;
        self.paths.forget();
        self.tree = Tree::new(self.tree.max_dirs());
        self.know_root(root);
    }

    /// Hangs the root's own handle on the tree, so that its events are inside even at a moment when
    /// its path leads elsewhere.
    fn know_root(&mut self, root: &Root) {
        if let (Ok(fs), Ok(handle)) = (fs_id(root.as_fd()), name_to_handle(root.as_fd(), Path::new(""))) {
            self.tree.bind(self.tree.root(), (fs.0, handle.kind, &handle.bytes));
        }
    }

    /// What was outside may be inside, with all below it.
    fn forget_foreign(&mut self) {
        self.tree.forget_foreign();
        self.nameless.forget_outside();
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Directories known inside and outside the root.
    pub(crate) fn known(&self) -> (usize, usize) {
        self.tree.sizes()
    }

    /// To be called between buffers; keeps the memory within its bound.
    pub(crate) fn maintain(&mut self) {
        self.tree.sweep();
    }

    /// Passes to `out` the paths that `event` makes dirty.
    ///
    /// # Errors
    /// [`Lost`] when the event cannot be credited to a path; `out` may have some already.
    pub fn event(&mut self, root: &Root, filter: &Filter, event: &FanEvent<'_>, out: &mut dyn PathSink) -> Outcome {
        self.stats.events += 1;
        self.stats.unknown_records += u64::from(event.skipped);
        self.bereft = None;
        let mask = event.mask;
        if mask & libc::FAN_Q_OVERFLOW != 0 {
            self.forget(root);
            return Err(Lost::all(Cause::QueueOverflow));
        }
        let is_dir = mask & libc::FAN_ONDIR != 0;
        if mask & NAMES != 0 {
            self.nameless.named(event.child.as_ref());
        }
        if mask & libc::FAN_RENAME != 0 {
            return self.renamed(root, filter, event, is_dir, out);
        }
        let Some(Place { fid, name }) = event.dir else { return self.nameless(root, filter, event, out).map(drop) };
        if mask & (libc::FAN_CREATE | libc::FAN_DELETE) != 0
            && let Some(child) = &event.child
            && self.unexplained.explained(child)
        {
            self.suspect_unseen(child);
        }
        let dir = match self.resolve(root, &fid)? {
            Dir::Inside(dir) => dir,
            found @ (Dir::Outside | Dir::Gone) => return self.outside(root, filter, event, matches!(found, Dir::Gone), out),
            Dir::Sought => return Ok(()),
        };
        let inside = Inside { event, fid, name, dir };
        if name.is_empty() || name == b"." {
            self.report(filter, dir, b"", true, &[Seen::Touched], out);
            Ok(())
        } else if is_dir {
            self.dir_inside(root, filter, &inside, out);
            Ok(())
        } else {
            self.file_inside(root, filter, &inside, out)
        }
    }

    /// An event of an entry of a directory that is outside, or gone.
    fn outside(&mut self, root: &Root, filter: &Filter, event: &FanEvent<'_>, gone: bool, out: &mut dyn PathSink) -> Outcome {
        let Some(Place { fid, name }) = event.dir else { return Ok(()) };
        self.stats.foreign += 1;
        // The name in the event is none of the file's any more, which may have others inside.
        let changes = event.mask & CHANGES != 0 && event.mask & libc::FAN_ONDIR == 0;
        let may_stray = || event.child.is_some_and(|file| self.relinked.is_known(&file, name));
        if changes && (gone || may_stray()) && self.nameless(root, filter, event, out)? {
            return Ok(());
        }
        if !self.changed_elsewhere(root, filter, event, Change::of(event.mask), out)? {
            self.useless(event, &fid, false);
        }
        Ok(())
    }

    /// An event of a directory in a directory inside.
    fn dir_inside(&mut self, root: &Root, filter: &Filter, at: &Inside<'_>, out: &mut dyn PathSink) {
        let &Inside { fid, name, dir, .. } = at;
        if at.goes()
            && let Some(child) = self.tree.child(dir, name)
        {
            self.tree.detach(child);
        }
        if at.has(libc::FAN_MOVED_TO) {
            if let Some(old) = self.tree.child(dir, name) {
                self.tree.detach(old);
            }
            self.forget_foreign();
            self.dir_came(true);
        }
        let seen: &[Seen] = match (at.appears(), at.goes()) {
            (true, false) if !at.has(libc::FAN_MOVED_TO) && !self.is_snapshot(root, filter, dir, &fid, name) => {
                &[Seen::CreatedDir]
            }
            (true, false) => &[Seen::MovedDir],
            (true, true) => &[Seen::GoneDir, Seen::MovedDir],
            (false, true) => &[Seen::GoneDir],
            (false, false) => &[Seen::Touched],
        };
        self.report(filter, dir, name, true, seen, out);
    }

    /// An event of a file in a directory inside.
    fn file_inside(&mut self, root: &Root, filter: &Filter, at: &Inside<'_>, out: &mut dyn PathSink) -> Outcome {
        let &Inside { event, fid, name, dir } = at;
        self.unmute(event);
        self.note_write(event);
        if let Some(child) = event.child.filter(|c| at.has(libc::FAN_ATTRIB) && !c.handle.is_empty()) {
            self.touches.note(&child, self.now);
        }
        if let Some(child) = event.child.filter(|c| at.has(CHANGES) && !c.handle.is_empty())
            && self.relinked.may_stray(&child, name)
            && self.strays(root, dir, name, &child)
        {
            // Where the file is not found by itself, what became of its name decides. That of one
            // made without a name never was one.
            let found = self.nameless(root, filter, event, out)?;
            if (found || relinked::is_made_up(name)) && !at.appears() && !at.goes() {
                return Ok(());
            }
        }
        if at.goes() && !at.appears() {
            self.bereft = Some(if at.has(libc::FAN_DELETE) { 1 } else { 2 });
        }
        // It may have left the source, with what was written through this name.
        let leaves = at.has(libc::FAN_MOVED_FROM) && !at.appears() && self.has_unsent_write(event);
        let changes_on = at.has(libc::FAN_MODIFY) && !at.has(COMPLETES) && !at.goes();
        match self.report(filter, dir, name, false, file_changes(event.mask), out) {
            Placed::ExcludedDir | Placed::Excluded
                if self.changed_elsewhere(root, filter, event, Change::of(event.mask), out)? => {}
            Placed::ExcludedDir => self.useless(event, &fid, true),
            Placed::Excluded => self.useless_file(event, true),
            Placed::Here if leaves => _ = self.changed_elsewhere(root, filter, event, Change::Writing, out)?,
            Placed::Here if changes_on && !self.follow(event, event.dir.as_ref()) => out.apply(&self.dir, Seen::Modified),
            Placed::Here | Placed::Nowhere => {}
        }
        Ok(())
    }

    /// An event of a file whose name the kernel does not know: its link count changed, or someone
    /// works by file handle (an NFS server whose cache lost the name). Such a file's path is looked
    /// up like a directory's. Whether it was found, or is sought.
    fn nameless(&mut self, root: &Root, filter: &Filter, event: &FanEvent<'_>, out: &mut dyn PathSink) -> Result<bool, Lost> {
        let Some(child) = event.child.filter(|c| !c.handle.is_empty()) else {
            self.stats.gone += 1;
            return Ok(false);
        };
        let (found, fd) = self.open_and_find(root, &child);
        let is_dir = event.mask & libc::FAN_ONDIR != 0;
        // Attributes alone, of a file that has a path: the number of its names. What was written
        // through one that it lost is written through the others.
        let lost_write = !is_dir && self.has_unsent_write(event);
        let change = match Change::of(event.mask) {
            Change::Attributes if lost_write => Change::Writing,
            change => change,
        };
        let written = change != Change::Attributes;
        if event.mask & libc::FAN_ATTRIB != 0 && !is_dir && !matches!(found, Whereabouts::Gone | Whereabouts::Unknown) {
            self.relinked.add(&child);
        }
        match found {
            Whereabouts::Inside(at) => {
                if filter.excludes(&at, is_dir) {
                    if !written || !self.changed_elsewhere(root, filter, event, change, out)? {
                        self.useless_file(event, true);
                    }
                    fd.iter().for_each(|fd| self.suspect(event, &child, fd.as_fd()));
                    return Ok(true);
                }
                self.unmute(event);
                let has = |bits| event.mask & bits != 0;
                if has(libc::FAN_CLOSE_WRITE) {
                    out.apply(&at, Seen::Written);
                } else if has(libc::FAN_MODIFY) && !is_dir && !self.follow(event, None) {
                    out.apply(&at, Seen::Modified);
                } else if has(libc::FAN_ATTRIB) || is_dir {
                    out.apply(&at, if lost_write { Seen::Modified } else { Seen::Touched });
                }
                Ok(true)
            }
            Whereabouts::Foreign => {
                self.stats.foreign += 1;
                // It changed through a name inside, which it has lost.
                let lost_touch = event.dir.is_some() || self.touches.may_be_unsent(&child);
                let known = (written || lost_touch) && self.changed_elsewhere(root, filter, event, change, out)?;
                if !known {
                    self.useless_file(event, false);
                }
                fd.iter().for_each(|fd| self.suspect(event, &child, fd.as_fd()));
                Ok(known)
            }
            Whereabouts::Gone => {
                self.stats.foreign += 1;
                self.useless_file(event, false);
                Ok(false)
            }
            Whereabouts::Unknown => {
                self.seek(&child, is_dir, Change::of(event.mask))?;
                Ok(true)
            }
            Whereabouts::NoName(inode) => {
                // With a name, it is no record of the number of names.
                if change != Change::Attributes || event.dir.is_some() || !self.unexplained.hold(&child, inode) {
                    self.nameless.changed(self.now, inode, unexplained::owned(&child), change);
                }
                Ok(true)
            }
        }
    }

    fn note_write(&mut self, event: &FanEvent<'_>) {
        if event.mask & (libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE) != 0
            && let Some(child) = event.child.filter(|c| !c.handle.is_empty())
        {
            self.writes.note(&child, self.now);
        }
    }

    fn has_unsent_write(&self, event: &FanEvent<'_>) -> bool {
        event.child.is_some_and(|file| self.writes.may_be_unsent(&file))
    }

    /// Every change from before `since`, a time since the daemon's start, is on the targets.
    pub(crate) fn confirmed(&mut self, since: Duration) {
        self.writes.confirmed(since);
        self.touches.confirmed(since);
    }

    /// Whether a drain is needed for [`Resolver::settle`].
    pub(crate) fn has_unexplained(&self) -> bool {
        self.unexplained.any()
    }

    /// To be called when everything that was queued has been seen: files that changed and have no
    /// path are sought from here on.
    pub(crate) fn settle(&mut self) {
        for (handle, inode) in self.unexplained.settle() {
            self.nameless.changed(self.now, inode, handle, Change::Attributes);
        }
    }

    /// Whether the last event took a name inside from its file, which may have others.
    pub(crate) fn took_name(&self) -> bool {
        self.bereft.is_some()
    }

    /// The file that the last event, this one, took a name from, if it may have others inside: what
    /// was pending of that name belongs to these. Costs an open of the file.
    ///
    /// # Errors
    /// The file cannot be opened, and too many are sought.
    pub(crate) fn survivor(&mut self, event: &FanEvent<'_>) -> Result<Option<Inode>, Lost> {
        let Some(least) = self.bereft.take() else { return Ok(None) };
        let Some(file) = event.child.filter(|c| !c.handle.is_empty()) else { return Ok(None) };
        // One that lives on has raised a record of its number of names before this one.
        if least == 1 && !self.relinked.is_added(&file) {
            return Ok(None);
        }
        match self.open_linked(&file) {
            Opened::Here(fd) => Ok(fstat(&fd).ok().filter(|stat| stat.st_nlink >= least.into()).map(|stat| inode_of(&stat))),
            Opened::Gone => Ok(None),
            Opened::Failed(_) => self.seek(&file, false, Change::Writing).map(|_| None),
        }
    }

    /// Whether the entry `name` of `dir` is another file, or none.
    fn strays(&mut self, root: &Root, dir: NodeId, name: &[u8], child: &Fid<'_>) -> bool {
        if !self.dir_path(dir) {
            return false;
        }
        let mut at = self.dir.clone();
        path::push(&mut at, name);
        !leads_to(root, &at, child)
    }

    /// Files that changed and have no path.
    pub(crate) fn nameless_files(&mut self) -> &mut Nameless {
        &mut self.nameless
    }

    /// When the next walk for them begins.
    pub(crate) fn nameless_due(&self) -> Option<Duration> {
        self.nameless.next_due()
    }

    /// Whether such files are sought.
    pub(crate) fn seeks_nameless(&self) -> bool {
        self.nameless.any()
    }

    /// Walks for them.
    pub(crate) fn nameless_walks(&self) -> u64 {
        self.nameless.walks()
    }

    /// Whether the directory that was created is the root of a subvolume. That of a snapshot has
    /// content from its first moment, which raises no events.
    fn is_snapshot(&mut self, root: &Root, filter: &Filter, dir: NodeId, parent: &Fid<'_>, name: &[u8]) -> bool {
        let snapshots = self.marked.iter().any(|m| m.fs == parent.fs && m.by.family() == Family::Btrfs);
        snapshots
            && matches!(self.place(filter, dir, name, true), Placed::Here)
            && fstatat(root, OsStr::from_bytes(&self.dir), AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|s| is_dir(&s) && s.st_ino == BTRFS_SUBVOLUME_ROOT)
    }

    /// Reports the entry `name` of `dir`, or `dir` itself, unless it is left out.
    fn report(
        &mut self,
        filter: &Filter,
        dir: NodeId,
        name: &[u8],
        is_dir: bool,
        seen: &[Seen],
        out: &mut dyn PathSink,
    ) -> Placed {
        let placed = self.place(filter, dir, name, is_dir);
        match placed {
            Placed::Here => seen.iter().for_each(|&s| out.apply(&self.dir, s)),
            Placed::ExcludedDir => self.stats.foreign += 1,
            Placed::Excluded => {
                self.stats.foreign += 1;
                if seen.iter().any(|seen| seen.changes_dir()) {
                    out.apply(path::parent(&self.dir).unwrap_or_default(), Seen::DirTimes);
                }
            }
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

    /// Writes the path of `node` into `self.dir`, unless that begins with it already; `false` when
    /// the node is detached.
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
        match self.open_and_find(root, fid) {
            (Whereabouts::Inside(at), Some(fd)) => match self.hang(fd, key, &at) {
                Ok(node) => Ok(Dir::Inside(node)),
                // It has moved in between, or a directory above it.
                Err(_) if tries > 0 => self.at_hand(root, fid, tries - 1),
                Err(_) => self.seek(fid, true, Change::Attributes),
            },
            (Whereabouts::Inside(_), None) | (Whereabouts::Unknown, _) => self.seek(fid, true, Change::Attributes),
            (Whereabouts::Foreign | Whereabouts::NoName(_), _) => {
                self.tree.set_foreign(key);
                Ok(Dir::Outside)
            }
            (Whereabouts::Gone, _) => {
                // The event that removed it, or a directory above it, was seen or is still to come.
                self.stats.gone += 1;
                Ok(Dir::Gone)
            }
        }
    }

    /// Hangs the directory `fd` (`key`, at `path`) on its parent, with the directories above that
    /// are not known.
    ///
    /// # Errors
    /// Those of looking upwards; `ESTALE` where a directory does not have its name any more.
    fn hang(&mut self, fd: OwnedFd, key: tree::Key<'_>, path: &[u8]) -> io::Result<NodeId> {
        let mut below: Vec<(u64, Handle, &[u8])> = Vec::new();
        let (mut fd, mut path) = (fd, path);
        let mount_id = name_to_handle(fd.as_fd(), Path::new(""))?.mount_id;
        let mut own = (key.0, Handle { kind: key.1, bytes: key.2.into(), mount_id });
        let top = loop {
            let Some(above) = path::parent(path) else { break self.tree.root() };
            let up = openat(&fd, "..", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            let (name, parent) = (path::base(path), name_to_handle(up.as_fd(), Path::new(""))?);
            let named = name_to_handle(up.as_fd(), Path::new(OsStr::from_bytes(name)))?;
            if named.as_ref() != own.1.as_ref() {
                return Err(nix::errno::Errno::ESTALE.into());
            }
            // Events carry the id of the filesystem at the top of the mount: within a subvolume of
            // btrfs, fstatfs(2) has another one.
            let fs = if parent.mount_id == own.1.mount_id { own.0 } else { fs_id(up.as_fd())?.0 };
            let parent = (fs, parent);
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

    /// Has an object that cannot be opened sought below the source.
    ///
    /// # Errors
    /// Too many are.
    fn seek(&mut self, fid: &Fid<'_>, is_dir: bool, change: Change) -> Result<Dir, Lost> {
        match self.nameless.unopened(self.now, unexplained::owned(fid), is_dir, change) {
            true => Ok(Dir::Sought),
            false => Err(Lost::all(Cause::UnresolvableHandle)),
        }
    }

    /// Where an object is, and the object.
    fn open_and_find(&mut self, root: &Root, fid: &Fid<'_>) -> (Whereabouts, Option<OwnedFd>) {
        self.stats.opened += 1;
        let (mut found, mut outside) = (Whereabouts::Foreign, None);
        for at in 0..self.marked.len() {
            if self.marked[at].fs != fid.fs {
                continue;
            }
            let fd = match self.marked[at].by.open(fid.handle_ref()) {
                Opened::Here(fd) => fd,
                Opened::Gone => return (Whereabouts::Gone, None),
                Opened::Failed(error) => {
                    let errno = error.raw_os_error().unwrap_or_default();
                    if self.errors_logged.insert(errno) {
                        let advice = opening::advice(errno);
                        tracing::warn!(%error, "an object cannot be opened by its handle, and is sought below the source instead: {advice}");
                    }
                    return (Whereabouts::Unknown, None);
                }
            };
            match where_is(root, fd.as_fd()) {
                Whereabouts::Foreign => outside = Some(fd),
                Whereabouts::NoName(inode) => found = Whereabouts::NoName(inode),
                other => return (other, Some(fd)),
            }
        }
        (found, outside)
    }
}

/// Where an opened object is.
enum Whereabouts {
    Inside(RelPath),
    Foreign,
    /// Unlinked.
    Gone,
    /// It exists, and the kernel has no path for it.
    NoName(Inode),
    /// It cannot be opened.
    Unknown,
}

/// As the walks over the source have it.
fn inode_of(s: &FileStat) -> Inode {
    let number = |n: u64| u32::try_from(n).unwrap_or_default();
    ((number(nix::sys::stat::major(s.st_dev)), number(nix::sys::stat::minor(s.st_dev))), s.st_ino)
}

fn same(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// Reads the path of `fd` and checks that it leads back to the same inode. A rename in between
/// changes the path, so a mismatch only counts when the path stays the same.
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
            if !is_dir(&own) && (path == b"/" || path.ends_with(b" (deleted)")) {
                return Whereabouts::NoName(inode_of(&own)); // the names that it has are not in the kernel's cache
            }
            return Whereabouts::Foreign;
        };
        let Some(rel) = RelPath::new(rel) else { return Whereabouts::Foreign };
        if stat_at(root, &rel).is_some_and(|s| same(&s, &own)) {
            return Whereabouts::Inside(rel);
        }
        if before.as_deref() == Some(&path) {
            let unnamed = !is_dir(&own) && (rel.is_root() || path.ends_with(b" (deleted)"));
            return if unnamed { Whereabouts::NoName(inode_of(&own)) } else { Whereabouts::Foreign };
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

/// Whether a rename left a whiteout under its old name (renameat2(2), `RENAME_WHITEOUT`: a
/// character device of number 0, as overlayfs makes them). No event reports it.
pub(crate) fn is_whiteout(root: &Root, path: &[u8]) -> bool {
    let found = fstatat(root, OsStr::from_bytes(path), AtFlags::AT_SYMLINK_NOFOLLOW);
    found.is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0)
}
