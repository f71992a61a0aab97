//! The walk itself: a stack of directories to read, some threads, and the rules of the module
//! above.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};

use crossbeam::channel::{Sender, bounded};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::{Finding, Options, Progress, ScanError, Scope};
use crate::dirty::Kind;
use crate::path;
use crate::state::{Dirs, Object, Place, Wall, proven};
use crate::sys::dirent::{Listing, Type};
use crate::sys::handle::{FsId, Handle, name_to_handle};
use crate::sys::statx::{Paths, StatBrief, Statter, stat_fd};

/// How deep the walk goes. Each level holds a descriptor per thread; 1,024 are what a process has
/// by default.
pub(crate) const MAX_DEPTH: usize = 200;

/// Names looked up together.
const BATCH: usize = 2048;
/// Lists of findings that wait for the caller.
const QUEUE: usize = 64;

/// What an earlier run knew.
#[derive(Clone, Copy)]
pub(super) struct Old<'a> {
    pub(crate) dirs: &'a Dirs,
    pub(crate) complete_at: Wall,
    pub(crate) since: Wall,
}

pub(super) struct Context<'a> {
    pub scope: Scope<'a>,
    /// `None`: only the directories are wanted.
    pub old: Option<Old<'a>>,
    /// For its hashes.
    pub dirs: &'a Dirs,
    pub progress: &'a Progress,
}

/// What one thread found.
#[derive(Default)]
pub(super) struct Found {
    /// `None`: known since the end of the walk.
    pub(crate) places: Vec<(Place, Object, Option<Wall>)>,
    pub(crate) unreadable: u64,
    pub(crate) mounts_skipped: u64,
    pub(crate) newest: Option<Wall>,
}

/// A directory that was opened, for those below it.
struct Dir {
    fd: OwnedFd,
    path: Vec<u8>,
    handle: Handle,
    fs: FsId,
    ctime: Wall,
    depth: usize,
    /// Something above is reported as `Subtree` to every target already.
    covered: bool,
}

/// A directory to be read.
struct Job {
    parent: Arc<Dir>,
    name: Box<[u8]>,
    /// Something is mounted there: this filesystem.
    mount: Option<FsId>,
}

/// Findings on their way, their paths in one piece.
#[derive(Default)]
struct FindingBatch {
    bytes: Vec<u8>,
    items: Vec<(Kind, Wall, usize)>,
}

impl FindingBatch {
    fn add(&mut self, dir: &[u8], name: &[u8], kind: Kind, since: Wall) {
        self.bytes.extend_from_slice(dir);
        if !dir.is_empty() && !name.is_empty() {
            self.bytes.push(b'/');
        }
        self.bytes.extend_from_slice(name);
        self.items.push((kind, since, self.bytes.len()));
    }

    fn drain(&mut self, out: &mut dyn FnMut(Finding<'_>)) {
        let mut start = 0;
        for (kind, since, end) in self.items.drain(..) {
            out(Finding { path: &self.bytes[start..end], kind, since });
            start = end;
        }
        self.bytes.clear();
    }
}

/// Whether something is mounted on a directory, on a kernel that says so with no other call.
fn is_mounted(dir: &Dir, name: &[u8]) -> bool {
    let name = Path::new(OsStr::from_bytes(name));
    match name_to_handle(dir.fd.as_fd(), name) {
        Ok(handle) => handle.mount_id != dir.handle.mount_id,
        // Only another filesystem makes none.
        Err(error) => error.raw_os_error() == Some(libc::EOPNOTSUPP),
    }
}

/// Opens a directory for reading, without following a link and, where permitted, without touching
/// its access time.
pub(super) fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        // open(2): neither the owner nor CAP_FOWNER.
        Err(Errno::EPERM) => openat(parent, name, flags, Mode::empty()),
        other => other,
    }
}

