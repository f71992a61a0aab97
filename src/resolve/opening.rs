//! What it means that an object cannot be opened by its handle: a table of error codes by
//! filesystem.
//!
//! An event names an object as it was when the event was queued. By the time that the handle is
//! opened the object may be deleted, and its inode number may be in use again; filesystems answer
//! that in different ways. Only an answer that says nothing about the object leaves it unknown: it
//! is sought below the source by its handle ([`super::nameless`]). If it is found there it is
//! compared, with all below it; if it lies outside, nothing is. That walk waits for a descriptor,
//! if that is what lacks.
//!
//! | error | filesystem | meaning |
//! | --- | --- | --- |
//! | ESTALE | all | deleted, or its inode number is in use by another object |
//! | ENOENT | all (btrfs, FUSE) | deleted |
//! | ENOMEM | those that use `iget_locked` (ext2, ext3, ext4, f2fs) | at this moment the inode number is given to a new object (measured with ext4 on 6.18: up to 1,500 a second while directories are made and removed): tried again, then deleted |
//! | ENOMEM | others | tried again, then sought |
//! | EAGAIN, EBUSY | all | tried again, then sought |
//! | EMFILE, ENFILE | all | no free descriptor: sought as soon as there is one |
//! | EIO, EUCLEAN, EBADMSG | all (ext4, xfs, btrfs) | the disk cannot be read there: sought; what the walk cannot read either is compared by itself |
//! | EPERM, EACCES | all | the capability is missing, which is logged once: sought, which needs none |
//! | everything else | all | sought |

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, fstatfs};

use crate::sys::handle::{HandleRef, open_by_handle};

/// Attempts before an answer that may pass is taken for the last one.
const TRIES: u32 = 6;
/// The pause before the third attempt and those after it; the second follows at once.
const PAUSE: Duration = Duration::from_micros(200);
/// `F2FS_SUPER_MAGIC` of linux/magic.h.
const F2FS: u32 = 0xF2F5_2010;

/// Filesystems that differ in what they answer, or in what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Inodes come from `iget_locked`, which answers "no memory" for a number that is being given
    /// to a new inode.
    IgetLocked,
    /// A directory can be created with content in it: a snapshot.
    Btrfs,
    /// All others.
    Other,
}

impl Family {
    /// That of the filesystem on which `fd` lies; [`Family::Other`] where it does not say.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Family {
        fstatfs(fd).map_or(Family::Other, |stat| Family::of_type(stat.filesystem_type()))
    }

    fn of_type(kind: FsType) -> Family {
        // The type of the number differs between architectures and C libraries.
        let f2fs = kind.0 as u32 == F2FS;
        match kind {
            // ext2 and ext3 have the same.
            EXT4_SUPER_MAGIC => Family::IgetLocked,
            BTRFS_SUPER_MAGIC => Family::Btrfs,
            _ if f2fs => Family::IgetLocked,
            _ => Family::Other,
        }
    }
}

/// What an error says about the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It was deleted.
    Gone,
    /// Nothing yet: to be tried again.
    Again,
    /// Nothing.
    Unknown,
}

/// See the module's text. `last`: there is no further attempt.
pub(crate) fn meaning(errno: i32, family: Family, last: bool) -> Meaning {
    match errno {
        libc::ESTALE | libc::ENOENT => Meaning::Gone,
        libc::ENOMEM | libc::EAGAIN | libc::EBUSY if !last => Meaning::Again,
        libc::ENOMEM if family == Family::IgetLocked => Meaning::Gone,
        _ => Meaning::Unknown,
    }
}

/// What came of an attempt to open an object.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The object.
    Here(OwnedFd),
    /// It was deleted.
    Gone,
    /// Nothing is known of it.
    Failed(io::Error),
}

/// A mount of a filesystem, to open handles through.
#[derive(Debug)]
pub(crate) struct Opener {
    fd: OwnedFd,
    family: Family,
}

impl Opener {
    /// `fd` is open for reading, anywhere on the mount.
    pub(crate) fn new(fd: OwnedFd) -> Opener {
        Opener { family: Family::of(fd.as_fd()), fd }
    }

    /// What it is open by.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// That of the filesystem.
    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// Opens an object by its handle, in several attempts where the answer may pass.
    pub(crate) fn open(&self, handle: HandleRef<'_>) -> Opened {
        attempt(self.family, || open_by_handle(self.fd.as_fd(), handle))
    }
}

