//! Whose file is it: whether anybody but root and the calling user can change what a path leads to.
//!
//! One walk answers for configurations, secrets, programs and the places that are written to. It
//! opens every directory and every symbolic link on the way by descriptor, without following one
//! ([`walk`]), and asks of each who may write it: its owner, its mode, its POSIX ACL ([`judge`]).
//! So what is judged is what is then used, and a link in the middle of the way counts as much as
//! the two ends.
//!
//! Root and the calling user are trusted, and root's group. To an ordinary user a group of his own
//! is trusted too, as many distributions give one to each user and let it write. A sticky directory
//! that every user may write (`/tmp`) is taken when what lies in it belongs to a trusted user,
//! since only that owner can replace it.
//!
//! Gives up: rights that a server grants without showing them here (NFS 4 ACLs, SMB), and root in
//! another user namespace.

pub mod judge;
pub(crate) mod walk;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub(crate) use judge::{Mind, Reason};
pub(crate) use walk::{make_directory, program};

use judge::Us;
use walk::{Kind, Step};

/// Why a path is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be reached.
    #[error("cannot look at {}: {source}", .path.display())]
    Io {
        /// What could not be opened: the path, or a part of the way.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can change it, or what leads to it.
    #[error("{what} {} {reason}", .path.display())]
    Others {
        /// `the file`, `the directory`, `the symbolic link`.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// How.
        reason: Reason,
    },
    /// It is not what it should be.
    #[error("{} is not {want}", .path.display())]
    Kind {
        /// Which one.
        path: PathBuf,
        /// `a regular file`, `a directory`.
        want: &'static str,
    },
}

impl TrustError {
    /// What the administrator can do.
    pub(crate) fn help(&self) -> String {
        match self {
            TrustError::Io { .. } => "correct the path, or its rights".into(),
            TrustError::Kind { want, .. } => format!("give the path of {want}"),
            TrustError::Others { path, reason, .. } => reason.help(path),
        }
    }

    /// Whether the path does not exist, as opposed to one that cannot be trusted.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, TrustError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl From<TrustError> for io::Error {
    fn from(error: TrustError) -> io::Error {
        match error {
            TrustError::Io { source, .. } => source,
            TrustError::Kind { .. } => io::Error::new(io::ErrorKind::InvalidInput, error),
            TrustError::Others { .. } => io::Error::new(io::ErrorKind::PermissionDenied, error),
        }
    }
}

/// Opens the regular file at `path` for reading, if it is trusted: the file that was judged,
/// whatever has its name by then. It never blocks.
///
/// # Errors
/// See [`TrustError`].
pub(crate) fn open(path: &Path, mind: Mind) -> Result<File, TrustError> {
    let us = Us::now();
    let step = walk::walk(path, &us)?;
    if step.facts.kind != Kind::File {
        return Err(TrustError::Kind { path: path.to_owned(), want: "a regular file" });
    }
    step.judge(&us, mind)?;
    step.reopen(path)
}

/// Judges the regular file at `path` as [`open`] does, and does not read it.
///
/// # Errors
/// See [`TrustError`].
pub(crate) fn file(path: &Path, mind: Mind) -> Result<(), TrustError> {
    open(path, mind).map(drop)
}

/// At most `most` bytes of the file at `path`, if it is trusted.
///
/// # Errors
/// See [`TrustError`].
pub(crate) fn read(path: &Path, mind: Mind, most: u64) -> Result<Vec<u8>, TrustError> {
    let mut bytes = Vec::new();
    let read = open(path, mind)?.take(most).read_to_end(&mut bytes);
    read.map_err(|source| TrustError::Io { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Judges a directory in which files are made; one that does not exist yet is judged by the part of
/// its way that does.
///
/// # Errors
/// See [`TrustError`].
pub(crate) fn directory(path: &Path) -> Result<(), TrustError> {
    let us = Us::now();
    let step = match walk::walk(path, &us) {
        Err(error) if error.is_missing() => return Ok(()),
        step => step?,
    };
    if step.facts.kind != Kind::Directory {
        return Err(TrustError::Kind { path: path.to_owned(), want: "a directory" });
    }
    step.judge_directory(&us)
}

/// Judges what an open file descriptor shows, apart from its name.
///
/// # Errors
/// See [`TrustError`]; `path` is what messages call it.
pub(crate) fn descriptor(file: &File, path: &Path, mind: Mind) -> Result<(), TrustError> {
    Step::of(file.try_clone().map_err(|source| TrustError::Io { path: path.to_owned(), source })?.into(), path)?
        .judge(&Us::now(), mind)
}

#[cfg(test)]
mod tests;
