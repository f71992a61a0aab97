//! inotify as a source: keeps a watch on every directory of a tree, and turns records into [`Seen`]
//! paths.
//!
//! Promises:
//! - Every directory below the root, except the excluded and those on other filesystems, has a
//!   watch, or its path is in [`WatchReport::lost`]; such a subtree is remembered and tried again
//!   by [`Watches::retry_unwatched`].
//! - A new directory is watched first and read afterwards, so what appears in it is either in the
//!   listing or raises an event. It is given out as [`Seen::MovedDir`] behind that: what happened
//!   before the watch is found by looking.
//! - An event is credited to the path its directory has *at that point of the queue*, or to none:
//!   never to a path that the directory has left, and never to one inside when it has left the
//!   tree.
//! - The way down from the root never follows a symlink: each component is opened from the one
//!   above, and the watch is set on what was opened.
//!
//! How a rename goes. `MOVED_FROM` of a directory takes its node out of the tree, with all below,
//! keeping the watches; `MOVED_TO` with the same cookie hangs it into its new place, for any size
//! one step, and the walk that follows finds its watches in place (a watched directory keeps its
//! watch, so re-watching costs no memory and loses no event). The walk is needed all the same:
//! directories made while the node hung nowhere, and exclusions that depend on the path. Without a
//! `MOVED_TO` within [`MOVE_GRACE`] it has left the tree, and its watches are removed.
//!
//! Gives up: a bind mount of one directory of the tree into another place of it, since the kernel
//! has one watch for both. Changes during an overflow, until the caller has rescanned and called
//! [`Watches::add_tree`] on the root.

use super::dirs::{DirId, Dirs};
use super::ino_decode::{self, InoEvent};
use super::records::Corrupt;
use crate::dirty::Seen;
use crate::path::{self, RelPath};
use crate::sys::inotify::{Inotify, max_user_watches};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long the second half of a rename may take. Both halves are queued by one system call; this
/// only has to bridge a reader that comes between, so it is long. When it is exceeded the directory
/// is taken for a new one: correct, only slower.
const MOVE_GRACE: Duration = Duration::from_secs(1);

/// Directories deeper than this below the start of a walk are opened from the root, so that a walk
/// holds no more descriptors than this however deep the tree is.
const MAX_HELD: usize = 128;

/// Directories of a walk between two calls of [`Rules::beat`]: some milliseconds' worth on a disk
/// that answers.
pub(crate) const BEAT_DIRS: usize = 256;

/// What not to watch, and the heartbeat of a walk.
pub(crate) struct Rules<'a> {
    /// Whether this path (relative, and whether it is a directory) and all below is of no interest.
    pub(crate) excluded: &'a dyn Fn(&[u8], bool) -> bool,
    /// Whether to go down into a directory on another filesystem than the root's, by its device
    /// number (`st_dev`).
    pub(crate) cross: &'a dyn Fn(u64) -> bool,
    /// Called after every [`BEAT_DIRS`] directories of a walk, so that a waiting thread sees
    /// progress.
    pub(crate) beat: &'a dyn Fn(),
}

/// What a walk did.
#[derive(Debug, Default)]
pub(crate) struct WatchReport {
    /// Directories newly watched.
    pub(crate) added: usize,
    /// Directories that were there when listed and not when opened; no loss, their parent's events
    /// report it.
    pub(crate) gone: usize,
    /// Subtrees without a watch, and why: to be polled until [`Watches::retry_unwatched`] no longer
    /// reports them.
    pub(crate) lost: Vec<(RelPath, io::Error)>,
    /// Set when the reason was the number of watches.
    pub(crate) out_of_watches: Option<OutOfWatches>,
}

impl WatchReport {
    fn merge(&mut self, other: WatchReport) {
        self.added += other.added;
        self.gone += other.gone;
        self.lost.extend(other.lost);
        self.out_of_watches = other.out_of_watches.or(self.out_of_watches.take());
    }
}

