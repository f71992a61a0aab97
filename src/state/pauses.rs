//! Which targets of a mirror are paused, so that a pause outlives the daemon.
//!
//! One small file of JSON per mirror ([`note`](super::note)), removed when nothing is paused any
//! more. It names, for each target, its name and URL: a pause is not carried over to another place.
//!
//! A file that cannot be read pauses every target: there was a reason to stop sending, and which
//! target was meant is not known.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::note::{Note, NoteError};

/// The file of one mirror.
#[derive(Debug, Clone)]
pub(crate) struct PauseFile(Note);

/// Paused targets, by name and URL in one string, each with the time since when, in seconds
/// since 1970.
pub(crate) type Pauses = BTreeMap<String, f64>;

#[derive(Serialize, Deserialize)]
struct Paused {
    paused: Pauses,
}

impl PauseFile {
    /// The file of `mirror` below `state_dir`. Nothing is made before there is something to save.
    pub(crate) fn new(state_dir: &Path, mirror: &str, source: &Path) -> PauseFile {
        PauseFile(Note::new(state_dir, mirror, "paused", source))
    }

    /// What an earlier run left; empty when there is nothing, or when it was about another source.
    ///
    /// # Errors
    /// [`NoteError`]: take every target for paused.
    pub(crate) fn load(&self) -> Result<Pauses, NoteError> {
        Ok(self.0.load::<Paused>()?.map(|p| p.paused).unwrap_or_default())
    }

    /// Saves; on the disk when it returns. Nothing paused: the file is removed.
    ///
    /// # Errors
    /// [`NoteError`]; what was saved before is still there then.
    pub(crate) fn save(&self, paused: &Pauses) -> Result<(), NoteError> {
        self.0.save((!paused.is_empty()).then(|| Paused { paused: paused.clone() }).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        assert!(file.load().unwrap().is_empty() && !file.0.path().exists());
    }

    #[test]
    fn what_cannot_be_understood_is_an_error_and_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = PauseFile::new(dir.path(), "m", Path::new("/s"));
        file.save(&Pauses::from([("a".to_owned(), 1.0)])).unwrap();
        let whole = fs::read(file.0.path()).unwrap();
        for cut in 0..whole.len() {
            fs::write(file.0.path(), &whole[..cut]).unwrap();
            let error = file.load().unwrap_err().to_string();
            assert!(error.contains("understand") && error.contains("paused"), "{error}");
        }
    }
}
