//! `remove_source_files`: a file is removed from the source once every target has it.
//!
//! Promises: what is removed was read on both sides and found equal on **every** target, and is
//! the very file that was compared: inode, size, modification and change time are those noted
//! before the comparison, and no process has it open. What a user writes at any moment is either
//! noticed, and the file stays, or goes to a new file of that name. A directory is never removed,
//! nor anything while the mirror is held or a target does not answer.
//!
//! How, for some files at a time:
//!
//! 1. Note what each is (`Identity`): a regular file with one name that has not changed for
//!    `remove_after`, so that any later change has another change time.
//! 2. Ask each target, by a dry run that reads the contents (`Comparer::equal`). Only a file that
//!    rsync itself calls unchanged counts; silence is no proof.
//!    From before that until its removal nothing may become dirty there, on any target: what a
//!    directory above it that is renamed, or exchanged, brings in its place for a while is an event
//!    of that directory, and changes nothing of the file.
//! 3. Take a lease on it (fcntl(2), `F_SETLEASE`): the kernel grants it only where no process has
//!    the file open or mapped, and lets every later open wait. Under the lease it has to be what
//!    was noted.
//! 4. Rename it to [`HELD`], a directory that only root may enter, and see that it is this file
//!    that went there: a process that writes the old name from now on makes a new file.
//! 5. A moment later the lease must still be whole: an open that had found the file before its
//!    rename would have broken it. Then it is deleted; otherwise it goes back under its name.
//!
//! What a killed daemon leaves in [`HELD`] goes back to its place at the next start, whether that
//! moves files or not, beside what has its name now if there is something. Without leases (NFS, some FUSE filesystems) nothing is
//! removed.
//!
//! Gives up: a file with several names, or on another filesystem than the source's top, stays.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Error;
use super::compare::Comparer;
use crate::config::Mirror;
use crate::engine::{Handle, Live};
use crate::error::chain;
use crate::path::{self, RelPath};
use crate::role::mark;
use crate::root::Root;
use crate::status::Moved;
use crate::sys::lease::{hold_write_lease, lease_is_whole};
use crate::sys::rename::rename_to_free;

/// Where files are between their rename and their end, below [`mark::DIR`] of the source.
const HELD: &str = "moving";
/// Between two rounds, if nothing was left over.
const EVERY: Duration = Duration::from_secs(2);
/// Files that are compared at a time.
const AT_A_TIME: usize = 1_000;
/// Files that are held by a lease at a time; each is a descriptor.
const LEASED: usize = 200;
/// How long an open that found the file before its rename may take to come to its lease.
const GRACE: Duration = Duration::from_millis(100);
/// Change times have a grain, a tick of the kernel (10 ms at most): a file that changed longer ago
/// than this has another one after the next change.
const GRAIN: Duration = Duration::from_millis(50);
/// How long what changed may take to be on a target, before a round ends without a removal.
const FLUSH: Duration = Duration::from_secs(60);
/// What a target has otherwise is compared again after that.
const AGAIN: Duration = Duration::from_secs(60);
/// Files of which it is remembered that a target has them otherwise.
const REMEMBERED: usize = 100_000;
/// Between two lines of the log about files that stay.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// Keeps the thread of a mirror running; where the mirror removes nothing, nothing.
#[derive(Default)]
pub(crate) struct Moving {
    _lives: Option<mpsc::Sender<()>>,
}

/// Starts the thread of a mirror that wants one, or that only has files to put back.
pub(crate) fn start(mirror: &Mirror, engine: &Handle) -> Moving {
    let moves = mirror.remove_source_files;
    engine.moved.counts(moves);
    let left = mirror.source.join(mark::DIR).join(HELD);
    let (lives, ended) = mpsc::channel();
    let engine = engine.clone();
    let thread = std::thread::Builder::new().name("fansync-move".into()).spawn(move || match moves {
        true => run(&engine, &ended),
        // Here and not before: the source's filesystem may be frozen.
        false if left.symlink_metadata().is_ok() => recover(&engine, &ended),
        false => {}
    });
    if let Err(error) = thread
        && moves
    {
        tracing::error!(mirror = %mirror.name, %error, "no file is removed from the source: no thread can be started for it; restart fansync");
    }
    Moving { _lives: Some(lives) }
}

