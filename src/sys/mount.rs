//! The mount table, from /proc/self/mountinfo (proc_pid_mountinfo(5)), and word of its changes.
//!
//! Promises: paths are bytes, as they are; a line that cannot be understood is an error and not
//! skipped, since a mount that is not seen is a part of the tree that is not watched. Gives up:
//! mounts of other mount namespaces, and atomicity: the kernel writes the table page by page, so
//! one that changes meanwhile may show halves of two; [`MountWatch`] then reports that it has
//! changed again.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountEntry {
    /// Unique while mounted; used again afterwards. What name_to_handle_at(2) gives with a handle.
    pub id: u32,
    /// The mount this one is mounted on; its own id (or one not listed) at the top.
    pub parent: u32,
    /// Device number, major and minor: `st_dev` of the files, except on btrfs, whose subvolumes
    /// have their own.
    pub(crate) dev: (u32, u32),
    /// The directory of the filesystem that is mounted; not `/` for a bind mount or a btrfs
    /// subvolume. Not always a path: on some filesystems a name of their own.
    pub(crate) root: Vec<u8>,
    /// Where it is mounted, as seen from this process's root directory.
    pub point: PathBuf,
    /// `ext4`, `btrfs`, `fuse.sshfs`.
    pub fs_type: Vec<u8>,
    /// What is mounted: a device, `server:/export`, or anything.
    pub source: Vec<u8>,
    /// Whose FUSE daemon serves it (`user_id=`); `None` for what is no FUSE filesystem.
    pub(crate) user: Option<u32>,
}

/// The mount table at one moment.
#[derive(Clone, Debug)]
pub struct Mounts {
    entries: Vec<MountEntry>,
    /// (parent, point) → entry; the parent is `None` when it is not listed. The kernel has one
    /// mount on one directory of one mount: what is mounted over another has that other as its
    /// parent.
    on: HashMap<(Option<u32>, PathBuf), usize>,
}

/// A line of the table that makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot understand line {line} of {TABLE}: {what}: \"{}\"", text.escape_ascii())]
pub struct Malformed {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What is wrong with it.
    pub(crate) what: &'static str,
    /// The line.
    pub(crate) text: Vec<u8>,
}

impl Mounts {
    /// Reads the table. To miss no change, arm a [`MountWatch`] first.
    ///
    /// # Errors
    /// Those of reading /proc; `InvalidData` around [`Malformed`].
    pub fn read() -> io::Result<Mounts> {
        Mounts::parse(&std::fs::read(TABLE)?).map_err(|malformed| io::Error::new(io::ErrorKind::InvalidData, malformed))
    }

    /// Understands the table's text.
    ///
    /// # Errors
    /// The first line that is [`Malformed`].
    pub fn parse(text: &[u8]) -> Result<Mounts, Malformed> {
        let lines = text.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        let entries: Vec<MountEntry> = lines
            .map(|(at, line)| parse_line(line).map_err(|what| Malformed { line: at + 1, what, text: line.to_vec() }))
            .collect::<Result<_, _>>()?;
        let listed: HashSet<u32> = entries.iter().map(|mount| mount.id).collect();
        let place = |(at, mount): (usize, &MountEntry)| {
            let parent = Some(mount.parent).filter(|&parent| parent != mount.id && listed.contains(&parent));
            ((parent, mount.point.clone()), at)
        };
        let on = entries.iter().enumerate().map(place).collect();
        Ok(Mounts { entries, on })
    }

