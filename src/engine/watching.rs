//! How each filesystem of a mirror is watched, found by trying: a fanotify mark on the whole
//! filesystem, else inotify.
//!
//! A mirror may span several filesystems: the one of its root, and what is mounted below. Each gets
//! the best it takes, and says why. Filesystems that are mounted later are taken in and compared.
//! One that is unmounted leaves an empty directory behind, which must not be taken for a deletion:
//! its place is held until it is back ([`Watching::check`]); also when it went before the start.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};

use super::aliases::Aliases;
use super::detached::Detached;
use super::mounted::{Mounted, News};
use crate::apart::{Apart, Why};
use crate::config::{Mirror, Watch};
use crate::dirty::Seen;
use crate::exit::ExitCode;
use crate::explain;
use crate::filter::Filter;
use crate::guard::Hold;
use crate::lost::{Cause, Lost};
use crate::path::{RelPath, Shown, is_at_or_below};
use crate::resolve::{MuteBy, Resolver};
use crate::root::Root;
use crate::source::inotify::{Rules, WatchReport, Watches};
use crate::source::reader::{Feed, Input, Reader, ReaderConfig};
use crate::status;
use crate::sys::beneath::open_beneath;
use crate::sys::event::EventFd;
use crate::sys::fanotify::{self, Group, Options};
use crate::sys::handle::{FsId, fs_id};
use crate::sys::ignore::Ignorer;
use crate::sys::inotify::Inotify;
use crate::sys::statx::{Sits, sits};

/// Subtrees without a watch that are listed one by one.
const MAX_UNWATCHED: usize = 100;
/// Buffers between reader and engine, and the size of each: 4 MiB hold about 50,000 events.
const BUFFERS: usize = 32;
const BUFFER_BYTES: usize = 128 * 1024;

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// fanotify was requested and is not to be had.
    #[error("cannot watch {path:?} with fanotify, and watch = \"fanotify\" allows nothing else")]
    Fanotify {
        /// The filesystem's mount, or the root.
        path: PathBuf,
        /// Why.
        source: fanotify::Error,
    },
    /// inotify does not work either.
    #[error("cannot watch {path:?} with inotify")]
    Inotify {
        /// The watch root.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The root cannot be opened for it.
    #[error(transparent)]
    Tree(#[from] crate::source::inotify::Error),
    /// The reader thread.
    #[error("cannot start reading events")]
    Reader(#[source] std::io::Error),
}

impl WatchError {
    /// What the process leaves with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            WatchError::Fanotify { source, .. } if source.errno() == Some(libc::EPERM) => ExitCode::NotPermitted,
            _ => ExitCode::Unavailable,
        }
    }

    /// What the administrator can do.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            WatchError::Fanotify { source, .. } => source.help().map(Into::into),
            WatchError::Inotify { .. } => {
                Some("fs.inotify.max_user_instances may be used up; raise it with sysctl, or end other watchers".into())
            }
            WatchError::Tree(_) | WatchError::Reader(_) => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Fanotify,
    Inotify,
}

/// One filesystem of the mirror.
struct Place {
    at: RelPath,
    /// What is seen there, and through which mount.
    sits: Option<Sits>,
    by: By,
    why: String,
}

/// See the module's text.
pub(crate) struct Watching {
    watch: Watch,
    options: Options,
    group: Option<Group>,
    /// Why there is no group, once it was tried.
    no_group: Option<(String, Option<fanotify::Error>)>,
    /// Writes are reported, at most once in this interval.
    follow: Option<Duration>,
    watches: Option<Watches>,
    expires: Option<Instant>,
    mounted: Mounted,
    detached: Detached,
    places: Vec<Place>,
    unwatched: Vec<RelPath>,
    /// Files that are mounted each by itself. Their events name a directory elsewhere.
    bound: BTreeSet<RelPath>,
    lost: Vec<Lost>,
    /// The engine's; see [`crate::engine::Handle`].
    turns: Arc<AtomicU64>,
}

/// The closures that inotify walks need.
macro_rules! rules {
    ($filter:expr, $watching:expr, $name:ident) => {
        let foreign = $watching.mounted.foreign();
        let foreign = |path: &[u8]| foreign.keys().any(|at| is_at_or_below(path, at));
        let excluded = |path: &[u8], is_dir: bool| $filter.excludes(path, is_dir) || foreign(path);
        let marked: Vec<u64> =
            $watching.places.iter().filter(|p| p.by == By::Fanotify).filter_map(|p| Some(p.sits?.dev)).collect();
        let cross = |dev: u64| !marked.contains(&dev);
        // A walk over a million directories is one turn of the engine, and minutes long where the
        // disk is slow.
        let beat = || _ = $watching.turns.fetch_add(1, Ordering::Relaxed);
        let $name = Rules { excluded: &excluded, cross: &cross, beat: &beat };
    };
}

