//! A file that is put in the place of another in one step.
//!
//! What is written goes into a file of its own beside the place, which must not be there before: no
//! link is followed, and nothing that another user prepared is written to. Where it is to be
//! durable, a power cut leaves the old file or the new one, and after the call the new one: fsync,
//! rename, fsync of the directory.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

/// How a file is put in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replace<'a> {
    /// The name beside it; what has this name is removed.
    pub(crate) aside: &'a OsStr,
    /// Its permissions, whatever the umask is.
    pub(crate) mode: u32,
    /// It outlives a power cut.
    pub(crate) durable: bool,
}

impl Replace<'_> {
    /// Puts `content` in the place of `name` in `dir`, which has to be open for reading if it is to
    /// be durable. Returns the new file, open for both.
    ///
    /// # Errors
    /// Any of the steps; the old file is there then, or the new one that a power cut may take back.
    pub(crate) fn put(self, dir: impl AsFd, name: &OsStr, content: &[u8]) -> io::Result<File> {
        remove(&dir, self.aside)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file: File = openat(&dir, self.aside, flags, Mode::from_bits_truncate(self.mode))?.into();
        let mut fill = || -> io::Result<()> {
            // Of the file that was made, not of what has its name by now.
            file.set_permissions(Permissions::from_mode(self.mode))?;
            file.write_all(content)?;
            if self.durable {
                file.sync_all()?;
            }
            Ok(renameat(&dir, self.aside, &dir, name)?)
        };
        if let Err(error) = fill() {
            let _ = remove(&dir, self.aside);
            return Err(error);
        }
        if self.durable {
            fsync(&dir)?;
        }
        Ok(file)
    }

    /// The same for a path, whose directory is reached as usual.
    ///
    /// # Errors
    /// As [`Replace::put`].
    pub(crate) fn put_at(self, path: &Path, content: &[u8]) -> io::Result<File> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let access = if self.durable { OFlag::O_RDONLY } else { OFlag::O_PATH };
        let dir = open(dir, access | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        self.put(dir, name, content)
    }
}

/// Removes what has this name in `dir`, if anything has.
///
/// # Errors
/// As unlinkat(2).
pub(crate) fn remove(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn new(durable: bool) -> Replace<'static> {
        Replace { aside: OsStr::new("f.new"), mode: 0o640, durable }
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it() {
        for durable in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            fs::write(&path, "a longer text").unwrap();
            fs::write(dir.path().join("f.new"), "left by a process that was killed").unwrap();
            let before = fs::metadata(&path).unwrap().ino();
            let file = new(durable).put_at(&path, b"new").unwrap();
            let after = fs::metadata(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert_eq!((after.mode() & 0o7777, after.ino()), (0o640, file.metadata().unwrap().ino()));
            assert_ne!(after.ino(), before, "it is not the old one written over");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn no_link_is_followed_and_what_cannot_be_put_in_place_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("f"), dir.path().join("victim"));
        fs::write(&victim, "mine").unwrap();
        for link in ["f", "f.new"] {
            symlink(&victim, dir.path().join(link)).unwrap();
        }
        new(true).put_at(&path, b"x").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(new(false).put_at(&path, b"x").is_err());
        assert!(!dir.path().join("f.new").exists());
        assert!(new(false).put_at(&dir.path().join("no/f"), b"x").is_err());
    }
}
