//! Metadata of many paths at once, relative to a directory.
//!
//! Promises: a symbolic link is never followed and an automount never triggered, whatever the batch
//! holds: a path is looked up only after the component above it turned out to be a directory. (A
//! directory that becomes a link between the two look-ups is followed once; what is read through it
//! is a stat, no content.)
//!
//! One statx(2) after the other: batches through io_uring lose with a warm cache at every size
//! (`docs/development/decisions.md` has the figures).

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

const FLAGS: i32 = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
const MASK: u32 = libc::STATX_TYPE
    | libc::STATX_MODE
    | libc::STATX_NLINK
    | libc::STATX_INO
    | libc::STATX_MTIME
    | libc::STATX_CTIME
    | libc::STATX_SIZE;

/// A point in time as the filesystem keeps it: since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct FileTime {
    /// Whole seconds; negative before 1970.
    pub(crate) secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub(crate) nanos: u32,
}

/// The kernel's clock for the times of files: what a filesystem of this host changes from now on
/// has this change time, or a later one, rounded down to what the filesystem stores.
pub(crate) fn stamp() -> FileTime {
    // Every kernel has this clock.
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).unwrap_or_else(|_| TimeSpec::new(0, 0));
    FileTime { secs: now.tv_sec(), nanos: now.tv_nsec() as u32 }
}

/// What is asked of each path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StatBrief {
    /// `st_mode`: type and permissions.
    pub(crate) mode: u32,
    /// Hard links.
    pub(crate) nlink: u32,
    /// Inode number.
    pub(crate) ino: u64,
    /// Device, major and minor.
    pub(crate) dev: (u32, u32),
    /// Bytes.
    pub(crate) size: u64,
    /// Last change of the content.
    pub(crate) mtime: FileTime,
    /// Last change of the content or the metadata.
    pub(crate) ctime: FileTime,
    /// It is the root of a mount, seen from above: something is mounted here
    /// (`STATX_ATTR_MOUNT_ROOT`). `None` before Linux 5.8, and where the C library takes the place
    /// of statx(2), before 4.11.
    pub(crate) mount_root: Option<bool>,
}

impl StatBrief {
    /// A directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// A symbolic link.
    pub(crate) fn is_symlink(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFLNK
    }

    /// A regular file.
    pub(crate) fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// What one check-up gave.
pub(crate) type Looked = Result<StatBrief, Errno>;

/// Paths to look up, each after its parent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    /// NUL-terminated, one after the other.
    bytes: Vec<u8>,
    entries: Vec<PathEntry>,
}

#[derive(Debug, Clone, Copy)]
struct PathEntry {
    start: usize,
    parent: Option<usize>,
}

impl Paths {
    /// Adds `path`, relative, non-empty, without NUL, whose parent is entry `parent`; `None`: it is
    /// looked up unconditionally. Returns its index.
    ///
    /// # Panics
    /// When `path` holds a NUL or `parent` is not in the list: bugs of the caller.
    pub(crate) fn push(&mut self, path: &[u8], parent: Option<usize>) -> usize {
        assert!(memchr::memchr(0, path).is_none(), "a path holds a NUL");
        assert!(parent.is_none_or(|parent| parent < self.entries.len()), "a path comes before its parent");
        self.entries.push(PathEntry { start: self.bytes.len(), parent });
        self.bytes.extend_from_slice(path);
        self.bytes.push(0);
        self.entries.len() - 1
    }

    /// The path at `index`, without its NUL.
    pub(crate) fn get(&self, index: usize) -> &[u8] {
        let end = self.entries.get(index + 1).map_or(self.bytes.len(), |next| next.start);
        &self.bytes[self.entries[index].start..end - 1]
    }

    /// The parent of the path at `index`.
    pub(crate) fn parent(&self, index: usize) -> Option<usize> {
        self.entries[index].parent
    }

    /// Forgets all paths, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    /// How many paths there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Replaces parts of an answer.
#[cfg(test)]
pub(crate) type SeenAs = Box<dyn FnMut(&mut StatBrief) + Send>;

/// Looks up batches of paths.
#[derive(Default)]
pub struct Statter {
    /// What a test puts in the place of inode numbers and times, which are the machine's.
    #[cfg(test)]
    pub(crate) seen_as: Option<SeenAs>,
}

impl Statter {
    /// One that reads from the disk.
    pub fn new() -> Statter {
        Statter::default()
    }