/// The kernel refused further watches. Its text is what an administrator needs to know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "no inotify watches left for {} and what is below; that is rescanned instead, which is slower: \
     fs.inotify.max_user_watches is {}, {watched} are in use here and at least {} are needed; raise it with sysctl",
    crate::text::plural(*unwatched as u64, "directory"), limit.map_or("unknown".to_owned(), |limit| limit.to_string()), watched + unwatched
)]
pub(crate) struct OutOfWatches {
    /// `fs.inotify.max_user_watches`, shared with all processes of this user.
    pub(crate) limit: Option<u64>,
    /// Watches of this tree.
    pub(crate) watched: usize,
    /// Directories found without one; what is below them was not counted.
    pub(crate) unwatched: usize,
}

/// What a buffer of records amounted to, besides the paths.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    /// The kernel's queue overflowed: anything may have changed anywhere. Rescan, and
    /// [`Watches::add_tree`] the root.
    pub(crate) overflow: bool,
    /// The root itself was moved or unmounted. Its deletion raises no event while it is held open,
    /// as it is here (measured on ext4).
    pub(crate) root_gone: bool,
    /// The buffer's remainder could not be decoded; to be treated as an overflow.
    pub(crate) corrupt: Option<Corrupt>,
    /// Events of watches that were removed, or of directories that have no path; credited to
    /// nothing.
    pub(crate) stale: usize,
    /// A file changed, and the name that reported it has no path: it was in a directory that left.
    /// Its other names may have one.
    pub(crate) unplaced: bool,
    /// Directories came: a file may have changed through a name in one before its watch was set.
    pub(crate) came: bool,
    /// Walks of new directories.
    pub(crate) report: WatchReport,
}

impl Handled {
    /// Directories came and were walked over. What happened in them before raised no event, and one
    /// may be gone again.
    fn watched(&mut self, report: WatchReport) {
        self.came |= report.added > 0 || report.gone > 0;
        self.report.merge(report);
    }
}

/// Why a tree cannot be watched at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The root cannot be opened or examined.
    #[error("cannot open the directory {path:?} to watch it")]
    Root {
        /// The root as given.
        path: PathBuf,
        /// What the kernel returned.
        source: io::Error,
    },
}

/// A directory that has left its place.
#[derive(Debug)]
struct Limbo {
    dir: DirId,
    cookie: u32,
    since: Instant,
}

/// The watched directories of one tree.
#[derive(Debug)]
pub(crate) struct Watches {
    inotify: Inotify,
    root: OwnedFd,
    root_dev: u64,
    dirs: Dirs,
    /// Oldest first.
    limbo: VecDeque<Limbo>,
    /// The cookie of what was reported to have left, if nothing came after it.
    left: Option<u32>,
    unwatched: BTreeSet<DirId>,
    walks: u32,
}

