//! Files that were written and wait to be sent. After a restart a walk by change times does not find
//! those that changed long before their closing write: a program stored to them through a mapping,
//! or had them open for long. A comparison by size and mtime does not find those in which both are
//! as before.
//!
//! One small file of JSON per mirror ([`note`](super::note)), removed when there are none.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::note::{Note, NoteError};
use crate::path::RelPath;

/// The file of one mirror.
#[derive(Debug, Clone)]
pub(crate) struct WrittenFile(Note);

#[derive(Serialize, Deserialize)]
struct Written {
    /// In base64: names are bytes.
    written: Vec<String>,
}

impl WrittenFile {
    /// The file of `mirror` below `state_dir`. Nothing is made before there is something to save.
    pub(crate) fn new(state_dir: &Path, mirror: &str, source: &Path) -> WrittenFile {
        WrittenFile(Note::new(state_dir, mirror, "written", source))
    }

    /// What an earlier run left, relative to the source; empty when there is nothing, or when it
    /// was about another source. What is no path is left out.
    ///
    /// # Errors
    /// [`NoteError`].
    pub(crate) fn load(&self) -> Result<BTreeSet<RelPath>, NoteError> {
        let written = self.0.load::<Written>()?.map(|w| w.written).unwrap_or_default();
        Ok(written.iter().filter_map(|path| RelPath::new(&BASE64.decode(path).ok()?)).collect())
    }

    /// Saves. No paths: the file is removed. `durable`: on the disk when it returns; else it
    /// outlives the process.
    ///
    /// # Errors
    /// [`NoteError`]; what was saved before is still there then.
    pub(crate) fn save(&self, paths: &BTreeSet<RelPath>, durable: bool) -> Result<(), NoteError> {
        let written: Vec<String> = paths.iter().map(|path| BASE64.encode(&**path)).collect();
        let note = (!written.is_empty()).then_some(Written { written });
        if durable { self.0.save(note.as_ref()) } else { self.0.keep(note.as_ref()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_come_back_for_the_same_source() {
        let dir = tempfile::tempdir().unwrap();
        let file = WrittenFile::new(dir.path(), "m", Path::new("/srv/web"));
        assert!(file.load().unwrap().is_empty());
        let paths: BTreeSet<RelPath> = [&b"a/b"[..], b"\xff\n\"", b"d"].iter().map(|p| RelPath::new(p).unwrap()).collect();
        file.save(&paths, true).unwrap();
        assert_eq!(file.load().unwrap(), paths);
        assert!(WrittenFile::new(dir.path(), "m", Path::new("/srv/other")).load().unwrap().is_empty());
        std::fs::write(file.0.path(), r#"{"source":"/srv/web","written":["Li4vZQ==","%","ZA=="]}"#).unwrap();
        assert_eq!(file.load().unwrap(), [RelPath::new(b"d").unwrap()].into(), "neither ../e nor what is no base64");
        file.save(&BTreeSet::new(), false).unwrap();
        assert!(file.load().unwrap().is_empty() && !file.0.path().exists());
    }
}