/// Walks; what is found is given to `out` on this thread.
pub(super) fn walk(cx: &Context<'_>, options: Options, out: &mut dyn FnMut(Finding<'_>)) -> Result<Vec<Found>, ScanError> {
    let mut first = Walker::new(cx);
    let mut jobs = Vec::new();
    first.root(&mut jobs)?;
    first.batch.drain(out);
    if options.threads <= 1 {
        while let Some(job) = jobs.pop() {
            if cx.progress.stopped() {
                return Err(ScanError::Stopped);
            }
            first.read(job, &mut jobs);
            first.batch.drain(out);
        }
        return Ok(vec![first.found]);
    }
    let shared = Shared { state: Mutex::new(Stack { jobs, busy: 0 }), more: Condvar::new() };
    let mut walkers = vec![first];
    for _ in 1..options.threads {
        walkers.push(Walker::new(cx));
    }
    let found = std::thread::scope(|scope| {
        let (sender, batches) = bounded::<FindingBatch>(QUEUE);
        let threads: Vec<_> = walkers
            .into_iter()
            .map(|walker| {
                let (sender, shared) = (sender.clone(), &shared);
                std::thread::Builder::new().name("scan".into()).spawn_scoped(scope, move || walker.work(shared, sender))
            })
            .collect();
        drop(sender);
        for mut part in batches {
            part.drain(out);
        }
        threads
            .into_iter()
            .map(|thread| match thread.map_err(ScanError::System)?.join() {
                Ok(found) => Ok(found),
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect::<Result<Vec<Found>, ScanError>>()
    })?;
    if cx.progress.stopped() { Err(ScanError::Stopped) } else { Ok(found) }
}

struct Stack {
    /// The last one is taken first, so few directories are open at a time.
    jobs: Vec<Job>,
    /// Threads that are reading a directory and may add jobs.
    busy: usize,
}

struct Shared {
    state: Mutex<Stack>,
    more: Condvar,
}

/// Ends a thread's turn, also when it panics: the others must not wait for it.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // The lock is only held around pushes and pops, which leave the stack whole.
        let mut stack = self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        stack.busy -= 1;
        if stack.busy == 0 && stack.jobs.is_empty() {
            self.0.more.notify_all();
        }
    }
}

struct Walker<'a> {
    cx: &'a Context<'a>,
    statter: Statter,
    listing: Listing,
    paths: Paths,
    types: Vec<Type>,
    path: Vec<u8>,
    batch: FindingBatch,
    found: Found,
}