/// What a buffer of inotify records amounted to, besides the changes.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// How many changes.
    pub(crate) events: u64,
    /// See [`Handled::unplaced`](crate::source::inotify::Handled::unplaced).
    pub(crate) unplaced: bool,
    /// See [`Handled::came`](crate::source::inotify::Handled::came).
    pub(crate) came: bool,
}

impl Watching {
    /// Sets every mark and watch, then starts reading. `expected`: where filesystems were mounted
    /// in an earlier run.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub(crate) fn start(
        mirror: &Mirror,
        follow: bool,
        root: &Root,
        expected: BTreeSet<RelPath>,
        resolver: &mut Resolver,
        wake: &Arc<EventFd>,
        turns: &Arc<AtomicU64>,
    ) -> Result<(Watching, Reader), WatchError> {
        let kernel = &mirror.kernel;
        let mut watching = Watching {
            watch: mirror.watch,
            options: Options { unlimited_queue: kernel.unlimited_queue, rename_events: kernel.rename_events, writes: follow },
            group: None,
            no_group: None,
            follow: follow.then_some(mirror.follow_interval),
            watches: None,
            expires: None,
            mounted: Mounted::new(expected, &mirror.mounts),
            detached: Detached::default(),
            places: Vec::new(),
            unwatched: Vec::new(),
            bound: BTreeSet::new(),
            lost: Vec::new(),
            turns: Arc::clone(turns),
        };
        if let Some(given) = root.link() {
            tracing::info!(
                mirror = %mirror.name,
                "the source {} is given through a symbolic link and leads to {}; when the link is switched, the new tree is mirrored",
                Shown(given.as_os_str().as_bytes()), Shown(root.path().as_os_str().as_bytes())
            );
        }
        for at in watching.mounted.poll(root.path(), &mirror.filter).unwrap_or_default().trees {
            watching.take_in(&at, root, resolver)?;
        }
        for (at, why) in watching.mounted.foreign() {
            tracing::info!(mirror = %mirror.name, at = %watching.shown(root, at), "not mirrored and not watched: {}", why.words());
        }
        let mut inputs = Vec::new();
        if let Some(group) = &watching.group {
            let fd = group.as_fd().try_clone_to_owned().map_err(WatchError::Reader)?;
            inputs.push(Input { feed: Feed::Fanotify, fd });
        }
        if watching.places.iter().any(|p| p.by == By::Inotify) || watching.watch == Watch::Auto {
            // With `auto` also when nothing needs it yet: a filesystem mounted later may. An idle
            // queue costs nothing.
            let inotify = Inotify::new(follow).map_err(|source| WatchError::Inotify { path: root.path().into(), source })?;
            let watches = Watches::new(inotify, root.path())?;
            let fd = watches.queue().try_clone_to_owned().map_err(WatchError::Reader)?;
            inputs.push(Input { feed: Feed::Inotify, fd });
            watching.watches = Some(watches);
            let by_inotify: Vec<RelPath> = watching.places.iter().filter(|p| p.by == By::Inotify).map(|p| p.at.clone()).collect();
            for at in by_inotify {
                watching.add_tree(&mirror.filter, &at);
            }
        }
        for p in &watching.places {
            tracing::info!(mirror = %mirror.name, filesystem = %watching.shown(root, &p.at), by = p.by.name(), "watching: {}", p.why);
        }
        let config =
            ReaderConfig { settle: mirror.batch.settle, buf_bytes: BUFFER_BYTES, bufs: BUFFERS, io_uring: kernel.io_uring };
        let reader = Reader::spawn(inputs, config, Arc::clone(wake)).map_err(WatchError::Reader)?;
        Ok((watching, reader))
    }

    /// Watches the filesystem at `at`, if it is not watched yet.
    fn take_in(&mut self, at: &RelPath, root: &Root, resolver: &mut Resolver) -> Result<(), WatchError> {
        let path = root.path().join(at.as_path());
        let fd = match open_place(&path) {
            Ok(fd) => fd,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot open a filesystem below the source; it is compared periodically instead");
                self.unwatch(at.clone());
                return Ok(());
            }
        };
        let sits = sits(fd.as_fd(), Path::new("")).ok();
        if fd.metadata().is_ok_and(|m| !m.is_dir()) && self.bound.insert(at.clone()) {
            tracing::info!(path = %path.display(), "a file is mounted here; it is compared periodically, as its events name another directory");
            self.lost.push(Lost { subtree: at.clone(), cause: Cause::Unwatched });
        }
        let (by, why) = match self.try_mark(&path, fd.as_fd()) {
            Ok(why) => {
                if let Err(error) = resolver.add_mount(root, at, fd.into()) {
                    tracing::warn!(path = %path.display(), %error, "cannot determine the filesystem");
                }
                self.let_mute(resolver)?;
                (By::Fanotify, why)
            }
            Err((_, Some(source))) if self.watch == Watch::Fanotify => return Err(WatchError::Fanotify { path, source }),
            Err((why, _)) => (By::Inotify, why),
        };
        self.places.push(Place { at: at.clone(), sits, by, why });
        Ok(())
    }

    /// Writes to files that stay open raise events from here on.
    pub(crate) fn follow_writes(&mut self, mirror: &Mirror, root: &Root, resolver: &mut Resolver) {
        self.options.writes = true;
        self.follow = Some(mirror.follow_interval);
        resolver.follow_writes(mirror.follow_interval);
        if let Some(group) = &mut self.group {
            group.report_writes();
        }
        let places: Vec<(RelPath, By)> = self.places.iter().map(|p| (p.at.clone(), p.by)).collect();
        if let Some(watches) = &mut self.watches {
            watches.report_writes();
        }
        for (at, by) in places {
            match by {
                By::Inotify => self.add_tree(&mirror.filter, &at),
                By::Fanotify => {
                    let path = root.path().join(at.as_path());
                    let marked = open_place(&path).map_err(|e| e.to_string()).and_then(|dir| {
                        let group = self.group.as_ref().ok_or("no fanotify")?;
                        group.mark_filesystem_of(dir.as_fd(), &path).map_err(|e| reason(&e))
                    });
                    if let Err(error) = marked {
                        tracing::error!(path = %path.display(), "writes to open files cannot be followed here: {error}");
                    }
                }
            }
        }
    }

    /// Gives the resolver the means to mute what does not matter.
    fn let_mute(&self, resolver: &mut Resolver) -> Result<(), WatchError> {
        if let Some(group) = self.group.as_ref().filter(|_| !resolver.mutes()) {
            let ignorer = Ignorer::new(group).map_err(WatchError::Reader)?;
            tracing::debug!(directories = ignorer.can_ignore_entries(), evictable = ignorer.is_evictable(), "can be muted");
            resolver.mute_by(MuteBy { ignorer, follow: self.follow, names_files: group.features().target_fid });
        }
        Ok(())
    }

    /// Marks the filesystem of `dir`; returns why that is good, or why it cannot be.
    fn try_mark(&mut self, path: &Path, dir: BorrowedFd<'_>) -> Result<String, (String, Option<fanotify::Error>)> {
        if self.watch == Watch::Inotify {
            return Err(("watch = \"inotify\"".into(), None));
        }
        if self.group.is_none() {
            if let Some((why, _)) = &self.no_group {
                return Err((why.clone(), None));
            }
            match Group::open(&self.options) {
                Ok(group) => self.group = Some(group),
                Err(e) => {
                    let why = reason(&e);
                    self.no_group = Some((why.clone(), None));
                    return Err((why, Some(e)));
                }
            }
        }
        let Some(group) = &self.group else { return Err(("no fanotify".into(), None)) };
        match group.mark_filesystem_of(dir, path) {
            Ok(()) => {
                let f = group.features();
                Ok(format!(
                    "the whole filesystem by one mark{}{}",
                    if f.rename { ", renames in one record" } else { ", without rename records" },
                    if f.unlimited_queue { ", queue without limit" } else { ", limited queue" },
                ))
            }
            Err(e) => Err((reason(&e), Some(e))),
        }
    }

    fn add_tree(&mut self, filter: &Filter, at: &RelPath) {
        let Some(watches) = &mut self.watches else { return self.unwatch(at.clone()) };
        rules!(filter, self, rules);
        let report = watches.add_tree(at, &rules);
        self.report(report);
    }

    fn report(&mut self, report: WatchReport) {
        if let Some(out) = &report.out_of_watches {
            tracing::error!("{out}");
        }
        for (path, error) in report.lost {
            if report.out_of_watches.is_none() {
                tracing::error!(path = %path, %error, "cannot watch a directory; it is compared periodically instead");
            }
            self.unwatch(path);
        }
    }

    /// Events cannot be read any more: everything is compared periodically from here on.
    pub(crate) fn go_blind(&mut self) {
        self.watches = None;
        self.unwatched = vec![RelPath::root()];
    }

    fn unwatch(&mut self, path: RelPath) {
        if self.unwatched.iter().any(|above| is_at_or_below(&path, above)) {
            return;
        }
        if self.unwatched.len() >= MAX_UNWATCHED {
            // So many that one comparison of everything is the cheaper.
            self.unwatched = vec![RelPath::root()];
            return self.lost.push(Lost::all(Cause::Unwatched));
        }
        self.unwatched.push(path.clone());
        self.lost.push(Lost { subtree: path, cause: Cause::Unwatched });
    }

    /// Whether every filesystem is watched by a mark, so that each directory's coming and going is
    /// reported where it happens.
    pub(crate) fn by_marks(&self) -> bool {
        self.places.iter().all(|p| p.by == By::Fanotify)
    }

    /// Whether events come from names that are not mirrored: where a mark covers more than the
    /// source, or the filter leaves out some of it.
    pub(crate) fn reports_elsewhere(&self, filter: &Filter) -> bool {
        let marked = |at: &RelPath| self.places.iter().any(|p| p.by == By::Fanotify && p.at == *at);
        !filter.is_empty() && self.group.is_some() || self.mounted.reach_beyond(&marked)
    }

    /// What is watched by inotify.
    pub(crate) fn by_inotify(&self) -> Vec<RelPath> {
        self.places.iter().filter(|p| p.by == By::Inotify).map(|p| p.at.clone()).collect()
    }

    /// Whether something is not watched and compared again and again instead.
    pub(crate) fn is_blind_somewhere(&self) -> bool {
        !self.unwatched.is_empty() || !self.bound.is_empty()
    }

    /// The filesystems mounted below the root that are watched, open, with their ids.
    pub(crate) fn mounts(&self, root: &Root) -> Vec<(RelPath, FsId, File)> {
        let below = self.places.iter().filter(|p| !p.at.is_root());
        below
            .filter_map(|p| {
                let fd = open_place(&root.path().join(p.at.as_path())).ok()?;
                Some((p.at.clone(), fs_id(fd.as_fd()).ok()?, fd))
            })
            .collect()
    }

    /// Readiness for priority data means that mounts changed, anywhere.
    pub(crate) fn mounts_fd(&self) -> Option<BorrowedFd<'_>> {
        self.mounted.fd()
    }

    /// Where filesystems have to be mounted, so that nothing is taken for deleted.
    pub(crate) fn expected(&self) -> &BTreeSet<RelPath> {
        self.mounted.expected()
    }

    /// What lost events since the last call.
    pub(crate) fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// Takes in a buffer of inotify records, and gives out the changes with their masks.
    pub(crate) fn inotify(&mut self, filter: &Filter, bytes: &[u8], out: &mut dyn FnMut(u32, &[u8], Seen)) -> Taken {
        let Some(watches) = &mut self.watches else { return Taken::default() };
        rules!(filter, self, rules);
        let mut events = 0;
        let mut out = |mask: u32, path: &[u8], seen: Seen| {
            events += 1;
            out(mask, path, seen);
        };
        let handled = watches.handle(bytes, Instant::now(), &rules, &mut out);
        self.expires = watches.expire(Instant::now());
        if handled.overflow {
            self.lost.push(Lost::all(Cause::QueueOverflow));
        }
        if handled.corrupt.is_some() {
            self.lost.push(Lost::all(Cause::CorruptRecord));
        }
        let (overflow, unplaced, came) = (handled.overflow, handled.unplaced, handled.came);
        self.report(handled.report);
        if overflow {
            // Directories may have appeared without an event: their watches are missing.
            let places: Vec<RelPath> = self.places.iter().filter(|p| p.by == By::Inotify).map(|p| p.at.clone()).collect();
            for at in places {
                self.add_tree(filter, &at);
            }
        }
        Taken { events, unplaced, came }
    }

    /// Follows mounts that came and went. What came is marked, then compared. `None`: none of them
    /// concerns the source.
    pub(crate) fn remount(&mut self, mirror: &Mirror, root: &Root, resolver: &mut Resolver) -> Option<Vec<Lost>> {
        let News { trees, moved, bared } = self.mounted.poll(root.path(), &mirror.filter)?;
        // What lies outside may have become visible inside.
        resolver.unmute_all();
        // One that is gone, is there again, or has another filesystem on top. Through the old mount
        // no path leads here any more, though filesystem and directory may be the same.
        let stale = |p: &Place| !p.at.is_root() && (!trees.contains(&p.at) || p.sits.is_none() || sits_at(root, &p.at) != p.sits);
        for old in self.places.extract_if(.., |p| stale(p)).collect::<Vec<_>>() {
            self.bound.remove(&old.at);
            let fd = resolver.remove_mount(&old.at).filter(|_| self.mounted.absent().contains(&old.at));
            fd.into_iter().for_each(|fd| self.detached.keep(old.at.clone(), Instant::now(), fd));
            resolver.forget(root);
        }
        let mut lost: Vec<Lost> = moved.into_iter().map(|subtree| Lost { subtree, cause: Cause::MountChanged }).collect();
        for at in bared {
            tracing::info!(mirror = %mirror.name, at = %self.shown(root, &at), "unmounted; what lies below it is compared");
            lost.push(Lost { subtree: at, cause: Cause::MountChanged });
        }
        for at in trees {
            if self.places.iter().any(|p| p.at == at) {
                continue;
            }
            if let Err(error) = self.take_in(&at, root, resolver) {
                tracing::error!(mirror = %mirror.name, path = %Shown(&at), "{error}; it is compared periodically instead");
                self.unwatch(at.clone());
            } else if self.places.last().is_some_and(|p| p.by == By::Inotify) {
                self.add_tree(&mirror.filter, &at);
            }
            if let Some(p) = self.places.iter().find(|p| p.at == at) {
                tracing::info!(mirror = %mirror.name, filesystem = %self.shown(root, &at), by = p.by.name(), "mounted below the source: {}", p.why);
            }
            lost.push(Lost { subtree: at, cause: Cause::MountChanged });
        }
        self.release_detached();
        lost.append(&mut self.lost);
        Some(lost)
    }

    /// Lets go of filesystems that were unmounted a while ago, or are mounted again.
    pub(crate) fn release_detached(&mut self) {
        let absent = self.mounted.absent();
        self.detached.release(Instant::now(), |at| absent.contains(at));
    }

    /// The root, and where filesystems are mounted below it.
    pub(crate) fn places(&self) -> Vec<RelPath> {
        self.places.iter().map(|p| p.at.clone()).collect()
    }

    /// What is left alone: what is mounted below the root and not mirrored, and the places of
    /// filesystems that are gone.
    pub(crate) fn apart(&self) -> Apart {
        let mut apart = Apart::default();
        self.mounted.foreign().iter().for_each(|(at, why)| apart.put(at.clone(), why.clone()));
        self.mounted.absent().iter().for_each(|at| apart.put(at.clone(), Why::Held(Hold::Lost { at: at.clone() })));
        apart
    }

    /// The source is meant without the filesystem that was mounted there.
    pub(crate) fn give_up(&mut self, at: &RelPath) {
        self.mounted.give_up(at);
    }

    /// Whether every filesystem below the root is still there, but for those that `apart` knows of.
    /// One that is gone left an empty directory, and nothing may be concluded from that. The list
    /// of mounts may be a moment behind, which the directories are not.
    ///
    /// # Errors
    /// The first that is not there.
    pub(crate) fn check(&self, root: &Root, apart: &Apart) -> Result<(), Hold> {
        let is_gone = |p: &&Place| {
            self.mounted.expected().contains(&p.at)
                && !apart.covers(&p.at)
                && sits_at(root, &p.at).map(|s| s.dev) != p.sits.map(|s| s.dev)
        };
        self.places.iter().find(is_gone).map_or(Ok(()), |p| Err(Hold::Lost { at: p.at.clone() }))
    }

    /// Tries to watch what could not be watched; gives out what could, and returns what still
    /// cannot.
    pub(crate) fn retry_unwatched(&mut self, filter: &Filter, out: &mut dyn FnMut(&[u8], Seen)) -> Vec<RelPath> {
        if let Some(watches) = &mut self.watches {
            rules!(filter, self, rules);
            let report = watches.retry_unwatched(&rules, out);
            self.unwatched.retain(|p| report.lost.iter().any(|(lost, _)| is_at_or_below(lost, p)));
            for (path, _) in report.lost {
                if !self.unwatched.iter().any(|above| is_at_or_below(&path, above)) {
                    self.unwatched.push(path);
                }
            }
        }
        self.blind().cloned().collect()
    }

    /// What is not watched.
    fn blind(&self) -> impl Iterator<Item = &RelPath> {
        self.unwatched.iter().chain(&self.bound)
    }

    /// Which paths show the same.
    pub(crate) fn aliases(&self) -> Aliases {
        self.mounted.aliases().clone()
    }

    /// Removes watches of directories that left the tree, when their time has come.
    pub(crate) fn expire(&mut self) {
        if self.expires.is_some_and(|at| at <= Instant::now())
            && let Some(watches) = &mut self.watches
        {
            self.expires = watches.expire(Instant::now());
        }
    }

    /// When [`Watching::expire`] has something to do, as a time since `started`.
    pub(crate) fn expires(&self, started: Instant) -> Option<Duration> {
        self.expires.map(|at| at.saturating_duration_since(started))
    }

    fn shown(&self, root: &Root, at: &RelPath) -> String {
        let mut path = root.path().as_os_str().as_bytes().to_vec();
        if !at.is_root() {
            crate::path::push(&mut path, at);
        }
        Shown(&path).to_string()
    }

    /// How the filesystem of `path` is watched; and the subtree above or at it that is not, empty
    /// if there is none.
    pub(crate) fn explain(&self, root: &Root, path: &RelPath) -> (explain::Watched, String) {
        let unwatched = self.blind().find(|at| is_at_or_below(path, at)).map(ToString::to_string).unwrap_or_default();
        let place = self.places.iter().filter(|p| is_at_or_below(path, &p.at)).max_by_key(|p| p.at.len());
        let watched = place.map(|p| explain::Watched {
            mount: self.shown(root, &p.at),
            nested: !p.at.is_root(),
            backend: p.by.name().into(),
            why: p.why.clone(),
        });
        (watched.unwrap_or_default(), unwatched)
    }

    /// For the status. `unreported`: what inotify does not report.
    pub(crate) fn status(&self, root: &Root, unreported: &str) -> Vec<status::Watch> {
        let mut unwatched: Vec<String> = self.blind().map(ToString::to_string).collect();
        self.places
            .iter()
            .map(|p| status::Watch {
                mount: self.shown(root, &p.at),
                backend: p.by.name().into(),
                why: p.why.clone(),
                watches: match p.by {
                    By::Inotify => self.watches.as_ref().map_or(0, |w| w.count() as u64),
                    By::Fanotify => 0,
                },
                unwatched: std::mem::take(&mut unwatched),
                unreported: match p.by {
                    By::Inotify => unreported.into(),
                    By::Fanotify => String::new(),
                },
            })
            .collect()
    }
}

