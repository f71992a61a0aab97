//! Where filesystems were mounted below the source, so that one that is missing at the next start
//! is noticed: its empty mount point must not be taken for a deletion of all that was there.
//!
//! A file that cannot be read or understood is not taken for none: then it is not known what has to
//! be mounted.

use std::collections::BTreeSet;
use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize};

use super::note::{Note, NoteError};
use crate::path::RelPath;

/// The file of one mirror.
#[derive(Debug, Clone)]
pub(crate) struct MountsFile(Note);

/// Paths relative to the root, with everything but letters and digits as `%XX`: they are bytes, and
/// JSON takes characters only.
#[derive(Serialize, Deserialize)]
struct Seen {
    mounts: Vec<String>,
}

impl MountsFile {
    /// The file of `mirror` below `state_dir`. Nothing is made before there is something to save.
    pub(crate) fn new(state_dir: &Path, mirror: &str, source: &Path) -> MountsFile {
        MountsFile(Note::new(state_dir, mirror, "mounts", source))
    }

    /// What an earlier run saved; empty when there is nothing, or when it was about another source.
    ///
    /// # Errors
    /// [`NoteError`]: it is not known what was mounted.
    pub(crate) fn load(&self) -> Result<BTreeSet<RelPath>, NoteError> {
        let seen = self.0.load::<Seen>()?.map(|s| s.mounts).unwrap_or_default();
        Ok(seen.iter().filter_map(|m| RelPath::new(&percent_decode_str(m).collect::<Vec<u8>>())).collect())
    }

    /// Saves; on the disk when it returns. Nothing mounted: the file is removed.
    ///
    /// # Errors
    /// [`NoteError`]; what was saved before is still there then.
    pub(crate) fn save(&self, mounts: &BTreeSet<RelPath>) -> Result<(), NoteError> {
        let encoded = || mounts.iter().map(|m| percent_encode(m, NON_ALPHANUMERIC).to_string()).collect();
        self.0.save((!mounts.is_empty()).then(|| Seen { mounts: encoded() }).as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_byte_for_byte_until_nothing_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let file = MountsFile::new(dir.path(), "m", Path::new("/srv/web"));
        assert!(file.load().unwrap().is_empty());
        let mounts: BTreeSet<RelPath> =
            [&b"a/b c"[..], b"\xff\n%41", "gr\u{fc}n".as_bytes()].iter().filter_map(|m| RelPath::new(m)).collect();
        file.save(&mounts).unwrap();
        assert_eq!(file.load().unwrap(), mounts);
        assert!(MountsFile::new(dir.path(), "m", Path::new("/srv/other")).load().unwrap().is_empty());
        file.save(&BTreeSet::new()).unwrap();
        assert!(file.load().unwrap().is_empty());
    }
}
