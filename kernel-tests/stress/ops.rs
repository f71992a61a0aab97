//! One process's work in a storm of system calls: every way in which a program changes a tree, at
//! random, on few names.
//!
//! The calls are the point, not what they make: each [`Act`] is a call (or the few that belong
//! together) that reaches the filesystem by a path of its own. Most fail now and then, as another
//! worker was faster or the filesystem has no such call; what the kernel answered is kept in the
//! [`Done`] of each.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use fastrand::Rng;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::linkat;

use crate::fixture::fs::Fs;
use crate::fixture::identity::acl;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Creat,
    Write,
    Append,
    Truncate,
    /// By name, which raises no event but that of an access by a modification.
    TruncateByName,
    Punch,
    Collapse,
    Insert,
    Zero,
    Allocate,
    MapWrite,
    Splice,
    CopyRange,
    Clone,
    Fsync,
    /// A file without a name is written, then linked.
    Nameless,
    /// Opened for writing and kept open.
    Hold,
    /// What was kept open is written once more and closed.
    Release,
    Link,
    LinkFromOutside,
    Unlink,
    Rename,
    NoReplace,
    Exchange,
    Whiteout,
    MoveOut,
    MoveIn,
    Mkdir,
    Rmdir,
    RemoveTree,
    Symlink,
    Mknod,
    Chmod,
    Chown,
    Times,
    /// The modification time alone.
    ModifiedOnly,
    SetXattr,
    RemoveXattr,
    SetAcl,
    Subvolume,
    Snapshot,
    DeleteSubvolume,
}

/// Those of [`Act`] that start a program; the last three are for btrfs.
const PROGRAMS: [Act; 5] = [Act::MapWrite, Act::Clone, Act::Subvolume, Act::Snapshot, Act::DeleteSubvolume];

impl Act {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Act> {
        SHARES.iter().map(|(act, _)| *act).chain(PROGRAMS)
    }
}

/// How often each of the others, relative to one another.
const SHARES: &[(Act, u32)] = &[
    (Act::Creat, 14),
    (Act::Write, 8),
    (Act::Append, 5),
    (Act::Truncate, 3),
    (Act::TruncateByName, 2),
    (Act::Punch, 2),
    (Act::Collapse, 1),
    (Act::Insert, 1),
    (Act::Zero, 1),
    (Act::Allocate, 1),
    (Act::Splice, 2),
    (Act::CopyRange, 3),
    (Act::Fsync, 1),
    (Act::Nameless, 2),
    (Act::Hold, 2),
    (Act::Release, 3),
    (Act::Link, 5),
    (Act::LinkFromOutside, 1),
    (Act::Unlink, 5),
    (Act::Rename, 6),
    (Act::NoReplace, 2),
    (Act::Exchange, 2),
    (Act::Whiteout, 1),
    (Act::MoveOut, 1),
    (Act::MoveIn, 2),
    (Act::Mkdir, 8),
    (Act::Rmdir, 1),
    (Act::RemoveTree, 1),
    (Act::Symlink, 3),
    (Act::Mknod, 2),
    (Act::Chmod, 3),
    (Act::Chown, 3),
    (Act::Times, 2),
    (Act::ModifiedOnly, 1),
    (Act::SetXattr, 3),
    (Act::RemoveXattr, 1),
    (Act::SetAcl, 1),
];

/// Those that start a program, so they are rare: one in this many.
const PROGRAM_EVERY: u64 = 75;

/// Operations without a pause, at most.
const BURST: usize = 16;

/// Files a worker keeps open at a time.
const HELD: usize = 3;

/// Paths a worker remembers.
const KNOWN: usize = 48;

/// What a storm may do.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What it works on.
    pub fs: Fs,
    /// Changes are noticed that raise no event unless open files are followed.
    pub followed: bool,
    /// What is left out, to narrow down a fault.
    pub without: Vec<Act>,
}

/// Where a storm works: all on one filesystem.
#[derive(Clone, Debug)]
pub struct Place {
    /// The tree that is mirrored.
    pub src: PathBuf,
    /// A directory outside of it.
    pub out: PathBuf,
}

/// One operation as it went. `serial` was taken before it began, `ended` after it.
#[derive(Debug)]
pub struct Done {
    /// When it began.
    pub at: SystemTime,
    pub serial: u64,
    pub ended: u64,
    pub worker: usize,
    pub act: Act,
    /// Relative to the source.
    pub paths: Vec<PathBuf>,
    pub result: Result<(), io::ErrorKind>,
}

