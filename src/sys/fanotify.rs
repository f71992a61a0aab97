//! fanotify(7) groups with filesystem marks: one mark reports every change on a filesystem,
//! whatever its size.
//!
//! Promises: asks for the most able form of events this kernel has, found by trying
//! ([`Group::open`]), and says which ([`Group::features`]). Does not read events; the descriptor
//! ([`AsFd`]) is for the reader. Records are decoded by `source::fan_decode`.
//!
//! What the mask asks for, and why not more: names that come, go and move; a file closed after
//! writing; changed attributes. Nothing about reading, and `FAN_MODIFY` only when asked for
//! ([`Options::writes`]): it costs every writer on the filesystem 1.1 µs per write(2) (measured,
//! 6.18) unless the file is muted (`sys::ignore`). So a process that only reads, as rsync's sender
//! and the daemon's scans do, raises no events here: opening, reading, atime updates and directory
//! listings are all outside the mask (tested).
//!
//! Gives up without [`Options::writes`], silently (no event at all, measured on 6.18, ext4, xfs,
//! btrfs, tmpfs; all of it raises `FAN_MODIFY` only, but for writes through a mapping, which raise
//! nothing before the end):
//! - truncate(2) by path of a file that no process has open for writing (ftruncate(2) shows at the
//!   close);
//! - a changed mtime with the atime left alone (`UTIME_OMIT`, `touch -m` of a directory; both
//!   together raise `FAN_ATTRIB`);
//! - writes to a file that stays open, or stays mapped, until it is closed and unmapped.
//!
//! A later change or a full reconcile brings these. Gives up too: filesystems that cannot be
//! marked, which then go to inotify:
//! - `ENODEV`: no fsid (FUSE without one, some network filesystems); `EOPNOTSUPP`: no decodable
//!   file handles (NFS, overlayfs without `nfs_export`).
//! - `EXDEV`: a btrfs *subvolume* (so `/home` of many distributions), whose fsid is not that of the
//!   filesystem's root. A mark through any mount of the top level (`subvolid=5`, which need not
//!   stay mounted or be attached) reports all subvolumes: the records carry the top level's fsid,
//!   and their handles open through the subvolume's mount (measured on 6.18).
#![allow(unsafe_code)]

use fanotify::low_level::{AT_FDCWD, fanotify_init, fanotify_mark};
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

// Read group of the flags, with the kernel that brought each (fanotify_init(2), fanotify_mark(2)).
/// Class without permission events; the only one that may report names and ids (2.6.37).
const FAN_CLASS_NOTIF: u32 = libc::FAN_CLASS_NOTIF;
/// No limit of 16,384 (`fs.fanotify.max_queued_events`) queued events; needs `CAP_SYS_ADMIN`
/// (2.6.37).
const FAN_UNLIMITED_QUEUE: u32 = libc::FAN_UNLIMITED_QUEUE;
/// Each record names the directory by handle and the entry by name:
/// `FAN_REPORT_DIR_FID | FAN_REPORT_NAME` (5.9); and the changed object by its own handle:
/// `FAN_REPORT_FID` (5.1). Without the last the kernel drops, unseen, changes made through a file
/// handle whose directory it does not have in memory, which is how knfsd writes.
const FAN_REPORT_IDS: u32 = libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID;
/// The object's handle on create, delete and rename too (5.17). Makes the kernel merge the create
/// of a file with its close: before, one record had the handle and the other not.
const FAN_REPORT_TARGET_FID: u32 = libc::FAN_REPORT_TARGET_FID;

/// Directory entries that appear or go, `FAN_CREATE | FAN_DELETE` (5.1); a file closed after it was
/// open for writing, `FAN_CLOSE_WRITE` (2.6.37); changed attributes, `FAN_ATTRIB` (5.1); all of it
/// for directories too, `FAN_ONDIR` (2.6.37).
const MASK: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB | libc::FAN_ONDIR;
/// Both halves of a rename as two records that nothing ties together (5.1).
const MASK_MOVED: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// One record with the old and the new place (5.17). Stands alone: no `FAN_MOVED_*` comes besides
/// it unless asked for.
const MASK_RENAME: u64 = libc::FAN_RENAME;
/// Each write(2), truncate(2), and mtime set alone (2.6.37).
const MASK_WRITES: u64 = libc::FAN_MODIFY;

