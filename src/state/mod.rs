//! What is kept on disk so that a restart need not compare the whole tree: per target a watermark,
//! and the places of all directories.
//!
//! # What it promises
//! After a stop of any kind, [`Keeper::open`] either gives back a state from which a walk
//! ([`crate::scan`]) finds every path that may differ between the source and a target, or says in
//! words why there is none ([`Why`]); then everything has to be compared. A state that is older
//! than the truth makes the walk find more, never less. So:
//!
//! - *SIGTERM*: [`Keeper::stop`] saves the end of everything.
//! - *SIGKILL, out of memory, a bug*: the file is as it was after the last save, at most some
//!   seconds earlier. What was written halfway has no valid checksum and is cut. Directories that
//!   may have moved since are compared whole.
//! - *Power loss, a crash of the kernel*: the source's filesystem may have lost changes that the
//!   targets have got, and nothing in it shows which: a file that lost its last seconds has its old
//!   ctime, too. So everything is compared. The exception is a stop after which the source was
//!   synced ([`Keeper::stop`]), as in every orderly shutdown.
//! - *A clock that was set back, another filesystem or root, other settings, damage*: everything is
//!   compared.
//!
//! # How it works
//! One file per mirror: what it belongs to, the set of directories ([`dirs`]), and then *saves*
//! appended one after the other, each with the watermarks ([`watermark`]) and the changes of the
//! set before it. Saves are written when something moved, so not at all while idle; they need no
//! fsync, because within one run of the machine a file is what was written to it, and after another
//! kind of end it is not used. The start is made durable before anything is sent, so a clean stop's
//! record can never come back after the daemon ran again. Now and then the file is written anew and
//! put in place in one step.
//!
//! Beside it a file names what was written, waits to be sent, and would not be found by its change
//! time ([`written`]).
//!
//! # What it gives up
//! - Changes that raise no event and are older than the watermark (see [`crate::sys::fanotify`]);
//!   among them writes to a file that was open, or mapped, at the stop and was closed, without a
//!   further write, before the start. Its event comes with the close, which was not received, and
//!   its ctime is from before the watermark. A later change or a comparison of everything brings
//!   it.
//! - A source that was replaced by an older copy of the same filesystem (a block-level snapshot put
//!   back), which has the same identity and old ctimes, is known by its newest ctime
//!   ([`Resume::newest`]). Not known: after a kill, with inotify, and where something in it was
//!   changed again before the start. Ask for a comparison of everything then.
//! - See also [`clock`].

pub mod clock;
pub mod dirs;
pub(crate) mod disk;
mod file;
pub(crate) mod filled;
mod keeper;
mod log;
pub(crate) mod mounts;
pub(crate) mod note;
pub(crate) mod pauses;
mod record;
pub(crate) mod runs;
pub(crate) mod written;
pub(crate) mod watermark;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::fstat;
use nix::sys::statfs::{self, FsType, fstatfs};

use crate::root::Root;
use crate::sys::handle::{FsId, fs_id, name_to_handle};
pub(crate) use clock::SLACK;
pub use clock::{Clock, Wall};
pub(crate) use dirs::{DirSet, Dirs, Object, OpenByHandle, Place};
pub(crate) use keeper::{Drain, Without, sync_source};
pub use keeper::{Keeper, Resume};
pub(crate) use watermark::Watermark;

