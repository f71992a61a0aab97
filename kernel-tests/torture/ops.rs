//! What a storm is made of: one random operation on a small name space, as any program might do it,
//! by several threads at once.
//!
//! Left out is only what the kernel reports to no process, so that every difference counts:
//!
//! * A write through a name outside of the tree, of a file that has one inside.
//! * A rewrite that keeps size *and* mtime ([`Op::Twin`]) is lost when the daemon dies before it was sent: its first pass
//!   compares these two. In a storm with a crash in it ([`Mood::Crash`]) every write therefore sets an mtime that nothing had.
//!
//! Every operation may fail, since the other thread may have been faster; the kernel's answer is
//! kept in the log.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

/// What the storm must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Anything.
    Any,
    /// Nothing that a comparison of size and mtime cannot see.
    Crash,
    /// Anything, but mostly renames, and at a pace that leaves the targets in sync in between: so
    /// that they travel as such.
    Moves,
}

/// Where the operations work: all on one filesystem.
#[derive(Clone, Debug)]
pub struct Place {
    /// The tree that is mirrored.
    pub src: PathBuf,
    /// A directory outside of it, for what is moved out and in again.
    pub out: PathBuf,
    /// Another, for files that are linked into the tree.
    pub store: PathBuf,
}

/// One operation. Paths are relative to [`Place::src`], slots to [`Place::out`].
#[derive(Clone, Debug)]
pub enum Op {
    Create(PathBuf, usize),
    Rewrite(PathBuf, usize),
    /// In place, without changing the size.
    Overwrite(PathBuf),
    /// In place, without changing the size, and then the mtime set back to what it was.
    Twin(PathBuf),
    Append(PathBuf, usize),
    /// Opened with `O_TRUNC` and closed.
    Empty(PathBuf),
    /// Written aside and renamed over, as editors do.
    Replace(PathBuf, usize),
    /// Two writes with the file open in between.
    Slow(PathBuf, usize),
    Mkdir(PathBuf),
    /// A directory with something in it.
    Plant(PathBuf, PathBuf),
    Symlink(PathBuf, PathBuf),
    Fifo(PathBuf),
    Remove(PathBuf),
    Rmdir(PathBuf),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Out(PathBuf, String),
    In(String, PathBuf),
    /// What was moved out is removed there.
    Drop(String),
    Chmod(PathBuf, u32),
    Chown(PathBuf, u32),
    Time(PathBuf, Option<i64>),
    /// Removed and made again as another kind of thing.
    Retype(PathBuf, Kind),
    /// A new file, made outside and linked in; its other name stays, or is removed at once.
    Publish(PathBuf, bool),
    Link(PathBuf, PathBuf),
}

/// What [`Op::Retype`] makes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
}

/// Throws operations.
#[derive(Debug)]
pub struct Dice {
    rng: Rng,
    mood: Mood,
}

/// Moved-out things at a time.
const SLOTS: usize = 6;

impl Dice {
    pub fn new(seed: u64, mood: Mood) -> Dice {
        Dice { rng: Rng::with_seed(seed), mood }
    }

    pub fn below(&mut self, sides: usize) -> usize {
        self.rng.usize(..sides)
    }

    /// The names of a level: about 200 paths down to depth 4, hostile ones among them.
    fn path(&mut self) -> PathBuf {
        let depth = [1, 1, 2, 2, 2, 3, 3, 4][self.below(8)];
        if self.mood == Mood::Moves {
            return (0..depth.min(3))
                .map(|level| ["a", "b", "c d", "#e", "f"][self.below(if level < 2 { 5 } else { 2 })])
                .collect();
        }
        (0..depth).map(|level| ["a", "b", "#c", "d \n", "e"][self.below(if level < 2 { 5 } else { 2 })]).collect()
    }

    fn slot(&mut self) -> String {
        format!("slot{}", self.below(SLOTS))
    }

    fn len(&mut self) -> usize {
        if self.mood == Mood::Moves && self.below(3) == 0 {
            return 300_000; // large enough to be renamed by itself
        }
        match self.below(100) {
            0 => 300_000,
            1..=4 => 5_000 + self.below(9_000),
            5..=8 => 0,
            _ => 1 + self.below(60),
        }
    }

