//! Walks over the source: what changed while fansync did not run, and where the directories are.
//!
//! # What it promises
//! [`restart_scan`] reports, for each target, a set of paths such that comparing them (and nothing
//! else) makes the target equal to the source, given what [`crate::state`] promises of the
//! watermarks and of the old set. Changes made during the walk need not show in it: the caller
//! receives events already, and acts on them too.
//!
//! # How it works
//! | found | and | reported |
//! | --- | --- | --- |
//! | anything but a directory | ctime at or after the watermark | `Entry` |
//! | a directory at a place the old set does not give it | | `Subtree` |
//! | a directory at its place | known there only since the watermark or later | `Subtree` |
//! | a directory at its place | may have been away since the set was complete | `Subtree` |
//! | a directory at its place, the root | ctime at or after the watermark | `Contents` |
//! | what cannot be read | | `Subtree` (a directory), `Entry` |
//!
//! That is enough, because on the filesystems of [`crate::state::proven`] every change of an object
//! sets its ctime, and so do link(2), unlink(2) and rename(2) to what they name and to the
//! directories they work on (measured on 6.18: ext4, xfs, btrfs, tmpfs; `scan/facts.rs`). No call
//! sets a ctime back. So a name that was removed shows in its directory, a name that came shows in
//! what it names, and a directory that came brings its old place with it. *May have been away*: a
//! directory that left its place and came back has a new ctime, and so has the directory it came
//! back to; both, since the set was complete, make it suspect.
//!
//! Directories are opened one below the other, `O_NOFOLLOW`, so that a directory which becomes a
//! symbolic link does not lead the walk out. Nothing is written, and no access time changed where
//! the process may avoid that.
//!
//! # What it costs
//! 200,000 files in 2,000 directories, in memory, 100 of them changed, a daemon's module on
//! loopback; 6.18, two cores that other work kept busy (load 10 to 20, so the seconds are
//! comparable within a column only; medians of three):
//!
//! | | tmpfs | ext4 |
//! | --- | --- | --- |
//! | the walk, then rsync with the 100 paths | 0.78 s, 11 kB sent | 1.55 s, 11 kB sent |
//! | `rsync -a --delete` | 2.2 s, 3.4 MB sent | 4.0 s, 3.6 MB sent |
//!
//! Look-ups by plain statx(2) took 0.39 s on tmpfs, through io_uring 0.69 s (`benches/scan.rs`, one
//! thread): with names and inodes in memory the plain call wins, so it is the default. A second
//! thread gained a factor of 1.6 with cores to spare, and nothing, or a loss, without.
//!
//! # What it gives up
//! Directories more than `walk::MAX_DEPTH` deep are reported as `Subtree` each time: every level
//! costs an open descriptor. Mounts the caller did not list are not entered.

mod walk;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dirty::Kind;
use crate::filter::Filter;
use crate::path::RelPath;
use crate::root::Root;
use crate::state::{Clock, Dirs, Resume, Wall};
use crate::sys::handle::FsId;

/// Why a walk has no result. What it reported until then is true.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The root.
    #[error("cannot read the source {path}; check the mount")]
    Root {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The caller requested it.
    #[error("the walk over the source was stopped")]
    Stopped,
    /// The clock, or a thread.
    #[error("cannot walk over the source")]
    System(#[source] io::Error),
}

/// What is walked.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The watch root.
    pub root: &'a Root,
    /// What is left out.
    pub filter: &'a Filter,
    /// The root's filesystem, as its events name it (for a btrfs subvolume that is watched through
    /// the top level: the top level's).
    pub fs: FsId,
    /// Mounts below the root that are entered, and their filesystems as their events name them.
    pub mounts: &'a [(RelPath, FsId)],
}

/// How it is walked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that read directories; the caller's own is one of them when it is 1.
    pub threads: usize,
}

impl Default for Options {
    /// Two threads where there are as many cores: what was measured, see the module.
    fn default() -> Options {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options { threads: cores.min(2) }
    }
}

