//! Which targets of a mirror were told to pause, so that a pause outlives the daemon.
//!
//! One small file of JSON per mirror, put in place in one step, removed when nothing is paused any more. It names the source and,
//! for each target, its name and URL: a pause is not carried over to another tree or another place.
//!
//! A file that cannot be read pauses every target: somebody had a reason to stop sending, and which target was meant is not known.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Why pauses cannot be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}; state_dir must be a directory that fansync can write")]
pub struct PauseError {
    /// `read`, `understand`, `write` or `remove`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The file of one mirror.
#[derive(Debug, Clone)]
pub struct PauseFile {
    dir: PathBuf,
    source: String,
}

/// Paused targets, by name and URL in one string, each with the time since when, in seconds since 1970.
pub type Pauses = BTreeMap<String, f64>;

#[derive(Serialize, Deserialize)]
struct Content {
    source: String,
    paused: Pauses,
}

impl PauseFile {
    /// The file of `mirror` below `state_dir`. Nothing is made before there is something to save.
    pub fn new(state_dir: &Path, mirror: &str, source: &Path) -> PauseFile {
        PauseFile { dir: state_dir.join(mirror), source: source.to_string_lossy().into_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("paused")
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> PauseError {
        let path = self.path();
        move |source| PauseError { what, path, source }
    }

    /// What an earlier run left; empty when there is nothing, or when it was about another source.
    ///
    /// # Errors
    /// [`PauseError`]: take every target for paused.
    pub fn load(&self) -> Result<Pauses, PauseError> {
        let bytes = match fs::read(self.path()) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Pauses::new()),
            Err(e) => return Err(self.failed("read")(e)),
        };
        let content: Content = serde_json::from_slice(&bytes).map_err(|e| self.failed("understand")(e.into()))?;
        Ok(if content.source == self.source { content.paused } else { Pauses::new() })
    }

    /// Saves; on the disk when it returns. Nothing paused: the file is removed.
    ///
    /// # Errors
    /// [`PauseError`]; what was saved before is still there then.
    pub fn save(&self, paused: &Pauses) -> Result<(), PauseError> {
        if paused.is_empty() {
            return match fs::remove_file(self.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(e)),
                _ => Ok(()),
            };
        }
        self.replace(paused).map_err(self.failed("write"))
    }

    fn replace(&self, paused: &Pauses) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let new = self.dir.join("paused.new");
        let flags = libc::O_NOFOLLOW;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(&new)?;
        file.write_all(&serde_json::to_vec(&Content { source: self.source.clone(), paused: paused.clone() })?)?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_for_the_same_source_until_nothing_is_paused() {
        let dir = tempfile::tempdir().unwrap();
        let file = PauseFile::new(dir.path(), "m", Path::new("/srv/web"));
        assert!(file.load().unwrap().is_empty());
        file.save(&Pauses::new()).unwrap();
        let paused = Pauses::from([("a rsync://h/m".to_owned(), 12.5)]);
        file.save(&paused).unwrap();
        assert_eq!(file.load().unwrap(), paused);
        assert!(PauseFile::new(dir.path(), "m", Path::new("/srv/other")).load().unwrap().is_empty());
        file.save(&Pauses::new()).unwrap();
        assert!(file.load().unwrap().is_empty() && !file.path().exists());
    }

    #[test]
    fn what_cannot_be_understood_is_an_error_and_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = PauseFile::new(dir.path(), "m", Path::new("/s"));
        file.save(&Pauses::from([("a".to_owned(), 1.0)])).unwrap();
        let whole = fs::read(file.path()).unwrap();
        for cut in 0..whole.len() {
            fs::write(file.path(), &whole[..cut]).unwrap();
            let told = file.load().unwrap_err().to_string();
            assert!(told.contains("understand") && told.contains("paused"), "{told}");
        }
    }
}
