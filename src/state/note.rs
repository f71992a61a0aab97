//! A small file in a mirror's state directory that is put in place in one step: for decisions and
//! findings that must outlive the daemon. It names the source, so that nothing of it is carried
//! over to another tree.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use crate::sys::replace::Replace;

/// The time that a write may take; it goes to the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a note cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}; state_dir must be a directory that fansync can write")]
pub(crate) struct NoteError {
    /// `read`, `understand`, `write` or `remove`.
    pub(crate) what: &'static str,
    /// The file.
    pub(crate) path: PathBuf,
    /// Why.
    pub(crate) source: io::Error,
}

/// The file of one mirror.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    dir: PathBuf,
    name: &'static str,
    source: String,
    disk: Disk,
}

#[derive(Serialize, Deserialize)]
struct Content<T> {
    source: String,
    #[serde(flatten)]
    note: T,
}

impl Note {
    /// The file `name` of `mirror` below `state_dir`. Nothing is made before there is something to
    /// save.
    pub(crate) fn new(state_dir: &Path, mirror: &str, name: &'static str, source: &Path) -> Note {
        Note { dir: state_dir.join(mirror), name, source: source.to_string_lossy().into_owned(), disk: Disk::default() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> NoteError {
        let path = self.path();
        move |source| NoteError { what, path, source }
    }

    /// What an earlier run left; `None` when there is nothing, or when it was about another source.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, NoteError> {
        let bytes = match fs::read(self.path()) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.failed("read")(e)),
        };
        let content: Content<T> = serde_json::from_slice(&bytes).map_err(|e| self.failed("understand")(e.into()))?;
        Ok((content.source == self.source).then_some(content.note))
    }

    /// Saves; on the disk when it returns. `None`: the file is removed. After an error what was
    /// saved before is still there, or this is, where the disk did not answer in time.
    pub(crate) fn save<T: Serialize>(&self, note: Option<&T>) -> Result<(), NoteError> {
        self.put(note, true)
    }

    /// The same, but it need not be on the disk when it returns: the end of the machine may take it
    /// back.
    pub(crate) fn keep<T: Serialize>(&self, note: Option<&T>) -> Result<(), NoteError> {
        self.put(note, false)
    }

    fn put<T: Serialize>(&self, note: Option<&T>, durable: bool) -> Result<(), NoteError> {
        let path = self.path();
        let Some(note) = note else {
            return match self.disk.within_or_later(PATIENCE, move || fs::remove_file(path)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(e)),
                _ => Ok(()),
            };
        };
        let content = Content { source: self.source.clone(), note };
        let bytes = serde_json::to_vec(&content).map_err(|e| self.failed("write")(e.into()))?;
        let dir = self.dir.clone();
        self.disk.within_or_later(PATIENCE, move || put(&dir, &path, &bytes, durable)).map_err(self.failed("write"))
    }
}

/// Puts `bytes` in the place of a file of a mirror's state directory, on the disk when it returns.
pub(crate) fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(dir, path, bytes, true)
}

fn put(dir: &Path, path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let aside = path.with_extension("new");
    let new = Replace { aside: aside.file_name().unwrap_or_default(), mode: 0o600, durable };
    new.put_at(path, bytes).map(drop)
}