/// What a file is, as far as that distinguishes one content from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    dev: u64,
    ino: u64,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// Of a regular file with one name.
    fn of(stat: &FileStat) -> Option<Identity> {
        let regular = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        (regular && stat.st_nlink == 1).then_some(Identity {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    /// The same file with the same content, whatever its change time: a rename changes that.
    fn is_content_of(&self, stat: &FileStat) -> bool {
        Identity::of(stat).is_some_and(|now| Identity { changed: self.changed, ..now } == *self)
    }
}

/// Why a file is not looked at for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// A target has it otherwise.
    Differs,
    /// A process had it open, or it changed.
    InUse,
}

/// What stays for the time being, and why.
#[derive(Default)]
struct Stays {
    put_off: HashMap<RelPath, (Identity, Instant, Why)>,
    logged: HashMap<&'static str, Instant>,
}

impl Stays {
    fn waits(&self, path: &RelPath, identity: &Identity, now: Instant) -> Option<Why> {
        let (seen, again, why) = self.put_off.get(path)?;
        (seen == identity && now < *again).then_some(*why)
    }

    fn put_off(&mut self, path: RelPath, identity: Identity, why: Why, now: Instant) {
        if self.put_off.len() >= REMEMBERED {
            self.put_off.clear();
        }
        self.put_off.insert(path, (identity, now + AGAIN, why));
    }

    /// Whether a line of this kind is to be written.
    fn says(&mut self, what: &'static str, now: Instant) -> bool {
        let due = self.logged.get(what).is_none_or(|at| now.saturating_duration_since(*at) >= SAY_AGAIN);
        if due {
            self.logged.insert(what, now);
        }
        due
    }
}

/// Puts back what is left of a time in which files were moved.
fn recover(engine: &Handle, ended: &mpsc::Receiver<()>) {
    while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let Some(target) = engine.targets.first() else { return };
        match Live::new(engine.clone(), target.clone()).plan() {
            Some(Ok(plan)) => {
                put_all_back(&plan.mirror, &plan.root);
                return forget(&plan.root);
            }
            Some(Err(_)) => {}
            None => return,
        }
    }
}

