//! The state file in its directory: locked, replaced whole, appended to.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StateError;

const FILE: &str = "state";
const NEW: &str = "state.new";
const LOCK: &str = "lock";
const UNSENT: &str = "unsent";

/// Beyond this many bytes appended, and beyond its size when it was written whole, the file is written whole again.
const MIN_APPENDED: u64 = 1 << 20;

/// A mirror's directory below the state directory, held for this process alone.
pub(super) struct StateFile {
    dir: PathBuf,
    /// Freed when the process ends, however it ends.
    _lock: Flock<File>,
    file: Option<File>,
    whole: u64,
    len: u64,
}

impl StateFile {
    /// Takes `dir/mirror`, made if need be, readable by its owner alone.
    pub(super) fn open(dir: &Path, mirror: &str) -> Result<StateFile, StateError> {
        let own = dir.join(mirror);
        let failed = |source| StateError::Directory { path: own.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&own).map_err(failed)?;
        std::fs::set_permissions(&own, Permissions::from_mode(0o700)).map_err(failed)?;
        let path = own.join(LOCK);
        let lock = open(&path, true).map_err(|source| StateError::Directory { path: path.clone(), source })?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(StateError::Locked { path }),
            Err((_, errno)) => return Err(StateError::Directory { path, source: errno.into() }),
        };
        Ok(StateFile { dir: own, _lock: lock, file: None, whole: 0, len: 0 })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// What an earlier run left; `None` when there is none.
    pub(super) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match open(&self.path(), false) {
            Ok(mut file) => file.read_to_end(&mut bytes).map(|_| Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts `bytes` in the place of the file, in one step. `durable`: the old content cannot come back after a power cut.
    pub(super) fn replace(&mut self, bytes: &[u8], durable: bool) -> Result<(), StateError> {
        let path = self.dir.join(NEW);
        self.try_replace(&path, bytes, durable).map_err(|source| StateError::Write { path, source })
    }

    fn try_replace(&mut self, new: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let file = open(new, true)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(new, self.path())?;
        if durable {
            File::open(&self.dir)?.sync_all()?;
            // The directory itself may be new.
            if let Some(above) = self.dir.parent() {
                File::open(above)?.sync_all()?;
            }
        }
        (self.file, self.whole, self.len) = (Some(file), bytes.len() as u64, bytes.len() as u64);
        Ok(())
    }

    /// Appends; the end of a process loses nothing of it, a power cut may. After an error the file is as before.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path();
        let failed = |source| StateError::Write { path: path.clone(), source };
        let Some(file) = &self.file else { return Err(failed(Errno::EBADF.into())) };
        // At its own place and not at the end: what an attempt that failed left behind is written over, or its checksum
        // ends the reading there.
        file.write_all_at(bytes, self.len).map_err(failed)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off what a failed attempt left behind the end, and waits until the disk has everything.
    pub(super) fn finish(&mut self) -> Result<(), StateError> {
        let path = self.path();
        let failed = |source| StateError::Write { path, source };
        let Some(file) = &self.file else { return Err(failed(Errno::EBADF.into())) };
        file.set_len(self.len).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Whether so much was appended that the file should be written whole.
    pub(super) fn is_long(&self) -> bool {
        self.len - self.whole > MIN_APPENDED.max(self.whole)
    }

    /// Leaves a mark beside the file, on the disk when this returns; whether there was one already.
    pub(super) fn mark(&self) -> Result<bool, StateError> {
        let path = self.dir.join(UNSENT);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|_| File::open(&self.dir)?.sync_all());
        match made {
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            Err(source) => Err(StateError::Write { path, source }),
            Ok(()) => Ok(false),
        }
    }

    /// Takes the mark away.
    pub(super) fn unmark(&self) -> Result<(), StateError> {
        let path = self.dir.join(UNSENT);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Write { path, source }),
            _ => Ok(()),
        }
    }

    /// Removes the file.
    pub(super) fn remove(&mut self) -> Result<(), StateError> {
        let path = self.path();
        self.file = None;
        match std::fs::remove_file(&path).and_then(|()| File::open(&self.dir)?.sync_all()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Write { path, source }),
            _ => Ok(()),
        }
    }
}

fn open(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .create(write)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}