/// One of the processes that change the tree.
#[derive(Debug)]
pub struct Worker {
    number: usize,
    rng: Rng,
    rules: Rules,
    place: Place,
    held: Vec<(File, PathBuf)>,
    used: Vec<PathBuf>,
    /// Where something was done before: half of what comes is done there again, else most names
    /// would lead to nothing.
    known: Vec<PathBuf>,
}

impl Worker {
    pub fn new(number: usize, seed: u64, rules: Rules, place: Place) -> Self {
        let rng = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        Worker { number, rng, rules, place, held: Vec::new(), used: Vec::new(), known: Vec::new() }
    }

    /// That many operations, with pauses as programs have them: what the mirror does meets the tree
    /// in all states.
    pub fn work(&mut self, operations: usize, serials: &mut dyn FnMut() -> u64) -> Vec<Done> {
        let mut log = Vec::with_capacity(operations);
        while log.len() < operations {
            for _ in 0..self.rng.usize(1..=BURST).min(operations - log.len()) {
                log.push(self.step(serials));
            }
            let pause = [0, 3, 10, 40][self.rng.usize(..4)];
            let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(pause as u8));
        }
        log
    }

    /// One random operation; `serials` numbers all of a storm.
    fn step(&mut self, serials: &mut dyn FnMut() -> u64) -> Done {
        let (at, serial) = (SystemTime::now(), serials());
        let act = self.choose(serial);
        self.used.clear();
        let result = self.apply(act, serial).map_err(|e| e.kind());
        let paths = std::mem::take(&mut self.used);
        if result.is_ok() {
            for path in &paths {
                if self.known.len() < KNOWN {
                    self.known.push(path.clone());
                } else {
                    let at = self.rng.usize(..KNOWN);
                    self.known[at].clone_from(path);
                }
            }
        }
        Done { at, serial, ended: serials(), worker: self.number, act, paths, result }
    }

    fn choose(&mut self, serial: u64) -> Act {
        loop {
            let act = self.throw(serial);
            let act = match act {
                Act::TruncateByName if !self.rules.followed => Act::Truncate,
                Act::ModifiedOnly if !self.rules.followed => Act::Times,
                act => act,
            };
            if !self.rules.without.contains(&act) {
                return act;
            }
        }
    }

    fn throw(&mut self, serial: u64) -> Act {
        if serial.is_multiple_of(PROGRAM_EVERY) && self.rng.bool() {
            let fitting = if self.rules.fs == Fs::Btrfs { &PROGRAMS[..] } else { &PROGRAMS[..2] };
            return fitting[self.rng.usize(..fitting.len())];
        }
        let all: u32 = SHARES.iter().map(|(_, share)| share).sum();
        let mut at = self.rng.u32(..all);
        let found = SHARES.iter().find(|(_, share)| {
            let here = at < *share;
            at = at.wrapping_sub(*share);
            here
        });
        found.map_or(Act::Write, |(act, _)| *act)
    }

    /// Notes a path, as it was named and where that leads through symbolic links, and gives it
    /// below the source.
    fn at(&mut self, path: PathBuf) -> PathBuf {
        let at = self.place.src.join(&path);
        let real =
            at.parent().and_then(|parent| parent.canonicalize().ok()).zip(at.file_name()).map(|(dir, name)| dir.join(name));
        let real = real.and_then(|real| real.strip_prefix(&self.place.src).ok().map(Path::to_path_buf));
        self.used.extend(real.filter(|real| *real != path));
        self.used.push(path);
        at
    }

    /// A name below the source: 5 on each of up to 4 levels, of which fewer exist the deeper it is.
    fn path(&mut self) -> PathBuf {
        if !self.known.is_empty() && self.rng.bool() {
            let path = self.known[self.rng.usize(..self.known.len())].clone();
            return self.at(path);
        }
        let depth = [1, 2, 2, 2, 3, 3, 3, 4][self.rng.usize(..8)];
        let path: PathBuf = (0..depth).map(|_| ["a", "b", "c d", "#e", "f\n"][self.rng.usize(..5)]).collect();
        self.at(path)
    }

    fn slot(&mut self) -> PathBuf {
        self.place.out.join(format!("slot{}", self.rng.u8(..6)))
    }

    fn volume(&mut self) -> PathBuf {
        let path = PathBuf::from(format!("volume{}", self.rng.u8(..4)));
        self.at(path)
    }

    fn len(&mut self) -> usize {
        [0, 1, 30, 700, 4096, 5000, 20_000, 150_000][self.rng.usize(..8)]
    }

    fn offset(&mut self) -> u64 {
        [0, 0, 10, 4096, 8192, 70_000][self.rng.usize(..6)]
    }

    /// An existing file opened for writing: no symbolic link, and without waiting for the other end
    /// of a pipe.
    fn file(&mut self) -> io::Result<File> {
        let path = self.path();
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn content(&self, serial: u64, len: usize) -> Vec<u8> {
        format!("{serial} ").bytes().cycle().take(len).collect()
    }

    fn allocate(&mut self, how: FallocateFlags, blocks: bool) -> io::Result<()> {
        let file = self.file()?;
        let (offset, len) = if blocks { (4096, 4096) } else { (self.offset(), 1 + self.len()) };
        Ok(fallocate(&file, how, offset as i64, len as i64)?)
    }

    fn apply(&mut self, act: Act, serial: u64) -> io::Result<()> {
        match act {
            Act::Creat => {
                let len = self.len();
                let new = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                    .open(self.path());
                new?.write_all(&self.content(serial, len))
            }
            Act::Write => {
                let (offset, len) = (self.offset(), self.len());
                self.file()?.write_all_at(&self.content(serial, len), offset)
            }
            Act::Append => {
                let len = self.len();
                let mut file = self.file()?;
                file.seek(SeekFrom::End(0))?;
                file.write_all(&self.content(serial, len))
            }
            Act::Truncate => {
                let len = self.len();
                self.file()?.set_len(len as u64)
            }
            Act::TruncateByName => {
                let (path, len) = (self.path(), self.len());
                if !fs::symlink_metadata(&path)?.is_file() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                Ok(nix::unistd::truncate(&path, len as i64)?)
            }
            Act::Punch => self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, false),
            Act::Collapse => self.allocate(FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, true),
            Act::Insert => self.allocate(FallocateFlags::FALLOC_FL_INSERT_RANGE, true),
            Act::Zero => self.allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, false),
            Act::Allocate => self.allocate(FallocateFlags::empty(), false),
            Act::MapWrite => {
                let path = self.path();
                let len = fs::symlink_metadata(&path).ok().filter(|meta| meta.is_file() && meta.len() > 0).map(|meta| meta.len());
                let len = len.ok_or(io::ErrorKind::InvalidInput)?;
                let steps = [format!("mmap 0 {len}"), format!("mwrite -S {} 0 {len}", serial % 256), "munmap".into()];
                program("xfs_io", |io| io.args(steps.iter().flat_map(|step| ["-c", step])).arg(path))
            }
            Act::Clone => {
                let (from, to) = (self.path(), self.path());
                if !fs::symlink_metadata(&from)?.is_file() || fs::symlink_metadata(&to).is_ok_and(|meta| !meta.is_file()) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                program("cp", |cp| cp.args(["--reflink=auto", "--no-dereference", "--"]).arg(from).arg(to))
            }
            Act::Splice => {
                let (mut from, mut into) = io::pipe()?;
                let len = self.len().min(30_000);
                into.write_all(&self.content(serial, len))?;
                drop(into);
                // The standard library copies from a pipe by splice(2).
                io::copy(&mut from, &mut self.file()?).map(drop)
            }
            Act::CopyRange => {
                let (mut from, mut to, len) = (self.file()?, self.file()?, self.len());
                from.seek(SeekFrom::Start(self.offset()))?;
                to.seek(SeekFrom::Start(self.offset()))?;
                // The standard library copies from file to file by copy_file_range(2).
                io::copy(&mut from.take(len as u64), &mut to).map(drop)
            }
            Act::Fsync => {
                let file = self.file()?;
                file.write_all_at(&self.content(serial, 20), 0)?;
                file.sync_all()
            }
            Act::Nameless => {
                let len = self.len();
                let path = self.path();
                let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
                let mut file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o640).open(dir)?;
                file.write_all(&self.content(serial, len))?;
                let name = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
                linkat(AT_FDCWD, name.as_str(), AT_FDCWD, &path, AtFlags::AT_SYMLINK_FOLLOW)?;
                if self.rng.bool() && self.held.len() < HELD {
                    self.held.push((file, path));
                }
                Ok(())
            }
            Act::Hold => {
                if self.held.len() == HELD {
                    return self.release(serial);
                }
                let path = self.path();
                let mut file =
                    OpenOptions::new().append(true).create(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
                if !file.metadata()?.is_file() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                file.write_all(&self.content(serial, 100))?;
                self.held.push((file, path));
                Ok(())
            }
            Act::Release => self.release(serial),
            Act::Link => fs::hard_link(self.path(), self.path()),
            Act::LinkFromOutside => {
                let aside = self.place.out.join(format!("aside{serial}"));
                fs::write(&aside, self.content(serial, 50))?;
                let linked = fs::hard_link(&aside, self.path());
                fs::remove_file(&aside)?;
                linked
            }
            Act::Unlink => fs::remove_file(self.path()),
            Act::Rename => fs::rename(self.path(), self.path()),
            Act::NoReplace => self.rename(RenameFlags::RENAME_NOREPLACE),
            Act::Exchange => self.rename(RenameFlags::RENAME_EXCHANGE),
            Act::Whiteout => self.rename(RenameFlags::RENAME_WHITEOUT),
            Act::MoveOut => fs::rename(self.path(), self.slot()),
            Act::MoveIn => fs::rename(self.slot(), self.path()),
            Act::Mkdir => fs::create_dir_all(self.path()),
            Act::Rmdir => fs::remove_dir(self.path()),
            Act::RemoveTree => {
                let path = self.path();
                // A level deep at least: the storm is not to begin with an empty tree again and
                // again.
                if path.parent() == Some(&self.place.src) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                fs::remove_dir_all(path)
            }
            Act::Symlink => symlink(["a", "../b", "/nowhere", "c d"][self.rng.usize(..4)], self.path()),
            Act::Mknod => {
                let kind = [SFlag::S_IFCHR, SFlag::S_IFBLK, SFlag::S_IFIFO, SFlag::S_IFSOCK][self.rng.usize(..4)];
                // Of no driver, so that opening one starts nothing. The numbers differ, as rsync
                // takes a block device for equal to a character device of its number.
                let device = match kind {
                    SFlag::S_IFCHR => makedev(0, serial % 3),
                    SFlag::S_IFBLK => makedev(0, 10 + serial % 3),
                    _ => 0,
                };
                Ok(mknod(&self.path(), kind, Mode::from_bits_truncate(0o644), device)?)
            }
            Act::Chmod => {
                let path = self.path();
                if fs::symlink_metadata(&path)?.is_symlink() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                fs::set_permissions(path, Permissions::from_mode([0o600, 0o755, 0o4755, 0o1777, 0o2750, 0][self.rng.usize(..6)]))
            }
            Act::Chown => lchown(self.path(), Some(self.rng.u32(..3)), Some(self.rng.u32(..3))),
            Act::Times => {
                let time = TimeSpec::new(1_600_000_000 + self.rng.i64(0..4), serial as i64 % 3);
                Ok(utimensat(AT_FDCWD, &self.path(), &time, &time, UtimensatFlags::NoFollowSymlink)?)
            }
            Act::ModifiedOnly => {
                let time = TimeSpec::new(1_600_000_000 + self.rng.i64(0..4), 0);
                Ok(utimensat(AT_FDCWD, &self.path(), &TimeSpec::UTIME_OMIT, &time, UtimensatFlags::NoFollowSymlink)?)
            }
            Act::SetXattr => {
                let (name, len) = (["user.a", "user.b", "trusted.c"][self.rng.usize(..3)], self.rng.usize(..200));
                xattr::set(self.path(), name, &self.content(serial, len))
            }
            Act::RemoveXattr => xattr::remove(self.path(), ["user.a", "user.b", "trusted.c"][self.rng.usize(..3)]),
            Act::SetAcl => {
                let (path, user) = (self.path(), self.rng.u32(1..4));
                if fs::symlink_metadata(&path)?.is_symlink() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                let name = ["system.posix_acl_access", "system.posix_acl_default"][self.rng.usize(..2)];
                xattr::set(path, name, &acl(user, self.rng.u16(..8)))
            }
            Act::Subvolume => btrfs(&["subvolume", "create"], &[&self.volume()]),
            Act::Snapshot => btrfs(&["subvolume", "snapshot"], &[&self.volume(), &self.volume()]),
            Act::DeleteSubvolume => btrfs(&["subvolume", "delete"], &[&self.volume()]),
        }
    }

    fn rename(&mut self, how: RenameFlags) -> io::Result<()> {
        Ok(renameat2(AT_FDCWD, &self.path(), AT_FDCWD, &self.path(), how)?)
    }

    /// Writes to what is open and closes it, whatever its names are by now.
    fn release(&mut self, serial: u64) -> io::Result<()> {
        if self.held.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (mut file, path) = self.held.swap_remove(self.rng.usize(..self.held.len()));
        self.used.extend(path.strip_prefix(&self.place.src).ok().map(Path::to_path_buf));
        file.write_all(&self.content(serial, 60))
    }
}

fn btrfs(command: &[&str], paths: &[&Path]) -> io::Result<()> {
    program("btrfs", |btrfs| btrfs.arg("-q").args(command).args(paths))
}

/// Runs a program to its end. Limited, since it may open a pipe where another worker had a file a
/// moment before.
fn program(name: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) -> io::Result<()> {
    let mut command = Command::new("timeout");
    let output = arguments(command.args(["5", name])).stdin(Stdio::null()).output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())) }
}
