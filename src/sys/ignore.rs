//! Ignore marks: which events of an object, that a filesystem mark covers, a fanotify group does
//! not want.
//!
//! An ignored event is never built nor queued, so neither the writer nor the reader pays for it;
//! what is left to the writer is the check-up of the mark. Promises:
//! - Marks are *evictable* where the kernel has that (Linux 5.19): they do not hold the inode in
//!   memory, and are gone with it. So a mark may be missing at any time, never stay too long, and
//!   one that is missing only costs events.
//! - A mark belongs to the inode, not to its number: one that is deleted takes its mark along, and
//!   the object that gets its number next raises events (tested).
//! - [`Ignorer::unmute_all`] takes every ignore mark of the group away in one call; the filesystem
//!   marks stay.
//!
//! What a group does not receive, by kernel: writes to a file from 2.6.37 on
//! (`FAN_MARK_IGNORED_MASK` that survives the write), and what happens to the entries of a
//! directory from 6.0 on (`FAN_MARK_IGNORE`, which takes `FAN_EVENT_ON_CHILD`).

use super::fanotify::Group;
use super::handle::fd_link;
use fanotify::low_level::{AT_FDCWD, fanotify_mark};
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A change of an object that is open: write(2), truncate(2), and an mtime set alone.
const WRITES: u64 = libc::FAN_MODIFY;
/// What happens to a directory's entries that are no directories themselves (no `FAN_ONDIR`).
/// Renames are not among it: one may bring something to where it matters, and the same event names
/// the other directory.
const ENTRIES: u64 =
    libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB | libc::FAN_MODIFY | libc::FAN_EVENT_ON_CHILD;

/// Sets and removes ignore marks of one group.
#[derive(Debug)]
pub struct Ignorer {
    group: OwnedFd,
    /// Flags of an ignore mark on a file.
    file: u32,
    /// Flags of one on a directory; `None` before Linux 6.0.
    entries: Option<u32>,
    evictable: bool,
}

impl Ignorer {
    /// For the marks of `group`. Finds by trying what the kernel has.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new(group: &Group) -> io::Result<Ignorer> {
        let group = group.as_fd().try_clone_to_owned()?;
        let evictable = if knows(&group, libc::FAN_MARK_EVICTABLE | LEGACY) { libc::FAN_MARK_EVICTABLE } else { 0 };
        let entries = Some(libc::FAN_MARK_IGNORE_SURV | evictable).filter(|&flags| knows(&group, flags));
        // One inode takes one kind of ignore mark, never both (EEXIST), so files get what
        // directories get.
        Ok(Ignorer { group, file: entries.unwrap_or(LEGACY | evictable), entries, evictable: evictable != 0 })
    }

    /// One for whose group the kernel refuses everything.
    #[cfg(test)]
    pub(crate) fn broken() -> Ignorer {
        let group = std::fs::File::open("/dev/null").map(OwnedFd::from);
        Ignorer { group: group.expect("it is there"), file: LEGACY, entries: Some(libc::FAN_MARK_IGNORE_SURV), evictable: false }
    }

    /// Whether the entries of a directory can be ignored (Linux 6.0).
    pub fn can_ignore_entries(&self) -> bool {
        self.entries.is_some()
    }

    /// Whether marks give way when memory is short (Linux 5.19); if not, each holds its inode in
    /// memory.
    pub fn is_evictable(&self) -> bool {
        self.evictable
    }

    /// Mutes writes to `file`; closing it after writing still raises an event. Any descriptor,
    /// `O_PATH` too.
    ///
    /// # Errors
    /// `ENOSPC` at `fs.fanotify.max_user_marks`, `ENOMEM`, `ENOENT` without /proc.
    pub fn ignore_writes(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.mark(libc::FAN_MARK_ADD | self.file, WRITES, file)
    }

    /// Unmutes writes to `file`: of each that begins after this call. One without a mark is fine.
    ///
    /// # Errors
    /// `ENOENT` without /proc is taken for a missing mark; none other is known.
    pub(crate) fn unmute_writes(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        match self.mark(libc::FAN_MARK_REMOVE | self.file & !libc::FAN_MARK_EVICTABLE, WRITES, file) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Mutes files that are made, written, changed or deleted in `dir` itself. Still reported:
    /// renames from and to it, everything about the directories in it and what is below those, and
    /// `dir`'s own attributes, move and end.
    ///
    /// # Errors
    /// `EOPNOTSUPP` before Linux 6.0; otherwise as [`Ignorer::ignore_writes`].
    pub fn ignore_entries(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let flags = self.entries.ok_or(Errno::EOPNOTSUPP)?;
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR | flags;
        fanotify_mark(self.group.as_raw_fd(), flags, ENTRIES, dir.as_raw_fd(), Path::new("."))
    }

    /// Unmutes `dir`. One without a mark is fine. Any descriptor, `O_PATH` too.
    ///
    /// # Errors
    /// As [`Ignorer::unmute_writes`].
    pub(crate) fn unmute_entries(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let Some(flags) = self.entries else { return Ok(()) };
        match self.mark(libc::FAN_MARK_REMOVE | libc::FAN_MARK_ONLYDIR | flags & !libc::FAN_MARK_EVICTABLE, ENTRIES, dir) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Takes all ignore marks away.
    ///
    /// # Errors
    /// None is known; then nothing is ignored less than before.
    pub(crate) fn unmute_all(&self) -> io::Result<()> {
        // Without a mark type: the marks on files and directories, and not those on filesystems.
        fanotify_mark(self.group.as_raw_fd(), libc::FAN_MARK_FLUSH, 0, AT_FDCWD, Path::new("."))
    }

    fn mark(&self, flags: u32, mask: u64, object: BorrowedFd<'_>) -> io::Result<()> {
        // fanotify_mark(2) takes no O_PATH descriptor for the object itself; the link under /proc
        // leads to it.
        fanotify_mark(self.group.as_raw_fd(), flags, mask, AT_FDCWD, Path::new(&fd_link(object)))
    }
}

/// An ignore mark that a write does not clear, in the form every kernel has (2.6.37).
const LEGACY: u32 = libc::FAN_MARK_IGNORED_MASK | libc::FAN_MARK_IGNORED_SURV_MODIFY;

/// Whether the kernel knows these flags. They are judged before the path, so that a descriptor that
/// cannot be one gives `EINVAL` for unknown flags and `EBADF` for known ones, and nothing is
/// marked.
fn knows(group: &OwnedFd, flags: u32) -> bool {
    const NO_DESCRIPTOR: i32 = -1;
    let flags = libc::FAN_MARK_ADD | flags;
    match fanotify_mark(group.as_raw_fd(), flags, libc::FAN_MODIFY, NO_DESCRIPTOR, Path::new(".")) {
        Err(error) => error.raw_os_error() == Some(libc::EBADF),
        Ok(()) => false,
    }
}

#[cfg(test)]
#[path = "ignore_tests.rs"]
mod tests;