    /// All of them, hidden ones too.
    pub fn iter(&self) -> std::slice::Iter<'_, MountEntry> {
        self.entries.iter()
    }

    /// The mount that `path` (absolute, without symlinks and `..`) lies on, found as the kernel
    /// does: from the root down, stepping onto what is mounted on each directory. `None` when this
    /// process's root directory is not a mount's.
    pub fn mount_of(&self, path: &Path) -> Option<&MountEntry> {
        let mut at: Option<usize> = None;
        let mut upto = PathBuf::new();
        for component in path.components() {
            upto.push(component);
            // Each step is a child of the mount before, so no mount is stepped on twice; a torn
            // table must not loop all the same.
            for _ in 0..self.entries.len() {
                match self.on.get(&(at.map(|at| self.entries[at].id), upto.clone())) {
                    Some(&over) => at = Some(over),
                    None => break,
                }
            }
        }
        at.map(|at| &self.entries[at])
    }

    /// The mounts that decide what is seen at `root` (absolute, without symlinks) and below it:
    /// those on the way to it, and those below. Hidden ones too.
    pub(crate) fn concerning<'a>(&'a self, root: &'a Path) -> impl Iterator<Item = &'a MountEntry> {
        self.entries.iter().filter(move |mount| root.starts_with(&mount.point) || mount.point.starts_with(root))
    }

    /// The mounts that can be reached below `root` (absolute, without symlinks), without that of
    /// `root` itself: on each directory the topmost, and none that is hidden by another mount
    /// above.
    pub fn below<'a>(&'a self, root: &'a Path) -> impl Iterator<Item = &'a MountEntry> {
        let inside = self.entries.iter().filter(move |mount| mount.point != root && mount.point.starts_with(root));
        inside.filter(|mount| self.mount_of(&mount.point).is_some_and(|top| std::ptr::eq(top, *mount)))
    }
}

fn parse_line(line: &[u8]) -> Result<MountEntry, &'static str> {
    let mut fields = line.split(|&b| b == b' ');
    let mut next = |what| fields.next().ok_or(what);
    let id = number(next("no mount id")?).ok_or("the mount id is no number")?;
    let parent = number(next("no parent id")?).ok_or("the parent id is no number")?;
    let dev = next("no device number")?;
    let colon = memchr::memchr(b':', dev).ok_or("the device number has no colon")?;
    let half = |part: &[u8]| number(part).ok_or("the device number is no number");
    let dev = (half(&dev[..colon])?, half(&dev[colon + 1..])?);
    let root = unescape(next("no root")?);
    let point = PathBuf::from(OsString::from_vec(unescape(next("no mount point")?)));
    next("no mount options")?;
    // Any number of optional fields, ended by a lone hyphen.
    while next("no hyphen behind the optional fields")? != b"-" {}
    let fs_type = unescape(next("no filesystem type")?);
    // A source may be empty; it is a field all the same.
    let source = unescape(next("no source")?);
    // A user may choose the words of a source, not these.
    let mut options = next("no options of the filesystem")?.split(|&b| b == b',');
    let user = options.find_map(|option| number(option.strip_prefix(b"user_id=")?));
    let user = user.filter(|_| fs_type.starts_with(b"fuse"));
    Ok(MountEntry { id, parent, dev, root, point, fs_type, source, user })
}

/// A decimal number of digits alone.
fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// Undoes the kernel's `\ooo` (space, tab, newline, backslash, and `#` in some fields). A backslash
/// that does not begin three octal digits stands for itself.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..]) = (first, after) {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = behind;
        } else {
            out.push(first);
        }
    }
    out
}

/// Reports that the mount table has changed: its descriptor gets `POLLPRI | POLLERR` at every
/// mount, unmount and move in this mount namespace (proc_pid_mounts(5), 2.6.30). Each poll(2) that
/// reports it also takes it back, so who polls the descriptor must act upon it; nothing has to be
/// read.
#[derive(Debug)]
pub(crate) struct MountWatch(File);

impl MountWatch {
    /// What to poll for; `POLLERR` comes along unasked.
    const EVENTS: PollFlags = PollFlags::POLLPRI;

    /// Begins to watch; changes from here on are reported.
    ///
    /// # Errors
    /// Those of opening /proc/self/mountinfo.
    pub(crate) fn new() -> io::Result<MountWatch> {
        File::open(TABLE).map(MountWatch)
    }

    /// Whether there was a change since this or another poll last reported one; does not wait.
    ///
    /// # Errors
    /// Those of poll(2).
    pub(crate) fn changed(&self) -> io::Result<bool> {
        Ok(poll(&mut [PollFd::new(self.as_fd(), Self::EVENTS)], PollTimeout::ZERO)? > 0)
    }
}

impl AsFd for MountWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
#[path = "mount_tests.rs"]
mod tests;
