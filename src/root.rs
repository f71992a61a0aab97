//! The source, held open.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::stat::Mode;

use crate::sys::statx::{Sits, sits};

/// The watched directory, held open: the anchor of every check-up, and the proof that it is still
/// the same one.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    /// As it was given; where links lie on it, it may come to lead elsewhere.
    given: PathBuf,
    fd: OwnedFd,
    sits: Sits,
}

/// What the source's path leads to, when it is not the directory that was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Astray {
    /// Nothing, or what has nothing to do with it; in words.
    #[error("{0}")]
    Gone(String),
    /// The same directory through another mount, or another one because a link was switched; in
    /// words.
    #[error("{0}")]
    Anew(String),
}

impl Root {
    /// Opens `source`, which must be a directory. The path is made canonical.
    ///
    /// # Errors
    /// Those of realpath(3) and open(2); `ENOTDIR`.
    pub fn open(source: &Path) -> io::Result<Root> {
        let path = source.canonicalize()?;
        let fd = open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let sits = sits(fd.as_fd(), Path::new(""))?;
        Ok(Root { path, given: source.into(), fd, sits })
    }

    /// The same directory, for another thread.
    ///
    /// # Errors
    /// Those of dup(2).
    pub(crate) fn try_clone(&self) -> io::Result<Root> {
        Ok(Root { path: self.path.clone(), given: self.given.clone(), fd: self.fd.try_clone()?, sits: self.sits })
    }

    /// Canonical and absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device of the root, `st_dev`.
    pub(crate) fn dev(&self) -> u64 {
        self.sits.dev
    }

    /// Whether the path was given through a symbolic link, which may be switched.
    pub(crate) fn is_linked(&self) -> bool {
        self.path != self.given
    }

    /// As it was given, if through a symbolic link.
    pub(crate) fn link(&self) -> Option<&Path> {
        self.is_linked().then_some(&*self.given)
    }

    /// Whether the path still leads to the directory that was opened, and through the mount that
    /// was there.
    ///
    /// # Errors
    /// What it leads to instead.
    pub(crate) fn check(&self) -> Result<(), Astray> {
        let path = self.path.display();
        if self.is_linked() {
            let given = self.given.display();
            match self.given.canonicalize() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(Astray::Gone(format!("the source {given} is not there")));
                }
                Err(e) => return Err(Astray::Gone(format!("the source {given} cannot be looked at: {e}"))),
                Ok(now) if now != self.path => {
                    return Err(Astray::Anew(format!("the source {given} led to {path} and leads to {} now", now.display())));
                }
                Ok(_) => {}
            }
        }
        match sits(AT_FDCWD, &self.path) {
            Err(Errno::ENOENT) => Err(Astray::Gone(format!("the source {path} is not there"))),
            Err(e) => Err(Astray::Gone(format!("the source {path} cannot be looked at: {}", e.desc()))),
            Ok(now) if now == self.sits => Ok(()),
            Ok(now) if now.dev != self.sits.dev => Err(Astray::Gone(format!(
                "the source {path} lies on another filesystem than at the start (unmounted, or something mounted over it)"
            ))),
            Ok(now) if now.ino != self.sits.ino => {
                Err(Astray::Gone(format!("the source {path} is not the directory it was at the start (replaced)")))
            }
            Ok(_) => Err(Astray::Anew(format!("the source {path} was mounted anew"))),
        }
    }

    /// The part of an absolute path below the root; empty for the root itself, `None` for a path
    /// outside.
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