    /// Looks up every path relative to `root`, results in the order of `paths`. A path below
    /// something that failed gets the same error without being looked up; below something that is
    /// no directory, ENOTDIR.
    pub(crate) fn stat_all(&mut self, root: BorrowedFd<'_>, paths: &Paths) -> Vec<Looked> {
        let mut out: Vec<Looked> = Vec::with_capacity(paths.len());
        for entry in &paths.entries {
            let looked = inherited(entry.parent, |parent| out[parent]).unwrap_or_else(|| plain(root.as_raw_fd(), paths, entry));
            out.push(looked);
        }
        #[cfg(test)]
        if let Some(seen_as) = &mut self.seen_as {
            out.iter_mut().flatten().for_each(seen_as);
        }
        out
    }
}

/// The answer that the parent's answer already gives; `None`: look.
fn inherited(parent: Option<usize>, looked: impl Fn(usize) -> Looked) -> Option<Looked> {
    match looked(parent?) {
        Ok(stat) if stat.is_dir() => None,
        Ok(_) => Some(Err(Errno::ENOTDIR)),
        Err(errno) => Some(Err(errno)),
    }
}

fn plain(root: RawFd, paths: &Paths, entry: &PathEntry) -> Looked {
    plain_with(root, paths, entry, FLAGS)
}

fn plain_with(root: RawFd, paths: &Paths, entry: &PathEntry, flags: i32) -> Looked {
    let path = paths.bytes[entry.start..].as_ptr().cast();
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    loop {
        // SAFETY: `path` points into `paths.bytes`, where `Paths::push` ends every entry with a
        // NUL, and lives as long as the borrow of `paths`; `buffer` is a whole statx that the
        // kernel may fill.
        let done = unsafe { libc::statx(root, path, flags, MASK, buffer.as_mut_ptr()) };
        if done == 0 {
            // SAFETY: zeroed at the start, and every bit pattern is a statx.
            return Ok(brief(unsafe { buffer.assume_init_ref() }));
        }
        match Errno::last() {
            Errno::EINTR => {}
            errno => return Err(errno),
        }
    }
}

fn brief(raw: &libc::statx) -> StatBrief {
    let time = |time: libc::statx_timestamp| FileTime { secs: time.tv_sec, nanos: time.tv_nsec };
    let mount_root = libc::STATX_ATTR_MOUNT_ROOT as u64;
    StatBrief {
        mode: u32::from(raw.stx_mode),
        nlink: raw.stx_nlink,
        ino: raw.stx_ino,
        dev: (raw.stx_dev_major, raw.stx_dev_minor),
        size: raw.stx_size,
        mtime: time(raw.stx_mtime),
        ctime: time(raw.stx_ctime),
        mount_root: (raw.stx_attributes_mask & mount_root != 0).then_some(raw.stx_attributes & mount_root != 0),
    }
}

/// Which object a path leads to, and through which mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sits {
    /// `st_dev`.
    pub(crate) dev: u64,
    /// `st_ino`.
    pub(crate) ino: u64,
    /// The mount, by a number that is never used again (Linux 6.8), or by the one in the mount
    /// table (5.8); `None` before.
    pub(crate) mount: Option<u64>,
}

/// Looks where `path` below `dir` leads; with an empty path, `dir` itself. A link at its end is not
/// followed, and nothing is mounted for it.
///
/// # Errors
/// Those of statx(2); `EINVAL` for a NUL in the path.
pub(crate) fn sits(dir: BorrowedFd<'_>, path: &std::path::Path) -> nix::Result<Sits> {
    const MOUNT_UNIQUE: u32 = 0x4000; // STATX_MNT_ID_UNIQUE
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    loop {
        let mask = libc::STATX_INO | libc::STATX_MNT_ID | MOUNT_UNIQUE;
        // SAFETY: `path` is NUL-terminated and outlives the call; `buffer` is a whole statx that
        // the kernel may fill.
        let done = unsafe { libc::statx(dir.as_raw_fd(), path.as_ptr(), flags, mask, buffer.as_mut_ptr()) };
        match (done, Errno::last()) {
            (0, _) => break,
            (_, Errno::EINTR) => {}
            (_, errno) => return Err(errno),
        }
    }
    // SAFETY: zeroed at the start, and every bit pattern is a statx.
    let raw = unsafe { buffer.assume_init_ref() };
    Ok(Sits {
        dev: nix::sys::stat::makedev(raw.stx_dev_major.into(), raw.stx_dev_minor.into()),
        ino: raw.stx_ino,
        mount: (raw.stx_mask & (libc::STATX_MNT_ID | MOUNT_UNIQUE) != 0).then_some(raw.stx_mnt_id),
    })
}

