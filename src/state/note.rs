//! A small file in a mirror's state directory that is put in place in one step: for what somebody decided or what was seen, and must
//! outlive the daemon. It names the source, so that nothing of it is carried over to another tree.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Why a note cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}; state_dir must be a directory that fansync can write")]
pub struct NoteError {
    /// `read`, `understand`, `write` or `remove`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The file of one mirror.
#[derive(Debug, Clone)]
pub(super) struct Note {
    dir: PathBuf,
    name: &'static str,
    source: String,
}

#[derive(Serialize, Deserialize)]
struct Content<T> {
    source: String,
    #[serde(flatten)]
    note: T,
}

impl Note {
    /// The file `name` of `mirror` below `state_dir`. Nothing is made before there is something to save.
    pub(super) fn new(state_dir: &Path, mirror: &str, name: &'static str, source: &Path) -> Note {
        Note { dir: state_dir.join(mirror), name, source: source.to_string_lossy().into_owned() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> NoteError {
        let path = self.path();
        move |source| NoteError { what, path, source }
    }

    /// What an earlier run left; `None` when there is nothing, or when it was about another source.
    pub(super) fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, NoteError> {
        let bytes = match fs::read(self.path()) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.failed("read")(e)),
        };
        let content: Content<T> = serde_json::from_slice(&bytes).map_err(|e| self.failed("understand")(e.into()))?;
        Ok((content.source == self.source).then_some(content.note))
    }

    /// Saves; on the disk when it returns. `None`: the file is removed. After an error what was saved before is still there.
    pub(super) fn save<T: Serialize>(&self, note: Option<&T>) -> Result<(), NoteError> {
        match note {
            Some(note) => self.replace(note).map_err(self.failed("write")),
            None => match fs::remove_file(self.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(e)),
                _ => Ok(()),
            },
        }
    }

    fn replace<T: Serialize>(&self, note: &T) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let new = self.dir.join(format!("{}.new", self.name));
        let flags = libc::O_NOFOLLOW;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(&new)?;
        file.write_all(&serde_json::to_vec(&Content { source: self.source.clone(), note })?)?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        File::open(&self.dir)?.sync_all()
    }
}
