//! The state file in its directory: locked, replaced whole, appended to.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StateError;
use super::disk::Disk;
use crate::sys::replace::Replace;

const FILE: &str = "state";
const NEW: &str = "state.new";
const LOCK: &str = "lock";
const UNSENT: &str = "unsent";

/// The time that a write may take: while the mirror runs, at its start, and at its end.
const PATIENCE: Duration = Duration::from_millis(500);
const START_PATIENCE: Duration = Duration::from_secs(30);
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How long the lock is waited for, and how often it is tried.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Beyond this many bytes appended, and beyond its size when it was written whole, the file is
/// written whole again.
const MIN_APPENDED: u64 = 1 << 20;

/// A mirror's directory below the state directory, held for this process alone.
pub(super) struct StateFile {
    dir: PathBuf,
    /// Freed when the process ends, however it ends.
    _lock: Flock<File>,
    file: Option<Arc<File>>,
    disk: Disk,
    whole: u64,
    len: u64,
}

impl StateFile {
    /// Takes `dir/mirror`, made if need be, readable by its owner alone.
    pub(super) fn open(dir: &Path, mirror: &str) -> Result<StateFile, StateError> {
        let own = dir.join(mirror);
        let failed = |source| StateError::Directory { path: own.clone(), source };
        // Nothing of the way may be for others to change: what is written here would go where they
        // like, and what is read be theirs.
        let place = crate::trust::make_directory(&own, 0o700).map_err(|error| failed(error.into()))?;
        place.set_mode(0o700).map_err(failed)?;
        let path = own.join(LOCK);
        let lock = open(&path, true).map_err(|source| StateError::Directory { path: path.clone(), source })?;
        let began = Instant::now();
        let mut lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock);
        while let Err((file, Errno::EWOULDBLOCK)) = lock {
            // A process that a killed daemon was about to start may still hold it for a moment.
            if began.elapsed() > LOCK_PATIENCE {
                return Err(StateError::Locked { path });
            }
            std::thread::sleep(LOCK_LOOK);
            lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        }
        let lock = lock.map_err(|(_, errno)| StateError::Directory { path, source: errno.into() })?;
        Ok(StateFile { dir: own, _lock: lock, file: None, disk: Disk::default(), whole: 0, len: 0 })
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

    /// Puts `bytes` in the place of the file, in one step. `durable`: the old content cannot come
    /// back after a power cut.
    pub(super) fn replace(&mut self, bytes: Vec<u8>, durable: bool) -> Result<(), StateError> {
        let (dir, len) = (self.dir.clone(), bytes.len() as u64);
        let patience = if durable { START_PATIENCE } else { PATIENCE };
        let put = move || replace(&dir, &bytes, durable);
        let failed = |source| StateError::Write { path: self.dir.join(NEW), source };
        let file = self.disk.within(patience, put).map_err(failed)?;
        (self.file, self.whole, self.len) = (Some(Arc::new(file)), len, len);
        Ok(())
    }

    /// Appends; the end of a process loses nothing of it, a power cut may. After an error the file
    /// is as before, or has it later.
    pub(super) fn append(&mut self, bytes: Vec<u8>) -> Result<(), StateError> {
        let path = self.path();
        let failed = |source| StateError::Write { path, source };
        let Some(file) = self.file.clone() else { return Err(failed(Errno::EBADF.into())) };
        let (at, len) = (self.len, bytes.len() as u64);
        // At its own place and not at the end: what an attempt that failed left behind is written
        // over, or its checksum ends the reading there.
        self.disk.within(PATIENCE, move || file.write_all_at(&bytes, at)).map_err(failed)?;
        self.len += len;
        Ok(())
    }

    /// Cuts off what a failed attempt left behind the end, and waits until the disk has everything.
    pub(super) fn finish(&mut self) -> Result<(), StateError> {
        let path = self.path();
        let failed = |source| StateError::Write { path, source };
        let Some(file) = self.file.clone() else { return Err(failed(Errno::EBADF.into())) };
        let len = self.len;
        self.disk.within(END_PATIENCE, move || file.set_len(len).and_then(|()| file.sync_all())).map_err(failed)
    }

    /// Whether a write has not come back.
    pub(super) fn is_stuck(&self) -> bool {
        self.disk.is_stuck()
    }

    /// Whether so much was appended that the file should be written whole.
    pub(super) fn is_long(&self) -> bool {
        self.len - self.whole > MIN_APPENDED.max(self.whole)
    }

    /// Leaves a mark beside the file, on the disk when this returns; whether there was one already.
    pub(super) fn mark(&self) -> Result<bool, StateError> {
        let (path, dir) = (self.dir.join(UNSENT), self.dir.clone());
        let make = {
            let path = path.clone();
            move || {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
                File::open(&dir)?.sync_all()
            }
        };
        match self.disk.within(START_PATIENCE, make) {
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            Err(source) => Err(StateError::Write { path, source }),
            Ok(()) => Ok(false),
        }
    }

    /// Takes the mark away.
    pub(super) fn unmark(&self) -> Result<(), StateError> {
        let path = self.dir.join(UNSENT);
        let gone = path.clone();
        match self.disk.within(END_PATIENCE, move || std::fs::remove_file(gone)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Write { path, source }),
            _ => Ok(()),
        }
    }

    pub(super) fn remove(&mut self) -> Result<(), StateError> {
        let (path, dir) = (self.path(), self.dir.clone());
        self.file = None;
        let gone = path.clone();
        let remove = move || std::fs::remove_file(gone).and_then(|()| File::open(dir)?.sync_all());
        match self.disk.within(START_PATIENCE, remove) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Write { path, source }),
            _ => Ok(()),
        }
    }
}

fn replace(dir: &Path, bytes: &[u8], durable: bool) -> io::Result<File> {
    let new = Replace { aside: NEW.as_ref(), mode: 0o600, durable };
    let file = new.put_at(&dir.join(FILE), bytes)?;
    // The directory itself may be new.
    if let Some(above) = dir.parent().filter(|_| durable) {
        File::open(above)?.sync_all()?;
    }
    Ok(file)
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