/// What to ask the kernel for; what it gave is in [`Features`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A queue without limit, so that a burst costs kernel memory (charged to the opener's memory
    /// cgroup) and not a rescan.
    pub unlimited_queue: bool,
    /// Renames as one record with both places.
    pub rename_events: bool,
    /// Changes to files while they are open, and those that no close follows.
    pub writes: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { unlimited_queue: true, rename_events: true, writes: false }
    }
}

/// What this kernel gave to a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// The queue has no limit; if false it overflows at `fs.fanotify.max_queued_events`.
    pub unlimited_queue: bool,
    /// Every record holds the object's own handle; if false only close and attribute records do.
    pub target_fid: bool,
    /// Renames come as one record; if false as `FAN_MOVED_FROM` and `FAN_MOVED_TO`.
    pub rename: bool,
}

/// Why there is no fanotify here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// fanotify_init(2) failed in every form.
    #[error("cannot open a fanotify group")]
    Open {
        /// What the kernel returned for the plainest form.
        source: io::Error,
    },
    /// The filesystem of `path` cannot be marked, or its mark cannot be removed.
    #[error("cannot {what} the filesystem of {path:?} with fanotify")]
    Mark {
        /// `watch` or `unwatch`.
        what: &'static str,
        /// Any directory on the filesystem.
        path: PathBuf,
        /// What the kernel returned.
        source: io::Error,
    },
}

impl Error {
    /// What the administrator can do, if there is something.
    pub(crate) fn help(&self) -> Option<&'static str> {
        let (Error::Open { source } | Error::Mark { source, .. }) = self;
        Some(match Errno::from_raw(source.raw_os_error()?) {
            Errno::EPERM => {
                "fanotify filesystem marks need CAP_SYS_ADMIN in the first user namespace; run as root, or watch with inotify"
            }
            Errno::ENOSYS => "this kernel is built without fanotify (CONFIG_FANOTIFY); watch with inotify",
            Errno::EINVAL => "fanotify with file names needs Linux 5.9; watch with inotify",
            Errno::EMFILE => "raise fs.fanotify.max_user_groups, or stop other fanotify users of this account",
            Errno::ENOSPC => "raise fs.fanotify.max_user_marks",
            Errno::EXDEV => "this is a btrfs subvolume, which cannot be marked; watch with inotify",
            Errno::ENODEV | Errno::EOPNOTSUPP => {
                "this filesystem has no fsid or no file handles, so it cannot be marked; watch with inotify"
            }
            _ => return None,
        })
    }

    /// The kernel's errno, to choose the fallback by.
    pub(crate) fn errno(&self) -> Option<i32> {
        let (Error::Open { source } | Error::Mark { source, .. }) = self;
        source.raw_os_error()
    }
}

/// A fanotify group: one event queue, any number of marked filesystems.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
    features: Features,
    writes: bool,
}