fn attempt(family: Family, mut open: impl FnMut() -> io::Result<OwnedFd>) -> Opened {
    let mut tries = 1;
    loop {
        let error = match open() {
            Ok(fd) => return Opened::Here(fd),
            Err(error) => error,
        };
        match meaning(error.raw_os_error().unwrap_or_default(), family, tries >= TRIES) {
            Meaning::Gone => return Opened::Gone,
            Meaning::Unknown => return Opened::Failed(error),
            Meaning::Again if tries == 1 => std::thread::yield_now(),
            Meaning::Again => std::thread::sleep(PAUSE),
        }
        tries += 1;
    }
}

/// What an administrator can do about an error that left an object unknown.
pub(crate) fn advice(errno: i32) -> &'static str {
    match errno {
        libc::EPERM | libc::EACCES => "opening by handle needs CAP_DAC_READ_SEARCH",
        libc::EMFILE | libc::ENFILE => "no file descriptor is free: raise the limit of open files",
        libc::EIO | libc::EBADMSG | libc::EUCLEAN => "the disk or its filesystem is damaged: see the kernel's log",
        _ => "the filesystem gave no reason that is known here; please report it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::statfs::{TMPFS_MAGIC, XFS_SUPER_MAGIC};
    use std::fs::File;

    #[test]
    fn each_error_on_each_filesystem_has_one_meaning() {
        use Family::{Btrfs, IgetLocked, Other};
        use Meaning::{Again, Gone, Unknown};
        for (errno, family, first, last) in [
            (libc::ESTALE, IgetLocked, Gone, Gone),
            (libc::ESTALE, Other, Gone, Gone),
            (libc::ENOENT, IgetLocked, Gone, Gone),
            (libc::ENOENT, Other, Gone, Gone),
            (libc::ENOMEM, IgetLocked, Again, Gone),
            (libc::ENOMEM, Other, Again, Unknown),
            (libc::ENOENT, Btrfs, Gone, Gone),
            (libc::ENOMEM, Btrfs, Again, Unknown),
            (libc::EAGAIN, IgetLocked, Again, Unknown),
            (libc::EAGAIN, Other, Again, Unknown),
            (libc::EBUSY, Other, Again, Unknown),
            (libc::EPERM, IgetLocked, Unknown, Unknown),
            (libc::EACCES, Other, Unknown, Unknown),
            (libc::EMFILE, IgetLocked, Unknown, Unknown),
            (libc::ENFILE, Other, Unknown, Unknown),
            (libc::EIO, IgetLocked, Unknown, Unknown),
            (libc::EUCLEAN, Other, Unknown, Unknown),
            (libc::EINVAL, IgetLocked, Unknown, Unknown),
            (libc::EOPNOTSUPP, Other, Unknown, Unknown),
            (libc::EIO, Btrfs, Unknown, Unknown),
            (libc::EBADMSG, IgetLocked, Unknown, Unknown),
            (libc::EMFILE, Btrfs, Unknown, Unknown),
            (libc::ENFILE, IgetLocked, Unknown, Unknown),
            (libc::EACCES, Btrfs, Unknown, Unknown),
            (i32::MAX, IgetLocked, Unknown, Unknown),
            (0, Other, Unknown, Unknown),
        ] {
            assert_eq!((meaning(errno, family, false), meaning(errno, family, true)), (first, last), "{errno} on {family:?}");
        }
    }

    #[test]
    fn the_family_follows_from_the_filesystem() {
        assert_eq!(Family::of_type(EXT4_SUPER_MAGIC), Family::IgetLocked);
        assert_eq!(Family::of_type(BTRFS_SUPER_MAGIC), Family::Btrfs);
        for other in [XFS_SUPER_MAGIC, TMPFS_MAGIC] {
            assert_eq!(Family::of_type(other), Family::Other);
        }
    }

    #[test]
    fn an_answer_that_may_pass_is_not_the_last_one() {
        let after = |fails: u32, errno: i32, family| {
            let mut tries = 0;
            let opened = attempt(family, || {
                tries += 1;
                if tries > fails { Ok(File::open("/").unwrap().into()) } else { Err(io::Error::from_raw_os_error(errno)) }
            });
            (tries, opened)
        };
        assert!(matches!(after(2, libc::ENOMEM, Family::Other), (3, Opened::Here(_))));
        assert!(matches!(after(u32::MAX, libc::ENOMEM, Family::IgetLocked), (TRIES, Opened::Gone)));
        assert!(matches!(after(u32::MAX, libc::ENOMEM, Family::Other), (TRIES, Opened::Failed(_))));
        assert!(matches!(after(u32::MAX, libc::ESTALE, Family::Other), (1, Opened::Gone)));
        assert!(matches!(after(u32::MAX, libc::EMFILE, Family::IgetLocked), (1, Opened::Failed(_))));
    }
}