/// How far a walk is, for other threads to see, and to stop it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Directories read.
    pub(crate) dirs: AtomicU64,
    /// Names found in them and not left out.
    pub(crate) entries: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Ends the walk soon, with [`ScanError::Stopped`].
    pub(crate) fn stop(&self) {
        // Relaxed: a flag of its own, nothing is published with it.
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A path that may differ on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding<'a> {
    /// Relative to the root, normal form.
    pub(crate) path: &'a [u8],
    /// How much of it.
    pub(crate) kind: Kind,
    /// It concerns the targets whose watermark is at or before this.
    pub(crate) since: Wall,
}

/// What a walk saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Directories read.
    pub dirs: u64,
    /// Names found in them and not left out.
    pub entries: u64,
    /// Findings: `Entry`.
    pub entry: u64,
    /// Findings: `Contents`.
    pub contents: u64,
    /// Findings: `Subtree`.
    pub subtree: u64,
    /// Of these, things that could not be read.
    pub unreadable: u64,
    /// Mounts that were not entered.
    pub mounts_skipped: u64,
    /// The newest ctime of all that was read.
    pub newest: Option<Wall>,
    /// How long it took.
    pub took: Duration,
}

/// Finds what changed since an earlier run. Findings are reported on the calling thread, as they
/// come, in no useful order. Returns the fresh set of directories as well.
///
/// # Errors
/// See [`ScanError`]; then findings may be missing and everything has to be compared.
pub fn restart_scan(
    scope: Scope<'_>,
    resume: &Resume,
    options: Options,
    progress: &Progress,
    out: &mut dyn FnMut(Finding<'_>),
) -> Result<(Dirs, Report), ScanError> {
    let old = walk::Old { dirs: &resume.dirs, complete_at: resume.dirs_complete_at, since: resume.since };
    run(scope, Some(old), resume.dirs.like(resume.dirs.floor()), options, progress, out)
}

/// Records where the directories are, and reads nothing else.
///
/// # Errors
/// See [`ScanError`].
pub fn build_set(scope: Scope<'_>, like: &Arc<Dirs>, options: Options, progress: &Progress) -> Result<(Dirs, Report), ScanError> {
    run(scope, None, like.like(Wall::MIN), options, progress, &mut |_| {})
}

fn run(
    scope: Scope<'_>,
    old: Option<walk::Old<'_>>,
    mut dirs: Dirs,
    options: Options,
    progress: &Progress,
    out: &mut dyn FnMut(Finding<'_>),
) -> Result<(Dirs, Report), ScanError> {
    let started = Instant::now();
    let mut report = Report::default();
    let found = walk::walk(&walk::Context { scope, old, dirs: &dirs, progress }, options, &mut |finding: Finding<'_>| {
        match finding.kind {
            Kind::Entry => report.entry += 1,
            Kind::Contents => report.contents += 1,
            Kind::Subtree => report.subtree += 1,
        }
        out(finding);
    })?;
    // Not before any change that the walk came upon.
    let now = Clock::now().map_err(ScanError::System)?.wall;
    if old.is_none() {
        dirs = dirs.like(now);
    }
    dirs.reserve(found.iter().map(|f| f.places.len()).sum());
    for part in found {
        for (place, object, since) in part.places {
            dirs.insert(place, object, since.unwrap_or(now));
        }
        report.unreadable += part.unreadable;
        report.mounts_skipped += part.mounts_skipped;
        report.newest = report.newest.max(part.newest);
    }
    report.dirs = progress.dirs.load(Ordering::Relaxed);
    report.entries = progress.entries.load(Ordering::Relaxed);
    report.took = started.elapsed();
    Ok((dirs, report))
}

impl Scope<'_> {
    fn failed(&self, source: impl Into<io::Error>) -> ScanError {
        ScanError::Root { path: self.root.path().into(), source: source.into() }
    }

    fn open_root(&self) -> Result<std::os::fd::OwnedFd, ScanError> {
        walk::open_dir(self.root.as_fd(), b".").map_err(|errno| self.failed(errno))
    }
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod facts;
#[cfg(test)]
mod tests;