fn run(engine: &Handle, ended: &mpsc::Receiver<()>) {
    let mut stays = Stays::default();
    let mut recovered = false;
    let going = || !matches!(ended.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    loop {
        if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let Some(plans) = plans(engine) else { return };
        let Ok(plans) = plans else { continue };
        let Some((mirror, root)) = plans.first().map(|plan| (&plan.mirror, &plan.root)) else { continue };
        if !std::mem::replace(&mut recovered, true) {
            put_all_back(mirror, root);
        }
        let now = Instant::now();
        let found = candidates(mirror, root, SystemTime::now(), &|path, identity| stays.waits(path, identity, now));
        let Found { files: found, mut stay, full } = found;
        engine.moved.change(|moved| stay.shown(moved, full));
        if found.is_empty() {
            continue;
        }
        let paths: Vec<RelPath> = found.iter().map(|(path, _)| path.clone()).collect();
        let Some(watched) = watch(engine, &paths) else { return };
        // After a cancellation the next wait finds the end.
        let Some(proven) = proven(&plans, paths, &going) else {
            watched.into_iter().for_each(|chunk| _ = chunk.end());
            continue;
        };
        let differ: Vec<&(RelPath, Identity)> = found.iter().filter(|(path, _)| !proven.contains(path)).collect();
        if let Some((first, _)) = differ.first()
            && stays.says("differs", now)
        {
            tracing::info!(
                mirror = %mirror.name, files = differ.len(), %first,
                "files stay in the source for now, as a target does not have them as they are here"
            );
        }
        stay.waiting -= differ.len() as u64;
        stay.differing += differ.len() as u64;
        differ.into_iter().cloned().for_each(|(path, identity)| stays.put_off(path, identity, Why::Differs, now));
        let found: HashMap<&RelPath, &Identity> = found.iter().map(|(path, identity)| (path, identity)).collect();
        let proven: HashSet<RelPath> = proven.into_iter().collect();
        for chunk in watched {
            let quiet = chunk.quiet();
            // A hold may have begun meanwhile.
            if !going() || !matches!(self::plans(engine), Some(Ok(_))) {
                continue;
            }
            let some = quiet.iter().filter(|path| proven.contains(*path));
            let ended = remove(mirror, root, some.filter_map(|path| Some((path, **found.get(path)?))), &mut stays);
            stay.waiting -= ended.removed + ended.in_use.len() as u64 + ended.unremovable;
            stay.in_use += ended.in_use.len() as u64;
            stay.unremovable += ended.unremovable;
            engine.moved.change(|moved| ended.counted(moved));
            // Others behind them would never be found.
            if full {
                ended.in_use.into_iter().for_each(|(path, identity)| stays.put_off(path, identity, Why::InUse, now));
            }
        }
        engine.moved.change(|moved| stay.shown(moved, full));
    }
}

/// Those that every target has; `None` where not all answered.
fn proven(plans: &[crate::engine::Plan], mut paths: Vec<RelPath>, going: &dyn Fn() -> bool) -> Option<Vec<RelPath>> {
    for plan in plans {
        if paths.is_empty() {
            break;
        }
        match Comparer::new(plan, true, going).equal(&paths) {
            Ok(equal) => paths.retain(|path| equal.contains(path)),
            Err(Error::Cancelled) => return None,
            Err(error) => {
                let (mirror, target) = (&plan.mirror.name, &plan.sides.target.name);
                tracing::debug!(%mirror, target_name = %target, %error, "nothing is removed from the source");
                return None;
            }
        }
    }
    Some(paths)
}

/// Files that are watched, on every target, from before their comparison until their removal. A
/// directory above them that is renamed shows in neither their inode nor their change time: another
/// one may have been in its place for a while, and what it had may be on a target.
struct Watched {
    paths: Vec<RelPath>,
    by: Vec<(Live, u64)>,
    owed: HashSet<RelPath>,
}

/// Watches these, as many together as are removed together. `None`: the engine has ended.
fn watch(engine: &Handle, paths: &[RelPath]) -> Option<Vec<Watched>> {
    let mut out = Vec::new();
    for some in paths.chunks(LEASED) {
        let mut watched = Watched { paths: some.to_vec(), by: Vec::new(), owed: HashSet::new() };
        for target in &engine.targets {
            let live = Live::new(engine.clone(), target.clone());
            let (id, owed) = live.watch(some.to_vec())?;
            watched.owed.extend(owed);
            watched.by.push((live, id));
        }
        out.push(watched);
    }
    Some(out)
}

impl Watched {
    /// Ends the watches: what every target had all the time, if all events up to now are read.
    fn quiet(self) -> Vec<RelPath> {
        // A flush comes behind every event.
        let all = self.by.iter().all(|(live, _)| live.flush(FLUSH).is_some_and(|(waiting, _)| waiting.is_empty()));
        let quiet = self.end();
        if all { quiet } else { Vec::new() }
    }

    fn end(self) -> Vec<RelPath> {
        let Watched { mut paths, by, mut owed } = self;
        for (live, id) in by {
            match live.unwatch(id) {
                Some(touched) => owed.extend(touched),
                None => paths.clear(),
            }
        }
        paths.retain(|path| !owed.contains(path));
        paths
    }
}

/// What each target is to be compared with; in words, why nothing can be. `None`: the engine has
/// ended.
fn plans(engine: &Handle) -> Option<Result<Vec<crate::engine::Plan>, String>> {
    let mut out = Vec::new();
    for target in &engine.targets {
        match Live::new(engine.clone(), target.clone()).plan()? {
            Ok(mut plan) => {
                plan.idle = true;
                out.push(plan);
            }
            Err(why) => return Some(Err(why)),
        }
    }
    Some(Ok(out))
}

// ----- which files -----

/// How many files stay for now, and why.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stay {
    /// Not old enough, or not compared yet.
    waiting: u64,
    in_use: u64,
    differing: u64,
    unremovable: u64,
}

