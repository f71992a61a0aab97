//! inotify(7): one queue, a watch for every directory. The fallback where a filesystem cannot be
//! marked.

use super::handle::fd_link;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify as NixInotify, WatchDescriptor};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A watch, until the kernel or we remove it. The kernel numbers them upwards and does not use a
/// number again for a long time (`idr_alloc_cyclic`, Linux 2.6.39; 2^31 watches later), so an event
/// of a removed watch is known as such.
pub(crate) type Wd = WatchDescriptor;

/// What is requested on every directory: names that come, go and move, files closed after writing,
/// attributes. Not through symlinks, and only directories. What happens to a file under a name that
/// is removed already is reported too (no `IN_EXCL_UNLINK`): the file may have other names.
const MASK: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_ONLYDIR);

/// The same, and the directory's own move; for the root of a tree, which no watched parent reports.
/// Not `IN_DELETE_SELF`: it comes when the last descriptor is closed, and who watches a root holds
/// one.
const MASK_ROOT: AddWatchFlags = MASK.union(AddWatchFlags::IN_MOVE_SELF);

/// An inotify queue; close-on-exec, non-blocking.
#[derive(Debug)]
pub(crate) struct Inotify {
    queue: NixInotify,
    writes: bool,
}

impl Inotify {
    /// A new queue without watches. `writes`: reports each write(2), truncate(2) and mtime set
    /// alone, too.
    ///
    /// # Errors
    /// `EMFILE` at `fs.inotify.max_user_instances`, `ENFILE`, `ENOMEM`.
    pub(crate) fn new(writes: bool) -> io::Result<Inotify> {
        Ok(Inotify { queue: NixInotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?, writes })
    }

    /// Watches the directory that `dir` is open on, whatever its path is by now. A directory that
    /// is watched already keeps its watch, which is returned again. `root`: report its own move
    /// too.
    ///
    /// # Errors
    /// `ENOSPC` at `fs.inotify.max_user_watches`, `ENOMEM`, `ENOENT` without /proc, `EACCES`
    /// without read permission.
    pub(crate) fn watch(&self, dir: BorrowedFd<'_>, root: bool) -> io::Result<Wd> {
        // inotify has no call that takes a descriptor; the link under /proc leads to the open
        // directory itself.
        let writes = if self.writes { AddWatchFlags::IN_MODIFY } else { AddWatchFlags::empty() };
        Ok(self.queue.add_watch(fd_link(dir).as_str(), writes | if root { MASK_ROOT } else { MASK })?)
    }

    /// Watches that are set from here on, or set again, report writes, too.
    pub(crate) fn report_writes(&mut self) {
        self.writes = true;
    }

    /// Removes a watch. One that the kernel has removed already is fine.
    pub(crate) fn unwatch(&self, wd: Wd) {
        match self.queue.rm_watch(wd) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => tracing::debug!(%errno, wd = wd.as_raw(), "inotify_rm_watch failed"),
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// The sysctl `fs.inotify.max_user_watches`: how many watches one user may have, over all
/// processes.
///
/// # Errors
/// Those of reading /proc/sys.
pub(crate) fn max_user_watches() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches")?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "fs.inotify.max_user_watches is not a number"))
}