impl Watches {
    /// Takes the queue and the tree's root; watches nothing yet: [`Watches::add_tree`] of the empty
    /// path does.
    ///
    /// # Errors
    /// [`Error::Root`] when `root` is not a directory that can be opened. A symlink there is
    /// followed, once, now.
    pub(crate) fn new(inotify: Inotify, root: &std::path::Path) -> Result<Watches, Error> {
        let open = || -> io::Result<_> {
            let fd = nix::fcntl::open(root, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            let dev = fstat(&fd)?.st_dev;
            Ok((fd, dev))
        };
        let (fd, root_dev) = open().map_err(|source| Error::Root { path: root.into(), source })?;
        let (dirs, unwatched) = (Dirs::new(), BTreeSet::new());
        Ok(Watches { inotify, root: fd, root_dev, dirs, limbo: VecDeque::new(), left: None, unwatched, walks: 0 })
    }

    /// Watches that are set from here on report writes, too; [`Watches::add_tree`] sets those again
    /// that are there.
    pub(crate) fn report_writes(&mut self) {
        self.inotify.report_writes();
    }

    /// The queue, for a reader.
    pub(crate) fn queue(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// How many directories are watched.
    pub(crate) fn count(&self) -> usize {
        self.dirs.watched()
    }

    /// Watches `at` (relative; empty: the root) and every directory below. What is watched already
    /// stays so, what is no longer there is forgotten: afterwards the tree equals the disk, but for
    /// what happened meanwhile, which is in the queue. Takes about six system calls for each
    /// directory.
    pub(crate) fn add_tree(&mut self, at: &[u8], rules: &Rules<'_>) -> WatchReport {
        let mut dir = Dirs::ROOT;
        let mut start = Dirs::ROOT;
        for name in at.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            // From the topmost directory that is not watched: without its events, a watch below
            // could go stale unseen.
            let known = self.dirs.child(dir, name).filter(|&child| self.dirs.wd(child).is_some());
            dir = match known {
                Some(child) => child,
                None => self.dirs.child_or_insert(dir, name),
            };
            start = dir;
            if known.is_none() {
                break;
            }
        }
        self.walk(start, rules)
    }

    /// Tries again to watch what [`WatchReport::lost`] had, and gives out each subtree that now is
    /// as [`Seen::Subtree`].
    pub(crate) fn retry_unwatched(&mut self, rules: &Rules<'_>, out: &mut dyn FnMut(&[u8], Seen)) -> WatchReport {
        let (mut report, mut path) = (WatchReport::default(), Vec::new());
        for dir in std::mem::take(&mut self.unwatched) {
            if !self.dirs.path(dir, &mut path) {
                continue;
            }
            if report.out_of_watches.is_some() {
                self.unwatched.insert(dir);
                report.lost.push((RelPath::from_normal(path.as_slice()), Errno::ENOSPC.into()));
                continue;
            }
            report.merge(self.walk(dir, rules));
            if self.find(&path) == Some(dir) && !self.unwatched.contains(&dir) {
                out(&path, Seen::Subtree);
            }
        }
        report
    }

    /// Removes the watches of directories that left the tree more than [`MOVE_GRACE`] ago.
    /// [`Watches::handle`] does it too; this is for quiet times. Returns when to call again.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some(&Limbo { dir, since, .. }) = self.limbo.front() {
            let due = since + MOVE_GRACE;
            if now < due {
                return Some(due);
            }
            self.limbo.pop_front();
            self.forget(dir, true);
        }
        None
    }

    /// Decodes a buffer of records and gives out what was seen, oldest first, with the record's
    /// mask, paths relative to the root. `now`: monotonic.
    pub(crate) fn handle(
        &mut self,
        buf: &[u8],
        now: Instant,
        rules: &Rules<'_>,
        out: &mut dyn FnMut(u32, &[u8], Seen),
    ) -> Handled {
        let mut handled = Handled::default();
        let mut path = Vec::new();
        for event in ino_decode::events(buf) {
            match event {
                Ok(event) => {
                    let mut out = |path: &[u8], seen: Seen| out(event.mask, path, seen);
                    self.event(&event, now, rules, &mut path, &mut out, &mut handled);
                }
                Err(corrupt) => handled.corrupt = Some(corrupt),
            }
        }
        self.expire(now);
        handled
    }

    fn event(
        &mut self,
        event: &InoEvent<'_>,
        now: Instant,
        rules: &Rules<'_>,
        path: &mut Vec<u8>,
        out: &mut dyn FnMut(&[u8], Seen),
        handled: &mut Handled,
    ) {
        let has = |bits: u32| event.mask & bits != 0;
        // The kernel queues both halves of a rename in one go; with anything between, it is
        // reported as two changes.
        let paired = self.left.take() == Some(event.cookie);
        if has(libc::IN_Q_OVERFLOW) {
            handled.overflow = true;
            return;
        }
        let changes = !event.name.is_empty() && has(libc::IN_CLOSE_WRITE | libc::IN_MODIFY | libc::IN_ATTRIB);
        let Some(dir) = self.dirs.by_wd(event.wd) else {
            handled.stale += 1;
            handled.unplaced |= changes;
            return;
        };
        if has(libc::IN_IGNORED) {
            self.dirs.unclaim(event.wd);
            handled.root_gone |= dir == Dirs::ROOT;
            return;
        }
        if dir == Dirs::ROOT && has(libc::IN_MOVE_SELF | libc::IN_UNMOUNT) {
            handled.root_gone = true;
            return;
        }
        if !self.dirs.path(dir, path) {
            handled.stale += 1;
            handled.unplaced |= changes;
            return;
        }
        if has(libc::IN_UNMOUNT) {
            // What was mounted here is gone, and the directory below it came to light.
            handled.report.merge(self.walk(dir, rules));
            out(path, Seen::Subtree);
            return;
        }
        if event.name.is_empty() {
            if has(libc::IN_ATTRIB | libc::IN_MODIFY) {
                out(path, Seen::Touched);
            }
            return;
        }
        path::push(path, event.name);
        if has(libc::IN_ISDIR) {
            return self.dir_event(event, paired, dir, now, rules, path, out, handled);
        }
        let seen = match event.mask & libc::IN_ALL_EVENTS {
            libc::IN_CREATE => Seen::Created,
            libc::IN_MOVED_TO if paired => Seen::Arrived,
            libc::IN_CLOSE_WRITE => Seen::Written,
            libc::IN_MOVED_TO => Seen::Replaced,
            libc::IN_MOVED_FROM => Seen::Left,
            libc::IN_DELETE => Seen::Gone,
            libc::IN_MODIFY => Seen::Modified,
            libc::IN_ATTRIB => Seen::Touched,
            _ => return,
        };
        if !(rules.excluded)(path, false) {
            self.left = (seen == Seen::Left).then_some(event.cookie);
            out(path, seen);
        } else {
            left_out(path, seen, rules, out);
        }
    }

    /// An event of the directory `event.name` in `parent`, at `path`.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    fn dir_event(
        &mut self,
        event: &InoEvent<'_>,
        paired: bool,
        parent: DirId,
        now: Instant,
        rules: &Rules<'_>,
        path: &[u8],
        out: &mut dyn FnMut(&[u8], Seen),
        handled: &mut Handled,
    ) {
        let excluded = (rules.excluded)(path, true);
        let child = self.dirs.child(parent, event.name);
        let seen = match event.mask & libc::IN_ALL_EVENTS {
            libc::IN_CREATE if !excluded => {
                let dir = self.dirs.child_or_insert(parent, event.name);
                handled.watched(self.walk(dir, rules));
                Seen::MovedDir // what was written below before the watch raised no event: trust no times there
            }
            libc::IN_CREATE => Seen::CreatedDir,
            libc::IN_MOVED_TO => {
                // From the back: nearly always the event before this one.
                let moved = self.limbo.iter().rposition(|limbo| limbo.cookie == event.cookie);
                let moved = moved.and_then(|at| self.limbo.remove(at)).map(|limbo| limbo.dir);
                let there = self.arrive(moved, child, excluded);
                if !excluded {
                    let dir = match there {
                        Some(dir) if Some(dir) != child => {
                            self.dirs.attach(dir, parent, event.name);
                            dir
                        }
                        _ => self.dirs.child_or_insert(parent, event.name),
                    };
                    handled.watched(self.walk(dir, rules));
                }
                if paired { Seen::ArrivedDir } else { Seen::MovedDir }
            }
            libc::IN_DELETE => {
                if let Some(child) = child {
                    // The kernel removes the watches of what is deleted. Should the name have come
                    // back meanwhile and this be the new directory, its creation is in the queue
                    // and finds its watch still there.
                    self.forget(child, false);
                }
                Seen::GoneDir
            }
            libc::IN_MOVED_FROM => {
                if let Some(child) = child {
                    self.dirs.detach(child);
                    self.limbo.push_back(Limbo { dir: child, cookie: event.cookie, since: now });
                }
                if !excluded && self.is_dir(path) {
                    // Two directories changed places: what left is at hand under its new name, and
                    // the other one is here already. What its watch says from now on belongs to
                    // this name.
                    out(path, Seen::GoneDir);
                    let dir = self.dirs.child_or_insert(parent, event.name);
                    handled.report.merge(self.walk(dir, rules));
                    Seen::MovedDir
                } else {
                    Seen::LeftDir
                }
            }
            libc::IN_ATTRIB | libc::IN_MODIFY => Seen::Touched,
            _ => return,
        };
        if !excluded {
            self.left = (seen == Seen::LeftDir).then_some(event.cookie);
            out(path, seen);
        } else {
            left_out(path, seen, rules, out);
        }
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
        let stat = nix::sys::stat::fstatat(&self.root, path, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
        stat.is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR)
    }

    /// A directory was moved onto a name: of what came (`moved`, from limbo) and what hangs there
    /// (`child`), keeps the one that is right, returns it, and forgets the other.
    fn arrive(&mut self, moved: Option<DirId>, child: Option<DirId>, excluded: bool) -> Option<DirId> {
        // A walk may have come upon the new place before this event and taken the watch over to
        // `child`.
        let (keep, drop) = match moved {
            Some(moved) if excluded || self.dirs.wd(moved).is_none() => (child, Some(moved)),
            Some(moved) => (Some(moved), child),
            None => (child, None),
        };
        if let Some(drop) = drop {
            self.forget(drop, true);
        }
        keep
    }

    /// Forgets a directory and all below. `unwatch`: it may still be there, so remove the watches.
    fn forget(&mut self, dir: DirId, unwatch: bool) {
        let Watches { dirs, unwatched, inotify, .. } = self;
        dirs.remove(dir, |dir, wd| {
            unwatched.remove(&dir);
            if let Some(wd) = wd.filter(|_| unwatch) {
                inotify.unwatch(wd);
            }
        });
    }

    fn find(&self, at: &[u8]) -> Option<DirId> {
        at.split(|&b| b == b'/').filter(|name| !name.is_empty()).try_fold(Dirs::ROOT, |dir, name| self.dirs.child(dir, name))
    }

    /// Makes nodes and watches of `start` and all below equal to the disk.
    fn walk(&mut self, start: DirId, rules: &Rules<'_>) -> WatchReport {
        self.walks = self.walks.wrapping_add(1);
        let mut walk = Walk { report: WatchReport::default(), path: Vec::new(), full: false };
        let mut stack: Vec<(DirId, Option<Rc<Dir>>, usize)> = vec![(start, None, 0)];
        let mut beats = (1..=BEAT_DIRS).cycle();
        while let Some((dir, parent, depth)) = stack.pop() {
            if beats.next() == Some(BEAT_DIRS) {
                (rules.beat)();
            }
            if !self.dirs.path(dir, &mut walk.path) {
                continue;
            }
            match self.visit(dir, parent, rules, &mut walk) {
                Ok(Some((listing, below))) => {
                    let held = (depth < MAX_HELD).then(|| Rc::new(listing));
                    stack.extend(below.into_iter().map(|child| (child, held.clone(), depth + 1)));
                }
                Ok(None) => {}
                Err(error) => {
                    self.dirs.path(dir, &mut walk.path);
                    self.lose(dir, error, &mut walk);
                }
            }
        }
        if walk.full {
            let (watched, unwatched) = (self.dirs.watched(), self.unwatched.len());
            walk.report.out_of_watches = Some(OutOfWatches { limit: max_user_watches().ok(), watched, unwatched });
        }
        walk.report
    }

    /// Watches one directory, then reads it; gives its open listing and its directories. `None`:
    /// gone, or not ours.
    fn visit(
        &mut self,
        dir: DirId,
        parent: Option<Rc<Dir>>,
        rules: &Rules<'_>,
        walk: &mut Walk,
    ) -> io::Result<Option<(Dir, Vec<DirId>)>> {
        let opened = match &parent {
            Some(parent) => open_dir(parent.as_fd(), path::base(&walk.path), OFlag::O_RDONLY),
            None => self.open_from_root(&walk.path),
        };
        let fd = match opened {
            // ENOTDIR and ELOOP: something else has the name now, perhaps a symlink.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if dir != Dirs::ROOT => {
                walk.report.gone += 1;
                self.forget(dir, true);
                return Ok(None);
            }
            other => other?,
        };
        let dev = fstat(&fd)?.st_dev;
        if dev != self.root_dev && !(rules.cross)(dev) {
            self.forget(dir, true);
            return Ok(None);
        }
        if walk.full && self.dirs.wd(dir).is_none() {
            return Err(Errno::ENOSPC.into());
        }
        let wd = self.inotify.watch(fd.as_fd(), dir == Dirs::ROOT).inspect_err(|error| {
            walk.full |= error.raw_os_error() == Some(libc::ENOSPC);
        })?;
        match self.dirs.claim(dir, wd) {
            Some(before) if before == wd => {}
            before => {
                walk.report.added += 1;
                // Another directory has the name now. Where the old one went is in the queue, and
                // watches it again there.
                if let Some(before) = before {
                    self.inotify.unwatch(before);
                }
            }
        }
        self.unwatched.remove(&dir);
        let mut listing = Dir::from_fd(fd)?;
        let below = self.read(dir, &mut listing, rules, walk)?;
        Ok(Some((listing, below)))
    }

    /// The directories in `listing`, as children of `dir`; forgets the children that are not there
    /// any more.
    fn read(&mut self, dir: DirId, listing: &mut Dir, rules: &Rules<'_>, walk: &mut Walk) -> io::Result<Vec<DirId>> {
        let mut below = Vec::new();
        let at = walk.path.len();
        // Which entries may be directories; asked for after the listing, which borrows the
        // descriptor.
        let mut names: Vec<(Vec<u8>, bool)> = Vec::new();
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            match entry.file_type() {
                _ if name == b"." || name == b".." => {}
                Some(Type::Directory) => names.push((name.to_vec(), true)),
                // Some filesystems do not report it.
                None => names.push((name.to_vec(), false)),
                Some(_) => {}
            }
        }
        for (name, sure) in names {
            if !sure && !is_dir(listing.as_fd(), &name) {
                continue;
            }
            walk.path.truncate(at);
            path::push(&mut walk.path, &name);
            if !(rules.excluded)(&walk.path, true) {
                let child = self.dirs.child_or_insert(dir, &name);
                self.dirs.stamp(child, self.walks);
                below.push(child);
            }
        }
        walk.path.truncate(at);
        for gone in self.dirs.children_without(dir, self.walks) {
            self.forget(gone, true);
        }
        Ok(below)
    }

    fn lose(&mut self, dir: DirId, error: io::Error, walk: &mut Walk) {
        self.unwatched.insert(dir);
        walk.report.lost.push((RelPath::from_normal(walk.path.as_slice()), error));
    }

    /// Opens a directory by its path, one component at a time: no symlink is followed, and no
    /// length is too long.
    fn open_from_root(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        let mut names = path.split(|&b| b == b'/').filter(|name| !name.is_empty()).peekable();
        let mut at = None::<OwnedFd>;
        while let Some(name) = names.next() {
            let how = if names.peek().is_some() { OFlag::O_PATH } else { OFlag::O_RDONLY };
            at = Some(open_dir(at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd), name, how)?);
        }
        match at {
            Some(fd) => Ok(fd),
            // A fresh one: a listing moves the position of its descriptor.
            None => open_dir(self.root.as_fd(), b".", OFlag::O_RDONLY),
        }
    }
}

/// What a walk carries along.
struct Walk {
    report: WatchReport,
    /// The path of the directory at hand.
    path: Vec<u8>,
    /// The kernel gives no more watches, so none are requested.
    full: bool,
}

fn open_dir(parent: BorrowedFd<'_>, name: &[u8], how: OFlag) -> nix::Result<OwnedFd> {
    let flags = how | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
}

fn is_dir(parent: BorrowedFd<'_>, name: &[u8]) -> bool {
    fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

/// An event of an entry that is left out: of its directory only the times changed, if that.
fn left_out(path: &[u8], seen: Seen, rules: &Rules<'_>, out: &mut dyn FnMut(&[u8], Seen)) {
    let dir = path::parent(path).unwrap_or_default();
    if seen.changes_dir() && !(rules.excluded)(dir, true) {
        out(dir, Seen::DirTimes);
    }
}

#[cfg(test)]
#[path = "inotify_tests.rs"]
mod tests;