impl Group {
    /// Opens a group in the most able form this kernel and these privileges give; the descriptor is
    /// non-blocking and close-on-exec.
    ///
    /// Drop order: the object's handle on every record first (it only saves merging and lookups),
    /// then the unlimited queue. The directory's handle, the name, and the object's handle on a
    /// close are never dropped: see `FAN_REPORT_IDS`.
    ///
    /// # Errors
    /// [`Error::Open`]: `EINVAL` before Linux 5.9, `EPERM` before 5.13 without `CAP_SYS_ADMIN`,
    /// `EMFILE` at `fs.fanotify.max_user_groups`, `ENOSYS`.
    pub fn open(options: &Options) -> Result<Group, Error> {
        let mut last = Errno::EINVAL.into();
        for unlimited_queue in [true, false] {
            if unlimited_queue && !options.unlimited_queue {
                continue;
            }
            for target_fid in [true, false] {
                let flags = FAN_CLASS_NOTIF
                    | libc::FAN_CLOEXEC
                    | libc::FAN_NONBLOCK
                    // The process that sets ignore marks bounds them (2.6.37; needs CAP_SYS_ADMIN,
                    // as filesystem marks do).
                    | libc::FAN_UNLIMITED_MARKS
                    | FAN_REPORT_IDS
                    | if target_fid { FAN_REPORT_TARGET_FID } else { 0 }
                    | if unlimited_queue { FAN_UNLIMITED_QUEUE } else { 0 };
                // event_f_flags concern descriptors in events, of which a group with ids has none.
                match fanotify_init(flags, libc::O_RDONLY as u32) {
                    Ok(fd) => {
                        // SAFETY: fanotify_init succeeded, so `fd` is a new descriptor that nothing
                        // else owns.
                        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                        let rename = options.rename_events && knows_rename(fd.as_fd());
                        return Ok(Group {
                            fd,
                            features: Features { unlimited_queue, target_fid, rename },
                            writes: options.writes,
                        });
                    }
                    Err(error) => last = error,
                }
            }
        }
        Err(Error::Open { source: last })
    }

    /// What the kernel gave.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The events asked for at every mark.
    pub(crate) fn mask(&self) -> u64 {
        let renames = if self.features.rename { MASK_RENAME } else { MASK_MOVED };
        MASK | renames | if self.writes { MASK_WRITES } else { 0 }
    }

    /// Marks the whole filesystem that `dir` lies on: changes through any mount of it, inside or
    /// outside `dir`, raise events from here on. `dir` may hold any bytes; a symlink is followed.
    /// Marking twice is the same as once.
    ///
    /// # Errors
    /// [`Error::Mark`]; see the module's documentation for filesystems that refuse.
    pub fn mark_filesystem(&self, dir: &Path) -> Result<(), Error> {
        self.mark(libc::FAN_MARK_ADD, AT_FDCWD, dir).map_err(|source| Error::Mark { what: "watch", path: dir.into(), source })
    }

    /// As [`Group::mark_filesystem`], for an open directory (`O_PATH` will do): what was opened is
    /// what gets marked, even if its path leads elsewhere by now.
    ///
    /// # Errors
    /// [`Error::Mark`], with `shown` as its path.
    pub(crate) fn mark_filesystem_of(&self, dir: BorrowedFd<'_>, shown: &Path) -> Result<(), Error> {
        self.mark(libc::FAN_MARK_ADD, dir.as_raw_fd(), Path::new(".")).map_err(|source| Error::Mark {
            what: "watch",
            path: shown.into(),
            source,
        })
    }

    /// Marks that are set from here on report writes, too; one that is set again reports them in
    /// addition.
    pub(crate) fn report_writes(&mut self) {
        self.writes = true;
    }

    fn mark(&self, what: u32, dirfd: i32, path: &Path) -> io::Result<()> {
        // The binding copies the bytes and appends a NUL, so one inside would cut the path short,
        // silently.
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Errno::EINVAL.into());
        }
        let flags = what | libc::FAN_MARK_FILESYSTEM | libc::FAN_MARK_ONLYDIR;
        fanotify_mark(self.fd.as_raw_fd(), flags, self.mask(), dirfd, path)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Group> for OwnedFd {
    fn from(group: Group) -> OwnedFd {
        group.fd
    }
}

/// Whether the kernel knows `FAN_RENAME` for this group. fanotify_mark(2) judges the mask before it
/// looks the path up, so a mark on a descriptor that cannot be one says `EINVAL` for an unknown
/// mask and `EBADF` for a known one, and marks nothing.
fn knows_rename(group: BorrowedFd<'_>) -> bool {
    const NO_DESCRIPTOR: i32 = -1;
    match fanotify_mark(group.as_raw_fd(), libc::FAN_MARK_ADD, MASK_RENAME | libc::FAN_ONDIR, NO_DESCRIPTOR, Path::new(".")) {
        Err(error) => error.raw_os_error() == Some(libc::EBADF),
        Ok(()) => false,
    }
}

#[cfg(test)]
#[path = "fanotify_tests.rs"]
mod tests;