impl Stay {
    fn shown(&self, moved: &mut Moved, more: bool) {
        (moved.waiting, moved.in_use, moved.more) = (self.waiting, self.in_use, more);
        (moved.differing, moved.unremovable) = (self.differing, self.unremovable);
    }
}

/// The files of a round.
#[derive(Default)]
struct Found {
    /// Those that may go.
    files: Vec<(RelPath, Identity)>,
    /// All that were looked at.
    stay: Stay,
    /// There may be others.
    full: bool,
}

/// Files that may go, at most [`AT_A_TIME`]; not those that `waits`.
fn candidates(mirror: &Mirror, root: &Root, now: SystemTime, waits: &dyn Fn(&RelPath, &Identity) -> Option<Why>) -> Found {
    let latest =
        now.checked_sub(mirror.remove_after.max(GRAIN)).and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let latest = (latest.as_secs() as i64, i64::from(latest.subsec_nanos()));
    let mut out = Found::default();
    let mut left = vec![RelPath::root()];
    while let Some(dir) = left.pop() {
        let Ok(fd) = open_dir(root, &dir) else { continue };
        let Ok(mut listing) = Dir::from_fd(fd) else { continue };
        let names: Vec<OsString> = (listing.iter().flatten())
            .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
            .filter(|name| name != "." && name != "..")
            .collect();
        for name in names {
            let path = dir.join(name.as_bytes());
            let Ok(stat) = fstatat(&listing, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            let is_dir = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
            if stat.st_dev != root.dev() || mirror.filter.excludes(&path, is_dir) {
                continue;
            }
            if is_dir {
                left.push(path);
                continue;
            }
            let small = mirror.max_file_size.is_none_or(|most| stat.st_size.cast_unsigned() <= most);
            let Some(identity) = Identity::of(&stat).filter(|_| small) else { continue };
            match waits(&path, &identity) {
                Some(Why::Differs) => out.stay.differing += 1,
                Some(Why::InUse) => out.stay.in_use += 1,
                None => {
                    out.stay.waiting += 1;
                    if identity.changed < latest {
                        out.files.push((path, identity));
                    }
                }
            }
            if out.files.len() == AT_A_TIME {
                out.full = true;
                return out;
            }
        }
    }
    out
}

// ----- their end -----

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A directory of the source, by its parts, so that no symbolic link is followed.
fn open_dir(root: &Root, dir: &[u8]) -> nix::Result<OwnedFd> {
    let mut fd = openat(root, ".", DIRECTORY, Mode::empty())?;
    for name in dir.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        fd = openat(&fd, OsStr::from_bytes(name), DIRECTORY, Mode::empty())?;
    }
    Ok(fd)
}

/// The same, and makes what is missing with this mode.
fn make_dir(from: OwnedFd, dir: &[u8], mode: Mode) -> nix::Result<OwnedFd> {
    let mut fd = from;
    for name in dir.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        match mkdirat(&fd, name, mode) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        fd = openat(&fd, name, DIRECTORY, Mode::empty())?;
    }
    Ok(fd)
}

/// The directory of files on their way out, which no other user may enter.
fn held_dir(root: &Root) -> nix::Result<OwnedFd> {
    let above = make_dir(openat(root, ".", DIRECTORY, Mode::empty())?, mark::DIR.as_bytes(), Mode::from_bits_truncate(0o755))?;
    let held = make_dir(above, HELD.as_bytes(), Mode::S_IRWXU)?;
    let stat = fstat(&held)?;
    // Another process made it.
    if stat.st_uid != nix::unistd::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Err(Errno::EPERM);
    }
    Ok(held)
}

/// A file on its way out.
struct Leased {
    path: RelPath,
    identity: Identity,
    /// With the lease.
    file: OwnedFd,
    /// Where it was, and where it is.
    dir: OwnedFd,
    held: OwnedFd,
    name: OsString,
}

/// Why a file stays.
enum Kept {
    /// It is another one, or another process has it open.
    InUse,
    /// The filesystem cannot do what it takes.
    Cannot(io::Error),
}

impl From<Errno> for Kept {
    fn from(error: Errno) -> Kept {
        Kept::Cannot(error.into())
    }
}

