//! Which targets of a mirror a run of it has filled, so that a restart need not check again.
//!
//! One small file of JSON per mirror ([`note`](super::note)). It names, for each target, its name
//! and URL: another place is another target.
//!
//! A file that cannot be read names none: then a comparison checks once more.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::note::{Note, NoteError};

/// The file of one mirror.
#[derive(Debug, Clone)]
pub(crate) struct FilledFile(Note);

#[derive(Serialize, Deserialize)]
struct Filled {
    filled: BTreeSet<String>,
}

impl FilledFile {
    /// The file of `mirror` below `state_dir`. Nothing is made before there is something to save.
    pub(crate) fn new(state_dir: &Path, mirror: &str, source: &Path) -> FilledFile {
        FilledFile(Note::new(state_dir, mirror, "filled", source))
    }

    /// What an earlier run left, by name and URL in one string; empty when there is nothing, or
    /// when it was about another source.
    ///
    /// # Errors
    /// [`NoteError`]: take none for filled.
    pub(crate) fn load(&self) -> Result<BTreeSet<String>, NoteError> {
        Ok(self.0.load::<Filled>()?.map(|f| f.filled).unwrap_or_default())
    }

    /// Saves; on the disk when it returns.
    ///
    /// # Errors
    /// [`NoteError`]; what was saved before is still there then.
    pub(crate) fn save(&self, filled: &BTreeSet<String>) -> Result<(), NoteError> {
        self.0.save((!filled.is_empty()).then(|| Filled { filled: filled.clone() }).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_for_the_same_source() {
        let dir = tempfile::tempdir().unwrap();
        let file = FilledFile::new(dir.path(), "m", Path::new("/srv/web"));
        assert!(file.load().unwrap().is_empty());
        let filled = BTreeSet::from(["a rsync://h/m".to_owned()]);
        file.save(&filled).unwrap();
        assert_eq!(file.load().unwrap(), filled);
        assert!(FilledFile::new(dir.path(), "m", Path::new("/srv/other")).load().unwrap().is_empty());
    }
}