    /// The next operation.
    pub fn throw(&mut self) -> Op {
        let path = self.path();
        if self.mood == Mood::Moves {
            return match self.below(100) {
                0..=47 => Op::Rename(path, self.path()),
                48..=51 => Op::Exchange(path, self.path()),
                52..=61 => Op::Plant(path, self.path()),
                62..=69 => Op::Create(path, self.len()),
                70..=73 => Op::Overwrite(path),
                74..=77 => Op::Twin(path),
                78..=79 => Op::Append(path, self.len()),
                80..=84 => Op::Chmod(path, 0o600 + self.below(0o200) as u32),
                85..=89 => Op::Mkdir(path),
                90..=92 => Op::Remove(path),
                93..=94 => Op::Replace(path, self.len()),
                95..=96 => Op::Symlink(self.path(), path),
                97..=98 => Op::Time(path, Some(self.below(3) as i64)),
                _ => Op::Retype(path, [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo][self.below(4)]),
            };
        }
        match self.below(100) {
            0..=9 => Op::Create(path, self.len()),
            10..=15 => Op::Rewrite(path, self.len()),
            16..=19 => Op::Overwrite(path),
            20..=22 if self.mood == Mood::Any => Op::Twin(path),
            20..=22 => Op::Overwrite(path),
            23..=25 => Op::Append(path, self.len()),
            26..=27 => Op::Empty(path),
            28..=31 => Op::Replace(path, self.len()),
            32..=33 => Op::Slow(path, self.len()),
            34..=41 => Op::Mkdir(path),
            42..=45 => Op::Plant(path, self.path()),
            46..=48 => Op::Symlink(self.path(), path),
            49..=50 => Op::Fifo(path),
            51..=58 => Op::Remove(path),
            59 => Op::Rmdir(path),
            60..=69 => Op::Rename(path, self.path()),
            70..=73 => Op::Exchange(path, self.path()),
            74..=76 => Op::Out(path, self.slot()),
            77..=80 => Op::In(self.slot(), path),
            81 => Op::Drop(self.slot()),
            82..=84 => Op::Chmod(path, 0o600 + self.below(0o200) as u32),
            85..=86 => Op::Chown(path, self.below(3) as u32),
            87..=88 if self.mood == Mood::Any => Op::Time(path, Some(self.below(3) as i64)),
            87..=89 => Op::Time(path, None),
            90..=92 => Op::Retype(path, [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo][self.below(4)]),
            93..=94 => Op::Publish(path, self.below(2) == 0),
            // Written, renamed and removed by any of its names from then on.
            _ => Op::Link(path, self.path()),
        }
    }
}

impl Op {
    /// Does it. `serial` is the operation's own number: the content it writes, and the mtime if it
    /// needs one.
    pub fn apply(&self, place: &Place, mood: Mood, serial: u64) -> io::Result<()> {
        let at = |path: &Path| place.src.join(path);
        let write = Writing { mood, serial };
        match self {
            Op::Create(path, len) => write.whole(open(OpenOptions::new().write(true).create_new(true), &at(path))?, *len),
            Op::Rewrite(path, len) => {
                write.whole(open(OpenOptions::new().write(true).create(true).truncate(true), &at(path))?, *len)
            }
            Op::Overwrite(path) => {
                let file = open(OpenOptions::new().write(true), &at(path))?;
                let len = file.metadata()?.len();
                write.whole(file, len as usize)
            }
            Op::Twin(path) => {
                let mut file = open(OpenOptions::new().write(true), &at(path))?;
                let before = file.metadata()?;
                file.write_all(&write.content(before.len() as usize))?;
                let mtime = SystemTime::UNIX_EPOCH + Duration::new(before.mtime().max(0) as u64, before.mtime_nsec() as u32);
                file.set_times(FileTimes::new().set_accessed(mtime).set_modified(mtime))
            }
            Op::Append(path, len) => write.whole(open(OpenOptions::new().append(true), &at(path))?, *len),
            Op::Empty(path) => open(OpenOptions::new().write(true).truncate(true), &at(path)).map(drop),
            Op::Replace(path, len) => {
                let aside = at(path).with_extension("aside");
                write.whole(open(OpenOptions::new().write(true).create(true).truncate(true), &aside)?, *len)?;
                fs::rename(&aside, at(path)).or_else(|e| fs::remove_file(&aside).and(Err(e)))
            }
            Op::Slow(path, len) => {
                let mut file = open(OpenOptions::new().write(true).create(true).truncate(true), &at(path))?;
                file.write_all(&write.content(*len))?;
                wait(Duration::from_millis(serial % 7));
                write.whole(file, 1 + *len / 3)
            }
            Op::Mkdir(path) => fs::create_dir(at(path)),
            Op::Plant(path, below) => {
                let dir = at(path).join(below);
                fs::create_dir_all(&dir)?;
                write.whole(open(OpenOptions::new().write(true).create(true).truncate(true), &dir.join("f"))?, 9)
            }
            Op::Symlink(to, path) => symlink(to, at(path)),
            Op::Fifo(path) => fifo(&at(path)),
            Op::Remove(path) => remove(&at(path)),
            Op::Rmdir(path) => fs::remove_dir(at(path)),
            Op::Rename(from, to) => fs::rename(at(from), at(to)),
            Op::Exchange(one, two) => Ok(renameat2(AT_FDCWD, &at(one), AT_FDCWD, &at(two), RenameFlags::RENAME_EXCHANGE)?),
            Op::Out(path, slot) => fs::rename(at(path), place.out.join(slot)),
            Op::In(slot, path) => fs::rename(place.out.join(slot), at(path)),
            Op::Drop(slot) => remove(&place.out.join(slot)),
            Op::Chmod(path, mode) => fs::set_permissions(at(path), Permissions::from_mode(*mode)),
            Op::Chown(path, id) => lchown(at(path), Some(*id), Some(*id)),
            Op::Time(path, fixed) => {
                let time = fixed.map_or(write.own_time(), |n| TimeSpec::new(1_000_000_000 + n, 0));
                // Both times: with atime left alone the kernel raises no event.
                Ok(utimensat(AT_FDCWD, &at(path), &time, &time, UtimensatFlags::NoFollowSymlink)?)
            }
            Op::Retype(path, kind) => {
                let at = at(path);
                remove(&at)?;
                match kind {
                    Kind::File => write.whole(open(OpenOptions::new().write(true).create_new(true), &at)?, 17),
                    Kind::Dir => fs::create_dir(&at),
                    Kind::Symlink => symlink("a/b", &at),
                    Kind::Fifo => fifo(&at),
                }
            }
            Op::Publish(path, keep) => {
                let aside = place.store.join(serial.to_string());
                let write = Writing { mood: Mood::Crash, serial };
                write.whole(open(OpenOptions::new().write(true).create_new(true), &aside)?, 1 + serial as usize % 40)?;
                let linked = fs::hard_link(&aside, at(path));
                if !keep || linked.is_err() {
                    fs::remove_file(&aside)?;
                }
                linked
            }
            Op::Link(from, to) => fs::hard_link(at(from), at(to)),
        }
    }

