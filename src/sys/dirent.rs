//! Directory listings in large pieces, getdents64(2): 128 KiB of names per system call, no memory
//! of their own per directory.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Bytes asked for at a time: about 4,000 names of usual length.
const BUFFER_BYTES: usize = 128 << 10;

/// Before the name: inode u64, offset i64, record length u16, type u8.
const HEAD_BYTES: usize = 19;

/// What a listing says of a name's type; not every filesystem does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A directory.
    Dir,
    /// Anything else.
    Other,
    /// It has to be looked at.
    Unknown,
}

/// Room for a piece of a listing; to be used again and again.
#[derive(Default)]
pub(crate) struct Listing {
    buffer: Vec<u8>,
}

impl Listing {
    /// Reads the next piece of the directory `dir` is open on; `None` at its end.
    ///
    /// # Errors
    /// Those of getdents64(2): `ENOTDIR`; `ENOENT` when the directory was removed; `EIO`.
    pub(crate) fn next(&mut self, dir: BorrowedFd<'_>) -> io::Result<Option<Entries<'_>>> {
        self.buffer.resize(BUFFER_BYTES, 0);
        loop {
            // SAFETY: the buffer is valid for writes of as many bytes as the call gets, and the
            // kernel keeps no pointer to it.
            let n = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), self.buffer.as_mut_ptr(), self.buffer.len()) };
            return match Errno::result(n) {
                Ok(0) => Ok(None),
                Ok(n) => Ok(Some(Entries { rest: &self.buffer[..n as usize] })),
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }
}

/// The names of a piece, without `.` and `..`.
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Type);

    fn next(&mut self) -> Option<(&'a [u8], Type)> {
        self.next_numbered().map(|(name, kind, _)| (name, kind))
    }
}

impl<'a> Entries<'a> {
    /// Of what getdents64(2) has written.
    pub fn of(records: &'a [u8]) -> Entries<'a> {
        Entries { rest: records }
    }

    /// The next name with its type and inode number. The number is that of the name itself, not of
    /// what is mounted on it, and not every filesystem gives the one that stat(2) gives: see
    /// [`numbers_are_inodes`].
    pub fn next_numbered(&mut self) -> Option<(&'a [u8], Type, u64)> {
        loop {
            let length = usize::from(u16::from_ne_bytes(self.rest.get(16..18)?.try_into().ok()?));
            let record = self.rest.get(..length)?;
            self.rest = &self.rest[length..];
            let name = record.get(HEAD_BYTES..)?;
            let name = &name[..memchr::memchr(0, name)?];
            if name != b"." && name != b".." {
                let kind = match record[HEAD_BYTES - 1] {
                    libc::DT_DIR => Type::Dir,
                    libc::DT_UNKNOWN => Type::Unknown,
                    _ => Type::Other,
                };
                return Some((name, kind, u64::from_ne_bytes(record.get(..8)?.try_into().ok()?)));
            }
        }
    }
}

/// statfs(2); nix has it for glibc alone.
pub(crate) const XFS_SUPER_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x5846_5342);

/// Whether the numbers in a listing of the directory `dir` are those of stat(2). Not so on
/// overlayfs and others that make numbers up; of a filesystem that is not known it is not assumed.
pub(crate) fn numbers_are_inodes(dir: BorrowedFd<'_>) -> bool {
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};
    let known = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC, F2FS_SUPER_MAGIC];
    fstatfs(dir).is_ok_and(|fs| known.contains(&fs.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    #[test]
    fn a_directory_of_several_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let mut want = BTreeSet::new();
        for n in 0..3000 {
            let name = format!("{n}-{}", "x".repeat(n % 200));
            match n % 10 {
                0 => fs::create_dir(dir.path().join(&name)).unwrap(),
                1 => std::os::unix::fs::symlink(".", dir.path().join(&name)).unwrap(),
                _ => fs::write(dir.path().join(&name), "").unwrap(),
            }
            want.insert((name.into_bytes(), n % 10 == 0));
        }
        let open = File::open(dir.path()).unwrap();
        let (mut listing, mut got, mut pieces) = (Listing::default(), BTreeSet::new(), 0);
        while let Some(entries) = listing.next(open.as_fd()).unwrap() {
            pieces += 1;
            for (name, kind) in entries {
                assert_ne!(kind, Type::Unknown, "ext4, xfs, btrfs, tmpfs and overlayfs tell the type");
                assert!(got.insert((name.to_vec(), kind == Type::Dir)), "twice");
            }
        }
        assert!(got == want && pieces > 1, "{pieces} pieces");
        assert!(listing.next(open.as_fd()).unwrap().is_none());
    }

    #[test]
    fn errors() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Listing::default().next(file.as_fd()).err().unwrap().raw_os_error(), Some(libc::ENOTDIR));
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        fs::remove_dir(dir.path()).unwrap();
        assert_eq!(Listing::default().next(open.as_fd()).err().unwrap().raw_os_error(), Some(libc::ENOENT));
    }
}