/// What became of files that every target has.
#[derive(Default)]
struct Ended {
    removed: u64,
    bytes: u64,
    in_use: Vec<(RelPath, Identity)>,
    unremovable: u64,
}

impl Ended {
    fn counted(&self, moved: &mut Moved) {
        (moved.files, moved.bytes) = (moved.files + self.removed, moved.bytes + self.bytes);
        if self.removed > 0 {
            moved.last_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        }
    }
}

fn remove<'p>(mirror: &Mirror, root: &Root, wanted: impl Iterator<Item = (&'p RelPath, Identity)>, stays: &mut Stays) -> Ended {
    let now = Instant::now();
    let (mut leased, mut ended) = (Vec::new(), Ended::default());
    let mut cannot: Option<(RelPath, io::Error)> = None;
    for (path, identity) in wanted {
        match take(root, path, identity) {
            Ok(one) => leased.push(one),
            Err(Kept::InUse) => ended.in_use.push((path.clone(), identity)),
            Err(Kept::Cannot(error)) => {
                ended.unremovable += 1;
                cannot.get_or_insert_with(|| (path.clone(), error));
            }
        }
    }
    if let Some((path, error)) = cannot
        && stays.says("cannot", now)
    {
        tracing::warn!(mirror = %mirror.name, %path, %error, "a file that every target has cannot be removed from the source");
    }
    if leased.is_empty() {
        return ended;
    }
    std::thread::sleep(GRACE);
    for one in leased {
        match end(&one) {
            Ok(true) => {
                ended.removed += 1;
                ended.bytes += one.identity.size.cast_unsigned();
            }
            Ok(false) => {
                put_back(mirror, &one.held, &one.name, &one.dir, &one.path);
                ended.in_use.push((one.path, one.identity));
            }
            Err(error) => {
                ended.unremovable += 1;
                if stays.says("cannot", now) {
                    tracing::warn!(mirror = %mirror.name, path = %one.path, %error, "a file that every target has cannot be removed from the source");
                }
                put_back(mirror, &one.held, &one.name, &one.dir, &one.path);
            }
        }
    }
    sweep(root);
    if ended.removed > 0 {
        tracing::info!(mirror = %mirror.name, files = ended.removed, "files were removed from the source, as every target has them");
    }
    ended
}

/// Takes the lease on a file and renames it out of the tree.
fn take(root: &Root, path: &RelPath, identity: Identity) -> Result<Leased, Kept> {
    let above = path::parent(path).unwrap_or_default();
    let name = OsStr::from_bytes(path::base(path)).to_owned();
    let dir = open_dir(root, above).map_err(|_| Kept::InUse)?;
    // What was a file may be a FIFO by now, at which an open would wait.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(&dir, name.as_os_str(), flags, Mode::empty()).map_err(|_| Kept::InUse)?;
    let same = |stat: nix::Result<FileStat>| stat.is_ok_and(|stat| Identity::of(&stat) == Some(identity));
    if !same(fstat(&file)) {
        return Err(Kept::InUse);
    }
    match hold_write_lease(file.as_fd()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Kept::InUse),
        Err(error) => return Err(Kept::Cannot(error)),
    }
    // Under the lease no process can write it any more.
    if !same(fstat(&file)) {
        return Err(Kept::InUse);
    }
    let held = make_dir(held_dir(root)?, above, Mode::S_IRWXU)?;
    rename_to_free(dir.as_fd(), &name, held.as_fd(), &name)?;
    let one = Leased { path: path.clone(), identity, file, dir, held, name };
    // Whether it is this one that went.
    match fstatat(&one.held, one.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if identity.is_content_of(&stat) => Ok(one),
        _ => {
            let restored = rename_to_free(one.held.as_fd(), &one.name, one.dir.as_fd(), &one.name);
            match restored {
                Ok(()) => Err(Kept::InUse),
                // Its name is taken again: it gets another beside it, at the end of this round.
                Err(_) => Ok(one),
            }
        }
    }
}

