//! The source of a play: a small tree on the disk whose inode numbers and times are the play's own.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::links::Inode;
use crate::path::RelPath;
use crate::sys::statx::{FileTime, SeenAs};

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    File,
    Dir,
    /// A symbolic link.
    Link,
    Fifo,
}

/// Of one inode, by the play's count.
#[derive(Clone, Copy)]
struct Meta {
    ino: u64,
    mtime: FileTime,
    ctime: FileTime,
}

#[derive(Default)]
struct Inodes {
    of: HashMap<(u64, u64), Meta>,
    last: u64,
    now: FileTime,
}

impl Inodes {
    fn meta(&mut self, key: (u64, u64)) -> &mut Meta {
        let Inodes { of, last, now } = self;
        of.entry(key).or_insert_with(|| {
            *last += 1;
            Meta { ino: *last, mtime: *now, ctime: *now }
        })
    }
}

/// See the module's text.
pub(super) struct World {
    _dir: tempfile::TempDir,
    pub(super) root: PathBuf,
    /// All names but the root, relative to it.
    pub(super) names: BTreeMap<String, What>,
    inodes: Arc<Mutex<Inodes>>,
    wall_start: i64,
}

fn number(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// A device number as stat(2) has it, from its parts.
fn device(dev: (u32, u32)) -> u64 {
    nix::sys::stat::makedev(dev.0.into(), dev.1.into())
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl World {
    pub(super) fn new(wall_start: i64) -> World {
        // In memory where there is such a place, for its speed.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory");
        let root = dir.path().canonicalize().expect("its path").join("src");
        fs::create_dir(&root).expect("the source");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("its mode");
        let mut world = World { _dir: dir, root, names: BTreeMap::new(), inodes: Arc::default(), wall_start };
        world.tick(Duration::ZERO);
        world.touch_at(&world.root.clone(), true);
        world
    }

    /// What is changed from here on is changed now.
    pub(super) fn tick(&mut self, now: Duration) {
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = inodes.now.nanos % 999_999_000 + 1;
        inodes.now = FileTime { secs: self.wall_start + now.as_secs() as i64, nanos };
    }

    /// What the check before a batch is given in the place of the machine's numbers.
    pub(super) fn seen_as(&self) -> SeenAs {
        let inodes = Arc::clone(&self.inodes);
        Box::new(move |stat| {
            let mut inodes = inodes.lock().unwrap_or_else(PoisonError::into_inner);
            let meta = *inodes.meta((device(stat.dev), stat.ino));
            (stat.dev, stat.ino, stat.mtime, stat.ctime) = ((0, 1), meta.ino, meta.mtime, meta.ctime);
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn touch_at(&mut self, path: &Path, content: bool) {
        let meta = fs::symlink_metadata(path).expect("what was just changed");
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        inodes.now.nanos += 1;
        let now = inodes.now;
        let known = inodes.meta(number(&meta));
        known.ctime = now;
        if content {
            known.mtime = now;
        }
    }

    fn touch(&mut self, name: &str, content: bool) {
        self.touch_at(&self.path(name), content);
    }

    fn forget(&mut self, path: &Path) {
        let meta = fs::symlink_metadata(path).expect("what is to be removed");
        if meta.is_dir() || meta.nlink() == 1 {
            self.inodes.lock().unwrap_or_else(PoisonError::into_inner).of.remove(&number(&meta));
        } else {
            self.touch_at(path, false);
        }
    }

    /// The names of files with several, each with the file and the number of its names, as a walk
    /// finds them.
    pub(super) fn linked(&self) -> Vec<(RelPath, Inode, u32)> {
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = |name: &String| {
            let meta = fs::symlink_metadata(self.path(name)).ok()?;
            let path = RelPath::new(name.as_bytes())?;
            (meta.nlink() > 1).then(|| (path, ((0, 1), inodes.meta(number(&meta)).ino), meta.nlink() as u32))
        };
        self.names.iter().filter(|(_, what)| **what != What::Dir).filter_map(|(name, _)| found(name)).collect()
    }

    /// Of the machine, for what a process has open.
    pub(super) fn real_inode(&self, name: &str) -> u64 {
        fs::symlink_metadata(self.path(name)).map_or(0, |meta| meta.ino())
    }

    /// The play's number and the times of the last write and the last change of what a name leads
    /// to.
    pub(super) fn inode(&self, name: &str) -> (u64, FileTime, FileTime) {
        let meta = fs::symlink_metadata(self.path(name)).expect("a name that is there");
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = inodes.meta(number(&meta));
        (meta.ino, meta.mtime, meta.ctime)
    }

    /// The names of a kind, each with the play's number of what it leads to and its last write.
    pub(super) fn files(&self, wanted: impl Fn(What) -> bool) -> BTreeMap<String, (u64, FileTime)> {
        let names = self.names.iter().filter(|(_, what)| wanted(**what));
        let version = |name: &str| {
            let (number, written, _) = self.inode(name);
            (number, written)
        };
        names.map(|(name, _)| (name.clone(), version(name))).collect()
    }

    pub(super) fn is_one_file(&self, a: &str, b: &str) -> bool {
        self.inode(a).0 == self.inode(b).0
    }

    /// The time that what is changed now gets.
    pub(super) fn time(&self) -> FileTime {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    /// Before the change time of everything that is changed from now on, and after all others.
    pub(super) fn stamp(&self) -> FileTime {
        let FileTime { secs, nanos } = self.time();
        FileTime { secs, nanos: nanos + 1 }
    }

    /// Makes a file, or changes it.
    pub(super) fn write(&mut self, name: &str, len: u64) {
        let new = !self.names.contains_key(name);
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.path(name)).expect("a file");
        file.set_len(len).expect("its size");
        self.names.insert(name.into(), What::File);
        self.touch(name, true);
        if new {
            self.touch(parent(name), true);
        }
    }

    pub(super) fn mkdir(&mut self, name: &str) {
        fs::create_dir(self.path(name)).expect("a directory");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("its mode");
        self.names.insert(name.into(), What::Dir);
        self.touch(name, true);
        self.touch(parent(name), true);
    }

    pub(super) fn symlink(&mut self, to: &str, name: &str) {
        symlink(to, self.path(name)).expect("a link");
        self.names.insert(name.into(), What::Link);
        self.touch(name, true);
        self.touch(parent(name), true);
    }

    pub(super) fn mkfifo(&mut self, name: &str) {
        nix::unistd::mkfifo(&self.path(name), nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a FIFO");
        self.names.insert(name.into(), What::Fifo);
        self.touch(name, true);
        self.touch(parent(name), true);
    }

    pub(super) fn link(&mut self, old: &str, new: &str) {
        fs::hard_link(self.path(old), self.path(new)).expect("another name");
        let what = self.names[old];
        self.names.insert(new.into(), what);
        self.touch(new, false);
        self.touch(parent(new), true);
    }

    pub(super) fn chmod(&mut self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("a mode");
        self.touch(name, false);
    }

    pub(super) fn remove(&mut self, name: &str) {
        for below in self.below(name) {
            self.remove_one(&below);
        }
        self.remove_one(name);
        self.touch(parent(name), true);
    }

    fn remove_one(&mut self, name: &str) {
        let path = self.path(name);
        self.forget(&path);
        match self.names.remove(name) {
            Some(What::Dir) => fs::remove_dir(&path).expect("an empty directory"),
            _ => fs::remove_file(&path).expect("a file"),
        }
    }

    /// What lies below, the deepest first.
    pub(super) fn below(&self, dir: &str) -> Vec<String> {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut below: Vec<String> = self.names.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        below.reverse();
        below
    }

    /// Exchanges two names, neither of which lies below the other.
    pub(super) fn exchange(&mut self, a: &str, b: &str) {
        let aside = "exchanged";
        self.rename(a, aside);
        self.rename(b, a);
        self.rename(aside, b);
    }

    /// Moves a name that is there to one that is not.
    pub(super) fn rename(&mut self, old: &str, new: &str) {
        fs::rename(self.path(old), self.path(new)).expect("a rename");
        for below in self.below(old) {
            let what = self.names.remove(&below).expect("just listed");
            self.names.insert(format!("{new}{}", &below[old.len()..]), what);
        }
        let what = self.names.remove(old).expect("it is there");
        self.names.insert(new.into(), what);
        self.touch(new, false);
        self.touch(parent(old), true);
        self.touch(parent(new), true);
    }
}