/// Why a mirror cannot keep state. (Why there is none to resume from is [`Why`].)
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory, or the lock in it.
    #[error("cannot use {path} to keep state; set state_dir to a directory that can be written")]
    Directory {
        /// What was tried.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("another fansync keeps state in {path}; stop it, or give this one another state_dir")]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// Writing failed. The file is as it was.
    #[error("cannot write {path}; until it can be written a restart compares more than it has to")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The clocks, or random bytes, cannot be read.
    #[error("cannot read {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Why everything has to be compared at the start. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[rustfmt::skip]
pub enum Why {
    /// There is no state.
    #[error("there is no saved state in {0}")]
    None(PathBuf),
    /// There is, and it cannot be read.
    #[error("the saved state in {path} cannot be used: {what}")]
    Damaged { /** The file. */ path: PathBuf, /** What is wrong with it. */ what: String },
    /// It is another source's.
    #[error("the saved state is of the source {0}")]
    OtherSource(String),
    /// The root is another directory.
    #[error("the source is another directory than the one whose state was saved (replaced, or another filesystem is mounted there)")]
    OtherRoot,
    /// What decides about the targets' contents is different.
    #[error("the mirror's settings have changed since its state was saved")]
    OtherSettings,
    /// None of the targets has a watermark; the gravest reason.
    #[error("no target can go on from the saved state: of a target, {0}")]
    NothingConfirmed(Without),
    /// The walk over the directories had not ended.
    #[error("the directories had not all been recorded when the state was saved")]
    NoDirs,
    /// Time cannot be trusted.
    #[error("changes cannot be found by their time: {0}")]
    Clock(String),
    /// Power loss.
    #[error("the machine went down without a stop of the daemon, so the source may have lost changes that targets have")]
    PowerLoss,
    /// No fs of those whose ctimes and handles are known to be good.
    #[error("the source lies on a filesystem of type {0:#x}, whose change times and file handles are not known to be reliable")]
    Unproven(u64),
    /// No file handles.
    #[error("the source's filesystem gives no file handles: {0}")]
    NoHandles(String),
    /// What may have changed in it meanwhile raised no event, and bears any time.
    #[error("the source was mounted anew while fansync ran")]
    Remounted,
    /// The state of this run could not be begun.
    #[error("the state cannot be written: {0}")]
    Unwritable(String),
}

/// What the state belongs to: the source as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    source: Vec<u8>,
    ino: u64,
    handle_kind: i32,
    handle: Vec<u8>,
    fs: FsId,
    fs_type: u64,
    settings: String,
}

impl Identity {
    /// Looks at the root. `settings`: all that decides about the contents of every target (filter,
    /// delete), in any form that is equal when they are.
    ///
    /// # Errors
    /// [`Why::Unproven`], [`Why::NoHandles`].
    pub fn of(root: &Root, settings: &str) -> Result<Identity, Why> {
        let no_handles = |e: io::Error| Why::NoHandles(e.to_string());
        let fs_type = proven(root.as_fd())?;
        let handle = name_to_handle(root.as_fd(), Path::new("")).map_err(no_handles)?;
        Ok(Identity {
            source: root.path().as_os_str().as_bytes().to_vec(),
            ino: fstat(root).map_err(|e| no_handles(e.into()))?.st_ino,
            handle_kind: handle.kind,
            handle: handle.bytes.into(),
            fs: fs_id(root.as_fd()).map_err(no_handles)?,
            fs_type,
            settings: settings.to_owned(),
        })
    }

    fn same(&self, saved: &Identity) -> Result<(), Why> {
        if self.source != saved.source {
            return Err(Why::OtherSource(crate::path::Shown(&saved.source).to_string()));
        }
        if self.settings != saved.settings {
            return Err(Why::OtherSettings);
        }
        if self != saved {
            return Err(Why::OtherRoot);
        }
        Ok(())
    }
}

/// The filesystems on which a rename was seen to change the ctime of what it moves, and handles to
/// be unique: the scan's tests run on each. ext2 and ext3 share ext4's number and code.
const PROVEN: [FsType; 4] =
    [statfs::EXT4_SUPER_MAGIC, crate::sys::dirent::XFS_SUPER_MAGIC, statfs::BTRFS_SUPER_MAGIC, statfs::TMPFS_MAGIC];

/// Whether changes on the filesystem of `fd` can be found by ctime and handle; its type, `f_type`
/// of statfs(2).
///
/// # Errors
/// [`Why::Unproven`] when it is not one of those tried: ext4, XFS, btrfs, tmpfs. Network
/// filesystems keep another machine's time, FUSE any that it likes.
pub(crate) fn proven(fd: BorrowedFd<'_>) -> Result<u64, Why> {
    let kind = fstatfs(fd).map_err(|e| Why::NoHandles(e.to_string()))?.filesystem_type();
    if PROVEN.contains(&kind) { Ok(kind.0 as u64) } else { Err(Why::Unproven(kind.0 as u64)) }
}

/// A target, as far as its state is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetId {
    /// Unique in the mirror.
    pub name: String,
    /// What decides where its contents are and what they are (URL, arguments), in any form that is
    /// equal when they are.
    pub settings: String,
}

#[cfg(test)]
mod tests;