/// Deletes it, if it is still what it was, and no process opened it meanwhile.
fn end(one: &Leased) -> io::Result<bool> {
    let whole = lease_is_whole(one.file.as_fd())?;
    let open = one.identity.is_content_of(&fstat(&one.file)?);
    let named = fstatat(&one.held, one.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if !(whole && open && one.identity.is_content_of(&named)) {
        return Ok(false);
    }
    unlinkat(&one.held, one.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
    Ok(true)
}

/// Renames it back; beside what has its name now, if there is something.
fn put_back(mirror: &Mirror, held: &OwnedFd, name: &OsStr, dir: &OwnedFd, path: &RelPath) {
    let to = |to: &OsStr| rename_to_free(held.as_fd(), name, dir.as_fd(), to);
    let back = to(name).or_else(|_| {
        let beside = format!(".fansync-kept-{:016x}", fastrand::u64(..));
        tracing::warn!(mirror = %mirror.name, %path, %beside, "a file was put back into the source beside another one that has its name by now");
        to(OsStr::new(&beside))
    });
    if let Err(error) = back {
        tracing::error!(
            mirror = %mirror.name, %path, %error,
            "a file cannot be put back into the source; it is in {}/{HELD}, under its path", mark::DIR
        );
    }
}

/// Removes [`HELD`] where nothing is left in it: it would be copied.
fn forget(root: &Root) {
    if let Ok(above) = open_dir(root, mark::DIR.as_bytes())
        && unlinkat(&above, HELD, UnlinkatFlags::RemoveDir).is_ok()
    {
        let _ = unlinkat(root, mark::DIR, UnlinkatFlags::RemoveDir);
    }
}

/// Removes the directories that are empty; the others stay.
fn sweep(root: &Root) {
    fn below(dir: &OwnedFd) {
        for name in names(dir) {
            if let Ok(sub) = openat(dir, name.as_os_str(), DIRECTORY, Mode::empty()) {
                below(&sub);
                let _ = unlinkat(dir, name.as_os_str(), UnlinkatFlags::RemoveDir);
            }
        }
    }
    if let Ok(held) = held_dir(root) {
        below(&held);
    }
}

fn names(dir: &OwnedFd) -> Vec<OsString> {
    let listing = dir.try_clone().ok().and_then(|fd| Dir::from_fd(fd).ok());
    let mut names = Vec::new();
    for entry in listing.into_iter().flat_map(|mut listing| listing.iter().flatten().collect::<Vec<_>>()) {
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names
}

/// What an earlier daemon left on its way goes back.
fn put_all_back(mirror: &Mirror, root: &Root) {
    fn below(mirror: &Mirror, root: &Root, held: &OwnedFd, at: &RelPath) -> u64 {
        let mut count = 0;
        for name in names(held) {
            let path = at.join(name.as_bytes());
            if let Ok(sub) = openat(held, name.as_os_str(), DIRECTORY, Mode::empty()) {
                count += below(mirror, root, &sub, &path);
                continue;
            }
            let top = openat(root, ".", DIRECTORY, Mode::empty());
            match top.and_then(|top| make_dir(top, at, Mode::S_IRWXU)) {
                Ok(dir) => put_back(mirror, held, &name, &dir, &path),
                Err(error) => tracing::error!(
                    mirror = %mirror.name, %path, error = %chain(&io::Error::from(error)),
                    "a file cannot be put back into the source; it is in {}/{HELD}, under its path", mark::DIR
                ),
            }
            count += 1;
        }
        count
    }
    let Ok(held) = held_dir(root) else { return };
    let count = below(mirror, root, &held, &RelPath::root());
    sweep(root);
    if count > 0 {
        tracing::info!(mirror = %mirror.name, files = count, "files that were on their way out of the source were put back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::path::PathBuf;

    struct Tree {
        at: tempfile::TempDir,
        root: Root,
        mirror: Mirror,
    }

    impl Tree {
        fn new() -> Tree {
            let at = tempfile::tempdir().unwrap();
            let root = Root::open(at.path()).unwrap();
            let mut mirror = Mirror::new("m", at.path());
            mirror.remove_after = Duration::from_millis(1);
            mirror.filter = crate::filter::Filter::new(&[] as &[&str], &["/.fansync", "*.tmp"]).unwrap();
            Tree { at, root, mirror }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.at.path().join(name)
        }

        fn write(&self, name: &str, text: &str) -> Identity {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), text).unwrap();
            self.identity(name)
        }

        fn identity(&self, name: &str) -> Identity {
            Identity::of(&nix::sys::stat::lstat(&self.path(name)).unwrap()).unwrap()
        }

        fn take(&self, name: &str, identity: Identity) -> Option<Leased> {
            take(&self.root, &RelPath::from_normal(name), identity).ok()
        }

        fn later(&self) -> Vec<String> {
            let found = candidates(&self.mirror, &self.root, SystemTime::now() + Duration::from_secs(1), &|_, _| None);
            let mut paths: Vec<String> = found.files.iter().map(|(path, _)| path.to_string()).collect();
            paths.sort();
            paths
        }
    }

    #[test]
    fn plain_files_with_one_name_that_are_old_enough_may_go() {
        let t = Tree::new();
        for name in ["a", "d/b", "d/e/c", "x.tmp", ".fansync/role", "two", "large"] {
            t.write(name, name);
        }
        fs::hard_link(t.path("two"), t.path("names")).unwrap();
        std::os::unix::fs::symlink("a", t.path("link")).unwrap();
        assert_eq!(t.later(), ["a", "d/b", "d/e/c", "large"]);
        let mut t = t;
        t.mirror.max_file_size = Some(4);
        assert_eq!(t.later(), ["a", "d/b"]);
        t.mirror.remove_after = Duration::from_secs(3600);
        assert_eq!(t.later(), [] as [&str; 0]);
    }

    #[test]
    fn what_stays_is_counted_by_why() {
        let t = Tree::new();
        for name in ["a", "b", "c", "d"] {
            t.write(name, "1234");
        }
        let why = |path: &RelPath, _: &Identity| match &**path {
            b"a" => Some(Why::Differs),
            b"b" => Some(Why::InUse),
            _ => None,
        };
        for (later, files) in [(0, 0), (3600, 2)] {
            let now = SystemTime::now() - Duration::from_secs(10) + Duration::from_secs(later);
            let found = candidates(&t.mirror, &t.root, now, &why);
            let stay = Stay { waiting: 2, in_use: 1, differing: 1, unremovable: 0 };
            assert_eq!((found.files.len(), found.stay, found.full), (files, stay, false), "{later}");
        }
        let wanted: Vec<_> = ["c", "d"].map(|name| (RelPath::from_normal(name), t.identity(name))).into();
        let open = fs::File::open(t.path("d")).unwrap();
        let ended = remove(&t.mirror, &t.root, wanted.iter().map(|(path, identity)| (path, *identity)), &mut Stays::default());
        drop(open);
        assert_eq!((ended.removed, ended.bytes, ended.in_use, ended.unremovable), (1, 4, vec![wanted[1].clone()], 0));
    }

    #[test]
    fn the_very_file_goes_and_its_directory_stays() {
        let t = Tree::new();
        let identity = t.write("d/e/f", "content");
        let one = t.take("d/e/f", identity).unwrap();
        assert!(!t.path("d/e/f").exists() && t.path(".fansync/moving/d/e/f").exists());
        assert!(end(&one).unwrap());
        drop(one);
        sweep(&t.root);
        assert!(t.path("d/e").is_dir() && !t.path(".fansync/moving/d").exists());
    }

    #[test]
    fn what_changed_or_is_open_stays() {
        let t = Tree::new();
        let other = |change: &dyn Fn()| {
            let identity = t.write("f", "content");
            change();
            assert!(t.take("f", identity).is_none());
            assert!(t.path("f").exists() && !t.path(".fansync/moving/f").exists());
        };
        other(&|| fs::write(t.path("f"), "changed, and longer").unwrap());
        other(&|| {
            fs::write(t.path("g"), "content").unwrap();
            fs::rename(t.path("g"), t.path("f")).unwrap();
        });
        other(&|| {
            let before = t.identity("f");
            // A change time has a grain.
            while t.identity("f") == before {
                fs::set_permissions(t.path("f"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
            }
        });
        for open in [true, false] {
            let identity = t.write("f", "content");
            let held = fs::OpenOptions::new().read(true).write(open).open(t.path("f")).unwrap();
            assert!(t.take("f", identity).is_none(), "another has it open, for writing: {open}");
            drop(held);
        }
        let identity = t.write("f", "content");
        fs::remove_file(t.path("f")).unwrap();
        nix::unistd::mkfifo(&t.path("f"), Mode::S_IRWXU).unwrap();
        assert!(t.take("f", identity).is_none(), "a FIFO is no file, and is not waited for");
    }

    /// A process had the file's name resolved before its rename, and comes to open it after.
    #[test]
    fn an_open_that_comes_between_brings_it_back() {
        let t = Tree::new();
        let identity = t.write("f", "content");
        let one = t.take("f", identity).unwrap();
        let late = fs::OpenOptions::new().append(true).custom_flags_nonblock().open(t.path(".fansync/moving/f"));
        assert!(late.is_err(), "it has to wait for the lease");
        assert!(!end(&one).unwrap());
        put_back(&t.mirror, &one.held, &one.name, &one.dir, &one.path);
        drop(one);
        fs::OpenOptions::new().append(true).open(t.path("f")).unwrap().write_all(b" and more").unwrap();
        assert_eq!(fs::read(t.path("f")).unwrap(), b"content and more");
    }

    trait Nonblock {
        fn custom_flags_nonblock(&mut self) -> &mut Self;
    }

    impl Nonblock for fs::OpenOptions {
        fn custom_flags_nonblock(&mut self) -> &mut Self {
            std::os::unix::fs::OpenOptionsExt::custom_flags(self, nix::libc::O_NONBLOCK)
        }
    }

    #[test]
    fn a_new_file_of_the_name_is_left_alone() {
        let t = Tree::new();
        let identity = t.write("d/f", "old");
        let one = t.take("d/f", identity).unwrap();
        t.write("d/f", "new");
        assert!(end(&one).unwrap(), "the old one goes");
        assert_eq!(fs::read(t.path("d/f")).unwrap(), b"new");
        // The same where the old one has to come back.
        let identity = t.write("d/g", "old");
        let one = t.take("d/g", identity).unwrap();
        t.write("d/g", "new");
        put_back(&t.mirror, &one.held, &one.name, &one.dir, &one.path);
        // The lease ends with it; until then a process that opens the file waits.
        drop(one);
        assert_eq!(fs::read(t.path("d/g")).unwrap(), b"new");
        let kept: Vec<_> = fs::read_dir(t.path("d")).unwrap().flatten().map(|e| e.path()).collect();
        let kept = kept.iter().find(|p| p.to_str().unwrap().contains(".fansync-kept-")).unwrap();
        assert_eq!(fs::read(kept).unwrap(), b"old");
    }

    #[test]
    fn what_a_killed_daemon_left_goes_back() {
        let t = Tree::new();
        for name in ["d/f", "gone/g", "taken", ".fansync/moving/d/x"] {
            t.write(name, name);
        }
        fs::set_permissions(t.path(".fansync/moving"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        for name in ["d/f", "gone/g", "taken"] {
            let identity = t.identity(name);
            drop(t.take(name, identity).unwrap());
        }
        fs::remove_dir(t.path("gone")).unwrap();
        t.write("taken", "by another");
        put_all_back(&t.mirror, &t.root);
        for (name, want) in [("d/f", "d/f"), ("gone/g", "gone/g"), ("taken", "by another"), ("d/x", ".fansync/moving/d/x")] {
            assert_eq!(fs::read(t.path(name)).unwrap(), want.as_bytes(), "{name}");
        }
        let kept = fs::read_dir(t.path("")).unwrap().flatten().filter(|e| e.file_name().to_str().unwrap().contains("kept"));
        assert_eq!(kept.map(|e| fs::read(e.path()).unwrap()).collect::<Vec<_>>(), [b"taken"]);
        assert_eq!(fs::read_dir(t.path(".fansync/moving")).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_others_may_enter_is_not_used() {
        let t = Tree::new();
        fs::create_dir_all(t.path(".fansync/moving")).unwrap();
        fs::set_permissions(t.path(".fansync/moving"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let identity = t.write("f", "content");
        assert!(t.take("f", identity).is_none() && t.path("f").exists());
    }
}