/// Looks at what `fd` is open on; `O_PATH` will do.
///
/// # Errors
/// Those of statx(2): `EIO`, `ENOMEM`; `ESTALE` on network filesystems.
pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> Looked {
    let mut paths = Paths { bytes: vec![0], entries: Vec::new() };
    paths.entries.push(PathEntry { start: 0, parent: None });
    plain_with(fd.as_raw_fd(), &paths, &paths.entries[0], FLAGS | libc::AT_EMPTY_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn fields_match_the_standard_library() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), b"12345").unwrap();
        fs::hard_link(dir.path().join("f"), dir.path().join("g")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let mut paths = Paths::default();
        let top = paths.push(b".", None);
        paths.push(b"f", Some(top));
        let out = Statter::new().stat_all(root.as_fd(), &paths);
        let (want, got) = (fs::metadata(dir.path().join("f")).unwrap(), out[1].unwrap());
        assert!(out[0].unwrap().is_dir() && got.is_file());
        assert_eq!((got.mode, got.nlink, got.ino, got.size), (want.mode(), 2, want.ino(), 5));
        assert_eq!((got.mtime.secs, i64::from(got.mtime.nanos)), (want.mtime(), want.mtime_nsec()));
        assert_eq!((got.ctime.secs, i64::from(got.ctime.nanos)), (want.ctime(), want.ctime_nsec()));
        assert_eq!(libc::makedev(got.dev.0, got.dev.1), want.dev());
        assert_eq!(stat_fd(File::open(dir.path().join("f")).unwrap().as_fd()), Ok(got));
    }

    #[test]
    fn a_mount_is_seen_from_above() {
        let root = File::open("/").unwrap();
        let mut paths = Paths::default();
        for path in [&b"proc"[..], b"proc/self", b"etc"] {
            paths.push(path, None);
        }
        let out = Statter::new().stat_all(root.as_fd(), &paths);
        assert_eq!([0, 1, 2].map(|i: usize| out[i].unwrap().mount_root), [Some(true), Some(false), Some(false)]);
    }

    #[test]
    fn nothing_is_looked_up_through_a_link_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("x"), b"").unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let root = File::open(dir.path()).unwrap();
        let mut paths = Paths::default();
        let top = paths.push(b".", None);
        for (name, below) in [(&b"link"[..], &b"link/x"[..]), (b"file", b"file/x"), (b"gone", b"gone/x")] {
            let parent = paths.push(name, Some(top));
            paths.push(below, Some(parent));
        }
        let out = Statter::new().stat_all(root.as_fd(), &paths);
        assert_eq!(out[1].unwrap().mode & libc::S_IFMT, libc::S_IFLNK);
        let errors = [out[2].unwrap_err(), out[4].unwrap_err(), out[5].unwrap_err(), out[6].unwrap_err()];
        assert_eq!(errors, [Errno::ENOTDIR, Errno::ENOTDIR, Errno::ENOENT, Errno::ENOENT]);
    }

    #[test]
    fn many_paths_keep_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = Paths::default();
        let top = paths.push(b".", None);
        for d in 0..2 {
            let name = format!("d{d}");
            fs::create_dir(dir.path().join(&name)).unwrap();
            let parent = paths.push(name.as_bytes(), Some(top));
            for f in 0..30 {
                let name = format!("d{d}/f{f}");
                if f % 3 > 0 {
                    fs::write(dir.path().join(&name), vec![b'x'; f]).unwrap();
                }
                paths.push(name.as_bytes(), Some(parent));
            }
        }
        let root = File::open(dir.path()).unwrap();
        let out = Statter::new().stat_all(root.as_fd(), &paths);
        assert_eq!(out.iter().filter(|looked| looked.is_err()).count(), 20);
        assert_eq!(out[2 + 29].unwrap().size, 29);
        assert_eq!(paths.get(2 + 29), b"d0/f29");
    }

    #[test]
    fn an_empty_batch() {
        let root = File::open("/").unwrap();
        assert_eq!(Statter::new().stat_all(root.as_fd(), &Paths::default()), []);
    }
}