impl By {
    const fn name(self) -> &'static str {
        match self {
            By::Fanotify => "fanotify",
            By::Inotify => "inotify",
        }
    }
}

fn sits_at(root: &Root, at: &RelPath) -> Option<Sits> {
    sits(AT_FDCWD, &root.path().join(at.as_path())).ok()
}

/// An error with its cause, and what to do, in one line.
fn reason(e: &fanotify::Error) -> String {
    let cause = std::error::Error::source(e).map(|c| format!(": {c}")).unwrap_or_default();
    let help = e.help().map(|h| format!(" ({h})")).unwrap_or_default();
    format!("no fanotify: {e}{cause}{help}")
}

/// Opens where a filesystem is mounted, or was when it was last checked. The owner of a directory
/// above may have moved it away and put something else there: a FIFO would be waited for, a
/// symbolic link leads anywhere.
fn open_place(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let below = path.strip_prefix("/").map_err(|_| Errno::EINVAL)?;
    Ok(open_beneath(File::open("/")?, below, flags)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_the_place_of_a_mount_is_neither_waited_for_nor_followed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let at = |name: &str| top.join(name);
        std::fs::create_dir_all(at("d/mount")).unwrap();
        std::os::unix::fs::symlink("d", at("link")).unwrap();
        std::os::unix::fs::symlink("mount", at("d/last")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_place(&at("d/mount")).unwrap().metadata().unwrap().is_dir());
        for link in ["link/mount", "d/last"] {
            assert!(open_place(&at(link)).is_err(), "{link}");
        }
        let (done, ended) = std::sync::mpsc::channel();
        let fifo = at("fifo");
        std::thread::spawn(move || done.send(open_place(&fifo).map(drop)));
        ended.recv_timeout(Duration::from_secs(60)).expect("a FIFO is waited for").unwrap();
    }
}