    /// The paths below the source it works on.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Op::Rename(a, b) | Op::Exchange(a, b) | Op::Link(a, b) => vec![a, b],
            Op::Create(p, _)
            | Op::Rewrite(p, _)
            | Op::Overwrite(p)
            | Op::Twin(p)
            | Op::Append(p, _)
            | Op::Empty(p)
            | Op::Replace(p, _)
            | Op::Slow(p, _)
            | Op::Mkdir(p)
            | Op::Plant(p, _)
            | Op::Symlink(_, p)
            | Op::Fifo(p)
            | Op::Remove(p)
            | Op::Rmdir(p)
            | Op::Out(p, _)
            | Op::In(_, p)
            | Op::Chmod(p, _)
            | Op::Chown(p, _)
            | Op::Time(p, _)
            | Op::Retype(p, _)
            | Op::Publish(p, _) => vec![p],
            Op::Drop(_) => vec![],
        }
    }
}

/// How an operation writes.
struct Writing {
    mood: Mood,
    serial: u64,
}

impl Writing {
    /// `len` bytes that no other operation writes (if there is room for its number).
    fn content(&self, len: usize) -> Vec<u8> {
        format!("{} ", self.serial).bytes().cycle().take(len).collect()
    }

    /// An mtime that no other operation sets.
    fn own_time(&self) -> TimeSpec {
        TimeSpec::new(1_500_000_000 + (self.serial / 1_000_000_000) as i64, (self.serial % 1_000_000_000) as i64)
    }

    fn whole(&self, mut file: File, len: usize) -> io::Result<()> {
        file.write_all(&self.content(len))?;
        if self.mood == Mood::Crash {
            let time = SystemTime::UNIX_EPOCH + Duration::from(self.own_time());
            file.set_times(FileTimes::new().set_accessed(time).set_modified(time))?;
        }
        Ok(())
    }
}

/// Opens the file itself: no symlink, and without waiting for the other end of a pipe.
fn open(how: &mut OpenOptions, at: &Path) -> io::Result<File> {
    how.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(at)
}

fn fifo(at: &Path) -> io::Result<()> {
    Ok(nix::unistd::mkfifo(at, Mode::from_bits_truncate(0o640))?)
}

fn remove(at: &Path) -> io::Result<()> {
    if fs::symlink_metadata(at)?.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) }
}

/// Lets time pass, as programs do between two writes.
pub fn wait(time: Duration) {
    let _ = nix::poll::poll(&mut [], time.as_millis().min(1_000) as u16);
}

/// Gives every file an mtime of its own, once for all its names: afterwards no two files look alike
/// by size and mtime. Returns how many there were.
pub fn stamp(place: &Place, serial: &mut dyn FnMut() -> u64) -> io::Result<usize> {
    let mut dirs = vec![place.src.clone(), place.out.clone()];
    let mut stamped = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() && path != place.store {
                dirs.push(path);
            } else if meta.is_file() {
                let time = Writing { mood: Mood::Crash, serial: serial() }.own_time();
                utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink)?;
                stamped += 1;
            }
        }
    }
    Ok(stamped)
}