impl<'a> Walker<'a> {
    fn new(cx: &'a Context<'a>) -> Walker<'a> {
        Walker {
            cx,
            statter: Statter::new(),
            listing: Listing::default(),
            paths: Paths::default(),
            types: Vec::new(),
            path: Vec::new(),
            batch: FindingBatch::default(),
            found: Found::default(),
        }
    }

    fn work(mut self, shared: &Shared, sender: Sender<FindingBatch>) -> Found {
        let mut more = Vec::new();
        loop {
            let job = {
                let mut stack = shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                loop {
                    if self.cx.progress.stopped() {
                        stack.jobs.clear();
                    }
                    if let Some(job) = stack.jobs.pop() {
                        stack.busy += 1;
                        break job;
                    }
                    if stack.busy == 0 {
                        return self.found;
                    }
                    stack = shared.more.wait(stack).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
            };
            let turn = Turn(shared);
            self.read(job, &mut more);
            if !more.is_empty() {
                let mut stack = shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                stack.jobs.append(&mut more);
                shared.more.notify_all();
            }
            drop(turn);
            if !self.batch.items.is_empty() {
                // The receiver ends after every sender.
                let _ = sender.send(std::mem::take(&mut self.batch));
            }
        }
    }

    fn root(&mut self, jobs: &mut Vec<Job>) -> Result<(), ScanError> {
        let scope = self.cx.scope;
        let fd = scope.open_root()?;
        let stat = stat_fd(fd.as_fd()).map_err(|errno| scope.failed(errno))?;
        let handle = name_to_handle(fd.as_fd(), Path::new("")).map_err(|e| scope.failed(e))?;
        let ctime = Wall::from(stat.ctime);
        self.found.newest = self.found.newest.max(Some(ctime));
        if self.cx.old.is_some_and(|old| ctime >= old.since) {
            self.batch.add(b"", b"", Kind::Contents, ctime);
        }
        let dir = Dir { fd, path: Vec::new(), handle, fs: scope.fs, ctime, depth: 0, covered: false };
        self.list(Arc::new(dir), jobs);
        Ok(())
    }

    /// What cannot be read is reported: it may differ.
    fn unreadable(&mut self, dir: &Dir, name: &[u8], kind: Kind) {
        self.found.unreadable += 1;
        if !dir.covered && self.cx.old.is_some() {
            self.batch.add(&dir.path, name, kind, Wall::MAX);
        }
    }

    fn read(&mut self, job: Job, jobs: &mut Vec<Job>) {
        let parent = &*job.parent;
        if parent.depth + 1 >= MAX_DEPTH {
            // Not recorded either, so reported again next time.
            return self.unreadable(parent, &job.name, Kind::Subtree);
        }
        let fs = job.mount.unwrap_or(parent.fs);
        let opened = open_dir(parent.fd.as_fd(), &job.name).and_then(|fd| {
            let stat = stat_fd(fd.as_fd())?;
            Ok((fd, stat))
        });
        let (fd, stat) = match opened {
            Ok(opened) => opened,
            // It went, or is no directory any more, since its name was read: an event says so.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return,
            Err(_) => return self.unreadable(parent, &job.name, Kind::Subtree),
        };
        let Ok(handle) = name_to_handle(fd.as_fd(), Path::new("")) else {
            return self.unreadable(parent, &job.name, Kind::Subtree);
        };
        // A mount came or went since the name was looked up.
        let mounted = stat.mount_root.unwrap_or(handle.mount_id != parent.handle.mount_id);
        if mounted != job.mount.is_some() || (mounted && proven(fd.as_fd()).is_err()) {
            return self.unreadable(parent, &job.name, Kind::Subtree);
        }
        let ctime = Wall::from(stat.ctime);
        self.found.newest = self.found.newest.max(Some(ctime));
        let place = self.cx.dirs.place(parent.fs, parent.handle.as_ref(), &job.name);
        let object = self.cx.dirs.object(fs, handle.as_ref());
        let mut covered = parent.covered;
        let mut since = None;
        if let Some(old) = &self.cx.old {
            since = old.dirs.known_since(place, object).filter(|_| {
                let away = ctime >= old.complete_at && parent.ctime >= old.complete_at;
                // A mount comes and goes without leaving a time behind.
                let mounted = job.mount.is_some() && old.complete_at < Wall::MAX;
                !away && !mounted
            });
            if !covered {
                match since {
                    None => {
                        self.batch.add(&parent.path, &job.name, Kind::Subtree, Wall::MAX);
                        covered = true;
                    }
                    Some(since) => {
                        let moved = since >= old.since;
                        if moved {
                            self.batch.add(&parent.path, &job.name, Kind::Subtree, since);
                        }
                        // A target that needs an earlier change has it with the subtree.
                        if ctime >= old.since && !(moved && since >= ctime) {
                            self.batch.add(&parent.path, &job.name, Kind::Contents, ctime);
                        }
                    }
                }
            }
        }
        self.found.places.push((place, object, since));
        let mut path = parent.path.clone();
        path::push(&mut path, &job.name);
        let dir = Dir { fd, path, handle, fs, ctime, depth: parent.depth + 1, covered };
        drop(job);
        self.list(Arc::new(dir), jobs);
    }

    /// Reads the names of a directory and examines what they name.
    fn list(&mut self, dir: Arc<Dir>, jobs: &mut Vec<Job>) {
        self.cx.progress.dirs.fetch_add(1, Ordering::Relaxed);
        let files_matter = self.cx.old.is_some() && !dir.covered;
        let filter = self.cx.scope.filter;
        let mut listing = std::mem::take(&mut self.listing);
        let mut entries = 0;
        loop {
            let piece = match listing.next(dir.fd.as_fd()) {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                // Removed meanwhile: an event says so.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                Err(_) => {
                    self.unreadable(&dir, b"", Kind::Subtree);
                    break;
                }
            };
            for (name, kind) in piece {
                if kind != Type::Unknown && self.excluded(filter, &dir, name, kind == Type::Dir) {
                    continue;
                }
                entries += 1;
                if files_matter || kind != Type::Other {
                    self.paths.push(name, None);
                    self.types.push(kind);
                    if self.paths.len() >= BATCH {
                        self.examine(&dir, jobs);
                    }
                }
            }
            self.examine(&dir, jobs);
        }
        self.listing = listing;
        self.cx.progress.entries.fetch_add(entries, Ordering::Relaxed);
    }

    fn excluded(&mut self, filter: &crate::filter::Filter, dir: &Dir, name: &[u8], is_dir: bool) -> bool {
        if filter.is_empty() {
            return false;
        }
        self.path.clear();
        self.path.extend_from_slice(&dir.path);
        path::push(&mut self.path, name);
        filter.excludes_leaf(&self.path, is_dir)
    }

    fn examine(&mut self, dir: &Arc<Dir>, jobs: &mut Vec<Job>) {
        let paths = std::mem::take(&mut self.paths);
        let types = std::mem::take(&mut self.types);
        let stats = self.statter.stat_all(dir.fd.as_fd(), &paths);
        for (at, (stat, kind)) in stats.into_iter().zip(&types).enumerate() {
            let name = paths.get(at);
            match stat {
                Ok(stat) => {
                    // The type of the listing counts for nothing now that the thing itself was
                    // seen.
                    let changed = *kind == Type::Unknown || stat.is_dir() != (*kind == Type::Dir);
                    if !(changed && self.excluded(self.cx.scope.filter, dir, name, stat.is_dir())) {
                        self.seen(dir, name, &stat, jobs);
                    }
                }
                Err(Errno::ENOENT) => {} // an event reports it
                Err(_) => self.unreadable(dir, name, if *kind == Type::Other { Kind::Entry } else { Kind::Subtree }),
            }
        }
        (self.paths, self.types) = (paths, types);
        self.paths.clear();
        self.types.clear();
    }

    fn seen(&mut self, dir: &Arc<Dir>, name: &[u8], stat: &StatBrief, jobs: &mut Vec<Job>) {
        if !stat.is_dir() {
            let ctime = Wall::from(stat.ctime);
            self.found.newest = self.found.newest.max(Some(ctime));
            if !dir.covered && self.cx.old.is_some_and(|old| ctime >= old.since) {
                self.batch.add(&dir.path, name, Kind::Entry, ctime);
            }
            return;
        }
        let mut mount = None;
        if stat.mount_root.unwrap_or_else(|| is_mounted(dir, name)) {
            let mut path = dir.path.clone();
            path::push(&mut path, name);
            mount = self.cx.scope.mounts.iter().find(|(at, _)| **at == *path).map(|(_, fs)| *fs);
            if mount.is_none() {
                self.found.mounts_skipped += 1;
                return;
            }
        }
        jobs.push(Job { parent: Arc::clone(dir), name: name.into(), mount });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_shows_without_word_of_it_by_stat() {
        let dir = |path: &Path| {
            let fd = OwnedFd::from(std::fs::File::open(path).unwrap());
            let handle = name_to_handle(fd.as_fd(), Path::new("")).ok()?;
            Some(Dir { fd, path: Vec::new(), handle, fs: FsId(0), ctime: Wall::MAX, depth: 0, covered: false })
        };
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("d")).unwrap();
        // Where the filesystem makes handles.
        for (path, name, want) in
            [(place.path(), "d", false), (Path::new("/"), "proc", true), (Path::new("/proc"), "self", false)]
        {
            if let Some(dir) = dir(path) {
                assert_eq!(is_mounted(&dir, name.as_bytes()), want, "{name} in {}", path.display());
            }
        }
    }
}
